//! A picture of all streams and consumers, for monitoring.

use super::time::Now;
use super::{ConsumerId, Engine};
use crate::api::types::{AccountInfo, ConsumerInfo, StreamInfo};
use crate::env::Fs;
use crate::store::Store;

/// Everything that monitoring shows of JetStream.
#[derive(Clone, Debug, Default)]
pub(crate) struct JsSnapshot {
    /// What is used in all.
    pub(crate) account: AccountInfo,
    /// Records in all streams.
    pub(crate) messages: u64,
    /// Their bytes.
    pub(crate) bytes: u64,
    /// The streams, by name.
    pub(crate) streams: Vec<StreamSnapshot>,
}

/// A stream and its consumers.
#[derive(Clone, Debug)]
pub(crate) struct StreamSnapshot {
    pub(crate) info: StreamInfo,
    /// By name.
    pub(crate) consumers: Vec<ConsumerInfo>,
}

impl Engine {
    /// Counts up with each change that a snapshot would show, as far as it is known at once.
    pub(crate) fn changes(&self) -> u64 {
        self.changes + self.api_stats.total
    }

    /// The picture now.
    pub(crate) fn snapshot<F: Fs>(&mut self, now: Now, store: &Store<F>) -> JsSnapshot {
        let mut snapshot = JsSnapshot {
            account: self.account_info(store),
            ..JsSnapshot::default()
        };
        let ids: Vec<_> = self.names.values().copied().collect();
        for id in ids {
            let Some(stream) = self.streams.get(&id) else {
                continue;
            };
            let info = self.stream_info(now, stream, false, store);
            let consumer_ids: Vec<ConsumerId> = stream.consumers.values().copied().collect();
            let infos = consumer_ids
                .into_iter()
                .filter_map(|id| self.consumer_info(now, id, store).ok());
            let consumers = infos.collect();
            snapshot.messages += info.state.messages;
            snapshot.bytes += info.state.bytes;
            snapshot.streams.push(StreamSnapshot { info, consumers });
        }
        snapshot
    }
}
