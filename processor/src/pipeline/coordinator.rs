//! What the pipeline does next: events in, effects out, no IO and no clock.
//!
//! One batch is filled while at most one is committed. A commit that failed is kept and tried again; one whose outcome
//! is unknown is looked up first. Sessions of the sources begin behind the last message that was taken, so that a broken
//! connection costs nothing that was buffered.

use std::time::Duration;

use crate::source::SessionId;
use crate::watermark::{StreamSeq, Watermark};

/// The first and the longest wait before a failed commit is tried again.
const RETRY_MIN: Duration = Duration::from_millis(200);
const RETRY_MAX: Duration = Duration::from_secs(15);
/// Attempts at the last commit before a shutdown gives up. What it held is read again after the next start.
const ATTEMPTS_AT_SHUTDOWN: u32 = 3;

/// Something happened.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Event {
    /// The processor starts to read.
    Start,
    /// The ordered session begins behind `at`.
    Opened {
        stream: usize,
        session: SessionId,
        at: Watermark,
    },
    /// All messages of the stream up to `seq` are in the batch being filled.
    Taken { stream: usize, seq: StreamSeq },
    /// The batch being filled has room for no more.
    Full,
    /// The session is over.
    Ended { stream: usize, session: SessionId },
    /// The commit under way stands.
    Committed,
    /// The commit under way failed.
    CommitFailed(Failure),
    /// The watermarks that the lake has, in the order of the streams; none: they could not be read.
    Inspected(Option<Vec<Option<Watermark>>>),
    /// Time passed.
    Tick,
    /// The processor is to stop.
    Stop,
}

/// How a commit failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    /// It did not happen and may be tried again.
    Again,
    /// It may have happened.
    Unknown,
    /// Another writer owns the tables.
    Fenced { reason: String },
}

/// Something to do.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Effect {
    /// Order a session of the stream's source.
    Open {
        stream: usize,
        session: SessionId,
        behind: Option<Watermark>,
    },
    /// Seal the batch being filled and commit it with these watermarks. Answered by `Committed` or `CommitFailed`.
    Commit { targets: Vec<Target> },
    /// Commit the sealed batch once more. Answered as `Commit`.
    Retry,
    /// Read the watermarks from the lake. Answered by `Inspected`.
    Inspect,
    /// The commit that was looked up stands: take note of it as of one that succeeded.
    Settle,
    /// Acknowledge the last message of the stream in the batch that was committed.
    Ack { stream: usize },
    /// All is done.
    Finish,
    /// Nothing more can be done.
    Fail { reason: String },
}

/// How far a commit moves one stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    pub(crate) stream: usize,
    pub(crate) watermark: Watermark,
    session: SessionId,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Coordinator {
    interval: Duration,
    streams: Vec<Track>,
    filling_since: Option<Duration>,
    full: bool,
    commit: Commit,
    failures: u32,
    mode: Mode,
}

/// One stream.
#[derive(Debug)]
struct Track {
    committed: Option<Watermark>,
    /// The last message in any batch.
    taken: Option<Watermark>,
    session: SessionId,
    open: bool,
    /// Whether the batch being filled has messages of it.
    in_batch: bool,
}

#[derive(Debug)]
enum Commit {
    Idle,
    Running {
        targets: Vec<Target>,
    },
    Waiting {
        targets: Vec<Target>,
        until: Duration,
        outcome_known: bool,
    },
    Inspecting {
        targets: Vec<Target>,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Running,
    Stopping,
    Over,
}

impl Coordinator {
    /// Of streams that are in the lake up to these watermarks.
    pub(crate) fn new(interval: Duration, watermarks: Vec<Option<Watermark>>) -> Self {
        let track = |watermark: Option<Watermark>| Track {
            committed: watermark.clone(),
            taken: watermark,
            session: SessionId(0),
            open: false,
            in_batch: false,
        };
        Self {
            interval,
            streams: watermarks.into_iter().map(track).collect(),
            filling_since: None,
            full: false,
            commit: Commit::Idle,
            failures: 0,
            mode: Mode::Running,
        }
    }

    /// Whether messages may be added to the batch being filled.
    pub(crate) fn accepts(&self) -> bool {
        self.mode == Mode::Running && !self.full
    }

    /// Whether what this session says counts.
    pub(crate) fn is_current(&self, stream: usize, session: SessionId) -> bool {
        self.streams
            .get(stream)
            .is_some_and(|track| track.session == session)
    }

    /// When [`Event::Tick`] is due.
    pub(crate) fn deadline(&self) -> Option<Duration> {
        match &self.commit {
            Commit::Idle => self.filling_since.map(|since| since + self.interval),
            Commit::Waiting { until, .. } => Some(*until),
            Commit::Running { .. } | Commit::Inspecting { .. } => None,
        }
    }

    /// Takes note of `event` at `now` (since any fixed moment) and adds what is to be done, in order.
    pub(crate) fn step(&mut self, now: Duration, event: Event, effects: &mut Vec<Effect>) {
        if self.mode == Mode::Over {
            return;
        }
        match event {
            Event::Start => (0..self.streams.len()).for_each(|stream| self.open(stream, effects)),
            Event::Opened { stream, session, at } => self.opened(stream, session, at),
            Event::Taken { stream, seq } => self.taken(now, stream, seq),
            Event::Full => self.full = true,
            Event::Ended { stream, session } => self.ended(stream, session, effects),
            Event::Committed => self.committed(effects),
            Event::CommitFailed(failure) => self.commit_failed(now, failure, effects),
            Event::Inspected(found) => self.inspected(now, found, effects),
            Event::Tick => self.tick(now, effects),
            Event::Stop => self.mode = Mode::Stopping,
        }
        self.begin_commit(now, effects);
        self.finish(effects);
    }

    fn open(&mut self, stream: usize, effects: &mut Vec<Effect>) {
        let Some(track) = self.streams.get_mut(stream) else {
            return;
        };
        track.session.0 += 1;
        track.open = false;
        effects.push(Effect::Open {
            stream,
            session: track.session,
            behind: track.taken.clone(),
        });
    }

    fn opened(&mut self, stream: usize, session: SessionId, at: Watermark) {
        let Some(track) = self
            .streams
            .get_mut(stream)
            .filter(|track| track.session == session)
        else {
            return;
        };
        track.taken = Some(at);
        track.open = true;
    }

    fn taken(&mut self, now: Duration, stream: usize, seq: StreamSeq) {
        let Some(track) = self.streams.get_mut(stream) else {
            return;
        };
        let taken = track
            .taken
            .as_mut()
            .filter(|_| track.open)
            .expect("messages come in an open session only");
        assert!(seq > taken.seq, "message {seq:?} was taken after {taken:?}");
        taken.seq = seq;
        track.in_batch = true;
        self.filling_since.get_or_insert(now);
    }

    fn ended(&mut self, stream: usize, session: SessionId, effects: &mut Vec<Effect>) {
        if self.is_current(stream, session) && self.mode == Mode::Running {
            self.open(stream, effects);
        }
    }

    fn begin_commit(&mut self, now: Duration, effects: &mut Vec<Effect>) {
        let Some(since) = self.filling_since else { return };
        let is_due = self.full || self.mode == Mode::Stopping || now >= since + self.interval;
        if !is_due || !matches!(self.commit, Commit::Idle) || self.mode == Mode::Over {
            return;
        }
        let mut targets = Vec::new();
        for (stream, track) in self.streams.iter_mut().enumerate() {
            if let Some(watermark) = track.taken.clone().filter(|_| track.in_batch) {
                targets.push(Target {
                    stream,
                    watermark,
                    session: track.session,
                });
            }
            track.in_batch = false;
        }
        self.filling_since = None;
        self.full = false;
        self.commit = Commit::Running {
            targets: targets.clone(),
        };
        effects.push(Effect::Commit { targets });
    }

    fn committed(&mut self, effects: &mut Vec<Effect>) {
        let Commit::Running { targets } = std::mem::replace(&mut self.commit, Commit::Idle) else {
            unreachable!("a commit ends only while it runs");
        };
        self.note(targets, effects);
    }

    fn note(&mut self, targets: Vec<Target>, effects: &mut Vec<Effect>) {
        self.failures = 0;
        for Target {
            stream,
            watermark,
            session,
        } in targets
        {
            let Some(track) = self.streams.get_mut(stream) else {
                continue;
            };
            track.committed = Some(watermark);
            if track.open && track.session == session {
                effects.push(Effect::Ack { stream });
            }
        }
    }

    fn commit_failed(&mut self, now: Duration, failure: Failure, effects: &mut Vec<Effect>) {
        let Commit::Running { targets } = std::mem::replace(&mut self.commit, Commit::Idle) else {
            unreachable!("a commit fails only while it runs");
        };
        match failure {
            Failure::Again => self.wait(now, targets, true),
            Failure::Unknown => self.wait(now, targets, false),
            Failure::Fenced { reason } => self.fail(reason, effects),
        }
    }

    fn wait(&mut self, now: Duration, targets: Vec<Target>, outcome_known: bool) {
        let wait = RETRY_MIN
            .saturating_mul(2u32.saturating_pow(self.failures))
            .min(RETRY_MAX);
        self.failures = self.failures.saturating_add(1);
        self.commit = Commit::Waiting {
            targets,
            until: now + wait,
            outcome_known,
        };
    }

    fn tick(&mut self, now: Duration, effects: &mut Vec<Effect>) {
        match std::mem::replace(&mut self.commit, Commit::Idle) {
            Commit::Waiting {
                targets,
                until,
                outcome_known: true,
            } if now >= until => {
                self.commit = Commit::Running { targets };
                effects.push(Effect::Retry);
            }
            Commit::Waiting {
                targets,
                until,
                outcome_known: false,
            } if now >= until => {
                self.commit = Commit::Inspecting { targets };
                effects.push(Effect::Inspect);
            }
            unchanged => self.commit = unchanged,
        }
    }

    fn inspected(&mut self, now: Duration, found: Option<Vec<Option<Watermark>>>, effects: &mut Vec<Effect>) {
        let Commit::Inspecting { targets } = std::mem::replace(&mut self.commit, Commit::Idle) else {
            unreachable!("watermarks are looked up only for a commit");
        };
        let Some(found) = found else {
            return self.wait(now, targets, false);
        };
        let in_lake = |target: &Target| found.get(target.stream).and_then(Option::as_ref);
        let before = |target: &Target| {
            self.streams
                .get(target.stream)
                .and_then(|track| track.committed.as_ref())
        };
        if targets
            .iter()
            .all(|target| in_lake(target) == Some(&target.watermark))
        {
            effects.push(Effect::Settle);
            self.note(targets, effects);
        } else if targets.iter().all(|target| in_lake(target) == before(target)) {
            self.commit = Commit::Running { targets };
            effects.push(Effect::Retry);
        } else {
            self.fail(
                "the tables' watermarks were moved by someone else".to_owned(),
                effects,
            );
        }
    }

    fn fail(&mut self, reason: String, effects: &mut Vec<Effect>) {
        self.mode = Mode::Over;
        effects.push(Effect::Fail { reason });
    }

    fn finish(&mut self, effects: &mut Vec<Effect>) {
        if self.mode != Mode::Stopping {
            return;
        }
        let is_done = match &self.commit {
            Commit::Idle => self.filling_since.is_none(),
            Commit::Waiting { .. } => self.failures >= ATTEMPTS_AT_SHUTDOWN,
            Commit::Running { .. } | Commit::Inspecting { .. } => false,
        };
        if is_done {
            self.mode = Mode::Over;
            effects.push(Effect::Finish);
        }
    }
}

#[cfg(test)]
mod tests;
