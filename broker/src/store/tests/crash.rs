//! A random workload, a power cut at a random moment, a comparison with the model; by seed.
//!
//! `TARN_SEED=n` runs one seed, `TARN_CRASH_SEEDS=n` that many, `TARN_FIRST_SEED=n` from that one on.
//! `TARN_TRACE=1` shows what happens on the disk.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use super::super::format::PACKED_VERSION;
use super::super::{Backing, NewRecord, RecoveryReport, Store, StoreError, StoreOptions};
use super::model::{Either, Model, ModelConsumer, ModelStream, Sent, check_answers};
use super::{DIR, id_of, small};
use crate::env::Rng;
use crate::env::sim::{SimFs, SplitMix};
use crate::types::{MonoNanos, StreamId, StreamSeq, UnixNanos};

/// Seeds of one run of the tests.
const SEEDS: u64 = 1_000;
/// One of so many seeds compacts; they take longer.
const COMPACTING: u64 = 4;
const SUBJECTS: [&str; 5] = ["a", "b.x", "b.y", "c", "b.y.z"];
const STREAMS: [&str; 3] = ["S", "T", "$M_x"];
/// The stream that is synced late.
const LATE: &str = "T";
const CONSUMERS: [&str; 2] = ["one", "two"];

/// One run: a disk, and what is known about it.
struct Run {
    rng: SplitMix,
    fs: SimFs,
    model: Model,
    time: i64,
    mono: u64,
    /// Whether most is removed again, and what is left compacted all the time.
    compacting: bool,
    compacted: u64,
    /// Segments that may hold packed records, found at starts.
    packed_segments: u64,
}

/// The power is gone, or the disk failed.
struct PowerCut;

impl Run {
    fn new(seed: u64) -> Self {
        Self {
            rng: SplitMix::new(seed),
            fs: SimFs::new(seed),
            model: Model::default(),
            time: 1_000,
            mono: 0,
            compacting: seed % COMPACTING == COMPACTING - 1,
            compacted: 0,
            packed_segments: 0,
        }
    }

    /// Lives of the program on the same disk, each ended by a power cut, a failed write or sync, a kill, or a
    /// clean end.
    fn run(&mut self) {
        for _ in 0..3 {
            let changes = self.rng.below(if self.compacting { 700 } else { 160 });
            match self.rng.below(10) {
                0..6 => self.fs.cut_power_after(changes),
                6 => self.fs.fail_nth_write(changes),
                7 => self.fs.fail_nth_sync(changes),
                8 => self.fs.fill_at_nth_write(changes),
                _ => {}
            }
            let salt = self.rng.next_u64();
            if let Ok((mut store, report)) = self.open(salt) {
                assert_eq!(report.lost, [], "nothing was damaged");
                if let Some(id) = id_of(&store, LATE) {
                    store.set_late(id, true);
                }
                self.pack_some(&mut store);
                self.model.check_recovered(&store);
                self.live(store);
            }
            if self.rng.chance(85) {
                self.fs.crash(self.rng.next_u64());
            } else {
                self.fs.kill();
            }
        }
        let (store, report) = self.open(1).unwrap();
        assert_eq!(report.lost, [], "nothing was damaged");
        self.model.check_recovered(&store);
    }

    /// Streams change between packing their records and not.
    fn pack_some(&mut self, store: &mut Store<SimFs>) {
        for name in STREAMS {
            let is_packed = self.rng.chance(50);
            if let Some(id) = id_of(store, name) {
                store.set_packed(id, is_packed);
            }
        }
        let segments = self.fs.files().into_iter().map(|(path, _)| path);
        let segments = segments.filter(|path| path.extension().is_some_and(|ext| ext == "seg"));
        let is_packed = |bytes: &Vec<u8>| bytes.get(8..12) == Some(&PACKED_VERSION.to_le_bytes()[..]);
        self.packed_segments += segments
            .filter(|path| self.fs.contents(path).as_ref().is_some_and(is_packed))
            .count() as u64;
    }

    /// Most segments are the smallest there are: they are sealed and dropped all the time.
    fn open(&mut self, salt: u64) -> Result<(Store<SimFs>, RecoveryReport), StoreError> {
        let options = StoreOptions {
            segment_bytes_max: [4096, 4096, 16384][self.rng.below(3) as usize],
            ..small(salt)
        };
        Store::open(self.fs.clone(), Path::new(DIR), options)
    }

    fn live(&mut self, mut store: Store<SimFs>) {
        let steps = self.rng.below(if self.compacting { 350 } else { 70 });
        for _ in 0..steps {
            let compacted = store.figures().compacted_segments;
            let done = self.step(&mut store);
            self.compacted += store.figures().compacted_segments - compacted;
            if done.is_err() {
                return;
            }
        }
        let failed = store.health().read_only;
        for (name, model) in &self.model.streams {
            // A power cut while the store tends to itself makes a stream forget what was not committed yet.
            if let Some(id) = id_of(&store, name)
                && self.rng.chance(30)
                && !failed.iter().any(|(stream, _)| **stream == **name)
            {
                check_answers(model, &store, id);
            }
        }
        if self.rng.chance(10) && store.close().failed.is_empty() {
            self.model.streams.values_mut().for_each(ModelStream::committed);
        }
    }

    fn step(&mut self, store: &mut Store<SimFs>) -> Result<(), PowerCut> {
        let streams = if self.compacting { 2 } else { 3 };
        let name = STREAMS[self.rng.below(streams) as usize];
        let Some(id) = id_of(store, name) else {
            return self.create(store, name);
        };
        if self.compacting {
            match self.rng.below(100) {
                0..20 => {
                    self.mono += 4_000_000_000;
                    store.tend(UnixNanos(self.time), MonoNanos(self.mono));
                    return Ok(());
                }
                20..60 => return self.remove(store, name, id),
                _ => {}
            }
        }
        match self.rng.below(100) {
            0..55 => self.append(store, name, id),
            55..70 => self.commit(store),
            70..74 => {
                store.settle();
                Ok(())
            }
            74..76 => {
                self.mono += 600_000_000;
                store.tend(UnixNanos(self.time), MonoNanos(self.mono));
                Ok(())
            }
            76..84 => self.remove(store, name, id),
            84..87 => self.remove_below(store, name, id),
            87..89 => self.purge(store, name, id),
            89 => self.raise(store, name, id),
            90..97 => self.consumer(store, name, id),
            97 => self.update(store, name, id),
            _ if self.rng.chance(30) => self.delete(store, name, id),
            _ => Ok(()),
        }
    }

    fn create(&mut self, store: &mut Store<SimFs>, name: &str) -> Result<(), PowerCut> {
        let first = if self.rng.chance(20) {
            1 + self.rng.below(1000)
        } else {
            1
        };
        let config = self.rng.next_u64().to_le_bytes();
        let time = UnixNanos(self.time);
        let created = store.create_stream(name, &config, Backing::File, StreamSeq(first), time);
        let mut model = ModelStream::new(first, &config);
        model.in_doubt = created.is_err();
        if model.in_doubt
            && let Some(before) = self.model.streams.get(name)
            && before.in_doubt
        {
            return Err(PowerCut);
        }
        self.model.streams.insert(name.to_owned(), model);
        if let Ok(id) = created {
            store.set_late(id, name == LATE);
            store.set_packed(id, self.rng.chance(50));
        }
        created.map(drop).map_err(|_| PowerCut)
    }

    fn append(&mut self, store: &mut Store<SimFs>, name: &str, id: StreamId) -> Result<(), PowerCut> {
        let count = if self.rng.chance(if self.compacting { 60 } else { 20 }) {
            1 + self.rng.below(12)
        } else {
            1
        };
        for _ in 0..count {
            self.time += self.rng.below(5) as i64;
            let len = if self.rng.chance(5) {
                self.rng.below(2500)
            } else {
                self.rng.below(200)
            };
            let mut payload = self.rng.next_u64().to_le_bytes().repeat(len as usize / 8 + 1);
            payload.truncate(len as usize);
            let sent = Sent {
                time: self.time,
                subject: SUBJECTS[self.rng.below(5) as usize].to_owned(),
                headers: if self.rng.chance(20) {
                    b"NATS/1.0\r\nA: b\r\n\r\n".to_vec()
                } else {
                    Vec::new()
                },
                payload,
            };
            let record = NewRecord {
                time: UnixNanos(sent.time),
                subject: &sent.subject,
                headers: &sent.headers,
                payload: &sent.payload,
            };
            let seq = store.append(id, &record).map_err(|_| PowerCut)?.0;
            let model = self.model.streams.get_mut(name).unwrap();
            assert_eq!(
                seq,
                model.last + 1,
                "positions have no gaps and are never given twice"
            );
            model.last = seq;
            model.records.insert(seq, sent);
        }
        Ok(())
    }

    fn commit(&mut self, store: &mut Store<SimFs>) -> Result<(), PowerCut> {
        let report = store.commit();
        for (name, model) in &mut self.model.streams {
            let Some(id) = id_of(store, name) else { continue };
            let failed = report.failed.iter().any(|(other, _)| *other == id);
            if report.committed.contains(&id) {
                assert_eq!(store.durable_seq(id).0, model.last);
                let has_states = model.consumers.values().any(|known| known.states.0.len() > 1);
                model.written = model.last;
                if name != LATE || has_states {
                    model.committed();
                }
            } else if !failed {
                // What was purged may have been below what the metadata says already.
                assert_eq!(model.written, model.last, "nothing to commit in {name}");
                if name != LATE {
                    model.committed();
                }
            }
        }
        if report.failed.is_empty() {
            Ok(())
        } else {
            Err(PowerCut)
        }
    }

    fn remove(&mut self, store: &mut Store<SimFs>, name: &str, id: StreamId) -> Result<(), PowerCut> {
        let model = self.model.streams.get_mut(name).unwrap();
        let span = model.last + 2 - model.first;
        // In their order segments go whole.
        let seq = if self.rng.chance(if self.compacting { 5 } else { 50 }) {
            model.live().next().unwrap_or(1)
        } else {
            model.first + self.rng.below(span)
        };
        let there = model.live().any(|live| live == seq);
        assert_eq!(store.remove(id, StreamSeq(seq)).map_err(|_| PowerCut)?, there);
        if there {
            model.remove(seq, true);
        }
        Ok(())
    }

    fn remove_below(&mut self, store: &mut Store<SimFs>, name: &str, id: StreamId) -> Result<(), PowerCut> {
        let model = self.model.streams.get_mut(name).unwrap();
        let below = model.first + self.rng.below(model.last + 2 - model.first);
        let gone: Vec<u64> = model.live().filter(|&seq| seq < below).collect();
        let count = store.remove_below(id, StreamSeq(below)).map_err(|_| PowerCut)?;
        assert_eq!(count, gone.len() as u64);
        gone.into_iter().for_each(|seq| model.remove(seq, false));
        Ok(())
    }

    fn purge(&mut self, store: &mut Store<SimFs>, name: &str, id: StreamId) -> Result<(), PowerCut> {
        let model = self.model.streams.get_mut(name).unwrap();
        let all = self.rng.chance(40);
        let up_to = if all {
            model.last + 1
        } else {
            model.first + self.rng.below(model.last + 2 - model.first)
        };
        let gone: Vec<u64> = model.live().filter(|&seq| seq < up_to).collect();
        let count = store.purge(id, StreamSeq(up_to)).map_err(|_| PowerCut)?;
        assert_eq!(count, gone.len() as u64);
        let limited: Vec<u64> = model.maybe_gone.range(..up_to).copied().collect();
        gone.into_iter()
            .chain(limited)
            .for_each(|seq| model.remove(seq, true));
        Ok(())
    }

    fn raise(&mut self, store: &mut Store<SimFs>, name: &str, id: StreamId) -> Result<(), PowerCut> {
        let model = self.model.streams.get_mut(name).unwrap();
        let seq = model.last + self.rng.below(20);
        store.raise_last_seq(id, StreamSeq(seq)).map_err(|_| PowerCut)?;
        model.last = model.last.max(seq);
        Ok(())
    }

    fn consumer(&mut self, store: &mut Store<SimFs>, name: &str, id: StreamId) -> Result<(), PowerCut> {
        let model = self.model.streams.get_mut(name).unwrap();
        let consumer = CONSUMERS[self.rng.below(2) as usize];
        let kind = self.rng.below(10);
        let Some(known) = model.consumers.get_mut(consumer).filter(|_| kind > 0) else {
            let config = self.rng.next_u64().to_le_bytes();
            let done = store.put_consumer(id, consumer, &config);
            let fresh = ModelConsumer {
                configs: Either(vec![]),
                states: Either(vec![vec![]]),
                in_doubt: done.is_err(),
            };
            let known = model.consumers.entry(consumer.to_owned()).or_insert(fresh);
            known.configs.0.push(config.to_vec());
            if done.is_ok() {
                known.configs.settle();
            }
            return done.map_err(|_| PowerCut);
        };
        if kind == 1 {
            let done = store.delete_consumer(id, consumer);
            if done.is_ok() {
                model.consumers.remove(consumer);
            } else {
                known.in_doubt = true;
            }
            return done.map_err(|_| PowerCut);
        }
        let state = model.last.to_le_bytes();
        store
            .put_consumer_state(id, consumer, &state)
            .map_err(|_| PowerCut)?;
        known.states.0.push(state.to_vec());
        Ok(())
    }

    fn update(&mut self, store: &mut Store<SimFs>, name: &str, id: StreamId) -> Result<(), PowerCut> {
        let config = self.rng.next_u64().to_le_bytes();
        let done = store.update_stream(id, &config);
        store.set_packed(id, self.rng.chance(50));
        let model = self.model.streams.get_mut(name).unwrap();
        model.configs.0.push(config.to_vec());
        if done.is_ok() {
            model.configs.settle();
        }
        done.map_err(|_| PowerCut)
    }

    fn delete(&mut self, store: &mut Store<SimFs>, name: &str, id: StreamId) -> Result<(), PowerCut> {
        let done = store.delete_stream(id);
        if done.is_ok() {
            self.model.streams.remove(name);
        } else {
            self.model.streams.get_mut(name).unwrap().in_doubt = true;
        }
        done.map_err(|_| PowerCut)
    }
}

/// Says how to run a seed again if it fails.
struct Replay(u64);

impl Drop for Replay {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let seed = self.0;
            eprintln!(
                "replay: TARN_SEED={seed} cargo test -p tarn-broker --lib store::tests::crash -- --nocapture"
            );
        }
    }
}

/// Returns what the disk holds in the end, in short, how many segments were compacted, and how many were found that may
/// hold packed records.
fn run_seed(seed: u64) -> (u32, u64, u64) {
    let _replay = Replay(seed);
    let mut run = Run::new(seed);
    if std::env::var_os("TARN_TRACE").is_some() {
        run.fs.set_trace(Some(|line| eprintln!("{line}")));
    }
    run.run();
    (run.fs.fingerprint(), run.compacted, run.packed_segments)
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap())
}

#[test]
fn what_was_confirmed_is_there_after_any_power_cut() {
    if let Some(seed) = number("TARN_SEED") {
        run_seed(seed);
        return;
    }
    let seeds = number("TARN_CRASH_SEEDS").unwrap_or(SEEDS);
    let first = number("TARN_FIRST_SEED").unwrap_or(0);
    let next = AtomicU64::new(first);
    let (compacted, packed) = (AtomicU64::new(0), AtomicU64::new(0));
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= first + seeds {
                        return;
                    }
                    let (_, compacts, packs) = run_seed(seed);
                    compacted.fetch_add(compacts, Ordering::Relaxed);
                    packed.fetch_add(packs, Ordering::Relaxed);
                }
            });
        }
    });
    let (compacted, packed) = (compacted.into_inner(), packed.into_inner());
    eprintln!("{seeds} seeds from {first}, {compacted} segments compacted, {packed} packed ones found again");
    assert!(compacted >= seeds / 4, "compaction takes part");
    assert!(packed >= seeds / 2, "packing takes part");
}

#[test]
fn the_same_seed_leaves_the_same_bytes() {
    for seed in 0..200 {
        assert_eq!(run_seed(seed), run_seed(seed), "seed {seed}");
    }
}
