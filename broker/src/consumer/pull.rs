//! Pull requests and the status messages that answer them.

use std::fmt::Write as _;

use bytes::Bytes;
use serde::Deserialize;

use super::priority::PriorityRequest;
use crate::engine::time::{Mono, earliest};

/// A client's request for messages of a pull consumer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PullRequest {
    /// Where the messages go.
    pub(crate) reply: Bytes,
    /// Messages still wanted.
    pub(crate) remaining: u64,
    /// Messages delivered to it.
    pub(crate) delivered: u64,
    /// Bytes still wanted, if bounded.
    pub(crate) remaining_bytes: Option<u64>,
    /// When the request ends.
    pub(crate) expires: Option<Mono>,
    /// Whether it ends when there is nothing more to deliver.
    pub(crate) no_wait: bool,
    /// Time between signs of life, nanoseconds; 0: none.
    pub(crate) heartbeat_ns: i64,
    /// When the next sign of life is due.
    pub(crate) next_heartbeat: Option<Mono>,
    /// What it says about priorities.
    pub(crate) priority: Box<PriorityRequest>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct PullJson {
    expires: i64,
    batch: i64,
    max_bytes: i64,
    no_wait: bool,
    idle_heartbeat: i64,
    #[serde(flatten)]
    priority: PriorityRequest,
}

/// What a consumer's configuration allows a pull request to ask for; 0: anything.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PullLimits {
    pub(crate) max_batch: i64,
    pub(crate) max_expires: i64,
    pub(crate) max_bytes: i64,
}

impl PullRequest {
    /// Reads the payload of a request: nothing, a number or JSON.
    ///
    /// # Errors
    /// The status to refuse the request with.
    /// Source: nats-server, `nextReqFromMsg`, `processNextMsgRequest`.
    pub(crate) fn parse(reply: Bytes, payload: &[u8], limits: PullLimits, now: Mono) -> Result<Self, Status> {
        let payload = payload.trim_ascii();
        let json = if payload.first() == Some(&b'{') {
            serde_json::from_slice(payload).map_err(|err| Status::BadRequest(err.to_string()))?
        } else {
            let batch = std::str::from_utf8(payload)
                .ok()
                .and_then(|text| text.parse().ok())
                .unwrap_or(1);
            PullJson {
                batch,
                ..PullJson::default()
            }
        };
        if json.idle_heartbeat > 0 && json.idle_heartbeat.saturating_mul(2) > json.expires {
            return Err(Status::BadRequest("heartbeat value too large".to_owned()));
        }
        if limits.max_batch > 0 && json.batch > limits.max_batch {
            return Err(Status::MaxRequestBatch(limits.max_batch));
        }
        if limits.max_expires > 0 && json.expires > limits.max_expires {
            return Err(Status::MaxRequestExpires(limits.max_expires));
        }
        if limits.max_bytes > 0 && json.max_bytes > limits.max_bytes {
            return Err(Status::MaxRequestMaxBytes(limits.max_bytes));
        }
        Ok(Self {
            // A copy: a slice of the read buffer would hold all of it while the request waits.
            reply: Bytes::copy_from_slice(&reply),
            remaining: u64::try_from(json.batch).unwrap_or(1).max(1),
            delivered: 0,
            remaining_bytes: u64::try_from(json.max_bytes).ok().filter(|bytes| *bytes > 0),
            expires: (json.expires > 0).then(|| now.after(json.expires)),
            no_wait: json.no_wait,
            heartbeat_ns: json.idle_heartbeat,
            next_heartbeat: (json.idle_heartbeat > 0).then(|| now.after(json.idle_heartbeat)),
            priority: Box::new(json.priority),
        })
    }

    /// When the request wants to be looked at.
    pub(crate) fn deadline(&self) -> Option<Mono> {
        earliest(self.expires, self.next_heartbeat)
    }

    /// The part of a status that says what the request did not get.
    pub(crate) fn unfilled(&self) -> Unfilled {
        Unfilled {
            messages: self.remaining,
            bytes: self.remaining_bytes.unwrap_or(0),
        }
    }
}

/// What a request did not get.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Unfilled {
    pub(crate) messages: u64,
    pub(crate) bytes: u64,
}

/// A message without payload that tells a client how its request stands. Clients match the texts.
/// Source: nats-server, `consumer.go`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Status {
    /// The consumer is alive and has nothing new.
    IdleHeartbeat {
        consumer_seq: u64,
        stream_seq: u64,
        stalled_on: Option<String>,
    },
    /// The receiver is to answer, so that more can be sent.
    FlowControl {
        answer_to: String,
    },
    BadRequest(String),
    NoMessages,
    RequestTimeout(Unfilled),
    ConsumerDeleted,
    PushBased,
    MaxBytesExceeded(Unfilled),
    BatchCompleted(Unfilled),
    MaxWaiting,
    MaxRequestBatch(i64),
    MaxRequestExpires(i64),
    MaxRequestMaxBytes(i64),
    ServerShutdown,
    ApiLevel,
    /// Another client is pinned.
    PinMismatch,
    WrongPin(Unfilled),
}

impl Status {
    /// The header block of the status message.
    pub(crate) fn header_block(&self) -> String {
        let mut out = String::with_capacity(96);
        out.push_str("NATS/1.0 ");
        out.push_str(&self.line());
        out.push_str("\r\n");
        if let Self::RequestTimeout(unfilled)
        | Self::MaxBytesExceeded(unfilled)
        | Self::BatchCompleted(unfilled)
        | Self::WrongPin(unfilled) = self
        {
            header(&mut out, "Nats-Pending-Messages", unfilled.messages);
            header(&mut out, "Nats-Pending-Bytes", unfilled.bytes);
        }
        if let Self::IdleHeartbeat {
            consumer_seq,
            stream_seq,
            stalled_on,
        } = self
        {
            header(&mut out, "Nats-Last-Consumer", consumer_seq);
            header(&mut out, "Nats-Last-Stream", stream_seq);
            if let Some(subject) = stalled_on {
                header(&mut out, "Nats-Consumer-Stalled", subject);
            }
        }
        out.push_str("\r\n");
        out
    }

    fn line(&self) -> String {
        match self {
            Self::IdleHeartbeat { .. } => "100 Idle Heartbeat".to_owned(),
            Self::FlowControl { .. } => "100 FlowControl Request".to_owned(),
            Self::BadRequest(err) => format!("400 Bad Request - {}", err.replace(['\r', '\n'], " ")),
            Self::NoMessages => "404 No Messages".to_owned(),
            Self::RequestTimeout(_) => "408 Request Timeout".to_owned(),
            Self::ConsumerDeleted => "409 Consumer Deleted".to_owned(),
            Self::PushBased => "409 Consumer is push based".to_owned(),
            Self::MaxBytesExceeded(_) => "409 Message Size Exceeds MaxBytes".to_owned(),
            Self::BatchCompleted(_) => "409 Batch Completed".to_owned(),
            Self::MaxWaiting => "409 Exceeded MaxWaiting".to_owned(),
            Self::MaxRequestBatch(max) => format!("409 Exceeded MaxRequestBatch of {max}"),
            Self::MaxRequestExpires(max) => {
                format!("409 Exceeded MaxRequestExpires of {}", go_duration(*max))
            }
            Self::MaxRequestMaxBytes(max) => format!("409 Exceeded MaxRequestMaxBytes of {max}"),
            Self::ServerShutdown => "409 Server Shutdown".to_owned(),
            Self::ApiLevel => "412 Required Api Level".to_owned(),
            Self::PinMismatch => "423 Nats-Pin-Id mismatch".to_owned(),
            Self::WrongPin(_) => "423 Nats-Wrong-Pin-Id".to_owned(),
        }
    }
}

fn header(out: &mut String, name: &str, value: impl std::fmt::Display) {
    write!(out, "{name}: {value}\r\n").expect("writing to a string does not fail");
}

/// A duration as Go prints it: `1m30s`, `250ms`, `1.5s`.
pub(crate) fn go_duration(nanos: i64) -> String {
    let fraction = |value: i64, unit: i64| {
        let digits = unit.to_string().len() - 1;
        let rest = format!("{:0digits$}", value % unit);
        let rest = rest.trim_end_matches('0');
        if rest.is_empty() {
            (value / unit).to_string()
        } else {
            format!("{}.{rest}", value / unit)
        }
    };
    match nanos {
        0 => "0s".to_owned(),
        1..1_000 => format!("{nanos}ns"),
        1_000..1_000_000 => format!("{}µs", fraction(nanos, 1_000)),
        1_000_000..1_000_000_000 => format!("{}ms", fraction(nanos, 1_000_000)),
        _ => {
            let minutes = nanos / 60_000_000_000;
            let seconds = fraction(nanos % 60_000_000_000, 1_000_000_000);
            match (minutes / 60, minutes % 60) {
                (0, 0) => format!("{seconds}s"),
                (0, minutes) => format!("{minutes}m{seconds}s"),
                (hours, minutes) => format!("{hours}h{minutes}m{seconds}s"),
            }
        }
    }
}

/// A status on its way to a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Notice {
    pub(crate) reply: Bytes,
    pub(crate) status: Status,
}

#[cfg(test)]
mod tests {
    use super::*;

    const NO_LIMITS: PullLimits = PullLimits {
        max_batch: 0,
        max_expires: 0,
        max_bytes: 0,
    };

    fn parse(payload: &str) -> Result<PullRequest, Status> {
        PullRequest::parse(
            Bytes::from_static(b"r"),
            payload.as_bytes(),
            NO_LIMITS,
            Mono(1000),
        )
    }

    #[test]
    fn requests_come_empty_as_a_number_and_as_json() {
        assert_eq!(parse("").unwrap().remaining, 1);
        assert_eq!(parse(" 25 ").unwrap().remaining, 25);
        let json =
            r#"{"batch":10,"expires":5000,"max_bytes":99,"no_wait":true,"idle_heartbeat":2500,"group":"a"}"#;
        let request = parse(json).unwrap();
        assert_eq!(request.remaining, 10);
        assert_eq!(request.expires, Some(Mono(6000)));
        assert_eq!(request.remaining_bytes, Some(99));
        assert_eq!(request.deadline(), Some(Mono(3500)));
        assert!(request.no_wait);
    }

    #[test]
    fn null_counts_as_left_out() {
        let json = r#"{"batch":1,"max_bytes":0,"min_pending":null,"min_ack_pending":null,"group":null,"priority":null}"#;
        assert_eq!(*parse(json).unwrap().priority, PriorityRequest::default());
    }

    #[test]
    fn bad_requests_are_refused() {
        assert!(matches!(parse("{"), Err(Status::BadRequest(_))));
        let late = parse(r#"{"expires":10,"idle_heartbeat":6}"#).unwrap_err();
        assert_eq!(
            late.header_block(),
            "NATS/1.0 400 Bad Request - heartbeat value too large\r\n\r\n"
        );
        let limits = PullLimits {
            max_batch: 5,
            max_expires: 90_000_000_000,
            max_bytes: 0,
        };
        let refuse = |payload: &str| {
            PullRequest::parse(Bytes::new(), payload.as_bytes(), limits, Mono(0))
                .unwrap_err()
                .header_block()
        };
        assert_eq!(refuse("6"), "NATS/1.0 409 Exceeded MaxRequestBatch of 5\r\n\r\n");
        assert_eq!(
            refuse(r#"{"expires":90000000001}"#),
            "NATS/1.0 409 Exceeded MaxRequestExpires of 1m30s\r\n\r\n"
        );
    }

    #[test]
    fn statuses_say_what_was_not_delivered() {
        let unfilled = Unfilled {
            messages: 3,
            bytes: 70,
        };
        assert_eq!(
            Status::RequestTimeout(unfilled).header_block(),
            "NATS/1.0 408 Request Timeout\r\nNats-Pending-Messages: 3\r\nNats-Pending-Bytes: 70\r\n\r\n"
        );
        let heartbeat = Status::IdleHeartbeat {
            consumer_seq: 7,
            stream_seq: 9,
            stalled_on: None,
        };
        assert_eq!(
            heartbeat.header_block(),
            "NATS/1.0 100 Idle Heartbeat\r\nNats-Last-Consumer: 7\r\nNats-Last-Stream: 9\r\n\r\n"
        );
    }

    #[test]
    fn durations_print_as_go_prints_them() {
        let cases = [
            (1, "1ns"),
            (1_500, "1.5µs"),
            (250_000_000, "250ms"),
            (1_500_000_000, "1.5s"),
            (3_600_000_000_000, "1h0m0s"),
        ];
        for (nanos, text) in cases {
            assert_eq!(go_duration(nanos), text);
        }
    }
}
