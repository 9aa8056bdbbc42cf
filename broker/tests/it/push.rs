//! What stands on push consumers: subscriptions, ordered consumers, key-value and object stores.

use std::time::Duration;

use async_nats::jetstream::consumer::{
    AckPolicy, DeliverPolicy, OrderedPushConsumer, PushConsumer, pull, push,
};
use async_nats::jetstream::kv::Operation;
use async_nats::jetstream::stream::{Config as StreamConfig, Stream};
use async_nats::jetstream::{self, Context, kv, object_store};
use futures::StreamExt;
use tokio::io::AsyncReadExt;

use crate::Server;

const PATIENCE: Duration = Duration::from_secs(10);

async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.expect("in time")
}

async fn stream_of(server: &Server, count: usize) -> (Context, Stream) {
    let context = jetstream::new(server.client().await);
    let config = StreamConfig {
        name: "S".to_owned(),
        subjects: vec!["s.*".to_owned()],
        ..StreamConfig::default()
    };
    let stream = context.create_stream(config).await.unwrap();
    for number in 1..=count {
        context
            .publish("s.a", number.to_string().into())
            .await
            .unwrap()
            .await
            .unwrap();
    }
    (context, stream)
}

#[tokio::test]
async fn messages_are_pushed_to_who_listens() {
    let server = Server::start().await;
    let (context, stream) = stream_of(&server, 3).await;
    let config = push::Config {
        durable_name: Some("P".to_owned()),
        deliver_subject: "push.here".to_owned(),
        ack_policy: AckPolicy::Explicit,
        ..push::Config::default()
    };
    let mut consumer: PushConsumer = stream.create_consumer(config).await.unwrap();
    assert!(!consumer.info().await.unwrap().push_bound);
    let mut messages = consumer.messages().await.unwrap();
    for number in 1..=3 {
        let message = soon(messages.next()).await.unwrap().unwrap();
        assert_eq!(message.payload, number.to_string());
        message.ack().await.unwrap();
    }
    context.publish("s.b", "4".into()).await.unwrap().await.unwrap();
    assert_eq!(soon(messages.next()).await.unwrap().unwrap().payload, "4");
    let info = consumer.info().await.unwrap();
    assert!(info.push_bound);
    assert_eq!((info.delivered.stream_sequence, info.num_ack_pending), (4, 1));
    server.broker.shutdown().await;
}

#[tokio::test]
async fn flow_control_lets_much_through() {
    let server = Server::start().await;
    let (context, stream) = stream_of(&server, 0).await;
    let payload = vec![7_u8; 100_000];
    for _ in 0..100 {
        context
            .publish("s.a", payload.clone().into())
            .await
            .unwrap()
            .await
            .unwrap();
    }
    let config = push::Config {
        deliver_subject: "push.here".to_owned(),
        flow_control: true,
        idle_heartbeat: Duration::from_secs(1),
        ..push::Config::default()
    };
    let consumer: PushConsumer = stream.create_consumer(config).await.unwrap();
    let mut messages = consumer.messages().await.unwrap();
    for _ in 0..100 {
        assert_eq!(
            soon(messages.next()).await.unwrap().unwrap().payload.len(),
            100_000
        );
    }
    server.broker.shutdown().await;
}

#[tokio::test]
async fn ordered_consumers_see_everything_in_order() {
    let server = Server::start().await;
    let (context, stream) = stream_of(&server, 50).await;
    let pushed = push::OrderedConfig {
        deliver_subject: context.client().new_inbox(),
        deliver_policy: DeliverPolicy::All,
        ..push::OrderedConfig::default()
    };
    let pushed: OrderedPushConsumer = stream.create_consumer(pushed).await.unwrap();
    let mut pushed = pushed.messages().await.unwrap();
    let pulled = stream
        .create_consumer(pull::OrderedConfig::default())
        .await
        .unwrap();
    let mut pulled = pulled.messages().await.unwrap();
    for number in 1..=60 {
        if number > 50 {
            context
                .publish("s.a", number.to_string().into())
                .await
                .unwrap()
                .await
                .unwrap();
        }
        assert_eq!(
            soon(pushed.next()).await.unwrap().unwrap().payload,
            number.to_string()
        );
        assert_eq!(
            soon(pulled.next()).await.unwrap().unwrap().payload,
            number.to_string()
        );
    }
    server.broker.shutdown().await;
}

#[tokio::test]
async fn a_key_value_bucket_remembers_and_is_watched() {
    let server = Server::start().await;
    let context = jetstream::new(server.client().await);
    let config = kv::Config {
        bucket: "B".to_owned(),
        history: 3,
        ..kv::Config::default()
    };
    let bucket = context.create_key_value(config).await.unwrap();
    assert_eq!(bucket.put("a", "1".into()).await.unwrap(), 1);
    let revision = bucket.put("a", "2".into()).await.unwrap();
    bucket.update("a", "3".into(), revision).await.unwrap();
    assert!(bucket.update("a", "4".into(), revision).await.is_err());
    assert!(bucket.create("a", "5".into()).await.is_err());
    bucket.create("b", "6".into()).await.unwrap();
    assert_eq!(bucket.get("a").await.unwrap().unwrap(), "3");
    assert_eq!(bucket.get("none").await.unwrap(), None);
    let history: Vec<_> = soon(bucket.history("a").await.unwrap().collect::<Vec<_>>()).await;
    assert_eq!(history.len(), 3);
    let mut keys: Vec<String> = soon(
        bucket
            .keys()
            .await
            .unwrap()
            .map(Result::unwrap)
            .collect::<Vec<_>>(),
    )
    .await;
    keys.sort();
    assert_eq!(keys, ["a", "b"]);
    let mut watch = bucket.watch_all().await.unwrap();
    bucket.delete("b").await.unwrap();
    let entry = soon(watch.next()).await.unwrap().unwrap();
    assert_eq!((entry.key.as_str(), entry.operation), ("b", Operation::Delete));
    bucket.purge("a").await.unwrap();
    let entry = soon(watch.next()).await.unwrap().unwrap();
    assert_eq!((entry.key.as_str(), entry.operation), ("a", Operation::Purge));
    assert_eq!(bucket.get("a").await.unwrap(), None);
    context.delete_key_value("B").await.unwrap();
    server.broker.shutdown().await;
}

#[tokio::test]
async fn objects_come_back_whole() {
    let server = Server::start().await;
    let context = jetstream::new(server.client().await);
    let config = object_store::Config {
        bucket: "O".to_owned(),
        ..object_store::Config::default()
    };
    let bucket = context.create_object_store(config).await.unwrap();
    let bytes: Vec<u8> = (0..1_000_000_u32).map(|number| number as u8).collect();
    bucket.put("big", &mut &bytes[..]).await.unwrap();
    let mut object = soon(bucket.get("big")).await.unwrap();
    let mut read = Vec::new();
    soon(object.read_to_end(&mut read)).await.unwrap();
    assert!(read == bytes);
    assert_eq!(
        soon(bucket.list().await.unwrap().collect::<Vec<_>>()).await.len(),
        1
    );
    bucket.delete("big").await.unwrap();
    assert!(bucket.get("big").await.is_err());
    server.broker.shutdown().await;
}
