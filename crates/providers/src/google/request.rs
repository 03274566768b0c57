use std::borrow::Cow;

use clawstead_terms::Part;

use crate::{
    Ask, ModelSpec,
    json::{self, Fields},
    repair::{CallIds, IMAGE_OMITTED, Piece, Side, Target, is_blank, repair},
    spec::Dialect,
};

/// Stands where a model wants a signature of a thought that another model had.
const NO_SIGNATURE: &str = "skip_thought_signature_validator";

/// `/models/<id>`, unless the id names its collection itself.
pub(crate) fn model_path(id: &str) -> String {
    if id.starts_with("models/") || id.starts_with("tunedModels/") { format!("/{id}") } else { format!("/models/{id}") }
}

/// Third generation: thoughts have levels, and calls must carry signatures.
fn third(id: &str) -> bool {
    id.rsplit('/').next().unwrap_or(id).starts_with("gemini-3")
}

/// The request body.
pub(crate) fn body(ask: &Ask, spec: &ModelSpec) -> Vec<u8> {
    debug_assert_eq!(spec.dialect, Dialect::Google);
    let target = Target { provider: &spec.provider, images: spec.images, reasoning: true, call_ids: CallIds::Word40 };
    let pieces = repair(&ask.messages, &target);
    let mut out = Vec::with_capacity(8 * 1024 + ask.system.len() + ask.messages.len() * 600);
    let mut fields = Fields::open(&mut out, ask.params.as_ref());
    if !is_blank(&ask.system)
        && let Some(out) = fields.key("systemInstruction")
    {
        out.extend_from_slice(br#"{"role":"user","parts":["#);
        text_part(out, &ask.system, None);
        out.extend_from_slice(b"]}");
    }
    if !ask.tools.is_empty() {
        if let Some(out) = fields.key("tools") {
            tools(out, ask);
        }
        tool_config(&mut fields, ask.tool_choice.as_deref());
    }
    if let Some(out) = fields.key("generationConfig") {
        generation(out, ask, spec);
    }
    if let Some(out) = fields.key("contents") {
        Contents { out, open: None, order: Vec::new(), signed: third(&spec.id), images: spec.images }.write(&pieces);
    }
    fields.close();
    out
}

fn generation(out: &mut Vec<u8>, ask: &Ask, spec: &ModelSpec) {
    let mut fields = Fields::open(out, None);
    if ask.max_tokens.is_some() || spec.max_tokens_known {
        fields.raw("maxOutputTokens", &ask.max_tokens.unwrap_or(spec.max_tokens).max(1).to_string());
    }
    if let Some(t) = ask.temperature.filter(|t| t.is_finite() && spec.compat.temperature) {
        fields.raw("temperature", &t.clamp(0.0, 2.0).to_string());
    }
    if let Some(thinking) = ask.thinking.as_deref().filter(|_| spec.reasoning).and_then(|level| thinking(level, &spec.id)) {
        fields.raw("thinkingConfig", &thinking);
    }
    fields.close();
}

/// How much thinking: levels since the third generation, tokens before. Models that always think are left alone when
/// asked not to.
fn thinking(level: &str, id: &str) -> Option<String> {
    let pro = id.contains("pro");
    if third(id) {
        let level = match level {
            "off" => return None,
            "minimal" | "low" if pro => "low",
            "minimal" => "minimal",
            "low" => "low",
            "medium" if !pro => "medium",
            _ => "high",
        };
        return Some(format!(r#"{{"includeThoughts":true,"thinkingLevel":"{level}"}}"#));
    }
    let budget = match level {
        "off" if pro => return None,
        "off" => return Some(r#"{"thinkingBudget":0}"#.into()),
        "minimal" if pro => 128,
        "minimal" => 512,
        "low" => 2_048,
        "high" | "xhigh" | "max" => 24_576,
        _ => 8_192,
    };
    Some(format!(r#"{{"includeThoughts":true,"thinkingBudget":{budget}}}"#))
}

fn tools(out: &mut Vec<u8>, ask: &Ask) {
    out.extend_from_slice(br#"[{"functionDeclarations":["#);
    for (i, tool) in ask.tools.iter().enumerate() {
        out.extend_from_slice(if i == 0 { br#"{"name":"# } else { br#",{"name":"# });
        json::string(out, &tool.name);
        out.extend_from_slice(br#","description":"#);
        json::string(out, &tool.description);
        out.extend_from_slice(br#","parametersJsonSchema":"#);
        json::value(out, &tool.parameters);
        out.push(b'}');
    }
    out.extend_from_slice(b"]}]");
}

fn tool_config(fields: &mut Fields<'_>, choice: Option<&str>) {
    match choice {
        None | Some("auto") => {}
        Some("none") => fields.raw("toolConfig", r#"{"functionCallingConfig":{"mode":"NONE"}}"#),
        Some("required") => fields.raw("toolConfig", r#"{"functionCallingConfig":{"mode":"ANY"}}"#),
        Some(name) => {
            if let Some(out) = fields.key("toolConfig") {
                out.extend_from_slice(br#"{"functionCallingConfig":{"mode":"ANY","allowedFunctionNames":["#);
                json::string(out, name);
                out.extend_from_slice(b"]}}");
            }
        }
    }
}

/// Whose entry of `contents` is being written. Results have one of their own, as the API wants it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Entry {
    User,
    Model,
    Results,
}

struct Contents<'o> {
    out: &'o mut Vec<u8>,
    open: Option<Entry>,
    /// Ids of the last turn's calls: results belong to calls by their order.
    order: Vec<String>,
    signed: bool,
    images: bool,
}

impl Contents<'_> {
    fn write(mut self, pieces: &[Piece<'_>]) {
        self.out.push(b'[');
        let mut at = 0;
        let mut signature: Option<&str> = None;
        while let Some(piece) = pieces.get(at) {
            match piece {
                Piece::Reasoning { signature: own, .. } => signature = Some(own),
                Piece::Text(side, text) => {
                    self.entry(if *side == Side::User { Entry::User } else { Entry::Model });
                    text_part(self.out, text, signature.take().filter(|_| *side == Side::Assistant));
                }
                Piece::Image { mime, data } => {
                    signature = None;
                    self.entry(Entry::User);
                    inline(self.out, mime, data);
                }
                Piece::Call { id, name, arguments } => {
                    // Only the first of several calls at once is signed.
                    let first = self.open != Some(Entry::Model) || self.order.is_empty();
                    self.entry(Entry::Model);
                    let signature = signature.take().or((self.signed && first).then_some(NO_SIGNATURE));
                    self.order.push(id.to_string());
                    call_part(self.out, name, arguments, signature);
                }
                Piece::Result { .. } => {
                    let end = pieces[at..].iter().position(|p| !matches!(p, Piece::Result { .. })).map_or(pieces.len(), |n| at + n);
                    signature = None;
                    self.results(&pieces[at..end]);
                    at = end;
                    continue;
                }
            }
            at += 1;
        }
        if self.open.is_some() {
            self.out.extend_from_slice(b"]}");
        }
        self.out.push(b']');
    }

    fn entry(&mut self, entry: Entry) {
        if self.open == Some(entry) {
            return self.out.push(b',');
        }
        if self.open.is_some() {
            self.out.extend_from_slice(b"]},");
        }
        if entry == Entry::Model {
            self.order.clear();
        }
        self.open = Some(entry);
        self.out.extend_from_slice(if entry == Entry::Model { br#"{"role":"model","parts":["#.as_slice() } else { br#"{"role":"user","parts":["#.as_slice() });
    }

    fn results(&mut self, results: &[Piece<'_>]) {
        let place = |piece: &Piece<'_>| match piece {
            Piece::Result { id, .. } => self.order.iter().position(|one| one == id.as_ref()).unwrap_or(usize::MAX),
            _ => usize::MAX,
        };
        let mut ordered: Vec<&Piece<'_>> = results.iter().collect();
        ordered.sort_by_key(|piece| place(piece));
        for piece in &ordered {
            let Piece::Result { name, content, note, is_error, .. } = piece else { continue };
            self.entry(Entry::Results);
            self.out.extend_from_slice(br#"{"functionResponse":{"name":"#);
            json::string(self.out, name);
            self.out.extend_from_slice(if *is_error { br#","response":{"error":"#.as_slice() } else { br#","response":{"output":"#.as_slice() });
            json::string(self.out, &note.map_or_else(|| words(content, self.images), Cow::Borrowed));
            self.out.extend_from_slice(b"}}}");
        }
        // Pictures of results follow as the user's own: most models read none inside a result.
        if !self.images {
            return;
        }
        for piece in &ordered {
            let Piece::Result { content, note: None, .. } = piece else { continue };
            for part in *content {
                if let Part::Image { mime_type, data } = part {
                    self.entry(Entry::User);
                    inline(self.out, mime_type, data);
                }
            }
        }
    }
}

/// The text of a result.
fn words(content: &[Part], images: bool) -> Cow<'_, str> {
    let mut texts = content.iter().filter_map(|part| match part {
        Part::Text { text } if !is_blank(text) => Some(text.as_str()),
        Part::Image { .. } => Some(if images { "(picture below)" } else { IMAGE_OMITTED }),
        _ => None,
    });
    match (texts.next(), texts.next()) {
        (None, _) => Cow::Borrowed("(no output)"),
        (Some(one), None) => Cow::Borrowed(one),
        (Some(one), Some(two)) => Cow::Owned(texts.fold(format!("{one}\n{two}"), |all, more| all + "\n" + more)),
    }
}

fn text_part(out: &mut Vec<u8>, text: &str, signature: Option<&str>) {
    out.extend_from_slice(br#"{"text":"#);
    json::string(out, text);
    sign(out, signature);
    out.push(b'}');
}

fn call_part(out: &mut Vec<u8>, name: &str, arguments: &serde_json::Value, signature: Option<&str>) {
    out.extend_from_slice(br#"{"functionCall":{"name":"#);
    json::string(out, name);
    out.extend_from_slice(br#","args":"#);
    if arguments.is_object() {
        json::value(out, arguments);
    } else {
        json::value(out, &serde_json::json!({ "raw": arguments }));
    }
    out.push(b'}');
    sign(out, signature);
    out.push(b'}');
}

fn sign(out: &mut Vec<u8>, signature: Option<&str>) {
    if let Some(signature) = signature {
        out.extend_from_slice(br#","thoughtSignature":"#);
        json::string(out, signature);
    }
}

fn inline(out: &mut Vec<u8>, mime: &str, data: &str) {
    out.extend_from_slice(br#"{"inlineData":{"mimeType":"#);
    json::string(out, mime);
    out.extend_from_slice(br#","data":"#);
    json::string(out, data);
    out.extend_from_slice(b"}}");
}
