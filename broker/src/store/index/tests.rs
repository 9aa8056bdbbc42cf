//! The index of a stream against a plain map.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

const SUBJECTS: [&str; 3] = ["a", "b", "c"];

#[derive(Clone, Debug)]
enum Op {
    Push(usize),
    Skip(u64),
    Segment,
    Remove(u64),
    RemoveBelow(u64),
    Truncate(u64),
    DropFront,
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        8 => (0..3usize).prop_map(Op::Push),
        1 => (0..5u64).prop_map(Op::Skip),
        2 => Just(Op::Segment),
        4 => (0..60u64).prop_map(Op::Remove),
        1 => (0..60u64).prop_map(Op::RemoveBelow),
        1 => (0..60u64).prop_map(Op::Truncate),
        1 => Just(Op::DropFront),
    ]
}

/// Bytes that packing saves in records of a subject.
fn saved_of(subject: &str) -> u32 {
    if subject == "b" { 1_000 } else { 0 }
}

fn apply(index: &mut StreamIndex, model: &mut BTreeMap<u64, &'static str>, op: &Op) {
    match *op {
        Op::Push(subject) => {
            let (seq, subject) = (index.last + 1, SUBJECTS[subject]);
            let new = NewEntry {
                seq,
                time: 0,
                subject,
                has_headers: false,
                len: 50,
                saved: saved_of(subject),
                offset: 8 * seq,
            };
            index.push(&new);
            model.insert(seq, subject);
        }
        Op::Skip(count) => index.raise_last(index.last + count),
        Op::Segment => {
            index.pack_last();
            index.add_segment(index.last + 1);
        }
        Op::Remove(seq) => assert_eq!(index.remove(seq), model.remove(&seq).is_some()),
        Op::RemoveBelow(seq) => {
            let before = model.len();
            model.retain(|&other, _| other >= seq);
            assert_eq!(index.remove_below(seq), (before - model.len()) as u64);
        }
        Op::Truncate(seq) => {
            // What is taken back and goes on is in the last segment.
            let seq = seq.max(index.segments.back().map_or(0, |segment| segment.base - 1));
            index.truncate_above(seq);
            model.retain(|&other, _| other <= seq);
        }
        Op::DropFront => {
            index.pop_dead_front();
        }
    }
}

fn check(index: &StreamIndex, model: &BTreeMap<u64, &'static str>) {
    assert_eq!(index.messages, model.len() as u64);
    let bytes = model.values().map(|subject| 10 + u64::from(saved_of(subject)));
    assert_eq!(index.bytes, bytes.sum::<u64>());
    assert_eq!(
        index.first,
        model.keys().next().copied().unwrap_or(index.last + 1)
    );
    for name in SUBJECTS {
        let of: Vec<u64> = model
            .iter()
            .filter(|(_, subject)| **subject == name)
            .map(|(seq, _)| *seq)
            .collect();
        let slot = index.subjects.index_of(name);
        assert_eq!(slot.is_some(), !of.is_empty());
        let Some(slot) = slot else { continue };
        assert_eq!(index.subjects.slot(slot).last, of[of.len() - 1]);
        assert!(index.subjects.slot(slot).first_from <= of[0]);
        let found: Vec<u64> = index
            .segments
            .iter()
            .flat_map(|segment| match &segment.table {
                Table::Memory(table) => table.of_subject(slot, segment.base, 0),
                Table::Sealed(_) => unreachable!("nothing was sealed"),
            })
            .collect();
        assert_eq!(found, of);
    }
    for seq in 0..=index.last + 1 {
        assert_eq!(
            index.locate(seq).map(|at| at.offset),
            model.get(&seq).map(|_| seq * 8)
        );
    }
}

proptest! {
    #[test]
    fn agrees_with_a_plain_map(ops in prop::collection::vec(op(), 0..120), cut in 0..60u64) {
        let mut index = StreamIndex::new(1, Overhead { record: 0, headers: 0 });
        index.add_segment(1);
        let mut model: BTreeMap<u64, &'static str> = BTreeMap::new();
        for op in &ops {
            apply(&mut index, &mut model, op);
            check(&index, &model);
        }
        // A stream that failed gives up more than its last segment, and takes no more.
        let cut = cut.max(index.segments[0].base - 1);
        index.truncate_above(cut);
        model.retain(|&seq, _| seq <= cut);
        check(&index, &model);
    }
}
