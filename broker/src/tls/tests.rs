use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, SanType};

use super::*;

fn pem(dir: &Path, name: &str, text: &str) -> PathBuf {
    let path = dir.join(name);
    std::fs::write(&path, text).unwrap();
    path
}

#[test]
fn a_certificate_says_who_its_owner_is() {
    let mut params = CertificateParams::new(vec!["device.example".to_owned()]).unwrap();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CountryName, "NL");
    params
        .distinguished_name
        .push(DnType::OrganizationName, "Lake, Inc.");
    params.distinguished_name.push(DnType::CommonName, "device1");
    let email = "derek@nats.io".try_into().unwrap();
    params.subject_alt_names.push(SanType::Rfc822Name(email));
    let key = KeyPair::generate().unwrap();
    let cert = params.self_signed(&key).unwrap();
    let identity = CertIdentity::of(cert.der());
    assert_eq!(identity.dns_names, ["device.example"]);
    assert_eq!(identity.emails, ["derek@nats.io"]);
    assert!(
        identity.subject.ends_with("O=Lake\\, Inc.,C=NL"),
        "{}",
        identity.subject
    );
    assert!(identity.subject_in_order.starts_with("C=NL,O=Lake\\, Inc."));
    assert_ne!(identity.key_sha256, [0; 32]);
    assert_eq!(
        CertIdentity::of(&CertificateDer::from(vec![1, 2, 3])),
        CertIdentity::default()
    );
}

#[test]
fn files_and_names_that_are_wrong_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let key = KeyPair::generate().unwrap();
    let cert = CertificateParams::new(vec!["localhost".to_owned()])
        .unwrap()
        .self_signed(&key)
        .unwrap();
    let cert_file = pem(dir.path(), "cert.pem", &cert.pem());
    let key_file = pem(dir.path(), "key.pem", &key.serialize_pem());
    let other = pem(
        dir.path(),
        "other.pem",
        &KeyPair::generate().unwrap().serialize_pem(),
    );
    let with = |cert_file: &Path, key_file: &Path| TlsOptions {
        certs: vec![CertPair {
            cert_file: cert_file.to_owned(),
            key_file: key_file.to_owned(),
        }],
        ..TlsOptions::default()
    };
    server_config(&with(&cert_file, &key_file)).unwrap();
    let problem = |options: &TlsOptions| server_config(options).unwrap_err().to_string();
    assert!(problem(&with(Path::new("/nowhere.pem"), &key_file)).starts_with("tls: /nowhere.pem"));
    assert!(problem(&with(&key_file, &key_file)).contains("there is no certificate in it"));
    assert!(problem(&with(&cert_file, &other)).contains("cert.pem"));
    let verify = TlsOptions {
        verify: true,
        ..with(&cert_file, &key_file)
    };
    assert!(problem(&verify).contains("set one"));
    let suites = |names: &[&str]| TlsOptions {
        cipher_suites: names.iter().map(|name| (*name).to_owned()).collect(),
        ..with(&cert_file, &key_file)
    };
    server_config(&suites(&["TLS_RSA_WITH_RC4_128_SHA", "TLS_AES_128_GCM_SHA256"])).unwrap();
    assert!(problem(&suites(&["TLS_RSA_WITH_RC4_128_SHA"])).contains("there are TLS_AES_256_GCM_SHA384"));
}
