//! What reaches other accounts: imported streams, services, and answers.

use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

use super::{Abroad, Receivers, Router, Subscription};
use crate::env::Clock;
use crate::sharing::answers::{self, Answer, Answers};
use crate::sharing::{HOPS_MAX, Sharing};
use crate::types::{MonoNanos, UnixNanos};

impl Router {
    /// Sets what the account has to do with others.
    pub(crate) fn set_sharing(&self, sharing: Sharing) {
        let is_shared = !sharing.is_empty();
        *self.sharing.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(sharing);
        self.shares.store(is_shared, Ordering::Relaxed);
        self.changed();
    }

    /// What the account has to do with others.
    pub(crate) fn sharing(&self) -> Arc<Sharing> {
        Arc::clone(&self.sharing.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Whether it has anything to do with others, or publishes subjects under other names.
    pub(crate) fn shares(&self) -> bool {
        self.shares.load(Ordering::Relaxed)
    }

    /// What a client's `subject` is published as; `None`: as it is. Empty: it is lost.
    pub(crate) fn mapped(&self, subject: &str, random: u32) -> Option<String> {
        if !self.shares() {
            return None;
        }
        self.sharing().mappings.apply(subject, random)
    }

    /// The answers that services of the account owe to others.
    pub(crate) fn answers(&self) -> &Answers {
        &self.answers
    }

    /// Where an answer to `subject` goes in another account, if one is waited for.
    pub(crate) fn answer_to(&self, subject: &str) -> Option<Answer> {
        if !subject.starts_with(answers::PREFIX) {
            return None;
        }
        self.answers.find(subject, self.monotonic())
    }

    /// The time of day.
    pub(crate) fn now(&self) -> UnixNanos {
        self.clock.now()
    }

    pub(crate) fn monotonic(&self) -> MonoNanos {
        self.clock.monotonic()
    }

    /// Takes out a subscription that may be one of an account that takes streams of this one.
    pub(super) fn end(&self, subscription: &Arc<Subscription>) {
        if self.take_out(subscription) || !self.shares() {
            return;
        }
        let sharing = self.sharing();
        let mut others = sharing.listeners.iter().filter_map(|link| link.router.upgrade());
        // One of them has it, or it is gone already.
        others.any(|router| router.take_out(subscription));
    }

    /// Adds what other accounts do with `subject`.
    pub(super) fn collect_abroad(&self, subject: &str, receivers: &mut Receivers) {
        if !self.shares() {
            return;
        }
        let sharing = self.sharing();
        if receivers.any_last_token {
            receivers.any_last_token = !sharing.concerns_siblings(subject);
        }
        let mut abroad = Abroad {
            services: sharing.asked(subject),
            streams: Vec::new(),
        };
        for (router, renamed) in sharing.taken(subject) {
            let renamed: Arc<str> = renamed.into();
            router.collect(&renamed, Some(&renamed), receivers);
            if let Some(stream) = router.captured_by(&renamed) {
                abroad.streams.push((router.account(), stream, renamed));
            }
        }
        if !abroad.services.is_empty() || !abroad.streams.is_empty() {
            receivers.abroad = Some(Arc::new(abroad));
        }
    }

    /// The routes of accounts whose streams this one takes have changed too.
    pub(super) fn tell_origins(&self) {
        for origin in self.sharing().origins.iter().filter_map(std::sync::Weak::upgrade) {
            origin.generation.fetch_add(1, Ordering::Release);
        }
    }

    /// Whether somebody in another account waits for `subject`.
    pub(super) fn has_interest_abroad(&self, subject: &str) -> bool {
        self.look_abroad(subject, 0, &mut |router, subject| {
            usize::from(router.read().subscriptions.has_match(subject))
        }) > 0
    }

    /// The backlog of the slowest subscriber in other accounts.
    pub(super) fn backlog_bytes_abroad(&self, subject: &str) -> usize {
        self.look_abroad(subject, 0, &mut |router, subject| {
            router.own_backlog_bytes(subject)
        })
    }

    /// The largest of what `look` says of `subject` in the accounts that it reaches.
    fn look_abroad(&self, subject: &str, hops: usize, look: &mut impl FnMut(&Self, &str) -> usize) -> usize {
        if let Some(answer) = self.answer_to(subject) {
            return match answer.router.upgrade() {
                Some(router) if hops < HOPS_MAX => {
                    let own = look(&router, &answer.to);
                    own.max(router.look_abroad(&answer.to, hops + 1, look))
                }
                _ => 0,
            };
        }
        if !self.shares() {
            return 0;
        }
        let sharing = self.sharing();
        let mut most = 0;
        for (router, renamed) in sharing.taken(subject) {
            most = most.max(look(&router, &renamed));
        }
        for service in sharing.asked(subject) {
            let (Some(router), Some(renamed)) = (service.router.upgrade(), service.rename.apply(subject))
            else {
                continue;
            };
            if hops < HOPS_MAX {
                most = most.max(look(&router, &renamed));
                most = most.max(router.look_abroad(&renamed, hops + 1, look));
            }
        }
        most
    }
}
