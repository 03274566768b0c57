//! What the original's command line answers, written down once and compared later.

use std::{collections::BTreeSet, time::Duration};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::cli::{Cli, Ran};

/// A command of the compatibility suite.
#[derive(Clone, Copy, Debug)]
pub struct Command {
    /// Its name in the recording.
    pub name: &'static str,
    /// Its arguments. `{job}` is the id of the cron job made before.
    pub args: &'static [&'static str],
    /// How the output is compared.
    pub output: Output,
}

/// How the output is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Output {
    /// One JSON document: every recorded key path must be there.
    Json,
    /// One JSON object a line: the keys of the first line must be there.
    Lines,
    /// Text: not compared, only the exit code is.
    Text,
}

/// The commands, in the order they are run: later ones use what earlier ones made.
pub const COMMANDS: &[Command] = &[
    Command { name: "health", args: &["health", "--json"], output: Output::Json },
    Command { name: "health-text", args: &["health"], output: Output::Text },
    Command { name: "status", args: &["status", "--json"], output: Output::Json },
    Command { name: "gateway-probe", args: &["gateway", "probe", "--json"], output: Output::Json },
    Command { name: "gateway-health", args: &["gateway", "health", "--json"], output: Output::Json },
    Command { name: "gateway-status", args: &["gateway", "status", "--json"], output: Output::Json },
    Command { name: "gateway-call", args: &["gateway", "call", "agents.list", "--json"], output: Output::Json },
    Command { name: "gateway-call-unknown", args: &["gateway", "call", "no.such.method", "--json"], output: Output::Json },
    Command { name: "agent", args: &["agent", "--agent", "jerry", "--message", "hello from the command line", "--json"], output: Output::Json },
    Command { name: "agent-text", args: &["agent", "--agent", "jerry", "--message", "!say Plain words."], output: Output::Text },
    Command { name: "agent-unknown", args: &["agent", "--agent", "nosuch", "--message", "hi", "--json"], output: Output::Json },
    Command {
        name: "cron-add",
        args: &[
            "cron",
            "add",
            "--name",
            "Bobby heartbeat",
            "--cron",
            "*/5 * * * *",
            "--session",
            "isolated",
            "--agent",
            "bobby",
            "--message",
            "Run infrastructure heartbeat check",
            "--json",
        ],
        output: Output::Json,
    },
    Command { name: "cron-list", args: &["cron", "list", "--json"], output: Output::Json },
    Command { name: "cron-list-text", args: &["cron", "list"], output: Output::Text },
    Command { name: "cron-run", args: &["cron", "run", "{job}"], output: Output::Json },
    Command { name: "cron-runs", args: &["cron", "runs", "--id", "{job}"], output: Output::Json },
    Command { name: "cron-rm", args: &["cron", "rm", "{job}", "--json"], output: Output::Json },
    Command { name: "cron-rm-again", args: &["cron", "rm", "{job}", "--json"], output: Output::Json },
    Command { name: "logs", args: &["logs", "--json", "--limit", "50"], output: Output::Lines },
    Command { name: "channels-status", args: &["channels", "status", "--json"], output: Output::Json },
    Command { name: "models-list", args: &["models", "list", "--json"], output: Output::Json },
    Command { name: "devices-list", args: &["devices", "list", "--json"], output: Output::Json },
    Command { name: "system-event", args: &["system", "event", "--text", "something happened", "--mode", "now", "--json"], output: Output::Json },
    Command { name: "system-presence", args: &["system", "presence", "--json"], output: Output::Json },
    Command { name: "nodes-list", args: &["nodes", "list", "--json"], output: Output::Json },
];

/// What a command answered.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Recorded {
    /// The command.
    pub name: String,
    /// Its exit code.
    pub code: Option<i32>,
    /// Key paths of the JSON output, two levels deep: `jobs`, `jobs[].id`.
    pub shape: BTreeSet<String>,
    /// Key paths that hold a value other than null, one level deep, with the value's JSON type.
    pub kinds: BTreeSet<String>,
    /// The error's type and code, where there was one.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub error: Option<String>,
    /// How long it took.
    #[serde(skip)]
    pub took: Duration,
}

/// Runs the commands one after another. Answers what is compared, and the complete outputs beside it.
///
/// # Errors
/// When one cannot be run at all.
pub async fn run_all(cli: &Cli, commands: &[Command]) -> anyhow::Result<(Vec<Recorded>, Vec<Ran>)> {
    let mut recorded = Vec::new();
    let mut outputs = Vec::new();
    let mut job = String::from("missing");
    for command in commands {
        let args: Vec<String> = command.args.iter().map(|arg| arg.replace("{job}", &job)).collect();
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let ran = cli.run(&args).await?;
        let json = match command.output {
            Output::Json => ran.json(),
            Output::Lines => ran.stdout.lines().next().and_then(|line| serde_json::from_str(line).ok()).unwrap_or_default(),
            Output::Text => Value::Null,
        };
        if command.name == "cron-add" {
            job = json["id"].as_str().unwrap_or("missing").to_owned();
        }
        let error = json["error"]["type"].as_str().map(|kind| format!("{kind} {}", json["error"]["code"].as_str().unwrap_or_default()).trim_end().to_owned());
        recorded.push(Recorded { name: command.name.into(), code: ran.code, shape: shape(&json), kinds: kinds(&json), error, took: ran.took });
        outputs.push(ran);
    }
    Ok((recorded, outputs))
}

/// What is wrong with an answer, and which second-level keys it does not give.
#[must_use]
pub fn compare(want: &Recorded, have: &Recorded, ran: &Ran) -> (Vec<String>, BTreeSet<String>) {
    let name = &want.name;
    if want.code != have.code {
        let said = format!("{name}: exit code {:?}, the original {:?}\n  stdout: {}\n  stderr: {}", have.code, want.code, ran.stdout.trim(), ran.stderr.trim());
        return (vec![said], BTreeSet::new());
    }
    let mut wrong = Vec::new();
    if want.error != have.error {
        wrong.push(format!("{name}: error {:?}, the original {:?}", have.error, want.error));
    }
    let top = |one: &Recorded| one.shape.iter().filter(|path| !path.contains('.')).cloned().collect::<BTreeSet<_>>();
    let missing: Vec<_> = top(want).difference(&top(have)).cloned().collect();
    if !missing.is_empty() {
        wrong.push(format!("{name}: keys missing: {}", missing.join(", ")));
    }
    let kinds: Vec<_> = want.kinds.difference(&have.kinds).filter(|kind| !missing.iter().any(|key| kind.starts_with(&format!("{key}:")))).cloned().collect();
    if !kinds.is_empty() {
        wrong.push(format!("{name}: another type, or null: {}", kinds.join(", ")));
    }
    (wrong, want.shape.difference(&have.shape).filter(|path| path.contains('.')).cloned().collect())
}

/// The recording.
///
/// # Errors
/// When the file is missing or no recording.
pub fn recorded() -> anyhow::Result<Vec<Recorded>> {
    let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../golden/openclaw-cli.json"))?;
    Ok(serde_json::from_str(&text)?)
}

/// Runs all commands and compares each answer with the recording. Answers what is wrong.
///
/// # Errors
/// When a command cannot be run, or the recording has other commands.
pub async fn check_all(cli: &Cli) -> anyhow::Result<Vec<String>> {
    let (ours, outputs) = run_all(cli, COMMANDS).await?;
    let golden = recorded()?;
    anyhow::ensure!(golden.iter().map(|one| &one.name).eq(ours.iter().map(|one| &one.name)), "the recording has other commands: run record-cli");
    let mut wrong = Vec::new();
    let (mut want_paths, mut missing_paths) = (0, 0);
    for (want, (have, ran)) in golden.iter().zip(ours.iter().zip(&outputs)) {
        let (mut found, deeper) = compare(want, have, ran);
        wrong.append(&mut found);
        want_paths += want.shape.len();
        missing_paths += deeper.len();
        if !deeper.is_empty() {
            println!("{}: second-level keys not given: {}", want.name, deeper.into_iter().collect::<Vec<_>>().join(" "));
        }
    }
    println!("{} of {want_paths} recorded key paths are there", want_paths - missing_paths);
    Ok(wrong)
}

/// Key paths two levels deep.
#[must_use]
pub fn shape(value: &Value) -> BTreeSet<String> {
    let mut paths = BTreeSet::new();
    collect("", value, 2, &mut paths);
    paths
}

fn collect(prefix: &str, value: &Value, depth: usize, paths: &mut BTreeSet<String>) {
    match value {
        Value::Object(map) if depth > 0 => {
            for (key, inner) in map {
                // A key that is an id says nothing about the shape.
                let key = if key.len() == 36 && key.bytes().filter(|&byte| byte == b'-').count() == 4 { "*" } else { key };
                let path = if prefix.is_empty() { key.to_owned() } else { format!("{prefix}.{key}") };
                collect(&path, inner, depth - 1, paths);
                paths.insert(path);
            }
        }
        Value::Array(items) => {
            for item in items {
                collect(&format!("{prefix}[]"), item, depth, paths);
            }
        }
        _ => {}
    }
}

fn kinds(value: &Value) -> BTreeSet<String> {
    let name = |value: &Value| match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    };
    value.as_object().into_iter().flatten().filter(|(_, inner)| !inner.is_null()).map(|(key, inner)| format!("{key}: {}", name(inner))).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    #[test]
    fn shapes_are_two_levels_deep() {
        let shape = super::shape(&json!({"a": {"b": {"c": 1}}, "l": [{"x": 1}, {"y": 2}]}));
        assert_eq!(shape.into_iter().collect::<Vec<_>>(), ["a", "a.b", "l", "l[].x", "l[].y"]);
    }
}
