//! Command lines, the original's and ours, each run in a home of its own.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::gateway::{TOKEN, Whose, clean_environment, pretty, program};

/// What a command did.
#[derive(Clone, Debug)]
pub struct Ran {
    /// The exit code; `None` when a signal ended it.
    pub code: Option<i32>,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
    /// From start to end.
    pub took: Duration,
}

impl Ran {
    /// Standard output as JSON. `Null` when it is none.
    #[must_use]
    pub fn json(&self) -> Value {
        serde_json::from_str(self.stdout.trim()).unwrap_or_default()
    }
}

/// A command line with its home.
pub struct Cli {
    whose: Whose,
    home: PathBuf,
    env: Vec<(String, String)>,
    _own: Option<TempDir>,
}

impl Cli {
    /// A client of a gateway elsewhere: `gateway.mode: "remote"` and nothing else.
    ///
    /// # Errors
    /// When the home cannot be made.
    pub fn remote(whose: Whose, url: &str) -> anyhow::Result<Self> {
        let home = tempfile::tempdir()?;
        let state = home.path().join(".openclaw");
        std::fs::create_dir_all(&state)?;
        std::fs::write(state.join("openclaw.json"), pretty(&json!({"gateway": {"mode": "remote", "remote": {"url": url, "token": TOKEN}}})))?;
        Ok(Self { whose, home: home.path().to_owned(), env: Vec::new(), _own: Some(home) })
    }

    /// In a home that exists, for example the gateway's own.
    #[must_use]
    pub fn in_home(whose: Whose, home: &Path) -> Self {
        Self { whose, home: home.to_owned(), env: Vec::new(), _own: None }
    }

    /// One more environment variable for every command.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.env.push((name.into(), value.into()));
        self
    }

    /// Where its home is.
    #[must_use]
    pub fn home(&self) -> &Path {
        &self.home
    }

    /// Runs a command to its end, two minutes at most.
    ///
    /// # Errors
    /// When it cannot be started or does not end.
    pub async fn run(&self, args: &[&str]) -> anyhow::Result<Ran> {
        let mut command = program(self.whose)?;
        command.args(args);
        clean_environment(&mut command, &self.home);
        command.envs(self.env.iter().map(|(name, value)| (name, value))).current_dir(&self.home);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        let began = Instant::now();
        let output =
            tokio::time::timeout(Duration::from_secs(120), command.output()).await.with_context(|| format!("openclaw {} did not end", args.join(" ")))??;
        Ok(Ran {
            code: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
            took: began.elapsed(),
        })
    }
}
