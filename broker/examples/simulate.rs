//! Runs the whole broker by seed on a simulated disk and clock: `just simulate --seeds 100000`.

use std::any::Any;
use std::io::{IsTerminal, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use clap::Parser;
use tarn_broker::env::Clock;
use tarn_broker::env::real::RealClock;
use tarn_broker::env::sim::Trace;
use tarn_broker::simulation::{Faults, run};

/// The whole broker by seed: a random workload, faults of the disk, jumps of the clock, and an oracle.
#[derive(Parser)]
struct Arguments {
    /// Seeds to run.
    #[arg(long, default_value_t = 100_000)]
    seeds: u64,
    /// The first of them.
    #[arg(long, default_value_t = 0)]
    from: u64,
    /// Runs this seed alone, twice, and compares what it leaves.
    #[arg(long, conflicts_with_all = ["seeds", "from", "minutes"])]
    seed: Option<u64>,
    /// Shows what happens to that seed: requests, answers, faults, changes of the disk.
    #[arg(long, requires = "seed")]
    trace: bool,
    /// Stops after so many minutes.
    #[arg(long)]
    minutes: Option<u64>,
    /// Threads; one for each core if left out.
    #[arg(long)]
    threads: Option<usize>,
    /// Goes on after a seed that fails, up to so many failures.
    #[arg(long, default_value_t = 1)]
    failures: usize,
}

/// What all threads share.
struct Progress {
    next: AtomicU64,
    end: u64,
    done: AtomicU64,
    stop: AtomicBool,
    failed: Mutex<usize>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if let Some(seed) = arguments.seed {
        return one(seed, arguments.trace);
    }
    std::panic::set_hook(Box::new(|_| {}));
    let clock = RealClock::new();
    let progress = Progress {
        next: AtomicU64::new(arguments.from),
        end: arguments.from.saturating_add(arguments.seeds),
        done: AtomicU64::new(0),
        stop: AtomicBool::new(false),
        failed: Mutex::default(),
    };
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..arguments.threads.unwrap_or(cores).max(1))
            .map(|_| scope.spawn(|| work(&progress, arguments.failures)))
            .collect();
        let mut ticks = 0;
        while workers.iter().any(|worker| !worker.is_finished()) {
            std::thread::sleep(Duration::from_millis(100));
            ticks += 1;
            let seconds = clock.monotonic().0 as f64 / 1e9;
            if arguments
                .minutes
                .is_some_and(|minutes| seconds > minutes as f64 * 60.0)
            {
                progress.stop.store(true, Relaxed);
            }
            if ticks % if std::io::stderr().is_terminal() { 10 } else { 150 } == 0 {
                report(&progress, seconds, &arguments);
            }
        }
    });
    let seconds = clock.monotonic().0 as f64 / 1e9;
    finish(&progress, seconds)
}

fn work(progress: &Progress, failures: usize) {
    while !progress.stop.load(Relaxed) {
        let seed = progress.next.fetch_add(1, Relaxed);
        if seed >= progress.end {
            return;
        }
        let outcome = catch_unwind(AssertUnwindSafe(|| run(seed, Faults::of(seed), None)));
        progress.done.fetch_add(1, Relaxed);
        if let Err(panic) = outcome {
            let mut failed = progress
                .failed
                .lock()
                .unwrap_or_else(std::sync::PoisonError::into_inner);
            *failed += 1;
            // At once, so that a run which is interrupted has told.
            let text = text_of(panic.as_ref());
            println!("seed {seed} failed: {text}\n  replay: just simulate --seed {seed}");
            if *failed >= failures {
                progress.stop.store(true, Relaxed);
            }
        }
    }
}

fn text_of(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("it panicked")
        .to_owned()
}

fn report(progress: &Progress, seconds: f64, arguments: &Arguments) {
    let done = progress.done.load(Relaxed);
    let rate = done as f64 / seconds;
    let line = format!("{done} of {} seeds, {rate:.0} a second", arguments.seeds);
    let mut stderr = std::io::stderr();
    let end = if stderr.is_terminal() { "\r" } else { "\n" };
    // Progress that cannot be shown is no reason to stop.
    drop(write!(stderr, "{line}{end}").and_then(|()| stderr.flush()));
}

fn finish(progress: &Progress, seconds: f64) -> ExitCode {
    let done = progress.done.load(Relaxed);
    let failed = *progress
        .failed
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner);
    println!(
        "{done} seeds in {seconds:.0} s, {:.0} a second, {failed} failed",
        done as f64 / seconds
    );
    if failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn show(line: std::fmt::Arguments<'_>) {
    // Whoever reads it may stop in the middle.
    drop(writeln!(std::io::stdout(), "{line}"));
}

fn one(seed: u64, traces: bool) -> ExitCode {
    let trace = traces.then_some(show as Trace);
    let first = run(seed, Faults::of(seed), trace);
    let second = run(seed, Faults::of(seed), None);
    println!(
        "seed {seed}: disk {:08x}, outputs {:08x}",
        first.disk, first.outputs
    );
    if first == second {
        ExitCode::SUCCESS
    } else {
        println!(
            "the second run differs: disk {:08x}, outputs {:08x}",
            second.disk, second.outputs
        );
        ExitCode::FAILURE
    }
}
