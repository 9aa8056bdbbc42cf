//! Mirrors and sources.

use serde_json::Value;

use super::world::World;
use super::{SECOND, consumer, stream};
use crate::env::Rng as _;
use crate::env::sim::SplitMix;

fn info(world: &mut World, stream: &str) -> Value {
    serde_json::from_str(&world.ask(&format!("$JS.API.STREAM.INFO.{stream}"), "")).unwrap()
}

#[test]
fn a_mirror_has_the_origins_messages_at_the_same_positions() {
    let mut world = World::new(1);
    stream(
        &mut world,
        r#"{"name":"O","subjects":["o.*"],"allow_direct":true}"#,
    );
    for index in 0..5 {
        world.publish("o.a", "", &index.to_string());
    }
    world.ask("$JS.API.STREAM.MSG.DELETE.O", r#"{"seq":2}"#);
    stream(&mut world, r#"{"name":"M","mirror":{"name":"O"}}"#);
    world.settle();
    assert_eq!((world.messages("M"), world.last_seq("M")), (4, 5));
    assert_eq!(world.message("M", 2), None);
    assert_eq!(world.message("M", 5).unwrap(), "4");
    world.crash(2);
    world.publish("o.b", "", "more");
    world.settle();
    assert_eq!((world.messages("M"), world.last_seq("M")), (5, 6));
    let info = info(&mut world, "M");
    assert_eq!(info["mirror"]["name"], "O");
    assert_eq!(info["mirror"]["lag"], 0);
    assert_eq!(info["config"]["mirror_direct"], true);
    assert!(info["mirror"]["active"].as_i64().unwrap() >= 0);
    let refused = world.ask("$JS.API.STREAM.UPDATE.M", r#"{"name":"M","mirror":{"name":"X"}}"#);
    assert!(refused.contains("10055"), "{refused}");
    let cycle = world.ask(
        "$JS.API.STREAM.UPDATE.O",
        r#"{"name":"O","subjects":["o.*"],"sources":[{"name":"M"}]}"#,
    );
    assert!(cycle.contains("10052"), "{cycle}");
}

#[test]
fn sources_filter_transform_and_say_where_messages_are_from() {
    let mut world = World::new(2);
    stream(&mut world, r#"{"name":"A","subjects":["a.>"]}"#);
    stream(&mut world, r#"{"name":"B","subjects":["b.>"]}"#);
    for subject in ["a.x", "a.y", "b.x", "b.y"] {
        world.publish(subject, "Nats-Expected-Stream: A\r\n".get(..0).unwrap(), subject);
    }
    stream(
        &mut world,
        r#"{"name":"S","subjects":["own"],"sources":[{"name":"A","filter_subject":"a.y"},
            {"name":"B","opt_start_seq":2,"subject_transforms":[{"src":"b.*","dest":"from.b.{{wildcard(1)}}"}]}]}"#,
    );
    world.settle();
    assert_eq!(world.messages("S"), 2);
    let got = world.ask("$JS.API.STREAM.MSG.GET.S", r#"{"last_by_subj":"from.b.y"}"#);
    let got: Value = serde_json::from_str(&got).unwrap();
    let block = base64::Engine::decode(
        &base64::engine::general_purpose::STANDARD,
        got["message"]["hdrs"].as_str().unwrap(),
    )
    .unwrap();
    let block = String::from_utf8(block).unwrap();
    let begin = "NATS/1.0\r\nNats-Stream-Source: B 2 b.* from.b.{{wildcard(1)}} b.y ";
    assert!(block.starts_with(begin), "{block}");
    assert_eq!(block.trim_end().len(), begin.len() + 8);
    world.publish("own", "", "mine");
    let info = info(&mut world, "S");
    assert_eq!(info["sources"].as_array().unwrap().len(), 2);
    assert_eq!(info["sources"][0]["filter_subject"], "a.y");
    // A stream that is not there yet is copied once it is.
    stream(&mut world, r#"{"name":"T","sources":[{"name":"LATER"}]}"#);
    world.settle();
    stream(&mut world, r#"{"name":"LATER","subjects":["later"]}"#);
    world.publish("later", "", "x");
    world.settle();
    assert_eq!(world.messages("T"), 1);
}

#[test]
fn a_work_queue_lets_go_of_what_was_copied() {
    let mut world = World::new(3);
    stream(
        &mut world,
        r#"{"name":"Q","subjects":["q"],"retention":"workqueue"}"#,
    );
    stream(
        &mut world,
        r#"{"name":"I","subjects":["i"],"retention":"interest"}"#,
    );
    stream(
        &mut world,
        r#"{"name":"S","sources":[{"name":"Q"},{"name":"I"}]}"#,
    );
    for _ in 0..3 {
        world.publish("q", "", "x");
        world.publish("i", "", "y");
    }
    world.settle();
    world.wait(SECOND);
    assert_eq!(
        (world.messages("Q"), world.messages("I"), world.messages("S")),
        (0, 0, 6)
    );
}

#[test]
fn counters_of_sources_are_added_up() {
    let mut world = World::new(4);
    for name in ["A", "B"] {
        let subject = name.to_lowercase();
        stream(
            &mut world,
            &format!(r#"{{"name":"{name}","subjects":["{subject}.>"],"allow_msg_counter":true}}"#),
        );
    }
    stream(
        &mut world,
        r#"{"name":"S","allow_msg_counter":true,"sources":[
            {"name":"A","subject_transforms":[{"src":"a.>","dest":"sum.>"}]},
            {"name":"B","subject_transforms":[{"src":"b.>","dest":"sum.>"}]}]}"#,
    );
    for (subject, increment) in [("a.hits", 5), ("b.hits", 3), ("a.hits", 2)] {
        world.publish(subject, &format!("Nats-Incr: {increment}\r\n"), "");
        world.settle();
        world.crash(increment);
        world.settle();
    }
    let last = world.last_seq("S");
    assert_eq!(last, 3);
    assert_eq!(world.message("S", last).unwrap(), r#"{"val":"10"}"#);
}

#[test]
fn every_message_is_copied_once_whatever_crashes() {
    for seed in 0..40 {
        let mut world = World::new(seed);
        let mut rng = SplitMix::new(seed);
        stream(&mut world, r#"{"name":"O","subjects":["o.*"]}"#);
        stream(
            &mut world,
            r#"{"name":"S","subjects":["s"],"sources":[{"name":"O"}]}"#,
        );
        stream(&mut world, r#"{"name":"M","mirror":{"name":"O"}}"#);
        consumer(&mut world, "S", r#"{"durable_name":"C","ack_policy":"explicit"}"#);
        let mut published = 0;
        for step in 0..30 {
            match rng.next_u64() % 6 {
                0 => world.crash(seed * 100 + step),
                1 => world.restart(),
                2 => world.wait(SECOND / 3),
                3 => drop(world.publish("s", "", "own")),
                _ => {
                    published += 1;
                    world.publish("o.a", "", &published.to_string());
                }
            }
        }
        world.settle();
        let copied: Vec<String> = (1..=world.last_seq("S"))
            .filter_map(|seq| world.message("S", seq))
            .filter(|text| text != "own")
            .collect();
        let expected: Vec<String> = (1..=published).map(|number: u64| number.to_string()).collect();
        assert_eq!(copied, expected, "seed {seed}");
        assert_eq!(world.messages("M"), published, "seed {seed}");
    }
}

#[test]
fn another_stream_of_the_same_name_is_copied_from_its_beginning() {
    let mut world = World::new(7);
    let origin = r#"{"name":"O","subjects":["o"]}"#;
    stream(&mut world, origin);
    stream(&mut world, r#"{"name":"S","sources":[{"name":"O"}]}"#);
    for _ in 0..3 {
        world.publish("o", "", "old");
    }
    world.settle();
    world.ask("$JS.API.STREAM.DELETE.O", "");
    world.wait(SECOND);
    stream(&mut world, origin);
    world.publish("o", "", "new");
    world.restart();
    world.settle();
    assert_eq!(world.messages("S"), 4);
}

#[test]
fn a_purged_copy_does_not_begin_anew() {
    let mut world = World::new(6);
    stream(&mut world, r#"{"name":"O","subjects":["o"]}"#);
    stream(&mut world, r#"{"name":"S","sources":[{"name":"O"}]}"#);
    for _ in 0..5 {
        world.publish("o", "", "x");
    }
    world.settle();
    world.wait(SECOND);
    world.ask("$JS.API.STREAM.PURGE.S", "");
    for restarted in [false, true] {
        if restarted {
            world.restart();
        }
        world.settle();
        assert_eq!(world.messages("S"), 0);
    }
    world.publish("o", "", "y");
    world.settle();
    assert_eq!(world.messages("S"), 1);
}

#[test]
fn a_source_goes_through_the_consumer_that_it_names() {
    let mut world = World::new(31);
    stream(
        &mut world,
        r#"{"name":"O","subjects":["o.*"],"retention":"workqueue"}"#,
    );
    for index in 0..4 {
        world.publish("o.a", "", &index.to_string());
    }
    stream(
        &mut world,
        r#"{"name":"S","sources":[{"name":"O","consumer":{"name":"C","deliver_subject":"d"}}]}"#,
    );
    world.settle();
    assert_eq!(info(&mut world, "S")["sources"][0]["error"]["err_code"], 10014);
    consumer(
        &mut world,
        "O",
        r#"{"durable_name":"C","ack_policy":"flow_control","deliver_subject":"d","filter_subject":"o.a"}"#,
    );
    world.publish("o.b", "", "not wanted");
    world.wait(2 * SECOND);
    assert_eq!(
        (world.messages("O"), world.messages("S")),
        (1, 4),
        "the queue lets go of what was copied"
    );
    let origin: Value = serde_json::from_str(&world.ask("$JS.API.CONSUMER.INFO.O.C", "")).unwrap();
    assert_eq!(
        (
            &origin["delivered"]["consumer_seq"],
            &origin["ack_floor"]["stream_seq"]
        ),
        (&4.into(), &4.into())
    );
    world.crash(3);
    world.publish("o.a", "", "more");
    world.wait(SECOND);
    assert_eq!((world.messages("O"), world.messages("S")), (1, 5));
    let refused = world.ask(
        "$JS.API.STREAM.CREATE.T",
        r#"{"name":"T","mirror":{"name":"O","opt_start_seq":2,"consumer":{"name":"C","deliver_subject":"d"}}}"#,
    );
    assert!(refused.contains("10213"), "{refused}");
}

#[test]
fn what_was_copied_before_a_crash_leaves_the_work_queue_after_it() {
    for nth in 0..40 {
        let mut world = World::new(nth);
        stream(
            &mut world,
            r#"{"name":"Q","subjects":["q"],"retention":"workqueue"}"#,
        );
        stream(&mut world, r#"{"name":"S","sources":[{"name":"Q"}]}"#);
        for _ in 0..3 {
            world.publish("q", "", "x");
        }
        world.fs.cut_power_after(nth);
        world.settle();
        world.crash(nth);
        world.settle();
        world.wait(SECOND);
        assert_eq!(
            (world.messages("Q"), world.messages("S")),
            (0, 3),
            "power cut after {nth} changes"
        );
    }
}
