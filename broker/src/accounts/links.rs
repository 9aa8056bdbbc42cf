//! Linking accounts to each other, as their options say.

use std::sync::Arc;

use super::shown::{Shown, ShownImport};
use super::{Account, Accounts, Domains};
use crate::options::{
    AccountOptions, AuthOptions, ExportKind, ExportOptions, MapDestination, ResponseType, SubjectMapping,
};
use crate::sharing::check::{Import, check};
use crate::sharing::mapping::Mappings;
use crate::sharing::{RESPONSE_THRESHOLD, ServiceLink, Sharing, StreamLink};

impl Accounts {
    /// Gives each account what the options let it share. What can't be shared is told to the log.
    pub(super) fn link(&self, options: &AuthOptions, domains: &Domains) {
        let wishes = &options.accounts;
        let (imports, problems) = check(wishes);
        for problem in problems {
            tracing::error!(account = problem.account, "{}", problem.text);
        }
        let accounts: Vec<Arc<Account>> = wishes.iter().map(|wish| self.named(&wish.name)).collect();
        let mut shared: Vec<Sharing> = wishes.iter().map(|_| Sharing::default()).collect();
        let mut shown: Vec<Shown> = wishes
            .iter()
            .zip(&imports)
            .map(|(wish, imports)| shown(&accounts, wish, imports))
            .collect();
        for (own, imports) in imports.into_iter().enumerate() {
            for import in imports {
                if import.is_service {
                    shared[own]
                        .services
                        .push(Arc::new(service(&accounts, wishes, own, import)));
                    continue;
                }
                let origin = Arc::downgrade(&accounts[import.origin].router);
                shared[own].origins.push(origin);
                shared[import.origin].listeners.push(StreamLink {
                    router: Arc::downgrade(&accounts[own].router),
                    from: import.remote.into(),
                    rename: import.rename,
                });
            }
        }
        for account in self.all() {
            let index = accounts.iter().position(|known| known.name == account.name);
            let mut sharing = index.map_or_else(Sharing::default, |index| std::mem::take(&mut shared[index]));
            sharing.measures = index.is_some_and(|index| wishes[index].exports.iter().any(is_measured));
            let mut shown = index.map_or_else(Shown::default, |index| std::mem::take(&mut shown[index]));
            shown.mappings = Self::mappings(&account, index.map(|index| &wishes[index]), domains);
            sharing.mappings = Mappings::new(&shown.mappings).unwrap_or_default();
            account.router.set_sharing(sharing);
            account.set_shown(shown);
        }
    }

    /// The mappings of an account, that of its domain of JetStream among them.
    fn mappings(account: &Account, wish: Option<&AccountOptions>, domains: &Domains) -> Vec<SubjectMapping> {
        let mut mappings: Vec<SubjectMapping> = Vec::new();
        if let Some(domain) = domains.default.get(&*account.name)
            && domains.own.as_ref() != Some(domain)
        {
            mappings.push(SubjectMapping {
                source: "$JS.API.>".to_owned(),
                destinations: vec![MapDestination {
                    subject: format!("$JS.{domain}.API.>"),
                    weight: 100,
                    cluster: None,
                }],
            });
        }
        let wished = wish.into_iter().flat_map(|wish| &wish.mappings);
        // Those that make no sense have been told of.
        mappings.extend(
            wished
                .filter(|mapping| Mappings::new(std::slice::from_ref(mapping)).is_ok())
                .cloned(),
        );
        mappings
    }
}

/// What an account offers and has, but for its mappings.
fn shown(accounts: &[Arc<Account>], wish: &AccountOptions, imports: &[Import]) -> Shown {
    let import = |import: &Import| ShownImport {
        account: Arc::clone(&accounts[import.origin].name),
        is_service: import.is_service,
        remote: import.remote.clone(),
        local: import.local.clone(),
        share: import.share,
    };
    Shown {
        exports: wish.exports.clone(),
        imports: imports.iter().map(import).collect(),
        mappings: Vec::new(),
    }
}

fn is_measured(export: &ExportOptions) -> bool {
    matches!(&export.kind, ExportKind::Service { latency, .. } if latency.is_some())
}

fn service(accounts: &[Arc<Account>], wishes: &[AccountOptions], own: usize, import: Import) -> ServiceLink {
    let offer = &wishes[import.origin].exports[import.export];
    let (response, threshold, latency) = match &offer.kind {
        ExportKind::Service {
            response,
            threshold,
            latency,
            ..
        } => (*response, *threshold, latency.clone()),
        ExportKind::Stream => (ResponseType::Singleton, None, None),
    };
    let before: usize = wishes[..import.origin]
        .iter()
        .map(|wish| wish.exports.len())
        .sum();
    ServiceLink {
        export: before + import.export,
        asker: Arc::downgrade(&accounts[own].router),
        asker_name: Arc::clone(&accounts[own].name),
        router: Arc::downgrade(&accounts[import.origin].router),
        account_name: Arc::clone(&accounts[import.origin].name),
        from: import.local.into(),
        rename: import.rename,
        response,
        threshold: threshold.unwrap_or(RESPONSE_THRESHOLD),
        share: import.share,
        latency,
    }
}
