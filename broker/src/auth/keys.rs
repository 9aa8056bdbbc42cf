//! The server's own keys, which live as long as a run: one signs what it asks of services, one seals that. Source: NATS nkeys,
//! `xkeys.go`.

use crypto_box::aead::Aead as _;
use crypto_box::{Nonce, SalsaBox, SecretKey};
use ring::rand::{SecureRandom, SystemRandom};
use ring::signature::{Ed25519KeyPair, KeyPair as _};

use super::nkey::{KeyKind, PublicKey};

/// How everything sealed begins.
const SEAL_VERSION: &[u8] = b"xkv1";
const NONCE_BYTES: usize = 24;

/// A key that signs.
#[derive(Debug)]
pub(crate) struct SigningKey {
    pair: Ed25519KeyPair,
    /// Its public half, as NATS writes it.
    pub(crate) public: String,
}

impl SigningKey {
    /// A new one. None when the system gives no entropy.
    pub(crate) fn new(kind: KeyKind, random: &SystemRandom) -> Option<Self> {
        let pair = Ed25519KeyPair::from_seed_unchecked(&bytes::<32>(random)?).ok()?;
        let public = <[u8; 32]>::try_from(pair.public_key().as_ref()).ok()?;
        let public = PublicKey::new(public).text(kind);
        Some(Self { pair, public })
    }

    /// Its signature of `message`.
    pub(crate) fn sign(&self, message: &[u8]) -> Vec<u8> {
        self.pair.sign(message).as_ref().to_vec()
    }
}

/// The server's own keys.
pub(crate) struct ServerKeys {
    /// Signs; its public half names the server.
    pub(crate) signing: SigningKey,
    curve: SecretKey,
    /// What others seal for, as NATS writes it.
    pub(crate) xkey: String,
    random: SystemRandom,
}

impl std::fmt::Debug for ServerKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ServerKeys")
            .field("id", &self.signing.public)
            .finish_non_exhaustive()
    }
}

impl ServerKeys {
    /// New ones. None when the system gives no entropy.
    pub(crate) fn new() -> Option<Self> {
        let random = SystemRandom::new();
        let curve = SecretKey::from_bytes(bytes(&random)?);
        Some(Self {
            signing: SigningKey::new(KeyKind::Server, &random)?,
            xkey: PublicKey::new(*curve.public_key().as_bytes()).text(KeyKind::Curve),
            curve,
            random,
        })
    }

    /// A key for one user. None when the system gives no entropy.
    pub(crate) fn user(&self) -> Option<SigningKey> {
        SigningKey::new(KeyKind::User, &self.random)
    }

    /// `plain` for the owner of `to` alone. None when the system gives no entropy.
    pub(crate) fn seal(&self, plain: &[u8], to: &PublicKey) -> Option<Vec<u8>> {
        let nonce: [u8; NONCE_BYTES] = bytes(&self.random)?;
        let sealed = self.shared_with(to).encrypt(&Nonce::from(nonce), plain).ok()?;
        Some([SEAL_VERSION, &nonce, &sealed].concat())
    }

    /// What the owner of `from` sealed for this server. None: it is not that.
    pub(crate) fn open(&self, sealed: &[u8], from: &PublicKey) -> Option<Vec<u8>> {
        let rest = sealed.strip_prefix(SEAL_VERSION)?;
        let (nonce, sealed) = rest.split_first_chunk::<NONCE_BYTES>()?;
        self.shared_with(from).decrypt(&Nonce::from(*nonce), sealed).ok()
    }

    fn shared_with(&self, other: &PublicKey) -> SalsaBox {
        SalsaBox::new(&crypto_box::PublicKey::from(other.bytes()), &self.curve)
    }
}

/// Random bytes. None when the system gives no entropy.
fn bytes<const N: usize>(random: &SystemRandom) -> Option<[u8; N]> {
    let mut raw = [0; N];
    random.fill(&mut raw).ok()?;
    Some(raw)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A server whose curve key has this seed.
    fn of_seed(seed: u8) -> ServerKeys {
        let curve = SecretKey::from_bytes([seed; 32]);
        ServerKeys {
            xkey: PublicKey::new(*curve.public_key().as_bytes()).text(KeyKind::Curve),
            curve,
            ..ServerKeys::new().unwrap()
        }
    }

    fn public(keys: &ServerKeys) -> PublicKey {
        PublicKey::parse(&keys.xkey, KeyKind::Curve).unwrap()
    }

    #[test]
    fn only_the_one_it_is_for_opens_it() {
        let (a, b, c) = (of_seed(1), of_seed(2), of_seed(3));
        let sealed = a.seal(b"secret", &public(&b)).unwrap();
        assert_eq!(b.open(&sealed, &public(&a)).unwrap(), b"secret");
        assert!(c.open(&sealed, &public(&a)).is_none() && b.open(&sealed, &public(&c)).is_none());
        for cut in 0..sealed.len() {
            assert!(b.open(&sealed[..cut], &public(&a)).is_none());
            let mut bad = sealed.clone();
            bad[cut] ^= 1;
            assert!(b.open(&bad, &public(&a)).is_none());
        }
    }

    /// Sealed by nkeys 0.4.16 in Go: from seed `[1; 32]` for `[2; 32]`.
    #[test]
    fn what_nkeys_has_sealed_is_opened() {
        use base64::Engine as _;
        let (a, b) = (of_seed(1), of_seed(2));
        assert_eq!(a.xkey, GO_XKEY);
        let sealed = base64::engine::general_purpose::STANDARD
            .decode(GO_SEALED)
            .unwrap();
        assert_eq!(b.open(&sealed, &public(&a)).unwrap(), b"from nkeys");
    }

    const GO_XKEY: &str = "XCSOBEUSWZI4E6FZO4WFNH27VG5RHWIGWRVLNDE57HOCWRAJ7CRATSUK";
    const GO_SEALED: &str = "eGt2MTXrlqV/wWfulZjFjReMBhx22Hdu9NMwVxQEvcECuF+iSX8NZXhNEuDozy+YwNMEcOyS";
}
