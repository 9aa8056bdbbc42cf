//! Lives of the broker on one disk, each ended by a power cut, a kill or an orderly stop.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::config::SECOND;
use super::streams::StreamModel;
use super::world::op;
use super::{Faults, Run};
use crate::env::Rng;
use crate::shard::inbox::JsKind;

pub(super) const DAY: i64 = 86_400 * SECOND;
const MS: u64 = 1_000_000;
/// Rounds in which timers fire during one pause.
const ROUNDS_A_PAUSE: usize = 200;
/// A write that lands elsewhere may take any number of records with it.
pub(super) const DAMAGE_OF_MISDIRECTED: u64 = 1000;

impl Run {
    /// Some lives with faults, and a last one without, in which everything must come out right.
    pub(super) fn lives(&mut self) {
        let lives = 1 + self.rng.below(4);
        for _ in 0..lives {
            self.set_fault();
            if self.start(false) {
                self.live();
            }
            self.end();
        }
        self.world.fs.set_capacity(None);
        self.is_full = false;
        assert!(self.start(true), "without faults the broker starts");
        self.drain();
        self.drain_special();
        assert!(self.world.close(), "without faults the broker stops in order");
    }

    fn set_fault(&mut self) {
        let fs = &self.world.fs;
        let span = if self.rng.chance(30) { 400 } else { 60 };
        let nth = 1 + self.rng.below(span);
        let fault = self.rng.below(12);
        self.world
            .tell(format_args!("fault {fault} of this life comes after {nth}"));
        match fault {
            0..4 => fs.cut_power_after(nth),
            4 => fs.fail_nth_write(nth),
            5 => fs.fail_nth_sync(nth),
            6 => fs.fail_nth_read(nth),
            7 => fs.fill_at_nth_write(nth),
            8 if self.faults == Faults::Misdirected => fs.misdirect_nth_write(nth),
            _ => {}
        }
        if self.faults == Faults::Misdirected {
            self.streams
                .values_mut()
                .for_each(|stream| stream.damage = DAMAGE_OF_MISDIRECTED);
        }
    }

    /// Starts the broker and looks at what it has recovered. Returns whether it runs.
    fn start(&mut self, must: bool) -> bool {
        self.troubles = self.world.fs.troubles();
        (self.has_failed, self.ends_early) = (false, false);
        let opened = self.world.open();
        self.world.tell(format_args!("start: {opened:?}"));
        self.world.tell_streams();
        if let Err(err) = opened {
            if let Some(dir) = self.dir_of_lost_copies(&err) {
                self.move_away(&dir);
                return self.start(must);
            }
            let is_known = self.world.fs.troubles() > self.troubles || self.is_full;
            let is_damaged = self.faults == Faults::Misdirected;
            assert!(is_known || is_damaged, "the broker does not start: {err}");
            assert!(!must || is_damaged, "the broker does not start: {err}");
            self.world.drop_node();
            return false;
        }
        self.has_failed = self.world.fs.troubles() > self.troubles;
        if !self.has_failed {
            self.flipped = None;
        }
        self.check_recovered();
        true
    }

    fn check_recovered(&mut self) {
        let found = self.world.stream_names();
        let is_special = |name: &str| {
            self.specials
                .as_ref()
                .is_some_and(|specials| specials.knows(name))
        };
        for name in &found {
            assert!(
                self.streams.contains_key(name.as_str()) || is_special(name),
                "stream {name} came from nowhere"
            );
        }
        self.look_special(false);
        let known: Vec<&'static str> = self.streams.keys().copied().collect();
        for name in known {
            let is_there = found.iter().any(|found| found == name);
            let stream = &self.streams[name];
            if !is_there {
                let is_excused = stream.config.in_memory || stream.is_in_doubt || stream.damage > 0;
                assert!(is_excused, "stream {name} has vanished");
                self.streams.remove(name);
                self.held.retain(|held| held.0 != name);
                continue;
            }
            self.adopt_stream(name);
        }
        self.adopt_consumers();
    }

    fn adopt_stream(&mut self, name: &'static str) {
        let mark = self.world.config(name)["description"]
            .as_str()
            .unwrap_or_default()
            .to_owned();
        let has_jumped = self.has_jumped;
        let world = &self.world;
        let stream = self.streams.get_mut(name).expect("a known stream");
        let was_refused = !stream.is_alive;
        (stream.is_alive, stream.is_in_doubt) = (true, false);
        let doubts = std::mem::take(&mut stream.configs_in_doubt);
        if mark != stream.config.mark {
            let found = doubts.into_iter().find(|config| config.mark == mark);
            let config = found.unwrap_or_else(|| panic!("{name} has a configuration it never had"));
            if stream.config.in_memory || was_refused {
                // That one is gone, or never was; this is what was on disk behind it.
                let damage = stream.damage;
                *stream = StreamModel::new(config);
                stream.damage = damage;
            } else {
                stream.updated(config, world.now, has_jumped);
            }
        }
        let is_clean = stream.was_closed;
        for consumer in stream.consumers.values_mut() {
            consumer.reopened(is_clean, world.now);
        }
        stream.was_closed = false;
        stream.look(world, &BTreeSet::new(), has_jumped, true);
        stream.reopened(world, has_jumped);
        stream.is_sick = self.has_failed;
        let (count, bytes) = world.size(name);
        let config = &stream.config;
        let is_over =
            config.max_msgs.is_some_and(|max| count > max) || config.max_bytes.is_some_and(|max| bytes > max);
        assert!(
            !is_over || self.has_failed,
            "{name} is beyond its limits after a restart"
        );
    }

    /// Asks for the consumers of all streams in one round, so that all are known before the first delivers.
    fn adopt_consumers(&mut self) {
        let mut ops = Vec::new();
        let mut inboxes = BTreeMap::new();
        for name in self.streams.keys().copied().collect::<Vec<_>>() {
            let inbox = self.inbox();
            let subject = format!("$JS.API.CONSUMER.LIST.{name}");
            ops.push(op(JsKind::Api, &subject, &inbox, b"", b""));
            inboxes.insert(inbox, name);
        }
        self.expire();
        let mut rest = Vec::new();
        for got in self.world.round(ops) {
            match inboxes.remove(&got.to) {
                Some(name) => {
                    let list = serde_json::from_slice(&got.payload).expect("answers are JSON");
                    self.adopt_listed(name, &list);
                }
                None => rest.push(got),
            }
        }
        assert!(
            inboxes.is_empty() || self.is_troubled(),
            "nobody lists the consumers of {inboxes:?}"
        );
        self.judge(Vec::new(), rest);
    }

    fn adopt_listed(&mut self, name: &'static str, list: &Value) {
        let infos = list["consumers"].as_array().cloned().unwrap_or_default();
        let (at, (last, _)) = (self.world.now, self.world.last_seq(name));
        let now = at.mono.0;
        let there = self.world.positions(name);
        let stream = self.streams.get_mut(name).expect("a known stream");
        let mut known = std::mem::take(&mut stream.consumers);
        let doubts = std::mem::take(&mut stream.consumers_in_doubt);
        for info in &infos {
            let (consumer, mark) = (&info["name"], &info["config"]["description"]);
            let consumer = consumer.as_str().unwrap_or_default();
            let mark = mark.as_str().unwrap_or_default();
            let doubts = doubts.iter().filter(|model| model.config.name == consumer);
            let mut own = known.remove(consumer);
            if let Some(model) = &mut own {
                let doubts = std::mem::take(&mut model.configs_in_doubt);
                if let Some(config) = doubts.into_iter().find(|config| config.mark == mark) {
                    model.updated(config, last, at);
                }
            }
            let mut found = own.into_iter().chain(doubts.cloned());
            let mut model = found
                .find(|model| model.config.mark == mark)
                .unwrap_or_else(|| panic!("consumer {consumer} of {name} came from nowhere, or changed"));
            model.is_in_doubt = false;
            model.check_info(stream, info, &there, true);
            stream.consumers.insert(model.config.name, model);
        }
        for (consumer, model) in known {
            let is_excused =
                model.is_in_doubt || model.config.in_memory || model.was_abandoned(now) || stream.damage > 0;
            assert!(is_excused, "consumer {consumer} of {name} has vanished");
            self.held.retain(|held| held.0 != name || held.1 != consumer);
        }
    }

    pub(super) fn expire(&mut self) {
        let now = self.world.now.mono.0;
        for stream in self.streams.values_mut() {
            stream.expire(now);
        }
    }

    fn live(&mut self) {
        let span = if self.rng.chance(20) { 120 } else { 40 };
        let rounds = 5 + self.rng.below(span);
        for _ in 0..rounds {
            self.turn();
            if self.rng.chance(4) && !self.world.fs.is_dark() {
                self.back_up_or_restore();
            }
            if self.ends_early || self.world.fs.is_dark() || (self.has_failed && self.rng.chance(20)) {
                return;
            }
        }
    }

    /// Something happens around the broker, then one round of requests.
    fn turn(&mut self) {
        match self.rng.below(100) {
            0..10 => self.pause(10 * SECOND as u64),
            10..50 => self.pause(300 * MS),
            50 => self.jump(),
            51..53 => {
                let room = self.rng.below(40_000);
                self.is_full = true;
                self.world
                    .fs
                    .set_capacity(Some(self.world.fs.used_bytes() + room));
            }
            53..60 => {
                self.is_full = false;
                self.world.fs.set_capacity(None);
            }
            60 => self.world.set_busy(true),
            61..70 => self.world.set_busy(false),
            _ => {}
        }
        let mut requests = Vec::new();
        if self.rng.chance(12) || self.streams.values().all(|stream| !stream.is_alive) {
            requests.extend(self.structure());
        } else {
            for _ in 0..=self.rng.below(5) {
                requests.extend(self.traffic());
            }
        }
        let (mut ops, asks): (Vec<_>, Vec<_>) = requests.into_iter().unzip();
        for answer in std::mem::take(&mut self.flow) {
            if self.rng.chance(90) {
                ops.push(op(JsKind::Ack, &answer, "", b"", b""));
            }
        }
        ops.extend(self.special_ops());
        self.round(ops, asks);
    }

    pub(super) fn round(&mut self, ops: Vec<crate::shard::inbox::JsOp>, asks: Vec<super::ask::Ask>) {
        self.expire();
        let got = self.world.round(ops);
        let got = self.judge_special(got);
        self.judge(asks, got);
        self.has_failed |= self.world.fs.troubles() > self.troubles;
    }

    fn jump(&mut self) {
        let nanos = if self.rng.chance(50) { DAY } else { -DAY };
        self.has_jumped = true;
        self.jumps_back += u64::from(nanos < 0);
        self.world.jump(nanos);
    }

    /// Time passes; the broker wakes up whenever one of its timers is due.
    pub(super) fn pause(&mut self, nanos_max: u64) {
        let end = self.world.now.mono.0 + self.rng.below(nanos_max);
        for _ in 0..ROUNDS_A_PAUSE {
            let now = self.world.now.mono.0;
            let due = if self.world.is_busy() {
                Some(now)
            } else {
                self.world.next_deadline()
            };
            let Some(due) = due.filter(|due| *due <= end) else {
                break;
            };
            // A commit takes time; a slow one a lot.
            let took = if self.rng.chance(3) { 200 * MS } else { MS / 5 };
            self.world.advance_to(due.max(now) + took);
            self.round(Vec::new(), Vec::new());
        }
        self.world.advance_to(end);
    }

    /// Ends a life: in order, by a kill, or by a power cut.
    fn end(&mut self) {
        let is_clean =
            self.rng.chance(15) && !self.is_troubled() && !self.ends_early && self.world.is_running() && {
                let is_clean = self.world.close();
                assert!(
                    is_clean || self.is_troubled(),
                    "the broker does not stop in order"
                );
                is_clean
            };
        for stream in self.streams.values_mut() {
            stream.was_closed = is_clean;
            stream.died(self.world.now.mono.0);
        }
        self.world
            .tell(format_args!("the life ends, in order: {is_clean}"));
        self.world.tell_streams();
        self.world.drop_node();
        self.flow.clear();
        let seed = self.rng.next_u64();
        if is_clean || self.rng.chance(15) {
            self.world.fs.kill();
        } else {
            self.world.fs.crash(seed);
        }
        if self.faults == Faults::Flips && self.rng.chance(50) {
            self.flip();
        }
        let pause = self.rng.below(3 * SECOND as u64);
        self.world.advance_to(self.world.now.mono.0 + pause);
        if self.rng.chance(5) {
            self.jump();
        }
    }
}
