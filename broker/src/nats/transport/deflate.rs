//! Compressed WebSocket messages, without IO: each message for itself. Source: RFC 7692, `permessage-deflate`.

use std::cell::RefCell;

use bytes::{Buf, BufMut, BytesMut};
use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};
use tungstenite::http::{HeaderMap, header};

const EXTENSION: &str = "permessage-deflate";
/// What an answer to an offer agrees to. Source: nats-server, which takes over no context either.
pub(crate) const AGREEMENT: &str =
    "permessage-deflate; server_no_context_takeover; client_no_context_takeover";

/// Messages of no more are sent as they are.
const PACKED_BYTES_MIN: usize = 64;
/// What ends each message, and is left out.
const TAIL: [u8; 4] = [0, 0, 0xff, 0xff];
/// Memory that unpacking takes at a time, at first.
const STEP_BYTES: usize = 4 << 10;
const CONTINUATION: u8 = 0;
const CONTROL_BIT: u8 = 0x08;
const FINAL_BIT: u8 = 0x80;
const PACKED_BIT: u8 = 0x40;
const MASK_BIT: u8 = 0x80;

/// Why a connection with such messages ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum DeflateError {
    #[error("a compressed message is larger than {max} bytes")]
    TooLarge { max: usize },
    #[error("a frame is compressed that may not be")]
    Misplaced,
    #[error("a message begins before the last one has ended")]
    Unfinished,
    #[error("a frame is not masked")]
    Unmasked,
    #[error("a message is not what was compressed")]
    Corrupt,
}

/// Whether a request for an upgrade offers compression.
pub(crate) fn is_offered(headers: &HeaderMap) -> bool {
    headers
        .get_all(header::SEC_WEBSOCKET_EXTENSIONS)
        .iter()
        .filter_map(|line| line.to_str().ok())
        .flat_map(|line| line.split(','))
        .filter_map(|offer| offer.split(';').next())
        .any(|name| name.trim().eq_ignore_ascii_case(EXTENSION))
}

/// The compressed form of a message. None: it is better sent as it is.
pub(crate) fn pack(message: &[u8]) -> Option<Vec<u8>> {
    thread_local! {
        // Some 300 KiB: one for each thread, not for each connection.
        static PACKER: RefCell<Compress> = RefCell::new(Compress::new(Compression::fast(), false));
    }
    if message.len() <= PACKED_BYTES_MIN {
        return None;
    }
    PACKER.with_borrow_mut(|packer| {
        packer.reset();
        let mut packed = Vec::with_capacity(message.len());
        packer
            .compress_vec(message, &mut packed, FlushCompress::Sync)
            .ok()?;
        // Full means: as large as the message, or more.
        if packed.len() == packed.capacity() || !packed.ends_with(&TAIL) {
            return None;
        }
        packed.truncate(packed.len() - TAIL.len());
        Some(packed)
    })
}

/// Turns what a peer sends into the same frames without compression.
#[derive(Debug)]
pub(crate) struct Unpacker {
    state: State,
    /// The message that is under way, if it is compressed: its opcode, and what has come of it.
    packed: Option<(u8, Vec<u8>)>,
    /// What a message may have, unpacked.
    bytes_max: usize,
}

#[derive(Debug)]
enum State {
    Header,
    /// In a frame that is passed on as it is.
    Passing {
        left: usize,
    },
    /// In a frame of a compressed message.
    Gathering {
        left: usize,
        mask: [u8; 4],
        is_final: bool,
    },
}

/// The beginning of a frame.
struct Header {
    first: u8,
    mask: Option<[u8; 4]>,
    payload_bytes: u64,
    /// Its own length.
    bytes: usize,
}

impl Unpacker {
    /// For messages of at most `bytes_max`.
    pub(crate) fn new(bytes_max: usize) -> Self {
        Self {
            state: State::Header,
            packed: None,
            bytes_max,
        }
    }

    /// Takes what it can of `raw` and appends frames, or parts of them, to `out`.
    pub(crate) fn unpack(&mut self, raw: &mut BytesMut, out: &mut BytesMut) -> Result<(), DeflateError> {
        loop {
            match &mut self.state {
                State::Header => {
                    let Some(header) = Header::parse(raw) else {
                        return Ok(());
                    };
                    self.begin(&header, raw, out)?;
                }
                State::Passing { left } => {
                    let count = raw.len().min(*left);
                    out.extend_from_slice(&raw.split_to(count));
                    *left -= count;
                    if *left > 0 {
                        return Ok(());
                    }
                    self.state = State::Header;
                }
                State::Gathering { left, mask, is_final } => {
                    let count = raw.len().min(*left);
                    if let Some((_, packed)) = &mut self.packed {
                        let bytes = raw.split_to(count);
                        packed.extend(
                            bytes
                                .iter()
                                .zip(mask.iter().cycle())
                                .map(|(byte, key)| byte ^ key),
                        );
                    }
                    mask.rotate_left(count % 4);
                    *left -= count;
                    if *left > 0 {
                        return Ok(());
                    }
                    let is_final = *is_final;
                    self.state = State::Header;
                    if is_final {
                        self.finish(out)?;
                    }
                }
            }
        }
    }

    /// Takes a frame's header.
    fn begin(&mut self, header: &Header, raw: &mut BytesMut, out: &mut BytesMut) -> Result<(), DeflateError> {
        let opcode = header.first & 0x0f;
        let is_control = opcode & CONTROL_BIT != 0;
        let is_first = !is_control && opcode != CONTINUATION;
        let is_packed = header.first & PACKED_BIT != 0;
        if is_packed && !is_first {
            return Err(DeflateError::Misplaced);
        }
        if is_first && self.packed.is_some() {
            return Err(DeflateError::Unfinished);
        }
        let max = self.bytes_max;
        let payload_bytes =
            usize::try_from(header.payload_bytes).map_err(|_| DeflateError::TooLarge { max })?;
        if is_packed {
            self.packed = Some((opcode, Vec::new()));
        }
        let Some((_, packed)) = self.packed.as_ref().filter(|_| !is_control) else {
            out.extend_from_slice(&raw.split_to(header.bytes));
            self.state = State::Passing { left: payload_bytes };
            return Ok(());
        };
        let Some(mask) = header.mask else {
            return Err(DeflateError::Unmasked);
        };
        // What does not get smaller gets a little larger.
        if packed.len().saturating_add(payload_bytes) > max.saturating_add(max / 64 + PACKED_BYTES_MIN) {
            return Err(DeflateError::TooLarge { max });
        }
        raw.advance(header.bytes);
        self.state = State::Gathering {
            left: payload_bytes,
            mask,
            is_final: header.first & FINAL_BIT != 0,
        };
        Ok(())
    }

    /// A compressed message is there: it goes on as one frame, masked with zeros.
    fn finish(&mut self, out: &mut BytesMut) -> Result<(), DeflateError> {
        let Some((opcode, mut packed)) = self.packed.take() else {
            return Ok(());
        };
        packed.extend_from_slice(&TAIL);
        let message = unpack(&packed, self.bytes_max)?;
        drop(packed);
        out.put_u8(FINAL_BIT | opcode);
        match message.len() {
            len @ 0..=125 => out.put_u8(MASK_BIT | len as u8),
            len @ 126..=0xffff => {
                out.put_u8(MASK_BIT | 126);
                out.put_u16(len as u16);
            }
            len => {
                out.put_u8(MASK_BIT | 127);
                out.put_u64(len as u64);
            }
        }
        out.put_bytes(0, 4);
        out.extend_from_slice(&message);
        Ok(())
    }
}

impl Header {
    /// None: more bytes are needed.
    fn parse(raw: &[u8]) -> Option<Self> {
        let [first, second, rest @ ..] = raw else {
            return None;
        };
        let (payload_bytes, rest) = match second & !MASK_BIT {
            126 => (
                u64::from(u16::from_be_bytes(*rest.first_chunk()?)),
                rest.get(2..)?,
            ),
            127 => (u64::from_be_bytes(*rest.first_chunk()?), rest.get(8..)?),
            len => (u64::from(len), rest),
        };
        let (mask, rest) = if second & MASK_BIT == 0 {
            (None, rest)
        } else {
            (Some(*rest.first_chunk()?), rest.get(4..)?)
        };
        Some(Self {
            first: *first,
            mask,
            payload_bytes,
            bytes: raw.len() - rest.len(),
        })
    }
}

/// What was compressed, if that is at most `max` bytes: no more memory is taken than that, whatever is claimed.
fn unpack(packed: &[u8], max: usize) -> Result<Vec<u8>, DeflateError> {
    let mut inflater = Decompress::new(false);
    let mut message = Vec::new();
    loop {
        if message.len() == message.capacity() {
            let room = (max + 1).saturating_sub(message.len());
            message.reserve_exact(message.len().max(STEP_BYTES).min(room));
        }
        let taken = usize::try_from(inflater.total_in()).unwrap_or(usize::MAX);
        let rest = packed.get(taken..).unwrap_or_default();
        let status = inflater
            .decompress_vec(rest, &mut message, FlushDecompress::Sync)
            .map_err(|_| DeflateError::Corrupt)?;
        if message.len() > max {
            return Err(DeflateError::TooLarge { max });
        }
        let is_all = inflater.total_in() == packed.len() as u64;
        match status {
            Status::StreamEnd => return Ok(message),
            _ if is_all && message.len() < message.capacity() => return Ok(message),
            _ if message.len() < message.capacity() => return Err(DeflateError::Corrupt),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// One frame as a client sends it.
    fn frame(first: u8, payload: &[u8], mask: [u8; 4]) -> Vec<u8> {
        let mut frame = vec![first];
        match payload.len() {
            len @ 0..=125 => frame.push(MASK_BIT | len as u8),
            len @ 126..=0xffff => {
                frame.push(MASK_BIT | 126);
                frame.extend_from_slice(&(len as u16).to_be_bytes());
            }
            len => {
                frame.push(MASK_BIT | 127);
                frame.extend_from_slice(&(len as u64).to_be_bytes());
            }
        }
        frame.extend_from_slice(&mask);
        frame.extend(
            payload
                .iter()
                .zip(mask.iter().cycle())
                .map(|(byte, key)| byte ^ key),
        );
        frame
    }

    /// A compressed message in frames of `piece` bytes.
    fn packed(message: &[u8], piece: usize) -> Vec<u8> {
        let packed = pack(message).expect("it gets smaller");
        let pieces: Vec<_> = packed.chunks(piece).collect();
        let mut frames = Vec::new();
        for (index, part) in pieces.iter().enumerate() {
            let start = if index == 0 { PACKED_BIT | 2 } else { CONTINUATION };
            let end = if index + 1 == pieces.len() { FINAL_BIT } else { 0 };
            frames.extend(frame(start | end, part, [1, 2, 3, 4]));
        }
        frames
    }

    fn unpacked(frames: &[u8], step: usize, max: usize) -> Result<Vec<u8>, DeflateError> {
        let mut unpacker = Unpacker::new(max);
        let (mut raw, mut out) = (BytesMut::new(), BytesMut::new());
        for part in frames.chunks(step) {
            raw.extend_from_slice(part);
            unpacker.unpack(&mut raw, &mut out)?;
        }
        assert!(raw.is_empty());
        Ok(out.to_vec())
    }

    proptest! {
        #[test]
        fn messages_come_out_as_they_were(
            words in prop::collection::vec(0_u8..2, 100..9000), piece in 1_usize..3000, step in 1_usize..5000
        ) {
            let plain = frame(FINAL_BIT | 2, &words, [9, 8, 7, 6]);
            let ping = frame(FINAL_BIT | 9, b"hey", [5; 4]);
            let mut sent = plain.clone();
            sent.extend(packed(&words, piece));
            sent.extend(&ping);
            let mut expected = plain;
            expected.extend(frame(FINAL_BIT | 2, &words, [0; 4]));
            expected.extend(&ping);
            prop_assert_eq!(unpacked(&sent, step, 1 << 16).unwrap(), expected);
        }

        #[test]
        fn whatever_comes_nothing_panics(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            let mut unpacker = Unpacker::new(1 << 10);
            let mut out = BytesMut::new();
            if unpacker.unpack(&mut BytesMut::from(&bytes[..]), &mut out).is_ok() {
                prop_assert!(out.len() <= bytes.len() + (bytes.len() / 2) * (1 << 10));
            }
        }
    }

    #[test]
    fn a_bomb_takes_no_more_than_a_message() {
        let bomb = packed(&vec![0; 8 << 20], usize::MAX);
        assert!(bomb.len() < 1 << 20, "{} bytes", bomb.len());
        assert_eq!(
            unpacked(&bomb, 4096, 1 << 20),
            Err(DeflateError::TooLarge { max: 1 << 20 })
        );
        assert_eq!(unpacked(&bomb, 4096, 8 << 20).unwrap().len(), (8 << 20) + 14);
    }

    #[test]
    fn compression_has_its_place() {
        let whole = packed(&[7; 1000], usize::MAX);
        for (frames, err) in [
            (
                frame(FINAL_BIT | PACKED_BIT | 9, b"x", [0; 4]),
                DeflateError::Misplaced,
            ),
            (
                frame(FINAL_BIT | PACKED_BIT, b"x", [0; 4]),
                DeflateError::Misplaced,
            ),
            (vec![FINAL_BIT | PACKED_BIT | 2, 1, 0], DeflateError::Unmasked),
            (
                frame(FINAL_BIT | PACKED_BIT | 2, b"\xff\xff\xff", [0; 4]),
                DeflateError::Corrupt,
            ),
            (
                [frame(PACKED_BIT | 2, b"x", [0; 4]), whole.clone()].concat(),
                DeflateError::Unfinished,
            ),
        ] {
            assert_eq!(unpacked(&frames, 4096, 1 << 20), Err(err));
        }
    }

    #[test]
    fn what_does_not_get_smaller_stays_as_it_is() {
        assert_eq!(pack(b"+OK\r\n"), None);
        let mut state = 1_u64;
        let noise: Vec<u8> = std::iter::repeat_with(|| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 56) as u8
        })
        .take(5000)
        .collect();
        assert_eq!(pack(&noise), None);
    }

    #[test]
    fn offers() {
        let offers = |text: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::SEC_WEBSOCKET_EXTENSIONS, text.parse().unwrap());
            is_offered(&headers)
        };
        assert!(offers("permessage-deflate; client_max_window_bits"));
        assert!(offers("x-other, Permessage-Deflate"));
        assert!(!offers("x-webkit-deflate-frame; permessage-deflate"));
        assert!(!is_offered(&HeaderMap::new()));
    }
}
