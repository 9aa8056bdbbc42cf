use super::*;

fn delivery(number: u64, bytes: usize) -> LocalDelivery {
    LocalDelivery {
        sub: SubId(number),
        subject: Bytes::from_static(b"a"),
        reply: None,
        headers: Bytes::new(),
        payload: vec![0; bytes].into(),
    }
}

fn numbers(deliveries: &[LocalDelivery]) -> Vec<u64> {
    deliveries.iter().map(|delivery| delivery.sub.0).collect()
}

#[tokio::test]
async fn what_does_not_fit_is_dropped_and_counted_and_the_rest_kept_in_order() {
    let broker = Arc::new(Counters::default());
    let queue = LocalQueue::new(ClientId(1), 3000, Arc::clone(&broker));
    queue.push(&mut vec![delivery(1, 1000), delivery(2, 5000), delivery(3, 1000)]);
    assert_eq!(numbers(&queue.recv().await.unwrap()), [1, 3]);
    assert_eq!(
        (queue.dropped.load(Relaxed), broker.local_dropped.load(Relaxed)),
        (1, 1)
    );
    queue.push(&mut vec![delivery(4, 1000)]);
    assert_eq!(numbers(&queue.recv().await.unwrap()), [4]);
    queue.push(&mut vec![delivery(5, 1000)]);
    queue.close();
    queue.push(&mut vec![delivery(6, 1000)]);
    assert_eq!(
        numbers(&queue.recv().await.unwrap()),
        [5],
        "what came before the end is still handed out"
    );
    assert_eq!(queue.recv().await, None);
}

#[tokio::test]
async fn a_publisher_waits_for_a_full_client_until_it_takes() {
    let queue = Arc::new(LocalQueue::new(ClientId(1), 64 << 20, Arc::default()));
    queue.push(&mut vec![delivery(1, 2 << 20)]);
    let mut waiting = Box::pin(wait_for(vec![Target::Local(Arc::clone(&queue))]));
    assert!(futures::poll!(&mut waiting).is_pending());
    drop(queue.recv().await);
    waiting.await;
    assert_eq!(queue.backlog_bytes(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_publisher_does_not_wait_for_ever() {
    let queue = Arc::new(LocalQueue::new(ClientId(1), 64 << 20, Arc::default()));
    queue.push(&mut vec![delivery(1, 50 << 20)]);
    let before = tokio::time::Instant::now();
    wait_for(vec![Target::Local(queue)]).await;
    assert_eq!(before.elapsed().as_millis(), 250);
}
