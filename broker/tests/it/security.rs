//! Classes of holes that have hit a peer, each with a test of its name. Those of authentication are in `auth` and `operator`,
//! those of other accounts' subjects in `sharing`.

use std::time::Duration;

use futures::StreamExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

use crate::Server;
use crate::auth::client_of;
use crate::monitor::get;
use crate::sharing::{configured, settle};
use crate::wire::{connect, talk};

const PATIENCE: Duration = Duration::from_secs(60);

/// A connection of this user that has come in.
async fn logged_in(server: &Server, name: &str) -> TcpStream {
    let mut socket = connect(server).await;
    let hello = format!(
        "CONNECT {{\"verbose\":false,\"headers\":true,\"user\":\"{name}\",\"pass\":\"{name}\"}}\r\nPING\r\n"
    );
    assert_eq!(talk(&mut socket, &hello, "PONG").await, "PONG\n");
    socket
}

#[tokio::test]
async fn what_other_accounts_publish_does_not_get_around_a_denial() {
    let server = configured(
        r#"accounts {
  A { users: [{user: a, password: a}], exports: [{stream: "news.>"}, {service: "ask"}] }
  B { users: [{user: b, password: b, permissions: {subscribe: {deny: ["in.secret", "in.q q"]}, publish: {deny: "ask.a"}}}]
      imports: [{stream: {account: A, subject: "news.>"}, to: "in.>"}, {service: {account: A, subject: ask}, to: "ask.a"}] } }"#,
    )
    .await;
    let a = client_of(&server, "a").await;
    let mut asked = a.subscribe("ask").await.unwrap();
    settle(&a).await;
    let mut b = logged_in(&server, "b").await;
    let heard = talk(
        &mut b,
        "SUB in.* 1\r\nSUB in.* q 2\r\nSUB in.secret 3\r\nPUB ask.a x 1\r\n?\r\nPING\r\n",
        "PONG",
    )
    .await;
    assert_eq!(
        heard,
        "-ERR 'Permissions Violation for Subscription to \"in.secret\"'\n\
         -ERR 'Permissions Violation for Publish to \"ask.a\"'\nPONG\n"
    );
    for subject in ["news.secret", "news.q", "news.open"] {
        a.publish(subject, "m".into()).await.unwrap();
    }
    a.publish("ask", "fence".into()).await.unwrap();
    settle(&a).await;
    let heard = talk(&mut b, "PING\r\n", "PONG").await;
    let mut lines: Vec<&str> = heard.lines().filter(|line| line.starts_with("MSG")).collect();
    lines.sort_unstable();
    assert_eq!(lines, ["MSG in.open 1 1", "MSG in.open 2 1", "MSG in.q 1 1"]);
    let first = tokio::time::timeout(PATIENCE, asked.next())
        .await
        .unwrap()
        .unwrap();
    assert_eq!(&first.payload[..], b"fence");
}

#[tokio::test]
async fn internal_subjects_are_not_for_clients_of_other_accounts() {
    let server = configured(
        "jetstream {}\naccounts { $SYS { users: [{user: sys, password: sys}] }\n\
         A { users: [{user: a, password: a}] }\nJS { jetstream: enabled, users: [{user: js, password: js}] } }",
    )
    .await;
    let (a, js) = (client_of(&server, "a").await, client_of(&server, "js").await);
    let context = async_nats::jetstream::new(js.clone());
    let stream = async_nats::jetstream::stream::Config {
        name: "S".to_owned(),
        subjects: vec!["s.>".to_owned()],
        ..Default::default()
    };
    let stream = context.create_stream(stream).await.unwrap();
    context.publish("s.1", "m".into()).await.unwrap().await.unwrap();
    // Neither the API nor acknowledgements of another account's streams, nor what only the system account may ask.
    let id = a.server_info().server_id;
    for subject in [
        "$JS.API.STREAM.DELETE.S".to_owned(),
        "$JS.API.STREAM.INFO.S".to_owned(),
        "$JS.ACK.S.C.1.1.1.1.0".to_owned(),
        "$SYS.REQ.SERVER.PING".to_owned(),
        "$SYS.REQ.SERVER.PING.VARZ".to_owned(),
        format!("$SYS.REQ.SERVER.{id}.KICK"),
        format!("$SYS.REQ.SERVER.{id}.RELOAD"),
        "$SYS.REQ.ACCOUNT.JS.INFO".to_owned(),
        "$SYS.REQ.CLAIMS.UPDATE".to_owned(),
        "_R_.000000.000000".to_owned(),
    ] {
        match a.request(subject.clone(), "{\"cid\":1}".into()).await {
            Err(err) => assert!(err.to_string().contains("no responders"), "{subject}: {err}"),
            // JetStream says that the account has none.
            Ok(answer) => {
                let text = String::from_utf8_lossy(&answer.payload);
                assert!(text.contains("\"err_code\":10039"), "{subject}: {text}");
            }
        }
    }
    assert_eq!(stream.get_info().await.unwrap().state.messages, 1);
    // Events of the system account are not heard either.
    let mut everything = a.subscribe(">").await.unwrap();
    let mut events = a.subscribe("$SYS.>").await.unwrap();
    settle(&a).await;
    let passing = client_of(&server, "js").await;
    settle(&passing).await;
    passing.drain().await.unwrap();
    a.publish("fence", "f".into()).await.unwrap();
    a.publish("$SYS.fence", "f".into()).await.unwrap();
    a.flush().await.unwrap();
    let own = |subject: &str| subject == "$SYS.REQ.USER.INFO" || subject.starts_with("_INBOX.");
    for (heard, fence) in [(&mut everything, "fence"), (&mut events, "$SYS.fence")] {
        loop {
            let message = tokio::time::timeout(PATIENCE, heard.next())
                .await
                .unwrap()
                .unwrap();
            if message.subject.as_str() == fence {
                break;
            }
            assert!(own(&message.subject), "{}", message.subject);
        }
    }
}

#[tokio::test]
async fn secrets_of_connections_are_not_shown() {
    let server = configured(r#"authorization { users: [{user: a, password: "hidden-pass"}] }"#).await;
    for (user, pass) in [("a", "hidden-pass"), ("a", "hidden-wrong")] {
        let mut socket = connect(&server).await;
        let hello = format!(
            "CONNECT {{\"user\":\"{user}\",\"pass\":\"{pass}\",\"auth_token\":\"hidden-token\",\"jwt\":\"hidden-jwt\",\"sig\":\"hidden-sig\"}}\r\nPING\r\n"
        );
        talk(&mut socket, &hello, "\n").await;
        for path in [
            "/varz",
            "/connz?auth=1&subs=detail",
            "/connz?state=closed&auth=1",
            "/accountz?acc=$G",
            "/subsz?subs=1",
            "/jsz?accounts=1",
        ] {
            let (_, body) = get(&server, path).await;
            assert!(!body.contains("hidden"), "{path}: {body}");
        }
    }
}

/// Frames that make no sense, of which each is answered and none ends the connection.
const NONSENSE: &str = "SUB a..b 1\r\nPUB a..b 1\r\nx\r\nSUB >.a q 2\r\nUNSUB nothing\r\nPUB * 0\r\n\r\n";
const FRAMES_OF_NONSENSE: usize = 5;
/// Frames that end a connection.
const FATAL: [&str; 6] = [
    "NOISE\r\n",
    "PUB a -1\r\n",
    "HPUB a 9 1\r\n",
    "SUB\r\n",
    "PUB a 99999999999999999999\r\n",
    "CONNECT {\"verbose\":\r\n",
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cpu_burnt_by_malformed_frames_is_not_that_of_others() {
    const FRAMES: usize = 30_000;
    const PER_SECOND: usize = 10_000;
    let server = Server::start().await;
    let mut noisy = connect(&server).await;
    assert_eq!(
        talk(
            &mut noisy,
            "CONNECT {\"verbose\":false,\"pedantic\":true}\r\nPING\r\n",
            "PONG"
        )
        .await,
        "PONG\n"
    );
    let (mut hear, mut say) = noisy.into_split();
    // A tenth of a second's frames at a time.
    let ticks = FRAMES * 10 / PER_SECOND;
    let tasks = TaskTracker::new();
    let feeding = tasks.spawn(async move {
        let mut clock = tokio::time::interval(Duration::from_millis(100));
        let burst = NONSENSE.repeat(PER_SECOND / 10 / FRAMES_OF_NONSENSE);
        for _ in 0..ticks {
            clock.tick().await;
            say.write_all(burst.as_bytes()).await.unwrap();
        }
        say.write_all(b"PING\r\n").await.unwrap();
        say
    });
    let hearing = tasks.spawn(async move {
        let (mut errors, mut tail, mut buf) = (0, Vec::new(), vec![0; 64 << 10]);
        loop {
            let count = hear.read(&mut buf).await.unwrap();
            assert!(count > 0, "the noisy connection was ended");
            tail.extend_from_slice(&buf[..count]);
            let lines = tail
                .iter()
                .rposition(|byte| *byte == b'\n')
                .map_or(0, |at| at + 1);
            let whole: Vec<u8> = tail.drain(..lines).collect();
            errors += whole.windows(5).filter(|five| five == b"-ERR ").count();
            if whole.ends_with(b"PONG\r\n") {
                return errors;
            }
        }
    });
    let addr = server.broker.client_addr();
    let breaking = tasks.spawn(async move {
        for number in 0..300 {
            let mut socket = TcpStream::connect(addr).await.unwrap();
            socket
                .write_all(FATAL[number % FATAL.len()].as_bytes())
                .await
                .unwrap();
            let mut heard = Vec::new();
            // A reset is an end too.
            drop(socket.read_to_end(&mut heard).await);
        }
    });
    // Somebody else asks and is answered all the while.
    let (asker, server_side) = (server.client().await, server.client().await);
    let mut requests = server_side.subscribe("ask").await.unwrap();
    settle(&server_side).await;
    tasks.spawn(async move {
        while let Some(request) = requests.next().await {
            server_side
                .publish(request.reply.unwrap(), "!".into())
                .await
                .unwrap();
        }
    });
    let (mut answered, mut slowest) = (0, Duration::ZERO);
    while !feeding.is_finished() || !breaking.is_finished() {
        let asked = Instant::now();
        asker.request("ask", "?".into()).await.unwrap();
        slowest = slowest.max(asked.elapsed());
        answered += 1;
    }
    tokio::time::timeout(PATIENCE, breaking).await.unwrap().unwrap();
    let _open = tokio::time::timeout(PATIENCE, feeding).await.unwrap().unwrap();
    let errors = tokio::time::timeout(PATIENCE, hearing).await.unwrap().unwrap();
    assert!(errors >= FRAMES / FRAMES_OF_NONSENSE * 2, "{errors} errors");
    assert!(
        answered > 100 && slowest < Duration::from_secs(3),
        "{answered} answers, the slowest after {slowest:?}"
    );
}
