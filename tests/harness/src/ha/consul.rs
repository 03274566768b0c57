//! Servers of Consul that vote, on loopback addresses of their own.

use std::{
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, bail};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::{PATIENCE, engines::skipped, free_port, http, until};

/// Answers of a server come within this time, or it counts as away.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);

struct Server {
    child: Option<Child>,
    http: u16,
    /// Address and port of its Raft, as `/v1/status/leader` names it.
    raft: String,
    folder: tempfile::TempDir,
}

/// One server or several.
pub struct Consul {
    program: PathBuf,
    servers: Vec<Server>,
}

impl Consul {
    /// Starts so many servers with `raft_multiplier` 1 and waits for their leader. `None`, said loudly, where there is no
    /// Consul.
    ///
    /// # Errors
    /// When they do not come up.
    pub async fn start(suite: &str, count: u8) -> anyhow::Result<Option<Self>> {
        let Some(program) = std::env::var_os("CLAWSTEAD_CONSUL").map(PathBuf::from).filter(|path| path.exists()) else {
            skipped(suite, "CLAWSTEAD_CONSUL", "CLAWSTEAD_CONSUL names no program (cargo xtask engines)");
            return Ok(None);
        };
        // Servers of one cluster must have different addresses; Linux answers on all of 127.0.0.0/8.
        let hosts: Vec<String> = if count == 1 { vec!["127.0.0.1".into()] } else { (2..2 + count).map(|last| format!("127.0.0.{last}")).collect() };
        let ports: Vec<(u16, u16)> = hosts.iter().map(|host| Ok((port_at(host)?, port_at(host)?))).collect::<std::io::Result<_>>()?;
        let join: Vec<String> = hosts.iter().zip(&ports).map(|(host, (serf, _))| format!("{host}:{serf}")).collect();
        let mut consul = Self { program, servers: Vec::new() };
        for (host, (serf, raft)) in hosts.iter().zip(&ports) {
            let (folder, port) = (tempfile::tempdir()?, free_port()?);
            let config = json!({
                "server": true, "bootstrap_expect": count, "node_name": host.replace('.', "-"), "bind_addr": host, "client_addr": "127.0.0.1",
                "data_dir": folder.path().join("data"), "retry_join": join, "retry_interval": "1s",
                "ports": {"http": port, "server": raft, "serf_lan": serf, "serf_wan": -1, "dns": -1, "grpc": -1},
                "performance": {"raft_multiplier": 1}, "check_update_interval": "0s", "disable_update_check": true, "log_level": "warn",
            });
            std::fs::write(folder.path().join("consul.json"), config.to_string())?;
            consul.servers.push(Server { child: None, http: port, raft: format!("{host}:{raft}"), folder });
        }
        for at in 0..consul.servers.len() {
            consul.run(at)?;
        }
        if until(PATIENCE, async || consul.leader().await).await.is_none() {
            bail!("Consul has no leader: {}", consul.servers.first().map(|server| output(server.folder.path())).unwrap_or_default());
        }
        Ok(Some(consul))
    }

    /// Starts a server (again).
    ///
    /// # Errors
    /// When the program cannot be started.
    pub fn run(&mut self, at: usize) -> anyhow::Result<()> {
        let server = self.servers.get_mut(at).context("no such server")?;
        let log = std::fs::File::options().create(true).append(true).open(server.folder.path().join("output"))?;
        let mut command = Command::new(&self.program);
        command.args(["agent", "-config-file"]).arg(server.folder.path().join("consul.json"));
        server.child = Some(command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).spawn()?);
        Ok(())
    }

    /// SIGKILL.
    pub fn kill(&mut self, at: usize) {
        if let Some(mut child) = self.servers.get_mut(at).and_then(|server| server.child.take()) {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Sends a signal to a server.
    ///
    /// # Errors
    /// When it does not run.
    pub fn signal(&self, at: usize, signal: Signal) -> anyhow::Result<()> {
        let child = self.servers.get(at).and_then(|server| server.child.as_ref()).context("the server does not run")?;
        Ok(kill_process(Pid::from_raw(child.id().cast_signed()).context("no process id")?, signal)?)
    }

    /// HTTP ports on 127.0.0.1.
    #[must_use]
    pub fn ports(&self) -> Vec<u16> {
        self.servers.iter().map(|server| server.http).collect()
    }

    /// Which server leads.
    pub async fn leader(&self) -> Option<usize> {
        for server in self.servers.iter().filter(|server| server.child.is_some()) {
            let Ok(answer) = http::request(server.http, "GET", "/v1/status/leader", &[], b"", ANSWER_WITHIN).await else { continue };
            let said = answer.json();
            if let Some(found) = self.servers.iter().position(|server| said.as_str() == Some(&server.raft)) {
                return Some(found);
            }
        }
        None
    }
}

/// Everything below a prefix, asked of the first server that answers: key and value.
pub async fn read_keys(ports: &[u16], prefix: &str) -> Option<Vec<(String, Vec<u8>)>> {
    for port in ports {
        let Ok(answer) = http::request(*port, "GET", &format!("/v1/kv/{prefix}?recurse"), &[], b"", ANSWER_WITHIN).await else { continue };
        if answer.status == 404 {
            return Some(Vec::new());
        }
        let Value::Array(rows) = answer.json() else { continue };
        let read = |row: &Value| Some((row["Key"].as_str()?.to_owned(), STANDARD.decode(row["Value"].as_str()?).ok()?));
        return Some(rows.iter().filter_map(read).collect());
    }
    None
}

impl Drop for Consul {
    fn drop(&mut self) {
        for at in 0..self.servers.len() {
            self.kill(at);
        }
    }
}

fn port_at(host: &str) -> std::io::Result<u16> {
    Ok(std::net::TcpListener::bind((host, 0))?.local_addr()?.port())
}

fn output(folder: &Path) -> String {
    std::fs::read_to_string(folder.join("output")).unwrap_or_default()
}
