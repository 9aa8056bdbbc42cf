//! Iceberg's REST catalog, reading side: config, namespaces, tables, load table, metrics reports.
//!
//! Source: `rest-catalog-open-api.yaml` of Apache Iceberg. What is served is exactly what `config` advertises, so
//! that clients leave out the rest; a request for something else is answered with Iceberg's error JSON.

use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{DefaultBodyLimit, Path, Query, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use iceberg::spec::TableMetadata;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::lake::Lake;

/// The largest request body that is read.
const BODY_BYTES_MAX: usize = 1024 * 1024;

/// What `config` advertises, in the form of the specification.
const ENDPOINTS: [&str; 7] = [
    "GET /v1/{prefix}/namespaces",
    "GET /v1/{prefix}/namespaces/{namespace}",
    "HEAD /v1/{prefix}/namespaces/{namespace}",
    "GET /v1/{prefix}/namespaces/{namespace}/tables",
    "GET /v1/{prefix}/namespaces/{namespace}/tables/{table}",
    "HEAD /v1/{prefix}/namespaces/{namespace}/tables/{table}",
    "POST /v1/{prefix}/namespaces/{namespace}/tables/{table}/metrics",
];

/// What a compressed metadata file starts with.
const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];

/// Levels of a namespace are parted by this character in a path.
const LEVEL_SEPARATOR: char = '\u{1f}';

/// The routes below `/v1`.
pub(super) fn router(lake: Lake) -> Router {
    let namespace = "/v1/namespaces/{namespace}";
    let table = "/v1/namespaces/{namespace}/tables/{table}";
    Router::new()
        .route("/v1/config", get(config))
        .route("/v1/namespaces", get(list_namespaces))
        .route(namespace, get(get_namespace).head(head_namespace))
        .route(&format!("{namespace}/tables"), get(list_tables))
        .route(table, get(load_table).head(head_table))
        .route(&format!("{table}/metrics"), post(report_metrics))
        .fallback(unknown_route)
        .method_not_allowed_fallback(not_served)
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .with_state(lake)
}

async fn config() -> Json<Value> {
    Json(json!({ "defaults": {}, "overrides": {}, "endpoints": ENDPOINTS }))
}

#[derive(Deserialize)]
struct ListNamespaces {
    parent: Option<String>,
}

async fn list_namespaces(
    State(lake): State<Lake>,
    Query(query): Query<ListNamespaces>,
) -> Result<Json<Value>, Refusal> {
    let all = lake.inner.catalog.namespaces().await.map_err(Refusal::internal)?;
    let parent = query
        .parent
        .filter(|parent| !parent.is_empty())
        .map(|parent| dotted(&parent));
    if let Some(parent) = &parent
        && !all.iter().any(|name| is_below(name, parent) || name == parent)
    {
        return Err(Refusal::no_such_namespace(parent));
    }
    let depth = parent.as_ref().map_or(0, |parent| parent.split('.').count());
    let mut found: Vec<Vec<&str>> = all
        .iter()
        .filter(|name| parent.as_ref().is_none_or(|parent| is_below(name, parent)))
        .map(|name| name.split('.').take(depth + 1).collect())
        .collect();
    found.sort_unstable();
    found.dedup();
    Ok(Json(json!({ "namespaces": found })))
}

fn is_below(name: &str, parent: &str) -> bool {
    name.strip_prefix(parent)
        .is_some_and(|rest| rest.starts_with('.'))
}

async fn get_namespace(
    State(lake): State<Lake>,
    Path(namespace): Path<String>,
) -> Result<Json<Value>, Refusal> {
    let namespace = existing_namespace(&lake, &namespace).await?;
    let properties = lake
        .inner
        .catalog
        .namespace_properties(&namespace)
        .await
        .map_err(Refusal::internal)?;
    let properties: Value = properties
        .into_iter()
        .map(|(key, value)| (key, Value::from(value)))
        .collect();
    Ok(Json(
        json!({ "namespace": namespace.split('.').collect::<Vec<_>>(), "properties": properties }),
    ))
}

async fn head_namespace(
    State(lake): State<Lake>,
    Path(namespace): Path<String>,
) -> Result<StatusCode, Refusal> {
    existing_namespace(&lake, &namespace).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn list_tables(
    State(lake): State<Lake>,
    Path(namespace): Path<String>,
) -> Result<Json<Value>, Refusal> {
    let namespace = existing_namespace(&lake, &namespace).await?;
    let tables = lake
        .inner
        .catalog
        .tables(&namespace)
        .await
        .map_err(Refusal::internal)?;
    let levels: Vec<&str> = namespace.split('.').collect();
    let identifiers: Vec<Value> = tables
        .iter()
        .map(|name| json!({ "namespace": levels, "name": name }))
        .collect();
    Ok(Json(json!({ "identifiers": identifiers })))
}

#[derive(Deserialize)]
struct LoadTable {
    snapshots: Option<String>,
}

/// The answer to "load table". The metadata is the file's own text wherever that is possible.
#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct LoadedTable {
    metadata_location: String,
    metadata: Box<RawValue>,
    config: Value,
}

async fn load_table(
    State(lake): State<Lake>,
    Path((namespace, table)): Path<(String, String)>,
    Query(query): Query<LoadTable>,
) -> Result<Json<LoadedTable>, Refusal> {
    let only_refs = match query.snapshots.as_deref() {
        None | Some("" | "all") => false,
        Some("refs") => true,
        Some(other) => {
            return Err(Refusal::bad_request(&format!(
                "snapshots={other} is neither all nor refs"
            )));
        }
    };
    let namespace = dotted(&namespace);
    let (metadata_location, text) = read_metadata(&lake, &namespace, &table).await?;
    let text = if only_refs {
        snapshots_of_refs(&text).map_err(Refusal::internal)?
    } else {
        text
    };
    let metadata = RawValue::from_string(text).map_err(Refusal::internal)?;
    Ok(Json(LoadedTable {
        metadata_location,
        metadata,
        config: json!({}),
    }))
}

/// The table's metadata file and its text.
async fn read_metadata(lake: &Lake, namespace: &str, table: &str) -> Result<(String, String), Refusal> {
    let mut location = pointer(lake, namespace, table).await?;
    loop {
        let error = match metadata_text(lake, &location).await {
            Ok(text) => return Ok((location, text)),
            Err(error) => error,
        };
        // Ten commits in the meantime delete the file that the catalog pointed at.
        let now = pointer(lake, namespace, table).await?;
        if now == location {
            return Err(error);
        }
        location = now;
    }
}

async fn metadata_text(lake: &Lake, location: &str) -> Result<String, Refusal> {
    let bytes = lake
        .inner
        .storage
        .get(location)
        .await
        .map_err(Refusal::internal)?;
    if !bytes.starts_with(&GZIP_MAGIC) {
        return String::from_utf8(bytes.into()).map_err(Refusal::internal);
    }
    let read = TableMetadata::read_from(&lake.inner.file_io, location).await;
    serde_json::to_string(&read.map_err(Refusal::internal)?).map_err(Refusal::internal)
}

/// Keeps the snapshots that a branch or tag names.
fn snapshots_of_refs(text: &str) -> serde_json::Result<String> {
    let mut metadata: Value = serde_json::from_str(text)?;
    let refs = metadata.get("refs").and_then(Value::as_object);
    let mut named: Vec<Value> = refs
        .into_iter()
        .flatten()
        .filter_map(|(_, name)| name.get("snapshot-id").cloned())
        .collect();
    named.extend(metadata.get("current-snapshot-id").cloned());
    if let Some(snapshots) = metadata.get_mut("snapshots").and_then(Value::as_array_mut) {
        snapshots.retain(|snapshot| snapshot.get("snapshot-id").is_some_and(|id| named.contains(id)));
    }
    serde_json::to_string(&metadata)
}

async fn head_table(
    State(lake): State<Lake>,
    Path((namespace, table)): Path<(String, String)>,
) -> Result<StatusCode, Refusal> {
    pointer(&lake, &dotted(&namespace), &table).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Accepts a client's report of a scan and drops it.
async fn report_metrics(
    State(lake): State<Lake>,
    Path((namespace, table)): Path<(String, String)>,
    body: Result<Bytes, BytesRejection>,
) -> Result<StatusCode, Refusal> {
    let body = body.map_err(|error| Refusal {
        status: error.status(),
        kind: "BadRequestException",
        message: format!("a metrics report has at most {BODY_BYTES_MAX} bytes"),
    })?;
    if serde_json::from_slice::<&RawValue>(&body).is_err() {
        return Err(Refusal::bad_request("a metrics report is JSON"));
    }
    pointer(&lake, &dotted(&namespace), &table).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn unknown_route() -> Refusal {
    Refusal {
        status: StatusCode::NOT_FOUND,
        kind: "NotFoundException",
        message: "this catalog has no such route".to_owned(),
    }
}

async fn not_served() -> Refusal {
    Refusal {
        status: StatusCode::NOT_ACCEPTABLE,
        kind: "UnsupportedOperationException",
        message: "this catalog does not serve this operation: see the endpoints in /v1/config".to_owned(),
    }
}

fn dotted(namespace: &str) -> String {
    namespace.replace(LEVEL_SEPARATOR, ".")
}

async fn existing_namespace(lake: &Lake, namespace: &str) -> Result<String, Refusal> {
    let namespace = dotted(namespace);
    let all = lake.inner.catalog.namespaces().await.map_err(Refusal::internal)?;
    if all
        .iter()
        .any(|name| *name == namespace || is_below(name, &namespace))
    {
        Ok(namespace)
    } else {
        Err(Refusal::no_such_namespace(&namespace))
    }
}

async fn pointer(lake: &Lake, namespace: &str, table: &str) -> Result<String, Refusal> {
    let pointer = lake
        .inner
        .catalog
        .pointer(namespace, table)
        .await
        .map_err(Refusal::internal)?;
    pointer.ok_or_else(|| Refusal {
        status: StatusCode::NOT_FOUND,
        kind: "NoSuchTableException",
        message: format!("Table does not exist: {namespace}.{table}"),
    })
}

/// An error in the form of the specification: `{"error": {"message", "type", "code"}}`.
struct Refusal {
    status: StatusCode,
    kind: &'static str,
    message: String,
}

impl Refusal {
    fn no_such_namespace(namespace: &str) -> Self {
        Self {
            status: StatusCode::NOT_FOUND,
            kind: "NoSuchNamespaceException",
            message: format!("Namespace does not exist: {namespace}"),
        }
    }

    fn bad_request(message: &str) -> Self {
        Self {
            status: StatusCode::BAD_REQUEST,
            kind: "BadRequestException",
            message: message.to_owned(),
        }
    }

    fn internal(error: impl std::fmt::Display) -> Self {
        Self {
            status: StatusCode::INTERNAL_SERVER_ERROR,
            kind: "InternalServerError",
            message: error.to_string(),
        }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let Self {
            status,
            kind,
            message,
        } = self;
        let body = json!({ "error": { "message": message, "type": kind, "code": status.as_u16() } });
        let json = HeaderValue::from_static("application/json");
        (status, [(header::CONTENT_TYPE, json)], body.to_string()).into_response()
    }
}

#[cfg(test)]
mod tests;
