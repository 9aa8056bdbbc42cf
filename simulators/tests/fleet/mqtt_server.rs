//! A server that keeps QoS 1 messages in memory, recognises resends, and misbehaves as told.

use std::collections::HashSet;
use std::sync::{Arc, Mutex};

use bytes::BytesMut;
use rumqttc::mqttbytes::v4;
use rumqttc::v5::mqttbytes::v5;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use crate::Stored;

#[derive(Clone, Copy, Default)]
pub(crate) struct Behaviour {
    /// Closes each connection after so many messages.
    pub(crate) close_after: Option<usize>,
    /// Forgets half of the messages that it hasn't acknowledged when it closes a connection.
    pub(crate) forget_unacked: bool,
    /// Acknowledges each so-manieth message without keeping it.
    pub(crate) lose_every: Option<usize>,
}

pub(crate) struct MqttServer {
    port: u16,
    state: Arc<Mutex<State>>,
    _tasks: JoinSet<()>,
}

#[derive(Default)]
struct State {
    /// In order; with what identifies a resend.
    stored: Vec<(Resend, String)>,
    known: HashSet<Resend>,
    received: usize,
    duplicates: u64,
}

/// Client, packet id, payload.
type Resend = (String, u16, Vec<u8>);

struct Publish {
    id: u16,
    topic: String,
    payload: Vec<u8>,
    is_dup: bool,
}

enum Packet {
    Connect(String),
    Publish(Publish),
    Ping,
    Disconnect,
}

impl MqttServer {
    pub(crate) async fn start(is_v5: bool, behaviour: Behaviour) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let state = Arc::<Mutex<State>>::default();
        let mut tasks = JoinSet::new();
        let shared = state.clone();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                connections.spawn(serve(stream, is_v5, behaviour, shared.clone()));
            }
        });
        Self {
            port,
            state,
            _tasks: tasks,
        }
    }

    pub(crate) fn url(&self) -> String {
        format!("mqtt://127.0.0.1:{}", self.port)
    }

    pub(crate) fn stored(&self) -> Vec<Stored> {
        let state = self.state.lock().unwrap();
        let stored = |((_, _, payload), topic): &(Resend, String)| Stored {
            subject: topic.replace('/', "."),
            payload: payload.clone(),
        };
        state.stored.iter().map(stored).collect()
    }

    /// Messages with DUP that were known already.
    pub(crate) fn duplicates(&self) -> u64 {
        self.state.lock().unwrap().duplicates
    }
}

impl State {
    fn keep(&mut self, client: &str, publish: Publish, behaviour: Behaviour) {
        self.received += 1;
        let resend = (client.to_owned(), publish.id, publish.payload);
        if publish.is_dup && self.known.contains(&resend) {
            self.duplicates += 1;
            return;
        }
        assert!(self.known.insert(resend.clone()), "sent again without DUP");
        if behaviour
            .lose_every
            .is_none_or(|every| !self.received.is_multiple_of(every))
        {
            self.stored.push((resend, publish.topic));
        }
    }
}

async fn serve(mut stream: TcpStream, is_v5: bool, behaviour: Behaviour, state: Arc<Mutex<State>>) {
    let (mut input, mut out, mut client, mut count) = (BytesMut::new(), BytesMut::new(), String::new(), 0);
    loop {
        while let Some(packet) = read(is_v5, &mut input) {
            match packet {
                Packet::Connect(id) => {
                    client = id;
                    // A server that forgot the session: resends have to come all the same.
                    out.extend_from_slice(if is_v5 {
                        b"\x20\x03\x00\x00\x00"
                    } else {
                        b"\x20\x02\x00\x00"
                    });
                }
                Packet::Publish(publish) => {
                    count += 1;
                    if behaviour
                        .close_after
                        .is_some_and(|close_after| count > close_after)
                    {
                        if behaviour.forget_unacked && count.is_multiple_of(2) {
                            return;
                        }
                        state.lock().unwrap().keep(&client, publish, behaviour);
                        return;
                    }
                    let [high, low] = publish.id.to_be_bytes();
                    state.lock().unwrap().keep(&client, publish, behaviour);
                    out.extend_from_slice(&[0x40, 0x02, high, low]);
                }
                Packet::Ping => out.extend_from_slice(b"\xd0\x00"),
                Packet::Disconnect => return,
            }
        }
        if stream.write_all_buf(&mut out).await.is_err() {
            return;
        }
        if !matches!(stream.read_buf(&mut input).await, Ok(1..)) {
            return;
        }
    }
}

fn read(is_v5: bool, input: &mut BytesMut) -> Option<Packet> {
    // The codec for version 5 can't read a DISCONNECT without fields.
    if input.starts_with(b"\xe0\x00") {
        return Some(Packet::Disconnect);
    }
    if is_v5 {
        use rumqttc::v5::mqttbytes::Error::InsufficientBytes;
        return match v5::Packet::read(input, None) {
            Ok(v5::Packet::Connect(connect, _, _)) => Some(Packet::Connect(connect.client_id)),
            Ok(v5::Packet::Publish(publish)) => Some(Packet::Publish(Publish {
                id: publish.pkid,
                topic: String::from_utf8(publish.topic.to_vec()).unwrap(),
                payload: publish.payload.to_vec(),
                is_dup: publish.dup,
            })),
            Ok(v5::Packet::PingReq(_)) => Some(Packet::Ping),
            Ok(packet) => panic!("{packet:?}"),
            Err(InsufficientBytes(_)) => None,
            Err(error) => panic!("{error:?}"),
        };
    }
    use rumqttc::mqttbytes::Error::InsufficientBytes;
    match v4::Packet::read(input, 1 << 20) {
        Ok(v4::Packet::Connect(connect)) => Some(Packet::Connect(connect.client_id)),
        Ok(v4::Packet::Publish(publish)) => Some(Packet::Publish(Publish {
            id: publish.pkid,
            topic: publish.topic,
            payload: publish.payload.to_vec(),
            is_dup: publish.dup,
        })),
        Ok(v4::Packet::PingReq) => Some(Packet::Ping),
        Ok(packet) => panic!("{packet:?}"),
        Err(InsufficientBytes(_)) => None,
        Err(error) => panic!("{error:?}"),
    }
}
