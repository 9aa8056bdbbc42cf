//! One client's conversation, without IO: bytes in; routed messages, protocol answers and operations for the storage
//! thread out. What is said to clients leaves through [`OutBatch`].

mod limits;
mod staged;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use bytes::BytesMut;

use crate::auth::Identity;
use crate::auth::permissions::Permissions;
use crate::batch::OutBatch;
use crate::nats::codec::{self, ClientOp, Codec, Decoded, ProtocolError};
use crate::nats::info::{ConnectOptions, Manners};
use crate::options::GLOBAL_ACCOUNT;
use crate::outbound::{CloseReason, Outbound};
use crate::router::{Message, Router, Subscription, Target};
use crate::shard::inbox::{JsKind, JsOp};
use crate::subject;

pub(crate) use self::limits::SessionLimits;
use self::staged::Staged;

/// What came of a read.
#[derive(Debug)]
pub(crate) struct Received {
    /// For the storage thread, in order.
    pub(crate) ops: Vec<JsOp>,
    /// Another look is worth it once the buffer holds this many bytes.
    pub(crate) need_bytes: usize,
    /// The connection ends, once what was said is sent.
    pub(crate) end: Option<CloseReason>,
    /// Where the client wants to be told who it is.
    pub(crate) asks_who: Vec<Box<str>>,
    /// The client asks to be let in: nothing behind its CONNECT is looked at before [`Session::admit`].
    pub(crate) asks_in: bool,
    /// The buffer holds more to be looked at: what came first is handed on first.
    pub(crate) has_more: bool,
}

/// Whether a client has come in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Entry {
    /// Anybody may do everything.
    Open,
    /// The client has to say who it is.
    Closed,
    /// It has said so with a CONNECT that is not decided on yet.
    Asked,
    /// It was let in, and may ask to be somebody else.
    Admitted,
}

/// One client's conversation.
#[derive(Debug)]
pub(crate) struct Session {
    /// The server's, and those of the client and its account where they are lower.
    limits: SessionLimits,
    server_limits: SessionLimits,
    router: Arc<Router>,
    outbound: Arc<Outbound>,
    target: Target,
    batch: OutBatch,
    manners: Manners,
    /// The client's CONNECT, until [`Session::forget_options`].
    options: Option<Box<ConnectOptions>>,
    is_connected: bool,
    entry: Entry,
    /// The INFO that is repeated with the account once the client is in, until that is done.
    greeting: Box<[u8]>,
    /// None: the global one.
    account: Option<Arc<str>>,
    permissions: Option<Arc<Permissions>>,
    subscriptions: HashMap<Box<[u8]>, Arc<Subscription>>,
    /// Ended subscriptions are swept out when the table has grown to this.
    sweep_at: usize,
    pings_out: u32,
    heard: bool,
    staged: Vec<Staged>,
    staged_bytes: usize,
    /// Bytes of the buffer that is read into, with what was taken from it before, and what of them is left.
    buffer_bytes: usize,
    buffer_left_bytes: usize,
    /// Bytes of operations in that buffer.
    handed_on_bytes: usize,
    asks_who: Vec<Box<str>>,
    scratch: Vec<u8>,
    in_msgs: u64,
    in_bytes: u64,
}

const SWEEP_MIN: usize = 64;
/// So much for streams is handed on before more is looked at: the storage thread works on it meanwhile.
const HAND_ON_BYTES: usize = 16 << 10;

impl Session {
    pub(crate) fn new(limits: SessionLimits, router: Arc<Router>, outbound: Arc<Outbound>) -> Self {
        Self {
            limits,
            server_limits: limits,
            router,
            target: Target::Connection(Arc::clone(&outbound)),
            batch: OutBatch::new(outbound.id()),
            outbound,
            manners: Manners::default(),
            options: None,
            is_connected: false,
            entry: Entry::Open,
            greeting: Box::default(),
            account: None,
            permissions: None,
            subscriptions: HashMap::new(),
            sweep_at: SWEEP_MIN,
            pings_out: 0,
            heard: false,
            staged: Vec::new(),
            staged_bytes: 0,
            buffer_bytes: 0,
            buffer_left_bytes: 0,
            handed_on_bytes: 0,
            asks_who: Vec::new(),
            scratch: Vec::new(),
            in_msgs: 0,
            in_bytes: 0,
        }
    }

    /// The client has to say who it is before it may do anything.
    pub(crate) fn require_login(&mut self) {
        self.entry = Entry::Closed;
    }

    /// Whether the client has come in.
    pub(crate) fn is_admitted(&self) -> bool {
        match self.entry {
            Entry::Open => self.is_connected,
            Entry::Admitted => true,
            Entry::Closed | Entry::Asked => false,
        }
    }

    /// Lets the client in as `identity`; completes its CONNECT. `rtt_nanos` and `details` are what services of other
    /// accounts may be told of it.
    /// Returns the end of a connection that asked for what is not to be had.
    pub(crate) fn admit(
        &mut self,
        identity: &Identity,
        rtt_nanos: u64,
        details: Option<String>,
    ) -> Option<CloseReason> {
        self.close();
        self.batch.set_details(rtt_nanos, details);
        self.router = Arc::clone(&identity.account.router);
        self.account = Some(Arc::clone(&identity.account.name));
        self.permissions.clone_from(&identity.permissions);
        self.batch.set_permissions(identity.permissions.clone());
        if let Some(replies) = identity.permissions.as_ref().and_then(|held| held.replies()) {
            self.outbound.set_replies(replies);
        }
        self.entry = Entry::Admitted;
        let Some(limits) = self.server_limits.with(identity.caps, identity.account.limits()) else {
            self.refuse("maximum subscriptions exceeded");
            return Some(CloseReason::MaxSubscriptionsExceeded);
        };
        self.limits = limits;
        let end = self.complete_connect().err();
        self.batch.flush();
        end
    }

    /// Answers the client at `reply`.
    pub(crate) fn answer_to(&mut self, reply: &str, payload: &[u8]) {
        let message = Message {
            subject: reply,
            reply: None,
            headers: &[],
            payload,
        };
        self.router.route(&message, &mut self.batch);
        self.batch.flush();
    }

    /// Refuses the client, with the error's own words.
    pub(crate) fn refuse(&mut self, text: &str) {
        self.error(text);
        self.batch.flush();
    }

    /// Says INFO to the client, now and with its account after its first PING.
    pub(crate) fn greet(&mut self, info: Vec<u8>) {
        self.say(&info);
        self.greeting = info.into_boxed_slice();
    }

    /// INFO was said before the session began.
    pub(crate) fn greeted(&mut self, info: Vec<u8>) {
        self.greeting = info.into_boxed_slice();
    }

    /// Says `line` to the client.
    pub(crate) fn say(&mut self, line: &[u8]) {
        self.batch.push_protocol(&self.target, line);
        self.batch.flush();
    }

    /// Takes the whole operations at the front of `buf`: routes what is published, answers, and gives what the storage
    /// thread has to do.
    pub(crate) fn receive(&mut self, buf: &mut BytesMut) -> Received {
        self.heard = true;
        let mut taken = 0;
        let mut end = None;
        let mut has_more = false;
        let need_bytes = loop {
            let rest = &buf[taken..];
            if rest.is_empty() {
                break 1;
            }
            if self.staged_bytes >= HAND_ON_BYTES {
                has_more = true;
                break 1;
            }
            match self.limits.codec.decode(rest) {
                Ok(Decoded::Op(op, len)) => {
                    taken += len;
                    if let Err(reason) = self.take(op, buf) {
                        end = Some(reason);
                        break 1;
                    }
                    if self.entry == Entry::Asked {
                        break 1;
                    }
                }
                Ok(Decoded::Need(bytes)) => break bytes,
                Err(err) => {
                    end = Some(self.violation(err));
                    break 1;
                }
            }
        };
        if buf.capacity() > self.buffer_left_bytes {
            self.buffer_bytes = buf.capacity();
            self.handed_on_bytes = 0;
        }
        let whole = buf.split_to(taken).freeze();
        // The inbox counts the bytes of operations: few of them must not hold on to a large buffer.
        self.handed_on_bytes += std::mem::take(&mut self.staged_bytes);
        let account = self.router.account();
        self.buffer_left_bytes = buf.capacity();
        // What is handed on early is part of what the buffer holds.
        let parts = if has_more { 4 } else { 2 };
        let is_dense = parts * self.handed_on_bytes >= self.buffer_bytes;
        let into_op = |staged: Staged| match is_dense {
            true => staged.into_op(account, &whole),
            false => staged.copied(account, &whole),
        };
        let mut ops: Vec<JsOp> = self.staged.drain(..).map(into_op).collect();
        ops.append(&mut self.batch.take_crossed());
        self.count();
        self.batch.flush();
        Received {
            ops,
            need_bytes,
            end,
            asks_who: std::mem::take(&mut self.asks_who),
            asks_in: self.entry == Entry::Asked,
            has_more,
        }
    }

    /// It is time for a ping. Returns the end of a connection that has left too many unanswered.
    pub(crate) fn ping(&mut self) -> Option<CloseReason> {
        self.batch.shrink();
        if std::mem::take(&mut self.heard) {
            return None;
        }
        if self.pings_out >= self.limits.ping_max {
            self.router.counters().stale.fetch_add(1, Relaxed);
            self.error("Stale Connection");
            self.batch.flush();
            return Some(CloseReason::StaleConnection);
        }
        self.pings_out += 1;
        self.say(b"PING\r\n");
        None
    }

    /// Receivers that the client's messages have put behind.
    pub(crate) fn take_stalled(&mut self) -> Vec<Target> {
        self.batch.take_stalled()
    }

    /// What the client asked for with CONNECT, until that is forgotten.
    pub(crate) fn options(&self) -> Option<&ConnectOptions> {
        self.options.as_deref()
    }

    /// What the client asked for with CONNECT has been seen to.
    pub(crate) fn forget_options(&mut self) {
        self.options = None;
    }

    /// Gives back memory that a client needs only while it is busy.
    pub(crate) fn rest(&mut self) {
        self.batch.rest();
    }

    /// Ends all subscriptions.
    pub(crate) fn close(&mut self) {
        for (_, subscription) in self.subscriptions.drain() {
            self.router.unsubscribe(&subscription);
        }
    }

    fn take(&mut self, op: ClientOp<'_>, buf: &[u8]) -> Result<(), CloseReason> {
        if self.entry == Entry::Closed && !matches!(op, ClientOp::Connect(_)) {
            self.error("Authorization Violation");
            return Err(CloseReason::AuthenticationViolation);
        }
        match op {
            ClientOp::Publish(msg) => self.publish(&msg, buf)?,
            ClientOp::Ping => self.pong(),
            ClientOp::Pong => self.pings_out = 0,
            ClientOp::Subscribe { subject, queue, sid } => self.subscribe(subject, queue, sid),
            ClientOp::Unsubscribe { sid, max } => self.unsubscribe(sid, max.unwrap_or_default()),
            ClientOp::Connect(json) => self.connect(json)?,
            ClientOp::Ignored => {}
        }
        Ok(())
    }

    /// Source: nats-server, `processPing`: the first one after CONNECT is followed by INFO.
    fn pong(&mut self) {
        self.answer(b"PONG\r\n");
        if !self.is_connected || self.manners.protocol < 1 || self.greeting.is_empty() {
            return;
        }
        let mut line = std::mem::take(&mut self.greeting).into_vec();
        line.truncate(line.len().saturating_sub(b"} \r\n".len()));
        let (own, told) = (self.limits.codec, self.server_limits.codec);
        if own.max_payload_bytes != told.max_payload_bytes {
            let text = String::from_utf8_lossy(&line);
            let field = |codec: Codec| format!("\"max_payload\":{},", codec.max_payload_bytes);
            line = text.replacen(&field(told), &field(own), 1).into_bytes();
        }
        let account = serde_json::Value::from(self.account.as_deref().unwrap_or(GLOBAL_ACCOUNT));
        let more = format!(",\"connect_info\":true,\"remote_account\":{account}}} \r\n");
        line.extend_from_slice(more.as_bytes());
        self.answer(&line);
    }

    fn connect(&mut self, json: &[u8]) -> Result<(), CloseReason> {
        self.close();
        let options: ConnectOptions =
            serde_json::from_slice(json).map_err(|_| self.violation(ProtocolError::Arguments))?;
        self.manners = options.manners;
        self.options = Some(Box::new(options));
        self.is_connected = true;
        if self.entry != Entry::Open {
            self.entry = Entry::Asked;
            return Ok(());
        }
        self.complete_connect()
    }

    fn complete_connect(&mut self) -> Result<(), CloseReason> {
        self.outbound.set_accepts_headers(self.manners.headers);
        self.batch.set_echo(self.manners.echo);
        if self.manners.protocol < 1 {
            // Such a client would not understand a second one.
            self.greeting = Box::default();
        }
        if !(0..=1).contains(&self.manners.protocol) {
            self.error("invalid client protocol");
            return Err(CloseReason::ProtocolViolation);
        }
        if self.manners.no_responders && !self.manners.headers {
            self.error("no responders requires headers support");
            return Err(CloseReason::ProtocolViolation);
        }
        self.ok();
        Ok(())
    }

    fn publish(&mut self, msg: &Message<'_>, buf: &[u8]) -> Result<(), CloseReason> {
        self.in_msgs += 1;
        self.in_bytes += (msg.headers.len() + msg.payload.len()) as u64;
        if !msg.headers.is_empty() && !self.manners.headers {
            return Err(self.violation(ProtocolError::HeadersNotSupported));
        }
        if self.manners.pedantic && !subject::is_valid_literal(msg.subject) {
            self.error("Invalid Publish Subject");
        }
        if self.router.shares()
            && let Some(mapped) = self.router.mapped(msg.subject, self.batch.random())
        {
            let subject = &mapped;
            return self.publish_as(&Message { subject, ..*msg }, None);
        }
        self.publish_as(msg, Some(buf))
    }

    /// Publishes `msg`, whose parts are in `buf` if that is given.
    fn publish_as(&mut self, msg: &Message<'_>, buf: Option<&[u8]>) -> Result<(), CloseReason> {
        if self.batch.is_denied(&self.router, msg.subject) && !self.outbound.may_answer(msg.subject) {
            self.error(&format!("Permissions Violation for Publish to {:?}", msg.subject));
            return Ok(());
        }
        if let Some(reply) = msg.reply.filter(|reply| is_reserved_reply(reply)) {
            self.error(&format!(
                "Permissions Violation for Publish with Reply of {reply:?}"
            ));
            return Ok(());
        }
        self.ok();
        let routed = self.router.route_publish(msg, &mut self.batch);
        if routed.bound == Some(JsKind::UserInfo) {
            self.asks_who.extend(msg.reply.map(Box::from));
        } else if let Some(kind) = routed.bound {
            let Some(buf) = buf else {
                self.batch.cross(self.router.account(), kind, msg.subject, msg);
                return Ok(());
            };
            let staged = Staged::new(kind, msg, buf);
            self.staged_bytes += staged.bytes();
            self.staged.push(staged);
        } else if routed.receivers == 0 && self.manners.no_responders {
            self.say_no_responders(msg);
        }
        Ok(())
    }

    /// Tells a requester that nobody listens. Source: nats-server 2.15, which names the subject in a header.
    fn say_no_responders(&mut self, msg: &Message<'_>) {
        let Some(reply) = msg.reply else { return };
        let Some(subscription) = self.router.subscription_of(self.outbound.id(), reply) else {
            return;
        };
        let headers = format!("NATS/1.0 503\r\nNats-Subject: {}\r\n\r\n", msg.subject);
        let status = Message {
            subject: reply,
            reply: None,
            headers: headers.as_bytes(),
            payload: b"",
        };
        self.scratch.clear();
        codec::encode_message(&mut self.scratch, subscription.sid(), &status, status.headers);
        self.batch.push_protocol(&self.target, &self.scratch);
    }

    fn subscribe(&mut self, subject: &str, queue: Option<&str>, sid: &[u8]) {
        if !subject::is_valid_filter(subject) {
            return self.error("Invalid Subject");
        }
        if self.subscriptions.len() >= self.sweep_at {
            self.subscriptions
                .retain(|_, subscription| !subscription.is_gone());
            self.sweep_at = SWEEP_MIN.max(self.subscriptions.len() * 2);
        }
        let mut denials = None;
        if let Some(permissions) = &self.permissions {
            if !permissions.may_subscribe(subject, queue) {
                let group = queue.map_or(String::new(), |queue| format!(" using queue {queue:?}"));
                return self.error(&format!(
                    "Permissions Violation for Subscription to {subject:?}{group}"
                ));
            }
            if permissions.has_denials() {
                denials = Some(Arc::clone(permissions));
            }
            if (queue.is_some() || !subject::is_literal(subject))
                && permissions.must_check_deliveries(subject)
            {
                self.outbound.check_denials();
            }
        }
        let tokens_max = self.limits.max_subscription_tokens;
        if tokens_max > 0 && subject.split('.').count() > tokens_max {
            return self.error(&format!(
                "Permissions Violation for Subscription to {subject:?}, too many tokens"
            ));
        }
        let max = self.limits.max_subscriptions;
        if max > 0 && self.outbound.counters.subscriptions.load(Relaxed) >= max as u64 {
            return self.error("maximum subscriptions exceeded");
        }
        if self.subscriptions.get(sid).is_none_or(|held| held.is_gone()) {
            let subscription = self
                .router
                .subscribe_with(&self.target, subject, queue, sid, denials);
            self.subscriptions.insert(sid.into(), subscription);
        }
        self.ok();
    }

    fn unsubscribe(&mut self, sid: &[u8], max: u64) {
        let used_up = self
            .subscriptions
            .get(sid)
            .is_some_and(|held| max == 0 || held.limit(max));
        if used_up && let Some(subscription) = self.subscriptions.remove(sid) {
            self.router.unsubscribe(&subscription);
        }
        self.ok();
    }

    fn violation(&mut self, err: ProtocolError) -> CloseReason {
        // nats-server closes without a word where arguments make no sense.
        let is_silent = matches!(
            err,
            ProtocolError::Arguments | ProtocolError::ClientError | ProtocolError::HeadersNotSupported
        );
        if !is_silent {
            self.error(&err.to_string());
        }
        match err {
            ProtocolError::MaxPayload => CloseReason::MaxPayloadExceeded,
            ProtocolError::MaxControlLine => CloseReason::MaxControlLineExceeded,
            ProtocolError::UnknownOperation
            | ProtocolError::Arguments
            | ProtocolError::ClientError
            | ProtocolError::HeadersNotSupported => CloseReason::ProtocolViolation,
        }
    }

    fn ok(&mut self) {
        if self.manners.verbose {
            self.answer(b"+OK\r\n");
        }
    }

    fn answer(&mut self, line: &[u8]) {
        self.batch.push_protocol(&self.target, line);
    }

    fn error(&mut self, text: &str) {
        self.scratch.clear();
        codec::encode_error(&mut self.scratch, text);
        self.batch.push_protocol(&self.target, &self.scratch);
    }

    fn count(&mut self) {
        let (msgs, bytes) = (
            std::mem::take(&mut self.in_msgs),
            std::mem::take(&mut self.in_bytes),
        );
        if msgs > 0 {
            self.outbound
                .counters
                .count_in(self.router.counters(), msgs, bytes);
        }
    }
}

/// Replies that only the server itself may ask for: those of imported services, and acknowledgements.
fn is_reserved_reply(reply: &str) -> bool {
    reply.starts_with("_R_.") || reply.starts_with("$JS.ACK.")
}

#[cfg(test)]
mod tests;
