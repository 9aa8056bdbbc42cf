//! What the MQTT front end counts.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::session::CloseReason;

/// What has happened since the start, and how full things are now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MqttStats {
    /// Connections open, handshakes included.
    pub connections: u64,
    /// Connections accepted.
    pub connections_total: u64,
    /// Sessions, connected or kept for clients that are away.
    pub sessions: u64,
    /// Sessions kept for clients that are away.
    pub sessions_offline: u64,
    /// Publishes received, by QoS 0 and 1.
    pub publishes_in: [u64; 2],
    /// Publishes sent, by QoS 0 and 1, repetitions included.
    pub publishes_out: [u64; 2],
    /// PUBACKs sent: messages on stable storage.
    pub pubacks_out: u64,
    /// Bytes read.
    pub bytes_in: u64,
    /// Bytes written.
    pub bytes_out: u64,
    /// QoS 1 publishes received and not on disk yet.
    pub awaiting_store: u64,
    /// QoS 1 deliveries sent and not acknowledged, of all sessions.
    pub inflight: u64,
    /// QoS 1 messages in session queues.
    pub queued: u64,
    /// Messages dropped from full session queues, the oldest first.
    pub queue_dropped: u64,
    /// Messages dropped because a connection did not fetch them in time.
    pub client_dropped: u64,
    /// Retained messages.
    pub retained_count: u64,
    /// Bytes of them (topic and payload).
    pub retained_bytes: u64,
    /// Messages that were to be retained and found no room.
    pub retained_refused: u64,
    /// Sessions that ended because their client stayed away too long.
    pub sessions_expired: u64,
    /// Connections closed, by reason.
    pub closed: BTreeMap<&'static str, u64>,
    /// Subscriptions refused.
    pub subscriptions_refused: u64,
    /// Messages that no topic stands for, by reason: not delivered.
    pub passed_over: BTreeMap<&'static str, u64>,
}

/// A number that goes up, and for a level also down.
#[derive(Debug, Default)]
pub(super) struct Count(AtomicU64);

impl Count {
    pub(super) fn add(&self, count: u64) {
        if count > 0 {
            self.0.fetch_add(count, Relaxed);
        }
    }

    pub(super) fn sub(&self, count: u64) {
        self.0.fetch_sub(count, Relaxed);
    }

    /// Moves one part of a level.
    pub(super) fn shift(&self, before: usize, now: usize) {
        if now > before {
            self.add((now - before) as u64);
        } else if now < before {
            self.sub((before - now) as u64);
        }
    }

    pub(super) fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// Counts by reason. Reasons are static names, so their number is bounded.
#[derive(Debug, Default)]
pub(super) struct Reasons(Mutex<BTreeMap<&'static str, u64>>);

impl Reasons {
    /// Returns the new count.
    pub(super) fn count(&self, reason: &'static str) -> u64 {
        let mut reasons = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = reasons.entry(reason).or_default();
        *count += 1;
        *count
    }

    fn get(&self) -> BTreeMap<&'static str, u64> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) connections: Count,
    pub(super) connections_total: Count,
    pub(super) sessions_offline: Count,
    pub(super) sessions_expired: Count,
    pub(super) publishes_in: [Count; 2],
    pub(super) publishes_out: [Count; 2],
    pub(super) pubacks_out: Count,
    pub(super) bytes_in: Count,
    pub(super) bytes_out: Count,
    pub(super) awaiting_store: Count,
    pub(super) inflight: Count,
    pub(super) queued: Count,
    pub(super) queue_dropped: Count,
    pub(super) client_dropped: Count,
    pub(super) subscriptions_refused: Count,
    pub(super) passed_over: Reasons,
    closed: Reasons,
    log_gate: Mutex<BTreeMap<&'static str, Gate>>,
}

/// One line a reason in this time.
const LOG_EVERY: Duration = Duration::from_secs(10);

#[derive(Debug)]
struct Gate {
    logged: Instant,
    suppressed: u64,
}

impl Counters {
    /// Counts the end of a connection, and logs it if it says something about this server or a misbehaving client; at most one
    /// line a reason every ten seconds.
    pub(super) fn closed(&self, reason: CloseReason, device: &str) {
        let name = reason.as_str();
        self.closed.count(name);
        if matches!(
            reason,
            CloseReason::Disconnect
                | CloseReason::ConnectionLost
                | CloseReason::TakenOver
                | CloseReason::Shutdown
        ) {
            return tracing::debug!(device, reason = name, "mqtt connection closed");
        }
        let Some(suppressed) = self.pass_log(name) else {
            return;
        };
        match reason {
            CloseReason::Store(_) => {
                tracing::warn!(
                    device,
                    reason = name,
                    suppressed,
                    "mqtt publish not stored, connection closed"
                );
            }
            _ => tracing::info!(
                device,
                reason = name,
                suppressed,
                "mqtt connection closed by this server"
            ),
        }
    }

    /// How many lines were held back since the last one, if one may be written now.
    pub(super) fn pass_log(&self, reason: &'static str) -> Option<u64> {
        let now = Instant::now();
        let mut gates = self.log_gate.lock().unwrap_or_else(PoisonError::into_inner);
        match gates.get_mut(reason) {
            Some(gate) if now.duration_since(gate.logged) < LOG_EVERY => {
                gate.suppressed += 1;
                None
            }
            Some(gate) => {
                gate.logged = now;
                Some(std::mem::take(&mut gate.suppressed))
            }
            None => {
                gates.insert(
                    reason,
                    Gate {
                        logged: now,
                        suppressed: 0,
                    },
                );
                Some(0)
            }
        }
    }

    pub(super) fn snapshot(&self) -> MqttStats {
        let by_qos = |counts: &[Count; 2]| [counts[0].get(), counts[1].get()];
        MqttStats {
            connections: self.connections.get(),
            connections_total: self.connections_total.get(),
            sessions_offline: self.sessions_offline.get(),
            sessions_expired: self.sessions_expired.get(),
            publishes_in: by_qos(&self.publishes_in),
            publishes_out: by_qos(&self.publishes_out),
            pubacks_out: self.pubacks_out.get(),
            bytes_in: self.bytes_in.get(),
            bytes_out: self.bytes_out.get(),
            awaiting_store: self.awaiting_store.get(),
            inflight: self.inflight.get(),
            queued: self.queued.get(),
            queue_dropped: self.queue_dropped.get(),
            client_dropped: self.client_dropped.get(),
            subscriptions_refused: self.subscriptions_refused.get(),
            closed: self.closed.get(),
            passed_over: self.passed_over.get(),
            ..MqttStats::default()
        }
    }
}
