//! Services that let users in, played by a client of this process. What is let in and refused is what nats-server 2.15.2 lets in
//! and refuses, but for networks (`src`), which it does not look at.

use std::time::Duration;

use async_nats::{Client, ConnectOptions};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use futures::StreamExt;
use nkeys::{KeyPairType, XKey};
use serde_json::{Value, json};
use tokio_util::task::TaskTracker;

use crate::Server;
use crate::auth::client_of;
use crate::operator::{ACCOUNT, Key, OPERATOR, USER, account, now, user};
use crate::sharing::{configured, options_of};

const SUBJECT: &str = "$SYS.REQ.USER.AUTH";
const SERVER: KeyPairType = KeyPairType::Server;

fn issuer() -> Key {
    Key::new(ACCOUNT, 7)
}

fn stranger() -> Key {
    Key::new(ACCOUNT, 8)
}

/// A configuration whose users are left to the service `auth` in AUTH.
fn config(more: &str) -> String {
    format!(
        "jetstream {{}}\nserver_tags: [\"a:b\"]\naccounts {{\n\
         $SYS: {{ users: [{{user: sys, password: sys}}] }}\n\
         AUTH: {{ users: [{{user: auth, password: auth}}] }}\n\
         FOO: {{ users: [{{user: foo, password: foo}}] }}\nBAR: {{}}\n}}\n\
         authorization {{ timeout: 1, auth_callout {{ issuer: {}, account: AUTH, auth_users: [auth], {more} }} }}",
        issuer().public
    )
}

/// What the server asks.
struct Question {
    claims: Value,
    /// As whom the client wants to come in.
    user: String,
}

impl Question {
    fn read(token: &[u8]) -> Self {
        let token = std::str::from_utf8(token).unwrap();
        let claims = token.split('.').nth(1).unwrap();
        let claims: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(claims).unwrap()).unwrap();
        let shown = &claims["nats"]["connect_opts"];
        let user = shown["user"].as_str().or(shown["auth_token"].as_str());
        let user = user.unwrap_or_default().to_owned();
        Self { claims, user }
    }

    fn key(&self) -> &str {
        self.claims["nats"]["user_nkey"].as_str().unwrap()
    }

    fn server(&self) -> &str {
        self.claims["nats"]["server_id"]["id"].as_str().unwrap()
    }

    /// The answer that says so, signed by `key`.
    fn answer(&self, key: &Key, body: Value, more: Value) -> String {
        let mut body = body;
        body["type"] = "authorization_response".into();
        let mut claims = json!({"aud": self.server()});
        claims
            .as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        key.sign_at(self.key(), "", body, claims, 0)
    }

    /// The user's token, signed by `key`.
    fn token(&self, key: &Key, body: Value, more: Value) -> String {
        key.sign_at(self.key(), "", user(body), more, 0)
    }

    /// Lets the user into `account` with these rights.
    fn let_in(&self, account: &str, body: Value, more: Value) -> String {
        let mut claims = json!({"aud": account});
        claims
            .as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        let token = self.token(&issuer(), body, claims);
        self.answer(&issuer(), json!({"jwt": token}), json!({}))
    }
}

/// Answers questions as `answer` says; nothing is no answer.
async fn serve(client: Client, answer: impl Fn(&async_nats::Message) -> Option<Vec<u8>> + Send + 'static) {
    let mut questions = client.subscribe(SUBJECT).await.unwrap();
    client.flush().await.unwrap();
    TaskTracker::new().spawn(async move {
        while let Some(question) = questions.next().await {
            if let Some(answer) = answer(&question) {
                let reply = question.reply.clone().unwrap();
                client.publish(reply, answer.into()).await.unwrap();
            }
        }
    });
}

async fn come(server: &Server, user: &str) -> Option<Client> {
    ConnectOptions::with_user_and_password(user.to_owned(), user.to_owned())
        .connect(server.broker.client_addr().to_string())
        .await
        .ok()
}

/// User and account of a client, as the server tells them.
async fn who(client: &Client) -> (String, String) {
    let info = client.request("$SYS.REQ.USER.INFO", "".into()).await.unwrap();
    let info: Value = serde_json::from_slice(&info.payload).unwrap();
    let field = |name: &str| info["data"][name].as_str().unwrap().to_owned();
    (field("user"), field("account"))
}

/// The answers to users of these names.
fn judge(question: &Question) -> Option<Vec<u8>> {
    let let_in = |account: &str| question.let_in(account, json!({}), json!({}));
    let signed_by = |key: &Key, more: Value| {
        let token = question.token(key, more, json!({"aud": "FOO"}));
        question.answer(&issuer(), json!({"jwt": token}), json!({}))
    };
    let past = json!({"exp": now() - 5});
    let good = question.token(&issuer(), json!({}), json!({"aud": "FOO"}));
    let other_user = issuer().sign_at(
        &Key::new(USER, 3).public,
        "",
        user(json!({})),
        json!({"aud": "FOO"}),
        0,
    );
    Some(
        match question.user.as_str() {
            "silent" => return None,
            "empty" => String::new(),
            "junk" => "eyJ.x.y".to_owned(),
            "bar" => let_in("BAR"),
            "own" => let_in("AUTH"),
            "nowhere" => let_in("NOWHERE"),
            "no account" => let_in(""),
            "named" => {
                let named =
                    issuer().sign_at(question.key(), "bob", user(json!({})), json!({"aud": "FOO"}), 0);
                question.answer(&issuer(), json!({"jwt": named}), json!({}))
            }
            "forged" => signed_by(&stranger(), json!({})),
            "of another" => signed_by(&issuer(), json!({"issuer_account": stranger().public})),
            "other user" => question.answer(&issuer(), json!({"jwt": other_user}), json!({})),
            "other answer" => issuer().sign_at(
                &Key::new(USER, 3).public,
                "",
                json!({"type": "authorization_response", "jwt": good}),
                json!({"aud": question.server()}),
                0,
            ),
            "other server" => question.answer(
                &issuer(),
                json!({"jwt": good}),
                json!({"aud": Key::new(SERVER, 3).public}),
            ),
            "other signer" => question.answer(&stranger(), json!({"jwt": good}), json!({})),
            "bare token" => good,
            "both" => question.answer(&issuer(), json!({"jwt": good, "error": "x"}), json!({})),
            "error" => question.answer(&issuer(), json!({"error": "no"}), json!({})),
            "nothing" => question.answer(&issuer(), json!({}), json!({})),
            "expired answer" => question.answer(&issuer(), json!({"jwt": good}), past),
            "expired" => question.let_in("FOO", json!({}), past),
            "elsewhere" => question.let_in("FOO", json!({"src": ["10.0.0.0/8"]}), json!({})),
            "websocket" => question.let_in(
                "FOO",
                json!({"allowed_connection_types": ["WEBSOCKET"]}),
                json!({}),
            ),
            "proxy" => question.let_in("FOO", json!({"proxy_required": true}), json!({})),
            "limited" => question.let_in("FOO", json!({"pub": {"deny": ["secret"]}}), json!({})),
            "soon" => question.let_in("FOO", json!({}), json!({"exp": now() + 4})),
            _ => let_in("FOO"),
        }
        .into_bytes(),
    )
}

#[tokio::test]
async fn a_service_lets_users_in() {
    let server = configured(&config("")).await;
    let service = client_of(&server, "auth").await;
    serve(service, |question| judge(&Question::read(&question.payload))).await;
    for (name, expected) in [
        ("good", ("good", "FOO")),
        ("named", ("bob", "FOO")),
        ("bar", ("bar", "BAR")),
        ("own", ("own", "AUTH")),
        // Those that the file knows are asked about too.
        ("foo", ("foo", "FOO")),
        ("sys", ("sys", "FOO")),
    ] {
        let client = come(&server, name).await.unwrap_or_else(|| panic!("{name}"));
        let (user, account) = who(&client).await;
        assert_eq!((user.as_str(), account.as_str()), expected, "{name}");
    }
    for name in [
        "empty",
        "junk",
        "nowhere",
        "no account",
        "forged",
        "of another",
        "other user",
        "other answer",
        "other server",
        "other signer",
        "bare token",
        "both",
        "error",
        "nothing",
        "expired answer",
        "expired",
        "elsewhere",
        "websocket",
        "proxy",
        "silent",
    ] {
        assert!(come(&server, name).await.is_none(), "{name} came in");
    }
    // The service's own user is not asked about: neither with the right password nor with a wrong one.
    let wrong = ConnectOptions::with_user_and_password("auth".to_owned(), "wrong".to_owned());
    let address = server.broker.client_addr().to_string();
    assert!(wrong.connect(address.clone()).await.is_err());
    let token = ConnectOptions::with_token("tok".to_owned());
    let (user, account) = who(&token.connect(address).await.unwrap()).await;
    assert_eq!((user.as_str(), account.as_str()), ("[REDACTED]", "FOO"));
}

#[tokio::test]
async fn what_a_service_allows_holds() {
    let server = configured(&config("")).await;
    let service = client_of(&server, "auth").await;
    serve(service.clone(), |question| {
        judge(&Question::read(&question.payload))
    })
    .await;
    let hello = |name: &str| {
        format!(
            "CONNECT {{\"verbose\":false,\"headers\":true,\"user\":\"{name}\",\"pass\":\"x\"}}\r\nPING\r\n"
        )
    };
    let mut limited = crate::wire::connect(&server).await;
    crate::wire::talk(&mut limited, &hello("limited"), "PONG").await;
    let heard = crate::wire::talk(&mut limited, "PUB secret 1\r\nx\r\nPING\r\n", "PONG").await;
    assert!(
        heard.starts_with("-ERR 'Permissions Violation for Publish to \"secret\"'"),
        "{heard}"
    );
    // Nobody but the server asks the service.
    let ask = format!("PUB {SUBJECT} 1\r\nx\r\nPING\r\n");
    let mut own = crate::wire::connect(&server).await;
    crate::wire::talk(&mut own, &hello("own"), "PONG").await;
    let mut auth = crate::wire::connect(&server).await;
    crate::wire::talk(&mut auth, &hello("auth").replace("\"x\"", "\"auth\""), "PONG").await;
    for socket in [&mut own, &mut auth] {
        let heard = crate::wire::talk(socket, &ask, "PONG").await;
        assert!(heard.starts_with("-ERR 'Permissions Violation"), "{heard}");
    }
    let mut soon = crate::wire::connect(&server).await;
    let heard = crate::wire::talk(&mut soon, &hello("soon"), "").await;
    assert!(
        heard.starts_with("PONG") && heard.ends_with("-ERR 'User Authentication Expired'\n"),
        "{heard}"
    );
    // A reload without the service ends what it let in, and leaves its own user alone.
    let good = come(&server, "good").await.unwrap();
    let without = config("").replace("auth_callout", "#");
    let without = options_of(&format!("{without}\n}}"));
    server.broker.reload_auth(&without.auth).unwrap();
    let ended = async {
        while good.connection_state() == async_nats::connection::State::Connected {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), ended)
        .await
        .unwrap();
    assert!(come(&server, "good").await.is_none());
    assert!(come(&server, "foo").await.is_some());
}

#[tokio::test]
async fn the_question_says_who_wants_to_come_in() {
    let server = configured(&config("")).await;
    let service = client_of(&server, "auth").await;
    let mut questions = service.subscribe(SUBJECT).await.unwrap();
    service.flush().await.unwrap();
    let began = tokio::time::Instant::now();
    let (refused, question) = tokio::join!(come(&server, "dlc"), questions.next());
    // Nobody answers: it takes as long as the file says.
    assert!(refused.is_none() && began.elapsed() >= Duration::from_millis(900));
    let question = question.unwrap();
    assert!(question.reply.as_ref().unwrap().starts_with("$SYS._INBOX."));
    let claims = Question::read(&question.payload).claims;
    let asked = &claims["nats"];
    assert_eq!(
        (&claims["aud"], &claims["sub"], &claims["iss"]),
        (
            &"nats-authorization-request".into(),
            &issuer().public.into(),
            &asked["server_id"]["id"]
        )
    );
    assert_eq!(
        claims["exp"].as_i64().unwrap() - claims["iat"].as_i64().unwrap(),
        1
    );
    assert_eq!(asked["server_id"]["id"], service.server_info().server_id);
    assert_eq!(asked["server_id"]["tags"], json!(["a:b"]));
    assert_eq!(asked["type"], "authorization_request");
    let client = &asked["client_info"];
    assert_eq!(
        (&client["user"], &client["host"], &client["kind"], &client["type"]),
        (
            &"dlc".into(),
            &"127.0.0.1".into(),
            &"Client".into(),
            &"nats".into()
        )
    );
    assert_eq!(
        (&asked["connect_opts"]["pass"], &asked["connect_opts"]["lang"]),
        (&"dlc".into(), &"rust".into())
    );
}

/// Who has the token of the file is still asked about, whatever it calls itself; the one user of the file may be the service.
#[tokio::test]
async fn a_name_makes_nobody_the_service() {
    let with = |who: &str| {
        let issuer = issuer().public;
        format!(
            "authorization {{ {who}, timeout: 1, auth_callout {{ issuer: {issuer}, auth_users: [auth] }} }}"
        )
    };
    let server = configured(&with("token: tok")).await;
    let mut socket = crate::wire::connect(&server).await;
    let hello = "CONNECT {\"verbose\":false,\"user\":\"auth\",\"auth_token\":\"tok\"}\r\nPING\r\n";
    let heard = crate::wire::talk(&mut socket, hello, "").await;
    assert_eq!(heard, "-ERR 'Authorization Violation'\n");

    let server = configured(&with("user: auth, pass: auth")).await;
    let service = client_of(&server, "auth").await;
    serve(service, |question| {
        let question = Question::read(&question.payload);
        Some(question.let_in("$G", json!({}), json!({})).into_bytes())
    })
    .await;
    let (user, account) = who(&come(&server, "dlc").await.unwrap()).await;
    assert_eq!((user.as_str(), account.as_str()), ("dlc", "$G"));
    let mut auth = crate::wire::connect(&server).await;
    let hello = format!(
        "CONNECT {{\"verbose\":false,\"user\":\"auth\",\"pass\":\"auth\"}}\r\nPUB {SUBJECT} 1\r\nx\r\nPING\r\n"
    );
    let heard = crate::wire::talk(&mut auth, &hello, "PONG").await;
    assert!(heard.starts_with("-ERR 'Permissions Violation"), "{heard}");
}

#[tokio::test]
async fn questions_and_answers_are_sealed() {
    let own = XKey::new_from_raw([9; 32]);
    let server = configured(&config(&format!("xkey: {}", own.public_key()))).await;
    let service = client_of(&server, "auth").await;
    serve(service, move |question| {
        let headers = question.headers.as_ref().unwrap();
        let sealed_by = headers.get("Nats-Server-Xkey").unwrap().as_str();
        let asker = XKey::from_public_key(sealed_by).unwrap();
        let opened = own.open(&question.payload, &asker).unwrap();
        let asked = Question::read(&opened);
        assert_eq!(asked.claims["nats"]["server_id"]["xkey"], sealed_by);
        let answer = judge(&asked)?;
        let seal = |from: &XKey| from.seal(&answer, &asker).unwrap();
        Some(match asked.user.as_str() {
            "plain" => answer,
            "sealed by another" => seal(&XKey::new_from_raw([10; 32])),
            "cut" => seal(&own)[..40].to_vec(),
            _ => seal(&own),
        })
    })
    .await;
    for name in ["good", "plain"] {
        assert!(come(&server, name).await.is_some(), "{name}");
    }
    for name in ["error", "forged", "sealed by another", "cut"] {
        assert!(come(&server, name).await.is_none(), "{name} came in");
    }
}

/// An operator's account whose users are let in by its service, into itself and into another account.
#[tokio::test]
async fn a_service_of_an_operator_s_account_lets_users_in() {
    let operator = Key::new(OPERATOR, 1);
    let (auth, other, closed) = (Key::new(ACCOUNT, 2), Key::new(ACCOUNT, 3), Key::new(ACCOUNT, 4));
    let (own, sentinel) = (Key::new(USER, 5), Key::new(USER, 6));
    let service = json!({"authorization": {"auth_users": [own.public], "allowed_accounts": [other.public]}});
    let body = |key: &Key| {
        if key.public == auth.public {
            service.clone()
        } else {
            json!({})
        }
    };
    let preload: Vec<String> = [&auth, &other, &closed]
        .into_iter()
        .map(|key| {
            format!(
                "{}: {}",
                key.public,
                operator.sign(&key.public, "x", account(body(key)))
            )
        })
        .collect();
    let claims = json!({"type": "operator"});
    let server = configured(&format!(
        "operator: {}\nresolver: MEMORY\nauthorization {{ timeout: 1 }}\nresolver_preload: {{\n{}\n}}",
        operator.sign(&operator.public, "O", claims),
        preload.join("\n")
    ))
    .await;
    let token = auth.sign(&own.public, "service", user(json!({})));
    let client = crate::operator::connect(&server, &token, Some(&own))
        .await
        .unwrap();
    let keys = [
        ("auth", auth.clone()),
        ("other", other.clone()),
        ("closed", closed),
    ];
    let speaker = auth.clone();
    serve(client, move |question| {
        let asked = Question::read(&question.payload);
        assert_eq!(asked.claims["sub"], speaker.public);
        let (_, key) = keys.iter().find(|(name, _)| asked.user.starts_with(name))?;
        let token = asked.token(key, json!({}), json!({}));
        let signer = if asked.user.ends_with("forged") {
            &stranger()
        } else {
            &speaker
        };
        Some(
            asked
                .answer(signer, json!({"jwt": token}), json!({}))
                .into_bytes(),
        )
    })
    .await;
    let bearer = auth.sign(&sentinel.public, "sentinel", user(json!({"bearer_token": true})));
    let hello = |name: &str, token: &str| {
        format!(
            "CONNECT {{\"verbose\":false,\"protocol\":1,\"user\":\"{name}\",\"pass\":\"x\",\"jwt\":\"{token}\"}}\r\nPING\r\n"
        )
    };
    for (name, account) in [
        ("auth", Some(&auth)),
        ("other", Some(&other)),
        ("closed", None),
        ("auth forged", None),
        ("nobody", None),
    ] {
        let mut socket = crate::wire::connect(&server).await;
        let heard = crate::wire::talk(&mut socket, &hello(name, &bearer), "\n").await;
        match account {
            Some(account) => {
                let heard = heard + &crate::wire::talk(&mut socket, "PING\r\n", "PONG").await;
                assert!(
                    heard.contains(&format!("\"remote_account\":\"{}\"", account.public)),
                    "{name}: {heard}"
                );
            }
            None => assert!(
                heard.starts_with("-ERR 'Authorization Violation'"),
                "{name}: {heard}"
            ),
        }
    }
    // Who calls itself by the name of the service's user is asked about like all others.
    let mut socket = crate::wire::connect(&server).await;
    let heard = crate::wire::talk(&mut socket, &hello(&own.public, &bearer), "\n").await;
    assert!(heard.starts_with("-ERR 'Authorization Violation'"), "{heard}");
}
