//! Accounts: what keeps clients, subjects and streams of different tenants apart. Source: NATS, "Multi-tenancy using accounts".

mod links;
pub(crate) mod names;
pub(crate) mod shown;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard};

use self::names::AccountNames;
use self::shown::Shown;
use crate::options::{AccountLimits, AuthOptions, GLOBAL_ACCOUNT, JetStreamTier, SYSTEM_ACCOUNT};
use crate::outbound::{ClientCounters, Counters};
use crate::router::{JetStreamUse, Router};
use crate::types::AccountId;

/// One account: its name and its own space of subjects.
#[derive(Debug)]
pub(crate) struct Account {
    pub(crate) name: Arc<str>,
    pub(crate) router: Arc<Router>,
    /// What an operator calls it, if that is something else.
    tag: RwLock<Option<Arc<str>>>,
    /// Connections now.
    connections: AtomicU64,
    limits: RwLock<AccountLimits>,
    past: Mutex<Traffic>,
    shown: RwLock<Arc<Shown>>,
}

/// What has gone through an account.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Traffic {
    pub(crate) in_msgs: u64,
    pub(crate) in_bytes: u64,
    pub(crate) out_msgs: u64,
    pub(crate) out_bytes: u64,
    pub(crate) slow_consumers: u64,
}

impl Traffic {
    /// Adds what a client had.
    pub(crate) fn add(&mut self, counters: &ClientCounters) {
        self.in_msgs += counters.in_msgs.load(Relaxed);
        self.in_bytes += counters.in_bytes.load(Relaxed);
        self.out_msgs += counters.out_msgs.load(Relaxed);
        self.out_bytes += counters.out_bytes.load(Relaxed);
    }
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

    /// Connections now.
    pub(crate) fn connection_count(&self) -> u64 {
        self.connections.load(Relaxed)
    }

    /// What went through connections that have ended.
    pub(crate) fn past(&self) -> Traffic {
        *self.past.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A connection has ended.
    pub(crate) fn ended(&self, counters: &ClientCounters, was_slow: bool) {
        let mut past = self.past.lock().unwrap_or_else(PoisonError::into_inner);
        past.add(counters);
        past.slow_consumers += u64::from(was_slow);
    }

    /// What people call it.
    pub(crate) fn tag(&self) -> Arc<str> {
        let tag = self.tag.read().unwrap_or_else(PoisonError::into_inner);
        tag.clone().unwrap_or_else(|| Arc::clone(&self.name))
    }

    /// Sets what people call it.
    pub(crate) fn set_tag(&self, tag: &str) {
        let tag = (!tag.is_empty()).then(|| tag.into());
        *self.tag.write().unwrap_or_else(PoisonError::into_inner) = tag;
    }

    /// What it shares, as monitoring tells of it.
    pub(crate) fn shown(&self) -> Arc<Shown> {
        Arc::clone(&self.shown.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn set_shown(&self, shown: Shown) {
        *self.shown.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(shown);
    }

    /// What the account is limited to.
    pub(crate) fn limits(&self) -> AccountLimits {
        *self.limits.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn set_limits(&self, limits: AccountLimits) {
        *self.limits.write().unwrap_or_else(PoisonError::into_inner) = limits;
    }
}

/// The domains of JetStream.
#[derive(Clone, Debug, Default)]
pub(crate) struct Domains {
    /// The server's own.
    pub(crate) own: Option<String>,
    /// By account: where requests go that name none.
    pub(crate) default: BTreeMap<String, String>,
}

/// All accounts of a broker. None is ever taken out.
#[derive(Debug)]
pub(crate) struct Accounts {
    names: Arc<AccountNames>,
    counters: Arc<Counters>,
    global: Arc<Account>,
    system: RwLock<Option<Arc<Account>>>,
    held: RwLock<Vec<Arc<Account>>>,
    domain: Option<Arc<str>>,
}

impl Accounts {
    /// The account `$G` alone. `domain`: JetStream's, as requests may name it.
    pub(crate) fn new(domain: Option<&str>) -> Self {
        let domain: Option<Arc<str>> = domain.map(Into::into);
        let (names, counters) = (Arc::new(AccountNames::new()), Arc::default());
        let global = account(
            AccountId::GLOBAL,
            GLOBAL_ACCOUNT.into(),
            &counters,
            domain.as_ref(),
        );
        Self {
            names,
            counters,
            system: RwLock::default(),
            held: RwLock::new(vec![Arc::clone(&global)]),
            domain,
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

    /// Sets the accounts up as the options say. `has_jetstream`: the server has it at all.
    /// Source: nats-server, `configAllJetStreamAccounts`.
    pub(crate) fn configure(&self, options: &AuthOptions, has_jetstream: bool, domains: &Domains) {
        let system = system_name(options);
        if let Some(name) = system {
            self.named(name);
        }
        for account in &options.accounts {
            self.named(&account.name).set_limits(account.limits);
        }
        let is_other = |name: &str| name != GLOBAL_ACCOUNT && Some(name) != system;
        let is_alone = !options.accounts.iter().any(|account| is_other(&account.name));
        for account in self.all() {
            let name = &*account.name;
            let configured = options.accounts.iter().find(|known| known.name == name);
            let tier = match configured.and_then(|known| known.jetstream) {
                Some(jetstream) => Some(jetstream.tier),
                None => (name == GLOBAL_ACCOUNT && is_alone).then(JetStreamTier::default),
            };
            let (tier, jetstream) = match tier {
                _ if !has_jetstream => (None, JetStreamUse::Off),
                _ if Some(name) == system => (None, JetStreamUse::ToldAlways),
                Some(tier) => (Some(tier), JetStreamUse::Full),
                None => (None, JetStreamUse::Told),
            };
            self.names.set_jetstream(account.router.account(), tier);
            account.router.set_jetstream(jetstream);
        }
        self.names.set_system(system.map(|name| self.names.intern(name)));
        *self.system.write().unwrap_or_else(PoisonError::into_inner) = system.map(|name| self.named(name));
        self.link(options, domains);
    }

    /// The system account, if there is one.
    pub(crate) fn system(&self) -> Option<Arc<Account>> {
        let system = self.system.read().unwrap_or_else(PoisonError::into_inner);
        system.clone()
    }

    /// The account of this name.
    pub(crate) fn find(&self, name: &str) -> Option<Arc<Account>> {
        self.all().into_iter().find(|account| *account.name == *name)
    }

    /// All accounts, in the order in which they came.
    pub(crate) fn all(&self) -> Vec<Arc<Account>> {
        self.follow();
        self.read().clone()
    }

    /// Accounts whose services' answers are measured.
    pub(crate) fn measuring(&self) -> Vec<Arc<Account>> {
        let accounts = self.read();
        let is_measured = |account: &&Arc<Account>| account.router.sharing().measures;
        accounts.iter().filter(is_measured).cloned().collect()
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
            held.push(account(id, name, &self.counters, self.domain.as_ref()));
        }
    }

    fn read(&self) -> RwLockReadGuard<'_, Vec<Arc<Account>>> {
        self.held.read().unwrap_or_else(PoisonError::into_inner)
    }
}

fn system_name(options: &AuthOptions) -> Option<&str> {
    (!options.no_system_account).then(|| options.system_account.as_deref().unwrap_or(SYSTEM_ACCOUNT))
}

fn account(
    id: AccountId,
    name: Arc<str>,
    counters: &Arc<Counters>,
    domain: Option<&Arc<str>>,
) -> Arc<Account> {
    Arc::new(Account {
        name,
        router: Arc::new(Router::of(id, Arc::clone(counters), domain.map(Arc::clone))),
        connections: AtomicU64::new(0),
        limits: RwLock::default(),
        tag: RwLock::default(),
        past: Mutex::default(),
        shown: RwLock::default(),
    })
}
