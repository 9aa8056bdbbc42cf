//! The tokio shell around sessions: accepts connections, reads, writes what was queued, and keeps time.

use std::sync::atomic::{
    AtomicBool, AtomicU64,
    Ordering::{Relaxed, SeqCst},
};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, Weak};
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::accounts::{Account, Accounts, Traffic};
use crate::auth::gate::Gate;
use crate::env::Clock;
use crate::env::real::RealClock;
use crate::local::{LocalClient, LocalQueue};
use crate::nats::callout::QUESTIONS_MAX;
use crate::nats::connections::{Connection, Connections};
use crate::nats::door::{Port, enter};
use crate::nats::info::{AuthInfo, ServerInfo};
use crate::nats::live::Live;
use crate::outbound::ClientId;
use crate::router::Router;
use crate::server::Limits;
use crate::shard::inbox::Inbox;
use crate::system::events::Events;
use crate::system::reloads::Reloads;
use crate::types::MonoNanos;

/// What all connections share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) accounts: Arc<Accounts>,
    pub(crate) inbox: Arc<Inbox>,
    pub(crate) gate: Gate,
    /// As the broker began; new connections have those of [`Shared::live`].
    pub(crate) limits: Limits,
    pub(crate) info: ServerInfo,
    live: RwLock<Arc<Live>>,
    pub(crate) connections: Connections,
    pub(crate) clock: RealClock,
    pub(crate) next_client: AtomicU64,
    next_internal: AtomicU64,
    pub(crate) locals: Mutex<Vec<Weak<LocalQueue>>>,
    /// Cancelled when nothing more is to be accepted or read.
    pub(crate) stop: CancellationToken,
    /// The same, for those that look often.
    is_stopping: AtomicBool,
    /// Cancelled when nothing more is to be accepted.
    pub(crate) lame_duck: CancellationToken,
    /// What is told to the system account.
    pub(crate) events: Events,
    /// Reloads that the system account is asked for.
    pub(crate) reloads: Reloads,
    /// Turns of questions to services that let users in.
    pub(crate) questions: Semaphore,
    /// Tasks of connections.
    pub(crate) tasks: TaskTracker,
    /// Sessions that may still hand something over.
    pub(crate) reading: TaskTracker,
}

/// How long accepting pauses after an error such as too many open files.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How often the log says that accepting fails, at most.
const ACCEPT_LOG_NANOS: u64 = 10_000_000_000;

impl Shared {
    pub(crate) fn new(
        live: Live,
        info: ServerInfo,
        accounts: Arc<Accounts>,
        gate: Gate,
        events: Events,
    ) -> Self {
        let limits = live.limits.clone();
        let stop = CancellationToken::new();
        Self {
            accounts,
            gate,
            inbox: Arc::new(Inbox::new(limits.inbox_bytes)),
            limits,
            info,
            live: RwLock::new(Arc::new(live)),
            connections: Connections::default(),
            clock: RealClock::new(),
            next_client: AtomicU64::new(1),
            next_internal: AtomicU64::new(0),
            locals: Mutex::default(),
            lame_duck: stop.child_token(),
            stop,
            is_stopping: AtomicBool::new(false),
            events,
            reloads: Reloads::default(),
            questions: Semaphore::new(QUESTIONS_MAX),
            tasks: TaskTracker::new(),
            reading: TaskTracker::new(),
        }
    }

    /// Nothing more is accepted or read from now on.
    pub(crate) fn stop_reading(&self) {
        self.is_stopping.store(true, SeqCst);
        self.stop.cancel();
        // Who comes in later looks after that.
        for connection in self.connections.all() {
            connection.outbound.wake();
        }
    }

    /// Whether nothing more is to be read.
    pub(crate) fn is_stopping(&self) -> bool {
        self.is_stopping.load(SeqCst)
    }

    /// Settings for new connections.
    pub(crate) fn live(&self) -> Arc<Live> {
        Arc::clone(&self.live.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// New connections have other settings from now on.
    pub(crate) fn set_live(&self, live: Live) {
        *self.live.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(live);
    }

    /// One of the broker's own clients.
    pub(crate) fn internal_client(&self, account: &Account, name: &str) -> LocalClient {
        let queue = LocalQueue::internal(self.next_internal(), self.limits.max_pending_bytes);
        self.client_of(Arc::clone(&account.router), name, Arc::new(queue))
    }

    /// Ids of the broker's own clients count downwards, so that those of connections have no gaps.
    fn next_internal(&self) -> ClientId {
        ClientId(u64::MAX - self.next_internal.fetch_add(1, Relaxed))
    }

    /// What has gone through an account.
    pub(crate) fn traffic_of(&self, account: &Account) -> Traffic {
        let mut traffic = account.past();
        for connection in self.connections.all() {
            if connection
                .identity()
                .is_some_and(|held| held.account.name == account.name)
            {
                traffic.add(&connection.outbound.counters);
            }
        }
        traffic
    }

    fn client_of(&self, router: Arc<Router>, name: &str, queue: Arc<LocalQueue>) -> LocalClient {
        let mut locals = self.lock_locals();
        locals.retain(|held| held.strong_count() > 0);
        locals.push(Arc::downgrade(&queue));
        drop(locals);
        LocalClient::new(name, router, Arc::clone(&self.inbox), queue)
    }

    /// A client in this process.
    pub(crate) fn local_client(&self, name: &str) -> LocalClient {
        let counters = Arc::clone(self.accounts.counters());
        let queue = Arc::new(LocalQueue::new(
            self.next_client(),
            self.limits.max_pending_bytes,
            counters,
        ));
        let router = Arc::clone(&self.accounts.global().router);
        self.client_of(router, name, queue)
    }

    /// Tells a client that it should go elsewhere.
    pub(crate) fn tell_of_lame_duck(&self, connection: &Connection) {
        // Who has not said what it understands is not told.
        if connection.client.get().is_none() {
            return;
        }
        let info = ServerInfo {
            is_lame_duck: true,
            ..self.live().info.clone()
        };
        let auth = AuthInfo {
            is_required: self.gate.directory().is_required(),
            nonce: "",
        };
        let mut line = info.line(connection.id(), connection.peer.ip(), &auth);
        connection.outbound.push(&mut line);
    }

    /// Tells local clients that nothing more will come.
    pub(crate) fn close_locals(&self) {
        for queue in self.lock_locals().drain(..).filter_map(|held| held.upgrade()) {
            queue.close();
        }
    }

    fn lock_locals(&self) -> MutexGuard<'_, Vec<Weak<LocalQueue>>> {
        self.locals.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn next_client(&self) -> ClientId {
        ClientId(self.next_client.fetch_add(1, Relaxed))
    }
}

/// Accepts connections until the broker is a lame duck or stops.
pub(crate) async fn accept(listener: TcpListener, port: Port, shared: Arc<Shared>) {
    let mut log_again = None;
    loop {
        let accepted = tokio::select! {
            () = shared.lame_duck.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => {
                enter(stream, peer, port, &shared);
            }
            Err(err) => {
                let now = shared.clock.monotonic();
                if log_again.is_none_or(|again| now >= again) {
                    tracing::warn!(error = %err, "accepting a connection failed");
                    log_again = Some(MonoNanos(now.0 + ACCEPT_LOG_NANOS));
                }
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}
