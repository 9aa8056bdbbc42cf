//! Opening a stream after a clean end, a kill, a power cut or damage.
//!
//! Frames that fail their checksum are one of two things. If a good frame after them says that everything before it was
//! durable, they are damage: reading goes on at the next good frame, and the positions in between count as lost. If
//! none does, they are the unfinished last write: the log is cut there.

use std::path::{Path, PathBuf};

use super::StoreError;
use super::census;
use super::consumers;
use super::format::{DATA_START, SegmentHeader};
use super::index::{NewEntry, StreamIndex};
use super::marks::Marks;
use super::meta::{Loaded, MetaKind, Pair, StreamBody};
use super::prepare::remove_quietly;
use super::quarantine;
use super::ranges::Ranges;
use super::record::{self, Kind};
use super::scan::{self, Gap};
use super::seal::{self, Sealing, index_path};
use super::segment::{self, Data, Segment};
use super::state::{Backing, LostRange, RecoveryReport, SeqRange, StreamMeta};
use super::stream::{Log, Shared, Stream, overhead};
use super::subjects::Merge;
use super::tail::{self, Good};
use crate::env::{DirEntry, Fs, FsFile};
use crate::types::{StreamId, StreamSeq, UnixNanos};

/// A segment's file before its frames are read.
pub(super) struct Found {
    pub(super) header: SegmentHeader,
    pub(super) path: PathBuf,
    len: u64,
}

/// The segment where the log ends.
struct Last<'a, F: Fs> {
    found: Found,
    file: F::File,
    data: &'a [u8],
    good: Vec<Good>,
}

/// Opens the stream in `dir`. `None`: it was deleted, or never completely created, and is gone now.
pub(super) fn open_stream<F: Fs>(
    shared: &mut Shared<F>,
    id: StreamId,
    dir: &Path,
    marks: &Marks,
    report: &mut RecoveryReport,
) -> Result<Option<Stream<F>>, StoreError> {
    // What a killed program created can be seen without being durable.
    shared
        .fs
        .sync_dir(dir)
        .map_err(|err| StoreError::io("sync", dir, err))?;
    let entries = shared
        .fs
        .list(dir)
        .map_err(|err| StoreError::io("list", dir, err))?;
    let ids: Vec<u64> = entries
        .iter()
        .filter_map(|entry| segment::id_of(&entry.name))
        .collect();
    let Some(loaded) = Pair::load(&shared.fs, dir, "meta", MetaKind::Stream)? else {
        if ids.is_empty() {
            remove_stream(&shared.fs, dir)?;
            return Ok(None);
        }
        let reason = "neither copy of the stream's metadata is usable, but it has records";
        return Err(StoreError::Broken {
            file: dir.join("meta.0"),
            reason,
        });
    };
    let Loaded {
        mut pair,
        body: bytes,
        degraded,
    } = loaded;
    let Some(body) = StreamBody::decode(&bytes) else {
        return Err(StoreError::Broken {
            file: dir.join("meta.0"),
            reason: "the stream's metadata does not decode",
        });
    };
    // Written again even if it looks whole: after a failed sync it may look so without being on disk.
    pair.rewrite(&bytes)?;
    pair.write(&bytes)?;
    if body.deleted {
        // Both copies say so by now: either file may outlive the other.
        remove_stream(&shared.fs, dir)?;
        return Ok(None);
    }
    if degraded {
        shared
            .fs
            .sync_dir(dir)
            .map_err(|err| StoreError::io("sync", dir, err))?;
        report.metadata_repaired += 1;
    }
    let meta = StreamMeta {
        name: body.name.as_str().into(),
        config: body.config.as_slice().into(),
        created: UnixNanos(body.created),
        backing: Backing::File,
    };
    let mut log = Log::new(dir.to_owned(), pair, body.incarnation, body.floor);
    log.next_segment = ids.last().map_or(1, |last| last + 1);
    let mut stream = Stream::new(id, meta, body.floor, Some(log));
    stream.index.last_time = body.last_time;
    let census = census::Found::open(&shared.fs, dir, body.incarnation)?;
    let found = open_segments(shared, dir, &ids, (&body, census.as_ref()), report)?;
    if let Some(log) = &mut stream.log {
        // A number that an earlier segment stands for is never used again: its segment would count as replaced.
        let through = found.iter().map(|found| found.header.through).max();
        log.next_segment = log.next_segment.max(through.unwrap_or(0) + 1);
    }
    let mut covered = Ranges::default();
    remove_strays(&shared.fs, dir, &entries, &ids, census.as_ref());
    let found = (found, census);
    read_segments(&shared.sealer.sealing, &mut stream, found, &mut covered, report)?;
    stream
        .index
        .raise_last(body.last_seq.max(marks.of(body.incarnation)));
    stream.durable = stream.index.last;
    stream.durable_time = stream.index.last_time;
    stream.synced = stream.durable;
    note_lost(&mut stream, &covered, body.floor, report);
    stream.drop_dead();
    consumers::open_all(shared, &mut stream, report)?;
    report.streams += 1;
    Ok(Some(stream))
}

/// Opens the files of the segments that can hold records at the floor or above, and removes the others.
fn open_segments<F: Fs>(
    shared: &Shared<F>,
    dir: &Path,
    ids: &[u64],
    (body, census): (&StreamBody, Option<&census::Found<F>>),
    report: &mut RecoveryReport,
) -> Result<Vec<Found>, StoreError> {
    let mut found: Vec<Found> = Vec::with_capacity(ids.len());
    // Segments up to this number were replaced by one before them.
    let mut through = 0;
    let mut is_set_aside = false;
    for &id in ids {
        let path = dir.join(segment::file_name(id));
        if id <= through {
            remove_quietly(&shared.fs, &path);
            remove_quietly(&shared.fs, &index_path(&path));
            continue;
        }
        let file = shared
            .fs
            .open(&path)
            .map_err(|err| StoreError::io("open", &path, err))?;
        let len = file.len().map_err(|err| StoreError::io("read", &path, err))?;
        let head = scan::read_all(&file, len.min(DATA_START)).bytes;
        match SegmentHeader::decode(&head, id, &path)? {
            Some((header, _)) if header.incarnation != body.incarnation => {
                remove_quietly(&shared.fs, &path);
            }
            Some((header, damaged)) => {
                if damaged {
                    let written = file.write_at(&header.encode(), 0).and_then(|()| file.sync_data());
                    written.map_err(|err| StoreError::io("repair", &path, err))?;
                    report.metadata_repaired += 1;
                }
                through = header.through;
                while let Some(before) = found.pop_if(|_| header.base_seq <= body.floor) {
                    remove_quietly(&shared.fs, &before.path);
                    if census.is_none_or(|census| !census.names(before.header.id)) {
                        remove_quietly(&shared.fs, &index_path(&before.path));
                    }
                }
                found.push(Found { header, path, len });
            }
            None => {
                tracing::warn!(stream = %body.name, path = %path.display(),
                    "both headers of a segment are unusable, it is set aside");
                let aside = path.with_extension(quarantine::SET_ASIDE);
                shared
                    .fs
                    .rename(&path, &aside)
                    .map_err(|err| StoreError::io("rename", &path, err))?;
                is_set_aside = true;
            }
        }
    }
    if is_set_aside {
        let max = shared.options.damaged_bytes_max;
        report.set_aside_removed += quarantine::bound_set_aside(&shared.fs, &body.name, dir, max);
    }
    Ok(found)
}

/// Removes indexes that were not completed, and those whose segment is gone and that the census does not need.
fn remove_strays<F: Fs>(
    fs: &F,
    dir: &Path,
    names: &[DirEntry],
    ids: &[u64],
    census: Option<&census::Found<F>>,
) {
    for entry in names {
        let of = entry.name.strip_suffix(seal::SUFFIX);
        let of = of.and_then(|digits| u64::from_str_radix(digits, 16).ok());
        let is_needed =
            |id: &u64| ids.binary_search(id).is_ok() || census.is_some_and(|census| census.names(*id));
        let is_stray = of.is_some_and(|id| !is_needed(&id));
        if is_stray || entry.name.ends_with(seal::NEW_SUFFIX) {
            remove_quietly(fs, &dir.join(&entry.name));
        }
    }
}

/// Puts the records of all segments into the index, and finds where the log goes on.
fn read_segments<F: Fs>(
    sealing: &Sealing<F>,
    stream: &mut Stream<F>,
    (mut found, census): (Vec<Found>, Option<census::Found<F>>),
    covered: &mut Ranges,
    report: &mut RecoveryReport,
) -> Result<(), StoreError> {
    let fs = &sealing.fs;
    // The last segment with a frame is the one where the log may be torn. Those after it were only begun.
    let mut end = None;
    while let Some(last) = found.pop() {
        let file = fs
            .open(&last.path)
            .map_err(|err| StoreError::io("open", &last.path, err))?;
        let data = scan::read_all(&file, last.len);
        let good = tail::scan(&data.bytes, &last.header);
        if let (true, Some((from, _))) = (good.is_empty(), data.refused.first()) {
            // All its records may be there. Nothing may be taken for the end of the log because of that.
            return Err(tail::unreadable(&last.path, *from));
        }
        // The segment may grow, or be removed: an index of it, which it has if it was not the last before, is of no
        // use, and must not come back.
        let index = index_path(&last.path);
        let has_index = fs.open(&index).is_ok();
        if has_index {
            fs.remove(&index)
                .map_err(|err| StoreError::io("remove", &index, err))?;
        }
        if good.is_empty() {
            fs.remove(&last.path)
                .map_err(|err| StoreError::io("remove", &last.path, err))?;
        }
        if good.is_empty() || has_index {
            // It must not come back: its base is of records that were given up, and would mislead.
            let dir = last.path.parent().unwrap_or(&last.path);
            fs.sync_dir(dir).map_err(|err| StoreError::io("sync", dir, err))?;
        }
        if !good.is_empty() {
            end = Some((last, file, data, good));
            break;
        }
    }
    let Some((last, file, mut data, good)) = end else {
        return Ok(());
    };
    let (good, tail) = tail::cut_end(stream, fs, (&last, &file), &mut data, good, report)?;
    let last = Last {
        found: last,
        file,
        data: &data.bytes,
        good,
    };
    adopt_all(sealing, stream, (&found, census), last, covered, report)?;
    if let Some(log) = &mut stream.log {
        log.tail = tail as u64;
        log.unsettled = true;
    }
    Ok(())
}

/// Takes all segments into the stream: those before the last by their indexes, which are made anew where they are
/// missing or damaged, and their subjects by the census, as far as it can be used.
fn adopt_all<F: Fs>(
    sealing: &Sealing<F>,
    stream: &mut Stream<F>,
    (found, mut census): (&[Found], Option<census::Found<F>>),
    last: Last<'_, F>,
    covered: &mut Ranges,
    report: &mut RecoveryReport,
) -> Result<(), StoreError> {
    let floor = stream.log.as_ref().map_or(0, |log| log.floor);
    let last_time = stream.index.last_time;
    let attempts = [(true, true), (false, true), (false, false)];
    for (use_census, use_indexes) in attempts {
        let mut merge = Merge::default();
        stream.index = StreamIndex::new(floor, overhead(Backing::File));
        stream.index.last_time = last_time;
        stream.segments.clear();
        covered.clear();
        let mut counted = census.take().filter(|_| use_census);
        if use_census {
            let subjects = &mut stream.index.subjects;
            if !counted
                .as_mut()
                .is_some_and(|census| census.load(subjects, &mut merge))
            {
                continue;
            }
        }
        let mut is_whole = true;
        for (number, full) in found.iter().enumerate() {
            let next_base = found.get(number + 1).unwrap_or(&last.found).header.base_seq;
            let gathered = (&mut *covered, &mut merge, counted.as_mut());
            is_whole &= adopt_full(sealing, stream, (full, next_base), use_indexes, gathered, report)?;
        }
        if let Some(census) = &counted
            && !census.take_off_gone(&mut stream.index)
        {
            continue;
        }
        stream.index.remove_below(floor);
        adopt(
            &mut stream.index,
            &last.found.header,
            last.data,
            &last.good,
            floor,
            covered,
        );
        stream.index.remove_ranges(covered);
        if is_whole && !stream.index.is_broken() {
            stream.census = counted.map(census::Found::into_census).unwrap_or_default();
            break;
        }
    }
    stream.census.is_stirred = true;
    stream.sealed = stream.segments.len();
    report.records += stream
        .index
        .segments
        .iter()
        .map(|segment| segment.len() as u64)
        .sum::<u64>();
    let Last { found, file, .. } = last;
    let data = Data::File {
        file,
        path: found.path,
    };
    stream.segments.push_back(Segment {
        id: found.header.id,
        version: found.header.version,
        seed: found.header.salt,
        end: found.len,
        data,
        is_handed_over: false,
        through: found.header.through,
        tried_at: u64::MAX,
    });
    Ok(())
}

/// Takes a segment before the last into the stream. `false`: its index turned out to be damaged.
fn adopt_full<F: Fs>(
    sealing: &Sealing<F>,
    stream: &mut Stream<F>,
    (full, next_base): (&Found, u64),
    use_index: bool,
    (covered, merge, census): (&mut Ranges, &mut Merge, Option<&mut census::Found<F>>),
    report: &mut RecoveryReport,
) -> Result<bool, StoreError> {
    let opened = sealing.open(full.header, &full.path, full.len, use_index)?;
    if let Some(gaps) = &opened.gaps {
        report.indexes_rebuilt += 1;
        let end = opened.index.as_ref().map_or(DATA_START, |index| index.header.end);
        let last = opened
            .index
            .as_ref()
            .map_or(full.header.base_seq.saturating_sub(1), |index| {
                index.header.last_seq
            });
        let mut gaps = gaps.clone();
        if last + 1 < next_base {
            gaps.push(Gap {
                from: end,
                to: full.len,
                first: last + 1,
                last: next_base - 1,
            });
        }
        stream.keep_read_gaps_aside(&sealing.fs, &full.path, full.header.id, &gaps);
    }
    let Some(index) = opened.index else {
        // Its records are lost, which the gap shows.
        remove_quietly(&sealing.fs, &full.path);
        remove_quietly(&sealing.fs, &index_path(&full.path));
        return Ok(true);
    };
    let removals = index.removals();
    let is_whole = removals.is_some();
    for (first, last) in removals.unwrap_or_default() {
        covered.insert(first, last);
    }
    let is_counted = census.is_some_and(|census| census.counts(&index.header));
    stream.index.add_sealed(index, (!is_counted).then_some(merge));
    stream.segments.push_back(Segment {
        id: full.header.id,
        version: full.header.version,
        seed: full.header.salt,
        end: full.len,
        data: Data::Sealed(sealing.handles.lazy(full.path.clone())),
        is_handed_over: true,
        through: full.header.through,
        tried_at: u64::MAX,
    });
    Ok(is_whole)
}

/// Takes the frames of the last segment into the index.
fn adopt(
    index: &mut StreamIndex,
    header: &SegmentHeader,
    data: &[u8],
    good: &[Good],
    floor: u64,
    covered: &mut Ranges,
) {
    index.add_segment(header.base_seq);
    index.raise_last(header.base_seq.saturating_sub(1));
    for place in good {
        let Some(frame) = record::view(&data[place.offset..]) else {
            continue;
        };
        let seq = frame.head.seq;
        match frame.head.kind {
            Kind::Message if seq >= floor && seq - header.base_seq <= u64::from(u32::MAX) => {
                index.push(&NewEntry {
                    seq,
                    time: frame.head.time,
                    subject: std::str::from_utf8(frame.subject).unwrap_or_default(),
                    has_headers: frame.has_headers(),
                    len: frame.len() as u32,
                    saved: frame.saved(),
                    offset: place.offset as u64,
                });
            }
            Kind::Message | Kind::Settle => {}
            Kind::Remove => {
                for (first, last) in record::removals(frame.payload) {
                    covered.insert(first, last);
                }
            }
        }
        index.raise_last(seq);
    }
}

/// Finds the positions that had a record, and have none that was read or removed.
fn note_lost<F: Fs>(stream: &mut Stream<F>, covered: &Ranges, floor: u64, report: &mut RecoveryReport) {
    for (first, last) in stream.index.gaps(floor).iter() {
        covered.subtract_from(first, last, &mut stream.lost);
    }
    for (first, last) in stream.lost.iter() {
        let range = SeqRange {
            first: StreamSeq(first),
            last: StreamSeq(last),
        };
        report.lost.push(LostRange {
            stream: stream.meta.name.clone(),
            range,
        });
    }
}

/// Removes the directory of a stream that was deleted or never completed. Its metadata goes last: segments without it
/// are taken for damage.
pub(super) fn remove_stream<F: Fs>(fs: &F, dir: &Path) -> Result<(), StoreError> {
    let entries = fs.list(dir).map_err(|err| StoreError::io("list", dir, err))?;
    let (meta, others): (Vec<_>, Vec<_>) = entries.iter().partition(|entry| entry.name.starts_with("meta."));
    for entry in others {
        let path = dir.join(&entry.name);
        if entry.is_dir {
            remove_tree(fs, &path)?;
        } else {
            fs.remove(&path)
                .map_err(|err| StoreError::io("remove", &path, err))?;
        }
    }
    fs.sync_dir(dir).map_err(|err| StoreError::io("sync", dir, err))?;
    for entry in meta {
        let path = dir.join(&entry.name);
        fs.remove(&path)
            .map_err(|err| StoreError::io("remove", &path, err))?;
    }
    fs.remove_dir(dir)
        .map_err(|err| StoreError::io("remove", dir, err))
}

/// Removes a directory with all that is in it.
fn remove_tree<F: Fs>(fs: &F, dir: &Path) -> Result<(), StoreError> {
    for entry in fs.list(dir).map_err(|err| StoreError::io("list", dir, err))? {
        let path = dir.join(&entry.name);
        if entry.is_dir {
            remove_tree(fs, &path)?;
        } else {
            fs.remove(&path)
                .map_err(|err| StoreError::io("remove", &path, err))?;
        }
    }
    fs.remove_dir(dir)
        .map_err(|err| StoreError::io("remove", dir, err))
}
