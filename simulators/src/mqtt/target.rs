//! Where an MQTT server is, and how to speak with it.

use std::fmt;

/// A version of MQTT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MqttVersion {
    /// 3.1.1
    V4,
    /// 5
    V5,
}

/// An address that isn't one of an MQTT server.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("MQTT address \"{url}\": {detail}; expected mqtt://[user:password@]host[:port]")]
pub struct MqttUrlError {
    url: String,
    detail: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct MqttTarget {
    pub(crate) version: MqttVersion,
    pub(crate) login: Option<(String, String)>,
    host: String,
    port: u16,
}

impl MqttTarget {
    pub(crate) fn parse(text: &str, version: MqttVersion) -> Result<Self, MqttUrlError> {
        let error = |detail: &str| {
            let shown = text
                .rsplit_once('@')
                .map_or(text.to_owned(), |(_, host)| format!("…@{host}"));
            MqttUrlError {
                url: shown,
                detail: detail.to_owned(),
            }
        };
        let rest = match text.split_once("://") {
            None => text,
            Some(("mqtt" | "tcp", rest)) => rest,
            Some(_) => return Err(error("scheme is not mqtt")),
        };
        let rest = rest.trim_end_matches('/');
        let (login, address) = match rest.rsplit_once('@') {
            Some((login, address)) => (Some(login.split_once(':').unwrap_or((login, ""))), address),
            None => (None, rest),
        };
        let (host, port) = match address.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => (
                host,
                port.parse()
                    .map_err(|_| error("port is not a number up to 65535"))?,
            ),
            _ => (address, 1_883),
        };
        let host = host.trim_start_matches('[').trim_end_matches(']');
        if host.is_empty() {
            return Err(error("host is missing"));
        }
        let login = login.map(|(user, password)| (user.to_owned(), password.to_owned()));
        Ok(Self {
            version,
            login,
            host: host.to_owned(),
            port,
        })
    }

    pub(crate) fn address(&self) -> (&str, u16) {
        (&self.host, self.port)
    }
}

impl fmt::Display for MqttTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "mqtt://{}:{}", self.host, self.port)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        for (text, host, port, login) in [
            ("mqtt://127.0.0.1:1884", "127.0.0.1", 1884, None),
            ("localhost", "localhost", 1883, None),
            ("mqtt://h/", "h", 1883, None),
            ("tcp://u:p:q@h:1", "h", 1, Some(("u", "p:q"))),
            ("mqtt://[::1]:7", "::1", 7, None),
            ("mqtt://[::1]", "::1", 1883, None),
        ] {
            let target = MqttTarget::parse(text, MqttVersion::V4).unwrap();
            assert_eq!(target.address(), (host, port));
            assert_eq!(
                target.login.as_ref().map(|(u, p)| (u.as_str(), p.as_str())),
                login
            );
        }
    }

    #[test]
    fn bad_addresses_say_why_and_keep_secrets() {
        let error = |text| MqttTarget::parse(text, MqttVersion::V4).unwrap_err().to_string();
        assert!(error("http://h").contains("scheme is not mqtt"));
        assert!(error("mqtt://h:x").contains("port is not a number"));
        assert!(error("mqtt://:1").contains("host is missing"));
        assert!(!error("mqtt://u:secret@h:x").contains("secret"));
    }
}
