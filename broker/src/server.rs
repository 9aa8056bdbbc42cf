//! The broker as a whole: what it is made of, in which order it starts and stops.

mod config;
mod error;
mod lame_duck;
mod latency;
mod monitor_tls;
mod reload;
mod sockets;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::accounts::{Accounts, Domains};
use crate::auth::gate::Gate;
use crate::auth::keys::ServerKeys;
use crate::engine::EngineOptions;
use crate::env::real::{RealClock, RealFs, RealRng};
use crate::env::{Clock, Rng};
use crate::local::LocalClient;
use crate::monitor::{Monitor, Settings, Views};
use crate::nats::door::Port;
use crate::nats::info::ServerInfo;
use crate::nats::listener::{Shared, accept};
use crate::nats::live::Live;
use crate::options::{AuthOptions, JetStreamOptions, JetStreamTier};
use crate::outbound::CloseReason;
use crate::shard::thread::{Links, Shard};
use crate::shard::view::{ShardFigures, ShardView};
use crate::store::{StoreFigures, StoreOptions};
use crate::stream::notes::NOTES;
use crate::system::{self, System};
use crate::types::UnixNanos;

use self::monitor_tls::TlsListener;
use self::sockets::Sockets;

pub use crate::auth::operator::OperatorError;

pub use self::config::{BrokerConfig, Limits};
pub use self::error::StartError;
pub use self::reload::ReloadError;
pub use crate::system::reloads::ReloadRequest;

/// How long connections have at the end to take what was said to them.
const FAREWELL: Duration = Duration::from_secs(2);

/// A running broker. [`Broker::shutdown`] stops it in order. Dropping it stops it too, without waiting for anything.
#[derive(Debug)]
pub struct Broker {
    closer: Closer,
    shared: Arc<Shared>,
    links: Links,
    storage: JoinHandle<()>,
    client_addr: SocketAddr,
    websocket_addr: Option<SocketAddr>,
    monitor_addr: Option<SocketAddr>,
    monitor_tls_addr: Option<SocketAddr>,
    system: Option<Arc<System>>,
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
    /// Records lost to damage on disk, found at the start or since.
    pub lost_records: u64,
    /// What the store has done in the background.
    pub store: StoreFigures,
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
        let sockets = Sockets::bind(&config).await?;
        let client_addr = sockets.client_addr;
        let rng = RealRng::new().map_err(|source| StartError::Entropy { source })?;
        let keys = ServerKeys::new().ok_or_else(no_entropy)?;
        let server_id = keys.signing.public.clone();
        let info = ServerInfo {
            server_name: match config.server_name.as_str() {
                "" => server_id.clone(),
                name => name.to_owned(),
            },
            server_id,
            tags: config.tags.clone(),
            xkey: keys.xkey.clone(),
            host: client_addr.ip().to_string(),
            port: client_addr.port(),
            max_payload: config.limits.max_payload_bytes,
            has_headers: true,
            has_jetstream: config.jetstream.enabled,
            domain: config.jetstream.domain.clone(),
            tls_required: false,
            tls_available: false,
            tls_verify: false,
            is_lame_duck: false,
        };
        let now = RealClock::new().now();
        let live = Live::new(&config, &info, now)?;
        let accounts = Arc::new(Accounts::new(config.jetstream.domain.as_deref()));
        let (events, told) = system::events::channel();
        let maps_certificates = config.tls.as_ref().is_some_and(|tls| tls.verify_and_map);
        let has_jetstream = config.jetstream.enabled;
        let domains = Domains {
            own: config.jetstream.domain.clone(),
            default: config.default_js_domain.clone(),
        };
        let gate = Gate::new(
            &config.auth,
            maps_certificates,
            has_jetstream,
            domains,
            &accounts,
            keys,
            now,
        )?;
        let shared = Arc::new(Shared::new(live, info, accounts, gate, events));
        let start = shared.clock.now();
        let links = Links {
            inbox: Arc::clone(&shared.inbox),
            accounts: Arc::clone(&shared.accounts),
            view: Arc::default(),
            snapshots: Arc::default(),
        };
        let jetstream = config.jetstream;
        shared.connections.keep_closed(config.max_closed_clients);
        let settings = Settings {
            addr: None,
            jetstream: jetstream.clone(),
            base_path: config.http_base_path,
            tags: config.tags,
            metadata: config.metadata,
        };
        let storage = open(&config.store_dir, &shared, &jetstream, rng, links.clone()).await?;
        let mut broker = Self {
            closer: Closer(Arc::clone(&shared)),
            shared,
            links,
            storage,
            client_addr,
            websocket_addr: None,
            monitor_addr: None,
            monitor_tls_addr: None,
            system: None,
            services: TaskTracker::new(),
            monitor_stop: CancellationToken::new(),
        };
        let monitor = broker.serve(sockets, start, config.store_dir, settings);
        let stop = &broker.monitor_stop;
        broker.system = System::start(&monitor, told, &broker.services, stop);
        let watching = reload::watch(Arc::clone(&broker.shared), stop.clone());
        broker.services.spawn(watching);
        let telling = latency::tell_of_late(Arc::clone(&broker.shared), stop.clone());
        broker.services.spawn(telling);
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

    /// Where monitoring is served over TLS, if it is.
    pub fn monitor_tls_addr(&self) -> Option<SocketAddr> {
        self.monitor_tls_addr
    }

    /// Where clients connect over WebSocket, if they can.
    pub fn websocket_addr(&self) -> Option<SocketAddr> {
        self.websocket_addr
    }

    /// A client in this process.
    pub fn local_client(&self, name: &str) -> LocalClient {
        self.shared.local_client(name)
    }

    /// Its figures now.
    pub fn stats(&self) -> BrokerStats {
        let shared = &self.shared;
        let counters = shared.accounts.counters();
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let (inbox_bytes, inbox_capacity_bytes) = shared.inbox.fullness();
        BrokerStats {
            connections: shared.connections.len() as u64,
            total_connections: load(&counters.total_connections),
            subscriptions: shared.accounts.subscription_count() as u64,
            in_msgs: load(&counters.in_msgs),
            in_bytes: load(&counters.in_bytes),
            out_msgs: load(&counters.out_msgs),
            out_bytes: load(&counters.out_bytes),
            slow_consumers: load(&counters.slow_pending) + load(&counters.slow_deadline),
            stale_connections: load(&counters.stale),
            local_dropped: load(&counters.local_dropped),
            inbox_bytes: inbox_bytes as u64,
            inbox_capacity_bytes: inbox_capacity_bytes as u64,
            lost_records: self.links.view.health().lost,
            store: self.links.view.store_figures(),
            shard: self.links.view.figures(),
        }
    }

    /// Lets other users in from now on. Who is connected and no longer known, or may do something else now, has to go.
    /// Errs, and changes nothing, if an operator's tokens are not to be believed.
    pub fn reload_auth(&self, auth: &AuthOptions) -> Result<(), ReloadError> {
        let shared = &self.shared;
        let now = shared.clock.now();
        shared.gate.reload(auth, &shared.accounts, now)?;
        if let Some(system) = &self.system {
            system.serve_accounts(&self.services, &self.monitor_stop);
        }
        let directory = shared.gate.directory();
        for connection in shared.connections.all() {
            let is_known = connection
                .identity()
                .is_none_or(|identity| directory.still_knows(&identity, now));
            if !is_known {
                connection
                    .outbound
                    .push(&mut b"-ERR 'Authorization Violation'\r\n".to_vec());
                connection.outbound.finish(CloseReason::AuthenticationViolation);
            }
        }
        Ok(())
    }

    /// Whether it does its work.
    pub fn health(&self) -> Health {
        health(&self.links.view)
    }

    /// Stops in order: no new connections, what was read is handed over, the storage thread commits and closes the store,
    /// the connections end once they have what was said to them, monitoring last.
    pub async fn shutdown(self) {
        let Self {
            closer,
            shared,
            services,
            monitor_stop,
            storage,
            ..
        } = self;
        shared.events.about_server(&shared.info.server_id, "SHUTDOWN");
        shared.stop_reading();
        shared.reading.close();
        shared.reading.wait().await;
        shared.inbox.close();
        // The storage thread answers what was handed over before it ends; a panic in it has been reported as such.
        drop(tokio::task::spawn_blocking(move || storage.join()).await);
        drop(closer);
        shared.tasks.close();
        if tokio::time::timeout(FAREWELL, shared.tasks.wait()).await.is_err() {
            for connection in shared.connections.all() {
                connection.outbound.close(CloseReason::ServerShutdown);
            }
            shared.tasks.wait().await;
        }
        monitor_stop.cancel();
        services.close();
        if tokio::time::timeout(FAREWELL, services.wait()).await.is_err() {
            tracing::debug!("a client of monitoring did not let go");
        }
    }

    /// Lets clients in.
    fn serve(
        &mut self,
        sockets: Sockets,
        start: UnixNanos,
        store_dir: PathBuf,
        settings: Settings,
    ) -> Arc<Monitor> {
        let views = Views {
            view: Arc::clone(&self.links.view),
            snapshots: Arc::clone(&self.links.snapshots),
        };
        self.monitor_addr = sockets.monitor.as_ref().map(|(_, addr)| *addr);
        self.monitor_tls_addr = sockets.monitor_tls.as_ref().map(|(_, addr)| *addr);
        self.websocket_addr = sockets.websocket.as_ref().map(|(_, addr)| *addr);
        let settings = Settings {
            addr: self.monitor_addr.or(self.monitor_tls_addr),
            ..settings
        };
        let monitor = Monitor::new(Arc::clone(&self.shared), settings, start, store_dir, views);
        let monitor = Arc::new(monitor);
        if monitor.settings.addr.is_some() {
            let endpoints = Arc::clone(&monitor).endpoints();
            if let Some((socket, _)) = sockets.monitor_tls {
                let socket = TlsListener::new(socket, Arc::clone(&self.shared));
                self.serve_monitoring(socket, endpoints.clone());
            }
            if let Some((socket, _)) = sockets.monitor {
                self.serve_monitoring(socket, endpoints);
            }
        }
        if let Some((socket, _)) = sockets.websocket {
            let accepting = accept(socket, Port::Websocket, Arc::clone(&self.shared));
            self.services.spawn(accepting);
        }
        let accepting = accept(sockets.client, Port::Client, Arc::clone(&self.shared));
        self.services.spawn(accepting);
        monitor
    }

    fn serve_monitoring<L>(&self, socket: L, endpoints: axum::Router)
    where
        L: axum::serve::Listener,
        L::Addr: std::fmt::Debug,
    {
        let stop = self.monitor_stop.clone().cancelled_owned();
        self.services.spawn(async move {
            let serving = axum::serve(socket, endpoints).with_graceful_shutdown(stop);
            if let Err(err) = serving.await {
                tracing::error!(error = %err, "monitoring ended");
            }
        });
    }

    /// Waits until somebody asks the system account for a reload.
    pub async fn reload_wanted(&self) -> ReloadRequest {
        self.shared.reloads.next().await
    }
}

fn no_entropy() -> StartError {
    StartError::Entropy {
        source: std::io::Error::other("the system gives no entropy"),
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

/// Ends everything when it is dropped, whatever has been ended before.
#[derive(Debug)]
struct Closer(Arc<Shared>);

impl Drop for Closer {
    fn drop(&mut self) {
        self.0.stop_reading();
        self.0.inbox.close();
        self.0.close_locals();
        for connection in self.0.connections.all() {
            connection.outbound.finish(CloseReason::ServerShutdown);
        }
    }
}

/// Opens the store, which may take a while after a crash, and starts the storage thread.
async fn open(
    dir: &Path,
    shared: &Shared,
    jetstream: &JetStreamOptions,
    mut rng: RealRng,
    links: Links,
) -> Result<JoinHandle<()>, StartError> {
    let engine = EngineOptions {
        streams_max: shared.limits.max_streams,
        consumers_max: shared.limits.max_consumers,
        accounts: Arc::clone(shared.accounts.names()),
        domain: jetstream.domain.clone(),
        tier: JetStreamTier {
            max_memory_bytes: jetstream.max_memory_bytes,
            max_file_bytes: jetstream.max_file_bytes,
            ..JetStreamTier::default()
        },
        server_name: shared.info.server_name.clone(),
        ..EngineOptions::new(rng.next_u64())
    };
    let defaults = StoreOptions::new(rng.next_u64());
    let upkeep = &jetstream.upkeep;
    let store = StoreOptions {
        notes: NOTES,
        scrub_bytes_per_second: upkeep
            .scrub_bytes_per_second
            .unwrap_or(defaults.scrub_bytes_per_second),
        compact_bytes_per_second: upkeep
            .compact_bytes_per_second
            .unwrap_or(defaults.compact_bytes_per_second),
        damaged_bytes_max: upkeep.damaged_bytes_max.unwrap_or(defaults.damaged_bytes_max),
        ..defaults
    };
    let path = dir.to_owned();
    let opening = move || Shard::open(RealFs, &path, store, engine, RealClock::new(), links);
    let opened = tokio::task::spawn_blocking(opening)
        .await
        .expect("opening the store does not panic");
    let (shard, report) = opened.map_err(|err| StartError::of_store(dir, err))?;
    for lost in &report.lost {
        tracing::error!(
            stream = %lost.stream, first = lost.range.first.0, last = lost.range.last.0,
            "records are lost to damage on disk: what is not in the tables yet has to be sent again; check the disk"
        );
    }
    tracing::info!(
        streams = report.streams,
        records = report.records,
        torn_bytes = report.torn_bytes,
        set_aside_removed = report.set_aside_removed,
        "store opened"
    );
    shard.spawn().map_err(|source| StartError::Thread { source })
}
