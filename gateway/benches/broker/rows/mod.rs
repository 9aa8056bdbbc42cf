//! What is measured.

mod consume;
mod core;
mod publish;
mod scale;

use std::str::FromStr;

use anyhow::bail;

use crate::options::Options;
use crate::report::Table;
use crate::server::{Kind, Server};

/// One or a few measurements that belong together.
#[derive(Clone, Copy)]
pub(crate) struct Row {
    name: &'static str,
    run: fn(&Options) -> anyhow::Result<Vec<Table>>,
}

impl Row {
    pub(crate) const ALL: [Self; 12] = [
        Self::new("publish512", publish::window_512),
        Self::new("single", publish::single),
        Self::new("beside", publish::beside),
        Self::new("memory", publish::memory),
        Self::new("pull", consume::pull),
        Self::new("restart", scale::restart),
        Self::new("rss", scale::resident),
        Self::new("core", core::publish),
        Self::new("pair", core::pair),
        Self::new("fanout4", core::fanout_4),
        Self::new("fanout1000", core::fanout_1000),
        Self::new("idle", scale::idle),
    ];

    const fn new(name: &'static str, run: fn(&Options) -> anyhow::Result<Vec<Table>>) -> Self {
        Self { name, run }
    }

    pub(crate) fn name(&self) -> &'static str {
        self.name
    }

    pub(crate) fn run(&self, options: &Options) -> anyhow::Result<Vec<Table>> {
        (self.run)(options)
    }
}

impl FromStr for Row {
    type Err = anyhow::Error;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        match Self::ALL.into_iter().find(|row| row.name == name) {
            Some(row) => Ok(row),
            None => bail!(
                "no such row: {name} ({})",
                Self::ALL.map(|row| row.name).join(", ")
            ),
        }
    }
}

/// Starts each server once a round, in turn, and lets `measure` work with it.
fn each_round(
    options: &Options,
    kinds: &[Kind],
    mut measure: impl FnMut(Kind, &mut Server) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    for round in 1..=options.rounds {
        for kind in kinds {
            let measured = Server::start(*kind, options).and_then(|mut server| measure(*kind, &mut server));
            measured.map_err(|err| err.context(format!("{} in round {round}", kind.name())))?;
        }
    }
    Ok(())
}
