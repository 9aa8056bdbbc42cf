//! The command line: what there is, and which exit code it ends with.
//!
//! 0: done. 1: the work failed, or a check did not hold. 2: bad usage or configuration.

mod broker;
mod check_config;
mod dead_letters;
mod demo;
mod doctor;
mod lake;
mod serve;
mod settings;
mod simulate;
mod table;
mod verify;
mod verify_store;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

use crate::config::ConfigErrors;

/// Sensor traffic over MQTT and NATS into Iceberg tables, in one binary.
#[derive(Debug, Parser)]
#[command(name = "tarn", version, max_term_width = 110, arg_required_else_help = true)]
#[command(after_help = "\
Start here:  tarn demo
Then:        tarn serve        (no configuration needed; `tarn check-config` prints the settings)")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the broker, the MQTT gateway, the processor and the catalog
    Serve(serve::ServeArgs),
    /// The main job on one screen: serve, publish, read the tables back, and count
    Demo(demo::DemoArgs),
    /// The NATS and JetStream broker alone, with nats-server's flags
    #[command(disable_help_flag = true, override_help = broker::HELP)]
    Broker(broker::BrokerArgs),
    /// Publish as a fleet of devices, keeping a ledger of what was acknowledged
    Simulate(simulate::SimulateArgs),
    /// Hold a ledger against the tables; exit 1 if anything is missing or doubled
    Verify(verify::VerifyArgs),
    /// Look at the tables
    #[command(subcommand)]
    Table(table::TableCommand),
    /// Look at the messages that were refused
    #[command(subcommand)]
    DeadLetters(dead_letters::DeadLettersCommand),
    /// Check the configuration and print the effective settings, secrets hidden
    CheckConfig(check_config::CheckConfigArgs),
    /// Check disk, clock, ports, store, catalog and tables, in words one can act on
    Doctor(doctor::DoctorArgs),
}

/// What ends a command early.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// Bad usage or configuration: exit code 2.
    #[error("{0}")]
    Usage(String),
    /// The work failed: exit code 1.
    #[error("{0}")]
    Work(String),
    /// A check did not hold, and everything about it is printed: exit code 1.
    #[error("a check did not hold")]
    DidNotHold,
}

impl Failure {
    pub(crate) fn work(error: impl std::fmt::Display) -> Failure {
        Failure::Work(error.to_string())
    }

    pub(crate) fn usage(error: impl std::fmt::Display) -> Failure {
        Failure::Usage(error.to_string())
    }
}

impl From<ConfigErrors> for Failure {
    fn from(errors: ConfigErrors) -> Self {
        Failure::usage(errors)
    }
}

/// Runs the command that the process's arguments name.
pub fn main() -> ExitCode {
    let cli = match parse(std::env::args_os()) {
        Ok(cli) => cli,
        Err(error) => error.exit(),
    };
    let result = match cli.command {
        Command::Serve(args) => serve::run(args),
        Command::Demo(args) => demo::run(args),
        Command::Broker(args) => broker::run(args),
        Command::Simulate(args) => simulate::run(args),
        Command::Verify(args) => verify::run(args),
        Command::Table(command) => table::run(command),
        Command::DeadLetters(command) => dead_letters::run(command),
        Command::CheckConfig(args) => check_config::run(args),
        Command::Doctor(args) => doctor::run(args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure::DidNotHold) => ExitCode::from(1),
        Err(Failure::Work(message)) => fail(1, &message),
        Err(Failure::Usage(message)) => fail(2, &message),
    }
}

fn fail(code: u8, message: &str) -> ExitCode {
    for line in message.lines() {
        eprintln!("tarn: {line}");
    }
    ExitCode::from(code)
}

/// The start is over: what code it alone needed leaves memory.
fn leave_the_start() {
    let bytes = tarn_memory::give_back_code();
    tracing::debug!("gave back what is not needed of {bytes} bytes of code");
}

/// Runs `work` on a runtime of its own. Blocking tasks get five seconds to end after it.
pub(crate) fn on_runtime<T>(work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_name("tarn")
        .build()
        .map_err(|err| Failure::Work(format!("the runtime can't be started: {err}")))?;
    let result = runtime.block_on(work);
    runtime.shutdown_timeout(std::time::Duration::from_secs(5));
    result
}

fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Cli, clap::Error> {
    Cli::from_arg_matches(&command().try_get_matches_from(arguments)?)
}

/// The command line, with the environment's names in the help but not its values: they may be secrets.
fn command() -> clap::Command {
    fn without_values(command: clap::Command) -> clap::Command {
        command
            .mut_args(|arg| arg.hide_env_values(true))
            .mut_subcommands(without_values)
    }
    without_values(Cli::command())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        command().debug_assert();
    }

    #[test]
    fn help_fits_a_screen() {
        let mut command = command();
        let lines = command.render_help().to_string().lines().count();
        assert!(lines < 40, "{lines} lines");
        for sub in command.get_subcommands_mut() {
            let name = sub.get_name().to_owned();
            let lines = sub.render_help().to_string().lines().count();
            assert!(lines < 60, "{name}: {lines} lines");
        }
    }

    #[test]
    fn bad_usage_is_refused() {
        for arguments in [
            vec!["tarn", "serve", "--only", "kitchen"],
            vec!["tarn", "demo", "--devices", "0"],
            vec!["tarn", "frobnicate"],
            vec!["tarn", "simulate", "--devices", "x"],
        ] {
            let refused = parse(arguments.iter().map(OsString::from)).expect_err("refused");
            assert_eq!(refused.exit_code(), 2, "{arguments:?}");
        }
    }
}
