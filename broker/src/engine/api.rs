//! `$JS.API.>`: which request it is, and sending its answer.

mod consumers;
mod control;
mod messages;
mod streams;

pub(in crate::engine) use consumers::save;
pub(in crate::engine) use streams::{is_empty_request, state_info, text_of};

use bytes::Bytes;
use serde::Serialize;

use super::Engine;
use super::effect::{Effect, Outgoing};
use super::sourcing::identity;
use super::time::Now;
use crate::api::error::ApiError;
use crate::api::types::{AccountInfo, Answer, ApiStats, ConsumerInfo};
use crate::env::Fs;
use crate::shard::inbox::{JsOp, ReplyTo};
use crate::store::Store;
use crate::stream::config::{API_LEVEL, Storage};
use crate::stream::headers::{self, STREAM_IDENTITY};
use crate::types::StreamId;

/// What a request brought.
struct Outcome {
    kind: String,
    payload: Vec<u8>,
    is_error: bool,
    headers: Bytes,
    /// The answer holds only if the commit of this stream succeeds.
    after: Option<StreamId>,
}

impl Outcome {
    fn new<T: Serialize>(kind: &str, result: Result<T, ApiError>) -> Self {
        let is_error = result.is_err();
        Self {
            kind: kind.to_owned(),
            payload: Answer::encode(kind, result),
            is_error,
            headers: Bytes::new(),
            after: None,
        }
    }

    /// Says which stream it was that is to be copied.
    fn identified(self, identity: Option<String>) -> Self {
        let block = identity.map(|identity| headers::with_field(&[], STREAM_IDENTITY, &identity));
        Self {
            headers: block.unwrap_or_default().into(),
            ..self
        }
    }

    fn after(self, stream: Option<StreamId>) -> Self {
        Self {
            after: stream,
            ..self
        }
    }
}

/// Requests that an account without JetStream gets an answer to: that it has none.
const ANSWERED_WITHOUT: [&str; 21] = [
    "INFO",
    "STREAM.CREATE",
    "STREAM.UPDATE",
    "STREAM.INFO",
    "STREAM.DELETE",
    "STREAM.PURGE",
    "STREAM.NAMES",
    "STREAM.LIST",
    "STREAM.MSG.GET",
    "STREAM.MSG.DELETE",
    "STREAM.SNAPSHOT",
    "STREAM.RESTORE",
    "CONSUMER.CREATE",
    "CONSUMER.DURABLE.CREATE",
    "CONSUMER.INFO",
    "CONSUMER.PAUSE",
    "CONSUMER.UNPIN",
    "CONSUMER.RESET",
    "CONSUMER.DELETE",
    "CONSUMER.NAMES",
    "CONSUMER.LIST",
];

/// A request's name, for instance `STREAM.CREATE`, and the tokens behind it.
fn split(subject: &str) -> Option<(String, Vec<&str>)> {
    let tokens: Vec<&str> = subject.strip_prefix("$JS.API.")?.split('.').collect();
    let name_tokens = match tokens.as_slice() {
        ["INFO", ..] => 1,
        ["STREAM" | "CONSUMER", "MSG", ..] | ["CONSUMER", "DURABLE", ..] => 3,
        _ => 2,
    };
    let (name, rest) = tokens.split_at_checked(name_tokens)?;
    Some((name.join("."), rest.to_vec()))
}

impl Engine {
    pub(super) fn api<F: Fs>(
        &mut self,
        now: Now,
        op: &JsOp,
        store: &mut Store<F>,
        effects: &mut Vec<Effect>,
    ) {
        let subject = op.subject_str();
        let parts = split(subject);
        if let Some((name, rest)) = &parts {
            match (name.as_str(), rest.as_slice()) {
                ("CONSUMER.MSG.NEXT", [stream, consumer]) if self.tier().is_some() => {
                    return self.next_messages(now, stream, consumer, op, effects);
                }
                ("DIRECT.GET", [stream, key @ ..]) if self.tier().is_some() => {
                    let key = (!key.is_empty()).then(|| key.join("."));
                    return self.direct_get(stream, key.as_deref(), op, store, effects);
                }
                _ => {}
            }
        }
        let outcome = if headers::asks_above_level(&op.headers, API_LEVEL) {
            let kind = parts.as_ref().map_or_else(String::new, |(name, _)| kind_of(name));
            Some(Outcome::new::<()>(&kind, Err(ApiError::API_LEVEL)))
        } else if self.tier().is_none() {
            let (name, rest) = parts.unwrap_or_default();
            self.refuse_account(&name, &rest)
        } else {
            match parts {
                Some((name, rest)) => self.request(now, &name, &rest, op, store, effects),
                None => None,
            }
        };
        // nats-server is silent about requests that it does not know.
        let Some(outcome) = outcome else { return };
        let stats = &mut self.js_account().api_stats;
        stats.total += 1;
        stats.errors += u64::from(outcome.is_error);
        let payload = Bytes::from(outcome.payload);
        self.tell_api(now, op, &payload, effects);
        if let ReplyTo::Subject(to) = &op.reply {
            let message = Outgoing {
                to: to.clone(),
                headers: outcome.headers,
                payload,
            };
            effects.push(match outcome.after.filter(|_| !outcome.is_error) {
                Some(after) => Effect::Answer {
                    message,
                    kind: outcome.kind,
                    after,
                },
                None => Effect::Reply { message, after: None },
            });
        }
    }

    /// The subject of a request as it is without the server's domain; none if it names none.
    pub(super) fn without_domain(&self, subject: &Bytes) -> Option<Bytes> {
        let domain = self.options.domain.as_deref()?;
        let rest = subject
            .strip_prefix(b"$JS.")?
            .strip_prefix(domain.as_bytes())?
            .strip_prefix(b".API.")?;
        Some([b"$JS.API.", rest].concat().into())
    }

    /// An account without JetStream is told so. In the system account, that is how every request is answered.
    fn refuse_account(&self, name: &str, rest: &[&str]) -> Option<Outcome> {
        let kind = if name == "INFO" {
            "account_info".to_owned()
        } else if self.options.accounts.is_system(self.account) {
            "system".to_owned()
        } else if ANSWERED_WITHOUT.contains(&name) {
            kind_of(name)
        } else {
            return cluster_request(name, rest);
        };
        Some(Outcome::new::<()>(&kind, Err(ApiError::NOT_ENABLED_FOR_ACCOUNT)))
    }

    fn request<F: Fs>(
        &mut self,
        now: Now,
        name: &str,
        rest: &[&str],
        op: &JsOp,
        store: &mut Store<F>,
        effects: &mut Vec<Effect>,
    ) -> Option<Outcome> {
        let payload = &op.payload;
        Some(match (name, rest) {
            ("INFO", []) => Outcome::new("account_info", Ok(self.account_info(store))),
            ("STREAM.CREATE", [stream]) => Outcome::new(
                "stream_create",
                self.create_stream(now, stream, payload, store, effects),
            ),
            ("STREAM.UPDATE", [stream]) => Outcome::new(
                "stream_update",
                self.update_stream(now, stream, payload, store, effects),
            ),
            ("STREAM.INFO", [stream]) => {
                Outcome::new("stream_info", self.stream_info_page(now, stream, payload, store))
            }
            ("STREAM.DELETE", [stream]) => Outcome::new(
                "stream_delete",
                self.delete_stream(now, stream, payload, store, effects),
            ),
            ("STREAM.PURGE", [stream]) => {
                let id = self.id_of(stream);
                Outcome::new("stream_purge", self.purge_stream(stream, payload, store)).after(id)
            }
            ("STREAM.NAMES", []) => Outcome::new("stream_names", self.stream_names(payload)),
            ("STREAM.LIST", []) => Outcome::new("stream_list", self.stream_list(now, payload, store)),
            ("STREAM.SNAPSHOT", [stream]) => {
                let after = self.id_of(stream);
                let result = self.start_snapshot(now, stream, payload, store, effects);
                Outcome::new("stream_snapshot", result).after(after)
            }
            ("STREAM.RESTORE", [stream]) => Outcome::new(
                "stream_restore",
                self.start_restore(now, stream, payload, effects),
            ),
            ("STREAM.MSG.GET", [stream]) => {
                let after = self.id_of(stream).and_then(|id| messages::awaited(id, store));
                Outcome::new("stream_msg_get", self.get_message(stream, payload, store)).after(after)
            }
            ("STREAM.MSG.DELETE", [stream]) => {
                let id = self.id_of(stream);
                Outcome::new("stream_msg_delete", self.delete_message(stream, payload, store)).after(id)
            }
            ("CONSUMER.CREATE", [stream, rest @ ..]) => {
                let result = self.create_consumer(now, stream, rest, op, store, effects);
                let identity = self.identity_for(stream, &result);
                Outcome::new("consumer_create", result).identified(identity)
            }
            ("CONSUMER.DURABLE.CREATE", [stream, consumer]) => {
                let result = self.create_durable(now, stream, consumer, op, store, effects);
                let identity = self.identity_for(stream, &result);
                Outcome::new("consumer_create", result).identified(identity)
            }
            ("CONSUMER.INFO", [stream, consumer]) => Outcome::new(
                "consumer_info",
                self.consumer_info_of(now, stream, consumer, payload, store),
            ),
            ("CONSUMER.PAUSE", [stream, consumer]) => Outcome::new(
                "consumer_pause",
                self.pause_consumer(now, stream, consumer, payload, store, effects),
            ),
            ("CONSUMER.UNPIN", [stream, consumer]) => Outcome::new(
                "consumer_unpin",
                self.unpin_consumer(now, stream, consumer, payload, effects),
            ),
            ("CONSUMER.RESET", [stream, consumer]) => {
                // The consumer itself answers: without one there is no answer.
                self.find_consumer(stream, consumer)?;
                let id = self.id_of(stream);
                let result = self.reset_consumer(now, stream, consumer, payload, store);
                let is_asked = headers::field(&op.headers, STREAM_IDENTITY).is_some() && result.is_ok();
                let identity = is_asked.then(|| self.identity_of(stream)).flatten();
                Outcome::new("consumer_reset", result)
                    .after(id)
                    .identified(identity)
            }
            ("CONSUMER.DELETE", [stream, consumer]) => {
                let result = self.delete_consumer(now, stream, consumer, payload, store, effects);
                Outcome::new("consumer_delete", result)
            }
            ("CONSUMER.NAMES", [stream]) => {
                Outcome::new("consumer_names", self.consumer_names(stream, payload))
            }
            ("CONSUMER.LIST", [stream]) => {
                Outcome::new("consumer_list", self.consumer_list(now, stream, payload, store))
            }
            _ => return cluster_request(name, rest),
        })
    }

    /// Tells a stream from others of its name.
    fn identity_of(&self, stream: &str) -> Option<String> {
        self.stream_by_name(stream).map(|stream| identity(stream.created))
    }

    /// The same for who copies the stream through a consumer that was created.
    fn identity_for(&self, stream: &str, created: &Result<ConsumerInfo, ApiError>) -> Option<String> {
        let created = created.as_ref().ok()?;
        if !created.config.is_for_copy() {
            return None;
        }
        self.identity_of(stream)
    }

    /// What the account uses.
    pub(super) fn account_info<F: Fs>(&self, store: &Store<F>) -> AccountInfo {
        let api_stats = self.accounts.get(&self.account).map(|account| account.api_stats);
        let mut info = AccountInfo {
            limits: self.tier().unwrap_or_default().into(),
            domain: self.options.domain.clone(),
            api: ApiStats {
                level: API_LEVEL,
                ..api_stats.unwrap_or_default()
            },
            ..AccountInfo::default()
        };
        for stream in self.account_streams() {
            let bytes = store.state(stream.id).bytes;
            let reserved = u64::try_from(stream.config.max_bytes).unwrap_or(0);
            info.streams += 1;
            info.consumers += stream.consumers.len();
            match stream.config.storage {
                Storage::File => {
                    info.storage += bytes;
                    info.reserved_storage += reserved;
                }
                Storage::Memory => {
                    info.memory += bytes;
                    info.reserved_memory += reserved;
                }
            }
        }
        info
    }
}

/// What the answer to a request is called.
fn kind_of(name: &str) -> String {
    match name {
        "INFO" => "account_info".to_owned(),
        "CONSUMER.DURABLE.CREATE" => "consumer_create".to_owned(),
        name => name.to_ascii_lowercase().replace('.', "_"),
    }
}

/// What only a cluster does; none if there is no such request. Requests about servers and accounts get an answer in the
/// system account of a cluster only.
fn cluster_request(name: &str, rest: &[&str]) -> Option<Outcome> {
    let kind = match (name, rest) {
        ("STREAM.PEER", ["REMOVE", _]) => "stream_remove_peer",
        ("STREAM.PEER", ["EVACUATE", _]) => "stream_evacuate_peer",
        ("STREAM.CANCEL_MOVE", [_]) => "stream_cancel_move",
        ("STREAM.LEADER", ["STEPDOWN", _]) => "stream_leader_stepdown",
        ("CONSUMER.LEADER", ["STEPDOWN", _, _]) => "consumer_leader_stepdown",
        _ => return None,
    };
    Some(Outcome::new::<()>(kind, Err(ApiError::CLUSTER_REQUIRED)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_told_from_their_arguments() {
        let cases: [(&str, &str, &[&str]); 8] = [
            ("$JS.API.INFO", "INFO", &[]),
            ("$JS.API.STREAM.CREATE.S", "STREAM.CREATE", &["S"]),
            ("$JS.API.STREAM.MSG.GET.S", "STREAM.MSG.GET", &["S"]),
            ("$JS.API.STREAM.NAMES", "STREAM.NAMES", &[]),
            (
                "$JS.API.CONSUMER.CREATE.S.C.a.b",
                "CONSUMER.CREATE",
                &["S", "C", "a", "b"],
            ),
            (
                "$JS.API.CONSUMER.DURABLE.CREATE.S.C",
                "CONSUMER.DURABLE.CREATE",
                &["S", "C"],
            ),
            ("$JS.API.CONSUMER.MSG.NEXT.S.C", "CONSUMER.MSG.NEXT", &["S", "C"]),
            ("$JS.API.DIRECT.GET.S.a.b", "DIRECT.GET", &["S", "a", "b"]),
        ];
        for (subject, name, rest) in cases {
            assert_eq!(
                split(subject),
                Some((name.to_owned(), rest.to_vec())),
                "{subject}"
            );
        }
        assert_eq!(split("$JS.API.STREAM"), None);
    }
}
