//! Commits: several tables move together, or none does.
//!
//! The order: data files are on stable storage already → manifests, manifest list and metadata file of every table
//! are written and synced → one catalog transaction moves all pointers, if the writer's epoch still holds and no
//! pointer has moved meanwhile → metadata files that fell out of the log are deleted. Whatever was written for a
//! commit that certainly did not happen is deleted again.

mod metadata;
mod snapshot;
#[cfg(test)]
pub(crate) mod tests;

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use futures::future::join_all;
use iceberg::spec::{DataFile, TableMetadataRef};

use crate::catalog::sqlite::{Moved, PointerMove};
use crate::catalog::{Lake, LakeError, LoadedTable, WriterEpoch};
use crate::tables::NAMESPACE;

/// How often a commit is rebased on the commits of others before it gives up.
const ATTEMPTS: u32 = 5;

/// What a commit does to one table.
#[derive(Clone, Debug, Default)]
pub struct TableChange {
    /// The table's name.
    pub table: String,
    /// Files that become part of the table; they are on stable storage already.
    pub add: Vec<DataFile>,
    /// Locations of files that stop being part of it. The files themselves stay for older snapshots.
    pub remove: Vec<String>,
    /// Table properties to set.
    pub set_properties: BTreeMap<String, String>,
    /// Further entries of the snapshot's summary. Without files there is no snapshot, and these are dropped.
    pub summary: BTreeMap<String, String>,
}

/// What a commit did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Committed {
    /// One for each change, in the same order.
    pub tables: Vec<CommittedTable>,
}

/// Where a commit left one table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommittedTable {
    /// The table's name.
    pub table: String,
    /// The snapshot that was made; none when only properties changed.
    pub snapshot_id: Option<i64>,
    /// The table's metadata file.
    pub metadata_location: String,
}

/// Why a commit did not happen.
#[derive(Debug, thiserror::Error)]
pub enum CommitError {
    /// Another writer claimed the lake: this one must stop.
    #[error("writer epoch {held} was taken over by {current}")]
    Fenced {
        /// The epoch of this writer.
        held: u64,
        /// The epoch that the catalog has.
        current: u64,
    },
    /// Others changed the tables again and again while this commit was prepared.
    #[error("table {table} was changed by others during each of {attempts} attempts")]
    Conflict {
        /// The table.
        table: String,
        /// How often the commit was tried.
        attempts: u32,
    },
    /// A file to remove is not part of the table (any more).
    #[error("table {table} has no file {location} to remove")]
    NoSuchFile {
        /// The table.
        table: String,
        /// The file.
        location: String,
    },
    /// One commit names the table twice.
    #[error("table {table} is named twice in one commit")]
    NamedTwice {
        /// The table.
        table: String,
    },
    /// The table has an Iceberg format that is not written.
    #[error("table {table} has Iceberg format {found}, tarn writes v2: recreate the table as v2")]
    Format {
        /// The table.
        table: String,
        /// Its format.
        found: String,
    },
    /// Nothing was changed.
    #[error(transparent)]
    Lake(#[from] LakeError),
    /// The catalog failed in such a way that the commit may or may not stand: read the tables again.
    #[error("the outcome of the commit is unknown: {0}")]
    Unknown(LakeError),
}

impl CommitError {
    /// Nothing was changed and nothing will be: files written for this commit are not part of any table.
    pub fn is_certain(&self) -> bool {
        !matches!(self, Self::Unknown(_))
    }
}

impl Lake {
    /// Changes all tables in one catalog transaction: when this returns, every change is visible and on stable
    /// storage, or (on any error but [`CommitError::Unknown`]) none is. Commits of others are rebased upon, at most
    /// five times. The added data files are the caller's: they are not deleted when the commit fails.
    pub async fn commit(
        &self,
        epoch: WriterEpoch,
        changes: Vec<TableChange>,
    ) -> Result<Committed, CommitError> {
        check_names(&changes)?;
        let _turn = self.inner.commit_turn.lock().await;
        let mut last_conflict = String::new();
        for _ in 0..ATTEMPTS {
            let written = Written::default();
            let done = self.attempt(epoch, &changes, &written).await;
            if !matches!(done, Attempt::Done(_) | Attempt::Failed(CommitError::Unknown(_))) {
                self.discard(written.take()).await;
            }
            match done {
                Attempt::Done(committed) => return Ok(committed),
                Attempt::Failed(error) => return Err(error),
                Attempt::Conflict(table) => last_conflict = table,
            }
        }
        Err(CommitError::Conflict {
            table: last_conflict,
            attempts: ATTEMPTS,
        })
    }

    async fn attempt(&self, epoch: WriterEpoch, changes: &[TableChange], written: &Written) -> Attempt {
        // All are awaited even when one failed: no write may still be under way when its file is deleted.
        let prepared = join_all(changes.iter().map(|change| self.prepare(change, written))).await;
        let prepared: Vec<Prepared> = match prepared.into_iter().collect() {
            Ok(prepared) => prepared,
            Err(error) => return Attempt::Failed(error),
        };
        let moves: Vec<PointerMove> = prepared.iter().filter_map(Prepared::pointer_move).collect();
        match self.inner.catalog.move_pointers(epoch.0, moves).await {
            Ok(Moved::All) => Attempt::Done(self.finish(prepared).await),
            Ok(Moved::Conflict { table }) => Attempt::Conflict(table),
            Ok(Moved::Fenced { current }) => Attempt::Failed(CommitError::Fenced {
                held: epoch.0,
                current,
            }),
            Ok(Moved::Unknown(error)) => match self.stands(&prepared).await {
                true => Attempt::Done(self.finish(prepared).await),
                // A failed sync may yet surface after a crash: only a later read can tell.
                false => Attempt::Failed(CommitError::Unknown(error.into())),
            },
            Err(error) => Attempt::Failed(CommitError::Lake(error.into())),
        }
    }

    /// Writes everything that the table's change needs but the pointer.
    async fn prepare(&self, change: &TableChange, written: &Written) -> Result<Prepared, CommitError> {
        let before = self.load(&change.table).await?;
        if change.is_empty() {
            return Ok(Prepared {
                table: change.table.clone(),
                before,
                after: None,
            });
        }
        let snapshot = match change.add.is_empty() && change.remove.is_empty() {
            true => None,
            false => Some(snapshot::write(&self.inner.file_io, &before, change, written).await?),
        };
        let snapshot_id = snapshot.as_ref().map(|snapshot| snapshot.snapshot_id());
        let failed = |source| LakeError::Iceberg {
            table: change.table.clone(),
            source: Box::new(source),
        };
        let next = metadata::next(&before, snapshot, &change.set_properties).map_err(failed)?;
        written.add(next.location.to_string());
        next.metadata
            .write_to(&self.inner.file_io, &next.location)
            .await
            .map_err(failed)?;
        let after = After {
            metadata: next.metadata.into(),
            location: next.location.to_string(),
            snapshot_id,
            expired_metadata: next.expired_metadata,
        };
        Ok(Prepared {
            table: change.table.clone(),
            before,
            after: Some(after),
        })
    }

    /// The catalog points at what was prepared, for every table.
    async fn stands(&self, prepared: &[Prepared]) -> bool {
        for step in prepared.iter().filter_map(Prepared::pointer_move) {
            match self.inner.catalog.pointer(NAMESPACE, &step.table).await {
                Ok(Some(now)) if now == step.to => {}
                _ => return false,
            }
        }
        true
    }

    async fn finish(&self, prepared: Vec<Prepared>) -> Committed {
        let mut tables = Vec::with_capacity(prepared.len());
        let mut expired = Vec::new();
        for Prepared { table, before, after } in prepared {
            let Some(after) = after else {
                let metadata_location = before.metadata_location;
                tables.push(CommittedTable {
                    table,
                    snapshot_id: None,
                    metadata_location,
                });
                continue;
            };
            expired.extend(after.expired_metadata);
            let loaded = LoadedTable {
                metadata: after.metadata,
                metadata_location: after.location.clone(),
            };
            self.remember(&table, loaded);
            let metadata_location = after.location;
            tables.push(CommittedTable {
                table,
                snapshot_id: after.snapshot_id,
                metadata_location,
            });
        }
        self.discard(expired).await;
        Committed { tables }
    }

    /// Deletes files that nothing refers to. What can't be deleted now is left for the removal of orphans.
    async fn discard(&self, locations: Vec<String>) {
        for location in locations {
            if let Err(error) = self.inner.storage.delete(&location).await {
                tracing::warn!(%error, location, "can't delete a file that is no longer needed");
            }
        }
    }
}

impl TableChange {
    fn is_empty(&self) -> bool {
        self.add.is_empty() && self.remove.is_empty() && self.set_properties.is_empty()
    }
}

enum Attempt {
    Done(Committed),
    Conflict(String),
    Failed(CommitError),
}

struct Prepared {
    table: String,
    before: LoadedTable,
    /// `None`: the change says nothing.
    after: Option<After>,
}

struct After {
    metadata: TableMetadataRef,
    location: String,
    snapshot_id: Option<i64>,
    expired_metadata: Vec<String>,
}

impl Prepared {
    fn pointer_move(&self) -> Option<PointerMove> {
        let after = self.after.as_ref()?;
        let from = self.before.metadata_location.clone();
        Some(PointerMove {
            table: self.table.clone(),
            from,
            to: after.location.clone(),
        })
    }
}

/// The files that one attempt writes, each noted before it is written.
#[derive(Default)]
struct Written(Mutex<Vec<String>>);

impl Written {
    fn add(&self, location: String) {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(location);
    }

    fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

fn check_names(changes: &[TableChange]) -> Result<(), CommitError> {
    let mut names: Vec<&str> = changes.iter().map(|change| change.table.as_str()).collect();
    names.sort_unstable();
    match names.windows(2).find(|pair| pair[0] == pair[1]) {
        Some(pair) => Err(CommitError::NamedTwice {
            table: pair[0].to_owned(),
        }),
        None => Ok(()),
    }
}
