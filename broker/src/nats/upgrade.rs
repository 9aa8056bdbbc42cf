//! The HTTP request that a WebSocket connection begins with: who may ask, and what it brings. Source: RFC 6455, section 4.2.

use std::sync::{Arc, Mutex, PoisonError};

use tungstenite::handshake::server::{Callback, ErrorResponse, Request, Response};
use tungstenite::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};

use crate::nats::transport::deflate;
use crate::options::WebsocketOptions;

/// Looks at one request.
#[derive(Debug)]
pub(crate) struct Upgrade {
    same_origin: bool,
    allowed_origins: Vec<Origin>,
    /// The listener speaks TLS.
    is_secure: bool,
    headers: Vec<(HeaderName, HeaderValue)>,
    names: CookieNames,
    /// Messages may be compressed.
    compression: bool,
    found: Found,
}

#[derive(Debug)]
struct CookieNames {
    user: Option<String>,
    pass: Option<String>,
    token: Option<String>,
    jwt: Option<String>,
}

/// What a browser's cookies say about its user.
#[derive(Clone, Debug, Default)]
pub(crate) struct CookieLogin {
    pub(crate) user: String,
    pub(crate) pass: String,
    pub(crate) token: String,
    pub(crate) jwt: String,
}

/// What a request has brought.
#[derive(Debug, Default)]
pub(crate) struct Brought {
    pub(crate) cookies: CookieLogin,
    /// Messages are compressed: that was asked for, and agreed to.
    pub(crate) compresses: bool,
}

/// Where that comes out.
#[derive(Clone, Debug, Default)]
pub(crate) struct Found(Arc<Mutex<Brought>>);

impl Found {
    /// What was found.
    pub(crate) fn take(&self) -> Brought {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Scheme, host and port.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Origin {
    is_secure: bool,
    host: String,
    port: u16,
}

impl Origin {
    fn parse(text: &str) -> Option<Self> {
        let (scheme, rest) = text.split_once("://")?;
        let is_secure = match scheme.to_ascii_lowercase().as_str() {
            "https" | "wss" => true,
            "http" | "ws" => false,
            _ => return None,
        };
        let authority = rest.split(['/', '?', '#']).next()?;
        Self::of(authority, is_secure)
    }

    /// Of a host that may have a port.
    fn of(authority: &str, is_secure: bool) -> Option<Self> {
        let default = if is_secure { 443 } else { 80 };
        let (host, port) = match authority.rsplit_once(':') {
            Some((host, port)) if !host.contains(':') || host.ends_with(']') => (host, port.parse().ok()?),
            _ => (authority, default),
        };
        if host.is_empty() {
            return None;
        }
        Some(Self {
            is_secure,
            host: host.to_ascii_lowercase(),
            port,
        })
    }
}

impl Upgrade {
    pub(crate) fn new(options: &WebsocketOptions, is_secure: bool) -> Self {
        let headers = options.headers.iter().filter_map(|(name, value)| {
            let name = HeaderName::from_bytes(name.as_bytes()).ok()?;
            Some((name, HeaderValue::from_str(value).ok()?))
        });
        Self {
            same_origin: options.same_origin,
            allowed_origins: options
                .allowed_origins
                .iter()
                .filter_map(|text| Origin::parse(text))
                .collect(),
            is_secure,
            headers: headers.collect(),
            names: CookieNames {
                user: options.user_cookie.clone(),
                pass: options.pass_cookie.clone(),
                token: options.token_cookie.clone(),
                jwt: options.jwt_cookie.clone(),
            },
            compression: options.compression,
            found: Found::default(),
        }
    }

    /// Where what the request brings will be.
    pub(crate) fn found(&self) -> Found {
        self.found.clone()
    }

    /// Whether a browser's page of this origin may connect. What is no browser has none.
    fn allows_origin(&self, headers: &HeaderMap) -> bool {
        if !self.same_origin && self.allowed_origins.is_empty() {
            return true;
        }
        let Some(origin) = headers.get(header::ORIGIN) else {
            return true;
        };
        let Some(origin) = origin.to_str().ok().and_then(Origin::parse) else {
            return false;
        };
        if self.same_origin {
            let host = headers.get(header::HOST).and_then(|host| host.to_str().ok());
            let own = host.and_then(|host| Origin::of(host, self.is_secure));
            if own.is_none_or(|own| own.host != origin.host || own.port != origin.port) {
                return false;
            }
        }
        self.allowed_origins.is_empty() || self.allowed_origins.contains(&origin)
    }

    fn read_cookies(&self, headers: &HeaderMap) -> CookieLogin {
        let mut login = CookieLogin::default();
        let lines = headers
            .get_all(header::COOKIE)
            .iter()
            .filter_map(|line| line.to_str().ok());
        for (name, value) in lines
            .flat_map(|line| line.split(';'))
            .filter_map(|part| part.trim().split_once('='))
        {
            let is = |wanted: &Option<String>| wanted.as_deref() == Some(name);
            let value = value.trim_matches('"');
            for (wanted, into) in [
                (&self.names.user, &mut login.user),
                (&self.names.pass, &mut login.pass),
                (&self.names.token, &mut login.token),
                (&self.names.jwt, &mut login.jwt),
            ] {
                if is(wanted) {
                    value.clone_into(into);
                }
            }
        }
        login
    }
}

impl Callback for Upgrade {
    fn on_request(self, request: &Request, mut response: Response) -> Result<Response, ErrorResponse> {
        if !self.allows_origin(request.headers()) {
            let mut refusal = ErrorResponse::new(Some("origin not allowed".to_owned()));
            *refusal.status_mut() = StatusCode::FORBIDDEN;
            return Err(refusal);
        }
        let compresses = self.compression && deflate::is_offered(request.headers());
        *self.found.0.lock().unwrap_or_else(PoisonError::into_inner) = Brought {
            cookies: self.read_cookies(request.headers()),
            compresses,
        };
        response.headers_mut().extend(self.headers);
        if compresses {
            let agreed = HeaderValue::from_static(deflate::AGREEMENT);
            response
                .headers_mut()
                .insert(header::SEC_WEBSOCKET_EXTENSIONS, agreed);
        }
        Ok(response)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn upgrade(same_origin: bool, allowed: &[&str]) -> Upgrade {
        let options = WebsocketOptions {
            same_origin,
            allowed_origins: allowed.iter().map(|text| (*text).to_owned()).collect(),
            user_cookie: Some("u".to_owned()),
            pass_cookie: Some("p".to_owned()),
            ..WebsocketOptions::default()
        };
        Upgrade::new(&options, false)
    }

    fn headers(pairs: &[(HeaderName, &'static str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(name, value)| (name.clone(), HeaderValue::from_static(value)))
            .collect()
    }

    #[test]
    fn pages_of_other_origins_are_kept_out() {
        let from = |origin| headers(&[(header::HOST, "lake.example:8080"), (header::ORIGIN, origin)]);
        for (upgrade, origin, is_allowed) in [
            (upgrade(false, &[]), "http://evil.example", true),
            (upgrade(true, &[]), "http://lake.example:8080", true),
            (upgrade(true, &[]), "http://LAKE.example:8080", true),
            (upgrade(true, &[]), "http://lake.example", false),
            (upgrade(true, &[]), "http://evil.example:8080", false),
            (
                upgrade(false, &["https://a.example"]),
                "https://a.example:443",
                true,
            ),
            (upgrade(false, &["https://a.example"]), "http://a.example", false),
            (upgrade(false, &["https://a.example"]), "null", false),
            (
                upgrade(true, &["https://a.example"]),
                "http://lake.example:8080",
                false,
            ),
        ] {
            assert_eq!(
                upgrade.allows_origin(&from(origin)),
                is_allowed,
                "{upgrade:?} {origin}"
            );
        }
        assert!(upgrade(true, &["https://a.example"]).allows_origin(&headers(&[(header::HOST, "x")])));
    }

    #[test]
    fn cookies_say_who_the_user_is() {
        let login =
            upgrade(false, &[]).read_cookies(&headers(&[(header::COOKIE, "a=b; u=ann; p=\"s=3\"; j=x")]));
        assert_eq!(
            (login.user.as_str(), login.pass.as_str(), login.jwt.as_str()),
            ("ann", "s=3", "")
        );
    }
}
