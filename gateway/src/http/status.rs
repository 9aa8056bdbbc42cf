//! `/api/v1/status`: the figures behind the status page.

use std::sync::Arc;

use axum::Json;
use axum::extract;
use serde::Serialize;

use super::State;
use super::health::Readiness;

#[derive(Serialize)]
pub(super) struct Status {
    version: &'static str,
    uptime_seconds: u64,
    readiness: Readiness,
    #[serde(skip_serializing_if = "Option::is_none")]
    processor: Option<ProcessorStatus>,
    tables: Vec<String>,
}

#[derive(Serialize)]
struct ProcessorStatus {
    streams: Vec<StreamStatus>,
    readings: u64,
    dead_letters: u64,
    commits: u64,
    commit_failures: u64,
    /// Microseconds since 1970.
    last_commit_at: Option<i64>,
    buffered_rows: u64,
    publish_to_commit_p50_ms: u64,
    publish_to_commit_p99_ms: u64,
}

#[derive(Serialize)]
struct StreamStatus {
    name: String,
    watermark: u64,
    delivered: u64,
    pending: u64,
    redelivered: u64,
    expired: u64,
}

pub(super) async fn status(state: extract::State<Arc<State>>) -> Json<Status> {
    let parts = &state.parts;
    let processor = parts.processor.as_ref().map(|processor| {
        let stats = processor.stats();
        let streams = stats.streams.into_iter().map(|stream| StreamStatus {
            name: stream.name,
            watermark: stream.watermark.0,
            delivered: stream.delivered.0,
            pending: stream.pending,
            redelivered: stream.redelivered,
            expired: stream.expired,
        });
        ProcessorStatus {
            streams: streams.collect(),
            readings: stats.readings,
            dead_letters: stats.dead_letters,
            commits: stats.commits,
            commit_failures: stats.commit_failures,
            last_commit_at: stats.last_commit_at,
            buffered_rows: stats.buffered_rows,
            publish_to_commit_p50_ms: stats.publish_to_commit.p50_ms,
            publish_to_commit_p99_ms: stats.publish_to_commit.p99_ms,
        }
    });
    let tables = match &parts.lake {
        Some(lake) => lake.table_names().await.unwrap_or_default(),
        None => Vec::new(),
    };
    Json(Status {
        version: env!("CARGO_PKG_VERSION"),
        uptime_seconds: state.started.elapsed().as_secs(),
        readiness: Readiness::of(parts),
        processor,
        tables,
    })
}
