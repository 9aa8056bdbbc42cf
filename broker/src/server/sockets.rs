//! Where a broker listens. All addresses are taken before anything else is done.

use std::net::SocketAddr;

use tokio::net::TcpListener;

use super::{BrokerConfig, StartError};

/// Listening sockets, with their addresses.
pub(super) struct Sockets {
    pub(super) client: TcpListener,
    pub(super) client_addr: SocketAddr,
    pub(super) websocket: Option<(TcpListener, SocketAddr)>,
    pub(super) monitor: Option<(TcpListener, SocketAddr)>,
    pub(super) monitor_tls: Option<(TcpListener, SocketAddr)>,
}

impl Sockets {
    pub(super) async fn bind(config: &BrokerConfig) -> Result<Self, StartError> {
        let (client, client_addr) = bind("nats.listen", &config.listen).await?;
        let websocket = config.websocket.as_ref().map(|ws| ws.listen.to_string());
        Ok(Self {
            client,
            client_addr,
            websocket: maybe("websocket.listen", websocket.as_deref()).await?,
            monitor: maybe("monitor.listen", config.monitor_listen.as_deref()).await?,
            monitor_tls: maybe("monitor.listen", config.monitor_tls_listen.as_deref()).await?,
        })
    }
}

async fn maybe(
    setting: &'static str,
    at: Option<&str>,
) -> Result<Option<(TcpListener, SocketAddr)>, StartError> {
    match at {
        Some(at) => bind(setting, at).await.map(Some),
        None => Ok(None),
    }
}

async fn bind(setting: &'static str, at: &str) -> Result<(TcpListener, SocketAddr), StartError> {
    let unusable = |source: std::io::Error| {
        let address = at.to_owned();
        if source.kind() == std::io::ErrorKind::AddrInUse {
            StartError::PortInUse { setting, address }
        } else {
            StartError::Listen {
                setting,
                address,
                source,
            }
        }
    };
    let listener = TcpListener::bind(at).await.map_err(unusable)?;
    let addr = listener.local_addr().map_err(unusable)?;
    Ok((listener, addr))
}
