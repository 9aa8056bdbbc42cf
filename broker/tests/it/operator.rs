//! Operator mode: tokens signed here as `nsc` signs them, and clients that show them.

use std::sync::Arc;

use async_nats::jetstream;
use async_nats::{Auth, Client, ConnectError, ConnectOptions};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use futures::StreamExt;
use nkeys::{KeyPair, KeyPairType};
use serde_json::{Value, json};

use crate::Server;
use crate::sharing::{configured, options_of};

pub(crate) const OPERATOR: KeyPairType = KeyPairType::Operator;
pub(crate) const ACCOUNT: KeyPairType = KeyPairType::Account;
pub(crate) const USER: KeyPairType = KeyPairType::User;

/// A key that signs.
#[derive(Clone)]
pub(crate) struct Key {
    pair: Arc<KeyPair>,
    pub(crate) public: String,
}

impl Key {
    pub(crate) fn new(kind: KeyPairType, seed: u8) -> Self {
        let pair = KeyPair::new_from_raw(kind, [seed; 32]).unwrap();
        Self {
            public: pair.public_key(),
            pair: Arc::new(pair),
        }
    }

    /// A file of credentials, as `nsc generate creds` writes it.
    pub(crate) fn credentials(&self, token: &str) -> String {
        let seed = self.pair.seed().unwrap();
        format!(
            "-----BEGIN NATS USER JWT-----\n{token}\n------END NATS USER JWT------\n\n\
             -----BEGIN USER NKEY SEED-----\n{seed}\n------END USER NKEY SEED------\n"
        )
    }

    /// `text`, signed and encoded as tokens have it.
    fn signature(&self, text: &str) -> String {
        URL_SAFE_NO_PAD.encode(self.pair.sign(text.as_bytes()).unwrap())
    }

    /// A token of this key's about `subject`, issued `age_secs` ago.
    pub(crate) fn sign_at(
        &self,
        subject: &str,
        name: &str,
        body: Value,
        more: Value,
        age_secs: i64,
    ) -> String {
        let mut claims = json!({
            "jti": "x", "iat": now() - age_secs, "iss": self.public, "name": name, "sub": subject, "nats": body,
        });
        claims["nats"]["version"] = 2.into();
        claims
            .as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        let encode = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let header = json!({"typ": "JWT", "alg": "ed25519-nkey"});
        let signed = format!("{}.{}", encode(&header), encode(&claims));
        format!("{signed}.{}", self.signature(&signed))
    }

    pub(crate) fn sign(&self, subject: &str, name: &str, body: Value) -> String {
        self.sign_at(subject, name, body, json!({}), 0)
    }

    /// A token of version 1: the kind stands beside the claims, and only the claims are signed, unless `header_too`.
    fn sign_version_1(&self, subject: &str, kind: &str, body: Value, header_too: bool) -> String {
        let claims = json!({
            "jti": "x", "iat": now(), "iss": self.public, "name": kind, "sub": subject, "type": kind, "nats": body,
        });
        let encode = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let (header, claims) = (encode(&json!({"typ": "jwt", "alg": "ed25519"})), encode(&claims));
        let unsigned = format!("{header}.{claims}");
        let signed = if header_too { &unsigned } else { &claims };
        format!("{unsigned}.{}", self.signature(signed))
    }
}

/// Seconds since 1970.
pub(crate) fn now() -> i64 {
    jiff::Timestamp::now().as_second()
}

/// Keys of an operator, its accounts and a user.
struct Keys {
    operator: Key,
    system: Key,
    a: Key,
    b: Key,
    /// A key that signs users of A.
    signing: Key,
    user: Key,
}

fn keys() -> Keys {
    Keys {
        operator: Key::new(OPERATOR, 1),
        system: Key::new(ACCOUNT, 2),
        a: Key::new(ACCOUNT, 3),
        b: Key::new(ACCOUNT, 4),
        signing: Key::new(ACCOUNT, 5),
        user: Key::new(USER, 6),
    }
}

const NO_LIMITS: &str =
    r#"{"subs":-1,"data":-1,"payload":-1,"imports":-1,"exports":-1,"wildcards":true,"conn":-1,"leaf":-1}"#;

pub(crate) fn account(more: Value) -> Value {
    let mut body = json!({"type": "account", "limits": serde_json::from_str::<Value>(NO_LIMITS).unwrap()});
    for (name, value) in more.as_object().unwrap() {
        match (name.as_str(), value.as_object()) {
            ("limits", Some(limits)) => body["limits"].as_object_mut().unwrap().extend(limits.clone()),
            _ => body[name] = value.clone(),
        }
    }
    body
}

pub(crate) fn user(more: Value) -> Value {
    let mut body = json!({"type": "user", "pub": {}, "sub": {}, "subs": -1, "data": -1, "payload": -1});
    body.as_object_mut()
        .unwrap()
        .extend(more.as_object().unwrap().clone());
    body
}

impl Keys {
    /// A configuration with these accounts, as `nsc generate config --mem-resolver` writes it.
    fn config(&self, a: Value, b: Value) -> String {
        let operator = json!({"type": "operator", "system_account": self.system.public});
        let operator = self.operator.sign(&self.operator.public, "O", operator);
        let tokens = [
            (&self.system, "SYS", json!({})),
            (&self.a, "A", a),
            (&self.b, "B", b),
        ];
        let preload: Vec<String> = tokens
            .into_iter()
            .map(|(key, name, more)| {
                format!(
                    "{}: {}",
                    key.public,
                    self.operator.sign(&key.public, name, account(more))
                )
            })
            .collect();
        format!(
            "operator: {operator}\nsystem_account: {}\nresolver: MEMORY\nresolver_preload: {{\n{}\n}}\njetstream {{}}",
            self.system.public,
            preload.join("\n")
        )
    }

    async fn server(&self, a: Value, b: Value) -> Server {
        configured(&self.config(a, b)).await
    }

    /// The token of the user in account A.
    fn user_of_a(&self, more: Value) -> String {
        self.a.sign(&self.user.public, "user", user(more))
    }
}

pub(crate) async fn connect(server: &Server, token: &str, key: Option<&Key>) -> Result<Client, ConnectError> {
    let options = match key {
        Some(key) => ConnectOptions::with_credentials(&key.credentials(token)).unwrap(),
        None => {
            let token = token.to_owned();
            ConnectOptions::with_auth_callback(move |_| {
                let mut auth = Auth::new();
                auth.jwt = Some(token.clone());
                async move { Ok(auth) }
            })
        }
    };
    options.connect(server.broker.client_addr().to_string()).await
}

pub(crate) async fn is_let_in(server: &Server, token: &str, key: Option<&Key>) -> bool {
    match connect(server, token, key).await {
        Ok(client) => client.flush().await.is_ok(),
        Err(_) => false,
    }
}

async fn may_publish(client: &Client, subject: &str) -> bool {
    let mut heard = client.subscribe(subject.to_owned()).await.unwrap();
    client.publish(subject.to_owned(), "m".into()).await.unwrap();
    let mut fence = client.subscribe("fence").await.unwrap();
    client.publish("fence", "f".into()).await.unwrap();
    tokio::select! {
        biased;
        got = heard.next() => got.is_some(),
        _ = fence.next() => false,
    }
}

#[tokio::test]
async fn users_come_in_by_their_token_and_signature() {
    let keys = keys();
    let server = keys
        .server(
            json!({"limits": {"mem_storage": -1, "disk_storage": 1 << 20, "streams": 1}}),
            json!({}),
        )
        .await;
    let client = connect(&server, &keys.user_of_a(json!({})), Some(&keys.user))
        .await
        .unwrap();
    let info = client.request("$SYS.REQ.USER.INFO", "".into()).await.unwrap();
    let info: Value = serde_json::from_slice(&info.payload).unwrap();
    assert_eq!(info["data"]["user"], json!(keys.user.public));
    assert_eq!(info["data"]["account"], json!(keys.a.public));
    let context = jetstream::new(client);
    let stream = |name: &str| jetstream::stream::Config {
        name: name.to_owned(),
        max_bytes: 1000,
        ..Default::default()
    };
    context.create_stream(stream("ONE")).await.unwrap();
    assert!(context.create_stream(stream("TWO")).await.is_err());
    let of_b = keys.b.sign(&keys.user.public, "user", user(json!({})));
    let client = connect(&server, &of_b, Some(&keys.user)).await.unwrap();
    let refused = jetstream::new(client).query_account().await.unwrap_err();
    assert!(
        refused.to_string().contains("not enabled for account"),
        "{refused}"
    );
}

/// Security: fast paths around authentication.
#[tokio::test]
async fn nobody_comes_in_with_less() {
    let keys = keys();
    let server = keys
        .server(json!({}), json!({"limits": {"disallow_bearer": true}}))
        .await;
    let good = keys.user_of_a(json!({}));
    assert!(is_let_in(&server, &good, Some(&keys.user)).await);
    assert!(!is_let_in(&server, &good, None).await, "no signature");
    assert!(
        !is_let_in(&server, &good, Some(&keys.a)).await,
        "signed by another key"
    );
    assert!(!is_let_in(&server, "", None).await, "no token");
    let (head, tail) = good.rsplit_once('.').unwrap();
    let forged = [
        format!("{head}.{}", tail.chars().rev().collect::<String>()),
        format!("{head}."),
        keys.b.sign(
            &keys.user.public,
            "user",
            user(json!({"issuer_account": keys.a.public})),
        ),
        Key::new(ACCOUNT, 9).sign(&keys.user.public, "user", user(json!({}))),
        keys.user.sign(
            &keys.user.public,
            "user",
            user(json!({"issuer_account": keys.a.public})),
        ),
        keys.a
            .sign(&keys.user.public, "user", json!({"type": "activation"})),
        keys.operator.sign(&keys.user.public, "user", user(json!({}))),
        keys.a.sign_at(
            &keys.user.public,
            "user",
            user(json!({})),
            json!({"exp": now() - 5}),
            10,
        ),
        keys.a.sign_at(
            &keys.user.public,
            "user",
            user(json!({})),
            json!({"nbf": now() + 500}),
            10,
        ),
        keys.user_of_a(json!({"src": ["10.0.0.0/8"]})),
        keys.user_of_a(json!({"allowed_connection_types": ["WEBSOCKET"]})),
        keys.user_of_a(json!({"times": [{"start": "00:00:00", "end": "00:00:00"}], "times_location": "UTC"})),
        keys.user_of_a(
            json!({"times": [{"start": "00:00:00", "end": "23:59:59"}], "times_location": "No/Where"}),
        ),
    ];
    for (number, token) in forged.iter().enumerate() {
        assert!(!is_let_in(&server, token, Some(&keys.user)).await, "{number}");
    }
    let bearer = user(json!({"bearer_token": true}));
    assert!(
        is_let_in(
            &server,
            &keys.a.sign(&keys.user.public, "user", bearer.clone()),
            None
        )
        .await
    );
    assert!(!is_let_in(&server, &keys.b.sign(&keys.user.public, "user", bearer), None).await);
}

#[tokio::test]
async fn tokens_of_version_1_are_believed() {
    let keys = keys();
    let operator = &keys.operator;
    let limits: Value = serde_json::from_str(NO_LIMITS).unwrap();
    let token_of = |key: &Key, body| operator.sign_version_1(&key.public, "account", body, false);
    let config = format!(
        "operator: {}\nresolver: MEMORY\nresolver_preload: {{\n{}: {}\n{}: {}\n}}",
        operator.sign_version_1(&operator.public, "operator", json!({}), false),
        keys.a.public,
        token_of(&keys.a, json!({"limits": limits})),
        keys.b.public,
        token_of(&keys.b, json!({})),
    );
    let server = configured(&config).await;
    let body = json!({"pub": {"allow": ["own.>", "fence"]}, "sub": {}});
    let token = |signer: &Key, kind: &str, header_too: bool| {
        signer.sign_version_1(&keys.user.public, kind, body.clone(), header_too)
    };
    let client = connect(&server, &token(&keys.a, "user", false), Some(&keys.user))
        .await
        .unwrap();
    assert!(may_publish(&client, "own.x").await && !may_publish(&client, "other").await);
    for (refused, why) in [
        (token(&keys.a, "user", true), "more is signed"),
        (token(&keys.a, "account", false), "not of a user"),
        (token(&keys.signing, "user", false), "a key that nobody knows"),
        (
            token(&keys.b, "user", false),
            "an account of which nothing is said has no connections",
        ),
    ] {
        assert!(!is_let_in(&server, &refused, Some(&keys.user)).await, "{why}");
    }
}

#[tokio::test]
async fn keys_that_sign_give_rights() {
    let keys = keys();
    let plain = Key::new(ACCOUNT, 7);
    let scope = json!({
        "kind": "user_scope", "key": keys.signing.public, "role": "r",
        "template": {"pub": {"allow": ["{{account-name()}}.{{name()}}.>", "at.{{tag(site)}}", "fence"]}, "sub": {},
                     "subs": 4, "data": -1, "payload": 100},
    });
    let server = keys
        .server(json!({"signing_keys": [plain.public, scope]}), json!({}))
        .await;
    let of_a = json!({"issuer_account": keys.a.public});
    let token = plain.sign(&keys.user.public, "bob", user(of_a.clone()));
    assert!(is_let_in(&server, &token, Some(&keys.user)).await);
    // Who is signed by a scoped key has the rights of the key, and none of its own.
    let token = keys.signing.sign(&keys.user.public, "bob", user(of_a.clone()));
    assert!(!is_let_in(&server, &token, Some(&keys.user)).await);
    let body = json!({"type": "user", "issuer_account": keys.a.public, "tags": ["site:x", "site:y"]});
    let token = keys.signing.sign(&keys.user.public, "bob", body);
    let client = connect(&server, &token, Some(&keys.user)).await.unwrap();
    assert_eq!(client.server_info().max_payload, 1 << 20);
    for (subject, expected) in [
        ("A.bob.x", true),
        ("at.y", true),
        ("A.eve.x", false),
        ("at.z", false),
    ] {
        assert_eq!(may_publish(&client, subject).await, expected, "{subject}");
    }
    let no_tags = keys.signing.sign(
        &keys.user.public,
        "bob",
        json!({"type": "user", "issuer_account": keys.a.public}),
    );
    assert!(!is_let_in(&server, &no_tags, Some(&keys.user)).await);
}

#[tokio::test]
async fn who_is_revoked_or_expires_has_to_go() {
    let keys = keys();
    let server = keys.server(json!({}), json!({})).await;
    let old = keys
        .a
        .sign_at(&keys.user.public, "user", user(json!({})), json!({}), 100);
    let client = connect(&server, &old, Some(&keys.user)).await.unwrap();
    client.flush().await.unwrap();
    let revoked = keys.config(
        json!({"revocations": {keys.user.public.clone(): now() - 50}}),
        json!({}),
    );
    server.broker.reload_auth(&options_of(&revoked).auth).unwrap();
    assert!(!is_let_in(&server, &old, Some(&keys.user)).await);
    assert!(is_let_in(&server, &keys.user_of_a(json!({})), Some(&keys.user)).await);
    let mut socket = crate::wire::connect(&server).await;
    let soon = json!({"exp": now() + 4});
    let bearer = keys.a.sign_at(
        &keys.user.public,
        "user",
        user(json!({"bearer_token": true})),
        soon,
        0,
    );
    let hello = format!("CONNECT {{\"verbose\":false,\"jwt\":\"{bearer}\"}}\r\nPING\r\n");
    let heard = crate::wire::talk(&mut socket, &hello, "").await;
    assert!(
        heard.starts_with("PONG") && heard.ends_with("-ERR 'User Authentication Expired'\n"),
        "{heard}"
    );
}

#[tokio::test]
async fn what_is_activated_is_shared() {
    let keys = keys();
    let exports = |revocations: Value| {
        json!({"exports": [
            {"name": "open", "subject": "open.*", "type": "stream"},
            {"name": "closed", "subject": "closed.>", "type": "stream", "token_req": true, "revocations": revocations},
        ]})
    };
    let activation = |subject: &str, to: &Key| {
        let body = json!({"type": "activation", "subject": subject, "kind": "stream"});
        keys.a.sign(&to.public, "act", body)
    };
    let imports = |token: String| {
        json!({"imports": [
            {"subject": "open.*", "account": keys.a.public, "type": "stream", "local_subject": "here.$1"},
            {"subject": "closed.x", "account": keys.a.public, "type": "stream", "token": token},
        ]})
    };
    let of_b = keys.b.sign(&keys.user.public, "user", user(json!({})));
    for (token, revocations, is_shared) in [
        (activation("closed.>", &keys.b), json!({}), true),
        (activation("closed.>", &keys.b), json!({"*": now() + 10}), false),
        (activation("closed.y", &keys.b), json!({}), false),
        (activation("closed.>", &keys.a), json!({}), false),
        (
            keys.b.sign(
                &keys.b.public,
                "act",
                json!({"type": "activation", "subject": "closed.>", "kind": "stream"}),
            ),
            json!({}),
            false,
        ),
        (String::new(), json!({}), false),
    ] {
        let server = keys.server(exports(revocations), imports(token)).await;
        let a = connect(&server, &keys.user_of_a(json!({})), Some(&keys.user))
            .await
            .unwrap();
        let b = connect(&server, &of_b, Some(&keys.user)).await.unwrap();
        let mut heard = b.subscribe(">").await.unwrap();
        crate::sharing::settle(&b).await;
        for subject in ["closed.x", "open.end"] {
            a.publish(subject, "m".into()).await.unwrap();
        }
        if is_shared {
            assert_eq!(crate::sharing::heard(&mut heard).await.0, "closed.x");
        }
        assert_eq!(crate::sharing::heard(&mut heard).await.0, "here.end");
    }
}

#[tokio::test]
async fn what_was_activated_ends_at_its_time() {
    let keys = keys();
    let exports = json!({"exports": [
        {"name": "closed", "subject": "closed.>", "type": "stream", "token_req": true},
        {"name": "ask", "subject": "ask", "type": "service", "token_req": true},
    ]});
    let ends = now() + 2;
    let activation = |kind: &str, subject: &str| {
        let body = json!({"type": "activation", "subject": subject, "kind": kind});
        keys.a
            .sign_at(&keys.b.public, "act", body, json!({"exp": ends}), 0)
    };
    let imports = json!({"imports": [
        {"subject": "closed.x", "account": keys.a.public, "type": "stream", "token": activation("stream", "closed.>")},
        {"subject": "ask", "account": keys.a.public, "type": "service", "token": activation("service", "ask")},
    ]});
    let server = keys.server(exports, imports).await;
    let a = connect(&server, &keys.user_of_a(json!({})), Some(&keys.user))
        .await
        .unwrap();
    let of_b = keys.b.sign(&keys.user.public, "user", user(json!({})));
    let b = connect(&server, &of_b, Some(&keys.user)).await.unwrap();
    let mut heard = b.subscribe("closed.x").await.unwrap();
    let mut asked = a.subscribe("ask").await.unwrap();
    crate::sharing::settle(&b).await;
    crate::sharing::settle(&a).await;
    a.publish("closed.x", "before".into()).await.unwrap();
    assert_eq!(heard.next().await.unwrap().payload, "before");
    b.publish("ask", "before".into()).await.unwrap();
    assert_eq!(asked.next().await.unwrap().payload, "before");
    // It ends by itself, not before its time.
    let gone = async {
        loop {
            let answer = b.request("ask", "x".into());
            match tokio::time::timeout(std::time::Duration::from_millis(50), answer).await {
                Ok(Err(err)) => break assert_eq!(err.kind(), async_nats::RequestErrorKind::NoResponders),
                Ok(Ok(_)) => panic!("nobody answers"),
                Err(_) => {}
            }
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(10), gone)
        .await
        .unwrap();
    assert!(now() >= ends);
    let mut own = a.subscribe("closed.x").await.unwrap();
    a.publish("closed.x", "after".into()).await.unwrap();
    assert_eq!(own.next().await.unwrap().payload, "after");
    b.publish("closed.x", "own".into()).await.unwrap();
    assert_eq!(heard.next().await.unwrap().payload, "own");
}

#[tokio::test]
async fn an_account_keeps_its_limits() {
    let keys = keys();
    let limits = json!({"limits": {"conn": 2, "subs": 2, "payload": 10}});
    let server = keys.server(limits, json!({})).await;
    let mut socket = crate::wire::connect(&server).await;
    let bearer = keys.user_of_a(json!({"bearer_token": true}));
    let hello = format!(
        "CONNECT {{\"verbose\":false,\"protocol\":1,\"jwt\":\"{bearer}\"}}\r\nPING\r\nSUB a 1\r\nSUB b 2\r\nSUB c 3\r\nPING\r\n"
    );
    let heard = crate::wire::talk(&mut socket, &hello, "maximum subscriptions exceeded'").await;
    assert!(heard.contains("\"max_payload\":10,"), "{heard}");
    let heard = crate::wire::talk(&mut socket, "PUB a 11\r\nxxxxxxxxxxx\r\n", "").await;
    assert_eq!(heard, "-ERR 'Maximum Payload Violation'\n");
    let token = keys.user_of_a(json!({}));
    let held = [
        connect(&server, &token, Some(&keys.user)).await.unwrap(),
        connect(&server, &token, Some(&keys.user)).await.unwrap(),
    ];
    assert!(!is_let_in(&server, &token, Some(&keys.user)).await);
    drop(held);
}

#[test]
fn tokens_that_are_not_to_be_believed_keep_the_server_from_starting() {
    let keys = keys();
    let stranger = Key::new(OPERATOR, 20);
    let good = keys.config(json!({}), json!({}));
    let account = stranger.sign(&keys.a.public, "A", account(json!({})));
    let start = good.find(&format!("{}: ", keys.a.public)).unwrap() + keys.a.public.len() + 2;
    let end = start + good[start..].find('\n').unwrap();
    let bad = format!("{}{account}{}", &good[..start], &good[end..]);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let refused = runtime
        .block_on(crate::sharing::try_configured(&bad))
        .unwrap_err();
    assert!(refused.contains("not signed by a trusted operator"), "{refused}");
    assert!(runtime.block_on(crate::sharing::try_configured(&good)).is_ok());
}
