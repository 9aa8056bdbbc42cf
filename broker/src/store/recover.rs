//! Opening a stream after a clean end, a kill, a power cut or damage.
//!
//! Frames that fail their checksum are one of two things. If a good frame after them says that everything before it was
//! durable, they are damage: reading goes on at the next good frame, and the positions in between count as lost. If
//! none does, they are the unfinished last write: the log is cut there.

use std::path::{Path, PathBuf};

use super::StoreError;
use super::consumers::{self, Consumer};
use super::format::{DATA_START, SegmentHeader};
use super::index::NewEntry;
use super::marks::Marks;
use super::meta::{ConsumerBody, Loaded, MetaKind, Pair, StreamBody};
use super::prepare::remove_quietly;
use super::ranges::Ranges;
use super::record::{self, FLAG_BATCH_START, Kind, padded};
use super::segment::{self, Data, Segment};
use super::state::{Backing, LostRange, RecoveryReport, SeqRange, StreamMeta};
use super::stream::{Log, Shared, Stream};
use crate::env::{Fs, FsFile};
use crate::types::{StreamId, StreamSeq, UnixNanos};

/// Bytes read at once when a part of a file cannot be read.
const SALVAGE_BYTES: usize = 4096;

/// No frame begins in bytes like these; most of a new segment is.
const BLANK: [u8; 1024] = [0; 1024];

/// A segment's file before its frames are read.
struct Found<F: Fs> {
    header: SegmentHeader,
    file: F::File,
    path: PathBuf,
    len: u64,
}

/// A good frame.
#[derive(Clone, Copy, Debug)]
pub(super) struct Good {
    pub(super) offset: usize,
    /// Where the next frame begins.
    pub(super) end: usize,
    batch_start: bool,
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
    let found = open_segments(shared, dir, &ids, &body, report)?;
    let mut covered = Ranges::default();
    read_segments(&shared.fs, &mut stream, found, &mut covered, report)?;
    stream
        .index
        .raise_last(body.last_seq.max(marks.of(body.incarnation)));
    stream.durable = stream.index.last;
    note_lost(&mut stream, &covered, body.floor, report);
    stream.drop_dead();
    open_consumers(shared, &mut stream, report)?;
    report.streams += 1;
    Ok(Some(stream))
}

/// Opens the files of the segments that can hold records at the floor or above, and removes the others.
fn open_segments<F: Fs>(
    shared: &Shared<F>,
    dir: &Path,
    ids: &[u64],
    body: &StreamBody,
    report: &mut RecoveryReport,
) -> Result<Vec<Found<F>>, StoreError> {
    let mut found: Vec<Found<F>> = Vec::with_capacity(ids.len());
    for &id in ids {
        let path = dir.join(segment::file_name(id));
        let file = shared
            .fs
            .open(&path)
            .map_err(|err| StoreError::io("open", &path, err))?;
        let len = file.len().map_err(|err| StoreError::io("read", &path, err))?;
        let head = read_all(&file, len.min(DATA_START));
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
                while let Some(before) = found.pop_if(|_| header.base_seq <= body.floor) {
                    remove_quietly(&shared.fs, &before.path);
                }
                found.push(Found {
                    header,
                    file,
                    path,
                    len,
                });
            }
            None => {
                tracing::warn!(stream = %body.name, path = %path.display(),
                    "both headers of a segment are unusable, it is set aside");
                let aside = path.with_extension("damaged");
                shared
                    .fs
                    .rename(&path, &aside)
                    .map_err(|err| StoreError::io("rename", &path, err))?;
            }
        }
    }
    Ok(found)
}

/// Puts the records of all segments into the index, and finds where the log goes on.
fn read_segments<F: Fs>(
    fs: &F,
    stream: &mut Stream<F>,
    mut found: Vec<Found<F>>,
    covered: &mut Ranges,
    report: &mut RecoveryReport,
) -> Result<(), StoreError> {
    // The last segment with a frame is the one where the log may be torn. Those after it were only begun.
    let mut end = None;
    while let Some(last) = found.pop() {
        let data = read_all(&last.file, last.len);
        let good = scan(&data, &last.header);
        if !good.is_empty() {
            end = Some((last, data, good));
            break;
        }
        fs.remove(&last.path)
            .map_err(|err| StoreError::io("remove", &last.path, err))?;
        // It must not come back: its base is of records that were given up, and would mislead.
        let dir = last.path.parent().unwrap_or(&last.path);
        fs.sync_dir(dir).map_err(|err| StoreError::io("sync", dir, err))?;
    }
    let Some((last, mut data, mut good)) = end else {
        return Ok(());
    };
    let mut spare = Vec::new();
    let bases: Vec<u64> = found.iter().map(|segment| segment.header.base_seq).collect();
    for (number, full) in found.into_iter().enumerate() {
        read_into(&mut spare, &full.file, full.len);
        let data = &spare;
        let good = scan(data, &full.header);
        if good.is_empty() {
            // Its records are lost, which the gap shows.
            let next_base = bases.get(number + 1).copied().unwrap_or(last.header.base_seq);
            stream.keep_gaps_aside(fs, &full.header, data, &good, next_base);
            remove_quietly(fs, &full.path);
            continue;
        }
        let next_base = bases.get(number + 1).copied().unwrap_or(last.header.base_seq);
        stream.keep_gaps_aside(fs, &full.header, data, &good, next_base);
        adopt(stream, full, data, &good, covered, report);
    }
    let cut = cut_at(&good);
    let beyond = good.split_off(cut);
    stream.keep_gaps_aside(fs, &last.header, &data, &good, 0);
    let tail = good.last().map_or(DATA_START as usize, |frame| frame.end);
    if let Some(stale) = beyond.last() {
        data[tail..stale.end].fill(0);
        let written = last.file.write_at(&data[tail..stale.end], tail as u64);
        written.map_err(|err| StoreError::io("cut", &last.path, err))?;
        report.torn_bytes += (stale.end - tail) as u64;
        tracing::warn!(stream = %stream.meta.name, segment = last.header.id, bytes = stale.end - tail,
            "cut an unfinished write from the end of the log");
    }
    // After a failed sync the last write may look whole without being on disk.
    let from = good
        .iter()
        .rfind(|frame| frame.batch_start)
        .map_or(tail, |frame| frame.offset);
    let written = last.file.write_at(&data[from..tail], from as u64);
    written.map_err(|err| StoreError::io("write", &last.path, err))?;
    last.file
        .sync_data()
        .map_err(|err| StoreError::io("sync", &last.path, err))?;
    adopt(stream, last, &data, &good, covered, report);
    if let Some(log) = &mut stream.log {
        log.tail = tail as u64;
        log.unsettled = true;
    }
    Ok(())
}

/// Number of frames of the last segment that count: up to the first damage after the last frame that says that
/// everything before it was durable.
fn cut_at(good: &[Good]) -> usize {
    let known = good.iter().rposition(|frame| frame.batch_start);
    let start = match known {
        Some(at) => at + 1,
        None => return 0,
    };
    (start..good.len())
        .find(|&at| good[at].offset != good[at - 1].end)
        .unwrap_or(good.len())
}

/// The good frames of a segment in rising order of positions.
fn scan(data: &[u8], header: &SegmentHeader) -> Vec<Good> {
    let mut good = Vec::new();
    let mut last = header.base_seq.saturating_sub(1);
    let mut at = DATA_START as usize;
    while at + record::HEADER_BYTES <= data.len() {
        let frame = if data[at..at + 4] == record::MARK {
            record::decode(&data[at..], header.salt)
        } else {
            None
        };
        let rising = frame.filter(|frame| match frame.head.kind {
            Kind::Message => frame.head.seq > last,
            Kind::Remove | Kind::Settle => frame.head.seq >= last,
        });
        let Some(frame) = rising else {
            let is_blank = data.get(at..at + BLANK.len()) == Some(&BLANK[..]);
            at += if is_blank { BLANK.len() } else { record::ALIGN };
            continue;
        };
        last = frame.head.seq;
        let end = at + padded(frame.len());
        good.push(Good {
            offset: at,
            end,
            batch_start: frame.head.flags & FLAG_BATCH_START != 0,
        });
        at = end;
    }
    good
}

/// Takes a segment and its frames into the stream.
fn adopt<F: Fs>(
    stream: &mut Stream<F>,
    found: Found<F>,
    data: &[u8],
    good: &[Good],
    covered: &mut Ranges,
    report: &mut RecoveryReport,
) {
    let Found {
        header,
        file,
        path,
        len,
    } = found;
    let index = &mut stream.index;
    index.add_segment(header.base_seq);
    index.raise_last(header.base_seq.saturating_sub(1));
    let floor = stream.log.as_ref().map_or(0, |log| log.floor);
    let mut before: &[u8] = &[];
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
                    has_headers: !frame.headers.is_empty(),
                    len: frame.len() as u32,
                    offset: place.offset as u64,
                });
                report.records += 1;
            }
            Kind::Message | Kind::Settle => {}
            Kind::Remove => {
                // The second of two equal frames says nothing new.
                if frame.payload != before {
                    for (first, last) in record::removals(frame.payload) {
                        remove_range(index, first, last, covered);
                    }
                }
                before = frame.payload;
            }
        }
        index.raise_last(seq);
    }
    let data = Data::File { file, path };
    stream.segments.push_back(Segment {
        id: header.id,
        seed: header.salt,
        end: len,
        data,
    });
}

/// Removes the records in a range, and notes the range if not each of its positions had one.
fn remove_range(index: &mut super::index::StreamIndex, first: u64, last: u64, covered: &mut Ranges) {
    let mut removed = 0;
    let mut at = first;
    while let Some(seq) = index.next_live(at).filter(|&seq| seq <= last) {
        index.remove(seq);
        removed += 1;
        at = seq + 1;
    }
    if removed <= last.saturating_sub(first) {
        covered.insert(first, last);
    }
}

/// Finds the positions that had a record, and have none that was read or removed.
fn note_lost<F: Fs>(stream: &mut Stream<F>, covered: &Ranges, floor: u64, report: &mut RecoveryReport) {
    let mut next = floor;
    for seq in stream.index.known().filter(|&seq| seq >= floor) {
        if seq > next {
            covered.subtract_from(next, seq - 1, &mut stream.lost);
        }
        next = seq + 1;
    }
    if next <= stream.index.last {
        covered.subtract_from(next, stream.index.last, &mut stream.lost);
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

fn open_consumers<F: Fs>(
    shared: &Shared<F>,
    stream: &mut Stream<F>,
    report: &mut RecoveryReport,
) -> Result<(), StoreError> {
    let Some(log) = &stream.log else { return Ok(()) };
    let dir = log.dir.join(consumers::DIR);
    let fs = &shared.fs;
    if fs.list(&dir).is_err() {
        fs.create_dir_all(&dir)
            .map_err(|err| StoreError::io("create", &dir, err))?;
        fs.sync_dir(&log.dir)
            .map_err(|err| StoreError::io("sync", &log.dir, err))?;
    }
    fs.sync_dir(&dir)
        .map_err(|err| StoreError::io("sync", &dir, err))?;
    let entries = fs.list(&dir).map_err(|err| StoreError::io("list", &dir, err))?;
    let mut stems: Vec<&str> = entries
        .iter()
        .filter_map(|entry| {
            entry
                .name
                .strip_suffix(".0")
                .or_else(|| entry.name.strip_suffix(".1"))
        })
        .collect();
    stems.dedup();
    let alone = stems.len() <= consumers::SYNCED_ALONE_MAX;
    let repaired_before = report.metadata_repaired;
    for stem in stems {
        let loaded = Pair::load(fs, &dir, stem, MetaKind::Consumer)?;
        let Some(Loaded {
            mut pair,
            body: bytes,
            degraded,
        }) = loaded
        else {
            tracing::warn!(stream = %stream.meta.name, consumer = stem,
                "neither copy of a consumer is usable, it is removed");
            remove_quietly(fs, &dir.join(format!("{stem}.0")));
            remove_quietly(fs, &dir.join(format!("{stem}.1")));
            report.metadata_repaired += 1;
            continue;
        };
        let Some(body) = ConsumerBody::decode(&bytes) else {
            return Err(StoreError::Broken {
                file: dir.join(format!("{stem}.0")),
                reason: "the consumer does not decode",
            });
        };
        if body.deleted {
            // First both copies have to say so: either file may outlive the other.
            pair.write(&bytes)?;
            pair.remove()
                .map_err(|err| StoreError::io("remove", &dir.join(stem), err))?;
            continue;
        }
        if alone {
            pair.write(&bytes)?;
        } else {
            pair.write_for_sync_all(&bytes)?;
        }
        report.metadata_repaired += u64::from(degraded);
        stream.consumers.insert(
            body.name.clone(),
            Consumer {
                body,
                pair: Some(pair),
                pending: None,
            },
        );
    }
    if report.metadata_repaired > repaired_before {
        fs.sync_dir(&dir)
            .map_err(|err| StoreError::io("sync", &dir, err))?;
    }
    if !alone {
        fs.sync_all(&dir)
            .map_err(|err| StoreError::io("sync", &dir, err))?;
    }
    Ok(())
}

/// The first `len` bytes of a file; zeros where it cannot be read.
fn read_all(file: &impl FsFile, len: u64) -> Vec<u8> {
    let mut data = Vec::new();
    read_into(&mut data, file, len);
    data
}

/// Fills `data` with the first `len` bytes of a file, and zeros where it cannot be read.
fn read_into(data: &mut Vec<u8>, file: &impl FsFile, len: u64) {
    let len = len as usize;
    if data.len() < len {
        *data = vec![0; len];
    }
    data.truncate(len);
    if file.read_at(data, 0).is_ok_and(|count| count == len) {
        return;
    }
    for (number, part) in data.chunks_mut(SALVAGE_BYTES).enumerate() {
        let offset = (number * SALVAGE_BYTES) as u64;
        part.fill(0);
        if let Err(err) = file.read_at(part, offset) {
            tracing::warn!(offset, error = %err, "a part of a segment cannot be read");
            part.fill(0);
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    fn good(frames: &[(usize, usize, bool)]) -> Vec<Good> {
        frames
            .iter()
            .map(|&(offset, end, batch_start)| Good {
                offset,
                end,
                batch_start,
            })
            .collect()
    }

    #[test]
    fn only_damage_that_nothing_vouches_for_is_cut() {
        for (frames, expected) in [
            (&[(1024, 1100, true), (1100, 1200, false)][..], 2),
            // A hole in the last batch: a torn write.
            (&[(1024, 1100, true), (1150, 1200, false)], 1),
            // A hole before the start of a later batch: damage.
            (&[(1024, 1100, true), (1150, 1200, false), (1200, 1240, true)], 3),
            (&[(1024, 1100, true), (1150, 1200, true)], 2),
            // The first frame is missing, and no batch start is left.
            (&[(1100, 1200, false)], 0),
            (&[(1100, 1200, true)], 1),
        ] {
            assert_eq!(cut_at(&good(frames)), expected, "{frames:?}");
        }
    }
}
