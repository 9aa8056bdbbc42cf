//! The NATS protocol: no panic, and progress with each operation.
#![no_main]

use tarn_broker::nats::codec::{Codec, Decoded};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let codec = Codec {
        max_control_line_bytes: 4096,
        max_payload_bytes: 1 << 20,
    };
    let mut rest = bytes;
    while let Ok(Decoded::Op(_, len)) = codec.decode(rest) {
        assert!(len > 0 && len <= rest.len());
        rest = &rest[len..];
    }
});
