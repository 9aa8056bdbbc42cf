//! Simulated devices over MQTT and NATS, ledgers of what they sent and what was acknowledged, and the verification of the
//! tables against such a ledger.
//!
//! Invariants:
//!
//! 1. The same seed, start and configuration give the same messages in the same order, byte by byte.
//! 2. No two messages of a fleet have a row in common: (device, sensor, metric, timestamp) is unique, and so is (subject,
//!    payload) of what is malformed.
//! 3. A message stands in the ledger before it goes out on the wire; its acknowledgement stands there only once the
//!    server's PUBACK or PubAck came in.
//! 4. A message that isn't acknowledged is sent again until it is or the run gives up: over MQTT with DUP and the same
//!    packet id, over NATS with the same `Nats-Msg-Id`.
//! 5. Verification stands on the ledger alone: it shares no code with what fills the tables.

mod clock;
pub mod device;
pub mod faults;
pub mod fleet;
pub mod ledger;
pub mod message;
mod mqtt;
mod nats;
pub mod profiles;
mod stats;
pub mod traffic;
pub mod verify;
pub mod world;

pub use faults::Faults;
pub use fleet::{FleetConfig, FleetError, FleetReport, Protocol, run};
pub use profiles::Profile;
pub use stats::Progress;
pub use verify::{StoredDeadLetter, StoredReading, Verdict, Verification};
