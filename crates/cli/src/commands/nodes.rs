//! `openclaw nodes`: devices that lend their capabilities.

use clap::Subcommand;
use serde_json::{Value, json};

use super::Outcome;
use crate::{
    cx::Cx,
    fail::Fail,
    format::{list, now_ms, number, text},
    print,
    rpc::{self, Common, Connect},
};

/// Devices that lend their capabilities.
#[derive(clap::Args)]
#[command(
    arg_required_else_help = true,
    after_help = "Examples:\n  openclaw nodes status\n  openclaw nodes approve <requestId>\n  openclaw nodes invoke --node <id> --command camera.snap"
)]
pub struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Requests and paired nodes
    List {
        /// Connected ones
        #[arg(long)]
        connected: bool,
        /// Seen within this time
        #[arg(long, value_name = "DUR")]
        last_connected: Option<String>,
        #[command(flatten)]
        common: Common,
    },
    /// Known nodes and what they can do
    Status {
        /// Connected ones
        #[arg(long)]
        connected: bool,
        /// Seen within this time
        #[arg(long, value_name = "DUR")]
        last_connected: Option<String>,
        #[command(flatten)]
        common: Common,
    },
    /// One node
    Describe {
        /// Node
        #[arg(long, value_name = "ID")]
        node: String,
        #[command(flatten)]
        common: Common,
    },
    /// Let a node in
    Approve {
        /// Request
        request: String,
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
    /// Forget a node
    Remove {
        /// Node
        node: String,
        #[command(flatten)]
        common: Common,
    },
    /// Name a node
    Rename {
        /// Node
        #[arg(long, value_name = "ID")]
        node: String,
        /// Name
        #[arg(long)]
        name: String,
        #[command(flatten)]
        common: Common,
    },
    /// Run a command on a node
    Invoke {
        /// Node
        #[arg(long, value_name = "ID")]
        node: String,
        /// Command
        #[arg(long)]
        command: String,
        /// Parameters as JSON
        #[arg(long, default_value = "{}")]
        params: String,
        /// Budget of the node, milliseconds
        #[arg(long, default_value_t = 15_000, value_name = "MS")]
        invoke_timeout: u64,
        /// Key that makes repeats one call
        #[arg(long, value_name = "KEY")]
        idempotency_key: Option<String>,
        #[command(flatten)]
        common: Common,
    },
}

/// Runs it.
pub fn run(args: Args, cx: &Cx) -> Outcome {
    let call = |common: &Common, method: &str, params: Value| rpc::call(cx, &common.gateway, 10_000, method, params);
    let print_all = |value: Value| {
        print::json(&value);
        Ok(0)
    };
    match args.verb {
        Verb::List { connected, last_connected, common } => {
            let mut found = call(&common, "node.pair.list", json!({}))?;
            narrow(&mut found, "paired", connected, last_connected.as_deref())?;
            if common.json {
                return print_all(found);
            }
            let (pending, paired) = (list(&found, "pending").len(), list(&found, "paired"));
            print::line(&format!("Pending: {pending} · Paired: {}", paired.len()));
            rows(paired);
            Ok(0)
        }
        Verb::Status { connected, last_connected, common } => {
            let mut found = call(&common, "node.list", json!({}))?;
            narrow(&mut found, "nodes", connected, last_connected.as_deref())?;
            if common.json {
                return print_all(found);
            }
            let nodes = list(&found, "nodes");
            print::line(&format!("Known: {} · Connected: {}", nodes.len(), nodes.iter().filter(|n| n["connected"] == true).count()));
            rows(nodes);
            Ok(0)
        }
        Verb::Describe { node, common } => print_all(call(&common, "node.describe", json!({"nodeId": node}))?),
        Verb::Approve { request, common } => print_all(call(&common, "node.pair.approve", json!({"requestId": request}))?),
        Verb::Reject { request, common } => print_all(call(&common, "node.pair.reject", json!({"requestId": request}))?),
        Verb::Remove { node, common } => print_all(call(&common, "node.pair.remove", json!({"nodeId": node}))?),
        Verb::Rename { node, name, common } => print_all(call(&common, "node.rename", json!({"nodeId": node, "displayName": name}))?),
        Verb::Invoke { node, command, params, invoke_timeout, idempotency_key, common } => {
            let params: Value = serde_json::from_str(&params).map_err(|err| Fail::new(format!("--params is not valid JSON: {err}")))?;
            let key = idempotency_key.unwrap_or_else(crate::device::new_id);
            let limit = common.gateway.timeout.unwrap_or(invoke_timeout.saturating_add(5_000));
            let connect = Connect { timeout: Some(limit), ..common.gateway.clone() };
            print_all(rpc::call(
                cx,
                &connect,
                limit,
                "node.invoke",
                json!({"nodeId": node, "command": command, "params": params, "timeoutMs": invoke_timeout, "idempotencyKey": key}),
            )?)
        }
    }
}

fn narrow(found: &mut Value, name: &str, connected: bool, seen: Option<&str>) -> Result<(), Fail> {
    let since = match seen {
        Some(text) => Some(now_ms() - i64::try_from(crate::format::duration(text, 60_000).map_err(Fail::new)?).unwrap_or(i64::MAX)),
        None => None,
    };
    if let Some(rows) = found.get_mut(name).and_then(Value::as_array_mut) {
        rows.retain(|row| {
            (!connected || row["connected"] == true)
                && since.is_none_or(|at| row["connected"] == true || number(row, "lastConnectedAtMs").is_some_and(|seen| seen >= at))
        });
    }
    Ok(())
}

fn rows(nodes: &[Value]) {
    for node in nodes {
        let state = if node["connected"] == true { "connected" } else { "offline" };
        let caps: Vec<&str> = list(node, "caps").iter().filter_map(Value::as_str).collect();
        print::line(&format!("- {} ({}) {state} {}", text(node, "displayName"), text(node, "nodeId"), caps.join(", ")));
    }
}
