//! Whole fleets against servers that break: what comes out is decoded and held against the ledger.

#![expect(clippy::unwrap_used, reason = "what fails in a test is to panic")]

mod mqtt_server;
mod nats;

use std::path::Path;
use std::time::Duration;

use mqtt_server::{Behaviour, MqttServer};
use tarn_schemas::{Decoder, Reading, UnixMicros};
use tarn_simulators::{
    Faults, FleetConfig, FleetReport, Protocol, StoredDeadLetter, StoredReading, Verdict, Verification,
};

const START: UnixMicros = UnixMicros(1_752_575_400_000_000);

/// A message as a stream holds it.
struct Stored {
    subject: String,
    payload: Vec<u8>,
}

/// Makes tables of what a server stored, and holds them against the ledger.
fn verify(ledger: &Path, stored: &[Stored]) -> Verdict {
    let mut verification = Verification::load(ledger).unwrap();
    let decoder = Decoder::default();
    for message in stored {
        let mut readings: Vec<Reading> = Vec::new();
        match decoder.decode(&message.subject, &message.payload, START, &mut readings) {
            Ok(()) => readings.iter().for_each(|reading| {
                verification.reading(&StoredReading {
                    device_id: &reading.device_id,
                    sensor: &reading.sensor,
                    metric: &reading.metric,
                    ts: reading.ts,
                    value: reading.value,
                    text: reading.text.as_deref(),
                });
            }),
            Err(refusal) => verification.dead_letter(&StoredDeadLetter {
                subject: &message.subject,
                payload: &message.payload,
                reason: refusal.reason.as_str(),
            }),
        }
    }
    verification.finish()
}

fn config(protocol: Protocol, ledger: &Path) -> FleetConfig {
    FleetConfig {
        devices: 12,
        rate: 2_000.0,
        duration: Duration::from_secs(2),
        protocol,
        seed: 11,
        start: Some(START),
        ledger: Some(ledger.to_owned()),
        faults: Faults::TYPICAL,
        mqtt_connections_max: 3,
        nats_connections_max: 2,
        ..FleetConfig::default()
    }
}

async fn run_against(server: &MqttServer, protocol: Protocol, ledger: &Path) -> FleetReport {
    let config = FleetConfig {
        mqtt_url: server.url(),
        ..config(protocol, ledger)
    };
    tarn_simulators::run(config, |_| {}).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_message_arrives_once_over_mqtt() {
    for protocol in [Protocol::Mqtt, Protocol::Mqtt5] {
        let folder = tempfile::tempdir().unwrap();
        let ledger = folder.path().join("ledger");
        let server = MqttServer::start(protocol == Protocol::Mqtt5, Behaviour::default()).await;
        let report = run_against(&server, protocol, &ledger).await;
        let (progress, stored) = (report.progress, server.stored());
        assert_eq!((progress.sent, progress.acked, report.unacked), (4_000, 4_000, 0));
        assert_eq!(progress.connections, 0, "all said goodbye");
        assert!(
            progress.duplicated > 0,
            "connections were broken on purpose: {progress:?}"
        );
        assert!(
            server.duplicates() >= progress.duplicated / 2,
            "they came with DUP"
        );
        let verdict = verify(&ledger, &stored);
        assert!(verdict.holds(), "{verdict}");
        assert_eq!((verdict.sent, verdict.acked), (4_000, 4_000));
        assert!(
            verdict.dead_expected > 10 && verdict.expected > 4_000,
            "{verdict}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_breaks_loses_nothing_that_it_acknowledged() {
    let folder = tempfile::tempdir().unwrap();
    let ledger = folder.path().join("ledger");
    let behaviour = Behaviour {
        close_after: Some(97),
        forget_unacked: true,
        ..Behaviour::default()
    };
    let server = MqttServer::start(false, behaviour).await;
    let report = run_against(&server, Protocol::Mqtt, &ledger).await;
    assert_eq!((report.progress.sent, report.unacked), (4_000, 0), "{report:?}");
    assert!(report.progress.disconnects > 30, "{report:?}");
    assert!(report.progress.resent > 0, "{report:?}");
    let verdict = verify(&ledger, &server.stored());
    assert!(verdict.holds(), "{verdict}");
}

/// The test of the test: a server that acknowledges what it doesn't keep is found out.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_lies_is_found_out() {
    let folder = tempfile::tempdir().unwrap();
    let ledger = folder.path().join("ledger");
    let server = MqttServer::start(
        false,
        Behaviour {
            lose_every: Some(500),
            ..Behaviour::default()
        },
    )
    .await;
    let report = run_against(&server, Protocol::Mqtt, &ledger).await;
    assert_eq!(report.unacked, 0);
    let verdict = verify(&ledger, &server.stored());
    assert!(
        !verdict.holds() && verdict.lost + verdict.dead_lost >= 7,
        "{verdict}"
    );
    assert_eq!((verdict.doubled, verdict.unknown_rows), (0, 0), "{verdict}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_away_is_waited_for_and_then_given_up() {
    let folder = tempfile::tempdir().unwrap();
    let ledger = folder.path().join("ledger");
    let server = MqttServer::start(false, Behaviour::default()).await;
    let url = server.url();
    drop(server);
    let config = FleetConfig {
        mqtt_url: url,
        drain: Duration::from_millis(300),
        duration: Duration::from_millis(100),
        ..config(Protocol::Mqtt, &ledger)
    };
    let report = tarn_simulators::run(config, |_| {}).await.unwrap();
    let sent = report.progress.sent;
    assert_eq!((report.progress.acked, report.unacked), (0, sent));
    assert!(
        (1..=200).contains(&sent) && report.elapsed >= Duration::from_millis(400),
        "{report:?}"
    );
    assert!(report.progress.last_error.unwrap().contains("refused"));
    let verdict = verify(&ledger, &[]);
    assert!(verdict.holds(), "nothing was promised: {verdict}");
    assert_eq!((verdict.sent, verdict.acked), (sent, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fleet_can_be_stopped() {
    let folder = tempfile::tempdir().unwrap();
    let ledger = folder.path().join("ledger");
    let server = MqttServer::start(false, Behaviour::default()).await;
    let config = FleetConfig {
        mqtt_url: server.url(),
        duration: Duration::from_secs(3_600),
        ..config(Protocol::Mqtt, &ledger)
    };
    let stop = config.stop.clone();
    let report = tarn_simulators::run(config, move |progress| {
        if progress.acked > 100 {
            stop.cancel();
        }
    });
    let report = report.await.unwrap();
    assert!(report.progress.sent < report.progress.total);
    assert_eq!(report.unacked, 0);
    let verdict = verify(&ledger, &server.stored());
    assert!(verdict.holds(), "{verdict}");
}
