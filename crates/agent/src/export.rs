//! A session as a JSONL file in the shape of OpenClaw's transcripts (header version 3).

use std::sync::Arc;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use clawstead_state::read_journal_json;
use clawstead_terms::{Failure, JournalEvent, Message, Millis, Part, Role, SessionId, SessionKey, StopReason, Usage};

use crate::{SessionRow, lanes::Lanes};

/// Journal lines read at once.
const PAGE: usize = 200;

/// A page of an export ends after so many bytes, so that it fits into one frame of the protocol with room to spare;
/// one line that is larger is a page of its own.
const PAGE_BYTES_MAX: usize = 4 * 1024 * 1024;

/// A piece of an export.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExportPage {
    /// JSON lines without line ends; the first page begins with the header.
    pub lines: Vec<String>,
    /// For the next page; none at the end.
    pub next: Option<String>,
}

/// Turns journal lines into transcript lines, one after the other.
#[derive(Default, Serialize, Deserialize)]
struct Lines {
    parent: Option<String>,
    model: Option<String>,
}

impl Lanes {
    /// Writes a session's conversation since its last reset, line by line with its line end, a page in memory at
    /// most. Answers how many lines.
    ///
    /// # Errors
    /// `NotFound` for an unknown session; when the store cannot be read.
    pub async fn export_jsonl(&self, key: &SessionKey, out: &mut (dyn FnMut(String) + Send)) -> Result<u64, Failure> {
        let (mut count, mut cursor) = (0, None);
        loop {
            let page = self.export_page(key, cursor.as_deref()).await?;
            for mut line in page.lines {
                line.push('\n');
                out(line);
                count += 1;
            }
            match page.next {
                Some(next) => cursor = Some(next),
                None => return Ok(count),
            }
        }
    }

    /// A piece of the same file: the first without a cursor, each next one with the cursor of the piece before. What
    /// is said meanwhile comes with the last piece.
    ///
    /// # Errors
    /// `NotFound` for an unknown session, `InvalidRequest` for a cursor that is none; when the store cannot be read.
    pub async fn export_page(&self, key: &SessionKey, cursor: Option<&str>) -> Result<ExportPage, Failure> {
        let room = self.room(&key.agent())?;
        let row = room.row(key).ok_or_else(|| Failure::not_found(format!("there is no session {key}")))?;
        let mut out = ExportPage::default();
        let (mut from, mut lines) = match cursor {
            Some(text) => {
                let at: Place = serde_json::from_str(text).map_err(|_| Failure::invalid("the cursor is not one of an earlier page"))?;
                if at.session != row.session_id || at.reset != row.reset_seq {
                    return Err(Failure::invalid("the conversation began afresh since the first page").with_hint("export it again"));
                }
                (at.from, at.lines)
            }
            None => {
                let cwd = self.settings(&row.agent_id).map(|settings| settings.workspace.display().to_string()).unwrap_or_default();
                out.lines.push(header(&row, &cwd).to_string());
                (row.reset_seq + 1, Lines::default())
            }
        };
        let mut bytes = 0;
        loop {
            let page = read_journal_json::<JournalEvent>(&*self.parts.store, &room.unit, row.session_id.as_str(), from, PAGE).await.map_err(Failure::from)?;
            if page.is_empty() {
                return Ok(out);
            }
            for (seq, event) in &page {
                if bytes >= PAGE_BYTES_MAX {
                    let place = Place { session: row.session_id.clone(), reset: row.reset_seq, from: *seq, lines };
                    out.next = Some(serde_json::to_string(&place).map_err(|err| Failure::internal(err.to_string()))?);
                    return Ok(out);
                }
                from = seq + 1;
                for entry in lines.entries(event) {
                    let line = entry.to_string();
                    bytes += line.len();
                    out.lines.push(line);
                }
            }
        }
    }
}

/// Where a page ended, as the cursor says it.
#[derive(Serialize, Deserialize)]
struct Place {
    session: SessionId,
    reset: u64,
    from: u64,
    #[serde(flatten)]
    lines: Lines,
}

fn header(row: &Arc<SessionRow>, cwd: &str) -> Value {
    json!({ "type": "session", "version": 3, "id": row.session_id, "timestamp": iso(row.session_started_at.unwrap_or(row.created_at)), "cwd": cwd })
}

/// Eight hex digits, as the file format has them.
fn short(id: &str) -> String {
    hex::encode(&Sha256::digest(id)[..4])
}

fn iso(at: Millis) -> String {
    format!("{:.3}", Timestamp::from_millisecond(at.0).unwrap_or_default())
}

impl Lines {
    fn entries(&mut self, event: &JournalEvent) -> Vec<Value> {
        match event {
            JournalEvent::Said { message } => self.message(message),
            JournalEvent::Compacted { summary, first_kept, tokens_before, at } => {
                let kept = first_kept.as_ref().map(|id| short(id.as_str()));
                vec![self.entry(
                    &format!("compaction-{at}"),
                    *at,
                    json!({ "type": "compaction", "summary": summary, "firstKeptEntryId": kept, "tokensBefore": tokens_before }),
                )]
            }
            _ => Vec::new(),
        }
    }

    fn entry(&mut self, id: &str, at: Millis, mut value: Value) -> Value {
        let id = short(id);
        if let Some(object) = value.as_object_mut() {
            object.insert("id".into(), json!(id));
            object.insert("parentId".into(), json!(self.parent));
            object.insert("timestamp".into(), json!(iso(at)));
        }
        self.parent = Some(id);
        value
    }

    fn message(&mut self, message: &Message) -> Vec<Value> {
        let mut out = Vec::new();
        let id = message.id.as_str();
        match message.role {
            Role::User => out.push(self.entry(
                id,
                message.at,
                json!({ "type": "message", "message": { "role": "user", "content": content(&message.parts), "timestamp": message.at } }),
            )),
            Role::System => out.push(self.entry(
                id,
                message.at,
                json!({ "type": "custom_message", "customType": "clawstead.note", "content": content(&message.parts), "display": true }),
            )),
            Role::Assistant => {
                let (provider, model) = message.model.as_deref().and_then(|model| model.split_once('/')).unwrap_or(("", ""));
                if let Some(full) = &message.model
                    && self.model.as_ref() != Some(full)
                {
                    self.model = Some(full.clone());
                    out.push(self.entry(&format!("{id}-model"), message.at, json!({ "type": "model_change", "provider": provider, "modelId": model })));
                }
                let mut body = json!({
                    "role": "assistant",
                    "content": content(&message.parts),
                    "provider": provider,
                    "model": model,
                    "usage": usage(message.usage.unwrap_or_default()),
                    "stopReason": stop(message.stop_reason),
                    "timestamp": message.at,
                });
                if let Some(error) = message.meta.as_ref().and_then(|meta| meta.get("error"))
                    && let Some(object) = body.as_object_mut()
                {
                    object.insert("errorMessage".into(), error.clone());
                }
                out.push(self.entry(id, message.at, json!({ "type": "message", "message": body })));
            }
            Role::Tool => {
                for (number, part) in message.parts.iter().enumerate() {
                    let Part::ToolResult { id: call, name, content: given, details, is_error } = part else { continue };
                    let mut body = json!({ "role": "toolResult", "toolCallId": call, "toolName": name, "content": content(given), "isError": is_error, "timestamp": message.at });
                    if let (Some(details), Some(object)) = (details, body.as_object_mut()) {
                        object.insert("details".into(), details.clone());
                    }
                    let own = if number == 0 { id.to_owned() } else { format!("{id}-{number}") };
                    out.push(self.entry(&own, message.at, json!({ "type": "message", "message": body })));
                }
            }
        }
        out
    }
}

fn content(parts: &[Part]) -> Vec<Value> {
    parts
        .iter()
        .filter_map(|part| match part {
            Part::Text { text } => Some(json!({ "type": "text", "text": text })),
            Part::Thinking { text, signature } => {
                let mut value = json!({ "type": "thinking", "thinking": text });
                if let (Some(signature), Some(object)) = (signature, value.as_object_mut()) {
                    object.insert("thinkingSignature".into(), json!(signature));
                }
                Some(value)
            }
            Part::Image { mime_type, data } => Some(json!({ "type": "image", "data": data, "mimeType": mime_type })),
            Part::File { name, mime_type, path } => Some(json!({ "type": "text", "text": format!("[file {name} ({mime_type}): {path}]") })),
            Part::ToolCall { id, name, arguments } => Some(json!({ "type": "toolCall", "id": id, "name": name, "arguments": arguments })),
            Part::ToolResult { .. } => None,
        })
        .collect()
}

fn usage(usage: Usage) -> Value {
    json!({
        "input": usage.input,
        "output": usage.output,
        "cacheRead": usage.cache_read,
        "cacheWrite": usage.cache_write,
        "totalTokens": usage.total(),
        "cost": { "input": 0, "output": 0, "cacheRead": 0, "cacheWrite": 0, "total": usage.cost_usd },
    })
}

const fn stop(reason: Option<StopReason>) -> &'static str {
    match reason {
        Some(StopReason::Length) => "length",
        Some(StopReason::ToolUse) => "toolUse",
        Some(StopReason::Aborted) => "aborted",
        Some(StopReason::Error) => "error",
        Some(StopReason::Stop | StopReason::Refusal) | None => "stop",
    }
}
