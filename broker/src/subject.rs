//! Subjects, wildcards and the subscription index. Source: NATS client protocol, "Subject-based messaging".
//!
//! A subject is a row of non-empty tokens joined by `.`, without white space. In a *filter* a token `*` stands for
//! exactly one token, and a last token `>` for one or more. In a *literal* subject neither may appear.

pub mod transform;

use std::collections::HashMap;

/// Whether `subject` can be subscribed to: a literal subject or a filter.
pub fn is_valid_filter(subject: &str) -> bool {
    let mut ended = false;
    for token in subject.split('.') {
        if ended || !is_valid_token(token) {
            return false;
        }
        ended = token == ">";
    }
    true
}

/// Whether `subject` is valid and names exactly one subject, so that it can be published to.
pub fn is_valid_literal(subject: &str) -> bool {
    subject
        .split('.')
        .all(|token| is_valid_token(token) && !is_wildcard(token))
}

/// Whether no token of `subject` is a wildcard. Says nothing about its validity.
pub fn is_literal(subject: &str) -> bool {
    !subject.split('.').any(is_wildcard)
}

/// Whether `filter` covers the literal `subject`. Both must be valid.
pub fn matches(filter: &str, subject: &str) -> bool {
    let mut tokens = subject.split('.');
    for expected in filter.split('.') {
        match (expected, tokens.next()) {
            (_, None) => return false,
            (">", Some(_)) => return true,
            ("*", Some(_)) => {}
            (literal, Some(token)) => {
                if literal != token {
                    return false;
                }
            }
        }
    }
    tokens.next().is_none()
}

/// Whether some literal subject matches both filters. Streams must not overlap in their subjects.
pub fn overlaps(one: &str, other: &str) -> bool {
    let (mut ones, mut others) = (one.split('.'), other.split('.'));
    loop {
        match (ones.next(), others.next()) {
            (None, None) => return true,
            (None, Some(_)) | (Some(_), None) => return false,
            (Some(">"), Some(_)) | (Some(_), Some(">")) => return true,
            (Some("*"), Some(_)) | (Some(_), Some("*")) => {}
            (Some(a), Some(b)) => {
                if a != b {
                    return false;
                }
            }
        }
    }
}

/// Whether every literal subject that matches `inner` matches `outer` too.
pub fn is_subset(inner: &str, outer: &str) -> bool {
    let (mut inners, mut outers) = (inner.split('.'), outer.split('.'));
    loop {
        match (inners.next(), outers.next()) {
            (None, None) | (Some(_), Some(">")) => return true,
            (None, Some(_)) | (Some(_), None) | (Some(">"), Some(_)) => return false,
            (Some(_), Some("*")) => {}
            (Some(a), Some(b)) => {
                if a != b {
                    return false;
                }
            }
        }
    }
}

/// Whether `token` can stand in a literal subject.
pub(crate) fn is_literal_token(token: &str) -> bool {
    is_valid_token(token) && !is_wildcard(token)
}

fn is_valid_token(token: &str) -> bool {
    !token.is_empty()
        && !token
            .bytes()
            .any(|byte| matches!(byte, b' ' | b'\t' | b'\n' | b'\r' | 0x0c))
}

fn is_wildcard(token: &str) -> bool {
    token == "*" || token == ">"
}

/// Values by filter, found by literal subject: a tree of tokens, kept in one arena so that neither matching nor dropping
/// recurses, however many tokens a peer sends.
#[derive(Debug)]
pub struct SubIndex<T> {
    nodes: Vec<Node<T>>,
    free: Vec<usize>,
    len: usize,
}

const ROOT: usize = 0;

#[derive(Debug)]
struct Node<T> {
    parent: usize,
    literals: HashMap<Box<str>, usize>,
    star: Option<usize>,
    /// Values whose filter ends at this node.
    here: Vec<T>,
    /// Values whose filter ends with `>` below this node.
    rest: Vec<T>,
}

impl<T> Node<T> {
    fn new(parent: usize) -> Self {
        Self {
            parent,
            literals: HashMap::new(),
            star: None,
            here: Vec::new(),
            rest: Vec::new(),
        }
    }

    fn is_empty(&self) -> bool {
        self.literals.is_empty() && self.star.is_none() && self.here.is_empty() && self.rest.is_empty()
    }
}

impl<T> Default for SubIndex<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> SubIndex<T> {
    /// An empty index.
    pub fn new() -> Self {
        Self {
            nodes: vec![Node::new(ROOT)],
            free: Vec::new(),
            len: 0,
        }
    }

    /// How many values the index holds.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether the index holds no value.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Adds `value` under `filter`, which must be valid. The same filter may hold many values.
    pub fn insert(&mut self, filter: &str, value: T) {
        let mut at = ROOT;
        self.len += 1;
        for token in filter.split('.') {
            if token == ">" {
                self.nodes[at].rest.push(value);
                return;
            }
            at = self.child_or_new(at, token);
        }
        self.nodes[at].here.push(value);
    }

    /// Takes the first value under exactly `filter` that `wanted` says yes to.
    pub fn remove(&mut self, filter: &str, wanted: impl FnMut(&T) -> bool) -> Option<T> {
        let mut at = ROOT;
        let mut rest = false;
        for token in filter.split('.') {
            if token == ">" {
                rest = true;
                break;
            }
            at = self.child(at, token)?;
        }
        let values = if rest {
            &mut self.nodes[at].rest
        } else {
            &mut self.nodes[at].here
        };
        let index = values.iter().position(wanted)?;
        let value = values.remove(index);
        self.len -= 1;
        self.prune(at, filter);
        Some(value)
    }

    /// Calls `visit` with each value whose filter covers the literal `subject`.
    /// Returns whether the outcome is the same for every other last token, which lets a caller remember it for a whole
    /// prefix such as a request mux's inbox.
    pub fn visit<'a>(&'a self, subject: &str, mut visit: impl FnMut(&'a T)) -> bool {
        let mut level: Vec<usize> = vec![ROOT];
        let mut next: Vec<usize> = Vec::new();
        let mut tokens = subject.split('.').peekable();
        let mut any_last_token = true;
        while let Some(token) = tokens.next() {
            let last = tokens.peek().is_none();
            for &at in &level {
                let node = &self.nodes[at];
                node.rest.iter().for_each(&mut visit);
                if !node.literals.is_empty() {
                    any_last_token &= !last;
                    next.extend(node.literals.get(token));
                }
                next.extend(node.star);
            }
            std::mem::swap(&mut level, &mut next);
            next.clear();
            if level.is_empty() {
                return any_last_token;
            }
        }
        for &at in &level {
            self.nodes[at].here.iter().for_each(&mut visit);
        }
        any_last_token
    }

    /// Whether any value's filter covers the literal `subject`.
    pub fn has_match(&self, subject: &str) -> bool {
        let mut found = false;
        self.visit(subject, |_| found = true);
        found
    }

    /// Each value, in no particular order.
    pub fn values(&self) -> impl Iterator<Item = &T> {
        self.nodes
            .iter()
            .flat_map(|node| node.here.iter().chain(&node.rest))
    }

    fn child(&self, at: usize, token: &str) -> Option<usize> {
        if token == "*" {
            self.nodes[at].star
        } else {
            self.nodes[at].literals.get(token).copied()
        }
    }

    fn child_or_new(&mut self, at: usize, token: &str) -> usize {
        if let Some(child) = self.child(at, token) {
            return child;
        }
        let child = match self.free.pop() {
            Some(index) => {
                self.nodes[index].parent = at;
                index
            }
            None => {
                self.nodes.push(Node::new(at));
                self.nodes.len() - 1
            }
        };
        if token == "*" {
            self.nodes[at].star = Some(child);
        } else {
            self.nodes[at].literals.insert(token.into(), child);
        }
        child
    }

    /// Gives back the nodes on the way up from `at` that hold nothing any more. `filter` is the one that led to `at`.
    fn prune(&mut self, mut at: usize, filter: &str) {
        let path = filter.strip_suffix(".>").unwrap_or(filter);
        for token in path.rsplit('.') {
            if at == ROOT || !self.nodes[at].is_empty() {
                return;
            }
            let parent = self.nodes[at].parent;
            if token == "*" {
                self.nodes[parent].star = None;
            } else {
                self.nodes[parent].literals.remove(token);
            }
            self.nodes[at] = Node::new(ROOT);
            self.free.push(at);
            at = parent;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn validity() {
        for good in ["a", "a.b", "$JS.API.INFO", "é.b", "a*.b", "a.>b"] {
            assert!(is_valid_literal(good) && is_valid_filter(good), "{good}");
        }
        for filter in ["*", ">", "a.*", "a.*.b", "a.>", "*.>"] {
            assert!(
                is_valid_filter(filter) && !is_valid_literal(filter) && !is_literal(filter),
                "{filter}"
            );
        }
        for bad in ["", ".", "a.", ".a", "a..b", "a b", "a.\t", ">.a", "a.>.b"] {
            assert!(!is_valid_filter(bad), "{bad}");
        }
    }

    #[test]
    fn a_full_wildcard_needs_a_token() {
        assert!(!matches("a.>", "a"));
        assert!(matches("a.>", "a.b.c"));
        assert!(!overlaps("a.>", "a"));
        assert!(!is_subset("a.>", "a.*"));
        assert!(is_subset("a.*", "a.>"));
    }

    #[test]
    fn emptied_index_gives_its_nodes_back() {
        let mut index = SubIndex::new();
        for filter in ["a.b.c", "a.*.>", ">", "*", "a.b"] {
            index.insert(filter, filter);
        }
        for filter in ["a.b", ">", "a.*.>", "*", "a.b.c"] {
            assert_eq!(index.remove(filter, |_| true), Some(filter));
        }
        assert!(index.is_empty());
        assert_eq!(index.free.len() + 1, index.nodes.len());
        assert!(index.nodes[ROOT].is_empty());
    }

    #[test]
    fn thousands_of_tokens_do_not_overflow_the_stack() {
        let deep = vec!["t"; 100_000].join(".");
        let mut index = SubIndex::new();
        index.insert(&deep, 1);
        assert!(index.has_match(&deep));
        drop(index);
    }

    fn token() -> impl Strategy<Value = &'static str> {
        prop::sample::select(vec!["a", "b", "c"])
    }

    fn subject() -> impl Strategy<Value = String> {
        prop::collection::vec(token(), 1..5).prop_map(|tokens| tokens.join("."))
    }

    fn filter() -> impl Strategy<Value = String> {
        let token = prop_oneof![3 => token(), 1 => Just("*")];
        (prop::collection::vec(token, 0..4), prop::bool::ANY).prop_filter_map(
            "empty",
            |(mut tokens, full)| {
                if full {
                    tokens.push(">");
                }
                (!tokens.is_empty()).then(|| tokens.join("."))
            },
        )
    }

    proptest! {
        #[test]
        fn index_finds_what_a_naive_matcher_finds(
            steps in prop::collection::vec((filter(), prop::bool::weighted(0.3)), 0..40),
            subjects in prop::collection::vec(subject(), 1..10),
        ) {
            let mut index = SubIndex::new();
            let mut naive: Vec<(String, usize)> = Vec::new();
            for (number, (filter, remove)) in steps.into_iter().enumerate() {
                if remove {
                    let expected = naive.iter().position(|(held, _)| *held == filter).map(|at| naive.remove(at).1);
                    prop_assert_eq!(index.remove(&filter, |_| true), expected);
                } else {
                    index.insert(&filter, number);
                    naive.push((filter, number));
                }
                prop_assert_eq!(index.len(), naive.len());
            }
            for subject in subjects {
                let mut found = Vec::new();
                let any_last_token = index.visit(&subject, |value| found.push(*value));
                found.sort_unstable();
                let mut expected: Vec<usize> =
                    naive.iter().filter(|(filter, _)| matches(filter, &subject)).map(|(_, number)| *number).collect();
                expected.sort_unstable();
                prop_assert_eq!(&found, &expected);
                if any_last_token {
                    let prefix = subject.rsplit_once('.').map_or("", |(prefix, _)| prefix);
                    let other = if prefix.is_empty() { "zz".to_owned() } else { format!("{prefix}.zz") };
                    let mut same = Vec::new();
                    index.visit(&other, |value| same.push(*value));
                    same.sort_unstable();
                    prop_assert_eq!(&same, &found);
                }
            }
        }

        #[test]
        fn overlap_and_subset_agree_with_matching(one in filter(), other in filter(), subject in subject()) {
            let (a, b) = (matches(&one, &subject), matches(&other, &subject));
            prop_assert!(!(a && b) || overlaps(&one, &other));
            prop_assert!(!(a && is_subset(&one, &other)) || b);
            prop_assert_eq!(overlaps(&one, &other), overlaps(&other, &one));
        }

        #[test]
        fn overlap_and_subset_are_witnessed(one in filter(), other in filter()) {
            // All subjects over the alphabet plus one token that no filter names, up to five tokens.
            let mut all = vec![String::new()];
            let mut level = vec![String::new()];
            for _ in 0..5 {
                level = level.iter().flat_map(|prefix| ["a", "b", "c", "z"].map(|token| {
                    if prefix.is_empty() { token.to_owned() } else { format!("{prefix}.{token}") }
                })).collect();
                all.extend(level.iter().cloned());
            }
            all.remove(0);
            let both = all.iter().any(|subject| matches(&one, subject) && matches(&other, subject));
            let subset = all.iter().all(|subject| !matches(&one, subject) || matches(&other, subject));
            prop_assert_eq!(overlaps(&one, &other), both);
            prop_assert_eq!(is_subset(&one, &other), subset);
        }
    }
}
