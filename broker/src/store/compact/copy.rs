//! Copying what is left of neighbouring segments into a new file.

use std::io;
use std::path::{Path, PathBuf};

use super::super::StoreError;
use super::super::format::SegmentHeader;
use super::super::prepare::remove_quietly;
use super::super::ranges::Ranges;
use super::super::record::{self, FLAG_BATCH_START, FLAG_PACKED, Frame, Head, Kind};
use super::super::scrub::{Gap, Met, Scrubbed, Target, walk};
use super::super::seal::Sealing;
use super::super::sealed::Bits;
use super::removals;
use crate::env::{Fs, FsFile};
use crate::types::StreamId;

/// Bytes written between two syncs, so that copying does not hold up the commits of others.
const STEP_BYTES: usize = 1024 * 1024;
/// Files are filled up to a multiple of this, as all segments are.
const ROUND_BYTES: u64 = 4096;
/// Gaps remembered of a damaged segment.
const GAPS_MAX: usize = 64;

/// Segments to be copied into one.
pub(super) struct Job {
    pub(super) stream: StreamId,
    /// At least one, in order.
    pub(super) sources: Vec<Source>,
    /// The sealed segments before them.
    pub(super) earlier: Vec<Earlier>,
    /// Header of the copy: number and base are the first source's.
    pub(super) new: SegmentHeader,
    /// Where the copy is made, and its index.
    pub(super) copy: PathBuf,
    pub(super) copy_index: PathBuf,
    /// Highest position in any of the frames.
    pub(super) last_seq: u64,
    /// Positions below do not count.
    pub(super) floor: u64,
    /// Bytes that the copy takes, about.
    pub(super) estimate: u64,
    /// Bytes of the disk that are left alone.
    pub(super) reserve: u64,
}

impl Job {
    /// The file that the copy is to replace.
    pub(super) fn target(&self) -> &Path {
        self.sources.first().map_or(&self.copy, |source| &source.path)
    }

    /// Lowest position of the copy.
    fn base(&self) -> u64 {
        self.new.base_seq
    }
}

/// A segment to be copied.
pub(super) struct Source {
    pub(super) header: SegmentHeader,
    pub(super) path: PathBuf,
    /// Length of its file.
    pub(super) bytes: u64,
    pub(super) next_base: u64,
    /// Highest position in any of its frames.
    pub(super) last_seq: u64,
    /// Number of its records.
    pub(super) entries: usize,
    /// Places of those that are gone. `None`: all are.
    pub(super) removed: Option<Bits>,
}

/// A segment before those that are copied.
pub(super) struct Earlier {
    pub(super) header: SegmentHeader,
    pub(super) path: PathBuf,
    /// Highest position that it can have.
    pub(super) end: u64,
}

/// A copy that is complete and durable, but for its name.
pub(super) struct Copied {
    pub(super) bytes: u64,
    /// Its index.
    pub(super) index: Vec<u8>,
}

/// Why there is no copy.
pub(super) enum Refused {
    /// The disk failed or is nearly full.
    Failed(StoreError),
    /// A segment is not what its index says.
    Damaged(Scrubbed),
    /// It would hardly be smaller.
    Useless,
    /// A segment is gone, or the store is being closed.
    Stopped,
}

/// Copies, and leaves nothing behind if that fails.
pub(super) fn copy_or_clean<F: Fs>(
    sealing: &Sealing<F>,
    job: &Job,
    pace: &mut dyn FnMut(u64) -> bool,
) -> Result<Copied, Refused> {
    let copied = copy(sealing, job, pace);
    if copied.is_err() {
        remove_quietly(&sealing.fs, &job.copy);
        remove_quietly(&sealing.fs, &job.copy_index);
    }
    copied
}

fn copy<F: Fs>(
    sealing: &Sealing<F>,
    job: &Job,
    pace: &mut dyn FnMut(u64) -> bool,
) -> Result<Copied, Refused> {
    let fs = &sealing.fs;
    let failed = |action, err| Refused::Failed(StoreError::io(action, &job.copy, err));
    let wanted = job.estimate.saturating_add(job.reserve.saturating_mul(2));
    let dir = job.copy.parent().unwrap_or(&job.copy);
    if fs.free_bytes(dir).is_ok_and(|free| free < wanted) {
        return Err(failed("write", io::ErrorKind::StorageFull.into()));
    }
    let file = fs.create(&job.copy).map_err(|err| failed("create", err))?;
    let mut copy = Copy {
        job,
        out: Out {
            file,
            at: 0,
            buf: job.new.encode().to_vec(),
            failed: None,
        },
        next: job.base().max(job.floor),
        own: Ranges::default(),
        removals: Ranges::default(),
        records: 0,
    };
    for source in &job.sources {
        copy.take(sealing, source, pace)?;
    }
    let (out, records) = copy.finish(sealing, pace)?;
    if let Some(err) = out.failed {
        return Err(failed("write", err));
    }
    let before: u64 = job.sources.iter().map(|source| source.bytes).sum();
    if out.at > before / 4 * 3 {
        return Err(Refused::Useless);
    }
    // Read again, as the next start would.
    let (builder, is_whole) = sealing
        .scan(job.new, &job.copy, 0)
        .map_err(|err| failed("read", err))?;
    if !is_whole || !builder.gaps().is_empty() || builder.records() != records {
        return Err(failed("read back", io::ErrorKind::InvalidData.into()));
    }
    let index = builder.finish();
    let written = fs
        .create(&job.copy_index)
        .and_then(|file| file.write_at(&index, 0).and_then(|()| file.sync_data()));
    written.map_err(|err| Refused::Failed(StoreError::io("write", &job.copy_index, err)))?;
    Ok(Copied { bytes: out.at, index })
}

/// A copy while it is made.
struct Copy<'a, F: FsFile> {
    job: &'a Job,
    out: Out<F>,
    /// Lowest position that nothing is known about yet.
    next: u64,
    /// Positions of the copy that it does not hold.
    own: Ranges,
    /// Everything that the sources say is removed.
    removals: Ranges,
    records: usize,
}

impl<R: FsFile> Copy<'_, R> {
    /// Copies what is left of a segment.
    fn take<F: Fs>(
        &mut self,
        sealing: &Sealing<F>,
        source: &Source,
        pace: &mut dyn FnMut(u64) -> bool,
    ) -> Result<(), Refused> {
        if source.removed.is_none()
            && let Some(removals) = sealing
                .look(source.header, &source.path)
                .and_then(|index| index.removals())
        {
            removals
                .iter()
                .for_each(|(first, last)| self.removals.insert(*first, *last));
            return Ok(());
        }
        let target = Target {
            stream: self.job.stream,
            segment: source.header.id,
            path: source.path.clone(),
            seed: source.header.salt,
            base: source.header.base_seq,
            next_base: source.next_base,
        };
        let mut gaps: Vec<Gap> = Vec::new();
        let mut place = 0;
        let read = walk(&sealing.fs, &target, pace, &mut |met| match met {
            Met::Gap(gap) if gaps.len() < GAPS_MAX => gaps.push(gap),
            Met::Gap(_) => {}
            Met::Frame(frame) => match frame.head.kind {
                Kind::Remove => {
                    for (first, last) in record::removals(frame.payload) {
                        self.removals.insert(first, last);
                    }
                }
                Kind::Message => {
                    if source
                        .removed
                        .as_ref()
                        .is_some_and(|removed| !removed.contains(place))
                    {
                        self.put(frame);
                    }
                    place += 1;
                }
                Kind::Settle => {}
            },
        });
        let Some(bytes) = read else {
            return Err(Refused::Stopped);
        };
        if !gaps.is_empty() || place != source.entries {
            return Err(Refused::Damaged(Scrubbed {
                stream: self.job.stream,
                segment: source.header.id,
                bytes,
                gaps,
            }));
        }
        Ok(())
    }

    /// Copies a record. A packed one stays as it is.
    fn put(&mut self, frame: &Frame<'_>) {
        let seq = frame.head.seq;
        if self.next < seq {
            self.own.insert(self.next, seq - 1);
        }
        self.next = seq + 1;
        self.records += 1;
        let head = Head {
            flags: FLAG_BATCH_START | frame.head.flags & FLAG_PACKED,
            ..frame.head
        };
        let (buf, seed) = (&mut self.out.buf, self.job.new.salt);
        record::encode(buf, seed, head, frame.subject, frame.headers, frame.payload);
        if buf.len() >= STEP_BYTES {
            self.out.flush();
        }
    }

    /// Ends the copy. Returns the file and the number of its records.
    fn finish<F: Fs>(
        mut self,
        sealing: &Sealing<F>,
        pace: &mut dyn FnMut(u64) -> bool,
    ) -> Result<(Out<R>, usize), Refused> {
        let job = self.job;
        self.own.insert(self.next, job.last_seq);
        let mut foreign = Ranges::default();
        let before = self.removals.within(job.floor, job.base().saturating_sub(1));
        let behind = self.removals.within(job.last_seq.saturating_add(1), u64::MAX);
        before
            .chain(behind)
            .for_each(|(first, last)| foreign.insert(first, last));
        let foreign = removals::needed(sealing, job, foreign, pace).ok_or(Refused::Stopped)?;
        let out = &mut self.out;
        removals::put(&mut out.buf, job, &self.own, &foreign);
        let len = out.at + out.buf.len() as u64;
        let room = len.next_multiple_of(ROUND_BYTES) - len;
        out.buf.resize(out.buf.len() + room as usize, 0);
        out.flush();
        Ok((self.out, self.records))
    }
}

/// The new file while it is written.
struct Out<F: FsFile> {
    file: F,
    at: u64,
    buf: Vec<u8>,
    /// What ended the writing.
    failed: Option<io::Error>,
}

impl<F: FsFile> Out<F> {
    /// Writes what has come so far, and syncs it.
    fn flush(&mut self) {
        if self.failed.is_none() && !self.buf.is_empty() {
            let written = self.file.write_at(&self.buf, self.at);
            self.failed = written.and_then(|()| self.file.sync_data()).err();
            self.at += self.buf.len() as u64;
        }
        self.buf.clear();
    }
}
