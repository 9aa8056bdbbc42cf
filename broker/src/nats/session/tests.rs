use bytes::Bytes;
use std::io::{self, IoSlice};
use std::sync::Mutex;

use expect_test::{Expect, expect};
use proptest::prelude::*;

use super::*;
use crate::outbound::{ClientId, Counters, TryWrite};
use crate::types::StreamId;

/// Keeps what is written.
#[derive(Default)]
struct Wire(Mutex<Vec<u8>>);

impl TryWrite for Wire {
    fn try_write_vectored(&self, chunks: &[IoSlice<'_>]) -> io::Result<usize> {
        let mut held = self.0.lock().unwrap();
        let before = held.len();
        chunks.iter().for_each(|chunk| held.extend_from_slice(chunk));
        Ok(held.len() - before)
    }
}

struct Peer {
    session: Session,
    wire: Arc<Wire>,
    buf: BytesMut,
    ops: Vec<JsOp>,
    end: Option<CloseReason>,
}

impl Peer {
    fn new(id: u64, router: &Arc<Router>, max_subscriptions: usize) -> Self {
        let wire = Arc::new(Wire::default());
        let outbound = Arc::new(Outbound::new(
            ClientId(id),
            wire.clone(),
            1 << 20,
            Arc::new(Counters::default()),
        ));
        let limits = SessionLimits {
            codec: Codec {
                max_control_line_bytes: 128,
                max_payload_bytes: 64,
            },
            max_subscriptions,
            max_subscription_tokens: 0,
            ping_max: 2,
        };
        let session = Session::new(limits, Arc::clone(router), outbound);
        Self {
            session,
            wire,
            buf: BytesMut::new(),
            ops: Vec::new(),
            end: None,
        }
    }

    fn send(&mut self, text: &str) {
        self.buf.extend_from_slice(text.as_bytes());
        loop {
            let received = self.session.receive(&mut self.buf);
            self.ops.extend(received.ops);
            self.end = received.end;
            if !received.has_more {
                break;
            }
        }
    }

    fn heard(&self) -> String {
        let bytes = std::mem::take(&mut *self.wire.0.lock().unwrap());
        String::from_utf8(bytes).unwrap().replace("\r\n", "\n")
    }

    fn hears(&self, expected: &Expect) {
        expected.assert_eq(&self.heard());
    }
}

const QUIET: &str =
    "CONNECT {\"verbose\":false,\"pedantic\":false,\"headers\":true,\"no_responders\":true}\r\n";

fn router() -> Arc<Router> {
    Arc::new(Router::new())
}

#[test]
fn verbose_and_pedantic_before_connect() {
    let mut peer = Peer::new(1, &router(), 0);
    peer.send("PING\r\nSUB a.* 1\r\nPUB a.b 2\r\nhi\r\nPUB a.* 0\r\n\r\nSUB a..b 2\r\nUNSUB 1\r\n");
    peer.hears(&expect![[r#"
        PONG
        +OK
        +OK
        MSG a.b 1 2
        hi
        -ERR 'Invalid Publish Subject'
        +OK
        MSG a.* 1 0

        -ERR 'Invalid Subject'
        +OK
    "#]]);
}

#[test]
fn no_responders_names_the_subject() {
    let mut peer = Peer::new(1, &router(), 0);
    peer.send(QUIET);
    peer.send("SUB _INBOX.x.* 9\r\nPUB nobody _INBOX.x.1 2\r\nhi\r\nPUB nobody 0\r\n\r\n");
    peer.hears(&expect![[r#"
        HMSG _INBOX.x.1 9 38 38
        NATS/1.0 503
        Nats-Subject: nobody


    "#]]);
}

#[test]
fn a_subscriber_without_headers_gets_none() {
    let router = router();
    let (mut one, mut other) = (Peer::new(1, &router, 0), Peer::new(2, &router, 0));
    one.send(QUIET);
    one.send("SUB a 1\r\n");
    other.send("CONNECT {\"verbose\":false}\r\nSUB a 7\r\n");
    one.send("HPUB a r 12 14\r\nNATS/1.0\r\n\r\nhi\r\n");
    one.hears(&expect![[r#"
        HMSG a 1 r 12 14
        NATS/1.0

        hi
    "#]]);
    other.hears(&expect![[r#"
        MSG a 7 r 2
        hi
    "#]]);
    other.send("HPUB a 12 12\r\nNATS/1.0\r\n\r\n\r\n");
    other.hears(&expect![""]);
    assert_eq!(other.end, Some(CloseReason::ProtocolViolation));
}

#[test]
fn without_echo_the_sender_gets_nothing_back_and_queue_groups_take_another_member() {
    let router = router();
    let (mut one, mut other) = (Peer::new(1, &router, 0), Peer::new(2, &router, 0));
    one.send("CONNECT {\"verbose\":false,\"echo\":false}\r\nSUB a 1\r\nSUB a q 2\r\n");
    other.send(QUIET);
    other.send("SUB a q 1\r\n");
    for _ in 0..10 {
        one.send("PUB a 0\r\n\r\n");
    }
    one.hears(&expect![""]);
    assert_eq!(other.heard(), "MSG a 1 0\n\n".repeat(10));
}

#[test]
fn queue_groups_share_fairly_and_each_message_goes_to_one() {
    let router = router();
    let mut members: Vec<Peer> = (2..5).map(|id| Peer::new(id, &router, 0)).collect();
    for member in &mut members {
        member.send(QUIET);
        member.send("SUB a.* q 1\r\n");
    }
    let mut sender = Peer::new(1, &router, 0);
    sender.send(QUIET);
    for _ in 0..3000 {
        sender.send("PUB a.b 0\r\n\r\n");
    }
    let counts: Vec<usize> = members
        .iter()
        .map(|member| member.heard().matches("MSG").count())
        .collect();
    assert_eq!(counts.iter().sum::<usize>(), 3000);
    assert!(
        counts.iter().all(|count| (850..1150).contains(count)),
        "{counts:?}"
    );
}

#[test]
fn unsub_max_counts_what_was_delivered_before() {
    let router = router();
    let mut peer = Peer::new(1, &router, 0);
    peer.send(QUIET);
    peer.send("SUB a 1\r\nPUB a 0\r\n\r\nUNSUB 1 3\r\n");
    peer.send("PUB a 0\r\n\r\nPUB a 0\r\n\r\nPUB a 0\r\n\r\n");
    assert_eq!(peer.heard().matches("MSG").count(), 3);
    assert_eq!(router.subscription_count(), 0);
    peer.send("SUB a 1\r\nPUB a 0\r\n\r\nUNSUB 1 1\r\nPUB a 0\r\n\r\n");
    assert_eq!(peer.heard().matches("MSG").count(), 1);
}

#[test]
fn stream_bound_messages_are_handed_over_in_order_as_slices() {
    let router = router();
    router.set_stream_subjects(StreamId(4), &["s.>".to_owned()]);
    let mut peer = Peer::new(1, &router, 0);
    peer.send(QUIET);
    peer.send("SUB s.* 1\r\nPUB s.a r 2\r\nhi\r\nPUB core 0\r\n\r\nHPUB s.b 12 14\r\nNATS/1.0\r\n\r\nyo\r\nPUB $JS.API.INFO i 0\r\n\r\nPUB $JS.ACK.x 4\r\n+ACK\r\nPUB s.* 0\r\n\r\nPUB s.c 5\r\nhal");
    let seen: Vec<String> = peer
        .ops
        .iter()
        .map(|op| {
            format!(
                "{:?} {} {:?} {:?} {:?}",
                op.kind,
                op.subject_str(),
                op.reply,
                op.headers,
                op.payload
            )
        })
        .collect();
    expect![[r#"
        Publish(StreamId(4)) s.a Subject(b"r") b"" b"hi"
        Publish(StreamId(4)) s.b None b"NATS/1.0\r\n\r\n" b"yo"
        Api $JS.API.INFO Subject(b"i") b"" b""
        Ack $JS.ACK.x None b"" b"+ACK"
        Publish(StreamId(4)) s.* None b"" b"""#]]
    .assert_eq(&seen.join("\n"));
    assert_eq!(
        peer.heard().matches("MSG s.").count(),
        3,
        "core subscribers get them too, the odd subject included"
    );
    peer.send("lo\r\n");
    assert_eq!(
        peer.ops.last().map(|op| op.payload.clone()),
        Some(Bytes::from_static(b"hallo"))
    );
    router.set_stream_subjects(StreamId(4), &[]);
    peer.send("PUB s.d 0\r\n\r\n");
    assert_eq!(peer.ops.len(), 6);
}

#[test]
fn what_ends_a_connection() {
    let too_long = format!("SUB {} 1\r\n", "a".repeat(200));
    for (text, expected, reason) in [
        (
            "GET / HTTP/1.1\r\n",
            "Unknown Protocol Operation",
            CloseReason::ProtocolViolation,
        ),
        (
            "PUB a 65\r\n",
            "Maximum Payload Violation",
            CloseReason::MaxPayloadExceeded,
        ),
        (
            too_long.as_str(),
            "maximum control line exceeded",
            CloseReason::MaxControlLineExceeded,
        ),
        ("CONNECT {\r\n", "", CloseReason::ProtocolViolation),
        ("SUB a\r\n", "", CloseReason::ProtocolViolation),
        ("-ERR 'x'\r\n", "", CloseReason::ProtocolViolation),
        (
            "CONNECT {\"protocol\":2}\r\n",
            "invalid client protocol",
            CloseReason::ProtocolViolation,
        ),
        (
            "CONNECT {\"no_responders\":true}\r\n",
            "no responders requires headers support",
            CloseReason::ProtocolViolation,
        ),
    ] {
        let mut peer = Peer::new(1, &router(), 0);
        peer.send(text);
        let expected = match expected {
            "" => String::new(),
            text => format!("-ERR '{text}'\n"),
        };
        assert_eq!((peer.heard(), peer.end), (expected, Some(reason)));
    }
}

#[test]
fn subscriptions_are_limited_and_end_with_the_session() {
    let router = router();
    let mut peer = Peer::new(1, &router, 2);
    peer.send(QUIET);
    peer.send("SUB a 1\r\nSUB b 2\r\nSUB b 2\r\n");
    peer.hears(&expect![[r#"
        -ERR 'maximum subscriptions exceeded'
    "#]]);
    peer.send("UNSUB 1\r\nSUB c 3\r\n");
    peer.hears(&expect![""]);
    assert_eq!(router.subscription_count(), 2);
    peer.session.close();
    assert_eq!(router.subscription_count(), 0);
}

#[test]
fn short_lived_subscriptions_leave_nothing_behind() {
    let mut peer = Peer::new(1, &router(), 0);
    peer.send(QUIET);
    for sid in 0..1000 {
        peer.send(&format!("SUB a {sid}\r\nUNSUB {sid} 1\r\nPUB a 0\r\n\r\n"));
    }
    assert!(peer.session.subscriptions.len() <= SWEEP_MIN);
}

#[test]
fn a_silent_client_is_pinged_and_given_up() {
    let mut peer = Peer::new(1, &router(), 0);
    peer.send(QUIET);
    assert_eq!(peer.session.ping(), None, "it was heard since");
    assert_eq!((peer.session.ping(), peer.session.ping()), (None, None));
    peer.send("PONG\r\n");
    peer.session.ping();
    assert_eq!((peer.session.ping(), peer.session.ping()), (None, None));
    assert_eq!(peer.session.ping(), Some(CloseReason::StaleConnection));
    assert_eq!(
        peer.heard(),
        format!("{}-ERR 'Stale Connection'\n", "PING\n".repeat(4))
    );
}

/// What a client may send, sensible or not.
fn fragment() -> impl Strategy<Value = Vec<u8>> {
    let known = prop::sample::select(vec![
        "PING\r\n",
        "PONG\r\n",
        "CONNECT {\"verbose\":false,\"headers\":true,\"no_responders\":true}\r\n",
        "CONNECT {\"echo\":false}\r\n",
        "SUB a.* 1\r\n",
        "SUB a.> q 2\r\n",
        "SUB . 3\r\n",
        "UNSUB 1 2\r\n",
        "UNSUB 2\r\n",
        "PUB a.b r 2\r\nhi\r\n",
        "PUB s.b r 2\r\nhi\r\n",
        "HPUB a.b 12 12\r\nNATS/1.0\r\n\r\n\r\n",
        "PUB $JS.API.INFO 1.2 0\r\n\r\n",
        "PUB a.b 70\r\n",
        "SUB \u{e9}.* 4\r\n",
        "pub a",
    ]);
    prop_oneof![
        12 => known.prop_map(|text| text.as_bytes().to_vec()),
        1 => prop::collection::vec(any::<u8>(), 0..20),
    ]
}

proptest! {
    #[test]
    fn whatever_a_client_sends_ends_in_order(fragments in prop::collection::vec(fragment(), 0..60)) {
        let router = router();
        router.set_stream_subjects(StreamId(1), &["s.>".to_owned()]);
        let mut peer = Peer::new(1, &router, 3);
        for fragment in fragments {
            peer.buf.extend_from_slice(&fragment);
            let Received { ops, need_bytes, end, .. } = peer.session.receive(&mut peer.buf);
            for op in ops {
                prop_assert!(op.kind == JsKind::Api || op.subject_str().starts_with("s."));
            }
            if end.is_some() {
                break;
            }
            prop_assert!(peer.buf.is_empty() || need_bytes > peer.buf.len());
            prop_assert!(peer.buf.len() < 64 + 128 + 32, "no more than one unfinished operation is kept");
            prop_assert!(router.subscription_count() <= 3);
        }
        peer.session.close();
        prop_assert_eq!(router.subscription_count(), 0);
    }
}

#[test]
fn the_first_ping_after_connect_is_followed_by_the_account() {
    let mut peer = Peer::new(1, &router(), 0);
    peer.session.greet(b"INFO {\"server_id\":\"N\"} \r\n".to_vec());
    peer.send("PING\r\nCONNECT {\"verbose\":false,\"protocol\":1}\r\nPING\r\nPING\r\n");
    peer.hears(&expect![[r#"
        INFO {"server_id":"N"} 
        PONG
        PONG
        INFO {"server_id":"N","connect_info":true,"remote_account":"$G"} 
        PONG
    "#]]);
}

/// Whether the payload of the only operation lies in the buffer that was read into.
fn pins_the_buffer(before: &str, message: &str) -> bool {
    let router = router();
    router.set_stream_subjects(StreamId(1), &["s.>".to_owned()]);
    let mut peer = Peer::new(1, &router, 0);
    peer.buf.reserve(4096);
    peer.send(before);
    let buffer = peer.buf.as_ptr().addr()..peer.buf.as_ptr().addr() + peer.buf.capacity();
    peer.send(message);
    let [op] = &peer.ops[..] else {
        panic!("one operation: {:?}", peer.ops)
    };
    assert_eq!((op.subject_str(), &op.payload[..]), ("s.a", &b"hello"[..]));
    buffer.contains(&op.payload.as_ptr().addr())
}

#[test]
fn a_small_operation_does_not_hold_on_to_a_large_buffer() {
    let chatter = "PING\r\n".repeat(680);
    assert!(!pins_the_buffer("", "PUB s.a 5\r\nhello\r\n"));
    assert!(!pins_the_buffer(&chatter, "PUB s.a 5\r\nhello\r\n"));
}

#[test]
fn operations_that_fill_a_buffer_are_not_copied() {
    let mut peer = Peer::new(1, &router(), 0);
    peer.session
        .router
        .set_stream_subjects(StreamId(1), &["s.>".to_owned()]);
    let text = "PUB s.abcdefgh reply.to.somebody 40\r\n".to_owned() + &"x".repeat(40) + "\r\n";
    peer.buf = BytesMut::with_capacity(text.len() * 20);
    let buffer = peer.buf.as_ptr().addr()..peer.buf.as_ptr().addr() + peer.buf.capacity();
    peer.send(&text.repeat(20));
    assert_eq!(peer.ops.len(), 20);
    assert!(
        peer.ops
            .iter()
            .all(|op| buffer.contains(&op.payload.as_ptr().addr()))
    );
}

#[test]
fn a_window_is_handed_on_in_parts_without_copies() {
    let mut peer = Peer::new(1, &router(), 0);
    peer.session
        .router
        .set_stream_subjects(StreamId(1), &["s.>".to_owned()]);
    let mut text = String::new();
    for number in 0..900 {
        text += &format!("PUB s.a reply.to.somebody 50\r\n{number:050}\r\n");
    }
    peer.buf = BytesMut::with_capacity(64 << 10);
    let buffer = peer.buf.as_ptr().addr()..peer.buf.as_ptr().addr() + peer.buf.capacity();
    peer.buf.extend_from_slice(&text.as_bytes()[..64 << 10]);
    let mut parts = Vec::new();
    let mut ops = Vec::new();
    loop {
        let received = peer.session.receive(&mut peer.buf);
        parts.push(received.ops.len());
        ops.extend(received.ops);
        if !received.has_more {
            break;
        }
    }
    assert_eq!(parts, [235, 235, 235, 94]);
    for (number, op) in ops.iter().enumerate() {
        assert_eq!(op.payload, format!("{number:050}"));
    }
    assert!(ops.iter().all(|op| buffer.contains(&op.payload.as_ptr().addr())));
}
