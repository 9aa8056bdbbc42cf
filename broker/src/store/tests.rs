//! Tests of the store as a whole, on the simulated disk and on a real one.

mod background;
mod basics;
mod compaction;
mod contained;
mod crash;
mod damage;
mod faults;
mod late;
mod latency;
mod model;
mod owed;
mod packed;
mod pressure;
mod together;
mod verify;

use std::path::Path;

use super::{NewRecord, Notes, RecoveryReport, Store, StoreError, StoreOptions};
use crate::env::Fs;
use crate::env::sim::SimFs;
use crate::types::{StreamId, StreamSeq, UnixNanos};

/// Where the store is on the simulated disk.
const DIR: &str = "/data/store";

/// Segments from 4 to 16 KiB, nothing in reserve.
fn small(salt_seed: u64) -> StoreOptions {
    StoreOptions {
        segment_bytes_min: 4096,
        segment_bytes_max: 16384,
        reserve_bytes: 0,
        salt_seed,
        // Few blocks, so that they come and go.
        index_cache_bytes: 8 * 1024,
        census_subjects_min: 4,
        notes: NOTES,
        ..StoreOptions::new(salt_seed)
    }
}

/// The header block itself is the note of a record; it is lasting if it is long.
const NOTES: Notes = Notes {
    version: 1,
    make: |headers, out| {
        out.extend_from_slice(headers);
        Some(headers.len() > 30)
    },
};

fn open(fs: &SimFs, salt_seed: u64) -> (Store<SimFs>, RecoveryReport) {
    try_open(fs, salt_seed).unwrap()
}

fn try_open(fs: &SimFs, salt_seed: u64) -> Result<(Store<SimFs>, RecoveryReport), StoreError> {
    Store::open(fs.clone(), Path::new(DIR), small(salt_seed))
}

fn append<F: Fs>(store: &mut Store<F>, id: StreamId, subject: &str, payload: &[u8]) -> StreamSeq {
    try_append(store, id, subject, payload).unwrap()
}

fn try_append<F: Fs>(
    store: &mut Store<F>,
    id: StreamId,
    subject: &str,
    payload: &[u8],
) -> Result<StreamSeq, StoreError> {
    let time = UnixNanos(1_000 + store.state(id).last_seq.0 as i64);
    store.append(
        id,
        &NewRecord {
            time,
            subject,
            headers: b"",
            payload,
        },
    )
}

fn commit<F: Fs>(store: &mut Store<F>) {
    let report = store.commit();
    assert!(report.failed.is_empty(), "{report:?}");
}

fn id_of<F: Fs>(store: &Store<F>, name: &str) -> Option<StreamId> {
    store
        .streams()
        .find(|(_, meta)| *meta.name == *name)
        .map(|(id, _)| id)
}

/// Bytes as golden tests show them, 16 in a row.
pub(super) fn hex(bytes: &[u8]) -> String {
    let mut out = String::new();
    for row in bytes.chunks(16) {
        let row: Vec<String> = row.iter().map(|byte| format!("{byte:02x}")).collect();
        out.push_str(&row.join(" "));
        out.push('\n');
    }
    out
}
