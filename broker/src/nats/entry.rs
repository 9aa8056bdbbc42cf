//! How a connection comes in: what it is asked for, how long it has, and when it has to go.

use std::sync::Arc;
use std::time::Duration;

use crate::auth::{AuthError, Facts, Login};
use crate::env::Clock;
use crate::nats::callout;
use crate::nats::connections::Connection;
use crate::nats::listener::Shared;
use crate::nats::session::Session;
use crate::nats::upgrade::CookieLogin;
use crate::outbound::CloseReason;
use crate::system::events::details;
use crate::types::{AccountId, MonoNanos};

/// What a connection is asked for and how long it may stay.
#[derive(Debug)]
pub(crate) struct Entry {
    /// What is known of a client that has to say who it is; none: it need not.
    asked: Option<Box<Asked>>,
    /// When it has to have come in, or has to go.
    deadline: Option<MonoNanos>,
}

#[derive(Debug)]
struct Asked {
    facts: Facts,
    /// Services may want to know more of the client.
    asks_services: bool,
    /// What stands in for what CONNECT does not say.
    cookies: CookieLogin,
}

impl Entry {
    /// For a new connection.
    pub(crate) fn new(shared: &Shared, facts: Facts) -> Self {
        let directory = shared.gate.directory();
        let is_required = directory.is_required();
        let deadline = is_required.then(|| shared.clock.monotonic().after(directory.timeout()));
        Self {
            asked: is_required.then(|| {
                Box::new(Asked {
                    facts,
                    asks_services: directory.asks_services(),
                    cookies: CookieLogin::default(),
                })
            }),
            deadline,
        }
    }

    /// Names in the client's certificate, best first.
    pub(crate) fn show_certificate(&mut self, names: Vec<String>) {
        if let Some(asked) = &mut self.asked {
            asked.facts.certificate_names = names;
        }
    }

    /// Whether services may want to know more of the client.
    pub(crate) fn asks_services(&self) -> bool {
        self.asked.as_ref().is_some_and(|asked| asked.asks_services)
    }

    /// What a service may want to see of the client's certificates, as PEM, its own first.
    pub(crate) fn show_chain(&mut self, certificates: Vec<String>) {
        if let Some(asked) = &mut self.asked {
            asked.facts.certificates = certificates;
        }
    }

    /// What a browser's cookies say about its user: CONNECT need not say it.
    pub(crate) fn show_cookies(&mut self, cookies: CookieLogin) {
        if let Some(asked) = &mut self.asked {
            asked.cookies = cookies;
        }
    }

    fn login(&self, session: &Session) -> Login {
        let mut login = session
            .options()
            .map(|options| options.login.clone())
            .unwrap_or_default();
        let Some(Asked { cookies, .. }) = self.asked.as_deref() else {
            return login;
        };
        for (own, cookie) in [
            (&mut login.user, &cookies.user),
            (&mut login.password.0, &cookies.pass),
            (&mut login.token.0, &cookies.token),
            (&mut login.jwt.0, &cookies.jwt),
        ] {
            if own.is_empty() {
                own.clone_from(cookie);
            }
        }
        login
    }

    /// What the client has to sign; empty: nothing.
    pub(crate) fn nonce(&self) -> &str {
        self.asked.as_ref().map_or("", |asked| &asked.facts.nonce)
    }

    /// Whether clients have to say who they are.
    pub(crate) fn is_required(&self) -> bool {
        self.asked.is_some()
    }

    /// Lets the connection in as anybody, if that is enough. Returns the end of one that is too many.
    pub(crate) fn open(
        &self,
        session: &mut Session,
        connection: &Connection,
        shared: &Shared,
    ) -> Option<CloseReason> {
        if self.is_required() {
            session.require_login();
            return None;
        }
        let identity = shared.gate.directory().anybody();
        let Some(place) = identity.account.take_place() else {
            return Some(refuse(session, AuthError::TooManyAccountConnections));
        };
        connection.set_identity(identity, place);
        None
    }

    /// Decides on a CONNECT. Returns the end of a connection that may not come in.
    pub(crate) async fn admit(
        &mut self,
        session: &mut Session,
        connection: &Connection,
        shared: &Shared,
    ) -> Option<CloseReason> {
        let login = self.login(session);
        let directory = shared.gate.directory();
        let now = shared.clock.now();
        let none = Facts::default();
        let facts = self.asked.as_ref().map_or(&none, |asked| &asked.facts);
        let mut found = shared.gate.identify(&directory, &login, facts, now).await;
        let mut decided_in = shared.accounts.get(AccountId::GLOBAL);
        if let Some(callout) = directory.service_for(&login, found.as_ref().map_err(|err| *err)) {
            decided_in = Some(Arc::clone(&callout.account));
            let options = session.options().cloned().unwrap_or_default();
            let client = callout::Client {
                login: &login,
                facts,
                options: &options,
                connection,
            };
            found = Box::pin(callout::ask(shared, &directory, &callout, &client)).await;
        }
        let identity = match found {
            Ok(identity) => Arc::new(identity),
            Err(err) => {
                let user = if login.user.is_empty() {
                    &login.nkey
                } else {
                    &login.user
                };
                let place = (shared.info.server_id.as_str(), decided_in);
                shared.events.refused(connection, place, user, shared.clock.now());
                tracing::error!(conn = connection.id().0, peer = %connection.peer, user, "authentication error");
                return Some(refuse(session, err));
            }
        };
        let Some(place) = identity.account.take_place() else {
            return Some(refuse(session, AuthError::TooManyAccountConnections));
        };
        connection.set_identity(Arc::clone(&identity), place);
        self.deadline = identity.expires.map(|at| {
            let left = u64::try_from(at.since(shared.clock.now())).unwrap_or(0);
            shared.clock.monotonic().after(Duration::from_nanos(left))
        });
        shared.events.connected(connection);
        let sharing = identity.account.router.sharing();
        let is_told = sharing.measures || sharing.services.iter().any(|service| service.share);
        let details = is_told.then(|| details(connection, &shared.info.server_name));
        session.admit(&identity, connection.rtt_nanos(), details)
    }

    /// When the connection has to go, if it has to.
    pub(crate) fn deadline(&self) -> Option<MonoNanos> {
        self.deadline
    }

    /// Whether the connection has to go at `now`.
    pub(crate) fn is_over(&self, now: MonoNanos) -> bool {
        self.deadline.is_some_and(|at| at <= now)
    }

    /// Says why the connection has to go now.
    pub(crate) fn end(&self, session: &mut Session) -> CloseReason {
        if session.is_admitted() {
            session.refuse("User Authentication Expired");
            CloseReason::AuthenticationExpired
        } else {
            session.refuse("Authentication Timeout");
            CloseReason::AuthenticationTimeout
        }
    }
}

fn refuse(session: &mut Session, err: AuthError) -> CloseReason {
    session.refuse(&err.to_string());
    match err {
        AuthError::Violation => CloseReason::AuthenticationViolation,
        AuthError::TooManyAccountConnections => CloseReason::MaxAccountConnectionsExceeded,
    }
}
