use serde_json::{Value, json};

use crate::{
    commands::Outcome,
    cx::Cx,
    format::{list, number, relative, text},
    print,
    rpc::{self, Connect},
};

/// One agent in short: settings, sessions, last activity.
#[derive(clap::Args)]
pub struct Args {
    /// Agent [default: the default agent]
    id: Option<String>,
    /// JSON
    #[arg(long)]
    json: bool,
}

/// `agents status`.
pub fn run(args: &Args, cx: &Cx) -> Outcome {
    let (_, loaded) = cx.loaded()?;
    let agent = super::find(&loaded.config, args.id.as_deref())?;
    let sessions = rpc::call(cx, &Connect::configured(None), 5_000, "sessions.list", json!({"agentId": agent.id, "limit": 200}));
    let mut row = super::list::row(&loaded.config, agent, true);
    match &sessions {
        Ok(found) => {
            row["reachable"] = true.into();
            row["sessions"] = json!({"count": found["count"], "recent": list(found, "sessions").iter().take(5).collect::<Vec<_>>()});
        }
        Err(fail) => {
            row["reachable"] = false.into();
            row["gatewayError"] = fail.message.as_str().into();
        }
    }
    if args.json {
        print::json(&row);
        return Ok(0);
    }
    print::line(&format!("Agent: {}{}", agent.id, if row["isDefault"] == true { " (default)" } else { "" }));
    print::line(&format!("  Workspace: {}", cx.paths.display(&agent.workspace)));
    print::line(&format!("  Model: {}", agent.model.primary.as_deref().unwrap_or("(found at start)")));
    print::line(&format!("  Routing rules: {}", row["bindings"]));
    match sessions {
        Err(fail) => print::line(&format!("  Sessions: unknown ({})", fail.message)),
        Ok(found) => {
            let rows = list(&found, "sessions");
            let running = rows.iter().filter(|s| s.get("hasActiveRun") == Some(&Value::Bool(true)) || text(s, "status") == "running").count();
            print::line(&format!("  Sessions: {} ({running} running)", rows.len()));
            for session in rows.iter().take(5) {
                print::line(&format!("    - {} ({})", text(session, "key"), relative(number(session, "updatedAt"))));
            }
        }
    }
    Ok(0)
}
