//! `tarn simulate`

use std::io::IsTerminal;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use tarn_simulators::{Faults, FleetConfig, FleetError, Profile, Progress, Protocol};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use super::serve::Stop;
use super::{Failure, on_runtime};
use crate::config::{Log, Span};
use crate::logging;
use crate::present::{say, thousands};

const LINE_EVERY: Duration = Duration::from_secs(5);
/// What a server may take to be connected to, before the fleet is started.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// Flags of `tarn simulate`.
#[derive(Args, Debug)]
pub(super) struct SimulateArgs {
    /// Kind of devices: home
    #[arg(
        value_name = "PROFILE",
        env = "TARN_SIMULATE__PROFILE",
        default_value = "home"
    )]
    profile: Profile,
    /// How many devices
    #[arg(long, env = "TARN_SIMULATE__DEVICES", default_value_t = 100)]
    devices: u32,
    /// Messages a second over all devices
    #[arg(long, env = "TARN_SIMULATE__RATE", default_value_t = 100.0)]
    rate: f64,
    /// For how long
    #[arg(long, env = "TARN_SIMULATE__DURATION", default_value = "10s")]
    duration: Span,
    /// mqtt, mqtt5, nats, or mixed (MQTT 3.1.1 and NATS)
    #[arg(long, env = "TARN_SIMULATE__PROTOCOL", default_value = "mixed")]
    protocol: Protocol,
    /// Server, mqtt://host:port or nats://host:port; with mixed, give both
    #[arg(
        long = "url",
        env = "TARN_SIMULATE__URL",
        value_name = "URL",
        value_delimiter = ','
    )]
    urls: Vec<String>,
    /// Same seed, same behaviour
    #[arg(long, env = "TARN_SIMULATE__SEED", default_value_t = 1)]
    seed: u64,
    /// Write here what was sent and what was acknowledged; must not exist
    #[arg(long, env = "TARN_SIMULATE__LEDGER", value_name = "FILE")]
    ledger: Option<PathBuf>,
    /// Share of messages sent again although they arrived
    #[arg(
        long,
        env = "TARN_SIMULATE__DUPLICATES",
        default_value_t = 0.0,
        help_heading = "Faults (shares from 0 to 1)"
    )]
    duplicates: f64,
    /// Share with timestamps from a minute to hours ago
    #[arg(
        long,
        env = "TARN_SIMULATE__LATE",
        default_value_t = 0.0,
        help_heading = "Faults (shares from 0 to 1)"
    )]
    late: f64,
    /// Share sent after a later reading of the same device
    #[arg(
        long,
        env = "TARN_SIMULATE__OUT_OF_ORDER",
        default_value_t = 0.0,
        help_heading = "Faults (shares from 0 to 1)"
    )]
    out_of_order: f64,
    /// Share that are no readings
    #[arg(
        long,
        env = "TARN_SIMULATE__MALFORMED",
        default_value_t = 0.0,
        help_heading = "Faults (shares from 0 to 1)"
    )]
    malformed: f64,
}

impl SimulateArgs {
    fn config(self, stop: CancellationToken) -> Result<FleetConfig, Failure> {
        let mut config = FleetConfig {
            profile: self.profile,
            devices: self.devices,
            rate: self.rate,
            duration: self.duration.duration(),
            protocol: self.protocol,
            seed: self.seed,
            ledger: self.ledger,
            faults: Faults {
                duplicates: self.duplicates,
                late: self.late,
                out_of_order: self.out_of_order,
                malformed: self.malformed,
            },
            stop,
            ..FleetConfig::default()
        };
        for url in self.urls {
            if url.starts_with("mqtt://") {
                config.mqtt_url = url;
            } else if url.starts_with("nats://") {
                config.nats_url = url;
            } else {
                // The text may hold a password: it isn't repeated.
                return Err(Failure::Usage(
                    "--url must start with mqtt:// or nats://".to_owned(),
                ));
            }
        }
        Ok(config)
    }
}

pub(super) fn run(args: SimulateArgs) -> Result<(), Failure> {
    logging::init(&Log {
        level: "warn".to_owned(),
        ..Log::default()
    })
    .map_err(Failure::work)?;
    on_runtime(simulate(args))
}

async fn simulate(args: SimulateArgs) -> Result<(), Failure> {
    let mut signals = Stop::listen()?;
    let stop = CancellationToken::new();
    let config = args.config(stop.clone())?;
    find_servers(&config).await?;
    let mut lines = Lines::new();
    let fleet = tarn_simulators::run(config, |progress| lines.tell(progress));
    tokio::pin!(fleet);
    let report = tokio::select! {
        report = &mut fleet => report,
        () = signals.asked() => {
            say!("stopping: waiting for what is not acknowledged yet; a second signal ends at once");
            stop.cancel();
            tokio::select! {
                report = &mut fleet => report,
                () = signals.asked() => return Err(Failure::work("stopped")),
            }
        }
    };
    let report = report.map_err(|error| match error {
        FleetError::Ledger(_) | FleetError::Task(_) => Failure::work(error),
        other => Failure::usage(other),
    })?;
    let progress = &report.progress;
    say!(
        "fleet {}: {} sent, {} acknowledged, {} not, in {:.1} s; {} duplicates on purpose, {} resends, {} broken connections",
        report.fleet,
        thousands(progress.sent),
        thousands(progress.acked),
        thousands(report.unacked),
        report.elapsed.as_secs_f64(),
        thousands(progress.duplicated),
        thousands(progress.resent),
        thousands(progress.disconnects),
    );
    if report.unacked == 0 {
        return Ok(());
    }
    let error = progress.last_error.as_deref().unwrap_or("none");
    Err(Failure::Work(format!(
        "{} messages were not acknowledged; the last error was: {error}",
        report.unacked
    )))
}

/// A fleet tries again for as long as it runs; one whose servers never answered has a mistake in its URL, and is not started.
async fn find_servers(config: &FleetConfig) -> Result<(), Failure> {
    let mqtt = ("mqtt", config.mqtt_url.as_str(), 1883);
    let nats = ("nats", config.nats_url.as_str(), 4222);
    let used = match config.protocol {
        Protocol::Mqtt | Protocol::Mqtt5 => vec![mqtt],
        Protocol::Nats => vec![nats],
        Protocol::Mixed => vec![mqtt, nats],
    };
    for (scheme, url, port) in used {
        let address = address_of(url, port);
        let reason = match timeout(ANSWER_WITHIN, TcpStream::connect(&address)).await {
            Ok(Ok(_)) => continue,
            Ok(Err(err)) => err.to_string(),
            Err(_) => "no answer".to_owned(),
        };
        return Err(Failure::Work(format!(
            "no server at {scheme}://{address}: {reason}; start one (`tarn serve`), or give its address with --url {scheme}://HOST:PORT"
        )));
    }
    Ok(())
}

/// `host:port` of a URL, without what may be secret in it.
fn address_of(url: &str, port: u16) -> String {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let rest = rest.split(['/', '?']).next().unwrap_or(rest);
    let host = rest.rsplit_once('@').map_or(rest, |(_, host)| host);
    // A colon inside of brackets belongs to the address.
    let has_port = host.rsplit(']').next().unwrap_or(host).contains(':');
    if has_port {
        host.to_owned()
    } else {
        format!("{host}:{port}")
    }
}

/// A line every few seconds; on a terminal, one that is written over.
struct Lines {
    last: Instant,
    on_terminal: bool,
}

impl Lines {
    fn new() -> Lines {
        Lines {
            last: Instant::now(),
            on_terminal: std::io::stderr().is_terminal(),
        }
    }

    fn tell(&mut self, progress: &Progress) {
        let text = format!(
            "{} of {} sent, {} acknowledged, {} connections",
            thousands(progress.sent),
            thousands(progress.total),
            thousands(progress.acked),
            progress.connections
        );
        if self.on_terminal {
            eprint!("\r\x1b[2K{text}");
            if progress.acked == progress.total {
                eprintln!();
            }
        } else if self.last.elapsed() >= LINE_EVERY {
            self.last = Instant::now();
            eprintln!("{text}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_urls() {
        for (url, address) in [
            ("mqtt://127.0.0.1", "127.0.0.1:1883"),
            ("mqtt://me:secret@box:1884/x", "box:1884"),
            ("mqtt://[::1]", "[::1]:1883"),
            ("mqtt://[::1]:1885?a=b", "[::1]:1885"),
        ] {
            assert_eq!(address_of(url, 1883), address);
        }
    }
}
