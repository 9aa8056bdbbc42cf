//! What must be refused: one clear message that names the thing and the next step, and the right exit code.

use std::net::TcpListener;
use std::path::Path;
use std::process::Output;
use std::time::Duration;

use crate::process::{Tarn, command, config, get, run};

/// Exit code and standard error.
fn refused(output: &Output) -> (Option<i32>, String) {
    (
        output.status.code(),
        String::from_utf8_lossy(&output.stderr).into_owned(),
    )
}

fn serve(config: &Path, more: &[&str]) -> (Option<i32>, String) {
    let config = config.to_str().expect("UTF-8");
    let mut arguments = vec!["serve", "--config", config];
    arguments.extend(more);
    // The lines of the log are not the message.
    arguments.extend(["--log-level", "off"]);
    refused(&run(&arguments))
}

fn assert_says(said: &str, parts: &[&str]) {
    assert!(said.lines().all(|line| line.starts_with("tarn: ")), "{said}");
    for part in parts {
        assert!(said.contains(part), "`{part}` is missing in: {said}");
    }
}

#[test]
fn unknown_keys_and_bad_values() {
    let folder = tempfile::tempdir().expect("temporary directory");
    let file = config(folder.path(), "comit_rows = 5\n");
    let (code, said) = serve(&file, &[]);
    assert_eq!(code, Some(2), "{said}");
    assert_says(
        &said,
        &[
            file.to_str().expect("UTF-8"),
            "lake.comit_rows",
            "did you mean `lake.commit_rows`?",
        ],
    );
    assert!(
        !folder.path().join("data").exists(),
        "a refused configuration leaves nothing"
    );

    let checked = run(&["check-config", "--config", file.to_str().expect("UTF-8")]);
    assert_eq!(refused(&checked), (Some(2), said));
}

#[test]
fn an_open_listener_without_authentication() {
    let folder = tempfile::tempdir().expect("temporary directory");
    let file = config(folder.path(), "");
    let (code, said) = serve(&file, &["--mqtt-listen", "0.0.0.0:0"]);
    assert_eq!(code, Some(2), "{said}");
    assert_says(&said, &["--mqtt-listen", "0.0.0.0:0", "allow_anonymous = true"]);
}

#[test]
fn a_port_in_use_names_the_setting() {
    let folder = tempfile::tempdir().expect("temporary directory");
    let file = config(folder.path(), "");
    let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = taken.local_addr().expect("address").to_string();
    for (flag, setting) in [
        ("--nats-listen", "listen"),
        ("--monitor-listen", "listen"),
        ("--mqtt-listen", "mqtt.listen"),
        ("--http-listen", "http.listen"),
    ] {
        let (code, said) = serve(&file, &[flag, &address]);
        assert_eq!(code, Some(1), "{flag}: {said}");
        assert_says(&said, &[&address, setting]);
    }
    drop(taken);
    // Nothing half-started is left: the same configuration starts now.
    let tarn = Tarn::start(&file);
    assert_eq!(tarn.stop().0, Some(0));
}

#[test]
fn a_data_directory_that_can_not_be_made() {
    let folder = tempfile::tempdir().expect("temporary directory");
    let file = config(folder.path(), "");
    std::fs::write(folder.path().join("data"), b"a file").expect("written");
    let (code, said) = serve(&file, &[]);
    assert_eq!(code, Some(1), "{said}");
    assert_says(
        &said,
        &[
            folder.path().join("data").to_str().expect("UTF-8"),
            "can't be written",
            "--data-dir",
        ],
    );
}

#[test]
fn a_data_directory_of_another_process() {
    let folder = tempfile::tempdir().expect("temporary directory");
    let file = config(folder.path(), "");
    let first = Tarn::start(&file);
    let (code, said) = serve(&file, &[]);
    assert_eq!(code, Some(1), "{said}");
    assert_says(&said, &["in use by another tarn (process ", "data_dir"]);
    assert_eq!(first.stop().0, Some(0));
}

#[test]
fn a_catalog_of_a_newer_version_or_none_at_all() {
    let folder = tempfile::tempdir().expect("temporary directory");
    let file = config(folder.path(), "");
    assert_eq!(Tarn::start(&file).stop().0, Some(0));
    let catalog = folder.path().join("data/catalog.db");
    let connection = rusqlite::Connection::open(&catalog).expect("the catalog opens");
    let changed = connection
        .execute("UPDATE tarn_lake SET format_version = 99", [])
        .expect("changed");
    assert_eq!(changed, 1);
    drop(connection);
    let (code, said) = serve(&file, &[]);
    assert_eq!(code, Some(1), "{said}");
    assert_says(
        &said,
        &[
            catalog.to_str().expect("UTF-8"),
            "format version 99",
            "upgrade tarn",
        ],
    );

    std::fs::write(
        &catalog,
        b"this is no database, and it is long enough to be read as a page header",
    )
    .expect("written");
    let (code, said) = serve(&file, &[]);
    assert_eq!(code, Some(1), "{said}");
    assert_says(&said, &[catalog.to_str().expect("UTF-8"), "not a database"]);
}

/// Publishes through the binary itself, so that the store has records.
fn fill(tarn: &Tarn) {
    let filled = run(&[
        "simulate",
        "--protocol",
        "nats",
        "--url",
        &tarn.nats_url(),
        "--rate",
        "200",
        "--duration",
        "1s",
    ]);
    assert_eq!(refused(&filled).0, Some(0), "{}", refused(&filled).1);
}

#[test]
fn a_broken_record_is_lost_alone_and_counted() {
    let folder = tempfile::tempdir().expect("temporary directory");
    let file = config(folder.path(), "");
    let tarn = Tarn::start(&file);
    fill(&tarn);
    assert_eq!(tarn.stop().0, Some(0));

    let stream = folder.path().join("data/broker/streams/SENSORS");
    let segment = std::fs::read_dir(&stream)
        .expect("the stream's folder")
        .map(|entry| entry.expect("entry").path())
        .find(|path| path.extension().is_some_and(|end| end == "seg"))
        .expect("a segment");
    let mut bytes = std::fs::read(&segment).expect("read");
    let payloads: Vec<usize> = bytes
        .windows(2)
        .enumerate()
        .filter(|(_, pair)| pair == b"{\"")
        .map(|(at, _)| at)
        .collect();
    bytes[payloads[payloads.len() / 2] + 2] ^= 0xff;
    std::fs::write(&segment, bytes).expect("written");

    let store = folder.path().join("data/broker");
    let verify = ["broker", "--verify-store", "-sd", store.to_str().expect("UTF-8")];
    let looked = run(&verify);
    let said = String::from_utf8_lossy(&looked.stdout).into_owned();
    assert_eq!(looked.status.code(), Some(1), "{said}");
    let segment = segment.to_str().expect("UTF-8");
    let parts = [
        "BAD   stream SENSORS: ",
        segment,
        " at byte ",
        ", sequence ",
        "are damaged",
        "1 lost",
    ];
    assert!(parts.iter().all(|part| said.contains(part)), "{said}");

    let tarn = Tarn::start(&file);
    let (code, said) = refused(&run(&verify));
    assert_eq!(code, Some(1), "{said}");
    assert_says(&said, &["a running broker has", "stop it first"]);
    let (_, metrics) = get(tarn.http, "/metrics");
    assert!(metrics.contains("tarn_broker_lost_records 1\n"), "{metrics}");
    let (_, jsz) = get(tarn.monitor, "/jsz?streams=1");
    let jsz: serde_json::Value = serde_json::from_str(&jsz).expect("JSON");
    let streams = jsz["account_details"][0]["stream_detail"].as_array();
    let state = streams
        .and_then(|all| all.iter().find(|stream| stream["name"] == "SENSORS"))
        .map(|stream| stream["state"].clone())
        .expect("the stream");
    assert_eq!(state["lost"]["msgs"].as_array().map(Vec::len), Some(1), "{state}");
    assert_eq!(state["messages"], 199);
    assert_eq!(tarn.stop().0, Some(0));

    for copy in ["meta.0", "meta.1"] {
        let copy = stream.join(copy);
        let mut bytes = std::fs::read(&copy).expect("read");
        bytes[50] ^= 0xff;
        std::fs::write(&copy, bytes).expect("written");
    }
    let (code, said) = serve(&file, &[]);
    assert_eq!(code, Some(1), "{said}");
    assert_says(
        &said,
        &[
            stream.to_str().expect("UTF-8"),
            "is broken",
            "restore it from a backup",
        ],
    );
}

#[test]
fn a_warehouse_that_is_gone() {
    let folder = tempfile::tempdir().expect("temporary directory");
    let file = config(folder.path(), "");
    assert_eq!(Tarn::start(&file).stop().0, Some(0));
    std::fs::remove_dir_all(folder.path().join("data/warehouse")).expect("removed");
    let (code, said) = serve(&file, &[]);
    assert_eq!(code, Some(1), "{said}");
    assert_says(&said, &["table ", "restore it and the catalog from one backup"]);
}

#[test]
fn a_fleet_without_a_server() {
    let folder = tempfile::tempdir().expect("temporary directory");
    let ledger = folder.path().join("ledger.jsonl");
    let ledger = ledger.to_str().expect("UTF-8");
    let simulate = |ledger: &str| {
        let began = tokio::time::Instant::now();
        let output = run(&[
            "simulate",
            "--protocol",
            "mqtt",
            "--url",
            "mqtt://me:secret@127.0.0.1:1",
            "--duration",
            "1s",
            "--ledger",
            ledger,
        ]);
        assert!(began.elapsed() < Duration::from_secs(15));
        refused(&output)
    };
    let (code, said) = simulate(ledger);
    assert_eq!(code, Some(1), "{said}");
    assert_says(
        &said,
        &["no server at mqtt://127.0.0.1:1:", "tarn serve", "--url mqtt://"],
    );
    assert!(!Path::new(ledger).exists(), "nothing was sent");

    let file = config(folder.path(), "");
    let tarn = Tarn::start(&file);
    std::fs::write(ledger, b"evidence").expect("written");
    let output = run(&[
        "simulate",
        "--protocol",
        "nats",
        "--url",
        &tarn.nats_url(),
        "--ledger",
        ledger,
    ]);
    let (code, said) = refused(&output);
    assert_eq!(code, Some(1), "{said}");
    assert_says(&said, &[ledger, "exists already", "name another file"]);
    assert_eq!(std::fs::read(ledger).expect("read"), b"evidence");
    assert_eq!(tarn.stop().0, Some(0));
}

#[test]
fn the_broker_alone_names_its_flags() {
    let folder = tempfile::tempdir().expect("temporary directory");
    let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = taken.local_addr().expect("address").port().to_string();
    let store = folder.path().to_str().expect("UTF-8");
    for (flags, flag) in [
        (["-p", &port, "-m", "0"], "-p"),
        (["-p", "-1", "-m", &port], "-m"),
    ] {
        let mut arguments = vec!["broker", "-sd", store];
        arguments.extend(flags);
        let (code, said) = refused(&run(&arguments));
        assert_eq!(code, Some(1), "{said}");
        assert!(said.contains(&format!("another port with {flag}")), "{said}");
    }
}

#[test]
fn a_lake_that_is_none() {
    for (lake, code, next_step) in [
        ("http://127.0.0.1:1/catalog", Some(1), "is tarn running there?"),
        ("s3://bucket/lake", Some(2), "or a data directory"),
    ] {
        let (found, said) = refused(&run(&["table", "show", "readings", "--lake", lake]));
        assert_eq!(found, code, "{said}");
        assert_says(&said, &[lake, next_step]);
    }
}

/// Needs the right to mount in a namespace of its own, and passes without a word where there is none.
#[test]
fn a_full_disk() {
    let folder = tempfile::tempdir().expect("temporary directory");
    let disk = folder.path().join("disk");
    std::fs::create_dir(&disk).expect("made");
    let script = "mount -t tmpfs -o size=8m none \"$1\" || exit 77; exec \"$0\" serve --data-dir \"$1/data\" --log-level off";
    let inside = std::process::Command::new("unshare")
        .args([
            "--user",
            "--map-root-user",
            "--mount",
            "sh",
            "-c",
            script,
            env!("CARGO_BIN_EXE_tarn"),
        ])
        .arg(&disk)
        .output();
    let Ok(output) = inside else { return };
    let (code, said) = refused(&output);
    if code == Some(77) || said.contains("unshare") {
        return;
    }
    assert_eq!(code, Some(1), "{said}");
    assert_says(
        &said,
        &["data directory", "MiB left and needs 64 MiB", "free some space"],
    );
}

#[test]
fn roles_that_can_not_run_alone() {
    let folder = tempfile::tempdir().expect("temporary directory");
    let file = config(folder.path(), "");
    for (only, next_step) in [("gateway", "gateway,broker"), ("processor", "nats.url")] {
        let (code, said) = serve(&file, &["--only", only]);
        assert_eq!(code, Some(2), "{said}");
        assert_says(&said, &[next_step]);
    }
}

#[test]
fn a_second_signal_ends_at_once() {
    let folder = tempfile::tempdir().expect("temporary directory");
    let tarn = Tarn::start(&config(folder.path(), ""));
    tarn.signal(rustix::process::Signal::TERM);
    // Whether the drain or the second signal comes first, it ends, and soon.
    let began = tokio::time::Instant::now();
    let (code, said) = tarn.stop();
    assert!(matches!(code, Some(0 | 1)), "{code:?} {said}");
    assert!(began.elapsed() < Duration::from_secs(15));
}

#[test]
fn bad_usage_and_help() {
    assert_eq!(run(&["serve", "--frobnicate"]).status.code(), Some(2));
    assert_eq!(run(&[]).status.code(), Some(2));
    assert_eq!(run(&["--help"]).status.code(), Some(0));
    let settings = command()
        .arg("check-config")
        .current_dir(std::env::temp_dir())
        .output()
        .expect("tarn runs");
    assert_eq!(settings.status.code(), Some(0));
    assert!(String::from_utf8_lossy(&settings.stdout).contains("listen = \"127.0.0.1:1883\""));
}
