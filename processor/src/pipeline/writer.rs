//! The lake's side of a commit: files, then one catalog transaction over all tables.

use std::collections::BTreeMap;

use arrow_array::RecordBatch;
use iceberg::spec::DataFile;

use crate::batch::{Schemas, SealedBatch};
use crate::catalog::{Lake, LakeError, WriterEpoch};
use crate::commit::{CommitError, TableChange};
use crate::config::{ProcessorConfig, WindowSpec};
use crate::file::{FileError, FileFormat};
use crate::stats::WindowStats;
use crate::tables::{READINGS, TableSpec, WINDOW_MICROS_PROPERTY};
use crate::watermark::{WATERMARK_PREFIX, Watermark, WatermarkError};
use crate::window::SeriesHasher;
use crate::window::state::Limits;
use crate::window::table::{WindowError, WindowTable};

/// Why a batch was not committed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WriteError {
    /// A file of `readings` or `dead_letters` could not be written.
    #[error(transparent)]
    File(#[from] FileError),
    /// A file of a window table could not be read or written.
    #[error(transparent)]
    Window(#[from] WindowError),
    /// The catalog did not take it.
    #[error(transparent)]
    Commit(#[from] CommitError),
}

/// Why the watermarks can't be had.
#[derive(Debug, thiserror::Error)]
pub enum WatermarksError {
    /// A table could not be loaded.
    #[error(transparent)]
    Lake(#[from] LakeError),
    /// One isn't a watermark.
    #[error("table {table}: {source}")]
    Text {
        /// The table.
        table: String,
        /// What was wrong.
        source: WatermarkError,
    },
    /// Tables that move together don't stand together.
    #[error(
        "table {table} holds stream {stream} up to {found}, and readings up to {expected}: restore the tables from one backup"
    )]
    Apart {
        /// The table.
        table: String,
        /// The stream.
        stream: String,
        /// Its watermark there.
        found: String,
        /// Its watermark in `readings`.
        expected: String,
    },
}

/// Why a window table could not be made from the readings.
#[derive(Debug, thiserror::Error)]
pub enum RebuildError {
    /// A table could not be loaded.
    #[error(transparent)]
    Lake(#[from] LakeError),
    /// The readings could not be read, or the windows not written.
    #[error("making table {table} from the readings: {detail}")]
    Rows {
        /// The table.
        table: String,
        /// What was wrong.
        detail: String,
    },
    /// The catalog did not take it.
    #[error(transparent)]
    Commit(#[from] CommitError),
}

/// What a commit did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct WriteReport {
    pub(crate) files: u64,
    pub(crate) file_bytes: u64,
    /// In the order of the configuration; `rewrites` are those of this commit.
    pub(crate) windows: Vec<WindowStats>,
}

/// Writes batches into the lake as its one writer.
#[derive(Debug)]
pub(crate) struct LakeWriter {
    pub(super) lake: Lake,
    pub(super) epoch: WriterEpoch,
    readings: FileFormat,
    dead_letters: FileFormat,
    windows: Vec<WindowTable>,
    /// Files of a batch that the catalog did not take yet.
    prepared: Option<Prepared>,
}

#[derive(Debug, Default)]
struct Prepared {
    changes: Vec<TableChange>,
    /// Locations of all files that were written for it.
    written: Vec<String>,
    report: WriteReport,
}

impl LakeWriter {
    /// Takes the lake over from any earlier writer and creates the tables that are missing.
    pub(crate) async fn claim(
        lake: Lake,
        config: &ProcessorConfig,
        hasher: &SeriesHasher,
    ) -> Result<Self, LakeError> {
        let (readings, dead_letters) = (TableSpec::readings(), TableSpec::dead_letters());
        let limits = Limits {
            file_rows_max: config.window_file_rows_max,
            open_rows_max: config.window_open_rows_max,
        };
        lake.ensure_table(&readings).await?;
        lake.ensure_table(&dead_letters).await?;
        let mut windows = Vec::new();
        for window in &config.windows {
            let spec = window_spec(&lake, window).await?;
            windows.push(WindowTable::new(
                FileFormat::new(spec),
                window.every_micros(),
                limits,
                hasher.clone(),
            ));
        }
        let epoch = lake.claim_writer().await?;
        let (readings, dead_letters) = (FileFormat::new(readings), FileFormat::new(dead_letters));
        Ok(Self {
            lake,
            epoch,
            readings,
            dead_letters,
            windows,
            prepared: None,
        })
    }

    /// Makes window tables anew from `readings` that don't stand where `readings` does: those that were added to the
    /// configuration, or left out of it for a while.
    pub(crate) async fn rebuild_windows(&mut self, hasher: &SeriesHasher) -> Result<(), RebuildError> {
        let readings = self.lake.load(READINGS).await?;
        let marks = readings.metadata.properties().iter();
        let expected: BTreeMap<String, String> = marks
            .filter(|(name, _)| name.starts_with(WATERMARK_PREFIX))
            .map(|(name, text)| (name.clone(), text.clone()))
            .collect();
        for window in &mut self.windows {
            let loaded = self.lake.load(window.name()).await?;
            let found = loaded.metadata.properties();
            if expected.iter().all(|(name, text)| found.get(name) == Some(text)) {
                continue;
            }
            tracing::info!(table = %window.name(), "making the window table from the readings");
            let mut written = Vec::new();
            let result = rebuild(&self.lake, self.epoch, window, hasher, &expected, &mut written).await;
            if let Err(error) = result {
                let may_stand = matches!(error, RebuildError::Commit(CommitError::Unknown(_)));
                if !may_stand {
                    self.discard(Prepared {
                        written,
                        ..Prepared::default()
                    })
                    .await;
                }
                return Err(error);
            }
        }
        Ok(())
    }

    /// What batches for this writer look like.
    pub(crate) fn schemas(&self) -> Schemas {
        Schemas {
            readings: self.readings.arrow.clone(),
            dead_letters: self.dead_letters.arrow.clone(),
            windows: self.windows.iter().map(WindowTable::every).collect(),
        }
    }

    /// How far the lake holds each of the streams. Errors where the tables disagree.
    pub(crate) async fn watermarks(
        &self,
        streams: &[String],
    ) -> Result<Vec<Option<Watermark>>, WatermarksError> {
        let expected = self.watermarks_of(READINGS, streams).await?;
        let others = self.windows.iter().map(|window| window.name().as_ref());
        for table in others.chain([self.dead_letters.table.as_ref()]) {
            let found = self.watermarks_of(table, streams).await?;
            for ((stream, found), expected) in streams.iter().zip(found).zip(&expected) {
                if found != *expected {
                    let text = |watermark: Option<&Watermark>| {
                        watermark.map_or("nothing".to_owned(), Watermark::to_text)
                    };
                    let (found, expected) = (text(found.as_ref()), text(expected.as_ref()));
                    let (table, stream) = (table.to_owned(), stream.clone());
                    return Err(WatermarksError::Apart {
                        table,
                        stream,
                        found,
                        expected,
                    });
                }
            }
        }
        Ok(expected)
    }

    async fn watermarks_of(
        &self,
        table: &str,
        streams: &[String],
    ) -> Result<Vec<Option<Watermark>>, WatermarksError> {
        let loaded = self.lake.load(table).await?;
        let properties = loaded.metadata.properties();
        let read = |stream: &String| {
            let failed = |source| WatermarksError::Text {
                table: table.to_owned(),
                source,
            };
            Watermark::read(properties, stream).map_err(failed)
        };
        streams.iter().map(read).collect()
    }

    /// Writes the batch's files, unless an earlier attempt did, and commits them with the watermarks in one transaction.
    /// After an error the same batch can be given again, except after [`CommitError::Fenced`]. Works on the calling
    /// thread for as long as encoding takes.
    pub(crate) async fn commit(
        &mut self,
        batch: &SealedBatch,
        watermarks: &[(String, Watermark)],
    ) -> Result<WriteReport, WriteError> {
        if self.prepared.is_none() {
            let mut prepared = Prepared::default();
            if let Err(error) = self.prepare(batch, watermarks, &mut prepared).await {
                self.discard(prepared).await;
                return Err(error);
            }
            self.prepared = Some(prepared);
        }
        let changes = self
            .prepared
            .as_ref()
            .map(|prepared| prepared.changes.clone())
            .unwrap_or_default();
        match self.lake.commit(self.epoch, changes).await {
            Ok(_) => Ok(self.settle()),
            Err(error) => {
                let files_are_stale = matches!(
                    error,
                    CommitError::NoSuchFile { .. }
                        | CommitError::Conflict { .. }
                        | CommitError::Fenced { .. }
                );
                if files_are_stale && let Some(prepared) = self.prepared.take() {
                    self.discard(prepared).await;
                }
                Err(error.into())
            }
        }
    }

    /// The commit that was tried last stands.
    pub(crate) fn settle(&mut self) -> WriteReport {
        for window in &mut self.windows {
            window.committed();
        }
        let mut report = self
            .prepared
            .take()
            .map(|prepared| prepared.report)
            .unwrap_or_default();
        for (stats, window) in report.windows.iter_mut().zip(&self.windows) {
            let (open_rows, files) = window.figures();
            (stats.open_rows, stats.files) = (open_rows as u64, files as u64);
        }
        report
    }

    async fn prepare(
        &mut self,
        batch: &SealedBatch,
        watermarks: &[(String, Watermark)],
        prepared: &mut Prepared,
    ) -> Result<(), WriteError> {
        let properties: BTreeMap<String, String> = watermarks
            .iter()
            .map(|(stream, at)| (Watermark::property(stream), at.to_text()))
            .collect();
        let change = |table: &str, add: Vec<DataFile>, remove: Vec<String>| TableChange {
            table: table.to_owned(),
            add,
            remove,
            set_properties: properties.clone(),
            summary: properties.clone(),
        };
        for (format, days) in [
            (&self.readings, &batch.readings),
            (&self.dead_letters, &batch.dead_letters),
        ] {
            let add = write_days(&self.lake, format, days, &mut prepared.written).await?;
            prepared.changes.push(change(&format.table, add, Vec::new()));
        }
        for (window, delta) in self.windows.iter_mut().zip(&batch.deltas) {
            let done = window.prepare(&self.lake, delta, &mut prepared.written).await?;
            let stats = WindowStats {
                table: window.name().to_string(),
                rewrites: done.rewrites,
                ..Default::default()
            };
            prepared.report.windows.push(stats);
            prepared
                .changes
                .push(change(window.name(), done.add, done.remove));
        }
        let added = || prepared.changes.iter().flat_map(|change| &change.add);
        prepared.report.files = added().count() as u64;
        prepared.report.file_bytes = added().map(DataFile::file_size_in_bytes).sum();
        Ok(())
    }

    /// Deletes the files of a commit that won't happen as prepared, and what is in memory because of it.
    async fn discard(&mut self, prepared: Prepared) {
        for window in &mut self.windows {
            window.forget();
        }
        for location in prepared.written {
            if let Err(error) = self.lake.storage().delete(&location).await {
                tracing::warn!(%error, location, "can't delete a file that is not part of any table");
            }
        }
    }
}

/// Creates the window table when it is missing; otherwise checks that its windows have the configured length.
async fn window_spec(lake: &Lake, window: &WindowSpec) -> Result<TableSpec, LakeError> {
    let mut spec = TableSpec::window(&window.table);
    let expected = window.every_micros().to_string();
    spec.properties
        .insert(WINDOW_MICROS_PROPERTY.to_owned(), expected.clone());
    lake.ensure_table(&spec).await?;
    let loaded = lake.load(&spec.name).await?;
    match loaded.metadata.properties().get(WINDOW_MICROS_PROPERTY) {
        Some(found) if *found != expected => Err(LakeError::WindowLength {
            table: spec.name,
            found: found.clone(),
            expected,
        }),
        _ => Ok(spec),
    }
}

async fn rebuild(
    lake: &Lake,
    epoch: WriterEpoch,
    window: &mut WindowTable,
    hasher: &SeriesHasher,
    properties: &BTreeMap<String, String>,
    written: &mut Vec<String>,
) -> Result<(), RebuildError> {
    let rebuilt = window
        .rebuild(lake, hasher, written)
        .await
        .map_err(|error| RebuildError::Rows {
            table: window.name().to_string(),
            detail: error.to_string(),
        })?;
    let change = TableChange {
        table: window.name().to_string(),
        add: rebuilt.add,
        remove: rebuilt.remove,
        set_properties: properties.clone(),
        summary: properties.clone(),
    };
    lake.commit(epoch, vec![change]).await?;
    Ok(())
}

async fn write_days(
    lake: &Lake,
    format: &FileFormat,
    days: &[(i32, RecordBatch)],
    written: &mut Vec<String>,
) -> Result<Vec<DataFile>, FileError> {
    let mut files = Vec::with_capacity(days.len());
    for (day, rows) in days {
        let file = format.write(lake, *day, std::slice::from_ref(rows)).await?;
        written.push(file.file_path().to_owned());
        files.push(file);
    }
    Ok(files)
}
