//! `channels capabilities` and `channels resolve`: what channels can do, and who is meant by a name.

use clap::builder::PossibleValuesParser;
use clawstead_channels as channels;
use clawstead_config::ChannelsConfig;
use serde_json::{Value, json};

use super::{chosen, label, must_run};
use crate::{
    commands::Outcome,
    cx::Cx,
    fail::{Fail, Kind},
    format::text,
    print,
    rpc::{self, Connect},
};

/// What channels can do.
#[derive(clap::Args)]
pub struct CapabilitiesArgs {
    /// One channel, or all
    #[arg(long, value_name = "ID", default_value = "all")]
    channel: String,
    /// Account (with --channel)
    #[arg(long, value_name = "ID")]
    account: Option<String>,
    /// Accepted for compatibility: no channel here knows permissions of targets
    #[arg(long, value_name = "DEST", hide = true)]
    target: Option<String>,
    /// Budget, milliseconds
    #[arg(long, value_name = "MS", default_value_t = 10_000)]
    timeout: u64,
    /// JSON
    #[arg(long)]
    json: bool,
}

/// Names to ids.
#[derive(clap::Args)]
pub struct ResolveArgs {
    /// Names or ids
    #[arg(required = true)]
    entries: Vec<String>,
    /// Channel [default: the only one]
    #[arg(long, value_name = "ID")]
    channel: Option<String>,
    /// Account
    #[arg(long, value_name = "ID")]
    account: Option<String>,
    /// What is meant
    #[arg(long, value_name = "KIND", default_value = "auto", value_parser = PossibleValuesParser::new(["auto", "user", "group", "channel"]))]
    kind: String,
    /// JSON
    #[arg(long)]
    json: bool,
}

/// `channels capabilities`.
pub fn capabilities(args: &CapabilitiesArgs, cx: &Cx) -> Outcome {
    let (_, loaded) = cx.loaded()?;
    let configured = &loaded.config.channels;
    let wanted = args.channel.to_lowercase();
    if wanted == "all" && args.account.is_some() {
        return Err(Fail::new("--account needs --channel.").hint("openclaw channels capabilities --help"));
    }
    let ids: Vec<String> = if wanted == "all" {
        configured.blocks.iter().map(|(id, _)| id.clone()).collect()
    } else {
        known(configured, &wanted)?;
        vec![wanted]
    };
    let live = match rpc::call(cx, &Connect::configured(Some(args.timeout)), args.timeout, "channels.status", json!({"probe": true})) {
        Ok(found) => found,
        Err(fail) if fail.kind == Kind::Transport => Value::Null,
        Err(fail) => return Err(fail),
    };
    let mut rows = Vec::new();
    for id in &ids {
        let runs = channels::find(id).is_some();
        let accounts = configured.accounts(id);
        let named: Vec<(String, bool, bool)> = if accounts.is_empty() {
            vec![("default".to_owned(), false, false)]
        } else {
            accounts.iter().map(|a| (a.id.to_string(), true, a.enabled)).collect()
        };
        for (account, configured, enabled) in named.into_iter().filter(|(account, ..)| args.account.as_deref().is_none_or(|one| one == account)) {
            let state = live["channelAccounts"][id].as_array().and_then(|list| list.iter().find(|one| text(one, "accountId") == account)).cloned();
            let support = json!({"chatTypes": if runs { json!(["direct", "group"]) } else { json!([]) }, "text": runs, "media": false, "polls": false, "reactions": false, "threads": false, "login": false});
            let mut row = json!({"channel": id, "accountId": account, "configured": configured, "enabled": enabled, "available": runs, "support": support, "probe": state.unwrap_or(Value::Null)});
            if !runs {
                row["note"] = format!("{} is not run by this version", label(id)).into();
            }
            rows.push(row);
        }
    }
    if args.json {
        print::json(&json!({"channels": rows}));
        return Ok(0);
    }
    if rows.is_empty() {
        print::line("No configured chat channels (openclaw channels add).");
    }
    for row in &rows {
        let able: Vec<&str> = row["support"].as_object().into_iter().flatten().filter(|(_, yes)| **yes == true).map(|(name, _)| name.as_str()).collect();
        let state = match (row["available"] == true, row["probe"]["connected"] == true) {
            (false, _) => text(row, "note").to_owned(),
            (true, true) => "connected".into(),
            (true, false) => "not connected".into(),
        };
        let able = if able.is_empty() { "-".to_owned() } else { able.join(", ") };
        print::line(&format!("- {} {}: {state}; can: {able}", label(text(row, "channel")), text(row, "accountId")));
    }
    Ok(0)
}

fn known(configured: &ChannelsConfig, id: &str) -> Result<(), Fail> {
    if configured.block(id).is_some() || super::ACCEPTED.contains(&id) || channels::find(id).is_some() {
        return Ok(());
    }
    Err(super::unknown(id))
}

/// `channels resolve`.
pub fn resolve(args: &ResolveArgs, cx: &Cx) -> Outcome {
    let channel = chosen(cx, args.channel.as_ref())?;
    must_run(&channel)?;
    let (_, loaded) = cx.loaded()?;
    if let Some(account) = &args.account
        && !loaded.config.channels.accounts(&channel).iter().any(|one| one.id.as_str() == account.as_str())
    {
        return Err(Fail::new(format!("{} has no account \"{account}\".", label(&channel))).hint("openclaw channels list"));
    }
    // The channels that run here name people and rooms by their ids; there is no directory to ask.
    let prefix = format!("{channel}:");
    let rows: Vec<Value> = args
        .entries
        .iter()
        .map(|entry| {
            let id = entry.trim().strip_prefix(&prefix).unwrap_or(entry.trim());
            if id.is_empty() || id.starts_with('@') || id.starts_with('#') || id.contains(char::is_whitespace) {
                json!({"input": entry, "resolved": false, "note": "this channel has no directory; use the id"})
            } else {
                json!({"input": entry, "resolved": true, "id": id, "name": id, "note": "taken as the id"})
            }
        })
        .collect();
    if args.json {
        print::json(&Value::Array(rows));
        return Ok(0);
    }
    for row in &rows {
        let found = if row["resolved"] == true { text(row, "id").to_owned() } else { "not found".to_owned() };
        print::line(&format!("{} -> {found} ({})", text(row, "input"), text(row, "note")));
    }
    Ok(0)
}
