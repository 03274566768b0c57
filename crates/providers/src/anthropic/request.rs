use clawstead_terms::Part;

use crate::{
    Ask, ModelSpec,
    json::{self, Fields},
    repair::{CallIds, IMAGE_OMITTED, Piece, Side, Target, is_blank, repair},
    spec::{Dialect, ThinkingStyle},
};

/// Marks the end of a stretch that the provider shall cache for five minutes.
const MARK_SHORT: &[u8] = br#","cache_control":{"type":"ephemeral"}"#;
/// The same for an hour.
const MARK_LONG: &[u8] = br#","cache_control":{"type":"ephemeral","ttl":"1h"}"#;
/// No mark.
const NO_MARK: &[u8] = b"";
/// The smallest budget for reasoning that is accepted, tokens.
const BUDGET_MIN: u32 = 1_024;
/// A reasoning signature that begins like this is the payload of a redacted block.
pub(crate) const REDACTED: &str = "redacted:";

/// The request body. Tools, system prompt and conversation are marked for the prompt cache at three places: after
/// the system prompt (which covers the tools before it) and after the last two turns of the user. The config's
/// `cacheRetention` (`none`, `short`, `long`) chooses the mark.
pub(crate) fn body(ask: &Ask, spec: &ModelSpec) -> Vec<u8> {
    debug_assert_eq!(spec.dialect, Dialect::Anthropic);
    let mark = match ask.params.as_ref().and_then(|p| p.get("cacheRetention")).and_then(serde_json::Value::as_str) {
        Some("none") => NO_MARK,
        _ if !spec.compat.cache_markers => NO_MARK,
        Some("long") => MARK_LONG,
        _ => MARK_SHORT,
    };
    let target = Target { provider: &spec.provider, images: spec.images, reasoning: true, call_ids: CallIds::Word40 };
    let pieces = repair(&ask.messages, &target);
    let mut out = Vec::with_capacity(8 * 1024 + ask.system.len() + ask.messages.len() * 600);
    let mut fields = Fields::open(&mut out, ask.params.as_ref());
    fields.str("model", &spec.id);
    let thinking = Thinking::of(ask, spec, &pieces);
    let max_tokens = ask.max_tokens.unwrap_or(spec.max_tokens).max(1);
    let max_tokens = if let Thinking::Budget(_) = thinking { max_tokens.max(2 * BUDGET_MIN) } else { max_tokens };
    fields.raw("max_tokens", &max_tokens.to_string());
    fields.raw("stream", "true");
    system(&mut fields, ask, mark);
    if !ask.tools.is_empty() {
        if let Some(out) = fields.key("tools") {
            tools(out, ask, if is_blank(&ask.system) { mark } else { NO_MARK });
        }
        tool_choice(&mut fields, ask.tool_choice.as_deref());
    }
    match thinking {
        Thinking::Off => {
            if let Some(t) = ask.temperature.filter(|t| t.is_finite() && spec.compat.temperature) {
                fields.raw("temperature", &t.clamp(0.0, 1.0).to_string());
            }
        }
        Thinking::Budget(tokens) => {
            let tokens = tokens.min(max_tokens / 2).max(BUDGET_MIN);
            fields.raw("thinking", &format!(r#"{{"type":"enabled","budget_tokens":{tokens}}}"#));
        }
        Thinking::Adaptive(effort) => {
            fields.raw("thinking", r#"{"type":"adaptive"}"#);
            fields.raw("output_config", &format!(r#"{{"effort":"{effort}"}}"#));
        }
    }
    if let Some(out) = fields.key("messages") {
        messages(out, &pieces, mark, spec.images);
    }
    fields.close();
    out
}

/// How reasoning is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Thinking {
    Off,
    Budget(u32),
    Adaptive(&'static str),
}

impl Thinking {
    fn of(ask: &Ask, spec: &ModelSpec, pieces: &[Piece<'_>]) -> Self {
        let level = ask.thinking.as_deref().unwrap_or("off");
        // A chosen tool and a running tool exchange that began without reasoning both exclude it.
        let forced = !matches!(ask.tool_choice.as_deref(), None | Some("auto" | "none"));
        if level == "off" || !spec.reasoning || forced || exchange_without_reasoning(pieces) {
            return Self::Off;
        }
        if spec.compat.thinking == ThinkingStyle::Adaptive || adaptive(&spec.id) {
            return Self::Adaptive(match level {
                "minimal" | "low" => "low",
                "high" => "high",
                "xhigh" | "max" => "max",
                _ => "medium",
            });
        }
        Self::Budget(match level {
            "minimal" => 1_024,
            "low" => 4_096,
            "high" => 16_384,
            "xhigh" | "max" => 32_768,
            _ => 8_192,
        })
    }
}

/// Models that decide themselves how long they think.
fn adaptive(id: &str) -> bool {
    let id = id.rsplit('/').next().unwrap_or(id);
    ["claude-opus-4-6", "claude-opus-4-7", "claude-sonnet-4-6", "claude-opus-5", "claude-sonnet-5"].iter().any(|p| id.starts_with(p))
}

/// True when the last thing is a tool result whose calling turn does not begin with reasoning.
fn exchange_without_reasoning(pieces: &[Piece<'_>]) -> bool {
    let Some(last_model) = pieces.iter().rposition(|p| p.side() == Side::Assistant) else { return false };
    if !matches!(pieces.get(last_model + 1), Some(Piece::Result { .. })) {
        return false;
    }
    let start = pieces[..last_model].iter().rposition(|p| p.side() == Side::User).map_or(0, |i| i + 1);
    !matches!(pieces[start], Piece::Reasoning { .. })
}

fn system(fields: &mut Fields<'_>, ask: &Ask, mark: &[u8]) {
    if is_blank(&ask.system) {
        return;
    }
    if mark.is_empty() {
        // Plain text passes through more proxies than a list of blocks.
        return fields.str("system", &ask.system);
    }
    let Some(out) = fields.key("system") else { return };
    out.push(b'[');
    text_block(out, &ask.system, mark);
    out.push(b']');
}

fn tools(out: &mut Vec<u8>, ask: &Ask, mark_last: &[u8]) {
    out.push(b'[');
    for (i, tool) in ask.tools.iter().enumerate() {
        out.extend_from_slice(if i == 0 { br#"{"name":"# } else { br#",{"name":"# });
        json::string(out, &tool.name);
        out.extend_from_slice(br#","description":"#);
        json::string(out, &tool.description);
        out.extend_from_slice(br#","input_schema":"#);
        json::value(out, &tool.parameters);
        if i + 1 == ask.tools.len() {
            out.extend_from_slice(mark_last);
        }
        out.push(b'}');
    }
    out.push(b']');
}

fn tool_choice(fields: &mut Fields<'_>, choice: Option<&str>) {
    match choice {
        None | Some("auto") => {}
        Some("none") => fields.raw("tool_choice", r#"{"type":"none"}"#),
        Some("required") => fields.raw("tool_choice", r#"{"type":"any"}"#),
        Some(name) => {
            if let Some(out) = fields.key("tool_choice") {
                out.extend_from_slice(br#"{"type":"tool","name":"#);
                json::string(out, name);
                out.push(b'}');
            }
        }
    }
}

fn text_block(out: &mut Vec<u8>, text: &str, mark: &[u8]) {
    out.extend_from_slice(br#"{"type":"text","text":"#);
    json::string(out, text);
    out.extend_from_slice(mark);
    out.push(b'}');
}

fn messages(out: &mut Vec<u8>, pieces: &[Piece<'_>], mark: &[u8], images: bool) {
    // The last piece of the user's last two turns.
    let mut ends = (0..pieces.len()).rev().filter(|i| pieces[*i].side() == Side::User && pieces.get(i + 1).is_none_or(|p| p.side() == Side::Assistant));
    let marked = [ends.next().unwrap_or(usize::MAX), ends.next().unwrap_or(usize::MAX)];
    out.push(b'[');
    let mut side = None;
    for (i, piece) in pieces.iter().enumerate() {
        if side == Some(piece.side()) {
            out.push(b',');
        } else {
            if side.is_some() {
                out.extend_from_slice(b"]},");
            }
            side = Some(piece.side());
            out.extend_from_slice(match piece.side() {
                Side::User => br#"{"role":"user","content":["#.as_slice(),
                Side::Assistant => br#"{"role":"assistant","content":["#.as_slice(),
            });
        }
        block(out, piece, if marked.contains(&i) { mark } else { NO_MARK }, images);
    }
    out.extend_from_slice(b"]}]");
}

fn block(out: &mut Vec<u8>, piece: &Piece<'_>, mark: &[u8], images: bool) {
    match piece {
        Piece::Text(_, text) => return text_block(out, text, mark),
        Piece::Image { mime, data } => {
            image_open(out, mime, data);
        }
        Piece::Reasoning { text, signature } => {
            if let Some(data) = signature.strip_prefix(REDACTED) {
                out.extend_from_slice(br#"{"type":"redacted_thinking","data":"#);
                json::string(out, data);
            } else {
                out.extend_from_slice(br#"{"type":"thinking","thinking":"#);
                json::string(out, text);
                out.extend_from_slice(br#","signature":"#);
                json::string(out, signature);
            }
        }
        Piece::Call { id, name, arguments } => {
            out.extend_from_slice(br#"{"type":"tool_use","id":"#);
            json::string(out, id);
            out.extend_from_slice(br#","name":"#);
            json::string(out, name);
            out.extend_from_slice(br#","input":"#);
            if arguments.is_object() {
                json::value(out, arguments);
            } else {
                json::value(out, &serde_json::json!({ "raw": arguments }));
            }
        }
        Piece::Result { id, content, note, is_error, .. } => {
            out.extend_from_slice(br#"{"type":"tool_result","tool_use_id":"#);
            json::string(out, id);
            out.extend_from_slice(br#","content":"#);
            if let Some(note) = note {
                json::string(out, note);
            } else {
                result_content(out, content, images);
            }
            if *is_error {
                out.extend_from_slice(br#","is_error":true"#);
            }
        }
    }
    out.extend_from_slice(mark);
    out.push(b'}');
}

fn image_open(out: &mut Vec<u8>, mime: &str, data: &str) {
    out.extend_from_slice(br#"{"type":"image","source":{"type":"base64","media_type":"#);
    json::string(out, mime);
    out.extend_from_slice(br#","data":"#);
    json::string(out, data);
    out.push(b'}');
}

fn result_content(out: &mut Vec<u8>, content: &[Part], images: bool) {
    out.push(b'[');
    let start = out.len();
    for part in content {
        let before = out.len();
        if before > start {
            out.push(b',');
        }
        match part {
            Part::Text { text } if !is_blank(text) => text_block(out, text, NO_MARK),
            Part::Image { mime_type, data } if images => {
                image_open(out, mime_type, data);
                out.push(b'}');
            }
            Part::Image { .. } => text_block(out, IMAGE_OMITTED, NO_MARK),
            _ => out.truncate(before),
        }
    }
    if out.len() == start {
        text_block(out, "(no output)", NO_MARK);
    }
    out.push(b']');
}
