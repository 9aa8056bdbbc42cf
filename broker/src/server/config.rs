//! How a broker is to run.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use crate::options::{AuthOptions, HostPort, JetStreamOptions, Options, TlsOptions, WebsocketOptions};

/// How a broker is to run.
#[derive(Clone, Debug)]
pub struct BrokerConfig {
    /// Where streams are kept; created if missing.
    pub store_dir: PathBuf,
    /// Where clients connect: `host:port`; port 0 takes a free one.
    pub listen: String,
    /// Where the monitoring endpoints are served; none: nowhere.
    pub monitor_listen: Option<String>,
    /// The server's name in INFO; empty: its id.
    pub server_name: String,
    /// What peers may ask for.
    pub limits: Limits,
    /// Who may connect, and what they may do.
    pub auth: AuthOptions,
    /// What is said of JetStream. Its folder is `store_dir`, whatever this says.
    pub jetstream: JetStreamOptions,
    /// TLS on the client port.
    pub tls: Option<TlsOptions>,
    /// Clients may stay in plain text although there is TLS.
    pub allow_non_tls: bool,
    /// Where the monitoring endpoints are served over TLS, with the client port's certificate; none: nowhere.
    pub monitor_tls_listen: Option<String>,
    /// The WebSocket listener.
    pub websocket: Option<WebsocketOptions>,
    /// What INFO says instead of `listen`.
    pub client_advertise: Option<String>,
    /// Clients are told that headers are not understood.
    pub no_header_support: bool,
    /// By account: the domain of JetStream that its requests without one go to.
    pub default_js_domain: BTreeMap<String, String>,
    /// What the server is tagged with, in lower case.
    pub tags: Vec<String>,
    /// What is said of the server besides.
    pub metadata: BTreeMap<String, String>,
    /// Comes before each path of monitoring; empty, or `/` and more.
    pub http_base_path: String,
    /// Ended connections that monitoring remembers.
    pub max_closed_clients: usize,
    /// What tells the file of these settings from others; empty: there is none.
    pub config_digest: String,
}

/// Ended connections that monitoring remembers, where nothing else is said.
const MAX_CLOSED_CLIENTS: usize = 10_000;

/// What peers may ask for.
#[derive(Clone, Debug, PartialEq, Eq)]
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
    /// Tokens of a subscription's subject; 0: as many as fit.
    pub max_subscription_tokens: usize,
    /// How often a connection is pinged.
    pub ping_interval: Duration,
    /// Unanswered pings after which a connection is stale.
    pub ping_max: u32,
    /// How long a connection may take nothing of what waits for it.
    pub write_deadline: Duration,
    /// Bytes that may wait for the storage thread.
    pub inbox_bytes: usize,
    /// Streams at most.
    pub max_streams: usize,
    /// Consumers at most, over all streams.
    pub max_consumers: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_payload_bytes: 1 << 20,
            max_control_line_bytes: 4096,
            max_pending_bytes: 64 << 20,
            max_connections: 64 * 1024,
            max_subscriptions: 100_000,
            max_subscription_tokens: 0,
            ping_interval: Duration::from_secs(120),
            ping_max: 2,
            write_deadline: Duration::from_secs(10),
            inbox_bytes: 64 << 20,
            max_streams: 10_000,
            max_consumers: 100_000,
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
            auth: AuthOptions::default(),
            jetstream: JetStreamOptions {
                enabled: true,
                ..JetStreamOptions::default()
            },
            tls: None,
            allow_non_tls: false,
            monitor_tls_listen: None,
            websocket: None,
            client_advertise: None,
            no_header_support: false,
            default_js_domain: BTreeMap::new(),
            tags: Vec::new(),
            metadata: BTreeMap::new(),
            http_base_path: String::new(),
            max_closed_clients: MAX_CLOSED_CLIENTS,
            config_digest: String::new(),
        }
    }

    /// A broker as `options` say, that keeps its streams in `store_dir`.
    pub fn from_options(options: &Options, store_dir: impl Into<PathBuf>) -> Self {
        let text = |at: &HostPort| at.to_string();
        Self {
            store_dir: store_dir.into(),
            listen: text(&options.listen),
            monitor_listen: options.monitor.http.as_ref().map(text),
            server_name: options.server_name.clone().unwrap_or_default(),
            limits: options.limits.clone(),
            auth: options.auth.clone(),
            jetstream: options.jetstream.clone(),
            tls: options.tls.clone(),
            allow_non_tls: options.allow_non_tls,
            monitor_tls_listen: options.monitor.https.as_ref().map(text),
            websocket: options.websocket.clone(),
            client_advertise: options.client_advertise.clone(),
            no_header_support: options.no_header_support,
            default_js_domain: options.default_js_domain.clone(),
            tags: options.tags.clone(),
            metadata: options.metadata.clone(),
            http_base_path: options.monitor.base_path.clone(),
            max_closed_clients: options.monitor.max_closed_clients.unwrap_or(MAX_CLOSED_CLIENTS),
            config_digest: options.config_digest.clone(),
        }
    }
}
