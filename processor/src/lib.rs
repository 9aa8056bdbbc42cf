//! Skeleton.

pub mod catalog;
pub mod commit;
pub mod read;
pub mod storage;
pub mod tables;
