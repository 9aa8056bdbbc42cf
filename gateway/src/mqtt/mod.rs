//! MQTT 3.1.1 on its own front end: packets, sessions and the listener.
//!
//! Invariants:
//!
//! 1. PUBACK leaves only after the message is on stable storage, and in the order of receipt.
//! 2. A topic never becomes a subject that means more than itself, and no internal subject is reachable, either way.
//! 3. What a peer can make grow has a bound; what is dropped or refused is counted by reason.

pub mod codec;
mod connection;
mod handshake;
mod listener;
pub mod mapping;
pub mod packet;
mod registry;
mod retained;
mod seat;
pub mod session;
mod stats;

pub use listener::{BindError, MqttConfig, MqttServer};
pub use stats::MqttStats;
