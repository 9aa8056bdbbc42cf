//! JWTs as NATS signs them: operators, accounts, users, activations. Source: NATS, "JWTs"; nats-io/jwt v2.
//!
//! A token is three parts in base 64, joined by `.`: what it is, what it claims, and the issuer's signature of both. Tokens of
//! version 1, which `nsc` wrote until 2021, are read as what they mean in version 2.

mod version1;

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer};

use super::Caps;
use super::nkey::{KeyKind, PublicKey};
use super::operator::NANOS_PER_SEC;
use crate::types::UnixNanos;

/// How tokens are signed.
pub(crate) const ALGORITHM: &str = "ed25519-nkey";
/// Bytes of one token at most.
const TOKEN_BYTES_MAX: usize = 1 << 20;

/// Why a token is not believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum JwtError {
    #[error("expected 3 chunks")]
    Chunks,
    #[error("not base 64 of the JSON that is expected")]
    Encoding,
    #[error("not a JWT")]
    Type,
    #[error("not signed with ed25519-nkey")]
    Algorithm,
    #[error("claims of version {0} are not read here, only those of versions 1 and 2")]
    Version(u32),
    #[error("the JWT is of something else")]
    Kind,
    #[error("unable to validate expected prefixes of the issuer's key")]
    Issuer,
    #[error("claim failed V{0} signature verification")]
    Signature(u32),
}

/// What a token is.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Header {
    typ: String,
    alg: String,
}

impl Header {
    fn check(&self) -> Result<(), JwtError> {
        let algorithms = [ALGORITHM, "ed25519"];
        if !self.typ.eq_ignore_ascii_case("jwt") {
            return Err(JwtError::Type);
        }
        let is_known = algorithms.iter().any(|name| self.alg.eq_ignore_ascii_case(name));
        is_known.then_some(()).ok_or(JwtError::Algorithm)
    }
}

/// What tells versions and kinds apart.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Versioned {
    /// The kind, in version 1.
    #[serde(rename = "type")]
    kind: String,
    nats: VersionedBody,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct VersionedBody {
    #[serde(rename = "type")]
    kind: String,
    version: u32,
}

impl Versioned {
    fn version(&self) -> u32 {
        if self.kind.is_empty() {
            self.nats.version
        } else {
            1
        }
    }

    fn kind(&self) -> &str {
        if self.kind.is_empty() {
            &self.nats.kind
        } else {
            &self.kind
        }
    }
}

/// What all tokens say, around what the kind `T` says.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Claims<T> {
    #[serde(rename = "iat", default)]
    pub(crate) issued_at: i64,
    #[serde(rename = "iss", default)]
    pub(crate) issuer: String,
    #[serde(default)]
    pub(crate) name: String,
    #[serde(rename = "sub", default)]
    pub(crate) subject: String,
    /// Whom it is for.
    #[serde(rename = "aud", default)]
    pub(crate) audience: String,
    /// Seconds since 1970; 0: never.
    #[serde(rename = "exp", default)]
    pub(crate) expires: i64,
    /// Seconds since 1970; 0: always.
    #[serde(rename = "nbf", default)]
    pub(crate) not_before: i64,
    #[serde(rename = "nats")]
    pub(crate) body: T,
}

/// A kind of token.
pub(crate) trait Kind: DeserializeOwned {
    /// What it is called.
    const NAME: &'static str;
    /// Whose keys may have signed it.
    const ISSUERS: &'static [KeyKind];
    /// Whose key it is about.
    const SUBJECT: KeyKind;

    /// The claims of a token of version 1.
    fn from_version_1(claims: &[u8]) -> Result<Claims<Self>, serde_json::Error>;
}

impl<T: Kind> Claims<T> {
    /// The claims of a token whose signature is its issuer's. Says nothing of whether the issuer is to be believed.
    pub(crate) fn decode(token: &str) -> Result<Self, JwtError> {
        if token.len() > TOKEN_BYTES_MAX {
            return Err(JwtError::Encoding);
        }
        let chunks: Vec<&str> = token.split('.').take(4).collect();
        let [header, claims, signature] = *chunks else {
            return Err(JwtError::Chunks);
        };
        let raw = |chunk: &str| {
            URL_SAFE_NO_PAD
                .decode(chunk.trim_end_matches('='))
                .map_err(|_| JwtError::Encoding)
        };
        let parsed: Header = serde_json::from_slice(&raw(header)?).map_err(|_| JwtError::Encoding)?;
        parsed.check()?;
        let body = raw(claims)?;
        let versioned: Versioned = serde_json::from_slice(&body).map_err(|_| JwtError::Encoding)?;
        if versioned.kind() != T::NAME {
            return Err(JwtError::Kind);
        }
        let version = versioned.version();
        // Issuers signed the claims alone before.
        let (decoded, signed) = match version {
            1 => (T::from_version_1(&body), claims),
            2 => (
                serde_json::from_slice(&body),
                &token[..header.len() + 1 + claims.len()],
            ),
            other => return Err(JwtError::Version(other)),
        };
        let decoded: Self = decoded.map_err(|_| JwtError::Encoding)?;
        let key = T::ISSUERS
            .iter()
            .find_map(|kind| PublicKey::parse(&decoded.issuer, *kind))
            .ok_or(JwtError::Issuer)?;
        PublicKey::parse(&decoded.subject, T::SUBJECT).ok_or(JwtError::Issuer)?;
        if key.verify(signed.as_bytes(), &raw(signature)?) {
            Ok(decoded)
        } else {
            Err(JwtError::Signature(version))
        }
    }

    /// Whether it holds at this time, in seconds since 1970.
    pub(crate) fn holds_at(&self, now: i64) -> bool {
        !self.is_expired(now) && (self.not_before == 0 || self.not_before <= now)
    }

    /// When its time is over; none: never.
    pub(crate) fn expires_at(&self) -> Option<UnixNanos> {
        (self.expires != 0).then(|| UnixNanos(self.expires.saturating_mul(NANOS_PER_SEC)))
    }

    /// Whether its time is over.
    pub(crate) fn is_expired(&self, now: i64) -> bool {
        self.expires != 0 && self.expires <= now
    }
}

/// What an operator's token says.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct OperatorBody {
    #[serde(deserialize_with = "or_null")]
    pub(crate) signing_keys: Vec<String>,
    pub(crate) system_account: String,
    pub(crate) strict_signing_key_usage: bool,
}

impl Kind for OperatorBody {
    const NAME: &'static str = "operator";
    const ISSUERS: &'static [KeyKind] = &[KeyKind::Operator];
    const SUBJECT: KeyKind = KeyKind::Operator;

    fn from_version_1(claims: &[u8]) -> Result<Claims<Self>, serde_json::Error> {
        version1::operator(claims)
    }
}

/// What an account's token says.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct AccountBody {
    #[serde(deserialize_with = "or_null")]
    pub(crate) imports: Vec<ImportClaim>,
    #[serde(deserialize_with = "or_null")]
    pub(crate) exports: Vec<ExportClaim>,
    pub(crate) limits: AccountLimitClaims,
    #[serde(deserialize_with = "or_null")]
    pub(crate) signing_keys: Vec<SigningKey>,
    #[serde(deserialize_with = "or_null")]
    pub(crate) revocations: BTreeMap<String, i64>,
    pub(crate) default_permissions: PermissionClaims,
    #[serde(deserialize_with = "or_null")]
    pub(crate) mappings: BTreeMap<String, Vec<MappingClaim>>,
    pub(crate) authorization: Authorization,
    #[serde(deserialize_with = "or_null")]
    pub(crate) tags: Vec<String>,
}

impl Kind for AccountBody {
    const NAME: &'static str = "account";
    const ISSUERS: &'static [KeyKind] = &[KeyKind::Operator];
    const SUBJECT: KeyKind = KeyKind::Account;

    fn from_version_1(claims: &[u8]) -> Result<Claims<Self>, serde_json::Error> {
        version1::account(claims)
    }
}

/// What a user's token says.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct UserBody {
    pub(crate) issuer_account: String,
    #[serde(deserialize_with = "or_null")]
    pub(crate) tags: Vec<String>,
    #[serde(flatten)]
    pub(crate) may: UserClaims,
}

impl Kind for UserBody {
    const NAME: &'static str = "user";
    const ISSUERS: &'static [KeyKind] = &[KeyKind::Account];
    const SUBJECT: KeyKind = KeyKind::User;

    fn from_version_1(claims: &[u8]) -> Result<Claims<Self>, serde_json::Error> {
        version1::user(claims)
    }
}

/// What an activation says: one account lets another take what it offers.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct ActivationBody {
    /// The subject.
    pub(crate) subject: String,
    pub(crate) kind: String,
    pub(crate) issuer_account: String,
}

impl Kind for ActivationBody {
    const NAME: &'static str = "activation";
    const ISSUERS: &'static [KeyKind] = &[KeyKind::Account, KeyKind::Operator];
    const SUBJECT: KeyKind = KeyKind::Account;

    fn from_version_1(claims: &[u8]) -> Result<Claims<Self>, serde_json::Error> {
        version1::activation(claims)
    }
}

/// What a user may do, and how: of a user's own token, or of the key that signed it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(crate) struct UserClaims {
    #[serde(flatten)]
    pub(crate) permissions: PermissionClaims,
    /// Networks to come from.
    #[serde(deserialize_with = "list")]
    pub(crate) src: Vec<String>,
    /// Times of the day to come at.
    #[serde(deserialize_with = "or_null")]
    pub(crate) times: Vec<TimeRange>,
    /// The time zone of these times.
    pub(crate) times_location: String,
    pub(crate) subs: i64,
    pub(crate) data: i64,
    pub(crate) payload: i64,
    pub(crate) bearer_token: bool,
    pub(crate) proxy_required: bool,
    #[serde(deserialize_with = "or_null")]
    pub(crate) allowed_connection_types: Vec<String>,
}

impl UserClaims {
    /// What it is limited to.
    pub(crate) fn caps(&self) -> Caps {
        let limit = |max: i64| u64::try_from(max).ok();
        Caps {
            max_subscriptions: limit(self.subs),
            max_payload_bytes: limit(self.payload),
        }
    }
}

/// From one time of the day to another: `hh:mm:ss`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(crate) struct TimeRange {
    pub(crate) start: String,
    pub(crate) end: String,
}

/// Permissions.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(crate) struct PermissionClaims {
    #[serde(rename = "pub")]
    pub(crate) publish: SubjectClaims,
    #[serde(rename = "sub")]
    pub(crate) subscribe: SubjectClaims,
    pub(crate) resp: Option<ResponseClaims>,
}

/// Subjects that are allowed and denied.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(crate) struct SubjectClaims {
    #[serde(deserialize_with = "or_null")]
    pub(crate) allow: Vec<String>,
    #[serde(deserialize_with = "or_null")]
    pub(crate) deny: Vec<String>,
}

/// How answers are allowed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(crate) struct ResponseClaims {
    pub(crate) max: i64,
    /// In nanoseconds.
    pub(crate) ttl: i64,
}

/// A key that may sign users, maybe only such that may do what it says.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub(crate) enum SigningKey {
    /// Any user.
    Plain(String),
    /// Users with these rights.
    Scoped {
        key: String,
        #[serde(default)]
        template: Box<UserClaims>,
    },
}

/// What an account takes from another.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct ImportClaim {
    pub(crate) subject: String,
    pub(crate) account: String,
    pub(crate) token: String,
    pub(crate) to: String,
    pub(crate) local_subject: String,
    #[serde(rename = "type")]
    pub(crate) kind: String,
    pub(crate) share: bool,
    pub(crate) allow_trace: bool,
}

/// What an account offers.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct ExportClaim {
    pub(crate) subject: String,
    #[serde(rename = "type")]
    pub(crate) kind: String,
    pub(crate) token_req: bool,
    #[serde(deserialize_with = "or_null")]
    pub(crate) revocations: BTreeMap<String, i64>,
    pub(crate) response_type: String,
    /// In nanoseconds.
    pub(crate) response_threshold: i64,
    pub(crate) service_latency: Option<LatencyClaim>,
    pub(crate) account_token_position: u32,
}

/// How answers of a service are measured.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct LatencyClaim {
    /// Of a hundred; 0 or `headers`: where a request asks for it.
    pub(crate) sampling: serde_json::Value,
    pub(crate) results: String,
}

/// One of a mapping's destinations.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct MappingClaim {
    pub(crate) subject: String,
    /// 0 is 100.
    pub(crate) weight: u8,
    pub(crate) cluster: String,
}

/// Users are let in by a service.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Authorization {
    #[serde(deserialize_with = "or_null")]
    pub(crate) auth_users: Vec<String>,
    /// Accounts besides its own whose users the service may let in; `*`: all.
    #[serde(deserialize_with = "or_null")]
    pub(crate) allowed_accounts: Vec<String>,
    /// What the service's requests are sealed for.
    pub(crate) xkey: String,
}

/// What a service answers that is asked whether a user may come in.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct ResponseBody {
    /// Who the user is.
    pub(crate) jwt: String,
    /// Why it may not come in.
    pub(crate) error: String,
    pub(crate) issuer_account: String,
}

impl Kind for ResponseBody {
    const NAME: &'static str = "authorization_response";
    const ISSUERS: &'static [KeyKind] = &[KeyKind::Account];
    const SUBJECT: KeyKind = KeyKind::User;

    fn from_version_1(_: &[u8]) -> Result<Claims<Self>, serde_json::Error> {
        Err(serde::de::Error::custom("there were no such services"))
    }
}

/// An account's limits; -1 is none, and what is not said is 0.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct AccountLimitClaims {
    pub(crate) subs: i64,
    pub(crate) payload: i64,
    pub(crate) conn: i64,
    pub(crate) disallow_bearer: bool,
    #[serde(flatten)]
    pub(crate) jetstream: JetStreamClaims,
    #[serde(deserialize_with = "or_null")]
    pub(crate) tiered_limits: BTreeMap<String, JetStreamClaims>,
}

/// What an account may use of JetStream; -1 is no limit.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct JetStreamClaims {
    pub(crate) mem_storage: i64,
    pub(crate) disk_storage: i64,
    pub(crate) streams: i64,
    pub(crate) consumer: i64,
    pub(crate) max_ack_pending: i64,
    pub(crate) mem_max_stream_bytes: i64,
    pub(crate) disk_max_stream_bytes: i64,
    pub(crate) max_bytes_required: bool,
}

fn or_null<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Ok(Option::<T>::deserialize(deserializer)?.unwrap_or_default())
}

/// A list, or its items in one string, joined by commas.
fn list<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Form {
        List(Vec<String>),
        Text(String),
    }
    let form = Option::<Form>::deserialize(deserializer)?;
    Ok(match form {
        None => Vec::new(),
        Some(Form::List(items)) => items,
        Some(Form::Text(text)) => {
            let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
            items.map(ToOwned::to_owned).collect()
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn claims_of_nsc_are_read() {
        let body = r#"{"pub":{"allow":["a"]},"sub":{},"resp":{"max":1,"ttl":5},"src":null,"times":[{"start":"01:15:00","end":"03:15:00"}],
            "subs":-1,"data":-1,"payload":-1,"bearer_token":true,"issuer_account":"A","type":"user","version":2}"#;
        let user: UserBody = serde_json::from_str(body).unwrap();
        assert_eq!(user.may.permissions.publish.allow, ["a"]);
        assert!(user.may.bearer_token && user.issuer_account == "A" && user.may.times.len() == 1);
        let body = r#"{"limits":{"subs":-1,"data":-1,"payload":-1,"imports":-1,"exports":-1,"wildcards":true,"conn":5,"leaf":-1,
            "mem_storage":1024,"streams":2},"signing_keys":["A1",{"kind":"user_scope","key":"A2","role":"r",
            "template":{"pub":{"allow":["x.{{name()}}"]},"sub":{},"subs":7,"data":-1,"payload":-1},"description":""}],
            "default_permissions":{"pub":{},"sub":{}},"authorization":{},"type":"account","version":2}"#;
        let account: AccountBody = serde_json::from_str(body).unwrap();
        assert_eq!(
            (account.limits.conn, account.limits.jetstream.mem_storage),
            (5, 1024)
        );
        assert!(
            matches!(&account.signing_keys[1], SigningKey::Scoped { key, template } if key == "A2" && template.subs == 7)
        );
    }

    #[test]
    fn what_is_no_token_is_refused() {
        for (token, expected) in [
            ("", JwtError::Chunks),
            ("a.b.c.d", JwtError::Chunks),
            ("a.b.c", JwtError::Encoding),
            ("eyJhbGciOiJub25lIn0.e30.", JwtError::Type),
            ("eyJ0eXAiOiJKV1QiLCJhbGciOiJub25lIn0.e30.", JwtError::Algorithm),
            ("eyJ0eXAiOiJKV1QiLCJhbGciOiJlZDI1NTE5In0.e30.", JwtError::Kind),
        ] {
            assert_eq!(
                Claims::<UserBody>::decode(token).unwrap_err(),
                expected,
                "{token}"
            );
        }
    }
}
