//! Who may connect, as whom, and what each may do.

pub(crate) mod callout;
pub(crate) mod gate;
pub(crate) mod jwt;
pub(crate) mod keys;
pub(crate) mod nkey;
pub(crate) mod operator;
pub(crate) mod passwords;
pub(crate) mod permissions;

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE_NO_PAD};

use self::callout::{Callout, LetIn};
use self::nkey::{KeyKind, PublicKey};
use self::operator::{Operator, Shown};
use self::passwords::Verifiers;
use self::permissions::Permissions;
use crate::accounts::{Account, Accounts};
use crate::options::{AuthOptions, ConnectionType, Credential, Secret, UserOptions};
use crate::types::UnixNanos;

/// How long clients have to authenticate, where nothing else is said.
const TIMEOUT: Duration = Duration::from_secs(2);

/// What a client shows of itself with CONNECT.
#[derive(Clone, Debug, Default)]
pub(crate) struct Login {
    pub(crate) user: String,
    pub(crate) password: Secret,
    pub(crate) token: Secret,
    pub(crate) nkey: String,
    pub(crate) signature: String,
    pub(crate) jwt: Secret,
    /// An account that it asks for, which is not allowed.
    pub(crate) account: String,
}

impl Login {
    fn is_empty(&self) -> bool {
        self.user.is_empty()
            && self.password.0.is_empty()
            && self.token.0.is_empty()
            && self.nkey.is_empty()
            && self.jwt.0.is_empty()
    }
}

/// What the server knows of a connection besides.
#[derive(Clone, Debug, Default)]
pub(crate) struct Facts {
    /// What the client was given to sign.
    pub(crate) nonce: String,
    pub(crate) connection_type: Option<ConnectionType>,
    /// Where it comes from.
    pub(crate) peer: Option<IpAddr>,
    /// Names in the client's certificate, best first.
    pub(crate) certificate_names: Vec<String>,
    /// The client's certificates as PEM, its own first, if a service may want to see them. They have been verified.
    pub(crate) certificates: Vec<String>,
}

/// Who a client is.
#[derive(Clone, Debug)]
pub(crate) struct Identity {
    /// As monitoring names it; empty: nobody in particular.
    pub(crate) user: String,
    pub(crate) account: Arc<Account>,
    pub(crate) permissions: Option<Arc<Permissions>>,
    /// When it has to go.
    pub(crate) expires: Option<UnixNanos>,
    pub(crate) caps: Caps,
    /// The token that it came in with.
    pub(crate) shown: Option<Arc<Shown>>,
    /// It came in by a service's word.
    pub(crate) let_in: Option<LetIn>,
}

/// What one client is limited to besides its account's limits; none: no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Caps {
    pub(crate) max_subscriptions: Option<u64>,
    pub(crate) max_payload_bytes: Option<u64>,
}

/// Why a client is not let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum AuthError {
    #[error("Authorization Violation")]
    Violation,
    #[error("maximum account active connections exceeded")]
    TooManyAccountConnections,
}

/// One user.
#[derive(Debug)]
struct User {
    name: String,
    password: Secret,
    account: Arc<Account>,
    permissions: Option<Arc<Permissions>>,
    options: UserOptions,
}

/// All users.
#[derive(Debug)]
pub(crate) struct Directory {
    users: HashMap<String, Arc<User>>,
    nkeys: HashMap<String, Arc<User>>,
    single_user: Option<(String, Secret)>,
    token: Option<Secret>,
    no_auth_user: Option<String>,
    /// Users are named by certificates.
    maps_certificates: bool,
    /// Whom an operator lets in: then nobody else.
    operator: Option<Operator>,
    /// Who lets users in that are not the service's own.
    callout: Option<Arc<Callout>>,
    /// Accounts that a service may place users in.
    accounts: HashMap<String, Arc<Account>>,
    anybody: Arc<Identity>,
    timeout: Duration,
}

impl Directory {
    /// The users of the options. Each account that is named becomes known to `accounts`.
    pub(crate) fn new(
        options: &AuthOptions,
        maps_certificates: bool,
        operator: Option<Operator>,
        accounts: &Accounts,
    ) -> Self {
        let (mut users, mut nkeys) = (HashMap::new(), HashMap::new());
        let callout = options
            .callout
            .as_ref()
            .map(|service| Arc::new(Callout::configured(service, accounts.named(&service.account))));
        for user in &options.users {
            let (name, password, held) = match &user.credential {
                Credential::Password { user, password } => (user, password.clone(), &mut users),
                Credential::Nkey(key) => (key, Secret::default(), &mut nkeys),
            };
            let permissions = user.permissions.as_ref().map(Permissions::new);
            let of_service = |callout: &&Arc<Callout>| {
                callout.is_own(name)
                    && callout.decides_on(&user.account)
                    && *callout.account.name == *user.account
            };
            let known = User {
                name: name.clone(),
                password,
                account: accounts.named(&user.account),
                permissions: match callout.as_ref().filter(of_service) {
                    Some(_) => Some(callout::without_questions(permissions.as_ref())),
                    None => permissions.map(Arc::new),
                },
                options: user.clone(),
            };
            held.insert(name.clone(), Arc::new(known));
        }
        if let Some(callout) = &options.callout {
            let is_single =
                |user: &String| options.single_user.as_ref().is_some_and(|(name, _)| name == user);
            let is_known =
                |user: &String| users.contains_key(user) || nkeys.contains_key(user) || is_single(user);
            for user in callout.auth_users.iter().filter(|user| !is_known(user)) {
                tracing::error!("Authorization callout user {user:?} not valid");
            }
        }
        Self {
            users,
            nkeys,
            single_user: options.single_user.clone(),
            token: options.token.clone(),
            no_auth_user: options.no_auth_user.clone(),
            maps_certificates,
            operator,
            accounts: placeable(options, accounts),
            callout,
            anybody: Arc::new(Identity {
                user: String::new(),
                account: Arc::clone(accounts.global()),
                permissions: None,
                expires: None,
                caps: Caps::default(),
                shown: None,
                let_in: None,
            }),
            timeout: options.timeout.unwrap_or(TIMEOUT),
        }
    }

    /// Whether clients have to say who they are.
    pub(crate) fn is_required(&self) -> bool {
        self.operator.is_some()
            || self.callout.is_some()
            || !self.users.is_empty()
            || !self.nkeys.is_empty()
            || self.single_user.is_some()
            || self.token.is_some()
    }

    /// Whether clients are given something to sign.
    pub(crate) fn needs_nonce(&self) -> bool {
        self.operator.is_some() || !self.nkeys.is_empty()
    }

    /// When what accounts share changes by itself the next time, because a token ends or begins to hold.
    pub(crate) fn changes_at(&self) -> Option<UnixNanos> {
        self.operator.as_ref().and_then(Operator::changes_at)
    }

    /// Whether services decide on clients.
    pub(crate) fn asks_services(&self) -> bool {
        self.callout.is_some() || self.operator.as_ref().is_some_and(Operator::asks_services)
    }

    /// How long clients have to authenticate.
    pub(crate) fn timeout(&self) -> Duration {
        self.timeout
    }

    /// What everybody is who does not have to say who he is.
    pub(crate) fn anybody(&self) -> Arc<Identity> {
        Arc::clone(&self.anybody)
    }

    /// Whether `identity` would still be let in, with the same rights.
    pub(crate) fn still_knows(&self, identity: &Identity, now: UnixNanos) -> bool {
        if let Some(operator) = &self.operator {
            let shown = identity.shown.as_ref();
            return shown.is_some_and(|shown| operator.still_knows(identity, shown, now));
        }
        if let Some(let_in) = &identity.let_in {
            return self.still_lets_in(let_in, identity);
        }
        if identity.user.is_empty() {
            return !self.is_required();
        }
        let known = self
            .users
            .get(&identity.user)
            .or_else(|| self.nkeys.get(&identity.user));
        match known {
            Some(user) => {
                let source = |permissions: &Option<Arc<Permissions>>| {
                    permissions.as_ref().map(|permissions| permissions.source.clone())
                };
                user.account.name == identity.account.name
                    && source(&user.permissions) == source(&identity.permissions)
            }
            None => self
                .single_user
                .as_ref()
                .is_some_and(|(name, _)| *name == identity.user),
        }
    }

    /// Finds out who a client is.
    /// Source: nats-server, `processClientOrLeafAuthentication`.
    pub(crate) async fn identify(
        &self,
        login: &Login,
        facts: &Facts,
        verifiers: &Verifiers,
        now: UnixNanos,
    ) -> Result<Identity, AuthError> {
        if let Some(operator) = &self.operator {
            return operator.identify(login, facts, now).ok_or(AuthError::Violation);
        }
        if !login.account.is_empty() {
            return Err(AuthError::Violation);
        }
        if !self.is_required() {
            return Ok(Identity::clone(&self.anybody));
        }
        if let Some(user) = self.by_nkey(login, facts)? {
            return Ok(user.identity());
        }
        if let Some(user) = self.by_name(login, facts)? {
            let is_right = self.maps_certificates && user.password.0.is_empty()
                || self.is_no_auth_user(&user.name, login)
                || verifiers.verify(&user.password, &login.password).await;
            return if is_right {
                Ok(user.identity())
            } else {
                Err(AuthError::Violation)
            };
        }
        self.by_simple_means(login, verifiers).await
    }

    fn is_no_auth_user(&self, name: &str, login: &Login) -> bool {
        login.is_empty() && self.no_auth_user.as_deref() == Some(name)
    }

    fn by_nkey(&self, login: &Login, facts: &Facts) -> Result<Option<&Arc<User>>, AuthError> {
        if login.is_empty()
            && let Some(name) = &self.no_auth_user
            && let Some(user) = self.nkeys.get(name)
        {
            return Ok(Some(user));
        }
        if login.nkey.is_empty() || self.nkeys.is_empty() {
            return Ok(None);
        }
        let user = self.nkeys.get(&login.nkey).ok_or(AuthError::Violation)?;
        let key = PublicKey::parse(&login.nkey, KeyKind::User).ok_or(AuthError::Violation)?;
        let signature = signature(&login.signature).ok_or(AuthError::Violation)?;
        if user.allows(facts) && key.verify(facts.nonce.as_bytes(), &signature) {
            Ok(Some(user))
        } else {
            Err(AuthError::Violation)
        }
    }

    fn by_name(&self, login: &Login, facts: &Facts) -> Result<Option<&Arc<User>>, AuthError> {
        if self.users.is_empty() {
            return Ok(None);
        }
        let user = if self.maps_certificates {
            let names = facts.certificate_names.iter();
            let found = names.filter_map(|name| self.users.get(name)).next();
            Some(found.ok_or(AuthError::Violation)?)
        } else if !login.user.is_empty() {
            Some(self.users.get(&login.user).ok_or(AuthError::Violation)?)
        } else {
            self.no_auth_user
                .as_ref()
                .filter(|_| login.is_empty())
                .and_then(|name| self.users.get(name))
        };
        match user {
            Some(user) if !user.allows(facts) => Err(AuthError::Violation),
            user => Ok(user),
        }
    }

    async fn by_simple_means(&self, login: &Login, verifiers: &Verifiers) -> Result<Identity, AuthError> {
        let (name, is_right) = match (&self.token, &self.single_user) {
            (Some(token), _) => ("", verifiers.verify(token, &login.token).await),
            (None, Some((name, password))) if *name == login.user => {
                (name.as_str(), verifiers.verify(password, &login.password).await)
            }
            _ => return Err(AuthError::Violation),
        };
        if !is_right {
            return Err(AuthError::Violation);
        }
        let anybody = Identity::clone(&self.anybody);
        let of_service =
            |callout: &&Arc<Callout>| callout.is_own(name) && callout.account.name == anybody.account.name;
        Ok(Identity {
            user: name.to_owned(),
            permissions: self
                .callout
                .as_ref()
                .filter(of_service)
                .map(|_| callout::without_questions(None)),
            ..anybody
        })
    }
}

impl User {
    fn identity(&self) -> Identity {
        Identity {
            user: self.name.clone(),
            account: Arc::clone(&self.account),
            permissions: self.permissions.clone(),
            expires: None,
            caps: Caps::default(),
            shown: None,
            let_in: None,
        }
    }

    fn allows(&self, facts: &Facts) -> bool {
        let types = &self.options.connection_types;
        types.is_empty() || facts.connection_type.is_some_and(|kind| types.contains(&kind))
    }
}

/// The accounts that the options name, and those that are there by themselves.
fn placeable(options: &AuthOptions, accounts: &Accounts) -> HashMap<String, Arc<Account>> {
    let named = options
        .accounts
        .iter()
        .map(|account| accounts.named(&account.name));
    let all = named
        .chain([Arc::clone(accounts.global())])
        .chain(accounts.system());
    all.map(|account| (account.name.to_string(), account)).collect()
}

/// A signature as clients send it: base 64 for URLs without padding, or the plain form.
fn signature(text: &str) -> Option<Vec<u8>> {
    URL_SAFE_NO_PAD
        .decode(text)
        .or_else(|_| STANDARD.decode(text))
        .or_else(|_| STANDARD_NO_PAD.decode(text))
        .ok()
}

#[cfg(test)]
mod tests;
