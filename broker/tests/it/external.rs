//! Mirrors and sources of other accounts, and under another prefix of the API. The configurations are what nats-server takes too.

use std::time::Duration;

use async_nats::{Client, jetstream};
use serde_json::{Value, json};
use tarn_broker::server::{Broker, BrokerConfig};

use crate::auth::client_of;
use crate::sharing::{configured, options_of};

const PATIENCE: Duration = Duration::from_secs(60);
const ACCOUNTS: &str = r#"
jetstream { domain: hub }
accounts {
  FAR { jetstream: enabled, users: [{user: far, password: far}]
        exports: [{service: "$JS.API.CONSUMER.>", response_type: stream}, {service: "$JS.FC.O.>"}, {stream: "to.near.>"}] }
  NEAR { jetstream: enabled, users: [{user: near, password: near}]
         imports: [{service: {account: FAR, subject: "$JS.API.CONSUMER.>"}, to: "far.API.CONSUMER.>"}
                   {service: {account: FAR, subject: "$JS.FC.O.>"}}
                   {stream: {account: FAR, subject: "to.near.>"}}] }
}"#;

async fn request(client: &Client, what: &str, payload: &Value) -> Value {
    let payload = if payload.is_null() {
        String::new()
    } else {
        payload.to_string()
    };
    let answer = client
        .request(format!("$JS.API.{what}"), payload.into())
        .await
        .unwrap();
    let answer: Value = serde_json::from_slice(&answer.payload).unwrap();
    assert_eq!(answer["error"], Value::Null, "{what}: {answer}");
    answer
}

/// Waits until `stream` has copied everything up to `seq` of its origin.
async fn copied(client: &Client, stream: &str, seq: u64) -> Value {
    let waiting = async {
        loop {
            let info = request(client, &format!("STREAM.INFO.{stream}"), &Value::Null).await;
            let source = if info["mirror"].is_null() {
                &info["sources"][0]["seq"]
            } else {
                &info["state"]["last_seq"]
            };
            if *source == seq {
                return info;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, waiting)
        .await
        .expect("all is copied")
}

async fn fill(client: &Client, count: u64) {
    let context = jetstream::new(client.clone());
    let payload = vec![b'x'; 1000];
    let mut acks = Vec::new();
    for number in 0..count {
        let ack = context
            .publish(format!("o.{}", number % 3), payload.clone().into())
            .await
            .unwrap();
        acks.push(ack);
    }
    for ack in acks {
        ack.await.unwrap();
    }
}

#[tokio::test]
async fn streams_of_another_account_are_copied_once() {
    let mut server = configured(ACCOUNTS).await;
    let (far, near) = (client_of(&server, "far").await, client_of(&server, "near").await);
    let origin = json!({"name": "O", "subjects": ["o.*"], "storage": "file"});
    request(&far, "STREAM.CREATE.O", &origin).await;
    fill(&far, 4000).await;
    let external = json!({"api": "far.API", "deliver": "to.near"});
    let mirror = json!({"name": "M", "mirror": {"name": "O", "external": external}});
    request(&near, "STREAM.CREATE.M", &mirror).await;
    let source =
        json!({"name": "S", "sources": [{"name": "O", "filter_subject": "o.1", "external": external}]});
    request(&near, "STREAM.CREATE.S", &source).await;
    // More than the first window of flow control.
    let info = copied(&near, "M", 4000).await;
    assert_eq!(info["state"]["messages"], 4000);
    assert_eq!(info["mirror"]["external"], external);
    let info = copied(&near, "S", 3998).await;
    assert_eq!(
        (&info["state"]["messages"], &info["sources"][0]["lag"]),
        (&1333.into(), &0.into())
    );
    let stored = request(&near, "STREAM.MSG.GET.S", &json!({"seq": 1333})).await;
    assert_eq!(stored["message"]["subject"], "o.1");

    server.broker.shutdown().await;
    let config = BrokerConfig::from_options(&options_of(ACCOUNTS), server.dir.path().join("store"));
    server.broker = Broker::start(config).await.unwrap();
    let (far, near) = (client_of(&server, "far").await, client_of(&server, "near").await);
    fill(&far, 3).await;
    assert_eq!(copied(&near, "M", 4003).await["state"]["messages"], 4003);
    assert_eq!(copied(&near, "S", 4002).await["state"]["messages"], 1334);
    server.broker.shutdown().await;
}

#[tokio::test]
async fn a_stream_of_the_same_account_is_copied_by_the_domain() {
    let server = configured(ACCOUNTS).await;
    let far = client_of(&server, "far").await;
    let origin = json!({"name": "O", "subjects": ["o.*"], "retention": "workqueue"});
    request(&far, "STREAM.CREATE.O", &origin).await;
    fill(&far, 10).await;
    let copy =
        json!({"name": "S", "sources": [{"name": "O", "external": {"api": "$JS.hub.API", "deliver": ""}}]});
    request(&far, "STREAM.CREATE.S", &copy).await;
    assert_eq!(copied(&far, "S", 10).await["state"]["messages"], 10);
    let emptied = async {
        while request(&far, "STREAM.INFO.O", &Value::Null).await["state"]["messages"] != 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, emptied)
        .await
        .expect("the work queue lets go of what is stored");
    server.broker.shutdown().await;
}
