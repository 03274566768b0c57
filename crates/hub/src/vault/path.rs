//! Names of notes: what may be named at all, before any file is touched.

use std::fmt;

use clawstead_terms::AgentId;

/// Folders below the vault's root, with the note itself.
const PARTS_MAX: usize = 6;

/// Bytes of one part.
const PART_BYTES_MAX: usize = 120;

/// Where a note lies.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct NotePath(Vec<String>);

/// Who may write a note.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Writer {
    /// `agents/<id>/…`: this agent only.
    Agent(AgentId),
    /// `shared/….md`: everybody, and only by appending.
    Everybody,
}

/// Why a text names no note.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{path:?} is no note of the vault: {why}")]
pub struct PathError {
    /// The text.
    pub path: String,
    /// The rule it breaks.
    pub why: &'static str,
}

impl NotePath {
    /// Reads `agents/<id>/<note>.md` (with folders between, if wanted) or `shared/<note>.md`, with forward slashes.
    ///
    /// # Errors
    /// For everything else: absolute paths, `..`, hidden files, control characters, other endings.
    pub fn parse(text: &str) -> Result<Self, PathError> {
        let refuse = |why| Err(PathError { path: text.chars().take(200).collect(), why });
        let parts: Vec<&str> = text.split('/').collect();
        if parts.len() > PARTS_MAX {
            return refuse("too many folders (6 parts at most)");
        }
        for part in &parts {
            if part.is_empty() || part.len() > PART_BYTES_MAX {
                return refuse("each part has 1 to 120 bytes");
            }
            if part.starts_with('.') || part.starts_with('-') || part.starts_with(' ') || part.ends_with(' ') {
                return refuse("a part starts with a letter, digit or _ and has no space at its ends");
            }
            if part.chars().any(|c| c.is_control() || matches!(c, '\\' | ':' | '*' | '?' | '"' | '<' | '>' | '|')) {
                return refuse("parts have no control characters and none of \\ : * ? \" < > |");
            }
        }
        let file = parts.last().copied().unwrap_or_default();
        if !file.ends_with(".md") || file.len() == 3 {
            return refuse("a note ends with .md");
        }
        match parts.as_slice() {
            ["shared", _] => {}
            ["agents", id, _, ..] if AgentId::parse(id).is_ok() => {}
            _ => return refuse("notes are agents/<agent id>/<note>.md and shared/<note>.md"),
        }
        Ok(Self(parts.into_iter().map(str::to_owned).collect()))
    }

    /// A note of an agent.
    ///
    /// # Errors
    /// As [`Self::parse`].
    pub fn of(agent: &AgentId, note: &str) -> Result<Self, PathError> {
        Self::parse(&format!("agents/{agent}/{note}"))
    }

    /// A shared log.
    ///
    /// # Errors
    /// As [`Self::parse`].
    pub fn shared(note: &str) -> Result<Self, PathError> {
        Self::parse(&format!("shared/{note}"))
    }

    /// Who may write it.
    #[must_use]
    pub fn writer(&self) -> Writer {
        match self.0.as_slice() {
            [agents, id, ..] if agents == "agents" => AgentId::parse(id).map_or(Writer::Everybody, Writer::Agent),
            _ => Writer::Everybody,
        }
    }

    /// The folders.
    #[must_use]
    pub fn folders(&self) -> &[String] {
        self.0.split_last().map_or(&[], |(_, folders)| folders)
    }

    /// The file's name.
    #[must_use]
    pub fn file(&self) -> &str {
        self.0.last().map(String::as_str).unwrap_or_default()
    }

    /// The file's name without `.md`.
    #[must_use]
    pub fn stem(&self) -> &str {
        self.file().strip_suffix(".md").unwrap_or_default()
    }

    /// The same place with another file name.
    pub(super) fn beside(&self, file: String) -> Self {
        let mut parts = self.0.clone();
        if let Some(last) = parts.last_mut() {
            *last = file;
        }
        Self(parts)
    }
}

impl fmt::Display for NotePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("/"))
    }
}
