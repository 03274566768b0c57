use std::io::IsTerminal as _;

use clawstead_config::Edit;
use serde_json::json;

use crate::{
    commands::{Outcome, config},
    cx::Cx,
    fail::Fail,
    print,
};

/// Remove an agent; its files move to the trash folder of the state directory.
#[derive(clap::Args)]
pub struct Args {
    /// Agent
    id: String,
    /// Do not ask
    #[arg(long)]
    force: bool,
    /// JSON
    #[arg(long)]
    json: bool,
}

/// `agents delete`.
pub fn run(args: &Args, cx: &Cx) -> Outcome {
    let (snapshot, loaded) = cx.loaded()?;
    let agent = super::find(&loaded.config, Some(&args.id))?.clone();
    if agent.id.as_str() == "main" || loaded.config.agents.list.len() == 1 {
        return Err(Fail::new(format!("\"{}\" cannot be deleted.", agent.id)).hint("openclaw agents list"));
    }
    if !args.force {
        if !std::io::stdin().is_terminal() {
            return Err(Fail::new(format!("Deleting agent \"{}\" needs --force in a script.", agent.id)).hint("openclaw agents delete <id> --force"));
        }
        if !cliclack::confirm(format!("Delete agent {}, its workspace and sessions?", agent.id)).interact()? {
            return Ok(1);
        }
    }
    let mut bound: Vec<usize> = super::bindings_of(&loaded.config, agent.id.as_str()).map(|b| b.index).collect();
    let removed_bindings = bound.len();
    bound.sort_unstable_by(|a, b| b.cmp(a));
    let mut edits: Vec<Edit> = bound.into_iter().map(|index| Edit::Unset { path: vec!["bindings".into(), index.to_string()] }).collect();
    edits.push(Edit::Unset { path: vec!["agents".into(), "entries".into(), agent.id.to_string()] });
    config::apply(cx, &snapshot, &edits, false)?;
    let (mut removed, mut failed) = (Vec::new(), Vec::new());
    // A workspace shared with another agent stays.
    let shared = loaded.config.agents.list.iter().any(|other| other.id != agent.id && other.workspace == agent.workspace);
    let folders = [(!shared).then_some(&agent.workspace), Some(&agent.agent_dir), Some(&agent.sessions_dir)];
    for folder in folders.into_iter().flatten().filter(|f| f.exists()) {
        let trash = cx.paths.state_dir.join("trash").join(format!("{}-{}", agent.id, crate::format::now_ms()));
        let target = trash.join(folder.file_name().unwrap_or_default());
        match std::fs::create_dir_all(&trash).and_then(|()| std::fs::rename(folder, &target)) {
            Ok(()) => removed.push(json!({"path": folder, "method": "trash", "movedTo": target})),
            Err(err) => failed.push(json!({"path": folder, "error": err.to_string()})),
        }
    }
    if args.json {
        print::json(&json!({
            "agentId": agent.id, "workspace": agent.workspace, "agentDir": agent.agent_dir, "sessionsDir": agent.sessions_dir,
            "removedBindings": removed_bindings, "removedAllow": 0, "removed": removed, "failed": failed, "transport": "local",
        }));
    } else {
        print::line(&format!("Deleted agent: {}", agent.id));
        for item in &removed {
            print::line(&format!("  moved {} to {}", crate::format::scalar(&item["path"]), crate::format::scalar(&item["movedTo"])));
        }
        for item in &failed {
            anstream::eprintln!("  kept {}: {}", crate::format::scalar(&item["path"]), crate::format::scalar(&item["error"]));
        }
    }
    Ok(u8::from(!failed.is_empty()))
}
