//! The command line: what there is, and which exit code it ends with.
//!
//! 0: done. 1: the work failed, or a check did not hold. 2: bad usage or configuration.

mod check_config;
mod settings;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::config::ConfigErrors;

/// Sensor traffic over MQTT and NATS into Iceberg tables, in one binary.
#[derive(Debug, Parser)]
#[command(name = "tarn", version, max_term_width = 110, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Check the configuration and print the effective settings, secrets hidden
    CheckConfig(check_config::CheckConfigArgs),
}

/// What ends a command early.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// Bad usage or configuration: exit code 2.
    #[error("{0}")]
    Usage(String),
}

impl From<ConfigErrors> for Failure {
    fn from(errors: ConfigErrors) -> Self {
        Failure::Usage(errors.to_string())
    }
}

/// Runs the command that the process's arguments name.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let result = match cli.command {
        Command::CheckConfig(args) => check_config::run(args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure::Usage(message)) => fail(2, &message),
    }
}

fn fail(code: u8, message: &str) -> ExitCode {
    for line in message.lines() {
        eprintln!("tarn: {line}");
    }
    ExitCode::from(code)
}
