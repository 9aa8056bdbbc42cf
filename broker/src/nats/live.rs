//! Settings that can change while the broker runs. A connection keeps those that it began with.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use rustls::ServerConfig;

use crate::nats::info::ServerInfo;
use crate::options::{HandshakeFirst, TlsOptions, WebsocketOptions};
use crate::server::{BrokerConfig, Limits};
use crate::tls::{CertIdentity, TlsError, server_config};
use crate::types::UnixNanos;

/// Settings for new connections.
#[derive(Debug)]
pub(crate) struct Live {
    pub(crate) limits: Limits,
    /// What INFO says.
    pub(crate) info: ServerInfo,
    pub(crate) tls: Option<LiveTls>,
    pub(crate) websocket: Option<LiveWebsocket>,
    /// What tells the file that says this from others; empty: there is none.
    pub(crate) config_digest: String,
    pub(crate) loaded_at: UnixNanos,
}

/// TLS on the client port.
#[derive(Debug)]
pub(crate) struct LiveTls {
    /// Plain text is not accepted.
    pub(crate) is_required: bool,
    pub(crate) handshake_first: HandshakeFirst,
    pub(crate) side: TlsSide,
}

/// The server's side of TLS.
#[derive(Clone, Debug)]
pub(crate) struct TlsSide {
    pub(crate) config: Arc<ServerConfig>,
    pub(crate) timeout: Duration,
    pub(crate) maps_certificates: bool,
    pinned: BTreeSet<[u8; 32]>,
}

/// The WebSocket port.
#[derive(Debug)]
pub(crate) struct LiveWebsocket {
    pub(crate) options: WebsocketOptions,
    pub(crate) tls: Option<TlsSide>,
}

impl Live {
    /// What `config` says, as read at `now`; `info` is what INFO says besides.
    pub(crate) fn new(config: &BrokerConfig, info: &ServerInfo, now: UnixNanos) -> Result<Self, TlsError> {
        let tls = match &config.tls {
            Some(options) => Some(LiveTls {
                is_required: !config.allow_non_tls,
                handshake_first: options.handshake_first,
                side: TlsSide::new(options)?,
            }),
            None => None,
        };
        let websocket = match &config.websocket {
            Some(options) => Some(LiveWebsocket {
                options: options.clone(),
                tls: options.tls.as_ref().map(TlsSide::new).transpose()?,
            }),
            None => None,
        };
        let advertised = config
            .client_advertise
            .as_deref()
            .map(|at| host_port(at, info.port));
        let (host, port) = advertised.unwrap_or_else(|| (info.host.clone(), info.port));
        let info = ServerInfo {
            host,
            port,
            max_payload: config.limits.max_payload_bytes,
            has_headers: !config.no_header_support,
            tls_required: tls.as_ref().is_some_and(|tls| tls.is_required),
            tls_available: tls.as_ref().is_some_and(|tls| !tls.is_required),
            tls_verify: config.tls.as_ref().is_some_and(|tls| tls.verify),
            ..info.clone()
        };
        Ok(Self {
            limits: config.limits.clone(),
            info,
            tls,
            websocket,
            config_digest: config.config_digest.clone(),
            loaded_at: now,
        })
    }
}

impl TlsSide {
    fn new(options: &TlsOptions) -> Result<Self, TlsError> {
        Ok(Self {
            config: server_config(options)?,
            timeout: options.timeout,
            maps_certificates: options.verify_and_map,
            pinned: options.pinned_certs.clone(),
        })
    }

    /// Whether a client may have this certificate.
    pub(crate) fn allows(&self, identity: Option<&CertIdentity>) -> bool {
        self.pinned.is_empty() || identity.is_some_and(|identity| self.pinned.contains(&identity.key_sha256))
    }
}

/// Host and port of an address whose port may be missing.
fn host_port(text: &str, default: u16) -> (String, u16) {
    match text.rsplit_once(':') {
        Some((host, port)) if !host.contains(':') || host.ends_with(']') => {
            let host = host.trim_matches(['[', ']']).to_owned();
            (host, port.parse().unwrap_or(default))
        }
        _ => (text.to_owned(), default),
    }
}
