use super::*;
use expect_test::expect;
use proptest::prelude::*;

const CODEC: Codec = Codec {
    max_control_line_bytes: 64,
    max_payload_bytes: 100,
};

/// Decodes as a session would with a connection that brings `pieces` one after the other.
fn run(pieces: &[&[u8]]) -> (Vec<String>, Option<ProtocolError>) {
    let mut buf = Vec::new();
    let mut ops = Vec::new();
    let mut need = 1;
    for piece in pieces {
        buf.extend_from_slice(piece);
        while buf.len() >= need {
            match CODEC.decode(&buf) {
                Ok(Decoded::Op(op, len)) => {
                    assert!(len > 0 && len <= buf.len());
                    ops.push(format!("{op:?}"));
                    buf.drain(..len);
                    need = 1;
                }
                Ok(Decoded::Need(total)) => {
                    assert!(total > buf.len(), "asked for what is there");
                    need = total;
                }
                Err(err) => return (ops, Some(err)),
            }
        }
    }
    (ops, None)
}

fn decoded(input: &str) -> String {
    let (ops, err) = run(&[input.as_bytes()]);
    let mut text = ops.join("\n");
    if let Some(err) = err {
        text = format!("{text}\n! {err}");
    }
    text
}

#[test]
fn operations() {
    expect![[r#"
        Connect([123, 125])
        Ping
        Pong
        Subscribe { subject: "a.*", queue: None, sid: [49] }
        Subscribe { subject: "a.>", queue: Some("q"), sid: [50] }
        Unsubscribe { sid: [49], max: None }
        Unsubscribe { sid: [50], max: Some(5) }
        Unsubscribe { sid: [51], max: None }
        Ignored
        Publish(Message { subject: "a", reply: None, headers: [], payload: [] })
        Publish(Message { subject: "a", reply: Some("r"), headers: [], payload: [104, 105] })
        Publish(Message { subject: "a", reply: None, headers: [72], payload: [105] })
        Publish(Message { subject: "a", reply: Some("r"), headers: [72, 105], payload: [] })"#]]
    .assert_eq(&decoded(concat!(
        "CONNECT {}\r\nping\r\nPong \n",
        "SUB a.* 1\r\nsub a.>  q\t2\r\nUNSUB 1\r\nUNSUB 2 5\r\nUNSUB 3 x\r\n+OK\r\n",
        "PUB a 0\r\n\r\nPUB a r 2\r\nhi\r\nHPUB a 1 2\r\nHi\r\nHPUB a r 2 2\r\nHi\r\n",
    )));
}

#[test]
fn what_clients_may_not_send() {
    use ProtocolError::*;
    let long = format!("SUB {} 1\r\n", "a".repeat(70));
    let unending = "CONNECT ".to_owned() + &"x".repeat(70);
    for (input, expected) in [
        ("GET / HTTP/1.1\r\n", UnknownOperation),
        ("G", UnknownOperation),
        ("\r\n", UnknownOperation),
        ("PUBa 1\r\n", UnknownOperation),
        ("PUB a 2\r\nhello\r\n", UnknownOperation),
        ("PUB a\r\n", Arguments),
        ("PUB a b c 1\r\n", Arguments),
        ("PUB a -1\r\n", Arguments),
        ("PUB a 9999999999\r\n", Arguments),
        ("HPUB a 1\r\n", Arguments),
        ("HPUB a 3 2\r\n", Arguments),
        ("SUB a\r\n", Arguments),
        ("SUB a b c d\r\n", Arguments),
        ("UNSUB\r\n", UnknownOperation),
        ("-ERR 'x'\r\n", ClientError),
        ("PUB a 101\r\n", MaxPayload),
        (long.as_str(), MaxControlLine),
        (unending.as_str(), MaxControlLine),
    ] {
        assert_eq!(run(&[input.as_bytes()]).1, Some(expected), "{input:?}");
    }
}

#[test]
fn messages_on_the_wire() {
    let mut buf = Vec::new();
    let msg = Message {
        subject: "a.b",
        reply: None,
        headers: b"",
        payload: b"hi",
    };
    encode_message(&mut buf, b"7", &msg, b"");
    encode_message(
        &mut buf,
        b"7",
        &Message {
            reply: Some("r"),
            payload: b"",
            ..msg
        },
        b"",
    );
    encode_message(
        &mut buf,
        b"8",
        &Message {
            reply: Some("r"),
            ..msg
        },
        b"NATS/1.0\r\n\r\n",
    );
    encode_error(&mut buf, "Stale Connection");
    expect![[r#"
        MSG a.b 7 2
        hi
        MSG a.b 7 r 0

        HMSG a.b 8 r 12 14
        NATS/1.0

        hi
        -ERR 'Stale Connection'
    "#]]
    .assert_eq(&String::from_utf8(buf).unwrap().replace("\r\n", "\n"));
}

fn op() -> impl Strategy<Value = Vec<u8>> {
    let word = "[a-z$.*>]{1,8}";
    prop_oneof![
        (
            word,
            prop::option::of(word),
            prop::collection::vec(any::<u8>(), 0..40)
        )
            .prop_map(|(subject, reply, payload)| {
                let reply = reply.map(|reply| reply + " ").unwrap_or_default();
                let mut bytes = format!("PUB {subject} {reply}{}\r\n", payload.len()).into_bytes();
                bytes.extend_from_slice(&payload);
                bytes.extend_from_slice(b"\r\n");
                bytes
            }),
        (
            word,
            prop::collection::vec(any::<u8>(), 0..40),
            prop::collection::vec(any::<u8>(), 0..40)
        )
            .prop_map(|(subject, headers, payload)| {
                let total = headers.len() + payload.len();
                let mut bytes = format!("hpub {subject} {} {total}\r\n", headers.len()).into_bytes();
                bytes.extend_from_slice(&headers);
                bytes.extend_from_slice(&payload);
                bytes.extend_from_slice(b"\r\n");
                bytes
            }),
        (word, word).prop_map(|(subject, sid)| format!("SUB {subject} {sid}\r\n").into_bytes()),
        (word, any::<u32>()).prop_map(|(sid, max)| format!("UNSUB {sid} {max}\n").into_bytes()),
        Just(b"PING\r\n".to_vec()),
        Just(b"CONNECT {\"verbose\":false}\r\n".to_vec()),
    ]
}

proptest! {
    #[test]
    fn split_at_any_bytes_gives_the_same_as_whole(
        ops in prop::collection::vec(op(), 1..10),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..8),
    ) {
        let whole = ops.concat();
        let (expected, err) = run(&[&whole]);
        prop_assert_eq!(err, None);
        prop_assert_eq!(expected.len(), ops.len());
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(whole.len() + 1)).collect();
        cuts.extend([0, whole.len()]);
        cuts.sort_unstable();
        let pieces: Vec<&[u8]> = cuts.windows(2).map(|pair| &whole[pair[0]..pair[1]]).collect();
        prop_assert_eq!(run(&pieces), (expected.clone(), None));
        let bytes: Vec<&[u8]> = whole.chunks(1).collect();
        prop_assert_eq!(run(&bytes), (expected, None));
    }

    #[test]
    fn garbage_never_panics_and_never_asks_for_more_than_the_limits(
        garbage in prop::collection::vec(any::<u8>(), 0..300),
        start in prop::sample::select(vec!["", "PUB ", "HPUB a 1 ", "SUB ", "UNSUB ", "CONNECT", "-ERR"]),
    ) {
        let mut input = start.as_bytes().to_vec();
        input.extend_from_slice(&garbage);
        for end in 0..=input.len() {
            if let Ok(Decoded::Need(total)) = CODEC.decode(&input[..end]) {
                prop_assert!(total <= end + CODEC.max_payload_bytes + 2 + 1);
            }
        }
    }

    #[test]
    fn a_published_message_comes_out_as_it_went_in(
        subject in "[a-z.]{1,20}",
        reply in prop::option::of("[a-z.]{1,10}"),
        headers in prop::collection::vec(any::<u8>(), 0..30),
        payload in prop::collection::vec(any::<u8>(), 0..60),
    ) {
        // A MSG with its sid taken out is a PUB.
        let msg = Message { subject: &subject, reply: reply.as_deref(), headers: &headers, payload: &payload };
        let mut wire = Vec::new();
        encode_message(&mut wire, b"SID", &msg, &headers);
        let name_len = if headers.is_empty() { 3 } else { 4 };
        let line = format!(" {subject} SID ");
        prop_assert_eq!(&wire[name_len..name_len + line.len()], line.as_bytes());
        let mut publish = if headers.is_empty() { b"PUB ".to_vec() } else { b"HPUB ".to_vec() };
        publish.extend_from_slice(format!("{subject} ").as_bytes());
        publish.extend_from_slice(&wire[name_len + line.len()..]);
        let Ok(Decoded::Op(ClientOp::Publish(back), len)) = CODEC.decode(&publish) else {
            return Err(TestCaseError::fail("not a publish"));
        };
        prop_assert_eq!(len, publish.len());
        prop_assert_eq!((back.subject, back.reply), (msg.subject, msg.reply));
        prop_assert_eq!((back.headers, back.payload), (msg.headers, msg.payload));
    }
}
