//! Requests as Go reads them: names in any case, `null` for what is left out, no unknown fields.

use std::collections::BTreeMap;

use serde::de::DeserializeOwned;
use serde_json::Value;

use super::error::ApiError;
use crate::stream::config::StreamConfig;

/// Reads a request. As in Go, `null` counts as left out, and an empty request as one without fields.
///
/// # Errors
/// 10025 if it is not a JSON object, a field has the wrong type or there is no such field.
/// Source: nats-server, `unmarshalRequest` in strict mode.
pub(crate) fn parse<T: DeserializeOwned + Default>(payload: &[u8]) -> Result<T, ApiError> {
    if matches!(payload.trim_ascii(), b"" | b"null") {
        return Ok(T::default());
    }
    let mut value: Value = serde_json::from_slice(payload).map_err(|err| ApiError::invalid_json(&err))?;
    drop_nulls(&mut value);
    let written = fold_names(&mut value);
    parse_value(value, &written)
}

/// Reads a stream's configuration, and whether it is not to be adjusted silently.
///
/// # Errors
/// As [`parse`].
pub(crate) fn parse_stream(payload: &[u8]) -> Result<(StreamConfig, bool), ApiError> {
    let mut value: Value = match payload.trim_ascii() {
        b"" | b"null" => return Ok(Default::default()),
        _ => serde_json::from_slice(payload).map_err(|err| ApiError::invalid_json(&err))?,
    };
    drop_nulls(&mut value);
    let written = fold_names(&mut value);
    let pedantic = value.as_object_mut().and_then(|fields| fields.remove("pedantic"));
    let is_pedantic = pedantic.map_or(Ok(false), serde_json::from_value);
    let is_pedantic = is_pedantic.map_err(|err| ApiError::invalid_json(&err))?;
    Ok((parse_value(value, &written)?, is_pedantic))
}

/// Names of fields as they were written, by the names that they stand for.
type WrittenNames = BTreeMap<String, String>;

fn parse_value<T: DeserializeOwned>(value: Value, written: &WrittenNames) -> Result<T, ApiError> {
    if value.is_array() {
        return Err(ApiError::invalid_json(
            "json: cannot unmarshal array into Go value",
        ));
    }
    let mut unknown = None;
    let parsed = serde_ignored::deserialize(value, |path| {
        unknown.get_or_insert_with(|| path.to_string());
    });
    match (parsed, unknown) {
        (Err(err), _) => Err(ApiError::invalid_json(&err)),
        (Ok(_), Some(path)) => {
            let field = path.rsplit('.').next().unwrap_or_default();
            let field = written.get(field).map_or(field, String::as_str);
            Err(ApiError::invalid_json(format!("json: unknown field {field:?}")))
        }
        (Ok(parsed), None) => Ok(parsed),
    }
}

/// Go takes the names of fields in any case: here they become lower case, but for those in `metadata`, which are the
/// client's own. Returns how those were written that have changed. The depth is bounded: serde_json has read the value with
/// its own limit.
fn fold_names(value: &mut Value) -> WrittenNames {
    let mut written = WrittenNames::new();
    let mut to_visit = vec![value];
    while let Some(value) = to_visit.pop() {
        match value {
            Value::Object(fields) => {
                if fields
                    .keys()
                    .any(|name| name.bytes().any(|b| b.is_ascii_uppercase()))
                {
                    for (name, inner) in std::mem::take(fields) {
                        let folded = name.to_ascii_lowercase();
                        if folded != name {
                            written.insert(folded.clone(), name);
                        }
                        fields.insert(folded, inner);
                    }
                }
                let others = fields.iter_mut().filter(|(name, _)| *name != "metadata");
                to_visit.extend(others.map(|(_, inner)| inner));
            }
            Value::Array(items) => to_visit.extend(items.iter_mut()),
            _ => {}
        }
    }
    written
}

/// Reads a request that may be left out: whatever is neither an object nor an array counts as none.
///
/// # Errors
/// As [`parse`].
/// Source: nats-server, `isJSONObjectOrArray`.
pub(crate) fn parse_optional<T: DeserializeOwned + Default>(payload: &[u8]) -> Result<T, ApiError> {
    match payload.trim_ascii_start().first() {
        Some(b'{' | b'[') => parse(payload),
        _ => Ok(T::default()),
    }
}

/// Fields in which nats-server refuses `null`, because they read their words themselves.
const POLICIES: [&str; 9] = [
    "ack_policy",
    "compression",
    "deliver_policy",
    "discard",
    "persist_mode",
    "priority_policy",
    "replay_policy",
    "retention",
    "storage",
];

/// The depth is bounded: serde_json has read the value with its own limit.
fn drop_nulls(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.retain(|name, value| !value.is_null() || POLICIES.contains(&name.as_str()));
            fields.values_mut().for_each(drop_nulls);
        }
        Value::Array(items) => items.iter_mut().for_each(drop_nulls),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::super::types::StreamInfoRequest;
    use super::*;

    #[test]
    fn null_counts_as_left_out() {
        let config: StreamConfig = parse(br#"{"name":"S","subjects":null,"max_age":null}"#).unwrap();
        assert_eq!(config.name, "S");
        assert!(config.subjects.is_empty());
        for empty in [&b""[..], b" ", b"null\n"] {
            let request: StreamInfoRequest = parse_optional(empty).unwrap();
            assert_eq!(request.offset, 0);
        }
        let error = parse::<StreamConfig>(b"{").unwrap_err();
        assert_eq!(error.err_code, 10025);
    }
}
