use clawstead_terms::Part;

use super::Without;
use crate::{
    Ask, ModelSpec,
    json::{self, Fields},
    repair::{self, CallIds, Piece, Side, Target, repair},
    spec::ThinkingStyle,
};

/// The request body.
pub(crate) fn body(ask: &Ask, spec: &ModelSpec, without: Without) -> Vec<u8> {
    let mut out = Vec::with_capacity(8 * 1024 + ask.system.len() + ask.messages.len() * 600);
    let mut fields = Fields::open(&mut out, ask.params.as_ref());
    fields.str("model", &spec.id);
    if let Some(out) = fields.key("messages") {
        messages(out, ask, spec);
    }
    fields.raw("stream", if without.streaming { "false" } else { "true" });
    if spec.compat.stream_usage && !without.stream_options && !without.streaming {
        fields.raw("stream_options", r#"{"include_usage":true}"#);
    }
    if !ask.tools.is_empty() {
        if let Some(out) = fields.key("tools") {
            tools(out, ask);
        }
        tool_choice(&mut fields, ask.tool_choice.as_deref());
    }
    if let Some(max) = ask.max_tokens.or(spec.max_tokens_known.then_some(spec.max_tokens)) {
        let new_name = spec.compat.max_completion_tokens != without.other_max_tokens;
        fields.raw(if new_name { "max_completion_tokens" } else { "max_tokens" }, &max.to_string());
    }
    if let Some(t) = ask.temperature.filter(|t| t.is_finite() && spec.compat.temperature && !without.temperature) {
        fields.raw("temperature", &t.to_string());
    }
    if let Some(level) = ask.thinking.as_deref().filter(|_| spec.reasoning && !without.effort) {
        thinking(&mut fields, level, spec);
    }
    if let Some(hint) = ask.session_hint.as_deref().filter(|_| spec.compat.cache_key) {
        fields.str("prompt_cache_key", hint);
    }
    fields.close();
    out
}

fn thinking(fields: &mut Fields<'_>, level: &str, spec: &ModelSpec) {
    let on = level != "off";
    match spec.compat.thinking {
        ThinkingStyle::Effort if on && spec.compat.effort => fields.str("reasoning_effort", effort(level)),
        ThinkingStyle::Switch => fields.raw("thinking", if on { r#"{"type":"enabled"}"# } else { r#"{"type":"disabled"}"# }),
        ThinkingStyle::Object if on => fields.raw("reasoning", &format!(r#"{{"effort":"{}"}}"#, effort(level))),
        ThinkingStyle::Enable => fields.raw("enable_thinking", if on { "true" } else { "false" }),
        _ => {}
    }
}

/// The word hosts know; our words are a superset.
pub(crate) fn effort(level: &str) -> &'static str {
    match level {
        "minimal" => "minimal",
        "low" => "low",
        "high" => "high",
        "xhigh" | "max" => "xhigh",
        _ => "medium",
    }
}

fn tools(out: &mut Vec<u8>, ask: &Ask) {
    out.push(b'[');
    for (i, tool) in ask.tools.iter().enumerate() {
        out.extend_from_slice(if i == 0 { br#"{"type":"function","function":{"name":"# } else { br#",{"type":"function","function":{"name":"# });
        json::string(out, &tool.name);
        out.extend_from_slice(br#","description":"#);
        json::string(out, &tool.description);
        out.extend_from_slice(br#","parameters":"#);
        json::value(out, &tool.parameters);
        out.extend_from_slice(b"}}");
    }
    out.push(b']');
}

fn tool_choice(fields: &mut Fields<'_>, choice: Option<&str>) {
    match choice {
        None | Some("auto") => {}
        Some(word @ ("none" | "required")) => fields.str("tool_choice", word),
        Some(name) => {
            if let Some(out) = fields.key("tool_choice") {
                out.extend_from_slice(br#"{"type":"function","function":{"name":"#);
                json::string(out, name);
                out.extend_from_slice(b"}}");
            }
        }
    }
}

fn messages(out: &mut Vec<u8>, ask: &Ask, spec: &ModelSpec) {
    let target = Target {
        provider: &spec.provider,
        images: spec.images,
        reasoning: false,
        call_ids: if spec.compat.short_call_ids { CallIds::Alnum9 } else { CallIds::Word40 },
    };
    let pieces = repair(&ask.messages, &target);
    out.push(b'[');
    let mut list = List { out, first: true };
    if !ask.system.trim().is_empty() {
        list.next(br#"{"role":"system","content":"#);
        json::string(list.out, &ask.system);
        list.out.push(b'}');
    }
    let mut rest = pieces.as_slice();
    while let Some(first) = rest.first() {
        let side = first.side();
        let len = rest.iter().position(|p| p.side() != side).unwrap_or(rest.len());
        let (turn, after) = rest.split_at(len);
        match side {
            Side::Assistant => assistant(&mut list, turn),
            Side::User => user(&mut list, turn, spec.images),
        }
        rest = after;
    }
    list.out.push(b']');
}

struct List<'a> {
    out: &'a mut Vec<u8>,
    first: bool,
}

impl List<'_> {
    fn next(&mut self, head: &[u8]) {
        if !self.first {
            self.out.push(b',');
        }
        self.first = false;
        self.out.extend_from_slice(head);
    }
}

/// All text of one side in one string: many chat templates insist that roles alternate.
fn joined<'a>(out: &mut Vec<u8>, texts: impl Iterator<Item = &'a str>) -> bool {
    let mut any = false;
    out.push(b'"');
    for text in texts {
        if any {
            out.extend_from_slice(b"\\n\\n");
        }
        any = true;
        json::escaped(out, text);
    }
    out.push(b'"');
    any
}

fn assistant(list: &mut List<'_>, turn: &[Piece<'_>]) {
    list.next(br#"{"role":"assistant","content":"#);
    let out = &mut *list.out;
    let texts = || turn.iter().filter_map(|p| if let Piece::Text(_, text) = p { Some(text.as_ref()) } else { None });
    if texts().next().is_some() {
        joined(out, texts());
    } else {
        out.extend_from_slice(b"null");
    }
    let mut first = true;
    for piece in turn {
        let Piece::Call { id, name, arguments } = piece else { continue };
        out.extend_from_slice(if first { br#","tool_calls":[{"id":"# } else { br#",{"id":"# });
        first = false;
        json::string(out, id);
        out.extend_from_slice(br#","type":"function","function":{"name":"#);
        json::string(out, name);
        out.extend_from_slice(br#","arguments":"#);
        arguments_text(out, arguments);
        out.extend_from_slice(b"}}");
    }
    out.extend_from_slice(if first { b"}" } else { b"]}" });
}

/// Arguments that were no valid JSON go back wrapped: strict hosts parse them.
pub(crate) fn arguments_text(out: &mut Vec<u8>, arguments: &serde_json::Value) {
    if arguments.is_object() {
        json::value_as_string(out, arguments);
    } else {
        json::string(out, &serde_json::json!({ "raw": arguments }).to_string());
    }
}

fn user(list: &mut List<'_>, turn: &[Piece<'_>], images: bool) {
    let mut pictures: Vec<(&str, &str)> = Vec::new();
    for piece in turn {
        let Piece::Result { id, content, note, .. } = piece else { continue };
        list.next(br#"{"role":"tool","tool_call_id":"#);
        json::string(list.out, id);
        list.out.extend_from_slice(br#","content":"#);
        let texts = content.iter().filter_map(|p| match p {
            Part::Text { text } if !text.is_empty() => Some(text.as_str()),
            Part::Image { .. } => Some(if images { "[image: see below]" } else { repair::IMAGE_OMITTED }),
            _ => None,
        });
        if let Some(note) = note {
            json::string(list.out, note);
        } else if !joined(list.out, texts) {
            // Some templates fail on an empty result.
            let empty = list.out.len() - 2;
            list.out.truncate(empty);
            json::string(list.out, EMPTY_RESULT);
        }
        list.out.push(b'}');
        if images {
            pictures
                .extend(content.iter().filter_map(|p| if let Part::Image { mime_type, data } = p { Some((mime_type.as_str(), data.as_str())) } else { None }));
        }
    }
    let said = turn.iter().any(|p| matches!(p, Piece::Text(..) | Piece::Image { .. }));
    if !said && pictures.is_empty() {
        return;
    }
    list.next(br#"{"role":"user","content":"#);
    let out = &mut *list.out;
    if pictures.is_empty() && !turn.iter().any(|p| matches!(p, Piece::Image { .. })) {
        joined(out, turn.iter().filter_map(|p| if let Piece::Text(_, text) = p { Some(text.as_ref()) } else { None }));
    } else {
        let mut first = true;
        let mut comma = |out: &mut Vec<u8>| {
            out.push(if first { b'[' } else { b',' });
            first = false;
        };
        if !pictures.is_empty() {
            comma(out);
            out.extend_from_slice(br#"{"type":"text","text":"Images that the tools returned:"}"#);
        }
        for (mime, data) in pictures {
            comma(out);
            picture(out, mime, data);
        }
        for piece in turn {
            match piece {
                Piece::Text(_, text) => {
                    comma(out);
                    out.extend_from_slice(br#"{"type":"text","text":"#);
                    json::string(out, text);
                    out.push(b'}');
                }
                Piece::Image { mime, data } => {
                    comma(out);
                    picture(out, mime, data);
                }
                _ => {}
            }
        }
        out.push(b']');
    }
    out.push(b'}');
}

/// Said for a tool result without text.
pub(crate) const EMPTY_RESULT: &str = "(no output)";

fn picture(out: &mut Vec<u8>, mime: &str, data: &str) {
    out.extend_from_slice(br#"{"type":"image_url","image_url":{"url":"data:"#);
    json::escaped(out, mime);
    out.extend_from_slice(b";base64,");
    json::escaped(out, data);
    out.extend_from_slice(br#""}}"#);
}
