//! Tokens of version 1 as what they mean in version 2: the kind, tags and the issuing account stood beside the claims of NATS,
//! and much could not be said yet. Source: nats-io/jwt v2, `Migrate`.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::{
    AccountBody, AccountLimitClaims, ActivationBody, Claims, ExportClaim, ImportClaim, JetStreamClaims,
    OperatorBody, PermissionClaims, SigningKey, TimeRange, UserBody, UserClaims, list, or_null,
};

type Result<T> = std::result::Result<Claims<T>, serde_json::Error>;

/// No limit.
const NONE: i64 = -1;

/// What stands beside the claims of NATS.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Beside {
    #[serde(deserialize_with = "or_null")]
    tags: Vec<String>,
    issuer_account: String,
}

/// All of a token, of which even the claims of NATS may be missing.
#[derive(Deserialize)]
#[serde(bound = "T: DeserializeOwned + Default")]
struct Token<T> {
    #[serde(flatten)]
    beside: Beside,
    #[serde(rename = "iat", default)]
    issued_at: i64,
    #[serde(rename = "iss", default)]
    issuer: String,
    #[serde(default)]
    name: String,
    #[serde(rename = "sub", default)]
    subject: String,
    #[serde(rename = "aud", default)]
    audience: String,
    #[serde(rename = "exp", default)]
    expires: i64,
    #[serde(rename = "nbf", default)]
    not_before: i64,
    #[serde(default, deserialize_with = "or_null")]
    nats: T,
}

/// Reads the claims and makes those of version 2 of them.
fn read<Old: DeserializeOwned + Default, New>(
    claims: &[u8],
    migrate: impl FnOnce(Old, Beside) -> New,
) -> Result<New> {
    let token: Token<Old> = serde_json::from_slice(claims)?;
    Ok(Claims {
        issued_at: token.issued_at,
        issuer: token.issuer,
        name: token.name,
        subject: token.subject,
        audience: token.audience,
        expires: token.expires,
        not_before: token.not_before,
        body: migrate(token.nats, token.beside),
    })
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Operator {
    #[serde(deserialize_with = "or_null")]
    signing_keys: Vec<String>,
    system_account: String,
}

pub(super) fn operator(claims: &[u8]) -> Result<OperatorBody> {
    read(claims, |old: Operator, _| OperatorBody {
        signing_keys: old.signing_keys,
        system_account: old.system_account,
        strict_signing_key_usage: false,
    })
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Account {
    #[serde(deserialize_with = "or_null")]
    imports: Vec<ImportClaim>,
    #[serde(deserialize_with = "or_null")]
    exports: Vec<ExportClaim>,
    limits: AccountLimitClaims,
    #[serde(deserialize_with = "or_null")]
    signing_keys: Vec<String>,
    #[serde(deserialize_with = "or_null")]
    revocations: BTreeMap<String, i64>,
}

pub(super) fn account(claims: &[u8]) -> Result<AccountBody> {
    read(claims, |old: Account, beside| AccountBody {
        imports: old.imports,
        exports: old.exports,
        limits: AccountLimitClaims {
            // There was none to be had.
            jetstream: JetStreamClaims::default(),
            tiered_limits: BTreeMap::new(),
            ..old.limits
        },
        signing_keys: old.signing_keys.into_iter().map(SigningKey::Plain).collect(),
        revocations: old.revocations,
        tags: beside.tags,
        ..AccountBody::default()
    })
}

#[derive(Deserialize)]
#[serde(default)]
struct User {
    #[serde(flatten)]
    permissions: PermissionClaims,
    #[serde(deserialize_with = "list")]
    src: Vec<String>,
    #[serde(deserialize_with = "or_null")]
    times: Vec<TimeRange>,
    times_location: String,
    subs: i64,
    data: i64,
    payload: i64,
    bearer_token: bool,
}

impl Default for User {
    fn default() -> Self {
        Self {
            permissions: PermissionClaims::default(),
            src: Vec::new(),
            times: Vec::new(),
            times_location: String::new(),
            subs: NONE,
            data: NONE,
            payload: NONE,
            bearer_token: false,
        }
    }
}

pub(super) fn user(claims: &[u8]) -> Result<UserBody> {
    read(claims, |old: User, beside| UserBody {
        issuer_account: beside.issuer_account,
        tags: beside.tags,
        may: UserClaims {
            permissions: old.permissions,
            src: old.src,
            times: old.times,
            times_location: old.times_location,
            subs: old.subs,
            data: old.data,
            payload: old.payload,
            bearer_token: old.bearer_token,
            proxy_required: false,
            allowed_connection_types: Vec::new(),
        },
    })
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Activation {
    subject: String,
    #[serde(rename = "type")]
    kind: String,
}

pub(super) fn activation(claims: &[u8]) -> Result<ActivationBody> {
    read(claims, |old: Activation, beside| ActivationBody {
        subject: old.subject,
        kind: old.kind,
        issuer_account: beside.issuer_account,
    })
}

#[cfg(test)]
mod tests {
    use super::super::*;

    #[test]
    fn claims_are_those_of_version_2() {
        let body = br#"{"iss":"A","sub":"U","type":"user","issuer_account":"B","tags":["site:x"],
            "nats":{"pub":{"allow":["a"]},"sub":{},"src":"10.0.0.0/8,::1/128","max":5,"payload":7}}"#;
        let user = UserBody::from_version_1(body).unwrap();
        assert_eq!((user.issuer.as_str(), user.subject.as_str()), ("A", "U"));
        assert_eq!(
            (user.body.issuer_account.as_str(), &user.body.tags[..]),
            ("B", &["site:x".to_owned()][..])
        );
        let may = &user.body.may;
        assert_eq!((may.subs, may.data, may.payload, may.src.len()), (-1, -1, 7, 2));
        assert_eq!(may.permissions.publish.allow, ["a"]);
        let nothing_said = UserBody::from_version_1(br#"{"type":"user"}"#).unwrap().body;
        assert_eq!((nothing_said.may.subs, nothing_said.may.payload), (-1, -1));
    }

    #[test]
    fn an_account_has_no_jetstream_and_no_scoped_keys() {
        let body =
            br#"{"type":"account","nats":{"limits":{"subs":5,"conn":-1,"mem_storage":-1,"disk_storage":-1},
            "signing_keys":["S"],"default_permissions":{"pub":{"deny":["a"]}}}}"#;
        let account = AccountBody::from_version_1(body).unwrap().body;
        assert_eq!(
            (account.limits.subs, account.limits.conn, account.limits.payload),
            (5, -1, 0)
        );
        assert_eq!(account.limits.jetstream.disk_storage, 0);
        assert!(matches!(&account.signing_keys[..], [SigningKey::Plain(key)] if key == "S"));
        assert!(account.default_permissions.publish.deny.is_empty());
        let scoped = br#"{"type":"account","nats":{"signing_keys":[{"kind":"user_scope","key":"S"}]}}"#;
        assert!(AccountBody::from_version_1(scoped).is_err());
    }

    #[test]
    fn an_activation_says_its_kind_as_type() {
        let body = br#"{"type":"activation","issuer_account":"A","nats":{"subject":"foo","type":"service"}}"#;
        let activation = ActivationBody::from_version_1(body).unwrap().body;
        assert_eq!(
            (
                activation.subject.as_str(),
                activation.kind.as_str(),
                activation.issuer_account.as_str()
            ),
            ("foo", "service", "A")
        );
    }
}
