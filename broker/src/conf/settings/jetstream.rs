//! The `jetstream` block.

use super::super::value::{Node, Value};
use super::Settings;
use super::reader::Reader;
use crate::options::{JetStreamLimits, JetStreamOptions};

/// A word, a boolean or a map.
pub(super) fn read(settings: &mut Settings<'_>, node: &Node) {
    let Settings {
        reader,
        options,
        top_store_dir,
    } = settings;
    let jetstream = &mut options.jetstream;
    match &node.value {
        Value::Bool(enabled) => jetstream.enabled = *enabled,
        Value::String(text) => match text.to_ascii_lowercase().as_str() {
            "enabled" | "enable" => jetstream.enabled = true,
            "disabled" | "disable" => jetstream.enabled = false,
            _ => {
                let reason = format!("Expected 'enabled' or 'disabled' for string value, got '{text}'");
                reader.error(&node.at, reason);
            }
        },
        Value::Map(table) => {
            jetstream.enabled = true;
            for (key, item) in table.iter() {
                let name = key.to_ascii_lowercase();
                if *top_store_dir && matches!(name.as_str(), "store" | "store_dir" | "storedir") {
                    reader.error(&item.at, "Duplicate 'store_dir' configuration");
                }
                if !set(reader, jetstream, &name, item) && !set_without_effect(reader, &name, item) {
                    reader.unknown(key, item);
                }
            }
        }
        _ => {
            reader.wrong_type::<()>("jetstream", node, "a map, a boolean or a string");
        }
    }
}

fn set(reader: &mut Reader<'_>, jetstream: &mut JetStreamOptions, key: &str, node: &Node) -> bool {
    match key {
        "store" | "store_dir" | "storedir" => jetstream.store_dir = reader.path(key, node),
        "max_memory_store" | "max_mem_store" | "max_mem" => {
            jetstream.max_memory_bytes = reader.storage_size("max_mem_store", node).flatten();
        }
        "max_file_store" | "max_file" => {
            jetstream.max_file_bytes = reader.storage_size("max_file_store", node).flatten();
        }
        "domain" => jetstream.domain = reader.string(key, node),
        "enable" | "enabled" => reader.put_bool(key, node, &mut jetstream.enabled),
        "strict" => jetstream.lenient = reader.bool(key, node) == Some(false),
        "limits" => jetstream.limits = limits(reader, node),
        "scrub_rate" => jetstream.upkeep.scrub_bytes_per_second = reader.storage_size(key, node).flatten(),
        "compact_rate" => {
            jetstream.upkeep.compact_bytes_per_second = reader.storage_size(key, node).flatten()
        }
        "max_damaged" => jetstream.upkeep.damaged_bytes_max = reader.storage_size(key, node).flatten(),
        _ => return false,
    }
    true
}

fn set_without_effect(reader: &mut Reader<'_>, key: &str, node: &Node) -> bool {
    match key {
        "sync" | "sync_interval" => match &node.value {
            Value::String(text) if text.eq_ignore_ascii_case("always") => {}
            _ => {
                if reader.duration(key, node).is_some() {
                    reader.warn(
                        node,
                        "sync_interval has no effect: what is acknowledged is always synced before; \
                         a stream with `persist_mode: async` is synced less often",
                    );
                }
            }
        },
        "key"
        | "ek"
        | "encryption_key"
        | "prev_key"
        | "prev_ek"
        | "prev_encryption_key"
        | "cipher"
        | "tpm" => {
            let reason = "streams are not encrypted here, and an unencrypted copy must not come about unasked; \
                          take the key out and encrypt the disk";
            reader.refuse(node, reason);
        }
        "extension_hint" | "unique_tag" => {
            reader.string(key, node);
        }
        "max_outstanding_catchup" | "max_buffered_size" | "meta_compact_size" => {
            reader.storage_size(key, node);
        }
        "max_buffered_msgs"
        | "request_queue_limit"
        | "info_queue_limit"
        | "meta_compact"
        | "max_concurrent_io" => {
            reader.int(key, node);
        }
        "meta_compact_sync" => {
            reader.bool(key, node);
        }
        _ => return false,
    }
    true
}

fn limits(reader: &mut Reader<'_>, node: &Node) -> JetStreamLimits {
    let mut limits = JetStreamLimits::default();
    let Some(table) = reader.map("JetStreamLimits", node) else {
        return limits;
    };
    for (key, item) in table.iter() {
        match key.to_ascii_lowercase().as_str() {
            "max_ack_pending" => limits.max_ack_pending = bound(reader, key, item),
            "max_ha_assets" => {
                reader.int(key, item);
            }
            "max_request_batch" => limits.max_request_batch = bound(reader, key, item),
            "duplicate_window" => limits.duplicate_window = reader.duration_text(key, item),
            "batch" => batch(reader, &mut limits, item),
            _ => reader.unknown(key, item),
        }
    }
    limits
}

fn batch(reader: &mut Reader<'_>, limits: &mut JetStreamLimits, node: &Node) {
    let Some(table) = reader.map("batch", node) else {
        return;
    };
    for (key, item) in table.iter() {
        match key.to_ascii_lowercase().as_str() {
            "max_inflight_per_stream" => limits.batch_max_inflight_per_stream = bound(reader, key, item),
            "max_inflight_total" => limits.batch_max_inflight_total = bound(reader, key, item),
            "max_msgs" => limits.batch_max_msgs = bound(reader, key, item),
            "timeout" => limits.batch_timeout = reader.duration_text(key, item),
            _ => reader.unknown(key, item),
        }
    }
}

/// An upper bound; nought and less is none.
fn bound(reader: &mut Reader<'_>, key: &str, node: &Node) -> Option<i64> {
    reader.int(key, node).filter(|bound| *bound > 0)
}
