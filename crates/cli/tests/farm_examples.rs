//! The configs of `examples/farm`, started as they are with addresses of loopback, and `openclaw farm demo`.
#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

mod common;

use std::{
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use common::{Home, Ran, consul::Consul, free_port};
use serde_json::{Value, json};

/// Whatever is waited for happens within this time.
const PATIENCE: Duration = Duration::from_secs(60);

fn example(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/farm").join(path)
}

/// A node: an example's config in a home of its own, with the variables it names.
struct Node {
    home: Home,
    vars: Vec<(String, String)>,
    gateway: Option<Child>,
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(child) = &mut self.gateway {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Node {
    fn new(config: &str, vars: &[(&str, &str)]) -> Self {
        let home = Home::new();
        std::fs::create_dir_all(home.state()).unwrap();
        std::fs::copy(example(config), home.config()).unwrap();
        let (port, peer) = (free_port().to_string(), free_port().to_string());
        let common = [
            ("NODE_ADDR", "127.0.0.1"),
            ("OPENCLAW_GATEWAY_PORT", &port),
            ("PEER_PORT", &peer),
            ("OPENCLAW_GATEWAY_TOKEN", "an-example-token"),
            ("OPENCLAW_MODEL", "demo/echo"),
            ("LOCAL_MODEL_URL", "http://127.0.0.1:9/v1"),
        ];
        let vars = common.iter().chain(vars).map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Self { home, vars, gateway: None }
    }

    fn set(&mut self, name: &str, value: &str) {
        self.vars.push((name.to_owned(), value.to_owned()));
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = self.home.command(args);
        command.envs(self.vars.iter().map(|(name, value)| (name, value)));
        command
    }

    fn run(&self, args: &[&str]) -> Ran {
        let out = self.command(args).output().unwrap();
        Ran { code: out.status.code().unwrap_or(-1), out: String::from_utf8(out.stdout).unwrap(), err: String::from_utf8(out.stderr).unwrap() }
    }

    fn ok(&self, args: &[&str]) -> Ran {
        let ran = self.run(args);
        assert_eq!(ran.code, 0, "{args:?}: {} {}", ran.out, ran.err);
        ran
    }

    fn start(&mut self) {
        let path = self.home.dir.path().join("gateway.out");
        let log = std::fs::File::create(&path).unwrap();
        self.gateway = Some(self.command(&["gateway", "run"]).stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap());
        let said = || std::fs::read_to_string(&path).unwrap_or_default();
        until("the gateway is ready", &said, || said().contains("is ready after"));
    }

    /// Asks an agent of this node to ask another one to read a file that only that one has.
    fn ask_across(&self, agent: &str, other: &str) -> String {
        let inner = "What does it say?\nuse tool read {\"path\": \"note.txt\"}";
        let send = json!({"agentId": other, "message": inner, "timeoutSeconds": 60});
        self.ok(&["agent", "--agent", agent, "--message", &format!("Ask {other}.\nuse tool sessions_send {send}")]).out
    }

    fn note(&self, agent: &str, text: &str) {
        let folder = self.home.state().join(format!("workspace-{agent}"));
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("note.txt"), text).unwrap();
    }
}

fn until(what: &str, why: &dyn Fn() -> String, mut happens: impl FnMut() -> bool) {
    let began = Instant::now();
    while !happens() {
        assert!(began.elapsed() < PATIENCE, "{what}: {}", why());
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// The farm's root and the first gateway's key, as the README says: with a config that is thrown away.
fn found(node: &mut Node, gateway: &str, coord: &str) -> String {
    let scratch = node.home.dir.path().join("scratch.json");
    std::fs::write(&scratch, "{}").unwrap();
    let scratch = scratch.display().to_string();
    let args = ["farm", "init", "--id", "octant", "--gateway", gateway, "--coord-addr", coord, "--yes", "--json"];
    let made = node.command(&args).env("OPENCLAW_CONFIG_PATH", &scratch).output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let made: Value = serde_json::from_slice(&made.stdout).unwrap();
    assert_eq!(made["approved"], true, "{made}");
    let root = made["root"]["pin"].as_str().unwrap().to_owned();
    node.set("FARM_ROOT", &root);
    root
}

fn let_in(first: &Node, other: &Node, gateway: &str) {
    let asked = other.ok(&["farm", "enroll", "--json"]).json();
    assert_eq!(asked["gateway"], gateway, "{asked}");
    first.ok(&["farm", "approve", gateway, "--kid", asked["kid"].as_str().unwrap(), "--json"]);
}

/// Until both nodes see an agent of the other one as healthy.
fn together(nodes: [(&Node, &str); 2]) {
    for (node, agent) in nodes {
        let status = || node.ok(&["farm", "status", "--json"]).out;
        until("the gateways know each other", &status, || {
            let found: Value = serde_json::from_str(&status()).unwrap();
            found["agents"].as_array().unwrap().iter().any(|known| known["id"] == agent && known["healthy"] == true)
        });
    }
}

fn all_acked(node: &Node) {
    let letters = || node.ok(&["farm", "letters", "--json"]).out;
    until("all letters are settled", &letters, || {
        let found: Value = serde_json::from_str(&letters()).unwrap();
        let all = found["letters"].as_array().unwrap();
        !all.is_empty() && all.iter().all(|letter| letter["state"] == "acked")
    });
}

/// One test at a time: each starts several programs on ports that were free a moment before.
fn alone() -> std::sync::MutexGuard<'static, ()> {
    static ONE: std::sync::Mutex<()> = std::sync::Mutex::new(());
    ONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

#[test]
fn option_1_is_one_gateway_whose_agents_ask_each_other() {
    let _alone = alone();
    let mut node = Node::new("option-1/openclaw.json", &[]);
    node.ok(&["config", "validate"]);
    node.start();
    node.note("bobby", "seven jobs run");
    let answer = node.ask_across("jerry", "bobby");
    assert!(answer.contains("seven jobs run"), "{answer}");
    assert_eq!(node.run(&["farm", "status"]).code, 1, "there is no farm");
}

#[test]
fn option_2_is_a_gateway_for_each_node() {
    let _alone = alone();
    let Some(consul) = Consul::start("examples of the farm, option 2") else { return };
    let mut jerry = Node::new("option-2/openclaw.json", &[("NODE", "jerry"), ("CONSUL_HTTP_ADDR", &consul.url())]);
    let mut bobby = Node::new("option-2/openclaw.json", &[("NODE", "bobby"), ("CONSUL_HTTP_ADDR", &consul.url())]);
    let root = found(&mut jerry, "jerry-gateway", &consul.url());
    bobby.set("FARM_ROOT", &root);
    jerry.ok(&["config", "validate"]);
    let_in(&jerry, &bobby, "bobby-gateway");
    jerry.start();
    bobby.start();
    together([(&jerry, "bobby"), (&bobby, "jerry")]);

    bobby.note("bobby", "seven jobs run");
    jerry.note("jerry", "two guests wait");
    let answer = jerry.ask_across("jerry", "bobby");
    assert!(answer.contains("seven jobs run"), "{answer}");
    let answer = bobby.ask_across("bobby", "jerry");
    assert!(answer.contains("two guests wait"), "{answer}");
    // People reach bobby through jerry's gateway, over the link.
    let answer = jerry.ok(&["agent", "--agent", "bobby", "--message", "hello through jerry"]).out;
    assert!(answer.contains("hello through jerry"), "{answer}");
    all_acked(&jerry);
    all_acked(&bobby);

    // What routers see: the service that the gateway registers, with its port and a check that passes.
    let (status, body) = consul.ask("GET", "/v1/health/service/openclaw-gateway?passing", "").unwrap();
    let seen: Value = serde_json::from_str(&body).unwrap();
    let mut ids: Vec<&str> = seen.as_array().unwrap().iter().filter_map(|one| one["Service"]["ID"].as_str()).collect();
    ids.sort_unstable();
    assert_eq!((status, ids), (200, vec!["bobby-gateway", "jerry-gateway"]), "{body}");
    assert!(seen[0]["Service"]["Tags"].as_array().unwrap().contains(&json!("farm-octant")), "{body}");
}

#[test]
fn option_3_is_a_homelab_and_a_laptop_that_nobody_can_call() {
    let _alone = alone();
    let Some(consul) = Consul::start("examples of the farm, option 3") else { return };
    let coord = consul.url();
    let mut homelab = Node::new("option-3/homelab/openclaw.json", &[("CONSUL_HTTP_ADDR", &coord)]);
    let mut laptop = Node::new("option-3/laptop/openclaw.json", &[("CONSUL_HTTP_ADDR", &coord)]);
    let root = found(&mut homelab, "homelab-gateway", &coord);
    laptop.set("FARM_ROOT", &root);
    let_in(&homelab, &laptop, "laptop-gateway");
    homelab.start();
    laptop.start();
    together([(&homelab, "dev"), (&laptop, "jerry")]);

    laptop.note("dev", "the build is green");
    homelab.note("jerry", "seven jobs run");
    let answer = laptop.ask_across("dev", "jerry");
    assert!(answer.contains("seven jobs run"), "{answer}");
    let answer = homelab.ask_across("jerry", "dev");
    assert!(answer.contains("the build is green"), "{answer}");
    all_acked(&homelab);
    all_acked(&laptop);

    // The policy of whoever is asked decides: bobby is not for the laptop.
    let explain =
        ["farm", "policy", "explain", "--from", "dev", "--from-gateway", "laptop-gateway", "--to", "bobby", "--capability", "sessions.send", "--json"];
    assert_eq!(homelab.run(&explain).json()["allowed"], false);
}

fn demo(home: &Home, args: &[&str]) -> Command {
    let mut command = home.command(&["farm", "demo", "--json"]);
    command.args(args).env("TMPDIR", home.dir.path());
    if let Some(program) = std::env::var_os("CLAWSTEAD_CONSUL") {
        command.env("CLAWSTEAD_CONSUL", program);
    }
    command
}

fn has_consul(suite: &str) -> bool {
    let found = std::env::var_os("CLAWSTEAD_CONSUL").is_some_and(|path| Path::new(&path).is_file());
    if !found {
        eprintln!("SKIPPED: {suite}: CLAWSTEAD_CONSUL names no Consul");
    }
    found
}

fn left_behind(home: &Home) -> Vec<String> {
    let names = std::fs::read_dir(home.dir.path()).unwrap().map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned());
    names.filter(|name| name.starts_with("openclaw-farm-demo-")).collect()
}

#[test]
fn the_demo_shows_a_letter_that_outlives_a_gateway_and_leaves_nothing() {
    let _alone = alone();
    if !has_consul("farm demo") {
        return;
    }
    let home = Home::new();
    let ran = demo(&home, &["--gateways", "2", "--bus", "peer"]).output().unwrap();
    let out = String::from_utf8(ran.stdout).unwrap();
    assert_eq!(ran.status.code(), Some(0), "{out} {}", String::from_utf8_lossy(&ran.stderr));
    let lines: Vec<Value> = out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let steps: Vec<&str> = lines.iter().map(|line| line["step"].as_str().unwrap()).collect();
    let at = |step: &str| steps.iter().position(|one| *one == step).unwrap_or_else(|| panic!("no {step} in {steps:?}"));
    assert!(at("init") < at("joined") && at("together") < at("asked") && at("answer") < at("killed") && at("killed") < at("waits"), "{steps:?}");
    assert_eq!(steps.iter().filter(|step| **step == "answer").count(), 2, "{steps:?}");
    assert_eq!(lines[at("waits")]["state"], "queued");
    let waited = &lines[at("waits")]["letter"];
    assert!(lines.iter().any(|line| line["step"] == "letter.state" && line["letter"] == *waited && line["state"] == "acked"), "{out}");
    assert_eq!(lines.last().unwrap()["ok"], true);
    assert_eq!(left_behind(&home), Vec::<String>::new());
}

#[test]
fn ctrl_c_ends_everything_the_demo_started() {
    let _alone = alone();
    if !has_consul("farm demo, Ctrl-C") {
        return;
    }
    let home = Home::new();
    let mut playing = demo(&home, &["--gateways", "2"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(playing.stdout.take().unwrap()).lines();
    let coord = lines.by_ref().map(|line| serde_json::from_str::<Value>(&line.unwrap()).unwrap()).find(|line| line["step"] == "coord").unwrap();
    lines.by_ref().map(|line| line.unwrap()).find(|line| line.contains("gateway.ready")).unwrap();
    assert_eq!(left_behind(&home).len(), 1);
    let pid = rustix::process::Pid::from_child(&playing);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    assert_eq!(playing.wait().unwrap().code(), Some(130));
    assert_eq!(left_behind(&home), Vec::<String>::new());
    let port: u16 = coord["coord"].as_str().unwrap().rsplit(':').next().unwrap().parse().unwrap();
    assert!(std::net::TcpStream::connect(("127.0.0.1", port)).is_err(), "Consul of the demo is gone");
}

#[test]
fn without_consul_the_demo_says_what_it_needs() {
    let _alone = alone();
    let home = Home::new();
    let ran = home.command(&["farm", "demo"]).env("PATH", home.dir.path()).env("TMPDIR", home.dir.path()).output().unwrap();
    let said = String::from_utf8(ran.stderr).unwrap();
    assert_eq!(ran.status.code(), Some(1));
    assert!(said.contains("The demo needs Consul") && said.contains("--coord-addr") && said.contains("CLAWSTEAD_CONSUL"), "{said}");
    assert_eq!(left_behind(&home), Vec::<String>::new());
}
