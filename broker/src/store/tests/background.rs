//! What the store does between commits: marks, reading for damage, removals once more.

use std::path::{Path, PathBuf};

use super::super::{Backing, Store, StoreError, StoreOptions};
use super::{append, commit, id_of, open, small};
use crate::env::Fs;
use crate::env::real::RealFs;
use crate::env::sim::SimFs;
use crate::types::{MonoNanos, StreamId, StreamSeq, UnixNanos};

const SECOND: u64 = 1_000_000_000;

fn create<F: Fs>(store: &mut Store<F>) -> StreamId {
    store
        .create_stream("S", b"", Backing::File, StreamSeq(1), UnixNanos(5))
        .unwrap()
}

fn payload_of(seq: u64) -> Vec<u8> {
    vec![seq as u8; 100]
}

fn fill<F: Fs>(store: &mut Store<F>, id: StreamId, count: u64) {
    for _ in 0..count {
        let seq = store.state(id).last_seq.0 + 1;
        append(store, id, "a", &payload_of(seq));
        commit(store);
    }
    store.settle();
}

/// Lets seconds pass, as the storage thread would notice them.
fn pass<F: Fs>(store: &mut Store<F>, seconds: std::ops::Range<u64>) {
    for second in seconds {
        store.tend(UnixNanos(second as i64), MonoNanos(second * SECOND));
        let report = store.commit();
        assert!(report.failed.is_empty(), "{report:?}");
        store.settle();
    }
}

fn with_suffix(fs: &SimFs, suffix: &str) -> Vec<PathBuf> {
    let files = fs.files().into_iter().map(|(path, _)| path);
    files
        .filter(|path| path.to_string_lossy().ends_with(suffix))
        .collect()
}

fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes.windows(wanted.len()).position(|part| part == wanted)
}

#[test]
fn segments_that_vanish_from_the_end_are_missed_and_positions_never_go_back() {
    for truncated in [false, true] {
        let fs = SimFs::new(1);
        let (mut store, _) = open(&fs, 1);
        let id = create(&mut store);
        pass(&mut store, 0..1);
        fill(&mut store, id, 200);
        pass(&mut store, 1..3);
        let last_known = store.durable_seq(id);
        fill(&mut store, id, 1);
        drop(store);
        fs.crash(7);
        let segments = with_suffix(&fs, ".seg");
        assert!(segments.len() > 2);
        for path in &segments[1..] {
            if truncated {
                fs.edit(path, |bytes| bytes.truncate(700));
            } else {
                fs.remove(path).unwrap();
            }
        }
        let (mut store, report) = open(&fs, 2);
        let id = id_of(&store, "S").unwrap();
        let state = store.state(id);
        assert_eq!(state.last_seq, last_known, "truncated: {truncated}");
        assert_eq!(report.lost.len(), 1);
        assert_eq!(report.lost[0].range.last, last_known);
        assert_eq!(state.lost, report.lost[0].range.count());
        assert_eq!(state.messages + state.lost, last_known.0);
        assert_eq!(append(&mut store, id, "a", b"next"), last_known.next());
        commit(&mut store);
    }
}

#[test]
fn marks_are_a_precaution_that_damage_to_them_takes_away_and_no_more() {
    let fs = SimFs::new(1);
    let (mut store, _) = open(&fs, 1);
    let id = create(&mut store);
    pass(&mut store, 0..1);
    fill(&mut store, id, 20);
    pass(&mut store, 1..3);
    drop(store);
    fs.kill();
    for name in ["marks.0", "marks.1"] {
        fs.edit(&Path::new(super::DIR).join(name), |bytes| bytes.fill(7));
    }
    let (mut store, report) = open(&fs, 2);
    assert_eq!(report.lost, []);
    let id = id_of(&store, "S").unwrap();
    assert_eq!(store.state(id).last_seq, StreamSeq(20));
    pass(&mut store, 0..1);
    fill(&mut store, id, 1);
    pass(&mut store, 1..3);
    assert!(store.delete_stream(id).is_ok());
}

#[test]
fn an_idle_store_asks_for_nothing_but_the_next_pass() {
    let fs = SimFs::new(1);
    let (mut store, _) = open(&fs, 1);
    let id = create(&mut store);
    pass(&mut store, 0..1);
    fill(&mut store, id, 3);
    assert_eq!(store.next_tend(), Some(MonoNanos(SECOND)));
    pass(&mut store, 1..6);
    let before = fs.counts();
    assert_eq!(store.next_tend(), Some(MonoNanos(60 * SECOND)));
    pass(&mut store, 6..50);
    assert_eq!(fs.counts(), before, "nothing is written for nothing");
}

#[test]
fn reading_sealed_segments_finds_damage_that_nobody_asked_for() {
    let fs = SimFs::new(1);
    let (mut store, _) = open(&fs, 1);
    let id = create(&mut store);
    pass(&mut store, 0..1);
    fill(&mut store, id, 250);
    let removed = StreamSeq(40);
    assert!(store.remove(id, removed).unwrap());
    commit(&mut store);
    for seq in [5u64, 40, 41, 42, 120] {
        for path in with_suffix(&fs, ".seg") {
            if let Some(at) = find(&fs.contents(&path).unwrap(), &payload_of(seq)) {
                fs.flip_bit(&path, at as u64 * 8 + 3);
            }
        }
    }
    let unreadable = with_suffix(&fs, ".seg").remove(1);
    let at = find(&fs.contents(&unreadable).unwrap(), &payload_of(80)).unwrap();
    fs.fail_reads(&unreadable, at as u64, 8);
    pass(&mut store, 1..59);
    assert_eq!(store.state(id).lost, 0, "it was not looked at yet");
    pass(&mut store, 59..80);
    let lost: Vec<u64> = store.lost(id).iter().map(|range| range.first.0).collect();
    assert_eq!(
        lost,
        [5, 41, 120],
        "41 and 42 are one range; 40 was removed before"
    );
    assert_eq!(store.state(id).lost, 4);
    assert_eq!(store.health().lost, 4);
    let figures = store.figures();
    assert_eq!((figures.scrub_damaged, figures.scrub_passes), (4, 1));
    assert!((1..40).contains(&figures.scrub_unreadable), "{figures:?}");
    assert!(figures.scrubbed_bytes > 20_000);
    assert!(figures.quarantined_files >= 3, "{figures:?}");
    assert!(figures.scrub_pass_ended > UnixNanos(59));
    fs.heal_reads();
    assert!(
        store.read(id, StreamSeq(80)).unwrap().is_some(),
        "what was unreadable is not lost"
    );
    pass(&mut store, 80..200);
    assert_eq!(store.figures().scrub_passes, 1, "the next pass comes a day later");
}

#[test]
fn a_bad_sector_cannot_bring_removed_records_back_once_the_stream_rested() {
    for sector in (1024..16 * 1024).step_by(512) {
        let fs = SimFs::new(1);
        let (mut store, _) = open(&fs, 1);
        let id = create(&mut store);
        pass(&mut store, 0..1);
        fill(&mut store, id, 8);
        for seq in [2, 5] {
            assert!(store.remove(id, StreamSeq(seq)).unwrap());
            commit(&mut store);
            store.settle();
        }
        if sector % 1024 == 0 {
            pass(&mut store, 1..4);
            drop(store);
        } else {
            assert!(store.close().failed.is_empty());
        }
        fs.kill();
        for path in with_suffix(&fs, ".seg") {
            fs.edit(&path, |bytes| {
                let end = bytes.len().min(sector + 512);
                if sector < end {
                    bytes[sector..end].fill(0);
                }
            });
        }
        let (store, _) = open(&fs, 2);
        let id = id_of(&store, "S").unwrap();
        for seq in [2, 5] {
            assert_eq!(
                store.read(id, StreamSeq(seq)).unwrap(),
                None,
                "sector at {sector}"
            );
        }
    }
}

#[test]
fn on_the_systems_disk_a_thread_writes_the_marks_and_reads_for_damage() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let options = StoreOptions {
        scrub_bytes_per_second: 1 << 30,
        ..small(1)
    };
    let (mut store, _) = Store::open(RealFs, &path, options.clone()).unwrap();
    let id = create(&mut store);
    fill(&mut store, id, 250);
    let segment = path.join("streams/S/0000000000000001.seg");
    let mut bytes = Vec::new();
    std::io::Read::read_to_end(&mut std::fs::File::open(&segment).unwrap(), &mut bytes).unwrap();
    let at = find(&bytes, &payload_of(3)).unwrap() as u64;
    let file = std::fs::OpenOptions::new().write(true).open(&segment).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, b"x", at).unwrap();
    let mut second = 0;
    while store.figures().scrub_passes == 0 || store.next_tend() < Some(MonoNanos(3600 * SECOND)) {
        pass(&mut store, second..second + 1);
        second += 1;
        std::thread::yield_now();
    }
    assert_eq!((store.state(id).lost, store.figures().scrub_damaged), (1, 1));
    let last = store.durable_seq(id);
    drop(store);
    let mut segments: Vec<PathBuf> = std::fs::read_dir(path.join("streams/S"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|ext| ext == "seg"))
        .collect();
    segments.sort();
    std::fs::remove_file(segments.last().unwrap()).unwrap();
    let (store, _) = Store::open(RealFs, &path, options).unwrap();
    let id = store.streams().next().unwrap().0;
    assert_eq!(store.state(id).last_seq, last);
    assert!(!matches!(store.read(id, last), Err(StoreError::Io { .. })));
}
