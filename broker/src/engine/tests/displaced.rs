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

/// A message waits for its acknowledgement, another one that would push it out finds no room, and `request` comes in between:
/// it is delivered again.
fn waits_on_beside(limits: &str, headers: &str, api: &str, request: &str) {
    let mut world = World::new(1);
    let config = format!(r#"{{"name":"KV","subjects":["kv.>"],"allow_rollup_hdrs":true{limits}}}"#);
    stream(&mut world, &config);
    consumer(
        &mut world,
        "KV",
        r#"{"durable_name":"C","ack_policy":"explicit"}"#,
    );
    world.publish("kv.a", "", "first");
    world.publish("kv.b", "", "second");
    world.pull("KV", "C", "2");
    assert_eq!(world.deliveries().len(), 2);
    world.fs.fill_at_nth_write(1);
    world.publish_and_ask("kv.a", headers, "refused", api, request);
    world.fs.set_capacity(None);
    world.wait(31 * SECOND);
    world.pull("KV", "C", "5");
    let seqs: Vec<u64> = world.deliveries().iter().map(|one| one.stream_seq()).collect();
    assert_eq!(seqs, [1, 2], "{limits} {headers} {api}");
}

#[test]
fn what_a_refused_message_would_push_out_is_waited_for_whatever_is_asked_at_the_same_time() {
    for (limits, headers) in [
        (r#","max_msgs_per_subject":1"#, ""),
        (r#","max_msgs":2"#, ""),
        ("", "Nats-Rollup: sub\r\n"),
        ("", "Nats-Rollup: all\r\n"),
    ] {
        waits_on_beside(limits, headers, "$JS.API.CONSUMER.INFO.KV.C", "");
        waits_on_beside(limits, headers, "$JS.API.CONSUMER.LIST.KV", "");
        waits_on_beside(limits, headers, "$JS.API.STREAM.PURGE.KV", r#"{"seq":1}"#);
    }
}

#[test]
fn a_consumer_whose_place_was_behind_a_refused_message_delivers_what_comes_there_also_after_a_crash() {
    let mut world = World::new(4);
    stream(&mut world, r#"{"name":"S","subjects":["s"]}"#);
    consumer(&mut world, "S", r#"{"durable_name":"C","ack_policy":"explicit"}"#);
    world.publish("s", "", "first");
    world.pull("S", "C", "1");
    let delivered = world.deliveries();
    world.fs.fill_at_nth_write(1);
    world.ack_publish_and_ask(&delivered[0], "s", "$JS.API.STREAM.PURGE.S");
    world.fs.set_capacity(None);
    assert_eq!(world.publish("s", "", "second"), r#"{"stream":"S","seq":2}"#);
    world.settle();
    world.crash(4);
    world.pull("S", "C", "1");
    let seqs: Vec<u64> = world.deliveries().iter().map(|one| one.stream_seq()).collect();
    assert_eq!(seqs, [2]);
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

#[test]
fn what_takes_the_room_of_a_removal_is_not_durable_before_it() {
    let mut found = 0;
    // The first segment has 256 KiB: in some of the cases the message finds room in it and the removal does not.
    for size in (260_700..261_000).step_by(8) {
        let mut world = World::new(size);
        stream(
            &mut world,
            r#"{"name":"S","subjects":["s.*"],"discard":"new","max_msgs":3}"#,
        );
        world.publish("s.a", "", &"x".repeat(size as usize));
        world.publish("s.b", "", "second");
        world.publish("s.c", "", "third");
        world.fs.set_capacity(Some(world.fs.used_bytes()));
        // A stream that is full refuses the message; what is behind it is the matter.
        let delete = ("$JS.API.STREAM.MSG.DELETE.S", r#"{"seq":2}"#);
        let deleted = world.publish_and_ask("s.d", "", "refused", delete.0, delete.1);
        let stored = world.publish("s.d", "", "fourth");
        world.fs.set_capacity(None);
        world.crash(size);
        let has = |seq: u64| world.message("S", seq).is_some();
        let is_deleted = deleted.contains("success");
        found += u32::from(!is_deleted);
        assert!(has(1) && has(3), "{size}: {deleted} {stored}");
        assert!(
            !is_deleted || !has(2),
            "{size}: the deleted message is back: {stored}"
        );
        assert_eq!(stored.contains(r#""seq":4"#), has(4), "{size}: {stored}");
    }
    assert!(found > 2, "{found} removals found no room");
}
