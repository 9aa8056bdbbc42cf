//! A server that keeps nothing and answers at once, to find the limit of the generators: each request is acknowledged
//! as stored, each pull request gets its batch, and each other message goes to every other connection that subscribed.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};

use crate::raw::{PAYLOAD, frame_of, number_after};

const INFO: &[u8] = b"INFO {\"server_id\":\"N\",\"server_name\":\"null\",\"version\":\"2.15.2\",\"proto\":1,\"go\":\"\",\"host\":\"127.0.0.1\",\"port\":4222,\"headers\":true,\"max_payload\":1048576,\"jetstream\":true,\"client_id\":1}\r\n";
const ACK: &[u8] = br#"{"stream":"BENCH","seq":1}"#;

pub(crate) struct Null;

/// A connection and the last subscription made on it.
struct Peer {
    socket: TcpStream,
    sid: Vec<u8>,
}

type Peers = Arc<Mutex<Vec<Peer>>>;

impl Null {
    /// Listens until the process ends. Returns the port.
    pub(crate) fn start() -> anyhow::Result<u16> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let port = listener.local_addr()?.port();
        let peers = Peers::default();
        std::thread::spawn(move || {
            for socket in listener.incoming() {
                let (Ok(socket), peers) = (socket, Arc::clone(&peers)) else {
                    return;
                };
                std::thread::spawn(move || {
                    // The benchmark notices when an answer is missing.
                    drop(serve(socket, &peers));
                });
            }
        });
        Ok(port)
    }
}

fn serve(mut socket: TcpStream, peers: &Peers) -> anyhow::Result<()> {
    socket.set_nodelay(true)?;
    socket.write_all(INFO)?;
    let mut held = Vec::new();
    let mut buffer = vec![0; 256 * 1024];
    let (mut own, mut others) = (Vec::new(), Vec::new());
    let mut sid = Vec::new();
    loop {
        let read = socket.read(&mut buffer)?;
        if read == 0 {
            return Ok(());
        }
        held.extend_from_slice(&buffer[..read]);
        let mut at = 0;
        while let Some((line, next)) = line_at(&held, at) {
            let words: Vec<&[u8]> = line.split(|byte| *byte == b' ').collect();
            match words.as_slice() {
                [b"PING"] => own.extend_from_slice(b"PONG\r\n"),
                [b"SUB", _, .., last] => {
                    sid = last.to_vec();
                    let peer = Peer {
                        socket: socket.try_clone()?,
                        sid: sid.clone(),
                    };
                    peers.lock().unwrap_or_else(PoisonError::into_inner).push(peer);
                }
                [b"PUB" | b"HPUB", subject, middle @ .., size] => {
                    let size: usize = std::str::from_utf8(size)?.parse()?;
                    let end = next + size + 2;
                    if held.len() < end {
                        break;
                    }
                    match middle.first().filter(|word| word.starts_with(b"_INBOX")) {
                        Some(_) if subject.ends_with(b".MSG.NEXT.BENCH.C") => {
                            batch(&mut own, &sid, &held[next..end]);
                        }
                        Some(reply) => frame_of(&mut own, reply, &sid, ACK),
                        None if subject.starts_with(b"$JS.ACK") => {}
                        None => frame_of(&mut others, subject, b"1", &PAYLOAD),
                    }
                    at = end;
                    continue;
                }
                _ => {}
            }
            at = next;
        }
        held.drain(..at);
        socket.write_all(&own)?;
        own.clear();
        if !others.is_empty() {
            let mut peers = peers.lock().unwrap_or_else(PoisonError::into_inner);
            for peer in peers.iter_mut().filter(|peer| peer.sid == b"1") {
                if peer.socket.peer_addr()? != socket.peer_addr()? {
                    peer.socket.write_all(&others)?;
                }
            }
            others.clear();
        }
    }
}

fn batch(out: &mut Vec<u8>, sid: &[u8], request: &[u8]) {
    for seq in 0..number_after(request, b"\"batch\":").unwrap_or(1) {
        out.extend_from_slice(b"MSG bench.subject ");
        out.extend_from_slice(sid);
        let ack = format!(" $JS.ACK.BENCH.C.1.{seq}.{seq}.1700000000000000000.0 ");
        out.extend_from_slice(ack.as_bytes());
        out.extend_from_slice(format!("{}\r\n", PAYLOAD.len()).as_bytes());
        out.extend_from_slice(&PAYLOAD);
        out.extend_from_slice(b"\r\n");
    }
}

/// The line that begins at `at`, and where the next begins.
fn line_at(held: &[u8], at: usize) -> Option<(&[u8], usize)> {
    let rest = held.get(at..)?;
    let end = rest.iter().position(|byte| *byte == b'\n')?;
    Some((rest[..end].trim_ascii_end(), at + end + 1))
}
