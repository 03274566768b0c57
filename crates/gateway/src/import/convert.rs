//! An entry of a transcript as an event of our journal.

use clawstead_terms::{JournalEvent, Message, MessageId, Millis, Part, Role, SessionId, StopReason, Usage};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::tree::{Kind, Odd, Step};

/// Turns entries into events.
pub struct Converter {
    /// The session, for resets.
    pub session_id: SessionId,
    /// What could not be taken over.
    pub odd: Odd,
    /// The newest moment seen, for entries without one.
    pub last_at: Millis,
}

/// A name for an entry: its own id, or its number.
#[must_use]
pub fn entry_id(entry: &Value, number: usize) -> MessageId {
    const BYTES_MAX: usize = 128;
    match entry.get("id").and_then(Value::as_str).filter(|id| !id.is_empty() && id.len() <= BYTES_MAX) {
        Some(id) => id.into(),
        None => format!("line-{number}").into(),
    }
}

/// A moment as a number of milliseconds, or as ISO text.
#[must_use]
pub fn moment(value: Option<&Value>) -> Option<Millis> {
    match value? {
        Value::Number(number) => number.as_i64().or_else(|| number.as_f64().map(|f| f as i64)).filter(|ms| *ms > 0).map(Millis),
        Value::String(text) => text.parse::<Timestamp>().ok().map(|at| Millis(at.as_millisecond())),
        _ => None,
    }
}

fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value.get(name).and_then(Value::as_str).unwrap_or_default()
}

impl Converter {
    /// The event of an entry; none when nothing of it enters the conversation. `kept` is the id of the message that a
    /// compaction keeps first.
    pub fn event(&mut self, step: &Step, entry: &Value, kept: Option<MessageId>) -> Option<JournalEvent> {
        let at = moment(entry.get("message").and_then(|m| m.get("timestamp"))).or_else(|| moment(entry.get("timestamp"))).unwrap_or(self.last_at);
        self.last_at = at;
        match step.kind {
            Kind::Said | Kind::Bare => {
                let id = entry_id(entry, step.number);
                let message = if step.kind == Kind::Bare { self.bare(entry, id, at) } else { self.said(entry, id, at) }?;
                Some(JournalEvent::Said { message: Box::new(message) })
            }
            Kind::Compaction => Some(JournalEvent::Compacted {
                summary: text(entry, "summary").to_owned(),
                first_kept: kept,
                tokens_before: entry.get("tokensBefore").and_then(Value::as_f64).map_or(0, |n| n.max(0.0) as u64),
                at,
            }),
            Kind::Reset => {
                let reason = entry.get("reason").and_then(Value::as_str).unwrap_or("new").to_owned();
                Some(JournalEvent::Reset { reason, at, session_id: self.session_id.clone() })
            }
            Kind::Aside => None,
        }
    }

    fn said(&mut self, entry: &Value, id: MessageId, at: Millis) -> Option<Message> {
        let plain = |role: Role, parts: Vec<Part>, meta: Option<Value>| {
            Some(Message { id: id.clone(), role, parts, at, run_id: None, model: None, usage: None, stop_reason: None, meta })
        };
        match text(entry, "type") {
            "branch_summary" => {
                let words = format!("[An earlier branch of this conversation, summarised]\n{}", text(entry, "summary"));
                return plain(Role::System, vec![Part::text(words)], Some(json!({ "kind": "branchSummary" })));
            }
            "custom_message" => return plain(Role::System, self.parts(entry.get("content")), note(entry)),
            _ => {}
        }
        let Some(message) = entry.get("message").filter(|message| message.is_object()) else {
            self.odd.unreadable += 1;
            return None;
        };
        match text(message, "role") {
            "user" => plain(Role::User, self.parts(message.get("content")), None),
            "assistant" => {
                let mut made = plain(Role::Assistant, self.parts(message.get("content")), None)?;
                let (provider, model) = (text(message, "provider"), text(message, "model"));
                made.model = match (provider.is_empty(), model.is_empty()) {
                    (false, false) => Some(format!("{provider}/{model}")),
                    (true, false) => Some(model.to_owned()),
                    _ => None,
                };
                made.usage = message.get("usage").filter(|usage| usage.is_object()).map(usage);
                made.stop_reason = stop(text(message, "stopReason"));
                made.meta = message.get("errorMessage").filter(|error| error.is_string()).map(|error| json!({ "error": error }));
                Some(made)
            }
            "toolResult" => {
                let result = Part::ToolResult {
                    id: text(message, "toolCallId").to_owned(),
                    name: text(message, "toolName").to_owned(),
                    content: self.parts(message.get("content")),
                    details: message.get("details").filter(|details| !details.is_null()).cloned(),
                    is_error: message.get("isError").and_then(Value::as_bool).unwrap_or(false),
                };
                plain(Role::Tool, vec![result], None)
            }
            "bashExecution" => {
                let words = format!("Ran `{}`:\n{}", text(message, "command"), text(message, "output"));
                plain(Role::System, vec![Part::text(words)], Some(json!({ "kind": "bashExecution" })))
            }
            "custom" => plain(Role::System, self.parts(message.get("content")), note(message)),
            other => {
                self.odd.strange(&format!("role {other}"));
                None
            }
        }
    }

    fn bare(&mut self, line: &Value, id: MessageId, at: Millis) -> Option<Message> {
        let role = match text(line, "role") {
            "user" | "human" => Role::User,
            "assistant" | "agent" => Role::Assistant,
            "system" => Role::System,
            other => {
                self.odd.strange(&format!("role {other}"));
                return None;
            }
        };
        let stop_reason = (role == Role::Assistant).then_some(StopReason::Stop);
        Some(Message { id, role, parts: self.parts(line.get("content")), at, run_id: None, model: None, usage: None, stop_reason, meta: None })
    }

    fn parts(&mut self, content: Option<&Value>) -> Vec<Part> {
        match content {
            Some(Value::String(text)) => vec![Part::text(text)],
            Some(Value::Array(blocks)) => blocks.iter().filter_map(|block| self.part(block)).collect(),
            _ => Vec::new(),
        }
    }

    fn part(&mut self, block: &Value) -> Option<Part> {
        match text(block, "type") {
            "text" => Some(Part::text(text(block, "text"))),
            "thinking" => Some(Part::Thinking {
                text: text(block, "thinking").to_owned(),
                signature: block.get("thinkingSignature").and_then(Value::as_str).map(str::to_owned),
            }),
            "image" => Some(Part::Image { mime_type: text(block, "mimeType").to_owned(), data: text(block, "data").to_owned() }),
            "toolCall" => Some(Part::ToolCall {
                id: text(block, "id").to_owned(),
                name: text(block, "name").to_owned(),
                arguments: block.get("arguments").cloned().unwrap_or_else(|| json!({})),
            }),
            other => {
                self.odd.strange(&format!("part {other}"));
                None
            }
        }
    }
}

fn note(entry: &Value) -> Option<Value> {
    let kind = text(entry, "customType");
    // Our own notes come back as they were.
    (kind != "clawstead.note").then(|| json!({ "kind": kind, "display": entry.get("display").and_then(Value::as_bool).unwrap_or(true) }))
}

fn usage(usage: &Value) -> Usage {
    let count = |name: &str| usage.get(name).and_then(Value::as_f64).map_or(0, |n| n.max(0.0) as u64);
    let cost = match usage.get("cost") {
        Some(Value::Object(cost)) => cost.get("total").and_then(Value::as_f64),
        Some(other) => other.as_f64(),
        None => None,
    };
    Usage { input: count("input"), output: count("output"), cache_read: count("cacheRead"), cache_write: count("cacheWrite"), cost_usd: cost.unwrap_or(0.0) }
}

fn stop(word: &str) -> Option<StopReason> {
    match word {
        "stop" => Some(StopReason::Stop),
        "length" => Some(StopReason::Length),
        "toolUse" => Some(StopReason::ToolUse),
        "error" => Some(StopReason::Error),
        "aborted" => Some(StopReason::Aborted),
        _ => None,
    }
}
