//! A fleet against the real nats-server, which is killed and started again meanwhile.

use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use async_nats::jetstream::consumer::{AckPolicy, pull};
use async_nats::jetstream::{self, stream};
use futures::StreamExt as _;
use tarn_simulators::{FleetConfig, Protocol};

use crate::{Stored, config, verify};

/// Killed when it is dropped.
struct Server(Child);

impl Server {
    fn start(port: u16, folder: &Path) -> Self {
        let mut command = Command::new("nats-server");
        command
            .args(["-a", "127.0.0.1", "-p", &port.to_string(), "-js", "-sd"])
            .arg(folder);
        Self(
            command
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .expect("nats-server is on PATH"),
        )
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

async fn connect(url: &str) -> jetstream::Context {
    let options = async_nats::ConnectOptions::new().retry_on_initial_connect();
    let client = options.connect(url).await.unwrap();
    client.flush().await.unwrap();
    jetstream::new(client)
}

async fn read_all(context: &jetstream::Context) -> Vec<Stored> {
    let mut stream = context.get_stream("SENSORS").await.unwrap();
    let count = stream.info().await.unwrap().state.messages;
    let consumer_config = pull::Config {
        ack_policy: AckPolicy::None,
        ..pull::Config::default()
    };
    let consumer = stream.create_consumer(consumer_config).await.unwrap();
    let messages = consumer
        .messages()
        .await
        .unwrap()
        .take(usize::try_from(count).unwrap());
    messages
        .map(|message| message.unwrap())
        .map(|message| Stored {
            subject: message.subject.to_string(),
            payload: message.payload.to_vec(),
        })
        .collect()
        .await
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs nats-server on PATH"]
async fn every_message_arrives_once_over_nats_although_the_server_is_killed() {
    let folder = tempfile::tempdir().unwrap();
    let ledger = folder.path().join("ledger");
    let port = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let url = format!("nats://127.0.0.1:{port}");
    let mut server = Some(Server::start(port, folder.path()));
    let context = connect(&url).await;
    let subjects = vec!["sensors.>".to_owned(), "iot.>".to_owned()];
    let stream_config = stream::Config {
        name: "SENSORS".into(),
        subjects,
        ..stream::Config::default()
    };
    context.create_stream(stream_config).await.unwrap();

    let config = FleetConfig {
        nats_url: url.clone(),
        duration: Duration::from_secs(4),
        ..config(Protocol::Nats, &ledger)
    };
    let mut kills = 0;
    let report = tarn_simulators::run(config, |progress| {
        if progress.acked > 1_000 * (kills + 1) && kills < 3 {
            kills += 1;
            drop(server.take());
            server = Some(Server::start(port, folder.path()));
        }
    });
    let report = report.await.unwrap();
    assert_eq!(
        (kills, report.progress.sent, report.unacked),
        (3, 8_000, 0),
        "{report:?}"
    );
    assert!(report.progress.disconnects >= 3 * 2, "{report:?}");
    // The answer to a duplicate may get lost with the server that was killed.
    let (recognised, duplicated) = (report.progress.recognised, report.progress.duplicated);
    assert!(recognised > 0 && recognised <= duplicated, "{report:?}");
    assert_eq!(report.progress.taken_anew, 0, "{report:?}");
    let verdict = verify(&ledger, &read_all(&connect(&url).await).await);
    assert!(verdict.holds(), "{verdict}");
    assert_eq!((verdict.sent, verdict.acked), (8_000, 8_000));
}
