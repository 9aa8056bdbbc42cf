//! A set of positions, kept as ranges.

use std::collections::BTreeMap;

use super::SeqRange;
use crate::types::StreamSeq;

/// A set of positions. Ranges that touch are merged.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Ranges {
    /// First position to last position, both included.
    by_first: BTreeMap<u64, u64>,
}

impl Ranges {
    pub(super) fn is_empty(&self) -> bool {
        self.by_first.is_empty()
    }

    pub(super) fn clear(&mut self) {
        self.by_first.clear();
    }

    /// Adds `first..=last`. Nothing happens if `last < first`.
    pub(super) fn insert(&mut self, first: u64, last: u64) {
        if last < first {
            return;
        }
        let (mut first, mut last) = (first, last);
        if let Some((&before, &end)) = self.by_first.range(..=first).next_back()
            && end.saturating_add(1) >= first
        {
            first = before;
            last = last.max(end);
        }
        while let Some((&start, &end)) = self.by_first.range(first..=last.saturating_add(1)).next() {
            last = last.max(end);
            self.by_first.remove(&start);
        }
        self.by_first.insert(first, last);
    }

    /// Whether `seq` is in one of the ranges.
    pub(super) fn contains(&self, seq: u64) -> bool {
        self.by_first
            .range(..=seq)
            .next_back()
            .is_some_and(|(_, &last)| last >= seq)
    }

    /// Forgets every position above `seq`.
    pub(super) fn truncate_above(&mut self, seq: u64) {
        self.by_first.split_off(&seq.saturating_add(1));
        if let Some((_, last)) = self.by_first.iter_mut().next_back() {
            *last = (*last).min(seq);
        }
    }

    /// Adds to `out` the positions of `first..=last` that are not in this set.
    pub(super) fn subtract_from(&self, first: u64, last: u64, out: &mut Ranges) {
        let mut at = first;
        if let Some((_, &end)) = self.by_first.range(..=first).next_back()
            && end >= first
        {
            at = end.saturating_add(1);
        }
        while at <= last {
            let Some((&start, &end)) = self.by_first.range(at..=last).next() else {
                out.insert(at, last);
                return;
            };
            if start > at {
                out.insert(at, start - 1);
            }
            if end == u64::MAX {
                return;
            }
            at = end + 1;
        }
    }

    /// The parts of the ranges that are in `first..=last`.
    pub(super) fn within(&self, first: u64, last: u64) -> impl Iterator<Item = (u64, u64)> {
        let before = self.by_first.range(..first).next_back();
        let before = before.filter(move |(_, end)| **end >= first);
        let inside = if first <= last {
            Some(self.by_first.range(first..=last))
        } else {
            None
        };
        let parts = before.into_iter().filter(move |_| first <= last);
        parts
            .chain(inside.into_iter().flatten())
            .map(move |(start, end)| ((*start).max(first), (*end).min(last)))
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (u64, u64)> {
        self.by_first.iter().map(|(&first, &last)| (first, last))
    }

    pub(super) fn to_vec(&self) -> Vec<SeqRange> {
        self.iter()
            .map(|(first, last)| SeqRange {
                first: StreamSeq(first),
                last: StreamSeq(last),
            })
            .collect()
    }

    /// Number of positions.
    pub(super) fn count(&self) -> u64 {
        self.iter()
            .map(|(first, last)| (last - first).saturating_add(1))
            .sum()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn agrees_with_a_plain_set(
            adds in prop::collection::vec((0u64..60, 0u64..8), 0..30),
            cut in 0u64..70,
            span in (0u64..60, 0u64..20),
        ) {
            let mut ranges = Ranges::default();
            let mut model = BTreeSet::new();
            for (first, len) in adds {
                ranges.insert(first, first + len);
                model.extend(first..=first + len);
            }
            prop_assert_eq!(ranges.count(), model.len() as u64);
            for seq in 0..80 {
                prop_assert_eq!(ranges.contains(seq), model.contains(&seq));
            }
            let merged: Vec<_> = ranges.iter().collect();
            for pair in merged.windows(2) {
                prop_assert!(pair[0].1 + 1 < pair[1].0, "ranges that touch are merged");
            }
            let mut missing = Ranges::default();
            ranges.subtract_from(span.0, span.0 + span.1, &mut missing);
            for seq in 0..100 {
                let expected = (span.0..=span.0 + span.1).contains(&seq) && !model.contains(&seq);
                prop_assert_eq!(missing.contains(seq), expected);
            }
            let parts: Vec<u64> = ranges.within(span.0, span.0 + span.1).flat_map(|(a, b)| a..=b).collect();
            let expected: Vec<u64> = model.range(span.0..=span.0 + span.1).copied().collect();
            prop_assert_eq!(parts, expected);
            ranges.truncate_above(cut);
            for seq in 0..80 {
                prop_assert_eq!(ranges.contains(seq), seq <= cut && model.contains(&seq));
            }
        }
    }
}
