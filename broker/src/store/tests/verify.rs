//! A look inside a store says what opening it would find, and changes nothing.

use std::path::Path;

use super::super::{Severity, StoreError, StoreVerdict, verify};
use super::damage::{packed_store, rich_store};
use super::{DIR, id_of, open, try_open};
use crate::env::sim::{SimFs, SplitMix};
use crate::env::{Fs, Rng};

fn look(fs: &SimFs) -> StoreVerdict {
    let before = fs.fingerprint();
    let mut told = 0;
    let verdict = verify(fs, Path::new(DIR), &mut |progress| {
        assert!(progress.bytes >= told && progress.bytes <= progress.bytes_total);
        told = progress.bytes;
    });
    assert_eq!(fs.fingerprint(), before, "nothing was changed");
    verdict.unwrap()
}

/// Compares a look with opening the store.
fn compare(fs: &SimFs, what: &str) -> StoreVerdict {
    let verdict = look(fs);
    let fs = fs.fork();
    // With an index, opening leaves it to reading and scrubbing to find damage in sealed segments.
    for (path, _) in fs.files() {
        if path.extension().is_some_and(|ext| ext == "idx") {
            fs.remove(&path).unwrap();
        }
    }
    let (store, report) = match try_open(&fs, 2) {
        Ok(opened) => opened,
        Err(err) => {
            let fatal = verdict.findings().any(|found| found.severity == Severity::Fatal);
            assert!(fatal, "{what}: {err}, and {verdict:#?}");
            return verdict;
        }
    };
    let damage = report.metadata_repaired > 0 || !report.lost.is_empty();
    assert!(
        !(damage && verdict.is_sound()),
        "{what}: {report:?} but {verdict:#?}"
    );
    assert!(
        verdict.findings().all(|found| found.severity < Severity::Fatal),
        "{what}"
    );
    let seen = &verdict.streams[0];
    let id = id_of(&store, "S").unwrap();
    let state = store.state(id);
    assert_eq!(seen.lost, store.lost(id), "{what}");
    assert_eq!(
        (seen.records, seen.last_seq),
        (state.messages, state.last_seq.0),
        "{what}"
    );
    assert_eq!(seen.consumers, store.consumers(id).count() as u64, "{what}");
    verdict
}

#[test]
fn a_sound_store_is_found_sound() {
    for fs in [
        rich_store(true),
        rich_store(false),
        packed_store(true),
        packed_store(false),
    ] {
        let verdict = compare(&fs, "sound");
        assert_eq!(verdict.findings().count(), 0, "{verdict:#?}");
        assert_eq!(
            (verdict.streams[0].name.as_str(), verdict.streams[0].consumers),
            ("S", 1)
        );
        assert!(verdict.streams[0].segments > 1);
    }
}

#[test]
fn flipped_bits_lost_sectors_and_missing_files_are_found_as_opening_finds_them() {
    let stores = [
        rich_store(true),
        rich_store(false),
        packed_store(true),
        packed_store(false),
    ];
    let mut rng = SplitMix::new(11);
    for case in 0..600 {
        let fs = stores[case % 4].fork();
        let files = fs.files();
        let (path, len) = &files[rng.below(files.len() as u64) as usize];
        let at = rng.below((*len).max(1));
        let what = match rng.below(4) {
            0 if len > &0 => {
                fs.edit(path, |bytes| bytes.truncate(at as usize));
                "truncated at"
            }
            1 => {
                fs.edit(path, |bytes| {
                    let end = bytes.len().min(at as usize + 600);
                    bytes[at as usize..end].fill(0);
                });
                "zeroed from"
            }
            2 if path.extension().is_some_and(|ext| ext == "seg") => {
                fs.remove(path).unwrap();
                "removed, not from"
            }
            _ => {
                fs.flip_bit(path, at * 8 + 1);
                "flipped at"
            }
        };
        compare(&fs, &format!("{case}: {} {what} {at}", path.display()));
    }
}

#[test]
fn each_finding_says_where_and_what_to_do() {
    let fs = rich_store(true);
    let segment = Path::new(DIR).join("streams/S/0000000000000001.seg");
    fs.flip_bit(&segment, 1100 * 8);
    for name in ["store.0", "streams/S/consumers/c.0", "streams/S/consumers/c.1"] {
        fs.edit(&Path::new(DIR).join(name), |bytes| bytes.fill(1));
    }
    let verdict = look(&fs);
    let text: Vec<String> = verdict
        .findings()
        .map(|found| {
            assert!(!found.next.is_empty());
            format!(
                "{} {:?} {:?}: {}",
                found.file.display(),
                found.offset,
                found.range,
                found.what
            )
        })
        .collect();
    for part in [
        "store.0 None None: this copy of two is damaged",
        "0000000000000001.seg Some(1024) Some(SeqRange { first: StreamSeq(1), last: StreamSeq(1)",
        "c.0 None None: no copy of the consumer can be used",
    ] {
        let is_said = text.iter().any(|line| line.contains(part));
        // The first records were purged, so damage to them is none.
        assert!(is_said || part.contains("seg"), "{part}: {text:#?}");
    }
}

#[test]
fn a_store_in_use_a_newer_one_and_none_at_all_are_told_apart() {
    let fs = SimFs::new(1);
    let nothing = verify(&fs, Path::new(DIR), &mut |_| {}).unwrap_err();
    assert!(matches!(nothing, StoreError::NoStore { .. }), "{nothing}");
    let (store, _) = open(&fs, 1);
    let locked = verify(&fs, Path::new(DIR), &mut |_| {}).unwrap_err();
    assert!(matches!(locked, StoreError::Locked { .. }), "{locked}");
    drop(store);
    let fs = rich_store(true);
    fs.edit(&Path::new(DIR).join("streams/S/meta.0"), |bytes| {
        bytes[..16].copy_from_slice(&super::super::format::prefix(
            super::super::format::META_MAGIC,
            99,
        ));
    });
    let verdict = look(&fs);
    let newer = verdict
        .findings()
        .find(|found| found.what.contains("format version 99"));
    assert_eq!(newer.unwrap().severity, Severity::Fatal);
}

#[test]
fn a_store_whose_marker_is_damaged_in_both_copies_opens() {
    let fs = rich_store(true);
    for name in ["store.0", "store.1"] {
        fs.edit(&Path::new(DIR).join(name), |bytes| bytes.fill(1));
    }
    compare(&fs, "both markers");
}

#[test]
fn a_damaged_index_is_named_and_costs_no_record() {
    let fs = rich_store(true);
    let sound = look(&fs);
    let indexes: Vec<_> = fs.files().into_iter().map(|(path, _)| path).collect();
    let indexes = indexes
        .into_iter()
        .filter(|path| path.extension().is_some_and(|ext| ext == "idx"));
    let indexes: Vec<_> = indexes.collect();
    assert!(!indexes.is_empty(), "full segments have an index");
    let mut rng = SplitMix::new(1);
    for path in indexes {
        for _ in 0..20 {
            let fs = fs.fork();
            let place = rng.next_u64();
            fs.edit(&path, |content| {
                let len = content.len() as u64;
                content[(place % len) as usize] ^= 0x10;
            });
            let verdict = look(&fs);
            assert_eq!(verdict.streams[0].records, sound.streams[0].records);
            let found: Vec<_> = verdict.findings().filter(|found| found.file == path).collect();
            assert_eq!(found.len(), 1, "{verdict:#?}");
        }
    }
}
