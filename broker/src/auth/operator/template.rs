//! Rights that a signing key gives to the users it signs, with words about the user in their subjects.
//! Source: nats-server, `processUserPermissionsTemplate`.

use crate::auth::jwt::{AccountBody, Claims, UserBody, UserClaims};
use crate::subject;

/// Subjects that one list may become.
const SUBJECTS_MAX: usize = 4096;

/// What the words stand for.
pub(super) struct Words<'a> {
    pub(super) user: &'a Claims<UserBody>,
    pub(super) account: &'a Claims<AccountBody>,
}

/// The template makes no sense for this user.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BadTemplate;

impl Words<'_> {
    /// The rights with the words filled in.
    pub(super) fn fill(&self, template: &UserClaims) -> Result<UserClaims, BadTemplate> {
        let mut filled = template.clone();
        let permissions = &mut filled.permissions;
        for rules in [&mut permissions.publish, &mut permissions.subscribe] {
            rules.allow = self.list(&rules.allow, true)?;
            rules.deny = self.list(&rules.deny, false)?;
        }
        Ok(filled)
    }

    /// Each text with its words filled in. What comes to no subject is an error, or left out where that allows nothing.
    fn list(&self, texts: &[String], is_strict: bool) -> Result<Vec<String>, BadTemplate> {
        let mut out = Vec::new();
        for text in texts {
            let mut filled = vec![text.clone()];
            while let Some((start, end)) = filled.first().and_then(|text| braces(text)) {
                let first = filled.first().ok_or(BadTemplate)?;
                let values = self.values(first[start + 2..end].trim())?;
                if values.is_empty() && is_strict {
                    return Err(BadTemplate);
                }
                if filled.len() * values.len() > SUBJECTS_MAX - out.len().min(SUBJECTS_MAX) {
                    return Err(BadTemplate);
                }
                let word = first[start..end + 2].to_owned();
                let with = |text: &String| -> Vec<String> {
                    values
                        .iter()
                        .map(|value| text.replacen(&word, value, 1))
                        .collect()
                };
                filled = filled.iter().flat_map(with).collect();
            }
            for subject in filled {
                if text.contains("{{") && !subject::is_valid_filter(&subject) {
                    if is_strict {
                        return Err(BadTemplate);
                    }
                    continue;
                }
                out.push(subject);
            }
        }
        Ok(out)
    }

    fn values(&self, word: &str) -> Result<Vec<String>, BadTemplate> {
        let lower = word.to_ascii_lowercase();
        let of = |tags: &[String], name: &str| {
            let prefix = format!("{}:", name.to_ascii_lowercase());
            let values = tags.iter().filter_map(|tag| tag.strip_prefix(&prefix));
            // A value that holds a word would be filled in again.
            values
                .filter(|value| !value.contains("{{"))
                .map(ToOwned::to_owned)
                .collect()
        };
        let plain = |value: &str| {
            if value.contains("{{") {
                Err(BadTemplate)
            } else {
                Ok(vec![value.to_owned()])
            }
        };
        match lower.as_str() {
            "name()" => plain(&self.user.name),
            "subject()" => plain(&self.user.subject),
            "account-name()" => plain(&self.account.name),
            "account-subject()" => plain(&self.user.body.issuer_account),
            _ => {
                let argument = |name: &str| Some(lower.strip_prefix(name)?.strip_suffix(')')?.to_owned());
                match (argument("tag("), argument("account-tag(")) {
                    (Some(name), _) => Ok(of(&self.user.body.tags, &name)),
                    (_, Some(name)) => Ok(of(&self.account.body.tags, &name)),
                    _ => Err(BadTemplate),
                }
            }
        }
    }
}

/// Where the first word in double braces begins, and where its closing braces are.
fn braces(text: &str) -> Option<(usize, usize)> {
    let start = text.find("{{")?;
    let end = start + text[start..].find("}}")?;
    Some((start, end))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claims<T: serde::de::DeserializeOwned>(json: &str) -> Claims<T> {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn words_are_filled_in() {
        let user: Claims<UserBody> = claims(
            r#"{"name":"bob","sub":"U1","nats":{"issuer_account":"A1","tags":["dept:a","dept:b","x:*"]}}"#,
        );
        let account: Claims<AccountBody> =
            claims(r#"{"name":"acme","sub":"A1","nats":{"tags":["zone:eu"]}}"#);
        let words = Words {
            user: &user,
            account: &account,
        };
        let list = |text: &str, is_strict| words.list(&[text.to_owned()], is_strict);
        assert_eq!(list("plain.>", true).unwrap(), ["plain.>"]);
        assert_eq!(
            list(
                "{{account-name()}}.{{ Name() }}.{{subject()}}.{{account-subject()}}",
                true
            )
            .unwrap(),
            ["acme.bob.U1.A1"]
        );
        assert_eq!(
            list("{{tag(dept)}}.{{account-tag(Zone)}}.>", true).unwrap(),
            ["a.eu.>", "b.eu.>"]
        );
        assert_eq!(
            list("{{tag(dept)}}.{{tag(dept)}}", true).unwrap(),
            ["a.a", "a.b", "b.a", "b.b"]
        );
        assert_eq!(list("{{tag(none)}}", true), Err(BadTemplate));
        assert_eq!(list("{{tag(none)}}", false).unwrap(), Vec::<String>::new());
        assert_eq!(list("{{what()}}", false), Err(BadTemplate));
    }

    #[test]
    fn a_name_with_words_or_spaces_gives_no_rights() {
        for name in ["{{subject()}}", "a b", "", "a..b"] {
            let json = format!(r#"{{"name":"{name}","sub":"U1","nats":{{}}}}"#);
            let (user, account) = (claims(&json), claims(r#"{"name":"acme","nats":{}}"#));
            let words = Words {
                user: &user,
                account: &account,
            };
            assert_eq!(
                words.list(&["x.{{name()}}".to_owned()], true),
                Err(BadTemplate),
                "{name:?}"
            );
        }
    }
}
