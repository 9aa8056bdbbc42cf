//! Operator mode: an operator signs accounts, accounts sign users, and users sign what the server gives them.
//! Source: NATS, "JWT authentication"; nats-server, `processClientOrLeafAuthentication`, `updateAccountClaims`.

mod accounts;
mod template;
mod times;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use super::callout::{self, Callout, CalloutError};
use super::jwt::{AccountBody, Claims, JwtError, OperatorBody, SigningKey, UserBody, UserClaims};
use super::nkey::{KeyKind, PublicKey};
use super::permissions::Permissions;
use super::{Facts, Identity, Login, signature};
use crate::accounts::{Account, Accounts};
use crate::options::{AccountOptions, ConnectionType, OperatorOptions};
use crate::types::UnixNanos;

pub(crate) use self::accounts::permissions;

pub(crate) const NANOS_PER_SEC: i64 = 1_000_000_000;

/// Why operator mode can't be had.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OperatorError {
    /// The operator's own token is not believed.
    #[error("operator JWT: {reason}")]
    Operator {
        /// Why.
        reason: String,
    },
    /// Two names for the system account.
    #[error("system_account in config and operator JWT must be identical")]
    SystemAccount,
    /// An account's token is not believed.
    #[error("account {account}: {reason}")]
    Account {
        /// Its key.
        account: String,
        /// Why.
        reason: String,
    },
}

/// Whom the operator trusts, and what it says of them.
#[derive(Debug)]
pub(crate) struct Operator {
    accounts: BTreeMap<String, Signed>,
    pinned: Vec<String>,
    default_sentinel: Option<String>,
    changes_at: Option<UnixNanos>,
}

/// An account and what its token says.
#[derive(Debug)]
struct Signed {
    account: Arc<Account>,
    claims: Claims<AccountBody>,
    /// Who lets its users in.
    callout: Option<Arc<Callout>>,
}

impl Signed {
    /// One of the keys that sign users of the account besides its own.
    fn signing_key(&self, public: &str) -> Option<&SigningKey> {
        self.claims.body.signing_keys.iter().find(|key| match key {
            SigningKey::Plain(key) | SigningKey::Scoped { key, .. } => *key == public,
        })
    }
}

/// How a client came in, to be looked at again when things have changed.
#[derive(Debug)]
pub(crate) struct Shown {
    pub(crate) claims: Claims<UserBody>,
    connection_type: Option<ConnectionType>,
    peer: Option<IpAddr>,
}

impl Shown {
    pub(crate) fn new(claims: Claims<UserBody>, facts: &Facts) -> Self {
        Self {
            claims,
            connection_type: facts.connection_type,
            peer: facts.peer,
        }
    }

    /// The account that the token is of.
    fn issuer(&self) -> &str {
        match self.claims.body.issuer_account.as_str() {
            "" => &self.claims.issuer,
            account => account,
        }
    }

    /// Until when who has these rights may stay; none: for ever. Errs with why he may not come this way, or not now.
    pub(crate) fn terms(&self, may: &UserClaims, now: UnixNanos) -> Result<Option<UnixNanos>, &'static str> {
        if may.proxy_required {
            return Err("proxies can't be told apart here");
        }
        if !allows_type(&may.allowed_connection_types, self.connection_type) {
            return Err("connection type not allowed");
        }
        if !comes_from(&may.src, self.peer) {
            return Err("bad source address");
        }
        times::until(&may.times, &may.times_location, now).ok_or("outside connect times")
    }
}

/// Accounts as an operator's tokens describe them.
#[derive(Debug)]
pub(crate) struct Described {
    claims: BTreeMap<String, Claims<AccountBody>>,
    /// As a file would say it.
    pub(crate) accounts: Vec<AccountOptions>,
    pub(crate) system_account: Option<String>,
    /// When they describe something else, because a token ends or begins to hold.
    changes_at: Option<UnixNanos>,
}

impl Described {
    /// What the tokens say at this time, of operators that were believed at `read_at`. `system_account` is what the file says
    /// of it.
    pub(crate) fn new(
        options: &OperatorOptions,
        system_account: Option<&str>,
        read_at: UnixNanos,
        now: UnixNanos,
    ) -> Result<Self, OperatorError> {
        let now = now.0 / NANOS_PER_SEC;
        let (trusted, named) = trusted_keys(options, read_at.0 / NANOS_PER_SEC)?;
        let is_other = |own: &&str| !named.is_empty() && !named.iter().any(|name| name == own);
        if system_account.filter(is_other).is_some() {
            return Err(OperatorError::SystemAccount);
        }
        let mut claims = BTreeMap::new();
        for (key, token) in &options.preload {
            let refuse = |reason: String| OperatorError::Account {
                account: key.clone(),
                reason,
            };
            let decoded = Claims::<AccountBody>::decode(token).map_err(|err| refuse(err.to_string()))?;
            if decoded.subject != *key {
                return Err(refuse(JwtError::Kind.to_string()));
            }
            if !trusted.contains(&decoded.issuer) {
                return Err(refuse("the JWT is not signed by a trusted operator".to_owned()));
            }
            claims.insert(key.clone(), decoded);
        }
        Ok(Self {
            accounts: accounts::describe(&claims, now),
            changes_at: accounts::next_change(&claims, now)
                .map(|at| UnixNanos(at.saturating_mul(NANOS_PER_SEC))),
            system_account: system_account
                .map(ToOwned::to_owned)
                .or_else(|| named.into_iter().next()),
            claims,
        })
    }
}

/// Keys that may sign accounts, and the system accounts that operators name.
fn trusted_keys(options: &OperatorOptions, now: i64) -> Result<(Vec<String>, Vec<String>), OperatorError> {
    let (mut trusted, mut named) = (options.trusted_keys.clone(), Vec::new());
    for token in &options.operators {
        let refuse = |reason: String| OperatorError::Operator { reason };
        let claims =
            Claims::<OperatorBody>::decode(token).map_err(|err: JwtError| refuse(err.to_string()))?;
        if !claims.holds_at(now) {
            return Err(refuse("the JWT has expired or does not hold yet".to_owned()));
        }
        if !claims.body.strict_signing_key_usage {
            trusted.push(claims.subject.clone());
        }
        trusted.extend(claims.body.signing_keys.iter().cloned());
        if !claims.body.system_account.is_empty() {
            named.push(claims.body.system_account);
        }
    }
    Ok((trusted, named))
}

impl Operator {
    pub(crate) fn new(options: &OperatorOptions, described: Described, accounts: &Accounts) -> Self {
        let signed = described.claims.into_iter().map(|(key, claims)| {
            let account = accounts.named(&key);
            account.set_tag(&claims.name);
            let callout = Callout::of_account(&claims.body.authorization, &account).map(Arc::new);
            let signed = Signed {
                account,
                claims,
                callout,
            };
            (key, signed)
        });
        let mut pinned: Vec<String> = options.pinned_accounts.iter().cloned().collect();
        if !pinned.is_empty() {
            // The operator can always come in.
            pinned.extend(described.system_account);
        }
        Self {
            accounts: signed.collect(),
            pinned,
            default_sentinel: options.default_sentinel.clone(),
            changes_at: described.changes_at,
        }
    }

    /// When what accounts share changes by itself the next time.
    pub(crate) fn changes_at(&self) -> Option<UnixNanos> {
        self.changes_at
    }

    /// Finds out who a client is. None: nobody who may come in; why goes to the log.
    pub(crate) fn identify(&self, login: &Login, facts: &Facts, now: UnixNanos) -> Option<Identity> {
        let own = Claims::<UserBody>::decode(&login.jwt.0);
        let decoded = match (own, &self.default_sentinel) {
            (Err(_), Some(token)) => Claims::decode(token),
            (own, _) => own,
        };
        let claims = decoded
            .inspect_err(|err| tracing::debug!(error = %err, "User JWT not valid"))
            .ok()?;
        let shown = Shown::new(claims, facts);
        let (identity, is_bearer) = self
            .judge(shown, now)
            .inspect_err(|reason| tracing::debug!(reason, "User JWT is refused"))
            .ok()?;
        if !is_bearer && !is_signed(&identity.user, login, facts) {
            tracing::debug!("Signature not verified");
            return None;
        }
        Some(identity)
    }

    /// Whether who came in as `shown` may still do what it may.
    pub(crate) fn still_knows(&self, identity: &Identity, shown: &Shown, now: UnixNanos) -> bool {
        let again = Shown {
            claims: shown.claims.clone(),
            ..*shown
        };
        let source = |identity: &Identity| identity.permissions.as_ref().map(|held| held.source.clone());
        self.judge(again, now).is_ok_and(|(again, _)| {
            source(&again) == source(identity)
                && again.caps == identity.caps
                && again.account.name == identity.account.name
                && again
                    .expires
                    .is_none_or(|at| identity.expires.is_some_and(|held| held <= at))
        })
    }

    /// Whether services let users of any account in.
    pub(crate) fn asks_services(&self) -> bool {
        self.accounts.values().any(|signed| signed.callout.is_some())
    }

    /// The service that lets users of this account in, if there is one.
    pub(crate) fn service_of(&self, account: &str) -> Option<Arc<Callout>> {
        self.accounts.get(account)?.callout.clone()
    }

    /// Who a client is by the token in a service's answer. `signer`: the key that signed the answer, and the account that it is
    /// said to be of.
    pub(crate) fn judge_answer(
        &self,
        callout: &Callout,
        shown: Shown,
        signer: Option<(String, String)>,
        now: UnixNanos,
    ) -> Result<Identity, CalloutError> {
        if let Some((key, account)) = signer {
            let own = self.accounts.get(&*callout.account.name);
            let is_own = own.is_some_and(|own| key == own.claims.subject || own.signing_key(&key).is_some());
            let is_for = account.is_empty() || *account == *callout.account.name;
            if !is_own || !is_for {
                return Err(CalloutError::UnknownKey(key));
            }
        }
        let issuer = shown.issuer().to_owned();
        if !callout.speaks_for(&issuer) {
            return Err(CalloutError::Account(issuer));
        }
        let (identity, _) = self.judge(shown, now).map_err(CalloutError::Judged)?;
        Ok(identity)
    }

    /// Who a token is for, and whether that needs no signature. Errs with the reason why not.
    fn judge(&self, shown: Shown, now: UnixNanos) -> Result<(Identity, bool), &'static str> {
        let seconds = now.0 / NANOS_PER_SEC;
        let claims = &shown.claims;
        if !claims.holds_at(seconds) {
            return Err("user JWT no longer valid");
        }
        let issuer = shown.issuer();
        if !self.pinned.is_empty() && !self.pinned.iter().any(|key| key == issuer) {
            return Err("account not listed as operator pinned account");
        }
        let signed = self.accounts.get(issuer).ok_or("account JWT lookup error")?;
        let may = rights(claims, issuer, signed)?;
        if !signed.claims.holds_at(seconds) {
            return Err("account JWT has expired");
        }
        if may.bearer_token && signed.claims.body.limits.disallow_bearer {
            return Err("account does not allow bearer tokens");
        }
        let until = shown.terms(&may, now)?;
        if is_revoked(&signed.claims.body.revocations, &claims.subject, claims.issued_at) {
            return Err("user authentication revoked");
        }
        let ends = [claims.expires_at(), signed.claims.expires_at()];
        let expires = ends.into_iter().flatten().chain(until).min();
        let permissions = accounts::permissions(&may.permissions)
            .or_else(|| accounts::permissions(&signed.claims.body.default_permissions));
        let permissions = permissions.map(|source| Arc::new(Permissions::new(&source)));
        let is_bearer = may.bearer_token;
        let identity = Identity {
            user: claims.subject.clone(),
            account: Arc::clone(&signed.account),
            permissions: match &signed.callout {
                Some(_) => Some(callout::without_questions(permissions.as_deref())),
                None => permissions,
            },
            expires,
            caps: may.caps(),
            shown: None,
            let_in: None,
        };
        let shown = Some(Arc::new(shown));
        Ok((Identity { shown, ..identity }, is_bearer))
    }
}

/// What a user may do: what its token says, or what the key that signed it says.
fn rights(claims: &Claims<UserBody>, issuer: &str, signed: &Signed) -> Result<UserClaims, &'static str> {
    if claims.issuer == issuer {
        return Ok(claims.body.may.clone());
    }
    let key = signed.signing_key(&claims.issuer);
    match key.ok_or("user JWT issuer is not known")? {
        SigningKey::Plain(_) => Ok(claims.body.may.clone()),
        SigningKey::Scoped { .. } if claims.body.may != UserClaims::default() => {
            Err("a user signed by a scoped key has rights of its own")
        }
        SigningKey::Scoped { template, .. } => {
            let words = template::Words {
                user: claims,
                account: &signed.claims,
            };
            words
                .fill(template)
                .map_err(|_| "user JWT generated invalid permissions")
        }
    }
}

fn is_signed(user: &str, login: &Login, facts: &Facts) -> bool {
    let key = PublicKey::parse(user, KeyKind::User);
    let signature = signature(&login.signature);
    match (key, signature) {
        (Some(key), Some(signature)) => {
            !facts.nonce.is_empty() && key.verify(facts.nonce.as_bytes(), &signature)
        }
        _ => false,
    }
}

/// Whether what was issued at this time for `subject`, or for all, has been taken back.
fn is_revoked(revocations: &BTreeMap<String, i64>, subject: &str, issued_at: i64) -> bool {
    [subject, "*"]
        .iter()
        .any(|name| revocations.get(*name).is_some_and(|at| *at >= issued_at))
}

/// Whether one of the types that are known is the client's. Names that are not known allow nobody.
fn allows_type(names: &[String], own: Option<ConnectionType>) -> bool {
    let is_own = |name: &String| own.is_some() && ConnectionType::of_name(name) == own;
    names.is_empty() || names.iter().any(is_own)
}

/// Whether an address is in one of these networks.
fn comes_from(networks: &[String], peer: Option<IpAddr>) -> bool {
    let covers = |network: &String| {
        let (base, bits) = network.split_once('/')?;
        let (base, bits) = (base.parse::<IpAddr>().ok()?, bits.parse::<u32>().ok()?);
        let in_bits = |address: IpAddr| match address {
            IpAddr::V4(address) => (u128::from(address.to_bits()), 32_u32),
            IpAddr::V6(address) => (address.to_bits(), 128),
        };
        let ((base, width), (peer, peer_width)) = (in_bits(base), in_bits(peer?.to_canonical()));
        let shift = width.checked_sub(bits).filter(|_| width == peer_width)?;
        Some(base.checked_shr(shift).unwrap_or(0) == peer.checked_shr(shift).unwrap_or(0))
    };
    networks.is_empty() || networks.iter().any(|network| covers(network) == Some(true))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks() {
        let from = |network: &str, peer: &str| comes_from(&[network.to_owned()], peer.parse().ok());
        assert!(from("127.0.0.0/8", "127.1.2.3") && from("0.0.0.0/0", "9.9.9.9"));
        assert!(!from("127.0.0.0/8", "128.0.0.1") && !from("127.0.0.0/33", "127.0.0.1"));
        assert!(
            !from("::/0", "127.0.0.1") && from("::/0", "::2") && from("127.0.0.1/32", "::ffff:127.0.0.1")
        );
        assert!(!from("nonsense", "127.0.0.1") && comes_from(&[], None) && !from("::/0", "nowhere"));
    }

    #[test]
    fn revocations_are_of_what_was_issued_before() {
        let revoked = BTreeMap::from([("U".to_owned(), 10), ("*".to_owned(), 5)]);
        assert!(is_revoked(&revoked, "U", 10) && !is_revoked(&revoked, "U", 11));
        assert!(is_revoked(&revoked, "V", 5) && !is_revoked(&revoked, "V", 6));
    }

    #[test]
    fn unknown_types_allow_nobody() {
        let types = |names: &[&str]| -> Vec<String> { names.iter().map(ToString::to_string).collect() };
        let standard = Some(ConnectionType::Standard);
        assert!(allows_type(&[], standard) && allows_type(&types(&["standard", "?"]), standard));
        assert!(!allows_type(&types(&["?"]), standard) && !allows_type(&types(&["MQTT"]), standard));
    }
}
