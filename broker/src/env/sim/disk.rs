//! The virtual disk.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::file::{SimFile, SimLock};
use super::node::Node;
use super::{SplitMix, Trace};
use crate::env::{DirEntry, Fs};

/// A disk in memory that keeps two images: what programs see, and what a crash leaves. Clones share the disk.
///
/// A write is durable once its file is synced, a name once its directory is. [`SimFs::crash`] keeps an arbitrary
/// subset of everything that is not: of writes by sector, of lengths, of names. Files opened before a crash fail.
#[derive(Clone)]
pub struct SimFs {
    pub(super) disk: Arc<Mutex<Disk>>,
}

#[derive(Clone, Debug)]
pub(super) struct Disk {
    pub(super) rng: SplitMix,
    pub(super) nodes: BTreeMap<u64, Node>,
    pub(super) live: BTreeMap<PathBuf, Entry>,
    /// By directory and name: a new directory is another one than an old one of the same name.
    pub(super) durable: BTreeMap<(u64, String), Entry>,
    /// Changes of names that are not durable, oldest first.
    pub(super) name_changes: Vec<NameChange>,
    pub(super) next_node: u64,
    /// Rises with each crash; files of an earlier one fail.
    pub(super) life: u64,
    pub(super) locks: BTreeSet<PathBuf>,
    pub(super) capacity: Option<u64>,
    pub(super) used: u64,
    pub(super) writes: u64,
    pub(super) syncs: u64,
    pub(super) reads: u64,
    /// Errors given out so far.
    pub(super) troubles: u64,
    pub(super) fail_read_at: Option<u64>,
    pub(super) spares_reads: bool,
    pub(super) misdirect_write_at: Option<u64>,
    pub(super) fail_write_at: Option<u64>,
    pub(super) fill_write_at: Option<u64>,
    pub(super) fail_sync_at: Option<u64>,
    /// Kind of error of every sync of a directory.
    pub(super) fail_dir_syncs: Option<ErrorKind>,
    /// Parts of files that cannot be read: first byte and the one after the last.
    pub(super) bad: Vec<(PathBuf, u64, u64)>,
    /// Whether every change fails as on a file system that was remounted read-only.
    pub(super) read_only: bool,
    /// Changes (of names, lengths, bytes, durability) that the power still lasts for.
    pub(super) power: Option<u64>,
    pub(super) trace: Option<Trace>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Entry {
    Dir(u64),
    File(u64),
}

/// Number of the root directory.
const ROOT: u64 = 0;

#[derive(Clone, Debug)]
pub(super) struct NameChange {
    remove: Option<(u64, String)>,
    add: Option<((u64, String), Entry)>,
}

impl NameChange {
    /// Whether a sync of the directory makes it durable.
    fn is_in(&self, dir: u64) -> bool {
        let added = self.add.as_ref().map(|(place, _)| place);
        [self.remove.as_ref(), added]
            .into_iter()
            .flatten()
            .any(|place| place.0 == dir)
    }
}

impl Disk {
    /// Makes a change of names durable.
    fn apply(&mut self, change: NameChange) {
        if let Some(place) = &change.remove {
            self.durable.remove(place);
        }
        if let Some((place, entry)) = change.add {
            self.durable.insert(place, entry);
        }
    }

    /// The directory of a path, and the name in it.
    fn place(&self, path: &Path) -> io::Result<(u64, String)> {
        let (Some(dir), Some(name)) = (path.parent(), path.file_name().and_then(|name| name.to_str())) else {
            return Err(ErrorKind::InvalidInput.into());
        };
        Ok((self.dir(dir)?, name.to_owned()))
    }

    fn dir(&self, path: &Path) -> io::Result<u64> {
        match self.live.get(path) {
            _ if path == Path::new("/") => Ok(ROOT),
            Some(Entry::Dir(id)) => Ok(*id),
            Some(Entry::File(_)) => Err(ErrorKind::NotADirectory.into()),
            None => Err(ErrorKind::NotFound.into()),
        }
    }

    fn add_name(&mut self, path: &Path, entry: Entry) -> io::Result<()> {
        let add = Some((self.place(path)?, entry));
        self.live.insert(path.to_owned(), entry);
        self.name_changes.push(NameChange { remove: None, add });
        Ok(())
    }

    fn remove_name(&mut self, path: &Path) -> io::Result<()> {
        let remove = Some(self.place(path)?);
        self.live.remove(path);
        self.name_changes.push(NameChange { remove, add: None });
        Ok(())
    }

    fn new_number(&mut self) -> u64 {
        self.next_node += 1;
        self.next_node
    }

    /// Fills `live` with what is durable in a directory.
    fn revive(&mut self, id: u64, path: &Path) {
        let inside: Vec<(String, Entry)> = self
            .durable
            .range((id, String::new())..(id + 1, String::new()))
            .map(|((_, name), entry)| (name.clone(), *entry))
            .collect();
        for (name, entry) in inside {
            let path = path.join(name);
            if let Entry::Dir(id) = entry {
                self.revive(id, &path);
            }
            self.live.insert(path, entry);
        }
    }

    /// Uses power for one change; an error once there is none.
    pub(super) fn use_power(&mut self) -> io::Result<()> {
        if self.read_only {
            return Err(ErrorKind::ReadOnlyFilesystem.into());
        }
        match &mut self.power {
            None => Ok(()),
            Some(0) => {
                self.troubles += 1;
                self.tell(format_args!("no power"));
                Err(io::Error::other("simulated power cut"))
            }
            Some(left) => {
                *left -= 1;
                Ok(())
            }
        }
    }

    pub(super) fn node(&mut self, id: u64) -> io::Result<&mut Node> {
        self.nodes.get_mut(&id).ok_or_else(|| ErrorKind::NotFound.into())
    }

    /// Tells what happens, if anybody wants to know.
    pub(super) fn tell(&self, what: std::fmt::Arguments<'_>) {
        if let Some(trace) = self.trace {
            trace(format_args!("    disk: {what}"));
        }
    }

    /// The same of a file.
    pub(super) fn tell_of(&self, node: u64, what: std::fmt::Arguments<'_>) {
        if self.trace.is_some() {
            let is_named = |(_, entry): &(&PathBuf, &Entry)| **entry == Entry::File(node);
            let path = self
                .live
                .iter()
                .find(is_named)
                .map(|(path, _)| path.display().to_string());
            self.tell(format_args!(
                "{} {what}",
                path.unwrap_or_else(|| format!("#{node}"))
            ));
        }
    }

    /// Whether a file may grow by `bytes`; counts them.
    pub(super) fn take_room(&mut self, bytes: u64) -> io::Result<()> {
        if self.capacity.is_some_and(|capacity| self.used + bytes > capacity) {
            self.troubles += 1;
            self.tell(format_args!("is full"));
            return Err(ErrorKind::StorageFull.into());
        }
        self.used += bytes;
        Ok(())
    }

    /// Counts a sync; an error if it is the one that is to fail.
    pub(super) fn count_sync(&mut self) -> io::Result<()> {
        self.syncs += 1;
        if self.fail_sync_at == Some(self.syncs) {
            self.troubles += 1;
            self.tell(format_args!("the next sync fails"));
            Err(io::Error::other("simulated sync failure"))
        } else {
            Ok(())
        }
    }

    /// Whether a part of a file has bytes that cannot be read.
    pub(super) fn is_bad(&self, node: u64, offset: u64, len: u64) -> bool {
        self.bad.iter().any(|(path, first, end)| {
            self.live.get(path) == Some(&Entry::File(node)) && *first < offset + len && offset < *end
        })
    }

    pub(super) fn crash(&mut self, seed: u64) {
        let mut rng = SplitMix::new(seed);
        let percent = [0, 20, 50, 80, 100][rng.below(5) as usize];
        self.tell(format_args!("crash, keeps {percent} % of what is not durable"));
        for change in std::mem::take(&mut self.name_changes) {
            let is_kept = rng.chance(percent);
            self.tell(format_args!(
                "{} {change:?}",
                if is_kept { "keeps" } else { "loses" }
            ));
            if is_kept {
                self.apply(change);
            }
        }
        if self.trace.is_some() {
            for (id, node) in &self.nodes {
                if node.is_pending() {
                    self.tell_of(*id, format_args!("had {}", node.pending_text()));
                }
            }
        }
        self.live.clear();
        self.revive(ROOT, Path::new("/"));
        for node in self.nodes.values_mut() {
            node.settle_by_chance(percent, &mut rng);
            node.live.clone_from(&node.durable);
        }
        let linked: BTreeSet<u64> = self
            .live
            .values()
            .filter_map(|entry| {
                if let Entry::File(id) = entry {
                    Some(*id)
                } else {
                    None
                }
            })
            .collect();
        self.nodes.retain(|id, _| linked.contains(id));
        self.used = self.nodes.values().map(|node| node.live.len() as u64).sum();
        self.end_life();
    }

    pub(super) fn end_life(&mut self) {
        self.locks.clear();
        self.life += 1;
        self.fail_read_at = None;
        self.misdirect_write_at = None;
        self.fail_write_at = None;
        self.fill_write_at = None;
        self.fail_sync_at = None;
        self.fail_dir_syncs = None;
        self.bad.clear();
        self.read_only = false;
        self.power = None;
    }
}

impl SimFs {
    /// An empty disk of unlimited size. `seed` drives what failed writes and syncs leave behind.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        let disk = Disk {
            rng: SplitMix::new(seed),
            nodes: BTreeMap::new(),
            live: BTreeMap::new(),
            durable: BTreeMap::new(),
            name_changes: Vec::new(),
            next_node: ROOT,
            life: 1,
            locks: BTreeSet::new(),
            capacity: None,
            used: 0,
            writes: 0,
            syncs: 0,
            reads: 0,
            troubles: 0,
            fail_read_at: None,
            spares_reads: false,
            misdirect_write_at: None,
            fail_write_at: None,
            fill_write_at: None,
            fail_sync_at: None,
            fail_dir_syncs: None,
            bad: Vec::new(),
            read_only: false,
            power: None,
            trace: None,
        };
        Self {
            disk: Arc::new(Mutex::new(disk)),
        }
    }

    pub(super) fn disk(&self) -> MutexGuard<'_, Disk> {
        self.disk.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Fs for SimFs {
    type File = SimFile;
    type Lock = SimLock;

    fn create(&self, path: &Path) -> io::Result<SimFile> {
        let mut disk = self.disk();
        disk.use_power()?;
        if disk.live.contains_key(path) {
            return Err(ErrorKind::AlreadyExists.into());
        }
        disk.place(path)?;
        let node = disk.new_number();
        disk.nodes.insert(node, Node::default());
        disk.add_name(path, Entry::File(node))?;
        disk.tell(format_args!("create {}", path.display()));
        Ok(SimFile {
            fs: self.clone(),
            node,
            life: disk.life,
        })
    }

    fn open(&self, path: &Path) -> io::Result<SimFile> {
        if self.disk().read_only {
            return Err(ErrorKind::ReadOnlyFilesystem.into());
        }
        self.open_read(path)
    }

    fn open_read(&self, path: &Path) -> io::Result<SimFile> {
        let disk = self.disk();
        match disk.live.get(path) {
            Some(Entry::File(node)) => Ok(SimFile {
                fs: self.clone(),
                node: *node,
                life: disk.life,
            }),
            Some(Entry::Dir(_)) => Err(ErrorKind::IsADirectory.into()),
            None => Err(ErrorKind::NotFound.into()),
        }
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut disk = self.disk();
        disk.use_power()?;
        let Some(entry) = disk.live.get(from).copied() else {
            return Err(ErrorKind::NotFound.into());
        };
        let change = NameChange {
            remove: Some(disk.place(from)?),
            add: Some((disk.place(to)?, entry)),
        };
        disk.tell(format_args!("rename {} to {}", from.display(), to.display()));
        disk.live.remove(from);
        disk.live.insert(to.to_owned(), entry);
        disk.name_changes.push(change);
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut disk = self.disk();
        disk.use_power()?;
        let Some(Entry::File(id)) = disk.live.get(path).copied() else {
            return Err(ErrorKind::NotFound.into());
        };
        let freed = disk.nodes.get(&id).map_or(0, |node| node.live.len() as u64);
        disk.used = disk.used.saturating_sub(freed);
        disk.tell(format_args!("remove {}", path.display()));
        disk.remove_name(path)
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        let mut disk = self.disk();
        disk.use_power()?;
        disk.dir(path)?;
        if disk.live.keys().any(|other| other.parent() == Some(path)) {
            return Err(ErrorKind::DirectoryNotEmpty.into());
        }
        disk.remove_name(path)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<DirEntry>> {
        let disk = self.disk();
        disk.dir(dir)?;
        let mut entries = Vec::new();
        for (path, entry) in disk
            .live
            .range(dir.to_owned()..)
            .skip_while(|(path, _)| *path == dir)
        {
            if !path.starts_with(dir) {
                break;
            }
            if path.parent() == Some(dir)
                && let Some(name) = path.file_name().and_then(|name| name.to_str())
            {
                entries.push(DirEntry {
                    name: name.to_owned(),
                    is_dir: matches!(entry, Entry::Dir(_)),
                });
            }
        }
        entries.sort_unstable();
        Ok(entries)
    }

    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        let mut disk = self.disk();
        disk.use_power()?;
        let mut missing = Vec::new();
        let mut at = dir;
        while disk.dir(at).is_err() {
            missing.push(at.to_owned());
            let Some(parent) = at.parent() else { break };
            at = parent;
        }
        for dir in missing.into_iter().rev() {
            let id = disk.new_number();
            disk.add_name(&dir, Entry::Dir(id))?;
        }
        Ok(())
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let mut disk = self.disk();
        disk.use_power()?;
        disk.count_sync()?;
        if let Some(kind) = disk.fail_dir_syncs {
            return Err(kind.into());
        }
        let id = disk.dir(dir)?;
        disk.tell(format_args!("sync directory {}", dir.display()));
        for change in std::mem::take(&mut disk.name_changes) {
            if change.is_in(id) {
                disk.apply(change);
            } else {
                disk.name_changes.push(change);
            }
        }
        Ok(())
    }

    fn sync_all(&self, _dir: &Path) -> io::Result<()> {
        let mut disk = self.disk();
        disk.use_power()?;
        disk.count_sync()?;
        disk.tell(format_args!("sync all"));
        for change in std::mem::take(&mut disk.name_changes) {
            disk.apply(change);
        }
        disk.nodes.values_mut().for_each(Node::sync);
        Ok(())
    }

    fn free_bytes(&self, _dir: &Path) -> io::Result<u64> {
        let disk = self.disk();
        Ok(disk
            .capacity
            .map_or(u64::MAX, |capacity| capacity.saturating_sub(disk.used)))
    }

    fn lock(&self, path: &Path) -> io::Result<Option<SimLock>> {
        let mut disk = self.disk();
        if !disk.locks.insert(path.to_owned()) {
            return Ok(None);
        }
        Ok(Some(SimLock {
            fs: self.clone(),
            path: path.to_owned(),
            life: disk.life,
        }))
    }

    fn background(&self) -> bool {
        false
    }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
