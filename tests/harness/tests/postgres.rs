//! A gateway whose state is in PostgreSQL (`farm.state`): it answers, survives its own death and the server's, and
//! keeps nothing in the folder.

use std::time::Duration;

use clawstead_harness::{
    client::{Client, Refused},
    free_port,
    gateway::{Gateway, Setup, config},
    mock::{MockModel, Options},
    until,
};
use clawstead_state::testing::Postgres;
use serde_json::{Value, json};

const SESSION: &str = "agent:main:kept";

fn over_postgres(port: u16, v1: &str) -> Value {
    let mut config = config(port, v1, &["main"]);
    config["farm"] = json!({"state": {"kind": "postgres", "url": {"source": "env", "provider": "default", "id": "CLAW_STATE_URL"}, "schema": "one_gateway"}});
    config
}

/// How often each mark stands in answers of the session.
async fn answers(client: &mut Client, marks: &[&str]) -> Vec<usize> {
    let history = client.call("chat.history", json!({"sessionKey": SESSION, "limit": 1000})).await.unwrap();
    let said: Vec<String> = history["messages"].as_array().unwrap().iter().filter(|message| message["role"] == "assistant").map(ToString::to_string).collect();
    marks.iter().map(|mark| said.iter().filter(|text| text.contains(mark)).count()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_over_postgres_answers_is_killed_and_goes_on() {
    let Some(mut server) = Postgres::start().unwrap() else { return };
    let model = MockModel::start(Options::default()).await.unwrap();
    let port = free_port().unwrap();
    let home = tempfile::tempdir().unwrap();
    let setup = Setup { port, ..Setup::ours(&over_postgres(port, &model.v1())).home(home.path()).env("CLAW_STATE_URL", server.url()) };

    let gateway = Gateway::start(setup.clone()).await.unwrap();
    let mut client = Client::connect(port).await.unwrap();
    let turn = client.turn(SESSION, "msg-000001 hello", "run-1").await.unwrap();
    assert_eq!((turn.state.as_str(), turn.text.contains("msg-000001")), ("final", true), "{turn:?}");
    let status = client.call("status", json!({})).await.unwrap();
    assert!(status.to_string().contains("postgres:127.0.0.1/postgres"), "{status}");
    assert!(!status.to_string().contains("postgres://"), "the address with its credentials is not shown: {status}");
    assert!(!gateway.state().join("clawstead.sqlite").exists(), "nothing is kept in the folder");

    // Killed in the middle of a turn that was accepted.
    client.call("chat.send", json!({"sessionKey": SESSION, "message": "msg-000002 !delay 300", "idempotencyKey": "run-2"})).await.unwrap();
    drop(gateway.kill().await);
    let gateway = Gateway::start(setup.clone()).await.unwrap();
    let mut client = Client::connect(port).await.unwrap();
    let end = client.call("agent.wait", json!({"runId": "run-2", "timeoutMs": 30_000})).await.unwrap();
    assert_eq!(end["status"], "ok", "{end}\n{}", gateway.log_tail(30));
    assert_eq!(answers(&mut client, &["msg-000001", "msg-000002"]).await, [1, 1]);
    // A repeat is known, also by the next process.
    client.call("chat.send", json!({"sessionKey": SESSION, "message": "msg-000002 !delay 300", "idempotencyKey": "run-2"})).await.unwrap();

    // The server dies and comes back: what is said meanwhile waits, or is refused and may be said again; nothing is
    // lost and nothing is there twice.
    tokio::task::block_in_place(|| {
        server.crash().unwrap();
        server.run().unwrap();
    });
    let sent = until(Duration::from_secs(40), async || {
        let params = json!({"sessionKey": SESSION, "message": "msg-000003 again", "idempotencyKey": "run-3"});
        match client.call("chat.send", params).await {
            Ok(_) => Some(()),
            Err(err) => {
                assert!(err.downcast_ref::<Refused>().is_some(), "the gateway itself is gone: {err:#}");
                None
            }
        }
    });
    sent.await.expect("the gateway takes letters again");
    let end = client.call("agent.wait", json!({"runId": "run-3", "timeoutMs": 30_000})).await.unwrap();
    assert_eq!(end["status"], "ok", "{end}\n{}", gateway.log_tail(30));
    assert_eq!(answers(&mut client, &["msg-000001", "msg-000002", "msg-000003"]).await, [1, 1, 1]);
}

#[tokio::test]
async fn a_database_without_an_address_is_refused_with_words() {
    let port = free_port().unwrap();
    let mut gateway = Gateway::launch(Setup { port, ..Setup::ours(&over_postgres(port, "http://127.0.0.1:9/v1")) }).await.unwrap();
    assert_eq!(gateway.ended(Duration::from_secs(20)).await.unwrap(), Some(78), "{}", gateway.log_text());
    assert!(gateway.log_text().contains("farm.state.url has no value"), "{}", gateway.log_text());
}
