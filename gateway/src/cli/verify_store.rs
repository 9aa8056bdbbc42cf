//! `tarn broker --verify-store`, and what `tarn doctor` says about the same.

use std::io::IsTerminal;
use std::path::Path;

use indicatif::{ProgressBar, ProgressStyle};
use tarn_broker::env::real::RealFs;
use tarn_broker::store::{Finding, Severity, StoreError, StoreVerdict, VerifyProgress, verify};

use super::Failure;
use crate::present::{say, thousands};

/// Findings printed at most.
const LINES_MAX: usize = 200;
/// Where no bar is shown, a line is, each time this share more is read.
const LINE_PERCENT: u64 = 25;

/// Looks at everything in the store in `dir` and prints it. Fails if anything is damaged, lost or unusable.
pub(super) fn run(dir: &Path) -> Result<(), Failure> {
    let verdict = look(dir).map_err(|error| Failure::Work(explain(&error)))?;
    for stream in &verdict.streams {
        say!(
            "stream {}: {} records in {} segments, last sequence {}, {} consumers, {} lost",
            stream.name,
            thousands(stream.records),
            stream.segments,
            stream.last_seq,
            stream.consumers,
            thousands(stream.lost.iter().map(tarn_broker::store::SeqRange::count).sum())
        );
    }
    let of_store = verdict.findings.iter().map(|found| (None, found));
    let of_streams = verdict.streams.iter().flat_map(|stream| {
        stream
            .findings
            .iter()
            .map(|found| (Some(stream.name.as_str()), found))
    });
    let count = verdict.findings().count();
    for (stream, found) in of_store.chain(of_streams).take(LINES_MAX) {
        tell(stream, found);
    }
    if count > LINES_MAX {
        say!("and {} more", count - LINES_MAX);
    }
    if verdict.is_sound() {
        say!("{} is sound", dir.display());
        Ok(())
    } else {
        Err(Failure::DidNotHold)
    }
}

fn tell(stream: Option<&str>, found: &Finding) {
    let mark = match found.severity {
        Severity::Note => "note",
        Severity::Damage | Severity::Fatal => "BAD ",
    };
    let stream = stream
        .map(|stream| format!("stream {stream}: "))
        .unwrap_or_default();
    let offset = found
        .offset
        .map(|at| format!(" at byte {at}"))
        .unwrap_or_default();
    let range = found.range.map_or_else(String::new, |range| {
        if range.first == range.last {
            format!(", sequence {}", range.first)
        } else {
            format!(", sequences {} to {}", range.first, range.last)
        }
    });
    say!(
        "{mark}  {stream}{}{offset}{range}: {}",
        found.file.display(),
        found.what
    );
    say!("      {}", found.next);
}

/// One line about the store in `dir` for `tarn doctor`: good or bad.
pub(super) fn summary(dir: &Path) -> Result<String, String> {
    let verdict = match look(dir) {
        Ok(verdict) => verdict,
        Err(StoreError::NoStore { .. }) => return Ok("none yet; `tarn serve` makes it".to_owned()),
        Err(error) => return Err(explain(&error)),
    };
    let records: u64 = verdict.streams.iter().map(|stream| stream.records).sum();
    if verdict.is_sound() {
        return Ok(format!(
            "{} streams, {} records, all of them whole",
            verdict.streams.len(),
            thousands(records)
        ));
    }
    Err(worst(&verdict, dir))
}

fn worst(verdict: &StoreVerdict, dir: &Path) -> String {
    let bad: Vec<&Finding> = verdict
        .findings()
        .filter(|found| found.severity > Severity::Note)
        .collect();
    let first = bad.iter().max_by_key(|found| found.severity);
    let first = first.map_or_else(String::new, |found| {
        format!("{}: {}", found.file.display(), found.what)
    });
    format!(
        "{first}; {} findings in all, each named by `tarn broker --verify-store -sd {}`",
        bad.len(),
        dir.display()
    )
}

fn explain(error: &StoreError) -> String {
    match error {
        StoreError::Locked { path } => format!(
            "a running broker has {}: stop it first, or look at a copy of the directory",
            path.display()
        ),
        error => error.to_string(),
    }
}

fn look(dir: &Path) -> Result<StoreVerdict, StoreError> {
    let bar = std::io::stdout().is_terminal().then(|| {
        let style = ProgressStyle::with_template("reading [{bar:40}] {bytes} of {total_bytes}").ok();
        let bar = ProgressBar::new(0);
        bar.set_style(
            style
                .unwrap_or_else(ProgressStyle::default_bar)
                .progress_chars("=> "),
        );
        bar
    });
    let mut next = LINE_PERCENT;
    let mut tell = |progress: VerifyProgress| match &bar {
        Some(bar) => {
            bar.set_length(progress.bytes_total);
            bar.set_position(progress.bytes);
        }
        None => {
            let percent = progress.bytes.saturating_mul(100) / progress.bytes_total.max(1);
            if percent >= next && progress.bytes_total > 1 << 30 {
                say!("read {percent} % of {} MiB", progress.bytes_total >> 20);
                next = percent + LINE_PERCENT;
            }
        }
    };
    let verdict = verify(&RealFs, dir, &mut tell);
    if let Some(bar) = bar {
        bar.finish_and_clear();
    }
    verdict
}
