//! How events, tasks and values look in the stores: the published forms, read leniently, written exactly.

use clawstead_terms::{AgentId, Millis};
use serde_json::{Map, Value, json};

/// Something that happened, for everybody to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// When; `None` for hand-written text without a time.
    pub at: Option<Millis>,
    /// Whose event; `None` where the text does not say.
    pub agent: Option<AgentId>,
    /// What, at most [`super::EVENT_BYTES_MAX`].
    pub event: String,
    /// Unique; a repeated write is recognised by it. Not part of the Redis form.
    pub id: Option<String>,
}

/// Something to be done by whoever takes it.
#[derive(Clone, Debug, PartialEq)]
pub struct Task {
    /// Unique in the queue; orders it in Consul (`UUIDv7`).
    pub id: String,
    /// What to do: text or an object.
    pub task: Value,
    /// Who put it there; `None` for hand-written ones.
    pub by: Option<String>,
    /// When; `None` for hand-written ones.
    pub at: Option<Millis>,
}

/// A moment as RFC 3339 in UTC with milliseconds: `2026-02-16T12:00:00.000Z`.
#[must_use]
pub fn rfc3339(at: Millis) -> String {
    jiff::Timestamp::from_millisecond(at.0).map_or_else(|_| "1970-01-01T00:00:00.000Z".into(), |t| format!("{t:.3}"))
}

/// Reads RFC 3339 with any offset and precision.
#[must_use]
pub fn moment(text: &str) -> Option<Millis> {
    text.parse::<jiff::Timestamp>().ok().map(|t| Millis(t.as_millisecond()))
}

/// Bytes as JSON, or as a JSON string when they are none: people put plain text there.
#[must_use]
pub fn lenient(bytes: &[u8]) -> Value {
    serde_json::from_slice(bytes).unwrap_or_else(|_| Value::String(String::from_utf8_lossy(bytes).into_owned()))
}

/// True for the wrapping of [`wrap`].
#[must_use]
pub fn is_wrapped(value: &Value) -> bool {
    value.as_object().is_some_and(|map| map.len() == 2 && map.contains_key("$value") && map.contains_key("$expires"))
}

/// A value with the moment it ends, for stores without one of their own.
#[must_use]
pub fn wrap(value: &Value, expires: Option<Millis>) -> Value {
    match expires {
        None => value.clone(),
        Some(at) => json!({ "$value": value, "$expires": rfc3339(at) }),
    }
}

/// The other way. A wrapping whose time cannot be read is a value like any other.
#[must_use]
pub fn unwrap(value: Value) -> (Value, Option<Millis>) {
    if is_wrapped(&value)
        && let Value::Object(mut map) = value
    {
        let at = map.get("$expires").and_then(Value::as_str).and_then(moment);
        return match (at, map.get_mut("$value").map(Value::take)) {
            (Some(at), Some(inner)) => (inner, Some(at)),
            (_, inner) => {
                if let (Some(inner), Some(place)) = (inner, map.get_mut("$value")) {
                    *place = inner;
                }
                (Value::Object(map), None)
            }
        };
    }
    (value, None)
}

impl Event {
    /// The form of the published Consul schema: `{timestamp, agent, event}` (and our `id`).
    #[must_use]
    pub fn to_json(&self) -> Value {
        let mut map = Map::new();
        if let Some(at) = self.at {
            map.insert("timestamp".into(), rfc3339(at).into());
        }
        if let Some(agent) = &self.agent {
            map.insert("agent".into(), agent.as_str().into());
        }
        map.insert("event".into(), self.event.clone().into());
        if let Some(id) = &self.id {
            map.insert("id".into(), id.clone().into());
        }
        Value::Object(map)
    }

    /// Reads that form, or a text of the Redis form.
    #[must_use]
    pub fn from_json(value: &Value) -> Self {
        let text = |name: &str| value.get(name).and_then(Value::as_str);
        match value {
            Value::String(line) => Self::from_line(line),
            Value::Object(_) if text("event").is_some() => Self {
                at: text("timestamp").and_then(moment),
                agent: text("agent").and_then(|id| AgentId::parse(id).ok()),
                event: text("event").unwrap_or_default().to_owned(),
                id: text("id").map(str::to_owned),
            },
            other => Self { at: None, agent: None, event: other.to_string(), id: None },
        }
    }

    /// The form of the published Redis schema: `<timestamp>: <agent>: <event>`.
    #[must_use]
    pub fn to_line(&self) -> String {
        let mut line = String::new();
        for part in [self.at.map(rfc3339), self.agent.as_ref().map(ToString::to_string)].into_iter().flatten() {
            line.push_str(&part);
            line.push_str(": ");
        }
        line.push_str(&self.event);
        line
    }

    /// Reads that form; parts that are not there stay `None`.
    #[must_use]
    pub fn from_line(line: &str) -> Self {
        let (at, rest) = match line.split_once(": ").map(|(head, rest)| (moment(head), rest)) {
            Some((Some(at), rest)) => (Some(at), rest),
            _ => (None, line),
        };
        let named = rest.split_once(": ").filter(|_| at.is_some()).and_then(|(head, rest)| Some((AgentId::parse(head).ok()?, rest)));
        let (agent, event) = named.map_or((None, rest), |(agent, rest)| (Some(agent), rest));
        Self { at, agent, event: event.to_owned(), id: None }
    }
}

impl Task {
    /// As it is stored: `{id, task, by, at}`.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let mut map = Map::new();
        map.insert("id".into(), self.id.clone().into());
        map.insert("task".into(), self.task.clone());
        if let Some(by) = &self.by {
            map.insert("by".into(), by.clone().into());
        }
        if let Some(at) = self.at {
            map.insert("at".into(), rfc3339(at).into());
        }
        Value::Object(map)
    }

    /// Reads that form; anything else is a hand-written task with the id given (`backup-consul`).
    #[must_use]
    pub fn from_bytes(bytes: &[u8], id: &str) -> Self {
        let value = lenient(bytes);
        let text = |name: &str| value.get(name).and_then(Value::as_str).map(str::to_owned);
        match (text("id"), value.get("task")) {
            (Some(own), Some(task)) => {
                let task = task.clone();
                Self { id: own, task, by: text("by"), at: text("at").as_deref().and_then(moment) }
            }
            _ => Self { id: id.to_owned(), task: value, by: None, at: None },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_of_both_published_forms_are_read_and_written() {
        let published = Event::from_line("2026-02-16T12:00:00Z: Bobby reported Nomad alert");
        assert_eq!((published.at, published.agent.clone()), (Some(Millis(1_771_243_200_000)), None));
        assert_eq!(published.event, "Bobby reported Nomad alert");
        let kv = Event::from_json(&json!({"timestamp": "2026-02-16T12:00:00Z", "agent": "bobby", "event": "nomad-alert-cleared"}));
        assert_eq!(kv.to_line(), "2026-02-16T12:00:00.000Z: bobby: nomad-alert-cleared");
        assert_eq!(Event::from_line(&kv.to_line()), kv);
        assert_eq!(Event::from_json(&kv.to_json()), kv);
        assert_eq!(Event::from_line("note: no time here").event, "note: no time here");
        assert_eq!(Event::from_json(&json!(7)).event, "7");
    }

    #[test]
    fn tasks_written_by_hand_are_tasks() {
        let hand = Task::from_bytes(b"backup-consul", "k1");
        assert_eq!((hand.id.as_str(), hand.task), ("k1", json!("backup-consul")));
        let ours = Task { id: "t".into(), task: json!({"job": "x"}), by: Some("billy".into()), at: Some(Millis(1_000)) };
        assert_eq!(Task::from_bytes(ours.to_json().to_string().as_bytes(), "k2"), ours);
        assert_eq!(Task::from_bytes(br#"{"to":"x"}"#, "k3").task, json!({"to": "x"}));
    }

    #[test]
    fn a_time_is_wrapped_and_unwrapped() {
        for value in [json!(null), json!("x"), json!({"$value": 1}), json!([1, 2])] {
            assert_eq!(unwrap(wrap(&value, Some(Millis(5_000)))), (value.clone(), Some(Millis(5_000))));
            assert_eq!(unwrap(wrap(&value, None)), (value, None));
        }
        let odd = json!({"$value": 1, "$expires": "soon"});
        assert_eq!(unwrap(odd.clone()), (odd, None));
    }
}
