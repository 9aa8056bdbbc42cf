//! What a processor did and where it stands: counters, gauges and latencies, as one value that can be shown.

use std::sync::{Arc, Mutex, MutexGuard};

use hdrhistogram::Histogram;

use crate::watermark::StreamSeq;

/// Everything at one moment. Counters count since the processor started.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ProcessorStats {
    /// What the processor is doing.
    pub state: ProcessorState,
    /// Each stream that is read, in the order of the configuration.
    pub streams: Vec<StreamStats>,
    /// Each window table, in the order of the configuration.
    pub windows: Vec<WindowStats>,
    /// Messages whose rows are committed.
    pub messages: u64,
    /// Rows committed to `readings`.
    pub readings: u64,
    /// Rows committed to `dead_letters`.
    pub dead_letters: u64,
    /// Commits that succeeded.
    pub commits: u64,
    /// Attempts at a commit that failed, each of which is tried again.
    pub commit_failures: u64,
    /// Data files committed.
    pub files: u64,
    /// Bytes of the data files committed.
    pub file_bytes: u64,
    /// When the last commit became visible, in microseconds since 1970.
    pub last_commit_at: Option<i64>,
    /// Rows in memory that are not committed yet.
    pub buffered_rows: u64,
    /// Bytes of payload behind them.
    pub buffered_bytes: u64,
    /// Failed attempts at the commit that is under way.
    pub attempts_failed: u32,
    /// What went wrong last, while it does.
    pub last_error: Option<String>,
    /// How long commits took, from sealing the batch to being visible.
    pub commit_latency: LatencyStats,
    /// From a message's timestamp in the stream to being visible in the tables.
    pub publish_to_commit: LatencyStats,
}

/// What a processor is doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ProcessorState {
    /// Not reading yet.
    #[default]
    Starting,
    /// Reading and committing.
    Running,
    /// A commit failed; what it holds is kept and tried again.
    Retrying,
    /// Shut down in order.
    Stopped,
    /// Another writer owns the tables, or the lake says what can't be: nothing is read or written any more.
    Failed,
}

/// One stream.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StreamStats {
    /// Its name.
    pub name: String,
    /// The last message that is in the lake.
    pub watermark: StreamSeq,
    /// The last message that was taken, committed or not.
    pub delivered: StreamSeq,
    /// Messages in the stream behind the last one delivered, as the server said with it.
    pub pending: u64,
    /// Whether messages are being pulled.
    pub connected: bool,
    /// Times that the consumer was made anew, the first one included.
    pub sessions: u64,
    /// Sessions that ended because deliveries were missing.
    pub gaps: u64,
    /// Messages that came again and were passed over.
    pub redelivered: u64,
    /// Messages that the stream dropped (by its limits) before they could be read.
    pub expired: u64,
}

/// One window table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WindowStats {
    /// Its name.
    pub table: String,
    /// Rows in memory.
    pub open_rows: u64,
    /// Data files of the table.
    pub files: u64,
    /// Closed files written anew for a late reading.
    pub rewrites: u64,
}

/// A distribution of times in milliseconds, exact to 1 %.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LatencyStats {
    /// Values recorded.
    pub count: u64,
    /// Their sum in milliseconds.
    pub sum_ms: f64,
    /// Half are at most this.
    pub p50_ms: u64,
    /// 99 of 100 are at most this.
    pub p99_ms: u64,
    /// The largest.
    pub max_ms: u64,
    /// Counts of values at most each of [`LATENCY_BOUNDS_MS`], for a Prometheus histogram.
    pub buckets: Vec<u64>,
}

/// Upper bounds of [`LatencyStats::buckets`] in milliseconds.
pub const LATENCY_BOUNDS_MS: [u64; 14] = [
    10, 50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 15_000, 30_000, 60_000, 300_000, 3_600_000,
];

/// The longest time that is told apart, in milliseconds: 30 days. Longer ones count as this.
const LATENCY_MAX_MS: u64 = 30 * 86_400_000;

/// Records latencies of commits.
#[derive(Debug)]
pub(crate) struct Latencies {
    histogram: Histogram<u64>,
    sum_ms: f64,
    buckets: [u64; LATENCY_BOUNDS_MS.len()],
}

impl Latencies {
    fn new() -> Self {
        let histogram = Histogram::new_with_bounds(1, LATENCY_MAX_MS, 2).expect("the bounds are constants");
        Self {
            histogram,
            sum_ms: 0.0,
            buckets: [0; LATENCY_BOUNDS_MS.len()],
        }
    }

    /// Counts `count` values of `ms`.
    pub(crate) fn record(&mut self, ms: u64, count: u64) {
        let ms = ms.min(LATENCY_MAX_MS);
        self.histogram.saturating_record_n(ms, count);
        self.sum_ms += ms as f64 * count as f64;
        for (bucket, bound) in self.buckets.iter_mut().zip(LATENCY_BOUNDS_MS) {
            if ms <= bound {
                *bucket += count;
            }
        }
    }

    fn stats(&self) -> LatencyStats {
        LatencyStats {
            count: self.histogram.len(),
            sum_ms: self.sum_ms,
            p50_ms: self.histogram.value_at_quantile(0.5),
            p99_ms: self.histogram.value_at_quantile(0.99),
            max_ms: self.histogram.max(),
            buckets: self.buckets.to_vec(),
        }
    }
}

/// The one place where the pipeline writes its figures. Clones share them.
#[derive(Clone, Debug)]
pub(crate) struct Recorder(Arc<Mutex<Recorded>>);

/// Behind the lock.
#[derive(Debug)]
pub(crate) struct Recorded {
    /// All but the latencies.
    pub(crate) stats: ProcessorStats,
    /// See [`ProcessorStats::commit_latency`].
    pub(crate) commit_latency: Latencies,
    /// See [`ProcessorStats::publish_to_commit`].
    pub(crate) publish_to_commit: Latencies,
}

impl Recorded {
    /// The stream at `index` of the configuration.
    pub(crate) fn stream(&mut self, index: usize) -> &mut StreamStats {
        self.stats
            .streams
            .get_mut(index)
            .expect("stream indexes come from the configuration")
    }
}

impl Recorder {
    /// All zero, for these streams and window tables.
    pub(crate) fn new(streams: &[String], windows: &[String]) -> Self {
        let stream = |name: &String| StreamStats {
            name: name.clone(),
            ..StreamStats::default()
        };
        let window = |table: &String| WindowStats {
            table: table.clone(),
            ..WindowStats::default()
        };
        let stats = ProcessorStats {
            streams: streams.iter().map(stream).collect(),
            windows: windows.iter().map(window).collect(),
            ..ProcessorStats::default()
        };
        let (commit_latency, publish_to_commit) = (Latencies::new(), Latencies::new());
        Self(Arc::new(Mutex::new(Recorded {
            stats,
            commit_latency,
            publish_to_commit,
        })))
    }

    /// Write access. Never held across an await.
    pub(crate) fn lock(&self) -> MutexGuard<'_, Recorded> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// A copy of everything.
    pub(crate) fn snapshot(&self) -> ProcessorStats {
        let recorded = self.lock();
        let mut stats = recorded.stats.clone();
        stats.commit_latency = recorded.commit_latency.stats();
        stats.publish_to_commit = recorded.publish_to_commit.stats();
        stats
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn latencies_are_counted_in_cumulative_buckets_and_quantiles() {
        let mut latencies = Latencies::new();
        latencies.record(40, 99);
        latencies.record(20_000, 1);
        let stats = latencies.stats();
        assert_eq!((stats.count, stats.p50_ms, stats.p99_ms), (100, 40, 40));
        assert!((20_000..20_200).contains(&stats.max_ms), "{}", stats.max_ms);
        assert_eq!(stats.sum_ms, 99.0 * 40.0 + 20_000.0);
        assert_eq!(
            stats.buckets,
            [0, 99, 99, 99, 99, 99, 99, 99, 99, 99, 100, 100, 100, 100]
        );
    }

    #[test]
    fn a_latency_beyond_the_range_counts_as_the_longest() {
        let mut latencies = Latencies::new();
        latencies.record(u64::MAX, 1);
        assert_eq!(latencies.stats().count, 1);
        assert!(latencies.stats().max_ms >= LATENCY_MAX_MS);
    }

    #[test]
    fn clones_share_their_figures() {
        let recorder = Recorder::new(&["S".to_owned()], &[]);
        recorder.clone().lock().stream(0).pending = 7;
        assert_eq!(recorder.snapshot().streams[0].pending, 7);
    }
}
