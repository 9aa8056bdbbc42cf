//! Lines, numbers, times and tables as people read them.

use std::fmt::Arguments;
use std::io::Write;

use comfy_table::{CellAlignment, Table, presets};

/// Prints a line to standard output, as `println!` does, but goes on when nobody reads it any more (`tarn … | head`).
macro_rules! say {
    ($($argument:tt)*) => { $crate::present::line(format_args!($($argument)*)) };
}
pub(crate) use say;

/// See [`say!`].
pub(crate) fn line(text: Arguments<'_>) {
    // A reader that went away is no reason to stop what is being done.
    drop(writeln!(std::io::stdout(), "{text}"));
}

/// A plain table whose columns from `numbers_from` on are right-aligned.
pub(crate) fn plain_table(header: &[&str], numbers_from: usize, rows: Vec<Vec<String>>) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(header.to_vec());
    table.add_rows(rows);
    for column in table.column_iter_mut().skip(numbers_from) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

/// `1234567` as `1,234,567`.
pub(crate) fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// UTC text of a time in milliseconds since 1970.
pub(crate) fn utc_ms(ms: i64) -> String {
    match chrono::DateTime::from_timestamp_millis(ms) {
        Some(time) => time.format("%Y-%m-%d %H:%M:%S%.3fZ").to_string(),
        None => format!("{ms} ms"),
    }
}

/// UTC text of a time in microseconds since 1970.
pub(crate) fn utc_us(us: i64) -> String {
    match chrono::DateTime::from_timestamp_micros(us) {
        Some(time) => time.format("%Y-%m-%d %H:%M:%S%.3fZ").to_string(),
        None => format!("{us} µs"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thousands_are_grouped() {
        for (number, text) in [(0, "0"), (999, "999"), (1000, "1,000"), (1_234_567, "1,234,567")] {
            assert_eq!(thousands(number), text);
        }
    }

    #[test]
    fn times_are_utc() {
        assert_eq!(utc_us(1_752_575_400_000_000), "2025-07-15 10:30:00.000Z");
        assert_eq!(utc_ms(1_752_575_400_123), "2025-07-15 10:30:00.123Z");
    }
}
