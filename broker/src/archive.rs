//! Backups of streams as nats-server writes and reads them: how they are compressed and what is in them.
//!
//! A backup is a sequence of bytes in the S2 framing format ([`s2`]). Inside is, since nats-server 2.15, a list of
//! entries ([`entry`]); before, a tar file ([`tar`]) of the files of its store ([`block`]). Nothing here reads a file or follows a name: names in an archive never become paths.

pub(crate) mod block;
pub(crate) mod entry;
pub(crate) mod feed;
pub(crate) mod s2;
pub(crate) mod tar;

use thiserror::Error;

/// Why bytes are not a backup.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub(crate) enum ArchiveError {
    #[error("the backup is not compressed with s2 or snappy")]
    NotCompressed,
    #[error("the backup is damaged: a compressed block is malformed")]
    Block,
    #[error("the backup is damaged: a checksum does not match")]
    Checksum,
    #[error("the backup holds a block of {len} bytes, {max} are allowed")]
    BlockTooLarge { len: usize, max: usize },
    #[error("the backup is neither an archive nor a tar file")]
    Format,
    #[error("the backup holds an entry of {len} bytes, {max} are allowed")]
    EntryTooLarge { len: u64, max: u64 },
    #[error("the backup holds a name that is not text")]
    Name,
    #[error("the backup is damaged: a number is malformed")]
    Number,
    #[error("the backup is cut off")]
    Truncated,
}
