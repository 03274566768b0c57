//! The hub of a real gateway: FastMCP's client (PyPI `fastmcp`) joins agents, writes to an agent of the gateway, and
//! shares memory and tasks over Consul; all of it outlives a SIGKILL. Wants `CLAWSTEAD_FASTMCP_PYTHON` and
//! `CLAWSTEAD_CONSUL`.
#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

use std::{
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::Duration,
};

use clawstead_harness::{
    PATIENCE,
    engines::{our_binary, skipped},
    free_port,
    gateway::{Gateway, Setup, config},
    http,
    mock::{MockModel, Options, Rule},
    until,
};
use serde_json::{Value, json};

const LAPTOP: &str = "laptop-token-0123456789abcdef";
const PHONE: &str = "phone-token-0123456789abcdef";
const BOSS: &str = "boss-token-0123456789abcdef";
/// Some root: the gateway stands alone in its farm, so nothing is signed for it.
const ROOT: &str = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a";

fn found(variable: &str, suite: &str) -> Option<PathBuf> {
    let found = std::env::var_os(variable).map(PathBuf::from).filter(|path| path.exists());
    if found.is_none() {
        skipped(suite, variable, &format!("{variable} names no program (cargo xtask test sets it)"));
    }
    found
}

/// A Consul server with a folder of its own. Dropping it ends it.
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

async fn consul(program: PathBuf) -> Consul {
    let (folder, port) = (tempfile::tempdir().unwrap(), free_port().unwrap());
    let ports: Vec<u16> = (0..3).map(|_| free_port().unwrap()).collect();
    let config = format!(r#"ports {{ dns = -1 grpc = -1 server = {} serf_lan = {} serf_wan = {} http = {port} }}"#, ports[0], ports[1], ports[2]);
    let mut command = Command::new(program);
    command.args(["agent", "-dev", "-client", "127.0.0.1", "-bind", "127.0.0.1", "-data-dir"]).arg(folder.path()).args(["-hcl", &config]);
    let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let server = Consul { child, port, _folder: folder };
    let leads = async || http::get(port, "/v1/status/leader").await.ok().filter(|answer| answer.body.contains(&b':')).map(drop);
    assert!(until(PATIENCE, leads).await.is_some(), "Consul has no leader");
    server
}

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
    let rules = vec![say("check the nomad status", "All seven jobs run."), say("think long about it", "Yes, in the end.")];
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
    let (consul, model, port, home) = (consul(program).await, model().await, free_port().unwrap(), tempfile::tempdir().unwrap());
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
