//! Measurements of one kind, and how they are shown.

use std::fmt;

/// What Tarn's median must be in relation to that of a peer.
#[derive(Clone, Copy)]
pub(crate) enum Goal {
    AtLeast(f64),
    AtMost(f64),
}

#[derive(Clone, Copy)]
pub(crate) enum Unit {
    PerSecond,
    Micros,
    Millis,
    Mebibytes,
}

/// One thing measured on several servers. The first series is Tarn's.
pub(crate) struct Table {
    title: String,
    unit: Unit,
    series: Vec<Series>,
}

struct Series {
    name: &'static str,
    goal: Option<Goal>,
    values: Vec<f64>,
}

impl Table {
    pub(crate) fn new(title: impl Into<String>, unit: Unit) -> Self {
        Self {
            title: title.into(),
            unit,
            series: Vec::new(),
        }
    }

    /// Notes a measurement of the server called `name`.
    pub(crate) fn add(&mut self, name: &'static str, goal: Option<Goal>, value: f64) {
        eprintln!("  {:<44} {name:<24} {}", self.title, self.unit.show(value));
        match self.series.iter_mut().find(|series| series.name == name) {
            Some(series) => series.values.push(value),
            None => self.series.push(Series {
                name,
                goal,
                values: vec![value],
            }),
        }
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.title)?;
        let own = self.series.first().map_or(f64::NAN, Series::median);
        for (at, series) in self.series.iter().enumerate() {
            let median = series.median();
            let low = series.values.iter().copied().fold(f64::INFINITY, f64::min);
            let high = series.values.iter().copied().fold(0.0, f64::max);
            let spread = format!(
                "{} ({} to {})",
                self.unit.show(median),
                self.unit.show(low),
                self.unit.show(high)
            );
            write!(f, "  {:<24} {spread:<34}", series.name)?;
            if at > 0 {
                write!(f, " Tarn ÷ it {}", significant(own / median))?;
            }
            match series.goal {
                Some(Goal::AtLeast(goal)) => write!(f, ", at least {goal}: {}", word(own / median >= goal))?,
                Some(Goal::AtMost(goal)) => write!(f, ", at most {goal}: {}", word(own / median <= goal))?,
                None => {}
            }
            writeln!(f)?;
        }
        Ok(())
    }
}

fn word(reached: bool) -> &'static str {
    if reached { "reached" } else { "MISSED" }
}

impl Series {
    fn median(&self) -> f64 {
        median(&self.values)
    }
}

/// The middle of `values`; of two in the middle, their mean. Not a number if there are none.
pub(crate) fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => f64::NAN,
        len if len % 2 == 1 => sorted[len / 2],
        len => f64::midpoint(sorted[len / 2 - 1], sorted[len / 2]),
    }
}

impl Unit {
    fn show(self, value: f64) -> String {
        match self {
            Self::PerSecond if value >= 999_500.0 => format!("{}M/s", significant(value / 1e6)),
            Self::PerSecond if value >= 1_000.0 => format!("{}k/s", significant(value / 1e3)),
            Self::PerSecond => format!("{}/s", significant(value)),
            Self::Micros => format!("{} µs", significant(value)),
            Self::Millis => format!("{} ms", significant(value)),
            Self::Mebibytes => format!("{} MiB", significant(value)),
        }
    }
}

fn significant(value: f64) -> String {
    let decimals = match value {
        value if value >= 99.5 => 0,
        value if value >= 9.95 => 1,
        _ => 2,
    };
    format!("{value:.decimals$}")
}
