//! `/jsz`, and JetStream's figures elsewhere, from the storage thread's latest snapshot.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use axum::Json;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{Monitor, wants};
use crate::api::time;
use crate::api::types::AccountInfo;
use crate::engine::{AccountSnapshot, StreamSnapshot};

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct JszQuery {
    acc: String,
    accounts: String,
    streams: String,
    consumers: String,
    config: String,
}

pub(super) async fn jsz(State(monitor): State<Arc<Monitor>>, Query(query): Query<JszQuery>) -> Response {
    monitor.requests.jsz.fetch_add(1, Relaxed);
    let snapshot = monitor.snapshots.latest();
    let has_account = |name: &str| snapshot.accounts.iter().any(|account| *account.name == *name);
    if !query.acc.is_empty() && !has_account(&query.acc) {
        return (
            StatusCode::NOT_FOUND,
            format!("account {:?} not found", query.acc),
        )
            .into_response();
    }
    let mut jsz = stats(&snapshot.total);
    for (name, value) in [
        ("server_id", json!(monitor.server_id())),
        ("now", json!(time::format(monitor.now()))),
        ("config", config(&monitor)),
        ("streams", json!(snapshot.total.streams)),
        ("consumers", json!(snapshot.total.consumers)),
        ("messages", json!(snapshot.messages)),
        ("bytes", json!(snapshot.bytes)),
        ("total", json!(snapshot.accounts.len())),
    ] {
        jsz[name] = value;
    }
    if !query.acc.is_empty()
        || [&query.accounts, &query.streams, &query.consumers]
            .into_iter()
            .any(|flag| wants(flag))
    {
        jsz["account_details"] = snapshot
            .accounts
            .iter()
            .filter(|account| query.acc.is_empty() || *account.name == *query.acc)
            .map(|account| account_detail(account, &query))
            .collect();
    }
    Json(jsz).into_response()
}

fn account_detail(snapshot: &AccountSnapshot, query: &JszQuery) -> Value {
    let mut account = stats(&snapshot.info);
    account["name"] = (*snapshot.name).into();
    account["id"] = (*snapshot.name).into();
    if wants(&query.streams) || wants(&query.consumers) {
        account["stream_detail"] = snapshot
            .streams
            .iter()
            .map(|stream| stream_detail(stream, query))
            .collect();
    }
    account
}

fn stream_detail(stream: &StreamSnapshot, query: &JszQuery) -> Value {
    let info = &stream.info;
    let mut detail = json!({"name": info.config.name, "created": info.created, "state": info.state});
    if wants(&query.config) {
        detail["config"] = value(&info.config);
    }
    if wants(&query.consumers) {
        let consumers = stream.consumers.iter().map(|consumer| {
            let mut consumer = value(consumer);
            if let (false, Some(fields)) = (wants(&query.config), consumer.as_object_mut()) {
                fields.remove("config");
            }
            consumer
        });
        detail["consumer_detail"] = consumers.collect();
    }
    detail
}

/// What JetStream is set to. There is no limit but the disk's.
pub(super) fn config(monitor: &Monitor) -> Value {
    json!({"max_memory": -1, "max_storage": -1, "store_dir": monitor.store_dir, "sync_always": true})
}

/// What JetStream uses.
pub(super) fn stats(account: &AccountInfo) -> Value {
    json!({
        "memory": account.memory, "storage": account.storage,
        "reserved_memory": account.reserved_memory, "reserved_storage": account.reserved_storage,
        "accounts": 1, "ha_assets": 0, "api": account.api,
    })
}

fn value(of: &impl Serialize) -> Value {
    serde_json::to_value(of).unwrap_or_default()
}
