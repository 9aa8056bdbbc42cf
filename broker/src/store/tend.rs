//! What a store does in the background, in small steps between commits: it writes the marks, reads for damage, and
//! writes removals a second time where one bad sector cannot take both.

use std::path::Path;

use super::keeper::{Done, Job, Keeper};
use super::late::Syncer;
use super::marks::Marks;
use super::meta::Pair;
use super::quarantine::Damage;
use super::scrub::{Gap, Scrubbed, Target};
use super::segment::Data;
use super::state::{RecoveryReport, SeqRange, StoreFigures};
use super::stream::Stream;
use super::{Store, StoreError, StoreOptions};
use crate::env::{Fs, FsFile};
use crate::types::{MonoNanos, StreamId, StreamSeq, UnixNanos};

/// How often it is looked whether there is something to do, while there is.
const INTERVAL_NS: u64 = 1_000_000_000;
/// When the first pass begins after the start.
const FIRST_PASS_NS: u64 = 60 * 1_000_000_000;
/// Segments handed over at once.
const TARGETS_MAX: usize = 64;
/// Their bytes, unless the first alone has more.
const TARGET_BYTES_MAX: u64 = 4 * 1024 * 1024;
/// Blocks of 64 subjects that are taken off in one step: less than a millisecond.
const PAID_BLOCKS: usize = 32;
/// Streams that get their removals written again in one step.
const AGAIN_MAX: usize = 8;
/// Records of a gap that are read one by one; if all of them are damaged, the rest is.
const READS_MAX: usize = 256;
/// Bytes of a gap that are kept aside.
const GAP_BYTES_MAX: u64 = 1024 * 1024;

/// What is under way in the background.
pub(super) struct Tending<F: Fs> {
    keeper: Keeper<F>,
    pub(super) syncer: Syncer<F>,
    pub(super) marks: Marks,
    /// When it was looked last; `None` before the first time.
    looked: Option<MonoNanos>,
    /// Streams committed since.
    stirred: Vec<StreamId>,
    /// Streams committed in the step before.
    resting: Vec<StreamId>,
    is_marking: bool,
    marks_refused: bool,
    is_counting: bool,
    scrub: Pass,
    figures: StoreFigures,
}

/// A pass over all sealed segments.
#[derive(Debug, Default)]
struct Pass {
    /// When the next one begins; `None` before the first step.
    due: Option<MonoNanos>,
    /// Stream and segment read last in this pass.
    cursor: Option<(StreamId, u64)>,
    /// Whether the thread is reading.
    is_reading: bool,
}

impl<F: Fs> Tending<F> {
    pub(super) fn start(
        fs: &F,
        dir: &Path,
        (marks, pair): (Marks, Pair<F>),
        options: &StoreOptions,
    ) -> Result<Self, StoreError> {
        Ok(Self {
            keeper: Keeper::start(fs, dir, pair, options.scrub_bytes_per_second)?,
            syncer: Syncer::new(fs),
            marks,
            looked: None,
            stirred: Vec::new(),
            resting: Vec::new(),
            is_marking: false,
            marks_refused: false,
            is_counting: false,
            scrub: Pass::default(),
            figures: StoreFigures::default(),
        })
    }

    /// Notes what opening the store found.
    pub(super) fn opened(&mut self, report: &RecoveryReport) {
        self.figures.set_aside_removed = report.set_aside_removed;
    }

    /// Notes that segments were replaced by a copy.
    pub(super) fn compacted(&mut self, segments: u64, from: u64, to: u64) {
        self.figures.compacted_segments += segments;
        self.figures.compacted_bytes += to;
        self.figures.compaction_freed_bytes += from.saturating_sub(to);
    }

    /// Notes that something of the stream was committed.
    pub(super) fn stir(&mut self, id: StreamId) {
        if self.stirred.last() != Some(&id) {
            self.stirred.push(id);
        }
    }
}

impl<F: Fs> Store<F> {
    /// Does what is due in the background, in a step too short to hold anything up. To be called before each commit,
    /// and at [`Store::next_tend`]. Where segments fill faster than they are sealed, what is to be committed waits here.
    /// Returns whether it was time to look.
    pub fn tend(&mut self, wall: UnixNanos, now: MonoNanos) -> bool {
        self.pay();
        self.hold_back();
        let Some(looked) = self.tending.looked else {
            self.tending.looked = Some(now);
            self.tending.scrub.due = Some(MonoNanos(now.0.saturating_add(FIRST_PASS_NS)));
            return false;
        };
        if now.0.saturating_sub(looked.0) < INTERVAL_NS {
            return false;
        }
        self.tending.looked = Some(now);
        self.compaction.now = now;
        self.take_sealed();
        self.sync_late();
        while let Some(done) = self.tending.keeper.poll() {
            self.done(done, wall, now);
        }
        let mut resting = std::mem::take(&mut self.tending.resting);
        resting.retain(|id| self.streams.get(id).is_some_and(|stream| !stream.queued));
        self.write_removals_again(&resting);
        self.tending.resting = std::mem::take(&mut self.tending.stirred);
        self.tending.resting.sort_unstable();
        self.tending.resting.dedup();
        self.mark();
        self.count_subjects();
        self.scrub_on(now);
        self.take_out_damaged();
        self.compact();
        true
    }

    /// When [`Store::tend`] has something to do, if nothing else happens.
    pub fn next_tend(&self) -> Option<MonoNanos> {
        let looked = self.tending.looked?;
        if !self.owing.is_empty() {
            return Some(looked);
        }
        let soon = MonoNanos(looked.0.saturating_add(INTERVAL_NS));
        if self.is_busy() || self.tending.scrub.is_reading {
            return Some(soon);
        }
        let due = [self.scrub_due(), self.compaction.due()]
            .into_iter()
            .flatten()
            .min();
        due.map(|due| MonoNanos(due.0.max(soon.0)))
    }

    /// Whether something was begun that ends soon if [`Store::tend`] is called: sealing, adding up subjects, and so on, but
    /// not reading for damage.
    pub fn is_busy(&self) -> bool {
        let tending = &self.tending;
        !tending.stirred.is_empty()
            || !tending.resting.is_empty()
            || tending.is_marking
            || tending.is_counting
            || tending.syncer.is_busy()
            || self.shared.sealer.is_busy()
            || self.compaction.is_busy()
            || !self.damaged.borrow().is_empty()
    }

    /// What the background has done since the store was opened.
    pub fn figures(&self) -> StoreFigures {
        let mut figures = self.tending.figures;
        figures.held_back = self.held_back;
        for stream in self.streams.values() {
            let kept = *stream.quarantine.borrow();
            figures.quarantined_files += kept.files;
            figures.quarantined_bytes += kept.bytes;
        }
        figures
    }

    fn scrub_due(&self) -> Option<MonoNanos> {
        let is_wanted = self.shared.options.scrub_bytes_per_second > 0;
        self.tending.scrub.due.filter(|_| is_wanted)
    }

    fn done(&mut self, done: Done, wall: UnixNanos, now: MonoNanos) {
        match done {
            Done::Marked(Ok(())) => {
                self.tending.is_marking = false;
                self.tending.marks_refused = false;
            }
            Done::Marked(Err(err)) => {
                self.tending.is_marking = false;
                self.tending.marks.set_changed();
                if !std::mem::replace(&mut self.tending.marks_refused, true) {
                    tracing::warn!(error = %err, "the marks of the streams cannot be written");
                }
            }
            Done::Counted(taken) => {
                self.tending.is_counting = false;
                self.census_taken(&taken);
            }
            Done::Scrubbed(scrubbed) => self.scrubbed(&scrubbed),
            Done::ScrubbedAll => {
                self.tending.scrub.is_reading = false;
                if self.next_targets().is_empty() {
                    self.pass_ended(wall, now);
                }
            }
        }
    }

    /// Hands the marks over if they changed.
    fn mark(&mut self) {
        for id in &self.tending.resting {
            if let Some(stream) = self.streams.get(id)
                && let Some(log) = &stream.log
            {
                self.tending.marks.raise(log.incarnation, stream.synced);
            }
        }
        if self.tending.is_marking {
            return;
        }
        if let Some(body) = self.tending.marks.take_changed() {
            self.tending.is_marking = self.tending.keeper.submit(Job::Mark(body)).is_ok();
            if !self.tending.is_marking {
                self.tending.marks.set_changed();
            }
        }
    }

    /// Hands over a stream whose subjects are to be added up, if one is due.
    fn count_subjects(&mut self) {
        if self.tending.is_counting {
            return;
        }
        let Some(task) = self.next_census() else { return };
        match self.tending.keeper.submit(Job::Census(Box::new(task))) {
            Ok(()) => self.tending.is_counting = true,
            Err(Job::Census(task)) => self.census_refused(&task),
            Err(_) => {}
        }
    }

    /// Forgets the marks of streams that are gone.
    pub(super) fn forget_marks(&mut self) {
        let streams = &self.streams;
        let incarnations: std::collections::BTreeSet<u64> = streams
            .values()
            .filter_map(|stream| Some(stream.log.as_ref()?.incarnation))
            .collect();
        self.tending
            .marks
            .retain(|incarnation| incarnations.contains(&incarnation));
    }

    fn scrub_on(&mut self, now: MonoNanos) {
        let is_due = self.scrub_due().is_some_and(|due| due <= now);
        // A disk in trouble has enough to do.
        let is_troubled = self
            .streams
            .values()
            .any(|stream| stream.failed.is_some() || stream.no_space);
        if !is_due || is_troubled || self.tending.scrub.is_reading {
            return;
        }
        let targets = self.next_targets();
        let Some(last) = targets.last() else {
            let pause = self.shared.options.scrub_interval_ns;
            self.tending.scrub.due = Some(MonoNanos(now.0.saturating_add(pause)));
            return;
        };
        let cursor = (last.stream, last.segment);
        if self.tending.keeper.submit(Job::Scrub(targets)).is_ok() {
            self.tending.scrub.cursor = Some(cursor);
            self.tending.scrub.is_reading = true;
        }
    }

    fn pass_ended(&mut self, wall: UnixNanos, now: MonoNanos) {
        let pause = self.shared.options.scrub_interval_ns;
        self.tending.scrub.due = Some(MonoNanos(now.0.saturating_add(pause)));
        self.tending.scrub.cursor = None;
        self.tending.figures.scrub_passes += 1;
        self.tending.figures.scrub_pass_ended = wall;
        tracing::info!(
            bytes = self.tending.figures.scrubbed_bytes,
            damaged = self.tending.figures.scrub_damaged,
            "all sealed segments were read for damage"
        );
    }

    /// The sealed segments after the cursor.
    fn next_targets(&self) -> Vec<Target> {
        let (from, after) = self.tending.scrub.cursor.unwrap_or((StreamId(0), 0));
        let mut targets = Vec::new();
        let mut bytes = 0;
        for (&id, stream) in self.streams.range(from..) {
            let after = if id == from { after } else { 0 };
            for (target, len) in sealed(id, stream).filter(|(target, _)| target.segment > after) {
                if !targets.is_empty() && (targets.len() == TARGETS_MAX || bytes + len > TARGET_BYTES_MAX) {
                    return targets;
                }
                bytes += len;
                targets.push(target);
            }
        }
        targets
    }

    /// Takes over what reading a segment found: what the index still knows there is damaged.
    pub(super) fn scrubbed(&mut self, scrubbed: &Scrubbed) {
        self.tending.figures.scrubbed_bytes += scrubbed.bytes;
        for gap in &scrubbed.gaps {
            let Some(stream) = self.streams.get(&scrubbed.stream) else {
                return;
            };
            let seqs = stream.live_in(scrubbed.segment, gap);
            let (mut damaged, mut unreadable) = (0, 0);
            // Each is read as a consumer would; what was dropped meanwhile, or lies beside a bad sector, is fine.
            for &seq in seqs.iter().take(READS_MAX) {
                match self.read(scrubbed.stream, StreamSeq(seq)) {
                    Err(StoreError::Damaged { .. }) => damaged += 1,
                    Err(_) => unreadable += 1,
                    Ok(_) => {}
                }
            }
            let rest = seqs.get(READS_MAX..).unwrap_or_default();
            if damaged == READS_MAX as u64 {
                damaged += rest.len() as u64;
                stream.damaged.borrow_mut().extend(rest);
            }
            if damaged > 0 {
                stream.keep_gap_aside(&self.shared, scrubbed.segment, gap);
            }
            if unreadable > 0 {
                tracing::warn!(stream = %stream.meta.name, segment = scrubbed.segment, offset = gap.offset,
                    records = unreadable, "records cannot be read from the disk");
            }
            self.tending.figures.scrub_damaged += damaged;
            self.tending.figures.scrub_unreadable += unreadable;
        }
    }

    /// Takes subjects off that are gone with their segments, and gives those up that owe none any more.
    fn pay(&mut self) {
        let Some(&id) = self.owing.first() else { return };
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.index.pay(PAID_BLOCKS);
            if stream.index.owes() {
                return;
            }
        }
        self.owing.remove(0);
        if let Ok((stream, _)) = self.change(id)
            && stream.failed.is_none()
        {
            stream.drop_dead();
        }
    }

    /// Notes the stream if it counts subjects that are gone.
    pub(super) fn note_owing(&mut self, id: StreamId) {
        let owes = |stream: &Stream<F>| stream.index.owes();
        if self.streams.get(&id).is_some_and(owes) && !self.owing.contains(&id) {
            self.owing.push(id);
        }
    }

    /// Writes the removals of streams at rest once more.
    fn write_removals_again(&mut self, resting: &[StreamId]) {
        for &id in resting.iter().take(AGAIN_MAX) {
            if let Some(stream) = self.streams.get_mut(&id)
                && stream.again_at_rest(&mut self.shared)
                && !stream.queued
            {
                stream.queued = true;
                self.queue.push(id);
            }
        }
    }
}

/// The sealed segments of a stream, with their lengths.
fn sealed<F: Fs>(id: StreamId, stream: &Stream<F>) -> impl Iterator<Item = (Target, u64)> + '_ {
    let bases = stream.index.segments.iter().map(|table| table.base).skip(1);
    let full = stream.segments.iter().zip(&stream.index.segments).zip(bases);
    full.filter_map(move |((segment, table), next_base)| {
        let target = Target {
            stream: id,
            segment: segment.id,
            path: segment.path()?.to_owned(),
            seed: segment.seed,
            base: table.base,
            next_base,
        };
        Some((target, segment.end))
    })
}

impl<F: Fs> Stream<F> {
    /// Positions in a gap of a segment that have a record as far as the index knows.
    fn live_in(&self, segment: u64, gap: &Gap) -> Vec<u64> {
        let Some(number) = self.segments.iter().position(|other| other.id == segment) else {
            return Vec::new();
        };
        let mut seqs = Vec::new();
        let mut at = gap.first;
        while let Some(seq) = self.index.next_live(at).filter(|&seq| seq <= gap.last) {
            if self.index.locate(seq).is_none_or(|at| at.segment != number) {
                break;
            }
            seqs.push(seq);
            at = seq + 1;
        }
        seqs
    }

    /// Keeps the beginning of a gap aside.
    fn keep_gap_aside(&self, shared: &super::stream::Shared<F>, segment: u64, gap: &Gap) {
        let found = self.segments.iter().find(|other| other.id == segment);
        let mut bytes = vec![0; gap.len.min(GAP_BYTES_MAX) as usize];
        let read = match found.map(|segment| &segment.data) {
            Some(Data::File { file, .. }) => file.read_at(&mut bytes, gap.offset),
            Some(Data::Sealed(file)) => file.open().and_then(|file| file.read_at(&mut bytes, gap.offset)),
            Some(Data::Memory(_)) | None => return,
        };
        let Ok(count) = read else { return };
        let damage = Damage {
            segment,
            offset: gap.offset,
            bytes: &bytes[..count],
            range: SeqRange {
                first: StreamSeq(gap.first),
                last: StreamSeq(gap.last),
            },
        };
        self.keep_aside(shared, &damage);
    }
}
