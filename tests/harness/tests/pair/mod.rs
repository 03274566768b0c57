//! Two gateways of one farm over a real Consul, made with the command line as an operator would: jerry at the one, bobby
//! at the other. What a suite wants besides goes into their configs before they start.
#![allow(dead_code, reason = "each suite uses its part")]

use std::{
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use clawstead_harness::{
    PATIENCE,
    cli::Cli,
    engines::skipped,
    free_port,
    gateway::{Gateway, Setup, Whose, config},
    http,
    mock::MockModel,
    until,
};
use serde_json::{Value, json};

/// A Consul server with a folder of its own. Dropping it ends it.
pub struct Consul {
    child: Child,
    /// Its HTTP port.
    pub port: u16,
    /// The program.
    pub program: PathBuf,
    _folder: tempfile::TempDir,
}

impl Drop for Consul {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A program that a variable names; tells when there is none.
pub fn found(variable: &str, suite: &str) -> Option<PathBuf> {
    let found = std::env::var_os(variable).map(PathBuf::from).filter(|path| path.exists());
    if found.is_none() {
        skipped(suite, variable, &format!("{variable} names no program (cargo xtask test sets it)"));
    }
    found
}

impl Consul {
    /// Starts one and waits for its leader.
    pub async fn start(program: PathBuf) -> Self {
        let (folder, port) = (tempfile::tempdir().unwrap(), free_port().unwrap());
        let ports: Vec<u16> = (0..3).map(|_| free_port().unwrap()).collect();
        let config = format!(r#"ports {{ dns = -1 grpc = -1 server = {} serf_lan = {} serf_wan = {} http = {port} }}"#, ports[0], ports[1], ports[2]);
        let mut command = Command::new(&program);
        command.args(["agent", "-dev", "-client", "127.0.0.1", "-bind", "127.0.0.1", "-data-dir"]).arg(folder.path()).args(["-hcl", &config]);
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let server = Self { child, port, program, _folder: folder };
        let leads = async || http::get(port, "/v1/status/leader").await.ok().filter(|answer| answer.body.contains(&b':')).map(drop);
        assert!(until(PATIENCE, leads).await.is_some(), "Consul has no leader");
        server
    }

    /// Its address.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// What `consul kv get` prints, as a person sees it.
    pub fn kv_get(&self, key: &str) -> String {
        let output = Command::new(&self.program).args(["kv", "get", "-http-addr", &format!("127.0.0.1:{}", self.port), key]).output().unwrap();
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }
}

/// The two.
pub struct Pair {
    /// jerry's gateway.
    pub jerry: Option<Gateway>,
    /// bobby's gateway.
    pub bobby: Option<Gateway>,
    /// Their homes.
    pub homes: [PathBuf; 2],
    /// Their ports.
    pub ports: [u16; 2],
    _folders: [tempfile::TempDir; 2],
}

/// Runs a command in a home; its output as JSON, or as text.
pub async fn run(home: &Path, args: &[&str]) -> Value {
    let ran = Cli::in_home(Whose::Ours, home).run(args).await.unwrap();
    assert_eq!(ran.code, Some(0), "{args:?}: {}{}", ran.stdout, ran.stderr);
    serde_json::from_str(&ran.stdout).unwrap_or(Value::String(ran.stdout))
}

fn read_config(home: &Path) -> Value {
    json5::from_str(&std::fs::read_to_string(home.join(".openclaw/openclaw.json")).unwrap()).unwrap()
}

/// A rule of `farm.policy` that lets one agent write to another.
pub fn allow(from: &str, to: &str) -> Value {
    json!({"from": {"agent": from}, "to": {"agent": to}, "capabilities": ["sessions.*"], "effect": "allow"})
}

impl Pair {
    /// Makes them; `change` gets the config of each before it starts, with the gateway's name.
    pub async fn make(coord: &str, bus: &[&str], model: &MockModel, change: impl Fn(&str, &mut Value)) -> Self {
        let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let homes = [folders[0].path().to_owned(), folders[1].path().to_owned()];
        let ports = [free_port().unwrap(), free_port().unwrap()];
        for (i, agent) in ["jerry", "bobby"].into_iter().enumerate() {
            let mut text = config(ports[i], &model.v1(), &[agent]);
            text["tools"] = json!({"agentToAgent": {"enabled": true}});
            write_config(&homes[i], &text);
        }
        let peers = [format!("127.0.0.1:{}", free_port().unwrap()), format!("127.0.0.1:{}", free_port().unwrap())];
        let mut init = vec!["farm", "init", "--id", "octant", "--gateway", "jerry-gateway", "--coord", "consul", "--coord-addr", coord];
        init.extend(["--peer-listen", &peers[0], "--agent", "bobby", "--yes", "--json"]);
        init.extend(bus);
        run(&homes[0], &init).await;
        let pin = read_config(&homes[0])["farm"]["roots"][0].as_str().unwrap().to_owned();
        let mut enroll = vec!["farm", "enroll", "--id", "octant", "--gateway", "bobby-gateway", "--coord", "consul", "--coord-addr", coord];
        enroll.extend(["--root", &pin, "--peer-listen", &peers[1], "--agent", "jerry", "--json"]);
        enroll.extend(bus);
        run(&homes[1], &enroll).await;
        run(&homes[0], &["farm", "approve", "bobby-gateway", "--yes", "--json"]).await;
        for (home, name) in homes.iter().zip(["jerry-gateway", "bobby-gateway"]) {
            let mut text = read_config(home);
            change(name, &mut text);
            write_config(home, &text);
        }
        let mut pair = Self { jerry: None, bobby: None, homes, ports, _folders: folders };
        pair.jerry = Some(pair.start(0).await);
        pair.bobby = Some(pair.start(1).await);
        pair.together().await;
        pair
    }

    /// Starts one of the two (again).
    pub async fn start(&self, which: usize) -> Gateway {
        let setup = Setup { config: None, port: self.ports[which], ..Setup::ours(&json!({})) };
        Gateway::start(setup.home(&self.homes[which])).await.unwrap()
    }

    /// Until each knows where the other's agent lives, and that it is well.
    pub async fn together(&self) {
        for (home, agent, gateway) in [(&self.homes[0], "bobby", "bobby-gateway"), (&self.homes[1], "jerry", "jerry-gateway")] {
            let known = until(PATIENCE, async || {
                let status = run(home, &["farm", "status", "--json"]).await;
                status["agents"].as_array()?.iter().any(|one| one["id"] == agent && one["gateway"] == gateway && one["healthy"] == true).then_some(())
            });
            assert!(known.await.is_some(), "{}", run(home, &["farm", "status", "--json"]).await);
        }
    }

    /// The last lines of both logs.
    pub fn logs(&self) -> String {
        let tail = |gateway: &Option<Gateway>| gateway.as_ref().map(|gateway| gateway.log_tail(40)).unwrap_or_default();
        format!("jerry-gateway:\n{}\nbobby-gateway:\n{}", tail(&self.jerry), tail(&self.bobby))
    }
}

fn write_config(home: &Path, text: &Value) {
    std::fs::create_dir_all(home.join(".openclaw")).unwrap();
    std::fs::write(home.join(".openclaw/openclaw.json"), serde_json::to_string_pretty(text).unwrap()).unwrap();
}

/// Puts rules before those of a config.
pub fn add_rules(config: &mut Value, rules: Vec<Value>) {
    let there = config["farm"]["policy"].as_array().cloned().unwrap_or_default();
    config["farm"]["policy"] = rules.into_iter().chain(there).collect();
}
