//! Starts and stops `tarn`, on ports that the kernel picks, in a folder of its own.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Output, Stdio};
use std::time::Duration;

use tokio::time::Instant;

/// A configuration with free ports and short commits; `more` is appended.
pub(crate) fn config(folder: &Path, more: &str) -> PathBuf {
    let file = folder.join("tarn.toml");
    let data_dir = folder.join("data");
    let text = format!(
        "data_dir = {data_dir:?}\n\
         [nats]\nlisten = \"127.0.0.1:0\"\n\
         [monitor]\nlisten = \"127.0.0.1:0\"\n\
         [mqtt]\nlisten = \"127.0.0.1:0\"\n\
         [http]\nlisten = \"127.0.0.1:0\"\n\
         [log]\nlevel = \"warn\"\n\
         [lake]\ncommit_interval = \"200ms\"\n\
         {more}\n"
    );
    std::fs::write(&file, text).expect("configuration is written");
    file
}

/// Runs `tarn` to its end.
pub(crate) fn run(arguments: &[&str]) -> Output {
    let mut command = command();
    command.args(arguments).output().expect("tarn runs")
}

/// `tarn` without the environment's settings.
pub(crate) fn command() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tarn"));
    for (name, _) in std::env::vars() {
        if name.starts_with("TARN_") {
            command.env_remove(name);
        }
    }
    command
}

/// A running `tarn serve`. Dropping it kills it.
pub(crate) struct Tarn {
    child: Child,
    out: BufReader<ChildStdout>,
    pub(crate) nats: SocketAddr,
    pub(crate) mqtt: SocketAddr,
    pub(crate) http: SocketAddr,
    pub(crate) monitor: SocketAddr,
}

impl Tarn {
    /// All roles; returns once it says that it is ready.
    pub(crate) fn start(config: &Path) -> Tarn {
        Tarn::start_with(config, &[])
    }

    /// With more arguments; returns once it says that it is ready. A listener that doesn't run has an address of zeros.
    pub(crate) fn start_with(config: &Path, more: &[&str]) -> Tarn {
        let mut child = command()
            .arg("serve")
            .arg("--config")
            .arg(config)
            .args(more)
            .stdout(Stdio::piped())
            .spawn()
            .expect("tarn starts");
        let mut out = BufReader::new(child.stdout.take().expect("stdout is piped"));
        let mut lines = Vec::new();
        loop {
            let mut line = String::new();
            let read = out.read_line(&mut line).expect("stdout is text");
            assert!(
                read > 0,
                "tarn ended before it was ready: {lines:?}, {:?}",
                child.wait()
            );
            if line.trim() == "tarn is ready" {
                break;
            }
            lines.push(line);
        }
        let address = |name: &str| -> SocketAddr {
            let line = lines.iter().find(|line| line.starts_with(name));
            let word = line
                .and_then(|line| line.split_whitespace().nth(1))
                .unwrap_or("0.0.0.0:0");
            word.parse().unwrap_or_else(|_| panic!("{line:?}"))
        };
        let (nats, mqtt) = (address("NATS"), address("MQTT"));
        let (http, monitor) = (address("HTTP"), address("monitoring"));
        Tarn {
            child,
            out,
            nats,
            mqtt,
            http,
            monitor,
        }
    }

    pub(crate) fn nats_url(&self) -> String {
        format!("nats://{}", self.nats)
    }

    pub(crate) fn catalog(&self) -> String {
        format!("http://{}/catalog", self.http)
    }

    pub(crate) fn signal(&self, signal: rustix::process::Signal) {
        let pid = i32::try_from(self.child.id())
            .ok()
            .and_then(rustix::process::Pid::from_raw)
            .expect("a process id");
        rustix::process::kill_process(pid, signal).expect("the process is there");
    }

    /// SIGTERM; returns the exit code and what it printed after that.
    pub(crate) fn stop(mut self) -> (Option<i32>, String) {
        self.signal(rustix::process::Signal::TERM);
        let code = self.wait(Duration::from_secs(30));
        let mut rest = String::new();
        self.out.read_to_string(&mut rest).expect("stdout is text");
        (code, rest)
    }

    /// SIGKILL.
    pub(crate) fn kill(mut self) {
        self.child.kill().expect("the process is there");
        self.child.wait().expect("it ends");
    }

    fn wait(&mut self, limit: Duration) -> Option<i32> {
        let deadline = Instant::now() + limit;
        while Instant::now() < deadline {
            if let Some(status) = self.child.try_wait().expect("the child can be waited for") {
                return status.code();
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        panic!("tarn did not end within {limit:?}");
    }
}

impl Drop for Tarn {
    fn drop(&mut self) {
        // Ended already, where the test went well.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Status and body of a GET.
pub(crate) fn get(address: SocketAddr, path: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).expect("HTTP answers");
    stream
        .set_read_timeout(Some(Duration::from_secs(10)))
        .expect("a time-out");
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: tarn\r\nConnection: close\r\n\r\n"
    )
    .expect("the request goes out");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("the answer is text");
    let status = answer
        .split_whitespace()
        .nth(1)
        .and_then(|code| code.parse().ok())
        .expect("a status line");
    let body = answer
        .split_once("\r\n\r\n")
        .map(|(_, body)| body.to_owned())
        .unwrap_or_default();
    (status, body)
}
