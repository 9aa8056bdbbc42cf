//! TLS on a socket, without waiting.

use std::io::{self, BufRead, IoSlice, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::BytesMut;
use rustls::pki_types::CertificateDer;
use rustls::{ServerConfig, ServerConnection};
use tokio::net::TcpStream;

use super::{LAYER_BYTES, Raw, Socket, unless_blocked};
use crate::outbound::TryWrite;

/// A socket with TLS on it, its handshake done.
#[derive(Debug)]
pub(crate) struct TlsSocket {
    tcp: TcpStream,
    state: Mutex<ServerConnection>,
}

impl TlsSocket {
    /// Makes the handshake, which takes as long as the peer does.
    pub(crate) async fn accept(tcp: TcpStream, config: Arc<ServerConfig>) -> io::Result<Self> {
        let mut state = ServerConnection::new(config).map_err(io::Error::other)?;
        loop {
            while !flush(&mut state, &tcp)? {
                tcp.writable().await?;
            }
            if !state.is_handshaking() {
                break;
            }
            tcp.readable().await?;
            match state.read_tls(&mut Raw(&tcp)) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(_) => {
                    if let Err(err) = state.process_new_packets() {
                        // The peer is told why, if it takes that.
                        flush(&mut state, &tcp)?;
                        return Err(io::Error::new(io::ErrorKind::InvalidData, err));
                    }
                }
                Err(err) if err.kind() == io::ErrorKind::WouldBlock => {}
                Err(err) => return Err(err),
            }
        }
        Ok(Self {
            tcp,
            state: Mutex::new(state),
        })
    }

    /// The certificates that the peer has shown, its own first.
    pub(crate) fn peer_certificates(&self) -> Vec<CertificateDer<'static>> {
        let state = self.lock();
        let shown = state.peer_certificates().unwrap_or_default();
        shown.iter().map(|cert| cert.clone().into_owned()).collect()
    }

    /// TLS's version and cipher suite, as nats-server writes them.
    pub(crate) fn protocol(&self) -> (&'static str, String) {
        let state = self.lock();
        let version = match state.protocol_version() {
            Some(rustls::ProtocolVersion::TLSv1_2) => "1.2",
            _ => "1.3",
        };
        let suite = state
            .negotiated_cipher_suite()
            .map(|suite| format!("{:?}", suite.suite()));
        (version, suite.unwrap_or_default().replace("TLS13_", "TLS_"))
    }

    fn lock(&self) -> MutexGuard<'_, ServerConnection> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl TryWrite for TlsSocket {
    fn try_write_vectored(&self, chunks: &[IoSlice<'_>]) -> io::Result<usize> {
        let mut state = self.lock();
        if !flush(&mut state, &self.tcp)? {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let mut taken = 0;
        for chunk in chunks {
            let room = LAYER_BYTES - taken;
            let part = &chunk[..chunk.len().min(room)];
            let count = state.writer().write(part)?;
            taken += count;
            if count < chunk.len() {
                break;
            }
        }
        flush(&mut state, &self.tcp)?;
        Ok(taken)
    }

    fn try_flush(&self) -> io::Result<()> {
        match flush(&mut self.lock(), &self.tcp)? {
            true => Ok(()),
            false => Err(io::ErrorKind::WouldBlock.into()),
        }
    }
}

impl Socket for TlsSocket {
    const IS_LAYERED: bool = true;

    fn tcp(&self) -> &TcpStream {
        &self.tcp
    }

    fn try_read(&self, buf: &mut BytesMut) -> io::Result<usize> {
        let mut state = self.lock();
        let mut total = 0;
        while total < LAYER_BYTES {
            match plaintext(&mut state, buf) {
                // The peer has said that nothing more will come.
                Ok(0) => return Ok(total),
                Ok(count) => {
                    total += count;
                    continue;
                }
                Err(err) if err.kind() == io::ErrorKind::WouldBlock => {}
                Err(err) if err.kind() == io::ErrorKind::UnexpectedEof => return Ok(total),
                Err(err) => return Err(err),
            }
            match state.read_tls(&mut Raw(&self.tcp)) {
                Ok(_) => {
                    let processed = state.process_new_packets();
                    flush(&mut state, &self.tcp)?;
                    processed.map_err(|err| io::Error::new(io::ErrorKind::InvalidData, err))?;
                }
                Err(err) if err.kind() == io::ErrorKind::WouldBlock && total > 0 => break,
                Err(err) => return Err(err),
            }
        }
        Ok(total)
    }

    fn owes(&self) -> bool {
        self.lock().wants_write()
    }

    fn goodbye(&self) {
        let mut state = self.lock();
        state.send_close_notify();
        if let Err(err) = flush(&mut state, &self.tcp) {
            tracing::trace!(error = %err, "a peer has gone before it was told");
        }
    }
}

/// Moves what is decrypted into `buf`.
fn plaintext(state: &mut ServerConnection, buf: &mut BytesMut) -> io::Result<usize> {
    let mut reader = state.reader();
    let bytes = reader.fill_buf()?;
    let count = bytes.len();
    buf.extend_from_slice(bytes);
    reader.consume(count);
    Ok(count)
}

/// Writes what is encrypted. False if the socket does not take all of it now.
fn flush(state: &mut ServerConnection, tcp: &TcpStream) -> io::Result<bool> {
    while state.wants_write() {
        let written = state.write_tls(&mut Raw(tcp)).map(drop);
        if !unless_blocked(written)? {
            return Ok(false);
        }
    }
    Ok(true)
}
