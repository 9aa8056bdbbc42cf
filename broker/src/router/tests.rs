use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::subject::matches;

#[derive(Clone, Debug)]
enum Step {
    Subscribe {
        client: usize,
        filter: String,
        queue: Option<&'static str>,
        max: Option<u64>,
    },
    Unsubscribe(prop::sample::Index),
    Capture {
        stream: u32,
        filter: Option<String>,
    },
    Publish {
        sender: usize,
        subject: String,
    },
    Flush {
        sender: usize,
    },
}

fn token() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec!["a", "b", "c"])
}

fn filter() -> impl Strategy<Value = String> {
    let token = prop_oneof![3 => token(), 1 => Just("*")];
    (prop::collection::vec(token, 0..3), prop::bool::ANY).prop_filter_map("empty", |(mut tokens, full)| {
        if full {
            tokens.push(">");
        }
        (!tokens.is_empty()).then(|| tokens.join("."))
    })
}

/// Mostly valid subjects; a few with an empty last token or a wildcard in it.
fn subject() -> impl Strategy<Value = String> {
    let last = prop_oneof![8 => token(), 1 => Just(""), 1 => Just("*")];
    (prop::collection::vec(token(), 0..3), last).prop_filter_map("empty", |(mut tokens, last)| {
        tokens.push(last);
        let subject = tokens.join(".");
        (!subject.is_empty()).then_some(subject)
    })
}

fn step() -> impl Strategy<Value = Step> {
    let queue = prop::option::weighted(0.4, prop::sample::select(vec!["q", "r"]));
    prop_oneof![
        2 => (0..3_usize, filter(), queue, prop::option::weighted(0.2, 1..4_u64))
            .prop_map(|(client, filter, queue, max)| Step::Subscribe { client, filter, queue, max }),
        1 => any::<prop::sample::Index>().prop_map(Step::Unsubscribe),
        1 => (0..2_u32, prop::option::of(filter())).prop_map(|(stream, filter)| Step::Capture { stream, filter }),
        8 => (0..2_usize, subject()).prop_map(|(sender, subject)| Step::Publish { sender, subject }),
        1 => (0..2_usize).prop_map(|sender| Step::Flush { sender }),
    ]
}

/// A subscription as the naive router keeps it.
struct Held {
    subscription: Arc<Subscription>,
    client: usize,
    left: Option<u64>,
}

impl Held {
    fn wants(&self, subject: &str) -> bool {
        let has_empty_token = subject.split('.').any(str::is_empty);
        self.left != Some(0) && !has_empty_token && matches(self.subscription.subject(), subject)
    }
}

struct World {
    router: Router,
    clients: Vec<Arc<LocalQueue>>,
    senders: Vec<OutBatch>,
    held: Vec<Held>,
    streams: BTreeMap<u32, String>,
    /// What each client is to have got from plain subscriptions, and how many it got from queue groups.
    expected: Vec<Vec<(SubId, String)>>,
    number: u64,
}

impl World {
    fn new() -> Self {
        let clients = (10..13).map(|id| Arc::new(LocalQueue::new(ClientId(id), 1 << 20, Arc::default())));
        Self {
            router: Router::new(),
            clients: clients.collect(),
            senders: vec![OutBatch::new(ClientId(1)), OutBatch::new(ClientId(2))],
            held: Vec::new(),
            streams: BTreeMap::new(),
            expected: vec![Vec::new(); 3],
            number: 0,
        }
    }

    fn step(&mut self, step: Step) -> Result<(), TestCaseError> {
        match step {
            Step::Subscribe {
                client,
                filter,
                queue,
                max,
            } => {
                self.number += 1;
                let target = Target::Local(Arc::clone(&self.clients[client]));
                let subscription = self
                    .router
                    .subscribe(&target, &filter, queue, &self.number.to_le_bytes());
                if let Some(max) = max {
                    prop_assert!(!subscription.limit(max));
                }
                self.held.push(Held {
                    subscription,
                    client,
                    left: max,
                });
            }
            Step::Unsubscribe(index) if !self.held.is_empty() => {
                let held = self.held.remove(index.index(self.held.len()));
                self.router.unsubscribe(&held.subscription);
            }
            Step::Unsubscribe(_) => {}
            Step::Capture { stream, filter } => {
                let overlaps = |other: &String| {
                    filter
                        .as_ref()
                        .is_some_and(|filter| subject::overlaps(filter, other))
                };
                if self
                    .streams
                    .iter()
                    .any(|(id, other)| *id != stream && overlaps(other))
                {
                    return Ok(());
                }
                self.router
                    .set_stream_subjects(StreamId(stream), filter.as_slice());
                self.streams.remove(&stream);
                self.streams.extend(filter.map(|filter| (stream, filter)));
            }
            Step::Publish { sender, subject } => self.publish(sender, &subject)?,
            Step::Flush { sender } => self.senders[sender].flush(),
        }
        Ok(())
    }

    fn publish(&mut self, sender: usize, subject: &str) -> Result<(), TestCaseError> {
        let message = Message {
            subject,
            reply: None,
            headers: b"",
            payload: b"x",
        };
        let before: Vec<u64> = self
            .held
            .iter()
            .map(|held| held.subscription.delivered())
            .collect();
        let routed = self.router.route_publish(&message, &mut self.senders[sender]);
        let mut groups: BTreeMap<String, (bool, u64)> = BTreeMap::new();
        let mut receivers = 0;
        for (held, before) in self.held.iter_mut().zip(before) {
            let got = held.subscription.delivered() - before;
            let wants = held.wants(subject);
            match held.subscription.queue() {
                None => prop_assert_eq!(got, u64::from(wants)),
                Some(queue) => {
                    let group = groups.entry(queue.to_owned()).or_default();
                    group.0 |= wants;
                    group.1 += got;
                    prop_assert!(got == 0 || wants);
                }
            }
            if got > 0 {
                receivers += 1;
                held.left = held.left.map(|left| left - 1);
                self.expected[held.client].push((SubId::of(&held.subscription), subject.to_owned()));
            }
        }
        for (wanted, got) in groups.values() {
            prop_assert_eq!(*got, u64::from(*wanted), "each group gets it once");
        }
        prop_assert_eq!(routed.receivers, receivers);
        let valid = subject::is_valid_filter(subject);
        let stream = self
            .streams
            .iter()
            .find(|(_, filter)| valid && matches(filter, subject));
        prop_assert_eq!(routed.bound, stream.map(|(id, _)| JsKind::Publish(StreamId(*id))));
        Ok(())
    }
}

proptest! {
    /// Whatever a sender remembers of routes, each message goes where a walk over all subscriptions would send it.
    #[test]
    fn routes_are_those_of_a_naive_router(steps in prop::collection::vec(step(), 1..80)) {
        let mut world = World::new();
        for step in steps {
            world.step(step)?;
        }
        world.senders.iter_mut().for_each(OutBatch::flush);
        for (client, expected) in world.clients.iter().zip(&mut world.expected) {
            let deliveries = client.take().flatten().unwrap_or_default();
            let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
            let mut got: Vec<(SubId, String)> =
                deliveries.iter().map(|delivery| (delivery.sub, text(&delivery.subject))).collect();
            got.sort();
            expected.sort();
            prop_assert_eq!(&got, &*expected);
        }
        let live = world.held.iter().filter(|held| held.left != Some(0)).count();
        prop_assert_eq!(world.router.subscription_count(), live);
    }
}

#[test]
fn requests_of_one_mux_are_remembered_as_one_route() {
    let router = Router::new();
    let queue = Arc::new(LocalQueue::new(ClientId(9), 1 << 20, Arc::default()));
    router.subscribe(&Target::Local(queue), "_INBOX.abc.*", None, &1_u64.to_le_bytes());
    let mut out = OutBatch::new(ClientId::BROKER);
    for number in 0..1000 {
        let subject = format!("_INBOX.abc.{number}");
        let message = Message {
            subject: &subject,
            reply: None,
            headers: b"",
            payload: b"",
        };
        assert_eq!(router.route(&message, &mut out), 1);
    }
    assert_eq!(router.changes().lookups, 1);
}

#[test]
fn jetstream_takes_its_own_subjects() {
    let router = Router::new();
    let mut out = OutBatch::new(ClientId::BROKER);
    let mut bound = |subject: &str| {
        router
            .route_publish(
                &Message {
                    subject,
                    reply: None,
                    headers: b"",
                    payload: b"",
                },
                &mut out,
            )
            .bound
    };
    assert_eq!(bound("$JS.API.INFO"), Some(JsKind::Api));
    assert_eq!(bound("$JS.API.STREAM.NAMES"), Some(JsKind::Api));
    assert_eq!(bound("$JS.ACK.S.C.1.1.1.1.0"), Some(JsKind::Ack));
    assert_eq!(bound("$JS.API"), None);
    assert_eq!(bound("$JS.EVENT.x"), None);
}

#[test]
fn requests_may_name_the_servers_domain() {
    let router = Router::of(AccountId::GLOBAL, Arc::default(), Some("hub".into()));
    let bound = |subject: &str| router.receivers(subject).bound;
    for known in ["$JS.API.INFO", "$JS.hub.API.INFO", "$JS.hub.API.DIRECT.GET.S"] {
        assert_eq!(bound(known), Some(JsKind::Api), "{known}");
    }
    for unknown in [
        "$JS.other.API.INFO",
        "$JS.hub.ACK.S",
        "$JS.hub",
        "$JS.hubAPI.INFO",
    ] {
        assert_eq!(bound(unknown), None, "{unknown}");
    }
    router.set_jetstream(JetStreamUse::Told);
    assert_eq!(bound("$JS.hub.API.STREAM.NAMES"), Some(JsKind::Api));
    assert_eq!(bound("$JS.API.DIRECT.GET.S"), None);
    router.set_jetstream(JetStreamUse::ToldAlways);
    assert_eq!(bound("$JS.API.DIRECT.GET.S"), Some(JsKind::Api));
    assert_eq!(bound("$JS.ACK.S.C.1.1.1.1.1"), None);
}
