//! What streams listen to that copy those of other accounts: subscriptions of the server's own, whose messages are steps of the
//! storage thread. What comes in is sent by that thread itself, so nobody has to wake it.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::inbox::{JsKind, JsOp, ReplyTo};
use crate::local::{LocalQueue, SubId};
use crate::outbound::ClientId;
use crate::router::{Router, Subscription, Target};

/// What may wait until the next round; consumers hold back long before.
const BYTES_MAX: usize = 64 << 20;

/// The subscriptions, and what has come.
#[derive(Debug)]
pub(super) struct Hearings {
    queue: Arc<LocalQueue>,
    held: BTreeMap<u64, (Arc<Router>, Arc<Subscription>)>,
}

impl Default for Hearings {
    fn default() -> Self {
        Self {
            queue: Arc::new(LocalQueue::internal(ClientId::BROKER, BYTES_MAX)),
            held: BTreeMap::new(),
        }
    }
}

impl Hearings {
    /// Listens to `subject`.
    pub(super) fn begin(&mut self, hearing: u64, router: Arc<Router>, subject: &str) {
        let target = Target::Local(Arc::clone(&self.queue));
        let subscription = router.subscribe(&target, subject, None, &hearing.to_le_bytes());
        self.held.insert(hearing, (router, subscription));
    }

    /// Listens no longer. What has come already is not given out.
    pub(super) fn end(&mut self, hearing: u64) {
        if let Some((router, subscription)) = self.held.remove(&hearing) {
            router.unsubscribe(&subscription);
        }
    }

    /// Whether something has come.
    pub(super) fn has_some(&self) -> bool {
        self.queue.backlog_bytes() > 0
    }

    /// Appends what has come, in order.
    pub(super) fn take(&self, ops: &mut Vec<JsOp>) {
        for delivery in self.queue.take().flatten().unwrap_or_default() {
            let SubId(hearing) = delivery.sub;
            let Some((router, _)) = self.held.get(&hearing) else {
                continue;
            };
            ops.push(JsOp {
                account: router.account(),
                kind: JsKind::Heard(hearing),
                subject: delivery.subject,
                reply: delivery.reply.map_or(ReplyTo::None, ReplyTo::Subject),
                headers: delivery.headers,
                payload: delivery.payload,
            });
        }
    }
}
