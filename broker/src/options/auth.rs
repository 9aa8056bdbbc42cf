//! Who may connect, and what they may do: accounts, users, permissions, operators.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::Secret;

/// Who may connect, and what they may do.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct AuthOptions {
    /// There is an `authorization` block, even if it names nobody.
    pub is_defined: bool,
    /// The one user and password of an `authorization` block.
    pub single_user: Option<(String, Secret)>,
    /// The one token of an `authorization` block.
    pub token: Option<Secret>,
    /// Users of the `authorization` block and of all accounts. Names and nkeys are unique.
    pub users: Vec<UserOptions>,
    /// How long clients have to authenticate; none: 2 s, or with TLS a second more than its timeout.
    pub timeout: Option<Duration>,
    /// Accounts, in the file's order. `$G` is among them only if something is said about it.
    pub accounts: Vec<AccountOptions>,
    /// The system account; none: `$SYS`.
    pub system_account: Option<String>,
    /// There is none.
    pub no_system_account: bool,
    /// The user of clients that name none.
    pub no_auth_user: Option<String>,
    /// Operator mode, if there is an operator or a trusted key.
    pub operator: Option<OperatorOptions>,
    /// Authentication by a service.
    pub callout: Option<AuthCallout>,
}

/// One user.
#[derive(Clone, Debug, PartialEq)]
pub struct UserOptions {
    /// How it shows who it is.
    pub credential: Credential,
    /// Its account: `$G` for a user of the `authorization` block.
    pub account: String,
    /// What it may do, the defaults included; none: everything.
    pub permissions: Option<Permissions>,
    /// How it may connect; empty: in any way.
    pub connection_types: BTreeSet<ConnectionType>,
}

/// How a user shows who it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Credential {
    /// By a password: in clear, or hashed with bcrypt (`$2a$…`) or argon2id (`$argon2id$…`). With `verify_and_map` the name
    /// is that of a certificate, and the password may be empty.
    Password {
        /// The user's name.
        user: String,
        /// The password.
        password: Secret,
    },
    /// By signing the nonce: the public key, `U…`.
    Nkey(String),
}

/// A way to connect, as in `allowed_connection_types`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ConnectionType {
    /// `STANDARD`
    Standard,
    /// `WEBSOCKET`
    Websocket,
    /// `LEAFNODE`
    LeafNode,
    /// `LEAFNODE_WS`
    LeafNodeWs,
    /// `MQTT`
    Mqtt,
    /// `MQTT_WS`
    MqttWs,
    /// `IN_PROCESS`
    InProcess,
}

impl ConnectionType {
    /// The way of this name, in either case; none: there is no such way.
    pub fn of_name(name: &str) -> Option<Self> {
        Some(match name.to_ascii_uppercase().as_str() {
            "STANDARD" => Self::Standard,
            "WEBSOCKET" => Self::Websocket,
            "LEAFNODE" => Self::LeafNode,
            "LEAFNODE_WS" => Self::LeafNodeWs,
            "MQTT" => Self::Mqtt,
            "MQTT_WS" => Self::MqttWs,
            "IN_PROCESS" => Self::InProcess,
            _ => return None,
        })
    }
}

/// What a user may do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Permissions {
    /// Subjects it may publish to.
    pub publish: Option<SubjectPermissions>,
    /// Subjects it may subscribe to, each maybe with a space and a queue group.
    pub subscribe: Option<SubjectPermissions>,
    /// It may answer whatever it is asked. `publish.allow` is then at least an empty list.
    pub responses: Option<ResponsePermission>,
}

/// Subjects that are allowed and denied; a denial is stronger.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SubjectPermissions {
    /// None: all. Empty: nothing.
    pub allow: Option<Vec<String>>,
    /// What is not allowed after all.
    pub deny: Vec<String>,
}

/// How answers are allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResponsePermission {
    /// Answers to one request; none: any number.
    pub max_msgs: Option<u64>,
    /// After which a request can't be answered any more; none: never.
    pub expires: Option<Duration>,
}

impl Default for ResponsePermission {
    fn default() -> Self {
        Self {
            max_msgs: Some(1),
            expires: Some(Duration::from_secs(120)),
        }
    }
}

/// One account.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct AccountOptions {
    /// Its name.
    pub name: String,
    /// Its public key, `A…`.
    pub nkey: Option<String>,
    /// What it may use of JetStream; none: nothing.
    pub jetstream: Option<AccountJetStream>,
    /// What it offers to others.
    pub exports: Vec<ExportOptions>,
    /// What it takes from others.
    pub imports: Vec<ImportOptions>,
    /// Subjects that are published under other names.
    pub mappings: Vec<SubjectMapping>,
    /// Its limits.
    pub limits: AccountLimits,
    /// What users have that say nothing of their own; they have been given it.
    pub default_permissions: Option<Permissions>,
    /// Where messages are traced to, with the share of them in percent.
    pub trace_destination: Option<(String, u8)>,
}

/// An account's limits; none: no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AccountLimits {
    /// Connections at a time.
    pub max_connections: Option<u64>,
    /// Subscriptions of one connection.
    pub max_subscriptions: Option<u64>,
    /// Bytes of a message.
    pub max_payload_bytes: Option<u64>,
}

/// What an account may use of JetStream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AccountJetStream {
    /// The limits of the account.
    pub tier: JetStreamTier,
}

/// Limits of JetStream; none: no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct JetStreamTier {
    /// Bytes in memory.
    pub max_memory_bytes: Option<u64>,
    /// Bytes on disk.
    pub max_file_bytes: Option<u64>,
    /// Streams.
    pub max_streams: Option<u64>,
    /// Consumers.
    pub max_consumers: Option<u64>,
    /// Unacknowledged messages of one consumer.
    pub max_ack_pending: Option<u64>,
    /// Bytes of one memory stream.
    pub memory_max_stream_bytes: Option<u64>,
    /// Bytes of one file stream.
    pub file_max_stream_bytes: Option<u64>,
    /// Streams must say how large they may become.
    pub max_bytes_required: bool,
}

/// What an account offers.
#[derive(Clone, Debug, PartialEq)]
pub struct ExportOptions {
    /// The subject.
    pub subject: String,
    /// A stream of messages, or a service.
    pub kind: ExportKind,
    /// The accounts that may import it; none: all.
    pub accounts: Option<Vec<String>>,
    /// The token of the subject, from 1, that must be the importing account; 0: none.
    pub account_token_position: usize,
}

/// What is exported.
#[derive(Clone, Debug, PartialEq)]
pub enum ExportKind {
    /// Messages.
    Stream,
    /// Answers.
    Service {
        /// How many answers to a request.
        response: ResponseType,
        /// After which a request counts as unanswered.
        threshold: Option<Duration>,
        /// Where its latency is published.
        latency: Option<ServiceLatency>,
        /// Message traces may enter.
        allow_trace: bool,
    },
}

/// How many answers a service gives to a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ResponseType {
    /// One.
    #[default]
    Singleton,
    /// Many.
    Stream,
    /// One, in parts.
    Chunked,
}

/// How a service's latency is measured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceLatency {
    /// Where it is published.
    pub subject: String,
    /// How often.
    pub sampling: LatencySampling,
}

/// How often a latency is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LatencySampling {
    /// Of so many requests in a hundred.
    Percent(u8),
    /// Where a request's headers ask for it.
    Headers,
}

/// What an account takes from another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImportOptions {
    /// The other account.
    pub account: String,
    /// The subject there.
    pub subject: String,
    /// A stream of messages, or a service.
    pub kind: ImportKind,
}

/// What is imported.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ImportKind {
    /// Messages.
    Stream {
        /// Comes before the subject here.
        prefix: Option<String>,
        /// The subject here.
        to: Option<String>,
        /// Message traces may leave.
        allow_trace: bool,
    },
    /// Answers.
    Service {
        /// The subject here.
        to: String,
        /// The service is told who asks.
        share: bool,
    },
}

/// A subject that is published under other names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubjectMapping {
    /// The subject, maybe with wildcards.
    pub source: String,
    /// Where it goes, by weight; what is missing to 100 stays as it is.
    pub destinations: Vec<MapDestination>,
}

/// One of a mapping's destinations.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MapDestination {
    /// The subject, with the source's tokens as `$1` or `{{wildcard(1)}}`.
    pub subject: String,
    /// Of a hundred.
    pub weight: u8,
    /// Only in this cluster.
    pub cluster: Option<String>,
}

/// Operator mode.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OperatorOptions {
    /// JWTs of operators, as they are.
    pub operators: Vec<String>,
    /// Public keys of operators, `O…`.
    pub trusted_keys: Vec<String>,
    /// A resolver is named: `MEMORY`, whose accounts are those of `preload`.
    pub has_resolver: bool,
    /// Account JWTs by public key.
    pub preload: BTreeMap<String, String>,
    /// Accounts that must be known by the resolver.
    pub pinned_accounts: BTreeSet<String>,
    /// The JWT of clients that have none.
    pub default_sentinel: Option<String>,
}

/// Authentication by a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuthCallout {
    /// The public account key that signs its answers.
    pub issuer: String,
    /// Its account.
    pub account: String,
    /// Users that do not go through it.
    pub auth_users: Vec<String>,
    /// The public curve key that requests are encrypted for.
    pub xkey: Option<String>,
    /// Accounts that it may place users in; empty: all.
    pub allowed_accounts: Vec<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ways_to_connect_have_names() {
        assert_eq!(
            ConnectionType::of_name("websocket"),
            Some(ConnectionType::Websocket)
        );
        assert_eq!(
            ConnectionType::of_name("IN_PROCESS"),
            Some(ConnectionType::InProcess)
        );
        assert_eq!(ConnectionType::of_name("INPROCESS"), None);
    }
}
