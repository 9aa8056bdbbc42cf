//! Monitoring with nats-server's paths and field names, over HTTP and for `$SYS`.
//!
//! JetStream's figures are those of the storage thread's latest snapshot, at most half a second old.

pub(crate) mod accountz;
pub(crate) mod args;
pub(crate) mod connz;
pub(crate) mod jetstream;
pub(crate) mod process;
mod shares;
pub(crate) mod subsz;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::{Html, IntoResponse, Response};
use axum::{Json, routing::get};
use serde_json::{Value, json};

use self::args::{ArgError, Args};
use self::process::Process;
use crate::api::time;
use crate::engine::JsSnapshot;
use crate::env::Clock;
use crate::env::real::Machine;
use crate::nats::info::VERSION;
use crate::nats::listener::Shared;
use crate::options::JetStreamOptions;
use crate::server::{Health, health};
use crate::shard::snapshots::Snapshots;
use crate::shard::view::ShardView;
use crate::system::feature_flags;
use crate::types::UnixNanos;

/// What is told about.
#[derive(Debug)]
pub(crate) struct Monitor {
    pub(crate) shared: Arc<Shared>,
    pub(crate) start: UnixNanos,
    pub(crate) store_dir: PathBuf,
    pub(crate) settings: Settings,
    pub(crate) view: Arc<ShardView>,
    pub(crate) snapshots: Arc<Snapshots>,
    /// At the start.
    pub(crate) machine: Machine,
    requests: Requests,
}

/// What the broker was set to, as far as it is shown.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    /// Where the endpoints are served.
    pub(crate) addr: Option<SocketAddr>,
    pub(crate) jetstream: JetStreamOptions,
    /// Comes before each path.
    pub(crate) base_path: String,
    pub(crate) tags: Vec<String>,
    pub(crate) metadata: BTreeMap<String, String>,
}

#[derive(Debug, Default)]
struct Requests {
    counts: [AtomicU64; PATHS.len()],
}

const PATHS: [&str; 11] = [
    "/",
    "/varz",
    "/connz",
    "/routez",
    "/gatewayz",
    "/leafz",
    "/subsz",
    "/accountz",
    "/accstatz",
    "/jsz",
    "/healthz",
];

/// The page that a list shows when nothing is asked for.
const PAGE_SIZE: usize = 1024;

/// What the storage thread shows of itself.
#[derive(Clone, Debug)]
pub(crate) struct Views {
    pub(crate) view: Arc<ShardView>,
    pub(crate) snapshots: Arc<Snapshots>,
}

impl Monitor {
    pub(crate) fn new(
        shared: Arc<Shared>,
        settings: Settings,
        start: UnixNanos,
        store_dir: PathBuf,
        views: Views,
    ) -> Self {
        let Views { view, snapshots } = views;
        Self {
            shared,
            start,
            machine: Machine::of(&store_dir),
            store_dir,
            settings,
            view,
            snapshots,
            requests: Requests::default(),
        }
    }

    /// The endpoints.
    pub(crate) fn endpoints(self: Arc<Self>) -> axum::Router {
        let base_path = self.settings.base_path.clone();
        let endpoints = axum::Router::new()
            .route("/", get(root))
            .route("/varz", get(varz))
            .route("/connz", get(connz_endpoint))
            .route("/routez", get(routez_endpoint))
            .route("/gatewayz", get(gatewayz_endpoint))
            .route("/leafz", get(leafz_endpoint))
            .route("/subsz", get(subsz_endpoint))
            .route("/subscriptionsz", get(subsz_endpoint))
            .route("/accountz", get(accountz_endpoint))
            .route("/accstatz", get(accstatz_endpoint))
            .route("/jsz", get(jsz_endpoint))
            .route("/healthz", get(healthz_endpoint))
            .fallback(nothing_there)
            .with_state(self);
        if base_path.is_empty() {
            endpoints
        } else {
            axum::Router::new().nest(&base_path, endpoints)
        }
    }

    pub(crate) fn now(&self) -> UnixNanos {
        self.shared.clock.now()
    }

    pub(crate) fn server_id(&self) -> &str {
        &self.shared.info.server_id
    }

    /// The answer of `/varz`.
    pub(crate) async fn varz(&self) -> Value {
        let mut varz = settings(self);
        for part in [activity(self), Process::read(self).await.fields()] {
            if let (Some(varz), Value::Object(part)) = (varz.as_object_mut(), part) {
                varz.extend(part);
            }
        }
        varz["jetstream"] = jetstream::varz(self).await;
        varz
    }

    /// The answer of `/routez`: there are no routes.
    pub(crate) fn routez(&self) -> Value {
        json!({
            "server_id": self.server_id(), "server_name": self.shared.info.server_name,
            "now": time::format(self.now()), "num_routes": 0, "routes": [],
        })
    }

    /// The answer of `/gatewayz`: there are no gateways.
    pub(crate) fn gatewayz(&self) -> Value {
        json!({
            "server_id": self.server_id(), "now": time::format(self.now()),
            "outbound_gateways": {}, "inbound_gateways": {},
        })
    }

    /// The answer of `/leafz`: there are no leaf nodes.
    pub(crate) fn leafz(&self) -> Value {
        json!({"server_id": self.server_id(), "now": time::format(self.now()), "leafnodes": 0, "leafs": []})
    }

    /// JetStream as it is now.
    pub(crate) async fn snapshot(&self) -> Arc<JsSnapshot> {
        self.snapshots.take(&self.shared.inbox).await
    }

    /// The answer of `/healthz`, and its status.
    pub(crate) async fn healthz(&self, args: &Args) -> Result<(u16, Value), ArgError> {
        let only_enabled = args.flag("js-enabled-only")? || args.flag("js-enabled")?;
        let unavailable = |status: u16, text: String| {
            (
                status,
                json!({"status": if status == 404 { "error" } else { "unavailable" }, "error": text}),
            )
        };
        let needs = |missing: &str, what: &str| {
            let error = format!("{missing:?} must not be empty when checking {what} health");
            Ok((400, json!({"status": "error", "error": error})))
        };
        if args.text("account").is_empty() && !args.text("stream").is_empty() {
            return needs("account", "stream");
        }
        if args.text("stream").is_empty() && !args.text("consumer").is_empty() {
            return needs("stream", "consumer");
        }
        if only_enabled && !self.settings.jetstream.enabled {
            return Ok(unavailable(503, "JetStream not enabled".to_owned()));
        }
        if let Health::Unhealthy { reason } = health(&self.view) {
            return Ok(unavailable(503, reason));
        }
        if let Some(missing) = self.missing_asset(args).await {
            return Ok(unavailable(404, missing));
        }
        Ok((200, json!({"status": "ok"})))
    }

    /// What is asked after with `account`, `stream` and `consumer`, and is not there.
    async fn missing_asset(&self, args: &Args) -> Option<String> {
        let (stream, consumer) = (args.text("stream"), args.text("consumer"));
        let account = args.text("account");
        if account.is_empty() {
            return None;
        }
        let snapshot = self.snapshot().await;
        let Some(known) = snapshot.accounts.iter().find(|known| *known.name == *account) else {
            return Some(format!("JetStream account {account:?} not found"));
        };
        if stream.is_empty() {
            return None;
        }
        let Some(held) = known.streams.iter().find(|held| held.info.config.name == stream) else {
            return Some(format!(
                "JetStream stream {stream:?} not found on account {account:?}"
            ));
        };
        let is_there = consumer.is_empty() || held.consumers.iter().any(|held| held.name == consumer);
        (!is_there).then(|| {
            format!("JetStream consumer {consumer:?} not found for stream {stream:?} on account {account:?}")
        })
    }

    fn count(&self, path: &str) {
        if let Some(index) = PATHS.iter().position(|known| *known == path) {
            self.requests.counts[index].fetch_add(1, Relaxed);
        }
    }
}

async fn root(State(monitor): State<Arc<Monitor>>) -> Html<&'static str> {
    monitor.count("/");
    Html(concat!(
        "<html lang=\"en\"><head><title>Tarn broker</title></head><body><h1>Tarn broker</h1><ul>",
        "<li><a href=\"./varz\">General</a></li><li><a href=\"./jsz\">JetStream</a></li>",
        "<li><a href=\"./connz\">Connections</a></li><li><a href=\"./accountz\">Accounts</a></li>",
        "<li><a href=\"./accstatz\">Account Stats</a></li><li><a href=\"./subsz\">Subscriptions</a></li>",
        "<li><a href=\"./routez\">Routes</a></li><li><a href=\"./leafz\">LeafNodes</a></li>",
        "<li><a href=\"./gatewayz\">Gateways</a></li><li><a href=\"./healthz\">Health Probe</a></li>",
        "</ul></body></html>",
    ))
}

async fn nothing_there() -> (StatusCode, &'static str) {
    (StatusCode::NOT_FOUND, "404 page not found\n")
}

async fn varz(State(monitor): State<Arc<Monitor>>) -> Json<Value> {
    monitor.count("/varz");
    Json(monitor.varz().await)
}

type Asked = Query<BTreeMap<String, String>>;

async fn connz_endpoint(State(monitor): State<Arc<Monitor>>, Query(query): Asked) -> Response {
    monitor.count("/connz");
    answer(connz::connz(&monitor, &Args::from_query(query)))
}

async fn subsz_endpoint(State(monitor): State<Arc<Monitor>>, Query(query): Asked) -> Response {
    monitor.count("/subsz");
    answer(subsz::subsz(&monitor, &Args::from_query(query)))
}

async fn accountz_endpoint(State(monitor): State<Arc<Monitor>>, Query(query): Asked) -> Response {
    monitor.count("/accountz");
    answer(accountz::accountz(&monitor, &Args::from_query(query)))
}

async fn accstatz_endpoint(State(monitor): State<Arc<Monitor>>, Query(query): Asked) -> Response {
    monitor.count("/accstatz");
    answer(accountz::accstatz(&monitor, &Args::from_query(query), &[]))
}

async fn routez_endpoint(State(monitor): State<Arc<Monitor>>) -> Json<Value> {
    monitor.count("/routez");
    Json(monitor.routez())
}

async fn gatewayz_endpoint(State(monitor): State<Arc<Monitor>>) -> Json<Value> {
    monitor.count("/gatewayz");
    Json(monitor.gatewayz())
}

async fn leafz_endpoint(State(monitor): State<Arc<Monitor>>) -> Json<Value> {
    monitor.count("/leafz");
    Json(monitor.leafz())
}

async fn jsz_endpoint(State(monitor): State<Arc<Monitor>>, Query(query): Asked) -> Response {
    monitor.count("/jsz");
    let args = Args::from_query(query);
    match jetstream::jsz(&monitor, &args).await {
        Ok(Some(jsz)) => Json(jsz).into_response(),
        Ok(None) => {
            let text = format!("account {:?} not found", args.text("acc"));
            (StatusCode::NOT_FOUND, text).into_response()
        }
        Err(err) => answer(Err(err)),
    }
}

async fn healthz_endpoint(State(monitor): State<Arc<Monitor>>, Query(query): Asked) -> Response {
    monitor.count("/healthz");
    match monitor.healthz(&Args::from_query(query)).await {
        Ok((status, body)) => {
            let status = StatusCode::from_u16(status).unwrap_or(StatusCode::SERVICE_UNAVAILABLE);
            (status, Json(body)).into_response()
        }
        Err(err) => answer(Err(err)),
    }
}

fn answer<E: std::fmt::Display>(result: Result<Value, E>) -> Response {
    match result {
        Ok(value) => Json(value).into_response(),
        Err(err) => (StatusCode::BAD_REQUEST, err.to_string()).into_response(),
    }
}

/// The part of `/varz` that does not change.
fn settings(monitor: &Monitor) -> Value {
    let (info, limits) = (&monitor.shared.info, &monitor.shared.limits);
    let directory = monitor.shared.gate.directory();
    let addr = monitor.settings.addr;
    let live = monitor.shared.live();
    let mut settings = json!({
        "server_id": info.server_id, "server_name": info.server_name, "version": VERSION, "proto": 1, "go": "none",
        "host": info.host, "port": info.port, "max_connections": limits.max_connections,
        "ping_interval": nanos(limits.ping_interval), "ping_max": limits.ping_max,
        "http_host": addr.map_or_else(|| info.host.clone(), |addr| addr.ip().to_string()),
        "http_port": addr.map_or(0, |addr| addr.port()), "http_base_path": monitor.settings.base_path, "https_port": 0,
        "auth_timeout": directory.timeout().as_secs_f64(), "tls_timeout": 2.0,
        "max_control_line": limits.max_control_line_bytes, "max_payload": limits.max_payload_bytes,
        "max_pending": limits.max_pending_bytes, "write_deadline": nanos(limits.write_deadline),
        "cluster": {}, "gateway": {}, "leaf": {}, "mqtt": {}, "websocket": {},
        "routes": 0, "remotes": 0, "leafnodes": 0, "config_digest": live.config_digest,
        "start": time::format(monitor.start), "config_load_time": time::format(live.loaded_at),
    });
    if !monitor.settings.tags.is_empty() {
        settings["tags"] = json!(monitor.settings.tags);
    }
    if !monitor.settings.metadata.is_empty() {
        settings["metadata"] = json!(monitor.settings.metadata);
    }
    if directory.is_required() {
        settings["auth_required"] = true.into();
    }
    if let Some(system) = monitor.shared.accounts.system() {
        settings["system_account"] = (*system.name).into();
    }
    settings
}

fn activity(monitor: &Monitor) -> Value {
    let (shared, now) = (&monitor.shared, monitor.now());
    let counters = shared.accounts.counters();
    let load = |counter: &AtomicU64| counter.load(Relaxed);
    let slow = load(&counters.slow_pending) + load(&counters.slow_deadline);
    let stale = load(&counters.stale);
    json!({
        "now": time::format(now), "uptime": uptime(now.since(monitor.start)),
        "connections": shared.connections.len(), "total_connections": load(&counters.total_connections),
        "subscriptions": shared.accounts.subscription_count(),
        "in_msgs": load(&counters.in_msgs), "in_bytes": load(&counters.in_bytes),
        "out_msgs": load(&counters.out_msgs), "out_bytes": load(&counters.out_bytes),
        "in_client_msgs": load(&counters.in_msgs), "in_client_bytes": load(&counters.in_bytes),
        "out_client_msgs": load(&counters.out_msgs), "out_client_bytes": load(&counters.out_bytes),
        "slow_consumers": slow, "stale_connections": stale, "stalled_clients": 0,
        "slow_consumer_stats": {"clients": slow, "routes": 0, "gateways": 0, "leafs": 0},
        "stale_connection_stats": {"clients": stale, "routes": 0, "gateways": 0, "leafs": 0},
        "disk_io_wait_stats": {"waiters": 0, "waits": 0, "wait_time": 0, "max_wait_time": 0},
        "http_req_stats": monitor.requests.figures(), "feature_flags": feature_flags(),
    })
}

impl Requests {
    fn figures(&self) -> BTreeMap<&'static str, u64> {
        let counts = self.counts.iter().map(|count| count.load(Relaxed));
        let asked = PATHS.into_iter().zip(counts).filter(|(_, count)| *count > 0);
        asked.collect()
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// A length of time as nats-server writes it: `1y2d3h4m5s`, without the leading units that are nought.
pub(crate) fn uptime(nanos: i64) -> String {
    let secs = nanos.max(0) / 1_000_000_000;
    let (mins, hours) = (secs / 60, secs / 3600);
    let (days, years) = (hours / 24, hours / 24 / 365);
    let tail = format!("{}s", secs % 60);
    match () {
        () if years > 0 => format!("{years}y{}d{}h{}m{tail}", days % 365, hours % 24, mins % 60),
        () if days > 0 => format!("{days}d{}h{}m{tail}", hours % 24, mins % 60),
        () if hours > 0 => format!("{hours}h{}m{tail}", mins % 60),
        () if mins > 0 => format!("{mins}m{tail}"),
        () => tail,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uptimes_are_written_as_nats_server_does() {
        let secs = |secs: i64| uptime(secs * 1_000_000_000);
        assert_eq!(secs(0), "0s");
        assert_eq!(secs(61), "1m1s");
        assert_eq!(secs(3600), "1h0m0s");
        assert_eq!(secs(86_400 * 366 + 5), "1y1d0h0m5s");
        assert_eq!(uptime(-1), "0s");
    }
}
