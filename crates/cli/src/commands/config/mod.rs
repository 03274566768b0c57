//! `openclaw config`: read and write the config file. Comments stay.

mod get;
mod patch;
mod schema;
mod set;
mod validate;

use clap::Subcommand;
use clawstead_config::{Edit, EditOptions, Guard, MapWrite, Planned, Snapshot, plan, plan_edit, write};
use serde_json::json;

use super::{Outcome, onboard};
use crate::{COMPATIBLE, cx::Cx, fail::Fail, format::now_ms, print};

/// Read and write the config file.
#[derive(clap::Args)]
#[command(
    after_help = "Examples:\n  openclaw config get gateway.port\n  openclaw config set agents.defaults.model.primary openai/gpt-5\n  openclaw config set gateway.auth.token --ref-source env --ref-id OPENCLAW_GATEWAY_TOKEN\n  openclaw config patch --file change.json5 --dry-run\n  openclaw config validate --json\n\nPaths use dots and brackets: agents.list[0].id, channels[\"my-x\"].token. Comments in the file are kept."
)]
pub struct Args {
    #[command(subcommand)]
    verb: Option<Verb>,
    /// Area to edit with questions
    #[arg(long, value_name = "AREA")]
    section: Vec<String>,
}

#[derive(Subcommand)]
enum Verb {
    /// Print where the config file is
    File(get::FileArgs),
    /// Print a value; secrets are hidden
    Get(get::Args),
    /// Write a value
    Set(Box<set::Args>),
    /// Remove a value
    Unset(set::UnsetArgs),
    /// Apply a JSON merge patch: null deletes, lists replace
    Patch(patch::Args),
    /// Print the JSON Schema of the config
    Schema(schema::Args),
    /// Check the file strictly
    Validate(validate::Args),
}

/// Runs it.
pub fn run(args: Args, cx: &Cx) -> Outcome {
    match args.verb {
        None => onboard::configure(&onboard::ConfigureArgs { section: args.section }, cx),
        Some(Verb::File(args)) => get::file(&args, cx),
        Some(Verb::Get(args)) => get::run(&args, cx),
        Some(Verb::Set(args)) => set::run(&args, cx),
        Some(Verb::Unset(args)) => set::unset(&args, cx),
        Some(Verb::Patch(args)) => patch::run(&args, cx),
        Some(Verb::Schema(args)) => schema::run(&args),
        Some(Verb::Validate(args)) => validate::run(&args, cx),
    }
}

/// Works a change out and writes it unless `dry`.
///
/// # Errors
/// With the reason; nothing was written then.
pub fn apply(cx: &Cx, snapshot: &Snapshot, edits: &[Edit], dry: bool) -> Result<Planned, Fail> {
    // A new file without gateway.mode would count as damaged at the next start.
    let mode = ["gateway".to_owned(), "mode".to_owned()];
    let mut edits = edits.to_vec();
    if !snapshot.exists
        && !edits.iter().any(|edit| matches!(edit, Edit::Set { path, .. } if path.starts_with(&mode[..1]) && (path.len() == 1 || path[..] == mode)))
    {
        edits.insert(0, Edit::Set { path: mode.to_vec(), value: "local".into(), mode: MapWrite::Merge });
    }
    let planned = plan_edit(snapshot, &edits, &cx.env, EditOptions { base_hash: None, version: Some(COMPATIBLE) })?;
    if !dry && !planned.files.is_empty() {
        write(&planned, Guard::On, u64::try_from(now_ms()).unwrap_or(0))?;
    }
    Ok(planned)
}

/// What a change means for a running gateway, in words.
#[must_use]
pub fn effect(planned: &Planned) -> &'static str {
    if plan(&planned.changed).needs_restart() { "Restart the gateway to apply." } else { "No gateway restart needed." }
}

/// Prints the outcome of a change.
#[allow(clippy::too_many_arguments, reason = "the fields of one report")]
pub fn report(planned: &Planned, verb: &str, what: &str, dry: bool, json_wanted: bool, cx: &Cx, operations: usize, mode: &str) -> Outcome {
    let changed = !planned.files.is_empty();
    if json_wanted {
        let mut out = json!({
            "ok": true,
            "operations": operations,
            "configPath": cx.paths.config_path,
            "inputModes": [mode],
            "checks": {"schema": true, "resolvability": false, "resolvabilityComplete": false},
            "refsChecked": 0,
            "skippedExecRefs": 0,
            "changed": changed,
            "restartRequired": plan(&planned.changed).needs_restart(),
        });
        if dry {
            out["dryRun"] = true.into();
        }
        print::json(&out);
        return Ok(0);
    }
    if !changed {
        print::line("No change");
    } else if dry {
        print::line(&format!("Dry run: {what} would be {}. {}", verb.to_lowercase(), effect(planned)));
    } else {
        print::line(&format!("{verb} {what}. {}", effect(planned)));
    }
    Ok(0)
}

/// A refusal of a dry run in its own envelope.
pub fn dry_refusal(fail: Fail, cx: &Cx, operations: usize, mode: &str) -> Outcome {
    print::json(&json!({
        "ok": false,
        "operations": operations,
        "configPath": cx.paths.config_path,
        "inputModes": [mode],
        "checks": {"schema": true, "resolvability": false, "resolvabilityComplete": false},
        "refsChecked": 0,
        "skippedExecRefs": 0,
        "errors": [{"kind": "schema", "message": fail.message}],
    }));
    Ok(1)
}
