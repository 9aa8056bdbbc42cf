//! The engine on a simulated disk and a virtual clock.

mod abroad;
mod clients;
mod control;
mod direct;
mod displaced;
mod external;
mod failed;
mod features;
mod pace;
mod sourcing;
mod starts;
mod transfers;
mod unreadable;
mod updates;
mod world;

use std::collections::BTreeMap;

use expect_test::expect;

use crate::env::Rng;
use crate::env::sim::SplitMix;
use crate::shard::inbox::PublishError;
use world::World;

const MS: u64 = 1_000_000;
const SECOND: u64 = 1000 * MS;

fn stream(world: &mut World, config: &str) {
    let name = serde_json::from_str::<serde_json::Value>(config).unwrap()["name"].clone();
    let answer = world.ask(
        &format!("$JS.API.STREAM.CREATE.{}", name.as_str().unwrap()),
        config,
    );
    assert!(!answer.contains("error"), "{answer}");
}

fn consumer(world: &mut World, stream: &str, config: &str) {
    let name = serde_json::from_str::<serde_json::Value>(config).unwrap()["durable_name"].clone();
    let subject = format!("$JS.API.CONSUMER.CREATE.{stream}.{}", name.as_str().unwrap());
    let answer = world.ask(
        &subject,
        &format!(r#"{{"stream_name":"{stream}","config":{config}}}"#),
    );
    assert!(!answer.contains("error"), "{answer}");
}

#[test]
fn messages_are_delivered_once_acknowledged_and_never_again() {
    let mut world = World::new(1);
    stream(&mut world, r#"{"name":"S","subjects":["s.*"]}"#);
    consumer(&mut world, "S", r#"{"durable_name":"C","ack_policy":"explicit"}"#);
    assert_eq!(world.publish("s.a", "", "one"), r#"{"stream":"S","seq":1}"#);
    assert_eq!(world.publish("s.b", "", "two"), r#"{"stream":"S","seq":2}"#);
    world.pull("S", "C", "5");
    let got = world.deliveries();
    let seen: Vec<_> = got
        .iter()
        .map(|d| (d.subject.as_str(), d.stream_seq(), d.text()))
        .collect();
    assert_eq!(seen, [("s.a", 1, "one"), ("s.b", 2, "two")]);
    world.ack(&got[0], "+ACK");
    // The first is acknowledged; the second comes again after its time.
    world.wait(29 * SECOND);
    assert!(world.deliveries().is_empty());
    world.wait(2 * SECOND);
    let again = world.deliveries();
    assert_eq!(again.len(), 1);
    assert_eq!((again[0].stream_seq(), again[0].deliveries()), (2, 2));
}

#[test]
fn a_double_ack_is_answered_once_the_state_is_durable() {
    let mut world = World::new(2);
    stream(&mut world, r#"{"name":"S"}"#);
    consumer(&mut world, "S", r#"{"durable_name":"C","ack_policy":"explicit"}"#);
    for _ in 0..3 {
        world.publish("S", "", "x");
    }
    world.pull("S", "C", "3");
    let got = world.deliveries();
    assert_eq!(world.ack_and_wait(&got[0], "+ACK"), Some(String::new()));
    world.crash(7);
    world.pull("S", "C", "10");
    world.wait(40 * SECOND);
    let again: Vec<u64> = world
        .deliveries()
        .iter()
        .map(world::Delivered::stream_seq)
        .collect();
    assert!(!again.contains(&1), "{again:?}");
    assert!(again.contains(&2) && again.contains(&3), "{again:?}");
}

#[test]
fn requests_end_and_hearts_beat() {
    let mut world = World::new(3);
    stream(&mut world, r#"{"name":"S"}"#);
    consumer(&mut world, "S", r#"{"durable_name":"C","ack_policy":"explicit"}"#);
    world.pull(
        "S",
        "C",
        r#"{"batch":3,"expires":1000000000,"idle_heartbeat":400000000}"#,
    );
    world.wait(450 * MS);
    world.wait(450 * MS);
    world.wait(450 * MS);
    expect![[r#"
        NATS/1.0 100 Idle Heartbeat
        Nats-Last-Consumer: 0
        Nats-Last-Stream: 0

        NATS/1.0 100 Idle Heartbeat
        Nats-Last-Consumer: 0
        Nats-Last-Stream: 0

        NATS/1.0 408 Request Timeout
        Nats-Pending-Messages: 3
        Nats-Pending-Bytes: 0

    "#]]
    .assert_eq(&world.statuses());
    world.pull("S", "C", r#"{"batch":3,"no_wait":true}"#);
    assert_eq!(world.statuses(), "NATS/1.0 404 No Messages\n\n");
}

#[test]
fn ids_are_remembered_over_a_restart_and_forgotten_after_the_window() {
    let mut world = World::new(4);
    stream(&mut world, r#"{"name":"S","duplicate_window":10000000000}"#);
    assert_eq!(
        world.publish("S", "Nats-Msg-Id: a\r\n", "x"),
        r#"{"stream":"S","seq":1}"#
    );
    assert_eq!(world.publish_resend("S", "key", false).unwrap().seq.0, 2);
    world.wait(5 * SECOND);
    world.restart();
    assert_eq!(
        world.publish("S", "Nats-Msg-Id: a\r\n", "x"),
        r#"{"stream":"S","seq":1,"duplicate": true}"#
    );
    let ack = world.publish_resend("S", "key", true).unwrap();
    assert_eq!((ack.seq.0, ack.duplicate), (2, true));
    // Not a resend: the key names another message now.
    let ack = world.publish_resend("S", "key", false).unwrap();
    assert_eq!((ack.seq.0, ack.duplicate), (3, false));
    assert_eq!(world.publish_resend("S", "key", true).unwrap().seq.0, 3);
    world.wait(6 * SECOND);
    assert_eq!(
        world.publish("S", "Nats-Msg-Id: a\r\n", "x"),
        r#"{"stream":"S","seq":4}"#
    );
}

#[test]
fn a_clock_that_jumps_changes_no_window_and_no_sequence() {
    const DAY: i64 = 86_400_000_000_000;
    for jump in [DAY, -DAY] {
        let mut world = World::new(5);
        stream(&mut world, r#"{"name":"S"}"#);
        world.publish("S", "Nats-Msg-Id: a\r\n", "x");
        world.jump(jump);
        assert_eq!(
            world.publish("S", "Nats-Msg-Id: a\r\n", "x"),
            r#"{"stream":"S","seq":1,"duplicate": true}"#
        );
        assert_eq!(world.publish("S", "", "x"), r#"{"stream":"S","seq":2}"#);
    }
}

#[test]
fn old_messages_go_and_the_last_sequence_stays() {
    let mut world = World::new(6);
    stream(&mut world, r#"{"name":"S","max_age":1000000000}"#);
    world.publish("S", "", "x");
    world.wait(600 * MS);
    world.publish("S", "", "y");
    world.wait(600 * MS);
    assert_eq!(world.messages("S"), 1);
    world.wait(600 * MS);
    assert_eq!(world.messages("S"), 0);
    world.restart();
    assert_eq!(world.publish("S", "", "z"), r#"{"stream":"S","seq":3}"#);
}

#[test]
fn old_messages_go_though_the_clock_was_set_back_for_a_while() {
    const DAY: i64 = 86_400_000_000_000;
    for rest in ["", r#","subject_delete_marker_ttl":1000000000"#] {
        let mut world = World::new(6);
        stream(
            &mut world,
            &format!(r#"{{"name":"S","max_age":10000000000{rest}}}"#),
        );
        world.publish("S", "", "x");
        world.jump(-DAY);
        world.wait(11 * SECOND);
        assert_eq!(world.messages("S"), 1);
        world.jump(DAY);
        world.wait(70 * SECOND);
        assert_eq!(world.messages("S"), 0);
    }
}

#[test]
fn messages_with_a_time_to_live_go_when_it_ends() {
    let mut world = World::new(12);
    stream(&mut world, r#"{"name":"S","allow_msg_ttl":true}"#);
    stream(&mut world, r#"{"name":"PLAIN"}"#);
    assert!(world.publish("PLAIN", "Nats-TTL: 5\r\n", "x").contains("10166"));
    assert!(world.publish("S", "Nats-TTL: soon\r\n", "x").contains("10165"));
    for ttl in ["5s", "2", "never", "8"] {
        world.publish("S", &format!("Nats-TTL: {ttl}\r\n"), ttl);
    }
    world.publish("S", "", "plain");
    world.wait(3 * SECOND);
    assert_eq!(world.messages("S"), 4);
    world.restart();
    world.wait(3 * SECOND);
    assert_eq!(world.messages("S"), 3);
    world.jump(-3_600_000_000_000);
    world.wait(3 * SECOND);
    assert_eq!(world.messages("S"), 2);
    assert_eq!(world.last_seq("S"), 5);
}

#[test]
fn roll_ups_replace_what_was_before() {
    let mut world = World::new(7);
    stream(
        &mut world,
        r#"{"name":"S","subjects":["s.*"],"allow_rollup_hdrs":true}"#,
    );
    for subject in ["s.a", "s.a", "s.b"] {
        world.publish(subject, "", "x");
    }
    assert_eq!(
        world.publish("s.a", "Nats-Rollup: sub\r\n", "x"),
        r#"{"stream":"S","seq":4}"#
    );
    assert_eq!(world.messages("S"), 2);
    world.publish("s.a", "Nats-Rollup: all\r\n", "x");
    assert_eq!(world.messages("S"), 1);
}

#[test]
fn a_purge_keeps_as_many_as_told_over_gaps() {
    for keep in 0..8 {
        let mut world = World::new(keep);
        stream(&mut world, r#"{"name":"S","subjects":["s.*"]}"#);
        for _ in 0..8 {
            world.publish("s.a", "", "x");
        }
        for gone in [2, 5, 8] {
            world.ask("$JS.API.STREAM.MSG.DELETE.S", &format!(r#"{{"seq":{gone}}}"#));
        }
        let request = if keep == 0 {
            "{}".to_owned()
        } else {
            format!(r#"{{"keep":{keep}}}"#)
        };
        let answer = world.ask("$JS.API.STREAM.PURGE.S", &request);
        assert_eq!(world.messages("S"), keep.min(5), "{answer}");
        let purged = format!(r#""purged":{}}}"#, 5_u64.saturating_sub(keep));
        assert!(answer.ends_with(&purged), "{answer}");
    }
}

#[test]
fn unused_ephemerals_go() {
    let mut world = World::new(8);
    stream(&mut world, r#"{"name":"S"}"#);
    let config =
        r#"{"stream_name":"S","config":{"name":"E","ack_policy":"none","inactive_threshold":1000000000}}"#;
    assert!(!world.ask("$JS.API.CONSUMER.CREATE.S.E", config).contains("error"));
    world.wait(900 * MS);
    assert!(!world.ask("$JS.API.CONSUMER.INFO.S.E", "").contains("10014"));
    world.wait(200 * MS);
    assert!(world.ask("$JS.API.CONSUMER.INFO.S.E", "").contains("10014"));
}

#[test]
fn a_push_consumer_delivers_while_somebody_listens() {
    let mut world = World::new(9);
    stream(&mut world, r#"{"name":"S"}"#);
    consumer(
        &mut world,
        "S",
        r#"{"durable_name":"P","ack_policy":"explicit","deliver_subject":"there","idle_heartbeat":1000000000}"#,
    );
    world.publish("S", "", "x");
    assert!(world.deliveries().is_empty());
    world.listen("there");
    world.wait(100 * MS);
    assert_eq!(world.deliveries().len(), 1);
    world.wait(1100 * MS);
    assert!(world.statuses().contains("Nats-Last-Consumer: 1"));
    world.unlisten("there");
    world.publish("S", "", "y");
    assert!(world.deliveries().is_empty());
    world.listen("there");
    world.wait(100 * MS);
    assert_eq!(world.deliveries()[0].text(), "y");
}

#[test]
fn a_full_disk_refuses_and_recovers() {
    let mut world = World::new(10);
    stream(&mut world, r#"{"name":"S"}"#);
    consumer(&mut world, "S", r#"{"durable_name":"C","ack_policy":"explicit"}"#);
    world.publish("S", "Nats-Msg-Id: first\r\n", "x");
    world.fs.set_capacity(Some(world.fs.used_bytes()));
    let payload = "x".repeat(200_000);
    let mut refused = None;
    for number in 0..200 {
        let answer = world.publish("S", &format!("Nats-Msg-Id: {number}\r\n"), &payload);
        if answer.contains("error") {
            refused = Some((number, answer));
            break;
        }
    }
    let (number, answer) = refused.expect("the disk gets full");
    assert!(answer.contains("10047"), "{answer}");
    assert_eq!(
        world.publish_resend("S", &payload, false).unwrap_err(),
        PublishError::NoSpace
    );
    let last_seq = world.last_seq("S");
    world.pull("S", "C", "1");
    assert_eq!(world.deliveries()[0].stream_seq(), 1);
    world.fs.set_capacity(None);
    // The refused message is no duplicate of itself, and takes the sequence that was not used.
    let answer = world.publish("S", &format!("Nats-Msg-Id: {number}\r\n"), &payload);
    assert_eq!(answer, format!(r#"{{"stream":"S","seq":{}}}"#, last_seq + 1));
}

#[test]
fn a_first_sequence_without_room_behind_it_is_refused() {
    let mut world = World::new(12);
    let answer = world.ask(
        "$JS.API.STREAM.CREATE.S",
        r#"{"name":"S","first_seq":18446744073709551615}"#,
    );
    assert!(answer.contains("10052"), "{answer}");
}

#[test]
fn a_message_that_is_being_replaced_is_found() {
    let mut world = World::new(13);
    let config = r#"{"name":"S","max_msgs_per_subject":1,"discard":"new","allow_direct":true}"#;
    stream(&mut world, config);
    world.publish("S", "", "old");
    let answer = world.publish_and_ask("S", "", "new", "$JS.API.DIRECT.GET.S", r#"{"last_by_subj":"S"}"#);
    assert_eq!(answer, "new");
    let request = r#"{"last_by_subj":"S"}"#;
    let answer = world.publish_and_ask("S", "", "newer", "$JS.API.STREAM.MSG.GET.S", request);
    assert!(answer.contains("bmV3ZXI="), "{answer}");
}

#[test]
fn a_late_acknowledgement_takes_the_message_out_of_a_work_queue() {
    let mut world = World::new(14);
    stream(&mut world, r#"{"name":"S","retention":"workqueue"}"#);
    consumer(
        &mut world,
        "S",
        r#"{"durable_name":"C","ack_policy":"explicit","max_deliver":1,"ack_wait":1000000000}"#,
    );
    world.publish("S", "", "x");
    world.pull("S", "C", "1");
    let got = world.deliveries();
    world.wait(2 * SECOND);
    assert_eq!(world.messages("S"), 1, "given up, and kept");
    world.ack(&got[0], "+ACK");
    assert_eq!(world.messages("S"), 0);
}

#[test]
fn a_message_that_a_crash_brought_back_leaves_a_work_queue_once_it_is_acknowledged() {
    let mut returned = 0;
    for seed in 0..20 {
        let mut world = World::new(seed);
        stream(&mut world, r#"{"name":"S","retention":"workqueue","max_msgs":2}"#);
        consumer(&mut world, "S", r#"{"durable_name":"C","ack_policy":"explicit"}"#);
        for text in ["first", "second"] {
            world.publish("S", "", text);
        }
        world.pull("S", "C", "2");
        let got = world.deliveries();
        world.publish("S", "", "third");
        assert_eq!(world.ack_and_wait(&got[1], "+ACK"), Some(String::new()));
        world.crash(seed);
        if world.message("S", 1).is_none() {
            continue;
        }
        returned += 1;
        world.ack(&got[0], "+ACK");
        assert_eq!(world.messages("S"), 1, "seed {seed}");
    }
    assert!(returned > 0);
}

#[test]
fn a_consumer_made_for_records_that_are_rolled_back_starts_at_those_that_stay() {
    let mut refused = 0;
    for nth in 1..8 {
        let mut world = World::new(15);
        stream(&mut world, r#"{"name":"S"}"#);
        world.publish("S", "", "old");
        world.fs.fill_at_nth_write(nth);
        let config = r#"{"stream_name":"S","config":{"durable_name":"C","ack_policy":"explicit",
            "deliver_policy":"last_per_subject","filter_subject":"S"}}"#;
        let answer = world.publish_and_ask("S", "", "new", "$JS.API.CONSUMER.CREATE.S.C", config);
        if answer.contains("error") || world.last_seq("S") == 2 {
            continue;
        }
        refused += 1;
        world.pull("S", "C", "1");
        assert_eq!(world.deliveries()[0].text(), "old");
    }
    assert!(refused > 0);
}

#[test]
fn the_header_that_tells_repetitions_is_the_servers() {
    let mut world = World::new(16);
    stream(&mut world, r#"{"name":"S"}"#);
    world.publish("S", "Tarn-Resend-Id: key\r\n", "forged");
    world.restart();
    assert_eq!(world.publish_resend("S", "key", true).unwrap().seq.0, 2);
    let key = "a\r\nNats-Rollup: all\r\n";
    assert_eq!(world.publish_resend("S", key, false).unwrap().seq.0, 3);
    world.restart();
    let ack = world.publish_resend("S", key, true).unwrap();
    assert_eq!((ack.seq.0, ack.duplicate), (3, true));
}

#[test]
fn limits_hold_after_a_crash() {
    for seed in 0..20 {
        let mut world = World::new(seed);
        stream(&mut world, r#"{"name":"S","max_msgs":3}"#);
        for number in 0..10 {
            world.publish("S", "", &number.to_string());
        }
        world.crash(seed);
        assert_eq!(world.messages("S"), 3);
        assert_eq!(world.last_seq("S"), 10);
    }
}

#[test]
fn a_replaced_message_that_is_back_pushes_out_no_other_subject() {
    let mut world = World::new(12);
    stream(
        &mut world,
        r#"{"name":"S","subjects":["s.*"],"allow_direct":true}"#,
    );
    for subject in ["s.a", "s.b", "s.b"] {
        world.publish(subject, "", "x");
    }
    // As if a crash had undone the removal of the first of s.b.
    world.set_stored("S", "max_msgs", 2.into());
    world.set_stored("S", "max_msgs_per_subject", 1.into());
    world.restart();
    assert_eq!(world.messages("S"), 2);
    let first = world.ask("$JS.API.STREAM.MSG.GET.S", r#"{"seq":1}"#);
    assert!(first.contains("s.a"), "{first}");
}

#[test]
fn the_limit_of_a_subject_alone_holds_after_a_crash() {
    let mut world = World::new(13);
    stream(
        &mut world,
        r#"{"name":"S","subjects":["s.*"],"allow_direct":true}"#,
    );
    for (subject, payload) in [("s.a", "1"), ("s.b", "2"), ("s.b", "3"), ("s.b", "4")] {
        world.publish(subject, "", payload);
    }
    // As if a crash had undone the removal of the first two of s.b.
    world.set_stored("S", "max_msgs_per_subject", 1.into());
    for _ in 0..2 {
        world.restart();
        assert_eq!(world.messages("S"), 2);
        assert_eq!(world.last_seq("S"), 4);
        for (seq, is_there) in [(1, true), (2, false), (3, false), (4, true)] {
            let found = world.ask("$JS.API.STREAM.MSG.GET.S", &format!(r#"{{"seq":{seq}}}"#));
            assert_eq!(!found.contains("error"), is_there, "{seq}: {found}");
        }
    }
}

#[test]
fn nothing_is_acknowledged_after_a_failed_sync() {
    let mut world = World::new(11);
    stream(&mut world, r#"{"name":"S"}"#);
    consumer(&mut world, "S", r#"{"durable_name":"C","ack_policy":"explicit"}"#);
    world.publish("S", "", "x");
    world.fs.fail_nth_sync(1);
    let answer = world.publish("S", "", "y");
    assert!(answer.contains("10077"), "{answer}");
    assert!(world.publish("S", "", "y").contains("10077"));
    assert!(world.publish_resend("S", "k", false).is_err());
    // A consumer's state is not written either, in any later round.
    world.pull("S", "C", "1");
    let got = world.deliveries();
    assert_eq!(got[0].stream_seq(), 1);
    assert_eq!(world.ack_and_wait(&got[0], "+ACK"), None);
    world.restart();
    assert!(!world.publish("S", "", "z").contains("error"));
}

/// Random work and power cuts. The oracle is what was acknowledged, kept outside of the engine.
#[test]
fn what_was_acknowledged_survives_power_cuts() {
    for seed in 0..60 {
        power_cuts(seed);
    }
}

fn power_cuts(seed: u64) {
    let mut random = SplitMix::new(seed);
    let mut world = World::new(seed);
    stream(&mut world, r#"{"name":"S","subjects":["s"]}"#);
    consumer(
        &mut world,
        "S",
        r#"{"durable_name":"C","ack_policy":"explicit","ack_wait":1000000000}"#,
    );
    // By sequence: the payload that was acknowledged under it.
    let mut stored: BTreeMap<u64, String> = BTreeMap::new();
    let mut settled: Vec<u64> = Vec::new();
    let mut next_payload = 0;
    for _ in 0..120 {
        match random.below(10) {
            0..4 => {
                next_payload += 1;
                let payload = format!("payload {next_payload}");
                let answer = world.publish("s", "", &payload);
                let answer: serde_json::Value = serde_json::from_str(&answer).unwrap();
                let seq = answer["seq"].as_u64().unwrap();
                assert!(
                    stored.insert(seq, payload).is_none(),
                    "seed {seed}: {seq} given twice"
                );
            }
            4 => world.publish_without_commit("s", "lost or not"),
            5 => world.pull("S", "C", &(1 + random.below(4)).to_string()),
            6 | 7 => {
                // What was delivered twice before the first acknowledgement is no fault.
                let settled_before = settled.clone();
                for delivered in world.deliveries() {
                    let seq = delivered.stream_seq();
                    assert!(!settled_before.contains(&seq), "seed {seed}: {seq} came again");
                    let expected = stored.get(&seq).map_or("lost or not", String::as_str);
                    assert_eq!(delivered.text(), expected, "seed {seed}: message {seq}");
                    if random.chance(50) && world.ack_and_wait(&delivered, "+ACK").is_some() {
                        settled.push(seq);
                    }
                }
            }
            8 => world.wait(random.below(2 * SECOND)),
            _ => world.crash(random.next_u64()),
        }
        world.check_consumer_is_behind("S", "C", seed);
    }
    world.crash(random.next_u64());
    for (seq, payload) in &stored {
        assert_eq!(
            world.message("S", *seq).as_deref(),
            Some(payload.as_str()),
            "seed {seed}: {seq} is lost"
        );
    }
}

#[test]
fn accounts_see_their_own_streams_only() {
    let mut world = World::new(1);
    let config = r#"{"name":"S","subjects":["a.>"]}"#;
    for account in ["$G", "NOETL"] {
        world.enter(account);
        let created = world.ask("$JS.API.STREAM.CREATE.S", config);
        assert!(created.contains("\"did_create\":true"), "{account}: {created}");
    }
    world.ask(
        "$JS.API.CONSUMER.DURABLE.CREATE.S.C",
        r#"{"stream_name":"S","config":{"durable_name":"C","ack_policy":"explicit"}}"#,
    );
    world.publish("a.1", "", "of NOETL");
    for restarted in [false, true] {
        if restarted {
            world.restart();
        }
        world.enter("$G");
        assert_eq!(world.messages("S"), 0);
        let missing = world.ask("$JS.API.CONSUMER.INFO.S.C", "");
        assert!(missing.contains("\"err_code\":10014"), "{missing}");
        world.enter("NOETL");
        assert_eq!(world.messages("S"), 1);
    }
    world.pull("S", "C", r#"{"batch":1,"no_wait":true}"#);
    assert_eq!(world.deliveries()[0].text(), "of NOETL");
    world.enter("OTHER");
    let info = world.ask("$JS.API.INFO", "");
    assert!(info.contains("\"streams\":0"), "{info}");
    assert!(world.ask("$JS.API.STREAM.NAMES", "").contains("\"total\":0"));
    world.enter("$G");
    world.ask("$JS.API.STREAM.DELETE.S", "");
    world.enter("NOETL");
    assert_eq!(world.messages("S"), 1);
}
