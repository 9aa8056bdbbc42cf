//! Which roles run in this process.

use clap::ValueEnum;

use crate::config::{Listen, Settings};

/// A part of Tarn that can run by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Role {
    /// MQTT in front of the embedded broker
    Gateway,
    /// NATS and JetStream
    Broker,
    /// From streams to tables, and the catalog
    Processor,
}

/// The roles that run in one process. HTTP runs with each of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Roles {
    /// MQTT.
    pub gateway: bool,
    /// The broker.
    pub broker: bool,
    /// The processor and the catalog.
    pub processor: bool,
}

/// A choice of roles that can't work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RolesError {
    /// MQTT publishes into the broker of its own process.
    #[error(
        "the gateway needs the broker in the same process: run `--only gateway,broker`, or leave --only out"
    )]
    GatewayAlone,
    /// Nothing to read from.
    #[error("the processor alone needs a server to read from: set nats.url (--nats-url nats://host:4222)")]
    ProcessorAlone,
    /// Two brokers.
    #[error(
        "nats.url names a server to read from, and the embedded broker was asked for too: leave one of them out; \
         with nats.url, run `--only processor`"
    )]
    TwoBrokers,
}

impl Roles {
    /// Every role.
    pub const ALL: Roles = Roles {
        gateway: true,
        broker: true,
        processor: true,
    };

    /// The roles that `--only` names (all when it names none), checked against the settings.
    pub fn chosen(only: &[Role], settings: &Settings) -> Result<Roles, RolesError> {
        let has = |role| only.is_empty() || only.contains(&role);
        let roles = Roles {
            gateway: has(Role::Gateway) && !(only.is_empty() && settings.mqtt.listen == Listen::Off),
            broker: has(Role::Broker),
            processor: has(Role::Processor),
        };
        let remote = settings.nats.url.is_some();
        if remote && (roles.broker || roles.gateway) {
            return Err(RolesError::TwoBrokers);
        }
        if roles.gateway && !roles.broker {
            return Err(RolesError::GatewayAlone);
        }
        if roles.processor && !roles.broker && !remote {
            return Err(RolesError::ProcessorAlone);
        }
        Ok(roles)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn which_roles_can_run_together() {
        use Role::{Broker, Gateway, Processor};
        let local = Settings::default();
        let mut remote = Settings::default();
        remote.nats.url = Some("nats://cluster:4222".parse().expect("url"));
        let none: &[Role] = &[];
        for (only, settings, expected) in [
            (none, &local, Ok(Roles::ALL)),
            (
                &[Broker],
                &local,
                Ok(Roles {
                    gateway: false,
                    broker: true,
                    processor: false,
                }),
            ),
            (
                &[Gateway, Broker],
                &local,
                Ok(Roles {
                    gateway: true,
                    broker: true,
                    processor: false,
                }),
            ),
            (&[Gateway], &local, Err(RolesError::GatewayAlone)),
            (&[Processor], &local, Err(RolesError::ProcessorAlone)),
            (
                &[Processor],
                &remote,
                Ok(Roles {
                    gateway: false,
                    broker: false,
                    processor: true,
                }),
            ),
            (none, &remote, Err(RolesError::TwoBrokers)),
            (&[Gateway, Processor], &remote, Err(RolesError::TwoBrokers)),
        ] {
            assert_eq!(Roles::chosen(only, settings), expected, "{only:?}");
        }
    }
}
