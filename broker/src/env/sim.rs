//! A virtual clock, generator and disk, all driven by seed.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{Clock, DirEntry, Fs, FsFile, Rng};
use crate::types::{MonoNanos, UnixNanos};

/// Unsynced writes survive a crash in pieces of this size.
pub const SECTOR_BYTES: usize = 512;

/// `SplitMix64`: small, fast, good enough for salts and simulations. Not for keys.
#[derive(Clone, Debug)]
pub struct SplitMix {
    state: u64,
}

impl SplitMix {
    /// A generator that gives the same numbers for the same seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self { state: seed }
    }

    /// A number below `bound`; 0 if `bound` is 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        if bound == 0 { 0 } else { self.next_u64() % bound }
    }

    /// True in `percent` of 100 cases.
    pub fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }
}

impl Rng for SplitMix {
    fn next_u64(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

/// A clock that moves only when told to. Clones show the same time.
#[derive(Clone, Debug, Default)]
pub struct SimClock {
    time: Arc<Mutex<(UnixNanos, MonoNanos)>>,
}

impl SimClock {
    /// A clock that shows `now`.
    #[must_use]
    pub fn new(now: UnixNanos) -> Self {
        Self { time: Arc::new(Mutex::new((now, MonoNanos(0)))) }
    }

    /// Lets `nanos` pass.
    pub fn advance(&self, nanos: u64) {
        let mut time = self.time.lock().unwrap_or_else(PoisonError::into_inner);
        time.0 = time.0.saturating_add(i64::try_from(nanos).unwrap_or(i64::MAX));
        time.1 = MonoNanos(time.1.0.saturating_add(nanos));
    }

    /// Sets the wall clock `nanos` forward or back; monotonic time stays.
    pub fn jump(&self, nanos: i64) {
        let mut time = self.time.lock().unwrap_or_else(PoisonError::into_inner);
        time.0 = time.0.saturating_add(nanos);
    }
}

impl Clock for SimClock {
    fn now(&self) -> UnixNanos {
        self.time.lock().unwrap_or_else(PoisonError::into_inner).0
    }

    fn monotonic(&self) -> MonoNanos {
        self.time.lock().unwrap_or_else(PoisonError::into_inner).1
    }
}

/// A disk in memory that keeps two images: what programs see, and what a crash leaves. Clones share the disk.
///
/// A write is durable once its file is synced, a name once its directory is. [`SimFs::crash`] keeps an arbitrary
/// subset of everything that is not: of writes by sector, of lengths, of names. Files opened before a crash fail.
#[derive(Clone)]
pub struct SimFs {
    disk: Arc<Mutex<Disk>>,
}

#[derive(Clone, Debug)]
struct Disk {
    rng: SplitMix,
    nodes: BTreeMap<u64, Node>,
    live: BTreeMap<PathBuf, Entry>,
    durable: BTreeMap<PathBuf, Entry>,
    /// Changes of names that are not durable, oldest first.
    name_changes: Vec<NameChange>,
    next_node: u64,
    /// Rises with each crash; files of an earlier one fail.
    life: u64,
    locks: BTreeSet<PathBuf>,
    capacity: Option<u64>,
    used: u64,
    writes: u64,
    syncs: u64,
    fail_write_at: Option<u64>,
    fail_sync_at: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Entry {
    Dir,
    File(u64),
}

#[derive(Clone, Debug, Default)]
struct Node {
    live: Vec<u8>,
    durable: Vec<u8>,
    pending: Vec<Pending>,
}

#[derive(Clone, Debug)]
enum Pending {
    Write(u64, Vec<u8>),
    SetLen(u64),
}

#[derive(Clone, Debug)]
struct NameChange {
    /// The directories whose sync makes it durable.
    dirs: [Option<PathBuf>; 2],
    remove: Option<PathBuf>,
    add: Option<(PathBuf, Entry)>,
}

impl Node {
    fn apply(image: &mut Vec<u8>, change: &Pending) {
        match change {
            Pending::SetLen(len) => image.resize(*len as usize, 0),
            Pending::Write(offset, bytes) => write_into(image, *offset, bytes),
        }
    }

    fn change(&mut self, change: Pending) {
        Self::apply(&mut self.live, &change);
        self.pending.push(change);
    }

    fn sync(&mut self) {
        for change in self.pending.drain(..) {
            Self::apply(&mut self.durable, &change);
        }
    }

    /// Lets each pending sector and length reach the disk in `percent` of 100 cases, and forgets the rest.
    fn settle_by_chance(&mut self, percent: u64, rng: &mut SplitMix) {
        for change in std::mem::take(&mut self.pending) {
            match change {
                Pending::SetLen(_) => {
                    if rng.chance(percent) {
                        Self::apply(&mut self.durable, &change);
                    }
                }
                Pending::Write(offset, bytes) => {
                    let mut at = 0;
                    while at < bytes.len() {
                        let into_sector = (offset as usize + at) % SECTOR_BYTES;
                        let end = (at + SECTOR_BYTES - into_sector).min(bytes.len());
                        if rng.chance(percent) {
                            write_into(&mut self.durable, offset + at as u64, &bytes[at..end]);
                        }
                        at = end;
                    }
                }
            }
        }
    }
}

fn write_into(image: &mut Vec<u8>, offset: u64, bytes: &[u8]) {
    let offset = offset as usize;
    if image.len() < offset + bytes.len() {
        image.resize(offset + bytes.len(), 0);
    }
    image[offset..offset + bytes.len()].copy_from_slice(bytes);
}

impl Disk {
    fn apply_names(names: &mut BTreeMap<PathBuf, Entry>, change: &NameChange) {
        if let Some(path) = &change.remove
            && names.remove(path) == Some(Entry::Dir)
        {
            // What was in it goes with it: a new directory of this name is another one.
            names.retain(|inside, _| !inside.starts_with(path));
        }
        if let Some((path, entry)) = &change.add {
            names.insert(path.clone(), *entry);
        }
    }

    fn change_names(&mut self, change: NameChange) {
        Self::apply_names(&mut self.live, &change);
        self.name_changes.push(change);
    }

    fn has_dir(&self, dir: &Path) -> bool {
        dir == Path::new("/") || self.live.get(dir) == Some(&Entry::Dir)
    }

    fn node(&mut self, id: u64) -> io::Result<&mut Node> {
        self.nodes.get_mut(&id).ok_or_else(|| ErrorKind::NotFound.into())
    }

    /// Whether a file may grow by `bytes`; counts them.
    fn take_room(&mut self, bytes: u64) -> io::Result<()> {
        if self.capacity.is_some_and(|capacity| self.used + bytes > capacity) {
            return Err(ErrorKind::StorageFull.into());
        }
        self.used += bytes;
        Ok(())
    }

    /// Counts a sync; an error if it is the one that is to fail.
    fn count_sync(&mut self) -> io::Result<()> {
        self.syncs += 1;
        if self.fail_sync_at == Some(self.syncs) { Err(io::Error::other("simulated sync failure")) } else { Ok(()) }
    }

    fn crash(&mut self, seed: u64) {
        let mut rng = SplitMix::new(seed);
        let percent = [0, 20, 50, 80, 100][rng.below(5) as usize];
        for change in std::mem::take(&mut self.name_changes) {
            if rng.chance(percent) {
                Self::apply_names(&mut self.durable, &change);
            }
        }
        let mut kept = BTreeMap::new();
        for (path, entry) in &self.durable {
            let parent = path.parent().unwrap_or(Path::new("/"));
            if parent == Path::new("/") || kept.get(parent) == Some(&Entry::Dir) {
                kept.insert(path.clone(), *entry);
            }
        }
        for node in self.nodes.values_mut() {
            node.settle_by_chance(percent, &mut rng);
            node.live.clone_from(&node.durable);
        }
        let linked: BTreeSet<u64> =
            kept.values().filter_map(|entry| if let Entry::File(id) = entry { Some(*id) } else { None }).collect();
        self.nodes.retain(|id, _| linked.contains(id));
        self.used = self.nodes.values().map(|node| node.live.len() as u64).sum();
        self.live.clone_from(&kept);
        self.durable = kept;
        self.locks.clear();
        self.life += 1;
        self.fail_write_at = None;
        self.fail_sync_at = None;
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
            next_node: 1,
            life: 1,
            locks: BTreeSet::new(),
            capacity: None,
            used: 0,
            writes: 0,
            syncs: 0,
            fail_write_at: None,
            fail_sync_at: None,
        };
        Self { disk: Arc::new(Mutex::new(disk)) }
    }

    fn disk(&self) -> MutexGuard<'_, Disk> {
        self.disk.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Cuts the power: of everything that is not durable a subset chosen by `seed` survives, and open files fail from
    /// now on. Faults that were set and have not happened are forgotten.
    pub fn crash(&self, seed: u64) {
        self.disk().crash(seed);
    }

    /// Kills the program: nothing is lost, but open files fail from now on and locks are free.
    pub fn kill(&self) {
        let mut disk = self.disk();
        disk.locks.clear();
        disk.life += 1;
    }

    /// A copy of the disk that goes its own way.
    #[must_use]
    pub fn fork(&self) -> Self {
        Self { disk: Arc::new(Mutex::new(self.disk().clone())) }
    }

    /// The `nth` write from now on fails with an I/O error after writing an arbitrary part.
    pub fn fail_nth_write(&self, nth: u64) {
        let mut disk = self.disk();
        disk.fail_write_at = Some(disk.writes + nth);
    }

    /// The `nth` sync (of a file or directory) from now on fails with an I/O error. Of the writes that it should have
    /// made durable an arbitrary part is lost for good, even if a later sync says otherwise.
    pub fn fail_nth_sync(&self, nth: u64) {
        let mut disk = self.disk();
        disk.fail_sync_at = Some(disk.syncs + nth);
    }

    /// Limits the sum of all file lengths; `None` lifts the limit.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.disk().capacity = bytes;
    }

    /// The sum of all file lengths.
    #[must_use]
    pub fn used_bytes(&self) -> u64 {
        self.disk().used
    }

    /// Writes and syncs so far.
    #[must_use]
    pub fn counts(&self) -> (u64, u64) {
        let disk = self.disk();
        (disk.writes, disk.syncs)
    }

    /// Flips one bit of a file, durably.
    pub fn flip_bit(&self, path: &Path, bit: u64) {
        self.edit(path, |bytes| {
            if let Some(byte) = bytes.get_mut((bit / 8) as usize) {
                *byte ^= 1 << (bit % 8);
            }
        });
    }

    /// Changes a file's content behind the program's back, durably.
    pub fn edit(&self, path: &Path, change: impl Fn(&mut Vec<u8>)) {
        let mut disk = self.disk();
        let Some(Entry::File(id)) = disk.live.get(path).copied() else { return };
        if let Ok(node) = disk.node(id) {
            node.sync();
            change(&mut node.live);
            node.durable.clone_from(&node.live);
        }
    }

    /// A file's content as programs see it.
    #[must_use]
    pub fn contents(&self, path: &Path) -> Option<Vec<u8>> {
        let disk = self.disk();
        match disk.live.get(path)? {
            Entry::File(id) => disk.nodes.get(id).map(|node| node.live.clone()),
            Entry::Dir => None,
        }
    }

    /// All files with their lengths, sorted by path.
    #[must_use]
    pub fn files(&self) -> Vec<(PathBuf, u64)> {
        let disk = self.disk();
        let len = |id: &u64| disk.nodes.get(id).map_or(0, |node| node.live.len() as u64);
        let files = disk.live.iter().filter_map(|(path, entry)| match entry {
            Entry::File(id) => Some((path.clone(), len(id))),
            Entry::Dir => None,
        });
        files.collect()
    }

    /// A checksum over all names and contents that programs see.
    #[must_use]
    pub fn fingerprint(&self) -> u32 {
        let disk = self.disk();
        let mut hasher = crc32fast::Hasher::new();
        for (path, entry) in &disk.live {
            hasher.update(path.as_os_str().as_encoded_bytes());
            if let Entry::File(id) = entry
                && let Some(node) = disk.nodes.get(id)
            {
                hasher.update(&node.live);
            }
        }
        hasher.finalize()
    }
}

impl Fs for SimFs {
    type File = SimFile;
    type Lock = SimLock;

    fn create(&self, path: &Path) -> io::Result<SimFile> {
        let mut disk = self.disk();
        if disk.live.contains_key(path) {
            return Err(ErrorKind::AlreadyExists.into());
        }
        let parent = path.parent().map(Path::to_owned);
        if !parent.as_deref().is_some_and(|parent| disk.has_dir(parent)) {
            return Err(ErrorKind::NotFound.into());
        }
        let node = disk.next_node;
        disk.next_node += 1;
        disk.nodes.insert(node, Node::default());
        let add = Some((path.to_owned(), Entry::File(node)));
        disk.change_names(NameChange { dirs: [parent, None], remove: None, add });
        Ok(SimFile { fs: self.clone(), node, life: disk.life })
    }

    fn open(&self, path: &Path) -> io::Result<SimFile> {
        let disk = self.disk();
        match disk.live.get(path) {
            Some(Entry::File(node)) => Ok(SimFile { fs: self.clone(), node: *node, life: disk.life }),
            Some(Entry::Dir) => Err(ErrorKind::IsADirectory.into()),
            None => Err(ErrorKind::NotFound.into()),
        }
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut disk = self.disk();
        let Some(entry) = disk.live.get(from).copied() else { return Err(ErrorKind::NotFound.into()) };
        let dirs = [to.parent().map(Path::to_owned), from.parent().map(Path::to_owned)];
        if !dirs[0].as_deref().is_some_and(|dir| disk.has_dir(dir)) {
            return Err(ErrorKind::NotFound.into());
        }
        let remove = Some(from.to_owned());
        disk.change_names(NameChange { dirs, remove, add: Some((to.to_owned(), entry)) });
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut disk = self.disk();
        let Some(Entry::File(id)) = disk.live.get(path).copied() else {
            return Err(ErrorKind::NotFound.into());
        };
        let freed = disk.nodes.get(&id).map_or(0, |node| node.live.len() as u64);
        disk.used = disk.used.saturating_sub(freed);
        let dirs = [path.parent().map(Path::to_owned), None];
        disk.change_names(NameChange { dirs, remove: Some(path.to_owned()), add: None });
        Ok(())
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        let mut disk = self.disk();
        if disk.live.get(path) != Some(&Entry::Dir) {
            return Err(ErrorKind::NotFound.into());
        }
        if disk.live.keys().any(|other| other.parent() == Some(path)) {
            return Err(ErrorKind::DirectoryNotEmpty.into());
        }
        let dirs = [path.parent().map(Path::to_owned), None];
        disk.change_names(NameChange { dirs, remove: Some(path.to_owned()), add: None });
        Ok(())
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<DirEntry>> {
        let disk = self.disk();
        if !disk.has_dir(dir) {
            return Err(ErrorKind::NotFound.into());
        }
        let mut entries = Vec::new();
        for (path, entry) in disk.live.range(dir.to_owned()..).skip_while(|(path, _)| *path == dir) {
            if !path.starts_with(dir) {
                break;
            }
            if path.parent() == Some(dir)
                && let Some(name) = path.file_name().and_then(|name| name.to_str())
            {
                entries.push(DirEntry { name: name.to_owned(), is_dir: *entry == Entry::Dir });
            }
        }
        entries.sort_unstable();
        Ok(entries)
    }

    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        let mut disk = self.disk();
        let mut missing = Vec::new();
        let mut at = dir;
        while !disk.has_dir(at) {
            missing.push(at.to_owned());
            let Some(parent) = at.parent() else { break };
            at = parent;
        }
        for dir in missing.into_iter().rev() {
            let dirs = [dir.parent().map(Path::to_owned), None];
            disk.change_names(NameChange { dirs, remove: None, add: Some((dir, Entry::Dir)) });
        }
        Ok(())
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let mut disk = self.disk();
        disk.count_sync()?;
        if !disk.has_dir(dir) {
            return Err(ErrorKind::NotFound.into());
        }
        let changes = std::mem::take(&mut disk.name_changes);
        for change in changes {
            if change.dirs.iter().any(|touched| touched.as_deref() == Some(dir)) {
                Disk::apply_names(&mut disk.durable, &change);
            } else {
                disk.name_changes.push(change);
            }
        }
        Ok(())
    }

    fn free_bytes(&self, _dir: &Path) -> io::Result<u64> {
        let disk = self.disk();
        Ok(disk.capacity.map_or(u64::MAX, |capacity| capacity.saturating_sub(disk.used)))
    }

    fn lock(&self, path: &Path) -> io::Result<Option<SimLock>> {
        let mut disk = self.disk();
        if !disk.locks.insert(path.to_owned()) {
            return Ok(None);
        }
        Ok(Some(SimLock { fs: self.clone(), path: path.to_owned(), life: disk.life }))
    }

    fn background(&self) -> bool {
        false
    }
}

/// A lock on the simulated disk; free once dropped.
pub struct SimLock {
    fs: SimFs,
    path: PathBuf,
    life: u64,
}

impl Drop for SimLock {
    fn drop(&mut self) {
        let mut disk = self.fs.disk();
        if disk.life == self.life {
            disk.locks.remove(&self.path);
        }
    }
}

/// A file on the simulated disk.
pub struct SimFile {
    fs: SimFs,
    node: u64,
    life: u64,
}

impl SimFile {
    fn disk(&self) -> io::Result<MutexGuard<'_, Disk>> {
        let disk = self.fs.disk();
        if disk.life == self.life { Ok(disk) } else { Err(io::Error::other("simulated crash")) }
    }
}

impl FsFile for SimFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut disk = self.disk()?;
        let live = &disk.node(self.node)?.live;
        let from = live.get(offset as usize..).unwrap_or_default();
        let count = from.len().min(buf.len());
        buf[..count].copy_from_slice(&from[..count]);
        Ok(count)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let mut disk = self.disk()?;
        disk.writes += 1;
        let failing = disk.fail_write_at == Some(disk.writes);
        let kept = if failing { disk.rng.below(bytes.len() as u64 + 1) as usize } else { bytes.len() };
        let len = disk.node(self.node)?.live.len() as u64;
        disk.take_room((offset + bytes.len() as u64).saturating_sub(len))?;
        disk.node(self.node)?.change(Pending::Write(offset, bytes[..kept].to_vec()));
        if failing { Err(io::Error::other("simulated write failure")) } else { Ok(()) }
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut disk = self.disk()?;
        if let Err(err) = disk.count_sync() {
            let mut rng = disk.rng.clone();
            disk.node(self.node)?.settle_by_chance(50, &mut rng);
            disk.rng = rng;
            return Err(err);
        }
        disk.node(self.node)?.sync();
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut disk = self.disk()?;
        let before = disk.node(self.node)?.live.len() as u64;
        if len > before {
            disk.take_room(len - before)?;
        } else {
            disk.used -= before - len;
        }
        disk.node(self.node)?.change(Pending::SetLen(len));
        Ok(())
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        let before = self.len()?;
        if len > before { self.set_len(len) } else { Ok(()) }
    }

    fn len(&self) -> io::Result<u64> {
        let mut disk = self.disk()?;
        Ok(disk.node(self.node)?.live.len() as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(fs: &SimFs, path: &str, bytes: &[u8]) -> SimFile {
        let file = fs.create(Path::new(path)).unwrap();
        file.write_at(bytes, 0).unwrap();
        file
    }

    #[test]
    fn synced_things_survive_and_others_may_not() {
        let mut outcomes = BTreeSet::new();
        for seed in 0..200 {
            let fs = SimFs::new(0);
            fs.create_dir_all(Path::new("/d")).unwrap();
            fs.sync_dir(Path::new("/")).unwrap();
            let kept = write(&fs, "/d/kept", b"kept");
            kept.sync_data().unwrap();
            fs.sync_dir(Path::new("/d")).unwrap();
            kept.write_at(&[b'x'; 1024], 0).unwrap();
            write(&fs, "/d/loose", b"loose").sync_data().unwrap();
            fs.crash(seed);
            assert!(kept.write_at(b"late", 0).is_err(), "files from before the crash fail");
            let content = fs.contents(Path::new("/d/kept")).unwrap();
            let first = content.starts_with(b"xxxx");
            assert!(first || content.starts_with(b"kept"));
            outcomes.insert((first, content.len(), fs.contents(Path::new("/d/loose")).is_some()));
        }
        assert!(outcomes.len() >= 6, "{outcomes:?}");
    }

    #[test]
    fn a_directory_that_is_not_durable_takes_its_files_along() {
        let fs = SimFs::new(0);
        fs.create_dir_all(Path::new("/d")).unwrap();
        write(&fs, "/d/f", b"1").sync_data().unwrap();
        fs.sync_dir(Path::new("/d")).unwrap();
        let lost = (0..100).filter(|&seed| {
            let fork = fs.fork();
            fork.crash(seed);
            fork.files().is_empty()
        });
        assert!((10..90).contains(&lost.count()));
    }

    #[test]
    fn what_a_failed_sync_lost_stays_lost() {
        let lost = (0..100).filter(|&seed| {
            let fs = SimFs::new(seed);
            let file = write(&fs, "/f", b"1");
            fs.sync_dir(Path::new("/")).unwrap();
            fs.fail_nth_sync(1);
            assert!(file.sync_data().is_err());
            file.sync_data().unwrap();
            fs.crash(4);
            fs.contents(Path::new("/f")).unwrap().is_empty()
        });
        assert!((20..80).contains(&lost.count()));
    }

    #[test]
    fn capacity_and_locks() {
        let fs = SimFs::new(0);
        fs.set_capacity(Some(10));
        let file = write(&fs, "/f", b"12345678");
        assert_eq!(file.write_at(b"123", 8).unwrap_err().kind(), ErrorKind::StorageFull);
        file.write_at(b"123", 0).unwrap();
        assert_eq!(fs.free_bytes(Path::new("/")).unwrap(), 2);
        fs.remove(Path::new("/f")).unwrap();
        assert_eq!(fs.used_bytes(), 0);
        let lock = fs.lock(Path::new("/l")).unwrap();
        assert!(lock.is_some() && fs.lock(Path::new("/l")).unwrap().is_none());
        drop(lock);
        assert!(fs.lock(Path::new("/l")).unwrap().is_some());
    }

    #[test]
    fn same_seed_same_numbers() {
        let draw = |seed| {
            let mut rng = SplitMix::new(seed);
            [rng.next_u64(), rng.next_u64(), rng.below(10)]
        };
        assert_eq!(draw(1), draw(1));
        assert_ne!(draw(1), draw(2));
    }

    #[test]
    fn clock_jumps_move_only_the_wall() {
        let clock = SimClock::new(UnixNanos(100));
        clock.advance(5);
        clock.clone().jump(-50);
        assert_eq!((clock.now(), clock.monotonic()), (UnixNanos(55), MonoNanos(5)));
    }
}
