//! What is said about wrong arguments: always with the name of the field, so that the model can mend its call.

use serde_json::{Map, Value};

use crate::ToolError;

/// Takes what a model sent as arguments: an object, nothing, or an object written as text once more.
pub fn as_object(tool: &str, args: Value) -> Result<Map<String, Value>, ToolError> {
    match args {
        Value::Object(map) => Ok(map),
        Value::Null => Ok(Map::new()),
        Value::String(text) if text.trim().is_empty() => Ok(Map::new()),
        Value::String(text) => match serde_json::from_str(&text) {
            Ok(Value::Object(map)) => Ok(map),
            _ => Err(ToolError::BadArguments(format!("invalid arguments for {tool}: expected a JSON object, got text"))),
        },
        other => Err(ToolError::BadArguments(format!("invalid arguments for {tool}: expected a JSON object, got {}", kind(&other)))),
    }
}

/// Turns a decoding error into a sentence that names the field.
pub fn explain(tool: &str, schema: &Value, args: &Map<String, Value>, err: &serde_json::Error) -> ToolError {
    let properties = schema.get("properties").and_then(Value::as_object);
    let required: Vec<&str> = schema.get("required").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).collect();
    for (name, value) in args {
        // Every field that may be absent may be null too.
        if value.is_null() && !required.contains(&name.as_str()) {
            continue;
        }
        let Some(wanted) = properties.and_then(|p| p.get(name)) else { continue };
        let kinds = kinds(wanted);
        if !kinds.is_empty() && !kinds.iter().any(|k| fits(k, value)) {
            return ToolError::BadArguments(format!("invalid arguments for {tool}: field `{name}` must be {}, got {}", kinds.join(" or "), kind(value)));
        }
        if let Some(choices) = wanted.get("enum").and_then(Value::as_array)
            && !choices.contains(value)
        {
            let shown: Vec<String> = choices.iter().filter(|c| !c.is_null()).map(ToString::to_string).collect();
            return ToolError::BadArguments(format!("invalid arguments for {tool}: field `{name}` must be one of {}", shown.join(", ")));
        }
    }
    ToolError::BadArguments(format!("invalid arguments for {tool}: {err}"))
}

fn kinds(schema: &Value) -> Vec<&str> {
    match schema.get("type") {
        Some(Value::String(one)) => vec![one],
        Some(Value::Array(many)) => many.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    }
}

fn fits(kind: &str, value: &Value) -> bool {
    match kind {
        "string" => value.is_string(),
        "integer" => value.is_i64() || value.is_u64(),
        "number" => value.is_number(),
        "boolean" => value.is_boolean(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        "null" => value.is_null(),
        _ => true,
    }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::{as_object, explain};

    #[test]
    fn the_field_is_named() {
        let schema = json!({"required": ["path"], "properties": {"path": {"type": "string"}, "limit": {"type": "integer"}, "mode": {"enum": ["a", "b"]}}});
        let err = serde_json::from_str::<u8>("x").unwrap_err();
        for (args, field) in [
            (json!({"path": 1}), "`path`"),
            (json!({"path": "x", "limit": "9"}), "`limit`"),
            (json!({"mode": "c"}), "`mode`"),
            (json!({"path": null}), "`path`"),
        ] {
            let text = explain("read", &schema, args.as_object().unwrap(), &err).to_string();
            assert!(text.contains(field), "{text}");
        }
    }

    #[test]
    fn arguments_written_as_text_are_read() {
        assert_eq!(as_object("t", Value::String("{\"a\":1}".into())).unwrap().len(), 1);
        assert!(as_object("t", Value::Null).unwrap().is_empty());
        assert!(as_object("t", json!([1])).is_err());
    }
}
