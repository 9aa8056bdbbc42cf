//! The language against what nats-server 2.15 makes of the same text, and the settings that operators' files have.

mod language;
mod settings;

use std::collections::HashMap;
use std::io;
use std::path::Path;

use super::{ConfigErrors, Sources, Table, parse, read};
use crate::options::Options;

/// Files and an environment in memory.
#[derive(Default)]
struct World {
    files: HashMap<String, String>,
    variables: HashMap<String, String>,
}

impl World {
    fn of(files: &[(&str, &str)], variables: &[(&str, &str)]) -> Self {
        let owned = |pairs: &[(&str, &str)]| {
            let owned = pairs
                .iter()
                .map(|(name, text)| ((*name).to_owned(), (*text).to_owned()));
            owned.collect()
        };
        Self {
            files: owned(files),
            variables: owned(variables),
        }
    }
}

impl Sources for World {
    fn file(&self, path: &Path) -> io::Result<String> {
        let held = self.files.get(path.to_str().unwrap_or_default());
        held.cloned().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn variable(&self, name: &str) -> Option<String> {
        self.variables.get(name).cloned()
    }
}

fn table(text: &str) -> Table {
    parse(Path::new("/etc/nats.conf"), text, &World::default()).unwrap_or_else(|err| panic!("{err}"))
}

fn parse_error(text: &str) -> String {
    let parsed = parse(Path::new("/etc/nats.conf"), text, &World::default());
    parsed.expect_err("an error").to_string()
}

fn options(text: &str) -> Options {
    try_options(text).unwrap_or_else(|err| panic!("{err}"))
}

fn try_options(text: &str) -> Result<Options, ConfigErrors> {
    read(Path::new("nats.conf"), text, &World::default())
}

fn problems(text: &str) -> String {
    try_options(text).expect_err("an error").to_string()
}
