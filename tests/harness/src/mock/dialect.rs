//! Answers in the shape of each API.

use serde_json::{Value, json};

use super::ask::{Deed, Dialect};

/// Token counts of an answer: one token is four bytes, which is close enough for bookkeeping tests.
#[derive(Clone, Copy)]
pub(super) struct Counts {
    pub(super) input: usize,
    pub(super) output: usize,
}

/// The answer as one JSON document.
pub(super) fn whole(dialect: Dialect, model: &str, n: u64, deed: &Deed, counts: Counts) -> Value {
    match dialect {
        Dialect::Chat => {
            let (message, reason) = match deed {
                Deed::Tool { name, arguments } => (
                    json!({"role": "assistant", "content": null, "tool_calls": [
                        {"id": format!("call_{n}"), "type": "function", "function": {"name": name, "arguments": arguments.to_string()}}]}),
                    "tool_calls",
                ),
                deed => (json!({"role": "assistant", "content": said(deed)}), "stop"),
            };
            json!({"id": format!("chatcmpl-{n}"), "object": "chat.completion", "created": 1, "model": model,
                "choices": [{"index": 0, "message": message, "finish_reason": reason}], "usage": chat_usage(counts)})
        }
        Dialect::Messages => {
            let (block, reason) = match deed {
                Deed::Tool { name, arguments } => (json!({"type": "tool_use", "id": format!("toolu_{n}"), "name": name, "input": arguments}), "tool_use"),
                deed => (json!({"type": "text", "text": said(deed)}), "end_turn"),
            };
            json!({"id": format!("msg_{n}"), "type": "message", "role": "assistant", "model": model, "content": [block],
                "stop_reason": reason, "stop_sequence": null, "usage": {"input_tokens": counts.input, "output_tokens": counts.output}})
        }
        Dialect::Responses => response(model, n, "completed", &[output_item(n, deed)], Some(counts)),
    }
}

/// The answer as server-sent events, cut into about `pieces` deltas.
pub(super) fn events(dialect: Dialect, model: &str, n: u64, deed: &Deed, pieces: usize, counts: Counts) -> Vec<String> {
    match dialect {
        Dialect::Chat => chat_events(model, n, deed, pieces, counts),
        Dialect::Messages => messages_events(model, n, deed, pieces, counts),
        Dialect::Responses => responses_events(model, n, deed, pieces, counts),
    }
}

fn chat_events(model: &str, n: u64, deed: &Deed, pieces: usize, counts: Counts) -> Vec<String> {
    let chunk = |delta: Value, reason: Value| {
        let body = json!({"id": format!("chatcmpl-{n}"), "object": "chat.completion.chunk", "created": 1, "model": model,
            "choices": [{"index": 0, "delta": delta, "finish_reason": reason}]});
        format!("data: {body}\n\n")
    };
    let mut events = vec![chunk(json!({"role": "assistant", "content": ""}), Value::Null)];
    let reason = if let Deed::Tool { name, arguments } = deed {
        events.push(chunk(
            json!({"tool_calls": [{"index": 0, "id": format!("call_{n}"), "type": "function", "function": {"name": name, "arguments": ""}}]}),
            Value::Null,
        ));
        for piece in split(&arguments.to_string(), pieces) {
            events.push(chunk(json!({"tool_calls": [{"index": 0, "function": {"arguments": piece}}]}), Value::Null));
        }
        "tool_calls"
    } else {
        events.extend(split(said(deed), pieces).map(|piece| chunk(json!({"content": piece}), Value::Null)));
        "stop"
    };
    events.push(chunk(json!({}), json!(reason)));
    let usage =
        json!({"id": format!("chatcmpl-{n}"), "object": "chat.completion.chunk", "created": 1, "model": model, "choices": [], "usage": chat_usage(counts)});
    events.push(format!("data: {usage}\n\n"));
    events.push("data: [DONE]\n\n".to_owned());
    events
}

fn messages_events(model: &str, n: u64, deed: &Deed, pieces: usize, counts: Counts) -> Vec<String> {
    let event = |body: Value| format!("event: {}\ndata: {body}\n\n", body["type"].as_str().unwrap_or_default());
    let mut events = vec![event(json!({"type": "message_start", "message": {"id": format!("msg_{n}"), "type": "message", "role": "assistant", "model": model,
        "content": [], "stop_reason": null, "stop_sequence": null, "usage": {"input_tokens": counts.input, "output_tokens": 1}}}))];
    let reason = if let Deed::Tool { name, arguments } = deed {
        events.push(event(
            json!({"type": "content_block_start", "index": 0, "content_block": {"type": "tool_use", "id": format!("toolu_{n}"), "name": name, "input": {}}}),
        ));
        for piece in split(&arguments.to_string(), pieces) {
            events.push(event(json!({"type": "content_block_delta", "index": 0, "delta": {"type": "input_json_delta", "partial_json": piece}})));
        }
        "tool_use"
    } else {
        events.push(event(json!({"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}})));
        events.extend(
            split(said(deed), pieces).map(|piece| event(json!({"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": piece}}))),
        );
        "end_turn"
    };
    events.push(event(json!({"type": "content_block_stop", "index": 0})));
    events.push(event(json!({"type": "message_delta", "delta": {"stop_reason": reason, "stop_sequence": null}, "usage": {"output_tokens": counts.output}})));
    events.push(event(json!({"type": "message_stop"})));
    events
}

fn responses_events(model: &str, n: u64, deed: &Deed, pieces: usize, counts: Counts) -> Vec<String> {
    let mut number = 0;
    let mut event = |mut body: Value| {
        body["sequence_number"] = json!(number);
        number += 1;
        format!("event: {}\ndata: {body}\n\n", body["type"].as_str().unwrap_or_default())
    };
    let item = output_item(n, deed);
    let mut events = vec![
        event(json!({"type": "response.created", "response": response(model, n, "in_progress", &[], None)})),
        event(json!({"type": "response.in_progress", "response": response(model, n, "in_progress", &[], None)})),
    ];
    if let Deed::Tool { name, arguments } = deed {
        let id = format!("fc_{n}");
        let open = json!({"type": "function_call", "id": id, "call_id": format!("call_{n}"), "name": name, "arguments": "", "status": "in_progress"});
        events.push(event(json!({"type": "response.output_item.added", "output_index": 0, "item": open})));
        let arguments = arguments.to_string();
        for piece in split(&arguments, pieces) {
            events.push(event(json!({"type": "response.function_call_arguments.delta", "item_id": id, "output_index": 0, "delta": piece})));
        }
        events.push(event(json!({"type": "response.function_call_arguments.done", "item_id": id, "output_index": 0, "arguments": arguments})));
    } else {
        let id = format!("msg_{n}");
        let text = said(deed);
        let open = json!({"type": "message", "id": id, "role": "assistant", "status": "in_progress", "content": []});
        let part = |text: &str| json!({"type": "output_text", "text": text, "annotations": []});
        events.push(event(json!({"type": "response.output_item.added", "output_index": 0, "item": open})));
        events.push(event(json!({"type": "response.content_part.added", "item_id": id, "output_index": 0, "content_index": 0, "part": part("")})));
        for piece in split(text, pieces) {
            events.push(event(json!({"type": "response.output_text.delta", "item_id": id, "output_index": 0, "content_index": 0, "delta": piece})));
        }
        events.push(event(json!({"type": "response.output_text.done", "item_id": id, "output_index": 0, "content_index": 0, "text": text})));
        events.push(event(json!({"type": "response.content_part.done", "item_id": id, "output_index": 0, "content_index": 0, "part": part(text)})));
    }
    events.push(event(json!({"type": "response.output_item.done", "output_index": 0, "item": item})));
    events.push(event(json!({"type": "response.completed", "response": response(model, n, "completed", &[item], Some(counts))})));
    events
}

fn output_item(n: u64, deed: &Deed) -> Value {
    match deed {
        Deed::Tool { name, arguments } => json!({"type": "function_call", "id": format!("fc_{n}"), "call_id": format!("call_{n}"), "name": name,
            "arguments": arguments.to_string(), "status": "completed"}),
        deed => json!({"type": "message", "id": format!("msg_{n}"), "role": "assistant", "status": "completed",
            "content": [{"type": "output_text", "text": said(deed), "annotations": []}]}),
    }
}

fn response(model: &str, n: u64, status: &str, output: &[Value], counts: Option<Counts>) -> Value {
    let usage = counts.map(|counts| {
        json!({"input_tokens": counts.input, "input_tokens_details": {"cached_tokens": 0}, "output_tokens": counts.output,
            "output_tokens_details": {"reasoning_tokens": 0}, "total_tokens": counts.input + counts.output})
    });
    json!({"id": format!("resp_{n}"), "object": "response", "created_at": 1, "status": status, "model": model, "output": output, "usage": usage})
}

fn chat_usage(counts: Counts) -> Value {
    json!({"prompt_tokens": counts.input, "completion_tokens": counts.output, "total_tokens": counts.input + counts.output})
}

fn said(deed: &Deed) -> &str {
    match deed {
        Deed::Say(text) => text,
        _ => "This answer is cut off in the middle of",
    }
}

/// Cuts a text into at most `pieces` parts of about equal length, at character boundaries.
fn split(text: &str, pieces: usize) -> impl Iterator<Item = &str> {
    let size = text.len().div_ceil(pieces.max(1)).max(1);
    let mut rest = text;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let mut at = size.min(rest.len());
        while !rest.is_char_boundary(at) {
            at += 1;
        }
        let (piece, tail) = rest.split_at(at);
        rest = tail;
        Some(piece)
    })
}

#[cfg(test)]
mod tests {
    #[test]
    fn pieces_put_together_are_the_text() {
        for text in ["", "a", "häßlich und länger", "0123456789"] {
            for pieces in [1, 2, 3, 50] {
                let parts: Vec<_> = super::split(text, pieces).collect();
                assert_eq!(parts.concat(), text);
                assert!(parts.len() <= pieces);
            }
        }
    }
}
