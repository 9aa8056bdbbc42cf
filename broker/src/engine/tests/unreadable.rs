//! A disk that refuses to give what it has: nothing may be taken for gone, done or empty because of that.

use std::path::Path;

use serde_json::Value;

use super::world::World;
use super::{SECOND, consumer, stream};

const EVERYTHING: u64 = 1 << 40;

/// Lets every read of a stream's first segment fail.
fn refuse(world: &World, stream: &str) {
    let path = format!("/store/streams/{stream}/0000000000000001.seg");
    world.fs.fail_reads(Path::new(&path), 0, EVERYTHING);
}

fn text(answer: &str) -> Value {
    serde_json::from_str(answer).unwrap()
}

#[test]
fn a_message_that_another_consumer_needs_stays_although_it_cannot_be_read() {
    for ack_policy in ["explicit", "all", "none"] {
        let mut world = World::new(1);
        stream(
            &mut world,
            r#"{"name":"S","subjects":["s.*"],"retention":"interest"}"#,
        );
        for (name, policy) in [("one", ack_policy), ("two", "explicit")] {
            let config = format!(r#"{{"durable_name":"{name}","ack_policy":"{policy}"}}"#);
            consumer(&mut world, "S", &config);
        }
        world.publish("s.a", "", "x");
        world.publish("s.a", "", "y");
        world.restart();
        world.pull("S", "one", "1");
        let got = world.deliveries();
        refuse(&world, "S");
        if ack_policy == "none" {
            // Nothing says that it is done but the next turn.
            world.settle();
        } else {
            world.ack(&got[0], "+ACK");
        }
        assert_eq!(world.messages("S"), 2, "{ack_policy}");
        world.ask("$JS.API.CONSUMER.DELETE.S.one", "");
        assert_eq!(world.messages("S"), 2, "{ack_policy}");
        world.fs.heal_reads();
        world.pull("S", "two", "2");
        world.wait(SECOND);
        let got = world.deliveries();
        assert_eq!(got.len(), 2, "{ack_policy}");
        // And it goes once nobody needs it, whether it can be read or not.
        refuse(&world, "S");
        got.iter().for_each(|delivered| world.ack(delivered, "+ACK"));
        assert_eq!(world.messages("S"), 0, "{ack_policy}");
    }
}

#[test]
fn an_acknowledgement_after_the_last_delivery_counts_although_the_message_cannot_be_read() {
    let mut world = World::new(2);
    stream(
        &mut world,
        r#"{"name":"Q","subjects":["q"],"retention":"workqueue"}"#,
    );
    consumer(
        &mut world,
        "Q",
        r#"{"durable_name":"C","ack_policy":"explicit","max_deliver":1,"ack_wait":1000000000}"#,
    );
    world.publish("q", "", "x");
    world.pull("Q", "C", "1");
    let got = world.deliveries();
    world.wait(2 * SECOND);
    world.restart();
    refuse(&world, "Q");
    world.ack_and_wait(&got[0], "+ACK");
    assert_eq!(world.messages("Q"), 0);
}

/// A message in a sealed segment that a flipped bit has made unreadable counts again after a start, until it is read.
#[test]
fn a_damaged_message_pushes_out_no_other_of_its_subject_at_a_start() {
    let limits = [
        r#""max_msgs_per_subject":2"#,
        r#""max_msgs_per_subject":2,"discard":"new","discard_new_per_subject":true"#,
    ];
    for limit in limits {
        let mut world = World::new(5);
        stream(
            &mut world,
            &format!(r#"{{"name":"S","subjects":["s.*"],"allow_direct":true,{limit}}}"#),
        );
        world.publish("s.a", "", "the first");
        world.publish("s.a", "", "the second");
        for number in 0..8 {
            world.publish(&format!("s.b{number}"), "", &"x".repeat(60_000));
        }
        let path = Path::new("/store/streams/S/0000000000000001.seg");
        let bytes = world.fs.contents(path).unwrap();
        let at = bytes.windows(10).position(|part| part == b"the second").unwrap();
        world.fs.flip_bit(path, 8 * at as u64);
        world.restart();
        let get = |world: &mut World, seq: u64| {
            world.ask("$JS.API.STREAM.MSG.GET.S", &format!(r#"{{"seq":{seq}}}"#))
        };
        assert!(get(&mut world, 2).contains("error"), "{limit}");
        world.publish("s.a", "", "the third");
        let is_there = |world: &mut World| [1, 2, 11].map(|seq| !get(world, seq).contains("error"));
        assert_eq!(is_there(&mut world), [true, false, true], "{limit}");
        for _ in 0..2 {
            world.restart();
            assert_eq!(is_there(&mut world), [true, false, true], "{limit}");
        }
    }
}

#[test]
fn a_copy_misses_nothing_that_could_not_be_read_for_a_while() {
    for retention in ["limits", "workqueue"] {
        let mut world = World::new(3);
        let config = format!(r#"{{"name":"O","subjects":["o.*"],"retention":"{retention}"}}"#);
        stream(&mut world, &config);
        for index in 0..3 {
            world.publish("o.a", "", &index.to_string());
        }
        world.restart();
        refuse(&world, "O");
        stream(&mut world, r#"{"name":"C","sources":[{"name":"O"}]}"#);
        world.settle();
        world.wait(3 * SECOND);
        assert_eq!((world.messages("O"), world.messages("C")), (3, 0), "{retention}");
        world.fs.heal_reads();
        world.wait(2 * SECOND);
        world.settle();
        assert_eq!(world.messages("C"), 3, "{retention}");
        assert_eq!(world.messages("O"), if retention == "limits" { 3 } else { 0 });
    }
}

#[test]
fn nothing_is_copied_twice_because_the_copy_could_not_be_read() {
    let mut world = World::new(4);
    stream(&mut world, r#"{"name":"O","subjects":["o.*"]}"#);
    stream(&mut world, r#"{"name":"C","sources":[{"name":"O"}]}"#);
    for index in 0..3 {
        world.publish("o.a", "", &index.to_string());
        world.settle();
    }
    assert_eq!(world.messages("C"), 3);
    world.crash(1);
    refuse(&world, "C");
    world.settle();
    world.wait(3 * SECOND);
    world.fs.heal_reads();
    world.wait(3 * SECOND);
    world.publish("o.a", "", "3");
    world.settle();
    assert_eq!(world.messages("C"), 4);
}

#[test]
fn a_counter_does_not_begin_anew_when_its_value_cannot_be_read() {
    let mut world = World::new(5);
    stream(
        &mut world,
        r#"{"name":"S","subjects":["c.*"],"allow_msg_counter":true}"#,
    );
    world.publish("c.a", "Nats-Incr: 40\r\n", "");
    world.restart();
    refuse(&world, "S");
    let refused = world.publish("c.a", "Nats-Incr: 1\r\n", "");
    assert_eq!(text(&refused)["error"]["err_code"], 10077, "{refused}");
    world.fs.heal_reads();
    let counted = world.publish("c.a", "Nats-Incr: 2\r\n", "");
    assert_eq!(text(&counted)["val"], "42", "{counted}");
}

#[test]
fn a_schedule_that_cannot_be_read_fires_once_it_can() {
    let mut world = World::new(6);
    stream(
        &mut world,
        r#"{"name":"S","subjects":["t.*","s.*"],"allow_msg_schedules":true,"allow_msg_ttl":true}"#,
    );
    let headers = "Nats-Schedule: @at 2023-11-14T22:13:30Z\r\nNats-Schedule-Target: t.a\r\n";
    let stored = world.publish("s.a", headers, "later");
    assert!(!stored.contains("error"), "{stored}");
    world.restart();
    refuse(&world, "S");
    world.wait(15 * SECOND);
    assert_eq!(world.last_seq("S"), 1);
    world.fs.heal_reads();
    world.wait(2 * SECOND);
    assert_eq!(world.message("S", 2).as_deref(), Some("later"));
}

#[test]
fn a_message_that_cannot_be_read_is_not_said_to_be_missing() {
    let mut world = World::new(7);
    stream(&mut world, r#"{"name":"S","subjects":["s"],"allow_direct":true}"#);
    world.publish("s", "", "x");
    world.restart();
    refuse(&world, "S");
    let answer = world.ask("$JS.API.STREAM.MSG.GET.S", r#"{"seq":1}"#);
    assert_eq!(text(&answer)["error"]["code"], 500, "{answer}");
    world.ask("$JS.API.DIRECT.GET.S", r#"{"seq":1}"#);
    world.fs.heal_reads();
    let answer = world.ask("$JS.API.STREAM.MSG.GET.S", r#"{"seq":1}"#);
    assert_eq!(text(&answer)["message"]["data"], "eA==", "{answer}");
}

#[test]
fn an_id_is_known_after_a_start_in_which_a_read_failed_once() {
    for nth in 1..60 {
        let mut world = World::new(nth);
        stream(&mut world, r#"{"name":"S","subjects":["s.*"]}"#);
        world.publish("s.a", "Nats-Msg-Id: one", "first");
        world.publish("s.a", "", "second");
        world.fs.fail_nth_read(nth);
        world.restart();
        let again = world.publish("s.b", "Nats-Msg-Id: one", "third");
        assert!(again.contains("duplicate"), "read {nth} fails: {again}");
    }
}
