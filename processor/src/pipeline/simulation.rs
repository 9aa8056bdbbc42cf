//! Whole lives of a pipeline over a real lake in memory: messages come, sessions break, commits fail in every way, other
//! writers compact, the process dies at any step. What the tables then hold is compared with what was published, by an
//! oracle that knows nothing of decoding, batching or windows.

mod oracle;

use std::collections::BTreeMap;
use std::time::Duration;

use futures::TryStreamExt;
use tarn_schemas::{Decoder, SubjectPatterns, UnixMicros};

use super::coordinator::{Coordinator, Effect, Event, Failure};
use super::writer::{LakeWriter, WriteError};
use crate::batch::{Batch, BatchLimits, SealedBatch};
use crate::catalog::Lake;
use crate::catalog::sqlite::SqliteCatalog;
use crate::commit::tests::fault::failing;
use crate::commit::{CommitError, TableChange};
use crate::config::{NatsAuth, NatsTarget, ProcessorConfig, WindowSpec};
use crate::decode::MessageDecoder;
use crate::file::{self, FileFormat};
use crate::source::{Delivered, SessionId};
use crate::storage::{LakeStorage, Warehouse};
use crate::tables::TableSpec;
use crate::watermark::{StreamSeq, Watermark};
use crate::window::rows::{from_batch, to_batch};
use crate::window::{Aggregate, Key, SeriesHasher, SeriesTable};
use oracle::{Oracle, Published};

const STREAM: &str = "SENSORS";
const WINDOW_TABLE: &str = "readings_1m";

/// SplitMix64: the same seed, the same life.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    fn one_in(&mut self, count: u64) -> bool {
        self.below(count) == 0
    }
}

/// What outlives the process.
struct World {
    storage: LakeStorage,
    catalog: tempfile::TempDir,
    random: Random,
    oracle: Oracle,
    created: String,
}

/// How much goes wrong.
#[derive(Clone, Copy)]
struct Troubles {
    /// The process dies before this step of its life.
    crash_at: Option<u32>,
    /// One in so many commits meets a fault.
    fault_every: Option<u64>,
}

#[derive(Debug, PartialEq, Eq)]
enum End {
    Finished,
    Crashed,
}

impl World {
    fn new(seed: u64) -> Self {
        Self {
            storage: LakeStorage::open(Warehouse::Memory).unwrap(),
            catalog: tempfile::tempdir().unwrap(),
            random: Random(seed),
            oracle: Oracle::default(),
            created: "2026-01-01T00:00:00.000000000Z".to_owned(),
        }
    }

    async fn lake_over(&self, storage: LakeStorage) -> Lake {
        let path = self.catalog.path().join("catalog.db");
        Lake::over(storage, SqliteCatalog::open(&path).await.unwrap())
    }

    async fn lake(&self) -> Lake {
        self.lake_over(self.storage.clone()).await
    }

    fn publish(&mut self, count: u64) {
        for _ in 0..count {
            let (skip, kind, ts_offset) =
                (self.random.below(3), self.random.below(8), self.random.below(600));
            let (device, value) = (self.random.below(4), self.random.below(1000) as f64 / 8.0);
            let late_days = if self.random.one_in(10) {
                self.random.below(3)
            } else {
                0
            };
            self.oracle
                .publish(skip, kind, ts_offset, device, value, late_days);
        }
    }
}

/// One process, from its start to its end.
struct Life<'a> {
    world: &'a mut World,
    troubles: Troubles,
    coordinator: Coordinator,
    writer: LakeWriter,
    lake: Lake,
    batch: Batch,
    limits: BatchLimits,
    decoder: MessageDecoder,
    hasher: SeriesHasher,
    sealed: Option<(SealedBatch, Vec<(String, Watermark)>)>,
    session: Option<(SessionId, StreamSeq)>,
    now: Duration,
    steps: u32,
    acked: StreamSeq,
}

fn config() -> ProcessorConfig {
    let nats = NatsTarget {
        url: "unused".to_owned(),
        auth: NatsAuth::None,
    };
    let mut config = ProcessorConfig::new(nats, vec![STREAM.to_owned()]);
    (config.rows_max, config.partitions_max) = (12, 3);
    (config.window_file_rows_max, config.window_open_rows_max) = (3, 6);
    config
}

impl<'a> Life<'a> {
    async fn begin(world: &'a mut World, troubles: Troubles) -> Self {
        let (config, hasher, lake) = (config(), SeriesHasher::default(), world.lake().await);
        let writer = LakeWriter::claim(lake.clone(), &config, &hasher).await.unwrap();
        let watermarks = writer.watermarks(&config.streams).await.unwrap();
        let limits = BatchLimits {
            rows_max: config.rows_max,
            bytes_max: config.bytes_max,
            partitions_max: config.partitions_max,
        };
        let decoder = Decoder::new(SubjectPatterns::default());
        Self {
            world,
            troubles,
            coordinator: Coordinator::new(config.commit_interval, watermarks),
            batch: Batch::new(limits, writer.schemas()),
            writer,
            lake,
            limits,
            decoder: MessageDecoder::new(decoder, SeriesTable::new(hasher.clone())),
            hasher,
            sealed: None,
            session: None,
            now: Duration::ZERO,
            steps: 0,
            acked: StreamSeq(0),
        }
    }

    async fn live(mut self) -> End {
        let mut events = vec![Event::Start];
        loop {
            let Some(event) = events.pop() else {
                match self.next_event() {
                    Some(event) => events.push(event),
                    None => return End::Finished,
                }
                continue;
            };
            let mut effects = Vec::new();
            self.coordinator.step(self.now, event, &mut effects);
            for effect in effects {
                self.steps += 1;
                if self.troubles.crash_at == Some(self.steps) {
                    return End::Crashed;
                }
                match self.run(effect).await {
                    Ok(Some(event)) => events.insert(0, event),
                    Ok(None) => {}
                    Err(End::Crashed) => return End::Crashed,
                    Err(End::Finished) => return End::Finished,
                }
            }
        }
    }

    /// What happens when nobody waits for anything.
    fn next_event(&mut self) -> Option<Event> {
        let Some((session, at)) = self.session else {
            panic!("a session is always ordered")
        };
        if self.world.random.one_in(12) {
            self.session = None;
            return Some(Event::Ended { stream: 0, session });
        }
        let unread: Vec<Published> = self.world.oracle.behind(at).cloned().collect();
        if unread.is_empty() && self.coordinator.deadline().is_none() {
            return Some(Event::Stop);
        }
        if unread.is_empty() || !self.coordinator.accepts() || self.world.random.one_in(10) {
            self.now = self.coordinator.deadline().unwrap_or(self.now);
            return Some(Event::Tick);
        }
        if self.batch.is_full() {
            return Some(Event::Full);
        }
        let count = 1 + self.world.random.below(5) as usize;
        let mut taken = at;
        for message in unread.iter().take(count) {
            if self.batch.is_full() {
                break;
            }
            self.decoder
                .decode_into(STREAM, &delivered(message), &mut self.batch);
            taken = message.seq;
        }
        self.session = Some((session, taken));
        Some(Event::Taken {
            stream: 0,
            seq: taken,
        })
    }

    async fn run(&mut self, effect: Effect) -> Result<Option<Event>, End> {
        match effect {
            Effect::Open { session, behind, .. } => {
                let created = self.world.created.clone();
                let at = behind.unwrap_or(Watermark {
                    seq: StreamSeq(0),
                    created,
                });
                self.session = Some((session, at.seq));
                Ok(Some(Event::Opened {
                    stream: 0,
                    session,
                    at,
                }))
            }
            Effect::Commit { targets } => {
                let empty = Batch::new(self.limits, self.writer.schemas());
                let batch = std::mem::replace(&mut self.batch, empty)
                    .seal(UnixMicros(0))
                    .unwrap();
                let watermarks = targets
                    .into_iter()
                    .map(|target| (STREAM.to_owned(), target.watermark))
                    .collect();
                self.sealed = Some((batch, watermarks));
                self.commit().await.map(Some)
            }
            Effect::Retry => self.commit().await.map(Some),
            Effect::Inspect => Ok(Some(Event::Inspected(
                self.writer.watermarks(&[STREAM.to_owned()]).await.ok(),
            ))),
            Effect::Settle => {
                self.writer.settle();
                self.check().await;
                Ok(None)
            }
            Effect::Ack { .. } => {
                let (_, watermarks) = self.sealed.as_ref().unwrap();
                self.acked = watermarks[0].1.seq;
                let table = self.lake.read_table(WINDOW_TABLE).await.unwrap();
                let properties = table.properties().into_iter().collect();
                let in_lake = Watermark::read(&properties, STREAM).unwrap().unwrap();
                assert!(self.acked <= in_lake.seq, "acknowledged before it was committed");
                Ok(None)
            }
            Effect::Finish => Err(End::Finished),
            Effect::Fail { reason } => panic!("{reason}"),
        }
    }

    /// Commits the sealed batch, with or without a fault.
    async fn commit(&mut self) -> Result<Event, End> {
        let has_fault = self
            .troubles
            .fault_every
            .is_some_and(|every| self.world.random.one_in(every));
        let fault = if has_fault {
            self.world.random.below(6)
        } else {
            u64::MAX
        };
        match fault {
            0 => {
                self.attempt().await.unwrap();
                Ok(Event::CommitFailed(Failure::Unknown))
            }
            1 => Ok(Event::CommitFailed(Failure::Unknown)),
            2 => {
                self.attempt().await.unwrap();
                Err(End::Crashed)
            }
            3 | 4 => {
                let at = i64::try_from(self.world.random.below(16)).unwrap();
                let storage = failing(&self.world.storage, at, self.world.random.one_in(2));
                self.writer.lake = self.world.lake_over(storage).await;
                let result = self.attempt().await;
                self.writer.lake = self.lake.clone();
                match (fault, result) {
                    (3, _) => Err(End::Crashed),
                    (_, Ok(())) => Ok(Event::Committed),
                    (_, Err(WriteError::Commit(CommitError::Unknown(_)))) => {
                        Ok(Event::CommitFailed(Failure::Unknown))
                    }
                    (_, Err(_)) => Ok(Event::CommitFailed(Failure::Again)),
                }
            }
            5 => {
                self.compact_windows().await;
                match self.attempt().await {
                    Ok(()) => Ok(Event::Committed),
                    Err(WriteError::Commit(CommitError::NoSuchFile { .. })) => {
                        Ok(Event::CommitFailed(Failure::Again))
                    }
                    Err(error) => panic!("{error}"),
                }
            }
            _ => {
                self.attempt().await.unwrap();
                Ok(Event::Committed)
            }
        }
    }

    async fn attempt(&mut self) -> Result<(), WriteError> {
        let (batch, watermarks) = self.sealed.as_ref().unwrap();
        self.writer.commit(batch, watermarks).await?;
        if self.world.random.one_in(3) {
            self.check().await;
        }
        Ok(())
    }

    async fn check(&mut self) {
        self.world.oracle.check(&self.lake, STREAM, WINDOW_TABLE).await;
    }

    /// What `optimize` of another engine does: one file a day instead of many.
    async fn compact_windows(&mut self) {
        let table = self.lake.read_table(WINDOW_TABLE).await.unwrap();
        let files: Vec<_> = table.data_files().try_collect().await.unwrap();
        let mut days: BTreeMap<i32, Vec<(Key, Aggregate)>> = BTreeMap::new();
        for data_file in &files {
            let mut rows = Vec::new();
            file::read(&self.lake, data_file.file_path(), |batch| {
                from_batch(&batch, &self.hasher, &mut rows).unwrap();
                Ok::<_, file::FileError>(())
            })
            .await
            .unwrap();
            let day = rows[0].0.day();
            days.entry(day).or_default().extend(rows);
        }
        let format = FileFormat::new(TableSpec::window(WINDOW_TABLE));
        let mut change = TableChange {
            table: WINDOW_TABLE.to_owned(),
            ..TableChange::default()
        };
        for (day, rows) in days {
            let batch = to_batch(&format.arrow, 60_000_000, &rows).unwrap();
            change
                .add
                .push(format.write(&self.lake, day, &[batch]).await.unwrap());
        }
        change.remove = files.iter().map(|file| file.file_path().to_owned()).collect();
        if !change.remove.is_empty() {
            self.lake.commit(self.writer.epoch, vec![change]).await.unwrap();
        }
    }
}

fn delivered(message: &Published) -> Delivered {
    Delivered {
        seq: message.seq,
        published: message.published,
        subject: message.subject.as_str().into(),
        headers: None,
        payload: message.payload.clone().into(),
        ack: "".into(),
    }
}

/// Lives until everything that was published is in the lake, then holds the tables against the oracle.
async fn lives(seed: u64, crash_at: Option<u32>, fault_every: Option<u64>) -> u32 {
    let mut world = World::new(seed);
    let mut crashes = 0;
    let mut troubles = Troubles {
        crash_at,
        fault_every,
    };
    for _ in 0..2 {
        let count = 10 + world.random.below(20);
        world.publish(count);
        while Life::begin(&mut world, troubles).await.live().await == End::Crashed {
            crashes += 1;
            troubles.crash_at = None;
        }
    }
    let lake = world.lake().await;
    let in_lake = world.oracle.check(&lake, STREAM, WINDOW_TABLE).await;
    assert_eq!(in_lake, world.oracle.last(), "seed {seed}");
    crashes
}

#[tokio::test]
async fn lives_without_trouble() {
    for seed in 0..2 {
        lives(seed, None, None).await;
    }
}

#[tokio::test]
async fn a_crash_before_every_step() {
    let mut crashes = 0;
    for step in 1..=12 {
        crashes += lives(7, Some(step), None).await;
    }
    assert!(crashes >= 10, "{crashes}");
}

#[tokio::test]
async fn commits_that_fail_in_every_way_and_crashes_within_them() {
    let mut crashes = 0;
    for seed in 100..112 {
        crashes += lives(seed, None, Some(2)).await;
    }
    assert!(crashes >= 8, "{crashes}");
}

#[tokio::test]
async fn a_taken_over_writer_changes_nothing() {
    let mut world = World::new(1);
    world.publish(10);
    let mut stale = Life::begin(
        &mut world,
        Troubles {
            crash_at: None,
            fault_every: None,
        },
    )
    .await;
    LakeWriter::claim(stale.lake.clone(), &config(), &stale.hasher)
        .await
        .unwrap();
    for message in stale
        .world
        .oracle
        .behind(StreamSeq(0))
        .cloned()
        .collect::<Vec<_>>()
    {
        stale
            .decoder
            .decode_into(STREAM, &delivered(&message), &mut stale.batch);
    }
    let batch = stale.batch.seal(UnixMicros(0)).unwrap();
    let watermark = Watermark {
        seq: stale.world.oracle.last(),
        created: stale.world.created.clone(),
    };
    let error = stale
        .writer
        .commit(&batch, &[(STREAM.to_owned(), watermark)])
        .await
        .unwrap_err();
    assert!(
        matches!(error, WriteError::Commit(CommitError::Fenced { .. })),
        "{error}"
    );
    assert_eq!(
        stale.world.oracle.check(&stale.lake, STREAM, WINDOW_TABLE).await,
        StreamSeq(0)
    );
}

#[tokio::test]
async fn a_window_table_keeps_its_length_and_may_be_added_late() {
    let mut world = World::new(3);
    world.publish(10);
    let trouble = Troubles {
        crash_at: None,
        fault_every: None,
    };
    assert_eq!(Life::begin(&mut world, trouble).await.live().await, End::Finished);
    let (lake, hasher) = (world.lake().await, SeriesHasher::default());

    let mut longer = config();
    longer.windows[0].every = Duration::from_secs(300);
    let error = LakeWriter::claim(lake.clone(), &longer, &hasher)
        .await
        .unwrap_err();
    assert!(
        error.to_string().contains("has windows of 60000000 µs"),
        "{error}"
    );

    let mut more = config();
    more.windows.push(WindowSpec {
        table: "readings_5m".to_owned(),
        every: Duration::from_secs(300),
    });
    let mut writer = LakeWriter::claim(lake.clone(), &more, &hasher).await.unwrap();
    let error = writer.watermarks(&more.streams).await.unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with("table readings_5m holds stream SENSORS up to nothing"),
        "{error}"
    );
    writer.rebuild_windows(&hasher).await.unwrap();
    let watermarks = writer.watermarks(&more.streams).await.unwrap();
    assert_eq!(watermarks[0].as_ref().unwrap().seq, world.oracle.last());
    world.oracle.check(&lake, STREAM, WINDOW_TABLE).await;
}
