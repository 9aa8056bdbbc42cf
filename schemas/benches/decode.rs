//! Readings decoded a second on one core, for the usual forms: `cargo bench -p tarn-schemas`.

use std::hint::black_box;
use std::time::{Duration, Instant};

use tarn_schemas::{Decoder, UnixMicros};

const ARRIVAL: UnixMicros = UnixMicros(1_752_575_460_000_000);
const ROUND: Duration = Duration::from_millis(300);

#[expect(clippy::disallowed_methods, reason = "a benchmark measures real time")]
fn readings_per_second(payload: &str) -> f64 {
    let decoder = Decoder::default();
    let mut out = Vec::new();
    let start = Instant::now();
    let mut readings = 0;
    while start.elapsed() < ROUND {
        for _ in 0..1_000 {
            decoder
                .decode(
                    black_box("sensors.temperature.device001"),
                    black_box(payload.as_bytes()),
                    ARRIVAL,
                    &mut out,
                )
                .expect("the payload is good");
            readings += out.len();
            out.clear();
        }
    }
    readings as f64 / start.elapsed().as_secs_f64()
}

fn main() {
    let array = vec![r#"{"value": 22.5, "unit": "C", "timestamp": "2025-07-15T10:30:00Z"}"#; 100].join(",");
    for (name, payload) in [
        (
            "value, unit, timestamp",
            r#"{"value": 22.5, "unit": "C", "timestamp": "2025-07-15T10:30:00Z"}"#,
        ),
        (
            "self-describing",
            r#"{"device_id":"device001","sensor":"temperature","value":23.4,"unit":"celsius","location":"living_room","timestamp":"2025-07-15T10:30:00Z"}"#,
        ),
        (
            "three fields",
            r#"{"temperature":21.25,"humidity":48.5,"battery":87,"ts":1752575400123}"#,
        ),
        ("array of 100", &format!("[{array}]")),
    ] {
        let mut rounds: Vec<f64> = (0..5).map(|_| readings_per_second(payload)).collect();
        rounds.sort_by(f64::total_cmp);
        let (low, median, high) = (rounds[0], rounds[2], rounds[4]);
        println!("{name:24} {median:>12.0} readings/s   ({low:.0} to {high:.0}, 5 rounds)");
    }
}
