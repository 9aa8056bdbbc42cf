//! `tarn broker` beside the real nats-server, interleaved on one machine.
//!
//! `cargo bench --bench broker -- --nats-server PATH [--rows ROW,…] [--rounds 5] [--seconds 1] [--tarn PATH]`
//!
//! Each round of a row runs every server once, in turn, each with a fresh store and 128-byte messages. Tarn runs as it
//! is (an acknowledgement means synced); nats-server with its defaults (it acknowledges before the sync) and, where that
//! makes a difference, with `sync_interval: always`. "No server" is a thread of the benchmark that answers at once and
//! keeps nothing: the limit of the generator on this machine. What is printed: medians, spread, ratios of medians.

mod null;
mod options;
mod raw;
mod report;
mod rows;
mod server;

use anyhow::ensure;
use options::Options;
use report::Table;

fn main() -> anyhow::Result<()> {
    let options = Options::parse(std::env::args().skip(1))?;
    let mut tables: Vec<Table> = Vec::new();
    let mut failed = Vec::new();
    for row in &options.rows {
        eprintln!("{}", row.name());
        match row.run(&options) {
            Ok(measured) => tables.extend(measured),
            Err(err) => failed.push(format!("{}: {err:#}", row.name())),
        }
    }
    println!(
        "128-byte messages, {} rounds, interleaved; median (lowest to highest)",
        options.rounds
    );
    for table in &tables {
        println!("\n{table}");
    }
    ensure!(failed.is_empty(), "rows that failed: {}", failed.join("; "));
    Ok(())
}
