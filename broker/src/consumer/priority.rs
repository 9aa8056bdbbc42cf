//! Priority groups: which of a pull consumer's clients get messages. Source: ADR-42; nats-server, `nextWaiting`.

use serde::{Deserialize, Deserializer};

use super::Consumer;
use super::config::ConsumerConfig;
use super::pull::{PullRequest, Status};
use crate::api::error::ApiError;
use crate::engine::time::{Mono, Now};
use crate::types::UnixNanos;

/// How long a pinned client may be silent, unless the configuration says.
const PINNED_DEFAULT_NS: i64 = 120_000_000_000;
const GROUP_BYTES_MAX: usize = 16;
const GROUPS_MAX: usize = 64;
const PRIORITY_MAX: i64 = 9;

/// How clients share a consumer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Policy {
    /// In turn.
    None,
    /// A client says how much has to wait before it helps.
    Overflow,
    /// One client gets everything until it falls silent.
    Pinned,
    /// The lowest number first.
    Prioritized,
}

impl Policy {
    /// What a configuration names; `None`: there is no such policy.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        match text {
            "" | "none" => Some(Self::None),
            "overflow" => Some(Self::Overflow),
            "pinned_client" => Some(Self::Pinned),
            "prioritized" => Some(Self::Prioritized),
            _ => None,
        }
    }
}

/// What a pull request says about priorities.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(crate) struct PriorityRequest {
    #[serde(deserialize_with = "or_default")]
    pub(crate) group: String,
    #[serde(deserialize_with = "or_default")]
    pub(crate) min_pending: i64,
    #[serde(deserialize_with = "or_default")]
    pub(crate) min_ack_pending: i64,
    #[serde(deserialize_with = "or_default")]
    pub(crate) id: String,
    #[serde(deserialize_with = "or_default")]
    pub(crate) priority: i64,
}

/// As in Go, `null` counts as left out: async-nats writes it.
fn or_default<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(
    deserializer: D,
) -> Result<T, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// The client that gets everything.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Pin {
    pub(crate) id: String,
    pub(crate) group: String,
    pub(crate) since: UnixNanos,
    pub(crate) expires: Mono,
}

/// What a request gets, as far as priorities decide.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// The next message.
    Takes,
    /// The next message, and the pin with it.
    TakesPin,
    /// Nothing, as long as it is not its turn.
    Waits,
    /// Nothing any more.
    Ends(Status),
}

impl ConsumerConfig {
    /// The policy; a configuration that was checked has a known one.
    pub(crate) fn policy(&self) -> Policy {
        Policy::parse(&self.priority_policy).unwrap_or(Policy::None)
    }

    /// Fills in the default of pinned clients.
    pub(super) fn set_priority_defaults(&mut self) {
        self.priority_timeout = self.priority_timeout.max(0);
        if self.policy() == Policy::Pinned && self.priority_timeout == 0 {
            self.priority_timeout = PINNED_DEFAULT_NS;
        }
        if self.priority_policy == "none" {
            self.priority_policy.clear();
        }
    }

    /// Checks priority groups.
    ///
    /// # Errors
    /// 10025, 10159, 10161, 10162, 10178, 10196 or 10197, as nats-server gives them.
    pub(super) fn check_priorities(&self) -> Result<(), ApiError> {
        let Some(policy) = Policy::parse(&self.priority_policy) else {
            return Err(ApiError::unknown_policy(&self.priority_policy));
        };
        if policy == Policy::None {
            if !self.priority_groups.is_empty() {
                return Err(ApiError::PRIORITY_POLICY_NONE);
            }
            if self.priority_timeout > 0 {
                return Err(ApiError::PINNED_TTL_POLICY_NONE);
            }
            return Ok(());
        }
        if self.is_push() {
            return Err(ApiError::PRIORITY_PUSH);
        }
        if self.priority_groups.is_empty() {
            return Err(ApiError::PRIORITY_WITHOUT_GROUP);
        }
        if self.priority_groups.len() > GROUPS_MAX {
            return Err(ApiError::PRIORITY_GROUP_NAME);
        }
        for group in &self.priority_groups {
            if group.is_empty() {
                return Err(ApiError::PRIORITY_EMPTY_GROUP);
            }
            if !is_group_name(group) {
                return Err(ApiError::PRIORITY_GROUP_NAME);
            }
        }
        Ok(())
    }
}

/// Whether `name` may name a group.
pub(crate) fn is_group_name(name: &str) -> bool {
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"/_=-".contains(&byte);
    !name.is_empty() && name.len() <= GROUP_BYTES_MAX && name.bytes().all(is_allowed)
}

/// Checks what a request says about priorities.
///
/// # Errors
/// The status to refuse it with.
pub(super) fn check_request(request: &PriorityRequest, config: &ConsumerConfig) -> Result<(), Status> {
    let policy = config.policy();
    let bad = |text: &str| Err(Status::BadRequest(text.to_owned()));
    if (request.min_pending != 0 || request.min_ack_pending != 0) && policy != Policy::Overflow {
        return bad("Not a Overflow Priority consumer");
    }
    if !request.id.is_empty() && policy != Policy::Pinned {
        return bad("Not a Pinned Client Priority consumer");
    }
    if !(0..=PRIORITY_MAX).contains(&request.priority) {
        return bad("Priority must be between 0 and 9");
    }
    if policy == Policy::None {
        return Ok(());
    }
    if request.group.is_empty() {
        return bad("Priority Group missing");
    }
    if !config.priority_groups.contains(&request.group) {
        return bad("Invalid Priority Group");
    }
    Ok(())
}

impl Consumer {
    /// The client that is pinned.
    pub(crate) fn pin(&self) -> Option<&Pin> {
        self.pin.as_ref()
    }

    /// A request with a pin: the pinned client is alive, another one is told so.
    ///
    /// # Errors
    /// 423 for another pin than the current one.
    pub(super) fn check_pin(&mut self, now: Mono, request: &PriorityRequest) -> Result<(), Status> {
        let timeout = self.config.priority_timeout;
        match &mut self.pin {
            Some(pin) if pin.id == request.id => {
                pin.expires = now.after(timeout);
                Ok(())
            }
            Some(_) if !request.id.is_empty() => Err(Status::PinMismatch),
            _ => Ok(()),
        }
    }

    /// What a request gets. `pending` messages wait for their first delivery, the one at hand included.
    pub(super) fn turn(&self, request: &PullRequest, pending: u64) -> Turn {
        let priority = &request.priority;
        match self.config.policy() {
            Policy::None | Policy::Prioritized => Turn::Takes,
            Policy::Overflow => {
                let reaches =
                    |least: i64, has: u64| u64::try_from(least).is_ok_and(|least| least > 0 && least <= has);
                let is_bounded = priority.min_pending > 0 || priority.min_ack_pending > 0;
                let ack_pending = self.pending.len() as u64;
                let is_reached =
                    reaches(priority.min_pending, pending) || reaches(priority.min_ack_pending, ack_pending);
                if is_bounded && !is_reached {
                    Turn::Waits
                } else {
                    Turn::Takes
                }
            }
            Policy::Pinned => match &self.pin {
                None if priority.id.is_empty() => Turn::TakesPin,
                Some(pin) if pin.id == priority.id => Turn::Takes,
                Some(_) if priority.id.is_empty() => Turn::Waits,
                _ => Turn::Ends(Status::WrongPin(request.unfilled())),
            },
        }
    }

    /// The client of the request at `index` gets everything from now on. Only one that takes a message is pinned: the others
    /// would wait for one that is gone until its time is over.
    pub(super) fn pin_to(&mut self, now: Now, index: usize, new_pin: u128) {
        let Some(request) = self.waiting.get_mut(index) else {
            return;
        };
        let id = pin_name(new_pin);
        request.priority.id.clone_from(&id);
        let pin = Pin {
            id,
            group: request.priority.group.clone(),
            since: now.wall,
            expires: now.mono.after(self.config.priority_timeout),
        };
        self.events.push(super::Event::Pinned(pin.clone()));
        self.pin = Some(pin);
    }

    /// Nobody is pinned any more. Returns whether somebody was.
    pub(crate) fn unpin(&mut self, reason: &'static str) -> bool {
        let Some(pin) = self.pin.take() else {
            return false;
        };
        self.events.push(super::Event::Unpinned {
            group: pin.group,
            reason,
        });
        true
    }

    /// Unpins a client that has been silent for too long.
    pub(super) fn expire_pin(&mut self, now: Mono) {
        if self.pin.as_ref().is_some_and(|pin| pin.expires <= now) {
            self.unpin("timeout");
        }
    }

    /// Puts a request where its turn is: behind all others, or behind those that are as urgent.
    pub(super) fn enqueue(&mut self, request: PullRequest) {
        if self.config.policy() != Policy::Prioritized {
            return self.waiting.push_back(request);
        }
        let priority = request.priority.priority;
        let index = self
            .waiting
            .iter()
            .position(|other| other.priority.priority > priority)
            .unwrap_or(self.waiting.len());
        self.waiting.insert(index, request);
    }
}

/// Letters and digits, as nats-server names pins.
fn pin_name(mut random: u128) -> String {
    const ALPHABET: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    let mut letter = || {
        let letter = ALPHABET[(random % 62) as usize];
        random /= 62;
        char::from(letter)
    };
    (0..22).map(|_| letter()).collect()
}
