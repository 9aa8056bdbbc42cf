//! What the operating system says about this process.

use serde_json::{Value, json};

use super::Monitor;

/// What the operating system says about this process. Zeros where it does not say.
#[derive(Debug, Default)]
pub(crate) struct Process {
    rss_bytes: u64,
    /// Mean over the life of the process, as `ps` gives it.
    cpu_percent: f64,
}

impl Process {
    pub(crate) async fn read(monitor: &Monitor) -> Self {
        const TICKS_PER_SEC: f64 = 100.0;
        let status = tokio::fs::read_to_string("/proc/self/status")
            .await
            .unwrap_or_default();
        let rss_kib = status.lines().find_map(|line| {
            line.strip_prefix("VmRSS:")?
                .split_whitespace()
                .next()?
                .parse()
                .ok()
        });
        let stat = tokio::fs::read_to_string("/proc/self/stat")
            .await
            .unwrap_or_default();
        // The name in parentheses may hold anything; utime and stime are the 12th and 13th fields behind it.
        let fields = stat.rsplit_once(')').map_or("", |(_, fields)| fields);
        let ticks: u64 = fields
            .split_whitespace()
            .skip(11)
            .take(2)
            .filter_map(|field| field.parse::<u64>().ok())
            .sum();
        let seconds = monitor.now().since(monitor.start) as f64 / 1e9;
        let cpu_percent = if seconds > 0.0 {
            ticks as f64 / TICKS_PER_SEC / seconds * 100.0
        } else {
            0.0
        };
        Self {
            rss_bytes: rss_kib.unwrap_or(0_u64) * 1024,
            cpu_percent,
        }
    }

    pub(crate) fn fields(&self) -> Value {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        json!({"mem": self.rss_bytes, "cpu": self.cpu_percent, "cores": cores, "gomaxprocs": cores})
    }
}
