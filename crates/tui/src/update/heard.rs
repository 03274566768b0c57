//! What the gateway tells without being asked.

use clawstead_wire::{
    event::{AgentEvent, ChatEvent, ChatState},
    frame,
};
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::{pick, reload};
use crate::{
    command::Command,
    entry::{Level, Stage, ToolState},
    log::plain,
    state::{APPROVALS_MAX, Approval, RUNS_MAX, Run, State, transcript},
};

/// Reasons of `sessions.changed` after which the transcript is another one.
const REWRITTEN: [&str; 4] = ["reset", "new", "delete", "compact"];

pub fn heard(state: &mut State, event: &frame::Event) -> Vec<Command> {
    let payload = event.payload.as_ref().unwrap_or(&Value::Null);
    match event.event.as_str() {
        "agent" => {
            if let Some(event) = read::<AgentEvent>(payload).filter(|event| event.session_key.as_deref() == Some(state.key_text())) {
                agent(state, &event);
            }
        }
        "chat" => {
            if let Some(event) = read::<ChatEvent>(payload).filter(|event| event.session_key == state.key_text()) {
                chat(state, &event);
            }
        }
        "session.message" if payload["sessionKey"] == state.key_text() => {
            if let Some(seq) = payload["messageSeq"].as_u64() {
                state.log.stored(seq, &payload["message"]);
            }
        }
        "sessions.changed" => return changed(state, payload),
        "exec.approval.requested" => approval(state, payload),
        "exec.approval.resolved" => {
            let id = payload["id"].as_str().unwrap_or_default();
            state.approvals.retain(|held| held.id != id);
        }
        "shutdown" => {
            let reason = payload["reason"].as_str().unwrap_or("the gateway stops");
            state.log.note(Level::Plain, reason.to_owned());
        }
        _ => {}
    }
    Vec::new()
}

fn read<T: DeserializeOwned>(payload: &Value) -> Option<T> {
    T::deserialize(payload).ok()
}

fn changed(state: &mut State, payload: &Value) -> Vec<Command> {
    let mut commands = pick::refresh(state);
    if payload["sessionKey"] == state.key_text() {
        let row = if payload["session"].is_object() { &payload["session"] } else { payload };
        let another = transcript(row).zip(state.facts.transcript.as_ref()).is_some_and(|(new, held)| new != *held);
        state.facts.learn(row);
        if another || payload["reason"].as_str().is_some_and(|reason| REWRITTEN.contains(&reason)) {
            commands.extend(reload(state));
        }
    }
    commands
}

/// Takes one approval request, from an event or a list.
pub fn approval(state: &mut State, request: &Value) {
    let Some(id) = request["id"].as_str() else { return };
    if state.approvals.len() >= APPROVALS_MAX || state.approvals.iter().any(|held| held.id == id) {
        return;
    }
    let facts = &request["request"];
    let command = facts["command"].as_str().unwrap_or("a command").to_owned();
    let agent = facts["agentId"].as_str().unwrap_or("an agent").to_owned();
    state.approvals.push_back(Approval { id: id.to_owned(), command, agent });
}

fn phase(state: &mut State, run: &str, word: &str) {
    let now = state.now;
    if state.runs.len() >= RUNS_MAX && !state.runs.contains_key(run) {
        return;
    }
    let held = state.runs.entry(run.to_owned()).or_insert_with(|| Run { since: now, phase: String::new() });
    word.clone_into(&mut held.phase);
}

fn agent(state: &mut State, event: &AgentEvent) {
    let (run, data) = (event.run_id.as_str(), &event.data);
    let text = |name: &str| data.get(name).and_then(Value::as_str);
    match event.stream.as_str() {
        "lifecycle" => match text("phase") {
            Some("start") => phase(state, run, "thinking"),
            Some("model") => {
                if let (Some(provider), Some(model)) = (text("provider"), text("model")) {
                    state.facts.model = Some(format!("{provider}/{model}"));
                    phase(state, run, "thinking");
                }
            }
            Some("fallback_step") => {
                let to = text("fallbackStepToModel").unwrap_or("the next model");
                let why = text("fallbackStepFromFailureDetail").unwrap_or("no reason given");
                state.log.note(Level::Plain, format!("{why}; trying {to}"));
            }
            Some("end" | "error") => {
                state.runs.remove(run);
                state.log.close(run);
            }
            _ => {}
        },
        "assistant" => {
            if let Some(so_far) = text("text") {
                phase(state, run, "answering");
                state.log.answer(run, text("itemId"), so_far);
            }
        }
        "thinking" => {
            if let Some(delta) = text("delta") {
                phase(state, run, "thinking");
                state.log.thinking(run, delta);
            }
        }
        "tool" => tool(state, event),
        // Connections without tool events get the outline only.
        "item" if text("kind") == Some("tool") => {
            let (Some(call), Some(name)) = (text("toolCallId"), text("name")) else { return };
            match text("phase") {
                Some("start") => {
                    phase(state, run, name);
                    state.log.tool_start(run, call, name, None);
                }
                Some("end") => state.log.tool_ended(call, if text("status") == Some("failed") { ToolState::Failed } else { ToolState::Done }),
                _ => {}
            }
        }
        "compaction" if text("phase") == Some("end") => state.log.note(Level::Plain, "the older part of the conversation was summarised"),
        _ => {}
    }
}

fn tool(state: &mut State, event: &AgentEvent) {
    let (run, data) = (event.run_id.as_str(), &event.data);
    let text = |name: &str| data.get(name).and_then(Value::as_str);
    let Some(call) = text("toolCallId") else { return };
    let name = text("name").unwrap_or("tool");
    match text("phase") {
        Some("start") => {
            phase(state, run, name);
            state.log.tool_start(run, call, name, data.get("args"));
        }
        Some("update") => {
            let output = data.get("partialResult").map(|result| plain(&result["content"])).unwrap_or_default();
            state.log.tool_output(call, &output, ToolState::Running);
        }
        Some("result") => {
            let failed = data.get("isError") == Some(&Value::Bool(true));
            let output = data.get("result").map(|result| plain(&result["content"])).unwrap_or_default();
            state.log.tool_output(call, &output, if failed { ToolState::Failed } else { ToolState::Done });
            phase(state, run, "thinking");
        }
        _ => {}
    }
}

fn chat(state: &mut State, event: &ChatEvent) {
    let (run, more) = (event.run_id.as_str(), &event.more);
    let said = more.get("message").map(|message| plain(&message["content"]));
    let confirmed = |state: &mut State| {
        state.unconfirmed.retain(|out| out.run != run);
        state.log.stage(run, &Stage::Stored);
    };
    match event.state {
        ChatState::Status => {
            confirmed(state);
            let word = more.get("phase").and_then(Value::as_str).unwrap_or("working").replace('_', " ");
            phase(state, run, &word);
        }
        // `agent` events bring the same text; this is for what has only `chat` events.
        ChatState::Delta => {
            if let Some(text) = said.filter(|text| !text.is_empty()) {
                phase(state, run, "answering");
                state.log.answer(run, None, &text);
            }
        }
        ChatState::Final => {
            confirmed(state);
            state.runs.remove(run);
            state.log.end(run, said.as_deref());
        }
        ChatState::Aborted => {
            state.runs.remove(run);
            state.log.end(run, said.as_deref());
            state.log.note(Level::Plain, "stopped");
            state.flash = None;
        }
        ChatState::Error => {
            let known = state.runs.remove(run).is_some();
            state.log.end(run, said.as_deref());
            let why = more.get("errorMessage").and_then(Value::as_str).unwrap_or("the run failed");
            if known || !state.log.notes_last(why) {
                state.log.note(Level::Error, why.to_owned());
            }
        }
    }
}
