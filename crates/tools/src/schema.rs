//! Schemas as every model host takes them: no unions with null, no unions of constants, no Rust formats.

use serde_json::{Map, Value, json};

/// Makes a schema plainer without changing which arguments are good (absent stands for null).
pub fn simplify(schema: &mut Value) {
    match schema {
        Value::Array(list) => list.iter_mut().for_each(simplify),
        Value::Object(map) => {
            if map.get("default").is_some_and(Value::is_null) {
                map.remove("default");
            }
            if map.get("format").is_some_and(Value::is_string) {
                map.remove("format");
            }
            unite(map, "anyOf");
            unite(map, "oneOf");
            if let Some(Value::Array(kinds)) = map.get("type") {
                let kept: Vec<Value> = kinds.iter().filter(|k| k.as_str() != Some("null")).cloned().collect();
                if let [one] = &kept[..] {
                    map.insert("type".into(), one.clone());
                }
            }
            map.values_mut().for_each(simplify);
        }
        _ => {}
    }
}

/// `X or null` becomes X; a choice of constants becomes an enumeration.
fn unite(map: &mut Map<String, Value>, key: &str) {
    let Some(Value::Array(choices)) = map.get(key) else { return };
    let kept: Vec<Value> = choices.iter().filter(|c| c.get("type").and_then(Value::as_str) != Some("null")).cloned().collect();
    let words: Option<Vec<Value>> = kept.iter().map(|c| c.get("const").filter(|w| w.is_string()).cloned()).collect();
    if let Some(words) = words.filter(|w| !w.is_empty()) {
        map.remove(key);
        map.insert("type".into(), json!("string"));
        map.insert("enum".into(), Value::Array(words));
    } else if let [Value::Object(one)] = &kept[..] {
        let one = one.clone();
        map.remove(key);
        for (name, value) in one {
            map.entry(name).or_insert(value);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::simplify;

    #[test]
    fn unions_become_plain() {
        let mut schema = json!({"properties": {
            "a": {"type": ["string", "null"], "default": null},
            "b": {"oneOf": [{"const": "x", "type": "string", "description": "d"}, {"const": "y", "type": "string"}], "description": "what"},
            "c": {"anyOf": [{"type": "object", "properties": {"n": {"type": ["integer", "null"], "format": "uint64", "minimum": 0}}}, {"type": "null"}]},
        }});
        simplify(&mut schema);
        assert_eq!(
            schema,
            json!({"properties": {
                "a": {"type": "string"},
                "b": {"description": "what", "type": "string", "enum": ["x", "y"]},
                "c": {"type": "object", "properties": {"n": {"type": "integer", "minimum": 0}}},
            }})
        );
    }
}
