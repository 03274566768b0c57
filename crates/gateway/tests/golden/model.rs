//! The model of the recordings: a small server that speaks OpenAI chat completions.

use std::{convert::Infallible, sync::Arc};

use axum::{
    Json, Router,
    body::{Body, Bytes},
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::post,
};
use futures_util::stream;
use serde_json::{Value, json};
use tokio::{net::TcpListener, sync::watch};

/// What it always says.
pub const ANSWER: &str = "Hello from the mock model. Second sentence here.";

/// The model. It can be told to wait in the middle of an answer.
pub struct Model {
    /// `http://127.0.0.1:<port>/v1`.
    pub url: String,
    gate: watch::Sender<Gate>,
}

/// How far answers go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gate {
    /// To their end.
    Open,
    /// This many words, then they wait.
    After(usize),
}

impl Model {
    /// Starts it on a free port; it ends with the runtime.
    pub async fn start() -> Self {
        let (gate, _) = watch::channel(Gate::Open);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/v1", listener.local_addr().unwrap());
        let app = Router::new().route("/v1/chat/completions", post(answer)).with_state(Arc::new(gate.clone()));
        tokio::spawn(async move { axum::serve(listener, app).await });
        Self { url, gate }
    }

    /// Holds or frees answers.
    pub fn set(&self, gate: Gate) {
        self.gate.send_replace(gate);
    }

    /// Frees an answer that waits before its first word.
    pub fn begin(&self) {
        self.gate.send_if_modified(|gate| std::mem::replace(gate, if *gate == Gate::After(0) { Gate::Open } else { *gate }) != *gate);
    }
}

fn piece(delta: Value, finish: Option<&str>) -> String {
    let chunk = json!({ "id": "c1", "object": "chat.completion.chunk", "created": 1, "model": "mock-1",
        "choices": [{ "index": 0, "delta": delta, "finish_reason": finish }] });
    format!("data: {chunk}\n\n")
}

async fn answer(State(gate): State<Arc<watch::Sender<Gate>>>, Json(ask): Json<Value>) -> Response {
    let last = ask["messages"].as_array().and_then(|all| all.last()).cloned().unwrap_or_default();
    let text = last["content"].to_string();
    if text.contains("FAILME") {
        let body = json!({ "error": { "message": "mock upstream failure", "type": "invalid_request_error" } });
        return (StatusCode::BAD_REQUEST, Json(body)).into_response();
    }
    let mut pieces = vec![piece(json!({ "role": "assistant", "content": "" }), None)];
    let end = if last["role"] == "user" && text.contains("USETOOL") {
        let call = json!({ "index": 0, "id": "call_mock1", "type": "function", "function": { "name": "exec", "arguments": "{\"command\":\"echo hi\"}" } });
        pieces.push(piece(json!({ "tool_calls": [call] }), None));
        "tool_calls"
    } else {
        pieces.extend(ANSWER.split_inclusive(' ').map(|word| piece(json!({ "content": word }), None)));
        "stop"
    };
    pieces.push(piece(json!({}), Some(end)));
    let usage = json!({ "id": "c1", "object": "chat.completion.chunk", "created": 1, "model": "mock-1", "choices": [],
        "usage": { "prompt_tokens": 10, "completion_tokens": 8, "total_tokens": 18 } });
    pieces.push(format!("data: {usage}\n\ndata: [DONE]\n\n"));
    let state = (pieces.into_iter().enumerate(), gate.subscribe());
    let body = stream::unfold(state, |(mut pieces, mut gate)| async move {
        let (at, piece) = pieces.next()?;
        // The first piece carries no word.
        let _ = gate.wait_for(|gate| *gate == Gate::Open || matches!(gate, Gate::After(words) if at <= *words)).await;
        Some((Ok::<_, Infallible>(Bytes::from(piece)), (pieces, gate)))
    });
    ([("content-type", "text/event-stream")], Body::from_stream(body)).into_response()
}
