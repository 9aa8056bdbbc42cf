//! MQTT topics ↔ NATS subjects. Pure: bytes in, values out.
//!
//! The mapping is nats-server's, level by level: levels are tokens, an empty level is the token `/`, and a dot in a level is
//! `//`. In filters `+` is `*` and `#` is `>`, and `a/#` also stands for its parent `a`.
//!
//! What has no safe place in a subject is refused, never rewritten: white space, control characters and DEL, a level that is
//! a NATS wildcard (`*`, `>`), and every topic below `$` or `_INBOX`, which are the broker's own.

use thiserror::Error;

/// Most bytes in a topic name or filter.
pub const TOPIC_BYTES_MAX: usize = 512;
/// Most levels in a topic name or filter.
pub const TOPIC_LEVELS_MAX: usize = 16;

/// Why a topic name or filter, or a subject on its way out, can't cross.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum TopicError {
    /// Empty name or filter [MQTT-4.7.3-1].
    #[error("topic is empty")]
    Empty,
    /// NUL [MQTT-4.7.3-2].
    #[error("topic holds NUL")]
    Nul,
    /// A wildcard in a topic name, or one that does not fill its level, or `#` before the end.
    #[error("topic has a wildcard where none may be")]
    Wildcard,
    /// Not UTF-8. Only for subjects on their way out: the codec has checked the others.
    #[error("subject is not utf-8")]
    Utf8,
    /// More than [`TOPIC_BYTES_MAX`] bytes.
    #[error("topic is longer than {TOPIC_BYTES_MAX} bytes")]
    TooLong,
    /// More than [`TOPIC_LEVELS_MAX`] levels.
    #[error("topic has more than {TOPIC_LEVELS_MAX} levels")]
    TooDeep,
    /// White space, a control character, or DEL.
    #[error("topic holds white space or a control character")]
    Character,
    /// A whole level is `*` or `>`.
    #[error("topic has a level that is a nats wildcard")]
    NatsWildcard,
    /// Below `$` or `_INBOX`.
    #[error("topic is internal")]
    Internal,
}

impl TopicError {
    /// Whether the peer broke the protocol, rather than asked for something that is not to be had here.
    pub fn is_protocol_violation(self) -> bool {
        matches!(self, Self::Empty | Self::Nul | Self::Wildcard | Self::Utf8)
    }

    /// Stable name, for counters.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Empty => "topic_empty",
            Self::Nul => "topic_nul",
            Self::Wildcard => "topic_wildcard",
            Self::Utf8 => "topic_utf8",
            Self::TooLong => "topic_too_long",
            Self::TooDeep => "topic_too_deep",
            Self::Character => "topic_character",
            Self::NatsWildcard => "topic_nats_wildcard",
            Self::Internal => "topic_internal",
        }
    }
}

/// The subjects that together match what one topic filter matches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FilterSubjects {
    /// The filter itself.
    pub subject: String,
    /// For `a/#`: the parent level `a`, which NATS' `a.>` does not match.
    pub parent: Option<String>,
}

impl FilterSubjects {
    /// Both subjects, or the one.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        std::iter::once(self.subject.as_str()).chain(self.parent.as_deref())
    }
}

/// The subject that a PUBLISH to `topic` goes to.
pub fn topic_to_subject(topic: &str) -> Result<String, TopicError> {
    check_text(topic)?;
    let mut subject = String::with_capacity(topic.len() + 8);
    for (index, level) in topic.split('/').enumerate() {
        if index > 0 {
            subject.push('.');
        }
        check_level(level, index)?;
        if level.contains(['+', '#']) {
            return Err(TopicError::Wildcard);
        }
        push_level(level, &mut subject);
    }
    Ok(subject)
}

/// The subjects that a subscription to `filter` needs.
pub fn filter_to_subjects(filter: &str) -> Result<FilterSubjects, TopicError> {
    check_text(filter)?;
    let last = filter.split('/').count() - 1;
    let mut subject = String::with_capacity(filter.len() + 8);
    let mut parent = None;
    for (index, level) in filter.split('/').enumerate() {
        check_level(level, index)?;
        if level == "#" && index == last {
            if index > 0 {
                parent = Some(subject.clone());
                subject.push('.');
            }
            subject.push('>');
            continue;
        }
        if index > 0 {
            subject.push('.');
        }
        match level {
            "+" => subject.push('*'),
            _ if level.contains(['+', '#']) => return Err(TopicError::Wildcard),
            _ => push_level(level, &mut subject),
        }
    }
    Ok(FilterSubjects { subject, parent })
}

/// The topic under which a message on `subject` reaches MQTT clients. Never one below `$` or `_INBOX`, and never one with a
/// wildcard or a control character in it, whatever a NATS client published.
pub fn subject_to_topic(subject: &[u8]) -> Result<String, TopicError> {
    let subject = std::str::from_utf8(subject).map_err(|_| TopicError::Utf8)?;
    if subject.is_empty() {
        return Err(TopicError::Empty);
    }
    if subject.len() > usize::from(u16::MAX) {
        return Err(TopicError::TooLong);
    }
    if is_internal(subject.split('.').next().unwrap_or_default()) {
        return Err(TopicError::Internal);
    }
    let mut topic = String::with_capacity(subject.len());
    let mut chars = subject.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '/' => match chars.peek() {
                Some('.') => {
                    chars.next();
                    topic.push('/');
                }
                Some('/') => {
                    chars.next();
                    topic.push('.');
                }
                _ => {}
            },
            '.' => topic.push('/'),
            '+' | '#' => return Err(TopicError::Wildcard),
            '\0' => return Err(TopicError::Nul),
            c if c.is_control() => return Err(TopicError::Character),
            c => topic.push(c),
        }
    }
    if topic.is_empty() {
        Err(TopicError::Empty)
    } else {
        Ok(topic)
    }
}

/// Whether `filter` matches `topic`, both valid. A wildcard at the first level does not match a topic below `$`
/// [MQTT-4.7.2-1].
pub fn filter_matches(filter: &str, topic: &str) -> bool {
    if topic.starts_with('$') && filter.starts_with(['+', '#']) {
        return false;
    }
    let mut levels = topic.split('/');
    for part in filter.split('/') {
        match (part, levels.next()) {
            ("#", _) => return true,
            ("+", Some(_)) => {}
            (_, Some(level)) if part == level => {}
            _ => return false,
        }
    }
    levels.next().is_none()
}

fn check_text(topic: &str) -> Result<(), TopicError> {
    if topic.is_empty() {
        return Err(TopicError::Empty);
    }
    if topic.len() > TOPIC_BYTES_MAX {
        return Err(TopicError::TooLong);
    }
    if topic.bytes().filter(|b| *b == b'/').count() >= TOPIC_LEVELS_MAX {
        return Err(TopicError::TooDeep);
    }
    if topic.bytes().all(|b| b.is_ascii_graphic()) {
        return Ok(());
    }
    match topic.chars().find(|c| c.is_control() || c.is_ascii_whitespace()) {
        None => Ok(()),
        Some('\0') => Err(TopicError::Nul),
        Some(_) => Err(TopicError::Character),
    }
}

fn check_level(level: &str, index: usize) -> Result<(), TopicError> {
    match level {
        "*" | ">" => Err(TopicError::NatsWildcard),
        _ if index == 0 && is_internal(level) => Err(TopicError::Internal),
        _ => Ok(()),
    }
}

/// Whether subjects that start with this token are the broker's own.
fn is_internal(first: &str) -> bool {
    first.starts_with('$') || first == "_INBOX"
}

fn push_level(level: &str, subject: &mut String) {
    if level.is_empty() {
        return subject.push('/');
    }
    for (index, part) in level.split('.').enumerate() {
        if index > 0 {
            subject.push_str("//");
        }
        subject.push_str(part);
    }
}

#[cfg(test)]
mod tests;
