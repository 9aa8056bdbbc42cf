//! The gateway from outside: real sockets, real clients, and the real binary: started, published to, stopped, killed,
//! started again, and fed what it must refuse.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod bad_input;
mod demo;
mod mqtt;
mod process;
mod way_through;
