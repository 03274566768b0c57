//! A model server for tests: OpenAI chat completions, OpenAI responses and Anthropic messages, streamed or not.
//!
//! Without instructions it repeats the last user message (`echo: ...`). What else it does is said
//!
//! * by the **message**, so that a test needs no side channel: `!tool <name> <json>` (call that tool, then report its
//!   result), `!delay <ms>` (before the first byte), `!pace <ms>` (between pieces), `!pieces <n>`, `!words <n>` (a long
//!   answer), `!status <code>` (that HTTP error), `!hang` (never answers), `!cut` (drops the connection in the middle),
//!   `!garbage` (200 with bytes that are no JSON), `!say <text>` (exactly that);
//! * by [`Rule`]s for messages that come from real configurations and must stay as people write them;
//! * by [`Options`] for the whole server.
//!
//! Every request goes into the ledger, with the first numbered mark (`msg-000042`) of the last user message.

mod ask;
mod dialect;
mod server;

pub use ask::{Ask, Dialect, mark_of, marks_of};
pub use server::MockModel;

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// What the server does for every request, unless the message says otherwise.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Port on 127.0.0.1; 0 picks a free one.
    pub port: u16,
    /// Wait before the first byte, ms.
    pub delay_ms: u64,
    /// Wait between pieces of a stream, ms. 0 sends the whole stream in one write.
    pub pace_ms: u64,
    /// Pieces of a streamed answer; 0 means 8.
    pub pieces: usize,
    /// Words of the default answer; 0 means the echo alone.
    pub words: usize,
    /// Every n-th request fails with HTTP 500; 0 means never.
    pub fail_every: u64,
    /// What to do for messages with a certain text.
    pub rules: Vec<Rule>,
    /// Append one JSON line a request to this file.
    pub ledger: Option<PathBuf>,
    /// Keep every request in memory too (for tests; a long run should not).
    pub remember: bool,
    /// Keep the complete bodies as well, for tests that look at what was asked.
    pub remember_bodies: bool,
}

/// An answer for messages that contain a text. The first rule that fits is taken.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct Rule {
    /// The last user message contains this, letter case ignored.
    pub contains: String,
    /// Only for requests to this model.
    pub model: Option<String>,
    /// Call this tool first.
    pub tool: Option<String>,
    /// With these arguments.
    pub arguments: Value,
    /// Say this (after the tool, if there is one; `{result}` stands for what the tool gave).
    pub say: Option<String>,
}

/// One request as the server saw it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Entry {
    /// Counts from 1 in the order of arrival.
    pub n: u64,
    /// `chat`, `responses` or `messages`.
    pub dialect: Dialect,
    /// The model asked for.
    pub model: String,
    /// Streamed.
    pub stream: bool,
    /// Messages in the request.
    pub messages: usize,
    /// Bytes of the request body.
    pub bytes: usize,
    /// The numbered mark of the last user message.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub mark: Option<String>,
    /// The last user message, at most 300 characters.
    pub text: String,
    /// Results of tools after the last user message.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub results: Vec<String>,
    /// What the server did: `say`, `tool:<name>`, `status:<code>`, `hang`, `cut`, `garbage`.
    pub did: String,
    /// The key or token the client sent, so that tests can see which one was used.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub key: Option<String>,
    /// The whole body, when asked for.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub body: Option<Value>,
}
