//! An agent's workspace folder: its files and their first contents.

use std::{
    fs, io,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use clawstead_terms::Millis;

const AGENTS: &str = "# How this agent works\n\n\
Read this first in every session. The folder it lies in is yours: what you write here is what you remember.\n\n\
- SOUL.md says how you speak and what you care about, USER.md whom you help, TOOLS.md what is special about this machine.\n\
- Write down what must outlive this conversation: small things in `memory/<date>.md`, lasting things in MEMORY.md.\n\
- Ask before you do anything that leaves this machine or cannot be undone. Reading and looking around is free.\n\
- In groups speak when you are asked or have something to add, and never repeat private things there.\n\
- When a tool says that its outcome is unknown, check before you repeat it.\n";
const SOUL: &str = "# Voice\n\nBe useful before you are polite. Have opinions and say how sure you are. Be brief when it is simple and careful when it matters.\nWhat people trust you with stays with you.\n";
const IDENTITY: &str = "# Who I am\n\n- Name:\n- What I am:\n- Manner:\n- Emoji:\n- Avatar:\n";
const USER: &str = "# The person I help\n\n- Name:\n- How to address them:\n- Time zone:\n- Notes:\n";
const TOOLS: &str = "# Notes on tools\n\nNames of hosts, devices, folders and accounts that are special here. No passwords.\n";
const HEARTBEAT: &str = "# Heartbeat\n\n<!-- One line for each thing to check at every heartbeat. While there are none, heartbeats are skipped. -->\n";
const BOOTSTRAP: &str = "# First conversation\n\nYou are new here. Find out together with your person who you are (name, manner, emoji) and who they are.\n\
Write it into IDENTITY.md, USER.md and SOUL.md, then delete this file.\n";

/// The files of a new workspace. BOOTSTRAP.md is made only together with all others, never again after its deletion.
const FILES: &[(&str, &str)] =
    &[("AGENTS.md", AGENTS), ("SOUL.md", SOUL), ("IDENTITY.md", IDENTITY), ("USER.md", USER), ("TOOLS.md", TOOLS), ("HEARTBEAT.md", HEARTBEAT)];

/// What a set-up did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SetUp {
    /// Files that were made.
    pub created: Vec<PathBuf>,
    /// True when a git repository was made.
    pub git: bool,
}

/// Whether a set-up makes a git repository.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Git {
    /// For a new workspace, when git is installed.
    WhenNew,
    /// Never.
    Never,
}

/// Makes what is missing of a workspace. Existing files are never changed. Blocking: call it outside of turns.
///
/// # Errors
/// When the folder or a file cannot be written.
pub fn set_up(workspace: &Path, now: Millis, git: Git) -> io::Result<SetUp> {
    let mut done = SetUp::default();
    let fresh = !FILES.iter().any(|(name, _)| workspace.join(name).exists()) && !workspace.join(".openclaw/workspace-state.json").exists();
    fs::create_dir_all(workspace.join("memory"))?;
    fs::create_dir_all(workspace.join("skills"))?;
    for (name, text) in FILES {
        create(workspace, name, text, &mut done)?;
    }
    if fresh {
        create(workspace, "BOOTSTRAP.md", BOOTSTRAP, &mut done)?;
    }
    let state = workspace.join(".openclaw/workspace-state.json");
    if !state.exists() {
        fs::create_dir_all(workspace.join(".openclaw"))?;
        let at = jiff::Timestamp::from_millisecond(now.0).unwrap_or_default();
        fs::write(&state, format!("{{\n  \"version\": 1,\n  \"bootstrapSeededAt\": \"{at:.3}\"\n}}\n"))?;
        done.created.push(state);
    }
    if fresh && git == Git::WhenNew && !workspace.join(".git").exists() {
        done.git = Command::new("git")
            .arg("init")
            .arg("--quiet")
            .current_dir(workspace)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|status| status.success());
    }
    Ok(done)
}

fn create(workspace: &Path, name: &str, text: &str, done: &mut SetUp) -> io::Result<()> {
    let path = workspace.join(name);
    match fs::OpenOptions::new().write(true).create_new(true).open(&path) {
        Ok(mut file) => {
            io::Write::write_all(&mut file, text.as_bytes())?;
            done.created.push(path);
            Ok(())
        }
        Err(err) if err.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(err) => Err(err),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::{Git, set_up};
    use clawstead_terms::Millis;

    #[test]
    fn a_workspace_is_made_once_and_never_changed() {
        let dir = tempfile::tempdir().unwrap();
        let home = dir.path().join("w");
        assert_eq!(set_up(&home, Millis(0), Git::Never).unwrap().created.len(), 8);
        let state = fs::read_to_string(home.join(".openclaw/workspace-state.json")).unwrap();
        assert!(state.contains("\"bootstrapSeededAt\": \"1970-01-01T00:00:00.000Z\""), "{state}");
        fs::write(home.join("SOUL.md"), "mine").unwrap();
        fs::remove_file(home.join("BOOTSTRAP.md")).unwrap();
        fs::remove_file(home.join("USER.md")).unwrap();
        let again = set_up(&home, Millis(0), Git::Never).unwrap();
        assert_eq!(again.created, [home.join("USER.md")], "the first conversation is over for good");
        assert_eq!(fs::read_to_string(home.join("SOUL.md")).unwrap(), "mine");
    }
}
