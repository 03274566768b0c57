use clawstead_config::{lookup, redact_at, split_path};
use serde_json::{Value, json};

use crate::{commands::Outcome, cx::Cx, fail::Fail, print};

/// Print a value; secrets are hidden.
#[derive(clap::Args)]
pub struct Args {
    /// For example gateway.port or agents.list[0].id
    path: String,
    /// JSON
    #[arg(long)]
    json: bool,
}

/// Print where the config file is.
#[derive(clap::Args)]
pub struct FileArgs {
    /// JSON
    #[arg(long)]
    json: bool,
}

/// `config get`.
pub fn run(args: &Args, cx: &Cx) -> Outcome {
    let path = split_path(&args.path).map_err(Fail::new)?;
    let snapshot = cx.snapshot();
    let Some(value) = snapshot.get(&path) else {
        let text = if lookup(&path).is_some() && !path.is_empty() {
            format!("Config path not set: {}.", args.path)
        } else {
            format!("Unknown config path: {}. Run openclaw config schema to inspect valid paths.", args.path)
        };
        return Err(Fail::new(text).hint("openclaw config schema"));
    };
    let shown = redact_at(&path, value);
    match &shown {
        _ if args.json => print::json(&shown),
        Value::String(text) => print::line(text),
        Value::Object(_) | Value::Array(_) => print::json(&shown),
        other => print::line(&other.to_string()),
    }
    Ok(0)
}

/// `config file`.
pub fn file(args: &FileArgs, cx: &Cx) -> Outcome {
    if args.json {
        print::json(&json!({"path": cx.paths.config_path}));
    } else {
        print::line(&cx.paths.display(&cx.paths.config_path));
    }
    Ok(0)
}
