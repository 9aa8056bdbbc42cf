//! Numbers in groups of seven bits, lowest first; the eighth bit of a byte says that another follows.

use thiserror::Error;

/// Bytes of the longest number.
const BYTES_MAX: usize = 10;

/// Bytes that do not begin with a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub(crate) enum Leb128Error {
    #[error("a number is cut off")]
    Short,
    #[error("a number is of more than 64 bits")]
    Malformed,
}

/// Appends `value`.
pub(crate) fn put(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Takes a number off the front of `bytes`, which stay as they are if there is none.
///
/// # Errors
/// If the bytes end within it, or it is too large.
pub(crate) fn take(bytes: &mut &[u8]) -> Result<u64, Leb128Error> {
    let mut value = 0_u64;
    for (at, &byte) in bytes.iter().enumerate().take(BYTES_MAX) {
        let bits = u64::from(byte & 0x7f);
        if at + 1 == BYTES_MAX && bits > 1 {
            return Err(Leb128Error::Malformed);
        }
        value |= bits << (7 * at);
        if byte & 0x80 == 0 {
            *bytes = &bytes[at + 1..];
            return Ok(value);
        }
    }
    Err(if bytes.len() < BYTES_MAX {
        Leb128Error::Short
    } else {
        Leb128Error::Malformed
    })
}

/// A signed number as an unsigned one that is small if the number is near 0.
pub(crate) fn zigzag(value: i64) -> u64 {
    (value << 1 ^ value >> 63).cast_unsigned()
}

/// What [`zigzag`] was given.
pub(crate) fn unzigzag(value: u64) -> i64 {
    (value >> 1).cast_signed() ^ -(value & 1).cast_signed()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn numbers_come_back(values in prop::collection::vec(any::<u64>(), 0..20), signed: i64) {
            let mut out = Vec::new();
            values.iter().for_each(|value| put(&mut out, *value));
            let mut rest = &out[..];
            for value in values {
                prop_assert_eq!(take(&mut rest), Ok(value));
            }
            prop_assert!(rest.is_empty());
            prop_assert_eq!(unzigzag(zigzag(signed)), signed);
        }

        #[test]
        fn a_number_that_is_cut_off_stays(value: u64, shift in 0_u32..64, cut in any::<prop::sample::Index>()) {
            let mut out = Vec::new();
            put(&mut out, value >> shift);
            let bytes = &out[..cut.index(out.len())];
            let mut rest = bytes;
            prop_assert_eq!(take(&mut rest), Err(Leb128Error::Short));
            prop_assert_eq!(rest, bytes);
        }
    }

    #[test]
    fn what_needs_more_than_64_bits_is_refused() {
        let mut largest = [0xff; 10];
        largest[9] = 1;
        assert_eq!(take(&mut &largest[..]), Ok(u64::MAX));
        largest[9] = 2;
        assert_eq!(take(&mut &largest[..]), Err(Leb128Error::Malformed));
        largest[9] = 0x80;
        assert_eq!(take(&mut &largest[..]), Err(Leb128Error::Malformed));
    }
}
