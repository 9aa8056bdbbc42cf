//! What JetStream keeps of each account. Names of streams are an account's own.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::effect::Effect;
use super::{ConsumerId, Engine};
use crate::api::types::ApiStats;
use crate::stream::Stream;
use crate::types::{AccountId, StreamId};

/// An account's streams, by name, and what was asked in it.
#[derive(Debug, Default)]
pub(super) struct JsAccount {
    pub(super) names: BTreeMap<Arc<str>, StreamId>,
    pub(super) api_stats: ApiStats,
}

impl Engine {
    /// What follows is done in this account: names are looked up there, and effects are for its clients.
    pub(super) fn enter(&mut self, account: AccountId, effects: &mut Vec<Effect>) {
        if effects.is_empty() {
            self.effects_account = AccountId::GLOBAL;
        }
        if self.effects_account != account {
            self.effects_account = account;
            effects.push(Effect::Enter(account));
        }
        self.account = account;
    }

    /// Enters the account of a consumer's stream. Returns whether the consumer is there.
    pub(super) fn enter_stream_of(&mut self, id: ConsumerId, effects: &mut Vec<Effect>) -> bool {
        let Some(observer) = self.consumers.get(&id) else {
            return false;
        };
        self.enter(observer.account, effects);
        true
    }

    /// The names of the account's streams.
    pub(super) fn names(&self) -> impl Iterator<Item = (&Arc<str>, StreamId)> {
        let account = self.accounts.get(&self.account);
        let names = account.into_iter().flat_map(|account| &account.names);
        names.map(|(name, id)| (name, *id))
    }

    /// The handle of a stream of the account.
    pub(super) fn id_of(&self, stream: &str) -> Option<StreamId> {
        self.accounts.get(&self.account)?.names.get(stream).copied()
    }

    /// The stream of this name in the account.
    pub(super) fn stream_by_name(&self, name: &str) -> Option<&Stream> {
        self.streams.get(&self.id_of(name)?)
    }

    /// The consumer of this name in the account.
    pub(super) fn find_consumer(&self, stream: &str, consumer: &str) -> Option<ConsumerId> {
        self.stream_by_name(stream)?.consumers.get(consumer).copied()
    }

    /// What the engine keeps of the account.
    pub(super) fn js_account(&mut self) -> &mut JsAccount {
        self.accounts.entry(self.account).or_default()
    }

    /// The streams of the account.
    pub(super) fn account_streams(&self) -> impl Iterator<Item = &Stream> {
        self.names().filter_map(|(_, id)| self.streams.get(&id))
    }
}
