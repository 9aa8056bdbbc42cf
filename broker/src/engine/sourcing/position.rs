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
    let (saved, copied) = look_up(id, &origin.index_name, store)?;
    let known = saved
        .filter(|(_, identity)| *identity == origin.identity)
        .map(|(next, _)| next);
    Ok(match copied {
        Some((_, Some(identity))) if identity != origin.identity => known,
        Some((copied, _)) => known.max(Some(copied + 1)),
        None => known,
    })
}

/// The next sequence to copy of an origin whose identity is not known, and the identity that it had.
///
/// # Errors
/// As for [`next_to_copy`].
pub(super) fn known_position<F: Fs>(
    id: StreamId,
    index_name: &str,
    store: &Store<F>,
) -> Result<Option<(u64, String)>, StoreError> {
    let (saved, copied) = look_up(id, index_name, store)?;
    let Some((copied, identity)) = copied else {
        return Ok(saved);
    };
    let same = saved.filter(|(_, known)| identity.as_ref().is_none_or(|identity| identity == known));
    Ok(Some(match same {
        Some((next, known)) => (next.max(copied + 1), known),
        None => (copied + 1, identity.unwrap_or_default()),
    }))
}

/// The next position and the identity that were written down.
type Saved = Option<(u64, String)>;
/// The position of the last record behind that, and the identity if it names one.
type Copied = Option<(u64, Option<String>)>;

fn look_up<F: Fs>(id: StreamId, index_name: &str, store: &Store<F>) -> Result<(Saved, Copied), StoreError> {
    let saved = store.consumers(id).find(|(name, ..)| *name == POSITIONS);
    let mut positions: Positions = saved
        .and_then(|(_, _, state)| serde_json::from_slice(state).ok())
        .unwrap_or_default();
    let saved = positions.next.remove(index_name);
    let state = store.state(id);
    let mut seq = state.last_seq;
    while seq >= state.first_seq && seq.0 > positions.last_seq {
        let record = match store.read_patiently(id, seq) {
            Err(err @ StoreError::Io { .. }) => return Err(err),
            read => read.ok().flatten(),
        };
        if let Some(record) = record
            && let Some(value) = headers::field(&record.headers, STREAM_SOURCE)
            && let Some((named, copied, identity)) = read_header(value)
            && named == index_name
        {
            return Ok((saved, Some((copied, identity.map(str::to_owned)))));
        }
        seq = seq.prev();
    }
    Ok((saved, None))
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
