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
use pair::{Consul, Pair, found};
use serde_json::{Value, json};
use tokio::process::Command;

mod pair;

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

/// Takes push notifications: the ids of tasks and their states, as they come.
async fn hook() -> (u16, std::sync::Arc<std::sync::Mutex<Vec<(String, String)>>>) {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (port, heard) = (listener.local_addr().unwrap().port(), std::sync::Arc::<std::sync::Mutex<Vec<(String, String)>>>::default());
    let kept = heard.clone();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let kept = kept.clone();
            tokio::spawn(async move {
                let (mut bytes, mut piece) = (Vec::new(), [0_u8; 4096]);
                let body = loop {
                    let read = stream.read(&mut piece).await.unwrap_or(0);
                    bytes.extend_from_slice(&piece[..read]);
                    let text = String::from_utf8_lossy(&bytes).into_owned();
                    let whole = text.split_once("\r\n\r\n").and_then(|(head, body)| {
                        let length = head.lines().find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length:")?.trim().parse::<usize>().ok())?;
                        (body.len() >= length).then(|| body.to_owned())
                    });
                    match whole {
                        Some(body) => break body,
                        None if read == 0 => return,
                        None => {}
                    }
                };
                let event: Value = serde_json::from_str(&body).unwrap_or_default();
                let of = |paths: &[&str]| paths.iter().find_map(|path| event.pointer(path)?.as_str()).unwrap_or_default().to_owned();
                let state = of(&["/statusUpdate/status/state", "/task/status/state"]);
                if !state.is_empty() {
                    kept.lock().unwrap().push((of(&["/statusUpdate/taskId", "/task/id"]), state));
                }
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n").await;
            });
        }
    });
    (port, heard)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_gateway_of_a_farm_answers_for_all_its_agents() {
    let suite = "A2A over two gateways of a farm";
    let (Some(python), Some(program)) = (python(suite), found("CLAWSTEAD_CONSUL", suite)) else { return };
    let (consul, model, (hook_port, heard)) = (Consul::start(program).await, model().await, hook().await);
    let mut pair = Pair::make(&consul.url(), &["--bus", "consul"], &model, |name, config| {
        // Bob is known to jerry's gateway only: bobby's gateway does not serve him, whoever lets him in.
        let mut peers = vec![json!({"name": "ann", "token": ANN})];
        if name == "jerry-gateway" {
            peers.push(json!({"name": "bob", "token": BOB}));
        }
        config["a2a"] = json!({"enabled": true, "peers": peers, "push": {"targets": [format!("127.0.0.1:{hook_port}")]}});
    })
    .await;
    let here = pair.ports[0];
    let seen = until(PATIENCE, async || {
        let cards = [
            http::get(pair.ports[0], "/.well-known/agent-card.json").await.ok()?.json(),
            http::get(pair.ports[1], "/.well-known/agent-card.json").await.ok()?.json(),
        ];
        cards.iter().all(|card| card["skills"].as_array().is_some_and(|skills| skills.len() == 2)).then_some(())
    });
    assert!(seen.await.is_some(), "both cards show both agents\n{}", pair.logs());

    let steps = [
        json!({"do": "card"}),
        json!({"do": "verify"}),
        json!({"do": "send", "agent": "bobby", "id": "f1", "text": "msg-000001 hello from afar"}),
        json!({"do": "send", "agent": "bobby", "id": "f1", "text": "msg-000001 hello from afar"}),
        json!({"do": "stream", "agent": "bobby", "id": "f2", "text": "msg-000002 !pieces 6 !pace 60 one two three four five six"}),
        json!({"do": "begin", "agent": "bobby", "id": "f3", "text": "msg-000003 !hang"}),
        json!({"do": "list", "agent": "bobby"}),
        json!({"do": "begin", "agent": "bobby", "id": "f4", "text": "msg-000004 !hang later"}),
    ];
    let out = call(&python, here, ANN, &steps).await;
    assert_eq!(out[0]["skills"], json!(["jerry", "bobby"]), "{out:?}");
    assert!(out[1].as_array().is_some_and(|held| held.len() == 1 && held[0].as_str().unwrap().starts_with("jerry-gateway.")), "{out:?}");
    assert_eq!((&out[2]["state"], &out[3]), (&json!("TASK_STATE_COMPLETED"), &out[2]), "{out:?}\n{}", pair.logs());
    assert!(out[2]["text"].as_str().unwrap().contains("hello from afar") && asked(&model, "msg-000001") == 1, "{out:?}");
    assert!(out[4]["pieces"].as_u64().unwrap() >= 2 && out[4]["text"].as_str().unwrap().contains("one two three four five six"), "{out:?}");
    let (hanging, later) = (out[5]["task"].as_str().unwrap().to_owned(), out[7]["task"].as_str().unwrap().to_owned());
    assert_eq!(out[6].as_array().unwrap().len(), 3, "{out:?}");
    until(PATIENCE, async || (asked(&model, "msg-000003") > 0).then_some(())).await.expect("the model is asked");

    // The card of a gateway is checked with the keys of another, the owner itself shows the same tasks, and a task that
    // goes on is followed from elsewhere.
    let there = call(&python, pair.ports[1], ANN, &[json!({"do": "get", "agent": "bobby", "task": later}), json!({"do": "verify"})]).await;
    assert_eq!((&there[0]["task"], there[1].as_array().unwrap().len()), (&json!(later), 1), "{there:?}");
    let keys = http::get(pair.ports[1], "/.well-known/jwks.json").await.unwrap().json();
    assert!(keys["keys"].as_array().unwrap().iter().any(|key| key["kid"] == out[1][0]), "{keys}");
    let target = format!("http://127.0.0.1:{hook_port}/hook");
    let steps = [
        json!({"do": "push", "agent": "bobby", "task": later, "id": "p1", "to": target}),
        json!({"do": "push", "agent": "bobby", "task": later, "id": "p2", "to": "http://127.0.0.1:1/private"}),
        json!({"do": "push", "agent": "bobby", "task": later, "id": "p3", "to": target}),
        json!({"do": "pushes", "agent": "bobby", "task": later}),
        json!({"do": "unpush", "agent": "bobby", "task": later, "id": "p3"}),
        json!({"do": "pushes", "agent": "bobby", "task": later}),
        json!({"do": "watch_cancel", "agent": "bobby", "task": later}),
        json!({"do": "cancel", "agent": "bobby", "task": hanging}),
        json!({"do": "get", "agent": "bobby", "task": hanging}),
        json!({"do": "cancel", "agent": "bobby", "task": hanging}),
        json!({"do": "get", "agent": "bobby", "task": "no-such-task"}),
    ];
    let out = call(&python, here, ANN, &steps).await;
    assert!(out[0]["id"] == "p1" && out[1]["error"].is_string(), "a private target is refused by the owner: {out:?}");
    assert_eq!((&out[3], &out[5]), (&json!(["p1", "p3"]), &json!(["p1"])), "{out:?}");
    assert_eq!(out[6]["state"], "TASK_STATE_CANCELED", "{out:?}\n{}", pair.logs());
    let told = until(PATIENCE, async || heard.lock().unwrap().contains(&(later.clone(), "TASK_STATE_CANCELED".into())).then_some(())).await;
    assert!(told.is_some(), "{:?}", heard.lock().unwrap());
    assert_eq!((&out[7]["state"], &out[8]["state"]), (&json!("TASK_STATE_CANCELED"), &json!("TASK_STATE_CANCELED")), "{out:?}");
    assert_eq!((&out[9]["error"], &out[10]["error"]), (&json!("TaskNotCancelableError"), &json!("TaskNotFoundError")), "{out:?}");

    // Whom the owner does not list it does not serve.
    let out = call(
        &python,
        here,
        BOB,
        &[json!({"do": "send", "agent": "bobby", "id": "b1", "text": "msg-000009 let me in"}), json!({"do": "send", "id": "b2", "text": "hello"})],
    )
    .await;
    assert!(out[0]["words"].as_str().is_some_and(|words| words.contains("403")) && asked(&model, "msg-000009") == 0, "{out:?}");
    assert_eq!(out[1]["state"], "TASK_STATE_COMPLETED", "{out:?}");

    // The owner is killed in the middle: the message that was sent is done once, and its task is found.
    let begun = call(&python, here, ANN, &[json!({"do": "begin", "agent": "bobby", "id": "f5", "text": "msg-000005 !delay 3000 at last"})]).await;
    until(PATIENCE, async || (asked(&model, "msg-000005") > 0).then_some(())).await.expect("the model is asked");
    drop(pair.bobby.take().unwrap().kill().await);
    let away = call(&python, here, ANN, &[json!({"do": "get", "agent": "bobby", "task": begun[0]["task"]})]).await;
    assert!(away[0]["words"].as_str().is_some_and(|words| words.contains("503")), "{away:?}");
    pair.bobby = Some(pair.start(1).await);
    pair.together().await;
    let again = json!({"do": "send", "agent": "bobby", "id": "f5", "text": "msg-000005 !delay 3000 at last"});
    let answered = until(PATIENCE, async || {
        let out = call(&python, here, ANN, std::slice::from_ref(&again)).await;
        (out[0]["state"] == "TASK_STATE_COMPLETED").then(|| out[0].clone())
    });
    let answered = answered.await.expect("the link is back");
    assert!(answered["task"] == begun[0]["task"] && answered["text"].as_str().unwrap().contains("at last"), "{answered}");
}

#[tokio::test]
async fn cards_carry_a_signature_of_each_key_while_keys_change() {
    let Some(python) = python("A2A signed cards") else { return };
    let (model, port, home) = (model().await, free_port().unwrap(), tempfile::tempdir().unwrap());
    let keys = home.path().join("keys");
    std::fs::create_dir_all(&keys).unwrap();
    for (name, algorithm) in [("old.pem", &["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"][..]), ("new.pem", &["-algorithm", "ED25519"])] {
        let made = Command::new("openssl").arg("genpkey").args(algorithm).arg("-out").arg(keys.join(name)).output().await;
        if !made.is_ok_and(|output| output.status.success()) {
            return skipped("A2A signed cards", "openssl", "no openssl program makes keys here");
        }
    }
    let mut config = served(port, &model);
    config["a2a"]["signing"] = json!({"keys": [{"file": keys.join("old.pem"), "kid": "house-old"}, {"file": keys.join("new.pem")}]});
    let gateway = Gateway::start(Setup { port, ..Setup::ours(&config).home(home.path()) }).await.unwrap();
    let out = call(&python, port, ANN, &[json!({"do": "verify"})]).await;
    let held: Vec<&str> = out[0].as_array().unwrap().iter().map(|kid| kid.as_str().unwrap()).collect();
    assert!(held.len() == 3 && held[0] == "house-old" && held[1].starts_with("card-") && held[2].starts_with("device."), "{held:?}\n{}", gateway.log_tail(20));
    let keys = http::get(port, "/a2a/v1/jwks.json").await.unwrap().json();
    assert_eq!(keys["keys"].as_array().unwrap().iter().map(|key| key["kid"].as_str().unwrap()).collect::<Vec<_>>(), held);
    assert!(!keys.to_string().contains("\"d\""), "public halves only");
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
