//! What tells other processes of this one: the pid file, the ports file, signals.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use rustix::process::{Pid, Signal, kill_process};

/// Files that are removed when the process ends in order.
#[derive(Debug, Default)]
pub(super) struct Files(Vec<PathBuf>);

impl Files {
    /// Writes this process's id into `path`.
    pub(super) fn pid(&mut self, path: &Path) -> Result<(), String> {
        self.write(path, std::process::id().to_string())
    }

    /// Writes `<name>_<pid>.ports` into `dir`: where each service listens, as URLs.
    pub(super) fn ports(&mut self, dir: &Path, urls: &BTreeMap<&str, Vec<String>>) -> Result<(), String> {
        let path = dir.join(format!("nats-server_{}.ports", std::process::id()));
        let json = serde_json::to_string(urls).map_err(|err| err.to_string())?;
        // A reader must never see half of it.
        let whole = path.with_extension("ports.tmp");
        std::fs::write(&whole, json).map_err(|err| unwritable(&whole, &err))?;
        std::fs::rename(&whole, &path).map_err(|err| unwritable(&path, &err))?;
        self.0.push(path);
        Ok(())
    }

    fn write(&mut self, path: &Path, text: String) -> Result<(), String> {
        std::fs::write(path, text).map_err(|err| unwritable(path, &err))?;
        self.0.push(path.to_owned());
        Ok(())
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        for path in &self.0 {
            if let Err(err) = std::fs::remove_file(path) {
                tracing::warn!(error = %err, path = %path.display(), "a file of this process stays behind");
            }
        }
    }
}

fn unwritable(path: &Path, err: &std::io::Error) -> String {
    format!(
        "{}: {err}; set another path, or give this user the right to write there",
        path.display()
    )
}

/// A folder that goes when the process does: the store of a broker without JetStream, which keeps nothing.
#[derive(Debug)]
pub(super) struct Scratch(PathBuf);

impl Scratch {
    pub(super) fn new() -> Result<Scratch, String> {
        let name = format!(
            "tarn-broker-{}-{}",
            std::process::id(),
            uuid::Uuid::now_v7().simple()
        );
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir(&path).map_err(|err| unwritable(&path, &err))?;
        Ok(Scratch(path))
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(err) = std::fs::remove_dir_all(&self.0) {
            tracing::warn!(error = %err, path = %self.0.display(), "a folder of this process stays behind");
        }
    }
}

/// A URL of where something listens.
pub(super) fn url(scheme: &str, at: SocketAddr) -> String {
    format!("{scheme}://{at}")
}

/// Sends a signal: `command` is `ldm`, `stop`, `quit`, `term`, `reopen` or `reload`, then maybe `=` and a process id or the
/// path of a file that holds one.
pub(super) fn send(command: &str) -> Result<(), String> {
    let (command, target) = command.split_once('=').unwrap_or((command, ""));
    let signal = match command {
        "stop" => Signal::KILL,
        "quit" => Signal::INT,
        "term" => Signal::TERM,
        "reopen" => Signal::USR1,
        "ldm" => Signal::USR2,
        "reload" => Signal::HUP,
        _ => {
            return Err(format!(
                "unknown signal {command:?}; there are ldm, stop, quit, term, reopen and reload"
            ));
        }
    };
    if target.is_empty() {
        return Err(format!(
            "which process? write --signal {command}=<pid>, or the path of a pid file"
        ));
    }
    let text = std::fs::read_to_string(target).unwrap_or_else(|_| target.to_owned());
    let pid = text
        .trim()
        .parse()
        .ok()
        .filter(|pid| *pid > 0)
        .and_then(Pid::from_raw);
    let Some(pid) = pid else {
        return Err(format!("invalid pid: {target}"));
    };
    kill_process(pid, signal).map_err(|err| format!("signal {command:?} {}: {err}", text.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_that_can_not_be_sent_are_refused() {
        assert!(
            send("dance=1")
                .expect_err("refused")
                .contains("unknown signal \"dance\"")
        );
        assert!(send("ldm").expect_err("refused").contains("--signal ldm=<pid>"));
        assert_eq!(send("ldm=nobody").expect_err("refused"), "invalid pid: nobody");
        assert_eq!(send("ldm=-1").expect_err("refused"), "invalid pid: -1");
    }

    #[test]
    fn files_are_there_while_the_process_is() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let pid = dir.path().join("pid");
        let mut files = Files::default();
        files.pid(&pid).expect("written");
        let at = "127.0.0.1:4222".parse().expect("an address");
        files
            .ports(dir.path(), &BTreeMap::from([("nats", vec![url("nats", at)])]))
            .expect("written");
        assert_eq!(
            std::fs::read_to_string(&pid).expect("read"),
            std::process::id().to_string()
        );
        let ports = dir
            .path()
            .join(format!("nats-server_{}.ports", std::process::id()));
        assert_eq!(
            std::fs::read_to_string(ports).expect("read"),
            r#"{"nats":["nats://127.0.0.1:4222"]}"#
        );
        drop(files);
        assert_eq!(std::fs::read_dir(dir.path()).expect("read").count(), 0);
    }
}
