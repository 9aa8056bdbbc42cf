//! The index of sealed segments: on disk beside each segment, derived from it, never believed against it.
//!
//! A segment is sealed once it is full and durable. Then its index is made from its frames and written beside it, and
//! what memory held about its records goes. Only the header stays, and the blocks asked for lately.

mod bits;
mod blocks;
mod build;
mod cache;
mod codec;
mod cursor;
mod header;
mod read;
#[cfg(test)]
mod tests;

pub(super) use bits::Bits;
pub(super) use blocks::SubjectEntry;
pub(super) use build::Builder;
pub(super) use cache::BlockCache;
pub(super) use codec::{CRC_BYTES, Cursor, close_block, open_block};
pub(super) use cursor::SubjectCursor;
pub(super) use header::IndexHeader;
pub(super) use read::{SealedIndex, Source};
