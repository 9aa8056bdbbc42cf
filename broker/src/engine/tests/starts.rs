//! Where consumers start when the disk fails around their creation, and after a crash.

use super::world::{Delivered, World};
use super::{consumer, stream};

fn texts(deliveries: &[Delivered]) -> Vec<&str> {
    deliveries.iter().map(Delivered::text).collect()
}

fn creation(policy: &str) -> String {
    format!(
        r#"{{"stream_name":"S","config":{{"durable_name":"C","ack_policy":"explicit","deliver_policy":"{policy}",
            "filter_subject":"s.*"}}}}"#
    )
}

#[test]
fn a_batch_that_is_rolled_back_moves_no_start_before_it() {
    for policy in ["last", "last_per_subject", "new", "all"] {
        let mut world = World::new(1);
        stream(&mut world, r#"{"name":"S","subjects":["s.*"]}"#);
        world.publish("s.a", "", "first");
        let config = format!(
            r#"{{"durable_name":"C","ack_policy":"explicit","deliver_policy":"{policy}","filter_subject":"s.*"}}"#
        );
        consumer(&mut world, "S", &config);
        world.publish("s.a", "", "second");
        world.fs.fill_at_nth_write(1);
        let refused = world.publish("s.a", "", "refused");
        assert!(refused.contains("10047"), "{refused}");
        world.fs.set_capacity(None);
        world.pull("S", "C", "5");
        let expected: &[&str] = if policy == "new" {
            &["second"]
        } else {
            &["first", "second"]
        };
        assert_eq!(texts(&world.deliveries()), expected, "{policy}");
    }
}

#[test]
fn a_consumer_starts_where_its_creation_said_however_early_the_power_fails() {
    let mut found = 0;
    for nth in 0..12 {
        for policy in ["last", "last_per_subject", "new"] {
            let mut world = World::new(nth);
            stream(&mut world, r#"{"name":"S","subjects":["s.*"]}"#);
            world.publish("s.a", "", "first");
            world.fs.cut_power_after(nth);
            world.create_in_one_round(&[], &creation(policy));
            for (seed, text) in ["second", "third"].into_iter().enumerate() {
                world.crash(seed as u64);
                world.publish("s.a", "", text);
            }
            world.crash(2);
            if !world.has_consumer("S", "C") {
                continue;
            }
            found += 1;
            world.pull("S", "C", "5");
            let expected: &[&str] = if policy == "new" {
                &["second", "third"]
            } else {
                &["first", "second", "third"]
            };
            assert_eq!(
                texts(&world.deliveries()),
                expected,
                "{policy}, power cut after {nth}"
            );
        }
    }
    assert!(found > 12, "{found} consumers were there");
}

#[test]
fn a_consumer_made_for_records_that_a_crash_took_starts_at_those_that_follow() {
    let mut found = 0;
    for nth in 0..12 {
        for policy in ["all", "last", "last_per_subject", "new"] {
            let mut world = World::new(nth);
            stream(&mut world, r#"{"name":"S","subjects":["s.*"],"max_msgs":1}"#);
            world.publish("s.a", "", "first");
            world.fs.cut_power_after(nth);
            world.create_in_one_round(&["s.a", "s.a", "s.a"], &creation(policy));
            world.crash(nth);
            if !world.has_consumer("S", "C") || world.last_seq("S") > 1 {
                continue;
            }
            found += 1;
            world.publish("s.b", "", "second");
            world.pull("S", "C", "5");
            assert_eq!(
                texts(&world.deliveries()),
                ["second"],
                "{policy}, power cut after {nth}"
            );
        }
    }
    assert!(found > 4, "{found} consumers were there");
}

#[test]
fn a_consumer_that_found_nothing_delivers_nothing_that_a_crash_brings_back() {
    let mut found = 0;
    for seed in 0..24 {
        for policy in ["last", "last_per_subject", "new"] {
            let mut world = World::new(seed);
            stream(
                &mut world,
                r#"{"name":"S","subjects":["s.*"],"max_age":1000000000,"duplicate_window":1000000000}"#,
            );
            world.publish("s.a", "", "old");
            world.wait(3_000_000_000);
            assert_eq!(world.messages("S"), 0);
            world.ask("$JS.API.CONSUMER.CREATE.S.C", &creation(policy));
            world.jump(-10_000_000_000);
            world.crash(seed);
            let is_back = world.messages("S") > 0;
            found += u32::from(is_back);
            world.publish("s.b", "", "new");
            world.pull("S", "C", "5");
            assert_eq!(texts(&world.deliveries()), ["new"], "{policy}, crash {seed}");
        }
    }
    assert!(found > 4, "{found} times the message was back");
}

#[test]
fn a_consumer_whose_last_message_was_deleted_starts_with_no_other_after_a_restart() {
    let mut world = World::new(1);
    stream(&mut world, r#"{"name":"S","subjects":["s.*"]}"#);
    world.publish("s.a", "", "first");
    world.publish("s.b", "", "second");
    consumer(
        &mut world,
        "S",
        r#"{"durable_name":"C","ack_policy":"explicit","deliver_policy":"last","filter_subject":"s.*"}"#,
    );
    let pending = |world: &mut World| {
        let info = world.ask("$JS.API.CONSUMER.INFO.S.C", "");
        let info: serde_json::Value = serde_json::from_str(&info).unwrap();
        info["num_pending"].as_u64().unwrap()
    };
    assert_eq!(pending(&mut world), 1);
    world.ask("$JS.API.STREAM.MSG.DELETE.S", r#"{"seq":2}"#);
    assert_eq!(pending(&mut world), 0);
    world.pull("S", "C", r#"{"batch":1,"no_wait":true}"#);
    world.restart();
    world.publish("s.c", "", "third");
    world.pull("S", "C", "5");
    assert_eq!(texts(&world.deliveries()), ["third"]);
}

#[test]
fn a_consumer_that_was_reset_stays_where_it_was_set_to() {
    for policy in ["all", "last"] {
        let mut world = World::new(1);
        stream(&mut world, r#"{"name":"S","subjects":["s.*"]}"#);
        world.publish("s.a", "", "first");
        consumer(
            &mut world,
            "S",
            &format!(r#"{{"durable_name":"C","ack_policy":"explicit","deliver_policy":"{policy}"}}"#),
        );
        world.pull("S", "C", "1");
        let delivered = world.deliveries();
        world.ack(&delivered[0], "+ACK");
        let reset = world.ask("$JS.API.CONSUMER.RESET.S.C", "");
        assert!(reset.contains(r#""reset_seq":2"#), "{reset}");
        world.restart();
        world.publish("s.b", "", "second");
        world.pull("S", "C", "5");
        assert_eq!(texts(&world.deliveries()), ["second"], "{policy}");
    }
}

#[test]
fn a_message_that_was_acknowledged_when_it_was_too_old_does_not_come_again() {
    let mut found = 0;
    for seed in 0..24 {
        let mut world = World::new(seed);
        stream(
            &mut world,
            r#"{"name":"S","subjects":["s.*"],"max_age":3000000000,"duplicate_window":1000000000}"#,
        );
        consumer(&mut world, "S", r#"{"durable_name":"C","ack_policy":"explicit"}"#);
        world.publish("s.a", "", "old");
        world.pull("S", "C", "1");
        let delivered = world.deliveries();
        // The delivery is forgotten.
        world.crash(seed);
        world.wait(5_000_000_000);
        assert_eq!(world.messages("S"), 0);
        world.pull("S", "C", r#"{"batch":1,"no_wait":true}"#);
        assert!(world.ack_and_wait(&delivered[0], "+ACK").is_some());
        world.jump(-10_000_000_000);
        world.crash(seed);
        found += u32::from(world.messages("S") > 0);
        world.pull("S", "C", "1");
        assert!(world.deliveries().is_empty(), "crash {seed}");
    }
    assert!(found > 2, "{found} times the message was back");
}

/// Damage in the last message looks like a write that was never finished, but a consumer's state tells that it was.
#[test]
fn the_last_message_counts_as_lost_if_a_consumer_has_had_it() {
    let mut world = World::new(1);
    stream(&mut world, r#"{"name":"S","subjects":["s.*"]}"#);
    consumer(&mut world, "S", r#"{"durable_name":"C","ack_policy":"explicit"}"#);
    for text in ["first", "second", "the third"] {
        world.publish("s.a", "", text);
    }
    world.pull("S", "C", "3");
    let got = world.deliveries();
    for delivered in &got {
        world.ack_and_wait(delivered, "+ACK");
    }
    let path = std::path::Path::new("/store/streams/S/0000000000000001.seg");
    world.fs.edit(path, |bytes| {
        let last = bytes.windows(9).position(|text| text == b"the third").unwrap();
        bytes[last..].fill(0);
    });
    for seed in 0..3 {
        world.crash(seed);
        let info = world.ask("$JS.API.STREAM.INFO.S", "");
        let state = &serde_json::from_str::<serde_json::Value>(&info).unwrap()["state"];
        let found = [&state["messages"], &state["last_seq"], &state["lost"]["msgs"][0]];
        assert_eq!(
            found.map(|value| value.as_u64()),
            [Some(2), Some(3), Some(3)],
            "{info}"
        );
    }
    assert!(world.publish("s.a", "", "next").contains(r#""seq":4"#));
    world.crash(3);
    assert_eq!((world.last_seq("S"), world.messages("S")), (4, 3));
}
