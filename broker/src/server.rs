//! The broker as a whole: what it is made of, in which order it starts and stops.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use crate::local::{LocalClient, LocalQueue};
use crate::outbound::ClientId;
use crate::router::Router;
use crate::shard::inbox::Inbox;

/// How a broker is to run.
#[derive(Clone, Debug)]
pub struct BrokerConfig {
    /// Where streams are kept; created if missing.
    pub store_dir: PathBuf,
    /// Where clients connect: `host:port`; port 0 takes a free one.
    pub listen: String,
    /// Where the monitoring endpoints are served; none: nowhere.
    pub monitor_listen: Option<String>,
    /// The server's name in INFO.
    pub server_name: String,
    /// What peers may ask for.
    pub limits: Limits,
}

/// What peers may ask for.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Largest headers and payload together.
    pub max_payload_bytes: usize,
    /// Longest control line.
    pub max_control_line_bytes: usize,
    /// Bytes that may wait for a connection before it is cut off.
    pub max_pending_bytes: usize,
    /// Connections at the same time.
    pub max_connections: usize,
    /// Subscriptions of one connection; 0: as many as it likes.
    pub max_subscriptions: usize,
    /// How often a connection is pinged.
    pub ping_interval: Duration,
    /// Unanswered pings after which a connection is stale.
    pub ping_max: u32,
    /// How long a connection may take nothing of what waits for it.
    pub write_deadline: Duration,
    /// Bytes that may wait for the storage thread.
    pub inbox_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_payload_bytes: 1 << 20,
            max_control_line_bytes: 4096,
            max_pending_bytes: 64 << 20,
            max_connections: 64 * 1024,
            max_subscriptions: 0,
            ping_interval: Duration::from_secs(120),
            ping_max: 2,
            write_deadline: Duration::from_secs(10),
            inbox_bytes: 64 << 20,
        }
    }
}

impl BrokerConfig {
    /// A broker with nats-server's limits that keeps its streams in `store_dir` and listens at `listen`.
    pub fn new(store_dir: impl Into<PathBuf>, listen: impl Into<String>) -> Self {
        Self {
            store_dir: store_dir.into(),
            listen: listen.into(),
            monitor_listen: None,
            server_name: "tarn".to_owned(),
            limits: Limits::default(),
        }
    }
}

/// Why a broker did not start. Each message names the thing and the next step.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Another process listens there.
    #[error("{setting} = \"{address}\": the port is in use; stop what listens there or set another address")]
    PortInUse {
        /// The setting.
        setting: &'static str,
        /// Its value.
        address: String,
    },
    /// The address cannot be listened at.
    #[error("{setting} = \"{address}\": cannot listen there ({source}); set an address of this machine")]
    Listen {
        /// The setting.
        setting: &'static str,
        /// Its value.
        address: String,
        /// What the operating system says.
        source: std::io::Error,
    },
    /// The store directory cannot be used.
    #[error("store directory {path}: {problem}; {next_step}")]
    Store {
        /// The directory or the file in it.
        path: PathBuf,
        /// What is wrong.
        problem: String,
        /// What to do.
        next_step: String,
    },
}

/// A running broker.
#[derive(Debug)]
pub struct Broker {
    router: Arc<Router>,
    inbox: Arc<Inbox>,
    next_client: Arc<AtomicU64>,
    limits: Limits,
    client_addr: SocketAddr,
    monitor_addr: Option<SocketAddr>,
}

/// Figures of a running broker.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BrokerStats {
    /// Connections now.
    pub connections: u64,
    /// Connections since the start.
    pub total_connections: u64,
    /// Subscriptions now.
    pub subscriptions: u64,
    /// Messages received from clients.
    pub in_msgs: u64,
    /// Bytes of headers and payloads received.
    pub in_bytes: u64,
    /// Messages sent to clients.
    pub out_msgs: u64,
    /// Bytes of headers and payloads sent.
    pub out_bytes: u64,
    /// Connections cut off because they took too little.
    pub slow_consumers: u64,
    /// Connections cut off because they left pings unanswered.
    pub stale_connections: u64,
    /// Deliveries to local clients dropped because the client was full.
    pub local_dropped: u64,
    /// Bytes that wait for the storage thread.
    pub inbox_bytes: u64,
    /// Bytes that fit there.
    pub inbox_capacity_bytes: u64,
}

/// Whether a broker does its work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Health {
    /// It does.
    Ok,
    /// It does not store.
    Unhealthy {
        /// Why, in words.
        reason: String,
    },
}

impl Broker {
    /// Starts a broker: the store, the storage thread, the listener, monitoring.
    pub async fn start(config: BrokerConfig) -> Result<Self, StartError> {
        drop(config);
        todo!()
    }

    /// Where clients connect.
    pub fn client_addr(&self) -> SocketAddr {
        self.client_addr
    }

    /// Where monitoring is served, if it is.
    pub fn monitor_addr(&self) -> Option<SocketAddr> {
        self.monitor_addr
    }

    /// A client in this process.
    pub fn local_client(&self, name: &str) -> LocalClient {
        let id = ClientId(
            self.next_client
                .fetch_add(1, std::sync::atomic::Ordering::Relaxed),
        );
        let queue = LocalQueue::new(
            id,
            self.limits.max_pending_bytes,
            Arc::clone(self.router.counters()),
        );
        LocalClient::new(name, Arc::clone(&self.router), Arc::clone(&self.inbox), queue)
    }

    /// Its figures now.
    pub fn stats(&self) -> BrokerStats {
        todo!()
    }

    /// Whether it does its work.
    pub fn health(&self) -> Health {
        todo!()
    }

    /// Stops in order: no new connections, what was read is handed over, the storage thread commits and closes the store,
    /// the connections end.
    pub async fn shutdown(self) {
        todo!()
    }
}
