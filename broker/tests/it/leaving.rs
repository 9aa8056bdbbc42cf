//! A server that goes while its clients are connected.

use std::time::Duration;

use async_nats::{ConnectOptions, Event};
use tarn_broker::options::LameDuck;
use tokio::net::TcpStream;
use tokio::sync::mpsc;

use crate::Server;
use crate::auth::client_of;
use crate::sharing::configured;
use crate::wire::{connect, talk};

const PATIENCE: Duration = Duration::from_secs(20);

#[tokio::test]
async fn a_lame_duck_tells_its_clients_and_ends_them_one_by_one() {
    let Server { broker, dir } = configured(
        "jetstream {}\naccounts { $SYS { users: [{user: sys, password: sys}] }\n\
         A { jetstream: enabled, users: [{user: a, password: a}] } }",
    )
    .await;
    let server = Server { broker, dir };
    let sys = client_of(&server, "sys").await;
    let mut told = sys.subscribe("$SYS.SERVER.*.LAMEDUCK").await.unwrap();
    crate::sharing::settle(&sys).await;
    let (sender, mut events) = mpsc::channel(64);
    let client = ConnectOptions::with_user_and_password("a".to_owned(), "a".to_owned())
        .event_callback(move |event| {
            let sender = sender.clone();
            async move { sender.send(event).await.unwrap_or_default() }
        })
        .connect(server.broker.client_addr().to_string())
        .await
        .unwrap();
    let context = async_nats::jetstream::new(client.clone());
    let stream = async_nats::jetstream::stream::Config {
        name: "S".to_owned(),
        subjects: vec!["s".to_owned()],
        ..Default::default()
    };
    context.create_stream(stream).await.unwrap();
    let mut plain = connect(&server).await;
    let hello = "CONNECT {\"verbose\":false,\"user\":\"a\",\"pass\":\"a\"}\r\nPING\r\n";
    assert_eq!(talk(&mut plain, hello, "PONG").await, "PONG\n");
    let how = LameDuck {
        duration: Duration::from_secs(1),
        grace_period: Duration::from_millis(500),
    };
    let leaving = server.broker.lame_duck(how);
    tokio::pin!(leaving);
    let told_and_served = async {
        use futures::StreamExt;
        told.next().await.unwrap();
        while events.recv().await.unwrap() != Event::LameDuckMode {}
        // Who is still there is still served, and nobody else comes in.
        context.publish("s", "m".into()).await.unwrap().await.unwrap();
        assert!(TcpStream::connect(server.broker.client_addr()).await.is_err());
    };
    tokio::select! {
        () = &mut leaving => panic!("it left before anybody was told"),
        told = tokio::time::timeout(PATIENCE, told_and_served) => told.unwrap(),
    }
    tokio::time::timeout(PATIENCE, leaving).await.unwrap();
    let heard = talk(&mut plain, "", "").await;
    assert!(heard.contains("\"ldm\":true"), "{heard}");
    while tokio::time::timeout(PATIENCE, events.recv())
        .await
        .unwrap()
        .unwrap()
        != Event::Disconnected
    {}
}
