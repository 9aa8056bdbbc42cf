//! Going on with other settings, without ending a connection that may stay. Source: nats-server, "Configuration Reloading".

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::{Broker, BrokerConfig};
use crate::auth::operator::OperatorError;
use crate::env::Clock as _;
use crate::nats::listener::Shared;
use crate::nats::live::Live;
use crate::options::Options;
use crate::tls::TlsError;

/// Why settings can't be taken while the broker runs. Nothing has changed.
#[derive(Debug, thiserror::Error)]
pub enum ReloadError {
    /// It needs a restart.
    #[error("config reload not supported for {setting}: old={old}, new={new}")]
    NotSupported {
        /// The setting.
        setting: &'static str,
        /// As it is.
        old: String,
        /// As it should be.
        new: String,
    },
    /// Certificates and what belongs to them can't be used.
    #[error("{0}")]
    Tls(#[from] TlsError),
    /// An operator's tokens are not to be believed.
    #[error("{0}")]
    Operator(#[from] OperatorError),
}

impl Broker {
    /// Goes on with the settings `new` instead of `old`: new connections have the new limits and certificates, and who may no
    /// longer be connected, or may do other things than before, is cut off and has to come back.
    pub fn reload(&self, old: &Options, new: &Options) -> Result<(), ReloadError> {
        unchanged(old, new)?;
        let config = BrokerConfig::from_options(new, PathBuf::new());
        let shared = &self.shared;
        let live = Live::new(&config, &shared.info, shared.clock.now())?;
        self.reload_auth(&new.auth)?;
        shared.set_live(live);
        Ok(())
    }
}

/// The longest that a change of time is waited for: clocks are set.
const LOOK_AGAIN_MAX: Duration = Duration::from_secs(60);

/// Lets what accounts share end and begin when the tokens say so.
pub(super) async fn watch(shared: Arc<Shared>, stop: CancellationToken) {
    loop {
        let now = shared.clock.now();
        let left = shared.gate.directory().changes_at().map(|at| at.since(now));
        let wait = match left {
            Some(nanos) if nanos <= 0 => {
                let Err(err) = shared.gate.look_again(&shared.accounts, now) else {
                    continue;
                };
                tracing::error!(error = %err, "what accounts share could not be looked at again");
                LOOK_AGAIN_MAX
            }
            Some(nanos) => Duration::from_nanos(nanos.unsigned_abs()).min(LOOK_AGAIN_MAX),
            None => LOOK_AGAIN_MAX,
        };
        tokio::select! {
            () = stop.cancelled() => return,
            () = shared.gate.changed() => {}
            () = tokio::time::sleep(wait) => {}
        }
    }
}

/// Errs with a setting that differs and must not.
fn unchanged(old: &Options, new: &Options) -> Result<(), ReloadError> {
    let text = |value: &dyn std::fmt::Debug| format!("{value:?}");
    let jetstream = (&old.jetstream, &new.jetstream);
    let websocket = |options: &Options| text(&options.websocket.as_ref().map(|ws| &ws.listen));
    let maps = |options: &Options| text(&options.tls.as_ref().is_some_and(|tls| tls.verify_and_map));
    let pairs = [
        ("Host", text(&old.listen.host), text(&new.listen.host)),
        ("Port", text(&old.listen.port), text(&new.listen.port)),
        ("HTTP", text(&old.monitor), text(&new.monitor)),
        ("Websocket", websocket(old), websocket(new)),
        ("TLSMap", maps(old), maps(new)),
        ("ServerName", text(&old.server_name), text(&new.server_name)),
        (
            "jetstream",
            text(&jetstream.0.enabled),
            text(&jetstream.1.enabled),
        ),
        (
            "jetstream storage directory",
            text(&jetstream.0.store_dir),
            text(&jetstream.1.store_dir),
        ),
        (
            "JetStreamDomain",
            text(&jetstream.0.domain),
            text(&jetstream.1.domain),
        ),
        (
            "SystemAccount",
            text(&old.auth.system_account),
            text(&new.auth.system_account),
        ),
        (
            "operator mode",
            text(&old.auth.operator.is_some()),
            text(&new.auth.operator.is_some()),
        ),
    ];
    match pairs.into_iter().find(|(_, old, new)| old != new) {
        Some((setting, old, new)) => Err(ReloadError::NotSupported { setting, old, new }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_needs_a_restart_is_said() {
        let old = Options::default();
        let mut new = old.clone();
        new.limits.max_payload_bytes = 5;
        assert!(unchanged(&old, &new).is_ok());
        new.listen.port = 4333;
        let err = unchanged(&old, &new).expect_err("refused");
        assert_eq!(
            err.to_string(),
            "config reload not supported for Port: old=4222, new=4333"
        );
    }
}
