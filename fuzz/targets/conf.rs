//! The language of `nats.conf` and what it means: no panic.
#![no_main]

use std::io;
use std::path::Path;

use tarn_broker::conf::{self, Sources};

/// No other files, and one variable.
struct Alone;

impl Sources for Alone {
    fn file(&self, _path: &Path) -> io::Result<String> {
        Err(io::ErrorKind::NotFound.into())
    }

    fn variable(&self, name: &str) -> Option<String> {
        (name == "PORT").then(|| "4222".to_owned())
    }
}

libfuzzer_sys::fuzz_target!(|text: &str| {
    if let Err(errors) = conf::read(Path::new("nats.conf"), text, &Alone) {
        assert!(!errors.to_string().is_empty());
    }
});
