//! JetStream's newer features with the `async-nats` client, which checks every answer against its own types.

use std::time::Duration;

use async_nats::HeaderMap;
use async_nats::jetstream::consumer::{AckPolicy, pull};
use async_nats::jetstream::{self, stream};
use futures::StreamExt;

use crate::Server;

const PATIENCE: Duration = Duration::from_secs(10);

fn config(name: &str, subjects: &[&str]) -> stream::Config {
    stream::Config {
        name: name.to_owned(),
        subjects: subjects.iter().map(|subject| (*subject).to_owned()).collect(),
        ..stream::Config::default()
    }
}

fn headers(fields: &[(&str, &str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in fields {
        headers.insert(*name, *value);
    }
    headers
}

#[tokio::test]
async fn messages_are_transformed_republished_and_copied() {
    let server = Server::start().await;
    let client = server.client().await;
    let js = jetstream::new(client.clone());
    let mut again = client.subscribe("again.>").await.unwrap();
    js.create_stream(stream::Config {
        subject_transform: Some(stream::SubjectTransform {
            source: "in.*".to_owned(),
            destination: "kept.{{wildcard(1)}}".to_owned(),
        }),
        republish: Some(stream::Republish {
            source: "kept.>".to_owned(),
            destination: "again.>".to_owned(),
            headers_only: false,
        }),
        ..config("ORIGIN", &["in.*"])
    })
    .await
    .unwrap();
    // A stream that captures what is published once more stores it.
    let mut archive = js.create_stream(config("ARCHIVE", &["again.>"])).await.unwrap();
    let mut mirror = js
        .create_stream(stream::Config {
            mirror: Some(stream::Source {
                name: "ORIGIN".to_owned(),
                ..stream::Source::default()
            }),
            ..config("MIRROR", &[])
        })
        .await
        .unwrap();
    for payload in ["one", "two"] {
        js.publish("in.a", payload.into()).await.unwrap().await.unwrap();
        let got = tokio::time::timeout(PATIENCE, again.next())
            .await
            .unwrap()
            .unwrap();
        assert_eq!(
            (got.subject.as_str(), &got.payload[..]),
            ("again.a", payload.as_bytes())
        );
        assert_eq!(
            got.headers.unwrap().get("Nats-Subject").unwrap().as_str(),
            "kept.a"
        );
    }
    for stream in [&mut archive, &mut mirror] {
        let filled = async {
            while stream.info().await.unwrap().state.messages < 2 {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(PATIENCE, filled).await.unwrap();
    }
    let info = mirror.info().await.unwrap();
    let source = info.mirror.as_ref().unwrap();
    assert_eq!((source.name.as_str(), source.lag), ("ORIGIN", 0));
    assert_eq!(
        mirror.get_raw_message(2).await.unwrap().subject.as_str(),
        "kept.a"
    );
}

#[tokio::test]
async fn batches_and_counters_are_acknowledged_with_what_they_came_to() {
    let server = Server::start().await;
    let client = server.client().await;
    let create = |config: &'static str| {
        let client = client.clone();
        async move {
            let answer = client
                .request("$JS.API.STREAM.CREATE.S", config.into())
                .await
                .unwrap();
            assert!(!String::from_utf8_lossy(&answer.payload).contains("error"));
        }
    };
    create(r#"{"name":"S","subjects":["b.*"],"allow_atomic":true}"#).await;
    for (seq, commit, expected) in [
        ("1", None, ""),
        ("2", Some("1"), r#"{"stream":"S","seq":2,"batch":"x","count":2}"#),
    ] {
        let mut fields = vec![("Nats-Batch-Id", "x"), ("Nats-Batch-Sequence", seq)];
        fields.extend(commit.map(|commit| ("Nats-Batch-Commit", commit)));
        let answer = client
            .request_with_headers("b.1", headers(&fields), "x".into())
            .await
            .unwrap();
        assert_eq!(String::from_utf8_lossy(&answer.payload), expected);
    }
    client
        .request("$JS.API.STREAM.DELETE.S", "".into())
        .await
        .unwrap();
    create(r#"{"name":"S","subjects":["c.*"],"allow_msg_counter":true}"#).await;
    for (increment, expected) in [("40", "40"), ("2", "42")] {
        let answer = client
            .request_with_headers("c.a", headers(&[("Nats-Incr", increment)]), "".into())
            .await
            .unwrap();
        let text = String::from_utf8_lossy(&answer.payload).into_owned();
        assert!(text.ends_with(&format!(r#""val":"{expected}"}}"#)), "{text}");
    }
}

#[tokio::test]
async fn a_consumer_is_paused_and_goes_on() {
    let server = Server::start().await;
    let js = jetstream::new(server.client().await);
    let stream = js.create_stream(config("S", &["s"])).await.unwrap();
    let consumer = stream
        .create_consumer(pull::Config {
            durable_name: Some("C".to_owned()),
            ack_policy: AckPolicy::Explicit,
            ..pull::Config::default()
        })
        .await
        .unwrap();
    js.publish("s", "x".into()).await.unwrap().await.unwrap();
    let until = stream.cached_info().created + Duration::from_secs(3600);
    assert!(stream.pause_consumer("C", until).await.unwrap().paused);
    let none = consumer
        .fetch()
        .max_messages(1)
        .expires(Duration::from_millis(300))
        .messages()
        .await
        .unwrap();
    assert_eq!(none.count().await, 0);
    assert!(!stream.resume_consumer("C").await.unwrap().paused);
    let mut messages = consumer.messages().await.unwrap();
    let got = tokio::time::timeout(PATIENCE, messages.next()).await.unwrap();
    assert_eq!(&got.unwrap().unwrap().payload[..], b"x");
}
