//! The `authorization` block, users, and what must agree between them and accounts.

use std::collections::{BTreeSet, HashSet};
use std::time::Duration;

use super::super::value::{Node, Table, Value};
use super::reader::Reader;
use super::{Settings, operator, permissions};
use crate::auth::nkey::{KeyKind, PublicKey};
use crate::options::{
    AuthCallout, ConnectionType, Credential, GLOBAL_ACCOUNT, OperatorOptions, Permissions, SYSTEM_ACCOUNT,
    Secret, UserOptions,
};

impl Settings<'_> {
    /// Who may connect.
    pub(super) fn set_auth(&mut self, key: &str, node: &Node) -> bool {
        let Self { reader, options, .. } = self;
        let auth = &mut options.auth;
        match key {
            "authorization" => self.authorization(node),
            "no_auth_user" => auth.no_auth_user = reader.string(key, node),
            "system_account" | "system" => auth.system_account = reader.string(key, node),
            "no_system_account" | "no_system" | "no_sys_acc" => {
                reader.put_bool(key, node, &mut auth.no_system_account);
            }
            "operator" | "operators" | "roots" | "root" | "root_operators" | "root_operator" => {
                operator::operators(reader, auth.operator.get_or_insert_default(), node);
            }
            "trusted" | "trusted_keys" => {
                operator::trusted_keys(reader, auth.operator.get_or_insert_default(), node);
            }
            "resolver" | "account_resolver" | "accounts_resolver" => {
                operator::resolver(reader, auth.operator.get_or_insert_default(), node);
            }
            "resolver_preload" => operator::preload(reader, auth.operator.get_or_insert_default(), node),
            "resolver_pinned_accounts" => {
                let pinned = reader.strings(key, node).unwrap_or_default();
                auth.operator.get_or_insert_default().pinned_accounts = pinned.into_iter().collect();
            }
            "resolver_tls" => reader.refuse(
                node,
                "resolver_tls is for a resolver elsewhere; use `resolver: MEMORY`",
            ),
            "default_sentinel" => {
                auth.operator.get_or_insert_default().default_sentinel = reader.string(key, node);
            }
            _ => return false,
        }
        true
    }

    fn authorization(&mut self, node: &Node) {
        let Self { reader, options, .. } = self;
        let Some(table) = reader.map("authorization", node) else {
            return;
        };
        let auth = &mut options.auth;
        auth.is_defined = true;
        let (mut user, mut pass) = (None, None);
        let (mut users, mut defaults) = (None, None);
        for (key, item) in table.iter() {
            match key.to_ascii_lowercase().as_str() {
                "user" | "username" => user = reader.string(key, item),
                "pass" | "password" => pass = reader.string(key, item),
                "token" => auth.token = reader.string(key, item).map(Secret),
                "timeout" => auth.timeout = timeout(reader, key, item),
                "users" => users = read_users(reader, item, GLOBAL_ACCOUNT),
                "default_permission" | "default_permissions" | "permissions" => {
                    defaults = permissions::read(reader, item);
                }
                "auth_callout" | "auth_hook" => {
                    auth.callout = callout(reader, item);
                }
                "proxy_required" => proxy_required(reader, key, item),
                _ => reader.unknown(key, item),
            }
        }
        let has_token = auth.token.as_ref().is_some_and(|token| !token.0.is_empty());
        let name = user.filter(|name| !name.is_empty());
        if (name.is_some() || pass.is_some()) && has_token {
            reader.error(&node.at, "Cannot have a user/pass and token");
        }
        if users.is_some() && name.is_some() {
            reader.error(&node.at, "Can not have a single user/pass and a users array");
        }
        if users.is_some() && has_token {
            reader.error(&node.at, "Can not have a token and a users array");
        }
        auth.single_user = name.map(|name| (name, Secret(pass.unwrap_or_default())));
        let mut users = users.unwrap_or_default();
        apply_defaults(&mut users, defaults.as_ref());
        auth.users.extend(users);
    }

    /// What must agree between accounts, users and the rest.
    pub(super) fn check_auth(&mut self) {
        let Self { reader, options, .. } = self;
        let auth = &options.auth;
        let mut problems = Vec::new();
        let mut seen = HashSet::new();
        for user in &auth.users {
            let (kind, name) = match &user.credential {
                Credential::Password { user, .. } => ("user", user),
                Credential::Nkey(key) => ("nkey", key),
            };
            if !seen.insert(name) {
                problems.push(format!("Duplicate {kind} {name:?} detected"));
            }
        }
        let has_account_users = auth.users.iter().any(|user| user.account != GLOBAL_ACCOUNT);
        if has_account_users && auth.single_user.is_some() {
            problems.push("Can not have a single user/pass and accounts".to_owned());
        }
        if has_account_users && auth.token.is_some() {
            problems.push("Can not have a token and accounts".to_owned());
        }
        let is_named = |name: &str| auth.accounts.iter().any(|account| account.name == name);
        if auth.operator.is_none() {
            if let Some(name) = auth
                .no_auth_user
                .as_deref()
                .filter(|name| !has_user(&auth.users, name))
            {
                problems.push(if auth.users.is_empty() {
                    format!("no_auth_user: {name:?} present, but users/nkeys are not defined")
                } else {
                    format!("no_auth_user: {name:?} not present as user or nkey in authorization block or account configuration")
                });
            }
            if let Some(name) = auth.system_account.as_deref()
                && name != SYSTEM_ACCOUNT
                && !is_named(name)
            {
                problems.push(format!(
                    "error resolving system account: account missing ({name:?})"
                ));
            }
        }
        let allowed = auth.callout.iter().flat_map(|callout| &callout.allowed_accounts);
        for name in allowed.filter(|name| !is_named(name)) {
            problems.push(format!(
                "auth_callout allowed account {name:?} not found in configured accounts"
            ));
        }
        if let Some(operator) = &auth.operator {
            problems.extend(operator::problems(operator, auth));
        }
        let is_operated = |operator: &&mut OperatorOptions| {
            !operator.operators.is_empty() || !operator.trusted_keys.is_empty()
        };
        if options.auth.operator.as_mut().filter(is_operated).is_none()
            && options.auth.operator.take().is_some()
        {
            reader
                .warnings
                .push("a resolver has no effect without an operator or trusted keys".to_owned());
        }
        let errors = problems.into_iter().map(super::ConfigError::anywhere);
        reader.errors.extend(errors);
    }
}

fn has_user(users: &[UserOptions], name: &str) -> bool {
    users.iter().any(|user| match &user.credential {
        Credential::Password { user, .. } => user == name,
        Credential::Nkey(key) => key == name,
    })
}

/// Gives users that say nothing of their own what `defaults` says.
pub(super) fn apply_defaults(users: &mut [UserOptions], defaults: Option<&Permissions>) {
    for user in users.iter_mut().filter(|user| user.permissions.is_none()) {
        user.permissions = defaults.cloned();
    }
}

/// How long clients have to authenticate.
pub(super) fn timeout(reader: &mut Reader<'_>, key: &str, node: &Node) -> Option<Duration> {
    let timeout = reader.timeout(key, node)?;
    if timeout > Duration::from_secs(60) {
        let secs = timeout.as_secs();
        reader.warn(
            node,
            &format!("timeout of {secs} seconds is high; a duration such as '1m' is quoted"),
        );
    }
    (!timeout.is_zero()).then_some(timeout)
}

/// A `users` array; every user is one of `account`.
pub(super) fn read_users(reader: &mut Reader<'_>, node: &Node, account: &str) -> Option<Vec<UserOptions>> {
    let items = reader.array("users", node)?;
    let mut users = Vec::new();
    for item in items {
        if let Some(table) = reader.map("user entry", item) {
            users.extend(read_user(reader, item, table, account));
        }
    }
    Some(users)
}

fn read_user(reader: &mut Reader<'_>, node: &Node, table: &Table, account: &str) -> Option<UserOptions> {
    let (mut nkey, mut name, mut pass) = (None, None, None);
    let mut permissions = None;
    let mut connection_types = BTreeSet::new();
    for (key, item) in table.iter() {
        match key.to_ascii_lowercase().as_str() {
            "nkey" => nkey = reader.string(key, item),
            "user" | "username" => name = reader.string(key, item),
            "pass" | "password" => pass = reader.string(key, item),
            "permission" | "permissions" | "authorization" => permissions = permissions::read(reader, item),
            "allowed_connection_types" | "connection_types" | "clients" => {
                connection_types = types(reader, item);
            }
            "proxy_required" => proxy_required(reader, key, item),
            _ => reader.unknown(key, item),
        }
    }
    let name = name.filter(|name| !name.is_empty());
    let credential = match (nkey.filter(|key| !key.is_empty()), name) {
        (None, None) => {
            reader.error(&node.at, "User entry requires a user");
            return None;
        }
        (Some(key), _) if PublicKey::parse(&key, KeyKind::User).is_none() => {
            reader.error(&node.at, "Not a valid public nkey for a user");
            return None;
        }
        (Some(_), name) if name.is_some() || pass.is_some() => {
            reader.error(&node.at, "Nkey users do not take usernames or passwords");
            return None;
        }
        (Some(key), _) => Credential::Nkey(key),
        (None, Some(user)) => Credential::Password {
            user,
            password: Secret(pass.unwrap_or_default()),
        },
    };
    Some(UserOptions {
        credential,
        account: account.to_owned(),
        permissions,
        connection_types,
    })
}

fn types(reader: &mut Reader<'_>, node: &Node) -> BTreeSet<ConnectionType> {
    let mut types = BTreeSet::new();
    for name in reader
        .strings("allowed connection types", node)
        .unwrap_or_default()
    {
        match ConnectionType::of_name(&name) {
            Some(kind) => drop(types.insert(kind)),
            None => reader.error(&node.at, format!("invalid connection types [{name:?}]")),
        }
    }
    types
}

fn proxy_required(reader: &mut Reader<'_>, key: &str, node: &Node) {
    if reader.bool(key, node) == Some(true) {
        reader.refuse(
            node,
            "proxy_required can't be checked here; let clients connect directly",
        );
    }
}

fn callout(reader: &mut Reader<'_>, node: &Node) -> Option<AuthCallout> {
    let table = reader.map("authorization callout", node)?;
    let mut callout = AuthCallout {
        issuer: String::new(),
        account: GLOBAL_ACCOUNT.to_owned(),
        auth_users: Vec::new(),
        xkey: None,
        allowed_accounts: Vec::new(),
    };
    for (key, item) in table.iter() {
        match key.to_ascii_lowercase().as_str() {
            "issuer" => reader.put_string(key, item, &mut callout.issuer),
            "account" | "acc" => reader.put_string(key, item, &mut callout.account),
            "auth_users" | "users" => callout.auth_users = string_array(reader, key, item),
            "xkey" | "key" => callout.xkey = reader.string(key, item),
            "allowed_accounts" => callout.allowed_accounts = string_array(reader, key, item),
            _ if item.is_referenced => {}
            _ => reader.error(
                &item.at,
                format!("Unknown field {key:?} parsing authorization callout"),
            ),
        }
    }
    let issuer = &callout.issuer;
    let problem = if issuer.is_empty() {
        "Authorization callouts require an issuer to be specified".to_owned()
    } else if PublicKey::parse(issuer, KeyKind::Account).is_none() {
        format!("Expected callout user to be a valid public account nkey, got {issuer:?}")
    } else if let Some(key) = callout.xkey.as_ref().filter(|key| is_no_xkey(key)) {
        format!("Expected callout xkey to be a valid public xkey, got {key:?}")
    } else if callout.auth_users.is_empty() {
        "Authorization callouts require authorized users to be specified".to_owned()
    } else {
        return Some(callout);
    };
    reader.error(&node.at, problem);
    None
}

fn is_no_xkey(key: &str) -> bool {
    PublicKey::parse(key, KeyKind::Curve).is_none()
}

fn string_array(reader: &mut Reader<'_>, key: &str, node: &Node) -> Vec<String> {
    match node.value {
        Value::Array(_) => reader.strings(key, node).unwrap_or_default(),
        _ => reader.wrong_type(key, node, "an array").unwrap_or_default(),
    }
}
