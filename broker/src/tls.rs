//! Certificates: what a `tls` block becomes, and who a client's certificate says it is.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{RootCertStore, ServerConfig, SupportedProtocolVersion, version};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use crate::options::{CertPair, Options, TlsOptions, TlsVersion};

/// What is wrong with a `tls` block's files or names.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file can't be read or holds something else.
    #[error("tls: {path}: {problem}")]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// Certificate, key or verifier are not usable together.
    #[error("tls: {0}")]
    Unusable(String),
}

/// Whether all certificates that the options name can be used.
pub fn check(options: &Options) -> Result<(), TlsError> {
    let websocket = options.websocket.as_ref().and_then(|ws| ws.tls.as_ref());
    for tls in options.tls.iter().chain(websocket) {
        server_config(tls)?;
    }
    Ok(())
}

/// The server's side of TLS, ready for handshakes.
pub(crate) fn server_config(options: &TlsOptions) -> Result<Arc<ServerConfig>, TlsError> {
    let provider = Arc::new(provider(options)?);
    let versions: &[&SupportedProtocolVersion] = match options.min_version {
        TlsVersion::V1_2 => &[&version::TLS12, &version::TLS13],
        TlsVersion::V1_3 => &[&version::TLS13],
    };
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(versions)
        .map_err(unusable)?;
    let builder = if options.verify {
        let roots = Arc::new(roots(options)?);
        let verifier = WebPkiClientVerifier::builder_with_provider(roots, Arc::clone(&provider))
            .build()
            .map_err(unusable)?;
        builder.with_client_cert_verifier(verifier)
    } else {
        builder.with_no_client_auth()
    };
    let pairs: Result<Vec<_>, _> = options
        .certs
        .iter()
        .map(|pair| certified(pair, &provider))
        .collect();
    let config = builder.with_cert_resolver(Arc::new(ByName(pairs?)));
    Ok(Arc::new(config))
}

/// ring's algorithms, as far as they are asked for.
fn provider(options: &TlsOptions) -> Result<CryptoProvider, TlsError> {
    let mut provider = ring::default_provider();
    if !options.cipher_suites.is_empty() {
        let all = std::mem::take(&mut provider.cipher_suites);
        for wanted in &options.cipher_suites {
            let found = all.iter().find(|suite| {
                let name = format!("{:?}", suite.suite());
                name.replace("TLS13_", "TLS_") == *wanted
            });
            // What is weak or unknown is not spoken: another suite of the list is.
            provider.cipher_suites.extend(found.copied());
        }
        if provider.cipher_suites.is_empty() {
            let names: Vec<String> = all.iter().map(|suite| format!("{:?}", suite.suite())).collect();
            let known = names.join(", ").replace("TLS13_", "TLS_");
            return Err(TlsError::Unusable(format!(
                "none of the cipher_suites is spoken here; there are {known}"
            )));
        }
    }
    if !options.curve_preferences.is_empty() {
        let all = std::mem::take(&mut provider.kx_groups);
        for wanted in &options.curve_preferences {
            let name = match wanted.as_str() {
                "CurveP256" => "secp256r1",
                "CurveP384" => "secp384r1",
                other => other,
            };
            let found = all
                .iter()
                .find(|group| format!("{:?}", group.name()).eq_ignore_ascii_case(name));
            provider.kx_groups.extend(found.copied());
        }
        if provider.kx_groups.is_empty() {
            let reason =
                "none of the curve_preferences is spoken here; there are X25519, CurveP256, CurveP384";
            return Err(TlsError::Unusable(reason.to_owned()));
        }
    }
    Ok(provider)
}

fn roots(options: &TlsOptions) -> Result<RootCertStore, TlsError> {
    let Some(path) = &options.ca_file else {
        let reason = "clients' certificates can't be verified without a ca_file; set one";
        return Err(TlsError::Unusable(reason.to_owned()));
    };
    let mut roots = RootCertStore::empty();
    for cert in certificates(path)? {
        roots.add(cert).map_err(|err| of_file(path, err))?;
    }
    Ok(roots)
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let read = CertificateDer::pem_file_iter(path).map_err(|err| of_file(path, err))?;
    let certs: Result<Vec<_>, _> = read.collect();
    let certs = certs.map_err(|err| of_file(path, err))?;
    if certs.is_empty() {
        return Err(of_file(path, "there is no certificate in it"));
    }
    Ok(certs)
}

fn certified(pair: &CertPair, provider: &CryptoProvider) -> Result<Arc<CertifiedKey>, TlsError> {
    let chain = certificates(&pair.cert_file)?;
    let key = PrivateKeyDer::from_pem_file(&pair.key_file).map_err(|err| of_file(&pair.key_file, err))?;
    let certified =
        CertifiedKey::from_der(chain, key, provider).map_err(|err| of_file(&pair.cert_file, err))?;
    Ok(Arc::new(certified))
}

fn of_file(path: &Path, problem: impl std::fmt::Display) -> TlsError {
    TlsError::File {
        path: path.to_owned(),
        problem: problem.to_string(),
    }
}

fn unusable(err: impl std::fmt::Display) -> TlsError {
    TlsError::Unusable(err.to_string())
}

/// The certificate that the client's name asks for, otherwise the first.
#[derive(Debug)]
struct ByName(Vec<Arc<CertifiedKey>>);

impl ResolvesServerCert for ByName {
    fn resolve(&self, hello: rustls::server::ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let named = hello
            .server_name()
            .and_then(|name| self.0.iter().find(|key| is_for(key, name)));
        named.or_else(|| self.0.first()).cloned()
    }
}

fn is_for(key: &CertifiedKey, name: &str) -> bool {
    key.end_entity_cert().is_ok_and(|cert| {
        let identity = CertIdentity::of(cert);
        identity
            .dns_names
            .iter()
            .any(|held| match held.strip_prefix("*.") {
                Some(suffix) => name
                    .split_once('.')
                    .is_some_and(|(_, rest)| rest.eq_ignore_ascii_case(suffix)),
                None => held.eq_ignore_ascii_case(name),
            })
    })
}

/// Who a certificate says its owner is. With `verify_and_map` a user's name is one of these.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct CertIdentity {
    /// E-mail addresses.
    pub(crate) emails: Vec<String>,
    /// DNS names.
    pub(crate) dns_names: Vec<String>,
    /// URIs.
    pub(crate) uris: Vec<String>,
    /// The subject as RFC 2253 writes it: the last part first.
    pub(crate) subject: String,
    /// The subject in the certificate's order.
    pub(crate) subject_in_order: String,
    /// SHA-256 of the public key.
    pub(crate) key_sha256: [u8; 32],
}

impl CertIdentity {
    /// Names that a user may have, best first. Source: nats-server, `verify_and_map`.
    pub(crate) fn names(self) -> Vec<String> {
        let mut names = self.emails;
        names.extend(self.dns_names);
        names.extend(self.uris);
        names.extend([self.subject, self.subject_in_order]);
        names
    }

    /// Reads a certificate; what can't be read is left out.
    pub(crate) fn of(cert: &CertificateDer<'_>) -> Self {
        let Ok((_, cert)) = X509Certificate::from_der(cert) else {
            return Self::default();
        };
        let mut identity = Self::default();
        if let Ok(Some(names)) = cert.subject_alternative_name() {
            for name in &names.value.general_names {
                match name {
                    GeneralName::RFC822Name(name) => identity.emails.push((*name).to_owned()),
                    GeneralName::DNSName(name) => identity.dns_names.push((*name).to_owned()),
                    GeneralName::URI(name) => identity.uris.push((*name).to_owned()),
                    _ => {}
                }
            }
        }
        let parts: Vec<String> = cert.subject().iter_rdn().map(rdn).collect();
        identity.subject_in_order = parts.join(",");
        identity.subject = parts.into_iter().rev().collect::<Vec<_>>().join(",");
        let sum = ::ring::digest::digest(&::ring::digest::SHA256, cert.public_key().raw);
        identity.key_sha256.copy_from_slice(sum.as_ref());
        identity
    }
}

/// One part of a subject: `CN=name`, or several of them joined by `+`.
fn rdn(part: &x509_parser::x509::RelativeDistinguishedName<'_>) -> String {
    let attributes: Vec<String> = part
        .iter()
        .map(|attribute| {
            let oid = attribute.attr_type().to_id_string();
            let name = match oid.as_str() {
                "2.5.4.3" => "CN",
                "2.5.4.5" => "SERIALNUMBER",
                "2.5.4.6" => "C",
                "2.5.4.7" => "L",
                "2.5.4.8" => "ST",
                "2.5.4.9" => "STREET",
                "2.5.4.10" => "O",
                "2.5.4.11" => "OU",
                "2.5.4.17" => "POSTALCODE",
                "0.9.2342.19200300.100.1.25" => "DC",
                "0.9.2342.19200300.100.1.1" => "UID",
                other => other,
            };
            let value = attribute.as_str().unwrap_or_default();
            format!("{name}={}", escaped(value))
        })
        .collect();
    attributes.join("+")
}

/// A value as RFC 2253 writes it.
fn escaped(value: &str) -> String {
    let mut text = String::new();
    let last = value.chars().count().saturating_sub(1);
    for (index, c) in value.chars().enumerate() {
        let at_edge = (c == ' ' && (index == 0 || index == last)) || (c == '#' && index == 0);
        if at_edge || matches!(c, ',' | '+' | '"' | '\\' | '<' | '>' | ';') {
            text.push('\\');
        }
        text.push(c);
    }
    text
}

#[cfg(test)]
mod tests;
