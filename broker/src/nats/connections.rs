//! The connections there are: for monitoring and for shutting down.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use crate::accounts::Place;
use crate::auth::Identity;
use crate::monitor::connz::ConnInfo;
use crate::nats::door::Transport;
use crate::outbound::{ClientId, Outbound};
use crate::types::{MonoNanos, UnixNanos};

/// One connection.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) peer: SocketAddr,
    pub(crate) start: UnixNanos,
    pub(crate) outbound: Arc<Outbound>,
    /// What it travels on.
    pub(crate) transport: Transport,
    /// Who the client says it is, once it has.
    pub(crate) client: OnceLock<Arc<ClientName>>,
    /// Who it has shown itself to be, once it has.
    identity: Mutex<Option<Arc<Identity>>>,
    /// Its place in the account.
    place: Mutex<Option<Place>>,
    /// Monotonic time of the first read.
    opened: MonoNanos,
    /// Monotonic time of the last read.
    last_read: AtomicU64,
    /// Nanoseconds from a question to its answer; 0: not known yet.
    rtt: AtomicU64,
}

/// A connection that has ended.
#[derive(Debug)]
pub(crate) struct Closed {
    pub(crate) info: ConnInfo,
    pub(crate) user: String,
    pub(crate) account: Arc<str>,
}

/// Who a client says it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ClientName {
    pub(crate) name: Arc<str>,
    pub(crate) lang: Arc<str>,
    pub(crate) version: Arc<str>,
}

/// Names that are shared among clients that say the same.
const SHARED_NAMES_MAX: usize = 64;

impl Connection {
    /// Who it has shown itself to be.
    pub(crate) fn identity(&self) -> Option<Arc<Identity>> {
        lock(&self.identity).clone()
    }

    /// The connection has shown itself to be `identity`.
    pub(crate) fn set_identity(&self, identity: Arc<Identity>, place: Place) {
        *lock(&self.identity) = Some(identity);
        *lock(&self.place) = Some(place);
    }

    /// Gives its place in the account back.
    pub(crate) fn leave(&self) {
        *lock(&self.place) = None;
    }

    /// The same, on this transport.
    pub(crate) fn on(self, transport: Transport) -> Self {
        Self { transport, ..self }
    }

    pub(crate) fn new(peer: SocketAddr, start: UnixNanos, now: MonoNanos, outbound: Arc<Outbound>) -> Self {
        Self {
            peer,
            start,
            outbound,
            transport: Transport::default(),
            client: OnceLock::new(),
            identity: Mutex::new(None),
            place: Mutex::new(None),
            opened: now,
            last_read: AtomicU64::new(now.0),
            rtt: AtomicU64::new(0),
        }
    }

    pub(crate) fn id(&self) -> ClientId {
        self.outbound.id()
    }

    pub(crate) fn touch(&self, now: MonoNanos) {
        self.last_read.store(now.0, Relaxed);
    }

    /// When something came last.
    pub(crate) fn last_activity(&self) -> UnixNanos {
        let since = self.last_read.load(Relaxed).saturating_sub(self.opened.0);
        self.start
            .saturating_add(i64::try_from(since).unwrap_or(i64::MAX))
    }

    /// Notes how long an answer took.
    pub(crate) fn set_rtt(&self, asked: MonoNanos) {
        let nanos = self.last_read.load(Relaxed).saturating_sub(asked.0);
        self.rtt.store(nanos.max(1), Relaxed);
    }

    /// Notes how long the first answer took, from INFO to CONNECT.
    pub(crate) fn set_first_rtt(&self) {
        self.set_rtt(self.opened);
    }

    /// How long an answer took; 0: not known yet.
    pub(crate) fn rtt_nanos(&self) -> u64 {
        self.rtt.load(Relaxed)
    }
}

/// All connections, by id.
#[derive(Debug, Default)]
pub(crate) struct Connections {
    held: Mutex<BTreeMap<ClientId, Arc<Connection>>>,
    /// What clients called themselves lately.
    names: Mutex<VecDeque<Arc<ClientName>>>,
    closed: Mutex<VecDeque<Arc<Closed>>>,
    /// Ended connections that are remembered.
    closed_max: AtomicUsize,
}

impl Connections {
    /// Takes a connection in, unless there are `max` already.
    pub(crate) fn insert(&self, connection: Arc<Connection>, max: usize) -> bool {
        let mut held = self.lock();
        if held.len() >= max {
            return false;
        }
        held.insert(connection.id(), connection);
        true
    }

    /// The name of a client, shared with others that say the same: many are of one kind.
    pub(crate) fn name(&self, name: &str, lang: &str, version: &str) -> Arc<ClientName> {
        let mut names = lock(&self.names);
        let same = |held: &&Arc<ClientName>| *held.lang == *lang && *held.version == *version;
        let exact = names
            .iter()
            .filter(same)
            .find(|held| *held.name == *name)
            .map(Arc::clone);
        if let Some(known) = exact {
            return known;
        }
        let (lang, version) = match names.iter().find(same) {
            Some(held) => (Arc::clone(&held.lang), Arc::clone(&held.version)),
            None => (lang.into(), version.into()),
        };
        let new = Arc::new(ClientName {
            name: name.into(),
            lang,
            version,
        });
        if names.len() >= SHARED_NAMES_MAX {
            names.pop_front();
        }
        names.push_back(Arc::clone(&new));
        new
    }

    /// Remembers as many ended connections from now on.
    pub(crate) fn keep_closed(&self, max: usize) {
        self.closed_max.store(max, Relaxed);
    }

    pub(crate) fn remove(&self, id: ClientId) {
        self.lock().remove(&id);
    }

    /// Remembers a connection that has ended, in place of the oldest if there are too many.
    pub(crate) fn remember(&self, closed: Closed) {
        let mut held = lock(&self.closed);
        let max = self.closed_max.load(Relaxed);
        while held.len() >= max.max(1) {
            held.pop_front();
        }
        if max > 0 {
            held.push_back(Arc::new(closed));
        }
    }

    /// The connections that have ended, oldest first.
    pub(crate) fn closed(&self) -> Vec<Arc<Closed>> {
        lock(&self.closed).iter().map(Arc::clone).collect()
    }

    pub(crate) fn find(&self, id: ClientId) -> Option<Arc<Connection>> {
        self.lock().get(&id).map(Arc::clone)
    }

    pub(crate) fn len(&self) -> usize {
        self.lock().len()
    }

    pub(crate) fn all(&self) -> Vec<Arc<Connection>> {
        self.lock().values().map(Arc::clone).collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<ClientId, Arc<Connection>>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_that_say_the_same_share_what_they_said() {
        let connections = Connections::default();
        let first = connections.name("a", "go", "1.2");
        assert!(Arc::ptr_eq(&first, &connections.name("a", "go", "1.2")));
        let other = connections.name("b", "go", "1.2");
        assert_eq!((&*other.name, &*other.lang, &*other.version), ("b", "go", "1.2"));
        assert!(Arc::ptr_eq(&first.version, &other.version));
        for number in 0..1000 {
            connections.name("c", "go", &number.to_string());
        }
        assert_eq!(lock(&connections.names).len(), SHARED_NAMES_MAX);
        assert_eq!(*connections.name("a", "go", "1.2"), *first);
    }
}
