//! One segment: a file, or memory, that records are appended to.

use std::path::{Path, PathBuf};

use super::StoreError;
use super::format::SegmentHeader;
use super::handles::LazyFile;
use super::prepare::Spare;
use crate::env::{Fs, FsFile};

/// Suffix of segment files.
pub(super) const SUFFIX: &str = ".seg";

/// Where a segment's bytes are.
pub(super) enum Data<F: Fs> {
    File {
        file: F::File,
        path: PathBuf,
    },
    /// Complete and durable; opened when it is read.
    Sealed(LazyFile<F>),
    Memory(Vec<u8>),
}

/// A segment of a stream.
pub(super) struct Segment<F: Fs> {
    pub(super) id: u64,
    /// As in its header.
    pub(super) version: u32,
    /// Goes into the checksums of its frames.
    pub(super) seed: u32,
    /// Frames end here at the latest.
    pub(super) end: u64,
    pub(super) data: Data<F>,
    /// Whether it was handed over to be sealed.
    pub(super) is_handed_over: bool,
    /// Highest number of a segment that it stands for, as in its header.
    pub(super) through: u64,
    /// Bytes of its records when it was made by compaction, or that was in vain; `u64::MAX`: neither was.
    pub(super) tried_at: u64,
}

impl<F: Fs> Segment<F> {
    /// Where its file is, if it has one.
    pub(super) fn path(&self) -> Option<&Path> {
        match &self.data {
            Data::File { path, .. } => Some(path),
            Data::Sealed(file) => Some(file.path()),
            Data::Memory(_) => None,
        }
    }
}

/// Name of the file of segment `id`.
pub(super) fn file_name(id: u64) -> String {
    format!("{id:016x}{SUFFIX}")
}

/// The number in a segment's file name.
pub(super) fn id_of(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(SUFFIX).filter(|digits| digits.len() == 16)?;
    u64::from_str_radix(digits, 16).ok()
}

/// Makes a spare the segment `header` of the stream in `dir`. File and name are durable on return.
pub(super) fn create<F: Fs>(
    fs: &F,
    dir: &Path,
    spare: Spare<F>,
    header: &SegmentHeader,
) -> Result<Segment<F>, StoreError> {
    let path = dir.join(file_name(header.id));
    let written = spare
        .file
        .write_at(&header.encode(), 0)
        .and_then(|()| spare.file.sync_data());
    if let Err(err) = written {
        super::prepare::remove_quietly(fs, &spare.path);
        return Err(StoreError::io("write", &path, err));
    }
    if let Err(err) = fs.rename(&spare.path, &path) {
        super::prepare::remove_quietly(fs, &spare.path);
        return Err(StoreError::io("create", &path, err));
    }
    if let Err(err) = fs.sync_dir(dir) {
        super::prepare::remove_quietly(fs, &path);
        return Err(StoreError::io("sync", dir, err));
    }
    let data = Data::File {
        file: spare.file,
        path,
    };
    Ok(Segment {
        id: header.id,
        version: header.version,
        seed: header.salt,
        end: u64::from(spare.bytes),
        data,
        is_handed_over: false,
        through: header.through,
        tried_at: u64::MAX,
    })
}
