//! How long services between accounts take to answer, as nats-server 2.15.2 tells it.

use std::time::Duration;

use async_nats::{HeaderMap, Subscriber};
use futures::StreamExt;
use serde_json::{Value, json};
use tokio_util::task::TaskTracker;

use crate::auth::client_of;
use crate::sharing::{configured, settle};

const CONFIG: &str = r#"jetstream {}
    accounts {
      HUB: { jetstream: enabled, users: [{user: hub, password: hub}], exports: [
        {service: "echo", latency: {sampling: 100%, subject: "lat.echo"}}
        {service: "gone", latency: "lat.gone"}
        {service: "head", latency: {sampling: headers, subject: "lat.head"}}
        {service: "slow", threshold: "300ms", latency: "lat.slow"}
        {service: "plain"}] }
      TEAM: { users: [{user: team, password: team}], imports: [
        {service: {account: HUB, subject: echo}}, {service: {account: HUB, subject: gone}}
        {service: {account: HUB, subject: head}}, {service: {account: HUB, subject: slow}}
        {service: {account: HUB, subject: plain}}] }
      TOLD: { users: [{user: told, password: told}], imports: [{service: {account: HUB, subject: echo}, share: true}] }
    }"#;

/// What is told next, and where.
async fn next(told: &mut Subscriber) -> (String, Value) {
    let next = tokio::time::timeout(Duration::from_secs(10), told.next());
    let message = next.await.unwrap().unwrap();
    let metric: Value = serde_json::from_slice(&message.payload).unwrap();
    assert_eq!(metric["type"], "io.nats.server.metric.v1.service_latency");
    (message.subject.to_string(), metric)
}

fn names(value: &Value) -> String {
    let fields = value.as_object().unwrap().keys();
    fields.cloned().collect::<Vec<_>>().join(" ")
}

#[tokio::test]
async fn answers_of_services_are_measured() {
    const WHOLE: &str = "acc client_type host id kind lang rtt server start user ver";
    let server = configured(CONFIG).await;
    let (hub, team, told) = (
        client_of(&server, "hub").await,
        client_of(&server, "team").await,
        client_of(&server, "told").await,
    );
    let mut metrics = hub.subscribe("lat.>").await.unwrap();
    for subject in ["echo", "head", "plain"] {
        let mut requests = hub.subscribe(subject).await.unwrap();
        let hub = hub.clone();
        TaskTracker::new().spawn(async move {
            while let Some(request) = requests.next().await {
                if let Some(reply) = request.reply {
                    hub.publish(reply, "x".into()).await.unwrap();
                }
            }
        });
    }
    let _silent = hub.subscribe("slow").await.unwrap();
    settle(&hub).await;

    team.request("plain", "".into()).await.unwrap();
    team.request("echo", "".into()).await.unwrap();
    let (subject, metric) = next(&mut metrics).await;
    assert_eq!((subject.as_str(), &metric["status"]), ("lat.echo", &200.into()));
    assert_eq!(
        names(&metric),
        "id requestor responder service start status system timestamp total type"
    );
    assert_eq!(names(&metric["requestor"]), "acc rtt");
    assert_eq!(metric["requestor"]["acc"], "TEAM");
    assert_eq!(names(&metric["responder"]), WHOLE);
    assert_eq!(
        (&metric["responder"]["acc"], &metric["responder"]["user"]),
        (&"HUB".into(), &"hub".into())
    );
    assert!(metric["total"].as_u64().unwrap() >= metric["service"].as_u64().unwrap());
    assert!(metric["total"].as_u64().unwrap() > 0);

    told.request("echo", "".into()).await.unwrap();
    let (_, metric) = next(&mut metrics).await;
    assert_eq!(names(&metric["requestor"]), WHOLE);
    assert_eq!(metric["requestor"]["user"], "told");

    team.publish("echo", "".into()).await.unwrap();
    let (_, metric) = next(&mut metrics).await;
    assert_eq!(
        (&metric["status"], &metric["description"], &metric["total"]),
        (&400.into(), &"Bad Request".into(), &0.into())
    );
    assert!(metric["responder"].is_null());

    assert!(team.request("gone", "".into()).await.is_err());
    let (subject, metric) = next(&mut metrics).await;
    assert_eq!(
        (subject.as_str(), &metric["status"], &metric["description"]),
        ("lat.gone", &503.into(), &"Service Unavailable".into())
    );

    // Without a trace nothing is measured.
    team.request("head", "".into()).await.unwrap();
    let mut trace = HeaderMap::new();
    trace.insert("X-B3-Sampled", "1");
    team.request_with_headers("head", trace, "".into()).await.unwrap();
    let (_, metric) = next(&mut metrics).await;
    assert_eq!(metric["header"], json!({"X-B3-Sampled": ["1"]}));

    team.publish_with_reply("slow", "_INBOX.late", "".into())
        .await
        .unwrap();
    let (subject, metric) = next(&mut metrics).await;
    assert_eq!(
        (subject.as_str(), &metric["status"], &metric["description"]),
        ("lat.slow", &504.into(), &"Service Timeout".into())
    );
}

/// A stream stores what is told.
#[tokio::test]
async fn what_is_told_of_services_is_stored() {
    let server = configured(CONFIG).await;
    let (hub, team) = (client_of(&server, "hub").await, client_of(&server, "team").await);
    let context = async_nats::jetstream::new(hub);
    let config = async_nats::jetstream::stream::Config {
        name: "LAT".to_owned(),
        subjects: vec!["lat.>".to_owned()],
        ..Default::default()
    };
    let stream = context.create_stream(config).await.unwrap();
    assert!(team.request("gone", "".into()).await.is_err());
    let stored = async {
        while stream.get_info().await.unwrap().state.messages == 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), stored)
        .await
        .unwrap();
    let message = stream.get_raw_message(1).await.unwrap();
    assert_eq!(message.subject.as_str(), "lat.gone");
}
