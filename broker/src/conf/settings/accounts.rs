//! The `accounts` block.

use std::collections::HashSet;

use super::super::value::{Node, Table, Value};
use super::auth::{apply_defaults, read_users};
use super::reader::{Reader, go_duration};
use super::{Settings, permissions};
use crate::auth::nkey::{KeyKind, PublicKey};
use crate::options::{
    AccountJetStream, AccountLimits, AccountOptions, ExportKind, ExportOptions, GLOBAL_ACCOUNT, ImportKind,
    ImportOptions, JetStreamTier, LatencySampling, MapDestination, ResponseType, ServiceLatency,
    SubjectMapping, UserOptions,
};
use crate::sharing::check::check;
use crate::subject;

/// An array of names, or a map of accounts.
pub(super) fn read(settings: &mut Settings<'_>, node: &Node) {
    let Settings { reader, options, .. } = settings;
    let auth = &mut options.auth;
    match &node.value {
        Value::Array(items) => {
            let mut seen = HashSet::new();
            for item in items {
                let Some(name) = reader.string("account", item) else {
                    continue;
                };
                if is_reserved(reader, item, &name) {
                    continue;
                }
                if !seen.insert(name.clone()) {
                    reader.error(&item.at, format!("Duplicate Account Entry: {name}"));
                    continue;
                }
                auth.accounts.push(AccountOptions {
                    name,
                    ..AccountOptions::default()
                });
            }
        }
        Value::Map(table) => {
            for (name, item) in table.iter().filter(|(_, item)| !item.is_referenced) {
                let Value::Map(table) = &item.value else {
                    reader.error(&item.at, "Expected map entries for accounts");
                    continue;
                };
                if is_reserved(reader, item, name) {
                    continue;
                }
                let (account, users) = account(reader, name, table);
                auth.accounts.push(account);
                auth.users.extend(users);
            }
        }
        _ => {
            reader.wrong_type::<()>("accounts", node, "a map or an array");
        }
    }
    let names: HashSet<&str> = auth
        .accounts
        .iter()
        .map(|account| account.name.as_str())
        .collect();
    let before = reader.errors.len();
    for account in &auth.accounts {
        check_references(reader, node, account, &names);
    }
    if reader.errors.len() > before {
        return;
    }
    for problem in check(&auth.accounts).1 {
        reader.error(&node.at, problem.text);
    }
}

fn is_reserved(reader: &mut Reader<'_>, node: &Node, name: &str) -> bool {
    let is_reserved = name == GLOBAL_ACCOUNT;
    if is_reserved {
        reader.error(&node.at, format!("{name:?} is a Reserved Account"));
    }
    is_reserved
}

/// Accounts that exports and imports name must be there.
fn check_references(reader: &mut Reader<'_>, node: &Node, account: &AccountOptions, names: &HashSet<&str>) {
    let mut missing = Vec::new();
    for export in &account.exports {
        let kind = match export.kind {
            ExportKind::Stream => "stream export",
            ExportKind::Service { .. } => "service export",
        };
        let named = export.accounts.iter().flatten();
        missing.extend(
            named
                .filter(|name| !names.contains(name.as_str()))
                .map(|name| (name, kind)),
        );
    }
    for import in &account.imports {
        let kind = match import.kind {
            ImportKind::Stream { .. } => "stream import",
            ImportKind::Service { .. } => "service import",
        };
        if !names.contains(import.account.as_str()) {
            missing.push((&import.account, kind));
        }
    }
    for (name, kind) in missing {
        reader.error(&node.at, format!("{name:?} account not defined for {kind}"));
    }
}

fn account(reader: &mut Reader<'_>, name: &str, table: &Table) -> (AccountOptions, Vec<UserOptions>) {
    let mut account = AccountOptions {
        name: name.to_owned(),
        ..AccountOptions::default()
    };
    let mut users = Vec::new();
    for (key, item) in table.iter() {
        match key.to_ascii_lowercase().as_str() {
            "nkey" => match reader.string(key, item) {
                Some(nkey) if PublicKey::parse(&nkey, KeyKind::Account).is_some() => {
                    account.nkey = Some(nkey)
                }
                Some(nkey) => {
                    reader.error(
                        &item.at,
                        format!("Not a valid public nkey for an account: {nkey:?}"),
                    );
                }
                None => {}
            },
            "imports" => account.imports = items(reader, "imports", item, import),
            "exports" => account.exports = items(reader, "exports", item, export),
            "jetstream" => account.jetstream = jetstream(reader, item),
            "users" => users = read_users(reader, item, name).unwrap_or_default(),
            "default_permissions" => account.default_permissions = permissions::read(reader, item),
            "mappings" | "maps" => account.mappings = mappings(reader, item),
            "limits" => account.limits = limits(reader, item),
            "msg_trace" | "trace_dest" => {
                reader.warn(item, "messages are not traced; msg_trace has no effect")
            }
            _ => reader.unknown(key, item),
        }
    }
    apply_defaults(&mut users, account.default_permissions.as_ref());
    (account, users)
}

fn items<T>(
    reader: &mut Reader<'_>,
    key: &str,
    node: &Node,
    read: impl Fn(&mut Reader<'_>, &Node, &Table) -> Option<T>,
) -> Vec<T> {
    let mut found = Vec::new();
    for item in reader.array(key, node).unwrap_or_default() {
        if let Some(table) = reader.map(&format!("an item of {key}"), item) {
            found.extend(read(reader, item, table));
        }
    }
    found
}

fn limits(reader: &mut Reader<'_>, node: &Node) -> AccountLimits {
    let mut limits = AccountLimits::default();
    let Some(table) = reader.map("account limits", node) else {
        return limits;
    };
    for (key, item) in table.iter() {
        match key.to_ascii_lowercase().as_str() {
            "max_connections" | "max_conn" => limits.max_connections = reader.limit(key, item).flatten(),
            "max_subscriptions" | "max_subs" => limits.max_subscriptions = reader.limit(key, item).flatten(),
            "max_payload" | "max_pay" => limits.max_payload_bytes = reader.limit(key, item).flatten(),
            "max_leafnodes" | "max_leafs" => {
                // No leaf nodes connect here, however many are allowed.
                reader.int(key, item);
            }
            _ if item.is_referenced => {}
            _ => reader.error(&item.at, format!("Unknown field {key:?} parsing account limits")),
        }
    }
    limits
}

/// What an account may use of JetStream.
fn jetstream(reader: &mut Reader<'_>, node: &Node) -> Option<AccountJetStream> {
    let table = match &node.value {
        Value::Bool(enabled) => return enabled.then(AccountJetStream::default),
        Value::String(text) => {
            return match text.to_ascii_lowercase().as_str() {
                "enabled" | "enable" => Some(AccountJetStream::default()),
                "disabled" | "disable" => None,
                _ => {
                    let reason = format!("Expected 'enabled' or 'disabled' for string value, got '{text}'");
                    reader.error(&node.at, reason);
                    None
                }
            };
        }
        Value::Map(table) => table,
        _ => return reader.wrong_type("jetstream", node, "a map, a boolean or a string"),
    };
    let mut tier = JetStreamTier::default();
    for (key, item) in table.iter() {
        let into = match key.to_ascii_lowercase().as_str() {
            "max_memory" | "max_mem" | "mem" | "memory" => &mut tier.max_memory_bytes,
            "max_store" | "max_file" | "max_disk" | "store" | "disk" => &mut tier.max_file_bytes,
            "max_streams" | "streams" => &mut tier.max_streams,
            "max_consumers" | "consumers" => &mut tier.max_consumers,
            "max_ack_pending" => &mut tier.max_ack_pending,
            "mem_max_stream_bytes" | "memory_max_stream_bytes" => &mut tier.memory_max_stream_bytes,
            "disk_max_stream_bytes" | "store_max_stream_bytes" => &mut tier.file_max_stream_bytes,
            "max_bytes_required" | "max_stream_bytes" | "max_bytes" => {
                reader.put_bool(key, item, &mut tier.max_bytes_required);
                continue;
            }
            "cluster_traffic" => {
                reader.string(key, item);
                continue;
            }
            _ => {
                reader.unknown(key, item);
                continue;
            }
        };
        *into = reader.limit(key, item).flatten();
    }
    Some(AccountJetStream { tier })
}

fn export(reader: &mut Reader<'_>, node: &Node, table: &Table) -> Option<ExportOptions> {
    let (mut stream, mut service) = (None, None);
    let (mut response, mut threshold, mut latency, mut allow_trace) = (None, None, None, None);
    let (mut accounts, mut account_token_position) = (None, 0);
    for (key, item) in table.iter() {
        match key.to_ascii_lowercase().as_str() {
            "stream" => stream = reader.string(key, item),
            "service" => service = reader.string(key, item),
            "response" | "response_type" => response = response_type(reader, key, item),
            "threshold" | "response_threshold" | "response_max_time" | "response_time" => {
                let text = reader.string(key, item)?;
                threshold = go_duration(&text)
                    .ok()
                    .and_then(|nanos| u64::try_from(nanos).ok());
                if threshold.is_none() {
                    let reason =
                        format!("Expected response threshold to be a parseable time duration, got {text:?}");
                    reader.error(&item.at, reason);
                }
            }
            "accounts" => accounts = reader.strings(key, item),
            "latency" => latency = read_latency(reader, item),
            "account_token_position" => account_token_position = reader.count(key, item).unwrap_or(0),
            "allow_trace" => allow_trace = reader.bool(key, item),
            _ => reader.unknown(key, item),
        }
    }
    let (subject, kind) = match (stream, service) {
        (Some(_), Some(service)) => {
            reader.error(
                &node.at,
                format!("Detected service {service:?} but already saw a stream"),
            );
            return None;
        }
        (Some(subject), None) => {
            let directives = [
                ("response", response.is_some() || threshold.is_some()),
                ("latency", latency.is_some()),
                ("allow_trace", allow_trace.is_some()),
            ];
            for (name, _) in directives.iter().filter(|(_, is_set)| *is_set) {
                reader.error(&node.at, format!("Detected {name} directive on non-service"));
            }
            (subject, ExportKind::Stream)
        }
        (None, Some(subject)) => {
            let kind = ExportKind::Service {
                response: response.unwrap_or_default(),
                threshold: threshold.map(std::time::Duration::from_nanos),
                latency,
                allow_trace: allow_trace.unwrap_or_default(),
            };
            (subject, kind)
        }
        (None, None) => return None,
    };
    check_subject(reader, node, &subject)?;
    Some(ExportOptions {
        subject,
        kind,
        accounts,
        account_token_position,
    })
}

fn check_subject(reader: &mut Reader<'_>, node: &Node, text: &str) -> Option<()> {
    if subject::is_valid_filter(text) {
        return Some(());
    }
    reader.error(&node.at, format!("Subject {text:?} is not a valid subject"));
    None
}

fn response_type(reader: &mut Reader<'_>, key: &str, node: &Node) -> Option<ResponseType> {
    let text = reader.string(key, node)?;
    match text.to_ascii_lowercase().as_str() {
        "single" | "singleton" => Some(ResponseType::Singleton),
        "stream" => Some(ResponseType::Stream),
        "chunk" | "chunked" => Some(ResponseType::Chunked),
        _ => {
            reader.error(&node.at, format!("Unknown response type: {text:?}"));
            None
        }
    }
}

/// A subject, or a map of a subject and how often.
fn read_latency(reader: &mut Reader<'_>, node: &Node) -> Option<ServiceLatency> {
    let table = match &node.value {
        Value::String(subject) => {
            return Some(ServiceLatency {
                subject: subject.clone(),
                sampling: LatencySampling::Percent(100),
            });
        }
        Value::Map(table) => table,
        _ => return reader.wrong_type("latency", node, "a map or a string"),
    };
    let percent = match table.get("sampling").map(|item| &item.value) {
        None => Some(100),
        Some(Value::Int(percent)) => Some(*percent),
        Some(Value::String(text)) if text.trim().eq_ignore_ascii_case("headers") => None,
        Some(Value::String(text)) => Some(text.trim_end_matches('%').parse().unwrap_or(-1)),
        Some(_) => Some(-1),
    };
    let sampling = match percent {
        None => LatencySampling::Headers,
        Some(percent @ 1..=100) => LatencySampling::Percent(u8::try_from(percent).unwrap_or(100)),
        Some(_) => {
            reader.error(&node.at, "bad sampling percentage, should be 1-100");
            return None;
        }
    };
    let Some(item) = table.get("subject") else {
        reader.error(&node.at, "Latency subject required, but missing");
        return None;
    };
    let subject = reader.string("subject", item)?;
    Some(ServiceLatency { subject, sampling })
}

fn import(reader: &mut Reader<'_>, node: &Node, table: &Table) -> Option<ImportOptions> {
    let (mut stream, mut service) = (None, None);
    let (mut prefix, mut to, mut share, mut allow_trace) = (None, None, false, None);
    for (key, item) in table.iter() {
        match key.to_ascii_lowercase().as_str() {
            "stream" => stream = source(reader, "Stream", item),
            "service" => service = source(reader, "Service", item),
            "prefix" => prefix = reader.string(key, item),
            "to" => to = reader.string(key, item),
            "share" => reader.put_bool(key, item, &mut share),
            "allow_trace" => allow_trace = reader.bool(key, item),
            _ => reader.unknown(key, item),
        }
    }
    let ((account, subject), kind) = match (stream, service) {
        (Some(_), Some(_)) => {
            reader.error(&node.at, "Detected service but already saw a stream");
            return None;
        }
        (Some(_), None) if prefix.is_some() && to.is_some() => {
            reader.error(
                &node.at,
                "Stream import can not have a 'prefix' and a 'to' property",
            );
            return None;
        }
        (Some(from), None) => {
            let allow_trace = allow_trace.unwrap_or_default();
            (
                from,
                ImportKind::Stream {
                    prefix,
                    to,
                    allow_trace,
                },
            )
        }
        (None, Some(_)) if allow_trace.is_some() => {
            reader.error(&node.at, "Detected allow_trace directive on a non-stream");
            return None;
        }
        (None, Some(from)) => {
            let to = to.unwrap_or_else(|| from.1.clone());
            (from, ImportKind::Service { to, share })
        }
        (None, None) => return None,
    };
    check_subject(reader, node, &subject)?;
    Some(ImportOptions {
        account,
        subject,
        kind,
    })
}

/// `{ account, subject }`
fn source(reader: &mut Reader<'_>, what: &str, node: &Node) -> Option<(String, String)> {
    let Value::Map(table) = &node.value else {
        let kind = node.value.kind();
        reader.error(
            &node.at,
            format!("{what} entry should be an account map, got {kind}"),
        );
        return None;
    };
    let (mut account, mut subject) = (String::new(), String::new());
    for (key, item) in table.iter() {
        match key.to_ascii_lowercase().as_str() {
            "account" => reader.put_string(key, item, &mut account),
            "subject" => reader.put_string(key, item, &mut subject),
            _ => reader.unknown(key, item),
        }
    }
    if account.is_empty() || subject.is_empty() {
        reader.error(&node.at, "Expect an account name and a subject");
        return None;
    }
    Some((account, subject))
}

/// Subjects that are published under other names.
pub(super) fn mappings(reader: &mut Reader<'_>, node: &Node) -> Vec<SubjectMapping> {
    let mut mappings = Vec::new();
    let Some(table) = reader.map("mappings", node) else {
        return mappings;
    };
    for (source, item) in table.iter() {
        if check_subject(reader, item, source).is_none() {
            continue;
        }
        let destinations: Option<Vec<MapDestination>> = match &item.value {
            Value::String(subject) => Some(vec![MapDestination {
                subject: subject.clone(),
                weight: 100,
                cluster: None,
            }]),
            Value::Array(items) => items.iter().map(|item| destination(reader, item)).collect(),
            _ => destination(reader, item).map(|one| vec![one]),
        };
        let Some(destinations) = destinations else {
            continue;
        };
        let total: u32 = destinations.iter().map(|one| u32::from(one.weight)).sum();
        if total > 100 {
            reader.error(
                &item.at,
                format!("Error adding mapping for {source:?} : total weight needs to be <= 100"),
            );
            continue;
        }
        mappings.push(SubjectMapping {
            source: source.to_owned(),
            destinations,
        });
    }
    mappings
}

fn destination(reader: &mut Reader<'_>, node: &Node) -> Option<MapDestination> {
    let Value::Map(table) = &node.value else {
        reader.error(&node.at, "Expected an entry for the mapping destination");
        return None;
    };
    let (mut subject, mut weight, mut cluster) = (String::new(), None, None);
    for (key, item) in table.iter() {
        match key.to_ascii_lowercase().as_str() {
            "dest" | "destination" => reader.put_string(key, item, &mut subject),
            "weight" => {
                weight = match &item.value {
                    Value::Int(weight) => u8::try_from(*weight).ok(),
                    Value::String(text) => text.trim_end_matches('%').parse().ok(),
                    _ => None,
                }
                .filter(|weight| *weight <= 100);
                if weight.is_none() {
                    reader.error(&item.at, "Invalid weight for mapping destination: it is 0 to 100");
                    return None;
                }
            }
            "cluster" => cluster = reader.string(key, item),
            _ => reader.error(&item.at, format!("Unknown field {key:?} for mapping destination")),
        }
    }
    let Some(weight) = weight else {
        reader.error(
            &node.at,
            format!("Missing weight for mapping destination {subject:?}"),
        );
        return None;
    };
    Some(MapDestination {
        subject,
        weight,
        cluster,
    })
}
