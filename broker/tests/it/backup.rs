//! Backups over real sockets, as a client takes and restores them.

use std::time::Duration;

use async_nats::Client;
use async_nats::jetstream::{self, stream};
use futures::StreamExt;
use serde_json::{Value, json};

use crate::Server;

const PATIENCE: Duration = Duration::from_secs(10);
const MESSAGES: u64 = 3000;

async fn ask(client: &Client, subject: &str, request: &Value) -> Value {
    let answer = client
        .request(subject.to_owned(), request.to_string().into())
        .await
        .unwrap();
    serde_json::from_slice(&answer.payload).unwrap()
}

async fn backup(client: &Client, stream: &str) -> (Value, Vec<u8>) {
    let inbox = client.new_inbox();
    let mut chunks = client.subscribe(inbox.clone()).await.unwrap();
    let request = json!({"deliver_subject": inbox, "chunk_size": 4096, "window_size": 16384});
    let answer = ask(client, &format!("$JS.API.STREAM.SNAPSHOT.{stream}"), &request).await;
    let mut bytes = Vec::new();
    loop {
        let chunk = tokio::time::timeout(PATIENCE, chunks.next())
            .await
            .unwrap()
            .unwrap();
        if chunk.payload.is_empty() {
            assert!(chunk.status.is_none_or(|status| status.as_u16() == 204));
            return (
                json!({"config": answer["config"], "state": answer["state"]}),
                bytes,
            );
        }
        bytes.extend_from_slice(&chunk.payload);
        if let Some(reply) = chunk.reply {
            client.publish(reply, "".into()).await.unwrap();
        }
    }
}

#[tokio::test]
async fn a_stream_goes_from_one_broker_to_another() {
    let (from, to) = (Server::start().await, Server::start().await);
    let client = from.client().await;
    let config = stream::Config {
        name: "S".to_owned(),
        subjects: vec!["s.*".to_owned()],
        ..stream::Config::default()
    };
    let js = jetstream::new(client.clone());
    js.create_stream(config).await.unwrap();
    let mut acks = Vec::new();
    for at in 0..MESSAGES {
        let ack = js
            .publish(
                format!("s.{}", at % 10),
                format!("{at} {:x}", at * at * at).into(),
            )
            .await;
        acks.push(ack.unwrap());
    }
    for ack in acks {
        ack.await.unwrap();
    }
    let (kept, bytes) = backup(&client, "S").await;
    let client = to.client().await;
    let started = ask(&client, "$JS.API.STREAM.RESTORE.S", &kept).await;
    let deliver = started["deliver_subject"].as_str().unwrap().to_owned();
    for chunk in bytes.chunks(3000) {
        let answer = client
            .request(deliver.clone(), chunk.to_vec().into())
            .await
            .unwrap();
        assert!(answer.payload.is_empty());
    }
    let end = client.request(deliver.clone(), "".into()).await.unwrap();
    let end: Value = serde_json::from_slice(&end.payload).unwrap();
    assert_eq!(end["state"]["messages"], MESSAGES, "{end}");
    let late = client.request(deliver, "x".into()).await;
    assert!(late.is_err(), "nobody listens any more");
    let to = to.restart().await;
    let js = jetstream::new(to.client().await);
    let restored = js.get_stream("S").await.unwrap();
    for seq in [1, MESSAGES / 2, MESSAGES] {
        let message = restored.get_raw_message(seq).await.unwrap();
        let at = seq - 1;
        let text = format!("{at} {:x}", at * at * at);
        assert_eq!(
            (message.subject.as_str(), &message.payload[..]),
            (format!("s.{}", at % 10).as_str(), text.as_bytes())
        );
    }
    let ack = js.publish("s.new", "".into()).await.unwrap().await.unwrap();
    assert_eq!(ack.sequence, MESSAGES + 1);
}
