//! `openclaw devices`: paired devices and their tokens.

use clap::Subcommand;
use serde_json::{Value, json};

use super::Outcome;
use crate::{
    cx::Cx,
    fail::Fail,
    format::{dash, list, number, relative, text},
    print,
    rpc::{self, Common},
};

/// Paired devices and their tokens.
#[derive(clap::Args)]
#[command(
    arg_required_else_help = true,
    after_help = "Examples:\n  openclaw devices list\n  openclaw devices approve 3f0c…\n  openclaw devices rotate --device <id> --role operator"
)]
pub struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Requests and paired devices
    List {
        #[command(flatten)]
        common: Common,
    },
    /// Let a device in
    Approve {
        /// Request
        request: Option<String>,
        /// The newest request
        #[arg(long)]
        latest: bool,
        #[command(flatten)]
        common: Common,
    },
    /// Turn a request down
    Reject {
        /// Request
        request: String,
        #[command(flatten)]
        common: Common,
    },
    /// Forget a device
    Remove {
        /// Device
        device: String,
        #[command(flatten)]
        common: Common,
    },
    /// Name a device
    Rename {
        /// Device
        device: String,
        /// Name
        label: String,
        #[command(flatten)]
        common: Common,
    },
    /// Forget all devices
    Clear {
        /// Needed
        #[arg(long)]
        yes: bool,
        /// Requests too
        #[arg(long)]
        pending: bool,
        #[command(flatten)]
        common: Common,
    },
    /// New token for a device
    Rotate {
        /// Device
        #[arg(long, value_name = "ID")]
        device: String,
        /// Role
        #[arg(long, default_value = "operator")]
        role: String,
        /// A scope of the new token
        #[arg(long, value_name = "SCOPE")]
        scope: Vec<String>,
        /// No scopes at all
        #[arg(long, conflicts_with = "scope")]
        no_scopes: bool,
        #[command(flatten)]
        common: Common,
    },
    /// Take a device's token away
    Revoke {
        /// Device
        #[arg(long, value_name = "ID")]
        device: String,
        /// Role
        #[arg(long, default_value = "operator")]
        role: String,
        #[command(flatten)]
        common: Common,
    },
}

fn call(cx: &Cx, common: &Common, method: &str, params: Value) -> Result<Value, Fail> {
    rpc::call(cx, &common.gateway, 10_000, method, params)
}

fn told(common: &Common, answer: &Value, words: &str) -> Outcome {
    if common.json {
        print::json(answer);
    } else {
        print::line(words);
    }
    Ok(0)
}

/// Runs it.
pub fn run(args: Args, cx: &Cx) -> Outcome {
    match args.verb {
        Verb::List { common } => show(cx, &common),
        Verb::Approve { request, latest, common } => approve(cx, request, latest, &common),
        Verb::Reject { request, common } => {
            let answer = call(cx, &common, "device.pair.reject", json!({"requestId": request}))?;
            told(&common, &answer, &format!("Rejected {request}."))
        }
        Verb::Remove { device, common } => {
            let answer = call(cx, &common, "device.pair.remove", json!({"deviceId": device}))?;
            told(&common, &answer, &format!("Removed {device}."))
        }
        Verb::Rename { device, label, common } => {
            let answer = call(cx, &common, "device.pair.rename", json!({"deviceId": device, "label": label}))?;
            told(&common, &answer, &format!("{device} is now {label}."))
        }
        Verb::Clear { yes, pending, common } => clear(cx, yes, pending, &common),
        Verb::Rotate { device, role, scope, no_scopes, common } => {
            let mut params = json!({"deviceId": device, "role": role});
            if no_scopes || !scope.is_empty() {
                params["scopes"] = json!(scope);
            }
            let answer = call(cx, &common, "device.token.rotate", params)?;
            print::json(&answer);
            Ok(0)
        }
        Verb::Revoke { device, role, common } => {
            let answer = call(cx, &common, "device.token.revoke", json!({"deviceId": device, "role": role}))?;
            told(&common, &answer, &format!("Revoked the {role} token of {device}."))
        }
    }
}

fn show(cx: &Cx, common: &Common) -> Outcome {
    let found = call(cx, common, "device.pair.list", json!({}))?;
    if common.json {
        print::json(&found);
        return Ok(0);
    }
    let (pending, paired) = (list(&found, "pending"), list(&found, "paired"));
    if pending.is_empty() && paired.is_empty() {
        print::line("No device pairing entries.");
        return Ok(0);
    }
    let words = |value: &Value, name: &str| list(value, name).iter().filter_map(Value::as_str).collect::<Vec<_>>().join(", ");
    if !pending.is_empty() {
        print::line(&format!("Pending ({})", pending.len()));
        let rows: Vec<Vec<String>> = pending
            .iter()
            .map(|p| {
                vec![
                    text(p, "requestId").to_owned(),
                    dash(text(p, "displayName")),
                    dash(text(p, "role")),
                    words(p, "scopes"),
                    dash(text(p, "remoteIp")),
                    relative(number(p, "ts")),
                ]
            })
            .collect();
        print::columns(&["Request", "Device", "Role", "Scopes", "IP", "Age"], &rows);
    }
    if !paired.is_empty() {
        print::line(&format!("Paired ({})", paired.len()));
        let rows: Vec<Vec<String>> = paired
            .iter()
            .map(|p| {
                let tokens = match &p["tokens"] {
                    Value::Array(tokens) => tokens.len(),
                    Value::Object(tokens) => tokens.len(),
                    _ => 0,
                };
                vec![text(p, "deviceId").to_owned(), dash(text(p, "displayName")), words(p, "roles"), words(p, "scopes"), tokens.to_string()]
            })
            .collect();
        print::columns(&["Device", "Name", "Roles", "Scopes", "Tokens"], &rows);
    }
    Ok(0)
}

fn approve(cx: &Cx, request: Option<String>, latest: bool, common: &Common) -> Outcome {
    let id = match request {
        Some(id) => id,
        None => {
            let found = call(cx, common, "device.pair.list", json!({}))?;
            let newest = list(&found, "pending").iter().max_by_key(|p| number(p, "ts"));
            let Some(newest) = newest else { return Err(Fail::new("No pending device pairing requests.").hint("openclaw devices list")) };
            let id = text(newest, "requestId").to_owned();
            if !latest {
                print::line(&format!("Newest request: {id} ({}, {})", text(newest, "displayName"), text(newest, "role")));
                print::line(&format!("Approve it: openclaw devices approve {id}"));
                return Ok(1);
            }
            id
        }
    };
    let answer = call(cx, common, "device.pair.approve", json!({"requestId": id}))?;
    told(common, &answer, &format!("Approved {id}."))
}

fn clear(cx: &Cx, yes: bool, pending: bool, common: &Common) -> Outcome {
    if !yes {
        return Err(Fail::new("Clearing all devices needs --yes.").hint("openclaw devices clear --yes"));
    }
    let found = call(cx, common, "device.pair.list", json!({}))?;
    let mut removed = Vec::new();
    for device in list(&found, "paired") {
        let id = text(device, "deviceId");
        call(cx, common, "device.pair.remove", json!({"deviceId": id}))?;
        removed.push(id);
    }
    let mut rejected = Vec::new();
    for request in list(&found, "pending").iter().filter(|_| pending) {
        let id = text(request, "requestId");
        call(cx, common, "device.pair.reject", json!({"requestId": id}))?;
        rejected.push(id);
    }
    told(
        common,
        &json!({"removedDevices": removed, "rejectedRequests": rejected}),
        &format!("Removed {} devices, rejected {} requests.", removed.len(), rejected.len()),
    )
}
