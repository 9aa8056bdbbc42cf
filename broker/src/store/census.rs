//! The subjects of sealed segments, added up: so that a start reads one list of subjects, not one for each segment.
//!
//! A census is derived from the indexes of the segments that it names, its members, and from nothing else: which of their
//! records were removed since, it does not say. It counts only if each member is there as it was, or was dropped at the
//! front and has left its index behind; otherwise it is as if there were none, and the indexes are added up one by one.
//! Layout of the file: `FORMAT.md`.

mod file;
mod load;
mod merge;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

pub(super) use self::load::Found;
pub(super) use self::merge::take;
use super::Store;
use super::index::StreamIndex;
use super::prepare::remove_quietly;
use super::seal;
use super::sealed::IndexHeader;
use super::segment;
use super::stream::Stream;
use super::table::Table;
use crate::env::Fs;
use crate::types::StreamId;

/// Name of the file in a stream's directory.
pub(super) const FILE: &str = "subjects";
/// The same while it is written.
pub(super) const NEW_FILE: &str = "subjects.new";
/// A census is taken anew once the lists beside it are this many times as long.
const GROWTH: u64 = 3;
/// Indexes added or taken off in one go: what is read of each at a time is in memory.
const STEP_MAX: usize = 8;

/// A segment that a census counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Member {
    pub(super) id: u64,
    pub(super) base: u64,
    pub(super) salt: u32,
    /// Of its index.
    pub(super) fingerprint: u32,
    pub(super) records: u32,
    pub(super) subjects: u32,
}

impl Member {
    pub(super) fn of(header: &IndexHeader) -> Self {
        Self {
            id: header.segment.id,
            base: header.segment.base_seq,
            salt: header.segment.salt,
            fingerprint: header.fingerprint(),
            records: header.entries,
            subjects: header.subjects,
        }
    }

    /// Where its index is.
    pub(super) fn path(&self, dir: &Path) -> PathBuf {
        seal::index_path(&dir.join(segment::file_name(self.id)))
    }
}

/// What a stream knows of its census.
#[derive(Debug, Default)]
pub(super) struct Census {
    /// Segments that the file counts, by rising id. None: there is no file.
    pub(super) members: Vec<Member>,
    /// Subjects that the file names.
    pub(super) subjects: u64,
    /// Whether segments came or went since it was looked whether a new one is due.
    pub(super) is_stirred: bool,
    /// Segments that a new one, which is being taken, adds; `None` if none is.
    adding: Option<Vec<Member>>,
}

impl Census {
    /// Whether the index of this segment has to be kept even if the segment goes.
    pub(super) fn names(&self, segment: u64) -> bool {
        let names = |members: &[Member]| members.binary_search_by_key(&segment, |member| member.id).is_ok();
        names(&self.members) || self.adding.as_deref().is_some_and(names)
    }
}

/// A census to be taken.
#[derive(Debug)]
pub(super) struct Task {
    pub(super) stream: StreamId,
    pub(super) incarnation: u64,
    pub(super) dir: PathBuf,
    /// What the file there counts now.
    pub(super) before: Vec<Member>,
    /// To be counted as well.
    pub(super) plus: Vec<Member>,
    /// To be left out; all of them are in `before`.
    pub(super) minus: Vec<Member>,
    /// No record that is counted then is below.
    pub(super) first: u64,
    /// Bytes of the disk to leave alone.
    pub(super) reserve: u64,
}

/// What came of it.
#[derive(Debug)]
pub(super) struct Taken {
    pub(super) task: Task,
    /// Subjects in the new file.
    pub(super) outcome: Result<u64, NotTaken>,
}

/// Why there is no new census. None of this is in anybody's way.
#[derive(Debug, thiserror::Error)]
pub(super) enum NotTaken {
    #[error("what it is made from is damaged, or not there as it was")]
    Unusable,
    #[error("a segment to be added is gone, or its index is damaged")]
    Gone,
    #[error("there is no room")]
    NoRoom,
    #[error(transparent)]
    Io(#[from] std::io::Error),
}

impl Task {
    /// The members of the new census.
    pub(super) fn after(&self) -> Vec<Member> {
        let stays = |member: &&Member| !self.minus.contains(member);
        let mut after: Vec<Member> = self.before.iter().filter(stays).copied().collect();
        after.extend_from_slice(&self.plus);
        after.sort_unstable_by_key(|member| member.id);
        after
    }
}

impl<F: Fs> Stream<F> {
    /// The census that is due, if one is. Looks again only after something came or went.
    fn census_due(&mut self, subjects_min: u64, reserve: u64) -> Option<Task> {
        let log = self.log.as_ref()?;
        if self.failed.is_some()
            || self.no_space
            || self.census.adding.is_some()
            || !std::mem::take(&mut self.census.is_stirred)
        {
            return None;
        }
        let live = members(&self.index);
        let before = &self.census.members;
        let first_id = live.first().map_or(u64::MAX, |member| member.id);
        let mut minus: Vec<Member> = before
            .iter()
            .filter(|member| number_of(&live, member).is_none())
            .copied()
            .collect();
        // A member that was replaced: nobody knows any more what it had.
        let is_usable = minus.iter().all(|member| member.id < first_id);
        let mut plus: Vec<Member> = if is_usable {
            let is_new =
                |member: &&Member| before.binary_search_by_key(&member.id, |known| known.id).is_err();
            live.iter().filter(is_new).copied().collect()
        } else {
            minus.clear();
            live
        };
        let beside: u64 = plus
            .iter()
            .chain(&minus)
            .map(|member| u64::from(member.subjects))
            .sum();
        let known = if is_usable { self.census.subjects } else { 0 };
        if beside < subjects_min.max(GROWTH * known) {
            return None;
        }
        minus.truncate(STEP_MAX);
        plus.truncate(STEP_MAX - minus.len());
        self.census.adding = Some(plus.clone());
        Some(Task {
            stream: self.id,
            incarnation: log.incarnation,
            dir: log.dir.clone(),
            before: if is_usable {
                self.census.members.clone()
            } else {
                Vec::new()
            },
            plus,
            minus,
            first: self.index.segments.front().map_or(0, |segment| segment.base),
            reserve,
        })
    }

    /// Takes over a new census: the indexes that only the old one needed go.
    fn take_census(&mut self, fs: &F, taken: &Taken) {
        let task = &taken.task;
        let mut left = self.census.adding.take().unwrap_or_default();
        match &taken.outcome {
            Ok(subjects) => {
                left.append(&mut self.census.members);
                self.census.members = task.after();
                self.census.subjects = *subjects;
                self.census.is_stirred = true;
            }
            Err(NotTaken::Unusable) => {
                // The next one is made from the indexes alone.
                left.append(&mut self.census.members);
                self.census.subjects = 0;
                self.census.is_stirred = true;
            }
            Err(err) => {
                tracing::debug!(stream = %self.meta.name, error = %err, "the subjects are not added up")
            }
        }
        self.forget_indexes(fs, &left);
    }

    /// Removes the indexes of these segments that are gone, and that the census does not name.
    fn forget_indexes(&self, fs: &F, members: &[Member]) {
        let Some(log) = &self.log else { return };
        let is_there = |id: u64| {
            let segments = self.segments.iter().chain(&log.dropped);
            segments.into_iter().any(|segment| segment.id == id)
        };
        for member in members {
            if !self.census.names(member.id) && !is_there(member.id) {
                remove_quietly(fs, &member.path(&log.dir));
            }
        }
    }
}

/// The sealed segments of a stream, by rising id.
fn members(index: &StreamIndex) -> Vec<Member> {
    let sealed = index.segments.iter().filter_map(|segment| match &segment.table {
        Table::Sealed(table) => Some(Member::of(&table.index.header)),
        Table::Memory(_) => None,
    });
    sealed.collect()
}

/// The number of `member` among `members`, which come by rising id, if it is there as it was.
pub(super) fn number_of(members: &[Member], member: &Member) -> Option<usize> {
    let at = members.binary_search_by_key(&member.id, |other| other.id).ok()?;
    (members.get(at) == Some(member)).then_some(at)
}

impl<F: Fs> Store<F> {
    /// The next census that is due in any stream.
    pub(super) fn next_census(&mut self) -> Option<Task> {
        let options = &self.shared.options;
        let (least, reserve) = (options.census_subjects_min, options.reserve_bytes);
        self.streams
            .values_mut()
            .find_map(|stream| stream.census_due(least, reserve))
    }

    /// Takes over what came of a census.
    pub(super) fn census_taken(&mut self, taken: &Taken) {
        let stream = self.streams.get_mut(&taken.task.stream);
        if let Some(stream) = stream
            && stream.log.as_ref().map(|log| log.incarnation) == Some(taken.task.incarnation)
        {
            stream.take_census(&self.shared.fs, taken);
        }
    }

    /// Lets what could not be handed over be due again.
    pub(super) fn census_refused(&mut self, task: &Task) {
        if let Some(stream) = self.streams.get_mut(&task.stream) {
            stream.census.adding = None;
            stream.census.is_stirred = true;
        }
    }
}
