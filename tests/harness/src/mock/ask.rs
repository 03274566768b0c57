use serde::{Deserialize, Serialize};
use serde_json::{Value, value::RawValue};

use super::{Options, Rule};

/// The API a request speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Dialect {
    /// OpenAI chat completions.
    Chat,
    /// OpenAI responses.
    Responses,
    /// Anthropic messages.
    Messages,
}

/// What is read of a request. Only the end of the conversation is decoded: a test session grows to thousands of turns.
#[derive(Clone, Debug)]
pub struct Ask {
    /// The model.
    pub model: String,
    /// Streamed.
    pub stream: bool,
    /// How many messages.
    pub messages: usize,
    /// The last user message with text.
    pub text: String,
    /// Tool results after it, in order.
    pub results: Vec<String>,
    /// Names of the tools on offer.
    pub tools: Vec<String>,
}

#[derive(Deserialize)]
struct Outer<'a> {
    #[serde(default)]
    model: String,
    #[serde(default)]
    stream: bool,
    #[serde(borrow, default)]
    messages: Vec<&'a RawValue>,
    #[serde(borrow, default)]
    input: Option<&'a RawValue>,
    #[serde(borrow, default)]
    tools: Option<Vec<&'a RawValue>>,
}

impl Ask {
    /// Reads a request body.
    ///
    /// # Errors
    /// When it is not JSON of the expected shape; the text goes back to the client.
    pub fn read(dialect: Dialect, body: &[u8]) -> Result<Self, String> {
        let outer: Outer<'_> = serde_json::from_slice(body).map_err(|error| error.to_string())?;
        let mut single = None;
        let items: Vec<&RawValue> = match (dialect, outer.input) {
            (Dialect::Responses, Some(input)) if input.get().starts_with('"') => {
                single = serde_json::from_str(input.get()).ok();
                Vec::new()
            }
            (Dialect::Responses, Some(input)) => serde_json::from_str(input.get()).map_err(|error| error.to_string())?,
            _ => outer.messages,
        };
        let messages = items.len() + usize::from(single.is_some());
        let mut results = Vec::new();
        let mut text = single.unwrap_or_default();
        for item in items.iter().rev() {
            let item: Value = serde_json::from_str(item.get()).map_err(|error| error.to_string())?;
            let (said, mut found) = read_item(&item);
            found.append(&mut results);
            results = found;
            // The original adds a message of its own after the user's; it is not what the user said.
            if let Some(said) = said.filter(|said| !said.starts_with("<<<BEGIN_OPENCLAW_INTERNAL_CONTEXT")) {
                text = said;
                break;
            }
        }
        let tools = outer.tools.unwrap_or_default().iter().filter_map(|tool| tool_name(tool.get())).collect();
        Ok(Self { model: outer.model, stream: outer.stream, messages, text, results, tools })
    }
}

/// The user's text in a message, if it is one, and the tool results in it.
fn read_item(item: &Value) -> (Option<String>, Vec<String>) {
    let role = item["role"].as_str().unwrap_or_default();
    if item["type"] == "function_call_output" {
        return (None, vec![flat(&item["output"])]);
    }
    match role {
        "tool" => (None, vec![flat(&item["content"])]),
        "user" => {
            let results: Vec<String> =
                item["content"].as_array().into_iter().flatten().filter(|part| part["type"] == "tool_result").map(|part| flat(&part["content"])).collect();
            let said = flat(&item["content"]);
            ((!said.is_empty() || results.is_empty()).then_some(said), results)
        }
        _ => (None, Vec::new()),
    }
}

/// The text in a content value: a string, or the text parts of a list.
fn flat(content: &Value) -> String {
    match content {
        Value::String(text) => text.clone(),
        Value::Array(parts) => parts.iter().filter_map(|part| part["text"].as_str()).collect::<Vec<_>>().join("\n"),
        _ => String::new(),
    }
}

fn tool_name(raw: &str) -> Option<String> {
    #[derive(Deserialize)]
    struct Named {
        name: Option<String>,
        function: Option<Box<Named>>,
    }
    let named: Named = serde_json::from_str(raw).ok()?;
    named.name.or(named.function.and_then(|inner| inner.name))
}

/// The first numbered mark in a text: `msg-` and six digits or more.
#[must_use]
pub fn mark_of(text: &str) -> Option<String> {
    marks_of(text).next()
}

/// All numbered marks in a text. An answer has several when the question before it was given up after too many
/// restarts: both then stand before the model as one.
pub fn marks_of(text: &str) -> impl Iterator<Item = String> {
    text.match_indices("msg-").filter_map(|(at, _)| {
        let digits = text[at + 4..].bytes().take_while(u8::is_ascii_digit).count();
        (digits >= 6).then(|| text[at..at + 4 + digits].to_owned())
    })
}

/// What the server will do.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Deed {
    Say(String),
    Tool { name: String, arguments: Value },
    Status(u16),
    Hang,
    Cut,
    Garbage,
}

/// A deed and its pace.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Plan {
    pub(super) deed: Deed,
    pub(super) delay_ms: u64,
    pub(super) pace_ms: u64,
    pub(super) pieces: usize,
}

/// Decides, from the request, the options and the request's number.
pub(super) fn plan(ask: &Ask, options: &Options, n: u64) -> Plan {
    // A turn that failed leaves its message unanswered; the next request has both as one. The newest word counts.
    let newest = ask.text.rsplit("\n\n").find(|part| part.trim_start().starts_with('!'));
    let ask = &newest.map_or_else(|| ask.clone(), |part| Ask { text: part.trim().to_owned(), ..ask.clone() });
    let text = &ask.text;
    let number = |word: &str| after(text, word).and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok());
    let pieces = number("!pieces").and_then(|count| usize::try_from(count).ok()).unwrap_or(if options.pieces == 0 { 8 } else { options.pieces });
    Plan {
        deed: deed(ask, options, n),
        delay_ms: number("!delay").unwrap_or(options.delay_ms),
        pace_ms: number("!pace").unwrap_or(options.pace_ms),
        pieces: pieces.max(1),
    }
}

fn deed(ask: &Ask, options: &Options, n: u64) -> Deed {
    let text = &ask.text;
    if options.fail_every > 0 && n.is_multiple_of(options.fail_every) {
        return Deed::Status(500);
    }
    if let Some(code) = after(text, "!status").and_then(|rest| rest.split_whitespace().next()?.parse().ok()) {
        return Deed::Status(code);
    }
    for (word, deed) in [("!hang", Deed::Hang), ("!cut", Deed::Cut), ("!garbage", Deed::Garbage)] {
        if text.contains(word) {
            return deed;
        }
    }
    let calls: Vec<(String, Value)> = text.match_indices("!tool ").filter_map(|(at, _)| read_call(&text[at + 6..])).collect();
    if let Some((name, arguments)) = calls.get(ask.results.len()) {
        return Deed::Tool { name: name.clone(), arguments: arguments.clone() };
    }
    if !calls.is_empty() {
        return Deed::Say(format!("tool said: {}", ask.results.join(" | ")));
    }
    if let Some(rule) = options.rules.iter().find(|rule| fits(rule, ask)) {
        if let (Some(name), true) = (&rule.tool, ask.results.is_empty()) {
            return Deed::Tool { name: name.clone(), arguments: rule.arguments.clone() };
        }
        if let Some(say) = &rule.say {
            return Deed::Say(say.replace("{result}", &ask.results.join(" | ")));
        }
        return Deed::Say(format!("tool said: {}", ask.results.join(" | ")));
    }
    if let Some(rest) = after(text, "!say") {
        return Deed::Say(rest.lines().next().unwrap_or_default().trim().to_owned());
    }
    let words = after(text, "!words").and_then(|rest| rest.split_whitespace().next()?.parse::<usize>().ok()).unwrap_or(options.words);
    let mut answer = format!("echo: {}", cut(text, 200));
    for word in 0..words {
        answer.push_str([" one", " two", " three", " four"][word % 4]);
    }
    Deed::Say(answer)
}

fn fits(rule: &Rule, ask: &Ask) -> bool {
    ask.text.to_lowercase().contains(&rule.contains.to_lowercase()) && rule.model.as_ref().is_none_or(|model| *model == ask.model)
}

fn after<'a>(text: &'a str, word: &str) -> Option<&'a str> {
    let at = text.find(word)? + word.len();
    Some(text[at..].trim_start_matches(' '))
}

/// `<name> <json>`; the JSON may be followed by anything.
fn read_call(rest: &str) -> Option<(String, Value)> {
    let (name, json) = rest.split_once(' ')?;
    let arguments = serde_json::Deserializer::from_str(json).into_iter::<Value>().next()?.ok()?;
    Some((name.to_owned(), arguments))
}

/// At most `chars` characters.
pub(super) fn cut(text: &str, chars: usize) -> &str {
    text.char_indices().nth(chars).map_or(text, |(at, _)| &text[..at])
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::{Ask, Deed, Dialect, Options, Rule, mark_of, plan};

    fn ask(dialect: Dialect, body: &Value) -> Ask {
        Ask::read(dialect, body.to_string().as_bytes()).unwrap()
    }

    #[test]
    fn the_last_user_text_and_the_results_after_it_are_read_in_every_dialect() {
        let chat = json!({"model": "m", "stream": true, "messages": [
            {"role": "system", "content": "s"}, {"role": "user", "content": "old"}, {"role": "assistant", "content": "x"},
            {"role": "user", "content": [{"type": "text", "text": "new msg-000042"}]},
            {"role": "assistant", "tool_calls": []}, {"role": "tool", "content": "r1"}, {"role": "tool", "content": "r2"}],
            "tools": [{"type": "function", "function": {"name": "read"}}]});
        let messages = json!({"model": "m", "messages": [
            {"role": "user", "content": "old"}, {"role": "assistant", "content": "x"}, {"role": "user", "content": "new msg-000042"},
            {"role": "assistant", "content": []},
            {"role": "user", "content": [{"type": "tool_result", "content": "r1"}, {"type": "tool_result", "content": [{"type": "text", "text": "r2"}]}]}],
            "tools": [{"name": "read"}]});
        let responses = json!({"model": "m", "input": [
            {"role": "user", "content": [{"type": "input_text", "text": "new msg-000042"}]}, {"type": "function_call", "name": "x"},
            {"type": "function_call_output", "output": "r1"}, {"type": "function_call_output", "output": "r2"}],
            "tools": [{"type": "function", "name": "read"}]});
        for (dialect, body) in [(Dialect::Chat, chat), (Dialect::Messages, messages), (Dialect::Responses, responses)] {
            let ask = ask(dialect, &body);
            assert_eq!(
                (ask.text.as_str(), ask.results.join(","), ask.tools.join(",")),
                ("new msg-000042", "r1,r2".to_owned(), "read".to_owned()),
                "{dialect:?}"
            );
            assert_eq!(mark_of(&ask.text).as_deref(), Some("msg-000042"));
        }
        assert_eq!(self::ask(Dialect::Responses, &json!({"input": "hi"})).text, "hi");
        assert_eq!(mark_of("msg-42 msg-1234567x").as_deref(), Some("msg-1234567"));
    }

    #[test]
    fn the_message_steers_the_server() {
        let deed = |text: &str, results: &[&str]| {
            let mut ask = ask(Dialect::Chat, &json!({"messages": [{"role": "user", "content": text}]}));
            ask.results = results.iter().map(|&result| result.to_owned()).collect();
            plan(&ask, &Options::default(), 1).deed
        };
        let call = "please !tool read {\"path\": \"a b\"} and !tool exec {} now";
        assert_eq!(deed(call, &[]), Deed::Tool { name: "read".into(), arguments: json!({"path": "a b"}) });
        assert_eq!(deed(call, &["one"]), Deed::Tool { name: "exec".into(), arguments: json!({}) });
        assert_eq!(deed(call, &["one", "two"]), Deed::Say("tool said: one | two".into()));
        assert_eq!(deed("x !status 429", &[]), Deed::Status(429));
        assert_eq!(deed("x !say just this\nmore", &[]), Deed::Say("just this".into()));
        assert_eq!(deed("hi", &[]), Deed::Say("echo: hi".into()));
    }

    #[test]
    fn rules_answer_what_people_write() {
        let options = Options {
            rules: vec![Rule { contains: "ask bobby".into(), tool: Some("sessions_send".into()), say: Some("Bobby: {result}".into()), ..Rule::default() }],
            ..Options::default()
        };
        let mut ask = ask(Dialect::Chat, &json!({"messages": [{"role": "user", "content": "Ask Bobby to look"}]}));
        assert!(matches!(plan(&ask, &options, 1).deed, Deed::Tool { name, .. } if name == "sessions_send"));
        ask.results.push("fine".into());
        assert_eq!(plan(&ask, &options, 1).deed, Deed::Say("Bobby: fine".into()));
    }
}
