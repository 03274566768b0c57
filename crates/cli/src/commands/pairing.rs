//! `openclaw pairing`: senders that ask to talk to an agent.

use clap::Subcommand;
use serde_json::{Value, json};

use super::Outcome;
use crate::{
    cx::Cx,
    fail::Fail,
    format::{list, number, relative, text},
    print,
    rpc::{self, Connect},
};

/// Senders that ask to talk to an agent.
#[derive(clap::Args)]
#[command(arg_required_else_help = true, after_help = "Examples:\n  openclaw pairing list telegram\n  openclaw pairing approve telegram ABCD2345 --notify")]
pub struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Open requests
    List {
        /// Channel
        channel: Option<String>,
        /// Channel
        #[arg(long = "channel", value_name = "ID", conflicts_with = "channel")]
        named: Option<String>,
        /// Account
        #[arg(long, value_name = "ID")]
        account: Option<String>,
        /// JSON
        #[arg(long)]
        json: bool,
    },
    /// Let a sender in
    Approve {
        /// Channel and code, or the code with --channel
        #[arg(num_args = 1..=2, required = true, value_names = ["CHANNEL", "CODE"])]
        what: Vec<String>,
        /// Channel
        #[arg(long, value_name = "ID")]
        channel: Option<String>,
        /// Account
        #[arg(long, value_name = "ID")]
        account: Option<String>,
        /// Tell the sender
        #[arg(long)]
        notify: bool,
        /// JSON
        #[arg(long)]
        json: bool,
    },
}

fn requests(cx: &Cx, channel: Option<&str>, account: Option<&str>) -> Result<Value, Fail> {
    let mut params = json!({});
    for (name, value) in [("channel", channel), ("accountId", account)] {
        if let Some(value) = value {
            params[name] = value.into();
        }
    }
    rpc::call(cx, &Connect::configured(None), 10_000, "channels.pairing.list", params)
}

/// Runs it.
pub fn run(args: Args, cx: &Cx) -> Outcome {
    match args.verb {
        Verb::List { channel, named, account, json } => {
            let channel = channel.or(named);
            let found = requests(cx, channel.as_deref(), account.as_deref())?;
            let rows = list(&found, "requests");
            if json {
                print::json(&json!({"channel": channel, "requests": rows}));
                return Ok(0);
            }
            if rows.is_empty() {
                print::line(&format!("No pending {} pairing requests.", channel.as_deref().unwrap_or("channel")));
                return Ok(0);
            }
            let cells: Vec<Vec<String>> = rows
                .iter()
                .map(|r| {
                    vec![
                        text(r, "code").to_owned(),
                        text(r, "channel").to_owned(),
                        sender(r).to_owned(),
                        relative(number(r, "createdAtMs").or_else(|| number(r, "createdAt"))),
                    ]
                })
                .collect();
            print::columns(&["Code", "Channel", "Sender", "Asked"], &cells);
            Ok(0)
        }
        Verb::Approve { what, channel, account, notify, json } => {
            let (channel, code) = match (channel, what.as_slice()) {
                (Some(channel), [code]) => (channel, code.clone()),
                (None, [channel, code]) => (channel.clone(), code.clone()),
                _ => return Err(Fail::new("Pass channel and code: openclaw pairing approve <channel> <code>.").hint("openclaw pairing list")),
            };
            let found = requests(cx, Some(&channel), account.as_deref())?;
            let wanted = code.trim().to_uppercase();
            let request =
                list(&found, "requests").iter().find(|r| text(r, "code").to_uppercase() == wanted || text(r, "requestId") == code || text(r, "id") == code);
            let Some(request) = request else {
                return Err(Fail::new(format!("No pending pairing request found for code: {code}")).hint(format!("openclaw pairing list {channel}")));
            };
            let id = if text(request, "requestId").is_empty() { text(request, "id") } else { text(request, "requestId") };
            let account =
                account.unwrap_or_else(|| if text(request, "accountId").is_empty() { "default".into() } else { text(request, "accountId").to_owned() });
            let answer = rpc::call(
                cx,
                &Connect::configured(None),
                10_000,
                "channels.pairing.approve",
                json!({"channel": channel, "accountId": account, "requestId": id, "notify": notify}),
            )?;
            if json {
                print::json(&answer);
            } else {
                print::line(&format!("Approved {channel} sender {}.", sender(request)));
            }
            Ok(0)
        }
    }
}

fn sender(request: &Value) -> &str {
    ["senderId", "sender", "id"].into_iter().map(|name| text(request, name)).find(|t| !t.is_empty()).unwrap_or("?")
}
