//! Streams and services between accounts, and subjects under other names. The configurations are what nats-server takes too.

use std::path::Path;
use std::time::Duration;

use async_nats::jetstream::{self, consumer, stream};
use async_nats::{Client, HeaderMap, Subscriber};
use futures::StreamExt;
use serde_json::Value;
use tarn_broker::conf::{self, Sources};
use tarn_broker::options::Options;
use tarn_broker::server::{Broker, BrokerConfig};
use tokio_util::task::TaskTracker;

use crate::Server;
use crate::auth::client_of;

const PATIENCE: Duration = Duration::from_secs(10);

/// No files and no environment.
struct Nothing;

impl Sources for Nothing {
    fn file(&self, _: &Path) -> std::io::Result<String> {
        Err(std::io::ErrorKind::NotFound.into())
    }

    fn variable(&self, _: &str) -> Option<String> {
        None
    }
}

/// What this configuration says, on free ports.
pub(crate) fn options_of(text: &str) -> Options {
    let text = format!("listen: 127.0.0.1:-1\nhttp: 127.0.0.1:-1\nserver_name: tarn\n{text}");
    conf::read(Path::new("test.conf"), &text, &Nothing).unwrap()
}

/// A broker with this configuration. Errs with why it does not start.
pub(crate) async fn try_configured(text: &str) -> Result<Server, String> {
    let dir = tempfile::tempdir().unwrap();
    let config = BrokerConfig::from_options(&options_of(text), dir.path().join("store"));
    let broker = Broker::start(config).await.map_err(|err| err.to_string())?;
    Ok(Server { broker, dir })
}

/// A broker with this configuration.
pub(crate) async fn configured(text: &str) -> Server {
    try_configured(text).await.unwrap()
}

/// What is wrong with this configuration.
fn problems(text: &str) -> String {
    conf::read(Path::new("test.conf"), text, &Nothing)
        .unwrap_err()
        .to_string()
}

/// What every client may ask, and what has nothing to do with a test.
const SETTLE: &str = "$SYS.REQ.USER.INFO";

/// Waits until the server has taken in what the client said so far.
pub(crate) async fn settle(client: &Client) {
    client.request(SETTLE, "".into()).await.unwrap();
}

async fn listen(client: &Client, subject: &str) -> Subscriber {
    let subscriber = client.subscribe(subject.to_owned()).await.unwrap();
    settle(client).await;
    subscriber
}

/// The next message, without those of [`settle`].
pub(crate) async fn heard(subscriber: &mut Subscriber) -> (String, String) {
    loop {
        let next = tokio::time::timeout(PATIENCE, subscriber.next());
        let message = next.await.unwrap().unwrap();
        let subject = message.subject.as_str();
        if subject != SETTLE && !subject.starts_with("_INBOX.") {
            let text = String::from_utf8_lossy(&message.payload).into_owned();
            return (subject.to_owned(), text);
        }
    }
}

async fn say(client: &Client, subject: &str, text: &str) {
    client
        .publish(subject.to_owned(), text.to_owned().into())
        .await
        .unwrap();
    settle(client).await;
}

/// Answers what comes with its subject and what it is told of who asks.
fn serve(client: &Client, mut requests: Subscriber, answers: usize) {
    let client = client.clone();
    TaskTracker::new().spawn(async move {
        while let Some(request) = requests.next().await {
            let info = request
                .headers
                .as_ref()
                .and_then(|held| held.get("Nats-Request-Info"));
            let mut info: Value =
                info.map_or(Value::Null, |info| serde_json::from_str(info.as_str()).unwrap());
            if let Some(fields) = info.as_object_mut() {
                fields.remove("rtt");
            }
            for number in 0..answers {
                let text = format!("{} {number} {info}", request.subject);
                client
                    .publish(request.reply.clone().unwrap(), text.into())
                    .await
                    .unwrap();
            }
        }
    });
}

async fn ask(client: &Client, subject: &str) -> Result<String, String> {
    match client.request(subject.to_owned(), "?".into()).await {
        Ok(answer) => Ok(String::from_utf8_lossy(&answer.payload).into_owned()),
        Err(err) => Err(err.to_string()),
    }
}

const STREAMS: &str = r#"
accounts {
  A { users: [{user: a, password: a}]
      exports: [{stream: "public.>"}, {stream: "private.*.x", accounts: [B]}] }
  B { users: [{user: b, password: b}]
      imports: [{stream: {account: A, subject: "public.>"}, prefix: from.a}
                {stream: {account: A, subject: "private.*.x"}, to: "mine.$1"}
                {stream: {account: A, subject: "public.one"}, to: "one"}] }
  C { users: [{user: c, password: c}]
      imports: [{stream: {account: A, subject: "public.two"}}] }
}"#;

#[tokio::test]
async fn streams_are_taken_under_the_importers_names() {
    let server = configured(STREAMS).await;
    let (a, b, c) = (
        client_of(&server, "a").await,
        client_of(&server, "b").await,
        client_of(&server, "c").await,
    );
    let mut all = listen(&b, ">").await;
    let mut mine = listen(&b, "mine.*").await;
    let mut everything_of_c = listen(&c, ">").await;
    for subject in ["secret", "private.k.x", "public.two"] {
        say(&a, subject, subject).await;
    }
    // What the importing accounts publish stays there.
    say(&b, "public.two", "of b").await;
    say(&c, "end", "").await;
    let text = |subject: &str, text: &str| (subject.to_owned(), text.to_owned());
    assert_eq!(heard(&mut all).await, text("mine.k", "private.k.x"));
    assert_eq!(heard(&mut all).await, text("from.a.public.two", "public.two"));
    assert_eq!(heard(&mut all).await, text("public.two", "of b"));
    assert_eq!(heard(&mut mine).await, text("mine.k", "private.k.x"));
    assert_eq!(
        heard(&mut everything_of_c).await,
        text("public.two", "public.two")
    );
    assert_eq!(heard(&mut everything_of_c).await, text("end", ""));
    // A subscription that comes later is found, one that ends is not.
    let mut one = listen(&b, "one").await;
    say(&a, "public.one", "1").await;
    assert_eq!(heard(&mut one).await, text("one", "1"));
    one.unsubscribe().await.unwrap();
    mine.unsubscribe().await.unwrap();
    settle(&b).await;
    say(&a, "private.l.x", "2").await;
    assert_eq!(heard(&mut all).await, text("from.a.public.one", "1"));
    assert_eq!(heard(&mut all).await, text("one", "1"));
    assert_eq!(heard(&mut all).await, text("mine.l", "2"));
}

#[tokio::test]
async fn a_queue_group_reaches_over_accounts() {
    let server = configured(STREAMS).await;
    let (a, b) = (client_of(&server, "a").await, client_of(&server, "b").await);
    let mut own = a.queue_subscribe("public.two", "q".to_owned()).await.unwrap();
    let mut other = b
        .queue_subscribe("from.a.public.two", "q".to_owned())
        .await
        .unwrap();
    settle(&a).await;
    settle(&b).await;
    for _ in 0..200 {
        a.publish("public.two", "m".into()).await.unwrap();
    }
    settle(&a).await;
    let (mut of_a, mut of_b) = (0, 0);
    while of_a + of_b < 200 {
        let got = async {
            tokio::select! {
                _ = own.next() => of_a += 1,
                _ = other.next() => of_b += 1,
            }
        };
        tokio::time::timeout(PATIENCE, got).await.unwrap();
    }
    assert!(of_a > 20 && of_b > 20, "{of_a} {of_b}");
}

#[tokio::test]
async fn a_subscription_to_a_taken_stream_ends_by_itself() {
    let server = configured(STREAMS).await;
    let (a, b) = (client_of(&server, "a").await, client_of(&server, "b").await);
    settle(&a).await;
    settle(&b).await;
    let before = server.broker.stats().subscriptions;
    let mut two = b.subscribe("from.a.public.two").await.unwrap();
    two.unsubscribe_after(2).await.unwrap();
    settle(&b).await;
    for _ in 0..3 {
        say(&a, "public.two", "m").await;
    }
    let mut count = 0;
    while tokio::time::timeout(PATIENCE, two.next())
        .await
        .unwrap()
        .is_some()
    {
        count += 1;
    }
    assert_eq!(count, 2);
    assert_eq!(server.broker.stats().subscriptions, before);
}

const SERVICES: &str = r#"
accounts {
  A { users: [{user: a, password: a}]
      exports: [{service: "echo.*"}, {service: "many", response_type: stream}, {service: "for.*.>", account_token_position: 2}
                {service: "chain", accounts: [B]}] }
  B { users: [{user: b, password: b}]
      imports: [{service: {account: A, subject: "echo.*"}, to: "say.*"}
                {service: {account: A, subject: "many"}, share: true}
                {service: {account: A, subject: "for.B.x"}, to: "forb"}
                {service: {account: A, subject: "chain"}}]
      exports: [{service: "chain"}] }
  C { users: [{user: c, password: c}]
      imports: [{service: {account: B, subject: "chain"}, to: "link"}] }
}"#;

#[tokio::test]
async fn services_are_asked_under_the_importers_names() {
    let server = configured(SERVICES).await;
    let (a, b, c) = (
        client_of(&server, "a").await,
        client_of(&server, "b").await,
        client_of(&server, "c").await,
    );
    let no_responders = "no responders: no responders".to_owned();
    assert_eq!(ask(&b, "say.x").await, Err(no_responders.clone()));
    for subject in ["echo.>", "for.>", "chain"] {
        serve(&a, listen(&a, subject).await, 1);
    }
    serve(&a, listen(&a, "many").await, 3);
    assert_eq!(ask(&b, "say.x").await.unwrap(), "echo.x 0 {\"acc\":\"B\"}");
    assert_eq!(ask(&b, "forb").await.unwrap(), "for.B.x 0 {\"acc\":\"B\"}");
    // By two accounts: who asked first is told.
    assert_eq!(
        ask(&c, "link").await.unwrap(),
        "chain 0 {\"acc\":\"C\",\"svc\":\"B\"}"
    );
    for subject in ["echo.x", "many", "chain"] {
        assert_eq!(ask(&c, subject).await, Err(no_responders.clone()), "{subject}");
    }
    // More than one answer comes only where the service says so.
    for (subject, expected) in [("many", 3), ("say.y", 1)] {
        let mut inbox = listen(&b, "answers").await;
        b.publish_with_reply(subject, "answers", "?".into())
            .await
            .unwrap();
        for number in 0..expected {
            let (at, text) = heard(&mut inbox).await;
            assert_eq!(at, "answers");
            assert!(text.contains(&format!(" {number} {{\"acc\":\"B\"")), "{text}");
            assert_eq!(subject == "many", text.contains("\"user\":\"b\""), "{text}");
        }
        inbox.unsubscribe().await.unwrap();
    }
}

/// Security: internal headers are not what a client says.
#[tokio::test]
async fn spoofed_request_info_is_replaced() {
    let server = configured(SERVICES).await;
    let (a, b) = (client_of(&server, "a").await, client_of(&server, "b").await);
    serve(&a, listen(&a, "echo.>").await, 1);
    let mut headers = HeaderMap::new();
    headers.insert("Nats-Request-Info", "{\"acc\":\"$SYS\"}");
    headers.append("Nats-Request-Info", "{\"acc\":\"A\"}");
    let answer = b
        .request_with_headers("say.x", headers, "?".into())
        .await
        .unwrap();
    assert_eq!(&answer.payload[..], b"echo.x 0 {\"acc\":\"B\"}");
}

/// Security: the subjects of answers are not a way into other accounts.
#[tokio::test]
async fn answer_subjects_are_of_use_once_and_for_nothing_else() {
    let server = configured(SERVICES).await;
    let (a, b) = (client_of(&server, "a").await, client_of(&server, "b").await);
    let mut requests = listen(&a, "echo.>").await;
    let mut inbox = listen(&b, "inbox").await;
    b.publish_with_reply("say.x", "inbox", "?".into()).await.unwrap();
    let request = tokio::time::timeout(PATIENCE, requests.next())
        .await
        .unwrap()
        .unwrap();
    let reply = request.reply.unwrap();
    assert!(reply.starts_with("_R_."), "{reply}");
    // Only in the account of the service does it stand for anything.
    say(&b, &reply, "by b").await;
    for text in ["first", "second"] {
        say(&a, &reply, text).await;
    }
    say(&b, "inbox", "end").await;
    assert_eq!(heard(&mut inbox).await.1, "first");
    assert_eq!(heard(&mut inbox).await.1, "end");
}

#[tokio::test]
async fn subjects_are_published_under_other_names() {
    let server = configured(
        r#"
mappings { "old.*": "new.$1" }
accounts {
  A { users: [{user: a, password: a, permissions: {publish: {allow: ["to.>", "_INBOX.>", "$SYS.REQ.USER.INFO"]}, subscribe: ">"}}]
      mappings { "from.*.*": "to.{{wildcard(2)}}.{{wildcard(1)}}"
                 "split": [{destination: "to.left", weight: 50%}, {destination: "to.right", weight: 50%}]
                 "gone": [{destination: "gone", weight: 0}]
                 "hidden": "elsewhere" } }
}
no_auth_user: a"#,
    )
    .await;
    let a = client_of(&server, "a").await;
    let mut all = listen(&a, ">").await;
    say(&a, "from.x.y", "1").await;
    assert_eq!(heard(&mut all).await, ("to.y.x".to_owned(), "1".to_owned()));
    // Permissions are those of the name that it gets.
    say(&a, "hidden", "no").await;
    say(&a, "gone", "no").await;
    let (mut left, mut right) = (0, 0);
    for _ in 0..200 {
        say(&a, "split", "s").await;
        match heard(&mut all).await.0.as_str() {
            "to.left" => left += 1,
            "to.right" => right += 1,
            other => panic!("{other}"),
        }
    }
    assert!(left > 50 && right > 50, "{left} {right}");
}

const JETSTREAM: &str = r#"
jetstream { domain: hub }
accounts {
  JS { jetstream: enabled, users: [{user: js, password: js}]
       exports: [{service: "$JS.API.>", response_type: stream}, {service: "$JS.ACK.>"}, {service: "orders.*"}
                 {stream: "deliver.>"}, {stream: "raw.>"}] }
  U { users: [{user: u, password: u}]
      imports: [{service: {account: JS, subject: "$JS.API.>"}, to: "JS.far.API.>"}
                {service: {account: JS, subject: "$JS.ACK.>"}}
                {service: {account: JS, subject: "orders.*"}, to: "order.*"}
                {stream: {account: JS, subject: "deliver.>"}}] }
  V { jetstream: enabled, users: [{user: v, password: v}]
      imports: [{stream: {account: JS, subject: "raw.>"}, prefix: js}] }
}"#;

async fn next_of(
    messages: &mut (impl StreamExt<Item = Result<jetstream::Message, impl std::fmt::Debug>> + Unpin),
) -> jetstream::Message {
    tokio::time::timeout(PATIENCE, messages.next())
        .await
        .unwrap()
        .unwrap()
        .unwrap()
}

#[tokio::test]
async fn jetstream_of_another_account_is_used_by_its_api() {
    let server = configured(JETSTREAM).await;
    let (js, u) = (client_of(&server, "js").await, client_of(&server, "u").await);
    let far = jetstream::with_prefix(u.clone(), "JS.far.API");
    let config = stream::Config {
        name: "ORDERS".to_owned(),
        subjects: vec!["orders.*".to_owned()],
        ..Default::default()
    };
    let mut stream = far.create_stream(config).await.unwrap();
    for number in 0..20 {
        let acked = far
            .publish(format!("order.{number}"), "m".into())
            .await
            .unwrap()
            .await
            .unwrap();
        assert_eq!((acked.stream.as_str(), acked.sequence), ("ORDERS", number + 1));
    }
    assert_eq!(stream.info().await.unwrap().state.messages, 20);
    let stored = stream.get_raw_message(1).await.unwrap();
    assert!(stored.headers.is_empty(), "{:?}", stored.headers);
    assert!(
        jetstream::with_domain(js.clone(), "hub")
            .get_stream("ORDERS")
            .await
            .is_ok()
    );
    let config = consumer::pull::Config {
        durable_name: Some("PULL".to_owned()),
        ack_policy: consumer::AckPolicy::Explicit,
        ..Default::default()
    };
    let mut pull = stream.create_consumer(config).await.unwrap();
    let mut batch = pull.fetch().max_messages(20).messages().await.unwrap();
    for number in 0..20 {
        let message = next_of(&mut batch).await;
        // What is stored keeps its name.
        assert_eq!(message.subject.as_str(), format!("orders.{number}"));
        message.double_ack().await.unwrap();
    }
    let info = pull.info().await.unwrap();
    assert_eq!((info.num_ack_pending, info.ack_floor.stream_sequence), (0, 20));
    let config = consumer::push::Config {
        durable_name: Some("PUSH".to_owned()),
        deliver_subject: "deliver.push".to_owned(),
        ..Default::default()
    };
    let push = stream.create_consumer(config).await.unwrap();
    let mut messages = push.messages().await.unwrap();
    let message = next_of(&mut messages).await;
    assert_eq!(message.subject.as_str(), "orders.0");
    message.ack().await.unwrap();
}

#[tokio::test]
async fn a_stream_stores_what_another_account_publishes() {
    let server = configured(JETSTREAM).await;
    let (js, v) = (client_of(&server, "js").await, client_of(&server, "v").await);
    let context = jetstream::new(v);
    let config = stream::Config {
        name: "RAW".to_owned(),
        subjects: vec!["js.raw.>".to_owned()],
        ..Default::default()
    };
    let stream = context.create_stream(config).await.unwrap();
    say(&js, "raw.a", "m").await;
    let config = consumer::pull::OrderedConfig::default();
    let mut messages = stream
        .create_consumer(config)
        .await
        .unwrap()
        .messages()
        .await
        .unwrap();
    assert_eq!(next_of(&mut messages).await.subject.as_str(), "js.raw.a");
}

#[test]
fn what_can_not_be_shared_is_an_error_of_the_file() {
    let circle = problems(
        r#"accounts {
  A { exports: [{service: "x"}], imports: [{service: {account: B, subject: "x"}}] }
  B { exports: [{service: "x"}], imports: [{service: {account: A, subject: "x"}}] } }"#,
    );
    assert!(
        circle.contains("Error adding service import \"x\": import forms a cycle"),
        "{circle}"
    );
    let closed = problems(
        r#"accounts {
  A { exports: [{stream: "x", accounts: [C]}] }
  B { imports: [{stream: {account: A, subject: "x"}}] }
  C {} }"#,
    );
    assert!(
        closed.contains("Error adding stream import \"x\": stream import not authorized"),
        "{closed}"
    );
}
