//! The protocol byte by byte.

use std::time::Duration;

use expect_test::expect;
use tarn_broker::server::Limits;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::Server;

/// Sends `text` and reads until the server ends the connection or `until` has come.
pub(crate) async fn talk(socket: &mut TcpStream, text: &str, until: &str) -> String {
    socket.write_all(text.as_bytes()).await.unwrap();
    let mut heard = Vec::new();
    let reading = async {
        loop {
            let mut buf = [0; 4096];
            match socket.read(&mut buf).await {
                Ok(0) | Err(_) => return,
                Ok(count) => heard.extend_from_slice(&buf[..count]),
            }
            if !until.is_empty() && String::from_utf8_lossy(&heard).contains(until) {
                return;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(10), reading)
        .await
        .expect("an answer in time");
    String::from_utf8(heard).unwrap().replace("\r\n", "\n")
}

pub(crate) async fn connect(server: &Server) -> TcpStream {
    let mut socket = TcpStream::connect(server.broker.client_addr()).await.unwrap();
    let info = talk(&mut socket, "", "\n").await;
    assert!(
        info.starts_with("INFO {\"server_id\":\"N") && info.contains("\"client_ip\":\"127.0.0.1\""),
        "{info}"
    );
    socket
}

#[tokio::test]
async fn a_conversation() {
    let server = Server::start().await;
    let mut socket = connect(&server).await;
    let heard = talk(
        &mut socket,
        "CONNECT {\"verbose\":true,\"pedantic\":true,\"headers\":true,\"no_responders\":true}\r\n\
         SUB a.> q 1\r\nPUB a.b r 5\r\nhello\r\nHPUB a.c 12 14\r\nNATS/1.0\r\n\r\nhi\r\n\
         SUB r 2\r\nPUB none r 0\r\n\r\nUNSUB 1\r\nPING\r\n",
        "PONG",
    )
    .await;
    expect![[r#"
        +OK
        +OK
        +OK
        MSG a.b 1 r 5
        hello
        +OK
        HMSG a.c 1 12 14
        NATS/1.0

        hi
        +OK
        +OK
        HMSG r 2 36 36
        NATS/1.0 503
        Nats-Subject: none


        +OK
        PONG
    "#]]
    .assert_eq(&heard);
    let heard = talk(&mut socket, "GET / HTTP/1.1\r\n", "").await;
    expect![[r#"
        -ERR 'Unknown Protocol Operation'
    "#]]
    .assert_eq(&heard);
}

#[tokio::test]
async fn a_payload_beyond_the_limit_ends_the_connection_before_it_is_sent() {
    let server = Server::start().await;
    let mut socket = connect(&server).await;
    let heard = talk(
        &mut socket,
        "CONNECT {\"verbose\":false}\r\nPUB a 1048577\r\n",
        "",
    )
    .await;
    assert_eq!(heard, "-ERR 'Maximum Payload Violation'\n");
}

#[tokio::test]
async fn a_silent_client_is_stale() {
    let limits = Limits {
        ping_interval: Duration::from_millis(50),
        ping_max: 1,
        ..Limits::default()
    };
    let server = Server::with_limits(limits).await;
    let mut socket = connect(&server).await;
    let heard = talk(&mut socket, "", "").await;
    assert_eq!(heard, "PING\n-ERR 'Stale Connection'\n");
    assert_eq!(server.broker.stats().stale_connections, 1);
}

#[tokio::test]
async fn one_connection_too_many() {
    let server = Server::with_limits(Limits {
        max_connections: 1,
        ..Limits::default()
    })
    .await;
    let _first = connect(&server).await;
    let mut second = TcpStream::connect(server.broker.client_addr()).await.unwrap();
    let heard = talk(&mut second, "", "").await;
    assert!(
        heard.starts_with("INFO ") && heard.ends_with("\n-ERR 'maximum connections exceeded'\n"),
        "{heard}"
    );
}

#[tokio::test]
async fn what_was_said_arrives_before_the_end() {
    let server = Server::start().await;
    let mut socket = connect(&server).await;
    let heard = talk(
        &mut socket,
        "CONNECT {\"verbose\":false}\r\nSUB a 1\r\nPING\r\n",
        "PONG",
    )
    .await;
    assert_eq!(heard, "PONG\n");
    let local = server.broker.local_client("test");
    let payload = "x".repeat(500_000);
    let message = tarn_broker::local::LocalMessage {
        subject: "a".into(),
        payload: payload.clone().into(),
        ..tarn_broker::local::LocalMessage::default()
    };
    local.publish(vec![message.clone(), message]).await;
    let (heard, ()) = tokio::join!(talk(&mut socket, "", ""), server.broker.shutdown());
    assert_eq!(heard, format!("MSG a 1 500000\n{payload}\n").repeat(2));
}
