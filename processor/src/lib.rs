//! From JetStream streams to Iceberg tables, exactly once.
//!
//! ```text
//! source (pull consumer) ─► decode ─┬─ refused ─► dead letters ─┐
//!                                   ├─ readings ─► Arrow ───────┤─► Parquet ─► one catalog transaction ─► ack
//!                                   └─ windows (aggregates) ────┘              {files, watermark}
//! ```
//!
//! Invariants:
//!
//! 1. A stream is acknowledged only up to what a catalog transaction holds. Files and watermark move in one
//!    transaction, over all tables, so a message is in the lake exactly once whatever is killed or redelivered.
//! 2. Only a contiguous prefix of what the consumer delivered is ever buffered: a gap in the consumer's sequence ends
//!    the session, and the next one starts behind the last message that was taken.
//! 3. Every message becomes rows or a dead letter. Nothing else happens to one.
//! 4. At every snapshot a window table is the GROUP BY of the readings up to the same watermark, late ones included,
//!    with one row a key. What is held of it in memory is a cache of the table: after any doubt it is dropped and read
//!    again from the table's own files.
//! 5. Memory is bounded: rows and bytes of the batch being filled and of the one being committed, the chunks between
//!    source and pipeline, and the rows of open window files. When they are full, nothing is pulled.

mod batch;
pub mod catalog;
mod clock;
pub mod commit;
pub mod config;
mod decode;
mod file;
pub mod pipeline;
pub mod read;
mod source;
pub mod stats;
pub mod storage;
pub mod tables;
pub mod watermark;
mod window;

pub use catalog::{Lake, LakeError, LakeOptions};
pub use config::{ConfigError, NatsAuth, NatsTarget, ProcessorConfig, WindowSpec};
pub use pipeline::{Processor, StartError};
pub use stats::ProcessorStats;
