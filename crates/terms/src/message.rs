use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{MessageId, Millis, RunId};

/// Who speaks in a transcript.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// The human, a channel, a cron job or another agent.
    User,
    /// The model.
    Assistant,
    /// Results of tool calls.
    Tool,
    /// Notes of the gateway (resets, compaction summaries); sent to the model as user context.
    System,
}

/// A piece of a message.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "camelCase")]
pub enum Part {
    /// Plain text.
    Text {
        /// The text.
        text: String,
    },
    /// The model's reasoning.
    Thinking {
        /// The reasoning text, may be empty when the provider hides it.
        text: String,
        /// The provider's signature or opaque payload, needed to send it back.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        signature: Option<String>,
    },
    /// A picture.
    #[serde(rename_all = "camelCase")]
    Image {
        /// `image/png` and the like.
        mime_type: String,
        /// Base64, standard alphabet.
        data: String,
    },
    /// Any other file that came with a message, by reference.
    #[serde(rename_all = "camelCase")]
    File {
        /// Its name.
        name: String,
        /// Its MIME type.
        mime_type: String,
        /// Where it lies on this gateway.
        path: String,
    },
    /// The model asks for a tool.
    #[serde(rename_all = "camelCase")]
    ToolCall {
        /// The provider's id for the call; unique within the transcript.
        id: String,
        /// The tool.
        name: String,
        /// Its arguments.
        arguments: Value,
    },
    /// What a tool gave back.
    #[serde(rename_all = "camelCase")]
    ToolResult {
        /// The call it answers.
        id: String,
        /// The tool.
        name: String,
        /// Text and image parts.
        content: Vec<Part>,
        /// Structured extras for user interfaces; not sent to the model.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        details: Option<Value>,
        /// True when the tool failed.
        #[serde(default)]
        is_error: bool,
    },
}

impl Part {
    /// A text part.
    pub fn text(text: impl Into<String>) -> Self {
        Self::Text { text: text.into() }
    }
}

/// Tokens of one model call, and their price where the catalogue knows it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Usage {
    /// Fresh input tokens (without cache reads and writes).
    pub input: u64,
    /// Output tokens.
    pub output: u64,
    /// Input tokens read from the provider's cache.
    pub cache_read: u64,
    /// Input tokens written to the provider's cache.
    pub cache_write: u64,
    /// US dollars; 0 when unknown.
    pub cost_usd: f64,
}

impl Usage {
    /// All tokens of the call.
    #[must_use]
    pub const fn total(&self) -> u64 {
        self.input + self.output + self.cache_read + self.cache_write
    }

    /// Adds another call's tokens.
    pub fn add(&mut self, other: &Self) {
        self.input += other.input;
        self.output += other.output;
        self.cache_read += other.cache_read;
        self.cache_write += other.cache_write;
        self.cost_usd += other.cost_usd;
    }
}

/// Why a model stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum StopReason {
    /// It was done.
    Stop,
    /// It ran into the output limit.
    Length,
    /// It waits for tool results.
    ToolUse,
    /// We or the user stopped it.
    Aborted,
    /// It refused.
    Refusal,
    /// The call failed.
    Error,
}

/// One message of a transcript.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Message {
    /// Unique within the session.
    pub id: MessageId,
    /// Who speaks.
    pub role: Role,
    /// What is said, in order.
    pub parts: Vec<Part>,
    /// When.
    pub at: Millis,
    /// The run it belongs to.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub run_id: Option<RunId>,
    /// `provider/model` for assistant messages.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub model: Option<String>,
    /// Tokens, for assistant messages.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub usage: Option<Usage>,
    /// Why the model stopped, for assistant messages.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub stop_reason: Option<StopReason>,
    /// Where it came from or what it is: sender name and id, channel, `injected`, `summary`, error text.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub meta: Option<Value>,
}

impl Message {
    /// All text parts joined by newlines.
    #[must_use]
    pub fn plain_text(&self) -> String {
        let mut out = String::new();
        for part in &self.parts {
            if let Part::Text { text } = part {
                if !out.is_empty() {
                    out.push('\n');
                }
                out.push_str(text);
            }
        }
        out
    }
}

/// A tool as a model is told about it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ToolDefinition {
    /// The name the model calls.
    pub name: String,
    /// What it does, for the model.
    pub description: String,
    /// JSON Schema of the arguments.
    pub parameters: Value,
}
