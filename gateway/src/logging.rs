//! Log lines: text on a terminal, JSON elsewhere, always on standard error.

use std::io::{self, IsTerminal};

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::FmtSpan;
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};

use crate::config::{Log, LogFormat};

/// Installs the process's logger. Errs if there is one already.
pub fn init(log: &Log) -> Result<(), TryInitError> {
    let filter = filter(&log.level);
    let json = match log.format {
        LogFormat::Auto => !io::stderr().is_terminal(),
        LogFormat::Text => false,
        LogFormat::Json => true,
    };
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_span_events(FmtSpan::NONE)
        .with_ansi(io::stderr().is_terminal());
    if json {
        builder.json().finish().try_init()
    } else {
        builder.finish().try_init()
    }
}

/// The filter as configured. The NATS client of our own processor is quieter unless it is asked for: at `info` it tells of
/// each connection.
fn filter(level: &str) -> EnvFilter {
    // It was checked when the settings were loaded.
    let filter = EnvFilter::try_new(level).unwrap_or_else(|_| EnvFilter::new("info"));
    match "async_nats=warn".parse() {
        Ok(directive) if !level.contains("async_nats") && level != "off" => filter.add_directive(directive),
        _ => filter,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nats_client_is_quiet_unless_asked_for() {
        for (level, shown) in [
            ("info", "async_nats=warn,info"),
            ("debug,async_nats=trace", "async_nats=trace,debug"),
            ("off", "off"),
        ] {
            assert_eq!(filter(level).to_string(), shown);
        }
    }
}
