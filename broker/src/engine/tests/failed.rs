//! A stream whose disk has failed: whoever asks for a change is told.

use super::world::World;
use super::{consumer, stream};

#[test]
fn requests_that_change_a_stream_that_failed_are_answered_with_its_error() {
    const CHANGES: [(&str, &str); 8] = [
        ("STREAM.PURGE.S", ""),
        ("STREAM.PURGE.S", r#"{"filter":"s.a"}"#),
        ("STREAM.PURGE.S", r#"{"seq":9}"#),
        ("STREAM.MSG.DELETE.S", r#"{"seq":1}"#),
        ("CONSUMER.RESET.S.C", ""),
        ("CONSUMER.PAUSE.S.C", r#"{"pause_until":"2100-01-01T00:00:00Z"}"#),
        ("CONSUMER.DELETE.S.C", ""),
        (
            "CONSUMER.CREATE.S.D",
            r#"{"stream_name":"S","config":{"name":"D","durable_name":"D","ack_policy":"explicit"}}"#,
        ),
    ];
    for first in CHANGES {
        let mut world = World::new(11);
        stream(&mut world, r#"{"name":"S","subjects":["s.*"]}"#);
        consumer(&mut world, "S", r#"{"durable_name":"C","ack_policy":"explicit"}"#);
        world.publish("s.a", "", "x");
        world.publish("s.b", "", "y");
        world.fs.fail_nth_sync(1);
        // The first finds it out, the others are told.
        for (request, payload) in [first].into_iter().chain(CHANGES) {
            let answer = world.ask(&format!("$JS.API.{request}"), payload);
            let reasons = ["read-only", "cannot ", "error creating store"];
            let is_told = reasons.iter().any(|reason| answer.contains(reason));
            assert!(answer.contains("\"error\"") && is_told, "{request}: {answer}");
        }
        world.restart();
        let answer = world.ask("$JS.API.STREAM.PURGE.S", "");
        assert!(answer.contains(r#""success":true"#), "{answer}");
    }
}
