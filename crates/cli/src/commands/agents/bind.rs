use clawstead_config::Edit;
use serde_json::{Value, json};

use super::{Bound, Spec, describe, find, match_json};
use crate::{
    commands::{Outcome, config},
    cx::Cx,
    fail::Fail,
    print,
};

/// Route channels to an agent.
#[derive(clap::Args)]
pub struct BindArgs {
    /// Agent [default: the default agent]
    #[arg(long, value_name = "ID")]
    agent: Option<String>,
    /// channel or channel:account
    #[arg(long, value_name = "CHANNEL[:ACCOUNT]", required = true)]
    bind: Vec<String>,
    /// JSON
    #[arg(long)]
    json: bool,
}

/// Take routes away from an agent.
#[derive(clap::Args)]
pub struct UnbindArgs {
    /// Agent [default: the default agent]
    #[arg(long, value_name = "ID")]
    agent: Option<String>,
    /// channel or channel:account
    #[arg(long, value_name = "CHANNEL[:ACCOUNT]", required_unless_present = "all")]
    bind: Vec<String>,
    /// All of this agent
    #[arg(long, conflicts_with = "bind")]
    all: bool,
    /// JSON
    #[arg(long)]
    json: bool,
}

/// All routes.
#[derive(clap::Args)]
pub struct ListArgs {
    /// One agent
    #[arg(long, value_name = "ID")]
    agent: Option<String>,
    /// JSON
    #[arg(long)]
    json: bool,
}

/// `agents bind`.
pub fn bind(args: &BindArgs, cx: &Cx) -> Outcome {
    let (snapshot, loaded) = cx.loaded()?;
    let id = find(&loaded.config, args.agent.as_deref())?.id.clone();
    let bound = Bound::plan(&snapshot, &loaded.config, id.as_str(), &args.bind)?;
    if !bound.edits.is_empty() {
        config::apply(cx, &snapshot, &bound.edits, false)?;
    }
    if args.json {
        let mut out = json!({"agentId": id});
        for (name, value) in bound.json().as_object().into_iter().flatten() {
            out[name] = value.clone();
        }
        print::json(&out);
    } else {
        for (word, list) in [("Added", &bound.added), ("Updated", &bound.updated), ("Already there", &bound.skipped)] {
            for item in list {
                print::line(&format!("{word}: {id} <- {item}"));
            }
        }
        for conflict in &bound.conflicts {
            anstream::eprintln!("Conflict: {conflict}");
        }
    }
    Ok(u8::from(!bound.conflicts.is_empty()))
}

/// `agents unbind`.
pub fn unbind(args: &UnbindArgs, cx: &Cx) -> Outcome {
    let (snapshot, loaded) = cx.loaded()?;
    let config = &loaded.config;
    let id = find(config, args.agent.as_deref())?.id.clone();
    let (mut removed, mut missing, mut conflicts, mut indices) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    if args.all {
        for binding in super::bindings_of(config, id.as_str()) {
            removed.push(describe(binding));
            indices.push(binding.index);
        }
    }
    for text in &args.bind {
        let spec = Spec::parse(text)?;
        match config.bindings.iter().find(|b| spec.matches(b)) {
            Some(binding) if binding.agent == id => {
                removed.push(spec.shown());
                indices.push(binding.index);
            }
            Some(binding) => conflicts.push(format!("{} (agent={})", spec.shown(), binding.agent)),
            None => missing.push(spec.shown()),
        }
    }
    indices.sort_unstable_by(|a, b| b.cmp(a));
    if !indices.is_empty() {
        let edits: Vec<Edit> = indices.into_iter().map(|index| Edit::Unset { path: vec!["bindings".into(), index.to_string()] }).collect();
        config::apply(cx, &snapshot, &edits, false)?;
    }
    if args.json {
        print::json(&json!({"agentId": id, "removed": removed, "missing": missing, "conflicts": conflicts}));
    } else {
        for (word, list) in [("Removed", &removed), ("Not bound", &missing), ("Belongs to another agent", &conflicts)] {
            for item in list {
                print::line(&format!("{word}: {item}"));
            }
        }
    }
    if conflicts.is_empty() { Ok(0) } else { Err(Fail::silent(1)) }
}

/// `agents bindings`.
pub fn list(args: &ListArgs, cx: &Cx) -> Outcome {
    let (_, loaded) = cx.loaded()?;
    let config = &loaded.config;
    let id = args.agent.as_deref().map(|id| find(config, Some(id)).map(|a| a.id.clone())).transpose()?;
    let rows: Vec<_> = config.bindings.iter().filter(|b| id.as_ref().is_none_or(|id| b.agent == *id)).collect();
    if args.json {
        let rows: Vec<Value> = rows.iter().map(|b| json!({"agentId": b.agent, "match": match_json(b), "description": describe(b)})).collect();
        print::json(&Value::Array(rows));
        return Ok(0);
    }
    if rows.is_empty() {
        print::line("No routing bindings.");
        return Ok(0);
    }
    print::line("Routing bindings:");
    for binding in rows {
        print::line(&format!("- {} <- {}", binding.agent, describe(binding)));
    }
    Ok(0)
}
