use proptest::prelude::*;

use super::*;

const NOW: Mono = Mono(1 << 62);

fn message(id: &'static str, seq: u64, op: FastOp, gap_ok: bool) -> FastMessage<'static> {
    FastMessage {
        id,
        flow: 4,
        gap_ok,
        seq,
        op,
    }
}

/// Takes a message, stores it if it may be, and gives what is told.
fn send(batches: &mut FastBatches, message: &FastMessage<'_>, stream_seq: u64) -> Vec<Told> {
    let mut told = Vec::new();
    match batches.take(NOW, message, false, &mut told) {
        Ok(Admitted::Store) => batches.stored(message, Outcome::Stored(stream_seq), &mut told),
        Ok(Admitted::Nothing) => {}
        Err(error) => told.push(Told::Error(error)),
    }
    told
}

#[test]
fn reply_subjects_are_read_from_their_end() {
    let read = FastMessage::parse("_INBOX.a.b.uuid.100.fail.7.1.$FI").unwrap();
    let expected = FastMessage {
        id: "uuid",
        flow: 100,
        gap_ok: false,
        seq: 7,
        op: FastOp::Append,
    };
    assert_eq!(read, expected);
    assert_eq!(FastMessage::parse("i.u.0.ok.1.0.$FI").unwrap().flow, 10);
    assert_eq!(
        FastMessage::parse("i.u.99999999.ok.1.0.$FI").unwrap().flow,
        u16::MAX
    );
    for bad in [
        "i.u.1.ok.1.5.$FI",
        "i.u.1.ok.2.0.$FI",
        "i.u.1.ok.1.1.$FI",
        "i.u.1.ok.1.3.$FI",
        "i.u.1.maybe.1.0.$FI",
        "i.u.1.ok.0.0.$FI",
        "i.u.1.ok.18446744073709551615.1.$FI",
        "i.u.1.ok.+1.0.$FI",
        "u.1.ok.1.0.$FI",
        ".$FI",
        "i.u.1.ok.1.0",
    ] {
        assert_eq!(FastMessage::parse(bad), None, "{bad}");
    }
    assert!(is_fast("x.$FI") && !is_fast(".$FI") && !is_fast("_INBOX.x"));
}

#[test]
fn a_batch_is_acknowledged_now_and_then_and_at_its_end() {
    let mut batches = FastBatches::default();
    let first = send(&mut batches, &message("A", 1, FastOp::Append, false), 11);
    assert_eq!(first, [Told::Flow { seq: 0, messages: 4 }]);
    for seq in 2..=3 {
        assert!(send(&mut batches, &message("A", seq, FastOp::Append, false), 10 + seq).is_empty());
    }
    let fourth = send(&mut batches, &message("A", 4, FastOp::Append, false), 14);
    assert_eq!(fourth, [Told::Flow { seq: 4, messages: 4 }]);
    let last = send(&mut batches, &message("A", 5, FastOp::Commit, false), 15);
    let done = |stream_seq, count| Told::Done { stream_seq, count };
    assert_eq!(last, [done(15, 5)]);
    assert_eq!(batches.len(), 0);
    send(&mut batches, &message("B", 1, FastOp::Append, false), 16);
    let before = send(&mut batches, &message("B", 2, FastOp::CommitBefore, false), 0);
    assert_eq!(before, [done(16, 1)]);
    assert_eq!(
        send(&mut batches, &message("C", 1, FastOp::Commit, false), 17),
        [done(17, 1)]
    );
}

#[test]
fn a_gap_ends_a_batch_unless_it_may_have_gaps() {
    let gap = Told::Gap { expected: 2, seq: 3 };
    let mut batches = FastBatches::default();
    send(&mut batches, &message("A", 1, FastOp::Append, false), 1);
    let told = send(&mut batches, &message("A", 3, FastOp::Append, false), 0);
    let done = Told::Done {
        stream_seq: 1,
        count: 1,
    };
    assert_eq!(told, [gap.clone(), done.clone()]);
    let after = send(&mut batches, &message("A", 4, FastOp::Append, false), 0);
    assert_eq!(after, [Told::Error(ApiError::FAST_BATCH_UNKNOWN)]);
    send(&mut batches, &message("B", 1, FastOp::Append, true), 1);
    assert_eq!(
        send(&mut batches, &message("B", 3, FastOp::Append, true), 2),
        [gap]
    );
    let back = send(&mut batches, &message("B", 2, FastOp::Append, true), 0);
    let done = Told::Done {
        stream_seq: 2,
        count: 3,
    };
    assert_eq!(back, [done]);
}

#[test]
fn pings_say_how_far_the_batch_is() {
    let mut batches = FastBatches::default();
    send(&mut batches, &message("A", 1, FastOp::Append, true), 1);
    let flow = |seq| Told::Flow { seq, messages: 4 };
    assert_eq!(
        send(&mut batches, &message("A", 1, FastOp::Ping, true), 0),
        [flow(0)]
    );
    let gap = Told::Gap { expected: 2, seq: 6 };
    assert_eq!(
        send(&mut batches, &message("A", 5, FastOp::Ping, true), 0),
        [gap, flow(4)]
    );
}

#[test]
fn refusals_end_a_batch_that_may_have_no_gaps() {
    let refused = || Outcome::Refused(ApiError::SEALED);
    let mut told = Vec::new();
    let mut batches = FastBatches::default();
    let first = message("A", 1, FastOp::Append, false);
    batches.take(NOW, &first, false, &mut told).unwrap();
    told.clear();
    batches.stored(&first, refused(), &mut told);
    assert_eq!(
        (told.as_slice(), batches.len()),
        (&[Told::Error(ApiError::SEALED)][..], 0)
    );
    for gap_ok in [false, true] {
        let mut told = Vec::new();
        send(&mut batches, &message("B", 1, FastOp::Append, gap_ok), 7);
        let second = message("B", 2, FastOp::Append, gap_ok);
        batches.take(NOW, &second, false, &mut told).unwrap();
        batches.stored(&second, refused(), &mut told);
        let error = Told::Refused {
            seq: 2,
            error: ApiError::SEALED,
        };
        let done = Told::Done {
            stream_seq: 7,
            count: 1,
        };
        let expected = if gap_ok { vec![error] } else { vec![error, done] };
        assert_eq!((told, batches.len()), (expected, usize::from(gap_ok)));
    }
}

#[test]
fn publishers_share_what_there_is() {
    let mut batches = FastBatches::default();
    let one = FastMessage {
        flow: 1000,
        ..message("A", 1, FastOp::Append, false)
    };
    let told = send(&mut batches, &one, 1);
    assert_eq!(
        told,
        [Told::Flow {
            seq: 0,
            messages: 500
        }]
    );
    let two = FastMessage { id: "B", ..one };
    let told = send(&mut batches, &two, 2);
    // The second begins with one, and is at two when its first message is in.
    let flow = |seq, messages| Told::Flow { seq, messages };
    assert_eq!(told, [flow(0, 1), flow(1, 2)]);
    batches.expire(NOW.after(IDLE_NS));
    assert_eq!((batches.len(), batches.next_deadline()), (0, None));
}

#[test]
fn there_are_bounds() {
    let mut batches = FastBatches::default();
    let ids: Vec<String> = (0..=OPEN_MAX).map(|at| at.to_string()).collect();
    for (at, id) in ids.iter().enumerate() {
        let one = FastMessage {
            id,
            ..message("", 1, FastOp::Append, false)
        };
        let taken = batches.take(NOW, &one, false, &mut Vec::new());
        assert_eq!(taken.is_ok(), at < OPEN_MAX);
    }
    let long = "x".repeat(65);
    let one = FastMessage {
        id: &long,
        ..message("", 1, FastOp::Append, false)
    };
    let taken = batches.take(NOW, &one, false, &mut Vec::new());
    assert_eq!(taken, Err(ApiError::FAST_BATCH_INVALID_ID));
    let full = FastBatches::default().take(
        NOW,
        &message("A", 1, FastOp::Append, false),
        true,
        &mut Vec::new(),
    );
    assert_eq!(full, Err(ApiError::FAST_BATCH_TOO_MANY));
}

proptest! {
    /// Whatever is lost on the way, what is acknowledged without a gap was stored.
    #[test]
    fn what_is_acknowledged_was_stored(
        kept in proptest::collection::vec(any::<bool>(), 1..60),
        gap_ok in any::<bool>(),
        flow in 1_u16..20,
    ) {
        let mut batches = FastBatches::default();
        let mut stored = Vec::new();
        let mut has_gap = false;
        for (seq, _) in (1..).zip(&kept).filter(|(seq, kept)| *seq == 1 || **kept) {
            let one = FastMessage { flow, ..message("A", seq, FastOp::Append, gap_ok) };
            let mut told = Vec::new();
            if let Ok(Admitted::Store) = batches.take(NOW, &one, false, &mut told) {
                stored.push(seq);
                batches.stored(&one, Outcome::Stored(seq), &mut told);
            }
            for told in told {
                match told {
                    Told::Flow { seq, .. } => prop_assert!(has_gap || (1..=seq).all(|seq| stored.contains(&seq))),
                    Told::Done { count, .. } => {
                        prop_assert!(!gap_ok);
                        prop_assert_eq!(count, stored.len() as u64);
                    }
                    Told::Gap { .. } => has_gap = true,
                    _ => {}
                }
            }
        }
    }

    #[test]
    fn no_reply_panics(reply in "[a-z0-9.$FI+-]{0,60}") {
        FastMessage::parse(&reply);
        FastMessage::parse(&format!("{reply}.$FI"));
    }
}
