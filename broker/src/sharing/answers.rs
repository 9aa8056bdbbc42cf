//! Answers that other accounts wait for: subjects `_R_.…` and the requesters' own that they stand for.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError, Weak};

use crate::options::ResponseType;
use crate::router::Router;
use crate::sharing::latency::Measured;
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
    /// When those are due that are measured.
    measured: BTreeSet<(MonoNanos, Box<str>)>,
    /// Those that were not answered in time, until that is told.
    late: Vec<Measured>,
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
    /// What is told of how long it took.
    pub(crate) measured: Option<Box<Measured>>,
    /// By how much each part of an answer puts that off.
    pub(crate) patience_nanos: u64,
}

impl Answers {
    /// An answer to `subject` is waited for from now on.
    pub(crate) fn expect(&self, subject: &str, answer: Answer, now: MonoNanos) {
        let mut owed = self.lock();
        owed.forget_late(now);
        owed.order.push_back((subject.into(), answer.due));
        if answer.measured.is_some() && owed.measured.len() < OWED_MAX {
            owed.measured.insert((answer.due, subject.into()));
        }
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

    /// What is to be told of an answer that comes now; it is given once.
    pub(crate) fn take_measured(&self, subject: &str) -> Option<Box<Measured>> {
        let mut owed = self.lock();
        let answer = owed.held.get_mut(subject)?;
        let (measured, due) = (answer.measured.take()?, answer.due);
        owed.measured.remove(&(due, subject.into()));
        Some(measured)
    }

    /// Measured requests that have not been answered in time.
    pub(crate) fn take_late(&self, now: MonoNanos) -> Vec<Measured> {
        let mut owed = self.lock();
        while let Some((due, _)) = owed.measured.first()
            && *due <= now
            && let Some((_, subject)) = owed.measured.pop_first()
        {
            let late = owed
                .held
                .get_mut(&subject)
                .and_then(|answer| answer.measured.take());
            owed.late.extend(late.map(|measured| *measured));
        }
        std::mem::take(&mut owed.late)
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
                Some(due) => {
                    let gone = self.held.remove(&subject).and_then(|answer| answer.measured);
                    // What had to make room was not late.
                    if due <= now && self.late.len() < OWED_MAX {
                        self.late.extend(gone.map(|measured| *measured));
                    }
                }
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
            measured: None,
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
    fn only_what_is_late_is_told_as_late() {
        let measured = Measured {
            subject: "lat".into(),
            account: "A".into(),
            requestor: "{}".into(),
            requestor_rtt_nanos: 0,
            trace: crate::sharing::latency::Trace::new(),
            asked_at: crate::types::UnixNanos(0),
            asked: MonoNanos(0),
        };
        let answer = |due| Answer {
            measured: Some(Box::new(measured.clone())),
            ..answer(due)
        };
        let answers = Answers::default();
        for (subject, due) in [("_R_.1", 10), ("_R_.2", 5), ("_R_.3", 20), ("_R_.4", 20)] {
            answers.expect(subject, answer(due), MonoNanos(0));
        }
        assert!(answers.take_measured("_R_.3").is_some() && answers.take_measured("_R_.3").is_none());
        assert_eq!(answers.take_late(MonoNanos(4)).len(), 0);
        assert_eq!(answers.take_late(MonoNanos(5)).len(), 1);
        // What is forgotten on the way is told all the same, once.
        answers.expect("_R_.5", answer(u64::MAX), MonoNanos(11));
        assert_eq!(answers.take_late(MonoNanos(11)).len(), 1);
        assert_eq!(answers.take_late(MonoNanos(30)).len(), 1);
        assert_eq!(answers.take_late(MonoNanos(30)).len(), 0);
        for number in 0..OWED_MAX {
            answers.expect(&format!("_R_.x{number}"), answer(u64::MAX), MonoNanos(31));
        }
        assert_eq!(answers.take_late(MonoNanos(31)).len(), 0);
        assert!(answers.lock().measured.len() <= OWED_MAX);
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
