//! Commands that change sessions.

use std::io::IsTerminal as _;

use serde_json::{Value, json};

use super::full_key;
use crate::{
    commands::Outcome,
    cx::Cx,
    fail::Fail,
    format::{list, now_ms, number, text},
    print,
    rpc::{self, Connect},
};

/// Wait until everything a session accepted is settled and on disk.
#[derive(clap::Args)]
pub struct CommitArgs {
    /// Agent
    agent: String,
    /// Session key or `main`
    #[arg(default_value = "main")]
    session: String,
    /// Seconds to wait for runs that are going
    #[arg(long, default_value_t = 30, value_name = "S")]
    timeout: u32,
    /// JSON
    #[arg(long)]
    json: bool,
}

/// Archive sessions by key, or an agent's by age.
#[derive(clap::Args)]
pub struct ArchiveArgs {
    /// Session keys; with --older-than an agent
    #[arg(required = true)]
    keys: Vec<String>,
    /// Agent of short keys
    #[arg(long, value_name = "ID")]
    agent: Option<String>,
    /// All sessions of the named agents without activity for this long
    #[arg(long, value_name = "DUR")]
    older_than: Option<String>,
    /// Say what would happen
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    gateway: Connect,
    /// JSON
    #[arg(long)]
    json: bool,
}

/// Delete sessions.
#[derive(clap::Args)]
pub struct DeleteArgs {
    /// Session keys
    #[arg(required = true)]
    keys: Vec<String>,
    /// Agent of short keys
    #[arg(long, value_name = "ID")]
    agent: Option<String>,
    /// Do not ask
    #[arg(short, long)]
    yes: bool,
    /// Say what would happen
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    gateway: Connect,
    /// JSON
    #[arg(long)]
    json: bool,
}

/// Shorten a session's context.
#[derive(clap::Args)]
pub struct CompactArgs {
    /// Session key
    key: String,
    /// Lines to keep
    #[arg(long, value_name = "N")]
    max_lines: Option<u32>,
    /// JSON
    #[arg(long)]
    json: bool,
}

/// Remove old and broken entries.
#[derive(clap::Args)]
pub struct CleanupArgs {
    /// Say what would happen
    #[arg(long)]
    dry_run: bool,
    /// Apply also when maintenance only warns
    #[arg(long)]
    enforce: bool,
    /// Remove entries without transcript
    #[arg(long)]
    fix_missing: bool,
    /// Retire sessions of another dmScope
    #[arg(long)]
    fix_dm_scope: bool,
    /// Keep this one
    #[arg(long, value_name = "KEY")]
    active_key: Option<String>,
    /// One agent
    #[arg(long, value_name = "ID")]
    agent: Option<String>,
    /// All agents
    #[arg(long)]
    all_agents: bool,
    /// Accepted for compatibility
    #[arg(long, value_name = "PATH", hide = true)]
    store: Option<String>,
    /// JSON
    #[arg(long)]
    json: bool,
}

/// `sessions commit`: a barrier. It answers when the runs of all letters that the session had accepted before have
/// ended and their outcome is on disk; exit 1 when the time is over first.
pub fn commit(args: &CommitArgs, cx: &Cx) -> Outcome {
    let key = full_key(Some(&args.agent), &args.session);
    let wait = u64::from(args.timeout).saturating_mul(1_000);
    let answer = rpc::call(cx, &Connect::configured(None), wait.saturating_add(10_000), "sessions.commit", json!({"key": key, "timeoutMs": wait}))?;
    let open = list(&answer, "open").len();
    if args.json {
        print::json(&answer);
    } else if open == 0 {
        print::line(&format!(
            "{key} is settled and durable (session {}, {} messages, last change {}).",
            text(&answer, "sessionId"),
            number(&answer, "messages").unwrap_or_default(),
            crate::format::relative(number(&answer, "updatedAt"))
        ));
    } else {
        print::line(&format!("{key} is durable, but {open} runs have not ended after {} s; they go on.", args.timeout));
    }
    Ok(u8::from(open > 0))
}

/// `sessions archive`.
pub fn archive(args: &ArchiveArgs, cx: &Cx) -> Outcome {
    let keys = match &args.older_than {
        None => args.keys.iter().map(|key| full_key(args.agent.as_deref(), key)).collect(),
        Some(age) => {
            let age = i64::try_from(crate::format::duration(age, 86_400_000).map_err(Fail::new)?).unwrap_or(i64::MAX);
            let mut keys = Vec::new();
            for agent in &args.keys {
                let found = super::rows(cx, json!({"agentId": agent, "limit": 100_000}))?;
                let old = list(&found, "sessions").iter().filter(|row| number(row, "updatedAt").is_some_and(|at| now_ms() - at > age));
                // Main sessions are protected.
                keys.extend(old.map(|row| text(row, "key").to_owned()).filter(|key| *key != format!("agent:{agent}:main")));
            }
            keys
        }
    };
    each(cx, &args.gateway, "archive", &keys, args.dry_run, args.json, |key| ("sessions.patch", json!({"key": key, "archived": true})))
}

/// `sessions delete`.
pub fn delete(args: &DeleteArgs, cx: &Cx) -> Outcome {
    let keys: Vec<String> = args.keys.iter().map(|key| full_key(args.agent.as_deref(), key)).collect();
    if !args.yes && !args.dry_run {
        if !std::io::stdin().is_terminal() {
            return Err(Fail::new("Deleting sessions needs --yes in a script.").hint("openclaw sessions delete <keys...> --yes"));
        }
        if !cliclack::confirm(format!("Delete {} session(s) with their transcripts?", keys.len())).interact()? {
            return Ok(1);
        }
    }
    each(cx, &args.gateway, "delete", &keys, args.dry_run, args.json, |key| ("sessions.delete", json!({"key": key, "deleteTranscript": true})))
}

fn each(cx: &Cx, connect: &Connect, operation: &str, keys: &[String], dry: bool, json_wanted: bool, call: impl Fn(&str) -> (&'static str, Value)) -> Outcome {
    let done = if operation == "archive" { "archived" } else { "deleted" };
    let results = cx.block_on(async {
        let gateway = rpc::open(cx, connect, 30_000).await?;
        let mut results = Vec::new();
        for key in keys {
            let protected = key.ends_with(":main") && key.matches(':').count() == 2;
            if protected {
                results.push(json!({"key": key, "ok": false, "status": "failed", "error": "the main session is protected"}));
                continue;
            }
            let known = gateway.call("sessions.describe", json!({"key": key})).await?;
            if known.get("session").is_none_or(Value::is_null) {
                results.push(json!({"key": key, "ok": false, "status": "not_found"}));
                continue;
            }
            if dry {
                results.push(json!({"key": key, "ok": true, "status": format!("would_be_{done}")}));
                continue;
            }
            let (method, params) = call(key);
            results.push(match gateway.call(method, params).await {
                Ok(_) => json!({"key": key, "ok": true, "status": done}),
                Err(fail) => json!({"key": key, "ok": false, "status": "failed", "error": fail.message}),
            });
        }
        gateway.client.close().await;
        Ok::<_, Fail>(results)
    })?;
    let good = results.iter().all(|r| r["ok"] == true);
    let message = format!("Session {operation} did not complete for every requested key.");
    if json_wanted {
        let mut out = json!({"ok": good, "operation": operation, "dryRun": dry, "results": results});
        if !good {
            out["error"] = json!({"type": "cli_error", "message": message});
        }
        print::json(&out);
        return Ok(u8::from(!good));
    }
    for result in &results {
        let why = result.get("error").and_then(Value::as_str).map(|e| format!(" ({e})")).unwrap_or_default();
        print::line(&format!("{}: {}{why}", text(result, "key"), text(result, "status")));
    }
    if results.is_empty() {
        print::line(&format!("Nothing to {operation}."));
    }
    if good { Ok(0) } else { Err(Fail::new(message).hint("openclaw sessions")) }
}

/// `sessions compact`.
pub fn compact(args: &CompactArgs, cx: &Cx) -> Outcome {
    let mut params = json!({"key": full_key(None, &args.key)});
    if let Some(lines) = args.max_lines {
        params["maxLines"] = lines.into();
    }
    let answer = rpc::call(cx, &Connect::configured(None), 120_000, "sessions.compact", params)?;
    if args.json {
        print::json(&answer);
    } else {
        print::line(if answer["compacted"] == true { "Compacted." } else { "Nothing to compact." });
    }
    Ok(0)
}

/// `sessions cleanup`.
pub fn cleanup(args: &CleanupArgs, cx: &Cx) -> Outcome {
    if args.dry_run {
        return preview(args, cx);
    }
    let mut params = json!({});
    for (name, given) in [("enforce", args.enforce), ("fixMissing", args.fix_missing), ("fixDmScope", args.fix_dm_scope), ("allAgents", args.all_agents)] {
        if given {
            params[name] = true.into();
        }
    }
    for (name, value) in [("agent", &args.agent), ("activeKey", &args.active_key)] {
        if let Some(value) = value {
            params[name] = value.as_str().into();
        }
    }
    let answer = rpc::call(cx, &Connect::configured(None), 30_000, "sessions.cleanup", params)?;
    if args.json {
        print::json(&answer);
    } else {
        let count = |name: &str| number(&answer, name).unwrap_or(0);
        print::line(&format!(
            "Sessions: {} before, {} after ({} pruned, {} capped).",
            count("beforeCount"),
            count("afterCount"),
            count("pruned"),
            count("capped")
        ));
    }
    Ok(0)
}

/// What the rules of `session.maintenance` say about the sessions as they are.
fn preview(args: &CleanupArgs, cx: &Cx) -> Outcome {
    let (_, config) = cx.config_or_defaults();
    let rules = &config.session.maintenance;
    let params = args.agent.as_deref().map_or_else(|| json!({"limit": 100_000}), |agent| json!({"agentId": agent, "limit": 100_000}));
    let found = super::rows(cx, params)?;
    let rows = list(&found, "sessions");
    let old = i64::try_from(rules.prune_after_ms).unwrap_or(i64::MAX);
    let pruned =
        rows.iter().filter(|r| number(r, "updatedAt").is_some_and(|at| now_ms() - at > old) && args.active_key.as_deref() != Some(text(r, "key"))).count();
    let capped = (rows.len() - pruned).saturating_sub(usize::try_from(rules.max_entries).unwrap_or(usize::MAX));
    let mode = if rules.enforce || args.enforce { "enforce" } else { "warn" };
    let agent = args.agent.clone().unwrap_or_else(|| config.default_agent().to_string());
    let answer = json!({
        "agentId": agent, "storePath": cx.paths.state_dir.join(clawstead_gateway::run::DATABASE), "mode": mode, "dryRun": true,
        "beforeCount": rows.len(), "afterCount": rows.len() - pruned - capped, "missing": 0, "dmScopeRetired": 0, "modelRunPruned": 0, "archived": 0, "capArchived": 0,
        "pruned": pruned, "capped": capped,
        "unreferencedArtifacts": {"scannedFiles": 0, "removedFiles": 0, "freedBytes": 0, "olderThanMs": rules.prune_after_ms},
        "diskBudget": null, "wouldMutate": pruned + capped > 0,
    });
    if args.json {
        print::json(&answer);
    } else {
        print::line(&format!("Dry run ({mode}): {} sessions, {pruned} would be pruned, {capped} capped.", rows.len()));
    }
    Ok(0)
}
