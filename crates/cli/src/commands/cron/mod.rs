//! `openclaw cron`: scheduled work.

mod add;
mod list;
mod run;

use clap::Subcommand;
use serde_json::{Value, json};

use super::Outcome;
use crate::{
    cx::Cx,
    fail::Fail,
    print,
    rpc::{self, Connect},
};

/// The budget of cron calls, ms.
const LIMIT_MS: u64 = 30_000;

/// Scheduled work.
#[derive(clap::Args)]
#[command(
    arg_required_else_help = true,
    after_help = "Examples:\n  openclaw cron add --name morning --cron \"0 7 * * 1-5\" --tz Europe/Berlin --agent jerry --message \"What is on today?\"\n  openclaw cron add --name ping --every 30m --session main --system-event \"Check the oven\"\n  openclaw cron list --all\n  openclaw cron run <id> --wait\n  openclaw cron runs <id> --limit 10"
)]
pub struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Add a job
    #[command(alias = "create")]
    Add(Box<add::AddArgs>),
    /// Jobs
    #[command(alias = "ls")]
    List(list::Args),
    /// Whether the scheduler runs, and when it wakes next
    Status(StatusArgs),
    /// Change a job
    Edit(Box<add::EditArgs>),
    /// Switch a job on
    Enable(IdArgs),
    /// Switch a job off
    Disable(IdArgs),
    /// Remove a job
    #[command(aliases = ["remove", "delete"])]
    Rm(IdArgs),
    /// Run a job now
    Run(run::Args),
    /// Past runs
    Runs(run::RunsArgs),
    /// One job
    #[command(alias = "show")]
    Get(IdArgs),
}

/// The connection and output of all verbs.
#[derive(clap::Args)]
pub struct Common {
    #[command(flatten)]
    pub gateway: Connect,
    /// JSON
    #[arg(long)]
    pub json: bool,
}

/// A job.
#[derive(clap::Args)]
pub struct IdArgs {
    /// Id or name of the job
    id: String,
    #[command(flatten)]
    common: Common,
}

/// Whether the scheduler runs.
#[derive(clap::Args)]
pub struct StatusArgs {
    #[command(flatten)]
    common: Common,
}

/// Runs it.
pub fn run(args: Args, cx: &Cx) -> Outcome {
    match args.verb {
        Verb::Add(args) => add::add(&args, cx),
        Verb::List(args) => list::run(&args, cx),
        Verb::Status(args) => status(&args, cx),
        Verb::Edit(args) => add::edit(&args, cx),
        Verb::Enable(args) => switch(&args, cx, true),
        Verb::Disable(args) => switch(&args, cx, false),
        Verb::Rm(args) => remove(&args, cx),
        Verb::Run(args) => run::run(&args, cx),
        Verb::Runs(args) => run::runs(&args, cx),
        Verb::Get(args) => get(&args, cx),
    }
}

/// One call with cron's budget.
///
/// # Errors
/// As the call's.
pub fn call(cx: &Cx, common: &Common, method: &str, params: Value) -> Result<Value, Fail> {
    rpc::call(cx, &common.gateway, LIMIT_MS, method, params)
}

fn not_found(fail: Fail, id: &str) -> Fail {
    if fail.message.contains("not found") || fail.message.contains("no job") || fail.message.contains("unknown") {
        Fail::new(format!("Automation not found: {id}. Run openclaw cron list to see ids.")).hint("openclaw cron list --all")
    } else {
        fail
    }
}

/// A job's id from its id or its name.
///
/// # Errors
/// When the gateway cannot be asked.
pub fn resolve(cx: &Cx, common: &Common, id: &str) -> Result<String, Fail> {
    if uuid::Uuid::parse_str(id).is_ok() {
        return Ok(id.to_owned());
    }
    let found = call(cx, common, "cron.list", json!({"includeDisabled": true, "query": id, "limit": 200}))?;
    let named: Vec<&Value> =
        crate::format::list(&found, "jobs").iter().filter(|job| crate::format::text(job, "name") == id && crate::format::text(job, "id") != id).collect();
    match named.as_slice() {
        [one] => Ok(crate::format::text(one, "id").to_owned()),
        _ => Ok(id.to_owned()),
    }
}

fn status(args: &StatusArgs, cx: &Cx) -> Outcome {
    print::json(&call(cx, &args.common, "cron.status", json!({}))?);
    Ok(0)
}

fn switch(args: &IdArgs, cx: &Cx, enabled: bool) -> Outcome {
    let id = resolve(cx, &args.common, &args.id)?;
    print::json(&call(cx, &args.common, "cron.update", json!({"id": id, "patch": {"enabled": enabled}})).map_err(|fail| not_found(fail, &args.id))?);
    Ok(0)
}

fn remove(args: &IdArgs, cx: &Cx) -> Outcome {
    let id = resolve(cx, &args.common, &args.id)?;
    let answer = call(cx, &args.common, "cron.remove", json!({"id": id})).map_err(|fail| not_found(fail, &args.id))?;
    if answer["removed"] == false {
        return Err(Fail::new(format!("Automation not found: {}. Run openclaw cron list to see ids.", args.id)).hint("openclaw cron list --all"));
    }
    print::json(&answer);
    Ok(0)
}

fn get(args: &IdArgs, cx: &Cx) -> Outcome {
    let id = resolve(cx, &args.common, &args.id)?;
    print::json(&call(cx, &args.common, "cron.get", json!({"id": id})).map_err(|fail| not_found(fail, &args.id))?);
    Ok(0)
}
