//! The original's published client library (`@openclaw/gateway-client`): connect, pair a device, chat, stream.

use std::{process::Stdio, time::Duration};

use clawstead_harness::{
    engines::Engine,
    free_port,
    gateway::{Gateway, Setup, TOKEN, config},
    mock::{MockModel, Options},
};
use serde_json::{Value, json};
use tokio::process::Command;

const SUITE: &str = "the original's client library";

#[tokio::test]
async fn it_connects_pairs_chats_and_streams() {
    let (Some(node), Some(_), Some(package)) = (Engine::Node.or_skip(SUITE), Engine::OpenClaw.or_skip(SUITE), Engine::GatewayClient.or_skip(SUITE)) else {
        return;
    };
    let model = MockModel::start(Options::default()).await.unwrap();
    let port = free_port().unwrap();
    let mut config = config(port, &model.v1(), &["main"]);
    // Otherwise devices on this machine are approved without asking.
    config["gateway"]["nodes"] = json!({"pairing": {"autoApproveLocal": false}});
    let gateway = Gateway::start(Setup { port, ..Setup::ours(&config) }).await.unwrap();
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../data/gateway_client.mjs");
    let output = Command::new(node)
        .arg(script)
        .env("CLAWSTEAD_GATEWAY_CLIENT", package)
        .env("GATEWAY_URL", gateway.ws())
        .env("GATEWAY_TOKEN", TOKEN)
        .stdin(Stdio::null())
        .output();
    let output = tokio::time::timeout(Duration::from_secs(120), output).await.unwrap().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let result: Value = serde_json::from_str(said.lines().last().unwrap_or_default()).unwrap_or_default();
    let context = format!("{result:#}\n{}\n{}", String::from_utf8_lossy(&output.stderr), gateway.log_tail(30));

    assert_eq!(result["error"], Value::Null, "{context}");
    assert_eq!((&result["owner"]["protocol"], &result["owner"]["role"]), (&json!(4), &json!("operator")), "{context}");
    assert_eq!(result["refusal"], json!({"code": "NOT_PAIRED", "reason": "not-paired", "requestId": "string"}), "{context}");
    assert_eq!(result["pending"], json!([{"mine": true, "role": "operator", "scopes": ["operator.read", "operator.write"]}]), "{context}");
    assert_eq!((&result["paired"]["hasToken"], &result["paired"]["stored"]), (&json!(true), &json!(true)), "{context}");
    assert_eq!((&result["chat"]["state"], &result["chat"]["text"]), (&json!("final"), &json!("one two three four five six")), "{context}");
    assert!(result["chat"]["deltas"].as_u64().is_some_and(|deltas| deltas >= 3), "it did not stream: {context}");
    assert_eq!(result["roles"], json!(["user", "assistant"]), "{context}");
    assert_ne!(result["admin"], "allowed", "a device without the scope may list devices: {context}");
    assert_eq!(result["again"]["method"], "device-token", "{context}");
    assert_eq!(result["agent"], json!({"status": "ok", "text": "by the agent method"}), "{context}");
    assert_eq!(result["gaps"], 0, "{context}");
    assert_ne!(result["removed"], "still let in", "{context}");
}
