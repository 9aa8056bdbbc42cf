//! The configuration of accounts that tools expect, what the system account answers, and monitoring of accounts.

use std::time::Duration;

use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy, pull};
use async_nats::jetstream::stream::{Config, StorageType};
use async_nats::jetstream::{self, kv};
use futures::StreamExt;
use serde_json::Value;
use tarn_broker::options::{AccountJetStream, AccountOptions, AuthOptions, JetStreamTier, SYSTEM_ACCOUNT};

use crate::Server;
use crate::auth::{client_of, server, user};
use crate::monitor::get;
use crate::sharing::{configured, options_of};

/// `accounts { $SYS { users: [sys] }, NOETL { jetstream: enabled, users: [noetl] }, PLAIN { users: [plain] } }`
async fn with_noetl(tier: JetStreamTier) -> Server {
    let account = |name: &str, jetstream: Option<AccountJetStream>| AccountOptions {
        name: name.to_owned(),
        jetstream,
        ..AccountOptions::default()
    };
    server(AuthOptions {
        users: vec![
            user("sys", SYSTEM_ACCOUNT, None),
            user("noetl", "NOETL", None),
            user("plain", "PLAIN", None),
        ],
        accounts: vec![
            account(SYSTEM_ACCOUNT, None),
            account("NOETL", Some(AccountJetStream { tier })),
            account("PLAIN", None),
        ],
        ..AuthOptions::default()
    })
    .await
}

async fn ask(client: &async_nats::Client, subject: &str, payload: &str) -> Value {
    let answer = client
        .request(subject.to_owned(), payload.to_owned().into())
        .await
        .unwrap_or_else(|err| panic!("{subject}: {err}"));
    serde_json::from_slice(&answer.payload).unwrap()
}

async fn json(server: &Server, path: &str) -> Value {
    let (status, body) = get(server, path).await;
    assert_eq!(status, 200, "{path}: {body}");
    serde_json::from_str(&body).unwrap()
}

#[tokio::test]
async fn only_the_account_with_jetstream_may_use_it() {
    let server = with_noetl(JetStreamTier::default()).await;
    let noetl = client_of(&server, "noetl").await;
    let jetstream = jetstream::new(noetl.clone());
    let bucket = kv::Config {
        bucket: "sessions".to_owned(),
        max_age: Duration::from_millis(300),
        ..Default::default()
    };
    let sessions = jetstream.create_key_value(bucket).await.unwrap();
    sessions.put("one", "1".into()).await.unwrap();
    assert_eq!(sessions.get("one").await.unwrap().as_deref(), Some(&b"1"[..]));
    for subject in ["auth", "compute", "gateway", "sfs", "notify"] {
        let config = Config {
            name: subject.to_uppercase(),
            subjects: vec![format!("{subject}.>")],
            max_age: Duration::from_secs(7 * 24 * 3600),
            duplicate_window: Duration::from_secs(120),
            ..Default::default()
        };
        jetstream.create_stream(config).await.unwrap();
    }
    let events = Config {
        name: "EVENTS".to_owned(),
        subjects: vec!["events.>".to_owned()],
        storage: StorageType::Memory,
        max_age: Duration::from_secs(3600),
        ..Default::default()
    };
    jetstream.create_stream(events).await.unwrap();
    let mut headers = async_nats::HeaderMap::new();
    headers.insert("Nats-Msg-Id", "m1");
    for duplicate in [false, true] {
        let ack = jetstream
            .publish_with_headers("auth.login", headers.clone(), "x".into())
            .await
            .unwrap();
        assert_eq!(ack.await.unwrap().duplicate, duplicate);
    }
    jetstream
        .publish("auth.logout", "y".into())
        .await
        .unwrap()
        .await
        .unwrap();
    let stream = jetstream.get_stream("AUTH").await.unwrap();
    let last: Vec<String> = messages(&stream, DeliverPolicy::LastPerSubject, "auth.>").await;
    assert_eq!(last, ["auth.login", "auth.logout"]);
    let start_time = stream.get_raw_message(2).await.unwrap().time;
    let replayed = messages(&stream, DeliverPolicy::ByStartTime { start_time }, "auth.logout").await;
    assert_eq!(replayed, ["auth.logout"]);
    let gone = async {
        while sessions.get("one").await.unwrap().is_some() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), gone).await.unwrap();

    let plain = client_of(&server, "plain").await;
    let refused = ask(&plain, "$JS.API.INFO", "").await;
    assert_eq!(refused["error"]["err_code"], 10039, "{refused}");
    let sys = client_of(&server, "sys").await;
    for (client, subject) in [
        (&plain, "$JS.API.STREAM.NAMES"),
        (&plain, "$JS.API.CONSUMER.INFO.S.C"),
        (&sys, "$JS.API.INFO"),
        (&sys, "$JS.API.STREAM.NAMES"),
    ] {
        let refused = ask(client, subject, "").await;
        assert_eq!(refused["error"]["err_code"], 10039, "{subject}: {refused}");
    }
    let next = plain.request("$JS.API.CONSUMER.MSG.NEXT.S.C", "".into()).await;
    let refused = next.unwrap_err().kind();
    assert_eq!(refused, async_nats::RequestErrorKind::NoResponders);
    let mut consumer = Value::Null;
    // Two messages are on their way to the consumer.
    let shown = async {
        while consumer["num_ack_pending"] != 2 {
            let jsz = json(&server, "/jsz?acc=NOETL&consumers=true&config=true").await;
            let streams = jsz["account_details"][0]["stream_detail"]
                .as_array()
                .unwrap()
                .clone();
            let auth = streams.iter().find(|stream| stream["name"] == "AUTH");
            consumer = auth.map_or(Value::Null, |stream| {
                let consumers = stream["consumer_detail"].as_array().unwrap();
                let found = consumers.iter().find(|consumer| consumer["name"] == "C6");
                found.cloned().unwrap_or_default()
            });
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), shown)
        .await
        .unwrap();
    assert_eq!(
        (&consumer["num_pending"], &consumer["config"]["max_deliver"]),
        (&0.into(), &5.into()),
        "{consumer}"
    );
}

/// The subjects that a consumer of this policy gets; it waits 30 s for acknowledgements and delivers 5 times.
async fn messages(
    stream: &jetstream::stream::Stream,
    deliver_policy: DeliverPolicy,
    filter: &str,
) -> Vec<String> {
    let consumer = stream
        .create_consumer(pull::Config {
            durable_name: Some(format!("C{}", filter.len())),
            deliver_policy,
            ack_policy: AckPolicy::Explicit,
            ack_wait: Duration::from_secs(30),
            max_deliver: 5,
            filter_subject: filter.to_owned(),
            ..Default::default()
        })
        .await
        .unwrap();
    let mut batch = consumer.fetch().max_messages(10).messages().await.unwrap();
    let mut subjects = Vec::new();
    while let Some(message) = batch.next().await {
        subjects.push(message.unwrap().subject.to_string());
    }
    subjects
}

#[tokio::test]
async fn an_account_keeps_within_its_limits() {
    let server = with_noetl(JetStreamTier {
        max_file_bytes: Some(10_000),
        max_streams: Some(2),
        max_ack_pending: Some(10),
        file_max_stream_bytes: Some(6_000),
        max_bytes_required: true,
        ..JetStreamTier::default()
    })
    .await;
    let client = client_of(&server, "noetl").await;
    let create = |name: &str, max_bytes: i64| {
        let config = format!(r#"{{"name":"{name}","subjects":["{name}"],"max_bytes":{max_bytes}}}"#);
        let (subject, client) = (format!("$JS.API.STREAM.CREATE.{name}"), client.clone());
        async move { ask(&client, &subject, &config).await["error"]["err_code"].clone() }
    };
    assert_eq!(create("A", -1).await, 10113);
    assert_eq!(create("A", 7_000).await, 10122);
    assert_eq!(create("A", 6_000).await, Value::Null);
    assert_eq!(create("B", 5_000).await, 10047);
    assert_eq!(create("B", 3_000).await, Value::Null);
    assert_eq!(create("C", 1).await, 10027);
    let consumer =
        r#"{"stream_name":"A","config":{"durable_name":"D","ack_policy":"explicit","max_ack_pending":11}}"#;
    let refused = ask(&client, "$JS.API.CONSUMER.DURABLE.CREATE.A.D", consumer).await;
    assert_eq!(refused["error"]["err_code"], 10121, "{refused}");
    let info = ask(&client, "$JS.API.INFO", "").await;
    assert_eq!(
        (&info["limits"]["max_storage"], &info["streams"]),
        (&10_000.into(), &2.into())
    );
}

#[tokio::test]
async fn the_system_account_answers_tools() {
    let server = with_noetl(JetStreamTier::default()).await;
    let (sys, noetl) = (client_of(&server, "sys").await, client_of(&server, "noetl").await);
    let id = sys.server_info().server_id;
    let statsz = ask(&sys, "$SYS.REQ.SERVER.PING", "").await;
    assert_eq!(
        (statsz["server"]["id"].as_str(), &statsz["statsz"]["connections"]),
        (Some(id.as_str()), &2.into())
    );
    for what in [
        "IDZ", "STATSZ", "VARZ", "CONNZ", "SUBSZ", "JSZ", "HEALTHZ", "ACCOUNTZ", "ROUTEZ", "GATEWAYZ",
        "LEAFZ",
    ] {
        for to in ["PING", &id] {
            let answer = ask(&sys, &format!("$SYS.REQ.SERVER.{to}.{what}"), "").await;
            assert!(answer["error"].is_null(), "{what}: {answer}");
            assert!(
                answer["data"].is_object() || what == "STATSZ" || what == "IDZ",
                "{what}: {answer}"
            );
        }
    }
    let connz = ask(
        &sys,
        "$SYS.REQ.SERVER.PING.CONNZ",
        r#"{"auth":true,"acc":"NOETL","sort":"rtt"}"#,
    )
    .await;
    assert_eq!(
        (
            &connz["data"]["total"],
            &connz["data"]["connections"][0]["authorized_user"]
        ),
        (&1.into(), &"noetl".into())
    );
    for what in ["CONNZ", "SUBSZ", "JSZ", "INFO", "STATZ"] {
        let answer = ask(&sys, &format!("$SYS.REQ.ACCOUNT.NOETL.{what}"), "").await;
        assert!(answer["data"].is_object(), "{what}: {answer}");
    }
    // A client hears of its own account and of itself; of nothing else.
    let own = ask(&noetl, "$SYS.REQ.ACCOUNT.PING.CONNZ", r#"{"acc":"$SYS"}"#).await;
    assert_eq!(own["data"]["total"], 1, "{own}");
    let me = ask(&noetl, "$SYS.REQ.USER.INFO", "").await;
    assert_eq!(
        (&me["data"]["user"], &me["data"]["account"]),
        (&"noetl".into(), &"NOETL".into())
    );
    for subject in [
        format!("$SYS.REQ.SERVER.{id}.VARZ"),
        "$SYS.REQ.SERVER.PING".to_owned(),
    ] {
        let err = noetl.request(subject, "".into()).await.unwrap_err();
        assert_eq!(err.kind(), async_nats::RequestErrorKind::NoResponders);
    }
}

#[tokio::test]
async fn clients_that_come_and_go_are_told_of() {
    let server = with_noetl(JetStreamTier::default()).await;
    let sys = client_of(&server, "sys").await;
    let mut events = sys.subscribe("$SYS.ACCOUNT.NOETL.>").await.unwrap();
    sys.flush().await.unwrap();
    let noetl = client_of(&server, "noetl").await;
    let cid = noetl.server_info().client_id;
    let mut kinds = Vec::new();
    let kick = format!("$SYS.REQ.SERVER.{}.KICK", sys.server_info().server_id);
    ask(&sys, &kick, &format!("{{\"cid\":{cid}}}")).await;
    while kinds.len() < 2 {
        let event = tokio::time::timeout(Duration::from_secs(10), events.next())
            .await
            .unwrap()
            .unwrap();
        let event: Value = serde_json::from_slice(&event.payload).unwrap();
        assert_eq!(event["client"]["user"], "noetl", "{event}");
        kinds.push(event["type"].as_str().unwrap().to_owned());
    }
    assert_eq!(
        kinds,
        [
            "io.nats.server.advisory.v1.client_connect",
            "io.nats.server.advisory.v1.client_disconnect"
        ]
    );
    let closed = json(&server, "/connz?state=closed&auth=true").await;
    assert_eq!(
        (
            &closed["connections"][0]["cid"],
            &closed["connections"][0]["reason"]
        ),
        (&cid.into(), &"Kicked".into())
    );
}

/// `accounts` of `$SYS` and these, each with a user of its name.
fn accounts(names: &[&str]) -> String {
    let one = |name: &&str| {
        let user = name.trim_start_matches('$').to_lowercase();
        format!("{name}: {{ jetstream: enabled, users: [{{user: {user}, password: {user}}}] }}\n")
    };
    let others: String = names.iter().map(one).collect();
    format!("jetstream {{}}\naccounts {{\n$SYS: {{ users: [{{user: sys, password: sys}}] }}\n{others}}}")
}

#[tokio::test]
async fn an_account_is_told_of_who_was_not_let_in() {
    let server = configured("authorization { user: a, password: a }").await;
    let a = client_of(&server, "a").await;
    let mut told = a.subscribe("$SYS.ACCOUNT.CLIENT.AUTH.ERR").await.unwrap();
    a.flush().await.unwrap();
    async_nats::ConnectOptions::with_user_and_password("a".to_owned(), "wrong".to_owned())
        .connect(server.broker.client_addr().to_string())
        .await
        .unwrap_err();
    let told = tokio::time::timeout(Duration::from_secs(10), told.next()).await;
    let told: Value = serde_json::from_slice(&told.unwrap().unwrap().payload).unwrap();
    assert_eq!(told["type"], "io.nats.server.advisory.v1.client_disconnect");
    assert_eq!(told["reason"], "Authentication Failure");
    let client = &told["client"];
    assert_eq!((&client["acc"], &client["user"]), (&"$G".into(), &"a".into()));
    assert_eq!(client["name_tag"], "$G");
}

#[tokio::test]
async fn accounts_of_a_reload_hear_of_themselves() {
    let server = configured(&accounts(&["ONE"])).await;
    let options = options_of(&accounts(&["ONE", "TWO"]));
    server.broker.reload_auth(&options.auth).unwrap();
    let two = client_of(&server, "two").await;
    let connz = ask(&two, "$SYS.REQ.ACCOUNT.PING.CONNZ", "").await;
    assert_eq!(connz["data"]["total"], 1, "{connz}");
    let statz = ask(&two, "$SYS.REQ.ACCOUNT.PING.STATZ", "").await;
    assert_eq!(statz["data"]["account_statz"][0]["acc"], "TWO", "{statz}");
}

/// The answers are nats-server's: nothing but the server, or the reason with 500.
#[tokio::test]
async fn a_reload_is_asked_for_and_answered() {
    let server = configured(&accounts(&["ONE"])).await;
    let sys = client_of(&server, "sys").await;
    let reload = format!("$SYS.REQ.SERVER.{}.RELOAD", sys.server_info().server_id);
    let serve = async {
        let request = server.broker.reload_wanted().await;
        let options = options_of(&accounts(&["ONE", "TWO"]));
        server.broker.reload_auth(&options.auth).unwrap();
        request.done(Ok(()));
        server
            .broker
            .reload_wanted()
            .await
            .done(Err("config reload not supported for Port".to_owned()));
    };
    let asking = async {
        let done = ask(&sys, &reload, "").await;
        assert_eq!(done.as_object().unwrap().len(), 1, "{done}");
        assert_eq!(
            done["server"]["id"].as_str().unwrap(),
            sys.server_info().server_id
        );
        assert!(client_of(&server, "two").await.flush().await.is_ok());
        ask(&sys, &reload, "{}").await["error"].clone()
    };
    let (_, error) = tokio::join!(serve, asking);
    assert_eq!(
        error,
        serde_json::json!({"code": 500, "description": "config reload not supported for Port"})
    );
}

/// What nats-server 2.15.2 says of who asked, where its own account asks and where another one does.
#[tokio::test]
async fn the_audit_of_the_api_says_who_asked() {
    let server = configured(
        r#"jetstream {}
        accounts {
          HUB: { jetstream: enabled, users: [{user: hub, password: hub}], exports: [{service: "$JS.API.>", response_type: stream}] }
          TEAM: { users: [{user: team, password: team}], imports: [{service: {account: HUB, subject: "$JS.API.>"}, to: "JS.hub.API.>"}] }
          TOLD: { users: [{user: told, password: told}]
                  imports: [{service: {account: HUB, subject: "$JS.API.>"}, to: "JS.hub.API.>", share: true}] }
        }"#,
    )
    .await;
    let hub = client_of(&server, "hub").await;
    let mut forged = async_nats::HeaderMap::new();
    forged.insert("Nats-Request-Info", r#"{"acc":"FORGED","user":"root"}"#);
    // Nobody listens yet.
    hub.request_with_headers("$JS.API.INFO", forged.clone(), "".into())
        .await
        .unwrap();
    let mut audit = hub.subscribe("$JS.EVENT.ADVISORY.API").await.unwrap();
    hub.flush().await.unwrap();
    hub.request_with_headers("$JS.API.INFO", forged, "".into())
        .await
        .unwrap();
    let mut next = async || {
        let told = tokio::time::timeout(Duration::from_secs(10), audit.next()).await;
        let event: Value = serde_json::from_slice(&told.unwrap().unwrap().payload).unwrap();
        assert_eq!(event["type"], "io.nats.jetstream.advisory.v1.api_audit");
        let client = event["client"].as_object().unwrap().clone();
        let names: Vec<String> = client.keys().cloned().collect();
        (client, names.join(" "))
    };
    const WHOLE: &str = "acc client_type host id kind lang rtt server start user ver";
    let (client, names) = next().await;
    assert_eq!(names, WHOLE);
    assert_eq!(
        (&client["acc"], &client["user"], &client["server"]),
        (&"HUB".into(), &"hub".into(), &"tarn".into())
    );
    let team = client_of(&server, "team").await;
    ask(&team, "JS.hub.API.STREAM.NAMES", "").await;
    let (client, names) = next().await;
    assert_eq!(names, "acc rtt server svc");
    assert_eq!((&client["acc"], &client["svc"]), (&"TEAM".into(), &"HUB".into()));
    let told = client_of(&server, "told").await;
    ask(&told, "JS.hub.API.STREAM.NAMES", "").await;
    let (client, names) = next().await;
    assert_eq!(names, WHOLE.replace("start", "start svc"));
    assert_eq!((&client["user"], &client["svc"]), (&"told".into(), &"HUB".into()));
}
