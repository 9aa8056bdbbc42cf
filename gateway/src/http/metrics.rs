//! `/metrics`: what every part counts, in Prometheus' text form.

mod parts;

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;
use tarn_broker::server::BrokerStats;
use tarn_processor::stats::ProcessorStats;

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
            parts::broker(&mut out, stats)?;
        }
        if let Some(stats) = &self.mqtt {
            parts::mqtt(&mut out, stats)?;
        }
        if let Some(stats) = &self.processor {
            parts::processor(&mut out, stats)?;
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

#[cfg(test)]
mod tests {
    use tarn_processor::stats::{LATENCY_BOUNDS_MS, LatencyStats, ProcessorState, StreamStats};
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
