//! What a full store costs: memory, and time to start. And what an empty server takes.

use std::time::Duration;

use anyhow::ensure;
use rustix::process::Signal;

use super::each_round;
use crate::options::Options;
use crate::raw::{Raw, create_stream, fill, number_after};
use crate::report::{Goal, Table, Unit};
use crate::server::{Kind, Server, now};

const KINDS: [Kind; 2] = [Kind::Tarn, Kind::NatsDefault];
/// How long a server may rest before its memory is looked at.
const REST: Duration = Duration::from_secs(2);
const PATIENCE: Duration = Duration::from_secs(60);

pub(super) fn restart(options: &Options) -> anyhow::Result<Vec<Table>> {
    let messages = options.messages;
    let table = |how: &str| {
        let title = format!("start with {messages} messages after {how}, until STREAM.INFO tells");
        Table::new(title, Unit::Millis)
    };
    let (mut stopped, mut killed) = (table("a stop"), table("kill -9"));
    each_round(options, &KINDS, |kind, server| {
        let goal = (kind == Kind::NatsDefault).then_some(Goal::AtMost(1.0));
        create_stream(server.port(), "file")?;
        fill(server.port(), messages)?;
        let after_stop = until_it_tells(server, Signal::TERM, options)?;
        stopped.add(kind.name(), goal, after_stop);
        let after_kill = until_it_tells(server, Signal::KILL, options)?;
        killed.add(kind.name(), goal, after_kill);
        Ok(())
    })?;
    Ok(vec![stopped, killed])
}

/// Milliseconds from the start of the process until it says that the stream has all its messages.
fn until_it_tells(server: &mut Server, signal: Signal, options: &Options) -> anyhow::Result<f64> {
    let began = server.restart(signal, options)?;
    server.wait_until_it_listens()?;
    let mut raw = Raw::connect(server.port())?;
    raw.subscribe("_INBOX.r.*", 1)?;
    loop {
        let info = raw.request("$JS.API.STREAM.INFO.BENCH", "")?;
        if number_after(info.as_bytes(), b"\"messages\":") == Some(options.messages) {
            return Ok((now() - began).as_secs_f64() * 1e3);
        }
        ensure!(now() - began < PATIENCE, "the stream is not whole: {info}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

pub(super) fn resident(options: &Options) -> anyhow::Result<Vec<Table>> {
    let title = format!("resident memory after {} messages", options.messages);
    let mut filled = Table::new(title, Unit::Mebibytes);
    let mut restarted = Table::new("resident memory after a restart with them", Unit::Mebibytes);
    each_round(options, &KINDS, |kind, server| {
        let goal = (kind == Kind::NatsDefault).then_some(Goal::AtMost(0.5));
        create_stream(server.port(), "file")?;
        fill(server.port(), options.messages)?;
        std::thread::sleep(REST);
        filled.add(kind.name(), goal, server.resident_mib()?);
        until_it_tells(server, Signal::TERM, options)?;
        std::thread::sleep(REST);
        restarted.add(kind.name(), goal, server.resident_mib()?);
        Ok(())
    })?;
    Ok(vec![filled, restarted])
}

pub(super) fn idle(options: &Options) -> anyhow::Result<Vec<Table>> {
    let mut table = Table::new("resident memory, idle, empty store", Unit::Mebibytes);
    each_round(options, &KINDS, |kind, server| {
        let goal = (kind == Kind::NatsDefault).then_some(Goal::AtMost(1.0));
        std::thread::sleep(REST);
        table.add(kind.name(), goal, server.resident_mib()?);
        Ok(())
    })?;
    Ok(vec![table])
}
