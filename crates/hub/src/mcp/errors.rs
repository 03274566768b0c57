//! What a tool says when it did not work.

use clawstead_terms::{Failure, FailureCode, IdError, Retry};
use rmcp::model::{CallToolResult, ContentBlock};
use serde_json::{Map, Value, json};

use crate::memory::MemoryError;

/// A failure of a tool: it is an answer (`isError`), not a fault of the protocol, so that a model sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ToolError {
    /// `INVALID_REQUEST`, `NOT_FOUND`, `FORBIDDEN`, `CONFLICT`, `BUSY`, `UNAVAILABLE`, `TIMEOUT`, `INTERNAL`.
    pub code: &'static str,
    /// One sentence, without secrets.
    pub message: String,
    /// When the same call may be made again, milliseconds from now; `None` when it fails again.
    pub retry_after_ms: Option<u64>,
    /// The way out.
    pub hint: Option<String>,
}

impl ToolError {
    /// A call that is wrong.
    pub fn invalid(message: impl Into<String>) -> Self {
        Failure::invalid(message).into()
    }

    /// As structured content, and as a sentence for clients that show only text.
    #[must_use]
    pub fn result(&self) -> CallToolResult {
        let mut error = Map::new();
        error.insert("code".into(), self.code.into());
        error.insert("message".into(), self.message.clone().into());
        if let Some(ms) = self.retry_after_ms {
            error.insert("retry_after_ms".into(), ms.into());
        }
        if let Some(hint) = &self.hint {
            error.insert("hint".into(), hint.clone().into());
        }
        let mut text = format!("{}: {}", self.code, self.message);
        if let Some(hint) = &self.hint {
            text.push_str(&format!(" ({hint})"));
        }
        if let Some(ms) = self.retry_after_ms {
            text.push_str(&format!(" Try again in {ms} ms."));
        }
        let mut result = CallToolResult::structured_error(json!({ "error": Value::Object(error) }));
        result.content = vec![ContentBlock::text(text)];
        result
    }
}

impl From<Failure> for ToolError {
    fn from(failure: Failure) -> Self {
        let code = match failure.code {
            FailureCode::InvalidRequest => "INVALID_REQUEST",
            FailureCode::NotFound => "NOT_FOUND",
            FailureCode::Forbidden => "FORBIDDEN",
            FailureCode::Busy => "BUSY",
            // Another gateway owns it now; the same call finds it there.
            FailureCode::Unavailable | FailureCode::Fenced => "UNAVAILABLE",
            FailureCode::Timeout => "TIMEOUT",
            FailureCode::Internal => "INTERNAL",
        };
        let retry_after_ms = match failure.retry {
            Retry::Never => None,
            Retry::Now => Some(0),
            Retry::AfterMs(ms) => Some(ms),
        };
        Self { code, message: failure.message, retry_after_ms, hint: failure.hint }
    }
}

impl From<MemoryError> for ToolError {
    fn from(err: MemoryError) -> Self {
        let conflict = matches!(err, MemoryError::Conflict { .. });
        let error = Self::from(Failure::from(err));
        if conflict { Self { code: "CONFLICT", hint: Some("get_memory tells the version that is there now".into()), ..error } } else { error }
    }
}

impl From<IdError> for ToolError {
    fn from(err: IdError) -> Self {
        Self::invalid(err.to_string())
    }
}
