//! Atomic batches: messages that are staged until the last one says "commit", then stored together or not at all.
//! Source: ADR-50; nats-server, `processJetStreamAtomicBatchMsg`.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::headers::BatchHeaders;
use crate::api::error::ApiError;
use crate::engine::time::Mono;

/// Messages of one batch.
const MESSAGES_MAX: u64 = 1000;
/// Open batches of one stream.
const OPEN_MAX: usize = 50;
/// Bytes staged in one stream: a batch fits in one segment of the store, so that one write makes it durable.
const STAGED_BYTES_MAX: usize = 32 << 20;
/// A batch ends that gets nothing for so long.
const IDLE_NS: i64 = 10_000_000_000;
const ID_BYTES_MAX: usize = 64;
/// What a staged message costs besides its bytes.
const OVERHEAD_BYTES: usize = 256;

/// A message that waits for its batch to be committed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Staged {
    pub(crate) subject: Bytes,
    pub(crate) headers: Bytes,
    pub(crate) payload: Bytes,
}

impl Staged {
    fn memory_bytes(&self) -> usize {
        self.subject.len() + self.headers.len() + self.payload.len() + OVERHEAD_BYTES
    }
}

/// What became of a batch's message.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Taken {
    /// It waits.
    Staged,
    /// The batch is complete. `ends_apart` if its last message only says so and is not stored.
    Complete { messages: Vec<Staged>, ends_apart: bool },
}

/// Why a batch was given up, as the advisory says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Abandoned {
    Timeout,
    Large,
    Incomplete,
    Unsupported,
}

impl Abandoned {
    /// nats-server's word.
    pub(crate) fn reason(self) -> &'static str {
        match self {
            Self::Timeout => "timeout",
            Self::Large => "large",
            Self::Incomplete => "incomplete",
            Self::Unsupported => "unsupported",
        }
    }
}

/// A refusal, and whether the batch ended with it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Refused {
    pub(crate) error: ApiError,
    pub(crate) abandoned: Option<Abandoned>,
}

impl From<ApiError> for Refused {
    fn from(error: ApiError) -> Self {
        Self {
            error,
            abandoned: None,
        }
    }
}

#[derive(Debug, Default)]
struct Batch {
    last_seq: u64,
    messages: Vec<Staged>,
    bytes: usize,
    used: Mono,
}

/// The open batches of a stream.
#[derive(Debug, Default)]
pub(crate) struct Batches {
    open: BTreeMap<Box<str>, Batch>,
    bytes: usize,
}

impl Batches {
    /// Takes a message. `is_level_ok` says whether the server has the API level that it asks for.
    ///
    /// # Errors
    /// nats-server's errors; unless there was no such batch or no room for one more, the batch is gone then.
    pub(crate) fn take(
        &mut self,
        now: Mono,
        headers: &BatchHeaders<'_>,
        message: Staged,
        is_level_ok: bool,
    ) -> Result<Taken, Refused> {
        let id = headers.id.unwrap_or_default();
        if id.len() > ID_BYTES_MAX {
            return Err(ApiError::BATCH_INVALID_ID.into());
        }
        let seq: u64 = headers
            .seq
            .and_then(|text| text.parse().ok())
            .ok_or(ApiError::BATCH_MISSING_SEQ)?;
        let ends_apart = headers.commit == Some("eob");
        let size = seq.saturating_sub(u64::from(ends_apart));
        if !self.open.contains_key(id) {
            if seq != 1 {
                return Err(if size > MESSAGES_MAX {
                    ApiError::batch_too_large(MESSAGES_MAX).into()
                } else {
                    ApiError::BATCH_INCOMPLETE.into()
                });
            }
            if self.open.len() >= OPEN_MAX {
                return Err(ApiError::BATCH_TOO_MANY.into());
            }
            self.open.insert(id.into(), Batch::default());
        }
        let end = |error: ApiError, abandoned| Err(Refused { error, abandoned });
        let message_bytes = message.memory_bytes();
        let bytes = self.bytes;
        let Some(batch) = self.open.get_mut(id) else {
            return Err(ApiError::BATCH_INCOMPLETE.into());
        };
        batch.used = now;
        batch.last_seq += 1;
        let refusal = if headers
            .commit
            .is_some_and(|commit| commit != "1" && commit != "eob")
        {
            end(ApiError::BATCH_INVALID_COMMIT, None)
        } else if !is_level_ok {
            end(ApiError::API_LEVEL, Some(Abandoned::Unsupported))
        } else if batch.last_seq != seq || (seq == 1 && ends_apart) {
            end(ApiError::BATCH_INCOMPLETE, Some(Abandoned::Incomplete))
        } else if size > MESSAGES_MAX {
            end(ApiError::batch_too_large(MESSAGES_MAX), Some(Abandoned::Large))
        } else if bytes + message_bytes > STAGED_BYTES_MAX {
            end(ApiError::BATCH_TOO_MANY, Some(Abandoned::Large))
        } else {
            Ok(())
        };
        if let Err(refused) = refusal {
            self.remove(id);
            return Err(refused);
        }
        if !ends_apart {
            batch.messages.push(message);
            batch.bytes += message_bytes;
            self.bytes += message_bytes;
        }
        if headers.commit.is_none() {
            return Ok(Taken::Staged);
        }
        let messages = self.remove(id).map(|batch| batch.messages).unwrap_or_default();
        Ok(Taken::Complete { messages, ends_apart })
    }

    /// How many batches are open.
    pub(crate) fn len(&self) -> usize {
        self.open.len()
    }

    fn remove(&mut self, id: &str) -> Option<Batch> {
        let batch = self.open.remove(id)?;
        self.bytes -= batch.bytes;
        Some(batch)
    }

    /// Takes out the batches that have been idle for too long.
    pub(crate) fn expire(&mut self, now: Mono) -> Vec<Box<str>> {
        let idle = self
            .open
            .iter()
            .filter(|(_, batch)| batch.used.after(IDLE_NS) <= now);
        let ids: Vec<Box<str>> = idle.map(|(id, _)| id.clone()).collect();
        for id in &ids {
            self.remove(id);
        }
        ids
    }

    /// When [`Self::expire`] has something to do.
    pub(crate) fn next_deadline(&self) -> Option<Mono> {
        self.open.values().map(|batch| batch.used.after(IDLE_NS)).min()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn message(text: &str) -> Staged {
        Staged {
            subject: Bytes::copy_from_slice(text.as_bytes()),
            headers: Bytes::new(),
            payload: Bytes::new(),
        }
    }

    fn headers<'a>(id: &'a str, seq: &'a str, commit: Option<&'a str>) -> BatchHeaders<'a> {
        BatchHeaders {
            id: Some(id),
            seq: Some(seq),
            commit,
        }
    }

    fn take(batches: &mut Batches, id: &str, seq: u64, commit: Option<&str>) -> Result<Taken, u16> {
        let seq = seq.to_string();
        let taken = batches.take(Mono(0), &headers(id, &seq, commit), message(&seq), true);
        taken.map_err(|refused| refused.error.err_code)
    }

    #[test]
    fn a_batch_comes_out_whole() {
        let mut batches = Batches::default();
        assert_eq!(take(&mut batches, "a", 1, None), Ok(Taken::Staged));
        assert_eq!(take(&mut batches, "b", 1, None), Ok(Taken::Staged));
        let complete = |texts: &[&str], ends_apart| {
            Ok(Taken::Complete {
                messages: texts.iter().map(|text| message(text)).collect(),
                ends_apart,
            })
        };
        assert_eq!(
            take(&mut batches, "a", 2, Some("1")),
            complete(&["1", "2"], false)
        );
        assert_eq!(take(&mut batches, "b", 2, Some("eob")), complete(&["1"], true));
        assert_eq!(batches.bytes, 0);
    }

    #[test]
    fn gaps_and_nonsense_end_a_batch() {
        let mut batches = Batches::default();
        assert_eq!(take(&mut batches, "a", 2, None), Err(10176));
        assert_eq!(take(&mut batches, "a", 1002, None), Err(10199));
        assert_eq!(take(&mut batches, "a", 1, None), Ok(Taken::Staged));
        assert_eq!(take(&mut batches, "a", 3, None), Err(10176));
        assert_eq!(take(&mut batches, "a", 2, None), Err(10176));
        assert_eq!(take(&mut batches, "a", 1, Some("2")), Err(10200));
        assert_eq!(take(&mut batches, "a", 1, Some("eob")), Err(10176));
        assert_eq!(take(&mut batches, &"x".repeat(65), 1, None), Err(10179));
        let missing = batches.take(
            Mono(0),
            &BatchHeaders {
                id: Some("a"),
                ..BatchHeaders::default()
            },
            message(""),
            true,
        );
        assert_eq!(missing.unwrap_err().error.err_code, 10175);
        for index in 0..OPEN_MAX {
            assert_eq!(take(&mut batches, &index.to_string(), 1, None), Ok(Taken::Staged));
        }
        assert_eq!(take(&mut batches, "more", 1, None), Err(10210));
        assert_eq!(batches.expire(Mono(IDLE_NS as u64 - 1)).len(), 0);
        assert_eq!(batches.expire(Mono(IDLE_NS as u64)).len(), OPEN_MAX);
        assert_eq!(batches.next_deadline(), None);
    }

    proptest! {
        #[test]
        fn bytes_are_counted_exactly(ops in proptest::collection::vec((0_u8..4, 1_u64..5, 0_u8..6), 0..200)) {
            let mut batches = Batches::default();
            for (id, seq, commit) in ops {
                let commit = match commit { 0 => Some("1"), 1 => Some("eob"), 2 => Some("x"), _ => None };
                take(&mut batches, &id.to_string(), seq, commit).ok();
                let sum: usize = batches.open.values().map(|batch| batch.bytes).sum();
                prop_assert_eq!(batches.bytes, sum);
            }
        }
    }
}
