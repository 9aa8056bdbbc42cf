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
    if !wanted.is_empty() && !accounts.iter().any(|account| *account.name == *wanted) {
        return Ok(None);
    }
    let mut jsz = stats(&snapshot.total, accounts.len());
    for (name, value) in [
        ("server_id", json!(monitor.server_id())),
        ("now", json!(time::format(monitor.now()))),
        ("config", config(monitor)),
        ("streams", json!(snapshot.total.streams)),
        ("consumers", json!(snapshot.total.consumers)),
        ("messages", json!(snapshot.messages)),
        ("bytes", json!(snapshot.bytes)),
        ("total", json!(accounts.len())),
    ] {
        jsz[name] = value;
    }
    if !wanted.is_empty() || parts.streams || args.flag("accounts")? {
        jsz["account_details"] = accounts
            .into_iter()
            .filter(|account| wanted.is_empty() || *account.name == *wanted)
            .skip(if wanted.is_empty() { offset } else { 0 })
            .take(limit)
            .map(|account| account_detail(account, parts))
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
    Ok(found.map(|account| account_detail(account, parts)))
}

/// The accounts that may use JetStream.
fn enabled<'a>(monitor: &Monitor, snapshot: &'a JsSnapshot) -> Vec<&'a AccountSnapshot> {
    let names = monitor.shared.accounts.names();
    let may = |account: &&AccountSnapshot| names.jetstream(account.id).is_some();
    snapshot.accounts.iter().filter(may).collect()
}

fn account_detail(snapshot: &AccountSnapshot, parts: Parts) -> Value {
    let mut account = stats(&snapshot.info, 1);
    account["name"] = (*snapshot.name).into();
    account["id"] = (*snapshot.name).into();
    if parts.streams {
        let streams = snapshot.streams.iter();
        account["stream_detail"] = streams.map(|stream| stream_detail(stream, parts)).collect();
    }
    account
}

fn stream_detail(stream: &StreamSnapshot, parts: Parts) -> Value {
    let info = &stream.info;
    let mut detail = json!({"name": info.config.name, "created": info.created, "state": info.state});
    if parts.config {
        detail["config"] = value(&info.config);
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

/// What JetStream is set to; -1: there is no limit but the machine's.
pub(super) fn config(monitor: &Monitor) -> Value {
    let bytes = |limit: Option<u64>| limit.map_or(-1, |limit| i64::try_from(limit).unwrap_or(i64::MAX));
    let jetstream = &monitor.settings.jetstream;
    let mut config = json!({
        "max_memory": bytes(jetstream.max_memory_bytes), "max_storage": bytes(jetstream.max_file_bytes),
        "store_dir": monitor.store_dir, "sync_always": true, "strict": true,
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
    json!({"config": config(monitor), "stats": stats(&snapshot.total, accounts), "limits": {}})
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
