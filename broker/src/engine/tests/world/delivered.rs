//! What clients got, and the numbers in it.

use crate::router::Message;

/// A message that a client got.
#[derive(Clone, Debug)]
pub(in crate::engine::tests) struct Delivered {
    pub(in crate::engine::tests) to: String,
    pub(in crate::engine::tests) subject: String,
    pub(in crate::engine::tests) reply: String,
    pub(in crate::engine::tests) headers: String,
    pub(in crate::engine::tests) payload: Vec<u8>,
}

impl Delivered {
    pub(in crate::engine::tests) fn new(to: &str, message: &Message<'_>) -> Self {
        Self {
            to: to.to_owned(),
            subject: message.subject.to_owned(),
            reply: message.reply.unwrap_or_default().to_owned(),
            headers: String::from_utf8(message.headers.to_vec()).unwrap(),
            payload: message.payload.to_vec(),
        }
    }

    pub(in crate::engine::tests) fn to(&self) -> &str {
        &self.to
    }

    pub(in crate::engine::tests) fn headers(&self) -> &str {
        &self.headers
    }

    fn number(&self, index: usize) -> u64 {
        self.reply.split('.').nth(index).unwrap().parse().unwrap()
    }

    pub(in crate::engine::tests) fn deliveries(&self) -> u64 {
        self.number(4)
    }

    pub(in crate::engine::tests) fn stream_seq(&self) -> u64 {
        self.number(5)
    }

    pub(in crate::engine::tests) fn reply(&self) -> &str {
        &self.reply
    }

    pub(in crate::engine::tests) fn payload(&self) -> &[u8] {
        &self.payload
    }

    pub(in crate::engine::tests) fn text(&self) -> &str {
        std::str::from_utf8(&self.payload).unwrap()
    }
}
