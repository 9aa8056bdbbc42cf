//! The way from sessions and local clients to the storage thread: batches of operations, bounded by bytes.
//!
//! Senders wait for room, in order; the storage thread takes everything that is queued at once. Room is given back when a
//! batch is taken, so at most twice the capacity is alive: one helping in work, one queued.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{Semaphore, TryAcquireError, oneshot};

use crate::types::{AccountId, StreamId, StreamSeq};

/// One operation for the storage thread.
#[derive(Debug)]
pub struct JsOp {
    /// In which account.
    pub account: AccountId,
    /// What is asked.
    pub kind: JsKind,
    /// The subject published to: valid UTF-8, a literal subject.
    pub subject: Bytes,
    /// Where the answer goes.
    pub reply: ReplyTo,
    /// The header block, `NATS/1.0\r\n … \r\n\r\n`, or empty.
    pub headers: Bytes,
    /// The payload.
    pub payload: Bytes,
}

/// What a [`JsOp`] asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JsKind {
    /// Store the message in this stream. The stream may have gone since: answer with an error then.
    Publish(StreamId),
    /// A request to `$JS.API.>`.
    Api,
    /// An acknowledgement to `$JS.ACK.>`, or an answer to flow control, `$JS.FC.>`.
    Ack,
    /// A part of a backup: a chunk to be restored, or the acknowledgement of one that was sent, `$JS.SNAPSHOT.>`.
    Transfer,
    /// A message for a stream that copies one of another account: where the stream listens.
    Heard(u64),
    /// A client asks who it is, `$SYS.REQ.USER.INFO`: its session answers.
    UserInfo,
}

/// Where the answer to a [`JsOp`] goes.
#[derive(Debug)]
pub enum ReplyTo {
    /// Nobody waits.
    None,
    /// A message to this subject (valid UTF-8).
    Subject(Bytes),
    /// A slot of a local client's batch.
    Local {
        /// The batch.
        completion: Arc<Completion>,
        /// The slot.
        index: u32,
        /// How a message that may have been stored before is recognised.
        resend: Option<Resend>,
    },
}

/// How a local publish that may be a repetition is recognised (MQTT QoS 1).
///
/// `is_resend` false: remember the key for the duplicate window, replacing what it stood for. True: a key that is in the
/// window answers "duplicate" with the sequence remembered, and nothing is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resend {
    /// Names the message, for instance client id, packet id and a hash of the payload.
    pub key: Box<str>,
    /// Whether the sender says that it sent the message before.
    pub is_resend: bool,
}

/// A message is on disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PubAck {
    /// The stream that holds it.
    pub stream: Arc<str>,
    /// Its position there.
    pub seq: StreamSeq,
    /// Whether it had been stored before, under `seq`, and was not stored again.
    pub duplicate: bool,
}

/// Why a local publish was not stored.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PublishError {
    /// Nothing captures the subject.
    #[error("no stream captures the subject")]
    NoStream,
    /// The subject has an empty token, white space or a wildcard.
    #[error("the subject cannot be published to")]
    InvalidSubject,
    /// The disk is full.
    #[error("no space left in the store")]
    NoSpace,
    /// The store refuses writes after a failed sync.
    #[error("the store refuses writes until it is restarted")]
    ReadOnly,
    /// The stream refused, with JetStream's code and text.
    #[error("{description} ({err_code})")]
    Refused {
        /// JetStream's `err_code`.
        err_code: u16,
        /// JetStream's description.
        description: String,
    },
    /// The broker is shutting down.
    #[error("the broker is shutting down")]
    Closed,
}

/// The answers to one batch of local publishes. Sends them as one when the last has come; slots still open when it is
/// dropped are answered with [`PublishError::Closed`].
#[derive(Debug)]
pub struct Completion {
    state: Mutex<CompletionState>,
}

#[derive(Debug)]
struct CompletionState {
    results: Vec<Option<Result<PubAck, PublishError>>>,
    open: usize,
    done: Option<oneshot::Sender<Vec<Result<PubAck, PublishError>>>>,
}

impl Completion {
    /// A batch of `count` slots and the receiver of its answers. A batch of none is answered at once.
    pub fn new(count: usize) -> (Arc<Self>, oneshot::Receiver<Vec<Result<PubAck, PublishError>>>) {
        let (done, receiver) = oneshot::channel();
        let mut state = CompletionState {
            results: vec![None; count],
            open: count,
            done: Some(done),
        };
        if count == 0 {
            state.send();
        }
        (
            Arc::new(Self {
                state: Mutex::new(state),
            }),
            receiver,
        )
    }

    /// Answers slot `index`. A second answer to a slot and an index that is not there are ignored.
    pub fn resolve(&self, index: u32, result: Result<PubAck, PublishError>) {
        let mut state = lock(&self.state);
        let Some(slot) = state.results.get_mut(index as usize) else {
            return;
        };
        if slot.is_some() {
            return;
        }
        *slot = Some(result);
        state.open -= 1;
        if state.open == 0 {
            state.send();
        }
    }
}

impl CompletionState {
    fn send(&mut self) {
        let results = self
            .results
            .drain(..)
            .map(|slot| slot.unwrap_or(Err(PublishError::Closed)))
            .collect();
        if let Some(done) = self.done.take() {
            // The receiver may have stopped waiting; the outcome on disk is the same.
            drop(done.send(results));
        }
    }
}

impl Drop for CompletionState {
    fn drop(&mut self) {
        self.send();
    }
}

/// The inbox no longer takes operations: the broker is shutting down. Gives the batch back.
#[derive(Debug, thiserror::Error)]
#[error("the storage thread takes no more operations")]
pub struct InboxClosed(pub Vec<JsOp>);

/// A queue of batches, bounded by bytes.
#[derive(Debug)]
pub struct Inbox {
    state: Mutex<InboxState>,
    filled: Condvar,
    room: Semaphore,
    capacity_bytes: usize,
}

#[derive(Debug, Default)]
struct InboxState {
    batches: Vec<Vec<JsOp>>,
    bytes: usize,
    awake: bool,
    closed: bool,
}

/// What taking from the inbox gave.
#[derive(Debug)]
pub struct Taken {
    /// Batches in the order of sending; empty after a time-out or a wake-up.
    pub batches: Vec<Vec<JsOp>>,
    /// The inbox is closed and these are the last.
    pub closed: bool,
}

impl Inbox {
    /// An inbox that holds at most `capacity_bytes` of operations (a larger single batch passes alone).
    pub fn new(capacity_bytes: usize) -> Self {
        let capacity_bytes = capacity_bytes.clamp(1, u32::MAX as usize);
        Self {
            state: Mutex::default(),
            filled: Condvar::new(),
            room: Semaphore::new(capacity_bytes),
            capacity_bytes,
        }
    }

    /// Queues `ops` as one batch, waiting for room first. An empty batch is not queued.
    /// Errors once the inbox is closed; the batch comes back then.
    pub async fn send(&self, ops: Vec<JsOp>) -> Result<(), InboxClosed> {
        if ops.is_empty() {
            return Ok(());
        }
        let bytes = self.charge(&ops);
        match self.room.acquire_many(bytes).await {
            Ok(permit) => {
                permit.forget();
                self.put(ops, bytes as usize)
            }
            Err(_) => Err(InboxClosed(ops)),
        }
    }

    /// As [`Self::send`], without waiting: `Ok(Some)` gives the batch back because there is no room.
    pub fn try_send(&self, ops: Vec<JsOp>) -> Result<Option<Vec<JsOp>>, InboxClosed> {
        if ops.is_empty() {
            return Ok(None);
        }
        let bytes = self.charge(&ops);
        match self.room.try_acquire_many(bytes) {
            Ok(permit) => {
                permit.forget();
                self.put(ops, bytes as usize).map(|()| None)
            }
            Err(TryAcquireError::NoPermits) => Ok(Some(ops)),
            Err(TryAcquireError::Closed) => Err(InboxClosed(ops)),
        }
    }

    /// Takes everything queued; waits for something at most `timeout` (none: as long as it takes), a [`Self::wake`] or
    /// the end.
    pub fn take_all(&self, timeout: Option<Duration>) -> Taken {
        let mut state = lock(&self.state);
        let idle = |state: &mut InboxState| state.batches.is_empty() && !state.awake && !state.closed;
        state = match timeout {
            None => self
                .filled
                .wait_while(state, idle)
                .unwrap_or_else(PoisonError::into_inner),
            Some(timeout) => {
                self.filled
                    .wait_timeout_while(state, timeout, idle)
                    .unwrap_or_else(PoisonError::into_inner)
                    .0
            }
        };
        state.awake = false;
        let bytes = std::mem::take(&mut state.bytes);
        let taken = Taken {
            batches: std::mem::take(&mut state.batches),
            closed: state.closed,
        };
        drop(state);
        self.room.add_permits(bytes);
        taken
    }

    /// Makes the storage thread return from [`Self::take_all`] although nothing came.
    pub fn wake(&self) {
        lock(&self.state).awake = true;
        self.filled.notify_one();
    }

    /// Whether something is queued.
    pub fn has_batches(&self) -> bool {
        !lock(&self.state).batches.is_empty()
    }

    /// Takes no more batches. What is queued is still handed out.
    pub fn close(&self) {
        lock(&self.state).closed = true;
        self.room.close();
        self.filled.notify_one();
    }

    /// Bytes queued now, and how many fit.
    pub fn fullness(&self) -> (usize, usize) {
        (lock(&self.state).bytes, self.capacity_bytes)
    }

    fn put(&self, ops: Vec<JsOp>, bytes: usize) -> Result<(), InboxClosed> {
        let mut state = lock(&self.state);
        if state.closed {
            return Err(InboxClosed(ops));
        }
        state.batches.push(ops);
        state.bytes += bytes;
        drop(state);
        self.filled.notify_one();
        Ok(())
    }

    /// What a batch costs: its bytes and its place in memory, at most the whole capacity.
    fn charge(&self, ops: &[JsOp]) -> u32 {
        let bytes: usize = ops.iter().map(JsOp::memory_bytes).sum();
        u32::try_from(bytes.clamp(1, self.capacity_bytes)).unwrap_or(u32::MAX)
    }
}

impl JsOp {
    /// The subject as text; empty if it is not UTF-8, which senders have ruled out.
    pub fn subject_str(&self) -> &str {
        std::str::from_utf8(&self.subject).unwrap_or_default()
    }

    fn memory_bytes(&self) -> usize {
        let reply = match &self.reply {
            ReplyTo::None => 0,
            ReplyTo::Subject(subject) => subject.len(),
            ReplyTo::Local { resend, .. } => resend.as_ref().map_or(0, |resend| resend.key.len()),
        };
        size_of::<Self>() + self.subject.len() + self.headers.len() + self.payload.len() + reply
    }
}

impl ReplyTo {
    /// The reply subject as text, if the answer goes to one.
    pub fn subject_str(&self) -> Option<&str> {
        match self {
            Self::Subject(subject) => std::str::from_utf8(subject).ok(),
            Self::None | Self::Local { .. } => None,
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn op(bytes: usize) -> JsOp {
        JsOp {
            account: AccountId::GLOBAL,
            kind: JsKind::Api,
            subject: Bytes::from_static(b"a"),
            reply: ReplyTo::None,
            headers: Bytes::new(),
            payload: Bytes::from(vec![0; bytes]),
        }
    }

    #[tokio::test]
    async fn batches_come_out_in_order_and_at_once() {
        let inbox = Inbox::new(1 << 20);
        inbox.send(vec![op(1)]).await.unwrap();
        inbox.send(vec![]).await.unwrap();
        inbox.send(vec![op(2), op(3)]).await.unwrap();
        let taken = inbox.take_all(None);
        let lens: Vec<Vec<usize>> = taken
            .batches
            .iter()
            .map(|batch| batch.iter().map(|op| op.payload.len()).collect())
            .collect();
        assert_eq!(lens, [vec![1], vec![2, 3]]);
        assert!(inbox.take_all(Some(Duration::ZERO)).batches.is_empty());
    }

    #[tokio::test]
    async fn a_full_inbox_makes_senders_wait_until_it_is_taken() {
        let inbox = Inbox::new(1000);
        inbox.send(vec![op(600)]).await.unwrap();
        let mut second = Box::pin(inbox.send(vec![op(600)]));
        assert!(futures::poll!(&mut second).is_pending());
        assert!(inbox.fullness().0 > 600 && inbox.fullness().1 == 1000);
        assert_eq!(inbox.take_all(None).batches.len(), 1);
        second.await.unwrap();
        assert_eq!(inbox.take_all(None).batches.len(), 1);
    }

    #[tokio::test]
    async fn a_batch_beyond_the_capacity_passes_alone() {
        let inbox = Inbox::new(100);
        inbox.send(vec![op(5000)]).await.unwrap();
        let mut second = Box::pin(inbox.send(vec![op(1)]));
        assert!(futures::poll!(&mut second).is_pending());
        assert_eq!(inbox.take_all(None).batches.len(), 1);
        second.await.unwrap();
    }

    #[tokio::test]
    async fn closing_refuses_new_batches_and_hands_out_the_queued() {
        let inbox = Inbox::new(1 << 20);
        inbox.send(vec![op(1)]).await.unwrap();
        inbox.close();
        let InboxClosed(back) = inbox.send(vec![op(2)]).await.unwrap_err();
        assert_eq!(back.len(), 1);
        let taken = inbox.take_all(None);
        assert!(taken.closed && taken.batches.len() == 1);
    }

    #[tokio::test]
    async fn completion_answers_once_all_slots_are_resolved_and_closed_when_dropped() {
        let ack = PubAck {
            stream: "S".into(),
            seq: StreamSeq(7),
            duplicate: false,
        };
        let (completion, mut receiver) = Completion::new(2);
        completion.resolve(1, Ok(ack.clone()));
        completion.resolve(1, Err(PublishError::NoSpace));
        completion.resolve(9, Err(PublishError::NoSpace));
        assert!(receiver.try_recv().is_err());
        drop(completion);
        assert_eq!(receiver.await.unwrap(), [Err(PublishError::Closed), Ok(ack)]);
        let (_empty, receiver) = Completion::new(0);
        assert!(receiver.await.unwrap().is_empty());
    }
}
