use proptest::prelude::*;

use super::*;
use crate::mqtt::packet::{Version, Will};

const LIMITS: SessionLimits = SessionLimits {
    inflight_max: 3,
    inflight_bytes_max: 1_000,
    queue_max: 4,
    queue_bytes_max: 100,
    subscriptions_max: 3,
};

fn id(id: u16) -> PacketId {
    PacketId::new(id).unwrap()
}

fn connect(clean_session: bool, keep_alive_s: u16) -> Connect {
    Connect {
        version: Version::V311,
        client_id: "dev".into(),
        clean_session,
        keep_alive_s,
        will: None,
        username: None,
        password: None,
    }
}

fn publish(qos: QoS, packet_id: u16, topic: &str, payload: &str) -> Publish {
    Publish {
        dup: false,
        qos,
        retain: false,
        topic: Bytes::copy_from_slice(topic.as_bytes()),
        packet_id: PacketId::new(packet_id),
        payload: Bytes::copy_from_slice(payload.as_bytes()),
    }
}

/// A session with its effects, as tests look at it.
struct Bench {
    session: Session,
    now: Instant,
}

impl Bench {
    fn new() -> Self {
        let now = Instant::now();
        let client = ClientId::chosen("dev").unwrap();
        Self {
            session: Session::new(client, Arc::new(LIMITS), now),
            now,
        }
    }

    fn attached(clean: bool) -> Self {
        let mut bench = Self::new();
        assert_eq!(bench.attach(clean), []);
        bench
    }

    fn attach(&mut self, clean: bool) -> Vec<Effect> {
        let mut effects = Vec::new();
        self.session
            .attach(&connect(clean, 10), None, self.now, &mut effects);
        effects
    }

    fn packet(&mut self, packet: ClientPacket) -> Vec<Effect> {
        let mut effects = Vec::new();
        self.session.packet(packet, self.now, &mut effects);
        effects
    }

    fn publish(&mut self, publish: Publish) -> Vec<Effect> {
        self.packet(ClientPacket::Publish(publish))
    }

    fn subscribe(&mut self, filters: &[(&str, QoS)]) -> Vec<Effect> {
        let filters = filters
            .iter()
            .map(|(filter, qos)| ((*filter).to_owned(), *qos))
            .collect();
        self.packet(ClientPacket::Subscribe {
            packet_id: id(9),
            filters,
        })
    }

    fn completed(&mut self, outcome: Result<(), IngestError>) -> Vec<Effect> {
        let mut effects = Vec::new();
        self.session.completed(&outcome, &mut effects);
        effects
    }

    fn deliver(&mut self, filters: &[u32], payload: &str, published: Option<QoS>) -> Vec<Effect> {
        let mut effects = Vec::new();
        let filters: Vec<_> = filters.iter().copied().map(FilterId).collect();
        let payload = Bytes::copy_from_slice(payload.as_bytes());
        self.session
            .deliver(&filters, b"a.b", &payload, published, &mut effects)
            .unwrap();
        effects
    }

    fn detach(&mut self, reason: CloseReason) -> (bool, Vec<Effect>) {
        let mut effects = Vec::new();
        (self.session.detach(reason, &mut effects), effects)
    }
}

fn closes(effects: &[Effect], reason: CloseReason) {
    assert_eq!(effects, [Effect::Close(reason)]);
}

#[test]
fn pubacks_follow_completions_in_the_order_of_receipt() {
    let mut bench = Bench::attached(true);
    for packet_id in [7, 3, 5] {
        let effects = bench.publish(publish(QoS::AtLeastOnce, packet_id, "a/b", "x"));
        assert!(matches!(&effects[..], [Effect::Publish(m)] if m.subject == "a.b" && m.resend.is_some()));
    }
    assert_eq!(bench.session.awaiting_count(), 3);
    for packet_id in [7, 3] {
        assert_eq!(
            bench.completed(Ok(())),
            [Effect::Send(ServerPacket::PubAck(id(packet_id)))]
        );
    }
    closes(
        &bench.completed(Err(IngestError::NoSpace)),
        CloseReason::Store("store_no_space"),
    );
    assert_eq!(bench.completed(Ok(())), []);
}

#[test]
fn a_qos_0_publish_waits_for_nothing() {
    let mut bench = Bench::attached(true);
    let effects = bench.publish(publish(QoS::AtMostOnce, 0, "a/b", "x"));
    assert!(matches!(&effects[..], [Effect::Publish(m)] if m.resend.is_none() && m.qos == QoS::AtMostOnce));
    assert_eq!(bench.session.awaiting_count(), 0);
}

#[test]
fn what_is_not_to_be_had_closes_the_connection_without_an_acknowledgement() {
    for (publish, reason) in [
        (
            publish(QoS::ExactlyOnce, 1, "a", "x"),
            CloseReason::Refused("qos2"),
        ),
        (
            publish(QoS::AtLeastOnce, 1, "$SYS/a", "x"),
            CloseReason::Refused("topic_internal"),
        ),
        (
            publish(QoS::AtLeastOnce, 1, "a b", "x"),
            CloseReason::Refused("topic_character"),
        ),
        (
            publish(QoS::AtMostOnce, 0, "a/*", "x"),
            CloseReason::Refused("topic_nats_wildcard"),
        ),
        (
            publish(QoS::AtMostOnce, 0, "a/#", "x"),
            CloseReason::Protocol("topic_wildcard"),
        ),
        (
            publish(QoS::AtMostOnce, 0, "", "x"),
            CloseReason::Protocol("topic_empty"),
        ),
    ] {
        closes(&Bench::attached(true).publish(publish), reason);
    }
    closes(
        &Bench::attached(true).packet(ClientPacket::PubRel(id(1))),
        CloseReason::Refused("qos2"),
    );
    let again = ClientPacket::Connect(Box::new(connect(true, 0)));
    closes(
        &Bench::attached(true).packet(again),
        CloseReason::Protocol("second_connect"),
    );
}

#[test]
fn a_topic_known_from_before_goes_where_it_went() {
    let mut bench = Bench::attached(true);
    for round in 0..3 {
        for topic in ["a/1", "a/2", "a.3/x", "b/4", "b/5", "b/6"] {
            let effects = bench.publish(publish(QoS::AtMostOnce, 0, topic, "x"));
            let expected = mapping::topic_to_subject(topic).unwrap();
            assert!(
                matches!(&effects[..], [Effect::Publish(m)] if m.subject == expected),
                "{round} {topic}"
            );
        }
    }
    assert_eq!(bench.session.known_topics.len(), KNOWN_TOPICS_MAX);
}

#[test]
fn subscriptions_are_granted_up_to_qos_1_and_refused_one_by_one() {
    let mut bench = Bench::attached(true);
    let effects = bench.subscribe(&[
        ("a/+", QoS::ExactlyOnce),
        ("$SYS/#", QoS::AtMostOnce),
        ("b", QoS::AtMostOnce),
    ]);
    let granted = vec![Some(QoS::AtLeastOnce), None, Some(QoS::AtMostOnce)];
    assert_eq!(
        effects,
        [
            Effect::Subscribe {
                filter: FilterId(0),
                topic_filter: "a/+".into()
            },
            Effect::Subscribe {
                filter: FilterId(1),
                topic_filter: "b".into()
            },
            Effect::Send(ServerPacket::SubAck {
                packet_id: id(9),
                granted
            }),
            Effect::FindRetained {
                topic_filter: "a/+".into(),
                qos: QoS::AtLeastOnce
            },
            Effect::FindRetained {
                topic_filter: "b".into(),
                qos: QoS::AtMostOnce
            },
        ]
    );
    // The same filter again: one subscription, another QoS.
    let effects = bench.subscribe(&[("a/+", QoS::AtMostOnce)]);
    assert!(
        !effects
            .iter()
            .any(|effect| matches!(effect, Effect::Subscribe { .. }))
    );
    assert!(
        matches!(&bench.deliver(&[0], "x", None)[..], [Effect::Send(ServerPacket::Publish(p))] if p.packet_id.is_none())
    );
    let effects = bench.subscribe(&[("c", QoS::AtMostOnce), ("d", QoS::AtMostOnce)]);
    let granted = vec![Some(QoS::AtMostOnce), None];
    assert!(effects.contains(&Effect::Send(ServerPacket::SubAck {
        packet_id: id(9),
        granted
    })));
    closes(
        &bench.subscribe(&[("a/#/b", QoS::AtMostOnce)]),
        CloseReason::Protocol("topic_wildcard"),
    );
}

#[test]
fn an_unsubscribed_filter_gets_nothing_more() {
    let mut bench = Bench::attached(true);
    bench.subscribe(&[("a/b", QoS::AtMostOnce)]);
    let effects = bench.packet(ClientPacket::Unsubscribe {
        packet_id: id(4),
        filters: vec!["a/b".into(), "other".into()],
    });
    assert_eq!(
        effects,
        [
            Effect::Unsubscribe(FilterId(0)),
            Effect::Send(ServerPacket::UnsubAck(id(4)))
        ]
    );
    assert_eq!(bench.deliver(&[0], "under way", None), []);
}

#[test]
fn overlapping_filters_give_one_message_at_the_highest_qos_granted() {
    let mut bench = Bench::attached(true);
    bench.subscribe(&[("a/#", QoS::AtMostOnce), ("a/b", QoS::AtLeastOnce)]);
    let effects = bench.deliver(&[0, 1], "x", Some(QoS::AtLeastOnce));
    assert!(matches!(&effects[..], [Effect::Send(ServerPacket::Publish(p))] if p.qos == QoS::AtLeastOnce));
    let effects = bench.deliver(&[0, 1], "x", Some(QoS::AtMostOnce));
    assert!(matches!(&effects[..], [Effect::Send(ServerPacket::Publish(p))] if p.qos == QoS::AtMostOnce));
}

#[test]
fn internal_subjects_never_reach_a_client() {
    let mut bench = Bench::attached(true);
    bench.subscribe(&[("#", QoS::AtMostOnce)]);
    for subject in ["$SYS.x", "$JS.ACK.a.b", "_INBOX.q", "$MQTT.msgs.a", "cmd.#"] {
        let mut effects = Vec::new();
        let payload = Bytes::from_static(b"x");
        let outcome = bench
            .session
            .deliver(&[FilterId(0)], subject.as_bytes(), &payload, None, &mut effects);
        assert!(outcome.is_err() && effects.is_empty(), "{subject}");
    }
}

#[test]
fn the_will_goes_out_unless_the_client_says_goodbye() {
    let will = Will {
        topic: "w/t".into(),
        payload: Bytes::from_static(b"gone"),
        qos: QoS::ExactlyOnce,
        retain: true,
    };
    for (reason, published) in [
        (CloseReason::Disconnect, false),
        (CloseReason::KeepAlive, true),
        (CloseReason::TakenOver, true),
        (CloseReason::ConnectionLost, true),
        (CloseReason::Protocol("x"), true),
    ] {
        let mut bench = Bench::new();
        let prepared = PreparedWill::new(&will).unwrap();
        bench
            .session
            .attach(&connect(true, 0), Some(prepared), bench.now, &mut Vec::new());
        let (stays, effects) = bench.detach(reason);
        assert!(!stays);
        assert_eq!(effects.len(), if published { 2 } else { 0 }, "{reason:?}");
        assert!(effects.iter().all(|effect| match effect {
            Effect::PublishWill(message) => message.subject == "w.t" && message.qos == QoS::ExactlyOnce,
            Effect::Retain(message) => message.topic == "w/t",
            _ => false,
        }));
        assert_eq!(bench.detach(reason).1, [], "only once");
    }
    let bad = Will {
        topic: "$SYS/x".into(),
        ..will
    };
    assert_eq!(PreparedWill::new(&bad), Err(TopicError::Internal));
}

#[test]
fn silence_for_one_and_a_half_keep_alives_closes() {
    let mut bench = Bench::attached(true);
    let start = bench.now;
    bench.now = start + Duration::from_secs(10);
    assert_eq!(
        bench.packet(ClientPacket::PingReq),
        [Effect::Send(ServerPacket::PingResp)]
    );
    assert_eq!(bench.session.deadline(), Some(start + Duration::from_secs(25)));
    let mut effects = Vec::new();
    bench
        .session
        .tick(start + Duration::from_millis(24_999), &mut effects);
    assert_eq!(effects, []);
    bench.session.tick(start + Duration::from_secs(25), &mut effects);
    closes(&effects, CloseReason::KeepAlive);
    let mut without = Bench::new();
    without
        .session
        .attach(&connect(true, 0), None, start, &mut Vec::new());
    assert_eq!(without.session.deadline(), None);
}

#[test]
fn a_full_queue_drops_the_oldest_and_counts() {
    let mut bench = Bench::attached(false);
    bench.subscribe(&[("a/b", QoS::AtLeastOnce)]);
    assert!(bench.detach(CloseReason::ConnectionLost).0);
    for payload in ["1", "2", "3", "4", "5", "6"] {
        assert_eq!(bench.deliver(&[0], payload, None), []);
        assert_eq!(bench.deliver(&[0], "not kept", Some(QoS::AtMostOnce)), []);
    }
    assert_eq!(
        (bench.session.take_dropped(), bench.session.queued_count()),
        (2, 4)
    );
    bench.deliver(&[0], &"x".repeat(97), None);
    assert_eq!(
        (bench.session.take_dropped(), bench.session.queued_count()),
        (4, 1)
    );
}

#[test]
fn packet_ids_go_round_and_wait_for_the_one_that_is_never_acknowledged() {
    let mut bench = Bench::attached(true);
    bench.subscribe(&[("a/b", QoS::AtLeastOnce)]);
    bench.session.next_packet_id = id(u16::MAX);
    let sent = |effects: Vec<Effect>| match &effects[..] {
        [Effect::Send(ServerPacket::Publish(publish))] => publish.packet_id.map(PacketId::get),
        _ => None,
    };
    assert_eq!(sent(bench.deliver(&[0], "stuck", None)), Some(u16::MAX));
    assert_eq!(sent(bench.deliver(&[0], "next", None)), Some(1));
    bench.packet(ClientPacket::PubAck(id(1)));
    bench.session.next_packet_id = id(u16::MAX);
    assert_eq!(sent(bench.deliver(&[0], "must wait", None)), None);
    assert!(!bench.session.wants_deliveries());
    assert_eq!(
        sent(bench.packet(ClientPacket::PubAck(id(u16::MAX)))),
        Some(u16::MAX)
    );
}

/// What a session owes, said plainly: lists, searched from the front.
#[derive(Default)]
struct Model {
    connected: bool,
    waiting: Vec<u32>,
    unacked: Vec<(u16, u32)>,
    awaiting: Vec<u16>,
    next_id: u16,
    dropped: u64,
}

impl Model {
    /// The packets expected next, as (id, message, dup).
    fn fill(&mut self) -> Vec<(u16, u32, bool)> {
        let mut sent = Vec::new();
        while self.connected && self.unacked.len() < LIMITS.inflight_max && !self.waiting.is_empty() {
            let message = self.waiting.remove(0);
            self.next_id += 1;
            self.unacked.push((self.next_id, message));
            sent.push((self.next_id, message, false));
        }
        sent
    }

    fn deliver(&mut self, message: u32) -> Vec<(u16, u32, bool)> {
        self.waiting.push(message);
        let sent = self.fill();
        while self.waiting.len() > LIMITS.queue_max {
            self.waiting.remove(0);
            self.dropped += 1;
        }
        sent
    }

    fn reconnect(&mut self) -> Vec<(u16, u32, bool)> {
        self.connected = true;
        let again: Vec<_> = self
            .unacked
            .iter()
            .map(|(id, message)| (*id, *message, true))
            .collect();
        [again, self.fill()].concat()
    }
}

#[derive(Clone, Debug)]
enum Step {
    Deliver,
    Ack(usize),
    AckUnknown,
    Publish(u16),
    Complete,
    Disconnect,
    Reconnect,
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => Just(Step::Deliver),
        5 => (0usize..3).prop_map(Step::Ack),
        1 => Just(Step::AckUnknown),
        4 => (1u16..9).prop_map(Step::Publish),
        3 => Just(Step::Complete),
        1 => Just(Step::Disconnect),
        2 => Just(Step::Reconnect),
    ]
}

fn publishes(effects: &[Effect]) -> Vec<(u16, u32, bool)> {
    let publish = |effect: &Effect| match effect {
        Effect::Send(ServerPacket::Publish(publish)) => {
            let message = std::str::from_utf8(&publish.payload).unwrap().parse().unwrap();
            Some((publish.packet_id.unwrap().get(), message, publish.dup))
        }
        _ => None,
    };
    effects.iter().filter_map(publish).collect()
}

proptest! {
    #[test]
    fn a_session_behaves_as_the_model(steps in proptest::collection::vec(any_step(), 1..120)) {
        let mut bench = Bench::new();
        bench.attach(false);
        bench.subscribe(&[("a/b", QoS::AtLeastOnce)]);
        let mut model = Model { connected: true, ..Model::default() };
        for (message, step) in (0u32..).zip(steps) {
            match step {
                Step::Deliver => {
                    let effects = bench.deliver(&[0], &message.to_string(), None);
                    prop_assert_eq!(publishes(&effects), model.deliver(message));
                }
                Step::Ack(index) if model.connected && index < model.unacked.len() => {
                    let (packet_id, _) = model.unacked.remove(index);
                    let effects = bench.packet(ClientPacket::PubAck(id(packet_id)));
                    prop_assert_eq!(publishes(&effects), model.fill());
                }
                Step::AckUnknown if model.connected => {
                    prop_assert_eq!(bench.packet(ClientPacket::PubAck(id(60_000))), []);
                }
                Step::Publish(packet_id) if model.connected => {
                    bench.publish(publish(QoS::AtLeastOnce, packet_id, "a/b", "x"));
                    model.awaiting.push(packet_id);
                }
                Step::Complete if !model.awaiting.is_empty() => {
                    let expected = Effect::Send(ServerPacket::PubAck(id(model.awaiting.remove(0))));
                    prop_assert_eq!(bench.completed(Ok(())), [expected]);
                }
                Step::Disconnect if model.connected => {
                    prop_assert!(bench.detach(CloseReason::ConnectionLost).0);
                    model.connected = false;
                    model.awaiting.clear();
                }
                Step::Reconnect if !model.connected => {
                    prop_assert_eq!(publishes(&bench.attach(false)), model.reconnect());
                }
                _ => {}
            }
            prop_assert_eq!(bench.session.inflight_count(), model.unacked.len());
            prop_assert_eq!(bench.session.queued_count(), model.waiting.len());
            prop_assert_eq!(bench.session.awaiting_count(), model.awaiting.len());
            prop_assert_eq!(bench.session.wants_deliveries(), !model.connected || model.waiting.is_empty());
        }
        prop_assert_eq!(bench.session.take_dropped(), model.dropped);
    }
}
