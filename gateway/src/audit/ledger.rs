//! The tables held against a ledger.

use tarn_processor::read::ReadTable;
use tarn_schemas::UnixMicros;
use tarn_simulators::{StoredDeadLetter, StoredReading, Verdict, Verification};

use super::AuditError;
use super::rows::{ReadingRow, RefusedRow, dead_letters, readings};

/// The tables that a ledger speaks of.
#[derive(Clone, Copy)]
pub struct Tables<'a> {
    /// `readings`
    pub readings: &'a ReadTable,
    /// `dead_letters`
    pub dead_letters: &'a ReadTable,
}

/// Holds every row of both tables against the ledger, and shows each to the caller too.
pub async fn verify(
    mut verification: Verification,
    tables: &Tables<'_>,
    mut each_reading: impl FnMut(ReadingRow),
    mut each_dead_letter: impl FnMut(RefusedRow),
) -> Result<Verdict, AuditError> {
    readings(tables.readings, |row| {
        verification.reading(&StoredReading {
            device_id: &row.device_id,
            sensor: &row.sensor,
            metric: &row.metric,
            ts: UnixMicros(row.ts),
            value: row.value,
            text: row.text.as_deref(),
        });
        each_reading(row);
    })
    .await?;
    dead_letters(tables.dead_letters, |row| {
        verification.dead_letter(&StoredDeadLetter {
            subject: &row.subject,
            payload: &row.payload,
            reason: &row.reason,
        });
        each_dead_letter(row);
    })
    .await?;
    Ok(verification.finish())
}
