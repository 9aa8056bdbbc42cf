//! The client protocol on the wire. Source: NATS client protocol reference; details as nats-server 2.15 has them.
//!
//! Bytes in, values out: nothing is copied, and nothing is remembered between calls.

use crate::router::Message;

/// What a client sends.
#[derive(Clone, Copy, Debug)]
pub enum ClientOp<'a> {
    /// `CONNECT {json}`.
    Connect(&'a [u8]),
    /// `PING`.
    Ping,
    /// `PONG`.
    Pong,
    /// `PUB` or `HPUB`.
    Publish(Message<'a>),
    /// `SUB subject [queue] sid`.
    Subscribe {
        /// What is subscribed to; not yet checked to be a valid subject.
        subject: &'a str,
        /// The queue group.
        queue: Option<&'a str>,
        /// The client's name for the subscription.
        sid: &'a [u8],
    },
    /// `UNSUB sid [max]`.
    Unsubscribe {
        /// The client's name for the subscription.
        sid: &'a [u8],
        /// Deliveries in all after which it ends; none: at once.
        max: Option<u64>,
    },
    /// `+OK` or `INFO`, which mean nothing from a client.
    Ignored,
}

/// What the front of a buffer holds.
#[derive(Clone, Copy, Debug)]
pub enum Decoded<'a> {
    /// A whole operation and the number of bytes that it takes.
    Op(ClientOp<'a>, usize),
    /// The buffer must hold at least this many bytes in all before another look is worth it.
    Need(usize),
}

/// What a client may not send. Each ends the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProtocolError {
    /// Not an operation, or a payload that does not end with a line break.
    #[error("Unknown Protocol Operation")]
    UnknownOperation,
    /// Arguments that do not fit the operation.
    #[error("Parser Error")]
    Arguments,
    /// A control line beyond the limit.
    #[error("maximum control line exceeded")]
    MaxControlLine,
    /// A payload beyond the limit.
    #[error("Maximum Payload Violation")]
    MaxPayload,
    /// The client says that it met an error.
    #[error("the client reported an error")]
    ClientError,
    /// `HPUB` although the server has headers switched off, or the client did not ask for them.
    #[error("message headers not supported")]
    HeadersNotSupported,
}

/// The limits of decoding.
#[derive(Clone, Copy, Debug)]
pub struct Codec {
    /// The longest control line, without the operation's name.
    pub max_control_line_bytes: usize,
    /// The largest headers and payload together.
    pub max_payload_bytes: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Keyword {
    Pub,
    Hpub,
    Sub,
    Unsub,
    Connect,
    Ping,
    Pong,
    Info,
    PlusOk,
    MinusErr,
}

const KEYWORDS: [(&[u8], Keyword); 10] = [
    (b"PUB", Keyword::Pub),
    (b"HPUB", Keyword::Hpub),
    (b"PING", Keyword::Ping),
    (b"PONG", Keyword::Pong),
    (b"SUB", Keyword::Sub),
    (b"UNSUB", Keyword::Unsub),
    (b"CONNECT", Keyword::Connect),
    (b"INFO", Keyword::Info),
    (b"+OK", Keyword::PlusOk),
    (b"-ERR", Keyword::MinusErr),
];
const LONGEST_KEYWORD: usize = 7;
const CRLF: &[u8] = b"\r\n";

impl Codec {
    /// Looks at the front of `buf`. Takes whole operations only; checks each length before asking for more bytes.
    pub fn decode<'a>(&self, buf: &'a [u8]) -> Result<Decoded<'a>, ProtocolError> {
        let Some((keyword, name_len)) = keyword(buf)? else {
            return Ok(Decoded::Need(buf.len() + 1));
        };
        let Some(line_end) = memchr::memchr(b'\n', buf) else {
            // White space in front of the arguments is not limited by itself, as it is no argument.
            if buf.len() - name_len > self.max_control_line_bytes + CRLF.len() {
                return Err(ProtocolError::MaxControlLine);
            }
            return Ok(Decoded::Need(buf.len() + 1));
        };
        let args = trim_line(&buf[name_len..line_end]);
        if args.len() > self.max_control_line_bytes {
            return Err(ProtocolError::MaxControlLine);
        }
        let after = line_end + 1;
        let needs_space = matches!(
            keyword,
            Keyword::Pub | Keyword::Hpub | Keyword::Sub | Keyword::Unsub
        );
        if needs_space && !matches!(buf[name_len], b' ' | b'\t') {
            return Err(ProtocolError::UnknownOperation);
        }
        let op = match keyword {
            Keyword::Pub | Keyword::Hpub => return self.publish(keyword, args, buf, after),
            Keyword::Sub => subscribe(args)?,
            Keyword::Unsub => unsubscribe(args)?,
            Keyword::Connect => ClientOp::Connect(args),
            Keyword::Ping => ClientOp::Ping,
            Keyword::Pong => ClientOp::Pong,
            Keyword::Info | Keyword::PlusOk => ClientOp::Ignored,
            Keyword::MinusErr => return Err(ProtocolError::ClientError),
        };
        Ok(Decoded::Op(op, after))
    }

    fn publish<'a>(
        &self,
        keyword: Keyword,
        line: &'a [u8],
        buf: &'a [u8],
        after: usize,
    ) -> Result<Decoded<'a>, ProtocolError> {
        let args = Args::<4>::split(line)?;
        let with_headers = keyword == Keyword::Hpub;
        let (subject, reply, sizes) = match (with_headers, args.as_slice()) {
            (false, [subject, sizes @ ..]) if sizes.len() == 1 => (*subject, None, sizes),
            (false, [subject, reply, sizes @ ..]) if sizes.len() == 1 => (*subject, Some(*reply), sizes),
            (true, [subject, sizes @ ..]) if sizes.len() == 2 => (*subject, None, sizes),
            (true, [subject, reply, sizes @ ..]) if sizes.len() == 2 => (*subject, Some(*reply), sizes),
            _ => return Err(ProtocolError::Arguments),
        };
        let total = number(sizes[sizes.len() - 1])?;
        let header_len = if with_headers { number(sizes[0])? } else { 0 };
        if header_len > total {
            return Err(ProtocolError::Arguments);
        }
        if total > self.max_payload_bytes as u64 {
            return Err(ProtocolError::MaxPayload);
        }
        // Both fit now: they are at most `max_payload_bytes`.
        let (total, header_len) = (total as usize, header_len as usize);
        let end = after + total + CRLF.len();
        let Some(body) = buf.get(after..end) else {
            return Ok(Decoded::Need(end));
        };
        let (body, line_break) = body.split_at(total);
        if line_break != CRLF {
            return Err(ProtocolError::UnknownOperation);
        }
        let (headers, payload) = body.split_at(header_len);
        let message = Message {
            subject: text(subject)?,
            reply: reply.map(text).transpose()?,
            headers,
            payload,
        };
        Ok(Decoded::Op(ClientOp::Publish(message), end))
    }
}

/// Appends `MSG` or, with `headers`, `HMSG` for the subscription that the client calls `sid`.
pub fn encode_message(buf: &mut Vec<u8>, sid: &[u8], msg: &Message<'_>, headers: &[u8]) {
    const NUMBERS_AND_PUNCTUATION: usize = 64;
    let reply_len = msg.reply.map_or(0, str::len);
    buf.reserve(
        msg.subject.len()
            + sid.len()
            + reply_len
            + headers.len()
            + msg.payload.len()
            + NUMBERS_AND_PUNCTUATION,
    );
    buf.extend_from_slice(if headers.is_empty() { b"MSG " } else { b"HMSG " });
    buf.extend_from_slice(msg.subject.as_bytes());
    buf.push(b' ');
    buf.extend_from_slice(sid);
    buf.push(b' ');
    if let Some(reply) = msg.reply {
        buf.extend_from_slice(reply.as_bytes());
        buf.push(b' ');
    }
    if !headers.is_empty() {
        push_number(buf, headers.len());
        buf.push(b' ');
    }
    push_number(buf, headers.len() + msg.payload.len());
    buf.extend_from_slice(CRLF);
    buf.extend_from_slice(headers);
    buf.extend_from_slice(msg.payload);
    buf.extend_from_slice(CRLF);
}

/// Appends `-ERR 'text'`.
pub fn encode_error(buf: &mut Vec<u8>, text: &str) {
    buf.extend_from_slice(b"-ERR '");
    buf.extend_from_slice(text.as_bytes());
    buf.extend_from_slice(b"'\r\n");
}

fn push_number(buf: &mut Vec<u8>, mut number: usize) {
    let mut digits = [0_u8; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            break;
        }
    }
    buf.extend_from_slice(&digits[at..]);
}

/// The operation's name and its length; `None` while what is there may still become one.
fn keyword(buf: &[u8]) -> Result<Option<(Keyword, usize)>, ProtocolError> {
    let front = &buf[..buf.len().min(LONGEST_KEYWORD)];
    for (name, keyword) in KEYWORDS {
        if front.len() >= name.len() {
            if front[..name.len()].eq_ignore_ascii_case(name) {
                return Ok(Some((keyword, name.len())));
            }
        } else if front.eq_ignore_ascii_case(&name[..front.len()]) {
            return Ok(None);
        }
    }
    Err(ProtocolError::UnknownOperation)
}

fn subscribe(line: &[u8]) -> Result<ClientOp<'_>, ProtocolError> {
    match Args::<3>::split(line)?.as_slice() {
        [subject, sid] => Ok(ClientOp::Subscribe {
            subject: text(subject)?,
            queue: None,
            sid,
        }),
        [subject, queue, sid] => Ok(ClientOp::Subscribe {
            subject: text(subject)?,
            queue: Some(text(queue)?),
            sid,
        }),
        _ => Err(ProtocolError::Arguments),
    }
}

fn unsubscribe(line: &[u8]) -> Result<ClientOp<'_>, ProtocolError> {
    match Args::<2>::split(line)?.as_slice() {
        [sid] => Ok(ClientOp::Unsubscribe { sid, max: None }),
        [sid, max] => Ok(ClientOp::Unsubscribe {
            sid,
            // What is no number counts as left out.
            max: number(max).ok(),
        }),
        _ => Err(ProtocolError::Arguments),
    }
}

/// Arguments of a control line, at most `N`.
struct Args<'a, const N: usize> {
    held: [&'a [u8]; N],
    count: usize,
}

impl<'a, const N: usize> Args<'a, N> {
    fn split(line: &'a [u8]) -> Result<Self, ProtocolError> {
        let mut args = Self {
            held: [&[]; N],
            count: 0,
        };
        for arg in line.split(|byte| is_space(*byte)).filter(|arg| !arg.is_empty()) {
            *args.held.get_mut(args.count).ok_or(ProtocolError::Arguments)? = arg;
            args.count += 1;
        }
        Ok(args)
    }

    fn as_slice(&self) -> &[&'a [u8]] {
        &self.held[..self.count]
    }
}

fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\r')
}

fn trim_line(mut line: &[u8]) -> &[u8] {
    while let [first, rest @ ..] = line
        && is_space(*first)
    {
        line = rest;
    }
    while let [rest @ .., last] = line
        && is_space(*last)
    {
        line = rest;
    }
    line
}

fn number(digits: &[u8]) -> Result<u64, ProtocolError> {
    const DIGITS_MAX: usize = 9;
    if digits.is_empty() || digits.len() > DIGITS_MAX || !digits.iter().all(u8::is_ascii_digit) {
        return Err(ProtocolError::Arguments);
    }
    Ok(digits
        .iter()
        .fold(0, |number, digit| number * 10 + u64::from(digit - b'0')))
}

fn text(bytes: &[u8]) -> Result<&str, ProtocolError> {
    std::str::from_utf8(bytes).map_err(|_| ProtocolError::Arguments)
}

#[cfg(test)]
mod tests;
