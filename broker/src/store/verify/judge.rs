//! What is said of a stream once all of it was read.

use std::path::{Path, PathBuf};

use super::super::marks::Marks;
use super::super::meta::StreamBody;
use super::super::ranges::Ranges;
use super::super::scrub::Gap;
use super::super::segment;
use super::super::state::SeqRange;
use super::{Contents, Finding, PLACES_MAX, STAYS_LOST, Severity, StreamVerdict};
use crate::types::StreamSeq;

/// Says what is missing of a stream.
pub(super) fn judge(
    dir: &Path,
    ids: &[u64],
    body: &StreamBody,
    marks: &Marks,
    contents: Contents,
    verdict: &mut StreamVerdict,
) {
    let known = body.last_seq.max(marks.of(body.incarnation));
    verdict.last_seq = contents.last.max(known);
    let mut there = Ranges::default();
    for (first, last) in contents.messages.iter().filter(|(_, last)| *last >= body.floor) {
        contents
            .removed
            .subtract_from(first.max(body.floor), last, &mut there);
    }
    verdict.records = there.count();
    let mut lost = Ranges::default();
    let mut all = contents.removed;
    for (first, last) in contents.messages.iter() {
        all.insert(first, last);
    }
    if body.floor <= verdict.last_seq {
        all.subtract_from(body.floor, verdict.last_seq, &mut lost);
    }
    verdict.lost = lost.to_vec();
    if contents.places > PLACES_MAX {
        verdict.findings.push(Finding {
            severity: Severity::Damage,
            file: dir.to_owned(),
            offset: None,
            range: None,
            what: format!("{} more places are damaged", contents.places - PLACES_MAX),
            next: STAYS_LOST,
        });
    }
    if known > contents.last {
        let range = SeqRange {
            first: StreamSeq(contents.last.max(body.floor.saturating_sub(1)) + 1),
            last: StreamSeq(known),
        };
        if !lost.is_empty() {
            verdict.findings.push(Finding {
                severity: Severity::Damage,
                file: dir.join(segment::file_name(ids.last().map_or(1, |last| last + 1))),
                offset: None,
                range: Some(range),
                what: "the end of the stream is missing: segments were truncated or removed".to_owned(),
                next: STAYS_LOST,
            });
        }
    }
    let named = |range: &SeqRange| {
        verdict.findings.iter().any(|found| {
            found
                .range
                .is_some_and(|named| named.first <= range.first && range.last <= named.last)
        })
    };
    let unnamed: Vec<SeqRange> = verdict
        .lost
        .iter()
        .filter(|range| !named(range))
        .copied()
        .collect();
    for range in unnamed.into_iter().take(PLACES_MAX) {
        verdict.findings.push(Finding {
            severity: Severity::Damage,
            file: dir.to_owned(),
            offset: None,
            range: Some(range),
            what: "no segment has these records: one is missing, truncated or unusable".to_owned(),
            next: STAYS_LOST,
        });
    }
}

pub(super) fn damaged(path: &Path, gap: &Gap) -> Finding {
    let range = SeqRange {
        first: StreamSeq(gap.first),
        last: StreamSeq(gap.last),
    };
    let why = if gap.unreadable {
        "cannot be read"
    } else {
        "are damaged"
    };
    Finding {
        severity: Severity::Damage,
        file: path.to_owned(),
        offset: Some(gap.offset),
        range: (gap.first <= gap.last).then_some(range),
        what: format!("{} bytes {why}", gap.len),
        next: STAYS_LOST,
    }
}

pub(super) fn newer(file: PathBuf, found: u32, supported: u32) -> Finding {
    Finding {
        severity: Severity::Fatal,
        file,
        offset: None,
        range: None,
        what: format!("it has format version {found}, this program reads up to {supported}"),
        next: "use the newer program; nothing is wrong with the file",
    }
}
