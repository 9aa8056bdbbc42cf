//! The families of each part, from its figures.

use std::fmt;

use tarn_broker::server::BrokerStats;
use tarn_broker::shard::view::COMMIT_BUCKETS_MICROS;
use tarn_processor::stats::{LATENCY_BOUNDS_MS, LatencyStats, ProcessorState, ProcessorStats};

use super::Out;
use crate::mqtt::MqttStats;

pub(super) fn broker(out: &mut Out<'_>, stats: &BrokerStats) -> fmt::Result {
    for (name, help, value) in [
        ("broker_connections", "Client connections now", stats.connections),
        ("broker_subscriptions", "Subscriptions now", stats.subscriptions),
        (
            "broker_inbox_bytes",
            "Bytes that wait for the storage thread",
            stats.inbox_bytes,
        ),
        (
            "broker_inbox_capacity_bytes",
            "Bytes that fit there",
            stats.inbox_capacity_bytes,
        ),
        (
            "broker_lost_records",
            "Records lost to damage on disk, found at the start or since",
            stats.lost_records,
        ),
        (
            "broker_quarantined_bytes",
            "Damaged bytes kept aside for inspection",
            stats.store.quarantined_bytes,
        ),
        (
            "broker_scrub_pass_ended_seconds",
            "When all sealed segments had been read for damage last, in Unix seconds; 0: not yet",
            u64::try_from(stats.store.scrub_pass_ended.0 / 1_000_000_000).unwrap_or(0),
        ),
    ] {
        out.gauge(name, help, value)?;
    }
    for (name, help, value) in [
        (
            "broker_scrubbed_bytes",
            "Bytes of sealed segments read for damage",
            stats.store.scrubbed_bytes,
        ),
        (
            "broker_scrub_damaged_records",
            "Records found damaged by that",
            stats.store.scrub_damaged,
        ),
        (
            "broker_scrub_unreadable_records",
            "Records that the disk did not give to that",
            stats.store.scrub_unreadable,
        ),
        (
            "broker_compacted_segments",
            "Sparse segments replaced by what was left of them",
            stats.store.compacted_segments,
        ),
        (
            "broker_compacted_bytes",
            "Bytes written for that",
            stats.store.compacted_bytes,
        ),
        (
            "broker_compaction_freed_bytes",
            "Bytes of disk given back by that",
            stats.store.compaction_freed_bytes,
        ),
        (
            "broker_held_back_rounds",
            "Rounds of the storage thread that waited because segments filled faster than they were sealed",
            stats.store.held_back,
        ),
        (
            "broker_set_aside_removed_segments",
            "Unreadable segments removed at the start because too much was set aside",
            stats.store.set_aside_removed,
        ),
        (
            "broker_connections_accepted",
            "Client connections since the start",
            stats.total_connections,
        ),
        (
            "broker_in_messages",
            "Messages received from clients",
            stats.in_msgs,
        ),
        (
            "broker_in_bytes",
            "Bytes of headers and payloads received",
            stats.in_bytes,
        ),
        ("broker_out_messages", "Messages sent to clients", stats.out_msgs),
        (
            "broker_out_bytes",
            "Bytes of headers and payloads sent",
            stats.out_bytes,
        ),
        (
            "broker_slow_consumers",
            "Connections cut off because they took too little",
            stats.slow_consumers,
        ),
        (
            "broker_stale_connections",
            "Connections cut off for unanswered pings",
            stats.stale_connections,
        ),
        (
            "broker_local_dropped",
            "Deliveries dropped because a client in this process was full",
            stats.local_dropped,
        ),
        (
            "broker_store_operations",
            "Operations taken by the storage thread",
            stats.shard.operations,
        ),
    ] {
        out.counter(name, help, value)?;
    }
    let bounds = COMMIT_BUCKETS_MICROS
        .iter()
        .map(|micros| *micros as f64 / 1e6)
        .chain([f64::INFINITY]);
    let buckets: Vec<_> = bounds.zip(stats.shard.commit_buckets).collect();
    out.histogram(
        "broker_store_commit_seconds",
        "Commits of the store: a write and a sync of all that was queued",
        stats.shard.commit_time.as_secs_f64(),
        &buckets,
    )
}

pub(super) fn mqtt(out: &mut Out<'_>, stats: &MqttStats) -> fmt::Result {
    for (name, help, value) in [
        (
            "mqtt_connections",
            "Connections open, handshakes included",
            stats.connections,
        ),
        (
            "mqtt_sessions",
            "Sessions, those of clients that are away included",
            stats.sessions,
        ),
        (
            "mqtt_sessions_offline",
            "Sessions kept for clients that are away",
            stats.sessions_offline,
        ),
        (
            "mqtt_awaiting_store",
            "QoS 1 publishes received and not on disk yet",
            stats.awaiting_store,
        ),
        (
            "mqtt_inflight",
            "QoS 1 deliveries sent and not acknowledged",
            stats.inflight,
        ),
        ("mqtt_queued", "QoS 1 messages in session queues", stats.queued),
        (
            "mqtt_retained_messages",
            "Retained messages",
            stats.retained_count,
        ),
        ("mqtt_retained_bytes", "Their bytes", stats.retained_bytes),
    ] {
        out.gauge(name, help, value)?;
    }
    for (name, help, value) in [
        (
            "mqtt_connections_accepted",
            "Connections since the start",
            stats.connections_total,
        ),
        (
            "mqtt_pubacks_out",
            "PUBACKs sent: messages on stable storage",
            stats.pubacks_out,
        ),
        ("mqtt_in_bytes", "Bytes read", stats.bytes_in),
        ("mqtt_out_bytes", "Bytes written", stats.bytes_out),
        (
            "mqtt_queue_dropped",
            "Messages dropped from full session queues",
            stats.queue_dropped,
        ),
        (
            "mqtt_client_dropped",
            "Messages dropped because a connection fetched too slowly",
            stats.client_dropped,
        ),
        (
            "mqtt_retained_refused",
            "Messages to be retained that found no room",
            stats.retained_refused,
        ),
        (
            "mqtt_sessions_expired",
            "Sessions whose client stayed away too long",
            stats.sessions_expired,
        ),
        (
            "mqtt_subscriptions_refused",
            "Subscriptions refused",
            stats.subscriptions_refused,
        ),
    ] {
        out.counter(name, help, value)?;
    }
    let by_qos = |counts: [u64; 2]| {
        ["0", "1"]
            .into_iter()
            .zip(counts)
            .map(|(qos, count)| ([("qos", qos)], count))
    };
    out.counters(
        "mqtt_publishes_in",
        "Publishes received",
        by_qos(stats.publishes_in),
    )?;
    out.counters(
        "mqtt_publishes_out",
        "Publishes sent, repetitions included",
        by_qos(stats.publishes_out),
    )?;
    let closed = stats
        .closed
        .iter()
        .map(|(reason, count)| ([("reason", *reason)], *count));
    out.counters("mqtt_closed", "Connections closed", closed)?;
    let passed = stats
        .passed_over
        .iter()
        .map(|(reason, count)| ([("reason", *reason)], *count));
    out.counters(
        "mqtt_passed_over",
        "Messages not delivered because no topic stands for their subject",
        passed,
    )
}

pub(super) fn processor(out: &mut Out<'_>, stats: &ProcessorStats) -> fmt::Result {
    let states = [
        ("starting", ProcessorState::Starting),
        ("running", ProcessorState::Running),
        ("retrying", ProcessorState::Retrying),
        ("stopped", ProcessorState::Stopped),
        ("failed", ProcessorState::Failed),
    ];
    let states = states
        .into_iter()
        .map(|(name, state)| ([("state", name)], u64::from(stats.state == state)));
    out.gauges(
        "processor_state",
        "1 for the state that the processor is in",
        states,
    )?;
    for (name, help, value) in [
        (
            "processor_messages",
            "Messages whose rows are committed",
            stats.messages,
        ),
        ("processor_readings", "Rows committed to readings", stats.readings),
        (
            "processor_dead_letters",
            "Rows committed to dead_letters",
            stats.dead_letters,
        ),
        ("processor_commits", "Commits that succeeded", stats.commits),
        (
            "processor_commit_failures",
            "Attempts at a commit that failed",
            stats.commit_failures,
        ),
        ("processor_files", "Data files committed", stats.files),
        (
            "processor_file_bytes",
            "Bytes of the data files committed",
            stats.file_bytes,
        ),
    ] {
        out.counter(name, help, value)?;
    }
    out.gauge(
        "processor_buffered_rows",
        "Rows in memory that are not committed yet",
        stats.buffered_rows,
    )?;
    out.gauge(
        "processor_buffered_bytes",
        "Bytes of payload behind them",
        stats.buffered_bytes,
    )?;
    let last = stats.last_commit_at.unwrap_or_default() as f64 / 1e6;
    out.gauge_f64(
        "processor_last_commit_timestamp_seconds",
        "When the last commit became visible",
        last,
    )?;
    for (name, help, latency) in [
        (
            "processor_commit_seconds",
            "From sealing a batch to its being visible",
            &stats.commit_latency,
        ),
        (
            "processor_publish_to_commit_seconds",
            "From a message's timestamp in its stream to its being visible",
            &stats.publish_to_commit,
        ),
    ] {
        out.histogram(name, help, latency.sum_ms / 1e3, &latency_buckets(latency))?;
    }
    streams_and_windows(out, stats)
}

fn streams_and_windows(out: &mut Out<'_>, stats: &ProcessorStats) -> fmt::Result {
    let streams = || {
        stats
            .streams
            .iter()
            .map(|stream| ([("stream", stream.name.as_str())], stream))
    };
    out.gauges(
        "processor_watermark",
        "Sequence of the last message that is in the lake",
        streams().map(|(label, stream)| (label, stream.watermark.0)),
    )?;
    out.gauges(
        "processor_pending",
        "Messages in the stream behind the last one delivered",
        streams().map(|(label, stream)| (label, stream.pending)),
    )?;
    out.gauges(
        "processor_connected",
        "1 while messages are being pulled",
        streams().map(|(label, stream)| (label, u64::from(stream.connected))),
    )?;
    out.counters(
        "processor_redelivered",
        "Messages that came again and were passed over",
        streams().map(|(label, stream)| (label, stream.redelivered)),
    )?;
    out.counters(
        "processor_expired",
        "Messages that the stream dropped before they could be read",
        streams().map(|(label, stream)| (label, stream.expired)),
    )?;
    let windows = || {
        stats
            .windows
            .iter()
            .map(|window| ([("table", window.table.as_str())], window))
    };
    out.gauges(
        "window_open_rows",
        "Rows of a window table in memory",
        windows().map(|(label, window)| (label, window.open_rows)),
    )?;
    out.counters(
        "window_rewrites",
        "Closed files of a window table written anew for late readings",
        windows().map(|(label, window)| (label, window.rewrites)),
    )
}

/// The processor counts cumulatively.
fn latency_buckets(stats: &LatencyStats) -> Vec<(f64, u64)> {
    let mut buckets = Vec::with_capacity(LATENCY_BOUNDS_MS.len() + 1);
    let mut before = 0;
    for (bound, cumulated) in LATENCY_BOUNDS_MS.iter().zip(&stats.buckets) {
        buckets.push((*bound as f64 / 1e3, cumulated.saturating_sub(before)));
        before = *cumulated;
    }
    buckets.push((f64::INFINITY, stats.count.saturating_sub(before)));
    buckets
}
