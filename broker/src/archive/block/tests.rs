use proptest::prelude::*;

use super::*;

/// Sequence with its flags, subject, headers and payload.
type Written = (u64, String, Option<Vec<u8>>, Vec<u8>);

fn write((seq, subject, headers, payload): &Written, key: Key) -> Vec<u8> {
    let mut body = subject.as_bytes().to_vec();
    let mut word = 0;
    if let Some(headers) = headers {
        word = HAS_HEADERS;
        body.extend_from_slice(&u32::try_from(headers.len()).unwrap().to_le_bytes());
        body.extend_from_slice(headers);
    }
    body.extend_from_slice(payload);
    let len = u32::try_from(HEAD_BYTES + body.len() + HASH_BYTES).unwrap();
    let mut out = (word | len).to_le_bytes().to_vec();
    out.extend_from_slice(&seq.to_le_bytes());
    out.extend_from_slice(&5_i64.to_le_bytes());
    let mut hasher = HighwayHasher::new(key);
    hasher.append(&out[4..20]);
    hasher.append(subject.as_bytes());
    for part in [headers.as_deref().unwrap_or_default(), payload] {
        hasher.append(part);
    }
    out.extend_from_slice(&u16::try_from(subject.len()).unwrap().to_le_bytes());
    out.extend_from_slice(&body);
    out.extend_from_slice(&hasher.finalize64().to_le_bytes());
    out
}

fn expected((seq, subject, headers, payload): &Written) -> BlockRecord<'_> {
    if seq & REMOVED != 0 {
        BlockRecord::Removed(seq & !REMOVED & !ERASED)
    } else if seq & ERASED != 0 {
        BlockRecord::Gap(seq & !ERASED)
    } else {
        BlockRecord::Message {
            seq: *seq,
            time: 5,
            subject,
            headers: headers.as_deref().unwrap_or_default(),
            payload,
        }
    }
}

fn records() -> impl Strategy<Value = Vec<Written>> {
    let bytes = || proptest::collection::vec(any::<u8>(), 0..60);
    let flags = prop_oneof![4 => Just(0), 1 => Just(REMOVED), 1 => Just(ERASED)];
    let seq = (1_u64..1 << 40, flags).prop_map(|(seq, flags)| seq | flags);
    let record = (seq, "[a-z.]{0,20}", proptest::option::of(bytes()), bytes());
    proptest::collection::vec(record, 1..8)
}

proptest! {
    #[test]
    fn what_is_written_is_read(records in records(), step in 1_usize..200) {
        let mut reader = BlockReader::new("S", "3");
        let bytes: Vec<u8> = records.iter().flat_map(|record| write(record, reader.key)).collect();
        let mut read = 0;
        for piece in bytes.chunks(step) {
            reader.push(piece);
            while let Some(record) = reader.read().unwrap() {
                prop_assert_eq!(record, expected(&records[read]));
                read += 1;
            }
        }
        prop_assert_eq!((read, reader.is_empty()), (records.len(), true));
    }

    #[test]
    fn a_flipped_bit_is_found(records in records(), at in any::<prop::sample::Index>(), bit in 0_u8..8) {
        let mut reader = BlockReader::new("S", "3");
        let mut bytes: Vec<u8> = records.iter().flat_map(|record| write(record, reader.key)).collect();
        let at = at.index(bytes.len());
        bytes[at] ^= 1_u8 << bit;
        reader.push(&bytes);
        let mut read = 0;
        while let Ok(Some(record)) = reader.read() {
            // The lengths are not hashed: moving a border can at most change what is header and what is payload.
            if record != expected(&records[read]) {
                let is_moved = matches!(record, BlockRecord::Message { .. });
                prop_assert!(is_moved, "{:?}", record);
            }
            read += 1;
        }
        prop_assert!(read <= records.len());
    }

    #[test]
    fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let mut reader = BlockReader::new("S", "1");
        reader.push(&bytes);
        while let Ok(Some(_)) = reader.read() {}
        StoredState::decode(&bytes).ok();
        StoredState::decode(&[&[STATE_MAGIC, STATE_VERSION], &bytes[..]].concat()).ok();
    }
}

#[test]
fn another_stream_or_block_has_another_key() {
    let record = (1, "s".to_owned(), None, b"x".to_vec());
    let bytes = write(&record, BlockReader::new("S", "1").key);
    for (stream, block) in [("S", "2"), ("T", "1")] {
        let mut reader = BlockReader::new(stream, block);
        reader.push(&bytes);
        assert_eq!(reader.read(), Err(ArchiveError::Checksum));
    }
}

#[test]
fn states_count_from_the_acknowledged() {
    // Floor 2/10, delivered 6/20; pending 12 as 3 and 15 as 6; 15 twice more.
    let bytes = [
        STATE_MAGIC,
        STATE_VERSION,
        2,
        10,
        6,
        20,
        2,
        0,
        2,
        1,
        0,
        5,
        4,
        0,
        1,
        5,
        2,
    ];
    let state = StoredState {
        ack_floor: (2, 10),
        delivered: (6, 20),
        pending: vec![(12, 3), (15, 6)],
        redelivered: vec![(15, 2)],
    };
    assert_eq!(StoredState::decode(&bytes), Ok(state));
    assert_eq!(StoredState::decode(&bytes[..9]), Err(ArchiveError::Truncated));
    assert_eq!(StoredState::decode(&[STATE_MAGIC, 1]), Err(ArchiveError::Format));
}
