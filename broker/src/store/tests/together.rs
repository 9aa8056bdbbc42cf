//! Commits of several streams, whose files are synced at once.

use super::super::{Backing, Store};
use super::{append, id_of, open, small};
use crate::env::Fs;
use crate::env::real::RealFs;
use crate::env::sim::SimFs;
use crate::types::{StreamId, StreamSeq, UnixNanos};

const STREAMS: u64 = 21;

fn with_streams<F: Fs>(store: &mut Store<F>) -> Vec<StreamId> {
    let create = |number| {
        store
            .create_stream(
                &format!("S{number}"),
                b"",
                Backing::File,
                StreamSeq(1),
                UnixNanos(0),
            )
            .unwrap()
    };
    (0..STREAMS).map(create).collect()
}

#[test]
fn a_sync_that_fails_costs_one_stream_of_many() {
    for nth in 1..=STREAMS {
        let fs = SimFs::new(nth);
        let (mut store, _) = open(&fs, 1);
        let ids = with_streams(&mut store);
        for &id in &ids {
            append(&mut store, id, "a", b"once");
        }
        fs.fail_nth_sync(nth);
        let report = store.commit();
        let failed: Vec<StreamId> = report.failed.iter().map(|(id, _)| *id).collect();
        assert_eq!(failed, [ids[nth as usize - 1]], "sync {nth}");
        assert_eq!(report.committed.len() as u64, STREAMS - 1);
        for &id in &ids {
            let is_durable = store.durable_seq(id) == StreamSeq(1);
            assert_eq!(is_durable, report.committed.contains(&id), "sync {nth}");
            assert_ne!(is_durable, failed.contains(&id), "sync {nth}");
        }
        drop(store);
        fs.crash(nth);
        let (store, _) = open(&fs, 2);
        for number in (0..STREAMS).filter(|&number| number + 1 != nth) {
            let id = id_of(&store, &format!("S{number}")).unwrap();
            assert_eq!(store.state(id).messages, 1, "sync {nth}, stream {number}");
        }
    }
}

#[test]
fn many_streams_are_committed_by_the_real_disk() {
    let dir = tempfile::tempdir().unwrap();
    let (mut store, _) = Store::open(RealFs, dir.path(), small(1)).unwrap();
    let ids = with_streams(&mut store);
    for round in 1..=3 {
        for &id in &ids {
            append(&mut store, id, "a", b"again");
        }
        let mut committed = store.commit().committed;
        committed.sort_unstable();
        assert_eq!(committed, ids);
        assert!(ids.iter().all(|&id| store.durable_seq(id) == StreamSeq(round)));
    }
    assert!(store.close().failed.is_empty());
    let (store, _) = Store::open(RealFs, dir.path(), small(2)).unwrap();
    assert!(ids.iter().all(|&id| store.state(id).messages == 3));
}

#[test]
fn the_outcome_of_each_file_stands_in_its_place() {
    let dir = tempfile::tempdir().unwrap();
    for count in [0, 1, 2, 8, 9, 31] {
        let files: Vec<_> = (0..count)
            .map(|number| {
                RealFs
                    .create(&dir.path().join(format!("{count}-{number}")))
                    .unwrap()
            })
            .collect();
        let synced = RealFs.sync_files(&files.iter().collect::<Vec<_>>());
        assert_eq!(synced.len(), count);
        assert!(synced.iter().all(Result::is_ok));
    }
}
