//! What a failed request says.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use thiserror::Error;

use clawstead_terms::{Failure, FailureCode, Retry};

/// Error codes of responses. Finer meanings are in `details.code`.
pub mod code {
    /// The request is wrong.
    pub const INVALID_REQUEST: &str = "INVALID_REQUEST";
    /// The device is not paired or has no identity.
    pub const NOT_PAIRED: &str = "NOT_PAIRED";
    /// The caller lacks a scope.
    pub const FORBIDDEN: &str = "FORBIDDEN";
    /// Not now; `retryable` says whether to come again.
    pub const UNAVAILABLE: &str = "UNAVAILABLE";
    /// No such approval.
    pub const APPROVAL_NOT_FOUND: &str = "APPROVAL_NOT_FOUND";
}

/// The `error` of a response.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, Error)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[error("{message}")]
pub struct ErrorShape {
    /// One of [`code`].
    pub code: String,
    /// One sentence for people, without secrets.
    pub message: String,
    /// Set when the caller may try again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retryable: Option<bool>,
    /// When to try again, milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after_ms: Option<u64>,
    /// Structured facts; `details.code` is what programs branch on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub details: Option<Value>,
}

impl ErrorShape {
    /// An error with a code and a message.
    pub fn new(code: &str, message: impl Into<String>) -> Self {
        Self { code: code.to_owned(), message: message.into(), details: None, retryable: None, retry_after_ms: None }
    }

    /// `INVALID_REQUEST`.
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(code::INVALID_REQUEST, message)
    }

    /// `UNAVAILABLE` without a promise that a retry helps.
    pub fn unavailable(message: impl Into<String>) -> Self {
        Self::new(code::UNAVAILABLE, message)
    }

    /// `UNAVAILABLE` that may be tried again after `ms` milliseconds.
    pub fn retry(message: impl Into<String>, ms: u64) -> Self {
        Self { retryable: Some(true), retry_after_ms: Some(ms), ..Self::unavailable(message) }
    }

    /// The same with details.
    #[must_use]
    pub fn with_details(mut self, details: Value) -> Self {
        self.details = Some(details);
        self
    }

    /// `invalid <method> params: <detail>`.
    #[must_use]
    pub fn params(method: &str, detail: &str) -> Self {
        Self::invalid(format!("invalid {method} params: {detail}"))
    }

    /// `missing scope: <scope>`.
    #[must_use]
    pub fn missing_scope(scope: &str) -> Self {
        Self::new(code::FORBIDDEN, format!("missing scope: {scope}"))
            .with_details(json!({ "code": "MISSING_SCOPE", "missingScope": scope, "requiredScopes": [scope] }))
    }

    /// `details.code`, where there is one.
    #[must_use]
    pub fn detail_code(&self) -> Option<&str> {
        self.details.as_ref()?.get("code")?.as_str()
    }
}

impl From<Failure> for ErrorShape {
    fn from(failure: Failure) -> Self {
        let code = match failure.code {
            FailureCode::InvalidRequest | FailureCode::NotFound => code::INVALID_REQUEST,
            FailureCode::Forbidden => code::FORBIDDEN,
            FailureCode::Busy | FailureCode::Unavailable | FailureCode::Fenced | FailureCode::Timeout | FailureCode::Internal => code::UNAVAILABLE,
        };
        let message = match &failure.hint {
            Some(hint) => format!("{} ({hint})", failure.message),
            None => failure.message,
        };
        let (retryable, retry_after_ms) = match failure.retry {
            Retry::Never => (None, None),
            Retry::Now => (Some(true), None),
            Retry::AfterMs(ms) => (Some(true), Some(ms)),
        };
        Self { code: code.to_owned(), message, details: None, retryable, retry_after_ms }
    }
}

impl From<ErrorShape> for Failure {
    fn from(shape: ErrorShape) -> Self {
        let code = match shape.code.as_str() {
            code::INVALID_REQUEST => FailureCode::InvalidRequest,
            code::FORBIDDEN | code::NOT_PAIRED => FailureCode::Forbidden,
            code::APPROVAL_NOT_FOUND => FailureCode::NotFound,
            _ => FailureCode::Unavailable,
        };
        let retry = match (shape.retryable, shape.retry_after_ms) {
            (_, Some(ms)) => Retry::AfterMs(ms),
            (Some(true), None) => Retry::Now,
            _ => Retry::Never,
        };
        Self { code, message: shape.message, retry, hint: None }
    }
}
