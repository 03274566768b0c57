//! `openclaw secrets`.

use clap::Subcommand;
use clawstead_config::{REDACTED, SecretRef, Snapshot};
use serde_json::{Value, json};

use super::Outcome;
use crate::{
    cx::Cx,
    format::{list, text},
    print,
    rpc::{self, Connect},
};

/// Secret references and plain-text credentials.
#[derive(clap::Args)]
#[command(arg_required_else_help = true)]
pub struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Which credentials are in plain text, which references cannot be resolved
    Audit {
        /// Exit 1 on findings
        #[arg(long)]
        check: bool,
        /// Run helper programs of exec references
        #[arg(long)]
        allow_exec: bool,
        /// JSON
        #[arg(long)]
        json: bool,
    },
    /// Let the gateway read its secrets again
    Reload {
        #[command(flatten)]
        gateway: Connect,
        /// JSON
        #[arg(long)]
        json: bool,
    },
}

/// Dotted paths of credentials that lie in the config as plain text.
#[must_use]
pub fn plaintext(snapshot: &Snapshot) -> Vec<String> {
    fn walk(raw: &Value, hidden: &Value, path: &mut Vec<String>, out: &mut Vec<String>) {
        match (raw, hidden) {
            (Value::Object(raw), Value::Object(hidden)) => {
                for (key, value) in raw {
                    if let Some(other) = hidden.get(key) {
                        path.push(key.clone());
                        walk(value, other, path, out);
                        path.pop();
                    }
                }
            }
            (Value::Array(raw), Value::Array(hidden)) => {
                for (at, (value, other)) in raw.iter().zip(hidden).enumerate() {
                    path.push(at.to_string());
                    walk(value, other, path, out);
                    path.pop();
                }
            }
            (Value::String(raw), Value::String(hidden)) if hidden.contains(REDACTED) && raw != hidden => out.push(path.join(".")),
            _ => {}
        }
    }
    let mut out = Vec::new();
    walk(&snapshot.parsed, &clawstead_config::redact(&snapshot.parsed), &mut Vec::new(), &mut out);
    out
}

fn count_refs(value: &Value) -> usize {
    match value {
        _ if SecretRef::from_value(value).is_some() => 1,
        Value::Object(map) => map.values().map(count_refs).sum(),
        Value::Array(items) => items.iter().map(count_refs).sum(),
        _ => 0,
    }
}

/// Runs it.
pub fn run(args: Args, cx: &Cx) -> Outcome {
    match args.verb {
        Verb::Audit { check, allow_exec, json } => audit(cx, check, allow_exec, json),
        Verb::Reload { gateway, json } => {
            // Reading the file again resolves every reference again; an unchanged file is written back unchanged.
            let answer = rpc::call(cx, &gateway, 30_000, "config.get", json!({}))?;
            if json {
                print::json(&json!({"ok": true, "warningCount": list(&answer, "warnings").len()}));
            } else {
                print::line("The gateway reads its config and secrets whenever the file changes; nothing else is to do.");
            }
            Ok(0)
        }
    }
}

fn audit(cx: &Cx, check: bool, allow_exec: bool, json_wanted: bool) -> Outcome {
    use clawstead_config::{ExecRefs, SecretOptions, Strictness};
    let snapshot = cx.snapshot();
    let plain = plaintext(&snapshot);
    let unresolved = if allow_exec {
        snapshot.load(Strictness::Tolerant, SecretOptions { exec: ExecRefs::Run, store: None }).map(|l| l.unresolved.len()).unwrap_or(0)
    } else {
        snapshot.load(Strictness::Tolerant, SecretOptions::default()).map(|l| l.unresolved.len()).unwrap_or(0)
    };
    let file = &cx.paths.config_path;
    let mut findings: Vec<Value> = plain
        .iter()
        .map(|path| json!({"code": "plaintext", "severity": "warn", "file": file, "jsonPath": path, "message": "credential in plain text"}))
        .collect();
    if unresolved > 0 {
        findings.push(
            json!({"code": "unresolved_ref", "severity": "error", "file": file, "jsonPath": "", "message": format!("{unresolved} references have no value")}),
        );
    }
    let status = if unresolved > 0 {
        "unresolved"
    } else if plain.is_empty() {
        "clean"
    } else {
        "findings"
    };
    let report = json!({
        "version": 1, "status": status,
        "resolution": {"refsChecked": count_refs(&snapshot.resolved), "skippedExecRefs": 0, "resolvabilityComplete": allow_exec},
        "filesScanned": [file],
        "summary": {"plaintextCount": plain.len(), "unresolvedRefCount": unresolved, "shadowedRefCount": 0, "storeResidueCount": 0, "legacyResidueCount": 0},
        "findings": findings,
    });
    if json_wanted {
        print::json(&report);
    } else {
        print::line(&format!("Secrets: {status}. {} in plain text, {unresolved} unresolved.", plain.len()));
        for finding in &findings {
            print::line(&format!("- {} {}", text(finding, "jsonPath"), text(finding, "message")));
        }
    }
    Ok(if unresolved > 0 { 2 } else { u8::from(check && !plain.is_empty()) })
}
