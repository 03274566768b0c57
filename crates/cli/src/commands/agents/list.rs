use clawstead_config::{Agent, Config};
use serde_json::{Value, json};

use super::{bindings_of, describe};
use crate::{commands::Outcome, cx::Cx, print};

/// Configured agents.
#[derive(clap::Args)]
pub struct Args {
    /// With all routing rules
    #[arg(long)]
    bindings: bool,
    /// Accepted for compatibility; agents have no tree here
    #[arg(long, hide = true)]
    tree: bool,
    /// JSON
    #[arg(long)]
    json: bool,
}

/// One agent as JSON.
#[must_use]
pub fn row(config: &Config, agent: &Agent, details: bool) -> Value {
    let bound: Vec<_> = bindings_of(config, agent.id.as_str()).collect();
    let is_default = config.default_agent() == &agent.id;
    let mut row = json!({
        "id": agent.id,
        "name": agent.name.clone().or_else(|| agent.identity.name.clone()).unwrap_or_else(|| agent.id.to_string()),
        "identityName": agent.identity.name,
        "identityEmoji": agent.identity.emoji,
        "identitySource": if agent.identity.name.is_some() || agent.identity.emoji.is_some() { Some("config") } else { None },
        "workspace": agent.workspace,
        "agentDir": agent.agent_dir,
        "model": agent.model.primary,
        "bindings": bound.len(),
        "isDefault": is_default,
        "createdVia": null,
        "creatorAgentId": null,
        "createdAt": null,
    });
    row["routes"] =
        if bound.is_empty() && is_default { json!(["default (no explicit rules)"]) } else { json!(bound.iter().map(|b| describe(b)).collect::<Vec<_>>()) };
    if details {
        row["bindingDetails"] = json!(bound.iter().map(|b| describe(b)).collect::<Vec<_>>());
    }
    row
}

/// `agents list`.
pub fn run(args: &Args, cx: &Cx) -> Outcome {
    let (_, loaded) = cx.loaded()?;
    let config = &loaded.config;
    if args.json {
        let rows: Vec<Value> = config.agents.list.iter().map(|agent| row(config, agent, args.bindings)).collect();
        print::json(&Value::Array(rows));
        return Ok(0);
    }
    print::line("Agents:");
    for agent in &config.agents.list {
        let is_default = config.default_agent() == &agent.id;
        let name = agent.name.as_ref().filter(|n| n.as_str() != agent.id.as_str()).map(|n| format!(" ({n})")).unwrap_or_default();
        print::line(&format!("- {}{name}{}", agent.id, if is_default { " (default)" } else { "" }));
        let identity: Vec<&str> = [agent.identity.emoji.as_deref(), agent.identity.name.as_deref()].into_iter().flatten().collect();
        if !identity.is_empty() {
            print::line(&format!("  Identity: {} (config)", identity.join(" ")));
        }
        print::line(&format!("  Workspace: {}", cx.paths.display(&agent.workspace)));
        print::line(&format!("  Agent dir: {}", cx.paths.display(&agent.agent_dir)));
        print::line(&format!("  Model: {}", agent.model.primary.as_deref().unwrap_or("(found at start)")));
        let bound: Vec<_> = bindings_of(config, agent.id.as_str()).collect();
        print::line(&format!("  Routing rules: {}", bound.len()));
        if bound.is_empty() && is_default {
            print::line("  Routing: default (no explicit rules)");
        }
        if args.bindings && !bound.is_empty() {
            print::line("  Routing rules:");
            for binding in bound {
                print::line(&format!("    - {}", describe(binding)));
            }
        }
    }
    print::line("Routing rules map channel/account/peer to an agent. Use --bindings for full rules.");
    Ok(0)
}
