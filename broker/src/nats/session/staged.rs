//! Publishes that wait for the end of a read.

use std::ops::Range;

use bytes::Bytes;

use crate::router::Message;
use crate::shard::inbox::{JsKind, JsOp, ReplyTo};
use crate::types::AccountId;

/// A stream-bound publish, as places in the read buffer: it becomes slices of the buffer once the buffer is let go.
#[derive(Debug)]
pub(super) struct Staged {
    kind: JsKind,
    subject: Range<usize>,
    reply: Option<Range<usize>>,
    headers: Range<usize>,
    payload: Range<usize>,
}

impl Staged {
    /// `msg` as it lies in `buf`.
    pub(super) fn new(kind: JsKind, msg: &Message<'_>, buf: &[u8]) -> Self {
        Self {
            kind,
            subject: place(buf, msg.subject.as_bytes()),
            reply: msg.reply.map(|reply| place(buf, reply.as_bytes())),
            headers: place(buf, msg.headers),
            payload: place(buf, msg.payload),
        }
    }

    /// Bytes of the operation in the buffer.
    pub(super) fn bytes(&self) -> usize {
        let reply = self.reply.as_ref().map_or(0, Range::len);
        self.subject.len() + reply + self.headers.len() + self.payload.len()
    }

    /// The operation in memory of its own.
    pub(super) fn copied(self, account: AccountId, whole: &Bytes) -> JsOp {
        let mut own = Vec::with_capacity(self.bytes());
        let mut copy = |range: Range<usize>| {
            let start = own.len();
            own.extend_from_slice(&whole[range]);
            start..own.len()
        };
        let moved = Self {
            kind: self.kind,
            subject: copy(self.subject),
            reply: self.reply.map(&mut copy),
            headers: copy(self.headers),
            payload: copy(self.payload),
        };
        moved.into_op(account, &Bytes::from(own))
    }

    pub(super) fn into_op(self, account: AccountId, whole: &Bytes) -> JsOp {
        JsOp {
            account,
            kind: self.kind,
            subject: whole.slice(self.subject),
            reply: self
                .reply
                .map_or(ReplyTo::None, |reply| ReplyTo::Subject(whole.slice(reply))),
            headers: whole.slice(self.headers),
            payload: whole.slice(self.payload),
        }
    }
}

/// Where `part` lies in `whole`, of which it is a slice.
fn place(whole: &[u8], part: &[u8]) -> Range<usize> {
    if part.is_empty() {
        return 0..0;
    }
    let start = part.as_ptr().addr() - whole.as_ptr().addr();
    start..start + part.len()
}
