//! Which removals a copy has to repeat, and where it says them.

use super::super::ranges::Ranges;
use super::super::record::{self, FLAG_BATCH_START, HEADER_BYTES, RANGES_MAX};
use super::super::seal::Sealing;
use super::copy::Job;
use crate::env::Fs;

/// Bytes between the copies of a removal: more than a sector of any disk.
const DISTANCE_BYTES: usize = 4096;

/// `foreign` without the removals of positions of which segments before the run say themselves that they do not hold them.
/// Where that is not known they stay. `None`: stop.
pub(super) fn needed<F: Fs>(
    sealing: &Sealing<F>,
    job: &Job,
    mut foreign: Ranges,
    pace: &mut dyn FnMut(u64) -> bool,
) -> Option<Ranges> {
    // To look at more than is copied is not worth it.
    let mut budget: u64 = job.sources.iter().map(|source| source.bytes).sum();
    for earlier in job.earlier.iter().rev() {
        let base = earlier.header.base_seq;
        if foreign.within(base, earlier.end).next().is_none() {
            continue;
        }
        let Some(index) = sealing.look(earlier.header, &earlier.path) else {
            continue;
        };
        let Some(left) = budget.checked_sub(index.bytes()) else {
            return Some(foreign);
        };
        budget = left;
        let mut removed = Ranges::default();
        for (first, last) in index.removals().unwrap_or_default() {
            removed.insert(first, last);
        }
        let mut gone = Ranges::default();
        for (first, last) in foreign.within(base, earlier.end) {
            let is_held = index.below(first) < index.below(last.saturating_add(1));
            let mut unsaid = Ranges::default();
            removed.subtract_from(first, last, &mut unsaid);
            if !is_held && unsaid.is_empty() {
                gone.insert(first, last);
            }
        }
        // What could not be read may be held.
        if !index.is_broken() {
            let mut rest = Ranges::default();
            for (first, last) in foreign.iter() {
                gone.subtract_from(first, last, &mut rest);
            }
            foreign = rest;
        }
        if !pace(index.bytes()) {
            return None;
        }
    }
    Some(foreign)
}

/// Puts the removals behind the records: those of records in other files three times, once at a distance.
pub(super) fn put(buf: &mut Vec<u8>, job: &Job, own: &Ranges, foreign: &Ranges) {
    let (seed, last) = (job.new.salt, job.last_seq);
    let foreign: Vec<(u64, u64)> = foreign.iter().collect();
    let own: Vec<(u64, u64)> = own.iter().collect();
    let start = buf.len();
    for part in foreign.chunks(RANGES_MAX) {
        record::encode_removal(buf, seed, FLAG_BATCH_START, last, part);
    }
    for part in own.chunks(RANGES_MAX) {
        record::encode_removals(buf, seed, FLAG_BATCH_START, last, part);
    }
    let distance = buf.len() - start;
    if !foreign.is_empty() && distance < DISTANCE_BYTES + HEADER_BYTES + RANGES_MAX * 16 {
        record::encode_settle(buf, seed, last, &[0; DISTANCE_BYTES]);
    }
    for part in foreign.chunks(RANGES_MAX) {
        record::encode_removals(buf, seed, FLAG_BATCH_START, last, part);
    }
    record::encode_settle(buf, seed, last, &[]);
}
