//! The names of accounts and their handles.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

use crate::options::{GLOBAL_ACCOUNT, JetStreamTier};
use crate::types::AccountId;

/// Names of accounts by handle. Grows only; the first is `$G`.
#[derive(Debug)]
pub(crate) struct AccountNames {
    held: RwLock<Vec<Named>>,
    has_byte_limits: AtomicBool,
    /// The handle of the system account; [`u32::MAX`]: there is none.
    system: AtomicU32,
}

#[derive(Debug)]
struct Named {
    name: Arc<str>,
    /// What the account may use of JetStream; none: nothing.
    jetstream: Option<JetStreamTier>,
}

impl Named {
    fn new(name: &str) -> Self {
        Self {
            name: name.into(),
            jetstream: Some(JetStreamTier::default()),
        }
    }
}

impl AccountNames {
    /// The name `$G` alone.
    pub(crate) fn new() -> Self {
        Self {
            held: RwLock::new(vec![Named::new(GLOBAL_ACCOUNT)]),
            has_byte_limits: AtomicBool::new(false),
            system: AtomicU32::new(u32::MAX),
        }
    }

    /// The handle of the account of this name; a new one if the name is new.
    pub(crate) fn intern(&self, name: &str) -> AccountId {
        let mut held = self.held.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(index) = held.iter().position(|known| *known.name == *name) {
            return id(index);
        }
        held.push(Named::new(name));
        id(held.len() - 1)
    }

    /// The name behind a handle.
    pub(crate) fn name(&self, id: AccountId) -> Option<Arc<str>> {
        self.read()
            .get(id.0 as usize)
            .map(|known| Arc::clone(&known.name))
    }

    /// All handles.
    pub(crate) fn ids(&self) -> impl Iterator<Item = AccountId> + use<> {
        (0..self.read().len()).map(id)
    }

    /// The names from this handle on.
    pub(super) fn from(&self, first: usize) -> Vec<(AccountId, Arc<str>)> {
        let held = self.read();
        let names = held.iter().enumerate().skip(first);
        names
            .map(|(index, known)| (id(index), Arc::clone(&known.name)))
            .collect()
    }

    /// The name under which the store keeps a stream: in `$G` the stream's own, else `<account>/<stream>`. No stream's
    /// name holds a `/`.
    pub(crate) fn stored_name(&self, account: AccountId, stream: &str) -> String {
        match self.name(account).filter(|_| account != AccountId::GLOBAL) {
            Some(name) => format!("{name}/{stream}"),
            None => stream.to_owned(),
        }
    }

    /// The account and the stream of a name in the store. An account that was not known becomes known.
    pub(crate) fn of_stored<'a>(&self, stored: &'a str) -> (AccountId, &'a str) {
        match stored.rsplit_once('/') {
            Some((account, stream)) => (self.intern(account), stream),
            None => (AccountId::GLOBAL, stored),
        }
    }

    /// Says which the system account is.
    pub(crate) fn set_system(&self, id: Option<AccountId>) {
        self.system.store(id.map_or(u32::MAX, |id| id.0), Relaxed);
    }

    /// Whether this is the system account.
    pub(crate) fn is_system(&self, id: AccountId) -> bool {
        self.system.load(Relaxed) == id.0
    }

    /// Sets what an account may use of JetStream; none: nothing.
    pub(crate) fn set_jetstream(&self, id: AccountId, tier: Option<JetStreamTier>) {
        let mut held = self.held.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = held.get_mut(id.0 as usize) {
            known.jetstream = tier;
        }
        let limits = |known: &Named| known.jetstream.is_some_and(|tier| tier.limits_bytes());
        self.has_byte_limits.store(held.iter().any(limits), Relaxed);
    }

    /// What an account may use of JetStream; none: nothing.
    pub(crate) fn jetstream(&self, id: AccountId) -> Option<JetStreamTier> {
        self.read().get(id.0 as usize)?.jetstream
    }

    /// Whether some account's bytes are bounded.
    pub(crate) fn has_byte_limits(&self) -> bool {
        self.has_byte_limits.load(Relaxed)
    }

    fn read(&self) -> RwLockReadGuard<'_, Vec<Named>> {
        self.held.read().unwrap_or_else(PoisonError::into_inner)
    }
}

fn id(index: usize) -> AccountId {
    AccountId(u32::try_from(index).unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_of_the_global_account_keep_their_names_on_disk() {
        let names = AccountNames::new();
        let noetl = names.intern("NOETL");
        assert_eq!(names.intern("$G"), AccountId::GLOBAL);
        assert_eq!(names.stored_name(AccountId::GLOBAL, "ORDERS"), "ORDERS");
        assert_eq!(names.stored_name(noetl, "ORDERS"), "NOETL/ORDERS");
        for (account, stream) in [
            (AccountId::GLOBAL, "A"),
            (noetl, "A"),
            (names.intern("odd/name"), "A"),
        ] {
            let stored = names.stored_name(account, stream);
            assert_eq!(names.of_stored(&stored), (account, stream));
        }
    }
}
