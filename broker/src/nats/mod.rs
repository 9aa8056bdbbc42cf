//! The NATS client protocol: wire codec and session without IO, and the shell that gives them sockets.

pub(crate) mod audit;
pub(crate) mod callout;
pub mod codec;
pub(crate) mod connections;
pub(crate) mod door;
pub(crate) mod entry;
pub(crate) mod info;
pub(crate) mod listener;
pub(crate) mod live;
pub(crate) mod serve;
pub(crate) mod session;
pub(crate) mod transport;
pub(crate) mod upgrade;
