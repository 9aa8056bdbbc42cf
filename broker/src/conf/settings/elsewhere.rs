//! Blocks about other servers, of which there are none: what only listens is read over with a warning, what has to connect
//! somewhere is refused.

use super::super::value::{Node, Value};
use super::reader::Reader;

/// How to have more than one server.
const WAY_TO_A_CLUSTER: &str = "this is one server; for a cluster run nats-server on several machines, and point `tarn serve` at it with [nats] url";

/// A `cluster` block.
pub(super) fn cluster(reader: &mut Reader<'_>, node: &Node) {
    let Some(table) = reader.map("cluster", node) else {
        return;
    };
    let mut has_routes = false;
    for (key, item) in table.iter() {
        match key.to_ascii_lowercase().as_str() {
            "routes" => has_routes |= !matches!(&item.value, Value::Array(items) if items.is_empty()),
            "name" | "listen" | "port" | "host" | "net" | "authorization" | "tls" | "cluster_advertise"
            | "advertise" | "no_advertise" | "connect_retries" | "connect_backoff" | "permissions"
            | "pool_size" | "accounts" | "compression" | "ping_interval" | "ping_max" | "write_deadline"
            | "write_timeout" => {}
            _ => reader.unknown(key, item),
        }
    }
    if has_routes {
        reader.refuse(
            node,
            &format!("cluster routes can't be connected to: {WAY_TO_A_CLUSTER}"),
        );
    } else {
        reader.warn(
            node,
            &format!("nothing listens for cluster routes: {WAY_TO_A_CLUSTER}"),
        );
    }
}

/// A `gateway` block.
pub(super) fn gateway(reader: &mut Reader<'_>, node: &Node) {
    if reader.map("gateway", node).is_some() {
        reader.refuse(node, &format!("gateways connect clusters: {WAY_TO_A_CLUSTER}"));
    }
}

/// A `leafnodes` block.
pub(super) fn leafnodes(reader: &mut Reader<'_>, node: &Node) {
    let Some(table) = reader.map("leafnodes", node) else {
        return;
    };
    let mut has_remotes = false;
    for (key, item) in table.iter() {
        match key.to_ascii_lowercase().as_str() {
            "remotes" => has_remotes |= !matches!(&item.value, Value::Array(items) if items.is_empty()),
            "listen"
            | "port"
            | "host"
            | "net"
            | "authorization"
            | "reconnect"
            | "reconnect_delay"
            | "reconnect_interval"
            | "dial_timeout"
            | "tls"
            | "leafnode_advertise"
            | "advertise"
            | "no_advertise"
            | "min_version"
            | "minimum_version"
            | "compression"
            | "isolate_leafnode_interest"
            | "isolate"
            | "write_deadline"
            | "write_timeout" => {}
            _ => reader.unknown(key, item),
        }
    }
    if has_remotes {
        reader.refuse(
            node,
            &format!("leaf node remotes can't be connected to: {WAY_TO_A_CLUSTER}"),
        );
    } else {
        reader.warn(
            node,
            &format!("nothing listens for leaf nodes: {WAY_TO_A_CLUSTER}"),
        );
    }
}

/// An `mqtt` block.
pub(super) fn mqtt(reader: &mut Reader<'_>, node: &Node) {
    if reader.map("mqtt", node).is_some() {
        reader.refuse(
            node,
            "the broker alone does not speak MQTT; run `tarn serve` with [mqtt] listen",
        );
    }
}
