//! The catalog's SQLite file: Iceberg's JDBC catalog tables (schema V1), and one row of Tarn's own with the format
//! version and the writer's epoch. PyIceberg's `SqlCatalog` opens the same file.
//!
//! Write-ahead log with `synchronous = FULL`: a transaction that returned is on stable storage.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, OptionalExtension, Transaction, TransactionBehavior, params};

use crate::storage::create_dir_synced;
use crate::tables::NAMESPACE;

/// The catalog's name in `iceberg_tables`: what `SqlCatalog("lake", …)` asks for.
pub const CATALOG_NAME: &str = "lake";

/// The layout of this file that is written, and the newest that is read.
const FORMAT_VERSION: i64 = 1;

/// How long a statement waits for another process that writes to the file.
const BUSY_TIMEOUT: Duration = Duration::from_secs(10);

const SCHEMA: &str = "
CREATE TABLE IF NOT EXISTS iceberg_tables (
    catalog_name VARCHAR(255) NOT NULL,
    table_namespace VARCHAR(255) NOT NULL,
    table_name VARCHAR(255) NOT NULL,
    metadata_location VARCHAR(1000),
    previous_metadata_location VARCHAR(1000),
    iceberg_type VARCHAR(5),
    PRIMARY KEY (catalog_name, table_namespace, table_name)
);
CREATE TABLE IF NOT EXISTS iceberg_namespace_properties (
    catalog_name VARCHAR(255) NOT NULL,
    namespace VARCHAR(255) NOT NULL,
    property_key VARCHAR(255) NOT NULL,
    property_value VARCHAR(1000) NOT NULL,
    PRIMARY KEY (catalog_name, namespace, property_key)
);
CREATE TABLE IF NOT EXISTS tarn_lake (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    format_version INTEGER NOT NULL,
    writer_epoch INTEGER NOT NULL
);
";

/// Why the catalog can't be used.
#[derive(Debug, thiserror::Error)]
pub enum CatalogError {
    /// The directory of the file can't be created.
    #[error("directory of catalog {}: {source}", path.display())]
    Directory {
        /// The catalog's file.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// SQLite refused.
    #[error("catalog {}: {source}", path.display())]
    Sqlite {
        /// The catalog's file.
        path: PathBuf,
        /// What SQLite said.
        source: rusqlite::Error,
    },
    /// The file was written by a newer version.
    #[error(
        "catalog {} has format version {found}, this version of tarn reads up to {supported}: \
         upgrade tarn, or restore a backup made before the upgrade",
        path.display()
    )]
    TooNew {
        /// The catalog's file.
        path: PathBuf,
        /// The format version of the file.
        found: i64,
        /// The newest format version that is understood.
        supported: i64,
    },
    /// The thread that worked on the file ended early.
    #[error("catalog {}: the statement was cut off", path.display())]
    Interrupted {
        /// The catalog's file.
        path: PathBuf,
    },
}

/// A table's pointer moves from `from` to `to`, if it still is `from`.
#[derive(Clone, Debug)]
pub(crate) struct PointerMove {
    pub(crate) table: String,
    pub(crate) from: String,
    pub(crate) to: String,
}

/// What became of a transaction of pointer moves.
#[derive(Debug)]
pub(crate) enum Moved {
    /// All pointers moved.
    All,
    /// None moved: the epoch is not the writer's any more.
    Fenced { current: u64 },
    /// None moved: this table's pointer was not where it was expected.
    Conflict { table: String },
    /// The commit itself failed: it may or may not stand.
    Unknown(CatalogError),
}

/// The open file. Cheap to clone; all clones share one connection.
#[derive(Clone, Debug)]
pub(crate) struct SqliteCatalog {
    path: PathBuf,
    connection: Arc<Mutex<Connection>>,
}

impl SqliteCatalog {
    /// Opens the file, creates it when it is missing, and refuses one of a newer version before it writes to it.
    pub(crate) async fn open(path: &Path) -> Result<Self, CatalogError> {
        let path = path.to_owned();
        let opened = path.clone();
        match tokio::task::spawn_blocking(move || open_blocking(&opened)).await {
            Ok(connection) => Ok(Self {
                connection: Arc::new(Mutex::new(connection?)),
                path,
            }),
            Err(_) => Err(CatalogError::Interrupted { path }),
        }
    }

    /// Raises the writer's epoch and returns it.
    pub(crate) async fn claim_writer(&self) -> Result<u64, CatalogError> {
        self.write(|tx| {
            let sql =
                "UPDATE tarn_lake SET writer_epoch = writer_epoch + 1 WHERE id = 1 RETURNING writer_epoch";
            tx.query_row(sql, [], |row| row.get::<_, i64>(0))
        })
        .await
        .map(i64::unsigned_abs)
    }

    /// The table's metadata location, if the table exists.
    pub(crate) async fn pointer(&self, namespace: &str, table: &str) -> Result<Option<String>, CatalogError> {
        let (namespace, table) = (namespace.to_owned(), table.to_owned());
        self.run(move |connection| {
            let sql = "SELECT metadata_location FROM iceberg_tables
                 WHERE catalog_name = ?1 AND table_namespace = ?2 AND table_name = ?3
                   AND (iceberg_type = 'TABLE' OR iceberg_type IS NULL)";
            let mut statement = connection.prepare_cached(sql)?;
            statement
                .query_row(params![CATALOG_NAME, namespace, table], |row| row.get(0))
                .optional()
        })
        .await
        .map(Option::flatten)
    }

    /// Adds the table, unless it exists. `true`: added.
    pub(crate) async fn create(&self, table: &str, location: &str) -> Result<bool, CatalogError> {
        let (table, location) = (table.to_owned(), location.to_owned());
        self.write(move |tx| {
            let sql = "INSERT INTO iceberg_tables
                 (catalog_name, table_namespace, table_name, metadata_location, iceberg_type)
                 VALUES (?1, ?2, ?3, ?4, 'TABLE') ON CONFLICT DO NOTHING";
            Ok(tx.execute(sql, params![CATALOG_NAME, NAMESPACE, table, location])? == 1)
        })
        .await
    }

    /// The tables of a namespace, sorted.
    pub(crate) async fn tables(&self, namespace: &str) -> Result<Vec<String>, CatalogError> {
        let namespace = namespace.to_owned();
        self.run(move |connection| {
            let sql = "SELECT table_name FROM iceberg_tables
                 WHERE catalog_name = ?1 AND table_namespace = ?2
                   AND (iceberg_type = 'TABLE' OR iceberg_type IS NULL) ORDER BY table_name";
            let mut statement = connection.prepare_cached(sql)?;
            let rows = statement.query_map(params![CATALOG_NAME, namespace], |row| row.get(0))?;
            rows.collect()
        })
        .await
    }

    /// All namespaces, dotted, sorted.
    pub(crate) async fn namespaces(&self) -> Result<Vec<String>, CatalogError> {
        self.run(|connection| {
            let sql = "SELECT namespace FROM iceberg_namespace_properties WHERE catalog_name = ?1
                 UNION SELECT table_namespace FROM iceberg_tables WHERE catalog_name = ?1 ORDER BY 1";
            let mut statement = connection.prepare_cached(sql)?;
            let rows = statement.query_map([CATALOG_NAME], |row| row.get(0))?;
            rows.collect()
        })
        .await
    }

    /// The properties of a namespace, sorted by key, without the marker that it exists.
    pub(crate) async fn namespace_properties(
        &self,
        namespace: &str,
    ) -> Result<Vec<(String, String)>, CatalogError> {
        let namespace = namespace.to_owned();
        self.run(move |connection| {
            let sql = "SELECT property_key, property_value FROM iceberg_namespace_properties
                 WHERE catalog_name = ?1 AND namespace = ?2 AND property_key <> 'exists' ORDER BY property_key";
            let mut statement = connection.prepare_cached(sql)?;
            let rows =
                statement.query_map([CATALOG_NAME, &namespace], |row| Ok((row.get(0)?, row.get(1)?)))?;
            rows.collect()
        })
        .await
    }

    /// Moves all pointers in one transaction, or none. The writer's epoch is held against the catalog's in the
    /// same statement as each pointer. An error means that nothing moved.
    pub(crate) async fn move_pointers(
        &self,
        epoch: u64,
        moves: Vec<PointerMove>,
    ) -> Result<Moved, CatalogError> {
        let path = self.path.clone();
        let done = self.run(move |connection| {
            let tx = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            for step in &moves {
                if !move_pointer(&tx, epoch, step)? {
                    let current = current_epoch(&tx)?;
                    tx.rollback()?;
                    return Ok(if current == epoch {
                        Moved::Conflict {
                            table: step.table.clone(),
                        }
                    } else {
                        Moved::Fenced { current }
                    });
                }
            }
            Ok(match tx.commit() {
                Ok(()) => Moved::All,
                Err(source) => Moved::Unknown(CatalogError::Sqlite { path, source }),
            })
        });
        match done.await {
            Err(error @ CatalogError::Interrupted { .. }) => Ok(Moved::Unknown(error)),
            other => other,
        }
    }

    async fn write<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Transaction<'_>) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, CatalogError> {
        self.run(move |connection| {
            let tx = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let done = work(&tx)?;
            tx.commit()?;
            Ok(done)
        })
        .await
    }

    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, CatalogError> {
        let connection = self.connection.clone();
        let task = tokio::task::spawn_blocking(move || {
            // A panic while the lock was held rolled its transaction back: the connection is sound.
            let mut connection = connection.lock().unwrap_or_else(PoisonError::into_inner);
            work(&mut connection)
        });
        match task.await {
            Ok(done) => done.map_err(|source| CatalogError::Sqlite {
                path: self.path.clone(),
                source,
            }),
            Err(_) => Err(CatalogError::Interrupted {
                path: self.path.clone(),
            }),
        }
    }
}

fn move_pointer(tx: &Transaction<'_>, epoch: u64, step: &PointerMove) -> rusqlite::Result<bool> {
    let sql = "UPDATE iceberg_tables SET metadata_location = ?1, previous_metadata_location = ?2
         WHERE catalog_name = ?3 AND table_namespace = ?4 AND table_name = ?5 AND metadata_location = ?2
           AND (SELECT writer_epoch FROM tarn_lake WHERE id = 1) = ?6";
    let mut statement = tx.prepare_cached(sql)?;
    let values = params![
        step.to,
        step.from,
        CATALOG_NAME,
        NAMESPACE,
        step.table,
        epoch.cast_signed()
    ];
    Ok(statement.execute(values)? == 1)
}

fn current_epoch(connection: &Connection) -> rusqlite::Result<u64> {
    let sql = "SELECT writer_epoch FROM tarn_lake WHERE id = 1";
    connection
        .query_row(sql, [], |row| row.get::<_, i64>(0))
        .map(i64::unsigned_abs)
}

fn open_blocking(path: &Path) -> Result<Connection, CatalogError> {
    if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        let failed = |source| CatalogError::Directory {
            path: path.to_owned(),
            source,
        };
        create_dir_synced(parent).map_err(failed)?;
    }
    let failed = |source| CatalogError::Sqlite {
        path: path.to_owned(),
        source,
    };
    let mut connection = Connection::open(path).map_err(failed)?;
    connection.busy_timeout(BUSY_TIMEOUT).map_err(failed)?;
    if let Some(found) = format_version(&connection).map_err(failed)?
        && found > FORMAT_VERSION
    {
        return Err(CatalogError::TooNew {
            path: path.to_owned(),
            found,
            supported: FORMAT_VERSION,
        });
    }
    prepare(&mut connection).map_err(failed)?;
    Ok(connection)
}

/// `None`: the file is new.
fn format_version(connection: &Connection) -> rusqlite::Result<Option<i64>> {
    let read = connection
        .query_row("SELECT format_version FROM tarn_lake WHERE id = 1", [], |row| {
            row.get(0)
        })
        .optional();
    match read {
        Err(rusqlite::Error::SqliteFailure(error, Some(text)))
            if error.code == ErrorCode::Unknown && text.contains("no such table") =>
        {
            Ok(None)
        }
        other => other,
    }
}

fn prepare(connection: &mut Connection) -> rusqlite::Result<()> {
    connection.pragma_update_and_check(None, "journal_mode", "WAL", |_| Ok(()))?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    let tx = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    tx.execute_batch(SCHEMA)?;
    tx.execute(
        "INSERT INTO tarn_lake (id, format_version, writer_epoch) VALUES (1, ?1, 0) ON CONFLICT DO NOTHING",
        [FORMAT_VERSION],
    )?;
    tx.execute(
        "INSERT INTO iceberg_namespace_properties (catalog_name, namespace, property_key, property_value)
         VALUES (?1, ?2, 'exists', 'true') ON CONFLICT DO NOTHING",
        [CATALOG_NAME, NAMESPACE],
    )?;
    tx.commit()
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn catalog() -> (tempfile::TempDir, SqliteCatalog) {
        let dir = tempfile::tempdir().unwrap();
        let catalog = SqliteCatalog::open(&dir.path().join("deep/catalog.db"))
            .await
            .unwrap();
        (dir, catalog)
    }

    fn step(table: &str, from: &str, to: &str) -> PointerMove {
        PointerMove {
            table: table.into(),
            from: from.into(),
            to: to.into(),
        }
    }

    #[tokio::test]
    async fn pointers_move_together_or_not_at_all() {
        let (_dir, catalog) = catalog().await;
        let epoch = catalog.claim_writer().await.unwrap();
        assert!(catalog.create("a", "a0").await.unwrap());
        assert!(!catalog.create("a", "other").await.unwrap());
        assert!(catalog.create("b", "b0").await.unwrap());
        let stale = vec![step("a", "a0", "a1"), step("b", "b9", "b1")];
        let moved = catalog.move_pointers(epoch, stale).await.unwrap();
        assert!(matches!(moved, Moved::Conflict { table } if table == "b"));
        assert_eq!(
            catalog.pointer(NAMESPACE, "a").await.unwrap().as_deref(),
            Some("a0")
        );
        let good = vec![step("a", "a0", "a1"), step("b", "b0", "b1")];
        assert!(matches!(
            catalog.move_pointers(epoch, good).await.unwrap(),
            Moved::All
        ));
        assert_eq!(
            catalog.pointer(NAMESPACE, "a").await.unwrap().as_deref(),
            Some("a1")
        );
        assert_eq!(
            catalog.pointer(NAMESPACE, "b").await.unwrap().as_deref(),
            Some("b1")
        );
        assert_eq!(catalog.pointer(NAMESPACE, "none").await.unwrap(), None);
    }

    #[tokio::test]
    async fn an_older_epoch_is_fenced_in_the_same_statement() {
        let (dir, first) = catalog().await;
        let second = SqliteCatalog::open(&dir.path().join("deep/catalog.db"))
            .await
            .unwrap();
        first.create("a", "a0").await.unwrap();
        let old = first.claim_writer().await.unwrap();
        let new = second.claim_writer().await.unwrap();
        assert!(new > old);
        let moved = first
            .move_pointers(old, vec![step("a", "a0", "a1")])
            .await
            .unwrap();
        assert!(matches!(moved, Moved::Fenced { current } if current == new));
        assert_eq!(
            second.pointer(NAMESPACE, "a").await.unwrap().as_deref(),
            Some("a0")
        );
        let moved = second
            .move_pointers(new, vec![step("a", "a0", "a2")])
            .await
            .unwrap();
        assert!(matches!(moved, Moved::All));
    }

    #[tokio::test]
    async fn a_newer_file_is_refused_and_left_alone() {
        let (dir, catalog) = catalog().await;
        drop(catalog);
        let path = dir.path().join("deep/catalog.db");
        let raw = Connection::open(&path).unwrap();
        raw.execute("UPDATE tarn_lake SET format_version = 7", [])
            .unwrap();
        drop(raw);
        let error = SqliteCatalog::open(&path).await.unwrap_err();
        let text = error.to_string().replace(&path.display().to_string(), "FILE");
        expect_test::expect!["catalog FILE has format version 7, this version of tarn reads up to 1: upgrade tarn, or restore a backup made before the upgrade"].assert_eq(&text);
    }

    #[tokio::test]
    async fn a_file_that_is_no_database_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("catalog.db");
        std::fs::write(
            &path,
            "not a database, but long enough to be looked at".repeat(40),
        )
        .unwrap();
        let error = SqliteCatalog::open(&path).await.unwrap_err();
        assert!(matches!(error, CatalogError::Sqlite { .. }), "{error}");
        assert!(error.to_string().contains("catalog.db"), "{error}");
    }

    #[tokio::test]
    async fn the_file_is_synced_in_full_and_lists_what_is_there() {
        let (_dir, catalog) = catalog().await;
        let (mode, sync): (String, i64) = catalog
            .run(|c| {
                let mode = c.pragma_query_value(None, "journal_mode", |row| row.get(0))?;
                Ok((mode, c.pragma_query_value(None, "synchronous", |row| row.get(0))?))
            })
            .await
            .unwrap();
        assert_eq!((mode.as_str(), sync), ("wal", 2));
        catalog.create("b", "b0").await.unwrap();
        catalog.create("a", "a0").await.unwrap();
        assert_eq!(catalog.tables(NAMESPACE).await.unwrap(), ["a", "b"]);
        assert_eq!(catalog.namespaces().await.unwrap(), [NAMESPACE]);
        assert_eq!(catalog.namespace_properties(NAMESPACE).await.unwrap(), []);
    }
}
