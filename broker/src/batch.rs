//! What a sender has for others, gathered for each receiver and handed over once.

mod abroad;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::auth::permissions::Permissions;
use crate::local::{LocalDelivery, SubId};
use crate::nats::codec;
use crate::outbound::{ClientId, STALL_BACKLOG_BYTES};
use crate::router::{Abroad, Found, Message, Receivers, Routed, Router, Subscription, Target, Turn};
use crate::shard::inbox::JsOp;
use crate::subject;
use crate::types::AccountId;

use self::abroad::Trail;

/// No router is ever at this generation.
const NO_GENERATION: u64 = u64::MAX;
/// Routes that a batch remembers.
const ROUTES_MAX: usize = 512;
/// What has gathered is handed over early beyond this.
const PENDING_BYTES_MAX: usize = 2 << 20;
/// Buffers that a batch keeps for the next round, in all.
const KEPT_BYTES_MAX: usize = 512 << 10;

/// How long a sender waits for a receiver for each MiB of backlog, and at most.
const STALL_PER_MIB: Duration = Duration::from_millis(10);
const STALL_MAX: Duration = Duration::from_millis(250);

/// Messages of one sender (a session, a local client, the storage thread), gathered for each receiver.
/// [`Self::flush`] hands them over, once for each receiver.
#[derive(Debug)]
pub struct OutBatch {
    origin: ClientId,
    /// Whether the sender gets its own messages.
    echo: bool,
    routes: Routes,
    slots: Vec<Slot>,
    slot_of: HashMap<ClientId, usize>,
    dirty: Vec<usize>,
    pending_bytes: usize,
    kept_bytes: usize,
    stalled: Vec<Target>,
    random: u64,
    permissions: Option<Arc<Permissions>>,
    /// What the sender has for clients of other accounts.
    abroad: BTreeMap<AccountId, Box<OutBatch>>,
    /// For the storage thread, besides what the sender itself asks of it.
    crossed: Vec<JsOp>,
    /// How messages came here from other accounts.
    trail: Trail,
    /// What the sender is known by to services that are told.
    details: Option<Arc<str>>,
    /// How far away the sender is; 0: not known.
    rtt_nanos: u64,
}

#[derive(Debug)]
struct Slot {
    target: Target,
    dirty: bool,
    bytes: Vec<u8>,
    deliveries: Vec<LocalDelivery>,
    messages: u64,
    message_bytes: u64,
}

/// What [`OutBatch::deliver`] did.
pub(crate) struct Delivery {
    pub(crate) routed: Routed,
    /// Subscriptions that had their last message.
    pub(crate) used_up: Vec<Arc<Subscription>>,
}

#[derive(Debug, Default)]
struct Routes {
    generation: u64,
    entries: Vec<Route>,
    by_subject: HashMap<Box<str>, usize>,
    /// Routes that hold for any last token after this prefix.
    by_prefix: HashMap<Box<str>, usize>,
    last: usize,
}

#[derive(Debug)]
struct Route {
    key: Key,
    plain: Vec<Receiver>,
    queues: Vec<Vec<Receiver>>,
    bound: Option<crate::shard::inbox::JsKind>,
    abroad: Option<Arc<Abroad>>,
    /// The sender may not publish there.
    is_denied: bool,
}

#[derive(Debug)]
enum Key {
    Subject(Box<str>),
    Prefix(Box<str>),
}

#[derive(Debug)]
struct Receiver {
    subscription: Arc<Subscription>,
    slot: usize,
    /// What the subject is called in the receiver's account, if that is another one.
    renamed: Option<Arc<str>>,
}

impl OutBatch {
    /// A batch of `origin`'s messages. The sender gets its own until [`Self::set_echo`] says otherwise.
    pub fn new(origin: ClientId) -> Self {
        Self {
            origin,
            echo: true,
            routes: Routes::default(),
            slots: Vec::new(),
            slot_of: HashMap::new(),
            dirty: Vec::new(),
            pending_bytes: 0,
            kept_bytes: 0,
            stalled: Vec::new(),
            random: origin.0.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1,
            permissions: None,
            abroad: BTreeMap::new(),
            crossed: Vec::new(),
            trail: Trail::default(),
            details: None,
            rtt_nanos: 0,
        }
    }

    /// Sets whether the sender gets its own messages.
    pub fn set_echo(&mut self, echo: bool) {
        self.echo = echo;
    }

    /// Sets what the sender may do.
    pub(crate) fn set_permissions(&mut self, permissions: Option<Arc<Permissions>>) {
        self.permissions = permissions;
        self.forget_all();
    }

    /// Hands over what has gathered, and forgets what was looked up: the next message may be for another router.
    pub(crate) fn forget_all(&mut self) {
        self.flush();
        self.forget();
        self.routes.generation = NO_GENERATION;
    }

    /// Whether the sender may not publish to `subject`.
    pub(crate) fn is_denied(&mut self, router: &Router, subject: &str) -> bool {
        if self.permissions.is_none() {
            return false;
        }
        self.follow(router);
        let index = self.route(router, subject);
        self.routes.entries[index].is_denied
    }

    /// Appends protocol text for `target`, behind what has gathered for it.
    pub fn push_protocol(&mut self, target: &Target, text: &[u8]) {
        let index = self.slot(target);
        let slot = &mut self.slots[index];
        slot.bytes.extend_from_slice(text);
        self.pending_bytes += text.len();
        self.mark(index);
    }

    /// Hands everything over: to the sender itself last, so that it hears nothing before others have what it sent.
    pub fn flush(&mut self) {
        for other in self.abroad.values_mut() {
            other.flush();
            self.stalled.append(&mut other.stalled);
        }
        let mut own = None;
        for index in std::mem::take(&mut self.dirty) {
            if self.slots[index].target.id() == self.origin {
                own = Some(index);
            } else {
                self.hand_over(index);
            }
        }
        if let Some(index) = own {
            self.hand_over(index);
        }
        self.pending_bytes = 0;
    }

    /// Whether receivers have fallen behind since the last [`Self::take_stalled`].
    pub fn has_stalled(&self) -> bool {
        !self.stalled.is_empty()
    }

    /// The receivers that have fallen behind: a sender with manners waits for them, see [`wait_for`].
    pub fn take_stalled(&mut self) -> Vec<Target> {
        std::mem::take(&mut self.stalled)
    }

    /// Gives back memory that is only kept to be used again.
    pub fn shrink(&mut self) {
        if self.dirty.is_empty() && self.abroad.values().all(|other| other.dirty.is_empty()) {
            self.routes = Routes {
                generation: self.routes.generation,
                ..Routes::default()
            };
            self.drop_slots();
            self.abroad.clear();
        }
    }

    /// Gives back what answers to the sender itself have left, if it sends to nobody else.
    pub(crate) fn rest(&mut self) {
        if !self.slots.is_empty() && self.routes.entries.is_empty() && self.dirty.is_empty() {
            self.drop_slots();
        }
    }

    fn drop_slots(&mut self) {
        self.slots = Vec::new();
        self.slot_of = HashMap::new();
        self.dirty = Vec::new();
        self.kept_bytes = 0;
    }

    pub(crate) fn deliver(&mut self, router: &Router, msg: &Message<'_>) -> Delivery {
        self.deliver_to(router, msg.subject, msg)
    }

    /// Gives the message to the receivers of `to`, whatever its own subject is.
    pub(crate) fn deliver_to(&mut self, router: &Router, to: &str, msg: &Message<'_>) -> Delivery {
        let answer = router.answer_to(to);
        self.follow(router);
        let index = self.route(router, to);
        // The route is taken out while it is walked, so that the slots can be filled meanwhile.
        let route = std::mem::take(&mut self.routes.entries[index].plain);
        let mut used_up = Vec::new();
        let mut shared = None;
        let mut receivers = 0;
        for receiver in &route {
            receivers += usize::from(self.give(receiver, to, msg, &mut shared, &mut used_up));
        }
        self.routes.entries[index].plain = route;
        for group in 0..self.routes.entries[index].queues.len() {
            let members = std::mem::take(&mut self.routes.entries[index].queues[group]);
            receivers += usize::from(self.give_one(&members, to, msg, &mut shared, &mut used_up));
            self.routes.entries[index].queues[group] = members;
        }
        let bound = self.routes.entries[index].bound;
        if let Some(abroad) = self.routes.entries[index].abroad.clone() {
            receivers += self.send_abroad(&abroad, to, msg);
        }
        if let Some(answer) = answer {
            receivers += self.pass_answer(router, to, &answer, msg);
        }
        if self.pending_bytes > PENDING_BYTES_MAX {
            self.flush();
        }
        Delivery {
            routed: Routed { receivers, bound },
            used_up,
        }
    }

    /// Gives the message to one member of a queue group, starting anywhere.
    fn give_one(
        &mut self,
        members: &[Receiver],
        to: &str,
        msg: &Message<'_>,
        shared: &mut Option<Shared>,
        used_up: &mut Vec<Arc<Subscription>>,
    ) -> bool {
        let start = self.next_random() % members.len().max(1);
        let (before, after) = members.split_at(start);
        after
            .iter()
            .chain(before)
            .any(|receiver| self.give(receiver, to, msg, shared, used_up))
    }

    fn give(
        &mut self,
        receiver: &Receiver,
        to: &str,
        msg: &Message<'_>,
        shared: &mut Option<Shared>,
        used_up: &mut Vec<Arc<Subscription>>,
    ) -> bool {
        let Some(renamed) = &receiver.renamed else {
            return self.give_as(receiver, msg, shared, used_up);
        };
        // What came by a service is not passed on as a stream, and what JetStream delivers keeps its subject.
        if self.trail.is_abroad() {
            return false;
        }
        let subject = if msg.subject == to { renamed } else { msg.subject };
        self.give_as(receiver, &Message { subject, ..*msg }, &mut None, used_up)
    }

    fn give_as(
        &mut self,
        receiver: &Receiver,
        msg: &Message<'_>,
        shared: &mut Option<Shared>,
        used_up: &mut Vec<Arc<Subscription>>,
    ) -> bool {
        let slot = &mut self.slots[receiver.slot];
        let own = slot.target.id() == self.origin;
        if (own && !self.echo) || slot.target.is_ended() || !receiver.subscription.may_deliver(msg.subject) {
            return false;
        }
        match receiver.subscription.take_turn() {
            Turn::Deliver => {}
            Turn::DeliverLast => used_up.push(Arc::clone(&receiver.subscription)),
            Turn::Skip => return false,
        }
        let before = slot.bytes.len();
        match &slot.target {
            Target::Connection(outbound) => {
                let headers = if outbound.accepts_headers() {
                    msg.headers
                } else {
                    &[]
                };
                if let Some(reply) = msg.reply {
                    outbound.note_request(reply);
                }
                codec::encode_message(&mut slot.bytes, receiver.subscription.sid(), msg, headers);
                self.pending_bytes += slot.bytes.len() - before;
            }
            Target::Local(_) => {
                let shared = shared.get_or_insert_with(|| Shared::new(msg));
                let delivery = shared.delivery(SubId::of(&receiver.subscription));
                self.pending_bytes += delivery.memory_bytes();
                slot.deliveries.push(delivery);
            }
        }
        slot.messages += 1;
        slot.message_bytes += (msg.headers.len() + msg.payload.len()) as u64;
        self.mark(receiver.slot);
        true
    }

    fn hand_over(&mut self, index: usize) {
        let slot = &mut self.slots[index];
        slot.dirty = false;
        if slot.messages > 0 {
            slot.target.count_out(slot.messages, slot.message_bytes);
            slot.messages = 0;
            slot.message_bytes = 0;
        }
        match &slot.target {
            Target::Connection(outbound) => outbound.push(&mut slot.bytes),
            Target::Local(queue) => queue.push(&mut slot.deliveries),
        }
        if self.kept_bytes + slot.bytes.capacity() > KEPT_BYTES_MAX {
            slot.bytes = Vec::new();
        }
        self.kept_bytes += slot.bytes.capacity();
        // A connection's own session must go on reading; a local client takes and publishes in different tasks.
        let own_session = slot.target.id() == self.origin && matches!(slot.target, Target::Connection(_));
        let behind = slot.target.backlog_bytes() > STALL_BACKLOG_BYTES && !own_session;
        if behind && !self.stalled.iter().any(|held| held.id() == slot.target.id()) {
            self.stalled.push(slot.target.clone());
        }
    }

    fn mark(&mut self, index: usize) {
        let slot = &mut self.slots[index];
        if !slot.dirty {
            slot.dirty = true;
            self.kept_bytes = self.kept_bytes.saturating_sub(slot.bytes.capacity());
            self.dirty.push(index);
        }
    }

    /// Forgets routes and slots once subscriptions have changed.
    fn follow(&mut self, router: &Router) {
        let generation = router.generation();
        if generation != self.routes.generation {
            self.flush();
            self.forget();
            self.routes.generation = generation;
        }
    }

    fn forget(&mut self) {
        self.routes.clear();
        self.slots.clear();
        self.slot_of.clear();
        self.kept_bytes = 0;
    }

    fn route(&mut self, router: &Router, subject: &str) -> usize {
        if let Some(index) = self.routes.find(subject) {
            return index;
        }
        if self.routes.entries.len() >= ROUTES_MAX {
            self.routes.clear();
        }
        let Receivers {
            plain,
            queues,
            bound,
            abroad,
            mut any_last_token,
        } = router.receivers(subject);
        let mut is_denied = false;
        if let Some(permissions) = &self.permissions {
            let (is_allowed, for_any_last_token) = permissions.may_publish(subject);
            is_denied = !is_allowed;
            any_last_token &= for_any_last_token;
        }
        let prefix =
            split_last(subject).filter(|(_, last)| any_last_token && subject::is_literal_token(last));
        let key = match prefix {
            Some((prefix, _)) => Key::Prefix(prefix.into()),
            None => Key::Subject(subject.into()),
        };
        let plain = plain.into_iter().map(|held| self.receiver(held)).collect();
        let queues = queues
            .into_iter()
            .map(|group| group.into_iter().map(|held| self.receiver(held)).collect())
            .collect();
        self.routes.add(Route {
            key,
            plain,
            queues,
            bound,
            abroad,
            is_denied,
        })
    }

    fn receiver(&mut self, found: Found) -> Receiver {
        let slot = self.slot(found.subscription.target());
        Receiver {
            subscription: found.subscription,
            slot,
            renamed: found.renamed,
        }
    }

    fn slot(&mut self, target: &Target) -> usize {
        if let Some(index) = self.slot_of.get(&target.id()) {
            return *index;
        }
        self.slots.push(Slot {
            target: target.clone(),
            dirty: false,
            bytes: Vec::new(),
            deliveries: Vec::new(),
            messages: 0,
            message_bytes: 0,
        });
        self.slot_of.insert(target.id(), self.slots.len() - 1);
        self.slots.len() - 1
    }

    /// Something that need not be unpredictable.
    pub(crate) fn random(&mut self) -> u32 {
        self.next_random() as u32
    }

    /// Xorshift: which member of a queue group is asked first need not be unpredictable.
    fn next_random(&mut self) -> usize {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        (self.random >> 16) as usize
    }
}

impl Routes {
    fn find(&mut self, subject: &str) -> Option<usize> {
        if self
            .entries
            .get(self.last)
            .is_some_and(|route| route.key.covers(subject))
        {
            return Some(self.last);
        }
        let by_prefix = split_last(subject)
            .filter(|(_, last)| subject::is_literal_token(last))
            .and_then(|(prefix, _)| self.by_prefix.get(prefix));
        let index = *by_prefix.or_else(|| self.by_subject.get(subject))?;
        self.last = index;
        Some(index)
    }

    fn add(&mut self, route: Route) -> usize {
        let index = self.entries.len();
        match &route.key {
            Key::Subject(subject) => self.by_subject.insert(subject.clone(), index),
            Key::Prefix(prefix) => self.by_prefix.insert(prefix.clone(), index),
        };
        self.entries.push(route);
        self.last = index;
        index
    }

    fn clear(&mut self) {
        self.entries.clear();
        self.by_subject.clear();
        self.by_prefix.clear();
        self.last = 0;
    }
}

impl Key {
    fn covers(&self, subject: &str) -> bool {
        match self {
            Self::Subject(held) => **held == *subject,
            Self::Prefix(prefix) => split_last(subject)
                .is_some_and(|(head, last)| head == &**prefix && subject::is_literal_token(last)),
        }
    }
}

/// All tokens but the last, and the last.
fn split_last(subject: &str) -> Option<(&str, &str)> {
    subject.rsplit_once('.')
}

/// Waits until receivers that have fallen behind have caught up or ended, but not for long: the further behind one is, the
/// longer, up to a quarter of a second. So a sender settles at the pace of a slow receiver that is alive, and is not
/// frozen by a dead one, which `max_pending` and the write deadline cut off.
pub async fn wait_for(stalled: Vec<Target>) {
    let worst = stalled
        .iter()
        .map(Target::backlog_bytes)
        .max()
        .unwrap_or_default();
    let patience = STALL_PER_MIB.saturating_mul((worst >> 20) as u32).min(STALL_MAX);
    let all = async {
        for target in &stalled {
            target.relieved().await;
        }
    };
    // Both outcomes are fine: caught up, or patience is at its end.
    drop(tokio::time::timeout(patience, all).await);
}

/// A message copied once for all the local subscriptions that get it.
struct Shared {
    subject: Bytes,
    reply: Option<Bytes>,
    headers: Bytes,
    payload: Bytes,
}

impl Shared {
    fn new(msg: &Message<'_>) -> Self {
        Self {
            subject: Bytes::copy_from_slice(msg.subject.as_bytes()),
            reply: msg.reply.map(|reply| Bytes::copy_from_slice(reply.as_bytes())),
            headers: Bytes::copy_from_slice(msg.headers),
            payload: Bytes::copy_from_slice(msg.payload),
        }
    }

    fn delivery(&self, sub: SubId) -> LocalDelivery {
        LocalDelivery {
            sub,
            subject: self.subject.clone(),
            reply: self.reply.clone(),
            headers: self.headers.clone(),
            payload: self.payload.clone(),
        }
    }
}
