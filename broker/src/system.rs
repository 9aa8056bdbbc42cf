//! The system account: what can be asked with `$SYS.REQ.>`, and what is told under `$SYS.>`. Source: nats-server, `events.go`.

pub(crate) mod events;
pub(crate) mod reloads;
mod requests;

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::events::Event;
use self::requests::Asker;
use crate::accounts::Account;
use crate::api::time;
use crate::env::Clock;
use crate::local::{LocalClient, LocalDelivery, LocalMessage};
use crate::monitor::Monitor;
use crate::nats::connections::Connection;
use crate::nats::info::VERSION;
use crate::nats::listener::Shared;
use crate::options::{GLOBAL_ACCOUNT, Permissions, SubjectPermissions};
use crate::types::AccountId;

/// How often the server's figures are told.
const STATSZ_INTERVAL: Duration = Duration::from_secs(10);
/// What a server says it can: JetStream, snapshots in the newer form, own accounts for Raft.
const CAPABILITIES: u32 = 0b111;

/// What answers requests and tells of events.
#[derive(Debug)]
pub(crate) struct System {
    monitor: Arc<Monitor>,
    seq: AtomicU64,
    /// Accounts whose clients' requests are answered.
    served: Mutex<BTreeSet<AccountId>>,
}

impl System {
    /// Starts what answers and tells, unless there is no system account. It ends with `stop`.
    pub(crate) fn start(
        monitor: &Arc<Monitor>,
        events: mpsc::Receiver<Event>,
        services: &TaskTracker,
        stop: &CancellationToken,
    ) -> Option<Arc<Self>> {
        let shared = &monitor.shared;
        let account = shared.accounts.system()?;
        let system = Arc::new(Self {
            monitor: Arc::clone(monitor),
            seq: AtomicU64::new(0),
            served: Mutex::new(BTreeSet::from([account.router.account()])),
        });
        let id = monitor.server_id();
        let subjects = [
            "$SYS.REQ.SERVER.PING".to_owned(),
            "$SYS.REQ.SERVER.PING.*".to_owned(),
            format!("$SYS.REQ.SERVER.{id}.*"),
            "$SYS.REQ.ACCOUNT.*.*".to_owned(),
        ];
        let client = subscribed(&system, &account, &subjects);
        services.spawn(Arc::clone(&system).serve(Asker::System, client, stop.clone()));
        let teller = shared.internal_client(&account, "system events");
        services.spawn(Arc::clone(&system).tell(teller, events));
        system.serve_accounts(services, stop);
        Some(system)
    }

    /// Answers the requests of clients of all accounts, those that have come since the last time among them.
    pub(crate) fn serve_accounts(self: &Arc<Self>, services: &TaskTracker, stop: &CancellationToken) {
        for account in self.monitor.shared.accounts.all() {
            let mut served = self.served.lock().unwrap_or_else(PoisonError::into_inner);
            if !served.insert(account.router.account()) {
                continue;
            }
            let subjects = [
                "$SYS.REQ.ACCOUNT.PING.CONNZ".to_owned(),
                "$SYS.REQ.ACCOUNT.PING.STATZ".to_owned(),
                "$SYS.REQ.SERVER.PING.CONNZ".to_owned(),
            ];
            let client = subscribed(self, &account, &subjects);
            let asker = Asker::Account(Arc::clone(&account.name));
            services.spawn(Arc::clone(self).serve(asker, client, stop.clone()));
        }
    }
}

fn subscribed(system: &System, account: &Arc<Account>, subjects: &[String]) -> LocalClient {
    let client = system.monitor.shared.internal_client(account, "system");
    for subject in subjects {
        if let Err(err) = client.subscribe(subject, None) {
            tracing::error!(error = %err, "requests to the system account are not answered");
        }
    }
    client
}

impl System {
    /// Answers what comes to `client`.
    async fn serve(self: Arc<Self>, asker: Asker, client: LocalClient, stop: CancellationToken) {
        loop {
            let came = tokio::select! {
                () = stop.cancelled() => return,
                came = client.recv() => came,
            };
            let Some(came) = came else { return };
            let mut answers = Vec::new();
            for LocalDelivery {
                subject,
                reply,
                payload,
                ..
            } in came
            {
                let (Ok(subject), Some(Ok(reply))) = (
                    std::str::from_utf8(&subject),
                    reply.as_deref().map(std::str::from_utf8),
                ) else {
                    continue;
                };
                if let Some(answer) = self.answer(&asker, subject, &payload).await {
                    answers.push(message(reply, &answer));
                }
            }
            client.publish(answers).await;
        }
    }

    /// Tells of events, and of the server's figures now and then.
    async fn tell(self: Arc<Self>, client: LocalClient, mut events: mpsc::Receiver<Event>) {
        let mut ticks = tokio::time::interval(STATSZ_INTERVAL);
        let subject = format!("$SYS.SERVER.{}.STATSZ", self.monitor.server_id());
        loop {
            let told = tokio::select! {
                biased;
                event = events.recv() => match event {
                    Some(Event { subject, payload, account: Some(account) }) => {
                        let told = message(&subject, &self.complete(payload));
                        let client = self.monitor.shared.internal_client(&account, "account events");
                        client.publish(vec![told]).await;
                        continue;
                    }
                    Some(event) => message(&event.subject, &self.complete(event.payload)),
                    None => return,
                },
                () = self.monitor.shared.stop.cancelled() => return,
                _ = ticks.tick() => message(&subject, &self.statsz().await),
            };
            client.publish(vec![told]).await;
        }
    }

    /// An event with what all have in common.
    fn complete(&self, mut payload: Value) -> Value {
        payload["server"] = self.server();
        payload["timestamp"] = time::format(self.monitor.now()).into();
        payload["id"] = self.monitor.shared.gate.unique_id().into();
        payload
    }

    /// The server as messages name it.
    fn server(&self) -> Value {
        let info = &self.monitor.shared.info;
        let jetstream = &self.monitor.settings.jetstream;
        let mut server = json!({
            "name": info.server_name, "host": info.host, "id": info.server_id, "ver": VERSION,
            "jetstream": jetstream.enabled, "flags": capabilities(jetstream.enabled),
            "feature_flags": feature_flags(),
            "seq": self.seq.fetch_add(1, Relaxed) + 1, "time": time::format(self.monitor.now()),
        });
        if let Some(domain) = &jetstream.domain {
            server["domain"] = domain.as_str().into();
        }
        let settings = &self.monitor.settings;
        if !settings.tags.is_empty() {
            server["tags"] = json!(settings.tags);
        }
        if !settings.metadata.is_empty() {
            server["metadata"] = json!(settings.metadata);
        }
        server
    }

    /// The server's figures.
    async fn statsz(&self) -> Value {
        let varz = self.monitor.varz().await;
        let figure = |name: &str| varz[name].clone();
        let accounts = self.monitor.shared.accounts.all();
        let active = accounts
            .iter()
            .filter(|account| account.connection_count() > 0)
            .count();
        let traffic = |msgs: &str, bytes: &str| json!({"msgs": figure(msgs), "bytes": figure(bytes)});
        let mut statsz = json!({
            "sent": traffic("out_msgs", "out_bytes"), "sent_to_clients": traffic("out_msgs", "out_bytes"),
            "received": traffic("in_msgs", "in_bytes"), "received_from_clients": traffic("in_msgs", "in_bytes"),
            "active_accounts": active, "active_servers": 1,
        });
        for name in [
            "start",
            "mem",
            "cores",
            "cpu",
            "connections",
            "total_connections",
            "subscriptions",
            "slow_consumers",
            "gomaxprocs",
        ] {
            statsz[name] = figure(name);
        }
        for (count, details) in [
            ("slow_consumers", "slow_consumer_stats"),
            ("stale_connections", "stale_connection_stats"),
        ] {
            if figure(count) != 0 {
                statsz[count] = figure(count);
                statsz[details] = figure(details);
            }
        }
        if self.monitor.settings.jetstream.enabled {
            statsz["jetstream"] = figure("jetstream");
            // Where the files are is nobody else's.
            if let Some(config) = statsz["jetstream"]["config"].as_object_mut() {
                config.remove("store_dir");
            }
        }
        json!({"server": self.server(), "statsz": statsz})
    }
}

fn capabilities(has_jetstream: bool) -> u32 {
    if has_jetstream {
        CAPABILITIES
    } else {
        CAPABILITIES & !1
    }
}

/// nats-server's switches for what is new in it, as it has them unless it is told otherwise.
/// Source: nats-server, `feature_flags.go`.
pub(crate) fn feature_flags() -> Value {
    json!({
        "js_ack_fc_v2": false, "js_api_reply_v2": false,
        "js_raft_delete_range": true, "js_snapshot_sources": false,
    })
}

/// What a client is told of itself.
pub(crate) fn user_info(shared: &Shared, connection: &Connection) -> Vec<u8> {
    let info = &shared.info;
    let mut server = json!({
        "name": info.server_name, "host": info.host, "id": info.server_id, "ver": VERSION,
        "jetstream": info.has_jetstream, "flags": capabilities(info.has_jetstream), "feature_flags": feature_flags(),
        "seq": 0, "time": time::format(shared.clock.now()),
    });
    if !info.tags.is_empty() {
        server["tags"] = json!(info.tags);
    }
    if let Some(domain) = &info.domain {
        server["domain"] = domain.as_str().into();
    }
    let identity = connection.identity();
    let account = identity
        .as_ref()
        .map_or(GLOBAL_ACCOUNT, |held| &held.account.name);
    let tag = identity.as_ref().map(|held| held.account.tag());
    let mut data = json!({
        "user": identity.as_ref().map_or("", |held| &held.user), "account": account,
        "account_name": tag.as_deref().unwrap_or(account),
    });
    if let Some(shown) = identity.as_ref().and_then(|held| held.shown.as_ref())
        && !shown.claims.name.is_empty()
    {
        data["user_name"] = shown.claims.name.as_str().into();
    }
    if let Some(permissions) = identity.as_ref().and_then(|held| held.permissions.as_ref()) {
        data["permissions"] = permissions_info(&permissions.source);
    }
    if let Some(expires) = identity.as_ref().and_then(|held| held.expires) {
        data["expires"] = expires.since(shared.clock.now()).into();
    }
    json!({"server": server, "data": data}).to_string().into_bytes()
}

fn permissions_info(permissions: &Permissions) -> Value {
    let subjects = |rules: &Option<SubjectPermissions>| {
        let mut info = json!({});
        if let Some(rules) = rules {
            if let Some(allow) = &rules.allow {
                info["allow"] = json!(allow);
            }
            if !rules.deny.is_empty() {
                info["deny"] = json!(rules.deny);
            }
        }
        info
    };
    let mut info =
        json!({"publish": subjects(&permissions.publish), "subscribe": subjects(&permissions.subscribe)});
    if let Some(responses) = permissions.responses {
        let ttl = responses.expires.map_or(0, |expires| expires.as_nanos() as u64);
        info["responses"] = json!({"max": responses.max_msgs.unwrap_or(0), "ttl": ttl});
    }
    info
}

fn message(subject: &str, payload: &Value) -> LocalMessage {
    LocalMessage {
        subject: subject.to_owned(),
        payload: Bytes::from(payload.to_string()),
        ..LocalMessage::default()
    }
}
