//! Monitoring over HTTP.

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::Server;
use crate::sharing::configured;

pub(crate) async fn get(server: &Server, path: &str) -> (u16, String) {
    let addr = server.broker.monitor_addr().unwrap();
    let mut socket = TcpStream::connect(addr).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: {addr}\r\nConnection: close\r\n\r\n");
    socket.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
}

async fn json(server: &Server, path: &str) -> Value {
    let (status, body) = get(server, path).await;
    assert_eq!(status, 200, "{path}: {body}");
    serde_json::from_str(&body).unwrap()
}

#[tokio::test]
async fn figures_are_true() {
    let server = Server::start().await;
    let client = server.client().await;
    let _subscriber = client.queue_subscribe("a.*", "q".to_owned()).await.unwrap();
    for _ in 0..3 {
        client.publish("a.b", "hello".into()).await.unwrap();
    }
    client.flush().await.unwrap();
    let connz = json(&server, "/connz?subs=detail").await;
    assert_eq!(
        (&connz["num_connections"], &connz["total"]),
        (&1.into(), &1.into())
    );
    let connection = &connz["connections"][0];
    for (field, expected) in [
        ("cid", 1),
        ("in_msgs", 3),
        ("in_bytes", 15),
        ("out_msgs", 3),
        ("out_bytes", 15),
        ("subscriptions", 1),
    ] {
        assert_eq!(connection[field], expected, "{field} of {connection}");
    }
    assert_eq!(
        (connection["lang"].as_str(), connection["ip"].as_str()),
        (Some("rust"), Some("127.0.0.1"))
    );
    let detail = &connection["subscriptions_list_detail"][0];
    assert_eq!(
        (
            detail["subject"].as_str(),
            detail["qgroup"].as_str(),
            &detail["msgs"]
        ),
        (Some("a.*"), Some("q"), &3.into())
    );
    let subsz = json(&server, "/subsz?subs=1").await;
    assert_eq!(subsz["num_subscriptions"], 1);
    assert_eq!(subsz["subscriptions_list"].as_array().unwrap().len(), 1);
    assert_eq!(json(&server, "/connz?cid=99").await["num_connections"], 0);
    assert_eq!(json(&server, "/healthz").await["status"], "ok");
    assert!(get(&server, "/").await.1.contains("/varz"));
    assert_eq!(get(&server, "/nothing").await.0, 404);
    server.broker.shutdown().await;
}

#[tokio::test]
async fn jsz_shows_what_keda_reads() {
    let server = Server::start().await;
    let js = async_nats::jetstream::new(server.client().await);
    let stream = js
        .create_stream(async_nats::jetstream::stream::Config {
            name: "S".into(),
            subjects: vec!["s.>".into()],
            ..Default::default()
        })
        .await
        .unwrap();
    let config = async_nats::jetstream::consumer::pull::Config {
        durable_name: Some("c".into()),
        ..Default::default()
    };
    let consumer = stream.create_consumer(config).await.unwrap();
    for _ in 0..5 {
        js.publish("s.a", "x".into()).await.unwrap().await.unwrap();
    }
    let mut batch = consumer.fetch().max_messages(2).messages().await.unwrap();
    while futures::StreamExt::next(&mut batch).await.is_some() {}
    let jsz = json(&server, "/jsz?acc=$G&consumers=true&config=true").await;
    let detail = &jsz["account_details"][0]["stream_detail"][0];
    assert_eq!(
        (detail["name"].as_str(), &detail["state"]["messages"]),
        (Some("S"), &5.into())
    );
    let consumer = &detail["consumer_detail"][0];
    assert_eq!(
        (
            consumer["name"].as_str(),
            &consumer["num_pending"],
            &consumer["num_ack_pending"]
        ),
        (Some("c"), &3.into(), &2.into())
    );
    let varz = json(&server, "/varz").await;
    assert_eq!(
        (varz["connections"].as_u64(), varz["version"].as_str()),
        (Some(1), Some("2.15.2"))
    );
    assert!(
        varz["mem"].as_u64() > Some(1 << 20) && varz["jetstream"]["stats"]["storage"].as_u64() > Some(0),
        "{varz}"
    );
    // What is true when it is asked for: each message counts at once.
    for messages in 6..30_u64 {
        js.publish("s.a", "x".into()).await.unwrap().await.unwrap();
        let jsz = json(&server, "/jsz?acc=$G&consumers=true").await;
        let stream = &jsz["account_details"][0]["stream_detail"][0];
        assert_eq!(
            (&jsz["messages"], &stream["consumer_detail"][0]["num_pending"]),
            (&messages.into(), &(messages - 2).into())
        );
    }
    let unknown = json(&server, "/jsz?acc=other").await;
    assert_eq!(
        (&unknown["streams"], &unknown["account_details"]),
        (&1.into(), &Value::Null)
    );
    for (path, status) in [
        ("/healthz?account=$G&stream=S&consumer=c", 200),
        ("/healthz?account=$G&stream=T", 404),
        ("/healthz?stream=S", 400),
    ] {
        assert_eq!(get(&server, path).await.0, status, "{path}");
    }
}

#[tokio::test]
async fn accounts_show_what_they_share() {
    let server = configured(
        "accounts {
           A { users: [{user: a, password: a}]
               exports: [{stream: \"s.*\", accounts: [B]}, {service: v, response_type: stream}]
               mappings { \"m.*\": [{destination: \"n.$1\", weight: 40}, {destination: o, weight: 30, cluster: X}] } }
           B { users: [{user: b, password: b}]
               imports: [{stream: {account: A, subject: \"s.*\"}, to: \"here.$1\"}, {service: {account: A, subject: v}, to: w}] }
         }
         jetstream {}",
    )
    .await;
    let detail = async |name: &str| {
        let path = format!("/accountz?acc={name}");
        json(&server, &path).await["account_detail"].clone()
    };
    let a = detail("A").await;
    let exports = serde_json::json!([
        {"subject": "s.*", "type": "stream", "approved_accounts": ["B"]},
        {"subject": "v", "type": "service", "response_type": "Streamed"},
    ]);
    assert_eq!(a["exports"], exports);
    let mappings = serde_json::json!({"m.*": [
        {"subject": "n.$1", "weight": 40}, {"subject": "m.$1", "weight": 100},
        {"subject": "o", "weight": 30, "cluster": "X"}, {"subject": "m.$1", "weight": 100, "cluster": "X"},
    ]});
    assert_eq!(a["mappings"], mappings);
    let imports = detail("B").await["imports"].as_array().unwrap().clone();
    let of_a: Vec<_> = imports.iter().filter(|import| import["account"] == "A").collect();
    assert_eq!(
        (&of_a[0]["local_subject"], &of_a[1]["local_subject"], of_a.len()),
        (&"here.*".into(), &"w".into(), 2)
    );
    let of_system = imports.iter().filter(|import| import["account"] == "$SYS");
    assert_eq!(of_system.count(), 5);
    let system = detail("$SYS").await;
    assert_eq!(
        (
            system["exports"].as_array().unwrap().len(),
            system["imports"].as_array().unwrap().len()
        ),
        (5, 1)
    );
    let varz = json(&server, "/varz").await;
    assert!(
        varz["config_digest"].as_str().unwrap().starts_with("sha256:"),
        "{varz}"
    );
}
