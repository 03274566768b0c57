use std::path::PathBuf;

use serde_json::{Map, Value, json};

use super::{find, set};
use crate::{
    commands::{Outcome, config},
    cx::Cx,
    fail::Fail,
    print,
};

/// Name, emoji, theme and avatar of an agent.
#[derive(clap::Args)]
pub struct Args {
    /// Agent [default: the default agent]
    #[arg(long, value_name = "ID")]
    agent: Option<String>,
    /// Find the agent by its workspace
    #[arg(long, value_name = "DIR")]
    workspace: Option<String>,
    /// Read from this IDENTITY.md
    #[arg(long, value_name = "FILE")]
    identity_file: Option<PathBuf>,
    /// Read from the workspace's IDENTITY.md
    #[arg(long)]
    from_identity: bool,
    /// Name
    #[arg(long)]
    name: Option<String>,
    /// Emoji
    #[arg(long)]
    emoji: Option<String>,
    /// Theme
    #[arg(long)]
    theme: Option<String>,
    /// Avatar: file in the workspace, URL or data URI
    #[arg(long)]
    avatar: Option<String>,
    /// JSON
    #[arg(long)]
    json: bool,
}

/// `agents set-identity`.
pub fn run(args: &Args, cx: &Cx) -> Outcome {
    let (snapshot, loaded) = cx.loaded()?;
    let agent = match (&args.agent, &args.workspace) {
        (None, Some(dir)) => {
            let dir = cx.paths.expand(dir);
            let named = loaded.config.agents.list.iter().find(|a| a.workspace == dir);
            named.ok_or_else(|| Fail::new(format!("No agent has the workspace {}.", dir.display())).hint("openclaw agents list"))?
        }
        (id, _) => find(&loaded.config, id.as_deref())?,
    };
    let mut identity = Map::new();
    let mut read = None;
    if args.from_identity || args.identity_file.is_some() {
        let file = args.identity_file.clone().unwrap_or_else(|| agent.workspace.join("IDENTITY.md"));
        let text = std::fs::read_to_string(&file).map_err(|err| Fail::new(format!("{}: {err}", file.display())))?;
        for (label, key) in [("name", "name"), ("emoji", "emoji"), ("theme", "theme"), ("avatar", "avatar")] {
            if let Some(value) = field(&text, label) {
                identity.insert(key.into(), value.into());
            }
        }
        read = Some(file);
    }
    for (key, value) in [("name", &args.name), ("emoji", &args.emoji), ("theme", &args.theme), ("avatar", &args.avatar)] {
        if let Some(value) = value {
            identity.insert(key.into(), value.as_str().into());
        }
    }
    if identity.is_empty() {
        return Err(Fail::new("Nothing to set: pass --name, --emoji, --theme, --avatar or --from-identity.").hint("openclaw agents set-identity --help"));
    }
    config::apply(cx, &snapshot, &[set(&["agents", "entries", agent.id.as_str(), "identity"], Value::Object(identity.clone()))], false)?;
    if args.json {
        print::json(&json!({"agentId": agent.id, "identity": identity, "workspace": agent.workspace, "identityFile": read}));
    } else {
        print::line(&format!(
            "Updated identity of {}: {}",
            agent.id,
            identity.iter().map(|(k, v)| format!("{k}={}", crate::format::scalar(v))).collect::<Vec<_>>().join(", ")
        ));
    }
    Ok(0)
}

/// `- Name: Jerry`, with or without bold marks.
fn field(text: &str, label: &str) -> Option<String> {
    text.lines().find_map(|line| {
        let line = line.trim().trim_start_matches(['-', '*', ' ']).replace("**", "");
        let (name, value) = line.split_once(':')?;
        let value = value.trim().trim_matches('_').trim();
        (name.trim().eq_ignore_ascii_case(label) && !value.is_empty() && !value.starts_with('(')).then(|| value.to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::field;

    #[test]
    fn identity_files_are_read() {
        let text = "# Who I am\n\n- **Name:** Jerry\n- Emoji: 🦀\n- Avatar:\n";
        assert_eq!((field(text, "name").as_deref(), field(text, "emoji").as_deref(), field(text, "avatar")), (Some("Jerry"), Some("🦀"), None));
    }
}
