//! What `$JS.API.>` speaks: errors, times, requests and answers as JSON.

pub(crate) mod error;
mod feature_error;
pub(crate) mod parse;
pub(crate) mod pedantic;
pub(crate) mod time;
pub(crate) mod types;

/// Where requests to the API are told of.
pub(crate) const AUDIT_SUBJECT: &str = "$JS.EVENT.ADVISORY.API";
