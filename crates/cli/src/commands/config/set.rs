use std::path::PathBuf;

use clap::builder::PossibleValuesParser;
use clawstead_config::{Edit, MapWrite, Snapshot, split_path};
use serde_json::{Map, Value, json};

use crate::{commands::Outcome, cx::Cx, fail::Fail};

/// Write a value.
#[derive(clap::Args)]
#[command(
    after_help = "The value is JSON5 where it reads as such, else text.\n\nExamples:\n  openclaw config set gateway.port 19001\n  openclaw config set tools.exec.safeBins '[\"ls\", \"cat\"]' --strict-json\n  openclaw config set agents.defaults.models '{\"openai/gpt-5\": {alias: \"big\"}}' --merge\n  openclaw config set --batch-json '[{\"path\":\"gateway.bind\",\"value\":\"lan\"}]'"
)]
pub struct Args {
    /// For example gateway.port
    path: Option<String>,
    /// JSON5, else text
    #[arg(allow_hyphen_values = true)]
    value: Option<String>,
    /// The value must be JSON
    #[arg(long, visible_alias = "json")]
    strict_json: bool,
    /// Keep entries of a map that the value does not name
    #[arg(long, conflicts_with = "replace")]
    merge: bool,
    /// Replace a map of yours as a whole
    #[arg(long)]
    replace: bool,
    /// Check only
    #[arg(long)]
    dry_run: bool,
    /// Write only when the value now is this JSON
    #[arg(long, value_name = "JSON")]
    expect_current_json: Option<String>,
    /// Write only when there is no value now
    #[arg(long, conflicts_with = "expect_current_json")]
    expect_current_absent: bool,
    /// Several changes: [{path, value | ref | provider}]
    #[arg(long, value_name = "JSON", conflicts_with_all = ["path", "batch_file"])]
    batch_json: Option<String>,
    /// Several changes from a file
    #[arg(long, value_name = "FILE", conflicts_with = "path")]
    batch_file: Option<PathBuf>,
    /// Store a reference to a secret instead of a value
    #[arg(long, value_name = "SOURCE", value_parser = PossibleValuesParser::new(["env", "file", "exec", "store"]), requires = "ref_id")]
    ref_source: Option<String>,
    /// Provider of the reference
    #[arg(long, default_value = "default", value_name = "NAME")]
    ref_provider: String,
    /// Name of the variable, JSON pointer or key
    #[arg(long, value_name = "ID")]
    ref_id: Option<String>,
    /// Write a secret provider: its kind
    #[arg(long, value_name = "SOURCE", value_parser = PossibleValuesParser::new(["env", "file", "exec"]), help_heading = "Secret provider")]
    provider_source: Option<String>,
    /// File of a file provider
    #[arg(long, value_name = "PATH", help_heading = "Secret provider")]
    provider_path: Option<String>,
    /// How the file is read
    #[arg(long, value_name = "MODE", value_parser = PossibleValuesParser::new(["singleValue", "json"]), help_heading = "Secret provider")]
    provider_mode: Option<String>,
    /// Program of an exec provider
    #[arg(long, value_name = "PATH", help_heading = "Secret provider")]
    provider_command: Option<String>,
    /// An argument of the program
    #[arg(long, value_name = "ARG", allow_hyphen_values = true, help_heading = "Secret provider")]
    provider_arg: Vec<String>,
    /// A variable for the program, k=v
    #[arg(long, value_name = "K=V", help_heading = "Secret provider")]
    provider_env: Vec<String>,
    /// A variable passed on to the program
    #[arg(long, value_name = "NAME", help_heading = "Secret provider")]
    provider_pass_env: Vec<String>,
    /// A variable that an env provider may read
    #[arg(long, value_name = "NAME", help_heading = "Secret provider")]
    provider_allowlist: Vec<String>,
    /// A folder that programs may lie in
    #[arg(long, value_name = "DIR", help_heading = "Secret provider")]
    provider_trusted_dir: Vec<String>,
    /// Time limit
    #[arg(long, value_name = "MS", help_heading = "Secret provider")]
    provider_timeout_ms: Option<u64>,
    /// Time limit without output
    #[arg(long, value_name = "MS", help_heading = "Secret provider")]
    provider_no_output_timeout_ms: Option<u64>,
    /// Largest file
    #[arg(long, value_name = "BYTES", help_heading = "Secret provider")]
    provider_max_bytes: Option<u64>,
    /// Largest output
    #[arg(long, value_name = "BYTES", help_heading = "Secret provider")]
    provider_max_output_bytes: Option<u64>,
    /// The program must answer JSON
    #[arg(long, help_heading = "Secret provider")]
    provider_json_only: bool,
}

/// Remove a value.
#[derive(clap::Args)]
pub struct UnsetArgs {
    /// For example gateway.bind
    path: String,
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

/// `config set`.
pub fn run(args: &Args, cx: &Cx) -> Outcome {
    let snapshot = cx.snapshot();
    // `--json` asks for a JSON value here; only a dry run answers in JSON.
    let answers_json = args.dry_run && cx.json;
    let (edits, what, mode) = edits(args)?;
    if let (Some(path), true) = (&args.path, args.expect_current_absent || args.expect_current_json.is_some()) {
        check_current(args, &snapshot, path)?;
    }
    match super::apply(cx, &snapshot, &edits, args.dry_run) {
        Ok(planned) => super::report(&planned, "Updated", &what, args.dry_run, answers_json, cx, edits.len(), mode),
        Err(fail) if answers_json => super::dry_refusal(fail, cx, edits.len(), mode),
        Err(fail) => Err(fail),
    }
}

fn edits(args: &Args) -> Result<(Vec<Edit>, String, &'static str), Fail> {
    let map = if args.merge {
        MapWrite::Merge
    } else if args.replace {
        MapWrite::Replace
    } else {
        MapWrite::Protect
    };
    let batch = match (&args.batch_json, &args.batch_file) {
        (Some(text), _) => Some(text.clone()),
        (None, Some(file)) => Some(std::fs::read_to_string(file).map_err(|err| Fail::new(format!("{}: {err}", file.display())))?),
        (None, None) => None,
    };
    if let Some(text) = batch {
        let value = parse_json5(&text).map_err(|why| Fail::new(format!("The batch is not valid JSON: {why}")))?;
        let items = value.as_array().ok_or_else(|| Fail::new("The batch must be a list of {path, value}."))?;
        let mut edits = Vec::new();
        for item in items {
            let path = item.get("path").and_then(Value::as_str).ok_or_else(|| Fail::new("Every entry of the batch needs a path."))?;
            let value = item
                .get("value")
                .or_else(|| item.get("ref"))
                .or_else(|| item.get("provider"))
                .cloned()
                .ok_or_else(|| Fail::new(format!("The batch entry {path} needs value, ref or provider.")))?;
            edits.push(Edit::Set { path: split_path(path).map_err(Fail::new)?, value, mode: map });
        }
        let what = format!("{} values", edits.len());
        return Ok((edits, what, "batch"));
    }
    let Some(path) = &args.path else {
        return Err(Fail::new("Missing path. Use openclaw config set <path> <value>.").hint("openclaw config set --help"));
    };
    let (value, mode) = if let (Some(source), Some(id)) = (&args.ref_source, &args.ref_id) {
        (json!({"source": source, "provider": args.ref_provider, "id": id}), "builder")
    } else if let Some(source) = &args.provider_source {
        (provider(args, source)?, "builder")
    } else {
        let Some(text) = &args.value else {
            return Err(Fail::new(format!("Missing value for {path}.")).hint("openclaw config set --help"));
        };
        if args.strict_json {
            (serde_json::from_str(text).map_err(|err| Fail::new(format!("The value is not valid JSON: {err}")))?, "json")
        } else {
            (parse_json5(text).unwrap_or_else(|_| Value::String(text.clone())), "value")
        }
    };
    Ok((vec![Edit::Set { path: split_path(path).map_err(Fail::new)?, value, mode: map }], path.clone(), mode))
}

fn provider(args: &Args, source: &str) -> Result<Value, Fail> {
    let mut out = Map::new();
    out.insert("source".into(), source.into());
    let mut put = |name: &str, value: Option<Value>| {
        if let Some(value) = value {
            out.insert(name.into(), value);
        }
    };
    let some = |list: &Vec<String>| (!list.is_empty()).then(|| json!(list));
    put("path", args.provider_path.as_deref().map(Into::into));
    put("mode", args.provider_mode.as_deref().map(Into::into));
    put("command", args.provider_command.as_deref().map(Into::into));
    put("args", some(&args.provider_arg));
    put("passEnv", some(&args.provider_pass_env));
    put("allowlist", some(&args.provider_allowlist));
    put("trustedDirs", some(&args.provider_trusted_dir));
    put("timeoutMs", args.provider_timeout_ms.map(Into::into));
    put("noOutputTimeoutMs", args.provider_no_output_timeout_ms.map(Into::into));
    put("maxBytes", args.provider_max_bytes.map(Into::into));
    put("maxOutputBytes", args.provider_max_output_bytes.map(Into::into));
    put("jsonOnly", args.provider_json_only.then(|| true.into()));
    if !args.provider_env.is_empty() {
        let mut env = Map::new();
        for pair in &args.provider_env {
            let (name, value) = pair.split_once('=').ok_or_else(|| Fail::new(format!("--provider-env {pair}: use NAME=value")))?;
            env.insert(name.to_owned(), value.into());
        }
        put("env", Some(Value::Object(env)));
    }
    Ok(Value::Object(out))
}

fn check_current(args: &Args, snapshot: &Snapshot, path: &str) -> Result<(), Fail> {
    let now = snapshot.get(&split_path(path).map_err(Fail::new)?);
    let wanted = match &args.expect_current_json {
        None => None,
        Some(text) => Some(serde_json::from_str::<Value>(text).map_err(|err| Fail::new(format!("--expect-current-json is not valid JSON: {err}")))?),
    };
    if now == wanted.as_ref() {
        return Ok(());
    }
    Err(Fail::new(format!("{path} is not what was expected; nothing was written.")).hint(format!("openclaw config get {path}")))
}

/// JSON5, as the config file itself is read.
///
/// # Errors
/// With the parser's words.
pub fn parse_json5(text: &str) -> Result<Value, String> {
    json5::from_str(text).map_err(|err| err.to_string())
}

/// `config unset`.
pub fn unset(args: &UnsetArgs, cx: &Cx) -> Outcome {
    let snapshot = cx.snapshot();
    let path = split_path(&args.path).map_err(Fail::new)?;
    let planned = match super::apply(cx, &snapshot, &[Edit::Unset { path }], args.dry_run) {
        Err(fail) if args.json && args.dry_run => return super::dry_refusal(fail, cx, 1, "unset"),
        other => other?,
    };
    super::report(&planned, "Removed", &args.path, args.dry_run, args.json, cx, 1, "unset")
}
