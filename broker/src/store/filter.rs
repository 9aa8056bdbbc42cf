//! Which subjects a reader wants, with a memory of earlier answers.

use std::cell::RefCell;

use super::sealed::Bits;
use crate::types::StreamId;

/// Answers that a filter remembers at most.
const KNOWN_MAX: usize = 4096;

/// Subjects of one stream that a reader wants: all, or those that match one of some patterns. Belongs to one reader of
/// one stream; remembers per subject whether it matched.
#[derive(Clone, Debug, Default)]
pub struct SubjectFilter {
    patterns: Vec<Box<str>>,
    /// What all subjects that are wanted begin with.
    prefix: Box<str>,
    cache: RefCell<MatchCache>,
    /// Number of the index of the sealed segment asked last, and the places of the records there that are wanted.
    places: RefCell<Option<(u64, Bits)>>,
}

#[derive(Clone, Debug, Default)]
struct MatchCache {
    stream: StreamId,
    /// By the low bits of the subject's index: that index, and twice the slot's generation, plus one if it matches.
    /// 0: not asked yet.
    known: Vec<(u32, u32)>,
}

impl SubjectFilter {
    /// Every subject.
    #[must_use]
    pub fn all() -> Self {
        Self::default()
    }

    /// Subjects that match at least one of `patterns`, which are valid subjects with or without wildcards.
    /// No pattern at all, or `>` among them, means every subject.
    #[must_use]
    pub fn new<P: AsRef<str>>(patterns: &[P]) -> Self {
        if patterns.iter().any(|pattern| pattern.as_ref() == ">") {
            return Self::all();
        }
        let patterns: Vec<Box<str>> = patterns.iter().map(|pattern| pattern.as_ref().into()).collect();
        Self {
            prefix: common_prefix(&patterns),
            patterns,
            ..Self::default()
        }
    }

    /// Whether every subject is wanted.
    #[must_use]
    pub fn is_all(&self) -> bool {
        self.patterns.is_empty()
    }

    /// The patterns; empty for all.
    pub fn patterns(&self) -> impl Iterator<Item = &str> {
        self.patterns.iter().map(AsRef::as_ref)
    }

    /// Whether `subject` is wanted.
    #[must_use]
    pub fn matches(&self, subject: &str) -> bool {
        self.is_all()
            || self
                .patterns
                .iter()
                .any(|pattern| pattern_matches(pattern, subject))
    }

    /// The subjects wanted, if each pattern is literal.
    pub(super) fn literals(&self) -> Option<impl Iterator<Item = &str>> {
        if self.is_all() || self.patterns.iter().any(|pattern| has_wildcard(pattern)) {
            return None;
        }
        Some(self.patterns())
    }

    /// Whether the subject in slot `index` of `stream` is wanted. `generation` (1 or more) tells uses of a slot apart.
    pub(super) fn matches_cached(
        &self,
        stream: StreamId,
        index: u32,
        generation: u32,
        subject: &str,
    ) -> bool {
        if self.is_all() {
            return true;
        }
        let mut cache = self.cache.borrow_mut();
        if cache.stream != stream {
            *cache = MatchCache {
                stream,
                known: Vec::new(),
            };
        }
        if cache.known.len() <= index as usize && cache.known.len() < KNOWN_MAX {
            let len = (index as usize + 1).next_power_of_two().clamp(16, KNOWN_MAX);
            cache.known = vec![(0, 0); len];
        }
        let place = index as usize & (cache.known.len() - 1);
        let (of, known) = cache.known[place];
        if of == index && known >> 1 == generation {
            return known & 1 == 1;
        }
        let wanted = self
            .patterns
            .iter()
            .any(|pattern| pattern_matches(pattern, subject));
        cache.known[place] = (index, generation << 1 | u32::from(wanted));
        wanted
    }

    /// What all subjects that are wanted begin with; may be empty.
    pub(super) fn prefix(&self) -> &str {
        &self.prefix
    }

    /// Whether the places wanted in the sealed segment with this index are known.
    pub(super) fn has_places(&self, index: u64) -> bool {
        self.places
            .borrow()
            .as_ref()
            .is_some_and(|known| known.0 == index)
    }

    /// Calls `ask` with the places wanted in the sealed segment with this index, found by `find` if they are not known.
    pub(super) fn with_places<T>(
        &self,
        index: u64,
        find: impl FnOnce() -> Bits,
        ask: impl FnOnce(&Bits) -> T,
    ) -> T {
        let mut known = self.places.borrow_mut();
        if known.as_ref().is_none_or(|known| known.0 != index) {
            *known = Some((index, find()));
        }
        let none = Bits::default();
        ask(known.as_ref().map_or(&none, |known| &known.1))
    }
}

/// What every subject begins with that matches one of `patterns`.
fn common_prefix(patterns: &[Box<str>]) -> Box<str> {
    let mut prefixes = patterns.iter().map(|pattern| {
        let literal = pattern
            .split('.')
            .take_while(|token| *token != "*" && *token != ">");
        let len: usize = literal.map(|token| token.len() + 1).sum();
        &pattern[..len.min(pattern.len())]
    });
    let first = prefixes.next().unwrap_or_default();
    prefixes
        .fold(first, |common, other| {
            let shared = common
                .bytes()
                .zip(other.bytes())
                .take_while(|(a, b)| a == b)
                .count();
            let at = (0..=shared).rev().find(|at| common.is_char_boundary(*at));
            &common[..at.unwrap_or(0)]
        })
        .into()
}

fn has_wildcard(pattern: &str) -> bool {
    pattern.split('.').any(|token| token == "*" || token == ">")
}

/// Whether `subject` (literal) matches `pattern`: `*` stands for one token, a last `>` for one or more.
fn pattern_matches(pattern: &str, subject: &str) -> bool {
    let mut subject_tokens = subject.split('.');
    let mut pattern_tokens = pattern.split('.').peekable();
    while let Some(wanted) = pattern_tokens.next() {
        let Some(token) = subject_tokens.next() else {
            return false;
        };
        if wanted == ">" && pattern_tokens.peek().is_none() {
            return true;
        }
        if wanted != "*" && wanted != token {
            return false;
        }
    }
    subject_tokens.next().is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_as_nats_says() {
        for (pattern, subject, expected) in [
            ("a", "a", true),
            ("a", "b", false),
            ("a", "a.b", false),
            ("a.b", "a", false),
            ("*", "a", true),
            ("*", "a.b", false),
            ("a.*", "a.b", true),
            ("a.*.c", "a.b.c", true),
            ("a.*.c", "a.b.d", false),
            ("a.>", "a.b.c", true),
            ("a.>", "a", false),
            (">", "a", true),
            ("a.>.b", "a.>.b", true),
            ("a.>.b", "a.c.b", false),
        ] {
            assert_eq!(
                pattern_matches(pattern, subject),
                expected,
                "{pattern} on {subject}"
            );
        }
    }

    #[test]
    fn cache_forgets_reused_slots_and_other_streams() {
        let filter = SubjectFilter::new(&["a.*"]);
        assert!(filter.matches_cached(StreamId(1), 3, 1, "a.b"));
        assert!(!filter.matches_cached(StreamId(1), 3, 2, "b.b"));
        assert!(filter.matches_cached(StreamId(2), 3, 2, "a.b"));
    }

    #[test]
    fn wanted_subjects_begin_with_the_prefix() {
        for (patterns, expected) in [
            (&["a.b.*"][..], "a.b."),
            (&["a.b"], "a.b"),
            (&["*.b"], ""),
            (&["a.>"], "a."),
            (&["ab.*", "ac.d"], "a"),
            (&["ä.*", "å.*"], ""),
            (&["a.*", "b"], ""),
        ] {
            assert_eq!(SubjectFilter::new(patterns).prefix(), expected, "{patterns:?}");
        }
    }

    #[test]
    fn any_full_wildcard_means_all() {
        assert!(SubjectFilter::new(&["a", ">"]).is_all());
        assert!(SubjectFilter::new::<&str>(&[]).is_all());
        assert!(SubjectFilter::new(&["a.*", "b"]).literals().is_none());
        assert_eq!(SubjectFilter::new(&["a", "b"]).literals().unwrap().count(), 2);
    }
}
