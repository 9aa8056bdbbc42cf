//! Looking inside a store that nobody has open, without changing anything.

mod indexes;
mod judge;
mod verdict;

use std::path::Path;

use super::StoreError;
use super::consumers;
use super::format::{DATA_START, SegmentHeader};
use super::marks::Marks;
use super::meta::{ConsumerBody, CopyState, MetaKind, Pair, StreamBody};
use super::names;
use super::open::{LOCK, STREAMS};
use super::ranges::Ranges;
use super::record::{self, FLAG_BATCH_START, Frame, Kind};
use super::scrub::{Gap, Met, Target, walk};
use super::segment;
use crate::env::{Fs, FsFile};
use crate::types::StreamId;
use judge::{damaged, judge, newer};
pub use verdict::{Finding, Severity, StoreVerdict, StreamVerdict};

/// Length that every segment is a multiple of.
const SEGMENT_UNIT: u64 = 4096;
/// Damaged places of one stream that are named one by one.
const PLACES_MAX: usize = 100;

const NOTHING: &str = "nothing to do";
const REPAIRS_ITSELF: &str = "the broker repairs it at its next start; check the disk";
const STAYS_LOST: &str =
    "the other records stay; restore these from a backup or send them again, and check the disk";
const RESTORE: &str = "restore the stream's directory from a backup, or move it away: the broker starts without it, and it is gone";

/// How far a look inside a store is.
#[derive(Clone, Copy, Debug)]
pub struct VerifyProgress {
    /// Bytes of segments read.
    pub bytes: u64,
    /// All of them.
    pub bytes_total: u64,
}

/// Looks at everything in the store in `dir`. Nothing is changed, so it can also be read-only.
///
/// # Errors
/// `Locked` if a running broker has it, `NoStore` if there is none, `Io` if a directory cannot be read.
pub fn verify<F: Fs>(
    fs: &F,
    dir: &Path,
    progress: &mut dyn FnMut(VerifyProgress),
) -> Result<StoreVerdict, StoreError> {
    let streams = dir.join(STREAMS);
    let Ok(entries) = fs.list(&streams) else {
        return Err(StoreError::NoStore { path: dir.to_owned() });
    };
    // Where there is no such file there is nobody who could have it.
    let lock = fs.lock_existing(&dir.join(LOCK)).ok();
    if matches!(lock, Some(None)) {
        return Err(StoreError::Locked { path: dir.to_owned() });
    }
    let mut verdict = StoreVerdict::default();
    let mut look = Look {
        fs,
        bytes: 0,
        bytes_total: 0,
        progress,
    };
    look.pair(dir, "store", MetaKind::Store, &mut verdict.findings)?;
    let marks = look.pair(dir, "marks", MetaKind::Marks, &mut verdict.findings)?;
    let marks = marks.map_or_else(Marks::default, |body| Marks::decode(&body));
    let dirs: Vec<String> = entries
        .into_iter()
        .filter(|entry| entry.is_dir)
        .map(|entry| entry.name)
        .collect();
    for name in &dirs {
        look.count(&streams.join(name))?;
    }
    for name in dirs {
        if let Some(stream) = look.stream(&streams.join(&name), &name, &marks)? {
            verdict.streams.push(stream);
        }
    }
    drop(lock);
    Ok(verdict)
}

struct Look<'a, F: Fs> {
    fs: &'a F,
    bytes: u64,
    bytes_total: u64,
    progress: &'a mut dyn FnMut(VerifyProgress),
}

/// What a good frame says: kind, position, and what it removes.
type Said = (Kind, u64, Vec<(u64, u64)>);

/// What the frames of a stream say.
#[derive(Default)]
struct Contents {
    messages: Ranges,
    removed: Ranges,
    last: u64,
    places: usize,
}

/// What was read of a segment since the last frame that says that all before it was durable.
#[derive(Default)]
struct Unsure {
    frames: Vec<Said>,
    gaps: Vec<Gap>,
}

impl<F: Fs> Look<'_, F> {
    fn list(&self, dir: &Path) -> Result<Vec<crate::env::DirEntry>, StoreError> {
        self.fs.list(dir).map_err(|err| StoreError::io("list", dir, err))
    }

    fn count(&mut self, dir: &Path) -> Result<(), StoreError> {
        for entry in self.list(dir)? {
            if segment::id_of(&entry.name).is_some() {
                let file = self.fs.open_read(&dir.join(entry.name));
                self.bytes_total += file.and_then(|file| file.len()).unwrap_or(0);
            }
        }
        Ok(())
    }

    /// The newest body of a pair, if there is one.
    fn pair(
        &self,
        dir: &Path,
        stem: &str,
        kind: MetaKind,
        findings: &mut Vec<Finding>,
    ) -> Result<Option<Vec<u8>>, StoreError> {
        let copies = match Pair::inspect(self.fs, dir, stem, kind) {
            Err(StoreError::NewerVersion {
                file,
                found,
                supported,
            }) => {
                findings.push(newer(file, found, supported));
                return Ok(None);
            }
            copies => copies?,
        };
        let is_pair = copies.iter().any(|(_, state)| *state != CopyState::Missing);
        let mut newest: Option<(u64, Vec<u8>)> = None;
        for (path, state) in copies {
            let what = match state {
                CopyState::Whole(generation, body) => {
                    if newest.as_ref().is_none_or(|(newest, _)| *newest < generation) {
                        newest = Some((generation, body));
                    }
                    continue;
                }
                CopyState::Damaged => "this copy of two is damaged",
                CopyState::Missing if is_pair => "this copy of two is missing",
                CopyState::Missing => continue,
            };
            findings.push(Finding {
                severity: Severity::Damage,
                file: path,
                offset: None,
                range: None,
                what: what.to_owned(),
                next: REPAIRS_ITSELF,
            });
        }
        Ok(newest.map(|(_, body)| body))
    }

    /// `None`: it was deleted, or never completely created.
    fn stream(&mut self, dir: &Path, name: &str, marks: &Marks) -> Result<Option<StreamVerdict>, StoreError> {
        let mut verdict = StreamVerdict {
            name: name.to_owned(),
            ..StreamVerdict::default()
        };
        let entries = self.list(dir)?;
        let ids: Vec<u64> = entries
            .iter()
            .filter_map(|entry| segment::id_of(&entry.name))
            .collect();
        let body = self.pair(dir, "meta", MetaKind::Stream, &mut verdict.findings)?;
        let Some(body) = body.and_then(|body| StreamBody::decode(&body)) else {
            if ids.is_empty() && verdict.findings.is_empty() {
                return Ok(None);
            }
            verdict.findings.push(Finding {
                severity: Severity::Fatal,
                file: dir.join("meta.0"),
                offset: None,
                range: None,
                what: format!(
                    "no copy of the stream's metadata can be used; {} segments are there",
                    ids.len()
                ),
                next: RESTORE,
            });
            return Ok(Some(verdict));
        };
        if body.deleted {
            return Ok(None);
        }
        verdict.name.clone_from(&body.name);
        if names::file_name(&body.name).is_ok_and(|expected| expected != name) {
            verdict.findings.push(Finding {
                severity: Severity::Fatal,
                file: dir.to_owned(),
                offset: None,
                range: None,
                what: format!(
                    "the stream in it is {}, which another directory belongs to",
                    body.name
                ),
                next: "give the directory its own name back",
            });
        }
        let contents = self.segments(dir, &ids, &body, &mut verdict)?;
        judge(dir, &ids, &body, marks, contents, &mut verdict);
        self.consumers(dir, &mut verdict)?;
        for entry in entries.iter().filter(|entry| entry.name.ends_with(".damaged")) {
            verdict.findings.push(Finding {
                severity: Severity::Note,
                file: dir.join(&entry.name),
                offset: None,
                range: None,
                what: "a segment that was set aside, because both its headers were damaged".to_owned(),
                next: "look at it, then remove it",
            });
        }
        Ok(Some(verdict))
    }

    fn segments(
        &mut self,
        dir: &Path,
        ids: &[u64],
        body: &StreamBody,
        verdict: &mut StreamVerdict,
    ) -> Result<Contents, StoreError> {
        let mut headers: Vec<SegmentHeader> = Vec::new();
        for &id in ids {
            if headers.last().is_some_and(|before| id <= before.through) {
                // Replaced by the one before, and not removed yet.
                continue;
            }
            if let Some(header) = self.header(dir, id, &mut verdict.findings)?
                && header.incarnation == body.incarnation
            {
                headers.push(header);
            }
        }
        verdict.segments = headers.len() as u64;
        // Those at the end without a frame were only begun.
        while headers.last().is_some_and(|header| !self.has_frames(dir, header)) {
            headers.pop();
        }
        let mut contents = Contents::default();
        for (number, header) in headers.iter().enumerate() {
            let next_base = headers.get(number + 1).map(|next| next.base_seq);
            if next_base.is_some_and(|base| base <= body.floor) {
                continue;
            }
            contents.last = contents.last.max(header.base_seq.saturating_sub(1));
            self.segment(
                dir,
                header,
                next_base,
                body.floor,
                &mut contents,
                &mut verdict.findings,
            );
        }
        Ok(contents)
    }

    fn header(
        &self,
        dir: &Path,
        id: u64,
        findings: &mut Vec<Finding>,
    ) -> Result<Option<SegmentHeader>, StoreError> {
        let path = dir.join(segment::file_name(id));
        let mut find = |severity, what: String, next| {
            findings.push(Finding {
                severity,
                file: path.clone(),
                offset: None,
                range: None,
                what,
                next,
            });
        };
        let file = self
            .fs
            .open_read(&path)
            .map_err(|err| StoreError::io("open", &path, err))?;
        let len = file.len().map_err(|err| StoreError::io("read", &path, err))?;
        if len < DATA_START || !len.is_multiple_of(SEGMENT_UNIT) {
            let what = format!("the file is truncated: it has {len} bytes");
            find(Severity::Damage, what, STAYS_LOST);
        }
        let mut head = vec![0; DATA_START.min(len) as usize];
        if let Err(err) = file.read_at(&mut head, 0) {
            find(
                Severity::Damage,
                format!("the header cannot be read: {err}"),
                STAYS_LOST,
            );
            return Ok(None);
        }
        match SegmentHeader::decode(&head, id, &path) {
            Ok(Some((header, is_degraded))) => {
                if is_degraded {
                    let what = "one of the two headers is damaged".to_owned();
                    find(Severity::Damage, what, REPAIRS_ITSELF);
                }
                Ok(Some(header))
            }
            Ok(None) => {
                let what = "both headers are damaged: none of its records can be told from chance".to_owned();
                find(Severity::Damage, what, STAYS_LOST);
                Ok(None)
            }
            Err(StoreError::NewerVersion {
                file,
                found,
                supported,
            }) => {
                findings.push(newer(file, found, supported));
                Ok(None)
            }
            Err(err) => Err(err),
        }
    }

    fn has_frames(&self, dir: &Path, header: &SegmentHeader) -> bool {
        let target = target(dir, header, None);
        let has_frames = std::cell::Cell::new(false);
        let mut pace = |_| !has_frames.get();
        let mut meet = |met: Met<'_>| has_frames.set(has_frames.get() || matches!(met, Met::Frame(..)));
        walk(self.fs, &target, &mut pace, &mut meet);
        has_frames.get()
    }

    fn segment(
        &mut self,
        dir: &Path,
        header: &SegmentHeader,
        next_base: Option<u64>,
        floor: u64,
        contents: &mut Contents,
        findings: &mut Vec<Finding>,
    ) {
        let target = target(dir, header, next_base);
        let mut unsure = Unsure::default();
        let mut gaps = Vec::new();
        let (bytes, total) = (&mut self.bytes, self.bytes_total);
        let progress = &mut self.progress;
        let mut pace = |count| {
            *bytes += count;
            progress(VerifyProgress {
                bytes: *bytes,
                bytes_total: total,
            });
            true
        };
        let walked = walk(self.fs, &target, &mut pace, &mut |met| match met {
            Met::Frame(frame) => {
                if frame.head.flags & FLAG_BATCH_START != 0 {
                    gaps.append(&mut unsure.gaps);
                    unsure.frames.drain(..).for_each(|one| contents.take(one));
                }
                let one = (frame.head.kind, frame.head.seq, removals(frame));
                if next_base.is_none() {
                    unsure.frames.push(one);
                } else {
                    contents.take(one);
                }
            }
            Met::Gap(gap) if next_base.is_none() => unsure.gaps.push(gap),
            Met::Gap(gap) => gaps.push(gap),
        });
        if walked.is_none() {
            return;
        }
        findings.extend(indexes::finding(self.fs, header, &target.path));
        match unsure.gaps.first() {
            // Behind the last frame that says that all before it was durable: a write that was not finished.
            Some(gap) => {
                let until = unsure.frames.iter().take_while(|(_, seq, _)| *seq < gap.first);
                until.cloned().for_each(|one| contents.take(one));
                findings.push(Finding {
                    severity: Severity::Note,
                    file: target.path.clone(),
                    offset: Some(gap.offset),
                    range: None,
                    what: "an unfinished write, never acknowledged".to_owned(),
                    next: NOTHING,
                });
            }
            None => unsure.frames.into_iter().for_each(|one| contents.take(one)),
        }
        for gap in gaps.iter().filter(|gap| gap.last >= floor) {
            contents.places += 1;
            if contents.places <= PLACES_MAX {
                findings.push(damaged(&target.path, gap));
            }
        }
    }

    fn consumers(&self, dir: &Path, verdict: &mut StreamVerdict) -> Result<(), StoreError> {
        let dir = dir.join(consumers::DIR);
        let Ok(entries) = self.fs.list(&dir) else {
            return Ok(());
        };
        let names = entries.iter().map(|entry| entry.name.as_str());
        let mut stems: Vec<&str> = names
            .filter_map(|name| name.strip_suffix(".0").or_else(|| name.strip_suffix(".1")))
            .collect();
        stems.dedup();
        for stem in stems {
            let body = self.pair(&dir, stem, MetaKind::Consumer, &mut verdict.findings)?;
            match body.map(|body| ConsumerBody::decode(&body)) {
                Some(Some(body)) => verdict.consumers += u64::from(!body.deleted),
                unusable => verdict.findings.push(Finding {
                    severity: if unusable.is_some() {
                        Severity::Fatal
                    } else {
                        Severity::Damage
                    },
                    file: dir.join(format!("{stem}.0")),
                    offset: None,
                    range: None,
                    what: "no copy of the consumer can be used".to_owned(),
                    next: "restore both copies from a backup, or create the consumer anew after the start",
                }),
            }
        }
        Ok(())
    }
}

fn target(dir: &Path, header: &SegmentHeader, next_base: Option<u64>) -> Target {
    Target {
        stream: StreamId(0),
        segment: header.id,
        path: dir.join(segment::file_name(header.id)),
        seed: header.salt,
        base: header.base_seq,
        next_base: next_base.unwrap_or(0),
    }
}

impl Contents {
    /// Takes a good frame in.
    fn take(&mut self, (kind, seq, ranges): Said) {
        if kind == Kind::Message {
            self.messages.insert(seq, seq);
        }
        for (first, last) in ranges {
            self.removed.insert(first, last);
        }
        self.last = self.last.max(seq);
    }
}

fn removals(frame: &Frame<'_>) -> Vec<(u64, u64)> {
    match frame.head.kind {
        Kind::Remove => record::removals(frame.payload).collect(),
        Kind::Message | Kind::Settle => Vec::new(),
    }
}
