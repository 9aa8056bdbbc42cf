//! The lake: tables in a warehouse, and the catalog that says what each table is at the moment.

mod lake;
mod rest_server;
pub(crate) mod sqlite;

pub use lake::{Lake, LakeError, LakeOptions, LoadedTable, WriterEpoch, new_table_metadata};
pub use sqlite::{CATALOG_NAME, CatalogError};
