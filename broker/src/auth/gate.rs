//! The one door that every client comes through: the users as they are now, and what checking them needs.

use std::sync::{Arc, PoisonError, RwLock};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::rand::{SecureRandom, SystemRandom};

use super::passwords::Verifiers;
use super::{AuthError, Directory, Facts, Identity, Login};
use crate::accounts::Accounts;
use crate::options::AuthOptions;

/// Random bytes in a nonce.
const NONCE_BYTES: usize = 11;

/// Lets clients in.
#[derive(Debug)]
pub(crate) struct Gate {
    directory: RwLock<Arc<Directory>>,
    verifiers: Verifiers,
    maps_certificates: bool,
    has_jetstream: bool,
    random: SystemRandom,
}

impl Gate {
    /// A gate for the users of these options. Errs when the system gives no entropy.
    pub(crate) fn new(
        options: &AuthOptions,
        maps_certificates: bool,
        has_jetstream: bool,
        accounts: &Accounts,
    ) -> Result<Self, ring::error::Unspecified> {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        accounts.configure(options, has_jetstream);
        let directory = Directory::new(options, maps_certificates, accounts);
        Ok(Self {
            directory: RwLock::new(Arc::new(directory)),
            verifiers: Verifiers::new(threads)?,
            maps_certificates,
            has_jetstream,
            random: SystemRandom::new(),
        })
    }

    /// Takes other options from now on.
    pub(crate) fn reload(&self, options: &AuthOptions, accounts: &Accounts) {
        accounts.configure(options, self.has_jetstream);
        let directory = Directory::new(options, self.maps_certificates, accounts);
        let directory = Arc::new(directory);
        *self.directory.write().unwrap_or_else(PoisonError::into_inner) = directory;
    }

    /// 22 characters that nothing else has; empty when the system gives no entropy.
    pub(crate) fn unique_id(&self) -> String {
        let mut raw = [0; 16];
        match self.random.fill(&mut raw) {
            Ok(()) => URL_SAFE_NO_PAD.encode(raw),
            Err(_) => String::new(),
        }
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

    /// Finds out who a client is.
    pub(crate) async fn identify(&self, login: &Login, facts: &Facts) -> Result<Identity, AuthError> {
        self.directory().identify(login, facts, &self.verifiers).await
    }
}
