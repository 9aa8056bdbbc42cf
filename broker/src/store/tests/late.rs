//! Streams that are synced late.

use super::super::{Backing, Store};
use super::{append, commit, open, try_append};
use crate::env::sim::SimFs;
use crate::types::{MonoNanos, StreamId, StreamSeq, UnixNanos};

fn begin(fs: &SimFs) -> (Store<SimFs>, StreamId) {
    let (mut store, _) = open(fs, 1);
    let id = store
        .create_stream("S", b"", Backing::File, StreamSeq(1), UnixNanos(0))
        .unwrap();
    store.set_late(id, true);
    append(&mut store, id, "a", b"first");
    commit(&mut store);
    store.tend(UnixNanos(0), MonoNanos(0));
    (store, id)
}

#[test]
fn a_late_commit_costs_no_sync_and_one_follows() {
    let fs = SimFs::new(1);
    let (mut store, id) = begin(&fs);
    let before = fs.sync_count();
    for _ in 0..5 {
        append(&mut store, id, "a", b"payload");
        commit(&mut store);
        store.settle();
    }
    assert_eq!(fs.sync_count(), before, "nothing was synced");
    assert_eq!(store.durable_seq(id), StreamSeq(6), "all is delivered");
    assert_eq!(store.synced_seq(id), StreamSeq(0));
    store.tend(UnixNanos(0), MonoNanos(1_000_000_000));
    store.tend(UnixNanos(0), MonoNanos(2_000_000_000));
    store.settle();
    assert_eq!(store.synced_seq(id), StreamSeq(6));
    drop(store);
    fs.crash(3);
    assert_eq!(open(&fs, 2).0.state(id).last_seq, StreamSeq(6));
}

#[test]
fn a_kill_takes_nothing_that_was_written() {
    let fs = SimFs::new(2);
    let (store, id) = begin(&fs);
    drop(store);
    fs.kill();
    let (store, report) = open(&fs, 2);
    assert_eq!(report.lost, []);
    assert_eq!(store.state(id).last_seq, StreamSeq(1));
}

#[test]
fn the_state_of_a_consumer_comes_after_the_records() {
    let fs = SimFs::new(3);
    let (mut store, id) = begin(&fs);
    store.put_consumer(id, "c", b"").unwrap();
    store.put_consumer_state(id, "c", b"1").unwrap();
    commit(&mut store);
    assert_eq!(store.synced_seq(id), StreamSeq(1));
}

#[test]
fn after_a_late_sync_that_fails_nothing_is_taken() {
    let fs = SimFs::new(4);
    let (mut store, id) = begin(&fs);
    fs.fail_nth_sync(1);
    store.tend(UnixNanos(0), MonoNanos(1_000_000_000));
    store.tend(UnixNanos(0), MonoNanos(2_000_000_000));
    assert_eq!(store.commit().failed.len(), 1, "the failure is told");
    assert!(try_append(&mut store, id, "a", b"more").is_err());
    assert_eq!(store.health().read_only.len(), 1);
}

#[test]
fn a_sync_that_succeeds_after_a_late_one_that_failed_proves_nothing() {
    let fs = SimFs::new(5);
    let (mut store, id) = begin(&fs);
    store.put_consumer(id, "c", b"").unwrap();
    append(&mut store, id, "a", b"second");
    commit(&mut store);
    fs.fail_nth_sync(1);
    // Nobody has asked yet what came of it.
    store.tend(UnixNanos(0), MonoNanos(1_000_000_000));
    store.put_consumer_state(id, "c", b"2").unwrap();
    assert_eq!(
        store.commit().failed.len(),
        1,
        "the state of a consumer is not ahead"
    );
    assert!(try_append(&mut store, id, "a", b"more").is_err());
}
