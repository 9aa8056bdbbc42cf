//! Passwords: in clear, or hashed with bcrypt or argon2id.
//!
//! Hashes are slow on purpose, so they are computed on a few threads aside, and who was right once is recognised by a keyed
//! hash afterwards: thousands of devices that come back at once do not wait for each other.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use argon2::password_hash::{PasswordHash, PasswordVerifier};
use ring::hmac;
use ring::rand::SystemRandom;
use tokio::sync::Semaphore;

use crate::options::Secret;

/// Passwords remembered as right, at most twice this.
const REMEMBERED_MAX: usize = 64 * 1024;

/// Checks passwords.
#[derive(Debug)]
pub(crate) struct Verifiers {
    /// Threads that compute hashes at a time.
    permits: Semaphore,
    key: hmac::Key,
    right: Arc<Mutex<Remembered>>,
}

type Print = [u8; 32];

/// What was right, in two generations: when the young one is full, it becomes the old one.
#[derive(Debug, Default)]
struct Remembered {
    young: HashSet<Print>,
    old: HashSet<Print>,
}

impl Verifiers {
    /// Checks with at most `threads` threads. Errs when the system gives no entropy.
    pub(crate) fn new(threads: usize) -> Result<Self, ring::error::Unspecified> {
        Ok(Self {
            permits: Semaphore::new(threads.max(1)),
            key: hmac::Key::generate(hmac::HMAC_SHA256, &SystemRandom::new())?,
            right: Arc::default(),
        })
    }

    /// Whether `given` is the password that `stored` says.
    pub(crate) async fn verify(&self, stored: &Secret, given: &Secret) -> bool {
        if !is_hash(&stored.0) {
            return self.are_equal(&stored.0, &given.0);
        }
        let print = self.print(&stored.0, &given.0);
        if self.is_right(&print) {
            return true;
        }
        let Ok(permit) = self.permits.acquire().await else {
            return false;
        };
        // Another connection may have shown the same password meanwhile.
        if self.is_right(&print) {
            return true;
        }
        let (stored, given) = (stored.clone(), given.clone());
        let checked = tokio::task::spawn_blocking(move || check(&stored.0, &given.0)).await;
        drop(permit);
        let is_right = checked.unwrap_or(false);
        if is_right {
            self.remember(print);
        }
        is_right
    }

    /// Compares without telling by the time taken where the difference is.
    pub(crate) fn are_equal(&self, one: &str, other: &str) -> bool {
        let tag = hmac::sign(&self.key, one.as_bytes());
        hmac::verify(&self.key, other.as_bytes(), tag.as_ref()).is_ok()
    }

    fn print(&self, stored: &str, given: &str) -> Print {
        let mut context = hmac::Context::with_key(&self.key);
        context.update(&(stored.len() as u64).to_le_bytes());
        context.update(stored.as_bytes());
        context.update(given.as_bytes());
        let mut print = Print::default();
        print.copy_from_slice(context.sign().as_ref());
        print
    }

    fn is_right(&self, print: &Print) -> bool {
        let held = self.lock();
        held.young.contains(print) || held.old.contains(print)
    }

    fn remember(&self, print: Print) {
        let mut held = self.lock();
        if held.young.len() >= REMEMBERED_MAX {
            held.old = std::mem::take(&mut held.young);
        }
        held.young.insert(print);
    }

    fn lock(&self) -> MutexGuard<'_, Remembered> {
        self.right.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether a configured password is a hash.
pub(crate) fn is_hash(stored: &str) -> bool {
    is_bcrypt(stored) || stored.starts_with("$argon2")
}

fn is_bcrypt(stored: &str) -> bool {
    ["$2a$", "$2b$", "$2x$", "$2y$"]
        .iter()
        .any(|prefix| stored.starts_with(prefix))
}

fn check(stored: &str, given: &str) -> bool {
    if is_bcrypt(stored) {
        return bcrypt::verify(given, stored).unwrap_or(false);
    }
    PasswordHash::new(stored).is_ok_and(|hash| {
        argon2::Argon2::default()
            .verify_password(given.as_bytes(), &hash)
            .is_ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use argon2::password_hash::{PasswordHasher, SaltString};

    fn secret(text: &str) -> Secret {
        Secret(text.to_owned())
    }

    #[tokio::test]
    async fn all_forms_of_passwords_are_checked() {
        let verifiers = Verifiers::new(1).unwrap();
        let salt = SaltString::from_b64("c29tZXNhbHRzYWx0").unwrap();
        let params = argon2::Params::new(64, 1, 1, None).unwrap();
        let argon2 = argon2::Argon2::new(argon2::Algorithm::Argon2id, argon2::Version::V0x13, params);
        let argon2id = argon2.hash_password(b"open sesame", &salt).unwrap().to_string();
        let bcrypt = bcrypt::hash("open sesame", 4).unwrap();
        for stored in ["open sesame", &argon2id, &bcrypt] {
            let stored = secret(stored);
            for _ in 0..2 {
                assert!(
                    verifiers.verify(&stored, &secret("open sesame")).await,
                    "{}",
                    stored.0
                );
                assert!(!verifiers.verify(&stored, &secret("open")).await, "{}", stored.0);
                assert!(!verifiers.verify(&stored, &stored.clone()).await || !is_hash(&stored.0));
            }
        }
        for broken in ["$2a$", "$argon2id$", "$argon2id$v=19$m=1"] {
            assert!(!verifiers.verify(&secret(broken), &secret("")).await, "{broken}");
        }
    }

    #[tokio::test]
    async fn ten_thousand_that_come_back_do_not_hash_again() {
        let verifiers = Verifiers::new(1).unwrap();
        let stored = secret(&bcrypt::hash("pw", 4).unwrap());
        assert!(verifiers.verify(&stored, &secret("pw")).await);
        // With no permit left, a hash would wait for ever.
        verifiers.permits.forget_permits(1);
        for _ in 0..10_000 {
            assert!(verifiers.verify(&stored, &secret("pw")).await);
        }
    }
}
