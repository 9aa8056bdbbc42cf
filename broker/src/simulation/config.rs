//! Random configurations of streams and consumers, as the workload asks for them and the oracle knows them.

use serde_json::{Value, json};

use crate::env::sim::SplitMix;

/// One second, in nanoseconds.
pub(super) const SECOND: i64 = 1_000_000_000;
/// The streams that a run may have: name and first tokens of their subjects.
pub(super) const STREAMS: [(&str, &str); 4] = [("S", "s"), ("Q", "q"), ("KV_k", "$KV.k"), ("M", "m")];
/// Last tokens of subjects.
pub(super) const KEYS: [&str; 4] = ["a", "b", "c", "d"];
/// The consumers that a stream may have.
pub(super) const CONSUMERS: [&str; 4] = ["one", "two", "push", "eph"];

/// How messages leave a stream of themselves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Retention {
    Limits,
    Interest,
    WorkQueue,
}

/// A stream, as far as the oracle cares.
#[derive(Clone, Debug)]
pub(super) struct StreamConfig {
    pub(super) name: &'static str,
    pub(super) tree: &'static str,
    /// Tells this configuration from all others of the run.
    pub(super) mark: String,
    pub(super) retention: Retention,
    pub(super) in_memory: bool,
    pub(super) max_msgs: Option<u64>,
    pub(super) max_bytes: Option<u64>,
    pub(super) max_per_subject: Option<u64>,
    pub(super) max_msg_size: Option<u64>,
    pub(super) max_age: i64,
    pub(super) discard_new: bool,
    pub(super) discard_new_per_subject: bool,
    pub(super) duplicate_window: i64,
    pub(super) no_ack: bool,
    pub(super) allow_direct: bool,
    pub(super) allow_rollup: bool,
    pub(super) allow_ttl: bool,
    pub(super) deny_delete: bool,
    pub(super) deny_purge: bool,
    pub(super) first_seq: u64,
}

impl StreamConfig {
    /// Any configuration of stream number `slot`.
    pub(super) fn random(rng: &mut SplitMix, slot: usize, mark: String) -> Self {
        let (name, tree) = STREAMS[slot];
        let limit = |rng: &mut SplitMix, percent, from: u64, span: u64| {
            rng.chance(percent).then(|| from + rng.below(span))
        };
        let retention = match rng.below(100) {
            _ if slot == 2 => Retention::Limits,
            0..50 => Retention::Limits,
            50..75 => Retention::Interest,
            _ => Retention::WorkQueue,
        };
        let max_per_subject = if slot == 2 {
            Some(1 + rng.below(3))
        } else {
            limit(rng, 20, 1, 4)
        };
        let max_age = if rng.chance(10) {
            SECOND + rng.below(20) as i64 * SECOND
        } else {
            0
        };
        let discard_new = slot == 2 || rng.chance(25);
        let deny_purge = rng.chance(5);
        Self {
            name,
            tree,
            mark,
            retention,
            in_memory: slot == 3 && rng.chance(50),
            max_msgs: limit(rng, 25, 1, 12),
            max_bytes: limit(rng, 15, 300, 2000),
            max_per_subject,
            max_msg_size: limit(rng, 10, 60, 400),
            max_age,
            discard_new,
            discard_new_per_subject: discard_new && slot != 2 && max_per_subject.is_some() && rng.chance(50),
            duplicate_window: SECOND * [1, 10, 120][rng.below(3) as usize],
            no_ack: rng.chance(4),
            allow_direct: rng.chance(60),
            allow_rollup: !deny_purge && rng.chance(50),
            allow_ttl: rng.chance(30),
            deny_delete: rng.chance(5),
            deny_purge,
            first_seq: if rng.chance(10) { 1 + rng.below(500) } else { 1 },
        }
        .valid()
    }

    fn valid(mut self) -> Self {
        if self.max_age > 0 {
            self.duplicate_window = self.duplicate_window.min(self.max_age);
        }
        self
    }

    /// The same stream with other limits.
    pub(super) fn changed(&self, rng: &mut SplitMix, mark: String) -> Self {
        let mut new = self.clone();
        new.mark = mark;
        match rng.below(5) {
            0 => new.max_msgs = rng.chance(60).then(|| 1 + rng.below(12)),
            1 => new.max_bytes = rng.chance(60).then(|| 300 + rng.below(2000)),
            2 if !self.discard_new_per_subject => {
                new.max_per_subject = rng.chance(60).then(|| 1 + rng.below(4));
            }
            3 => new.duplicate_window = SECOND * [1, 10, 120][rng.below(3) as usize],
            _ => {
                new.max_age = if rng.chance(50) {
                    0
                } else {
                    SECOND * (1 + rng.below(20) as i64)
                }
            }
        }
        new.valid()
    }

    /// By its mark, which is another one for each change: compression is switched on and off.
    fn is_compressed(&self) -> bool {
        self.mark
            .bytes()
            .last()
            .is_some_and(|last| last.is_multiple_of(2))
    }

    /// A request's payload.
    pub(super) fn json(&self) -> String {
        let number = |value: Option<u64>| value.map_or(-1, |value| value as i64);
        json!({
            "name": self.name,
            "description": self.mark,
            "subjects": [format!("{}.*", self.tree)],
            "retention": match self.retention {
                Retention::Limits => "limits",
                Retention::Interest => "interest",
                Retention::WorkQueue => "workqueue",
            },
            "storage": if self.in_memory { "memory" } else { "file" },
            "compression": if self.is_compressed() { "s2" } else { "none" },
            "max_msgs": number(self.max_msgs),
            "max_bytes": number(self.max_bytes),
            "max_msgs_per_subject": number(self.max_per_subject),
            "max_msg_size": number(self.max_msg_size),
            "max_age": self.max_age,
            "discard": if self.discard_new { "new" } else { "old" },
            "discard_new_per_subject": self.discard_new_per_subject,
            "duplicate_window": self.duplicate_window,
            "no_ack": self.no_ack,
            "allow_direct": self.allow_direct,
            "allow_rollup_hdrs": self.allow_rollup,
            "allow_msg_ttl": self.allow_ttl,
            "deny_delete": self.deny_delete,
            "deny_purge": self.deny_purge,
            "first_seq": self.first_seq,
            "num_replicas": 1,
        })
        .to_string()
    }
}

/// Which messages have to be acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AckPolicy {
    None,
    All,
    Explicit,
}

/// Where a consumer starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Start {
    All,
    New,
    Last,
    Sequence(u64),
    LastPerSubject,
}

/// Whether a filter for these last tokens lets a subject pass.
pub(super) fn are_wanted(keys: &[&str], subject: &str) -> bool {
    let is_last = |key: &&str| subject.rsplit_once('.').is_some_and(|(_, last)| last == *key);
    keys.is_empty() || keys.iter().any(is_last)
}

/// How the clients of a pull consumer share it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sharing {
    /// In turn.
    Turns,
    Overflow,
    Pinned,
    Prioritized,
}

/// How long a pinned client may be silent.
pub(super) const PIN_NS: u64 = 3 * SECOND as u64;

/// A consumer, as far as the oracle cares.
#[derive(Clone, Debug)]
pub(super) struct ConsumerConfig {
    pub(super) name: &'static str,
    pub(super) mark: String,
    pub(super) is_durable: bool,
    pub(super) deliver_subject: Option<String>,
    pub(super) flow_control: bool,
    pub(super) sharing: Sharing,
    pub(super) start: Start,
    pub(super) ack: AckPolicy,
    /// By delivery; the last one counts for all further ones.
    pub(super) waits: Vec<i64>,
    pub(super) max_deliver: Option<u64>,
    pub(super) max_ack_pending: u64,
    /// Last tokens; empty: all.
    pub(super) keys: Vec<&'static str>,
    pub(super) headers_only: bool,
    pub(super) in_memory: bool,
    pub(super) inactive_ns: i64,
}

impl ConsumerConfig {
    /// Any configuration of consumer number `slot` of `stream`.
    pub(super) fn random(
        rng: &mut SplitMix,
        slot: usize,
        stream: &StreamConfig,
        last_seq: u64,
        mark: String,
    ) -> Self {
        let is_queue = stream.retention == Retention::WorkQueue;
        let is_push = slot == 2 || (slot == 3 && rng.chance(30));
        let ack = match rng.below(10) {
            _ if is_queue => AckPolicy::Explicit,
            0..6 => AckPolicy::Explicit,
            6..8 => AckPolicy::All,
            _ => AckPolicy::None,
        };
        let keys = match rng.below(4) {
            0 => vec![KEYS[slot]],
            1 => vec![KEYS[slot % 2 * 2], KEYS[slot % 2 * 2 + 1]],
            _ => Vec::new(),
        };
        let start = match rng.below(10) {
            _ if is_queue => Start::All,
            0..5 => Start::All,
            5 => Start::New,
            6 => Start::Last,
            7 => Start::Sequence(1 + rng.below(last_seq + 3)),
            _ if !keys.is_empty() => Start::LastPerSubject,
            _ => Start::All,
        };
        let waits = match rng.below(3) {
            0 => (0..2)
                .map(|_| SECOND / 2 + rng.below(3 * SECOND as u64) as i64)
                .collect(),
            _ => vec![SECOND + rng.below(5 * SECOND as u64) as i64],
        };
        let max_deliver = rng.chance(30).then(|| waits.len() as u64 + rng.below(4));
        let is_durable = slot != 3;
        let sharing = match rng.below(12) {
            _ if is_push => Sharing::Turns,
            0 => Sharing::Overflow,
            1 => Sharing::Pinned,
            2 => Sharing::Prioritized,
            _ => Sharing::Turns,
        };
        Self {
            name: CONSUMERS[slot],
            mark,
            is_durable,
            deliver_subject: is_push.then(|| format!("deliver.{}.{slot}", stream.name)),
            flow_control: is_push && rng.chance(50),
            sharing,
            start,
            ack,
            waits,
            max_deliver,
            max_ack_pending: if rng.chance(40) { 1 + rng.below(6) } else { 1000 },
            keys,
            headers_only: rng.chance(10),
            in_memory: !is_durable && rng.chance(50),
            inactive_ns: if is_durable {
                0
            } else {
                SECOND * (2 + rng.below(60) as i64)
            },
        }
    }

    /// How long a message waits for its acknowledgement after its `deliveries`th delivery.
    pub(super) fn wait(&self, deliveries: u64) -> u64 {
        let index = (deliveries.saturating_sub(1) as usize).min(self.waits.len() - 1);
        self.waits[index] as u64
    }

    /// Whether a subject is wanted.
    pub(super) fn wants(&self, subject: &str) -> bool {
        are_wanted(&self.keys, subject)
    }

    /// The same consumer with other values of what may be changed.
    pub(super) fn changed(
        &self,
        rng: &mut SplitMix,
        slot: usize,
        stream: &StreamConfig,
        mark: String,
    ) -> Self {
        let fresh = Self::random(rng, slot, stream, 0, mark);
        let mut new = self.clone();
        new.mark = fresh.mark;
        match rng.below(5) {
            0 => (new.waits, new.max_deliver) = (fresh.waits, fresh.max_deliver),
            1 => new.max_ack_pending = fresh.max_ack_pending,
            2 => new.headers_only = fresh.headers_only,
            3 if !self.is_durable => new.inactive_ns = fresh.inactive_ns,
            // Policy last_per_subject asks for a filter.
            _ if self.start == Start::LastPerSubject && fresh.keys.is_empty() => {}
            _ => new.keys = fresh.keys,
        }
        new
    }

    /// The payload of a request that creates it, or updates it.
    pub(super) fn json(&self, stream: &StreamConfig, is_update: bool) -> String {
        let filters: Vec<String> = self
            .keys
            .iter()
            .map(|key| format!("{}.{key}", stream.tree))
            .collect();
        let mut config = json!({
            "name": self.name,
            "description": self.mark,
            "ack_policy": match self.ack {
                AckPolicy::None => "none",
                AckPolicy::All => "all",
                AckPolicy::Explicit => "explicit",
            },
            "filter_subjects": filters,
            "headers_only": self.headers_only,
            "mem_storage": self.in_memory,
            "num_replicas": 0,
        });
        let mut set = |name: &str, value: Value| config[name] = value;
        if self.is_durable {
            set("durable_name", self.name.into());
        } else {
            set("inactive_threshold", self.inactive_ns.into());
        }
        if let Some(subject) = &self.deliver_subject {
            set("deliver_subject", subject.as_str().into());
            if self.flow_control {
                set("flow_control", true.into());
                set("idle_heartbeat", SECOND.into());
            }
        }
        let policy = match self.sharing {
            Sharing::Turns => None,
            Sharing::Overflow => Some("overflow"),
            Sharing::Pinned => Some("pinned_client"),
            Sharing::Prioritized => Some("prioritized"),
        };
        if let Some(policy) = policy {
            set("priority_policy", policy.into());
            set("priority_groups", json!(["g"]));
        }
        if self.sharing == Sharing::Pinned {
            set("priority_timeout", PIN_NS.into());
        }
        let (policy, seq) = match self.start {
            Start::All => ("all", None),
            Start::New => ("new", None),
            Start::Last => ("last", None),
            Start::Sequence(seq) => ("by_start_sequence", Some(seq)),
            Start::LastPerSubject => ("last_per_subject", None),
        };
        set("deliver_policy", policy.into());
        if let Some(seq) = seq {
            set("opt_start_seq", seq.into());
        }
        if self.ack != AckPolicy::None {
            set("max_ack_pending", self.max_ack_pending.into());
            if let Some(max) = self.max_deliver {
                set("max_deliver", max.into());
            }
            if self.waits.len() > 1 {
                set("backoff", self.waits.clone().into());
            } else {
                set("ack_wait", self.waits[0].into());
            }
        }
        let action = if is_update { "update" } else { "" };
        json!({"stream_name": stream.name, "config": config, "action": action}).to_string()
    }
}
