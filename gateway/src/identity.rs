//! Who a device is: the rules for client ids and user names. Authentication stands apart from this.

use std::fmt;
use std::sync::Arc;

use thiserror::Error;

/// Most bytes in a client id or user name.
pub const NAME_BYTES_MAX: usize = 256;

/// A client id or user name that can't be let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum IdentityError {
    /// Longer than [`NAME_BYTES_MAX`].
    #[error("name is {len} bytes, the limit is {NAME_BYTES_MAX}")]
    TooLong {
        /// Bytes.
        len: usize,
    },
    /// A wildcard of MQTT or NATS, which would widen a permission that has the name in its pattern.
    #[error("name holds the wildcard {0:?}")]
    Wildcard(char),
    /// A control character, which could break a log line or a header.
    #[error("name holds a control character")]
    Control,
}

/// The id that a session goes by: not empty, no wildcards, no control characters, at most [`NAME_BYTES_MAX`] bytes.
/// Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClientId(Arc<str>);

impl ClientId {
    /// The id that a client chose.
    pub fn chosen(id: &str) -> Result<Self, IdentityError> {
        check_name(id)?;
        Ok(Self(id.into()))
    }

    /// An id for a client that sent none.
    pub fn assigned() -> Self {
        Self(format!("auto-{}", uuid::Uuid::new_v4().simple()).into())
    }

    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ClientId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Holds a client id or user name to the rules.
pub fn check_name(name: &str) -> Result<(), IdentityError> {
    if name.len() > NAME_BYTES_MAX {
        return Err(IdentityError::TooLong { len: name.len() });
    }
    match name
        .chars()
        .find(|c| matches!(c, '+' | '#' | '*' | '>') || c.is_control())
    {
        None => Ok(()),
        Some(c) if c.is_control() => Err(IdentityError::Control),
        Some(c) => Err(IdentityError::Wildcard(c)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_could_widen_a_permission_are_refused() {
        for (name, error) in [
            ("a+b", IdentityError::Wildcard('+')),
            ("#", IdentityError::Wildcard('#')),
            ("*", IdentityError::Wildcard('*')),
            ("dev>", IdentityError::Wildcard('>')),
            ("a\nb", IdentityError::Control),
            ("a\0", IdentityError::Control),
        ] {
            assert_eq!(ClientId::chosen(name), Err(error), "{name:?}");
        }
        assert_eq!(
            check_name(&"x".repeat(257)),
            Err(IdentityError::TooLong { len: 257 })
        );
        for name in ["device/1", "my sensor", "é", "a.b", &"x".repeat(256)] {
            assert_eq!(ClientId::chosen(name).unwrap().as_str(), name);
        }
        assert_ne!(ClientId::assigned(), ClientId::assigned());
    }
}
