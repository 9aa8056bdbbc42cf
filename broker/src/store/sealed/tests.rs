//! The index of a segment against the list of its records.

use std::path::Path;
use std::sync::Mutex;

use expect_test::expect;
use proptest::prelude::*;

use super::super::format::{PACKED_VERSION, SegmentHeader, VERSION};
use super::super::pack::Packer;
use super::super::record::{self, FLAG_PACKED, Head, Kind};
use super::super::state::Notes;
use super::super::table::HAS_HEADERS;
use super::super::tests::hex;
use super::codec::CRC_BYTES;
use super::*;

const HEADER: SegmentHeader = SegmentHeader {
    version: VERSION,
    id: 3,
    base_seq: 100,
    incarnation: 7,
    salt: 0x1234_5678,
    through: 0,
};

/// Bytes of an index, which bits can be flipped in, and how they were once.
struct Bytes {
    now: Mutex<Vec<u8>>,
    then: Vec<u8>,
}

impl Source for std::sync::Arc<Bytes> {
    fn read(&self, buf: &mut [u8], offset: u64) -> std::io::Result<usize> {
        let bytes = self.now.lock().unwrap();
        let rest = &bytes[(offset as usize).min(bytes.len())..];
        let count = rest.len().min(buf.len());
        buf[..count].copy_from_slice(&rest[..count]);
        Ok(count)
    }

    fn rebuild(&self) -> Option<Vec<u8>> {
        Some(self.then.clone())
    }

    fn replace(&self, bytes: &[u8]) -> bool {
        *self.now.lock().unwrap() = bytes.to_vec();
        true
    }

    fn discard(&self) {}
}

#[derive(Clone, Debug)]
struct Sent {
    seq: u64,
    time: i64,
    subject: String,
    headers: &'static [u8],
    offset: u64,
    /// Bytes of payload; what has enough of them is packed.
    payload: usize,
}

/// Records with gaps of 0 to 3 positions, and times that mostly rise.
fn records(subjects: usize, len: usize, gapless: bool) -> impl Strategy<Value = Vec<Sent>> {
    let record = (
        0..subjects,
        0..20u64,
        -2..30i64,
        any::<bool>(),
        prop_oneof![Just(0), 48..5000usize],
    );
    prop::collection::vec(record, 1..len).prop_map(move |all| {
        let (mut seq, mut time, mut offset) = (99, 1_000, 1024);
        let sent = all.into_iter().map(|(subject, gap, step, has_headers, payload)| {
            seq += 1 + if gapless { 0 } else { gap.saturating_sub(16) };
            time += step;
            offset += 320;
            Sent {
                seq,
                time,
                subject: format!("s.{}.{subject}", subject % 7),
                headers: if has_headers { b"NATS/1.0\r\n\r\n" } else { b"" },
                offset,
                payload,
            }
        });
        sent.collect()
    })
}

fn build(sent: &[Sent]) -> Vec<u8> {
    build_of(sent, VERSION)
}

fn build_of(sent: &[Sent], version: u32) -> Vec<u8> {
    let mut packer = Packer::new();
    let notes = Notes {
        version: 5,
        make: |headers, out| {
            out.extend_from_slice(&headers[..4]);
            Some(true)
        },
    };
    let header = SegmentHeader { version, ..HEADER };
    let mut builder = Builder::new(header, 1 << 20, notes);
    for record in sent {
        let payload = vec![b'x'; record.payload];
        let packed = if version == PACKED_VERSION {
            packer.pack(record.headers, &payload)
        } else {
            None
        };
        let (flags, headers, payload) = match &packed {
            Some((lengths, block)) => (FLAG_PACKED, &lengths[..], *block),
            None => (0, record.headers, &payload[..]),
        };
        let head = Head {
            kind: Kind::Message,
            flags,
            seq: record.seq,
            time: record.time,
        };
        let mut buf = Vec::new();
        record::encode(&mut buf, 1, head, record.subject.as_bytes(), headers, payload);
        builder.push(record.offset, &record::decode(&buf, 1).unwrap());
    }
    builder.finish()
}

fn open(bytes: Vec<u8>) -> (SealedIndex, std::sync::Arc<Bytes>) {
    let source = std::sync::Arc::new(Bytes {
        now: Mutex::new(bytes.clone()),
        then: bytes,
    });
    let cache = BlockCache::new(20_000);
    let index = SealedIndex::open(Box::new(source.clone()), &cache, Path::new("x"))
        .unwrap()
        .unwrap();
    (index, source)
}

fn check(index: &SealedIndex, sent: &[Sent], removed: &Bits) {
    assert_eq!(index.len(), sent.len());
    for (place, record) in sent.iter().enumerate() {
        let entry = index.entry(place).unwrap();
        assert_eq!(
            (u64::from(entry.delta) + 100, entry.time),
            (record.seq, record.time)
        );
        assert_eq!(u64::from(entry.offset8) * 8, record.offset);
        assert_eq!(entry.len & HAS_HEADERS != 0, !record.headers.is_empty());
        let raw = record::HEADER_BYTES + record.subject.len() + record.headers.len() + record.payload;
        assert_eq!((entry.len & !HAS_HEADERS) as usize + entry.saved as usize, raw);
        assert!(entry.saved == 0 || index.header.segment.version == PACKED_VERSION);
        assert_eq!(
            index.with_subject(entry.subject, str::to_owned).as_ref(),
            Some(&record.subject)
        );
        assert_eq!(index.seq(place), Some(record.seq));
    }
    let last = sent[sent.len() - 1].seq;
    for seq in 95..last + 3 {
        assert_eq!(
            index.below(seq),
            sent.iter().filter(|record| record.seq < seq).count()
        );
    }
    let mut gaps = Vec::new();
    index.for_gaps(|first, last| gaps.extend(first..=last));
    let expected: Vec<u64> = (sent[0].seq..last)
        .filter(|seq| sent.iter().all(|record| record.seq != *seq))
        .collect();
    assert_eq!(gaps, expected);
    let mut names: Vec<&str> = sent.iter().map(|record| &*record.subject).collect();
    names.sort_unstable();
    names.dedup();
    assert!(index.find("s.0").is_none() && index.find("z").is_none() && index.find("").is_none());
    for prefix in ["", "s.3.", "s.3.1", "t"] {
        let mut found = Vec::new();
        index.for_subjects(prefix, |_, name, _| found.push(name.to_owned()));
        let expected: Vec<&str> = names
            .iter()
            .copied()
            .filter(|name| name.starts_with(prefix))
            .collect();
        assert_eq!(found, expected);
    }
    for name in names {
        let of = |place: &usize| sent[*place].subject == name;
        let places: Vec<usize> = (0..sent.len()).filter(of).collect();
        let found = index.find(name).unwrap();
        assert_eq!(found.count as usize, places.len());
        assert_eq!(u64::from(found.first) + 100, sent[places[0]].seq);
        assert_eq!(u64::from(found.last) + 100, sent[places[places.len() - 1]].seq);
        for from in (0..=sent.len()).step_by(7) {
            let live = |place: &&usize| !removed.contains(**place);
            let next = places.iter().filter(live).find(|place| **place >= from);
            assert_eq!(index.next_of(found, from, removed).as_ref(), next);
            let before = places.iter().filter(live).rfind(|place| **place < from);
            assert_eq!(index.last_of(found, from, removed).as_ref(), before);
        }
    }
    for time in [0, 1_500, 2_000, i64::MAX] {
        let before = index.before_time(time);
        assert!(sent[..before].iter().all(|record| record.time < time));
        assert!(
            before + 256
                > sent
                    .iter()
                    .position(|record| record.time >= time)
                    .unwrap_or(sent.len())
        );
    }
    let mut notes = Vec::new();
    assert!(index.for_notes(|seq, time, is_lasting, note| {
        assert!(is_lasting && note == b"NATS");
        notes.push((seq, time));
    }));
    let with_headers = sent.iter().filter(|record| !record.headers.is_empty());
    assert_eq!(
        notes,
        with_headers
            .map(|record| (record.seq, record.time))
            .collect::<Vec<_>>()
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn agrees_with_the_list_of_records(
        sent in prop_oneof![records(3, 700, true), records(500, 1500, false), records(1, 600, false)],
        removed in prop::collection::vec(0..1500usize, 0..200),
        flips in prop::collection::vec(any::<prop::sample::Index>(), 0..4),
        version in VERSION..=PACKED_VERSION,
    ) {
        let (index, source) = open(build_of(&sent, version));
        let mut gone = Bits::default();
        removed.into_iter().filter(|place| *place < sent.len()).for_each(|place| {
            gone.insert(place, sent.len());
        });
        for flip in flips {
            let mut bytes = source.now.lock().unwrap();
            let bit = flip.index(bytes.len() * 8);
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
        check(&index, &sent, &gone);
        prop_assert!(!index.is_broken());
    }
}

#[test]
fn golden_index() {
    let sent = [(100, "a.b"), (101, "a.c"), (104, "a.b")].map(|(seq, subject)| Sent {
        seq,
        time: 1_700_000_000_000_000_000 + seq as i64,
        subject: subject.to_owned(),
        headers: if seq == 101 { b"NATS/1.0\r\n\r\n" } else { b"" },
        offset: 1024 + (seq - 100) * 64,
        payload: 0,
    });
    let out = hex(&build(&sent));
    expect![[r#"
        54 41 52 4e 49 44 58 0a 01 00 00 00 21 92 98 6c
        03 00 00 00 00 00 00 00 64 00 00 00 00 00 00 00
        07 00 00 00 00 00 00 00 78 56 34 12 05 00 00 00
        00 00 10 00 00 00 00 00 30 05 00 00 00 00 00 00
        68 00 00 00 00 00 00 00 64 00 00 00 00 00 00 00
        68 00 00 00 00 00 00 00 68 00 2a 36 fe 9c 97 17
        68 00 2a 36 fe 9c 97 17 15 00 00 00 00 00 00 00
        03 00 00 00 02 00 00 00 01 00 00 00 01 00 00 00
        00 01 00 00 00 00 00 00 1c 00 00 00 00 00 00 00
        1c 01 00 00 00 00 00 00 10 00 00 00 00 00 00 00
        2c 01 00 00 00 00 00 00 12 00 00 00 00 00 00 00
        3e 01 00 00 00 00 00 00 0b 00 00 00 00 00 00 00
        49 01 00 00 00 00 00 00 10 00 00 00 00 00 00 00
        59 01 00 00 00 00 00 00 04 00 00 00 00 00 00 00
        5d 01 00 00 00 00 00 00 13 00 00 00 00 00 00 00
        00 00 00 00 00 00 00 00 00 00 00 00 49 75 dc ef
        00 80 02 56 00 c8 81 d0 e2 c6 bf ce 97 2f 00 04
        6f 01 02 02 22 56 00 06 63 79 6f dc 80 02 00 d0
        81 d0 e2 c6 bf ce 97 2f dd 94 be af 00 03 61 2e
        62 02 00 04 02 01 63 01 01 00 2f 04 6c 06 ac 02
        00 03 61 2e 62 5f 26 2f 64 00 00 00 00 02 00 00
        00 01 00 00 00 00 5d 45 c5 c1 eb 47 33 01 ca 81
        d0 e2 c6 bf ce 97 2f 09 4e 41 54 53 6b f9 3b 84
    "#]]
    .assert_eq(&out);
    assert_eq!(CRC_BYTES, 4);
}

#[test]
fn golden_entries_of_a_segment_that_may_hold_packed_records() {
    let sent = [(100, 0), (101, 600), (102, 20)].map(|(seq, payload)| Sent {
        seq,
        time: seq as i64,
        subject: "a".to_owned(),
        headers: if seq == 101 { b"NATS/1.0\r\n\r\n" } else { b"" },
        offset: 1024 + (seq - 100) * 128,
        payload,
    });
    let bytes = build_of(&sent, PACKED_VERSION);
    let (index, _) = open(bytes.clone());
    assert_eq!(index.header.segment.version, PACKED_VERSION);
    assert_eq!(index.header.data_bytes, 3 + 12 + 620);
    expect![[r#"
        54 41 52 4e 49 44 58 0a 02 00 00 00 cf 3d 2d 7e
    "#]]
    .assert_eq(&hex(&bytes[..16]));
    expect![[r#"
        00 80 02 a4 01 00 c8 01 00 14 ff 02 ae 04 00 02
        00 08 f4 01 00 02 03 2d eb 50 80 02 00 cc 01 92
    "#]]
    .assert_eq(&hex(&bytes[256..288]));
}
