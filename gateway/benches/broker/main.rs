//! Durable publish of `tarn broker` beside the real nats-server, interleaved on one machine.
//!
//! `cargo bench --bench broker -- --nats-server PATH [--rounds 5] [--seconds 3] [--window 512] [--generator async-nats|raw]`
//!
//! Each round runs every server once, in turn, each with a fresh store and 128-byte messages into one file stream:
//! Tarn as it is (an ack means synced), nats-server with `sync_interval: always`, and nats-server with its defaults
//! (which acknowledge before the sync). What is printed: the rates of each round, medians, spread, ratios of medians.

mod generator;
mod server;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, bail};

use generator::Generator;
use server::{Kind, Server};

struct Options {
    nats_server: PathBuf,
    rounds: usize,
    seconds: f64,
    window: usize,
    generator: Generator,
}

fn main() -> anyhow::Result<()> {
    let options = options(std::env::args().skip(1))?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let kinds = [Kind::Tarn, Kind::NatsAlways, Kind::NatsDefault];
    let mut rates: Vec<Vec<f64>> = vec![Vec::new(); kinds.len()];
    for round in 1..=options.rounds {
        for (kind, rates) in kinds.iter().zip(&mut rates) {
            let server = Server::start(*kind, &options.nats_server)?;
            let run = options.generator.run(
                &runtime,
                server.port(),
                options.window,
                Duration::from_secs_f64(options.seconds),
            );
            let rate = run.with_context(|| format!("{} in round {round}", kind.name()))?;
            println!("round {round}  {:<28} {:>12.0} acknowledged/s", kind.name(), rate);
            rates.push(rate);
        }
    }
    println!(
        "\n128-byte messages, window {}, generator {}",
        options.window,
        options.generator.name()
    );
    let medians: Vec<f64> = rates.iter().map(|rates| median(rates)).collect();
    for ((kind, rates), median) in kinds.iter().zip(&rates).zip(&medians) {
        let low = rates.iter().copied().fold(f64::INFINITY, f64::min);
        let high = rates.iter().copied().fold(0.0, f64::max);
        let ratio = medians[0] / median;
        println!(
            "{:<28} median {median:>10.0}/s  ({low:.0} to {high:.0})  Tarn ÷ it: {ratio:.2}",
            kind.name()
        );
    }
    Ok(())
}

fn median(rates: &[f64]) -> f64 {
    let mut sorted = rates.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}

fn options(mut arguments: impl Iterator<Item = String>) -> anyhow::Result<Options> {
    let mut options = Options {
        nats_server: PathBuf::from("nats-server"),
        rounds: 5,
        seconds: 3.0,
        window: 512,
        generator: Generator::AsyncNats,
    };
    while let Some(argument) = arguments.next() {
        if argument == "--bench" {
            continue;
        }
        let value = arguments
            .next()
            .with_context(|| format!("{argument} needs a value"))?;
        match argument.as_str() {
            "--nats-server" => options.nats_server = value.into(),
            "--rounds" => options.rounds = value.parse()?,
            "--seconds" => options.seconds = value.parse()?,
            "--window" => options.window = value.parse()?,
            "--generator" => options.generator = value.parse()?,
            _ => bail!("no such option: {argument}"),
        }
    }
    Ok(options)
}
