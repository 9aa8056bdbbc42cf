//! Requests to the engine as text: API subjects and bodies, acknowledgements, headers, crashes.
#![no_main]

libfuzzer_sys::fuzz_target!(|text: &str| tarn_broker::simulation::fuzz::engine(text));
