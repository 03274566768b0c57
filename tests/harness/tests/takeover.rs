//! A farm of three gateways over one PostgreSQL server and one Consul server: any of them may die, and its agents go on
//! elsewhere with their conversations.
#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use clawstead_harness::{
    PATIENCE,
    cli::Cli,
    client::Client,
    engines::skipped,
    free_port,
    gateway::{Gateway, Setup, Whose, config},
    http,
    mock::{MockModel, Options, Rule},
    until,
};
use clawstead_state::testing::Postgres;
use serde_json::{Value, json};

const NAMES: [&str; 3] = ["one", "two", "three"];
const AGENTS: [&str; 3] = ["jerry", "bobby", "billy"];

struct Consul {
    child: Child,
    port: u16,
    _folder: tempfile::TempDir,
}

impl Drop for Consul {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

async fn consul(suite: &str) -> Option<Consul> {
    let program = std::env::var_os("CLAWSTEAD_CONSUL").map(PathBuf::from).filter(|path| path.exists());
    let Some(program) = program else {
        skipped(suite, "CLAWSTEAD_CONSUL", "CLAWSTEAD_CONSUL names no program (cargo xtask engines)");
        return None;
    };
    let (folder, port) = (tempfile::tempdir().unwrap(), free_port().unwrap());
    let ports: Vec<u16> = (0..3).map(|_| free_port().unwrap()).collect();
    let other = format!(r#"ports {{ dns = -1 grpc = -1 server = {} serf_lan = {} serf_wan = {} http = {port} }}"#, ports[0], ports[1], ports[2]);
    let child = Command::new(program)
        .args(["agent", "-dev", "-client", "127.0.0.1", "-bind", "127.0.0.1", "-hcl", &other, "-data-dir"])
        .arg(folder.path())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let leads = async || http::get(port, "/v1/status/leader").await.ok().filter(|answer| answer.body.contains(&b':')).map(drop);
    assert!(until(PATIENCE, leads).await.is_some(), "Consul has no leader");
    Some(Consul { child, port, _folder: folder })
}

async fn run(home: &Path, args: &[&str]) -> Value {
    let ran = Cli::in_home(Whose::Ours, home).run(args).await.unwrap();
    assert_eq!(ran.code, Some(0), "{args:?}: {}{}", ran.stdout, ran.stderr);
    serde_json::from_str(&ran.stdout).unwrap_or(Value::String(ran.stdout))
}

/// Three gateways with the same agents; each agent is at home at one of them.
struct Farm {
    gateways: BTreeMap<&'static str, Gateway>,
    homes: BTreeMap<&'static str, tempfile::TempDir>,
    state: Postgres,
    _consul: Consul,
    _model: MockModel,
}

impl Farm {
    async fn make(suite: &str) -> Option<Self> {
        let consul = consul(suite).await?;
        let state = Postgres::start().unwrap()?;
        let rules = vec![Rule {
            contains: "ask bobby to check".into(),
            tool: Some("sessions_send".into()),
            arguments: json!({"agentId": "bobby", "message": "Please check the nomad status", "timeoutSeconds": 40}),
            say: Some("Bobby answered: {result}".into()),
            ..Rule::default()
        }];
        let model = MockModel::start(Options { rules, ..Options::default() }).await.unwrap();
        let coord = format!("http://127.0.0.1:{}", consul.port);
        let mut homes = BTreeMap::new();
        let mut pin = String::new();
        for name in NAMES {
            let folder = tempfile::tempdir().unwrap();
            let mut text = config(free_port().unwrap(), &model.v1(), &AGENTS);
            text["tools"] = json!({"agentToAgent": {"enabled": true}});
            std::fs::create_dir_all(folder.path().join(".openclaw")).unwrap();
            std::fs::write(folder.path().join(".openclaw/openclaw.json"), serde_json::to_string_pretty(&text).unwrap()).unwrap();
            let (home, peer) = (folder.path(), format!("127.0.0.1:{}", free_port().unwrap()));
            let common =
                ["--id", "octant", "--gateway", name, "--coord", "consul", "--coord-addr", &coord, "--bus", "consul", "--peer-listen", &peer, "--json"];
            if pin.is_empty() {
                run(home, &[&["farm", "init", "--yes"], &common[..]].concat()).await;
                pin = run(home, &["config", "get", "farm.roots", "--json"]).await[0].as_str().unwrap().to_owned();
            } else {
                run(home, &[&["farm", "enroll", "--root", &pin], &common[..]].concat()).await;
                run(homes.values().next().map_or(home, |first: &tempfile::TempDir| first.path()), &["farm", "approve", name, "--yes", "--json"]).await;
            }
            let place = home.join(".openclaw/openclaw.json");
            let mut text: Value = json5::from_str(&std::fs::read_to_string(&place).unwrap()).unwrap();
            text["farm"]["state"] = json!({"kind": "postgres", "url": state.url(), "schema": "octant"});
            text["farm"]["lease"] = json!("fast");
            text["farm"]["home"] = json!({"jerry": ["one", "two", "three"], "bobby": ["two", "three", "one"], "billy": ["three", "one", "two"]});
            std::fs::write(&place, serde_json::to_string_pretty(&text).unwrap()).unwrap();
            homes.insert(name, folder);
            if name == "one" {
                // `approve` needs the root, which is in the first home.
                assert!(homes["one"].path().join(".openclaw/farm-root.pem").exists());
            }
        }
        let mut farm = Self { gateways: BTreeMap::new(), homes, state, _consul: consul, _model: model };
        for name in NAMES {
            farm.start(name).await;
        }
        for (agent, gateway) in [("jerry", "one"), ("bobby", "two"), ("billy", "three")] {
            farm.owned(agent, gateway).await;
        }
        Some(farm)
    }

    fn home(&self, name: &str) -> &Path {
        self.homes[name].path()
    }

    fn port(&self, name: &str) -> u16 {
        let text = std::fs::read_to_string(self.home(name).join(".openclaw/openclaw.json")).unwrap();
        u16::try_from(json5::from_str::<Value>(&text).unwrap()["gateway"]["port"].as_u64().unwrap()).unwrap()
    }

    async fn start(&mut self, name: &'static str) {
        let setup = Setup { config: None, port: self.port(name), ..Setup::ours(&json!({})) };
        let gateway = Gateway::start(setup.home(self.home(name))).await.unwrap();
        self.gateways.insert(name, gateway);
    }

    fn logs(&self) -> String {
        let log = |name: &str| std::fs::read_to_string(&self.gateways[name].log).unwrap_or_default();
        let tail = |text: String| text.lines().rev().take(40).collect::<Vec<_>>().into_iter().rev().collect::<Vec<_>>().join("\n");
        self.gateways.keys().map(|name| format!("--- {name}\n{}\n", tail(log(name)))).collect()
    }

    /// Any gateway that runs.
    fn somebody(&self) -> &'static str {
        self.gateways.keys().next().unwrap()
    }

    /// Waits until every running gateway says that this one has the agent; answers how long that took.
    async fn owned(&self, agent: &str, gateway: &str) -> Duration {
        let began = Instant::now();
        let unit = format!("agent.{agent}");
        let there = until(PATIENCE, async || {
            for name in self.gateways.keys() {
                let shards = Cli::in_home(Whose::Ours, self.home(name)).run(&["farm", "shards", "--json"]).await.ok()?;
                let shards: Value = serde_json::from_str(&shards.stdout).ok()?;
                let row = shards["shards"].as_array()?.iter().find(|row| row["unit"] == unit.as_str())?.clone();
                (row["owner"] == gateway && row["healthy"] == true && (gateway != *name || row["here"] == true)).then_some(())?;
            }
            Some(())
        });
        assert!(there.await.is_some(), "{agent} is not at {gateway}: {}\n{}", run(self.home(self.somebody()), &["farm", "shards"]).await, self.logs());
        began.elapsed()
    }

    async fn say(&self, at: &str, agent: &str, text: &str) -> String {
        let answer = run(self.home(at), &["agent", "--agent", agent, "--message", text]).await;
        answer.as_str().map_or_else(|| answer.to_string(), str::to_owned)
    }

    /// What stands in an agent's main session, asked of this gateway.
    async fn history(&self, at: &str, agent: &str) -> String {
        let mut client = Client::connect(self.port(at)).await.unwrap();
        client.call("chat.history", json!({"sessionKey": format!("agent:{agent}:main"), "limit": 200})).await.unwrap().to_string()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_dies_and_its_agents_go_on_elsewhere_with_their_conversations() {
    let Some(mut farm) = Farm::make("take-over").await else { return };
    // Anybody reaches any agent through any gateway.
    for (at, agent) in [("one", "jerry"), ("one", "bobby"), ("two", "billy"), ("three", "bobby")] {
        let answer = farm.say(at, agent, &format!("msg-1-{at}-{agent}")).await;
        assert!(answer.contains(&format!("msg-1-{at}-{agent}")), "{answer}");
    }
    let answer = farm.say("one", "jerry", "please ask bobby to check").await;
    assert!(answer.contains("nomad status"), "{answer}");

    // bobby's gateway dies without a word.
    drop(farm.gateways.remove("two").unwrap().kill().await);
    let took = farm.owned("bobby", "three").await;
    println!("take-over after {took:?}");
    let answer = farm.say("one", "bobby", "msg-2 after the death").await;
    assert!(answer.contains("msg-2"), "{answer}");
    let history = farm.history("three", "bobby").await;
    for mark in ["msg-1-one-bobby", "msg-1-three-bobby", "nomad status", "msg-2"] {
        assert!(history.contains(mark), "{mark} is lost: {history}");
    }
    let answer = farm.say("one", "jerry", "please ask bobby to check").await;
    assert!(answer.contains("nomad status"), "{answer}");

    // It is back: nothing moves by itself, and it is given back in order.
    farm.start("two").await;
    let moved = run(farm.home("one"), &["farm", "move", "bobby", "two", "--json"]).await;
    println!("moved: {moved}");
    assert_eq!(moved["ok"], true, "{moved}");
    farm.owned("bobby", "two").await;
    let answer = farm.say("three", "bobby", "msg-3 home again").await;
    assert!(answer.contains("msg-3"), "{answer}");
    assert!(farm.history("two", "bobby").await.contains("msg-2"));

    // Emptied for maintenance, and filled again.
    let drained = run(farm.home("one"), &["farm", "drain", "one", "--why", "test", "--json"]).await;
    assert_eq!(drained["ok"], true, "{drained}\n{}", farm.logs());
    farm.owned("jerry", "two").await;
    assert!(farm.say("one", "jerry", "msg-4 while drained").await.contains("msg-4"));
    run(farm.home("two"), &["farm", "drain", "one", "--undo", "--json"]).await;
    run(farm.home("two"), &["farm", "move", "jerry", "one", "--json"]).await;
    farm.owned("jerry", "one").await;
    let _ = &farm.state;
}
