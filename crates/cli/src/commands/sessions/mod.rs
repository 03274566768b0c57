//! `openclaw sessions`: stored sessions.

mod change;
mod get;
mod import;
mod list;

use clap::Subcommand;
use clawstead_state::{Scan, SqliteStore, Store as _, Table, sqlite};
use clawstead_terms::Unit;
use serde_json::{Value, json};

use super::Outcome;
use crate::{
    cx::Cx,
    fail::{Fail, Kind},
    format::number,
    local,
    rpc::{self, Connect},
};

/// Rows read of one agent without a gateway.
const LOCAL_ROWS_MAX: usize = 10_000;

/// Stored sessions.
#[derive(clap::Args)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "Examples:\n  openclaw sessions --agent jerry\n  openclaw sessions --active 60 --json\n  openclaw sessions get jerry main\n  openclaw sessions archive agent:jerry:explicit:old\n  openclaw sessions archive jerry --older-than 7d\n  openclaw sessions cleanup --dry-run"
)]
pub struct Args {
    #[command(subcommand)]
    verb: Option<Verb>,
    #[command(flatten)]
    list: list::Args,
}

#[derive(Subcommand)]
enum Verb {
    /// Stored sessions
    List(list::Args),
    /// The conversation of a session
    Get(get::Args),
    /// The last messages of a session
    Tail(get::TailArgs),
    /// Wait until everything a session accepted is settled and on disk
    Commit(change::CommitArgs),
    /// Archive sessions by key, or an agent's by age
    Archive(change::ArchiveArgs),
    /// Delete sessions
    Delete(change::DeleteArgs),
    /// Shorten a session's context
    Compact(change::CompactArgs),
    /// Remove old and broken entries
    Cleanup(change::CleanupArgs),
    /// Take over what an older OpenClaw left in this state folder
    Import(import::Args),
    /// Write a session as JSON lines
    Export(get::ExportArgs),
}

/// Runs it.
pub fn run(args: Args, cx: &Cx) -> Outcome {
    match args.verb {
        None => list::run(&args.list, cx),
        Some(Verb::List(args)) => list::run(&args, cx),
        Some(Verb::Get(args)) => get::run(&args, cx),
        Some(Verb::Tail(args)) => get::tail(&args, cx),
        Some(Verb::Commit(args)) => change::commit(&args, cx),
        Some(Verb::Archive(args)) => change::archive(&args, cx),
        Some(Verb::Delete(args)) => change::delete(&args, cx),
        Some(Verb::Compact(args)) => change::compact(&args, cx),
        Some(Verb::Cleanup(args)) => change::cleanup(&args, cx),
        Some(Verb::Import(args)) => import::run(&args, cx),
        Some(Verb::Export(args)) => get::export(&args, cx),
    }
}

/// Session rows: from the gateway, or from the database when none runs.
///
/// # Errors
/// When neither can be asked.
pub fn rows(cx: &Cx, params: Value) -> Result<Value, Fail> {
    match rpc::call(cx, &Connect::configured(None), 10_000, "sessions.list", params.clone()) {
        Err(fail) if fail.kind == Kind::Transport && local::running(cx).is_none() => stored(cx, &params).map_err(|_| fail),
        other => other,
    }
}

/// The database, only while no gateway uses it.
///
/// # Errors
/// When there is none or it cannot be read.
pub fn store(cx: &Cx) -> Result<SqliteStore, Fail> {
    let path = cx.paths.state_dir.join(clawstead_gateway::run::DATABASE);
    if !path.is_file() {
        return Err(Fail::new(format!("There is no database at {}.", cx.paths.display(&path))).hint("openclaw gateway"));
    }
    Ok(SqliteStore::open(path, sqlite::Options::default())?)
}

fn stored(cx: &Cx, params: &Value) -> Result<Value, Fail> {
    let wanted = params.get("agentId").and_then(Value::as_str);
    let mut rows = cx.block_on(async {
        let store = store(cx)?;
        let mut rows: Vec<Value> = Vec::new();
        for unit in store.units().await? {
            let Unit::Agent(agent) = &unit else { continue };
            if wanted.is_some_and(|w| w != agent.as_str()) {
                continue;
            }
            for row in store.scan(&unit, Table::Sessions, &Scan::prefix("").limit(LOCAL_ROWS_MAX)).await? {
                if let Ok(value) = serde_json::from_str(&row.value) {
                    rows.push(value);
                }
            }
        }
        store.close().await;
        Ok::<_, Fail>(rows)
    })?;
    rows.sort_by_key(|row| std::cmp::Reverse(number(row, "updatedAt")));
    if let Some(minutes) = params.get("activeMinutes").and_then(Value::as_i64) {
        let since = crate::format::now_ms() - minutes * 60_000;
        rows.retain(|row| number(row, "updatedAt").is_some_and(|at| at >= since));
    }
    let total = rows.len();
    let limit = params.get("limit").and_then(Value::as_u64).map_or(usize::MAX, |n| usize::try_from(n).unwrap_or(usize::MAX));
    rows.truncate(limit);
    Ok(json!({"count": rows.len(), "totalCount": total, "hasMore": rows.len() < total, "sessions": rows, "source": "database"}))
}

/// The full key of what a person typed: a key, or `main` and the like of an agent.
#[must_use]
pub fn full_key(agent: Option<&str>, text: &str) -> String {
    match agent {
        Some(agent) if !text.starts_with("agent:") => format!("agent:{agent}:{text}"),
        _ if text.starts_with("agent:") || text == "global" => text.to_owned(),
        _ => format!("agent:main:{text}"),
    }
}
