//! What a census may change: nothing but the time that a start takes.

use std::path::{Path, PathBuf};

use proptest::prelude::*;

use super::file::{HEADER_BYTES, Reader, Subject, Writer};
use super::{FILE, Member, NEW_FILE};
use crate::env::Fs;
use crate::env::sim::SimFs;
use crate::store::format::{SUBJECTS_MAGIC, VERSION, prefix};
use crate::store::{
    Backing, NewRecord, Store, StoreError, StoreOptions, StreamState, SubjectFilter, SubjectSummary,
};
use crate::types::{MonoNanos, StreamId, StreamSeq, UnixNanos};

const DIR: &str = "/data/store";
const SECOND: u64 = 1_000_000_000;

fn try_open(fs: &SimFs) -> Result<Store<SimFs>, StoreError> {
    let options = StoreOptions {
        segment_bytes_min: 4096,
        segment_bytes_max: 4096,
        reserve_bytes: 0,
        census_subjects_min: 4,
        ..StoreOptions::new(7)
    };
    Store::open(fs.clone(), Path::new(DIR), options).map(|(store, report)| {
        assert_eq!(report.lost, []);
        store
    })
}

fn open(fs: &SimFs) -> (Store<SimFs>, StreamId) {
    let store = try_open(fs).unwrap();
    let id = store.streams().next().unwrap().0;
    (store, id)
}

fn append(store: &mut Store<SimFs>, id: StreamId, count: u64) {
    for _ in 0..count {
        let seq = store.state(id).last_seq.0 + 1;
        let record = NewRecord {
            time: UnixNanos(seq as i64),
            subject: &format!("plant.{}.sensor.{}", seq % 3, seq * seq % 41),
            headers: b"",
            payload: &[1; 60],
        };
        store.append(id, &record).unwrap();
    }
    assert!(store.commit().failed.is_empty());
}

/// Lets seconds pass: what is due in the background is done.
fn pass(store: &mut Store<SimFs>, seconds: std::ops::Range<u64>) {
    for second in seconds {
        store.tend(UnixNanos(0), MonoNanos(second * SECOND));
    }
}

/// A store of a dozen segments with a census; one record is removed, in the middle.
fn counted() -> (SimFs, Store<SimFs>, StreamId) {
    let fs = SimFs::new(3);
    let mut store = try_open(&fs).unwrap();
    let id = store
        .create_stream("S", b"", Backing::File, StreamSeq(1), UnixNanos(0))
        .unwrap();
    append(&mut store, id, 600);
    assert!(store.remove(id, StreamSeq(100)).unwrap());
    append(&mut store, id, 60);
    pass(&mut store, 0..12);
    assert!(members(&store, id) > 8, "it is taken step by step");
    (fs, store, id)
}

fn members(store: &Store<SimFs>, id: StreamId) -> usize {
    store.streams[&id].census.members.len()
}

fn path() -> PathBuf {
    Path::new(DIR).join("streams/S").join(FILE)
}

fn names(fs: &SimFs, suffix: &str) -> Vec<String> {
    let files = fs.files().into_iter().map(|(path, _)| path);
    let names = files.map(|path| path.file_name().unwrap().to_string_lossy().into_owned());
    names.filter(|name| name.ends_with(suffix)).collect()
}

type Answers = (StreamState, Vec<SubjectSummary>);

fn answers(store: &Store<SimFs>, id: StreamId) -> Answers {
    (store.state(id), store.subjects(id, &SubjectFilter::all()))
}

/// Whether the next start uses the census; the answers have to be `expected` in any case.
fn is_used(fs: &SimFs, expected: &Answers) -> bool {
    let fs = fs.fork();
    fs.kill();
    let (store, id) = open(&fs);
    assert_eq!(&answers(&store, id), expected);
    members(&store, id) > 0
}

#[test]
fn a_start_uses_it_and_knows_the_same_without() {
    let (fs, store, id) = counted();
    let expected = answers(&store, id);
    drop(store);
    assert!(is_used(&fs, &expected));
    fs.remove(&path()).unwrap();
    assert!(!is_used(&fs, &expected));
}

#[test]
fn segments_that_come_and_go_are_added_and_taken_off() {
    let (fs, mut store, id) = counted();
    store.remove_below(id, StreamSeq(75)).unwrap();
    // Their subjects are taken off, and they go with the next commit.
    pass(&mut store, 0..1);
    append(&mut store, id, 100);
    let expected = answers(&store, id);
    assert!(is_used(&fs, &expected));
    let segments = names(&fs, ".seg");
    let left: Vec<String> = names(&fs, ".idx")
        .into_iter()
        .filter(|name| !segments.contains(&name.replace(".idx", ".seg")))
        .collect();
    assert!(!left.is_empty(), "indexes of segments that are gone are kept");
    let without = fs.fork();
    without.remove(&path().with_file_name(&left[0])).unwrap();
    assert!(!is_used(&without, &expected), "without them it cannot be used");
    append(&mut store, id, 400);
    store.remove_below(id, StreamSeq(150)).unwrap();
    append(&mut store, id, 1);
    pass(&mut store, 12..40);
    let expected = answers(&store, id);
    assert!(is_used(&fs, &expected));
    let segments = names(&fs, ".seg");
    let kept = names(&fs, ".idx");
    let mut left = kept
        .iter()
        .filter(|name| !segments.contains(&name.replace(".idx", ".seg")));
    assert_eq!(left.next(), None, "a census without them takes them away");
}

#[test]
fn a_replaced_segment_is_not_taken_for_the_one_that_was_counted() {
    let (fs, store, id) = counted();
    let expected = answers(&store, id);
    drop(store);
    let (_, found) = Reader::open(&fs, &path(), incarnation(&fs)).unwrap().unwrap();
    for number in [0, found.len() / 2] {
        let fs = fs.fork();
        let mut members = found.clone();
        members[number].salt ^= 1;
        rewrite(&fs, &members);
        assert!(!is_used(&fs, &expected));
    }
}

/// The incarnation that the file of the census has.
fn incarnation(fs: &SimFs) -> u64 {
    let bytes = fs.contents(&path()).unwrap();
    u64::from_le_bytes(bytes[16..24].try_into().unwrap())
}

/// Writes the census again as if it counted `members`.
fn rewrite(fs: &SimFs, members: &[Member]) {
    let (mut reader, _) = Reader::open(fs, &path(), incarnation(fs)).unwrap().unwrap();
    let new = path().with_file_name(NEW_FILE);
    let mut writer = Writer::new(fs.create(&new).unwrap(), incarnation(fs), members).unwrap();
    let mut subject = Subject::default();
    while reader.next(&mut subject).unwrap() {
        writer.push(&subject).unwrap();
    }
    writer.finish().unwrap();
    fs.rename(&new, &path()).unwrap();
}

#[test]
fn whatever_is_damaged_in_it_the_answers_stay() {
    let (fs, store, id) = counted();
    let expected = answers(&store, id);
    drop(store);
    let len = fs.contents(&path()).unwrap().len();
    for at in 0..len {
        let damaged = fs.fork();
        damaged.edit(&path(), |bytes| bytes[at] ^= 1 << (at % 8));
        assert!(!is_used(&damaged, &expected), "byte {at}");
    }
    for cut in [0, 7, HEADER_BYTES, len - 1] {
        let damaged = fs.fork();
        damaged.edit(&path(), |bytes| bytes.truncate(cut));
        assert!(!is_used(&damaged, &expected), "cut to {cut}");
    }
}

#[test]
fn a_damaged_one_is_taken_anew() {
    let (fs, store, id) = counted();
    let expected = answers(&store, id);
    drop(store);
    fs.edit(&path(), |bytes| bytes[HEADER_BYTES + 3] ^= 1);
    fs.kill();
    let (mut store, _) = open(&fs);
    pass(&mut store, 0..12);
    assert!(is_used(&fs, &expected));
}

#[test]
fn the_power_may_fail_whenever_one_is_taken() {
    let mut was_whole = false;
    for changes in 0.. {
        let (fs, mut store, id) = counted();
        store.remove_below(id, StreamSeq(75)).unwrap();
        append(&mut store, id, 400);
        let expected = answers(&store, id);
        fs.cut_power_after(changes);
        pass(&mut store, 12..16);
        let is_over = fs.create(Path::new("/data/probe")).is_ok();
        drop(store);
        fs.crash(changes);
        was_whole |= is_used(&fs, &expected);
        fs.kill();
        let (_, _) = open(&fs);
        assert_eq!(names(&fs, NEW_FILE), [""; 0]);
        if is_over {
            break;
        }
    }
    assert!(was_whole);
}

#[test]
fn one_of_a_newer_version_is_refused_and_named() {
    let (fs, store, _) = counted();
    drop(store);
    fs.edit(&path(), |bytes| {
        bytes[..16].copy_from_slice(&prefix(SUBJECTS_MAGIC, VERSION + 1))
    });
    fs.kill();
    let err = try_open(&fs).map(drop).unwrap_err();
    assert!(matches!(err, StoreError::NewerVersion { file, .. } if file == path()));
}

fn write(fs: &SimFs, path: &Path, members: &[Member], subjects: &[Subject]) {
    let mut writer = Writer::new(fs.create(path).unwrap(), 9, members).unwrap();
    subjects.iter().for_each(|subject| writer.push(subject).unwrap());
    assert_eq!(writer.finish().unwrap(), subjects.len() as u64);
}

fn member(id: u64) -> Member {
    Member {
        id,
        base: 0x0102_0304_0506_0708,
        salt: 0x1112_1314,
        fingerprint: 0x2122_2324,
        records: 3,
        subjects: 2,
    }
}

fn subject(name: &str, records: u64, first: u64, last: u64) -> Subject {
    Subject {
        name: name.to_owned(),
        records,
        first,
        last,
    }
}

#[test]
fn golden_bytes() {
    let fs = SimFs::new(1);
    let path = Path::new("/golden");
    write(
        &fs,
        path,
        &[member(5)],
        &[subject("a.b", 2, 7, 300), subject("a.c", 1, 9, 9)],
    );
    let bytes = fs.contents(path).unwrap();
    let hex: Vec<String> = bytes
        .chunks(16)
        .map(|line| line.iter().map(|byte| format!("{byte:02x}")).collect())
        .collect();
    expect_test::expect![[r#"
        5441524e5355420a01000000450907e2
        09000000000000000200000000000000
        03000000000000007b00000000000000
        010000000000000000000000c56acbc7
        05000000000000000807060504030201
        14131211242322210300000002000000
        3115ba2a130000000003612e620207a5
        02020163010900369320cf"#]]
    .assert_eq(&hex.join("\n"));
}

proptest! {
    #[test]
    fn what_was_written_is_read(names in prop::collection::btree_map("[a-c.]{1,9}|[x-z]{40,70}", (1u64..9, 0u64..1 << 40, 0u64..99), 0..400), big in 0usize..3) {
        let fs = SimFs::new(1);
        let path = Path::new("/list");
        let mut subjects: Vec<Subject> = names
            .iter()
            .map(|(name, (records, first, more))| subject(name, *records, *first, first + more))
            .collect();
        for number in 0..big {
            subjects.push(subject(&format!("~{number}{}", "n".repeat(60_000)), 1, 1, 1));
        }
        write(&fs, path, &[member(1), member(4)], &subjects);
        let (mut reader, members) = Reader::open(&fs, path, 9).unwrap().unwrap();
        prop_assert_eq!(members, [member(1), member(4)]);
        let (mut found, mut next) = (Vec::new(), Subject::default());
        while reader.next(&mut next).unwrap() {
            found.push(next.clone());
        }
        prop_assert_eq!(found, subjects);
        prop_assert!(Reader::open(&fs, path, 8).unwrap().is_none(), "of another stream");
    }

    #[test]
    fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let fs = SimFs::new(1);
        let path = Path::new("/list");
        write(&fs, path, &[member(1)], &[subject("a", 1, 1, 1)]);
        fs.edit(path, |file| {
            let at = file.len() - bytes.len().min(file.len());
            let len = file.len() - at;
            file[at..].copy_from_slice(&bytes[..len]);
        });
        if let Ok(Some((mut reader, _))) = Reader::open(&fs, path, 9) {
            let mut next = Subject::default();
            while reader.next(&mut next).unwrap_or(false) {}
        }
    }
}
