//! The OpenAI-compatible surface: `/v1/models`, `/v1/chat/completions`, `/v1/responses`, `/v1/embeddings`.
//!
//! A request is a letter like any other: it passes the one door and starts an ordinary turn in a named session. The
//! run's id is the answer's id (`chatcmpl_<uuid>`, `resp_<uuid>`), so that an answer can be looked up afterwards. A
//! client that goes away takes only its answer with it; the run ends as it would have.

mod chat;
mod pictures;
mod responses;
mod said;
mod target;
mod turn;

use std::sync::Arc;

pub(crate) use self::turn::{Told, derived};

use ::http::{HeaderMap, HeaderValue, Method, Response, StatusCode, header};
use arc_swap::ArcSwap;
use axum::{
    Extension,
    body::{Body, to_bytes},
    extract::{Path, Request, State},
    routing::any,
};
use serde_json::{Value, json};

use clawstead_config::Config;
use clawstead_terms::{AgentId, Failure, FailureCode, Retry};
use clawstead_wire::{ErrorShape, Scope};

use super::{
    http::{HttpCaller, error_response, json_response, text_response},
    js_json,
};
use crate::{rpc::chat::ChatRpc, taps::Taps};

/// Largest request body, bytes, where the config names no other.
const BODY_BYTES_MAX: usize = 20 * 1024 * 1024;

/// What the routes use.
struct Surface {
    chat: Arc<ChatRpc>,
    config: Arc<ArcSwap<Config>>,
    taps: Taps,
}

/// Which of the two ways of asking.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Dialect {
    /// `/v1/chat/completions`.
    Chat,
    /// `/v1/responses`.
    Responses,
}

impl Dialect {
    /// Its block below `gateway.http.endpoints`.
    const fn block(self) -> &'static str {
        match self {
            Self::Chat => "chatCompletions",
            Self::Responses => "responses",
        }
    }

    /// First part of the names of its sessions.
    const fn session_prefix(self) -> &'static str {
        match self {
            Self::Chat => "openai",
            Self::Responses => "openresponses",
        }
    }

    /// First part of its run ids.
    const fn run_prefix(self) -> &'static str {
        match self {
            Self::Chat => "chatcmpl_",
            Self::Responses => "resp_",
        }
    }
}

/// Why a request gets no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Refusal {
    status: StatusCode,
    message: String,
    kind: &'static str,
    retry_after_ms: Option<u64>,
}

impl Refusal {
    fn new(status: StatusCode, kind: &'static str, message: impl Into<String>) -> Self {
        Self { status, message: message.into(), kind, retry_after_ms: None }
    }

    fn invalid(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "invalid_request_error", message)
    }

    /// A failure of the house or of a run. Faults of ours are told to the log, not to the client.
    fn of(failure: &Failure) -> Self {
        let (status, kind) = match failure.code {
            FailureCode::InvalidRequest => (StatusCode::BAD_REQUEST, "invalid_request_error"),
            FailureCode::NotFound => (StatusCode::NOT_FOUND, "invalid_request_error"),
            FailureCode::Forbidden => (StatusCode::FORBIDDEN, "forbidden"),
            FailureCode::Busy => (StatusCode::TOO_MANY_REQUESTS, "rate_limit_error"),
            FailureCode::Unavailable | FailureCode::Fenced => (StatusCode::SERVICE_UNAVAILABLE, "api_error"),
            FailureCode::Timeout => (StatusCode::GATEWAY_TIMEOUT, "api_error"),
            FailureCode::Internal => (StatusCode::INTERNAL_SERVER_ERROR, "api_error"),
        };
        let retry_after_ms = match failure.retry {
            Retry::AfterMs(ms) => Some(ms),
            Retry::Now | Retry::Never => None,
        };
        if failure.code == FailureCode::Internal {
            tracing::error!(err = %failure, "an HTTP turn failed inside");
            return Self::new(status, kind, "internal error");
        }
        Self { retry_after_ms, ..Self::new(status, kind, bare(&failure.message)) }
    }

    fn error(&self) -> Value {
        json!({ "message": self.message, "type": self.kind })
    }

    fn response(&self) -> Response<Body> {
        let mut response = error_response(self.status, &self.message, self.kind);
        if let Some(value) = self.retry_after_ms.and_then(|ms| HeaderValue::from_str(&ms.div_ceil(1000).max(1).to_string()).ok()) {
            response.headers_mut().insert(header::RETRY_AFTER, value);
        }
        response
    }
}

/// The words of a model's server without the `provider/model: ` in front of them: clients read these words.
fn bare(message: &str) -> &str {
    match message.split_once(": ") {
        Some((head, rest)) if head.contains('/') && !head.contains(char::is_whitespace) && !rest.is_empty() => rest,
        _ => message,
    }
}

/// The routes; a bearer was checked before.
pub fn routes(chat: Arc<ChatRpc>, config: Arc<ArcSwap<Config>>, taps: Taps) -> axum::Router {
    axum::Router::new()
        .route("/v1/models", any(models))
        .route("/v1/models/{*id}", any(one_model))
        .route("/v1/chat/completions", any(chat_completions))
        .route("/v1/responses", any(responses_create))
        .route("/v1/embeddings", any(embeddings))
        .with_state(Arc::new(Surface { chat, config, taps }))
}

/// The agent that a request names: by session key, by header, or by its model. None for the default one.
#[must_use]
pub fn agent_named(headers: &HeaderMap, body: &Value) -> Option<AgentId> {
    let text = |name: &str| headers.get(name)?.to_str().ok().map(str::trim).filter(|text| !text.is_empty());
    let by_key = text("x-openclaw-session-key").and_then(|key| crate::farm::agent_named(&json!({ "sessionKey": key })));
    let by_model = || match target::read_model(body.get("model")?.as_str()?)? {
        target::Wanted::Agent(agent) => Some(agent),
        target::Wanted::Default => None,
    };
    by_key.or_else(|| text("x-openclaw-agent-id").map(AgentId::normalise)).or_else(by_model)
}

fn not_found() -> Response<Body> {
    text_response(StatusCode::NOT_FOUND, "Not Found")
}

pub(super) fn not_allowed(allow: &'static str) -> Response<Body> {
    let mut response = text_response(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed");
    response.headers_mut().insert(header::ALLOW, HeaderValue::from_static(allow));
    response
}

/// 403 for a caller whose scopes do not suffice.
pub(super) fn forbidden(scope: &str) -> Response<Body> {
    let error = ErrorShape::missing_scope(scope);
    json_response(StatusCode::FORBIDDEN, &json!({ "ok": false, "error": { "type": "forbidden", "message": error.message, "details": error.details } }))
}

impl Surface {
    fn enabled(&self, dialect: Dialect) -> bool {
        let config = self.config.load();
        match dialect {
            Dialect::Chat => config.gateway.http.chat_completions,
            Dialect::Responses => config.gateway.http.responses,
        }
    }

    fn any_enabled(&self) -> bool {
        self.enabled(Dialect::Chat) || self.enabled(Dialect::Responses)
    }

    fn setting(&self, dialect: Dialect, path: &str) -> Option<Value> {
        self.config.load().raw(&format!("gateway.http.endpoints.{}.{path}", dialect.block())).cloned()
    }

    /// Method, scope and body of a POST.
    async fn posted(&self, caller: &HttpCaller, request: Request, bytes_max: usize) -> Result<(HeaderMap, Value), Response<Body>> {
        if request.method() != Method::POST {
            return Err(not_allowed("POST"));
        }
        if !caller.0.may(Scope::Write) {
            return Err(forbidden("operator.write"));
        }
        let (head, body) = request.into_parts();
        let Ok(bytes) = to_bytes(body, bytes_max).await else {
            return Err(Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, "invalid_request_error", "Payload too large").response());
        };
        let body = js_json::parse(&bytes).map_err(|message| Refusal::invalid(message).response())?;
        Ok((head.headers, body))
    }

    fn bytes_max(&self, dialect: Dialect) -> usize {
        self.setting(dialect, "maxBodyBytes").and_then(|v| v.as_u64()).and_then(|n| usize::try_from(n).ok()).unwrap_or(BODY_BYTES_MAX)
    }

    /// Our agents, then those of other gateways.
    fn agents(&self) -> Vec<AgentId> {
        let mut all: Vec<AgentId> = self.config.load().agents.list.iter().map(|agent| agent.id.clone()).collect();
        for other in self.chat.farm.get().into_iter().flat_map(|farm| farm.membership.agents()) {
            let id = AgentId::normalise(&other.id);
            if !all.contains(&id) {
                all.push(id);
            }
        }
        all
    }
}

fn model_json(id: &str) -> Value {
    json!({ "id": id, "object": "model", "created": 0, "owned_by": "openclaw", "permission": [] })
}

/// What stands in the way of reading, if anything.
fn obstacle(surface: &Surface, caller: &HttpCaller, method: &Method) -> Option<Response<Body>> {
    if !surface.any_enabled() {
        return Some(not_found());
    }
    if method != Method::GET {
        return Some(not_allowed("GET"));
    }
    (!caller.0.may(Scope::Read)).then(|| forbidden("operator.read"))
}

async fn models(State(surface): State<Arc<Surface>>, Extension(caller): Extension<HttpCaller>, method: Method) -> Response<Body> {
    if let Some(response) = obstacle(&surface, &caller, &method) {
        return response;
    }
    let mut data = vec![model_json("openclaw"), model_json("openclaw/default")];
    data.extend(surface.agents().iter().map(|agent| model_json(&format!("openclaw/{agent}"))));
    json_response(StatusCode::OK, &json!({ "object": "list", "data": data }))
}

async fn one_model(State(surface): State<Arc<Surface>>, Extension(caller): Extension<HttpCaller>, Path(id): Path<String>, method: Method) -> Response<Body> {
    if let Some(response) = obstacle(&surface, &caller, &method) {
        return response;
    }
    match target::read_model(&id) {
        Some(target::Wanted::Default) => json_response(StatusCode::OK, &model_json(&id)),
        Some(target::Wanted::Agent(agent)) if surface.agents().contains(&agent) => json_response(StatusCode::OK, &model_json(&id)),
        Some(target::Wanted::Agent(_)) => Refusal::new(StatusCode::NOT_FOUND, "invalid_request_error", format!("Model '{id}' not found.")).response(),
        None => Refusal::invalid("Invalid model id.").response(),
    }
}

async fn chat_completions(State(surface): State<Arc<Surface>>, Extension(caller): Extension<HttpCaller>, request: Request) -> Response<Body> {
    ask(surface, Dialect::Chat, caller, request).await
}

async fn responses_create(State(surface): State<Arc<Surface>>, Extension(caller): Extension<HttpCaller>, request: Request) -> Response<Body> {
    ask(surface, Dialect::Responses, caller, request).await
}

async fn ask(surface: Arc<Surface>, dialect: Dialect, caller: HttpCaller, request: Request) -> Response<Body> {
    if !surface.enabled(dialect) {
        return not_found();
    }
    let (headers, body) = match surface.posted(&caller, request, surface.bytes_max(dialect)).await {
        Ok(read) => read,
        Err(response) => return response,
    };
    match turn::take(&surface, dialect, caller.0, &headers, &body).await {
        Ok(taken) => turn::answer(surface, taken).await,
        Err(refusal) => refusal.response(),
    }
}

/// There is no embedding provider here; what is wrong with a request is said all the same.
async fn embeddings(State(surface): State<Arc<Surface>>, Extension(caller): Extension<HttpCaller>, request: Request) -> Response<Body> {
    if !surface.any_enabled() {
        return not_found();
    }
    let (headers, body) = match surface.posted(&caller, request, BODY_BYTES_MAX).await {
        Ok(read) => read,
        Err(response) => return response,
    };
    if let Err(refusal) = surface.agent(&headers, body.get("model")) {
        return refusal.response();
    }
    if headers.contains_key("x-openclaw-model") {
        return Refusal::invalid("This agent does not allow that embedding provider on `/v1/embeddings`.").response();
    }
    tracing::warn!("/v1/embeddings was asked; this version has no embedding providers");
    Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "api_error", "internal error").response()
}

#[cfg(test)]
mod tests {
    use super::bare;

    #[test]
    fn the_servers_words_stand_alone() {
        assert_eq!(bare("mock/mock-1: 400 bad"), "400 bad");
        assert_eq!(bare("the message is empty"), "the message is empty");
        assert_eq!(bare("see https://a/b: it says"), "see https://a/b: it says");
    }
}
