//! `/accountz` and `/accstatz`: the accounts, and what goes through them.

use serde_json::{Value, json};

use super::args::{ArgError, Args};
use super::shares::Subject;
use super::{Monitor, subsz};
use crate::accounts::Account;
use crate::api::time;

/// The answer of `/accountz`.
pub(crate) fn accountz(monitor: &Monitor, args: &Args) -> Result<Value, String> {
    let accounts = &monitor.shared.accounts;
    let mut accountz = json!({"server_id": monitor.server_id(), "now": time::format(monitor.now())});
    if let Some(system) = accounts.system() {
        accountz["system_account"] = (*system.name).into();
    }
    match args.text("acc") {
        "" => {
            let names: Vec<_> = accounts
                .all()
                .iter()
                .map(|known| known.name.to_string())
                .collect();
            accountz["accounts"] = names.into();
        }
        name => accountz["account_detail"] = account_info(monitor, name)?,
    }
    Ok(accountz)
}

/// One account.
pub(crate) fn account_info(monitor: &Monitor, name: &str) -> Result<Value, String> {
    let accounts = &monitor.shared.accounts;
    let account = accounts
        .find(name)
        .ok_or_else(|| format!("Account {name} does not exist"))?;
    let is_system = accounts
        .system()
        .is_some_and(|system| system.name == account.name);
    let has_jetstream = accounts.names().jetstream(account.router.account()).is_some();
    let mut info = json!({
        "account_name": &*account.name, "update_time": time::format(monitor.shared.live().loaded_at),
        "expired": false, "complete": true, "jetstream_enabled": has_jetstream, "leafnode_connections": 0,
        "client_connections": account.connection_count(),
        "subscriptions": subsz::client_subscriptions(monitor, name).len(),
    });
    let (system, shown) = (accounts.system(), account.shown());
    let subject = Subject {
        account: name,
        system: system.as_ref().map(|system| &*system.name),
        has_jetstream: monitor.settings.jetstream.enabled,
        shown: &shown,
    };
    if let Some(info) = info.as_object_mut() {
        info.extend(subject.fields());
    }
    info["name_tag"] = (*account.tag()).into();
    info["sublist_stats"] = subsz::figures(&[account]);
    if is_system {
        info["is_system"] = true.into();
    }
    Ok(info)
}

/// The answer of `/accstatz`: the named accounts, or all; those that nobody uses only if that is asked for.
pub(crate) fn accstatz(monitor: &Monitor, args: &Args, names: &[&str]) -> Result<Value, ArgError> {
    let with_unused = args.flag("unused")? || args.flag("include_unused")?;
    let accounts = monitor.shared.accounts.all();
    let stats: Vec<Value> = accounts
        .iter()
        .filter(|account| names.is_empty() || names.contains(&&*account.name))
        .filter(|account| with_unused || account.connection_count() > 0)
        .map(|account| account_stat(monitor, account))
        .collect();
    Ok(json!({"server_id": monitor.server_id(), "now": time::format(monitor.now()), "account_statz": stats}))
}

/// Messages and bytes, and how many of them went to or came from other servers: none.
fn parts(msgs: u64, bytes: u64) -> Value {
    let none = json!({"msgs": 0, "bytes": 0});
    json!({"msgs": msgs, "bytes": bytes, "gateways": none, "routes": none, "leafs": none})
}

/// What goes through an account.
pub(crate) fn account_stat(monitor: &Monitor, account: &Account) -> Value {
    let traffic = monitor.shared.traffic_of(account);
    json!({
        "acc": &*account.name, "name": &*account.tag(), "conns": account.connection_count(), "leafnodes": 0,
        "total_conns": account.connection_count(),
        "num_subscriptions": subsz::client_subscriptions(monitor, &account.name).len(),
        "sent": parts(traffic.out_msgs, traffic.out_bytes),
        "received": parts(traffic.in_msgs, traffic.in_bytes),
        "slow_consumers": traffic.slow_consumers,
    })
}
