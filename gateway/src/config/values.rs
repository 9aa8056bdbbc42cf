//! Values as people write them: sizes, durations, listen addresses, server URLs.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;
use std::time::Duration;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::LogFormat;

/// A number of bytes: `8GiB`, `512M`, `64KiB`, `1048576`.
/// `K`, `M`, `G`, `T` (with or without `B`) are powers of 1000; `KiB`, `MiB`, `GiB`, `TiB` of 1024.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(u64);

impl Size {
    /// A size of `mebibytes` × 2^20 bytes.
    pub const fn mebibytes(mebibytes: u64) -> Size {
        Size(mebibytes << 20)
    }

    /// The number of bytes.
    pub const fn bytes(self) -> u64 {
        self.0
    }
}

impl From<u64> for Size {
    fn from(bytes: u64) -> Size {
        Size(bytes)
    }
}

const BINARY_UNITS: [(&str, u64); 4] = [
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
];

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Size, String> {
        let text = text.trim();
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        let (number, unit) = text.split_at(digits);
        let scale: u64 = match unit.trim_start().to_ascii_lowercase().as_str() {
            "" | "b" => 1,
            "k" | "kb" => 1_000,
            "m" | "mb" => 1_000_000,
            "g" | "gb" => 1_000_000_000,
            "t" | "tb" => 1_000_000_000_000,
            "kib" => 1 << 10,
            "mib" => 1 << 20,
            "gib" => 1 << 30,
            "tib" => 1 << 40,
            _ => return Err(format!("`{text}` is not a size; write it like `512M` or `8GiB`")),
        };
        let number: u64 = number
            .parse()
            .map_err(|_| format!("`{text}` is not a size; write it like `512M` or `8GiB`"))?;
        number
            .checked_mul(scale)
            .map(Size)
            .ok_or_else(|| format!("`{text}` is more than 2^64 bytes"))
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match BINARY_UNITS
            .iter()
            .find(|(_, scale)| self.0 >= *scale && self.0.is_multiple_of(*scale))
        {
            Some((unit, scale)) => write!(f, "{}{unit}", self.0 / scale),
            None => write!(f, "{}", self.0),
        }
    }
}

/// A duration: `10s`, `250ms`, `24h`, `1h 30m`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span(Duration);

impl Span {
    /// A duration of whole seconds.
    pub const fn seconds(seconds: u64) -> Span {
        Span(Duration::from_secs(seconds))
    }

    /// As the standard library's type.
    pub const fn duration(self) -> Duration {
        self.0
    }
}

impl From<Duration> for Span {
    fn from(duration: Duration) -> Span {
        Span(duration)
    }
}

impl FromStr for Span {
    type Err = String;

    fn from_str(text: &str) -> Result<Span, String> {
        humantime::parse_duration(text.trim())
            .map(Span)
            .map_err(|_| format!("`{text}` is not a duration; write it like `10s`, `250ms` or `24h`"))
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let secs = self.0.as_secs();
        if self.0.subsec_nanos() == 0 && secs > 0 {
            for (unit, scale) in [("h", 3600), ("m", 60)] {
                if secs.is_multiple_of(scale) {
                    return write!(f, "{}{unit}", secs / scale);
                }
            }
        }
        humantime::format_duration(self.0).fmt(f)
    }
}

/// Where a listener binds: `host:port` (port 0: one that the kernel picks), or `off`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Listen {
    /// Bind to this address.
    At {
        /// A name or an IP address, without brackets.
        host: String,
        /// The TCP port; 0 lets the kernel choose.
        port: u16,
    },
    /// Don't listen.
    Off,
}

impl Listen {
    /// The loopback address with `port`.
    pub fn loopback(port: u16) -> Listen {
        Listen::At {
            host: "127.0.0.1".to_owned(),
            port,
        }
    }

    /// Whether only this machine can reach the address. `off` counts as loopback; a host name other than
    /// `localhost` does not, because what it resolves to may change.
    pub fn is_loopback(&self) -> bool {
        match self {
            Listen::Off => true,
            Listen::At { host, .. } => match host.parse::<IpAddr>() {
                Ok(address) => address.is_loopback(),
                Err(_) => host.eq_ignore_ascii_case("localhost"),
            },
        }
    }

    /// `host:port`, or `None` for `off`.
    pub fn address(&self) -> Option<String> {
        match self {
            Listen::Off => None,
            Listen::At { .. } => Some(self.to_string()),
        }
    }
}

impl FromStr for Listen {
    type Err = String;

    fn from_str(text: &str) -> Result<Listen, String> {
        let text = text.trim();
        if text.eq_ignore_ascii_case("off") {
            return Ok(Listen::Off);
        }
        let bad = || format!("`{text}` is not an address; write it like `127.0.0.1:1883`, or `off`");
        let (host, port) = text.rsplit_once(':').ok_or_else(bad)?;
        let bare = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
        let host = match bare {
            Some(inside) if inside.parse::<std::net::Ipv6Addr>().is_ok() => inside,
            Some(_) => return Err(bad()),
            None if host.is_empty() || host.contains([':', '[', ']', '/']) => return Err(bad()),
            None if host.contains(char::is_whitespace) => return Err(bad()),
            None => host,
        };
        let port = port.parse().map_err(|_| bad())?;
        Ok(Listen::At {
            host: host.to_owned(),
            port,
        })
    }
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Listen::Off => f.write_str("off"),
            Listen::At { host, port } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Listen::At { host, port } => write!(f, "{host}:{port}"),
        }
    }
}

/// The URL of a NATS server or cluster. It may hold a password, which `Display`, `Debug` and serialisation hide.
#[derive(Clone, PartialEq, Eq)]
pub struct ServerUrl(url::Url);

impl ServerUrl {
    /// The URL in full, secrets included. For the connection only, never for output.
    pub fn reveal(&self) -> &str {
        self.0.as_str()
    }

    /// Scheme, host and port, without user and password.
    pub fn without_secrets(&self) -> String {
        let host = self.0.host_str().unwrap_or_default();
        format!("{}://{host}:{}", self.0.scheme(), self.0.port().unwrap_or(4222))
    }

    /// User (or token, when there is no password) and password, percent-decoded.
    pub fn login(&self) -> Option<(String, Option<String>)> {
        let decode = |text: &str| percent_decode(text);
        match self.0.username() {
            "" => None,
            user => Some((decode(user), self.0.password().map(decode))),
        }
    }
}

/// Undoes `%XX`; what isn't UTF-8 after it stays as it is written.
fn percent_decode(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        let hex = tail.get(..2).and_then(|two| std::str::from_utf8(two).ok());
        match (first, hex.and_then(|two| u8::from_str_radix(two, 16).ok())) {
            (b'%', Some(byte)) => {
                bytes.push(byte);
                rest = tail.get(2..).unwrap_or_default();
            }
            _ => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    String::from_utf8(bytes).unwrap_or_else(|_| text.to_owned())
}

impl FromStr for ServerUrl {
    type Err = String;

    fn from_str(text: &str) -> Result<ServerUrl, String> {
        let bad = |_| "not a URL; write it like `nats://host:4222`".to_owned();
        let url = url::Url::parse(text.trim()).map_err(bad)?;
        match url.scheme() {
            "nats" | "tls" if url.has_host() => Ok(ServerUrl(url)),
            other => Err(format!(
                "`{other}:` is not a NATS URL; write it like `nats://host:4222`"
            )),
        }
    }
}

impl fmt::Display for ServerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = self.0.clone();
        let hidden = match (self.0.username().is_empty(), self.0.password()) {
            (_, Some(_)) => shown.set_password(Some("hidden")),
            // A user without a password is a token.
            (false, None) => shown.set_username("hidden"),
            (true, None) => Ok(()),
        };
        match hidden {
            Ok(()) => f.write_str(shown.as_str()),
            Err(()) => f.write_str("nats://hidden"),
        }
    }
}

impl fmt::Debug for ServerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl FromStr for LogFormat {
    type Err = String;

    fn from_str(text: &str) -> Result<LogFormat, String> {
        match text {
            "auto" => Ok(LogFormat::Auto),
            "text" => Ok(LogFormat::Text),
            "json" => Ok(LogFormat::Json),
            _ => Err(format!("`{text}` is not a format; use `auto`, `text` or `json`")),
        }
    }
}

impl fmt::Display for LogFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            LogFormat::Auto => "auto",
            LogFormat::Text => "text",
            LogFormat::Json => "json",
        })
    }
}

macro_rules! as_text {
    ($($type:ty),*) => {$(
        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                // Plain numbers reach this as text: the `config` crate converts scalars.
                String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
            }
        }
    )*};
}

as_text!(Size, Span, Listen, ServerUrl, LogFormat);

/// Reads a list of strings; from the environment it comes as one string, separated by commas.
pub(super) fn list<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Either {
        Many(Vec<String>),
        One(String),
    }
    Ok(match Either::deserialize(deserializer) {
        Ok(Either::Many(list)) => list,
        Ok(Either::One(text)) => text
            .split(',')
            .map(str::trim)
            .filter(|part| !part.is_empty())
            .map(str::to_owned)
            .collect(),
        Err(_) => return Err(D::Error::custom("expected a list of strings")),
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn sizes_as_people_write_them() {
        for (text, bytes) in [
            ("0", 0),
            ("1048576", 1 << 20),
            ("512M", 512_000_000),
            ("512 MB", 512_000_000),
            ("8GiB", 8 << 30),
            ("64kib", 64 << 10),
            (" 2T ", 2_000_000_000_000),
        ] {
            assert_eq!(text.parse::<Size>(), Ok(Size(bytes)), "{text}");
        }
        for text in ["", "GiB", "-1", "1.5G", "8 gibi", "8GiBB", "99999999999T"] {
            assert!(text.parse::<Size>().is_err(), "{text}");
        }
    }

    #[test]
    fn listen_addresses() {
        for (text, shown, loopback) in [
            ("127.0.0.1:1883", "127.0.0.1:1883", true),
            ("localhost:0", "localhost:0", true),
            ("[::1]:4222", "[::1]:4222", true),
            ("0.0.0.0:1883", "0.0.0.0:1883", false),
            ("[::]:1883", "[::]:1883", false),
            ("tarn.example:1", "tarn.example:1", false),
            ("OFF", "off", true),
        ] {
            let listen: Listen = text.parse().expect(text);
            assert_eq!(
                (listen.to_string().as_str(), listen.is_loopback()),
                (shown, loopback),
                "{text}"
            );
        }
        for text in [
            "1883",
            ":1883",
            "::1:1883",
            "host:",
            "host:70000",
            "host:x",
            "[host]:1",
            "a b:1",
            "",
        ] {
            assert!(text.parse::<Listen>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_url_never_shows_its_secret() {
        for (text, shown) in [
            ("nats://nats:4222", "nats://nats:4222"),
            ("nats://anna:s3cret@nats:4222", "nats://anna:hidden@nats:4222"),
            ("tls://t0ken@nats:4222", "tls://hidden@nats:4222"),
        ] {
            let url: ServerUrl = text.parse().expect(text);
            assert_eq!(url.to_string(), shown);
            assert_eq!(format!("{url:?}"), shown);
            assert_eq!(url.reveal(), text);
            assert!(!url.without_secrets().contains('@'));
        }
        let url: ServerUrl = "nats://anna:s%40cret%25@nats".parse().expect("url");
        assert_eq!(url.login(), Some(("anna".to_owned(), Some("s@cret%".to_owned()))));
        assert_eq!(url.without_secrets(), "nats://nats:4222");
        let problem = "http://anna:s3cret@nats:4222"
            .parse::<ServerUrl>()
            .expect_err("not NATS");
        assert!(!problem.contains("s3cret"), "{problem}");
        assert!("nats".parse::<ServerUrl>().is_err());
    }

    proptest! {
        #[test]
        fn sizes_survive_a_round_trip(bytes in any::<u64>()) {
            prop_assert_eq!(Size(bytes).to_string().parse::<Size>(), Ok(Size(bytes)));
        }

        #[test]
        fn spans_survive_a_round_trip(nanos in 0u64..u64::MAX / 4) {
            let span = Span(Duration::from_nanos(nanos));
            prop_assert_eq!(span.to_string().parse::<Span>(), Ok(span));
        }

        #[test]
        fn parsing_never_panics(text in "\\PC{0,24}") {
            drop(text.parse::<Size>());
            drop(text.parse::<Span>());
            drop(text.parse::<Listen>());
            drop(text.parse::<ServerUrl>());
        }
    }
}
