//! Answers of `/v1/responses`.

use serde_json::{Value, json};

use clawstead_terms::{StopReason, Usage};

use super::{
    Refusal,
    turn::{Finished, Taken, Teller},
};

fn usage_json(usage: &Usage) -> Value {
    json!({
        "input_tokens": usage.input + usage.cache_read + usage.cache_write,
        "input_tokens_details": { "cached_tokens": usage.cache_read, "cache_write_tokens": usage.cache_write },
        "output_tokens": usage.output,
        "output_tokens_details": { "reasoning_tokens": 0 },
        "total_tokens": usage.total(),
    })
}

fn item(id: &str, text: &str) -> Value {
    json!({ "type": "message", "id": id, "role": "assistant", "content": [{ "type": "output_text", "text": text }], "phase": "final_answer", "status": "completed" })
}

fn resource(id: &str, created: i64, status: &str, model: &str, output: &Value, usage: &Usage) -> Value {
    json!({ "id": id, "object": "response", "created_at": created, "status": status, "model": model, "output": output, "usage": usage_json(usage) })
}

/// The answer at its end. One that ran into its limit says so.
fn ended(id: &str, created: i64, model: &str, message_id: &str, done: &Finished) -> Value {
    let cut = done.stop == StopReason::Length;
    let mut out = resource(id, created, if cut { "incomplete" } else { "completed" }, model, &json!([item(message_id, &done.text)]), &done.usage);
    if cut {
        out["incomplete_details"] = json!({ "reason": "max_output_tokens" });
    }
    out
}

/// The whole answer.
pub(super) fn whole(taken: &Taken, message_uuid: &str, done: &Finished) -> Value {
    ended(taken.run.as_str(), taken.created, &taken.model, &format!("msg_{message_uuid}"), done)
}

/// Tells a stream.
pub(super) struct ResponseTeller {
    id: String,
    created: i64,
    model: String,
    message_id: String,
}

fn event(kind: &str, rest: Value) -> String {
    let mut data = json!({ "type": kind });
    if let (Value::Object(data), Value::Object(rest)) = (&mut data, rest) {
        data.extend(rest);
    }
    format!("event: {kind}\ndata: {data}\n\n")
}

impl ResponseTeller {
    pub(super) fn new(taken: &Taken, message_uuid: String) -> Self {
        Self { id: taken.run.to_string(), created: taken.created, model: taken.model.clone(), message_id: format!("msg_{message_uuid}") }
    }

    fn text_event(&self, kind: &str, field: &str, value: &Value) -> String {
        event(kind, json!({ "item_id": self.message_id, "output_index": 0, "content_index": 0, field: value }))
    }
}

impl Teller for ResponseTeller {
    fn begin(&mut self) -> String {
        let begun = resource(&self.id, self.created, "in_progress", &self.model, &json!([]), &Usage::default());
        let empty = json!({ "type": "message", "id": self.message_id, "role": "assistant", "content": [], "status": "in_progress" });
        [
            event("response.created", json!({ "response": begun })),
            event("response.in_progress", json!({ "response": begun })),
            event("response.output_item.added", json!({ "output_index": 0, "item": empty })),
            self.text_event("response.content_part.added", "part", &json!({ "type": "output_text", "text": "" })),
        ]
        .concat()
    }

    fn delta(&mut self, text: &str) -> String {
        self.text_event("response.output_text.delta", "delta", &json!(text))
    }

    fn end(&mut self, done: &Finished) -> String {
        let kind = if done.stop == StopReason::Length { "response.incomplete" } else { "response.completed" };
        [
            self.text_event("response.output_text.done", "text", &json!(done.text)),
            self.text_event("response.content_part.done", "part", &json!({ "type": "output_text", "text": done.text })),
            event("response.output_item.done", json!({ "output_index": 0, "item": item(&self.message_id, &done.text) })),
            event(kind, json!({ "response": ended(&self.id, self.created, &self.model, &self.message_id, done) })),
        ]
        .concat()
    }

    fn failed(&mut self, refusal: &Refusal) -> String {
        let mut failed = resource(&self.id, self.created, "failed", &self.model, &json!([]), &Usage::default());
        failed["error"] = json!({ "code": refusal.kind, "message": refusal.message });
        event("response.failed", json!({ "response": failed }))
    }
}
