//! One MQTT session: packets, completions, deliveries and time in; effects out. No socket, no clock, no task.
//!
//! What it holds to:
//!
//! - PUBACK leaves only for a message whose durable completion came in, and in the order of receipt.
//! - A QoS 1 delivery stays in flight, under one packet id, until the client acknowledges it; a session that comes back gets
//!   it again, in the first order, with DUP.
//! - In flight, queue and subscriptions are bounded. A full queue drops its oldest message, which is counted: to a device that
//!   was away, the newest command or reading is worth more than the oldest.
//! - QoS 2 is not granted, and a QoS 2 publish closes the connection: it is never acknowledged as if it had been stored once.
//!
//! Source: MQTT Version 3.1.1, chapters 3 and 4.

use std::collections::{BTreeMap, VecDeque};
use std::num::NonZeroU16;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use super::mapping::{self, TopicError};
use super::packet::{ClientPacket, Connect, Outgoing, PacketId, Publish, QoS, ServerPacket, Will};
use crate::identity::ClientId;
use crate::ingest::{IngestError, Message};

mod effect;
mod resend;

pub use effect::{CloseReason, Effect, FilterId, Retained};

/// Bounds of one session.
#[derive(Clone, Debug)]
pub struct SessionLimits {
    /// QoS 1 deliveries sent and not acknowledged yet.
    pub inflight_max: usize,
    /// Bytes of them (topic and payload); one message is let through whatever its size.
    pub inflight_bytes_max: usize,
    /// QoS 1 messages waiting, while the client is away or its in-flight window is full.
    pub queue_max: usize,
    /// Bytes of them (topic and payload).
    pub queue_bytes_max: usize,
    /// Subscriptions.
    pub subscriptions_max: usize,
}

impl Default for SessionLimits {
    fn default() -> Self {
        Self {
            inflight_max: 256,
            inflight_bytes_max: 4 * 1024 * 1024,
            queue_max: 1_000,
            queue_bytes_max: 4 * 1024 * 1024,
            subscriptions_max: 1_000,
        }
    }
}

#[derive(Clone, Debug)]
struct Queued {
    topic: Bytes,
    payload: Bytes,
    retain: bool,
}

impl Queued {
    fn bytes(&self) -> usize {
        self.topic.len() + self.payload.len()
    }
}

#[derive(Clone, Debug)]
struct InFlight {
    packet_id: PacketId,
    message: Queued,
}

/// Topic and subject that go together: found once, used again.
#[derive(Clone, Debug)]
struct KnownTopic {
    topic: Bytes,
    subject: String,
}

/// Topics that a session keeps the subject of: a device publishes to a few.
const KNOWN_TOPICS_MAX: usize = 4;

/// State of one session. Outlives the connection unless the session is clean.
#[derive(Debug)]
pub struct Session {
    client: ClientId,
    limits: Arc<SessionLimits>,
    connected: bool,
    clean: bool,
    will: Option<PreparedWill>,
    keep_alive: Option<Duration>,
    heard: Instant,
    filters: BTreeMap<String, FilterId>,
    granted: BTreeMap<FilterId, QoS>,
    next_filter: u32,
    inflight: VecDeque<InFlight>,
    inflight_bytes: usize,
    next_packet_id: PacketId,
    queue: VecDeque<Queued>,
    queue_bytes: usize,
    /// Packet ids of QoS 1 publishes received and not completed, in order of receipt.
    awaiting: VecDeque<PacketId>,
    known_topics: Vec<KnownTopic>,
    last_delivered: Option<KnownTopic>,
    dropped: u64,
}

impl Session {
    /// An empty session, not connected.
    pub fn new(client: ClientId, limits: Arc<SessionLimits>, now: Instant) -> Self {
        Self {
            client,
            limits,
            connected: false,
            clean: true,
            will: None,
            keep_alive: None,
            heard: now,
            filters: BTreeMap::new(),
            granted: BTreeMap::new(),
            next_filter: 0,
            inflight: VecDeque::new(),
            inflight_bytes: 0,
            next_packet_id: PacketId::MIN,
            queue: VecDeque::new(),
            queue_bytes: 0,
            awaiting: VecDeque::new(),
            known_topics: Vec::new(),
            last_delivered: None,
            dropped: 0,
        }
    }

    /// Connects the session. CONNACK is the caller's; after it what is in flight goes out again, with DUP, and then the queue.
    pub fn attach(
        &mut self,
        connect: &Connect,
        will: Option<PreparedWill>,
        now: Instant,
        effects: &mut Vec<Effect>,
    ) {
        assert!(!self.connected, "a session has one connection at a time");
        self.connected = true;
        self.will = will;
        self.clean = connect.clean_session;
        self.heard = now;
        self.keep_alive = match connect.keep_alive_s {
            0 => None,
            s => Some(Duration::from_millis(u64::from(s) * 1_500)),
        };
        for sent in &self.inflight {
            effects.push(Effect::Send(ServerPacket::Publish(
                sent.message.outgoing(Some(sent.packet_id), true),
            )));
        }
        self.fill_window(effects);
    }

    /// Ends the connection, publishing the will if `reason` calls for it. Returns whether the session stays.
    pub fn detach(&mut self, reason: CloseReason, effects: &mut Vec<Effect>) -> bool {
        self.connected = false;
        self.awaiting.clear();
        if let Some(will) = self.will.take().filter(|_| reason != CloseReason::Disconnect) {
            effects.extend(will.retained.map(Effect::Retain));
            effects.push(Effect::PublishWill(will.message));
        }
        !self.clean
    }

    /// Takes one packet. After [`Effect::Close`] nothing more may come in.
    pub fn packet(&mut self, packet: ClientPacket, now: Instant, effects: &mut Vec<Effect>) {
        self.heard = now;
        match packet {
            ClientPacket::Publish(publish) => {
                if let Err(reason) = self.publish(publish, effects) {
                    effects.push(Effect::Close(reason));
                }
            }
            ClientPacket::PubAck(id) => self.acknowledged(id, effects),
            ClientPacket::Subscribe { packet_id, filters } => self.subscribe(packet_id, filters, effects),
            ClientPacket::Unsubscribe { packet_id, filters } => self.unsubscribe(packet_id, filters, effects),
            ClientPacket::PingReq => effects.push(Effect::Send(ServerPacket::PingResp)),
            ClientPacket::Disconnect => effects.push(Effect::Close(CloseReason::Disconnect)),
            ClientPacket::Connect(_) => effects.push(Effect::Close(CloseReason::Protocol("second_connect"))),
            ClientPacket::PubRec(_) | ClientPacket::PubRel(_) | ClientPacket::PubComp(_) => {
                effects.push(Effect::Close(CloseReason::Refused("qos2")));
            }
        }
    }

    /// Takes the outcome of the oldest QoS 1 publish that has none yet.
    pub fn completed(&mut self, outcome: &Result<(), IngestError>, effects: &mut Vec<Effect>) {
        let Some(packet_id) = self.awaiting.pop_front() else {
            return;
        };
        match outcome {
            Ok(()) => effects.push(Effect::Send(ServerPacket::PubAck(packet_id))),
            Err(error) => effects.push(Effect::Close(CloseReason::Store(error.as_str()))),
        }
    }

    /// Takes one message, and the subscriptions that it came for: it goes out once, at the highest QoS granted among them.
    /// `published`: the QoS of its publication, if over MQTT; any other message comes at the QoS granted.
    /// Errs for a subject that no topic stands for; nothing goes out then.
    pub fn deliver(
        &mut self,
        filters: &[FilterId],
        subject: &[u8],
        payload: &Bytes,
        published: Option<QoS>,
        effects: &mut Vec<Effect>,
    ) -> Result<(), TopicError> {
        // A filter that is not there was given up while the message was under way.
        let granted = filters.iter().filter_map(|filter| self.granted.get(filter)).max();
        let Some(&granted) = granted else { return Ok(()) };
        let topic = self.topic_of(subject)?;
        let qos = published.map_or(granted, |published| published.min(granted));
        let message = Queued {
            topic,
            payload: payload.clone(),
            retain: false,
        };
        self.send(message, qos, effects);
        Ok(())
    }

    /// Takes what [`Effect::FindRetained`] found.
    pub fn deliver_retained(&mut self, retained: &Retained, granted: QoS, effects: &mut Vec<Effect>) {
        let topic = Bytes::copy_from_slice(retained.topic.as_bytes());
        let message = Queued {
            topic,
            payload: retained.payload.clone(),
            retain: true,
        };
        self.send(message, retained.qos.min(granted), effects);
    }

    /// Closes a connection that has been silent for too long.
    pub fn tick(&mut self, now: Instant, effects: &mut Vec<Effect>) {
        if self.deadline().is_some_and(|deadline| deadline <= now) {
            effects.push(Effect::Close(CloseReason::KeepAlive));
        }
    }

    /// When [`Session::tick`] is due next.
    pub fn deadline(&self) -> Option<Instant> {
        if self.connected {
            self.keep_alive.map(|keep_alive| self.heard + keep_alive)
        } else {
            None
        }
    }

    /// Whether deliveries may come in without having to be queued.
    pub fn wants_deliveries(&self) -> bool {
        !self.connected || self.queue.is_empty()
    }

    /// The client id.
    pub fn client(&self) -> &ClientId {
        &self.client
    }

    /// QoS 1 publishes received and not completed.
    pub fn awaiting_count(&self) -> usize {
        self.awaiting.len()
    }

    /// QoS 1 deliveries sent and not acknowledged.
    pub fn inflight_count(&self) -> usize {
        self.inflight.len()
    }

    /// Messages queued.
    pub fn queued_count(&self) -> usize {
        self.queue.len()
    }

    /// Messages dropped from the full queue since the last call.
    pub fn take_dropped(&mut self) -> u64 {
        std::mem::take(&mut self.dropped)
    }

    fn publish(&mut self, publish: Publish, effects: &mut Vec<Effect>) -> Result<(), CloseReason> {
        if publish.qos == QoS::ExactlyOnce {
            return Err(CloseReason::Refused("qos2"));
        }
        let subject = self.subject_of(&publish.topic)?;
        if publish.retain {
            let topic = String::from_utf8_lossy(&publish.topic).into_owned();
            let payload = Bytes::copy_from_slice(&publish.payload);
            effects.push(Effect::Retain(Retained {
                topic,
                payload,
                qos: publish.qos,
            }));
        }
        let resend = publish.packet_id.map(|id| {
            self.awaiting.push_back(id);
            resend::identify(&self.client, id, &publish)
        });
        effects.push(Effect::Publish(Message {
            subject,
            payload: publish.payload,
            qos: publish.qos,
            resend,
        }));
        Ok(())
    }

    fn subject_of(&mut self, topic: &Bytes) -> Result<String, CloseReason> {
        if let Some(known) = self.known_topics.iter().find(|known| known.topic == topic) {
            return Ok(known.subject.clone());
        }
        let text =
            std::str::from_utf8(topic).map_err(|_| CloseReason::Protocol(TopicError::Utf8.as_str()))?;
        let subject = mapping::topic_to_subject(text).map_err(close_reason)?;
        if self.known_topics.len() == KNOWN_TOPICS_MAX {
            self.known_topics.remove(0);
        }
        // Copied: a slice would keep the whole read buffer alive.
        let topic = Bytes::copy_from_slice(topic);
        self.known_topics.push(KnownTopic {
            topic,
            subject: subject.clone(),
        });
        Ok(subject)
    }

    fn topic_of(&mut self, subject: &[u8]) -> Result<Bytes, TopicError> {
        if let Some(last) = self
            .last_delivered
            .as_ref()
            .filter(|last| last.subject.as_bytes() == subject)
        {
            return Ok(last.topic.clone());
        }
        let topic = Bytes::from(mapping::subject_to_topic(subject)?);
        let subject = String::from_utf8_lossy(subject).into_owned();
        self.last_delivered = Some(KnownTopic {
            topic: topic.clone(),
            subject,
        });
        Ok(topic)
    }

    fn acknowledged(&mut self, id: PacketId, effects: &mut Vec<Effect>) {
        let index = self.inflight.iter().position(|sent| sent.packet_id == id);
        if let Some(sent) = index.and_then(|index| self.inflight.remove(index)) {
            self.inflight_bytes -= sent.message.bytes();
            self.fill_window(effects);
        }
    }

    fn subscribe(&mut self, packet_id: PacketId, filters: Vec<(String, QoS)>, effects: &mut Vec<Effect>) {
        let mut granted = Vec::with_capacity(filters.len());
        let mut retained = Vec::new();
        for (topic_filter, requested) in filters {
            match mapping::filter_to_subjects(&topic_filter) {
                Err(error) if error.is_protocol_violation() => {
                    return effects.push(Effect::Close(close_reason(error)));
                }
                Err(_) => granted.push(None),
                Ok(_) => {
                    let qos = requested.min(QoS::AtLeastOnce);
                    let accepted = self.add_filter(&topic_filter, qos, effects);
                    granted.push(accepted.then_some(qos));
                    if accepted {
                        retained.push(Effect::FindRetained { topic_filter, qos });
                    }
                }
            }
        }
        effects.push(Effect::Send(ServerPacket::SubAck { packet_id, granted }));
        effects.append(&mut retained);
    }

    /// Adds a filter or changes its QoS. False: there are too many.
    fn add_filter(&mut self, topic_filter: &str, qos: QoS, effects: &mut Vec<Effect>) -> bool {
        if let Some(id) = self.filters.get(topic_filter) {
            self.granted.insert(*id, qos);
            return true;
        }
        if self.filters.len() >= self.limits.subscriptions_max {
            return false;
        }
        let id = FilterId(self.next_filter);
        self.next_filter += 1;
        self.filters.insert(topic_filter.to_owned(), id);
        self.granted.insert(id, qos);
        effects.push(Effect::Subscribe {
            filter: id,
            topic_filter: topic_filter.to_owned(),
        });
        true
    }

    fn unsubscribe(&mut self, packet_id: PacketId, filters: Vec<String>, effects: &mut Vec<Effect>) {
        for topic_filter in filters {
            if let Some(id) = self.filters.remove(&topic_filter) {
                self.granted.remove(&id);
                effects.push(Effect::Unsubscribe(id));
            }
        }
        effects.push(Effect::Send(ServerPacket::UnsubAck(packet_id)));
    }

    /// Sends, queues, or at QoS 0 without a connection drops.
    fn send(&mut self, message: Queued, qos: QoS, effects: &mut Vec<Effect>) {
        if qos == QoS::AtMostOnce {
            if self.connected {
                effects.push(Effect::Send(ServerPacket::Publish(message.outgoing(None, false))));
            }
            return;
        }
        self.queue_bytes += message.bytes();
        self.queue.push_back(message);
        if self.connected {
            self.fill_window(effects);
        }
        while self.queue.len() > self.limits.queue_max || self.queue_bytes > self.limits.queue_bytes_max {
            let Some(oldest) = self.queue.pop_front() else {
                break;
            };
            self.queue_bytes -= oldest.bytes();
            self.dropped += 1;
        }
    }

    /// Moves messages from the queue into the in-flight window while it has room.
    fn fill_window(&mut self, effects: &mut Vec<Effect>) {
        while self.inflight.len() < self.limits.inflight_max {
            // Ids go round in order, so the first one met again is that of the oldest in flight: then the window is full too.
            if self
                .inflight
                .front()
                .is_some_and(|oldest| oldest.packet_id == self.next_packet_id)
            {
                return;
            }
            let Some(bytes) = self.queue.front().map(Queued::bytes) else {
                return;
            };
            if !self.inflight.is_empty() && self.inflight_bytes + bytes > self.limits.inflight_bytes_max {
                return;
            }
            let Some(message) = self.queue.pop_front() else {
                return;
            };
            self.queue_bytes -= bytes;
            self.inflight_bytes += bytes;
            let packet_id = self.next_packet_id;
            self.next_packet_id = packet_id.checked_add(1).unwrap_or(PacketId::MIN);
            effects.push(Effect::Send(ServerPacket::Publish(
                message.outgoing(Some(packet_id), false),
            )));
            self.inflight.push_back(InFlight { packet_id, message });
        }
    }
}

impl Queued {
    fn outgoing(&self, packet_id: Option<NonZeroU16>, dup: bool) -> Outgoing {
        let qos = if packet_id.is_some() {
            QoS::AtLeastOnce
        } else {
            QoS::AtMostOnce
        };
        let (topic, payload) = (self.topic.clone(), self.payload.clone());
        Outgoing {
            dup,
            qos,
            retain: self.retain,
            topic,
            packet_id,
            payload,
        }
    }
}

fn close_reason(error: TopicError) -> CloseReason {
    if error.is_protocol_violation() {
        CloseReason::Protocol(error.as_str())
    } else {
        CloseReason::Refused(error.as_str())
    }
}

/// A will that can be published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PreparedWill {
    message: Message,
    retained: Option<Retained>,
}

impl PreparedWill {
    /// Checks the will's topic. The server publishes a will once, so QoS 2 needs no handshake: it is stored, as at QoS 1.
    pub fn new(will: &Will) -> Result<Self, TopicError> {
        let (topic, payload, qos) = (will.topic.clone(), will.payload.clone(), will.qos);
        let subject = mapping::topic_to_subject(&topic)?;
        let message = Message {
            subject,
            payload: payload.clone(),
            qos,
            resend: None,
        };
        Ok(Self {
            message,
            retained: will.retain.then_some(Retained { topic, payload, qos }),
        })
    }
}

#[cfg(test)]
mod tests;
