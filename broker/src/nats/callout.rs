//! Asking a service whether a client may come in: the question goes out in the service's account, and one answer is waited for,
//! as long as clients have to authenticate.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::auth::callout::{Asked, Asking, Callout, ClientFacts, SUBJECT, ServerFacts, XKEY_HEADER};
use crate::auth::{AuthError, Directory, Facts, Identity, Login};
use crate::env::Clock as _;
use crate::local::LocalMessage;
use crate::nats::connections::Connection;
use crate::nats::info::{ConnectOptions, VERSION};
use crate::nats::listener::Shared;
use crate::stream::headers;

/// Questions that may wait for their answers at a time; who comes beyond that waits for his turn.
pub(crate) const QUESTIONS_MAX: usize = 1024;
const NANOS_PER_SEC: i64 = 1_000_000_000;

/// A client that is asked about.
pub(crate) struct Client<'a> {
    pub(crate) login: &'a Login,
    pub(crate) facts: &'a Facts,
    pub(crate) options: &'a ConnectOptions,
    pub(crate) connection: &'a Connection,
}

/// Who a client is, by the word of `callout`'s service. No answer in time is a refusal, and so is one that is not as it should be.
pub(crate) async fn ask(
    shared: &Shared,
    directory: &Directory,
    callout: &Arc<Callout>,
    client: &Client<'_>,
) -> Result<Identity, AuthError> {
    let patience = directory.timeout();
    let asking = answer(shared, directory, callout, client, patience);
    match tokio::time::timeout(patience, asking).await {
        Ok(identity) => identity,
        Err(_) => {
            tracing::debug!(
                account = &*callout.account.name,
                "Authorization callout response not received in time"
            );
            Err(AuthError::Violation)
        }
    }
}

async fn answer(
    shared: &Shared,
    directory: &Directory,
    callout: &Callout,
    client: &Client<'_>,
    patience: Duration,
) -> Result<Identity, AuthError> {
    // The semaphore is never closed.
    let _turn = shared
        .questions
        .acquire()
        .await
        .map_err(|_| AuthError::Violation)?;
    let keys = shared.gate.keys();
    let user = keys.user().ok_or(AuthError::Violation)?;
    let now = shared.clock.now().0 / NANOS_PER_SEC;
    let known = client.options;
    let tls = client.connection.transport.tls.as_ref();
    let asking = Asking {
        server: ServerFacts {
            name: &shared.info.server_name,
            host: &shared.info.host,
            version: VERSION,
            tags: &shared.info.tags,
        },
        login: client.login,
        facts: client.facts,
        client: ClientFacts {
            id: client.connection.id().0,
            name: &known.name,
            lang: &known.lang,
            version: &known.version,
            protocol: known.manners.protocol,
            tls: tls.map(|tls| (tls.version, tls.cipher.as_str())),
        },
        user_key: &user.public,
        now,
        until: now.saturating_add(i64::try_from(patience.as_secs()).unwrap_or(i64::MAX)),
    };
    let question = callout.question(&asking, keys).ok_or(AuthError::Violation)?;
    let reply = format!(
        "$SYS._INBOX.{}.{}",
        &shared.info.server_id[..8],
        shared.gate.unique_id()
    );
    let asker = shared.internal_client(&callout.account, "authorization callout");
    asker.subscribe(&reply, None).map_err(|_| AuthError::Violation)?;
    let headers = match callout.seals() {
        true => headers::with_field(&[], XKEY_HEADER, &keys.xkey),
        false => Vec::new(),
    };
    let message = LocalMessage {
        subject: SUBJECT.to_owned(),
        reply: Some(reply),
        headers: Bytes::from(headers),
        payload: Bytes::from(question),
        resend: None,
    };
    asker.publish(vec![message]).await;
    let answers = asker.recv().await.unwrap_or_default();
    let answer = answers.first().ok_or(AuthError::Violation)?;
    let asked = Asked {
        keys,
        user: &user,
        login: client.login,
        facts: client.facts,
    };
    directory
        .judge(callout, &answer.payload, &asked, shared.clock.now())
        .map_err(|err| {
            tracing::warn!(account = &*callout.account.name, "auth callout violation: {err}");
            AuthError::Violation
        })
}
