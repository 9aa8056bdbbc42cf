//! What a consumer has delivered and what it must and may deliver, kept naively: a story for each message.

mod control;
mod info;
mod sharing;

use std::collections::BTreeMap;

use serde_json::Value;

use super::config::{AckPolicy, ConsumerConfig, Retention, Start};
use super::streams::{Fate, Message, StreamModel};
use super::world::Got;
use crate::engine::time::Now;
pub(super) use control::Pause;
pub(super) use sharing::{Share, take_pin};

/// How far a message is done with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Settled {
    No,
    /// Before a crash that may have undone it.
    Perhaps,
    /// As far as the running broker is concerned.
    Now,
    /// For ever: the acknowledgement was answered.
    Forever,
}

/// What has happened to one message.
#[derive(Clone, Debug)]
pub(super) struct Story {
    /// Deliveries seen, the most that the broker can count.
    pub(super) deliveries: u64,
    /// Deliveries that a crash cannot take back.
    durable_deliveries: u64,
    /// Not before this is it delivered again.
    due: u64,
    pub(super) settled: Settled,
    /// Delivered in this life, so that the count is known exactly.
    is_exact: bool,
    /// May have been given up after its last delivery.
    is_given_up: bool,
}

/// A pull request that waits.
#[derive(Clone, Debug)]
pub(super) struct Request {
    pub(super) left: u64,
    pub(super) expires: Option<u64>,
    pub(super) share: Share,
}

/// A consumer.
#[derive(Clone, Debug)]
pub(super) struct ConsumerModel {
    pub(super) config: ConsumerConfig,
    pub(super) is_in_doubt: bool,
    /// The first position that it may deliver.
    start: u64,
    /// Start policy `last_per_subject`: the positions found, and where it goes on.
    firsts: Option<(Vec<u64>, u64)>,
    pub(super) stories: BTreeMap<u64, Story>,
    /// The next first delivery is at or above this, exactly if `is_exact`.
    next: u64,
    is_exact: bool,
    durable_next: u64,
    last_delivery: Option<u64>,
    most_delivery: u64,
    durable_delivery: u64,
    pub(super) requests: BTreeMap<String, Request>,
    last_used: u64,
    /// It may have gone in a life before, because nobody used it.
    may_have_gone: bool,
    /// Filters that it had, and the stream's last position when it got others.
    filters: Vec<(Vec<&'static str>, u64)>,
    /// Configurations that a restart may find instead.
    pub(super) configs_in_doubt: Vec<ConsumerConfig>,
    pub(super) pause: Pause,
    pub(super) pin: Option<sharing::Pin>,
    /// Where it stands is not known: a request to set it back had no definite answer.
    is_free: bool,
}

/// The parts of a delivery's reply subject.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tag {
    pub(super) deliveries: u64,
    pub(super) seq: u64,
    delivery: u64,
    pending: u64,
}

/// Stream, consumer and numbers of an acknowledgement's subject.
pub(super) fn read_tag(reply: &str) -> Option<(String, String, Tag)> {
    let tokens: Vec<&str> = reply.strip_prefix("$JS.ACK.")?.split('.').collect();
    let [stream, consumer, numbers @ ..] = tokens.as_slice() else {
        return None;
    };
    let numbers: Vec<u64> = numbers.iter().filter_map(|text| text.parse().ok()).collect();
    let [deliveries, seq, delivery, _, pending] = numbers[..] else {
        return None;
    };
    let tag = Tag {
        deliveries,
        seq,
        delivery,
        pending,
    };
    Some(((*stream).to_owned(), (*consumer).to_owned(), tag))
}

impl ConsumerModel {
    /// A consumer that was just created on a stream.
    pub(super) fn new(config: ConsumerConfig, stream: &StreamModel, now: u64) -> Self {
        let end = stream.last + 1;
        let wanted = stream
            .live()
            .filter(|(_, message)| config.wants(&message.sent.subject))
            .map(|(seq, message)| (seq, message.sent.subject.clone()));
        let wanted: Vec<(u64, String)> = wanted.collect();
        let mut firsts = None;
        let start = match config.start {
            Start::All => 1,
            Start::New => end,
            Start::Sequence(seq) => seq,
            Start::Last => wanted.last().map_or(end, |(seq, _)| *seq),
            Start::LastPerSubject => {
                let last: BTreeMap<&String, u64> =
                    wanted.iter().map(|(seq, subject)| (subject, *seq)).collect();
                let mut found: Vec<u64> = last.into_values().collect();
                found.sort_unstable();
                let start = found.first().copied().unwrap_or(end);
                firsts = Some((found, end));
                start
            }
        };
        Self {
            config,
            is_in_doubt: false,
            start,
            firsts,
            stories: BTreeMap::new(),
            next: start,
            is_exact: true,
            durable_next: start,
            last_delivery: Some(0),
            most_delivery: 0,
            durable_delivery: 0,
            requests: BTreeMap::new(),
            last_used: now,
            may_have_gone: false,
            filters: Vec::new(),
            configs_in_doubt: Vec::new(),
            pause: Pause::Never,
            pin: None,
            is_free: false,
        }
    }

    /// Holds what a creation was answered with against where the consumer must start.
    pub(super) fn check_start(&self, stream: &StreamModel, info: &Value) {
        let found = info.pointer("/delivered/stream_seq").and_then(Value::as_u64);
        // The others begin no sooner than with the first message, and messages without an answer may be there.
        let is_exact = matches!(
            self.config.start,
            Start::New | Start::Last | Start::LastPerSubject
        );
        let is_known = is_exact && !stream.is_sick && stream.damage == 0;
        assert!(
            !is_known || found == Some(self.start - 1),
            "consumer {} of {} starts behind {found:?}, not at {}",
            self.config.name,
            stream.config.name,
            self.start
        );
    }

    /// Whether a message is one that the consumer was made to deliver.
    pub(super) fn covers(&self, seq: u64) -> bool {
        match &self.firsts {
            Some((found, resume)) => seq >= *resume || found.contains(&seq),
            None => seq >= self.start,
        }
    }

    /// Whether the consumer may need the message no more.
    pub(super) fn may_be_done(&self, seq: u64) -> bool {
        if !self.covers(seq) || self.is_free {
            return true;
        }
        let Some(story) = self.stories.get(&seq) else {
            return false;
        };
        let is_delivered = story.deliveries > 0;
        (is_delivered && self.config.ack == AckPolicy::None)
            || story.settled > Settled::No
            || story.is_given_up
    }

    /// Whether it must still deliver the message if it is asked to, whatever has happened.
    pub(super) fn must_deliver(&self, seq: u64, subject: &str) -> bool {
        let is_meant = self.config.wants(subject) && !self.may_have_passed(seq, subject);
        is_meant && self.covers(seq) && !self.may_be_done(seq)
    }

    /// Whether it may have gone because nobody used it.
    fn is_abandoned(&self, now: u64) -> bool {
        let nanos = self.config.inactive_ns as u64;
        nanos > 0 && now >= self.last_used + nanos
    }

    /// How long the message waits for its acknowledgement now.
    pub(super) fn wait_of(&self, seq: u64) -> u64 {
        self.config
            .wait(self.stories.get(&seq).map_or(1, |story| story.deliveries))
    }

    fn outstanding(&self, stream: &StreamModel) -> usize {
        let waits = |(seq, story): &(&u64, &Story)| {
            // What an update has taken out of its filter may leave, and be waited for no more, as soon as others are done with it.
            let may_leave = |message: &Message| {
                stream.config.retention != Retention::Limits && !self.config.wants(&message.sent.subject)
            };
            let is_there = stream
                .messages
                .get(seq)
                .is_some_and(|message| message.fate == Fate::Live && !may_leave(message));
            let is_open = story.settled == Settled::No && !story.is_given_up;
            is_there && is_open && story.is_exact && story.deliveries > 0
        };
        self.stories.iter().filter(waits).count()
    }

    /// Checks a delivery against the stream and the story so far, and notes it.
    pub(super) fn delivered(&mut self, stream: &StreamModel, got: &Got, tag: Tag, now: u64) {
        let what = format!("{tag:?} of {} {}", stream.config.name, self.config.name);
        self.check_content(stream, got, tag, &what);
        self.check_receiver(got, now, &what);
        self.check_pause(now, &what);
        let is_damaged = stream.damage > 0 || self.is_free;
        if !is_damaged {
            self.check_order(stream, tag, &what);
        }
        self.last_delivery = Some(tag.delivery);
        self.most_delivery = self.most_delivery.max(tag.delivery);
        self.touch(now);
        let max = self.config.max_deliver;
        if self.config.ack != AckPolicy::None {
            assert!(
                max.is_none_or(|max| tag.deliveries <= max),
                "delivered too often: {what}"
            );
        }
        let story = self.stories.entry(tag.seq).or_insert(Story {
            deliveries: 0,
            durable_deliveries: 0,
            due: 0,
            settled: Settled::No,
            is_exact: true,
            is_given_up: false,
        });
        if !is_damaged {
            assert!(
                story.settled < Settled::Now,
                "delivered after it was settled ({:?}): {what}",
                story.settled
            );
            let most = story.deliveries + 1;
            let least = if story.is_exact {
                most
            } else {
                story.durable_deliveries + 1
            };
            assert!(
                (least..=most).contains(&tag.deliveries),
                "{least} to {most} deliveries were possible: {what}"
            );
            let is_early = tag.deliveries > 1 && story.is_exact && now < story.due;
            assert!(!is_early, "{} ns early: {what}", story.due.saturating_sub(now));
        }
        story.settled = Settled::No;
        story.deliveries = tag.deliveries;
        story.durable_deliveries = story.durable_deliveries.min(tag.deliveries);
        story.is_exact = true;
        story.due = now + self.config.wait(tag.deliveries);
        story.is_given_up = max.is_some_and(|max| tag.deliveries >= max);
        // As many as before an update may come once more.
        if self.config.ack != AckPolicy::None && !is_damaged && tag.deliveries == 1 {
            let outstanding = self.outstanding(stream) as u64;
            assert!(
                outstanding <= self.config.max_ack_pending,
                "{outstanding} messages wait for acknowledgement: {what}"
            );
        }
    }

    fn check_content(&self, stream: &StreamModel, got: &Got, tag: Tag, what: &str) {
        let message = stream.messages.get(&tag.seq);
        let Some(message) = message else {
            panic!("never stored: {what}")
        };
        assert!(
            message.fate == Fate::Live || stream.is_sick || stream.damage > 0,
            "{:?} is delivered: {what}",
            message.fate
        );
        // What was delivered before the filter was changed comes again.
        let is_wanted =
            self.config.wants(&message.sent.subject) || (tag.deliveries > 1 && !self.filters.is_empty());
        assert!(is_wanted || self.is_free, "not wanted: {what}");
        // A flipped bit may cost the last state that was written, and with it a request to set the consumer back.
        assert!(
            self.covers(tag.seq) || self.is_free || stream.damage > 0,
            "before the start: {what}"
        );
        assert_eq!(got.subject, message.sent.subject, "{what}");
        if self.config.headers_only {
            assert!(got.payload.is_empty(), "{what}");
        } else {
            assert_eq!(got.payload, message.sent.payload, "{what}");
            assert_eq!(got.headers, message.sent.headers, "{what}");
        }
    }

    fn check_receiver(&mut self, got: &Got, now: u64, what: &str) {
        if let Some(subject) = &self.config.deliver_subject {
            assert_eq!(got.to, *subject, "{what}");
            return;
        }
        let Some(request) = self.requests.get_mut(&got.to) else {
            panic!("nobody asked for it: {what}")
        };
        assert!(
            request.expires.is_none_or(|at| now < at),
            "after the request's end: {what}"
        );
        request.left -= 1;
        if request.left == 0 {
            self.requests.remove(&got.to);
        }
    }

    /// First deliveries follow each other without a gap; the consumer's own numbers too.
    fn check_order(&mut self, stream: &StreamModel, tag: Tag, what: &str) {
        match self.last_delivery {
            Some(last) => assert_eq!(tag.delivery, last + 1, "the consumer's numbers: {what}"),
            None => assert!(
                (self.durable_delivery + 1..=self.most_delivery + 1).contains(&tag.delivery),
                "{} to {} was possible: {what}",
                self.durable_delivery + 1,
                self.most_delivery + 1
            ),
        }
        if tag.deliveries > 1 {
            return;
        }
        assert!(tag.seq >= self.next, "first delivery below {}: {what}", self.next);
        let wanted = |seq: u64| self.covers(seq) && seq >= self.next && seq < tag.seq;
        let passed: Vec<u64> = stream
            .live()
            .filter(|(seq, message)| {
                let subject = &message.sent.subject;
                let is_meant = self.config.wants(subject) && !self.may_have_passed(*seq, subject);
                wanted(*seq) && !message.is_back && is_meant
            })
            .map(|(seq, _)| seq)
            .collect();
        let is_known = self.is_exact && !stream.is_sick;
        assert!(
            !is_known || passed.is_empty(),
            "{passed:?} were passed over: {what}"
        );
        self.next = tag.seq + 1;
        self.is_exact = true;
        // A crash may bring back the place of a filter that was, and what is passed over from there on counts as pending.
        let is_counted = self.filters.is_empty() || self.config.start != Start::Last;
        if is_known && is_counted && self.firsts.is_none() && stream.config.max_age == 0 {
            let left = stream
                .live()
                .filter(|(seq, message)| *seq > tag.seq && self.config.wants(&message.sent.subject));
            let is_settled = stream.config.retention == super::config::Retention::Limits;
            assert!(
                !is_settled || tag.pending == left.count() as u64,
                "num_pending: {what}"
            );
        }
    }

    /// An acknowledgement was sent; `answered`: its answer has come.
    pub(super) fn acked(&mut self, seq: u64, now: u64) -> Vec<u64> {
        self.touch(now);
        let is_known = self.stories.get(&seq).is_some_and(|story| story.is_exact);
        let known = match self.config.ack {
            AckPolicy::None => return Vec::new(),
            AckPolicy::Explicit => self.stories.range_mut(seq..=seq),
            AckPolicy::All => self.stories.range_mut(..=seq),
        };
        let mut done = Vec::new();
        for (seq, story) in known {
            if story.deliveries > 0 && story.settled < Settled::Now {
                // What was not delivered in this life may be unknown to the broker, and the word with it.
                story.settled = if story.is_exact && is_known {
                    Settled::Now
                } else {
                    Settled::Perhaps
                };
                done.push(*seq);
            }
        }
        done
    }

    /// An acknowledgement was answered: what the broker knows of the consumer is on disk.
    pub(super) fn answered(&mut self, seq: u64) {
        if self.config.ack != AckPolicy::None {
            let from = if self.config.ack == AckPolicy::All { 0 } else { seq };
            for story in self.stories.range_mut(from..=seq).map(|(_, story)| story) {
                if story.deliveries > 0 {
                    story.settled = story.settled.max(Settled::Now);
                }
            }
        }
        if !self.config.in_memory {
            self.make_durable();
        }
    }

    /// All that is known is on disk.
    pub(super) fn make_durable(&mut self) {
        for story in self.stories.values_mut() {
            if story.settled == Settled::Now {
                story.settled = Settled::Forever;
            }
            if story.is_exact {
                story.durable_deliveries = story.deliveries;
            }
        }
        if self.is_exact {
            self.durable_next = self.next;
        }
        if let Some(last) = self.last_delivery {
            self.durable_delivery = last;
        }
    }

    /// A message is not to come again before `due`.
    pub(super) fn postponed(&mut self, seq: u64, now: u64, due: u64, is_progress: bool) {
        self.touch(now);
        if let Some(story) = self.stories.get_mut(&seq) {
            // One that is queued for redelivery already is not called back by a sign of progress.
            if !is_progress || now < story.due {
                story.due = due;
            }
        }
    }

    /// It is used, unless it has gone already.
    pub(super) fn touch(&mut self, now: u64) {
        self.may_have_gone |= self.is_abandoned(now);
        self.last_used = now;
    }

    /// Whether it may have gone before the last restart.
    pub(super) fn was_abandoned(&self, now: u64) -> bool {
        self.may_have_gone || self.is_abandoned(now)
    }

    /// Whether it is there for certain, with this configuration.
    pub(super) fn is_known(&self, now: u64) -> bool {
        !self.is_in_doubt && !self.is_free && self.configs_in_doubt.is_empty() && !self.was_abandoned(now)
    }

    /// It was made anew as it was when a backup was taken.
    pub(super) fn restored(&mut self, now: Now) {
        self.last_used = now.mono.0;
        self.reopened(true, now);
    }

    /// The broker was started again; what was not written is forgotten.
    pub(super) fn reopened(&mut self, was_clean: bool, now: Now) {
        if was_clean {
            self.make_durable();
        }
        self.requests.clear();
        self.pin = None;
        self.touch(now.mono.0);
        self.pause.arm(now);
        self.is_exact = false;
        self.next = self.durable_next;
        self.last_delivery = None;
        for story in self.stories.values_mut() {
            story.is_exact = false;
            if story.settled == Settled::Now {
                story.settled = Settled::Perhaps;
            }
        }
    }
}
