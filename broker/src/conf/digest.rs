//! What tells one configuration from another: SHA-256 of its values as JSON with sorted keys.
//! Source: nats-server, `configDigest`; Go's `encoding/json`.

use std::collections::BTreeMap;

use ring::digest::{SHA256, digest as hash};

use super::{Table, Value};

/// Numbers from here on are written with an exponent, and those below the other.
const EXPONENT_FROM: f64 = 1e21;
const EXPONENT_BELOW: f64 = 1e-6;

/// `sha256:` and the digest in hexadecimal digits.
pub(super) fn digest(table: &Table) -> String {
    let mut json = String::new();
    map(table, &mut json);
    json.push('\n');
    let mut text = "sha256:".to_owned();
    for byte in hash(&SHA256, json.as_bytes()).as_ref() {
        text += &format!("{byte:02x}");
    }
    text
}

fn map(table: &Table, out: &mut String) {
    let sorted: BTreeMap<&str, &Value> = table.iter().map(|(key, node)| (key, &node.value)).collect();
    out.push('{');
    for (index, (key, value)) in sorted.into_iter().enumerate() {
        if index > 0 {
            out.push(',');
        }
        string(key, out);
        out.push(':');
        write(value, out);
    }
    out.push('}');
}

/// Maps and arrays are at most [`super::DEPTH_MAX`] deep.
fn write(value: &Value, out: &mut String) {
    match value {
        Value::String(text) | Value::Date(text) => string(text, out),
        Value::Bool(truth) => out.push_str(&truth.to_string()),
        Value::Int(number) => out.push_str(&number.to_string()),
        Value::Float(number) => float(*number, out),
        Value::Array(items) => {
            out.push('[');
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    out.push(',');
                }
                write(&item.value, out);
            }
            out.push(']');
        }
        Value::Map(table) => map(table, out),
    }
}

fn float(number: f64, out: &mut String) {
    let size = number.abs();
    if size != 0.0 && !(EXPONENT_BELOW..EXPONENT_FROM).contains(&size) {
        let text = format!("{number:e}");
        let is_large = size >= EXPONENT_FROM;
        out.push_str(&if is_large { text.replace('e', "e+") } else { text });
    } else {
        out.push_str(&number.to_string());
    }
}

/// A text in quotes; what could end a script in a page is escaped too.
fn string(text: &str, out: &mut String) {
    out.push('"');
    for letter in text.chars() {
        match letter {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            '<' | '>' | '&' | '\u{2028}' | '\u{2029}' | '\0'..='\u{1f}' => {
                out.push_str(&format!("\\u{:04x}", u32::from(letter)));
            }
            other => out.push(other),
        }
    }
    out.push('"');
}
