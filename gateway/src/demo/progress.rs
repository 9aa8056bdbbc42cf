//! A bar on a terminal, a line every few seconds elsewhere.

use std::io::IsTerminal;
use std::sync::Mutex;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use tokio::time::Instant;

use crate::present::{say, thousands};

const LINE_EVERY: Duration = Duration::from_secs(5);

/// Shows how far something is.
pub(super) struct Progress {
    name: &'static str,
    bar: Option<ProgressBar>,
    began: Instant,
    whole: Duration,
    last_line: Mutex<Instant>,
}

impl Progress {
    /// For work that takes `whole`.
    pub(super) fn start(name: &'static str, whole: Duration) -> Progress {
        let bar = std::io::stdout().is_terminal().then(|| {
            let bar = ProgressBar::new(whole.as_millis().try_into().unwrap_or(u64::MAX));
            let style = ProgressStyle::with_template("{prefix} [{bar:40}] {msg}").ok();
            bar.set_style(
                style
                    .unwrap_or_else(ProgressStyle::default_bar)
                    .progress_chars("=> "),
            );
            bar.set_prefix(name);
            bar
        });
        Progress::with(name, whole, bar)
    }

    /// For work of unknown length.
    pub(super) fn spinner(name: &'static str) -> Progress {
        let bar = std::io::stdout().is_terminal().then(|| {
            let bar = ProgressBar::new_spinner();
            bar.set_message(name);
            bar.enable_steady_tick(Duration::from_millis(100));
            bar
        });
        if bar.is_none() {
            say!("{name}");
        }
        Progress::with(name, Duration::ZERO, bar)
    }

    fn with(name: &'static str, whole: Duration, bar: Option<ProgressBar>) -> Progress {
        let began = Instant::now();
        Progress {
            name,
            bar,
            began,
            whole,
            last_line: Mutex::new(began),
        }
    }

    /// `acked` messages were acknowledged to the fleet, `committed` of them are in the tables.
    pub(super) fn tell(&self, acked: u64, committed: u64) {
        let elapsed = self.began.elapsed().min(self.whole);
        let text = format!(
            "{} of {} s · {} acknowledged · {} in the tables",
            elapsed.as_secs(),
            self.whole.as_secs(),
            thousands(acked),
            thousands(committed)
        );
        match &self.bar {
            Some(bar) => {
                bar.set_position(elapsed.as_millis().try_into().unwrap_or(u64::MAX));
                bar.set_message(text);
            }
            None => {
                let mut last = self
                    .last_line
                    .lock()
                    .unwrap_or_else(std::sync::PoisonError::into_inner);
                if last.elapsed() >= LINE_EVERY {
                    *last = Instant::now();
                    say!("{}: {text}", self.name);
                }
            }
        }
    }

    /// Takes the bar off the screen.
    pub(super) fn finish(self) {
        if let Some(bar) = self.bar {
            bar.finish_and_clear();
        }
    }
}
