//! Consumers whose configuration changes.

use super::world::World;
use super::{consumer, stream};

fn seqs(world: &mut World) -> Vec<u64> {
    world.deliveries().iter().map(|one| one.stream_seq()).collect()
}

/// Updates consumer `C` of stream `S`.
fn update(world: &mut World, config: &str) {
    let request = format!(r#"{{"stream_name":"S","action":"update","config":{config}}}"#);
    let answer = world.ask("$JS.API.CONSUMER.CREATE.S.C", &request);
    assert!(!answer.contains("error"), "{answer}");
}

#[test]
fn what_waits_for_redelivery_does_not_come_more_often_than_an_update_allows() {
    let mut world = World::new(1);
    stream(&mut world, r#"{"name":"S","subjects":["s"]}"#);
    consumer(&mut world, "S", r#"{"durable_name":"C","ack_policy":"explicit"}"#);
    world.publish("s", "", "x");
    world.publish("s", "", "y");
    world.pull("S", "C", "1");
    let delivered = world.deliveries();
    world.ack(&delivered[0], "-NAK");
    update(
        &mut world,
        r#"{"durable_name":"C","ack_policy":"explicit","max_deliver":1}"#,
    );
    world.pull("S", "C", "2");
    assert_eq!(seqs(&mut world), [2]);
}

#[test]
fn a_consumer_of_the_last_message_goes_on_behind_it_with_another_filter() {
    let mut world = World::new(2);
    stream(&mut world, r#"{"name":"S","subjects":["s.*"]}"#);
    for subject in ["s.a", "s.b", "s.a"] {
        world.publish(subject, "", "x");
    }
    let config = |filter: &str| {
        format!(
            r#"{{"durable_name":"C","ack_policy":"explicit","deliver_policy":"last","filter_subject":"{filter}"}}"#
        )
    };
    consumer(&mut world, "S", &config("s.b"));
    update(&mut world, &config("s.*"));
    let info = world.ask("$JS.API.CONSUMER.INFO.S.C", "");
    assert!(info.contains(r#""num_pending":2"#), "{info}");
    world.pull("S", "C", "5");
    assert_eq!(seqs(&mut world), [2, 3]);
}
