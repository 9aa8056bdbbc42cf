//! What a session allows.

use crate::auth::Caps;
use crate::nats::codec::Codec;
use crate::options::AccountLimits;

/// What a session allows.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SessionLimits {
    pub(crate) codec: Codec,
    /// 0: no limit.
    pub(crate) max_subscriptions: usize,
    /// Tokens of a subject that is subscribed to; 0: no limit.
    pub(crate) max_subscription_tokens: usize,
    pub(crate) ping_max: u32,
}

impl SessionLimits {
    /// These, and those of the client and its account where they are lower. None: the client may not subscribe at all, and so
    /// not stay. Source: nats-server, `applyAccountLimits`.
    pub(super) fn with(self, caps: Caps, account: AccountLimits) -> Option<Self> {
        let bounds = [caps.max_subscriptions, account.max_subscriptions];
        let lowest = bounds
            .into_iter()
            .flatten()
            .min()
            .map(|max| usize::try_from(max).unwrap_or(usize::MAX));
        let own = Some(self.max_subscriptions).filter(|max| *max > 0);
        let max_subscriptions = match (own, lowest) {
            (_, Some(0)) => return None,
            (Some(own), Some(lowest)) => own.min(lowest),
            (own, lowest) => own.or(lowest).unwrap_or(0),
        };
        let bounds = [caps.max_payload_bytes, account.max_payload_bytes];
        let lowest = bounds
            .into_iter()
            .flatten()
            .min()
            .map(|max| usize::try_from(max).unwrap_or(usize::MAX));
        let own = self.codec.max_payload_bytes;
        let codec = Codec {
            max_payload_bytes: lowest.map_or(own, |lowest| lowest.min(own)),
            ..self.codec
        };
        Some(Self {
            codec,
            max_subscriptions,
            ..self
        })
    }
}
