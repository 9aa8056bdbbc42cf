//! How a connection begins: INFO, TLS and WebSocket, in the order that the port asks for. Source: NATS client protocol,
//! "TLS" and "WebSocket"; details as nats-server 2.15 has them.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::auth::Facts;
use crate::nats::entry::Entry;
use crate::nats::info::{AuthInfo, ServerInfo};
use crate::nats::listener::Shared;
use crate::nats::live::{Live, LiveTls, LiveWebsocket, TlsSide};
use crate::nats::serve::serve;
use crate::nats::transport::Socket;
use crate::nats::transport::tls::TlsSocket;
use crate::nats::transport::websocket::WsSocket;
use crate::nats::upgrade::Upgrade;
use crate::options::{ConnectionType, HandshakeFirst};
use crate::outbound::ClientId;
use crate::tls::CertIdentity;

/// The first byte of a TLS handshake.
const TLS_HANDSHAKE: u8 = 0x16;
/// Where a listener without a host listens.
const ANY_HOST: &str = "0.0.0.0";
/// A WebSocket message may be larger than a NATS one: clients put several in one.
const WS_MESSAGE_BYTES_MIN: usize = 8 << 20;

/// Which listener a connection came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Port {
    /// NATS clients.
    Client,
    /// NATS clients over WebSocket.
    Websocket,
}

/// A connection that begins.
pub(crate) struct Guest {
    pub(crate) id: ClientId,
    pub(crate) peer: SocketAddr,
    pub(crate) live: Arc<Live>,
    /// What INFO says, if that is not what all are told.
    pub(crate) info: Option<ServerInfo>,
    pub(crate) entry: Entry,
    /// INFO has been sent.
    pub(crate) is_greeted: bool,
    pub(crate) transport: Transport,
    /// How often it is pinged.
    pub(crate) ping_interval: Duration,
}

/// What a connection travels on, for monitoring.
#[derive(Clone, Debug, Default)]
pub(crate) struct Transport {
    pub(crate) is_websocket: bool,
    pub(crate) tls: Option<Box<TlsFacts>>,
}

/// What TLS came to.
#[derive(Clone, Debug)]
pub(crate) struct TlsFacts {
    pub(crate) version: &'static str,
    pub(crate) cipher: String,
    /// The subject of the client's certificate.
    pub(crate) subject: Option<String>,
}

/// Serves one connection from its first byte to its last, in tasks of its own: one for what comes first on TLS and
/// WebSocket, which most connections never need again, and another for all that follows.
pub(crate) fn enter(tcp: TcpStream, peer: SocketAddr, port: Port, shared: &Arc<Shared>) {
    let guest = match Guest::new(&tcp, peer, port, shared) {
        Ok(guest) => Box::new(guest),
        Err(err) => return say_refused(shared.next_client(), peer, &err),
    };
    let (id, live) = (guest.id, Arc::clone(&guest.live));
    let own = Arc::clone(shared);
    let is_plain = match port {
        Port::Client => live.tls.is_none(),
        Port::Websocket => false,
    };
    if is_plain {
        shared.tasks.spawn(serve(Arc::new(tcp), guest, own));
        return;
    }
    shared.tasks.spawn(async move {
        let entered = match (port, &live.tls, &live.websocket) {
            (Port::Client, Some(tls), _) => client_with_tls(tcp, guest, tls, own).await,
            (Port::Websocket, _, Some(ws)) => websocket(tcp, guest, ws, own).await,
            (Port::Client, None, _) | (Port::Websocket, _, None) => Ok(()),
        };
        if let Err(err) = entered {
            say_refused(id, peer, &err);
        }
    });
}

/// Anybody can bring this about, as often as they like.
fn say_refused(id: ClientId, peer: SocketAddr, err: &io::Error) {
    tracing::debug!(conn = id.0, %peer, error = %err, "a connection ended before it began");
}

/// The connection begins.
fn begin<S: Socket>(socket: S, guest: Box<Guest>, shared: Arc<Shared>) {
    let tasks = shared.tasks.clone();
    tasks.spawn(serve(Arc::new(socket), guest, shared));
}

impl Guest {
    /// A connection that has just come in.
    fn new(tcp: &TcpStream, peer: SocketAddr, port: Port, shared: &Shared) -> io::Result<Self> {
        tcp.set_nodelay(true)?;
        let nonce = shared
            .gate
            .nonce()
            .ok_or_else(|| io::Error::other("no entropy"))?;
        let connection_type = match port {
            Port::Client => ConnectionType::Standard,
            Port::Websocket => ConnectionType::Websocket,
        };
        let facts = Facts {
            nonce,
            connection_type: Some(connection_type),
            peer: Some(peer.ip()),
            ..Facts::default()
        };
        let live = shared.live();
        Ok(Self {
            id: shared.next_client(),
            peer,
            ping_interval: live.limits.ping_interval,
            live,
            info: None,
            entry: Entry::new(shared, facts),
            is_greeted: false,
            transport: Transport::default(),
        })
    }

    /// The INFO line.
    pub(crate) fn info(&self) -> Vec<u8> {
        let auth = AuthInfo {
            is_required: self.entry.is_required(),
            nonce: self.entry.nonce(),
        };
        let info = self.info.as_ref().unwrap_or(&self.live.info);
        info.line(self.id, self.peer.ip(), &auth)
    }

    /// Takes in what the TLS handshake has shown.
    fn know(&mut self, socket: &TlsSocket, side: &TlsSide) -> io::Result<()> {
        let identity = socket.peer_certificates().first().map(CertIdentity::of);
        if !side.allows(identity.as_ref()) {
            return Err(io::Error::other(
                "TLS handshake error: the certificate is not a pinned one",
            ));
        }
        let (version, cipher) = socket.protocol();
        self.transport.tls = Some(Box::new(TlsFacts {
            version,
            cipher,
            subject: identity.as_ref().map(|identity| identity.subject.clone()),
        }));
        if self.entry.asks_services() {
            let shown = socket.peer_certificates();
            self.entry
                .show_chain(shown.iter().map(|cert| pem(cert)).collect());
        }
        if let (true, Some(identity)) = (side.maps_certificates, identity) {
            self.entry.show_certificate(identity.names());
        }
        Ok(())
    }
}

/// A certificate as PEM. Source: RFC 7468.
fn pem(der: &[u8]) -> String {
    const LINE_CHARS: usize = 64;
    let text = STANDARD.encode(der);
    let mut out = "-----BEGIN CERTIFICATE-----\n".to_owned();
    // Base 64 is ASCII: every place is a boundary.
    for start in (0..text.len()).step_by(LINE_CHARS) {
        let end = text.len().min(start + LINE_CHARS);
        out.push_str(&text[start..end]);
        out.push('\n');
    }
    out.push_str("-----END CERTIFICATE-----\n");
    out
}

async fn client_with_tls(
    mut tcp: TcpStream,
    mut guest: Box<Guest>,
    tls: &LiveTls,
    shared: Arc<Shared>,
) -> io::Result<()> {
    let is_first = match tls.handshake_first {
        HandshakeFirst::No => false,
        HandshakeFirst::Yes => true,
        HandshakeFirst::Within(delay) => begins_tls(&tcp, delay).await?,
    };
    if !is_first {
        let hello = guest.info();
        within(tls.side.timeout, tcp.write_all(&hello)).await?;
        guest.is_greeted = true;
        if !tls.is_required && !begins_tls(&tcp, tls.side.timeout).await? {
            begin(tcp, guest, shared);
            return Ok(());
        }
    }
    let socket = handshake(tcp, &tls.side).await?;
    guest.know(&socket, &tls.side)?;
    begin(socket, guest, shared);
    Ok(())
}

async fn websocket(
    tcp: TcpStream,
    mut guest: Box<Guest>,
    ws: &LiveWebsocket,
    shared: Arc<Shared>,
) -> io::Result<()> {
    guest.transport.is_websocket = true;
    // As nats-server: the port that the client has come to, and the TLS of that port.
    let host = &ws.options.listen.host;
    guest.info = Some(ServerInfo {
        host: if host.is_empty() { ANY_HOST } else { host }.to_owned(),
        port: tcp.local_addr()?.port(),
        tls_required: ws.tls.is_some(),
        tls_available: ws.tls.is_some(),
        ..guest.live.info.clone()
    });
    guest.ping_interval = ws.options.ping_interval.unwrap_or(guest.ping_interval);
    match &ws.tls {
        None => upgraded(tcp, guest, ws, shared).await,
        Some(side) => {
            let socket = handshake(tcp, side).await?;
            guest.know(&socket, side)?;
            upgraded(socket, guest, ws, shared).await
        }
    }
}

async fn upgraded<S: Socket>(
    socket: S,
    mut guest: Box<Guest>,
    ws: &LiveWebsocket,
    shared: Arc<Shared>,
) -> io::Result<()> {
    let message_bytes_max = guest
        .live
        .limits
        .max_payload_bytes
        .saturating_mul(2)
        .max(WS_MESSAGE_BYTES_MIN);
    let upgrade = Upgrade::new(&ws.options, ws.tls.is_some());
    let found = upgrade.found();
    let accepting = WsSocket::accept(socket, upgrade, message_bytes_max);
    let mut socket = within(ws.options.handshake_timeout, accepting).await?;
    let brought = found.take();
    guest.entry.show_cookies(brought.cookies);
    if brought.compresses {
        // A publish of the largest payload, with its control line.
        let limits = &guest.live.limits;
        socket = socket.compressing(limits.max_payload_bytes + limits.max_control_line_bytes);
    }
    begin(socket, guest, shared);
    Ok(())
}

async fn handshake(tcp: TcpStream, side: &TlsSide) -> io::Result<TlsSocket> {
    let accepting = TlsSocket::accept(tcp, Arc::clone(&side.config));
    within(side.timeout, accepting)
        .await
        .map_err(|err| io::Error::new(err.kind(), format!("TLS handshake error: {err}")))
}

/// Whether the peer's first byte, if it comes within `delay`, begins a TLS handshake.
async fn begins_tls(tcp: &TcpStream, delay: Duration) -> io::Result<bool> {
    let mut first = [0];
    match timeout(delay, tcp.peek(&mut first)).await {
        Ok(count) => Ok(count? > 0 && first == [TLS_HANDSHAKE]),
        Err(_) => Ok(false),
    }
}

async fn within<T>(limit: Duration, work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    timeout(limit, work).await.map_err(|_| io::ErrorKind::TimedOut)?
}
