//! From a stream's message to rows, or to a dead letter that says why not. Nothing that a message holds can stop this.

use std::panic::{AssertUnwindSafe, catch_unwind};

use async_nats::HeaderMap;
use tarn_schemas::{Decoder, Reading, Refusal};

use crate::batch::{Batch, MessageOrigin};
use crate::source::Delivered;
use crate::window::SeriesTable;

/// The reason of a dead letter whose message made the decoder panic: a defect of Tarn's. The message is kept all the
/// same, and those behind it go on.
pub(crate) const REASON_DECODER_FAILED: &str = "decoder_failed";

/// A message that isn't readings.
#[derive(Debug)]
pub(crate) struct DeadLetter<'a> {
    pub(crate) reason: &'static str,
    pub(crate) detail: String,
    pub(crate) payload: &'a [u8],
    /// By name; several values of one name are separated by line feeds, which no value can have.
    pub(crate) headers: Vec<(String, String)>,
}

/// Turns messages into rows of a batch. Keeps buffers between messages.
#[derive(Debug)]
pub(crate) struct MessageDecoder {
    decoder: Decoder,
    series: SeriesTable,
    readings: Vec<Reading>,
}

impl MessageDecoder {
    pub(crate) fn new(decoder: Decoder, series: SeriesTable) -> Self {
        Self {
            decoder,
            series,
            readings: Vec::new(),
        }
    }

    /// Adds the message to the batch: all of its readings, or one dead letter.
    pub(crate) fn decode_into(&mut self, stream: &str, message: &Delivered, batch: &mut Batch) {
        let origin = MessageOrigin {
            stream,
            seq: message.seq.0,
            subject: message.subject.as_str(),
            published: message.published,
            bytes: message.bytes(),
        };
        self.readings.clear();
        let decoded = catch_unwind(AssertUnwindSafe(|| {
            self.decoder.decode(
                origin.subject,
                &message.payload,
                message.published,
                &mut self.readings,
            )
        }));
        let (reason, detail) = match decoded {
            Ok(Ok(())) => {
                batch.push_readings(&self.readings, origin, &mut self.series);
                return;
            }
            Ok(Err(Refusal { reason, detail })) => (reason.as_str(), detail),
            Err(_) => (REASON_DECODER_FAILED, "the decoder panicked".to_owned()),
        };
        let headers = message.headers.as_ref().map(header_pairs).unwrap_or_default();
        let letter = DeadLetter {
            reason,
            detail,
            payload: &message.payload,
            headers,
        };
        batch.push_dead_letter(&letter, origin);
    }
}

fn header_pairs(headers: &HeaderMap) -> Vec<(String, String)> {
    let mut pairs: Vec<(String, String)> = headers
        .iter()
        .map(|(name, values)| {
            let values: Vec<&str> = values.iter().map(|value| value.as_str()).collect();
            (name.to_string(), values.join("\n"))
        })
        .collect();
    pairs.sort_unstable();
    pairs
}
