//! WebSocket byte by byte: what the upgrade brings, and compressed messages.

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress};
use serde_json::json;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

use crate::Server;
use crate::operator::{ACCOUNT, Key, OPERATOR, USER, account, user};
use crate::sharing::configured;

const BLOCK: &str = "websocket { listen: \"127.0.0.1:-1\", no_tls: true, compression: true, user_cookie: u, pass_cookie: p, \
                     token_cookie: t, jwt_cookie: j }";
const TAIL: [u8; 4] = [0, 0, 0xff, 0xff];
const PACKED: u8 = 0x40;

/// A client that has been upgraded.
struct Peer {
    stream: BufReader<TcpStream>,
    /// The answer to the upgrade.
    answer: String,
    /// How many of the frames that it got were compressed.
    packed_frames: usize,
}

impl Peer {
    /// Asks for an upgrade with these headers besides.
    async fn connect(server: &Server, headers: &str) -> Self {
        let at = server.broker.websocket_addr().unwrap();
        let mut stream = BufReader::new(TcpStream::connect(at).await.unwrap());
        let request = format!(
            "GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n{headers}\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        while !answer.ends_with("\r\n\r\n") {
            assert!(stream.read_line(&mut answer).await.unwrap() > 0, "{answer}");
        }
        Self {
            stream,
            answer: answer.to_lowercase(),
            packed_frames: 0,
        }
    }

    async fn send(&mut self, ops: &[u8]) {
        self.send_frame(0x82, ops).await;
    }

    async fn send_packed(&mut self, ops: &[u8]) {
        let mut packed = Vec::with_capacity(ops.len() + 1024);
        let mut packer = Compress::new(Compression::default(), false);
        packer
            .compress_vec(ops, &mut packed, FlushCompress::Sync)
            .unwrap();
        assert!(packed.ends_with(&TAIL));
        packed.truncate(packed.len() - TAIL.len());
        self.send_frame(0x82 | PACKED, &packed).await;
    }

    async fn send_frame(&mut self, first: u8, payload: &[u8]) {
        let mut frame = vec![first, 0x80 | 127];
        frame.extend_from_slice(&(payload.len() as u64).to_be_bytes());
        frame.extend_from_slice(&[0; 4]);
        frame.extend_from_slice(payload);
        // A server that ends the connection meanwhile is heard of when it is listened to.
        drop(self.stream.write_all(&frame).await);
    }

    /// What the server says until `end` is in it, or until it closes.
    async fn hear(&mut self, end: &str) -> String {
        let mut heard = String::new();
        while !heard.contains(end) {
            let Some(message) = self.message().await else {
                break;
            };
            heard.push_str(std::str::from_utf8(&message).unwrap());
        }
        heard
    }

    async fn message(&mut self) -> Option<Vec<u8>> {
        let first = self.stream.read_u8().await.ok()?;
        if first & 0x0f == 8 {
            return None;
        }
        let len = match self.stream.read_u8().await.ok()? {
            126 => u64::from(self.stream.read_u16().await.ok()?),
            127 => self.stream.read_u64().await.ok()?,
            len => u64::from(len),
        };
        let mut payload = vec![0; usize::try_from(len).unwrap()];
        self.stream.read_exact(&mut payload).await.ok()?;
        if first & PACKED == 0 {
            return Some(payload);
        }
        self.packed_frames += 1;
        payload.extend_from_slice(&TAIL);
        let mut message = Vec::with_capacity(1 << 20);
        Decompress::new(false)
            .decompress_vec(&payload, &mut message, FlushDecompress::Sync)
            .unwrap();
        Some(message)
    }
}

const OFFER: &str = "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n";

#[tokio::test]
async fn messages_are_compressed_for_who_offers_it() {
    let server = configured(&format!("max_payload: 64KB\n{BLOCK}")).await;
    let payload = "x".repeat(60_000);
    let publish = format!("PUB a 60000\r\n{payload}\r\nPING\r\n");
    for (offer, is_agreed) in [(OFFER, true), ("", false)] {
        let mut peer = Peer::connect(&server, offer).await;
        let agreement = "permessage-deflate; server_no_context_takeover; client_no_context_takeover";
        assert_eq!(peer.answer.contains(agreement), is_agreed, "{}", peer.answer);
        let hello = b"CONNECT {\"verbose\":false}\r\nSUB a 1\r\nPING\r\n";
        peer.send(hello).await;
        peer.hear("PONG\r\n").await;
        if is_agreed {
            peer.send_packed(publish.as_bytes()).await;
        } else {
            peer.send(publish.as_bytes()).await;
        }
        let heard = peer.hear("PONG\r\n").await;
        assert_eq!(heard, format!("MSG a 1 60000\r\n{payload}\r\nPONG\r\n"));
        assert_eq!(peer.packed_frames > 0, is_agreed);
    }
}

#[tokio::test]
async fn a_compressed_message_is_no_larger_than_others() {
    let server = configured(&format!("max_payload: 64KB\n{BLOCK}")).await;
    let mut bomb = Peer::connect(&server, OFFER).await;
    bomb.send_packed(&vec![b' '; 16 << 20]).await;
    assert!(!bomb.hear("PONG\r\n").await.contains("PONG"));
    // Who did not ask may not compress.
    let mut peer = Peer::connect(&server, "").await;
    peer.send_packed(b"CONNECT {\"verbose\":false}\r\nPING\r\n").await;
    assert!(!peer.hear("PONG\r\n").await.contains("PONG"));
    let mut other = Peer::connect(&server, OFFER).await;
    other
        .send_packed(b"CONNECT {\"verbose\":false}\r\nPING\r\n")
        .await;
    assert!(other.hear("PONG\r\n").await.ends_with("PONG\r\n"));
}

#[tokio::test]
async fn info_tells_of_the_port_that_the_client_came_to() {
    let server = configured(BLOCK).await;
    let port = server.broker.websocket_addr().unwrap().port();
    let info = Peer::connect(&server, "").await.hear("\r\n").await;
    assert!(
        info.contains(&format!("\"host\":\"127.0.0.1\",\"port\":{port},")),
        "{info}"
    );
    assert!(!info.contains("connect_urls") && !info.contains("tls"), "{info}");
}

#[tokio::test]
async fn cookies_say_who_a_client_is() {
    let users = configured(&format!(
        "{BLOCK}\nauthorization {{ user: ann, password: secret }}"
    ))
    .await;
    let token = configured(&format!("{BLOCK}\nauthorization {{ token: tok }}")).await;
    let (operator, system) = (Key::new(OPERATOR, 1), Key::new(ACCOUNT, 2));
    let (own, anybody) = (Key::new(ACCOUNT, 3), Key::new(USER, 4));
    let operated = {
        let o = operator.sign(
            &operator.public,
            "O",
            json!({"type": "operator", "system_account": system.public}),
        );
        let s = operator.sign(&system.public, "SYS", account(json!({})));
        let a = operator.sign(&own.public, "A", account(json!({})));
        let config = format!(
            "operator: {o}\nsystem_account: {}\nresolver: MEMORY\nresolver_preload: {{ {}: {s}, {}: {a} }}\n{BLOCK}",
            system.public, system.public, own.public,
        );
        configured(&config).await
    };
    let bearer = own.sign(&anybody.public, "u", user(json!({"bearer_token": true})));
    let (own_token, other_token) = (format!("j={bearer}"), format!("j={bearer}x"));
    let hello = "{\"verbose\":false}";
    for (server, cookie, connect, is_let_in) in [
        (&users, "u=ann; p=secret", hello, true),
        (&users, "u=ann; p=wrong", hello, false),
        (&users, "", hello, false),
        (&users, "u=ann", "{\"verbose\":false,\"pass\":\"secret\"}", true),
        // What CONNECT says stands.
        (
            &users,
            "u=ann; p=secret",
            "{\"verbose\":false,\"pass\":\"wrong\"}",
            false,
        ),
        (&token, "t=tok", hello, true),
        (&token, "t=other", hello, false),
        (&operated, own_token.as_str(), hello, true),
        (&operated, other_token.as_str(), hello, false),
    ] {
        let mut peer = Peer::connect(server, &format!("Cookie: {cookie}\r\n")).await;
        peer.send(format!("CONNECT {connect}\r\nPING\r\n").as_bytes())
            .await;
        let heard = peer.hear("PONG\r\n").await;
        assert_eq!(heard.contains("PONG"), is_let_in, "{cookie} {connect}: {heard}");
    }
}
