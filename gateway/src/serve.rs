//! Checks before a start, and what has to exist for one.
mod data_dir;
mod roles;
mod streams;
pub use data_dir::{DataDir, DataDirError, FREE_BYTES_MIN, free_bytes};
pub use roles::{Role, Roles, RolesError};
pub use streams::{MQTT_MESSAGES, Plan, StreamsError, ensure, plan};
