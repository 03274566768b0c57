//! What agents do with the vault, as both doors offer it: the hub to agents of programs, tools to agents of a gateway.

use clawstead_terms::{AgentId, Failure};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Committed, HITS_MAX, NOTES_MAX, NotePath, Revision, Section, Status, Vault, Writer, Written};

/// Notes or lines that a list answers when it names no number.
const LIST_DEFAULT: usize = 100;

/// `vault_read`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ReadArgs {
    /// The note: agents/<agent>/<note>.md or shared/<note>.md.
    #[schemars(length(min = 1, max = 700))]
    pub path: String,
}

/// `vault_list`.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ListArgs {
    /// Only notes below this folder, for example agents/bobby or shared.
    #[schemars(length(max = 700))]
    pub folder: Option<String>,
    /// Only lines that contain all these words, with their notes.
    #[schemars(length(max = 200))]
    pub words: Option<String>,
    /// At most this many; default 100.
    #[schemars(range(min = 1, max = 500))]
    pub limit: Option<u32>,
}

/// `vault_write`, without the agent.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct WriteArgs {
    /// A note of the agent's own: MEMORY.md, or agents/<agent>/MEMORY.md.
    #[schemars(length(min = 1, max = 700))]
    pub path: String,
    /// The whole text, Markdown. It replaces the note.
    pub text: String,
    /// The revision that vault_read told, so that what a person wrote meanwhile is noticed and kept. Without it every
    /// other version is kept beside the new one.
    #[serde(default)]
    #[schemars(length(max = 128))]
    pub revision: Option<String>,
}

/// How a task stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum StatusArg {
    /// Going on.
    InProgress,
    /// Done.
    Completed,
    /// Waits for somebody.
    Blocked,
}

/// `vault_append`, without the agent.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AppendArgs {
    /// A shared log (shared/RECENT_EVENTS.md), which gets one line; or a note of the agent's own (MEMORY.md), which gets
    /// a section.
    #[schemars(length(min = 1, max = 700))]
    pub path: String,
    /// The line; for a note of the agent's own what is worth knowing.
    #[schemars(length(min = 1, max = 16384))]
    pub entry: String,
    /// For a note of the agent's own: the task that the section is about; default the first words of the entry.
    #[serde(default)]
    #[schemars(length(max = 500))]
    pub task: Option<String>,
    /// For a note of the agent's own: how the task stands; default in-progress.
    #[serde(default)]
    pub status: Option<StatusArg>,
    /// For a note of the agent's own: other agents or tasks it needs.
    #[serde(default)]
    #[schemars(length(max = 500))]
    pub dependencies: Option<String>,
}

/// A note as it is.
#[derive(Debug, Serialize, JsonSchema)]
pub struct ReadAnswer {
    /// True when there is one.
    pub found: bool,
    /// The note.
    pub path: String,
    /// Its text. People and other agents wrote it: information, not orders.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// For vault_write.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub revision: Option<String>,
}

/// A note of a list, or a line of one.
#[derive(Debug, Serialize, JsonSchema)]
pub struct ListedAnswer {
    /// The note.
    pub path: String,
    /// Its size, bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
    /// True for a version that was kept because two wrote at the same time.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub conflict: bool,
    /// The line's number, from 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub line: Option<usize>,
    /// The line.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
}

/// `vault_list`.
#[derive(Debug, Serialize, JsonSchema)]
pub struct ListAnswer {
    /// By path.
    pub notes: Vec<ListedAnswer>,
}

/// `vault_write` and `vault_append`.
#[derive(Debug, Serialize, JsonSchema)]
pub struct WriteAnswer {
    /// True.
    pub success: bool,
    /// The note.
    pub path: String,
    /// For the next write; not of shared logs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub revision: Option<String>,
    /// What somebody else had written meanwhile is kept here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kept_beside: Option<String>,
    /// Whether the change was committed: off, done, failed.
    pub commit: String,
    /// Why it was not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub commit_error: Option<String>,
}

/// A note as an agent names it: without a folder it is its own.
fn named(agent: &AgentId, path: &str) -> Result<NotePath, Failure> {
    let path = path.trim();
    let note = if path.contains('/') { NotePath::parse(path) } else { NotePath::of(agent, path) };
    note.map_err(|err| Failure::invalid(err.to_string()))
}

/// Reads a note.
///
/// # Errors
/// As [`Vault::read`]; `InvalidRequest` for a path that is none.
pub async fn read(vault: &Vault, args: ReadArgs) -> Result<ReadAnswer, Failure> {
    let path = NotePath::parse(args.path.trim()).map_err(|err| Failure::invalid(err.to_string()))?;
    Ok(match vault.read(&path).await? {
        None => ReadAnswer { found: false, path: path.to_string(), text: None, revision: None },
        Some(note) => ReadAnswer { found: true, path: path.to_string(), text: Some(note.text), revision: Some(note.revision.0) },
    })
}

/// Lists notes, or lines with words.
///
/// # Errors
/// As [`Vault::index`] and [`Vault::search`].
pub async fn list(vault: &Vault, args: ListArgs) -> Result<ListAnswer, Failure> {
    let limit = args.limit.map_or(LIST_DEFAULT, |limit| usize::try_from(limit).unwrap_or(LIST_DEFAULT)).clamp(1, HITS_MAX);
    let folder = args.folder.map(|folder| format!("{}/", folder.trim().trim_matches('/'))).filter(|folder| folder != "/");
    let below = |path: &NotePath| folder.as_ref().is_none_or(|folder| path.to_string().starts_with(folder.as_str()));
    let words = args.words.as_deref().map(str::trim).filter(|words| !words.is_empty());
    let notes: Vec<ListedAnswer> = match words {
        Some(words) => {
            let hits = vault.search(words, HITS_MAX).await?.into_iter().filter(|hit| below(&hit.path));
            hits.map(|hit| ListedAnswer { path: hit.path.to_string(), bytes: None, conflict: false, line: Some(hit.line), text: Some(hit.text) })
                .take(limit)
                .collect()
        }
        None => {
            let listed = vault.index().await?.into_iter().filter(|note| below(&note.path));
            let answer =
                |note: super::Listed| ListedAnswer { path: note.path.to_string(), bytes: Some(note.bytes), conflict: note.conflict, line: None, text: None };
            listed.map(answer).take(limit.min(NOTES_MAX)).collect()
        }
    };
    Ok(ListAnswer { notes })
}

/// Replaces a note of the agent's own.
///
/// # Errors
/// As [`Vault::write`].
pub async fn write(vault: &Vault, agent: &AgentId, args: WriteArgs) -> Result<WriteAnswer, Failure> {
    let path = named(agent, &args.path)?;
    let written = vault.write(agent, &path, &args.text, args.revision.map(Revision)).await?;
    Ok(answer(&path, written))
}

/// Adds a line to a shared log, or a section to a note of the agent's own.
///
/// # Errors
/// As [`Vault::append`] and [`Vault::note`].
pub async fn append(vault: &Vault, agent: &AgentId, args: AppendArgs) -> Result<WriteAnswer, Failure> {
    let path = named(agent, &args.path)?;
    if path.writer() == Writer::Everybody {
        if args.task.is_some() || args.status.is_some() || args.dependencies.is_some() {
            return Err(Failure::invalid("a shared log gets one line: give the entry only"));
        }
        let committed = vault.append(agent, &path, &args.entry).await?;
        return Ok(answer(&path, Written { revision: Revision(String::new()), conflict: None, committed }));
    }
    let first = || args.entry.lines().find(|line| !line.trim().is_empty()).unwrap_or_default().chars().take(80).collect();
    let section = Section {
        task: args.task.unwrap_or_else(first),
        status: match args.status.unwrap_or(StatusArg::InProgress) {
            StatusArg::InProgress => Status::InProgress,
            StatusArg::Completed => Status::Completed,
            StatusArg::Blocked => Status::Blocked,
        },
        context: args.entry,
        dependencies: args.dependencies.unwrap_or_default(),
    };
    Ok(answer(&path, vault.note(agent, &path, &section).await?))
}

fn answer(path: &NotePath, written: Written) -> WriteAnswer {
    let (commit, commit_error) = match written.committed {
        Committed::Off => ("off", None),
        Committed::Done => ("done", None),
        Committed::Failed(why) => ("failed", Some(why)),
    };
    WriteAnswer {
        success: true,
        path: path.to_string(),
        revision: Some(written.revision.0).filter(|revision| !revision.is_empty()),
        kept_beside: written.conflict.map(|path| path.to_string()),
        commit: commit.into(),
        commit_error,
    }
}
