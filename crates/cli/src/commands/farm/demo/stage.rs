//! The processes of the demo and the folder they live in. Dropping the stage ends them and removes the folder, so that
//! Ctrl-C, a failure and the end of the play leave the same behind: nothing.

use std::{
    collections::BTreeMap,
    fs::File,
    net::TcpListener,
    os::unix::{fs::DirBuilderExt as _, process::CommandExt as _},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::{sleep, timeout},
};

use crate::fail::Fail;

/// A process may take so long to come up.
const UP_WITHIN: Duration = Duration::from_secs(60);
/// What is waited for is looked at so often.
pub const LOOK_EVERY: Duration = Duration::from_millis(100);
/// One look may take so long.
const LOOK_LIMIT: Duration = Duration::from_secs(2);
/// Bytes of an answer that are read.
const ANSWER_MAX: u64 = 4096;
/// Lines of a log that a failure shows.
const LOG_LINES: usize = 8;

/// Folder, engines and gateways.
pub struct Stage {
    folder: PathBuf,
    program: PathBuf,
    token: String,
    engines: Vec<Child>,
    gateways: BTreeMap<String, Child>,
    ports: BTreeMap<String, u16>,
    kept: bool,
}

impl Drop for Stage {
    fn drop(&mut self) {
        if self.kept {
            return;
        }
        for child in self.gateways.values_mut().chain(&mut self.engines) {
            end(child);
        }
        if let Err(err) = std::fs::remove_dir_all(&self.folder) {
            tracing::warn!(%err, folder = %self.folder.display(), "the folder of the demo stays");
        }
    }
}

fn end(child: &mut Child) {
    // Both fail only for a process that ended already.
    let _ = child.kill();
    let _ = child.wait();
}

impl Stage {
    /// A new folder for everything; `secret` makes its name and the gateways' token.
    ///
    /// # Errors
    /// When it cannot be made, or this program cannot be found.
    pub fn new(secret: &str) -> Result<Self, Fail> {
        let folder = std::env::temp_dir().join(format!("openclaw-farm-demo-{}", &secret[..8]));
        std::fs::DirBuilder::new().mode(0o700).create(&folder).map_err(|err| Fail::new(format!("{}: {err}", folder.display())).hint("TMPDIR=<folder>"))?;
        Ok(Self {
            folder,
            program: std::env::current_exe()?,
            token: secret[8..].to_owned(),
            engines: Vec::new(),
            gateways: BTreeMap::new(),
            ports: BTreeMap::new(),
            kept: false,
        })
    }

    /// Everything stays when the stage is dropped; answers what runs.
    pub fn keep(&mut self) -> Vec<u32> {
        self.kept = true;
        self.gateways.values().chain(&self.engines).map(Child::id).collect()
    }

    /// Where everything lies.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The home of an agent's gateway.
    pub fn home(&self, agent: &str) -> PathBuf {
        self.folder.join(agent)
    }

    /// Where an agent reads and writes files.
    pub fn workspace(&self, agent: &str) -> PathBuf {
        self.home(agent).join("workspace")
    }

    /// Writes the config of an agent's gateway, with the demo model, and chooses its port.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn furnish(&mut self, agent: &str) -> Result<(), Fail> {
        let port = free_port()?;
        self.ports.insert(agent.to_owned(), port);
        let config = json!({
            "gateway": {"mode": "local", "port": port, "bind": "loopback", "auth": {"mode": "token", "token": self.token}},
            "agents": {
                "defaults": {"model": {"primary": "demo/echo"}, "skipBootstrap": true, "heartbeat": {"every": "0m"}},
                "list": [{"id": agent, "default": true, "workspace": self.workspace(agent)}],
            },
            "tools": {"agentToAgent": {"enabled": true}},
            "discovery": {"mdns": {"mode": "off"}},
        });
        std::fs::create_dir_all(self.workspace(agent))?;
        let state = self.home(agent).join(".openclaw");
        std::fs::create_dir_all(&state)?;
        std::fs::write(state.join("openclaw.json"), format!("{config:#}\n"))?;
        Ok(())
    }

    /// Starts an engine and waits until `path` of its port answers, or, without one, until it listens.
    ///
    /// # Errors
    /// When it does not start.
    pub async fn engine(&mut self, name: &str, program: &Path, args: &[String], port: u16, path: Option<&str>) -> Result<(), Fail> {
        let folder = self.folder.join(name);
        std::fs::create_dir_all(&folder)?;
        let log = folder.join("log");
        let mut command = Command::new(program);
        command.args(args).current_dir(&folder);
        self.engines.push(spawn(command, &log)?);
        let child = self.engines.last_mut();
        up(name, child, &log, port, path).await
    }

    /// Starts the gateway of an agent and waits until it is ready.
    ///
    /// # Errors
    /// When it does not start, with the end of its log.
    pub async fn gateway(&mut self, agent: &str) -> Result<(), Fail> {
        let port = self.ports.get(agent).copied().unwrap_or_default();
        let mut command = Command::new(&self.program);
        command.args(["gateway", "run"]);
        command.env_clear().env("HOME", self.home(agent)).env("PATH", std::env::var_os("PATH").unwrap_or_default()).current_dir(self.home(agent));
        let log = self.home(agent).join("gateway.log");
        self.gateways.insert(agent.to_owned(), spawn(command, &log)?);
        up(&format!("{agent}-gateway"), self.gateways.get_mut(agent), &log, port, Some("/readyz")).await
    }

    /// Ends the gateway of an agent as `kill -9` does.
    pub fn kill(&mut self, agent: &str) {
        if let Some(mut child) = self.gateways.remove(agent) {
            end(&mut child);
        }
    }

    /// What to type for a command at an agent's gateway.
    pub fn typed(&self, agent: &str, command: &str) -> String {
        format!("HOME={} {} {command}", self.home(agent).display(), self.program.display())
    }

    /// The address of an agent's dashboard, with its token.
    pub fn dashboard(&self, agent: &str) -> String {
        format!("http://127.0.0.1:{}/#token={}", self.ports.get(agent).copied().unwrap_or_default(), self.token)
    }

    /// Runs this program at an agent's gateway and answers what it prints.
    ///
    /// # Errors
    /// When it ends with another code than 0, with what it said.
    pub async fn run(&self, agent: &str, args: &[&str]) -> Result<String, Fail> {
        self.detached(agent, args)?.await
    }

    /// The same, begun now and not tied to the stage; dropping the future ends the process.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn detached(&self, agent: &str, args: &[&str]) -> Result<impl Future<Output = Result<String, Fail>> + 'static, Fail> {
        let mut command = tokio::process::Command::new(&self.program);
        command.env_clear().env("HOME", self.home(agent)).env("PATH", std::env::var_os("PATH").unwrap_or_default()).current_dir(self.home(agent));
        command.args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        let child = command.spawn()?;
        let what = format!("openclaw {} at {agent}-gateway", args.iter().take(3).copied().collect::<Vec<_>>().join(" "));
        Ok(async move {
            let ran = child.wait_with_output().await?;
            if ran.status.success() {
                return Ok(String::from_utf8_lossy(&ran.stdout).into_owned());
            }
            Err(Fail::new(format!("{what}: {}{}", String::from_utf8_lossy(&ran.stdout), String::from_utf8_lossy(&ran.stderr).trim())))
        })
    }

    /// The same, for a command that prints JSON.
    ///
    /// # Errors
    /// As [`Stage::run`].
    pub async fn ask(&self, agent: &str, args: &[&str]) -> Result<Value, Fail> {
        let said = self.run(agent, args).await?;
        serde_json::from_str(&said).map_err(|err| Fail::new(format!("openclaw {} printed no JSON: {err}", args.join(" "))))
    }
}

/// Starts a process that hears no Ctrl-C of this terminal: the stage ends it.
fn spawn(mut command: Command, log: &Path) -> Result<Child, Fail> {
    let out = File::options().create(true).append(true).open(log)?;
    let named = command.get_program().to_string_lossy().into_owned();
    command.stdin(Stdio::null()).stdout(out.try_clone()?).stderr(out).process_group(0);
    command.spawn().map_err(|err| Fail::new(format!("{named}: {err}")))
}

async fn up(name: &str, child: Option<&mut Child>, log: &Path, port: u16, path: Option<&str>) -> Result<(), Fail> {
    let Some(child) = child else { return Err(Fail::new(format!("{name} was not started."))) };
    let answers = async {
        loop {
            if let Some(ended) = child.try_wait()? {
                return Err(Fail::new(format!("{name} ended ({ended}): {}", tail(log))));
            }
            match timeout(LOOK_LIMIT, look(port, path)).await {
                Ok(Ok(true)) => return Ok(()),
                _ => sleep(LOOK_EVERY).await,
            }
        }
    };
    timeout(UP_WITHIN, answers).await.unwrap_or_else(|_| Err(Fail::new(format!("{name} is not up after {} s: {}", UP_WITHIN.as_secs(), tail(log)))))
}

/// Whether something listens; with a path, whether it answers 200 and more than an empty text.
async fn look(port: u16, path: Option<&str>) -> std::io::Result<bool> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
    let Some(path) = path else { return Ok(true) };
    stream.write_all(format!("GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n").as_bytes()).await?;
    let mut said = String::new();
    stream.take(ANSWER_MAX).read_to_string(&mut said).await?;
    let Some((head, body)) = said.split_once("\r\n\r\n") else { return Ok(false) };
    Ok(head.split_whitespace().nth(1) == Some("200") && body.trim() != "\"\"")
}

fn tail(log: &Path) -> String {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(LOG_LINES)..].join("\n")
}

/// A port of loopback that is free now.
///
/// # Errors
/// When there is none.
pub fn free_port() -> Result<u16, Fail> {
    Ok(TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
}

/// A program: the one that `variable` names, else the first of that name on PATH.
pub fn program(variable: &str, name: &str) -> Option<PathBuf> {
    let named = std::env::var_os(variable).map(PathBuf::from).filter(|path| path.is_file());
    named.or_else(|| std::env::split_paths(&std::env::var_os("PATH")?).map(|folder| folder.join(name)).find(|path| path.is_file()))
}
