use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
};

use clawstead_terms::{StopReason, Usage};
use clawstead_world::Rng;
use serde_json::{Value, json};

use crate::{
    Chunk, ErrorKind,
    endpoint::{Decode, Progress, arguments},
    sort::{self, Fault},
    sse::SseEvent,
};

/// Items of one answer at most.
const ITEMS_MAX: usize = 1_024;

pub(crate) struct Decoder {
    rng: Arc<dyn Rng>,
    /// Items whose text came in pieces already.
    told: BTreeSet<String>,
    /// Arguments that came in pieces, by item id: for hosts whose finished item lacks them.
    pieces: BTreeMap<String, String>,
    /// Finished items, so that the closing event does not say them again.
    done: BTreeSet<String>,
    called: bool,
    refused: bool,
    finished: bool,
    any_text: bool,
}

fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

impl Decoder {
    pub(crate) fn new(rng: Arc<dyn Rng>) -> Self {
        Self { rng, told: BTreeSet::new(), pieces: BTreeMap::new(), done: BTreeSet::new(), called: false, refused: false, finished: false, any_text: false }
    }

    fn say(&mut self, key: &str, said: &str, out: &mut VecDeque<Chunk>) {
        if !said.is_empty() {
            if self.told.len() < ITEMS_MAX {
                self.told.insert(key.to_owned());
            }
            self.any_text = true;
            out.push_back(Chunk::Text(said.to_owned()));
        }
    }

    fn think(&mut self, key: &str, said: &str, out: &mut VecDeque<Chunk>) {
        if !said.is_empty() {
            if self.told.len() < ITEMS_MAX {
                self.told.insert(key.to_owned());
            }
            out.push_back(Chunk::Thinking(said.to_owned()));
        }
    }

    /// A finished item: what was not said in pieces is said now.
    fn item(&mut self, item: &Value, out: &mut VecDeque<Chunk>) -> Result<(), Fault> {
        let id = text(item, "/id").to_owned();
        if !id.is_empty() && !self.done.insert(id.clone()) {
            return Ok(());
        }
        if self.done.len() > ITEMS_MAX {
            return Err(Fault::new(ErrorKind::Garbage, format!("more than {ITEMS_MAX} items in one answer")));
        }
        match text(item, "/type") {
            "message" if !self.told.contains(&id) => {
                for part in item.get("content").and_then(Value::as_array).into_iter().flatten() {
                    let refusal = text(part, "/refusal");
                    self.refused |= !refusal.is_empty();
                    self.say(&id, text(part, "/text"), out);
                    self.say(&id, refusal, out);
                }
            }
            "reasoning" => {
                if !self.told.contains(&id) {
                    for part in ["summary", "content"].into_iter().filter_map(|k| item.get(k).and_then(Value::as_array)).flatten() {
                        self.think(&id, text(part, "/text"), out);
                    }
                }
                if item.get("encrypted_content").is_some_and(Value::is_string) {
                    // Sent back word for word with the next request.
                    let payload = json!({"type": "reasoning", "id": id, "summary": item.get("summary").cloned().unwrap_or_else(|| json!([])), "encrypted_content": item["encrypted_content"]});
                    out.push_back(Chunk::ThinkingSignature(payload.to_string()));
                }
            }
            "function_call" => {
                let name = text(item, "/name");
                if !name.trim().is_empty() {
                    self.called = true;
                    let call_id = [text(item, "/call_id"), id.as_str()].into_iter().find(|i| !i.is_empty()).map(str::to_owned);
                    let raw = match item.get("arguments") {
                        Some(Value::String(raw)) if !raw.is_empty() => raw.clone(),
                        Some(whole @ Value::Object(_)) => whole.to_string(),
                        _ => self.pieces.remove(&id).unwrap_or_default(),
                    };
                    out.push_back(Chunk::ToolCall {
                        id: call_id.unwrap_or_else(|| format!("call_{}", self.rng.uuid().replace('-', ""))),
                        name: name.to_owned(),
                        arguments: arguments(&raw),
                    });
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// The closing event with the whole response in it.
    fn close(&mut self, response: &Value, out: &mut VecDeque<Chunk>) -> Result<(), Fault> {
        if let Some(error) = response.get("error").filter(|e| !e.is_null()) {
            return Err(sort::said(&json!({ "error": error }), None));
        }
        for item in response.get("output").and_then(Value::as_array).into_iter().flatten() {
            // Some proxies give other ids here than in the stream: text that was said is not said again.
            let repeats = match text(item, "/type") {
                "message" => self.any_text,
                "function_call" => self.called && !self.done.contains(text(item, "/id")),
                _ => !self.told.is_empty() || !self.done.is_empty(),
            };
            if !repeats {
                self.item(item, out)?;
            }
        }
        if let Some(usage) = response.get("usage").filter(|u| u.is_object()) {
            let n = |pointer: &str| usage.pointer(pointer).and_then(Value::as_u64).unwrap_or(0);
            let cached = n("/input_tokens_details/cached_tokens");
            out.push_back(Chunk::Usage(Usage {
                input: n("/input_tokens").saturating_sub(cached),
                output: n("/output_tokens"),
                cache_read: cached,
                ..Usage::default()
            }));
        }
        let stop = match text(response, "/incomplete_details/reason") {
            "max_output_tokens" | "max_tokens" => StopReason::Length,
            "content_filter" => StopReason::Refusal,
            _ if self.refused => StopReason::Refusal,
            _ if self.called => StopReason::ToolUse,
            _ => StopReason::Stop,
        };
        out.push_back(Chunk::Done(stop));
        self.finished = true;
        Ok(())
    }
}

impl Decode for Decoder {
    fn event(&mut self, event: &SseEvent, out: &mut VecDeque<Chunk>) -> Result<Progress, Fault> {
        let data = event.data.trim();
        if data.is_empty() {
            return Ok(Progress::More);
        }
        if data == "[DONE]" {
            self.end(out)?;
            return Ok(Progress::Done);
        }
        let value: Value =
            serde_json::from_str(data).map_err(|err| Fault::new(ErrorKind::Garbage, format!("the server sent an event that is no JSON: {err}")))?;
        let key = text(&value, "/item_id");
        match text(&value, "/type") {
            "response.output_text.delta" => self.say(key, text(&value, "/delta"), out),
            "response.refusal.delta" => {
                self.refused = true;
                self.say(key, text(&value, "/delta"), out);
            }
            "response.reasoning_summary_text.delta" | "response.reasoning_text.delta" => self.think(key, text(&value, "/delta"), out),
            "response.function_call_arguments.delta" if self.pieces.len() < ITEMS_MAX => {
                self.pieces.entry(key.to_owned()).or_default().push_str(text(&value, "/delta"));
            }
            "response.output_item.done" => self.item(value.get("item").unwrap_or(&Value::Null), out)?,
            "response.completed" | "response.incomplete" | "response.done" => {
                self.close(value.get("response").unwrap_or(&Value::Null), out)?;
                return Ok(Progress::Done);
            }
            "response.failed" => {
                let error = value.pointer("/response/error").cloned().unwrap_or_else(|| json!({"message": "the response failed"}));
                return Err(sort::said(&json!({ "error": error }), None));
            }
            "error" => return Err(sort::said(&value, None)),
            "" if value.get("error").is_some() => return Err(sort::said(&value, None)),
            _ => {}
        }
        Ok(Progress::More)
    }

    fn whole(&mut self, body: &Value, out: &mut VecDeque<Chunk>) -> Result<(), Fault> {
        if body.get("output").and_then(Value::as_array).is_none() {
            return Err(Fault::new(ErrorKind::Garbage, "the server answered with JSON that is no response"));
        }
        self.close(body, out)
    }

    fn end(&mut self, _out: &mut VecDeque<Chunk>) -> Result<(), Fault> {
        if self.finished { Ok(()) } else { Err(Fault::new(ErrorKind::Network, "the answer broke off")) }
    }
}
