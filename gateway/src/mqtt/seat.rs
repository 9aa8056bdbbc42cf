//! A session together with its way to the broker: what passes from one connection of a client to the next.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use super::mapping;
use super::session::{Effect, FilterId, Session};
use super::stats::Counters;
use crate::ingest::{Delivery, IngestClient, SubscribeError, SubscriptionId};

/// Has one owner at a time: the task of the client's connection, or the one that keeps the session while it is away.
pub(super) struct Seat {
    pub(super) session: Session,
    pub(super) client: Box<dyn IngestClient>,
    /// Fetched from the broker, not given to the session yet.
    due: VecDeque<Delivery>,
    filters: HashMap<SubscriptionId, FilterId>,
    subscriptions: HashMap<FilterId, Vec<SubscriptionId>>,
    dropped_seen: u64,
    counters: Arc<Counters>,
    /// What the counters hold of this session's levels.
    levels: Levels,
}

/// How full a session is.
#[derive(Clone, Copy, Default)]
struct Levels {
    inflight: usize,
    queued: usize,
}

impl Seat {
    pub(super) fn new(session: Session, client: Box<dyn IngestClient>, counters: Arc<Counters>) -> Self {
        Self {
            session,
            client,
            due: VecDeque::new(),
            filters: HashMap::new(),
            subscriptions: HashMap::new(),
            dropped_seen: 0,
            counters,
            levels: Levels::default(),
        }
    }

    /// Subscribes to all subjects of a filter.
    pub(super) fn subscribe(&mut self, filter: FilterId, topic_filter: &str) -> Result<(), SubscribeError> {
        let subjects =
            mapping::filter_to_subjects(topic_filter).map_err(|error| SubscribeError(error.to_string()))?;
        for subject in subjects.iter() {
            let subscription = self.client.subscribe(subject)?;
            self.filters.insert(subscription, filter);
            self.subscriptions.entry(filter).or_default().push(subscription);
        }
        Ok(())
    }

    pub(super) fn unsubscribe(&mut self, filter: FilterId) {
        for subscription in self.subscriptions.remove(&filter).unwrap_or_default() {
            self.client.unsubscribe(subscription);
            self.filters.remove(&subscription);
        }
    }

    pub(super) fn fetched(&mut self, deliveries: Vec<Delivery>) {
        self.due.extend(deliveries);
        let dropped = self.client.dropped();
        self.counters.client_dropped.add(dropped - self.dropped_seen);
        self.dropped_seen = dropped;
    }

    pub(super) fn has_due(&self) -> bool {
        !self.due.is_empty()
    }

    /// Gives the session the next message, with all the filters that it came for.
    pub(super) fn deliver_next(&mut self, effects: &mut Vec<Effect>) {
        let Some(first) = self.due.pop_front() else { return };
        let alone = self.filters.get(&first.subscription).copied();
        let mut filters = Vec::new();
        let mut copies = Vec::new();
        while let Some(next) = self.due.front().filter(|next| is_copy(&first, next, &copies)) {
            filters.extend(self.filters.get(&next.subscription));
            copies.push(next.subscription);
            self.due.pop_front();
        }
        let filters = if copies.is_empty() {
            // The usual case takes no memory.
            alone.as_slice()
        } else {
            filters.extend(alone);
            &filters
        };
        let published = first.published_qos;
        if let Err(error) = self
            .session
            .deliver(filters, &first.subject, &first.payload, published, effects)
        {
            self.counters.passed_over.count(error.as_str());
        }
        self.count_levels();
    }

    /// Brings the counters up to date with the session.
    pub(super) fn count_levels(&mut self) {
        let now = Levels {
            inflight: self.session.inflight_count(),
            queued: self.session.queued_count(),
        };
        self.move_levels(now);
        self.counters.queue_dropped.add(self.session.take_dropped());
    }

    fn move_levels(&mut self, now: Levels) {
        let before = std::mem::replace(&mut self.levels, now);
        self.counters.inflight.shift(before.inflight, now.inflight);
        self.counters.queued.shift(before.queued, now.queued);
    }

    /// Gives an offline session all that is due: QoS 1 goes into its queue.
    pub(super) fn deliver_offline(&mut self) {
        let mut effects = Vec::new();
        while self.has_due() {
            self.deliver_next(&mut effects);
        }
        assert!(effects.is_empty(), "an offline session sends nothing");
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.move_levels(Levels::default());
    }
}

/// Whether `next` is the message of `first` for another subscription. Both are alive, so the same payload memory is the same
/// message; an empty payload has none, and there the subscription tells: it gets each message once.
fn is_copy(first: &Delivery, next: &Delivery, copies: &[SubscriptionId]) -> bool {
    first.payload.as_ptr() == next.payload.as_ptr()
        && first.payload.len() == next.payload.len()
        && first.subject == next.subject
        && first.subscription != next.subscription
        && !copies.contains(&next.subscription)
}
