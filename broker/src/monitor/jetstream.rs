//! `/jsz`, and JetStream's figures elsewhere, from a picture that the storage thread takes when it is asked.

use serde::Serialize;
use serde_json::{Value, json};

use super::Monitor;
use super::args::{ArgError, Args};
use crate::api::time;
use crate::api::types::AccountInfo;
use crate::engine::{AccountSnapshot, JsSnapshot, StreamSnapshot};

/// Accounts in an answer where nothing else is asked for.
const ACCOUNTS: usize = 1024;

/// What nats-server tells beside `sync_always`: the default that it then does not need.
const SYNC_INTERVAL_NANOS: u64 = 120_000_000_000;

/// What an answer of `/jsz` holds of each account.
#[derive(Clone, Copy)]
struct Parts {
    streams: bool,
    consumers: bool,
    config: bool,
}

/// The answer of `/jsz`. None: there is no such account.
pub(crate) async fn jsz(monitor: &Monitor, args: &Args) -> Result<Option<Value>, ArgError> {
    let consumers = args.flag("consumers")?;
    let parts = Parts {
        streams: consumers || args.flag("streams")?,
        consumers,
        config: args.flag("config")?,
    };
    let (offset, limit) = args.page(ACCOUNTS)?;
    let snapshot = monitor.snapshot().await;
    let accounts = enabled(monitor, &snapshot);
    let wanted = args.text("acc");
    let is_known = |wanted: &str| accounts.iter().any(|account| *account.name == *wanted);
    if parts.streams && !wanted.is_empty() && !is_known(wanted) {
        return Ok(None);
    }
    let mut jsz = stats(&snapshot.total, accounts.len());
    for (name, value) in [
        ("server_id", json!(monitor.server_id())),
        ("now", json!(time::format(monitor.now()))),
        ("config", config(monitor)),
        ("limits", limits(monitor)),
        ("streams", json!(snapshot.total.streams)),
        ("consumers", json!(snapshot.total.consumers)),
        ("messages", json!(snapshot.messages)),
        ("bytes", json!(snapshot.bytes)),
        ("total", json!(accounts.len())),
    ] {
        jsz[name] = value;
    }
    if args.flag("raft")? {
        jsz["streams_leader"] = snapshot.total.streams.into();
        jsz["consumers_leader"] = snapshot.total.consumers.into();
    }
    let with_account = !wanted.is_empty() && is_known(wanted);
    if with_account || parts.streams || args.flag("accounts")? {
        jsz["account_details"] = accounts
            .into_iter()
            .filter(|account| wanted.is_empty() || *account.name == *wanted)
            .skip(if wanted.is_empty() { offset } else { 0 })
            .take(limit)
            .map(|account| account_detail(monitor, account, parts))
            .collect();
    }
    Ok(Some(jsz))
}

/// The account's part of `/jsz` alone. None: there is no such account.
pub(crate) async fn jsz_account(
    monitor: &Monitor,
    name: &str,
    args: &Args,
) -> Result<Option<Value>, ArgError> {
    let parts = Parts {
        streams: true,
        consumers: args.flag("consumers")?,
        config: args.flag("config")?,
    };
    let snapshot = monitor.snapshot().await;
    let accounts = enabled(monitor, &snapshot);
    let found = accounts.into_iter().find(|account| *account.name == *name);
    Ok(found.map(|account| account_detail(monitor, account, parts)))
}

/// The accounts that may use JetStream.
fn enabled<'a>(monitor: &Monitor, snapshot: &'a JsSnapshot) -> Vec<&'a AccountSnapshot> {
    let names = monitor.shared.accounts.names();
    let may = |account: &&AccountSnapshot| names.jetstream(account.id).is_some();
    snapshot.accounts.iter().filter(may).collect()
}

fn account_detail(monitor: &Monitor, snapshot: &AccountSnapshot, parts: Parts) -> Value {
    let mut account = stats(&snapshot.info, 1);
    // What is reserved for an account is what it may use; nats-server writes -1, no limit, as an unsigned number.
    if let Some(tier) = monitor.shared.accounts.names().jetstream(snapshot.id) {
        account["reserved_memory"] = tier.max_memory_bytes.unwrap_or(u64::MAX).into();
        account["reserved_storage"] = tier.max_file_bytes.unwrap_or(u64::MAX).into();
    }
    account["name"] = (*snapshot.name).into();
    account["id"] = (*snapshot.name).into();
    if parts.streams {
        let streams = snapshot.streams.iter();
        account["stream_detail"] = streams
            .map(|stream| stream_detail(monitor, stream, parts))
            .collect();
    }
    account
}

fn stream_detail(monitor: &Monitor, stream: &StreamSnapshot, parts: Parts) -> Value {
    let info = &stream.info;
    let mut detail = json!({
        "name": info.config.name, "created": info.created, "state": info.state,
        "cluster": {"leader": monitor.shared.info.server_name},
    });
    if parts.config {
        detail["config"] = value(&info.config);
    }
    if let Some(mirror) = &info.mirror {
        detail["mirror"] = value(mirror);
    }
    if !info.sources.is_empty() {
        detail["sources"] = value(&info.sources);
    }
    if parts.consumers {
        let consumers = stream.consumers.iter().map(|consumer| {
            let mut consumer = value(consumer);
            if let (false, Some(fields)) = (parts.config, consumer.as_object_mut()) {
                fields.remove("config");
            }
            consumer
        });
        detail["consumer_detail"] = consumers.collect();
    }
    detail
}

/// What JetStream is set to. Where no limit is set there is none but the machine's: as nats-server does, three quarters of
/// the memory, and of what was free on the disk at the start, are shown.
pub(super) fn config(monitor: &Monitor) -> Value {
    let machine = monitor.machine;
    let bytes = |limit: Option<u64>, machine: u64| limit.unwrap_or(machine / 4 * 3);
    let jetstream = &monitor.settings.jetstream;
    let mut config = json!({
        "max_memory": bytes(jetstream.max_memory_bytes, machine.memory_bytes),
        "max_storage": bytes(jetstream.max_file_bytes, machine.free_disk_bytes),
        "store_dir": monitor.store_dir, "sync_interval": SYNC_INTERVAL_NANOS, "sync_always": true, "strict": !jetstream.lenient,
    });
    if let Some(domain) = &jetstream.domain {
        config["domain"] = domain.as_str().into();
    }
    config
}

/// JetStream's part of `/varz`.
pub(super) async fn varz(monitor: &Monitor) -> Value {
    if !monitor.settings.jetstream.enabled {
        return json!({});
    }
    let snapshot = monitor.snapshot().await;
    let accounts = enabled(monitor, &snapshot).len();
    json!({"config": config(monitor), "stats": stats(&snapshot.total, accounts), "limits": limits(monitor)})
}

/// What streams and consumers are given where they ask for nothing.
fn limits(monitor: &Monitor) -> Value {
    let set = monitor.settings.jetstream.limits;
    let mut limits = json!({"default_max_consumers": 1000});
    if let Some(max) = set.max_ack_pending {
        limits["max_ack_pending"] = max.into();
    }
    if let Some(max) = set.max_request_batch {
        limits["max_request_batch"] = max.into();
    }
    if let Some(window) = set.duplicate_window {
        limits["duplicates"] = u64::try_from(window.as_nanos()).unwrap_or(u64::MAX).into();
    }
    limits
}

/// What JetStream uses.
fn stats(info: &AccountInfo, accounts: usize) -> Value {
    json!({
        "memory": info.memory, "storage": info.storage,
        "reserved_memory": info.reserved_memory, "reserved_storage": info.reserved_storage,
        "accounts": accounts, "ha_assets": 0, "api": info.api,
    })
}

fn value(of: &impl Serialize) -> Value {
    serde_json::to_value(of).unwrap_or_default()
}
