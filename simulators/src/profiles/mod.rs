//! What kinds of fleets there are.

mod home;

use std::fmt;
use std::str::FromStr;

use rand_chacha::ChaCha8Rng;

pub(crate) use home::Behaviour;

/// A kind of fleet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Profile {
    /// A home: temperature, humidity, motion, doors, power; small payloads of every form.
    #[default]
    Home,
}

impl Profile {
    /// All there are.
    pub const ALL: [Self; 1] = [Self::Home];

    /// The name on the command line and in ledgers.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Home => "home",
        }
    }

    pub(crate) fn behaviour(self, rng: &mut ChaCha8Rng, index: u32) -> Behaviour {
        match self {
            Self::Home => Behaviour::new(rng, index),
        }
    }
}

impl fmt::Display for Profile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// There is no profile of that name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no profile \"{name}\", there is: home")]
pub struct UnknownProfile {
    /// As given.
    pub name: String,
}

impl FromStr for Profile {
    type Err = UnknownProfile;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .into_iter()
            .find(|profile| profile.as_str() == name)
            .ok_or_else(|| UnknownProfile {
                name: name.to_owned(),
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_both_ways() {
        for profile in Profile::ALL {
            assert_eq!(profile.to_string().parse(), Ok(profile));
        }
        assert_eq!(
            "x".parse::<Profile>().unwrap_err().to_string(),
            "no profile \"x\", there is: home"
        );
    }
}
