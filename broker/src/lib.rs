//! An embedded NATS and JetStream server whose acknowledgements mean: on disk.
//!
//! Invariants:
//!
//! 1. A PubAck leaves only after its record is synced.
//! 2. Only `env` touches time, files and entropy; codecs, sessions and the engine take bytes and times and give values.
//! 3. Every queue has a bound. A full one holds its sender up, or answers with the protocol's own error.
//! 4. What a peer sends is checked before memory is taken for it.

mod accounts;
mod api;
mod archive;
mod auth;
pub mod batch;
pub mod conf;
mod consumer;
mod engine;
pub mod env;
mod leb128;
pub mod local;
mod monitor;
pub mod nats;
pub mod options;
pub mod outbound;
pub mod router;
pub mod server;
pub mod shard;
mod sharing;
#[cfg(any(test, feature = "simulation"))]
pub mod simulation;
pub mod store;
mod stream;
pub mod subject;
mod system;
pub mod tls;
pub mod types;
