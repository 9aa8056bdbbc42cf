//! What the keys of a configuration mean. Everything that is wrong is told, not only the first.

mod accounts;
mod auth;
mod elsewhere;
mod jetstream;
mod operator;
mod permissions;
mod reader;
mod tls;
mod websocket;

use std::path::Path;

use self::reader::Reader;
use super::digest::digest;
use super::parse::{parse, unreadable};
use super::value::Node;
use super::{ConfigError, ConfigErrors, Sources};
use crate::options::{AccountOptions, GLOBAL_ACCOUNT, HostPort, Options};

/// Reads the configuration in `file`.
pub fn load(file: &Path, sources: &dyn Sources) -> Result<Options, ConfigErrors> {
    let text = sources
        .file(file)
        .map_err(|err| ConfigError::anywhere(unreadable(file, &err)))?;
    read(file, &text, sources)
}

/// Reads a configuration whose text is that of `file`.
pub fn read(file: &Path, text: &str, sources: &dyn Sources) -> Result<Options, ConfigErrors> {
    let table = parse(file, text, sources)?;
    let mut settings = Settings {
        reader: Reader::new(sources),
        options: Options {
            config_digest: digest(&table),
            ..Options::default()
        },
        top_store_dir: false,
    };
    if table.is_empty() {
        let warning = format!("{}: config has no values or is empty", file.display());
        settings.reader.warnings.push(warning);
    }
    for (key, node) in table.iter() {
        settings.set(key, node);
    }
    settings.finish()
}

/// Settings as they are read.
pub(super) struct Settings<'a> {
    reader: Reader<'a>,
    options: Options,
    /// `store_dir` was given.
    top_store_dir: bool,
}

impl Settings<'_> {
    fn set(&mut self, key: &str, node: &Node) {
        let name = key.to_ascii_lowercase();
        let is_known = self.set_address(&name, node)
            || self.set_log(&name, node)
            || self.set_limit(&name, node)
            || self.set_ends(&name, node)
            || self.set_auth(&name, node)
            || self.set_part(&name, node)
            || self.set_without_effect(&name, node);
        if !is_known {
            self.reader.unknown(key, node);
        }
    }

    /// Where it listens and what it is called.
    fn set_address(&mut self, key: &str, node: &Node) -> bool {
        let Self { reader, options, .. } = self;
        match key {
            "listen" => {
                if let Some((host, port)) = reader.listen(node) {
                    options.listen = address(host, port);
                }
            }
            "port" => {
                if let Some(port) = reader.port(key, node) {
                    options.listen.port = client_port(port);
                }
            }
            "host" | "net" => reader.put_string(key, node, &mut options.listen.host),
            "client_advertise" => options.client_advertise = reader.string(key, node),
            "server_name" => {
                options.server_name = reader.string(key, node);
                if options
                    .server_name
                    .as_deref()
                    .is_some_and(|name| name.contains(' '))
                {
                    reader.error(&node.at, "server name cannot contain spaces");
                }
            }
            "server_tags" => {
                let tags = reader.strings("tags", node).unwrap_or_default();
                options.tags = tags.iter().map(|tag| tag.trim().to_ascii_lowercase()).collect();
            }
            "server_metadata" => options.metadata = reader.string_map(key, node).unwrap_or_default(),
            "http" => {
                if let Some((host, port)) = reader.listen(node) {
                    options.monitor.http = monitor_address(host, port);
                }
            }
            "https" => {
                if let Some((host, port)) = reader.listen(node) {
                    options.monitor.https = monitor_address(host, port);
                }
            }
            "http_port" | "monitor_port" => {
                if let Some(port) = reader.port(key, node) {
                    let host = options.monitor.http.take().map(|at| at.host).unwrap_or_default();
                    options.monitor.http = monitor_address(host, port);
                }
            }
            "https_port" => {
                if let Some(port) = reader.port(key, node) {
                    let host = options.monitor.https.take().map(|at| at.host).unwrap_or_default();
                    options.monitor.https = monitor_address(host, port);
                }
            }
            "http_base_path" => {
                let path = reader.string(key, node).unwrap_or_default();
                options.monitor.base_path = base_path(&path);
            }
            "max_closed_clients" => options.monitor.max_closed_clients = reader.count(key, node),
            _ => return false,
        }
        true
    }

    fn set_log(&mut self, key: &str, node: &Node) -> bool {
        let Self { reader, options, .. } = self;
        let log = &mut options.log;
        match key {
            "debug" => reader.put_bool(key, node, &mut log.debug),
            "trace" | "trace_verbose" | "trace_headers" => reader.put_bool(key, node, &mut log.trace),
            "logtime" => reader.put_bool(key, node, &mut log.time),
            "logtime_utc" => reader.put_bool(key, node, &mut log.time_utc),
            "logfile" | "log_file" => log.file = reader.path(key, node),
            "logfile_size_limit" | "log_size_limit" => {
                log.size_limit_bytes = reader.limit(key, node).flatten().unwrap_or_default();
            }
            "logfile_max_num" | "log_max_num" => {
                log.files_max = reader.limit(key, node).flatten().unwrap_or_default();
            }
            "pidfile" | "pid_file" => options.process.pid_file = reader.path(key, node),
            "ports_file_dir" => options.process.ports_file_dir = reader.path(key, node),
            "syslog" => {
                if reader.bool(key, node) == Some(true) {
                    reader.warn(
                        node,
                        "syslog is not written to; lines go to the log file or to standard error",
                    );
                }
            }
            "remote_syslog" => {
                if reader.string(key, node).is_some() {
                    reader.warn(
                        node,
                        "remote_syslog is not written to; lines go to the log file or to standard error",
                    );
                }
            }
            _ => return false,
        }
        true
    }

    fn set_limit(&mut self, key: &str, node: &Node) -> bool {
        let Self { reader, options, .. } = self;
        let limits = &mut options.limits;
        match key {
            "max_control_line" => reader.put_bytes(key, node, &mut limits.max_control_line_bytes),
            "max_payload" => reader.put_bytes(key, node, &mut limits.max_payload_bytes),
            "max_pending" => reader.put_bytes(key, node, &mut limits.max_pending_bytes),
            "max_connections" | "max_conn" => {
                if let Some(max) = reader.limit(key, node) {
                    // Nought is no limit, as in nats-server.
                    limits.max_connections = size(max.filter(|max| *max > 0).unwrap_or(u64::MAX));
                }
            }
            "max_subscriptions" | "max_subs" => {
                if let Some(max) = reader.limit(key, node) {
                    limits.max_subscriptions = size(max.unwrap_or(0));
                }
            }
            "max_sub_tokens" | "max_subscription_tokens" => match reader.int(key, node) {
                Some(tokens @ 1..=255) => limits.max_subscription_tokens = size(tokens.unsigned_abs()),
                Some(256..) => reader.error(&node.at, format!("{key} value is too big")),
                Some(_) => reader.error(&node.at, format!("{key} value can not be negative")),
                None => {}
            },
            "ping_interval" => {
                if let Some(interval) = reader.duration(key, node).filter(|interval| !interval.is_zero()) {
                    limits.ping_interval = interval;
                }
            }
            "ping_max" => {
                if let Some(max) = reader.int(key, node).filter(|max| *max > 0) {
                    limits.ping_max = u32::try_from(max).unwrap_or(u32::MAX);
                }
            }
            "write_deadline" => {
                if let Some(deadline) = reader.duration(key, node).filter(|deadline| !deadline.is_zero()) {
                    limits.write_deadline = deadline;
                }
            }
            _ => return false,
        }
        true
    }

    /// How it ends, and what else has a value of its own.
    fn set_ends(&mut self, key: &str, node: &Node) -> bool {
        const LAME_DUCK_MIN: std::time::Duration = std::time::Duration::from_secs(30);
        let Self { reader, options, .. } = self;
        match key {
            "lame_duck_duration" => match reader.duration_text(key, node) {
                Some(duration) if duration < LAME_DUCK_MIN => {
                    let text = reader.text_of(node);
                    let reason = format!("invalid lame_duck_duration of {text}, minimum is 30 seconds");
                    reader.error(&node.at, reason);
                }
                Some(duration) => options.lame_duck.duration = duration,
                None => {}
            },
            "lame_duck_grace_period" => {
                if let Some(period) = reader.duration_text(key, node) {
                    options.lame_duck.grace_period = period;
                }
            }
            "no_header_support" => reader.put_bool(key, node, &mut options.no_header_support),
            "allow_non_tls" => reader.put_bool(key, node, &mut options.allow_non_tls),
            "default_js_domain" => {
                options.default_js_domain = reader.string_map(key, node).unwrap_or_default()
            }
            _ => return false,
        }
        true
    }

    /// Blocks.
    fn set_part(&mut self, key: &str, node: &Node) -> bool {
        match key {
            "tls" => self.options.tls = tls::read(&mut self.reader, node),
            "websocket" | "ws" => self.options.websocket = websocket::read(&mut self.reader, node),
            "jetstream" => jetstream::read(self, node),
            "store_dir" | "storedir" => {
                if self.options.jetstream.store_dir.is_some() {
                    self.reader.error(&node.at, "Duplicate 'store_dir' configuration");
                }
                self.options.jetstream.store_dir = self.reader.path(key, node);
                self.top_store_dir = true;
            }
            "accounts" => accounts::read(self, node),
            "mappings" | "maps" => {
                let mappings = accounts::mappings(&mut self.reader, node);
                self.options.auth.accounts.push(AccountOptions {
                    name: GLOBAL_ACCOUNT.to_owned(),
                    mappings,
                    ..AccountOptions::default()
                });
            }
            "cluster" => elsewhere::cluster(&mut self.reader, node),
            "gateway" => elsewhere::gateway(&mut self.reader, node),
            "leaf" | "leafnodes" => elsewhere::leafnodes(&mut self.reader, node),
            "mqtt" => elsewhere::mqtt(&mut self.reader, node),
            _ => return false,
        }
        true
    }

    /// What is known, and changes nothing here or can't be done.
    fn set_without_effect(&mut self, key: &str, node: &Node) -> bool {
        let reader = &mut self.reader;
        match key {
            "disable_sublist_cache" | "no_sublist_cache" | "no_fast_producer_stall" => {
                reader.bool(key, node);
            }
            "connect_error_reports" | "reconnect_error_reports" | "max_traced_msg_len" => {
                reader.int(key, node);
            }
            "feature_flags" => {
                reader.map(key, node);
            }
            "prof_port" | "prof_block_rate" => {
                if reader.int(key, node).is_some_and(|port| port != 0) {
                    reader.warn(node, &format!("{key} has no effect: there are no Go profiles"));
                }
            }
            "write_timeout" => match reader.string(key, node).as_deref() {
                Some("default" | "close") | None => {}
                Some("retry") => reader.warn(
                    node,
                    "write_timeout: retry has no effect: slow consumers are cut off",
                ),
                Some(_) => reader.error(&node.at, "write_timeout must be 'default', 'close' or 'retry'"),
            },
            "proxy_protocol" => {
                if reader.bool(key, node) == Some(true) {
                    reader.refuse(
                        node,
                        "proxy_protocol is not understood here; let the proxy pass TCP through",
                    );
                }
            }
            "proxies" => reader.refuse(
                node,
                "proxies can't be told apart here; let clients connect directly",
            ),
            "ocsp" | "ocsp_cache" => {
                if !matches!(node.value, super::Value::Bool(false)) {
                    reader.refuse(
                        node,
                        &format!("{key} is not done here; take it out, and renew certificates in time"),
                    );
                }
            }
            _ => return false,
        }
        true
    }

    fn finish(mut self) -> Result<Options, ConfigErrors> {
        self.check_auth();
        let Self {
            reader, mut options, ..
        } = self;
        if !reader.errors.is_empty() {
            return Err(ConfigErrors(reader.errors));
        }
        options.warnings = reader.warnings;
        Ok(options)
    }
}

/// A client port as it is meant: -1 is any free one, 0 the default.
fn client_port(port: i64) -> u16 {
    match port {
        0 => HostPort::default().port,
        port => u16::try_from(port).unwrap_or(0),
    }
}

fn address(host: String, port: i64) -> HostPort {
    HostPort {
        host,
        port: client_port(port),
    }
}

/// A monitoring address: port 0 is none, -1 any free one.
fn monitor_address(host: String, port: i64) -> Option<HostPort> {
    (port != 0).then(|| HostPort {
        host,
        port: u16::try_from(port).unwrap_or(0),
    })
}

/// `/` and more, or nothing.
fn base_path(text: &str) -> String {
    let parts: Vec<&str> = text.split('/').filter(|part| !part.is_empty()).collect();
    parts.iter().fold(String::new(), |path, part| path + "/" + part)
}

fn size(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}
