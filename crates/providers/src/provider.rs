use async_trait::async_trait;
use futures_util::stream::BoxStream;
use serde_json::Value;
use std::sync::Arc;
use thiserror::Error;

use clawstead_terms::{Message, StopReason, ToolDefinition, Usage};

/// One question to a model.
#[derive(Clone, Debug, Default)]
pub struct Ask {
    /// The model's id as the provider knows it (without the provider prefix).
    pub model: String,
    /// The system prompt.
    pub system: String,
    /// The conversation as the journal has it; each dialect makes it legal with [`crate::repair()`].
    pub messages: Arc<[Arc<Message>]>,
    /// The tools on offer.
    pub tools: Arc<[ToolDefinition]>,
    /// `auto` when absent; `none`, `required` or a tool's name.
    pub tool_choice: Option<String>,
    /// Output tokens at most; absent means the model's limit from the catalogue.
    pub max_tokens: Option<u32>,
    /// Sampling temperature.
    pub temperature: Option<f64>,
    /// `off`, `minimal`, `low`, `medium`, `high`; absent means the model's default.
    pub thinking: Option<String>,
    /// Extra request fields from `params` in the config, merged into the body.
    pub params: Option<Value>,
    /// Stable text per session, for providers that cache by it.
    pub session_hint: Option<String>,
}

/// A piece of an answer.
#[derive(Clone, Debug, PartialEq)]
pub enum Chunk {
    /// More text.
    Text(String),
    /// More reasoning.
    Thinking(String),
    /// The reasoning block ended; its signature or opaque payload.
    ThinkingSignature(String),
    /// A tool call, complete: arguments parsed.
    ToolCall {
        /// The provider's call id (made up by us when it gives none).
        id: String,
        /// The tool.
        name: String,
        /// Its arguments; a JSON string with the raw text when they are not valid JSON.
        arguments: Value,
    },
    /// Tokens used.
    Usage(Usage),
    /// The end; always the last chunk of a good answer.
    Done(StopReason),
}

/// Why a model call failed, sorted by what helps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// The key is missing, wrong or not allowed. Try another profile, then another model.
    Auth,
    /// Rate limit or quota; wait or try another profile.
    Quota,
    /// Money ran out: another profile or model; long cool-down.
    Billing,
    /// The server is overloaded or broken (5xx).
    Overloaded,
    /// The request is longer than the model's context: compact and try again.
    Context,
    /// The content was refused.
    Content,
    /// The request itself is wrong; a fault of ours or of the config. Never repeated.
    Request,
    /// The model does not exist there.
    ModelNotFound,
    /// No connection, broken stream.
    Network,
    /// Nothing came for too long.
    Timeout,
    /// The answer made no sense.
    Garbage,
}

/// A failed model call.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{provider}/{model}: {message}")]
pub struct ProviderError {
    /// What helps.
    pub kind: ErrorKind,
    /// The provider's id in the config.
    pub provider: String,
    /// The model.
    pub model: String,
    /// One sentence, the server's words cut at 500 characters, no secrets.
    pub message: String,
    /// The HTTP status, where there was one.
    pub status: Option<u16>,
    /// The server asked to wait this long.
    pub retry_after_ms: Option<u64>,
}

/// The pieces of an answer as they come.
pub type ChunkStream = BoxStream<'static, Result<Chunk, ProviderError>>;

/// A server that speaks one dialect, with its address and key.
#[async_trait]
pub trait Provider: Send + Sync {
    /// Asks. Answers when the server accepted the request and its first bytes are on the way.
    ///
    /// # Errors
    /// As [`ErrorKind`] lists.
    async fn stream(&self, ask: Ask) -> Result<ChunkStream, ProviderError>;
}
