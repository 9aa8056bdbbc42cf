//! The storage thread and the way to it.

pub(crate) mod hearings;
pub mod inbox;
pub(crate) mod release;
pub(crate) mod snapshots;
pub(crate) mod thread;
pub mod view;
