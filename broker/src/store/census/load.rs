//! Starting from a census.

use std::path::{Path, PathBuf};

use super::file::{Reader, Subject};
use super::merge::open_index;
use super::{Census, FILE, Member, NEW_FILE, number_of};
use crate::env::Fs;
use crate::store::StoreError;
use crate::store::index::StreamIndex;
use crate::store::prepare::remove_quietly;
use crate::store::sealed::{BlockCache, IndexHeader};
use crate::store::subjects::{Merge, Subjects};
use crate::store::table::Table;

/// Memory for the blocks of the index of a segment that is gone.
const CACHE_BYTES: usize = 1024 * 1024;
/// Subjects that room is made for before the first is read.
const RESERVED_MAX: u64 = 1 << 24;

/// The census in a stream's directory, as a start finds it.
pub(in crate::store) struct Found<F: Fs> {
    fs: F,
    dir: PathBuf,
    reader: Reader<F::File>,
    members: Vec<Member>,
    /// Members that are there.
    present: Vec<bool>,
}

impl<F: Fs> Found<F> {
    /// `Ok(None)`: there is none that can be used.
    ///
    /// # Errors
    /// `NewerVersion`.
    pub(in crate::store) fn open(fs: &F, dir: &Path, incarnation: u64) -> Result<Option<Self>, StoreError> {
        remove_quietly(fs, &dir.join(NEW_FILE));
        let opened = Reader::open(fs, &dir.join(FILE), incarnation)?;
        Ok(opened.map(|(reader, members)| Self {
            fs: fs.clone(),
            dir: dir.to_owned(),
            reader,
            present: vec![false; members.len()],
            members,
        }))
    }

    /// Whether the index of this segment is needed even if the segment is gone.
    pub(in crate::store) fn names(&self, segment: u64) -> bool {
        self.members
            .binary_search_by_key(&segment, |member| member.id)
            .is_ok()
    }

    /// Puts all that is counted into `subjects`, which are empty. `false`: the file is damaged.
    pub(in crate::store) fn load(&mut self, subjects: &mut Subjects, merge: &mut Merge) -> bool {
        subjects.reserve(self.reader.header.subjects.min(RESERVED_MAX) as usize);
        let (mut subject, mut before) = (Subject::default(), None::<String>);
        loop {
            match self.reader.next(&mut subject) {
                Ok(true) => {}
                Ok(false) => {
                    merge.end_segment(subjects);
                    return true;
                }
                Err(_) => return false,
            }
            let is_in_order = before.as_ref().is_none_or(|before| *before < subject.name);
            if !is_in_order || subject.name.len() > usize::from(u16::MAX) || subject.records == 0 {
                return false;
            }
            merge.add(
                subjects,
                &subject.name,
                subject.records,
                subject.first,
                subject.last,
            );
            match &mut before {
                Some(before) => before.clone_from(&subject.name),
                None => before = Some(subject.name.clone()),
            }
        }
    }

    /// Whether the subjects of the segment with this index are counted.
    pub(in crate::store) fn counts(&mut self, index: &IndexHeader) -> bool {
        let number = number_of(&self.members, &Member::of(index));
        if let Some(present) = number.and_then(|number| self.present.get_mut(number)) {
            *present = true;
        }
        number.is_some()
    }

    /// Takes the segments that are gone off the subjects of `index`, which has the others. `false`: that cannot be done.
    pub(in crate::store) fn take_off_gone(&self, index: &mut StreamIndex) -> bool {
        let Some(Table::Sealed(table)) = index.segments.front().map(|first| &first.table) else {
            return self.members.is_empty();
        };
        let first = table.index.header.segment;
        let cache = BlockCache::new(CACHE_BYTES);
        let gone = self
            .members
            .iter()
            .zip(&self.present)
            .filter(|(_, present)| !**present);
        for (member, _) in gone {
            let opened = open_index(&self.fs, &self.dir, member, &cache).filter(|_| member.id < first.id);
            let Some(dropped) = opened else { return false };
            let (mut count, mut is_right) = (0, true);
            dropped.for_subjects("", |_, name, subject| {
                count += 1;
                let records = u64::from(subject.count);
                is_right = is_right && index.subjects.take_off(name, records, first.base_seq);
            });
            if !is_right || count != member.subjects {
                return false;
            }
        }
        true
    }

    /// What the stream is to know of it.
    pub(in crate::store) fn into_census(self) -> Census {
        Census {
            members: self.members,
            subjects: self.reader.header.subjects,
            is_stirred: true,
            adding: None,
        }
    }
}
