//! The table of known keys as JSON Schema, made when somebody asks.

use serde_json::{Map, Value, json};

use crate::{
    redact::is_secret_key,
    schema::{self, Era, Row},
    validate::split_kinds,
};

/// Nested tables at most; the table itself is about ten deep.
const DEPTH_MAX: usize = 24;

/// The whole JSON Schema (draft 7). Takes some milliseconds and a megabyte: keep it no longer than needed.
#[must_use]
pub fn json_schema() -> Value {
    let mut definitions = Map::new();
    let mut root = object("", true, &mut definitions, 0);
    root.insert("$schema".into(), json!("http://json-schema.org/draft-07/schema#"));
    root.insert("title".into(), json!("OpenClawConfig"));
    definitions.insert("SecretRef".into(), secret_ref());
    root.insert("definitions".into(), Value::Object(definitions));
    Value::Object(root)
}

/// What is known about one path, without building the whole schema.
#[derive(Clone, Debug, PartialEq)]
pub struct Lookup {
    /// The path as asked.
    pub path: String,
    /// JSON Schema of the place, children one level deep.
    pub schema: Value,
    /// What a change does: `none`, `hot` or `restart`.
    pub reload: &'static str,
    /// True for credentials.
    pub sensitive: bool,
    /// True when today's releases do not know the key any more.
    pub legacy: bool,
    /// Names right below with their types, `*` for user keys.
    pub children: Vec<(String, String)>,
}

/// Looks one path up. None for a place that no release knows.
#[must_use]
pub fn lookup(path: &[String]) -> Option<Lookup> {
    let row = if path.is_empty() { None } else { Some(schema::find(path)?) };
    let row_path = row.map_or("", |r| r.path);
    let plan = crate::reload::plan(&[path.to_vec()]);
    let mut definitions = Map::new();
    let schema = match row {
        Some(r) => kinds(r.kind, r.path, &mut definitions, DEPTH_MAX - 1),
        None => Value::Object(object("", true, &mut definitions, DEPTH_MAX - 1)),
    };
    Some(Lookup {
        path: crate::join_path(path),
        schema,
        reload: if plan.needs_restart() {
            "restart"
        } else if plan.hot.is_empty() {
            "none"
        } else {
            "hot"
        },
        sensitive: schema::is_secret(path) || path.last().is_some_and(|k| is_secret_key(k)),
        legacy: row.is_some_and(|r| r.era == Era::March),
        children: schema::children(row_path).map(|r| (last(&r).to_owned(), schema::target(r).kind.to_owned())).collect(),
    })
}

fn last(row: &Row) -> &'static str {
    row.path.rsplit('.').next().unwrap_or(row.path)
}

fn object(path: &str, strict: bool, definitions: &mut Map<String, Value>, depth: usize) -> Map<String, Value> {
    let mut out = Map::new();
    out.insert("type".into(), json!("object"));
    let mut properties = Map::new();
    let mut rest = None;
    if depth < DEPTH_MAX {
        for row in schema::children(path) {
            let value = match row.kind.strip_prefix('@') {
                // shared shapes once
                Some(shared) => reference(shared, definitions, depth + 1),
                None => kinds(row.kind, row.path, definitions, depth + 1),
            };
            match last(&row) {
                "*" => rest = Some(value),
                name => {
                    properties.insert(name.to_owned(), value);
                }
            }
        }
    }
    if !properties.is_empty() {
        out.insert("properties".into(), Value::Object(properties));
    }
    match rest {
        Some(value) => drop(out.insert("additionalProperties".into(), value)),
        None if strict && depth < DEPTH_MAX => drop(out.insert("additionalProperties".into(), json!(false))),
        None => {}
    }
    out
}

fn reference(shared: &str, definitions: &mut Map<String, Value>, depth: usize) -> Value {
    if !definitions.contains_key(shared) {
        // the entry first: shapes may hold themselves
        definitions.insert(shared.to_owned(), json!({}));
        if let Some(row) = schema::row(shared).map(schema::target) {
            let made = kinds(row.kind, row.path, definitions, depth);
            definitions.insert(shared.to_owned(), made);
        }
    }
    json!({"$ref": format!("#/definitions/{shared}")})
}

fn kinds(kind: &str, path: &str, definitions: &mut Map<String, Value>, depth: usize) -> Value {
    let mut parts: Vec<Value> = split_kinds(kind).into_iter().map(|k| one(k, path, definitions, depth)).collect();
    if parts.len() == 1 { parts.swap_remove(0) } else { json!({"anyOf": parts}) }
}

fn one(kind: &str, path: &str, definitions: &mut Map<String, Value>, depth: usize) -> Value {
    let rest = kind.get(1..).unwrap_or_default();
    match kind.as_bytes().first() {
        Some(b'b') => json!({"type": "boolean"}),
        Some(b'T') => json!({"const": true}),
        Some(b'F') => json!({"const": false}),
        Some(b'0') => json!({"type": "null"}),
        Some(b's') => {
            let mut out = json!({"type": "string"});
            if let Some((min, max)) = rest.strip_prefix('#').and_then(|b| b.split_once(',')) {
                for (name, text) in [("minLength", min), ("maxLength", max)] {
                    if let Ok(n) = text.parse::<u64>()
                        && n > 0
                    {
                        out[name] = json!(n);
                    }
                }
            }
            out
        }
        Some(b'S') => json!({"anyOf": [{"type": "string"}, {"$ref": "#/definitions/SecretRef"}]}),
        Some(k @ (b'i' | b'n')) => {
            let mut out = json!({"type": if *k == b'i' { "integer" } else { "number" }});
            let (low, high) = rest.find('<').map_or((rest, ""), |at| rest.split_at(at));
            for (text, with, without) in [(low.strip_prefix('>'), "minimum", "exclusiveMinimum"), (high.strip_prefix('<'), "maximum", "exclusiveMaximum")] {
                let Some(text) = text else { continue };
                let (name, number) = text.strip_prefix('=').map_or((without, text), |n| (with, n));
                if let Ok(n) = serde_json::from_str::<Value>(number) {
                    out[name] = n;
                }
            }
            out
        }
        Some(b'=') => {
            json!({"enum": rest.split(',').map(|n| serde_json::from_str::<Value>(n).ok().filter(Value::is_number).unwrap_or_else(|| json!(n))).collect::<Vec<_>>()})
        }
        Some(b'~') => json!({"type": "string", "examples": rest.split(',').collect::<Vec<_>>()}),
        Some(b'[') => {
            let inner = rest.strip_suffix(']').unwrap_or(rest);
            let below = format!("{path}.*");
            let row = schema::row(&below);
            let items = match row.and_then(|r| r.kind.strip_prefix('@')) {
                Some(shared) if inner == "o" => reference(shared, definitions, depth + 1),
                _ => kinds(inner, &below, definitions, depth + 1),
            };
            json!({"type": "array", "items": items})
        }
        Some(b'o') => Value::Object(object(path, true, definitions, depth)),
        Some(b'm') => Value::Object(object(path, false, definitions, depth)),
        _ => json!({}),
    }
}

fn secret_ref() -> Value {
    json!({
        "type": "object",
        "properties": {"source": {"enum": ["env", "file", "exec", "store"]}, "provider": {"type": "string"}, "id": {"type": "string", "minLength": 1}},
        "required": ["source", "id"],
        "additionalProperties": false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_schema_says_what_the_table_says() {
        let s = json_schema();
        assert_eq!(s["properties"]["gateway"]["properties"]["port"], json!({"type": "integer", "minimum": 1, "maximum": 65535}));
        assert_eq!(s["properties"]["gateway"]["additionalProperties"], json!(false));
        assert_eq!(s["properties"]["agents"]["properties"]["list"]["items"]["$ref"], json!("#/definitions/agents.entries.*"));
        assert!(s["definitions"]["agents.entries.*"]["properties"]["tools"]["$ref"].is_string());
        assert!(s["definitions"]["tools"]["properties"]["exec"]["properties"]["security"]["enum"].is_array());
        assert_eq!(
            s["properties"]["channels"]["properties"]["slack"]["properties"]["accounts"]["additionalProperties"]["$ref"],
            json!("#/definitions/channels.slack")
        );
        let text = s.to_string();
        for part in text.split("\"#/definitions/").skip(1) {
            let name = part.split('"').next().unwrap();
            assert!(s["definitions"].get(name).is_some_and(|d| d != &json!({})), "{name}");
        }
        let l = lookup(&crate::split_path("gateway.auth.token").unwrap()).unwrap();
        assert!(l.sensitive && l.reload == "hot");
        let l = lookup(&crate::split_path("gateway").unwrap()).unwrap();
        assert!(l.children.iter().any(|(n, k)| n == "port" && k == "i>=1<=65535"));
        assert!(lookup(&crate::split_path("nope.nope").unwrap()).is_none());
        assert!(lookup(&[]).unwrap().children.iter().any(|(n, _)| n == "agents"));
    }
}
