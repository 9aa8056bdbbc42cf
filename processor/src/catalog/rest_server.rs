//! Iceberg's REST catalog, reading side.

use axum::Router;

use super::Lake;

pub(super) fn router(lake: Lake) -> Router {
    Router::new().with_state(lake)
}
