//! How a broker goes without leaving its clients all at once. Source: nats-server, "Lame Duck Mode".

use std::sync::Arc;
use std::time::Duration;

use super::Broker;
use crate::nats::connections::Connection;
use crate::options::LameDuck;
use crate::outbound::CloseReason;

/// Between two connections that are closed there is at most this.
const PAUSE_MAX: Duration = Duration::from_secs(1);

impl Broker {
    /// Takes no more connections, tells the clients to go elsewhere, and after the grace period ends their connections one by
    /// one. Returns when they have gone; the broker is then to be shut down.
    pub async fn lame_duck(&self, how: LameDuck) {
        tracing::info!("Entering lame duck mode, stop accepting new clients");
        self.shared.lame_duck.cancel();
        let id = &self.shared.info.server_id;
        self.shared.events.about_server(id, "LAMEDUCK");
        let connections = self.shared.connections.all();
        if connections.is_empty() {
            return;
        }
        for connection in &connections {
            self.shared.tell_of_lame_duck(connection);
        }
        tokio::time::sleep(how.grace_period).await;
        tracing::info!("Closing existing clients");
        let rest = how.duration.saturating_sub(how.grace_period).max(PAUSE_MAX);
        let count = u32::try_from(connections.len()).unwrap_or(u32::MAX);
        let pause = (rest / count).min(PAUSE_MAX);
        close_one_by_one(&connections, pause).await;
    }
}

async fn close_one_by_one(connections: &[Arc<Connection>], pause: Duration) {
    for connection in connections {
        if connection.outbound.has_ended() {
            continue;
        }
        connection.outbound.finish(CloseReason::ServerShutdown);
        tokio::time::sleep(pause).await;
    }
}
