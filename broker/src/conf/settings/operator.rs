//! Operator mode: operators, trusted keys, and where account JWTs come from.

use std::path::Path;

use super::super::parse::unreadable;
use super::super::value::{Node, Table, Value};
use super::nkey::is_public_key;
use super::reader::Reader;
use crate::options::{AuthOptions, OperatorOptions, ResolverOptions};

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
        if !is_public_key('O', &key) {
            let reason = format!("trust key {key:?} required to be a valid public operator nkey");
            reader.error(&node.at, reason);
        }
        into.trusted_keys.push(key);
    }
}

/// `resolver`
pub(super) fn resolver(reader: &mut Reader<'_>, into: &mut OperatorOptions, node: &Node) {
    match &node.value {
        Value::String(text) if is_memory(text) => into.resolver = Some(ResolverOptions::Memory),
        Value::String(text) if text.trim().to_ascii_uppercase().starts_with("URL") => {
            reader.refuse(
                node,
                "a resolver elsewhere is not asked; use `resolver: MEMORY` with resolver_preload",
            );
        }
        Value::Map(table) => into.resolver = directory(reader, node, table),
        _ => {
            let reason = "error parsing account resolver, should be MEM or a map containing dir and type";
            reader.error(&node.at, reason);
        }
    }
}

fn is_memory(text: &str) -> bool {
    matches!(text.trim().to_ascii_uppercase().as_str(), "MEM" | "MEMORY")
}

fn directory(reader: &mut Reader<'_>, node: &Node, table: &Table) -> Option<ResolverOptions> {
    let (mut kind, mut dir, mut allow_delete, mut limit) = (String::new(), None, false, 0);
    for (key, item) in table.iter() {
        match key {
            "type" => reader.put_string(key, item, &mut kind),
            "dir" => dir = reader.path(key, item),
            "allow_delete" => reader.put_bool(key, item, &mut allow_delete),
            "limit" => limit = reader.limit(key, item).flatten().unwrap_or_default(),
            _ => {}
        }
    }
    match kind.to_ascii_uppercase().as_str() {
        "MEM" | "MEMORY" => Some(ResolverOptions::Memory),
        "FULL" => match dir {
            Some(dir) => Some(ResolverOptions::Directory {
                dir,
                allow_delete,
                limit,
            }),
            None => {
                reader.error(&node.at, "dir has no value and needs to point to a directory");
                None
            }
        },
        "CACHE" => {
            let reason = "a cache of other servers' accounts needs those servers; use `type: full` or `resolver: MEMORY`";
            reader.refuse(node, reason);
            None
        }
        _ => {
            reader.error(
                &node.at,
                "error parsing account resolver, type should be one of MEMORY and FULL",
            );
            None
        }
    }
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
    if is_on && !operator.operators.is_empty() && operator.resolver.is_none() {
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
    if !operator.preload.is_empty() && operator.resolver != Some(ResolverOptions::Memory) {
        problems.push("resolver preload only available for resolver type MEM".to_owned());
    }
    problems
}
