//! What streams do besides storing: transforms, counters, batches, schedules, markers.

use expect_test::expect;

use super::world::World;
use super::{MS, SECOND, consumer, stream};
use crate::env::Rng as _;
use crate::env::sim::SplitMix;

#[test]
fn subjects_are_transformed_and_what_is_stored_is_published_once_more() {
    let mut world = World::new(1);
    stream(
        &mut world,
        r#"{"name":"S","subjects":["in.*"],"subject_transform":{"src":"in.*","dest":"stored.{{wildcard(1)}}.x"},
            "republish":{"src":"stored.>","dest":"again.>"}}"#,
    );
    world.published();
    world.publish("in.a", "", "one");
    world.publish("in.a", "H: v\r\n", "two");
    let again = world.published();
    let seen: Vec<_> = again
        .iter()
        .map(|got| (got.subject.as_str(), got.text()))
        .collect();
    assert_eq!(seen, [("again.a.x", "one"), ("again.a.x", "two")]);
    expect![[r#"
        NATS/1.0
        H: v
        Nats-Stream: S
        Nats-Subject: stored.a.x
        Nats-Sequence: 2
        Nats-Time-Stamp: 2023-11-14T22:13:20Z
        Nats-Last-Sequence: 1

    "#]]
    .assert_eq(&again[1].headers().replace("\r\n", "\n"));
    consumer(
        &mut world,
        "S",
        r#"{"durable_name":"C","ack_policy":"explicit","filter_subject":"stored.>"}"#,
    );
    world.pull("S", "C", "5");
    let got = world.deliveries();
    assert_eq!(got.len(), 2);
    assert_eq!(got[0].subject, "stored.a.x");
}

#[test]
fn counters_count_exactly_over_crashes() {
    let mut world = World::new(2);
    stream(
        &mut world,
        r#"{"name":"S","subjects":["c.*"],"allow_msg_counter":true,"allow_direct":true}"#,
    );
    assert_eq!(
        world.publish("c.a", "Nats-Incr: 5\r\n", ""),
        r#"{"stream":"S","seq":1,"val":"5"}"#
    );
    assert_eq!(
        world.publish("c.a", "Nats-Incr: -7\r\n", ""),
        r#"{"stream":"S","seq":2,"val":"-2"}"#
    );
    world.crash(3);
    assert_eq!(
        world.publish("c.a", "Nats-Incr: +100000000000000000000\r\n", ""),
        r#"{"stream":"S","seq":3,"val":"99999999999999999998"}"#
    );
    assert_eq!(
        world.message("S", 3).unwrap(),
        r#"{"val":"99999999999999999998"}"#
    );
    assert!(world.publish("c.a", "", "x").contains("10169"));
    assert!(world.publish("c.a", "Nats-Incr: 1\r\n", "x").contains("10170"));
    assert!(world.publish("c.a", "Nats-Incr: one\r\n", "").contains("10171"));
}

fn batched(id: &str, seq: usize, rest: &str) -> String {
    format!("Nats-Batch-Id: {id}\r\nNats-Batch-Sequence: {seq}\r\n{rest}")
}

#[test]
fn batches_are_stored_together_or_not_at_all() {
    let mut world = World::new(3);
    stream(
        &mut world,
        r#"{"name":"S","subjects":["b.*"],"allow_atomic":true}"#,
    );
    assert_eq!(world.publish("b.1", &batched("x", 1, ""), "one"), "");
    assert_eq!(world.publish("b.2", "", "between"), r#"{"stream":"S","seq":1}"#);
    assert_eq!(world.publish("b.2", &batched("x", 2, ""), "two"), "");
    assert_eq!(world.messages("S"), 1);
    assert_eq!(
        world.publish("b.3", &batched("x", 3, "Nats-Batch-Commit: 1\r\n"), "three"),
        r#"{"stream":"S","seq":4,"batch":"x","count":3}"#
    );
    assert_eq!(world.messages("S"), 4);
    // A check that fails for one message fails for all.
    world.publish("b.1", &batched("y", 1, ""), "four");
    let wrong = "Nats-Expected-Last-Subject-Sequence: 9\r\nNats-Batch-Commit: 1\r\n";
    assert!(
        world
            .publish("b.2", &batched("y", 2, wrong), "five")
            .contains("10071")
    );
    assert_eq!(world.messages("S"), 4);
    // What came earlier in the batch counts for what comes later.
    world.publish(
        "b.9",
        &batched("z", 1, "Nats-Expected-Last-Subject-Sequence: 0\r\n"),
        "six",
    );
    let right = "Nats-Expected-Last-Subject-Sequence: 5\r\nNats-Batch-Commit: eob\r\n";
    assert_eq!(
        world.publish("b.9", &batched("z", 2, right), ""),
        r#"{"stream":"S","seq":5,"batch":"z","count":1}"#
    );
    // An idle batch is given up.
    world.published();
    world.publish("b.1", &batched("w", 1, ""), "");
    world.wait(11 * SECOND);
    assert_eq!(
        world.published()[0].subject,
        "$JS.EVENT.ADVISORY.STREAM.BATCH_ABANDONED.S"
    );
    assert!(world.publish("b.1", &batched("w", 2, ""), "").contains("10176"));
}

#[test]
fn no_power_cut_leaves_a_part_of_a_batch() {
    for seed in 0..60 {
        let mut world = World::new(seed);
        let mut rng = SplitMix::new(seed);
        stream(
            &mut world,
            r#"{"name":"S","subjects":["b.*"],"allow_atomic":true}"#,
        );
        let before = 1 + rng.next_u64() % 3;
        for _ in 0..before {
            world.publish("b.0", "", "alone");
        }
        let acked = rng.next_u64().is_multiple_of(2);
        let count = 2 + (rng.next_u64() % 40) as usize;
        for seq in 1..count {
            world.publish("b.1", &batched("x", seq, ""), &"part ".repeat(200));
        }
        let last = batched("x", count, "Nats-Batch-Commit: 1\r\n");
        if acked {
            world.publish("b.1", &last, "end");
        } else {
            world.publish_and_cut("b.1", &last, "end");
        }
        world.crash(seed);
        let messages = world.messages("S") - before;
        assert!(
            messages == count as u64 || (!acked && messages == 0),
            "seed {seed}: {messages} of {count} messages, acknowledged: {acked}"
        );
        assert!(!world.publish("b.0", "", "more").contains("error"), "seed {seed}");
    }
}

#[test]
fn schedules_fire_once_or_again_and_again_also_after_a_restart() {
    let mut world = World::new(4);
    stream(
        &mut world,
        r#"{"name":"S","subjects":["t.*","s.*"],"allow_msg_schedules":true,"allow_msg_ttl":true}"#,
    );
    let once = "Nats-Schedule: @at 2023-11-14T22:13:30Z\r\nNats-Schedule-Target: t.once\r\nX: kept\r\n";
    assert_eq!(
        world.publish("s.once", once, "hello"),
        r#"{"stream":"S","seq":1}"#
    );
    world.wait(9 * SECOND);
    assert_eq!(world.last_seq("S"), 1);
    world.restart();
    world.wait(2 * SECOND);
    assert_eq!((world.last_seq("S"), world.messages("S")), (2, 1));
    assert_eq!(world.message("S", 2).unwrap(), "hello");
    world.crash(5);
    world.wait(60 * SECOND);
    assert_eq!(world.last_seq("S"), 2, "a schedule that has fired is gone");
    let every = "Nats-Schedule: @every 5s\r\nNats-Schedule-Target: t.every\r\nNats-Schedule-TTL: 60s\r\n";
    world.publish("s.every", every, "tick");
    world.wait(16 * SECOND);
    assert_eq!(world.last_seq("S"), 6);
    world.restart();
    world.wait(10 * SECOND);
    assert_eq!(world.last_seq("S"), 8);
    let end = "Nats-Schedule-Next: purge\r\nNats-Scheduler: s.every\r\n";
    assert!(world.publish("t.stop", end, "").contains("\"seq\":9"));
    world.wait(30 * SECOND);
    assert_eq!(world.last_seq("S"), 9);
    assert!(
        world
            .publish(
                "s.x",
                "Nats-Schedule: nonsense\r\nNats-Schedule-Target: t.x\r\n",
                ""
            )
            .contains("10189")
    );
    assert!(
        world
            .publish(
                "s.x",
                "Nats-Schedule: @every 5s\r\nNats-Schedule-Target: else.x\r\n",
                ""
            )
            .contains("10190")
    );
}

#[test]
fn markers_are_left_when_the_last_message_of_a_subject_expires() {
    let mut world = World::new(5);
    stream(
        &mut world,
        r#"{"name":"S","subjects":["m.*"],"max_age":10000000000,"subject_delete_marker_ttl":60000000000}"#,
    );
    world.publish("m.a", "", "one");
    world.publish("m.a", "", "two");
    world.publish("m.b", "Nats-TTL: never\r\n", "stays");
    world.wait(11 * SECOND);
    // Of m.a only the marker is left, m.b stays for ever.
    assert_eq!((world.messages("S"), world.last_seq("S")), (2, 4));
    let info = world.ask("$JS.API.STREAM.MSG.GET.S", r#"{"seq":4}"#);
    let message: serde_json::Value = serde_json::from_str(&info).unwrap();
    let block = base64::Engine::decode(
        &base64::engine::general_purpose::STANDARD,
        message["message"]["hdrs"].as_str().unwrap(),
    );
    expect![[r#"
        NATS/1.0
        Nats-Marker-Reason: MaxAge
        Nats-TTL: 1m0s
        Nats-Rollup: sub

    "#]]
    .assert_eq(&String::from_utf8(block.unwrap()).unwrap().replace("\r\n", "\n"));
    world.wait(70 * SECOND);
    assert_eq!(world.messages("S"), 1);
    world.restart();
    world.wait(30 * SECOND + 5 * MS);
    assert_eq!(world.messages("S"), 1);
}

#[test]
fn fast_batches_are_stored_as_they_come() {
    let mut world = World::new(1);
    stream(
        &mut world,
        r#"{"name":"S","subjects":["s.*"],"allow_batched":true}"#,
    );
    let mut send = |seq: u64, op: u8| {
        let reply = format!("_INBOX.fast.ID.2.fail.{seq}.{op}.$FI");
        world.publish_to(&reply, "s.a", "", &format!("{seq}"));
        let got = world.got(&reply);
        got.iter().map(|got| got.text().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(send(1, 0), [r#"{"msgs":2,"seq":0,"type":"ack"}"#]);
    assert_eq!(send(2, 1), [r#"{"msgs":2,"seq":2,"type":"ack"}"#]);
    assert!(send(3, 1).is_empty());
    let gap = send(5, 1);
    assert_eq!(gap[0], r#"{"last_seq":4,"seq":5,"type":"gap"}"#);
    assert_eq!(gap[1], r#"{"stream":"S","seq":3,"batch":"ID","count":3}"#);
    assert!(send(6, 1)[0].contains("10208"));
    assert_eq!(send(1, 2), [r#"{"stream":"S","seq":4,"batch":"ID","count":1}"#]);
    assert!(send(0, 2)[0].contains("10206"));
    assert_eq!(world.messages("S"), 4);
    stream(&mut world, r#"{"name":"T","subjects":["t"]}"#);
    world.publish_to("_INBOX.fast.ID.2.fail.1.0.$FI", "t", "", "");
    assert!(
        world.got("_INBOX.fast.ID.2.fail.1.0.$FI")[0]
            .text()
            .contains("10205")
    );
}

#[test]
fn a_fast_batch_that_nobody_goes_on_with_ends() {
    let mut world = World::new(2);
    stream(
        &mut world,
        r#"{"name":"S","subjects":["s.*"],"allow_batched":true}"#,
    );
    world.publish_to("_INBOX.fast.ID.2.ok.1.0.$FI", "s.a", "", "");
    world.wait(11 * SECOND);
    let reply = "_INBOX.fast.ID.2.ok.2.1.$FI";
    world.publish_to(reply, "s.a", "", "");
    assert!(world.got(reply)[0].text().contains("10208"));
}
