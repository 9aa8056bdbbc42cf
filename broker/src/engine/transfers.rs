//! Backups: streams that are sent to a client as an archive, and streams that are made from one.
//!
//! Both go in small steps between everything else that the storage thread does, and neither holds more than a chunk or an
//! entry in memory. A stream that is being restored has no name and captures nothing until all of it is durable; a restart
//! before that removes it.
//! Source: nats-server, `jetstream_api.go` and `stream_backup.go`.

mod consumers;
mod older;
mod restore;
mod snapshot;

use std::collections::BTreeMap;

use bytes::Bytes;

use super::dispatch::Outlet;
use super::effect::{Effect, Outgoing};
use super::time::{Mono, Now};
use super::{Engine, Timer};
use crate::env::Fs;
use crate::shard::inbox::JsOp;
use crate::store::{Store, StreamMeta};
use restore::Restore;
use snapshot::Snapshot;

/// Snapshots at the same time at most, and restores at the same time at most, over all accounts.
const SNAPSHOTS_MAX: usize = 16;
const RESTORES_MAX: usize = 8;
/// How often those that wait are looked at.
const LOOK_NS: i64 = 250_000_000;
/// A peer that says nothing for so long has gone.
const SILENCE_NS: u64 = 5_000_000_000;
/// The configuration, in the store, of a stream whose restore is not complete.
const UNFINISHED: &[u8] = br#"{"unfinished_restore":true}"#;

/// Snapshots and restores that are under way, by their tokens.
#[derive(Debug, Default)]
pub(super) struct Transfers {
    snapshots: BTreeMap<String, Snapshot>,
    restores: BTreeMap<String, Restore>,
    /// When they are looked at next.
    armed: Option<Mono>,
}

impl Transfers {
    /// Whether a snapshot has something to send.
    pub(super) fn may_send(&self) -> bool {
        self.snapshots.values().any(|snapshot| snapshot.is_ready)
    }

    /// Whether a restore has something to do.
    pub(super) fn is_working(&self) -> bool {
        self.restores.values().any(Restore::is_working)
    }
}

/// Whether the store holds a stream only because its restore was interrupted.
pub(super) fn is_unfinished(meta: &StreamMeta) -> bool {
    &*meta.config == UNFINISHED
}

impl Engine {
    /// Takes an acknowledgement of a snapshot's chunk, or a chunk to be restored.
    pub(super) fn transfer<F: Fs>(
        &mut self,
        now: Now,
        op: JsOp,
        store: &mut Store<F>,
        effects: &mut Vec<Effect>,
    ) {
        let subject = op.subject_str().to_owned();
        let tokens: Vec<&str> = subject.split('.').collect();
        match tokens.as_slice() {
            ["$JS", "SNAPSHOT", "ACK", _, token, ..] => {
                let account = self.account;
                let snapshot = self.transfers.snapshots.get_mut(*token);
                if let Some(snapshot) = snapshot.filter(|snapshot| snapshot.account == account) {
                    snapshot.acknowledged(now.mono);
                }
            }
            ["$JS", "SNAPSHOT", "RESTORE", _, token] => self.restore_chunk(now, token, op, store, effects),
            _ => nobody_listens(&op, effects),
        }
    }

    /// Looks at transfers that wait for a peer.
    pub(super) fn transfers_due<F: Fs>(&mut self, now: Now, store: &mut Store<F>, effects: &mut Vec<Effect>) {
        self.transfers.armed = None;
        for snapshot in self.transfers.snapshots.values_mut() {
            snapshot.is_ready = true;
        }
        self.drop_stalled_restores(now, store, effects);
        self.arm_transfers(now, LOOK_NS);
    }

    /// Looks at transfers after so long at the latest, as long as there are any.
    fn arm_transfers(&mut self, now: Now, nanos: i64) {
        if self.transfers.snapshots.is_empty() && self.transfers.restores.is_empty() {
            return;
        }
        let due = now.mono.after(nanos);
        match self.transfers.armed {
            Some(armed) if armed <= due => return,
            Some(armed) => {
                self.timers.remove(&(armed, Timer::Transfers));
            }
            None => {}
        }
        self.transfers.armed = Some(due);
        self.timers.insert((due, Timer::Transfers));
    }

    /// A token as nats-server's have it: who knows it may go on with the transfer.
    fn transfer_token(&mut self) -> String {
        let random = u128::from(self.next_random()) << 64 | u128::from(self.next_random());
        super::events::unique_id(random)
    }

    /// Sends what snapshots have ready, one chunk each. Returns how many were sent.
    pub(super) fn send_snapshots<F: Fs>(
        &mut self,
        now: Now,
        store: &Store<F>,
        outlet: &mut impl Outlet,
    ) -> usize {
        let ready = self.transfers.snapshots.iter();
        let ready: Vec<String> = ready
            .filter(|(_, snapshot)| snapshot.is_ready)
            .map(|(token, _)| token.clone())
            .collect();
        let mut sent = 0;
        for token in ready {
            sent += usize::from(self.send_snapshot(now, &token, store, outlet));
        }
        sent
    }
}

/// Answers as a server does where nobody listens.
fn nobody_listens(op: &JsOp, effects: &mut Vec<Effect>) {
    let Some(to) = op.reply.subject_str() else { return };
    let headers = format!("NATS/1.0 503\r\nNats-Subject: {}\r\n\r\n", op.subject_str());
    let message = Outgoing {
        to: Bytes::copy_from_slice(to.as_bytes()),
        headers: headers.into(),
        payload: Bytes::new(),
    };
    effects.push(Effect::Reply { message, after: None });
}
