use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Whether and when the same call may be made again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Retry {
    /// The same call fails again.
    #[default]
    Never,
    /// At once.
    Now,
    /// After this many milliseconds.
    AfterMs(u64),
}

/// The kind of a failure as the outside sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum FailureCode {
    /// The call is wrong; repeating it does not help.
    InvalidRequest,
    /// The thing named is not there.
    NotFound,
    /// The caller may not do this.
    Forbidden,
    /// A queue, a budget or the disk is full.
    Busy,
    /// Something we need is away (store, model, peer).
    Unavailable,
    /// The write carried an old fence.
    Fenced,
    /// The call took too long.
    Timeout,
    /// A fault of ours.
    Internal,
}

/// What a door says when something did not work: one sentence that names the thing, and the way out.
#[derive(Clone, Debug, PartialEq, Eq, Error, Serialize, Deserialize)]
#[error("{message}")]
pub struct Failure {
    /// The kind.
    pub code: FailureCode,
    /// One sentence, without secrets.
    pub message: String,
    /// Whether to try again.
    pub retry: Retry,
    /// What the user can do about it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub hint: Option<String>,
}

impl Failure {
    /// A failure with no retry and no hint.
    pub fn new(code: FailureCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), retry: Retry::Never, hint: None }
    }

    /// An `InvalidRequest`.
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(FailureCode::InvalidRequest, message)
    }

    /// A `NotFound`.
    pub fn not_found(message: impl Into<String>) -> Self {
        Self::new(FailureCode::NotFound, message)
    }

    /// An `Unavailable` that may be tried again after `ms` milliseconds.
    pub fn unavailable(message: impl Into<String>, ms: u64) -> Self {
        Self { retry: Retry::AfterMs(ms), ..Self::new(FailureCode::Unavailable, message) }
    }

    /// A `Busy` that may be tried again after `ms` milliseconds.
    pub fn busy(message: impl Into<String>, ms: u64) -> Self {
        Self { retry: Retry::AfterMs(ms), ..Self::new(FailureCode::Busy, message) }
    }

    /// A fault of ours.
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(FailureCode::Internal, message)
    }

    /// The same with a way out.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

/// How something with effects ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// It happened, once.
    Done,
    /// It did not happen.
    Failed(Failure),
    /// Its time was over before it began.
    Expired,
    /// It may have happened. Final: never repeated by itself.
    Unknown,
}
