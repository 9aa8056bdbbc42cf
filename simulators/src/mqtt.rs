//! A device's MQTT connection: QoS 1, with resends that are marked as such.
//!
//! Packets are read and written by rumqttc's codecs. Its event loop isn't used: it resends without DUP, forgets what is
//! unacknowledged when the server doesn't know the session any more, and writes to the socket for each packet.

mod packet;
mod target;

use std::collections::VecDeque;
use std::io;
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{Instant, interval_at, sleep, timeout};

pub use target::MqttUrlError;
pub(crate) use target::{MqttTarget, MqttVersion};

use crate::fleet::{Backoff, Link};
use crate::ledger::LedgerError;
use crate::message::Message;
use packet::{Incoming, Publish};

const KEEP_ALIVE: Duration = Duration::from_secs(20);
/// For the handshake, and for each write.
const IO_TIMEOUT: Duration = Duration::from_secs(10);
const READ_BUFFER_BYTES: usize = 16 << 10;
/// How long acknowledgements are ignored before a connection is broken on purpose.
const LOSE_ACKS_FOR: Duration = Duration::from_millis(50);
/// Between two connections broken on purpose.
const BREAK_INTERVAL: Duration = Duration::from_millis(250);

/// One connection and the messages on it.
pub(crate) struct MqttLink {
    target: MqttTarget,
    link: Link,
    /// Taken, not sent yet.
    waiting: VecDeque<Message>,
    /// Sent and not acknowledged, in the order of sending.
    in_flight: VecDeque<Publish>,
    is_id_used: Vec<bool>,
    next_id: u16,
    /// The smaller of the configured window and the server's Receive Maximum.
    window: usize,
    /// Messages that are still to be sent twice.
    owed_duplicates: usize,
    last_break: Instant,
    is_closing: bool,
    out: BytesMut,
}

/// Why a connection's work ended.
enum End {
    /// All is acknowledged, or it was told to give up.
    Done,
    Broken(String),
    Ledger(LedgerError),
}

impl From<io::Error> for End {
    fn from(error: io::Error) -> Self {
        Self::Broken(error.to_string())
    }
}

impl MqttLink {
    pub(crate) fn new(target: MqttTarget, link: Link) -> Self {
        Self {
            target,
            window: usize::from(link.window),
            link,
            waiting: VecDeque::new(),
            in_flight: VecDeque::new(),
            is_id_used: vec![false; usize::from(u16::MAX) + 1],
            next_id: 1,
            owed_duplicates: 0,
            last_break: Instant::now(),
            is_closing: false,
            out: BytesMut::new(),
        }
    }

    /// Sends until the queue is closed and all is acknowledged.
    pub(crate) async fn run(mut self) -> Result<(), LedgerError> {
        let mut backoff = Backoff::default();
        let stats = self.link.records.stats.clone();
        let give_up = self.link.give_up.clone();
        loop {
            let connected = tokio::select! {
                connected = timeout(IO_TIMEOUT, self.connect()) => connected,
                () = give_up.cancelled() => return Ok(()),
            };
            match connected {
                Ok(Ok((stream, input))) => {
                    backoff.reset();
                    stats.connects.add(1);
                    let end = self.serve(stream, input).await;
                    stats.disconnects.add(1);
                    match end {
                        End::Done => return Ok(()),
                        End::Ledger(error) => return Err(error),
                        End::Broken(error) => stats.note_error(format!("{}: {error}", self.target)),
                    }
                }
                Ok(Err(error)) => stats.note_error(format!("{}: {error}", self.target)),
                Err(_) => stats.note_error(format!("{}: no answer to CONNECT", self.target)),
            }
            if self.is_closing && self.in_flight.is_empty() && self.waiting.is_empty() {
                return Ok(());
            }
            tokio::select! {
                () = sleep(backoff.next()) => {}
                () = give_up.cancelled() => return Ok(()),
            }
        }
    }

    /// The connection, and what came in behind the CONNACK.
    async fn connect(&mut self) -> Result<(TcpStream, BytesMut), String> {
        let text = |error: io::Error| error.to_string();
        let mut stream = TcpStream::connect(self.target.address()).await.map_err(text)?;
        stream.set_nodelay(true).map_err(text)?;
        let version = self.target.version;
        let mut packet = BytesMut::new();
        packet::write_connect(&mut packet, &self.target, &self.link.name, KEEP_ALIVE)?;
        stream.write_all(&packet).await.map_err(text)?;
        let mut input = BytesMut::with_capacity(READ_BUFFER_BYTES);
        loop {
            match packet::read(version, &mut input)? {
                Some(Incoming::Accepted { receive_max }) => {
                    self.window = usize::from(self.link.window.min(receive_max));
                    return Ok((stream, input));
                }
                Some(Incoming::Rejected(reason)) => return Err(format!("connection refused: {reason}")),
                Some(_) => return Err("the first packet is not CONNACK".to_owned()),
                None => {}
            }
            if stream.read_buf(&mut input).await.map_err(text)? == 0 {
                return Err("closed before CONNACK".to_owned());
            }
        }
    }

    async fn serve(&mut self, mut stream: TcpStream, mut input: BytesMut) -> End {
        self.out.clear();
        if let Err(end) = self.resend() {
            return end;
        }
        let give_up = self.link.give_up.clone();
        let mut ping = interval_at(Instant::now() + KEEP_ALIVE / 2, KEEP_ALIVE / 2);
        let mut is_ping_open = false;
        loop {
            if let Err(end) = self.fill() {
                return end;
            }
            if let Err(end) = self.write(&mut stream).await {
                return end;
            }
            if self.owed_duplicates > 0
                && !self.in_flight.is_empty()
                && self.last_break.elapsed() > BREAK_INTERVAL
            {
                return self.break_connection(stream).await;
            }
            if self.is_closing && self.in_flight.is_empty() && self.waiting.is_empty() {
                return self.disconnect(stream).await;
            }
            tokio::select! {
                batch = self.link.batches.recv(), if self.waiting.is_empty() && !self.is_closing => match batch {
                    Some(batch) => self.waiting.extend(batch),
                    None => self.is_closing = true,
                },
                read = stream.read_buf(&mut input) => match read {
                    Ok(0) => return End::Broken("closed by the server".to_owned()),
                    Ok(_) => match self.take_input(&mut input) {
                        Ok(has_ping_response) => is_ping_open &= !has_ping_response,
                        Err(end) => return end,
                    },
                    Err(error) => return error.into(),
                },
                _ = ping.tick() => {
                    if std::mem::replace(&mut is_ping_open, true) {
                        return End::Broken("no answer to PINGREQ".to_owned());
                    }
                    packet::write_ping(&mut self.out);
                }
                () = give_up.cancelled() => return End::Done,
            }
        }
    }

    /// Everything in flight goes out again under its packet id, with DUP.
    fn resend(&mut self) -> Result<(), End> {
        for publish in &mut self.in_flight {
            publish.is_dup = true;
            packet::write_publish(self.target.version, &mut self.out, publish).map_err(End::Broken)?;
        }
        let count = self.in_flight.len();
        let on_purpose = count.min(self.owed_duplicates);
        self.owed_duplicates -= on_purpose;
        self.link.records.stats.duplicated.add(on_purpose);
        self.link.records.stats.resent.add(count - on_purpose);
        Ok(())
    }

    /// As much of what waits as the window allows.
    fn fill(&mut self) -> Result<(), End> {
        while self.in_flight.len() < self.window
            && let Some(message) = self.waiting.pop_front()
        {
            self.owed_duplicates += usize::from(message.is_duplicated);
            let topic = message.topic();
            let publish = Publish {
                id: self.take_id(),
                number: message.number,
                topic,
                payload: message.payload,
                is_dup: false,
            };
            packet::write_publish(self.target.version, &mut self.out, &publish).map_err(End::Broken)?;
            self.in_flight.push_back(publish);
        }
        Ok(())
    }

    /// An id that no message in flight has. There is one: the window is smaller than the number of ids.
    fn take_id(&mut self) -> u16 {
        loop {
            let id = self.next_id;
            self.next_id = if id == u16::MAX { 1 } else { id + 1 };
            if let Some(is_used) = self.is_id_used.get_mut(usize::from(id))
                && !std::mem::replace(is_used, true)
            {
                return id;
            }
        }
    }

    async fn write(&mut self, stream: &mut TcpStream) -> Result<(), End> {
        if self.out.is_empty() {
            return Ok(());
        }
        match timeout(IO_TIMEOUT, stream.write_all_buf(&mut self.out)).await {
            Ok(result) => result.map_err(End::from),
            Err(_) => Err(End::Broken("the server takes no data".to_owned())),
        }
    }

    /// Notes the PUBACKs. Returns whether a PINGRESP was among the packets.
    fn take_input(&mut self, input: &mut BytesMut) -> Result<bool, End> {
        let (mut numbers, mut has_ping_response, mut broken) = (Vec::new(), false, None);
        loop {
            match packet::read(self.target.version, input) {
                Ok(None) => break,
                Ok(Some(Incoming::PubAck { id, refusal })) => match self.take_ack(id, refusal) {
                    Ok(number) => numbers.push(number),
                    Err(error) => broken = Some(error),
                },
                Ok(Some(Incoming::PingResponse)) => has_ping_response = true,
                Ok(Some(Incoming::Disconnected(reason))) => broken = Some(format!("disconnected: {reason}")),
                Ok(Some(Incoming::Accepted { .. } | Incoming::Rejected(_))) => {
                    broken = Some("a second CONNACK".to_owned());
                }
                Ok(Some(Incoming::Other)) => {}
                Err(error) => broken = Some(error),
            }
            if broken.is_some() {
                break;
            }
        }
        self.link.records.acked(&numbers).map_err(End::Ledger)?;
        broken.map_or(Ok(has_ping_response), |error| Err(End::Broken(error)))
    }

    /// The number of the acknowledged message. A refused one stays in flight; the connection is to break, so that it is
    /// sent again after a pause.
    fn take_ack(&mut self, id: u16, refusal: Option<String>) -> Result<u64, String> {
        if let Some(reason) = refusal {
            self.link.records.stats.refused.add(1);
            return Err(format!("PUBACK {id}: {reason}"));
        }
        let index = self.in_flight.iter().position(|publish| publish.id == id);
        let publish = index.and_then(|index| self.in_flight.remove(index));
        let publish = publish.ok_or_else(|| format!("PUBACK {id} for nothing that is in flight"))?;
        if let Some(is_used) = self.is_id_used.get_mut(usize::from(id)) {
            *is_used = false;
        }
        Ok(publish.number)
    }

    /// The server takes the messages and its acknowledgements get lost: what is in flight is then a duplicate when it is
    /// sent again.
    async fn break_connection(&mut self, mut stream: TcpStream) -> End {
        self.last_break = Instant::now();
        let mut ignored = BytesMut::with_capacity(READ_BUFFER_BYTES);
        let lose = async {
            while stream.read_buf(&mut ignored).await? > 0 {
                ignored.clear();
            }
            io::Result::Ok(())
        };
        match timeout(LOSE_ACKS_FOR, lose).await {
            Ok(Ok(())) => End::Broken("closed by the server".to_owned()),
            Ok(Err(error)) => error.into(),
            Err(_) => End::Broken("broken on purpose".to_owned()),
        }
    }

    async fn disconnect(&mut self, mut stream: TcpStream) -> End {
        packet::write_disconnect(&mut self.out);
        match self.write(&mut stream).await {
            Ok(()) => End::Done,
            // Nothing is in flight: whether the goodbye arrives doesn't matter.
            Err(_) => End::Done,
        }
    }
}
