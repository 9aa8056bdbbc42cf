//! Sealing segments: once one is full and durable, its index is made from its file and put beside it, by a thread of
//! its own where the file system allows that.

mod sealer;

use std::path::{Path, PathBuf};
use std::time::Duration;

use self::sealer::Behind;
pub(super) use self::sealer::{Done, Job, Sealer};
use super::format::SegmentHeader;
use super::handles::{Handles, LazyFile};
use super::prepare::remove_quietly;
use super::scan::{Gap, scan_file};
use super::sealed::{BlockCache, Builder, SealedIndex, Source};
use super::segment::{Data, Segment};
use super::state::Notes;
use super::stream::{Shared, Stream};
use super::{Store, StoreError};
use crate::env::{Fs, FsFile};
use crate::types::StreamId;

/// How long a round of work waits once half as much waits to be sealed as may.
const HOLD: Duration = Duration::from_millis(10);
/// Memory for an index that is looked at once.
const LOOK_CACHE_BYTES: usize = 1024 * 1024;
/// Ending of index files.
pub(super) const SUFFIX: &str = ".idx";
/// Ending of index files that are not complete.
pub(super) const NEW_SUFFIX: &str = ".idx.new";

/// Where the index of the segment at `segment` is.
pub(super) fn index_path(segment: &Path) -> PathBuf {
    segment.with_extension("idx")
}

/// What is needed to make indexes.
pub(super) struct Sealing<F: Fs> {
    pub(super) fs: F,
    pub(super) cache: BlockCache,
    pub(super) handles: Handles<F>,
    pub(super) notes: Notes,
}

impl<F: Fs> Clone for Sealing<F> {
    fn clone(&self) -> Self {
        Self {
            fs: self.fs.clone(),
            cache: self.cache.clone(),
            handles: self.handles.clone(),
            notes: self.notes,
        }
    }
}

impl<F: Fs> Sealing<F> {
    /// The index of a sealed segment, from its file, or made anew. An index of a segment that could not be read as a
    /// whole is not written: later it may be.
    ///
    /// # Errors
    /// `NewerVersion`; `Io` if the segment cannot be opened.
    pub(super) fn open(
        &self,
        header: SegmentHeader,
        segment: &Path,
        len: u64,
        use_file: bool,
    ) -> Result<Opened, StoreError> {
        let path = index_path(segment);
        if use_file && let Some(index) = SealedIndex::open(self.source(header, segment), &self.cache, &path)?
        {
            let found = &index.header;
            if found.segment == header
                && found.segment_bytes == len
                && found.notes_version == self.notes.version
            {
                return Ok(Opened {
                    index: Some(index),
                    gaps: None,
                });
            }
        }
        self.make(header, segment, 0)
    }

    /// The index of a sealed segment, made anew from its file. About `subjects` subjects are expected.
    fn make(&self, header: SegmentHeader, segment: &Path, subjects: usize) -> Result<Opened, StoreError> {
        let path = index_path(segment);
        let (builder, is_whole) = self
            .scan(header, segment, subjects)
            .map_err(|err| StoreError::io("open", segment, err))?;
        let gaps = Some(builder.gaps().to_vec());
        if builder.is_empty() {
            return Ok(Opened { index: None, gaps });
        }
        let bytes = builder.finish();
        if is_whole {
            match write_index(&self.fs, &path, &bytes) {
                Ok(()) => {
                    let source = self.source(header, segment);
                    if let Some(index) = SealedIndex::open(source, &self.cache, &path)? {
                        return Ok(Opened {
                            index: Some(index),
                            gaps,
                        });
                    }
                }
                Err(err) => {
                    tracing::warn!(path = %path.display(), error = %err, "cannot write the index of a segment");
                }
            }
        }
        let index = SealedIndex::in_memory(self.source(header, segment), &self.cache, bytes, &path)?;
        Ok(Opened { index, gaps })
    }

    fn source(&self, header: SegmentHeader, segment: &Path) -> Box<dyn Source> {
        Box::new(IndexFile {
            sealing: self.clone(),
            file: self.handles.lazy(index_path(segment)),
            segment: segment.to_owned(),
            header,
        })
    }

    /// All frames of a segment, of which about `subjects` subjects are expected, and whether all of it could be read.
    pub(super) fn scan(
        &self,
        header: SegmentHeader,
        segment: &Path,
        subjects: usize,
    ) -> std::io::Result<(Builder, bool)> {
        let file = self.fs.open_read(segment)?;
        let len = file.len()?;
        let mut builder = Builder::new(header, len, self.notes);
        builder.expect_subjects(subjects);
        let is_whole = scan_file(&file, len, &header, |offset, frame| builder.push(offset, frame));
        Ok((builder, is_whole))
    }
}

impl<F: Fs> Sealing<F> {
    /// The index of a segment that replaces another one, from its file or from `bytes`.
    ///
    /// # Errors
    /// `NewerVersion`.
    pub(super) fn adopt(
        &self,
        header: SegmentHeader,
        segment: &Path,
        bytes: Option<Vec<u8>>,
    ) -> Result<Option<SealedIndex>, StoreError> {
        let path = index_path(segment);
        let source = self.source(header, segment);
        match bytes {
            Some(bytes) => SealedIndex::in_memory(source, &self.cache, bytes, &path),
            None => SealedIndex::open(source, &self.cache, &path),
        }
    }

    /// The index in the file beside a segment, to be looked at for a moment and left as it is. `None`: it is not usable.
    pub(super) fn look(&self, header: SegmentHeader, segment: &Path) -> Option<SealedIndex> {
        let path = index_path(segment);
        let file = self.fs.open_read(&path).ok()?;
        // What is read once must not push out what is read often.
        let cache = BlockCache::new(LOOK_CACHE_BYTES);
        let index = SealedIndex::open(Box::new(LookedAt(file)), &cache, &path).ok()??;
        (index.header.segment == header).then_some(index)
    }
}

/// An index file that is only looked at.
pub(super) struct LookedAt<R: FsFile>(pub(super) R);

impl<R: FsFile> Source for LookedAt<R> {
    fn read(&self, buf: &mut [u8], offset: u64) -> std::io::Result<usize> {
        self.0.read_at(buf, offset)
    }

    fn rebuild(&self) -> Option<Vec<u8>> {
        None
    }

    fn replace(&self, _bytes: &[u8]) -> bool {
        false
    }

    fn discard(&self) {}
}

/// The index of a segment.
pub(super) struct Opened {
    /// `None`: the segment has no good frame.
    pub(super) index: Option<SealedIndex>,
    /// If the index was made anew: the damage that was passed over.
    pub(super) gaps: Option<Vec<Gap>>,
}

/// An index file and the segment it is made from.
struct IndexFile<F: Fs> {
    sealing: Sealing<F>,
    file: LazyFile<F>,
    segment: PathBuf,
    header: SegmentHeader,
}

impl<F: Fs> Source for IndexFile<F> {
    fn read(&self, buf: &mut [u8], offset: u64) -> std::io::Result<usize> {
        self.file.open()?.read_at(buf, offset)
    }

    fn rebuild(&self) -> Option<Vec<u8>> {
        let (builder, _) = self.sealing.scan(self.header, &self.segment, 0).ok()?;
        Some(builder.finish())
    }

    fn replace(&self, bytes: &[u8]) -> bool {
        self.file.close();
        write_index(&self.sealing.fs, self.file.path(), bytes).is_ok()
    }

    fn discard(&self) {
        tracing::error!(
            segment = self.header.id,
            "a segment and its index are both damaged: the stream has to be opened anew"
        );
        self.file.close();
        remove_quietly(&self.sealing.fs, self.file.path());
    }
}

/// Puts an index in place. It is synced, so that a power cut seldom costs the work; nothing depends on that.
fn write_index<F: Fs>(fs: &F, path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let new = path.with_extension("idx.new");
    remove_quietly(fs, &new);
    let written = fs.create(&new).and_then(|file| {
        file.write_at(bytes, 0)?;
        file.sync_data()
    });
    let written = written.and_then(|()| fs.rename(&new, path));
    if written.is_err() {
        remove_quietly(fs, &new);
    }
    written
}

impl<F: Fs> Store<F> {
    /// Takes over what was sealed in the background since.
    pub(super) fn take_sealed(&mut self) {
        while let Some(done) = self.shared.sealer.take_done() {
            self.take_one_sealed(done);
        }
    }

    /// Lets whoever writes wait while segments fill faster than they are sealed: a little as long as half of what memory
    /// may have is reached, and then until it has less.
    pub(super) fn hold_back(&mut self) {
        let is_written = |id: &StreamId| self.streams.get(id).is_some_and(Stream::has_frames);
        if self.shared.sealer.behind() == Behind::No || !self.queue.iter().any(is_written) {
            return;
        }
        self.held_back += 1;
        if let Some(done) = self.shared.sealer.wait(Some(HOLD)) {
            self.take_one_sealed(done);
        }
        while self.shared.sealer.behind() == Behind::TooFar
            && let Some(done) = self.shared.sealer.wait(None)
        {
            self.take_one_sealed(done);
        }
    }

    fn take_one_sealed(&mut self, done: Done) {
        let Some(stream) = self.streams.get_mut(&done.job.stream) else {
            remove_quietly(&self.shared.fs, &index_path(&done.job.path));
            return;
        };
        stream.take_sealed(&self.shared.sealer.sealing.handles, done);
        // Those that found no room; where something is not written yet, the commit does it.
        if stream.log.as_ref().is_some_and(|log| log.full.is_empty()) {
            stream.hand_over_full(&mut self.shared);
        }
    }
}

impl<F: Fs> Stream<F> {
    /// Whether frames wait to be written.
    fn has_frames(&self) -> bool {
        let log = self.log.as_ref();
        log.is_some_and(|log| !log.buf.is_empty() || !log.full.is_empty())
    }

    /// Hands segments that are full, and durable by now, over to be sealed.
    pub(super) fn hand_over_full(&mut self, shared: &mut Shared<F>) {
        let Some(incarnation) = self.log.as_ref().map(|log| log.incarnation) else {
            return;
        };
        let full = self.segments.len().saturating_sub(1);
        for at in self.sealed..full {
            let segment = &mut self.segments[at];
            let Data::File { path, .. } = &segment.data else {
                continue;
            };
            if segment.is_handed_over || !shared.sealer.has_room() {
                continue;
            }
            segment.is_handed_over = true;
            let job = Job {
                stream: self.id,
                header: SegmentHeader {
                    version: segment.version,
                    id: segment.id,
                    base_seq: self.index.segments[at].base,
                    incarnation,
                    salt: segment.seed,
                    through: segment.through,
                },
                path: path.clone(),
                records: self.index.segments[at].len(),
                subjects: self.index.segments[at].subjects_in_memory(),
            };
            if let Some(done) = shared.sealer.seal(job) {
                self.take_sealed(&shared.sealer.sealing.handles, done);
            }
        }
    }

    /// Puts the index of a sealed segment in place of what memory has. A segment that could not be sealed stays in
    /// memory until the next start.
    pub(super) fn take_sealed(&mut self, handles: &Handles<F>, done: Done) {
        let Done { job, index } = done;
        let found = self
            .segments
            .iter()
            .position(|segment| segment.id == job.header.id);
        let (Some(at), Ok(Some(index))) = (found, index) else {
            return;
        };
        if !self.index.seal(at, index) {
            tracing::warn!(stream = %self.meta.name, segment = job.header.id,
                "a full segment has not what was written to it: its index stays in memory");
            return;
        }
        self.segments[at].data = Data::Sealed(handles.lazy(job.path));
        self.census.is_stirred = true;
        let is_sealed = |segment: &Segment<F>| matches!(segment.data, Data::Sealed(_));
        while self.segments.get(self.sealed).is_some_and(is_sealed) {
            self.sealed += 1;
        }
    }

    /// Why nothing is written after a segment and its index were both found damaged.
    pub(super) fn broken(&self) -> StoreError {
        let file = self.log.as_ref().map_or_else(PathBuf::new, |log| log.dir.clone());
        let reason =
            "a segment and its index are both damaged; what can be read is found again at the next start";
        StoreError::Broken { file, reason }
    }
}
