//! Messages that newer ones push out, when those find no room.

use super::world::World;
use super::{SECOND, consumer, stream};

/// Publishes to a disk that gets full with the first write.
fn publish_refused(world: &mut World, subject: &str, headers: &str) {
    world.fs.fill_at_nth_write(1);
    let answer = world.publish(subject, headers, "new");
    assert!(answer.contains("10047"), "{answer}");
}

#[test]
fn a_refused_message_pushes_nothing_out() {
    let mut world = World::new(1);
    stream(
        &mut world,
        r#"{"name":"KV","subjects":["kv.>"],"max_msgs_per_subject":1,"max_msgs":3,"allow_rollup_hdrs":true}"#,
    );
    consumer(
        &mut world,
        "KV",
        r#"{"durable_name":"C","ack_policy":"explicit"}"#,
    );
    for key in ["kv.a", "kv.b", "kv.c"] {
        world.publish(key, "", key);
    }
    world.pull("KV", "C", "2");
    assert_eq!(world.deliveries().len(), 2);
    let info = world.ask("$JS.API.STREAM.INFO.KV", "");
    let ack_pending = |world: &mut World| {
        let info = world.ask("$JS.API.CONSUMER.INFO.KV.C", "");
        let info: serde_json::Value = serde_json::from_str(&info).unwrap();
        (info["num_ack_pending"].clone(), info["num_pending"].clone())
    };
    for (subject, headers) in [
        ("kv.a", ""),
        ("kv.d", ""),
        ("kv.a", "Nats-Rollup: sub\r\n"),
        ("kv.a", "Nats-Rollup: all\r\n"),
    ] {
        publish_refused(&mut world, subject, headers);
        assert_eq!(
            world.ask("$JS.API.STREAM.INFO.KV", ""),
            info,
            "{subject} {headers}"
        );
        assert_eq!(ack_pending(&mut world), (2.into(), 1.into()));
    }
    // What was delivered and not acknowledged comes again.
    world.wait(31 * SECOND);
    world.pull("KV", "C", "5");
    let seqs: Vec<u64> = world.deliveries().iter().map(|one| one.stream_seq()).collect();
    assert_eq!(seqs, [1, 2, 3]);
    assert_eq!(world.publish("kv.a", "", "x"), r#"{"stream":"KV","seq":4}"#);
    // Two are asked for still, and the first is gone now.
    assert_eq!(ack_pending(&mut world), (3.into(), 0.into()));
    world.crash(3);
    let state = world.ask("$JS.API.STREAM.INFO.KV", "");
    assert!(state.contains(r#""messages":3"#), "{state}");
}

#[test]
fn the_id_of_a_refused_message_is_not_the_last() {
    let mut world = World::new(2);
    stream(&mut world, r#"{"name":"S","subjects":["s"]}"#);
    world.publish("s", "Nats-Msg-Id: one\r\n", "x");
    publish_refused(&mut world, "s", "Nats-Msg-Id: two\r\n");
    let next = "Nats-Msg-Id: two\r\nNats-Expected-Last-Msg-Id: one\r\n";
    assert_eq!(world.publish("s", next, "x"), r#"{"stream":"S","seq":2}"#);
}

#[test]
fn a_schedule_that_a_refused_message_ends_still_fires() {
    let mut world = World::new(3);
    stream(
        &mut world,
        r#"{"name":"S","subjects":["s.>","t"],"allow_msg_schedules":true,"allow_msg_ttl":true,"allow_rollup_hdrs":true}"#,
    );
    let schedule = |at: &str| format!("Nats-Schedule: @every {at}\r\nNats-Schedule-Target: t\r\n");
    let answer = world.publish("s.1", &schedule("10s"), "x");
    assert!(answer.contains(r#""seq":1"#), "{answer}");
    publish_refused(&mut world, "s.1", &schedule("100s"));
    world.wait(12 * SECOND);
    let info = world.ask("$JS.API.STREAM.INFO.S", "");
    assert!(info.contains(r#""last_seq":2"#), "{info}");
}
