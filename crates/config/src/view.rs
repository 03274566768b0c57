use serde_json::{Map, Value};

use crate::{
    secret::{Secret, SecretRef},
    units,
};

/// A place in a value that may not be there: reads with a default and never fails (types were checked before).
#[derive(Clone, Copy)]
pub(crate) struct View<'a>(pub Option<&'a Value>);

impl<'a> View<'a> {
    pub fn at(self, key: &str) -> View<'a> {
        View(self.0.and_then(|v| v.get(key)).filter(|v| !v.is_null()))
    }

    pub fn path(self, path: &str) -> View<'a> {
        path.split('.').fold(self, View::at)
    }

    pub fn or(self, other: View<'a>) -> View<'a> {
        if self.0.is_some() { self } else { other }
    }

    pub fn present(self) -> bool {
        self.0.is_some()
    }

    pub fn str(self) -> Option<&'a str> {
        self.0.and_then(Value::as_str)
    }

    pub fn string(self) -> Option<String> {
        self.str().map(str::to_owned)
    }

    /// Text trimmed, none when empty.
    pub fn word(self) -> Option<String> {
        self.str().map(str::trim).filter(|s| !s.is_empty()).map(str::to_owned)
    }

    pub fn bool(self) -> Option<bool> {
        self.0.and_then(Value::as_bool)
    }

    pub fn flag(self, default: bool) -> bool {
        self.bool().unwrap_or(default)
    }

    pub fn u64(self) -> Option<u64> {
        let v = self.0?;
        v.as_u64().or_else(|| v.as_f64().filter(|f| *f >= 0.0 && *f < 9.0e15).map(|f| f as u64))
    }

    pub fn f64(self) -> Option<f64> {
        self.0.and_then(Value::as_f64)
    }

    /// Text, or a number as text.
    pub fn text(self) -> Option<String> {
        match self.0? {
            Value::String(s) => Some(s.clone()),
            Value::Number(n) => Some(n.to_string()),
            _ => None,
        }
    }

    /// A list of texts (numbers as text); a single text counts as a list of one.
    pub fn texts(self) -> Option<Vec<String>> {
        match self.0? {
            Value::Array(list) => Some(list.iter().filter_map(|v| View(Some(v)).text()).collect()),
            Value::String(s) => Some(vec![s.clone()]),
            _ => None,
        }
    }

    pub fn map(self) -> impl Iterator<Item = (&'a str, View<'a>)> {
        self.0.and_then(Value::as_object).into_iter().flatten().map(|(k, v)| (k.as_str(), View(Some(v))))
    }

    pub fn list(self) -> impl Iterator<Item = View<'a>> {
        self.0.and_then(Value::as_array).into_iter().flatten().map(|v| View(Some(v)))
    }

    pub fn object(self) -> Option<&'a Map<String, Value>> {
        self.0.and_then(Value::as_object)
    }

    /// The value, or null.
    pub fn cloned(self) -> Raw {
        Raw(self.0.cloned().unwrap_or(Value::Null))
    }

    /// Duration in milliseconds; a bare number is in `bare_ms`.
    pub fn duration_ms(self, bare_ms: u64) -> Option<u64> {
        units::duration_ms(&self.text()?, bare_ms)
    }

    pub fn size_bytes(self) -> Option<u64> {
        units::size_bytes(&self.text()?)
    }

    /// A credential that is there as text. References were replaced before; one that could not be is none.
    pub fn secret(self) -> Option<Secret> {
        let text = self.str().filter(|t| !t.is_empty())?;
        if SecretRef::from_short(text).is_some() { None } else { Some(Secret::new(text)) }
    }
}

/// A part of the configuration that its user decodes. Reads like a [`Value`]; its content is not printed, because
/// it may hold credentials.
#[derive(Clone, Default, PartialEq)]
pub struct Raw(pub Value);

impl std::ops::Deref for Raw {
    type Target = Value;
    fn deref(&self) -> &Value {
        &self.0
    }
}

impl From<Value> for Raw {
    fn from(value: Value) -> Self {
        Self(value)
    }
}

impl std::fmt::Debug for Raw {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if self.0.is_null() { "Raw(null)" } else { "Raw(..)" })
    }
}

/// Lays `over` on `base`: objects merge, everything else replaces.
pub(crate) fn overlay(base: &Value, over: &Value) -> Value {
    match (base, over) {
        (Value::Object(a), Value::Object(b)) => {
            let mut out = a.clone();
            for (key, value) in b {
                let merged = match out.get(key) {
                    Some(old) => overlay(old, value),
                    None => value.clone(),
                };
                out.insert(key.clone(), merged);
            }
            Value::Object(out)
        }
        (base, Value::Null) => base.clone(),
        (_, over) => over.clone(),
    }
}

/// The value at a path; list positions are numbers.
pub(crate) fn value_at<'a>(root: &'a Value, path: &[String]) -> Option<&'a Value> {
    path.iter().try_fold(root, |here, segment| match here {
        Value::Object(map) => map.get(segment),
        Value::Array(list) => segment.parse::<usize>().ok().and_then(|i| list.get(i)),
        _ => None,
    })
}
