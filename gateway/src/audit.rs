//! Reading the tables back as rows, to hold them against what was sent.

mod columns;
mod ledger;
mod rows;
mod windows;

pub use ledger::{Tables, verify};
pub use rows::{ReadingRow, RefusedRow, WindowRow, dead_letters, readings, windows};
pub use windows::{GroupBy, WindowCheck, WindowDifference};

/// The tables can't be audited.
#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    /// A table can't be read.
    #[error(transparent)]
    Read(#[from] tarn_processor::read::ReadError),
    /// A column is missing or has another type.
    #[error("column {column} is missing or not of type {expected}")]
    Column {
        /// Its name.
        column: &'static str,
        /// The Arrow type.
        expected: &'static str,
    },
}
