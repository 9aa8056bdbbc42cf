//! `tarn serve`

use clap::Args;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::settings::SettingsArgs;
use super::{Failure, on_runtime};
use crate::config::Loaded;
use crate::logging;
use crate::present::say;
use crate::serve::{Role, Roles, Server};

/// Flags of `tarn serve`.
#[derive(Args, Debug)]
pub(super) struct ServeArgs {
    /// Run only these of gateway, broker and processor; may be repeated
    #[arg(
        long,
        env = "TARN_ONLY",
        value_name = "ROLE",
        value_delimiter = ',',
        value_enum,
        hide_possible_values = true
    )]
    only: Vec<Role>,
    #[command(flatten)]
    settings: SettingsArgs,
}

pub(super) fn run(args: ServeArgs) -> Result<(), Failure> {
    let loaded = args.settings.load()?;
    let roles = Roles::chosen(&args.only, &loaded.settings).map_err(Failure::usage)?;
    logging::init(&loaded.settings.log).map_err(Failure::work)?;
    on_runtime(serve(loaded, roles))
}

async fn serve(loaded: Loaded, roles: Roles) -> Result<(), Failure> {
    let mut stop = Stop::listen()?;
    let server = tokio::select! {
        started = Server::start(&loaded.settings, roles) => started.map_err(Failure::work)?,
        () = stop.asked() => return Err(Failure::work("stopped before the start was complete")),
    };
    for line in server.lines() {
        say!("{line}");
    }
    say!("tarn is ready");
    super::leave_the_start();
    stop.asked().await;
    say!("stopping: a second signal ends the process at once");
    tokio::select! {
        drained = server.shutdown() => drained.map_err(Failure::work)?,
        () = stop.asked() => {
            return Err(Failure::work("stopped before everything was drained; what was acknowledged is on disk"));
        }
    }
    say!("stopped in order");
    Ok(())
}

/// SIGINT and SIGTERM.
pub(super) struct Stop {
    interrupt: Signal,
    terminate: Signal,
}

impl Stop {
    pub(super) fn listen() -> Result<Stop, Failure> {
        let on = |kind| signal(kind).map_err(|err| Failure::Work(format!("signals can't be handled: {err}")));
        Ok(Stop {
            interrupt: on(SignalKind::interrupt())?,
            terminate: on(SignalKind::terminate())?,
        })
    }

    /// Returns at the next of the two signals.
    pub(super) async fn asked(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}
