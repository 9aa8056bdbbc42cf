//! The question whether a user may come in: a token that the server signs. Source: nats-io/jwt, `authorization_claims.go`.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::digest::{SHA512_256, digest};
use serde::Serialize;

use super::{Callout, raw_user};
use crate::auth::jwt::ALGORITHM;
use crate::auth::keys::ServerKeys;
use crate::auth::nkey::to_base32;
use crate::auth::{Facts, Login};
use crate::options::ConnectionType;

/// Whom the question is for.
const AUDIENCE: &str = "nats-authorization-request";

/// What is known of the server.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ServerFacts<'a> {
    pub(crate) name: &'a str,
    pub(crate) host: &'a str,
    pub(crate) version: &'a str,
    pub(crate) tags: &'a [String],
}

/// What is asked of whom.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asking<'a> {
    pub(crate) server: ServerFacts<'a>,
    pub(crate) login: &'a Login,
    pub(crate) facts: &'a Facts,
    pub(crate) client: ClientFacts<'a>,
    /// The key that stands for the user in this one question.
    pub(crate) user_key: &'a str,
    /// Seconds since 1970.
    pub(crate) now: i64,
    /// When the answer is waited for no longer.
    pub(crate) until: i64,
}

/// What a client says of itself, and what its connection shows.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ClientFacts<'a> {
    pub(crate) id: u64,
    pub(crate) name: &'a str,
    pub(crate) lang: &'a str,
    pub(crate) version: &'a str,
    pub(crate) protocol: i64,
    /// TLS's version and cipher suite.
    pub(crate) tls: Option<(&'a str, &'a str)>,
}

#[derive(Serialize)]
struct Token<'a> {
    #[serde(flatten)]
    claims: Standard<'a>,
    nats: Body<'a>,
}

#[derive(Clone, Serialize)]
struct Standard<'a> {
    aud: &'a str,
    exp: i64,
    #[serde(skip_serializing_if = "String::is_empty")]
    jti: String,
    iat: i64,
    iss: &'a str,
    sub: &'a str,
}

#[derive(Serialize)]
struct Body<'a> {
    server_id: Server<'a>,
    user_nkey: &'a str,
    client_info: Client<'a>,
    connect_opts: Options<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    client_tls: Option<Tls<'a>>,
    #[serde(rename = "type")]
    kind: &'a str,
    version: u32,
}

#[derive(Serialize)]
struct Server<'a> {
    name: &'a str,
    host: &'a str,
    id: &'a str,
    version: &'a str,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    tags: &'a [String],
    #[serde(skip_serializing_if = "str::is_empty")]
    xkey: &'a str,
}

#[derive(Serialize)]
struct Client<'a> {
    #[serde(skip_serializing_if = "String::is_empty")]
    host: String,
    id: u64,
    #[serde(skip_serializing_if = "str::is_empty")]
    user: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    name: &'a str,
    kind: &'a str,
    #[serde(rename = "type")]
    client_type: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    nonce: &'a str,
}

#[derive(Serialize)]
struct Options<'a> {
    #[serde(skip_serializing_if = "str::is_empty")]
    jwt: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    nkey: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    sig: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    auth_token: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    user: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    pass: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    name: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    lang: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    version: &'a str,
    protocol: i64,
}

#[derive(Serialize)]
struct Tls<'a> {
    version: &'a str,
    cipher: &'a str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    verified_chains: Vec<&'a [String]>,
}

/// The signed question.
pub(super) fn token(callout: &Callout, asking: &Asking<'_>, keys: &ServerKeys) -> String {
    let login = asking.login;
    let client = asking.client;
    let mut claims = Standard {
        aud: AUDIENCE,
        exp: asking.until,
        jti: String::new(),
        iat: asking.now,
        iss: &keys.signing.public,
        sub: &callout.issuer,
    };
    claims.jti = to_base32(digest(&SHA512_256, &json(&claims)).as_ref());
    let body = Body {
        server_id: Server {
            name: asking.server.name,
            host: asking.server.host,
            id: &keys.signing.public,
            version: asking.server.version,
            tags: asking.server.tags,
            xkey: if callout.seals() { &keys.xkey } else { "" },
        },
        user_nkey: asking.user_key,
        client_info: Client {
            host: asking
                .facts
                .peer
                .map_or_else(String::new, |peer| peer.to_canonical().to_string()),
            id: client.id,
            user: raw_user(login),
            name: client.name,
            kind: "Client",
            client_type: match asking.facts.connection_type {
                Some(ConnectionType::Websocket) => "websocket",
                _ => "nats",
            },
            nonce: if login.signature.is_empty() {
                ""
            } else {
                &asking.facts.nonce
            },
        },
        connect_opts: Options {
            jwt: &login.jwt.0,
            nkey: &login.nkey,
            sig: &login.signature,
            auth_token: &login.token.0,
            user: &login.user,
            pass: &login.password.0,
            name: client.name,
            lang: client.lang,
            version: client.version,
            protocol: client.protocol,
        },
        client_tls: client
            .tls
            .map(|(version, cipher)| tls(version, cipher, asking.facts)),
        kind: "authorization_request",
        version: 2,
    };
    let header = format!("{{\"typ\":\"JWT\",\"alg\":\"{ALGORITHM}\"}}");
    let payload = json(&Token { claims, nats: body });
    let signed = format!(
        "{}.{}",
        URL_SAFE_NO_PAD.encode(header),
        URL_SAFE_NO_PAD.encode(payload)
    );
    let signature = URL_SAFE_NO_PAD.encode(keys.signing.sign(signed.as_bytes()));
    format!("{signed}.{signature}")
}

fn tls<'a>(version: &'a str, cipher: &'a str, facts: &'a Facts) -> Tls<'a> {
    let shown = (!facts.certificates.is_empty()).then_some(facts.certificates.as_slice());
    Tls {
        version,
        cipher,
        verified_chains: shown.into_iter().collect(),
    }
}

/// Texts and numbers always have a JSON form.
fn json(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).unwrap_or_default()
}
