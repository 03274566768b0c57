//! Simple letters: what people and scripts put into an inbox by hand, unsigned.
//!
//! ```text
//! consul kv put openclaw/agents/bobby/inbox/msg-001 '{"from":"jerry","body":"Check Nomad status"}'
//! ```
//!
//! The published texts show several spellings (`{from, body, timestamp}`, `{to, body}`, `from_agent`, `message_body`);
//! all are read. Whether such a letter is taken at all is the gateway's decision (`farm.acceptUnsigned`); nothing in it
//! is proven, least of all who wrote it. This is pure: text in, letter or reason out.

mod work;

use clawstead_terms::{AgentId, Millis};
use serde_json::{Map, Value};

pub use work::{UNSIGNED, UNSIGNED_CONTENT_TYPE, agent_letter, allowed, dedupe_key, row_envelope};

/// Bytes of the stored value.
pub const LETTER_BYTES_MAX: usize = 64 * 1024;

/// Bytes of the last part of the key.
pub const NAME_BYTES_MAX: usize = 128;

/// How far in the future a letter may be written.
pub const SKEW_MS_MAX: i64 = 5 * 60 * 1000;

/// How old a letter with a time may be.
pub const AGE_MS_MAX: i64 = 24 * 60 * 60 * 1000;

/// Levels of arrays and objects in a body.
pub const DEPTH_MAX: usize = 32;

/// A simple letter.
#[derive(Clone, Debug, PartialEq)]
pub struct SimpleLetter {
    /// The last part of the key (`msg-001`): the same name in the same inbox is the same letter.
    pub name: String,
    /// The inbox it lay in.
    pub to: AgentId,
    /// Who it says it is from. Not proven.
    pub from: AgentId,
    /// What is said: text, or whatever JSON it is.
    pub body: Value,
    /// When it says it was written; `None` when it does not say.
    pub at: Option<Millis>,
    /// Fields we have no meaning for; shown to the agent, never acted on.
    pub extra: Map<String, Value>,
}

/// Why a value in an inbox is no simple letter.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// The key is no inbox key.
    #[error("the key {0:?} is no openclaw/agents/<id>/inbox/<name>")]
    Key(String),
    /// It is an envelope of the farm: it has a signature and goes another way.
    #[error("it is a farm envelope (it has schema_version): those must be signed")]
    Envelope,
    /// Too large.
    #[error("it has {0} bytes; {LETTER_BYTES_MAX} at most")]
    TooLarge(usize),
    /// Not JSON.
    #[error("it is no JSON object: {0}")]
    NotAnObject(String),
    /// A field that must be there.
    #[error("it has no \"{0}\"")]
    Missing(&'static str),
    /// A field that is there twice, in two spellings, with different values.
    #[error("\"{0}\" and \"{1}\" say different things")]
    Contradiction(&'static str, &'static str),
    /// A field that says something impossible.
    #[error("\"{field}\": {why}")]
    Field {
        /// The field.
        field: &'static str,
        /// What is wrong.
        why: String,
    },
    /// It says it is for another agent than the inbox it lies in.
    #[error("it is for \"{says}\" and lies in the inbox of \"{inbox}\"")]
    WrongInbox {
        /// What it says.
        says: String,
        /// Where it lies.
        inbox: AgentId,
    },
    /// Written too far in the future.
    #[error("its timestamp is {0} ms in the future; check the clock of whoever wrote it")]
    Future(i64),
    /// Written too long ago.
    #[error("it is {0} ms old; letters live for a day at most")]
    Old(i64),
}

/// Agent and name of an inbox key, with or without the leading slash of the published examples.
///
/// # Errors
/// [`Refusal::Key`].
pub fn inbox_key(key: &str) -> Result<(AgentId, String), Refusal> {
    let refuse = || Refusal::Key(key.chars().take(200).collect());
    let parts: Vec<&str> = key.strip_prefix('/').unwrap_or(key).split('/').collect();
    let ["openclaw", "agents", id, "inbox", name] = parts.as_slice() else { return Err(refuse()) };
    let named = (1..=NAME_BYTES_MAX).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-' | b':'));
    match AgentId::parse(id) {
        Ok(agent) if named => Ok((agent, (*name).to_owned())),
        _ => Err(refuse()),
    }
}

/// Reads a simple letter out of an inbox.
///
/// # Errors
/// As [`Refusal`] lists.
pub fn parse(key: &str, value: &[u8], now: Millis) -> Result<SimpleLetter, Refusal> {
    let (to, name) = inbox_key(key)?;
    if value.len() > LETTER_BYTES_MAX {
        return Err(Refusal::TooLarge(value.len()));
    }
    let mut fields = match serde_json::from_slice(value) {
        Ok(Value::Object(fields)) => fields,
        Ok(other) => return Err(Refusal::NotAnObject(format!("it is {}", kind(&other)))),
        Err(err) => return Err(Refusal::NotAnObject(err.to_string())),
    };
    if fields.contains_key("schema_version") || fields.contains_key("sig") {
        return Err(Refusal::Envelope);
    }
    let from = agent("from", take(&mut fields, "from", "from_agent")?.ok_or(Refusal::Missing("from"))?)?;
    if let Some(says) = take(&mut fields, "to", "to_agent")? {
        let says = says.as_str().unwrap_or_default().to_owned();
        if AgentId::normalise(&says) != to || says.is_empty() {
            return Err(Refusal::WrongInbox { says: says.chars().take(100).collect(), inbox: to });
        }
    }
    let body = take(&mut fields, "body", "message_body")?.ok_or(Refusal::Missing("body"))?;
    match &body {
        Value::Null => return Err(Refusal::Missing("body")),
        Value::String(text) if text.trim().is_empty() => return Err(Refusal::Field { field: "body", why: "it is empty".into() }),
        body if depth(body) > DEPTH_MAX => return Err(Refusal::Field { field: "body", why: format!("it is nested deeper than {DEPTH_MAX}") }),
        _ => {}
    }
    let at = fields.shift_remove("timestamp").map(|value| time(&value)).transpose()?;
    if let Some(at) = at {
        match now.since(at) {
            ahead if ahead < -SKEW_MS_MAX => return Err(Refusal::Future(-ahead)),
            age if age > AGE_MS_MAX => return Err(Refusal::Old(age)),
            _ => {}
        }
    }
    Ok(SimpleLetter { name, to, from, body, at, extra: fields })
}

/// A field in one of two spellings.
fn take(fields: &mut Map<String, Value>, name: &'static str, other: &'static str) -> Result<Option<Value>, Refusal> {
    match (fields.shift_remove(name), fields.shift_remove(other)) {
        (Some(a), Some(b)) if a != b => Err(Refusal::Contradiction(name, other)),
        (a, b) => Ok(a.or(b)),
    }
}

fn agent(field: &'static str, value: Value) -> Result<AgentId, Refusal> {
    let Value::String(text) = value else { return Err(Refusal::Field { field, why: "it is no text".into() }) };
    AgentId::parse(&text.to_lowercase()).map_err(|err| Refusal::Field { field, why: err.to_string() })
}

/// RFC 3339, or seconds or milliseconds since 1970 as scripts write them (`date +%s`).
fn time(value: &Value) -> Result<Millis, Refusal> {
    let bad = |why: &str| Refusal::Field { field: "timestamp", why: why.to_owned() };
    match value {
        Value::String(text) => {
            text.parse::<jiff::Timestamp>().ok().map(|at| Millis(at.as_millisecond())).ok_or_else(|| bad("it is no RFC 3339 time (2026-02-16T12:00:00Z)"))
        }
        Value::Number(number) => match number.as_i64() {
            Some(ms) if ms >= 100_000_000_000 => Ok(Millis(ms)),
            Some(s) if s >= 0 => Ok(Millis(s * 1_000)),
            _ => Err(bad("it is no time")),
        },
        _ => Err(bad("it is no time")),
    }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

fn depth(value: &Value) -> usize {
    match value {
        Value::Array(items) => 1 + items.iter().map(depth).max().unwrap_or(0),
        Value::Object(fields) => 1 + fields.values().map(depth).max().unwrap_or(0),
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const KEY: &str = "openclaw/agents/bobby/inbox/msg-001";
    const NOW: Millis = Millis(1_771_243_260_000);

    fn read(value: &Value) -> Result<SimpleLetter, Refusal> {
        parse(KEY, value.to_string().as_bytes(), NOW)
    }

    #[test]
    fn every_published_spelling_is_read() {
        let want = |at| SimpleLetter {
            name: "msg-001".into(),
            to: AgentId::parse("bobby").unwrap(),
            from: AgentId::parse("jerry").unwrap(),
            body: json!("Check Nomad status"),
            at,
            extra: Map::new(),
        };
        let at = Some(Millis(1_771_243_200_000));
        for (value, at) in [
            (json!({"from": "jerry", "body": "Check Nomad status"}), None),
            (json!({"from": "jerry", "to": "bobby", "body": "Check Nomad status", "timestamp": "2026-02-16T12:00:00.000Z"}), at),
            (json!({"from_agent": "jerry", "to_agent": "bobby", "message_body": "Check Nomad status", "timestamp": 1_771_243_200}), at),
            (json!({"from": "Jerry", "to": "Bobby", "body": "Check Nomad status", "timestamp": 1_771_243_200_000_i64}), at),
            (json!({"from": "jerry", "from_agent": "jerry", "body": "Check Nomad status"}), None),
        ] {
            assert_eq!(read(&value), Ok(want(at)), "{value}");
        }
        assert_eq!(parse(&format!("/{KEY}"), br#"{"from":"jerry","body":"Check Nomad status"}"#, NOW), Ok(want(None)));
        let more = read(&json!({"from": "jerry", "body": {"job": 7}, "priority": "high"})).unwrap();
        assert_eq!((more.body, more.extra.get("priority")), (json!({"job": 7}), Some(&json!("high"))));
    }

    #[test]
    fn everything_else_is_refused_with_its_reason() {
        let mut deep = json!(1);
        for _ in 0..40 {
            deep = json!([deep]);
        }
        for (value, part) in [
            (json!("hello"), "a text"),
            (json!([]), "a list"),
            (json!({"body": "x"}), "no \"from\""),
            (json!({"from": "jerry"}), "no \"body\""),
            (json!({"from": "jerry", "body": null}), "no \"body\""),
            (json!({"from": "jerry", "body": " "}), "empty"),
            (json!({"from": 7, "body": "x"}), "no text"),
            (json!({"from": "../x", "body": "x"}), "agent id"),
            (json!({"from": "a", "from_agent": "b", "body": "x"}), "different"),
            (json!({"from": "jerry", "to": "billy", "body": "x"}), "inbox of \"bobby\""),
            (json!({"from": "jerry", "to": "", "body": "x"}), "inbox of"),
            (json!({"from": "jerry", "body": "x", "timestamp": "yesterday"}), "RFC 3339"),
            (json!({"from": "jerry", "body": "x", "timestamp": -1}), "no time"),
            (json!({"from": "jerry", "body": "x", "timestamp": "2026-02-16T13:00:00Z"}), "future"),
            (json!({"from": "jerry", "body": "x", "timestamp": "2026-02-14T12:00:00Z"}), "old"),
            (json!({"from": "jerry", "body": deep}), "nested"),
            (json!({"schema_version": "1.0", "from": "jerry", "body": "x"}), "envelope"),
        ] {
            let refusal = read(&value).unwrap_err();
            assert!(refusal.to_string().contains(part), "{value}: {refusal}");
        }
        assert!(matches!(parse(KEY, b"{not json", NOW), Err(Refusal::NotAnObject(_))));
        assert!(matches!(parse(KEY, &vec![b' '; LETTER_BYTES_MAX + 1], NOW), Err(Refusal::TooLarge(_))));
        let nested = format!("{}{}", "[".repeat(10_000), "]".repeat(10_000));
        assert!(parse(KEY, nested.as_bytes(), NOW).is_err());
        for key in [
            "",
            "openclaw/agents/bobby/inbox/",
            "openclaw/agents/Bobby/inbox/x",
            "openclaw/agents/bobby/outbox/x",
            "openclaw/agents/bobby/inbox/a/b",
            "openclaw/agents/bobby/inbox/a b",
        ] {
            assert!(matches!(parse(key, b"{}", NOW), Err(Refusal::Key(_))), "{key:?}");
        }
    }
}
