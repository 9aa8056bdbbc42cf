//! A broker in memory whose disk can be held back or refuse.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use tarn::ingest::{
    Completion, Delivery, Ingest, IngestClient, IngestError, Message, SubscribeError, SubscriptionId,
};
use tarn::mqtt::packet::QoS;
use tokio::sync::{mpsc, watch};

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Disk {
    #[default]
    Works,
    Holds,
    Refuses(IngestError),
}

/// Cheap to clone: one broker.
#[derive(Clone, Default)]
pub(crate) struct FakeBroker(Arc<State>);

struct State {
    disk: watch::Sender<Disk>,
    handed_over: Mutex<Vec<Message>>,
    subscriptions: Mutex<Vec<Subscription>>,
    next: AtomicU64,
}

struct Subscription {
    id: SubscriptionId,
    client: u64,
    pattern: String,
    queue: mpsc::Sender<Delivery>,
}

impl Default for State {
    fn default() -> Self {
        Self {
            disk: watch::Sender::new(Disk::Works),
            handed_over: Mutex::default(),
            subscriptions: Mutex::default(),
            next: AtomicU64::new(1),
        }
    }
}

impl FakeBroker {
    pub(crate) fn set_disk(&self, disk: Disk) {
        self.0.disk.send_replace(disk);
    }

    /// All publishes handed over, stored or not.
    pub(crate) fn handed_over(&self) -> Vec<Message> {
        self.0.handed_over.lock().unwrap().clone()
    }

    pub(crate) fn subscription_count(&self) -> usize {
        self.0.subscriptions.lock().unwrap().len()
    }

    /// As a NATS client would publish.
    pub(crate) fn publish_from_nats(&self, subject: &str, payload: &str) {
        self.route(subject, payload.as_bytes(), None);
    }

    fn take(&self, messages: Vec<Message>) {
        for message in messages {
            self.route(&message.subject, &message.payload, Some(message.qos));
            self.0.handed_over.lock().unwrap().push(message);
        }
    }

    fn route(&self, subject: &str, payload: &[u8], published_qos: Option<QoS>) {
        let (subject, payload) = (
            Bytes::copy_from_slice(subject.as_bytes()),
            Bytes::copy_from_slice(payload),
        );
        for subscription in self.0.subscriptions.lock().unwrap().iter() {
            if matches(&subscription.pattern, std::str::from_utf8(&subject).unwrap()) {
                let delivery = Delivery {
                    subscription: subscription.id,
                    subject: subject.clone(),
                    published_qos,
                    payload: payload.clone(),
                };
                subscription.queue.try_send(delivery).expect("room in a test");
            }
        }
    }
}

fn matches(pattern: &str, subject: &str) -> bool {
    let mut tokens = subject.split('.');
    for part in pattern.split('.') {
        match (part, tokens.next()) {
            (">", Some(_)) => return true,
            ("*", Some(_)) => {}
            (part, Some(token)) if part == token => {}
            _ => return false,
        }
    }
    tokens.next().is_none()
}

/// Waits until the disk does something.
async fn outcome(mut disk: watch::Receiver<Disk>) -> Result<(), IngestError> {
    let state = disk
        .wait_for(|disk| *disk != Disk::Holds)
        .await
        .map_err(|_| IngestError::Closed)?;
    match &*state {
        Disk::Refuses(error) => Err(error.clone()),
        _ => Ok(()),
    }
}

impl Ingest for FakeBroker {
    fn open(&self, _name: &str) -> Box<dyn IngestClient> {
        let (queue, deliveries) = mpsc::channel(100_000);
        let id = self.0.next.fetch_add(1, Ordering::Relaxed);
        Box::new(Client {
            broker: self.clone(),
            id,
            queue,
            deliveries: tokio::sync::Mutex::new(deliveries),
        })
    }
}

struct Client {
    broker: FakeBroker,
    id: u64,
    queue: mpsc::Sender<Delivery>,
    deliveries: tokio::sync::Mutex<mpsc::Receiver<Delivery>>,
}

impl IngestClient for Client {
    fn publish(&self, messages: Vec<Message>) -> BoxFuture<'_, ()> {
        self.broker.take(messages);
        futures::future::ready(()).boxed()
    }

    fn publish_durable(&self, messages: Vec<Message>) -> BoxFuture<'_, Completion> {
        let count = messages.len();
        self.broker.take(messages);
        let disk = self.broker.0.disk.subscribe();
        let completion: Completion = async move { vec![outcome(disk).await; count] }.boxed();
        futures::future::ready(completion).boxed()
    }

    fn subscribe(&self, subject: &str) -> Result<SubscriptionId, SubscribeError> {
        let id = SubscriptionId(self.broker.0.next.fetch_add(1, Ordering::Relaxed));
        let (client, pattern, queue) = (self.id, subject.to_owned(), self.queue.clone());
        self.broker.0.subscriptions.lock().unwrap().push(Subscription {
            id,
            client,
            pattern,
            queue,
        });
        Ok(id)
    }

    fn unsubscribe(&self, subscription: SubscriptionId) {
        self.broker
            .0
            .subscriptions
            .lock()
            .unwrap()
            .retain(|held| held.id != subscription);
    }

    fn deliveries(&self) -> BoxFuture<'_, Option<Vec<Delivery>>> {
        async {
            let mut batch = Vec::new();
            self.deliveries.lock().await.recv_many(&mut batch, 1_000).await;
            Some(batch)
        }
        .boxed()
    }

    fn dropped(&self) -> u64 {
        0
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.broker
            .0
            .subscriptions
            .lock()
            .unwrap()
            .retain(|held| held.client != self.id);
    }
}
