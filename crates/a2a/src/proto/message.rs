use base64::{Engine as _, engine::general_purpose};
use serde::{Deserialize, Deserializer, Serialize, de::Error as _};
use serde_json::Value;

use super::{Object, filled, nullable};

/// Who wrote a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Role {
    /// The client.
    #[serde(rename = "ROLE_USER")]
    User,
    /// The agent.
    #[serde(rename = "ROLE_AGENT")]
    Agent,
}

/// What a part holds: exactly one of these.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Content {
    /// Text.
    Text(String),
    /// The bytes of a file, base64.
    Raw(String),
    /// Where a file is.
    Url(String),
    /// Any JSON value, `null` included.
    Data(Value),
}

/// One piece of a message or of an artifact.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Part {
    /// What it holds.
    #[serde(flatten)]
    pub content: Content,
    /// Free data.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metadata: Option<Object>,
    /// A name for the file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub filename: Option<String>,
    /// Its media type.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub media_type: Option<String>,
}

impl Part {
    /// A part with this content and nothing else.
    #[must_use]
    pub const fn new(content: Content) -> Self {
        Self { content, metadata: None, filename: None, media_type: None }
    }

    /// A text.
    pub fn text(text: impl Into<String>) -> Self {
        Self::new(Content::Text(text.into()))
    }

    /// A JSON value.
    #[must_use]
    pub const fn data(value: Value) -> Self {
        Self::new(Content::Data(value))
    }

    /// A file by its bytes.
    pub fn file(bytes: &[u8], filename: impl Into<String>, media_type: impl Into<String>) -> Self {
        let raw = general_purpose::STANDARD.encode(bytes);
        Self { filename: Some(filename.into()), media_type: Some(media_type.into()), ..Self::new(Content::Raw(raw)) }
    }

    /// A file by its address.
    pub fn link(url: impl Into<String>, filename: impl Into<String>, media_type: impl Into<String>) -> Self {
        Self { filename: Some(filename.into()), media_type: Some(media_type.into()), ..Self::new(Content::Url(url.into())) }
    }

    /// The text, if it is one.
    #[must_use]
    pub fn as_text(&self) -> Option<&str> {
        match &self.content {
            Content::Text(text) => Some(text),
            _ => None,
        }
    }

    /// The media type, stated or meant: `text/plain` for texts, `application/json` for values.
    #[must_use]
    pub fn kind(&self) -> Option<&str> {
        self.media_type.as_deref().or(match self.content {
            Content::Text(_) => Some("text/plain"),
            Content::Data(_) => Some("application/json"),
            Content::Raw(_) | Content::Url(_) => None,
        })
    }

    /// True for a text without name, type and metadata: two of them in a row are one text.
    #[must_use]
    pub const fn is_plain_text(&self) -> bool {
        matches!(self.content, Content::Text(_)) && self.metadata.is_none() && self.filename.is_none() && self.media_type.is_none()
    }
}

/// The bytes of base64 as ProtoJSON allows it: standard or URL alphabet, with or without padding.
pub(crate) fn bytes_of(raw: &str) -> Option<Vec<u8>> {
    let trimmed = raw.trim_end_matches('=');
    general_purpose::STANDARD_NO_PAD.decode(trimmed).or_else(|_| general_purpose::URL_SAFE_NO_PAD.decode(trimmed)).ok()
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[derive(Default)]
struct RawPart {
    text: Option<String>,
    raw: Option<String>,
    url: Option<String>,
    #[serde(deserialize_with = "present")]
    data: Option<Value>,
    metadata: Option<Object>,
    #[serde(deserialize_with = "filled")]
    filename: Option<String>,
    #[serde(deserialize_with = "filled")]
    media_type: Option<String>,
}

/// A value that is there, `null` too.
fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Value>, D::Error> {
    Value::deserialize(deserializer).map(Some)
}

impl<'de> Deserialize<'de> for Part {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let found = RawPart::deserialize(deserializer)?;
        let others = [found.text.is_some(), found.raw.is_some(), found.url.is_some()].iter().filter(|set| **set).count();
        // A null beside another content is "not set"; alone it is the value null.
        let data = found.data.filter(|value| others == 0 || !value.is_null());
        let content = match (found.text, found.raw, found.url, data) {
            (Some(text), None, None, None) => Content::Text(text),
            (None, Some(raw), None, None) if bytes_of(&raw).is_some() => Content::Raw(raw),
            (None, Some(_), None, None) => return Err(D::Error::custom("raw is not base64")),
            (None, None, Some(url), None) => Content::Url(url),
            (None, None, None, Some(value)) => Content::Data(value),
            (None, None, None, None) => return Err(D::Error::custom("a part needs one of text, raw, url and data")),
            _ => return Err(D::Error::custom("a part has only one of text, raw, url and data")),
        };
        Ok(Self { content, metadata: found.metadata, filename: found.filename, media_type: found.media_type })
    }
}

/// One message between client and agent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Message {
    /// Its id, made by the writer.
    pub message_id: String,
    /// The conversation.
    #[serde(default, deserialize_with = "filled", skip_serializing_if = "Option::is_none")]
    pub context_id: Option<String>,
    /// The task it continues.
    #[serde(default, deserialize_with = "filled", skip_serializing_if = "Option::is_none")]
    pub task_id: Option<String>,
    /// Who wrote it.
    pub role: Role,
    /// What it says; at least one.
    pub parts: Vec<Part>,
    /// Free data.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metadata: Option<Object>,
    /// Extensions it uses.
    #[serde(default, deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub extensions: Vec<String>,
    /// Tasks it refers to.
    #[serde(default, deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub reference_task_ids: Vec<String>,
}

impl Message {
    /// A message with parts and no references.
    pub fn new(id: impl Into<String>, role: Role, parts: Vec<Part>) -> Self {
        Self { message_id: id.into(), context_id: None, task_id: None, role, parts, metadata: None, extensions: Vec::new(), reference_task_ids: Vec::new() }
    }

    /// Its text parts, one per line.
    #[must_use]
    pub fn text(&self) -> String {
        texts(&self.parts)
    }
}

/// An output of a task.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Artifact {
    /// Unique within the task.
    pub artifact_id: String,
    /// A name for people.
    #[serde(default, deserialize_with = "filled", skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// What it is.
    #[serde(default, deserialize_with = "filled", skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// What it holds; at least one.
    pub parts: Vec<Part>,
    /// Free data.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metadata: Option<Object>,
    /// Extensions it uses.
    #[serde(default, deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub extensions: Vec<String>,
}

impl Artifact {
    /// An artifact with parts and nothing else.
    pub fn new(id: impl Into<String>, parts: Vec<Part>) -> Self {
        Self { artifact_id: id.into(), name: None, description: None, parts, metadata: None, extensions: Vec::new() }
    }

    /// Its text parts, one per line.
    #[must_use]
    pub fn text(&self) -> String {
        texts(&self.parts)
    }

    /// Takes more content; texts that follow each other become one.
    pub fn append(&mut self, more: &[Part]) {
        for part in more {
            match self.parts.last_mut() {
                Some(last) if last.is_plain_text() && part.is_plain_text() => {
                    if let (Content::Text(text), Content::Text(tail)) = (&mut last.content, &part.content) {
                        text.push_str(tail);
                    }
                }
                _ => self.parts.push(part.clone()),
            }
        }
    }
}

fn texts(parts: &[Part]) -> String {
    parts.iter().filter_map(Part::as_text).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::{Artifact, Content, Message, Part};

    #[test]
    fn a_part_holds_exactly_one_content() {
        let part: Part = serde_json::from_value(json!({"text": "x", "filename": "", "surprise": 1})).unwrap();
        assert_eq!(serde_json::to_value(&part).unwrap(), json!({"text": "x"}));
        let null: Part = serde_json::from_value(json!({"data": null})).unwrap();
        assert_eq!(null.content, Content::Data(Value::Null));
        for wrong in [json!({}), json!({"text": "x", "url": "y"}), json!({"raw": "!!"}), json!({"text": 5})] {
            assert!(serde_json::from_value::<Part>(wrong.clone()).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_message_needs_what_the_protocol_requires() {
        let whole = json!({"messageId": "m", "role": "ROLE_USER", "parts": [{"text": "x"}], "taskId": null, "contextId": ""});
        let message: Message = serde_json::from_value(whole.clone()).unwrap();
        assert!(message.task_id.is_none() && message.context_id.is_none());
        for missing in ["messageId", "role", "parts"] {
            let mut cut = whole.clone();
            cut.as_object_mut().unwrap().remove(missing);
            assert!(serde_json::from_value::<Message>(cut).unwrap_err().to_string().contains(missing));
        }
    }

    #[test]
    fn texts_that_follow_each_other_become_one() {
        let mut artifact = Artifact::new("a", vec![Part::text("one ")]);
        artifact.append(&[Part::text("two"), Part::data(json!(1)), Part::text("three")]);
        assert_eq!(artifact.parts, vec![Part::text("one two"), Part::data(json!(1)), Part::text("three")]);
    }
}
