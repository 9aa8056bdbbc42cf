//! Streams whose records are packed: everything but the disk is as without.

use std::path::{Path, PathBuf};

use super::super::format::{DATA_START, PACKED_VERSION, SegmentHeader, VERSION};
use super::super::record::{self, FLAG_PACKED, Frame, Kind, padded};
use super::super::{Backing, NewRecord, Severity, Store, StoreError, StoreOptions, verify};
use super::model::{ModelStream, Sent, check_answers};
use super::{DIR, append, commit, id_of, open, small, try_open};
use crate::env::Rng;
use crate::env::sim::{SimFs, SplitMix};
use crate::types::{MonoNanos, StreamId, StreamSeq, UnixNanos};

fn create(store: &mut Store<SimFs>, backing: Backing) -> StreamId {
    store
        .create_stream("S", b"", backing, StreamSeq(1), UnixNanos(5))
        .unwrap()
}

fn segments(fs: &SimFs) -> Vec<PathBuf> {
    let files = fs.files().into_iter().map(|(path, _)| path);
    files
        .filter(|path| path.extension().is_some_and(|ext| ext == "seg"))
        .collect()
}

fn header(fs: &SimFs, path: &Path) -> SegmentHeader {
    let id = u64::from_str_radix(path.file_stem().unwrap().to_str().unwrap(), 16).unwrap();
    let bytes = fs.contents(path).unwrap();
    SegmentHeader::decode(&bytes, id, path).unwrap().unwrap().0
}

/// Shows each record in a segment, with its place.
fn for_records(fs: &SimFs, path: &Path, mut visit: impl FnMut(usize, &Frame<'_>)) {
    let (bytes, header) = (fs.contents(path).unwrap(), header(fs, path));
    let mut at = DATA_START as usize;
    while let Some(frame) = bytes.get(at..).and_then(|rest| record::decode(rest, header.salt)) {
        if frame.head.kind == Kind::Message {
            visit(at, &frame);
        }
        at += padded(frame.len());
    }
}

/// How many records of the store are packed, and how many are not.
fn count(fs: &SimFs) -> (u64, u64) {
    let (mut packed, mut raw) = (0, 0);
    for path in segments(fs) {
        for_records(fs, &path, |_, frame| match frame.packed {
            Some(_) => packed += 1,
            None => raw += 1,
        });
    }
    (packed, raw)
}

/// A store and what it should hold.
struct Bench {
    fs: SimFs,
    store: Store<SimFs>,
    id: StreamId,
    model: ModelStream,
}

impl Bench {
    fn new(seed: u64) -> Self {
        let fs = SimFs::new(seed);
        let (mut store, _) = open(&fs, seed);
        let id = create(&mut store, Backing::File);
        let model = ModelStream::new(1, b"");
        Self { fs, store, id, model }
    }

    fn put(&mut self, subject: &str, headers: &[u8], payload: &[u8]) {
        let time = 1_000 + self.model.last as i64;
        let record = NewRecord {
            time: UnixNanos(time),
            subject,
            headers,
            payload,
        };
        let seq = self.store.append(self.id, &record).unwrap().0;
        let sent = Sent {
            time,
            subject: subject.to_owned(),
            headers: headers.to_vec(),
            payload: payload.to_vec(),
        };
        self.model.records.insert(seq, sent);
        self.model.last = seq;
    }

    fn commit(&mut self) {
        commit(&mut self.store);
        self.model.committed();
    }

    fn remove(&mut self, seq: u64) {
        assert!(self.store.remove(self.id, StreamSeq(seq)).unwrap());
        self.model.remove(seq, true);
    }

    fn reopen(&mut self, salt: u64) {
        let empty = open(&SimFs::new(1), 1).0;
        drop(std::mem::replace(&mut self.store, empty));
        self.fs.kill();
        self.store = try_open(&self.fs, salt).unwrap().0;
        self.id = id_of(&self.store, "S").unwrap();
    }

    fn check(&self) {
        for seq in self.model.live() {
            let found = self.store.read(self.id, StreamSeq(seq)).unwrap().unwrap();
            let sent = &self.model.records[&seq];
            assert_eq!(
                (&*found.subject, &found.headers[..], &found.payload[..]),
                (&*sent.subject, &sent.headers[..], &sent.payload[..]),
                "record {seq}"
            );
        }
        check_answers(&self.model, &self.store, self.id);
    }
}

#[test]
fn packing_changes_with_the_next_segment_and_nothing_else_shows_it() {
    let mut bench = Bench::new(1);
    let mut rng = SplitMix::new(3);
    for round in 0..6u64 {
        bench.store.set_packed(bench.id, round % 2 == 1);
        for _ in 0..120 {
            let headers: &[u8] = if rng.chance(30) {
                b"NATS/1.0\r\nA: bbbbbb\r\n\r\n"
            } else {
                b""
            };
            let mut payload = vec![b'x'; rng.below(300) as usize];
            payload.extend_from_slice(&rng.next_u64().to_le_bytes());
            bench.put(["a", "b.x", "b.y"][rng.below(3) as usize], headers, &payload);
            if rng.chance(10) {
                bench.commit();
            }
        }
        bench.remove(round * 120 + 7);
        bench.commit();
        bench.check();
        if round % 3 == 2 {
            bench.reopen(round);
            bench.check();
        }
    }
    let versions: Vec<u32> = segments(&bench.fs)
        .iter()
        .map(|path| header(&bench.fs, path).version)
        .collect();
    assert!(
        versions.windows(2).filter(|pair| pair[0] != pair[1]).count() >= 4,
        "{versions:?}"
    );
    for path in segments(&bench.fs) {
        let version = header(&bench.fs, &path).version;
        for_records(&bench.fs, &path, |_, frame| {
            assert!(frame.packed.is_none() || version == PACKED_VERSION);
        });
        if let Some(index) = bench.fs.contents(&path.with_extension("idx")) {
            assert_eq!(
                index[8..12],
                version.to_le_bytes(),
                "an index has its segment's version"
            );
        }
    }
    let (packed, raw) = count(&bench.fs);
    assert!(packed > 100 && raw > 200, "{packed} {raw}");
    // The indexes are made anew as they were.
    for path in segments(&bench.fs) {
        bench.fs.edit(&path.with_extension("idx"), |bytes| bytes.fill(0));
    }
    bench.reopen(9);
    bench.check();
}

#[test]
fn a_stream_that_was_never_packed_keeps_the_first_version() {
    let mut bench = Bench::new(1);
    for round in 0..200 {
        bench.put("a", b"", &[round; 200]);
    }
    bench.commit();
    assert!(segments(&bench.fs).len() > 2);
    for path in segments(&bench.fs) {
        assert_eq!(header(&bench.fs, &path).version, VERSION);
    }
    assert_eq!(count(&bench.fs).0, 0);
}

#[test]
fn a_stream_in_memory_is_not_packed() {
    let fs = SimFs::new(1);
    let (mut store, _) = open(&fs, 1);
    let id = create(&mut store, Backing::Memory);
    store.set_packed(id, true);
    append(&mut store, id, "a", &[1; 300]);
    commit(&mut store);
    assert_eq!(
        store.read(id, StreamSeq(1)).unwrap().unwrap().payload,
        vec![1; 300]
    );
    assert_eq!(store.state(id).bytes, 16 + 1 + 300);
}

/// Writes other bytes over the packed body of a record, with the right checksums: what a faulty packer would have written.
fn spoil(fs: &SimFs, seq: u64) {
    for path in segments(fs) {
        let header = header(fs, &path);
        let mut found = None;
        for_records(fs, &path, |at, frame| {
            if frame.head.seq == seq {
                let mut block = frame.payload.to_vec();
                // The length it begins with stays; the first element now copies from before the beginning.
                block[2..].fill(0xff);
                let mut bytes = Vec::new();
                record::encode(
                    &mut bytes,
                    header.salt,
                    frame.head,
                    frame.subject,
                    frame.headers,
                    &block,
                );
                assert!(frame.head.flags & FLAG_PACKED != 0);
                found = Some((at, bytes));
            }
        });
        if let Some((at, bytes)) = found {
            fs.edit(&path, |content| {
                content[at..at + bytes.len()].copy_from_slice(&bytes)
            });
            return;
        }
    }
    panic!("record {seq} is nowhere");
}

#[test]
fn a_body_that_does_not_unpack_is_damage_wherever_it_is_met() {
    let mut bench = Bench::new(1);
    bench.store.set_packed(bench.id, true);
    for round in 0..400u64 {
        bench.put("a", b"", &[&[7; 200][..], &round.to_le_bytes()].concat());
        bench.commit();
    }
    let in_sealed = 5;
    spoil(&bench.fs, in_sealed);
    spoil(&bench.fs, 399);
    for seq in [in_sealed, 399] {
        let err = bench.store.read(bench.id, StreamSeq(seq)).unwrap_err();
        assert!(matches!(err, StoreError::Damaged { seq: found, .. } if found.0 == seq));
    }
    commit(&mut bench.store);
    assert_eq!(bench.store.state(bench.id).lost, 2);
    let kept =
        bench.fs.files().into_iter().filter(|(path, _)| {
            path.ends_with("quarantine") || path.to_string_lossy().contains("/quarantine/")
        });
    assert_eq!(kept.count(), 2);
    bench.reopen(2);
    assert_eq!(
        bench.store.state(bench.id).lost,
        1,
        "of the last segment all is read at a start"
    );
    assert!(bench.store.read(bench.id, StreamSeq(399)).unwrap().is_none());
    // Scrubbing finds the other.
    let mut second = 0;
    while bench.store.figures().scrub_passes == 0 {
        second += 1;
        assert!(second < 1_000);
        bench
            .store
            .tend(UnixNanos(second), MonoNanos(second as u64 * 1_000_000_000));
        commit(&mut bench.store);
    }
    commit(&mut bench.store);
    assert_eq!(bench.store.figures().scrub_damaged, 1);
    assert_eq!(bench.store.state(bench.id).lost, 2);
    let lost: Vec<u64> = bench
        .store
        .lost(bench.id)
        .iter()
        .map(|range| range.first.0)
        .collect();
    assert_eq!(lost, [in_sealed, 399]);
    let fs = bench.fs.fork();
    fs.kill();
    let verdict = verify(&fs, Path::new(DIR), &mut |_| {}).unwrap();
    let lost: Vec<u64> = verdict.streams[0]
        .lost
        .iter()
        .map(|range| range.first.0)
        .collect();
    assert_eq!(lost, [in_sealed, 399]);
    assert!(verdict.findings().any(|found| found.severity == Severity::Damage));
}

#[test]
fn compaction_copies_packed_records_as_they_are() {
    let mut bench = Bench::new(1);
    for round in 0..1_200u64 {
        // Neighbours of both kinds.
        bench.store.set_packed(bench.id, round / 200 % 2 == 0);
        let noise = round.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes();
        bench.put(
            ["a", "b.x"][round as usize % 2],
            b"NATS/1.0\r\n\r\n",
            &[&[7; 90][..], &noise].concat(),
        );
        if round % 5 == 0 {
            bench.commit();
        }
    }
    bench.commit();
    let mut second = 0;
    let mut tend = |bench: &mut Bench, passes: u64| {
        for _ in 0..passes {
            second += 1;
            bench
                .store
                .tend(UnixNanos(second), MonoNanos(second as u64 * 4_000_000_000));
            bench.commit();
        }
    };
    tend(&mut bench, 3);
    let before = count(&bench.fs);
    assert!(before.0 > 300 && before.1 > 300, "{before:?}");
    assert_eq!(bench.store.figures().compacted_segments, 0, "nothing is sparse");
    for seq in (2..1_100).filter(|seq| seq % 8 != 0) {
        bench.remove(seq);
    }
    bench.commit();
    tend(&mut bench, 200);
    let compacted = bench.store.figures().compacted_segments;
    assert!(compacted > 4, "{compacted}");
    let after = count(&bench.fs);
    assert!(
        after.0 > 30 && after.0 < before.0 / 2 && after.1 > 30,
        "{before:?} {after:?}"
    );
    bench.check();
    bench.reopen(2);
    bench.check();
}

#[test]
fn a_packed_segment_that_is_nearly_whole_is_not_called_sparse_nor_a_sparse_one_full() {
    // A hundred times as much raw as stored: if raw bytes were compared with the file, none were ever sparse.
    let fs = SimFs::new(1);
    let options = StoreOptions {
        segment_bytes_max: 4096,
        ..small(1)
    };
    let (mut store, _) = Store::open(fs.clone(), Path::new(DIR), options).unwrap();
    let id = create(&mut store, Backing::File);
    store.set_packed(id, true);
    for _ in 0..300 {
        append(&mut store, id, "a", &[5; 2_000]);
        commit(&mut store);
    }
    for seq in (3..280).filter(|seq| seq % 10 != 0) {
        assert!(store.remove(id, StreamSeq(seq)).unwrap());
    }
    commit(&mut store);
    for second in 1..100 {
        store.tend(UnixNanos(second), MonoNanos(second as u64 * 4_000_000_000));
        commit(&mut store);
    }
    assert!(store.figures().compacted_segments > 3, "{:?}", store.figures());
}

/// Bytes that records of about `len` bytes take in a file, raw and packed. They are like what devices send.
fn sizes(len: usize) -> (usize, usize) {
    let mut rng = SplitMix::new(len as u64);
    let mut packer = super::super::pack::Packer::new();
    let (mut raw, mut stored) = (0, 0);
    for record in 0..200u64 {
        let mut payload = format!(
            r#"{{"device":"meter-{:04}","ts":"2026-03-{:02}T{:02}:{:02}:{:02}.{:03}Z","seq":{record}"#,
            rng.below(10_000),
            1 + rng.below(28),
            rng.below(24),
            rng.below(60),
            rng.below(60),
            rng.below(1000)
        );
        let names = ["temperature", "humidity", "pressure", "voltage", "current"];
        let mut field = 0;
        while payload.len() < len - 40 {
            let (name, group) = (names[field % 5], field / 5);
            payload.push_str(&format!(
                r#","{name}_{group}":{{"value":{}.{:02},"unit":"si","ok":true}}"#,
                rng.below(100),
                rng.below(100)
            ));
            field += 1;
        }
        payload.push('}');
        let body = packer
            .pack(b"", payload.as_bytes())
            .map_or(payload.len(), |(lengths, block)| lengths.len() + block.len());
        raw += padded(record::HEADER_BYTES + 20 + payload.len());
        stored += padded(record::HEADER_BYTES + 20 + body);
    }
    (raw / 200, stored / 200)
}

/// `cargo test -p tarn-broker --lib store::tests::packed::what_packing_saves -- --nocapture` prints the figures of the docs.
#[test]
fn what_packing_saves() {
    // Of short records little repeats within the record, and each is packed by itself.
    for (len, percent_max) in [(200, 100), (1_000, 60), (10_000, 45)] {
        let (raw, stored) = sizes(len);
        let percent = stored * 100 / raw;
        eprintln!("JSON of {len} B: {raw} B in the file, packed {stored} B, {percent} %");
        assert!(percent <= percent_max, "{len}: {percent} %");
    }
}
