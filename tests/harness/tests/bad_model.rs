//! A model server that hangs, cuts the stream, answers garbage or errors: the turn ends with a clear error, the session
//! is as good as before, and the next message is answered.

use std::time::{Duration, Instant};

use clawstead_harness::{
    client::Client,
    free_port,
    gateway::{Gateway, Setup, config},
    mock::{MockModel, Options},
};
use serde_json::json;

async fn start(seconds: u64) -> (Gateway, MockModel) {
    let model = MockModel::start(Options { remember: true, ..Options::default() }).await.unwrap();
    let port = free_port().unwrap();
    let mut config = config(port, &model.v1(), &["main"]);
    config["agents"]["defaults"]["timeoutSeconds"] = json!(seconds);
    (Gateway::start(Setup { port, ..Setup::ours(&config) }).await.unwrap(), model)
}

#[tokio::test]
async fn every_fault_ends_as_an_error_and_poisons_nothing() {
    let (gateway, model) = start(120).await;
    let mut client = Client::connect(gateway.port).await.unwrap();
    for (index, fault) in ["!garbage", "!cut", "!status 400", "!status 401", "!status 403", "!status 404", "!status 500"].into_iter().enumerate() {
        let began = Instant::now();
        let turn = client.turn("main", fault, &format!("fault-{index}")).await.unwrap();
        println!("{fault}: {} after {:?}: {}", turn.state, began.elapsed(), turn.text);
        assert_eq!(turn.state, "error", "{fault}: {turn:?}");
        let next = client.turn("main", &format!("!say fine after {index}"), &format!("after-{index}")).await.unwrap();
        assert_eq!((next.state.as_str(), next.text.as_str()), ("final", format!("fine after {index}").as_str()), "{fault}: the session was poisoned");
    }
    let entries = model.seen();
    assert!(entries.iter().filter(|entry| entry.did == "status:400").count() == 1, "a wrong request must not be repeated");
    assert!(!gateway.log_text().contains("mock-key"), "the key of the model server is in the log");
}

#[tokio::test]
async fn a_model_that_hangs_is_given_up_in_time() {
    let (gateway, _model) = start(3).await;
    let mut client = Client::connect(gateway.port).await.unwrap();
    let began = Instant::now();
    let turn = client.turn("main", "!hang", "hang").await.unwrap();
    assert!(turn.state != "final" && began.elapsed() < Duration::from_secs(30), "{turn:?} after {:?}", began.elapsed());
    assert_eq!(client.turn("main", "!say fine", "after-hang").await.unwrap().text, "fine");
}

#[tokio::test]
async fn a_hanging_turn_can_be_aborted_and_others_go_on() {
    let (gateway, _model) = start(120).await;
    let mut client = Client::connect(gateway.port).await.unwrap();
    let sent = client.call("chat.send", json!({"sessionKey": "agent:main:stuck", "message": "!hang", "idempotencyKey": "stuck"})).await.unwrap();
    for turn in 0..5 {
        assert_eq!(client.turn("agent:main:free", "!say free", &format!("free-{turn}")).await.unwrap().text, "free");
    }
    client.call("chat.abort", json!({"sessionKey": "agent:main:stuck", "runId": sent["runId"]})).await.unwrap();
    let end = client.call("agent.wait", json!({"runId": sent["runId"], "timeoutMs": 10_000})).await.unwrap();
    assert_ne!(end["status"], "timeout", "the aborted run goes on: {end}");
    assert_eq!(client.turn("agent:main:stuck", "!say fine", "after-stuck").await.unwrap().text, "fine");
}

#[tokio::test]
async fn a_fallback_model_answers_when_the_first_is_down() {
    let good = MockModel::start(Options::default()).await.unwrap();
    let dead = free_port().unwrap();
    let port = free_port().unwrap();
    let mut config = config(port, &good.v1(), &["main"]);
    config["models"]["providers"]["down"] = json!({"baseUrl": format!("http://127.0.0.1:{dead}/v1"), "apiKey": "x", "api": "openai-completions",
        "models": [{"id": "m", "name": "m", "reasoning": false, "input": ["text"], "cost": {"input": 0, "output": 0, "cacheRead": 0, "cacheWrite": 0},
            "contextWindow": 100_000, "maxTokens": 1000}]});
    config["agents"]["defaults"]["model"] = json!({"primary": "down/m", "fallbacks": ["mock/mock-1"]});
    let gateway = Gateway::start(Setup { port, ..Setup::ours(&config) }).await.unwrap();
    let mut client = Client::connect(port).await.unwrap();
    let turn = client.turn("main", "!say from the second", "fallback").await.unwrap();
    assert_eq!(turn.text, "from the second", "{}", gateway.log_tail(20));
}
