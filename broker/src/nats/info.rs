//! What server and client tell each other at the start: INFO and CONNECT.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::auth::Login;
use crate::options::Secret;
use crate::outbound::ClientId;

/// The version of nats-server whose protocol and API are spoken: clients decide by it what they may use.
pub(crate) const VERSION: &str = "2.15.2";
/// The JetStream API level of that version.
pub(crate) const API_LEVEL: u32 = 5;

/// What INFO says to every client.
#[derive(Clone, Debug)]
pub(crate) struct ServerInfo {
    pub(crate) server_id: String,
    pub(crate) tags: Vec<String>,
    /// What services seal for.
    pub(crate) xkey: String,
    pub(crate) server_name: String,
    pub(crate) host: String,
    pub(crate) port: u16,
    pub(crate) max_payload: usize,
    /// Headers are understood.
    pub(crate) has_headers: bool,
    /// There is JetStream.
    pub(crate) has_jetstream: bool,
    /// Its domain.
    pub(crate) domain: Option<String>,
    pub(crate) tls_required: bool,
    pub(crate) tls_available: bool,
    /// Clients must have a certificate.
    pub(crate) tls_verify: bool,
    /// Clients are to go elsewhere.
    pub(crate) is_lame_duck: bool,
}

/// What INFO says to one client about authentication.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct AuthInfo<'a> {
    pub(crate) is_required: bool,
    /// What the client has to sign; empty: nothing.
    pub(crate) nonce: &'a str,
}

#[derive(Serialize)]
struct Info<'a> {
    server_id: &'a str,
    server_name: &'a str,
    version: &'a str,
    proto: u32,
    go: &'a str,
    host: &'a str,
    port: u16,
    headers: bool,
    max_payload: usize,
    jetstream: bool,
    client_id: u64,
    client_ip: IpAddr,
    #[serde(skip_serializing_if = "str::is_empty")]
    nonce: &'a str,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    auth_required: bool,
    api_lvl: u32,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    tls_required: bool,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    tls_verify: bool,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    tls_available: bool,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    ldm: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    domain: Option<&'a str>,
    xkey: &'a str,
}

impl ServerInfo {
    /// The INFO line for one client.
    pub(crate) fn line(&self, client: ClientId, ip: IpAddr, auth: &AuthInfo<'_>) -> Vec<u8> {
        let info = Info {
            server_id: &self.server_id,
            server_name: &self.server_name,
            version: VERSION,
            proto: 1,
            go: "none",
            host: &self.host,
            port: self.port,
            headers: self.has_headers,
            max_payload: self.max_payload,
            jetstream: self.has_jetstream,
            client_id: client.0,
            client_ip: ip.to_canonical(),
            nonce: auth.nonce,
            auth_required: auth.is_required,
            api_lvl: API_LEVEL,
            tls_required: self.tls_required,
            tls_verify: self.tls_verify,
            tls_available: self.tls_available,
            ldm: self.is_lame_duck,
            domain: self.domain.as_deref(),
            xkey: &self.xkey,
        };
        let mut line = b"INFO ".to_vec();
        // Strings and numbers always have a JSON form.
        line.extend(serde_json::to_vec(&info).unwrap_or_default());
        line.extend_from_slice(b" \r\n");
        line
    }
}

/// What a client asks for with CONNECT.
#[derive(Clone, Debug, Deserialize)]
#[serde(from = "Connect")]
pub(crate) struct ConnectOptions {
    pub(crate) manners: Manners,
    pub(crate) name: String,
    pub(crate) lang: String,
    pub(crate) version: String,
    pub(crate) login: Login,
}

/// How a client wants to be talked to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Manners {
    pub(crate) verbose: bool,
    pub(crate) pedantic: bool,
    pub(crate) echo: bool,
    pub(crate) headers: bool,
    pub(crate) no_responders: bool,
    pub(crate) protocol: i64,
}

/// CONNECT as it is sent: anything may be left out or null.
#[derive(Default, Deserialize)]
struct Connect {
    verbose: Option<bool>,
    pedantic: Option<bool>,
    echo: Option<bool>,
    headers: Option<bool>,
    no_responders: Option<bool>,
    protocol: Option<i64>,
    name: Option<String>,
    lang: Option<String>,
    version: Option<String>,
    user: Option<String>,
    pass: Option<String>,
    auth_token: Option<String>,
    nkey: Option<String>,
    sig: Option<String>,
    jwt: Option<String>,
    account: Option<String>,
}

impl From<Connect> for ConnectOptions {
    /// What is left out is as nats-server has it.
    fn from(connect: Connect) -> Self {
        Self {
            manners: Manners {
                verbose: connect.verbose.unwrap_or(true),
                pedantic: connect.pedantic.unwrap_or(true),
                echo: connect.echo.unwrap_or(true),
                headers: connect.headers.unwrap_or_default(),
                no_responders: connect.no_responders.unwrap_or_default(),
                protocol: connect.protocol.unwrap_or_default(),
            },
            name: connect.name.unwrap_or_default(),
            lang: connect.lang.unwrap_or_default(),
            version: connect.version.unwrap_or_default(),
            login: Login {
                user: connect.user.unwrap_or_default(),
                password: Secret(connect.pass.unwrap_or_default()),
                token: Secret(connect.auth_token.unwrap_or_default()),
                nkey: connect.nkey.unwrap_or_default(),
                signature: connect.sig.unwrap_or_default(),
                jwt: Secret(connect.jwt.unwrap_or_default()),
                account: connect.account.unwrap_or_default(),
            },
        }
    }
}

impl Default for ConnectOptions {
    fn default() -> Self {
        Connect::default().into()
    }
}

impl Default for Manners {
    fn default() -> Self {
        ConnectOptions::default().manners
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::expect;

    #[test]
    fn info_line() {
        let info = ServerInfo {
            server_id: "NX".into(),
            tags: Vec::new(),
            xkey: "XX".into(),
            server_name: "tarn".into(),
            host: "0.0.0.0".into(),
            port: 4222,
            max_payload: 1 << 20,
            has_headers: true,
            has_jetstream: true,
            domain: None,
            tls_required: false,
            tls_available: false,
            tls_verify: false,
            is_lame_duck: false,
        };
        let line = info.line(
            ClientId(5),
            "::ffff:127.0.0.1".parse().unwrap(),
            &AuthInfo::default(),
        );
        expect![[r#"
            INFO {"server_id":"NX","server_name":"tarn","version":"2.15.2","proto":1,"go":"none","host":"0.0.0.0","port":4222,"headers":true,"max_payload":1048576,"jetstream":true,"client_id":5,"client_ip":"127.0.0.1","api_lvl":5,"xkey":"XX"} 
        "#]]
        .assert_eq(&String::from_utf8(line).unwrap().replace('\r', ""));
    }

    #[test]
    fn connect_options_left_out_are_those_of_nats_server() {
        let options: ConnectOptions =
            serde_json::from_str(r#"{"verbose":false,"name":null,"tls_required":false}"#).unwrap();
        let Manners {
            verbose,
            pedantic,
            echo,
            headers,
            ..
        } = options.manners;
        assert!(!verbose && pedantic && echo && !headers);
    }
}
