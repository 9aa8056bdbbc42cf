//! What a demo prints at its end.

use super::Outcome;
use crate::audit::WindowRow;
use crate::present::{plain_table, say, thousands, utc_us};

/// Prints the figures, a sample of the windows, and whether every promise held.
pub(super) fn print(outcome: &Outcome) {
    say!("\nRead back from the Iceberg tables");
    say!("{}", plain_table(&["", ""], 1, figures(outcome)));
    say!("\nreadings_1m, a sample");
    let header = [
        "window_start",
        "device",
        "sensor",
        "metric",
        "count",
        "min",
        "mean",
        "max",
        "stddev",
    ];
    say!(
        "{}",
        plain_table(&header, 4, outcome.lake.sample.iter().map(window).collect())
    );
    say!("");
    let problems = outcome.problems();
    if problems.is_empty() {
        say!(
            "Every acknowledged message is in the tables exactly once, and every window equals the GROUP BY."
        );
    }
    for problem in problems {
        say!("DOES NOT HOLD: {problem}");
    }
}

fn figures(outcome: &Outcome) -> Vec<Vec<String>> {
    let (lake, verdict, windows) = (&outcome.lake, &outcome.verdict, &outcome.windows);
    let row = |name: &str, value: String| vec![name.to_owned(), value];
    let mut rows = vec![
        row("acknowledged messages", thousands(verdict.acked)),
        row("rows in readings", thousands(lake.readings)),
        row("devices", thousands(lake.devices)),
        row("malformed messages sent", thousands(verdict.dead_expected)),
        row("dead letters", thousands(lake.dead_letters.values().sum())),
    ];
    let reasons = lake.dead_letters.iter();
    rows.extend(reasons.map(|(reason, count)| row(&format!("  {reason}"), thousands(*count))));
    let seconds = |ms: u64| format!("{:.2} s", ms as f64 / 1e3);
    let per_row = lake.file_bytes as f64 / lake.readings.max(1) as f64;
    rows.extend([
        row("lost", thousands(verdict.lost + verdict.dead_lost)),
        row("duplicated", thousands(verdict.doubled + verdict.dead_doubled)),
        row("publish → commit, p50", seconds(lake.publish_to_commit.p50_ms)),
        row("publish → commit, p99", seconds(lake.publish_to_commit.p99_ms)),
        row("bytes a row", format!("{per_row:.1}")),
        row(
            "windows equal to GROUP BY",
            thousands(windows.windows.saturating_sub(windows.differences)),
        ),
    ]);
    rows
}

fn window(row: &WindowRow) -> Vec<String> {
    let number = |value: Option<f64>| value.map_or("–".to_owned(), |value| format!("{value:.2}"));
    vec![
        utc_us(row.window_start),
        row.device_id.clone(),
        row.sensor.clone(),
        row.metric.clone(),
        row.count.to_string(),
        number(row.min),
        number(row.mean),
        number(row.max),
        number(row.stddev),
    ]
}

impl Outcome {
    /// What did not hold, in words; empty if everything did.
    pub fn problems(&self) -> Vec<String> {
        let verdict = &self.verdict;
        let mut found = Vec::new();
        let mut expect_none = |count: u64, what: &str| {
            if count > 0 {
                found.push(format!("{} {what}", thousands(count)));
            }
        };
        expect_none(verdict.lost, "acknowledged readings are not in the tables");
        expect_none(verdict.doubled, "readings are there more than once");
        expect_none(verdict.wrong, "readings have another value than was sent");
        expect_none(verdict.unknown_rows, "readings were never sent");
        expect_none(verdict.torn, "messages are stored in part");
        expect_none(
            verdict.dead_lost,
            "malformed messages are not among the dead letters",
        );
        expect_none(verdict.dead_doubled, "dead letters are there more than once");
        expect_none(verdict.unknown_dead, "good messages are among the dead letters");
        expect_none(
            self.windows.differences,
            "rows of readings_1m differ from the GROUP BY",
        );
        if verdict.acked == 0 {
            found.push("nothing was acknowledged".to_owned());
        }
        found.extend(verdict.examples.iter().cloned());
        found.extend(
            self.windows
                .examples
                .iter()
                .map(|example| format!("{}: {}", example.window, example.what)),
        );
        found
    }
}

/// Prints how Trino, DuckDB and PyIceberg are connected. `how`: what keeps the catalog there.
pub(super) fn connect(catalog: &str, how: &str) {
    say!(
        "
Connect (the catalog is {catalog}{how})
  Trino      etc/catalog/lake.properties: connector.name=iceberg, iceberg.catalog.type=rest, fs.hadoop.enabled=true,
             iceberg.rest-catalog.uri={catalog}; then SELECT * FROM lake.iot.readings_1m
  DuckDB     LOAD iceberg; ATTACH 'lake' AS lake (TYPE iceberg, ENDPOINT '{catalog}', AUTHORIZATION_TYPE 'none');
             FROM lake.iot.readings
  PyIceberg  load_catalog('lake', type='rest', uri='{catalog}').load_table('iot.readings').scan().to_arrow()"
    );
}
