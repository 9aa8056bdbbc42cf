//! What an account, and the server as a whole, may use of JetStream. Source: nats-server, `checkAllLimits`,
//! `wouldExceedLimits`.

use super::Engine;
use crate::api::error::ApiError;
use crate::api::types::AccountLimits;
use crate::consumer::config::ConsumerConfig;
use crate::env::Fs;
use crate::options::JetStreamTier;
use crate::store::Store;
use crate::stream::Stream;
use crate::stream::config::{Storage, StreamConfig};
use crate::types::StreamId;

impl From<JetStreamTier> for AccountLimits {
    fn from(tier: JetStreamTier) -> Self {
        let number = |limit: Option<u64>| limit.map_or(-1, |limit| i64::try_from(limit).unwrap_or(i64::MAX));
        let bytes = |limit: Option<u64>| limit.map_or(-1, |limit| i64::try_from(limit).unwrap_or(i64::MAX));
        Self {
            max_memory: bytes(tier.max_memory_bytes),
            max_storage: bytes(tier.max_file_bytes),
            max_streams: number(tier.max_streams),
            max_consumers: number(tier.max_consumers),
            max_ack_pending: number(tier.max_ack_pending),
            memory_max_stream_bytes: bytes(tier.memory_max_stream_bytes),
            storage_max_stream_bytes: bytes(tier.file_max_stream_bytes),
            max_bytes_required: tier.max_bytes_required,
        }
    }
}

impl JetStreamTier {
    /// Whether there is a bound of the bytes in all.
    pub(crate) fn limits_bytes(&self) -> bool {
        self.max_memory_bytes.is_some() || self.max_file_bytes.is_some()
    }

    fn bytes(&self, storage: Storage) -> Option<u64> {
        match storage {
            Storage::File => self.max_file_bytes,
            Storage::Memory => self.max_memory_bytes,
        }
    }

    fn stream_bytes(&self, storage: Storage) -> Option<u64> {
        match storage {
            Storage::File => self.file_max_stream_bytes,
            Storage::Memory => self.memory_max_stream_bytes,
        }
    }
}

impl Engine {
    /// What the account is limited to. None: it may not use JetStream.
    pub(super) fn tier(&self) -> Option<JetStreamTier> {
        self.options.accounts.jetstream(self.account)
    }

    /// Whether the account may have a stream of this configuration, which `own` has already if it is there.
    pub(super) fn check_quota(&self, config: &StreamConfig, own: Option<StreamId>) -> Result<(), ApiError> {
        let tier = self.tier().unwrap_or_default();
        let max_bytes = u64::try_from(config.max_bytes).unwrap_or(0);
        if tier.max_bytes_required && max_bytes == 0 {
            return Err(ApiError::MAX_BYTES_REQUIRED);
        }
        let limit = tier.stream_bytes(config.storage).filter(|limit| *limit > 0);
        if limit.is_some_and(|limit| max_bytes > limit) {
            return Err(ApiError::MAX_STREAM_BYTES_EXCEEDED);
        }
        let streams = self.account_streams().count() as u64;
        let max_streams = tier.max_streams.filter(|max| *max > 0);
        if own.is_none() && max_streams.is_some_and(|max| streams >= max) {
            return Err(ApiError::MAXIMUM_STREAMS);
        }
        let max_consumers = tier.max_consumers.filter(|max| *max > 0);
        let wanted = u64::try_from(config.max_consumers).unwrap_or(0);
        if max_consumers.is_some_and(|max| wanted > max) {
            return Err(ApiError::MAXIMUM_CONSUMERS);
        }
        let is_other = |stream: &&Stream| Some(stream.id) != own && stream.config.storage == config.storage;
        let reserved = |streams: &mut dyn Iterator<Item = &Stream>| -> u64 {
            let bytes = streams.map(|stream| u64::try_from(stream.config.max_bytes).unwrap_or(0));
            bytes.fold(0, u64::saturating_add)
        };
        let wanted = max_bytes.max(1);
        let exceeds = |limit: Option<u64>, reserved: u64| {
            limit.is_some_and(|limit| reserved.saturating_add(wanted) > limit)
        };
        let in_account = reserved(&mut self.account_streams().filter(is_other));
        let in_all = reserved(&mut self.streams.values().filter(is_other));
        if exceeds(tier.bytes(config.storage), in_account)
            || exceeds(self.options.tier.bytes(config.storage), in_all)
        {
            return Err(match config.storage {
                Storage::File => ApiError::NO_STORAGE,
                Storage::Memory => ApiError::NO_MEMORY,
            });
        }
        Ok(())
    }

    /// Whether the account may have one more consumer of a stream that has `count`.
    pub(super) fn check_consumer_quota(
        &self,
        config: &ConsumerConfig,
        count: Option<usize>,
    ) -> Result<(), ApiError> {
        let tier = self.tier().unwrap_or_default();
        let max = tier.max_ack_pending.filter(|max| *max > 0);
        let max = max.map(|max| i64::try_from(max).unwrap_or(i64::MAX));
        if let Some(max) = max.filter(|max| config.max_ack_pending > *max) {
            return Err(ApiError::max_ack_pending_excess(max));
        }
        let max = tier.max_consumers.filter(|max| *max > 0);
        match (max, count) {
            (Some(max), Some(count)) if count as u64 >= max => Err(ApiError::MAXIMUM_CONSUMERS),
            _ => Ok(()),
        }
    }

    /// Whether a stream may take in this many bytes more.
    pub(super) fn check_usage<F: Fs>(
        &self,
        stream: &Stream,
        bytes: usize,
        store: &Store<F>,
    ) -> Result<(), ApiError> {
        let storage = stream.config.storage;
        let tier = self
            .options
            .accounts
            .jetstream(stream.account)
            .unwrap_or_default();
        let used = |account: Option<crate::types::AccountId>| -> u64 {
            self.streams
                .values()
                .filter(|other| {
                    other.config.storage == storage && account.is_none_or(|id| other.account == id)
                })
                .map(|other| store.state(other.id).bytes)
                .fold(bytes as u64, u64::saturating_add)
        };
        if let Some(limit) = tier.bytes(storage)
            && used(Some(stream.account)) > limit
        {
            return Err(ApiError::ACCOUNT_RESOURCES_EXCEEDED);
        }
        if let Some(limit) = self.options.tier.bytes(storage)
            && used(None) > limit
        {
            return Err(ApiError::INSUFFICIENT_RESOURCES);
        }
        Ok(())
    }

    /// Whether anything bounds what streams take in.
    pub(super) fn has_usage_limits(&self) -> bool {
        self.options.accounts.has_byte_limits() || self.options.tier.limits_bytes()
    }
}
