//! What the store notes of each message, so that a restart does not have to read the messages.

use super::headers::{PublishHeaders, fields};
use crate::store::Notes;

/// The notes of streams.
pub(crate) const NOTES: Notes = Notes { version: 1, make };

const MSG_ID: u8 = 1;
const RESEND_ID: u8 = 2;
const TTL: u8 = 3;
const SCHEDULE: u8 = 4;

/// What was noted of a message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Note<'a> {
    /// Its ids, and its time to live.
    pub(crate) headers: PublishHeaders<'a>,
    /// Whether it has headers about schedules: it has to be read.
    pub(crate) has_schedule: bool,
}

fn make(block: &[u8], out: &mut Vec<u8>) -> Option<bool> {
    let headers = PublishHeaders::parse(block);
    let has_schedule = fields(block).any(|(name, _)| name.starts_with("Nats-Schedule"));
    let schedule = has_schedule.then_some("");
    let parts = [
        (MSG_ID, headers.msg_id),
        (RESEND_ID, headers.resend_id),
        (TTL, headers.ttl),
        (SCHEDULE, schedule),
    ];
    for (tag, value) in parts {
        if let Some(value) = value
            && let Ok(len) = u16::try_from(value.len())
        {
            out.push(tag);
            out.extend_from_slice(&len.to_le_bytes());
            out.extend_from_slice(value.as_bytes());
        }
    }
    let is_lasting = headers.ttl.is_some() || has_schedule;
    (!out.is_empty()).then_some(is_lasting)
}

impl<'a> Note<'a> {
    /// Reads a note.
    pub(crate) fn decode(mut bytes: &'a [u8]) -> Self {
        let mut note = Self::default();
        while let [tag, low, high, rest @ ..] = bytes {
            let len = usize::from(u16::from_le_bytes([*low, *high]));
            let Some((value, rest)) = rest.split_at_checked(len) else {
                break;
            };
            let value = std::str::from_utf8(value).ok();
            match *tag {
                MSG_ID => note.headers.msg_id = value,
                RESEND_ID => note.headers.resend_id = value,
                TTL => note.headers.ttl = value,
                SCHEDULE => note.has_schedule = true,
                _ => {}
            }
            bytes = rest;
        }
        note
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noted(block: &[u8]) -> (Option<bool>, Vec<u8>) {
        let mut out = Vec::new();
        let is_lasting = make(block, &mut out);
        (is_lasting, out)
    }

    #[test]
    fn ids_and_times_to_live_are_noted() {
        assert_eq!(noted(b"NATS/1.0\r\nA: b\r\n\r\n"), (None, vec![]));
        let (is_lasting, note) = noted(b"NATS/1.0\r\nNats-Msg-Id: x\r\nTarn-Resend-Id: y\r\n\r\n");
        assert_eq!(is_lasting, Some(false));
        assert_eq!(note, b"\x01\x01\x00x\x02\x01\x00y");
        let note = Note::decode(&note);
        assert_eq!(
            (note.headers.msg_id, note.headers.resend_id),
            (Some("x"), Some("y"))
        );
        let (is_lasting, note) = noted(b"NATS/1.0\r\nNats-TTL: 5s\r\n\r\n");
        assert_eq!(is_lasting, Some(true));
        assert_eq!(Note::decode(&note).headers.ttl, Some("5s"));
        let (is_lasting, note) = noted(b"NATS/1.0\r\nNats-Schedule: @at 1\r\n\r\n");
        assert_eq!(is_lasting, Some(true));
        assert!(Note::decode(&note).has_schedule);
        assert_eq!(Note::decode(b"\x01\xff\xffx"), Note::default());
    }
}
