//! The hub of a real gateway: FastMCP's client (PyPI `fastmcp`) joins agents, writes to an agent of the gateway, and
//! shares memory and tasks over Consul; all of it outlives a SIGKILL. Wants `CLAWSTEAD_FASTMCP_PYTHON` and
//! `CLAWSTEAD_CONSUL`.
#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

use std::{
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use clawstead_harness::{
    PATIENCE,
    engines::our_binary,
    free_port,
    gateway::{Gateway, Setup, config},
    http,
    mock::{MockModel, Options, Rule},
    until,
};
use pair::{Consul, Pair, add_rules, allow, found, run};
use serde_json::{Value, json};

mod pair;

const LAPTOP: &str = "laptop-token-0123456789abcdef";
const PHONE: &str = "phone-token-0123456789abcdef";
const BOSS: &str = "boss-token-0123456789abcdef";
/// Some root: the gateway stands alone in its farm, so nothing is signed for it.
const ROOT: &str = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a";

/// Plays a scenario of `peers/hub_client.py`; answers what it printed before `ok`.
async fn play(python: &PathBuf, port: u16, scenario: &str, more: Value) -> String {
    let mut given = json!({
        "url": format!("http://127.0.0.1:{port}/mcp"), "gateway": "jerry-gateway", "scenario": scenario,
        "tokens": {"laptop": LAPTOP, "phone": PHONE, "boss": BOSS},
    });
    if let (Some(given), Value::Object(more)) = (given.as_object_mut(), more) {
        given.extend(more);
    }
    let script: PathBuf = [env!("CARGO_MANIFEST_DIR"), "tests", "peers", "hub_client.py"].iter().collect();
    let mut command = tokio::process::Command::new(python);
    command.arg(script).arg(given.to_string()).kill_on_drop(true);
    // Nothing but the scenario may reach a network.
    command.env("FASTMCP_CHECK_FOR_UPDATES", "off").env("NO_PROXY", "*").env("PYTHONDONTWRITEBYTECODE", "1");
    let output = tokio::time::timeout(Duration::from_secs(180), command.output()).await.expect("the scenario ends").unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{scenario}: {said}\n{}", String::from_utf8_lossy(&output.stderr));
    said.trim_end().strip_suffix("ok").expect("the scenario came to its end").trim().to_owned()
}

fn over_consul(port: u16, v1: &str, consul: u16) -> Value {
    let mut config = config(port, v1, &["jerry"]);
    config["farm"] = json!({
        "id": "hub-test", "gateway": "jerry-gateway", "roots": [ROOT],
        "coord": {"kind": "consul", "addr": format!("http://127.0.0.1:{consul}")},
        "hub": {"enabled": true, "peers": [
            {"name": "laptop", "token": LAPTOP}, {"name": "phone", "token": PHONE},
            {"name": "boss", "token": BOSS, "scopes": ["discover", "dlq", "operator"]},
        ]},
    });
    config
}

async fn model() -> MockModel {
    let say = |contains: &str, say: &str| Rule { contains: contains.into(), say: Some(say.into()), ..Rule::default() };
    let ask = |contains: &str| Rule {
        contains: contains.into(),
        tool: Some("sessions_send".into()),
        arguments: json!({"agentId": "mac", "message": "Mac, what do you see?", "timeoutSeconds": 60}),
        say: Some("Mac answered: {result}".into()),
        ..Rule::default()
    };
    let leave = Rule {
        contains: "leave mac a question".into(),
        tool: Some("sessions_send".into()),
        arguments: json!({"agentId": "mac", "message": "Mac, what do you see?", "timeoutSeconds": 1}),
        ..Rule::default()
    };
    let rules = vec![leave, say("check the nomad status", "All seven jobs run."), say("think long about it", "Yes, in the end."), ask("ask mac what it sees")];
    MockModel::start(Options { remember: true, rules, ..Options::default() }).await.unwrap()
}

/// How often the model was asked about a mark.
fn asked(model: &MockModel, mark: &str) -> usize {
    model.seen().iter().filter(|entry| entry.mark.as_deref() == Some(mark)).count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn programs_join_talk_and_share_and_a_kill_loses_nothing() {
    let suite = "hub of a gateway with FastMCP over Consul";
    let (Some(python), Some(program)) = (found("CLAWSTEAD_FASTMCP_PYTHON", suite), found("CLAWSTEAD_CONSUL", suite)) else { return };
    let (consul, model, port, home) = (Consul::start(program).await, model().await, free_port().unwrap(), tempfile::tempdir().unwrap());
    let setup = Setup { port, ..Setup::ours(&over_consul(port, &model.v1(), consul.port)).home(home.path()) };

    let gateway = Gateway::start(setup.clone()).await.unwrap();
    play(&python, port, "refused", Value::Null).await;
    play(&python, port, "first", Value::Null).await;
    assert_eq!(asked(&model, "msg-000001"), 1, "the letter and its repeat are one turn");
    let bridge = json!({"command": [our_binary().unwrap(), "mcp", "serve", "--peer", "laptop"], "env": {"HOME": home.path(), "NO_COLOR": "1"}});
    play(&python, port, "stdio", bridge).await;
    let slow = play(&python, port, "slow", Value::Null).await;
    drop(gateway.kill().await);

    let gateway = Gateway::start(setup).await.unwrap();
    play(&python, port, "second", json!({"slow": slow})).await;
    drop(gateway);
}

fn peers() -> Value {
    json!([{"name": "laptop", "token": LAPTOP}, {"name": "phone", "token": PHONE}])
}

/// An agent of a gateway asks mac, whose program answers meanwhile.
async fn asks_mac(python: &PathBuf, pair: &Pair, home: &Path, agent: &str, answer: &str) {
    let asked = async { run(home, &["agent", "--agent", agent, "--message", "Please ask mac what it sees"]).await.to_string() };
    let (said, _) = tokio::join!(asked, play(python, pair.ports[0], "farm_answer", json!({ "answer": answer })));
    assert!(said.contains(answer), "{agent}: {said}\n{}", pair.logs());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn programs_of_two_gateways_reach_all_agents_of_the_farm() {
    let suite = "hubs of two gateways with FastMCP over Consul";
    let (Some(python), Some(program)) = (found("CLAWSTEAD_FASTMCP_PYTHON", suite), found("CLAWSTEAD_CONSUL", suite)) else { return };
    let (consul, model) = (Consul::start(program).await, model().await);
    let mut pair = Pair::make(&consul.url(), &["--bus", "consul"], &model, |_, config| {
        config["farm"]["hub"] = json!({"enabled": true, "peers": peers()});
        add_rules(config, vec![allow("mac", "*"), allow("*", "mac")]);
    })
    .await;
    let other = json!({"other": format!("http://127.0.0.1:{}/mcp", pair.ports[1])});
    play(&python, pair.ports[0], "farm_first", other).await;
    assert_eq!(asked(&model, "msg-000001"), 1, "the letter and its repeat are one turn");

    // The published names, as any tool reads them.
    assert_eq!(consul.kv_get("openclaw/agents/mac/gateway"), "jerry-gateway");
    assert!(consul.kv_get("openclaw/agents/mac/capabilities").contains("notes"));
    assert_eq!(consul.kv_get("openclaw/agents/mac/model_provider"), "ollama");
    assert!(consul.kv_get("openclaw/gateways/jerry-gateway/agents").contains("mac"));
    assert_eq!(consul.kv_get("openclaw/shared/color").trim_matches('"'), "blue");
    assert_eq!(serde_json::from_str::<Value>(&consul.kv_get("openclaw/shared-memory/mac/mood")).unwrap(), json!({"is": "calm"}));
    assert!(consul.kv_get("openclaw/shared-state/recent-events").contains("nomad-alert-cleared"));
    for home in &pair.homes {
        let agents = run(home, &["farm", "agents", "--json"]).await;
        let kind = |id: &str| agents["agents"].as_array().unwrap().iter().find(|one| one["id"] == id).map(|one| (one["kind"].clone(), one["gateway"].clone()));
        assert_eq!(kind("mac"), Some((json!("external"), json!("jerry-gateway"))), "{agents}");
        assert_eq!(kind("bobby"), Some((json!("farm"), json!("bobby-gateway"))), "{agents}");
    }

    // Agents of both gateways ask the program's agent, with the tool they use for any other.
    asks_mac(&python, &pair, &pair.homes[1], "bobby", "A window, and a tree.").await;
    asks_mac(&python, &pair, &pair.homes[0], "jerry", "Still a window.").await;

    // An answer that comes when nobody waits any more goes to the session of who asked.
    let said = run(&pair.homes[0], &["agent", "--agent", "jerry", "--message", "Please leave mac a question"]).await.to_string();
    assert!(said.contains("timeout"), "{said}");
    play(&python, pair.ports[0], "farm_answer", json!({"answer": "msg-000077 It was a cat."})).await;
    assert!(until(PATIENCE, async || (asked(&model, "msg-000077") > 0).then_some(())).await.is_some(), "{}", pair.logs());

    // mac's gateway dies while bobby waits for mac: the question is there when it is back, and so is mac.
    let home = pair.homes[1].clone();
    let asked = tokio::spawn(async move { run(&home, &["agent", "--agent", "bobby", "--message", "Please ask mac what it sees"]).await.to_string() });
    let waits = until(PATIENCE, async || {
        let letters = run(&pair.homes[1], &["farm", "letters", "--json"]).await;
        letters["letters"].as_array()?.iter().any(|letter| letter["to"] == "mac" && letter["state"] == "delivered").then_some(())
    });
    assert!(waits.await.is_some(), "{}", run(&pair.homes[1], &["farm", "letters", "--json"]).await);
    drop(pair.jerry.take().unwrap().kill().await);
    pair.jerry = Some(pair.start(0).await);
    pair.together().await;
    play(&python, pair.ports[0], "farm_answer", json!({"answer": "The same tree."})).await;
    let said = asked.await.unwrap();
    assert!(said.contains("The same tree."), "{said}\n{}", pair.logs());
}

/// A Redis server with a folder of its own. Dropping it ends it.
struct Redis {
    child: std::process::Child,
    port: u16,
    _folder: tempfile::TempDir,
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Redis {
    async fn start(program: PathBuf) -> Self {
        let (folder, port) = (tempfile::tempdir().unwrap(), free_port().unwrap());
        let mut command = Command::new(program);
        command.args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--appendonly", "yes", "--dir"]).arg(folder.path());
        let child = command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null()).spawn().unwrap();
        let up = until(PATIENCE, async || tokio::net::TcpStream::connect(("127.0.0.1", port)).await.ok().map(drop)).await;
        assert!(up.is_some(), "Redis does not listen");
        Self { child, port, _folder: folder }
    }

    /// What `redis-cli` would be told, as it comes over the wire.
    async fn ask(&self, words: &[&str]) -> String {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let mut stream = tokio::net::TcpStream::connect(("127.0.0.1", self.port)).await.unwrap();
        stream.write_all(format!("{}\r\nQUIT\r\n", words.join(" ")).as_bytes()).await.unwrap();
        let mut said = Vec::new();
        stream.read_to_end(&mut said).await.unwrap();
        String::from_utf8_lossy(&said).into_owned()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_programs_remember_in_redis_is_where_redis_cli_finds_it() {
    let suite = "hubs of two gateways with FastMCP over Redis";
    let (Some(python), Some(program)) = (found("CLAWSTEAD_FASTMCP_PYTHON", suite), found("CLAWSTEAD_CONSUL", suite)) else { return };
    let Some(server) = found("CLAWSTEAD_REDIS_SERVER", suite) else { return };
    let (consul, redis, model) = (Consul::start(program).await, Redis::start(server).await, model().await);
    let bus = ["--bus", "redis", "--bus-addr", &format!("redis://127.0.0.1:{}", redis.port)];
    let pair = Pair::make(&consul.url(), &bus, &model, |_, config| {
        config["farm"]["hub"] = json!({"enabled": true, "peers": peers(), "memory": "redis"});
        add_rules(config, vec![allow("mac", "*"), allow("*", "mac")]);
    })
    .await;
    play(&python, pair.ports[0], "farm_first", json!({"other": format!("http://127.0.0.1:{}/mcp", pair.ports[1])})).await;
    let said = redis.ask(&["GET", "openclaw:agents:mac:memory:mood"]).await;
    assert!(said.contains(r#"{"is":"calm"}"#), "{said}");
    let said = redis.ask(&["GET", "openclaw:shared:color"]).await;
    assert!(said.contains("blue"), "{said}");
    let said = redis.ask(&["LRANGE", "openclaw:shared:recent-events", "0", "-1"]).await;
    assert!(said.contains("nomad-alert-cleared"), "{said}");
    let said = redis.ask(&["LLEN", "openclaw:shared:task-queue"]).await;
    assert!(said.starts_with(":0"), "every task was given: {said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_vault_is_written_by_programs_and_agents_and_read_in_any_editor() {
    let suite = "shared vault of two gateways";
    let (Some(python), Some(program)) = (found("CLAWSTEAD_FASTMCP_PYTHON", suite), found("CLAWSTEAD_CONSUL", suite)) else { return };
    let (consul, model, folder) = (Consul::start(program).await, model().await, tempfile::tempdir().unwrap());
    let git = Command::new("git").arg("--version").output().is_ok_and(|output| output.status.success());
    let vault = folder.path().join("vault");
    let pair = Pair::make(&consul.url(), &["--bus", "consul"], &model, |name, config| {
        // Two programs do not share one repository's index; the one that commits is the farm's own choice.
        let commits = git && name == "jerry-gateway";
        config["farm"]["hub"] = json!({"enabled": true, "peers": peers(), "vault": {"path": vault, "git": commits}});
    })
    .await;
    let more = json!({"other": format!("http://127.0.0.1:{}/mcp", pair.ports[1]), "commit": if git { "done" } else { "off" }});
    play(&python, pair.ports[0], "farm_vault", more).await;

    // Agents of a gateway have the same tools.
    let tool = r#"!tool vault_append {"path": "MEMORY.md", "entry": "Jobs looked at.", "task": "nomad", "status": "completed"}"#;
    let said = run(&pair.homes[1], &["agent", "--agent", "bobby", "--message", tool]).await.to_string();
    assert!(said.contains("agents/bobby/MEMORY.md"), "{said}\n{}", pair.logs());
    let tool = r#"!tool vault_write {"path": "agents/mac/PLAN.md", "text": "mine"}"#;
    let said = run(&pair.homes[1], &["agent", "--agent", "bobby", "--message", tool]).await.to_string();
    assert!(said.contains("one writer"), "{said}");

    // Plain files, as people read them.
    let read = |path: &str| std::fs::read_to_string(vault.join(path)).unwrap();
    assert!(
        read("agents/bobby/MEMORY.md").contains("**Task:** nomad\n**Status:** completed\n**Context:** Jobs looked at."),
        "{}",
        read("agents/bobby/MEMORY.md")
    );
    assert!(read("agents/mac/PLAN.md").contains("Buy two disks."));
    if git {
        let log = Command::new("git").arg("-C").arg(&vault).args(["log", "--format=%an %s"]).output().unwrap();
        let log = String::from_utf8_lossy(&log.stdout).into_owned();
        assert!(log.contains("mac mac: write agents/mac/PLAN.md"), "{log}");
    }
}

#[tokio::test]
async fn nothing_is_served_without_a_word_in_the_config() {
    let port = free_port().unwrap();
    let ask = async |port: u16, token: &str| {
        let bearer = format!("Bearer {token}");
        let headers = [("authorization", bearer.as_str()), ("content-type", "application/json"), ("accept", "application/json, text/event-stream")];
        let body = br#"{"jsonrpc":"2.0","id":1,"method":"tools/list"}"#;
        http::request(port, "POST", "/mcp", &headers, body, Duration::from_secs(10)).await.unwrap()
    };
    let mut settings = config(port, "http://127.0.0.1:9/v1", &["jerry"]);
    settings["farm"] = json!({"hub": {"peers": [{"name": "laptop", "token": LAPTOP}]}});
    let gateway = Gateway::start(Setup { port, ..Setup::ours(&settings) }).await.unwrap();
    assert_eq!(ask(port, LAPTOP).await.status, 404, "peers alone open nothing");
    drop(gateway);

    // Alone, without any engine, it is served to who has the token; and not under a foreign name of this machine.
    let port = free_port().unwrap();
    let mut settings = config(port, "http://127.0.0.1:9/v1", &["jerry"]);
    settings["farm"] = json!({"hub": {"enabled": true, "peers": [{"name": "laptop", "token": LAPTOP}]}});
    let gateway = Gateway::start(Setup { port, ..Setup::ours(&settings) }).await.unwrap();
    let (right, wrong) = (ask(port, LAPTOP).await, ask(port, "another-token-0123456789abcdef").await);
    assert_eq!((right.status, wrong.status), (200, 401), "{}\n{}", right.text(), gateway.log_tail(20));
    assert!(right.text().contains("agent_register"), "{}", right.text());
    assert!(wrong.text().contains("no peer has this token"), "{}", wrong.text());
}
