//! How far a stream has copied another, as it says itself.

use super::{Origin, POSITIONS, Positions};
use crate::env::Fs;
use crate::store::{Store, StoreError};
use crate::stream::headers::{self, STREAM_SOURCE};
use crate::types::StreamId;

/// The next sequence to copy of an origin, from what was written down and from the records behind that.
///
/// # Errors
/// If a record that may say more cannot be read: going on from less would copy messages twice.
pub(super) fn next_to_copy<F: Fs>(
    id: StreamId,
    origin: &Origin,
    store: &Store<F>,
) -> Result<Option<u64>, StoreError> {
    let saved = store.consumers(id).find(|(name, ..)| *name == POSITIONS);
    let positions: Positions = saved
        .and_then(|(_, _, state)| serde_json::from_slice(state).ok())
        .unwrap_or_default();
    let known = positions
        .next
        .get(&origin.index_name)
        .filter(|(_, identity)| *identity == origin.identity)
        .map(|(next, _)| *next);
    let state = store.state(id);
    let mut seq = state.last_seq;
    while seq >= state.first_seq && seq.0 > positions.last_seq {
        let record = match store.read_patiently(id, seq) {
            Err(err @ StoreError::Io { .. }) => return Err(err),
            read => read.ok().flatten(),
        };
        if let Some(record) = record
            && let Some(value) = headers::field(&record.headers, STREAM_SOURCE)
            && let Some((index_name, copied, identity)) = read_header(value)
            && index_name == origin.index_name
        {
            if identity.is_some_and(|identity| identity != origin.identity) {
                return Ok(known);
            }
            return Ok(known.max(Some(copied + 1)));
        }
        seq = seq.prev();
    }
    Ok(known)
}

/// The index name, sequence and identity that a `Nats-Stream-Source` header names.
fn read_header(value: &str) -> Option<(String, u64, Option<&str>)> {
    let fields: Vec<&str> = value.split(' ').collect();
    let [stream, seq, filter, transform, ..] = fields.as_slice() else {
        return None;
    };
    let index_name = format!("{stream} {filter} {transform}");
    Some((index_name, seq.parse().ok()?, fields.get(5).copied()))
}
