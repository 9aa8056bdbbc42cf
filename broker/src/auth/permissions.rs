//! What a user may publish and subscribe to.

use std::collections::{HashMap, VecDeque};

use crate::options;
use crate::subject::{self, SubIndex};
use crate::types::MonoNanos;

/// Requests that a client may still answer, at most; the oldest go first.
const REPLIES_MAX: usize = 64 * 1024;

/// What a user may do, ready to be asked.
#[derive(Debug)]
pub(crate) struct Permissions {
    publish_allow: Option<SubIndex<()>>,
    publish_deny: SubIndex<()>,
    subscribe_allow: Option<Vec<Rule>>,
    subscribe_deny: Vec<Rule>,
    deliver_deny: SubIndex<Option<Box<str>>>,
    responses: Option<options::ResponsePermission>,
    /// As they were given.
    pub(crate) source: options::Permissions,
}

/// A subject, and the queue group that a subscription must be in.
#[derive(Debug)]
struct Rule {
    subject: Box<str>,
    queue: Option<Box<str>>,
}

impl Rule {
    /// `subject` or `subject queue`. None if it is no subject.
    fn parse(text: &str) -> Option<Self> {
        let mut words = text.split_whitespace();
        let (subject, queue) = (words.next()?, words.next());
        (words.next().is_none() && subject::is_valid_filter(subject)).then(|| Self {
            subject: subject.into(),
            queue: queue.map(Into::into),
        })
    }
}

impl Permissions {
    /// The permissions of an option. What is no subject is allowed to nobody.
    pub(crate) fn new(source: &options::Permissions) -> Self {
        let publish = source.publish.clone().unwrap_or_default();
        let subscribe = source.subscribe.clone().unwrap_or_default();
        // Who may answer may publish nothing else, unless that is said.
        let publish_allow = publish
            .allow
            .or_else(|| source.responses.is_some().then(Vec::new));
        let rules =
            |texts: &[String]| -> Vec<Rule> { texts.iter().filter_map(|text| Rule::parse(text)).collect() };
        let subscribe_deny = rules(&subscribe.deny);
        let mut deliver_deny = SubIndex::new();
        for rule in &subscribe_deny {
            deliver_deny.insert(&rule.subject, rule.queue.clone());
        }
        Self {
            publish_allow: publish_allow.map(|subjects| index(&subjects)),
            publish_deny: index(&publish.deny),
            subscribe_allow: subscribe.allow.as_deref().map(rules),
            subscribe_deny,
            deliver_deny,
            responses: source.responses,
            source: source.clone(),
        }
    }

    /// Whether a message may be published to `subject`, and whether that is the same for every other last token.
    pub(crate) fn may_publish(&self, subject: &str) -> (bool, bool) {
        let (mut allowed, mut any_last_token) = (true, true);
        if let Some(allow) = &self.publish_allow {
            allowed = false;
            any_last_token &= allow.visit(subject, |()| allowed = true);
        }
        any_last_token &= self.publish_deny.visit(subject, |()| allowed = false);
        (allowed, any_last_token)
    }

    /// Whether `filter` may be subscribed to, in this queue group if one is named.
    /// Source: nats-server, `canSubscribe`; a filter is allowed only if all of it is.
    pub(crate) fn may_subscribe(&self, filter: &str, queue: Option<&str>) -> bool {
        let matching = |rules: &[Rule]| {
            let (mut plain, mut groups, mut in_group) = (false, false, false);
            for rule in rules
                .iter()
                .filter(|rule| subject::is_subset(filter, &rule.subject))
            {
                match (&rule.queue, queue) {
                    (None, _) => plain = true,
                    (Some(group), Some(queue)) => {
                        groups = true;
                        in_group |= is_group(group, queue);
                    }
                    (Some(_), None) => {}
                }
            }
            (plain, groups, in_group)
        };
        if let Some(allow) = &self.subscribe_allow {
            let (plain, groups, in_group) = matching(allow);
            if !(if groups { in_group } else { plain }) {
                return false;
            }
        }
        let (plain, _, in_group) = matching(&self.subscribe_deny);
        !plain && !in_group
    }

    /// Whether there are subjects that may not be subscribed to.
    pub(crate) fn has_denials(&self) -> bool {
        !self.subscribe_deny.is_empty()
    }

    /// Whether some of what `filter` covers is denied, so that each delivery has to be looked at.
    pub(crate) fn must_check_deliveries(&self, filter: &str) -> bool {
        self.subscribe_deny
            .iter()
            .any(|rule| subject::overlaps(filter, &rule.subject))
    }

    /// Whether a message of this literal subject may be delivered.
    pub(crate) fn may_deliver(&self, subject: &str, queue: Option<&str>) -> bool {
        let mut denied = false;
        self.deliver_deny.visit(subject, |group| {
            denied |= match (group, queue) {
                (None, _) => true,
                (Some(group), Some(queue)) => is_group(group, queue),
                (Some(_), None) => false,
            };
        });
        !denied
    }

    /// A table of the requests that may be answered, if there is such a permission.
    pub(crate) fn replies(&self) -> Option<Replies> {
        self.responses.map(Replies::new)
    }
}

/// Whether a rule's group, which may hold wildcards, means `queue`.
fn is_group(group: &str, queue: &str) -> bool {
    group == queue || (!subject::is_literal(group) && subject::is_subset(queue, group))
}

fn index(subjects: &[String]) -> SubIndex<()> {
    let mut index = SubIndex::new();
    for rule in subjects.iter().filter_map(|text| Rule::parse(text)) {
        index.insert(&rule.subject, ());
    }
    index
}

/// The requests that a client got and may answer.
#[derive(Debug)]
pub(crate) struct Replies {
    permission: options::ResponsePermission,
    open: HashMap<Box<str>, Open>,
    order: VecDeque<(Box<str>, MonoNanos)>,
}

#[derive(Debug)]
struct Open {
    since: MonoNanos,
    answers: u64,
}

impl Replies {
    fn new(permission: options::ResponsePermission) -> Self {
        Self {
            permission,
            open: HashMap::new(),
            order: VecDeque::new(),
        }
    }

    /// A request was delivered that wants its answer at `reply`.
    pub(crate) fn asked(&mut self, reply: &str, now: MonoNanos) {
        self.forget_old(now);
        self.order.push_back((reply.into(), now));
        let open = Open {
            since: now,
            answers: 0,
        };
        self.open.insert(reply.into(), open);
    }

    /// Whether an answer to `subject` is allowed; it counts as given.
    pub(crate) fn may_answer(&mut self, subject: &str, now: MonoNanos) -> bool {
        let Some(open) = self.open.get_mut(subject) else {
            return false;
        };
        open.answers += 1;
        let is_used_up = self.permission.max_msgs.is_some_and(|max| open.answers > max);
        if is_used_up || is_expired(self.permission, open.since, now) {
            self.open.remove(subject);
            return false;
        }
        true
    }

    fn forget_old(&mut self, now: MonoNanos) {
        while let Some((reply, since)) = self.order.front() {
            if self.order.len() < REPLIES_MAX && !is_expired(self.permission, *since, now) {
                break;
            }
            // The same subject may have been asked for again since.
            if self.open.get(reply).is_some_and(|open| open.since == *since) {
                self.open.remove(reply);
            }
            self.order.pop_front();
        }
    }
}

fn is_expired(permission: options::ResponsePermission, since: MonoNanos, now: MonoNanos) -> bool {
    let age = u128::from(now.0.saturating_sub(since.0));
    permission.expires.is_some_and(|expires| age > expires.as_nanos())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::options::{ResponsePermission, SubjectPermissions};

    fn rules(allow: Option<&[&str]>, deny: &[&str]) -> Option<SubjectPermissions> {
        let owned = |texts: &[&str]| texts.iter().map(ToString::to_string).collect();
        Some(SubjectPermissions {
            allow: allow.map(owned),
            deny: owned(deny),
        })
    }

    #[test]
    fn publishing_needs_an_allowance_and_no_denial() {
        let permissions = Permissions::new(&options::Permissions {
            publish: rules(Some(&["a.>", "b.*"]), &["a.secret.*"]),
            ..options::Permissions::default()
        });
        assert_eq!(permissions.may_publish("a.b"), (true, false));
        assert_eq!(permissions.may_publish("a.secret.x"), (false, true));
        assert!(!permissions.may_publish("b.c.d").0);
        assert!(!permissions.may_publish("c").0);
        let any = Permissions::new(&options::Permissions {
            publish: rules(None, &["x"]),
            ..options::Permissions::default()
        });
        assert_eq!(any.may_publish("y"), (true, false));
    }

    #[test]
    fn a_wildcard_or_queue_subscription_does_not_get_around_a_rule() {
        let permissions = Permissions::new(&options::Permissions {
            subscribe: rules(Some(&["a.*", "q v1", "q2", "q2 v.*"]), &["a.secret", "a.x g"]),
            ..options::Permissions::default()
        });
        for filter in [">", "a.>", "*.*", "a.secret", "b"] {
            assert!(!permissions.may_subscribe(filter, None), "{filter}");
        }
        assert!(permissions.may_subscribe("a.*", None) && permissions.must_check_deliveries("a.*"));
        assert!(
            !permissions.may_deliver("a.secret", None) && !permissions.may_deliver("a.secret", Some("g"))
        );
        assert!(permissions.may_deliver("a.x", None) && !permissions.may_deliver("a.x", Some("g")));
        assert!(!permissions.may_subscribe("a.x", Some("g")) && permissions.may_subscribe("a.x", Some("h")));
        assert!(!permissions.may_subscribe("q", None) && !permissions.may_subscribe("q", Some("v2")));
        assert!(permissions.may_subscribe("q", Some("v1")));
        assert!(permissions.may_subscribe("q2", None) && permissions.may_subscribe("q2", Some("v.7")));
        assert!(!permissions.may_subscribe("q2", Some("w")));
    }

    #[test]
    fn answers_are_counted_and_grow_old() {
        let permissions = Permissions::new(&options::Permissions {
            responses: Some(ResponsePermission {
                max_msgs: Some(2),
                expires: Some(Duration::from_nanos(10)),
            }),
            ..options::Permissions::default()
        });
        assert!(!permissions.may_publish("_INBOX.1").0);
        let mut replies = permissions.replies().unwrap();
        replies.asked("_INBOX.1", MonoNanos(1));
        replies.asked("_INBOX.2", MonoNanos(1));
        assert!(replies.may_answer("_INBOX.1", MonoNanos(2)) && replies.may_answer("_INBOX.1", MonoNanos(3)));
        assert!(!replies.may_answer("_INBOX.1", MonoNanos(3)));
        assert!(!replies.may_answer("_INBOX.2", MonoNanos(12)));
        assert!(!replies.may_answer("other", MonoNanos(2)));
    }
}
