//! The broker over real sockets: with the `async-nats` client, and byte by byte.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod auth;
mod backup;
mod callout;
mod consumers;
mod core;
mod external;
mod features;
mod jetstream;
mod latency;
mod leaving;
mod monitor;
mod operator;
mod push;
mod security;
mod sharing;
mod streams;
mod system;
mod tls;
mod websocket;
mod wire;

use std::path::{Path, PathBuf};

use tarn_broker::server::{Broker, BrokerConfig, Limits};
use tempfile::TempDir;

/// A broker on free ports, with its directory.
#[derive(Debug)]
struct Server {
    broker: Broker,
    dir: TempDir,
}

impl Server {
    async fn start() -> Self {
        Self::with_limits(Limits::default()).await
    }

    async fn with_limits(limits: Limits) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut config = config(dir.path());
        config.limits = limits;
        Self {
            broker: Broker::start(config).await.unwrap(),
            dir,
        }
    }

    async fn client(&self) -> async_nats::Client {
        async_nats::connect(self.broker.client_addr().to_string())
            .await
            .unwrap()
    }

    fn store_dir(&self) -> PathBuf {
        self.dir.path().join("store")
    }

    /// Stops the broker in order and starts another on the same directory.
    async fn restart(self) -> Self {
        let Self { broker, dir } = self;
        broker.shutdown().await;
        Self {
            broker: Broker::start(config(dir.path())).await.unwrap(),
            dir,
        }
    }
}

fn config(dir: &Path) -> BrokerConfig {
    let mut config = BrokerConfig::new(dir.join("store"), "127.0.0.1:0");
    config.monitor_listen = Some("127.0.0.1:0".to_owned());
    config
}
