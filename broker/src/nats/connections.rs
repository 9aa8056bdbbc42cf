//! The connections there are: for monitoring and for shutting down.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use crate::outbound::{ClientId, Outbound};
use crate::types::{MonoNanos, UnixNanos};

/// One connection.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) peer: SocketAddr,
    pub(crate) start: UnixNanos,
    pub(crate) outbound: Arc<Outbound>,
    /// Who the client says it is, once it has.
    pub(crate) client: OnceLock<ClientName>,
    /// Monotonic time of the last read.
    last_read: AtomicU64,
}

/// Who a client says it is.
#[derive(Clone, Debug, Default)]
pub(crate) struct ClientName {
    pub(crate) name: String,
    pub(crate) lang: String,
    pub(crate) version: String,
}

impl Connection {
    pub(crate) fn new(peer: SocketAddr, start: UnixNanos, now: MonoNanos, outbound: Arc<Outbound>) -> Self {
        Self {
            peer,
            start,
            outbound,
            client: OnceLock::new(),
            last_read: AtomicU64::new(now.0),
        }
    }

    pub(crate) fn id(&self) -> ClientId {
        self.outbound.id()
    }

    pub(crate) fn touch(&self, now: MonoNanos) {
        self.last_read.store(now.0, Relaxed);
    }

    pub(crate) fn last_read(&self) -> MonoNanos {
        MonoNanos(self.last_read.load(Relaxed))
    }
}

/// All connections, by id.
#[derive(Debug, Default)]
pub(crate) struct Connections {
    held: Mutex<BTreeMap<ClientId, Arc<Connection>>>,
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

    pub(crate) fn remove(&self, id: ClientId) {
        self.lock().remove(&id);
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
