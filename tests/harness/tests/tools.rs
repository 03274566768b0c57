//! Tools in a real gateway: the model server asks for a call by the text of the message and reports what came back.

use std::time::{Duration, Instant};

use clawstead_harness::{
    PATIENCE,
    client::{Client, Turn},
    free_port,
    gateway::{Gateway, Setup, config},
    mock::{MockModel, Options},
    until,
};
use serde_json::{Value, json};

async fn start(tools: Value) -> (Gateway, MockModel, Client) {
    let model = MockModel::start(Options { remember: true, remember_bodies: true, ..Options::default() }).await.unwrap();
    let port = free_port().unwrap();
    let mut config = config(port, &model.v1(), &["main", "bobby"]);
    config["tools"] = tools;
    let gateway = Gateway::start(Setup { port, ..Setup::ours(&config) }).await.unwrap();
    let client = Client::connect(port).await.unwrap();
    (gateway, model, client)
}

async fn tool(client: &mut Client, name: &str, arguments: Value) -> Turn {
    client.turn("main", &format!("!tool {name} {arguments}"), &format!("{name}-{}", rand::random::<u64>())).await.unwrap()
}

#[tokio::test]
async fn files_are_written_read_and_edited_in_the_workspace() {
    let (gateway, _model, mut client) = start(json!({})).await;
    let turn = tool(&mut client, "write", json!({"path": "notes/today.txt", "content": "first line\nsecond line\n"})).await;
    assert_eq!(turn.state, "final", "{turn:?}\n{}", gateway.log_tail(20));
    let file = gateway.state().join("workspace-main/notes/today.txt");
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "first line\nsecond line\n");
    let turn = tool(&mut client, "read", json!({"path": "notes/today.txt"})).await;
    assert!(turn.text.contains("second line"), "{turn:?}");
    let turn = tool(&mut client, "edit", json!({"path": "notes/today.txt", "oldText": "second", "newText": "last"})).await;
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "first line\nlast line\n", "{turn:?}");
    let turn = tool(&mut client, "read", json!({"path": "no/such/file"})).await;
    assert_eq!(turn.state, "final", "a failing tool is told to the model, it does not end the turn: {turn:?}");
}

#[tokio::test]
async fn commands_run_as_the_policy_says() {
    let (gateway, _model, mut client) = start(json!({"exec": {"security": "full", "ask": "off"}})).await;
    let turn = tool(&mut client, "exec", json!({"command": "echo $((6 * 7)); exit 3"})).await;
    assert!(turn.text.contains("42") && turn.text.contains('3'), "{turn:?}\n{}", gateway.log_tail(20));
    let began = Instant::now();
    let turn = tool(&mut client, "exec", json!({"command": "sleep 600", "timeout": 1})).await;
    assert!(turn.state == "final" && began.elapsed() < Duration::from_secs(30), "{turn:?} after {:?}", began.elapsed());

    let (_gateway, model, mut client) = start(json!({"exec": {"security": "deny"}})).await;
    tool(&mut client, "exec", json!({"command": "touch /tmp/should-not-exist-clawstead"})).await;
    assert!(!std::path::Path::new("/tmp/should-not-exist-clawstead").exists());
    assert!(model.count() > 0);
}

#[tokio::test]
async fn agents_write_to_each_other_and_start_sub_agents() {
    let (gateway, model, mut client) = start(json!({"agentToAgent": {"enabled": true}})).await;
    let turn = tool(&mut client, "sessions_send", json!({"sessionKey": "agent:bobby:main", "message": "hello bobby msg-000010", "timeoutSeconds": 20})).await;
    assert!(turn.text.contains("echo: ") && turn.text.contains("msg-000010"), "{turn:?}\n{}", gateway.log_tail(30));
    let turn = tool(&mut client, "sessions_list", json!({})).await;
    assert!(turn.text.contains("agent:bobby:main"), "{turn:?}");
    let turn = tool(&mut client, "sessions_history", json!({"sessionKey": "agent:bobby:main"})).await;
    assert!(turn.text.contains("msg-000010"), "{turn:?}");
    let turn = tool(&mut client, "sessions_spawn", json!({"task": "do this msg-000011"})).await;
    assert_eq!(turn.state, "final", "{turn:?}");
    let done = clawstead_harness::until(Duration::from_secs(20), async || {
        model.seen().iter().any(|entry| entry.mark.as_deref() == Some("msg-000011") && entry.did == "say").then_some(())
    })
    .await;
    assert!(done.is_some(), "the sub-agent was never asked\n{}", gateway.log_tail(30));
    let turn = tool(&mut client, "session_status", json!({})).await;
    assert!(turn.text.contains("mock"), "{turn:?}");
}

#[tokio::test]
async fn the_prompt_has_the_workspace_files_and_allowed_tools_only() {
    let (gateway, model, mut client) = start(json!({"deny": ["exec"]})).await;
    let workspace = gateway.state().join("workspace-main");
    // The gateway makes the missing files in the background; what is there it leaves alone.
    let last = workspace.join("HEARTBEAT.md");
    assert!(until(PATIENCE, async || last.exists().then_some(())).await.is_some(), "no workspace was made");
    std::fs::write(workspace.join("SOUL.md"), "You are fond of herons.").unwrap();
    client.turn("agent:main:fresh", "hello msg-000020", "fresh").await.unwrap();
    let entry = model.seen().into_iter().find(|entry| entry.mark.as_deref() == Some("msg-000020")).unwrap();
    let body = entry.body.unwrap();
    assert!(body["messages"][0]["content"].to_string().contains("fond of herons"), "{}", body["messages"][0]);
    let names: Vec<&str> = body["tools"].as_array().unwrap().iter().filter_map(|tool| tool["function"]["name"].as_str()).collect();
    assert!(names.contains(&"read") && !names.contains(&"exec"), "{names:?}");
}
