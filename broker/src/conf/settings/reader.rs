//! Values as the type that a key wants, or an error that says where and what.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use super::super::value::{Node, Table, Value};
use super::super::{ConfigError, Position, Sources};
use super::size;

/// Collects what is wrong.
pub(super) struct Reader<'a> {
    pub(super) sources: &'a dyn Sources,
    pub(super) errors: Vec<ConfigError>,
    pub(super) warnings: Vec<String>,
}

impl<'a> Reader<'a> {
    pub(super) fn new(sources: &'a dyn Sources) -> Self {
        Self {
            sources,
            errors: Vec::new(),
            warnings: Vec::new(),
        }
    }

    pub(super) fn error(&mut self, at: &Position, reason: impl Into<String>) {
        self.errors.push(ConfigError::new(at, reason));
    }

    /// What can't be done is not left out silently.
    pub(super) fn refuse(&mut self, node: &Node, reason: &str) {
        self.error(&node.at, reason);
    }

    pub(super) fn warn(&mut self, node: &Node, text: &str) {
        self.warnings.push(format!("{}: {text}", node.at));
    }

    /// A key that there is not; unless it is a variable that something refers to.
    pub(super) fn unknown(&mut self, key: &str, node: &Node) {
        if !node.is_referenced {
            self.error(&node.at, format!("unknown field {key:?}"));
        }
    }

    pub(super) fn wrong_type<T>(&mut self, key: &str, node: &Node, wanted: &str) -> Option<T> {
        let kind = node.value.kind();
        self.error(&node.at, format!("expected {key:?} to be {wanted}, got {kind}"));
        None
    }

    pub(super) fn string(&mut self, key: &str, node: &Node) -> Option<String> {
        match &node.value {
            Value::String(text) => Some(text.clone()),
            _ => self.wrong_type(key, node, "a string"),
        }
    }

    pub(super) fn put_string(&mut self, key: &str, node: &Node, into: &mut String) {
        if let Some(text) = self.string(key, node) {
            *into = text;
        }
    }

    pub(super) fn path(&mut self, key: &str, node: &Node) -> Option<PathBuf> {
        self.string(key, node).map(PathBuf::from)
    }

    pub(super) fn bool(&mut self, key: &str, node: &Node) -> Option<bool> {
        match node.value {
            Value::Bool(truth) => Some(truth),
            _ => self.wrong_type(key, node, "a boolean"),
        }
    }

    pub(super) fn put_bool(&mut self, key: &str, node: &Node, into: &mut bool) {
        if let Some(truth) = self.bool(key, node) {
            *into = truth;
        }
    }

    pub(super) fn int(&mut self, key: &str, node: &Node) -> Option<i64> {
        match node.value {
            Value::Int(number) => Some(number),
            _ => self.wrong_type(key, node, "a number"),
        }
    }

    /// A number of things; a negative one is no limit. The outer `None` is an error.
    pub(super) fn limit(&mut self, key: &str, node: &Node) -> Option<Option<u64>> {
        self.int(key, node).map(|number| u64::try_from(number).ok())
    }

    /// A number of things; a negative one is left out.
    pub(super) fn count(&mut self, key: &str, node: &Node) -> Option<usize> {
        self.limit(key, node).flatten().map(size)
    }

    /// A number of bytes that nats-server holds in 31 bits. Nought leaves the default.
    pub(super) fn put_bytes(&mut self, key: &str, node: &Node, into: &mut usize) {
        match self.int(key, node) {
            Some(bytes) if bytes > i64::from(i32::MAX) && key != "max_pending" => {
                self.error(&node.at, format!("{key} value is too big"));
            }
            Some(bytes) if bytes < 0 => self.error(&node.at, format!("{key} value can not be negative")),
            Some(bytes) if bytes > 0 => *into = size(bytes.unsigned_abs()),
            _ => {}
        }
    }

    /// -1 to 65535.
    pub(super) fn port(&mut self, key: &str, node: &Node) -> Option<i64> {
        let port = self.int(key, node)?;
        if (-1..=65535).contains(&port) {
            Some(port)
        } else {
            self.error(&node.at, format!("{key} {port} is not a port"));
            None
        }
    }

    /// `host:port`, or a port alone, as host and port.
    pub(super) fn listen(&mut self, node: &Node) -> Option<(String, i64)> {
        let text = match &node.value {
            Value::Int(_) => return self.port("listen", node).map(|port| (String::new(), port)),
            Value::String(text) => text,
            _ => return self.wrong_type("listen", node, "port or host:port"),
        };
        let Some((host, port)) = split_host_port(text) else {
            self.error(&node.at, format!("could not parse address string {text:?}"));
            return None;
        };
        match port.parse::<i64>() {
            Ok(number) if (-1..=65535).contains(&number) => Some((host.to_owned(), number)),
            _ => {
                self.error(&node.at, format!("could not parse port {port:?}"));
                None
            }
        }
    }

    pub(super) fn map<'n>(&mut self, key: &str, node: &'n Node) -> Option<&'n Table> {
        match &node.value {
            Value::Map(table) => Some(table),
            _ => self.wrong_type(key, node, "a map"),
        }
    }

    pub(super) fn array<'n>(&mut self, key: &str, node: &'n Node) -> Option<&'n [Node]> {
        match &node.value {
            Value::Array(items) => Some(items),
            _ => self.wrong_type(key, node, "an array"),
        }
    }

    /// A string, or an array of them.
    pub(super) fn strings(&mut self, key: &str, node: &Node) -> Option<Vec<String>> {
        match &node.value {
            Value::String(text) => Some(vec![text.clone()]),
            Value::Array(items) => items.iter().map(|item| self.string(key, item)).collect(),
            _ => self.wrong_type(key, node, "a string or an array of strings"),
        }
    }

    pub(super) fn string_map(&mut self, key: &str, node: &Node) -> Option<BTreeMap<String, String>> {
        let table = self.map(key, node)?;
        table
            .iter()
            .map(|(name, item)| Some((name.to_owned(), self.string(name, item)?)))
            .collect()
    }

    /// A duration as text, or in seconds, which is old.
    pub(super) fn duration(&mut self, key: &str, node: &Node) -> Option<Duration> {
        match node.value {
            Value::Int(seconds) => {
                self.warn(node, &format!("{key} should be converted to a duration"));
                Some(Duration::from_secs(u64::try_from(seconds).unwrap_or_default()))
            }
            _ => self.duration_text(key, node),
        }
    }

    /// A duration as text.
    pub(super) fn duration_text(&mut self, key: &str, node: &Node) -> Option<Duration> {
        let text = self.string(key, node)?;
        match go_duration(&text) {
            Ok(nanos) => match u64::try_from(nanos) {
                Ok(nanos) => Some(Duration::from_nanos(nanos)),
                Err(_) => {
                    self.error(&node.at, format!("invalid {key}, needs to be positive"));
                    None
                }
            },
            Err(reason) => {
                self.error(&node.at, format!("error parsing {key}: {reason}"));
                None
            }
        }
    }

    /// A time-out: seconds, maybe with a fraction, or a duration as text.
    pub(super) fn timeout(&mut self, key: &str, node: &Node) -> Option<Duration> {
        match node.value {
            Value::Int(seconds) => Some(Duration::from_secs(u64::try_from(seconds).unwrap_or_default())),
            Value::Float(seconds) => match Duration::try_from_secs_f64(seconds) {
                Ok(timeout) => Some(timeout),
                Err(_) => self.wrong_type(key, node, "a time"),
            },
            _ => self.duration_text(key, node),
        }
    }

    /// Bytes: a number, or text that ends in K, M, G or T. The outer `None` is an error, the inner one no limit.
    pub(super) fn storage_size(&mut self, key: &str, node: &Node) -> Option<Option<u64>> {
        let text = match &node.value {
            Value::Int(number) => return Some(u64::try_from(*number).ok()),
            Value::String(text) => text,
            _ => return self.wrong_type(key, node, "a number or a string"),
        };
        let power = match text.chars().last() {
            None => return Some(Some(0)),
            Some('K') => 10,
            Some('M') => 20,
            Some('G') => 30,
            Some('T') => 40,
            Some(_) => {
                self.error(
                    &node.at,
                    format!("{key} sizes defined as strings must end in K, M, G, T"),
                );
                return None;
            }
        };
        let number = text
            .get(..text.len() - 1)
            .and_then(|digits| digits.parse::<i64>().ok());
        match number.and_then(|number| number.checked_mul(1 << power)) {
            Some(bytes) => Some(u64::try_from(bytes).ok()),
            None => {
                self.error(&node.at, format!("{key}: {text:?} is not a size"));
                None
            }
        }
    }

    /// A value as a message shows it.
    pub(super) fn text_of(&self, node: &Node) -> String {
        match &node.value {
            Value::String(text) => text.clone(),
            value => value.kind().to_owned(),
        }
    }
}

/// Host and port of `host:port`, where an IPv6 address is in brackets.
pub(super) fn split_host_port(text: &str) -> Option<(&str, &str)> {
    let (host, port) = text.rsplit_once(':')?;
    match host.strip_prefix('[') {
        Some(inner) => Some((inner.strip_suffix(']')?, port)),
        None if host.contains(':') => None,
        None => Some((host, port)),
    }
}

/// Nanoseconds of a duration as Go writes it, such as `1h30m`, `1.5s` or `-2us`. Errs with Go's reason.
pub(super) fn go_duration(text: &str) -> Result<i64, String> {
    let invalid = || format!("time: invalid duration {text:?}");
    let (negative, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest == "0" {
        return Ok(0);
    }
    if rest.is_empty() {
        return Err(invalid());
    }
    let mut nanos = 0_i64;
    while !rest.is_empty() {
        let digits = rest
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .unwrap_or(rest.len());
        let (number, tail) = rest.split_at(digits);
        if !number.contains(|c: char| c.is_ascii_digit()) || number.matches('.').count() > 1 {
            return Err(invalid());
        }
        let length = tail
            .find(|c: char| c.is_ascii_digit() || c == '.')
            .unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(length);
        let factor = match unit {
            "ns" => 1,
            "us" | "µs" | "μs" => 1_000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60_000_000_000,
            "h" => 3_600_000_000_000,
            "" => return Err(format!("time: missing unit in duration {text:?}")),
            _ => return Err(format!("time: unknown unit {unit:?} in duration {text:?}")),
        };
        let part = scaled(number, factor).ok_or_else(invalid)?;
        nanos = nanos.checked_add(part).ok_or_else(invalid)?;
        rest = tail;
    }
    Ok(if negative { -nanos } else { nanos })
}

/// A decimal number times `factor`, rounded down.
fn scaled(number: &str, factor: i64) -> Option<i64> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let whole = if whole.is_empty() {
        0
    } else {
        whole.parse::<i64>().ok()?
    };
    let mut nanos = whole.checked_mul(factor)?;
    let mut place = factor;
    for digit in fraction.bytes() {
        place /= 10;
        nanos = nanos.checked_add(i64::from(digit - b'0').checked_mul(place)?)?;
    }
    Some(nanos)
}
