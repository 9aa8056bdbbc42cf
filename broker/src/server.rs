//! The broker as a whole: what it is made of, in which order it starts and stops.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::env::Clock;
use crate::env::real::{RealClock, RealRng};
use crate::local::LocalClient;
use crate::monitor::{Monitor, Views};
use crate::nats::connections::Connections;
use crate::nats::info::{ServerInfo, server_id};
use crate::nats::listener::{Shared, accept};
use crate::outbound::CloseReason;
use crate::router::Router;
use crate::shard::inbox::Inbox;
use crate::shard::snapshots::Snapshots;
use crate::shard::view::{ShardFigures, ShardView};
use crate::types::UnixNanos;

/// How long connections have at the end to take what was said to them.
const FAREWELL: Duration = Duration::from_secs(2);

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
    /// The operating system gives no randomness.
    #[error("the operating system gives no randomness: {source}")]
    Entropy {
        /// What it says.
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

/// A running broker. [`Broker::shutdown`] stops it in order; merely dropping it leaves its tasks to the runtime's end.
#[derive(Debug)]
pub struct Broker {
    shared: Arc<Shared>,
    view: Arc<ShardView>,
    snapshots: Arc<Snapshots>,
    client_addr: SocketAddr,
    monitor_addr: Option<SocketAddr>,
    /// Accepting and monitoring.
    services: TaskTracker,
    monitor_stop: CancellationToken,
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
    /// Figures of the storage thread.
    pub shard: ShardFigures,
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
        let BrokerConfig {
            store_dir,
            listen,
            monitor_listen,
            server_name,
            limits,
        } = config;
        let listener = bind("nats.listen", &listen).await?;
        let client_addr = address(&listener, "nats.listen", &listen)?;
        let monitor = match &monitor_listen {
            Some(at) => Some(bind("nats.monitor_listen", at).await?),
            None => None,
        };
        let mut rng = RealRng::new().map_err(|source| StartError::Entropy { source })?;
        let clock = RealClock::new();
        let start = clock.now();
        let router = Arc::new(Router::new());
        let inbox = Arc::new(Inbox::new(limits.inbox_bytes));
        let view = Arc::new(ShardView::default());
        let info = ServerInfo {
            server_id: server_id(&mut rng),
            server_name,
            host: client_addr.ip().to_string(),
            port: client_addr.port(),
            max_payload: limits.max_payload_bytes,
        };
        let shared = Arc::new(Shared {
            router,
            inbox,
            limits,
            info,
            connections: Connections::default(),
            clock,
            next_client: AtomicU64::new(1),
            locals: Mutex::default(),
            stop: CancellationToken::new(),
            tasks: TaskTracker::new(),
            reading: TaskTracker::new(),
        });
        let mut broker = Self {
            shared,
            view,
            snapshots: Arc::default(),
            client_addr,
            monitor_addr: None,
            services: TaskTracker::new(),
            monitor_stop: CancellationToken::new(),
        };
        if let (Some(socket), Some(at)) = (monitor, &monitor_listen) {
            let addr = address(&socket, "nats.monitor_listen", at)?;
            broker.monitor_addr = Some(addr);
            broker.serve_monitoring(socket, addr, start, store_dir);
        }
        broker
            .services
            .spawn(accept(listener, Arc::clone(&broker.shared)));
        tracing::info!("Listening for client connections on {client_addr}");
        tracing::info!("Server is ready");
        Ok(broker)
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
        self.shared.local_client(name)
    }

    /// Its figures now.
    pub fn stats(&self) -> BrokerStats {
        let shared = &self.shared;
        let counters = shared.router.counters();
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let (inbox_bytes, inbox_capacity_bytes) = shared.inbox.fullness();
        BrokerStats {
            connections: shared.connections.len() as u64,
            total_connections: load(&counters.total_connections),
            subscriptions: shared.router.subscription_count() as u64,
            in_msgs: load(&counters.in_msgs),
            in_bytes: load(&counters.in_bytes),
            out_msgs: load(&counters.out_msgs),
            out_bytes: load(&counters.out_bytes),
            slow_consumers: load(&counters.slow_pending) + load(&counters.slow_deadline),
            stale_connections: load(&counters.stale),
            local_dropped: load(&counters.local_dropped),
            inbox_bytes: inbox_bytes as u64,
            inbox_capacity_bytes: inbox_capacity_bytes as u64,
            shard: self.view.figures(),
        }
    }

    /// Whether it does its work.
    pub fn health(&self) -> Health {
        health(&self.view)
    }

    /// Stops in order: no new connections, what was read is handed over, the storage thread commits and closes the store,
    /// the connections end once they have what was said to them, monitoring last.
    pub async fn shutdown(self) {
        let Self {
            shared,
            services,
            monitor_stop,
            ..
        } = self;
        shared.stop.cancel();
        shared.reading.close();
        shared.reading.wait().await;
        shared.inbox.close();
        shared.close_locals();
        for connection in shared.connections.all() {
            connection.outbound.finish(CloseReason::ServerShutdown);
        }
        shared.tasks.close();
        if tokio::time::timeout(FAREWELL, shared.tasks.wait()).await.is_err() {
            for connection in shared.connections.all() {
                connection.outbound.close(CloseReason::ServerShutdown);
            }
            shared.tasks.wait().await;
        }
        monitor_stop.cancel();
        services.close();
        services.wait().await;
    }

    fn serve_monitoring(&self, socket: TcpListener, addr: SocketAddr, start: UnixNanos, store_dir: PathBuf) {
        let views = Views {
            view: Arc::clone(&self.view),
            snapshots: Arc::clone(&self.snapshots),
        };
        let monitor = Monitor::new(Arc::clone(&self.shared), addr, start, store_dir, views);
        let stop = self.monitor_stop.clone().cancelled_owned();
        self.services.spawn(async move {
            if let Err(err) = axum::serve(socket, monitor.endpoints())
                .with_graceful_shutdown(stop)
                .await
            {
                tracing::error!(error = %err, "monitoring ended");
            }
        });
        tracing::info!("Starting http monitor on {addr}");
    }
}

/// What the storage thread's view means for the broker.
pub(crate) fn health(view: &ShardView) -> Health {
    let store = view.health();
    let problem = |text: String| Health::Unhealthy { reason: text };
    if view.is_stopped() {
        return problem("the storage thread has ended; restart".to_owned());
    }
    if let Some((stream, reason)) = store.read_only.first() {
        return problem(format!("stream {stream} is read-only until a restart: {reason}"));
    }
    match store.no_space.first() {
        Some(stream) => problem(format!("no space left for stream {stream}")),
        None => Health::Ok,
    }
}

async fn bind(setting: &'static str, at: &str) -> Result<TcpListener, StartError> {
    TcpListener::bind(at).await.map_err(|source| {
        let address = at.to_owned();
        if source.kind() == std::io::ErrorKind::AddrInUse {
            StartError::PortInUse { setting, address }
        } else {
            StartError::Listen {
                setting,
                address,
                source,
            }
        }
    })
}

fn address(listener: &TcpListener, setting: &'static str, at: &str) -> Result<SocketAddr, StartError> {
    listener.local_addr().map_err(|source| StartError::Listen {
        setting,
        address: at.to_owned(),
        source,
    })
}
