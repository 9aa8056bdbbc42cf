//! Runs a fleet: paces its messages, spreads them over connections, keeps the ledger.

mod config;
mod link;

use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until, timeout_at};
use tokio_util::sync::CancellationToken;

pub use crate::mqtt::MqttUrlError;
pub use config::{FleetConfig, FleetError, Protocol};
pub(crate) use link::{Backoff, Link, Records};

use crate::ledger::{self, Header, LedgerError, LedgerWriter};
use crate::message::{Message, Wire};
use crate::mqtt::{MqttLink, MqttTarget};
use crate::nats::NatsLink;
use crate::stats::Progress;
use crate::traffic::Traffic;
use crate::{clock, world::World};

/// Messages are sent in batches, this often.
const TICK: Duration = Duration::from_millis(5);
/// The most messages of one batch: what a fleet that fell behind has in memory at once, beyond its connections' queues.
const BATCH_MAX: usize = 1_024;
/// Batches that wait for one connection.
const QUEUE_BATCHES: usize = 4;
const PROGRESS_INTERVAL: Duration = Duration::from_millis(200);

/// What a fleet did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FleetReport {
    /// The last counts.
    pub progress: Progress,
    /// Messages that were sent and, after [`FleetConfig::drain`], still not acknowledged.
    pub unacked: u64,
    /// The tag that starts every device's name.
    pub fleet: String,
    /// From the first message to the last acknowledgement.
    pub elapsed: Duration,
}

/// Runs the fleet until all messages are sent and acknowledged, `config.stop` is cancelled, or nothing helps.
///
/// Connections that break or can't be made are tried again for as long as it runs: that is no error, and shows in
/// [`Progress::last_error`]. Errors with a configuration that can't work, or a ledger that can't be written.
pub async fn run(
    config: FleetConfig,
    mut on_progress: impl FnMut(&Progress),
) -> Result<FleetReport, FleetError> {
    let mut traffic = Traffic::new(&config.traffic(clock::now())?);
    let records = Records::new(create_ledger(&config, traffic.world())?);
    let give_up = CancellationToken::new();
    let mut links = Links::start(&config, traffic.world(), &records, &give_up)?;
    let (started, total) = (Instant::now(), traffic.total());
    let mut deadline = started + config.duration.saturating_add(config.drain);
    let mut ticker = interval(PROGRESS_INTERVAL);
    ticker.set_missed_tick_behavior(MissedTickBehavior::Delay);

    let result = {
        let produce = produce(&mut traffic, &links, &records, &config.stop, deadline);
        tokio::pin!(produce);
        loop {
            tokio::select! {
                result = &mut produce => break result,
                _ = ticker.tick() => on_progress(&records.stats.progress(started.elapsed(), total)),
            }
        }
    };
    if result.is_err() {
        give_up.cancel();
    }
    if config.stop.is_cancelled() {
        deadline = deadline.min(Instant::now() + config.drain);
    }
    let drained = {
        let drain = links.drain(deadline, &give_up);
        tokio::pin!(drain);
        loop {
            tokio::select! {
                result = &mut drain => break result,
                _ = ticker.tick() => on_progress(&records.stats.progress(started.elapsed(), total)),
            }
        }
    };
    result?;
    drained?;
    records.flush()?;
    let progress = records.stats.progress(started.elapsed(), total);
    on_progress(&progress);
    Ok(FleetReport {
        unacked: progress.sent.saturating_sub(progress.acked),
        elapsed: progress.elapsed,
        progress,
        fleet: traffic.world().tag().to_owned(),
    })
}

fn create_ledger(config: &FleetConfig, world: &World) -> Result<Option<LedgerWriter>, LedgerError> {
    let header = Header {
        tarn_ledger: ledger::VERSION,
        profile: config.profile.as_str().to_owned(),
        devices: config.devices,
        rate: config.rate,
        seed: config.seed,
        start: world.start(),
        fleet: world.tag().to_owned(),
    };
    config
        .ledger
        .as_deref()
        .map(|path| LedgerWriter::create(path, &header))
        .transpose()
}

/// Hands out the messages when they are due. A fleet that fell behind, because the server was away or is slow, catches
/// up as fast as the server takes them, until the deadline.
async fn produce(
    traffic: &mut Traffic,
    links: &Links,
    records: &Records,
    stop: &CancellationToken,
    deadline: Instant,
) -> Result<(), LedgerError> {
    let started = Instant::now();
    let mut ticker = interval(TICK);
    ticker.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while traffic.given_out() < traffic.total() {
        let due = traffic.due(started.elapsed());
        let count = usize::try_from(due - traffic.given_out())
            .unwrap_or(BATCH_MAX)
            .min(BATCH_MAX);
        if count > 0 {
            let batch: Vec<Message> = traffic.by_ref().take(count).collect();
            records.sent(&batch)?;
            tokio::select! {
                () = links.dispatch(batch) => {}
                () = stop.cancelled() => return Ok(()),
                () = sleep_until(deadline) => return Ok(()),
            }
        }
        if count < BATCH_MAX {
            tokio::select! {
                _ = ticker.tick() => {}
                () = stop.cancelled() => return Ok(()),
            }
        }
    }
    Ok(())
}

/// The connections of a fleet, each a task of its own.
struct Links {
    tasks: JoinSet<Result<(), LedgerError>>,
    mqtt: Vec<mpsc::Sender<Vec<Message>>>,
    nats: Vec<mpsc::Sender<Vec<Message>>>,
}

impl Links {
    fn start(
        config: &FleetConfig,
        world: &World,
        records: &Records,
        give_up: &CancellationToken,
    ) -> Result<Self, FleetError> {
        let mut links = Self {
            tasks: JoinSet::new(),
            mqtt: Vec::new(),
            nats: Vec::new(),
        };
        let wires = config.protocol.wires();
        let devices_of_each = config
            .devices
            .div_ceil(u32::try_from(wires.len()).unwrap_or(u32::MAX));
        let link = |index: u32| {
            let (sender, batches) = mpsc::channel(QUEUE_BATCHES);
            let name = format!("tarn-sim-{}-{index}", world.tag());
            let (records, give_up) = (records.clone(), give_up.clone());
            (
                sender,
                Link {
                    name,
                    batches,
                    records,
                    give_up,
                    window: config.window,
                },
            )
        };
        if wires.contains(&Wire::Mqtt) {
            let target = MqttTarget::parse(&config.mqtt_url, config.protocol.mqtt_version())?;
            for index in 0..devices_of_each.min(config.mqtt_connections_max) {
                let (sender, link) = link(index);
                links.mqtt.push(sender);
                links.tasks.spawn(MqttLink::new(target.clone(), link).run());
            }
        }
        if wires.contains(&Wire::Nats) {
            for index in 0..devices_of_each.min(config.nats_connections_max) {
                let (sender, link) = link(index);
                links.nats.push(sender);
                links
                    .tasks
                    .spawn(NatsLink::new(config.nats_url.clone(), link).run());
            }
        }
        Ok(links)
    }

    /// Hands each message to its device's connection; waits for room. A connection that is gone gets none: its messages
    /// stay unacknowledged, and its error comes out of [`Links::drain`].
    async fn dispatch(&self, batch: Vec<Message>) {
        let mut shares: Vec<Vec<Message>> = vec![Vec::new(); self.mqtt.len() + self.nats.len()];
        let wires_count = usize::from(!self.mqtt.is_empty()) + usize::from(!self.nats.is_empty());
        for message in batch {
            // Devices take the wires in turn, so on one wire their indices go up in steps of the number of wires.
            let device = message.device as usize / wires_count.max(1);
            let index = match message.wire {
                Wire::Mqtt => device % self.mqtt.len().max(1),
                Wire::Nats => self.mqtt.len() + device % self.nats.len().max(1),
            };
            if let Some(share) = shares.get_mut(index) {
                share.push(message);
            }
        }
        for (sender, share) in self.mqtt.iter().chain(&self.nats).zip(shares) {
            if !share.is_empty() && sender.send(share).await.is_err() {
                tracing::debug!("a connection of the fleet is gone");
            }
        }
    }

    /// Waits until all is acknowledged, but no longer than the deadline, and ends the connections.
    async fn drain(&mut self, deadline: Instant, give_up: &CancellationToken) -> Result<(), FleetError> {
        self.mqtt.clear();
        self.nats.clear();
        match timeout_at(deadline, self.join_all()).await {
            Ok(result) => result,
            Err(_) => {
                give_up.cancel();
                self.join_all().await
            }
        }
    }

    async fn join_all(&mut self) -> Result<(), FleetError> {
        while let Some(task) = self.tasks.join_next().await {
            task.map_err(FleetError::Task)??;
        }
        Ok(())
    }
}
