//! A set of places in a segment.

/// One bit a place. Takes no memory as long as it is empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in super::super) struct Bits {
    words: Vec<u64>,
}

impl Bits {
    /// Whether nothing was ever added.
    pub(in super::super) fn is_unused(&self) -> bool {
        self.words.is_empty()
    }

    pub(in super::super) fn contains(&self, at: usize) -> bool {
        self.words
            .get(at / 64)
            .is_some_and(|word| word >> (at % 64) & 1 == 1)
    }

    /// Adds `at`; `len` is the number of all places. Returns whether it was not there.
    pub(in super::super) fn insert(&mut self, at: usize, len: usize) -> bool {
        if self.words.is_empty() {
            self.words = vec![0; len.div_ceil(64)];
        }
        let Some(word) = self.words.get_mut(at / 64) else {
            return false;
        };
        let is_new = *word >> (at % 64) & 1 == 0;
        *word |= 1 << (at % 64);
        is_new
    }

    /// Takes `at` out.
    pub(in super::super) fn remove(&mut self, at: usize) {
        if let Some(word) = self.words.get_mut(at / 64) {
            *word &= !(1 << (at % 64));
        }
    }

    /// Adds `from..to`.
    pub(in super::super) fn insert_range(&mut self, from: usize, to: usize, len: usize) {
        if from >= to {
            return;
        }
        if self.words.is_empty() {
            self.words = vec![0; len.div_ceil(64)];
        }
        for at in from / 64..=(to - 1) / 64 {
            let low = if at == from / 64 {
                u64::MAX << (from % 64)
            } else {
                u64::MAX
            };
            let high = if at == (to - 1) / 64 {
                u64::MAX >> (63 - (to - 1) % 64)
            } else {
                u64::MAX
            };
            if let Some(word) = self.words.get_mut(at) {
                *word |= low & high;
            }
        }
    }

    /// The first place at or after `from` that is there.
    pub(in super::super) fn next(&self, from: usize) -> Option<usize> {
        let mut at = from / 64;
        let mut word = self.words.get(at)? & (u64::MAX << (from % 64));
        while word == 0 {
            at += 1;
            word = *self.words.get(at)?;
        }
        Some(at * 64 + word.trailing_zeros() as usize)
    }

    /// The first place at or after `from` that is not there.
    pub(in super::super) fn next_missing(&self, from: usize) -> usize {
        let mut at = from / 64;
        let Some(word) = self.words.get(at) else {
            return from;
        };
        let mut word = !word & (u64::MAX << (from % 64));
        while word == 0 {
            at += 1;
            match self.words.get(at) {
                Some(next) => word = !next,
                None => return at * 64,
            }
        }
        at * 64 + word.trailing_zeros() as usize
    }

    /// Number of places at or after `from` that are there and not in `other`.
    pub(in super::super) fn count_without(&self, other: &Self, from: usize) -> u64 {
        let words = self.words.iter().enumerate().skip(from / 64);
        words
            .map(|(at, word)| {
                let mask = if at == from / 64 {
                    u64::MAX << (from % 64)
                } else {
                    u64::MAX
                };
                let other = other.words.get(at).copied().unwrap_or(0);
                u64::from((word & mask & !other).count_ones())
            })
            .sum()
    }

    /// Number of places at or after `from` that are there.
    pub(in super::super) fn count_from(&self, from: usize) -> u64 {
        self.count_without(&Self::default(), from)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    const LEN: usize = 300;

    proptest! {
        #[test]
        fn agrees_with_a_plain_set(
            ones in prop::collection::vec(0..LEN, 0..40),
            spans in prop::collection::vec((0..LEN, 0..LEN), 0..3),
            others in prop::collection::vec(0..LEN, 0..40),
            from in 0..LEN,
        ) {
            let (mut bits, mut model) = (Bits::default(), BTreeSet::new());
            for one in ones {
                prop_assert_eq!(bits.insert(one, LEN), model.insert(one));
            }
            for (a, b) in spans {
                bits.insert_range(a.min(b), a.max(b), LEN);
                model.extend(a.min(b)..a.max(b));
            }
            let mut other = Bits::default();
            others.iter().for_each(|at| { other.insert(*at, LEN); });
            prop_assert_eq!(bits.count_from(0), model.len() as u64);
            prop_assert_eq!(bits.next(from), model.range(from..).next().copied());
            let missing = (from..).find(|at| !model.contains(at)).unwrap();
            let found = bits.next_missing(from);
            prop_assert!(found == missing || (found >= LEN && missing >= LEN));
            let expected = model.range(from..).filter(|at| !others.contains(at)).count() as u64;
            prop_assert_eq!(bits.count_without(&other, from), expected);
            for at in 0..LEN {
                prop_assert_eq!(bits.contains(at), model.contains(&at));
            }
        }
    }
}
