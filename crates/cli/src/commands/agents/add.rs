use std::io::IsTerminal as _;

use clawstead_agent::workspace::{Git, set_up};
use clawstead_terms::{AgentId, Millis};
use serde_json::{Map, Value, json};

use super::{Bound, set};
use crate::{
    commands::{Outcome, config},
    cx::Cx,
    fail::Fail,
    format::now_ms,
    print,
};

/// Add an agent.
#[derive(clap::Args)]
pub struct Args {
    /// Name; the id is made of it
    name: Option<String>,
    /// Workspace folder (needed with --non-interactive)
    #[arg(long, value_name = "DIR")]
    workspace: Option<String>,
    /// Agent folder [default: <state>/agents/<id>/agent]
    #[arg(long, value_name = "DIR")]
    agent_dir: Option<String>,
    /// Model, provider/model
    #[arg(long, value_name = "REF")]
    model: Option<String>,
    /// Route a channel to it: channel or channel:account
    #[arg(long, value_name = "CHANNEL[:ACCOUNT]")]
    bind: Vec<String>,
    /// What it is for, in a word
    #[arg(long)]
    role: Option<String>,
    /// Ask nothing
    #[arg(long)]
    non_interactive: bool,
    /// JSON
    #[arg(long)]
    json: bool,
}

/// `agents add`.
pub fn run(args: &Args, cx: &Cx) -> Outcome {
    let (snapshot, loaded) = cx.loaded()?;
    let ask = !args.non_interactive && !args.json && std::io::stdin().is_terminal();
    let name = match &args.name {
        Some(name) => name.clone(),
        None if ask => cliclack::input("Name of the agent").interact()?,
        None => return Err(Fail::new("Missing agent name. Use openclaw agents add <name> --workspace <dir>.").hint("openclaw agents add --help")),
    };
    let id = AgentId::normalise(&name);
    if !loaded.config.agents.implicit && loaded.config.agents.get(id.as_str()).is_some() {
        return Err(Fail::new(format!("Agent \"{id}\" already exists.")).hint("openclaw agents list"));
    }
    let proposed = cx.paths.state_dir.join(format!("workspace-{id}"));
    let workspace = match &args.workspace {
        Some(dir) => cx.paths.expand(dir),
        None if ask => cx.paths.expand(&cliclack::input("Workspace folder").default_input(&cx.paths.display(&proposed)).interact::<String>()?),
        None if args.non_interactive => return Err(Fail::new("--workspace is required with --non-interactive.").hint("openclaw agents add --help")),
        None => proposed,
    };
    let mut entry = Map::new();
    entry.insert("name".into(), name.as_str().into());
    entry.insert("workspace".into(), json!(cx.paths.display(&workspace)));
    for (key, value) in [("agentDir", &args.agent_dir), ("model", &args.model), ("role", &args.role)] {
        if let Some(value) = value {
            entry.insert(key.into(), value.as_str().into());
        }
    }
    let bound = Bound::plan(&snapshot, &loaded.config, id.as_str(), &args.bind)?;
    let mut edits = vec![set(&["agents", "entries", id.as_str()], Value::Object(entry))];
    edits.extend(bound.edits.iter().cloned());
    config::apply(cx, &snapshot, &edits, false)?;
    set_up(&workspace, Millis(now_ms()), Git::WhenNew).map_err(|err| Fail::new(format!("The workspace {} cannot be made: {err}", workspace.display())))?;
    let agent_dir = args.agent_dir.as_deref().map_or_else(|| cx.paths.agent_dir(id.as_str()), |d| cx.paths.expand(d));
    std::fs::create_dir_all(&agent_dir)?;
    if args.json {
        let mut out = json!({"agentId": id, "name": name, "workspace": workspace, "agentDir": agent_dir, "bindings": bound.json()});
        if let Some(model) = &args.model {
            out["model"] = model.as_str().into();
        }
        print::json(&out);
    } else {
        print::line(&format!("Agent: {id}"));
        print::line(&format!("Workspace: {}", cx.paths.display(&workspace)));
        for added in &bound.added {
            print::line(&format!("Bound: {added}"));
        }
        for conflict in &bound.conflicts {
            anstream::eprintln!("Not bound, another agent has it: {conflict}");
        }
    }
    Ok(u8::from(!bound.conflicts.is_empty()))
}
