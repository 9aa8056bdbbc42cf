//! Who may connect, and what each may do. Each class of hole that has hit a peer has a test of its name.

use std::collections::BTreeSet;
use std::time::Duration;

use async_nats::ConnectOptions;
use futures::StreamExt;
use tarn_broker::options::{
    AccountJetStream, AccountLimits, AccountOptions, AuthOptions, Credential, Permissions,
    ResponsePermission, Secret, SubjectPermissions, UserOptions,
};
use tarn_broker::server::Broker;
use tokio::net::TcpStream;

use crate::Server;
use crate::wire::{connect, talk};

const PATIENCE: Duration = Duration::from_secs(10);

pub(crate) fn user(name: &str, account: &str, permissions: Option<Permissions>) -> UserOptions {
    UserOptions {
        credential: Credential::Password {
            user: name.to_owned(),
            password: Secret(name.to_owned()),
        },
        account: account.to_owned(),
        permissions,
        connection_types: BTreeSet::new(),
    }
}

fn rules(allow: Option<&[&str]>, deny: &[&str]) -> Option<SubjectPermissions> {
    let owned = |texts: &[&str]| texts.iter().map(ToString::to_string).collect();
    Some(SubjectPermissions {
        allow: allow.map(owned),
        deny: owned(deny),
    })
}

pub(crate) async fn server(auth: AuthOptions) -> Server {
    let dir = tempfile::tempdir().unwrap();
    let mut config = crate::config(dir.path());
    config.auth = auth;
    Server {
        broker: Broker::start(config).await.unwrap(),
        dir,
    }
}

async fn with_users(users: Vec<UserOptions>) -> Server {
    server(AuthOptions {
        users,
        ..AuthOptions::default()
    })
    .await
}

pub(crate) async fn client_of(server: &Server, name: &str) -> async_nats::Client {
    ConnectOptions::with_user_and_password(name.to_owned(), name.to_owned())
        .connect(server.broker.client_addr().to_string())
        .await
        .unwrap()
}

/// A connection of this user that has come in.
async fn logged_in(server: &Server, name: &str) -> TcpStream {
    let mut socket = connect(server).await;
    let hello = format!(
        "CONNECT {{\"verbose\":false,\"headers\":true,\"no_responders\":true,\"user\":\"{name}\",\"pass\":\"{name}\"}}\r\nPING\r\n"
    );
    assert_eq!(talk(&mut socket, &hello, "PONG").await, "PONG\n");
    socket
}

#[tokio::test]
async fn nothing_is_done_before_authentication() {
    let server = with_users(vec![user("u", "$G", None)]).await;
    for first in ["PING\r\n", "SUB > 1\r\n", "PUB a 1\r\nx\r\n", "CONNECT {}\r\n"] {
        let mut socket = connect(&server).await;
        let heard = talk(&mut socket, first, "").await;
        assert_eq!(heard, "-ERR 'Authorization Violation'\n", "{first}");
    }
    let mut socket = connect(&server).await;
    let heard = talk(
        &mut socket,
        "CONNECT {\"user\":\"u\",\"pass\":\"wrong\"}\r\nPUB a 1\r\nx\r\n",
        "",
    )
    .await;
    assert_eq!(heard, "-ERR 'Authorization Violation'\n");
    assert_eq!(server.broker.stats().in_msgs, 0);
}

#[tokio::test]
async fn memory_is_not_taken_before_authentication() {
    let server = with_users(vec![user("u", "$G", None)]).await;
    let mut socket = connect(&server).await;
    let long = format!("CONNECT {{\"user\":\"{}\"", "x".repeat(1 << 20));
    assert_eq!(
        talk(&mut socket, &long, "").await,
        "-ERR 'maximum control line exceeded'\n"
    );
}

#[tokio::test]
async fn who_does_not_authenticate_in_time_has_to_go() {
    let server = server(AuthOptions {
        users: vec![user("u", "$G", None)],
        timeout: Some(Duration::from_millis(20)),
        ..AuthOptions::default()
    })
    .await;
    let mut socket = connect(&server).await;
    assert_eq!(talk(&mut socket, "", "").await, "-ERR 'Authentication Timeout'\n");
    let mut socket = logged_in(&server, "u").await;
    assert_eq!(talk(&mut socket, "PING\r\n", "PONG").await, "PONG\n");
}

#[tokio::test]
async fn permissions_hold_on_every_path() {
    let permissions = Permissions {
        publish: rules(Some(&["in.>", "$JS.API.>"]), &["in.secret.*"]),
        subscribe: rules(Some(&["in.>", "_INBOX.>"]), &["in.secret.*"]),
        responses: None,
    };
    let server = with_users(vec![user("a", "$G", Some(permissions)), user("root", "$G", None)]).await;
    let mut socket = logged_in(&server, "a").await;
    // The second of two with the same prefix must not ride on the route that is remembered for the first.
    let heard = talk(
        &mut socket,
        "SUB in.> 1\r\nSUB > 2\r\nSUB in.secret.x 3\r\nSUB * q 4\r\n\
         PUB in.secrets 1\r\na\r\nPUB in.secret.x 1\r\nb\r\nPUB in.x.y 1\r\nc\r\nPUB in.x.z 1\r\nd\r\nPUB out 1\r\ne\r\n\
         PUB in.ok _R_.x 1\r\nf\r\nPING\r\n",
        "PONG",
    )
    .await;
    expect_test::expect![[r#"
        -ERR 'Permissions Violation for Subscription to ">"'
        -ERR 'Permissions Violation for Subscription to "in.secret.x"'
        -ERR 'Permissions Violation for Subscription to "*" using queue "q"'
        MSG in.secrets 1 1
        a
        -ERR 'Permissions Violation for Publish to "in.secret.x"'
        MSG in.x.y 1 1
        c
        MSG in.x.z 1 1
        d
        -ERR 'Permissions Violation for Publish to "out"'
        -ERR 'Permissions Violation for Publish with Reply of "_R_.x"'
        PONG
    "#]]
    .assert_eq(&heard);
    // A wildcard subscription does not bring what is denied: from others, nor by a stream's replay.
    let root = client_of(&server, "root").await;
    for subject in ["in.secret.x", "in.open"] {
        root.publish(subject, "r".into()).await.unwrap();
    }
    root.flush().await.unwrap();
    assert_eq!(
        talk(&mut socket, "PING\r\n", "PONG").await,
        "MSG in.open 1 1\nr\nPONG\n"
    );
    let jetstream = async_nats::jetstream::new(root.clone());
    let stream = jetstream
        .create_stream(async_nats::jetstream::stream::Config {
            name: "S".to_owned(),
            subjects: vec!["in.>".to_owned()],
            ..Default::default()
        })
        .await
        .unwrap();
    for subject in ["in.secret.y", "in.open"] {
        jetstream
            .publish(subject, "s".into())
            .await
            .unwrap()
            .await
            .unwrap();
    }
    let heard = talk(&mut socket, "SUB _INBOX.replay 9\r\nPING\r\n", "PONG").await;
    assert!(
        heard.contains("MSG in.open 1 ") && !heard.contains("secret"),
        "{heard}"
    );
    stream
        .create_consumer(async_nats::jetstream::consumer::push::Config {
            durable_name: Some("P".to_owned()),
            deliver_subject: "_INBOX.replay".to_owned(),
            ack_policy: async_nats::jetstream::consumer::AckPolicy::None,
            ..Default::default()
        })
        .await
        .unwrap();
    let heard = talk(&mut socket, "", "in.open 9 $JS.ACK.S.P.1.2.").await;
    assert!(!heard.contains("in.secret.y"), "{heard}");
}

#[tokio::test]
async fn who_may_answer_may_publish_nothing_else() {
    let permissions = Permissions {
        publish: None,
        subscribe: rules(Some(&["service"]), &[]),
        responses: Some(ResponsePermission {
            max_msgs: Some(1),
            expires: None,
        }),
    };
    let server = with_users(vec![user("s", "$G", Some(permissions)), user("root", "$G", None)]).await;
    let mut service = logged_in(&server, "s").await;
    assert_eq!(
        talk(&mut service, "SUB service 1\r\nPING\r\n", "PONG").await,
        "PONG\n"
    );
    let root = client_of(&server, "root").await;
    let mut inbox = root.subscribe("_INBOX.q").await.unwrap();
    root.publish_with_reply("service", "_INBOX.q", "?".into())
        .await
        .unwrap();
    assert_eq!(talk(&mut service, "", "?").await, "MSG service 1 _INBOX.q 1\n?\n");
    let heard = talk(
        &mut service,
        "PUB other 1\r\n!\r\nPUB _INBOX.q 1\r\n!\r\nPUB _INBOX.q 1\r\n!\r\nPING\r\n",
        "PONG",
    )
    .await;
    assert_eq!(
        heard,
        "-ERR 'Permissions Violation for Publish to \"other\"'\n\
         -ERR 'Permissions Violation for Publish to \"_INBOX.q\"'\nPONG\n"
    );
    let answer = tokio::time::timeout(PATIENCE, inbox.next())
        .await
        .unwrap()
        .unwrap();
    assert_eq!(&answer.payload[..], b"!");
}

#[tokio::test]
async fn accounts_do_not_hear_each_other() {
    let account = |name: &str, max_connections| AccountOptions {
        name: name.to_owned(),
        jetstream: Some(AccountJetStream::default()),
        limits: AccountLimits {
            max_connections,
            ..AccountLimits::default()
        },
        ..AccountOptions::default()
    };
    let server = server(AuthOptions {
        users: vec![user("a", "A", None), user("b", "B", None)],
        accounts: vec![account("A", Some(1)), account("B", None)],
        ..AuthOptions::default()
    })
    .await;
    let (a, b) = (client_of(&server, "a").await, client_of(&server, "b").await);
    let mut heard = a.subscribe(">").await.unwrap();
    a.flush().await.unwrap();
    for (client, text) in [(&b, "of b"), (&a, "of a")] {
        client.publish("x", text.into()).await.unwrap();
        client.flush().await.unwrap();
    }
    let first = tokio::time::timeout(PATIENCE, heard.next())
        .await
        .unwrap()
        .unwrap();
    assert_eq!(&first.payload[..], b"of a");
    for (client, expected) in [(&a, 1), (&b, 1)] {
        let jetstream = async_nats::jetstream::new(client.clone());
        let stream = async_nats::jetstream::stream::Config {
            name: "S".to_owned(),
            subjects: vec!["s.>".to_owned()],
            ..Default::default()
        };
        jetstream.create_stream(stream).await.unwrap();
        let ack = jetstream.publish("s.1", "m".into()).await.unwrap().await.unwrap();
        assert_eq!((ack.stream.as_str(), ack.sequence), ("S", expected));
    }
    let mut third = connect(&server).await;
    let heard = talk(&mut third, "CONNECT {\"user\":\"a\",\"pass\":\"a\"}\r\n", "").await;
    assert_eq!(heard, "-ERR 'maximum account active connections exceeded'\n");
}

#[tokio::test]
async fn secrets_are_not_shown_by_monitoring() {
    let server = with_users(vec![user("hidden-name-and-password", "$G", None)]).await;
    let _client = client_of(&server, "hidden-name-and-password").await;
    for path in ["/varz", "/connz?subs=1", "/connz?auth=0", "/accountz"] {
        let (_, body) = crate::monitor::get(&server, path).await;
        assert!(!body.contains("hidden-name-and-password"), "{path}: {body}");
    }
    let named = crate::monitor::get(&server, "/connz?auth=1").await.1;
    assert!(
        named.contains("\"authorized_user\":\"hidden-name-and-password\""),
        "{named}"
    );
}

#[tokio::test]
async fn who_is_no_longer_known_after_a_reload_has_to_go() {
    let server = with_users(vec![user("a", "$G", None), user("b", "$G", None)]).await;
    let (mut a, mut b) = (logged_in(&server, "a").await, logged_in(&server, "b").await);
    server
        .broker
        .reload_auth(&AuthOptions {
            users: vec![user("b", "$G", None)],
            ..AuthOptions::default()
        })
        .unwrap();
    assert_eq!(talk(&mut a, "", "").await, "-ERR 'Authorization Violation'\n");
    assert_eq!(talk(&mut b, "PING\r\n", "PONG").await, "PONG\n");
}
