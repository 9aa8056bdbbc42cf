//! The lake: tables in a warehouse, and the catalog that says what each table is at the moment.

mod lake;
pub mod rest_server;
mod sqlite;

pub use lake::{Lake, LakeError, LakeOptions, LoadedTable, WriterEpoch, new_table_metadata};
pub use sqlite::CatalogError;
