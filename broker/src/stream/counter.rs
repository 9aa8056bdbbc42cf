//! Counters: streams whose messages are sums. Source: ADR-49; nats-server, `processJetStreamMsg`.

use std::collections::BTreeMap;

use num_bigint::BigInt;
use serde::{Deserialize, Serialize};

use super::headers::{self, COUNTER_SOURCES, INCREMENT, PublishHeaders};
use crate::api::error::ApiError;

/// Digits of a counter or an increment, at most: adding stays cheap whatever is sent.
const DIGITS_MAX: usize = 1024;

/// The payload of a counter's message.
#[derive(Serialize, Deserialize)]
struct CounterValue {
    val: String,
}

/// What a counter has from which stream and subject.
type Sources = BTreeMap<String, BTreeMap<String, String>>;

/// The last message of a counter.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LastCounter<'a> {
    pub(crate) headers: &'a [u8],
    pub(crate) payload: &'a [u8],
}

/// What is stored for an increment.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Counted {
    pub(crate) headers: Vec<u8>,
    pub(crate) payload: Vec<u8>,
    pub(crate) value: String,
}

fn number(text: &str) -> Option<BigInt> {
    (text.len() <= DIGITS_MAX).then(|| text.parse().ok()).flatten()
}

/// Checks an increment from a publisher.
///
/// # Errors
/// 10168 to 10171 as nats-server gives them.
pub(crate) fn check(headers: &PublishHeaders<'_>, payload: &[u8], is_counter: bool) -> Result<(), ApiError> {
    let Some(increment) = headers.increment else {
        return if is_counter {
            Err(ApiError::COUNTER_MISSING)
        } else {
            Ok(())
        };
    };
    if number(increment).is_none() {
        return Err(ApiError::COUNTER_INVALID);
    }
    if !is_counter {
        return Err(ApiError::COUNTER_DISABLED);
    }
    if !payload.is_empty() {
        return Err(ApiError::COUNTER_PAYLOAD);
    }
    let excluded = [
        headers.rollup,
        headers.expected_stream,
        headers.expected_last_msg_id,
        headers.expected_last_seq,
        headers.expected_last_subject_seq,
        headers.expected_last_subject,
    ];
    if excluded.iter().any(Option::is_some) {
        return Err(ApiError::COUNTER_INVALID);
    }
    Ok(())
}

fn read_last(last: Option<LastCounter<'_>>) -> Result<(BigInt, Sources), ApiError> {
    let Some(last) = last else {
        return Ok((BigInt::ZERO, Sources::new()));
    };
    let value = value_of(last.payload)?;
    let sources = match headers::field(last.headers, COUNTER_SOURCES).filter(|text| !text.is_empty()) {
        Some(text) => serde_json::from_str(text).map_err(|_| ApiError::COUNTER_BROKEN)?,
        None => Sources::new(),
    };
    Ok((value, sources))
}

fn value_of(payload: &[u8]) -> Result<BigInt, ApiError> {
    let value: CounterValue = serde_json::from_slice(payload).map_err(|_| ApiError::COUNTER_BROKEN)?;
    number(&value.val).ok_or(ApiError::COUNTER_BROKEN)
}

fn counted(block: &[u8], sum: &BigInt, sources: &Sources) -> Result<Counted, ApiError> {
    let value = sum.to_string();
    if value.len() > DIGITS_MAX {
        return Err(ApiError::COUNTER_INVALID);
    }
    let headers = if sources.is_empty() {
        block.to_vec()
    } else {
        let text = serde_json::to_string(sources).map_err(|_| ApiError::COUNTER_BROKEN)?;
        headers::set_field(block, COUNTER_SOURCES, &text)
    };
    Ok(Counted {
        headers,
        payload: format!("{{\"val\":\"{value}\"}}").into_bytes(),
        value,
    })
}

/// Adds a publisher's increment to the counter's last value.
///
/// # Errors
/// 10171 if the sum is too long, 10172 if the last message is none of a counter.
pub(crate) fn add(block: &[u8], increment: &str, last: Option<LastCounter<'_>>) -> Result<Counted, ApiError> {
    let (sum, sources) = read_last(last)?;
    let increment = number(increment).ok_or(ApiError::COUNTER_INVALID)?;
    counted(block, &(sum + increment), &sources)
}

/// Takes over the value that the counter has in a source: what it grew by there since last time is added here.
///
/// # Errors
/// 10172 if one of the messages is none of a counter.
pub(crate) fn add_sourced(
    block: &[u8],
    payload: &[u8],
    stream: &str,
    subject: &str,
    last: Option<LastCounter<'_>>,
) -> Result<Counted, ApiError> {
    let (sum, mut sources) = read_last(last)?;
    let theirs = value_of(payload)?;
    let slot = sources
        .entry(stream.to_owned())
        .or_default()
        .entry(subject.to_owned())
        .or_default();
    let increment = &theirs - number(slot).unwrap_or(BigInt::ZERO);
    *slot = theirs.to_string();
    let block = headers::set_field(block, INCREMENT, &increment.to_string());
    counted(&block, &(sum + increment), &sources)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn last(counted: &Counted) -> LastCounter<'_> {
        LastCounter {
            headers: &counted.headers,
            payload: &counted.payload,
        }
    }

    #[test]
    fn increments_are_checked() {
        let increment = |value| PublishHeaders {
            increment: Some(value),
            ..PublishHeaders::default()
        };
        assert_eq!(check(&increment("+5"), b"", true), Ok(()));
        assert_eq!(check(&increment("x"), b"", true), Err(ApiError::COUNTER_INVALID));
        assert_eq!(
            check(&increment("1"), b"", false),
            Err(ApiError::COUNTER_DISABLED)
        );
        assert_eq!(check(&increment("1"), b"1", true), Err(ApiError::COUNTER_PAYLOAD));
        assert_eq!(
            check(&PublishHeaders::default(), b"", true),
            Err(ApiError::COUNTER_MISSING)
        );
        let rollup = PublishHeaders {
            rollup: Some("sub"),
            ..increment("1")
        };
        assert_eq!(check(&rollup, b"", true), Err(ApiError::COUNTER_INVALID));
        assert_eq!(
            check(&increment(&"9".repeat(2000)), b"", true),
            Err(ApiError::COUNTER_INVALID)
        );
    }

    #[test]
    fn what_is_broken_is_said_to_be() {
        let broken = LastCounter {
            headers: b"",
            payload: b"hello",
        };
        assert_eq!(add(b"", "1", Some(broken)), Err(ApiError::COUNTER_BROKEN));
    }

    #[test]
    fn sources_add_what_they_grew_by() {
        let own = add(b"", "10", None).unwrap();
        let one = add_sourced(b"", b"{\"val\":\"4\"}", "A", "a.x", Some(last(&own))).unwrap();
        assert_eq!(one.value, "14");
        let again = add_sourced(b"", b"{\"val\":\"7\"}", "A", "a.x", Some(last(&one))).unwrap();
        assert_eq!(again.value, "17");
        assert_eq!(headers::field(&again.headers, INCREMENT), Some("3"));
        assert_eq!(
            headers::field(&again.headers, COUNTER_SOURCES),
            Some(r#"{"A":{"a.x":"7"}}"#)
        );
        let other = add_sourced(b"", b"{\"val\":\"1\"}", "B", "a.x", Some(last(&again))).unwrap();
        assert_eq!(other.value, "18");
    }

    proptest! {
        #[test]
        fn sums_are_exact(increments in proptest::collection::vec(any::<i64>(), 1..40)) {
            let mut state: Option<Counted> = None;
            let mut sum = 0_i128;
            for increment in increments {
                sum += i128::from(increment);
                state = Some(add(b"", &increment.to_string(), state.as_ref().map(last)).unwrap());
                prop_assert_eq!(&state.as_ref().unwrap().value, &sum.to_string());
            }
        }
    }
}
