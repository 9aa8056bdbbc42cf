//! What the command line asks for.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, bail};

use crate::rows::Row;

pub(crate) struct Options {
    pub(crate) tarn: PathBuf,
    pub(crate) nats_server: PathBuf,
    pub(crate) rows: Vec<Row>,
    pub(crate) rounds: usize,
    /// How long a measurement of a rate takes.
    pub(crate) duration: Duration,
    /// Messages in the store for the rows `restart` and `rss`.
    pub(crate) messages: u64,
    /// Messages that the row `pull` consumes.
    pub(crate) pull_messages: u64,
}

impl Options {
    pub(crate) fn parse(mut arguments: impl Iterator<Item = String>) -> anyhow::Result<Self> {
        let mut options = Self {
            tarn: PathBuf::from(env!("CARGO_BIN_EXE_tarn")),
            nats_server: PathBuf::from("nats-server"),
            rows: Row::ALL.to_vec(),
            rounds: 5,
            duration: Duration::from_secs(1),
            messages: 1_000_000,
            pull_messages: 200_000,
        };
        while let Some(argument) = arguments.next() {
            if argument == "--bench" {
                continue;
            }
            let value = arguments
                .next()
                .with_context(|| format!("{argument} needs a value"))?;
            match argument.as_str() {
                "--tarn" => options.tarn = value.into(),
                "--nats-server" => options.nats_server = value.into(),
                "--rows" => options.rows = value.split(',').map(str::parse).collect::<Result<_, _>>()?,
                "--rounds" => options.rounds = value.parse()?,
                "--seconds" => options.duration = Duration::try_from_secs_f64(value.parse()?)?,
                "--messages" => options.messages = value.parse()?,
                "--pull-messages" => options.pull_messages = value.parse()?,
                _ => bail!("no such option: {argument}"),
            }
        }
        if options.rounds == 0 {
            bail!("--rounds must be at least 1");
        }
        Ok(options)
    }
}
