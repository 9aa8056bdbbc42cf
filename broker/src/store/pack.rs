//! Bodies of records, packed: headers and payload of a record in one block of snappy, each record by itself, so that damage
//! to one costs no other. Layout: `FORMAT.md`, "Frames".

use snap::raw::{Decoder, Encoder, decompress_len, max_compress_len};

use super::Store;
use super::record::{Frame, u32_at};
use crate::env::Fs;
use crate::types::StreamId;

/// Bytes of the two lengths that a packed body begins with.
pub(super) const LENGTHS_BYTES: usize = 8;
/// Bytes that packing has to save; below it is not worth unpacking.
const SAVED_MIN: usize = 16;
/// Shorter bodies are not tried.
const BODY_MIN: usize = 48;
/// Longer bodies are stored as they are: nothing longer is ever unpacked.
const BODY_MAX: usize = 64 * 1024 * 1024;
/// Memory that is kept from one record to the next.
const KEPT_BYTES_MAX: usize = 1024 * 1024;

/// Lengths of headers and payload before they were packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Lengths {
    pub(super) headers: u32,
    pub(super) payload: u32,
}

impl Lengths {
    fn encode(self) -> [u8; LENGTHS_BYTES] {
        let mut out = [0; LENGTHS_BYTES];
        out[..4].copy_from_slice(&self.headers.to_le_bytes());
        out[4..].copy_from_slice(&self.payload.to_le_bytes());
        out
    }

    /// The lengths that lie where raw frames have their headers, if `block` can be what they say: no memory is taken for
    /// it.
    pub(super) fn decode(bytes: &[u8], block: &[u8]) -> Option<Self> {
        if bytes.len() != LENGTHS_BYTES {
            return None;
        }
        let found = Self {
            headers: u32_at(bytes, 0)?,
            payload: u32_at(bytes, 4)?,
        };
        let total = found.total();
        let is_fit = total <= BODY_MAX
            && total > LENGTHS_BYTES + block.len()
            && decompress_len(block).is_ok_and(|len| len == total);
        is_fit.then_some(found)
    }

    pub(super) fn total(self) -> usize {
        (self.headers as usize).saturating_add(self.payload as usize)
    }
}

/// Packs bodies; keeps its memory from one to the next.
pub(super) struct Packer {
    encoder: Encoder,
    body: Vec<u8>,
    block: Vec<u8>,
}

impl Packer {
    pub(super) fn new() -> Self {
        Self {
            encoder: Encoder::new(),
            body: Vec::new(),
            block: Vec::new(),
        }
    }

    /// The lengths and the block that stand for a body. `None`: it is as well left as it is.
    pub(super) fn pack(&mut self, headers: &[u8], payload: &[u8]) -> Option<([u8; LENGTHS_BYTES], &[u8])> {
        let lengths = Lengths {
            headers: u32::try_from(headers.len()).ok()?,
            payload: u32::try_from(payload.len()).ok()?,
        };
        let total = lengths.total();
        if !(BODY_MIN..=BODY_MAX).contains(&total) {
            return None;
        }
        give_back(&mut self.body);
        give_back(&mut self.block);
        let body = if headers.is_empty() {
            payload
        } else {
            self.body.clear();
            self.body.extend_from_slice(headers);
            self.body.extend_from_slice(payload);
            &self.body
        };
        let room = max_compress_len(total);
        if self.block.len() < room {
            self.block.resize(room, 0);
        }
        let len = self.encoder.compress(body, &mut self.block).ok()?;
        let block = self.block.get(..len)?;
        (LENGTHS_BYTES + len + SAVED_MIN <= total).then_some((lengths.encode(), block))
    }
}

/// Headers and payload of a packed frame, side by side. `None`: they are not what its lengths say.
pub(super) fn unpack(frame: &Frame<'_>, lengths: Lengths) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    unpack_into(frame, lengths, &mut out).then_some(out)
}

fn unpack_into(frame: &Frame<'_>, lengths: Lengths, out: &mut Vec<u8>) -> bool {
    out.resize(lengths.total(), 0);
    Decoder::new()
        .decompress(frame.payload, out)
        .is_ok_and(|len| len == lengths.total())
}

/// Unpacks bodies to look at them; keeps its memory from one to the next.
#[derive(Debug, Default)]
pub(super) struct Bodies {
    body: Vec<u8>,
}

impl Bodies {
    /// Whether a frame's body is what its lengths say.
    pub(super) fn is_good(&mut self, frame: &Frame<'_>) -> bool {
        self.headers(frame).is_some()
    }

    /// The headers of a frame. `None`: its body is not what its lengths say.
    pub(super) fn headers<'a>(&'a mut self, frame: &Frame<'a>) -> Option<&'a [u8]> {
        let Some(lengths) = frame.packed else {
            return Some(frame.headers);
        };
        give_back(&mut self.body);
        unpack_into(frame, lengths, &mut self.body)
            .then(|| self.body.get(..lengths.headers as usize))
            .flatten()
    }
}

/// Frees what a long body needed.
fn give_back(buf: &mut Vec<u8>) {
    if buf.capacity() > KEPT_BYTES_MAX {
        *buf = Vec::new();
    }
}

impl<F: Fs> Store<F> {
    /// Whether records of the stream are packed where that makes them smaller: from its next segment on, if it was not
    /// packed before. Not kept over a restart; a stream in memory is never packed.
    pub fn set_packed(&mut self, id: StreamId, is_packed: bool) {
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.is_packed = is_packed;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::record::{self, FLAG_PACKED, HEADER_BYTES, Head, Kind};
    use super::*;

    /// A frame with this body, packed if that helps.
    fn frame(packer: &mut Packer, headers: &[u8], payload: &[u8]) -> Vec<u8> {
        let mut buf = Vec::new();
        let head = Head {
            kind: Kind::Message,
            flags: 0,
            seq: 3,
            time: 4,
        };
        match packer.pack(headers, payload) {
            Some((lengths, block)) => {
                let head = Head {
                    flags: FLAG_PACKED,
                    ..head
                };
                record::encode(&mut buf, 5, head, b"s", &lengths, block);
            }
            None => record::encode(&mut buf, 5, head, b"s", headers, payload),
        }
        buf
    }

    fn bodies() -> impl Strategy<Value = Vec<u8>> {
        let piece = prop_oneof![
            prop::collection::vec(any::<u8>(), 0..60),
            (any::<u8>(), 0..400usize).prop_map(|(byte, len)| vec![byte; len]),
        ];
        prop::collection::vec(piece, 0..6).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #[test]
        fn what_is_packed_comes_back(all in prop::collection::vec((bodies(), bodies()), 1..5)) {
            let mut packer = Packer::new();
            let mut looked_at = Bodies::default();
            for (headers, payload) in &all {
                let buf = frame(&mut packer, headers, payload);
                let frame = record::decode(&buf, 5).unwrap();
                prop_assert_eq!(frame.has_headers(), !headers.is_empty());
                prop_assert_eq!(frame.len() + frame.saved() as usize, HEADER_BYTES + 1 + headers.len() + payload.len());
                prop_assert_eq!(looked_at.headers(&frame), Some(&headers[..]));
                let body = [&headers[..], payload].concat();
                match frame.packed {
                    Some(lengths) => {
                        prop_assert!(frame.saved() as usize >= SAVED_MIN);
                        prop_assert_eq!(unpack(&frame, lengths), Some(body));
                    }
                    None => prop_assert_eq!([frame.headers, frame.payload].concat(), body),
                }
            }
        }

        /// Bytes with the right checksums that no packer made: what the lengths promise is never believed.
        #[test]
        fn a_body_is_exactly_what_its_lengths_say_or_damage(
            headers in 0..4000u32, payload in any::<u32>(), block in prop::collection::vec(any::<u8>(), 0..80),
            bit in prop::option::of(any::<prop::sample::Index>()),
        ) {
            let (lengths, block) = match bit {
                // A true body with one bit changed before the checksum was made.
                Some(bit) => {
                    let mut packer = Packer::new();
                    let (lengths, packed) = packer.pack(&[7; 40], &[9; 300]).unwrap();
                    let mut all = [&lengths[..], packed].concat();
                    let bit = bit.index(all.len() * 8);
                    all[bit / 8] ^= 1 << (bit % 8);
                    (all[..8].to_vec(), all[8..].to_vec())
                }
                None => (Lengths { headers, payload }.encode().to_vec(), block),
            };
            let mut buf = Vec::new();
            let head = Head { kind: Kind::Message, flags: FLAG_PACKED, seq: 3, time: 4 };
            record::encode(&mut buf, 5, head, b"s", &lengths, &block);
            if let Some(frame) = record::decode(&buf, 5) {
                let lengths = frame.packed.unwrap();
                prop_assert!(lengths.total() <= BODY_MAX);
                if let Some(body) = unpack(&frame, lengths) {
                    prop_assert_eq!(body.len(), lengths.total());
                }
            }
        }
    }

    #[test]
    fn only_what_gets_smaller_is_packed() {
        let mut packer = Packer::new();
        assert!(packer.pack(b"", &[1; BODY_MIN - 1]).is_none());
        assert!(packer.pack(b"", &[1; BODY_MIN]).is_some());
        let noise: Vec<u8> = (0..10_000u32)
            .map(|n| (n.wrapping_mul(0x9e37_79b9) >> 24) as u8 ^ (n.wrapping_mul(n) >> 7) as u8)
            .collect();
        assert!(packer.pack(b"", &noise).is_none());
        let (_, block) = packer.pack(b"", &vec![1; 4 * KEPT_BYTES_MAX]).unwrap();
        assert!(block.len() < KEPT_BYTES_MAX);
        packer.pack(b"", &[1; 100]).unwrap();
        assert!(packer.block.capacity() <= KEPT_BYTES_MAX);
    }

    #[test]
    fn lengths_beyond_any_record_are_damage() {
        // A block that says 4 GiB, and one that says as much as the lengths do, but too much.
        for (payload, block) in [
            (u32::MAX, &[0xff, 0xff, 0xff, 0xff, 0x0f][..]),
            (BODY_MAX as u32 + 1, &[0x81, 0x80, 0x80, 0x20]),
        ] {
            assert_eq!(decompress_len(block).unwrap(), payload as usize);
            let lengths = Lengths { headers: 0, payload }.encode();
            assert_eq!(Lengths::decode(&lengths, block), None);
        }
    }
}
