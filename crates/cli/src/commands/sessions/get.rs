use std::{io::Write as _, path::PathBuf};

use clawstead_wire::client::Heard;
use serde_json::{Value, json};

use super::full_key;
use crate::{
    commands::Outcome,
    cx::Cx,
    fail::Fail,
    format::{list, text},
    print,
    rpc::{self, Connect},
};

/// How long a page of an export may take, in milliseconds.
const PAGE_MS: u64 = 60_000;

/// The conversation of a session.
#[derive(clap::Args)]
pub struct Args {
    /// Session key, or an agent followed by a key or session id
    #[arg(num_args = 1..=2, value_names = ["AGENT|KEY", "KEY|ID"], required = true)]
    what: Vec<String>,
    /// Messages
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=1000))]
    limit: u32,
    /// JSON
    #[arg(long)]
    json: bool,
}

/// The last messages of a session.
#[derive(clap::Args)]
pub struct TailArgs {
    /// Session key [default: the default agent's main session]
    #[arg(long, value_name = "KEY")]
    session_key: Option<String>,
    /// Messages
    #[arg(long, default_value_t = 80, value_parser = clap::value_parser!(u32).range(1..=1000))]
    tail: u32,
    /// Wait for more
    #[arg(short, long)]
    follow: bool,
}

/// Write a session as JSON lines.
#[derive(clap::Args)]
pub struct ExportArgs {
    /// Session key, or an agent followed by a key
    #[arg(num_args = 1..=2, value_names = ["AGENT|KEY", "KEY"], required = true)]
    what: Vec<String>,
    /// File [default: standard output]
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
}

/// The key that one or two words mean; a session id is looked up.
fn key_of(cx: &Cx, words: &[String]) -> Result<String, Fail> {
    let (agent, word) = match words {
        [agent, word] => (Some(agent.as_str()), word.as_str()),
        [word] => (None, word.as_str()),
        _ => return Err(Fail::new("Missing session key.")),
    };
    let looks_like_id = uuid::Uuid::parse_str(word).is_ok();
    if looks_like_id {
        let params = agent.map_or_else(|| json!({"limit": 10_000}), |agent| json!({"agentId": agent, "limit": 10_000}));
        let found = super::rows(cx, params)?;
        let named = list(&found, "sessions").iter().find(|row| text(row, "sessionId") == word);
        return named.map(|row| text(row, "key").to_owned()).ok_or_else(|| Fail::new(format!("No session has the id {word}.")).hint("openclaw sessions"));
    }
    Ok(full_key(agent, word))
}

fn history(cx: &Cx, key: &str, limit: u32) -> Result<Value, Fail> {
    rpc::call(cx, &Connect::configured(None), 10_000, "chat.history", json!({"sessionKey": key, "limit": limit}))
}

/// `sessions get`.
pub fn run(args: &Args, cx: &Cx) -> Outcome {
    let key = key_of(cx, &args.what)?;
    let found = history(cx, &key, args.limit)?;
    if args.json {
        print::json(&found);
        return Ok(0);
    }
    print::line(&format!("Session: {key}"));
    for message in list(&found, "messages") {
        show(message);
    }
    Ok(0)
}

/// `user: text`, tools in short.
fn show(message: &Value) {
    let role = text(message, "role");
    match &message["content"] {
        Value::String(said) => print::line(&format!("{role}: {said}")),
        Value::Array(parts) => {
            for part in parts {
                match text(part, "type") {
                    "text" => print::line(&format!("{role}: {}", text(part, "text"))),
                    "toolCall" | "tool_use" | "toolUse" => print::line(&format!(
                        "{role}: [{}] {}",
                        text(part, "name"),
                        part.get("arguments").or_else(|| part.get("input")).map(Value::to_string).unwrap_or_default()
                    )),
                    "thinking" => {}
                    other => print::line(&format!("{role}: ({other})")),
                }
            }
        }
        _ => {}
    }
}

/// `sessions export`.
pub fn export(args: &ExportArgs, cx: &Cx) -> Outcome {
    let key = key_of(cx, &args.what)?;
    let mut out: Box<dyn std::io::Write> = match &args.output {
        Some(path) => Box::new(std::fs::File::create(path).map_err(|err| Fail::new(format!("{}: {err}", path.display())))?),
        None => Box::new(std::io::stdout().lock()),
    };
    let mut messages = 0_usize;
    cx.block_on(async {
        let gateway = rpc::open(cx, &Connect::configured(None), PAGE_MS).await?;
        let mut cursor: Option<String> = None;
        loop {
            let params = cursor.take().map_or_else(|| json!({"key": key}), |cursor| json!({"key": key, "cursor": cursor}));
            let page = gateway.call("sessions.export", params).await?;
            for line in list(&page, "lines").iter().filter_map(Value::as_str) {
                messages += usize::from(line.contains("\"type\":\"message\""));
                writeln!(out, "{line}")?;
            }
            match page["next"].as_str() {
                Some(next) => cursor = Some(next.to_owned()),
                None => break,
            }
        }
        gateway.client.close().await;
        Ok::<_, Fail>(())
    })?;
    out.flush()?;
    if let Some(path) = &args.output {
        anstream::eprintln!("Wrote {messages} messages to {}.", path.display());
    }
    Ok(0)
}

/// `sessions tail`.
pub fn tail(args: &TailArgs, cx: &Cx) -> Outcome {
    let (_, config) = cx.config_or_defaults();
    let key = args.session_key.as_deref().map_or_else(|| format!("agent:{}:main", config.default_agent()), |key| full_key(None, key));
    cx.block_on(async {
        let gateway = rpc::open(cx, &Connect::configured(None), 10_000).await?;
        let mut events = gateway.client.events();
        if args.follow {
            gateway.call("sessions.messages.subscribe", json!({"key": key})).await?;
        }
        let found = gateway.call("chat.history", json!({"sessionKey": key, "limit": args.tail})).await?;
        for message in list(&found, "messages") {
            show(message);
        }
        if !args.follow {
            gateway.client.close().await;
            return Ok(0);
        }
        loop {
            match events.next().await {
                Ok(Heard::Event(event)) if event.event == "session.message" => {
                    let payload = event.payload.unwrap_or_default();
                    if text(&payload, "sessionKey") == key {
                        show(&payload["message"]);
                    }
                }
                Ok(_) => {}
                Err(err) => return Err(gateway.fail(&err)),
            }
        }
    })
}
