//! Accounts: what keeps clients, subjects and streams of different tenants apart. Source: NATS, "Multi-tenancy using accounts".

pub(crate) mod names;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

use self::names::AccountNames;
use crate::options::{AccountLimits, AuthOptions, GLOBAL_ACCOUNT, SYSTEM_ACCOUNT};
use crate::outbound::Counters;
use crate::router::Router;
use crate::types::AccountId;

/// One account: its name and its own space of subjects.
#[derive(Debug)]
pub(crate) struct Account {
    pub(crate) name: Arc<str>,
    pub(crate) router: Arc<Router>,
    /// Connections now.
    connections: AtomicU64,
    limits: RwLock<AccountLimits>,
}

/// A connection's place in its account; given back when it is dropped.
#[derive(Debug)]
pub(crate) struct Place(Arc<Account>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.connections.fetch_sub(1, Relaxed);
    }
}

impl Account {
    /// Takes in one more connection. None: there are as many as the account may have.
    pub(crate) fn take_place(self: &Arc<Self>) -> Option<Place> {
        let max = self.limits().max_connections.unwrap_or(u64::MAX);
        let one_more = |count: u64| (count < max).then_some(count + 1);
        self.connections
            .fetch_update(Relaxed, Relaxed, one_more)
            .ok()
            .map(|_| Place(Arc::clone(self)))
    }

    /// What the account is limited to.
    pub(crate) fn limits(&self) -> AccountLimits {
        *self.limits.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn set_limits(&self, limits: AccountLimits) {
        *self.limits.write().unwrap_or_else(PoisonError::into_inner) = limits;
    }
}

/// All accounts of a broker. None is ever taken out.
#[derive(Debug)]
pub(crate) struct Accounts {
    names: Arc<AccountNames>,
    counters: Arc<Counters>,
    without_jetstream: AtomicBool,
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
            without_jetstream: AtomicBool::new(false),
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

    /// The account of this name; a new one if there is none yet.
    pub(crate) fn named(&self, name: &str) -> Arc<Account> {
        let id = self.names.intern(name);
        self.get(id).unwrap_or_else(|| Arc::clone(&self.global))
    }

    /// Sets the accounts up as the options say.
    pub(crate) fn configure(&self, options: &AuthOptions) {
        for account in &options.accounts {
            self.named(&account.name).set_limits(account.limits);
        }
        if !options.no_system_account {
            self.named(options.system_account.as_deref().unwrap_or(SYSTEM_ACCOUNT));
        }
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
            let account = account(id, name, &self.counters);
            if self.without_jetstream.load(Relaxed) {
                account.router.switch_jetstream_off();
            }
            held.push(account);
        }
    }

    /// There is no JetStream in any account, now or later.
    pub(crate) fn switch_jetstream_off(&self) {
        self.without_jetstream.store(true, Relaxed);
        for account in self.all() {
            account.router.switch_jetstream_off();
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
        connections: AtomicU64::new(0),
        limits: RwLock::default(),
    })
}
