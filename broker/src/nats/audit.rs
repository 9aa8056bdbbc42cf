//! Who asks JetStream: what the audit of its API says of a client. Source: nats-server, `getRequestInfo`, `sendJetStreamAPIAuditAdvisory`.

use bytes::Bytes;

use crate::api::AUDIT_SUBJECT;
use crate::nats::connections::Connection;
use crate::router::Router;
use crate::shard::inbox::{JsKind, JsOp};
use crate::sharing::REQUEST_INFO;
use crate::stream::headers;
use crate::system::events::client_info;

/// Notes in requests to the API of its own account who asks, if anybody listens to that. What a client itself says of that is
/// taken out.
pub(crate) fn note_who_asks(ops: &mut [JsOp], connection: &Connection, server_name: &str) {
    if !ops.iter().any(is_audited) {
        return;
    }
    let Some(identity) = connection.identity() else {
        return;
    };
    let router = &identity.account.router;
    let is_own = |op: &&mut JsOp| op.account == router.account() && is_audited(op);
    let info = is_wanted(router).then(|| client_info(connection, server_name).to_string());
    for op in ops.iter_mut().filter(is_own) {
        match &info {
            Some(info) => op.headers = Bytes::from(headers::set_field(&op.headers, REQUEST_INFO, info)),
            None if headers::field(&op.headers, REQUEST_INFO).is_some() => {
                let plain = headers::without_fields(&op.headers, |name| name == REQUEST_INFO);
                op.headers = Bytes::from(plain);
            }
            None => {}
        }
    }
}

/// Whether a request is one that is told of: not one for messages.
fn is_audited(op: &JsOp) -> bool {
    op.kind == JsKind::Api && !op.subject_str().contains(".MSG.NEXT.")
}

fn is_wanted(router: &Router) -> bool {
    router.has_interest(AUDIT_SUBJECT) || router.captured_by(AUDIT_SUBJECT).is_some()
}
