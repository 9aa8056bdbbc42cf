//! Open files of sealed segments and their indexes: as many as were used lately, not one for each.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::env::Fs;

/// Files kept open.
const OPEN_MAX: usize = 128;

/// The files that are open. Clones share them.
pub(super) struct Handles<F: Fs> {
    fs: F,
    inner: Arc<Mutex<Inner<F>>>,
}

struct Inner<F: Fs> {
    /// By the file's number: the file, and when it was used last.
    open: HashMap<u64, (Arc<F::File>, u64)>,
    uses: u64,
    files: u64,
}

impl<F: Fs> Clone for Handles<F> {
    fn clone(&self) -> Self {
        Self {
            fs: self.fs.clone(),
            inner: Arc::clone(&self.inner),
        }
    }
}

impl<F: Fs> Handles<F> {
    pub(super) fn new(fs: &F) -> Self {
        let inner = Inner {
            open: HashMap::new(),
            uses: 0,
            files: 0,
        };
        Self {
            fs: fs.clone(),
            inner: Arc::new(Mutex::new(inner)),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner<F>> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A file that is opened when it is needed.
    pub(super) fn lazy(&self, path: PathBuf) -> LazyFile<F> {
        let mut inner = self.lock();
        inner.files += 1;
        LazyFile {
            number: inner.files,
            path,
            handles: self.clone(),
        }
    }
}

/// A file that is opened for reading when it is needed, also where nothing can be written any more. Dropping it closes it.
pub(super) struct LazyFile<F: Fs> {
    number: u64,
    path: PathBuf,
    handles: Handles<F>,
}

impl<F: Fs> LazyFile<F> {
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The open file.
    pub(super) fn open(&self) -> io::Result<Arc<F::File>> {
        let mut inner = self.handles.lock();
        inner.uses += 1;
        let now = inner.uses;
        if let Some((file, used)) = inner.open.get_mut(&self.number) {
            *used = now;
            return Ok(Arc::clone(file));
        }
        let file = Arc::new(self.handles.fs.open_read(&self.path)?);
        if inner.open.len() >= OPEN_MAX {
            let oldest = inner
                .open
                .iter()
                .min_by_key(|(_, (_, used))| *used)
                .map(|(number, _)| *number);
            oldest.and_then(|number| inner.open.remove(&number));
        }
        inner.open.insert(self.number, (Arc::clone(&file), now));
        Ok(file)
    }

    /// Closes the file if it is open: it was replaced.
    pub(super) fn close(&self) {
        self.handles.lock().open.remove(&self.number);
    }
}

impl<F: Fs> Drop for LazyFile<F> {
    fn drop(&mut self) {
        self.close();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::env::FsFile;
    use crate::env::sim::SimFs;

    #[test]
    fn few_files_are_open_however_many_are_used() {
        let fs = SimFs::new(1);
        let handles = Handles::new(&fs);
        let files: Vec<_> = (0..3 * OPEN_MAX as u64)
            .map(|number| {
                let path = PathBuf::from(format!("/{number}"));
                fs.create(&path)
                    .unwrap()
                    .write_at(&number.to_le_bytes(), 0)
                    .unwrap();
                handles.lazy(path)
            })
            .collect();
        for (number, file) in files.iter().enumerate().chain(files.iter().enumerate()) {
            let mut buf = [0; 8];
            file.open().unwrap().read_at(&mut buf, 0).unwrap();
            assert_eq!(u64::from_le_bytes(buf), number as u64);
            assert!(handles.lock().open.len() <= OPEN_MAX);
        }
        drop(files);
        assert!(handles.lock().open.is_empty());
    }
}
