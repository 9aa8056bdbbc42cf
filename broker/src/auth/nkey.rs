//! Public keys as NATS writes them, and signatures made with them. Source: NATS nkeys; RFC 8032.

use ring::signature::{ED25519, UnparsedPublicKey};

/// Characters of a key.
const KEY_CHARS: usize = 56;
const ALPHABET: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";

/// Whose key it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum KeyKind {
    Operator,
    Account,
    User,
    Server,
    /// To seal for, not to sign with.
    Curve,
}

impl KeyKind {
    fn prefix(self) -> u8 {
        match self {
            Self::Operator => 14 << 3,
            Self::Account => 0,
            Self::User => 20 << 3,
            Self::Server => 13 << 3,
            Self::Curve => 23 << 3,
        }
    }
}

/// A public key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PublicKey([u8; 32]);

impl PublicKey {
    pub(crate) fn new(raw: [u8; 32]) -> Self {
        Self(raw)
    }

    /// The key behind 56 characters of base 32. None if it is not one of this kind.
    pub(crate) fn parse(text: &str, kind: KeyKind) -> Option<Self> {
        let raw = from_base32(text)?;
        let (body, sum) = raw.split_at_checked(33)?;
        let is_whole = sum == crc16(body).to_le_bytes();
        let (prefix, key) = body.split_first()?;
        (is_whole && *prefix == kind.prefix()).then_some(Self(key.try_into().ok()?))
    }

    /// As NATS writes a key of this kind.
    pub(crate) fn text(&self, kind: KeyKind) -> String {
        let mut raw = vec![kind.prefix()];
        raw.extend_from_slice(&self.0);
        raw.extend_from_slice(&crc16(&raw).to_le_bytes());
        to_base32(&raw)
    }

    pub(crate) fn bytes(&self) -> [u8; 32] {
        self.0
    }

    /// Whether `signature` is this key's for `message`.
    pub(crate) fn verify(&self, message: &[u8], signature: &[u8]) -> bool {
        UnparsedPublicKey::new(&ED25519, self.0)
            .verify(message, signature)
            .is_ok()
    }
}

/// CRC-16/XMODEM.
fn crc16(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0, |crc, byte| {
        (0..8).fold(crc ^ (u16::from(*byte) << 8), |crc: u16, _| {
            if crc & 0x8000 == 0 {
                crc << 1
            } else {
                (crc << 1) ^ 0x1021
            }
        })
    })
}

/// RFC 4648 base 32 without padding.
pub(crate) fn to_base32(bytes: &[u8]) -> String {
    let mut text = String::new();
    let (mut held, mut bits) = (0_u32, 0);
    for byte in bytes {
        held = (held << 8) | u32::from(*byte);
        bits += 8;
        while bits >= 5 {
            bits -= 5;
            text.push(char::from(ALPHABET[(held >> bits) as usize & 31]));
        }
        held &= (1 << bits) - 1;
    }
    if bits > 0 {
        text.push(char::from(ALPHABET[(held << (5 - bits)) as usize & 31]));
    }
    text
}

/// RFC 4648 base 32 without padding, of a key's length.
fn from_base32(text: &str) -> Option<Vec<u8>> {
    if text.len() != KEY_CHARS {
        return None;
    }
    let mut out = Vec::with_capacity(KEY_CHARS * 5 / 8);
    let (mut held, mut bits) = (0_u32, 0);
    for byte in text.bytes() {
        let value = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'2'..=b'7' => byte - b'2' + 26,
            _ => return None,
        };
        held = (held << 5) | u32::from(value);
        bits += 5;
        if bits >= 8 {
            bits -= 8;
            out.push((held >> bits) as u8);
            held &= (1 << bits) - 1;
        }
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// From `nats-server`'s documentation of nkeys; any user's key will do.
    const USER: &str = "UDXU4RCSJNZOIQHZNWXHXORDPRTGNJAHAHFRGZNEEJCPQTT2M7NLCNF4";

    #[test]
    fn keys_are_read_and_checked() {
        let key = PublicKey::parse(USER, KeyKind::User).unwrap();
        assert_eq!(key.text(KeyKind::User), USER);
        assert!(PublicKey::parse(USER, KeyKind::Account).is_none());
        for bad in [
            USER.replace('X', "Y"),
            USER.replace("NF4", "NF5"),
            "U".to_owned(),
            USER.to_lowercase(),
            "bob".to_owned(),
        ] {
            assert!(PublicKey::parse(&bad, KeyKind::User).is_none(), "{bad}");
        }
        for (kind, letter) in [
            (KeyKind::Server, 'N'),
            (KeyKind::Curve, 'X'),
            (KeyKind::Account, 'A'),
        ] {
            assert!(key.text(kind).starts_with(letter));
        }
    }

    #[test]
    fn texts_are_those_of_the_rfc() {
        assert_eq!(to_base32(b"foobar"), "MZXW6YTBOI");
        assert_eq!(to_base32(b"fooba"), "MZXW6YTB");
        assert_eq!(crc16(b"123456789"), 0x31c3);
    }

    #[test]
    fn a_signature_of_another_message_is_refused() {
        let pair = ring::signature::Ed25519KeyPair::from_seed_unchecked(&[7; 32]).unwrap();
        let key = PublicKey(
            ring::signature::KeyPair::public_key(&pair)
                .as_ref()
                .try_into()
                .unwrap(),
        );
        let signature = pair.sign(b"nonce");
        assert!(key.verify(b"nonce", signature.as_ref()));
        assert!(!key.verify(b"other", signature.as_ref()) && !key.verify(b"nonce", b""));
    }
}
