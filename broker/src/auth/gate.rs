//! The one door that every client comes through: the users as they are now, and what checking them needs.

use std::sync::{Arc, Mutex, PoisonError, RwLock};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::rand::{SecureRandom, SystemRandom};
use tokio::sync::Notify;

use super::keys::ServerKeys;
use super::operator::{Described, Operator, OperatorError};
use super::passwords::Verifiers;
use super::{AuthError, Directory, Facts, Identity, Login};
use crate::accounts::{Accounts, Domains};
use crate::options::AuthOptions;
use crate::types::UnixNanos;

/// Random bytes in a nonce.
const NONCE_BYTES: usize = 11;

/// Why there is no gate.
#[derive(Debug, thiserror::Error)]
pub(crate) enum GateError {
    #[error("the system gives no entropy")]
    Entropy,
    #[error("{0}")]
    Operator(#[from] OperatorError),
}

/// Lets clients in.
#[derive(Debug)]
pub(crate) struct Gate {
    directory: RwLock<Arc<Directory>>,
    verifiers: Verifiers,
    keys: ServerKeys,
    maps_certificates: bool,
    has_jetstream: bool,
    domains: Domains,
    random: SystemRandom,
    /// The options as they were read last, and when.
    read: Mutex<(AuthOptions, UnixNanos)>,
    /// Notified when other options were read.
    changed: Notify,
}

impl Gate {
    /// A gate for the users of these options. Errs when the system gives no entropy.
    pub(crate) fn new(
        options: &AuthOptions,
        maps_certificates: bool,
        has_jetstream: bool,
        domains: Domains,
        accounts: &Accounts,
        keys: ServerKeys,
        now: UnixNanos,
    ) -> Result<Self, GateError> {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let open = Opening {
            maps_certificates,
            has_jetstream,
            domains: &domains,
            accounts,
            read_at: now,
            now,
        };
        let directory = open.directory(options)?;
        Ok(Self {
            read: Mutex::new((options.clone(), now)),
            changed: Notify::new(),
            keys,
            directory: RwLock::new(Arc::new(directory)),
            verifiers: Verifiers::new(threads).map_err(|_| GateError::Entropy)?,
            maps_certificates,
            has_jetstream,
            domains,
            random: SystemRandom::new(),
        })
    }

    /// Takes other options from now on. Errs, and changes nothing, if an operator's tokens are not to be believed.
    pub(crate) fn reload(
        &self,
        options: &AuthOptions,
        accounts: &Accounts,
        now: UnixNanos,
    ) -> Result<(), OperatorError> {
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        self.apply(options, accounts, now, now)?;
        *read = (options.clone(), now);
        drop(read);
        self.changed.notify_one();
        Ok(())
    }

    /// Looks at the same options again: what tokens allow may have ended, or begun, since.
    pub(crate) fn look_again(&self, accounts: &Accounts, now: UnixNanos) -> Result<(), OperatorError> {
        let read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        let (options, read_at) = &*read;
        self.apply(options, accounts, *read_at, now)
    }

    /// Waits until other options have been read.
    pub(crate) async fn changed(&self) {
        self.changed.notified().await;
    }

    fn apply(
        &self,
        options: &AuthOptions,
        accounts: &Accounts,
        read_at: UnixNanos,
        now: UnixNanos,
    ) -> Result<(), OperatorError> {
        let open = Opening {
            maps_certificates: self.maps_certificates,
            has_jetstream: self.has_jetstream,
            domains: &self.domains,
            accounts,
            read_at,
            now,
        };
        let directory = Arc::new(open.directory(options)?);
        *self.directory.write().unwrap_or_else(PoisonError::into_inner) = directory;
        Ok(())
    }

    /// 22 characters that nothing else has; empty when the system gives no entropy.
    pub(crate) fn unique_id(&self) -> String {
        let mut raw = [0; 16];
        match self.random.fill(&mut raw) {
            Ok(()) => URL_SAFE_NO_PAD.encode(raw),
            Err(_) => String::new(),
        }
    }

    /// The server's own keys.
    pub(crate) fn keys(&self) -> &ServerKeys {
        &self.keys
    }

    /// The users as they are now.
    pub(crate) fn directory(&self) -> Arc<Directory> {
        Arc::clone(&self.directory.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Something for a client to sign; empty if nobody has to. None when the system gives no entropy.
    pub(crate) fn nonce(&self) -> Option<String> {
        if !self.directory().needs_nonce() {
            return Some(String::new());
        }
        let mut raw = [0; NONCE_BYTES];
        self.random.fill(&mut raw).ok()?;
        Some(URL_SAFE_NO_PAD.encode(raw))
    }

    /// Finds out who a client is, as `directory` knows them.
    pub(crate) async fn identify(
        &self,
        directory: &Directory,
        login: &Login,
        facts: &Facts,
        now: UnixNanos,
    ) -> Result<Identity, AuthError> {
        directory.identify(login, facts, &self.verifiers, now).await
    }
}

/// What a directory is made of, besides the options.
struct Opening<'a> {
    maps_certificates: bool,
    has_jetstream: bool,
    domains: &'a Domains,
    accounts: &'a Accounts,
    /// When the options were read: operators are believed as of then.
    read_at: UnixNanos,
    now: UnixNanos,
}

impl Opening<'_> {
    /// The users of these options; sets their accounts up.
    fn directory(&self, options: &AuthOptions) -> Result<Directory, OperatorError> {
        let accounts = self.accounts;
        let Some(operated) = &options.operator else {
            accounts.configure(options, self.has_jetstream, self.domains);
            return Ok(Directory::new(options, self.maps_certificates, None, accounts));
        };
        let mut described = Described::new(
            operated,
            options.system_account.as_deref(),
            self.read_at,
            self.now,
        )?;
        let mut options = options.clone();
        options.accounts.append(&mut described.accounts);
        options.system_account.clone_from(&described.system_account);
        accounts.configure(&options, self.has_jetstream, self.domains);
        let operator = Operator::new(operated, described, accounts);
        Ok(Directory::new(
            &options,
            self.maps_certificates,
            Some(operator),
            accounts,
        ))
    }
}
