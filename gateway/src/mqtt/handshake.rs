//! From an accepted socket to a session: CONNECT in its time, the version, the names, the session taken over.

use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

use super::codec::{self, Codec, ProtocolError};
use super::listener::Shared;
use super::packet::{ClientPacket, Connect, ConnectCode, ServerPacket};
use super::registry::Claim;
use super::seat::Seat;
use super::session::{CloseReason, Effect, PreparedWill, Session};
use crate::identity::{self, ClientId};

/// How long an owner of the same client id may take to let go.
const TAKEOVER_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a refused client may take to read why.
const REFUSAL_TIMEOUT: Duration = Duration::from_secs(1);
/// First read: most CONNECTs fit.
const CONNECT_READ_BYTES: usize = 512;

/// A connection that has its session.
pub(super) struct Admitted {
    pub(super) stream: TcpStream,
    pub(super) codec: Codec,
    /// Read and not decoded yet.
    pub(super) buf: BytesMut,
    /// To be written: CONNACK.
    pub(super) out: BytesMut,
    pub(super) claim: Claim,
    pub(super) seat: Box<Seat>,
    /// What the session wants done first.
    pub(super) effects: Vec<Effect>,
}

/// A connection that gets no session.
struct Refusal {
    reason: CloseReason,
    /// Written before the connection closes.
    answer: Vec<u8>,
}

impl Refusal {
    fn silent(reason: CloseReason) -> Self {
        Self {
            reason,
            answer: Vec::new(),
        }
    }

    fn with(reason: CloseReason, code: ConnectCode) -> Self {
        let mut answer = BytesMut::new();
        codec::encode(
            &ServerPacket::ConnAck {
                session_present: false,
                code,
            },
            &mut answer,
        );
        Self {
            reason,
            answer: answer.to_vec(),
        }
    }
}

/// `None`: the connection was refused, told so and closed.
pub(super) async fn admit(shared: &Arc<Shared>, mut stream: TcpStream) -> Option<Admitted> {
    let mut codec = Codec::new(shared.config.payload_bytes_max);
    let mut buf = BytesMut::new();
    let read = timeout(
        shared.config.connect_timeout,
        read_connect(&mut stream, &mut codec, &mut buf),
    );
    let connect = match read.await {
        Ok(Ok(connect)) => Ok(connect),
        Ok(Err(refusal)) => Err(refusal),
        Err(_) => Err(Refusal::silent(CloseReason::Protocol("connect_timeout"))),
    };
    let admitted = match connect {
        Ok(connect) => seat(shared, &connect).await,
        Err(refusal) => Err(refusal),
    };
    match admitted {
        Ok((claim, seat, out, effects)) => Some(Admitted {
            stream,
            codec,
            buf,
            out,
            claim,
            seat,
            effects,
        }),
        Err(refusal) => {
            shared.counters.closed(refusal.reason, "");
            refuse(stream, &refusal.answer).await;
            None
        }
    }
}

async fn read_connect(
    stream: &mut TcpStream,
    codec: &mut Codec,
    buf: &mut BytesMut,
) -> Result<Box<Connect>, Refusal> {
    loop {
        match codec.decode(buf) {
            Ok(Some(ClientPacket::Connect(connect))) => return Ok(connect),
            Ok(Some(_)) => return Err(Refusal::silent(CloseReason::Protocol("not_connect"))),
            Ok(None) => {}
            Err(error) => return Err(answer_to(&error)),
        }
        buf.reserve(CONNECT_READ_BYTES);
        match stream.read_buf(buf).await {
            Ok(0) | Err(_) => return Err(Refusal::silent(CloseReason::ConnectionLost)),
            Ok(_) => {}
        }
    }
}

fn answer_to(error: &ProtocolError) -> Refusal {
    let reason = CloseReason::Protocol(error.as_str());
    match error {
        // MQTT 5 clients understand their own CONNACK only.
        ProtocolError::UnsupportedVersion { level: 5 } => Refusal {
            reason,
            answer: codec::CONNACK_V5_UNSUPPORTED.to_vec(),
        },
        ProtocolError::UnsupportedVersion { .. } => Refusal::with(reason, ConnectCode::UnacceptableVersion),
        ProtocolError::ClientIdMissing => Refusal::with(reason, ConnectCode::IdentifierRejected),
        _ => Refusal::silent(reason),
    }
}

/// Checks names and will, and brings the session: the one before, or a new one.
async fn seat(
    shared: &Arc<Shared>,
    connect: &Connect,
) -> Result<(Claim, Box<Seat>, BytesMut, Vec<Effect>), Refusal> {
    let client = match connect.client_id.as_str() {
        "" => ClientId::assigned(),
        id => ClientId::chosen(id)
            .map_err(|_| Refusal::with(CloseReason::Refused("client_id"), ConnectCode::IdentifierRejected))?,
    };
    identity::check_name(connect.username.as_deref().unwrap_or_default())
        .map_err(|_| Refusal::with(CloseReason::Refused("user_name"), ConnectCode::BadCredentials))?;
    let will = match connect.will.as_ref().map(PreparedWill::new).transpose() {
        Ok(will) => will,
        Err(error) if error.is_protocol_violation() => {
            return Err(Refusal::silent(CloseReason::Protocol(error.as_str())));
        }
        Err(error) => {
            return Err(Refusal::with(
                CloseReason::Refused(error.as_str()),
                ConnectCode::NotAuthorized,
            ));
        }
    };
    let keep = !connect.clean_session;
    let (claim, before) = shared
        .registry
        .claim(&client, keep)
        .map_err(|_| Refusal::with(CloseReason::Refused("sessions_max"), ConnectCode::Unavailable))?;
    let before = match before {
        None => None,
        Some(answer) => match timeout(TAKEOVER_TIMEOUT, answer).await {
            Ok(before) => before.ok().flatten(),
            Err(_) => {
                shared.registry.release(&claim);
                let reason = CloseReason::Refused("takeover_timeout");
                return Err(Refusal::with(reason, ConnectCode::Unavailable));
            }
        },
    };
    let session_present = before.is_some();
    let mut seat = before.unwrap_or_else(|| {
        let session = Session::new(client.clone(), Arc::clone(&shared.limits), Instant::now());
        let client = shared.ingest.open(client.as_str());
        Box::new(Seat::new(session, client, Arc::clone(&shared.counters)))
    });
    let (mut out, mut effects) = (BytesMut::new(), Vec::new());
    codec::encode(
        &ServerPacket::ConnAck {
            session_present,
            code: ConnectCode::Accepted,
        },
        &mut out,
    );
    seat.session.attach(connect, will, Instant::now(), &mut effects);
    Ok((claim, seat, out, effects))
}

/// Writes the answer, if there is one, and lets the client read it before the connection goes.
async fn refuse(mut stream: TcpStream, answer: &[u8]) {
    if answer.is_empty() {
        return;
    }
    let farewell = async {
        stream.write_all(answer).await?;
        stream.shutdown().await?;
        // Closing with unread bytes would reset the connection and could take the answer with it.
        let mut rest = [0; 512];
        while stream.read(&mut rest).await? > 0 {}
        Ok::<(), std::io::Error>(())
    };
    drop(timeout(REFUSAL_TIMEOUT, farewell).await);
}
