//! Runs of the whole broker by seed, as many as a test run can bear. `just simulate` runs more.

use std::panic::catch_unwind;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use super::{Faults, run};
use crate::env::sim::Trace;

/// Seeds of one run of the tests.
const SEEDS: u64 = 100;

/// Shows a line of what a run does.
fn print(line: std::fmt::Arguments<'_>) {
    println!("{line}");
}

/// Runs `count` seeds on all cores and says how to run those again that fail.
fn seeds(from: u64, count: u64) {
    let trace = std::env::var_os("TARN_TRACE").map(|_| print as Trace);
    let next = AtomicU64::new(from);
    let failed = Mutex::new(Vec::new());
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= from + count {
                        return;
                    }
                    if catch_unwind(|| run(seed, Faults::of(seed), trace)).is_err() {
                        failed.lock().unwrap().push(seed);
                    }
                }
            });
        }
    });
    let failed = failed.into_inner().unwrap();
    assert!(
        failed.is_empty(),
        "replay: just simulate --seed S, with S one of {failed:?}"
    );
}

#[test]
fn the_broker_keeps_its_word_whatever_fails() {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse().unwrap());
    match number("TARN_SEED") {
        Some(seed) => seeds(seed, 1),
        None => seeds(
            number("TARN_FIRST_SEED").unwrap_or(0),
            number("TARN_SEEDS").unwrap_or(SEEDS),
        ),
    }
}

#[test]
fn the_same_seed_gives_the_same_bytes() {
    for seed in 0..60 {
        assert_eq!(
            run(seed, Faults::of(seed), None),
            run(seed, Faults::of(seed), None),
            "seed {seed}"
        );
    }
}

#[test]
fn seeds_differ() {
    assert_ne!(run(1, Faults::Honest, None), run(2, Faults::Honest, None));
}
