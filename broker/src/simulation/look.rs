//! Holding the records of a stream that are there against what must be and may be there.

use std::collections::{BTreeMap, BTreeSet};

use super::config::Retention;
use super::streams::{Fate, Message, Sent, StreamModel, header, size_of};
use super::verdict::Seen;
use super::world::World;
use crate::engine::time::Now;

impl StreamModel {
    /// Whether a message may be missing without a word: too old, or no consumer needs it any more.
    fn is_excused(&self, seq: u64, message: &Message, now: Now, has_jumped: bool) -> bool {
        let (now, wall) = (now.mono.0, now.wall);
        let age = wall.since(message.time);
        let is_old = self.is_old(message, wall, has_jumped);
        let is_unneeded = match self.config.retention {
            Retention::Limits => false,
            Retention::WorkQueue => self.consumers.values().any(|one| one.may_be_done(seq)),
            Retention::Interest => self.consumers.values().all(|one| {
                let is_abandoned = one.was_abandoned(now);
                // What a limit had taken every consumer may have forgotten.
                let subject = &message.sent.subject;
                is_abandoned
                    || message.is_back
                    || !one.config.wants(subject)
                    || one.may_have_passed(seq, subject)
                    || one.may_be_done(seq)
            }),
        };
        let is_expired = message.ttl.is_some_and(|ttl| has_jumped || age >= ttl as i64);
        is_old || is_unneeded || is_expired
    }

    /// Holds the records that are there against what must be and may be. `after_restart`: what faded may be back.
    /// Of what was delivered just now it is not known yet that it is done with.
    pub(super) fn look(
        &mut self,
        world: &World,
        delivered: &BTreeSet<(String, u64)>,
        has_jumped: bool,
        after_restart: bool,
    ) {
        let name = self.config.name;
        let there = world.positions(name);
        let (last, lost) = world.last_seq(name);
        assert!(
            last >= self.confirmed || self.damage > 0,
            "stream {name} ends at {last}, {} was confirmed",
            self.confirmed
        );
        let mut known = std::mem::take(&mut self.messages);
        if after_restart && self.damage > 0 {
            // Positions at the very end that damage took are given again.
            known.retain(|seq, _| *seq <= last);
        }
        let mut beyond = BTreeSet::new();
        if after_restart {
            beyond.append(&mut self.back_beyond_limit(&known));
            beyond.append(&mut self.pushed_out_by_what_is_back(&known, &there));
        }
        let mut missing = 0;
        for (seq, message) in &mut known {
            let is_there = there.binary_search(seq).is_ok();
            match (message.fate, is_there) {
                // It was there when it was delivered.
                (Fate::Live | Fate::Unknown, false) if delivered.contains(&(name.to_owned(), *seq)) => {
                    message.fate = Fate::Live;
                }
                (Fate::Live, false) => {
                    let is_doubted = after_restart && message.is_doubted || beyond.contains(seq);
                    let is_excused = is_doubted || self.is_excused(*seq, message, world.now, has_jumped);
                    // Damage at the very end looks like a write that was never completed, which nobody counts.
                    // So does what a limit took, where it is not known what was stored.
                    let is_front = self.may_push_out_any() && there.first().is_none_or(|first| seq < first);
                    missing += u64::from(!is_excused && !is_front && *seq <= last);
                    message.fate = Fate::Fading;
                    assert!(
                        is_excused || self.damage > 0,
                        "message {seq} of {name} is lost: {message:?}"
                    );
                }
                (Fate::Gone, true) if self.damage > 0 => message.fate = Fate::Live,
                (Fate::Gone, true) => panic!("message {seq} of {name} has come back"),
                (Fate::Fading, true) => {
                    assert!(after_restart, "message {seq} of {name} is there in the same life");
                    message.fate = Fate::Live;
                    message.is_back = true;
                }
                (Fate::Unknown, true) => {
                    message.fate = Fate::Live;
                    // It may have gone in the life before, and be back.
                    message.is_back |= after_restart;
                }
                (Fate::Unknown, false) => message.fate = Fate::Fading,
                (Fate::Live, true) | (Fate::Gone | Fate::Fading, false) => {}
            }
        }
        assert!(
            missing <= lost || self.damage > 1,
            "{missing} messages of {name} are missing, {lost} count as lost"
        );
        self.messages = known;
        for seq in there {
            self.check_record(world, seq, after_restart);
        }
        self.last = last;
        self.is_unsettled = false;
    }

    /// What a crash has brought back although as many newer messages of its subject are there as may be: the next start may take
    /// it again.
    fn back_beyond_limit(&self, known: &BTreeMap<u64, Message>) -> BTreeSet<u64> {
        let max = self.config.max_per_subject.unwrap_or(u64::MAX);
        let mut counts: BTreeMap<&str, u64> = BTreeMap::new();
        let mut beyond = BTreeSet::new();
        for (seq, message) in known.iter().rev() {
            if matches!(message.fate, Fate::Live | Fate::Unknown) {
                let count = counts.entry(&message.sent.subject).or_default();
                *count += 1;
                if message.is_back && *count > max {
                    beyond.insert(*seq);
                }
            }
        }
        beyond
    }

    /// What a crash has brought back takes room: then the oldest go that the stream's limits do not allow beside what is there.
    fn pushed_out_by_what_is_back(&self, known: &BTreeMap<u64, Message>, there: &[u64]) -> BTreeSet<u64> {
        let mut out = BTreeSet::new();
        let found = || there.iter().filter_map(|seq| known.get(seq));
        let Some(first) = there.first() else { return out };
        if !found().any(|message| message.fate == Fate::Fading) {
            return out;
        }
        let (max_msgs, max_bytes) = (self.config.max_msgs, self.config.max_bytes);
        let is_full = there.len() as u64 >= max_msgs.unwrap_or(u64::MAX);
        let size = |message: &Message| size_of(&message.sent, self.config.in_memory);
        let bytes: u64 = found().map(size).sum();
        for (seq, message) in known.range(..first).rev() {
            let is_large = bytes + size(message) > max_bytes.unwrap_or(u64::MAX);
            if is_full || is_large || !out.is_empty() {
                out.insert(*seq);
            }
        }
        out
    }

    /// A record is exactly what was sent as this position, or a publish that had no answer.
    fn check_record(&mut self, world: &World, seq: u64, is_thorough: bool) {
        let name = self.config.name;
        if !is_thorough && self.messages.contains_key(&seq) {
            return;
        }
        let record = match world.record(name, seq) {
            Ok(Some(record)) => record,
            unreadable => {
                let is_excused = self.damage > 0 || self.is_sick;
                assert!(
                    is_excused,
                    "message {seq} of {name} cannot be read: {unreadable:?}"
                );
                if self.damage > 0 {
                    // It counts as lost before long.
                    self.set(seq, Fate::Unknown);
                }
                return;
            }
        };
        let found = Sent {
            subject: record.subject.to_string(),
            headers: record.headers.to_vec(),
            payload: record.payload.to_vec(),
        };
        self.settle_guess(seq, |sent| sent.payload == found.payload);
        if let Some(message) = self.messages.get(&seq) {
            assert_eq!(found, message.sent, "message {seq} of {name} has changed");
            return;
        }
        let doubtful = self.doubtful.iter().position(|one| one.sent == found);
        let Some(index) = doubtful else {
            panic!("message {seq} of {name} was never sent, or refused: {found:?}")
        };
        self.doubtful.remove(index);
        let header = |name: &str| header(&found.headers, name);
        let seen = Seen {
            seq,
            at: world.now.mono.0,
            is_certain: false,
        };
        let msg_id = header("Nats-Msg-Id");
        if let Some(id) = &msg_id {
            self.ids.insert(id.clone(), seen);
        }
        let ttl = header("Nats-TTL").and_then(|text| text.parse::<u64>().ok());
        let message = Message {
            time: record.time,
            expires: None,
            ttl: ttl.map(|seconds| seconds * 1_000_000_000),
            sent: found,
            fate: Fate::Live,
            // A limit may have taken it in the life before, and a crash have brought it back.
            is_back: is_thorough && self.may_push_out_any(),
            // Another one without an answer may push it out once it is there as well.
            is_doubted: !self.doubtful.is_empty(),
            is_guess: false,
        };
        self.messages.insert(seq, message);
    }
}
