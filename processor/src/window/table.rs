//! The files of one window table: read, corrected and written for a commit.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use futures::TryStreamExt;
use iceberg::spec::{DataFile, Datum, Literal, PrimitiveLiteral};
use tarn_schemas::UnixMicros;

use super::rows::{RowsError, from_batch, to_batch};
use super::state::{ClosedFile, Limits, Rewrite, WindowState, chunks};
use super::{Aggregate, Key, Rows, SeriesHasher, WindowDelta, merge_into};
use crate::catalog::Lake;
use crate::file::{self, FileError, FileFormat};
use crate::read::ReadError;

/// Rows of one Arrow batch.
const BATCH_ROWS: usize = 16_384;

/// Why the files of a window table could not be prepared.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WindowError {
    /// A file could not be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// The list of the table's files could not be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// A file's rows aren't those of a window table.
    #[error("file {location}: {source}")]
    Rows {
        /// The file.
        location: String,
        /// What was wrong.
        source: RowsError,
    },
    /// The rows don't fit the table's columns.
    #[error("table {table}: {source}")]
    Arrow {
        /// The table.
        table: String,
        /// What Arrow said.
        source: arrow_schema::ArrowError,
    },
    /// The columns of `readings` aren't those that are known.
    #[error("the readings of day {day} can't be read")]
    Readings {
        /// The day, counted from 1970-01-01.
        day: i32,
    },
    /// A file lies in no day partition.
    #[error("file {location} of table {table} isn't in a day partition")]
    Partition {
        /// The table.
        table: String,
        /// The file.
        location: String,
    },
}

/// What a commit does to the table.
#[derive(Debug, Default)]
pub(crate) struct WindowChange {
    pub(crate) add: Vec<DataFile>,
    pub(crate) remove: Vec<String>,
    /// Closed files among the removed.
    pub(crate) rewrites: u64,
}

/// One window table. What it holds of the table is a cache: after a commit that did not happen as prepared,
/// [`Self::forget`] drops it, and the next [`Self::prepare`] reads the table again.
#[derive(Debug)]
pub(crate) struct WindowTable {
    format: FileFormat,
    every: i64,
    limits: Limits,
    hasher: SeriesHasher,
    state: Option<WindowState>,
}

impl WindowTable {
    /// Of the table that `format` writes, with windows of `every` microseconds. Nothing is read yet.
    pub(crate) fn new(format: FileFormat, every: i64, limits: Limits, hasher: SeriesHasher) -> Self {
        Self {
            format,
            every,
            limits,
            hasher,
            state: None,
        }
    }

    /// Length of a window in microseconds.
    pub(crate) fn every(&self) -> i64 {
        self.every
    }

    pub(crate) fn name(&self) -> &Arc<str> {
        &self.format.table
    }

    /// Rows in memory and files of the table, as far as it is known.
    pub(crate) fn figures(&self) -> (usize, usize) {
        self.state
            .as_ref()
            .map_or((0, 0), |state| (state.open_rows(), state.file_count()))
    }

    /// Drops what is known of the table.
    pub(crate) fn forget(&mut self) {
        self.state = None;
    }

    /// The commit that was prepared happened.
    pub(crate) fn committed(&mut self) {
        if let Some(state) = &mut self.state {
            state.trim();
        }
    }

    /// Writes the files that the table needs to hold the delta's rows. On an error the caller forgets the table; files
    /// that were written by then are added to `written`, as are all others.
    pub(crate) async fn prepare(
        &mut self,
        lake: &Lake,
        delta: &WindowDelta,
        written: &mut Vec<String>,
    ) -> Result<WindowChange, WindowError> {
        if delta.rows().is_empty() {
            return Ok(WindowChange::default());
        }
        let mut state = match self.state.take() {
            Some(state) => state,
            None => WindowState::new(self.limits, self.files(lake).await?),
        };
        for (day, location) in state.to_open(delta) {
            let rows = self.load(lake, &location).await?.into_iter().collect();
            state.open(day, location, rows);
        }
        let mut corrections = state.apply(delta);
        let ambiguous = std::mem::take(&mut corrections.ambiguous);
        for ((key, aggregate, _), location) in ambiguous.iter().zip(self.find(lake, &ambiguous).await?) {
            corrections
                .certain
                .entry((key.day(), location))
                .or_default()
                .push((key.clone(), aggregate.clone()));
        }
        let mut change = WindowChange::default();
        for ((day, location), rows) in corrections.certain {
            let corrected = self.corrected(lake, &location, rows).await?;
            let mut added = Vec::new();
            for rows in state.split(corrected) {
                added.push(self.write(lake, day, &rows, &mut change, written).await?);
            }
            state.replace(day, Some(&location), added);
            change.remove.push(location);
            change.rewrites += 1;
        }
        for Rewrite {
            day,
            replaced,
            close,
            keep,
        } in state.rewrites()
        {
            let mut closed = Vec::new();
            for rows in close {
                closed.push(self.write(lake, day, &rows, &mut change, written).await?);
            }
            state.replace(day, None, closed);
            if !keep.is_empty() {
                let file = self.write(lake, day, &keep, &mut change, written).await?;
                state.opened_at(day, file.location);
            }
            change.remove.extend(replaced);
        }
        self.state = Some(state);
        Ok(change)
    }

    /// Writes rows of one day as closed files of a bounded size.
    pub(super) async fn write_closed(
        &self,
        lake: &Lake,
        day: i32,
        rows: Vec<(Key, Aggregate)>,
        change: &mut WindowChange,
        written: &mut Vec<String>,
    ) -> Result<(), WindowError> {
        for rows in chunks(rows, self.limits.file_rows_max) {
            self.write(lake, day, &rows, change, written).await?;
        }
        Ok(())
    }

    /// The table's files as the catalog has them now.
    pub(super) async fn locations(&self, lake: &Lake) -> Result<Vec<String>, WindowError> {
        let table = lake.read_table(&self.format.table).await?;
        let files: Vec<DataFile> = table.data_files().try_collect().await?;
        Ok(files.iter().map(|file| file.file_path().to_owned()).collect())
    }

    async fn write(
        &self,
        lake: &Lake,
        day: i32,
        rows: &[(Key, Aggregate)],
        change: &mut WindowChange,
        written: &mut Vec<String>,
    ) -> Result<ClosedFile, WindowError> {
        let failed = |source| WindowError::Arrow {
            table: self.format.table.to_string(),
            source,
        };
        let batches = rows
            .chunks(BATCH_ROWS)
            .map(|rows| to_batch(&self.format.arrow, self.every, rows));
        let batches = batches.collect::<Result<Vec<_>, _>>().map_err(failed)?;
        let file = self.format.write(lake, day, &batches).await?;
        let location = file.file_path().to_owned();
        written.push(location.clone());
        change.add.push(file);
        Ok(ClosedFile::of(location, rows))
    }

    async fn load(&self, lake: &Lake, location: &str) -> Result<Vec<(Key, Aggregate)>, WindowError> {
        let mut rows = Vec::new();
        file::read(lake, location, |batch| {
            let read = from_batch(&batch, &self.hasher, &mut rows);
            read.map_err(|source| WindowError::Rows {
                location: location.to_owned(),
                source,
            })
        })
        .await?;
        Ok(rows)
    }

    /// The rows of the file with `added` to them.
    async fn corrected(
        &self,
        lake: &Lake,
        location: &str,
        added: Vec<(Key, Aggregate)>,
    ) -> Result<Vec<(Key, Aggregate)>, WindowError> {
        let mut rows: Rows = self.load(lake, location).await?.into_iter().collect();
        for (key, aggregate) in added {
            merge_into(&mut rows, &key, &aggregate);
        }
        Ok(rows.into_iter().collect())
    }

    /// For each row, which of its files has it; the first where none has. Reads each file once, whatever the number of
    /// rows.
    async fn find(
        &self,
        lake: &Lake,
        rows: &[(Key, Aggregate, Vec<String>)],
    ) -> Result<Vec<String>, WindowError> {
        let mut wanted: BTreeMap<&str, HashMap<&Key, usize>> = BTreeMap::new();
        for (index, (key, _, locations)) in rows.iter().enumerate() {
            for location in locations {
                wanted.entry(location).or_default().insert(key, index);
            }
        }
        let first = |(_, _, locations): &(Key, Aggregate, Vec<String>)| locations.first().cloned();
        let mut found: Vec<String> = rows.iter().map(|row| first(row).unwrap_or_default()).collect();
        for (location, keys) in wanted {
            for (key, _) in self.load(lake, location).await? {
                if let Some(slot) = keys.get(&key).and_then(|index| found.get_mut(*index)) {
                    location.clone_into(slot);
                }
            }
        }
        Ok(found)
    }

    /// The table's files as the catalog has them now, by day.
    async fn files(&self, lake: &Lake) -> Result<Vec<(i32, ClosedFile)>, WindowError> {
        let table = lake.read_table(&self.format.table).await?;
        let files: Vec<DataFile> = table.data_files().try_collect().await?;
        files.iter().map(|file| self.known(file)).collect()
    }

    fn known(&self, file: &DataFile) -> Result<(i32, ClosedFile), WindowError> {
        let mut partition = file.partition().iter();
        let Some(Some(Literal::Primitive(PrimitiveLiteral::Int(day)))) = partition.next() else {
            let (table, location) = (self.format.table.to_string(), file.file_path().to_owned());
            return Err(WindowError::Partition { table, location });
        };
        let bound = |column: &str| {
            let id = self.format.column_id(column)?;
            file.lower_bounds().get(&id).zip(file.upper_bounds().get(&id))
        };
        let closed = ClosedFile {
            location: file.file_path().to_owned(),
            rows: file.record_count(),
            starts: bound("window_start").and_then(|(low, high)| Some((micros(low)?, micros(high)?))),
            devices: bound("device_id").and_then(|(low, high)| Some((text(low)?, text(high)?))),
        };
        Ok((*day, closed))
    }
}

fn micros(datum: &Datum) -> Option<UnixMicros> {
    match datum.literal() {
        PrimitiveLiteral::Long(micros) => Some(UnixMicros(*micros)),
        _ => None,
    }
}

fn text(datum: &Datum) -> Option<Box<str>> {
    match datum.literal() {
        PrimitiveLiteral::String(text) => Some(text.as_str().into()),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
