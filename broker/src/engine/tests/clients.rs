//! Clients that are lists.

use std::collections::BTreeSet;

use super::abroad::Abroad;
use super::world::Delivered;
use crate::consumer::Receiver;
use crate::engine::Outlet;
use crate::router::Message;
use crate::types::{AccountId, StreamId};

/// Listeners and what they got.
#[derive(Debug, Default)]
pub(super) struct Clients {
    pub(super) listening: BTreeSet<String>,
    /// Those that only a wildcard covers.
    pub(super) covered: BTreeSet<String>,
    /// A client with more bytes than these gets no more for now.
    pub(super) busy_above: Option<usize>,
    /// What the server published itself.
    pub(super) published: Vec<Delivered>,
    pub(super) got: Vec<Delivered>,
    pub(super) abroad: Abroad,
}

impl Outlet for Clients {
    fn enter(&mut self, _account: AccountId) {}

    fn receiver(&self, subject: &str) -> Receiver {
        let waiting = |bytes: usize, got: &Delivered| {
            bytes
                + if got.to() == subject {
                    got.payload().len()
                } else {
                    0
                }
        };
        if self
            .busy_above
            .is_some_and(|max| self.got.iter().fold(0, waiting) > max)
        {
            Receiver::Busy
        } else if self.listening.contains(subject)
            || subject.starts_with("_INBOX.")
            || self.abroad.hears(subject)
        {
            Receiver::Ready
        } else {
            Receiver::Gone
        }
    }

    fn is_awaited(&self, subject: &str) -> bool {
        self.receiver(subject) == Receiver::Ready && !self.covered.contains(subject)
    }

    fn answer(&mut self, message: &Message<'_>) {
        self.send(message.subject, message);
    }

    fn is_wanted(&self, _subject: &str) -> bool {
        true
    }

    fn publish(&mut self, message: &Message<'_>) {
        self.published.push(Delivered::new(message.subject, message));
    }

    fn ask(&mut self, message: &Message<'_>) {
        self.abroad.asked(message);
    }

    fn listen(&mut self, hearing: u64, subject: &str) {
        self.abroad.listen(hearing, subject);
    }

    fn unlisten(&mut self, hearing: u64) {
        self.abroad.unlisten(hearing);
    }

    fn capture(&mut self, _stream: StreamId, _subjects: &[String]) {}

    fn send(&mut self, to: &str, message: &Message<'_>) {
        let delivered = Delivered::new(to, message);
        if self.abroad.hears(to) {
            self.abroad.sent(&delivered);
        } else {
            self.got.push(delivered);
        }
    }
}
