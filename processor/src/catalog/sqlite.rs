//! The catalog's SQLite file.

use std::path::PathBuf;

/// Why the catalog can't be used.
#[derive(Debug, thiserror::Error)]
pub enum CatalogError {
    /// The file can't be opened.
    #[error("catalog {}: {source}", path.display())]
    Sqlite {
        /// The catalog's file.
        path: PathBuf,
        /// What SQLite said.
        source: rusqlite::Error,
    },
}
