//! The real model servers by themselves: what the mission suite takes for granted about them.

use std::time::Duration;

use clawstead_harness::{
    engines::Engine,
    http,
    mock::{MockModel, Options},
    servers::{KEY, Server},
};
use serde_json::{Value, json};

async fn post(url: &str, path: &str, body: &Value) -> http::Answer {
    let port = url.rsplit(':').next().unwrap().parse().unwrap();
    let bearer = format!("Bearer {KEY}");
    let headers = [("content-type", "application/json"), ("authorization", bearer.as_str()), ("x-api-key", KEY), ("anthropic-version", "2023-06-01")];
    http::request(port, "POST", path, &headers, body.to_string().as_bytes(), Duration::from_secs(60)).await.unwrap()
}

#[tokio::test]
async fn litellm_speaks_both_dialects_and_passes_tool_calls_on() {
    let Some(program) = Engine::LiteLlm.or_skip("LiteLLM by itself") else { return };
    let model = MockModel::start(Options { remember: true, ..Options::default() }).await.unwrap();
    let v1 = model.v1();
    let litellm = Server::litellm(
        &program,
        &[
            ("through", &[("model", "openai/mock-1"), ("api_base", &v1), ("api_key", "k")]),
            ("fixed", &[("model", "openai/none"), ("mock_response", "Fixed words.")]),
        ],
    )
    .await
    .unwrap();
    let user = json!([{"role": "user", "content": "hello msg-000001"}]);
    for stream in [false, true] {
        let answer = post(&litellm.url, "/v1/chat/completions", &json!({"model": "fixed", "stream": stream, "messages": user})).await;
        assert!(answer.status == 200 && (stream || answer.text().contains("Fixed words.")), "{}", answer.text());
        let answer = post(&litellm.url, "/v1/messages", &json!({"model": "through", "stream": stream, "max_tokens": 100, "messages": user})).await;
        let sign = if stream { "message_stop" } else { "echo" };
        assert!(answer.status == 200 && answer.text().contains(sign), "{}\n{}", answer.text(), litellm.log());
    }
    let tools = json!([{"name": "read", "description": "Reads.", "input_schema": {"type": "object", "properties": {"path": {"type": "string"}}}}]);
    let ask = json!([{"role": "user", "content": "!tool read {\"path\": \"a.txt\"}"}]);
    let answer = post(&litellm.url, "/v1/messages", &json!({"model": "through", "stream": true, "max_tokens": 100, "messages": ask, "tools": tools})).await;
    assert!(answer.text().contains("tool_use") && answer.text().contains("read"), "{}", answer.text());
}

#[tokio::test]
async fn llama_cpp_serves_the_tiny_model() {
    let Some(python) = Engine::LlamaServer.or_skip("llama.cpp by itself") else { return };
    let llama = Server::llama(&python).await.unwrap();
    let answer = post(&llama.url, "/v1/chat/completions", &json!({"model": "any", "max_tokens": 16, "messages": [{"role": "user", "content": "hi"}]})).await;
    assert!(
        answer.status == 200 && answer.json()["usage"]["completion_tokens"].as_u64().is_some_and(|tokens| tokens > 0),
        "{}\n{}",
        answer.text(),
        llama.log()
    );
}
