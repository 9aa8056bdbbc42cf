//! Writers whose peer takes nothing, and what a connection costs.

use tokio::net::{TcpListener, TcpStream};

use super::*;
use crate::nats::connections::Connection;
use crate::nats::transport::tls::TlsSocket;
use crate::outbound::{ClientId, CloseReason, Counters, Outbound};

/// Longer than any wait of these tests.
const DEADLINE: Duration = Duration::from_secs(600);

/// A connection with more queued than the socket takes, and its peer.
async fn blocked() -> (Arc<TcpStream>, Arc<Outbound>, Arc<Counters>, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let peer = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let stream = Arc::new(listener.accept().await.unwrap().0);
    let counters = Arc::new(Counters::default());
    let outbound = Outbound::new(ClientId(7), stream.clone(), usize::MAX, Arc::clone(&counters));
    stream.writable().await.unwrap();
    while outbound.backlog_bytes() < 1 << 20 {
        outbound.push(&mut vec![b'x'; 8 << 20]);
    }
    (stream, Arc::new(outbound), counters, peer)
}

/// A connection's task that only writes.
async fn write(outbound: &Outbound, stream: &TcpStream, deadline: Duration) {
    let mut writer = Writer::new(deadline);
    poll_fn(|cx| {
        let has_news = outbound.attend(cx.waker());
        writer.poll(outbound, stream, has_news, cx)
    })
    .await;
}

#[tokio::test]
async fn a_blocked_writer_ends_when_its_connection_is_closed() {
    let (stream, outbound, counters, _peer) = blocked().await;
    let writer = write(&outbound, &stream, DEADLINE);
    let closing = async {
        tokio::task::yield_now().await;
        outbound.close(CloseReason::ClientClosed);
    };
    tokio::time::timeout(DEADLINE / 10, async { tokio::join!(writer, closing) })
        .await
        .expect("nothing is waited for");
    assert_eq!(outbound.reason(), Some(CloseReason::ClientClosed));
    assert_eq!(counters.slow_deadline.load(Relaxed), 0);
}

#[tokio::test]
async fn last_words_that_nobody_takes_are_given_up_and_not_counted() {
    let (stream, outbound, counters, _peer) = blocked().await;
    outbound.finish(CloseReason::ServerShutdown);
    tokio::time::timeout(DEADLINE / 10, write(&outbound, &stream, DEADLINE))
        .await
        .expect("they get a second");
    assert_eq!(outbound.reason(), Some(CloseReason::ServerShutdown));
    assert_eq!(counters.slow_deadline.load(Relaxed), 0);
}

#[tokio::test]
async fn who_takes_nothing_for_the_deadline_is_cut_off_and_counted() {
    let (stream, outbound, counters, _peer) = blocked().await;
    write(&outbound, &stream, Duration::from_millis(10)).await;
    assert_eq!(outbound.reason(), Some(CloseReason::SlowConsumerWriteDeadline));
    assert_eq!(counters.slow_deadline.load(Relaxed), 1);
}

/// Bytes of the future that `begin` gives.
fn future_bytes<G, F, A, B, C>(_begin: G) -> usize
where
    G: Fn(A, B, C) -> F,
    F: Future,
{
    size_of::<F>()
}

/// What 10,000 idle connections cost is these sizes, 264 bytes of tokio's and what memory in use costs to administer: 64 MiB have to be
/// enough for them, for what clients that do not read have queued up, and for the broker. `just network` measures that.
#[test]
fn an_idle_connection_is_small() {
    for (what, bytes, max) in [
        ("task", future_bytes(serve::<TcpStream>), 1536),
        ("task on TLS", future_bytes(serve::<TlsSocket>), 1536),
        ("session", size_of::<Session>(), 800),
        ("way out", size_of::<Outbound>(), 256),
        ("connection", size_of::<Connection>(), 160),
    ] {
        println!("{what}: {bytes} bytes");
        assert!(bytes <= max, "{what}: {bytes} bytes, {max} allowed");
    }
}
