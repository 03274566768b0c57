use clawstead_terms::Part;
use serde_json::Value;

use crate::{
    Ask, ModelSpec,
    json::{self, Fields},
    openai_chat::{EMPTY_RESULT, arguments_text, effort},
    repair::{CallIds, IMAGE_OMITTED, Piece, Side, Target, is_blank, repair},
};

/// The request body.
pub(crate) fn body(ask: &Ask, spec: &ModelSpec) -> Vec<u8> {
    let mut out = Vec::with_capacity(8 * 1024 + ask.system.len() + ask.messages.len() * 600);
    let mut fields = Fields::open(&mut out, ask.params.as_ref());
    fields.str("model", &spec.id);
    if !is_blank(&ask.system) {
        fields.str("instructions", &ask.system);
    }
    if let Some(out) = fields.key("input") {
        input(out, ask, spec);
    }
    fields.raw("stream", "true");
    fields.raw("store", "false");
    if !ask.tools.is_empty() {
        if let Some(out) = fields.key("tools") {
            tools(out, ask);
        }
        match ask.tool_choice.as_deref() {
            None | Some("auto") => {}
            Some(word @ ("none" | "required")) => fields.str("tool_choice", word),
            Some(name) => {
                if let Some(out) = fields.key("tool_choice") {
                    out.extend_from_slice(br#"{"type":"function","name":"#);
                    json::string(out, name);
                    out.push(b'}');
                }
            }
        }
    }
    if let Some(max) = ask.max_tokens.or(spec.max_tokens_known.then_some(spec.max_tokens)) {
        // Fewer than 16 are refused.
        fields.raw("max_output_tokens", &max.max(16).to_string());
    }
    if spec.reasoning {
        fields.raw("include", r#"["reasoning.encrypted_content"]"#);
        if let Some(level) = ask.thinking.as_deref().filter(|l| *l != "off" && spec.compat.effort) {
            fields.raw("reasoning", &format!(r#"{{"effort":"{}","summary":"auto"}}"#, effort(level)));
        }
    } else if let Some(t) = ask.temperature.filter(|t| t.is_finite() && spec.compat.temperature) {
        fields.raw("temperature", &t.to_string());
    }
    if let Some(hint) = ask.session_hint.as_deref().filter(|_| spec.compat.cache_key) {
        fields.str("prompt_cache_key", hint);
    }
    fields.close();
    out
}

fn tools(out: &mut Vec<u8>, ask: &Ask) {
    out.push(b'[');
    for (i, tool) in ask.tools.iter().enumerate() {
        out.extend_from_slice(if i == 0 { br#"{"type":"function","name":"# } else { br#",{"type":"function","name":"# });
        json::string(out, &tool.name);
        out.extend_from_slice(br#","description":"#);
        json::string(out, &tool.description);
        out.extend_from_slice(br#","parameters":"#);
        json::value(out, &tool.parameters);
        out.extend_from_slice(br#","strict":false}"#);
    }
    out.push(b']');
}

fn input(out: &mut Vec<u8>, ask: &Ask, spec: &ModelSpec) {
    let target = Target { provider: &spec.provider, images: spec.images, reasoning: spec.reasoning, call_ids: CallIds::Word40 };
    let pieces = repair(&ask.messages, &target);
    out.push(b'[');
    let mut first = true;
    let mut comma = |out: &mut Vec<u8>| {
        if !std::mem::replace(&mut first, false) {
            out.push(b',');
        }
    };
    let mut at = 0;
    while let Some(piece) = pieces.get(at) {
        match piece {
            Piece::Text(..) | Piece::Image { .. } => {
                comma(out);
                at += said(out, &pieces[at..]);
                continue;
            }
            Piece::Reasoning { signature, .. } => {
                // The payload is the item as the provider sent it; anything else is not ours to send.
                if let Some(item) = reasoning_item(signature) {
                    comma(out);
                    json::value(out, &item);
                }
            }
            Piece::Call { id, name, arguments } => {
                comma(out);
                out.extend_from_slice(br#"{"type":"function_call","call_id":"#);
                json::string(out, id);
                out.extend_from_slice(br#","name":"#);
                json::string(out, name);
                out.extend_from_slice(br#","arguments":"#);
                arguments_text(out, arguments);
                out.push(b'}');
            }
            Piece::Result { id, content, note, .. } => {
                comma(out);
                out.extend_from_slice(br#"{"type":"function_call_output","call_id":"#);
                json::string(out, id);
                out.extend_from_slice(br#","output":"#);
                match note {
                    Some(note) => json::string(out, note),
                    None => output(out, content, spec.images),
                }
                out.push(b'}');
            }
        }
        at += 1;
    }
    out.push(b']');
}

/// Writes neighbouring text and pictures of one side as one message; answers how many pieces it took.
fn said(out: &mut Vec<u8>, pieces: &[Piece<'_>]) -> usize {
    let side = pieces[0].side();
    let len = pieces.iter().position(|p| p.side() != side || !matches!(p, Piece::Text(..) | Piece::Image { .. })).unwrap_or(pieces.len());
    out.extend_from_slice(match side {
        Side::User => br#"{"role":"user","content":"#.as_slice(),
        Side::Assistant => br#"{"role":"assistant","content":"#.as_slice(),
    });
    if let [Piece::Text(_, text)] = &pieces[..len] {
        // Plain text passes through more proxies than a list.
        json::string(out, text);
        out.push(b'}');
        return len;
    }
    out.push(b'[');
    for (i, piece) in pieces[..len].iter().enumerate() {
        if i > 0 {
            out.push(b',');
        }
        match piece {
            Piece::Image { mime, data } => picture(out, mime, data),
            Piece::Text(_, text) => {
                out.extend_from_slice(match side {
                    Side::User => br#"{"type":"input_text","text":"#.as_slice(),
                    Side::Assistant => br#"{"type":"output_text","text":"#.as_slice(),
                });
                json::string(out, text);
                out.push(b'}');
            }
            _ => {}
        }
    }
    out.extend_from_slice(b"]}");
    len
}

fn picture(out: &mut Vec<u8>, mime: &str, data: &str) {
    out.extend_from_slice(br#"{"type":"input_image","image_url":"data:"#);
    json::escaped(out, mime);
    out.extend_from_slice(b";base64,");
    json::escaped(out, data);
    out.extend_from_slice(br#""}"#);
}

/// A result is text; with pictures it is a list.
fn output(out: &mut Vec<u8>, content: &[Part], images: bool) {
    let has_pictures = images && content.iter().any(|p| matches!(p, Part::Image { .. }));
    let texts = content.iter().filter_map(|p| match p {
        Part::Text { text } if !text.is_empty() => Some(text.as_str()),
        Part::Image { .. } if !images => Some(IMAGE_OMITTED),
        _ => None,
    });
    if !has_pictures {
        out.push(b'"');
        let start = out.len();
        for text in texts {
            if out.len() > start {
                out.extend_from_slice(b"\\n\\n");
            }
            json::escaped(out, text);
        }
        if out.len() == start {
            out.extend_from_slice(EMPTY_RESULT.as_bytes());
        }
        out.push(b'"');
        return;
    }
    out.push(b'[');
    let mut first = true;
    for part in content {
        let mut comma = |out: &mut Vec<u8>| {
            if !std::mem::replace(&mut first, false) {
                out.push(b',');
            }
        };
        match part {
            Part::Text { text } if !text.is_empty() => {
                comma(out);
                out.extend_from_slice(br#"{"type":"input_text","text":"#);
                json::string(out, text);
                out.push(b'}');
            }
            Part::Image { mime_type, data } => {
                comma(out);
                picture(out, mime_type, data);
            }
            _ => {}
        }
    }
    out.push(b']');
}

/// The stored payload, if it is a reasoning item.
fn reasoning_item(signature: &str) -> Option<Value> {
    let item: Value = serde_json::from_str(signature).ok()?;
    (item.get("type").and_then(Value::as_str) == Some("reasoning") && item.get("encrypted_content").is_some_and(Value::is_string)).then_some(item)
}
