//! Bits that flip while the broker is down, and what an operator does where that is more than can be repaired.

use std::path::{Path, PathBuf};

use super::Run;
use crate::engine::RecoverError;
use crate::env::Fs;
use crate::store::StoreError;

impl Run {
    /// Flips one bit of one file. What is kept in two copies bears one flip until a start has repaired it: in between no other
    /// follows, since both copies could be hit, and a broker that then refuses to start and names the file does what it must.
    pub(super) fn flip(&mut self) {
        let files = self.world.fs.files();
        let Some((path, len)) = files.get(self.rng.below(files.len() as u64) as usize) else {
            return;
        };
        if *len > 0 {
            let bit = self.rng.below(len * 8);
            if self.flipped.is_some() {
                return;
            }
            self.flipped = Some(path.clone());
            self.world.fs.flip_bit(path, bit);
            self.streams.values_mut().for_each(|stream| stream.damage += 1);
        }
    }

    /// The directory of a stream for whose sake the broker may refuse to start: a bit has flipped in one copy of its metadata
    /// while the other one was left in the middle of a write, and the broker names it.
    pub(super) fn dir_of_lost_copies(&self, err: &RecoverError) -> Option<PathBuf> {
        let RecoverError::Store(StoreError::Broken { file, .. }) = err else {
            return None;
        };
        let dir = file.parent()?;
        let copies = [dir.join("meta.0"), dir.join("meta.1")];
        let flipped = self.flipped.as_ref()?;
        let is_other_unfinished = copies
            .iter()
            .any(|copy| copy != flipped && self.world.fs.is_unfinished(copy));
        let is_lost = copies.contains(flipped) && copies.contains(file) && is_other_unfinished;
        is_lost.then(|| dir.to_owned())
    }

    /// Does what the broker asks for when it refuses to start: takes the stream's directory away.
    pub(super) fn move_away(&mut self, dir: &Path) {
        self.world.tell(format_args!("{} is moved away", dir.display()));
        self.flipped = None;
        self.world.drop_node();
        let fs = &self.world.fs;
        fs.kill();
        for (path, _) in fs.files().into_iter().filter(|(path, _)| path.starts_with(dir)) {
            fs.remove(&path).expect("without faults a file can be removed");
        }
        fs.sync_all(dir).expect("without faults the disk syncs");
    }
}
