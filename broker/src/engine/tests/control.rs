//! What consumers do besides delivering: pauses, priorities, resets, paces, and what they tell.

use serde_json::Value;

use super::world::World;
use super::{MS, SECOND, consumer, stream};

fn ask(world: &mut World, subject: &str, payload: &str) -> Value {
    serde_json::from_str(&world.ask(&format!("$JS.API.{subject}"), payload)).unwrap()
}

fn seqs(world: &mut World) -> Vec<u64> {
    let got = world.deliveries();
    got.iter().map(super::world::Delivered::stream_seq).collect()
}

fn filled(seed: u64, messages: usize, consumer_config: &str) -> World {
    let mut world = World::new(seed);
    stream(&mut world, r#"{"name":"S","subjects":["s"]}"#);
    for index in 0..messages {
        world.publish("s", "", &index.to_string());
    }
    consumer(&mut world, "S", consumer_config);
    world.published();
    world
}

#[test]
fn a_paused_consumer_delivers_nothing_until_it_goes_on() {
    let mut world = filled(1, 2, r#"{"durable_name":"C","ack_policy":"explicit"}"#);
    let until = r#"{"pause_until":"2023-11-14T22:13:30Z"}"#;
    let answer = ask(&mut world, "CONSUMER.PAUSE.S.C", until);
    assert_eq!(answer["paused"], true);
    assert_eq!(answer["pause_remaining"], 10_000_000_000_u64);
    assert_eq!(
        world.published().pop().unwrap().subject,
        "$JS.EVENT.ADVISORY.CONSUMER.PAUSE.S.C"
    );
    world.pull("S", "C", r#"{"batch":2,"expires":60000000000}"#);
    world.wait(5 * SECOND);
    assert!(world.deliveries().is_empty());
    world.restart();
    let info = ask(&mut world, "CONSUMER.INFO.S.C", "");
    assert_eq!(
        (&info["paused"], &info["config"]["metadata"]["_nats.req.level"]),
        (&true.into(), &"1".into())
    );
    world.pull("S", "C", r#"{"batch":2,"expires":60000000000}"#);
    world.wait(4 * SECOND);
    assert!(world.deliveries().is_empty());
    world.published();
    world.wait(2 * SECOND);
    assert_eq!(seqs(&mut world), [1, 2]);
    assert_eq!(
        world.published()[0].subject,
        "$JS.EVENT.ADVISORY.CONSUMER.PAUSE.S.C"
    );
    let answer = ask(&mut world, "CONSUMER.PAUSE.S.C", "");
    assert_eq!(
        (&answer["paused"], &answer["pause_until"]),
        (&false.into(), &"0001-01-01T00:00:00Z".into())
    );
}

#[test]
fn a_pinned_client_gets_everything_until_it_falls_silent() {
    let mut world = filled(
        2,
        6,
        r#"{"durable_name":"C","ack_policy":"explicit","priority_policy":"pinned_client",
            "priority_groups":["A"],"priority_timeout":10000000000}"#,
    );
    world.pull_to(
        "_INBOX.one",
        "S",
        "C",
        r#"{"batch":1,"expires":60000000000,"group":"A"}"#,
    );
    let first = world.deliveries();
    let pin = first[0]
        .headers()
        .split("Nats-Pin-Id: ")
        .nth(1)
        .unwrap()
        .trim()
        .to_owned();
    assert_eq!(
        world.published()[0].subject,
        "$JS.EVENT.ADVISORY.CONSUMER.PINNED.S.C"
    );
    // Another one waits; the pinned one goes on.
    world.pull_to(
        "_INBOX.two",
        "S",
        "C",
        r#"{"batch":1,"expires":60000000000,"group":"A"}"#,
    );
    assert!(world.deliveries().is_empty());
    let with_pin = format!(r#"{{"batch":1,"expires":60000000000,"group":"A","id":"{pin}"}}"#);
    world.pull_to("_INBOX.one", "S", "C", &with_pin);
    let second = world.deliveries();
    assert_eq!((second[0].to(), second[0].stream_seq()), ("_INBOX.one", 2));
    world.pull_to("_INBOX.one", "S", "C", r#"{"batch":1,"group":"A","id":"wrong"}"#);
    assert_eq!(world.statuses(), "NATS/1.0 423 Nats-Pin-Id mismatch\n\n");
    let info = ask(&mut world, "CONSUMER.INFO.S.C", "");
    assert_eq!(info["priority_groups"][0]["pinned_client_id"], *pin);
    world.wait(11 * SECOND);
    let third = world.deliveries();
    assert_eq!((third[0].to(), third[0].stream_seq()), ("_INBOX.two", 3));
    let told: Vec<String> = world.published().into_iter().map(|got| got.subject).collect();
    assert!(
        told.contains(&"$JS.EVENT.ADVISORY.CONSUMER.UNPINNED.S.C".to_owned()),
        "{told:?}"
    );
    let unpinned = ask(&mut world, "CONSUMER.UNPIN.S.C", r#"{"group":"A"}"#);
    assert!(unpinned["error"].is_null());
    let unknown = ask(&mut world, "CONSUMER.UNPIN.S.C", r#"{"group":"B"}"#);
    assert_eq!(unknown["error"]["err_code"], 10160);
    world.pull_to("_INBOX.one", "S", "C", r#"{"batch":1,"expires":1000000000}"#);
    assert_eq!(
        world.statuses(),
        "NATS/1.0 400 Bad Request - Priority Group missing\n\n"
    );
}

#[test]
fn overflow_helps_when_much_waits_and_priorities_come_in_order() {
    let mut world = filled(
        3,
        3,
        r#"{"durable_name":"C","ack_policy":"explicit","priority_policy":"overflow","priority_groups":["A"]}"#,
    );
    world.pull(
        "S",
        "C",
        r#"{"batch":1,"expires":60000000000,"group":"A","min_pending":4}"#,
    );
    assert!(world.deliveries().is_empty());
    world.publish("s", "", "more");
    assert_eq!(seqs(&mut world), [1]);
    world.pull(
        "S",
        "C",
        r#"{"batch":1,"expires":60000000000,"group":"A","min_ack_pending":2}"#,
    );
    assert!(world.deliveries().is_empty());
    world.pull("S", "C", r#"{"batch":1,"expires":60000000000,"group":"A"}"#);
    assert_eq!(seqs(&mut world), [2, 3]);

    let mut world = filled(
        4,
        0,
        r#"{"durable_name":"C","ack_policy":"explicit","priority_policy":"prioritized","priority_groups":["A"]}"#,
    );
    for (inbox, priority) in [("_INBOX.low", 5), ("_INBOX.high", 1), ("_INBOX.high2", 1)] {
        let request = format!(r#"{{"batch":2,"expires":60000000000,"group":"A","priority":{priority}}}"#);
        world.pull_to(inbox, "S", "C", &request);
    }
    for _ in 0..5 {
        world.publish("s", "", "x");
    }
    let to: Vec<String> = world.deliveries().iter().map(|got| got.to().to_owned()).collect();
    assert_eq!(
        to,
        [
            "_INBOX.high",
            "_INBOX.high2",
            "_INBOX.high",
            "_INBOX.high2",
            "_INBOX.low"
        ]
    );
}

#[test]
fn a_reset_goes_back_to_a_sequence_or_to_what_was_acknowledged() {
    let mut world = filled(5, 5, r#"{"durable_name":"C","ack_policy":"explicit"}"#);
    world.pull("S", "C", "4");
    let got = world.deliveries();
    world.ack(&got[0], "");
    let reset = ask(&mut world, "CONSUMER.RESET.S.C", "");
    assert_eq!(
        (&reset["reset_seq"], &reset["num_ack_pending"]),
        (&2.into(), &0.into())
    );
    world.pull("S", "C", "2");
    assert_eq!(seqs(&mut world), [2, 3]);
    ask(&mut world, "CONSUMER.RESET.S.C", r#"{"seq":5}"#);
    world.crash(6);
    world.pull("S", "C", "9");
    assert_eq!(seqs(&mut world), [5]);
    consumer(
        &mut world,
        "S",
        r#"{"durable_name":"N","ack_policy":"explicit","deliver_policy":"new"}"#,
    );
    let refused = ask(&mut world, "CONSUMER.RESET.S.N", r#"{"seq":1}"#);
    assert_eq!(refused["error"]["description"], "invalid reset: not allowed");
}

#[test]
fn messages_are_replayed_at_the_pace_they_came_in() {
    let mut world = World::new(6);
    stream(&mut world, r#"{"name":"S","subjects":["s"]}"#);
    for _ in 0..3 {
        world.publish("s", "", "x");
        world.wait(2 * SECOND);
    }
    consumer(
        &mut world,
        "S",
        r#"{"durable_name":"C","ack_policy":"explicit","replay_policy":"original"}"#,
    );
    world.pull("S", "C", r#"{"batch":3,"expires":60000000000}"#);
    assert_eq!(seqs(&mut world), [1]);
    world.wait(SECOND);
    assert!(world.deliveries().is_empty());
    world.wait(SECOND + MS);
    assert_eq!(seqs(&mut world), [2]);
    world.wait(2 * SECOND + MS);
    assert_eq!(seqs(&mut world), [3]);
}

#[test]
fn a_push_consumer_keeps_its_rate() {
    let mut world = World::new(7);
    stream(&mut world, r#"{"name":"S","subjects":["s"]}"#);
    for _ in 0..4 {
        world.publish("s", "", &"x".repeat(1000));
    }
    world.listen("to");
    // A kilobyte takes about a second.
    consumer(
        &mut world,
        "S",
        r#"{"durable_name":"C","deliver_subject":"to","ack_policy":"none","rate_limit_bps":8000}"#,
    );
    world.wait(10 * MS);
    assert_eq!(seqs(&mut world), [1]);
    world.wait(1200 * MS);
    assert_eq!(seqs(&mut world), [2]);
    world.wait(10 * SECOND);
    assert_eq!(seqs(&mut world), [3, 4]);
}

#[test]
fn what_clients_say_about_messages_is_told() {
    let mut world = filled(
        8,
        4,
        r#"{"durable_name":"C","ack_policy":"explicit","max_deliver":2,"ack_wait":1000000000,"sample_freq":"100%"}"#,
    );
    world.pull("S", "C", "4");
    let got = world.deliveries();
    world.published();
    world.ack(&got[0], "-NAK {\"delay\": 100000000000}");
    world.ack(&got[1], "+TERM no use");
    world.wait(200 * MS);
    world.ack(&got[2], "+ACK");
    let told = world.published();
    let texts: Vec<(&str, Value)> = told
        .iter()
        .map(|got| (got.subject.as_str(), serde_json::from_str(got.text()).unwrap()))
        .collect();
    assert_eq!(texts[0].0, "$JS.EVENT.ADVISORY.CONSUMER.MSG_NAKED.S.C");
    assert_eq!(
        (&texts[0].1["stream_seq"], &texts[0].1["deliveries"]),
        (&1.into(), &1.into())
    );
    assert_eq!(texts[1].0, "$JS.EVENT.ADVISORY.CONSUMER.MSG_TERMINATED.S.C");
    assert_eq!(texts[1].1["reason"], "no use");
    assert_eq!(texts[2].0, "$JS.EVENT.METRIC.CONSUMER.ACK.S.C");
    assert_eq!(texts[2].1["ack_time"], 200_000_000);
    world.pull("S", "C", r#"{"batch":9,"expires":60000000000}"#);
    world.wait(3 * SECOND);
    let told = world.published();
    assert_eq!(told[0].subject, "$JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES.S.C");
    let text: Value = serde_json::from_str(told[0].text()).unwrap();
    assert_eq!((&text["stream_seq"], &text["deliveries"]), (&4.into(), &2.into()));
}

#[test]
fn answers_to_flow_control_acknowledge_where_the_policy_says_so() {
    let config =
        r#"{"durable_name":"C","ack_policy":"flow_control","deliver_subject":"d","max_ack_pending":3}"#;
    let mut world = World::new(11);
    stream(
        &mut world,
        r#"{"name":"S","subjects":["s"],"retention":"workqueue"}"#,
    );
    consumer(&mut world, "S", config);
    for index in 0..5 {
        world.publish("s", "", &index.to_string());
    }
    world.listen("d");
    world.wait(SECOND / 2);
    let got = world.deliveries();
    assert_eq!(got.len(), 3, "as many as may be pending");
    assert_eq!(
        world.ack_and_wait(&got[0], "+ACK"),
        None,
        "the messages themselves are not acknowledged"
    );
    let requests = world.flow_requests();
    assert_eq!(requests.len(), 1);
    world.answer_flow(&requests[0], 2);
    world.wait(SECOND / 4);
    assert_eq!(world.messages("S"), 3);
    assert_eq!(seqs(&mut world), [4, 5]);
    world.wait(60 * SECOND);
    assert!(world.deliveries().is_empty(), "nothing is delivered twice");
    let requests = world.flow_requests();
    assert_eq!(requests.len(), 1, "one is open, and asked for with a heartbeat");
    world.answer_flow(&requests[0], 5);
    let info = ask(&mut world, "CONSUMER.INFO.S.C", "");
    assert_eq!(
        (&info["num_ack_pending"], &info["ack_floor"]["stream_seq"]),
        (&0.into(), &5.into())
    );
    assert_eq!(info["config"]["metadata"]["_nats.req.level"], "4");
    assert_eq!(world.messages("S"), 0);
}

#[test]
fn flow_control_counts_the_subject_that_is_delivered_to() {
    let to = "d".repeat(40);
    let ack_subject = "$JS.ACK.S.C.1.1.1.1700000000000000000.0";
    let half_window = (1 << 20) - to.len() - ack_subject.len();
    for (bytes, requests) in [(half_window, 0), (half_window + 1, 1)] {
        let mut world = World::new(14);
        stream(&mut world, r#"{"name":"S","subjects":["s"]}"#);
        let config = format!(
            r#"{{"durable_name":"C","ack_policy":"none","deliver_subject":"{to}","flow_control":true,"idle_heartbeat":60000000000}}"#
        );
        consumer(&mut world, "S", &config);
        world.listen(&to);
        world.publish("s", "", &"x".repeat(bytes));
        world.settle();
        assert_eq!(world.flow_requests().len(), requests);
    }
}

#[test]
fn a_pause_is_not_changed_by_an_update() {
    let mut world = filled(12, 1, r#"{"durable_name":"C","ack_policy":"explicit"}"#);
    let request = r#"{"stream_name":"S","action":"update","config":{"durable_name":"C","ack_policy":"explicit",
        "pause_until":"2033-11-14T22:13:30Z"}}"#;
    let answer = ask(&mut world, "CONSUMER.CREATE.S.C", request);
    assert_eq!(
        (&answer["error"], &answer["paused"]),
        (&Value::Null, &Value::Null)
    );
}

#[test]
fn names_of_fields_are_taken_in_any_case() {
    let mut world = World::new(13);
    let created = ask(
        &mut world,
        "STREAM.CREATE.S",
        r#"{"NAME":"S","Subjects":["upper"],"metadata":{"Key":"V"}}"#,
    );
    assert_eq!(created["config"]["subjects"][0], "upper");
    assert_eq!(created["config"]["metadata"]["Key"], "V");
    let refused = ask(&mut world, "STREAM.CREATE.T", r#"{"name":"T","No_Such":1}"#);
    assert_eq!(
        refused["error"]["description"],
        r#"invalid JSON: json: unknown field "No_Such""#
    );
}
