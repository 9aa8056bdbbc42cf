//! What is asked of an endpoint: by a URL's query, or by the JSON of a request to `$SYS`.

use std::collections::BTreeMap;

use serde_json::Value;

/// What is asked, by name, as text.
#[derive(Clone, Debug, Default)]
pub(crate) struct Args(BTreeMap<String, String>);

/// An argument that is not what it should be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ArgError {
    #[error("Error decoding boolean for '{name}': strconv.ParseBool: parsing {value:?}: invalid syntax")]
    NotABoolean { name: &'static str, value: String },
    #[error("Error decoding int for '{name}': strconv.Atoi: parsing {value:?}: invalid syntax")]
    NotANumber { name: &'static str, value: String },
    #[error("invalid sorting option: {sort}")]
    Sort { sort: String },
    #[error("invalid JSON: {reason}")]
    Json { reason: String },
    #[error("sort by {sort} only valid on closed connections")]
    SortOfClosed { sort: &'static str },
    #[error("filter by subject only valid with account filtering")]
    FilterWithoutAccount,
}

impl Args {
    /// The arguments of a URL's query.
    pub(crate) fn from_query(query: BTreeMap<String, String>) -> Self {
        Self(query)
    }

    /// The arguments of a request to `$SYS`, by the names that the URL has for them. Nothing counts as no arguments.
    pub(crate) fn from_json(payload: &[u8]) -> Result<Self, ArgError> {
        if payload.trim_ascii().is_empty() {
            return Ok(Self::default());
        }
        let value: Value = serde_json::from_slice(payload).map_err(|err| ArgError::Json {
            reason: err.to_string(),
        })?;
        let mut args = BTreeMap::new();
        for (name, value) in value.as_object().into_iter().flatten() {
            let text = match value {
                Value::String(text) => text.clone(),
                Value::Null => continue,
                other => other.to_string(),
            };
            let (name, text) = match (name.as_str(), text.as_str()) {
                ("subscriptions_detail", "true") => ("subs", "detail"),
                ("subscriptions", "true") if !args.contains_key("subs") => ("subs", "1"),
                ("subscriptions_detail" | "subscriptions", _) => continue,
                ("state", "0") => ("state", "open"),
                ("state", "1") => ("state", "closed"),
                ("state", "2") => ("state", "any"),
                ("account", text) => ("acc", text),
                ("consumer", text) => ("consumers", text),
                (name, text) => (name, text),
            };
            args.insert(name.to_owned(), text.to_owned());
        }
        Ok(Self(args))
    }

    /// Sets an argument, whatever was asked.
    pub(crate) fn set(&mut self, name: &str, value: &str) {
        self.0.insert(name.to_owned(), value.to_owned());
    }

    /// An argument's text; empty if it was not given.
    pub(crate) fn text(&self, name: &str) -> &str {
        self.0.get(name).map_or("", String::as_str)
    }

    /// Whether a flag is set.
    pub(crate) fn flag(&self, name: &'static str) -> Result<bool, ArgError> {
        match self.text(name) {
            "" | "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
            "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
            other => Err(ArgError::NotABoolean {
                name,
                value: other.to_owned(),
            }),
        }
    }

    /// A number; negative ones count as 0.
    pub(crate) fn number(&self, name: &'static str) -> Result<u64, ArgError> {
        match self.text(name) {
            "" => Ok(0),
            text => {
                let number: i64 = text.parse().map_err(|_| ArgError::NotANumber {
                    name,
                    value: text.to_owned(),
                })?;
                Ok(u64::try_from(number).unwrap_or(0))
            }
        }
    }

    /// `offset` and `limit`, with this limit where none is given.
    pub(crate) fn page(&self, limit: usize) -> Result<(usize, usize), ArgError> {
        let size = |number: u64| usize::try_from(number).unwrap_or(usize::MAX);
        let asked = size(self.number("limit")?);
        Ok((
            size(self.number("offset")?),
            if asked == 0 { limit } else { asked },
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_ask_the_same() {
        let json = br#"{"subscriptions":true,"state":1,"offset":-3,"limit":5,"acc":null,"auth":true}"#;
        let args = Args::from_json(json).unwrap();
        assert_eq!(
            (args.text("subs"), args.text("state"), args.text("acc")),
            ("1", "closed", "")
        );
        assert_eq!(args.page(1024), Ok((0, 5)));
        assert_eq!(args.flag("auth"), Ok(true));
        assert!(Args::from_json(b"{").is_err() && Args::from_json(b" ").unwrap().0.is_empty());
        let query = Args::from_query([("auth".to_owned(), "perhaps".to_owned())].into());
        assert!(query.flag("auth").is_err());
        assert_eq!(query.page(7), Ok((0, 7)));
    }

    #[test]
    fn numbers_do_not_overflow() {
        let query = Args::from_query([("limit".to_owned(), u64::MAX.to_string())].into());
        assert!(query.page(1).is_err());
        let query = Args::from_query([("offset".to_owned(), i64::MAX.to_string())].into());
        assert!(query.page(1).is_ok());
    }
}
