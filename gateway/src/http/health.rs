//! `/readyz`: whether each role does its work, and if not, why.

use std::sync::Arc;

use axum::Json;
use axum::extract;
use axum::http::StatusCode;
use serde::Serialize;
use tarn_broker::server::Health;
use tarn_processor::stats::{ProcessorState, ProcessorStats};

use super::{Parts, State};

/// The state of one role.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct RoleHealth {
    /// Whether it does its work.
    pub(super) ready: bool,
    /// What keeps it from that.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) reason: Option<String>,
}

impl RoleHealth {
    fn ready() -> RoleHealth {
        RoleHealth {
            ready: true,
            reason: None,
        }
    }

    fn not_ready(reason: impl Into<String>) -> RoleHealth {
        RoleHealth {
            ready: false,
            reason: Some(reason.into()),
        }
    }
}

/// The state of every role that runs here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Readiness {
    /// Whether all of them do their work.
    pub(super) ready: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) broker: Option<RoleHealth>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) mqtt: Option<RoleHealth>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) processor: Option<RoleHealth>,
}

impl Readiness {
    pub(super) fn of(parts: &Parts) -> Readiness {
        let broker = parts.broker.as_ref().map(|broker| of_broker(broker));
        // MQTT takes no message that the broker can't keep.
        let mqtt = parts.mqtt.as_ref().and(broker.clone());
        let processor = parts
            .processor
            .as_ref()
            .map(|processor| of_processor(&processor.stats()));
        let ready = [&broker, &mqtt, &processor]
            .into_iter()
            .flatten()
            .all(|role| role.ready);
        Readiness {
            ready,
            broker,
            mqtt,
            processor,
        }
    }
}

fn of_broker(broker: &tarn_broker::server::Broker) -> RoleHealth {
    match broker.health() {
        Health::Ok => RoleHealth::ready(),
        Health::Unhealthy { reason } => RoleHealth::not_ready(reason),
    }
}

fn of_processor(stats: &ProcessorStats) -> RoleHealth {
    processor_problem(stats).map_or_else(RoleHealth::ready, RoleHealth::not_ready)
}

/// What keeps the processor from reading and committing; `None` when nothing does.
pub(crate) fn processor_problem(stats: &ProcessorStats) -> Option<String> {
    let because = |what: &str| match &stats.last_error {
        Some(error) => Some(format!("{what}: {error}")),
        None => Some(what.to_owned()),
    };
    match stats.state {
        ProcessorState::Starting => because("starting"),
        ProcessorState::Retrying => because("commits fail and are tried again"),
        ProcessorState::Stopped => because("stopped"),
        ProcessorState::Failed => because("gave up; restart tarn once the cause is gone"),
        ProcessorState::Running => {
            let unread = stats.streams.iter().find(|stream| !stream.connected)?;
            because(&format!("stream {} is not being read", unread.name))
        }
    }
}

pub(super) async fn readyz(state: extract::State<Arc<State>>) -> (StatusCode, Json<Readiness>) {
    let readiness = Readiness::of(&state.parts);
    let code = if readiness.ready {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    (code, Json(readiness))
}

#[cfg(test)]
mod tests {
    use tarn_processor::stats::StreamStats;

    use super::*;

    fn stats(state: ProcessorState, connected: bool) -> ProcessorStats {
        let stream = StreamStats {
            name: "S".to_owned(),
            connected,
            ..StreamStats::default()
        };
        ProcessorStats {
            state,
            streams: vec![stream],
            ..ProcessorStats::default()
        }
    }

    #[test]
    fn a_processor_is_ready_when_it_reads_and_commits() {
        assert_eq!(
            of_processor(&stats(ProcessorState::Running, true)),
            RoleHealth::ready()
        );
        let reason = |stats: &ProcessorStats| of_processor(stats).reason.expect("not ready");
        assert_eq!(
            reason(&stats(ProcessorState::Running, false)),
            "stream S is not being read"
        );
        let mut failing = stats(ProcessorState::Retrying, true);
        failing.last_error = Some("disk full".to_owned());
        assert_eq!(reason(&failing), "commits fail and are tried again: disk full");
        assert_eq!(reason(&stats(ProcessorState::Starting, true)), "starting");
    }
}
