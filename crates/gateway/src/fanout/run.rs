//! Run events as `agent`, `chat`, `session.message` and `sessions.changed`.

use std::sync::PoisonError;

use serde_json::{Map, Value, json};

use clawstead_terms::{RunEvent, RunEventKind, RunPhase, SessionKey};
use clawstead_wire::event::{AgentEvent, ChatEvent, ChatState, SessionMessageEvent};

use super::{
    Fanout, To,
    message::{messages_json, parts_json, stop_word},
};

/// Runs followed at once; more than lanes can have.
const RUNS_MAX: usize = 10_000;
/// The tools whose output is shown as that of a command.
const COMMAND_TOOLS: [&str; 2] = ["exec", "process"];

/// What is remembered of a run while it goes.
#[derive(Debug, Default)]
pub struct Track {
    /// Number of the last `agent` event.
    seq: u64,
    thinking: String,
    /// The message that is being said, all of it so far.
    text: String,
    model: Option<(String, String)>,
}

fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}

fn phase_word(phase: RunPhase) -> &'static str {
    match phase {
        RunPhase::PreparingWorkspace => "preparing_workspace",
        RunPhase::PreparingContext => "preparing_context",
        RunPhase::StartingModel => "starting_model",
    }
}

fn said(text: &str, at: i64) -> Value {
    json!({ "role": "assistant", "content": [{ "type": "text", "text": text }], "timestamp": at })
}

/// One run event being turned into protocol events.
struct Teller<'a> {
    fanout: &'a Fanout,
    event: &'a RunEvent,
    seq: u64,
}

impl Fanout {
    /// Tells listeners what happened in a run.
    pub fn run(&self, event: &RunEvent) {
        let mut track = self.take_track(event);
        let mut teller = Teller { fanout: self, event, seq: track.seq };
        teller.tell(&mut track);
        track.seq = teller.seq;
        let ended = matches!(event.kind, RunEventKind::Finished { .. } | RunEventKind::Failed { .. } | RunEventKind::Aborted { .. });
        if !ended {
            let mut runs = self.shared.runs.lock().unwrap_or_else(PoisonError::into_inner);
            if runs.len() < RUNS_MAX {
                runs.insert(event.run_id.clone(), track);
            }
        }
    }

    /// What a run that is going has said so far in its current message.
    #[must_use]
    pub fn text_so_far(&self, run: &clawstead_terms::RunId) -> Option<String> {
        self.shared.runs.lock().unwrap_or_else(PoisonError::into_inner).get(run).map(|track| track.text.clone())
    }

    fn take_track(&self, event: &RunEvent) -> Track {
        self.shared.runs.lock().unwrap_or_else(PoisonError::into_inner).remove(&event.run_id).unwrap_or_default()
    }
}

impl Teller<'_> {
    fn key(&self) -> &SessionKey {
        &self.event.session
    }

    fn at(&self) -> i64 {
        self.event.at.0
    }

    fn agent(&mut self, stream: &str, data: impl FnOnce() -> Value) {
        self.seq += 1;
        let to = if stream == "tool" { To::Tool(self.key().as_str()) } else { To::Run(self.key().as_str()) };
        self.fanout.deliver("agent", to, None, || self.agent_payload(stream, data()));
    }

    fn agent_payload(&self, stream: &str, data: Value) -> AgentEvent {
        let event = self.event;
        let with_transcript = matches!(stream, "lifecycle" | "tool");
        AgentEvent {
            run_id: event.run_id.as_str().to_owned(),
            seq: self.seq,
            stream: stream.to_owned(),
            ts: self.at(),
            data: object(data),
            session_key: Some(event.session.as_str().to_owned()),
            session_id: with_transcript.then(|| event.session_id.as_str().to_owned()),
            agent_id: Some(event.agent.as_str().to_owned()),
            is_heartbeat: Some(event.heartbeat),
            spawned_by: event.spawned_by.as_ref().map(|key| key.as_str().to_owned()),
            more: self.agent_more(stream),
        }
    }

    /// Tools come with the session they work in.
    fn agent_more(&self, stream: &str) -> Map<String, Value> {
        let mut more = Map::new();
        if stream == "tool" {
            self.fanout.add_row(&mut more, self.key());
            for own in ["runId", "seq", "stream", "ts", "data", "sessionKey", "sessionId", "agentId", "isHeartbeat", "spawnedBy"] {
                more.remove(own);
            }
        }
        more
    }

    /// The model is free again; told where the run ends, so that clients see it before the end.
    fn released(&mut self) {
        self.agent("lifecycle", || json!({ "phase": "model", "provider": null, "model": null }));
    }

    /// A `chat` event with the number of the `agent` event it goes with.
    fn chat(&self, seq: u64, state: ChatState, more: impl FnOnce() -> Value) {
        let event = self.event;
        self.fanout.deliver("chat", To::Run(self.key().as_str()), None, || ChatEvent {
            run_id: event.run_id.as_str().to_owned(),
            session_key: event.session.as_str().to_owned(),
            agent_id: Some(event.agent.as_str().to_owned()),
            spawned_by: event.spawned_by.as_ref().map(|key| key.as_str().to_owned()),
            seq,
            state,
            more: object(more()),
        });
    }

    fn changed(&self, phase: &str) {
        let run = self.event.run_id.as_str();
        self.fanout.changed(self.key(), self.at(), || object(json!({ "phase": phase, "runId": run })));
    }

    fn tell(&mut self, track: &mut Track) {
        let (event, at) = (self.event, self.at());
        match &event.kind {
            RunEventKind::Phase(phase) => {
                let word = phase_word(*phase);
                self.chat(self.seq + 1, ChatState::Status, || json!({ "phase": word }));
                self.agent("run_status", || json!({ "phase": word }));
            }
            RunEventKind::Started => {
                self.agent("lifecycle", || json!({ "phase": "start", "startedAt": at }));
                self.fanout.changed(self.key(), at, || object(json!({ "reason": "agent.run.started" })));
                self.changed("start");
            }
            RunEventKind::Model(Some((provider, name))) => {
                self.agent("lifecycle", || json!({ "phase": "model", "provider": provider, "model": name }));
                track.model = Some((provider.clone(), name.clone()));
                let run = self.event.run_id.as_str();
                self.fanout.changed(self.key(), at, || object(json!({ "phase": "model", "runId": run, "activeModelProvider": provider, "activeModel": name })));
            }
            // The end that follows tells it.
            RunEventKind::Model(None) => {}
            RunEventKind::Text { item_id, text, delta } => {
                track.text.clone_from(text);
                self.agent("assistant", || json!({ "text": text, "delta": delta, "itemId": item_id }));
                self.chat(self.seq, ChatState::Delta, || json!({ "deltaText": delta, "message": said(text, at) }));
            }
            RunEventKind::Thinking { delta } => {
                track.thinking.push_str(delta);
                self.agent("thinking", || json!({ "text": track.thinking, "delta": delta }));
            }
            RunEventKind::ToolStart { .. } | RunEventKind::ToolUpdate { .. } | RunEventKind::ToolEnd { .. } => self.tell_tool(),
            RunEventKind::Usage(usage) => self.agent("usage", || json!({ "outputTokens": usage.output })),
            RunEventKind::Fallback { from, to, failure, delay_ms } => {
                self.agent("lifecycle", || {
                    json!({ "phase": "fallback_step", "fallbackStepType": "fallback_step", "fallbackStepFromModel": from, "fallbackStepToModel": to,
                        "fallbackStepFromFailureDetail": failure.message, "retryDelayMs": delay_ms, "fallbackStepFinalOutcome": "next_candidate" })
                });
            }
            RunEventKind::Said { message, position } => {
                for body in messages_json(message, *position) {
                    self.fanout.deliver("session.message", To::Messages(self.key().as_str()), None, || {
                        let mut more = Map::new();
                        self.fanout.add_row(&mut more, self.key());
                        for own in ["sessionKey", "agentId", "messageId", "messageSeq", "message"] {
                            more.remove(own);
                        }
                        if let Some(run) = &message.run_id {
                            more.insert("runId".into(), run.as_str().into());
                        }
                        SessionMessageEvent {
                            session_key: self.key().as_str().to_owned(),
                            agent_id: self.event.agent.as_str().to_owned(),
                            message_id: message.id.as_str().to_owned(),
                            message_seq: *position,
                            message: body,
                            more,
                        }
                    });
                }
            }
            RunEventKind::Compacted { tokens_before } => self.agent("compaction", || json!({ "phase": "end", "tokensBefore": tokens_before })),
            RunEventKind::Finished { .. } | RunEventKind::Failed { .. } | RunEventKind::Aborted { .. } => self.tell_end(track),
        }
    }

    fn tell_tool(&mut self) {
        let (event, at) = (self.event, self.at());
        match &event.kind {
            RunEventKind::ToolStart { call_id, name, args } => {
                self.item(call_id, name, json!({ "phase": "start", "status": "running", "startedAt": at }));
                self.agent("tool", || json!({ "phase": "start", "name": name, "toolCallId": call_id, "args": args }));
            }
            RunEventKind::ToolUpdate { call_id, name, output } => {
                let partial = || json!({ "content": [{ "type": "text", "text": output }], "details": { "status": "running", "tail": output } });
                self.agent("tool", || json!({ "phase": "update", "name": name, "toolCallId": call_id, "partialResult": partial() }));
                self.item(call_id, name, json!({ "phase": "update", "status": "running" }));
                self.command(call_id, name, json!({ "phase": "delta", "output": output, "status": "running" }));
            }
            RunEventKind::ToolEnd { call_id, name, content, details, is_error, duration_ms } => {
                let status = if *is_error { "failed" } else { "completed" };
                let result = json!({ "content": parts_json(content), "details": details });
                self.agent("tool", || {
                    let mut data = json!({ "phase": "result", "name": name, "toolCallId": call_id, "isError": is_error, "result": result });
                    if COMMAND_TOOLS.contains(&name.as_str()) {
                        data["commandBearing"] = true.into();
                    }
                    data
                });
                self.item(
                    call_id,
                    name,
                    json!({ "phase": "end", "status": status, "startedAt": at - i64::try_from(*duration_ms).unwrap_or(0), "endedAt": at }),
                );
                let output: String =
                    content.iter().filter_map(|part| if let clawstead_terms::Part::Text { text } = part { Some(text.as_str()) } else { None }).collect();
                let mut data = json!({ "phase": "end", "output": output, "status": status, "durationMs": duration_ms });
                for field in ["exitCode", "cwd"] {
                    if let Some(value) = details.as_ref().and_then(|details| details.get(field)) {
                        data[field] = value.clone();
                    }
                }
                self.command(call_id, name, data);
            }
            _ => {}
        }
    }

    fn item(&mut self, call_id: &str, name: &str, more: Value) {
        let mut data = object(json!({ "itemId": format!("tool:{call_id}"), "toolCallId": call_id, "name": name, "kind": "tool", "title": name }));
        data.extend(object(more));
        if COMMAND_TOOLS.contains(&name) {
            data.insert("commandBearing".into(), true.into());
        }
        self.agent("item", || Value::Object(data));
    }

    fn command(&mut self, call_id: &str, name: &str, more: Value) {
        if COMMAND_TOOLS.contains(&name) {
            let mut data = object(json!({ "itemId": format!("command:{call_id}"), "title": format!("command {name}"), "toolCallId": call_id, "name": name }));
            data.extend(object(more));
            self.agent("command_output", || Value::Object(data));
        }
    }

    fn tell_end(&mut self, track: &Track) {
        let (event, at) = (self.event, self.at());
        match &event.kind {
            RunEventKind::Finished { text, stop_reason, started_at, tools_used, .. } => {
                let stop = stop_word(*stop_reason);
                self.agent("lifecycle", || json!({ "phase": "finishing", "stopReason": stop, "aborted": false, "livenessState": "working", "endedAt": at }));
                self.released();
                let disposition = if text.is_empty() { "silent" } else { "visible" };
                let model = track.model.as_ref().map(|(provider, model)| json!({ "provider": provider, "model": model }));
                let run = event.run_id.as_str();
                self.agent("lifecycle", || {
                    json!({ "phase": "end", "stopReason": stop, "aborted": false, "livenessState": "working", "endedAt": at, "startedAt": started_at,
                        "terminalReply": { "disposition": disposition, "text": text },
                        "terminalReceipt": { "runId": run, "sessionId": event.session_id, "turnId": run, "requested": model, "effective": model,
                            "successfulToolNames": tools_used, "rerouted": false, "terminalDisposition": disposition },
                        "executionSettled": true })
                });
                self.fanout.changed(self.key(), at, || object(json!({ "reason": "agent.input.settled" })));
                self.changed("end");
                self.chat(self.seq, ChatState::Final, || {
                    let mut more = json!({ "stopReason": stop });
                    if !text.is_empty() {
                        more["message"] = said(text, at);
                    }
                    more
                });
            }
            RunEventKind::Failed { failure, error_kind, started_at, partial } => {
                let message = &failure.message;
                let observed = track.model.as_ref().map(|(provider, model)| json!({ "provider": provider, "model": model, "failoverReason": error_kind }));
                let with_observed = |mut data: Value| {
                    if let Some(observed) = &observed {
                        data["errorObservation"] = observed.clone();
                    }
                    data
                };
                self.agent("lifecycle", || {
                    with_observed(json!({ "phase": "finishing", "error": message, "aborted": false, "livenessState": "blocked", "endedAt": at }))
                });
                self.released();
                self.agent("lifecycle", || {
                    with_observed(
                        json!({ "phase": "error", "error": message, "aborted": false, "livenessState": "blocked", "endedAt": at, "startedAt": started_at,
                        "executionSettled": true }),
                    )
                });
                self.fanout.changed(self.key(), at, || object(json!({ "reason": "agent.input.settled" })));
                self.changed("error");
                self.chat(self.seq, ChatState::Error, || {
                    let mut more = json!({ "errorMessage": message, "errorKind": chat_error_kind(error_kind) });
                    if let Some((provider, model)) = &track.model {
                        more["errorDetail"] = json!({ "provider": provider, "model": model, "failoverReason": error_kind });
                    }
                    if !partial.is_empty() {
                        more["message"] = said(partial, at);
                    }
                    more
                });
            }
            RunEventKind::Aborted { reason, started_at, partial } => {
                self.chat(self.seq + 1, ChatState::Aborted, || {
                    let mut more = json!({ "stopReason": reason });
                    if !partial.is_empty() {
                        more["message"] = said(partial, at);
                    }
                    more
                });
                self.agent("lifecycle", || {
                    json!({ "phase": "end", "status": "cancelled", "aborted": true, "stopReason": reason, "startedAt": started_at, "endedAt": at,
                        "executionSettled": true })
                });
                self.released();
                self.fanout.changed(self.key(), at, || object(json!({ "reason": "agent.input.settled" })));
                self.changed("end");
            }
            _ => {}
        }
    }
}

/// Our error kinds in the words of `chat` events.
fn chat_error_kind(kind: &str) -> &'static str {
    match kind {
        "timeout" => "timeout",
        "quota" => "rate_limit",
        "context" => "context_length",
        "content" => "refusal",
        _ => "unknown",
    }
}
