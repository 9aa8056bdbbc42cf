//! A picture of all streams and consumers, for monitoring.

use std::sync::Arc;

use super::Engine;
use super::time::Now;
use crate::api::types::{AccountInfo, ConsumerInfo, StreamInfo};
use crate::env::Fs;
use crate::store::Store;
use crate::types::{AccountId, StreamId};

/// Everything that monitoring shows of JetStream.
#[derive(Clone, Debug, Default)]
pub(crate) struct JsSnapshot {
    /// The accounts that use JetStream or have used it, `$G` first.
    pub(crate) accounts: Vec<AccountSnapshot>,
    /// What is used in all.
    pub(crate) total: AccountInfo,
    /// Records in all streams.
    pub(crate) messages: u64,
    /// Their bytes.
    pub(crate) bytes: u64,
}

/// An account's part.
#[derive(Clone, Debug)]
pub(crate) struct AccountSnapshot {
    pub(crate) id: AccountId,
    pub(crate) name: Arc<str>,
    /// What is used.
    pub(crate) info: AccountInfo,
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
    /// The picture now.
    pub(crate) fn snapshot<F: Fs>(&mut self, now: Now, store: &Store<F>) -> JsSnapshot {
        let mut snapshot = JsSnapshot::default();
        for id in self.options.accounts.ids() {
            self.account = id;
            let account = self.account_snapshot(now, store);
            for stream in &account.streams {
                snapshot.messages += stream.info.state.messages;
                snapshot.bytes += stream.info.state.bytes;
            }
            snapshot.total.add(&account.info);
            snapshot.accounts.push(account);
        }
        snapshot
    }

    fn account_snapshot<F: Fs>(&mut self, now: Now, store: &Store<F>) -> AccountSnapshot {
        let mut streams = Vec::new();
        let ids: Vec<StreamId> = self.names().map(|(_, id)| id).collect();
        for id in ids {
            let Some(stream) = self.streams.get(&id) else {
                continue;
            };
            let mut info = self.stream_info(now, stream, false, store);
            info.config.metadata.clone_from(&stream.config.metadata);
            let listed = self.listed_consumers(stream);
            let infos = listed.into_iter().filter_map(|(_, id)| {
                let mut info = self.consumer_info(now, id, store).ok()?;
                let observer = self.consumers.get(&id)?;
                info.config
                    .metadata
                    .clone_from(&observer.consumer.config.metadata);
                Some(info)
            });
            let consumers = infos.collect();
            streams.push(StreamSnapshot { info, consumers });
        }
        AccountSnapshot {
            id: self.account,
            name: self.options.accounts.name(self.account).unwrap_or_default(),
            info: self.account_info(store),
            streams,
        }
    }
}
