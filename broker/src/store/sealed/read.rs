//! Asking the index of a sealed segment, on disk. Blocks that fail their checksum are made anew from the segment.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::super::StoreError;
use super::super::record::u64_at;
use super::super::table::Entry;
use super::bits::Bits;
use super::blocks::{self, Block, EntryPlace, SubjectBlock, SubjectDirectory, SubjectEntry};
use super::build::{ENTRIES_PER_BLOCK, POSTINGS_PER_BLOCK, SUBJECTS_PER_BLOCK};
use super::cache::{BlockCache, Key};
use super::codec::{CRC_BYTES, Cursor, open_block};
use super::header::{INDEX_HEADER_BYTES, IndexHeader, Part};
use crate::leb128::unzigzag;

/// Where the bytes of an index come from.
pub(in super::super) trait Source: Send + Sync {
    /// Reads the index file. Fewer bytes than asked for if it ends before.
    fn read(&self, buf: &mut [u8], offset: u64) -> std::io::Result<usize>;
    /// Makes the index anew from its segment. `None`: the segment cannot be read.
    fn rebuild(&self) -> Option<Vec<u8>>;
    /// Replaces the file. Returns whether that succeeded.
    fn replace(&self, bytes: &[u8]) -> bool;
    /// Removes the file: the next start makes the index from what the segment holds then.
    fn discard(&self);
}

/// The index of one sealed segment.
pub(in super::super) struct SealedIndex {
    pub(in super::super) header: IndexHeader,
    source: Box<dyn Source>,
    cache: BlockCache,
    number: u64,
    /// The whole index, where its file cannot be trusted.
    in_memory: Mutex<Option<Arc<[u8]>>>,
    is_broken: AtomicBool,
}

impl std::fmt::Debug for SealedIndex {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SealedIndex")
            .field("header", &self.header)
            .finish_non_exhaustive()
    }
}

impl SealedIndex {
    /// The index in the file of `source`. `Ok(None)`: there is none that is whole.
    ///
    /// # Errors
    /// `NewerVersion`.
    pub(in super::super) fn open(
        source: Box<dyn Source>,
        cache: &BlockCache,
        path: &Path,
    ) -> Result<Option<Self>, StoreError> {
        let mut head = [0; INDEX_HEADER_BYTES];
        let Ok(count) = source.read(&mut head, 0) else {
            return Ok(None);
        };
        let header = IndexHeader::decode(&head[..count], path)?;
        Ok(header.map(|header| Self::new(header, source, cache, None)))
    }

    /// An index that could not be written.
    ///
    /// # Errors
    /// `NewerVersion`.
    pub(in super::super) fn in_memory(
        source: Box<dyn Source>,
        cache: &BlockCache,
        bytes: Vec<u8>,
        path: &Path,
    ) -> Result<Option<Self>, StoreError> {
        let header = IndexHeader::decode(&bytes, path)?;
        Ok(header.map(|header| Self::new(header, source, cache, Some(bytes.into()))))
    }

    fn new(
        header: IndexHeader,
        source: Box<dyn Source>,
        cache: &BlockCache,
        in_memory: Option<Arc<[u8]>>,
    ) -> Self {
        Self {
            header,
            source,
            number: cache.next_index(),
            cache: cache.clone(),
            in_memory: Mutex::new(in_memory),
            is_broken: AtomicBool::new(false),
        }
    }

    /// Number that no other index of the store has.
    pub(in super::super) fn number(&self) -> u64 {
        self.number
    }

    /// Whether neither the index nor the segment it is made from could be read: what it says has holes.
    pub(in super::super) fn is_broken(&self) -> bool {
        self.is_broken.load(Ordering::Relaxed)
    }

    pub(in super::super) fn len(&self) -> usize {
        self.header.entries as usize
    }

    /// Length of the whole index.
    pub(in super::super) fn bytes(&self) -> u64 {
        let (offset, len) = self.header.part(Part::Notes);
        offset.saturating_add(len)
    }

    /// The bytes `offset..offset + len` of the index, if they are a whole block.
    fn content(&self, offset: u64, len: usize) -> Option<Vec<u8>> {
        let salt = self.header.segment.salt;
        let held = self
            .in_memory
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        if let Some(bytes) = held {
            let block = bytes.get(offset as usize..offset as usize + len)?;
            return open_block(block, offset, salt).map(<[u8]>::to_vec);
        }
        let mut buf = vec![0; len];
        if self.source.read(&mut buf, offset).is_ok_and(|count| count == len)
            && open_block(&buf, offset, salt).is_some()
        {
            buf.truncate(len - CRC_BYTES);
            return Some(buf);
        }
        let bytes = self.rebuild()?;
        let block = bytes.get(offset as usize..offset as usize + len)?;
        let content = open_block(block, offset, salt)?.to_vec();
        Some(content)
    }

    /// The whole index from the segment. It replaces the file, or stays in memory from now on.
    fn rebuild(&self) -> Option<Arc<[u8]>> {
        if self.is_broken() {
            return None;
        }
        let rebuilt = self
            .source
            .rebuild()
            .filter(|bytes| bytes.get(..INDEX_HEADER_BYTES) == Some(&self.header.encode()[..]));
        let Some(bytes) = rebuilt else {
            self.is_broken.store(true, Ordering::Relaxed);
            self.source.discard();
            return None;
        };
        let bytes: Arc<[u8]> = bytes.into();
        tracing::warn!(
            segment = self.header.segment.id,
            "the index of a segment was damaged and is made anew"
        );
        if !self.source.replace(&bytes) {
            *self.in_memory.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(&bytes));
        }
        Some(bytes)
    }

    fn block(
        &self,
        part: Part,
        number: usize,
        range: impl FnOnce() -> Option<(u64, u64)>,
        decode: impl FnOnce(&[u8]) -> Option<Block>,
    ) -> Option<Arc<Block>> {
        let key: Key = (self.number, part as u8, number as u32);
        if let Some(block) = self.cache.get(key) {
            return Some(block);
        }
        let (offset, end) = range()?;
        let content = self.content(offset, usize::try_from(end.checked_sub(offset)?).ok()?)?;
        let block = Arc::new(decode(&content)?);
        self.cache.insert(key, &block);
        Some(block)
    }

    fn whole_part(&self, part: Part) -> (u64, u64) {
        let (offset, len) = self.header.part(part);
        (offset, offset.saturating_add(len))
    }

    fn with_entry_places<T>(&self, f: impl FnOnce(&[EntryPlace]) -> Option<T>) -> Option<T> {
        let range = || Some(self.whole_part(Part::EntryDirectory));
        let decode = |content: &[u8]| blocks::decode_entry_directory(content).map(Block::EntryDirectory);
        match &*self.block(Part::EntryDirectory, 0, range, decode)? {
            Block::EntryDirectory(places) => f(places),
            _ => None,
        }
    }

    fn entry_block(&self, number: usize) -> Option<Arc<Block>> {
        let range = || {
            self.with_entry_places(|places| {
                let end = places.get(number + 1).map(|next| next.offset);
                Some((
                    places.get(number)?.offset,
                    end.unwrap_or(self.whole_part(Part::Entries).1),
                ))
            })
        };
        let version = self.header.segment.version;
        let decode = |content: &[u8]| blocks::decode_entries(content, version).map(Block::Entries);
        self.block(Part::Entries, number, range, decode)
    }

    /// The record at `place`, counted from 0.
    pub(in super::super) fn entry(&self, place: usize) -> Option<Entry> {
        match &*self.entry_block(place / ENTRIES_PER_BLOCK)? {
            Block::Entries(entries) => entries.get(place % ENTRIES_PER_BLOCK).copied(),
            _ => None,
        }
    }

    /// Goes through the records from `from` up to `to` in order, as long as `visit` says so.
    pub(in super::super) fn for_entries(
        &self,
        from: usize,
        to: usize,
        mut visit: impl FnMut(usize, &Entry) -> bool,
    ) {
        let mut place = from;
        while place < to.min(self.len()) {
            let number = place / ENTRIES_PER_BLOCK;
            let Some(block) = self.entry_block(number) else {
                return;
            };
            let Block::Entries(entries) = &*block else { return };
            let start = number * ENTRIES_PER_BLOCK;
            for (at, entry) in entries.iter().enumerate().skip(place - start).take(to - place) {
                if !visit(start + at, entry) {
                    return;
                }
            }
            place = start + ENTRIES_PER_BLOCK;
        }
    }

    /// Position of the record at `place`.
    pub(in super::super) fn seq(&self, place: usize) -> Option<u64> {
        if place >= self.len() {
            return None;
        }
        if self.header.is_gapless() {
            return Some(self.header.first + place as u64);
        }
        Some(self.header.segment.base_seq + u64::from(self.entry(place)?.delta))
    }

    /// Number of records below `seq`.
    pub(in super::super) fn below(&self, seq: u64) -> usize {
        let header = &self.header;
        if header.entries == 0 || seq <= header.first {
            return 0;
        }
        if seq > header.last {
            return self.len();
        }
        if header.is_gapless() {
            return (seq - header.first) as usize;
        }
        let delta = (seq - header.segment.base_seq) as u32;
        let number = self.with_entry_places(|places| {
            Some(
                places
                    .partition_point(|place| place.delta < delta)
                    .saturating_sub(1),
            )
        });
        let Some(number) = number else { return 0 };
        let inside = match self.entry_block(number).as_deref() {
            Some(Block::Entries(entries)) => entries.partition_point(|entry| entry.delta < delta),
            _ => 0,
        };
        number * ENTRIES_PER_BLOCK + inside
    }

    /// Places before this one have a lower time than `time`.
    pub(in super::super) fn before_time(&self, time: i64) -> usize {
        let number =
            self.with_entry_places(|places| Some(places.partition_point(|place| place.time_max < time)));
        (number.unwrap_or(0) * ENTRIES_PER_BLOCK).min(self.len())
    }

    /// Ranges of positions from the first record to the last that have none.
    pub(in super::super) fn for_gaps(&self, mut visit: impl FnMut(u64, u64)) {
        if self.len() == 0 || self.header.is_gapless() {
            return;
        }
        let places = self
            .with_entry_places(|places| Some(places.to_vec()))
            .unwrap_or_default();
        let base = self.header.segment.base_seq;
        let mut expected = self.header.first;
        for (number, place) in places.iter().enumerate() {
            let start = number * ENTRIES_PER_BLOCK;
            let len = ENTRIES_PER_BLOCK.min(self.len() - start) as u64;
            let end = places
                .get(number + 1)
                .map_or(self.header.last + 1, |next| base + u64::from(next.delta));
            let first = base + u64::from(place.delta);
            if first == expected && end == first + len {
                expected = end;
                continue;
            }
            self.for_entries(start, start + ENTRIES_PER_BLOCK, |_, entry| {
                let seq = base + u64::from(entry.delta);
                if seq > expected {
                    visit(expected, seq - 1);
                }
                expected = seq + 1;
                true
            });
        }
    }

    fn with_subject_places<T>(&self, f: impl FnOnce(&SubjectDirectory) -> Option<T>) -> Option<T> {
        let range = || Some(self.whole_part(Part::SubjectDirectory));
        let decode = |content: &[u8]| SubjectDirectory::decode(content).map(Block::SubjectDirectory);
        match &*self.block(Part::SubjectDirectory, 0, range, decode)? {
            Block::SubjectDirectory(directory) => f(directory),
            _ => None,
        }
    }

    pub(super) fn with_subject_block<T>(
        &self,
        number: usize,
        f: impl FnOnce(&SubjectBlock) -> Option<T>,
    ) -> Option<T> {
        let place = |number| self.with_subject_places(|directory| directory.place(number));
        let range = || {
            let end = place(number + 1).map_or(self.whole_part(Part::Subjects).1, |next| next.offset);
            Some((place(number)?.offset, end))
        };
        let decode =
            |content: &[u8]| SubjectBlock::decode(content, place(number)?.first_posting).map(Block::Subjects);
        match &*self.block(Part::Subjects, number, range, decode)? {
            Block::Subjects(block) => f(block),
            _ => None,
        }
    }

    /// What the segment has of one subject.
    pub(in super::super) fn find(&self, name: &str) -> Option<SubjectEntry> {
        if self.header.subjects == 0 {
            return None;
        }
        let number = self.with_subject_places(|directory| Some(directory.block_of(name)))?;
        self.with_subject_block(number, |block| {
            let (found, subject) = block.get(block.below(name))?;
            (found == name).then_some(subject)
        })
    }

    /// The subject of an entry.
    pub(in super::super) fn with_subject<T>(&self, rank: u32, f: impl FnOnce(&str) -> T) -> Option<T> {
        let rank = rank as usize;
        self.with_subject_block(rank / SUBJECTS_PER_BLOCK, |block| {
            block.get(rank % SUBJECTS_PER_BLOCK).map(|(name, _)| f(name))
        })
    }

    /// What the segment has of one subject, if its list has that in block `from` or after it.
    pub(in super::super) fn find_from(&self, name: &str, from: usize) -> Option<SubjectEntry> {
        let is_there = || self.with_subject_places(|directory| Some(directory.block_of(name) >= from));
        (from == 0 || is_there()?).then(|| self.find(name)).flatten()
    }

    /// Blocks of the list of subjects.
    pub(in super::super) fn blocks(&self) -> usize {
        (self.header.subjects as usize).div_ceil(SUBJECTS_PER_BLOCK)
    }

    /// Goes through the subjects of one block. `false`: it is not there, or cannot be read.
    pub(in super::super) fn for_block(
        &self,
        number: usize,
        mut visit: impl FnMut(&str, SubjectEntry),
    ) -> bool {
        let gone_through = self.with_subject_block(number, |block| {
            (0..block.len())
                .filter_map(|at| block.get(at))
                .for_each(|(name, subject)| visit(name, subject));
            Some(())
        });
        gone_through.is_some()
    }

    /// Goes through the subjects that begin with `prefix`, in order, with their ranks.
    pub(in super::super) fn for_subjects(&self, prefix: &str, visit: impl FnMut(u32, &str, SubjectEntry)) {
        self.for_subjects_from(prefix, 0, visit);
    }

    /// The same from a block on.
    pub(in super::super) fn for_subjects_from(
        &self,
        prefix: &str,
        from: usize,
        mut visit: impl FnMut(u32, &str, SubjectEntry),
    ) {
        let blocks = self.blocks();
        let first = if prefix.is_empty() {
            Some(0)
        } else {
            self.with_subject_places(|directory| Some(directory.block_of(prefix)))
        };
        for number in first.unwrap_or(blocks).max(from)..blocks {
            let goes_on = self.with_subject_block(number, |block| {
                for at in block.below(prefix)..block.len() {
                    let (name, subject) = block.get(at)?;
                    if !name.starts_with(prefix) {
                        return None;
                    }
                    visit((number * SUBJECTS_PER_BLOCK + at) as u32, name, subject);
                }
                Some(())
            });
            if goes_on.is_none() {
                return;
            }
        }
    }

    /// The place at `at` of the postings.
    pub(in super::super) fn posting(&self, at: u32) -> Option<u32> {
        if self.header.subjects <= 1 {
            return (at < self.header.entries).then_some(at);
        }
        match &*self.postings_block(at as usize / POSTINGS_PER_BLOCK)? {
            Block::Postings(places) => places.get(at as usize % POSTINGS_PER_BLOCK).copied(),
            _ => None,
        }
    }

    fn postings_block(&self, number: usize) -> Option<Arc<Block>> {
        let range = || {
            let (offset, end) = self.whole_part(Part::Postings);
            let start = offset + (number * (POSTINGS_PER_BLOCK * 4 + CRC_BYTES)) as u64;
            Some((
                start,
                end.min(start + (POSTINGS_PER_BLOCK * 4 + CRC_BYTES) as u64),
            ))
        };
        let decode = |content: &[u8]| blocks::decode_postings(content).map(Block::Postings);
        self.block(Part::Postings, number, range, decode)
    }

    /// Where the postings of a subject begin that are at `place` or after it.
    fn postings_from(&self, subject: SubjectEntry, place: usize) -> Option<u32> {
        let (mut low, mut high) = (subject.postings, subject.postings + subject.count);
        while low < high {
            let middle = u32::midpoint(low, high);
            if (self.posting(middle)? as usize) < place {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        Some(low)
    }

    /// Goes through the places of a subject, ascending.
    pub(in super::super) fn for_places(&self, subject: SubjectEntry, mut visit: impl FnMut(usize)) {
        let (mut at, end) = (subject.postings, subject.postings + subject.count);
        if self.header.subjects <= 1 {
            (at..end.min(self.header.entries)).for_each(|place| visit(place as usize));
            return;
        }
        while at < end {
            let from = at as usize % POSTINGS_PER_BLOCK;
            let count = (POSTINGS_PER_BLOCK - from).min((end - at) as usize);
            if let Some(Block::Postings(places)) =
                self.postings_block(at as usize / POSTINGS_PER_BLOCK).as_deref()
            {
                let there = places.iter().skip(from).take(count);
                there.for_each(|place| visit(*place as usize));
            }
            at += count as u32;
        }
    }

    /// The first record of a subject at `place` or after it that is not in `removed`.
    pub(in super::super) fn next_of(
        &self,
        subject: SubjectEntry,
        place: usize,
        removed: &Bits,
    ) -> Option<usize> {
        (self.postings_from(subject, place)?..subject.postings + subject.count)
            .map_while(|at| self.posting(at))
            .map(|place| place as usize)
            .find(|place| !removed.contains(*place))
    }

    /// The last record of a subject before `place` that is not in `removed`.
    pub(in super::super) fn last_of(
        &self,
        subject: SubjectEntry,
        place: usize,
        removed: &Bits,
    ) -> Option<usize> {
        (subject.postings..self.postings_from(subject, place)?)
            .rev()
            .map_while(|at| self.posting(at))
            .map(|place| place as usize)
            .find(|place| !removed.contains(*place))
    }

    /// The ranges that the segment's removals name. `None`: they cannot be read.
    pub(in super::super) fn removals(&self) -> Option<Vec<(u64, u64)>> {
        let (offset, len) = self.header.part(Part::Removals);
        let content = self.content(offset, len as usize)?;
        Some(
            content
                .chunks_exact(16)
                .filter_map(|pair| Some((u64_at(pair, 0)?, u64_at(pair, 8)?)))
                .collect(),
        )
    }

    /// Goes through the notes in order: position, time, whether it is lasting, the note. `false`: they cannot be read.
    pub(in super::super) fn for_notes(&self, mut visit: impl FnMut(u64, i64, bool, &[u8])) -> bool {
        let (offset, len) = self.header.part(Part::Notes);
        let Some(content) = self.content(offset, len as usize) else {
            return false;
        };
        let mut cursor = Cursor::new(&content);
        let (mut delta, mut time) = (0u64, 0i64);
        while !cursor.is_at_end() {
            let note = (|| {
                delta += cursor.number()?;
                time = time.wrapping_add(unzigzag(cursor.number()?));
                let head = cursor.number()?;
                Some((head & 1 == 1, cursor.take(usize::try_from(head >> 1).ok()?)?))
            })();
            let Some((is_lasting, note)) = note else {
                return false;
            };
            visit(self.header.segment.base_seq + delta, time, is_lasting, note);
        }
        true
    }
}
