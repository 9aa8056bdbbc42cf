//! Accounts as their tokens describe them, in the words of a configuration.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::Value;

use super::is_revoked;
use crate::auth::jwt::{
    AccountBody, AccountLimitClaims, ActivationBody, Claims, ExportClaim, ImportClaim, JetStreamClaims,
    LatencyClaim, MappingClaim, PermissionClaims, SigningKey, SubjectClaims,
};
use crate::options::{
    AccountJetStream, AccountLimits, AccountOptions, ExportKind, ExportOptions, ImportKind, ImportOptions,
    JetStreamTier, LatencySampling, MapDestination, Permissions, ResponsePermission, ResponseType,
    ServiceLatency, SubjectMapping, SubjectPermissions,
};
use crate::subject;

/// The tier of streams with one replica.
const TIER_OF_ONE: &str = "R1";
/// What stands for nobody: no account is called so.
const NOBODY: &str = "";

type AllClaims = BTreeMap<String, Claims<AccountBody>>;

/// The accounts as a file would describe them at this time, in seconds since 1970.
pub(super) fn describe(claims: &AllClaims, now: i64) -> Vec<AccountOptions> {
    let describe = |(key, own): (&String, &Claims<AccountBody>)| AccountOptions {
        name: key.clone(),
        nkey: Some(key.clone()),
        jetstream: jetstream(&own.body.limits),
        exports: own
            .body
            .exports
            .iter()
            .map(|claim| export(claims, own, claim, now))
            .collect(),
        imports: own.body.imports.iter().filter_map(import).collect(),
        mappings: own.body.mappings.iter().map(mapping).collect(),
        limits: limits(&own.body.limits),
        default_permissions: permissions(&own.body.default_permissions),
        ..AccountOptions::default()
    };
    claims.iter().map(describe).collect()
}

/// When an activation ends or begins to hold the next time after `now`, in seconds since 1970.
pub(super) fn next_change(claims: &AllClaims, now: i64) -> Option<i64> {
    let imports = claims.values().flat_map(|own| &own.body.imports);
    let activations = imports.filter_map(|import| Claims::<ActivationBody>::decode(&import.token).ok());
    activations
        .flat_map(|activation| [activation.expires, activation.not_before])
        .filter(|at| *at > now)
        .min()
}

/// What these permissions are; none: everything.
pub(crate) fn permissions(claims: &PermissionClaims) -> Option<Permissions> {
    let subjects = |claims: &SubjectClaims| {
        let is_empty = claims.allow.is_empty() && claims.deny.is_empty();
        (!is_empty).then(|| SubjectPermissions {
            allow: (!claims.allow.is_empty()).then(|| claims.allow.clone()),
            deny: claims.deny.clone(),
        })
    };
    let responses = claims.resp.map(|claims| {
        let default = ResponsePermission::default();
        ResponsePermission {
            // Nought is the default, a negative number any.
            max_msgs: match claims.max {
                0 => default.max_msgs,
                max => u64::try_from(max).ok(),
            },
            expires: match claims.ttl {
                0 => default.expires,
                ttl => u64::try_from(ttl).ok().map(Duration::from_nanos),
            },
        }
    });
    let mut permissions = Permissions {
        publish: subjects(&claims.publish),
        subscribe: subjects(&claims.subscribe),
        responses,
    };
    if responses.is_some() {
        // Answers alone are then allowed, unless more is.
        permissions
            .publish
            .get_or_insert_default()
            .allow
            .get_or_insert_default();
    }
    (permissions != Permissions::default()).then_some(permissions)
}

/// A limit of which a negative number is none.
fn limit(max: i64) -> Option<u64> {
    u64::try_from(max).ok()
}

/// A limit of which nought or a negative number is none.
fn positive(max: i64) -> Option<u64> {
    limit(max).filter(|max| *max > 0)
}

fn limits(claims: &AccountLimitClaims) -> AccountLimits {
    AccountLimits {
        max_connections: limit(claims.conn),
        max_subscriptions: limit(claims.subs),
        max_payload_bytes: limit(claims.payload),
    }
}

fn jetstream(claims: &AccountLimitClaims) -> Option<AccountJetStream> {
    let tier: &JetStreamClaims = match claims.tiered_limits.get(TIER_OF_ONE) {
        Some(tier) => tier,
        None if claims.tiered_limits.is_empty() => &claims.jetstream,
        None => return None,
    };
    let is_enabled = tier.mem_storage != 0 || tier.disk_storage != 0;
    is_enabled.then(|| AccountJetStream {
        tier: JetStreamTier {
            max_memory_bytes: limit(tier.mem_storage),
            max_file_bytes: limit(tier.disk_storage),
            max_streams: positive(tier.streams),
            max_consumers: positive(tier.consumer),
            max_ack_pending: positive(tier.max_ack_pending),
            memory_max_stream_bytes: positive(tier.mem_max_stream_bytes),
            file_max_stream_bytes: positive(tier.disk_max_stream_bytes),
            max_bytes_required: tier.max_bytes_required,
        },
    })
}

fn mapping((source, destinations): (&String, &Vec<MappingClaim>)) -> SubjectMapping {
    let destination = |claim: &MappingClaim| MapDestination {
        subject: claim.subject.clone(),
        weight: if claim.weight == 0 { 100 } else { claim.weight },
        cluster: (!claim.cluster.is_empty()).then(|| claim.cluster.clone()),
    };
    SubjectMapping {
        source: source.clone(),
        destinations: destinations.iter().map(destination).collect(),
    }
}

fn import(claim: &ImportClaim) -> Option<ImportOptions> {
    let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    let local = some(&claim.local_subject);
    // In the older form of a service, `to` is its name in the other account, and `subject` is the name here.
    let (subject, kind) = match (claim.kind.as_str(), local) {
        ("stream", local) => {
            let prefix = if local.is_some() { None } else { some(&claim.to) };
            let kind = ImportKind::Stream {
                prefix,
                to: local,
                allow_trace: claim.allow_trace,
            };
            (claim.subject.clone(), kind)
        }
        ("service", Some(to)) => {
            let share = claim.share;
            (claim.subject.clone(), ImportKind::Service { to, share })
        }
        ("service", None) => {
            let kind = ImportKind::Service {
                to: claim.subject.clone(),
                share: claim.share,
            };
            (some(&claim.to).unwrap_or_else(|| claim.subject.clone()), kind)
        }
        _ => return None,
    };
    Some(ImportOptions {
        account: claim.account.clone(),
        subject,
        kind,
    })
}

/// How answers are measured; none where that is not understood.
fn latency(claim: &LatencyClaim) -> Option<ServiceLatency> {
    let percent = match &claim.sampling {
        Value::Number(percent) => percent.as_u64(),
        Value::String(text) if text.eq_ignore_ascii_case("headers") => Some(0),
        Value::String(text) => text.trim_end_matches('%').parse().ok(),
        _ => None,
    };
    let sampling = match percent? {
        0 => LatencySampling::Headers,
        percent => LatencySampling::Percent(u8::try_from(percent).ok().filter(|percent| *percent <= 100)?),
    };
    subject::is_valid_literal(&claim.results).then(|| ServiceLatency {
        subject: claim.results.clone(),
        sampling,
    })
}

fn export(all: &AllClaims, own: &Claims<AccountBody>, claim: &ExportClaim, now: i64) -> ExportOptions {
    let kind = if claim.kind == "service" {
        ExportKind::Service {
            response: match claim.response_type.as_str() {
                "Stream" => ResponseType::Stream,
                "Chunked" => ResponseType::Chunked,
                _ => ResponseType::Singleton,
            },
            threshold: positive(claim.response_threshold).map(Duration::from_nanos),
            latency: claim.service_latency.as_ref().and_then(latency),
            allow_trace: false,
        }
    } else {
        ExportKind::Stream
    };
    let is_activated = |(key, other): &(&String, &Claims<AccountBody>)| {
        let mut imports = other.body.imports.iter();
        imports.any(|import| import.account == own.subject && is_activated(own, claim, import, key, now))
    };
    let accounts = claim.token_req.then(|| {
        let mut activated: Vec<String> = all
            .iter()
            .filter(is_activated)
            .map(|(key, _)| key.clone())
            .collect();
        // An empty list would be for all.
        activated.push(NOBODY.to_owned());
        activated
    });
    ExportOptions {
        subject: claim.subject.clone(),
        kind,
        accounts,
        account_token_position: claim.account_token_position as usize,
    }
}

/// Whether an import brings the offering account's leave. Source: nats-server, `checkActivation`.
fn is_activated(
    own: &Claims<AccountBody>,
    export: &ExportClaim,
    import: &ImportClaim,
    importer: &str,
    now: i64,
) -> bool {
    let Ok(activation) = Claims::<ActivationBody>::decode(&import.token) else {
        return false;
    };
    let is_own_key = |key: &SigningKey| match key {
        SigningKey::Plain(key) | SigningKey::Scoped { key, .. } => *key == activation.issuer,
    };
    let is_trusted = match activation.body.issuer_account.as_str() {
        "" => activation.issuer == own.subject,
        issuer => {
            issuer == own.subject
                && (activation.issuer == own.subject || own.body.signing_keys.iter().any(is_own_key))
        }
    };
    let is_for = |subject: &str| subject::is_subset(subject, &export.subject);
    is_trusted
        && activation.subject == importer
        && activation.body.kind == import.kind
        && export.kind == import.kind
        && is_for(&activation.body.subject)
        && subject::is_subset(remote(import), &activation.body.subject)
        && activation.holds_at(now)
        && !is_revoked(&export.revocations, &activation.subject, activation.issued_at)
}

/// What an import is called in the offering account.
fn remote(import: &ImportClaim) -> &str {
    let is_old_service = import.kind == "service" && import.local_subject.is_empty() && !import.to.is_empty();
    if is_old_service {
        &import.to
    } else {
        &import.subject
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sampling_is_a_share_or_left_to_headers() {
        let sampling = |text: &str, results: &str| {
            let claim = LatencyClaim {
                sampling: serde_json::from_str(text).unwrap(),
                results: results.to_owned(),
            };
            latency(&claim).map(|latency| latency.sampling)
        };
        assert_eq!(sampling("30", "lat"), Some(LatencySampling::Percent(30)));
        assert_eq!(sampling("\"headers\"", "lat"), Some(LatencySampling::Headers));
        for (text, results) in [
            ("101", "lat"),
            ("-1", "lat"),
            ("null", "lat"),
            ("30", "lat.*"),
            ("30", ""),
        ] {
            assert_eq!(sampling(text, results), None, "{text} {results}");
        }
    }
}
