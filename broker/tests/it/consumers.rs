//! JetStream's pull consumers with an unmodified client.

use std::time::Duration;

use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy, PullConsumer, pull};
use async_nats::jetstream::stream::{Config as StreamConfig, ConsumerErrorKind, Stream};
use async_nats::jetstream::{self, AckKind, Context, Message};
use bytes::Bytes;
use expect_test::expect;
use futures::StreamExt;
use tarn_broker::local::LocalMessage;

use crate::Server;

const PATIENCE: Duration = Duration::from_secs(10);

/// A stream `S` on `s.*` that holds `subjects`, each with its position as payload.
async fn stream_with(server: &Server, subjects: &[&str]) -> (Context, Stream) {
    let context = jetstream::new(server.client().await);
    let config = StreamConfig {
        name: "S".to_owned(),
        subjects: vec!["s.*".to_owned()],
        ..StreamConfig::default()
    };
    let stream = context.create_stream(config).await.unwrap();
    for (index, subject) in subjects.iter().enumerate() {
        let payload = (index + 1).to_string();
        context
            .publish(subject.to_string(), payload.into())
            .await
            .unwrap()
            .await
            .unwrap();
    }
    (context, stream)
}

fn durable(name: &str) -> pull::Config {
    pull::Config {
        durable_name: Some(name.to_owned()),
        ..pull::Config::default()
    }
}

/// Up to `max` messages that are there now.
#[track_caller]
fn fetch(consumer: &PullConsumer, max: usize) -> impl Future<Output = Vec<Message>> {
    let caller = std::panic::Location::caller();
    let all = async move {
        let batch = consumer.fetch().max_messages(max).messages().await.unwrap();
        batch.map(Result::unwrap).collect().await
    };
    async move {
        let fetched = tokio::time::timeout(PATIENCE, all).await;
        fetched.unwrap_or_else(|_| panic!("{caller}: the batch does not end"))
    }
}

/// Up to `max` messages that come in time.
async fn fetch_for(consumer: &PullConsumer, max: usize, expires: Duration) -> Vec<Message> {
    let batch = consumer
        .batch()
        .max_messages(max)
        .expires(expires)
        .messages()
        .await
        .unwrap();
    batch.map(Result::unwrap).collect().await
}

fn texts(messages: &[Message]) -> Vec<&str> {
    messages
        .iter()
        .map(|message| std::str::from_utf8(&message.payload).unwrap())
        .collect()
}

#[tokio::test]
async fn batches_are_fetched_and_acknowledged() {
    let server = Server::start().await;
    let (_context, stream) = stream_with(&server, &["s.a", "s.b", "s.a", "s.b", "s.a"]).await;
    let mut consumer = stream.create_consumer(durable("C")).await.unwrap();
    assert_eq!(consumer.cached_info().num_pending, 5);
    assert_eq!(consumer.cached_info().config.max_ack_pending, 1000);
    let first = fetch(&consumer, 3).await;
    assert_eq!(texts(&first), ["1", "2", "3"]);
    let info = first[1].info().unwrap();
    assert_eq!((info.stream, info.consumer, info.delivered), ("S", "C", 1));
    assert_eq!(
        (info.stream_sequence, info.consumer_sequence, info.pending),
        (2, 2, 3)
    );
    for message in &first {
        message.ack().await.unwrap();
    }
    let rest = fetch(&consumer, 9).await;
    assert_eq!(texts(&rest), ["4", "5"]);
    rest[0].double_ack().await.unwrap();
    rest[1].double_ack().await.unwrap();
    let info = consumer.info().await.unwrap();
    assert_eq!(
        (
            info.num_pending,
            info.num_ack_pending,
            info.ack_floor.stream_sequence
        ),
        (0, 0, 5)
    );
    assert_eq!(info.delivered.consumer_sequence, 5);
    server.broker.shutdown().await;
}

#[tokio::test]
async fn a_stream_of_messages_goes_on_while_they_come() {
    let server = Server::start().await;
    let (context, stream) = stream_with(&server, &["s.a"]).await;
    let consumer = stream.create_consumer(durable("C")).await.unwrap();
    let mut messages = consumer.messages().await.unwrap();
    for number in 1..=500_u32 {
        let message = tokio::time::timeout(PATIENCE, messages.next())
            .await
            .unwrap()
            .unwrap()
            .unwrap();
        assert_eq!(message.payload, number.to_string());
        message.ack().await.unwrap();
        context
            .publish("s.a", (number + 1).to_string().into())
            .await
            .unwrap()
            .await
            .unwrap();
    }
    server.broker.shutdown().await;
}

#[tokio::test]
async fn consumers_start_where_they_are_told_to() {
    let server = Server::start().await;
    let (context, stream) = stream_with(&server, &["s.a", "s.b", "s.a", "s.b", "s.c"]).await;
    let third = stream.get_raw_message(3).await.unwrap().time;
    let filtered = |policy| pull::Config {
        deliver_policy: policy,
        filter_subject: "s.*".to_owned(),
        ..durable("C")
    };
    let cases: [(pull::Config, &[&str]); 7] = [
        (filtered(DeliverPolicy::All), &["1", "2", "3", "4", "5"]),
        (filtered(DeliverPolicy::Last), &["5"]),
        (filtered(DeliverPolicy::LastPerSubject), &["3", "4", "5"]),
        (filtered(DeliverPolicy::New), &[]),
        (
            filtered(DeliverPolicy::ByStartSequence { start_sequence: 4 }),
            &["4", "5"],
        ),
        (
            filtered(DeliverPolicy::ByStartTime { start_time: third }),
            &["3", "4", "5"],
        ),
        (
            pull::Config {
                filter_subject: "s.b".to_owned(),
                ..durable("C")
            },
            &["2", "4"],
        ),
    ];
    for (config, expected) in cases {
        let policy = config.deliver_policy;
        let consumer = stream.create_consumer(config).await.unwrap();
        assert_eq!(texts(&fetch(&consumer, 9).await), expected, "{policy:?}");
        stream.delete_consumer("C").await.unwrap();
    }
    let several = pull::Config {
        filter_subjects: vec!["s.a".to_owned(), "s.c".to_owned()],
        ..durable("C")
    };
    let consumer = stream.create_consumer(several).await.unwrap();
    assert_eq!(texts(&fetch(&consumer, 9).await), ["1", "3", "5"]);
    let new = pull::Config {
        deliver_policy: DeliverPolicy::New,
        ..durable("N")
    };
    let consumer = stream.create_consumer(new).await.unwrap();
    context.publish("s.a", "6".into()).await.unwrap().await.unwrap();
    assert_eq!(texts(&fetch(&consumer, 9).await), ["6"]);
    server.broker.shutdown().await;
}

#[tokio::test]
async fn acknowledgements_mean_what_they_say() {
    let server = Server::start().await;
    let (_context, stream) = stream_with(&server, &["s.a", "s.a", "s.a", "s.a"]).await;
    let config = pull::Config {
        ack_wait: Duration::from_millis(600),
        max_deliver: 3,
        ..durable("C")
    };
    let mut consumer = stream.create_consumer(config).await.unwrap();
    let first = fetch(&consumer, 4).await;
    first[0].ack_with(AckKind::Nak(None)).await.unwrap();
    first[1]
        .ack_with(AckKind::Nak(Some(Duration::from_millis(200))))
        .await
        .unwrap();
    first[2].ack_with(AckKind::Term).await.unwrap();
    first[3].double_ack_with(AckKind::Ack).await.unwrap();
    assert_eq!(consumer.info().await.unwrap().num_ack_pending, 2);
    let mut wait = consumer
        .batch()
        .max_messages(1)
        .expires(PATIENCE)
        .messages()
        .await
        .unwrap();
    let again = wait.next().await.unwrap().unwrap();
    assert_eq!(
        (&again.payload[..], again.info().unwrap().delivered),
        (&b"1"[..], 2)
    );
    again.double_ack().await.unwrap();
    // The delayed one comes, is worked on, and comes again when left alone.
    let mut wait = consumer
        .batch()
        .max_messages(1)
        .expires(PATIENCE)
        .messages()
        .await
        .unwrap();
    let delayed = wait.next().await.unwrap().unwrap();
    assert_eq!(
        (&delayed.payload[..], delayed.info().unwrap().delivered),
        (&b"2"[..], 2)
    );
    delayed.double_ack_with(AckKind::Progress).await.unwrap();
    let mut wait = consumer
        .batch()
        .max_messages(1)
        .expires(PATIENCE)
        .messages()
        .await
        .unwrap();
    let last = wait.next().await.unwrap().unwrap();
    assert_eq!(
        (&last.payload[..], last.info().unwrap().delivered),
        (&b"2"[..], 3)
    );
    // After its third delivery it is given up.
    tokio::time::timeout(PATIENCE, async {
        while consumer.info().await.unwrap().num_ack_pending > 0 {
            tokio::task::yield_now().await;
        }
    })
    .await
    .expect("it is given up");
    assert!(fetch(&consumer, 1).await.is_empty());
    assert_eq!(consumer.info().await.unwrap().ack_floor.stream_sequence, 4);
    server.broker.shutdown().await;
}

#[tokio::test]
async fn no_more_than_max_ack_pending_are_out() {
    let server = Server::start().await;
    let (_context, stream) = stream_with(&server, &["s.a"; 10]).await;
    for (policy, name) in [(AckPolicy::Explicit, "E"), (AckPolicy::All, "A")] {
        let config = pull::Config {
            max_ack_pending: 4,
            ack_policy: policy,
            ..durable(name)
        };
        let consumer = stream.create_consumer(config).await.unwrap();
        let first = fetch_for(&consumer, 9, Duration::from_millis(300)).await;
        assert_eq!(texts(&first), ["1", "2", "3", "4"]);
        first[3].double_ack().await.unwrap();
        let next = fetch_for(&consumer, 9, Duration::from_millis(300)).await.len();
        assert_eq!(next, if policy == AckPolicy::All { 4 } else { 1 });
    }
    let none = pull::Config {
        ack_policy: AckPolicy::None,
        ..durable("N")
    };
    let mut consumer = stream.create_consumer(none).await.unwrap();
    assert_eq!(fetch(&consumer, 20).await.len(), 10);
    assert_eq!(consumer.info().await.unwrap().num_ack_pending, 0);
    server.broker.shutdown().await;
}

#[tokio::test]
async fn headers_alone_carry_the_size() {
    let server = Server::start().await;
    let (context, stream) = stream_with(&server, &[]).await;
    context
        .publish("s.a", "12345".into())
        .await
        .unwrap()
        .await
        .unwrap();
    let config = pull::Config {
        headers_only: true,
        ..durable("C")
    };
    let consumer = stream.create_consumer(config).await.unwrap();
    let got = fetch(&consumer, 1).await;
    assert!(got[0].payload.is_empty());
    assert_eq!(
        got[0]
            .headers
            .as_ref()
            .unwrap()
            .get("Nats-Msg-Size")
            .unwrap()
            .as_str(),
        "5"
    );
    server.broker.shutdown().await;
}

/// Every message to `inbox` until nothing comes for a while: header block or payload.
async fn transcript(inbox: &mut async_nats::Subscriber, quiet: Duration) -> String {
    let mut lines = Vec::new();
    while let Ok(Some(message)) = tokio::time::timeout(quiet, inbox.next()).await {
        let status = message.status.map_or(String::new(), |status| status.to_string());
        let mut line = format!("{status} {}", message.description.unwrap_or_default());
        let headers = message.headers.iter().flat_map(async_nats::HeaderMap::iter);
        let mut headers: Vec<String> = headers
            .map(|(name, values)| format!(" {name}={}", values[0]))
            .collect();
        headers.sort();
        line.push_str(&headers.concat());
        line.push_str(std::str::from_utf8(&message.payload).unwrap());
        lines.push(line.trim().to_owned());
    }
    lines.sort();
    lines.join("\n")
}

#[tokio::test]
async fn requests_are_answered_word_for_word() {
    let server = Server::start().await;
    let (_context, stream) = stream_with(&server, &["s.a", "s.a", "s.a"]).await;
    let config = pull::Config {
        max_batch: 100,
        max_waiting: 2,
        ..durable("C")
    };
    stream.create_consumer(config).await.unwrap();
    let client = server.client().await;
    let ask = async |request: &str| {
        let inbox = client.new_inbox();
        let mut answers = client.subscribe(inbox.clone()).await.unwrap();
        let request = Bytes::from(request.to_owned());
        client
            .publish_with_reply("$JS.API.CONSUMER.MSG.NEXT.S.C", inbox, request)
            .await
            .unwrap();
        transcript(&mut answers, Duration::from_millis(400)).await
    };
    expect!["409 Exceeded MaxRequestBatch of 100"].assert_eq(&ask(r#"{"batch":101}"#).await);
    expect!["400 Bad Request - heartbeat value too large"]
        .assert_eq(&ask(r#"{"batch":1,"expires":100,"idle_heartbeat":90}"#).await);
    expect!["409 Message Size Exceeds MaxBytes Nats-Pending-Bytes=5 Nats-Pending-Messages=2"]
        .assert_eq(&ask(r#"{"batch":2,"max_bytes":5,"no_wait":true}"#).await);
    expect![[r#"
        1
        2
        408 Request Timeout Nats-Pending-Bytes=0 Nats-Pending-Messages=1"#]]
    .assert_eq(&ask_two(&ask).await);
    expect!["404 No Messages"].assert_eq(&ask(r#"{"batch":2,"no_wait":true}"#).await);
    expect![[r#"
        100 Idle Heartbeat Nats-Last-Consumer=3 Nats-Last-Stream=3
        100 Idle Heartbeat Nats-Last-Consumer=3 Nats-Last-Stream=3
        408 Request Timeout Nats-Pending-Bytes=0 Nats-Pending-Messages=5"#]]
    .assert_eq(&ask(r#"{"batch":5,"expires":500000000,"idle_heartbeat":200000000}"#).await);
    // Three that wait, of which one is too many; deleting the consumer ends the others.
    let inbox = client.new_inbox();
    let mut answers = client.subscribe(inbox.clone()).await.unwrap();
    for _ in 0..3 {
        let subject = "$JS.API.CONSUMER.MSG.NEXT.S.C";
        client
            .publish_with_reply(subject, inbox.clone(), "7".into())
            .await
            .unwrap();
    }
    client.flush().await.unwrap();
    stream.delete_consumer("C").await.unwrap();
    expect![[r#"
        409 Consumer Deleted
        409 Consumer Deleted
        409 Exceeded MaxWaiting"#]]
    .assert_eq(&transcript(&mut answers, Duration::from_millis(400)).await);
    server.broker.shutdown().await;
}

/// Three messages are there: two requests take them.
async fn ask_two(ask: &impl AsyncFn(&str) -> String) -> String {
    let first = ask(r#"{"batch":2,"expires":300000000}"#).await;
    let second = ask(r#"{"batch":2,"expires":300000000}"#).await;
    assert!(second.starts_with("3\n"), "{second}");
    format!("{first}\n{}", second.trim_start_matches("3\n"))
}

#[tokio::test]
async fn the_next_message_comes_with_the_acknowledgement() {
    let server = Server::start().await;
    let (_context, stream) = stream_with(&server, &["s.a", "s.a"]).await;
    let mut consumer: PullConsumer = stream.create_consumer(durable("C")).await.unwrap();
    let first = fetch(&consumer, 1).await.remove(0);
    let client = server.client().await;
    let inbox = client.new_inbox();
    let mut answers = client.subscribe(inbox.clone()).await.unwrap();
    client
        .publish_with_reply(first.reply.clone().unwrap(), inbox, "+NXT".into())
        .await
        .unwrap();
    let next = tokio::time::timeout(PATIENCE, answers.next())
        .await
        .unwrap()
        .unwrap();
    assert_eq!(next.payload, "2");
    assert_eq!(consumer.info().await.unwrap().ack_floor.stream_sequence, 1);
    server.broker.shutdown().await;
}

#[tokio::test]
async fn consumers_are_listed_changed_and_refused() {
    let server = Server::start().await;
    let (_context, stream) = stream_with(&server, &[]).await;
    stream.create_consumer(durable("A")).await.unwrap();
    let ephemeral: PullConsumer = stream
        .create_consumer(pull::Config {
            name: Some("E".to_owned()),
            inactive_threshold: Duration::from_secs(60),
            ..pull::Config::default()
        })
        .await
        .unwrap();
    assert_eq!(ephemeral.cached_info().name, "E");
    let mut names: Vec<String> = stream.consumer_names().map(Result::unwrap).collect().await;
    names.sort();
    assert_eq!(names, ["A", "E"]);
    assert_eq!(stream.consumers().count().await, 2);
    // Creating strictly what is there with other settings is refused, updating it is not.
    let other = pull::Config {
        max_deliver: 7,
        ..durable("A")
    };
    assert!(stream.create_consumer_strict(other.clone()).await.is_err());
    stream.create_consumer_strict(durable("A")).await.unwrap();
    let updated: PullConsumer = stream.update_consumer(other).await.unwrap();
    assert_eq!(updated.cached_info().config.max_deliver, 7);
    assert!(stream.update_consumer(durable("NONE")).await.is_err());
    let fixed = pull::Config {
        ack_policy: AckPolicy::None,
        ..durable("A")
    };
    let error = stream.create_consumer(fixed).await.unwrap_err();
    let ConsumerErrorKind::JetStream(error) = error.kind() else {
        panic!("{error}")
    };
    assert_eq!(
        error.to_string(),
        "ack policy can not be updated (code 500, error code 10012)"
    );
    assert!(stream.delete_consumer("E").await.unwrap().success);
    assert!(stream.delete_consumer("E").await.is_err());
    server.broker.shutdown().await;
}

#[tokio::test]
async fn unused_ephemerals_disappear() {
    let server = Server::start().await;
    let (_context, stream) = stream_with(&server, &[]).await;
    let config = pull::Config {
        inactive_threshold: Duration::from_millis(300),
        ..pull::Config::default()
    };
    let consumer: PullConsumer = stream.create_consumer(config).await.unwrap();
    let name = consumer.cached_info().name.clone();
    assert!(stream.consumer_info(&name).await.is_ok());
    tokio::time::timeout(PATIENCE, async {
        while stream.consumer_info(&name).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await
    .expect("it goes");
    server.broker.shutdown().await;
}

#[tokio::test]
async fn consumers_go_on_after_a_restart() {
    let server = Server::start().await;
    let (_context, stream) = stream_with(&server, &["s.a"; 6]).await;
    let config = pull::Config {
        ack_wait: Duration::from_millis(500),
        ..durable("C")
    };
    let consumer = stream.create_consumer(config).await.unwrap();
    let first = fetch(&consumer, 3).await;
    first[0].double_ack().await.unwrap();
    first[2].double_ack().await.unwrap();
    let server = server.restart().await;
    let context = jetstream::new(server.client().await);
    let mut consumer: PullConsumer = context.get_consumer_from_stream("C", "S").await.unwrap();
    let info = consumer.info().await.unwrap();
    assert_eq!(
        (info.delivered.stream_sequence, info.ack_floor.stream_sequence),
        (3, 1)
    );
    assert_eq!((info.num_pending, info.num_ack_pending), (3, 1));
    assert_eq!(texts(&fetch(&consumer, 3).await), ["4", "5", "6"]);
    let mut wait = consumer
        .batch()
        .max_messages(1)
        .expires(PATIENCE)
        .messages()
        .await
        .unwrap();
    let again = wait.next().await.unwrap().unwrap();
    assert_eq!(
        (&again.payload[..], again.info().unwrap().delivered),
        (&b"2"[..], 2)
    );
    server.broker.shutdown().await;
}

#[tokio::test]
async fn local_publishes_reach_the_stream() {
    let server = Server::start().await;
    let (_context, mut stream) = stream_with(&server, &[]).await;
    let local = server.broker.local_client("test");
    assert!(local.captured("s.a") && !local.captured("t.a"));
    let message = |subject: &str| LocalMessage {
        subject: subject.to_owned(),
        payload: "x".into(),
        ..LocalMessage::default()
    };
    let results = local
        .publish_durable(vec![message("s.a"), message("t.a"), message("s.b")])
        .await;
    let results = results.await.unwrap();
    assert_eq!(results[0].as_ref().unwrap().seq.0, 1);
    assert!(results[1].is_err());
    assert_eq!(results[2].as_ref().unwrap().seq.0, 2);
    assert_eq!(stream.info().await.unwrap().state.messages, 2);
    server.broker.shutdown().await;
}
