//! Engines as child processes with folders of their own.

use std::{
    net::TcpListener,
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, bail};
use clawstead_harness::{free_port, http, until};
use serde_json::json;

/// How long an engine may take to come up.
const UP_WITHIN: Duration = Duration::from_secs(30);

/// A running engine. Dropping it ends it.
pub struct Engine {
    children: Vec<Child>,
    _folder: tempfile::TempDir,
    /// Of the first server.
    pub port: u16,
    /// Addresses of all servers, for Consul.
    pub urls: Vec<String>,
}

impl Drop for Engine {
    fn drop(&mut self) {
        for child in &mut self.children {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn program(variable: &str) -> anyhow::Result<PathBuf> {
    let path = std::env::var_os(variable).map(PathBuf::from).with_context(|| format!("{variable} is not set (cargo xtask engines)"))?;
    if path.exists() { Ok(path) } else { bail!("{variable} names a file that does not exist") }
}

fn spawn(program: &PathBuf, args: &[String]) -> anyhow::Result<Child> {
    let mut command = Command::new(program);
    Ok(command.args(args).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?)
}

impl Engine {
    /// `nats`, `redis`, or `consul` with three servers.
    pub async fn start(kind: &str) -> anyhow::Result<Self> {
        if kind == "consul" {
            return Self::consul(3).await;
        }
        let (folder, port) = (tempfile::tempdir()?, free_port()?);
        let (path, at) = (folder.path().display().to_string(), port.to_string());
        let (variable, args) = match kind {
            "nats" => ("CLAWSTEAD_NATS_SERVER", vec!["-js", "-a", "127.0.0.1", "-p", &at, "-sd", &path]),
            "redis" => ("CLAWSTEAD_REDIS_SERVER", vec!["--port", &at, "--dir", &path, "--appendonly", "yes", "--bind", "127.0.0.1"]),
            other => bail!("no engine is called {other}"),
        };
        let args: Vec<String> = args.into_iter().map(str::to_owned).collect();
        let child = spawn(&program(variable)?, &args)?;
        let engine = Self { children: vec![child], _folder: folder, port, urls: Vec::new() };
        let up = until(UP_WITHIN, async || tokio::net::TcpStream::connect(("127.0.0.1", port)).await.ok()).await;
        up.with_context(|| format!("{kind} does not listen"))?;
        Ok(engine)
    }

    /// Consul: one server on 127.0.0.1, or three on 127.0.0.2 to 4.
    pub async fn consul(count: usize) -> anyhow::Result<Self> {
        let (program, folder) = (program("CLAWSTEAD_CONSUL")?, tempfile::tempdir()?);
        let hosts: Vec<String> = if count == 1 { vec!["127.0.0.1".into()] } else { (2..2 + count).map(|last| format!("127.0.0.{last}")).collect() };
        let free = |host: &String| anyhow::Ok(TcpListener::bind((host.as_str(), 0))?.local_addr()?.port());
        let mut ports = Vec::new();
        for host in &hosts {
            ports.push((free(host)?, free(host)?, free(host)?));
        }
        let join: Vec<String> = hosts.iter().zip(&ports).map(|(host, (_, _, serf))| format!("{host}:{serf}")).collect();
        let mut children = Vec::new();
        for (host, (http, rpc, serf)) in hosts.iter().zip(&ports) {
            let config = json!({
                "server": true, "bootstrap_expect": count, "node_name": host.replace('.', "-"), "bind_addr": host, "client_addr": host,
                "data_dir": folder.path().join(host), "retry_join": join, "retry_interval": "1s",
                "ports": {"http": http, "server": rpc, "serf_lan": serf, "serf_wan": -1, "dns": -1, "grpc": -1},
                "performance": {"raft_multiplier": 1}, "check_update_interval": "0s", "disable_update_check": true, "log_level": "warn",
            });
            let file = folder.path().join(format!("{host}.json"));
            std::fs::write(&file, config.to_string())?;
            children.push(spawn(&program, &["agent".into(), "-config-file".into(), file.display().to_string()])?);
        }
        let urls = hosts.iter().zip(&ports).map(|(host, (http, ..))| format!("http://{host}:{http}")).collect();
        let engine = Self { children, _folder: folder, port: ports.first().map_or(0, |(http, ..)| *http), urls };
        // The harness asks 127.0.0.1 only; the command line of Consul knows every address.
        let first = engine.urls.first().cloned().unwrap_or_default();
        let leads = until(UP_WITHIN, async || {
            if hosts.len() == 1 {
                return http::get(engine.port, "/v1/status/leader").await.ok().filter(|answer| answer.body.contains(&b':')).map(drop);
            }
            let asked = tokio::process::Command::new(&program).args(["operator", "raft", "list-peers", "-http-addr", &first]).output().await.ok()?;
            let text = String::from_utf8_lossy(&asked.stdout).into_owned();
            (text.contains("leader") && text.matches("true").count() >= hosts.len()).then_some(())
        });
        leads.await.context("Consul has no leader")?;
        Ok(engine)
    }
}
