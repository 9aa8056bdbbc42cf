//! How long services of other accounts take to answer: which requests are measured, and what is told of them.
//! Source: nats-server, `shouldSample`, `sendTrackingLatency`, `ServiceLatency`.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Map, Value, json};

use crate::api::time;
use crate::options::{LatencySampling, ServiceLatency};
use crate::stream::headers;
use crate::types::{MonoNanos, UnixNanos};

/// The trace headers of requests that are measured, as they are told.
pub(crate) type Trace = BTreeMap<String, Vec<String>>;

/// A request that is measured.
#[derive(Clone, Debug)]
pub(crate) struct Measured {
    /// Where it is told, in the service's account.
    pub(crate) subject: Arc<str>,
    /// The name of that account.
    pub(crate) account: Arc<str>,
    /// Who asked, as JSON.
    pub(crate) requestor: Arc<str>,
    pub(crate) requestor_rtt_nanos: u64,
    pub(crate) trace: Trace,
    pub(crate) asked_at: UnixNanos,
    pub(crate) asked: MonoNanos,
}

/// How a measured request ended.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Outcome<'a> {
    /// It was answered.
    Answered {
        /// Who answered, as JSON.
        responder: &'a str,
        responder_rtt_nanos: u64,
        /// When the answer came, and when it went on.
        came: MonoNanos,
        gone: MonoNanos,
    },
    /// It wants no answer.
    BadRequest,
    /// Nobody is there to answer.
    Unavailable,
    /// Nobody has answered in time.
    Late,
}

impl Measured {
    /// What is told of the request, with an id that nothing else has.
    pub(crate) fn metric(&self, outcome: Outcome<'_>, id: &str, now: UnixNanos) -> Vec<u8> {
        let rtt = i64::try_from(self.requestor_rtt_nanos).unwrap_or(i64::MAX);
        let start = UnixNanos(self.asked_at.0.saturating_sub(rtt));
        let mut metric = json!({
            "type": "io.nats.server.metric.v1.service_latency", "id": id, "timestamp": time::format(now),
            "requestor": value(&self.requestor), "start": time::format(start), "service": 0, "system": 0, "total": 0,
        });
        if !self.trace.is_empty() {
            metric["header"] = json!(self.trace);
        }
        let (status, description) = match outcome {
            Outcome::Answered {
                responder,
                responder_rtt_nanos,
                came,
                gone,
            } => {
                let took = came.0.saturating_sub(self.asked.0);
                let system = match responder_rtt_nanos {
                    0 => 0,
                    _ => gone.0.saturating_sub(came.0),
                };
                metric["responder"] = value(responder);
                metric["service"] = took.saturating_sub(responder_rtt_nanos).into();
                metric["system"] = system.into();
                metric["total"] = (self
                    .requestor_rtt_nanos
                    .saturating_add(took)
                    .saturating_add(system))
                .into();
                (200, None)
            }
            Outcome::BadRequest => (400, Some("Bad Request")),
            Outcome::Unavailable => (503, Some("Service Unavailable")),
            Outcome::Late => (504, Some("Service Timeout")),
        };
        metric["status"] = status.into();
        if let Some(description) = description {
            metric["description"] = description.into();
        }
        metric.to_string().into_bytes()
    }
}

fn value(json: &str) -> Value {
    serde_json::from_str(json).unwrap_or_else(|_| Value::Object(Map::new()))
}

/// Whether a request with this header block is measured, and the trace that it is part of. `random` is any number.
pub(crate) fn sample(latency: &ServiceLatency, block: &[u8], random: u32) -> Option<Trace> {
    match latency.sampling {
        LatencySampling::Percent(percent) if percent >= 100 || random % 100 <= u32::from(percent) => {
            Some(Trace::new())
        }
        _ if block.is_empty() => None,
        _ => traced(block),
    }
}

/// The trace of a request that asks for being measured by the headers of Jaeger, Zipkin or W3C.
fn traced(block: &[u8]) -> Option<Trace> {
    let mut fields = Trace::new();
    for (name, value) in headers::fields(block) {
        let held = fields.entry(canonical(name)).or_default();
        held.push(value.to_owned());
    }
    let first = |name: &str| {
        fields
            .get(name)
            .and_then(|values| values.first())
            .map(String::as_str)
    };
    let keep = |is_kept: &dyn Fn(&str) -> bool| -> Trace {
        let kept = fields.iter().filter(|(name, _)| is_kept(name));
        kept.map(|(name, values)| (name.clone(), values.clone()))
            .collect()
    };
    let of_b3 =
        |name: &str| ["X-B3-Sampled", "X-B3-Traceid", "X-B3-Parentspanid", "X-B3-Spanid"].contains(&name);
    if let Some(id) = first("Uber-Trace-Id") {
        let flags = id
            .split(':')
            .nth(3)
            .filter(|flags| id.split(':').count() == 4 && flags.len() <= 2);
        let is_sampled = flags
            .and_then(|flags| u8::from_str_radix(flags, 16).ok())
            .is_some_and(|flags| flags & 1 == 1);
        return is_sampled.then(|| keep(&|name| name == "Uber-Trace-Id" || name.starts_with("Uberctx-")));
    }
    match first("X-B3-Sampled") {
        Some("1") => return Some(keep(&of_b3)),
        Some("0") => return None,
        _ if first("X-B3-Traceid").is_some() => return Some(keep(&of_b3)),
        _ => {}
    }
    if let Some(b3) = first("B3") {
        let parts: Vec<&str> = b3.split('-').collect();
        let is_denied = matches!(parts.as_slice(), ["0"] | [_, _, "0", ..]);
        return (!is_denied).then(|| keep(&|name| name == "B3"));
    }
    let parent = first("Traceparent")?;
    let flags = parent
        .split('-')
        .nth(3)
        .filter(|flags| parent.split('-').count() == 4 && flags.len() == 2)?;
    let flags = i8::from_str_radix(flags, 16).ok()?;
    (flags & 1 == 1).then(|| keep(&|name| name == "Traceparent" || name == "Tracestate"))
}

/// A header's name as Go writes it: a capital at the beginning and behind each dash.
fn canonical(name: &str) -> String {
    let mut is_first = true;
    let letter = |c: char| {
        let written = if is_first {
            c.to_ascii_uppercase()
        } else {
            c.to_ascii_lowercase()
        };
        is_first = c == '-';
        written
    };
    name.chars().map(letter).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn latency(sampling: LatencySampling) -> ServiceLatency {
        ServiceLatency {
            subject: "lat".to_owned(),
            sampling,
        }
    }

    /// What nats-server 2.15.2 measures.
    #[test]
    fn headers_ask_for_being_measured() {
        let by_headers = latency(LatencySampling::Headers);
        for (header, expected) in [
            ("A: b", None),
            (
                "X-B3-Sampled: 1\r\nx-b3-traceid: 80f",
                Some("X-B3-Sampled X-B3-Traceid"),
            ),
            ("X-B3-Sampled: 0\r\nX-B3-TraceId: 80f", None),
            ("X-B3-TraceId: 80f", Some("X-B3-Traceid")),
            (
                "Uber-Trace-Id: a:b:0:1\r\nuberctx-x: y",
                Some("Uber-Trace-Id Uberctx-X"),
            ),
            ("Uber-Trace-Id: a:b:0:2", None),
            ("Uber-Trace-Id: a:b:1", None),
            ("B3: 80f-05e-1", Some("B3")),
            ("B3: 80f-05e-0", None),
            ("B3: 0", None),
            (
                "traceparent: 00-4b-00-01\r\ntracestate: s",
                Some("Traceparent Tracestate"),
            ),
            ("traceparent: 00-4b-00-00", None),
            ("traceparent: 00-4b-00-ff", None),
        ] {
            let block = format!("NATS/1.0\r\n{header}\r\n\r\n");
            let found = sample(&by_headers, block.as_bytes(), 0);
            let names = found.map(|trace| trace.into_keys().collect::<Vec<_>>().join(" "));
            assert_eq!(names.as_deref(), expected, "{header}");
        }
        assert!(sample(&by_headers, b"", 0).is_none());
    }

    #[test]
    fn a_share_of_requests_is_measured() {
        let count = |percent| {
            let latency = latency(LatencySampling::Percent(percent));
            (0..100)
                .filter(|random| sample(&latency, b"", *random).is_some())
                .count()
        };
        assert_eq!((count(100), count(30)), (100, 31));
    }

    #[test]
    fn metrics_are_written_as_the_server_writes_them() {
        let measured = Measured {
            subject: "lat".into(),
            account: "A".into(),
            requestor: r#"{"acc":"B","rtt":1000}"#.into(),
            requestor_rtt_nanos: 1000,
            trace: Trace::new(),
            asked_at: UnixNanos(1_700_000_000_000_001_000),
            asked: MonoNanos(10_000),
        };
        let answered = Outcome::Answered {
            responder: r#"{"acc":"A"}"#,
            responder_rtt_nanos: 2000,
            came: MonoNanos(15_000),
            gone: MonoNanos(15_007),
        };
        let metric = measured.metric(answered, "x", UnixNanos(1_700_000_000_000_000_000));
        let metric: Value = serde_json::from_slice(&metric).unwrap();
        assert_eq!(
            metric,
            json!({
                "type": "io.nats.server.metric.v1.service_latency", "id": "x", "timestamp": "2023-11-14T22:13:20Z",
                "status": 200, "requestor": {"acc": "B", "rtt": 1000}, "responder": {"acc": "A"},
                "start": "2023-11-14T22:13:20Z", "service": 3000, "system": 7, "total": 6007,
            })
        );
        let late = measured.metric(Outcome::Late, "x", UnixNanos(0));
        let late: Value = serde_json::from_slice(&late).unwrap();
        assert_eq!(
            (&late["status"], &late["description"]),
            (&504.into(), &"Service Timeout".into())
        );
    }
}
