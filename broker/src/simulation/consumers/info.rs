//! Holding a consumer's own description against what is known of it.

use serde_json::Value;

use super::{ConsumerModel, Settled};
use crate::simulation::config::AckPolicy;
use crate::simulation::streams::{Fate, StreamModel};

impl ConsumerModel {
    /// Holds the consumer's own description against what is known.
    ///
    /// `there`: the positions that the stream has now. What is no longer among them need not be waited for; whether it may have
    /// gone is looked at by itself.
    pub(in crate::simulation) fn check_info(
        &mut self,
        stream: &StreamModel,
        info: &Value,
        there: &[u64],
        is_restarted: bool,
    ) {
        let number = |path: &str| info.pointer(path).and_then(Value::as_u64).unwrap_or(u64::MAX);
        let delivered = number("/delivered/stream_seq");
        let floor = number("/ack_floor/stream_seq");
        let name = self.config.name;
        // A start beyond the end is no delivery.
        let is_waiting = number("/delivered/consumer_seq") == 0;
        // What had no answer may be there; where damage may be, nobody has looked.
        let unseen = if stream.damage > 0 {
            stream.doubtful.len()
        } else {
            0
        };
        assert!(
            delivered <= stream.last + unseen as u64 || is_waiting || stream.is_loose(),
            "consumer {name} is at {delivered}, its stream at {}",
            stream.last
        );
        assert!(
            floor <= delivered,
            "consumer {name}: floor {floor} above {delivered}"
        );
        if stream.damage > 0 || self.is_free {
            return;
        }
        let delivery = number("/delivered/consumer_seq");
        match self.last_delivery {
            Some(last) => assert_eq!(delivery, last, "consumer {name}: deliveries"),
            None => assert!(
                (self.durable_delivery..=self.most_delivery).contains(&delivery),
                "consumer {name} counts {delivery} deliveries, {} to {} are possible",
                self.durable_delivery,
                self.most_delivery
            ),
        }
        if is_restarted {
            self.last_delivery = Some(delivery);
            assert!(
                delivered + 1 >= self.durable_next.min(stream.last + 1),
                "consumer {name} is back at {delivered}, {} was durable",
                self.durable_next - 1
            );
        }
        let pending = number("/num_ack_pending");
        let most = self
            .stories
            .values()
            .filter(|story| story.deliveries > 0 && story.settled < Settled::Now);
        assert!(
            pending <= most.count() as u64,
            "consumer {name}: {pending} pending"
        );
        assert!(
            self.config.ack == AckPolicy::None || self.is_settled_below(stream, floor, there),
            "consumer {name}: floor {floor} passes what waits for its acknowledgement"
        );
    }
    /// Whether nothing up to `seq` waits for its acknowledgement, as far as that is known.
    pub(in crate::simulation) fn is_settled_below(
        &self,
        stream: &StreamModel,
        seq: u64,
        there: &[u64],
    ) -> bool {
        self.stories.range(..=seq).all(|(seq, story)| {
            let message = stream.messages.get(seq);
            let is_there =
                message.is_some_and(|message| message.fate == Fate::Live) && there.binary_search(seq).is_ok();
            !story.is_exact || story.settled > Settled::No || story.is_given_up || !is_there
        })
    }
}
