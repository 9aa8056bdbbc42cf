//! Which file of a window table holds which rows, and where the rows of a batch go. No IO here.
//!
//! Each row of the table is in exactly one file. A day has at most one *open* file, whose rows are held in memory; the
//! others are *closed* and known by their bounds only. A key belongs to the open file if its row is there, otherwise to
//! a closed file whose bounds cover it, otherwise to the open file as a new row. Closing takes the oldest windows out of
//! an open file that grew too large, so the bounds of closed files rarely overlap; where they do (after another writer
//! compacted them, say), the files are looked into before a row is added.

use std::collections::BTreeMap;

use tarn_schemas::UnixMicros;

use super::{Aggregate, Key, Rows, WindowDelta};

/// Open days that are held in memory at most, beside those of the batch under way.
const OPEN_DAYS_MAX: usize = 16;

/// A closed file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ClosedFile {
    pub(crate) location: String,
    pub(crate) rows: u64,
    /// The first and the last window's start; `None` where the table doesn't say.
    pub(crate) starts: Option<(UnixMicros, UnixMicros)>,
    /// The least and the greatest device; `None` where the table doesn't say.
    pub(crate) devices: Option<(Box<str>, Box<str>)>,
}

impl ClosedFile {
    /// A file of these rows.
    pub(crate) fn of(location: String, rows: &[(Key, Aggregate)]) -> Self {
        let starts = rows.iter().map(|(key, _)| key.start);
        let devices = || rows.iter().map(|(key, _)| &*key.series.device_id);
        Self {
            location,
            rows: rows.len() as u64,
            starts: starts.clone().min().zip(starts.max()),
            devices: devices()
                .min()
                .zip(devices().max())
                .map(|(low, high)| (low.into(), high.into())),
        }
    }

    fn covers(&self, key: &Key) -> bool {
        self.starts
            .is_none_or(|(low, high)| (low..=high).contains(&key.start))
            && self.devices.as_ref().is_none_or(|(low, high)| {
                let device = &*key.series.device_id;
                **low <= *device && *device <= **high
            })
    }

    fn last_start(&self) -> UnixMicros {
        self.starts.map_or(UnixMicros(i64::MAX), |(_, high)| high)
    }
}

/// The file of a day that takes new rows.
#[derive(Clone, Debug, Default)]
pub(crate) struct OpenFile {
    /// Where the rows are in the table; `None` before they are in it.
    pub(crate) location: Option<String>,
    pub(crate) rows: Rows,
    touched: u64,
}

#[derive(Clone, Debug, Default)]
struct Day {
    open: Option<OpenFile>,
    closed: Vec<ClosedFile>,
}

impl Day {
    /// The latest start in any closed file: newer keys can't be in one.
    fn closed_until(&self) -> Option<UnixMicros> {
        self.closed.iter().map(ClosedFile::last_start).max()
    }
}

/// Sizes that bound memory and the cost of a correction.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Rows of a closed file when it is written first. A file corrected to twice this is split.
    pub(crate) file_rows_max: usize,
    /// Rows of all open files together.
    pub(crate) open_rows_max: usize,
}

/// The files of one window table.
#[derive(Clone, Debug)]
pub(crate) struct WindowState {
    limits: Limits,
    days: BTreeMap<i32, Day>,
    commits: u64,
}

/// Rows of a delta that go to closed files.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Corrections {
    /// By day and location of the one file that covers them.
    pub(crate) certain: BTreeMap<(i32, String), Vec<(Key, Aggregate)>>,
    /// Rows that several files cover, with the locations.
    pub(crate) ambiguous: Vec<(Key, Aggregate, Vec<String>)>,
}

/// What becomes of the open file of one day.
#[derive(Debug, PartialEq)]
pub(crate) struct Rewrite {
    pub(crate) day: i32,
    /// The location that the written rows were at, if any.
    pub(crate) replaced: Option<String>,
    /// Rows for new closed files, one file each.
    pub(crate) close: Vec<Vec<(Key, Aggregate)>>,
    /// Rows of the open file's next version; none: the day has no open file any more.
    pub(crate) keep: Vec<(Key, Aggregate)>,
}

impl WindowState {
    /// Of a table that has these files, by day. Nothing is open.
    pub(crate) fn new(limits: Limits, files: impl IntoIterator<Item = (i32, ClosedFile)>) -> Self {
        let mut days: BTreeMap<i32, Day> = BTreeMap::new();
        for (day, file) in files {
            days.entry(day).or_default().closed.push(file);
        }
        Self {
            limits,
            days,
            commits: 0,
        }
    }

    /// For each day of the delta that has no open file, the closed one that should be opened: the latest of the day,
    /// if it isn't full. So small files don't multiply, and the windows that are being filled are in memory.
    pub(crate) fn to_open(&self, delta: &WindowDelta) -> BTreeMap<i32, String> {
        let mut found = BTreeMap::new();
        for day in delta.rows().keys().map(Key::day) {
            let Some(files) = self.days.get(&day) else {
                continue;
            };
            if files.open.is_some() || found.contains_key(&day) {
                continue;
            }
            let latest = files.closed.iter().max_by_key(|file| file.last_start());
            let room = self.limits.open_rows_max.min(self.limits.file_rows_max) as u64;
            if let Some(file) = latest.filter(|file| file.rows < room) {
                found.insert(day, file.location.clone());
            }
        }
        found
    }

    /// The closed file at `location` becomes the open one of its day.
    pub(crate) fn open(&mut self, day: i32, location: String, rows: Rows) {
        let files = self.days.entry(day).or_default();
        files.closed.retain(|file| file.location != location);
        files.open = Some(OpenFile {
            location: Some(location),
            rows,
            touched: self.commits,
        });
    }

    /// Adds the delta's rows to open files and returns those for closed ones. Together with [`Self::rewrites`] and
    /// [`Self::replace`] it must be done once for each delta.
    pub(crate) fn apply(&mut self, delta: &WindowDelta) -> Corrections {
        self.commits += 1;
        let mut corrections = Corrections::default();
        let mut until: Option<(i32, Option<UnixMicros>)> = None;
        for (key, aggregate) in delta.rows() {
            let day = key.day();
            let files = self.days.entry(day).or_default();
            if let Some(open) = &mut files.open
                && let Some(row) = open.rows.get_mut(key)
            {
                row.merge(aggregate);
                open.touched = self.commits;
                continue;
            }
            let closed_until = match until {
                Some((of, until)) if of == day => until,
                _ => files.closed_until(),
            };
            until = Some((day, closed_until));
            if closed_until.is_some_and(|last| key.start <= last) {
                let covering: Vec<&ClosedFile> =
                    files.closed.iter().filter(|file| file.covers(key)).collect();
                let row = (key.clone(), aggregate.clone());
                match covering.as_slice() {
                    [] => {}
                    [file] => {
                        corrections
                            .certain
                            .entry((day, file.location.clone()))
                            .or_default()
                            .push(row);
                        continue;
                    }
                    several => {
                        let locations = several.iter().map(|file| file.location.clone()).collect();
                        corrections.ambiguous.push((row.0, row.1, locations));
                        continue;
                    }
                }
            }
            let open = files.open.get_or_insert_default();
            open.rows.insert(key.clone(), aggregate.clone());
            open.touched = self.commits;
        }
        corrections
    }

    /// What is to be written for the open files that the last [`Self::apply`] touched. Rows that are closed leave the
    /// memory with this.
    pub(crate) fn rewrites(&mut self) -> Vec<Rewrite> {
        let mut rewrites = Vec::new();
        for (day, files) in &mut self.days {
            let Some(open) = files.open.as_mut().filter(|open| open.touched == self.commits) else {
                continue;
            };
            let close = take_oldest(&mut open.rows, self.limits);
            let mut keep: Vec<_> = open
                .rows
                .iter()
                .map(|(key, row)| (key.clone(), row.clone()))
                .collect();
            sort_rows(&mut keep);
            rewrites.push(Rewrite {
                day: *day,
                replaced: open.location.take(),
                close,
                keep,
            });
            if open.rows.is_empty() {
                files.open = None;
            }
        }
        rewrites
    }

    /// The open file of `day` is at `location` now.
    pub(crate) fn opened_at(&mut self, day: i32, location: String) {
        if let Some(open) = self.days.get_mut(&day).and_then(|files| files.open.as_mut()) {
            open.location = Some(location);
        }
    }

    /// Closed files of `day`: `removed`, if there, makes room for `added`.
    pub(crate) fn replace(&mut self, day: i32, removed: Option<&str>, added: Vec<ClosedFile>) {
        let closed = &mut self.days.entry(day).or_default().closed;
        closed.retain(|file| Some(file.location.as_str()) != removed);
        closed.extend(added);
    }

    /// After a commit: open files that were not touched for the longest time leave the memory until it is in bounds.
    pub(crate) fn trim(&mut self) {
        while self.open_rows() > self.limits.open_rows_max || self.open_days() > OPEN_DAYS_MAX {
            let written = |open: &OpenFile| open.location.is_some();
            let opened = self
                .days
                .values_mut()
                .filter(|files| files.open.as_ref().is_some_and(written));
            let oldest = opened.min_by_key(|files| files.open.as_ref().map(|open| open.touched));
            let Some(files) = oldest else { return };
            if let Some(OpenFile {
                location: Some(location),
                rows,
                ..
            }) = files.open.take()
            {
                let rows: Vec<_> = rows.into_iter().collect();
                files.closed.push(ClosedFile::of(location, &rows));
            }
        }
    }

    /// Rows in memory.
    pub(crate) fn open_rows(&self) -> usize {
        self.days
            .values()
            .filter_map(|files| files.open.as_ref())
            .map(|open| open.rows.len())
            .sum()
    }

    fn open_days(&self) -> usize {
        self.days.values().filter(|files| files.open.is_some()).count()
    }

    /// Files of the table.
    pub(crate) fn file_count(&self) -> usize {
        self.days
            .values()
            .map(|files| files.closed.len() + usize::from(files.open.is_some()))
            .sum()
    }

    /// Splits the rows of a corrected file into files of a bounded size.
    pub(crate) fn split(&self, rows: Vec<(Key, Aggregate)>) -> Vec<Vec<(Key, Aggregate)>> {
        let most = self.limits.file_rows_max;
        if rows.len() <= 2 * most {
            vec![sorted(rows)]
        } else {
            chunks(rows, most)
        }
    }
}

/// Takes the oldest windows out of an open file that is too large, until half of the bound is left. The newest window
/// start stays whole, unless it alone is beyond the bound: then everything is closed.
fn take_oldest(rows: &mut Rows, limits: Limits) -> Vec<Vec<(Key, Aggregate)>> {
    if rows.len() <= limits.open_rows_max {
        return Vec::new();
    }
    let mut counts: BTreeMap<UnixMicros, usize> = BTreeMap::new();
    for key in rows.keys() {
        *counts.entry(key.start).or_default() += 1;
    }
    let newest = counts.pop_last();
    let newest_is_too_large = newest.is_some_and(|(_, count)| count > limits.open_rows_max);
    let mut left = rows.len();
    let mut close_until = None;
    for (start, count) in counts {
        if left <= limits.open_rows_max / 2 {
            break;
        }
        left -= count;
        close_until = Some(start);
    }
    if newest_is_too_large {
        close_until = newest.map(|(start, _)| start);
    }
    let close = |key: &Key| close_until.is_some_and(|until| key.start <= until);
    let taken: Vec<_> = rows.extract_if(|key, _| close(key)).collect();
    chunks(taken, limits.file_rows_max)
}

/// Files of at most `rows_max` rows, each a stretch of time (and of devices, where one window start fills several).
pub(super) fn chunks(mut rows: Vec<(Key, Aggregate)>, rows_max: usize) -> Vec<Vec<(Key, Aggregate)>> {
    rows.sort_unstable_by(|(a, _), (b, _)| (a.start, a.series.names()).cmp(&(b.start, b.series.names())));
    let mut files = Vec::with_capacity(rows.len().div_ceil(rows_max));
    let mut rows = rows.into_iter().peekable();
    while rows.peek().is_some() {
        files.push(sorted(rows.by_ref().take(rows_max).collect()));
    }
    files
}

fn sorted(mut rows: Vec<(Key, Aggregate)>) -> Vec<(Key, Aggregate)> {
    sort_rows(&mut rows);
    rows
}

/// The order of rows in a file: one series' history lies together.
fn sort_rows(rows: &mut [(Key, Aggregate)]) {
    rows.sort_unstable_by(|(a, _), (b, _)| (a.series.names(), a.start).cmp(&(b.series.names(), b.start)));
}

#[cfg(test)]
mod tests;
