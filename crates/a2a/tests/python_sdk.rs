//! The SDK for Python (PyPI `a2a-sdk`) as a caller of our server and as an agent for our client. Needs
//! `CLAWSTEAD_A2A_PYTHON`; `cargo xtask engines` fetches it.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends here")]

mod support;

use std::{io::Write as _, path::PathBuf, process::Stdio, sync::Arc, time::Duration};

use clawstead_a2a::{
    client::{Asked, Client, ClientSettings, Remote},
    proto::{Binding, ErrorKind, SendMessageResponse, TaskState},
    server::{KEYS_PATH, MemoryTasks},
    sign::CardKey,
};
use clawstead_world::NetPolicy;
use futures_util::StreamExt as _;
use serde_json::{Value, json};
use support::{ANN, on, quick, says, serve, task, world};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::Command,
};

fn python(suite: &str) -> Option<PathBuf> {
    let found = std::env::var_os("CLAWSTEAD_A2A_PYTHON").map(PathBuf::from).filter(|path| path.exists());
    if found.is_none() {
        let why = "CLAWSTEAD_A2A_PYTHON names no Python with a2a-sdk; run cargo xtask engines";
        // Not `println!`, which is captured: a skipped test must be seen in the output of a run that passes.
        let _ = writeln!(std::io::stderr(), "SKIPPED: {suite}: {why}");
        // `cargo xtask test` counts the lines of this file.
        if let Some(path) = std::env::var_os("CLAWSTEAD_SKIPS") {
            let file = std::fs::File::options().create(true).append(true).open(path);
            let _ = file.and_then(|mut file| writeln!(file, "a2a\t{suite}\t{why}"));
        }
    }
    found
}

fn script(name: &str) -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "tests", "peers", name].iter().collect()
}

async fn call_with_the_sdk(suite: &str, binding: &str, version: &str) -> Option<Value> {
    let python = python(suite)?;
    let house = serve(Arc::new(MemoryTasks::default()), |settings| {
        let jku = format!("{}{KEYS_PATH}", settings.public_url);
        let one = CardKey::es256("es256", &CardKey::new_es256().unwrap()).unwrap().published_at(&jku);
        let two = CardKey::ed25519("ed25519", ed25519_dalek::SigningKey::from_bytes(&[7; 32])).published_at(&jku);
        settings.card_keys = vec![Arc::new(one), Arc::new(two)];
    })
    .await;
    let mut command = Command::new(python);
    command.arg(script("a2a_client.py")).args([&house.url, ANN, binding, version]).kill_on_drop(true);
    let output = tokio::time::timeout(Duration::from_secs(120), command.output()).await.expect("the SDK is done in time").unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(house.agents.at_work(), 0);
    Some(serde_json::from_slice(&output.stdout).unwrap())
}

fn check_calls(out: &Value, states: &[&str]) {
    assert_eq!(out["card"], "OpenClaw gateway");
    assert_eq!((&out["stream"]["state"], &out["stream"]["text"]), (&json!("TASK_STATE_COMPLETED"), &json!("one two three")), "{out}");
    assert_eq!(out["stream"]["kinds"].as_array().unwrap().iter().take(3).collect::<Vec<_>>(), states);
    assert_eq!(out["get"], json!({"state": "TASK_STATE_COMPLETED", "text": "one two three", "history": 1}));
    assert_eq!(out["whole"], json!({"state": "TASK_STATE_COMPLETED", "kinds": ["task"], "text": "at once"}));
    assert_eq!(out["reply"], json!({"kinds": ["message"], "text": "at once"}));
    assert_eq!(out["asked"], json!({"first": "TASK_STATE_INPUT_REQUIRED", "then": "TASK_STATE_COMPLETED", "same": true, "text": "this one"}));
    assert_eq!(out["cancel"], json!({"state": "TASK_STATE_CANCELED", "followed": "TASK_STATE_CANCELED"}));
    assert_eq!(out["errors"], json!(["TaskNotFoundError", "TaskNotCancelableError"]));
}

#[tokio::test]
async fn the_sdk_calls_us_over_both_bindings() {
    for binding in ["JSONRPC", "HTTP+JSON"] {
        let Some(out) = call_with_the_sdk("a2a-sdk as client", binding, "1.0").await else { return };
        check_calls(&out, &["task", "status_update", "artifact_update"]);
        assert_eq!(out["verified"], json!(["es256", "ed25519"]), "both signatures hold for the SDK");
        assert_eq!(out["list"], json!({"page": 2, "total": 4, "more": true}));
        assert_eq!(out["push"], json!({"same": true, "listed": 1, "gone": true}));
    }
}

#[tokio::test]
async fn the_sdk_calls_us_in_0_3() {
    let Some(out) = call_with_the_sdk("a2a-sdk as client of 0.3", "JSONRPC", "0.3").await else { return };
    check_calls(&out, &["task", "status_update", "artifact_update"]);
}

#[tokio::test]
async fn we_call_an_agent_of_the_sdk_over_both_bindings() {
    let Some(python) = python("a2a-sdk as server") else { return };
    let mut server = Command::new(python).arg(script("a2a_server.py")).stdout(Stdio::piped()).kill_on_drop(true).spawn().unwrap();
    let mut lines = BufReader::new(server.stdout.take().unwrap()).lines();
    let url = tokio::time::timeout(Duration::from_secs(60), lines.next_line()).await.expect("it starts in time").unwrap().expect("it says its address");
    let client = Client::new(world(), ClientSettings::new(NetPolicy::Trusted));
    let remote = client.discover(&url).await.unwrap();
    assert_eq!(remote.card().name, "Python Echo");
    for binding in [Binding::JsonRpc, Binding::Rest] {
        talk(&remote.clone().over(binding).unwrap(), binding).await;
    }
}

async fn talk(remote: &Remote, binding: Binding) {
    let id = |word: &str| format!("{word}-{binding:?}");
    let mut heard = 0;
    let asked = remote.ask(says(&id("e"), "echo one two three"), 30_000, &mut |_| heard += 1).await.unwrap();
    let Asked::Task(done) = &asked else { panic!("a task was expected, not {asked:?}") };
    assert_eq!((done.status.state, asked.text().as_str()), (TaskState::Completed, "one two three "));
    assert!(heard >= 5, "every event is told: {heard}");
    assert_eq!(remote.get(&done.id).await.unwrap().status.state, TaskState::Completed);
    let whole = task(remote.send(says(&id("w"), "echo whole")).await.unwrap());
    assert_eq!((whole.status.state, whole.answer().trim()), (TaskState::Completed, "whole"));
    assert!(matches!(remote.send(says(&id("r"), "reply")).await.unwrap(), SendMessageResponse::Message(reply) if reply.text() == "at once"));
    let Asked::Task(asking) = remote.ask(says(&id("a"), "ask"), 30_000, &mut |_| {}).await.unwrap() else { panic!("a task was expected") };
    assert_eq!(asking.status.state, TaskState::InputRequired);
    let answered = remote.ask(on(says(&id("b"), "echo this"), &asking), 30_000, &mut |_| {}).await.unwrap();
    assert!(matches!(&answered, Asked::Task(task) if task.id == asking.id && task.status.state == TaskState::Completed), "{answered:?}");
    let hanging = task(remote.send(quick(&id("h"), "hang")).await.unwrap());
    let mut events = remote.subscribe(&hanging.id, None).await.unwrap();
    events.next().await.unwrap().unwrap();
    assert_eq!(remote.cancel(&hanging.id).await.unwrap().status.state, TaskState::Canceled);
    let mut last = None;
    while let Some(Ok((_, event))) = events.next().await {
        last = event.state().or(last);
    }
    assert_eq!(last, Some(TaskState::Canceled));
    let gone = remote.get("nobody").await.unwrap_err();
    assert_eq!(gone.refusal().map(|error| error.kind), Some(ErrorKind::TaskNotFound));
    let late = remote.cancel(&done.id).await.unwrap_err();
    assert_eq!(late.refusal().map(|error| error.kind), Some(ErrorKind::TaskNotCancelable));
}
