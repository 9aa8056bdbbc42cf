//! Fast batches: many messages with few acknowledgements, numbered in the reply subject. Each is stored as it comes; the
//! server says now and then how far it is and how often it will say so, and a publisher that lost one learns of the gap.
//!
//! A state machine without input or output. Every message is stored, or refused, before the next one is looked at.
//! Source: ADR-50; nats-server, `processJetStreamFastBatchMsg`.

use std::collections::BTreeMap;

use crate::api::error::ApiError;
use crate::engine::time::Mono;

/// How the reply subject of a message of such a batch ends.
const SUFFIX: &str = ".$FI";
/// Open batches of one stream.
const OPEN_MAX: usize = 1000;
/// A batch ends that gets nothing for so long.
const IDLE_NS: i64 = 10_000_000_000;
const ID_BYTES_MAX: usize = 64;
/// Messages that all publishers together may send for one acknowledgement.
const FLOW_MAX: u16 = 500;
const FLOW_DEFAULT: u16 = 10;

/// What a message asks for, by its reply subject.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FastOp {
    /// Store it.
    Append,
    /// Store it; it is the last.
    Commit,
    /// The one before was the last.
    CommitBefore,
    /// Say how far the batch is.
    Ping,
}

/// What a reply subject says: `<prefix>.<id>.<flow>.<gap>.<sequence>.<operation>.$FI`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FastMessage<'a> {
    pub(crate) id: &'a str,
    /// Messages for one acknowledgement that the publisher wants at most.
    flow: u16,
    /// Whether the batch goes on where messages are missing.
    gap_ok: bool,
    pub(crate) seq: u64,
    pub(crate) op: FastOp,
}

/// Whether a reply subject belongs to a fast batch.
pub(crate) fn is_fast(reply: &str) -> bool {
    reply.len() > SUFFIX.len() && reply.ends_with(SUFFIX)
}

impl<'a> FastMessage<'a> {
    /// Reads a reply subject. `None`: it is malformed.
    pub(crate) fn parse(reply: &'a str) -> Option<Self> {
        let mut tokens = reply.strip_suffix(SUFFIX)?.rsplitn(6, '.');
        let op = tokens.next()?;
        let seq = tokens.next()?;
        let gap_ok = match tokens.next()? {
            "ok" => true,
            "fail" => false,
            _ => return None,
        };
        let flow = tokens.next()?;
        let id = tokens.next()?;
        tokens.next()?;
        let seq = number(seq).filter(|seq| (1..u64::MAX).contains(seq))?;
        let op = match (op, seq) {
            ("0", 1) | ("1", 2..) => FastOp::Append,
            ("2", _) => FastOp::Commit,
            ("3", 2..) => FastOp::CommitBefore,
            ("4", _) => FastOp::Ping,
            _ => return None,
        };
        let flow = match number(flow) {
            Some(0) | None => FLOW_DEFAULT,
            Some(flow) => u16::try_from(flow).unwrap_or(u16::MAX),
        };
        Some(Self {
            id,
            flow,
            gap_ok,
            seq,
            op,
        })
    }
}

fn number(digits: &str) -> Option<u64> {
    let is_number = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    digits.parse().ok().filter(|_| is_number)
}

/// What the publisher is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Told {
    /// All up to `seq` is worked in; the next acknowledgement comes after `messages` more.
    Flow { seq: u64, messages: u16 },
    /// Those from `expected` on, below `seq`, did not come.
    Gap { expected: u64, seq: u64 },
    /// The message was refused, and the batch may go on.
    Refused { seq: u64, error: ApiError },
    /// The batch has ended with this message of the stream, and counts so many.
    Done { stream_seq: u64, count: u64 },
    /// It has ended because its first message was stored before, as this one.
    Duplicate { stream_seq: u64, count: u64 },
    /// It has ended before it began.
    Error(ApiError),
}

/// What becomes of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Admitted {
    /// It is to be stored, and the outcome told to [`FastBatches::stored`].
    Store,
    /// There is nothing to be stored.
    Nothing,
}

/// How storing a message went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Stored(u64),
    /// It was stored before, as this sequence.
    Duplicate(u64),
    Refused(ApiError),
}

#[derive(Debug)]
struct Batch {
    gap_ok: bool,
    /// The last number that came.
    last_seq: u64,
    /// The last that was acknowledged.
    flow_seq: u64,
    /// The last message that was stored.
    stream_seq: u64,
    messages: u16,
    messages_max: u16,
    used: Mono,
}

/// The open fast batches of a stream.
#[derive(Debug, Default)]
pub(crate) struct FastBatches {
    open: BTreeMap<Box<str>, Batch>,
}

impl FastBatches {
    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.open.len()
    }

    /// Ends all of them without a word.
    pub(crate) fn clear(&mut self) {
        self.open.clear();
    }

    /// When the next one ends if nothing more comes.
    pub(crate) fn next_deadline(&self) -> Option<Mono> {
        self.open.values().map(|batch| batch.used.after(IDLE_NS)).min()
    }

    /// Ends those that got nothing for too long.
    pub(crate) fn expire(&mut self, now: Mono) {
        self.open.retain(|_, batch| batch.used.after(IDLE_NS) > now);
    }

    /// Ends a batch without a word.
    pub(crate) fn remove(&mut self, id: &str) {
        self.open.remove(id);
    }

    /// Takes a message. What is to be told is appended to `told`. `is_full`: no stream may open one more.
    ///
    /// # Errors
    /// nats-server's errors; there is no such batch then.
    pub(crate) fn take(
        &mut self,
        now: Mono,
        message: &FastMessage<'_>,
        is_full: bool,
        told: &mut Vec<Told>,
    ) -> Result<Admitted, ApiError> {
        if message.id.len() > ID_BYTES_MAX {
            return Err(ApiError::FAST_BATCH_INVALID_ID);
        }
        let others = self.open.len();
        if !self.open.contains_key(message.id) {
            if message.seq != 1 {
                return Err(ApiError::FAST_BATCH_UNKNOWN);
            }
            if is_full || others >= OPEN_MAX {
                return Err(ApiError::FAST_BATCH_TOO_MANY);
            }
            let batch = Batch {
                gap_ok: message.gap_ok,
                last_seq: 0,
                flow_seq: 0,
                stream_seq: 0,
                messages: if others > 0 { 1 } else { message.flow.min(FLOW_MAX) },
                messages_max: message.flow,
                used: now,
            };
            self.open.insert(message.id.into(), batch);
        }
        let count = self.open.len();
        let Some(batch) = self.open.get_mut(message.id) else {
            return Err(ApiError::FAST_BATCH_UNKNOWN);
        };
        batch.used = now;
        let (admitted, is_done) = match message.op {
            FastOp::Ping => (Admitted::Nothing, batch.ping(message.seq, count, told)),
            _ => batch.append(message, told),
        };
        if is_done {
            self.open.remove(message.id);
        }
        Ok(admitted)
    }

    /// Takes note of what became of a message that [`Self::take`] admitted.
    pub(crate) fn stored(&mut self, message: &FastMessage<'_>, outcome: Outcome, told: &mut Vec<Told>) {
        let count = self.open.len();
        let Some(batch) = self.open.get_mut(message.id) else {
            return;
        };
        if batch.stored(message, outcome, count, told) {
            self.open.remove(message.id);
        }
    }
}

impl Batch {
    fn done(&self, told: &mut Vec<Told>) -> bool {
        told.push(Told::Done {
            stream_seq: self.stream_seq,
            count: self.last_seq,
        });
        true
    }

    fn flow(&self) -> Told {
        Told::Flow {
            seq: self.flow_seq,
            messages: self.messages,
        }
    }

    /// Returns whether the batch has ended.
    fn ping(&mut self, seq: u64, open: usize, told: &mut Vec<Told>) -> bool {
        if seq > self.last_seq {
            told.push(Told::Gap {
                expected: self.last_seq + 1,
                seq: seq + 1,
            });
            if !self.gap_ok {
                return self.done(told);
            }
            self.last_seq = seq;
            if self.check_flow(open, told) {
                return false;
            }
        }
        told.push(self.flow());
        false
    }

    /// Returns what is to be done with the message, and whether the batch has ended.
    fn append(&mut self, message: &FastMessage<'_>, told: &mut Vec<Told>) -> (Admitted, bool) {
        let expected = self.last_seq + 1;
        if message.seq > expected {
            told.push(Told::Gap {
                expected,
                seq: message.seq,
            });
        }
        if message.seq < expected || (message.seq > expected && !self.gap_ok) {
            return (Admitted::Nothing, self.done(told));
        }
        if message.op == FastOp::CommitBefore {
            self.last_seq = message.seq - 1;
            return (Admitted::Nothing, self.done(told));
        }
        self.last_seq = message.seq;
        if message.seq == 1 && message.op == FastOp::Append {
            told.push(self.flow());
        }
        (Admitted::Store, false)
    }

    /// Returns whether the batch has ended.
    fn stored(
        &mut self,
        message: &FastMessage<'_>,
        outcome: Outcome,
        open: usize,
        told: &mut Vec<Told>,
    ) -> bool {
        let is_last = message.op == FastOp::Commit;
        let is_first = self.last_seq == 1 && !self.gap_ok;
        match outcome {
            Outcome::Stored(stream_seq) => {
                self.stream_seq = stream_seq;
                if is_last {
                    return self.done(told);
                }
                self.check_flow(open, told);
                false
            }
            Outcome::Duplicate(_) if !is_last => {
                self.check_flow(open, told);
                false
            }
            Outcome::Duplicate(stream_seq) if is_first => {
                told.push(Told::Duplicate {
                    stream_seq,
                    count: message.seq,
                });
                true
            }
            Outcome::Duplicate(_) => self.done(told),
            Outcome::Refused(error) if is_first => {
                told.push(Told::Error(error));
                true
            }
            Outcome::Refused(error) => {
                told.push(Told::Refused {
                    seq: message.seq,
                    error,
                });
                if self.gap_ok && !is_last {
                    return false;
                }
                self.last_seq -= 1;
                self.done(told)
            }
        }
    }

    /// Acknowledges if enough has come, and moves towards a fair share of acknowledgements. Returns whether it did.
    fn check_flow(&mut self, open: usize, told: &mut Vec<Told>) -> bool {
        let step = u64::from(self.messages);
        if self.last_seq < self.flow_seq + step {
            return false;
        }
        self.flow_seq += (self.last_seq - self.flow_seq) / step * step;
        let share = usize::from(FLOW_MAX) / open.max(1);
        let share = u16::try_from(share)
            .unwrap_or(FLOW_MAX)
            .max(1)
            .min(self.messages_max);
        self.messages = match self.messages {
            messages if messages < share => messages.saturating_mul(2).min(share),
            messages if messages > share => (messages / 2).max(share),
            messages => messages,
        };
        told.push(self.flow());
        true
    }
}

#[cfg(test)]
mod tests;
