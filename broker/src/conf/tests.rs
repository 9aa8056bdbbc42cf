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

/// Digests that nats-server 2.15.2 has told.
#[test]
fn digests_are_those_of_nats_server() {
    for (text, told) in [
        (
            "port: 4222",
            "797533ebd0dfba7d34a0f9337ecf147e442871f48ddfd07ed751575a5737267e",
        ),
        (
            "server_name: \"a<b>&\\\"c\\\"\\té\"\ndebug: yes\njetstream { max_mem: 512M, max_file: 4G, store_dir: \"/tmp/x\" }\n\
             accounts { B { users = [ {user: b, password: b} ] }, A: { users: [] } }",
            "3ad4a09e0333d20941127d7c40c2a12d530f5e7bc19cd2dc3e6ae6dcbd6bdd41",
        ),
        (
            "PORT: 4333\nport: $PORT\nauthorization { timeout: 1.5, user: u, password: \"p\" }\nwrite_deadline: \"2s\"",
            "390112838c32a442c2520ab61feb7da95b16043689a4af7a666b5875d885938b",
        ),
        (
            "accounts { A { mappings { a: \"b\\x01\\x7f\u{2028}\" } } }",
            "fda27d7b49030c4fb49c4134f4846a745af0a6a56df280c602afdf2069bfd7bd",
        ),
    ] {
        assert_eq!(
            super::digest::digest(&table(text)),
            format!("sha256:{told}"),
            "{text}"
        );
    }
}
