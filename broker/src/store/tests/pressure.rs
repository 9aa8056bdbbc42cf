//! Segments that fill faster than they are sealed.

use super::super::table::Table;
use super::super::{Backing, Store, StoreOptions};
use super::{append, commit, small};
use crate::env::real::RealFs;
use crate::types::{MonoNanos, StreamSeq, UnixNanos};

const UNSEALED_MAX: u64 = 400;

#[test]
fn who_writes_waits_while_more_is_not_sealed_than_memory_may_have() {
    let dir = tempfile::tempdir().unwrap();
    let options = StoreOptions {
        unsealed_records_max: UNSEALED_MAX,
        ..small(1)
    };
    let (mut store, _) = Store::open(RealFs, &dir.path().join("store"), options).unwrap();
    let id = store
        .create_stream("S", b"", Backing::File, StreamSeq(1), UnixNanos(5))
        .unwrap();
    for round in 0..40 {
        // More than may be there, in one commit.
        (0..1_000).for_each(|n| {
            append(&mut store, id, &format!("n.{n}"), b"12345678");
        });
        commit(&mut store);
        append(&mut store, id, "n", b"12345678");
        store.tend(UnixNanos(0), MonoNanos(round));
        assert!(
            store.shared.sealer.records_waiting() <= UNSEALED_MAX,
            "in round {round}"
        );
    }
    assert!(store.figures().held_back > 0);
    commit(&mut store);
    let held_back = store.figures().held_back;
    let mut second = 1;
    while store.is_busy() {
        store.tend(UnixNanos(0), MonoNanos(second * 1_000_000_000));
        commit(&mut store);
        second += 1;
        std::thread::yield_now();
    }
    assert_eq!(
        store.figures().held_back,
        held_back,
        "nothing was written any more"
    );
    let index = &store.streams[&id].index;
    let in_memory = index
        .segments
        .iter()
        .filter(|segment| matches!(segment.table, Table::Memory(_)));
    assert_eq!(in_memory.count(), 1, "of {}", index.segments.len());
    assert_eq!(store.state(id).messages, 40 * 1_001);
}
