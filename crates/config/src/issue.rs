use std::{fmt, path::PathBuf};

use serde::Serialize;

/// How bad an issue is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Nothing to do; says how a value was understood.
    Info,
    /// Works, but not as written or not for long.
    Warning,
    /// An unknown key: refused by `config validate` and `config set`, ignored with a warning when a gateway starts.
    Unknown,
    /// The file cannot be used.
    Error,
}

/// One thing to say about a configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Issue {
    /// Dotted path, list positions as numbers, `<root>` for the whole file. For an unknown key this is the
    /// object that holds it.
    pub path: String,
    /// One line in the vocabulary of OpenClaw; never holds a secret.
    pub message: String,
    /// How bad.
    pub severity: Severity,
    /// The values that would be right, where there is a list.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub allowed_values: Vec<String>,
    /// The nearest known key or value.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub suggestion: Option<String>,
    /// The file, when known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<PathBuf>,
    /// Line from 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub line: Option<u32>,
    /// Column from 1, in characters.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub column: Option<u32>,
    /// The segments that lead to the place in the file (the key itself for an unknown key).
    #[serde(skip)]
    pub(crate) at: Vec<String>,
}

impl Issue {
    pub(crate) fn new(severity: Severity, at: &[String], message: impl Into<String>) -> Self {
        Self {
            path: join_path(at),
            message: message.into(),
            severity,
            allowed_values: Vec::new(),
            suggestion: None,
            file: None,
            line: None,
            column: None,
            at: at.to_vec(),
        }
    }

    pub(crate) fn error(at: &[String], message: impl Into<String>) -> Self {
        Self::new(Severity::Error, at, message)
    }

    pub(crate) fn warning(at: &[String], message: impl Into<String>) -> Self {
        Self::new(Severity::Warning, at, message)
    }

    pub(crate) fn info(at: &[String], message: impl Into<String>) -> Self {
        Self::new(Severity::Info, at, message)
    }

    /// The line a gateway prints when it refuses to start: `openclaw.json:10 — agents: <message>`.
    #[must_use]
    pub fn located(&self) -> String {
        let name = self.file.as_ref().and_then(|f| f.file_name()).map(|n| n.to_string_lossy().into_owned());
        match (name, self.line) {
            (Some(name), Some(line)) => format!("{name}:{line} — {self}"),
            _ => self.to_string(),
        }
    }
}

impl fmt::Display for Issue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path, self.message)?;
        match &self.suggestion {
            Some(s) => write!(f, " (did you mean \"{s}\"?)"),
            None => Ok(()),
        }
    }
}

/// A configuration that cannot be used. `issues` holds the reasons only.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invalid {
    /// The root file.
    pub file: PathBuf,
    /// At least one.
    pub issues: Vec<Issue>,
}

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Invalid config at {}:", self.file.display())?;
        for issue in &self.issues {
            write!(f, "\n{}", issue.located())?;
        }
        Ok(())
    }
}

impl std::error::Error for Invalid {}

/// Joins segments to a dotted path; `<root>` when there are none.
#[must_use]
pub fn join_path(segments: &[String]) -> String {
    if segments.is_empty() { "<root>".into() } else { segments.join(".") }
}

/// Splits a path as the command line writes it: `agents.list[0].id`, `channels["my-x"].token`, `a.0.b`.
///
/// # Errors
/// With the reason in words when a bracket or quote is not closed, a segment is empty or a key is one that
/// JavaScript treats specially.
pub fn split_path(text: &str) -> Result<Vec<String>, String> {
    let mut out = Vec::new();
    let mut cur = String::new();
    let mut chars = text.trim().chars().peekable();
    let mut after_bracket = false;
    while let Some(c) = chars.next() {
        match c {
            '.' => {
                if cur.is_empty() && !after_bracket {
                    return Err(format!("Invalid config path: {text}"));
                }
                if !cur.is_empty() {
                    out.push(std::mem::take(&mut cur));
                }
                after_bracket = false;
                if chars.peek().is_none() {
                    return Err(format!("Invalid config path: {text}"));
                }
            }
            '[' => {
                if !cur.is_empty() {
                    out.push(std::mem::take(&mut cur));
                }
                let mut inner = String::new();
                let quote = chars.peek().copied().filter(|q| matches!(q, '"' | '\''));
                let mut closed = false;
                if let Some(q) = quote {
                    chars.next();
                    while let Some(c) = chars.next() {
                        match c {
                            '\\' => inner.extend(chars.next()),
                            c if c == q => {
                                closed = chars.next() == Some(']');
                                break;
                            }
                            c => inner.push(c),
                        }
                    }
                } else {
                    for c in chars.by_ref() {
                        if c == ']' {
                            closed = true;
                            break;
                        }
                        inner.push(c);
                    }
                }
                if !closed || inner.is_empty() {
                    return Err(format!("Invalid config path: {text}"));
                }
                out.push(inner);
                after_bracket = true;
            }
            '\\' => cur.extend(chars.next()),
            c => {
                cur.push(c);
                after_bracket = false;
            }
        }
    }
    if !cur.is_empty() {
        out.push(cur);
    }
    if let Some(bad) = out.iter().find(|s| crate::text::BLOCKED_KEYS.contains(&s.as_str())) {
        return Err(format!("Blocked config key: {bad}"));
    }
    if out.is_empty() { Err("Empty config path".into()) } else { Ok(out) }
}
