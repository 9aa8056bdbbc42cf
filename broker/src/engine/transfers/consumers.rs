//! Consumers as an archive has them: configuration and state as nats-server writes them in JSON.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::archive::block::StoredState;
use crate::consumer::Consumer;
use crate::consumer::config::{ConsumerConfig, DeliverPolicy};
use crate::consumer::state::{ConsumerState, PendingState};
use crate::types::UnixNanos;

/// Source: nats-server, `SnapshotConsumerState`.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct ArchivedConsumer {
    pub(super) config: ConsumerConfig,
    state: ArchivedState,
}

/// Source: nats-server, `ConsumerState`. The last two fields are this server's own; others leave them out and ignore them.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct ArchivedState {
    delivered: Pair,
    ack_floor: Pair,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pending: BTreeMap<u64, ArchivedPending>,
    /// How often a message was delivered beyond the first time.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    redelivered: BTreeMap<u64, u64>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    skip_list: Vec<u64>,
    #[serde(skip_serializing_if = "crate::stream::config::is_zero_u64")]
    resume_seq: u64,
}

#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct Pair {
    consumer_seq: u64,
    stream_seq: u64,
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct ArchivedPending {
    #[serde(rename = "Sequence")]
    consumer_seq: u64,
    /// When it was delivered, in nanoseconds.
    #[serde(rename = "Timestamp", default)]
    time: i64,
}

impl ArchivedConsumer {
    /// A consumer as it is, but for what is behind `last_seq`.
    pub(super) fn of(consumer: &Consumer, last_seq: u64, now: UnixNanos) -> Self {
        let state = consumer.state();
        let pair = |at: crate::consumer::SeqPair| Pair {
            consumer_seq: at.consumer,
            stream_seq: at.stream.min(last_seq),
        };
        let pending = state.pending.iter().filter(|entry| entry.stream_seq <= last_seq);
        let redelivered = pending.clone().filter(|entry| entry.deliveries > 1);
        Self {
            config: ConsumerConfig::clone(&consumer.config),
            state: ArchivedState {
                delivered: pair(consumer.delivered()),
                ack_floor: pair(consumer.ack_floor()),
                redelivered: redelivered
                    .map(|entry| (entry.stream_seq, entry.deliveries - 1))
                    .collect(),
                pending: pending
                    .map(|entry| {
                        let delivered = ArchivedPending {
                            consumer_seq: entry.consumer_seq,
                            time: now.0,
                        };
                        (entry.stream_seq, delivered)
                    })
                    .collect(),
                skip_list: state.skip_list,
                resume_seq: state.resume_seq,
            },
        }
    }

    /// A consumer of which an older server has written the state.
    pub(super) fn of_stored(config: ConsumerConfig, state: StoredState) -> Self {
        let pair = |(consumer_seq, stream_seq)| Pair {
            consumer_seq,
            stream_seq,
        };
        let pending = state.pending.into_iter().map(|(stream_seq, consumer_seq)| {
            let delivered = ArchivedPending {
                consumer_seq,
                time: 0,
            };
            (stream_seq, delivered)
        });
        Self {
            config,
            state: ArchivedState {
                delivered: pair(state.delivered),
                ack_floor: pair(state.ack_floor),
                pending: pending.collect(),
                redelivered: state.redelivered.into_iter().collect(),
                ..ArchivedState::default()
            },
        }
    }

    /// The state as this server keeps it, for a stream that ends at `last_seq`. Sequences that other servers give anew when
    /// they deliver again are put in order: the message that comes first in the stream was delivered first.
    pub(super) fn state(&self, last_seq: u64) -> Result<ConsumerState, &'static str> {
        let ArchivedState {
            delivered,
            pending,
            redelivered,
            skip_list,
            resume_seq,
            ..
        } = &self.state;
        let next_stream_seq = delivered.stream_seq.min(last_seq) + 1;
        // It may start behind the stream's end.
        let next_stream_seq = match self.config.deliver_policy {
            DeliverPolicy::ByStartSequence => next_stream_seq.max(self.config.opt_start_seq),
            _ => next_stream_seq,
        };
        let next_consumer_seq = delivered
            .consumer_seq
            .checked_add(1)
            .ok_or("its number of deliveries is too large")?;
        let kept = || {
            pending
                .iter()
                .filter(|(seq, _)| **seq > 0 && **seq < next_stream_seq)
        };
        let numbers: BTreeSet<u64> = kept().map(|(_, entry)| entry.consumer_seq).collect();
        let is_sound = numbers.len() == kept().count()
            && !numbers.contains(&0)
            && numbers.last().is_none_or(|last| *last < next_consumer_seq);
        if !is_sound {
            return Err("its pending messages contradict what it has delivered");
        }
        let is_rising = skip_list.windows(2).all(|pair| pair[0] < pair[1]) && skip_list.first() != Some(&0);
        if !is_rising {
            return Err("its list of messages to deliver is not in order");
        }
        let pending = kept().zip(numbers).map(|((seq, _), consumer_seq)| PendingState {
            stream_seq: *seq,
            consumer_seq,
            deliveries: redelivered.get(seq).map_or(1, |count| count.saturating_add(1)),
        });
        Ok(ConsumerState {
            next_stream_seq,
            next_consumer_seq,
            pending: pending.collect(),
            skip_list: skip_list.clone(),
            resume_seq: (*resume_seq).min(last_seq + 1),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(json: &str, last_seq: u64) -> Result<ConsumerState, &'static str> {
        let text = format!("{{\"config\":{{}},\"state\":{json}}}");
        serde_json::from_str::<ArchivedConsumer>(&text)
            .unwrap()
            .state(last_seq)
    }

    #[test]
    fn what_nats_server_wrote_is_understood() {
        // 3 was delivered again, as number 9.
        let json = r#"{"delivered":{"consumer_seq":9,"stream_seq":8},"ack_floor":{"consumer_seq":2,"stream_seq":2},
            "pending":{"3":{"Sequence":9,"Timestamp":1},"5":{"Sequence":5,"Timestamp":1}},"redelivered":{"3":1}}"#;
        let pending = |stream_seq, consumer_seq, deliveries| PendingState {
            stream_seq,
            consumer_seq,
            deliveries,
        };
        let expected = ConsumerState {
            next_stream_seq: 9,
            next_consumer_seq: 10,
            pending: vec![pending(3, 5, 2), pending(5, 9, 1)],
            ..ConsumerState::default()
        };
        assert_eq!(state(json, 100), Ok(expected));
        // The stream ends before what was delivered last.
        let cut = state(json, 4).unwrap();
        assert_eq!((cut.next_stream_seq, cut.pending.len()), (5, 1));
    }

    #[test]
    fn what_cannot_be_is_refused() {
        for json in [
            r#"{"delivered":{"consumer_seq":18446744073709551615,"stream_seq":1}}"#,
            r#"{"delivered":{"consumer_seq":1,"stream_seq":3},"pending":{"3":{"Sequence":2}}}"#,
            r#"{"delivered":{"consumer_seq":3,"stream_seq":3},"pending":{"3":{"Sequence":2},"2":{"Sequence":2}}}"#,
            r#"{"delivered":{"consumer_seq":3,"stream_seq":3},"pending":{"3":{"Sequence":0}}}"#,
            r#"{"delivered":{"consumer_seq":3,"stream_seq":3},"skip_list":[4,4]}"#,
        ] {
            assert!(state(json, 100).is_err(), "{json}");
        }
    }
}
