//! What a request says: the messages of both dialects as one form.

use serde_json::{Value, json};

use super::{Dialect, Refusal};

/// A request's messages, sorted.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Said {
    /// System and developer messages, in order.
    pub system: Vec<String>,
    /// Everything before the message to answer, as `who` and text.
    pub earlier: Vec<(&'static str, String)>,
    /// The message to answer.
    pub text: String,
    /// Pictures and files of the message to answer.
    pub things: Vec<Thing>,
}

/// Something that came with a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Thing {
    /// Its bytes are here, base64.
    Here { name: Option<String>, mime: Option<String>, data: String, picture: bool },
    /// A picture somewhere else.
    There { url: String },
}

impl Thing {
    /// As [`crate::letters::body`] takes it; none when it is not here yet.
    pub(super) fn attachment(&self) -> Option<Value> {
        let Self::Here { name, mime, data, .. } = self else { return None };
        let mut out = json!({ "content": data });
        for (key, value) in [("fileName", name), ("mimeType", mime)] {
            if let Some(value) = value {
                out[key] = json!(value);
            }
        }
        Some(out)
    }
}

#[derive(Default)]
struct Content {
    text: String,
    things: Vec<Thing>,
}

impl Content {
    fn plain(self) -> String {
        let marks: Vec<&str> =
            self.things.iter().map(|thing| if matches!(thing, Thing::Here { picture: false, .. }) { "[file]" } else { "[picture]" }).collect();
        [self.text, marks.join(" ")].into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join("\n")
    }

    const fn is_empty(&self) -> bool {
        self.text.is_empty() && self.things.is_empty()
    }
}

/// Reads the messages of a request.
pub(super) fn read(dialect: Dialect, body: &Value) -> Result<Said, Refusal> {
    match dialect {
        Dialect::Chat => chat(body),
        Dialect::Responses => responses(body),
    }
}

struct Turn {
    who: &'static str,
    content: Content,
    /// It may be the one to answer.
    asks: bool,
}

fn gather(system: Vec<String>, mut turns: Vec<Turn>, field: &str) -> Result<Said, Refusal> {
    turns.retain(|turn| !turn.content.is_empty());
    let Some(last) = turns.iter().rposition(|turn| turn.asks) else {
        return Err(Refusal::invalid(format!("Missing user message in `{field}`.")));
    };
    let asked = turns.remove(last);
    let (text, things) =
        if asked.who == "User" { (asked.content.text, asked.content.things) } else { (format!("[{}]\n{}", asked.who, asked.content.plain()), Vec::new()) };
    let earlier = turns.into_iter().map(|turn| (turn.who, turn.content.plain())).collect();
    Ok(Said { system, earlier, text, things })
}

fn chat(body: &Value) -> Result<Said, Refusal> {
    let (mut system, mut turns) = (Vec::new(), Vec::new());
    for message in body.get("messages").and_then(Value::as_array).into_iter().flatten() {
        let mut content = content(message.get("content"))?;
        match message.get("role").and_then(Value::as_str).unwrap_or_default() {
            "system" | "developer" => system.extend(Some(content.text).filter(|text| !text.is_empty())),
            "user" => turns.push(Turn { who: "User", content, asks: true }),
            "assistant" => {
                for call in message.get("tool_calls").and_then(Value::as_array).into_iter().flatten() {
                    add_line(&mut content.text, &format!("[called {}]", called(call.get("function").unwrap_or(call))));
                }
                turns.push(Turn { who: "Assistant", content, asks: false });
            }
            "tool" | "function" => turns.push(Turn { who: "Tool result", content, asks: true }),
            _ => {}
        }
    }
    gather(system, turns, "messages")
}

fn responses(body: &Value) -> Result<Said, Refusal> {
    let wrong = || Refusal::invalid("input: Invalid input");
    let mut system: Vec<String> = body.get("instructions").and_then(Value::as_str).map(str::to_owned).into_iter().filter(|text| !text.is_empty()).collect();
    let items = match body.get("input") {
        Some(Value::String(text)) => vec![json!({ "role": "user", "content": text })],
        Some(Value::Array(items)) => items.clone(),
        _ => return Err(wrong()),
    };
    let mut turns = Vec::new();
    for item in &items {
        let role = item.get("role").and_then(Value::as_str);
        match item.get("type").and_then(Value::as_str).unwrap_or("message") {
            "message" => {
                let content = content(item.get("content"))?;
                match role.ok_or_else(wrong)? {
                    "system" | "developer" => system.extend(Some(content.text).filter(|text| !text.is_empty())),
                    "user" => turns.push(Turn { who: "User", content, asks: true }),
                    "assistant" => turns.push(Turn { who: "Assistant", content, asks: false }),
                    _ => return Err(wrong()),
                }
            }
            "function_call" => {
                turns.push(Turn { who: "Assistant", content: Content { text: format!("[called {}]", called(item)), things: Vec::new() }, asks: false })
            }
            "function_call_output" => turns.push(Turn { who: "Tool result", content: content(item.get("output"))?, asks: true }),
            "reasoning" | "item_reference" => {}
            _ => return Err(wrong()),
        }
    }
    gather(system, turns, "input")
}

fn called(call: &Value) -> String {
    let text = |key: &str| call.get(key).and_then(Value::as_str).unwrap_or_default();
    format!("{}({})", text("name"), text("arguments"))
}

fn add_line(text: &mut String, line: &str) {
    if !text.is_empty() && !line.is_empty() {
        text.push('\n');
    }
    text.push_str(line);
}

fn content(value: Option<&Value>) -> Result<Content, Refusal> {
    let mut out = Content::default();
    match value {
        Some(Value::String(text)) => text.clone_into(&mut out.text),
        Some(Value::Array(parts)) => {
            for part in parts {
                part_into(part, &mut out)?;
            }
        }
        _ => {}
    }
    Ok(out)
}

fn part_into(part: &Value, out: &mut Content) -> Result<(), Refusal> {
    let text = |at: &str| part.pointer(at).and_then(Value::as_str).map(str::to_owned);
    match part.get("type").and_then(Value::as_str).unwrap_or_default() {
        "text" | "input_text" | "output_text" | "refusal" => {
            let words = text("/text").or_else(|| text("/refusal")).or_else(|| text("/input_text"));
            add_line(&mut out.text, words.as_deref().unwrap_or_default());
        }
        "image_url" | "input_image" | "image" => {
            let url = text("/image_url/url").or_else(|| text("/image_url")).or_else(|| text("/source/url"));
            out.things.push(match (url, text("/source/data")) {
                (Some(url), _) => located(url, None, true)?,
                (None, Some(data)) => Thing::Here { name: None, mime: text("/source/media_type").or_else(|| Some("image/png".into())), data, picture: true },
                (None, None) => return Err(Refusal::invalid("an image part needs a URL or base64 data")),
            });
        }
        "input_file" | "file" => {
            let name = text("/filename").or_else(|| text("/file/filename")).or_else(|| text("/source/filename"));
            let data = text("/file_data").or_else(|| text("/file/file_data"));
            out.things.push(match (data, text("/source/data")) {
                (Some(data), _) => located(data, name, false)?,
                (None, Some(data)) => Thing::Here { name, mime: text("/source/media_type"), data, picture: false },
                (None, None) => return Err(Refusal::invalid("files are taken as base64 data only; file ids and file URLs are not supported")),
            });
        }
        "input_audio" => return Err(Refusal::invalid("audio parts are not supported; send text")),
        _ => {}
    }
    Ok(())
}

/// A `data:` URL becomes the thing itself.
fn located(url: String, name: Option<String>, picture: bool) -> Result<Thing, Refusal> {
    if let Some((mime, data)) = url.strip_prefix("data:").and_then(|rest| rest.split_once(";base64,")) {
        let mime = mime.split(';').next().unwrap_or_default().trim().to_lowercase();
        return Ok(Thing::Here { name, mime: Some(mime).filter(|mime| !mime.is_empty()), data: data.to_owned(), picture });
    }
    if url.starts_with("http://") || url.starts_with("https://") {
        return if picture { Ok(Thing::There { url }) } else { Err(Refusal::invalid("file URLs are not supported; send the file as base64 data")) };
    }
    if picture {
        return Err(Refusal::invalid("an image URL must be a base64 data: URL or start with https:// or http://"));
    }
    Ok(Thing::Here { name, mime: None, data: url, picture })
}

/// The message as the agent reads it, with what was said before where `earlier` is given.
pub(super) fn message(said: &Said, with_earlier: bool) -> String {
    if !with_earlier || said.earlier.is_empty() {
        return said.text.clone();
    }
    let lines: Vec<String> = said.earlier.iter().map(|(who, text)| format!("{who}: {text}")).collect();
    format!("[Earlier in this conversation, as the client sent it]\n{}\n\n[The message to answer]\n{}", lines.join("\n"), said.text)
}

#[cfg(test)]
mod tests {
    use super::{Dialect, Thing, message, read};
    use serde_json::json;

    #[test]
    fn a_conversation_is_sorted() {
        let said = read(
            Dialect::Chat,
            &json!({"messages": [
                {"role": "system", "content": "be brief"},
                {"role": "user", "content": "one"},
                {"role": "assistant", "content": "two", "tool_calls": [{"id": "c", "function": {"name": "f", "arguments": "{}"}}]},
                {"role": "developer", "content": [{"type": "text", "text": "be kind"}]},
                {"role": "user", "content": [{"type": "text", "text": "three"}, {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}]},
            ]}),
        )
        .unwrap();
        assert_eq!(said.system, ["be brief", "be kind"]);
        assert_eq!(said.earlier, [("User", "one".to_owned()), ("Assistant", "two\n[called f({})]".to_owned())]);
        assert_eq!(said.text, "three");
        assert_eq!(said.things, [Thing::Here { name: None, mime: Some("image/png".into()), data: "AAAA".into(), picture: true }]);
        assert_eq!(message(&said, false), "three");
        assert!(message(&said, true).ends_with("[The message to answer]\nthree") && message(&said, true).contains("User: one\nAssistant: two"));
    }

    #[test]
    fn a_tool_result_can_be_the_last_word() {
        let said =
            read(Dialect::Chat, &json!({"messages": [{"role": "user", "content": "weather?"}, {"role": "tool", "tool_call_id": "c", "content": "21 C"}]}))
                .unwrap();
        assert_eq!((said.earlier.len(), said.text.as_str()), (1, "[Tool result]\n21 C"));
    }

    #[test]
    fn nothing_to_answer_is_refused() {
        let refused = |dialect, body| read(dialect, &body).unwrap_err().message;
        assert_eq!(refused(Dialect::Chat, json!({})), "Missing user message in `messages`.");
        assert_eq!(refused(Dialect::Chat, json!({"messages": [{"role": "user", "content": ""}]})), "Missing user message in `messages`.");
        assert_eq!(refused(Dialect::Responses, json!({})), "input: Invalid input");
        assert_eq!(refused(Dialect::Responses, json!({"input": [{"type": "odd"}]})), "input: Invalid input");
        assert_eq!(refused(Dialect::Responses, json!({"input": []})), "Missing user message in `input`.");
        assert!(refused(Dialect::Chat, json!({"messages": [{"role": "user", "content": [{"type": "input_audio"}]}]})).contains("audio"));
    }
}
