use std::collections::BTreeMap;

use clawstead_terms::{Failure, FailureCode, Retry};
use serde_json::{Value, json};
use thiserror::Error;

/// The domain of the reasons of the protocol.
pub const REASON_DOMAIN: &str = "a2a-protocol.org";

/// The domain of the reasons the protocol leaves to the server.
const OWN_DOMAIN: &str = "clawstead";

/// What went wrong, as both bindings tell it.
///
/// HTTP statuses are those of specification 1.0.0, which the compatibility kit checks; patch 1.0.1 folds 409 and 415
/// into 400 and 502 into 500. Clients go by the reason, which is the same in both.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ErrorKind {
    /// Not JSON.
    Parse,
    /// Not a request.
    InvalidRequest,
    /// No such method or address.
    MethodNotFound,
    /// Parameters that are wrong.
    InvalidParams,
    /// A fault of ours.
    Internal,
    /// No such task, or not the caller's.
    TaskNotFound,
    /// The task cannot be cancelled any more.
    TaskNotCancelable,
    /// This agent sends no push notifications.
    PushNotificationNotSupported,
    /// Not offered, or not in this state.
    UnsupportedOperation,
    /// A media type the agent does not take.
    ContentTypeNotSupported,
    /// The agent answered something that is not an answer.
    InvalidAgentResponse,
    /// No longer card is set up.
    ExtendedAgentCardNotConfigured,
    /// The client has to know an extension.
    ExtensionSupportRequired,
    /// Not a version spoken here.
    VersionNotSupported,
    /// The caller did not prove who it is.
    Unauthenticated,
    /// The caller may not do this.
    Forbidden,
    /// A bound is reached.
    Busy,
    /// Something needed is away.
    Unavailable,
    /// The request is larger than allowed.
    TooLarge,
}

struct Row {
    code: i64,
    http: u16,
    status: &'static str,
    reason: &'static str,
}

impl ErrorKind {
    /// All of them.
    pub const ALL: [Self; 19] = [
        Self::Parse,
        Self::InvalidRequest,
        Self::MethodNotFound,
        Self::InvalidParams,
        Self::Internal,
        Self::TaskNotFound,
        Self::TaskNotCancelable,
        Self::PushNotificationNotSupported,
        Self::UnsupportedOperation,
        Self::ContentTypeNotSupported,
        Self::InvalidAgentResponse,
        Self::ExtendedAgentCardNotConfigured,
        Self::ExtensionSupportRequired,
        Self::VersionNotSupported,
        Self::Unauthenticated,
        Self::Forbidden,
        Self::Busy,
        Self::Unavailable,
        Self::TooLarge,
    ];

    const fn row(self) -> Row {
        let (code, http, status, reason) = match self {
            Self::Parse => (-32700, 400, "INVALID_ARGUMENT", "PARSE_ERROR"),
            Self::InvalidRequest => (-32600, 400, "INVALID_ARGUMENT", "INVALID_REQUEST"),
            Self::MethodNotFound => (-32601, 404, "NOT_FOUND", "METHOD_NOT_FOUND"),
            Self::InvalidParams => (-32602, 400, "INVALID_ARGUMENT", "INVALID_PARAMS"),
            Self::Internal => (-32603, 500, "INTERNAL", "INTERNAL"),
            Self::TaskNotFound => (-32001, 404, "NOT_FOUND", "TASK_NOT_FOUND"),
            Self::TaskNotCancelable => (-32002, 409, "FAILED_PRECONDITION", "TASK_NOT_CANCELABLE"),
            Self::PushNotificationNotSupported => (-32003, 400, "FAILED_PRECONDITION", "PUSH_NOTIFICATION_NOT_SUPPORTED"),
            Self::UnsupportedOperation => (-32004, 400, "FAILED_PRECONDITION", "UNSUPPORTED_OPERATION"),
            Self::ContentTypeNotSupported => (-32005, 415, "INVALID_ARGUMENT", "CONTENT_TYPE_NOT_SUPPORTED"),
            Self::InvalidAgentResponse => (-32006, 502, "INTERNAL", "INVALID_AGENT_RESPONSE"),
            Self::ExtendedAgentCardNotConfigured => (-32007, 400, "FAILED_PRECONDITION", "EXTENDED_AGENT_CARD_NOT_CONFIGURED"),
            Self::ExtensionSupportRequired => (-32008, 400, "FAILED_PRECONDITION", "EXTENSION_SUPPORT_REQUIRED"),
            Self::VersionNotSupported => (-32009, 400, "FAILED_PRECONDITION", "VERSION_NOT_SUPPORTED"),
            Self::Unauthenticated => (-32090, 401, "UNAUTHENTICATED", "UNAUTHENTICATED"),
            Self::Forbidden => (-32091, 403, "PERMISSION_DENIED", "PERMISSION_DENIED"),
            Self::Busy => (-32092, 429, "RESOURCE_EXHAUSTED", "BUSY"),
            Self::Unavailable => (-32093, 503, "UNAVAILABLE", "UNAVAILABLE"),
            Self::TooLarge => (-32094, 413, "INVALID_ARGUMENT", "TOO_LARGE"),
        };
        Row { code, http, status, reason }
    }

    /// The code of JSON-RPC.
    #[must_use]
    pub const fn code(self) -> i64 {
        self.row().code
    }

    /// The HTTP status of the REST binding.
    #[must_use]
    pub const fn http(self) -> u16 {
        self.row().http
    }

    /// The reason both bindings name.
    #[must_use]
    pub const fn reason(self) -> &'static str {
        self.row().reason
    }

    /// True for the nine the protocol itself defines.
    #[must_use]
    pub const fn is_of_the_protocol(self) -> bool {
        matches!(self.code(), -32009..=-32001)
    }

    /// The kind of a code of JSON-RPC.
    #[must_use]
    pub fn of_code(code: i64) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.code() == code)
    }

    /// The kind of a reason.
    #[must_use]
    pub fn of_reason(reason: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.reason() == reason)
    }
}

/// A field that is wrong, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldViolation {
    /// `message.parts`.
    pub field: String,
    /// Why.
    pub description: String,
}

/// An error of the protocol.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{message}")]
pub struct A2aError {
    /// The kind.
    pub kind: ErrorKind,
    /// One sentence that names the thing and the way out.
    pub message: String,
    /// What is wrong with the parameters.
    pub fields: Vec<FieldViolation>,
    /// Facts beside the reason: `taskId`, `supportedVersions`.
    pub facts: BTreeMap<String, String>,
    /// When to try again, milliseconds.
    pub retry_after_ms: Option<u64>,
}

impl A2aError {
    /// An error without details.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), fields: Vec::new(), facts: BTreeMap::new(), retry_after_ms: None }
    }

    /// A wrong parameter.
    pub fn field(field: impl Into<String>, description: impl Into<String>) -> Self {
        let (field, description) = (field.into(), description.into());
        let message = if field.is_empty() { format!("Invalid parameters: {description}") } else { format!("Invalid parameters: {field}: {description}") };
        Self { fields: vec![FieldViolation { field, description }], ..Self::new(ErrorKind::InvalidParams, message) }
    }

    /// No such task, or not the caller's: the two are not told apart.
    #[must_use]
    pub fn no_task(id: &str) -> Self {
        Self::new(ErrorKind::TaskNotFound, format!("There is no task {id}, or it is not yours")).with("taskId", id)
    }

    /// A bound is reached.
    pub fn busy(message: impl Into<String>, retry_after_ms: u64) -> Self {
        Self { retry_after_ms: Some(retry_after_ms), ..Self::new(ErrorKind::Busy, message) }
    }

    /// The same with a fact.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<String>) -> Self {
        self.facts.insert(name.into(), value.into());
        self
    }

    fn details(&self) -> Vec<Value> {
        let mut details = Vec::new();
        if self.kind != ErrorKind::InvalidParams || self.fields.is_empty() {
            let domain = if self.kind.is_of_the_protocol() { REASON_DOMAIN } else { OWN_DOMAIN };
            let mut info = json!({"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": self.kind.reason(), "domain": domain});
            if !self.facts.is_empty() {
                info["metadata"] = json!(self.facts);
            }
            details.push(info);
        }
        if !self.fields.is_empty() {
            let fields: Vec<Value> = self.fields.iter().map(|f| json!({"field": f.field, "description": f.description})).collect();
            details.push(json!({"@type": "type.googleapis.com/google.rpc.BadRequest", "fieldViolations": fields}));
        }
        if let Some(ms) = self.retry_after_ms {
            details.push(json!({"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": format!("{}.{:03}s", ms / 1000, ms % 1000)}));
        }
        details
    }

    /// The error object of JSON-RPC.
    #[must_use]
    pub fn json_rpc(&self) -> Value {
        json!({"code": self.kind.code(), "message": self.message, "data": self.details()})
    }

    /// The body of the REST binding.
    #[must_use]
    pub fn rest(&self) -> Value {
        let row = self.kind.row();
        json!({"error": {"code": row.http, "status": row.status, "message": self.message, "details": self.details()}})
    }

    /// Reads the error object of either binding; an unknown one counts as internal, an unknown HTTP status by its
    /// class.
    #[must_use]
    pub fn read(error: &Value) -> Self {
        let details = error.get("data").or_else(|| error.get("details")).and_then(Value::as_array);
        let info = details.and_then(|all| all.iter().find(|one| one.get("reason").is_some()));
        let reason = info.and_then(|one| one["reason"].as_str()).and_then(ErrorKind::of_reason);
        let code = error.get("code").and_then(Value::as_i64).unwrap_or_default();
        let kind = reason.or_else(|| ErrorKind::of_code(code)).unwrap_or(match code {
            400 => ErrorKind::InvalidParams,
            401 => ErrorKind::Unauthenticated,
            403 => ErrorKind::Forbidden,
            404 => ErrorKind::MethodNotFound,
            413 => ErrorKind::TooLarge,
            429 => ErrorKind::Busy,
            503 => ErrorKind::Unavailable,
            _ => ErrorKind::Internal,
        });
        let mut read = Self::new(kind, error.get("message").and_then(Value::as_str).unwrap_or("no words"));
        if let Some(facts) = info.and_then(|one| one.get("metadata")).and_then(Value::as_object) {
            read.facts = facts.iter().filter_map(|(name, value)| Some((name.clone(), value.as_str()?.to_owned()))).collect();
        }
        read
    }
}

impl From<Failure> for A2aError {
    fn from(failure: Failure) -> Self {
        let kind = match failure.code {
            FailureCode::InvalidRequest => ErrorKind::InvalidParams,
            FailureCode::NotFound => ErrorKind::MethodNotFound,
            FailureCode::Forbidden => ErrorKind::Forbidden,
            FailureCode::Busy => ErrorKind::Busy,
            FailureCode::Unavailable | FailureCode::Fenced | FailureCode::Timeout => ErrorKind::Unavailable,
            FailureCode::Internal => ErrorKind::Internal,
        };
        let message = failure.hint.map_or_else(|| failure.message.clone(), |hint| format!("{}. {hint}", failure.message));
        let retry_after_ms = match failure.retry {
            Retry::Never => None,
            Retry::Now => Some(0),
            Retry::AfterMs(ms) => Some(ms),
        };
        Self { retry_after_ms, ..Self::new(kind, message) }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::{A2aError, ErrorKind};

    #[test]
    fn codes_and_reasons_are_unique_and_read_back() {
        let codes: BTreeSet<i64> = ErrorKind::ALL.iter().map(|kind| kind.code()).collect();
        assert_eq!(codes.len(), ErrorKind::ALL.len());
        for kind in ErrorKind::ALL {
            let error = A2aError::new(kind, "words").with("taskId", "t");
            assert_eq!(A2aError::read(&error.json_rpc()), error);
            assert_eq!(A2aError::read(&error.rest()["error"]), error);
        }
    }

    #[test]
    fn a_wrong_field_is_named() {
        let error = A2aError::field("message.parts", "at least one part is needed").json_rpc();
        assert_eq!((error["code"].as_i64(), error["data"][0]["fieldViolations"][0]["field"].as_str()), (Some(-32602), Some("message.parts")));
    }
}
