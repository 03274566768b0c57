use serde_json::{Value, json};

use crate::{
    commands::Outcome,
    cx::Cx,
    fail::Fail,
    format::{dash, list, now_ms, number, span, text},
    print,
};

/// Stored sessions.
#[derive(clap::Args, Default)]
#[group(skip)]
pub struct Args {
    /// One agent
    #[arg(long, value_name = "ID")]
    agent: Option<String>,
    /// All agents
    #[arg(long)]
    all_agents: bool,
    /// Active within the last minutes
    #[arg(long, value_name = "MINUTES")]
    active: Option<u32>,
    /// Rows, or all
    #[arg(long, default_value = "100", value_name = "N|ALL")]
    limit: String,
    /// Accepted for compatibility; there is one database
    #[arg(long, value_name = "PATH", hide = true)]
    store: Option<String>,
    /// More columns
    #[arg(long)]
    verbose: bool,
    /// JSON
    #[arg(long)]
    json: bool,
}

/// `sessions list`.
pub fn run(args: &Args, cx: &Cx) -> Outcome {
    let (_, config) = cx.config_or_defaults();
    if let Some(id) = &args.agent {
        crate::commands::agents::find(&config, Some(id))?;
    }
    let limit = match args.limit.as_str() {
        "all" => None,
        text => Some(text.parse::<u32>().ok().filter(|n| *n > 0).ok_or_else(|| Fail::new(format!("--limit {text}: use a number or all.")))?),
    };
    let mut params = json!({});
    if let Some(agent) = &args.agent {
        params["agentId"] = agent.as_str().into();
    }
    if let Some(minutes) = args.active {
        params["activeMinutes"] = minutes.into();
    }
    // "all" is a large page: the gateway bounds pages itself.
    params["limit"] = limit.unwrap_or(1_000_000).into();
    let found = super::rows(cx, params)?;
    let now = now_ms();
    let rows: Vec<Value> = list(&found, "sessions")
        .iter()
        .map(|row| {
            let mut row = row.clone();
            if let Some(at) = number(&row, "updatedAt") {
                row["ageMs"] = json!((now - at).max(0));
            }
            if row.get("abortedLastRun").is_none() {
                row["abortedLastRun"] = false.into();
            }
            row
        })
        .collect();
    let database = cx.paths.state_dir.join(clawstead_gateway::run::DATABASE);
    if args.json {
        let agents: Vec<Value> = config
            .agents
            .list
            .iter()
            .filter(|a| args.agent.as_deref().is_none_or(|id| a.id.as_str() == id))
            .map(|a| json!({"agentId": a.id, "path": database}))
            .collect();
        print::json(&json!({
            "path": database,
            "stores": agents,
            "allAgents": args.all_agents || args.agent.is_none(),
            "count": rows.len(),
            "totalCount": found["totalCount"],
            "limitApplied": limit,
            "hasMore": found["hasMore"],
            "activeMinutes": args.active,
            "sessions": rows,
        }));
        return Ok(0);
    }
    print::line(&format!("Session store: {}", cx.paths.display(&database)));
    print::line(&format!("Sessions listed: {}{}", rows.len(), if found["hasMore"] == true { format!(" of {}", found["totalCount"]) } else { String::new() }));
    if rows.is_empty() {
        return Ok(0);
    }
    let shown: Vec<Vec<String>> = rows
        .iter()
        .map(|row| {
            let total = number(row, "totalTokens").unwrap_or(0);
            let tokens = match number(row, "contextTokens").filter(|n| *n > 0) {
                Some(window) => format!("{}k/{}k ({}%)", total / 1000, window / 1000, total * 100 / window),
                None => total.to_string(),
            };
            let mut cells =
                vec![dash(text(row, "kind")), text(row, "key").to_owned(), span(number(row, "ageMs").unwrap_or(0)), dash(text(row, "model")), tokens];
            if args.verbose {
                cells.push(text(row, "sessionId").to_owned());
                cells.push(dash(text(row, "status")));
            }
            cells
        })
        .collect();
    let mut head = vec!["Kind", "Key", "Age", "Model", "Tokens"];
    if args.verbose {
        head.extend(["Session id", "Status"]);
    }
    print::columns(&head, &shown);
    Ok(0)
}
