//! The server: an [`axum::Router`] over a [`Host`], which is the house behind it, and [`Tasks`], which is where tasks
//! are kept.
//!
//! | Address | What |
//! | --- | --- |
//! | `/.well-known/agent-card.json` | the card of the house |
//! | `/.well-known/agent.json` | the same in version 0.3 |
//! | `/a2a/v1` | JSON-RPC; `tenant` names the agent, else the first |
//! | `/a2a/v1/message:send`, `/a2a/v1/tasks/..`, also `/a2a/v1/<tenant>/..` | resources and verbs |
//! | `/a2a/v1/agents/<id>`, and all of the above below it | one agent |
//! | `/a2a/v1/agents/<id>/.well-known/agent-card.json` | its card |
//! | `/a2a/v1/jwks.json`, `/.well-known/jwks.json` | the keys that sign the cards |
//!
//! What holds:
//! - A task, its messages, its push targets and what is still to be sent to them are stored before a caller is told.
//!   Pieces of an answer are not: they are told at once, and are stored with the answer.
//! - A message of a named caller is taken once, however often it is sent. The same id with other words is refused.
//! - A caller sees its own tasks only. The token decides who it is.
//! - A reader of a stream that comes back gets the task as it is; with `Last-Event-ID` the task as it knew it, and then
//!   what it missed.

mod call;
mod cards;
mod engine;
mod follow;
mod host;
mod jsonrpc;
mod live;
mod push;
mod read;
mod relay;
mod rest;
mod run;
mod send;
mod settings;
mod sse;
mod store;

use std::sync::Arc;

use axum::{
    Router,
    body::Body,
    extract::{Request, State},
    response::{IntoResponse, Response},
    routing::{any, get},
};
use clawstead_terms::Millis;
use clawstead_world::World;
use http::{HeaderMap, Method, StatusCode, header};
use serde_json::{Value, json};

pub use cards::{BASE_PATH, KEYS_PATH, KEYS_PATH_WELL_KNOWN};
pub use host::{AgentProfile, Host, Peer, Piece, Resumed, Started, Stopped, TaskRef, Turn, TurnEvent, TurnStream};
pub use relay::{RelayCall, RelayEvent, Relayed};
pub use settings::{Access, Anonymous, BODY_BYTES_DEFAULT, Offer, PeerToken, PushTargets, Settings, SettingsError, WAIT_MS_DEFAULT};
pub use store::{MemoryTasks, StoreError, Table, Tasks, Write};

use crate::proto::{A2aError, AgentCard, ErrorKind, legacy};
use engine::Engine;

/// How long a card may be kept, seconds.
const CARD_AGE_S: u32 = 300;

/// The A2A server of a house.
#[derive(Clone)]
pub struct A2a(Arc<Engine>);

impl A2a {
    /// A server. Call [`Self::recover`] for each agent before it is told to anybody.
    #[must_use]
    pub fn new(host: Arc<dyn Host>, tasks: Arc<dyn Tasks>, world: World, settings: Settings) -> Self {
        Self(Arc::new(Engine::new(host, tasks, world, settings)))
    }

    /// Everything to mount, with absolute paths.
    pub fn router(&self) -> Router {
        Router::new()
            .route("/.well-known/agent-card.json", get(house_card))
            .route("/.well-known/agent.json", get(house_card_before))
            .route(KEYS_PATH_WELL_KNOWN, get(house_keys))
            .route(BASE_PATH, any(serve))
            .route("/a2a/v1/", any(serve))
            .route("/a2a/v1/{*rest}", any(serve))
            .with_state(Arc::clone(&self.0))
    }

    /// Answers an operation that another gateway of the farm carried here ([`Host::relay`]).
    ///
    /// # Errors
    /// As the operation does; [`ErrorKind::Forbidden`] for a peer that is not listed here.
    pub async fn answer(&self, call: RelayCall) -> Result<Relayed, A2aError> {
        relay::answer(&self.0, call).await
    }

    /// Takes up the tasks of an agent after a start or a move: those at work go on or end as the host says, and what is
    /// still to be sent is sent. Answers with the number of tasks that go on.
    ///
    /// # Errors
    /// [`ErrorKind::Unavailable`] when the store is away.
    pub async fn recover(&self, agent: &str) -> Result<usize, A2aError> {
        self.0.recover(agent).await
    }

    /// Lets go of an agent whose tasks go on elsewhere: its readers are sent away, nothing more of it is written here.
    /// Turns are not cancelled.
    pub async fn release(&self, agent: &str) {
        self.0.release(agent).await;
    }

    /// Forgets tasks of an agent that ended before `before`. Answers with their number.
    ///
    /// # Errors
    /// [`ErrorKind::Unavailable`] when the store is away.
    pub async fn prune(&self, agent: &str, before: Millis) -> Result<usize, A2aError> {
        self.0.prune(agent, before).await
    }

    /// The card of the house, signed.
    ///
    /// # Errors
    /// When there are no agents or the card cannot be signed.
    pub fn card(&self) -> Result<AgentCard, A2aError> {
        cards::house_card(&self.0)
    }

    /// The card of one agent, signed; None when there is none.
    ///
    /// # Errors
    /// When the card cannot be signed.
    pub fn card_of(&self, agent: &str) -> Result<Option<AgentCard>, A2aError> {
        self.0.host.agent(agent).map(|profile| cards::card_of(&self.0, &profile)).transpose()
    }
}

async fn house_card(State(engine): State<Arc<Engine>>, headers: HeaderMap) -> Response {
    card_response(&engine, &headers, cards::house_card(&engine), |card| json!(card))
}

async fn house_card_before(State(engine): State<Arc<Engine>>, headers: HeaderMap) -> Response {
    card_response(&engine, &headers, cards::house_card(&engine), legacy::card)
}

async fn house_keys(State(engine): State<Arc<Engine>>) -> Response {
    key_response(&engine)
}

fn key_response(engine: &Engine) -> Response {
    ([(header::CONTENT_TYPE, "application/jwk-set+json")], cards::key_set(engine).to_string()).into_response()
}

fn card_response(engine: &Engine, headers: &HeaderMap, card: Result<AgentCard, A2aError>, shape: impl Fn(&AgentCard) -> Value) -> Response {
    let card = match card {
        Ok(card) => card,
        Err(err) => return rest::failure(headers, &err),
    };
    let tag = cards::tag(&card);
    let address = card.supported_interfaces.first().map(|one| one.url.as_str()).unwrap_or_default();
    let since = http_date(engine.card_since(address, &tag));
    let cache = [(header::CACHE_CONTROL, format!("public, max-age={CARD_AGE_S}")), (header::ETAG, tag.clone()), (header::LAST_MODIFIED, since)];
    let known = headers.get(header::IF_NONE_MATCH).and_then(|value| value.to_str().ok());
    if known.is_some_and(|all| all.split(',').any(|one| one.trim() == tag)) {
        return (StatusCode::NOT_MODIFIED, cache).into_response();
    }
    (StatusCode::OK, cache, [(header::CONTENT_TYPE, "application/json")], shape(&card).to_string()).into_response()
}

fn http_date(at: Millis) -> String {
    jiff::Timestamp::from_millisecond(at.0).unwrap_or(jiff::Timestamp::UNIX_EPOCH).strftime("%a, %d %b %Y %H:%M:%S GMT").to_string()
}

async fn serve(State(engine): State<Arc<Engine>>, request: Request) -> Response {
    let (head, body) = request.into_parts();
    let below = head.uri.path().strip_prefix(BASE_PATH).unwrap_or_default();
    let mut segments: Vec<String> = below.split('/').filter(|word| !word.is_empty()).map(decoded).collect();
    let agent = if segments.first().is_some_and(|word| word == "agents") && segments.len() > 1 { segments.drain(..2).next_back() } else { None };
    let words: Vec<&str> = segments.iter().map(String::as_str).collect();
    let is_get = head.method == Method::GET;
    match (agent.as_deref(), words.as_slice()) {
        (None, ["jwks.json"]) if is_get => {
            return key_response(&engine);
        }
        (Some(id), [".well-known", file @ ("agent-card.json" | "agent.json")]) if is_get => {
            let Some(profile) = engine.host.agent(id) else {
                return rest::failure(&head.headers, &A2aError::new(ErrorKind::MethodNotFound, format!("There is no agent {id} here")));
            };
            let card = cards::card_of(&engine, &profile);
            let before = *file == "agent.json";
            return card_response(&engine, &head.headers, card, |card| if before { legacy::card(card) } else { json!(card) });
        }
        _ => {}
    }
    let query: Vec<(String, String)> =
        url::form_urlencoded::parse(head.uri.query().unwrap_or_default().as_bytes()).map(|(name, value)| (name.into_owned(), value.into_owned())).collect();
    let is_rpc = segments.is_empty();
    if is_rpc && head.method != Method::POST {
        return (StatusCode::METHOD_NOT_ALLOWED, [(header::ALLOW, "POST")]).into_response();
    }
    let failed = |err: &A2aError| if is_rpc { jsonrpc::failure(&Value::Null, err) } else { rest::failure(&head.headers, err) };
    // Strangers are sent away before their body is read.
    if let Err(err) = engine.settings.access.who(&head.headers) {
        return failed(&err);
    }
    let body = match read(body, engine.settings.body_bytes_max).await {
        Ok(body) => body,
        Err(err) => return failed(&err),
    };
    if is_rpc {
        jsonrpc::serve(&engine, agent.as_deref(), &head.headers, &query, &body).await
    } else {
        rest::serve(&engine, agent.as_deref(), &head.method, &segments, &head.headers, &query, &body).await
    }
}

async fn read(body: Body, bytes_max: usize) -> Result<bytes::Bytes, A2aError> {
    axum::body::to_bytes(body, bytes_max)
        .await
        .map_err(|_| A2aError::new(ErrorKind::TooLarge, format!("The request is larger than {bytes_max} bytes, or broke off; send files by address")))
}

/// A path's word without percent signs; one that is not text stays as it is and is found nowhere.
fn decoded(word: &str) -> String {
    let bytes = word.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let hex = (bytes[at] == b'%').then(|| bytes.get(at + 1..at + 3)).flatten().and_then(|pair| std::str::from_utf8(pair).ok());
        match hex.and_then(|pair| u8::from_str_radix(pair, 16).ok()) {
            Some(byte) => {
                out.push(byte);
                at += 3;
            }
            None => {
                out.push(bytes[at]);
                at += 1;
            }
        }
    }
    String::from_utf8(out).unwrap_or_else(|_| word.to_owned())
}

#[cfg(test)]
mod tests {
    use super::decoded;

    #[test]
    fn words_of_a_path_are_decoded_once() {
        assert_eq!(decoded("a%20b%2525%zz%"), "a b%25%zz%");
        assert_eq!(decoded("%ff"), "%ff");
    }
}
