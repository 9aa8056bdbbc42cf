//! The HTTP side: status page, health, metrics, and the Iceberg REST catalog under `/catalog`.

mod health;
mod metrics;
mod status;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::http::header::CONTENT_TYPE;
use axum::response::{Html, IntoResponse, Redirect};
use axum::routing::get;
use tarn_broker::server::Broker;
use tarn_processor::{Lake, Processor};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::mqtt::MqttServer;

/// How long open requests may take to end at shutdown.
const DRAIN_MAX: Duration = Duration::from_secs(5);

const STATUS_PAGE: &str = include_str!("../assets/status.html");

pub(crate) use health::processor_problem;

/// The parts that HTTP looks at. A part that doesn't run here is absent.
#[derive(Clone, Default)]
pub struct Parts {
    /// The broker.
    pub broker: Option<Arc<Broker>>,
    /// The processor.
    pub processor: Option<Arc<Processor>>,
    /// MQTT.
    pub mqtt: Option<Arc<MqttServer>>,
    /// The lake, whose catalog is served.
    pub lake: Option<Lake>,
}

/// HTTP can't listen.
#[derive(Debug, thiserror::Error)]
#[error(
    "HTTP can't listen on {listen}: {source}; free the port, or set http.listen (--http-listen) to another address"
)]
pub struct BindError {
    listen: String,
    source: io::Error,
}

impl BindError {
    /// Whether another process has the port.
    pub fn is_port_in_use(&self) -> bool {
        self.source.kind() == io::ErrorKind::AddrInUse
    }
}

/// What the handlers share.
struct State {
    parts: Parts,
    started: Instant,
}

/// The running HTTP side.
pub struct HttpServer {
    address: SocketAddr,
    stop: CancellationToken,
    tasks: JoinSet<io::Result<()>>,
}

impl HttpServer {
    /// Listens on `listen` and serves.
    pub async fn bind(listen: &str, parts: Parts) -> Result<HttpServer, BindError> {
        let failed = |source| BindError {
            listen: listen.to_owned(),
            source,
        };
        let listener = TcpListener::bind(listen).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let stop = CancellationToken::new();
        let router = router(parts);
        let mut tasks = JoinSet::new();
        let stopped = stop.clone().cancelled_owned();
        tasks.spawn(async move {
            axum::serve(listener, router)
                .with_graceful_shutdown(stopped)
                .await
        });
        Ok(HttpServer { address, stop, tasks })
    }

    /// Where it listens.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Stops accepting and waits, at most five seconds, for open requests.
    pub async fn shutdown(mut self) {
        self.stop.cancel();
        match tokio::time::timeout(DRAIN_MAX, self.tasks.join_next()).await {
            Ok(Some(Ok(Err(error)))) => warn!(%error, "HTTP did not stop in order"),
            Ok(_) => {}
            Err(_) => warn!("HTTP requests were still open after {} s", DRAIN_MAX.as_secs()),
        }
        self.tasks.shutdown().await;
    }
}

fn router(parts: Parts) -> Router {
    let catalog = parts.lake.as_ref().map(Lake::rest_router);
    let state = Arc::new(State {
        parts,
        started: Instant::now(),
    });
    let router = Router::new()
        .route("/", get(async || Html(STATUS_PAGE)))
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(health::readyz))
        .route("/metrics", get(serve_metrics))
        .route("/api/v1/status", get(status::status))
        .with_state(state);
    match catalog {
        Some(catalog) => router
            .route(
                "/catalog",
                get(async || Redirect::temporary("/catalog/v1/config")),
            )
            .nest("/catalog", catalog),
        None => router,
    }
}

async fn serve_metrics(state: axum::extract::State<Arc<State>>) -> impl IntoResponse {
    (
        [(CONTENT_TYPE, metrics::CONTENT_TYPE)],
        metrics::render(&state.parts),
    )
}
