//! What an archive says, done: the stream, its consumers and its messages stored one after the other.

use super::super::UNFINISHED;
use super::super::consumers::ArchivedConsumer;
use super::super::older::{self, OlderReader};
use super::{ArchivedStream, Content, Part, Restore, RestoreError, SEQ_MAX};
use crate::api::error::ApiError;
use crate::archive::ArchiveError;
use crate::archive::block::BlockRecord;
use crate::archive::entry::{Entry, EntryReader};
use crate::consumer::config::ConsumerConfig;
use crate::consumer::state::ConsumerState;
use crate::engine::Engine;
use crate::engine::api::save;
use crate::engine::time::Now;
use crate::env::Fs;
use crate::store::{Backing, NewRecord, Store};
use crate::stream::config::{Storage, StreamConfig};
use crate::stream::headers::{RESEND_ID, without_fields};
use crate::stream::{HEADER_BYTES_MAX, Stream};
use crate::subject;
use crate::types::{StreamSeq, UnixNanos};

/// What the consumers of an archive have to say, in bytes.
const CONSUMERS_BYTES_MAX: usize = 256 << 20;
/// What a pending message of an older archive counts among them.
const PENDING_BYTES: usize = 16;

impl Engine {
    /// Does what the decompressed bytes say, as far as they are there.
    pub(super) fn take_content<F: Fs>(
        &mut self,
        now: Now,
        restore: &mut Restore,
        store: &mut Store<F>,
    ) -> Result<(), RestoreError> {
        let mut content = std::mem::take(&mut restore.content).told();
        match &mut content {
            Content::Unknown(_) => {}
            Content::Entries(entries) => self.take_entries(now, restore, entries, store)?,
            Content::Older(older) => self.take_parts(now, restore, older, store)?,
        }
        restore.content = content;
        Ok(())
    }

    fn take_entries<F: Fs>(
        &mut self,
        now: Now,
        restore: &mut Restore,
        entries: &mut EntryReader,
        store: &mut Store<F>,
    ) -> Result<(), RestoreError> {
        while restore.part != Part::End
            && let Some(entry) = entries.read()?
        {
            match restore.part {
                Part::State if entry.name == "state.json" => {
                    let state = serde_json::from_slice(entry.payload).map_err(RestoreError::State)?;
                    self.begin_stream(now, restore, state, store)?;
                    restore.part = match state.consumer_count {
                        0 => Part::Messages,
                        count => Part::Consumers(count),
                    };
                }
                Part::State => return Err(RestoreError::NoState),
                Part::Consumers(left) => {
                    let name = entry.name.strip_prefix("consumers/");
                    let name = name.ok_or_else(|| RestoreError::NotAConsumer(entry.name.to_owned()))?;
                    let archived = serde_json::from_slice(entry.payload)
                        .map_err(|err| refused(name, err.to_string()))?;
                    self.restore_consumer(now, restore, name, archived, entry.payload.len(), store)?;
                    restore.part = match left {
                        1 => Part::Messages,
                        left => Part::Consumers(left - 1),
                    };
                }
                Part::Messages if entry.is_end() => restore.part = Part::End,
                Part::Messages => self.restore_message(restore, &entry, store)?,
                Part::End => {}
            }
        }
        Ok(())
    }

    /// As [`Self::take_entries`], of a backup in the older form.
    fn take_parts<F: Fs>(
        &mut self,
        now: Now,
        restore: &mut Restore,
        older: &mut OlderReader,
        store: &mut Store<F>,
    ) -> Result<(), RestoreError> {
        while restore.part != Part::End
            && let Some(part) = older.read()?
        {
            match part {
                older::Part::Stream(name) if name == restore.config.name => {
                    self.begin_stream(now, restore, restore.state, store)?;
                    restore.part = Part::Messages;
                }
                older::Part::Stream(_) => return Err(RestoreError::OtherStream),
                older::Part::Record(record) => self.restore_record(restore, &record, store)?,
                older::Part::Consumer(name, config, state) => {
                    let bytes = PENDING_BYTES * (state.pending.len() + state.redelivered.len());
                    let archived = ArchivedConsumer::of_stored(*config, state);
                    self.restore_consumer(now, restore, &name, archived, bytes, store)?;
                }
                older::Part::End => restore.part = Part::End,
            }
        }
        Ok(())
    }

    /// Stores what a record of an older server's store says. Its messages may begin with some that limits had removed.
    fn restore_record<F: Fs>(
        &mut self,
        restore: &Restore,
        record: &BlockRecord<'_>,
        store: &mut Store<F>,
    ) -> Result<(), RestoreError> {
        let id = restore.stream.ok_or(RestoreError::NoState)?;
        let last_seq = store.state(id).last_seq.0;
        match *record {
            BlockRecord::Message { seq, .. } if seq <= last_seq => {}
            BlockRecord::Message {
                seq,
                time,
                subject,
                headers,
                payload,
            } => {
                let entry = Entry {
                    name: subject,
                    time,
                    seq,
                    headers,
                    payload,
                };
                self.restore_message(restore, &entry, store)?;
            }
            BlockRecord::Gap(seq) | BlockRecord::Removed(seq) if seq > SEQ_MAX => {
                return Err(RestoreError::OutOfOrder(seq));
            }
            BlockRecord::Gap(seq) | BlockRecord::Removed(seq) if seq > last_seq => {
                store.raise_last_seq(id, StreamSeq(seq))?;
            }
            BlockRecord::Gap(_) => {}
            BlockRecord::Removed(seq) => {
                self.remove_message(id, StreamSeq(seq), store);
            }
        }
        Ok(())
    }

    /// Makes the stream, without a name for clients.
    fn begin_stream<F: Fs>(
        &mut self,
        now: Now,
        restore: &mut Restore,
        state: ArchivedStream,
        store: &mut Store<F>,
    ) -> Result<(), RestoreError> {
        if state.first_seq > SEQ_MAX || state.last_seq > SEQ_MAX {
            return Err(RestoreError::OutOfOrder(state.first_seq.max(state.last_seq)));
        }
        let config = &restore.config;
        let backing = match config.storage {
            Storage::File => Backing::File,
            Storage::Memory => Backing::Memory,
        };
        let stored_name = self.options.accounts.stored_name(restore.account, &config.name);
        let first_seq = StreamSeq(state.first_seq.max(1));
        let id = store.create_stream(&stored_name, UNFINISHED, backing, first_seq, now.wall)?;
        store.set_packed(id, config.is_compressed());
        restore.stream = Some(id);
        restore.last_seq = state.last_seq;
        let plain = StreamConfig {
            mirror: None,
            sources: Vec::new(),
            ..config.clone()
        };
        let stream = Stream::new(id, restore.account, plain, now.wall);
        self.streams.insert(id, stream);
        Ok(())
    }

    /// Keeps a consumer: in the store, or, if it lives in memory, until the stream begins.
    fn restore_consumer<F: Fs>(
        &self,
        now: Now,
        restore: &mut Restore,
        name: &str,
        archived: ArchivedConsumer,
        bytes: usize,
        store: &mut Store<F>,
    ) -> Result<(), RestoreError> {
        restore.consumer_bytes += bytes;
        if restore.consumer_bytes > CONSUMERS_BYTES_MAX {
            return Err(ArchiveError::EntryTooLarge {
                len: restore.consumer_bytes as u64,
                max: CONSUMERS_BYTES_MAX as u64,
            }
            .into());
        }
        let id = restore.stream.ok_or(RestoreError::NoState)?;
        let last_seq = restore.last_seq.max(store.state(id).last_seq.0);
        let (config, state) = self.check_consumer(restore, name, archived, last_seq)?;
        restore.consumer_names.insert(config.name.clone());
        if restore.config.storage == Storage::File && !config.mem_storage && !config.direct {
            let mut bytes = Vec::new();
            state.encode(&mut bytes);
            save(store, id, now.wall, &config, &bytes).map_err(RestoreError::Refused)?;
        } else {
            restore.consumers.push((config, state));
        }
        Ok(())
    }

    fn check_consumer(
        &self,
        restore: &Restore,
        name: &str,
        archived: ArchivedConsumer,
        last_seq: u64,
    ) -> Result<(ConsumerConfig, ConsumerState), RestoreError> {
        let state = archived
            .state(last_seq)
            .map_err(|err| refused(name, err.to_owned()))?;
        let mut config = archived.config;
        name.clone_into(&mut config.name);
        let config = config
            .normalize(&restore.config)
            .map_err(|err| refused(name, err.description.into_owned()))?;
        if config.name != name || restore.consumer_names.contains(name) {
            return Err(refused(
                name,
                "it has another name, or that of another".to_owned(),
            ));
        }
        let count = restore.consumer_names.len();
        let limit = usize::try_from(restore.config.max_consumers).unwrap_or(usize::MAX);
        self.check_consumer_quota(&config, Some(count))
            .map_err(RestoreError::Refused)?;
        if count >= limit || self.consumers.len() + count >= self.options.consumers_max {
            return Err(RestoreError::Refused(ApiError::MAXIMUM_CONSUMERS));
        }
        Ok((config, state))
    }

    fn restore_message<F: Fs>(
        &mut self,
        restore: &Restore,
        entry: &Entry<'_>,
        store: &mut Store<F>,
    ) -> Result<(), RestoreError> {
        let Entry {
            name: subject,
            time,
            seq,
            headers,
            payload,
        } = *entry;
        let id = restore.stream.ok_or(RestoreError::NoState)?;
        let last_seq = store.state(id).last_seq.0;
        if seq == 0 {
            return Err(RestoreError::NoSequence);
        }
        if seq <= last_seq || seq > SEQ_MAX {
            return Err(RestoreError::OutOfOrder(seq));
        }
        if !subject::is_valid_filter(subject) {
            return Err(RestoreError::Subject(seq));
        }
        let is_block = headers.starts_with(b"NATS/1.0") && headers.ends_with(b"\r\n\r\n");
        if !headers.is_empty() && !is_block {
            return Err(RestoreError::Headers(seq));
        }
        let bytes = headers.len() + payload.len();
        // What this server has added itself does not count.
        let sent_bytes = || without_fields(headers, |name| name == RESEND_ID).len() + payload.len();
        let is_too_large =
            usize::try_from(restore.config.max_msg_size).is_ok_and(|max| bytes > max && sent_bytes() > max);
        if is_too_large || headers.len() > HEADER_BYTES_MAX {
            return Err(RestoreError::TooLarge(seq));
        }
        if self.has_usage_limits()
            && let Some(stream) = self.streams.get(&id)
        {
            self.check_usage(stream, subject.len() + bytes, store)
                .map_err(RestoreError::Refused)?;
        }
        if seq > last_seq + 1 {
            store.raise_last_seq(id, StreamSeq(seq - 1))?;
        }
        let record = NewRecord {
            time: UnixNanos(time),
            subject,
            headers,
            payload,
        };
        let seq = store.append(id, &record)?;
        if self.streams.get(&id).is_some_and(Stream::has_limits) {
            self.enforce_limits(id, Some((seq, subject)), store);
        }
        Ok(())
    }
}

fn refused(name: &str, reason: String) -> RestoreError {
    RestoreError::Consumer {
        name: name.to_owned(),
        reason,
    }
}
