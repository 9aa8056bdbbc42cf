//! What the process is asked for by signals, as nats-server has them.

use tokio::signal::unix::{Signal, SignalKind, signal};

/// What the process is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asked {
    /// SIGINT and SIGTERM: to end.
    Stop,
    /// SIGUSR2: to end once its clients have gone.
    LameDuck,
    /// SIGHUP: to read its configuration again.
    Reload,
    /// SIGUSR1: to open its log file anew.
    Reopen,
}

/// Signals to this process.
pub(super) struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
    user1: Signal,
    user2: Signal,
}

impl Signals {
    pub(super) fn listen() -> Result<Signals, String> {
        let on = |kind| signal(kind).map_err(|err| format!("signals can't be handled: {err}"));
        Ok(Signals {
            interrupt: on(SignalKind::interrupt())?,
            terminate: on(SignalKind::terminate())?,
            hangup: on(SignalKind::hangup())?,
            user1: on(SignalKind::user_defined1())?,
            user2: on(SignalKind::user_defined2())?,
        })
    }

    /// The next of them.
    pub(super) async fn next(&mut self) -> Asked {
        let (name, asked) = tokio::select! {
            _ = self.interrupt.recv() => ("interrupt", Asked::Stop),
            _ = self.terminate.recv() => ("terminated", Asked::Stop),
            _ = self.hangup.recv() => ("hangup", Asked::Reload),
            _ = self.user1.recv() => ("user defined signal 1", Asked::Reopen),
            _ = self.user2.recv() => ("user defined signal 2", Asked::LameDuck),
        };
        tracing::info!("Trapped {name:?} signal");
        asked
    }

    /// The next SIGINT or SIGTERM; the others are let go.
    pub(super) async fn interrupted(&mut self) {
        while self.next().await != Asked::Stop {}
    }
}
