//! Frames: one JSON object per WebSocket message.

use std::sync::OnceLock;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json, value::RawValue};

use crate::{check::check, error::ErrorShape};

/// A request from a client.
#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    /// Chosen by the client, echoed in every response to it.
    pub id: String,
    /// The method.
    pub method: String,
    /// Its parameters; `{}` when the client sent none.
    pub params: Value,
    /// W3C trace context.
    pub traceparent: Option<String>,
    /// The profile the client believes to act for.
    pub expected_profile_id: Option<String>,
}

/// Why a message from a client is not a request.
#[derive(Clone, Debug, PartialEq)]
pub enum FrameFault {
    /// It is not JSON.
    NotJson,
    /// It is JSON, but not a request.
    NotRequest {
        /// The id to answer with: what the message had, or `"invalid"`.
        id: Value,
        /// `must have required property 'method'` and the like.
        detail: String,
    },
}

fn request_schema() -> &'static Value {
    static SCHEMA: OnceLock<Value> = OnceLock::new();
    SCHEMA.get_or_init(|| {
        json!({
            "type": "object",
            "additionalProperties": false,
            "required": ["type", "id", "method"],
            "properties": {
                "type": { "const": "req" },
                "id": { "type": "string", "minLength": 1 },
                "method": { "type": "string", "minLength": 1 },
                "params": true,
                "traceparent": { "type": "string", "maxLength": 128 },
                "expectedProfileId": { "type": "string", "minLength": 1, "maxLength": 128 },
            }
        })
    })
}

impl Request {
    /// Reads a message from a client.
    ///
    /// # Errors
    /// As [`FrameFault`] says.
    pub fn parse(bytes: &[u8]) -> Result<Self, FrameFault> {
        let value: Value = serde_json::from_slice(bytes).map_err(|_| FrameFault::NotJson)?;
        if let Err(detail) = check(request_schema(), &value) {
            let id = value.get("id").filter(|id| !id.is_null()).cloned().unwrap_or_else(|| "invalid".into());
            return Err(FrameFault::NotRequest { id, detail });
        }
        let Value::Object(mut fields) = value else { return Err(FrameFault::NotJson) };
        let mut text = |name: &str| match fields.swap_remove(name) {
            Some(Value::String(text)) => Some(text),
            _ => None,
        };
        let (id, method) = (text("id").unwrap_or_default(), text("method").unwrap_or_default());
        let (traceparent, expected_profile_id) = (text("traceparent"), text("expectedProfileId"));
        let params = fields.swap_remove("params").filter(|params| !params.is_null()).unwrap_or_else(|| json!({}));
        Ok(Self { id, method, params, traceparent, expected_profile_id })
    }
}

/// A request as a client writes it.
#[derive(Serialize)]
pub struct RequestFrame<'a, P: Serialize> {
    /// Always `req`.
    r#type: &'static str,
    /// The id.
    id: &'a str,
    /// The method.
    method: &'a str,
    /// The parameters.
    params: &'a P,
}

impl<'a, P: Serialize> RequestFrame<'a, P> {
    /// A request.
    pub const fn new(id: &'a str, method: &'a str, params: &'a P) -> Self {
        Self { r#type: "req", id, method, params }
    }
}

#[derive(Serialize)]
struct OkFrame<'a> {
    r#type: &'static str,
    id: &'a Value,
    ok: bool,
    payload: &'a RawValue,
}

#[derive(Serialize)]
struct ErrFrame<'a> {
    r#type: &'static str,
    id: &'a Value,
    ok: bool,
    error: &'a ErrorShape,
}

/// The text of a response.
#[must_use]
pub fn response_text(id: &Value, outcome: Result<&RawValue, &ErrorShape>) -> String {
    let text = match outcome {
        Ok(payload) => serde_json::to_string(&OkFrame { r#type: "res", id, ok: true, payload }),
        Err(error) => serde_json::to_string(&ErrFrame { r#type: "res", id, ok: false, error }),
    };
    // Strings, raw JSON and values always have a JSON form.
    text.unwrap_or_default()
}

/// Versions that `presence` and `health` events carry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StateVersion {
    /// Grows with every change of presence.
    pub presence: u64,
    /// Grows with every health report.
    pub health: u64,
}

/// An event, serialised once and shared between connections: each adds only its own sequence number.
#[derive(Clone, Debug)]
pub struct EventText {
    /// Everything up to the payload, without the closing brace.
    head: String,
    /// What follows `seq`.
    tail: String,
}

impl EventText {
    /// Serialises an event. A payload that has no JSON form (maps with keys that are not text) becomes `null`.
    #[must_use]
    pub fn new<P: Serialize + ?Sized>(event: &str, payload: &P, state_version: Option<StateVersion>) -> Self {
        let name = serde_json::to_string(event).unwrap_or_default();
        let payload = serde_json::to_string(payload).unwrap_or_else(|_| "null".into());
        let head = format!("{{\"type\":\"event\",\"event\":{name},\"payload\":{payload}");
        let tail = state_version.map_or_else(String::new, |v| format!(",\"stateVersion\":{{\"presence\":{},\"health\":{}}}", v.presence, v.health));
        Self { head, tail }
    }

    /// The frame for one connection; `seq` is absent on frames that are not broadcast.
    #[must_use]
    pub fn frame(&self, seq: Option<u64>) -> String {
        use std::fmt::Write as _;
        let mut text = String::with_capacity(self.head.len() + self.tail.len() + 28);
        text.push_str(&self.head);
        if let Some(seq) = seq {
            let _ = write!(text, ",\"seq\":{seq}");
        }
        text.push_str(&self.tail);
        text.push('}');
        text
    }

    /// Name and payload, for somebody who passes the event on.
    #[must_use]
    pub fn parts(&self) -> Option<(String, Value)> {
        let Value::Object(mut frame) = serde_json::from_str(&format!("{}}}", self.head)).ok()? else { return None };
        let Some(Value::String(name)) = frame.remove("event") else { return None };
        Some((name, frame.remove("payload")?))
    }

    /// About how many bytes a frame takes.
    #[must_use]
    pub fn size(&self) -> usize {
        self.head.len() + self.tail.len() + 24
    }
}

/// A frame from the gateway.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
pub enum ServerFrame {
    /// The answer to a request.
    Res(Response),
    /// Something happened.
    Event(Event),
}

/// The answer to a request.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Response {
    /// The request's id.
    pub id: Value,
    /// Whether it worked.
    pub ok: bool,
    /// The result; may be `null`.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "present")]
    pub payload: Option<Value>,
    /// Why it did not work.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<ErrorShape>,
}

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// Its name.
    pub event: String,
    /// Its facts.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "present")]
    pub payload: Option<Value>,
    /// Counts the events of this connection from 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seq: Option<u64>,
    /// Versions of presence and health.
    #[serde(default, rename = "stateVersion", skip_serializing_if = "Option::is_none")]
    pub state_version: Option<StateVersion>,
    /// The profile this copy is for.
    #[serde(default, rename = "recipientProfileId", skip_serializing_if = "Option::is_none")]
    pub recipient_profile_id: Option<String>,
}

/// Keeps `"payload": null` apart from no payload.
fn present<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Option<Value>, D::Error> {
    Value::deserialize(from).map(Some)
}

#[cfg(test)]
mod tests {
    use super::{EventText, FrameFault, Request, ServerFrame, StateVersion, response_text};
    use crate::error::ErrorShape;
    use serde_json::{Value, json};

    #[test]
    fn faults_of_frames_read_as_recorded() {
        for (text, id, detail) in [
            (r#"{"type":"req","id":"x1"}"#, json!("x1"), "must have required property 'method'"),
            (r#"{"type":"req","id":5,"method":"health"}"#, json!(5), "at /id: must be string"),
            (
                r#"{"type":"event","event":"x"}"#,
                json!("invalid"),
                "must have required property 'id'; at root: unexpected property 'event'; at /type: must be equal to constant",
            ),
        ] {
            assert_eq!(Request::parse(text.as_bytes()), Err(FrameFault::NotRequest { id, detail: detail.into() }), "{text}");
        }
        assert_eq!(Request::parse(b"not json"), Err(FrameFault::NotJson));
        assert_eq!(Request::parse(br#"{"type":"req","id":"1","method":"health"}"#).unwrap().params, json!({}));
    }

    #[test]
    fn an_event_is_written_once_and_numbered_for_each() {
        let event = EventText::new("presence", &json!({"a": 1}), Some(StateVersion { presence: 2, health: 3 }));
        assert_eq!(event.frame(Some(7)), r#"{"type":"event","event":"presence","payload":{"a":1},"seq":7,"stateVersion":{"presence":2,"health":3}}"#);
        let back: ServerFrame = serde_json::from_str(&event.frame(None)).unwrap();
        assert!(matches!(back, ServerFrame::Event(e) if e.seq.is_none() && e.state_version.is_some()));
    }

    #[test]
    fn responses_echo_the_id() {
        let text = response_text(&json!(5), Err(&ErrorShape::invalid("no")));
        assert_eq!(text, r#"{"type":"res","id":5,"ok":false,"error":{"code":"INVALID_REQUEST","message":"no"}}"#);
        let null = serde_json::value::to_raw_value(&Value::Null).unwrap();
        let back: ServerFrame = serde_json::from_str(&response_text(&json!("a"), Ok(&null))).unwrap();
        assert!(matches!(back, ServerFrame::Res(r) if r.payload == Some(Value::Null)));
    }
}
