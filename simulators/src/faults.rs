//! What goes wrong with real devices, as shares of the messages.

/// Shares from 0 to 1 of all messages. A message is late, out of order or malformed, never two of them; duplicates are
/// drawn apart from that.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Faults {
    /// Sent again although they arrived. NATS: twice with the same `Nats-Msg-Id`. MQTT: the connection breaks before the
    /// PUBACK is read, and what was in flight is sent again with DUP.
    pub duplicates: f64,
    /// With timestamps from a minute to hours before the start.
    pub late: f64,
    /// Sent after a later reading of the same device.
    pub out_of_order: f64,
    /// Not readings: they belong into the dead letters.
    pub malformed: f64,
}

impl Faults {
    /// A few of each: 2 % duplicates, 2 % late, 2 % out of order, 1 % malformed.
    pub const TYPICAL: Self = Self {
        duplicates: 0.02,
        late: 0.02,
        out_of_order: 0.02,
        malformed: 0.01,
    };

    /// The name of the first share that isn't between 0 and 1, or of the sum of those that exclude each other.
    pub(crate) fn invalid(&self) -> Option<&'static str> {
        let is_share = |share: f64| (0.0..=1.0).contains(&share);
        [
            ("duplicates", self.duplicates),
            ("late", self.late),
            ("out_of_order", self.out_of_order),
            ("malformed", self.malformed),
            (
                "late + out_of_order + malformed",
                self.late + self.out_of_order + self.malformed,
            ),
        ]
        .into_iter()
        .find(|(_, share)| !is_share(*share))
        .map(|(name, _)| name)
    }
}
