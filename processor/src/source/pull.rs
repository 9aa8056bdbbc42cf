//! The bookkeeping of a session, without IO: which pulls are outstanding, and whether deliveries follow each other.

use std::collections::VecDeque;

use tarn_schemas::UnixMicros;

use crate::watermark::StreamSeq;

/// Messages of one pull.
pub(super) const PULL_MESSAGES: usize = 5_000;

/// The pulls that the server still answers, oldest first: it serves them in that order.
#[derive(Debug, Default)]
pub(super) struct Pulls {
    outstanding: VecDeque<Pull>,
    last_id: u64,
}

#[derive(Debug)]
struct Pull {
    id: u64,
    left: usize,
    delivered: bool,
}

impl Pulls {
    /// The number of the pull to send now; `None` while enough is outstanding.
    pub(super) fn next(&mut self) -> Option<u64> {
        let left: usize = self.outstanding.iter().map(|pull| pull.left).sum();
        if left > PULL_MESSAGES / 2 {
            return None;
        }
        self.last_id += 1;
        self.outstanding.push_back(Pull {
            id: self.last_id,
            left: PULL_MESSAGES,
            delivered: false,
        });
        Some(self.last_id)
    }

    /// A message came.
    pub(super) fn delivered(&mut self) {
        if let Some(pull) = self.outstanding.front_mut() {
            pull.delivered = true;
            pull.left -= 1;
            if pull.left == 0 {
                self.outstanding.pop_front();
            }
        }
    }

    /// The server said that the pull is over. Returns whether a message came for it.
    pub(super) fn ended(&mut self, id: u64) -> bool {
        let delivered = self
            .outstanding
            .iter()
            .any(|pull| pull.id == id && pull.delivered);
        self.outstanding.retain(|pull| pull.id != id);
        delivered
    }
}

/// What a message's reply subject says about its delivery.
/// Source: ADR-15, `$JS.ACK.[<domain>.<account>.]<stream>.<consumer>.<deliveries>.<stream seq>.<consumer seq>.<time>.<pending>[.<token>]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct DeliveryInfo {
    pub(super) stream_seq: StreamSeq,
    pub(super) consumer_seq: u64,
    pub(super) published: UnixMicros,
    pub(super) pending: u64,
}

impl DeliveryInfo {
    /// `None` where the subject isn't one of a delivery.
    pub(super) fn parse(reply: &str) -> Option<Self> {
        let rest = reply.strip_prefix("$JS.ACK.")?;
        let mut tokens = [""; 10];
        let mut count = 0;
        for (slot, token) in tokens.iter_mut().zip(rest.split('.')) {
            *slot = token;
            count += 1;
        }
        let numbers = match count {
            7 => tokens.get(3..7)?,
            9.. => tokens.get(5..9)?,
            _ => return None,
        };
        let [stream_seq, consumer_seq, nanos, pending] = numbers else {
            return None;
        };
        Some(Self {
            stream_seq: StreamSeq(stream_seq.parse().ok()?),
            consumer_seq: consumer_seq.parse().ok()?,
            published: UnixMicros(nanos.parse::<i64>().ok()?.div_euclid(1000)),
            pending: pending.parse().ok()?,
        })
    }
}

/// What a delivery is in the sequence of deliveries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Delivery {
    /// The next one. `missing` messages of the stream before it are gone from the stream.
    Next { missing: u64 },
    /// Came before.
    Again,
    /// Deliveries before this one did not arrive.
    Gap,
}

/// Watches that deliveries follow each other.
#[derive(Debug)]
pub(super) struct Tracker {
    consumer_seq: u64,
    stream_seq: StreamSeq,
    /// Whether messages between the start and the first delivery should have been there.
    start_is_known: bool,
}

impl Tracker {
    /// Of a new consumer that begins behind `behind`; `None` for a stream that was never read, whose beginning may be
    /// anywhere.
    pub(super) fn new(behind: Option<StreamSeq>) -> Self {
        Self {
            consumer_seq: 0,
            stream_seq: behind.unwrap_or_default(),
            start_is_known: behind.is_some(),
        }
    }

    /// The last delivery's consumer sequence.
    pub(super) fn consumer_seq(&self) -> u64 {
        self.consumer_seq
    }

    /// Takes note of a delivery.
    pub(super) fn accept(&mut self, info: &DeliveryInfo) -> Delivery {
        if info.consumer_seq != self.consumer_seq + 1 {
            return Delivery::Gap;
        }
        self.consumer_seq = info.consumer_seq;
        if info.stream_seq <= self.stream_seq {
            return Delivery::Again;
        }
        let between = info.stream_seq.0 - self.stream_seq.0 - 1;
        let missing = if self.start_is_known { between } else { 0 };
        self.start_is_known = true;
        self.stream_seq = info.stream_seq;
        Delivery::Next { missing }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(consumer_seq: u64, stream_seq: u64) -> DeliveryInfo {
        DeliveryInfo {
            stream_seq: StreamSeq(stream_seq),
            consumer_seq,
            published: UnixMicros(0),
            pending: 0,
        }
    }

    #[test]
    fn reply_subjects_of_both_forms_are_read() {
        let expected = DeliveryInfo {
            stream_seq: StreamSeq(17),
            consumer_seq: 9,
            published: UnixMicros(1_700_000_000_123_456),
            pending: 4,
        };
        let old = "$JS.ACK.SENSORS.tarn-lake.1.17.9.1700000000123456789.4";
        let new = "$JS.ACK._.acc.SENSORS.tarn-lake.1.17.9.1700000000123456789.4";
        assert_eq!(DeliveryInfo::parse(old), Some(expected));
        assert_eq!(DeliveryInfo::parse(new), Some(expected));
        assert_eq!(DeliveryInfo::parse(&format!("{new}.token.more")), Some(expected));
    }

    #[test]
    fn other_subjects_are_not_deliveries() {
        for subject in [
            "",
            "_INBOX.x.1",
            "$JS.ACK.",
            "$JS.ACK.S.c.1.2.3.4",
            "$JS.ACK.S.c.1.x.3.4.5",
            "$JS.ACK.a.S.c.1.2.3.4.5",
        ] {
            assert_eq!(DeliveryInfo::parse(subject), None, "{subject}");
        }
    }

    #[test]
    fn deliveries_follow_each_other_or_are_a_gap() {
        let mut tracker = Tracker::new(Some(StreamSeq(10)));
        assert_eq!(tracker.accept(&info(1, 11)), Delivery::Next { missing: 0 });
        assert_eq!(tracker.accept(&info(2, 15)), Delivery::Next { missing: 3 });
        assert_eq!(tracker.accept(&info(3, 11)), Delivery::Again);
        assert_eq!(tracker.accept(&info(5, 17)), Delivery::Gap);
        assert_eq!(tracker.consumer_seq(), 3);
        assert_eq!(tracker.accept(&info(4, 16)), Delivery::Next { missing: 0 });
    }

    #[test]
    fn the_beginning_of_a_new_stream_is_not_missing() {
        let mut tracker = Tracker::new(None);
        assert_eq!(tracker.accept(&info(1, 1000)), Delivery::Next { missing: 0 });
        assert_eq!(tracker.accept(&info(2, 1002)), Delivery::Next { missing: 1 });
    }

    #[test]
    fn another_clients_deliveries_are_a_gap() {
        let mut tracker = Tracker::new(Some(StreamSeq(0)));
        assert_eq!(tracker.accept(&info(2, 2)), Delivery::Gap);
    }

    #[test]
    fn pulls_overlap_and_are_served_in_order() {
        let mut pulls = Pulls::default();
        assert_eq!((pulls.next(), pulls.next()), (Some(1), None));
        for _ in 0..PULL_MESSAGES / 2 {
            pulls.delivered();
        }
        assert_eq!((pulls.next(), pulls.next()), (Some(2), None));
        for _ in 0..PULL_MESSAGES / 2 + 1 {
            pulls.delivered();
        }
        assert!(!pulls.ended(1));
        assert!(pulls.ended(2));
        assert_eq!(pulls.next(), Some(3));
        assert!(!pulls.ended(3));
    }
}
