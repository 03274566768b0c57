//! Hiding credentials in what is shown.

use serde_json::Value;

use crate::{schema, secret::REDACTED};

/// A copy in which every credential is [`REDACTED`]. `${NAME}` texts and references stay: they hold no secret.
#[must_use]
pub fn redact(value: &Value) -> Value {
    let mut out = value.clone();
    walk(&mut out, &mut Vec::new(), false);
    out
}

/// As [`redact`], for the value at a path.
#[must_use]
pub fn redact_at(path: &[String], value: &Value) -> Value {
    let mut out = value.clone();
    let secret = path.last().is_some_and(|k| is_secret_key(k)) || schema::is_secret(path) || in_secret_map(path);
    walk(&mut out, &mut path.to_vec(), secret);
    out
}

/// Key names that hold a credential wherever they are.
pub(crate) fn is_secret_key(key: &str) -> bool {
    let lower = key.to_ascii_lowercase();
    let harmless = ["maxtokens", "tokens", "tokenfile", "tokenbudget", "passwordfile", "tokencount", "keepRecentTokens"];
    if harmless.iter().any(|h| lower == h.to_ascii_lowercase()) || lower.ends_with("tokens") || lower.ends_with("path") || lower.ends_with("file") {
        return false;
    }
    ["token", "password", "secret", "apikey", "api_key", "privatekey", "private_key", "accesskey", "connectionstring", "passphrase"]
        .iter()
        .any(|part| lower.ends_with(part))
}

/// Maps whose values are credentials: variables and HTTP headers.
fn in_secret_map(path: &[String]) -> bool {
    let Some((_, parents)) = path.split_last() else { return false };
    parents.last().is_some_and(|p| matches!(p.as_str(), "headers" | "env" | "vars")) && path.first().is_some_and(|p| p != "hooks" || path.len() > 2)
}

fn walk(value: &mut Value, at: &mut Vec<String>, hide: bool) {
    match value {
        Value::String(text) if hide && (text.is_empty() || is_reference_text(text)) => {}
        Value::String(text) if hide => *text = REDACTED.into(),
        Value::String(text) => {
            if let Some(clean) = without_userinfo(text) {
                *text = clean;
            }
        }
        Value::Number(_) if hide => *value = Value::String(REDACTED.into()),
        Value::Array(list) => {
            for (i, inner) in list.iter_mut().enumerate() {
                at.push(i.to_string());
                walk(inner, at, hide);
                at.pop();
            }
        }
        Value::Object(map) => {
            if crate::secret::SecretRef::from_value(&Value::Object(map.clone())).is_some() {
                return;
            }
            for (key, inner) in map.iter_mut() {
                at.push(key.clone());
                let secret = inner.is_string() || inner.is_number() || inner.is_array();
                let secret = secret && (is_secret_key(key) || in_secret_map(at) || (!inner.is_number() && schema::is_secret(at)));
                let secret = secret && (!inner.is_number() || in_secret_map(at));
                walk(inner, at, hide || secret);
                at.pop();
            }
        }
        _ => {}
    }
}

fn is_reference_text(text: &str) -> bool {
    crate::secret::SecretRef::from_short(text).is_some()
}

/// `scheme://user:password@host` with the password hidden; none when there is none.
fn without_userinfo(text: &str) -> Option<String> {
    let (scheme, rest) = text.split_once("://")?;
    let authority_end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (userinfo, _) = rest.get(..authority_end)?.rsplit_once('@')?;
    let (user, password) = userinfo.split_once(':')?;
    (!password.is_empty() && !password.starts_with("${")).then(|| format!("{scheme}://{user}:{REDACTED}{}", &rest[userinfo.len()..]))
}

/// True when the placeholder is anywhere in the value.
#[must_use]
pub fn has_placeholder(value: &Value) -> bool {
    match value {
        Value::String(s) => s.contains(REDACTED),
        Value::Array(list) => list.iter().any(has_placeholder),
        Value::Object(map) => map.values().any(has_placeholder),
        _ => false,
    }
}

/// Puts what `old` has in the place of every placeholder of `new`, so that a shown and edited config can be
/// written back.
///
/// # Errors
/// With the path of a placeholder for which `old` has nothing.
pub fn restore_placeholders(new: &mut Value, old: Option<&Value>) -> Result<(), Vec<String>> {
    restore(new, old, &mut Vec::new())
}

fn restore(new: &mut Value, old: Option<&Value>, at: &mut Vec<String>) -> Result<(), Vec<String>> {
    match new {
        Value::String(text) if text.contains(REDACTED) => match old {
            Some(Value::String(was)) if text == REDACTED || without_userinfo(was).as_deref() == Some(text.as_str()) => {
                *text = was.clone();
                Ok(())
            }
            Some(was @ Value::Number(_)) if text == REDACTED => {
                *new = was.clone();
                Ok(())
            }
            _ => Err(at.clone()),
        },
        Value::Array(list) => {
            let olds = old.and_then(Value::as_array);
            // entries that name themselves are found by name, so that moving one does not swap credentials
            for (i, inner) in list.iter_mut().enumerate() {
                let named = ["id", "name"].iter().find_map(|k| {
                    let name = inner.get(k)?;
                    olds?.iter().find(|o| o.get(k) == Some(name))
                });
                at.push(i.to_string());
                restore(inner, named.or_else(|| olds.and_then(|o| o.get(i))), at)?;
                at.pop();
            }
            Ok(())
        }
        Value::Object(map) => {
            for (key, inner) in map.iter_mut() {
                at.push(key.clone());
                restore(inner, old.and_then(|o| o.get(key)), at)?;
                at.pop();
            }
            Ok(())
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn credentials_are_hidden_and_come_back() {
        let value = json!({
            "gateway": {"auth": {"mode": "token", "token": "t0p"}, "port": 18789, "remote": {"url": "wss://u:pw@host/x", "token": "${TOKEN}"}},
            "models": {"providers": {"x": {"apiKey": {"source": "env", "provider": "default", "id": "K"}, "baseUrl": "http://h", "headers": {"X-Key": "abc"},
                "models": [{"id": "m", "maxTokens": 5, "contextWindow": 10}]}}},
            "channels": {"slack": {"botToken": "xoxb-1", "accounts": {"a": {"appToken": "xapp"}}}, "matrix": {"accessToken": "y"}},
            "env": {"FOO": "bar", "vars": {"K": "v"}, "shellEnv": {"enabled": true, "timeoutMs": 4}},
            "memory": {"pgvector": {"connectionString": "postgres://a:b@h/d"}},
            "mcp": {"servers": {"s": {"env": {"A": "b"}, "command": "c"}}},
        });
        let shown = redact(&value);
        let text = shown.to_string();
        for secret in ["t0p", "pw@", "abc", "xoxb-1", "xapp", "\"y\"", "\"bar\"", "\"v\"", "a:b@", "\"b\""] {
            assert!(!text.contains(secret), "{secret} in {text}");
        }
        for kept in
            ["18789", "${TOKEN}", "\"source\"", "http://h", "\"maxTokens\":5", "\"contextWindow\":10", "\"timeoutMs\":4", "\"command\":\"c\"", "wss://u:"]
        {
            assert!(text.contains(kept), "{kept} in {text}");
        }
        let mut back = shown;
        restore_placeholders(&mut back, Some(&value)).unwrap();
        assert_eq!(back, value);
        let mut lost = json!({"gateway": {"auth": {"password": REDACTED}}});
        assert_eq!(restore_placeholders(&mut lost, Some(&value)), Err(vec!["gateway".into(), "auth".into(), "password".into()]));
        assert!(has_placeholder(&json!({"a": [{"b": REDACTED}]})));
        assert_eq!(redact_at(&["gateway".into(), "auth".into(), "token".into()], &json!("x")), json!(REDACTED));
        assert_eq!(redact_at(&["gateway".into(), "port".into()], &json!(1)), json!(1));
    }
}
