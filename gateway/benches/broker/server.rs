//! The servers under test, each a process of its own with a store of its own.

use std::fs;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::null::Null;
use crate::options::Options;

/// How long a server may take to listen, and to stop.
const PATIENCE: Duration = Duration::from_secs(60);
/// How often a server that starts is tried.
const TRY_EVERY: Duration = Duration::from_millis(1);

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Tarn,
    NatsAlways,
    NatsDefault,
    /// No server: a thread here that answers at once.
    Null,
}

impl Kind {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Tarn => "tarn (ack after sync)",
            Self::NatsAlways => "nats-server, always",
            Self::NatsDefault => "nats-server, defaults",
            Self::Null => "no server: the generator",
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "a benchmark measures real time")]
pub(crate) fn now() -> Instant {
    Instant::now()
}

/// A server that runs. Killed when dropped.
pub(crate) struct Server {
    kind: Kind,
    process: Option<Child>,
    store: TempDir,
    port: u16,
}

impl Server {
    /// Starts one with an empty store and waits until its port answers.
    pub(crate) fn start(kind: Kind, options: &Options) -> anyhow::Result<Self> {
        // Beside the build, not in /tmp, which may be memory.
        let folder = Path::new(env!("CARGO_BIN_EXE_tarn"));
        let store = TempDir::new_in(folder.parent().context("no folder")?)?;
        let mut server = Self {
            kind,
            process: None,
            store,
            port: 0,
        };
        server.launch(options)?;
        server.wait_until_it_listens()?;
        Ok(server)
    }

    /// Ends the process by `signal`, waits for its end and starts another on the same store. Returns when that was
    /// started; it may not listen yet.
    pub(crate) fn restart(&mut self, signal: Signal, options: &Options) -> anyhow::Result<Instant> {
        let mut process = self.process.take().context("nothing to restart")?;
        kill_process(Pid::from_child(&process), signal)?;
        process.wait()?;
        let began = now();
        self.launch(options)?;
        Ok(began)
    }

    fn launch(&mut self, options: &Options) -> anyhow::Result<()> {
        if self.kind == Kind::Null {
            self.port = Null::start()?;
            return Ok(());
        }
        self.port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
        let data = self.store.path().join("data");
        let mut command = match self.kind {
            Kind::Tarn => {
                let mut command = Command::new(&options.tarn);
                command.arg("broker");
                command
            }
            _ => Command::new(&options.nats_server),
        };
        if self.kind == Kind::NatsAlways {
            let file = self.store.path().join("nats.conf");
            fs::write(
                &file,
                format!("jetstream {{ store_dir: {data:?}, sync_interval: always }}\n"),
            )?;
            command.arg("-c").arg(file);
        } else {
            command.arg("-js").arg("-sd").arg(&data);
        }
        command.args(["-a", "127.0.0.1", "-p", &self.port.to_string()]);
        let process = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        self.process = Some(process.with_context(|| format!("{} does not start", self.kind.name()))?);
        Ok(())
    }

    /// Waits until the port answers.
    pub(crate) fn wait_until_it_listens(&mut self) -> anyhow::Result<()> {
        let began = now();
        while TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).is_err() {
            if let Some(status) = self
                .process
                .as_mut()
                .and_then(|child| child.try_wait().transpose())
            {
                bail!("{} ended at once: {}", self.kind.name(), status?);
            }
            ensure!(
                now() - began < PATIENCE,
                "{} does not listen on port {}",
                self.kind.name(),
                self.port
            );
            std::thread::sleep(TRY_EVERY);
        }
        Ok(())
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Resident memory, in MiB.
    pub(crate) fn resident_mib(&self) -> anyhow::Result<f64> {
        let process = self.process.as_ref().context("no process")?;
        let status = fs::read_to_string(format!("/proc/{}/status", process.id()))?;
        let kib: f64 = status
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix("kB"))
            .context("no VmRSS")?
            .trim()
            .parse()?;
        Ok(kib / 1024.0)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself; there is nobody left to tell.
        if let Some(mut process) = self.process.take()
            && process.kill().is_ok()
        {
            drop(process.wait());
        }
    }
}
