//! Writers whose peer takes nothing.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};

use super::write;
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

#[tokio::test]
async fn a_blocked_writer_ends_when_its_connection_is_closed() {
    let (stream, outbound, counters, _peer) = blocked().await;
    let writer = write(&outbound, &*stream, DEADLINE);
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
    tokio::time::timeout(DEADLINE / 10, write(&outbound, &*stream, DEADLINE))
        .await
        .expect("they get a second");
    assert_eq!(outbound.reason(), Some(CloseReason::ServerShutdown));
    assert_eq!(counters.slow_deadline.load(Relaxed), 0);
}

#[tokio::test]
async fn who_takes_nothing_for_the_deadline_is_cut_off_and_counted() {
    let (stream, outbound, counters, _peer) = blocked().await;
    write(&outbound, &*stream, Duration::from_millis(10)).await;
    assert_eq!(outbound.reason(), Some(CloseReason::SlowConsumerWriteDeadline));
    assert_eq!(counters.slow_deadline.load(Relaxed), 1);
}
