//! Where the log of a stream ends.
//!
//! Frames of the last segment that fail their checksum are one of two things. If a good frame after them says that
//! everything before it was durable, they are damage, and what is behind them counts. If none does, they are the
//! unfinished last write: the log is cut there. Nothing is cut or overwritten that the disk refuses to give.

use std::path::Path;

use super::StoreError;
use super::format::{DATA_START, SegmentHeader};
use super::pack::Bodies;
use super::record::{self, FLAG_BATCH_START, padded};
use super::recover::Found;
use super::scan::{self, BLANK, Read};
use super::state::RecoveryReport;
use super::stream::Stream;
use crate::env::{Fs, FsFile};

/// A good frame.
#[derive(Clone, Copy, Debug)]
pub(super) struct Good {
    pub(super) offset: usize,
    /// Where the next frame begins.
    pub(super) end: usize,
    pub(super) batch_start: bool,
}

/// Cuts an unfinished write from the end of the log. Returns the frames that count, and where they end.
pub(super) fn cut_end<F: Fs>(
    stream: &Stream<F>,
    fs: &F,
    (last, file): (&Found, &F::File),
    data: &mut Read,
    mut good: Vec<Good>,
    report: &mut RecoveryReport,
) -> Result<(Vec<Good>, usize), StoreError> {
    let mut cut = cut_at(&good);
    if let Some(gap) = gap_at(&good, cut)
        && data.refuses(gap.0, good.last().map_or(gap.1, |last| last.end))
    {
        // A torn write can be read. What the disk refuses may be whole, and so may be what is behind it.
        cut = good.len();
    }
    let beyond = good.split_off(cut);
    stream.keep_gaps_aside(fs, &last.header, &data.bytes, &good, 0);
    let tail = good.last().map_or(DATA_START as usize, |frame| frame.end);
    // Frames follow each other without a gap: a further one would begin here.
    let next = data.bytes.get(tail..tail + record::HEADER_BYTES);
    let len = next.and_then(|header| record::frame_len(header, last.header.salt));
    if data.refuses(tail, tail + len.unwrap_or(record::HEADER_BYTES)) {
        return Err(unreadable(&last.path, tail as u64));
    }
    if let Some(stale) = beyond.last() {
        data.bytes[tail..stale.end].fill(0);
        let written = file.write_at(&data.bytes[tail..stale.end], tail as u64);
        written.map_err(|err| StoreError::io("cut", &last.path, err))?;
        report.torn_bytes += (stale.end - tail) as u64;
        tracing::warn!(stream = %stream.meta.name, segment = last.header.id, bytes = stale.end - tail,
            "cut an unfinished write from the end of the log");
    }
    // After a failed sync the last write may look whole without being on disk. Frame by frame: what lies between them is
    // left as it is.
    let start = good
        .iter()
        .rposition(|frame| frame.batch_start)
        .unwrap_or(good.len());
    for run in runs(&good[start..]) {
        let written = file.write_at(&data.bytes[run.0..run.1], run.0 as u64);
        written.map_err(|err| StoreError::io("write", &last.path, err))?;
    }
    file.sync_data()
        .map_err(|err| StoreError::io("sync", &last.path, err))?;
    Ok((good, tail))
}

/// The end of the log cannot be read, and so not be found.
pub(super) fn unreadable(path: &Path, at: u64) -> StoreError {
    let source = std::io::Error::other(format!(
        "the disk refuses the bytes at {at}, which may be the end of the log"
    ));
    StoreError::io("read", path, source)
}

/// The bytes before the good frame at `place` that are none.
fn gap_at(good: &[Good], place: usize) -> Option<(usize, usize)> {
    let next = good.get(place)?;
    let from = place.checked_sub(1).and_then(|before| good.get(before));
    Some((from.map_or(DATA_START as usize, |frame| frame.end), next.offset))
}

/// Frames that follow each other without a gap: where they begin and end.
fn runs(good: &[Good]) -> Vec<(usize, usize)> {
    let mut runs: Vec<(usize, usize)> = Vec::new();
    for frame in good {
        match runs.last_mut() {
            Some(run) if run.1 == frame.offset => run.1 = frame.end,
            _ => runs.push((frame.offset, frame.end)),
        }
    }
    runs
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
pub(super) fn scan(data: &[u8], header: &SegmentHeader) -> Vec<Good> {
    let mut good = Vec::new();
    let mut bodies = Bodies::default();
    let mut last = header.base_seq.saturating_sub(1);
    let mut at = DATA_START as usize;
    while at + record::HEADER_BYTES <= data.len() {
        let frame = if data[at..at + 4] == record::MARK {
            record::decode(&data[at..], header.salt)
        } else {
            None
        };
        let Some(frame) = frame.filter(|frame| scan::rises(frame, last) && bodies.is_good(frame)) else {
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
