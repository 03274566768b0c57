//! Engines as child processes in folders of their own, and a farm of two gateways over them, made as its operator would.

use std::{
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use clawstead_harness::{
    PATIENCE,
    cli::Cli,
    client::Client,
    engines::skipped,
    free_port,
    gateway::{Gateway, Setup, TOKEN, Whose, config},
    http,
    mock::{MockModel, Options},
    until,
};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tokio::task::JoinSet;

/// The program that a variable names, or a line that says that the suite is skipped.
pub fn engine(variable: &str, suite: &str) -> Option<PathBuf> {
    let found = std::env::var_os(variable).map(PathBuf::from).filter(|path| path.exists());
    if found.is_none() {
        skipped(suite, variable, &format!("{variable} names no program (cargo xtask engines)"));
    }
    found
}

/// An engine.
pub struct Server {
    program: PathBuf,
    args: Vec<String>,
    child: Option<Child>,
    pub host: String,
    pub port: u16,
    pub folder: tempfile::TempDir,
}

impl Server {
    /// Starts one; `args` get the port and the folder.
    pub async fn start(program: &Path, host: &str, args: impl FnOnce(u16, &Path) -> Vec<String>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let port = std::net::TcpListener::bind((host, 0)).unwrap().local_addr().unwrap().port();
        let args = args(port, folder.path());
        let mut server = Self { program: program.to_owned(), args, child: None, host: host.to_owned(), port, folder };
        server.run().await;
        server
    }

    pub fn begin(&mut self) {
        let log = std::fs::File::options().create(true).append(true).open(self.folder.path().join("output")).unwrap();
        let mut command = Command::new(&self.program);
        command.args(&self.args).current_dir(self.folder.path()).stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        self.child = Some(command.spawn().unwrap());
    }

    /// Starts it, and waits until it listens.
    pub async fn run(&mut self) {
        self.begin();
        let up = until(PATIENCE, async || tokio::net::TcpStream::connect((&*self.host, self.port)).await.ok()).await;
        assert!(up.is_some(), "{} does not listen: {}", self.program.display(), self.output());
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    pub fn signal(&self, signal: Signal) {
        let pid = self.child.as_ref().and_then(|child| Pid::from_raw(child.id().cast_signed())).unwrap();
        kill_process(pid, signal).unwrap();
    }

    pub fn output(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("output")).unwrap_or_default()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Servers of Consul that vote: one on 127.0.0.1, three on 127.0.0.2 and up.
pub struct Consul {
    pub servers: Vec<Server>,
    rpc: Vec<u16>,
}

fn port_at(host: &str) -> u16 {
    std::net::TcpListener::bind((host, 0)).unwrap().local_addr().unwrap().port()
}

impl Consul {
    /// Starts `count` servers and waits for their leader; `extra` is merged into the configuration of each.
    pub async fn start(suite: &str, count: u8, extra: Value) -> Option<Self> {
        let program = engine("CLAWSTEAD_CONSUL", suite)?;
        let first = if count == 1 { 1 } else { 2 };
        let hosts: Vec<String> = (first..first + count).map(|last| format!("127.0.0.{last}")).collect();
        let serf: Vec<u16> = hosts.iter().map(|host| port_at(host)).collect();
        let rpc: Vec<u16> = hosts.iter().map(|host| port_at(host)).collect();
        let join: Vec<String> = hosts.iter().zip(&serf).map(|(host, port)| format!("{host}:{port}")).collect();
        let mut servers = Vec::new();
        for (at, host) in hosts.iter().enumerate() {
            let (dns, extra, join, serf, rpc) = (port_at(host), extra.clone(), join.clone(), serf[at], rpc[at]);
            let server = Server::start(&program, host, |http, folder| {
                let mut config = json!({
                    "server": true, "bootstrap_expect": count, "node_name": host.replace('.', "-"), "bind_addr": host, "client_addr": host,
                    "data_dir": folder.join("data"), "retry_join": join, "retry_interval": "1s",
                    "ports": {"http": http, "server": rpc, "serf_lan": serf, "serf_wan": -1, "dns": dns, "grpc": -1},
                    "performance": {"raft_multiplier": 1}, "check_update_interval": "0s", "disable_update_check": true, "log_level": "warn",
                });
                for (key, value) in extra.as_object().unwrap() {
                    match (config.get_mut(key), value) {
                        (Some(Value::Object(here)), Value::Object(more)) => here.extend(more.clone()),
                        _ => config[key] = value.clone(),
                    }
                }
                if config["ports"]["https"].as_u64().is_some() {
                    config["ports"]["https"] = json!(http);
                    config["ports"]["http"] = json!(-1);
                }
                std::fs::write(folder.join("consul.json"), config.to_string()).unwrap();
                std::fs::write(folder.join("dns"), dns.to_string()).unwrap();
                ["agent".to_owned(), "-config-file".to_owned(), folder.join("consul.json").display().to_string()].to_vec()
            });
            servers.push(server.await);
        }
        let consul = Self { servers, rpc };
        if extra.pointer("/ports/https").is_none() {
            assert!(until(PATIENCE, async || consul.leader().await).await.is_some(), "Consul has no leader: {}", consul.servers[0].output());
        }
        Some(consul)
    }

    pub fn urls(&self) -> Vec<String> {
        self.servers.iter().map(|server| format!("http://{}:{}", server.host, server.port)).collect()
    }

    /// Asks the HTTP interface of one server.
    pub async fn ask(&self, at: usize, method: &str, path: &str, token: &str, body: &Value) -> Option<(u16, Value)> {
        let server = &self.servers[at];
        let text = if body.is_null() { String::new() } else { body.to_string() };
        let answer = ask_at(&server.host, server.port, method, path, &[("x-consul-token", token)], &text).await?;
        Some((answer.0, serde_json::from_str(&answer.1).unwrap_or(Value::String(answer.1))))
    }

    /// Which server leads.
    pub async fn leader(&self) -> Option<usize> {
        for at in 0..self.servers.len() {
            if self.servers[at].child.is_none() {
                continue;
            }
            let Some((200, said)) = self.ask(at, "GET", "/v1/status/leader", "", &Value::Null).await else { continue };
            let leads = |at: &usize| said.as_str() == Some(&format!("{}:{}", self.servers[*at].host, self.rpc[*at]));
            if let Some(found) = (0..self.servers.len()).find(leads) {
                return Some(found);
            }
        }
        None
    }

    /// The port of the DNS of the first server.
    pub fn dns(&self) -> u16 {
        std::fs::read_to_string(self.servers[0].folder.path().join("dns")).unwrap().parse().unwrap()
    }
}

/// One HTTP request to any loopback address, two seconds at most: the status and the body.
pub async fn ask_at(host: &str, port: u16, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Option<(u16, String)> {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let exchange = async {
        let mut socket = tokio::net::TcpStream::connect((host, port)).await.ok()?;
        let more: String = headers.iter().filter(|(_, value)| !value.is_empty()).map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        let text = format!("{method} {path} HTTP/1.0\r\nhost: {host}\r\ncontent-length: {}\r\n{more}\r\n{body}", body.len());
        socket.write_all(text.as_bytes()).await.ok()?;
        let mut all = String::new();
        socket.read_to_string(&mut all).await.ok()?;
        let status = all.split(' ').nth(1)?.parse().ok()?;
        Some((status, all.split_once("\r\n\r\n")?.1.to_owned()))
    };
    tokio::time::timeout(Duration::from_secs(2), exchange).await.ok().flatten()
}

/// What a farm is made of.
pub struct Plan {
    pub coord: Value,
    pub bus: Value,
    /// More of the `farm` section of both gateways.
    pub farm: Value,
    /// More of the config of both gateways.
    pub config: Value,
    /// Variables that gateways and commands see.
    pub env: Vec<(String, String)>,
}

impl Plan {
    pub fn over(coord: Value, bus: Value) -> Self {
        Self { coord, bus, farm: json!({}), config: json!({}), env: Vec::new() }
    }

    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.env.push((name.to_owned(), value.to_owned()));
        self
    }
}

/// One gateway with its home.
pub struct Node {
    pub gateway: Option<Gateway>,
    pub home: tempfile::TempDir,
    pub port: u16,
    env: Vec<(String, String)>,
}

impl Node {
    fn new(plan: &Plan, agent: &str, roots: &[String], model: &MockModel) -> Self {
        let (home, port, peer) = (tempfile::tempdir().unwrap(), free_port().unwrap(), free_port().unwrap());
        let mut text = config(port, &model.v1(), &[agent]);
        text["tools"] = json!({"agentToAgent": {"enabled": true}, "sessions": {"visibility": "all"}});
        text["farm"] = json!({
            "id": "octant", "gateway": format!("{agent}-gateway"), "coord": plan.coord, "bus": plan.bus,
            "peer": {"listen": format!("127.0.0.1:{peer}")}, "roots": roots,
        });
        for (place, more) in [("farm", &plan.farm), ("", &plan.config)] {
            let target = if place.is_empty() { &mut text } else { &mut text[place] };
            for (key, value) in more.as_object().unwrap() {
                match (target.get_mut(key), value) {
                    (Some(Value::Object(here)), Value::Object(more)) => here.extend(more.clone()),
                    _ => target[key] = value.clone(),
                }
            }
        }
        std::fs::create_dir_all(home.path().join(".openclaw")).unwrap();
        std::fs::write(home.path().join(".openclaw/openclaw.json"), serde_json::to_string_pretty(&text).unwrap()).unwrap();
        Self { gateway: None, home, port, env: plan.env.clone() }
    }

    /// Runs a command here to its end.
    pub async fn ran(&self, args: &[&str]) -> clawstead_harness::cli::Ran {
        let cli = self.env.iter().fold(Cli::in_home(Whose::Ours, self.home.path()), |cli, (name, value)| cli.env(name, value));
        cli.run(args).await.unwrap()
    }

    /// Runs a command that must work; its answer.
    pub async fn run(&self, args: &[&str]) -> Value {
        let ran = self.ran(args).await;
        assert_eq!(ran.code, Some(0), "{args:?}: {}{}", ran.stdout, ran.stderr);
        serde_json::from_str(&ran.stdout).unwrap_or(Value::String(ran.stdout))
    }

    pub async fn start(&mut self) {
        let setup = Setup { config: None, port: self.port, ..Setup::ours(&json!({})) };
        let setup = self.env.iter().fold(setup.home(self.home.path()), |setup, (name, value)| setup.env(name, value));
        self.gateway = Some(Gateway::start(setup).await.unwrap());
    }

    pub async fn kill(&mut self) {
        drop(self.gateway.take().unwrap().kill().await);
    }

    /// Stands still, as every thread of it does when this returns.
    pub async fn freeze(&self) {
        let gateway = self.gateway.as_ref().unwrap();
        gateway.freeze().unwrap();
        let stands = || {
            std::fs::read_dir(format!("/proc/{}/task", gateway.pid())).unwrap().flatten().all(|thread| {
                let stat = std::fs::read_to_string(thread.path().join("stat")).unwrap_or_default();
                stat.rsplit_once(") ").is_none_or(|(_, rest)| rest.starts_with(['T', 't']))
            })
        };
        assert!(until(PATIENCE, async || stands().then_some(())).await.is_some());
    }

    pub fn thaw(&self) {
        self.gateway.as_ref().unwrap().thaw().unwrap();
    }

    pub async fn client(&self) -> Client {
        Client::connect(self.port).await.unwrap()
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.home.path().join("gateway.log")).unwrap_or_default()
    }

    /// An HTTP request with the gateway's token.
    pub async fn http(&self, method: &str, path: &str, body: &Value) -> http::Answer {
        let bearer = format!("Bearer {TOKEN}");
        let text = if body.is_null() { String::new() } else { body.to_string() };
        let headers = [("authorization", &*bearer), ("content-type", "application/json")];
        http::request(self.port, method, path, &headers, text.as_bytes(), PATIENCE).await.unwrap()
    }
}

/// jerry and bobby, each at a gateway of its own.
pub struct Farm {
    pub jerry: Node,
    pub bobby: Node,
    pub model: MockModel,
}

impl Farm {
    /// `farm init` completes the section that is there; `farm enroll` and `farm approve` let the second gateway in.
    pub async fn make(plan: &Plan) -> Self {
        let model = MockModel::start(Options { remember: true, ..Options::default() }).await.unwrap();
        let jerry = Node::new(plan, "jerry", &[], &model);
        let made = jerry.run(&["farm", "init", "--agent", "bobby", "--yes", "--json"]).await;
        assert_eq!(made["approved"], true, "{made}");
        let bobby = Node::new(plan, "bobby", &[made["root"]["pin"].as_str().unwrap().to_owned()], &model);
        bobby.run(&["farm", "enroll", "--json"]).await;
        bobby.run(&["farm", "policy", "starter", "--agent", "jerry", "--write", "--json"]).await;
        jerry.run(&["farm", "approve", "bobby-gateway", "--yes", "--json"]).await;
        let mut farm = Self { jerry, bobby, model };
        farm.jerry.start().await;
        farm.bobby.start().await;
        farm.together().await;
        farm
    }

    /// Until both gateways know where both agents live.
    pub async fn together(&self) {
        for node in [&self.jerry, &self.bobby] {
            let mut client = node.client().await;
            let mut last = Value::Null;
            let known = until(PATIENCE, async || {
                last = client.call("farm.status", json!({})).await.ok()?;
                let agents = last["agents"].as_array()?;
                let at = |id: &str| agents.iter().any(|one| one["id"] == id && one["gateway"] == format!("{id}-gateway") && one["healthy"] == true);
                let gateways = last["gateways"].as_array()?.iter().all(|one| one["healthy"] == true && one["keys"].as_u64() > Some(0));
                (at("jerry") && at("bobby") && gateways).then_some(())
            });
            assert!(known.await.is_some(), "{last}\n{}", node.log());
        }
    }

    /// jerry asks bobby once.
    pub async fn talk(&self) {
        let asked = ask(self.jerry.port, 0).await;
        assert!(asked.contains("echo: ") && asked.contains("msg-000000"), "{asked}\n{}", self.jerry.log());
    }

    /// What `farm status` says here.
    pub async fn status(&self) -> Value {
        self.jerry.client().await.call("farm.status", json!({})).await.unwrap()
    }

    /// Begins to ask: jerry asks bobby `count` questions, some at once, each in a session of its own.
    pub fn load(&self, from: u64, count: u64) -> JoinSet<(u64, String)> {
        let mut asked = JoinSet::new();
        for n in from..from + count {
            let port = self.jerry.port;
            asked.spawn(async move {
                // Over the time that a fault lasts, not all at its beginning.
                tokio::time::sleep(Duration::from_millis((n - from) * 250)).await;
                (n, ask(port, n).await)
            });
        }
        asked
    }

    /// Every question was answered, and the other agent's model saw each once: nothing lost, nothing twice.
    pub async fn all_once(&self, asked: JoinSet<(u64, String)>, from: u64, count: u64) {
        let mut answers = asked.join_all().await;
        answers.sort();
        assert_eq!(answers.len() as u64, count);
        for (n, answer) in &answers {
            assert!(
                answer.contains("echo: ") && answer.contains(&format!("msg-{n:06}")),
                "{n}: {answer}\njerry:\n{}\nbobby:\n{}",
                self.jerry.log(),
                self.bobby.log()
            );
        }
        let seen = self.model.seen();
        for n in from..from + count {
            let mark = format!("msg-{n:06}");
            let times = seen.iter().filter(|entry| entry.text.contains(&mark) && !entry.text.contains("!tool")).count();
            assert_eq!(times, 1, "{mark} reached bobby's model {times} times");
        }
        let mut client = self.jerry.client().await;
        let settled = until(PATIENCE, async || {
            let letters = client.call("farm.letters", json!({"limit": 500})).await.ok()?;
            letters["letters"].as_array()?.iter().all(|letter| letter["state"] == "acked").then_some(())
        });
        assert!(settled.await.is_some(), "letters that did not end: {}", client.call("farm.letters", json!({"limit": 500})).await.unwrap());
    }
}

/// jerry asks bobby something with a mark of its own; what jerry said then. A connection that breaks is made again, and the
/// call repeated under the same key.
async fn ask(port: u16, n: u64) -> String {
    let (session, run) = (format!("agent:jerry:load-{n}"), format!("load-{n}"));
    let message = format!("!tool sessions_send {}", json!({"agentId": "bobby", "message": format!("msg-{n:06} please"), "timeoutSeconds": 50}));
    let once = || async {
        let mut client = Client::connect(port).await.ok()?;
        client.call("chat.send", json!({"sessionKey": session, "message": message, "idempotencyKey": run})).await.ok()?;
        let end = client.call("agent.wait", json!({"runId": run, "timeoutMs": 30_000})).await.ok()?;
        (end["status"] != "timeout").then(|| end.to_string())
    };
    // Not `until`: its probe cannot be sent to another thread.
    let over = tokio::time::Instant::now() + PATIENCE + PATIENCE;
    while tokio::time::Instant::now() < over {
        if let Some(answer) = once().await {
            return answer;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    "no end of the run".into()
}
