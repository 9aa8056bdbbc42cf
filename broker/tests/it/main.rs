//! The broker over real sockets: with the `async-nats` client, and byte by byte.

mod core;
mod monitor;
mod wire;

use tarn_broker::server::{Broker, BrokerConfig, Limits};
use tempfile::TempDir;

/// A broker on free ports, with its directory.
struct Server {
    broker: Broker,
    _dir: TempDir,
}

impl Server {
    async fn start() -> Self {
        Self::with_limits(Limits::default()).await
    }

    async fn with_limits(limits: Limits) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut config = BrokerConfig::new(dir.path().join("store"), "127.0.0.1:0");
        config.monitor_listen = Some("127.0.0.1:0".to_owned());
        config.limits = limits;
        Self {
            broker: Broker::start(config).await.unwrap(),
            _dir: dir,
        }
    }

    async fn client(&self) -> async_nats::Client {
        async_nats::connect(self.broker.client_addr().to_string())
            .await
            .unwrap()
    }
}
