//! A gateway client on bare JSON frames. It shares no code with the product, so an error in the product's codec cannot
//! hide behind the same error here.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use ed25519_dalek::{Signer as _, SigningKey};
use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tokio::net::TcpStream;
use tokio_tungstenite::{
    MaybeTlsStream, WebSocketStream, connect_async_with_config,
    tungstenite::{Message, protocol::WebSocketConfig},
};

use crate::{PATIENCE, gateway::TOKEN};

/// Events kept while waiting for something else; older ones are dropped.
const EVENTS_KEPT_MAX: usize = 20_000;

/// All scopes of an operator.
pub const ALL_SCOPES: &[&str] =
    &["operator.admin", "operator.read", "operator.write", "operator.approvals", "operator.questions", "operator.pairing", "operator.talk.secrets"];

/// An Ed25519 device identity.
pub struct Device {
    key: SigningKey,
}

impl Device {
    /// From 32 secret bytes.
    #[must_use]
    pub fn from_seed(seed: [u8; 32]) -> Self {
        Self { key: SigningKey::from_bytes(&seed) }
    }

    /// Lower-case hex SHA-256 of the public key.
    #[must_use]
    pub fn id(&self) -> String {
        hex::encode(Sha256::digest(self.key.verifying_key().as_bytes()))
    }

    fn proof(&self, who: &Who, signed_at: u64, nonce: &str) -> Value {
        let text = format!(
            "v3|{}|{}|{}|operator|{}|{signed_at}|{}|{nonce}|linux|",
            self.id(),
            who.client,
            who.mode,
            who.scopes.join(","),
            who.token.as_deref().unwrap_or_default()
        );
        json!({
            "id": self.id(), "publicKey": URL_SAFE_NO_PAD.encode(self.key.verifying_key().as_bytes()),
            "signature": URL_SAFE_NO_PAD.encode(self.key.sign(text.as_bytes()).to_bytes()), "signedAt": signed_at, "nonce": nonce,
        })
    }
}

/// How to introduce oneself.
pub struct Who {
    /// `client.id`.
    pub client: String,
    /// `client.mode`.
    pub mode: String,
    /// The scopes asked for.
    pub scopes: Vec<String>,
    /// `caps`.
    pub caps: Vec<String>,
    /// The shared token.
    pub token: Option<String>,
    /// A device that signs.
    pub device: Option<Device>,
}

impl Default for Who {
    fn default() -> Self {
        Self {
            client: "cli".into(),
            mode: "cli".into(),
            scopes: ALL_SCOPES.iter().map(|&scope| scope.to_owned()).collect(),
            caps: Vec::new(),
            token: Some(TOKEN.into()),
            device: None,
        }
    }
}

/// The gateway said no.
#[derive(Clone, Debug, PartialEq)]
pub struct Refused(
    /// The `error` object: `code`, `message`, `retryable`, `details`.
    pub Value,
);

impl std::fmt::Display for Refused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl std::error::Error for Refused {}

/// One turn as a client sees it.
#[derive(Clone, Debug)]
pub struct Turn {
    /// The run.
    pub run: String,
    /// The answer's text.
    pub text: String,
    /// `final`, `error` or `aborted`.
    pub state: String,
    /// Streamed pieces before the end.
    pub deltas: usize,
    /// From sending to `ok`: the moment the gateway promises not to lose the message.
    pub accepted_after: Duration,
    /// From sending to the end of the answer.
    pub took: Duration,
}

/// A connection.
pub struct Client {
    socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
    events: VecDeque<Value>,
    next_id: u64,
    /// The payload of `hello-ok`.
    pub hello: Value,
}

impl Client {
    /// Connects with the shared token, as the command line does.
    ///
    /// # Errors
    /// When the gateway is away or refuses.
    pub async fn connect(port: u16) -> anyhow::Result<Self> {
        Self::connect_as(port, Who::default()).await
    }

    /// Connects as somebody.
    ///
    /// # Errors
    /// When the gateway is away; [`Refused`] when it says no.
    pub async fn connect_as(port: u16, who: Who) -> anyhow::Result<Self> {
        tokio::time::timeout(PATIENCE, Self::shake(port, who)).await.context("no handshake")?
    }

    async fn shake(port: u16, who: Who) -> anyhow::Result<Self> {
        let mut limits = WebSocketConfig::default();
        limits.max_message_size = Some(64 << 20);
        limits.max_frame_size = Some(64 << 20);
        let (socket, _) = connect_async_with_config(format!("ws://127.0.0.1:{port}/"), Some(limits), true).await?;
        let mut client = Self { socket, events: VecDeque::new(), next_id: 0, hello: Value::Null };
        let challenge = client.frame().await?;
        let nonce = challenge["payload"]["nonce"].as_str().context("the first frame is no challenge")?.to_owned();
        let at = challenge["payload"]["ts"].as_u64().unwrap_or_default();
        let mut params = json!({
            "minProtocol": 4, "maxProtocol": 4,
            "client": {"id": who.client, "version": "2026.9.6", "platform": "linux", "mode": who.mode},
            "role": "operator", "scopes": who.scopes, "caps": who.caps,
        });
        if let Some(token) = &who.token {
            params["auth"] = json!({"token": token});
        }
        if let Some(device) = &who.device {
            params["device"] = device.proof(&who, at, &nonce);
        }
        client.hello = client.call("connect", params).await?;
        Ok(client)
    }

    /// Sends a request and waits for its first answer.
    ///
    /// # Errors
    /// [`Refused`] when the gateway says no; otherwise the connection broke or nothing came.
    pub async fn call(&mut self, method: &str, params: Value) -> anyhow::Result<Value> {
        let id = self.send(method, params).await?;
        self.answer(&id).await
    }

    /// Sends a request and does not wait. Answers the request's id.
    ///
    /// # Errors
    /// When the connection broke.
    pub async fn send(&mut self, method: &str, params: Value) -> anyhow::Result<String> {
        self.next_id += 1;
        let id = self.next_id.to_string();
        let frame = json!({"type": "req", "id": id, "method": method, "params": params});
        self.raw(Message::text(frame.to_string())).await?;
        Ok(id)
    }

    /// Waits for the next answer to a request; events are kept meanwhile.
    ///
    /// # Errors
    /// As [`Client::call`].
    pub async fn answer(&mut self, id: &str) -> anyhow::Result<Value> {
        let wait = async {
            loop {
                let mut frame = self.frame().await?;
                if frame["type"] == "res" && frame["id"] == id {
                    if frame["ok"] == true {
                        return Ok(frame["payload"].take());
                    }
                    return Err(anyhow::Error::new(Refused(frame["error"].take())));
                }
                if frame["type"] == "event" {
                    self.keep(frame);
                }
            }
        };
        tokio::time::timeout(PATIENCE, wait).await.with_context(|| format!("no answer to request {id}"))?
    }

    /// Sends a frame as it is.
    ///
    /// # Errors
    /// When the connection broke.
    pub async fn raw(&mut self, message: Message) -> anyhow::Result<()> {
        Ok(self.socket.send(message).await?)
    }

    /// The next frame that is not WebSocket housekeeping.
    ///
    /// # Errors
    /// When the connection ends, with the close code and reason, or the frame is no JSON.
    pub async fn frame(&mut self) -> anyhow::Result<Value> {
        loop {
            match self.socket.next().await {
                Some(Ok(Message::Text(text))) => return Ok(serde_json::from_str(&text)?),
                Some(Ok(Message::Binary(bytes))) => return Ok(serde_json::from_slice(&bytes)?),
                Some(Ok(Message::Close(close))) => {
                    let (code, reason) = close.map_or((1005, String::new()), |close| (u16::from(close.code), close.reason.to_string()));
                    bail!("closed {code}: {reason}");
                }
                Some(Ok(_)) => {}
                Some(Err(error)) => return Err(error.into()),
                None => bail!("closed without a word"),
            }
        }
    }

    /// The next event `wanted` likes; others are dropped.
    ///
    /// # Errors
    /// When the connection ends or `limit` passes.
    pub async fn event(&mut self, limit: Duration, mut wanted: impl FnMut(&Value) -> bool) -> anyhow::Result<Value> {
        while let Some(event) = self.events.pop_front() {
            if wanted(&event) {
                return Ok(event);
            }
        }
        let wait = async {
            loop {
                let frame = self.frame().await?;
                if frame["type"] == "event" && wanted(&frame) {
                    return Ok(frame);
                }
            }
        };
        tokio::time::timeout(limit, wait).await.context("the event did not come")?
    }

    /// `chat.send`, and the events until the run's end.
    ///
    /// # Errors
    /// When it is refused, the connection breaks, or nothing comes for a minute.
    pub async fn turn(&mut self, session: &str, message: &str, key: &str) -> anyhow::Result<Turn> {
        let began = Instant::now();
        let sent = self.call("chat.send", json!({"sessionKey": session, "message": message, "idempotencyKey": key})).await?;
        let accepted_after = began.elapsed();
        let run = sent["runId"].as_str().context("chat.send gave no runId")?.to_owned();
        let (mut deltas, mut text) = (0, String::new());
        loop {
            let event = self.event(PATIENCE, |event| event["event"] == "chat" && event["payload"]["runId"] == run.as_str()).await?;
            let payload = &event["payload"];
            let state = payload["state"].as_str().unwrap_or_default();
            if let Some(found) = message_text(&payload["message"]) {
                text = found;
            }
            match state {
                "delta" => deltas += 1,
                "final" | "error" | "aborted" => {
                    return Ok(Turn { run, text, state: state.to_owned(), deltas, accepted_after, took: began.elapsed() });
                }
                _ => {}
            }
        }
    }

    /// Says goodbye.
    pub async fn close(mut self) {
        let _ = self.socket.close(None).await;
    }

    fn keep(&mut self, event: Value) {
        if self.events.len() >= EVENTS_KEPT_MAX {
            self.events.pop_front();
        }
        self.events.push_back(event);
    }
}

/// The text parts of a message, put together; `None` when it has none.
#[must_use]
pub fn message_text(message: &Value) -> Option<String> {
    match &message["content"] {
        Value::String(text) => Some(text.clone()),
        Value::Array(parts) => Some(parts.iter().filter(|part| part["type"] == "text").filter_map(|part| part["text"].as_str()).collect()),
        _ => None,
    }
}
