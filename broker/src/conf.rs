//! The language of `nats.conf`: text in, [`Options`](crate::options::Options) or errors with file, line and column out.
//!
//! `value` is what a file says, `lex` and `parse` read it, `settings` gives it meaning. Files and the environment are
//! reached through [`Sources`] only. Source: the configuration pages of nats-server's documentation; details as nats-server
//! 2.15 has them.

mod digest;
mod lex;
mod parse;
mod settings;
mod value;

use std::fmt;
use std::io;
use std::path::Path;
use std::sync::Arc;

pub use self::parse::parse;
pub use self::settings::{load, read};
pub use self::value::{Node, Table, Value};

/// What a configuration may refer to.
pub trait Sources {
    /// The text of a file; [`io::ErrorKind::FileTooLarge`] beyond [`FILE_BYTES_MAX`].
    fn file(&self, path: &Path) -> io::Result<String>;
    /// A variable of the environment.
    fn variable(&self, name: &str) -> Option<String>;
}

/// Bytes of one file at most.
pub const FILE_BYTES_MAX: usize = 16 << 20;
/// Maps and arrays within each other at most.
pub const DEPTH_MAX: usize = 64;
/// Files that include each other at most.
pub const INCLUDE_DEPTH_MAX: usize = 10;

/// Where something stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Position {
    /// The file as it was named; empty: none.
    pub file: Arc<str>,
    /// From 1.
    pub line: u32,
    /// From 1, in characters.
    pub column: u32,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { file, line, column } = self;
        write!(f, "{file}:{line}:{column}")
    }
}

/// Something wrong in a configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// Where, if it is in one place.
    pub at: Option<Position>,
    /// What, as a sentence.
    pub reason: String,
}

impl ConfigError {
    pub(crate) fn new(at: &Position, reason: impl Into<String>) -> Self {
        Self {
            at: Some(at.clone()),
            reason: reason.into(),
        }
    }

    /// Something wrong in no one place.
    pub(crate) fn anywhere(reason: impl Into<String>) -> Self {
        Self {
            at: None,
            reason: reason.into(),
        }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.at {
            Some(at) => write!(f, "{at}: {}", self.reason),
            None => f.write_str(&self.reason),
        }
    }
}

impl std::error::Error for ConfigError {}

/// Everything that is wrong in a configuration; at least one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigErrors(pub Vec<ConfigError>);

impl From<ConfigError> for ConfigErrors {
    fn from(error: ConfigError) -> Self {
        Self(vec![error])
    }
}

impl fmt::Display for ConfigErrors {
    /// A line each.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, error) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{error}")?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigErrors {}

#[cfg(test)]
mod tests;
