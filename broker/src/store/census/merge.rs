//! Taking a census: the lists of its inputs are read side by side, each in order, and what they say of a subject is added
//! up. Needs the memory of a few blocks, however many subjects there are.

use std::path::Path;

use super::file::{Reader, Subject, Writer};
use super::{FILE, Member, NEW_FILE, NotTaken, Taken, Task};
use crate::env::Fs;
use crate::store::prepare::remove_quietly;
use crate::store::seal::LookedAt;
use crate::store::sealed::{BlockCache, SealedIndex, SubjectCursor};

/// Memory for the blocks of the indexes read.
const CACHE_BYTES: usize = 8 * 1024 * 1024;
/// Bytes of a subject in the file, for all that is known before.
const SUBJECT_BYTES: u64 = 64;

/// A list of subjects that is read in order.
struct Input<'a, F: Fs> {
    list: List<'a, F>,
    /// Whether it is to be taken off.
    is_minus: bool,
    /// What comes next; nothing if the list is at its end.
    head: Option<Subject>,
}

enum List<'a, F: Fs> {
    Census(Reader<F::File>),
    Index { cursor: SubjectCursor<'a>, base: u64 },
}

impl<'a, F: Fs> Input<'a, F> {
    fn new(list: List<'a, F>, is_minus: bool) -> Result<Self, NotTaken> {
        let mut input = Self {
            list,
            is_minus,
            head: Some(Subject::default()),
        };
        input.advance()?;
        Ok(input)
    }

    fn advance(&mut self) -> Result<(), NotTaken> {
        let Some(head) = &mut self.head else { return Ok(()) };
        let is_there = match &mut self.list {
            List::Census(reader) => reader.next(head).map_err(|_| NotTaken::Unusable)?,
            List::Index { cursor, base } => match cursor.next() {
                Ok(Some((name, subject))) => {
                    head.name.clear();
                    head.name.push_str(name);
                    head.records = u64::from(subject.count);
                    head.first = *base + u64::from(subject.first);
                    head.last = *base + u64::from(subject.last);
                    true
                }
                Ok(None) => false,
                Err(_) if self.is_minus => return Err(NotTaken::Unusable),
                Err(_) => return Err(NotTaken::Gone),
            },
        };
        if !is_there {
            self.head = None;
        }
        Ok(())
    }
}

/// Takes a census, and puts it in the place of the one before. Durable on return.
pub(in crate::store) fn take<F: Fs>(fs: &F, task: Task) -> Taken {
    let outcome = write(fs, &task);
    if outcome.is_err() {
        remove_quietly(fs, &task.dir.join(NEW_FILE));
    }
    Taken { task, outcome }
}

fn write<F: Fs>(fs: &F, task: &Task) -> Result<u64, NotTaken> {
    let cache = BlockCache::new(CACHE_BYTES);
    let mut indexes = Vec::new();
    for member in &task.plus {
        let index = open_index(fs, &task.dir, member, &cache).ok_or(NotTaken::Gone)?;
        indexes.push((index, false));
    }
    for member in &task.minus {
        let index = open_index(fs, &task.dir, member, &cache).ok_or(NotTaken::Unusable)?;
        indexes.push((index, true));
    }
    let mut inputs = Vec::new();
    let mut known = 0;
    if !task.before.is_empty() {
        let found = Reader::open(fs, &task.dir.join(FILE), task.incarnation);
        let (reader, members) = found.ok().flatten().ok_or(NotTaken::Unusable)?;
        if members != task.before {
            return Err(NotTaken::Unusable);
        }
        known = reader.header.subjects;
        inputs.push(Input::<F>::new(List::Census(reader), false)?);
    }
    for (index, is_minus) in &indexes {
        known += u64::from(index.header.subjects);
        let list = List::Index {
            cursor: SubjectCursor::new(index),
            base: index.header.segment.base_seq,
        };
        inputs.push(Input::new(list, *is_minus)?);
    }
    let free = fs.free_bytes(&task.dir)?;
    if free < known * SUBJECT_BYTES + 4 * task.reserve {
        return Err(NotTaken::NoRoom);
    }
    let new = task.dir.join(NEW_FILE);
    remove_quietly(fs, &new);
    let mut writer = Writer::new(fs.create(&new)?, task.incarnation, &task.after())?;
    merge(&mut inputs, &mut writer, task.first)?;
    let subjects = writer.finish()?;
    fs.rename(&new, &task.dir.join(FILE))?;
    fs.sync_dir(&task.dir)?;
    Ok(subjects)
}

/// Adds up what the inputs say; no record that stays is below `first`.
fn merge<F: Fs>(
    inputs: &mut Vec<Input<'_, F>>,
    writer: &mut Writer<F::File>,
    first: u64,
) -> Result<(), NotTaken> {
    let mut sum = Subject::default();
    loop {
        inputs.retain(|input| input.head.is_some());
        let heads = inputs.iter().filter_map(|input| input.head.as_ref());
        let Some(lowest) = heads.min_by(|a, b| a.name.cmp(&b.name)) else {
            return Ok(());
        };
        sum.name.clone_from(&lowest.name);
        (sum.records, sum.first, sum.last) = (0, u64::MAX, 0);
        let mut gone = 0;
        for input in inputs.iter_mut() {
            let Some(head) = input.head.as_ref().filter(|head| head.name == sum.name) else {
                continue;
            };
            if input.is_minus {
                gone += head.records;
            } else {
                sum.records += head.records;
                sum.first = sum.first.min(head.first);
                sum.last = sum.last.max(head.last);
            }
            input.advance()?;
        }
        sum.records = sum.records.checked_sub(gone).ok_or(NotTaken::Unusable)?;
        if sum.records == 0 {
            continue;
        }
        if gone > 0 {
            sum.first = sum.first.max(first);
        }
        if sum.first > sum.last {
            return Err(NotTaken::Unusable);
        }
        writer.push(&sum)?;
    }
}

/// The index of a member, if its file is there as it was. What is damaged in it stays damaged.
pub(super) fn open_index<F: Fs>(
    fs: &F,
    dir: &Path,
    member: &Member,
    cache: &BlockCache,
) -> Option<SealedIndex> {
    let path = member.path(dir);
    let source = Box::new(LookedAt(fs.open(&path).ok()?));
    let index = SealedIndex::open(source, cache, &path).ok()??;
    (Member::of(&index.header) == *member).then_some(index)
}
