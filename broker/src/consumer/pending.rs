//! The messages that a consumer has delivered and that wait for their acknowledgement.

use std::collections::VecDeque;

use crate::engine::time::Mono;

/// One delivered message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Pending {
    /// Its position in the stream.
    pub(crate) stream_seq: u64,
    /// Its position among the consumer's deliveries, from its first delivery.
    pub(crate) consumer_seq: u64,
    /// How often it was delivered, from 1.
    pub(crate) deliveries: u64,
    /// When it is to be delivered again.
    pub(crate) deadline: Mono,
    /// Whether it stands in the redelivery queue already.
    pub(crate) queued: bool,
}

#[derive(Clone, Copy, Debug)]
struct Slot {
    entry: Pending,
    is_live: bool,
}

/// Dead slots that are kept before the window is compacted, beyond as many as there are live ones.
const DEAD_SLOTS_SLACK: usize = 1024;

/// Pending messages in stream order. Messages are first delivered in rising order, so that they
/// are pushed at the back; removed ones leave a dead slot, so that finding, pushing and removing
/// cost next to nothing in the usual case of dense sequences.
#[derive(Clone, Debug, Default)]
pub(crate) struct PendingWindow {
    slots: VecDeque<Slot>,
    live_count: usize,
}

impl PendingWindow {
    /// How many messages are pending.
    pub(crate) fn len(&self) -> usize {
        self.live_count
    }

    /// Adds a message delivered for the first time.
    ///
    /// # Panics
    /// If its sequence is not above all that were pushed and still have a slot.
    pub(crate) fn push(&mut self, entry: Pending) {
        if let Some(last) = self.slots.back() {
            assert!(
                last.entry.stream_seq < entry.stream_seq,
                "messages are first delivered in stream order"
            );
        }
        self.slots.push_back(Slot { entry, is_live: true });
        self.live_count += 1;
    }

    /// The pending message at `stream_seq`.
    pub(crate) fn get(&self, stream_seq: u64) -> Option<&Pending> {
        let slot = self.slots.get(self.position(stream_seq)?)?;
        slot.is_live.then_some(&slot.entry)
    }

    /// The pending message at `stream_seq`, to be changed except for its sequence.
    pub(crate) fn get_mut(&mut self, stream_seq: u64) -> Option<&mut Pending> {
        let index = self.position(stream_seq)?;
        let slot = self.slots.get_mut(index)?;
        slot.is_live.then_some(&mut slot.entry)
    }

    /// Takes out the pending message at `stream_seq`.
    pub(crate) fn remove(&mut self, stream_seq: u64) -> Option<Pending> {
        let index = self.position(stream_seq)?;
        let slot = self.slots.get_mut(index)?;
        if !slot.is_live {
            return None;
        }
        slot.is_live = false;
        let entry = slot.entry;
        self.live_count -= 1;
        self.drop_dead_slots();
        Some(entry)
    }

    /// Takes out everything up to and including `stream_seq`, handing each sequence to `removed`.
    /// Returns how many there were.
    pub(crate) fn remove_through(&mut self, stream_seq: u64, removed: &mut Vec<u64>) -> usize {
        let before = self.live_count;
        while let Some(slot) = self.slots.front() {
            if slot.entry.stream_seq > stream_seq {
                break;
            }
            if slot.is_live {
                removed.push(slot.entry.stream_seq);
                self.live_count -= 1;
            }
            self.slots.pop_front();
        }
        self.drop_dead_slots();
        before - self.live_count
    }

    /// The pending message with the lowest sequence.
    pub(crate) fn first(&self) -> Option<&Pending> {
        self.iter().next()
    }

    /// All pending messages in stream order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Pending> {
        self.slots
            .iter()
            .filter(|slot| slot.is_live)
            .map(|slot| &slot.entry)
    }

    fn position(&self, stream_seq: u64) -> Option<usize> {
        let front = self.slots.front()?.entry.stream_seq;
        let guess = usize::try_from(stream_seq.checked_sub(front)?).ok()?;
        if let Some(slot) = self.slots.get(guess)
            && slot.entry.stream_seq == stream_seq
        {
            return Some(guess);
        }
        self.slots
            .binary_search_by_key(&stream_seq, |slot| slot.entry.stream_seq)
            .ok()
    }

    fn drop_dead_slots(&mut self) {
        while self.slots.front().is_some_and(|slot| !slot.is_live) {
            self.slots.pop_front();
        }
        if self.slots.len() > 2 * self.live_count + DEAD_SLOTS_SLACK {
            self.slots.retain(|slot| slot.is_live);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Debug)]
    enum Op {
        Push { gap: u64 },
        Remove(u64),
        RemoveThrough(u64),
        Touch(u64),
    }

    fn op() -> impl Strategy<Value = Op> {
        prop_oneof![
            6 => (1_u64..4).prop_map(|gap| Op::Push { gap }),
            4 => (0_u64..400).prop_map(Op::Remove),
            1 => (0_u64..400).prop_map(Op::RemoveThrough),
            1 => (0_u64..400).prop_map(Op::Touch),
        ]
    }

    fn entry(stream_seq: u64) -> Pending {
        Pending {
            stream_seq,
            consumer_seq: stream_seq,
            deliveries: 1,
            deadline: Mono(0),
            queued: false,
        }
    }

    proptest! {
        #[test]
        fn behaves_as_an_ordered_map(ops in proptest::collection::vec(op(), 0..300)) {
            let mut window = PendingWindow::default();
            let mut model = BTreeMap::new();
            let mut last = 0;
            for op in ops {
                match op {
                    Op::Push { gap } => {
                        last += gap;
                        window.push(entry(last));
                        model.insert(last, entry(last));
                    }
                    Op::Remove(seq) => prop_assert_eq!(window.remove(seq), model.remove(&seq)),
                    Op::RemoveThrough(seq) => {
                        let rest = model.split_off(&(seq + 1));
                        let gone: Vec<u64> = std::mem::replace(&mut model, rest).into_keys().collect();
                        let mut removed = Vec::new();
                        prop_assert_eq!(window.remove_through(seq, &mut removed), gone.len());
                        prop_assert_eq!(removed, gone);
                    }
                    Op::Touch(seq) => {
                        if let Some(entry) = window.get_mut(seq) {
                            entry.deliveries += 1;
                        }
                        if let Some(entry) = model.get_mut(&seq) {
                            entry.deliveries += 1;
                        }
                    }
                }
                prop_assert_eq!(window.len(), model.len());
                prop_assert_eq!(window.first(), model.values().next());
                prop_assert!(window.iter().eq(model.values()));
            }
            for seq in 0..last + 2 {
                prop_assert_eq!(window.get(seq), model.get(&seq));
            }
        }
    }

    #[test]
    fn one_old_message_does_not_keep_the_slots_of_all_later_ones() {
        let mut window = PendingWindow::default();
        window.push(entry(1));
        for seq in 2..100_000 {
            window.push(entry(seq));
            window.remove(seq);
        }
        assert!(window.slots.len() <= DEAD_SLOTS_SLACK + 4);
        assert_eq!(window.len(), 1);
    }
}
