//! The coordinator step by step. Whole lives, with crashes, are in `pipeline/simulation.rs`.

use super::*;

const INTERVAL: Duration = Duration::from_secs(10);

fn at(seq: u64) -> Watermark {
    Watermark {
        seq: StreamSeq(seq),
        created: "c".to_owned(),
    }
}

struct Driver {
    coordinator: Coordinator,
    now: Duration,
}

impl Driver {
    fn new(watermarks: Vec<Option<Watermark>>) -> Self {
        Self {
            coordinator: Coordinator::new(INTERVAL, watermarks),
            now: Duration::ZERO,
        }
    }

    /// With one stream that is open behind `seq`.
    fn open(seq: u64) -> Self {
        let mut driver = Self::new(vec![Some(at(seq))]);
        driver.step(Event::Start);
        driver.step(Event::Opened {
            stream: 0,
            session: SessionId(1),
            at: at(seq),
        });
        driver
    }

    fn step(&mut self, event: Event) -> Vec<Effect> {
        let mut effects = Vec::new();
        self.coordinator.step(self.now, event, &mut effects);
        effects
    }

    fn take(&mut self, seq: u64) -> Vec<Effect> {
        self.step(Event::Taken {
            stream: 0,
            seq: StreamSeq(seq),
        })
    }

    fn tick_at(&mut self, seconds: u64) -> Vec<Effect> {
        self.now = Duration::from_secs(seconds);
        self.step(Event::Tick)
    }
}

fn target(seq: u64, session: u64) -> Target {
    Target {
        stream: 0,
        watermark: at(seq),
        session: SessionId(session),
    }
}

#[test]
fn sessions_begin_behind_the_watermark_and_then_behind_what_was_taken() {
    let mut driver = Driver::new(vec![Some(at(7)), None]);
    let opened = |stream, session, behind| Effect::Open {
        stream,
        session: SessionId(session),
        behind,
    };
    assert_eq!(
        driver.step(Event::Start),
        [opened(0, 1, Some(at(7))), opened(1, 1, None)]
    );
    driver.step(Event::Opened {
        stream: 0,
        session: SessionId(1),
        at: at(7),
    });
    driver.take(12);
    assert_eq!(
        driver.step(Event::Ended {
            stream: 0,
            session: SessionId(1)
        }),
        [opened(0, 2, Some(at(12)))]
    );
    assert_eq!(
        driver.step(Event::Ended {
            stream: 0,
            session: SessionId(1)
        }),
        [],
        "an old session's end is old news"
    );
    assert!(!driver.coordinator.is_current(0, SessionId(1)));
}

#[test]
fn a_commit_begins_when_its_first_message_waited_long_enough_or_the_batch_is_full() {
    let mut driver = Driver::open(0);
    assert_eq!(driver.coordinator.deadline(), None);
    driver.now = Duration::from_secs(5);
    assert_eq!(driver.take(1), []);
    assert_eq!(driver.coordinator.deadline(), Some(Duration::from_secs(15)));
    assert_eq!(driver.tick_at(14), []);
    assert_eq!(
        driver.tick_at(15),
        [Effect::Commit {
            targets: vec![target(1, 1)]
        }]
    );
    assert_eq!(driver.step(Event::Committed), [Effect::Ack { stream: 0 }]);
    driver.take(2);
    assert_eq!(
        driver.step(Event::Full),
        [Effect::Commit {
            targets: vec![target(2, 1)]
        }]
    );
}

#[test]
fn one_batch_fills_while_another_is_committed_and_no_more() {
    let mut driver = Driver::open(0);
    driver.take(1);
    driver.step(Event::Full);
    assert!(driver.coordinator.accepts());
    driver.take(2);
    assert_eq!(driver.step(Event::Full), []);
    assert!(!driver.coordinator.accepts());
    let effects = driver.step(Event::Committed);
    assert_eq!(
        effects,
        [
            Effect::Ack { stream: 0 },
            Effect::Commit {
                targets: vec![target(2, 1)]
            }
        ]
    );
    assert!(driver.coordinator.accepts());
}

#[test]
fn an_acknowledgement_of_an_ended_session_is_not_sent() {
    let mut driver = Driver::open(0);
    driver.take(1);
    driver.step(Event::Full);
    driver.step(Event::Ended {
        stream: 0,
        session: SessionId(1),
    });
    driver.step(Event::Opened {
        stream: 0,
        session: SessionId(2),
        at: at(1),
    });
    assert_eq!(driver.step(Event::Committed), []);
}

#[test]
fn a_failed_commit_is_kept_and_tried_again_later_and_later() {
    let mut driver = Driver::open(0);
    driver.take(1);
    driver.step(Event::Full);
    let mut waits = Vec::new();
    for _ in 0..9 {
        assert_eq!(driver.step(Event::CommitFailed(Failure::Again)), []);
        let until = driver.coordinator.deadline().unwrap();
        waits.push((until - driver.now).as_millis());
        driver.now = until;
        assert_eq!(driver.step(Event::Tick), [Effect::Retry]);
    }
    assert_eq!(waits, [200, 400, 800, 1600, 3200, 6400, 12800, 15000, 15000]);
    assert_eq!(driver.step(Event::Committed), [Effect::Ack { stream: 0 }]);
}

#[test]
fn an_unknown_outcome_is_looked_up() {
    for (found, expected) in [
        (
            Some(vec![Some(at(1))]),
            vec![Effect::Settle, Effect::Ack { stream: 0 }],
        ),
        (Some(vec![Some(at(0))]), vec![Effect::Retry]),
        (None, vec![]),
    ] {
        let mut driver = Driver::open(0);
        driver.take(1);
        driver.step(Event::Full);
        driver.step(Event::CommitFailed(Failure::Unknown));
        assert_eq!(driver.tick_at(1), [Effect::Inspect]);
        assert_eq!(
            driver.step(Event::Inspected(found.clone())),
            expected,
            "{found:?}"
        );
        if found.is_none() {
            assert_eq!(driver.tick_at(60), [Effect::Inspect]);
        }
    }
}

#[test]
fn a_watermark_that_someone_else_moved_is_the_end() {
    let mut driver = Driver::open(0);
    driver.take(1);
    driver.step(Event::Full);
    driver.step(Event::CommitFailed(Failure::Unknown));
    driver.tick_at(1);
    let effects = driver.step(Event::Inspected(Some(vec![Some(at(99))])));
    assert!(matches!(effects.as_slice(), [Effect::Fail { .. }]), "{effects:?}");
    assert!(!driver.coordinator.accepts());
    assert_eq!(driver.tick_at(99), []);
}

#[test]
fn a_fenced_writer_stops() {
    let mut driver = Driver::open(0);
    driver.take(1);
    driver.step(Event::Full);
    let reason = "taken over".to_owned();
    let effects = driver.step(Event::CommitFailed(Failure::Fenced {
        reason: reason.clone(),
    }));
    assert_eq!(effects, [Effect::Fail { reason }]);
}

#[test]
fn a_recreated_stream_is_committed_under_its_new_creation_time() {
    let mut driver = Driver::open(10);
    driver.take(11);
    driver.step(Event::Ended {
        stream: 0,
        session: SessionId(1),
    });
    let anew = |seq| Watermark {
        seq: StreamSeq(seq),
        created: "later".to_owned(),
    };
    driver.step(Event::Opened {
        stream: 0,
        session: SessionId(2),
        at: anew(0),
    });
    driver.take(3);
    let effects = driver.step(Event::Full);
    let targets = vec![Target {
        stream: 0,
        watermark: anew(3),
        session: SessionId(2),
    }];
    assert_eq!(effects, [Effect::Commit { targets }]);
}

#[test]
fn shutdown_commits_what_is_there_and_ends() {
    let mut driver = Driver::open(0);
    driver.take(1);
    assert_eq!(
        driver.step(Event::Stop),
        [Effect::Commit {
            targets: vec![target(1, 1)]
        }]
    );
    assert_eq!(
        driver.step(Event::Committed),
        [Effect::Ack { stream: 0 }, Effect::Finish]
    );
    assert_eq!(Driver::open(0).step(Event::Stop), [Effect::Finish]);
}

#[test]
fn shutdown_gives_up_on_a_commit_that_keeps_failing() {
    let mut driver = Driver::open(0);
    driver.take(1);
    driver.step(Event::Stop);
    let mut last = Vec::new();
    for seconds in 1..=3 {
        last = driver.step(Event::CommitFailed(Failure::Again));
        driver.tick_at(seconds * 100);
    }
    assert_eq!(last, [Effect::Finish]);
}
