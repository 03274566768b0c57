//! The shared vault: Markdown notes that agents write and people read, and edit, in any editor.
//!
//! ```text
//! <vault>/agents/<id>/MEMORY.md, HISTORY.md, …   one writer: that agent
//! <vault>/shared/RECENT_EVENTS.md, …             append-only logs: one line per entry, with time and agent
//! ```
//!
//! People may edit everything. When a person (or a synchroniser) changed an agent's note since the agent read it, the
//! agent's version takes its place and the other one is kept beside it as `<note>.conflict-<time>.md`: nothing is lost,
//! and the agent is told. Lines are added to shared logs under a file lock, so gateways on one machine (or on a file
//! system with working locks) do not mix them; NFS without locks is not such a file system.

mod files;
pub mod git;
pub mod note;
pub mod ops;
pub mod path;
#[cfg(test)]
mod tests;

use std::{collections::VecDeque, path::PathBuf, sync::Arc};

use clawstead_terms::{AgentId, Failure, FailureCode};
use clawstead_world::World;
use tokio::sync::Mutex;

pub use files::NOTE_BYTES_MAX;
pub use git::{Commits, Committed};
pub use note::{FrontMatter, LINE_BYTES_MAX, LogLine, Section, Status};
pub use path::{NotePath, PathError, Writer};

/// Notes an index lists, and a search reads, at most.
pub const NOTES_MAX: usize = 5_000;

/// Lines a search answers at most.
pub const HITS_MAX: usize = 500;

/// What a note's text is known by. Give it back to [`Vault::write`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Revision(pub String);

/// A note as it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// Where it lies.
    pub path: NotePath,
    /// The whole text, front matter included.
    pub text: String,
    /// The front matter's fields.
    pub front: FrontMatter,
    /// For the next write.
    pub revision: Revision,
}

/// A note in the index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Where it lies.
    pub path: NotePath,
    /// Its size, bytes.
    pub bytes: u64,
    /// True for a version that was kept because of a conflict.
    pub conflict: bool,
}

/// A line a search found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hit {
    /// The note.
    pub path: NotePath,
    /// The line's number, from 1.
    pub line: usize,
    /// The line.
    pub text: String,
}

/// What became of a write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    /// For the next write.
    pub revision: Revision,
    /// The version somebody else made meanwhile, kept here.
    pub conflict: Option<NotePath>,
    /// What became of the commit.
    pub committed: Committed,
}

/// Why the vault did not do what was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum VaultError {
    /// The name.
    #[error(transparent)]
    Path(#[from] PathError),
    /// Not its writer.
    #[error("{path} is not written by {agent}: {rule}")]
    NotYours {
        /// The note.
        path: String,
        /// Who tried.
        agent: AgentId,
        /// Who writes it.
        rule: &'static str,
    },
    /// A link, a folder, a pipe.
    #[error("{0} is not a plain file in plain folders; links are not followed in the vault")]
    Link(String),
    /// Larger than a note may be.
    #[error("{path} would be larger than {max} bytes; start another note")]
    TooLarge {
        /// The note.
        path: String,
        /// The bound, bytes.
        max: usize,
    },
    /// Not UTF-8.
    #[error("{0} is not text in UTF-8")]
    NotText(String),
    /// Nothing to add.
    #[error("an entry has 1 to {LINE_BYTES_MAX} bytes, not {0}")]
    Entry(usize),
    /// The vault's folder.
    #[error("the vault at {path} cannot be used: {why}")]
    Root {
        /// Its folder.
        path: String,
        /// The cause.
        why: String,
    },
    /// A file.
    #[error("could not {verb} {path}: {why}")]
    File {
        /// What was tried.
        verb: &'static str,
        /// The note.
        path: String,
        /// The cause.
        why: String,
    },
    /// The work was cut short.
    #[error("the vault is closing")]
    Closing,
}

impl From<VaultError> for Failure {
    fn from(err: VaultError) -> Self {
        let code = match &err {
            VaultError::NotYours { .. } => FailureCode::Forbidden,
            VaultError::Root { .. } | VaultError::File { .. } | VaultError::Closing => FailureCode::Unavailable,
            _ => FailureCode::InvalidRequest,
        };
        Self::new(code, err.to_string())
    }
}

/// The vault.
#[derive(Clone)]
pub struct Vault {
    root: Arc<PathBuf>,
    commits: Commits,
    world: World,
    /// One writer of this process at a time: file locks do not tell threads of one process apart, and `git` has one
    /// index.
    writing: Arc<Mutex<()>>,
}

impl Vault {
    /// Opens the vault, making its folders.
    ///
    /// # Errors
    /// When they cannot be made.
    pub async fn open(root: impl Into<PathBuf>, commits: Commits, world: World) -> Result<Self, VaultError> {
        let vault = Self { root: Arc::new(root.into()), commits, world, writing: Arc::default() };
        let root = vault.root.clone();
        let made = vault.world.tasks.blocking(move || ["agents", "shared"].into_iter().try_for_each(|name| std::fs::create_dir_all(root.join(name)))).await;
        made.ok_or(VaultError::Closing)?.map_err(|err| VaultError::Root { path: vault.root.display().to_string(), why: err.to_string() })?;
        Ok(vault)
    }

    /// Reads a note; `None` when it is not there. Everybody may read everything.
    ///
    /// # Errors
    /// For links, notes that are too large, and files that cannot be read.
    pub async fn read(&self, path: &NotePath) -> Result<Option<Note>, VaultError> {
        let path = path.clone();
        self.blocking(move |vault| vault.read_now(&path)).await
    }

    /// Replaces an agent's own note. `base`: the revision the text was made from, `None` when there was none. What
    /// somebody else put there since is kept beside.
    ///
    /// # Errors
    /// When the note is another agent's or shared, too large, or cannot be written.
    pub async fn write(&self, agent: &AgentId, path: &NotePath, text: &str, base: Option<Revision>) -> Result<Written, VaultError> {
        own(agent, path)?;
        let guard = self.writing.lock().await;
        let written = self.put(path.clone(), text.to_owned(), base).await?;
        let written = self.committed(written, agent, path, "write").await;
        drop(guard);
        Ok(written)
    }

    /// Adds a section to an agent's own note (`MEMORY.md` in the published form), making it when it is not there.
    /// An edit by a person is kept in the note, not beside it: only the end is touched.
    ///
    /// # Errors
    /// As [`Self::write`].
    pub async fn note(&self, agent: &AgentId, path: &NotePath, section: &Section) -> Result<Written, VaultError> {
        own(agent, path)?;
        let now = self.world.clock.now();
        let added = section.text(now);
        let guard = self.writing.lock().await;
        let there = self.read(path).await?;
        let base = there.as_ref().map(|note| note.revision.clone());
        let mut text = there.map_or_else(|| note::agent_head(agent, path.stem(), now), |note| note.text);
        if !text.ends_with('\n') {
            text.push('\n');
        }
        text.push_str(&added);
        let written = self.put(path.clone(), text, base).await?;
        let written = self.committed(written, agent, path, "note").await;
        drop(guard);
        Ok(written)
    }

    /// Adds one line to a shared log, making the log when it is not there. Line breaks in `entry` become spaces.
    ///
    /// # Errors
    /// For notes of agents, entries that are empty or longer than [`LINE_BYTES_MAX`], full logs, and files that cannot
    /// be written.
    pub async fn append(&self, agent: &AgentId, log: &NotePath, entry: &str) -> Result<Committed, VaultError> {
        if log.writer() != Writer::Everybody {
            return Err(VaultError::NotYours { path: log.to_string(), agent: agent.clone(), rule: "lines are only added to shared/*.md" });
        }
        if entry.trim().is_empty() || entry.len() > LINE_BYTES_MAX {
            return Err(VaultError::Entry(entry.len()));
        }
        let now = self.world.clock.now();
        let (head, line) = (note::log_head(log.stem(), now), note::log_line(agent, entry, now));
        let guard = self.writing.lock().await;
        let path = log.clone();
        self.blocking(move |vault| {
            let Some(folder) = files::folder(&vault.root, &path, files::Folders::Make)? else { return Err(VaultError::Closing) };
            files::append(&folder, &path, &head, &line)
        })
        .await?;
        let committed = self.commit(std::slice::from_ref(log), agent, "append to").await;
        drop(guard);
        Ok(committed)
    }

    /// Every note, by path, at most [`NOTES_MAX`]. Hidden files, links and what is no `.md` are left out.
    ///
    /// # Errors
    /// When the vault's folder cannot be read.
    pub async fn index(&self) -> Result<Vec<Listed>, VaultError> {
        self.blocking(|vault| vault.index_now()).await
    }

    /// Lines that contain all words of `words`, in whatever case, at most `limit` (and [`HITS_MAX`]), by path and line.
    /// Notes that are too large or no text are passed over.
    ///
    /// # Errors
    /// When the vault's folder cannot be read.
    pub async fn search(&self, words: &str, limit: usize) -> Result<Vec<Hit>, VaultError> {
        let words: Vec<String> = words.to_lowercase().split_whitespace().map(str::to_owned).collect();
        let limit = limit.min(HITS_MAX);
        if words.is_empty() || limit == 0 {
            return Ok(Vec::new());
        }
        self.blocking(move |vault| {
            let mut hits = Vec::new();
            for listed in vault.index_now()? {
                let Ok(Some(note)) = vault.read_now(&listed.path) else { continue };
                for (at, line) in note.text.lines().enumerate() {
                    let low = line.to_lowercase();
                    if words.iter().all(|word| low.contains(word.as_str())) {
                        hits.push(Hit { path: listed.path.clone(), line: at + 1, text: line.to_owned() });
                        if hits.len() == limit {
                            return Ok(hits);
                        }
                    }
                }
            }
            Ok(hits)
        })
        .await
    }

    async fn blocking<T: Send + 'static>(&self, work: impl FnOnce(&Self) -> Result<T, VaultError> + Send + 'static) -> Result<T, VaultError> {
        let vault = self.clone();
        self.world.tasks.blocking(move || work(&vault)).await.unwrap_or(Err(VaultError::Closing))
    }

    async fn put(&self, path: NotePath, text: String, base: Option<Revision>) -> Result<Written, VaultError> {
        if text.len() > NOTE_BYTES_MAX {
            return Err(VaultError::TooLarge { path: path.to_string(), max: NOTE_BYTES_MAX });
        }
        let stamp: String = crate::memory::format::rfc3339(self.world.clock.now()).chars().filter(|c| !matches!(c, ':' | '-' | '.')).collect();
        let unique = self.world.rng.uuid();
        let short = unique.get(..8).unwrap_or(&unique);
        let conflict = path.beside(format!("{}.conflict-{stamp}-{short}.md", path.stem()));
        let temp = format!(".{unique}.tmp");
        self.blocking(move |vault| {
            let Some(folder) = files::folder(&vault.root, &path, files::Folders::Make)? else { return Err(VaultError::Closing) };
            let conflict = files::replace(&folder, &path, text.as_bytes(), base.as_ref(), &temp, conflict)?;
            Ok(Written { revision: files::revision(text.as_bytes()), conflict, committed: Committed::Off })
        })
        .await
    }

    async fn committed(&self, mut written: Written, agent: &AgentId, path: &NotePath, verb: &str) -> Written {
        let paths: Vec<NotePath> = std::iter::once(path.clone()).chain(written.conflict.clone()).collect();
        written.committed = self.commit(&paths, agent, verb).await;
        written
    }

    async fn commit(&self, paths: &[NotePath], agent: &AgentId, verb: &str) -> Committed {
        let Commits::On { program } = &self.commits else { return Committed::Off };
        let what = paths.first().map(|path| format!("{agent}: {verb} {path}")).unwrap_or_default();
        git::commit(program, &self.root, paths, agent, &what).await
    }

    fn read_now(&self, path: &NotePath) -> Result<Option<Note>, VaultError> {
        let Some(folder) = files::folder(&self.root, path, files::Folders::MustBeThere)? else { return Ok(None) };
        let Some(bytes) = files::read(&folder, path, path.file())? else { return Ok(None) };
        let revision = files::revision(&bytes);
        let text = String::from_utf8(bytes).map_err(|_| VaultError::NotText(path.to_string()))?;
        let front = FrontMatter::split(&text).0;
        Ok(Some(Note { path: path.clone(), text, front, revision }))
    }

    fn index_now(&self) -> Result<Vec<Listed>, VaultError> {
        let mut found = Vec::new();
        let mut folders: VecDeque<String> = ["agents", "shared"].map(str::to_owned).into();
        while let Some(folder) = folders.pop_front() {
            let entries = match std::fs::read_dir(self.root.join(&folder)) {
                Ok(entries) => entries,
                Err(err) if err.kind() == std::io::ErrorKind::NotFound => continue,
                Err(err) => return Err(VaultError::Root { path: folder, why: err.to_string() }),
            };
            for entry in entries.flatten() {
                // The kind of the entry itself: links are neither folders nor files here.
                let (Ok(kind), Ok(name)) = (entry.file_type(), entry.file_name().into_string()) else { continue };
                let path = format!("{folder}/{name}");
                if kind.is_dir() && !name.starts_with('.') && path.matches('/').count() < 5 {
                    folders.push_back(path);
                } else if kind.is_file()
                    && let Ok(note) = NotePath::parse(&path)
                {
                    let bytes = entry.metadata().map_or(0, |meta| meta.len());
                    found.push(Listed { conflict: note.file().contains(".conflict-"), path: note, bytes });
                }
            }
            if found.len() > NOTES_MAX {
                break;
            }
        }
        found.sort_unstable_by(|a, b| a.path.cmp(&b.path));
        found.truncate(NOTES_MAX);
        Ok(found)
    }
}

fn own(agent: &AgentId, path: &NotePath) -> Result<(), VaultError> {
    let rule = match path.writer() {
        Writer::Agent(owner) if owner == *agent => return Ok(()),
        Writer::Agent(_) => "each folder below agents/ has one writer, its agent",
        Writer::Everybody => "shared notes are only added to, line by line",
    };
    Err(VaultError::NotYours { path: path.to_string(), agent: agent.clone(), rule })
}
