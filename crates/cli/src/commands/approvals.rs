//! `openclaw approvals`: rules and requests for commands that agents run.

use std::{io::Read as _, path::PathBuf};

use clap::{Subcommand, builder::PossibleValuesParser};
use serde_json::{Value, json};

use super::Outcome;
use crate::{
    cx::Cx,
    fail::Fail,
    format::{list, text},
    print,
    rpc::{self, Connect},
};

/// Rules and requests for commands that agents run.
#[derive(clap::Args)]
#[command(
    arg_required_else_help = true,
    after_help = "Examples:\n  openclaw approvals get --json\n  openclaw approvals pending\n  openclaw approvals resolve <id> allow-once\n  openclaw approvals allowlist add /usr/bin/git --agent main"
)]
pub struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Print the rules
    Get {
        /// Of the gateway (they always are)
        #[arg(long)]
        gateway: bool,
        /// Budget, milliseconds
        #[arg(long, value_name = "MS")]
        timeout: Option<u64>,
        /// JSON
        #[arg(long)]
        json: bool,
    },
    /// Replace the rules
    Set {
        /// JSON file
        #[arg(long, value_name = "FILE", conflicts_with = "stdin")]
        file: Option<PathBuf>,
        /// Read standard input
        #[arg(long)]
        stdin: bool,
        /// JSON
        #[arg(long)]
        json: bool,
    },
    /// Programs that need no question
    Allowlist {
        /// add or remove
        #[arg(value_parser = PossibleValuesParser::new(["add", "remove"]))]
        verb: String,
        /// Path or pattern
        pattern: String,
        /// Agent, or * for all
        #[arg(long, default_value = "*", value_name = "ID")]
        agent: String,
        /// JSON
        #[arg(long)]
        json: bool,
    },
    /// Requests that wait
    Pending {
        /// JSON
        #[arg(long)]
        json: bool,
    },
    /// Decide a request
    Resolve {
        /// Request
        id: String,
        /// What happens
        #[arg(value_parser = PossibleValuesParser::new(["allow-once", "allow-always", "deny"]))]
        decision: String,
        /// JSON
        #[arg(long)]
        json: bool,
    },
}

fn call(cx: &Cx, timeout: Option<u64>, method: &str, params: Value) -> Result<Value, Fail> {
    rpc::call(cx, &Connect::configured(timeout), 60_000, method, params)
}

/// Runs it.
pub fn run(args: Args, cx: &Cx) -> Outcome {
    match args.verb {
        Verb::Get { gateway: _, timeout, json } => {
            let found = call(cx, timeout, "exec.approvals.get", json!({}))?;
            if json {
                print::json(&found);
                return Ok(0);
            }
            print::line(&format!("Approvals: {}", text(&found, "path")));
            print::json(&found["file"]);
            Ok(0)
        }
        Verb::Set { file, stdin, json } => {
            let raw = match (&file, stdin) {
                (Some(file), _) => std::fs::read_to_string(file).map_err(|err| Fail::new(format!("{}: {err}", file.display())))?,
                (None, true) => {
                    let mut raw = String::new();
                    std::io::stdin().take(4 << 20).read_to_string(&mut raw)?;
                    raw
                }
                (None, false) => return Err(Fail::new("Pass --file <json> or --stdin.").hint("openclaw approvals set --help")),
            };
            let rules: Value = serde_json::from_str(&raw).map_err(|err| Fail::new(format!("The rules are not valid JSON: {err}")))?;
            write(cx, rules, json)
        }
        Verb::Allowlist { verb, pattern, agent, json } => {
            let found = call(cx, None, "exec.approvals.get", json!({}))?;
            let mut rules = found["file"].clone();
            if !rules["agents"][&agent].is_object() {
                rules["agents"][&agent] = json!({});
            }
            let mut items: Vec<Value> = list(&rules["agents"][&agent], "allowlist").to_vec();
            let known = items.iter().position(|item| text(item, "pattern") == pattern);
            match (verb.as_str(), known) {
                ("add", None) => items.push(json!({"id": crate::device::new_id(), "pattern": pattern})),
                ("remove", Some(at)) => drop(items.remove(at)),
                ("remove", None) => return Err(Fail::new(format!("{pattern} is not on the list of {agent}.")).hint("openclaw approvals get")),
                _ => {
                    print::line("No change");
                    return Ok(0);
                }
            }
            rules["agents"][&agent]["allowlist"] = json!(items);
            write(cx, rules, json)
        }
        Verb::Pending { json } => {
            let found = call(cx, None, "exec.approval.list", json!({}))?;
            let rows: Vec<Value> = match &found {
                Value::Array(rows) => rows.clone(),
                other => ["approvals", "requests", "pending"].iter().find_map(|name| other.get(*name)?.as_array().cloned()).unwrap_or_default(),
            };
            if json {
                print::json(&found);
            } else if rows.is_empty() {
                print::line("Nothing waits for approval.");
            } else {
                for row in &rows {
                    let command = row.pointer("/request/command").or_else(|| row.get("command")).map(crate::format::scalar).unwrap_or_default();
                    print::line(&format!("{}  {command}", text(row, "id")));
                }
            }
            Ok(0)
        }
        Verb::Resolve { id, decision, json } => {
            let answer = call(cx, None, "exec.approval.resolve", json!({"id": id, "decision": decision}))?;
            if json {
                print::json(&answer);
            } else {
                print::line(&format!("{id}: {decision}"));
            }
            Ok(0)
        }
    }
}

fn write(cx: &Cx, rules: Value, json: bool) -> Outcome {
    let before = call(cx, None, "exec.approvals.get", json!({}))?;
    let mut params = json!({"file": rules});
    if let Some(hash) = before.get("hash").and_then(Value::as_str).filter(|h| !h.is_empty()) {
        params["baseHash"] = hash.into();
    }
    let answer = call(cx, None, "exec.approvals.set", params)?;
    if json {
        print::json(&answer);
    } else {
        print::line("Updated approvals.");
    }
    Ok(0)
}
