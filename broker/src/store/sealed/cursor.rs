//! The subjects of an index one after the other, for who reads several indexes side by side.

use super::blocks::{SubjectBlock, SubjectEntry};
use super::build::SUBJECTS_PER_BLOCK;
use super::read::SealedIndex;

/// A place in the subjects of an index.
pub(in super::super) struct SubjectCursor<'a> {
    index: &'a SealedIndex,
    block: SubjectBlock,
    /// Rank of the next subject.
    rank: usize,
}

/// A block cannot be read.
#[derive(Clone, Copy, Debug)]
pub(in super::super) struct Unreadable;

impl<'a> SubjectCursor<'a> {
    /// Before the first subject.
    pub(in super::super) fn new(index: &'a SealedIndex) -> Self {
        Self {
            index,
            block: SubjectBlock::default(),
            rank: 0,
        }
    }

    /// The next subject in order. `Ok(None)`: there is none.
    pub(in super::super) fn next(&mut self) -> Result<Option<(&str, SubjectEntry)>, Unreadable> {
        if self.rank == self.index.header.subjects as usize {
            return Ok(None);
        }
        if self.rank.is_multiple_of(SUBJECTS_PER_BLOCK) {
            let block = self
                .index
                .with_subject_block(self.rank / SUBJECTS_PER_BLOCK, |block| Some(block.clone()));
            self.block = block.ok_or(Unreadable)?;
        }
        let found = self.block.get(self.rank % SUBJECTS_PER_BLOCK);
        self.rank += 1;
        found.map(Some).ok_or(Unreadable)
    }
}
