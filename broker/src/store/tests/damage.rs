//! Torn writes and flipped bits.

use std::path::{Path, PathBuf};

use super::super::format::{INDEX_MAGIC, META_MAGIC, PACKED_VERSION, SEGMENT_MAGIC, VERSION, prefix};
use super::super::{Backing, Store, StoreError, StoreOptions, SubjectFilter};
use super::{append, commit, id_of, open, try_open};
use crate::env::sim::{SimFs, SplitMix};
use crate::types::{StreamId, StreamSeq, UnixNanos};

/// Flips of one run of the tests; `TARN_FLIPS` overrides.
const FLIPS: u64 = 1_000;

fn create(store: &mut Store<SimFs>) -> StreamId {
    store
        .create_stream("S", b"config", Backing::File, StreamSeq(1), UnixNanos(5))
        .unwrap()
}

fn payload_of(seq: u64) -> Vec<u8> {
    vec![seq as u8; 20 + (seq as usize * 37) % 150]
}

fn segments(fs: &SimFs) -> Vec<PathBuf> {
    let files = fs.files().into_iter().map(|(path, _)| path);
    files
        .filter(|path| path.extension().is_some_and(|ext| ext == "seg"))
        .collect()
}

#[test]
fn a_torn_write_leaves_exactly_the_confirmed_prefix() {
    let fs = SimFs::new(1);
    let (mut store, _) = open(&fs, 1);
    let id = create(&mut store);
    for seq in 1..=4 {
        append(&mut store, id, "a", &payload_of(seq));
    }
    commit(&mut store);
    let path = segments(&fs).remove(0);
    let before = fs.contents(&path).unwrap();
    for seq in 5..=8 {
        append(&mut store, id, "a", &payload_of(seq));
    }
    commit(&mut store);
    drop(store);
    let after = fs.contents(&path).unwrap();
    let changed: Vec<usize> = (0..after.len()).filter(|&at| before[at] != after[at]).collect();
    let (start, end) = (changed[0], changed[changed.len() - 1] + 1);
    for at in start..=end {
        let prefix: Vec<u8> = [&after[..at], &before[at..]].concat();
        let (last, _) = check_torn(&fs, &path, &prefix);
        assert!(
            (4..=8).contains(&last) && (at < end || last == 8),
            "cut at {at}: {last}"
        );
        if at > start {
            let suffix: Vec<u8> = [&before[..at], &after[at..]].concat();
            let (last, torn) = check_torn(&fs, &path, &suffix);
            assert_eq!(last, if at == start { 8 } else { 4 }, "only what follows {at}");
            assert!(torn > 0 || at + 60 > start, "what was cut is counted");
        }
    }
}

/// Opens a store whose segment is `content`, appends, commits, opens again. Returns the last position found first, and
/// the bytes that were cut.
fn check_torn(fs: &SimFs, path: &Path, content: &[u8]) -> (u64, u64) {
    let fs = fs.fork();
    fs.kill();
    fs.edit(path, |bytes| *bytes = content.to_vec());
    let (mut store, report) = open(&fs, 2);
    assert_eq!(report.lost, []);
    let id = id_of(&store, "S").unwrap();
    let last = store.state(id).last_seq.0;
    assert_eq!(append(&mut store, id, "a", b"next"), StreamSeq(last + 1));
    commit(&mut store);
    drop(store);
    let (store, again) = open(&fs, 3);
    assert_eq!(again.torn_bytes, 0, "what was cut does not come back");
    let id = id_of(&store, "S").unwrap();
    assert_eq!(store.state(id).last_seq.0, last + 1);
    for seq in 1..=last {
        assert_eq!(
            store.read(id, StreamSeq(seq)).unwrap().unwrap().payload,
            payload_of(seq)
        );
    }
    assert_eq!(
        &store.read(id, StreamSeq(last + 1)).unwrap().unwrap().payload[..],
        b"next"
    );
    (last, report.torn_bytes)
}

/// A store with everything in it: several segments, removals, a purge, a skipped range, consumers.
pub(super) fn rich_store(clean: bool) -> SimFs {
    rich_store_of(clean, false)
}

/// The same; its records are packed, but for the short ones.
pub(super) fn packed_store(clean: bool) -> SimFs {
    rich_store_of(clean, true)
}

fn rich_store_of(clean: bool, is_packed: bool) -> SimFs {
    let fs = SimFs::new(1);
    let (mut store, _) = open(&fs, 1);
    let id = create(&mut store);
    store.set_packed(id, is_packed);
    for seq in 1..=120u64 {
        append(
            &mut store,
            id,
            if seq % 3 == 0 { "a" } else { "b.c" },
            &payload_of(seq),
        );
        if seq % 7 == 0 {
            commit(&mut store);
        }
        if seq % 20 == 0 {
            assert!(store.remove(id, StreamSeq(seq - 5)).unwrap());
        }
        if seq == 30 {
            store.purge(id, StreamSeq(4)).unwrap();
            store.put_consumer(id, "c", b"config").unwrap();
        }
    }
    store.put_consumer_state(id, "c", b"older").unwrap();
    commit(&mut store);
    store.put_consumer_state(id, "c", b"newer").unwrap();
    append(&mut store, id, "a", &payload_of(121));
    append(&mut store, id, "a", &payload_of(122));
    commit(&mut store);
    store.settle();
    if clean {
        assert!(store.close().failed.is_empty());
    }
    fs.kill();
    fs
}

fn is_removed(seq: u64) -> bool {
    seq < 4 || (seq <= 115 && (seq + 5).is_multiple_of(20))
}

#[test]
fn a_flipped_bit_costs_at_most_one_record_and_is_counted() {
    let flips = std::env::var("TARN_FLIPS")
        .ok()
        .map_or(FLIPS, |text| text.parse().unwrap());
    let stores = [
        rich_store(true),
        rich_store(false),
        packed_store(true),
        packed_store(false),
    ];
    let mut rng = SplitMix::new(7);
    let mut losses = 0;
    for flip in 0..flips {
        let fs = stores[(flip % 4) as usize].fork();
        let files = fs.files();
        let (path, len) = &files[rng.below(files.len() as u64) as usize];
        if *len == 0 {
            continue;
        }
        let bit = rng.below(len * 8);
        fs.flip_bit(path, bit);
        losses += check_flipped(&fs, &format!("bit {bit} of {}", path.display()));
    }
    assert!(losses > flips / 20, "{losses} of {flips} flips hit a record");
}

/// Returns the number of records lost.
fn check_flipped(fs: &SimFs, what: &str) -> u64 {
    let (mut store, report) = try_open(fs, 2).unwrap_or_else(|err| panic!("{what}: {err}"));
    let id = id_of(&store, "S").unwrap_or_else(|| panic!("{what}: the stream is gone"));
    let (mut missing, mut found_by_reading) = (Vec::new(), Vec::new());
    for seq in 1..=122u64 {
        let record = store.read(id, StreamSeq(seq)).unwrap_or_else(|err| {
            // In a sealed segment damage is found when it is read.
            assert!(matches!(err, StoreError::Damaged { .. }), "{what}: {err}");
            found_by_reading.push(seq);
            None
        });
        match record {
            Some(record) => {
                assert!(!is_removed(seq), "{what}: removed record {seq} came back");
                assert_eq!(record.payload, payload_of(seq), "{what}: record {seq} changed");
                assert_eq!(
                    &*record.subject,
                    if seq % 3 == 0 || seq > 120 { "a" } else { "b.c" }
                );
            }
            None if is_removed(seq) => {}
            None => missing.push(seq),
        }
    }
    assert!(missing.len() <= 1, "{what}: cost {missing:?}");
    let counted = report.lost.iter().map(|lost| lost.range.first.0);
    let counted: Vec<u64> = counted.chain(found_by_reading).collect();
    assert_eq!(counted, missing, "{what}: each loss is counted, and nothing else");
    commit(&mut store);
    let state = store.state(id);
    assert_eq!(
        (state.lost, store.health().lost),
        (missing.len() as u64, missing.len() as u64)
    );
    assert_eq!(state.last_seq, StreamSeq(122), "{what}: positions never go back");
    let (_, meta) = store.streams().next().unwrap();
    assert_eq!(&meta.config[..], b"config", "{what}");
    let (name, config, state) = store
        .consumers(id)
        .next()
        .unwrap_or_else(|| panic!("{what}: no consumer"));
    assert_eq!((name, config), ("c", &b"config"[..]), "{what}");
    let repaired = report.metadata_repaired > 0;
    assert!(
        state == b"newer" || (state == b"older" && repaired),
        "{what}: state {state:?}"
    );
    missing.len() as u64
}

#[test]
fn damage_found_when_reading_is_counted_and_costs_one_record() {
    let fs = SimFs::new(1);
    let (mut store, _) = open(&fs, 1);
    let id = create(&mut store);
    for seq in 1..=5 {
        append(&mut store, id, "a", &payload_of(seq));
    }
    commit(&mut store);
    let path = segments(&fs).remove(0);
    let at = fs
        .contents(&path)
        .unwrap()
        .windows(40)
        .position(|bytes| bytes == [3; 40])
        .unwrap();
    fs.flip_bit(&path, at as u64 * 8);
    for _ in 0..2 {
        let damaged = store.read(id, StreamSeq(3));
        assert!(matches!(
            damaged,
            Err(StoreError::Damaged {
                seq: StreamSeq(3),
                ..
            })
        ));
    }
    append(&mut store, id, "a", &payload_of(6));
    commit(&mut store);
    assert_eq!((store.state(id).lost, store.state(id).messages), (1, 5));
    assert!(store.read(id, StreamSeq(3)).unwrap().is_none());
    assert_eq!(
        store.next_match(id, &SubjectFilter::all(), StreamSeq(3)),
        Some(StreamSeq(4))
    );
    assert_eq!(
        store.read(id, StreamSeq(4)).unwrap().unwrap().payload,
        payload_of(4)
    );
}

#[test]
fn positions_that_something_durable_refers_to_count_as_lost_and_are_not_given_again() {
    let fs = SimFs::new(1);
    let (mut store, _) = open(&fs, 1);
    let id = create(&mut store);
    for seq in 1..=3 {
        append(&mut store, id, "a", &payload_of(seq));
    }
    commit(&mut store);
    drop(store);
    fs.kill();
    let (mut store, _) = open(&fs, 2);
    let id = id_of(&store, "S").unwrap();
    store.raise_over_lost(id, StreamSeq(2)).unwrap();
    assert_eq!(store.state(id).lost, 0);
    store.raise_over_lost(id, StreamSeq(5)).unwrap();
    assert_eq!(
        (store.state(id).lost, store.state(id).last_seq),
        (2, StreamSeq(5))
    );
    assert_eq!(store.durable_seq(id), StreamSeq(5));
    commit(&mut store);
    drop(store);
    fs.crash(1);
    for round in 0..2 {
        let (mut store, report) = open(&fs, 3 + round);
        let id = id_of(&store, "S").unwrap();
        let lost: Vec<_> = report
            .lost
            .iter()
            .map(|lost| (lost.range.first.0, lost.range.last.0))
            .collect();
        assert_eq!(lost, [(4, 5)]);
        assert_eq!(append(&mut store, id, "a", b"next"), StreamSeq(6 + round));
        commit(&mut store);
        drop(store);
        fs.kill();
    }
}

#[test]
fn segments_that_are_set_aside_and_removed_are_counted() {
    let fs = rich_store(true);
    let path = segments(&fs).remove(1);
    fs.edit(&path, |bytes| bytes[..1024].fill(1));
    let removed = |max| {
        let options = StoreOptions {
            damaged_bytes_max: max,
            ..super::small(2)
        };
        let fs = fs.fork();
        let (store, report) = Store::open(fs.clone(), Path::new(super::DIR), options).unwrap();
        let set_aside = fs.files().into_iter();
        let set_aside = set_aside.filter(|(path, _)| path.extension().is_some_and(|ext| ext == "damaged"));
        assert_eq!(store.figures().set_aside_removed, report.set_aside_removed);
        (report.set_aside_removed, set_aside.count())
    };
    assert_eq!(removed(1 << 20), (0, 1));
    assert_eq!(removed(0), (1, 0));
}

#[test]
fn a_lost_sector_costs_the_records_in_it() {
    let fs = rich_store(true);
    let path = segments(&fs).remove(0);
    fs.edit(&path, |bytes| bytes[2048..2560].fill(0));
    let (mut store, _) = open(&fs, 2);
    let id = id_of(&store, "S").unwrap();
    let there = (1..=122)
        .filter(|&seq| {
            store
                .read(id, StreamSeq(seq))
                .is_ok_and(|record| record.is_some())
        })
        .count() as u64;
    commit(&mut store);
    let lost = store.state(id).lost;
    assert!((1..12).contains(&lost), "{lost}");
    assert_eq!(store.state(id).last_seq, StreamSeq(122));
    assert_eq!(
        there + lost,
        (1..=122).filter(|&seq| !is_removed(seq)).count() as u64
    );
}

/// Every answer that depends on the index.
fn answers(store: &Store<SimFs>) -> String {
    let id = id_of(store, "S").unwrap();
    let mut out = format!("{:?} {:?}", store.state(id), store.deleted(id));
    for patterns in [&[][..], &["a"], &["b.c"], &["*.c"], &["b.>", "a"]] {
        let filter = SubjectFilter::new(patterns);
        for from in (0..=123).step_by(3).map(StreamSeq) {
            let (next, count) = (
                store.next_match(id, &filter, from),
                store.count_matching(id, &filter, from),
            );
            let time = store.seq_at_or_after(id, UnixNanos(1_000 + from.0 as i64));
            out.push_str(&format!(" {next:?} {count} {time:?}"));
        }
        out.push_str(&format!(
            " {:?} {:?}",
            store.last_match(id, &filter),
            store.subjects(id, &filter)
        ));
    }
    out
}

#[test]
fn a_damaged_index_costs_nothing_and_is_made_anew() {
    let fs = rich_store(true);
    let is_index = |path: &Path| path.extension().is_some_and(|ext| ext == "idx");
    let (path, len) = fs.files().into_iter().find(|(path, _)| is_index(path)).unwrap();
    let whole = fs.contents(&path).unwrap();
    let expected = answers(&open(&fs, 2).0);
    fs.kill();
    let (mut rebuilt, mut healed) = (0, 0);
    for bit in (0..len * 8).step_by(5) {
        let damaged = fs.fork();
        damaged.flip_bit(&path, bit);
        let (store, report) = open(&damaged, 2);
        assert_eq!(answers(&store), expected, "bit {bit} flipped before the start");
        rebuilt += report.indexes_rebuilt;
        healed += u64::from(damaged.contents(&path).unwrap() == whole);
        drop(store);
        if bit % 11 != 0 {
            continue;
        }
        damaged.kill();
        let (store, report) = open(&damaged, 2);
        assert_eq!(report.lost, []);
        damaged.flip_bit(&path, bit);
        assert_eq!(answers(&store), expected, "bit {bit} flipped under way");
    }
    assert!(
        rebuilt > 100,
        "damage to the header shows at the start: {rebuilt}"
    );
    assert!(
        healed > len * 8 / 5 * 9 / 10,
        "what is asked for is made anew: {healed}"
    );
    for cut in [0, 7, 100, len - 1] {
        let damaged = fs.fork();
        damaged.edit(&path, |bytes| bytes.truncate(cut as usize));
        assert_eq!(answers(&open(&damaged, 2).0), expected, "cut to {cut}");
    }
}

#[test]
fn a_segment_damaged_with_its_index_stops_the_stream_until_it_is_opened_again() {
    let fs = rich_store(true);
    let index = segments(&fs).remove(0).with_extension("idx");
    let options = StoreOptions {
        index_cache_bytes: 0,
        ..super::small(2)
    };
    let (mut store, _) = Store::open(fs.clone(), Path::new(super::DIR), options).unwrap();
    let id = id_of(&store, "S").unwrap();
    fs.edit(&index, |bytes| bytes[260..].fill(0xaa));
    fs.edit(&segments(&fs).remove(0), |bytes| bytes[2048..2560].fill(0));
    let there = (1..=122).filter(|&seq| store.read(id, StreamSeq(seq)).is_ok_and(|found| found.is_some()));
    assert!(there.count() < 122, "what cannot be read is not made up");
    append(&mut store, id, "a", b"next");
    let report = store.commit();
    assert!(
        matches!(report.failed[..], [(_, StoreError::Broken { .. })]),
        "{report:?}"
    );
    drop(store);
    fs.kill();
    let (store, report) = open(&fs, 3);
    let id = id_of(&store, "S").unwrap();
    assert!(
        report.indexes_rebuilt == 1 && !report.lost.is_empty(),
        "{report:?}"
    );
    assert_eq!(
        store.state(id).last_seq,
        StreamSeq(123),
        "what was committed is there"
    );
    let there = (1..=122).filter(|&seq| store.read(id, StreamSeq(seq)).unwrap().is_some());
    let expected = (1..=122).filter(|&seq| !is_removed(seq)).count() as u64;
    assert_eq!(there.count() as u64 + store.state(id).lost, expected);
}

#[test]
fn files_of_a_newer_version_are_refused_and_named() {
    let metas = [
        "store.0",
        "store.1",
        "streams/S/meta.0",
        "streams/S/consumers/c.1",
    ];
    let metas = metas.map(|name| (Path::new(super::DIR).join(name), META_MAGIC));
    let segment = (segments(&rich_store(true)).remove(0), SEGMENT_MAGIC);
    let index = (segment.0.with_extension("idx"), INDEX_MAGIC);
    for (path, magic) in metas.into_iter().chain([segment, index]) {
        let supported = if magic == META_MAGIC {
            VERSION
        } else {
            PACKED_VERSION
        };
        let fs = rich_store(true);
        fs.edit(&path, |bytes| {
            bytes[..16].copy_from_slice(&prefix(magic, supported + 1))
        });
        let err = try_open(&fs, 2).map(drop).unwrap_err();
        let expected = format!(
            "{} has format version {}, this program reads up to {supported}",
            path.display(),
            supported + 1
        );
        assert!(err.to_string().starts_with(&expected), "{err}");
    }
}

#[test]
fn a_stream_whose_metadata_is_gone_is_not_thrown_away() {
    let fs = rich_store(true);
    for name in ["meta.0", "meta.1"] {
        fs.edit(&Path::new(super::DIR).join("streams/S").join(name), |bytes| {
            bytes.fill(0)
        });
    }
    let err = try_open(&fs, 2).map(drop).unwrap_err();
    assert!(matches!(err, StoreError::Broken { .. }));
    assert!(
        err.to_string()
            .starts_with("/data/store/streams/S/meta.0 is broken: neither copy"),
        "{err}"
    );
    assert!(!segments(&fs).is_empty());
}
