//! Backups: taken, restored, broken off, and made to harm.

use serde_json::{Value, json};

use super::world::World;
use crate::archive::entry::{Entry, MAGIC};
use crate::archive::s2::FrameWriter;

const TO: &str = "_INBOX.backup";
const SECOND: u64 = 1_000_000_000;

fn parse(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

/// Takes a backup in small chunks, one at a time. Gives what a client keeps: the answer, and the bytes.
fn backup(world: &mut World, stream: &str) -> (Value, Vec<u8>) {
    let request = json!({"deliver_subject": TO, "chunk_size": 1024, "window_size": 1024});
    let answer = world.ask(&format!("$JS.API.STREAM.SNAPSHOT.{stream}"), &request.to_string());
    let mut bytes = Vec::new();
    for _ in 0..10_000 {
        let chunks = world.got(TO);
        assert!(chunks.len() <= 2, "a window of one chunk is kept");
        for chunk in chunks {
            bytes.extend_from_slice(chunk.payload());
            if chunk.payload().is_empty() {
                assert!(!chunk.headers().contains("500") && !chunk.headers().contains("408"));
                let answer = parse(&answer);
                assert_eq!(
                    answer["type"],
                    "io.nats.jetstream.api.v1.stream_snapshot_response"
                );
                let kept = json!({"config": answer["config"], "state": answer["state"]});
                return (kept, bytes);
            }
            if !chunk.reply().is_empty() {
                assert_eq!(chunk.payload().len(), 1024);
                world.transfer(chunk.reply(), b"");
            }
        }
    }
    panic!("the backup does not end");
}

fn begin_restore(world: &mut World, stream: &str, request: &Value) -> String {
    let answer = parse(&world.ask(&format!("$JS.API.STREAM.RESTORE.{stream}"), &request.to_string()));
    assert!(answer["error"].is_null(), "{answer}");
    answer["deliver_subject"].as_str().unwrap().to_owned()
}

/// Restores, and gives the last answer.
fn restore(world: &mut World, stream: &str, request: &Value, bytes: &[u8]) -> Value {
    let to = begin_restore(world, stream, request);
    for chunk in bytes.chunks(900) {
        let answer = world.transfer(&to, chunk).expect("chunks are answered");
        if !answer.payload().is_empty() {
            return parse(answer.text());
        }
    }
    parse(world.transfer(&to, b"").expect("the end is answered").text())
}

fn error_of(answer: &Value) -> (u64, String) {
    let error = &answer["error"];
    let text = error["description"].as_str().unwrap_or_default();
    (error["err_code"].as_u64().unwrap_or(0), text.to_owned())
}

/// A stream with holes, headers and consumers in the middle of their work.
fn filled(seed: u64) -> World {
    let mut world = World::new(seed);
    let config = json!({"name": "S", "subjects": ["s.>"], "max_msgs_per_subject": 40, "duplicate_window": 60_000_000_000_u64});
    world.ask("$JS.API.STREAM.CREATE.S", &config.to_string());
    for at in 0..200 {
        let headers = if at % 3 == 0 {
            format!("Nats-Msg-Id: {at}\r\n")
        } else {
            String::new()
        };
        world.publish(
            &format!("s.{}", at % 7),
            &headers,
            &format!("message {at} {}", "x".repeat(at)),
        );
    }
    for seq in [70, 71, 150, 200] {
        world.ask("$JS.API.STREAM.MSG.DELETE.S", &json!({"seq": seq}).to_string());
    }
    let durable = json!({"stream_name": "S", "config": {"durable_name": "C", "ack_policy": "explicit", "filter_subject": "s.1"}});
    world.ask("$JS.API.CONSUMER.DURABLE.CREATE.S.C", &durable.to_string());
    let other = json!({"stream_name": "S", "config": {"name": "M", "ack_policy": "explicit", "mem_storage": true, "inactive_threshold": 3_600_000_000_000_u64}});
    world.ask("$JS.API.CONSUMER.CREATE.S.M", &other.to_string());
    world.pull("S", "C", "5");
    let got = world.deliveries();
    world.ack(&got[0], "");
    world.ack(&got[2], "");
    world.pull("S", "M", "3");
    world.deliveries();
    world
}

fn consumer(world: &mut World, name: &str) -> Value {
    let mut info = parse(&world.ask(&format!("$JS.API.CONSUMER.INFO.S.{name}"), ""));
    for field in ["created", "ts"] {
        info[field] = Value::Null;
    }
    for field in ["delivered", "ack_floor"] {
        info[field]["last_active"] = Value::Null;
    }
    info
}

#[test]
fn a_backup_restored_is_the_same_stream() {
    let mut world = filled(1);
    let before = parse(&world.ask(
        "$JS.API.STREAM.INFO.S",
        "{\"deleted_details\":true,\"subjects_filter\":\">\"}",
    ));
    let consumers = [consumer(&mut world, "C"), consumer(&mut world, "M")];
    let messages: Vec<_> = (1..=200).map(|seq| world.message("S", seq)).collect();
    world.published();
    let (request, bytes) = backup(&mut world, "S");
    world.ask("$JS.API.STREAM.DELETE.S", "");
    let answer = restore(&mut world, "S", &request, &bytes);
    assert_eq!(answer["type"], "io.nats.jetstream.api.v1.stream_create_response");
    assert_eq!(answer["state"]["last_seq"], 200, "{answer}");
    let told: Vec<String> = world
        .published()
        .iter()
        .map(|event| event.subject.clone())
        .collect();
    for event in [
        "SNAPSHOT_CREATE.S",
        "SNAPSHOT_COMPLETE.S",
        "RESTORE_CREATE.S",
        "RESTORE_COMPLETE.S",
    ] {
        assert!(
            told.contains(&format!("$JS.EVENT.ADVISORY.STREAM.{event}")),
            "{told:?}"
        );
    }
    for restarts in 0..2 {
        let after = parse(&world.ask(
            "$JS.API.STREAM.INFO.S",
            "{\"deleted_details\":true,\"subjects_filter\":\">\"}",
        ));
        let mut state = after["state"].clone();
        state["consumer_count"] = before["state"]["consumer_count"].clone();
        assert_eq!(state, before["state"], "after {restarts} restarts");
        assert_eq!(after["config"], before["config"]);
        assert_eq!(consumer(&mut world, "C"), consumers[0]);
        assert!((1..=200).all(|seq| world.message("S", seq) == messages[seq as usize - 1]));
        let again = parse(&world.publish("s.x", "Nats-Msg-Id: 198\r\n", ""));
        assert_eq!(
            (again["duplicate"].clone(), again["seq"].clone()),
            (json!(true), json!(199))
        );
        if restarts == 0 {
            assert_eq!(consumer(&mut world, "M"), consumers[1]);
            world.restart();
        }
    }
}

/// Moves a stream out and back.
fn moved(world: &mut World) {
    let (request, bytes) = backup(world, "S");
    world.ask("$JS.API.STREAM.DELETE.S", "");
    let answer = restore(world, "S", &request, &bytes);
    assert!(answer["error"].is_null(), "{answer}");
}

#[test]
fn a_consumer_that_was_paused_is_paused_when_it_is_restored() {
    for in_memory in [false, true] {
        let mut world = World::new(5);
        world.ask("$JS.API.STREAM.CREATE.S", r#"{"name":"S","subjects":["s"]}"#);
        world.publish("s", "", "x");
        let config = json!({"durable_name": "C", "ack_policy": "explicit", "mem_storage": in_memory});
        let request = json!({"stream_name": "S", "config": config}).to_string();
        world.ask("$JS.API.CONSUMER.CREATE.S.C", &request);
        world.ask(
            "$JS.API.CONSUMER.PAUSE.S.C",
            r#"{"pause_until":"2023-11-14T22:13:30Z"}"#,
        );
        moved(&mut world);
        world.pull("S", "C", "1");
        assert!(world.deliveries().is_empty(), "in memory: {in_memory}");
        world.wait(20 * SECOND);
        assert_eq!(world.deliveries().len(), 1, "in memory: {in_memory}");
    }
}

#[test]
fn a_consumer_that_starts_behind_the_end_still_does_when_it_is_restored() {
    let mut world = World::new(6);
    world.ask("$JS.API.STREAM.CREATE.S", r#"{"name":"S","subjects":["s"]}"#);
    world.publish("s", "", "1");
    let config = json!({"durable_name": "C", "ack_policy": "explicit", "deliver_policy": "by_start_sequence", "opt_start_seq": 4});
    let request = json!({"stream_name": "S", "config": config}).to_string();
    world.ask("$JS.API.CONSUMER.CREATE.S.C", &request);
    moved(&mut world);
    for text in ["2", "3", "4"] {
        world.publish("s", "", text);
    }
    world.pull("S", "C", "5");
    let got: Vec<u64> = world.deliveries().iter().map(|one| one.stream_seq()).collect();
    assert_eq!(got, [4]);
}

#[test]
fn a_message_as_large_as_may_be_is_restored_with_its_resend_key() {
    let mut world = World::new(7);
    let config = r#"{"name":"S","subjects":["s"],"max_msg_size":1}"#;
    world.ask("$JS.API.STREAM.CREATE.S", config);
    world.publish_resend("s", "key", false).unwrap();
    moved(&mut world);
    assert!(world.publish_resend("s", "key", true).unwrap().duplicate);
}

#[test]
fn what_is_not_complete_is_not_there() {
    for seed in 0..20 {
        let mut world = filled(seed);
        let (request, bytes) = backup(&mut world, "S");
        world.ask("$JS.API.STREAM.DELETE.S", "");
        let to = begin_restore(&mut world, "S", &request);
        for chunk in bytes.chunks(700).take(3) {
            world.transfer(&to, chunk);
        }
        let created = parse(&world.ask("$JS.API.STREAM.CREATE.S", r#"{"name":"S","subjects":["other"]}"#));
        assert_eq!(created["error"]["err_code"], 10058, "the name is taken");
        let created = parse(&world.ask("$JS.API.STREAM.CREATE.T", r#"{"name":"T","subjects":["s.1"]}"#));
        assert_eq!(created["error"]["err_code"], 10065, "the subjects are taken");
        let info = parse(&world.ask("$JS.API.STREAM.INFO.S", ""));
        assert_eq!(info["error"]["err_code"], 10059);
        match seed % 3 {
            0 => world.crash(seed),
            1 => world.restart(),
            _ => world.wait(6 * SECOND),
        }
        let info = parse(&world.ask("$JS.API.STREAM.INFO.S", ""));
        assert_eq!(info["error"]["err_code"], 10059);
        let gone = world.transfer(&to, b"x").unwrap();
        assert!(gone.headers().contains("503"), "{}", gone.headers());
        let answer = restore(&mut world, "S", &request, &bytes);
        assert_eq!(answer["state"]["last_seq"], 200, "{answer}");
    }
}

#[test]
fn a_crash_after_the_answer_keeps_all_of_it() {
    for seed in 0..20 {
        let mut world = filled(seed);
        let (request, bytes) = backup(&mut world, "S");
        let state = consumer(&mut world, "C");
        world.ask("$JS.API.STREAM.DELETE.S", "");
        let answer = restore(&mut world, "S", &request, &bytes);
        world.crash(seed);
        let info = parse(&world.ask("$JS.API.STREAM.INFO.S", ""));
        assert_eq!(
            info["state"]["messages"], answer["state"]["messages"],
            "seed {seed}"
        );
        assert_eq!(consumer(&mut world, "C"), state, "seed {seed}");
    }
}

#[test]
fn a_client_that_goes_away_ends_its_snapshot() {
    let mut world = filled(3);
    world.published();
    let request =
        |to: &str| json!({"deliver_subject": to, "chunk_size": 1024, "window_size": 1024}).to_string();
    world.ask("$JS.API.STREAM.SNAPSHOT.S", &request("gone"));
    world.wait(3 * SECOND);
    assert!(world.got("gone")[0].headers().contains("408 No Interest"));
    world.ask("$JS.API.STREAM.SNAPSHOT.S", &request(TO));
    world.wait(6 * SECOND);
    let got = world.got(TO);
    assert!(got.last().unwrap().headers().contains("408 No Flow Response"));
    world.ask("$JS.API.STREAM.SNAPSHOT.S", &request(TO));
    let chunk = world.got(TO).remove(0);
    world.ask("$JS.API.STREAM.DELETE.S", "");
    world.transfer(chunk.reply(), b"");
    assert!(
        world
            .got(TO)
            .last()
            .unwrap()
            .headers()
            .contains("500 stream deleted")
    );
    let ends = world
        .published()
        .into_iter()
        .filter(|event| event.subject.contains("SNAPSHOT_COMPLETE"));
    let errors: Vec<Value> = ends.map(|event| parse(event.text())["error"].clone()).collect();
    assert_eq!(
        errors,
        [
            json!("no interest"),
            json!("no flow response"),
            json!("stream deleted")
        ]
    );
}

#[test]
fn requests_are_checked_as_nats_server_checks_them() {
    let mut world = filled(4);
    let mut code = |subject: &str, request: &str| {
        error_of(&parse(&world.ask(&format!("$JS.API.STREAM.{subject}"), request))).0
    };
    assert_eq!(code("SNAPSHOT.S", ""), 10003);
    assert_eq!(code("SNAPSHOT.NONE", r#"{"deliver_subject":"d"}"#), 10059);
    assert_eq!(code("SNAPSHOT.S", r#"{"deliver_subject":"a.*"}"#), 10015);
    assert_eq!(code("SNAPSHOT.S", r#"{"deliver":"a"}"#), 10025);
    assert_eq!(code("RESTORE.S", ""), 10003);
    assert_eq!(code("RESTORE.S", r#"{"config":{"name":"T"}}"#), 10056);
    assert_eq!(
        code("RESTORE.S", r#"{"config":{"name":"S","subjects":["s.>"]}}"#),
        10130
    );
    assert_eq!(
        code("RESTORE.T", r#"{"config":{"name":"T","subjects":["s.>"]}}"#),
        10065
    );
    assert_eq!(
        code("RESTORE.T", r#"{"config":{"name":"T","num_replicas":3}}"#),
        10074
    );
    for at in 1..=8 {
        let name = "R".repeat(at);
        begin_restore(
            &mut world,
            &name,
            &json!({"config": {"name": &name, "subjects": [&name]}}),
        );
    }
    let answer = parse(&world.ask("$JS.API.STREAM.RESTORE.T", r#"{"config":{"name":"T"}}"#));
    assert_eq!(error_of(&answer).0, 10062);
    for _ in 0..16 {
        world.ask("$JS.API.STREAM.SNAPSHOT.S", r#"{"deliver_subject":"nobody"}"#);
    }
    let answer = parse(&world.ask("$JS.API.STREAM.SNAPSHOT.S", r#"{"deliver_subject":"nobody"}"#));
    assert_eq!(error_of(&answer).0, 10064);
}

fn archive(entries: &[Entry<'_>]) -> Vec<u8> {
    let mut bytes = MAGIC.to_vec();
    for entry in entries {
        entry.put_head(&mut bytes);
        bytes.extend_from_slice(entry.headers);
        bytes.extend_from_slice(entry.payload);
    }
    compressed(&bytes)
}

fn compressed(bytes: &[u8]) -> Vec<u8> {
    let mut writer = FrameWriter::new();
    writer.write(bytes).unwrap();
    writer.flush().unwrap();
    writer.take(usize::MAX)
}

fn state(consumers: usize) -> Vec<u8> {
    json!({"first_seq": 1, "last_seq": 5, "consumer_count": consumers})
        .to_string()
        .into_bytes()
}

fn entry<'a>(name: &'a str, seq: u64, headers: &'a [u8], payload: &'a [u8]) -> Entry<'a> {
    Entry {
        name,
        time: 1,
        seq,
        headers,
        payload,
    }
}

#[test]
fn a_hostile_archive_leaves_nothing_behind() {
    let (none, one) = (state(0), state(1));
    let head = entry("state.json", 0, b"", &none);
    let with_one = entry("state.json", 0, b"", &one);
    let escaping = br#"{"config":{"name":"x"},"state":{}}"#;
    let ahead = br#"{"config":{"durable_name":"C","ack_policy":"explicit"},"state":{"delivered":{"consumer_seq":1,"stream_seq":3},"pending":{"3":{"Sequence":7}}}}"#;
    let block = b"NATS/1.0\r\nA: b\r\n\r\n";
    let bad: [(&str, Vec<u8>); 15] = [
        ("no frames", b"not compressed".to_vec()),
        ("no archive", compressed(&[b'x'; 2000])),
        ("cut off", archive(&[head.clone(), entry("s.1", 1, b"", b"x")])),
        ("only a head", archive(std::slice::from_ref(&head))),
        ("nothing", Vec::new()),
        ("no state", archive(&[entry("s.1", 1, b"", b"x")])),
        ("bad state", archive(&[entry("state.json", 0, b"", b"{")])),
        (
            "no sequence",
            archive(&[head.clone(), entry("s.1", 0, b"", b"x")]),
        ),
        (
            "out of order",
            archive(&[head.clone(), entry("s.1", 3, b"", b""), entry("s.1", 3, b"", b"")]),
        ),
        (
            "too high",
            archive(&[head.clone(), entry("s.1", u64::MAX, b"", b"")]),
        ),
        ("no subject", archive(&[head.clone(), entry("s..1", 1, b"", b"")])),
        ("headers", archive(&[head.clone(), entry("s.1", 1, b"\r\n", b"")])),
        (
            "too large",
            archive(&[head.clone(), entry("s.1", 1, block, &[0; 2000])]),
        ),
        (
            "a path",
            archive(&[with_one.clone(), entry("consumers/../../etc", 0, b"", escaping)]),
        ),
        (
            "a consumer",
            archive(&[with_one, entry("consumers/C", 0, b"", ahead)]),
        ),
    ];
    let mut world = World::new(5);
    let request = json!({"config": {"name": "S", "subjects": ["s.>"], "max_msg_size": 1000}, "state": {}});
    for (what, bytes) in bad {
        let answer = restore(&mut world, "S", &request, &bytes);
        assert_eq!(error_of(&answer).0, 10062, "{what}: {answer}");
        let info = parse(&world.ask("$JS.API.STREAM.INFO.S", ""));
        assert_eq!(info["error"]["err_code"], 10059, "{what}");
    }
    world.restart();
    let names = parse(&world.ask("$JS.API.STREAM.NAMES", ""));
    assert_eq!(names["total"], 0);
    let good = archive(&[head, entry("s.1", 2, block, b"x"), Entry::default()]);
    let answer = restore(&mut world, "S", &request, &good);
    assert_eq!(answer["state"]["messages"], 1, "{answer}");
}

#[test]
fn chunks_beyond_the_window_are_refused() {
    let mut world = World::new(6);
    let to = begin_restore(&mut world, "S", &json!({"config": {"name": "S"}}));
    // Frames that say nothing, so that no chunk is worked in at once.
    let padding = [&[0xff, 6, 0, 0][..], b"sNaPpY"].concat();
    world.transfer(&to, &padding);
    let big = vec![0xfe; (8 << 20) + 1];
    let answer = parse(world.transfer(&to, &big).unwrap().text());
    assert_eq!(error_of(&answer).0, 10062);
}

#[test]
fn limits_hold_while_a_stream_is_restored() {
    let mut world = filled(7);
    let (mut request, bytes) = backup(&mut world, "S");
    world.ask("$JS.API.STREAM.DELETE.S", "");
    request["config"]["max_msgs"] = json!(10);
    let answer = restore(&mut world, "S", &request, &bytes);
    assert_eq!(answer["state"]["messages"], 10, "{answer}");
    assert_eq!(answer["state"]["last_seq"], 200);
}

#[test]
fn backups_that_nats_server_made_are_restored() {
    let backups: [(&str, &[u8]); 2] = [
        (
            include_str!("backups/2.12.1/backup.json"),
            include_bytes!("backups/2.12.1/stream.s2"),
        ),
        (
            include_str!("backups/2.15.2/backup.json"),
            include_bytes!("backups/2.15.2/stream.s2"),
        ),
    ];
    for (request, bytes) in backups {
        let mut world = World::new(8);
        let answer = restore(&mut world, "ORD", &parse(request), bytes);
        let state = &answer["state"];
        let figures = [&state["messages"], &state["first_seq"], &state["last_seq"]];
        assert_eq!(figures, [7, 3, 12], "{answer}");
        world.restart();
        let kept: Vec<u64> = (1..=12)
            .filter(|seq| world.message("ORD", *seq).is_some())
            .collect();
        assert_eq!(kept, [3, 4, 6, 7, 8, 10, 11]);
        assert_eq!(world.message("ORD", 7).unwrap(), "msg 7");
        let info = parse(&world.ask("$JS.API.CONSUMER.INFO.ORD.C", ""));
        assert_eq!(info["delivered"]["stream_seq"], 7, "{info}");
        assert_eq!(info["delivered"]["consumer_seq"], 3);
        let counts = ["num_ack_pending", "num_redelivered", "num_pending"].map(|field| info[field].clone());
        assert_eq!(counts, [1, 1, 1]);
        world.wait(2 * SECOND);
        world.pull("ORD", "C", r#"{"batch":5,"no_wait":true}"#);
        let got = world.deliveries();
        let seen: Vec<_> = got
            .iter()
            .map(|got| (got.stream_seq(), got.deliveries()))
            .collect();
        assert_eq!(seen, [(4, 3), (10, 1)]);
        assert!(got[1].headers().contains("A: b10"), "{}", got[1].headers());
    }
}

#[test]
fn tar_files_that_no_server_wrote_are_refused() {
    use crate::archive::tar::tests::file;

    let meta = file("meta.inf", br#"{"name":"S"}"#);
    let end = vec![0; 1024];
    let bad: [(&str, Vec<Vec<u8>>); 7] = [
        ("a path", vec![meta.clone(), file("../../etc/passwd", b"x")]),
        ("a root", vec![meta.clone(), file("/etc/passwd", b"x")]),
        (
            "a block outside",
            vec![meta.clone(), file("msgs/../../1.blk", b"x")],
        ),
        ("a block", vec![meta.clone(), file("msgs/1.blk", &[9; 40])]),
        ("no beginning", vec![file("msgs/1.blk", b"")]),
        ("another stream", vec![file("meta.inf", br#"{"name":"T"}"#)]),
        (
            "an error",
            vec![meta.clone(), file("errors.txt", b"disk failure")],
        ),
    ];
    let mut world = World::new(9);
    let request = json!({"config": {"name": "S"}});
    for (what, files) in bad {
        let bytes = compressed(&[files.concat(), end.clone()].concat());
        let answer = restore(&mut world, "S", &request, &bytes);
        assert_eq!(error_of(&answer).0, 10062, "{what}: {answer}");
    }
    let answer = restore(&mut world, "S", &request, &compressed(&[meta, end].concat()));
    assert_eq!(answer["state"]["messages"], 0, "{answer}");
}

#[test]
fn a_backup_waits_for_its_own_subscription() {
    let mut world = filled(10);
    // The client's other requests have a wildcard that covers the subject.
    world.set_covered(TO, true);
    world.ask(
        "$JS.API.STREAM.SNAPSHOT.S",
        &json!({"deliver_subject": TO}).to_string(),
    );
    world.wait(SECOND);
    assert!(world.got(TO).is_empty());
    world.set_covered(TO, false);
    world.wait(SECOND / 10);
    assert!(world.got(TO).len() > 1);
    world.ask(
        "$JS.API.STREAM.SNAPSHOT.S",
        &json!({"deliver_subject": TO, "chunk_size": 1024, "window_size": 1024}).to_string(),
    );
    world.set_covered(TO, true);
    world.wait(SECOND);
    assert!(
        world
            .got(TO)
            .last()
            .unwrap()
            .headers()
            .contains("408 No Interest")
    );
}
