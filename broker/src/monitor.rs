//! Monitoring over HTTP with nats-server's paths and field names: `/ /varz /connz /subsz /jsz /healthz`.
//!
//! JetStream's figures are those of the storage thread's latest snapshot, at most half a second old.

mod jetstream;
mod process;

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
use serde::Deserialize;
use serde_json::{Value, json};

use self::jetstream::{config, jsz, stats};
use self::process::Process;
use crate::api::time;
use crate::env::Clock;
use crate::nats::connections::Connection;
use crate::nats::info::VERSION;
use crate::nats::listener::Shared;
use crate::router::{RouterChanges, Subscription};
use crate::server::{Health, health};
use crate::shard::snapshots::Snapshots;
use crate::shard::view::ShardView;
use crate::types::UnixNanos;

/// What the endpoints tell about.
#[derive(Debug)]
pub(crate) struct Monitor {
    pub(crate) shared: Arc<Shared>,
    pub(crate) addr: SocketAddr,
    pub(crate) start: UnixNanos,
    pub(crate) store_dir: PathBuf,
    pub(crate) view: Arc<ShardView>,
    pub(crate) snapshots: Arc<Snapshots>,
    requests: Requests,
}

#[derive(Debug, Default)]
struct Requests {
    root: AtomicU64,
    varz: AtomicU64,
    connz: AtomicU64,
    subsz: AtomicU64,
    jsz: AtomicU64,
    healthz: AtomicU64,
}

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
        addr: SocketAddr,
        start: UnixNanos,
        store_dir: PathBuf,
        views: Views,
    ) -> Self {
        let Views { view, snapshots } = views;
        Self {
            shared,
            addr,
            start,
            store_dir,
            view,
            snapshots,
            requests: Requests::default(),
        }
    }

    /// The endpoints.
    pub(crate) fn endpoints(self) -> axum::Router {
        axum::Router::new()
            .route("/", get(root))
            .route("/varz", get(varz))
            .route("/connz", get(connz))
            .route("/subsz", get(subsz))
            .route("/subscriptionsz", get(subsz))
            .route("/jsz", get(jsz))
            .route("/healthz", get(healthz))
            .with_state(Arc::new(self))
    }

    fn now(&self) -> UnixNanos {
        self.shared.clock.now()
    }

    fn server_id(&self) -> &str {
        &self.shared.info.server_id
    }
}

async fn root(State(monitor): State<Arc<Monitor>>) -> Html<&'static str> {
    monitor.requests.root.fetch_add(1, Relaxed);
    Html(concat!(
        "<html lang=\"en\"><head><title>Tarn broker</title></head><body><h1>Tarn broker</h1><ul>",
        "<li><a href=\"/varz\">General</a></li><li><a href=\"/jsz\">JetStream</a></li>",
        "<li><a href=\"/connz\">Connections</a></li><li><a href=\"/subsz\">Subscriptions</a></li>",
        "<li><a href=\"/healthz\">Health</a></li></ul></body></html>",
    ))
}

async fn varz(State(monitor): State<Arc<Monitor>>) -> Json<Value> {
    monitor.requests.varz.fetch_add(1, Relaxed);
    let mut varz = settings(&monitor);
    for part in [activity(&monitor), Process::read(&monitor).await.fields()] {
        if let (Some(varz), Value::Object(part)) = (varz.as_object_mut(), part) {
            varz.extend(part);
        }
    }
    let account = monitor.snapshots.latest().total;
    varz["jetstream"] = json!({"config": config(&monitor), "stats": stats(&account)});
    Json(varz)
}

/// The part of `/varz` that does not change.
fn settings(monitor: &Monitor) -> Value {
    let (info, limits) = (&monitor.shared.info, &monitor.shared.limits);
    json!({
        "server_id": info.server_id, "server_name": info.server_name, "version": VERSION, "proto": 1, "go": "none",
        "host": info.host, "port": info.port, "max_connections": limits.max_connections,
        "ping_interval": nanos(limits.ping_interval), "ping_max": limits.ping_max,
        "http_host": monitor.addr.ip(), "http_port": monitor.addr.port(), "http_base_path": "", "https_port": 0,
        "max_control_line": limits.max_control_line_bytes, "max_payload": limits.max_payload_bytes,
        "max_pending": limits.max_pending_bytes, "write_deadline": nanos(limits.write_deadline),
        "cluster": {}, "gateway": {}, "leaf": {}, "mqtt": {}, "websocket": {},
        "routes": 0, "remotes": 0, "leafnodes": 0,
        "start": time::format(monitor.start), "config_load_time": time::format(monitor.start),
    })
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
        "slow_consumers": slow, "stale_connections": stale,
        "slow_consumer_stats": {"clients": slow, "routes": 0, "gateways": 0, "leafs": 0},
        "stale_connection_stats": {"clients": stale, "routes": 0, "gateways": 0, "leafs": 0},
        "http_req_stats": monitor.requests.figures(),
    })
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct ListQuery {
    offset: usize,
    limit: usize,
    subs: String,
    cid: u64,
    auth: String,
}

impl ListQuery {
    fn limit(&self) -> usize {
        if self.limit == 0 { PAGE_SIZE } else { self.limit }
    }
}

async fn connz(State(monitor): State<Arc<Monitor>>, Query(query): Query<ListQuery>) -> Json<Value> {
    monitor.requests.connz.fetch_add(1, Relaxed);
    let now = monitor.now();
    let mut connections = monitor.shared.connections.all();
    connections.retain(|connection| query.cid == 0 || connection.id().0 == query.cid);
    let total = connections.len();
    let subscriptions = if wants(&query.subs) {
        subscriptions_of_all(&monitor)
    } else {
        Vec::new()
    };
    let page: Vec<Value> = connections
        .iter()
        .skip(query.offset)
        .take(query.limit())
        .map(|connection| connection_info(&monitor, connection, &subscriptions, &query))
        .collect();
    Json(json!({
        "server_id": monitor.server_id(), "now": time::format(now), "num_connections": page.len(), "total": total,
        "offset": query.offset, "limit": query.limit(), "connections": page,
    }))
}

fn connection_info(
    monitor: &Monitor,
    connection: &Connection,
    subscriptions: &[(Arc<str>, Arc<Subscription>)],
    query: &ListQuery,
) -> Value {
    let now = monitor.now();
    let idle_nanos = monitor
        .shared
        .clock
        .monotonic()
        .0
        .saturating_sub(connection.last_read().0);
    let idle_nanos = i64::try_from(idle_nanos).unwrap_or(i64::MAX);
    let counters = &connection.outbound.counters;
    let load = |counter: &AtomicU64| counter.load(Relaxed);
    let mut info = json!({
        "cid": connection.id().0, "kind": "Client", "type": if connection.transport.is_websocket { "websocket" } else { "nats" },
        "ip": connection.peer.ip().to_canonical(), "port": connection.peer.port(),
        "start": time::format(connection.start), "last_activity": time::format(now.saturating_add(-idle_nanos)),
        "uptime": uptime(now.since(connection.start)), "idle": uptime(idle_nanos),
        "pending_bytes": connection.outbound.backlog_bytes(),
        "in_msgs": load(&counters.in_msgs), "out_msgs": load(&counters.out_msgs),
        "in_bytes": load(&counters.in_bytes), "out_bytes": load(&counters.out_bytes),
        "subscriptions": load(&counters.subscriptions),
    });
    if let Some(tls) = &connection.transport.tls {
        info["tls_version"] = tls.version.into();
        info["tls_cipher_suite"] = tls.cipher.as_str().into();
        if let Some(subject) = tls.subject.as_ref().filter(|_| wants(&query.auth)) {
            info["tls_peer_certs"] = json!([{"subject": subject}]);
        }
    }
    let identity = connection.identity().filter(|_| wants(&query.auth));
    if let Some(identity) = identity {
        info["account"] = (*identity.account.name).into();
        if !identity.user.is_empty() {
            info["authorized_user"] = identity.user.as_str().into();
        }
    }
    if let Some(client) = connection.client.get() {
        for (name, text) in [
            ("name", &client.name),
            ("lang", &client.lang),
            ("version", &client.version),
        ] {
            if !text.is_empty() {
                info[name] = text.as_str().into();
            }
        }
    }
    let own = subscriptions
        .iter()
        .filter(|(_, held)| held.target().id() == connection.id());
    let subs = query.subs.as_str();
    if subs == "detail" {
        info["subscriptions_list_detail"] = own
            .map(|(account, held)| subscription_detail(account, held))
            .collect();
    } else if wants(subs) {
        info["subscriptions_list"] = own.map(|(_, held)| held.subject()).collect();
    }
    info
}

async fn subsz(State(monitor): State<Arc<Monitor>>, Query(query): Query<ListQuery>) -> Json<Value> {
    monitor.requests.subsz.fetch_add(1, Relaxed);
    let subscriptions = subscriptions_of_all(&monitor);
    let accounts = monitor.shared.accounts.all();
    let sum = |figure: fn(RouterChanges) -> u64| -> u64 {
        accounts
            .iter()
            .map(|account| figure(account.router.changes()))
            .sum()
    };
    let mut subsz = json!({
        "server_id": monitor.server_id(), "now": time::format(monitor.now()),
        "num_subscriptions": subscriptions.len(), "num_cache": 0,
        "num_inserts": sum(|changes| changes.inserts), "num_removes": sum(|changes| changes.removes),
        "num_matches": sum(|changes| changes.lookups),
        "total": subscriptions.len(), "offset": query.offset, "limit": query.limit(),
    });
    if wants(&query.subs) {
        let page = subscriptions.iter().skip(query.offset).take(query.limit());
        subsz["subscriptions_list"] = page
            .map(|(account, held)| subscription_detail(account, held))
            .collect();
    }
    Json(subsz)
}

/// All subscriptions, each with the name of its account.
fn subscriptions_of_all(monitor: &Monitor) -> Vec<(Arc<str>, Arc<Subscription>)> {
    let accounts = monitor.shared.accounts.all();
    accounts
        .iter()
        .flat_map(|account| {
            let held = account.router.subscriptions();
            held.into_iter().map(|held| (Arc::clone(&account.name), held))
        })
        .collect()
}

fn subscription_detail(account: &str, subscription: &Subscription) -> Value {
    let mut detail = json!({
        "account": account, "subject": subscription.subject(), "sid": subscription.sid_text(),
        "msgs": subscription.delivered(), "cid": subscription.target().id().0,
    });
    if let Some(queue) = subscription.queue() {
        detail["qgroup"] = queue.into();
    }
    if let Some(max) = subscription.max() {
        detail["max"] = max.into();
    }
    detail
}

async fn healthz(State(monitor): State<Arc<Monitor>>) -> Response {
    monitor.requests.healthz.fetch_add(1, Relaxed);
    match health(&monitor.view) {
        Health::Ok => Json(json!({"status": "ok"})).into_response(),
        Health::Unhealthy { reason } => {
            let body = json!({"status": "unavailable", "status_code": 503, "error": reason});
            (StatusCode::SERVICE_UNAVAILABLE, Json(body)).into_response()
        }
    }
}

impl Requests {
    fn figures(&self) -> BTreeMap<&'static str, u64> {
        [
            ("/", &self.root),
            ("/varz", &self.varz),
            ("/connz", &self.connz),
            ("/subsz", &self.subsz),
            ("/jsz", &self.jsz),
            ("/healthz", &self.healthz),
        ]
        .into_iter()
        .map(|(path, count)| (path, count.load(Relaxed)))
        .collect()
    }
}

/// Whether a query's flag is set.
fn wants(flag: &str) -> bool {
    matches!(flag, "1" | "true" | "detail")
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// A length of time as nats-server writes it: `1y2d3h4m5s`, without the leading units that are nought.
fn uptime(nanos: i64) -> String {
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
