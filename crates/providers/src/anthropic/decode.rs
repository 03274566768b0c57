use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use clawstead_terms::{StopReason, Usage};
use clawstead_world::Rng;
use serde::Deserialize;
use serde_json::Value;

use super::request::REDACTED;
use crate::{
    Chunk, ErrorKind,
    endpoint::{Decode, Progress, arguments},
    sort::{self, Fault},
    sse::SseEvent,
};

/// Open blocks of one answer at most.
const BLOCKS_MAX: usize = 256;

#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Event {
    MessageStart {
        #[serde(default)]
        message: Value,
    },
    ContentBlockStart {
        #[serde(default)]
        index: u64,
        content_block: Value,
    },
    ContentBlockDelta {
        #[serde(default)]
        index: u64,
        delta: Delta,
    },
    ContentBlockStop {
        #[serde(default)]
        index: u64,
    },
    MessageDelta {
        #[serde(default)]
        delta: Value,
        #[serde(default)]
        usage: Value,
    },
    MessageStop,
    Error {
        #[serde(default)]
        error: Value,
    },
    #[serde(other)]
    Other,
}

#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
#[expect(clippy::enum_variant_names, reason = "the names are those on the wire")]
enum Delta {
    TextDelta {
        text: String,
    },
    ThinkingDelta {
        thinking: String,
    },
    SignatureDelta {
        signature: String,
    },
    InputJsonDelta {
        partial_json: String,
    },
    #[serde(other)]
    Other,
}

enum Block {
    Text,
    Thinking { signature: String },
    Call { id: String, name: String, input: Value, json: String },
    Other,
}

pub(crate) struct Decoder {
    rng: Arc<dyn Rng>,
    blocks: BTreeMap<u64, Block>,
    usage: Usage,
    any_usage: bool,
    stop: Option<StopReason>,
    called: bool,
    finished: bool,
}

impl Decoder {
    pub(crate) fn new(rng: Arc<dyn Rng>) -> Self {
        Self { rng, blocks: BTreeMap::new(), usage: Usage::default(), any_usage: false, stop: None, called: false, finished: false }
    }

    fn take_usage(&mut self, usage: &Value) {
        let Some(usage) = usage.as_object() else { return };
        self.any_usage = true;
        // Later events repeat totals; some hosts send zeros at the beginning or at the end.
        let set = |key: &str, to: &mut u64| {
            if let Some(n) = usage.get(key).and_then(Value::as_u64) {
                *to = (*to).max(n);
            }
        };
        set("input_tokens", &mut self.usage.input);
        set("output_tokens", &mut self.usage.output);
        set("cache_read_input_tokens", &mut self.usage.cache_read);
        set("cache_creation_input_tokens", &mut self.usage.cache_write);
    }

    fn start(&mut self, index: u64, block: &Value, out: &mut VecDeque<Chunk>) -> Result<(), Fault> {
        if self.blocks.len() >= BLOCKS_MAX {
            return Err(Fault::new(ErrorKind::Garbage, format!("more than {BLOCKS_MAX} open blocks in one answer")));
        }
        let text = |key: &str| block.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
        let made = match block.get("type").and_then(Value::as_str) {
            Some("text") => {
                if !text("text").is_empty() {
                    out.push_back(Chunk::Text(text("text")));
                }
                Block::Text
            }
            Some("thinking") => {
                if !text("thinking").is_empty() {
                    out.push_back(Chunk::Thinking(text("thinking")));
                }
                Block::Thinking { signature: text("signature") }
            }
            Some("redacted_thinking") => Block::Thinking { signature: format!("{REDACTED}{}", text("data")) },
            Some("tool_use") => {
                Block::Call { id: text("id"), name: text("name"), input: block.get("input").cloned().unwrap_or(Value::Null), json: String::new() }
            }
            _ => Block::Other,
        };
        self.blocks.insert(index, made);
        Ok(())
    }

    fn delta(&mut self, index: u64, delta: Delta, out: &mut VecDeque<Chunk>) {
        match delta {
            Delta::TextDelta { text } if !text.is_empty() => out.push_back(Chunk::Text(text)),
            Delta::ThinkingDelta { thinking } if !thinking.is_empty() => {
                // Some hosts leave out the start of the block.
                self.blocks.entry(index).or_insert(Block::Thinking { signature: String::new() });
                out.push_back(Chunk::Thinking(thinking));
            }
            Delta::SignatureDelta { signature: more } => {
                if let Some(Block::Thinking { signature }) = self.blocks.get_mut(&index) {
                    signature.push_str(&more);
                }
            }
            Delta::InputJsonDelta { partial_json } => {
                if let Some(Block::Call { json, .. }) = self.blocks.get_mut(&index) {
                    json.push_str(&partial_json);
                }
            }
            _ => {}
        }
    }

    fn close(&mut self, index: u64, out: &mut VecDeque<Chunk>) {
        match self.blocks.remove(&index) {
            Some(Block::Thinking { signature }) if !signature.is_empty() => out.push_back(Chunk::ThinkingSignature(signature)),
            Some(Block::Call { id, name, input, json }) if !name.trim().is_empty() => {
                self.called = true;
                let id = if id.is_empty() { format!("toolu_{}", self.rng.uuid().replace('-', "")) } else { id };
                // The arguments come in pieces, or, from some hosts, whole at the start.
                let arguments = if json.trim().is_empty() && input.as_object().is_some_and(|o| !o.is_empty()) { input } else { arguments(&json) };
                out.push_back(Chunk::ToolCall { id, name, arguments });
            }
            _ => {}
        }
    }

    fn stop_reason(&mut self, word: &str) {
        self.stop = Some(match word {
            "max_tokens" | "model_context_window_exceeded" => StopReason::Length,
            "tool_use" => StopReason::ToolUse,
            "refusal" => StopReason::Refusal,
            _ => StopReason::Stop,
        });
    }

    fn finish(&mut self, out: &mut VecDeque<Chunk>) {
        if std::mem::replace(&mut self.finished, true) {
            return;
        }
        let open: Vec<u64> = self.blocks.keys().copied().collect();
        for index in open {
            self.close(index, out);
        }
        if self.any_usage {
            out.push_back(Chunk::Usage(self.usage));
        }
        let stop = match self.stop.unwrap_or(StopReason::Stop) {
            StopReason::Stop if self.called => StopReason::ToolUse,
            StopReason::ToolUse if !self.called => StopReason::Stop,
            other => other,
        };
        out.push_back(Chunk::Done(stop));
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
        if value.get("type").is_none() && value.get("error").is_some() {
            return Err(sort::said(&value, None));
        }
        let event =
            Event::deserialize(value).map_err(|err| Fault::new(ErrorKind::Garbage, format!("the server sent an event that is none of this dialect: {err}")))?;
        match event {
            Event::MessageStart { message } => self.take_usage(message.get("usage").unwrap_or(&Value::Null)),
            Event::ContentBlockStart { index, content_block } => self.start(index, &content_block, out)?,
            Event::ContentBlockDelta { index, delta } => self.delta(index, delta, out),
            Event::ContentBlockStop { index } => self.close(index, out),
            Event::MessageDelta { delta, usage } => {
                self.take_usage(&usage);
                if let Some(word) = delta.get("stop_reason").and_then(Value::as_str) {
                    self.stop_reason(word);
                }
            }
            Event::MessageStop => {
                self.finish(out);
                return Ok(Progress::Done);
            }
            Event::Error { error } => return Err(sort::said(&serde_json::json!({ "error": error }), None)),
            Event::Other => {}
        }
        Ok(if self.stop.is_some() { Progress::Stopped } else { Progress::More })
    }

    fn whole(&mut self, body: &Value, out: &mut VecDeque<Chunk>) -> Result<(), Fault> {
        let Some(content) = body.get("content").and_then(Value::as_array) else {
            return Err(Fault::new(ErrorKind::Garbage, "the server answered with JSON that is no message"));
        };
        for (index, block) in (0u64..).zip(content) {
            self.start(index, block, out)?;
            self.close(index, out);
        }
        self.take_usage(body.get("usage").unwrap_or(&Value::Null));
        self.stop_reason(body.get("stop_reason").and_then(Value::as_str).unwrap_or_default());
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
