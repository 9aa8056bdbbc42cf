//! What follows when a copy of messages is durable: they leave an origin that keeps them only until somebody has them, and
//! the consumer through which a stream copies has got them.

use std::ops::Range;

use super::sourcing::{Origin, RETRY_NS};
use super::time::Now;
use super::{ConsumerId, Engine, Timer};
use crate::api::error::ApiError;
use crate::consumer::config::AckPolicy;
use crate::env::Fs;
use crate::store::{Store, SubjectFilter};
use crate::stream::config::Retention;
use crate::types::{StreamId, StreamSeq};

/// Messages that were copied, until the copy is durable.
#[derive(Debug)]
pub(super) struct Copied {
    origin: StreamId,
    copy: StreamId,
    copy_seq: StreamSeq,
    /// Counts them as its own.
    through: Option<ConsumerId>,
    done: Vec<u64>,
}

impl Engine {
    /// The consumer through which an origin is copied; what it filters is what is copied.
    ///
    /// # Errors
    /// If there is no such consumer, or it is not acknowledged by flow control.
    /// Source: nats-server, `setupMirrorConsumer`, `trySetupSourceConsumer`.
    pub(super) fn copied_through(
        &self,
        origin: &mut Origin,
        is_mirror: bool,
    ) -> Result<Option<ConsumerId>, ApiError> {
        let Some(name) = &origin.consumer else {
            return Ok(None);
        };
        let id = self
            .find_consumer(&origin.name, name)
            .ok_or(ApiError::CONSUMER_NOT_FOUND)?;
        let observer = self.consumers.get(&id).ok_or(ApiError::CONSUMER_NOT_FOUND)?;
        let config = &observer.consumer.config;
        if config.ack_policy != AckPolicy::FlowControl {
            return Err(if is_mirror {
                ApiError::MIRROR_CONSUMER_REQUIRES_FC
            } else {
                ApiError::SOURCE_CONSUMER_REQUIRES_FC
            });
        }
        origin.filter = SubjectFilter::new(&config.filters());
        Ok(Some(id))
    }

    /// Messages of `origin` were copied: what follows waits until the copy is durable.
    pub(super) fn note_copied<F: Fs>(
        &mut self,
        origin: StreamId,
        copy: StreamId,
        through: Option<ConsumerId>,
        done: Vec<u64>,
        store: &Store<F>,
    ) {
        let keeps = self
            .streams
            .get(&origin)
            .is_none_or(|stream| stream.config.retention == Retention::Limits);
        if !keeps || through.is_some() {
            self.copied.push(Copied {
                origin,
                copy,
                copy_seq: store.state(copy).last_seq,
                through,
                done,
            });
        }
    }

    /// Does what follows where copies have become durable.
    pub(super) fn retire_copied<F: Fs>(&mut self, now: Now, store: &mut Store<F>) {
        for copied in std::mem::take(&mut self.copied) {
            if store.durable_seq(copied.copy) < copied.copy_seq {
                self.copied.push(copied);
                continue;
            }
            if let Some(id) = copied.through
                && let (Some(observer), Some(last)) = (self.consumers.get_mut(&id), copied.done.last())
            {
                observer.consumer.copied(now, *last, copied.done.len() as u64);
                self.note_dirty(now.mono, id);
            }
            self.retire(copied.origin, &copied.done, store);
        }
    }

    /// Lets go of what was copied before the broker knew: a crash may have come between the copy and the removal.
    pub(super) fn retire_copied_before<F: Fs>(
        &mut self,
        origin: StreamId,
        filter: &SubjectFilter,
        copied: Range<u64>,
        store: &mut Store<F>,
    ) {
        let keeps = self
            .streams
            .get(&origin)
            .is_none_or(|stream| stream.config.retention == Retention::Limits);
        let mut next = StreamSeq(copied.start);
        while !keeps
            && let Some(seq) = store.next_match(origin, filter, next)
            && seq.0 < copied.end
        {
            self.retire(origin, &[seq.0], store);
            next = seq.next();
        }
    }

    /// The commit of a stream failed: what it copied last is to be copied again.
    pub(super) fn forget_copied(&mut self, id: StreamId) {
        self.copied.retain(|copied| copied.copy != id);
        if let Some(stream) = self.streams.get_mut(&id)
            && !stream.origins.is_empty()
        {
            stream.origins.list.iter_mut().for_each(Origin::forget_position);
            self.timers.insert((self.ticked.after(RETRY_NS), Timer::Copy(id)));
        }
    }
}
