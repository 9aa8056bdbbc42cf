//! Configs and states of a stream's consumers.

use std::path::{Path, PathBuf};

use super::StoreError;
use super::meta::{ConsumerBody, Loaded, MetaKind, Pair};
use super::names;
use super::prepare::remove_quietly;
use super::state::RecoveryReport;
use super::stream::{Shared, Stream};
use crate::env::Fs;

/// Directory of consumers inside a stream's.
pub(super) const DIR: &str = "consumers";

/// When a stream has more consumers than this, opening it syncs their files together with all else on the file system,
/// otherwise one by one.
const SYNCED_ALONE_MAX: usize = 256;

/// A consumer.
pub(super) struct Consumer<F: Fs> {
    pub(super) body: ConsumerBody,
    /// `None` in a stream that is in memory.
    pub(super) pair: Option<Pair<F>>,
    /// The state that the next commit makes durable.
    pub(super) pending: Option<Vec<u8>>,
}

impl<F: Fs> Consumer<F> {
    /// The newest state, durable or not.
    pub(super) fn state(&self) -> &[u8] {
        self.pending.as_deref().unwrap_or(&self.body.state)
    }

    /// Takes the pending state for the durable one.
    pub(super) fn settle(&mut self) {
        if let Some(state) = self.pending.take() {
            self.body.state = state;
        }
    }
}

impl<F: Fs> Stream<F> {
    fn consumers_dir(&self) -> Option<PathBuf> {
        self.log.as_ref().map(|log| log.dir.join(DIR))
    }

    /// Creates a consumer with `state`, or replaces the config of one and keeps its state.
    pub(super) fn put_consumer(
        &mut self,
        shared: &Shared<F>,
        name: &str,
        config: &[u8],
        state: &[u8],
    ) -> Result<(), StoreError> {
        self.check_writable()?;
        let file_name = names::file_name(name)?;
        let dir = self.consumers_dir();
        let (mut consumer, is_new) = match self.consumers.remove(name) {
            Some(consumer) => (consumer, false),
            None => {
                let body = ConsumerBody {
                    deleted: false,
                    name: name.to_owned(),
                    config: Vec::new(),
                    state: state.to_vec(),
                };
                let pair = dir
                    .as_ref()
                    .map(|dir| Pair::new(&shared.fs, dir, &file_name, MetaKind::Consumer));
                (
                    Consumer {
                        body,
                        pair,
                        pending: None,
                    },
                    true,
                )
            }
        };
        let before = std::mem::replace(&mut consumer.body.config, config.to_vec());
        let dir = dir.as_deref().filter(|_| is_new);
        let written = write_through(&shared.fs, &mut consumer, dir);
        let refused = written.is_err();
        if refused && is_new {
            if let Some(Err(err)) = consumer.pair.map(Pair::remove) {
                tracing::warn!(stream = %self.meta.name, consumer = name, error = %err, "cannot remove a file");
            }
        } else {
            if refused {
                consumer.body.config = before;
            }
            self.consumers.insert(name.to_owned(), consumer);
        }
        written.map_err(|err| self.fail_unless_full(err))
    }

    pub(super) fn put_consumer_state(&mut self, name: &str, state: &[u8]) -> Result<(), StoreError> {
        self.check_writable()?;
        let consumer = self.consumers.get_mut(name).ok_or_else(|| unknown(name))?;
        if consumer.pending.is_none() {
            self.changed_consumers.push(name.to_owned());
        }
        let pending = consumer.pending.get_or_insert_default();
        pending.clear();
        pending.extend_from_slice(state);
        Ok(())
    }

    pub(super) fn delete_consumer(&mut self, name: &str) -> Result<(), StoreError> {
        self.check_writable()?;
        let consumer = self.consumers.get_mut(name).ok_or_else(|| unknown(name))?;
        if let Some(pair) = &mut consumer.pair {
            let body = ConsumerBody {
                deleted: true,
                state: Vec::new(),
                ..consumer.body.clone()
            };
            if let Err(err) = pair.write_both(&body.encode()) {
                return Err(self.fail(err));
            }
        }
        if let Some(Err(err)) = self
            .consumers
            .remove(name)
            .and_then(|gone| gone.pair)
            .map(Pair::remove)
        {
            tracing::warn!(stream = %self.meta.name, consumer = name, error = %err, "cannot remove a file");
        }
        Ok(())
    }

    /// Makes the states that changed durable.
    pub(super) fn commit_consumers(&mut self) -> Result<(), StoreError> {
        while let Some(name) = self.changed_consumers.pop() {
            let Some(consumer) = self.consumers.get_mut(&name) else {
                continue;
            };
            let Some(state) = consumer.pending.take() else {
                continue;
            };
            let before = std::mem::replace(&mut consumer.body.state, state);
            let Some(pair) = &mut consumer.pair else { continue };
            if let Err(err) = pair.write(&consumer.body.encode()) {
                consumer.pending = Some(std::mem::replace(&mut consumer.body.state, before));
                self.changed_consumers.push(name);
                return Err(err);
            }
        }
        Ok(())
    }

    fn fail_unless_full(&mut self, err: StoreError) -> StoreError {
        if err.is_no_space() { err } else { self.fail(err) }
    }
}

fn unknown(name: &str) -> StoreError {
    StoreError::NoSuchConsumer {
        name: name.to_owned(),
    }
}

/// Writes both copies, with the durable state: a pending one may be ahead of the records. Makes their names in
/// `new_in` durable.
fn write_through<F: Fs>(fs: &F, consumer: &mut Consumer<F>, new_in: Option<&Path>) -> Result<(), StoreError> {
    let Some(pair) = &mut consumer.pair else {
        return Ok(());
    };
    pair.write_both(&consumer.body.encode())?;
    if let Some(dir) = new_in {
        fs.sync_dir(dir).map_err(|err| StoreError::io("sync", dir, err))?;
    }
    Ok(())
}

/// Opens the consumers of a stream.
pub(super) fn open_all<F: Fs>(
    shared: &Shared<F>,
    stream: &mut Stream<F>,
    report: &mut RecoveryReport,
) -> Result<(), StoreError> {
    let Some(log) = &stream.log else { return Ok(()) };
    let dir = log.dir.join(DIR);
    let fs = &shared.fs;
    if fs.list(&dir).is_err() {
        fs.create_dir_all(&dir)
            .map_err(|err| StoreError::io("create", &dir, err))?;
        fs.sync_dir(&log.dir)
            .map_err(|err| StoreError::io("sync", &log.dir, err))?;
    }
    fs.sync_dir(&dir)
        .map_err(|err| StoreError::io("sync", &dir, err))?;
    let entries = fs.list(&dir).map_err(|err| StoreError::io("list", &dir, err))?;
    let mut stems: Vec<&str> = entries
        .iter()
        .filter_map(|entry| {
            entry
                .name
                .strip_suffix(".0")
                .or_else(|| entry.name.strip_suffix(".1"))
        })
        .collect();
    stems.dedup();
    let alone = stems.len() <= SYNCED_ALONE_MAX;
    let repaired_before = report.metadata_repaired;
    for stem in stems {
        let loaded = Pair::load(fs, &dir, stem, MetaKind::Consumer)?;
        let Some(Loaded {
            mut pair,
            body: bytes,
            degraded,
        }) = loaded
        else {
            tracing::warn!(stream = %stream.meta.name, consumer = stem,
                "neither copy of a consumer is usable, it is removed");
            remove_quietly(fs, &dir.join(format!("{stem}.0")));
            remove_quietly(fs, &dir.join(format!("{stem}.1")));
            report.metadata_repaired += 1;
            continue;
        };
        let Some(body) = ConsumerBody::decode(&bytes) else {
            return Err(StoreError::Broken {
                file: dir.join(format!("{stem}.0")),
                reason: "the consumer does not decode",
            });
        };
        if body.deleted {
            // First both copies have to say so: either file may outlive the other.
            pair.rewrite(&bytes)?;
            pair.write(&bytes)?;
            pair.remove()
                .map_err(|err| StoreError::io("remove", &dir.join(stem), err))?;
            continue;
        }
        match (alone, degraded) {
            (false, false) => pair.rewrite_for_sync_all(&bytes)?,
            (true, false) => pair.rewrite(&bytes)?,
            (_, true) => {
                pair.rewrite(&bytes)?;
                pair.write(&bytes)?;
            }
        }
        report.metadata_repaired += u64::from(degraded);
        stream.consumers.insert(
            body.name.clone(),
            Consumer {
                body,
                pair: Some(pair),
                pending: None,
            },
        );
    }
    if report.metadata_repaired > repaired_before {
        fs.sync_dir(&dir)
            .map_err(|err| StoreError::io("sync", &dir, err))?;
    }
    if !alone {
        fs.sync_all(&dir)
            .map_err(|err| StoreError::io("sync", &dir, err))?;
    }
    Ok(())
}
