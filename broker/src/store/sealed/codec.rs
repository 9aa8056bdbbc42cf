//! Numbers and checked blocks as they lie in an index file. Layout: `FORMAT.md`.

use crate::leb128;

/// Bytes of a block's checksum.
pub(in super::super) const CRC_BYTES: usize = 4;

/// Goes through bytes.
pub(in super::super) struct Cursor<'a> {
    bytes: &'a [u8],
}

impl<'a> Cursor<'a> {
    pub(in super::super) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes }
    }

    pub(super) fn is_at_end(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Bytes that were not taken yet.
    pub(in super::super) fn left(&self) -> usize {
        self.bytes.len()
    }

    /// The next number; `None` if there is no whole one.
    pub(in super::super) fn number(&mut self) -> Option<u64> {
        leb128::take(&mut self.bytes).ok()
    }

    /// The next number, which must fit into 32 bits.
    pub(in super::super) fn small(&mut self) -> Option<u32> {
        u32::try_from(self.number()?).ok()
    }

    pub(in super::super) fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.bytes.split_at_checked(len)?;
        self.bytes = rest;
        Some(taken)
    }
}

/// Ends the block that began at `start` with its checksum, which is of its place as well.
pub(in super::super) fn close_block(out: &mut Vec<u8>, start: usize, salt: u32) {
    let crc = checksum(&out[start..], start as u64, salt);
    out.extend_from_slice(&crc.to_le_bytes());
}

/// A block's content, if its checksum is right.
pub(in super::super) fn open_block(bytes: &[u8], offset: u64, salt: u32) -> Option<&[u8]> {
    let (content, crc) = bytes.split_last_chunk::<CRC_BYTES>()?;
    (checksum(content, offset, salt) == u32::from_le_bytes(*crc)).then_some(content)
}

fn checksum(content: &[u8], offset: u64, salt: u32) -> u32 {
    let mut hasher = crc32fast::Hasher::new_with_initial(salt);
    hasher.update(&offset.to_le_bytes());
    hasher.update(content);
    hasher.finalize()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..30)) {
            let mut cursor = Cursor::new(&bytes);
            while cursor.small().is_some() {}
            prop_assert!(cursor.take(usize::MAX).is_none());
        }

        #[test]
        fn a_block_counts_only_whole_and_in_its_place(
            content in prop::collection::vec(any::<u8>(), 0..40),
            bit: prop::sample::Index,
        ) {
            let mut out = vec![7; 5];
            out.extend_from_slice(&content);
            close_block(&mut out, 5, 9);
            let mut block = out[5..].to_vec();
            prop_assert_eq!(open_block(&block, 5, 9), Some(&content[..]));
            prop_assert_eq!(open_block(&block, 6, 9), None);
            prop_assert_eq!(open_block(&block, 5, 8), None);
            let bit = bit.index(block.len() * 8);
            block[bit / 8] ^= 1 << (bit % 8);
            prop_assert_eq!(open_block(&block, 5, 9), None);
        }
    }
}
