//! Damaged bytes, kept aside for inspection: copies in a directory of the stream, few and small enough never to matter
//! for the disk.

use std::path::{Path, PathBuf};

use super::format::{DATA_START, SegmentHeader};
use super::prepare::remove_quietly;
use super::record::{self, Kind};
use super::scan::Gap;
use super::state::SeqRange;
use super::stream::Stream;
use super::tail::Good;
use crate::env::{Fs, FsFile};
use crate::types::StreamSeq;

/// Directory of damaged bytes inside a stream's.
pub(super) const DIR: &str = "quarantine";
/// Ending of segments that are set aside as a whole: neither of their headers can be read.
pub(super) const SET_ASIDE: &str = "damaged";
/// Suffix of the files in it.
const SUFFIX: &str = ".bytes";
/// Files kept for one stream at most.
const FILES_MAX: u64 = 64;
/// Bytes kept for one stream at most.
const BYTES_MAX: u64 = 8 * 1024 * 1024;
/// Bytes kept of one damage at most.
const FILE_BYTES_MAX: usize = 1024 * 1024;

/// Bytes that are not what was written.
#[derive(Clone, Copy, Debug)]
pub(super) struct Damage<'a> {
    /// Number of the segment that they are in.
    pub(super) segment: u64,
    /// Where in it they begin.
    pub(super) offset: u64,
    pub(super) bytes: &'a [u8],
    /// Positions that they may have held.
    pub(super) range: SeqRange,
}

/// What is kept aside of one stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Quarantine {
    /// Whether the directory was counted.
    is_counted: bool,
    /// Files in the directory.
    pub(super) files: u64,
    /// Their bytes.
    pub(super) bytes: u64,
}

impl Quarantine {
    /// Copies the damaged bytes aside and says so in the log, once for each place; what does not fit is only logged.
    /// Nothing depends on the copy: it is not synced, and a failure is only logged.
    pub(super) fn keep<F: Fs>(&mut self, fs: &F, stream: &str, stream_dir: &Path, damage: &Damage<'_>) {
        let copy = self.copy(fs, stream_dir, damage);
        let kept = match &copy {
            Ok(Some(path)) => path.display().to_string(),
            Ok(None) => return,
            Err(reason) => format!("nowhere: {reason}"),
        };
        tracing::error!(
            stream, first = damage.range.first.0, last = damage.range.last.0,
            file = %stream_dir.join(super::segment::file_name(damage.segment)).display(),
            offset = damage.offset, bytes = damage.bytes.len(), kept,
            "damaged bytes on disk"
        );
    }

    /// Where the copy is. `None`: it was there already.
    fn copy<F: Fs>(
        &mut self,
        fs: &F,
        stream_dir: &Path,
        damage: &Damage<'_>,
    ) -> Result<Option<PathBuf>, String> {
        let dir = stream_dir.join(DIR);
        if !self.is_counted {
            self.count(fs, &dir);
        }
        let path = dir.join(format!("{:016x}-{:08x}{SUFFIX}", damage.segment, damage.offset));
        let bytes = &damage.bytes[..damage.bytes.len().min(FILE_BYTES_MAX)];
        if fs.open(&path).is_ok() {
            return Ok(None);
        }
        if bytes.iter().all(|byte| *byte == 0) {
            return Err("it is all zeros, or cannot be read".to_owned());
        }
        if self.files >= FILES_MAX || self.bytes + bytes.len() as u64 > BYTES_MAX {
            return Err("the quarantine is full".to_owned());
        }
        let written = fs.create_dir_all(&dir).and_then(|()| fs.create(&path));
        let written = written.and_then(|file| file.write_at(bytes, 0));
        self.files += 1;
        self.bytes += bytes.len() as u64;
        match written {
            Ok(()) => Ok(Some(path)),
            Err(err) => {
                remove_quietly(fs, &path);
                Err(err.to_string())
            }
        }
    }

    fn count<F: Fs>(&mut self, fs: &F, dir: &Path) {
        self.is_counted = true;
        for entry in fs.list(dir).unwrap_or_default() {
            self.files += 1;
            let len = fs.open(&dir.join(entry.name)).and_then(|file| file.len());
            self.bytes += len.unwrap_or(0);
        }
    }
}

impl<F: Fs> Stream<F> {
    /// Keeps aside what lies between the good frames of a segment, and behind the last if positions below `next_base`
    /// are missing there.
    pub(super) fn keep_gaps_aside(
        &self,
        fs: &F,
        header: &SegmentHeader,
        data: &[u8],
        good: &[Good],
        next_base: u64,
    ) {
        let Some(log) = &self.log else { return };
        let keep = |from: usize, to: usize, first: u64, last: u64| {
            let damage = Damage {
                segment: header.id,
                offset: from as u64,
                bytes: &data[from..to],
                range: SeqRange {
                    first: StreamSeq(first),
                    last: StreamSeq(last),
                },
            };
            self.quarantine
                .borrow_mut()
                .keep(fs, &self.meta.name, &log.dir, &damage);
        };
        let mut end = DATA_START as usize;
        let mut next = header.base_seq;
        for frame in good {
            let Some(head) = record::view(&data[frame.offset..]).map(|frame| frame.head) else {
                continue;
            };
            if frame.offset > end {
                let last = head.seq.saturating_sub(u64::from(head.kind == Kind::Message));
                keep(end, frame.offset, next, last);
            }
            end = frame.end;
            next = head.seq + 1;
        }
        if next < next_base && end < data.len() {
            let to = data.len().min(end + FILE_BYTES_MAX);
            let zeros = data[end..to].iter().rev().take_while(|byte| **byte == 0);
            let to = to - zeros.count();
            keep(end, to, next, next_base - 1);
        }
    }
}

impl<F: Fs> Stream<F> {
    /// Keeps aside what lies in the gaps of a segment that was not read as a whole. Zeros behind the last frame are no
    /// damage.
    pub(super) fn keep_read_gaps_aside(&self, fs: &F, path: &Path, segment: u64, gaps: &[Gap]) {
        let (Some(log), false) = (&self.log, gaps.is_empty()) else {
            return;
        };
        let Ok(file) = fs.open(path) else { return };
        for gap in gaps {
            let mut bytes = vec![0; FILE_BYTES_MAX.min(gap.to.saturating_sub(gap.from) as usize)];
            super::scan::fill(&mut bytes, &file, gap.from);
            let zeros = bytes.iter().rev().take_while(|byte| **byte == 0).count();
            bytes.truncate(bytes.len() - zeros);
            let damage = Damage {
                segment,
                offset: gap.from,
                bytes: &bytes,
                range: SeqRange {
                    first: StreamSeq(gap.first),
                    last: StreamSeq(gap.last),
                },
            };
            self.quarantine
                .borrow_mut()
                .keep(fs, &self.meta.name, &log.dir, &damage);
        }
    }
}

/// Removes the oldest of the segments that were set aside in a stream's directory, until at most `max` bytes of them
/// are left. Returns how many.
pub(super) fn bound_set_aside<F: Fs>(fs: &F, stream: &str, dir: &Path, max: u64) -> u64 {
    let mut names: Vec<String> = fs
        .list(dir)
        .unwrap_or_default()
        .into_iter()
        .map(|entry| entry.name)
        .collect();
    names.retain(|name| {
        Path::new(name)
            .extension()
            .is_some_and(|ending| ending == SET_ASIDE)
    });
    // Their names are their numbers, which rise.
    names.sort_unstable();
    let mut kept = 0u64;
    let mut removed = 0;
    for path in names.iter().rev().map(|name| dir.join(name)) {
        let bytes = fs.open_read(&path).and_then(|file| file.len()).unwrap_or(0);
        if removed == 0 && kept.saturating_add(bytes) <= max {
            kept += bytes;
            continue;
        }
        tracing::warn!(stream, path = %path.display(), bytes, max,
            "too much is set aside: an unreadable segment is removed");
        remove_quietly(fs, &path);
        removed += 1;
    }
    removed
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::env::sim::SimFs;

    fn keep(kept: &mut Quarantine, fs: &SimFs, offset: u64, bytes: &[u8]) {
        let range = SeqRange {
            first: StreamSeq(1),
            last: StreamSeq(2),
        };
        let damage = Damage {
            segment: 3,
            offset,
            bytes,
            range,
        };
        kept.keep(fs, "S", Path::new("/s"), &damage);
    }

    #[test]
    fn of_what_is_set_aside_the_oldest_goes_first() {
        let fs = SimFs::new(1);
        let dir = Path::new("/s");
        fs.create_dir_all(dir).unwrap();
        let set_aside = |id: u64| dir.join(format!("{id:016x}.{SET_ASIDE}"));
        for id in [9, 10, 200, 3000] {
            let file = fs.create(&set_aside(id)).unwrap();
            file.write_at(&[1; 1000], 0).unwrap();
        }
        fs.create(&dir.join("0000000000000001.seg")).unwrap();
        let left = |fs: &SimFs| -> Vec<PathBuf> { fs.files().into_iter().map(|(path, _)| path).collect() };
        assert_eq!(bound_set_aside(&fs, "S", dir, 4000), 0);
        assert_eq!(bound_set_aside(&fs, "S", dir, 2999), 2);
        let kept = |ids: &[u64]| -> Vec<PathBuf> {
            let segment = dir.join("0000000000000001.seg");
            [segment]
                .into_iter()
                .chain(ids.iter().map(|id| set_aside(*id)))
                .collect()
        };
        assert_eq!(left(&fs), kept(&[200, 3000]));
        assert_eq!(bound_set_aside(&fs, "S", dir, 0), 2);
        assert_eq!(left(&fs), kept(&[]));
    }

    #[test]
    fn the_quarantine_is_bounded_also_over_restarts_and_keeps_each_damage_once() {
        let fs = SimFs::new(1);
        fs.create_dir_all(Path::new("/s")).unwrap();
        let mut kept = Quarantine::default();
        keep(&mut kept, &fs, 1024, b"damaged");
        keep(&mut kept, &fs, 1024, b"damaged");
        keep(&mut kept, &fs, 2048, &[0; 50]);
        let path = Path::new("/s/quarantine/0000000000000003-00000400.bytes");
        assert_eq!(fs.contents(path).as_deref(), Some(&b"damaged"[..]));
        assert_eq!((kept.files, kept.bytes), (1, 7));
        for restart in 0..3 {
            let mut kept = Quarantine::default();
            for damage in 0..200u64 {
                let offset = (1 + restart) * 1_000_000 + damage;
                keep(&mut kept, &fs, offset, &vec![1; 3 * 1024 * 1024]);
            }
            let total: u64 = fs.files().iter().map(|(_, len)| len).sum();
            assert_eq!(kept.bytes, total);
            assert!(
                total <= BYTES_MAX && fs.files().len() as u64 <= FILES_MAX,
                "{total}"
            );
        }
    }
}
