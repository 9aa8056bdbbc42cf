//! Fills a store with small messages over many subjects, opens it again, and says what that took: times, memory, disk.
//! A store that has fewer messages is filled up to the number asked for.
//!
//! `cargo run --release -p tarn-broker --example scale -- MESSAGES SUBJECTS DIRECTORY`

use std::path::Path;
use std::time::Duration;

use tarn_broker::env::Clock;
use tarn_broker::env::real::{RealClock, RealFs};
use tarn_broker::store::{Backing, NewRecord, Store, StoreOptions, SubjectFilter};
use tarn_broker::types::{StreamId, StreamSeq, UnixNanos};

/// Messages between two commits.
const BATCH: u64 = 10_000;
const PAYLOAD: [u8; 16] = [7; 16];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [messages, subjects, dir] = &arguments[..] else {
        return Err("usage: scale MESSAGES SUBJECTS DIRECTORY".into());
    };
    let (messages, subjects) = (messages.parse()?, subjects.parse()?);
    let dir = Path::new(dir);
    let clock = RealClock::new();
    let dir = dir.join("store");
    let start = clock.monotonic();
    let (mut store, report) = Store::open(RealFs, &dir, StoreOptions::new(clock.now().0.unsigned_abs()))?;
    println!(
        "opened in {:.3} s: {report:?}",
        since(&clock, start).as_secs_f64()
    );
    println!("memory after opening: {}", memory()?);
    let found = store.streams().next().map(|(id, _)| id);
    let id = match found {
        Some(id) => id,
        None => store.create_stream("SCALE", b"", Backing::File, StreamSeq(1), UnixNanos(0))?,
    };
    if store.state(id).messages < messages {
        fill(&mut store, id, messages, subjects, &clock)?;
        rest(&mut store, &clock)?;
        let start = clock.monotonic();
        drop(store);
        println!(
            "dropped without closing in {:.1} s",
            since(&clock, start).as_secs_f64()
        );
        println!("disk: {}", disk(&dir)?);
    } else {
        reopen(&mut store, id, messages, subjects, &clock)?;
    }
    Ok(())
}

/// A subject for each message: all of them come as often, in no order.
fn subject_of(seq: u64, subjects: u64) -> String {
    let number = seq.wrapping_mul(0x9e37_79b9_7f4a_7c15) % subjects;
    format!("plant.{}.sensor.{number}", number % 100)
}

fn fill(
    store: &mut Store<RealFs>,
    id: StreamId,
    messages: u64,
    subjects: u64,
    clock: &RealClock,
) -> Result<(), Box<dyn std::error::Error>> {
    let start = clock.monotonic();
    let first = store.state(id).last_seq.0 + 1;
    for seq in first..=messages {
        let record = NewRecord {
            time: UnixNanos(1_700_000_000_000_000_000 + seq as i64 * 1_000),
            subject: &subject_of(seq, subjects),
            headers: b"",
            payload: &PAYLOAD,
        };
        store.append(id, &record)?;
        if seq % BATCH == 0 || seq == messages {
            store.tend(clock.now(), clock.monotonic());
            let report = store.commit();
            if let Some((_, err)) = report.failed.into_iter().next() {
                return Err(err.into());
            }
            store.settle();
        }
    }
    let took = since(clock, start);
    println!(
        "filled up from {first} to {messages} messages over {subjects} subjects in {:.1} s",
        took.as_secs_f64()
    );
    println!(
        "memory after filling: {}; {} of {} rounds waited for segments to be sealed",
        memory()?,
        store.figures().held_back,
        (messages - first) / BATCH + 1
    );
    Ok(())
}

/// Waits until everything full is sealed and its subjects are added up.
fn rest(store: &mut Store<RealFs>, clock: &RealClock) -> Result<(), Box<dyn std::error::Error>> {
    let start = clock.monotonic();
    while store.is_busy() {
        store.tend(clock.now(), clock.monotonic());
        if let Some((_, err)) = store.commit().failed.into_iter().next() {
            return Err(err.into());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    println!("at rest after {:.1} s", since(clock, start).as_secs_f64());
    println!("memory at rest: {}", memory()?);
    Ok(())
}

fn reopen(
    store: &mut Store<RealFs>,
    id: StreamId,
    messages: u64,
    subjects: u64,
    clock: &RealClock,
) -> Result<(), Box<dyn std::error::Error>> {
    let state = store.state(id);
    if state.messages != messages {
        return Err(format!("{state:?}, not {messages} messages").into());
    }
    questions(store, id, messages, subjects, clock)?;
    println!("memory after the questions: {}", memory()?);
    let start = clock.monotonic();
    store.remove_below(id, StreamSeq(messages / 2))?;
    println!("half of it removed in {:.3} s", since(clock, start).as_secs_f64());
    println!("memory after that: {}", memory()?);
    Ok(())
}

/// Asks at places all over the stream; says how long a question takes.
fn questions(
    store: &Store<RealFs>,
    id: StreamId,
    messages: u64,
    subjects: u64,
    clock: &RealClock,
) -> Result<(), Box<dyn std::error::Error>> {
    let ask = |what: &str, count: u64, question: &dyn Fn(u64) -> bool| {
        let start = clock.monotonic();
        let answered = (0..count)
            .filter(|n| question(1 + n.wrapping_mul(0x9e37_79b9) % messages))
            .count();
        let nanos = since(clock, start).as_nanos() as u64 / count;
        println!(
            "{what}: {} µs each, {answered} of {count} had one",
            nanos as f64 / 1e3
        );
    };
    let literal = |seq| SubjectFilter::new(&[subject_of(seq, subjects)]);
    let plant = |seq: u64| SubjectFilter::new(&[format!("plant.{}.*.*", seq % 100)]);
    let sensor = |seq: u64| SubjectFilter::new(&[format!("*.*.sensor.{}", seq % subjects)]);
    ask("read", 2_000, &|seq| {
        matches!(store.read(id, StreamSeq(seq)), Ok(Some(_)))
    });
    ask("last by subject", 2_000, &|seq| {
        store.last_match(id, &literal(seq)).is_some()
    });
    ask("next by subject", 2_000, &|seq| {
        store.next_match(id, &literal(seq), StreamSeq(seq + 1)).is_some()
    });
    ask("next by a wildcard that 1 in 100 matches", 50, &|seq| {
        store.next_match(id, &plant(seq), StreamSeq(seq)).is_some()
    });
    ask("next by a leading wildcard that one subject matches", 5, &|seq| {
        store.next_match(id, &sensor(seq), StreamSeq(seq)).is_some()
    });
    ask("count of a subject from a position on", 200, &|seq| {
        store.count_matching(id, &literal(seq), StreamSeq(seq)) > 0
    });
    ask("count of all from a position on", 2_000, &|seq| {
        store.count_matching(id, &SubjectFilter::all(), StreamSeq(seq)) > 0
    });
    ask("count by a wildcard from a position on", 3, &|seq| {
        store.count_matching(id, &plant(seq), StreamSeq(seq)) > 0
    });
    ask("first at or after a time", 2_000, &|seq| {
        store
            .seq_at_or_after(id, UnixNanos(1_700_000_000_000_000_000 + seq as i64 * 1_000))
            .is_some()
    });
    Ok(())
}

fn since(clock: &RealClock, start: tarn_broker::types::MonoNanos) -> Duration {
    Duration::from_nanos(clock.monotonic().0 - start.0)
}

/// Resident and highest resident memory of this process.
fn memory() -> std::io::Result<String> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let field = |name: &str| {
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix(name))
            .unwrap_or_default();
        let kib: u64 = line.trim().trim_end_matches(" kB").parse().unwrap_or(0);
        kib / 1024
    };
    Ok(format!(
        "{} MiB resident, {} MiB at most",
        field("VmRSS:"),
        field("VmHWM:")
    ))
}

/// Bytes of segments and of indexes.
fn disk(dir: &Path) -> std::io::Result<String> {
    let (mut segments, mut indexes) = (0, 0);
    for entry in dir.join("streams/SCALE").read_dir()? {
        let entry = entry?;
        let len = entry.metadata()?.len();
        match entry.path().extension().and_then(|ext| ext.to_str()) {
            Some("seg") => segments += len,
            Some("idx") => indexes += len,
            _ => {}
        }
    }
    Ok(format!(
        "segments {} MiB, indexes {} MiB",
        segments >> 20,
        indexes >> 20
    ))
}
