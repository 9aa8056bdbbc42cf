//! Mirrors and sources of other accounts: copied through JetStream's API under another prefix.

use serde_json::Value;

use super::world::World;
use super::{SECOND, consumer, stream};
use crate::env::Rng as _;
use crate::env::sim::SplitMix;

const EXTERNAL: &str = r#""external":{"api":"far.API","deliver":"to.me"}"#;

fn ask(world: &mut World, request: &str, payload: &str) -> Value {
    serde_json::from_str(&world.ask(&format!("$JS.API.{request}"), payload)).unwrap()
}

fn source(world: &mut World, name: &str) {
    let config = format!(r#"{{"name":"{name}","subjects":["s"],"sources":[{{"name":"O",{EXTERNAL}}}]}}"#);
    stream(world, &config);
}

fn mirror(world: &mut World, name: &str) {
    stream(
        world,
        &format!(r#"{{"name":"{name}","mirror":{{"name":"O",{EXTERNAL}}}}}"#),
    );
}

/// Everything that was copied into `stream`, without its own messages.
fn copied(world: &mut World, stream: &str) -> Vec<String> {
    (1..=world.last_seq(stream))
        .filter_map(|seq| world.message(stream, seq))
        .filter(|text| text != "own")
        .collect()
}

fn numbers(until: u64) -> Vec<String> {
    (1..=until).map(|number| number.to_string()).collect()
}

#[test]
fn streams_of_other_accounts_are_mirrored_and_sourced() {
    let mut world = World::new(1);
    stream(&mut world, r#"{"name":"O","subjects":["o.*"]}"#);
    for subject in ["o.a", "o.b", "o.a"] {
        world.publish(subject, "", subject);
    }
    world.ask("$JS.API.STREAM.MSG.DELETE.O", r#"{"seq":2}"#);
    mirror(&mut world, "M");
    let config = format!(
        r#"{{"name":"S","sources":[{{"name":"O","subject_transforms":[{{"src":"o.*","dest":"from.$1"}}],{EXTERNAL}}}]}}"#
    );
    stream(&mut world, &config);
    world.wait(2 * SECOND);
    assert_eq!((world.messages("M"), world.last_seq("M")), (2, 3));
    assert_eq!(world.message("M", 3).unwrap(), "o.a");
    world.publish("o.b", "", "more");
    world.publish("o.a", "", "more");
    world.wait(2 * SECOND);
    assert_eq!((world.messages("M"), world.last_seq("M")), (4, 5));
    let stored = ask(&mut world, "STREAM.MSG.GET.S", r#"{"seq":3}"#);
    assert_eq!(stored["message"]["subject"], "from.b");
    let mirror = ask(&mut world, "STREAM.INFO.M", "")["mirror"].clone();
    assert_eq!(mirror["external"]["api"], "far.API");
    assert_eq!((&mirror["lag"], &mirror["error"]), (&0.into(), &Value::Null));
    assert!(mirror["active"].as_i64().unwrap() >= 0);
    let source = ask(&mut world, "STREAM.INFO.S", "")["sources"][0].clone();
    assert_eq!(
        (&source["seq"], &source["external"]["deliver"]),
        (&5.into(), &"to.me".into())
    );
    assert_eq!(ask(&mut world, "CONSUMER.NAMES.O", "")["total"], 0);
    assert_eq!(world.consumer_count(), 2);
    world.ask("$JS.API.STREAM.DELETE.M", "");
    stream(&mut world, r#"{"name":"T"}"#);
    world.ask("$JS.API.STREAM.DELETE.S", "");
    world.wait(SECOND);
    assert_eq!(world.consumer_count(), 0);
}

#[test]
fn every_message_is_copied_once_whatever_crashes() {
    for seed in 0..40 {
        let mut world = World::new(seed);
        let mut rng = SplitMix::new(seed);
        stream(&mut world, r#"{"name":"O","subjects":["o.*"]}"#);
        source(&mut world, "S");
        mirror(&mut world, "M");
        consumer(&mut world, "S", r#"{"durable_name":"C","ack_policy":"explicit"}"#);
        let mut published = 0;
        for step in 0..40 {
            match rng.next_u64() % 8 {
                0 => world.crash(seed * 100 + step),
                1 => world.restart(),
                2 => world.wait(SECOND / 3),
                3 => world.wait(3 * SECOND),
                4 => drop(world.publish("s", "", "own")),
                5 => world.cut_abroad(rng.next_u64().is_multiple_of(3)),
                _ => {
                    published += 1;
                    world.publish("o.a", "", &published.to_string());
                }
            }
        }
        world.cut_abroad(false);
        world.wait(200 * SECOND);
        assert_eq!(copied(&mut world, "S"), numbers(published), "seed {seed}");
        assert_eq!(copied(&mut world, "M"), numbers(published), "seed {seed}");
    }
}

#[test]
fn a_work_queue_lets_go_of_what_is_stored_elsewhere() {
    for seed in 0..20 {
        let mut world = World::new(seed);
        let mut rng = SplitMix::new(seed);
        stream(
            &mut world,
            r#"{"name":"O","subjects":["o"],"retention":"workqueue"}"#,
        );
        source(&mut world, "S");
        let mut published = 0;
        for step in 0..30 {
            match rng.next_u64() % 6 {
                0 => world.crash(seed * 100 + step),
                1 => world.restart(),
                2 => world.wait(3 * SECOND),
                _ => {
                    published += 1;
                    world.publish("o", "", &published.to_string());
                }
            }
        }
        world.wait(60 * SECOND);
        assert_eq!(copied(&mut world, "S"), numbers(published), "seed {seed}");
        assert_eq!(world.messages("O"), 0, "seed {seed}");
    }
}

#[test]
fn another_stream_of_the_same_name_is_copied_from_its_beginning() {
    let mut world = World::new(3);
    let origin = r#"{"name":"O","subjects":["o"]}"#;
    stream(&mut world, origin);
    source(&mut world, "S");
    for _ in 0..3 {
        world.publish("o", "", "old");
    }
    world.wait(SECOND);
    world.ask("$JS.API.STREAM.DELETE.O", "");
    world.wait(SECOND);
    stream(&mut world, origin);
    world.publish("o", "", "new");
    world.restart();
    world.wait(60 * SECOND);
    assert_eq!(copied(&mut world, "S"), ["old", "old", "old", "new"]);
}

#[test]
fn a_copy_goes_through_the_consumer_that_it_names() {
    let mut world = World::new(4);
    stream(&mut world, r#"{"name":"O","subjects":["o.*"]}"#);
    consumer(
        &mut world,
        "O",
        r#"{"durable_name":"C","ack_policy":"flow_control","deliver_subject":"to.me","filter_subject":"o.a"}"#,
    );
    consumer(
        &mut world,
        "O",
        r#"{"durable_name":"X","ack_policy":"none","deliver_subject":"to.x"}"#,
    );
    for subject in ["o.a", "o.b", "o.a"] {
        world.publish(subject, "", subject);
    }
    let through = |consumer: &str, deliver: &str| {
        format!(r#""consumer":{{"name":"{consumer}","deliver_subject":"{deliver}"}}"#)
    };
    let config = format!(
        r#"{{"name":"S","sources":[{{"name":"O",{EXTERNAL},{}}},{{"name":"O",{EXTERNAL},{}}}]}}"#,
        through("C", "to.me"),
        through("X", "to.x")
    );
    stream(&mut world, &config);
    world.wait(5 * SECOND);
    assert_eq!(copied(&mut world, "S"), ["o.a", "o.a"]);
    let sources = ask(&mut world, "STREAM.INFO.S", "")["sources"].clone();
    assert_eq!(sources[0]["error"], Value::Null);
    assert_eq!(sources[1]["error"]["err_code"], 10217);
    let floor = ask(&mut world, "CONSUMER.INFO.O.C", "")["ack_floor"]["stream_seq"].clone();
    assert_eq!(floor, 3);
}

#[test]
fn prefixes_are_checked() {
    let mut world = World::new(5);
    stream(&mut world, r#"{"name":"O","subjects":["o.>"]}"#);
    let mut refused = |external: &str| {
        let config =
            format!(r#"{{"name":"S","sources":[{{"name":"O"}},{{"name":"X","external":{external}}}]}}"#);
        ask(&mut world, "STREAM.CREATE.S", &config)["error"]["err_code"].clone()
    };
    assert_eq!(refused(r#"{"api":"far.API","deliver":"to.*"}"#), 10024);
    assert_eq!(refused(r#"{"api":"far.API","deliver":"o"}"#), 10022);
    assert_eq!(refused(r#"{"api":"far.>","deliver":"to"}"#), 10052);
    assert_eq!(refused(r#"{"api":"$JS.API","deliver":"to"}"#), 10021);
}

#[test]
fn a_stream_that_is_not_there_is_an_error_until_it_is() {
    let mut world = World::new(6);
    source(&mut world, "S");
    world.wait(SECOND);
    let error = ask(&mut world, "STREAM.INFO.S", "")["sources"][0]["error"]["err_code"].clone();
    assert_eq!(error, 10059);
    stream(&mut world, r#"{"name":"O","subjects":["o"]}"#);
    world.publish("o", "", "1");
    world.wait(30 * SECOND);
    assert_eq!(copied(&mut world, "S"), ["1"]);
}
