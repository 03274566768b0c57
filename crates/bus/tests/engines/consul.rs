//! Consul: one server, or several that vote, each on an address of its own.

use std::{
    path::PathBuf,
    process::Stdio,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use clawstead_world::{HttpRequest, NetPolicy, World};
use serde_json::json;
use tempfile::TempDir;
use tokio::process::{Child, Command};

use super::{find, free_port, until, world};

/// A server comes up, and servers find their leader, within this time.
const UP_WITHIN: Duration = Duration::from_secs(60);

/// A cluster of servers.
pub struct Cluster {
    pub servers: Vec<Server>,
    world: World,
}

/// One server.
pub struct Server {
    pub host: String,
    pub http: u16,
    rpc: u16,
    serf: u16,
    program: PathBuf,
    folder: TempDir,
    process: Mutex<Option<Child>>,
}

impl Cluster {
    /// Starts `count` servers on 127.0.0.1, or on 127.0.0.2 and up, and waits for their leader. `None` when there is no
    /// Consul. `extra` is merged into the configuration of each.
    pub async fn start(count: u8, extra: serde_json::Value) -> Option<Self> {
        let program = find("consul", "CLAWSTEAD_CONSUL")?;
        let first = if count == 1 { 1 } else { 2 };
        let servers: Vec<Server> = (first..first + count).map(|last| Server::new(&program, &format!("127.0.0.{last}"))).collect();
        let join: Vec<String> = servers.iter().map(|server| format!("{}:{}", server.host, server.serf)).collect();
        for server in &servers {
            server.configure(count, &join, &extra);
            server.start();
        }
        let cluster = Self { servers, world: world() };
        cluster.ready().await.expect("Consul comes up");
        Some(cluster)
    }

    /// Addresses for clients.
    pub fn urls(&self) -> Vec<String> {
        self.servers.iter().map(Server::url).collect()
    }

    /// Waits until one that runs knows a leader and serves.
    pub async fn ready(&self) -> Result<(), String> {
        until(UP_WITHIN, "a leader of Consul", async || {
            for server in &self.servers {
                let Some((200, body)) = self
                    .ask("GET", &format!("{}/v1/kv/none?keys&index=0", server.url()), None)
                    .await
                    .map(|(status, body)| (if status == 404 { 200 } else { status }, body))
                else {
                    continue;
                };
                drop(body);
                if self.leader().await.is_some() {
                    return true;
                }
            }
            false
        })
        .await
    }

    /// Which server leads.
    pub async fn leader(&self) -> Option<usize> {
        for server in &self.servers {
            let Some((200, body)) = self.ask("GET", &format!("{}/v1/status/leader", server.url()), None).await else { continue };
            let leads = |server: &Server| body.contains(&format!("{}:{}", server.host, server.rpc));
            if let Some(found) = self.servers.iter().position(|server| leads(server) && server.runs()) {
                return Some(found);
            }
        }
        None
    }

    /// Asks something of Consul itself.
    pub async fn ask(&self, method: &str, url: &str, body: Option<String>) -> Option<(u16, String)> {
        let mut request = HttpRequest::new(method.parse().ok()?, url, NetPolicy::Trusted);
        request.head_timeout_ms = 2_000;
        request.body = body.map(Into::into);
        let response = self.world.http.send(request).await.ok()?;
        let status = response.status.as_u16();
        let (body, _) = response.read(1 << 20).await.ok()?;
        Some((status, String::from_utf8_lossy(&body).into_owned()))
    }
}

impl Server {
    fn new(program: &std::path::Path, host: &str) -> Self {
        let [http, rpc, serf] = [(); 3].map(|()| free_port(host));
        let folder = tempfile::tempdir().expect("a folder");
        Self { host: host.into(), http, rpc, serf, program: program.into(), folder, process: Mutex::default() }
    }

    fn configure(&self, count: u8, join: &[String], extra: &serde_json::Value) {
        let mut config = json!({
            "server": true,
            "bootstrap_expect": count,
            "node_name": self.host.replace('.', "-"),
            "bind_addr": self.host,
            "client_addr": self.host,
            "data_dir": self.folder.path().join("data"),
            "retry_join": join,
            "retry_interval": "1s",
            "ports": {"http": self.http, "server": self.rpc, "serf_lan": self.serf, "serf_wan": -1, "dns": -1, "grpc": -1},
            "performance": {"raft_multiplier": 1},
            "check_update_interval": "0s",
            "disable_update_check": true,
            "log_level": "warn",
        });
        if let (Some(config), Some(extra)) = (config.as_object_mut(), extra.as_object()) {
            config.extend(extra.clone());
        }
        std::fs::write(self.folder.path().join("consul.json"), config.to_string()).expect("the configuration");
    }

    pub fn url(&self) -> String {
        format!("http://{}:{}", self.host, self.http)
    }

    /// Starts it, with what it had.
    pub fn start(&self) {
        let log = std::fs::File::options().create(true).append(true).open(self.folder.path().join("log")).expect("a log");
        let mut command = Command::new(&self.program);
        command.arg("agent").arg("-config-file").arg(self.folder.path().join("consul.json"));
        command.stdin(Stdio::null()).stdout(log.try_clone().expect("a log")).stderr(log).kill_on_drop(true);
        *self.lock() = Some(command.spawn().expect("Consul starts"));
    }

    /// Ends it without any order.
    pub async fn kill(&self) {
        let process = self.lock().take();
        if let Some(mut process) = process {
            process.kill().await.expect("SIGKILL");
        }
    }

    pub fn runs(&self) -> bool {
        self.lock().is_some()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Child>> {
        self.process.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
