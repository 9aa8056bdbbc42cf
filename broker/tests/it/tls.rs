//! The ports and what they speak: TLS, WebSocket, no JetStream; with the `async-nats` client and byte by byte.

use std::path::PathBuf;
use std::time::Duration;

use async_nats::ConnectOptions;
use futures::StreamExt;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use tarn_broker::options::{
    AuthOptions, CertPair, Credential, HandshakeFirst, HostPort, Options, Secret, TlsOptions, UserOptions,
    WebsocketOptions,
};
use tarn_broker::server::{Broker, BrokerConfig};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

use super::Server;

/// A certificate authority, a server's certificate and a client's, as files.
struct Certs {
    dir: TempDir,
    ca: CertifiedIssuer<'static, KeyPair>,
}

impl Certs {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut params = CertificateParams::new(vec![]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        std::fs::write(dir.path().join("ca.pem"), ca.pem()).unwrap();
        let certs = Self { dir, ca };
        certs.issue("server", "localhost");
        certs.issue("client", "device1");
        certs
    }

    /// Writes `<file>.pem` and `<file>.key` of a certificate for `name`.
    fn issue(&self, file: &str, name: &str) {
        let mut params = CertificateParams::new(vec![name.to_owned(), "127.0.0.1".to_owned()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().unwrap();
        let cert = params.signed_by(&key, &self.ca).unwrap();
        std::fs::write(self.file(&format!("{file}.pem")), cert.pem()).unwrap();
        std::fs::write(self.file(&format!("{file}.key")), key.serialize_pem()).unwrap();
    }

    fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn tls(&self) -> TlsOptions {
        TlsOptions {
            certs: vec![CertPair {
                cert_file: self.file("server.pem"),
                key_file: self.file("server.key"),
            }],
            ca_file: Some(self.file("ca.pem")),
            ..TlsOptions::default()
        }
    }

    fn connect(&self) -> ConnectOptions {
        ConnectOptions::new()
            .add_root_certificates(self.file("ca.pem"))
            .require_tls(true)
    }
}

async fn start(change: impl FnOnce(&mut BrokerConfig)) -> Server {
    let dir = tempfile::tempdir().unwrap();
    let mut config = BrokerConfig::new(dir.path().join("store"), "127.0.0.1:0");
    config.limits.ping_interval = Duration::from_secs(1);
    change(&mut config);
    let broker = Broker::start(config).await.unwrap();
    Server { broker, dir }
}

fn url(scheme: &str, server: &Server) -> String {
    format!("{scheme}://localhost:{}", server.broker.client_addr().port())
}

/// Publishes and takes messages of all sizes, and uses JetStream.
async fn use_it(client: async_nats::Client) {
    let mut sub = client.subscribe("sizes").await.unwrap();
    client.flush().await.unwrap();
    for size in [0, 1, 1000, 70_000, 1 << 20] {
        client.publish("sizes", vec![7; size].into()).await.unwrap();
    }
    for size in [0, 1, 1000, 70_000, 1 << 20] {
        let msg = tokio::time::timeout(Duration::from_secs(20), sub.next()).await;
        assert_eq!(msg.expect("in time").expect("a message").payload.len(), size);
    }
    let jetstream = async_nats::jetstream::new(client);
    let config = async_nats::jetstream::stream::Config {
        name: "S".into(),
        subjects: vec!["s.>".into()],
        ..Default::default()
    };
    jetstream.create_stream(config).await.unwrap();
    let ack = jetstream
        .publish("s.1", "kept".into())
        .await
        .unwrap()
        .await
        .unwrap();
    assert_eq!(ack.sequence, 1);
}

#[tokio::test]
async fn the_handshake_comes_after_info_or_first() {
    let certs = Certs::new();
    for first in [
        HandshakeFirst::No,
        HandshakeFirst::Yes,
        HandshakeFirst::Within(Duration::from_millis(300)),
    ] {
        let server = start(|config| {
            config.tls = Some(TlsOptions {
                handshake_first: first,
                ..certs.tls()
            });
        })
        .await;
        let mut options = certs.connect();
        if first != HandshakeFirst::No {
            options = options.tls_first();
        }
        use_it(options.connect(url("tls", &server)).await.unwrap()).await;
        if let HandshakeFirst::Within(_) = first {
            let later = certs.connect().connect(url("tls", &server)).await.unwrap();
            assert!(later.server_info().tls_required);
        }
        server.broker.shutdown().await;
    }
}

#[tokio::test]
async fn plain_text_only_where_it_is_allowed() {
    let certs = Certs::new();
    for allow_non_tls in [false, true] {
        let server = start(|config| {
            config.tls = Some(certs.tls());
            config.allow_non_tls = allow_non_tls;
        })
        .await;
        let mut plain = BufReader::new(TcpStream::connect(server.broker.client_addr()).await.unwrap());
        let mut info = String::new();
        plain.read_line(&mut info).await.unwrap();
        assert_eq!(info.contains("\"tls_required\":true"), !allow_non_tls, "{info}");
        assert_eq!(info.contains("\"tls_available\":true"), allow_non_tls, "{info}");
        plain
            .write_all(b"CONNECT {\"verbose\":false}\r\nPING\r\n")
            .await
            .unwrap();
        let mut answer = Vec::new();
        if allow_non_tls {
            answer.resize(6, 0);
            plain.read_exact(&mut answer).await.unwrap();
            assert_eq!(answer, b"PONG\r\n");
        } else {
            // An alert, or nothing; but no word of NATS.
            drop(plain.read_to_end(&mut answer).await);
            assert!(!answer.starts_with(b"PONG"));
        }
        use_it(certs.connect().connect(url("tls", &server)).await.unwrap()).await;
        server.broker.shutdown().await;
    }
}

#[tokio::test]
async fn a_clients_certificate_says_who_it_is() {
    let certs = Certs::new();
    certs.issue("stranger", "stranger");
    let server = start(|config| {
        config.tls = Some(TlsOptions {
            verify: true,
            verify_and_map: true,
            ..certs.tls()
        });
        config.auth = AuthOptions {
            users: vec![UserOptions {
                credential: Credential::Password {
                    user: "device1".to_owned(),
                    password: Secret::default(),
                },
                account: "$G".to_owned(),
                permissions: None,
                connection_types: Default::default(),
            }],
            ..AuthOptions::default()
        };
    })
    .await;
    let with = |name: &str| {
        let cert = certs.file(&format!("{name}.pem"));
        certs
            .connect()
            .add_client_certificate(cert, certs.file(&format!("{name}.key")))
    };
    use_it(with("client").connect(url("tls", &server)).await.unwrap()).await;
    let err = with("stranger").connect(url("tls", &server)).await.unwrap_err();
    assert!(err.to_string().contains("authorization violation"), "{err}");
    assert!(certs.connect().connect(url("tls", &server)).await.is_err());
    server.broker.shutdown().await;
}

#[tokio::test]
async fn a_silent_peer_is_let_go_after_the_timeout() {
    let certs = Certs::new();
    let server = start(|config| {
        config.tls = Some(TlsOptions {
            timeout: Duration::from_millis(50),
            ..certs.tls()
        });
    })
    .await;
    let mut silent = TcpStream::connect(server.broker.client_addr()).await.unwrap();
    let mut said = Vec::new();
    let read = tokio::time::timeout(Duration::from_secs(10), silent.read_to_end(&mut said));
    drop(read.await.expect("the connection ends"));
    assert!(said.starts_with(b"INFO "));
    server.broker.shutdown().await;
}

#[tokio::test]
async fn certificates_are_reloaded() {
    let certs = Certs::new();
    let server = start(|config| config.tls = Some(certs.tls())).await;
    let before = certs.connect().connect(url("tls", &server)).await.unwrap();
    let other = Certs::new();
    let new = Options {
        tls: Some(other.tls()),
        ..Options::default()
    };
    server.broker.reload(&Options::default(), &new).unwrap();
    use_it(other.connect().connect(url("tls", &server)).await.unwrap()).await;
    assert!(certs.connect().connect(url("tls", &server)).await.is_err());
    before.flush().await.unwrap();
    let missing = Options {
        tls: Some(TlsOptions {
            ca_file: Some("/nowhere.pem".into()),
            verify: true,
            ..other.tls()
        }),
        ..Options::default()
    };
    let err = server.broker.reload(&new, &missing).unwrap_err();
    assert!(err.to_string().contains("/nowhere.pem"), "{err}");
    use_it_again(&other, &server).await;
    server.broker.shutdown().await;
}

async fn use_it_again(certs: &Certs, server: &Server) {
    let client = certs.connect().connect(url("tls", server)).await.unwrap();
    client.flush().await.unwrap();
}

#[tokio::test]
async fn the_same_session_over_websocket() {
    let certs = Certs::new();
    for tls in [None, Some(certs.tls())] {
        let is_secure = tls.is_some();
        let server = start(|config| {
            config.websocket = Some(WebsocketOptions {
                listen: HostPort {
                    host: "127.0.0.1".to_owned(),
                    port: 0,
                },
                no_tls: !is_secure,
                tls,
                ..WebsocketOptions::default()
            });
        })
        .await;
        let port = server.broker.websocket_addr().unwrap().port();
        let client = if is_secure {
            certs.connect().connect(format!("wss://localhost:{port}")).await
        } else {
            ConnectOptions::new()
                .connect(format!("ws://localhost:{port}"))
                .await
        };
        use_it(client.unwrap()).await;
        server.broker.shutdown().await;
    }
}

#[tokio::test]
async fn a_websocket_client_that_takes_nothing_is_cut_off() {
    let server = start(|config| {
        config.limits.max_pending_bytes = 1 << 20;
        config.websocket = Some(WebsocketOptions {
            no_tls: true,
            listen: HostPort {
                host: "127.0.0.1".to_owned(),
                port: 0,
            },
            ..WebsocketOptions::default()
        });
    })
    .await;
    let mut slow = TcpStream::connect(server.broker.websocket_addr().unwrap())
        .await
        .unwrap();
    slow.write_all(
        b"GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
          Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n",
    )
    .await
    .unwrap();
    let mut slow = BufReader::new(slow);
    let mut line = String::new();
    while line != "\r\n" {
        line.clear();
        slow.read_line(&mut line).await.unwrap();
    }
    let ops = b"CONNECT {\"verbose\":false}\r\nSUB > 1\r\nPING\r\n";
    let mut frame = vec![0x82, 0x80 | u8::try_from(ops.len()).unwrap(), 0, 0, 0, 0];
    frame.extend_from_slice(ops);
    slow.write_all(&frame).await.unwrap();
    let mut said = Vec::new();
    while !said.ends_with(b"PONG\r\n") {
        said.push(slow.read_u8().await.unwrap());
    }
    let client = server.client().await;
    let mut sent = 0;
    while server.broker.stats().slow_consumers == 0 {
        client.publish("flood", vec![0; 256 << 10].into()).await.unwrap();
        client.flush().await.unwrap();
        sent += 1;
        assert!(sent < 1000, "not cut off after {sent} messages");
    }
    server.broker.shutdown().await;
}

#[tokio::test]
async fn without_jetstream_nobody_answers_for_it() {
    let server = start(|config| config.jetstream.enabled = false).await;
    let client = server.client().await;
    let err = client.request("$JS.API.INFO", "".into()).await.unwrap_err();
    assert_eq!(err.kind(), async_nats::RequestErrorKind::NoResponders);
    server.broker.shutdown().await;
}

#[tokio::test]
async fn monitoring_over_tls() {
    let certs = Certs::new();
    let server = start(|config| {
        config.tls = Some(certs.tls());
        config.monitor_tls_listen = Some("127.0.0.1:0".to_owned());
    })
    .await;
    let at = server.broker.monitor_tls_addr().unwrap();
    // A peer that does not speak TLS does not stop the others.
    let _idle = TcpStream::connect(at).await.unwrap();
    let mut roots = tokio_rustls::rustls::RootCertStore::empty();
    roots.add(certs.ca.der().clone()).unwrap();
    let provider = std::sync::Arc::new(tokio_rustls::rustls::crypto::ring::default_provider());
    let config = tokio_rustls::rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let connector = tokio_rustls::TlsConnector::from(std::sync::Arc::new(config));
    let tcp = TcpStream::connect(at).await.unwrap();
    let mut stream = connector
        .connect("localhost".try_into().unwrap(), tcp)
        .await
        .unwrap();
    stream.write_all(b"GET /healthz HTTP/1.0\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    drop(stream.read_to_string(&mut answer).await);
    assert!(
        answer.starts_with("HTTP/1.0 200") || answer.starts_with("HTTP/1.1 200"),
        "{answer}"
    );
    server.broker.shutdown().await;
}
