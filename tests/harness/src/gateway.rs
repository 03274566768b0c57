//! Gateways as child processes, each in a home of its own.

use std::{
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::process::{Child, Command};

use crate::{
    engines::{Engine, our_binary},
    free_port, http, process, until,
};

/// The token every test gateway uses.
pub const TOKEN: &str = "test-token-0123456789abcdef";

/// Whose gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whose {
    /// The product.
    Ours,
    /// The original, for comparison.
    Original,
}

/// How to start a gateway.
#[derive(Clone, Debug)]
pub struct Setup {
    /// Whose program.
    pub whose: Whose,
    /// The config file's text; written only when the home has none yet or this differs from `None`.
    pub config: Option<String>,
    /// More environment variables.
    pub env: Vec<(String, String)>,
    /// Arguments after `gateway run`.
    pub args: Vec<String>,
    /// Port; 0 picks a free one.
    pub port: u16,
    /// A home to use again (the temporary one is kept by whoever made it).
    pub home: Option<PathBuf>,
    /// How long ready may take.
    pub ready_within: Duration,
}

impl Setup {
    /// Ours, with a config given as JSON. With `CLAWSTEAD_AGAINST=original` it is the original instead: that is how
    /// the suites themselves are checked, since what the original does not pass is our own invention.
    #[must_use]
    pub fn ours(config: &Value) -> Self {
        if std::env::var_os("CLAWSTEAD_AGAINST").is_some_and(|name| name == "original") {
            return Self::original(config);
        }
        Self::plain(config)
    }

    fn plain(config: &Value) -> Self {
        Self { whose: Whose::Ours, config: Some(pretty(config)), env: Vec::new(), args: Vec::new(), port: 0, home: None, ready_within: Duration::from_secs(30) }
    }

    /// The original, with a config given as JSON.
    #[must_use]
    pub fn original(config: &Value) -> Self {
        Self { whose: Whose::Original, ready_within: Duration::from_secs(180), ..Self::plain(config) }
    }

    /// One more environment variable.
    #[must_use]
    pub fn env(mut self, name: &str, value: impl Into<String>) -> Self {
        self.env.push((name.into(), value.into()));
        self
    }

    /// Use this home.
    #[must_use]
    pub fn home(mut self, home: &Path) -> Self {
        self.home = Some(home.to_owned());
        self
    }
}

/// A config with these agents and a model server that speaks OpenAI chat completions at `v1`.
///
/// `agents.entries` is the spelling both programs read.
#[must_use]
pub fn config(port: u16, v1: &str, agents: &[&str]) -> Value {
    let entries: serde_json::Map<String, Value> =
        agents.iter().map(|agent| ((*agent).to_owned(), json!({"workspace": format!("~/.openclaw/workspace-{agent}")}))).collect();
    let mut defaults = json!({"model": {"primary": "mock/mock-1"}, "skipBootstrap": true, "heartbeat": {"every": "0m"}});
    let mut roster = json!({"entries": entries});
    if agents.len() > 1 {
        roster["ownership"] = json!("explicit");
        defaults["systemAgent"] = json!({"agentId": agents[0]});
        defaults["heartbeat"]["agentId"] = json!(agents[0]);
    }
    roster["defaults"] = defaults;
    json!({
        "gateway": {"mode": "local", "port": port, "bind": "loopback", "auth": {"mode": "token", "token": TOKEN}},
        "agents": roster,
        "models": {"mode": "merge", "providers": {"mock": {
            "baseUrl": v1, "apiKey": "mock-key", "api": "openai-completions",
            "models": [{"id": "mock-1", "name": "Mock", "reasoning": false, "input": ["text"],
                "cost": {"input": 0, "output": 0, "cacheRead": 0, "cacheWrite": 0}, "contextWindow": 1_000_000, "maxTokens": 4096}]
        }}},
        "update": {"checkOnStart": false},
        "discovery": {"mdns": {"mode": "off"}}
    })
}

/// A running gateway. Dropping it kills it and everything it started.
pub struct Gateway {
    /// Whose it is.
    pub whose: Whose,
    /// Its port.
    pub port: u16,
    /// Its home; state is in `.openclaw` below.
    pub home: PathBuf,
    /// What it printed.
    pub log: PathBuf,
    /// From the start of the process to the first good answer of `/readyz`.
    pub ready_after: Duration,
    child: Child,
    pid: Pid,
    own_home: Option<TempDir>,
}

impl Gateway {
    /// Starts and waits until it is ready.
    ///
    /// # Errors
    /// When the program is missing, ends, or is not ready in time; with the end of its log.
    pub async fn start(setup: Setup) -> anyhow::Result<Self> {
        let began = Instant::now();
        let mut gateway = Self::launch(setup.clone()).await?;
        let port = gateway.port;
        let ended = until(setup.ready_within, async || {
            if gateway.child.try_wait().ok().flatten().is_some() {
                return Some(false);
            }
            http::get(port, "/readyz").await.is_ok_and(|answer| answer.status == 200).then_some(true)
        })
        .await;
        gateway.ready_after = began.elapsed();
        match ended {
            Some(true) => Ok(gateway),
            Some(false) => bail!("the gateway ended before it was ready:\n{}", gateway.log_tail(40)),
            None => bail!("the gateway was not ready in {:?}:\n{}", setup.ready_within, gateway.log_tail(40)),
        }
    }

    /// Starts without waiting.
    ///
    /// # Errors
    /// When the program is missing or cannot be started.
    pub async fn launch(setup: Setup) -> anyhow::Result<Self> {
        let own_home = if setup.home.is_none() { Some(tempfile::tempdir()?) } else { None };
        let home = setup.home.clone().or_else(|| own_home.as_ref().map(|dir| dir.path().to_owned())).context("no home")?;
        let state = home.join(".openclaw");
        fs::create_dir_all(&state)?;
        let port = if setup.port == 0 { free_port()? } else { setup.port };
        if let Some(text) = &setup.config {
            fs::write(state.join("openclaw.json"), text)?;
        }
        let log = home.join("gateway.log");
        let out = fs::File::options().create(true).append(true).open(&log)?;
        let mut command = program(setup.whose)?;
        command.args(["gateway", "run", "--port", &port.to_string()]).args(&setup.args);
        clean_environment(&mut command, &home);
        command.envs(setup.env.iter().map(|(name, value)| (name, value)));
        command.stdin(Stdio::null()).stdout(out.try_clone()?).stderr(out).process_group(0).kill_on_drop(true);
        let child = command.spawn().context("start the gateway")?;
        let pid = child.id().and_then(|id| Pid::from_raw(id.cast_signed())).context("the gateway has no process id")?;
        Ok(Self { whose: setup.whose, port, home, log, ready_after: Duration::ZERO, child, pid, own_home })
    }

    /// `ws://127.0.0.1:<port>`.
    #[must_use]
    pub fn ws(&self) -> String {
        format!("ws://127.0.0.1:{}", self.port)
    }

    /// Process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.pid.as_raw_nonzero().get().cast_unsigned()
    }

    /// Memory and processor time now.
    #[must_use]
    pub fn usage(&self) -> process::Usage {
        process::usage(self.pid())
    }

    /// The state folder.
    #[must_use]
    pub fn state(&self) -> PathBuf {
        self.home.join(".openclaw")
    }

    /// SIGKILL: no chance to write anything. Waits until the process is gone and hands the home back.
    pub async fn kill(mut self) -> Home {
        let _ = kill_process_group(self.pid, Signal::KILL);
        let _ = self.child.wait().await;
        self.into_home()
    }

    /// SIGTERM, and waits for the end. Answers the exit code (`None` when a signal ended it).
    ///
    /// # Errors
    /// When it does not end within `limit`.
    pub async fn stop(mut self, limit: Duration) -> anyhow::Result<(Option<i32>, Home)> {
        kill_process(self.pid, Signal::TERM)?;
        let status = tokio::time::timeout(limit, self.child.wait()).await.with_context(|| format!("still running {limit:?} after SIGTERM"))??;
        Ok((status.code(), self.into_home()))
    }

    /// Waits for the process to end by itself.
    ///
    /// # Errors
    /// When it does not within `limit`.
    pub async fn ended(&mut self, limit: Duration) -> anyhow::Result<Option<i32>> {
        Ok(tokio::time::timeout(limit, self.child.wait()).await.context("still running")??.code())
    }

    /// SIGSTOP: the process exists but does nothing.
    ///
    /// # Errors
    /// When it is gone.
    pub fn freeze(&self) -> anyhow::Result<()> {
        Ok(kill_process(self.pid, Signal::STOP)?)
    }

    /// SIGCONT.
    ///
    /// # Errors
    /// When it is gone.
    pub fn thaw(&self) -> anyhow::Result<()> {
        Ok(kill_process(self.pid, Signal::CONT)?)
    }

    /// Everything it printed.
    #[must_use]
    pub fn log_text(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// The last lines it printed.
    #[must_use]
    pub fn log_tail(&self, lines: usize) -> String {
        let text = self.log_text();
        let all: Vec<&str> = text.lines().collect();
        all[all.len().saturating_sub(lines)..].join("\n")
    }

    fn into_home(mut self) -> Home {
        Home { path: self.home.clone(), _own: self.own_home.take() }
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ = kill_process_group(self.pid, Signal::KILL);
    }
}

/// The home of a gateway that has ended; deleted when dropped if the harness made it.
pub struct Home {
    /// The folder.
    pub path: PathBuf,
    _own: Option<TempDir>,
}

/// A command for one of the two programs.
///
/// # Errors
/// When it is missing.
pub fn program(whose: Whose) -> anyhow::Result<Command> {
    match whose {
        Whose::Ours => Ok(Command::new(our_binary().map_err(anyhow::Error::msg)?)),
        Whose::Original => {
            let mut command = Command::new(Engine::Node.find().map_err(anyhow::Error::msg)?);
            command.arg(Engine::OpenClaw.find().map_err(anyhow::Error::msg)?);
            Ok(command)
        }
    }
}

/// Nothing of the caller's environment but `PATH`; a home of its own; no network habits.
pub fn clean_environment(command: &mut Command, home: &Path) {
    let path = std::env::var_os("PATH").unwrap_or_else(|| OsString::from("/usr/bin:/bin"));
    command.env_clear().env("PATH", path).env("HOME", home).env("LANG", "C.UTF-8").env("TZ", "UTC");
    for (name, value) in
        [("OPENCLAW_NO_RESPAWN", "1"), ("OPENCLAW_DISABLE_BONJOUR", "1"), ("OPENCLAW_NO_AUTO_UPDATE", "1"), ("OPENCLAW_OFFLINE", "1"), ("NO_COLOR", "1")]
    {
        command.env(name, value);
    }
}

/// JSON as a config file.
#[must_use]
pub fn pretty(value: &Value) -> String {
    serde_json::to_string_pretty(value).unwrap_or_default() + "\n"
}
