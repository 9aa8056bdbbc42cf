//! What a store may and must hold after a crash, kept apart from the store's own code.

use std::collections::{BTreeMap, BTreeSet};

use super::super::{SeqRange, Store, SubjectFilter};
use super::id_of;
use crate::env::sim::SimFs;
use crate::types::{StreamId, StreamSeq, UnixNanos};

/// A record as it was appended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Sent {
    pub(super) time: i64,
    pub(super) subject: String,
    pub(super) headers: Vec<u8>,
    pub(super) payload: Vec<u8>,
}

/// A value that is known to be durable, or one of those that came after it.
#[derive(Clone, Debug)]
pub(super) struct Either(pub(super) Vec<Vec<u8>>);

impl Either {
    pub(super) fn settle(&mut self) {
        self.0.drain(..self.0.len() - 1);
    }
}

#[derive(Clone, Debug)]
pub(super) struct ModelConsumer {
    pub(super) configs: Either,
    /// Eight bytes: a position of the stream.
    pub(super) states: Either,
    /// Creation or deletion is in doubt.
    pub(super) in_doubt: bool,
}

#[derive(Clone, Debug)]
pub(super) struct ModelStream {
    pub(super) first: u64,
    pub(super) records: BTreeMap<u64, Sent>,
    /// Highest position given; positions up to `acked` are confirmed.
    pub(super) last: u64,
    pub(super) acked: u64,
    /// Highest position committed: above `acked` in a stream that is synced late.
    pub(super) written: u64,
    /// Removed and confirmed.
    pub(super) gone: BTreeSet<u64>,
    /// Removed, not confirmed, or not to be confirmed.
    pub(super) maybe_gone: BTreeSet<u64>,
    /// Of `maybe_gone`, what the next commit confirms.
    pub(super) going: BTreeSet<u64>,
    pub(super) configs: Either,
    pub(super) consumers: BTreeMap<String, ModelConsumer>,
    pub(super) in_doubt: bool,
}

impl ModelStream {
    pub(super) fn new(first: u64, config: &[u8]) -> Self {
        Self {
            first,
            records: BTreeMap::new(),
            last: first - 1,
            acked: first - 1,
            written: first - 1,
            gone: BTreeSet::new(),
            maybe_gone: BTreeSet::new(),
            going: BTreeSet::new(),
            configs: Either(vec![config.to_vec()]),
            consumers: BTreeMap::new(),
            in_doubt: false,
        }
    }

    /// Records that are there as far as the running store is concerned.
    pub(super) fn live(&self) -> impl DoubleEndedIterator<Item = u64> + '_ {
        let there = |seq: &u64| !self.gone.contains(seq) && !self.maybe_gone.contains(seq);
        self.records.keys().copied().filter(there)
    }

    pub(super) fn remove(&mut self, seq: u64, confirmable: bool) {
        self.maybe_gone.insert(seq);
        if confirmable {
            self.going.insert(seq);
        }
    }

    pub(super) fn committed(&mut self) {
        self.acked = self.last;
        self.written = self.last;
        for seq in std::mem::take(&mut self.going) {
            self.maybe_gone.remove(&seq);
            self.gone.insert(seq);
        }
        for consumer in self.consumers.values_mut() {
            consumer.states.settle();
        }
    }
}

/// All streams by name.
#[derive(Clone, Debug, Default)]
pub(super) struct Model {
    pub(super) streams: BTreeMap<String, ModelStream>,
}

impl Model {
    /// Compares what was recovered with what must and may be there, and takes over what is.
    pub(super) fn check_recovered(&mut self, store: &Store<SimFs>) {
        for (_, meta) in store.streams() {
            assert!(
                self.streams.contains_key(&*meta.name),
                "stream {} came from nowhere",
                meta.name
            );
        }
        let names: Vec<String> = self.streams.keys().cloned().collect();
        for name in names {
            let Some(id) = id_of(store, &name) else {
                assert!(self.streams[&name].in_doubt, "stream {name} is lost");
                self.streams.remove(&name);
                continue;
            };
            let model = self.streams.get_mut(&name).unwrap();
            check_records(model, store, id);
            check_consumers(model, store, id);
            let config = store
                .streams()
                .find(|(other, _)| *other == id)
                .unwrap()
                .1
                .config
                .to_vec();
            assert!(
                model.configs.0.contains(&config),
                "stream {name} has a config it never had"
            );
            model.configs = Either(vec![config]);
            model.in_doubt = false;
            check_answers(model, store, id);
        }
    }
}

fn check_records(model: &mut ModelStream, store: &Store<SimFs>, id: StreamId) {
    let last = store.state(id).last_seq.0;
    assert!(
        last >= model.acked,
        "last is {last}, {} was confirmed",
        model.acked
    );
    assert!(
        last <= model.last,
        "last is {last}, only {} was given",
        model.last
    );
    assert_eq!(store.durable_seq(id).0, last);
    let mut records = BTreeMap::new();
    for (&seq, sent) in &model.records {
        let found = store.read(id, StreamSeq(seq)).unwrap();
        let Some(found) = found else {
            let excused = seq > last || model.gone.contains(&seq) || model.maybe_gone.contains(&seq);
            assert!(
                excused,
                "record {seq} is lost: confirmed {}, last {last}",
                model.acked
            );
            continue;
        };
        assert!(seq <= last);
        assert!(!model.gone.contains(&seq), "removed record {seq} came back");
        let found = Sent {
            time: found.time.0,
            subject: found.subject.to_string(),
            headers: found.headers.to_vec(),
            payload: found.payload.to_vec(),
        };
        assert_eq!(found, *sent, "record {seq} changed");
        records.insert(seq, found);
    }
    assert_eq!(
        store.state(id).lost,
        0,
        "nothing was damaged, so nothing counts as lost"
    );
    model.records = records;
    model.last = last;
    model.acked = last;
    model.written = last;
    model.gone.clear();
    model.maybe_gone.clear();
    model.going.clear();
}

fn check_consumers(model: &mut ModelStream, store: &Store<SimFs>, id: StreamId) {
    let mut found = BTreeMap::new();
    for (name, config, state) in store.consumers(id) {
        let Some(expected) = model.consumers.get(name) else {
            panic!("consumer {name} came from nowhere")
        };
        assert!(
            expected.configs.0.contains(&config.to_vec()),
            "consumer {name}: config"
        );
        let known = expected.states.0.contains(&state.to_vec());
        assert!(
            known,
            "consumer {name}: state {state:?} is none of {:?}",
            expected.states
        );
        if let Ok(position) = state.try_into() {
            let position = u64::from_le_bytes(position);
            assert!(
                position <= model.last,
                "consumer {name} is at {position}, its stream at {}",
                model.last
            );
        }
        let (configs, states) = (Either(vec![config.to_vec()]), Either(vec![state.to_vec()]));
        found.insert(
            name.to_owned(),
            ModelConsumer {
                configs,
                states,
                in_doubt: false,
            },
        );
    }
    for (name, expected) in &model.consumers {
        assert!(
            expected.in_doubt || found.contains_key(name),
            "consumer {name} is lost"
        );
    }
    model.consumers = found;
}

/// Compares the index's answers with those of a plain list.
pub(super) fn check_answers(model: &ModelStream, store: &Store<SimFs>, id: StreamId) {
    let live: Vec<(u64, &Sent)> = model.live().map(|seq| (seq, &model.records[&seq])).collect();
    let state = store.state(id);
    let first = live.first().map_or(model.last + 1, |(seq, _)| *seq);
    assert_eq!((state.first_seq.0, state.last_seq.0), (first, model.last));
    assert_eq!(state.messages, live.len() as u64);
    let size = |sent: &Sent| {
        let headers = if sent.headers.is_empty() {
            0
        } else {
            4 + sent.headers.len()
        };
        (30 + sent.subject.len() + headers + sent.payload.len()) as u64
    };
    assert_eq!(state.bytes, live.iter().map(|(_, sent)| size(sent)).sum::<u64>());
    let subjects: BTreeSet<&str> = live.iter().map(|(_, sent)| sent.subject.as_str()).collect();
    assert_eq!(store.num_subjects(id), subjects.len() as u64);
    for max in [0, 1, 3] {
        let count = |subject: &str| live.iter().filter(|(_, sent)| sent.subject == subject).count();
        let above: Vec<&str> = subjects
            .iter()
            .copied()
            .filter(|subject| count(subject) > max)
            .collect();
        assert_eq!(store.subjects_above(id, max as u64), above);
    }
    let holes: u64 = store.deleted(id).iter().map(SeqRange::count).sum();
    assert_eq!(holes, (model.last + 1).saturating_sub(first) - live.len() as u64);
    assert_eq!(state.num_deleted, if live.is_empty() { 0 } else { holes });
    for patterns in [
        &[][..],
        &["a"],
        &["b.*"],
        &["b.>", "a"],
        &["b.y", "c"],
        &["*.y"],
        &["*.y.>"],
    ] {
        let filter = SubjectFilter::new(patterns);
        let wanted: Vec<u64> = live
            .iter()
            .filter(|(_, sent)| filter.matches(&sent.subject))
            .map(|(seq, _)| *seq)
            .collect();
        assert_eq!(
            store.last_match(id, &filter).map(|seq| seq.0),
            wanted.last().copied()
        );
        let middle = live.get(live.len() / 2).map_or(1, |(seq, _)| *seq);
        for from in [0, middle, middle + 1, model.last, model.last + 1] {
            let expected = wanted.iter().copied().find(|&seq| seq >= from);
            let found = store.next_match(id, &filter, StreamSeq(from));
            assert_eq!(found.map(|seq| seq.0), expected, "{patterns:?} from {from}");
            let expected = wanted.iter().filter(|&&seq| seq >= from).count() as u64;
            assert_eq!(
                store.count_matching(id, &filter, StreamSeq(from)),
                expected,
                "{patterns:?} from {from}"
            );
        }
        let counted: u64 = store
            .subjects(id, &filter)
            .iter()
            .map(|subject| subject.messages)
            .sum();
        assert_eq!(counted, wanted.len() as u64);
    }
    let since = live.get(live.len() / 2).map_or(0, |(_, sent)| sent.time);
    let found = store.seq_at_or_after(id, UnixNanos(since));
    let young = |(_, sent): &&(u64, &Sent)| sent.time >= since;
    assert_eq!(
        found.map(|seq| seq.0),
        live.iter().find(young).map(|(seq, _)| *seq)
    );
    let mut notes = Vec::new();
    store.for_notes(id, UnixNanos(since), |seq, _, note| {
        notes.push((seq.0, note.to_vec()))
    });
    let noted = live
        .iter()
        .filter(young)
        .filter(|(_, sent)| !sent.headers.is_empty());
    let expected: Vec<_> = noted.map(|(seq, sent)| (*seq, sent.headers.clone())).collect();
    assert_eq!(notes, expected);
    for subject in subjects {
        let of: Vec<u64> = live
            .iter()
            .filter(|(_, sent)| sent.subject == subject)
            .map(|(seq, _)| *seq)
            .collect();
        let found = store.subject(id, subject).unwrap();
        assert_eq!(
            (found.messages, found.first.0, found.last.0),
            (of.len() as u64, of[0], of[of.len() - 1])
        );
    }
}
