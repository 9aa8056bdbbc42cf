//! Writes and syncs that fail, and a disk that is full.

use super::super::{Backing, Store, StoreError, SubjectFilter};
use super::{append, commit, id_of, open, small, try_append, try_open};
use crate::env::sim::SimFs;
use crate::types::{StreamId, StreamSeq, UnixNanos};

/// A store with one stream without records.
fn with_stream(fs: &SimFs) -> (Store<SimFs>, StreamId) {
    let (mut store, _) = open(fs, 1);
    let id = store
        .create_stream("S", b"", Backing::File, StreamSeq(1), UnixNanos(0))
        .unwrap();
    (store, id)
}

/// Power cut and next start, which must find nothing lost, and the stream.
fn after_a_crash(fs: &SimFs, store: Store<SimFs>, seed: u64) -> (Store<SimFs>, StreamId) {
    drop(store);
    fs.crash(seed);
    let (store, report) = open(fs, 2);
    assert_eq!(report.lost, [], "{seed}");
    let id = id_of(&store, "S").unwrap();
    (store, id)
}

/// Appends and commits until something fails. Returns the highest position that was confirmed, and the stream if it
/// was created and something failed then.
fn fill_until_failure(store: &mut Store<SimFs>) -> (u64, Option<StreamId>) {
    let Ok(id) = store.create_stream("S", b"", Backing::File, StreamSeq(1), UnixNanos(0)) else {
        return (0, None);
    };
    if store.put_consumer(id, "c", b"").is_err() {
        return (0, Some(id));
    }
    let mut confirmed = 0;
    for round in 0..200u64 {
        for _ in 0..3 {
            if try_append(store, id, "a", &[round as u8; 150]).is_err() {
                return (confirmed, Some(id));
            }
        }
        if round % 5 == 0 {
            store.put_consumer_state(id, "c", &round.to_le_bytes()).unwrap();
        }
        if round % 7 == 0 {
            store.remove_below(id, StreamSeq(confirmed / 2)).unwrap();
        }
        if !store.commit().failed.is_empty() {
            return (confirmed, Some(id));
        }
        confirmed = store.durable_seq(id).0;
        store.settle();
    }
    (confirmed, None)
}

/// Returns whether the failure made a stream read-only. It need not: giving up an old file may fail.
fn nothing_is_confirmed_after(fault: fn(&SimFs, u64), nth: u64) -> bool {
    let fs = SimFs::new(nth);
    fault(&fs, nth);
    let Ok((mut store, _)) = try_open(&fs, 1) else {
        fs.crash(nth);
        open(&fs, 2);
        return false;
    };
    let (confirmed, id) = fill_until_failure(&mut store);
    if let Some(id) = id {
        let health = store.health();
        assert_eq!(health.read_only.len(), 1, "failure {nth} is in health");
        let refused = try_append(&mut store, id, "a", b"late");
        assert!(
            matches!(refused, Err(StoreError::ReadOnly { .. })),
            "failure {nth}: {refused:?}"
        );
        assert!(
            store.commit().committed.is_empty(),
            "failure {nth}: confirmed after it"
        );
        assert!(store.durable_seq(id).0 <= store.state(id).last_seq.0);
    }
    drop(store);
    fs.crash(nth);
    let (store, report) = open(&fs, 2);
    assert_eq!(report.lost, [], "failure {nth}");
    let stopped = id.is_some();
    let Some(id) = id_of(&store, "S") else {
        assert_eq!(confirmed, 0);
        return stopped;
    };
    let state = store.state(id);
    assert!(
        state.last_seq.0 >= confirmed,
        "failure {nth}: {confirmed} confirmed, {} there",
        state.last_seq
    );
    for seq in state.first_seq.0..=state.last_seq.0 {
        let record = store.read(id, StreamSeq(seq)).unwrap().unwrap();
        assert_eq!(record.payload, vec![((seq - 1) / 3) as u8; 150]);
    }
    stopped
}

#[test]
fn no_write_that_fails_is_confirmed() {
    let stopped = (1..=200).filter(|&nth| nothing_is_confirmed_after(SimFs::fail_nth_write, nth));
    assert!(stopped.count() > 180);
}

#[test]
fn no_sync_that_fails_is_confirmed() {
    let stopped = (1..=200).filter(|&nth| nothing_is_confirmed_after(SimFs::fail_nth_sync, nth));
    assert!(stopped.count() > 170);
}

#[test]
fn a_full_disk_refuses_and_reads_and_heals() {
    let fs = SimFs::new(1);
    let (mut store, id) = with_stream(&fs);
    fs.set_capacity(Some(60_000));
    let mut count = 0;
    let err = loop {
        match try_append(&mut store, id, "a", &[9; 300]) {
            Ok(_) => count += 1,
            Err(err) => break err,
        }
        commit(&mut store);
    };
    assert!(err.is_no_space(), "{err}");
    assert_eq!(
        store.state(id).last_seq,
        StreamSeq(count),
        "a refusal leaves no trace"
    );
    assert_eq!(store.health().no_space.len(), 1);
    assert!(store.read(id, StreamSeq(1)).unwrap().is_some(), "reads go on");
    assert!(try_append(&mut store, id, "a", &[9; 300]).is_err());
    commit(&mut store);
    assert_eq!(store.purge(id, StreamSeq(count)).unwrap(), count - 1);
    commit(&mut store);
    assert_eq!(
        append(&mut store, id, "a", &[9; 300]),
        StreamSeq(count + 1),
        "room was made"
    );
    commit(&mut store);
    fs.set_capacity(None);
    for _ in 0..200 {
        append(&mut store, id, "a", &[9; 300]);
    }
    commit(&mut store);
    assert!(store.health().is_writable());
    drop(store);
    fs.crash(1);
    let (store, report) = open(&fs, 2);
    let id = id_of(&store, "S").unwrap();
    assert_eq!((store.state(id).messages, report.lost.len()), (202, 0));
}

#[test]
fn a_commit_without_room_is_rolled_back_and_can_be_repeated() {
    for seed in 0..50 {
        let fs = SimFs::new(seed);
        let (mut store, id) = with_stream(&fs);
        append(&mut store, id, "a", b"kept");
        commit(&mut store);
        append(&mut store, id, "b", &[1; 700]);
        append(&mut store, id, "b", &[2; 700]);
        fs.fill_at_nth_write(1);
        let report = store.commit();
        assert!(report.failed[0].1.is_no_space() && report.committed.is_empty());
        let state = store.state(id);
        assert_eq!(
            (state.last_seq, state.messages, store.num_subjects(id)),
            (StreamSeq(1), 1, 1)
        );
        assert!(store.read(id, StreamSeq(2)).unwrap().is_none());
        assert_eq!(append(&mut store, id, "c", b"again"), StreamSeq(2));
        commit(&mut store);
        let (store, id) = after_a_crash(&fs, store, seed);
        assert_eq!(store.state(id).last_seq, StreamSeq(2));
        assert_eq!(
            &store.read(id, StreamSeq(2)).unwrap().unwrap().payload[..],
            b"again"
        );
    }
}

#[test]
fn a_close_that_finds_no_room_leaves_no_consumer_ahead_of_its_stream() {
    for nth in 1..8 {
        let fs = SimFs::new(nth);
        let (mut store, id) = with_stream(&fs);
        store.put_consumer(id, "c", b"config").unwrap();
        append(&mut store, id, "a", b"kept");
        commit(&mut store);
        append(&mut store, id, "a", b"refused");
        store.put_consumer_state(id, "c", &[2]).unwrap();
        fs.fill_at_nth_write(nth);
        drop(store.close());
        fs.crash(nth);
        let (store, _) = open(&fs, 2);
        let last = store.state(id_of(&store, "S").unwrap()).last_seq.0;
        let state = store
            .consumers(id_of(&store, "S").unwrap())
            .next()
            .unwrap()
            .2
            .to_vec();
        assert!(
            state.first().is_none_or(|at| u64::from(*at) <= last),
            "{state:?}, {last}"
        );
    }
}

#[test]
fn a_commit_that_runs_out_of_room_in_the_next_segment_keeps_what_is_durable_and_heals() {
    for seed in 0..50 {
        let fs = SimFs::new(seed);
        let (mut store, id) = with_stream(&fs);
        append(&mut store, id, "a", &[0; 700]);
        commit(&mut store);
        for n in 2..=6u8 {
            append(&mut store, id, "a", &[n; 700]);
        }
        fs.fill_at_nth_write(2);
        let report = store.commit();
        assert!(report.failed[0].1.is_no_space(), "{report:?}");
        assert!(store.health().read_only.is_empty(), "a full disk heals");
        let durable = store.durable_seq(id).0;
        assert!(
            (2..6).contains(&durable),
            "the first segment's part is durable: {durable}"
        );
        assert_eq!(store.state(id).last_seq.0, durable);
        assert_eq!(append(&mut store, id, "c", b"again"), StreamSeq(durable + 1));
        commit(&mut store);
        store.settle();
        let (store, id) = after_a_crash(&fs, store, seed);
        assert_eq!(store.state(id).last_seq.0, durable + 1);
        for seq in 1..=durable {
            let record = store.read(id, StreamSeq(seq)).unwrap().unwrap();
            assert_eq!(record.payload[0], if seq == 1 { 0 } else { seq as u8 });
        }
        let last = store.read(id, StreamSeq(durable + 1)).unwrap().unwrap();
        assert_eq!(&last.payload[..], b"again");
    }
}

#[test]
fn a_removal_without_room_refuses_nobody_afterwards() {
    let fs = SimFs::new(1);
    let (mut store, id) = with_stream(&fs);
    for _ in 0..40 {
        append(&mut store, id, "a", b"1");
    }
    commit(&mut store);
    fs.set_capacity(Some(fs.used_bytes()));
    let mut seq = 0;
    while store.commit().failed.is_empty() {
        seq += 1;
        assert!(store.remove(id, StreamSeq(seq)).unwrap(), "removals need room");
    }
    fs.set_capacity(None);
    append(&mut store, id, "a", &[9; 300]);
    commit(&mut store);
}

/// The third copy of a removal finds no room: that is nobody's business, and it comes when there is some.
#[test]
fn a_precaution_without_room_refuses_nobody() {
    let fs = SimFs::new(1);
    let (mut store, id) = with_stream(&fs);
    append(&mut store, id, "a", b"1");
    append(&mut store, id, "a", b"2");
    commit(&mut store);
    assert!(store.remove(id, StreamSeq(1)).unwrap());
    commit(&mut store);
    fs.set_capacity(Some(fs.used_bytes()));
    let mut second = 0;
    let mut tend = |store: &mut Store<SimFs>| {
        for _ in 0..4 {
            second += 1_000_000_000;
            store.tend(UnixNanos(0), crate::types::MonoNanos(second));
            commit(store);
        }
    };
    tend(&mut store);
    assert!(store.health().no_space.is_empty(), "nobody missed the room");
    fs.set_capacity(None);
    let before = fs.used_bytes();
    append(&mut store, id, "a", &[9; 300]);
    commit(&mut store);
    tend(&mut store);
    assert!(fs.used_bytes() > before, "it is made up for");
}

#[test]
fn removals_have_room_that_records_leave() {
    let fs = SimFs::new(1);
    let mut options = small(1);
    options.reserve_bytes = 8192;
    let path = std::path::Path::new(super::DIR);
    let (mut store, _) = Store::open(fs.clone(), path, options).unwrap();
    let id = store
        .create_stream("S", b"", Backing::File, StreamSeq(1), UnixNanos(0))
        .unwrap();
    fs.set_capacity(Some(60_000));
    while try_append(&mut store, id, "a", &[9; 300]).is_ok() {
        commit(&mut store);
    }
    while try_append(&mut store, id, "a", b"").is_ok() {
        commit(&mut store);
    }
    let last = store.state(id).last_seq.0;
    for seq in (2..last).step_by(2).take(20) {
        assert!(store.remove(id, StreamSeq(seq)).unwrap());
        commit(&mut store);
    }
}

/// A stream of 40 records over five subjects in some segments, all of them durable.
fn with_forty(fs: &SimFs) -> (Store<SimFs>, StreamId) {
    let (mut store, id) = with_stream(fs);
    for n in 0..40u8 {
        append(&mut store, id, &format!("k.{}", n % 5), &[n; 300]);
        commit(&mut store);
    }
    (store, id)
}

type Picture = (
    crate::store::StreamState,
    Vec<(u64, String, u8)>,
    Vec<(String, u64, u64, u64)>,
);

/// All that can be asked of the stream.
fn picture(store: &Store<SimFs>, id: StreamId) -> Picture {
    let state = store.state(id);
    let records = (1..=state.last_seq.0).filter_map(|seq| store.read(id, StreamSeq(seq)).unwrap());
    let records = records.map(|record| (record.seq.0, record.subject.to_string(), record.payload[0]));
    let subjects = store.subjects(id, &SubjectFilter::all());
    let subjects = subjects.into_iter().map(|summary| {
        (
            summary.subject.to_string(),
            summary.messages,
            summary.first.0,
            summary.last.0,
        )
    });
    (state, records.collect(), subjects.collect())
}

/// Whatever new records have pushed out is back when the batch finds no room, before and after a power cut; what was
/// removed in its own right is not.
#[test]
fn what_refused_records_pushed_out_is_back() {
    type Change = fn(&mut Store<SimFs>, StreamId, StreamSeq);
    let one_each: Change = |store, id, by| assert!(store.displace(id, StreamSeq(by.0 - 40), by).unwrap());
    let the_first: Change = |store, id, by| assert!(store.displace_first(id, by).unwrap());
    let all: Change = |store, id, by| {
        store.displace_all(id, by).unwrap();
    };
    let whole_subject: Change = |store, id, by| {
        for seq in (3..41).step_by(5) {
            store.displace(id, StreamSeq(seq), by).unwrap();
        }
    };
    for (kind, change) in [one_each, the_first, all, whole_subject].into_iter().enumerate() {
        for seed in 0..30 {
            let fs = SimFs::new(seed);
            let (mut store, id) = with_forty(&fs);
            let before = picture(&store, id);
            for n in 0..24 {
                let seq = append(&mut store, id, "new", &[100 + n; 700]);
                change(&mut store, id, seq);
            }
            assert_ne!(picture(&store, id), before);
            fs.fill_at_nth_write(1 + seed % 2);
            let report = store.commit();
            assert!(store.health().read_only.is_empty(), "{kind} {seed}: {report:?}");
            assert!(report.failed[0].1.is_no_space(), "{kind} {seed}");
            let durable = store.durable_seq(id).0;
            let after = picture(&store, id);
            if durable == 40 {
                assert_eq!(after, before, "{kind} {seed}");
            } else {
                assert!(seed % 2 == 1 && durable < 64, "{kind} {seed}: {durable}");
            }
            if seed % 3 == 0 {
                let (store, id) = after_a_crash(&fs, store, seed);
                let records = picture(&store, id).1;
                let there = |one: &(u64, String, u8)| records.contains(one);
                assert!(after.1.iter().all(there), "{kind} {seed}");
                continue;
            }
            let seq = append(&mut store, id, "again", &[1; 700]);
            change(&mut store, id, seq);
            commit(&mut store);
            let now = picture(&store, id);
            let (store, id) = after_a_crash(&fs, store, seed);
            let records = picture(&store, id).1;
            assert!(now.1.iter().all(|one| records.contains(one)), "{kind} {seed}");
            if kind != 1 {
                assert_eq!(records, now.1, "{kind} {seed}: removals are durable");
            }
        }
    }
}

#[test]
fn what_was_removed_in_its_own_right_stays_removed_when_a_batch_is_refused() {
    for seed in 0..30 {
        let fs = SimFs::new(seed);
        let (mut store, id) = with_forty(&fs);
        let by = append(&mut store, id, "new", &[100; 300]);
        assert!(store.displace(id, StreamSeq(7), by).unwrap());
        assert!(!store.remove(id, StreamSeq(7)).unwrap(), "it is gone already");
        assert!(store.displace(id, StreamSeq(8), by).unwrap());
        assert!(store.remove(id, StreamSeq(9)).unwrap());
        assert!(store.displace_first(id, by).unwrap());
        assert_eq!(store.displace_all(id, by).unwrap(), 36);
        store.purge(id, StreamSeq(4)).unwrap();
        store.update_stream(id, b"other").unwrap();
        fs.fill_at_nth_write(1);
        assert!(store.commit().failed[0].1.is_no_space());
        let wanted: Vec<u64> = (4..=40).filter(|seq| ![7, 9].contains(seq)).collect();
        let there = |store: &Store<SimFs>, id| picture(store, id).1.into_iter().map(|one| one.0);
        assert_eq!(there(&store, id).collect::<Vec<_>>(), wanted);
        if seed % 2 == 0 {
            drop(store);
            fs.crash(seed);
            let (store, _) = open(&fs, 2);
            let id = id_of(&store, "S").unwrap();
            let found: Vec<u64> = there(&store, id).collect();
            assert!(wanted.iter().all(|seq| found.contains(seq)), "{found:?}");
            continue;
        }
        commit(&mut store);
        drop(store);
        fs.crash(seed);
        let (store, _) = open(&fs, 2);
        let id = id_of(&store, "S").unwrap();
        assert_eq!(there(&store, id).collect::<Vec<_>>(), wanted);
    }
}

#[test]
fn a_batch_over_three_segments_without_room_in_the_first_is_refused_and_heals() {
    for seed in 0..60 {
        let fs = SimFs::new(seed);
        let (mut store, id) = with_forty(&fs);
        let before = picture(&store, id);
        for _ in 0..60 {
            append(&mut store, id, "b", &[2; 700]);
        }
        fs.fill_at_nth_write(1 + seed % 3);
        let report = store.commit();
        assert!(report.failed[0].1.is_no_space(), "{report:?}");
        assert!(store.health().read_only.is_empty(), "a full disk heals");
        let durable = store.durable_seq(id).0;
        assert_eq!(durable == 40, seed % 3 == 0, "{durable}");
        assert_eq!(store.state(id).last_seq.0, durable);
        if durable == 40 {
            assert_eq!(picture(&store, id), before);
        }
        if seed % 2 == 0 {
            for n in 0..60 {
                assert_eq!(
                    append(&mut store, id, "c", &[n; 700]).0,
                    durable + 1 + u64::from(n)
                );
            }
            commit(&mut store);
            store.settle();
        }
        let now = picture(&store, id);
        let (store, id) = after_a_crash(&fs, store, seed);
        assert_eq!(picture(&store, id), now, "{seed}");
    }
}

#[test]
fn what_limits_took_stays_away_once_something_was_removed_for_good() {
    for kept in 0..4 {
        let fs = SimFs::new(kept);
        let (mut store, _) = open(&fs, 1);
        let id = store
            .create_stream("S", b"", Backing::File, StreamSeq(1), UnixNanos(0))
            .unwrap();
        for subject in ["a", "b", "a", "a"] {
            append(&mut store, id, subject, b"old");
        }
        commit(&mut store);
        // A limit takes the first, and a roll-up the others of its subject.
        assert_eq!(store.remove_below(id, StreamSeq(2)).unwrap(), 1);
        let by = append(&mut store, id, "a", b"new");
        store.settle_front(id).unwrap();
        for seq in [3, 4] {
            assert!(store.displace(id, StreamSeq(seq), by).unwrap());
        }
        commit(&mut store);
        drop(store);
        fs.crash(kept);
        let (store, _) = open(&fs, 2);
        let id = id_of(&store, "S").unwrap();
        assert_eq!(
            store.last_match(id, &SubjectFilter::new(&["b"])),
            Some(StreamSeq(2))
        );
        assert_eq!(store.state(id).first_seq, StreamSeq(2), "crash {kept}");
        assert_eq!(
            store.count_matching(id, &SubjectFilter::new(&["a"]), StreamSeq(1)),
            1
        );
    }
}

/// The same for segments that went whole: the metadata that says so is written after the roll-up's removals.
#[test]
fn a_power_cut_between_frames_and_metadata_brings_nothing_back_behind_a_roll_up() {
    let mut is_done = false;
    for changes in 0.. {
        for seed in 0..4 {
            let fs = SimFs::new(seed);
            let (mut store, id) = with_stream(&fs);
            for n in 0..200 {
                let subject = if n % 50 == 7 { "a" } else { "b" };
                append(&mut store, id, subject, &[1; 100]);
                commit(&mut store);
            }
            // A limit takes the first of its subject, and a roll-up the others.
            store.remove_below(id, StreamSeq(50)).unwrap();
            let by = append(&mut store, id, "a", b"new");
            store.settle_front(id).unwrap();
            for seq in [58, 108, 158] {
                assert!(store.displace(id, StreamSeq(seq), by).unwrap());
            }
            fs.cut_power_after(changes);
            drop(store.commit());
            is_done = !fs.is_dark();
            drop(store);
            fs.crash(seed);
            let (store, _) = open(&fs, 2);
            let id = id_of(&store, "S").unwrap();
            let is_there = |seq| store.read(id, StreamSeq(seq)).unwrap().is_some();
            assert!(!is_there(8) || is_there(58), "{changes} changes, seed {seed}");
        }
        if is_done {
            break;
        }
    }
    assert!(is_done);
}
