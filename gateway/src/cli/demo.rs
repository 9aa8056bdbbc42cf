//! `tarn demo`

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::serve::Stop;
use super::{Failure, on_runtime};
use crate::config::Log;
use crate::demo::{Demo, DemoError, DemoOptions};
use crate::logging;
use crate::present::say;

/// Flags of `tarn demo`.
#[derive(Args, Debug)]
pub(super) struct DemoArgs {
    /// How many devices publish
    #[arg(long, env = "TARN_DEMO__DEVICES", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    devices: u32,
    /// For how long they publish, in seconds
    #[arg(long, env = "TARN_DEMO__SECONDS", default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..=3600))]
    seconds: u64,
    /// Messages a second over all devices [default: 20 for each]
    #[arg(long, env = "TARN_DEMO__RATE")]
    rate: Option<f64>,
    /// Put the data here and leave it; must not hold a lake yet [default: a temporary directory]
    #[arg(long, env = "TARN_DEMO__DATA_DIR", value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Go on serving at the end, until Ctrl-C
    #[arg(long, env = "TARN_DEMO__KEEP")]
    keep: bool,
    /// Seed of the devices' behaviour
    #[arg(long, env = "TARN_DEMO__SEED", default_value_t = 1)]
    seed: u64,
    /// error, warn, info, debug, trace or a filter
    #[arg(long, env = "TARN_LOG__LEVEL", default_value = "warn", value_name = "LEVEL")]
    log_level: String,
}

pub(super) fn run(args: DemoArgs) -> Result<(), Failure> {
    const RATE_OF_EACH: f64 = 20.0;
    let rate = args.rate.unwrap_or(RATE_OF_EACH * f64::from(args.devices));
    if !(rate > 0.0 && rate <= 1e6) {
        return Err(Failure::Usage(
            "--rate must be more than 0 and at most 1000000".to_owned(),
        ));
    }
    logging::init(&Log {
        level: args.log_level.clone(),
        ..Log::default()
    })
    .map_err(Failure::work)?;
    let options = DemoOptions {
        devices: args.devices,
        duration: Duration::from_secs(args.seconds),
        rate,
        data_dir: args.data_dir,
        keep: args.keep,
        seed: args.seed,
    };
    on_runtime(demo(options))
}

async fn demo(options: DemoOptions) -> Result<(), Failure> {
    let keep = options.keep;
    let mut stop = Stop::listen()?;
    let demo = tokio::select! {
        demo = Demo::start(options) => demo.map_err(|error| match error {
            DemoError::NotEmpty(_) => Failure::usage(error),
            other => Failure::work(other),
        })?,
        () = stop.asked() => return Err(Failure::work("stopped")),
    };
    let outcome = tokio::select! {
        outcome = demo.run() => outcome,
        () = stop.asked() => {
            say!("stopping");
            demo.stop().await.map_err(Failure::work)?;
            return Err(Failure::work("stopped before the end"));
        }
    };
    let outcome = match outcome {
        Ok(outcome) => outcome,
        Err(error) => {
            demo.stop().await.map_err(Failure::work)?;
            return Err(Failure::work(error));
        }
    };
    demo.report(&outcome);
    if keep {
        say!(
            "\nServing until Ctrl-C; the data stays in {}",
            demo.data_dir().display()
        );
        stop.asked().await;
    }
    demo.stop().await.map_err(Failure::work)?;
    if outcome.holds() {
        Ok(())
    } else {
        Err(Failure::DidNotHold)
    }
}
