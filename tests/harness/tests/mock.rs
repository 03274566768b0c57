//! The model server itself: what the other suites rely on.

use std::time::Instant;

use clawstead_harness::{
    http,
    mock::{Dialect, MockModel, Options},
};
use serde_json::{Value, json};
use std::time::Duration;

async fn ask(port: u16, path: &str, body: &Value) -> http::Answer {
    http::request(
        port,
        "POST",
        path,
        &[("content-type", "application/json"), ("authorization", "Bearer k")],
        body.to_string().as_bytes(),
        Duration::from_secs(10),
    )
    .await
    .unwrap()
}

fn port_of(model: &MockModel) -> u16 {
    model.url().rsplit(':').next().unwrap().parse().unwrap()
}

#[tokio::test]
async fn every_dialect_answers_streamed_and_whole() {
    let model = MockModel::start(Options { remember: true, ..Options::default() }).await.unwrap();
    let port = port_of(&model);
    let user = json!([{"role": "user", "content": "hello msg-000007"}]);
    for (path, field) in [("/v1/chat/completions", "messages"), ("/v1/messages", "messages"), ("/v1/responses", "input")] {
        let whole = ask(port, path, &json!({"model": "m", field: user})).await;
        assert!(whole.status == 200 && whole.text().contains("echo: hello msg-000007"), "{path}: {}", whole.text());
        let streamed = ask(port, path, &json!({"model": "m", "stream": true, field: user})).await;
        let data: Vec<Value> =
            streamed.text().lines().filter_map(|line| line.strip_prefix("data: ")).filter_map(|data| serde_json::from_str(data).ok()).collect();
        let said: String = data
            .iter()
            .filter_map(|event| {
                event["choices"][0]["delta"]["content"]
                    .as_str()
                    .or(event["delta"]["text"].as_str())
                    .or((event["type"] == "response.output_text.delta").then(|| event["delta"].as_str()).flatten())
            })
            .collect();
        assert_eq!(said, "echo: hello msg-000007", "{path}");
    }
    let seen = model.seen();
    assert_eq!(seen.len(), 6);
    assert!(seen.iter().all(|entry| entry.mark.as_deref() == Some("msg-000007") && entry.key.as_deref() == Some("k")));
    assert_eq!(seen[2].dialect, Dialect::Messages);
}

#[tokio::test]
async fn faults_happen_as_told() {
    let model = MockModel::start(Options::default()).await.unwrap();
    let port = port_of(&model);
    let body = |text: &str| json!({"model": "m", "stream": true, "messages": [{"role": "user", "content": text}]});
    let limited = ask(port, "/v1/chat/completions", &body("!status 429")).await;
    assert_eq!((limited.status, limited.header("retry-after")), (429, Some("1")));
    assert!(serde_json::from_slice::<Value>(&ask(port, "/v1/chat/completions", &body("!garbage")).await.body).is_err());
    let text = body("!cut").to_string();
    let cut = http::request(port, "POST", "/v1/chat/completions", &[], text.as_bytes(), Duration::from_secs(10)).await;
    assert!(cut.is_err(), "{cut:?}");
    let text = body("!hang").to_string();
    let hung = http::request(port, "POST", "/v1/chat/completions", &[], text.as_bytes(), Duration::from_millis(300)).await;
    assert!(hung.is_err());
    let tool = ask(port, "/v1/chat/completions", &json!({"messages": [{"role": "user", "content": "!tool read {\"path\": \"x\"}"}]})).await;
    assert_eq!(tool.json()["choices"][0]["message"]["tool_calls"][0]["function"]["arguments"], "{\"path\":\"x\"}");
}

/// The server must not be what a benchmark measures.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_is_fast() {
    let model = MockModel::start(Options::default()).await.unwrap();
    let port = port_of(&model);
    let body =
        json!({"model": "m", "stream": true, "messages": [{"role": "system", "content": "x".repeat(20_000)}, {"role": "user", "content": "hi"}]}).to_string();
    let began = Instant::now();
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let body = body.clone();
        tasks.spawn(async move {
            for _ in 0..100 {
                let answer = http::request(port, "POST", "/v1/chat/completions", &[], body.as_bytes(), Duration::from_secs(30)).await.unwrap();
                assert_eq!(answer.status, 200);
            }
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
    // Connections of their own, client and server in one process: far below what it does with kept connections.
    println!("{:.0} requests/s", 800.0 / began.elapsed().as_secs_f64());
    assert_eq!(model.count(), 800);
}
