//! Requests: which one it is, who may ask for what, and the answer.

use std::sync::Arc;

use serde_json::{Value, json};

use super::System;
use crate::monitor::args::Args;
use crate::monitor::{accountz, connz, jetstream, subsz};
use crate::outbound::{ClientId, CloseReason};

/// Marks an answer that goes without an envelope.
const ID_ALONE: &str = "idz";
/// Marks an answer that says no more than that it was done.
const NO_DATA: &str = "done";

/// Who asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Asker {
    /// A client of the system account: it may ask for everything.
    System,
    /// A client of this account: it hears of its own account.
    Account(Arc<str>),
}

/// Why there is no answer.
enum Refusal {
    /// Somebody else has to answer, or nobody.
    Silence,
    /// The request is wrong.
    Error(u16, String),
}

impl<E: std::fmt::Display> From<E> for Refusal {
    fn from(err: E) -> Self {
        Self::Error(400, err.to_string())
    }
}

impl System {
    /// The answer to a request; none if it is not for this server.
    pub(super) async fn answer(&self, asker: &Asker, subject: &str, payload: &[u8]) -> Option<Value> {
        let tokens: Vec<&str> = subject.split('.').skip(2).collect();
        let answered = match (asker, tokens.as_slice()) {
            (Asker::System, ["SERVER", "PING"]) => self.server_request("STATSZ", payload).await,
            (Asker::System, ["SERVER", _, what]) => self.server_request(what, payload).await,
            (Asker::System, ["ACCOUNT", "PING", "STATZ"]) => self.statz(payload, &[]),
            (Asker::System, ["ACCOUNT", account, what]) => self.account_request(account, what, payload).await,
            (Asker::Account(account), [_, "PING", what]) => {
                self.account_request(account, what, payload).await
            }
            _ => Err(Refusal::Silence),
        };
        let (name, value) = match answered {
            Ok(mut data) => {
                let is_id = |fields: &mut serde_json::Map<String, Value>| fields.remove(ID_ALONE).is_some();
                let is_done = |fields: &mut serde_json::Map<String, Value>| fields.remove(NO_DATA).is_some();
                if data.as_object_mut().is_some_and(is_done) {
                    return Some(json!({"server": self.server()}));
                }
                if data.get("server").is_some() || data.as_object_mut().is_some_and(is_id) {
                    return Some(data);
                }
                ("data", data)
            }
            Err(Refusal::Error(code, description)) => {
                ("error", json!({"code": code, "description": description}))
            }
            Err(Refusal::Silence) => return None,
        };
        Some(json!({"server": self.server(), name: value}))
    }

    async fn server_request(&self, what: &str, payload: &[u8]) -> Result<Value, Refusal> {
        let args = Args::from_json(payload)?;
        if !self.is_meant(&args) {
            return Err(Refusal::Silence);
        }
        let monitor = &self.monitor;
        let info = &monitor.shared.info;
        Ok(match what {
            "IDZ" => {
                json!({ID_ALONE: true, "name": info.server_name, "host": info.host, "id": info.server_id})
            }
            "STATSZ" => self.statsz().await,
            "VARZ" => monitor.varz().await,
            "CONNZ" => connz::connz(monitor, &args)?,
            "SUBSZ" => subsz::subsz(monitor, &args)?,
            "ROUTEZ" => monitor.routez(),
            "GATEWAYZ" => monitor.gatewayz(),
            "LEAFZ" => monitor.leafz(),
            "ACCOUNTZ" => accountz::accountz(monitor, &args)?,
            "JSZ" => {
                let jsz = jetstream::jsz(monitor, &args).await?;
                jsz.ok_or_else(|| format!("account {:?} not found", args.text("acc")))?
            }
            "HEALTHZ" => monitor.healthz(&args).await?.1,
            "EXPVARZ" | "IPQUEUESZ" | "RAFTZ" => json!({}),
            "KICK" => self.kick(&args)?,
            "LDM" => self.tell_to_go(&args)?,
            "RELOAD" => {
                let outcome = monitor.shared.reloads.ask().await;
                outcome.map_err(|reason| Refusal::Error(500, reason))?;
                json!({NO_DATA: true})
            }
            _ => return Err(Refusal::Silence),
        })
    }

    async fn account_request(&self, account: &str, what: &str, payload: &[u8]) -> Result<Value, Refusal> {
        let mut args = Args::from_json(payload)?;
        if !self.is_meant(&args) {
            return Err(Refusal::Silence);
        }
        let monitor = &self.monitor;
        args.set("acc", account);
        Ok(match what {
            "CONNZ" => connz::connz(monitor, &args)?,
            "SUBSZ" => {
                args.set("subs", "1");
                subsz::subsz(monitor, &args)?
            }
            "JSZ" => {
                let jsz = jetstream::jsz_account(monitor, account, &args).await?;
                jsz.ok_or_else(|| format!("account {account:?} not found"))?
            }
            "INFO" => accountz::account_info(monitor, account)?,
            "STATZ" => return self.statz(payload, &[account]),
            "CONNS" => {
                let account = monitor.shared.accounts.find(account).ok_or(Refusal::Silence)?;
                let mut stat = accountz::account_stat(monitor, &account);
                stat["server"] = self.server();
                stat
            }
            _ => return Err(Refusal::Silence),
        })
    }

    fn statz(&self, payload: &[u8], accounts: &[&str]) -> Result<Value, Refusal> {
        let mut args = Args::from_json(payload)?;
        if accounts.is_empty() && !args.text("accounts").is_empty() {
            let asked: Vec<String> = serde_json::from_str(args.text("accounts"))?;
            let asked: Vec<&str> = asked.iter().map(String::as_str).collect();
            args.set("unused", "1");
            return Ok(accountz::accstatz(&self.monitor, &args, &asked)?);
        }
        let statz = accountz::accstatz(&self.monitor, &args, accounts)?;
        let is_empty = statz["account_statz"].as_array().is_none_or(Vec::is_empty);
        if is_empty {
            return Err(Refusal::Silence);
        }
        Ok(statz)
    }

    /// Whether a request's filter leaves this server in.
    fn is_meant(&self, args: &Args) -> bool {
        let info = &self.monitor.shared.info;
        let is_exact = args.text("exact_match") == "true";
        let fits = |asked: &str, own: &str| {
            asked.is_empty()
                || if is_exact {
                    asked == own
                } else {
                    own.contains(asked)
                }
        };
        let domain = self
            .monitor
            .settings
            .jetstream
            .domain
            .as_deref()
            .unwrap_or_default();
        let asked: Vec<String> = serde_json::from_str(args.text("tags")).unwrap_or_default();
        let tags = &self.monitor.settings.tags;
        let has_tags = asked
            .iter()
            .all(|tag| tags.contains(&tag.trim().to_ascii_lowercase()));
        fits(args.text("server_name"), &info.server_name)
            && fits(args.text("host"), &info.host)
            && fits(args.text("cluster"), "")
            && (args.text("domain").is_empty() || args.text("domain") == domain)
            && has_tags
    }

    fn kick(&self, args: &Args) -> Result<Value, Refusal> {
        let connection = self.connection(args)?;
        connection.outbound.finish(CloseReason::Kicked);
        Ok(Value::Null)
    }

    fn tell_to_go(&self, args: &Args) -> Result<Value, Refusal> {
        let connection = self.connection(args)?;
        self.monitor.shared.tell_of_lame_duck(&connection);
        Ok(Value::Null)
    }

    fn connection(&self, args: &Args) -> Result<Arc<crate::nats::connections::Connection>, Refusal> {
        let cid = args.number("cid")?;
        let found = self.monitor.shared.connections.find(ClientId(cid));
        found.ok_or_else(|| Refusal::Error(400, format!("no such client id: {cid}")))
    }
}
