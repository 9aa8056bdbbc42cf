//! The `websocket` block.

use super::super::value::{Node, Value};
use super::reader::Reader;
use super::tls;
use crate::options::{HostPort, WebsocketOptions};
use std::time::Duration;

/// A `websocket` block; none if its port is 0.
pub(super) fn read(reader: &mut Reader<'_>, node: &Node) -> Option<WebsocketOptions> {
    let table = reader.map("websocket", node)?;
    let mut ws = WebsocketOptions::default();
    let mut port = 0;
    for (key, item) in table.iter() {
        match key.to_ascii_lowercase().as_str() {
            "listen" => {
                if let Some((host, number)) = reader.listen(item) {
                    ws.listen.host = host;
                    port = number;
                }
            }
            "port" => port = reader.port(key, item).unwrap_or_default(),
            "host" | "net" => reader.put_string(key, item, &mut ws.listen.host),
            "advertise" => ws.advertise = reader.string(key, item),
            "no_tls" => reader.put_bool(key, item, &mut ws.no_tls),
            "tls" => ws.tls = tls::read(reader, item),
            "same_origin" => reader.put_bool(key, item, &mut ws.same_origin),
            "allowed_origins" | "allowed_origin" | "allow_origins" | "allow_origin" | "origins"
            | "origin" => {
                ws.allowed_origins = reader.strings("allowed origins", item).unwrap_or_default();
            }
            "handshake_timeout" => {
                let timeout = match item.value {
                    Value::Float(_) => reader.wrong_type(key, item, "a duration"),
                    _ => reader.timeout(key, item),
                };
                if let Some(timeout) = timeout.filter(|timeout| !timeout.is_zero()) {
                    ws.handshake_timeout = timeout;
                }
            }
            "compress" | "compression" => {
                reader.put_bool(key, item, &mut ws.compression);
            }
            "authorization" | "authentication" => {
                reader.refuse(
                    item,
                    "websocket authorization: users are the same on all ports here; set it outside the block",
                );
            }
            "jwt_cookie" => ws.jwt_cookie = reader.string(key, item),
            "user_cookie" => ws.user_cookie = reader.string(key, item),
            "pass_cookie" => ws.pass_cookie = reader.string(key, item),
            "token_cookie" => ws.token_cookie = reader.string(key, item),
            "no_auth_user" => {
                reader.refuse(
                    item,
                    "websocket no_auth_user: users are the same on all ports here; set it outside the block",
                );
            }
            "headers" => ws.headers = reader.string_map(key, item).unwrap_or_default(),
            "ping_interval" => {
                ws.ping_interval = reader.duration(key, item).filter(|every| *every > Duration::ZERO)
            }
            _ => reader.unknown(key, item),
        }
    }
    if port != 0 && !ws.no_tls && ws.tls.is_none() {
        reader.error(&node.at, "websocket requires TLS configuration");
    }
    let host = ws.listen.host.clone();
    ws.listen = HostPort {
        host,
        port: u16::try_from(port).unwrap_or(0),
    };
    (port != 0).then_some(ws)
}
