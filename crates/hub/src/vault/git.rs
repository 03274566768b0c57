//! Commits of the vault's notes with the `git` program. A commit that fails never undoes a write.

use std::{path::Path, process::Stdio, time::Duration};

use clawstead_terms::AgentId;
use tokio::process::Command;

use super::NotePath;

/// Longest time one call of `git` may take.
const GIT_LIMIT: Duration = Duration::from_secs(20);

/// Longest text of an error that is passed on, bytes.
const ERROR_BYTES_MAX: usize = 300;

/// Whether notes are committed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Commits {
    /// The default: synchronising is somebody else's work (Syncthing, a cron job).
    #[default]
    Off,
    /// After each write, in the repository at the vault's root (made when there is none). Nothing is pushed.
    On {
        /// The program, usually `git`.
        program: String,
    },
}

/// What became of a commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Committed {
    /// Not asked for.
    Off,
    /// Done, or nothing had changed.
    Done,
    /// The note is written, the commit is not.
    Failed(String),
}

pub(super) async fn commit(program: &str, root: &Path, paths: &[NotePath], agent: &AgentId, what: &str) -> Committed {
    match attempt(program, root, paths, agent, what).await {
        Ok(()) => Committed::Done,
        Err(why) => {
            tracing::warn!(agent = agent.as_str(), err = why, "a note of the vault was written and not committed");
            Committed::Failed(why)
        }
    }
}

async fn attempt(program: &str, root: &Path, paths: &[NotePath], agent: &AgentId, what: &str) -> Result<(), String> {
    if !root.join(".git").exists() {
        run(program, root, &["init".into(), "--quiet".into()]).await?;
    }
    let named: Vec<String> = paths.iter().map(|path| format!("./{path}")).collect();
    let with = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).chain(["--".to_owned()]).chain(named.iter().cloned()).collect::<Vec<_>>();
    run(program, root, &with(&["add"])).await?;
    let changed = run(program, root, &with(&["status", "--porcelain", "--untracked-files=no"])).await?;
    if changed.trim().is_empty() {
        return Ok(());
    }
    let (name, mail) = (format!("user.name={agent}"), format!("user.email={agent}@vault.invalid"));
    let words = ["-c", &name, "-c", &mail, "-c", "commit.gpgSign=false", "commit", "--quiet", "--no-verify", "--only", "-m", what];
    run(program, root, &with(&words)).await.map(drop)
}

async fn run(program: &str, root: &Path, words: &[String]) -> Result<String, String> {
    let mut command = Command::new(program);
    command.current_dir(root).args(words).stdin(Stdio::null()).kill_on_drop(true);
    // A hook or a prompt of the person whose machine this is has no place here; nor has a repository around ours.
    command.env("GIT_TERMINAL_PROMPT", "0").env("GIT_CEILING_DIRECTORIES", root.parent().unwrap_or(root));
    for inherited in ["GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"] {
        command.env_remove(inherited);
    }
    let verb = words.iter().find(|word| !word.starts_with('-') && !word.contains('=')).map_or("", String::as_str);
    let output = match tokio::time::timeout(GIT_LIMIT, command.output()).await {
        Err(_) => return Err(format!("{program} {verb} did not end within {} s", GIT_LIMIT.as_secs())),
        Ok(Err(err)) => return Err(format!("{program} cannot be started: {err}; install it or turn commits off")),
        Ok(Ok(output)) => output,
    };
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let text = String::from_utf8_lossy(&output.stderr);
    let text = text.trim();
    let end = text.char_indices().map(|(at, c)| at + c.len_utf8()).take_while(|end| *end <= ERROR_BYTES_MAX).last().unwrap_or(0);
    Err(format!("{program} {verb}: {}", &text[..end]))
}
