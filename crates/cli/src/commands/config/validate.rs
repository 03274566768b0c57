use clawstead_config::{Issue, Severity, Strictness};
use serde_json::{Value, json};

use crate::{commands::Outcome, cx::Cx, print};

/// Check the file strictly.
#[derive(clap::Args)]
pub struct Args {
    /// JSON
    #[arg(long)]
    json: bool,
}

/// `config validate`.
pub fn run(args: &Args, cx: &Cx) -> Outcome {
    let snapshot = cx.snapshot();
    let path = &cx.paths.config_path;
    let row = |issue: &Issue| {
        let mut row = json!({"path": issue.path, "message": issue.message});
        if !issue.allowed_values.is_empty() {
            row["allowedValues"] = json!(issue.allowed_values);
        }
        for (name, value) in [("line", json!(issue.line)), ("suggestion", json!(issue.suggestion))] {
            if !value.is_null() {
                row[name] = value;
            }
        }
        row
    };
    if !snapshot.exists {
        let message = format!("Config file not found: {}", cx.paths.display(path));
        if args.json {
            print::json_line(&json!({"ok": false, "error": {"type": "cli_error", "message": message}, "valid": false, "path": path, "issues": []}));
        } else {
            anstream::eprintln!("{message}");
            anstream::eprintln!("Try: openclaw onboard, or openclaw setup");
        }
        return Ok(1);
    }
    let blocking = snapshot.blocking(Strictness::Strict);
    let warnings: Vec<Value> = snapshot.issues.iter().filter(|i| i.severity == Severity::Warning).map(row).collect();
    if blocking.is_empty() {
        if args.json {
            print::json_line(&json!({"valid": true, "path": path, "warnings": warnings}));
        } else {
            print::line(&format!("Config valid: {}", cx.paths.display(path)));
            for issue in snapshot.issues.iter().filter(|i| i.severity == Severity::Warning) {
                print::line(&format!("Warning: {}", issue.located()));
            }
        }
        return Ok(0);
    }
    let message = format!("OpenClaw config is invalid: {}", cx.paths.display(path));
    if args.json {
        let issues: Vec<Value> = blocking.iter().map(|i| row(i)).collect();
        print::json_line(&json!({"ok": false, "error": {"type": "cli_error", "message": message}, "valid": false, "path": path, "issues": issues}));
    } else {
        anstream::eprintln!("{message}");
        for issue in blocking {
            anstream::eprintln!("  {}", issue.located());
        }
        anstream::eprintln!("Run: openclaw doctor");
    }
    Ok(1)
}
