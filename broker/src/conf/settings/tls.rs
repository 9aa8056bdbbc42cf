//! `tls` blocks.

use super::super::value::{Node, Value};
use super::reader::{Reader, go_duration};
use crate::options::{CertPair, HandshakeFirst, TlsOptions, TlsVersion};
use std::path::PathBuf;
use std::time::Duration;

/// How long `handshake_first: auto` waits for the client to begin.
const AUTO_FALLBACK: Duration = Duration::from_millis(50);

/// A `tls` block.
pub(super) fn read(reader: &mut Reader<'_>, node: &Node) -> Option<TlsOptions> {
    let table = reader.map("tls", node)?;
    let mut tls = TlsOptions::default();
    let (mut cert_file, mut key_file) = (None, None);
    for (key, item) in table.iter() {
        let name = key.to_ascii_lowercase();
        match name.as_str() {
            "cert_file" => cert_file = reader.path(key, item),
            "key_file" => key_file = reader.path(key, item),
            _ if set(reader, &mut tls, &name, item) || refuse(reader, &name, item) => {}
            _ => {
                let reason = format!("error parsing tls config, unknown field {key:?}");
                reader.error(&item.at, reason);
            }
        }
    }
    if !tls.certs.is_empty() && cert_file.is_some() {
        let reason = "error parsing tls config, cannot combine 'cert_file' option with 'certs' option";
        reader.error(&node.at, reason);
    }
    match (cert_file, key_file) {
        (Some(cert_file), Some(key_file)) => tls.certs.push(CertPair { cert_file, key_file }),
        (None, Some(_)) => reader.error(&node.at, "missing 'cert_file' in TLS configuration"),
        (Some(_), None) => reader.error(&node.at, "missing 'key_file' in TLS configuration"),
        (None, None) if tls.certs.is_empty() => {
            reader.error(
                &node.at,
                "no certificate in the TLS configuration; set 'cert_file' and 'key_file'",
            );
        }
        (None, None) => {}
    }
    Some(tls)
}

fn set(reader: &mut Reader<'_>, tls: &mut TlsOptions, key: &str, node: &Node) -> bool {
    match key {
        "ca_file" => tls.ca_file = reader.path(key, node),
        "verify" => tls.verify |= reader.bool(key, node) == Some(true),
        "verify_and_map" => {
            tls.verify_and_map = reader.bool(key, node) == Some(true);
            tls.verify |= tls.verify_and_map;
        }
        "insecure" | "allow_insecure_cipher_suites" | "cert_match_skip_invalid" => {
            reader.bool(key, node);
        }
        "cipher_suites" => tls.cipher_suites = names(reader, key, node),
        "curve_preferences" => tls.curve_preferences = names(reader, key, node),
        "timeout" => {
            if let Some(timeout) = reader.timeout(key, node).filter(|timeout| !timeout.is_zero()) {
                tls.timeout = timeout;
            }
        }
        "connection_rate_limit" => {
            if reader.int(key, node).is_some_and(|limit| limit > 0) {
                reader.warn(
                    node,
                    "connection_rate_limit has no effect; limit new connections in front of the server",
                );
            }
        }
        "pinned_certs" => pinned(reader, tls, node),
        "handshake_first" | "first" | "immediate" => {
            if let Some(first) = handshake_first(reader, key, node) {
                tls.handshake_first = first;
            }
        }
        "certs" | "certificates" => tls.certs = pairs(reader, node),
        "min_version" => match reader.string(key, node).as_deref() {
            Some("1.2") => tls.min_version = TlsVersion::V1_2,
            Some("1.3") => tls.min_version = TlsVersion::V1_3,
            Some(other) => {
                let reason = format!("error parsing tls config: unsupported TLS version: {other}");
                reader.error(&node.at, reason);
            }
            None => {}
        },
        _ => return false,
    }
    true
}

/// What is known and can't be done.
fn refuse(reader: &mut Reader<'_>, key: &str, node: &Node) -> bool {
    match key {
        "cert_store" | "cert_match_by" | "cert_match" | "ca_certs_match" => {
            reader.refuse(
                node,
                &format!("{key}: there is no certificate store here; use cert_file and key_file"),
            );
        }
        "ocsp_peer" => {
            if !matches!(node.value, Value::Bool(false)) {
                reader.refuse(
                    node,
                    "ocsp_peer: revocation is not asked for here; use short-lived certificates",
                );
            }
        }
        "verify_cert_and_check_known_urls" => {
            if !matches!(node.value, Value::Bool(false)) {
                reader.error(
                    &node.at,
                    "verify_cert_and_check_known_urls not supported in this context",
                );
            }
        }
        _ => return false,
    }
    true
}

fn names(reader: &mut Reader<'_>, key: &str, node: &Node) -> Vec<String> {
    let names = reader.strings(key, node).unwrap_or_default();
    if names.is_empty() {
        reader.error(
            &node.at,
            format!("error parsing tls config, '{key}' cannot be empty"),
        );
    }
    names
}

fn handshake_first(reader: &mut Reader<'_>, key: &str, node: &Node) -> Option<HandshakeFirst> {
    let text = match &node.value {
        Value::Bool(true) => return Some(HandshakeFirst::Yes),
        Value::Bool(false) => return Some(HandshakeFirst::No),
        Value::String(text) => text,
        _ => return reader.wrong_type(key, node, "a boolean or a string"),
    };
    Some(match text.to_ascii_lowercase().as_str() {
        "true" | "on" => HandshakeFirst::Yes,
        "false" | "off" => HandshakeFirst::No,
        "auto" | "auto_fallback" => HandshakeFirst::Within(AUTO_FALLBACK),
        _ => match go_duration(text).ok().and_then(|nanos| u64::try_from(nanos).ok()) {
            Some(nanos) => HandshakeFirst::Within(Duration::from_nanos(nanos)),
            None => {
                reader.error(&node.at, format!("field {key:?}'s value {text:?} is invalid"));
                return None;
            }
        },
    })
}

fn pinned(reader: &mut Reader<'_>, tls: &mut TlsOptions, node: &Node) {
    for text in reader.strings("pinned_certs", node).unwrap_or_default() {
        match sha256(&text) {
            Some(sum) => {
                tls.pinned_certs.insert(sum);
            }
            None => {
                let reason = format!(
                    "error parsing tls config, 'pinned_certs' key {text} does not look like hex-encoded sha256 \
                     of DER encoded SubjectPublicKeyInfo"
                );
                reader.error(&node.at, reason);
            }
        }
    }
}

fn sha256(text: &str) -> Option<[u8; 32]> {
    let mut sum = [0; 32];
    if text.len() != 64 {
        return None;
    }
    for (index, byte) in sum.iter_mut().enumerate() {
        *byte = u8::from_str_radix(text.get(2 * index..2 * index + 2)?, 16).ok()?;
    }
    Some(sum)
}

fn pairs(reader: &mut Reader<'_>, node: &Node) -> Vec<CertPair> {
    let mut pairs = Vec::new();
    for item in reader.array("certs", node).unwrap_or_default() {
        let Some(table) = reader.map("certs", item) else {
            continue;
        };
        let (mut cert_file, mut key_file) = (None::<PathBuf>, None);
        for (key, field) in table.iter() {
            match key {
                "cert_file" => cert_file = reader.path(key, field),
                "key_file" => key_file = reader.path(key, field),
                _ => {
                    let reason = format!("error parsing tls certs config, unknown field {key:?}");
                    reader.error(&field.at, reason);
                }
            }
        }
        match (cert_file, key_file) {
            (Some(cert_file), Some(key_file)) => pairs.push(CertPair { cert_file, key_file }),
            _ => {
                let reason =
                    "error parsing certificates config: both 'cert_file' and 'key_file' are required";
                reader.error(&item.at, reason);
            }
        }
    }
    pairs
}
