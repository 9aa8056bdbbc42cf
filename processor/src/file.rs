//! Parquet files of the tables: written in one go from Arrow batches, described by the `DataFile` that a commit adds.
//!
//! Columns carry their Iceberg field ids. Times and sequences are DELTA_BINARY_PACKED, everything else has a dictionary
//! for as long as one pays, all of it is compressed with zstd 3. A file is on stable storage before it is described.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use arrow_array::{RecordBatch, cast::AsArray, types::Float64Type};
use arrow_schema::{DataType, FieldRef, SchemaRef};
use bytes::Bytes;
use iceberg::spec::{
    DataContentType, DataFile, DataFileBuilder, DataFileFormat, Datum, PrimitiveType, Schema, Type,
};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::arrow::arrow_writer::{ArrowWriter, ArrowWriterOptions};
use parquet::basic::{Compression, Encoding, ZstdLevel};
use parquet::errors::ParquetError;
use parquet::file::metadata::{ColumnChunkMetaData, ParquetMetaData};
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use parquet::file::statistics::Statistics;
use parquet::schema::types::ColumnPath;

use crate::catalog::Lake;
use crate::storage::StorageError;
use crate::tables::TableSpec;

/// Bytes of a string that statistics keep. Longer ones are cut so that they still bound the column.
const STATISTICS_BYTES_MAX: usize = 64;

/// Columns with values of any size, where statistics and dictionaries cost more than they give.
const BLOB_COLUMNS: [&str; 1] = ["payload"];

/// Why a file wasn't written or read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FileError {
    /// Arrow and Parquet disagree about the rows.
    #[error("file {location}: {source}")]
    Parquet {
        /// The file.
        location: String,
        /// What Parquet said.
        source: ParquetError,
    },
    /// The file could not be stored or fetched.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The columns' figures don't describe a data file.
    #[error("file {location} can't be described: {detail}")]
    Describe {
        /// The file.
        location: String,
        /// What was wrong.
        detail: String,
    },
}

/// How one table's files are written. Made once; cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct FileFormat {
    pub(crate) table: Arc<str>,
    pub(crate) arrow: SchemaRef,
    schema: Arc<Schema>,
    spec: Arc<TableSpec>,
    properties: WriterProperties,
}

impl FileFormat {
    /// Of the table's columns.
    pub(crate) fn new(spec: TableSpec) -> Self {
        let arrow = spec.arrow_schema();
        let properties = writer_properties(&arrow);
        Self {
            table: Arc::from(spec.name.as_str()),
            arrow,
            schema: spec.schema.clone(),
            spec: Arc::new(spec),
            properties,
        }
    }

    /// Writes the batches, which have [`Self::arrow`] as schema and lie in the partition of `day`, as one new file of
    /// the table. The file is on stable storage when this returns. Encodes on the calling thread.
    pub(crate) async fn write(
        &self,
        lake: &Lake,
        day: i32,
        batches: &[RecordBatch],
    ) -> Result<DataFile, FileError> {
        let location = lake.data_location(&self.table, Some(day));
        let (bytes, metadata) = self.encode(batches).map_err(|source| FileError::Parquet {
            location: location.clone(),
            source,
        })?;
        let file = self.describe(
            &location,
            day,
            bytes.len(),
            &metadata,
            nan_counts(&self.arrow, batches),
        )?;
        lake.storage().put(&location, bytes).await?;
        Ok(file)
    }

    /// The file's bytes and its footer.
    pub(crate) fn encode(&self, batches: &[RecordBatch]) -> Result<(Bytes, ParquetMetaData), ParquetError> {
        let options = ArrowWriterOptions::new()
            .with_properties(self.properties.clone())
            .with_skip_arrow_metadata(true);
        let mut bytes = Vec::new();
        let mut writer = ArrowWriter::try_new_with_options(&mut bytes, self.arrow.clone(), options)?;
        for batch in batches {
            writer.write(batch)?;
        }
        let metadata = writer.close()?;
        Ok((Bytes::from(bytes), metadata))
    }

    fn describe(
        &self,
        location: &str,
        day: i32,
        size_bytes: usize,
        metadata: &ParquetMetaData,
        nan_counts: HashMap<i32, u64>,
    ) -> Result<DataFile, FileError> {
        let mut figures = ColumnFigures::default();
        for group in metadata.row_groups() {
            for column in group.columns() {
                let basic = column.column_descr().self_type().get_basic_info();
                if basic.has_id() {
                    figures.add(basic.id(), self.primitive(basic.id()), column);
                }
            }
        }
        let groups = metadata.row_groups().iter();
        DataFileBuilder::default()
            .content(DataContentType::Data)
            .file_path(location.to_owned())
            .file_format(DataFileFormat::Parquet)
            .partition(self.spec.partition(day))
            .partition_spec_id(0)
            .record_count(u64::try_from(metadata.file_metadata().num_rows()).unwrap_or(0))
            .file_size_in_bytes(size_bytes as u64)
            .column_sizes(figures.sizes)
            .value_counts(figures.values)
            .null_value_counts(figures.nulls)
            .nan_value_counts(nan_counts)
            .lower_bounds(figures.lower)
            .upper_bounds(figures.upper)
            .split_offsets(Some(groups.filter_map(|group| group.file_offset()).collect()))
            .build()
            .map_err(|error| FileError::Describe {
                location: location.to_owned(),
                detail: error.to_string(),
            })
    }

    /// The field id of a top-level column.
    pub(crate) fn column_id(&self, name: &str) -> Option<i32> {
        self.schema.field_id_by_name(name)
    }

    /// The type of a top-level column. Those inside of maps have no bounds.
    fn primitive(&self, id: i32) -> Option<&PrimitiveType> {
        let field = self.schema.as_struct().field_by_id(id)?;
        match field.field_type.as_ref() {
            Type::Primitive(kind) => Some(kind),
            _ => None,
        }
    }
}

/// Reads a whole file of a table, batch by batch, into `each`.
pub(crate) async fn read<E: From<FileError>>(
    lake: &Lake,
    location: &str,
    mut each: impl FnMut(RecordBatch) -> Result<(), E>,
) -> Result<(), E> {
    let failed = |source| FileError::Parquet {
        location: location.to_owned(),
        source,
    };
    let bytes = lake.storage().get(location).await.map_err(FileError::from)?;
    let reader = ParquetRecordBatchReaderBuilder::try_new(bytes).map_err(failed)?;
    for batch in reader.with_batch_size(8192).build().map_err(failed)? {
        each(batch.map_err(|error| failed(error.into()))?)?;
    }
    Ok(())
}

fn writer_properties(schema: &SchemaRef) -> WriterProperties {
    let level = ZstdLevel::try_new(3).expect("3 is a level of zstd");
    let mut properties = WriterProperties::builder()
        .set_created_by("tarn".to_owned())
        .set_compression(Compression::ZSTD(level))
        .set_statistics_truncate_length(Some(STATISTICS_BYTES_MAX))
        .set_column_index_truncate_length(Some(STATISTICS_BYTES_MAX));
    for field in schema.fields() {
        let column = ColumnPath::from(field.name().as_str());
        match field.data_type() {
            DataType::Timestamp(..) | DataType::Int64 => {
                properties = properties
                    .set_column_dictionary_enabled(column.clone(), false)
                    .set_column_encoding(column, Encoding::DELTA_BINARY_PACKED);
            }
            _ if BLOB_COLUMNS.contains(&field.name().as_str()) => {
                properties = properties
                    .set_column_dictionary_enabled(column.clone(), false)
                    .set_column_statistics_enabled(column, EnabledStatistics::None);
            }
            _ => {}
        }
    }
    properties.build()
}

#[derive(Default)]
struct ColumnFigures {
    sizes: HashMap<i32, u64>,
    values: HashMap<i32, u64>,
    nulls: HashMap<i32, u64>,
    lower: HashMap<i32, Datum>,
    upper: HashMap<i32, Datum>,
    unbounded: HashSet<i32>,
}

impl ColumnFigures {
    /// Adds one column of one row group. `kind` is none where the column has no bounds.
    fn add(&mut self, id: i32, kind: Option<&PrimitiveType>, column: &ColumnChunkMetaData) {
        let values = u64::try_from(column.num_values()).unwrap_or(0);
        *self.sizes.entry(id).or_default() += u64::try_from(column.compressed_size()).unwrap_or(0);
        *self.values.entry(id).or_default() += values;
        let statistics = column.statistics();
        let nulls = statistics.and_then(Statistics::null_count_opt);
        if let Some(nulls) = nulls {
            *self.nulls.entry(id).or_default() += nulls;
        }
        match kind
            .zip(statistics)
            .and_then(|(kind, statistics)| bounds(kind, statistics))
        {
            Some((lower, upper)) => self.widen(id, lower, upper),
            None if nulls == Some(values) => {}
            None => self.unbound(id),
        }
    }

    fn widen(&mut self, id: i32, lower: Datum, upper: Datum) {
        if self.unbounded.contains(&id) {
            return;
        }
        if self.lower.get(&id).is_none_or(|bound| lower < *bound) {
            self.lower.insert(id, lower);
        }
        if self.upper.get(&id).is_none_or(|bound| upper > *bound) {
            self.upper.insert(id, upper);
        }
    }

    /// Bounds that don't hold for every row group would hide rows.
    fn unbound(&mut self, id: i32) {
        self.lower.remove(&id);
        self.upper.remove(&id);
        self.unbounded.insert(id);
    }
}

/// The bounds that Parquet kept of a column; none where all of it is null.
fn bounds(kind: &PrimitiveType, statistics: &Statistics) -> Option<(Datum, Datum)> {
    match (kind, statistics) {
        (PrimitiveType::Timestamptz, Statistics::Int64(s)) => Some((
            Datum::timestamptz_micros(*s.min_opt()?),
            Datum::timestamptz_micros(*s.max_opt()?),
        )),
        (PrimitiveType::Long, Statistics::Int64(s)) => {
            Some((Datum::long(*s.min_opt()?), Datum::long(*s.max_opt()?)))
        }
        (PrimitiveType::Double, Statistics::Double(s)) => {
            Some((Datum::double(*s.min_opt()?), Datum::double(*s.max_opt()?)))
        }
        (PrimitiveType::String, Statistics::ByteArray(s)) => {
            let lower = std::str::from_utf8(s.min_opt()?.data()).ok()?;
            let upper = std::str::from_utf8(s.max_opt()?.data()).ok()?;
            Some((Datum::string(lower), Datum::string(upper)))
        }
        _ => None,
    }
}

/// NaN values of the floating-point columns, by field id.
fn nan_counts(schema: &SchemaRef, batches: &[RecordBatch]) -> HashMap<i32, u64> {
    let mut counts = HashMap::new();
    for (index, field) in schema.fields().iter().enumerate() {
        let Some(id) = field_id(field).filter(|_| *field.data_type() == DataType::Float64) else {
            continue;
        };
        let columns = batches.iter().filter_map(|batch| batch.columns().get(index));
        let count = columns.map(|column| {
            let values = column.as_primitive::<Float64Type>();
            values.iter().flatten().filter(|value| value.is_nan()).count() as u64
        });
        counts.insert(id, count.sum());
    }
    counts
}

fn field_id(field: &FieldRef) -> Option<i32> {
    field
        .metadata()
        .get(parquet::arrow::PARQUET_FIELD_ID_META_KEY)?
        .parse()
        .ok()
}

#[cfg(test)]
mod tests;
