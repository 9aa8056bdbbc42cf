//! Which of a pull consumer's clients gets a message.

use super::{ConsumerModel, Tag};
use crate::simulation::config::{PIN_NS, Sharing};

/// What a pull request says about the other clients.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::simulation) struct Share {
    /// It names the group.
    pub(in crate::simulation) has_group: bool,
    pub(in crate::simulation) min_pending: u64,
    pub(in crate::simulation) min_ack_pending: u64,
    pub(in crate::simulation) priority: u64,
    /// The pin that it names, or got.
    pub(in crate::simulation) pin: String,
}

impl Share {
    /// A share in a consumer of this kind that takes whatever comes.
    pub(in crate::simulation) fn of(sharing: Sharing) -> Self {
        Self {
            has_group: sharing != Sharing::Turns,
            ..Self::default()
        }
    }

    /// The fields of a request, each with a comma before it.
    pub(in crate::simulation) fn json(&self) -> String {
        let mut json = String::new();
        let mut field = |is_said: bool, text: String| {
            if is_said {
                json.push(',');
                json.push_str(&text);
            }
        };
        field(self.has_group, r#""group":"g""#.to_owned());
        field(
            self.min_pending > 0,
            format!(r#""min_pending":{}"#, self.min_pending),
        );
        field(
            self.min_ack_pending > 0,
            format!(r#""min_ack_pending":{}"#, self.min_ack_pending),
        );
        field(self.priority > 0, format!(r#""priority":{}"#, self.priority));
        field(!self.pin.is_empty(), format!(r#""id":"{}""#, self.pin));
        json
    }
}

/// The client that gets everything.
#[derive(Clone, Debug)]
pub(in crate::simulation) struct Pin {
    pub(in crate::simulation) id: String,
    /// It may lose that from then on.
    until: u64,
}

/// Takes the name of the pin out of a message's headers.
pub(in crate::simulation) fn take_pin(headers: &mut Vec<u8>) -> Option<String> {
    let name = b"Nats-Pin-Id: ";
    let at = headers.windows(name.len()).position(|part| part == name)?;
    let len = headers[at..].windows(2).position(|part| part == b"\r\n")?;
    let line: Vec<u8> = headers.drain(at..at + len + 2).collect();
    if headers == b"NATS/1.0\r\n\r\n" {
        headers.clear();
    }
    Some(String::from_utf8_lossy(&line[name.len()..len]).into_owned())
}

impl ConsumerModel {
    /// A request has come that may name a pin.
    pub(in crate::simulation) fn pulled(&mut self, share: &Share, now: u64) {
        if let Some(pin) = self
            .pin
            .as_mut()
            .filter(|pin| pin.id == share.pin && now < pin.until)
        {
            pin.until = now + PIN_NS;
        }
    }

    /// A message goes to the request with inbox `to`: it has to be its turn. `ended`: requests that ended in this round.
    pub(in crate::simulation) fn check_turn(
        &mut self,
        to: &str,
        tag: Tag,
        pin: Option<String>,
        now: u64,
        ended: &[String],
    ) {
        let what = format!("{tag:?} of {} to {to}", self.config.name);
        assert_eq!(
            pin.is_some(),
            self.config.sharing == Sharing::Pinned,
            "pin: {what}"
        );
        let Some(share) = self.requests.get(to).map(|request| request.share.clone()) else {
            return;
        };
        match self.config.sharing {
            Sharing::Turns => {}
            Sharing::Overflow => {
                let waits =
                    |story: &&super::Story| story.deliveries > 0 && story.settled < super::Settled::Now;
                let ack_pending = self.stories.values().filter(waits).count() as u64;
                let reaches = |least: u64, has: u64| least > 0 && least <= has;
                let is_bounded = share.min_pending > 0 || share.min_ack_pending > 0;
                let fits = reaches(share.min_pending, tag.pending + 1)
                    || reaches(share.min_ack_pending, ack_pending);
                assert!(
                    !is_bounded || fits || self.is_free,
                    "{share:?}, {ack_pending} pending: {what}"
                );
            }
            Sharing::Prioritized => {
                let is_before = |(inbox, request): &(&String, &super::Request)| {
                    request.left > 0
                        && request.share.has_group
                        && !ended.contains(inbox)
                        && request.expires.is_none_or(|at| now < at)
                        && request.share.priority < share.priority
                };
                let before = self.requests.iter().find(is_before);
                assert!(before.is_none(), "{before:?} comes before {share:?}: {what}");
            }
            Sharing::Pinned => self.check_pin(to, &share, pin.unwrap_or_default(), now, &what),
        }
    }

    fn check_pin(&mut self, to: &str, share: &Share, pin: String, now: u64, what: &str) {
        let known = self.pin.as_ref().filter(|known| known.id == pin);
        if known.is_some() {
            assert_eq!(share.pin, pin, "another client is pinned: {what}");
            return;
        }
        let is_free = self.pin.as_ref().is_none_or(|known| now >= known.until);
        assert!(is_free, "{:?} is pinned, {pin} gets it: {what}", self.pin);
        assert_eq!(share.pin, "", "a new pin for one that names another: {what}");
        if let Some(request) = self.requests.get_mut(to) {
            request.share.pin.clone_from(&pin);
        }
        self.pin = Some(Pin {
            id: pin,
            until: now + PIN_NS,
        });
    }
}
