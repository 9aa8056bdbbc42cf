//! Looking up who gets a message.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::{Found, JetStreamUse, Receivers, Router};
use crate::shard::inbox::JsKind;

impl Router {
    /// Who gets a message of this subject.
    pub(crate) fn receivers(&self, subject: &str) -> Receivers {
        self.lookups.fetch_add(1, Ordering::Relaxed);
        if subject.split('.').any(str::is_empty) {
            // No subscription matches it, not even `>`.
            return Receivers::default();
        }
        let mut receivers = Receivers {
            any_last_token: true,
            ..Receivers::default()
        };
        self.collect(subject, None, &mut receivers);
        let (stream, same_stream) = self.read().captured_by(subject);
        receivers.any_last_token &= same_stream;
        self.collect_abroad(subject, &mut receivers);
        let is_asked = receivers
            .abroad
            .as_ref()
            .is_some_and(|abroad| !abroad.services.is_empty());
        let reserved = self
            .reserved(subject)
            .filter(|kind| !is_asked || *kind == JsKind::UserInfo);
        receivers.bound = reserved.or(stream.map(JsKind::Publish));
        receivers
    }

    /// Adds the subscriptions to `subject`, for whom it is called `renamed`.
    pub(super) fn collect(&self, subject: &str, renamed: Option<&Arc<str>>, receivers: &mut Receivers) {
        let tables = self.read();
        let mut groups: HashMap<Box<str>, usize> = HashMap::new();
        if renamed.is_some() {
            let known = receivers.queues.iter().enumerate();
            let name = |group: &Vec<Found>| {
                group
                    .first()
                    .and_then(|held| held.subscription.queue().map(Into::into))
            };
            groups.extend(known.filter_map(|(index, group)| Some((name(group)?, index))));
        }
        let Receivers { plain, queues, .. } = receivers;
        let same_receivers = tables.subscriptions.visit(subject, |held| {
            let found = Found {
                subscription: Arc::clone(held),
                renamed: renamed.cloned(),
            };
            match held.queue() {
                None => plain.push(found),
                Some(queue) => match groups.get(queue).and_then(|index| queues.get_mut(*index)) {
                    Some(group) => group.push(found),
                    None => {
                        groups.insert(queue.into(), queues.len());
                        queues.push(vec![found]);
                    }
                },
            }
        });
        receivers.any_last_token &= same_receivers;
    }

    /// What JetStream takes whatever the streams' subjects are.
    fn reserved(&self, subject: &str) -> Option<JsKind> {
        if subject == "$SYS.REQ.USER.INFO" {
            return Some(JsKind::UserInfo);
        }
        let rest = subject.strip_prefix("$JS.")?;
        let rest = self.without_domain(rest);
        let jetstream = self.jetstream.load(Ordering::Relaxed);
        if let Some(request) = rest.strip_prefix("API.") {
            let is_message = request.starts_with("DIRECT.GET.") || request.starts_with("CONSUMER.MSG.NEXT.");
            let is_heard = match jetstream {
                jetstream if jetstream == JetStreamUse::Told as u8 => !is_message,
                jetstream => jetstream != JetStreamUse::Off as u8,
            };
            return is_heard.then_some(JsKind::Api);
        }
        if jetstream != JetStreamUse::Full as u8 {
            return None;
        }
        if rest.starts_with("SNAPSHOT.ACK.") || rest.starts_with("SNAPSHOT.RESTORE.") {
            return Some(JsKind::Transfer);
        }
        (rest.starts_with("ACK.") || rest.starts_with("FC.")).then_some(JsKind::Ack)
    }

    /// What follows `$JS.`, without the server's domain where a request names it.
    fn without_domain<'a>(&self, rest: &'a str) -> &'a str {
        let named = self.domain.as_deref().and_then(|domain| {
            let rest = rest.strip_prefix(domain)?.strip_prefix('.')?;
            rest.starts_with("API.").then_some(rest)
        });
        named.unwrap_or(rest)
    }
}
