//! A2A against a real gateway: the SDK for Python (PyPI `a2a-sdk`) calls its agents, and an agent calls the agents of
//! another gateway. What needs the SDK wants `CLAWSTEAD_A2A_PYTHON`.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use clawstead_harness::{
    PATIENCE,
    client::Client,
    engines::skipped,
    free_port,
    gateway::{Gateway, Setup, config},
    http,
    mock::{MockModel, Options},
    until,
};
use serde_json::{Value, json};
use tokio::process::Command;

const ANN: &str = "a-token-of-ann-0001";
const BOB: &str = "a-token-of-bob-0001";

fn python(suite: &str) -> Option<PathBuf> {
    let found = std::env::var_os("CLAWSTEAD_A2A_PYTHON").map(PathBuf::from).filter(|path| path.exists());
    if found.is_none() {
        skipped(suite, "a2a-sdk", "CLAWSTEAD_A2A_PYTHON names no Python with a2a-sdk");
    }
    found
}

/// Does steps with the SDK; one result each.
async fn call(python: &Path, port: u16, token: &str, steps: &[Value]) -> Vec<Value> {
    let script: PathBuf = [env!("CARGO_MANIFEST_DIR"), "tests", "peers", "a2a_caller.py"].iter().collect();
    let mut command = Command::new(python);
    command.arg(script).args([format!("http://127.0.0.1:{port}"), token.to_owned(), json!(steps).to_string()]).kill_on_drop(true);
    let output = tokio::time::timeout(Duration::from_secs(120), command.output()).await.expect("the SDK is done in time").unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

async fn model() -> MockModel {
    MockModel::start(Options { remember: true, remember_bodies: true, ..Options::default() }).await.unwrap()
}

fn served(port: u16, model: &MockModel) -> Value {
    let mut config = config(port, &model.v1(), &["main", "bobby"]);
    config["a2a"] = json!({"enabled": true, "peers": [{"name": "ann", "token": ANN}, {"name": "bob", "token": BOB}]});
    config
}

/// How often the model was asked about a mark.
fn asked(model: &MockModel, mark: &str) -> usize {
    model.seen().iter().filter(|entry| entry.mark.as_deref() == Some(mark)).count()
}

#[tokio::test]
async fn the_sdk_sends_streams_cancels_and_sends_again() {
    let Some(python) = python("A2A calls of the SDK") else { return };
    let (model, port) = (model().await, free_port().unwrap());
    let gateway = Gateway::start(Setup { port, ..Setup::ours(&served(port, &model)) }).await.unwrap();
    let steps = [
        json!({"do": "card"}),
        json!({"do": "send", "id": "m1", "text": "msg-000001 hello"}),
        json!({"do": "send", "id": "m1", "text": "msg-000001 hello"}),
        json!({"do": "send", "id": "m1", "text": "other words"}),
        json!({"do": "stream", "id": "m2", "text": "msg-000002 !pieces 6 !pace 60 one two three four five six"}),
        json!({"do": "send", "id": "m3", "text": "msg-000003 to another", "agent": "bobby"}),
        json!({"do": "begin", "id": "m4", "text": "msg-000004 !hang"}),
    ];
    let out = call(&python, port, ANN, &steps).await;
    let log = gateway.log_tail(30);
    assert_eq!(out[0]["skills"], json!(["main", "bobby"]), "{out:?}");
    assert_eq!(out[1]["state"], "TASK_STATE_COMPLETED", "{out:?}\n{log}");
    assert!(out[1]["text"].as_str().unwrap().contains("msg-000001 hello"), "{out:?}");
    assert_eq!(out[2], out[1], "the same message is the same task");
    assert_eq!(asked(&model, "msg-000001"), 1, "and the same run");
    assert!(out[3]["error"].is_string() && out[3]["words"].as_str().unwrap().contains("another message"), "{out:?}");
    assert_eq!(out[4]["state"], "TASK_STATE_COMPLETED", "{out:?}\n{log}");
    assert!(out[4]["pieces"].as_u64().unwrap() >= 2 && out[4]["text"].as_str().unwrap().contains("one two three four five six"), "{out:?}");
    assert_eq!(out[5]["state"], "TASK_STATE_COMPLETED", "{out:?}\n{log}");
    let hanging = out[6]["task"].as_str().unwrap().to_owned();
    until(PATIENCE, async || (asked(&model, "msg-000004") > 0).then_some(())).await.expect("the model is asked");

    // What is another's is not there.
    let out = call(&python, port, BOB, &[json!({"do": "get", "task": hanging}), json!({"do": "cancel", "task": hanging})]).await;
    assert!(out.iter().all(|one| one["error"] == "TaskNotFoundError"), "{out:?}");
    let out =
        call(&python, port, ANN, &[json!({"do": "cancel", "task": hanging}), json!({"do": "get", "task": hanging}), json!({"do": "cancel", "task": hanging})])
            .await;
    assert_eq!((&out[0]["state"], &out[1]["state"]), (&json!("TASK_STATE_CANCELED"), &json!("TASK_STATE_CANCELED")), "{out:?}");
    assert_eq!(out[2]["error"], "TaskNotCancelableError", "{out:?}");
    let mut client = Client::connect(port).await.unwrap();
    let sessions = client.call("sessions.list", json!({})).await.unwrap();
    let going = sessions["sessions"].as_array().unwrap().iter().filter(|one| one["hasActiveRun"] == true).count();
    assert_eq!(going, 0, "the run of a cancelled task is over: {sessions}");
}

#[tokio::test]
async fn tasks_outlive_the_gateway() {
    let Some(python) = python("A2A tasks over a kill") else { return };
    let (model, port) = (model().await, free_port().unwrap());
    let home = tempfile::tempdir().unwrap();
    let setup = Setup { port, ..Setup::ours(&served(port, &model)).home(home.path()) };
    let gateway = Gateway::start(setup.clone()).await.unwrap();
    let steps = [
        json!({"do": "send", "id": "k1", "text": "msg-000001 first", "context": "talk"}),
        json!({"do": "begin", "id": "k2", "text": "msg-000002 !delay 3000 second", "context": "talk"}),
    ];
    let before = call(&python, port, ANN, &steps).await;
    assert_eq!(before[0]["state"], "TASK_STATE_COMPLETED", "{before:?}\n{}", gateway.log_tail(30));
    until(PATIENCE, async || (asked(&model, "msg-000002") > 0).then_some(())).await.expect("the model is asked");
    drop(gateway.kill().await);

    let gateway = Gateway::start(setup).await.unwrap();
    let (done, open) = (&before[0]["task"], &before[1]["task"]);
    let steps = [
        json!({"do": "get", "task": done}),
        json!({"do": "send", "id": "k1", "text": "msg-000001 first", "context": "talk"}),
        json!({"do": "send", "id": "k2", "text": "msg-000002 !delay 3000 second", "context": "talk"}),
    ];
    let after = call(&python, port, ANN, &steps).await;
    assert_eq!((&after[0], &after[1]), (&before[0], &before[0]), "a task that ended is as it was, and its message is known");
    assert_eq!((&after[2]["task"], &after[2]["state"]), (open, &json!("TASK_STATE_COMPLETED")), "{after:?}\n{}", gateway.log_tail(40));
    assert!(after[2]["text"].as_str().unwrap().contains("second"), "{after:?}");
    assert_eq!(asked(&model, "msg-000001"), 1);
}

#[tokio::test]
async fn nothing_is_served_unless_enabled_and_nobody_without_a_token() {
    let model = model().await;
    let port = free_port().unwrap();
    let ask = async |port: u16, token: Option<&str>| {
        let bearer = format!("Bearer {}", token.unwrap_or_default());
        let headers: Vec<(&str, &str)> =
            [("content-type", "application/json"), ("a2a-version", "1.0")].into_iter().chain(token.map(|_| ("authorization", bearer.as_str()))).collect();
        let body = json!({"jsonrpc": "2.0", "id": 1, "method": "ListTasks", "params": {}}).to_string();
        http::request(port, "POST", "/a2a/v1", &headers, body.as_bytes(), PATIENCE).await.unwrap()
    };
    let mut off = served(port, &model);
    off["a2a"]["enabled"] = json!(false);
    let gateway = Gateway::start(Setup { port, ..Setup::ours(&off) }).await.unwrap();
    assert_eq!(http::get(port, "/.well-known/agent-card.json").await.unwrap().status, 404);
    assert_eq!(ask(port, Some(ANN)).await.status, 404);
    drop(gateway);

    let port = free_port().unwrap();
    let gateway = Gateway::start(Setup { port, ..Setup::ours(&served(port, &model)) }).await.unwrap();
    let card = http::get(port, "/.well-known/agent-card.json").await.unwrap();
    assert_eq!(card.status, 200, "{}", gateway.log_tail(20));
    assert_eq!(card.json()["supportedInterfaces"][0]["url"], format!("http://127.0.0.1:{port}/a2a/v1"));
    assert_eq!(ask(port, None).await.status, 401);
    assert_eq!(ask(port, Some("a-token-of-nobody-1")).await.status, 401);
    assert_eq!(ask(port, Some(clawstead_harness::gateway::TOKEN)).await.status, 401, "the operator's token is no caller's");
    let known = ask(port, Some(ANN)).await;
    assert_eq!((known.status, known.json()["result"]["totalSize"].as_u64()), (200, Some(0)), "{}", known.text());
}

#[tokio::test]
async fn an_agent_calls_an_agent_of_another_gateway() {
    let (near, far) = (model().await, model().await);
    let there = free_port().unwrap();
    let other = Gateway::start(Setup { port: there, ..Setup::ours(&served(there, &far)) }).await.unwrap();
    let here = free_port().unwrap();
    let mut config = config(here, &near.v1(), &["main"]);
    config["a2a"] = json!({"remotes": [{"name": "house", "url": format!("http://127.0.0.1:{there}"), "token": ANN}]});
    let gateway = Gateway::start(Setup { port: here, ..Setup::ours(&config) }).await.unwrap();
    let mut client = Client::connect(here).await.unwrap();
    let mut tool = async |arguments: Value, id: &str| client.turn("main", &format!("!tool a2a_send {arguments}"), id).await.unwrap();
    let turn = tool(json!({"agent": "house", "message": "msg-000077 who are you"}), "one").await;
    assert!(
        turn.text.contains("state: completed") && turn.text.contains("msg-000077 who are you"),
        "{turn:?}\n{}\n{}",
        gateway.log_tail(20),
        other.log_tail(20)
    );
    assert_eq!(asked(&far, "msg-000077"), 1);
    // The same address without a name in the config is a stranger's, and strangers may not be on this machine.
    let turn = tool(json!({"agent": format!("http://127.0.0.1:{there}/a2a/v1"), "message": "hello"}), "two").await;
    assert!(turn.text.contains("refused to fetch"), "{turn:?}");
    let turn = tool(json!({"agent": "nobody", "message": "hello"}), "three").await;
    assert!(turn.text.contains("known by name: house"), "{turn:?}");
}
