//! The ledger: one JSON object a line, appended only.
//!
//! The first line describes the fleet. Then, in any order, what was sent and what was acknowledged:
//!
//! ```text
//! {"tarn_ledger":1,"profile":"home","devices":100,"rate":1000.0,"seed":7,"start":1752575400000000,"fleet":"k7q2"}
//! {"m":0,"at":1752575400000123,"p":"mqtt","s":"sensors.temperature.k7q2-kitchen-0","d":"k7q2-kitchen-0","n":"temperature","r":[["value",1752575400000000,22.5]]}
//! {"m":1,"at":1752575400001120,"p":"nats","s":"sensors.power.k7q2-oven-1","bad":"7b2276","kind":"cut_off"}
//! {"at":1752575400002011,"ack":[0,1]}
//! ```
//!
//! `m` numbers the messages, `at` is when (µs since 1970), `p` the protocol, `s` the subject, `d` the device, `n` the sensor,
//! `r` the rows as metric, timestamp and value, `bad` the payload of a malformed message in hexadecimal.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, Write as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use tarn_schemas::UnixMicros;

use crate::message::{Body, Measured, Message};

/// The format that is written, and the newest that is read.
pub const VERSION: u32 = 1;

/// Why a ledger can't be written or read.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// The file system says no.
    #[error("ledger {}: {source}", path.display())]
    Io {
        /// The ledger.
        path: PathBuf,
        /// What it said.
        source: io::Error,
    },
    /// There is one already.
    #[error("ledger {}: exists already and is never overwritten; name another file, or remove it", path.display())]
    Exists {
        /// The ledger.
        path: PathBuf,
    },
    /// A line that isn't one of a ledger.
    #[error("ledger {} line {line}: {detail}", path.display())]
    BadLine {
        /// The ledger.
        path: PathBuf,
        /// From 1.
        line: u64,
        /// What is wrong with it.
        detail: String,
    },
    /// Written by a newer version.
    #[error("ledger {} has format {found}, this version reads up to {VERSION}", path.display())]
    TooNew {
        /// The ledger.
        path: PathBuf,
        /// The format found.
        found: u32,
    },
}

/// The first line.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Header {
    /// Format of the ledger.
    pub tarn_ledger: u32,
    /// Name of the profile.
    pub profile: String,
    /// Number of devices.
    pub devices: u32,
    /// Messages a second over all devices.
    pub rate: f64,
    /// The seed.
    pub seed: u64,
    /// The time base of the fleet.
    pub start: UnixMicros,
    /// The tag that starts every device's name.
    pub fleet: String,
}

/// Any later line.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Line<'a> {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) m: Option<u64>,
    pub(crate) at: i64,
    #[serde(default, borrow, skip_serializing_if = "str::is_empty")]
    pub(crate) p: Cow<'a, str>,
    #[serde(default, borrow, skip_serializing_if = "str::is_empty")]
    pub(crate) s: Cow<'a, str>,
    #[serde(default, borrow, skip_serializing_if = "str::is_empty")]
    pub(crate) d: Cow<'a, str>,
    #[serde(default, borrow, skip_serializing_if = "str::is_empty")]
    pub(crate) n: Cow<'a, str>,
    #[serde(default, borrow, skip_serializing_if = "Vec::is_empty")]
    pub(crate) r: Vec<(Cow<'a, str>, i64, Value<'a>)>,
    #[serde(default, borrow, skip_serializing_if = "Option::is_none")]
    pub(crate) bad: Option<Cow<'a, str>>,
    #[serde(default, borrow, skip_serializing_if = "str::is_empty")]
    pub(crate) kind: Cow<'a, str>,
    #[serde(default, skip_serializing_if = "<[u64]>::is_empty")]
    pub(crate) ack: Cow<'a, [u64]>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(untagged)]
pub(crate) enum Value<'a> {
    Number(f64),
    Text(Cow<'a, str>),
}

/// Writes a ledger. Lines are buffered until [`LedgerWriter::flush`].
#[derive(Debug)]
pub struct LedgerWriter {
    path: PathBuf,
    out: BufWriter<File>,
}

impl LedgerWriter {
    /// Starts a new ledger. Errors where the file exists: a ledger is evidence and is never overwritten.
    pub fn create(path: &Path, header: &Header) -> Result<Self, LedgerError> {
        let file = File::create_new(path).map_err(|source| match source.kind() {
            io::ErrorKind::AlreadyExists => LedgerError::Exists {
                path: path.to_owned(),
            },
            _ => io_error(path, source),
        })?;
        let mut writer = Self {
            path: path.to_owned(),
            out: BufWriter::with_capacity(256 << 10, file),
        };
        writer.line(header)?;
        writer.flush()?;
        Ok(writer)
    }

    /// Notes that `message` is about to be sent.
    pub fn sent(&mut self, message: &Message, at: UnixMicros) -> Result<(), LedgerError> {
        let mut line = Line {
            m: Some(message.number),
            at: at.0,
            p: message.wire.as_str().into(),
            s: (&message.subject).into(),
            ..Line::default()
        };
        match &message.body {
            Body::Good {
                device_id,
                sensor,
                rows,
            } => {
                line.d = device_id.into();
                line.n = (*sensor).into();
                line.r = rows
                    .iter()
                    .map(|row| (row.metric.into(), row.ts.0, Value::from(&row.measured)))
                    .collect();
            }
            Body::Malformed { kind } => {
                line.bad = Some(hex(&message.payload).into());
                line.kind = (*kind).into();
            }
        }
        self.line(&line)
    }

    /// Notes that the messages with these numbers were acknowledged.
    pub fn acked(&mut self, numbers: &[u64], at: UnixMicros) -> Result<(), LedgerError> {
        if numbers.is_empty() {
            return Ok(());
        }
        self.line(&Line {
            at: at.0,
            ack: numbers.into(),
            ..Line::default()
        })
    }

    /// Hands everything to the operating system: it then survives the end of this process.
    pub fn flush(&mut self) -> Result<(), LedgerError> {
        self.out.flush().map_err(|source| io_error(&self.path, source))
    }

    fn line(&mut self, line: &impl Serialize) -> Result<(), LedgerError> {
        serde_json::to_writer(&mut self.out, line)
            .map_err(io::Error::from)
            .and_then(|()| self.out.write_all(b"\n"))
            .map_err(|source| io_error(&self.path, source))
    }
}

impl<'a> From<&'a Measured> for Value<'a> {
    fn from(measured: &'a Measured) -> Self {
        match measured {
            Measured::Number(number) => Value::Number(*number),
            Measured::Text(text) => Value::Text(text.into()),
        }
    }
}

/// Reads the header, then hands each line to `take`. A last line without its end was being written when the writer
/// died; it is left out.
pub(crate) fn read(
    path: &Path,
    take: &mut dyn FnMut(Line<'_>) -> Result<(), String>,
) -> Result<Header, LedgerError> {
    let io = |source| io_error(path, source);
    let mut lines = BufReader::with_capacity(256 << 10, File::open(path).map_err(io)?);
    let mut text = Vec::new();
    let mut header = None;
    for line in 1.. {
        text.clear();
        lines.read_until(b'\n', &mut text).map_err(io)?;
        if text.pop() != Some(b'\n') {
            break;
        }
        let bad = |detail| LedgerError::BadLine {
            path: path.to_owned(),
            line,
            detail,
        };
        if header.is_none() {
            header = Some(read_header(path, &text)?);
        } else {
            let parsed = serde_json::from_slice(&text).map_err(|err| bad(err.to_string()))?;
            take(parsed).map_err(bad)?;
        }
    }
    header.ok_or_else(|| LedgerError::BadLine {
        path: path.to_owned(),
        line: 1,
        detail: "no header".to_owned(),
    })
}

fn read_header(path: &Path, text: &[u8]) -> Result<Header, LedgerError> {
    #[derive(Deserialize)]
    struct Version {
        tarn_ledger: u32,
    }
    let bad = |err: serde_json::Error| LedgerError::BadLine {
        path: path.to_owned(),
        line: 1,
        detail: err.to_string(),
    };
    let version: Version = serde_json::from_slice(text).map_err(bad)?;
    if version.tarn_ledger > VERSION {
        return Err(LedgerError::TooNew {
            path: path.to_owned(),
            found: version.tarn_ledger,
        });
    }
    serde_json::from_slice(text).map_err(bad)
}

fn io_error(path: &Path, source: io::Error) -> LedgerError {
    LedgerError::Io {
        path: path.to_owned(),
        source,
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes
        .iter()
        .fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
            // Writing to a string can't fail.
            write!(text, "{byte:02x}").unwrap_or_default();
            text
        })
}

pub(crate) fn unhex(text: &str) -> Option<Vec<u8>> {
    let digit = |byte: &u8| char::from(*byte).to_digit(16);
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    if !rest.is_empty() {
        return None;
    }
    pairs
        .iter()
        .map(|[high, low]| u8::try_from(digit(high)? * 16 + digit(low)?).ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::{ExpectedRow, Wire};

    fn header() -> Header {
        Header {
            tarn_ledger: VERSION,
            profile: "home".into(),
            devices: 2,
            rate: 10.0,
            seed: 7,
            start: UnixMicros(1_752_575_400_000_000),
            fleet: "k7q2".into(),
        }
    }

    fn good() -> Message {
        let row = |metric, measured| ExpectedRow {
            metric,
            ts: UnixMicros(5),
            measured,
        };
        Message {
            number: 0,
            device: 0,
            wire: Wire::Mqtt,
            subject: "sensors.door.d\"1".into(),
            payload: "{}".into(),
            body: Body::Good {
                device_id: "d\"1".into(),
                sensor: "door",
                rows: vec![
                    row("value", Measured::Number(0.1)),
                    row("state", Measured::Text("open".into())),
                ],
            },
            is_duplicated: false,
        }
    }

    fn bad() -> Message {
        let body = Body::Malformed { kind: "not_utf8" };
        Message {
            number: 1,
            payload: vec![0xff, 0x00].into(),
            wire: Wire::Nats,
            body,
            ..good()
        }
    }

    #[test]
    fn written_lines_read_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ledger");
        let mut writer = LedgerWriter::create(&path, &header()).unwrap();
        writer.sent(&good(), UnixMicros(10)).unwrap();
        writer.sent(&bad(), UnixMicros(11)).unwrap();
        writer.acked(&[], UnixMicros(12)).unwrap();
        writer.acked(&[1, 0], UnixMicros(13)).unwrap();
        writer.flush().unwrap();
        // What a killed writer leaves behind.
        let mut torn = std::fs::read(&path).unwrap();
        torn.extend(b"{\"m\":2,\"at\":1");
        std::fs::write(&path, torn).unwrap();

        let mut lines = Vec::new();
        let read = read(&path, &mut |line| {
            lines.push(format!("{line:?}"));
            Ok(())
        });
        assert_eq!(read.unwrap(), header());
        expect_lines(&lines);
        assert!(matches!(
            LedgerWriter::create(&path, &header()),
            Err(LedgerError::Exists { .. })
        ));
    }

    fn expect_lines(lines: &[String]) {
        assert_eq!(
            lines,
            [
                r#"Line { m: Some(0), at: 10, p: "mqtt", s: "sensors.door.d\"1", d: "d\"1", n: "door", r: [("value", 5, Number(0.1)), ("state", 5, Text("open"))], bad: None, kind: "", ack: [] }"#,
                r#"Line { m: Some(1), at: 11, p: "nats", s: "sensors.door.d\"1", d: "", n: "", r: [], bad: Some("ff00"), kind: "not_utf8", ack: [] }"#,
                r#"Line { m: None, at: 13, p: "", s: "", d: "", n: "", r: [], bad: None, kind: "", ack: [1, 0] }"#,
            ]
        );
    }

    #[test]
    fn what_is_no_ledger_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ledger");
        let header = serde_json::to_string(&header()).unwrap();
        let newer = header.replace("\"tarn_ledger\":1", "\"tarn_ledger\":2");
        for (text, message) in [
            (String::new(), "line 1: no header"),
            (
                "{\"m\":1}\n".to_owned(),
                "line 1: missing field `tarn_ledger` at line 1 column 7",
            ),
            (format!("{newer}\n"), "has format 2, this version reads up to 1"),
            (format!("{header}\n{{\"x\":1}}\n"), "line 2: unknown field `x`"),
        ] {
            std::fs::write(&path, text).unwrap();
            let error = read(&path, &mut |_| Ok(())).unwrap_err().to_string();
            assert!(error.contains(message), "{error}");
        }
    }

    #[test]
    fn hexadecimal_both_ways() {
        let bytes: Vec<u8> = (0..=255).collect();
        assert_eq!(unhex(&hex(&bytes)), Some(bytes));
        assert_eq!([unhex("0"), unhex("0g"), unhex("é")], [None, None, None]);
    }
}
