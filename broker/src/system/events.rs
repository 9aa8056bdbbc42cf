//! Events: clients that come, go, or are not let in.

use std::sync::Arc;

use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::accounts::Account;
use crate::api::time;
use crate::nats::connections::Connection;
use crate::options::GLOBAL_ACCOUNT;
use crate::types::UnixNanos;

/// Events that may wait to be told; beyond that they are dropped, as they are where nobody listens.
const WAITING_MAX: usize = 4096;

/// Something to be told, without what all events have in common.
#[derive(Debug)]
pub(crate) struct Event {
    pub(crate) subject: String,
    pub(crate) payload: Value,
    /// In which account it is told, if not in the system account.
    pub(crate) account: Option<Arc<Account>>,
}

/// Where events go.
#[derive(Clone, Debug)]
pub(crate) struct Events(mpsc::Sender<Event>);

/// The two ends of the way of events.
pub(crate) fn channel() -> (Events, mpsc::Receiver<Event>) {
    let (sender, receiver) = mpsc::channel(WAITING_MAX);
    (Events(sender), receiver)
}

impl Events {
    /// A client has come into its account.
    pub(crate) fn connected(&self, connection: &Connection) {
        let Some(account) = account_of(connection) else {
            return;
        };
        let mut client = tagged(connection);
        if let Some(fields) = client.as_object_mut() {
            fields.remove("rtt");
        }
        self.send(
            format!("$SYS.ACCOUNT.{account}.CONNECT"),
            json!({"type": "io.nats.server.advisory.v1.client_connect", "client": client}),
        );
    }

    /// A client has gone.
    pub(crate) fn disconnected(&self, connection: &Connection, now: UnixNanos) {
        let Some(account) = account_of(connection) else {
            return;
        };
        self.send(
            format!("$SYS.ACCOUNT.{account}.DISCONNECT"),
            ended(connection, now),
        );
    }

    /// A client was not let in; `account`: where it was decided. That account is told too.
    pub(crate) fn refused(
        &self,
        connection: &Connection,
        (server_id, account): (&str, Option<Arc<Account>>),
        user: &str,
        now: UnixNanos,
    ) {
        let mut payload = ended(connection, now);
        payload["reason"] = "Authentication Failure".into();
        if !user.is_empty() {
            payload["client"]["user"] = user.into();
        }
        let named = |mut payload: Value, name: &str| {
            payload["client"]["acc"] = name.into();
            payload["client"]["name_tag"] = GLOBAL_ACCOUNT.into();
            payload
        };
        if let Some(account) = account {
            let payload = named(payload.clone(), &account.name);
            self.tell(Event {
                subject: "$SYS.ACCOUNT.CLIENT.AUTH.ERR".to_owned(),
                payload,
                account: Some(account),
            });
        }
        self.send(
            format!("$SYS.SERVER.{server_id}.CLIENT.AUTH.ERR"),
            named(payload, GLOBAL_ACCOUNT),
        );
    }

    /// Tells about the server itself.
    pub(crate) fn about_server(&self, server_id: &str, what: &str) {
        self.send(format!("$SYS.SERVER.{server_id}.{what}"), json!({}));
    }

    fn send(&self, subject: String, payload: Value) {
        self.tell(Event {
            subject,
            payload,
            account: None,
        });
    }

    fn tell(&self, event: Event) {
        if self.0.try_send(event).is_err() {
            tracing::debug!("an event of the system account was dropped");
        }
    }
}

/// The account whose clients are told of: not `$G`.
fn account_of(connection: &Connection) -> Option<String> {
    let identity = connection.identity()?;
    (*identity.account.name != *GLOBAL_ACCOUNT).then(|| identity.account.name.to_string())
}

/// What a service of another account may be told of a client, as fields of a JSON object without its braces.
pub(crate) fn details(connection: &Connection, server_name: &str) -> String {
    let mut client = client_info(connection, server_name);
    if let Some(fields) = client.as_object_mut() {
        fields.remove("acc");
    }
    let text = client.to_string();
    text.trim_start_matches('{').trim_end_matches('}').to_owned()
}

/// What others are told of a client.
pub(crate) fn client_info(connection: &Connection, server_name: &str) -> Value {
    let mut client = client(connection);
    client["server"] = server_name.into();
    client
}

fn client(connection: &Connection) -> Value {
    let identity = connection.identity();
    let known = connection.client.get().cloned().unwrap_or_default();
    let mut client = json!({
        "start": time::format(connection.start), "host": connection.peer.ip().to_canonical(), "id": connection.id().0,
        "kind": "Client", "client_type": "nats", "rtt": connection.rtt_nanos(),
    });
    let fields = [
        ("name", known.name.to_string()),
        ("lang", known.lang.to_string()),
        ("ver", known.version.to_string()),
        (
            "acc",
            identity
                .as_ref()
                .map_or(String::new(), |held| held.account.name.to_string()),
        ),
        ("user", identity.map_or(String::new(), |held| held.user.clone())),
    ];
    for (name, text) in fields {
        if !text.is_empty() {
            client[name] = text.into();
        }
    }
    client
}

/// A client with what its account is called.
fn tagged(connection: &Connection) -> Value {
    let mut client = client(connection);
    if let Some(identity) = connection.identity() {
        client["name_tag"] = (*identity.account.tag()).into();
    }
    client
}

fn ended(connection: &Connection, now: UnixNanos) -> Value {
    use std::sync::atomic::Ordering::Relaxed;
    let counters = &connection.outbound.counters;
    let mut client = tagged(connection);
    client["stop"] = time::format(now).into();
    let reason = connection.outbound.reason();
    json!({
        "type": "io.nats.server.advisory.v1.client_disconnect", "client": client,
        "sent": {"msgs": counters.out_msgs.load(Relaxed), "bytes": counters.out_bytes.load(Relaxed)},
        "received": {"msgs": counters.in_msgs.load(Relaxed), "bytes": counters.in_bytes.load(Relaxed)},
        "reason": reason.map(|reason| reason.to_string()).unwrap_or_default(),
    })
}
