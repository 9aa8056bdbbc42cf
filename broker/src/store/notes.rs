//! What was noted of records.

use super::Store;
use super::table::Table;
use crate::env::Fs;
use crate::types::{StreamId, StreamSeq, UnixNanos};

impl<F: Fs> Store<F> {
    /// Calls `visit` with position, time and note of each record that has one, in order: those as old as `since` or
    /// younger, and all that are lasting. Costs the length of the notes, and of the segment that is written to.
    pub fn for_notes(
        &self,
        id: StreamId,
        since: UnixNanos,
        mut visit: impl FnMut(StreamSeq, UnixNanos, &[u8]),
    ) {
        let Some(stream) = self.streams.get(&id) else {
            return;
        };
        let make = self.shared.options.notes.make;
        let mut buf = Vec::new();
        for segment in stream.index.segments.iter().filter(|segment| segment.live > 0) {
            let table = match &segment.table {
                Table::Memory(table) => table,
                Table::Sealed(table) => {
                    if segment.time_max < since.0 && table.index.header.lasting_notes == 0 {
                        continue;
                    }
                    table.index.for_notes(|seq, time, is_lasting, note| {
                        let is_wanted = is_lasting || time >= since.0;
                        if is_wanted && !table.removed.contains(table.index.below(seq)) {
                            visit(StreamSeq(seq), UnixNanos(time), note);
                        }
                    });
                    continue;
                }
            };
            let entries = table.entries.from(0).map(|(_, entry)| entry);
            for entry in entries.filter(|entry| entry.is_live() && entry.has_headers()) {
                let seq = StreamSeq(segment.seq(&entry));
                // An id that is not seen now is not known until the next start.
                let Ok(Some(record)) = self.read_patiently(id, seq) else {
                    continue;
                };
                buf.clear();
                let is_lasting = make(&record.headers, &mut buf);
                if is_lasting.is_some_and(|is_lasting| is_lasting || record.time >= since) {
                    visit(seq, record.time, &buf);
                }
            }
        }
    }
}
