//! Types, values and rules.
use serde_json::Value;

use crate::{env::Env, issue::Issue, normalise::Moves, paths::Paths};

/// The word for a value's type in messages.
pub(crate) fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

pub(crate) fn validate(_root: &Value, _paths: &Paths, _env: &Env, _moves: &Moves, _issues: &mut Vec<Issue>) {}
