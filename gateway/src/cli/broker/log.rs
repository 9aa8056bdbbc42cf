//! Log lines in nats-server's form, which tools wait for: `[pid] 2006/01/02 15:04:05.000000 [INF] text`.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use chrono::Local;
use tarn_broker::options::LogOptions;
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::{DefaultFields, FormatEvent, FormatFields, Writer};
use tracing_subscriber::fmt::{FmtContext, MakeWriter};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::reload;
use tracing_subscriber::util::SubscriberInitExt;

type Filter = reload::Handle<EnvFilter, tracing_subscriber::Registry>;

/// The process's log, which can be reopened and set anew.
#[derive(Clone)]
pub(super) struct Log {
    output: Output,
    form: Arc<Mutex<LogOptions>>,
    filter: Filter,
}

impl Log {
    /// Installs the log.
    pub(super) fn install(options: &LogOptions) -> Result<Log, String> {
        let output = Output::default();
        output.set(options)?;
        let form = Arc::new(Mutex::new(options.clone()));
        let (filter, handle) = reload::Layer::new(level(options));
        let lines = tracing_subscriber::fmt::layer()
            .event_format(Lines(Arc::clone(&form)))
            .with_ansi(false)
            .fmt_fields(DefaultFields::new())
            .with_writer(output.clone());
        tracing_subscriber::registry()
            .with(filter)
            .with(lines)
            .try_init()
            .map_err(|err| err.to_string())?;
        Ok(Log {
            output,
            form,
            filter: handle,
        })
    }

    /// Goes on as `options` say.
    pub(super) fn set(&self, options: &LogOptions) -> Result<(), String> {
        self.output.set(options)?;
        *lock(&self.form) = options.clone();
        self.filter.reload(level(options)).map_err(|err| err.to_string())
    }

    /// Opens the file anew, which may have been put aside.
    pub(super) fn reopen(&self) -> Result<(), String> {
        self.output.set(&lock(&self.form).clone())
    }
}

fn level(options: &LogOptions) -> EnvFilter {
    EnvFilter::new(match options {
        LogOptions { trace: true, .. } => "trace,hyper=info,mio=info",
        LogOptions { debug: true, .. } => "debug,hyper=info,mio=info",
        _ => "info",
    })
}

/// The form of a line.
struct Lines(Arc<Mutex<LogOptions>>);

impl<S, N> FormatEvent<S, N> for Lines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut line: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let label = match *event.metadata().level() {
            Level::ERROR if event.metadata().target() == FATAL => "FTL",
            Level::ERROR => "ERR",
            Level::WARN => "WRN",
            Level::INFO => "INF",
            Level::DEBUG => "DBG",
            Level::TRACE => "TRC",
        };
        let (with_time, in_utc) = {
            let form = lock(&self.0);
            (form.time, form.time_utc)
        };
        const TIME: &str = "%Y/%m/%d %H:%M:%S%.6f";
        let now = crate::clock::now();
        write!(line, "[{}] ", std::process::id())?;
        match (with_time, in_utc) {
            (false, _) => {}
            (true, true) => write!(line, "{} ", now.format(TIME))?,
            (true, false) => write!(line, "{} ", now.with_timezone(&Local).format(TIME))?,
        }
        write!(line, "[{label}] ")?;
        context.format_fields(line.by_ref(), event)?;
        writeln!(line)
    }
}

/// The target of events that end the process.
pub(super) const FATAL: &str = "tarn::fatal";

/// Standard error or a file.
#[derive(Clone, Default)]
struct Output(Arc<Mutex<Option<LogFile>>>);

struct LogFile {
    path: PathBuf,
    file: File,
    bytes: u64,
    bytes_max: u64,
    files_max: u64,
}

impl Output {
    fn set(&self, options: &LogOptions) -> Result<(), String> {
        let file = match &options.file {
            Some(path) => Some(LogFile::open(path, options)?),
            None => None,
        };
        *lock(&self.0) = file;
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Output {
    type Writer = OutputWriter<'a>;

    fn make_writer(&'a self) -> Self::Writer {
        OutputWriter(lock(&self.0))
    }
}

/// Writes one line.
struct OutputWriter<'a>(MutexGuard<'a, Option<LogFile>>);

impl Write for OutputWriter<'_> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        match self.0.as_mut() {
            Some(file) => file.write(line),
            None => io::stderr().write(line),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl LogFile {
    fn open(path: &Path, options: &LogOptions) -> Result<LogFile, String> {
        let opened = append(path).and_then(|file| Ok((file.metadata()?.len(), file)));
        let (bytes, file) =
            opened.map_err(|err| format!("log file {}: {err}; set another with -l", path.display()))?;
        Ok(LogFile {
            path: path.to_owned(),
            file,
            bytes,
            bytes_max: options.size_limit_bytes,
            files_max: options.files_max,
        })
    }

    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if self.bytes_max > 0 && self.bytes > 0 && self.bytes + line.len() as u64 > self.bytes_max {
            self.put_aside()?;
        }
        let count = self.file.write(line)?;
        self.bytes += count as u64;
        Ok(count)
    }

    /// Renames the file to one with the time in its name, as nats-server does, and begins a new one.
    fn put_aside(&mut self) -> io::Result<()> {
        let stamp = crate::clock::now()
            .with_timezone(&Local)
            .format("%Y.%m.%d.%H.%M.%S.%9f");
        let name = self
            .path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        std::fs::rename(&self.path, self.path.with_file_name(format!("{name}.{stamp}")))?;
        self.file = append(&self.path)?;
        self.bytes = 0;
        if self.files_max > 0 {
            self.remove_old(&name)?;
        }
        Ok(())
    }

    fn remove_old(&self, name: &str) -> io::Result<()> {
        let folder = self.path.parent().filter(|folder| !folder.as_os_str().is_empty());
        let mut old = Vec::new();
        for entry in std::fs::read_dir(folder.unwrap_or(Path::new(".")))? {
            let path = entry?.path();
            let held = path
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned();
            let stamp = held.strip_prefix(name).and_then(|rest| rest.strip_prefix('.'));
            if stamp.is_some_and(|stamp| stamp.bytes().all(|b| b.is_ascii_digit() || b == b'.')) {
                old.push(path);
            }
        }
        old.sort();
        let kept = usize::try_from(self.files_max)
            .unwrap_or(usize::MAX)
            .saturating_sub(1);
        for path in old.iter().rev().skip(kept) {
            std::fs::remove_file(path)?;
        }
        Ok(())
    }
}

fn append(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).open(path)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_too_large_is_put_aside_and_old_ones_go() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let path = dir.path().join("tarn.log");
        let options = LogOptions {
            size_limit_bytes: 10,
            files_max: 2,
            ..LogOptions::default()
        };
        let mut file = LogFile::open(&path, &options).expect("opened");
        for line in ["first\n", "second\n", "third\n"] {
            file.write(line.as_bytes()).expect("written");
        }
        assert_eq!(std::fs::read_to_string(&path).expect("read"), "third\n");
        assert_eq!(std::fs::read_dir(dir.path()).expect("read").count(), 2);
    }
}
