//! `tarn broker`: the broker alone, with nats-server's flags.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::Args;
use tarn_broker::server::{Broker, BrokerConfig, StartError};

use super::serve::Stop;
use super::{Failure, on_runtime};
use crate::config::{Listen, Log};
use crate::logging;

/// Flags of `tarn broker`; each also with a single dash, as nats-server takes them.
#[derive(Args, Debug)]
pub(super) struct BrokerArgs {
    /// Host to bind to
    #[arg(
        short = 'a',
        long = "addr",
        alias = "net",
        env = "TARN_BROKER__ADDR",
        value_name = "HOST",
        default_value = "127.0.0.1"
    )]
    addr: String,
    /// Port for clients; -1 for a free one
    #[arg(short, long, env = "TARN_BROKER__PORT", default_value_t = 4222, allow_negative_numbers = true, value_parser = clap::value_parser!(i32).range(-1..=65535))]
    port: i32,
    /// Port for monitoring [default: none]
    #[arg(
        short = 'm',
        long,
        alias = "http_port",
        env = "TARN_BROKER__HTTP_PORT",
        value_name = "PORT"
    )]
    http_port: Option<u16>,
    /// JetStream; it is always on
    #[arg(long = "js", visible_alias = "jetstream")]
    jetstream: bool,
    /// Folder of the streams
    #[arg(
        long = "sd",
        visible_alias = "store_dir",
        env = "TARN_BROKER__STORE_DIR",
        value_name = "DIR",
        default_value = "tarn-data/broker"
    )]
    store_dir: PathBuf,
    /// Name of the server
    #[arg(
        short = 'n',
        long = "name",
        alias = "server_name",
        env = "TARN_BROKER__NAME",
        default_value = "tarn"
    )]
    name: String,
    /// Listen on a non-loopback address without authentication
    #[arg(long, env = "TARN_ALLOW_ANONYMOUS")]
    allow_anonymous: bool,
    /// Log more
    #[arg(short = 'D', long)]
    debug: bool,
}

/// nats-server takes long flags with one dash as well; `-js` would otherwise read as `-j -s`.
const LONG_WITH_ONE_DASH: [&str; 12] = [
    "addr",
    "net",
    "port",
    "http_port",
    "js",
    "jetstream",
    "sd",
    "store_dir",
    "name",
    "server_name",
    "debug",
    "help",
];

/// Gives single-dash long flags of `tarn broker` their second dash. Other commands' arguments stay as they are.
pub(super) fn with_long_flags(arguments: impl Iterator<Item = OsString>) -> Vec<OsString> {
    let mut arguments: Vec<OsString> = arguments.collect();
    if arguments.get(1).is_some_and(|command| command == "broker") {
        for argument in arguments.iter_mut().skip(2) {
            let Some(text) = argument.to_str() else { continue };
            let Some(name) = text.strip_prefix('-').filter(|rest| !rest.starts_with('-')) else {
                continue;
            };
            let flag = name.split('=').next().unwrap_or(name);
            if LONG_WITH_ONE_DASH.contains(&flag) {
                *argument = format!("-{text}").into();
            }
        }
    }
    arguments
}

pub(super) fn run(args: BrokerArgs) -> Result<(), Failure> {
    let level = if args.debug { "debug" } else { "info" };
    logging::init(&Log {
        level: level.to_owned(),
        ..Log::default()
    })
    .map_err(Failure::work)?;
    on_runtime(broker(args))
}

fn listen(host: &str, port: u16, args: &BrokerArgs) -> Result<Listen, Failure> {
    let listen = Listen::At {
        host: host.trim_matches(['[', ']']).to_owned(),
        port,
    };
    if !listen.is_loopback() && !args.allow_anonymous {
        return Err(Failure::Usage(format!(
            "{listen} can be reached from other machines and no authentication is configured; \
             leave -a out, or, if you mean it, add --allow-anonymous"
        )));
    }
    Ok(listen)
}

async fn broker(args: BrokerArgs) -> Result<(), Failure> {
    let mut stop = Stop::listen()?;
    // -1 is nats-server's way to say: any free port.
    let clients = listen(&args.addr, u16::try_from(args.port).unwrap_or(0), &args)?;
    let monitor = args
        .http_port
        .map(|port| listen(&args.addr, port, &args))
        .transpose()?;
    std::fs::create_dir_all(&args.store_dir).map_err(|err| {
        Failure::Work(format!(
            "store directory {}: {err}; set another with -sd",
            args.store_dir.display()
        ))
    })?;
    let config = BrokerConfig {
        monitor_listen: monitor.and_then(|listen| listen.address()),
        server_name: args.name.clone(),
        ..BrokerConfig::new(&args.store_dir, clients.to_string())
    };
    let broker = Broker::start(config).await.map_err(of_start)?;
    log_line(&format!("Store Directory: \"{}\"", args.store_dir.display()));
    if let Some(address) = broker.monitor_addr() {
        log_line(&format!("Starting http monitor on {address}"));
    }
    log_line(&format!(
        "Listening for client connections on {}",
        broker.client_addr()
    ));
    log_line("Server is ready");
    stop.asked().await;
    log_line("Initiating Shutdown...");
    tokio::select! {
        () = broker.shutdown() => {}
        () = stop.asked() => return Err(Failure::work("stopped before everything was drained; what was acknowledged is on disk")),
    }
    log_line("Server Exiting..");
    Ok(())
}

/// Here the settings are flags.
fn of_start(error: StartError) -> Failure {
    let (setting, address, reason) = match error {
        StartError::PortInUse { setting, address } => (setting, address, "the port is in use".to_owned()),
        StartError::Listen {
            setting,
            address,
            source,
        } => (setting, address, format!("cannot listen there ({source})")),
        other => return Failure::work(other),
    };
    let flag = if setting == "monitor.listen" { "-m" } else { "-p" };
    Failure::Work(format!(
        "{address}: {reason}; stop what listens there, or set another port with {flag}, or another host with -a"
    ))
}

/// A line in nats-server's form, which tools wait for.
fn log_line(text: &str) {
    let now = crate::clock::now().format("%Y/%m/%d %H:%M:%S%.6f");
    eprintln!("[{}] {now} [INF] {text}", std::process::id());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn long(arguments: &[&str]) -> Vec<String> {
        with_long_flags(arguments.iter().map(OsString::from))
            .into_iter()
            .filter_map(|a| a.into_string().ok())
            .collect()
    }

    #[test]
    fn single_dashes_of_the_broker_become_double() {
        assert_eq!(
            long(&[
                "tarn",
                "broker",
                "-js",
                "-sd",
                "/x",
                "-p",
                "-1",
                "-store_dir=/y",
                "--name",
                "n",
                "-D"
            ]),
            [
                "tarn",
                "broker",
                "--js",
                "--sd",
                "/x",
                "-p",
                "-1",
                "--store_dir=/y",
                "--name",
                "n",
                "-D"
            ]
        );
        assert_eq!(long(&["tarn", "serve", "-js"]), ["tarn", "serve", "-js"]);
    }

    #[test]
    fn nats_servers_flags_are_taken() {
        let cli = super::super::parse(
            [
                "tarn",
                "broker",
                "-js",
                "-sd",
                "/x",
                "-p",
                "-1",
                "-a",
                "127.0.0.1",
                "-m",
                "8222",
            ]
            .map(OsString::from),
        );
        let super::super::Command::Broker(args) = cli.expect("valid").command else {
            panic!("another command")
        };
        assert_eq!(
            (args.port, args.http_port, args.store_dir),
            (-1, Some(8222), PathBuf::from("/x"))
        );
    }
}
