//! Tarn's shell: command line, configuration, composition root, MQTT and HTTP.
//!
//! Invariants:
//!
//! 1. Traffic is accepted only when what is behind it stands; a failed start leaves nothing running.
//! 2. A stop drains in reverse order of start: what was acknowledged is on disk, what was read is committed.
//! 3. A listener binds to loopback unless the operator says otherwise.
//! 4. Secrets never reach output: settings, logs and errors show them hidden.

pub mod audit;
pub mod cli;
mod clock;
pub mod config;
pub mod demo;
pub mod http;
pub mod identity;
pub mod ingest;
pub mod logging;
pub mod mqtt;
mod present;
pub mod serve;
