//! One promise at a time.

use std::path::Path;

use super::super::{Backing, SeqRange, Store, StoreError, StoreOptions, SubjectFilter};
use super::{DIR, append, commit, id_of, open, small, try_append, try_open};
use crate::env::Fs;
use crate::env::real::RealFs;
use crate::env::sim::SimFs;
use crate::types::{StreamId, StreamSeq, UnixNanos};

fn create(store: &mut Store<SimFs>, name: &str) -> StreamId {
    store
        .create_stream(name, b"config", Backing::File, StreamSeq(1), UnixNanos(5))
        .unwrap()
}

fn payload(store: &Store<SimFs>, id: StreamId, seq: u64) -> Option<Vec<u8>> {
    store
        .read(id, StreamSeq(seq))
        .unwrap()
        .map(|record| record.payload.to_vec())
}

#[test]
fn records_are_read_before_and_after_commit_and_reopening() {
    let fs = SimFs::new(1);
    let (mut store, _) = open(&fs, 1);
    let id = create(&mut store, "S");
    assert_eq!(append(&mut store, id, "a", b"one"), StreamSeq(1));
    assert_eq!(payload(&store, id, 1).unwrap(), b"one");
    assert_eq!(store.durable_seq(id), StreamSeq::NONE);
    commit(&mut store);
    assert_eq!(store.durable_seq(id), StreamSeq(1));
    assert_eq!(payload(&store, id, 1).unwrap(), b"one");
    assert_eq!(payload(&store, id, 2), None);
    assert!(store.close().failed.is_empty());
    let (store, report) = open(&fs, 2);
    assert_eq!((report.streams, report.records, report.torn_bytes), (1, 1, 0));
    let (id, meta) = store.streams().next().unwrap();
    assert_eq!(
        (&*meta.name, &meta.config[..], meta.created),
        ("S", &b"config"[..], UnixNanos(5))
    );
    let record = store.read(id, StreamSeq(1)).unwrap().unwrap();
    assert_eq!((record.time, &*record.subject), (UnixNanos(1_000), "a"));
    assert_eq!(store.seq_at_or_after(id, UnixNanos(1_000)), Some(StreamSeq(1)));
    assert_eq!(store.seq_at_or_after(id, UnixNanos(1_001)), None);
}

#[test]
fn an_idle_commit_touches_nothing() {
    let fs = SimFs::new(1);
    let (mut store, _) = open(&fs, 1);
    let id = create(&mut store, "S");
    append(&mut store, id, "a", b"1");
    commit(&mut store);
    let before = fs.counts();
    let report = store.commit();
    assert!(report.committed.is_empty() && report.failed.is_empty());
    assert_eq!(fs.counts(), before);
    append(&mut store, id, "a", b"2");
    append(&mut store, id, "a", b"3");
    assert_eq!(store.commit().committed, [id]);
    assert_eq!(
        fs.counts(),
        (before.0 + 1, before.1 + 1),
        "one write and one sync"
    );
    store.settle();
    store.settle();
    assert_eq!(fs.counts(), (before.0 + 2, before.1 + 1), "one write, no sync");
}

#[test]
fn the_directory_belongs_to_one_process() {
    let fs = SimFs::new(1);
    let (store, _) = open(&fs, 1);
    let err = try_open(&fs, 2).map(drop).unwrap_err();
    assert!(matches!(err, StoreError::Locked { .. }));
    assert_eq!(
        err.to_string(),
        "store directory /data/store is in use by another process"
    );
    drop(store);
    open(&fs, 2);
}

#[test]
fn streams_in_memory_work_alike_and_end_with_the_process() {
    let fs = SimFs::new(1);
    let (mut store, _) = open(&fs, 1);
    let id = store
        .create_stream("M", b"", Backing::Memory, StreamSeq(10), UnixNanos(0))
        .unwrap();
    let before = fs.counts();
    for n in 0..2_000u32 {
        append(&mut store, id, "a", &n.to_le_bytes());
    }
    store.put_consumer(id, "c", b"x").unwrap();
    assert_eq!(store.commit().committed, [id]);
    assert_eq!(fs.counts(), before, "no disk");
    assert_eq!(payload(&store, id, 10).unwrap(), 0u32.to_le_bytes());
    assert_eq!(payload(&store, id, 2_009).unwrap(), 1_999u32.to_le_bytes());
    assert_eq!(store.remove_below(id, StreamSeq(2_000)).unwrap(), 1_990);
    assert_eq!(store.state(id).first_seq, StreamSeq(2_000));
    assert_eq!(store.durable_seq(id), StreamSeq(2_009));
    assert!(store.close().failed.is_empty());
    assert_eq!(open(&fs, 2).0.streams().count(), 0);
}

#[test]
fn names_cannot_leave_the_directory() {
    let fs = SimFs::new(1);
    let (mut store, _) = open(&fs, 1);
    for name in ["../../../x", "$MQTT_msgs", "a/b", ".", &"ü".repeat(120)] {
        let id = create(&mut store, name);
        store.put_consumer(id, name, b"").unwrap();
        let again = store.create_stream(name, b"", Backing::File, StreamSeq(1), UnixNanos(0));
        assert!(matches!(again, Err(StoreError::StreamExists { .. })));
    }
    assert!(fs.files().iter().all(|(path, _)| path.starts_with(DIR)));
    drop(store);
    let (store, _) = open(&fs, 2);
    for name in ["../../../x", "$MQTT_msgs", "a/b", ".", &"ü".repeat(120)] {
        let id = id_of(&store, name).unwrap();
        assert_eq!(store.consumers(id).next().unwrap().0, name);
    }
}

#[test]
fn what_does_not_fit_leaves_no_trace() {
    let fs = SimFs::new(1);
    let (mut store, _) = open(&fs, 1);
    let id = create(&mut store, "S");
    let too_large = try_append(&mut store, id, "a", &[0; 16384]);
    assert!(matches!(too_large, Err(StoreError::TooLarge { .. })));
    let long = "x".repeat(70_000);
    assert!(matches!(
        try_append(&mut store, id, &long, b""),
        Err(StoreError::TooLarge { .. })
    ));
    assert_eq!(append(&mut store, id, "a", &[7; 15_000]), StreamSeq(1));
    commit(&mut store);
    assert_eq!(payload(&store, id, 1).unwrap(), [7; 15_000]);
    let nowhere = StreamId(99);
    assert!(matches!(
        try_append(&mut store, nowhere, "a", b""),
        Err(StoreError::NoSuchStream)
    ));
    assert!(matches!(
        store.put_consumer_state(id, "no", b""),
        Err(StoreError::NoSuchConsumer { .. })
    ));
    assert!(matches!(
        store.put_consumer(id, "", b""),
        Err(StoreError::BadName { .. })
    ));
}

#[test]
fn dropped_segments_give_their_room_back() {
    let fs = SimFs::new(1);
    let (mut store, _) = open(&fs, 1);
    let id = create(&mut store, "S");
    let mut most = 0;
    for n in 0..2_000u64 {
        append(&mut store, id, "a", &[1; 100]);
        store.remove_below(id, StreamSeq(n.saturating_sub(50))).unwrap();
        commit(&mut store);
        most = most.max(fs.used_bytes());
    }
    assert!(most < 8 * 16384, "{most} bytes for 51 records");
    let segments = fs
        .files()
        .iter()
        .filter(|(path, _)| path.extension().is_some_and(|ext| ext == "seg"))
        .count();
    assert!(segments <= 2, "{segments} segments for 51 records");
}

#[test]
fn a_queue_that_is_worked_off_gives_its_room_back() {
    let fs = SimFs::new(1);
    let (mut store, _) = open(&fs, 1);
    let id = create(&mut store, "S");
    for n in 1..1_000u64 {
        append(&mut store, id, "a", &[1; 100]);
        commit(&mut store);
        assert!(store.remove(id, StreamSeq(n)).unwrap());
    }
    commit(&mut store);
    assert!(
        fs.used_bytes() < 8 * 16384,
        "{} bytes for nothing",
        fs.used_bytes()
    );
    drop(store);
    fs.kill();
    let (store, report) = open(&fs, 2);
    let id = id_of(&store, "S").unwrap();
    assert_eq!((store.state(id).messages, store.state(id).last_seq.0), (0, 999));
    assert_eq!(report.lost, []);
}

#[test]
fn positions_that_are_skipped_are_not_lost() {
    let fs = SimFs::new(1);
    let (mut store, _) = open(&fs, 1);
    let id = create(&mut store, "S");
    append(&mut store, id, "a", b"1");
    store.raise_last_seq(id, StreamSeq(1 << 40)).unwrap();
    assert_eq!(append(&mut store, id, "a", b"2"), StreamSeq((1 << 40) + 1));
    commit(&mut store);
    drop(store);
    let (store, report) = open(&fs, 2);
    let id = id_of(&store, "S").unwrap();
    assert_eq!(report.lost, []);
    assert_eq!(store.state(id).num_deleted, (1 << 40) - 1);
    let hole = SeqRange {
        first: StreamSeq(2),
        last: StreamSeq(1 << 40),
    };
    assert_eq!(store.deleted(id), [hole]);
    assert_eq!(
        store.next_match(id, &SubjectFilter::all(), StreamSeq(2)),
        Some(StreamSeq((1 << 40) + 1))
    );
}

#[test]
fn a_stream_created_again_is_a_new_one() {
    let fs = SimFs::new(1);
    let (mut store, _) = open(&fs, 1);
    let id = create(&mut store, "S");
    append(&mut store, id, "a", b"old");
    store.put_consumer(id, "c", b"old").unwrap();
    commit(&mut store);
    store.delete_stream(id).unwrap();
    assert!(matches!(
        store.read(id, StreamSeq(1)),
        Err(StoreError::NoSuchStream)
    ));
    let again = create(&mut store, "S");
    assert_ne!(id, again);
    append(&mut store, again, "a", b"new");
    commit(&mut store);
    drop(store);
    fs.crash(3);
    let (store, _) = open(&fs, 2);
    let id = id_of(&store, "S").unwrap();
    assert_eq!(payload(&store, id, 1).unwrap(), b"new");
    assert_eq!(store.consumers(id).count(), 0);
}

#[test]
fn consumers_keep_config_and_state() {
    let fs = SimFs::new(1);
    let (mut store, _) = open(&fs, 1);
    let id = create(&mut store, "S");
    store.put_consumer(id, "b", b"config b").unwrap();
    store.put_consumer(id, "a", b"config a").unwrap();
    store.put_consumer_state(id, "a", b"state").unwrap();
    assert_eq!(store.commit().committed, [id]);
    store.put_consumer(id, "a", b"config 2").unwrap();
    store.put_consumer(id, "gone", b"").unwrap();
    store.delete_consumer(id, "gone").unwrap();
    drop(store);
    fs.crash(1);
    let (store, _) = open(&fs, 2);
    let id = id_of(&store, "S").unwrap();
    let found: Vec<_> = store.consumers(id).collect();
    assert_eq!(
        found,
        [("a", &b"config 2"[..], &b"state"[..]), ("b", b"config b", b"")]
    );
}

#[test]
fn many_consumers_survive_a_kill_and_a_crash() {
    let fs = SimFs::new(1);
    let (mut store, _) = open(&fs, 1);
    let id = create(&mut store, "S");
    for n in 0..300u32 {
        store.put_consumer(id, &format!("c{n}"), b"").unwrap();
        store
            .put_consumer_state(id, &format!("c{n}"), &n.to_le_bytes())
            .unwrap();
    }
    commit(&mut store);
    drop(store);
    fs.kill();
    drop(open(&fs, 2));
    fs.crash(1);
    let (store, _) = open(&fs, 3);
    let id = id_of(&store, "S").unwrap();
    assert_eq!(store.consumers(id).count(), 300);
    assert!(
        store
            .consumers(id)
            .all(|(name, _, state)| name[1..].parse::<u32>().unwrap().to_le_bytes() == state)
    );
}

/// The same on the system's disk, with the thread that prepares segments, over many segments.
#[test]
fn the_systems_disk_does_as_well() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("deep/store");
    let options = StoreOptions {
        segment_bytes_max: 4 * 1024 * 1024,
        segment_bytes_min: 256 * 1024,
        reserve_bytes: 0,
        ..small(1)
    };
    let (mut store, _) = Store::open(RealFs, &path, options.clone()).unwrap();
    assert!(matches!(
        Store::open(RealFs, &path, options.clone()),
        Err(StoreError::Locked { .. })
    ));
    let id = store
        .create_stream("$S", b"", Backing::File, StreamSeq(1), UnixNanos(0))
        .unwrap();
    for n in 0..6_000u32 {
        append(
            &mut store,
            id,
            if n % 3 == 0 { "a" } else { "b" },
            &vec![n as u8; 2_000],
        );
        if n % 500 == 0 {
            commit(&mut store);
            store.settle();
        }
    }
    commit(&mut store);
    assert_eq!(store.remove_below(id, StreamSeq(3_000)).unwrap(), 2_999);
    commit(&mut store);
    assert!(store.health().is_writable());
    assert!(store.close().failed.is_empty());
    let (store, report) = Store::open(RealFs, &path, options).unwrap();
    assert_eq!(report.lost, []);
    let id = id_of(&store, "$S").unwrap();
    let state = store.state(id);
    assert_eq!(
        (state.first_seq.0, state.last_seq.0, state.messages),
        (3_000, 6_000, 3_001)
    );
    for seq in 3_000..=6_000u64 {
        let record = store.read(id, StreamSeq(seq)).unwrap().unwrap();
        assert_eq!(record.payload, vec![(seq - 1) as u8; 2_000]);
    }
    assert!(RealFs.list(&path.join("streams/%24S")).unwrap().len() > 3);
}

#[test]
fn a_directory_that_cannot_be_made_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    std::fs::write(&file, b"").unwrap();
    let err = Store::open(RealFs, &file.join("store"), small(1))
        .map(drop)
        .unwrap_err();
    assert!(matches!(err, StoreError::Unwritable { .. }), "{err}");
    assert!(Path::new(&file).exists());
}
