//! `openclaw skills`: skills that agents can use.

use clap::Subcommand;
use serde_json::{Value, json};

use super::Outcome;
use crate::{
    cx::Cx,
    fail::Fail,
    format::{list, text},
    print,
    rpc::{self, Connect},
};

/// Skills that agents can use.
#[derive(clap::Args)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "Examples:\n  openclaw skills list --eligible\n  openclaw skills info weather\n  openclaw skills check"
)]
pub struct Args {
    #[command(subcommand)]
    verb: Option<Verb>,
    #[command(flatten)]
    list: ListArgs,
}

#[derive(clap::Args, Default)]
#[group(skip)]
struct ListArgs {
    /// Those that can be used
    #[arg(long)]
    eligible: bool,
    /// More columns
    #[arg(short, long)]
    verbose: bool,
    /// Agent
    #[arg(long, value_name = "ID")]
    agent: Option<String>,
    /// JSON
    #[arg(long)]
    json: bool,
}

#[derive(Subcommand)]
enum Verb {
    /// Skills that were found
    List(ListArgs),
    /// One skill
    Info {
        /// Name
        name: String,
        /// Agent
        #[arg(long, value_name = "ID")]
        agent: Option<String>,
        /// JSON
        #[arg(long)]
        json: bool,
    },
    /// What is missing
    Check {
        /// Agent
        #[arg(long, value_name = "ID")]
        agent: Option<String>,
        /// JSON
        #[arg(long)]
        json: bool,
    },
}

fn status(cx: &Cx, agent: Option<&str>) -> Result<Value, Fail> {
    let params = agent.map_or_else(|| json!({}), |agent| json!({"agentId": agent}));
    rpc::call(cx, &Connect::configured(None), 10_000, "skills.status", params)
}

/// Runs it.
pub fn run(args: Args, cx: &Cx) -> Outcome {
    match args.verb {
        None => show(&args.list, cx),
        Some(Verb::List(args)) => show(&args, cx),
        Some(Verb::Info { name, agent, json }) => {
            let found = status(cx, agent.as_deref())?;
            let skill = list(&found, "skills").iter().find(|s| text(s, "name") == name || text(s, "skillKey") == name);
            let skill = skill.ok_or_else(|| Fail::new(format!("Skill \"{name}\" not found.")).hint("openclaw skills list"))?;
            if json {
                print::json(skill);
                return Ok(0);
            }
            print::line(format!("{} {}", text(skill, "emoji"), text(skill, "name")).trim());
            print::line(text(skill, "description"));
            print::line(&format!("  Source: {}", text(skill, "source")));
            print::line(&format!("  File: {}", text(skill, "filePath")));
            print::line(&format!("  Eligible: {}", if skill["eligible"] == true { "yes".to_owned() } else { format!("no ({})", missing(skill)) }));
            Ok(0)
        }
        Some(Verb::Check { agent, json }) => check(cx, agent.as_deref(), json),
    }
}

fn missing(skill: &Value) -> String {
    let mut parts = Vec::new();
    for (kind, names) in skill["missing"].as_object().into_iter().flatten() {
        let names: Vec<&str> = names.as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        if !names.is_empty() {
            parts.push(format!("{kind}: {}", names.join(", ")));
        }
    }
    if parts.is_empty() && skill["disabled"] == true {
        parts.push("disabled".into());
    }
    parts.join("; ")
}

fn show(args: &ListArgs, cx: &Cx) -> Outcome {
    let mut found = status(cx, args.agent.as_deref())?;
    if args.eligible
        && let Some(skills) = found.get_mut("skills").and_then(Value::as_array_mut)
    {
        skills.retain(|s| s["eligible"] == true);
    }
    if args.json {
        print::json(&found);
        return Ok(0);
    }
    let skills = list(&found, "skills");
    if skills.is_empty() {
        print::line("No skills found. Put folders with a SKILL.md into the workspace's skills folder.");
        return Ok(0);
    }
    let ready = skills.iter().filter(|s| s["eligible"] == true).count();
    print::line(&format!("Skills ({ready}/{} ready)", skills.len()));
    let rows: Vec<Vec<String>> = skills
        .iter()
        .map(|s| {
            let mut row = vec![
                if s["eligible"] == true { "ready".to_owned() } else { format!("needs {}", missing(s)) },
                text(s, "name").to_owned(),
                text(s, "description").to_owned(),
            ];
            if args.verbose {
                row.push(text(s, "filePath").to_owned());
            }
            row
        })
        .collect();
    print::columns(if args.verbose { &["Status", "Skill", "Description", "File"] } else { &["Status", "Skill", "Description"] }, &rows);
    Ok(0)
}

fn check(cx: &Cx, agent: Option<&str>, json_wanted: bool) -> Outcome {
    let found = status(cx, agent)?;
    let skills = list(&found, "skills");
    let names = |wanted: &dyn Fn(&&Value) -> bool| -> Vec<String> { skills.iter().filter(wanted).map(|s| text(s, "name").to_owned()).collect() };
    let eligible = names(&|s| s["eligible"] == true);
    let disabled = names(&|s| s["disabled"] == true);
    let blocked = names(&|s| s["blockedByAllowlist"] == true);
    let lacking: Vec<Value> = skills
        .iter()
        .filter(|s| s["eligible"] != true && s["disabled"] != true && s["blockedByAllowlist"] != true)
        .map(|s| json!({"name": s["name"], "missing": s["missing"], "install": s.get("install").cloned().unwrap_or_else(|| json!([]))}))
        .collect();
    if json_wanted {
        print::json(&json!({
            "agentId": agent, "workspaceDir": found["workspaceDir"], "managedSkillsDir": found["managedSkillsDir"],
            "summary": {"total": skills.len(), "eligible": eligible.len(), "modelVisible": eligible.len(), "commandVisible": eligible.len(), "disabled": disabled.len(), "blocked": blocked.len(), "agentFiltered": 0, "notInjected": 0, "missingRequirements": lacking.len()},
            "eligible": eligible, "disabled": disabled, "blocked": blocked, "missingRequirements": lacking,
        }));
        return Ok(0);
    }
    print::line(&format!("Total: {} · Ready: {} · Disabled: {} · Missing requirements: {}", skills.len(), eligible.len(), disabled.len(), lacking.len()));
    for skill in skills.iter().filter(|s| s["eligible"] != true) {
        print::line(&format!("- {}: {}", text(skill, "name"), missing(skill)));
    }
    Ok(0)
}
