//! Sealed segments go whole at once, their subjects are taken off later, and nobody can tell.

use super::super::table::{SegmentIndex, Table};
use super::super::{Backing, Store, SubjectFilter};
use super::model::{ModelStream, Sent, check_answers};
use super::{append, commit, id_of, open, try_append};
use crate::env::Rng;
use crate::env::sim::{SimFs, SplitMix};
use crate::types::{MonoNanos, StreamId, StreamSeq, UnixNanos};

/// A store with one stream, and what it should hold.
struct Run {
    rng: SplitMix,
    fs: SimFs,
    store: Store<SimFs>,
    id: StreamId,
    model: ModelStream,
    /// Checks while something was owed, while a part of it was taken off already, and while a segment owed something of
    /// which records had been removed before.
    checks: [u64; 3],
}

impl Run {
    fn new(seed: u64) -> Self {
        let fs = SimFs::new(seed);
        let (mut store, _) = open(&fs, seed);
        let id = store
            .create_stream("S", b"", Backing::File, StreamSeq(1), UnixNanos(0))
            .unwrap();
        Self {
            rng: SplitMix::new(seed),
            fs,
            store,
            id,
            model: ModelStream::new(1, b""),
            checks: [0; 3],
        }
    }

    /// Few subjects with many records and many with few: lists of several blocks.
    fn subject(&mut self) -> String {
        match self.rng.below(6) {
            0 => ["a", "b.x", "b.y", "c"][self.rng.below(4) as usize].to_owned(),
            _ => format!("b.{}", self.rng.below(300)),
        }
    }

    fn append(&mut self) {
        let subject = self.subject();
        let seq = append(&mut self.store, self.id, &subject, b"payload");
        self.note_sent(seq, subject, b"payload");
    }

    /// Notes a record that the store has taken.
    fn note_sent(&mut self, seq: StreamSeq, subject: String, payload: &[u8]) {
        let sent = Sent {
            time: 1_000 + self.model.last as i64,
            subject,
            headers: Vec::new(),
            payload: payload.to_vec(),
        };
        self.model.last = seq.0;
        self.model.records.insert(seq.0, sent);
    }

    fn commit(&mut self) {
        commit(&mut self.store);
        self.model.committed();
    }

    fn pick(&mut self) -> Option<u64> {
        let live: Vec<u64> = self.model.live().collect();
        live.get(self.rng.below(live.len() as u64) as usize).copied()
    }

    fn remove(&mut self) {
        if let Some(seq) = self.pick() {
            assert!(self.store.remove(self.id, StreamSeq(seq)).unwrap());
            self.model.remove(seq, true);
        }
    }

    fn remove_below(&mut self) {
        let seq = self.model.last.saturating_sub(self.rng.below(700));
        let gone: Vec<u64> = self.model.live().filter(|&other| other < seq).collect();
        let removed = self.store.remove_below(self.id, StreamSeq(seq)).unwrap();
        assert_eq!(removed, gone.len() as u64);
        gone.into_iter().for_each(|seq| self.model.remove(seq, false));
    }

    /// A record that finds no room, and that would have pushed others out.
    fn refused(&mut self) {
        self.commit();
        let subject = self.subject();
        let Ok(by) = try_append(&mut self.store, self.id, &subject, b"refused") else {
            return;
        };
        let displaced = self.pick().map(StreamSeq);
        if let Some(seq) = displaced {
            self.store.displace(self.id, seq, by).unwrap();
        }
        match self.rng.below(3) {
            0 => drop(self.store.displace_first(self.id, by).unwrap()),
            1 => drop(self.store.displace_all(self.id, by).unwrap()),
            _ => {}
        }
        self.fs.fill_at_nth_write(1);
        let report = self.store.commit();
        assert!(
            report.failed.iter().all(|(_, err)| err.is_no_space()),
            "{report:?}"
        );
        if self.store.durable_seq(self.id) < by {
            return;
        }
        // Something else found no room: the record itself is there.
        self.note_sent(by, subject, b"refused");
        let is_gone = |seq: &u64| self.store.read(self.id, StreamSeq(*seq)).unwrap().is_none();
        let gone: Vec<u64> = self.model.live().filter(is_gone).collect();
        gone.into_iter().for_each(|seq| self.model.remove(seq, true));
    }

    fn pay(&mut self, blocks: usize) {
        self.store.streams.get_mut(&self.id).unwrap().index.pay(blocks);
    }

    fn check(&mut self) {
        let index = &self.store.streams[&self.id].index;
        self.checks[0] += u64::from(index.owes());
        let is_begun = index.segments.iter().any(|segment| segment.owed > Some(0));
        self.checks[1] += u64::from(is_begun);
        let mut owing = index.segments.iter().filter(|segment| segment.owed.is_some());
        let has_holes = |segment: &SegmentIndex| matches!(&segment.table, Table::Sealed(table) if !table.removed.is_unused());
        self.checks[2] += u64::from(owing.any(has_holes));
        check_answers(&self.model, &self.store, self.id);
    }

    fn run(&mut self) {
        for _ in 0..120 {
            match self.rng.below(20) {
                0..8 => {
                    let count = 1 + self.rng.below(120);
                    (0..count).for_each(|_| self.append());
                    self.commit();
                }
                8 | 9 => self.append(),
                10..12 => self.remove(),
                12..15 => self.remove_below(),
                15..18 => self.pay(1),
                18 => self.refused(),
                _ => {
                    let now = self.rng.next_u64() >> 20;
                    self.store.tend(UnixNanos(0), MonoNanos(now));
                }
            }
            if self.rng.chance(30) {
                self.check();
            }
        }
        self.commit();
        while !self.store.owing.is_empty() {
            self.store.tend(UnixNanos(0), MonoNanos(0));
            assert!(self.store.next_tend().is_some());
        }
        self.append();
        self.commit();
        self.check();
        let index = &self.store.streams[&self.id].index;
        assert!(!index.owes() && index.segments.front().unwrap().live > 0);
    }
}

#[test]
fn answers_are_exact_while_subjects_of_dropped_segments_are_still_counted() {
    let mut checks = [0; 3];
    for seed in 0..20 {
        let mut run = Run::new(seed);
        run.run();
        checks
            .iter_mut()
            .zip(run.checks)
            .for_each(|(sum, count)| *sum += count);
    }
    assert!(checks[0] > 30 && checks[1] > 8 && checks[2] > 8, "{checks:?}");
}

/// Records over many subjects in sealed segments, just opened.
fn many(fs: &SimFs, count: u64) -> (Store<SimFs>, StreamId) {
    let (mut store, _) = open(fs, 1);
    let id = store
        .create_stream("S", b"", Backing::File, StreamSeq(1), UnixNanos(0))
        .unwrap();
    for n in 0..count {
        append(&mut store, id, &format!("n.{}", n % 1_300), b"12345678");
        if n % 10 == 0 {
            commit(&mut store);
        }
    }
    commit(&mut store);
    assert!(store.close().failed.is_empty());
    let (store, _) = open(fs, 2);
    let id = id_of(&store, "S").unwrap();
    (store, id)
}

#[test]
fn dropping_segments_reads_nothing() {
    for hole in [0, 2, 5, 100] {
        dropping_reads_nothing(hole);
    }
}

/// Every record whose position `hole` divides was removed before; 0: none was.
fn dropping_reads_nothing(hole: u64) {
    let fs = SimFs::new(1);
    let (mut store, id) = many(&fs, 6_000);
    for seq in (1..=6_000_u64).filter(|seq| seq.checked_rem(hole) == Some(0)) {
        assert!(store.remove(id, StreamSeq(seq)).unwrap());
    }
    commit(&mut store);
    // The removals may have filled segments of their own.
    append(&mut store, id, "n.1", b"12345678");
    commit(&mut store);
    let left = store.state(id).messages;
    assert_eq!(left, 6_001 - 6_000_u64.checked_div(hole).unwrap_or(0));
    let last = store.state(id).last_seq;
    let sealed = store.streams[&id].sealed;
    assert!(sealed > 5, "{sealed}");
    fs.fail_nth_read(1);
    assert_eq!(store.first_within(id, 0, 0), last.next());
    assert_eq!(store.remove_below(id, last.next()).unwrap(), left);
    assert_eq!(fs.troubles(), 0, "no list of subjects was read");
    assert_eq!((store.state(id).messages, store.num_subjects(id)), (0, 0));
    fs.fail_nth_read(0);
    // What is owed is taken off in steps, and then the files go.
    let mut steps = 0;
    while !store.owing.is_empty() {
        store.tend(UnixNanos(0), MonoNanos(1));
        commit(&mut store);
        steps += 1;
    }
    assert!(steps > 1, "{steps}");
    assert_eq!(store.streams[&id].segments.len(), 1);
    assert_eq!(store.subjects(id, &SubjectFilter::all()), []);
}

#[test]
fn the_oldest_go_until_what_is_left_is_within_the_limits() {
    let fs = SimFs::new(1);
    let (mut store, id) = many(&fs, 3_000);
    for seq in [1, 2, 700, 701, 2_000, 2_990] {
        assert!(store.remove(id, StreamSeq(seq)).unwrap());
    }
    for (messages_max, bytes_max) in [
        (2_994, u64::MAX),
        (2_993, u64::MAX),
        (1_500, u64::MAX),
        (2_000, 70_000),
        (9, 1_000),
        (3, 100_000),
    ] {
        let mut one_by_one = store.state(id);
        let mut seq = one_by_one.first_seq;
        while one_by_one.messages > messages_max || one_by_one.bytes > bytes_max {
            let subject = store.with_subject(id, seq, str::len).unwrap() as u64;
            one_by_one.messages -= 1;
            one_by_one.bytes -= 30 + subject + 8;
            seq = store.next_match(id, &SubjectFilter::all(), seq.next()).unwrap();
        }
        let kept = store.first_within(id, messages_max, bytes_max);
        store.remove_below(id, kept).unwrap();
        let state = store.state(id);
        assert_eq!(
            (state.first_seq, state.messages, state.bytes),
            (seq, one_by_one.messages, one_by_one.bytes)
        );
    }
}

/// What was dropped does not come back, whether its subjects were taken off or not.
#[test]
fn a_power_cut_while_something_is_owed_brings_nothing_back_that_was_confirmed() {
    for seed in 0..40 {
        let fs = SimFs::new(1);
        let (mut store, id) = many(&fs, 3_000);
        store.remove_below(id, StreamSeq(2_000)).unwrap();
        commit(&mut store);
        for _ in 0..seed % 5 {
            store.tend(UnixNanos(0), MonoNanos(seed));
            commit(&mut store);
        }
        drop(store);
        fs.crash(seed);
        let (store, report) = open(&fs, 2);
        assert_eq!(report.lost, []);
        let id = id_of(&store, "S").unwrap();
        // The segment in which 2,000 is may be there from its first record on.
        let first = store.state(id).first_seq.0;
        assert!((1_700..=2_000).contains(&first), "{first}");
        let left = 3_000 - first + 1;
        assert_eq!(store.state(id).messages, left);
        assert_eq!(store.num_subjects(id), left.min(1_300));
    }
}
