//! What a session's bytes travel on: a socket, TLS on it, WebSocket on either. Nothing here waits: what a layer cannot pass on
//! now stays with it, within a bound, and the connection's writer sees to it.

pub(crate) mod deflate;
pub(crate) mod tls;
pub(crate) mod websocket;

use std::io::{self, IoSlice, Read, Write};

use bytes::BytesMut;
use tokio::net::TcpStream;

use crate::outbound::TryWrite;

/// A connection's socket, whatever lies on it.
pub(crate) trait Socket: TryWrite + 'static {
    /// Whether something lies on the socket that may hold bytes back.
    const IS_LAYERED: bool;

    /// The socket at the bottom: readable and writable are its.
    fn tcp(&self) -> &TcpStream;

    /// Reads what there is into the room that `buf` has, or for a layer a little more; `Ok(0)` at the end.
    fn try_read(&self, buf: &mut BytesMut) -> io::Result<usize>;

    /// Whether reading has left something to be written, such as the answer to a ping.
    fn owes(&self) -> bool {
        false
    }

    /// Tells the peer that nothing more will come, as far as it takes that at once.
    fn goodbye(&self) {}
}

impl Socket for TcpStream {
    const IS_LAYERED: bool = false;

    fn tcp(&self) -> &TcpStream {
        self
    }

    fn try_read(&self, buf: &mut BytesMut) -> io::Result<usize> {
        self.try_read_buf(buf)
    }
}

/// Bytes that a layer takes at a time.
const LAYER_BYTES: usize = 64 << 10;

/// A socket as synchronous layers want it: `WouldBlock` instead of waiting.
struct Raw<'a>(&'a TcpStream);

impl Read for Raw<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.0.try_read(buf)
    }
}

impl Write for Raw<'_> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.0.try_write(buf)
    }

    fn write_vectored(&mut self, chunks: &[IoSlice<'_>]) -> io::Result<usize> {
        self.0.try_write_vectored(chunks)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// `Ok(false)` where `result` says that it would block.
fn unless_blocked(result: io::Result<()>) -> io::Result<bool> {
    match result {
        Ok(()) => Ok(true),
        Err(err) if err.kind() == io::ErrorKind::WouldBlock => Ok(false),
        Err(err) => Err(err),
    }
}

#[cfg(test)]
mod tests;
