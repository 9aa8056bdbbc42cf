//! The index files of full segments.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::super::StoreError;
use super::super::format::SegmentHeader;
use super::super::seal::{LookedAt, index_path};
use super::super::sealed::{BlockCache, SealedIndex};
use super::judge::newer;
use super::{Finding, REPAIRS_ITSELF, Severity};
use crate::env::Fs;

/// Memory for blocks that an index is asked for again and again.
const CACHE_BYTES: usize = 256 * 1024;
const MADE_ANEW: &str = "nothing to do: the broker makes it anew at its next start";

/// Reads the whole index of a segment, if it has one. What is wrong with it, if something is.
pub(super) fn finding<F: Fs>(fs: &F, header: &SegmentHeader, segment: &Path) -> Option<Finding> {
    let path = index_path(segment);
    let file = match fs.open_read(&path) {
        Ok(file) => file,
        Err(err) if err.kind() == ErrorKind::NotFound => return None,
        Err(err) => {
            return Some(damaged(
                path,
                format!("the index of the segment cannot be opened: {err}"),
            ));
        }
    };
    let cache = BlockCache::new(CACHE_BYTES);
    match SealedIndex::open(Box::new(LookedAt(file)), &cache, &path) {
        Err(StoreError::NewerVersion {
            file,
            found,
            supported,
        }) => Some(newer(file, found, supported)),
        Ok(Some(index)) if index.header.segment != *header => Some(Finding {
            severity: Severity::Note,
            file: path,
            offset: None,
            range: None,
            what: "the index is not that of this segment".to_owned(),
            next: MADE_ANEW,
        }),
        Ok(Some(index)) if is_whole(&index) => None,
        Ok(_) | Err(_) => Some(damaged(path, "the index of the segment is damaged".to_owned())),
    }
}

fn damaged(file: PathBuf, what: String) -> Finding {
    Finding {
        severity: Severity::Damage,
        file,
        offset: None,
        range: None,
        what,
        next: REPAIRS_ITSELF,
    }
}

/// Whether each part can be read.
fn is_whole(index: &SealedIndex) -> bool {
    index.for_entries(0, index.len(), |_, _| true);
    index.for_subjects("", |_, _, subject| index.for_places(subject, |_| {}));
    index.for_notes(|_, _, _, _| {}) && index.removals().is_some() && !index.is_broken()
}
