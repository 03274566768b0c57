//! `hooks.mappings`: which one a request means, and what its templates become.

use ::http::HeaderMap;
use serde_json::{Map, Value};

/// What templates may name.
pub(super) struct Scene<'a> {
    pub path: &'a str,
    pub query: &'a [(String, String)],
    pub headers: &'a HeaderMap,
    pub payload: &'a Value,
    /// ISO 8601.
    pub now: String,
}

/// The first mapping that fits.
pub(super) fn find<'a, V: std::ops::Deref<Target = Value>>(mappings: &'a [V], path: &str, payload: &Value) -> Option<&'a Value> {
    mappings.iter().map(|mapping| &**mapping).find(|mapping| {
        let wanted = |field: &str| mapping.pointer(&format!("/match/{field}")).and_then(Value::as_str).map(str::trim).filter(|text| !text.is_empty());
        wanted("path").is_none_or(|want| want.trim_matches('/') == path)
            && wanted("source").is_none_or(|want| payload.get("source").and_then(Value::as_str) == Some(want))
    })
}

/// The payloads of a mapping with `forEach`: one for each item of that list, which is left alone in it; otherwise
/// the payload as it came.
pub(super) fn payloads(mapping: &Value, payload: &Value) -> Vec<Value> {
    let Some(field) = mapping.get("forEach").and_then(Value::as_str) else { return vec![payload.clone()] };
    let Some(items) = payload.get(field).and_then(Value::as_array) else { return Vec::new() };
    items
        .iter()
        .map(|item| {
            let mut one: Map<String, Value> = payload.as_object().cloned().unwrap_or_default();
            one.insert(field.to_owned(), Value::Array(vec![item.clone()]));
            Value::Object(one)
        })
        .collect()
}

/// True when a template takes something from the request.
pub(super) fn is_template(text: &str) -> bool {
    text.contains("{{")
}

/// Puts what `{{...}}` names in its place; what is not there becomes nothing.
pub(super) fn render(template: &str, scene: &Scene<'_>) -> String {
    let mut out = String::with_capacity(template.len());
    let mut rest = template;
    while let Some((head, tail)) = rest.split_once("{{") {
        out.push_str(head);
        let Some((name, after)) = tail.split_once("}}") else {
            out.push_str("{{");
            rest = tail;
            continue;
        };
        out.push_str(&value(name.trim(), scene));
        rest = after;
    }
    out.push_str(rest);
    out
}

fn value(name: &str, scene: &Scene<'_>) -> String {
    match name {
        "path" => return scene.path.to_owned(),
        "now" => return scene.now.clone(),
        _ => {}
    }
    if let Some(name) = name.strip_prefix("headers.") {
        return scene.headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or_default().to_owned();
    }
    if let Some(name) = name.strip_prefix("query.") {
        return scene.query.iter().find(|(key, _)| key == name).map(|(_, value)| value.clone()).unwrap_or_default();
    }
    let found = look(scene.payload, name.strip_prefix("payload.").unwrap_or(name));
    match found {
        None | Some(Value::Null) => String::new(),
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
    }
}

/// `messages[0].from`, `a.b.c`.
fn look<'a>(payload: &'a Value, path: &str) -> Option<&'a Value> {
    let mut at = payload;
    for step in path.split('.') {
        let (name, indexes) = step.split_once('[').map_or((step, ""), |(name, rest)| (name, rest));
        if !name.is_empty() {
            at = at.get(name)?;
        }
        for index in indexes.split('[').filter(|index| !index.is_empty()) {
            at = at.get(index.strip_suffix(']')?.trim().parse::<usize>().ok()?)?;
        }
    }
    Some(at)
}

#[cfg(test)]
mod tests {
    use super::{Scene, find, payloads, render};
    use ::http::{HeaderMap, HeaderValue};
    use clawstead_config::Raw;
    use serde_json::json;

    #[test]
    fn templates_take_from_the_request() {
        let payload = json!({"messages": [{"from": "Ann", "tags": ["a", "b"]}], "n": 3, "deep": {"x": {"y": true}}});
        let mut headers = HeaderMap::new();
        headers.insert("x-kind", HeaderValue::from_static("push"));
        let query = [("a".to_owned(), "1".to_owned())];
        let scene = Scene { path: "ci/build", query: &query, headers: &headers, payload: &payload, now: "2026-01-01T00:00:00Z".into() };
        for (template, text) in [
            ("from {{messages[0].from}}", "from Ann"),
            ("{{ messages[0].tags[1] }}{{payload.n}}", "b3"),
            ("{{deep.x}} {{deep.x.y}}", "{\"y\":true} true"),
            ("{{path}} {{now}} {{headers.x-kind}} {{query.a}}", "ci/build 2026-01-01T00:00:00Z push 1"),
            ("[{{nope.at.all}}{{messages[9].from}}]", "[]"),
            ("{{open", "{{open"),
            ("plain", "plain"),
        ] {
            assert_eq!(render(template, &scene), text, "{template}");
        }
    }

    #[test]
    fn the_first_that_fits_is_taken() {
        let mappings: Vec<Raw> = [
            json!({"id": "a", "match": {"path": "/ci/"}}),
            json!({"id": "b", "match": {"path": "ci", "source": "x"}}),
            json!({"id": "c", "match": {"source": "y"}}),
        ]
        .map(Raw)
        .into();
        let id = |path: &str, payload| find(&mappings, path, &payload).map(|m| m["id"].as_str().unwrap().to_owned());
        assert_eq!(id("ci", json!({})).as_deref(), Some("a"));
        assert_eq!(id("other", json!({"source": "y"})).as_deref(), Some("c"));
        assert_eq!(id("other", json!({})), None);
    }

    #[test]
    fn lists_are_taken_apart() {
        let payload = json!({"k": 1, "messages": ["a", "b"]});
        assert_eq!(payloads(&json!({"forEach": "messages"}), &payload), [json!({"k": 1, "messages": ["a"]}), json!({"k": 1, "messages": ["b"]})]);
        assert_eq!(payloads(&json!({}), &payload), std::slice::from_ref(&payload));
        assert!(payloads(&json!({"forEach": "nope"}), &payload).is_empty());
    }
}
