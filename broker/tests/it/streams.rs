//! JetStream's streams with an unmodified client.

use std::time::Duration;

use async_nats::HeaderMap;
use async_nats::jetstream::context::{CreateStreamErrorKind, PublishErrorKind};
use async_nats::jetstream::message::PublishMessage;
use async_nats::jetstream::stream::{Config, DiscardPolicy, RetentionPolicy, StorageType};
use async_nats::jetstream::{self, ErrorCode};
use bytes::Bytes;
use expect_test::expect;
use futures::{StreamExt, TryStreamExt};
use serde_json::Value;

use crate::Server;

fn config(name: &str, subjects: &[&str]) -> Config {
    Config {
        name: name.to_owned(),
        subjects: subjects.iter().map(ToString::to_string).collect(),
        ..Config::default()
    }
}

/// The answer to a request, as text.
async fn ask(client: &async_nats::Client, subject: &str, payload: &str) -> String {
    let answer = client
        .request(subject.to_owned(), Bytes::from(payload.to_owned()))
        .await
        .unwrap();
    String::from_utf8(answer.payload.to_vec()).unwrap()
}

/// The error code of an answer.
async fn ask_code(client: &async_nats::Client, subject: &str, payload: &str) -> u64 {
    let answer: Value = serde_json::from_str(&ask(client, subject, payload).await).unwrap();
    answer["error"]["err_code"].as_u64().unwrap_or(0)
}

#[tokio::test]
async fn streams_are_created_described_changed_and_deleted() {
    let server = Server::start().await;
    let context = jetstream::new(server.client().await);
    let account = context.query_account().await.unwrap();
    assert_eq!(
        (account.streams, account.consumers, account.limits.max_streams),
        (0, 0, None)
    );

    let mut stream = context.create_stream(config("S", &["s.>"])).await.unwrap();
    assert_eq!(
        stream.cached_info().config.duplicate_window,
        Duration::from_secs(120)
    );
    // The same again is no error, another configuration is.
    context.create_stream(config("S", &["s.>"])).await.unwrap();
    let taken = context.create_stream(config("S", &["other"])).await.unwrap_err();
    let CreateStreamErrorKind::JetStream(error) = taken.kind() else {
        panic!("{taken}")
    };
    assert_eq!(error.error_code(), ErrorCode::STREAM_NAME_EXIST);
    let overlap = context.create_stream(config("T", &["s.a"])).await.unwrap_err();
    let CreateStreamErrorKind::JetStream(error) = overlap.kind() else {
        panic!("{overlap}")
    };
    assert_eq!(error.error_code(), ErrorCode::STREAM_SUBJECT_OVERLAP);

    context.create_stream(config("T", &["t"])).await.unwrap();
    context.publish("s.a", "one".into()).await.unwrap().await.unwrap();
    context.publish("s.b", "two".into()).await.unwrap().await.unwrap();
    let info = stream.info().await.unwrap();
    assert_eq!(
        (
            info.state.messages,
            info.state.first_sequence,
            info.state.last_sequence
        ),
        (2, 1, 2)
    );
    let subjects = stream.info_with_subjects("s.*").await.unwrap();
    let subjects: Vec<(String, usize)> = subjects.try_collect().await.unwrap();
    assert_eq!(subjects.len(), 2);

    let updated = Config {
        max_messages: 1,
        description: Some("few".to_owned()),
        ..config("S", &["s.>", "u"])
    };
    let updated = context.update_stream(updated).await.unwrap();
    assert_eq!((updated.config.max_messages, updated.state.messages), (1, 1));
    assert_eq!(
        context
            .publish("u", "".into())
            .await
            .unwrap()
            .await
            .unwrap()
            .sequence,
        3
    );

    let mut names: Vec<String> = context.stream_names().try_collect().await.unwrap();
    names.sort();
    assert_eq!(names, ["S", "T"]);
    let infos: Vec<_> = context.streams().try_collect().await.unwrap();
    assert_eq!(infos.len(), 2);
    assert_eq!(context.stream_by_subject("u").await.unwrap(), "S");
    assert!(context.delete_stream("S").await.unwrap().success);
    assert!(context.get_stream("S").await.is_err());
    assert_eq!(context.query_account().await.unwrap().streams, 1);
    server.broker.shutdown().await;
}

#[tokio::test]
async fn bad_requests_get_the_servers_codes() {
    let server = Server::start().await;
    let client = server.client().await;
    let created = ask(&client, "$JS.API.STREAM.CREATE.NEW", r#"{"name":"NEW"}"#).await;
    assert!(created.contains(r#""did_create":true"#), "{created}");
    let cases = [
        ("$JS.API.STREAM.CREATE.S", r#"{"name":"T"}"#, 10056),
        ("$JS.API.STREAM.CREATE.S", "{", 10025),
        (
            "$JS.API.STREAM.CREATE.S",
            r#"{"name":"S","num_replicas":3}"#,
            10074,
        ),
        (
            "$JS.API.STREAM.CREATE.S",
            r#"{"name":"S","mirror":{"name":"M"},"subjects":["m"]}"#,
            10034,
        ),
        (
            "$JS.API.STREAM.CREATE.S",
            r#"{"name":"S","subjects":["a..b"]}"#,
            10052,
        ),
        ("$JS.API.STREAM.INFO.S", "", 10059),
        ("$JS.API.STREAM.DELETE.S", "", 10059),
        ("$JS.API.STREAM.PURGE.S", "", 10059),
        ("$JS.API.STREAM.MSG.GET.S", r#"{"seq":1}"#, 10059),
        ("$JS.API.CONSUMER.INFO.S.C", "", 10059),
    ];
    for (subject, payload, code) in cases {
        assert_eq!(
            ask_code(&client, subject, payload).await,
            code,
            "{subject} {payload}"
        );
    }
    server.broker.shutdown().await;
}

#[tokio::test]
async fn publishes_are_acknowledged_word_for_word() {
    let server = Server::start().await;
    let client = server.client().await;
    let context = jetstream::new(client.clone());
    context.create_stream(config("S", &["s"])).await.unwrap();
    assert_eq!(ask(&client, "s", "x").await, r#"{"stream":"S","seq":1}"#);
    let mut headers = HeaderMap::new();
    headers.insert("Nats-Msg-Id", "m");
    for expected in [
        r#"{"stream":"S","seq":2}"#,
        r#"{"stream":"S","seq":2,"duplicate": true}"#,
    ] {
        let answer = client
            .request_with_headers("s", headers.clone(), "x".into())
            .await
            .unwrap();
        assert_eq!(answer.payload, expected);
    }
    let mut headers = HeaderMap::new();
    headers.insert("Nats-Expected-Last-Sequence", "9");
    let answer = client
        .request_with_headers("s", headers, "x".into())
        .await
        .unwrap();
    expect![[r#"{"error":{"code":400,"err_code":10071,"description":"wrong last sequence: 2"},"stream":"S","seq":0}"#]]
        .assert_eq(std::str::from_utf8(&answer.payload).unwrap());
    server.broker.shutdown().await;
}

#[tokio::test]
async fn expectations_hold_or_refuse() {
    let server = Server::start().await;
    let context = jetstream::new(server.client().await);
    context.create_stream(config("S", &["s.*"])).await.unwrap();
    let first = PublishMessage::build()
        .payload("1".into())
        .message_id("a")
        .expected_stream("S");
    context.send_publish("s.a", first).await.unwrap().await.unwrap();
    let second = PublishMessage::build()
        .payload("2".into())
        .message_id("b")
        .expected_last_message_id("a")
        .expected_last_sequence(1)
        .expected_last_subject_sequence(0);
    context.send_publish("s.b", second).await.unwrap().await.unwrap();
    let wrong = [
        (
            PublishMessage::build().expected_stream("T"),
            PublishErrorKind::Other,
        ),
        (
            PublishMessage::build().expected_last_message_id("a"),
            PublishErrorKind::WrongLastMessageId,
        ),
        (
            PublishMessage::build().expected_last_sequence(1),
            PublishErrorKind::WrongLastSequence,
        ),
        (
            PublishMessage::build().expected_last_subject_sequence(2),
            PublishErrorKind::WrongLastSequence,
        ),
    ];
    for (message, kind) in wrong {
        let error = context
            .send_publish("s.a", message)
            .await
            .unwrap()
            .await
            .unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
    }
    server.broker.shutdown().await;
}

#[tokio::test]
async fn limits_discard_the_old_or_refuse_the_new() {
    let server = Server::start().await;
    let context = jetstream::new(server.client().await);
    let old = Config {
        max_messages: 3,
        max_messages_per_subject: 2,
        ..config("OLD", &["old.*"])
    };
    let mut old = context.create_stream(old).await.unwrap();
    for subject in ["old.a", "old.a", "old.a", "old.b", "old.c"] {
        context.publish(subject, "x".into()).await.unwrap().await.unwrap();
    }
    let state = &old.info().await.unwrap().state;
    assert_eq!(
        (state.messages, state.first_sequence, state.last_sequence),
        (3, 3, 5)
    );

    let new = Config {
        max_messages: 2,
        discard: DiscardPolicy::New,
        storage: StorageType::Memory,
        max_message_size: 10,
        ..config("NEW", &["new"])
    };
    context.create_stream(new).await.unwrap();
    let error = context
        .publish("new", "far too long".into())
        .await
        .unwrap()
        .await
        .unwrap_err();
    assert!(
        error.to_string().contains("message size exceeds maximum allowed"),
        "{error}"
    );
    for _ in 0..2 {
        context.publish("new", "x".into()).await.unwrap().await.unwrap();
    }
    let error = context
        .publish("new", "x".into())
        .await
        .unwrap()
        .await
        .unwrap_err();
    assert!(error.to_string().contains("maximum messages exceeded"), "{error}");

    let aging = Config {
        max_age: Duration::from_millis(200),
        ..config("AGE", &["age"])
    };
    let mut aging = context.create_stream(aging).await.unwrap();
    context.publish("age", "x".into()).await.unwrap().await.unwrap();
    tokio::time::timeout(Duration::from_secs(10), async {
        while aging.info().await.unwrap().state.messages > 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await
    .expect("old messages go");
    assert_eq!(aging.info().await.unwrap().state.last_sequence, 1);
    server.broker.shutdown().await;
}

#[tokio::test]
async fn a_stream_without_acknowledgements_stores_all_the_same() {
    let server = Server::start().await;
    let client = server.client().await;
    let context = jetstream::new(client.clone());
    let quiet = Config {
        no_ack: true,
        ..config("Q", &["q"])
    };
    let mut quiet = context.create_stream(quiet).await.unwrap();
    let answer = tokio::time::timeout(Duration::from_millis(200), client.request("q", "x".into())).await;
    assert!(answer.is_err(), "no acknowledgement comes");
    assert_eq!(quiet.info().await.unwrap().state.messages, 1);
    server.broker.shutdown().await;
}

#[tokio::test]
async fn messages_are_read_deleted_and_purged() {
    let server = Server::start().await;
    let context = jetstream::new(server.client().await);
    let direct = Config {
        allow_direct: true,
        ..config("S", &["s.*"])
    };
    let mut stream = context.create_stream(direct).await.unwrap();
    let mut headers = HeaderMap::new();
    headers.insert("A", "1");
    context
        .publish_with_headers("s.a", headers.clone(), "one".into())
        .await
        .unwrap()
        .await
        .unwrap();
    for (subject, payload) in [("s.b", "two"), ("s.a", "three"), ("s.b", "four")] {
        context
            .publish(subject, payload.into())
            .await
            .unwrap()
            .await
            .unwrap();
    }
    let first = stream.get_raw_message(1).await.unwrap();
    assert_eq!(
        (&first.payload[..], first.subject.as_str(), first.headers),
        (&b"one"[..], "s.a", headers.clone())
    );
    assert_eq!(
        stream
            .get_last_raw_message_by_subject("s.a")
            .await
            .unwrap()
            .sequence,
        3
    );
    assert_eq!(
        stream
            .raw_message_builder()
            .sequence(3)
            .next_by_subject("s.b")
            .send()
            .await
            .unwrap()
            .sequence,
        4
    );
    assert!(stream.get_raw_message(9).await.is_err());

    let direct = stream.direct_get(1).await.unwrap();
    assert_eq!((direct.sequence, &direct.payload[..]), (1, &b"one"[..]));
    assert_eq!(direct.headers.get("A").unwrap().as_str(), "1");
    assert_eq!(
        stream.direct_get_last_for_subject("s.b").await.unwrap().sequence,
        4
    );
    assert_eq!(
        stream
            .direct_get_next_for_subject("s.a", Some(2))
            .await
            .unwrap()
            .sequence,
        3
    );
    assert!(stream.direct_get(9).await.is_err());

    assert!(stream.delete_message(3).await.unwrap());
    assert!(stream.delete_message(3).await.is_err());
    assert!(stream.get_raw_message(3).await.is_err());
    let details: Value = serde_json::from_str(
        &ask(
            &server.client().await,
            "$JS.API.STREAM.INFO.S",
            r#"{"deleted_details":true}"#,
        )
        .await,
    )
    .unwrap();
    assert_eq!(
        (
            details["state"]["num_deleted"].as_u64(),
            &details["state"]["deleted"][0]
        ),
        (Some(1), &3.into())
    );

    assert_eq!(stream.purge().filter("s.b").keep(1).await.unwrap().purged, 1);
    assert_eq!(stream.purge().sequence(2).await.unwrap().purged, 1);
    assert_eq!(stream.info().await.unwrap().state.messages, 1);
    assert_eq!(stream.purge().await.unwrap().purged, 1);
    let state = &stream.info().await.unwrap().state;
    assert_eq!(
        (state.messages, state.first_sequence, state.last_sequence),
        (0, 5, 4)
    );
    assert_eq!(
        context
            .publish("s.a", "".into())
            .await
            .unwrap()
            .await
            .unwrap()
            .sequence,
        5
    );
    server.broker.shutdown().await;
}

#[tokio::test]
async fn everything_is_there_after_a_restart() {
    let server = Server::start().await;
    let context = jetstream::new(server.client().await);
    context.create_stream(config("S", &["s"])).await.unwrap();
    let memory = Config {
        storage: StorageType::Memory,
        ..config("M", &["m"])
    };
    context.create_stream(memory).await.unwrap();
    for id in 0..100 {
        let message = PublishMessage::build()
            .payload("x".into())
            .message_id(id.to_string());
        context.send_publish("s", message).await.unwrap().await.unwrap();
    }
    let server = server.restart().await;
    let context = jetstream::new(server.client().await);
    let mut stream = context.get_stream("S").await.unwrap();
    assert_eq!(stream.info().await.unwrap().state.messages, 100);
    let again = PublishMessage::build().payload("x".into()).message_id("50");
    let ack = context.send_publish("s", again).await.unwrap().await.unwrap();
    assert_eq!((ack.sequence, ack.duplicate), (51, true));
    let new = PublishMessage::build().payload("x".into()).message_id("new");
    assert_eq!(
        context
            .send_publish("s", new)
            .await
            .unwrap()
            .await
            .unwrap()
            .sequence,
        101
    );
    server.broker.shutdown().await;
}

#[tokio::test]
async fn a_work_queue_keeps_what_is_not_done() {
    let server = Server::start().await;
    let context = jetstream::new(server.client().await);
    let queue = Config {
        retention: RetentionPolicy::WorkQueue,
        ..config("W", &["w.*"])
    };
    let mut stream = context.create_stream(queue).await.unwrap();
    for _ in 0..3 {
        context.publish("w.a", "x".into()).await.unwrap().await.unwrap();
    }
    let consumer = jetstream::consumer::pull::Config {
        durable_name: Some("C".to_owned()),
        ..Default::default()
    };
    let consumer = stream.create_consumer(consumer).await.unwrap();
    let second = jetstream::consumer::pull::Config {
        durable_name: Some("D".to_owned()),
        ..Default::default()
    };
    assert!(stream.create_consumer(second).await.is_err());
    let mut messages = consumer.fetch().max_messages(2).messages().await.unwrap();
    while let Some(message) = messages.next().await {
        message.unwrap().double_ack().await.unwrap();
    }
    assert_eq!(stream.info().await.unwrap().state.messages, 1);
    server.broker.shutdown().await;
}

#[tokio::test]
async fn interest_keeps_what_a_consumer_still_wants() {
    let server = Server::start().await;
    let context = jetstream::new(server.client().await);
    let interest = Config {
        retention: RetentionPolicy::Interest,
        ..config("I", &["i.*"])
    };
    let mut stream = context.create_stream(interest).await.unwrap();
    context
        .publish("i.a", "nobody".into())
        .await
        .unwrap()
        .await
        .unwrap();
    assert_eq!(stream.info().await.unwrap().state.messages, 0);
    let mut consumers = Vec::new();
    for name in ["A", "B"] {
        let config = jetstream::consumer::pull::Config {
            durable_name: Some(name.to_owned()),
            ..Default::default()
        };
        consumers.push(stream.create_consumer(config).await.unwrap());
    }
    context
        .publish("i.a", "both".into())
        .await
        .unwrap()
        .await
        .unwrap();
    for (consumer, left) in consumers.iter().zip([1, 0]) {
        let mut messages = consumer.fetch().max_messages(1).messages().await.unwrap();
        messages
            .next()
            .await
            .unwrap()
            .unwrap()
            .double_ack()
            .await
            .unwrap();
        assert_eq!(stream.info().await.unwrap().state.messages, left);
    }
    context
        .publish("i.a", "left".into())
        .await
        .unwrap()
        .await
        .unwrap();
    stream.delete_consumer("A").await.unwrap();
    assert_eq!(stream.info().await.unwrap().state.messages, 1);
    stream.delete_consumer("B").await.unwrap();
    assert_eq!(stream.info().await.unwrap().state.messages, 0);
    server.broker.shutdown().await;
}
