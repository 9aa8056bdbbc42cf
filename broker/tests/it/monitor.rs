//! Monitoring over HTTP.

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::Server;

async fn get(server: &Server, path: &str) -> (u16, String) {
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
