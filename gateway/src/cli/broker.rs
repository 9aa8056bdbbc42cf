//! `tarn broker`: the broker alone, with nats-server's flags and configuration file.

mod apply;
mod flags;
mod log;
mod process;
mod signals;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use clap::Args;
use tarn_broker::options::Options;
use tarn_broker::server::{Broker, BrokerConfig, StartError};

use self::apply::Machine;
use self::flags::{Flag, Flags};
use self::log::{FATAL, Log};
use self::process::{Files, Scratch};
use self::signals::{Asked, Signals};
use super::{Failure, on_runtime, verify_store};
use crate::present::say;

pub(super) use self::flags::HELP;

/// What `-v` prints: tools read the version out of it.
const VERSION: &str = "v2.15.2";
/// Where streams are kept if nothing else is said.
const STORE_DIR: &str = "tarn-data/broker";

/// Flags of `tarn broker`: read as nats-server reads them, not by clap.
#[derive(Args, Debug)]
pub(super) struct BrokerArgs {
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "OPTIONS")]
    arguments: Vec<OsString>,
}

pub(super) fn run(args: BrokerArgs) -> Result<(), Failure> {
    let flags = Flags::parse(args.arguments).map_err(Failure::Usage)?;
    if flags.has(Flag::Help) {
        say!("{}", HELP.trim_end());
        return Ok(());
    }
    if flags.has(Flag::Version) {
        say!("nats-server: {VERSION}");
        return Ok(());
    }
    if let Some(command) = flags.text(Flag::Signal) {
        return process::send(command).map_err(Failure::Work);
    }
    let flags = flags.or(Flags::of_environment(|name| std::env::var(name).ok()));
    let options = apply::options(&flags, &Machine).map_err(Failure::Work)?;
    tarn_broker::tls::check(&options).map_err(Failure::work)?;
    if flags.has(Flag::Test) {
        let file = flags.text(Flag::Config).unwrap_or_default();
        eprintln!(
            "tarn: configuration file {file} is valid ({})",
            options.config_digest
        );
        return Ok(());
    }
    if flags.has(Flag::VerifyStore) {
        let dir = options.jetstream.store_dir.as_deref();
        return verify_store::run(dir.unwrap_or(Path::new(STORE_DIR)));
    }
    let log = Log::install(&options.log).map_err(Failure::Work)?;
    on_runtime(async move {
        let ended = Process { flags, log, options }.serve().await;
        if let Err(Failure::Work(reason) | Failure::Usage(reason)) = &ended {
            tracing::error!(target: FATAL, "{reason}");
        }
        ended
    })
}

/// This process, while it serves.
struct Process {
    flags: Flags,
    log: Log,
    options: Options,
}

impl Process {
    async fn serve(mut self) -> Result<(), Failure> {
        let mut signals = Signals::listen().map_err(Failure::Work)?;
        self.greet();
        let (config, scratch) = config(&self.options)?;
        let store = config.store_dir.clone();
        let broker = Broker::start(config).await.map_err(of_start)?;
        if self.options.jetstream.enabled {
            tracing::info!("  Store Directory: \"{}\"", store.display());
        }
        let files = self.files(&broker).map_err(Failure::Work)?;
        self.report(&broker);
        super::leave_the_start();
        let asked = loop {
            let asked = tokio::select! {
                asked = signals.next() => asked,
                request = broker.reload_wanted() => {
                    request.done(self.reload(&broker));
                    continue;
                }
            };
            match asked {
                // What came of it is in the log.
                Asked::Reload => drop(self.reload(&broker)),
                Asked::Reopen => match self.log.reopen() {
                    Ok(()) => tracing::info!("File log re-opened"),
                    Err(reason) => tracing::error!("{reason}"),
                },
                asked => break asked,
            }
        };
        if let Asked::LameDuck = asked {
            tokio::select! {
                () = broker.lame_duck(self.options.lame_duck) => {}
                () = signals.interrupted() => {}
            }
        }
        tracing::info!("Initiating Shutdown...");
        tokio::select! {
            () = broker.shutdown() => {}
            () = signals.interrupted() => {
                return Err(Failure::work("stopped before everything was drained; what was acknowledged is on disk"));
            }
        }
        drop((files, scratch));
        tracing::info!("Server Exiting..");
        Ok(())
    }

    /// The lines before anything is done.
    fn greet(&self) {
        let options = &self.options;
        tracing::info!("Starting nats-server");
        tracing::info!("  Version:  {}", VERSION.trim_start_matches('v'));
        tracing::info!("  Tarn:     {}", env!("CARGO_PKG_VERSION"));
        if let Some(name) = &options.server_name {
            tracing::info!("  Name:     {name}");
        }
        if let Some(file) = self.flags.text(Flag::Config) {
            tracing::info!("Using configuration file: {file} ({})", options.config_digest);
        }
        for warning in &options.warnings {
            tracing::warn!("{warning}");
        }
        if options.jetstream.enabled {
            tracing::info!("Starting JetStream");
        }
    }

    /// The lines that harnesses wait for.
    fn report(&self, broker: &Broker) {
        if let Some(at) = broker.monitor_addr() {
            tracing::info!("Starting http monitor on {at}");
        }
        if let Some(at) = broker.monitor_tls_addr() {
            tracing::info!("Starting https monitor on {at}");
        }
        if let Some(at) = broker.websocket_addr() {
            tracing::info!(
                "Listening for websocket clients on {}",
                process::url(self.websocket_scheme(), at)
            );
        }
        tracing::info!("Listening for client connections on {}", broker.client_addr());
        if self.options.tls.is_some() && !self.options.allow_non_tls {
            tracing::info!("TLS required for client connections");
        }
        tracing::info!("Server is ready");
    }

    fn websocket_scheme(&self) -> &'static str {
        match &self.options.websocket {
            Some(ws) if ws.tls.is_some() => "wss",
            _ => "ws",
        }
    }

    fn files(&self, broker: &Broker) -> Result<Files, String> {
        let mut files = Files::default();
        if let Some(path) = &self.options.process.pid_file {
            files.pid(path)?;
        }
        if let Some(dir) = &self.options.process.ports_file_dir {
            let mut urls = BTreeMap::new();
            urls.insert("nats", vec![process::url("nats", broker.client_addr())]);
            let monitoring = [
                ("http", broker.monitor_addr()),
                ("https", broker.monitor_tls_addr()),
            ];
            let monitoring = monitoring
                .into_iter()
                .filter_map(|(scheme, at)| Some(process::url(scheme, at?)));
            urls.insert("monitoring", monitoring.collect());
            if let Some(at) = broker.websocket_addr() {
                urls.insert("websocket", vec![process::url(self.websocket_scheme(), at)]);
            }
            urls.retain(|_, urls| !urls.is_empty());
            files.ports(dir, &urls)?;
        }
        Ok(files)
    }

    /// Reads the file again and goes on as it says, or says why not and goes on as before.
    fn reload(&mut self, broker: &Broker) -> Result<(), String> {
        let outcome = self.try_reload(broker);
        match &outcome {
            Ok(()) => tracing::info!("Reloaded server configuration ({})", self.options.config_digest),
            Err(reason) => tracing::error!("Failed to reload server configuration: {reason}"),
        }
        outcome
    }

    fn try_reload(&mut self, broker: &Broker) -> Result<(), String> {
        if self.flags.text(Flag::Config).is_none() {
            return Err("can only reload config when a file is provided using -c or --config".to_owned());
        }
        let options = apply::options(&self.flags, &Machine)?;
        broker
            .reload(&self.options, &options)
            .map_err(|err| err.to_string())?;
        self.log.set(&options.log)?;
        for warning in &options.warnings {
            tracing::warn!("{warning}");
        }
        self.options = options;
        Ok(())
    }
}

/// How the broker is to run, and its folder if it is to go again.
fn config(options: &Options) -> Result<(BrokerConfig, Option<Scratch>), Failure> {
    let scratch = match options.jetstream.enabled {
        true => None,
        false => Some(Scratch::new().map_err(Failure::Work)?),
    };
    let store_dir = match (&scratch, &options.jetstream.store_dir) {
        (Some(scratch), _) => scratch.path().to_owned(),
        (None, Some(dir)) => dir.clone(),
        (None, None) => PathBuf::from(STORE_DIR),
    };
    make_store_dir(&store_dir)?;
    Ok((BrokerConfig::from_options(options, store_dir), scratch))
}

fn make_store_dir(dir: &Path) -> Result<(), Failure> {
    std::fs::create_dir_all(dir).map_err(|err| {
        let dir = dir.display();
        Failure::Work(format!("store directory {dir}: {err}; set another with -sd"))
    })
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
    let flag = match setting {
        "monitor.listen" => "-m",
        "websocket.listen" => "`websocket { port }`",
        _ => "-p",
    };
    Failure::Work(format!(
        "{address}: {reason}; stop what listens there, or set another port with {flag}, or another host with -a"
    ))
}
