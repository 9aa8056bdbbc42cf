//! What the answer to a publish must be, by JetStream's rules.

use std::collections::BTreeMap;

use super::streams::{Message, Sent, StreamModel};

/// Where an id leads within the duplicate window.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seen {
    pub(super) seq: u64,
    pub(super) at: u64,
    /// A restart may have forgotten it.
    pub(super) is_certain: bool,
}

/// What a publish asks for.
#[derive(Clone, Debug, Default)]
pub(super) struct Asked {
    pub(super) msg_id: Option<String>,
    pub(super) expected_last_id: Option<String>,
    pub(super) resend: Option<(String, bool)>,
    pub(super) expected_stream: Option<String>,
    pub(super) expected_last_seq: Option<u64>,
    pub(super) expected_subject_seq: Option<u64>,
    pub(super) rollup: Option<&'static str>,
    pub(super) ttl_seconds: Option<u64>,
}

/// What the answer to a publish must be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Stored,
    Duplicate(u64),
    /// Stored, or a duplicate of this: the window may have forgotten it.
    Either(u64),
    Refused(u64),
    /// Refused, or a duplicate.
    RefusedOr(u64, u64),
}

impl Verdict {
    /// Whether the answer may be that the message is a duplicate of `seq`.
    pub(super) fn may_repeat(&self, seq: u64) -> bool {
        match self {
            Self::Duplicate(known) | Self::Either(known) | Self::RefusedOr(_, known) => *known == seq,
            Self::Stored | Self::Refused(_) => false,
        }
    }
}

impl StreamModel {
    /// What must become of a publish, in the order in which JetStream checks.
    pub(super) fn verdict(&self, now: u64, subject: &str, sent: &Sent, asked: &Asked) -> Verdict {
        if let Some((key, true)) = &asked.resend
            && let Some(known @ Verdict::Duplicate(_)) = self.find(&self.resends, key, now)
        {
            return known;
        }
        let mut duplicate = match &asked.resend {
            Some((key, true)) => match self.find(&self.resends, key, now) {
                Some(Verdict::Either(seq)) => Some(seq),
                _ => None,
            },
            _ => None,
        };
        if asked.ttl_seconds.is_some() && !self.config.allow_ttl {
            return Verdict::Refused(10166);
        }
        if asked
            .expected_stream
            .as_ref()
            .is_some_and(|name| *name != self.config.name)
        {
            return Verdict::Refused(10060);
        }
        let last_of_subject = self.of_subject(subject).last().copied().unwrap_or(0);
        if asked
            .expected_subject_seq
            .is_some_and(|seq| seq != last_of_subject)
            || asked.expected_last_seq.is_some_and(|seq| seq != self.last)
        {
            return Verdict::Refused(10071);
        }
        if let Some(id) = &asked.msg_id {
            match self.find(&self.ids, id, now) {
                Some(Verdict::Duplicate(seq)) => return Verdict::Duplicate(seq),
                Some(Verdict::Either(seq)) => duplicate = Some(seq),
                _ => {}
            }
        }
        let is_other_id = |last: &String| asked.expected_last_id.as_ref().is_some_and(|id| id != last);
        let refused = match &self.last_id {
            Some(last) if is_other_id(last) => Some(10070),
            _ => self.refusal(subject, sent, asked),
        };
        match (refused, duplicate) {
            (None, Some(seq)) => Verdict::Either(seq),
            (None, None) => Verdict::Stored,
            (Some(code), Some(seq)) => Verdict::RefusedOr(code, seq),
            (Some(code), None) => Verdict::Refused(code),
        }
    }

    /// The same if the expected positions and the expected id are the last ones, as they may be where the last one is uncertain.
    pub(super) fn unbound_verdict(&self, now: u64, sent: &Sent, asked: &Asked) -> Verdict {
        let unbound = Asked {
            expected_last_seq: None,
            expected_subject_seq: None,
            expected_last_id: None,
            ..asked.clone()
        };
        self.verdict(now, &sent.subject, sent, &unbound)
    }

    fn refusal(&self, subject: &str, sent: &Sent, asked: &Asked) -> Option<u64> {
        let config = &self.config;
        if asked.rollup.is_some() && !config.allow_rollup {
            return Some(10111);
        }
        // What is stored with a resend key is not what was sent.
        let headers = if asked.resend.is_some() {
            0
        } else {
            sent.headers.len()
        };
        let bytes = (headers + sent.payload.len()) as u64;
        if config.max_msg_size.is_some_and(|max| bytes > max) {
            return Some(10054);
        }
        if !config.discard_new {
            return None;
        }
        let mut replaces = false;
        if config
            .max_per_subject
            .is_some_and(|max| self.of_subject(subject).len() as u64 >= max)
        {
            if config.discard_new_per_subject {
                return Some(10077);
            }
            replaces = true;
        }
        let count = self.live().count() as u64;
        let is_full = config.max_msgs.is_some_and(|max| count >= max)
            || config
                .max_bytes
                .is_some_and(|max| self.bytes() + subject.len() as u64 + bytes > max);
        (is_full && !replaces).then_some(10077)
    }

    fn find(&self, ids: &BTreeMap<String, Seen>, id: &str, now: u64) -> Option<Verdict> {
        let window = self.config.duplicate_window as u64;
        let within = |seen: &&Seen| now.saturating_sub(seen.at) < window;
        let Some(seen) = ids.get(id).filter(within) else {
            // One that had no answer may carry it.
            let carries = |one: &Message| {
                one.sent
                    .headers
                    .windows(id.len())
                    .any(|part| part == id.as_bytes())
            };
            return self.doubtful.iter().any(carries).then_some(Verdict::Either(0));
        };
        Some(match seen.is_certain {
            true => Verdict::Duplicate(seen.seq),
            false => Verdict::Either(seen.seq),
        })
    }

    /// A purge of everything forgets the ids of the duplicate window; one that may have been may have.
    pub(super) fn forget_ids(&mut self, is_all: bool, is_certain: bool) {
        if is_all && is_certain && !self.is_loose() {
            self.ids.clear();
            self.resends.clear();
        }
        if is_all || self.is_loose() {
            self.ids
                .values_mut()
                .chain(self.resends.values_mut())
                .for_each(|seen| seen.is_certain = false);
        }
    }
}
