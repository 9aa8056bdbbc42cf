//! The listening socket, its limits, and the tasks of its connections.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustix::net::sockopt;
use thiserror::Error;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::connection;
use super::registry::Registry;
use super::retained::RetainedMessages;
use super::session::SessionLimits;
use super::stats::{Counters, MqttStats};
use crate::ingest::Ingest;

/// Silence after which the system asks whether the peer is still there, how often it asks again, and how many times.
const TCP_KEEPALIVE_IDLE: Duration = Duration::from_secs(120);
const TCP_KEEPALIVE_INTERVAL: Duration = Duration::from_secs(20);
const TCP_KEEPALIVE_PROBES: u32 = 4;

/// Settings of the MQTT front end. All bounds are on.
#[derive(Clone, Debug)]
pub struct MqttConfig {
    /// Address to bind, `host:port`.
    pub listen: String,
    /// Most bytes of a payload.
    pub payload_bytes_max: usize,
    /// Time for CONNECT to arrive in.
    pub connect_timeout: Duration,
    /// Connections open at a time; more are closed as soon as they are accepted.
    pub connections_max: usize,
    /// Sessions, kept ones included; more are refused.
    pub sessions_max: usize,
    /// How long a session is kept for a client that is away.
    pub session_expiry: Duration,
    /// QoS 1 publishes of one connection that await the disk, before no more is read from it.
    pub awaiting_max: usize,
    /// Retained messages.
    pub retained_max: usize,
    /// Bytes of them (topic and payload).
    pub retained_bytes_max: usize,
    /// How long connections may take to finish what was read, on shutdown.
    pub drain_timeout: Duration,
    /// Bounds of each session.
    pub session: SessionLimits,
}

impl Default for MqttConfig {
    fn default() -> Self {
        Self {
            listen: "127.0.0.1:1883".to_owned(),
            payload_bytes_max: 1024 * 1024,
            connect_timeout: Duration::from_secs(5),
            connections_max: 65_536,
            sessions_max: 100_000,
            session_expiry: Duration::from_secs(24 * 60 * 60),
            awaiting_max: 4_096,
            retained_max: 100_000,
            retained_bytes_max: 64 * 1024 * 1024,
            drain_timeout: Duration::from_secs(10),
            session: SessionLimits::default(),
        }
    }
}

/// The MQTT port can't be opened.
#[derive(Debug, Error)]
#[error("cannot listen for mqtt on {listen}: {error}")]
pub struct BindError {
    /// As configured.
    pub listen: String,
    /// What the system says.
    #[source]
    pub error: std::io::Error,
}

impl BindError {
    /// Whether another process has the port.
    pub fn is_port_in_use(&self) -> bool {
        self.error.kind() == std::io::ErrorKind::AddrInUse
    }
}

/// What all connections share.
pub(super) struct Shared {
    pub(super) config: MqttConfig,
    pub(super) limits: Arc<SessionLimits>,
    pub(super) ingest: Arc<dyn Ingest>,
    pub(super) registry: Registry,
    pub(super) retained: RetainedMessages,
    pub(super) counters: Arc<Counters>,
    /// Cancelled: finish what was read, then close.
    pub(super) drain: CancellationToken,
}

/// The running front end. Dropping it stops accepting and closes every connection, without waiting for any.
pub struct MqttServer {
    shared: Arc<Shared>,
    tasks: TaskTracker,
    local_addr: SocketAddr,
    /// Cancelled: close at once.
    abort: CancellationToken,
}

impl MqttServer {
    /// Opens the port and accepts connections. Messages go to `ingest` and come from it.
    pub async fn bind(config: MqttConfig, ingest: Arc<dyn Ingest>) -> Result<Self, BindError> {
        let bind_error = |error| BindError {
            listen: config.listen.clone(),
            error,
        };
        let listener = TcpListener::bind(&config.listen).await.map_err(bind_error)?;
        let local_addr = listener.local_addr().map_err(bind_error)?;
        let shared = Arc::new(Shared {
            limits: Arc::new(config.session.clone()),
            ingest,
            registry: Registry::new(config.sessions_max),
            retained: RetainedMessages::new(config.retained_max, config.retained_bytes_max),
            counters: Arc::default(),
            drain: CancellationToken::new(),
            config,
        });
        let (tasks, abort) = (TaskTracker::new(), CancellationToken::new());
        let accept = accept(listener, Arc::clone(&shared), tasks.clone(), abort.clone());
        tasks.spawn(accept);
        tracing::info!(listen = %local_addr, "mqtt listening");
        Ok(Self {
            shared,
            tasks,
            local_addr,
            abort,
        })
    }

    /// The address bound.
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// Counts since the start, and levels now.
    pub fn stats(&self) -> MqttStats {
        let level = self.shared.retained.level();
        MqttStats {
            sessions: self.shared.registry.count() as u64,
            retained_count: level.count as u64,
            retained_bytes: level.bytes as u64,
            retained_refused: level.refused,
            ..self.shared.counters.snapshot()
        }
    }

    /// Stops accepting, lets every connection finish what was read (their PUBACKs go out when the messages are on disk), and
    /// closes. Connections that take longer than `drain_timeout` are cut off; their clients resend what was not acknowledged.
    pub async fn shutdown(self) {
        self.shared.drain.cancel();
        self.tasks.close();
        if timeout(self.shared.config.drain_timeout, self.tasks.wait())
            .await
            .is_err()
        {
            tracing::warn!(
                connections = self.tasks.len(),
                "mqtt connections cut off: they took too long to drain"
            );
            self.abort.cancel();
            self.tasks.wait().await;
        }
    }
}

impl Drop for MqttServer {
    fn drop(&mut self) {
        self.abort.cancel();
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>, tasks: TaskTracker, abort: CancellationToken) {
    loop {
        let accepted = tokio::select! {
            () = shared.drain.cancelled() => return,
            () = abort.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, _)) => spawn(stream, &shared, &tasks, &abort),
            Err(error) => {
                if let Some(suppressed) = shared.counters.pass_log("accept_failed") {
                    tracing::warn!(error = %error, suppressed, "mqtt accept failed");
                }
                // Out of file descriptors, most likely: some must close before the next attempt can do better.
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

/// Small packets leave at once, and a peer that vanished is found out even if it asked for no keep-alive.
fn prepare(stream: &TcpStream) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    sockopt::set_socket_keepalive(stream, true)?;
    sockopt::set_tcp_keepidle(stream, TCP_KEEPALIVE_IDLE)?;
    sockopt::set_tcp_keepintvl(stream, TCP_KEEPALIVE_INTERVAL)?;
    sockopt::set_tcp_keepcnt(stream, TCP_KEEPALIVE_PROBES)?;
    Ok(())
}

fn spawn(stream: TcpStream, shared: &Arc<Shared>, tasks: &TaskTracker, abort: &CancellationToken) {
    let counters = &shared.counters;
    counters.connections_total.add(1);
    if counters.connections.get() >= shared.config.connections_max as u64 {
        return counters.closed(super::session::CloseReason::Refused("connections_max"), "");
    }
    if let Err(error) = prepare(&stream) {
        tracing::debug!(error = %error, "mqtt connection closed before it began");
        return;
    }
    counters.connections.add(1);
    let (shared, abort) = (Arc::clone(shared), abort.clone());
    tasks.spawn(async move {
        // Boxed: a future that is passed on is otherwise kept twice, and most connections are idle.
        let served = abort.run_until_cancelled(Box::pin(connection::serve(shared, stream)));
        if served.await.is_none() {
            tracing::debug!("mqtt connection cut off");
        }
    });
}
