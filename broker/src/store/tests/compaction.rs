//! Sparse segments are replaced by what is left of them, and nobody notices but the disk.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::super::{Backing, NewRecord, Store, StoreOptions, verify};
use super::model::{ModelStream, Sent, check_answers};
use super::{DIR, commit, id_of, small, try_open};
use crate::env::real::RealFs;
use crate::env::sim::{SimFs, SplitMix};
use crate::env::{Fs, Rng};
use crate::types::{MonoNanos, StreamId, StreamSeq, UnixNanos};

const SECOND: u64 = 1_000_000_000;

/// A store with one stream, and what it should hold.
struct Bench {
    fs: SimFs,
    store: Store<SimFs>,
    id: StreamId,
    model: ModelStream,
    second: u64,
}

impl Bench {
    fn new(seed: u64) -> Self {
        let fs = SimFs::new(seed);
        let (mut store, _) = try_open(&fs, seed).unwrap();
        let id = store
            .create_stream("S", b"", Backing::File, StreamSeq(1), UnixNanos(5))
            .unwrap();
        let model = ModelStream::new(1, b"");
        Self {
            fs,
            store,
            id,
            model,
            second: 0,
        }
    }

    /// A stream whose segments are sparse, just opened; nothing waits for a commit.
    fn sparse(seed: u64) -> Self {
        let mut bench = Self::new(seed);
        let options = StoreOptions {
            compact_bytes_per_second: 0,
            ..small(seed)
        };
        bench.fs.kill();
        bench.store = Store::open(bench.fs.clone(), Path::new(DIR), options).unwrap().0;
        bench.id = id_of(&bench.store, "S").unwrap();
        for round in 0..500u64 {
            bench.put(["a", "b.x", "b.y"][round as usize % 3], &[round as u8; 120]);
            if round % 5 == 0 {
                bench.commit();
            }
            // Removals are in the segments behind those of their records.
            if round >= 60 && (round - 60) % 7 != seed % 7 {
                bench.remove(round - 59);
            }
        }
        for _ in 0..3 {
            bench.tend();
        }
        let store = std::mem::replace(&mut bench.store, try_open(&SimFs::new(seed), seed).unwrap().0);
        assert!(store.close().failed.is_empty());
        bench.store = try_open(&bench.fs, seed).unwrap().0;
        bench.id = id_of(&bench.store, "S").unwrap();
        bench.store.tend(UnixNanos(0), MonoNanos(0));
        bench.second = 0;
        bench
    }

    /// Some time, whatever the disk does.
    fn pass(&mut self, seconds: u64) {
        for _ in 0..seconds {
            self.second += 1;
            let (wall, mono) = (UnixNanos(self.second as i64), MonoNanos(self.second * SECOND));
            self.store.tend(wall, mono);
            drop(self.store.commit());
        }
    }

    /// What another start finds on this disk after a power cut.
    fn check_after_crash(&self, seed: u64) {
        let fs = self.fs.fork();
        fs.crash(seed);
        let verdict = verify(&fs, Path::new(DIR), &mut |_| {}).unwrap();
        assert!(verdict.is_sound(), "{:?}", verdict.findings().collect::<Vec<_>>());
        let (store, report) = try_open(&fs, seed).unwrap();
        assert_eq!(report.lost, []);
        let id = id_of(&store, "S").unwrap();
        check_answers(&self.model, &store, id);
        for seq in self.model.live() {
            let found = store.read(id, StreamSeq(seq)).unwrap().unwrap();
            assert_eq!(&found.payload[..], &self.model.records[&seq].payload[..]);
        }
    }

    fn put(&mut self, subject: &str, payload: &[u8]) -> u64 {
        let sent = Sent {
            time: 1_000 + self.model.last as i64,
            subject: subject.to_owned(),
            headers: if self.model.last.is_multiple_of(7) {
                b"NATS/1.0\r\nA: b\r\n\r\n".to_vec()
            } else {
                Vec::new()
            },
            payload: payload.to_vec(),
        };
        let record = NewRecord {
            time: UnixNanos(sent.time),
            subject: &sent.subject,
            headers: &sent.headers,
            payload: &sent.payload,
        };
        let seq = self.store.append(self.id, &record).unwrap().0;
        self.model.last = seq;
        self.model.records.insert(seq, sent);
        seq
    }

    fn remove(&mut self, seq: u64) {
        assert!(self.store.remove(self.id, StreamSeq(seq)).unwrap());
        self.model.remove(seq, true);
    }

    fn commit(&mut self) {
        commit(&mut self.store);
        self.model.committed();
    }

    fn tend(&mut self) {
        self.second += 1;
        self.store
            .tend(UnixNanos(self.second as i64), MonoNanos(self.second * SECOND));
        self.commit();
        self.store.settle();
    }

    /// Until nothing is under way any more.
    fn rest(&mut self) {
        for _ in 0..3 {
            self.tend();
        }
        let mut rounds = 0;
        while self.store.compaction.is_busy() {
            self.tend();
            rounds += 1;
            assert!(rounds < 2_000, "compaction comes to an end");
        }
    }

    fn check(&self) {
        check_answers(&self.model, &self.store, self.id);
        for seq in self.model.live() {
            let found = self.store.read(self.id, StreamSeq(seq)).unwrap().unwrap();
            let sent = &self.model.records[&seq];
            assert_eq!(
                (&*found.subject, &found.payload[..]),
                (&*sent.subject, &sent.payload[..])
            );
        }
    }

    fn reopen(&mut self, power_cut: bool) {
        if power_cut {
            self.fs.crash(self.second);
        } else {
            self.fs.kill();
        }
        let (store, report) = try_open(&self.fs, self.second).unwrap();
        assert_eq!(report.lost, []);
        self.store = store;
        self.id = id_of(&self.store, "S").unwrap();
        self.second += 1;
    }

    fn bytes(&self, suffix: &str) -> u64 {
        self.bytes_of("", suffix)
    }

    /// Bytes of the files whose path has this part and this ending.
    fn bytes_of(&self, part: &str, suffix: &str) -> u64 {
        let files = self.fs.files();
        let of = files.iter().filter(|(path, _)| {
            let path = path.to_string_lossy();
            path.contains(part) && path.ends_with(suffix)
        });
        of.map(|(_, bytes)| *bytes).sum()
    }
}

#[test]
fn a_key_value_bucket_takes_a_small_multiple_of_what_it_holds() {
    let mut bench = Bench::new(1);
    let mut rng = SplitMix::new(7);
    let mut newest: BTreeMap<u64, u64> = BTreeMap::new();
    for round in 0..12_000u64 {
        // Most keys change now and then, a few never again.
        let key = if round < 300 { round } else { 100 + rng.below(200) };
        let seq = bench.put(&format!("kv.{key}"), &[round as u8; 200]);
        if let Some(old) = newest.insert(key, seq) {
            bench.remove(old);
        }
        if round % 4 == 3 {
            bench.commit();
        }
        if round % 40 == 0 {
            bench.tend();
        }
    }
    bench.rest();
    bench.check();
    let figures = bench.store.figures();
    assert!(figures.compacted_segments > 50, "{figures:?}");
    let live = bench.store.state(bench.id).bytes;
    let disk = bench.bytes(".seg");
    eprintln!("live {live}, disk {disk}, {figures:?}");
    assert!(disk < 3 * live + 2 * 16_384, "{disk} bytes for {live}");
    for power_cut in [false, true] {
        bench.reopen(power_cut);
        bench.check();
    }
}

#[test]
fn a_power_cut_at_any_step_costs_nothing() {
    let mut steps = 0;
    for changes in 0.. {
        let mut bench = Bench::sparse(changes % 3);
        bench.fs.cut_power_after(changes);
        bench.pass(40);
        for seed in 0..3 {
            bench.check_after_crash(changes * 3 + seed);
        }
        if !bench.fs.is_dark() {
            assert!(
                bench.store.figures().compacted_segments >= 6,
                "{:?}",
                bench.store.figures()
            );
            bench.check();
            steps = changes;
            break;
        }
    }
    assert!(steps > 10, "{steps} changes of the disk");
}

#[test]
fn a_disk_that_fails_or_is_full_costs_no_record_and_no_write() {
    type Fault = fn(&SimFs, u64);
    let faults: [Fault; 4] = [
        SimFs::fail_nth_write,
        SimFs::fill_at_nth_write,
        SimFs::fail_nth_sync,
        SimFs::fail_nth_read,
    ];
    let mut compacted = 0;
    for (nth, fault) in (1..=24).flat_map(|nth| faults.map(|fault| (nth, fault))) {
        let mut bench = Bench::sparse(nth % 3);
        fault(&bench.fs, nth);
        bench.pass(60);
        assert!(bench.store.health().is_writable(), "nobody else is refused");
        compacted += bench.store.figures().compacted_segments;
        bench.check();
        bench.check_after_crash(nth);
        bench.reopen(nth % 2 == 0);
        bench.check();
        bench.rest();
        bench.check();
    }
    assert!(compacted > 24 * 3 * 6, "most go on after the fault: {compacted}");
}

/// The queue has the lower number: without turns it is found first each time.
#[test]
fn a_busy_queue_does_not_keep_others_from_their_turn() {
    let mut bench = Bench::new(1);
    let queue = bench
        .store
        .create_stream("A", b"", Backing::File, StreamSeq(1), UnixNanos(5))
        .unwrap();
    assert!(bench.store.delete_stream(bench.id).is_ok());
    bench.id = bench
        .store
        .create_stream("S", b"", Backing::File, StreamSeq(1), UnixNanos(5))
        .unwrap();
    assert!(queue < bench.id);
    for round in 0..500u64 {
        let seq = bench.put("a", &[1; 200]);
        if round % 8 != 0 {
            bench.remove(seq);
        }
        bench.commit();
    }
    let before = bench.bytes_of("/S/", ".seg");
    let mut rng = SplitMix::new(3);
    let mut waiting: Vec<StreamSeq> = Vec::new();
    for _ in 0..60 {
        // All that comes goes within a second, in no order.
        for _ in 0..150 {
            waiting.push(super::append(&mut bench.store, queue, "q", &[1; 200]));
            if waiting.len() > 60 {
                let seq = waiting.swap_remove(rng.below(waiting.len() as u64 - 30) as usize);
                assert!(bench.store.remove(queue, seq).unwrap());
            }
        }
        bench.pass(1);
    }
    let after = bench.bytes_of("/S/", ".seg");
    let live = bench.store.state(bench.id).bytes;
    assert!(before > 6 * live, "{before} bytes for {live}");
    assert!(
        after < 2 * live + 3 * 16_384,
        "{after} bytes for {live}, {before} before"
    );
}

#[test]
fn a_disk_without_room_for_a_copy_is_left_alone_until_there_is() {
    let mut bench = Bench::sparse(1);
    bench.fs.set_capacity(Some(bench.fs.used_bytes() + 1_000));
    bench.pass(30);
    assert_eq!(bench.store.figures().compacted_segments, 0);
    bench.check();
    assert!(bench.store.next_tend().is_some(), "it is looked again");
    bench.fs.set_capacity(None);
    bench.pass(30);
    assert!(bench.store.figures().compacted_segments > 0);
    bench.check();
}

#[test]
fn a_sector_that_cannot_be_read_keeps_its_segment_as_it_is() {
    let mut bench = Bench::sparse(2);
    let path = Path::new(DIR).join("streams/S/0000000000000003.seg");
    bench.fs.fail_reads(&path, 4096, 4096);
    bench.pass(60);
    assert!(
        bench.store.figures().compacted_segments > 0,
        "the others are compacted"
    );
    assert!(
        bench.store.figures().scrub_unreadable > 0,
        "and what is there is counted"
    );
    bench.fs.heal_reads();
    bench.check();
    bench.reopen(true);
    bench.check();
    bench.rest();
    bench.check();
}

#[test]
fn what_is_not_synced_does_not_count_as_removed() {
    for seed in 0..40 {
        let mut bench = Bench::sparse(seed % 3);
        bench.store.set_late(bench.id, true);
        bench.pass(seed / 4);
        let before: Vec<u64> = bench.model.live().collect();
        // The new value may be taken by a power cut; then the old one must not be gone either.
        let old = before[seed as usize % (before.len() - 1)];
        let new = bench.put("a", b"new");
        bench.remove(old);
        bench.commit();
        bench.pass(seed % 4);
        let fs = bench.fs.fork();
        fs.crash(seed);
        let (store, report) = try_open(&fs, seed).unwrap();
        assert_eq!(report.lost, []);
        let id = id_of(&store, "S").unwrap();
        let there = |seq| store.read(id, StreamSeq(seq)).unwrap().is_some();
        assert!(there(old) || there(new), "seed {seed}");
        for seq in before.into_iter().filter(|seq| *seq != old) {
            assert!(there(seq), "seed {seed}: record {seq}");
        }
    }
}

#[test]
fn a_slow_head_of_a_work_queue_keeps_no_dead_records() {
    let mut bench = Bench::new(2);
    let head = bench.put("job.slow", b"slow");
    for _ in 0..6_000u64 {
        let seq = bench.put("job.quick", &[3; 300]);
        bench.commit();
        bench.remove(seq);
        if seq.is_multiple_of(20) {
            bench.tend();
        }
    }
    bench.rest();
    bench.check();
    let disk = bench.bytes(".seg");
    eprintln!("disk {disk}, {:?}", bench.store.figures());
    assert!(disk < 6_000 * 340 / 4, "{disk} bytes");
    assert_eq!(bench.store.state(bench.id).first_seq.0, head);
    bench.reopen(true);
    bench.check();
    bench.remove(head);
    bench.commit();
    bench.rest();
    bench.check();
    assert!(bench.bytes(".seg") <= 16_384 * 2);
}

#[test]
fn what_is_removed_while_it_is_copied_stays_removed() {
    for seed in 0..60 {
        let mut bench = Bench::new(seed);
        let mut rng = SplitMix::new(seed);
        for round in 0..300 {
            bench.put(["a", "b.x", "b.y"][rng.below(3) as usize], &[round as u8; 120]);
            if rng.chance(40) {
                bench.commit();
            }
        }
        bench.commit();
        for _ in 0..200 {
            let live: Vec<u64> = bench.model.live().collect();
            if live.len() > 1 {
                bench.remove(live[rng.below(live.len() as u64 - 1) as usize]);
            }
            if rng.chance(30) {
                bench.tend();
            }
            if rng.chance(2) {
                bench.commit();
                bench.reopen(rng.chance(50));
            }
        }
        bench.rest();
        bench.check();
        bench.reopen(true);
        bench.check();
    }
}

#[test]
fn a_flipped_bit_costs_one_record_whether_it_comes_before_or_after_compaction() {
    for seed in 0..200 {
        let mut rng = SplitMix::new(seed);
        let mut bench = Bench::new(seed);
        for round in 0..200 {
            bench.put("a", &[round as u8; 120]);
            bench.commit();
        }
        for seq in 1..200 {
            if seq % 4 != 0 {
                bench.remove(seq);
            }
        }
        bench.commit();
        bench.store.settle();
        if seed % 2 == 0 {
            bench.rest();
        }
        let segments: Vec<PathBuf> = bench
            .fs
            .files()
            .into_iter()
            .map(|(path, _)| path)
            .filter(|path| path.to_string_lossy().ends_with(".seg"))
            .collect();
        let path = &segments[rng.below(segments.len() as u64) as usize];
        let (place, bit) = (rng.next_u64(), rng.below(8));
        bench.fs.edit(path, |bytes| {
            let at = place % bytes.len() as u64;
            bytes[at as usize] ^= 1 << bit;
        });
        bench.rest();
        for reopened in [false, true] {
            if reopened {
                bench.store.settle();
                bench.fs.kill();
                let (store, _) = try_open(&bench.fs, seed).unwrap();
                bench.store = store;
                bench.id = id_of(&bench.store, "S").unwrap();
            }
            let mut missing = 0;
            for (&seq, sent) in &bench.model.records {
                let is_live = !bench.model.gone.contains(&seq);
                match bench.store.read(bench.id, StreamSeq(seq)) {
                    Ok(Some(found)) => {
                        assert!(is_live, "seed {seed}: removed record {seq} came back");
                        assert_eq!(&found.payload[..], &sent.payload[..]);
                    }
                    _ => missing += u64::from(is_live),
                }
            }
            assert!(missing <= 1, "seed {seed}: {missing} records for one bit");
        }
    }
}

#[test]
fn a_real_disk_gets_its_room_back_in_the_background() {
    let dir = tempfile::tempdir().unwrap();
    let options = StoreOptions {
        compact_bytes_per_second: 1 << 30,
        ..small(3)
    };
    let open = || Store::open(RealFs, dir.path(), options.clone()).unwrap().0;
    let mut store = open();
    let id = store
        .create_stream("S", b"", Backing::File, StreamSeq(1), UnixNanos(5))
        .unwrap();
    for _ in 0..2_000 {
        super::append(&mut store, id, "a", &[7; 100]);
    }
    commit(&mut store);
    for seq in (1..2_000).filter(|seq| seq % 10 != 0) {
        assert!(store.remove(id, StreamSeq(seq)).unwrap());
    }
    commit(&mut store);
    let segments = || {
        let files = RealFs.list(&dir.path().join("streams/S")).unwrap();
        files.iter().filter(|file| file.name.ends_with(".seg")).count()
    };
    assert!(segments() > 10);
    let mut second = 0;
    while store.figures().compacted_segments < 10 {
        second += 1;
        store.tend(UnixNanos(second), MonoNanos(second as u64 * SECOND));
        commit(&mut store);
        std::thread::yield_now();
    }
    let check = |store: &Store<RealFs>| {
        let id = store.streams().next().unwrap().0;
        for seq in 1..=2_000 {
            let found = store.read(id, StreamSeq(seq)).unwrap();
            assert_eq!(found.is_some(), seq % 10 == 0, "{seq}");
        }
    };
    check(&store);
    drop(store);
    check(&open());
}
