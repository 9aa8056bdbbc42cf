//! The messages of a fleet in the order in which they are sent: no IO, no clock.

use std::time::Duration;

use tarn_schemas::UnixMicros;

use crate::device::Device;
use crate::faults::Faults;
use crate::message::{Message, Wire};
use crate::profiles::Profile;
use crate::world::World;

/// What the messages of a fleet depend on.
#[derive(Clone, Debug)]
pub struct TrafficConfig {
    /// The kind of fleet.
    pub profile: Profile,
    /// At least 1.
    pub devices: u32,
    /// Messages a second over all devices, more than 0.
    pub rate: f64,
    /// How many messages.
    pub count: u64,
    /// The seed.
    pub seed: u64,
    /// The time of the first reading that isn't late.
    pub start: UnixMicros,
    /// What goes wrong.
    pub faults: Faults,
    /// The wires in turn: device `i` is on the one at `i` modulo their number. Never empty.
    pub wires: Vec<Wire>,
}

/// Iterates over the messages. Devices take turns; message `k` is due `k / rate` seconds after the start, and its
/// timestamps say so, however late it is really sent.
#[derive(Debug)]
pub struct Traffic {
    world: World,
    devices: Vec<Device>,
    faults: Faults,
    rate: f64,
    count: u64,
    next: u64,
}

impl Traffic {
    /// The whole fleet, ready to send.
    pub fn new(config: &TrafficConfig) -> Self {
        let world = World::new(config.seed, config.start);
        let interval_micros = (f64::from(config.devices) / config.rate * 1e6) as i64;
        let wires = config.wires.iter().copied().cycle();
        let devices = (0..config.devices)
            .zip(wires)
            .map(|(index, wire)| Device::new(&world, config.profile, index, wire, interval_micros))
            .collect();
        Self {
            world,
            devices,
            faults: config.faults,
            rate: config.rate,
            count: config.count,
            next: 0,
        }
    }

    /// The world that the fleet measures.
    pub fn world(&self) -> &World {
        &self.world
    }

    /// How many messages are due by the time that `elapsed` has passed since the start.
    pub fn due(&self, elapsed: Duration) -> u64 {
        ((elapsed.as_secs_f64() * self.rate) as u64)
            .saturating_add(1)
            .min(self.count)
    }

    /// How many were given out.
    pub fn given_out(&self) -> u64 {
        self.next
    }

    /// How many there are.
    pub fn total(&self) -> u64 {
        self.count
    }
}

impl Iterator for Traffic {
    type Item = Message;

    fn next(&mut self) -> Option<Message> {
        if self.next == self.count {
            return None;
        }
        let number = self.next;
        self.next += 1;
        let at = UnixMicros(self.world.start().0 + (number as f64 / self.rate * 1e6) as i64);
        let index = usize::try_from(number % self.devices.len() as u64).ok()?;
        let device = self.devices.get_mut(index)?;
        Some(Message {
            number,
            ..device.next(&self.world, &self.faults, at)
        })
    }
}

#[cfg(test)]
mod tests;
