//! `tarn verify`

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use tarn_processor::tables::{DEAD_LETTERS, READINGS};
use tarn_simulators::{Verdict, Verification};
use tokio::time::Instant;

use super::{Failure, lake, on_runtime};
use crate::audit::{self, Tables};
use crate::config::Span;
use crate::present::say;

/// Time between two looks at the tables.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Flags of `tarn verify`.
#[derive(Args, Debug)]
pub(super) struct VerifyArgs {
    /// Ledger that `tarn simulate` wrote
    #[arg(long, env = "TARN_VERIFY__LEDGER", value_name = "FILE")]
    ledger: PathBuf,
    /// URL of the catalog, or a data directory
    #[arg(
        long,
        env = "TARN_VERIFY__LAKE",
        value_name = "URL|DIR",
        default_value = "http://127.0.0.1:8181/catalog"
    )]
    lake: String,
    /// How long what is missing may still be on its way
    #[arg(
        long,
        env = "TARN_VERIFY__WAIT",
        value_name = "DURATION",
        default_value = "30s"
    )]
    wait: Span,
}

pub(super) fn run(args: VerifyArgs) -> Result<(), Failure> {
    on_runtime(verify(args))
}

async fn verify(args: VerifyArgs) -> Result<(), Failure> {
    let deadline = Instant::now() + args.wait.duration();
    let mut told = false;
    let verdict = loop {
        let verdict = look(&args).await?;
        let may_still_come = verdict.lost > 0 || verdict.dead_lost > 0;
        if !may_still_come || Instant::now() + LOOK_EVERY > deadline {
            break verdict;
        }
        if !told {
            eprintln!("not all is in the tables yet: waiting for at most {}", args.wait);
            told = true;
        }
        tokio::time::sleep(LOOK_EVERY).await;
    };
    say!("{verdict}");
    if verdict.holds() {
        Ok(())
    } else {
        Err(Failure::DidNotHold)
    }
}

async fn look(args: &VerifyArgs) -> Result<Verdict, Failure> {
    let verification = Verification::load(&args.ledger).map_err(Failure::work)?;
    let lake = lake::open(&args.lake).await?;
    let (readings, dead_letters) = (lake.table(READINGS).await?, lake.table(DEAD_LETTERS).await?);
    let tables = Tables {
        readings: &readings,
        dead_letters: &dead_letters,
    };
    audit::verify(verification, &tables, drop, drop)
        .await
        .map_err(Failure::work)
}
