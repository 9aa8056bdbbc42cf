//! What publishers wait for: one sync, and not the states of consumers.

use super::world::World;
use super::{MS, SECOND, consumer, stream};

#[test]
fn publishers_do_not_wait_for_the_states_of_consumers() {
    let mut world = World::new(21);
    stream(&mut world, r#"{"name":"S"}"#);
    consumer(&mut world, "S", r#"{"durable_name":"C","ack_policy":"explicit"}"#);
    world.publish("S", "", "x");
    world.pull("S", "C", "1");
    let got = world.deliveries();
    // The first sync is that of the records, the second that of the consumer's state.
    world.fs.fail_nth_sync(2);
    let (published, acknowledged) = world.publish_beside_ack("S", &got[0]);
    assert_eq!(published.as_deref(), Some(r#"{"stream":"S","seq":2}"#));
    assert_eq!(acknowledged, None, "the acknowledgement may be forgotten");
    assert!(world.publish("S", "", "y").contains("10077"));
    world.restart();
    assert_eq!(world.last_seq("S"), 2);
}

#[test]
fn states_of_many_consumers_are_written_a_few_at_a_time() {
    const CONSUMERS: usize = 50;
    let mut world = World::new(22);
    stream(&mut world, r#"{"name":"S"}"#);
    world.publish("S", "", "x");
    for number in 0..CONSUMERS {
        let name = format!("C{number}");
        let config = format!(
            r#"{{"durable_name":"{name}","ack_policy":"explicit","ack_wait":{}}}"#,
            900 * SECOND
        );
        consumer(&mut world, "S", &config);
    }
    world.wait(SECOND);
    for number in 0..CONSUMERS {
        world.pull("S", &format!("C{number}"), "1");
    }
    for delivered in world.deliveries() {
        world.ack(&delivered, "+ACK");
    }
    world.pass(300 * MS);
    let mut in_one_round = Vec::new();
    for _ in 0..20 {
        let before = world.fs.sync_count();
        assert!(!world.publish("S", "", "y").contains("error"));
        in_one_round.push(world.fs.sync_count() - before - 1);
    }
    assert_eq!(
        in_one_round.iter().sum::<u64>(),
        CONSUMERS as u64,
        "each is written once"
    );
    assert!(in_one_round.iter().all(|states| *states <= 8), "{in_one_round:?}");
    world.crash(1);
    for number in 0..CONSUMERS {
        world.pull("S", &format!("C{number}"), "1");
    }
    assert!(
        world
            .deliveries()
            .iter()
            .all(|delivered| delivered.stream_seq() > 1)
    );
}

#[test]
fn large_messages_do_not_go_past_what_a_receiver_takes() {
    let mut world = World::new(22);
    stream(&mut world, r#"{"name":"S"}"#);
    consumer(&mut world, "S", r#"{"durable_name":"C","ack_policy":"explicit"}"#);
    let large = "x".repeat(1 << 20);
    for _ in 0..24 {
        world.publish("S", "", &large);
    }
    world.busy_above(4 << 20);
    world.pull("S", "C", "24");
    assert_eq!(world.deliveries().len(), 5, "one more than fit, not a whole turn");
}

#[test]
fn work_in_progress_is_not_handed_out_again() {
    let mut world = World::new(23);
    stream(&mut world, r#"{"name":"S"}"#);
    consumer(
        &mut world,
        "S",
        r#"{"durable_name":"C","ack_policy":"explicit","max_deliver":2}"#,
    );
    world.publish("S", "", "x");
    world.pull("S", "C", "9");
    let first = world.deliveries().remove(0);
    for _ in 0..4 {
        world.wait(20 * SECOND);
        world.ack(&first, "+WPI");
        assert!(world.deliveries().is_empty());
    }
    world.wait(29 * SECOND);
    assert!(world.deliveries().is_empty());
    world.wait(2 * SECOND);
    assert_eq!(world.deliveries()[0].deliveries(), 2);
    world.wait(31 * SECOND);
    assert!(
        world.deliveries().is_empty(),
        "it was delivered as often as it may be"
    );
    let info = world.ask("$JS.API.CONSUMER.INFO.S.C", "");
    assert!(info.contains(r#""num_ack_pending":0"#), "{info}");
}
