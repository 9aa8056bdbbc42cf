//! Retained messages of this run, by topic, bounded by count and bytes.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::{Mutex, PoisonError};

use super::mapping::filter_matches;
use super::session::Retained;

/// The retained messages. Shared by all connections; the lock is held for one operation at a time.
#[derive(Debug)]
pub(super) struct RetainedMessages {
    count_max: usize,
    bytes_max: usize,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    by_topic: BTreeMap<String, Retained>,
    bytes: usize,
    refused: u64,
}

/// How full it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct RetainedLevel {
    pub(super) count: usize,
    pub(super) bytes: usize,
    pub(super) refused: u64,
}

impl RetainedMessages {
    pub(super) fn new(count_max: usize, bytes_max: usize) -> Self {
        Self {
            count_max,
            bytes_max,
            state: Mutex::default(),
        }
    }

    /// Keeps a message in place of the one before it; an empty payload ends that. What finds no room is not kept, and counted:
    /// the message before it goes even so, as it is no longer the last.
    pub(super) fn put(&self, message: Retained) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(before) = state.by_topic.remove(&message.topic) {
            state.bytes -= bytes(&before);
        }
        if message.payload.is_empty() {
            return;
        }
        if state.by_topic.len() >= self.count_max || state.bytes + bytes(&message) > self.bytes_max {
            state.refused += 1;
            return;
        }
        state.bytes += bytes(&message);
        state.by_topic.insert(message.topic.clone(), message);
    }

    /// The messages that match `filter`, in the order of their topics, from the first topic after `after`. Looks at no more
    /// than `limit` topics and returns where to go on, unless it came to the end.
    pub(super) fn page(&self, filter: &str, after: &str, limit: usize) -> (Vec<Retained>, Option<String>) {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        // Everything before the first wildcard is common to all topics that match, apart from the slash before `#`.
        let fixed = filter
            .split(['+', '#'])
            .next()
            .unwrap_or_default()
            .trim_end_matches('/');
        let start = if after.is_empty() {
            Bound::Included(fixed)
        } else {
            Bound::Excluded(after)
        };
        let mut found = Vec::new();
        let mut looked_at = 0;
        for (topic, message) in state.by_topic.range::<str, _>((start, Bound::Unbounded)) {
            if !topic.starts_with(fixed) {
                break;
            }
            if filter_matches(filter, topic) {
                found.push(message.clone());
            }
            looked_at += 1;
            if looked_at == limit {
                return (found, Some(topic.clone()));
            }
        }
        (found, None)
    }

    pub(super) fn level(&self) -> RetainedLevel {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        RetainedLevel {
            count: state.by_topic.len(),
            bytes: state.bytes,
            refused: state.refused,
        }
    }
}

fn bytes(message: &Retained) -> usize {
    message.topic.len() + message.payload.len()
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;

    use super::*;
    use crate::mqtt::packet::QoS;

    fn retained(topic: &str, payload: &'static str) -> Retained {
        Retained {
            topic: topic.into(),
            payload: Bytes::from_static(payload.as_bytes()),
            qos: QoS::AtMostOnce,
        }
    }

    fn all(messages: &RetainedMessages, filter: &str, limit: usize) -> Vec<String> {
        let (mut topics, mut after) = (Vec::new(), String::new());
        loop {
            let (found, next) = messages.page(filter, &after, limit);
            topics.extend(found.into_iter().map(|message| message.topic));
            match next {
                Some(next) => after = next,
                None => return topics,
            }
        }
    }

    #[test]
    fn the_last_message_stays_until_an_empty_one_comes() {
        let messages = RetainedMessages::new(2, 100);
        messages.put(retained("a", "1"));
        messages.put(retained("a", "22"));
        assert_eq!(messages.page("a", "", 9).0, [retained("a", "22")]);
        assert_eq!(
            messages.level(),
            RetainedLevel {
                count: 1,
                bytes: 3,
                refused: 0
            }
        );
        messages.put(retained("a", ""));
        assert_eq!(messages.level(), RetainedLevel::default());
    }

    #[test]
    fn what_finds_no_room_is_counted() {
        let messages = RetainedMessages::new(2, 10);
        for topic in ["a", "b", "c"] {
            messages.put(retained(topic, "x"));
        }
        messages.put(retained("a", "0123456789"));
        assert_eq!(
            messages.level(),
            RetainedLevel {
                count: 1,
                bytes: 2,
                refused: 2
            }
        );
        assert_eq!(all(&messages, "#", 9), ["b"]);
    }

    proptest! {
        #[test]
        fn pages_find_what_a_look_at_everything_finds(
            topics in proptest::collection::btree_set("[ab/]{1,6}", 0..30),
            filter in prop_oneof![
                Just("#".to_owned()), Just("a/#".into()), Just("a/+".into()), Just("+/b".into()), Just("a//#".into()),
                Just("/#".into()), "[ab/]{1,4}",
            ],
            limit in 1usize..5,
        ) {
            let messages = RetainedMessages::new(100, 10_000);
            topics.iter().for_each(|topic| messages.put(retained(topic, "x")));
            let expected: Vec<_> = topics.iter().filter(|topic| filter_matches(&filter, topic)).cloned().collect();
            prop_assert_eq!(all(&messages, &filter, limit), expected);
        }
    }
}
