//! What notes look like: front matter, sections of an agent's note, lines of a shared log.

use std::{collections::BTreeMap, fmt::Write as _};

use clawstead_terms::{AgentId, Millis};

use crate::memory::format::rfc3339;

/// Bytes of one line of a shared log, without time and agent. One line is one write.
pub const LINE_BYTES_MAX: usize = 2 * 1024;

/// The `---` block at the head of a note: flat `name: value` lines, as editors show them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FrontMatter(pub BTreeMap<String, String>);

impl FrontMatter {
    /// Splits a note into front matter and text. A note without a block has an empty one; lines that are no
    /// `name: value` are left out here and stay in the file.
    #[must_use]
    pub fn split(note: &str) -> (Self, &str) {
        let none = (Self::default(), note);
        let Some(rest) = note.strip_prefix("---\n").or_else(|| note.strip_prefix("---\r\n")) else { return none };
        let mut at = 0;
        let mut fields = BTreeMap::new();
        for line in rest.split_inclusive('\n') {
            at += line.len();
            let line = line.trim_end();
            if line == "---" {
                return (Self(fields), &rest[at..]);
            }
            if let Some((name, value)) = line.split_once(':').filter(|(name, _)| !name.is_empty() && !name.starts_with([' ', '#', '-'])) {
                fields.insert(name.trim().to_owned(), plain(value));
            }
        }
        none
    }
}

/// A value without its quotes and its comment.
fn plain(value: &str) -> String {
    let value = value.trim();
    for quote in ['"', '\''] {
        if let Some(inner) = value.strip_prefix(quote).and_then(|rest| rest.split_once(quote)) {
            return inner.0.to_owned();
        }
    }
    value.split(" #").next().unwrap_or_default().trim_end().to_owned()
}

/// How a task of an agent stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// Going on.
    InProgress,
    /// Done.
    Completed,
    /// Waits for somebody.
    Blocked,
}

/// One section of an agent's `MEMORY.md`, in the published form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Section {
    /// The current task.
    pub task: String,
    /// How it stands.
    pub status: Status,
    /// What is worth knowing.
    pub context: String,
    /// Other agents or tasks it needs; empty leaves the line out.
    pub dependencies: String,
}

impl Section {
    /// As text, with its time as heading.
    #[must_use]
    pub fn text(&self, at: Millis) -> String {
        let status = match self.status {
            Status::InProgress => "in-progress",
            Status::Completed => "completed",
            Status::Blocked => "blocked",
        };
        let mut text = format!("\n## {}\n\n**Task:** {}\n**Status:** {status}\n**Context:** {}\n", rfc3339(at), one_line(&self.task), self.context.trim());
        if !self.dependencies.trim().is_empty() {
            let _ = writeln!(text, "**Dependencies:** {}", one_line(&self.dependencies));
        }
        text
    }
}

/// The head of a new note of an agent.
#[must_use]
pub fn agent_head(agent: &AgentId, stem: &str, at: Millis) -> String {
    format!("---\nname: {stem}\ndescription: {stem} of {agent}\nagent: {agent}\ncreated: {}\n---\n\n# {stem}\n", rfc3339(at))
}

/// The head of a new shared log.
#[must_use]
pub fn log_head(stem: &str, at: Millis) -> String {
    format!("---\nname: {stem}\ndescription: Shared log; lines are only added\ncreated: {}\n---\n\n# {stem}\n\n", rfc3339(at))
}

/// One line of a shared log: a list item with time and agent.
#[must_use]
pub fn log_line(agent: &AgentId, text: &str, at: Millis) -> String {
    format!("- {} **{agent}**: {}\n", rfc3339(at), one_line(text))
}

/// A line of a shared log, read back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogLine {
    /// When, RFC 3339.
    pub at: String,
    /// Who.
    pub agent: AgentId,
    /// What.
    pub text: String,
}

impl LogLine {
    /// Reads a line; `None` for what people wrote between.
    #[must_use]
    pub fn parse(line: &str) -> Option<Self> {
        let (at, rest) = line.strip_prefix("- ")?.split_once(" **")?;
        let (agent, text) = rest.split_once("**: ")?;
        crate::memory::format::moment(at)?;
        Some(Self { at: at.to_owned(), agent: AgentId::parse(agent).ok()?, text: text.trim_end().to_owned() })
    }
}

/// Without line breaks and control characters: one entry is one line.
fn one_line(text: &str) -> String {
    text.split(|c: char| c.is_control()).map(str::trim).filter(|part| !part.is_empty()).collect::<Vec<_>>().join(" ")
}
