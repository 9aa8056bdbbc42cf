//! What a commit takes on a real disk while segments are compacted beside it.

use super::super::{Backing, Store, StoreOptions};
use super::{append, commit};
use crate::env::Clock;
use crate::env::real::{RealClock, RealFs};
use crate::env::sim::SplitMix;
use crate::types::{StreamSeq, UnixNanos};

const SECOND: u64 = 1_000_000_000;

/// Latencies of commits of a busy bucket in microseconds, one after the other; with compaction only of those beside which
/// a copy was made. Also how many segments were compacted.
fn latencies(compact_bytes_per_second: u64, seconds: u64) -> (Vec<u64>, u64) {
    let dir = tempfile::tempdir().unwrap();
    let options = StoreOptions {
        segment_bytes_max: 8 * 1024 * 1024,
        compact_bytes_per_second,
        ..StoreOptions::new(5)
    };
    let mut store = Store::open(RealFs, dir.path(), options).unwrap().0;
    let id = store
        .create_stream("S", b"", Backing::File, StreamSeq(1), UnixNanos(5))
        .unwrap();
    let clock = RealClock::default();
    let mut rng = SplitMix::new(1);
    let mut newest = vec![None; 40_000];
    let mut taken = Vec::new();
    let start = clock.monotonic().0;
    while clock.monotonic().0 - start < seconds * SECOND {
        for _ in 0..32 {
            // Few keys change often, the others hardly: each segment keeps a little.
            let keys = if rng.chance(90) {
                1_000
            } else {
                newest.len() as u64
            };
            let key = rng.below(keys) as usize;
            let seq = append(&mut store, id, &format!("kv.{key}"), &[1; 512]);
            if let Some(old) = newest[key].replace(seq) {
                assert!(store.remove(id, old).unwrap());
            }
        }
        let before = clock.monotonic();
        store.tend(UnixNanos(0), before);
        commit(&mut store);
        store.settle();
        let is_wanted = compact_bytes_per_second == 0 || store.compaction.is_busy();
        if is_wanted {
            taken.push((clock.monotonic().0 - before.0) / 1_000);
        }
    }
    (taken, store.figures().compacted_segments)
}

/// Half of the values, and 99 of 100, are not above these.
fn p50_p99(values: &mut [u64]) -> [u64; 2] {
    values.sort_unstable();
    [500, 990].map(|permille| values[(values.len() - 1) * permille / 1_000])
}

#[test]
#[ignore = "measures a real disk for a minute: just compaction-latency"]
fn commits_are_not_held_up() {
    let (mut without, mut with, mut segments) = (Vec::new(), Vec::new(), 0);
    for _ in 0..3 {
        without.extend(latencies(0, 10).0);
        let (taken, compacted) = latencies(16 * 1024 * 1024, 10);
        with.extend(taken);
        segments += compacted;
    }
    assert!(
        segments >= 10 && with.len() >= 1_000,
        "{segments} segments, {} commits",
        with.len()
    );
    let (count, count_with) = (without.len(), with.len());
    let ([p50, p99], [p50_with, p99_with]) = (p50_p99(&mut without), p50_p99(&mut with));
    eprintln!(
        "commits of 32 messages of 512 bytes, as many removed, on a real disk; 3 rounds of 10 s each, in turn"
    );
    eprintln!("compaction  commits  p50 us  p99 us");
    eprintln!("none        {count:7}  {p50:6}  {p99:6}");
    eprintln!("16 MiB/s    {count_with:7}  {p50_with:6}  {p99_with:6}   ({segments} segments compacted)");
    assert!(
        p50_with <= 2 * p50,
        "{p50_with} us beside a copy, {p50} us without"
    );
}
