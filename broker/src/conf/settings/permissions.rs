//! What users may do.

use super::super::value::{Node, Value};
use super::reader::{Reader, go_duration};
use crate::options::{Permissions, ResponsePermission, SubjectPermissions};
use crate::subject;

/// A `permissions` block.
pub(super) fn read(reader: &mut Reader<'_>, node: &Node) -> Option<Permissions> {
    let Value::Map(table) = &node.value else {
        return reader.wrong_type("permissions", node, "a map");
    };
    let mut permissions = Permissions::default();
    for (key, item) in table.iter() {
        match key.to_ascii_lowercase().as_str() {
            "pub" | "publish" | "import" => permissions.publish = subjects(reader, key, item, false),
            "sub" | "subscribe" | "export" => permissions.subscribe = subjects(reader, key, item, true),
            "publish_allow_responses" | "allow_responses" => permissions.responses = responses(reader, item),
            _ if item.is_referenced => {}
            _ => reader.error(&item.at, format!("Unknown field {key:?} parsing permissions")),
        }
    }
    if permissions.responses.is_some() {
        // Answers alone are then allowed, unless more is.
        let publish = permissions.publish.get_or_insert_default();
        publish.allow.get_or_insert_default();
    }
    Some(permissions)
}

/// Subjects alone, which are allowed, or a map of what is allowed and denied.
fn subjects(reader: &mut Reader<'_>, key: &str, node: &Node, with_queue: bool) -> Option<SubjectPermissions> {
    let Value::Map(table) = &node.value else {
        return Some(SubjectPermissions {
            allow: Some(list(reader, key, node, with_queue)?),
            deny: Vec::new(),
        });
    };
    if table.is_empty() {
        return None;
    }
    let mut permissions = SubjectPermissions::default();
    for (key, item) in table.iter() {
        match key.to_ascii_lowercase().as_str() {
            "allow" => permissions.allow = list(reader, key, item, with_queue),
            "deny" => permissions.deny = list(reader, key, item, with_queue).unwrap_or_default(),
            _ if item.is_referenced => {}
            _ => {
                let reason = format!(
                    "Unknown field name {key:?} parsing subject permissions, only 'allow' or 'deny' are permitted"
                );
                reader.error(&item.at, reason);
            }
        }
    }
    Some(permissions)
}

fn list(reader: &mut Reader<'_>, key: &str, node: &Node, with_queue: bool) -> Option<Vec<String>> {
    let subjects = reader.strings(key, node)?;
    for text in &subjects {
        if let Err(reason) = check(text, with_queue) {
            reader.error(&node.at, reason);
            return None;
        }
    }
    Some(subjects)
}

fn check(text: &str, with_queue: bool) -> Result<(), String> {
    if subject::is_valid_filter(text) {
        return Ok(());
    }
    let words: Vec<&str> = text.split_whitespace().collect();
    match *words.as_slice() {
        [subject, queue] if with_queue => {
            if !subject::is_valid_filter(subject) {
                Err(format!("subject {subject:?} is not a valid subject"))
            } else if subject::is_valid_filter(queue) {
                Ok(())
            } else {
                Err(format!("queue {queue:?} is not a valid queue"))
            }
        }
        _ => Err(format!("subject {text:?} is not a valid subject")),
    }
}

fn responses(reader: &mut Reader<'_>, node: &Node) -> Option<ResponsePermission> {
    let table = match &node.value {
        Value::Bool(allowed) => return allowed.then(ResponsePermission::default),
        Value::Map(table) => table,
        _ => {
            reader.error(
                &node.at,
                "error parsing response permissions, expected a boolean or a map",
            );
            return None;
        }
    };
    let mut permission = ResponsePermission::default();
    for (key, item) in table.iter() {
        match key.to_ascii_lowercase().as_str() {
            "max" | "max_msgs" | "max_messages" | "max_responses" => match reader.limit(key, item) {
                // Nought is the default, a negative number any.
                Some(Some(0)) | None => {}
                Some(max) => permission.max_msgs = max,
            },
            "expires" | "expiration" | "ttl" => {
                let text = reader.string(key, item)?;
                match go_duration(&text) {
                    Ok(0) => {}
                    Ok(nanos) => {
                        permission.expires = u64::try_from(nanos).ok().map(std::time::Duration::from_nanos)
                    }
                    Err(reason) => reader.error(&item.at, format!("error parsing expires: {reason}")),
                }
            }
            _ if item.is_referenced => {}
            _ => reader.error(&item.at, format!("Unknown field {key:?} parsing permissions")),
        }
    }
    Some(permission)
}
