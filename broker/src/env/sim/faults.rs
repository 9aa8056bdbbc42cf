//! What can be done to the virtual disk behind a program's back, and what can be seen of it.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use super::disk::Entry;
use super::{SimFs, Trace};

impl SimFs {
    /// Has each change and each fault of the disk told.
    pub fn set_trace(&self, trace: Option<Trace>) {
        self.disk().trace = trace;
    }

    /// Cuts the power: of everything that is not durable a subset chosen by `seed` survives, and open files fail from
    /// now on. Faults that were set and have not happened are forgotten.
    pub fn crash(&self, seed: u64) {
        self.disk().crash(seed);
    }

    /// Kills the program: nothing is lost, but open files fail from now on and locks are free. Faults that were set and
    /// have not happened are forgotten.
    pub fn kill(&self) {
        let mut disk = self.disk();
        disk.tell(format_args!("kill"));
        disk.end_life();
    }

    /// A copy of the disk that goes its own way.
    #[must_use]
    pub fn fork(&self) -> Self {
        Self {
            disk: Arc::new(Mutex::new(self.disk().clone())),
        }
    }

    /// The `nth` write from now on fails with an I/O error after writing an arbitrary part.
    pub fn fail_nth_write(&self, nth: u64) {
        let mut disk = self.disk();
        disk.fail_write_at = Some(disk.writes + nth);
    }

    /// The `nth` write from now on finds the disk full after writing an arbitrary part.
    pub fn fill_at_nth_write(&self, nth: u64) {
        let mut disk = self.disk();
        disk.fill_write_at = Some(disk.writes + nth);
    }

    /// The `nth` sync (of a file or directory) from now on fails with an I/O error. Of the writes that it should have
    /// made durable an arbitrary part is lost for good, even if a later sync says otherwise.
    pub fn fail_nth_sync(&self, nth: u64) {
        let mut disk = self.disk();
        disk.fail_sync_at = Some(disk.syncs + nth);
    }

    /// Syncs of files and directories so far.
    pub fn sync_count(&self) -> u64 {
        self.disk().syncs
    }

    /// Every sync of a directory from now on fails with an error of this kind; `None` ends that.
    pub fn fail_dir_syncs(&self, kind: Option<ErrorKind>) {
        self.disk().fail_dir_syncs = kind;
    }

    /// `len` bytes of a file at `offset` cannot be read any more, until [`SimFs::heal_reads`] or the end of this life.
    pub fn fail_reads(&self, path: &Path, offset: u64, len: u64) {
        let part = (path.to_owned(), offset, offset + len);
        self.disk().bad.push(part);
    }

    /// Everything can be read again.
    pub fn heal_reads(&self) {
        self.disk().bad.clear();
    }

    /// Every change fails from now on, as after a file system was remounted read-only.
    pub fn set_read_only(&self, read_only: bool) {
        self.disk().read_only = read_only;
    }

    /// The `nth` read from now on fails with an I/O error.
    pub fn fail_nth_read(&self, nth: u64) {
        let mut disk = self.disk();
        disk.fail_read_at = Some(disk.reads + nth);
    }

    /// While true, reads neither count nor fail as [`SimFs::fail_nth_read`] says: an onlooker's.
    pub fn spare_reads(&self, spares: bool) {
        self.disk().spares_reads = spares;
    }

    /// The `nth` write from now on lands elsewhere in its file. Programs see it where it belongs until the next crash.
    pub fn misdirect_nth_write(&self, nth: u64) {
        let mut disk = self.disk();
        disk.misdirect_write_at = Some(disk.writes + nth);
    }

    /// Whether the power is gone.
    #[must_use]
    pub fn is_dark(&self) -> bool {
        self.disk().power == Some(0)
    }

    /// Errors given out so far.
    #[must_use]
    pub fn troubles(&self) -> u64 {
        self.disk().troubles
    }

    /// Every change after the next `changes` fails without effect, until [`SimFs::crash`].
    pub fn cut_power_after(&self, changes: u64) {
        self.disk().power = Some(changes);
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
        self.disk()
            .tell(format_args!("bit {bit} of {} flips", path.display()));
        self.edit(path, |bytes| {
            if let Some(byte) = bytes.get_mut((bit / 8) as usize) {
                *byte ^= 1 << (bit % 8);
            }
        });
    }

    /// Changes a file's content behind the program's back, durably.
    pub fn edit(&self, path: &Path, change: impl Fn(&mut Vec<u8>)) {
        let mut disk = self.disk();
        let Some(Entry::File(id)) = disk.live.get(path).copied() else {
            return;
        };
        if let Ok(node) = disk.node(id) {
            let is_unfinished = node.is_unfinished;
            node.sync();
            change(&mut node.live);
            node.durable.clone_from(&node.live);
            node.is_unfinished = is_unfinished;
        }
    }

    /// Whether a file was changed and not synced since, in this life or before: any part of that may be missing.
    #[must_use]
    pub fn is_unfinished(&self, path: &Path) -> bool {
        let disk = self.disk();
        match disk.live.get(path) {
            Some(Entry::File(id)) => disk.nodes.get(id).is_some_and(|node| node.is_unfinished),
            _ => false,
        }
    }

    /// A file's content as programs see it.
    #[must_use]
    pub fn contents(&self, path: &Path) -> Option<Vec<u8>> {
        let disk = self.disk();
        match disk.live.get(path)? {
            Entry::File(id) => disk.nodes.get(id).map(|node| node.live.clone()),
            Entry::Dir(_) => None,
        }
    }

    /// All files with their lengths, sorted by path.
    #[must_use]
    pub fn files(&self) -> Vec<(PathBuf, u64)> {
        let disk = self.disk();
        let len = |id: &u64| disk.nodes.get(id).map_or(0, |node| node.live.len() as u64);
        let files = disk.live.iter().filter_map(|(path, entry)| match entry {
            Entry::File(id) => Some((path.clone(), len(id))),
            Entry::Dir(_) => None,
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
