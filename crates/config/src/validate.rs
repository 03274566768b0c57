//! Types and values against the table of known keys. Only keys that are there are looked up.

use serde_json::Value;

use crate::{
    env::Env,
    issue::{Issue, Severity},
    normalise::Moves,
    paths::Paths,
    rules, schema,
    secret::SecretRef,
};

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

/// Where issues go; turns paths back to the spelling of the file.
pub(crate) struct Sink<'a> {
    pub issues: &'a mut Vec<Issue>,
    pub moves: &'a Moves,
}

impl Sink<'_> {
    pub fn push(&mut self, severity: Severity, at: &[String], message: impl Into<String>) -> &mut Issue {
        self.issues.push(Issue::new(severity, &self.moves.original(at), message));
        let last = self.issues.len() - 1;
        &mut self.issues[last]
    }

    pub fn error(&mut self, at: &[String], message: impl Into<String>) -> &mut Issue {
        self.push(Severity::Error, at, message)
    }
}

pub(crate) fn validate(root: &Value, paths: &Paths, env: &Env, moves: &Moves, issues: &mut Vec<Issue>) {
    let mut sink = Sink { issues, moves };
    let before = sink.issues.len();
    object(root, "", true, &mut Vec::new(), &mut sink);
    if sink.issues[before..].iter().all(|i| i.severity != Severity::Error) {
        rules::check(root, paths, env, &mut sink);
    }
}

fn object(value: &Value, row_path: &str, strict: bool, at: &mut Vec<String>, sink: &mut Sink<'_>) {
    let Some(map) = value.as_object() else { return };
    let mut unknown = Vec::new();
    for (key, inner) in map {
        match schema::child(row_path, key) {
            Some(row) => {
                at.push(key.clone());
                check(inner, row.kind, row.path, at, sink);
                at.pop();
            }
            None if strict => unknown.push(key.as_str()),
            None => {}
        }
    }
    if let Some(first) = unknown.first() {
        let list = unknown.iter().map(|k| format!("\"{k}\"")).collect::<Vec<_>>().join(", ");
        let plural = if unknown.len() > 1 { "s" } else { "" };
        // A farm with a setting left out by a typing error could trust or share more than was meant.
        let severity = if at.first().is_some_and(|root| root == "farm") { Severity::Error } else { Severity::Unknown };
        let issue = sink.push(severity, at, format!("Unrecognized key{plural}: {list}"));
        let names: Vec<&str> = schema::children(row_path).filter_map(|r| r.path.rsplit('.').next()).filter(|n| *n != "*").collect();
        issue.suggestion = nearest(first, names.into_iter());
        issue.at.push((*first).to_owned());
    }
}

/// The most alike of some names, when it is alike enough to be meant.
pub(crate) fn nearest<'n>(word: &str, names: impl Iterator<Item = &'n str>) -> Option<String> {
    let lower = word.to_lowercase();
    names
        .map(|n| (strsim::damerau_levenshtein(&lower, &n.to_lowercase()), n))
        .filter(|(distance, n)| *distance <= (word.chars().count().max(n.len()) / 3).max(1))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, n)| n.to_owned())
}

fn check(value: &Value, kind: &str, row_path: &str, at: &mut Vec<String>, sink: &mut Sink<'_>) {
    let alternatives = split_kinds(kind);
    // containers first: their parts speak for themselves
    for alt in &alternatives {
        match (alt.as_bytes().first(), value) {
            (Some(b'o'), Value::Object(_)) => return object(value, row_path, true, at, sink),
            (Some(b'm'), Value::Object(_)) => return object(value, row_path, false, at, sink),
            (Some(b'x'), _) => return,
            _ => {}
        }
    }
    let lists: Vec<&str> = alternatives.iter().filter_map(|a| a.strip_prefix('[')?.strip_suffix(']')).collect();
    if let Value::Array(items) = value
        && !lists.is_empty()
    {
        let inner = lists.join("|");
        let element = schema::row(&format!("{row_path}.*")).map(schema::target);
        for (i, item) in items.iter().enumerate() {
            at.push(i.to_string());
            match element {
                Some(row) if item.is_object() && split_kinds(row.kind).iter().any(|k| matches!(*k, "o" | "m")) => check(item, row.kind, row.path, at, sink),
                _ => check(item, &inner, &format!("{row_path}.*"), at, sink),
            }
            at.pop();
        }
        return;
    }
    let mut reason = None;
    for alt in &alternatives {
        match scalar(value, alt) {
            Fit::Yes => return,
            Fit::Bound(message) => reason = Some(message),
            Fit::No => {}
        }
    }
    if let Some(message) = reason {
        sink.error(at, message);
        return;
    }
    let names: Vec<&str> = alternatives.iter().filter_map(|a| a.strip_prefix('=')).flat_map(|l| l.split(',')).collect();
    if !names.is_empty() && (value.is_string() || alternatives.len() == 1) {
        let list = names.iter().map(|n| format!("\"{n}\"")).collect::<Vec<_>>().join(", ");
        let issue = sink.error(at, format!("Invalid input (allowed: {list})"));
        issue.suggestion = value.as_str().and_then(|v| nearest(v, names.iter().copied()));
        issue.allowed_values = names.into_iter().map(str::to_owned).collect();
        return;
    }
    let mut expected: Vec<&str> = alternatives.iter().map(|a| kind_name(a)).collect();
    expected.dedup();
    sink.error(at, format!("Invalid input: expected {}, received {}", expected.join(" or "), type_name(value)));
}

/// Alternatives of a type, not split inside lists.
pub(crate) fn split_kinds(kind: &str) -> Vec<&str> {
    let (mut depth, mut start, mut out) = (0, 0, Vec::new());
    for (i, b) in kind.bytes().enumerate() {
        match b {
            b'[' => depth += 1,
            b']' => depth -= 1,
            b'|' if depth == 0 => {
                out.push(&kind[start..i]);
                start = i + 1;
            }
            _ => {}
        }
    }
    out.push(&kind[start..]);
    out
}

fn kind_name(kind: &str) -> &'static str {
    match kind.as_bytes().first() {
        Some(b'b' | b'T' | b'F') => "boolean",
        Some(b'i' | b'n') => "number",
        Some(b'o' | b'm') => "object",
        Some(b'[') => "array",
        Some(b'0') => "null",
        _ => "string",
    }
}

enum Fit {
    Yes,
    No,
    /// The right type, a wrong size.
    Bound(String),
}

fn scalar(value: &Value, kind: &str) -> Fit {
    let yes = |fits: bool| if fits { Fit::Yes } else { Fit::No };
    let rest = kind.get(1..).unwrap_or_default();
    match (kind.as_bytes().first(), value) {
        (Some(b'b'), Value::Bool(_)) | (Some(b'0'), Value::Null) | (Some(b'T'), Value::Bool(true)) | (Some(b'F'), Value::Bool(false)) => Fit::Yes,
        (Some(b's'), Value::String(text)) => length(text, rest),
        (Some(b'S'), Value::String(_)) => Fit::Yes,
        (Some(b'S'), Value::Object(_)) => match SecretRef::from_value(value) {
            Some(r) => match r.check() {
                Ok(()) => Fit::Yes,
                Err(rule) => Fit::Bound(rule.to_owned()),
            },
            None => Fit::No,
        },
        (Some(b'i' | b'n'), Value::Number(number)) => {
            let n = number.as_f64().unwrap_or(f64::NAN);
            if kind.starts_with('i') && n.fract() != 0.0 {
                return Fit::Bound("Invalid input: expected int, received number".into());
            }
            range(n, rest)
        }
        (Some(b'='), Value::String(text)) => yes(rest.split(',').any(|n| n == text)),
        (Some(b'='), Value::Number(n)) => yes(rest.split(',').any(|name| name == n.to_string())),
        (Some(b'~'), Value::String(_)) => Fit::Yes,
        _ => Fit::No,
    }
}

fn length(text: &str, bounds: &str) -> Fit {
    let Some((min, max)) = bounds.strip_prefix('#').and_then(|b| b.split_once(',')) else { return Fit::Yes };
    let count = text.chars().count();
    if let Ok(min) = min.parse::<usize>()
        && count < min
    {
        return Fit::Bound(format!("Too small: expected string to have >={min} characters"));
    }
    match max.parse::<usize>() {
        Ok(max) if count > max => Fit::Bound(format!("Too big: expected string to have <={max} characters")),
        _ => Fit::Yes,
    }
}

fn range(n: f64, bounds: &str) -> Fit {
    let (low, high) = match bounds.find('<') {
        Some(at) => bounds.split_at(at),
        None => (bounds, ""),
    };
    let limit = |text: &str, sign: char| -> Option<(bool, f64)> {
        let rest = text.strip_prefix(sign)?;
        let (with, number) = rest.strip_prefix('=').map_or((false, rest), |r| (true, r));
        Some((with, number.parse().ok()?))
    };
    let word = |with: bool| if with { "=" } else { "" };
    if let Some((with, min)) = limit(low, '>')
        && !(n > min || (with && n >= min))
    {
        return Fit::Bound(format!("Too small: expected number to be >{}{min}", word(with)));
    }
    if let Some((with, max)) = limit(high, '<')
        && !(n < max || (with && n <= max))
    {
        return Fit::Bound(format!("Too big: expected number to be <{}{max}", word(with)));
    }
    Fit::Yes
}
