//! WebSocket on a socket or on TLS, without waiting. Each write is a binary message; what a peer sends, in whatever messages,
//! is one stream of bytes. Source: RFC 6455; compression as RFC 7692 has it.

use std::io::{self, IoSlice, Read, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::{Buf, Bytes, BytesMut};
use tokio::net::TcpStream;
use tungstenite::handshake::server::{Callback, ServerHandshake};
use tungstenite::protocol::WebSocketConfig;
use tungstenite::protocol::frame::coding::{Data, OpCode};
use tungstenite::protocol::frame::{Frame, FrameHeader};
use tungstenite::{Error, HandshakeError, Message, WebSocket};

use super::deflate::{Unpacker, pack};
use super::{LAYER_BYTES, Socket};
use crate::outbound::TryWrite;

/// A socket with WebSocket on it, its upgrade done.
pub(crate) struct WsSocket<S: Socket> {
    below: Arc<S>,
    state: Mutex<WebSocket<Below<S>>>,
    /// The peer understands compressed messages.
    compresses: bool,
}

const READ_BYTES: usize = 8 << 10;

/// The socket as the WebSocket layer wants it.
pub(crate) struct Below<S> {
    socket: Arc<S>,
    /// Read and not yet taken.
    held: BytesMut,
    /// The peer may compress.
    unpacker: Option<Unpacking>,
}

struct Unpacking {
    /// Read and not yet unpacked.
    raw: BytesMut,
    unpacker: Unpacker,
}

impl<S: Socket> WsSocket<S> {
    /// Makes the upgrade, which takes as long as the peer does. `callback` looks at the request and adds to the answer. A
    /// peer's message has at most `message_bytes_max`.
    pub(crate) async fn accept(
        socket: S,
        callback: impl Callback + Unpin,
        message_bytes_max: usize,
    ) -> io::Result<Self> {
        let below = Arc::new(socket);
        let io = Below {
            socket: Arc::clone(&below),
            held: BytesMut::new(),
            unpacker: None,
        };
        let config = WebSocketConfig::default()
            .read_buffer_size(READ_BYTES)
            .write_buffer_size(0)
            .max_write_buffer_size(2 * LAYER_BYTES)
            .max_message_size(Some(message_bytes_max))
            .max_frame_size(Some(message_bytes_max));
        let mut step = ServerHandshake::start(io, callback, Some(config)).handshake();
        loop {
            let unfinished = match step {
                Ok(state) => {
                    return Ok(Self {
                        below,
                        state: Mutex::new(state),
                        compresses: false,
                    });
                }
                Err(HandshakeError::Interrupted(unfinished)) => unfinished,
                Err(HandshakeError::Failure(err)) => return Err(failure(err)),
            };
            while let Err(err) = below.try_flush() {
                if err.kind() != io::ErrorKind::WouldBlock {
                    return Err(err);
                }
                below.tcp().writable().await?;
            }
            below.tcp().readable().await?;
            step = unfinished.handshake();
        }
    }

    /// Messages are compressed, both ways. One of the peer has at most `message_bytes_max` when it is unpacked.
    #[must_use]
    pub(crate) fn compressing(mut self, message_bytes_max: usize) -> Self {
        let state = self.state.get_mut().unwrap_or_else(PoisonError::into_inner);
        state.get_mut().unpacker = Some(Unpacking {
            raw: BytesMut::new(),
            unpacker: Unpacker::new(message_bytes_max),
        });
        self.compresses = true;
        self
    }

    fn message(&self, payload: Vec<u8>) -> Message {
        let packed = if self.compresses { pack(&payload) } else { None };
        let Some(packed) = packed else {
            return Message::Binary(Bytes::from(payload));
        };
        let header = FrameHeader {
            rsv1: true,
            opcode: OpCode::Data(Data::Binary),
            ..FrameHeader::default()
        };
        Message::Frame(Frame::from_payload(header, Bytes::from(packed)))
    }

    fn lock(&self) -> MutexGuard<'_, WebSocket<Below<S>>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<S: Socket> TryWrite for WsSocket<S> {
    fn try_write_vectored(&self, chunks: &[IoSlice<'_>]) -> io::Result<usize> {
        let mut state = self.lock();
        state.flush().map_err(failure)?;
        let mut payload = Vec::new();
        for chunk in chunks {
            let room = LAYER_BYTES - payload.len();
            payload.extend_from_slice(&chunk[..chunk.len().min(room)]);
            if payload.len() == LAYER_BYTES {
                break;
            }
        }
        let taken = payload.len();
        let message = self.message(payload);
        let written = state.write(message).and_then(|()| state.flush());
        match written.map_err(failure) {
            // The layer has taken it and will pass it on.
            Err(err) if err.kind() == io::ErrorKind::WouldBlock => Ok(taken),
            written => written.map(|()| taken),
        }
    }

    fn try_flush(&self) -> io::Result<()> {
        self.lock().flush().map_err(failure)
    }
}

impl<S: Socket> Socket for WsSocket<S> {
    const IS_LAYERED: bool = true;

    fn tcp(&self) -> &TcpStream {
        self.below.tcp()
    }

    fn try_read(&self, buf: &mut BytesMut) -> io::Result<usize> {
        let mut state = self.lock();
        let mut total = 0;
        while total < LAYER_BYTES {
            match state.read() {
                Ok(Message::Binary(bytes)) => {
                    buf.extend_from_slice(&bytes);
                    total += bytes.len();
                }
                Ok(Message::Text(text)) => {
                    buf.extend_from_slice(text.as_bytes());
                    total += text.len();
                }
                // Pings have been answered by the layer.
                Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_)) => {}
                Ok(Message::Close(_)) | Err(Error::ConnectionClosed | Error::AlreadyClosed) => {
                    return Ok(total);
                }
                Err(err) => match failure(err) {
                    err if err.kind() == io::ErrorKind::WouldBlock && total > 0 => break,
                    err => return Err(err),
                },
            }
        }
        Ok(total)
    }

    fn owes(&self) -> bool {
        // Passing on what there is costs nothing where there is nothing.
        self.try_flush().is_err()
    }

    fn goodbye(&self) {
        let mut state = self.lock();
        let told = state.close(None).and_then(|()| state.flush());
        drop(state);
        if let Err(err) = told {
            tracing::trace!(error = %err, "a peer has gone before it was told");
        }
        self.below.goodbye();
    }
}

impl<S: Socket> Read for Below<S> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if self.held.is_empty() {
            // Without more to read, a quiet connection needs no buffer.
            self.read_more().inspect_err(|_| self.held = BytesMut::new())?;
        }
        let count = self.held.len().min(into.len());
        self.held.copy_to_slice(&mut into[..count]);
        Ok(count)
    }
}

impl<S: Socket> Write for Below<S> {
    fn write(&mut self, from: &[u8]) -> io::Result<usize> {
        self.socket.try_write_vectored(&[IoSlice::new(from)])
    }

    fn flush(&mut self) -> io::Result<()> {
        self.socket.try_flush()
    }
}

impl<S: Socket> Below<S> {
    /// Reads into `held`; it stays empty at the end.
    fn read_more(&mut self) -> io::Result<()> {
        let Some(Unpacking { raw, unpacker }) = &mut self.unpacker else {
            self.held.reserve(READ_BYTES);
            return self.socket.try_read(&mut self.held).map(drop);
        };
        while self.held.is_empty() {
            raw.reserve(READ_BYTES);
            match self.socket.try_read(raw) {
                Ok(0) => break,
                Ok(_) => unpacker
                    .unpack(raw, &mut self.held)
                    .map_err(|err| io::Error::new(io::ErrorKind::InvalidData, err))?,
                Err(err) => {
                    if raw.is_empty() {
                        *raw = BytesMut::new();
                    }
                    return Err(err);
                }
            }
        }
        Ok(())
    }
}

fn failure(err: Error) -> io::Error {
    match err {
        Error::Io(err) => err,
        Error::ConnectionClosed | Error::AlreadyClosed => io::ErrorKind::BrokenPipe.into(),
        other => io::Error::new(io::ErrorKind::InvalidData, other),
    }
}
