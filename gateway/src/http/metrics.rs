//! `/metrics`: what every part counts, in Prometheus' text form.

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;
use tarn_broker::server::BrokerStats;
use tarn_broker::shard::view::COMMIT_BUCKETS_MICROS;
use tarn_processor::stats::{LATENCY_BOUNDS_MS, LatencyStats, ProcessorState, ProcessorStats};

use super::Parts;
use crate::mqtt::MqttStats;

/// OpenMetrics text.
pub(super) const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The metrics of all parts at this moment.
pub(super) fn render(parts: &Parts) -> String {
    let snapshot = Snapshot {
        broker: parts.broker.as_ref().map(|broker| broker.stats()),
        mqtt: parts.mqtt.as_ref().map(|mqtt| mqtt.stats()),
        processor: parts.processor.as_ref().map(|processor| processor.stats()),
    };
    snapshot.render()
}

#[derive(Debug)]
struct Snapshot {
    broker: Option<BrokerStats>,
    mqtt: Option<MqttStats>,
    processor: Option<ProcessorStats>,
}

impl Snapshot {
    fn render(self) -> String {
        let mut registry = Registry::with_prefix("tarn");
        registry.register_collector(Box::new(self));
        let mut out = String::new();
        match text::encode(&mut out, &registry) {
            Ok(()) => out,
            // Writing to a string can't fail.
            Err(fmt::Error) => String::new(),
        }
    }
}

impl Collector for Snapshot {
    fn encode(&self, encoder: DescriptorEncoder) -> fmt::Result {
        let mut out = Out(encoder);
        out.gauge("up", "1 while the process runs", 1)?;
        if let Some(stats) = &self.broker {
            broker(&mut out, stats)?;
        }
        if let Some(stats) = &self.mqtt {
            mqtt(&mut out, stats)?;
        }
        if let Some(stats) = &self.processor {
            processor(&mut out, stats)?;
        }
        Ok(())
    }
}

/// Writes families; names come without the prefix and, for counters, without `_total`.
struct Out<'a>(DescriptorEncoder<'a>);

type Labels<'a> = [(&'static str, &'a str)];

impl Out<'_> {
    fn counter(&mut self, name: &str, help: &str, value: u64) -> fmt::Result {
        let mut metric = self.0.encode_descriptor(name, help, None, MetricType::Counter)?;
        metric.encode_counter::<NoLabels, _, u64>(&value, None)
    }

    fn gauge(&mut self, name: &str, help: &str, value: u64) -> fmt::Result {
        self.0
            .encode_descriptor(name, help, None, MetricType::Gauge)?
            .encode_gauge(&whole(value))
    }

    fn gauge_f64(&mut self, name: &str, help: &str, value: f64) -> fmt::Result {
        self.0
            .encode_descriptor(name, help, None, MetricType::Gauge)?
            .encode_gauge(&value)
    }

    fn gauges<'l>(
        &mut self,
        name: &str,
        help: &str,
        values: impl Iterator<Item = ([(&'static str, &'l str); 1], u64)>,
    ) -> fmt::Result {
        let mut family = self.0.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for (labels, value) in values {
            let labels: &Labels<'l> = &labels;
            family.encode_family(&Set(labels))?.encode_gauge(&whole(value))?;
        }
        Ok(())
    }

    fn counters<'l>(
        &mut self,
        name: &str,
        help: &str,
        values: impl Iterator<Item = ([(&'static str, &'l str); 1], u64)>,
    ) -> fmt::Result {
        let mut family = self.0.encode_descriptor(name, help, None, MetricType::Counter)?;
        for (labels, value) in values {
            let labels: &Labels<'l> = &labels;
            family
                .encode_family(&Set(labels))?
                .encode_counter::<NoLabels, _, u64>(&value, None)?;
        }
        Ok(())
    }

    /// A histogram of seconds: the upper bound of each bucket, and how many fell into it; the last takes the rest.
    fn histogram(&mut self, name: &str, help: &str, sum: f64, buckets: &[(f64, u64)]) -> fmt::Result {
        let count = buckets.iter().map(|(_, count)| count).sum();
        let mut metric = self
            .0
            .encode_descriptor(name, help, None, MetricType::Histogram)?;
        metric.encode_histogram::<NoLabels>(sum, count, buckets, None)
    }
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

fn whole(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

type NoLabels = [(&'static str, &'static str); 0];

struct Set<'a>(&'a Labels<'a>);

impl EncodeLabelSet for Set<'_> {
    fn encode(&self, encoder: &mut prometheus_client::encoding::LabelSetEncoder) -> fmt::Result {
        self.0.encode(encoder)
    }
}

fn broker(out: &mut Out<'_>, stats: &BrokerStats) -> fmt::Result {
    out.gauge("broker_connections", "Client connections now", stats.connections)?;
    out.counter(
        "broker_connections_accepted",
        "Client connections since the start",
        stats.total_connections,
    )?;
    out.gauge("broker_subscriptions", "Subscriptions now", stats.subscriptions)?;
    out.counter(
        "broker_in_messages",
        "Messages received from clients",
        stats.in_msgs,
    )?;
    out.counter(
        "broker_in_bytes",
        "Bytes of headers and payloads received",
        stats.in_bytes,
    )?;
    out.counter("broker_out_messages", "Messages sent to clients", stats.out_msgs)?;
    out.counter(
        "broker_out_bytes",
        "Bytes of headers and payloads sent",
        stats.out_bytes,
    )?;
    out.counter(
        "broker_slow_consumers",
        "Connections cut off because they took too little",
        stats.slow_consumers,
    )?;
    out.counter(
        "broker_stale_connections",
        "Connections cut off for unanswered pings",
        stats.stale_connections,
    )?;
    out.counter(
        "broker_local_dropped",
        "Deliveries dropped because a client in this process was full",
        stats.local_dropped,
    )?;
    out.gauge(
        "broker_inbox_bytes",
        "Bytes that wait for the storage thread",
        stats.inbox_bytes,
    )?;
    out.gauge(
        "broker_inbox_capacity_bytes",
        "Bytes that fit there",
        stats.inbox_capacity_bytes,
    )?;
    out.counter(
        "broker_store_operations",
        "Operations taken by the storage thread",
        stats.shard.operations,
    )?;
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

fn mqtt(out: &mut Out<'_>, stats: &MqttStats) -> fmt::Result {
    out.gauge(
        "mqtt_connections",
        "Connections open, handshakes included",
        stats.connections,
    )?;
    out.counter(
        "mqtt_connections_accepted",
        "Connections since the start",
        stats.connections_total,
    )?;
    out.gauge(
        "mqtt_sessions",
        "Sessions, those of clients that are away included",
        stats.sessions,
    )?;
    out.gauge(
        "mqtt_sessions_offline",
        "Sessions kept for clients that are away",
        stats.sessions_offline,
    )?;
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
    out.counter(
        "mqtt_pubacks_out",
        "PUBACKs sent: messages on stable storage",
        stats.pubacks_out,
    )?;
    out.counter("mqtt_in_bytes", "Bytes read", stats.bytes_in)?;
    out.counter("mqtt_out_bytes", "Bytes written", stats.bytes_out)?;
    out.gauge(
        "mqtt_awaiting_store",
        "QoS 1 publishes received and not on disk yet",
        stats.awaiting_store,
    )?;
    out.gauge(
        "mqtt_inflight",
        "QoS 1 deliveries sent and not acknowledged",
        stats.inflight,
    )?;
    out.gauge("mqtt_queued", "QoS 1 messages in session queues", stats.queued)?;
    out.counter(
        "mqtt_queue_dropped",
        "Messages dropped from full session queues",
        stats.queue_dropped,
    )?;
    out.counter(
        "mqtt_client_dropped",
        "Messages dropped because a connection fetched too slowly",
        stats.client_dropped,
    )?;
    out.gauge(
        "mqtt_retained_messages",
        "Retained messages",
        stats.retained_count,
    )?;
    out.gauge("mqtt_retained_bytes", "Their bytes", stats.retained_bytes)?;
    out.counter(
        "mqtt_retained_refused",
        "Messages to be retained that found no room",
        stats.retained_refused,
    )?;
    out.counter(
        "mqtt_sessions_expired",
        "Sessions whose client stayed away too long",
        stats.sessions_expired,
    )?;
    out.counter(
        "mqtt_subscriptions_refused",
        "Subscriptions refused",
        stats.subscriptions_refused,
    )?;
    let by_reason = |counts: &'static str| ("reason", counts);
    let closed = stats
        .closed
        .iter()
        .map(|(reason, count)| ([by_reason(reason)], *count));
    out.counters("mqtt_closed", "Connections closed", closed)?;
    let passed = stats
        .passed_over
        .iter()
        .map(|(reason, count)| ([by_reason(reason)], *count));
    out.counters(
        "mqtt_passed_over",
        "Messages not delivered because no topic stands for their subject",
        passed,
    )
}

fn processor(out: &mut Out<'_>, stats: &ProcessorStats) -> fmt::Result {
    let state = |wanted| u64::from(stats.state == wanted);
    out.gauges(
        "processor_state",
        "1 for the state that the processor is in",
        [
            ("starting", ProcessorState::Starting),
            ("running", ProcessorState::Running),
            ("retrying", ProcessorState::Retrying),
            ("stopped", ProcessorState::Stopped),
            ("failed", ProcessorState::Failed),
        ]
        .into_iter()
        .map(|(name, wanted)| ([("state", name)], state(wanted))),
    )?;
    out.counter(
        "processor_messages",
        "Messages whose rows are committed",
        stats.messages,
    )?;
    out.counter("processor_readings", "Rows committed to readings", stats.readings)?;
    out.counter(
        "processor_dead_letters",
        "Rows committed to dead_letters",
        stats.dead_letters,
    )?;
    out.counter("processor_commits", "Commits that succeeded", stats.commits)?;
    out.counter(
        "processor_commit_failures",
        "Attempts at a commit that failed",
        stats.commit_failures,
    )?;
    out.counter("processor_files", "Data files committed", stats.files)?;
    out.counter(
        "processor_file_bytes",
        "Bytes of the data files committed",
        stats.file_bytes,
    )?;
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
    out.histogram(
        "processor_commit_seconds",
        "From sealing a batch to its being visible",
        stats.commit_latency.sum_ms / 1e3,
        &latency_buckets(&stats.commit_latency),
    )?;
    out.histogram(
        "processor_publish_to_commit_seconds",
        "From a message's timestamp in its stream to its being visible",
        stats.publish_to_commit.sum_ms / 1e3,
        &latency_buckets(&stats.publish_to_commit),
    )?;
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

#[cfg(test)]
mod tests {
    use tarn_processor::stats::StreamStats;
    use tarn_processor::watermark::StreamSeq;

    use super::*;

    fn lines_with(text: &str, part: &str) -> String {
        text.lines()
            .filter(|line| line.contains(part))
            .collect::<Vec<_>>()
            .join("\n")
    }

    #[test]
    fn a_process_without_roles_is_up() {
        assert_eq!(
            render(&Parts::default()),
            "# HELP tarn_up 1 while the process runs\n# TYPE tarn_up gauge\ntarn_up 1\n# EOF\n"
        );
    }

    #[test]
    fn figures_labels_and_histograms() {
        let mut mqtt = MqttStats {
            publishes_in: [1, 2],
            ..MqttStats::default()
        };
        mqtt.closed.insert("bad \"one\"", 3);
        let stream = StreamStats {
            name: "SENSORS".to_owned(),
            watermark: StreamSeq(7),
            ..StreamStats::default()
        };
        let mut latency = LatencyStats {
            count: 3,
            sum_ms: 61.0,
            buckets: vec![2; LATENCY_BOUNDS_MS.len()],
            ..LatencyStats::default()
        };
        latency.buckets[0] = 1;
        let processor = ProcessorStats {
            state: ProcessorState::Running,
            streams: vec![stream],
            commit_latency: latency,
            ..ProcessorStats::default()
        };
        let text = Snapshot {
            broker: Some(BrokerStats::default()),
            mqtt: Some(mqtt),
            processor: Some(processor),
        }
        .render();
        assert_eq!(
            lines_with(&text, "tarn_mqtt_publishes_in_total"),
            "tarn_mqtt_publishes_in_total{qos=\"0\"} 1\ntarn_mqtt_publishes_in_total{qos=\"1\"} 2"
        );
        assert_eq!(
            lines_with(&text, "tarn_mqtt_closed_total"),
            "tarn_mqtt_closed_total{reason=\"bad \\\"one\\\"\"} 3"
        );
        assert_eq!(
            lines_with(&text, "tarn_processor_watermark{"),
            "tarn_processor_watermark{stream=\"SENSORS\"} 7"
        );
        assert_eq!(
            lines_with(&text, "state=\"running\""),
            "tarn_processor_state{state=\"running\"} 1"
        );
        let histogram = lines_with(&text, "tarn_processor_commit_seconds");
        for line in [
            "tarn_processor_commit_seconds_sum 0.061",
            "tarn_processor_commit_seconds_count 3",
            "tarn_processor_commit_seconds_bucket{le=\"0.01\"} 1",
            "tarn_processor_commit_seconds_bucket{le=\"0.05\"} 2",
            "tarn_processor_commit_seconds_bucket{le=\"3600.0\"} 2",
            "tarn_processor_commit_seconds_bucket{le=\"+Inf\"} 3",
        ] {
            assert!(
                histogram.lines().any(|found| found == line),
                "{line} is missing in\n{histogram}"
            );
        }
    }
}
