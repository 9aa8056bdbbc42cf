//! The storage thread and the way to it.

pub mod inbox;
