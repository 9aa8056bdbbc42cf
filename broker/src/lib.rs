//! Skeleton.

pub mod env;
pub mod store;
pub mod types;
