//! What an account shares, kept to be told of.

use std::sync::Arc;

use crate::options::{ExportOptions, SubjectMapping};

/// What an account shares.
#[derive(Debug, Default)]
pub(crate) struct Shown {
    pub(crate) exports: Vec<ExportOptions>,
    pub(crate) imports: Vec<ShownImport>,
    pub(crate) mappings: Vec<SubjectMapping>,
}

/// What an account has from another.
#[derive(Debug)]
pub(crate) struct ShownImport {
    /// The account that offers it.
    pub(crate) account: Arc<str>,
    pub(crate) is_service: bool,
    /// The subject there.
    pub(crate) remote: String,
    /// The subject here.
    pub(crate) local: String,
    /// The service is told who asks.
    pub(crate) share: bool,
}
