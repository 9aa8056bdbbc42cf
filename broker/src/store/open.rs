//! Opening the store; creating and deleting streams.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;

use super::compact::Compaction;
use super::consumers;
use super::handles::Handles;
use super::marks::Marks;
use super::meta::{MetaKind, Pair};
use super::names;
use super::pack::Packer;
use super::prepare::Spares;
use super::recover::{open_stream, remove_stream};
use super::seal::{Sealer, Sealing};
use super::sealed::BlockCache;
use super::state::{Backing, RecoveryReport, StoreOptions, StreamMeta};
use super::stream::{Log, Shared, Stream};
use super::tend::Tending;
use super::{Store, StoreError};
use crate::env::sim::SplitMix;
use crate::env::{Fs, Rng};
use crate::types::{StreamId, StreamSeq, UnixNanos};

/// Directory of streams inside the store's.
pub(super) const STREAMS: &str = "streams";
/// File that the process with the store locks.
pub(super) const LOCK: &str = "lock";
/// Directory of files that can become segments.
const SPARES: &str = "spare";
/// Smallest segment allowed.
const SEGMENT_BYTES_LEAST: u32 = 4096;
/// Largest segment allowed: lengths and offsets in the index stay small.
const SEGMENT_BYTES_MOST: u32 = 1 << 30;

impl<F: Fs> Store<F> {
    /// Opens or creates the store in `dir` and recovers every stream in it.
    ///
    /// # Errors
    /// `Unwritable`, `Locked`, `NoSpace`, `NewerVersion`, `Broken`, `Io`. Nothing was changed that was not damaged.
    pub fn open(fs: F, dir: &Path, mut options: StoreOptions) -> Result<(Self, RecoveryReport), StoreError> {
        let (least, most) = (SEGMENT_BYTES_LEAST, SEGMENT_BYTES_MOST);
        options.segment_bytes_min = options
            .segment_bytes_min
            .clamp(least, most)
            .next_multiple_of(least);
        options.segment_bytes_max = options
            .segment_bytes_max
            .clamp(options.segment_bytes_min, most)
            .next_multiple_of(least);
        let lock = take_lock(&fs, dir)?;
        let mut report = RecoveryReport::default();
        open_marker(&fs, dir, &mut report)?;
        let marks = Marks::load(&fs, dir, &mut report)?;
        let spares = Spares::open(&fs, &dir.join(SPARES))?;
        let rng = SplitMix::new(options.salt_seed);
        let cache = RefCell::default();
        let sealing = Sealing {
            fs: fs.clone(),
            cache: BlockCache::new(options.index_cache_bytes),
            handles: Handles::new(&fs),
            notes: options.notes,
        };
        let sealer = Sealer::start(sealing, options.unsealed_records_max)?;
        let shared = Shared {
            fs,
            options,
            spares,
            rng,
            cache,
            sealer,
            packer: Packer::new(),
        };
        let tending = Tending::start(&shared.fs, dir, marks, &shared.options)?;
        let compaction = Compaction::new(&shared.sealer.sealing, &shared.options);
        let mut store = Self {
            dir: dir.to_owned(),
            shared,
            streams: BTreeMap::new(),
            next_id: 1,
            queue: Vec::new(),
            health_changed: false,
            damaged: RefCell::default(),
            unsettled: Vec::new(),
            owing: Vec::new(),
            held_back: 0,
            tending,
            compaction,
            states_due: Vec::new(),
            _lock: lock,
        };
        let streams = dir.join(STREAMS);
        let entries = store
            .shared
            .fs
            .list(&streams)
            .map_err(|err| StoreError::io("list", &streams, err))?;
        for entry in entries.iter().filter(|entry| entry.is_dir) {
            let id = store.next_stream_id();
            let stream_dir = streams.join(&entry.name);
            let marks = &store.tending.marks;
            let Some(mut stream) = open_stream(&mut store.shared, id, &stream_dir, marks, &mut report)?
            else {
                continue;
            };
            if names::file_name(&stream.meta.name)? != entry.name {
                let reason = "the directory's name is not that of the stream in it";
                return Err(StoreError::Broken {
                    file: stream_dir,
                    reason,
                });
            }
            stream.queued = true;
            store.queue.push(id);
            store.streams.insert(id, stream);
        }
        store.tending.opened(&report);
        store.forget_marks();
        Ok((store, report))
    }

    fn next_stream_id(&mut self) -> StreamId {
        let id = StreamId(self.next_id);
        self.next_id += 1;
        id
    }

    /// Creates a stream whose first record gets `first_seq` (0 counts as 1). Durable on return.
    ///
    /// # Errors
    /// `StreamExists`, `BadName`, `NoSpace`, `Io`.
    pub fn create_stream(
        &mut self,
        name: &str,
        config: &[u8],
        backing: Backing,
        first_seq: StreamSeq,
        created: UnixNanos,
    ) -> Result<StreamId, StoreError> {
        if self.streams.values().any(|stream| *stream.meta.name == *name) {
            return Err(StoreError::StreamExists {
                name: name.to_owned(),
            });
        }
        let file_name = names::file_name(name)?;
        let first = first_seq.0.max(1);
        let meta = StreamMeta {
            name: name.into(),
            config: config.into(),
            created,
            backing,
        };
        let id = self.next_stream_id();
        let log = match backing {
            Backing::Memory => None,
            Backing::File => Some(self.create_log(&file_name, first)?),
        };
        let mut stream = Stream::new(id, meta, first, log);
        if let Err(err) = self.write_new(&mut stream) {
            if let Some(log) = stream.log
                && let Err(err) = remove_stream(&self.shared.fs, &log.dir)
            {
                tracing::warn!(stream = name, error = %err, "cannot remove what was created of a stream");
            }
            return Err(err);
        }
        self.streams.insert(id, stream);
        Ok(id)
    }

    /// The directories of a new stream.
    fn create_log(&mut self, file_name: &str, first: u64) -> Result<Log<F>, StoreError> {
        let fs = &self.shared.fs;
        let dir = self.dir.join(STREAMS).join(file_name);
        // What an earlier stream of this name, or an attempt to create one, left behind.
        match fs.list(&dir) {
            Ok(_) => remove_stream(fs, &dir)?,
            Err(err) if err.kind() == ErrorKind::NotFound => {}
            Err(err) => return Err(StoreError::io("list", &dir, err)),
        }
        let consumers = dir.join(consumers::DIR);
        fs.create_dir_all(&consumers)
            .map_err(|err| StoreError::io("create", &consumers, err))?;
        let pair = Pair::new(fs, &dir, "meta", MetaKind::Stream);
        let incarnation = self.shared.rng.next_u64();
        Ok(Log::new(dir, pair, incarnation, first))
    }

    /// Makes a new stream durable: its metadata, then the names inside its directory, then its own.
    fn write_new(&self, stream: &mut Stream<F>) -> Result<(), StoreError> {
        let Some(log) = &stream.log else { return Ok(()) };
        let body = stream.body(log).encode();
        let Some(log) = &mut stream.log else { return Ok(()) };
        log.pair.write_both(&body)?;
        let streams = self.dir.join(STREAMS);
        for dir in [&log.dir, &streams] {
            self.shared
                .fs
                .sync_dir(dir)
                .map_err(|err| StoreError::io("sync", dir, err))?;
        }
        Ok(())
    }

    /// Replaces the config. Durable on return.
    ///
    /// # Errors
    /// `NoSuchStream`, `ReadOnly`, `NoSpace`, or `Io`, after which the stream is read-only.
    pub fn update_stream(&mut self, id: StreamId, config: &[u8]) -> Result<(), StoreError> {
        let (stream, _) = self.change(id)?;
        stream.check_writable()?;
        stream.sync_written()?;
        let before = std::mem::replace(&mut stream.meta.config, Arc::from(config));
        let written = stream.write_meta();
        if written.is_err() {
            stream.meta.config = before;
        }
        match written {
            Err(err) if !err.is_no_space() => Err(stream.fail(err)),
            written => written,
        }
    }

    /// Deletes the stream with its records and consumers. Durable on return.
    ///
    /// # Errors
    /// `NoSuchStream`, or `NoSpace` or `Io`, after which the stream is read-only and may be gone after a restart.
    pub fn delete_stream(&mut self, id: StreamId) -> Result<(), StoreError> {
        let stream = self.streams.get_mut(&id).ok_or(StoreError::NoSuchStream)?;
        if let Some(log) = &stream.log {
            let mut body = stream.body(log);
            body.deleted = true;
            let body = body.encode();
            if let Some(log) = &mut stream.log
                && let Err(err) = log.pair.write_both(&body)
            {
                return Err(stream.fail(err));
            }
        }
        self.shared.cache.borrow_mut().forget(id);
        let removed = self.streams.remove(&id).and_then(|stream| stream.log);
        if let Some(log) = &removed {
            self.tending.marks.forget(log.incarnation);
        }
        if let Some(log) = removed
            && let Err(err) = remove_stream(&self.shared.fs, &log.dir)
        {
            tracing::warn!(dir = %log.dir.display(), error = %err, "cannot remove a deleted stream's files yet");
        }
        Ok(())
    }
}

impl<F: Fs> Stream<F> {
    /// Writes the metadata of a stream on disk, both copies.
    fn write_meta(&mut self) -> Result<(), StoreError> {
        let Some(log) = &self.log else { return Ok(()) };
        let body = self.body(log).encode();
        let Some(log) = &mut self.log else { return Ok(()) };
        log.pair.write_both(&body)
    }
}

/// Creates the directory if missing and locks it.
fn take_lock<F: Fs>(fs: &F, dir: &Path) -> Result<F::Lock, StoreError> {
    let unwritable = |source: std::io::Error| match StoreError::io("create", dir, source) {
        StoreError::Io { path, source, .. } => StoreError::Unwritable { path, source },
        other => other,
    };
    fs.create_dir_all(dir).map_err(unwritable)?;
    let lock = fs.lock(&dir.join(LOCK)).map_err(unwritable)?;
    lock.ok_or_else(|| StoreError::Locked { path: dir.to_owned() })
}

/// Reads or creates what says that `dir` is a store, and of which version.
fn open_marker<F: Fs>(fs: &F, dir: &Path, report: &mut RecoveryReport) -> Result<(), StoreError> {
    let streams = dir.join(STREAMS);
    let create = |path: &Path| {
        fs.create_dir_all(path)
            .map_err(|err| StoreError::io("create", path, err))
    };
    create(&streams)?;
    create(&dir.join(SPARES))?;
    // What a killed program created can be seen without being durable. Nothing may be built on that.
    for made in [streams.as_path()].into_iter().chain(dir.ancestors()) {
        let made = if made.as_os_str().is_empty() {
            Path::new(".")
        } else {
            made
        };
        match fs.sync_dir(made) {
            // A parent that may not even be read was not created here.
            Err(err) if err.kind() == ErrorKind::PermissionDenied && made != dir => {}
            synced => synced.map_err(|err| StoreError::io("sync", made, err))?,
        }
    }
    let mut pair = match Pair::load(fs, dir, "store", MetaKind::Store)? {
        Some(loaded) if !loaded.degraded => return Ok(()),
        Some(loaded) => {
            report.metadata_repaired += 1;
            loaded.pair
        }
        None => Pair::new(fs, dir, "store", MetaKind::Store),
    };
    pair.write_both(&[])?;
    fs.sync_dir(dir).map_err(|err| StoreError::io("sync", dir, err))
}
