//! Direct requests for several messages, and the id that the last message has.

use super::world::World;
use super::{SECOND, stream};

const END: &str = "NATS/1.0 204 EOB\r\n";

fn filled(messages: u64) -> World {
    let mut world = World::new(1);
    stream(
        &mut world,
        r#"{"name":"S","subjects":["s.*"],"allow_direct":true}"#,
    );
    for at in 0..messages {
        world.publish(&format!("s.{at}"), "", "x");
    }
    world
}

fn ask(world: &mut World, request: &str) -> (usize, String) {
    let mut got = world.ask_for_all("$JS.API.DIRECT.GET.S", request);
    let last = got.pop().unwrap();
    (got.len(), last)
}

#[test]
fn the_end_of_last_messages_says_up_to_where_they_were_asked_for() {
    let mut world = filled(3);
    let end = |up_to: u64| {
        format!("{END}Nats-Num-Pending: 0\r\nNats-Last-Sequence: 3\r\nNats-UpTo-Sequence: {up_to}\r\n\r\n")
    };
    assert_eq!(ask(&mut world, r#"{"multi_last":["s.*"]}"#), (3, end(3)));
    assert_eq!(
        ask(&mut world, r#"{"multi_last":["s.*"],"up_to_seq":9}"#),
        (3, end(9))
    );
    // Neither a negative number nor the wish for no headers counts here.
    assert_eq!(
        ask(&mut world, r#"{"multi_last":["s.*"],"batch":-1,"no_hdr":true}"#),
        (3, end(3))
    );
}

#[test]
fn last_messages_below_where_a_client_begins_are_there_but_not_sent() {
    let mut world = filled(3);
    let end = format!("{END}Nats-Num-Pending: 0\r\nNats-Last-Sequence: 0\r\nNats-UpTo-Sequence: 3\r\n\r\n");
    assert_eq!(ask(&mut world, r#"{"multi_last":["s.*"],"seq":4}"#), (0, end));
    let none = (0, "NATS/1.0 404 No Results\r\n\r\n".to_owned());
    assert_eq!(ask(&mut world, r#"{"multi_last":["t"],"seq":4}"#), none);
}

#[test]
fn last_messages_of_too_many_subjects_are_refused() {
    let mut world = filled(1025);
    let refused = (0, "NATS/1.0 413 Too Many Results\r\n\r\n".to_owned());
    assert_eq!(ask(&mut world, r#"{"multi_last":["s.*"]}"#), refused);
    assert_eq!(
        ask(&mut world, r#"{"multi_last":["s.*"],"up_to_seq":1024}"#).0,
        1024
    );
}

#[test]
fn the_id_of_the_last_message_counts_after_a_start_however_old_it_is() {
    let mut world = World::new(2);
    stream(
        &mut world,
        r#"{"name":"S","subjects":["s"],"duplicate_window":1000000000}"#,
    );
    world.publish("s", "Nats-Msg-Id: one\r\n", "x");
    world.wait(5 * SECOND);
    world.restart();
    let next = |last: &str, id: &str| format!("Nats-Expected-Last-Msg-Id: {last}\r\nNats-Msg-Id: {id}\r\n");
    assert_eq!(
        world.publish("s", &next("one", "two"), "x"),
        r#"{"stream":"S","seq":2}"#
    );
    assert_eq!(
        world.publish("s", &next("two", "three"), "x"),
        r#"{"stream":"S","seq":3}"#
    );
    // It goes with the message.
    world.ask("$JS.API.STREAM.MSG.DELETE.S", r#"{"seq":3}"#);
    world.restart();
    let refused = world.publish("s", &next("two", "four"), "x");
    assert!(refused.contains("10070"), "{refused}");
}
