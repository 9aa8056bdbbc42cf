//! The tables' shapes: columns with their field ids, partitions and properties.
//!
//! Field ids never change: a new column takes the next free id, at the end. The order of ids here is the one that
//! Iceberg assigns to a new table (top level first, then what is inside of maps).

use std::collections::HashMap;
use std::sync::Arc;

use arrow_schema::SchemaRef as ArrowSchemaRef;
use iceberg::spec::{
    FormatVersion, Literal, MapType, NestedField, NestedFieldRef, PrimitiveType, Schema, Struct, Transform,
    Type, UnboundPartitionSpec,
};

/// The namespace of all tables.
pub const NAMESPACE: &str = "iot";

/// The table of measured values.
pub const READINGS: &str = "readings";

/// The table of refused messages.
pub const DEAD_LETTERS: &str = "dead_letters";

/// The layout of columns and properties that this build writes.
pub const FORMAT_VERSION: u32 = 1;

/// The table property that holds [`FORMAT_VERSION`].
pub const FORMAT_VERSION_PROPERTY: &str = "tarn.format-version";

/// The property of a window table that holds the length of its windows in microseconds.
pub const WINDOW_MICROS_PROPERTY: &str = "tarn.window-micros";

/// What a table must look like.
#[derive(Clone, Debug)]
pub struct TableSpec {
    /// The table's name in [`NAMESPACE`].
    pub name: String,
    /// The columns, with their field ids.
    pub schema: Arc<Schema>,
    /// The timestamp column whose UTC day is the partition.
    pub partition_column: &'static str,
    /// What a new table's properties are.
    pub properties: HashMap<String, String>,
}

impl TableSpec {
    /// `readings`: one row is one measured value. Partition: day of `ts`.
    pub fn readings() -> Self {
        let columns = Columns::new(12)
            .required("device_id", PrimitiveType::String)
            .required("sensor", PrimitiveType::String)
            .required("metric", PrimitiveType::String)
            .required("ts", PrimitiveType::Timestamptz)
            .optional("value", PrimitiveType::Double)
            .optional("text", PrimitiveType::String)
            .optional("unit", PrimitiveType::String)
            .optional("location", PrimitiveType::String)
            .map("attributes")
            .required("subject", PrimitiveType::String)
            .required("stream_seq", PrimitiveType::Long)
            .required("ingested_at", PrimitiveType::Timestamptz);
        Self::new(READINGS, columns, "ts")
    }

    /// A window table: one row is one window of one device, sensor and metric. Partition: day of `window_start`.
    pub fn window(name: &str) -> Self {
        let columns = Columns::new(17)
            .required("window_start", PrimitiveType::Timestamptz)
            .required("window_end", PrimitiveType::Timestamptz)
            .required("device_id", PrimitiveType::String)
            .required("sensor", PrimitiveType::String)
            .required("metric", PrimitiveType::String)
            .optional("unit", PrimitiveType::String)
            .required("count", PrimitiveType::Long)
            .optional("min", PrimitiveType::Double)
            .optional("max", PrimitiveType::Double)
            .optional("mean", PrimitiveType::Double)
            .optional("sum", PrimitiveType::Double)
            .optional("stddev", PrimitiveType::Double)
            .optional("first", PrimitiveType::Double)
            .optional("last", PrimitiveType::Double)
            .optional("first_ts", PrimitiveType::Timestamptz)
            .optional("last_ts", PrimitiveType::Timestamptz)
            .optional("m2", PrimitiveType::Double);
        Self::new(name, columns, "window_start")
    }

    /// `dead_letters`: one row is one refused message. Partition: day of `received_at`.
    pub fn dead_letters() -> Self {
        let columns = Columns::new(8)
            .required("reason", PrimitiveType::String)
            .optional("detail", PrimitiveType::String)
            .required("subject", PrimitiveType::String)
            .required("stream", PrimitiveType::String)
            .required("stream_seq", PrimitiveType::Long)
            .required("payload", PrimitiveType::Binary)
            .map("headers")
            .required("received_at", PrimitiveType::Timestamptz);
        Self::new(DEAD_LETTERS, columns, "received_at")
    }

    fn new(name: &str, columns: Columns, partition_column: &'static str) -> Self {
        let schema = Schema::builder().with_fields(columns.fields).build();
        let schema = Arc::new(schema.expect("invariant: column names and field ids are unique"));
        let format_version = FORMAT_VERSION.to_string();
        let properties = [
            (FORMAT_VERSION_PROPERTY, format_version.as_str()),
            ("write.format.default", "parquet"),
            ("write.parquet.compression-codec", "zstd"),
            ("write.metadata.delete-after-commit.enabled", "true"),
            ("write.metadata.previous-versions-max", "10"),
            ("history.expire.min-snapshots-to-keep", "100"),
            ("commit.manifest.min-count-to-merge", "100"),
        ];
        let properties = properties
            .into_iter()
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .collect();
        Self {
            name: name.to_owned(),
            schema,
            partition_column,
            properties,
        }
    }

    /// The columns as Arrow, each with its field id as Parquet wants it. Batches written to the table have this
    /// schema.
    pub fn arrow_schema(&self) -> ArrowSchemaRef {
        let schema = iceberg::arrow::schema_to_arrow_schema(&self.schema);
        Arc::new(schema.expect("invariant: every column type has an Arrow type"))
    }

    /// The partition of the rows whose partition column lies in `day`, counted in UTC days from 1970-01-01.
    pub fn partition(&self, day: i32) -> Struct {
        Struct::from_iter([Some(Literal::date(day))])
    }

    /// How the table is partitioned.
    pub fn partition_spec(&self) -> UnboundPartitionSpec {
        let source = self.schema.field_id_by_name(self.partition_column);
        let source = source.expect("invariant: the partition column is one of the columns");
        UnboundPartitionSpec::builder()
            .with_spec_id(0)
            .add_partition_field(source, format!("{}_day", self.partition_column), Transform::Day)
            .expect("invariant: one partition field can't collide")
            .build()
    }

    /// The Iceberg format of new tables: the newest that every engine tried reads and writes.
    pub fn format_version(&self) -> FormatVersion {
        FormatVersion::V2
    }
}

/// Columns in order; ids inside of maps follow those of the top level.
struct Columns {
    fields: Vec<NestedFieldRef>,
    next_nested_id: i32,
}

impl Columns {
    fn new(top_level_count: i32) -> Self {
        Self {
            fields: Vec::new(),
            next_nested_id: top_level_count + 1,
        }
    }

    fn next_id(&self) -> i32 {
        let count = i32::try_from(self.fields.len()).expect("invariant: a table has few columns");
        count + 1
    }

    fn required(mut self, name: &str, kind: PrimitiveType) -> Self {
        self.fields.push(Arc::new(NestedField::required(
            self.next_id(),
            name,
            Type::Primitive(kind),
        )));
        self
    }

    fn optional(mut self, name: &str, kind: PrimitiveType) -> Self {
        self.fields.push(Arc::new(NestedField::optional(
            self.next_id(),
            name,
            Type::Primitive(kind),
        )));
        self
    }

    /// An optional `map<string, string>`.
    fn map(mut self, name: &str) -> Self {
        let text = || Type::Primitive(PrimitiveType::String);
        let kind = MapType::optional(self.next_nested_id, text(), self.next_nested_id + 1, text());
        self.next_nested_id += 2;
        self.fields.push(Arc::new(NestedField::optional(
            self.next_id(),
            name,
            Type::Map(kind),
        )));
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn described(spec: &TableSpec) -> String {
        let mut lines = String::new();
        for field in spec.schema.as_struct().fields() {
            let need = if field.required { "required" } else { "optional" };
            lines.push_str(&format!(
                "{} {} {} {need}\n",
                field.id, field.name, field.field_type
            ));
        }
        let partition = serde_json::to_string(&spec.partition_spec()).unwrap();
        lines.push_str(&partition);
        lines
    }

    #[test]
    fn readings_columns_are_fixed() {
        expect_test::expect![[r#"
            1 device_id string required
            2 sensor string required
            3 metric string required
            4 ts timestamptz required
            5 value double optional
            6 text string optional
            7 unit string optional
            8 location string optional
            9 attributes map optional
            10 subject string required
            11 stream_seq long required
            12 ingested_at timestamptz required
            {"spec-id":0,"fields":[{"source-id":4,"name":"ts_day","transform":"day"}]}"#]]
        .assert_eq(&described(&TableSpec::readings()));
    }

    #[test]
    fn window_columns_are_fixed() {
        expect_test::expect![[r#"
            1 window_start timestamptz required
            2 window_end timestamptz required
            3 device_id string required
            4 sensor string required
            5 metric string required
            6 unit string optional
            7 count long required
            8 min double optional
            9 max double optional
            10 mean double optional
            11 sum double optional
            12 stddev double optional
            13 first double optional
            14 last double optional
            15 first_ts timestamptz optional
            16 last_ts timestamptz optional
            17 m2 double optional
            {"spec-id":0,"fields":[{"source-id":1,"name":"window_start_day","transform":"day"}]}"#]]
        .assert_eq(&described(&TableSpec::window("readings_1m")));
    }

    #[test]
    fn dead_letter_columns_are_fixed() {
        expect_test::expect![[r#"
            1 reason string required
            2 detail string optional
            3 subject string required
            4 stream string required
            5 stream_seq long required
            6 payload binary required
            7 headers map optional
            8 received_at timestamptz required
            {"spec-id":0,"fields":[{"source-id":8,"name":"received_at_day","transform":"day"}]}"#]]
        .assert_eq(&described(&TableSpec::dead_letters()));
    }

    #[test]
    fn a_new_table_keeps_the_field_ids() {
        for spec in [
            TableSpec::readings(),
            TableSpec::window("readings_1m"),
            TableSpec::dead_letters(),
        ] {
            let metadata = crate::catalog::new_table_metadata(&spec, "memory:///t").unwrap();
            assert_eq!(
                metadata.current_schema().as_struct(),
                spec.schema.as_struct(),
                "{}",
                spec.name
            );
            assert_eq!(metadata.default_partition_spec_id(), 0);
        }
    }
}
