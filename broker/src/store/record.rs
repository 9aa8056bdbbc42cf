//! The frame codec: how records, removals and marks lie in a segment. Layout: `FORMAT.md`.

use crc32fast::Hasher;

use super::pack::Lengths;

/// First bytes of every frame; where reading goes on after damage.
pub(super) const MARK: [u8; 4] = [0xf5, b'T', b'r', 0xfd];
/// Bytes before a frame's subject.
pub(super) const HEADER_BYTES: usize = 40;
/// Frames begin at multiples of this.
pub(super) const ALIGN: usize = 8;
/// Flag: everything before this frame was durable before this frame was written.
pub(super) const FLAG_BATCH_START: u8 = 1;
/// Flag: headers and payload are packed.
pub(super) const FLAG_PACKED: u8 = 2;
/// Ranges in one removal frame at most.
pub(super) const RANGES_MAX: usize = 64;

/// What a frame says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A record of the stream.
    Message = 1,
    /// Positions that hold no record any more, or never did.
    Remove = 2,
    /// Nothing but that everything before it is durable.
    Settle = 3,
}

/// A frame's fixed fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) kind: Kind,
    pub(super) flags: u8,
    /// Of a message: its position. Of others: the stream's last position when it was written.
    pub(super) seq: u64,
    /// Nanoseconds since 1970; 0 except for messages.
    pub(super) time: i64,
}

/// A frame in a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Frame<'a> {
    pub(super) head: Head,
    pub(super) subject: &'a [u8],
    /// As they lie there: of a packed frame the two lengths.
    pub(super) headers: &'a [u8],
    /// As it lies there: of a packed frame the block.
    pub(super) payload: &'a [u8],
    /// Of a packed frame: the lengths of what is in it.
    pub(super) packed: Option<Lengths>,
}

impl Frame<'_> {
    /// Exact bytes, without padding.
    pub(super) fn len(&self) -> usize {
        HEADER_BYTES + self.subject.len() + self.headers.len() + self.payload.len()
    }

    /// Bytes that it is shorter than if it were not packed.
    pub(super) fn saved(&self) -> u32 {
        let stored = self.headers.len() + self.payload.len();
        self.packed
            .map_or(0, |raw| raw.total().saturating_sub(stored) as u32)
    }

    pub(super) fn has_headers(&self) -> bool {
        self.packed
            .map_or(!self.headers.is_empty(), |raw| raw.headers > 0)
    }
}

/// Bytes that a frame of `len` exact bytes takes in a segment.
pub(super) const fn padded(len: usize) -> usize {
    len.div_ceil(ALIGN) * ALIGN
}

/// Appends a frame with its padding to `buf`. Headers and payload are as they are to lie there. The lengths must have been
/// checked: the subject is at most 65535 bytes, the whole less than 2 GiB.
pub(super) fn encode(
    buf: &mut Vec<u8>,
    seed: u32,
    head: Head,
    subject: &[u8],
    headers: &[u8],
    payload: &[u8],
) {
    let start = buf.len();
    let len = HEADER_BYTES + subject.len() + headers.len() + payload.len();
    let mut fixed = [0u8; HEADER_BYTES];
    fixed[0..4].copy_from_slice(&MARK);
    fixed[12] = head.kind as u8;
    fixed[13] = head.flags;
    fixed[14..16].copy_from_slice(&(subject.len() as u16).to_le_bytes());
    fixed[16..24].copy_from_slice(&head.seq.to_le_bytes());
    fixed[24..32].copy_from_slice(&head.time.to_le_bytes());
    fixed[32..36].copy_from_slice(&(headers.len() as u32).to_le_bytes());
    fixed[36..40].copy_from_slice(&(payload.len() as u32).to_le_bytes());
    let head_crc = checksum(seed, &fixed[12..]);
    fixed[8..12].copy_from_slice(&head_crc.to_le_bytes());
    buf.reserve(padded(len));
    buf.extend_from_slice(&fixed);
    buf.extend_from_slice(subject);
    buf.extend_from_slice(headers);
    buf.extend_from_slice(payload);
    let crc = checksum(seed, &buf[start + 8..]);
    buf[start + 4..start + 8].copy_from_slice(&crc.to_le_bytes());
    buf.resize(start + padded(len), 0);
}

/// The frame at the start of `bytes`, if there is a whole one with the right checksum.
///
/// A packed body is not unpacked; see [`Bodies::is_good`](super::pack::Bodies::is_good).
///
/// The fixed fields have a checksum of their own, so that looking for the next frame after damage takes the time of
/// one pass, whatever lengths a hostile payload feigns.
pub(super) fn decode(bytes: &[u8], seed: u32) -> Option<Frame<'_>> {
    if !bytes.starts_with(&MARK) || !head_is_good(bytes, seed) {
        return None;
    }
    decode_body(bytes, seed)
}

/// The same where [`frame_len`] has found the fixed fields to be good.
pub(super) fn decode_body(bytes: &[u8], seed: u32) -> Option<Frame<'_>> {
    let frame = view(bytes)?;
    let crc = u32_at(bytes, 4)?;
    (checksum(seed, bytes.get(8..frame.len())?) == crc).then_some(frame)
}

/// Exact bytes of the frame whose fixed fields `bytes` begins with, if those are whole.
pub(super) fn frame_len(bytes: &[u8], seed: u32) -> Option<usize> {
    if !bytes.starts_with(&MARK) || checksum(seed, bytes.get(12..HEADER_BYTES)?) != u32_at(bytes, 8)? {
        return None;
    }
    let subject_len = usize::from(u16::from_le_bytes([bytes[14], bytes[15]]));
    HEADER_BYTES
        .checked_add(subject_len)?
        .checked_add(u32_at(bytes, 32)? as usize)?
        .checked_add(u32_at(bytes, 36)? as usize)
}

/// The frame at the start of `bytes`, without looking at its checksum. For bytes that were decoded before.
pub(super) fn view(bytes: &[u8]) -> Option<Frame<'_>> {
    let fixed: &[u8; HEADER_BYTES] = bytes.first_chunk()?;
    if fixed[0..4] != MARK {
        return None;
    }
    let kind = match fixed[12] {
        1 => Kind::Message,
        2 => Kind::Remove,
        3 => Kind::Settle,
        _ => return None,
    };
    let subject_len = usize::from(u16::from_le_bytes([fixed[14], fixed[15]]));
    let headers_len = u32_at(fixed, 32)? as usize;
    let payload_len = u32_at(fixed, 36)? as usize;
    let len = HEADER_BYTES
        .checked_add(subject_len)?
        .checked_add(headers_len)?
        .checked_add(payload_len)?;
    let body = bytes.get(HEADER_BYTES..len)?;
    let (subject, rest) = body.split_at_checked(subject_len)?;
    let (headers, payload) = rest.split_at_checked(headers_len)?;
    let head = Head {
        kind,
        flags: fixed[13],
        seq: u64_at(fixed, 16)?,
        time: u64_at(fixed, 24)? as i64,
    };
    let packed = match head.flags & FLAG_PACKED {
        0 => None,
        _ if head.kind != Kind::Message => return None,
        _ => Some(Lengths::decode(headers, payload)?),
    };
    Some(Frame {
        head,
        subject,
        headers,
        payload,
        packed,
    })
}

fn checksum(seed: u32, bytes: &[u8]) -> u32 {
    let mut hasher = Hasher::new_with_initial(seed);
    hasher.update(bytes);
    hasher.finalize()
}

/// Appends removal frames for `ranges`, each frame twice: a removal that one damaged byte could undo would bring a
/// removed record back.
pub(super) fn encode_removals(buf: &mut Vec<u8>, seed: u32, flags: u8, last_seq: u64, ranges: &[(u64, u64)]) {
    let mut payload = Vec::with_capacity(ranges.len() * 16);
    for (first, last) in ranges {
        payload.extend_from_slice(&first.to_le_bytes());
        payload.extend_from_slice(&last.to_le_bytes());
    }
    let head = Head {
        kind: Kind::Remove,
        flags,
        seq: last_seq,
        time: 0,
    };
    encode(buf, seed, head, &[], &[], &payload);
    encode(buf, seed, Head { flags: 0, ..head }, &[], &[], &payload);
}

/// Appends one removal frame for `ranges`.
pub(super) fn encode_removal(buf: &mut Vec<u8>, seed: u32, flags: u8, last_seq: u64, ranges: &[(u64, u64)]) {
    let payload: Vec<u8> = ranges
        .iter()
        .flat_map(|(first, last)| [first.to_le_bytes(), last.to_le_bytes()].concat())
        .collect();
    let head = Head {
        kind: Kind::Remove,
        flags,
        seq: last_seq,
        time: 0,
    };
    encode(buf, seed, head, &[], &[], &payload);
}

/// Appends a frame that says that all before it is durable, with `filler` bytes that say nothing.
pub(super) fn encode_settle(buf: &mut Vec<u8>, seed: u32, last_seq: u64, filler: &[u8]) {
    let head = Head {
        kind: Kind::Settle,
        flags: FLAG_BATCH_START,
        seq: last_seq,
        time: 0,
    };
    encode(buf, seed, head, &[], &[], filler);
}

/// Whether the fixed fields at the start of `bytes` have the right checksum.
pub(super) fn head_is_good(bytes: &[u8], seed: u32) -> bool {
    let fixed = bytes.get(12..HEADER_BYTES);
    fixed.is_some_and(|fixed| Some(checksum(seed, fixed)) == u32_at(bytes, 8))
}

/// Bytes that [`encode_removals`] takes for `count` ranges.
pub(super) const fn removals_bytes(count: usize) -> usize {
    2 * padded(HEADER_BYTES + count * 16)
}

/// The ranges of a removal frame, first and last position included.
pub(super) fn removals(payload: &[u8]) -> impl Iterator<Item = (u64, u64)> + '_ {
    payload
        .chunks_exact(16)
        .filter_map(|pair| Some((u64_at(pair, 0)?, u64_at(pair, 8)?)))
}

pub(super) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

pub(super) fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

#[cfg(test)]
mod tests {
    use expect_test::expect;
    use proptest::prelude::*;

    use super::super::tests::hex;
    use super::*;

    #[test]
    fn golden_message() {
        let mut buf = Vec::new();
        let head = Head {
            kind: Kind::Message,
            flags: FLAG_BATCH_START,
            seq: 7,
            time: 1_700_000_000_000_000_000,
        };
        encode(&mut buf, 0x1234_5678, head, b"a.b", b"NATS/1.0\r\n\r\n", b"hello");
        expect![[r#"
            f5 54 72 fd 6e 94 93 a0 3c 20 03 ab 01 01 03 00
            07 00 00 00 00 00 00 00 00 00 2a 36 fe 9c 97 17
            0c 00 00 00 05 00 00 00 61 2e 62 4e 41 54 53 2f
            31 2e 30 0d 0a 0d 0a 68 65 6c 6c 6f 00 00 00 00
        "#]]
        .assert_eq(&hex(&buf));
    }

    #[test]
    fn golden_packed_message() {
        let mut buf = Vec::new();
        let head = Head {
            kind: Kind::Message,
            flags: FLAG_BATCH_START | FLAG_PACKED,
            seq: 7,
            time: 1_700_000_000_000_000_000,
        };
        let mut packer = crate::store::pack::Packer::new();
        let (lengths, block) = packer.pack(b"NATS/1.0\r\n\r\n", &b"{\"a\":1}".repeat(9)).unwrap();
        encode(&mut buf, 0x1234_5678, head, b"a.b", &lengths, block);
        expect![[r#"
            f5 54 72 fd 0a ff ab 05 06 97 22 50 01 03 03 00
            07 00 00 00 00 00 00 00 00 00 2a 36 fe 9c 97 17
            08 00 00 00 18 00 00 00 61 2e 62 0c 00 00 00 3f
            00 00 00 4b 48 4e 41 54 53 2f 31 2e 30 0d 0a 0d
            0a 7b 22 61 22 3a 31 7d de 07 00 00 00 00 00 00
        "#]]
        .assert_eq(&hex(&buf));
        let frame = decode(&buf, 0x1234_5678).unwrap();
        assert_eq!((frame.saved(), frame.has_headers()), (43, true));
    }

    #[test]
    fn golden_removal_and_settle() {
        let mut buf = Vec::new();
        encode_removals(&mut buf, 1, FLAG_BATCH_START, 9, &[(2, 4), (8, 8)]);
        assert_eq!(buf.len(), removals_bytes(2));
        let head = Head {
            kind: Kind::Settle,
            flags: FLAG_BATCH_START,
            seq: 9,
            time: 0,
        };
        encode(&mut buf, 1, head, &[], &[], &[]);
        expect![[r#"
            f5 54 72 fd aa 7d 42 16 28 9d 38 1f 02 01 00 00
            09 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00
            00 00 00 00 20 00 00 00 02 00 00 00 00 00 00 00
            04 00 00 00 00 00 00 00 08 00 00 00 00 00 00 00
            08 00 00 00 00 00 00 00 f5 54 72 fd c1 13 57 bf
            69 86 b4 71 02 00 00 00 09 00 00 00 00 00 00 00
            00 00 00 00 00 00 00 00 00 00 00 00 20 00 00 00
            02 00 00 00 00 00 00 00 04 00 00 00 00 00 00 00
            08 00 00 00 00 00 00 00 08 00 00 00 00 00 00 00
            f5 54 72 fd 9c 5a 15 1c 0b cf bf be 03 01 00 00
            09 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00
            00 00 00 00 00 00 00 00
        "#]]
        .assert_eq(&hex(&buf));
    }

    proptest! {
        #[test]
        fn what_goes_in_comes_out(
            seed: u32, seq: u64, time: i64, flags: u8,
            subject in prop::collection::vec(any::<u8>(), 0..40),
            headers in prop::collection::vec(any::<u8>(), 0..40),
            payload in prop::collection::vec(any::<u8>(), 0..80),
        ) {
            let head = Head { kind: Kind::Message, flags: flags & !FLAG_PACKED, seq, time };
            let mut buf = vec![1, 2, 3];
            encode(&mut buf, seed, head, &subject, &headers, &payload);
            let expected = Frame { head, subject: &subject, headers: &headers, payload: &payload, packed: None };
            prop_assert_eq!(decode(&buf[3..], seed), Some(expected));
            prop_assert_eq!(buf.len() - 3, padded(expected.len()));
            prop_assert_eq!(decode(&buf[3..], seed ^ 1), None, "another segment's salt");
        }

        #[test]
        fn no_flipped_bit_passes(
            payload in prop::collection::vec(any::<u8>(), 0..40),
            bit: prop::sample::Index,
        ) {
            let head = Head { kind: Kind::Message, flags: 0, seq: 3, time: 4 };
            let mut buf = Vec::new();
            encode(&mut buf, 5, head, b"s", b"", &payload);
            let exact = HEADER_BYTES + 1 + payload.len();
            let bit = bit.index(exact * 8);
            buf[bit / 8] ^= 1 << (bit % 8);
            prop_assert_eq!(decode(&buf, 5), None);
        }

        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..120), with_mark: bool) {
            let mut bytes = bytes;
            if with_mark && bytes.len() >= 4 {
                bytes[..4].copy_from_slice(&MARK);
            }
            if let Some(frame) = view(&bytes) {
                prop_assert!(frame.len() <= bytes.len());
                prop_assert!(removals(frame.payload).count() <= bytes.len() / 16);
            }
        }
    }
}
