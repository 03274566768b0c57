//! Checks a JSON value against the part of JSON Schema that our parameter types use, with the error texts
//! that OpenClaw clients know.

use serde_json::{Map, Value};

/// Checks `value` and answers every violation: `must have required property 'x'`,
/// `at root: unexpected property 'x'`, `at /path: must be string`, ... joined with `; `.
///
/// # Errors
/// The joined text.
pub fn check(schema: &Value, value: &Value) -> Result<(), String> {
    let mut faults = Vec::new();
    walk(schema, value, &mut String::new(), &mut faults);
    if faults.is_empty() { Ok(()) } else { Err(faults.join("; ")) }
}

fn fault(path: &str, text: &str) -> String {
    format!("at {}: {text}", if path.is_empty() { "root" } else { path })
}

fn walk(schema: &Value, value: &Value, path: &mut String, faults: &mut Vec<String>) {
    let Some(schema) = schema.as_object() else { return };
    if let Some(options) = schema.get("anyOf").or_else(|| schema.get("oneOf")).and_then(Value::as_array) {
        if !options.iter().any(|option| fits(option, value, path)) {
            let closed = options.iter().all(|o| o.get("const").is_some() || o.get("enum").is_some());
            faults.push(fault(path, if closed { "must be equal to one of the allowed values" } else { "must match a schema in anyOf" }));
        }
        return;
    }
    if let Some(constant) = schema.get("const")
        && constant != value
    {
        faults.push(fault(path, "must be equal to constant"));
        return;
    }
    if let Some(allowed) = schema.get("enum").and_then(Value::as_array)
        && !allowed.contains(value)
    {
        faults.push(fault(path, "must be equal to one of the allowed values"));
        return;
    }
    if let Some(kind) = schema.get("type")
        && let Err(wanted) = check_type(kind, value)
    {
        faults.push(fault(path, &format!("must be {wanted}")));
        return;
    }
    match value {
        Value::String(text) => check_text(schema, text, path, faults),
        Value::Number(number) => {
            let number = number.as_f64().unwrap_or(0.0);
            if let Some(min) = schema.get("minimum").and_then(Value::as_f64)
                && number < min
            {
                faults.push(fault(path, &format!("must be >= {min}")));
            }
            if let Some(max) = schema.get("maximum").and_then(Value::as_f64)
                && number > max
            {
                faults.push(fault(path, &format!("must be <= {max}")));
            }
        }
        Value::Array(items) => check_list(schema, items, path, faults),
        Value::Object(fields) => check_fields(schema, fields, path, faults),
        Value::Null | Value::Bool(_) => {}
    }
}

fn fits(schema: &Value, value: &Value, path: &mut String) -> bool {
    let mut faults = Vec::new();
    walk(schema, value, path, &mut faults);
    faults.is_empty()
}

fn check_type(kind: &Value, value: &Value) -> Result<(), String> {
    let is = |name: &str| match name {
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        "object" => value.is_object(),
        "array" => value.is_array(),
        "null" => value.is_null(),
        "number" => value.is_number(),
        "integer" => value.as_f64().is_some_and(|n| n.fract() == 0.0),
        _ => true,
    };
    match kind {
        Value::String(name) if !is(name) => Err(name.clone()),
        Value::Array(names) => {
            let names: Vec<&str> = names.iter().filter_map(Value::as_str).collect();
            if names.iter().any(|name| is(name)) { Ok(()) } else { Err(format!("either {}", names.join(" or "))) }
        }
        _ => Ok(()),
    }
}

fn check_text(schema: &Map<String, Value>, text: &str, path: &str, faults: &mut Vec<String>) {
    if let Some(min) = schema.get("minLength").and_then(Value::as_u64)
        && (text.chars().count() as u64) < min
    {
        faults.push(fault(path, &format!("must not have fewer than {min} characters")));
    }
    if let Some(max) = schema.get("maxLength").and_then(Value::as_u64)
        && text.len() as u64 > max
        && text.chars().count() as u64 > max
    {
        faults.push(fault(path, &format!("must not have more than {max} characters")));
    }
}

fn check_list(schema: &Map<String, Value>, items: &[Value], path: &mut String, faults: &mut Vec<String>) {
    if let Some(min) = schema.get("minItems").and_then(Value::as_u64)
        && (items.len() as u64) < min
    {
        faults.push(fault(path, &format!("must not have fewer than {min} items")));
    }
    if let Some(max) = schema.get("maxItems").and_then(Value::as_u64)
        && items.len() as u64 > max
    {
        faults.push(fault(path, &format!("must not have more than {max} items")));
        return;
    }
    if let Some(item) = schema.get("items") {
        for (index, value) in items.iter().enumerate() {
            below(path, &index.to_string(), |path| walk(item, value, path, faults));
        }
    }
}

fn check_fields(schema: &Map<String, Value>, fields: &Map<String, Value>, path: &mut String, faults: &mut Vec<String>) {
    let declared = schema.get("properties").and_then(Value::as_object);
    if let Some(required) = schema.get("required").and_then(Value::as_array)
        && let Some(missing) = required.iter().filter_map(Value::as_str).find(|name| !fields.contains_key(*name))
    {
        let text = format!("must have required property '{missing}'");
        faults.push(if path.is_empty() { text } else { fault(path, &text) });
    }
    let extra = schema.get("additionalProperties");
    for (name, value) in fields {
        let known = declared.and_then(|all| all.get(name));
        match (known, extra) {
            (Some(_), _) | (None, None | Some(Value::Bool(true))) => {}
            (None, Some(Value::Bool(false))) => faults.push(fault(path, &format!("unexpected property '{name}'"))),
            (None, Some(inner)) => below(path, name, |path| walk(inner, value, path, faults)),
        }
    }
    for (name, inner) in declared.into_iter().flatten() {
        if let Some(value) = fields.get(name) {
            below(path, name, |path| walk(inner, value, path, faults));
        }
    }
}

fn below(path: &mut String, name: &str, go: impl FnOnce(&mut String)) {
    let length = path.len();
    path.push('/');
    path.push_str(name);
    go(path);
    path.truncate(length);
}

#[cfg(test)]
mod tests {
    use super::check;
    use serde_json::json;

    #[test]
    fn faults_read_as_clients_know_them() {
        let schema = json!({"type": "object", "additionalProperties": false, "required": ["a", "b"],
            "properties": {"a": {"type": "string", "minLength": 1}, "b": {"enum": ["x", "y"]}, "c": {"type": "array", "maxItems": 1, "items": {"type": "integer", "minimum": 1}}}});
        for (value, want) in [
            (json!({"a": "1", "b": "x"}), None),
            (json!({}), Some("must have required property 'a'")),
            (json!({"a": "", "b": "x"}), Some("at /a: must not have fewer than 1 characters")),
            (json!({"a": "1", "b": "z"}), Some("at /b: must be equal to one of the allowed values")),
            (json!({"a": 1, "b": "x", "q": 1}), Some("at root: unexpected property 'q'; at /a: must be string")),
            (json!({"a": "1", "b": "x", "c": [0]}), Some("at /c/0: must be >= 1")),
            (json!({"a": "1", "b": "x", "c": [1.5]}), Some("at /c/0: must be integer")),
            (json!({"a": "1", "b": "x", "c": [1, 2]}), Some("at /c: must not have more than 1 items")),
            (json!([]), Some("at root: must be object")),
        ] {
            assert_eq!(check(&schema, &value).err().as_deref(), want, "{value}");
        }
    }
}
