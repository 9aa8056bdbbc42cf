//! The tables, read back: the figures that a demo shows, and what they are held against.

use std::collections::{BTreeMap, HashSet};
use std::path::Path;

use futures::TryStreamExt;
use tarn_processor::Lake;
use tarn_processor::read::ReadTable;
use tarn_processor::stats::LatencyStats;
use tarn_processor::tables::{DEAD_LETTERS, READINGS};
use tarn_simulators::{Verdict, Verification};

use super::DemoError;
use crate::audit::{self, AuditError, GroupBy, Tables, WindowCheck, WindowRow};

const WINDOWS: &str = "readings_1m";
const MINUTE_US: i64 = 60_000_000;
const SAMPLE_ROWS: usize = 5;

/// What the tables hold.
#[derive(Clone, Debug, Default)]
pub struct LakeFigures {
    /// Rows of `readings`.
    pub readings: u64,
    /// Different devices among them.
    pub devices: u64,
    /// Bytes of the data files of `readings`.
    pub file_bytes: u64,
    /// Rows of `dead_letters` by reason.
    pub dead_letters: BTreeMap<String, u64>,
    /// A few rows of `readings_1m`, the fullest first.
    pub sample: Vec<WindowRow>,
    /// From a message's timestamp in its stream to its being visible.
    pub publish_to_commit: LatencyStats,
}

/// Everything that was read.
pub(super) struct Audit {
    pub(super) figures: LakeFigures,
    pub(super) verdict: Verdict,
    pub(super) windows: WindowCheck,
}

/// Reads the tables once and holds them against the ledger, and `readings_1m` against the GROUP BY.
pub(super) async fn read_back(lake: &Lake, ledger: &Path) -> Result<Audit, DemoError> {
    let verification = Verification::load(ledger)?;
    let open = async |name: &'static str| lake.read_table(name).await.map_err(AuditError::from);
    let (readings, dead_letters, windows) = (
        open(READINGS).await?,
        open(DEAD_LETTERS).await?,
        open(WINDOWS).await?,
    );

    let mut figures = LakeFigures {
        file_bytes: file_bytes(&readings).await?,
        ..LakeFigures::default()
    };
    let mut devices = HashSet::new();
    let mut groups = GroupBy::new(MINUTE_US);
    let tables = Tables {
        readings: &readings,
        dead_letters: &dead_letters,
    };
    let verdict = audit::verify(
        verification,
        &tables,
        |row| {
            figures.readings += 1;
            if !devices.contains(&row.device_id) {
                devices.insert(row.device_id.clone());
            }
            groups.add(row);
        },
        |row| *figures.dead_letters.entry(row.reason).or_default() += 1,
    )
    .await?;
    figures.devices = devices.len() as u64;

    let mut rows = Vec::new();
    audit::windows(&windows, |row| rows.push(row)).await?;
    rows.sort_by(|a, b| b.count.cmp(&a.count).then_with(|| a.device_id.cmp(&b.device_id)));
    figures.sample = rows.iter().take(SAMPLE_ROWS).cloned().collect();
    Ok(Audit {
        figures,
        verdict,
        windows: groups.compare(rows),
    })
}

async fn file_bytes(table: &ReadTable) -> Result<u64, DemoError> {
    let sizes = table
        .files()
        .map_ok(|file| file.size_bytes)
        .map_err(AuditError::from);
    Ok(sizes.try_fold(0u64, async |sum, bytes| Ok(sum + bytes)).await?)
}
