//! A client that says exactly what it is told, and reads packets as bytes.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// Longer than anything here takes: running into it is a failure.
const PATIENCE: Duration = Duration::from_secs(10);

pub(crate) struct Raw {
    stream: TcpStream,
}

/// One packet: first byte and what follows the length.
pub(crate) type Packet = (u8, Vec<u8>);

impl Raw {
    pub(crate) async fn open(address: SocketAddr) -> Self {
        Self {
            stream: TcpStream::connect(address).await.unwrap(),
        }
    }

    /// Connects and returns whether a session was present.
    pub(crate) async fn connect(address: SocketAddr, client_id: &str, clean: bool) -> (Self, bool) {
        Self::connect_with(address, &connect(client_id, clean, 0)).await
    }

    pub(crate) async fn connect_with(address: SocketAddr, connect: &[u8]) -> (Self, bool) {
        let mut raw = Self::open(address).await;
        raw.send(connect).await;
        let (first, body) = raw.packet().await;
        assert_eq!((first, body[1]), (0x20, 0), "connack: {body:?}");
        (raw, body[0] == 1)
    }

    /// `None`: the server is gone.
    pub(crate) async fn try_connect(address: SocketAddr, client_id: &str) -> Option<Self> {
        let mut raw = Self {
            stream: TcpStream::connect(address).await.ok()?,
        };
        raw.stream.write_all(&connect(client_id, true, 0)).await.ok()?;
        (raw.try_packet().await? == (0x20, vec![0, 0])).then_some(raw)
    }

    /// False: the server is gone.
    pub(crate) async fn try_send(&mut self, bytes: &[u8]) -> bool {
        self.stream.write_all(bytes).await.is_ok()
    }

    /// `None`: the server is gone.
    pub(crate) async fn try_packet(&mut self) -> Option<Packet> {
        timeout(PATIENCE, self.read_packet())
            .await
            .expect("a packet or the end in time")
    }

    pub(crate) async fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.unwrap();
    }

    pub(crate) async fn packet(&mut self) -> Packet {
        timeout(PATIENCE, self.read_packet())
            .await
            .expect("a packet in time")
            .expect("a packet, not the end")
    }

    /// Nothing but the end of the connection comes.
    pub(crate) async fn closed(&mut self) {
        let end = timeout(PATIENCE, self.read_packet())
            .await
            .expect("the end in time");
        assert_eq!(end, None);
    }

    /// Whether a packet comes, rather than the end.
    pub(crate) async fn alive(&mut self) -> bool {
        self.try_packet().await.is_some()
    }

    /// All packets up to the answer of a ping sent now, without it.
    pub(crate) async fn until_pong(&mut self) -> Vec<Packet> {
        self.send(b"\xc0\x00").await;
        let mut packets = Vec::new();
        loop {
            match self.packet().await {
                (0xd0, _) => return packets,
                packet => packets.push(packet),
            }
        }
    }

    pub(crate) async fn subscribe(&mut self, filter: &str, qos: u8) {
        let body = [&[0, 77][..], &text(filter), &[qos]].concat();
        self.send(&frame(0x82, &body)).await;
        assert_eq!(self.packet().await, (0x90, vec![0, 77, qos.min(1)]));
    }

    async fn read_packet(&mut self) -> Option<Packet> {
        let first = self.stream.read_u8().await.ok()?;
        let (mut len, mut shift) = (0, 0);
        loop {
            let byte = self.stream.read_u8().await.ok()?;
            len |= usize::from(byte & 0x7f) << shift;
            shift += 7;
            if byte & 0x80 == 0 {
                break;
            }
        }
        let mut body = vec![0; len];
        self.stream.read_exact(&mut body).await.ok()?;
        Some((first, body))
    }
}

pub(crate) fn frame(first: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![first];
    let mut len = body.len();
    while len > 0x7f {
        bytes.push(u8::try_from(len & 0x7f).unwrap() | 0x80);
        len >>= 7;
    }
    bytes.push(u8::try_from(len).unwrap());
    bytes.extend_from_slice(body);
    bytes
}

pub(crate) fn text(text: &str) -> Vec<u8> {
    [
        &u16::try_from(text.len()).unwrap().to_be_bytes()[..],
        text.as_bytes(),
    ]
    .concat()
}

pub(crate) fn connect(client_id: &str, clean: bool, keep_alive_s: u16) -> Vec<u8> {
    let head = [0, 4, b'M', b'Q', b'T', b'T', 4, u8::from(clean) << 1];
    frame(
        0x10,
        &[&head[..], &keep_alive_s.to_be_bytes(), &text(client_id)].concat(),
    )
}

pub(crate) fn connect_with_will(client_id: &str, topic: &str, payload: &str, flags: u8) -> Vec<u8> {
    let head = [0, 4, b'M', b'Q', b'T', b'T', 4, flags | 0b110, 0, 0];
    frame(
        0x10,
        &[&head[..], &text(client_id), &text(topic), &text(payload)].concat(),
    )
}

/// `flags`: the low four bits of the first byte.
pub(crate) fn publish(flags: u8, topic: &str, packet_id: u16, payload: &str) -> Vec<u8> {
    let mut body = text(topic);
    if flags & 0b0110 != 0 {
        body.extend_from_slice(&packet_id.to_be_bytes());
    }
    body.extend_from_slice(payload.as_bytes());
    frame(0x30 | flags, &body)
}

pub(crate) fn puback(packet_id: u16) -> Packet {
    (0x40, packet_id.to_be_bytes().to_vec())
}

/// What [`publish`] makes, as a packet.
pub(crate) fn published(flags: u8, topic: &str, packet_id: u16, payload: &str) -> Packet {
    let bytes = publish(flags, topic, packet_id, payload);
    (bytes[0], bytes[2..].to_vec())
}
