//! `tarn doctor`: what an operator would check by hand.

use std::fs::{self, File};
use std::io::{self, Write};
use std::net::TcpListener;
use std::path::Path;
use std::time::Duration;

use clap::Args;
use tarn_processor::storage::Warehouse;
use tarn_processor::{Lake, LakeError, LakeOptions};
use tokio::time::Instant;

use super::settings::SettingsArgs;
use super::{Failure, on_runtime, verify_store};
use crate::config::{Listen, Settings};
use crate::present::say;
use crate::serve::{DataDir, DataDirError, FREE_BYTES_MIN, free_bytes, next_step};

/// Flags of `tarn doctor`.
#[derive(Args, Debug)]
pub(super) struct DoctorArgs {
    #[command(flatten)]
    settings: SettingsArgs,
}

/// What one check found.
enum Finding {
    Good(String),
    /// Works, but an operator should know.
    Doubtful(String),
    Bad(String),
}

use Finding::{Bad, Doubtful, Good};

pub(super) fn run(args: DoctorArgs) -> Result<(), Failure> {
    let loaded = args.settings.load()?;
    let from = loaded
        .file
        .map_or("defaults, no file".to_owned(), |file| file.display().to_string());
    let settings = loaded.settings;
    let mut bad = 0;
    let mut report = |name: &str, finding: Finding| {
        let (mark, text) = match finding {
            Good(text) => ("ok  ", text),
            Doubtful(text) => ("note", text),
            Bad(text) => {
                bad += 1;
                ("BAD ", text)
            }
        };
        say!("{mark}  {name:<15} {text}");
    };
    report("configuration", Good(format!("valid ({from})")));
    let running = data_dir(&settings, &mut report);
    report("free space", space(&settings));
    report("disk sync", sync_time(&settings.data_dir));
    report("clock", clock(&settings));
    report("open files", open_files());
    for (name, listen) in [
        ("nats.listen", &settings.nats.listen),
        ("monitor.listen", &settings.monitor.listen),
        ("mqtt.listen", &settings.mqtt.listen),
        ("http.listen", &settings.http.listen),
    ] {
        report(name, port(listen, running));
    }
    report("store", store(&settings, running));
    report("catalog", on_runtime(catalog(&settings))?);
    if bad == 0 {
        Ok(())
    } else {
        Err(Failure::DidNotHold)
    }
}

/// Whether a running tarn holds the directory.
fn data_dir(settings: &Settings, report: &mut impl FnMut(&str, Finding)) -> bool {
    let dir = settings.data_dir.display();
    if !settings.data_dir.exists() {
        report(
            "data_dir",
            Good(format!("{dir} does not exist yet; `tarn serve` makes it")),
        );
        return false;
    }
    match DataDir::claim(&settings.data_dir) {
        Ok(_) => report("data_dir", Good(format!("{dir} can be written"))),
        Err(DataDirError::InUse { owner, .. }) => {
            let process = owner.map_or("another process".to_owned(), |pid| format!("process {pid}"));
            report(
                "data_dir",
                Good(format!("{dir} is held by a running tarn ({process})")),
            );
            return true;
        }
        Err(error) => report("data_dir", Bad(error.to_string())),
    }
    false
}

fn space(settings: &Settings) -> Finding {
    let mut dir = settings.data_dir.as_path();
    while !dir.exists() {
        dir = match dir.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
    }
    const COMFORTABLE_BYTES: u64 = 2 << 30;
    match free_bytes(dir) {
        Ok(bytes) if bytes < FREE_BYTES_MIN => Bad(format!(
            "{} MiB left on the disk of {}; tarn would not start",
            bytes >> 20,
            dir.display()
        )),
        Ok(bytes) if bytes < COMFORTABLE_BYTES => Doubtful(format!(
            "{} MiB left on the disk of {}; free some, or lower max_age",
            bytes >> 20,
            dir.display()
        )),
        Ok(bytes) => Good(format!("{:.1} GiB", bytes as f64 / f64::from(1 << 30))),
        Err(err) => Bad(format!("{}: {err}", dir.display())),
    }
}

/// Times small synced writes: each acknowledgement waits for one.
fn sync_time(dir: &Path) -> Finding {
    const ROUNDS: u32 = 20;
    let measure = || -> io::Result<Duration> {
        let path = dir.join("tarn.sync-probe");
        let mut file = File::create(&path)?;
        let began = Instant::now();
        for _ in 0..ROUNDS {
            file.write_all(&[0; 4096])?;
            file.sync_data()?;
        }
        let took = began.elapsed() / ROUNDS;
        fs::remove_file(&path)?;
        Ok(took)
    };
    if !dir.exists() {
        return Good("not measured: no data directory yet".to_owned());
    }
    match measure() {
        Ok(took) if took > Duration::from_millis(50) => Doubtful(format!(
            "a synced write takes {took:.1?}; acknowledgements will be that late; use a faster disk"
        )),
        Ok(took) => Good(format!("a synced write takes {took:.1?}")),
        Err(err) => Bad(format!("{}: {err}", dir.display())),
    }
}

/// Records and windows carry wall-clock times.
fn clock(settings: &Settings) -> Finding {
    let now = crate::clock::now();
    // The catalog was written in the past, whatever the clock says.
    let written = fs::metadata(settings.catalog_file())
        .and_then(|meta| meta.modified())
        .ok();
    let written = written.map(chrono::DateTime::<chrono::Utc>::from);
    let text = now.format("%Y-%m-%d %H:%M:%SZ");
    match written {
        Some(written) if written > now + chrono::TimeDelta::minutes(1) => Bad(format!(
            "{text} is before the catalog's last change ({}); set the clock",
            written.format("%Y-%m-%d %H:%M:%SZ")
        )),
        _ if chrono::Datelike::year(&now) < 2025 => Bad(format!("{text} can't be; set the clock")),
        _ => Good(text.to_string()),
    }
}

fn open_files() -> Finding {
    const COMFORTABLE: u64 = 4096;
    match rustix::process::getrlimit(rustix::process::Resource::Nofile).current {
        Some(limit) if limit < COMFORTABLE => Doubtful(format!(
            "{limit} allowed; each connection takes one: raise it (ulimit -n, LimitNOFILE) before many devices connect"
        )),
        Some(limit) => Good(format!("{limit} allowed")),
        None => Good("no limit".to_owned()),
    }
}

fn port(listen: &Listen, running: bool) -> Finding {
    let Some(address) = listen.address() else {
        return Good("off".to_owned());
    };
    match TcpListener::bind(&address) {
        Ok(_) if matches!(listen, Listen::At { port: 0, .. }) => {
            Good(format!("{address}: the kernel chooses a free port"))
        }
        Ok(_) => Good(format!("{address} is free")),
        Err(err) if err.kind() == io::ErrorKind::AddrInUse && running => Good(format!(
            "{address} is in use, as it should be by the running tarn"
        )),
        Err(err) if err.kind() == io::ErrorKind::AddrInUse => Bad(format!(
            "{address} is in use by another process; stop it or set another address"
        )),
        Err(err) => Bad(format!("{address}: {err}; set an address of this machine")),
    }
}

fn store(settings: &Settings, running: bool) -> Finding {
    if running {
        return Good("not looked into: the running tarn has it; it reads for damage by itself".to_owned());
    }
    match verify_store::summary(&settings.broker_dir()) {
        Ok(text) => Good(text),
        Err(text) => Bad(text),
    }
}

fn broken(error: &LakeError) -> Finding {
    Bad(format!("{error}{}", next_step(error)))
}

async fn catalog(settings: &Settings) -> Result<Finding, Failure> {
    let catalog = settings.catalog_file();
    if !catalog.exists() {
        return Ok(Good("none yet; `tarn serve` makes it".to_owned()));
    }
    let options = LakeOptions {
        warehouse: Warehouse::Local(settings.warehouse_dir()),
        catalog,
    };
    let lake = match Lake::open(options).await {
        Ok(lake) => lake,
        Err(error) => return Ok(broken(&error)),
    };
    let names = match lake.table_names().await {
        Ok(names) => names,
        Err(error) => return Ok(broken(&error)),
    };
    for name in &names {
        if let Err(error) = lake.load(name).await {
            return Ok(broken(&error));
        }
    }
    Ok(Good(format!(
        "{} opens; tables: {}",
        settings.catalog_file().display(),
        names.join(", ")
    )))
}
