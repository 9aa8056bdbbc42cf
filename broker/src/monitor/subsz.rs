//! `/subsz`: the subscriptions of clients.

use std::sync::Arc;

use serde_json::{Value, json};

use super::args::{ArgError, Args};
use super::{Monitor, PAGE_SIZE};
use crate::accounts::Account;
use crate::api::time;
use crate::router::{RouterChanges, Subscription};
use crate::subject;

/// The subscriptions of an account's clients (empty: of all), each with the account's name.
pub(super) fn client_subscriptions(monitor: &Monitor, account: &str) -> Vec<(Arc<str>, Arc<Subscription>)> {
    let accounts = monitor.shared.accounts.all();
    accounts
        .iter()
        .filter(|known| account.is_empty() || *known.name == *account)
        .flat_map(|known| {
            let held = known.router.subscriptions();
            held.into_iter()
                .filter(|held| !held.target().is_internal())
                .map(|held| (Arc::clone(&known.name), held))
        })
        .collect()
}

/// One subscription.
pub(super) fn detail(subscription: &Subscription) -> Value {
    let mut detail = json!({
        "subject": subscription.subject(), "sid": subscription.sid_text(),
        "msgs": subscription.delivered(), "cid": subscription.target().id().0,
    });
    if let Some(queue) = subscription.queue() {
        detail["qgroup"] = queue.into();
    }
    if let Some(max) = subscription.max() {
        detail["max"] = max.into();
    }
    detail
}

/// What has happened to the subscriptions of accounts.
pub(super) fn figures(accounts: &[Arc<Account>]) -> Value {
    let sum = |figure: fn(RouterChanges) -> u64| -> u64 {
        accounts
            .iter()
            .map(|account| figure(account.router.changes()))
            .sum()
    };
    let held: usize = accounts
        .iter()
        .map(|account| account.router.subscription_count())
        .sum();
    json!({
        "num_subscriptions": held, "num_cache": 0,
        "num_inserts": sum(|changes| changes.inserts), "num_removes": sum(|changes| changes.removes),
        "num_matches": sum(|changes| changes.lookups), "cache_hit_rate": 0.0, "max_fanout": 0, "avg_fanout": 0.0,
    })
}

/// The answer of `/subsz`.
pub(crate) fn subsz(monitor: &Monitor, args: &Args) -> Result<Value, ArgError> {
    let (offset, limit) = args.page(PAGE_SIZE)?;
    let with_list = args.text("subs") == "detail" || args.flag("subs")?;
    let test = args.text("test");
    let mut held = client_subscriptions(monitor, args.text("acc"));
    let accounts = monitor.shared.accounts.all();
    let mut subsz = figures(&accounts);
    for (name, value) in [
        ("server_id", json!(monitor.server_id())),
        ("now", json!(time::format(monitor.now()))),
        ("num_subscriptions", json!(held.len())),
        ("offset", json!(offset)),
        ("limit", json!(limit)),
    ] {
        subsz[name] = value;
    }
    if !test.is_empty() {
        held.retain(|(_, held)| subject::matches(held.subject(), test));
    }
    subsz["total"] = held.len().into();
    if with_list {
        let page = held.iter().skip(offset).take(limit);
        let listed = page.map(|(account, held)| {
            let mut detail = detail(held);
            detail["account"] = (**account).into();
            detail["account_tag"] = (**account).into();
            detail
        });
        subsz["subscriptions_list"] = listed.collect();
    }
    Ok(subsz)
}
