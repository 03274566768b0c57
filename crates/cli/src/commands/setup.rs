//! `openclaw setup`: config, workspace and session folders.

use std::io::IsTerminal as _;

use clawstead_agent::workspace::{Git, set_up};
use clawstead_config::{Edit, MapWrite};
use clawstead_terms::Millis;
use serde_json::{Value, json};

use super::{Outcome, config, onboard};
use crate::{cx::Cx, device, fail::Fail, format::now_ms, print};

/// Make config, workspace and session folders.
#[derive(clap::Args)]
#[command(
    after_help = "Examples:\n  openclaw setup                       With questions on a terminal, else the baseline\n  openclaw setup --baseline --workspace ~/claw\n  openclaw --profile rescue setup --baseline"
)]
pub struct Args {
    /// Folders only, without questions
    #[arg(long)]
    baseline: bool,
    #[command(flatten)]
    onboard: onboard::Args,
}

/// Runs it.
pub fn run(args: &Args, cx: &Cx) -> Outcome {
    let scripted = args.onboard.non_interactive || args.onboard.mode.is_some() || args.onboard.auth_choice.is_some();
    if scripted || (!args.baseline && args.onboard.workspace.is_none() && std::io::stdin().is_terminal() && std::io::stdout().is_terminal()) {
        return onboard::run(&args.onboard, cx);
    }
    let workspace = baseline(cx, args.onboard.workspace.as_deref())?;
    if args.onboard.json {
        print::json(&json!({"ok": true, "configPath": cx.paths.config_path, "workspace": workspace, "stateDir": cx.paths.state_dir}));
    } else {
        print::line(&format!("Config OK: {}", cx.paths.display(&cx.paths.config_path)));
        print::line(&format!("Workspace OK: {}", cx.paths.display(&workspace)));
        print::line(&format!("Sessions OK: {}", cx.paths.display(&cx.paths.state_dir)));
        print::line("Next: openclaw gateway");
    }
    Ok(0)
}

/// Makes what is missing: a config with a gateway mode and a token, the folders, the workspace files.
///
/// # Errors
/// When something cannot be written.
pub fn baseline(cx: &Cx, workspace: Option<&str>) -> Result<std::path::PathBuf, Fail> {
    if !cx.paths.config_path.exists() {
        let mut value = json!({"gateway": {"mode": "local", "auth": {"mode": "token", "token": device::new_token()}}});
        if let Some(dir) = workspace {
            value["agents"] = json!({"defaults": {"workspace": dir}});
        }
        clawstead_config::create(&cx.paths.config_path, &value)?;
    } else {
        let snapshot = cx.snapshot();
        let mut edits = Vec::new();
        let mut add = |path: &[&str], value: Value| {
            let path: Vec<String> = path.iter().map(|s| (*s).to_owned()).collect();
            if snapshot.get(&path) != Some(&value) {
                edits.push(Edit::Set { path, value, mode: MapWrite::Merge });
            }
        };
        if snapshot.get(&["gateway".to_owned(), "mode".to_owned()]).is_none() {
            add(&["gateway", "mode"], "local".into());
        }
        if let Some(dir) = workspace {
            add(&["agents", "defaults", "workspace"], dir.into());
        }
        if !edits.is_empty() {
            config::apply(cx, &snapshot, &edits, false)?;
        }
    }
    let (_, loaded) = cx.loaded()?;
    for agent in &loaded.config.agents.list {
        set_up(&agent.workspace, Millis(now_ms()), Git::WhenNew)
            .map_err(|err| Fail::new(format!("The workspace {} cannot be made: {err}", agent.workspace.display())))?;
        std::fs::create_dir_all(&agent.agent_dir)?;
        std::fs::create_dir_all(&agent.sessions_dir)?;
    }
    Ok(loaded.config.agents.default_agent().workspace.clone())
}
