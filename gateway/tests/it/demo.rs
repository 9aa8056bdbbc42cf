//! `tarn demo` and what it leaves: the figures, the ledger, the tables.

use std::process::Stdio;
use std::time::Duration;

use crate::process::{command, run};

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The number in the line that begins with `name`.
fn figure(said: &str, name: &str) -> u64 {
    let line = said.lines().find(|line| line.trim_start().starts_with(name));
    let number = line
        .and_then(|line| line.split_whitespace().last())
        .unwrap_or_else(|| panic!("{name}: {said}"));
    number
        .replace(',', "")
        .parse()
        .unwrap_or_else(|_| panic!("{name}: {number}"))
}

#[test]
fn a_demo_holds_and_its_data_can_be_verified_again() {
    let folder = tempfile::tempdir().expect("temporary directory");
    let dir = folder.path().join("demo");
    let dir = dir.to_str().expect("UTF-8");
    let demo = run(&["demo", "--devices", "10", "--seconds", "3", "--data-dir", dir]);
    let said = text(&demo.stdout);
    assert_eq!(demo.status.code(), Some(0), "{said}\n{}", text(&demo.stderr));
    assert_eq!(figure(&said, "acknowledged messages"), 600, "{said}");
    assert_eq!(
        (figure(&said, "lost"), figure(&said, "duplicated")),
        (0, 0),
        "{said}"
    );
    assert_eq!(figure(&said, "devices"), 10, "{said}");
    assert_eq!(
        figure(&said, "dead letters"),
        figure(&said, "malformed messages sent"),
        "{said}"
    );
    assert!(figure(&said, "windows equal to GROUP BY") > 0, "{said}");
    for engine in ["Trino", "DuckDB", "PyIceberg"] {
        assert!(said.contains(engine), "{said}");
    }

    let ledger = format!("{dir}/demo-ledger.jsonl");
    let verified = run(&["verify", "--ledger", &ledger, "--lake", dir, "--wait", "0s"]);
    assert_eq!(
        verified.status.code(),
        Some(0),
        "{}{}",
        text(&verified.stdout),
        text(&verified.stderr)
    );

    // One row less in the ledger's favour: a message that was acknowledged, and is not in the tables.
    let stored = std::fs::read_to_string(&ledger).expect("the ledger is text");
    let sent = stored.lines().filter(|line| line.contains("\"m\":")).count();
    let more = format!(
        "{{\"m\":{sent},\"at\":1,\"p\":\"nats\",\"s\":\"sensors.power.x\",\"d\":\"x\",\"n\":\"power\",\"r\":[[\"value\",1,2.5]]}}\n\
         {{\"at\":2,\"ack\":[{sent}]}}\n"
    );
    std::fs::write(&ledger, stored + &more).expect("written");
    let verified = run(&["verify", "--ledger", &ledger, "--lake", dir, "--wait", "0s"]);
    assert_eq!(verified.status.code(), Some(1), "{}", text(&verified.stdout));
    assert!(
        text(&verified.stdout).contains("DOES NOT HOLD"),
        "{}",
        text(&verified.stdout)
    );

    let listed = run(&["table", "ls", "--lake", dir]);
    assert!(
        text(&listed.stdout).contains("readings_1m"),
        "{}",
        text(&listed.stdout)
    );
    let again = run(&["demo", "--data-dir", dir]);
    assert_eq!(again.status.code(), Some(2), "a demo counts from zero");
}

/// Each looks for free ports while the others take them.
#[test]
fn demos_at_the_same_time_do_not_mind_each_other() {
    let start = || {
        command()
            .args(["demo", "--devices", "5", "--seconds", "1"])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("tarn starts")
    };
    let demos = [start(), start(), start()];
    for demo in demos {
        let ended = demo.wait_with_output().expect("it ends");
        assert_eq!(ended.status.code(), Some(0), "{}", text(&ended.stderr));
    }
}

#[test]
fn an_interrupted_demo_ends_and_leaves_nothing() {
    let mut child = command()
        .args(["demo", "--devices", "5", "--seconds", "60"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("tarn starts");
    let folder = std::env::temp_dir().join(format!("tarn-demo-{}", child.id()));
    let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
    while !folder.join("demo-ledger.jsonl").exists() {
        assert!(
            tokio::time::Instant::now() < deadline,
            "the demo did not begin: {:?}",
            child.try_wait()
        );
        std::thread::sleep(Duration::from_millis(20));
    }
    let pid = i32::try_from(child.id())
        .ok()
        .and_then(rustix::process::Pid::from_raw)
        .expect("a process id");
    rustix::process::kill_process(pid, rustix::process::Signal::INT).expect("the process is there");
    let status = child.wait().expect("it ends");
    assert_eq!(status.code(), Some(1));
    assert!(!folder.exists(), "{} is still there", folder.display());
}
