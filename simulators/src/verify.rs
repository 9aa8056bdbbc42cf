//! Holds the tables against a ledger.
//!
//! What has to be true: each row of an acknowledged message is in `readings` exactly once, with its value; each
//! acknowledged malformed message is in `dead_letters` exactly once; of a message that wasn't acknowledged there is all or
//! nothing, and nothing twice. Rows of devices that aren't the ledger's fleet don't count.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::Path;

use tarn_schemas::UnixMicros;

use crate::ledger::{self, Header, LedgerError, Line, Value};

/// A row of `readings`.
#[derive(Clone, Copy, Debug)]
pub struct StoredReading<'a> {
    /// `device_id`
    pub device_id: &'a str,
    /// `sensor`
    pub sensor: &'a str,
    /// `metric`
    pub metric: &'a str,
    /// `ts`
    pub ts: UnixMicros,
    /// `value`
    pub value: Option<f64>,
    /// `text`
    pub text: Option<&'a str>,
}

/// A row of `dead_letters`.
#[derive(Clone, Copy, Debug)]
pub struct StoredDeadLetter<'a> {
    /// `subject`
    pub subject: &'a str,
    /// `payload`
    pub payload: &'a [u8],
    /// `reason`
    pub reason: &'a str,
}

/// What the tables hold of a ledger. `sent`, `acked`, `torn` and the dead letters count messages, the rest rows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// Messages sent.
    pub sent: u64,
    /// Of them acknowledged.
    pub acked: u64,
    /// Rows of acknowledged good messages: all of them have to be there.
    pub expected: u64,
    /// Rows of the ledger that are there, those of unacknowledged messages included, each counted once.
    pub stored: u64,
    /// Of them rows of messages that were never acknowledged: allowed.
    pub stored_unacked: u64,
    /// Expected rows that aren't there.
    pub lost: u64,
    /// Rows that are there more than once: the surplus.
    pub doubled: u64,
    /// Rows with another value than was sent.
    pub wrong: u64,
    /// Rows of the fleet's devices that it never sent.
    pub unknown_rows: u64,
    /// Messages of which some rows are there and some aren't.
    pub torn: u64,
    /// Rows of other devices.
    pub foreign_rows: u64,
    /// Acknowledged malformed messages: all of them have to be dead letters.
    pub dead_expected: u64,
    /// Malformed messages that are dead letters, each counted once.
    pub dead_lettered: u64,
    /// Expected dead letters that aren't there.
    pub dead_lost: u64,
    /// Dead letters that are there more than once: the surplus.
    pub dead_doubled: u64,
    /// Dead letters on the fleet's subjects that aren't its malformed messages: good ones that were refused.
    pub unknown_dead: u64,
    /// Dead letters on other subjects.
    pub foreign_dead: u64,
    /// The first few of what doesn't hold, in words.
    pub examples: Vec<String>,
}

const EXAMPLES_MAX: usize = 10;

impl Verdict {
    /// Whether nothing acknowledged is missing, nothing is doubled, and nothing is there that shouldn't be.
    pub fn holds(&self) -> bool {
        let Self {
            lost,
            doubled,
            wrong,
            unknown_rows,
            torn,
            dead_lost,
            dead_doubled,
            unknown_dead,
            ..
        } = self;
        [
            lost,
            doubled,
            wrong,
            unknown_rows,
            torn,
            dead_lost,
            dead_doubled,
            unknown_dead,
        ]
        .iter()
        .all(|n| **n == 0)
    }

    fn example(&mut self, text: impl FnOnce() -> String) {
        if self.examples.len() < EXAMPLES_MAX {
            self.examples.push(text());
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "messages      {:>12} sent      {:>12} acknowledged",
            self.sent, self.acked
        )?;
        write!(
            f,
            "readings      {:>12} expected  {:>12} stored",
            self.expected, self.stored
        )?;
        writeln!(f, "  (of them {} not acknowledged)", self.stored_unacked)?;
        writeln!(
            f,
            "              {:>12} lost      {:>12} doubled",
            self.lost, self.doubled
        )?;
        writeln!(
            f,
            "              {:>12} wrong     {:>12} unknown",
            self.wrong, self.unknown_rows
        )?;
        writeln!(f, "              {:>12} messages stored in part", self.torn)?;
        writeln!(
            f,
            "dead letters  {:>12} expected  {:>12} stored",
            self.dead_expected, self.dead_lettered
        )?;
        writeln!(
            f,
            "              {:>12} lost      {:>12} doubled",
            self.dead_lost, self.dead_doubled
        )?;
        writeln!(f, "              {:>12} unknown", self.unknown_dead)?;
        if self.foreign_rows + self.foreign_dead > 0 {
            let (rows, dead) = (self.foreign_rows, self.foreign_dead);
            writeln!(f, "not of this fleet: {rows} readings, {dead} dead letters")?;
        }
        for example in &self.examples {
            writeln!(f, "  {example}")?;
        }
        f.write_str(if self.holds() { "holds" } else { "DOES NOT HOLD" })
    }
}

/// 128 bits of what identifies a row or a dead letter: a collision among a billion has a chance of 1 in 10^20.
type Key = [u64; 2];

struct Row {
    /// Bits of the number, or a hash of the text.
    measured: u64,
    message: u32,
    is_text: bool,
    seen: u8,
}

struct Sent {
    is_acked: bool,
    rows: u16,
    rows_seen: u16,
}

struct Dead {
    message: u32,
    seen: u8,
}

/// A ledger while the tables are held against it, row by row. Takes about 50 bytes of memory a row.
pub struct Verification {
    header: Header,
    messages: Vec<Sent>,
    rows: HashMap<Key, Row>,
    dead: HashMap<Key, Dead>,
    devices: HashSet<Box<str>>,
    subjects: HashSet<Box<str>>,
    verdict: Verdict,
}

/// Holds all rows of the tables against the ledger at `path`.
pub fn hold<'a>(
    path: &Path,
    readings: impl IntoIterator<Item = StoredReading<'a>>,
    dead_letters: impl IntoIterator<Item = StoredDeadLetter<'a>>,
) -> Result<Verdict, LedgerError> {
    let mut verification = Verification::load(path)?;
    for reading in readings {
        verification.reading(&reading);
    }
    for dead_letter in dead_letters {
        verification.dead_letter(&dead_letter);
    }
    Ok(verification.finish())
}

impl Verification {
    /// Reads a ledger.
    pub fn load(path: &Path) -> Result<Self, LedgerError> {
        let mut verification = Self {
            header: Header {
                tarn_ledger: ledger::VERSION,
                profile: String::new(),
                devices: 0,
                rate: 0.0,
                seed: 0,
                start: UnixMicros(0),
                fleet: String::new(),
            },
            messages: Vec::new(),
            rows: HashMap::new(),
            dead: HashMap::new(),
            devices: HashSet::new(),
            subjects: HashSet::new(),
            verdict: Verdict::default(),
        };
        verification.header = ledger::read(path, &mut |line| verification.take(line))?;
        Ok(verification)
    }

    /// What the ledger says about the fleet.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// Rows that have to be in `readings` at the end, and dead letters: how long a reader has to wait.
    pub fn expected(&self) -> (u64, u64) {
        let is_acked = |message: u32| {
            self.messages
                .get(message as usize)
                .is_some_and(|sent| sent.is_acked)
        };
        let rows = self.rows.values().filter(|row| is_acked(row.message)).count();
        let dead = self.dead.values().filter(|dead| is_acked(dead.message)).count();
        (rows as u64, dead as u64)
    }

    fn take(&mut self, line: Line<'_>) -> Result<(), String> {
        for number in line.ack.iter() {
            let index = usize::try_from(*number).map_err(|err| err.to_string())?;
            let sent = self
                .messages
                .get_mut(index)
                .ok_or_else(|| format!("message {number} was never sent"))?;
            if std::mem::replace(&mut sent.is_acked, true) {
                return Err(format!("message {number} was acknowledged already"));
            }
        }
        let Some(number) = line.m else {
            return Ok(());
        };
        if number != self.messages.len() as u64 {
            return Err(format!("message {number} where {} was due", self.messages.len()));
        }
        let message = u32::try_from(number).map_err(|_| "more than 2^32 messages".to_owned())?;
        let rows = u16::try_from(line.r.len()).map_err(|_| "more than 65,535 rows".to_owned())?;
        self.messages.push(Sent {
            is_acked: false,
            rows,
            rows_seen: 0,
        });
        if !self.subjects.contains(&*line.s) {
            self.subjects.insert(line.s.as_ref().into());
        }
        if let Some(payload) = &line.bad {
            let payload = ledger::unhex(payload).ok_or("payload isn't hexadecimal")?;
            let replaced = self
                .dead
                .insert(dead_key(&line.s, &payload), Dead { message, seen: 0 });
            return if replaced.is_some() {
                Err("a malformed message twice".to_owned())
            } else {
                Ok(())
            };
        }
        if !self.devices.contains(&*line.d) {
            self.devices.insert(line.d.as_ref().into());
        }
        for (metric, ts, value) in &line.r {
            let (measured, is_text) = match value {
                Value::Number(number) => (number.to_bits(), false),
                Value::Text(text) => (text_hash(text), true),
            };
            let row = Row {
                measured,
                message,
                is_text,
                seen: 0,
            };
            if self
                .rows
                .insert(row_key(&line.d, &line.n, metric, *ts), row)
                .is_some()
            {
                return Err(format!(
                    "row {} {} {metric} {} twice",
                    line.d,
                    line.n,
                    UnixMicros(*ts)
                ));
            }
        }
        Ok(())
    }

    /// Takes a row of `readings`.
    pub fn reading(&mut self, stored: &StoredReading<'_>) {
        let named = || {
            format!(
                "{} {} {} {}",
                stored.device_id, stored.sensor, stored.metric, stored.ts
            )
        };
        let key = row_key(stored.device_id, stored.sensor, stored.metric, stored.ts.0);
        let Some(row) = self.rows.get_mut(&key) else {
            if self.devices.contains(stored.device_id) {
                self.verdict.unknown_rows += 1;
                self.verdict.example(|| format!("unknown: {}", named()));
            } else {
                self.verdict.foreign_rows += 1;
            }
            return;
        };
        row.seen = row.seen.saturating_add(1);
        if row.seen > 1 {
            self.verdict.doubled += 1;
            self.verdict.example(|| format!("doubled: {}", named()));
            return;
        }
        self.verdict.stored += 1;
        if let Some(sent) = self.messages.get_mut(row.message as usize) {
            sent.rows_seen += 1;
            self.verdict.stored_unacked += u64::from(!sent.is_acked);
        }
        if !is_same(row, stored) {
            self.verdict.wrong += 1;
            self.verdict
                .example(|| format!("wrong: {} {:?} {:?}", named(), stored.value, stored.text));
        }
    }

    /// Takes a row of `dead_letters`.
    pub fn dead_letter(&mut self, stored: &StoredDeadLetter<'_>) {
        let named = || {
            let payload: String = String::from_utf8_lossy(stored.payload)
                .chars()
                .take(120)
                .collect();
            format!("{} {} {payload:?}", stored.subject, stored.reason)
        };
        match self.dead.get_mut(&dead_key(stored.subject, stored.payload)) {
            Some(dead) => {
                dead.seen = dead.seen.saturating_add(1);
                if dead.seen > 1 {
                    self.verdict.dead_doubled += 1;
                    self.verdict
                        .example(|| format!("dead letter doubled: {}", named()));
                } else {
                    self.verdict.dead_lettered += 1;
                }
            }
            None if self.subjects.contains(stored.subject) => {
                self.verdict.unknown_dead += 1;
                self.verdict
                    .example(|| format!("unknown dead letter: {}", named()));
            }
            None => self.verdict.foreign_dead += 1,
        }
    }

    /// The verdict, once all rows of both tables were taken.
    pub fn finish(mut self) -> Verdict {
        let mut verdict = std::mem::take(&mut self.verdict);
        verdict.sent = self.messages.len() as u64;
        verdict.acked = self.messages.iter().filter(|sent| sent.is_acked).count() as u64;
        for (number, sent) in self.messages.iter().enumerate() {
            if sent.is_acked {
                verdict.expected += u64::from(sent.rows);
                verdict.lost += u64::from(sent.rows - sent.rows_seen);
                if sent.rows_seen < sent.rows {
                    verdict.example(|| format!("lost: rows of message {number}"));
                }
            }
            if sent.rows_seen > 0 && sent.rows_seen < sent.rows {
                verdict.torn += 1;
                verdict.example(|| {
                    format!(
                        "stored in part: {} of {} rows of message {number}",
                        sent.rows_seen, sent.rows
                    )
                });
            }
        }
        let mut lost: Vec<u32> = Vec::new();
        for dead in self.dead.values() {
            let is_acked = self
                .messages
                .get(dead.message as usize)
                .is_some_and(|sent| sent.is_acked);
            verdict.dead_expected += u64::from(is_acked);
            if is_acked && dead.seen == 0 {
                lost.push(dead.message);
            }
        }
        verdict.dead_lost = lost.len() as u64;
        lost.sort_unstable();
        for number in lost {
            verdict.example(|| format!("dead letter lost: message {number}"));
        }
        verdict
    }
}

fn is_same(row: &Row, stored: &StoredReading<'_>) -> bool {
    match (row.is_text, stored.value, stored.text) {
        (true, None, Some(text)) => text_hash(text) == row.measured,
        (false, Some(value), None) => {
            let expected = f64::from_bits(row.measured);
            (value - expected).abs() <= 1e-9 * expected.abs().max(1.0)
        }
        _ => false,
    }
}

fn key(parts: impl Hash) -> Key {
    [1u8, 2].map(|half| {
        let mut hasher = DefaultHasher::new();
        (half, &parts).hash(&mut hasher);
        hasher.finish()
    })
}

fn row_key(device: &str, sensor: &str, metric: &str, ts: i64) -> Key {
    key((device, sensor, metric, ts))
}

fn dead_key(subject: &str, payload: &[u8]) -> Key {
    key((subject, payload))
}

fn text_hash(text: &str) -> u64 {
    let [hash, _] = key(text);
    hash
}

#[cfg(test)]
mod tests;
