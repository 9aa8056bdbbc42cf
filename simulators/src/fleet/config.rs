//! What to run, and what can be wrong with that.

use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use tarn_schemas::UnixMicros;
use tokio_util::sync::CancellationToken;

use crate::faults::Faults;
use crate::ledger::LedgerError;
use crate::message::Wire;
use crate::mqtt::{MqttUrlError, MqttVersion};
use crate::profiles::Profile;
use crate::traffic::TrafficConfig;

/// What the devices speak.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Protocol {
    /// MQTT 3.1.1, QoS 1.
    Mqtt,
    /// MQTT 5, QoS 1.
    Mqtt5,
    /// JetStream publishes over NATS.
    Nats,
    /// Every other device MQTT 3.1.1, the rest NATS.
    #[default]
    Mixed,
}

impl Protocol {
    /// Devices take these in turn.
    pub(crate) fn wires(self) -> &'static [Wire] {
        match self {
            Self::Mqtt | Self::Mqtt5 => &[Wire::Mqtt],
            Self::Nats => &[Wire::Nats],
            Self::Mixed => &[Wire::Mqtt, Wire::Nats],
        }
    }

    pub(crate) fn mqtt_version(self) -> MqttVersion {
        if self == Self::Mqtt5 {
            MqttVersion::V5
        } else {
            MqttVersion::V4
        }
    }
}

impl FromStr for Protocol {
    type Err = FleetError;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        Ok(match name {
            "mqtt" => Self::Mqtt,
            "mqtt5" => Self::Mqtt5,
            "nats" => Self::Nats,
            "mixed" => Self::Mixed,
            _ => {
                return Err(FleetError::UnknownProtocol {
                    name: name.to_owned(),
                });
            }
        })
    }
}

/// A fleet. Start from [`FleetConfig::default`].
#[derive(Clone, Debug)]
pub struct FleetConfig {
    /// The kind of devices.
    pub profile: Profile,
    /// How many devices.
    pub devices: u32,
    /// Messages a second over all devices.
    pub rate: f64,
    /// How long messages are due. Rate × duration is how many there are, whatever happens meanwhile.
    pub duration: Duration,
    /// What the devices speak.
    pub protocol: Protocol,
    /// `mqtt://[user:password@]host[:port]`
    pub mqtt_url: String,
    /// `nats://[user:password@]host[:port]`, or several with commas.
    pub nats_url: String,
    /// Same seed and start: same messages.
    pub seed: u64,
    /// Time base of the readings; now, if not given.
    pub start: Option<UnixMicros>,
    /// Where to write the ledger. The file must not exist.
    pub ledger: Option<PathBuf>,
    /// What goes wrong.
    pub faults: Faults,
    /// How long to go on after `duration`: for what the server was too slow to take, and for acknowledgements.
    pub drain: Duration,
    /// Each MQTT device has a connection of its own, up to this number; more devices share them.
    pub mqtt_connections_max: u32,
    /// NATS connections, shared by the devices.
    pub nats_connections_max: u32,
    /// Messages of a connection that wait for their acknowledgement.
    pub window: u16,
    /// Ends the fleet early: no new messages; those that wait for their acknowledgement get [`FleetConfig::drain`].
    pub stop: CancellationToken,
}

impl Default for FleetConfig {
    fn default() -> Self {
        Self {
            profile: Profile::Home,
            devices: 100,
            rate: 100.0,
            duration: Duration::from_secs(10),
            protocol: Protocol::Mixed,
            mqtt_url: "mqtt://127.0.0.1:1883".to_owned(),
            nats_url: "nats://127.0.0.1:4222".to_owned(),
            seed: 1,
            start: None,
            ledger: None,
            faults: Faults::default(),
            drain: Duration::from_secs(30),
            mqtt_connections_max: 100,
            nats_connections_max: 4,
            window: 512,
            stop: CancellationToken::new(),
        }
    }
}

impl FleetConfig {
    /// The messages of this fleet, if it starts at `now` unless it says otherwise.
    pub fn traffic(&self, now: UnixMicros) -> Result<TrafficConfig, FleetError> {
        let is_positive = self.rate > 0.0 && self.rate.is_finite();
        for (name, is_valid) in [
            ("devices", self.devices > 0),
            ("rate", is_positive),
            ("mqtt_connections_max", self.mqtt_connections_max > 0),
            ("nats_connections_max", self.nats_connections_max > 0),
            ("window", self.window > 0),
        ] {
            if !is_valid {
                return Err(FleetError::NotPositive { name });
            }
        }
        if let Some(name) = self.faults.invalid() {
            return Err(FleetError::NotAShare { name });
        }
        Ok(TrafficConfig {
            profile: self.profile,
            devices: self.devices,
            rate: self.rate,
            count: (self.rate * self.duration.as_secs_f64()).round() as u64,
            seed: self.seed,
            start: self.start.unwrap_or(now),
            faults: self.faults,
            wires: self.protocol.wires().to_vec(),
        })
    }
}

/// Why a fleet can't run.
#[derive(Debug, thiserror::Error)]
pub enum FleetError {
    /// A setting that has to be more than 0.
    #[error("{name} has to be more than 0")]
    NotPositive {
        /// The field of [`FleetConfig`].
        name: &'static str,
    },
    /// A fault's share that isn't one.
    #[error("faults: {name} has to be between 0 and 1")]
    NotAShare {
        /// The field of [`Faults`], or the sum in question.
        name: &'static str,
    },
    /// A protocol that there isn't.
    #[error("no protocol \"{name}\", there are: mqtt, mqtt5, nats, mixed")]
    UnknownProtocol {
        /// As given.
        name: String,
    },
    /// The MQTT server's address.
    #[error(transparent)]
    MqttUrl(#[from] MqttUrlError),
    /// The ledger.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// A connection's task panicked.
    #[error("a connection's task failed: {0}")]
    Task(tokio::task::JoinError),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_that_cannot_work_are_refused() {
        let error = |config: FleetConfig| config.traffic(UnixMicros(0)).unwrap_err().to_string();
        let config = FleetConfig::default;
        assert_eq!(
            error(FleetConfig {
                devices: 0,
                ..config()
            }),
            "devices has to be more than 0"
        );
        assert_eq!(
            error(FleetConfig {
                rate: f64::NAN,
                ..config()
            }),
            "rate has to be more than 0"
        );
        let faults = Faults {
            late: 0.6,
            malformed: 0.6,
            ..Faults::default()
        };
        assert_eq!(
            error(FleetConfig { faults, ..config() }),
            "faults: late + out_of_order + malformed has to be between 0 and 1"
        );
        assert!("mqtt6".parse::<Protocol>().is_err());
        assert_eq!("mqtt5".parse::<Protocol>().unwrap(), Protocol::Mqtt5);
    }

    #[test]
    fn rate_and_duration_give_the_count() {
        let config = FleetConfig {
            rate: 2.5,
            duration: Duration::from_secs(10),
            ..FleetConfig::default()
        };
        assert_eq!(config.traffic(UnixMicros(0)).unwrap().count, 25);
    }
}
