//! `/connz`: the connections there are, and those that have ended.

use std::cmp::Reverse;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use serde::Serialize;
use serde_json::{Value, json};

use super::args::{ArgError, Args};
use super::{Monitor, PAGE_SIZE, subsz, uptime};
use crate::api::time;
use crate::nats::connections::{Closed, Connection};
use crate::options::GLOBAL_ACCOUNT;
use crate::subject;
use crate::types::UnixNanos;

/// A connection as `/connz` shows it. Field names are nats-server's.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct ConnInfo {
    cid: u64,
    kind: &'static str,
    #[serde(rename = "type")]
    client_type: &'static str,
    ip: String,
    port: u16,
    start: String,
    last_activity: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    stop: Option<String>,
    #[serde(skip_serializing_if = "String::is_empty")]
    reason: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    rtt: String,
    uptime: String,
    idle: String,
    pending_bytes: usize,
    in_msgs: u64,
    out_msgs: u64,
    in_bytes: u64,
    out_bytes: u64,
    subscriptions: u64,
    #[serde(skip_serializing_if = "String::is_empty")]
    name: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    lang: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    version: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    tls_version: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tls_cipher_suite: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tls_peer_certs: Option<Value>,
    #[serde(skip_serializing_if = "String::is_empty")]
    authorized_user: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    account: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    name_tag: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    subscriptions_list: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    subscriptions_list_detail: Option<Vec<Value>>,
    #[serde(skip)]
    order: Order,
}

/// What lists are sorted by.
#[derive(Clone, Copy, Debug, Default)]
struct Order {
    last: UnixNanos,
    stop: UnixNanos,
    rtt_nanos: u64,
}

impl ConnInfo {
    fn new(connection: &Connection, now: UnixNanos) -> Self {
        let counters = &connection.outbound.counters;
        let load = |counter: &AtomicU64| counter.load(Relaxed);
        let last = connection.last_activity();
        let client = connection.client.get().cloned().unwrap_or_default();
        let rtt_nanos = connection.rtt_nanos();
        Self {
            cid: connection.id().0,
            kind: "Client",
            client_type: if connection.transport.is_websocket {
                "websocket"
            } else {
                "nats"
            },
            tls_version: connection.transport.tls.as_ref().map(|tls| tls.version),
            tls_cipher_suite: connection.transport.tls.as_ref().map(|tls| tls.cipher.clone()),
            ip: connection.peer.ip().to_canonical().to_string(),
            port: connection.peer.port(),
            start: time::format(connection.start),
            last_activity: time::format(last),
            rtt: if rtt_nanos == 0 {
                String::new()
            } else {
                time::go_duration(i64::try_from(rtt_nanos).unwrap_or(i64::MAX))
            },
            uptime: uptime(now.since(connection.start)),
            idle: uptime(now.since(last)),
            pending_bytes: connection.outbound.backlog_bytes(),
            in_msgs: load(&counters.in_msgs),
            out_msgs: load(&counters.out_msgs),
            in_bytes: load(&counters.in_bytes),
            out_bytes: load(&counters.out_bytes),
            subscriptions: load(&counters.subscriptions),
            name: client.name.to_string(),
            lang: client.lang.to_string(),
            version: client.version.to_string(),
            order: Order {
                last,
                stop: UnixNanos(0),
                rtt_nanos,
            },
            ..Self::default()
        }
    }

    /// A connection that ends now, as it is shown afterwards.
    pub(crate) fn closed(connection: &Connection, now: UnixNanos) -> Closed {
        let mut info = Self::new(connection, now);
        info.stop = Some(time::format(now));
        info.reason = connection
            .outbound
            .reason()
            .map(|reason| reason.to_string())
            .unwrap_or_default();
        info.order.stop = now;
        let identity = connection.identity();
        Closed {
            info,
            user: identity
                .as_ref()
                .map(|held| held.user.clone())
                .unwrap_or_default(),
            account: identity.map_or_else(|| GLOBAL_ACCOUNT.into(), |held| Arc::clone(&held.account.name)),
        }
    }

    fn authorize(&mut self, user: &str, account: &str) {
        user.clone_into(&mut self.authorized_user);
        if account != GLOBAL_ACCOUNT {
            account.clone_into(&mut self.account);
            account.clone_into(&mut self.name_tag);
        }
    }
}

/// What is asked of `/connz`.
struct Question<'a> {
    with_auth: bool,
    subs: Subs,
    cid: u64,
    open: bool,
    closed: bool,
    user: &'a str,
    account: &'a str,
    filter: &'a str,
    sort: &'a str,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Subs {
    None,
    List,
    Detail,
}

impl<'a> Question<'a> {
    fn read(args: &'a Args) -> Result<Self, ArgError> {
        let subs = match args.text("subs") {
            "detail" => Subs::Detail,
            _ if args.flag("subs")? => Subs::List,
            _ => Subs::None,
        };
        let (open, closed) = match args.text("state").to_ascii_lowercase().as_str() {
            "closed" => (false, true),
            "any" | "all" => (true, true),
            _ => (true, false),
        };
        let question = Self {
            with_auth: args.flag("auth")?,
            subs,
            cid: args.number("cid")?,
            open,
            closed,
            user: args.text("user"),
            account: args.text("acc"),
            filter: args.text("filter_subject"),
            sort: args.text("sort"),
        };
        match question.sort {
            "stop" if !closed || open => Err(ArgError::SortOfClosed { sort: "stop" }),
            "reason" if !closed || open => Err(ArgError::SortOfClosed { sort: "reason" }),
            _ if !question.filter.is_empty() && question.filter != ">" && question.account.is_empty() => {
                Err(ArgError::FilterWithoutAccount)
            }
            _ => Ok(question),
        }
    }

    fn wants(&self, cid: u64, user: &str, account: &str) -> bool {
        (self.cid == 0 || self.cid == cid)
            && (self.user.is_empty() || self.user == user)
            && (self.account.is_empty() || self.account == account)
    }
}

/// The answer of `/connz`.
pub(crate) fn connz(monitor: &Monitor, args: &Args) -> Result<Value, ArgError> {
    let question = Question::read(args)?;
    let (offset, limit) = args.page(PAGE_SIZE)?;
    let limit = if question.cid > 0 { 1 } else { limit };
    let now = monitor.now();
    let mut found = Vec::new();
    if question.open {
        found.extend(open_connections(monitor, &question, now));
    }
    if question.closed {
        for closed in monitor.shared.connections.closed() {
            if question.wants(closed.info.cid, &closed.user, &closed.account) {
                let mut info = closed.info.clone();
                if question.with_auth {
                    info.authorize(&closed.user, &closed.account);
                }
                found.push(info);
            }
        }
    }
    sort(&mut found, question.sort)?;
    let total = found.len();
    let page: Vec<ConnInfo> = found.into_iter().skip(offset).take(limit).collect();
    Ok(json!({
        "server_id": monitor.server_id(), "now": time::format(now), "num_connections": page.len(), "total": total,
        "offset": offset, "limit": limit, "connections": page,
    }))
}

fn open_connections(monitor: &Monitor, question: &Question<'_>, now: UnixNanos) -> Vec<ConnInfo> {
    let needs_subs = question.subs != Subs::None || !question.filter.is_empty();
    let subscriptions = if needs_subs {
        subsz::client_subscriptions(monitor, question.account)
    } else {
        Vec::new()
    };
    let mut found = Vec::new();
    for connection in monitor.shared.connections.all() {
        let identity = connection.identity();
        let (user, account) = match &identity {
            Some(identity) => (identity.user.as_str(), &*identity.account.name),
            None => ("", GLOBAL_ACCOUNT),
        };
        if !question.wants(connection.id().0, user, account) {
            continue;
        }
        let own: Vec<_> = subscriptions
            .iter()
            .filter(|(_, held)| held.target().id() == connection.id())
            .collect();
        let is_of_interest = |filter: &str| {
            own.iter()
                .any(|(_, held)| subject::overlaps(filter, held.subject()))
        };
        if !question.filter.is_empty() && question.filter != ">" && !is_of_interest(question.filter) {
            continue;
        }
        let mut info = ConnInfo::new(&connection, now);
        match question.subs {
            Subs::Detail if !own.is_empty() => {
                let details = own.iter().map(|(_, held)| subsz::detail(held));
                info.subscriptions_list_detail = Some(details.collect());
            }
            Subs::List if !own.is_empty() => {
                let subjects = own.iter().map(|(_, held)| held.subject().to_owned());
                info.subscriptions_list = Some(subjects.collect());
            }
            _ => {}
        }
        if question.with_auth {
            info.authorize(user, account);
            let tls = connection.transport.tls.as_ref();
            let subject = tls.and_then(|tls| tls.subject.as_ref());
            info.tls_peer_certs = subject.map(|subject| json!([{"subject": subject}]));
        }
        found.push(info);
    }
    found
}

/// Sorts as asked: by id upwards, else downwards.
fn sort(found: &mut [ConnInfo], by: &str) -> Result<(), ArgError> {
    match by {
        "" | "cid" | "start" | "uptime" => found.sort_by_key(|info| info.cid),
        "subs" => found.sort_by_key(|info| Reverse(info.subscriptions)),
        "pending" => found.sort_by_key(|info| Reverse(info.pending_bytes)),
        "msgs_to" => found.sort_by_key(|info| Reverse(info.out_msgs)),
        "msgs_from" => found.sort_by_key(|info| Reverse(info.in_msgs)),
        "bytes_to" => found.sort_by_key(|info| Reverse(info.out_bytes)),
        "bytes_from" => found.sort_by_key(|info| Reverse(info.in_bytes)),
        "last" => found.sort_by_key(|info| Reverse(info.order.last)),
        "idle" => found.sort_by_key(|info| info.order.last),
        "stop" => found.sort_by_key(|info| Reverse(info.order.stop)),
        "reason" => found.sort_by(|one, other| one.reason.cmp(&other.reason)),
        "rtt" => found.sort_by_key(|info| Reverse(info.order.rtt_nanos)),
        sort => {
            return Err(ArgError::Sort {
                sort: sort.to_owned(),
            });
        }
    }
    Ok(())
}
