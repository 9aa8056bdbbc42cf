//! The whole broker by seed: the real engine, store and release code on a simulated disk and clock, a random workload of
//! everything a client can ask for, faults of the disk and jumps of the clock, and an oracle that knows nothing of the
//! code under test.
//!
//! What the oracle holds the broker to:
//! - what was acknowledged is there after any crash, as it was sent; what was refused never appears;
//! - a position is never given twice, a purged or deleted message never returns, a stream or consumer never vanishes;
//! - every answer is the one that JetStream's rules give;
//! - a consumer delivers what it must, once more only when due, never what was settled for good; it is never ahead of
//!   its stream; its counts are right;
//! - a flipped bit costs at most one record, and never shows a wrong one.
//!
//! The same seed leaves the same bytes on the disk and sends the same bytes to clients.

mod answer;
mod ask;
mod backups;
mod config;
mod consumers;
mod control;
mod damage;
mod deliveries;
mod drain;
pub mod fuzz;
mod judge;
mod life;
mod look;
mod names;
mod several;
mod special;
mod streams;
#[cfg(test)]
mod tests;
mod verdict;
mod world;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use crate::env::Rng;
use crate::env::sim::{SplitMix, Trace};
use backups::Backup;
use special::Specials;
use streams::StreamModel;
use world::World;

/// Checksums of one run: of the disk as it was left, and of everything that clients got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fingerprint {
    /// Names and contents of all files.
    pub disk: u32,
    /// Answers, deliveries and statuses, in order.
    pub outputs: u32,
}

/// Which faults a run may meet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Faults {
    /// Everything but damage: power cuts, kills, failing reads, writes and syncs, full and slow disks, clock jumps.
    Honest,
    /// The same, and bits that flip while the broker is down.
    Flips,
    /// The same, and writes that land elsewhere on the disk.
    Misdirected,
}

impl Faults {
    /// What a seed meets: one in eight runs has damage.
    #[must_use]
    pub fn of(seed: u64) -> Self {
        match seed % 16 {
            7 => Self::Flips,
            15 => Self::Misdirected,
            _ => Self::Honest,
        }
    }
}

/// Runs one seed. Requests, answers, faults and what happens on the disk go to `trace`, if there is one.
///
/// # Panics
/// If the broker did what it must not. The message says what.
#[must_use]
pub fn run(seed: u64, faults: Faults, trace: Option<Trace>) -> Fingerprint {
    let mut run = Run::new(seed, faults);
    run.world.set_trace(trace);
    run.lives();
    let (disk, outputs) = run.world.fingerprint();
    Fingerprint { disk, outputs }
}

/// One run: a broker, and what is known about it.
struct Run {
    rng: SplitMix,
    faults: Faults,
    world: World,
    streams: BTreeMap<&'static str, StreamModel>,
    /// Streams with features of their own.
    specials: Option<Specials>,
    /// Deliveries that may be acknowledged: stream, consumer, position and reply subject.
    held: Vec<(&'static str, &'static str, u64, String)>,
    /// Flow-control requests that may be answered.
    flow: Vec<String>,
    /// Inboxes of pull requests that are over.
    ended: Vec<String>,
    requests: u64,
    has_jumped: bool,
    /// How often the wall clock was set back.
    jumps_back: u64,
    /// Errors of the disk before this round, and whether room is short.
    troubles: u64,
    is_full: bool,
    /// The disk has failed in this life.
    has_failed: bool,
    /// A bit of this file has flipped, and no start has had the chance to repair it since.
    flipped: Option<PathBuf>,
    /// A backup of a stream that a client keeps.
    backup: Option<Backup>,
    /// This life is to end after this round.
    ends_early: bool,
}

impl Run {
    fn new(seed: u64, faults: Faults) -> Self {
        let mut rng = SplitMix::new(seed ^ 0x005e_ed0f_7a12);
        Self {
            world: World::new(rng.next_u64()),
            rng,
            faults,
            streams: BTreeMap::new(),
            specials: Specials::of(seed),
            held: Vec::new(),
            flow: Vec::new(),
            ended: Vec::new(),
            requests: 0,
            has_jumped: false,
            jumps_back: 0,
            troubles: 0,
            is_full: false,
            has_failed: false,
            flipped: None,
            backup: None,
            ends_early: false,
        }
    }

    /// Whether the disk has failed in this life or is full.
    fn is_troubled(&self) -> bool {
        self.has_failed || self.is_full || self.world.fs.troubles() > self.troubles
    }

    /// The same, for one stream: what is in memory has no disk.
    fn is_troubled_for(&self, name: &str) -> bool {
        self.is_troubled()
            && self
                .streams
                .get(name)
                .is_none_or(|stream| !stream.config.in_memory)
    }

    fn look_at_loose(&mut self, delivered: &BTreeSet<(String, u64)>) {
        for stream in self.streams.values_mut().filter(|stream| stream.is_alive) {
            if stream.is_loose() {
                stream.look(&self.world, delivered, self.has_jumped, false);
            }
        }
    }
}
