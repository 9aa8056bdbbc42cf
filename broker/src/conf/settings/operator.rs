//! Operator mode: operators, trusted keys, and where account JWTs come from.

use std::path::Path;

use super::super::parse::unreadable;
use super::super::value::{Node, Table, Value};
use super::reader::Reader;
use crate::auth::nkey::{KeyKind, PublicKey};
use crate::options::{AuthOptions, OperatorOptions};

/// How every JWT begins: `{"` in base 64.
const JWT_START: &str = "eyJ";

/// `operator`: JWTs, or files that hold one.
pub(super) fn operators(reader: &mut Reader<'_>, into: &mut OperatorOptions, node: &Node) {
    for text in reader.strings("operators", node).unwrap_or_default() {
        if text.starts_with(JWT_START) {
            into.operators.push(text);
            continue;
        }
        let path = Path::new(&text);
        match reader.sources.file(path) {
            Err(err) => {
                let why = unreadable(path, &err);
                reader.error(&node.at, format!("error parsing operator JWT: {why}"));
            }
            Ok(content) => match jwt_in(&content) {
                Some(jwt) => into.operators.push(jwt.to_owned()),
                None => reader.error(
                    &node.at,
                    format!("error parsing operator JWT: there is none in {text}"),
                ),
            },
        }
    }
}

/// The JWT in a file, which may have a line of dashes before and behind it.
fn jwt_in(content: &str) -> Option<&str> {
    content
        .split_whitespace()
        .find(|word| word.starts_with(JWT_START) && word.matches('.').count() == 2)
}

/// `trusted_keys`
pub(super) fn trusted_keys(reader: &mut Reader<'_>, into: &mut OperatorOptions, node: &Node) {
    for key in reader.strings("trusted", node).unwrap_or_default() {
        if PublicKey::parse(&key, KeyKind::Operator).is_none() {
            let reason = format!("trust key {key:?} required to be a valid public operator nkey");
            reader.error(&node.at, reason);
        }
        into.trusted_keys.push(key);
    }
}

/// `resolver`
pub(super) fn resolver(reader: &mut Reader<'_>, into: &mut OperatorOptions, node: &Node) {
    into.has_resolver = true;
    let (kind, place) = match &node.value {
        Value::String(text) if text.trim().to_ascii_uppercase().starts_with("URL") => {
            return reader.refuse(node, &not_read("a resolver elsewhere is not asked"));
        }
        Value::String(text) => (text.as_str(), "should be MEM or a map containing dir and type"),
        Value::Map(table) => (kind_of(table), "type should be one of MEMORY, FULL and CACHE"),
        _ => ("", "should be MEM or a map containing dir and type"),
    };
    match kind.trim().to_ascii_uppercase().as_str() {
        "MEM" | "MEMORY" => {}
        "FULL" | "CACHE" if matches!(node.value, Value::Map(_)) => {
            reader.refuse(node, &not_read("a resolver of a folder is not read"));
        }
        _ => reader.error(&node.at, format!("error parsing account resolver, {place}")),
    }
}

fn kind_of(table: &Table) -> &str {
    match table.get("type").map(|item| &item.value) {
        Some(Value::String(kind)) => kind,
        _ => "",
    }
}

fn not_read(why: &str) -> String {
    format!(
        "{why}: put the accounts' JWTs in resolver_preload, with `resolver: MEMORY` \
         (`nsc generate config --mem-resolver` writes both)"
    )
}

/// `resolver_preload`
pub(super) fn preload(reader: &mut Reader<'_>, into: &mut OperatorOptions, node: &Node) {
    let Value::Map(table) = &node.value else {
        return reader.error(
            &node.at,
            "preload should be a map of account_public_key:account_jwt",
        );
    };
    for (key, item) in table.iter() {
        match &item.value {
            Value::String(jwt) if jwt.starts_with(JWT_START) && jwt.matches('.').count() == 2 => {
                into.preload.insert(key.to_owned(), jwt.clone());
            }
            Value::String(_) => reader.error(&item.at, "invalid account JWT"),
            _ => reader.error(&item.at, "preload map value should be a string JWT"),
        }
    }
}

/// What does not go together with operator mode.
pub(super) fn problems(operator: &OperatorOptions, auth: &AuthOptions) -> Vec<String> {
    let mut problems = Vec::new();
    let is_on = !operator.operators.is_empty() || !operator.trusted_keys.is_empty();
    if is_on && !operator.operators.is_empty() && !operator.has_resolver {
        problems.push("operators require an account resolver to be configured".to_owned());
    }
    if is_on && !auth.accounts.is_empty() {
        problems.push("operators do not allow Accounts to be configured directly".to_owned());
    }
    if is_on && auth.no_auth_user.is_some() {
        problems.push("no_auth_user not compatible with Trusted Operator".to_owned());
    }
    if !operator.operators.is_empty() && !operator.trusted_keys.is_empty() {
        problems.push("conflicting options for 'TrustedKeys' and 'TrustedOperators'".to_owned());
    }
    if is_on && !auth.users.is_empty() {
        problems.push("operators do not allow users to be configured directly".to_owned());
    }
    if !operator.preload.is_empty() && !operator.has_resolver {
        problems.push("resolver preload only available for resolver type MEM".to_owned());
    }
    if auth.callout.is_some() {
        problems.push("operators do not allow authorization callouts to be configured directly".to_owned());
    }
    problems
}
