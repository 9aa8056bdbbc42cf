//! Public keys as NATS writes them, and signatures made with them. Source: NATS nkeys; RFC 8032.

use ring::signature::{ED25519, UnparsedPublicKey};

use crate::nats::info::crc16;

/// Whose key it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum KeyKind {
    Operator,
    Account,
    User,
}

impl KeyKind {
    fn prefix(self) -> u8 {
        match self {
            Self::Operator => 14 << 3,
            Self::Account => 0,
            Self::User => 20 << 3,
        }
    }
}

/// A public key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PublicKey([u8; 32]);

impl PublicKey {
    /// The key behind 56 characters of base 32. None if it is not one of this kind.
    pub(crate) fn parse(text: &str, kind: KeyKind) -> Option<Self> {
        let raw = base32(text)?;
        let (body, sum) = raw.split_at_checked(33)?;
        let is_whole = sum == crc16(body).to_le_bytes();
        let (prefix, key) = body.split_first()?;
        (is_whole && *prefix == kind.prefix()).then_some(Self(key.try_into().ok()?))
    }

    /// Whether `signature` is this key's for `message`.
    pub(crate) fn verify(&self, message: &[u8], signature: &[u8]) -> bool {
        UnparsedPublicKey::new(&ED25519, self.0)
            .verify(message, signature)
            .is_ok()
    }
}

/// RFC 4648 base 32 without padding, of a key's length.
fn base32(text: &str) -> Option<Vec<u8>> {
    const KEY_CHARS: usize = 56;
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
        assert!(PublicKey::parse(USER, KeyKind::User).is_some());
        let other = USER.replace('X', "Y");
        assert!(PublicKey::parse(&other, KeyKind::User).is_none());
        assert!(PublicKey::parse("U", KeyKind::User).is_none());
        assert!(PublicKey::parse(&USER.to_lowercase(), KeyKind::User).is_none());
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
