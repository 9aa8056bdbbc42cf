//! A store that fails at a chosen operation and at every one after it, as a process that was killed does.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};

use crate::storage::{LakeStorage, Warehouse};

/// Every file of the warehouse.
pub(super) async fn stored(storage: &LakeStorage) -> BTreeSet<String> {
    let listed: Vec<ObjectMeta> = storage.store().list(None).try_collect().await.unwrap();
    listed
        .into_iter()
        .map(|object| object.location.to_string())
        .collect()
}

/// The same warehouse through a store that fails at the `at`-th write or deletion (counted from 0), before or after
/// that was done.
pub(crate) fn failing(storage: &LakeStorage, at: i64, after_it_was_done: bool) -> LakeStorage {
    failing_when(storage, Arc::new(AtomicI64::new(at)), after_it_was_done)
}

/// The same; `left` counts down the writes and deletions that still work.
pub(super) fn failing_when(
    storage: &LakeStorage,
    left: Arc<AtomicI64>,
    after_it_was_done: bool,
) -> LakeStorage {
    over(storage, left, after_it_was_done, Arc::default())
}

/// The same warehouse through a store that never fails; `data_reads` counts the reads of Parquet files.
pub(crate) fn counting(storage: &LakeStorage, data_reads: Arc<AtomicI64>) -> LakeStorage {
    over(storage, Arc::new(AtomicI64::new(i64::MAX)), false, data_reads)
}

fn over(
    storage: &LakeStorage,
    left: Arc<AtomicI64>,
    after_it_was_done: bool,
    data_reads: Arc<AtomicI64>,
) -> LakeStorage {
    let store = Failing {
        inner: storage.store().clone(),
        left,
        after_it_was_done,
        data_reads,
    };
    LakeStorage::over(Warehouse::Memory, storage.root(), Arc::new(store))
}

#[derive(Debug, Clone)]
struct Failing {
    inner: Arc<dyn ObjectStore>,
    left: Arc<AtomicI64>,
    after_it_was_done: bool,
    data_reads: Arc<AtomicI64>,
}

impl fmt::Display for Failing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "failing {}", self.inner)
    }
}

fn killed() -> object_store::Error {
    object_store::Error::Generic {
        store: "failing",
        source: "killed".into(),
    }
}

enum Fate {
    Live,
    LastBreath,
    Dead,
}

impl Failing {
    fn step(&self) -> Fate {
        match self.left.fetch_sub(1, Ordering::SeqCst) {
            1.. => Fate::Live,
            0 if self.after_it_was_done => Fate::LastBreath,
            _ => Fate::Dead,
        }
    }

    async fn through<T>(&self, work: impl Future<Output = Result<T>>) -> Result<T> {
        match self.step() {
            Fate::Live => work.await,
            Fate::LastBreath => {
                work.await?;
                Err(killed())
            }
            Fate::Dead => Err(killed()),
        }
    }
}

#[async_trait]
impl ObjectStore for Failing {
    async fn put_opts(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        self.through(self.inner.put_opts(location, payload, opts)).await
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        opts: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(location, opts).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        if location.as_ref().ends_with(".parquet") {
            self.data_reads.fetch_add(1, Ordering::SeqCst);
        }
        self.inner.get_opts(location, options).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let this = self.clone();
        locations
            .then(move |location| {
                let this = this.clone();
                async move {
                    let location = location?;
                    this.through(object_store::ObjectStoreExt::delete(&this.inner, &location))
                        .await?;
                    Ok(location)
                }
            })
            .boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}

#[tokio::test]
async fn the_store_fails_where_it_was_told_to() {
    let sound = LakeStorage::open(Warehouse::Memory).unwrap();
    let storage = failing(&sound, 1, true);
    storage.put("memory:///a", Bytes::new()).await.unwrap();
    storage.put("memory:///b", Bytes::new()).await.unwrap_err();
    storage.put("memory:///c", Bytes::new()).await.unwrap_err();
    storage.delete("memory:///a").await.unwrap_err();
    let storage = failing(&sound, 0, false);
    storage.delete("memory:///a").await.unwrap_err();
    assert_eq!(stored(&sound).await, ["a".to_owned(), "b".to_owned()].into());
}
