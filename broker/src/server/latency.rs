//! Telling of measured requests to services that were not answered in time.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio_util::sync::CancellationToken;

use crate::env::Clock as _;
use crate::local::LocalMessage;
use crate::nats::listener::Shared;
use crate::sharing::latency::{Measured, Outcome};

/// How often requests that are late are looked for, where any are measured.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);
/// How often it is looked whether any are measured.
const IDLE_INTERVAL: Duration = Duration::from_secs(1);

/// Tells of them in the services' accounts.
pub(super) async fn tell_of_late(shared: Arc<Shared>, stop: CancellationToken) {
    loop {
        let measuring = shared.accounts.measuring();
        let interval = if measuring.is_empty() {
            IDLE_INTERVAL
        } else {
            LOOK_INTERVAL
        };
        for account in measuring {
            let late = account.router.answers().take_late(shared.clock.monotonic());
            if late.is_empty() {
                continue;
            }
            let now = shared.clock.now();
            let message = |measured: &Measured| LocalMessage {
                subject: measured.subject.to_string(),
                payload: Bytes::from(measured.metric(Outcome::Late, &shared.gate.unique_id(), now)),
                ..LocalMessage::default()
            };
            let messages = late.iter().map(message).collect();
            shared
                .internal_client(&account, "service latency")
                .publish(messages)
                .await;
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(interval) => {}
        }
    }
}
