//! Whether what accounts want to share can be shared. Source: nats-server, `AddStreamImport`, `AddServiceImport`,
//! `checkServiceImportsForCycles`; texts are its own.

use std::collections::BTreeSet;

use super::Rename;
use super::mapping::{MappingError, Mappings};
use crate::options::{AccountOptions, ExportKind, ExportOptions, ImportKind, ImportOptions};
use crate::subject;
use crate::subject::transform::TransformError;

/// Accounts that a search for cycles passes.
const SEARCH_DEPTH_MAX: usize = 1024;

/// Why something is not shared.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ShareError {
    #[error("sublist: invalid subject")]
    InvalidSubject,
    #[error("stream import not authorized")]
    StreamNotAuthorized,
    #[error("service import not authorized")]
    ServiceNotAuthorized,
    #[error("stream import prefix can not contain wildcard tokens")]
    BadPrefix,
    #[error("stream import already exists")]
    Duplicate,
    #[error(
        "Duplicate service import subject {from:?}, previously used in import for account {account:?}, subject {to:?}"
    )]
    DuplicateService {
        from: String,
        account: String,
        to: String,
    },
    #[error("import forms a cycle")]
    Cycle,
    #[error("search cycle depth exhausted")]
    Depth,
    #[error("failed to create mapping transform for {what} import subject from {from:?} to {to:?}: {source}")]
    Transform {
        what: &'static str,
        from: String,
        to: String,
        source: TransformError,
    },
}

/// What can't be shared, with the sentence that says so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Problem {
    pub(crate) account: String,
    pub(crate) text: String,
}

/// An import that can be had, with subjects as filters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Import {
    /// Index of the account that offers it.
    pub(crate) origin: usize,
    /// Index of the offer there.
    pub(crate) export: usize,
    pub(crate) is_service: bool,
    /// The subject here.
    pub(crate) local: String,
    /// The subject there.
    pub(crate) remote: String,
    pub(crate) rename: Rename,
    /// The service is told who asks.
    pub(crate) share: bool,
}

/// What of the wishes of `accounts` can be had: imports by account, and the problems of the others.
pub(crate) fn check(accounts: &[AccountOptions]) -> (Vec<Vec<Import>>, Vec<Problem>) {
    let mut checker = Checker {
        accounts,
        imports: vec![Vec::new(); accounts.len()],
        problems: Vec::new(),
    };
    for account in accounts {
        checker.check_exports(account);
        checker.check_mappings(account);
    }
    for is_service in [false, true] {
        for (index, account) in accounts.iter().enumerate() {
            let is_wanted =
                |import: &&ImportOptions| matches!(import.kind, ImportKind::Service { .. }) == is_service;
            for import in account.imports.iter().filter(is_wanted) {
                let what = if is_service { "service" } else { "stream" };
                match checker.import(index, import) {
                    Ok(import) => checker.imports[index].push(import),
                    Err(err @ ShareError::DuplicateService { .. }) => {
                        checker.problem(account, err.to_string())
                    }
                    Err(err) => checker.problem(
                        account,
                        format!("Error adding {what} import {:?}: {err}", import.subject),
                    ),
                }
            }
        }
    }
    (checker.imports, checker.problems)
}

struct Checker<'a> {
    accounts: &'a [AccountOptions],
    imports: Vec<Vec<Import>>,
    problems: Vec<Problem>,
}

impl Checker<'_> {
    fn problem(&mut self, account: &AccountOptions, text: String) {
        let account = account.name.clone();
        self.problems.push(Problem { account, text });
    }

    fn check_exports(&mut self, account: &AccountOptions) {
        for export in &account.exports {
            let position = export.account_token_position;
            let is_right = position == 0 || export.subject.split('.').nth(position - 1) == Some("*");
            if !is_right {
                let what = match export.kind {
                    ExportKind::Stream => "stream",
                    ExportKind::Service { .. } => "service",
                };
                let err = ShareError::InvalidSubject;
                let text = format!("Error adding {what} export {:?}: {err}", export.subject);
                self.problem(account, text);
            }
        }
    }

    fn check_mappings(&mut self, account: &AccountOptions) {
        for mapping in &account.mappings {
            let err: MappingError = match Mappings::new(std::slice::from_ref(mapping)) {
                Ok(_) => continue,
                Err(err) => err,
            };
            let to = match mapping.destinations.as_slice() {
                [only] if only.weight == 100 => format!("to {:?} ", only.subject),
                _ => String::new(),
            };
            let text = format!("Error adding mapping for {:?} {to}: {err}", mapping.source);
            self.problem(account, text);
        }
    }

    fn import(&self, own: usize, import: &ImportOptions) -> Result<Import, ShareError> {
        let is_service = matches!(import.kind, ImportKind::Service { .. });
        let not_authorized = if is_service {
            ShareError::ServiceNotAuthorized
        } else {
            ShareError::StreamNotAuthorized
        };
        let found = self
            .accounts
            .iter()
            .position(|account| account.name == import.account);
        let origin = found.ok_or_else(|| not_authorized.clone())?;
        let offers = &self.accounts[origin].exports;
        let export =
            find_export(offers, &import.subject, is_service).ok_or_else(|| not_authorized.clone())?;
        if !may_import(&offers[export], &self.accounts[own].name, import) {
            return Err(not_authorized);
        }
        let remote = import.subject.as_str();
        match &import.kind {
            ImportKind::Stream { prefix, to, .. } => {
                let local = match (prefix.as_deref().filter(|prefix| !prefix.is_empty()), to) {
                    (Some(prefix), _) if !subject::is_literal(prefix) => return Err(ShareError::BadPrefix),
                    (Some(prefix), _) => format!("{}.{remote}", prefix.trim_end_matches('.')),
                    (None, Some(to)) if !to.is_empty() => to.clone(),
                    (None, _) => remote.to_owned(),
                };
                self.stream(own, origin, export, remote, &local)
            }
            ImportKind::Service { to, share } => {
                let local = if to.is_empty() { remote } else { to };
                self.service(own, origin, export, local, remote, *share)
            }
        }
    }

    fn stream(
        &self,
        own: usize,
        origin: usize,
        export: usize,
        remote: &str,
        local: &str,
    ) -> Result<Import, ShareError> {
        for subject in [local, remote] {
            self.check_stream_cycle(origin, subject, &mut BTreeSet::from([own]))?;
        }
        let built = Rename::of_stream(remote, local);
        let (rename, local) = built.map_err(|source| ShareError::Transform {
            what: "stream",
            from: remote.to_owned(),
            to: local.to_owned(),
            source,
        })?;
        let is_same = |held: &Import| !held.is_service && held.origin == origin && held.remote == remote;
        if self.imports[own].iter().any(is_same) {
            return Err(ShareError::Duplicate);
        }
        Ok(Import {
            origin,
            export,
            is_service: false,
            local,
            remote: remote.to_owned(),
            rename,
            share: false,
        })
    }

    fn service(
        &self,
        own: usize,
        origin: usize,
        export: usize,
        local: &str,
        remote: &str,
        share: bool,
    ) -> Result<Import, ShareError> {
        if !subject::is_valid_filter(local) || !subject::is_valid_filter(remote) {
            return Err(ShareError::InvalidSubject);
        }
        let before = if subject::is_literal(remote) {
            local.to_owned()
        } else {
            super::starred(local)
        };
        self.check_service_cycle(origin, &before, &mut BTreeSet::from([own]))?;
        let is_same = |held: &&Import| held.is_service && held.origin == origin && held.local == local;
        if let Some(held) = self.imports[own].iter().find(is_same) {
            return Err(ShareError::DuplicateService {
                from: local.to_owned(),
                account: self.accounts[held.origin].name.clone(),
                to: held.remote.clone(),
            });
        }
        let built = Rename::of_service(local, remote);
        let (rename, local, remote) = built.map_err(|source| ShareError::Transform {
            what: "service",
            from: local.to_owned(),
            to: remote.to_owned(),
            source,
        })?;
        Ok(Import {
            origin,
            export,
            is_service: true,
            local,
            remote,
            rename,
            share,
        })
    }

    fn check_service_cycle(
        &self,
        at: usize,
        from: &str,
        visited: &mut BTreeSet<usize>,
    ) -> Result<(), ShareError> {
        if visited.len() >= SEARCH_DEPTH_MAX {
            return Err(ShareError::Depth);
        }
        for held in self.imports[at].iter().filter(|held| held.is_service) {
            if !subject::overlaps(from, &held.remote) {
                continue;
            }
            if visited.contains(&held.origin) {
                return Err(ShareError::Cycle);
            }
            visited.insert(at);
            let narrower = if subject::is_subset(&held.local, from) {
                &held.local
            } else {
                from
            };
            self.check_service_cycle(held.origin, narrower, visited)?;
        }
        Ok(())
    }

    fn check_stream_cycle(
        &self,
        at: usize,
        to: &str,
        visited: &mut BTreeSet<usize>,
    ) -> Result<(), ShareError> {
        if visited.len() >= SEARCH_DEPTH_MAX {
            return Err(ShareError::Depth);
        }
        let is_stream = |export: &&ExportOptions| export.kind == ExportKind::Stream;
        let mut offers = self.accounts[at].exports.iter().filter(is_stream);
        if !offers.any(|export| subject::is_subset(to, &export.subject)) {
            return Ok(());
        }
        for held in self.imports[at].iter().filter(|held| !held.is_service) {
            if !subject::overlaps(to, &held.local) {
                continue;
            }
            if visited.contains(&held.origin) {
                return Err(ShareError::Cycle);
            }
            visited.insert(at);
            let narrower = if subject::is_subset(&held.local, to) {
                &held.local
            } else {
                to
            };
            self.check_stream_cycle(held.origin, narrower, visited)?;
        }
        Ok(())
    }
}

/// The offer of exactly `subject`, or the first that covers it.
fn find_export(offers: &[ExportOptions], subject: &str, is_service: bool) -> Option<usize> {
    let is_kind = |export: &ExportOptions| matches!(export.kind, ExportKind::Service { .. }) == is_service;
    let exact = offers
        .iter()
        .position(|export| is_kind(export) && export.subject == subject);
    exact.or_else(|| {
        let covers = |export: &ExportOptions| is_kind(export) && subject::is_subset(subject, &export.subject);
        offers.iter().position(covers)
    })
}

/// Whether the account of this name may take what is offered. Source: nats-server, `checkAuth`.
fn may_import(export: &ExportOptions, own: &str, import: &ImportOptions) -> bool {
    if export.account_token_position > 0 {
        let token = import.subject.split('.').nth(export.account_token_position - 1);
        return import.subject != export.subject && token == Some(own);
    }
    match &export.accounts {
        None => true,
        Some(accounts) if accounts.is_empty() => true,
        Some(accounts) => accounts.iter().any(|name| name == own),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::ResponseType;

    fn account(name: &str, exports: Vec<ExportOptions>, imports: Vec<ImportOptions>) -> AccountOptions {
        AccountOptions {
            name: name.to_owned(),
            exports,
            imports,
            ..AccountOptions::default()
        }
    }

    fn export(subject: &str, is_service: bool, accounts: Option<&[&str]>, position: usize) -> ExportOptions {
        let kind = if is_service {
            ExportKind::Service {
                response: ResponseType::Singleton,
                threshold: None,
                latency: None,
                allow_trace: false,
            }
        } else {
            ExportKind::Stream
        };
        ExportOptions {
            subject: subject.to_owned(),
            kind,
            accounts: accounts.map(|names| names.iter().map(ToString::to_string).collect()),
            account_token_position: position,
        }
    }

    fn import(account: &str, subject: &str, to: Option<&str>, is_service: bool) -> ImportOptions {
        let kind = if is_service {
            ImportKind::Service {
                to: to.unwrap_or(subject).to_owned(),
                share: false,
            }
        } else {
            ImportKind::Stream {
                prefix: None,
                to: to.map(ToOwned::to_owned),
                allow_trace: false,
            }
        };
        ImportOptions {
            account: account.to_owned(),
            subject: subject.to_owned(),
            kind,
        }
    }

    fn problems(accounts: &[AccountOptions]) -> Vec<String> {
        check(accounts)
            .1
            .into_iter()
            .map(|problem| problem.text)
            .collect()
    }

    #[test]
    fn private_offers_are_for_those_who_are_named() {
        let a = account(
            "A",
            vec![
                export("s.>", false, Some(&["B"]), 0),
                export("q.*", true, None, 2),
            ],
            vec![],
        );
        let b = account(
            "B",
            vec![],
            vec![import("A", "s.x", None, false), import("A", "q.B", None, true)],
        );
        let c = account(
            "C",
            vec![],
            vec![import("A", "s.x", None, false), import("A", "q.B", None, true)],
        );
        let (imports, problems) = check(&[a, b, c]);
        assert_eq!((imports[1].len(), imports[2].len()), (2, 0));
        let texts: Vec<&str> = problems.iter().map(|problem| problem.text.as_str()).collect();
        assert_eq!(
            texts,
            [
                "Error adding stream import \"s.x\": stream import not authorized",
                "Error adding service import \"q.B\": service import not authorized"
            ]
        );
    }

    #[test]
    fn circles_are_refused() {
        for is_service in [false, true] {
            let a = account(
                "A",
                vec![export("x", is_service, None, 0)],
                vec![import("B", "x", None, is_service)],
            );
            let b = account(
                "B",
                vec![export("x", is_service, None, 0)],
                vec![import("A", "x", None, is_service)],
            );
            let what = if is_service { "service" } else { "stream" };
            assert_eq!(
                problems(&[a, b]),
                [format!("Error adding {what} import \"x\": import forms a cycle")]
            );
        }
    }

    #[test]
    fn what_can_not_be_named_is_refused() {
        let a = || {
            account(
                "A",
                vec![export("s.*", false, None, 0), export("q.*", true, None, 3)],
                vec![],
            )
        };
        let b = account(
            "B",
            vec![],
            vec![
                import("A", "s.*", Some("t"), false),
                import("A", "s.*", Some("t.*"), false),
            ],
        );
        assert_eq!(
            problems(&[a(), b]),
            [
                "Error adding service export \"q.*\": sublist: invalid subject",
                "Error adding stream import \"s.*\": failed to create mapping transform for stream import subject from \
                 \"s.*\" to \"t\": invalid mapping destination: not using all of the token wildcard(s) in t"
            ]
        );
    }
}
