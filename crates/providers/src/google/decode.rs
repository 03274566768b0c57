use std::{collections::VecDeque, sync::Arc};

use clawstead_terms::{StopReason, Usage};
use clawstead_world::Rng;
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::{
    Chunk, ErrorKind,
    endpoint::{Decode, Progress},
    sort::{self, Fault},
    sse::SseEvent,
};

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Response {
    candidates: Vec<Candidate>,
    prompt_feedback: Option<Feedback>,
    usage_metadata: Option<Tokens>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Candidate {
    content: Option<Content>,
    finish_reason: Option<String>,
    finish_message: Option<String>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Content {
    parts: Vec<Piece>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Piece {
    text: Option<String>,
    thought: bool,
    thought_signature: Option<String>,
    function_call: Option<Call>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Call {
    id: Option<String>,
    name: String,
    args: Option<Value>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Feedback {
    block_reason: Option<String>,
    block_reason_message: Option<String>,
}

#[derive(Clone, Copy, Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Tokens {
    prompt_token_count: u64,
    tool_use_prompt_token_count: u64,
    candidates_token_count: u64,
    thoughts_token_count: u64,
    cached_content_token_count: u64,
}

pub(crate) struct Decoder {
    rng: Arc<dyn Rng>,
    usage: Option<Tokens>,
    stop: Option<StopReason>,
    called: bool,
    finished: bool,
}

impl Decoder {
    pub(crate) fn new(rng: Arc<dyn Rng>) -> Self {
        Self { rng, usage: None, stop: None, called: false, finished: false }
    }

    fn take(&mut self, value: Value, out: &mut VecDeque<Chunk>) -> Result<(), Fault> {
        if value.get("error").is_some_and(|e| !e.is_null()) {
            return Err(sort::said(&value, None));
        }
        let response = Response::deserialize(value)
            .map_err(|err| Fault::new(ErrorKind::Garbage, format!("the server sent an event that is none of this dialect: {err}")))?;
        if let Some(tokens) = response.usage_metadata {
            self.usage = Some(tokens);
        }
        if let Some(reason) = response.prompt_feedback.as_ref().and_then(|f| f.block_reason.as_deref()).filter(|r| *r != "BLOCK_REASON_UNSPECIFIED") {
            let more = response.prompt_feedback.as_ref().and_then(|f| f.block_reason_message.as_deref()).map(|m| format!(": {m}")).unwrap_or_default();
            return Err(Fault::new(ErrorKind::Content, sort::cut(&format!("the prompt was blocked ({reason}){more}"))));
        }
        // More than one candidate comes only when asked for.
        let Some(candidate) = response.candidates.into_iter().next() else { return Ok(()) };
        for piece in candidate.content.map(|content| content.parts).unwrap_or_default() {
            self.piece(piece, out);
        }
        match candidate.finish_reason.as_deref() {
            None | Some("FINISH_REASON_UNSPECIFIED") => {}
            Some("STOP" | "OTHER") => self.stop = Some(StopReason::Stop),
            Some("MAX_TOKENS") => self.stop = Some(StopReason::Length),
            Some(
                reason @ ("MALFORMED_FUNCTION_CALL" | "UNEXPECTED_TOOL_CALL" | "TOO_MANY_TOOL_CALLS" | "MISSING_THOUGHT_SIGNATURE" | "MALFORMED_RESPONSE"),
            ) => {
                let more = candidate.finish_message.map(|m| format!(": {m}")).unwrap_or_default();
                return Err(Fault::new(ErrorKind::Garbage, sort::cut(&format!("the model stopped with {reason}{more}"))));
            }
            // Safety, recitation, block lists and the like.
            Some(_) => self.stop = Some(StopReason::Refusal),
        }
        Ok(())
    }

    fn piece(&mut self, piece: Piece, out: &mut VecDeque<Chunk>) {
        let text = piece.text.filter(|text| !text.is_empty());
        match (text, piece.thought) {
            (Some(text), true) => out.push_back(Chunk::Thinking(text)),
            (text, false) => {
                // The signature of the thought that led to this piece; it goes back together with it.
                if let Some(signature) = piece.thought_signature.filter(|s| !s.is_empty()) {
                    out.push_back(Chunk::ThinkingSignature(signature));
                }
                out.extend(text.map(Chunk::Text));
            }
            (None, true) => {}
        }
        if let Some(call) = piece.function_call.filter(|call| !call.name.trim().is_empty()) {
            self.called = true;
            let id = call.id.filter(|id| !id.is_empty()).unwrap_or_else(|| format!("call_{}", self.rng.uuid().replace('-', "")));
            let arguments = call.args.filter(|args| !args.is_null()).unwrap_or_else(|| Value::Object(Map::new()));
            out.push_back(Chunk::ToolCall { id, name: call.name, arguments });
        }
    }

    fn finish(&mut self, out: &mut VecDeque<Chunk>) {
        if std::mem::replace(&mut self.finished, true) {
            return;
        }
        if let Some(t) = self.usage {
            let input = (t.prompt_token_count + t.tool_use_prompt_token_count).saturating_sub(t.cached_content_token_count);
            let output = t.candidates_token_count + t.thoughts_token_count;
            out.push_back(Chunk::Usage(Usage { input, output, cache_read: t.cached_content_token_count, cache_write: 0, cost_usd: 0.0 }));
        }
        let stop = match self.stop.unwrap_or(StopReason::Stop) {
            StopReason::Stop if self.called => StopReason::ToolUse,
            other => other,
        };
        out.push_back(Chunk::Done(stop));
    }
}

impl Decode for Decoder {
    fn event(&mut self, event: &SseEvent, out: &mut VecDeque<Chunk>) -> Result<Progress, Fault> {
        let data = event.data.trim();
        if data.is_empty() || data == "[DONE]" {
            return Ok(Progress::More);
        }
        let value: Value =
            serde_json::from_str(data).map_err(|err| Fault::new(ErrorKind::Garbage, format!("the server sent an event that is no JSON: {err}")))?;
        self.take(value, out)?;
        Ok(if self.stop.is_some() { Progress::Stopped } else { Progress::More })
    }

    fn whole(&mut self, body: &Value, out: &mut VecDeque<Chunk>) -> Result<(), Fault> {
        // Without `alt=sse` the stream is one list.
        let parts: Vec<&Value> = match body {
            Value::Array(list) => list.iter().collect(),
            one => vec![one],
        };
        if parts.is_empty() || !parts.iter().all(|part| part.get("candidates").is_some() || part.get("promptFeedback").is_some() || part.get("error").is_some())
        {
            return Err(Fault::new(ErrorKind::Garbage, "the server answered with JSON that is no answer of a model"));
        }
        for part in parts {
            self.take(part.clone(), out)?;
        }
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
