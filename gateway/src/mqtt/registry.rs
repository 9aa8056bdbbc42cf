//! Which task owns the session of each client id. A connection claims an id, which asks the owner before it to let go.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

use super::seat::Seat;
use crate::identity::ClientId;

/// Asks a session's owner to close its connection and let go.
pub(super) struct Takeover {
    /// The newcomer wants the session itself, not only its name.
    pub(super) keep: bool,
    /// Answered with the session if it is wanted and not clean.
    pub(super) reply: oneshot::Sender<Option<Box<Seat>>>,
}

/// Ownership of a client id.
pub(super) struct Claim {
    pub(super) client: ClientId,
    /// Fires once, when the next connection claims the id.
    pub(super) takeover: oneshot::Receiver<Takeover>,
    generation: u64,
}

/// What the owner before answers.
pub(super) type FormerSeat = oneshot::Receiver<Option<Box<Seat>>>;

/// More sessions than the limit.
#[derive(Debug)]
pub(super) struct Full;

pub(super) struct Registry {
    sessions_max: usize,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    owners: HashMap<ClientId, Owner>,
    generation: u64,
}

struct Owner {
    takeover: oneshot::Sender<Takeover>,
    generation: u64,
}

impl Registry {
    pub(super) fn new(sessions_max: usize) -> Self {
        Self {
            sessions_max,
            state: Mutex::default(),
        }
    }

    /// Makes the caller the owner of `client`. If there was one before, it has been asked to let go, and answers on the
    /// receiver; one that is ending anyway drops it.
    pub(super) fn claim(&self, client: &ClientId, keep: bool) -> Result<(Claim, Option<FormerSeat>), Full> {
        let mut state = self.lock();
        state.generation += 1;
        let generation = state.generation;
        let (sender, takeover) = oneshot::channel();
        let owner = Owner {
            takeover: sender,
            generation,
        };
        let full = state.owners.len() >= self.sessions_max;
        let before = match state.owners.entry(client.clone()) {
            Entry::Occupied(mut entry) => Some(entry.insert(owner)),
            Entry::Vacant(_) if full => return Err(Full),
            Entry::Vacant(entry) => {
                entry.insert(owner);
                None
            }
        };
        drop(state);
        let answer = before.map(|before| {
            let (reply, answer) = oneshot::channel();
            // An owner that is gone drops the request, and with it the reply: no session.
            drop(before.takeover.send(Takeover { keep, reply }));
            answer
        });
        Ok((
            Claim {
                client: client.clone(),
                takeover,
                generation,
            },
            answer,
        ))
    }

    /// Ends an ownership, unless the id has been claimed since.
    pub(super) fn release(&self, claim: &Claim) {
        let mut state = self.lock();
        if state
            .owners
            .get(&claim.client)
            .is_some_and(|owner| owner.generation == claim.generation)
        {
            state.owners.remove(&claim.client);
        }
    }

    /// Sessions, connected or not.
    pub(super) fn count(&self) -> usize {
        self.lock().owners.len()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_has_one_owner_and_the_limit_holds_for_new_ids_only() {
        let registry = Registry::new(1);
        let id = ClientId::chosen("a").unwrap();
        let (mut first, before) = registry.claim(&id, true).unwrap();
        assert!(before.is_none());
        assert!(registry.claim(&ClientId::chosen("b").unwrap(), true).is_err());
        let (second, answer) = registry.claim(&id, true).unwrap();
        let takeover = first.takeover.try_recv().unwrap();
        assert!(takeover.keep && takeover.reply.send(None).is_ok());
        assert!(matches!(answer.unwrap().try_recv(), Ok(None)));
        registry.release(&first);
        assert_eq!(
            registry.count(),
            1,
            "the first owner can't end what is the second one's"
        );
        registry.release(&second);
        assert_eq!(registry.count(), 0);
    }
}
