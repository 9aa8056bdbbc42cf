//! `tarn table ls | show | snapshots`

use clap::{Args, Subcommand};
use futures::TryStreamExt;
use tarn_processor::read::{FileInfo, ReadTable};

use super::lake::LakeArgs;
use super::{Failure, on_runtime};
use crate::present::{plain_table, say, thousands, utc_ms};

/// Subcommands of `tarn table`.
#[derive(Debug, Subcommand)]
pub(super) enum TableCommand {
    /// List the tables with rows, files, bytes and the time of the last snapshot
    Ls(LakeArgs),
    /// Show one table: figures, watermarks, properties, partitions
    Show(NamedTable),
    /// List the snapshots of one table, oldest first
    Snapshots(NamedTable),
}

/// A table of a lake.
#[derive(Args, Debug)]
pub(super) struct NamedTable {
    /// Such as readings, readings_1m or dead_letters
    #[arg(value_name = "TABLE")]
    table: String,
    #[command(flatten)]
    lake: LakeArgs,
}

pub(super) fn run(command: TableCommand) -> Result<(), Failure> {
    on_runtime(async {
        match command {
            TableCommand::Ls(args) => ls(args).await,
            TableCommand::Show(args) => show(args).await,
            TableCommand::Snapshots(args) => snapshots(args).await,
        }
    })
}

/// What a table's live files add up to.
#[derive(Default)]
struct Totals {
    rows: u64,
    files: u64,
    bytes: u64,
}

impl Totals {
    fn add(&mut self, file: &FileInfo) {
        self.rows += file.record_count;
        self.files += 1;
        self.bytes += file.size_bytes;
    }

    fn bytes_per_row(&self) -> String {
        if self.rows == 0 {
            "–".to_owned()
        } else {
            format!("{:.1}", self.bytes as f64 / self.rows as f64)
        }
    }

    fn cells(&self) -> Vec<String> {
        vec![
            thousands(self.rows),
            thousands(self.files),
            thousands(self.bytes),
            self.bytes_per_row(),
        ]
    }
}

async fn totals(table: &ReadTable) -> Result<Totals, Failure> {
    let mut totals = Totals::default();
    let mut files = table.files();
    while let Some(file) = files.try_next().await.map_err(Failure::work)? {
        totals.add(&file);
    }
    Ok(totals)
}

async fn ls(args: LakeArgs) -> Result<(), Failure> {
    let lake = args.open().await?;
    let mut rows = Vec::new();
    for name in lake.names().await? {
        let table = lake.table(&name).await?;
        let mut row = vec![name];
        row.extend(totals(&table).await?.cells());
        row.push(
            table
                .snapshots()
                .last()
                .map_or("never".to_owned(), |last| utc_ms(last.timestamp_ms)),
        );
        rows.push(row);
    }
    say!(
        "{}",
        plain_table(
            &["table", "rows", "files", "bytes", "bytes/row", "last snapshot"],
            1,
            rows
        )
    );
    Ok(())
}

async fn show(args: NamedTable) -> Result<(), Failure> {
    let lake = args.lake.open().await?;
    let table = lake.table(&args.table).await?;
    let snapshots = table.snapshots();
    let mut all = Totals::default();
    let mut partitions = std::collections::BTreeMap::<String, Totals>::new();
    let mut files = table.files();
    while let Some(file) = files.try_next().await.map_err(Failure::work)? {
        all.add(&file);
        partitions.entry(file.partition.clone()).or_default().add(&file);
    }
    say!(
        "{}: {} rows, {} files, {} bytes ({} a row)",
        args.table,
        thousands(all.rows),
        all.files,
        thousands(all.bytes),
        all.bytes_per_row()
    );
    match (snapshots.first(), snapshots.last()) {
        (Some(first), Some(last)) => {
            say!(
                "{} snapshots, {} to {}",
                snapshots.len(),
                utc_ms(first.timestamp_ms),
                utc_ms(last.timestamp_ms)
            );
        }
        _ => say!("no snapshot yet"),
    }
    let (marks, others): (Vec<_>, Vec<_>) = table
        .properties()
        .into_iter()
        .partition(|(key, _)| key.starts_with("tarn.watermark."));
    say!("\nwatermarks");
    for (key, value) in marks {
        say!("  {} {value}", key.trim_start_matches("tarn.watermark."));
    }
    say!("\nproperties");
    for (key, value) in others {
        say!("  {key} = {value}");
    }
    let rows = partitions.into_iter().map(|(partition, totals)| {
        let mut row = vec![partition];
        row.extend(totals.cells());
        row
    });
    say!(
        "\n{}",
        plain_table(
            &["partition", "rows", "files", "bytes", "bytes/row"],
            1,
            rows.collect()
        )
    );
    Ok(())
}

async fn snapshots(args: NamedTable) -> Result<(), Failure> {
    let lake = args.lake.open().await?;
    let table = lake.table(&args.table).await?;
    let figure = |summary: &std::collections::BTreeMap<String, String>, key: &str| {
        summary.get(key).cloned().unwrap_or_else(|| "0".to_owned())
    };
    let rows = table.snapshots().into_iter().map(|snapshot| {
        vec![
            utc_ms(snapshot.timestamp_ms),
            snapshot.snapshot_id.to_string(),
            snapshot.operation.clone(),
            figure(&snapshot.summary, "added-records"),
            figure(&snapshot.summary, "deleted-records"),
            figure(&snapshot.summary, "total-records"),
            figure(&snapshot.summary, "total-data-files"),
        ]
    });
    let header = [
        "time",
        "snapshot",
        "operation",
        "added",
        "removed",
        "rows",
        "files",
    ];
    say!("{}", plain_table(&header, 3, rows.collect()));
    Ok(())
}
