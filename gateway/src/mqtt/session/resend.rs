//! How a QoS 1 publish is recognised when it comes again.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use twox_hash::XxHash3_128;

use crate::identity::ClientId;
use crate::ingest::Resend;
use crate::mqtt::packet::{PacketId, Publish};

/// `client id`, a slash, and 22 characters: the 128-bit hash of packet id, topic and payload. The client id stands in clear, so
/// that no client can make a key of another one's.
pub(super) fn identify(client: &ClientId, id: PacketId, publish: &Publish) -> Resend {
    let payload_hash = XxHash3_128::oneshot(&publish.payload);
    // The topic's length goes first, so that topic and payload can't trade bytes.
    let seed = u64::from(id.get()) << 32 | u64::try_from(publish.topic.len()).unwrap_or(u64::MAX);
    let topic_hash = XxHash3_128::oneshot_with_seed(seed, &publish.topic);
    let hash = payload_hash ^ topic_hash.rotate_left(64);
    let mut key = String::with_capacity(client.as_str().len() + 23);
    key.push_str(client.as_str());
    key.push('/');
    URL_SAFE_NO_PAD.encode_string(hash.to_be_bytes(), &mut key);
    Resend {
        key: key.into(),
        is_resend: publish.dup,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::num::NonZeroU16;

    use bytes::Bytes;

    use super::*;
    use crate::mqtt::packet::QoS;

    fn key(client: &str, id: u16, topic: &'static str, payload: &'static str, dup: bool) -> Resend {
        let packet_id = NonZeroU16::new(id).unwrap();
        let publish = Publish {
            dup,
            qos: QoS::AtLeastOnce,
            retain: false,
            topic: Bytes::from_static(topic.as_bytes()),
            packet_id: Some(packet_id),
            payload: Bytes::from_static(payload.as_bytes()),
        };
        identify(&ClientId::chosen(client).unwrap(), packet_id, &publish)
    }

    #[test]
    fn a_resend_has_the_key_of_the_first_and_nothing_else_has() {
        let first = key("a", 1, "t", "p", false);
        assert_eq!(
            key("a", 1, "t", "p", true),
            Resend {
                is_resend: true,
                ..first.clone()
            }
        );
        let all = [
            ("a", 1, "t", "p"),
            ("a", 2, "t", "p"),
            ("b", 1, "t", "p"),
            ("a", 1, "tp", ""),
            ("a", 1, "t", "t"),
            ("a", 1, "p", "t"),
            ("a", 1, "t", "q"),
        ];
        let keys: BTreeSet<Box<str>> = all.map(|(c, id, t, p)| key(c, id, t, p, false).key).into();
        assert_eq!(keys.len(), all.len());
        // Held fast: a key that changes between versions would make a resend across an upgrade a second reading.
        expect_test::expect!["a/VOXH1oqo0qDvqeQj2mUL4Q"].assert_eq(&first.key);
    }
}
