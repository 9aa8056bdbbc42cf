//! Answers that other accounts wait for: subjects `_R_.…` and the requesters' own that they stand for.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError, Weak};

use crate::options::ResponseType;
use crate::router::Router;
use crate::types::MonoNanos;

/// How the subjects of such answers begin.
pub(crate) const PREFIX: &str = "_R_.";
/// Answers that an account's services may owe at a time; beyond that the oldest go.
const OWED_MAX: usize = 128 * 1024;

/// The answers that an account's services owe.
#[derive(Debug, Default)]
pub(crate) struct Answers {
    owed: Mutex<Owed>,
    next: AtomicU64,
}

#[derive(Debug, Default)]
struct Owed {
    held: HashMap<Box<str>, Answer>,
    /// In the order of asking; what is answered is left in until its time.
    order: VecDeque<(Box<str>, MonoNanos)>,
}

/// One answer that is waited for.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    /// The requester's account.
    pub(crate) router: Weak<Router>,
    /// Where the requester waits.
    pub(crate) to: Box<str>,
    pub(crate) response: ResponseType,
    /// When it is waited for no longer.
    pub(crate) due: MonoNanos,
    /// By how much each part of an answer puts that off.
    pub(crate) patience_nanos: u64,
}

impl Answers {
    /// An answer to `subject` is waited for from now on.
    pub(crate) fn expect(&self, subject: &str, answer: Answer, now: MonoNanos) {
        let mut owed = self.lock();
        owed.forget_late(now);
        owed.order.push_back((subject.into(), answer.due));
        owed.held.insert(subject.into(), answer);
    }

    /// Where an answer to `subject` goes, if one is still waited for.
    pub(crate) fn find(&self, subject: &str, now: MonoNanos) -> Option<Answer> {
        let owed = self.lock();
        owed.held.get(subject).filter(|answer| answer.due > now).cloned()
    }

    /// An answer has come: it was the last one, or more may come.
    pub(crate) fn came(&self, subject: &str, is_last: bool, now: MonoNanos) {
        let mut owed = self.lock();
        if is_last {
            owed.held.remove(subject);
        } else if let Some(answer) = owed.held.get_mut(subject) {
            answer.due = MonoNanos(now.0.saturating_add(answer.patience_nanos));
        }
    }

    /// A number that no other answer of the account has.
    pub(crate) fn next_number(&self) -> u64 {
        self.next.fetch_add(1, Relaxed)
    }

    /// How many are waited for.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.lock().held.len()
    }

    fn lock(&self) -> MutexGuard<'_, Owed> {
        self.owed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Owed {
    fn forget_late(&mut self, now: MonoNanos) {
        while let Some((subject, due)) = self.order.front() {
            let is_crowded = self.order.len() >= OWED_MAX;
            if !is_crowded && *due > now {
                break;
            }
            let (subject, _) = (subject.clone(), self.order.pop_front());
            match self.held.get(&subject).map(|answer| answer.due) {
                // Parts of the answer have put its time off.
                Some(due) if due > now && !is_crowded => self.order.push_back((subject, due)),
                Some(_) => drop(self.held.remove(&subject)),
                None => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(due: u64) -> Answer {
        Answer {
            router: Weak::new(),
            to: "_INBOX.1".into(),
            response: ResponseType::Stream,
            due: MonoNanos(due),
            patience_nanos: 10,
        }
    }

    #[test]
    fn answers_are_waited_for_as_long_as_parts_come() {
        let answers = Answers::default();
        answers.expect("_R_.1", answer(10), MonoNanos(0));
        answers.expect("_R_.2", answer(10), MonoNanos(0));
        assert!(answers.find("_R_.1", MonoNanos(9)).is_some());
        answers.came("_R_.1", false, MonoNanos(9));
        answers.expect("_R_.3", answer(30), MonoNanos(12));
        assert!(answers.find("_R_.1", MonoNanos(12)).is_some());
        assert!(answers.find("_R_.2", MonoNanos(12)).is_none());
        assert_eq!(answers.len(), 2);
        answers.came("_R_.1", true, MonoNanos(13));
        assert!(answers.find("_R_.1", MonoNanos(13)).is_none());
    }

    #[test]
    fn their_number_is_bounded() {
        let answers = Answers::default();
        for number in 0..OWED_MAX + 10 {
            answers.expect(&format!("_R_.{number}"), answer(u64::MAX), MonoNanos(0));
        }
        assert!(answers.len() <= OWED_MAX && answers.find("_R_.0", MonoNanos(1)).is_none());
    }
}
