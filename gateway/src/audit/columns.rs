//! Typed access to the columns of a batch.

use arrow_array::cast::AsArray;
use arrow_array::types::{Float64Type, Int64Type, TimestampMicrosecondType};
use arrow_array::{Array, Float64Array, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray};

use super::AuditError;

fn column<'a>(
    batch: &'a RecordBatch,
    name: &'static str,
    expected: &'static str,
) -> Result<&'a dyn Array, AuditError> {
    batch
        .column_by_name(name)
        .map(AsRef::as_ref)
        .ok_or(AuditError::Column {
            column: name,
            expected,
        })
}

pub(super) fn text<'a>(batch: &'a RecordBatch, name: &'static str) -> Result<&'a StringArray, AuditError> {
    const EXPECTED: &str = "string";
    column(batch, name, EXPECTED)?
        .as_string_opt()
        .ok_or(AuditError::Column {
            column: name,
            expected: EXPECTED,
        })
}

pub(super) fn double<'a>(batch: &'a RecordBatch, name: &'static str) -> Result<&'a Float64Array, AuditError> {
    const EXPECTED: &str = "double";
    let found = column(batch, name, EXPECTED)?.as_primitive_opt::<Float64Type>();
    found.ok_or(AuditError::Column {
        column: name,
        expected: EXPECTED,
    })
}

pub(super) fn long<'a>(batch: &'a RecordBatch, name: &'static str) -> Result<&'a Int64Array, AuditError> {
    const EXPECTED: &str = "long";
    let found = column(batch, name, EXPECTED)?.as_primitive_opt::<Int64Type>();
    found.ok_or(AuditError::Column {
        column: name,
        expected: EXPECTED,
    })
}

pub(super) fn time<'a>(
    batch: &'a RecordBatch,
    name: &'static str,
) -> Result<&'a TimestampMicrosecondArray, AuditError> {
    const EXPECTED: &str = "timestamp in microseconds";
    let found = column(batch, name, EXPECTED)?.as_primitive_opt::<TimestampMicrosecondType>();
    found.ok_or(AuditError::Column {
        column: name,
        expected: EXPECTED,
    })
}

/// The bytes of row `index` of a binary column, whichever offset width the reader chose.
pub(super) fn bytes<'a>(
    batch: &'a RecordBatch,
    name: &'static str,
    index: usize,
) -> Result<&'a [u8], AuditError> {
    const EXPECTED: &str = "binary";
    let array = column(batch, name, EXPECTED)?;
    if let Some(small) = array.as_binary_opt::<i32>() {
        return Ok(small.value(index));
    }
    match array.as_binary_opt::<i64>() {
        Some(large) => Ok(large.value(index)),
        None => Err(AuditError::Column {
            column: name,
            expected: EXPECTED,
        }),
    }
}

pub(super) fn optional<A, T>(array: &A, index: usize, value: impl Fn(&A, usize) -> T) -> Option<T>
where
    A: Array,
{
    (!array.is_null(index)).then(|| value(array, index))
}
