//! The warehouse: files named by location, on local disk (synced) or in memory.
//!
//! A location is the warehouse's root URL and a path below it, unescaped, as every Iceberg reader takes it:
//! `file:///var/lib/tarn/warehouse/iot/readings/metadata/v1.json`. No location outside of the root is ever
//! read, written or deleted. A write that returned is on stable storage: the file and its directory entries are
//! synced before `put` or `FileWrite::close` return.

use std::ops::Range;
use std::path::{Path as FsPath, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use iceberg::io::{
    FileIO, FileIOBuilder, FileMetadata, FileRead, FileWrite, InputFile, OutputFile, Storage, StorageConfig,
    StorageFactory,
};
use iceberg::{Error as IcebergError, ErrorKind, Result as IcebergResult};
use object_store::buffered::BufWriter;
use object_store::local::LocalFileSystem;
use object_store::memory::InMemory;
use object_store::path::Path as StorePath;
use object_store::{ObjectStore, ObjectStoreExt};
use serde::{Deserialize, Serialize};
use tokio::io::AsyncWriteExt;

/// Bytes that a writer holds back before it starts a file in parts.
const WRITER_BUFFER_BYTES: usize = 4 * 1024 * 1024;

/// Which warehouse to open.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Warehouse {
    /// A directory, created when missing. Locations are `file:///…`.
    Local(PathBuf),
    /// The process's memory, for tests. Locations are `memory:///…`.
    Memory,
}

/// Why a file of the warehouse could not be reached.
#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    /// The directory can't be created or resolved.
    #[error("warehouse {} can't be opened: {source}", path.display())]
    Open {
        /// The directory asked for.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// The directory's name is not UTF-8, so that no location can name its files.
    #[error("warehouse {} is not named in UTF-8", path.display())]
    NotUtf8 {
        /// The directory asked for.
        path: PathBuf,
    },
    /// The location does not lie below the warehouse's root.
    #[error(
        "{location} is not a file below the warehouse {root}; tables name their files in full: if the warehouse was \
         moved, move it back"
    )]
    Outside {
        /// The location asked for.
        location: String,
        /// The warehouse's root.
        root: String,
    },
    /// The store refused.
    #[error("{location}: {source}")]
    Store {
        /// The location asked for.
        location: String,
        /// What the store said.
        source: object_store::Error,
    },
}

impl StorageError {
    /// There is no such file.
    pub fn is_not_found(&self) -> bool {
        matches!(
            self,
            Self::Store {
                source: object_store::Error::NotFound { .. },
                ..
            }
        )
    }
}

impl From<StorageError> for IcebergError {
    fn from(error: StorageError) -> Self {
        match error {
            StorageError::Store { location, source } => {
                IcebergError::new(ErrorKind::Unexpected, location).with_source(source)
            }
            other => IcebergError::new(ErrorKind::Unexpected, other.to_string()),
        }
    }
}

/// An open warehouse. Cheap to clone.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(into = "Warehouse", try_from = "Warehouse")]
pub struct LakeStorage {
    warehouse: Warehouse,
    root: Arc<str>,
    store: Arc<dyn ObjectStore>,
}

impl LakeStorage {
    /// Opens the warehouse; creates a local one's directory when it is missing. Blocks on the disk for as long as
    /// that takes.
    pub fn open(warehouse: Warehouse) -> Result<Self, StorageError> {
        match warehouse {
            Warehouse::Memory => Ok(Self::over(
                Warehouse::Memory,
                "memory://",
                Arc::new(InMemory::new()),
            )),
            Warehouse::Local(path) => {
                let failed = |source| StorageError::Open {
                    path: path.clone(),
                    source,
                };
                create_dir_synced(&path).map_err(failed)?;
                let real = std::fs::canonicalize(&path).map_err(failed)?;
                let root = local_root(&real)?;
                let store = LocalFileSystem::new_with_prefix(&real)
                    .map_err(|source| StorageError::Store {
                        location: root.clone(),
                        source,
                    })?
                    .with_fsync(true);
                Ok(Self::over(Warehouse::Local(real), &root, Arc::new(store)))
            }
        }
    }

    /// The same, over a store of the caller's own; `root` is the URL that its paths hang below, without a slash at
    /// the end.
    pub fn over(warehouse: Warehouse, root: &str, store: Arc<dyn ObjectStore>) -> Self {
        Self {
            warehouse,
            root: Arc::from(root),
            store,
        }
    }

    /// The URL that every location starts with, without a slash at the end.
    pub fn root(&self) -> &str {
        &self.root
    }

    /// The store below the root.
    pub fn store(&self) -> &Arc<dyn ObjectStore> {
        &self.store
    }

    /// The path of `location` in [`Self::store`].
    pub fn path(&self, location: &str) -> Result<StorePath, StorageError> {
        let outside = || StorageError::Outside {
            location: location.to_owned(),
            root: self.root.to_string(),
        };
        let single_slash = location
            .strip_prefix("file:/")
            .filter(|rest| !rest.starts_with('/'));
        let normal = match single_slash {
            Some(rest) => format!("file:///{rest}"),
            None => location.to_owned(),
        };
        let below = normal.strip_prefix(&*self.root).ok_or_else(outside)?;
        if !below.starts_with('/') || below.len() < 2 {
            return Err(outside());
        }
        StorePath::parse(below).map_err(|_| outside())
    }

    /// Writes a whole file; on stable storage when this returns. A file of that name is replaced as a whole.
    pub async fn put(&self, location: &str, bytes: Bytes) -> Result<(), StorageError> {
        let path = self.path(location)?;
        let failed = |source| StorageError::Store {
            location: location.to_owned(),
            source,
        };
        self.store
            .put(&path, bytes.into())
            .await
            .map(drop)
            .map_err(failed)
    }

    /// Reads a whole file.
    pub async fn get(&self, location: &str) -> Result<Bytes, StorageError> {
        let path = self.path(location)?;
        let failed = |source| StorageError::Store {
            location: location.to_owned(),
            source,
        };
        self.store
            .get(&path)
            .await
            .map_err(failed)?
            .bytes()
            .await
            .map_err(failed)
    }

    /// A writer for a file of unknown size, in bounded memory. The file exists, synced, once `shutdown` returned;
    /// a writer that is dropped before leaves none.
    pub fn writer(&self, location: &str) -> Result<BufWriter, StorageError> {
        let path = self.path(location)?;
        Ok(BufWriter::with_capacity(self.store.clone(), path, WRITER_BUFFER_BYTES).with_max_concurrency(2))
    }

    /// Deletes one file; that it was gone already is no error.
    pub async fn delete(&self, location: &str) -> Result<(), StorageError> {
        let path = self.path(location)?;
        match self.store.delete(&path).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(source) => Err(StorageError::Store {
                location: location.to_owned(),
                source,
            }),
        }
    }

    /// The warehouse as Iceberg's file interface.
    pub fn file_io(&self) -> FileIO {
        FileIOBuilder::new(Arc::new(self.clone())).build()
    }
}

/// Creates the directory and those above it that are missing, on stable storage.
pub(crate) fn create_dir_synced(path: &FsPath) -> std::io::Result<()> {
    let path = std::path::absolute(path)?;
    let missing: Vec<&FsPath> = path.ancestors().take_while(|dir| !dir.exists()).collect();
    std::fs::create_dir_all(&path)?;
    for dir in missing {
        if let Some(parent) = dir.parent() {
            std::fs::File::open(parent)?.sync_all()?;
        }
    }
    Ok(())
}

fn local_root(real: &FsPath) -> Result<String, StorageError> {
    let text = real.to_str().ok_or_else(|| StorageError::NotUtf8 {
        path: real.to_owned(),
    })?;
    Ok(format!("file://{}", text.trim_end_matches('/')))
}

impl From<LakeStorage> for Warehouse {
    fn from(storage: LakeStorage) -> Self {
        storage.warehouse
    }
}

impl TryFrom<Warehouse> for LakeStorage {
    type Error = StorageError;

    fn try_from(warehouse: Warehouse) -> Result<Self, StorageError> {
        Self::open(warehouse)
    }
}

#[typetag::serde(name = "TarnWarehouse")]
impl StorageFactory for LakeStorage {
    fn build(&self, _config: &StorageConfig) -> IcebergResult<Arc<dyn Storage>> {
        Ok(Arc::new(self.clone()))
    }
}

#[async_trait]
#[typetag::serde(name = "TarnWarehouse")]
impl Storage for LakeStorage {
    async fn exists(&self, path: &str) -> IcebergResult<bool> {
        let at = self.path(path)?;
        match self.store.head(&at).await {
            Ok(_) => Ok(true),
            Err(object_store::Error::NotFound { .. }) => Ok(false),
            Err(source) => Err(StorageError::Store {
                location: path.to_owned(),
                source,
            }
            .into()),
        }
    }

    async fn metadata(&self, path: &str) -> IcebergResult<FileMetadata> {
        let at = self.path(path)?;
        let failed = |source| StorageError::Store {
            location: path.to_owned(),
            source,
        };
        let size = self.store.head(&at).await.map_err(failed)?.size;
        Ok(FileMetadata { size })
    }

    async fn read(&self, path: &str) -> IcebergResult<Bytes> {
        Ok(self.get(path).await?)
    }

    async fn reader(&self, path: &str) -> IcebergResult<Box<dyn FileRead>> {
        let at = self.path(path)?;
        Ok(Box::new(RangeReader {
            store: self.store.clone(),
            location: path.to_owned(),
            path: at,
        }))
    }

    async fn write(&self, path: &str, bs: Bytes) -> IcebergResult<()> {
        Ok(self.put(path, bs).await?)
    }

    async fn writer(&self, path: &str) -> IcebergResult<Box<dyn FileWrite>> {
        let writer = LakeStorage::writer(self, path)?;
        Ok(Box::new(PartWriter {
            location: path.to_owned(),
            writer,
        }))
    }

    async fn delete(&self, path: &str) -> IcebergResult<()> {
        Ok(LakeStorage::delete(self, path).await?)
    }

    async fn delete_prefix(&self, path: &str) -> IcebergResult<()> {
        let at = self.path(path)?;
        let failed = |source| StorageError::Store {
            location: path.to_owned(),
            source,
        };
        let mut listed = self.store.list(Some(&at));
        while let Some(object) = listed.next().await {
            let object = object.map_err(failed)?;
            self.store.delete(&object.location).await.map_err(failed)?;
        }
        Ok(())
    }

    async fn delete_stream(&self, mut paths: BoxStream<'static, String>) -> IcebergResult<()> {
        while let Some(path) = paths.next().await {
            LakeStorage::delete(self, &path).await?;
        }
        Ok(())
    }

    fn new_input(&self, path: &str) -> IcebergResult<InputFile> {
        Ok(InputFile::new(Arc::new(self.clone()), path.to_owned()))
    }

    fn new_output(&self, path: &str) -> IcebergResult<OutputFile> {
        Ok(OutputFile::new(Arc::new(self.clone()), path.to_owned()))
    }
}

struct RangeReader {
    store: Arc<dyn ObjectStore>,
    location: String,
    path: StorePath,
}

#[async_trait]
impl FileRead for RangeReader {
    async fn read(&self, range: Range<u64>) -> IcebergResult<Bytes> {
        let failed = |source| StorageError::Store {
            location: self.location.clone(),
            source,
        };
        Ok(self.store.get_range(&self.path, range).await.map_err(failed)?)
    }
}

struct PartWriter {
    location: String,
    writer: BufWriter,
}

impl PartWriter {
    fn failed(&self, error: std::io::Error) -> IcebergError {
        IcebergError::new(ErrorKind::Unexpected, self.location.clone()).with_source(error)
    }
}

#[async_trait]
impl FileWrite for PartWriter {
    async fn write(&mut self, bs: Bytes) -> IcebergResult<()> {
        self.writer
            .write_all(&bs)
            .await
            .map_err(|error| self.failed(error))
    }

    async fn close(&mut self) -> IcebergResult<()> {
        self.writer.shutdown().await.map_err(|error| self.failed(error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disk() -> (tempfile::TempDir, LakeStorage) {
        let dir = tempfile::tempdir().unwrap();
        let storage = LakeStorage::open(Warehouse::Local(dir.path().join("ware house"))).unwrap();
        (dir, storage)
    }

    #[tokio::test]
    async fn a_location_names_the_file_literally() {
        let (dir, storage) = disk();
        let location = format!("{}/iot/day=2025-07-15/a%20b.parquet", storage.root());
        storage.put(&location, Bytes::from_static(b"x")).await.unwrap();
        let on_disk = dir.path().join("ware house/iot/day=2025-07-15/a%20b.parquet");
        assert_eq!(std::fs::read(on_disk).unwrap(), b"x");
        let hadoop_form = location.replacen("file:///", "file:/", 1);
        assert_eq!(storage.get(&hadoop_form).await.unwrap(), "x");
    }

    #[tokio::test]
    async fn nothing_outside_of_the_root_is_touched() {
        let (_dir, storage) = disk();
        let root = storage.root().to_owned();
        for location in [
            "file:///etc/passwd".to_owned(),
            format!("{root}/../x"),
            format!("{root}-other/x"),
            root.clone(),
            format!("{root}/"),
            format!("{root}/a//b"),
            "s3://bucket/x".to_owned(),
            String::new(),
        ] {
            let error = storage.put(&location, Bytes::new()).await.unwrap_err();
            assert!(
                matches!(error, StorageError::Outside { .. }),
                "{location}: {error}"
            );
        }
    }

    #[tokio::test]
    async fn writers_and_readers_agree_across_the_part_size() {
        let (_dir, storage) = disk();
        let io = storage.file_io();
        for size in [0, 1, WRITER_BUFFER_BYTES, 3 * WRITER_BUFFER_BYTES + 17] {
            let location = format!("{}/f{size}", storage.root());
            let bytes: Vec<u8> = (0..size).map(|i| (i % 251) as u8).collect();
            let mut writer = io.new_output(&location).unwrap().writer().await.unwrap();
            for chunk in bytes.chunks(1_000_003) {
                writer.write(Bytes::copy_from_slice(chunk)).await.unwrap();
            }
            writer.close().await.unwrap();
            let input = io.new_input(&location).unwrap();
            assert_eq!(input.metadata().await.unwrap().size, size as u64);
            assert_eq!(input.read().await.unwrap(), bytes);
            if size > 100 {
                let middle = input.reader().await.unwrap().read(10..100).await.unwrap();
                assert_eq!(middle, bytes[10..100]);
            }
        }
    }

    #[tokio::test]
    async fn a_missing_file_is_told_apart() {
        let (_dir, storage) = disk();
        let location = format!("{}/none", storage.root());
        assert!(storage.get(&location).await.unwrap_err().is_not_found());
        assert!(!storage.file_io().exists(&location).await.unwrap());
        storage.delete(&location).await.unwrap();
    }
}
