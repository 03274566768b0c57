use std::{collections::VecDeque, sync::Arc};

use clawstead_terms::{StopReason, Usage};
use clawstead_world::Rng;
use serde::Deserialize;
use serde_json::Value;

use crate::{
    Chunk, ErrorKind,
    endpoint::{Decode, Progress, arguments},
    sort::{self, Fault},
    sse::SseEvent,
};

/// Tool calls in one answer at most.
const CALLS_MAX: usize = 256;

#[derive(Deserialize)]
struct Event {
    #[serde(default)]
    choices: Option<Vec<Choice>>,
    #[serde(default)]
    usage: Option<Value>,
    #[serde(default)]
    error: Option<Value>,
}

#[derive(Deserialize)]
struct Choice {
    #[serde(default)]
    delta: Option<Delta>,
    /// In answers that are not streamed.
    #[serde(default)]
    message: Option<Delta>,
    #[serde(default)]
    finish_reason: Option<String>,
}

#[derive(Deserialize)]
struct Delta {
    #[serde(default)]
    content: Option<Value>,
    #[serde(default)]
    reasoning_content: Option<String>,
    #[serde(default)]
    reasoning: Option<Value>,
    #[serde(default)]
    refusal: Option<String>,
    #[serde(default)]
    tool_calls: Option<Vec<CallDelta>>,
}

#[derive(Deserialize)]
struct CallDelta {
    #[serde(default)]
    index: Option<usize>,
    #[serde(default)]
    id: Option<String>,
    #[serde(default)]
    function: Option<FunctionDelta>,
}

#[derive(Deserialize)]
struct FunctionDelta {
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    arguments: Option<Value>,
}

#[derive(Default)]
struct Call {
    index: Option<usize>,
    id: String,
    name: String,
    arguments: String,
}

/// Where the text stands towards `<think>` tags, which local servers without a reasoning parser leave in it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Tag {
    /// Nothing but blanks so far.
    Before,
    /// Inside the block.
    Inside,
    /// Plain text from here on.
    After,
}

pub(crate) struct Decoder {
    rng: Arc<dyn Rng>,
    calls: Vec<Call>,
    usage: Option<Usage>,
    stop: Option<StopReason>,
    finished: bool,
    tag: Tag,
    held: String,
}

impl Decoder {
    pub(crate) fn new(rng: Arc<dyn Rng>) -> Self {
        Self { rng, calls: Vec::new(), usage: None, stop: None, finished: false, tag: Tag::Before, held: String::new() }
    }

    fn take(&mut self, event: Event, out: &mut VecDeque<Chunk>) -> Result<Progress, Fault> {
        if let Some(error) = event.error.filter(|e| !e.is_null()) {
            return Err(sort::said(&serde_json::json!({ "error": error }), None));
        }
        if let Some(usage) = event.usage.as_ref().filter(|u| u.is_object()) {
            self.usage = Some(usage_of(usage));
        }
        // We ask for one choice; a host that sends more is read at its first.
        if let Some(choice) = event.choices.into_iter().flatten().next() {
            if let Some(delta) = choice.delta.or(choice.message) {
                self.delta(delta, out)?;
            }
            if let Some(reason) = choice.finish_reason.filter(|r| !r.is_empty()) {
                self.stop = Some(match reason.as_str() {
                    "length" | "max_tokens" => StopReason::Length,
                    "tool_calls" | "function_call" => StopReason::ToolUse,
                    "content_filter" | "refusal" => StopReason::Refusal,
                    "error" => return Err(Fault::new(ErrorKind::Overloaded, "the server ended the answer with an error")),
                    _ => self.stop.filter(|s| *s == StopReason::Refusal).unwrap_or(StopReason::Stop),
                });
            }
        }
        Ok(if self.stop.is_some() { Progress::Stopped } else { Progress::More })
    }

    fn delta(&mut self, delta: Delta, out: &mut VecDeque<Chunk>) -> Result<(), Fault> {
        let reasoning = delta.reasoning_content.or_else(|| delta.reasoning.and_then(|r| r.as_str().map(str::to_owned)));
        if let Some(text) = reasoning.filter(|t| !t.is_empty()) {
            out.push_back(Chunk::Thinking(text));
        }
        match delta.content {
            Some(Value::String(text)) => self.text(&text, out),
            Some(Value::Array(parts)) => {
                for part in parts {
                    if let Some(text) = part.get("text").and_then(Value::as_str) {
                        self.text(text, out);
                    } else if let Some(inner) = part.get("thinking").and_then(Value::as_array) {
                        let text: String = inner.iter().filter_map(|p| p.get("text").and_then(Value::as_str)).collect();
                        if !text.is_empty() {
                            out.push_back(Chunk::Thinking(text));
                        }
                    }
                }
            }
            _ => {}
        }
        if let Some(text) = delta.refusal.filter(|t| !t.is_empty()) {
            out.push_back(Chunk::Text(text));
            self.stop = Some(StopReason::Refusal);
        }
        for call in delta.tool_calls.into_iter().flatten() {
            self.call(call)?;
        }
        Ok(())
    }

    fn call(&mut self, delta: CallDelta) -> Result<(), Fault> {
        let id = delta.id.unwrap_or_default();
        let function = delta.function.unwrap_or(FunctionDelta { name: None, arguments: None });
        let name = function.name.unwrap_or_default();
        // Most hosts count calls; some send none, or 0 for every call, and then a new id begins a new call.
        let same = |c: &Call| match (delta.index, c.index) {
            (Some(a), Some(b)) => a == b && (id.is_empty() || c.id.is_empty() || id == c.id || name.is_empty()),
            _ => !id.is_empty() && c.id == id,
        };
        let at = self
            .calls
            .iter()
            .rposition(same)
            .or_else(|| if delta.index.is_none() && id.is_empty() && name.is_empty() { self.calls.len().checked_sub(1) } else { None });
        let at = match at {
            Some(at) => at,
            None if self.calls.len() >= CALLS_MAX => return Err(Fault::new(ErrorKind::Garbage, format!("more than {CALLS_MAX} tool calls in one answer"))),
            None => {
                self.calls.push(Call { index: delta.index, ..Call::default() });
                self.calls.len() - 1
            }
        };
        let call = &mut self.calls[at];
        if call.id.is_empty() {
            call.id = id;
        }
        if call.name.is_empty() {
            call.name = name;
        }
        match function.arguments {
            Some(Value::String(piece)) => call.arguments.push_str(&piece),
            Some(Value::Null) | None => {}
            Some(whole) => call.arguments = whole.to_string(),
        }
        Ok(())
    }

    fn text(&mut self, text: &str, out: &mut VecDeque<Chunk>) {
        if text.is_empty() {
            return;
        }
        if self.tag == Tag::After {
            out.push_back(Chunk::Text(text.to_owned()));
            return;
        }
        self.held.push_str(text);
        if self.tag == Tag::Before {
            let start = self.held.trim_start();
            if let Some(rest) = start.strip_prefix("<think>") {
                self.held = rest.to_owned();
                self.tag = Tag::Inside;
            } else if "<think>".starts_with(start) {
                return;
            } else {
                self.tag = Tag::After;
                out.push_back(Chunk::Text(std::mem::take(&mut self.held)));
                return;
            }
        }
        if let Some(end) = self.held.find("</think>") {
            let rest = self.held.split_off(end);
            let thought = std::mem::take(&mut self.held);
            if !thought.trim().is_empty() {
                out.push_back(Chunk::Thinking(thought));
            }
            self.tag = Tag::After;
            let rest = rest["</think>".len()..].trim_start();
            if !rest.is_empty() {
                out.push_back(Chunk::Text(rest.to_owned()));
            }
        } else {
            // Keep what may be the beginning of the closing tag.
            let keep = (1.."</think>".len()).rev().find(|n| self.held.ends_with(&"</think>"[..*n])).unwrap_or(0);
            let rest = self.held.split_off(self.held.len() - keep);
            let thought = std::mem::replace(&mut self.held, rest);
            if !thought.is_empty() {
                out.push_back(Chunk::Thinking(thought));
            }
        }
    }

    fn finish(&mut self, out: &mut VecDeque<Chunk>) {
        if std::mem::replace(&mut self.finished, true) {
            return;
        }
        if !self.held.is_empty() {
            let held = std::mem::take(&mut self.held);
            out.push_back(if self.tag == Tag::Inside { Chunk::Thinking(held) } else { Chunk::Text(held) });
        }
        let mut called = false;
        for call in std::mem::take(&mut self.calls) {
            if call.name.trim().is_empty() {
                continue;
            }
            called = true;
            let id = if call.id.is_empty() { format!("call_{}", self.rng.uuid().replace('-', "")) } else { call.id };
            out.push_back(Chunk::ToolCall { id, name: call.name, arguments: arguments(&call.arguments) });
        }
        if let Some(usage) = self.usage {
            out.push_back(Chunk::Usage(usage));
        }
        // Hosts disagree about the reason next to calls; what counts is whether there are any.
        let stop = match self.stop.unwrap_or(StopReason::Stop) {
            StopReason::Stop if called => StopReason::ToolUse,
            StopReason::ToolUse if !called => StopReason::Stop,
            other => other,
        };
        out.push_back(Chunk::Done(stop));
    }
}

impl Decode for Decoder {
    fn event(&mut self, event: &SseEvent, out: &mut VecDeque<Chunk>) -> Result<Progress, Fault> {
        let data = event.data.trim();
        if data == "[DONE]" {
            self.finish(out);
            return Ok(Progress::Done);
        }
        if data.is_empty() {
            return Ok(Progress::More);
        }
        if event.name == "error" {
            let value = serde_json::from_str(data).unwrap_or_else(|_| Value::String(data.to_owned()));
            return Err(sort::said(&value, None));
        }
        match serde_json::from_str::<Event>(data) {
            Ok(parsed) => self.take(parsed, out),
            Err(err) => Err(Fault::new(ErrorKind::Garbage, format!("the server sent an event that is no completion chunk: {err}"))),
        }
    }

    fn whole(&mut self, body: &Value, out: &mut VecDeque<Chunk>) -> Result<(), Fault> {
        if body.get("choices").and_then(Value::as_array).is_none_or(Vec::is_empty) {
            return Err(Fault::new(ErrorKind::Garbage, "the server answered with JSON that is no completion"));
        }
        let parsed =
            Event::deserialize(body).map_err(|e| Fault::new(ErrorKind::Garbage, format!("the server answered with JSON that is no completion: {e}")))?;
        self.take(parsed, out)?;
        self.finish(out);
        Ok(())
    }

    fn end(&mut self, out: &mut VecDeque<Chunk>) -> Result<(), Fault> {
        if self.stop.is_none() {
            return Err(Fault::new(ErrorKind::Network, "the answer broke off"));
        }
        self.finish(out);
        Ok(())
    }
}

/// Tokens as this family of hosts counts them: the prompt includes what was read from the cache.
pub(crate) fn usage_of(usage: &Value) -> Usage {
    let number = |path: &str| usage.pointer(path).and_then(Value::as_u64).unwrap_or(0);
    let cached = number("/prompt_tokens_details/cached_tokens").max(number("/prompt_cache_hit_tokens"));
    let written = number("/cache_creation_input_tokens");
    let prompt = number("/prompt_tokens");
    Usage {
        input: prompt.saturating_sub(cached).saturating_sub(written),
        output: number("/completion_tokens"),
        cache_read: cached,
        cache_write: written,
        cost_usd: 0.0,
    }
}
