//! Messages a second that one core makes and notes in a ledger, without sending them:
//! `cargo bench -p tarn-simulators`.

use std::time::Instant;

use tarn_schemas::UnixMicros;
use tarn_simulators::ledger::{Header, LedgerWriter, VERSION};
use tarn_simulators::message::Wire;
use tarn_simulators::traffic::{Traffic, TrafficConfig};
use tarn_simulators::{Faults, Profile};

const START: UnixMicros = UnixMicros(1_752_575_400_000_000);
const COUNT: u64 = 300_000;

#[expect(clippy::disallowed_methods, reason = "a benchmark measures real time")]
fn messages_per_second(mut take: impl FnMut(&tarn_simulators::message::Message)) -> f64 {
    let traffic = Traffic::new(&TrafficConfig {
        profile: Profile::Home,
        devices: 1_000,
        rate: 50_000.0,
        count: COUNT,
        seed: 1,
        start: START,
        faults: Faults::TYPICAL,
        wires: vec![Wire::Mqtt, Wire::Nats],
    });
    let start = Instant::now();
    traffic.for_each(|message| take(&message));
    COUNT as f64 / start.elapsed().as_secs_f64()
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = tempfile::tempdir()?;
    let header = Header {
        tarn_ledger: VERSION,
        profile: "home".to_owned(),
        devices: 1_000,
        rate: 50_000.0,
        seed: 1,
        start: START,
        fleet: "bench".to_owned(),
    };
    for round in 0..3 {
        let made = messages_per_second(|message| {
            std::hint::black_box(message);
        });
        let mut ledger = LedgerWriter::create(&folder.path().join(round.to_string()), &header)?;
        let mut failure = None;
        let noted = messages_per_second(|message| failure = ledger.sent(message, START).err());
        if let Some(error) = failure {
            return Err(error.into());
        }
        println!("made {made:>10.0} messages/s   made and noted {noted:>10.0} messages/s");
    }
    Ok(())
}
