//! The servers under test, each a process of its own with a store of its own.

use std::fs;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, bail};
use tempfile::TempDir;

#[derive(Clone, Copy)]
pub(crate) enum Kind {
    Tarn,
    NatsAlways,
    NatsDefault,
}

impl Kind {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Tarn => "tarn (ack after sync)",
            Self::NatsAlways => "nats-server, always",
            Self::NatsDefault => "nats-server, defaults",
        }
    }
}

/// Killed when dropped.
pub(crate) struct Server {
    child: Child,
    port: u16,
    _store: TempDir,
}

impl Server {
    /// Starts one and waits until its port answers.
    pub(crate) fn start(kind: Kind, nats_server: &Path) -> anyhow::Result<Self> {
        // Beside the build, not in /tmp, which may be memory.
        let store = TempDir::new_in(
            Path::new(env!("CARGO_BIN_EXE_tarn"))
                .parent()
                .context("no folder")?,
        )?;
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
        let data = store.path().join("data");
        let mut command = match kind {
            Kind::Tarn => {
                let mut command = Command::new(env!("CARGO_BIN_EXE_tarn"));
                command.arg("broker");
                command
            }
            Kind::NatsAlways | Kind::NatsDefault => Command::new(nats_server),
        };
        if let Kind::NatsAlways = kind {
            let file = store.path().join("nats.conf");
            fs::write(
                &file,
                format!("jetstream {{ store_dir: {data:?}, sync_interval: always }}\n"),
            )?;
            command.arg("-c").arg(file);
        } else {
            command.arg("-js").arg("-sd").arg(&data);
        }
        command.args(["-a", "127.0.0.1", "-p", &port.to_string()]);
        let child = command
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .with_context(|| format!("{} does not start", kind.name()))?;
        let mut server = Self {
            child,
            port,
            _store: store,
        };
        for _ in 0..200 {
            if TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok() {
                return Ok(server);
            }
            if let Some(status) = server.child.try_wait()? {
                bail!("{} ended at once: {status}", kind.name());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        bail!("{} does not listen on port {port}", kind.name())
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself; there is nobody left to tell.
        if self.child.kill().is_ok() {
            drop(self.child.wait());
        }
    }
}
