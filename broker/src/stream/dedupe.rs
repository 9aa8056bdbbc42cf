//! The duplicate window: message ids seen lately, and under which sequence they were stored.

use std::collections::VecDeque;
use std::hash::{BuildHasher, RandomState};

use hashbrown::HashTable;
use hashbrown::hash_table::Entry;

use crate::engine::time::Mono;

/// Ids of each kind kept at once, over all that the window's length asks for. Publishing with a further message id is
/// refused: forgetting one early would let its duplicate in. Of the keys of resends, which every message of an MQTT client
/// with QoS 1 has, the oldest goes: such a client is promised its message at least once, and to be heard.
const IDS_MAX: usize = 16 << 20;

/// Whose id it is: the two kinds do not meet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum IdKind {
    /// `Nats-Msg-Id`
    Message,
    /// The key of a local client's resend.
    Resend,
}

/// Stands for an id: 128 bits of keyed hash, so that an entry costs the same for any length of id
/// and nobody can aim at a collision.
type IdHash = u128;

#[derive(Clone, Copy, Debug)]
struct Seen {
    hash: IdHash,
    seq: u64,
    at: Mono,
}

/// The ids of one kind: 32 bytes for each, and 5 to find it.
#[derive(Debug, Default)]
struct Ids {
    hashers: [RandomState; 2],
    /// In the order of their coming, which is that of their times unless the clock was set back. An id that came again has
    /// several; the last one counts.
    order: VecDeque<Seen>,
    /// How many have left `order` at its front; wraps around.
    left: u32,
    /// By hash: the number of the entry that counts, counted from the first that ever was.
    numbers: HashTable<u32>,
}

/// Ids and when they were seen.
#[derive(Debug)]
pub(crate) struct DuplicateWindow {
    window_ns: u64,
    messages: Ids,
    resends: Ids,
    resends_max: usize,
    /// Whether a key of a resend was forgotten before its time.
    is_short: bool,
}

/// The half of a hash that finds its place.
fn place_of(hash: IdHash) -> u64 {
    hash as u64
}

impl DuplicateWindow {
    /// An empty window that forgets after `window_ns`.
    pub(crate) fn new(window_ns: i64) -> Self {
        Self {
            window_ns: u64::try_from(window_ns).unwrap_or(0),
            messages: Ids::default(),
            resends: Ids::default(),
            resends_max: IDS_MAX,
            is_short: false,
        }
    }

    /// Changes how long ids are remembered.
    pub(crate) fn set_window(&mut self, window_ns: i64) {
        self.window_ns = u64::try_from(window_ns).unwrap_or(0);
    }

    /// Whether no other message id fits. Keys of resends always do.
    pub(crate) fn is_full(&self) -> bool {
        self.messages.order.len() >= IDS_MAX
    }

    fn of(&mut self, kind: IdKind) -> &mut Ids {
        match kind {
            IdKind::Message => &mut self.messages,
            IdKind::Resend => &mut self.resends,
        }
    }

    /// The sequence that `id` was stored under within the window.
    pub(crate) fn find(&mut self, now: Mono, kind: IdKind, id: &str) -> Option<u64> {
        self.forget_old(now);
        let window_ns = self.window_ns;
        self.of(kind).find(now, window_ns, id)
    }

    /// Remembers that `id` was stored as `seq` at `at`, in place of what it stood for.
    pub(crate) fn remember(&mut self, at: Mono, kind: IdKind, id: &str, seq: u64) {
        if kind == IdKind::Resend && self.resends.order.len() >= self.resends_max {
            self.resends.forget_first();
            if !std::mem::replace(&mut self.is_short, true) {
                tracing::warn!(
                    keys = self.resends_max,
                    "too many messages of local clients for the duplicate window: repetitions are recognised for a shorter time"
                );
            }
        }
        self.of(kind).remember(at, id, seq);
    }

    /// Forgets everything above `durable_seq`: it was not stored after all.
    pub(crate) fn roll_back(&mut self, durable_seq: u64) {
        self.messages.roll_back(durable_seq);
        self.resends.roll_back(durable_seq);
    }

    /// Forgets everything, after a purge of the whole stream.
    pub(crate) fn clear(&mut self) {
        for ids in [&mut self.messages, &mut self.resends] {
            ids.numbers.clear();
            ids.order.clear();
        }
    }

    /// Forgets the ids that are older than the window.
    pub(crate) fn forget_old(&mut self, now: Mono) {
        self.messages.forget_old(now, self.window_ns);
        self.resends.forget_old(now, self.window_ns);
    }
}

impl Ids {
    fn seen(&self, number: u32) -> &Seen {
        &self.order[number.wrapping_sub(self.left) as usize]
    }

    fn find(&self, now: Mono, window_ns: u64, id: &str) -> Option<u64> {
        let hash = self.hash(id);
        let is_it = |number: &u32| self.seen(*number).hash == hash;
        let number = self.numbers.find(place_of(hash), is_it)?;
        let seen = self.seen(*number);
        // A start dates ids by their messages: once the clock was set back, one that is older may stand behind a younger one.
        (now.since(seen.at) < window_ns).then_some(seen.seq)
    }

    fn remember(&mut self, at: Mono, id: &str, seq: u64) {
        let hash = self.hash(id);
        let number = self.left.wrapping_add(self.order.len() as u32);
        self.order.push_back(Seen { hash, seq, at });
        let Self {
            order, left, numbers, ..
        } = self;
        let hash_of = |number: u32| order[number.wrapping_sub(*left) as usize].hash;
        let found = numbers.entry(
            place_of(hash),
            |number| hash_of(*number) == hash,
            |number| place_of(hash_of(*number)),
        );
        match found {
            Entry::Occupied(mut found) => *found.get_mut() = number,
            Entry::Vacant(place) => {
                place.insert(number);
            }
        }
    }

    /// Forgets that entry `number`, with this hash, counts, if it does.
    fn discount(&mut self, number: u32, hash: IdHash) {
        if let Ok(found) = self.numbers.find_entry(place_of(hash), |other| *other == number) {
            found.remove();
        }
    }

    fn roll_back(&mut self, durable_seq: u64) {
        while let Some(last) = self.order.back().filter(|last| last.seq > durable_seq) {
            let hash = last.hash;
            let number = self.left.wrapping_add(self.order.len() as u32 - 1);
            self.discount(number, hash);
            self.order.pop_back();
        }
    }

    fn forget_first(&mut self) {
        let Some(hash) = self.order.front().map(|first| first.hash) else {
            return;
        };
        self.discount(self.left, hash);
        self.order.pop_front();
        self.left = self.left.wrapping_add(1);
    }

    fn forget_old(&mut self, now: Mono, window_ns: u64) {
        let is_old = |first: &Seen| now.since(first.at) >= window_ns;
        while self.order.front().is_some_and(is_old) {
            self.forget_first();
        }
        if self.order.is_empty() && self.order.capacity() > 1024 {
            self.order.shrink_to_fit();
            self.numbers.shrink_to_fit(|_| 0);
        }
    }

    fn hash(&self, id: &str) -> IdHash {
        let half = |hasher: &RandomState| u128::from(hasher.hash_one(id));
        half(&self.hashers[0]) << 64 | half(&self.hashers[1])
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const WINDOW: i64 = 100;

    #[test]
    fn kinds_do_not_meet() {
        let mut window = DuplicateWindow::new(WINDOW);
        window.remember(Mono(0), IdKind::Message, "a", 1);
        assert_eq!(window.find(Mono(1), IdKind::Resend, "a"), None);
        assert_eq!(window.find(Mono(99), IdKind::Message, "a"), Some(1));
        assert_eq!(window.find(Mono(100), IdKind::Message, "a"), None);
        assert_eq!(window.messages.numbers.len(), 0);
    }

    #[test]
    fn an_id_leaves_the_window_in_time_behind_one_that_was_dated_later() {
        let mut window = DuplicateWindow::new(WINDOW);
        window.remember(
            Mono(50),
            IdKind::Message,
            "written before the clock was set back",
            1,
        );
        window.remember(Mono(10), IdKind::Message, "a", 2);
        assert_eq!(window.find(Mono(109), IdKind::Message, "a"), Some(2));
        assert_eq!(window.find(Mono(110), IdKind::Message, "a"), None);
    }

    #[test]
    fn what_was_rolled_back_may_come_again() {
        let mut window = DuplicateWindow::new(WINDOW);
        window.remember(Mono(0), IdKind::Message, "a", 1);
        window.remember(Mono(1), IdKind::Message, "b", 2);
        window.remember(Mono(1), IdKind::Message, "c", 3);
        window.roll_back(1);
        assert_eq!(window.find(Mono(2), IdKind::Message, "a"), Some(1));
        assert_eq!(window.find(Mono(2), IdKind::Message, "b"), None);
        assert_eq!(window.find(Mono(2), IdKind::Message, "c"), None);
    }

    #[test]
    fn keys_of_resends_are_never_too_many() {
        let mut window = DuplicateWindow::new(WINDOW);
        window.resends_max = 3;
        for seq in 1..=9 {
            window.remember(Mono(0), IdKind::Resend, &seq.to_string(), seq);
            assert!(window.resends.order.len() <= 3);
        }
        assert!(!window.is_full());
        let found = |window: &mut DuplicateWindow, id| window.find(Mono(0), IdKind::Resend, id);
        assert_eq!(found(&mut window, "6"), None);
        assert_eq!(
            (found(&mut window, "7"), found(&mut window, "9")),
            (Some(7), Some(9))
        );
        assert_eq!(window.find(Mono(0), IdKind::Message, "9"), None);
        assert_eq!(window.resends.numbers.len(), 3);
    }

    proptest! {
        /// Against a list of everything ever remembered.
        #[test]
        fn remembers_the_newest_within_the_window(
            steps in proptest::collection::vec((0_u64..40, 0_u8..6, any::<bool>(), 0_u64..150), 0..200),
        ) {
            let mut window = DuplicateWindow::new(WINDOW);
            let mut model: Vec<(u64, u8, u64)> = Vec::new();
            let (mut now, mut seq) = (0, 0);
            for (pause, id, is_store, age) in steps {
                now += pause;
                let newest = model.iter().rev().find(|entry| entry.1 == id);
                let expected = newest.filter(|entry| now - entry.0 < WINDOW as u64).map(|entry| entry.2);
                let found = window.find(Mono(now), IdKind::Message, &id.to_string());
                prop_assert_eq!(found, expected);
                if is_store {
                    seq += 1;
                    // A start remembers what is older already, in any order.
                    let at = if age > 100 { now.saturating_sub(age) } else { now };
                    window.remember(Mono(at), IdKind::Message, &id.to_string(), seq);
                    model.push((at, id, seq));
                }
            }
        }
    }
}
