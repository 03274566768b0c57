//! Answers of `/v1/chat/completions`.

use serde_json::{Value, json};

use clawstead_terms::{StopReason, Usage};

use super::{
    Refusal,
    turn::{Finished, Taken, Teller},
};

/// The word of a stop reason.
const fn finish_word(stop: StopReason) -> &'static str {
    match stop {
        StopReason::Length => "length",
        StopReason::Refusal => "content_filter",
        StopReason::Stop | StopReason::ToolUse | StopReason::Aborted | StopReason::Error => "stop",
    }
}

fn usage_json(usage: &Usage) -> Value {
    let prompt = usage.input + usage.cache_read + usage.cache_write;
    json!({ "prompt_tokens": prompt, "completion_tokens": usage.output, "total_tokens": usage.total() })
}

/// The whole answer.
pub(super) fn whole(taken: &Taken, done: &Finished) -> Value {
    json!({
        "id": taken.run,
        "object": "chat.completion",
        "created": taken.created,
        "model": taken.model,
        "choices": [{ "index": 0, "message": { "role": "assistant", "content": done.text }, "finish_reason": finish_word(done.stop) }],
        "usage": usage_json(&done.usage),
    })
}

/// Tells a stream.
pub(super) struct ChatTeller {
    id: String,
    created: i64,
    model: String,
    include_usage: bool,
}

impl ChatTeller {
    pub(super) fn new(taken: &Taken) -> Self {
        Self { id: taken.run.to_string(), created: taken.created, model: taken.model.clone(), include_usage: taken.include_usage }
    }

    fn chunk(&self, choices: &Value, usage: Option<Value>) -> String {
        let mut chunk = json!({ "id": self.id, "object": "chat.completion.chunk", "created": self.created, "model": self.model, "choices": choices });
        if let Some(usage) = usage {
            chunk["usage"] = usage;
        }
        format!("data: {chunk}\n\n")
    }

    fn choice(&self, delta: &Value, finish: Option<&str>) -> String {
        self.chunk(&json!([{ "index": 0, "delta": delta, "finish_reason": finish }]), None)
    }
}

impl Teller for ChatTeller {
    fn begin(&mut self) -> String {
        self.choice(&json!({ "role": "assistant" }), None)
    }

    fn delta(&mut self, text: &str) -> String {
        self.choice(&json!({ "content": text }), None)
    }

    fn end(&mut self, done: &Finished) -> String {
        let mut out = self.choice(&json!({}), Some(finish_word(done.stop)));
        if self.include_usage {
            out.push_str(&self.chunk(&json!([]), Some(usage_json(&done.usage))));
        }
        out
    }

    fn failed(&mut self, refusal: &Refusal) -> String {
        format!("data: {}\n\n", json!({ "error": refusal.error() }))
    }
}
