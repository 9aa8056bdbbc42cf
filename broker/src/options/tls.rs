//! What a `tls` block can say.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

/// What a `tls` block says.
#[derive(Clone, Debug, PartialEq)]
pub struct TlsOptions {
    /// The server's certificates: the first is used unless the client's name asks for another.
    pub certs: Vec<CertPair>,
    /// Certificates that clients' are verified against; none: the system's.
    pub ca_file: Option<PathBuf>,
    /// Clients must have a certificate.
    pub verify: bool,
    /// The client's certificate says which user it is.
    pub verify_and_map: bool,
    /// How long the handshake may take.
    pub timeout: Duration,
    /// Whether the handshake comes before INFO.
    pub handshake_first: HandshakeFirst,
    /// The oldest version that is spoken.
    pub min_version: TlsVersion,
    /// Cipher suites by their IANA names, in order; empty: the default.
    pub cipher_suites: Vec<String>,
    /// Key exchanges, in order; empty: the default.
    pub curve_preferences: Vec<String>,
    /// SHA-256 of the public keys that clients may have; empty: any.
    pub pinned_certs: BTreeSet<[u8; 32]>,
}

/// Files, PEM, of a certificate with its chain and its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertPair {
    /// The certificate and its chain.
    pub cert_file: PathBuf,
    /// Its key.
    pub key_file: PathBuf,
}

/// Whether the TLS handshake comes before INFO.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HandshakeFirst {
    /// INFO is first.
    #[default]
    No,
    /// The handshake is first.
    Yes,
    /// The handshake is first if it begins within this time; otherwise INFO is.
    Within(Duration),
}

/// A version of TLS.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum TlsVersion {
    /// 1.2
    #[default]
    V1_2,
    /// 1.3
    V1_3,
}

impl Default for TlsOptions {
    fn default() -> Self {
        Self {
            certs: Vec::new(),
            ca_file: None,
            verify: false,
            verify_and_map: false,
            timeout: Duration::from_secs(2),
            handshake_first: HandshakeFirst::No,
            min_version: TlsVersion::V1_2,
            cipher_suites: Vec::new(),
            curve_preferences: Vec::new(),
            pinned_certs: BTreeSet::new(),
        }
    }
}
