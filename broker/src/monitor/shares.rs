//! What an account shares, as `/accountz` tells of it. Source: nats-server, `accountInfo`.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use crate::accounts::shown::{Shown, ShownImport};
use crate::options::{
    ExportKind, ExportOptions, LatencySampling, MapDestination, ResponseType, SubjectMapping,
};
use crate::sharing::numbered;

/// What the system account offers to all: the subject and how it answers.
const SYSTEM_EXPORTS: [(&str, &str); 4] = [
    ("$SYS.DEBUG.SUBSCRIBERS", "Singleton"),
    ("$SYS.REQ.ACCOUNT.*.CONNZ", "Streamed"),
    ("$SYS.REQ.ACCOUNT.*.STATZ", "Streamed"),
    ("$SYS.REQ.USER.*.INFO", "Singleton"),
];
const JETSTREAM: &str = "$JS.API.>";

/// Who is told of.
pub(super) struct Subject<'a> {
    pub(super) account: &'a str,
    /// The system account, if there is one.
    pub(super) system: Option<&'a str>,
    /// The server has it at all.
    pub(super) has_jetstream: bool,
    pub(super) shown: &'a Shown,
}

impl Subject<'_> {
    /// The fields; none for what there is nothing of.
    pub(super) fn fields(&self) -> Map<String, Value> {
        let lists = [("exports", self.exports()), ("imports", self.imports())];
        let mut fields = Map::new();
        for (name, list) in lists {
            if !list.is_empty() {
                fields.insert(name.to_owned(), list.into());
            }
        }
        if !self.shown.mappings.is_empty() {
            fields.insert("mappings".to_owned(), mappings(&self.shown.mappings));
        }
        fields
    }

    fn exports(&self) -> Vec<Value> {
        let mut exports = Vec::new();
        if self.system == Some(self.account) {
            let jetstream = self.has_jetstream.then_some((JETSTREAM, "Singleton"));
            let own = SYSTEM_EXPORTS.into_iter().chain(jetstream);
            exports.extend(own.map(|(subject, response)| {
                json!({"subject": subject, "type": "service", "response_type": response})
            }));
        }
        exports.extend(self.shown.exports.iter().map(export));
        exports
    }

    fn imports(&self) -> Vec<Value> {
        let account = self.account;
        let own = self.system.map(|system| {
            let info = service(
                system,
                &format!("$SYS.REQ.USER.{account}.INFO"),
                "$SYS.REQ.USER.INFO",
                true,
            );
            let mut own = vec![info];
            if system == account {
                return own;
            }
            if self.has_jetstream {
                own.push(service(system, JETSTREAM, JETSTREAM, true));
            }
            for (what, local) in [
                ("CONNZ", "$SYS.REQ.ACCOUNT.PING.CONNZ"),
                ("CONNZ", "$SYS.REQ.SERVER.PING.CONNZ"),
                ("STATZ", "$SYS.REQ.ACCOUNT.PING.STATZ"),
            ] {
                let remote = format!("$SYS.REQ.ACCOUNT.{account}.{what}");
                own.push(service(system, &remote, local, false));
            }
            own
        });
        let mut imports = own.unwrap_or_default();
        imports.extend(self.shown.imports.iter().map(import));
        imports
    }
}

fn export(export: &ExportOptions) -> Value {
    let mut told = json!({"subject": export.subject, "type": "stream"});
    if let ExportKind::Service {
        response, latency, ..
    } = &export.kind
    {
        told["type"] = "service".into();
        told["response_type"] = match response {
            ResponseType::Singleton => "Singleton",
            ResponseType::Stream => "Streamed",
            ResponseType::Chunked => "Chunked",
        }
        .into();
        if let Some(latency) = latency {
            let sampling: Value = match latency.sampling {
                LatencySampling::Percent(share) => share.into(),
                LatencySampling::Headers => "headers".into(),
            };
            told["service_latency"] = json!({"sampling": sampling, "results": latency.subject});
        }
    }
    if let Some(accounts) = &export.accounts {
        // Nobody's name stands for an export that needs a token.
        let named: Vec<&String> = accounts.iter().filter(|name| !name.is_empty()).collect();
        if named.len() < accounts.len() {
            told["token_req"] = true.into();
        } else {
            told["approved_accounts"] = json!(named);
        }
    }
    told
}

fn import(import: &ShownImport) -> Value {
    if import.is_service {
        return service(&import.account, &import.remote, &import.local, import.share);
    }
    json!({
        "subject": import.remote, "account": &*import.account, "local_subject": import.local, "type": "stream",
        "invalid": false, "share": false, "tracking": false,
    })
}

fn service(account: &str, remote: &str, local: &str, share: bool) -> Value {
    json!({
        "subject": remote, "account": account, "to": local, "local_subject": local, "type": "service",
        "invalid": false, "share": share, "tracking": false,
    })
}

/// By source: each destination with the share in a hundred at which the next one begins, the server's own ones first.
fn mappings(mappings: &[SubjectMapping]) -> Value {
    let told = mappings.iter().map(|mapping| {
        let mut groups: BTreeMap<Option<&str>, Vec<(u8, String)>> = BTreeMap::from([(None, Vec::new())]);
        for MapDestination {
            subject,
            weight,
            cluster,
        } in &mapping.destinations
        {
            let group = groups.entry(cluster.as_deref()).or_default();
            group.push((*weight, subject.clone()));
        }
        let has_source = mapping.destinations.iter().any(|to| to.subject == mapping.source);
        let groups = groups.into_iter().flat_map(|(cluster, mut parts)| {
            let total = parts
                .iter()
                .fold(0_u8, |sum, (weight, _)| sum.saturating_add(*weight));
            if total < 100 && !has_source {
                parts.push((100 - total, numbered(&mapping.source)));
            }
            parts.sort_by_key(|(weight, _)| *weight);
            let mut end = 0_u8;
            parts.into_iter().map(move |(weight, subject)| {
                end = end.saturating_add(weight);
                let mut told = json!({"subject": subject, "weight": end});
                if let Some(cluster) = cluster {
                    told["cluster"] = cluster.into();
                }
                told
            })
        });
        (mapping.source.clone(), groups.collect::<Value>())
    });
    told.collect::<Map<String, Value>>().into()
}
