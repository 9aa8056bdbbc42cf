//! The shell around the [`Coordinator`]: receives chunks, decodes them off the runtime's threads, commits in the
//! background, and does what the coordinator says.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use async_nats::Subject;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::task::{JoinError, JoinSet};
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use super::coordinator::{Coordinator, Effect, Event, Failure, Target};
use super::writer::{LakeWriter, WatermarksError, WriteError, WriteReport};
use crate::batch::{Batch, BatchLimits, Schemas, SealedBatch};
use crate::clock;
use crate::commit::CommitError;
use crate::config::ProcessorConfig;
use crate::decode::MessageDecoder;
use crate::source::{Chunk, Delivered, Order, SourceEvent, SourceEventKind};
use crate::stats::{ProcessorState, Recorder};
use crate::watermark::{StreamSeq, Watermark};

/// How long the last acknowledgements may take at shutdown.
const FLUSH_MAX: Duration = Duration::from_secs(2);
/// How often it is said that messages are missing in a stream.
const MISSING_EVERY: Duration = Duration::from_secs(60);

/// What a run is made of.
pub(super) struct RunParts {
    pub(super) client: async_nats::Client,
    pub(super) events: mpsc::Receiver<SourceEvent>,
    /// One for each stream.
    pub(super) orders: Vec<mpsc::Sender<Order>>,
    pub(super) writer: LakeWriter,
    pub(super) decoder: MessageDecoder,
    pub(super) watermarks: Vec<Option<Watermark>>,
}

/// See the module.
pub(super) struct Run {
    names: Vec<Arc<str>>,
    client: async_nats::Client,
    events: mpsc::Receiver<SourceEvent>,
    orders: Vec<mpsc::Sender<Order>>,
    coordinator: Coordinator,
    stats: Recorder,
    began: Instant,
    limits: BatchLimits,
    schemas: Schemas,
    /// `None` only while it decodes.
    filler: Option<Filler>,
    /// Where each stream's last message in the batch being filled is acknowledged.
    acks: Vec<Option<Subject>>,
    /// Messages that the batch being filled had no room for.
    held: Option<Held>,
    sealed: Option<Sealed>,
    /// `None` while a job has it.
    writer: Option<LakeWriter>,
    jobs: JoinSet<JobDone>,
    missing_said_at: Vec<Option<Instant>>,
    is_over: bool,
}

/// The batch being filled, and what fills it.
struct Filler {
    batch: Batch,
    decoder: MessageDecoder,
}

struct Held {
    stream: usize,
    messages: VecDeque<Delivered>,
}

/// The batch being committed.
struct Sealed {
    batch: Arc<SealedBatch>,
    watermarks: Vec<(String, Watermark)>,
    acks: Vec<Option<Subject>>,
    at: Instant,
}

/// What came of a job; the writer comes back with it.
enum JobDone {
    Commit(LakeWriter, Result<WriteReport, WriteError>),
    Inspect(LakeWriter, Result<Vec<Option<Watermark>>, WatermarksError>),
}

impl Run {
    pub(super) fn new(config: &ProcessorConfig, parts: RunParts, stats: Recorder) -> Self {
        let schemas = parts.writer.schemas();
        let limits = BatchLimits {
            rows_max: config.rows_max,
            bytes_max: config.bytes_max,
            partitions_max: config.partitions_max,
        };
        for (index, watermark) in parts.watermarks.iter().enumerate() {
            let seq = watermark
                .as_ref()
                .map(|watermark| watermark.seq)
                .unwrap_or_default();
            let mut recorded = stats.lock();
            (recorded.stream(index).watermark, recorded.stream(index).delivered) = (seq, seq);
        }
        let count = config.streams.len();
        Self {
            names: config
                .streams
                .iter()
                .map(|name| Arc::from(name.as_str()))
                .collect(),
            client: parts.client,
            events: parts.events,
            orders: parts.orders,
            coordinator: Coordinator::new(config.commit_interval, parts.watermarks),
            stats,
            began: Instant::now(),
            limits,
            filler: Some(Filler {
                batch: Batch::new(limits, schemas.clone()),
                decoder: parts.decoder,
            }),
            schemas,
            acks: vec![None; count],
            held: None,
            sealed: None,
            writer: Some(parts.writer),
            jobs: JoinSet::new(),
            missing_said_at: vec![None; count],
            is_over: false,
        }
    }

    /// Runs until told to stop, or until nothing more can be done.
    pub(super) async fn run(mut self, stop: CancellationToken) {
        let mut is_stopping = false;
        self.step(Event::Start).await;
        while !self.is_over {
            if self.coordinator.accepts()
                && let Some(held) = self.held.take()
            {
                self.fill(held).await;
                continue;
            }
            let deadline = self.coordinator.deadline().map(|deadline| self.began + deadline);
            tokio::select! {
                Some(done) = self.jobs.join_next() => self.job_done(done).await,
                event = self.events.recv(), if self.coordinator.accepts() => match event {
                    Some(event) => self.source_event(event).await,
                    None => self.fail("the sources ended"),
                },
                () = sleep_until(deadline.unwrap_or_else(Instant::now)), if deadline.is_some() => {
                    self.step(Event::Tick).await;
                }
                () = stop.cancelled(), if !is_stopping => {
                    is_stopping = true;
                    self.step(Event::Stop).await;
                }
            }
        }
        if timeout(FLUSH_MAX, self.client.flush()).await.is_err() {
            tracing::debug!("the last acknowledgements may not have arrived");
        }
    }

    /// Lets the coordinator take note of the event and does what it says, and so on until nothing is left to do.
    async fn step(&mut self, event: Event) {
        let mut effects = Vec::new();
        self.coordinator.step(self.began.elapsed(), event, &mut effects);
        for effect in effects {
            match effect {
                Effect::Open {
                    stream,
                    session,
                    behind,
                } => self.order(stream, Order { session, behind }).await,
                Effect::Commit { targets } => self.seal(&targets),
                Effect::Retry => self.commit(),
                Effect::Inspect => self.inspect(),
                Effect::Settle => self.settle(),
                Effect::Ack { stream } => self.ack(stream).await,
                Effect::Finish => {
                    self.is_over = true;
                    self.stats.lock().stats.state = ProcessorState::Stopped;
                }
                Effect::Fail { reason } => self.fail(&reason),
            }
        }
    }

    fn fail(&mut self, reason: &str) {
        tracing::error!(reason, "the processor stops");
        let mut recorded = self.stats.lock();
        recorded.stats.state = ProcessorState::Failed;
        recorded.stats.last_error = Some(reason.to_owned());
        self.is_over = true;
    }

    async fn order(&mut self, stream: usize, order: Order) {
        let Some(orders) = self.orders.get(stream) else {
            return;
        };
        // The source takes its next order as soon as its session is over, which it is when one is given.
        if orders.send(order).await.is_err() {
            self.fail("a source ended");
        }
    }

    async fn source_event(&mut self, event: SourceEvent) {
        let SourceEvent {
            stream,
            session,
            kind,
        } = event;
        if !self.coordinator.is_current(stream, session) {
            return;
        }
        match kind {
            SourceEventKind::Opened { at } => {
                let name = self.names.get(stream).map_or("", |name| name);
                tracing::info!(stream = name, seq = at.seq.0, "reading the stream");
                {
                    let mut recorded = self.stats.lock();
                    recorded.stats.state = ProcessorState::Running;
                    let stats = recorded.stream(stream);
                    (stats.connected, stats.delivered) = (true, at.seq);
                    stats.sessions += 1;
                }
                self.step(Event::Opened { stream, session, at }).await;
            }
            SourceEventKind::Messages(chunk) => self.take(stream, chunk).await,
            SourceEventKind::Ended { error } => {
                {
                    let mut recorded = self.stats.lock();
                    recorded.stream(stream).connected = false;
                    recorded.stream(stream).gaps += u64::from(error.is_gap());
                }
                self.step(Event::Ended { stream, session }).await;
            }
        }
    }

    async fn take(&mut self, stream: usize, chunk: Chunk) {
        {
            let mut recorded = self.stats.lock();
            let stats = recorded.stream(stream);
            stats.pending = chunk.pending;
            stats.redelivered += chunk.redelivered;
            stats.expired += chunk.missing;
        }
        if chunk.missing > 0 {
            self.say_missing(stream, chunk.missing);
        }
        self.fill(Held {
            stream,
            messages: chunk.messages.into(),
        })
        .await;
    }

    fn say_missing(&mut self, stream: usize, count: u64) {
        let Some(said_at) = self.missing_said_at.get_mut(stream) else {
            return;
        };
        if said_at.is_none_or(|at| at.elapsed() >= MISSING_EVERY) {
            *said_at = Some(Instant::now());
            let stream = self.names.get(stream).map_or("", |name| name);
            tracing::warn!(
                stream,
                count,
                "messages were removed from the stream before they were read"
            );
        }
    }

    /// Decodes messages into the batch being filled, off the runtime's threads. What it has no room for is held.
    async fn fill(&mut self, mut held: Held) {
        let Some(mut filler) = self.filler.take() else {
            return;
        };
        let (stream, name) = (
            held.stream,
            self.names.get(held.stream).cloned().unwrap_or_default(),
        );
        let decoded = tokio::task::spawn_blocking(move || {
            let mut last = None;
            while !filler.batch.is_full()
                && let Some(message) = held.messages.pop_front()
            {
                filler.decoder.decode_into(&name, &message, &mut filler.batch);
                last = Some((message.seq, message.ack));
            }
            (filler, held, last)
        });
        let Ok((filler, held, last)) = decoded.await else {
            return self.fail("decoding panicked");
        };
        let is_full = filler.batch.is_full();
        self.note_filled(stream, &filler.batch, last.as_ref().map(|(seq, _)| *seq));
        self.filler = Some(filler);
        self.held = (!held.messages.is_empty()).then_some(held);
        if let Some((seq, ack)) = last {
            if let Some(slot) = self.acks.get_mut(stream) {
                *slot = Some(ack);
            }
            self.step(Event::Taken { stream, seq }).await;
        }
        if is_full {
            self.step(Event::Full).await;
        }
    }

    fn note_filled(&self, stream: usize, batch: &Batch, last: Option<StreamSeq>) {
        let mut recorded = self.stats.lock();
        let mut figures = batch.figures();
        if let Some(sealed) = &self.sealed {
            figures = figures.plus(sealed.batch.figures);
        }
        recorded.stats.buffered_rows = figures.rows();
        recorded.stats.buffered_bytes = figures.bytes as u64;
        if let Some(seq) = last {
            recorded.stream(stream).delivered = seq;
        }
    }

    fn seal(&mut self, targets: &[Target]) {
        let empty = Batch::new(self.limits, self.schemas.clone());
        let Some(filler) = &mut self.filler else {
            return self.fail("the batch is being filled");
        };
        let batch = match std::mem::replace(&mut filler.batch, empty).seal(clock::now()) {
            Ok(batch) => Arc::new(batch),
            Err(error) => return self.fail(&format!("rows don't fit the tables: {error}")),
        };
        let name = |target: &Target| self.names.get(target.stream).map_or("", |name| name).to_owned();
        let watermarks = targets
            .iter()
            .map(|target| (name(target), target.watermark.clone()))
            .collect();
        let acks = self.acks.iter_mut().map(Option::take).collect();
        self.sealed = Some(Sealed {
            batch,
            watermarks,
            acks,
            at: Instant::now(),
        });
        self.commit();
    }

    fn commit(&mut self) {
        let (Some(mut writer), Some(sealed)) = (self.writer.take(), &self.sealed) else {
            return self.fail("a commit was ordered while another one ran");
        };
        let (batch, watermarks) = (sealed.batch.clone(), sealed.watermarks.clone());
        let runtime = Handle::current();
        self.jobs.spawn_blocking(move || {
            let result = runtime.block_on(writer.commit(&batch, &watermarks));
            JobDone::Commit(writer, result)
        });
    }

    fn inspect(&mut self) {
        let Some(writer) = self.writer.take() else {
            return self.fail("a look-up was ordered during a commit");
        };
        let names: Vec<String> = self.names.iter().map(|name| name.to_string()).collect();
        self.jobs.spawn(async move {
            let result = writer.watermarks(&names).await;
            JobDone::Inspect(writer, result)
        });
    }

    async fn job_done(&mut self, done: Result<JobDone, JoinError>) {
        match done {
            Ok(JobDone::Commit(writer, result)) => {
                self.writer = Some(writer);
                let event = match result {
                    Ok(report) => {
                        self.note_committed(&report);
                        Event::Committed
                    }
                    Err(error) => Event::CommitFailed(self.note_failed(&error)),
                };
                let is_committed = event == Event::Committed;
                let sealed_at = self.sealed.as_ref().map(|sealed| sealed.at);
                self.step(event).await;
                if is_committed && self.sealed.as_ref().map(|sealed| sealed.at) == sealed_at {
                    self.sealed = None;
                }
            }
            Ok(JobDone::Inspect(writer, result)) => {
                self.writer = Some(writer);
                if let Err(error) = &result {
                    tracing::warn!(%error, "can't read the watermarks, trying again");
                }
                self.step(Event::Inspected(result.ok())).await;
            }
            Err(error) => self.fail(&format!("the writer panicked: {error}")),
        }
    }

    /// The commit whose outcome was unknown stands.
    fn settle(&mut self) {
        let Some(writer) = &mut self.writer else { return };
        let report = writer.settle();
        self.note_committed(&report);
    }

    fn note_committed(&mut self, report: &WriteReport) {
        let Some(sealed) = &self.sealed else { return };
        let now = clock::now();
        let figures = sealed.batch.figures;
        let mut guard = self.stats.lock();
        let recorded = &mut *guard;
        let stats = &mut recorded.stats;
        stats.state = ProcessorState::Running;
        stats.messages += figures.messages;
        stats.readings += figures.readings;
        stats.dead_letters += figures.dead_letters;
        stats.commits += 1;
        stats.files += report.files;
        stats.file_bytes += report.file_bytes;
        stats.last_commit_at = Some(now.0);
        stats.attempts_failed = 0;
        stats.last_error = None;
        stats.buffered_rows = self
            .filler
            .as_ref()
            .map_or(0, |filler| filler.batch.figures().rows());
        stats.buffered_bytes = self
            .filler
            .as_ref()
            .map_or(0, |filler| filler.batch.figures().bytes as u64);
        for (stats, done) in stats.windows.iter_mut().zip(&report.windows) {
            (stats.open_rows, stats.files) = (done.open_rows, done.files);
            stats.rewrites += done.rewrites;
        }
        for (name, watermark) in &sealed.watermarks {
            if let Some(stream) = stats.streams.iter_mut().find(|stream| stream.name == *name) {
                stream.watermark = watermark.seq;
            }
        }
        let took = sealed.at.elapsed();
        recorded
            .commit_latency
            .record(u64::try_from(took.as_millis()).unwrap_or(u64::MAX), 1);
        for (age_ms, count) in sealed.batch.published.ages(now) {
            recorded.publish_to_commit.record(age_ms, count);
        }
        tracing::debug!(
            rows = figures.rows(),
            files = report.files,
            bytes = report.file_bytes,
            ?took,
            "committed"
        );
    }

    fn note_failed(&mut self, error: &WriteError) -> Failure {
        let failure = match error {
            WriteError::Commit(CommitError::Fenced { .. }) => Failure::Fenced {
                reason: format!("another processor took over the tables: {error}"),
            },
            WriteError::Commit(CommitError::Unknown(_)) => Failure::Unknown,
            _ => Failure::Again,
        };
        tracing::warn!(%error, "a commit failed; what it holds is kept and tried again");
        let mut recorded = self.stats.lock();
        recorded.stats.state = ProcessorState::Retrying;
        recorded.stats.commit_failures += 1;
        recorded.stats.attempts_failed += 1;
        recorded.stats.last_error = Some(error.to_string());
        failure
    }

    async fn ack(&mut self, stream: usize) {
        let ack = self
            .sealed
            .as_mut()
            .and_then(|sealed| sealed.acks.get_mut(stream)?.take());
        let Some(ack) = ack else { return };
        if let Err(error) = self.client.publish(ack, "+ACK".into()).await {
            tracing::debug!(%error, "can't acknowledge; the next commit does");
        }
    }
}
