//! Accounts: what keeps clients, subjects and streams of different tenants apart. Source: NATS, "Multi-tenancy using accounts".

pub(crate) mod names;

use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

use self::names::AccountNames;
use crate::outbound::Counters;
use crate::router::Router;
use crate::types::AccountId;

/// The account of clients that belong to no other.
pub(crate) const GLOBAL_ACCOUNT: &str = "$G";

/// One account: its name and its own space of subjects.
#[derive(Debug)]
pub(crate) struct Account {
    pub(crate) name: Arc<str>,
    pub(crate) router: Arc<Router>,
}

/// All accounts of a broker. None is ever taken out.
#[derive(Debug)]
pub(crate) struct Accounts {
    names: Arc<AccountNames>,
    counters: Arc<Counters>,
    global: Arc<Account>,
    held: RwLock<Vec<Arc<Account>>>,
}

impl Accounts {
    /// The account `$G` alone.
    pub(crate) fn new() -> Self {
        let (names, counters) = (Arc::new(AccountNames::new()), Arc::default());
        let global = account(AccountId::GLOBAL, GLOBAL_ACCOUNT.into(), &counters);
        Self {
            names,
            counters,
            held: RwLock::new(vec![Arc::clone(&global)]),
            global,
        }
    }

    /// The names, which the engine shares.
    pub(crate) fn names(&self) -> &Arc<AccountNames> {
        &self.names
    }

    /// The broker's counters, which all accounts share.
    pub(crate) fn counters(&self) -> &Arc<Counters> {
        &self.counters
    }

    /// The account `$G`.
    pub(crate) fn global(&self) -> &Arc<Account> {
        &self.global
    }

    /// The account of this handle, which [`AccountNames`] gave.
    pub(crate) fn get(&self, id: AccountId) -> Option<Arc<Account>> {
        if let Some(account) = self.read().get(id.0 as usize) {
            return Some(Arc::clone(account));
        }
        self.follow();
        self.read().get(id.0 as usize).map(Arc::clone)
    }

    /// All accounts, in the order in which they came.
    pub(crate) fn all(&self) -> Vec<Arc<Account>> {
        self.follow();
        self.read().clone()
    }

    /// Subscriptions in all accounts.
    pub(crate) fn subscription_count(&self) -> usize {
        let accounts = self.read();
        accounts
            .iter()
            .map(|account| account.router.subscription_count())
            .sum()
    }

    /// Takes in the accounts that the names know already.
    fn follow(&self) {
        let mut held = self.held.write().unwrap_or_else(PoisonError::into_inner);
        for (id, name) in self.names.from(held.len()) {
            held.push(account(id, name, &self.counters));
        }
    }

    fn read(&self) -> RwLockReadGuard<'_, Vec<Arc<Account>>> {
        self.held.read().unwrap_or_else(PoisonError::into_inner)
    }
}

fn account(id: AccountId, name: Arc<str>, counters: &Arc<Counters>) -> Arc<Account> {
    Arc::new(Account {
        name,
        router: Arc::new(Router::of(id, Arc::clone(counters))),
    })
}
