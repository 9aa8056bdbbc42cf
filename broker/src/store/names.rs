//! Names of streams and consumers as file names.

use super::StoreError;

/// Longest name in bytes.
pub(super) const NAME_BYTES_MAX: usize = 1024;
/// Longest file name made of a name; the suffixes that are added fit beside it into 255 bytes.
const FILE_NAME_BYTES_MAX: usize = 200;

/// A file name for `name`: letters, digits, `_` and `-` stand for themselves, every other byte is `%` and two hex
/// digits, so that no name can leave its directory. Names that get too long keep their beginning, then `~` and a hash
/// of the whole; the true name stands inside the file.
///
/// # Errors
/// `BadName` if the name is empty or too long to be kept.
pub(super) fn file_name(name: &str) -> Result<String, StoreError> {
    if name.is_empty() || name.len() > NAME_BYTES_MAX {
        return Err(StoreError::BadName {
            len: name.len(),
            max: NAME_BYTES_MAX,
        });
    }
    let mut out = String::with_capacity(name.len());
    for byte in name.bytes() {
        if byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-' {
            out.push(char::from(byte));
        } else {
            out.push('%');
            for nibble in [byte >> 4, byte & 15] {
                out.push(char::from_digit(u32::from(nibble), 16).unwrap_or('0'));
            }
        }
    }
    if out.len() > FILE_NAME_BYTES_MAX {
        out.truncate(FILE_NAME_BYTES_MAX - 17);
        out.push_str(&format!("~{:016x}", fnv1a(name.as_bytes())));
    }
    Ok(out)
}

/// FNV-1a, 64 bits.
fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, &byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn hostile_names_stay_in_their_directory() {
        assert_eq!(file_name("ORDERS_eu-1").unwrap(), "ORDERS_eu-1");
        assert_eq!(file_name("$MQTT_msgs").unwrap(), "%24MQTT_msgs");
        assert_eq!(file_name("../../etc").unwrap(), "%2e%2e%2f%2e%2e%2fetc");
        assert_eq!(file_name("..").unwrap(), "%2e%2e");
        assert_eq!(file_name("a\0b").unwrap(), "a%00b");
        assert!(file_name("").is_err());
        assert!(file_name(&"x".repeat(1025)).is_err());
    }

    proptest! {
        #[test]
        fn names_are_distinct_short_and_plain(a in ".{1,300}", b in ".{1,300}") {
            prop_assume!(a.len() <= NAME_BYTES_MAX && b.len() <= NAME_BYTES_MAX);
            let (file_a, file_b) = (file_name(&a).unwrap(), file_name(&b).unwrap());
            prop_assert_eq!(a == b, file_a == file_b);
            prop_assert!(file_a.len() <= FILE_NAME_BYTES_MAX);
            prop_assert!(file_a.bytes().all(|c| c.is_ascii_alphanumeric() || b"_-%~".contains(&c)));
        }
    }
}
