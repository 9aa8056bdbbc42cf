use super::*;
use proptest::prelude::*;

/// Takes `room` bytes, then blocks.
#[derive(Default)]
struct FakeSocket {
    room: AtomicUsize,
    taken: Mutex<Vec<u8>>,
    broken: AtomicBool,
}

impl TryWrite for FakeSocket {
    fn try_write_vectored(&self, chunks: &[IoSlice<'_>]) -> io::Result<usize> {
        if self.broken.load(Relaxed) {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        let mut written = 0;
        for chunk in chunks {
            let count = chunk.len().min(self.room.load(Relaxed));
            self.room.fetch_sub(count, Relaxed);
            self.taken.lock().unwrap().extend_from_slice(&chunk[..count]);
            written += count;
        }
        if written == 0 {
            Err(io::ErrorKind::WouldBlock.into())
        } else {
            Ok(written)
        }
    }
}

fn outbound(max: usize) -> (Arc<FakeSocket>, Outbound, Arc<Counters>) {
    let socket = Arc::new(FakeSocket::default());
    let counters = Arc::new(Counters::default());
    let outbound = Outbound::new(ClientId(1), socket.clone(), max, counters.clone());
    (socket, outbound, counters)
}

#[test]
fn beyond_max_pending_the_connection_is_cut_off_and_counted_once() {
    let (_socket, outbound, counters) = outbound(10);
    outbound.push(&mut vec![0; 10]);
    assert_eq!(outbound.reason(), None);
    outbound.push(&mut vec![0; 1]);
    outbound.push(&mut vec![0; 1]);
    assert_eq!(outbound.reason(), Some(CloseReason::SlowConsumerPendingBytes));
    assert_eq!(counters.slow_pending.load(Relaxed), 1);
    assert_eq!(outbound.write_queued(), Progress::Ended);
    assert_eq!(outbound.backlog_bytes(), 0);
}

#[test]
fn finish_sends_what_is_queued_first_and_close_does_not() {
    for finish in [true, false] {
        let (socket, outbound, _) = outbound(100);
        outbound.push(&mut b"bye".to_vec());
        if finish {
            outbound.finish(CloseReason::ServerShutdown);
        } else {
            outbound.close(CloseReason::ServerShutdown);
        }
        outbound.push(&mut b"late".to_vec());
        socket.room.store(100, Relaxed);
        assert_eq!(outbound.write_queued(), Progress::Ended);
        assert_eq!(
            *socket.taken.lock().unwrap(),
            if finish { b"bye".to_vec() } else { vec![] }
        );
    }
}

#[test]
fn a_broken_socket_ends_the_connection() {
    let (socket, outbound, _) = outbound(100);
    socket.broken.store(true, Relaxed);
    outbound.push(&mut b"x".to_vec());
    assert_eq!(outbound.reason(), Some(CloseReason::WriteError));
    assert!(outbound.has_ended());
}

#[tokio::test]
async fn publishers_are_relieved_when_the_backlog_shrinks() {
    let (socket, outbound, _) = outbound(8 << 20);
    outbound.push(&mut vec![0; 2 << 20]);
    let mut relieved = Box::pin(outbound.relieved());
    assert!(futures::poll!(&mut relieved).is_pending());
    socket.room.store(1 << 20, Relaxed);
    assert_eq!(outbound.write_queued(), Progress::Blocked);
    assert!(futures::poll!(&mut relieved).is_pending());
    socket.room.store(1 << 20, Relaxed);
    assert_eq!(outbound.write_queued(), Progress::Idle);
    relieved.await;
}

proptest! {
    #[test]
    fn bytes_leave_in_order_and_none_is_lost(
        steps in prop::collection::vec((0_usize..100_000, 0_usize..150_000, prop::bool::ANY), 1..30)
    ) {
        let (socket, outbound, _) = outbound(usize::MAX);
        let mut expected = Vec::new();
        for (number, (len, room, drain)) in steps.into_iter().enumerate() {
            let mut data: Vec<u8> = (0..len).map(|at| (at * 31 + number) as u8).collect();
            expected.extend_from_slice(&data);
            socket.room.store(room, Relaxed);
            outbound.push(&mut data);
            prop_assert!(data.is_empty());
            if drain {
                outbound.write_queued();
            }
            prop_assert!(expected.starts_with(&socket.taken.lock().unwrap()));
        }
        socket.room.store(usize::MAX / 2, Relaxed);
        prop_assert_eq!(outbound.write_queued(), Progress::Idle);
        prop_assert_eq!(&*socket.taken.lock().unwrap(), &expected);
        prop_assert_eq!(outbound.backlog_bytes(), 0);
    }
}
