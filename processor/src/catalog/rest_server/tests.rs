use expect_test::{Expect, expect};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use super::*;
use crate::catalog::sqlite::SqliteCatalog;
use crate::storage::{LakeStorage, Warehouse};
use crate::tables::TableSpec;

struct Served {
    _dir: tempfile::TempDir,
    _tasks: JoinSet<()>,
    uri: String,
    client: reqwest::Client,
}

async fn served() -> Served {
    let dir = tempfile::tempdir().unwrap();
    let catalog = SqliteCatalog::open(&dir.path().join("catalog.db")).await.unwrap();
    let lake = Lake::over(LakeStorage::open(Warehouse::Memory).unwrap(), catalog);
    lake.ensure_table(&TableSpec::dead_letters()).await.unwrap();
    lake.ensure_table(&TableSpec::readings()).await.unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let uri = format!("http://{}/catalog", listener.local_addr().unwrap());
    let app = Router::new().nest("/catalog", lake.rest_router());
    let mut tasks = JoinSet::new();
    tasks.spawn(async move { axum::serve(listener, app).await.unwrap() });
    Served {
        _dir: dir,
        _tasks: tasks,
        uri,
        client: reqwest::Client::new(),
    }
}

impl Served {
    async fn ask(&self, method: &str, path: &str, body: &str) -> (u16, String) {
        let method = reqwest::Method::from_bytes(method.as_bytes()).unwrap();
        let request = self
            .client
            .request(method, format!("{}{path}", self.uri))
            .body(body.to_owned());
        let answer = request.send().await.unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    }

    async fn holds(&self, method: &str, path: &str, expected: Expect) {
        let (status, body) = self.ask(method, path, "{}").await;
        expected.assert_eq(&format!("{status} {body}"));
    }
}

#[tokio::test]
async fn config_advertises_exactly_the_routes() {
    let served = served().await;
    served.holds("GET", "/v1/config?warehouse=x", expect![[r#"200 {"defaults":{},"endpoints":["GET /v1/{prefix}/namespaces","GET /v1/{prefix}/namespaces/{namespace}","HEAD /v1/{prefix}/namespaces/{namespace}","GET /v1/{prefix}/namespaces/{namespace}/tables","GET /v1/{prefix}/namespaces/{namespace}/tables/{table}","HEAD /v1/{prefix}/namespaces/{namespace}/tables/{table}","POST /v1/{prefix}/namespaces/{namespace}/tables/{table}/metrics"],"overrides":{}}"#]]).await;
    for endpoint in ENDPOINTS {
        let (method, route) = endpoint.split_once(' ').unwrap();
        let path = route
            .replace("/{prefix}", "")
            .replace("{namespace}", "iot")
            .replace("{table}", "readings");
        let (status, body) = served.ask(method, &path, "{}").await;
        assert!(status == 200 || status == 204, "{endpoint}: {status} {body}");
    }
}

#[tokio::test]
async fn namespaces_and_tables_are_listed() {
    let served = served().await;
    served
        .holds(
            "GET",
            "/v1/namespaces",
            expect![[r#"200 {"namespaces":[["iot"]]}"#]],
        )
        .await;
    served
        .holds(
            "GET",
            "/v1/namespaces?parent=iot",
            expect![[r#"200 {"namespaces":[]}"#]],
        )
        .await;
    served.holds("GET", "/v1/namespaces?parent=none", expect![[r#"404 {"error":{"code":404,"message":"Namespace does not exist: none","type":"NoSuchNamespaceException"}}"#]]).await;
    served
        .holds(
            "GET",
            "/v1/namespaces/iot",
            expect![[r#"200 {"namespace":["iot"],"properties":{}}"#]],
        )
        .await;
    served.holds("HEAD", "/v1/namespaces/iot", expect!["204 "]).await;
    served.holds("GET", "/v1/namespaces/iot/tables", expect![[r#"200 {"identifiers":[{"name":"dead_letters","namespace":["iot"]},{"name":"readings","namespace":["iot"]}]}"#]]).await;
    served
        .holds("HEAD", "/v1/namespaces/iot/tables/readings", expect!["204 "])
        .await;
}

#[tokio::test]
async fn errors_have_the_specified_form() {
    let served = served().await;
    served.holds("GET", "/v1/namespaces/none", expect![[r#"404 {"error":{"code":404,"message":"Namespace does not exist: none","type":"NoSuchNamespaceException"}}"#]]).await;
    served.holds("HEAD", "/v1/namespaces/none", expect!["404 "]).await;
    served.holds("GET", "/v1/namespaces/none/tables", expect![[r#"404 {"error":{"code":404,"message":"Namespace does not exist: none","type":"NoSuchNamespaceException"}}"#]]).await;
    served.holds("GET", "/v1/namespaces/a%1Fb", expect![[r#"404 {"error":{"code":404,"message":"Namespace does not exist: a.b","type":"NoSuchNamespaceException"}}"#]]).await;
    served.holds("GET", "/v1/namespaces/iot/tables/none", expect![[r#"404 {"error":{"code":404,"message":"Table does not exist: iot.none","type":"NoSuchTableException"}}"#]]).await;
    served
        .holds("HEAD", "/v1/namespaces/iot/tables/none", expect!["404 "])
        .await;
    served.holds("GET", "/v1/namespaces/iot/tables/readings?snapshots=some", expect![[r#"400 {"error":{"code":400,"message":"snapshots=some is neither all nor refs","type":"BadRequestException"}}"#]]).await;
    served.holds("POST", "/v1/namespaces", expect![[r#"406 {"error":{"code":406,"message":"this catalog does not serve this operation: see the endpoints in /v1/config","type":"UnsupportedOperationException"}}"#]]).await;
    served.holds("POST", "/v1/namespaces/iot/tables", expect![[r#"406 {"error":{"code":406,"message":"this catalog does not serve this operation: see the endpoints in /v1/config","type":"UnsupportedOperationException"}}"#]]).await;
    served.holds("DELETE", "/v1/namespaces/iot/tables/readings", expect![[r#"406 {"error":{"code":406,"message":"this catalog does not serve this operation: see the endpoints in /v1/config","type":"UnsupportedOperationException"}}"#]]).await;
    served.holds("GET", "/v1/views", expect![[r#"404 {"error":{"code":404,"message":"this catalog has no such route","type":"NotFoundException"}}"#]]).await;
}

#[tokio::test]
async fn a_report_is_bounded() {
    let served = served().await;
    let path = "/v1/namespaces/iot/tables/readings/metrics";
    let (status, body) = served.ask("POST", path, "{}").await;
    assert_eq!((status, body.as_str()), (204, ""));
    let (status, body) = served.ask("POST", path, "no json").await;
    expect![[
        r#"400 {"error":{"code":400,"message":"a metrics report is JSON","type":"BadRequestException"}}"#
    ]]
    .assert_eq(&format!("{status} {body}"));
    let large = format!("\"{}\"", "x".repeat(BODY_BYTES_MAX));
    let (status, body) = served.ask("POST", path, &large).await;
    expect![[r#"413 {"error":{"code":413,"message":"a metrics report has at most 1048576 bytes","type":"BadRequestException"}}"#]].assert_eq(&format!("{status} {body}"));
}

#[tokio::test]
async fn a_table_is_answered_with_its_metadata_file() {
    let served = served().await;
    let (status, body) = served
        .ask("GET", "/v1/namespaces/iot/tables/readings?snapshots=all", "")
        .await;
    assert_eq!(status, 200, "{body}");
    let answer: Value = serde_json::from_str(&body).unwrap();
    let location = answer["metadata-location"].as_str().unwrap();
    assert!(
        location.starts_with("memory:///iot/readings/metadata/00000-"),
        "{location}"
    );
    let metadata: TableMetadata = serde_json::from_value(answer["metadata"].clone()).unwrap();
    assert_eq!(metadata.location(), "memory:///iot/readings");
}

#[test]
fn only_named_snapshots_are_left() {
    let text = r#"{"current-snapshot-id":3,"refs":{"main":{"snapshot-id":3,"type":"branch"},
        "kept":{"snapshot-id":1,"type":"tag"}},"snapshots":[{"snapshot-id":1},{"snapshot-id":2},{"snapshot-id":3}]}"#;
    let left: Value = serde_json::from_str(&snapshots_of_refs(text).unwrap()).unwrap();
    assert_eq!(left["snapshots"], json!([{"snapshot-id": 1}, {"snapshot-id": 3}]));
}
