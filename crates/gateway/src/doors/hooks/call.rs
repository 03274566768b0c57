//! What a hook wants, read from its payload or from a mapping.

use ::http::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::mapping::{Scene, is_template, render};

/// Why a hook is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refusal(pub StatusCode, pub String);

impl Refusal {
    pub(super) fn bad(message: impl Into<String>) -> Self {
        Self(StatusCode::BAD_REQUEST, message.into())
    }

    /// Something this version does not do.
    pub(super) fn missing(message: impl Into<String>) -> Self {
        Self(StatusCode::NOT_IMPLEMENTED, message.into())
    }
}

/// When the agent is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum When {
    Now,
    NextHeartbeat,
}

impl When {
    /// Anything unknown is now.
    pub(super) fn read(text: Option<&str>) -> Self {
        if text == Some("next-heartbeat") { Self::NextHeartbeat } else { Self::Now }
    }

    pub(super) const fn word(self) -> &'static str {
        match self {
            Self::Now => "now",
            Self::NextHeartbeat => "next-heartbeat",
        }
    }
}

/// Who decided on a session key: only what came from outside needs permission.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Key {
    None,
    /// Written in the config.
    Configured(String),
    /// Named by the caller, or made from what the caller sent.
    Supplied(String),
}

/// A line for a session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Wake {
    pub text: String,
    pub when: When,
    pub agent: Option<String>,
    pub key: Key,
}

/// Whether one name of a session means one conversation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Mode {
    /// Every call begins afresh.
    Isolated,
    /// Calls go on where the last one ended.
    Persistent,
}

/// A turn.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Turn {
    pub message: String,
    pub name: String,
    pub agent: Option<String>,
    pub key: Key,
    pub mode: Option<Mode>,
    pub when: When,
    pub deliver: bool,
    /// `last` or a platform.
    pub channel: String,
    pub to: Option<String>,
    pub account: Option<String>,
    pub model: Option<String>,
    pub thinking: Option<String>,
    pub timeout_ms: Option<u64>,
    /// The message may hold words of strangers.
    pub guarded: bool,
    pub wait: bool,
}

fn word(value: &Value, name: &str) -> Option<String> {
    value.get(name).and_then(Value::as_str).map(str::trim).filter(|text| !text.is_empty()).map(str::to_owned)
}

fn mode(value: &Value) -> Result<Option<Mode>, Refusal> {
    match word(value, "sessionMode").as_deref() {
        None => Ok(None),
        Some("isolated") => Ok(Some(Mode::Isolated)),
        Some("persistent") => Ok(Some(Mode::Persistent)),
        Some(_) => Err(Refusal::bad("sessionMode must be isolated or persistent")),
    }
}

fn timeout_ms(value: &Value) -> Option<u64> {
    let seconds = value.get("timeoutSeconds")?.as_f64().filter(|s| *s > 0.0 && s.is_finite())?;
    u64::try_from(std::time::Duration::try_from_secs_f64(seconds).ok()?.as_millis()).ok().filter(|ms| *ms > 0)
}

/// `/hooks/wake`.
pub(super) fn wake(payload: &Value) -> Result<Wake, Refusal> {
    let text = word(payload, "text").ok_or_else(|| Refusal::bad("text required"))?;
    let key = word(payload, "sessionKey").map_or(Key::None, Key::Supplied);
    Ok(Wake { text, when: When::read(payload.get("mode").and_then(Value::as_str)), agent: word(payload, "agentId"), key })
}

/// `/hooks/agent`. `channels` are the configured platforms.
pub(super) fn turn(payload: &Value, channels: &[String]) -> Result<Turn, Refusal> {
    let message = word(payload, "message").ok_or_else(|| Refusal::bad("message required"))?;
    Ok(Turn {
        message,
        name: word(payload, "name").unwrap_or_else(|| "Hook".into()),
        agent: word(payload, "agentId"),
        key: word(payload, "sessionKey").map_or(Key::None, Key::Supplied),
        mode: mode(payload)?,
        when: When::read(payload.get("wakeMode").and_then(Value::as_str)),
        deliver: payload.get("deliver") != Some(&Value::Bool(false)),
        channel: channel(payload.get("channel"), channels)?,
        to: word(payload, "to"),
        account: word(payload, "accountId"),
        model: word(payload, "model"),
        thinking: word(payload, "thinking"),
        timeout_ms: timeout_ms(payload),
        guarded: true,
        wait: payload.get("waitForCompletion") == Some(&Value::Bool(true)),
    })
}

fn channel(value: Option<&Value>, channels: &[String]) -> Result<String, Refusal> {
    let wrong =
        || Refusal::bad(format!("channel must be {}", std::iter::once("last").chain(channels.iter().map(String::as_str)).collect::<Vec<_>>().join("|")));
    let name = match value {
        None | Some(Value::Null) => return Ok("last".into()),
        Some(value) => value.as_str().map(|text| text.trim().to_lowercase()).ok_or_else(wrong)?,
    };
    if name == "last" || channels.contains(&name) { Ok(name) } else { Err(wrong()) }
}

/// What a mapping makes of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Mapped {
    Wake(Wake),
    Turn(Box<Turn>),
}

/// Fills a mapping's templates.
pub(super) fn mapped(mapping: &Value, scene: &Scene<'_>, channels: &[String]) -> Result<Mapped, Refusal> {
    if mapping.get("transform").is_some_and(|transform| !transform.is_null()) {
        return Err(Refusal::missing(
            "hooks.mappings[].transform runs JavaScript modules, which this gateway does not do; use messageTemplate or textTemplate",
        ));
    }
    let filled = |name: &str| word(mapping, name).map(|text| render(&text, scene).trim().to_owned()).filter(|text| !text.is_empty());
    let key = match word(mapping, "sessionKey") {
        None => Key::None,
        Some(template) if is_template(&template) => Key::Supplied(render(&template, scene)),
        Some(text) => Key::Configured(text),
    };
    let when = When::read(mapping.get("wakeMode").and_then(Value::as_str));
    if word(mapping, "action").as_deref() == Some("wake") {
        let text = filled("textTemplate").ok_or_else(|| Refusal::bad("hook mapping requires text"))?;
        return Ok(Mapped::Wake(Wake { text, when, agent: word(mapping, "agentId"), key }));
    }
    Ok(Mapped::Turn(Box::new(Turn {
        message: filled("messageTemplate").ok_or_else(|| Refusal::bad("hook mapping requires message"))?,
        name: filled("name").unwrap_or_else(|| "Hook".into()),
        agent: word(mapping, "agentId"),
        key,
        mode: mode(mapping)?,
        when,
        deliver: mapping.get("deliver") != Some(&Value::Bool(false)),
        channel: channel(mapping.get("channel"), channels)?,
        to: filled("to"),
        account: None,
        model: filled("model"),
        thinking: filled("thinking"),
        timeout_ms: timeout_ms(mapping),
        guarded: mapping.get("allowUnsafeExternalContent") != Some(&Value::Bool(true)),
        wait: false,
    })))
}

#[cfg(test)]
mod tests {
    use super::{Key, When, timeout_ms, turn, wake};
    use serde_json::json;

    #[test]
    fn payloads_are_read() {
        let one = turn(&json!({"message": " hi ", "timeoutSeconds": 1.5, "sessionKey": "x", "deliver": false}), &[]).unwrap();
        assert_eq!((one.message.as_str(), one.name.as_str(), one.timeout_ms, one.deliver, one.channel.as_str()), ("hi", "Hook", Some(1_500), false, "last"));
        assert_eq!(one.key, Key::Supplied("x".into()));
        assert_eq!(timeout_ms(&json!({"timeoutSeconds": -1})), None);
        assert_eq!(wake(&json!({"text": "a", "mode": "zzz"})).unwrap().when, When::Now);
    }

    #[test]
    fn mistakes_are_named() {
        let refused = |payload, channels: &[String]| turn(&payload, channels).unwrap_err().1;
        assert_eq!(refused(json!({}), &[]), "message required");
        assert_eq!(refused(json!({"message": "x", "channel": "telegram"}), &[]), "channel must be last");
        assert_eq!(refused(json!({"message": "x", "channel": 3}), &["slack".into()]), "channel must be last|slack");
        assert_eq!(refused(json!({"message": "x", "sessionMode": "odd"}), &[]), "sessionMode must be isolated or persistent");
        assert_eq!(wake(&json!({"mode": "now"})).unwrap_err().1, "text required");
    }
}
