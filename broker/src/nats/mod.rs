//! The NATS client protocol: wire codec and session without IO, and the shell that gives them sockets.

pub mod codec;
