//! The consumer against a naive model: a list of messages, each with its own story.

use proptest::prelude::*;

use super::config::ConsumerConfig;
use super::pull::{Status, Unfilled};
use super::*;
use crate::engine::time::Now;

const ACK_WAIT: u64 = 30_000_000_000;
const MESSAGES: u64 = 40;

fn now(nanos: u64) -> Now {
    Now {
        wall: UnixNanos(nanos as i64 + 1),
        mono: Mono(nanos),
    }
}

fn consumer(edit: impl FnOnce(&mut ConsumerConfig)) -> Consumer {
    let mut config = ConsumerConfig {
        durable_name: "C".to_owned(),
        ack_policy: AckPolicy::Explicit,
        ..ConsumerConfig::default()
    };
    edit(&mut config);
    let config = config
        .normalize(&crate::stream::config::StreamConfig::default())
        .unwrap();
    let state = ConsumerState {
        next_stream_seq: 1,
        next_consumer_seq: 1,
        ..ConsumerState::default()
    };
    Consumer::new(
        "S".into(),
        "C".into(),
        Arc::new(config),
        UnixNanos(1),
        state,
        Mono(0),
    )
}

fn pull(consumer: &mut Consumer, at: u64, payload: &str) -> Vec<Status> {
    let mut notices = Vec::new();
    consumer.pull(
        Mono(at),
        Bytes::from_static(b"r"),
        payload.as_bytes(),
        &mut notices,
    );
    notices.into_iter().map(|notice| notice.status).collect()
}

/// Delivers one message of a stream that holds 1 to `last`, 10 bytes each. Returns its sequence.
fn deliver(consumer: &mut Consumer, at: u64, last: u64, notices: &mut Vec<Notice>) -> Option<u64> {
    let seq = match consumer.next() {
        Next::Stalled => return None,
        Next::Redeliver(seq) | Next::Exactly(seq) => seq,
        Next::From(seq) if seq <= last => seq,
        Next::From(_) => {
            consumer.end_no_wait(notices);
            return None;
        }
    };
    if consumer.pick(now(at), 10, 1, 0, |_| Receiver::Ready, notices) != Picked::Ready {
        return None;
    }
    notices.extend(consumer.deliver(now(at), seq, 10).notice);
    Some(seq)
}

fn ack(consumer: &mut Consumer, at: u64, verb: AckVerb, seq: u64) -> Vec<u64> {
    let mut done = Vec::new();
    consumer.ack(
        now(at),
        verb,
        SeqPair {
            consumer: 0,
            stream: seq,
        },
        &mut done,
    );
    done
}

#[test]
fn a_batch_is_filled_and_then_nobody_waits() {
    let mut consumer = consumer(|_| ());
    let mut notices = Vec::new();
    assert!(pull(&mut consumer, 0, "2").is_empty());
    assert_eq!(deliver(&mut consumer, 0, 9, &mut notices), Some(1));
    assert_eq!(deliver(&mut consumer, 0, 9, &mut notices), Some(2));
    assert_eq!(deliver(&mut consumer, 0, 9, &mut notices), None);
    assert!(notices.is_empty());
    assert_eq!(
        consumer.delivered(),
        SeqPair {
            consumer: 2,
            stream: 2
        }
    );
    assert_eq!(
        consumer.ack_floor(),
        SeqPair {
            consumer: 0,
            stream: 0
        }
    );
    ack(&mut consumer, 0, AckVerb::Ack, 1);
    assert_eq!(
        consumer.ack_floor(),
        SeqPair {
            consumer: 1,
            stream: 1
        }
    );
    ack(&mut consumer, 0, AckVerb::Ack, 2);
    assert_eq!(
        consumer.ack_floor(),
        SeqPair {
            consumer: 2,
            stream: 2
        }
    );
}

#[test]
fn requests_end_as_they_asked_to() {
    let mut consumer = consumer(|_| ());
    let mut notices = Vec::new();
    pull(&mut consumer, 0, r#"{"batch":5,"no_wait":true}"#);
    deliver(&mut consumer, 0, 1, &mut notices);
    deliver(&mut consumer, 0, 1, &mut notices);
    assert_eq!(notices.pop().unwrap().status, Status::NoMessages);

    pull(
        &mut consumer,
        0,
        r#"{"batch":5,"expires":1000,"idle_heartbeat":400}"#,
    );
    assert_eq!(consumer.next_deadline(Mono(0)), Some(Mono(400)));
    consumer.expire_requests(Mono(400), &mut notices);
    assert_eq!(
        notices.pop().unwrap().status,
        Status::IdleHeartbeat {
            consumer_seq: 1,
            stream_seq: 1,
            stalled_on: None
        }
    );
    consumer.expire_requests(Mono(1000), &mut notices);
    assert_eq!(
        notices.pop().unwrap().status,
        Status::RequestTimeout(Unfilled {
            messages: 5,
            bytes: 0
        })
    );

    pull(&mut consumer, 2000, r#"{"batch":5,"max_bytes":5}"#);
    assert_eq!(deliver(&mut consumer, 2000, 9, &mut notices), None);
    assert_eq!(
        notices.pop().unwrap().status,
        Status::MaxBytesExceeded(Unfilled {
            messages: 5,
            bytes: 5
        })
    );

    pull(&mut consumer, 2000, r#"{"batch":1,"max_bytes":25}"#);
    assert_eq!(deliver(&mut consumer, 2000, 9, &mut notices), Some(2));
    assert_eq!(
        notices.pop().unwrap().status,
        Status::BatchCompleted(Unfilled {
            messages: 0,
            bytes: 15
        })
    );
}

#[test]
fn more_requests_than_allowed_are_refused() {
    let mut consumer = consumer(|config| config.max_waiting = 1);
    assert!(pull(&mut consumer, 0, r#"{"batch":1,"expires":10}"#).is_empty());
    assert_eq!(pull(&mut consumer, 0, "1"), [Status::MaxWaiting]);
    // The first has expired: its status, and room for another.
    assert_eq!(
        pull(&mut consumer, 10, "1"),
        [Status::RequestTimeout(Unfilled {
            messages: 1,
            bytes: 0
        })]
    );
    assert_eq!(consumer.waiting_count(), 1);
}

#[test]
fn gone_receivers_are_passed_over_and_busy_ones_waited_for() {
    let mut consumer = consumer(|_| ());
    let mut notices = Vec::new();
    for reply in ["gone", "busy", "ready"] {
        consumer.pull(Mono(0), Bytes::from(reply), b"9", &mut notices);
    }
    let state = |reply: &Bytes| match &reply[..] {
        b"gone" => Receiver::Gone,
        b"busy" => Receiver::Busy,
        _ => Receiver::Ready,
    };
    assert_eq!(consumer.pick(now(0), 1, 1, 0, state, &mut notices), Picked::Ready);
    assert_eq!(consumer.deliver(now(0), 1, 1).reply, "ready");
    assert_eq!(consumer.waiting_count(), 2);
    let all_busy = |_: &Bytes| Receiver::Busy;
    assert_eq!(
        consumer.pick(now(0), 1, 1, 0, all_busy, &mut notices),
        Picked::Busy
    );
    let all_gone = |_: &Bytes| Receiver::Gone;
    assert_eq!(
        consumer.pick(now(0), 1, 1, 0, all_gone, &mut notices),
        Picked::Nobody
    );
    assert_eq!(consumer.waiting_count(), 0);
}

#[test]
fn only_who_takes_a_message_is_pinned() {
    let shared = || {
        consumer(|config| {
            config.priority_policy = "pinned_client".to_owned();
            config.priority_groups = vec!["g".to_owned()];
            config.priority_timeout = 1_000_000_000;
        })
    };
    let pull_as = |consumer: &mut Consumer, reply: &'static str, payload: &str| {
        let mut notices = Vec::new();
        let reply = Bytes::from_static(reply.as_bytes());
        consumer.pull(Mono(0), reply, payload.as_bytes(), &mut notices);
        assert_eq!(notices, []);
    };
    let pick = |consumer: &mut Consumer, at, first: Receiver| {
        let mut notices = Vec::new();
        let stands = |reply: &Bytes| if reply == "one" { first } else { Receiver::Ready };
        let picked = consumer.pick(now(at), 10, 1, 7, stands, &mut notices);
        assert_eq!(picked, Picked::Ready);
        let delivery = consumer.deliver(now(at), 1, 10);
        assert_eq!(delivery.reply, "two");
        assert!(consumer.pin().is_some());
        notices
            .into_iter()
            .map(|notice| notice.status)
            .collect::<Vec<_>>()
    };
    let unfilled = Unfilled {
        messages: 1,
        bytes: 0,
    };
    let two = r#"{"batch":2,"group":"g"}"#;

    // Its time is over.
    let mut consumer = shared();
    pull_as(&mut consumer, "one", r#"{"expires":5,"group":"g"}"#);
    pull_as(&mut consumer, "two", two);
    let told = pick(&mut consumer, 5, Receiver::Ready);
    assert_eq!(told, [Status::RequestTimeout(unfilled)]);

    // Nobody listens any more, or has no room for now.
    for stands in [Receiver::Gone, Receiver::Busy] {
        let mut consumer = shared();
        pull_as(&mut consumer, "one", r#"{"group":"g"}"#);
        pull_as(&mut consumer, "two", two);
        assert_eq!(pick(&mut consumer, 5, stands), []);
    }

    // The message is too large for it.
    let mut consumer = shared();
    pull_as(&mut consumer, "one", r#"{"max_bytes":9,"group":"g"}"#);
    pull_as(&mut consumer, "two", two);
    let too_large = Status::MaxBytesExceeded(Unfilled {
        messages: 1,
        bytes: 9,
    });
    assert_eq!(pick(&mut consumer, 5, Receiver::Ready), [too_large]);
}

#[test]
fn backoff_spaces_the_deliveries_out() {
    let mut consumer = consumer(|config| config.backoff = vec![100_000_000, 200_000_000]);
    let mut notices = Vec::new();
    pull(&mut consumer, 0, "9");
    assert_eq!(deliver(&mut consumer, 0, 1, &mut notices), Some(1));
    for (at, expected) in [
        (99, None),
        (100, Some(1)),
        (299, None),
        (300, Some(1)),
        (499, None),
        (500, Some(1)),
    ] {
        let at = at * 1_000_000;
        consumer.expire_pending(Mono(at));
        assert_eq!(deliver(&mut consumer, at, 1, &mut notices), expected, "at {at}");
    }
}

#[test]
fn an_ack_covers_everything_before_it_with_policy_all() {
    let mut consumer = consumer(|config| config.ack_policy = AckPolicy::All);
    let mut notices = Vec::new();
    pull(&mut consumer, 0, "9");
    for seq in 1..=5 {
        assert_eq!(deliver(&mut consumer, 0, 9, &mut notices), Some(seq));
    }
    assert_eq!(ack(&mut consumer, 0, AckVerb::Ack, 3), [1, 2, 3]);
    assert_eq!(
        consumer.ack_floor(),
        SeqPair {
            consumer: 3,
            stream: 3
        }
    );
    assert_eq!(ack(&mut consumer, 0, AckVerb::Ack, 2), [0; 0]);
    assert_eq!(consumer.pending_count(), 2);
}

#[test]
fn the_skip_list_comes_first_and_then_what_is_new() {
    let mut consumer = consumer(|_| ());
    consumer.skip_list = [2, 5].into();
    consumer.next_stream_seq = 2;
    consumer.resume_seq = 8;
    let mut notices = Vec::new();
    pull(&mut consumer, 0, "9");
    let delivered: Vec<u64> = std::iter::from_fn(|| deliver(&mut consumer, 0, 9, &mut notices)).collect();
    assert_eq!(delivered, [2, 5, 8, 9]);
}

#[test]
fn unused_ephemerals_are_abandoned_and_durables_are_not() {
    let durable = consumer(|_| ());
    assert!(!durable.is_abandoned(Mono(u64::MAX)));
    let mut ephemeral = consumer(|config| {
        config.durable_name = String::new();
        config.inactive_threshold = 1000;
    });
    assert_eq!(ephemeral.next_deadline(Mono(0)), Some(Mono(1000)));
    assert!(!ephemeral.is_abandoned(Mono(999)));
    assert!(ephemeral.is_abandoned(Mono(1000)));
    pull(&mut ephemeral, 1000, r#"{"batch":1,"expires":5000}"#);
    assert!(!ephemeral.is_abandoned(Mono(3000)));
    let mut notices = Vec::new();
    ephemeral.expire_requests(Mono(6000), &mut notices);
    assert_eq!(notices.len(), 1);
    assert!(
        !ephemeral.is_abandoned(Mono(6999)),
        "who waited has used it until then"
    );
    assert!(ephemeral.is_abandoned(Mono(7000)));
}

#[test]
fn who_does_not_wait_is_let_go_with_the_first_heartbeat_while_acks_are_awaited() {
    let mut consumer = consumer(|config| config.max_ack_pending = 2);
    pull(
        &mut consumer,
        0,
        r#"{"batch":5,"expires":5000,"idle_heartbeat":100,"no_wait":true}"#,
    );
    let mut notices = Vec::new();
    assert_eq!(deliver(&mut consumer, 0, 9, &mut notices), Some(1));
    assert_eq!(deliver(&mut consumer, 0, 9, &mut notices), Some(2));
    assert_eq!(deliver(&mut consumer, 0, 9, &mut notices), None);
    consumer.expire_requests(Mono(99), &mut notices);
    assert!(notices.is_empty());
    consumer.expire_requests(Mono(100), &mut notices);
    let statuses: Vec<_> = notices.iter().map(|notice| &notice.status).collect();
    assert_eq!(statuses, [&Status::NoMessages]);
    assert_eq!(consumer.waiting_count(), 0);
}

#[derive(Clone, Debug)]
enum Op {
    Wait(u64),
    Pull(u64),
    Deliver(u8),
    Ack(u64),
    Nak {
        seq: u64,
        delay: u64,
    },
    Progress(u64),
    Term(u64),
    /// The stream loses everything below.
    Forget(u64),
    Restart,
}

fn op() -> impl Strategy<Value = Op> {
    let seq = 1..MESSAGES + 2;
    prop_oneof![
        3 => (0..ACK_WAIT).prop_map(Op::Wait),
        4 => (1_u64..8).prop_map(Op::Pull),
        8 => (1_u8..8).prop_map(Op::Deliver),
        6 => seq.clone().prop_map(Op::Ack),
        2 => (seq.clone(), prop_oneof![Just(0), 1..2 * ACK_WAIT]).prop_map(|(seq, delay)| Op::Nak { seq, delay }),
        1 => seq.clone().prop_map(Op::Progress),
        1 => seq.clone().prop_map(Op::Term),
        1 => seq.prop_map(Op::Forget),
        1 => Just(Op::Restart),
    ]
}

/// What the model knows of a message.
#[derive(Clone, Copy, Debug, Default)]
struct Story {
    deliveries: u64,
    is_settled: bool,
    /// From when on it may be delivered again.
    due: u64,
}

struct Model {
    stories: Vec<Story>,
    first: u64,
    wanted: u64,
    max_deliver: u64,
}

impl Model {
    fn open(&self) -> impl Iterator<Item = (u64, &Story)> {
        let numbered = self
            .stories
            .iter()
            .enumerate()
            .map(|(index, story)| (index as u64, story));
        numbered.filter(|(seq, story)| *seq >= self.first && story.deliveries > 0 && !story.is_settled)
    }

    /// Checks a delivery, or that there is none for a reason.
    fn delivered(&mut self, at: u64, seq: Option<u64>, max_pending: usize) -> Result<(), TestCaseError> {
        let open_count = self.open().count();
        let is_new_left = self.stories[self.first as usize..]
            .iter()
            .any(|story| story.deliveries == 0);
        let Some(seq) = seq else {
            let can_deliver = self.wanted > 0 && is_new_left && open_count < max_pending;
            prop_assert!(!can_deliver, "a message was withheld at {}", at);
            return Ok(());
        };
        prop_assert!(self.wanted > 0, "nobody asked");
        self.wanted -= 1;
        let story = self.stories[seq as usize];
        prop_assert!(!story.is_settled, "{} was settled", seq);
        prop_assert!(seq >= self.first, "{} is gone", seq);
        prop_assert!(story.deliveries < self.max_deliver, "{} was given up", seq);
        if story.deliveries == 0 {
            let skipped = &self.stories[self.first as usize..seq as usize];
            prop_assert!(
                skipped.iter().all(|story| story.deliveries > 0),
                "{} out of order",
                seq
            );
            prop_assert!(open_count < max_pending, "too many pending");
        } else {
            prop_assert!(at >= story.due, "{} came again too early", seq);
        }
        self.stories[seq as usize].deliveries += 1;
        self.stories[seq as usize].due = at + ACK_WAIT;
        Ok(())
    }
}

proptest! {
    #[test]
    fn agrees_with_the_model(
        ops in proptest::collection::vec(op(), 0..150),
        max_pending in 1_i64..12,
        max_deliver in 1_i64..5,
    ) {
        let mut consumer = consumer(|config| {
            config.max_ack_pending = max_pending;
            config.max_deliver = max_deliver;
        });
        let mut model = Model {
            stories: vec![Story::default(); MESSAGES as usize + 2],
            first: 1,
            wanted: 0,
            max_deliver: max_deliver as u64,
        };
        // Sequence 0 is no message, and the last is one that the stream does not have.
        model.stories[0].deliveries = 1;
        model.stories[MESSAGES as usize + 1] = Story { deliveries: 1, is_settled: true, due: 0 };
        let mut at = 1;
        for op in ops {
            match op {
                Op::Wait(nanos) => {
                    at += nanos;
                    consumer.expire_pending(Mono(at));
                    for story in &mut model.stories {
                        // Given up after its last delivery.
                        story.is_settled |= story.deliveries >= model.max_deliver && story.due <= at;
                    }
                }
                Op::Pull(batch) => {
                    if pull(&mut consumer, at, &batch.to_string()).is_empty() {
                        model.wanted += batch;
                    }
                }
                Op::Deliver(times) => {
                    for _ in 0..times {
                        let seq = deliver(&mut consumer, at, MESSAGES, &mut Vec::new());
                        model.delivered(at, seq, max_pending as usize)?;
                    }
                }
                Op::Ack(seq) | Op::Term(seq) => {
                    let verb = if matches!(op, Op::Ack(_)) { AckVerb::Ack } else { AckVerb::Term };
                    ack(&mut consumer, at, verb, seq);
                    let story = &mut model.stories[seq as usize];
                    story.is_settled |= story.deliveries > 0;
                }
                Op::Nak { seq, delay } => {
                    let is_open = consumer.is_pending(seq);
                    let was_queued = consumer.pending.get(seq).is_some_and(|entry| entry.queued);
                    ack(&mut consumer, at, AckVerb::Nak { delay_ns: delay as i64 }, seq);
                    let story = &mut model.stories[seq as usize];
                    if is_open && !(was_queued && delay == 0) {
                        story.due = at + delay;
                        story.is_settled |= delay == 0 && story.deliveries >= model.max_deliver;
                    }
                }
                Op::Progress(seq) => {
                    let was_queued = consumer.pending.get(seq).is_some_and(|entry| entry.queued);
                    ack(&mut consumer, at, AckVerb::Progress, seq);
                    let story = &mut model.stories[seq as usize];
                    if story.deliveries > 0 && !was_queued {
                        story.due = at + ACK_WAIT;
                    }
                }
                Op::Forget(first) => {
                    consumer.forget_below(first);
                    model.first = model.first.max(first);
                }
                Op::Restart => {
                    let mut bytes = Vec::new();
                    consumer.state().encode(&mut bytes);
                    let state = ConsumerState::decode(&bytes).unwrap();
                    let config = Arc::clone(&consumer.config);
                    consumer = Consumer::new("S".into(), "C".into(), config, UnixNanos(1), state, Mono(at));
                    model.wanted = 0;
                    for story in &mut model.stories {
                        story.due = at + ACK_WAIT;
                    }
                }
            }
            let open: Vec<u64> = model.open().map(|(seq, _)| seq).filter(|seq| *seq > 0).collect();
            let pending: Vec<u64> = consumer.pending.iter().map(|entry| entry.stream_seq).collect();
            prop_assert_eq!(&pending, &open);
            let floor = consumer.ack_floor().stream;
            prop_assert_eq!(floor, open.first().map_or(consumer.delivered().stream, |seq| seq - 1));
        }
        // Whatever is still open comes again, unless it has come as often as it may.
        at += 4 * ACK_WAIT;
        consumer.expire_pending(Mono(at));
        let open: Vec<u64> = consumer.pending.iter().map(|entry| entry.stream_seq).collect();
        pull(&mut consumer, at, "1000");
        let mut redelivered = Vec::new();
        while let Next::Redeliver(seq) = consumer.next() {
            deliver(&mut consumer, at, MESSAGES, &mut Vec::new());
            redelivered.push(seq);
        }
        redelivered.sort_unstable();
        prop_assert_eq!(redelivered, open);
    }
}

#[test]
fn alternating_naks_take_no_more_room() {
    let mut consumer = consumer(|_| {});
    pull(&mut consumer, 0, "1");
    assert_eq!(deliver(&mut consumer, 0, 1, &mut Vec::new()), Some(1));
    for at in 1..10_000 {
        ack(&mut consumer, at, AckVerb::Nak { delay_ns: 1 << 40 }, 1);
        ack(&mut consumer, at, AckVerb::Nak { delay_ns: 0 }, 1);
    }
    assert!(consumer.redeliver.len() < 100, "{}", consumer.redeliver.len());
    assert_eq!(consumer.next(), Next::Redeliver(1));
}
