//! What a look inside a store found.

use std::path::PathBuf;

use super::super::state::SeqRange;

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Worth knowing; nothing is lost.
    Note,
    /// Something that was stored is damaged or gone.
    Damage,
    /// The broker does not start like this.
    Fatal,
}

/// One thing found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// In which file or directory.
    pub file: PathBuf,
    /// Where in it.
    pub offset: Option<u64>,
    /// Which positions of the stream it is about.
    pub range: Option<SeqRange>,
    /// What is the matter.
    pub what: String,
    /// What to do about it.
    pub next: &'static str,
}

/// What is in the directory of a stream.
#[derive(Clone, Debug, Default)]
pub struct StreamVerdict {
    /// The stream's name, or its directory's if that is all that is known.
    pub name: String,
    /// Segments.
    pub segments: u64,
    /// Records that are there and whole.
    pub records: u64,
    /// Highest position given.
    pub last_seq: u64,
    /// Consumers.
    pub consumers: u64,
    /// Positions whose record is lost.
    pub lost: Vec<SeqRange>,
    /// What was found.
    pub findings: Vec<Finding>,
}

/// What is in a store.
#[derive(Clone, Debug, Default)]
pub struct StoreVerdict {
    /// Each stream, in the order of directories.
    pub streams: Vec<StreamVerdict>,
    /// What was found outside of streams.
    pub findings: Vec<Finding>,
}

impl StoreVerdict {
    /// Everything found, streams last.
    pub fn findings(&self) -> impl Iterator<Item = &Finding> {
        let of_streams = self.streams.iter().flat_map(|stream| &stream.findings);
        self.findings.iter().chain(of_streams)
    }

    /// Whether nothing is damaged, lost or unusable.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        self.findings().all(|found| found.severity == Severity::Note)
    }
}
