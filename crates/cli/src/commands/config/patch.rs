use std::{io::Read as _, path::PathBuf};

use clawstead_config::Edit;

use crate::{commands::Outcome, cx::Cx, fail::Fail};

/// Apply a JSON merge patch: null deletes, lists replace.
#[derive(clap::Args)]
#[command(after_help = "Example:\n  echo '{gateway: {bind: \"lan\"}}' | openclaw config patch --stdin")]
pub struct Args {
    /// JSON5 file
    #[arg(long, value_name = "FILE", conflicts_with = "stdin")]
    file: Option<PathBuf>,
    /// Read standard input
    #[arg(long)]
    stdin: bool,
    /// A list that may lose entries
    #[arg(long, value_name = "PATH")]
    replace_path: Vec<String>,
    /// Check only
    #[arg(long)]
    dry_run: bool,
    /// Accepted for compatibility: references are not run here
    #[arg(long, hide = true)]
    allow_exec: bool,
    /// JSON
    #[arg(long)]
    json: bool,
}

/// `config patch`.
pub fn run(args: &Args, cx: &Cx) -> Outcome {
    let text = match (&args.file, args.stdin) {
        (Some(file), _) => std::fs::read_to_string(file).map_err(|err| Fail::new(format!("{}: {err}", file.display())))?,
        (None, true) => {
            let mut text = String::new();
            std::io::stdin().take(16 << 20).read_to_string(&mut text)?;
            text
        }
        (None, false) => return Err(Fail::new("Pass --file <json5> or --stdin.").hint("openclaw config patch --help")),
    };
    let patch = super::set::parse_json5(&text).map_err(|why| Fail::new(format!("The patch is not valid JSON5: {why}")))?;
    if !patch.is_object() {
        return Err(Fail::new("The patch must be an object."));
    }
    let snapshot = cx.snapshot();
    let edits = [Edit::Patch { patch, replace_paths: args.replace_path.clone() }];
    match super::apply(cx, &snapshot, &edits, args.dry_run) {
        Ok(planned) => super::report(&planned, "Updated", "the config", args.dry_run, args.json, cx, 1, "patch"),
        Err(fail) if args.json && args.dry_run => super::dry_refusal(fail, cx, 1, "patch"),
        Err(fail) => Err(fail),
    }
}
