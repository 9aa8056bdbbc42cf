//! The MQTT front end over a broker made for tests, which can hold back and refuse; and over the real one.

mod broker;
mod clients;
mod delivery;
mod fake;
mod kill;
mod publish;
mod raw;
mod session;

use std::sync::Arc;
use std::time::Duration;

use tarn::mqtt::{MqttConfig, MqttServer};

use fake::FakeBroker;

/// A front end on a free port over a test broker.
async fn start(change: impl FnOnce(&mut MqttConfig)) -> (MqttServer, FakeBroker) {
    let mut config = MqttConfig {
        listen: "127.0.0.1:0".to_owned(),
        ..MqttConfig::default()
    };
    change(&mut config);
    let broker = FakeBroker::default();
    let server = MqttServer::bind(config, Arc::new(broker.clone()))
        .await
        .expect("a free port");
    (server, broker)
}

/// Waits for what comes by itself.
async fn until(condition: impl Fn() -> bool) {
    let wait = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), wait)
        .await
        .expect("the condition in time");
}
