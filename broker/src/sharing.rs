//! What accounts share: subjects published under other names, streams and services that one account offers and another
//! takes. Source: nats-server, `accounts.go`; NATS, "Multi-tenancy using accounts".
//!
//! Messages of an imported stream reach subscriptions of the importing account by the same route as those of its own
//! account. A request to an imported service is published in the account of the service with an answer subject of its own,
//! `_R_.…`, which stands for the requester's until it is answered.

pub(crate) mod answers;
pub(crate) mod check;
pub(crate) mod latency;
pub(crate) mod mapping;

use std::sync::{Arc, Weak};
use std::time::Duration;

use self::mapping::Mappings;
use crate::options::{ResponseType, ServiceLatency};
use crate::router::Router;
use crate::subject;
use crate::subject::transform::{SubjectTransform, TransformError};

/// After which a request to a service of another account counts as unanswered, where nothing else is said.
pub(crate) const RESPONSE_THRESHOLD: Duration = Duration::from_secs(120);
/// The header that says who asks, as services of other accounts are told.
pub(crate) const REQUEST_INFO: &str = "Nats-Request-Info";
/// Accounts that a request may pass from service to service.
pub(crate) const HOPS_MAX: usize = 16;

/// What an account has to do with others.
#[derive(Debug, Default)]
pub(crate) struct Sharing {
    pub(crate) mappings: Mappings,
    /// Services of other accounts that this one may ask.
    pub(crate) services: Vec<Arc<ServiceLink>>,
    /// Accounts that take messages of this one.
    pub(crate) listeners: Vec<StreamLink>,
    /// Accounts whose routes change with the subscriptions of this one.
    pub(crate) origins: Vec<Weak<Router>>,
    /// Answers of its services are measured.
    pub(crate) measures: bool,
}

/// A stream of one account that another takes.
#[derive(Debug)]
pub(crate) struct StreamLink {
    /// The account that takes it.
    pub(crate) router: Weak<Router>,
    /// What it takes.
    pub(crate) from: Box<str>,
    /// What a subject is called there.
    pub(crate) rename: Rename,
}

/// A service of one account that another may ask.
#[derive(Debug)]
pub(crate) struct ServiceLink {
    /// Tells the offered service from others.
    pub(crate) export: usize,
    /// The account that may ask.
    pub(crate) asker: Weak<Router>,
    /// Its name.
    pub(crate) asker_name: Arc<str>,
    /// The account of the service.
    pub(crate) router: Weak<Router>,
    /// Its name.
    pub(crate) account_name: Arc<str>,
    /// What is asked.
    pub(crate) from: Box<str>,
    /// What a subject is called in the service's account.
    pub(crate) rename: Rename,
    pub(crate) response: ResponseType,
    pub(crate) threshold: Duration,
    /// The service is told who asks.
    pub(crate) share: bool,
    /// How its answers are measured.
    pub(crate) latency: Option<ServiceLatency>,
}

/// What a subject is called in another account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Rename {
    /// The same.
    Keep,
    /// Always this.
    To(Box<str>),
    /// What comes out of this.
    Transform(SubjectTransform),
}

impl Rename {
    /// The other name of a subject that is published to.
    pub(crate) fn apply(&self, subject: &str) -> Option<Box<str>> {
        match self {
            Self::Keep => Some(subject.into()),
            Self::To(name) => Some(name.clone()),
            Self::Transform(transform) => transform.apply_to_request(subject, 0).map(Into::into),
        }
    }

    /// How `remote`, which a stream comes from, is called here, where it is named `local`, and `local` as a filter.
    pub(crate) fn of_stream(remote: &str, local: &str) -> Result<(Self, String), TransformError> {
        if subject::is_literal(remote) {
            return Ok((Self::To(local.into()), local.to_owned()));
        }
        if remote == local {
            return Ok((Self::Keep, local.to_owned()));
        }
        let transform = SubjectTransform::strict(remote, &numbered(local))?;
        Ok((Self::Transform(transform), starred(local)))
    }

    /// How `local` is called in the account of a service, where it is named `remote`, and `local` and `remote` as filters.
    pub(crate) fn of_service(local: &str, remote: &str) -> Result<(Self, String, String), TransformError> {
        if subject::is_literal(remote) {
            return Ok((Self::To(remote.into()), local.to_owned(), remote.to_owned()));
        }
        if local == remote {
            return Ok((Self::Keep, local.to_owned(), remote.to_owned()));
        }
        let remote = starred(remote);
        let back = SubjectTransform::strict(&remote, &numbered(local))?;
        Ok((Self::Transform(back.reverse()?), starred(local), remote))
    }
}

/// `subject` with its wildcards numbered: `$1`, `$2`, … Source: nats-server, `transformTokenize`.
pub(crate) fn numbered(subject: &str) -> String {
    let mut number = 0;
    let token = |token: &str| {
        if token == "*" {
            number += 1;
            format!("${number}")
        } else {
            token.to_owned()
        }
    };
    subject.split('.').map(token).collect::<Vec<_>>().join(".")
}

/// `subject` with `*` for what is numbered.
pub(crate) fn starred(subject: &str) -> String {
    let is_number = |token: &str| {
        let digits = token.strip_prefix('$').unwrap_or_default();
        !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit())
    };
    let is_function = |token: &str| token.starts_with("{{") && token.ends_with("}}");
    let token = |token| {
        if is_number(token) || is_function(token) {
            "*"
        } else {
            token
        }
    };
    subject.split('.').map(token).collect::<Vec<_>>().join(".")
}

impl Sharing {
    /// Whether nothing is shared and nothing renamed.
    pub(crate) fn is_empty(&self) -> bool {
        self.mappings.is_empty()
            && self.services.is_empty()
            && self.listeners.is_empty()
            && self.origins.is_empty()
    }

    /// The services of other accounts that `subject` asks.
    pub(crate) fn asked(&self, subject: &str) -> Vec<Arc<ServiceLink>> {
        let asked = self
            .services
            .iter()
            .filter(|link| subject::matches(&link.from, subject));
        asked.map(Arc::clone).collect()
    }

    /// The accounts that take `subject`, and what it is called there.
    pub(crate) fn taken(&self, subject: &str) -> impl Iterator<Item = (Arc<Router>, Box<str>)> {
        self.listeners
            .iter()
            .filter(|link| subject::matches(&link.from, subject))
            .filter_map(|link| Some((link.router.upgrade()?, link.rename.apply(subject)?)))
    }

    /// Whether another last token of `subject` could concern other accounts.
    pub(crate) fn concerns_siblings(&self, subject: &str) -> bool {
        let siblings = match subject.rsplit_once('.') {
            Some((prefix, _)) => format!("{prefix}.*"),
            None => return true,
        };
        let streams = self.listeners.iter().map(|link| &link.from);
        let mut all = streams.chain(self.services.iter().map(|link| &link.from));
        all.any(|from| subject::overlaps(from, &siblings))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_in_other_accounts() {
        let (rename, local) = Rename::of_stream("events.*.x.>", "there.$1.>").unwrap();
        assert_eq!(local, "there.*.>");
        assert_eq!(rename.apply("events.a.x.b.c").as_deref(), Some("there.a.b.c"));
        let (rename, from, to) = Rename::of_service("ask.*.$2", "req.$2.*").unwrap();
        assert_eq!((from.as_str(), to.as_str()), ("ask.*.*", "req.*.*"));
        assert_eq!(rename.apply("ask.a.b").as_deref(), Some("req.a.b"));
        let (rename, ..) = Rename::of_service("JS.far.>", "$JS.API.>").unwrap();
        assert_eq!(
            rename.apply("JS.far.STREAM.INFO.S").as_deref(),
            Some("$JS.API.STREAM.INFO.S")
        );
        assert_eq!(
            rename.apply("JS.far.CONSUMER.CREATE.S.n.o.*").as_deref(),
            Some("$JS.API.CONSUMER.CREATE.S.n.o.*"),
            "the filter of a consumer is part of the request"
        );
        assert_eq!(Rename::of_stream("a", "b").unwrap().0, Rename::To("b".into()));
        assert_eq!(numbered("a.*.b.*"), "a.$1.b.$2");
        assert!(Rename::of_stream("a.*", "b").is_err());
    }
}
