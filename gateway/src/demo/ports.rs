//! The usual ports, or free ones.

use std::net::TcpListener;

use crate::config::{Listen, Settings};

/// How many ports are needed.
pub(super) const LISTENERS: usize = 4;

/// Replaces each address whose port is taken by port 0 (the kernel's choice). Returns a line for each of them.
pub(super) fn choose(settings: &mut Settings) -> Vec<String> {
    let listeners: [_; LISTENERS] = [
        ("NATS", &mut settings.nats.listen),
        ("monitoring", &mut settings.monitor.listen),
        ("MQTT", &mut settings.mqtt.listen),
        ("HTTP", &mut settings.http.listen),
    ];
    let mut notes = Vec::new();
    for (name, listen) in listeners {
        let Some(address) = listen.address() else { continue };
        if TcpListener::bind(&address).is_err() {
            notes.push(format!(
                "{address}, the usual address for {name}, is taken: a free port is used"
            ));
            *listen = Listen::loopback(0);
        }
    }
    notes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_taken_port_gives_way_to_a_free_one() {
        let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = taken.local_addr().expect("address").port();
        let mut settings = Settings::default();
        for listen in [
            &mut settings.nats.listen,
            &mut settings.monitor.listen,
            &mut settings.http.listen,
        ] {
            *listen = Listen::loopback(0);
        }
        settings.mqtt.listen = Listen::loopback(port);
        let notes = choose(&mut settings);
        assert_eq!(settings.mqtt.listen, Listen::loopback(0));
        assert_eq!(notes.len(), 1);
        assert!(
            notes[0].contains(&port.to_string()) && notes[0].contains("MQTT"),
            "{notes:?}"
        );
    }
}
