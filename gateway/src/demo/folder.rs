//! Where a demo's data goes.

use std::fs;
use std::path::{Path, PathBuf};

use super::DemoError;

/// The demo's data directory; a temporary one is removed when this is dropped.
#[derive(Debug)]
pub(super) struct Folder {
    path: PathBuf,
    temporary: bool,
}

impl Folder {
    /// `wanted`, or a new directory of the system's temporary one, which is removed at the end unless `keep`.
    pub(super) fn prepare(wanted: Option<&Path>, keep: bool) -> Result<Folder, DemoError> {
        let (path, temporary) = match wanted {
            Some(path) => (path.to_owned(), false),
            None => (
                std::env::temp_dir().join(format!("tarn-demo-{}", std::process::id())),
                !keep,
            ),
        };
        if path.join("catalog.db").exists() {
            return Err(DemoError::NotEmpty(path));
        }
        fs::create_dir_all(&path).map_err(|source| DemoError::Folder {
            dir: path.clone(),
            source,
        })?;
        // Absolute, so that the printed lines work from anywhere.
        let path = fs::canonicalize(&path).map_err(|source| DemoError::Folder {
            dir: path.clone(),
            source,
        })?;
        Ok(Folder { path, temporary })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn is_temporary(&self) -> bool {
        self.temporary
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if self.temporary
            && let Err(error) = fs::remove_dir_all(&self.path)
        {
            tracing::warn!(%error, path = %self.path.display(), "the demo's data could not be removed");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_temporary_folder_goes_and_a_named_one_stays() {
        let root = tempfile::tempdir().expect("temporary directory");
        let named = root.path().join("named");
        drop(Folder::prepare(Some(&named), false).expect("made"));
        assert!(named.exists());
        let temporary = Folder::prepare(None, false).expect("made");
        let path = temporary.path().to_owned();
        assert!(path.exists());
        drop(temporary);
        assert!(!path.exists());
    }

    #[test]
    fn a_lake_that_is_there_is_refused() {
        let root = tempfile::tempdir().expect("temporary directory");
        fs::write(root.path().join("catalog.db"), b"x").expect("write");
        assert!(matches!(
            Folder::prepare(Some(root.path()), true),
            Err(DemoError::NotEmpty(_))
        ));
    }
}
