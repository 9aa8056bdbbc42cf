//! Monitoring over TLS: a listener whose connections have made the handshake, with the client port's certificate.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::serve::Listener;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::nats::listener::Shared;

/// Handshakes at a time.
const HANDSHAKES_MAX: usize = 64;
/// How long accepting pauses after an error such as too many open files.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Accepts connections that speak TLS.
pub(super) struct TlsListener {
    socket: TcpListener,
    shared: Arc<Shared>,
    handshakes: JoinSet<Option<(TlsStream<TcpStream>, SocketAddr)>>,
}

impl TlsListener {
    pub(super) fn new(socket: TcpListener, shared: Arc<Shared>) -> Self {
        Self {
            socket,
            shared,
            handshakes: JoinSet::new(),
        }
    }

    async fn begin(&mut self, accepted: std::io::Result<(TcpStream, SocketAddr)>) {
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(err) => {
                tracing::debug!(error = %err, "accepting a connection to monitoring failed");
                return tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        };
        let live = self.shared.live();
        let Some(tls) = &live.tls else { return };
        let (acceptor, limit) = (TlsAcceptor::from(Arc::clone(&tls.side.config)), tls.side.timeout);
        self.handshakes.spawn(async move {
            let stream = tokio::time::timeout(limit, acceptor.accept(stream)).await.ok()?;
            Some((stream.ok()?, peer))
        });
    }
}

impl Listener for TlsListener {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        loop {
            tokio::select! {
                Some(done) = self.handshakes.join_next() => {
                    if let Ok(Some(connection)) = done {
                        return connection;
                    }
                }
                accepted = self.socket.accept(), if self.handshakes.len() < HANDSHAKES_MAX => {
                    self.begin(accepted).await;
                }
            }
        }
    }

    fn local_addr(&self) -> std::io::Result<Self::Addr> {
        self.socket.local_addr()
    }
}
