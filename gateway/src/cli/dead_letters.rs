//! `tarn dead-letters ls | show`

use std::collections::BTreeMap;

use clap::{Args, Subcommand};

use super::lake::{LakeArgs, OpenLake};
use super::{Failure, on_runtime};
use crate::audit::{self, RefusedRow};
use crate::present::{plain_table, say, thousands, utc_us};

/// Subcommands of `tarn dead-letters`.
#[derive(Debug, Subcommand)]
pub(super) enum DeadLettersCommand {
    /// Count the refused messages by reason and list the latest
    Ls(ListArgs),
    /// Show one refused message with its payload
    Show(ShowArgs),
}

/// Flags of `tarn dead-letters ls`.
#[derive(Args, Debug)]
pub(super) struct ListArgs {
    /// How many of the latest to list
    #[arg(long, env = "TARN_DEAD_LETTERS__LIMIT", default_value_t = 20)]
    limit: usize,
    /// Only this reason
    #[arg(long, env = "TARN_DEAD_LETTERS__REASON")]
    reason: Option<String>,
    #[command(flatten)]
    lake: LakeArgs,
}

/// Flags of `tarn dead-letters show`.
#[derive(Args, Debug)]
pub(super) struct ShowArgs {
    /// Stream and sequence, such as SENSORS/17
    #[arg(value_name = "STREAM/SEQ", value_parser = stream_and_seq)]
    message: (String, i64),
    #[command(flatten)]
    lake: LakeArgs,
}

fn stream_and_seq(text: &str) -> Result<(String, i64), String> {
    let bad = || "write it as STREAM/SEQ, such as SENSORS/17".to_owned();
    let (stream, seq) = text.rsplit_once('/').ok_or_else(bad)?;
    Ok((stream.to_owned(), seq.parse().map_err(|_| bad())?))
}

pub(super) fn run(command: DeadLettersCommand) -> Result<(), Failure> {
    on_runtime(async {
        match command {
            DeadLettersCommand::Ls(args) => ls(args).await,
            DeadLettersCommand::Show(args) => show(args).await,
        }
    })
}

async fn each(lake: &OpenLake, each: impl FnMut(RefusedRow)) -> Result<(), Failure> {
    let table = lake.table(tarn_processor::tables::DEAD_LETTERS).await?;
    audit::dead_letters(&table, each).await.map_err(Failure::work)
}

async fn ls(args: ListArgs) -> Result<(), Failure> {
    let lake = args.lake.open().await?;
    let mut by_reason = BTreeMap::<String, u64>::new();
    let mut latest = BTreeMap::<(i64, String, i64), RefusedRow>::new();
    each(&lake, |row| {
        *by_reason.entry(row.reason.clone()).or_default() += 1;
        if args.reason.as_ref().is_none_or(|reason| *reason == row.reason) {
            latest.insert((row.received_at, row.stream.clone(), row.stream_seq), row);
            if latest.len() > args.limit {
                latest.pop_first();
            }
        }
    })
    .await?;
    let total: u64 = by_reason.values().sum();
    say!("{} refused", thousands(total));
    for (reason, count) in by_reason {
        say!("  {reason} {}", thousands(count));
    }
    if !latest.is_empty() {
        let rows = latest.into_values().rev().map(|row| {
            let place = format!("{}/{}", row.stream, row.stream_seq);
            vec![
                utc_us(row.received_at),
                place,
                row.subject,
                row.reason,
                shortened(&row.payload),
            ]
        });
        say!(
            "\n{}",
            plain_table(
                &["received", "message", "subject", "reason", "payload"],
                9,
                rows.collect()
            )
        );
    }
    Ok(())
}

/// The characters as they are, but for control characters: a payload must not steer the terminal.
fn printable(text: impl Iterator<Item = char>) -> String {
    let mut out = String::new();
    for character in text {
        match character {
            control if control.is_control() => out.extend(control.escape_default()),
            other => out.push(other),
        }
    }
    out
}

/// At most 60 characters on one line.
fn shortened(payload: &[u8]) -> String {
    const CHARS_MAX: usize = 60;
    let text = String::from_utf8_lossy(payload);
    let mut out = printable(text.chars().take(CHARS_MAX));
    if text.chars().nth(CHARS_MAX).is_some() {
        out.push('…');
    }
    out
}

async fn show(args: ShowArgs) -> Result<(), Failure> {
    let lake = args.lake.open().await?;
    let (stream, seq) = args.message;
    let mut found = Vec::new();
    each(&lake, |row| {
        if row.stream == stream && row.stream_seq == seq {
            found.push(row);
        }
    })
    .await?;
    if found.is_empty() {
        return Err(Failure::Work(format!(
            "message {seq} of stream {stream} is not among the dead letters"
        )));
    }
    for row in found {
        say!("message   {}/{}", row.stream, row.stream_seq);
        say!("subject   {}", row.subject);
        say!("received  {}", utc_us(row.received_at));
        say!("reason    {}", row.reason);
        say!("detail    {}", row.detail.unwrap_or_default());
        say!("payload   {} bytes", row.payload.len());
        say!("{}", printable(String::from_utf8_lossy(&row.payload).chars()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_named_by_stream_and_sequence() {
        assert_eq!(stream_and_seq("SENSORS/17"), Ok(("SENSORS".to_owned(), 17)));
        assert!(stream_and_seq("17").is_err());
        assert!(stream_and_seq("S/x").is_err());
    }

    #[test]
    fn payloads_stay_on_one_line() {
        assert_eq!(shortened(b"\"a\nb\x1b\xff"), "\"a\\nb\\u{1b}\u{fffd}");
        assert_eq!(shortened(&[b'x'; 100]).chars().count(), 61);
    }
}
