//! A client that is a bare socket with prepared bytes: its own limit lies far above that of a client library.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::time::Duration;

use anyhow::{bail, ensure};

pub(crate) const PAYLOAD: [u8; 128] = [b'x'; 128];
pub(crate) const SUBJECT: &str = "bench.subject";
const PATIENCE: Duration = Duration::from_secs(60);

/// Appends a `MSG` without an answer subject.
pub(crate) fn frame_of(out: &mut Vec<u8>, subject: &[u8], sid: &[u8], payload: &[u8]) {
    out.extend_from_slice(b"MSG ");
    out.extend_from_slice(subject);
    out.push(b' ');
    out.extend_from_slice(sid);
    out.extend_from_slice(format!(" {}\r\n", payload.len()).as_bytes());
    out.extend_from_slice(payload);
    out.extend_from_slice(b"\r\n");
}

/// The number that follows `key`.
pub(crate) fn number_after(text: &[u8], key: &[u8]) -> Option<u64> {
    let at = text.windows(key.len()).position(|window| window == key)? + key.len();
    let digits: Vec<u8> = text[at..]
        .iter()
        .copied()
        .take_while(u8::is_ascii_digit)
        .collect();
    std::str::from_utf8(&digits).ok()?.parse().ok()
}

/// A connection. Answers come to `_INBOX.r.*`, subscription 1; messages of a consumer to `_INBOX.p`, subscription 2.
pub(crate) struct Raw {
    socket: TcpStream,
    buffer: Vec<u8>,
    held: Vec<u8>,
}

/// A message for the client.
pub(crate) struct Received<'a> {
    pub(crate) reply: Option<&'a [u8]>,
    pub(crate) payload: &'a [u8],
}

impl Raw {
    pub(crate) fn connect(port: u16) -> anyhow::Result<Self> {
        let socket = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
        socket.set_nodelay(true)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.set_write_timeout(Some(PATIENCE))?;
        let mut raw = Self {
            socket,
            buffer: vec![0; 256 * 1024],
            held: Vec::new(),
        };
        raw.write(b"CONNECT {\"verbose\":false,\"headers\":true,\"no_responders\":true}\r\n")?;
        raw.flush()?;
        Ok(raw)
    }

    /// Subscribes to `subject` as `sid`.
    pub(crate) fn subscribe(&mut self, subject: &str, sid: u8) -> anyhow::Result<()> {
        self.write(format!("SUB {subject} {sid}\r\n").as_bytes())?;
        self.flush()
    }

    pub(crate) fn write(&mut self, bytes: &[u8]) -> anyhow::Result<()> {
        Ok(self.socket.write_all(bytes)?)
    }

    /// Waits until the server has taken everything written so far.
    pub(crate) fn flush(&mut self) -> anyhow::Result<()> {
        self.write(b"PING\r\n")?;
        let mut seen = false;
        while !seen {
            self.receive(|line, _| seen |= line.starts_with(b"PONG"))?;
        }
        Ok(())
    }

    /// The answer to a request. The answers of other requests are passed over.
    pub(crate) fn request(&mut self, subject: &str, payload: &str) -> anyhow::Result<String> {
        self.write(format!("PUB {subject} _INBOX.r.q {}\r\n{payload}\r\n", payload.len()).as_bytes())?;
        let mut answer = None;
        while answer.is_none() {
            self.receive(|line, body| {
                if line.windows(11).any(|window| window == b" _INBOX.r.q") {
                    answer = Some(String::from_utf8_lossy(body).into_owned());
                }
            })?;
        }
        Ok(answer.unwrap_or_default())
    }

    /// A JetStream request that has to succeed.
    pub(crate) fn api(&mut self, subject: &str, payload: &str) -> anyhow::Result<String> {
        let answer = self.request(&format!("$JS.API.{subject}"), payload)?;
        ensure!(!answer.contains("\"error\""), "{subject}: {answer}");
        Ok(answer)
    }

    /// Reads once and hands on each whole message that is there then.
    pub(crate) fn messages(&mut self, mut take: impl FnMut(Received<'_>)) -> anyhow::Result<()> {
        self.receive(|line, payload| {
            if line.first() == Some(&b'M') {
                let words = line.split(|byte| *byte == b' ');
                let reply = words
                    .clone()
                    .count()
                    .eq(&5)
                    .then(|| words.clone().nth(3))
                    .flatten();
                take(Received { reply, payload });
            }
        })
    }

    /// Reads once and hands on each whole operation that is there then: its line and what follows.
    fn receive(&mut self, mut take: impl FnMut(&[u8], &[u8])) -> anyhow::Result<()> {
        let read = self.socket.read(&mut self.buffer)?;
        ensure!(read > 0, "the server closed the connection");
        self.held.extend_from_slice(&self.buffer[..read]);
        let mut at = 0;
        while let Some(length) = self.held[at..].iter().position(|byte| *byte == b'\n') {
            let line = self.held[at..at + length].trim_ascii_end();
            let mut next = at + length + 1;
            let mut body: &[u8] = &[];
            match line.first() {
                Some(b'-') => bail!("the server refused: {}", String::from_utf8_lossy(line)),
                Some(b'M' | b'H') => {
                    let size = line.rsplit(|byte| *byte == b' ').next().unwrap_or_default();
                    let size: usize = std::str::from_utf8(size)?.parse()?;
                    let Some(found) = self.held.get(next..next + size) else {
                        break;
                    };
                    if self.held.len() < next + size + 2 {
                        break;
                    }
                    body = found;
                    next += size + 2;
                }
                _ => {}
            }
            take(line, body);
            at = next;
        }
        self.held.drain(..at);
        Ok(())
    }

    /// Reads once, and counts PubAcks by the closing brace of their JSON, of which each has one. An error of any kind
    /// ends the run. Nothing but PubAcks may be on its way.
    pub(crate) fn count_acks(&mut self) -> anyhow::Result<u64> {
        let read = self.socket.read(&mut self.buffer)?;
        ensure!(read > 0, "the server closed the connection");
        let bytes = &self.buffer[..read];
        let head = &bytes[..read.min(256)];
        let refused = |text: &[u8]| head.windows(text.len()).any(|window| window == text);
        ensure!(
            !refused(b"-ERR") && !refused(b"err_code"),
            "the server refused: {}",
            String::from_utf8_lossy(head)
        );
        Ok(bytes.iter().filter(|byte| **byte == b'}').count() as u64)
    }
}

/// Creates the stream BENCH of `bench.>`, in `storage`.
pub(crate) fn create_stream(port: u16, storage: &str) -> anyhow::Result<()> {
    create_stream_of(port, "BENCH", "bench.>", storage)
}

pub(crate) fn create_stream_of(port: u16, name: &str, subject: &str, storage: &str) -> anyhow::Result<()> {
    let mut raw = Raw::connect(port)?;
    raw.subscribe("_INBOX.r.*", 1)?;
    let config = format!(r#"{{"name":"{name}","subjects":["{subject}"],"storage":"{storage}"}}"#);
    raw.api(&format!("STREAM.CREATE.{name}"), &config)?;
    Ok(())
}

/// A publish whose acknowledgement goes to `inbox`: connections that publish at once must not hear each other's.
pub(crate) fn publish_frame(subject: &str, inbox: &str) -> Vec<u8> {
    let mut one = format!("PUB {subject} {inbox} {}\r\n", PAYLOAD.len()).into_bytes();
    one.extend_from_slice(&PAYLOAD);
    one.extend_from_slice(b"\r\n");
    one
}

/// Publishes `count` messages and waits for all acknowledgements.
pub(crate) fn fill(port: u16, count: u64) -> anyhow::Result<()> {
    const WINDOW: u64 = 4096;
    let mut raw = Raw::connect(port)?;
    raw.subscribe("_INBOX.r.*", 1)?;
    let one = publish_frame(SUBJECT, "_INBOX.r.1");
    let many = one.repeat(WINDOW as usize);
    let (mut sent, mut seen) = (0, 0);
    while seen < count {
        let room = (WINDOW - (sent - seen)).min(count - sent);
        raw.write(&many[..room as usize * one.len()])?;
        sent += room;
        seen += raw.count_acks()?;
    }
    Ok(())
}
