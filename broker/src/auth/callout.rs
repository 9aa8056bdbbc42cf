//! Services that let users in: who is left to one, what it is asked, and what its answer is worth. Without IO.
//! Source: nats-server, `auth_callout.go`; NATS, ADR-26.
//!
//! Everything that is not as it has to be is a refusal: an answer of somebody else, for somebody else, from another time, of an
//! account that the service may not speak for, or none at all.

mod request;

use std::sync::Arc;

use super::jwt::{Authorization, Claims, JwtError, ResponseBody, UserBody};
use super::keys::{ServerKeys, SigningKey};
use super::nkey::{KeyKind, PublicKey};
use super::operator::Shown;
use super::permissions::Permissions;
use super::{AuthError, Directory, Facts, Identity, Login, operator};
use crate::accounts::Account;
use crate::options::{self, AuthCallout, GLOBAL_ACCOUNT};
use crate::types::UnixNanos;

pub(crate) use self::request::{Asking, ClientFacts, ServerFacts};

/// What a service is asked under.
pub(crate) const SUBJECT: &str = "$SYS.REQ.USER.AUTH";
/// The header of a sealed request: what its answer is to be sealed for.
pub(crate) const XKEY_HEADER: &str = "Nats-Server-Xkey";
/// What stands for a token wherever a user is named.
const REDACTED: &str = "[REDACTED]";
/// How every token begins.
const JWT_START: &[u8] = b"eyJ";

/// Why a service's answer does not let a user in.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum CalloutError {
    #[error("no reason supplied")]
    Empty,
    #[error("the answer can't be opened")]
    Sealed,
    #[error("the answer: {0}")]
    Answer(JwtError),
    #[error("the answer is not for the user that was asked about")]
    OtherUser,
    #[error("the answer is not for this server")]
    OtherServer,
    #[error("the answer is of something else, or does not hold now")]
    Invalid,
    #[error("the service returned an error: {0}")]
    Refused(String),
    #[error("the answer is signed by {0:?}, which does not speak for the service")]
    UnknownKey(String),
    #[error("user JWT: {0}")]
    User(JwtError),
    #[error("user JWT: {0}")]
    Judged(&'static str),
    #[error("issuer {0:?} is not the service's")]
    Issuer(String),
    #[error("account {0:?} is none that the service may place users in")]
    Account(String),
}

/// A service that lets users in.
#[derive(Debug)]
pub(crate) struct Callout {
    /// The account that it is asked in.
    pub(crate) account: Arc<Account>,
    /// The account key that speaks for it.
    pub(crate) issuer: String,
    auth_users: Vec<String>,
    allowed_accounts: Vec<String>,
    xkey: Option<PublicKey>,
}

/// Who came in by a service's word.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LetIn {
    /// The key that spoke for the service.
    issuer: Arc<str>,
}

impl Callout {
    /// The service of an `authorization` block.
    pub(crate) fn configured(options: &AuthCallout, account: Arc<Account>) -> Self {
        Self {
            account,
            issuer: options.issuer.clone(),
            auth_users: options.auth_users.clone(),
            allowed_accounts: options.allowed_accounts.clone(),
            xkey: options.xkey.as_deref().and_then(curve),
        }
    }

    /// The service of an account's token, if it names one.
    pub(crate) fn of_account(claims: &Authorization, account: &Arc<Account>) -> Option<Self> {
        (!claims.auth_users.is_empty()).then(|| Self {
            account: Arc::clone(account),
            issuer: account.name.to_string(),
            auth_users: claims.auth_users.clone(),
            allowed_accounts: claims.allowed_accounts.clone(),
            xkey: curve(&claims.xkey),
        })
    }

    /// Whether what it is asked has to be sealed.
    pub(crate) fn seals(&self) -> bool {
        self.xkey.is_some()
    }

    /// Whether `user` is of the service itself.
    pub(crate) fn is_own(&self, user: &str) -> bool {
        !user.is_empty() && self.auth_users.iter().any(|own| own == user)
    }

    /// Whether users of this account are left to it. Everybody is who is of no account yet.
    pub(super) fn decides_on(&self, account: &str) -> bool {
        account == GLOBAL_ACCOUNT || self.allowed_accounts.is_empty() || self.names(account)
    }

    /// Whether it may speak for users of this account, by the token of its own.
    pub(super) fn speaks_for(&self, account: &str) -> bool {
        *self.account.name == *account || self.names(account) || self.names("*")
    }

    fn names(&self, account: &str) -> bool {
        self.allowed_accounts.iter().any(|name| name == account)
    }

    /// What is sent to the service: the signed question, sealed if it wants that. None when the system gives no entropy.
    pub(crate) fn question(&self, asking: &Asking<'_>, keys: &ServerKeys) -> Option<Vec<u8>> {
        let token = request::token(self, asking, keys).into_bytes();
        match &self.xkey {
            Some(xkey) => keys.seal(&token, xkey),
            None => Some(token),
        }
    }

    /// The user's token in an answer about `user`, and who signed the answer, if that matters.
    fn read(&self, answer: &[u8], asked: &Asked<'_>, now: i64) -> Result<Answer, CalloutError> {
        if answer.is_empty() {
            return Err(CalloutError::Empty);
        }
        let is_sealed = self.xkey.is_some() && !answer.starts_with(JWT_START);
        let opened = match &self.xkey {
            Some(xkey) if is_sealed => asked.keys.open(answer, xkey).ok_or(CalloutError::Sealed)?,
            _ => answer.to_vec(),
        };
        let text = String::from_utf8(opened).map_err(|_| CalloutError::Answer(JwtError::Encoding))?;
        let response = Claims::<ResponseBody>::decode(&text).map_err(CalloutError::Answer)?;
        let body = &response.body;
        let says_one_thing = body.jwt.is_empty() != body.error.is_empty();
        if !response.holds_at(now) || !says_one_thing {
            return Err(CalloutError::Invalid);
        }
        if response.subject != asked.user.public {
            return Err(CalloutError::OtherUser);
        }
        if response.audience != asked.keys.signing.public {
            return Err(CalloutError::OtherServer);
        }
        if !body.error.is_empty() {
            return Err(CalloutError::Refused(body.error.clone()));
        }
        let claims = Claims::<UserBody>::decode(&body.jwt).map_err(CalloutError::User)?;
        if claims.subject != asked.user.public {
            return Err(CalloutError::OtherUser);
        }
        // What is sealed comes from the service, whoever has signed it.
        let signer = (!is_sealed).then_some((response.issuer, response.body.issuer_account));
        Ok(Answer { claims, signer })
    }
}

/// What was asked about whom.
#[derive(Debug)]
pub(crate) struct Asked<'a> {
    pub(crate) keys: &'a ServerKeys,
    /// The key that stands for the user in this one question.
    pub(crate) user: &'a SigningKey,
    pub(crate) login: &'a Login,
    pub(crate) facts: &'a Facts,
}

/// What a service has answered.
#[derive(Debug)]
struct Answer {
    claims: Claims<UserBody>,
    /// The key that signed it, and the account that this is said to be for.
    signer: Option<(String, String)>,
}

impl Directory {
    /// The service that decides on a client, whatever has been found out of it by other means.
    pub(crate) fn service_for(
        &self,
        login: &Login,
        found: Result<&Identity, AuthError>,
    ) -> Option<Arc<Callout>> {
        if let Some(operator) = &self.operator {
            // Who has no token of an account is nobody's.
            let identity = found.ok()?;
            let callout = operator.service_of(&identity.account.name)?;
            return (!callout.is_own(&identity.user)).then_some(callout);
        }
        let callout = self.callout.as_ref()?;
        let account = found.map_or(GLOBAL_ACCOUNT, |identity| &identity.account.name);
        let user = match found {
            Ok(identity) => identity.user.as_str(),
            Err(_) => raw_user(login),
        };
        (callout.decides_on(account) && !callout.is_own(user)).then(|| Arc::clone(callout))
    }

    /// Who a client is by the service's answer.
    pub(crate) fn judge(
        &self,
        callout: &Callout,
        answer: &[u8],
        asked: &Asked<'_>,
        now: UnixNanos,
    ) -> Result<Identity, CalloutError> {
        let seconds = now.0 / operator::NANOS_PER_SEC;
        let answer = callout.read(answer, asked, seconds)?;
        let name = match answer.claims.name.as_str() {
            "" => raw_user(asked.login),
            name => name,
        };
        let name = name.to_owned();
        let shown = Shown::new(answer.claims, asked.facts);
        let identity = match &self.operator {
            Some(operator) => operator.judge_answer(callout, shown, answer.signer, now)?,
            None => {
                // What is not sealed has to be signed by the key that speaks for the service.
                if let Some((key, _)) = answer.signer.filter(|(key, _)| *key != callout.issuer) {
                    return Err(CalloutError::UnknownKey(key));
                }
                self.place(callout, shown, now)?
            }
        };
        let is_own_account = identity.account.name == callout.account.name;
        let permissions = match identity.permissions {
            held if is_own_account => Some(without_questions(held.as_deref())),
            held => held,
        };
        Ok(Identity {
            user: name,
            permissions,
            let_in: Some(LetIn {
                issuer: callout.issuer.as_str().into(),
            }),
            ..identity
        })
    }

    /// Who a client is by a token of the configured service.
    fn place(&self, callout: &Callout, shown: Shown, now: UnixNanos) -> Result<Identity, CalloutError> {
        let claims = &shown.claims;
        if claims.issuer != callout.issuer || !claims.body.issuer_account.is_empty() {
            return Err(CalloutError::Issuer(claims.issuer.clone()));
        }
        let account = self.accounts.get(&claims.audience);
        let account = account.ok_or_else(|| CalloutError::Account(claims.audience.clone()))?;
        if !claims.holds_at(now.0 / operator::NANOS_PER_SEC) {
            return Err(CalloutError::Judged("no longer valid"));
        }
        let may = &claims.body.may;
        let until = shown.terms(may, now).map_err(CalloutError::Judged)?;
        let expires = claims.expires_at().into_iter().chain(until).min();
        Ok(Identity {
            user: String::new(),
            account: Arc::clone(account),
            permissions: operator::permissions(&may.permissions)
                .map(|source| Arc::new(Permissions::new(&source))),
            expires,
            caps: may.caps(),
            shown: None,
            let_in: None,
        })
    }

    /// Whether a service's word of `identity` still counts.
    pub(super) fn still_lets_in(&self, let_in: &LetIn, identity: &Identity) -> bool {
        let callout = self.callout.as_ref();
        callout.is_some_and(|callout| *callout.issuer == *let_in.issuer)
            && self.accounts.contains_key(&*identity.account.name)
    }
}

/// The same permissions, without that to publish what only the server asks.
pub(super) fn without_questions(held: Option<&Permissions>) -> Arc<Permissions> {
    let mut source: options::Permissions = held.map(|held| held.source.clone()).unwrap_or_default();
    let deny = &mut source.publish.get_or_insert_default().deny;
    if !deny.iter().any(|subject| subject == SUBJECT) {
        deny.push(SUBJECT.to_owned());
    }
    Arc::new(Permissions::new(&source))
}

/// How a client calls itself.
fn raw_user(login: &Login) -> &str {
    if !login.nkey.is_empty() {
        &login.nkey
    } else if !login.user.is_empty() {
        &login.user
    } else if !login.token.0.is_empty() {
        REDACTED
    } else {
        ""
    }
}

fn curve(text: &str) -> Option<PublicKey> {
    PublicKey::parse(text, KeyKind::Curve)
}
