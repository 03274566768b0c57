//! A session of 5,000 messages: `sessions export` writes all of it; `sessions commit` is a barrier.

use std::time::Duration;

use clawstead_harness::{
    cli::Cli,
    client::Client,
    free_port,
    gateway::{Gateway, Setup, Whose, config},
    mock::{MockModel, Options},
};
use serde_json::{Value, json};

const MESSAGES: usize = 5_000;
/// Requests on their way at once; the gateway takes 128 of one connection.
const TOGETHER: usize = 100;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn five_thousand_messages_are_exported_whole_and_a_commit_waits() {
    let model = MockModel::start(Options::default()).await.unwrap();
    let port = free_port().unwrap();
    let gateway = Gateway::start(Setup { port, ..Setup::ours(&config(port, &model.v1(), &["main"])) }).await.unwrap();
    let mut client = Client::connect(port).await.unwrap();
    client.turn("agent:main:long", "msg-000001 begins", "run-1").await.unwrap();
    for first in (0..MESSAGES).step_by(TOGETHER) {
        for number in first..first + TOGETHER {
            let params = json!({"sessionKey": "agent:main:long", "message": format!("said-{number:05} {}", "words ".repeat(200))});
            client.send("chat.inject", params).await.unwrap();
        }
        // The answers come in any order.
        let mut answered = 0;
        while answered < TOGETHER {
            let frame = tokio::time::timeout(Duration::from_secs(60), client.frame()).await.unwrap().unwrap();
            if frame["type"] == "res" {
                assert_eq!(frame["ok"], true, "{frame}");
                answered += 1;
            }
        }
    }

    let cli = Cli::in_home(Whose::Ours, &gateway.home);
    let file = gateway.home.join("export.jsonl");
    let ran = cli.run(&["sessions", "export", "main", "long", "--output", file.to_str().unwrap()]).await.unwrap();
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    assert!(ran.stderr.contains(&format!("Wrote {} messages", MESSAGES + 2)), "{}", ran.stderr);
    let lines: Vec<Value> = std::fs::read_to_string(&file).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((&lines[0]["type"], &lines[0]["version"]), (&json!("session"), &json!(3)));
    for pair in lines[1..].windows(2) {
        assert_eq!(pair[1]["parentId"], pair[0]["id"], "a chain without a gap");
    }
    let mut said: Vec<String> = lines.iter().filter_map(|line| Some(line.to_string().split_once("said-")?.1[..5].to_owned())).collect();
    said.sort();
    said.dedup();
    assert_eq!(said.len(), MESSAGES);

    // Page by page through the older method too.
    let (mut seen, mut offset) = (0, 0);
    loop {
        let page = client.call("sessions.get", json!({"key": "agent:main:long", "limit": 1000, "offset": offset})).await.unwrap();
        seen += page["messages"].as_array().unwrap().len();
        match page["nextOffset"].as_u64() {
            Some(next) => offset = next,
            None => break,
        }
    }
    assert_eq!(seen, MESSAGES + 2);

    // The barrier: what was accepted before has ended when it answers.
    client.call("chat.send", json!({"sessionKey": "agent:main:b", "message": "msg-000002 !delay 700", "idempotencyKey": "run-2"})).await.unwrap();
    let ran = cli.run(&["sessions", "commit", "main", "b", "--timeout", "0", "--json"]).await.unwrap();
    assert_eq!((ran.code, &ran.json()["settled"], &ran.json()["open"]), (Some(1), &json!(false), &json!(["run-2"])), "{} {}", ran.stdout, ran.stderr);
    let ran = cli.run(&["sessions", "commit", "main", "b", "--json"]).await.unwrap();
    assert_eq!((ran.code, &ran.json()["settled"]), (Some(0), &json!(true)), "{} {}", ran.stdout, ran.stderr);
    let end = client.call("agent.wait", json!({"runId": "run-2", "timeoutMs": 0})).await.unwrap();
    assert_eq!(end["status"], "ok", "it had ended: {end}");
    drop(gateway.stop(Duration::from_secs(20)).await.unwrap());
}
