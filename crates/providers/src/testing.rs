//! For this crate's tests: transcripts, and a server that misbehaves on demand.

use std::sync::{Arc, Mutex};

use clawstead_terms::{Message, MessageId, Millis, Part, Role, ToolDefinition};
use clawstead_world::World;
use futures_util::StreamExt;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use crate::{Ask, Chunk, ChunkStream, ProviderError};

pub(crate) fn world() -> World {
    let _ = rustls::crypto::ring::default_provider().install_default();
    World::real().unwrap()
}

pub(crate) fn message(role: Role, parts: Vec<Part>) -> Arc<Message> {
    Arc::new(Message { id: MessageId::from("m"), role, parts, at: Millis(0), run_id: None, model: None, usage: None, stop_reason: None, meta: None })
}

pub(crate) fn user(text: &str) -> Arc<Message> {
    message(Role::User, vec![Part::text(text)])
}

pub(crate) fn assistant(text: &str) -> Arc<Message> {
    message(Role::Assistant, vec![Part::text(text)])
}

pub(crate) fn call(id: &str, name: &str) -> Part {
    Part::ToolCall { id: id.into(), name: name.into(), arguments: json!({"a": 1}) }
}

pub(crate) fn result(id: &str, text: &str) -> Arc<Message> {
    let part = Part::ToolResult { id: id.into(), name: "t".into(), content: vec![Part::text(text)], details: None, is_error: false };
    message(Role::Tool, vec![part])
}

pub(crate) fn tool(name: &str) -> ToolDefinition {
    ToolDefinition { name: name.into(), description: "does it".into(), parameters: json!({"type": "object"}) }
}

pub(crate) fn ask(messages: Vec<Arc<Message>>) -> Ask {
    Ask { model: "m".into(), system: "You are a test.".into(), messages: messages.into(), ..Ask::default() }
}

pub(crate) async fn all(mut stream: ChunkStream) -> (Vec<Chunk>, Option<ProviderError>) {
    let mut out = Vec::new();
    while let Some(item) = stream.next().await {
        match item {
            Ok(chunk) => out.push(chunk),
            Err(error) => return (out, Some(error)),
        }
    }
    (out, None)
}

pub(crate) fn text_of(chunks: &[Chunk]) -> String {
    chunks.iter().filter_map(|c| if let Chunk::Text(t) = c { Some(t.as_str()) } else { None }).collect()
}

/// What the server does with a request.
#[derive(Clone, Debug)]
pub(crate) enum Act {
    /// Answers with events, in pieces of this many bytes, and closes properly.
    Events(String, usize),
    /// Answers with events and then breaks the connection in the middle of a transfer chunk.
    CutAfter(String),
    /// Answers with events and then stays silent.
    HangAfter(String),
    /// Sends one byte every 20 ms for ever, never a whole event.
    Drip,
    /// Never answers.
    Hang,
    /// Closes at once.
    Close,
    /// A status with extra headers and a body.
    Status(u16, &'static str, String),
    /// JSON with status 200.
    Json(String),
}

/// Head, body as JSON, body as text.
type Seen = Arc<Mutex<Vec<(String, Value, String)>>>;

/// A server on loopback that plays its acts in turn, the last one again and again.
pub(crate) struct Server {
    pub(crate) url: String,
    seen: Seen,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Server {
    pub(crate) async fn start(acts: Vec<Act>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let seen = Seen::default();
        let log = seen.clone();
        let task = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            let mut turn = 0;
            while let Ok((socket, _)) = listener.accept().await {
                let act = acts[turn.min(acts.len() - 1)].clone();
                turn += 1;
                connections.spawn(serve(socket, act, log.clone()));
            }
        });
        Self { url, seen, task }
    }

    /// Heads and bodies of the requests so far.
    pub(crate) fn seen(&self) -> Vec<(String, Value)> {
        self.seen.lock().unwrap().iter().map(|(head, body, _)| (head.clone(), body.clone())).collect()
    }

    /// Bodies of the requests so far, as they came.
    pub(crate) fn forms(&self) -> Vec<String> {
        self.seen.lock().unwrap().iter().map(|(.., text)| text.clone()).collect()
    }
}

async fn serve(mut socket: TcpStream, act: Act, log: Seen) {
    let mut got = Vec::new();
    let mut buffer = [0; 16 * 1024];
    let (head, body, text) = loop {
        let n = socket.read(&mut buffer).await.unwrap_or(0);
        if n == 0 {
            return;
        }
        got.extend_from_slice(&buffer[..n]);
        let text = String::from_utf8_lossy(&got).into_owned();
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let length: usize = head.lines().find_map(|l| l.to_lowercase().strip_prefix("content-length:").map(|v| v.trim().parse().unwrap())).unwrap_or(0);
        if body.len() >= length {
            break (head.to_owned(), serde_json::from_str(body).unwrap_or(Value::Null), body.to_owned());
        }
    };
    log.lock().unwrap().push((head, body, text));
    let stream_head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n";
    let chunk = |bytes: &[u8]| [format!("{:x}\r\n", bytes.len()).as_bytes(), bytes, b"\r\n"].concat();
    match act {
        Act::Events(text, size) => {
            socket.write_all(stream_head.as_bytes()).await.unwrap();
            for piece in text.as_bytes().chunks(size) {
                if socket.write_all(&chunk(piece)).await.is_err() {
                    return;
                }
            }
            let _ = socket.write_all(b"0\r\n\r\n").await;
        }
        Act::CutAfter(text) => {
            socket.write_all(stream_head.as_bytes()).await.unwrap();
            socket.write_all(&chunk(text.as_bytes())).await.unwrap();
            socket.write_all(b"ff\r\ndata: {").await.unwrap();
        }
        Act::HangAfter(text) => {
            socket.write_all(stream_head.as_bytes()).await.unwrap();
            socket.write_all(&chunk(text.as_bytes())).await.unwrap();
            std::future::pending::<()>().await;
        }
        Act::Drip => {
            socket.write_all(stream_head.as_bytes()).await.unwrap();
            while socket.write_all(&chunk(b"x")).await.is_ok() {
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            }
        }
        Act::Hang => std::future::pending::<()>().await,
        Act::Close => {}
        Act::Status(status, headers, body) => {
            let head = format!("HTTP/1.1 {status} X\r\n{headers}content-length: {}\r\nconnection: close\r\n\r\n", body.len());
            let _ = socket.write_all([head.as_bytes(), body.as_bytes()].concat().as_slice()).await;
        }
        Act::Json(body) => {
            let head = format!("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", body.len());
            let _ = socket.write_all([head.as_bytes(), body.as_bytes()].concat().as_slice()).await;
        }
    }
}
