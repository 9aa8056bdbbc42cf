//! The archive of nats-server 2.15: a name, a time, a sequence and two lengths, then a payload, again and again.
//!
//! Layout: `NATSARC1`, then for each entry unsigned LEB128 numbers, where the time is in zigzag: length of the name, time
//! in nanoseconds, sequence, length of the headers, length of the payload; then name, headers and payload. `state.json`
//! comes first, then one `consumers/<name>` for each consumer, then the messages with their subjects as names. An entry of
//! zeros ends the archive.
//! Source: nats-server, `server/archive`, `stream_backup.go`.

use super::ArchiveError;
use super::feed::Feed;
use crate::leb128::{self, Leb128Error, put, unzigzag, zigzag};

/// How an archive begins.
pub(crate) const MAGIC: &[u8; 8] = b"NATSARC1";
/// Longest name.
const NAME_BYTES_MAX: u64 = u16::MAX as u64;
/// Headers and payload of an entry at most: no message is larger, and no consumer has that much to say.
pub(crate) const ENTRY_BYTES_MAX: u64 = 64 << 20;

/// One entry.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Entry<'a> {
    pub(crate) name: &'a str,
    /// Nanoseconds since 1970.
    pub(crate) time: i64,
    /// 0 for what is not a message.
    pub(crate) seq: u64,
    pub(crate) headers: &'a [u8],
    pub(crate) payload: &'a [u8],
}

impl Entry<'_> {
    /// Whether it ends the archive.
    pub(crate) fn is_end(&self) -> bool {
        self.seq == 0 && self.time == 0 && self.headers.is_empty() && self.payload.is_empty()
    }

    /// Appends everything but headers and payload, which have to follow.
    pub(crate) fn put_head(&self, out: &mut Vec<u8>) {
        put(out, self.name.len() as u64);
        put(out, zigzag(self.time));
        put(out, self.seq);
        put(out, self.headers.len() as u64);
        put(out, self.payload.len() as u64);
        out.extend_from_slice(self.name.as_bytes());
    }
}

/// Reads entries from bytes that come in pieces. Holds one entry at most, besides what came last.
#[derive(Debug, Default)]
pub(crate) struct EntryReader {
    feed: Feed,
    has_begun: bool,
}

impl EntryReader {
    /// One of an archive that begins with these bytes.
    pub(crate) fn starting_with(bytes: Vec<u8>) -> Self {
        Self {
            feed: Feed::starting_with(bytes),
            has_begun: false,
        }
    }

    /// Where the next bytes are to be appended.
    pub(crate) fn buffer(&mut self) -> &mut Vec<u8> {
        self.feed.buffer()
    }

    /// The next entry. `None`: more bytes are needed.
    ///
    /// # Errors
    /// If the bytes are no archive, or an entry is too large. Nothing more can be read then.
    pub(crate) fn read(&mut self) -> Result<Option<Entry<'_>>, ArchiveError> {
        if !self.has_begun {
            match self.feed.rest().first_chunk::<8>() {
                None => return Ok(None),
                Some(MAGIC) => self.feed.take(MAGIC.len()),
                Some(_) => return Err(ArchiveError::Format),
            };
            self.has_begun = true;
        }
        let mut rest = self.feed.rest();
        let before = rest.len();
        let mut numbers = [0; 5];
        for number in &mut numbers {
            match leb128::take(&mut rest) {
                Ok(read) => *number = read,
                Err(Leb128Error::Short) => return Ok(None),
                Err(Leb128Error::Malformed) => return Err(ArchiveError::Number),
            }
        }
        let [name, time, seq, headers, payload] = numbers;
        check(name, NAME_BYTES_MAX)?;
        check(headers.saturating_add(payload), ENTRY_BYTES_MAX)?;
        let (name, headers, payload) = (name as usize, headers as usize, payload as usize);
        let head = before - rest.len();
        if rest.len() < name + headers + payload {
            return Ok(None);
        }
        let entry = self.feed.take(head + name + headers + payload);
        let (name, body) = entry[head..].split_at(name);
        let (headers, payload) = body.split_at(headers);
        Ok(Some(Entry {
            name: std::str::from_utf8(name).map_err(|_| ArchiveError::Name)?,
            time: unzigzag(time),
            seq,
            headers,
            payload,
        }))
    }
}

fn check(len: u64, max: u64) -> Result<(), ArchiveError> {
    if len > max {
        return Err(ArchiveError::EntryTooLarge { len, max });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    type Owned = (String, i64, u64, Vec<u8>, Vec<u8>);

    fn entries() -> impl Strategy<Value = Vec<Owned>> {
        let bytes = || proptest::collection::vec(any::<u8>(), 0..50);
        let entry = ("[a-z.]{0,20}", any::<i64>(), any::<u64>(), bytes(), bytes());
        proptest::collection::vec(entry, 0..10)
    }

    fn encode(entries: &[Owned]) -> Vec<u8> {
        let mut out = MAGIC.to_vec();
        for (name, time, seq, headers, payload) in entries {
            let entry = Entry {
                name,
                time: *time,
                seq: *seq,
                headers,
                payload,
            };
            entry.put_head(&mut out);
            out.extend_from_slice(headers);
            out.extend_from_slice(payload);
        }
        out
    }

    fn decode(bytes: &[u8], step: usize) -> Result<Vec<Owned>, ArchiveError> {
        let mut reader = EntryReader::default();
        let mut read = Vec::new();
        for piece in bytes.chunks(step) {
            reader.buffer().extend_from_slice(piece);
            while let Some(entry) = reader.read()? {
                read.push((
                    entry.name.to_owned(),
                    entry.time,
                    entry.seq,
                    entry.headers.to_vec(),
                    entry.payload.to_vec(),
                ));
            }
        }
        Ok(read)
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(entries in entries(), step in 1_usize..100) {
            prop_assert_eq!(decode(&encode(&entries), step), Ok(entries));
        }

        #[test]
        fn a_prefix_gives_a_prefix(entries in entries(), cut in any::<prop::sample::Index>()) {
            let bytes = encode(&entries);
            let read = decode(&bytes[..cut.index(bytes.len())], 7).unwrap();
            prop_assert!(entries.starts_with(&read));
        }

        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            let whole = [&MAGIC[..], &bytes].concat();
            decode(&whole, 9).ok();
            decode(&bytes, 9).ok();
        }
    }

    #[test]
    fn the_bytes_are_these() {
        let entry = ("orders.eu".to_owned(), -3, 300, b"h".to_vec(), b"xy".to_vec());
        let expected = b"NATSARC1\x09\x05\xac\x02\x01\x02orders.euhxy";
        assert_eq!(encode(&[entry]), expected);
    }

    #[test]
    fn lengths_are_checked_before_memory_is_taken() {
        let mut huge = MAGIC.to_vec();
        for number in [3, 0, 1, ENTRY_BYTES_MAX, 1] {
            put(&mut huge, number);
        }
        assert!(matches!(
            decode(&huge, 5),
            Err(ArchiveError::EntryTooLarge { .. })
        ));
        let mut name = MAGIC.to_vec();
        for number in [NAME_BYTES_MAX + 1, 0, 1, 0, 0] {
            put(&mut name, number);
        }
        assert!(matches!(
            decode(&name, 5),
            Err(ArchiveError::EntryTooLarge { .. })
        ));
        let endless = [&MAGIC[..], &[0xff; 11]].concat();
        assert_eq!(decode(&endless, 100), Err(ArchiveError::Number));
        assert_eq!(decode(b"ustar-ish", 100), Err(ArchiveError::Format));
    }
}
