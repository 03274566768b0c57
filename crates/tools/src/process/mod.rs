//! `process`: commands that `exec` left running in the background.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::json;

use clawstead_terms::EffectClass;

use crate::{
    Tool, ToolCx, ToolError, ToolOutput, ToolSpec,
    exec::{
        Sessions,
        output::Output,
        sessions::{EndOfInput, Session, StopWhy},
    },
};

/// The longest wait of one poll, ms.
const POLL_MS_MAX: u64 = 120_000;
/// Lines of one log answer, when the caller names no limit.
const LINES_DEFAULT: usize = 200;

/// Looks after background commands.
pub struct Process {
    /// Commands that run.
    pub sessions: Arc<Sessions>,
}

/// What to do.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// All of them.
    List,
    /// New output, and whether it still runs.
    Poll,
    /// Kept output by lines.
    Log,
    /// Send text to its input.
    Write,
    /// Send text and a line end to its input.
    Submit,
    /// End it.
    Kill,
    /// Forget one that ended.
    Clear,
    /// End it if it runs, and forget it.
    Remove,
}

/// Arguments of `process`.
#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Args {
    /// list, poll, log, write, submit, kill, clear or remove.
    action: Action,
    /// The command's name as exec told it; for every action but list.
    #[serde(default, alias = "session_id", alias = "session", alias = "id")]
    session_id: Option<String>,
    /// Text for write and submit.
    #[serde(default, alias = "text")]
    data: Option<String>,
    /// True closes the input after write.
    #[serde(default)]
    eof: Option<bool>,
    /// For log: the first line, counted from 0. Default: so that the last lines are shown.
    #[serde(default)]
    offset: Option<usize>,
    /// For log: how many lines. Default 200.
    #[serde(default)]
    limit: Option<usize>,
    /// For poll: wait up to this many milliseconds for the end. Default 0.
    #[serde(default, alias = "timeoutMs")]
    timeout: Option<u64>,
}

#[async_trait]
impl Tool for Process {
    type Args = Args;
    const SPEC: ToolSpec = ToolSpec {
        name: "process",
        title: "Process",
        description: "Follow background commands of exec: list, poll (new output), log (kept output), write or submit (input), kill, clear, remove.",
        group: "group:runtime",
        class: EffectClass::Once,
        timeout_ms: 180_000,
    };

    async fn call(&self, cx: ToolCx, args: Args) -> Result<ToolOutput, ToolError> {
        if matches!(args.action, Action::List) {
            let list = self.sessions.list(&cx.agent);
            let lines: Vec<String> =
                list.iter().map(|v| format!("{} {} {} s :: {}", v.session_id, v.status, v.runtime_ms / 1000, crate::bound::head(&v.command, 120))).collect();
            let text = if lines.is_empty() { "No background commands.".into() } else { lines.join("\n") };
            return Ok(ToolOutput::text(text).with_details(json!({"status": "completed", "sessions": list})));
        }
        let id = args.session_id.as_deref().ok_or_else(|| ToolError::BadArguments("missing field `sessionId`".into()))?;
        let session =
            self.sessions.get(&cx.agent, id).ok_or_else(|| ToolError::Failed(format!("there is no background command {}", crate::bound::head(id, 80))))?;
        match args.action {
            Action::List => Ok(ToolOutput::text("")),
            Action::Poll => {
                if let Some(ms) = args.timeout.filter(|ms| *ms > 0) {
                    let _ = tokio::time::timeout(Duration::from_millis(ms.min(POLL_MS_MAX)), session.wait()).await;
                }
                // The state first: output that comes between belongs to a command that still runs.
                let view = session.view();
                let news = session.news();
                let told = if news.trim().is_empty() { "(no new output)" } else { news.trim_end() };
                Ok(ToolOutput::text(format!("{told}\n\n{}", state(&session))).with_details(json!(view)))
            }
            Action::Log => Ok(log(&session, args.offset, args.limit)),
            Action::Write | Action::Submit => {
                let mut data = args.data.ok_or_else(|| ToolError::BadArguments("missing field `data`".into()))?;
                if matches!(args.action, Action::Submit) {
                    data.push('\n');
                }
                let end = if args.eof.unwrap_or(false) { EndOfInput::Yes } else { EndOfInput::No };
                session.write(&data, end).await?;
                Ok(ToolOutput::text(format!("Wrote {} bytes to {}", data.len(), session.id)).with_details(json!(session.view())))
            }
            Action::Kill | Action::Remove => {
                if session.ended().is_none() {
                    session.stop(StopWhy::Asked);
                    session.wait().await;
                }
                let text = format!("{}: {}", session.id, state(&session));
                if matches!(args.action, Action::Remove) {
                    self.sessions.forget(&session.id);
                }
                Ok(ToolOutput::text(text).with_details(json!(session.view())))
            }
            Action::Clear => {
                if session.ended().is_none() {
                    return Err(ToolError::Failed(format!("{} still runs; kill it first", session.id)));
                }
                self.sessions.forget(&session.id);
                Ok(ToolOutput::text(format!("Forgot {}", session.id)))
            }
        }
    }
}

fn state(session: &Session) -> String {
    match session.ended() {
        None => "Process still running.".into(),
        Some(end) => match (end.code, end.signal, end.reason) {
            (_, _, "timeout") => "Process was stopped by its time limit.".into(),
            (Some(code), ..) => format!("Process exited with code {code}."),
            (None, Some(signal), _) => format!("Process was ended by {signal}."),
            (None, None, _) => "Process ended.".into(),
        },
    }
}

fn log(session: &Session, offset: Option<usize>, limit: Option<usize>) -> ToolOutput {
    let text = session.output(Output::text);
    let lines: Vec<&str> = text.lines().collect();
    let limit = limit.unwrap_or(LINES_DEFAULT).max(1);
    let first = offset.unwrap_or_else(|| lines.len().saturating_sub(limit)).min(lines.len());
    let end = first.saturating_add(limit).min(lines.len());
    let shown = if first == end { "(no output)".to_owned() } else { lines[first..end].join("\n") };
    let note = if first > 0 || end < lines.len() { format!("\n\n[lines {first} to {} of {}]", end.saturating_sub(1), lines.len()) } else { String::new() };
    ToolOutput::text(format!("{shown}{note}")).with_details(json!({"session": session.view(), "totalLines": lines.len()}))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::test_kit::Kit;

    async fn start(kit: &Kit, command: &str) -> String {
        let seen = kit.call("exec", json!({"command": command, "background": true})).await.unwrap();
        let details = seen.details.unwrap();
        assert_eq!(details["status"], "running", "{details}");
        details["sessionId"].as_str().unwrap().to_owned()
    }

    #[tokio::test]
    async fn a_background_command_takes_input_and_is_told_once() {
        let kit = Kit::new();
        let id = start(&kit, "while read line; do echo \"got $line\"; done; exit 4").await;
        let list = kit.call("process", json!({"action": "list"})).await.unwrap().plain_text();
        assert!(list.contains(&id) && list.contains("running"));
        kit.call("process", json!({"action": "submit", "sessionId": id, "data": "a"})).await.unwrap();
        kit.call("process", json!({"action": "write", "sessionId": id, "data": "b\n", "eof": true})).await.unwrap();
        let seen = kit.call("process", json!({"action": "poll", "sessionId": id, "timeout": 60_000})).await.unwrap().plain_text();
        assert_eq!(seen, "got a\ngot b\n\nProcess exited with code 4.");
        let seen = kit.call("process", json!({"action": "poll", "sessionId": id})).await.unwrap().plain_text();
        assert!(seen.starts_with("(no new output)"));
        let seen = kit.call("process", json!({"action": "log", "sessionId": id, "offset": 1, "limit": 1})).await.unwrap().plain_text();
        assert!(seen.starts_with("got b\n"), "{seen}");
        while kit.calls("wake").is_empty() {
            tokio::task::yield_now().await;
        }
        let wake = kit.calls("wake").remove(0);
        assert!(wake["text"].as_str().unwrap().contains("code 4") && wake["sessionKey"] == "agent:jerry:main");
        kit.call("process", json!({"action": "clear", "sessionId": id})).await.unwrap();
        assert!(kit.call("process", json!({"action": "poll", "sessionId": id})).await.is_err());
    }

    #[tokio::test]
    async fn a_slow_command_goes_on_in_the_background_and_can_be_killed() {
        let kit = Kit::new();
        let seen = kit.call("exec", json!({"command": "echo begun; sleep 1000", "yieldMs": 300})).await.unwrap();
        let id = seen.details.unwrap()["sessionId"].as_str().unwrap().to_owned();
        let seen = kit.call("process", json!({"action": "kill", "sessionId": id})).await.unwrap().plain_text();
        assert!(seen.contains("SIGTERM"), "{seen}");
        assert!(kit.calls("wake").is_empty(), "who kills it knows");
        let err = kit.call("process", json!({"action": "dance"})).await.unwrap_err().to_string();
        assert!(err.contains("action") || err.contains("dance"), "{err}");
        let err = kit.call("process", json!({"action": "poll"})).await.unwrap_err().to_string();
        assert!(err.contains("`sessionId`"), "{err}");
    }

    #[tokio::test]
    async fn the_gateways_stop_ends_background_commands() {
        let kit = Kit::new();
        let id = start(&kit, "sleep 1000").await;
        assert!(kit.cx().world.tasks.stop(std::time::Duration::from_secs(20)).await);
        let seen = kit.call("process", json!({"action": "poll", "sessionId": id})).await.unwrap().plain_text();
        assert!(seen.contains("SIGTERM"), "{seen}");
    }
}
