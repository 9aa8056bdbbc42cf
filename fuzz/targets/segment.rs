//! Recovery of a segment that was changed: no panic, and never a wrong record.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| tarn_broker::simulation::fuzz::segment(bytes));
