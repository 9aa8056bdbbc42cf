//! What a stream may and must hold, kept naively: a map of messages, each with its fate.

use std::collections::BTreeMap;

use super::config::{Retention, StreamConfig, are_wanted};
use super::consumers::ConsumerModel;
use super::verdict::{Asked, Seen};
use super::world::{Got, World};
use crate::engine::time::Now;
use crate::types::UnixNanos;

/// What became of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// It is there, and will be after any crash.
    Live,
    /// It may be there or not; a look decides.
    Unknown,
    /// It is not there; a crash may bring it back.
    Fading,
    /// It never comes back.
    Gone,
}

/// A message as it was sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Sent {
    pub(super) subject: String,
    /// As they are stored.
    pub(super) headers: Vec<u8>,
    pub(super) payload: Vec<u8>,
}

/// A message of a stream.
#[derive(Clone, Debug)]
pub(super) struct Message {
    pub(super) sent: Sent,
    pub(super) fate: Fate,
    pub(super) time: UnixNanos,
    /// When its own time to live ends, on the clock that never goes back.
    pub(super) expires: Option<u64>,
    pub(super) ttl: Option<u64>,
    /// It had gone for a limit, and a crash brought it back: consumers may have passed it by.
    pub(super) is_back: bool,
    /// Something without a definite answer may have removed it: a restart decides.
    pub(super) is_doubted: bool,
    /// Nobody said at which position it is: only its subject, headers and size were seen there.
    pub(super) is_guess: bool,
}

impl Message {
    fn sent(now: (u64, UnixNanos), sent: Sent, asked: &Asked, fate: Fate) -> Self {
        let ttl = asked.ttl_seconds.map(|seconds| seconds * 1_000_000_000);
        Self {
            sent,
            fate,
            time: now.1,
            expires: ttl.map(|ttl| now.0 + ttl),
            ttl,
            is_back: false,
            is_doubted: false,
            is_guess: false,
        }
    }
}

/// A stream.
#[derive(Clone, Debug)]
pub(super) struct StreamModel {
    pub(super) config: StreamConfig,
    /// Configurations that a restart may find instead.
    pub(super) configs_in_doubt: Vec<StreamConfig>,
    /// The running broker has it.
    pub(super) is_alive: bool,
    /// A restart may find it or not.
    pub(super) is_in_doubt: bool,
    pub(super) messages: BTreeMap<u64, Message>,
    /// Publishes without a definite answer.
    pub(super) doubtful: Vec<Message>,
    /// Highest position given.
    pub(super) last: u64,
    /// Highest position that a crash cannot take back.
    pub(super) confirmed: u64,
    pub(super) ids: BTreeMap<String, Seen>,
    pub(super) resends: BTreeMap<String, Seen>,
    /// The id of the last message, empty if it had none; `None`: it is not known.
    pub(super) last_id: Option<String>,
    pub(super) consumers: BTreeMap<&'static str, ConsumerModel>,
    /// Consumers that a restart may find.
    pub(super) consumers_in_doubt: Vec<ConsumerModel>,
    /// Bits flipped and writes misdirected in its files: as many records may be lost.
    pub(super) damage: u64,
    /// Something of the stream could not be written in this life.
    pub(super) is_sick: bool,
    /// The broker stopped in order.
    pub(super) was_closed: bool,
    /// What expired in this round.
    expired: Vec<u64>,
    /// Messages may have left before this round's update: a look decides.
    pub(super) is_unsettled: bool,
}

/// Bytes of a message as nats-server counts them.
pub(super) fn size_of(sent: &Sent, in_memory: bool) -> u64 {
    let (record, block) = if in_memory { (16, 0) } else { (30, 4) };
    let headers = if sent.headers.is_empty() {
        0
    } else {
        block + sent.headers.len()
    };
    (record + sent.subject.len() + headers + sent.payload.len()) as u64
}

/// The headers with which a consumer of headers alone delivers a message.
fn headers_without_payload(sent: &Sent) -> Vec<u8> {
    let before = match sent.headers.strip_suffix(b"\r\n") {
        Some(headers) => headers,
        None => b"NATS/1.0\r\n",
    };
    let size = format!("Nats-Msg-Size: {}\r\n\r\n", sent.payload.len());
    [before, size.as_bytes()].concat()
}

/// The value of one header.
pub(super) fn header(headers: &[u8], name: &str) -> Option<String> {
    let text = std::str::from_utf8(headers).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    Some(line.trim_start_matches(':').trim().to_owned())
}

impl StreamModel {
    pub(super) fn new(config: StreamConfig) -> Self {
        let last = config.first_seq.max(1) - 1;
        Self {
            config,
            configs_in_doubt: Vec::new(),
            is_alive: true,
            is_in_doubt: false,
            messages: BTreeMap::new(),
            doubtful: Vec::new(),
            last,
            confirmed: last,
            ids: BTreeMap::new(),
            resends: BTreeMap::new(),
            last_id: Some(String::new()),
            consumers: BTreeMap::new(),
            consumers_in_doubt: Vec::new(),
            damage: 0,
            is_sick: false,
            was_closed: false,
            expired: Vec::new(),
            is_unsettled: false,
        }
    }

    /// Messages that the running broker has, in order.
    pub(super) fn live(&self) -> impl DoubleEndedIterator<Item = (u64, &Message)> {
        self.messages
            .iter()
            .filter(|(_, message)| message.fate == Fate::Live)
            .map(|(seq, message)| (*seq, message))
    }

    /// Live messages of a subject.
    pub(super) fn of_subject(&self, subject: &str) -> Vec<u64> {
        let own = self.live().filter(|(_, message)| message.sent.subject == subject);
        own.map(|(seq, _)| seq).collect()
    }

    /// Bytes as nats-server counts them.
    pub(super) fn bytes(&self) -> u64 {
        let in_memory = self.config.in_memory;
        self.live()
            .map(|(_, message)| size_of(&message.sent, in_memory))
            .sum()
    }

    /// Takes in a message that got `seq`, and lets those go that it pushes out.
    pub(super) fn store(&mut self, now: (u64, UnixNanos), seq: u64, sent: Sent, asked: &Asked, fate: Fate) {
        assert!(
            seq > self.last,
            "position {seq} of {} is given twice, {} was the last",
            self.config.name,
            self.last
        );
        self.last = seq;
        let seen = Seen {
            seq,
            at: now.0,
            is_certain: true,
        };
        self.last_id = Some(asked.msg_id.clone().unwrap_or_default());
        if let Some(id) = &asked.msg_id {
            self.ids.insert(id.clone(), seen);
        }
        if let Some((key, _)) = &asked.resend {
            self.resends.insert(key.clone(), seen);
        }
        let is_kept = self.config.retention != Retention::Interest
            || self.consumers.values().any(|one| one.config.wants(&sent.subject));
        let subject = sent.subject.clone();
        if is_kept {
            self.messages.insert(seq, Message::sent(now, sent, asked, fate));
        }
        match asked.rollup {
            Some("all") => self.purge(|other, _| other < seq),
            Some(_) => self.purge(|other, sent| other < seq && sent.subject == subject),
            None => {}
        }
        self.enforce_subject(&subject);
        self.enforce();
    }

    fn enforce_subject(&mut self, subject: &str) {
        let Some(max) = self.config.max_per_subject else {
            return;
        };
        let of_subject = self.of_subject(subject);
        let excess = of_subject.len().saturating_sub(max as usize);
        let fate = if self.is_loose() {
            Fate::Unknown
        } else {
            Fate::Gone
        };
        for seq in &of_subject[..excess] {
            self.set(*seq, fate);
        }
        let own = |message: &Message| message.sent.subject == subject;
        self.push_out_perhaps(own, |count, _| count > max);
    }

    /// The limits of the whole stream; what they push out may be back after a crash.
    pub(super) fn enforce(&mut self) {
        let (max_msgs, max_bytes) = (self.config.max_msgs, self.config.max_bytes);
        let is_over = |count: u64, bytes: u64| {
            max_msgs.is_some_and(|max| count > max) || max_bytes.is_some_and(|max| bytes > max)
        };
        while is_over(self.live().count() as u64, self.bytes()) {
            let Some((first, _)) = self.live().next() else {
                return;
            };
            self.set(first, Fate::Fading);
        }
        self.push_out_perhaps(|_| true, is_over);
    }

    /// A limit may have pushed out messages of `which` if more are there than is certain. `is_over` takes a count and bytes.
    fn push_out_perhaps(&mut self, which: impl Fn(&Message) -> bool, is_over: impl Fn(u64, u64) -> bool) {
        let in_memory = self.config.in_memory;
        let (mut count, mut bytes) = (0, 0);
        for message in self.messages.values_mut().rev().filter(|message| which(message)) {
            if matches!(message.fate, Fate::Live | Fate::Unknown) {
                count += 1;
                bytes += size_of(&message.sent, in_memory);
                if is_over(count, bytes) {
                    message.fate = Fate::Unknown;
                }
            }
        }
    }

    /// An update was made: all limits count anew.
    pub(super) fn updated(&mut self, config: StreamConfig, now: Now, has_jumped: bool) {
        let (now, wall) = (now.mono.0, now.wall);
        // What was too old before may have gone before.
        let old = self
            .live()
            .filter(|(_, message)| self.is_old(message, wall, has_jumped));
        for seq in old.map(|(seq, _)| seq).collect::<Vec<_>>() {
            self.is_unsettled = true;
            self.set(seq, Fate::Unknown);
        }
        // What has left the window that was may be forgotten, however long the new one is.
        let window = self.config.duplicate_window as u64;
        for seen in self.ids.values_mut().chain(self.resends.values_mut()) {
            seen.is_certain &= now.saturating_sub(seen.at) < window;
        }
        self.config = config;
        let subjects: Vec<String> = self
            .live()
            .map(|(_, message)| message.sent.subject.clone())
            .collect();
        for subject in subjects {
            self.enforce_subject(&subject);
        }
        self.enforce();
    }

    /// Whether messages may leave without a request that says so.
    pub(super) fn is_loose(&self) -> bool {
        self.is_sick
            || self.is_unsettled
            || self.config.max_age > 0
            || self.config.retention != Retention::Limits
    }

    /// Whether a message may leave without being asked to.
    pub(super) fn may_push_out_any(&self) -> bool {
        let config = &self.config;
        let limits = [config.max_msgs, config.max_bytes, config.max_per_subject];
        self.is_loose() || limits.iter().any(Option::is_some)
    }

    /// A publish had no definite answer: it may be there, and have pushed others out.
    pub(super) fn may_have_stored(&mut self, now: (u64, UnixNanos), sent: Sent, asked: &Asked) {
        self.may_push_out(&sent, asked);
        if let Some(id) = asked.msg_id.as_ref().and_then(|id| self.ids.get_mut(id)) {
            id.is_certain = false;
        }
        self.doubtful.push(Message::sent(now, sent, asked, Fate::Unknown));
    }

    /// What a publish would have pushed out may be gone.
    pub(super) fn may_push_out(&mut self, sent: &Sent, asked: &Asked) {
        self.last_id = None;
        if let Some((key, _)) = &asked.resend
            && let Some(seen) = self.resends.get_mut(key)
        {
            seen.is_certain = false;
        }
        let is_limited = self.config.max_msgs.is_some() || self.config.max_bytes.is_some();
        let all = is_limited || asked.rollup == Some("all");
        let own = self.config.max_per_subject.is_some() || asked.rollup.is_some();
        let subject = sent.subject.clone();
        self.purge_perhaps(|sent| all || (own && sent.subject == subject));
    }

    /// These may be gone.
    pub(super) fn purge_perhaps(&mut self, mut which: impl FnMut(&Sent) -> bool) {
        for message in self.messages.values_mut() {
            if message.fate == Fate::Live && which(&message.sent) {
                message.fate = Fate::Unknown;
                message.is_doubted = true;
            }
        }
    }

    /// Removes messages for good. In a sick life it is unknown whether that was written.
    pub(super) fn purge(&mut self, mut which: impl FnMut(u64, &Sent) -> bool) {
        let fate = self.removed();
        for (seq, message) in &mut self.messages {
            let may_return = matches!(message.fate, Fate::Live | Fate::Unknown);
            if may_return && which(*seq, &message.sent) {
                message.fate = fate;
            }
        }
    }

    /// Messages that limits pushed out cannot return once a purge covers them.
    pub(super) fn purge_faded(&mut self, below: u64) {
        if self.is_sick {
            return;
        }
        for (_, message) in self.messages.range_mut(..below) {
            if message.fate == Fate::Fading {
                message.fate = Fate::Gone;
            }
        }
    }

    fn removed(&self) -> Fate {
        if self.is_sick { Fate::Fading } else { Fate::Gone }
    }

    pub(super) fn set(&mut self, seq: u64, fate: Fate) {
        let fate = match fate {
            Fate::Gone => self.removed(),
            Fate::Fading if self.is_loose() || self.damage > 0 => Fate::Unknown,
            fate => fate,
        };
        if let Some(message) = self.messages.get_mut(&seq) {
            message.fate = fate;
        }
    }

    /// A consumer of a work queue with a filter for `keys` is done with a message. Given up after its last delivery, it stays for
    /// others if an update has taken it out of the filter.
    pub(super) fn done_with(&mut self, seq: u64, keys: &[&str], wall: UnixNanos, has_jumped: bool) {
        let message = self.messages.get(&seq);
        if message.is_some_and(|message| are_wanted(keys, &message.sent.subject)) {
            self.taken_out(seq, wall, has_jumped);
        } else {
            self.forget(|other| other == seq);
        }
    }

    /// These may be there or not.
    pub(super) fn forget(&mut self, which: impl Fn(u64) -> bool) {
        for (seq, message) in &mut self.messages {
            if message.fate == Fate::Live && which(*seq) {
                message.fate = Fate::Unknown;
                message.is_doubted = true;
            }
        }
    }

    /// A message was taken out for good, unless its age had removed it before: then a crash may bring it back.
    pub(super) fn taken_out(&mut self, seq: u64, wall: UnixNanos, has_jumped: bool) {
        let Some(message) = self.messages.get(&seq) else {
            return;
        };
        match message.fate {
            Fate::Live if self.is_old(message, wall, has_jumped) => self.set(seq, Fate::Unknown),
            Fate::Live => self.set(seq, Fate::Gone),
            Fate::Unknown | Fate::Fading | Fate::Gone => {}
        }
    }

    /// Whether its age lets it go.
    pub(super) fn is_old(&self, message: &Message, wall: UnixNanos, has_jumped: bool) -> bool {
        let max_age = self.config.max_age;
        max_age > 0 && (has_jumped || wall.since(message.time) >= max_age)
    }

    /// Lets the messages go whose own time to live has ended.
    pub(super) fn expire(&mut self, now: u64) {
        for (seq, message) in &mut self.messages {
            if message.fate == Fate::Live && message.expires.is_some_and(|at| at <= now) {
                // Its age may have removed it at the same time, which a crash can undo.
                let is_aged = self.config.max_age > 0;
                message.fate = if is_aged { Fate::Unknown } else { Fate::Gone };
                self.expired.push(*seq);
            }
        }
    }

    /// Whether what this round removed could be written is known now.
    pub(super) fn round_over(&mut self, is_troubled: bool) {
        self.is_sick |= is_troubled && !self.config.in_memory;
        for seq in std::mem::take(&mut self.expired) {
            if let Some(message) = self.messages.get_mut(&seq).filter(|_| self.is_sick) {
                message.fate = Fate::Unknown;
                message.is_doubted = true;
            }
        }
    }

    /// A message that is delivered and was published without a definite answer.
    pub(super) fn adopt_delivered(&mut self, seq: u64, got: &Got, headers_only: bool) {
        if self.messages.contains_key(&seq) {
            if !headers_only {
                self.settle_guess(seq, |sent| sent.payload == got.payload);
            }
            return;
        }
        let fits = |sent: &Sent| {
            let is_same = match headers_only {
                true => got.headers == headers_without_payload(sent),
                false => sent.payload == got.payload && sent.headers == got.headers,
            };
            sent.subject == got.subject && is_same
        };
        let Some(index) = self.doubtful.iter().position(|one| fits(&one.sent)) else {
            return;
        };
        let message = Message {
            fate: Fate::Live,
            is_guess: headers_only,
            ..self.doubtful.remove(index)
        };
        self.messages.insert(seq, message);
        self.last = self.last.max(seq);
    }

    /// Of a message that was guessed by its size the payload is seen: another one of the same size may be the right one.
    pub(super) fn settle_guess(&mut self, seq: u64, is_it: impl Fn(&Sent) -> bool) {
        let Some(mut message) = self.messages.remove(&seq) else {
            return;
        };
        if std::mem::take(&mut message.is_guess) && !is_it(&message.sent) {
            let others = self.messages.values_mut().filter(|other| other.is_guess);
            let mut candidates = others.chain(&mut self.doubtful);
            let seen = headers_without_payload(&message.sent);
            let right = candidates.find(|Message { sent, .. }| {
                let is_same = sent.subject == message.sent.subject && headers_without_payload(sent) == seen;
                is_same && is_it(sent)
            });
            if let Some(right) = right {
                std::mem::swap(&mut right.sent, &mut message.sent);
                std::mem::swap(&mut right.time, &mut message.time);
                std::mem::swap(&mut right.expires, &mut message.expires);
                std::mem::swap(&mut right.ttl, &mut message.ttl);
            }
        }
        self.messages.insert(seq, message);
    }

    /// A life has ended.
    pub(super) fn died(&mut self, now: u64) {
        for consumer in self.consumers.values_mut() {
            consumer.touch(now);
        }
        if self.is_sick {
            for message in self.messages.values_mut() {
                if message.fate == Fate::Unknown {
                    message.fate = Fate::Fading;
                }
            }
        }
    }

    /// A start dates ids by the messages that carry them. Once the clock was set back, an older message than the last one with an
    /// id may be the younger one, from the time that `at` says: it stands for the id then.
    fn date_ids_anew(&mut self, at: impl Fn(UnixNanos) -> u64) {
        let live = self.messages.iter().filter(|(_, one)| one.fate == Fate::Live);
        for (seq, message) in live {
            let seen = Seen {
                seq: *seq,
                at: at(message.time),
                is_certain: false,
            };
            for (ids, name) in [
                (&mut self.ids, "Nats-Msg-Id"),
                (&mut self.resends, "Tarn-Resend-Id"),
            ] {
                if let Some(id) = header(&message.sent.headers, name) {
                    let known = ids.entry(id).or_insert(seen);
                    if known.at <= seen.at {
                        *known = seen;
                    }
                }
            }
        }
    }

    /// The broker was started again: what it knows only in memory is gone or worked out anew.
    pub(super) fn reopened(&mut self, world: &World, has_jumped: bool) {
        self.is_sick = false;
        let now = world.now;
        let anew = |time: UnixNanos| now.mono.0 - u64::try_from(now.wall.since(time)).unwrap_or(0);
        for message in self.messages.values_mut() {
            message.is_doubted = false;
            message.expires = message.ttl.map(|ttl| anew(message.time) + ttl);
        }
        let messages = &self.messages;
        for seen in self.ids.values_mut().chain(self.resends.values_mut()) {
            let there = messages
                .get(&seen.seq)
                .filter(|message| message.fate == Fate::Live);
            seen.is_certain &= there.is_some() && !has_jumped;
        }
        if has_jumped {
            self.date_ids_anew(anew);
        }
        self.confirmed = self.last;
        // That of a last message that is not there any more is forgotten, unless a crash brought the message back and the start
        // has taken it again.
        let last = self.messages.get(&self.last);
        let last = last.filter(|message| message.fate == Fate::Live && self.damage == 0);
        let id = |message: &Message| header(&message.sent.headers, "Nats-Msg-Id").unwrap_or_default();
        self.last_id = last.map(id);
    }
}
