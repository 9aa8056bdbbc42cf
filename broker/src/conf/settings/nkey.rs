//! Public keys as text: base 32 of a prefix byte, the key, and a checksum.

/// Whether `text` is a public key of the kind that `kind` is the first letter of: `U`ser, `A`ccount, `O`perator or `X` curve.
pub(super) fn is_public_key(kind: char, text: &str) -> bool {
    const LEN: usize = 35;
    if !text.starts_with(kind) {
        return false;
    }
    let Some(raw) = decode(text).filter(|raw| raw.len() == LEN) else {
        return false;
    };
    let (body, sum) = raw.split_at(LEN - 2);
    crc16(body).to_le_bytes() == sum
}

/// RFC 4648 base 32 without padding.
fn decode(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    let (mut held, mut bits) = (0_u32, 0);
    for c in text.bytes() {
        let five = match c {
            b'A'..=b'Z' => c - b'A',
            b'2'..=b'7' => c - b'2' + 26,
            _ => return None,
        };
        held = (held << 5 | u32::from(five)) & 0xfff;
        bits += 5;
        if bits >= 8 {
            bits -= 8;
            bytes.push(u8::try_from(held >> bits & 0xff).ok()?);
        }
    }
    Some(bytes)
}

/// CRC-16/XMODEM.
fn crc16(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0, |crc, byte| {
        (0..8).fold(crc ^ (u16::from(*byte) << 8), |crc: u16, _| {
            let carry = if crc & 0x8000 == 0 { 0 } else { 0x1021 };
            (crc << 1) ^ carry
        })
    })
}

#[cfg(test)]
mod tests {
    use super::is_public_key;

    #[test]
    fn public_keys_are_told_from_other_text() {
        let user = "UDXU4RCSJNZOIQHZNWXHXORDPRTGNJAHAHFRGZNEEJCPQTT2M7NLCNF4";
        assert!(is_public_key('U', user));
        assert!(!is_public_key('A', user));
        assert!(!is_public_key('U', &user.replace("NF4", "NF5")));
        assert!(!is_public_key('U', "U"));
        assert!(!is_public_key('U', "bob"));
    }
}
