//! Damage costs what it hit and no more: what is kept aside, what can be read around it, what is counted.

use std::io::ErrorKind;
use std::path::PathBuf;

use super::super::{Backing, Store, StoreError};
use super::{append, commit, id_of, open, try_append, try_open};
use crate::env::sim::SimFs;
use crate::types::{StreamId, StreamSeq, UnixNanos};

fn create(store: &mut Store<SimFs>, name: &str) -> StreamId {
    store
        .create_stream(name, b"", Backing::File, StreamSeq(1), UnixNanos(5))
        .unwrap()
}

fn payload_of(seq: u64) -> Vec<u8> {
    vec![seq as u8; 100]
}

fn fill(store: &mut Store<SimFs>, id: StreamId, count: u64) {
    for _ in 0..count {
        let seq = store.state(id).last_seq.0 + 1;
        append(store, id, "a", &payload_of(seq));
    }
    commit(store);
    store.settle();
}

fn with_suffix(fs: &SimFs, suffix: &str) -> Vec<PathBuf> {
    let files = fs.files().into_iter().map(|(path, _)| path);
    files
        .filter(|path| path.to_string_lossy().ends_with(suffix))
        .collect()
}

/// Where the payload of a record lies.
fn place_of(fs: &SimFs, seq: u64) -> (PathBuf, u64) {
    let wanted = payload_of(seq);
    for path in with_suffix(fs, ".seg") {
        let bytes = fs.contents(&path).unwrap();
        if let Some(at) = bytes.windows(wanted.len()).position(|part| part == wanted) {
            return (path, at as u64);
        }
    }
    panic!("record {seq} is in no segment");
}

#[test]
fn damaged_bytes_are_kept_aside_when_read_and_when_opened() {
    for reopen in [false, true] {
        let fs = SimFs::new(1);
        let (mut store, _) = open(&fs, 1);
        let id = create(&mut store, "S");
        fill(&mut store, id, 10);
        let (path, at) = place_of(&fs, 4);
        fs.flip_bit(&path, at * 8);
        let mut store = if reopen {
            drop(store);
            fs.kill();
            open(&fs, 2).0
        } else {
            store
        };
        let id = id_of(&store, "S").unwrap();
        assert_eq!(store.read(id, StreamSeq(4)).is_err(), !reopen);
        commit(&mut store);
        assert!(store.take_health_changed() || reopen, "damage shows at once");
        assert_eq!((store.state(id).lost, store.health().lost), (1, 1));
        let kept = with_suffix(&fs, ".bytes");
        assert_eq!(kept.len(), 1, "{kept:?}");
        let mut expected = payload_of(4);
        expected[0] ^= 1;
        let bytes = fs.contents(&kept[0]).unwrap();
        assert!(bytes.windows(100).any(|part| part == expected));
        assert!(
            kept[0]
                .to_string_lossy()
                .contains("streams/S/quarantine/0000000000000001-")
        );
        store.delete_stream(id).unwrap();
        assert_eq!(with_suffix(&fs, ".bytes").len(), 0, "they go with the stream");
    }
}

#[test]
fn an_unreadable_sector_costs_only_what_lies_in_it_and_only_while_it_lasts() {
    let fs = SimFs::new(1);
    let (mut store, _) = open(&fs, 1);
    let id = create(&mut store, "S");
    fill(&mut store, id, 20);
    let (path, at) = place_of(&fs, 12);
    fs.fail_reads(&path, at, 512 - at % 512);
    let unreadable: Vec<u64> = (1..=20)
        .filter(|&seq| match store.read(id, StreamSeq(seq)) {
            Ok(Some(record)) => {
                assert_eq!(record.payload, payload_of(seq));
                false
            }
            Err(StoreError::Io { .. }) => true,
            other => panic!("{seq}: {other:?}"),
        })
        .collect();
    assert!(
        unreadable.contains(&12) && unreadable.len() <= 5,
        "{unreadable:?}"
    );
    commit(&mut store);
    assert_eq!(store.state(id).lost, 0, "what cannot be read now is not lost");
    fs.heal_reads();
    assert_eq!(
        store.read(id, StreamSeq(12)).unwrap().unwrap().payload,
        payload_of(12)
    );
    fs.fail_reads(&path, at, 8);
    store.give_up(id, StreamSeq(12));
    commit(&mut store);
    assert_eq!(
        (store.state(id).lost, store.read(id, StreamSeq(12)).unwrap()),
        (1, None)
    );
    drop(store);
    fs.kill();
    let (store, report) = open(&fs, 2);
    assert_eq!(report.lost, [], "a restart asks the disk again");
    let id = id_of(&store, "S").unwrap();
    assert_eq!(
        store.read(id, StreamSeq(12)).unwrap().unwrap().payload,
        payload_of(12)
    );
}

#[test]
fn opening_destroys_nothing_that_the_disk_refuses_to_give_for_a_while() {
    let fs = SimFs::new(1);
    let (mut store, _) = open(&fs, 1);
    let id = create(&mut store, "S");
    fill(&mut store, id, 8);
    // One commit of several sectors, whose middle nothing behind vouches for.
    for seq in 9..=20 {
        append(&mut store, id, "a", &payload_of(seq));
    }
    commit(&mut store);
    store.settle();
    drop(store);
    fs.kill();
    let (path, _) = place_of(&fs, 12);
    let len = fs.contents(&path).unwrap().len() as u64;
    for width in [512, 4096, len] {
        for from in (1024..len).step_by(512) {
            let fs = fs.fork();
            fs.fail_reads(&path, from, width);
            if let Ok((mut store, _)) = try_open(&fs, 2) {
                commit(&mut store);
                drop(store.close());
            }
            fs.kill();
            let (store, report) = open(&fs, 3);
            let id = id_of(&store, "S").unwrap();
            assert_eq!(report.lost, [], "{width} bytes at {from}");
            for seq in 1..=20 {
                let record = store.read(id, StreamSeq(seq)).unwrap();
                let payload = record.map(|record| record.payload);
                assert_eq!(
                    payload.as_deref(),
                    Some(&payload_of(seq)[..]),
                    "{seq}: {width} bytes at {from}"
                );
            }
        }
    }
}

#[test]
fn damage_to_the_last_commit_is_told_from_a_torn_write_however_full_the_segment_is() {
    for last_len in 0..200 {
        let fs = SimFs::new(1);
        let (mut store, _) = open(&fs, 1);
        let id = create(&mut store, "S");
        fill(&mut store, id, 18);
        append(&mut store, id, "a", &vec![200; last_len]);
        commit(&mut store);
        append(&mut store, id, "a", &payload_of(250));
        commit(&mut store);
        store.settle();
        let (path, at) = place_of(&fs, 250);
        drop(store);
        fs.kill();
        fs.flip_bit(&path, at * 8);
        let (store, report) = open(&fs, 2);
        let id = id_of(&store, "S").unwrap();
        assert_eq!(report.lost.len(), 1, "payload before of {last_len} bytes");
        assert_eq!(store.state(id).last_seq, StreamSeq(20));
    }
}

#[test]
fn a_segment_whose_name_is_not_durable_leaves_nothing_behind() {
    let fs = SimFs::new(1);
    let (mut store, _) = open(&fs, 1);
    let id = create(&mut store, "S");
    fill(&mut store, id, 18);
    fs.fail_dir_syncs(Some(ErrorKind::StorageFull));
    let before = with_suffix(&fs, ".seg");
    let err = loop {
        match try_append(&mut store, id, "a", &payload_of(1)) {
            Ok(_) => commit(&mut store),
            Err(err) => break err,
        }
    };
    assert!(err.is_no_space(), "{err}");
    assert_eq!(with_suffix(&fs, ".seg"), before);
    fs.fail_dir_syncs(None);
    commit(&mut store);
    fill(&mut store, id, 20);
    assert!(with_suffix(&fs, ".seg").len() > before.len());
}

#[test]
fn a_disk_remounted_read_only_refuses_writes_honestly_and_goes_on_reading() {
    let fs = SimFs::new(1);
    let (mut store, _) = open(&fs, 1);
    let id = create(&mut store, "S");
    fill(&mut store, id, 5);
    append(&mut store, id, "a", &payload_of(6));
    fs.set_read_only(true);
    let report = store.commit();
    assert!(report.committed.is_empty() && report.failed.len() == 1);
    assert!(matches!(
        try_append(&mut store, id, "a", b""),
        Err(StoreError::ReadOnly { .. })
    ));
    assert_eq!((store.durable_seq(id).0, store.state(id).last_seq.0), (5, 5));
    assert_eq!(store.health().read_only.len(), 1);
    for seq in 1..=5 {
        assert_eq!(
            store.read(id, StreamSeq(seq)).unwrap().unwrap().payload,
            payload_of(seq)
        );
    }
    drop(store);
    let refused = try_open(&fs, 2).map(drop).unwrap_err();
    assert!(refused.to_string().contains("not writable"), "{refused}");
    fs.set_read_only(false);
    let (mut store, _) = open(&fs, 3);
    let id = id_of(&store, "S").unwrap();
    fill(&mut store, id, 1);
    assert_eq!(store.durable_seq(id).0, 6);
}

/// Full segments are opened when they are needed: a disk that has turned read-only gives them still.
#[test]
fn full_segments_are_read_from_a_disk_that_takes_no_writes() {
    let fs = SimFs::new(1);
    let (mut store, _) = open(&fs, 1);
    let id = create(&mut store, "S");
    fill(&mut store, id, 400);
    drop(store);
    let (mut store, _) = open(&fs, 2);
    let id = id_of(&store, "S").unwrap();
    fs.set_read_only(true);
    append(&mut store, id, "a", b"refused");
    assert_eq!(store.commit().failed.len(), 1);
    for seq in 1..=400 {
        let record = store.read(id, StreamSeq(seq)).unwrap().unwrap();
        assert_eq!(record.payload, payload_of(seq));
    }
}
