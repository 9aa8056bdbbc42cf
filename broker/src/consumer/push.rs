//! The push side of a consumer: whether somebody listens, heartbeats and flow control.

use bytes::Bytes;

use super::config::{AckPolicy, ConsumerConfig};
use super::pull::{Notice, Status};
use super::{Picked, Receiver, SeqPair};
use crate::engine::time::Mono;

/// Bytes that may be on their way before the receiver has answered a flow-control request, at first.
const WINDOW_BYTES_MIN: u64 = 2 * 1024 * 1024;
/// The same, at most: each answer doubles the window.
const WINDOW_BYTES_MAX: u64 = 32 * 1024 * 1024;

/// State of a push consumer; unused in a pull consumer.
#[derive(Debug, Default)]
pub(crate) struct PushState {
    deliver_subject: Bytes,
    is_bound: bool,
    /// Bytes sent and not covered by an answered flow-control request.
    unconfirmed_bytes: u64,
    window_bytes: u64,
    request: Option<FlowRequest>,
    request_count: u64,
    heartbeat_due: Option<Mono>,
}

#[derive(Debug)]
struct FlowRequest {
    subject: String,
    bytes: u64,
}

impl PushState {
    /// State for a consumer that pushes to `deliver_subject`, with nobody bound.
    pub(crate) fn new(deliver_subject: &str) -> Self {
        Self {
            deliver_subject: Bytes::copy_from_slice(deliver_subject.as_bytes()),
            window_bytes: WINDOW_BYTES_MIN,
            ..Self::default()
        }
    }

    /// Where messages go.
    pub(crate) fn deliver_subject(&self) -> &Bytes {
        &self.deliver_subject
    }

    /// Whether somebody listens.
    pub(crate) fn is_bound(&self) -> bool {
        self.is_bound
    }

    /// Somebody began or ceased to listen. What was on its way to the last listener does not hold up the next one; the
    /// window is as wide as it has become.
    pub(crate) fn set_bound(&mut self, is_bound: bool, now: Mono, config: &ConsumerConfig) {
        if is_bound == self.is_bound {
            return;
        }
        self.is_bound = is_bound;
        self.unconfirmed_bytes = 0;
        self.request = None;
        self.heartbeat_due = None;
        if is_bound {
            self.reset_heartbeat(now, config);
        }
    }

    fn reset_heartbeat(&mut self, now: Mono, config: &ConsumerConfig) {
        if config.idle_heartbeat > 0 {
            self.heartbeat_due = Some(now.after(config.idle_heartbeat));
        }
    }

    /// Whether the listener takes a message now.
    pub(crate) fn pick(&self, mut receiver: impl FnMut(&Bytes) -> Receiver) -> Picked {
        if !self.is_bound {
            return Picked::Nobody;
        }
        if self.unconfirmed_bytes > self.window_bytes {
            return Picked::Nobody;
        }
        match receiver(&self.deliver_subject) {
            Receiver::Ready => Picked::Ready,
            Receiver::Busy => Picked::Busy,
            Receiver::Gone => Picked::Nobody,
        }
    }

    /// A message of `size` bytes was sent. Returns the flow-control request that is to follow it.
    pub(crate) fn delivered(
        &mut self,
        now: Mono,
        size: usize,
        config: &ConsumerConfig,
        is_stalled: bool,
        flow_prefix: impl FnOnce() -> String,
    ) -> Option<Notice> {
        self.reset_heartbeat(now, config);
        if !config.flow_control {
            return None;
        }
        let size = size as u64;
        self.unconfirmed_bytes += size;
        if let Some(request) = &mut self.request {
            if self.unconfirmed_bytes - request.bytes >= self.window_bytes {
                request.bytes += size;
            }
            return None;
        }
        let is_due = self.unconfirmed_bytes > self.window_bytes / 2
            || (is_stalled && config.ack_policy == AckPolicy::FlowControl);
        is_due.then(|| self.ask(flow_prefix()))
    }

    /// Asks the receiver to say that it has got what was sent.
    fn ask(&mut self, flow_prefix: String) -> Notice {
        self.request_count += 1;
        let subject = format!("{flow_prefix}.{}", self.request_count);
        self.request = Some(FlowRequest {
            subject: subject.clone(),
            bytes: self.unconfirmed_bytes,
        });
        Notice {
            reply: self.deliver_subject.clone(),
            status: Status::FlowControl { answer_to: subject },
        }
    }

    /// The receiver answered the flow-control request `subject`. Returns whether it was the open one.
    pub(crate) fn flow_answered(&mut self, subject: &str) -> bool {
        match self.request.take() {
            Some(request) if request.subject == subject => {
                self.unconfirmed_bytes = self.unconfirmed_bytes.saturating_sub(request.bytes);
                self.window_bytes = (self.window_bytes * 2).min(WINDOW_BYTES_MAX);
                true
            }
            other => {
                self.request = other;
                false
            }
        }
    }

    /// Sends the heartbeat if it is due. `awaits_ack`: an answer to flow control is to acknowledge what was sent.
    pub(crate) fn heartbeat(
        &mut self,
        now: Mono,
        config: &ConsumerConfig,
        at: SeqPair,
        awaits_ack: Option<impl FnOnce() -> String>,
        notices: &mut Vec<Notice>,
    ) {
        if !self.is_bound || self.heartbeat_due.is_none_or(|due| due > now) {
            return;
        }
        self.reset_heartbeat(now, config);
        let stalled_on = self.request.as_ref().map(|request| request.subject.clone());
        let status = Status::IdleHeartbeat {
            consumer_seq: at.consumer,
            stream_seq: at.stream,
            stalled_on,
        };
        notices.push(Notice {
            reply: self.deliver_subject.clone(),
            status,
        });
        if let Some(flow_prefix) = awaits_ack.filter(|_| self.request.is_none()) {
            notices.push(self.ask(flow_prefix()));
        }
    }

    /// When the next heartbeat is due.
    pub(crate) fn next_deadline(&self) -> Option<Mono> {
        self.heartbeat_due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NO_ACKS: Option<fn() -> String> = None;

    fn config() -> ConsumerConfig {
        ConsumerConfig {
            deliver_subject: "d".to_owned(),
            flow_control: true,
            idle_heartbeat: 1000,
            ..ConsumerConfig::default()
        }
    }

    fn bound() -> PushState {
        let mut push = PushState::new("d");
        push.set_bound(true, Mono(0), &config());
        push
    }

    fn send(push: &mut PushState, bytes: usize) -> Option<Notice> {
        push.delivered(Mono(0), bytes, &config(), false, || "$JS.FC.S.C".to_owned())
    }

    #[test]
    fn the_window_closes_until_the_receiver_answers() {
        let mut push = bound();
        let half = WINDOW_BYTES_MIN as usize / 2;
        assert_eq!(send(&mut push, half), None);
        let notice = send(&mut push, 1).unwrap();
        assert_eq!(
            notice.status,
            Status::FlowControl {
                answer_to: "$JS.FC.S.C.1".to_owned()
            }
        );
        assert_eq!(send(&mut push, half), None);
        assert_eq!(push.pick(|_| Receiver::Ready), Picked::Nobody);
        assert!(!push.flow_answered("$JS.FC.S.C.9"));
        assert!(push.flow_answered("$JS.FC.S.C.1"));
        assert_eq!(push.pick(|_| Receiver::Ready), Picked::Ready);
    }

    #[test]
    fn what_is_sent_behind_a_request_counts_with_it_once_the_window_is_full_again() {
        let mut push = bound();
        let window = WINDOW_BYTES_MIN as usize;
        assert!(send(&mut push, window).is_some());
        assert_eq!(send(&mut push, window), None);
        assert_eq!(push.pick(|_| Receiver::Ready), Picked::Nobody);
        assert!(push.flow_answered("$JS.FC.S.C.1"));
        assert_eq!(
            (push.unconfirmed_bytes, push.window_bytes),
            (0, 2 * WINDOW_BYTES_MIN)
        );
    }

    #[test]
    fn a_new_listener_has_the_window_that_the_last_one_earned() {
        let mut push = bound();
        let window = WINDOW_BYTES_MIN as usize;
        assert!(send(&mut push, window).is_some());
        assert!(push.flow_answered("$JS.FC.S.C.1"));
        assert!(send(&mut push, window + 1).is_some());
        push.set_bound(false, Mono(0), &config());
        push.set_bound(true, Mono(0), &config());
        assert_eq!(send(&mut push, window), None);
        assert_eq!(push.pick(|_| Receiver::Ready), Picked::Ready);
    }

    #[test]
    fn heartbeats_come_while_nothing_is_delivered() {
        let mut push = PushState::new("d");
        let mut notices = Vec::new();
        push.set_bound(true, Mono(0), &config());
        push.heartbeat(Mono(999), &config(), SeqPair::default(), NO_ACKS, &mut notices);
        assert!(notices.is_empty());
        push.heartbeat(
            Mono(1000),
            &config(),
            SeqPair {
                consumer: 3,
                stream: 4,
            },
            NO_ACKS,
            &mut notices,
        );
        assert_eq!(notices.len(), 1);
        assert_eq!(push.next_deadline(), Some(Mono(2000)));
    }

    #[test]
    fn who_acknowledges_by_flow_control_is_asked_when_stalled_and_with_heartbeats() {
        let config = ConsumerConfig {
            ack_policy: AckPolicy::FlowControl,
            ..config()
        };
        let mut push = PushState::new("d");
        push.set_bound(true, Mono(0), &config);
        let prefix = || "$JS.FC.S.C".to_owned();
        assert_eq!(push.delivered(Mono(0), 1, &config, false, prefix), None);
        assert!(push.delivered(Mono(0), 1, &config, true, prefix).is_some());
        assert!(push.flow_answered("$JS.FC.S.C.1"));
        let mut notices = Vec::new();
        push.heartbeat(
            Mono(1000),
            &config,
            SeqPair::default(),
            Some(prefix),
            &mut notices,
        );
        let last = notices.pop().unwrap().status;
        let answer_to = "$JS.FC.S.C.2".to_owned();
        assert_eq!((notices.len(), last), (1, Status::FlowControl { answer_to }));
    }
}
