//! The consumer through which a stream of another account is copied: how things stand with it, what is asked for, and what
//! it sends. Without IO. Source: nats-server, `sourceInfo`, `setupMirrorConsumer`, `trySetupSourceConsumer`.

use serde::Deserialize;

use crate::consumer::config::{AckPolicy, ConsumerConfig, DeliverPolicy};
use crate::engine::time::Mono;
use crate::stream::headers;
use crate::stream::source::{ExternalStream, StreamConsumerSource, StreamSource};
use crate::types::{StreamSeq, UnixNanos};

/// How long an answer to a request for a consumer is waited for.
const ANSWER_NS: i64 = 30_000_000_000;
/// The same where a consumer is only set back.
const RESET_ANSWER_NS: i64 = 5_000_000_000;
/// Requests for a consumer are this far apart at least.
const ASK_AGAIN_NS: i64 = 2_000_000_000;
/// Each attempt that failed puts the next one off by this.
const BACKOFF_NS: i64 = 10_000_000_000;
/// But not by more than this.
const BACKOFF_NS_MAX: i64 = 120_000_000_000;
/// A consumer that says nothing for so long is given up.
const SILENCE_NS: i64 = 10_000_000_000;
/// How often it speaks at least.
const HEARTBEAT_NS: i64 = 1_000_000_000;
/// Nothing is acknowledged, so nothing is waited for.
const ACK_WAIT_NS: i64 = 22 * 3_600_000_000_000;
/// Heartbeats that say the same flow-control request is unanswered, before that is an error.
const STALLED_MAX: u32 = 3;

/// How things stand with the consumer of another account.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) external: ExternalStream,
    /// The consumer to go through, if the configuration names one.
    pub(super) given: Option<StreamConsumerSource>,
    pub(super) state: State,
    /// Attempts in a row that failed.
    fails: u32,
    asked: Option<Mono>,
    heard: Option<Mono>,
    /// The flow-control request that the consumer waits for an answer to, as it says, and how often it has said so.
    stalled: (String, u32),
    /// The stream is not the one that was copied before: it is copied from its beginning.
    pub(super) is_renewed: bool,
    /// What is listened to for nothing.
    stale: Vec<u64>,
}

/// What is under way.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum State {
    /// Nothing before this time.
    Waiting { until: Mono },
    /// A consumer is asked for.
    Asked {
        /// Where the answer comes in.
        hearing: u64,
        deliver_subject: String,
        until: Mono,
    },
    /// The consumer sends.
    Copying {
        /// Where that comes in.
        hearing: u64,
        consumer: String,
        /// Its sequence of the last message.
        delivered: u64,
    },
}

/// What the consumer says with a heartbeat.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Heartbeat {
    /// All is well.
    Well,
    /// Something that it sent did not come.
    Lost,
    /// It waits for this to be answered.
    Stalled(String),
}

impl Link {
    /// The link of a configured source; none to a stream of the same account.
    pub(super) fn of(source: &StreamSource) -> Option<Self> {
        Some(Self {
            external: source.external.clone()?,
            given: source.consumer.clone(),
            state: State::Waiting { until: Mono(0) },
            fails: 0,
            asked: None,
            heard: None,
            stalled: (String::new(), 0),
            is_renewed: false,
            stale: Vec::new(),
        })
    }

    /// Whether what comes in there is for this link.
    pub(super) fn hears(&self, hearing: u64) -> bool {
        match &self.state {
            State::Waiting { .. } => false,
            State::Asked { hearing: own, .. } | State::Copying { hearing: own, .. } => *own == hearing,
        }
    }

    /// When it has to be looked at.
    pub(super) fn deadline(&self) -> Mono {
        match &self.state {
            State::Waiting { until } => *until,
            State::Asked { until, .. } => *until,
            State::Copying { .. } => self.heard.unwrap_or_default().after(SILENCE_NS),
        }
    }

    /// When something came last.
    pub(super) fn heard_last(&self) -> Option<Mono> {
        self.heard
    }

    /// Something came.
    pub(super) fn note_heard(&mut self, now: Mono) {
        self.heard = Some(now);
    }

    /// What is no longer listened to, since the last call.
    pub(super) fn take_stale(&mut self) -> Vec<u64> {
        std::mem::take(&mut self.stale)
    }

    /// Begins anew, as soon as another request may be made.
    pub(super) fn restart(&mut self) {
        let again = self.asked.map_or(Mono(0), |asked| asked.after(ASK_AGAIN_NS));
        self.enter(State::Waiting { until: again });
    }

    /// An attempt failed: the next one is later each time.
    pub(super) fn fail(&mut self, now: Mono) {
        self.fails = self.fails.saturating_add(1);
        let backoff = i64::from(self.fails)
            .saturating_mul(BACKOFF_NS)
            .min(BACKOFF_NS_MAX);
        let earliest = self.asked.map_or(now, |asked| asked.after(ASK_AGAIN_NS)).max(now);
        self.enter(State::Waiting {
            until: earliest.after(backoff),
        });
    }

    /// A consumer was asked for, that is to send to `deliver_subject`.
    pub(super) fn ask(&mut self, now: Mono, hearing: u64, deliver_subject: String) {
        self.asked = Some(now);
        let patience = if self.given.is_some() {
            RESET_ANSWER_NS
        } else {
            ANSWER_NS
        };
        self.enter(State::Asked {
            hearing,
            deliver_subject,
            until: now.after(patience),
        });
    }

    /// The consumer is there.
    pub(super) fn begin(&mut self, now: Mono, hearing: u64, consumer: String) {
        self.fails = 0;
        self.heard = Some(now);
        self.stalled = (String::new(), 0);
        self.is_renewed = false;
        self.enter(State::Copying {
            hearing,
            consumer,
            delivered: 0,
        });
    }

    /// Nothing is listened to any more.
    pub(super) fn end(&mut self) {
        self.enter(State::Waiting {
            until: Mono(u64::MAX),
        });
    }

    fn enter(&mut self, state: State) {
        match std::mem::replace(&mut self.state, state) {
            State::Waiting { .. } => {}
            State::Asked { hearing, .. } | State::Copying { hearing, .. } => self.stale.push(hearing),
        }
    }

    /// What a heartbeat says.
    pub(super) fn heartbeat(&mut self, block: &[u8]) -> Heartbeat {
        let State::Copying { delivered, .. } = &self.state else {
            return Heartbeat::Well;
        };
        let sent = headers::field(block, "Nats-Last-Consumer").and_then(|seq| seq.parse::<u64>().ok());
        if sent.is_some_and(|sent| sent > 0 && sent != *delivered) {
            return Heartbeat::Lost;
        }
        match headers::field(block, "Nats-Consumer-Stalled") {
            Some(request) if !request.is_empty() => {
                if self.stalled.0 != request {
                    self.stalled = (request.to_owned(), 0);
                }
                self.stalled.1 += 1;
                Heartbeat::Stalled(request.to_owned())
            }
            _ => {
                self.stalled = (String::new(), 0);
                Heartbeat::Well
            }
        }
    }

    /// A message came: answers to flow control arrive.
    pub(super) fn is_flowing(&mut self) {
        self.stalled = (String::new(), 0);
    }

    /// Whether answers to flow control do not arrive.
    pub(super) fn is_stalled(&self) -> bool {
        self.stalled.1 >= STALLED_MAX
    }

    /// `$JS.API…` as the other account offers it.
    pub(super) fn api_subject(&self, request: &str) -> String {
        format!("{}.{request}", self.external.api).replace("..", ".")
    }

    /// Where the consumer is to send to.
    pub(super) fn deliver_subject(&self, is_mirror: bool, random: &str) -> String {
        let kind = if is_mirror { 'M' } else { 'S' };
        match (&self.given, self.external.deliver.as_str()) {
            (Some(given), _) => given.deliver_subject.clone(),
            (None, "") => format!("$JS.{kind}.{random}"),
            (None, prefix) => format!("{prefix}.{kind}.{random}").replace("..", "."),
        }
    }
}

/// The consumer that `source` is copied through, but for where it begins. `about`: name, account and domain of the copy.
pub(super) fn consumer_of(
    source: &StreamSource,
    is_mirror: bool,
    name: String,
    deliver_subject: String,
    (stream, account, domain): (&str, &str, Option<&str>),
) -> ConsumerConfig {
    let of = if is_mirror { "mirror" } else { "src" };
    let about = [
        ("stream", Some(stream)),
        ("acc", Some(account)),
        ("domain", domain),
    ];
    let metadata = about
        .into_iter()
        .filter_map(|(key, value)| Some((format!("_nats.{of}.{key}"), value?.to_owned())));
    let mut config = ConsumerConfig {
        name,
        deliver_subject,
        ack_policy: AckPolicy::None,
        ack_wait: ACK_WAIT_NS,
        max_deliver: 1,
        idle_heartbeat: HEARTBEAT_NS,
        flow_control: true,
        direct: true,
        sourcing: true,
        inactive_threshold: SILENCE_NS,
        metadata: metadata.collect(),
        filter_subject: source.filter_subject.clone(),
        ..ConsumerConfig::default()
    };
    let filters = source.subject_transforms.iter().map(|transform| &transform.src);
    let mut filters: Vec<String> = filters.cloned().collect();
    if config.filter_subject.is_empty() && filters.len() == 1 {
        config.filter_subject = filters.remove(0);
    }
    config.filter_subjects = filters;
    config
}

/// Sets where a consumer begins: behind what was copied, or where `source` says.
pub(super) fn set_start(config: &mut ConsumerConfig, source: &StreamSource, next_seq: u64) {
    if next_seq > 1 {
        (config.deliver_policy, config.opt_start_seq) = (DeliverPolicy::ByStartSequence, next_seq);
    } else if source.opt_start_seq > 0 {
        config.deliver_policy = DeliverPolicy::ByStartSequence;
        config.opt_start_seq = source.opt_start_seq;
    } else if source.opt_start_time.is_some() {
        config.deliver_policy = DeliverPolicy::ByStartTime;
        config.opt_start_time = source.opt_start_time;
    }
}

/// The answer to a request for a consumer, as far as it matters here.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Created {
    pub(super) error: Option<Refusal>,
    pub(super) name: String,
    pub(super) config: Option<CreatedConfig>,
    pub(super) delivered: Delivered,
}

/// Why there is no consumer.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Refusal {
    pub(super) code: u16,
    pub(super) err_code: u16,
    pub(super) description: String,
}

/// What became of what was asked for.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct CreatedConfig {
    pub(super) deliver_subject: String,
    pub(super) ack_policy: String,
}

/// Where the consumer stands.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Delivered {
    pub(super) stream_seq: u64,
}

/// What the reply subject of a message says of it: `$JS.ACK.<stream>.<consumer>.<deliveries>.<stream sequence>.<consumer
/// sequence>.<time>.<pending>`, or the same with a domain and an account before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Sent<'a> {
    pub(super) consumer: &'a str,
    pub(super) deliveries: u64,
    pub(super) seq: StreamSeq,
    pub(super) consumer_seq: u64,
    pub(super) time: UnixNanos,
    pub(super) pending: u64,
}

impl<'a> Sent<'a> {
    /// None: the reply is none of a consumer's.
    pub(super) fn parse(reply: &'a str) -> Option<Self> {
        let tokens: Vec<&str> = reply.strip_prefix("$JS.ACK.")?.split('.').collect();
        let tokens = match tokens.len() {
            7 => tokens.as_slice(),
            9.. => tokens.get(2..)?,
            _ => return None,
        };
        let number = |index: usize| tokens.get(index)?.parse::<u64>().ok();
        Some(Self {
            consumer: tokens.get(1)?,
            deliveries: number(2)?,
            seq: StreamSeq(number(3)?),
            consumer_seq: number(4)?,
            time: UnixNanos(i64::try_from(number(5)?).ok()?),
            pending: number(6)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link() -> Link {
        let source: StreamSource =
            serde_json::from_str(r#"{"name":"O","external":{"api":"far.API","deliver":"to.me"}}"#).unwrap();
        Link::of(&source).unwrap()
    }

    #[test]
    fn attempts_that_fail_are_further_and_further_apart() {
        let mut link = link();
        assert_eq!(link.deadline(), Mono(0));
        let mut now = Mono(1);
        let mut waits = Vec::new();
        for hearing in 0..14 {
            link.ask(now, hearing, String::new());
            assert!(link.hears(hearing));
            now = link.deadline();
            link.fail(now);
            waits.push(link.deadline().since(now) / 1_000_000_000);
            now = link.deadline();
        }
        assert_eq!((waits[0], waits[1], waits[13]), (10, 20, 120));
        assert_eq!(link.take_stale().len(), 14);
    }

    #[test]
    fn a_consumer_that_lost_something_or_waits_is_noticed() {
        let mut link = link();
        link.ask(Mono(1), 1, String::new());
        link.begin(Mono(2), 2, "C".to_owned());
        if let State::Copying { delivered, .. } = &mut link.state {
            *delivered = 3;
        }
        let block = |fields: &str| format!("NATS/1.0 100 Idle Heartbeat\r\n{fields}\r\n");
        let mut said = |fields: &str| link.heartbeat(block(fields).as_bytes());
        assert_eq!(said("Nats-Last-Consumer: 3\r\n"), Heartbeat::Well);
        assert_eq!(said("Nats-Last-Consumer: 4\r\n"), Heartbeat::Lost);
        let stalled = "Nats-Last-Consumer: 3\r\nNats-Consumer-Stalled: $JS.FC.O.C.1\r\n";
        for _ in 0..3 {
            assert_eq!(said(stalled), Heartbeat::Stalled("$JS.FC.O.C.1".to_owned()));
        }
        assert!(link.is_stalled());
        link.is_flowing();
        assert!(!link.is_stalled());
        link.restart();
        assert_eq!(link.take_stale(), [1, 2]);
        assert_eq!(link.deadline(), Mono(1).after(ASK_AGAIN_NS));
    }

    #[test]
    fn replies_of_both_forms_are_read() {
        let sent = Sent {
            consumer: "C",
            deliveries: 1,
            seq: StreamSeq(7),
            consumer_seq: 6,
            time: UnixNanos(99),
            pending: 4,
        };
        assert_eq!(Sent::parse("$JS.ACK.O.C.1.7.6.99.4"), Some(sent));
        assert_eq!(Sent::parse("$JS.ACK.hub.hash.O.C.1.7.6.99.4.x"), Some(sent));
        for other in [
            "",
            "$JS.ACK.O.C.1.7.6.99",
            "$JS.ACK.O.C.1.x.6.99.4",
            "$JS.FC.O.C.1",
        ] {
            assert_eq!(Sent::parse(other), None, "{other}");
        }
    }

    #[test]
    fn subjects_have_the_prefixes() {
        let mut link = link();
        assert_eq!(link.api_subject("CONSUMER.CREATE.O"), "far.API.CONSUMER.CREATE.O");
        assert_eq!(link.deliver_subject(true, "x"), "to.me.M.x");
        link.external.deliver.clear();
        assert_eq!(link.deliver_subject(false, "x"), "$JS.S.x");
    }
}
