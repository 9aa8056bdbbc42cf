//! The gateway from outside: real sockets, real clients.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod mqtt;
