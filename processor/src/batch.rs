//! What is gathered for one commit: rows as Arrow by day partition, dead letters, and what the windows gain.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow_array::builder::{Float64Builder, LargeBinaryBuilder, MapBuilder, MapFieldNames, StringBuilder};
use arrow_array::{ArrayRef, Int64Array, RecordBatch, TimestampMicrosecondArray, new_null_array};
use arrow_schema::{ArrowError, DataType, SchemaRef};
use tarn_schemas::{Reading, UnixMicros};

use crate::decode::DeadLetter;
use crate::window::{Point, SeriesTable, WindowDelta, day_of};

/// Bytes that a row takes beside its strings.
const ROW_BYTES: usize = 64;

/// Bytes at which a batch is full, whatever the limits say: an Arrow column of strings ends at 2 GiB.
const BYTES_MAX: usize = 1 << 30;

/// When a batch is full. The last message may go beyond.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BatchLimits {
    pub(crate) rows_max: usize,
    pub(crate) bytes_max: usize,
    pub(crate) partitions_max: usize,
}

/// A batch that is being filled.
#[derive(Debug)]
pub(crate) struct Batch {
    limits: BatchLimits,
    schemas: Schemas,
    readings: BTreeMap<i32, ReadingRows>,
    dead_letters: BTreeMap<i32, DeadLetterRows>,
    deltas: Vec<WindowDelta>,
    published: PublishTimes,
    figures: BatchFigures,
}

/// Arrow schemas of the tables.
#[derive(Clone, Debug)]
pub(crate) struct Schemas {
    pub(crate) readings: SchemaRef,
    pub(crate) dead_letters: SchemaRef,
    /// Window lengths in microseconds, in the order of the configuration.
    pub(crate) windows: Arc<[i64]>,
}

/// How much is in a batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct BatchFigures {
    pub(crate) messages: u64,
    pub(crate) readings: u64,
    pub(crate) dead_letters: u64,
    pub(crate) bytes: usize,
}

impl BatchFigures {
    /// Rows of both tables.
    pub(crate) fn rows(&self) -> u64 {
        self.readings + self.dead_letters
    }

    /// Both together.
    pub(crate) fn plus(self, other: Self) -> Self {
        Self {
            messages: self.messages + other.messages,
            readings: self.readings + other.readings,
            dead_letters: self.dead_letters + other.dead_letters,
            bytes: self.bytes + other.bytes,
        }
    }
}

/// A batch that gets no more rows: what a commit writes.
#[derive(Debug)]
pub(crate) struct SealedBatch {
    /// Rows of `readings` by day.
    pub(crate) readings: Vec<(i32, RecordBatch)>,
    /// Rows of `dead_letters` by day.
    pub(crate) dead_letters: Vec<(i32, RecordBatch)>,
    /// In the order of the configuration.
    pub(crate) deltas: Vec<WindowDelta>,
    pub(crate) published: PublishTimes,
    pub(crate) figures: BatchFigures,
}

impl Batch {
    /// An empty one.
    pub(crate) fn new(limits: BatchLimits, schemas: Schemas) -> Self {
        let deltas = schemas
            .windows
            .iter()
            .map(|every| WindowDelta::new(*every))
            .collect();
        Self {
            limits,
            schemas,
            readings: BTreeMap::new(),
            dead_letters: BTreeMap::new(),
            deltas,
            published: PublishTimes::default(),
            figures: BatchFigures::default(),
        }
    }

    pub(crate) fn figures(&self) -> BatchFigures {
        self.figures
    }

    /// Whether it is time to commit.
    pub(crate) fn is_full(&self) -> bool {
        self.figures.rows() >= self.limits.rows_max as u64
            || self.figures.bytes >= self.limits.bytes_max.min(BYTES_MAX)
            || self.readings.len() >= self.limits.partitions_max
            || self.dead_letters.len() >= self.limits.partitions_max
    }

    /// Adds all rows of one message, which came after those that are in here.
    pub(crate) fn push_readings(
        &mut self,
        readings: &[Reading],
        message: MessageOrigin<'_>,
        series: &mut SeriesTable,
    ) {
        self.count_message(&message);
        for reading in readings {
            let rows = self.readings.entry(day_of(reading.ts));
            let rows = rows.or_insert_with(|| ReadingRows::new(&self.schemas.readings));
            self.figures.bytes += rows.push(reading, message.subject, message.seq);
            let Some(value) = reading.value else { continue };
            let series = series.get(&reading.device_id, &reading.sensor, &reading.metric);
            for delta in &mut self.deltas {
                delta.add(
                    &series,
                    Point {
                        ts: reading.ts,
                        value,
                    },
                    reading.unit.as_deref(),
                );
            }
        }
        self.figures.readings += readings.len() as u64;
    }

    /// Adds a refused message.
    pub(crate) fn push_dead_letter(&mut self, letter: &DeadLetter<'_>, message: MessageOrigin<'_>) {
        self.count_message(&message);
        let rows = self.dead_letters.entry(day_of(message.published));
        let rows = rows.or_insert_with(|| DeadLetterRows::new(&self.schemas.dead_letters));
        rows.push(letter, &message);
        self.figures.bytes += ROW_BYTES + letter.reason.len() + letter.detail.len();
        self.figures.dead_letters += 1;
    }

    fn count_message(&mut self, message: &MessageOrigin<'_>) {
        self.figures.messages += 1;
        self.figures.bytes += message.bytes;
        self.published.add(message.published);
    }

    /// No more rows. All rows get `ingested_at`.
    pub(crate) fn seal(self, ingested_at: UnixMicros) -> Result<SealedBatch, ArrowError> {
        let schema = &self.schemas.readings;
        let readings = self
            .readings
            .into_iter()
            .map(|(day, rows)| Ok((day, rows.finish(schema, ingested_at)?)));
        let schema = &self.schemas.dead_letters;
        let letters = self
            .dead_letters
            .into_iter()
            .map(|(day, rows)| Ok((day, rows.finish(schema)?)));
        Ok(SealedBatch {
            readings: readings.collect::<Result<_, ArrowError>>()?,
            dead_letters: letters.collect::<Result<_, ArrowError>>()?,
            deltas: self.deltas,
            published: self.published,
            figures: self.figures,
        })
    }
}

/// Where rows come from.
#[derive(Clone, Copy, Debug)]
pub(crate) struct MessageOrigin<'a> {
    pub(crate) stream: &'a str,
    pub(crate) seq: u64,
    pub(crate) subject: &'a str,
    /// When the stream took it.
    pub(crate) published: UnixMicros,
    /// Bytes of its subject, headers and payload.
    pub(crate) bytes: usize,
}

/// When messages were published, in runs of the same millisecond.
#[derive(Clone, Debug, Default)]
pub(crate) struct PublishTimes(Vec<(i64, u64)>);

impl PublishTimes {
    fn add(&mut self, published: UnixMicros) {
        let ms = published.0.div_euclid(1000);
        match self.0.last_mut() {
            Some((last, count)) if *last == ms => *count += 1,
            _ => self.0.push((ms, 1)),
        }
    }

    /// Age in milliseconds at `now` and number of messages.
    pub(crate) fn ages(&self, now: UnixMicros) -> impl Iterator<Item = (u64, u64)> + '_ {
        let now_ms = now.0.div_euclid(1000);
        self.0
            .iter()
            .map(move |(ms, count)| (u64::try_from(now_ms - ms).unwrap_or(0), *count))
    }
}

/// Columns of `readings` for one day.
#[derive(Debug)]
pub(crate) struct ReadingRows {
    device_id: StringBuilder,
    sensor: StringBuilder,
    metric: StringBuilder,
    ts: Vec<i64>,
    value: Float64Builder,
    text: StringBuilder,
    unit: StringBuilder,
    location: StringBuilder,
    attributes: MapBuilder<StringBuilder, StringBuilder>,
    subject: StringBuilder,
    stream_seq: Vec<i64>,
}

impl ReadingRows {
    /// Empty, for the table's columns.
    pub(crate) fn new(schema: &SchemaRef) -> Self {
        Self {
            device_id: text_builder(),
            sensor: text_builder(),
            metric: text_builder(),
            ts: Vec::new(),
            value: Float64Builder::with_capacity(0),
            text: text_builder(),
            unit: text_builder(),
            location: text_builder(),
            attributes: map_builder(schema, "attributes"),
            subject: text_builder(),
            stream_seq: Vec::new(),
        }
    }

    /// Adds a row; returns about how many bytes it takes.
    pub(crate) fn push(&mut self, reading: &Reading, subject: &str, seq: u64) -> usize {
        let mut bytes =
            ROW_BYTES + reading.device_id.len() + reading.sensor.len() + reading.metric.len() + subject.len();
        let mut optional = |builder: &mut StringBuilder, text: &Option<String>| {
            bytes += text.as_ref().map_or(0, String::len);
            builder.append_option(text.as_deref());
        };
        optional(&mut self.text, &reading.text);
        optional(&mut self.unit, &reading.unit);
        optional(&mut self.location, &reading.location);
        self.device_id.append_value(&reading.device_id);
        self.sensor.append_value(&reading.sensor);
        self.metric.append_value(&reading.metric);
        self.ts.push(reading.ts.0);
        self.value.append_option(reading.value);
        let attributes = reading
            .attributes
            .iter()
            .map(|(key, value)| (key.as_str(), value.as_str()));
        bytes += append_map(&mut self.attributes, attributes);
        self.subject.append_value(subject);
        self.stream_seq.push(sequence(seq));
        bytes
    }

    /// The rows in the columns of `schema`; those that aren't Tarn's are null.
    pub(crate) fn finish(
        mut self,
        schema: &SchemaRef,
        ingested_at: UnixMicros,
    ) -> Result<RecordBatch, ArrowError> {
        let count = self.ts.len();
        let mut columns: BTreeMap<&str, ArrayRef> = BTreeMap::new();
        columns.insert("device_id", Arc::new(self.device_id.finish()));
        columns.insert("sensor", Arc::new(self.sensor.finish()));
        columns.insert("metric", Arc::new(self.metric.finish()));
        columns.insert("ts", times(self.ts));
        columns.insert("value", Arc::new(self.value.finish()));
        columns.insert("text", Arc::new(self.text.finish()));
        columns.insert("unit", Arc::new(self.unit.finish()));
        columns.insert("location", Arc::new(self.location.finish()));
        columns.insert("attributes", Arc::new(self.attributes.finish()));
        columns.insert("subject", Arc::new(self.subject.finish()));
        columns.insert("stream_seq", Arc::new(Int64Array::from(self.stream_seq)));
        columns.insert("ingested_at", times(vec![ingested_at.0; count]));
        assemble(schema, columns, count)
    }
}

/// Columns of `dead_letters` for one day.
#[derive(Debug)]
struct DeadLetterRows {
    reason: StringBuilder,
    detail: StringBuilder,
    subject: StringBuilder,
    stream: StringBuilder,
    stream_seq: Vec<i64>,
    payload: LargeBinaryBuilder,
    headers: MapBuilder<StringBuilder, StringBuilder>,
    received_at: Vec<i64>,
}

impl DeadLetterRows {
    fn new(schema: &SchemaRef) -> Self {
        Self {
            reason: text_builder(),
            detail: text_builder(),
            subject: text_builder(),
            stream: text_builder(),
            stream_seq: Vec::new(),
            payload: LargeBinaryBuilder::with_capacity(0, 0),
            headers: map_builder(schema, "headers"),
            received_at: Vec::new(),
        }
    }

    fn push(&mut self, letter: &DeadLetter<'_>, message: &MessageOrigin<'_>) {
        self.reason.append_value(letter.reason);
        self.detail.append_value(&letter.detail);
        self.subject.append_value(message.subject);
        self.stream.append_value(message.stream);
        self.stream_seq.push(sequence(message.seq));
        self.payload.append_value(letter.payload);
        let headers = letter
            .headers
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()));
        append_map(&mut self.headers, headers);
        self.received_at.push(message.published.0);
    }

    fn finish(mut self, schema: &SchemaRef) -> Result<RecordBatch, ArrowError> {
        let count = self.stream_seq.len();
        let payload = self.payload.finish();
        let mut columns: BTreeMap<&str, ArrayRef> = BTreeMap::new();
        columns.insert("reason", Arc::new(self.reason.finish()));
        columns.insert("detail", Arc::new(self.detail.finish()));
        columns.insert("subject", Arc::new(self.subject.finish()));
        columns.insert("stream", Arc::new(self.stream.finish()));
        columns.insert("stream_seq", Arc::new(Int64Array::from(self.stream_seq)));
        columns.insert("payload", Arc::new(payload));
        columns.insert("headers", Arc::new(self.headers.finish()));
        columns.insert("received_at", times(self.received_at));
        assemble(schema, columns, count)
    }
}

fn assemble(
    schema: &SchemaRef,
    mut columns: BTreeMap<&str, ArrayRef>,
    count: usize,
) -> Result<RecordBatch, ArrowError> {
    let columns = schema.fields().iter().map(|field| {
        let column = columns.remove(field.name().as_str());
        column.unwrap_or_else(|| new_null_array(field.data_type(), count))
    });
    RecordBatch::try_new(schema.clone(), columns.collect())
}

fn times(values: Vec<i64>) -> ArrayRef {
    Arc::new(TimestampMicrosecondArray::from(values).with_timezone("+00:00"))
}

/// Stream sequences beyond 2^63 don't occur: at a million a second that is 292,000 years.
fn sequence(seq: u64) -> i64 {
    i64::try_from(seq).unwrap_or(i64::MAX)
}

/// Takes no memory in advance, as all builders here: one message may have a row in each of ten thousand days.
fn text_builder() -> StringBuilder {
    StringBuilder::with_capacity(0, 0)
}

/// A builder whose map has the field names and ids of the schema's column.
fn map_builder(schema: &SchemaRef, column: &str) -> MapBuilder<StringBuilder, StringBuilder> {
    let (keys, values) = (text_builder(), text_builder());
    let field = schema
        .field_with_name(column)
        .ok()
        .map(arrow_schema::Field::data_type);
    let Some(DataType::Map(entries, _)) = field else {
        return MapBuilder::with_capacity(None, keys, values, 0);
    };
    let DataType::Struct(fields) = entries.data_type() else {
        return MapBuilder::with_capacity(None, keys, values, 0);
    };
    let [key, value] = fields.as_ref() else {
        return MapBuilder::with_capacity(None, keys, values, 0);
    };
    let names = MapFieldNames {
        entry: entries.name().clone(),
        key: key.name().clone(),
        value: value.name().clone(),
    };
    MapBuilder::with_capacity(Some(names), keys, values, 0)
        .with_keys_field(key.clone())
        .with_values_field(value.clone())
}

/// Appends one map; an empty one is null. Returns the bytes of its strings.
fn append_map<'a>(
    builder: &mut MapBuilder<StringBuilder, StringBuilder>,
    entries: impl Iterator<Item = (&'a str, &'a str)>,
) -> usize {
    let (mut bytes, mut any) = (0, false);
    for (key, value) in entries {
        any = true;
        builder.keys().append_value(key);
        builder.values().append_value(value);
        bytes += key.len() + value.len();
    }
    builder.append(any).expect("each key was given its value");
    bytes
}

#[cfg(test)]
mod tests;
