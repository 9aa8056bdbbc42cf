//! What a consumer must not forget over a restart, as bytes.
//!
//! Layout (`FORMAT.md` has the frame around it): a version byte, then unsigned LEB128 integers:
//! next stream sequence, next consumer sequence, resume sequence, number of skip-list entries and
//! each as the difference to the one before, number of runs of pending messages and for each run
//! the differences of its first stream and consumer sequence to the last of the run before, the
//! deliveries of each of its messages, their number, and, if that is more than one, the distance of
//! their stream sequences; their consumer sequences have the distance one. So a consumer with a
//! million messages on their way costs some bytes and not megabytes each time it is written.
//!
//! Version 1 had for each message the two differences and the deliveries. It is still read.

use thiserror::Error;

use super::PENDING_MAX;
use crate::leb128::{Leb128Error, put, take};

const VERSION: u8 = 2;
const VERSION_WITHOUT_RUNS: u8 = 1;

/// The durable part of a consumer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ConsumerState {
    /// The first stream sequence that was not looked at yet.
    pub(crate) next_stream_seq: u64,
    /// The number of the next delivery, from 1.
    pub(crate) next_consumer_seq: u64,
    /// Deliver policies `last` and `last_per_subject`: sequences still to deliver, rising.
    pub(crate) skip_list: Vec<u64>,
    /// Deliver policies `last` and `last_per_subject`: where to go on when the skip list is through, or where the stream
    /// ended if nothing was found. After a reset: where that led. 0: the consumer starts with the records that its policy names.
    pub(crate) resume_seq: u64,
    /// Delivered and not acknowledged, rising in both sequences.
    pub(crate) pending: Vec<PendingState>,
}

/// The durable part of a pending message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PendingState {
    pub(crate) stream_seq: u64,
    pub(crate) consumer_seq: u64,
    pub(crate) deliveries: u64,
}

/// Bytes that are not the state of a consumer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub(crate) enum StateError {
    #[error("consumer state has version {0}, this server knows {VERSION}")]
    Version(u8),
    #[error("consumer state is cut off")]
    Truncated,
    #[error("consumer state is not in order")]
    Malformed,
}

impl From<Leb128Error> for StateError {
    fn from(err: Leb128Error) -> Self {
        match err {
            Leb128Error::Short => Self::Truncated,
            Leb128Error::Malformed => Self::Malformed,
        }
    }
}

impl ConsumerState {
    /// Appends the state to `out`.
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        out.push(VERSION);
        put(out, self.next_stream_seq);
        put(out, self.next_consumer_seq);
        put(out, self.resume_seq);
        put(out, self.skip_list.len() as u64);
        let mut last = 0;
        for seq in &self.skip_list {
            put(out, seq - last);
            last = *seq;
        }
        let runs: Vec<Run> = runs(&self.pending).collect();
        put(out, runs.len() as u64);
        let (mut last_stream, mut last_consumer) = (0, 0);
        for run in runs {
            put(out, run.first.stream_seq - last_stream);
            put(out, run.first.consumer_seq - last_consumer);
            put(out, run.first.deliveries);
            put(out, run.count);
            if run.count > 1 {
                put(out, run.stride);
            }
            last_stream = run.first.stream_seq + run.stride * (run.count - 1);
            last_consumer = run.first.consumer_seq + (run.count - 1);
        }
    }

    /// Reads a state back.
    ///
    /// # Errors
    /// If the bytes are of another version, end early, go on too long or are not in order.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, StateError> {
        let (&version, mut rest) = bytes.split_first().ok_or(StateError::Truncated)?;
        if ![VERSION, VERSION_WITHOUT_RUNS].contains(&version) {
            return Err(StateError::Version(version));
        }
        let rest = &mut rest;
        let mut state = Self {
            next_stream_seq: take(rest)?,
            next_consumer_seq: take(rest)?,
            resume_seq: take(rest)?,
            ..Self::default()
        };
        let mut last = 0;
        for _ in 0..take(rest)? {
            last = rising(last, take(rest)?)?;
            state.skip_list.push(last);
        }
        let (mut stream_seq, mut consumer_seq) = (0, 0);
        for _ in 0..take(rest)? {
            stream_seq = rising(stream_seq, take(rest)?)?;
            consumer_seq = rising(consumer_seq, take(rest)?)?;
            let deliveries = take(rest)?;
            let count = if version == VERSION { take(rest)? } else { 1 };
            let stride = if count > 1 { take(rest)? } else { 0 };
            if count == 0 || count > (PENDING_MAX - state.pending.len()) as u64 {
                return Err(StateError::Malformed);
            }
            for at in 0..count {
                if at > 0 {
                    stream_seq = rising(stream_seq, stride)?;
                    consumer_seq = rising(consumer_seq, 1)?;
                }
                state.pending.push(PendingState {
                    stream_seq,
                    consumer_seq,
                    deliveries,
                });
            }
        }
        let delivered_below = |entry: &PendingState| {
            entry.stream_seq < state.next_stream_seq
                && entry.consumer_seq < state.next_consumer_seq
                && entry.deliveries > 0
        };
        if rest.is_empty() && state.pending.iter().all(delivered_below) {
            Ok(state)
        } else {
            Err(StateError::Malformed)
        }
    }
}

/// Pending messages at equal distances that were delivered one after the other.
#[derive(Clone, Copy, Debug)]
struct Run {
    first: PendingState,
    count: u64,
    /// Distance of the stream sequences. 0 if there is but one.
    stride: u64,
}

/// The longest runs that `pending` consists of, taken from the front.
fn runs(pending: &[PendingState]) -> impl Iterator<Item = Run> {
    let mut rest = pending;
    std::iter::from_fn(move || {
        let (first, after) = rest.split_first()?;
        let stride = after.first().map_or(0, |next| next.stream_seq - first.stream_seq);
        let goes_on = |(at, entry): &(u64, &PendingState)| {
            entry.stream_seq - first.stream_seq == stride * at
                && entry.consumer_seq - first.consumer_seq == *at
                && entry.deliveries == first.deliveries
        };
        let count = 1 + (1..).zip(after).take_while(goes_on).count();
        rest = &rest[count..];
        Some(Run {
            first: *first,
            count: count as u64,
            stride: if count > 1 { stride } else { 0 },
        })
    })
}

fn rising(last: u64, step: u64) -> Result<u64, StateError> {
    if step == 0 {
        return Err(StateError::Malformed);
    }
    last.checked_add(step).ok_or(StateError::Malformed)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn state() -> impl Strategy<Value = ConsumerState> {
        let steps = prop_oneof![
            proptest::collection::vec((1_u64..1 << 40, 1_u64..9, 1_u64..300), 0..50),
            // Runs, and what breaks them.
            proptest::collection::vec((1_u64..3, 1_u64..3, 1_u64..3), 0..50),
        ];
        let skips = proptest::collection::vec(1_u64..1 << 20, 0..50);
        (steps, skips, 0_u64..1 << 40, any::<u64>()).prop_map(|(steps, skips, ahead, resume_seq)| {
            let mut state = ConsumerState {
                resume_seq,
                ..ConsumerState::default()
            };
            let (mut stream_seq, mut consumer_seq) = (0, 0);
            for (stream_step, consumer_step, deliveries) in steps {
                stream_seq += stream_step;
                consumer_seq += consumer_step;
                state.pending.push(PendingState {
                    stream_seq,
                    consumer_seq,
                    deliveries,
                });
            }
            state.next_stream_seq = stream_seq + 1 + ahead;
            state.next_consumer_seq = consumer_seq + 1 + ahead;
            let mut last = 0;
            for step in skips {
                last += step;
                state.skip_list.push(last);
            }
            state
        })
    }

    proptest! {
        #[test]
        fn every_state_survives(state in state()) {
            let mut bytes = Vec::new();
            state.encode(&mut bytes);
            prop_assert_eq!(ConsumerState::decode(&bytes), Ok(state));
        }

        #[test]
        fn no_prefix_is_taken_for_the_whole(state in state(), cut in any::<prop::sample::Index>()) {
            let mut bytes = Vec::new();
            state.encode(&mut bytes);
            bytes.truncate(cut.index(bytes.len()));
            prop_assert!(ConsumerState::decode(&bytes).is_err());
        }

        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            ConsumerState::decode(&bytes).ok();
        }
    }

    #[test]
    fn the_bytes_are_these() {
        let state = ConsumerState {
            next_stream_seq: 300,
            next_consumer_seq: 5,
            skip_list: vec![],
            resume_seq: 0,
            pending: vec![PendingState {
                stream_seq: 299,
                consumer_seq: 4,
                deliveries: 2,
            }],
        };
        let mut bytes = Vec::new();
        state.encode(&mut bytes);
        assert_eq!(bytes, [2, 0xac, 2, 5, 0, 0, 1, 0xab, 2, 4, 2, 1]);
        let of_version_1 = [1, 0xac, 2, 5, 0, 0, 1, 0xab, 2, 4, 2];
        assert_eq!(ConsumerState::decode(&of_version_1), Ok(state));
    }

    #[test]
    fn a_million_messages_on_their_way_are_a_few_bytes() {
        let entry = |at: u64| PendingState {
            stream_seq: 2 * at,
            consumer_seq: at,
            deliveries: if at == 500_000 { 2 } else { 1 },
        };
        let state = ConsumerState {
            next_stream_seq: 3_000_000,
            next_consumer_seq: 1_000_001,
            pending: (1..=1_000_000).map(entry).collect(),
            ..ConsumerState::default()
        };
        let mut bytes = Vec::new();
        state.encode(&mut bytes);
        assert!(bytes.len() < 50, "{} bytes", bytes.len());
        assert_eq!(ConsumerState::decode(&bytes), Ok(state));
    }

    #[test]
    fn no_number_takes_memory_without_end() {
        let mut bytes = vec![VERSION];
        for number in [u64::MAX, u64::MAX, 0, 0, 1, 1, 1, 1, u64::MAX >> 1, 1] {
            put(&mut bytes, number);
        }
        assert_eq!(ConsumerState::decode(&bytes), Err(StateError::Malformed));
    }
}
