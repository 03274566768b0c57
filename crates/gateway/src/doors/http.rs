//! HTTP: the order of routes, probes, authentication, security headers.

use std::{convert::Infallible, net::SocketAddr, sync::Arc};

use ::http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, header};
use async_trait::async_trait;
use axum::body::{Body, to_bytes};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::sync::OwnedSemaphorePermit;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tower::ServiceExt as _;

use clawstead_wire::{ErrorShape, limits::COMPATIBLE_VERSION};

use super::{
    Doors, Phase,
    auth::{AuthMode, Peer, SecretCheck},
    js_json,
    limits::Credential,
    ui, ws,
};
use crate::{
    observe,
    rpc::{Caller, Locality, Role},
};

/// Largest body of `POST /tools/invoke`, bytes.
const TOOLS_BODY_MAX: usize = 2 * 1024 * 1024;
/// Tools that HTTP callers may not run unless the config allows them.
pub const TOOLS_DENIED: [&str; 12] =
    ["exec", "spawn", "shell", "fs_write", "fs_delete", "fs_move", "apply_patch", "sessions_spawn", "sessions_send", "cron", "gateway", "nodes"];

/// Where A2A callers look for the card of this gateway, and for the keys that signed it.
const CARDS: [&str; 3] = ["/.well-known/agent-card.json", "/.well-known/agent.json", clawstead_a2a::server::KEYS_PATH_WELL_KNOWN];

/// Who calls over HTTP; put into the request's extensions before a mounted route runs.
#[derive(Clone, Debug)]
pub struct HttpCaller(pub Caller);

/// Why a tool did not run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ToolDoorError {
    /// It is not there, or its policy says no.
    NotAvailable,
    /// The arguments are wrong.
    BadArguments(String),
    /// It ran and failed.
    Failed(String),
}

/// One call of `POST /tools/invoke`.
#[derive(Clone, Debug)]
pub struct ToolCall {
    /// The tool.
    pub name: String,
    /// Its arguments.
    pub args: Value,
    /// The session it acts for; the default agent's main one when absent.
    pub session_key: Option<String>,
    /// The agent it acts for.
    pub agent_id: Option<String>,
    /// Known repeats are not run again.
    pub idempotency_key: Option<String>,
}

/// Runs tools for HTTP callers.
#[async_trait]
pub trait ToolDoor: Send + Sync {
    /// Runs one; answers `{content: [...], details: {...}}`.
    ///
    /// # Errors
    /// As [`ToolDoorError`] says.
    async fn invoke(&self, caller: Caller, call: ToolCall) -> Result<Value, ToolDoorError>;
}

/// Routes of other parts. Paths are those of the whole request.
///
/// `v1`, `sessions` and `metrics` get requests whose bearer was checked, with [`HttpCaller`] in their extensions;
/// `hooks`, `mcp` and `a2a` check tokens of their own.
#[derive(Default)]
pub struct Mounts {
    /// `/v1/*`.
    pub v1: Option<axum::Router>,
    /// Everything below [`Mounts::hooks_path`].
    pub hooks: Option<axum::Router>,
    /// Tells `hooks.path`, which a reload may change; `/hooks` when absent.
    pub hooks_path: Option<Arc<dyn Fn() -> String + Send + Sync>>,
    /// `/mcp`: the hub.
    pub mcp: Option<axum::Router>,
    /// `/a2a/v1` and the agent cards; callers show tokens of their own.
    pub a2a: Option<axum::Router>,
    /// `/sessions/*`.
    pub sessions: Option<axum::Router>,
    /// Figures for Prometheus, at [`observe::PATH`].
    pub metrics: Option<axum::Router>,
    /// `POST /tools/invoke`.
    pub tools: Option<Arc<dyn ToolDoor>>,
}

/// A JSON response.
#[must_use]
pub fn json_response(status: StatusCode, body: &Value) -> Response<Body> {
    let mut response = Response::new(Body::from(body.to_string()));
    *response.status_mut() = status;
    set(response.headers_mut(), header::CONTENT_TYPE, "application/json; charset=utf-8");
    response
}

/// `{"error": {"message", "type"}}`.
#[must_use]
pub fn error_response(status: StatusCode, message: &str, kind: &str) -> Response<Body> {
    json_response(status, &json!({ "error": { "message": message, "type": kind } }))
}

/// A plain text response.
#[must_use]
pub fn text_response(status: StatusCode, text: &'static str) -> Response<Body> {
    let mut response = Response::new(Body::from(text));
    *response.status_mut() = status;
    set(response.headers_mut(), header::CONTENT_TYPE, "text/plain; charset=utf-8");
    response
}

fn not_found() -> Response<Body> {
    text_response(StatusCode::NOT_FOUND, "Not Found")
}

fn not_allowed(allow: &'static str) -> Response<Body> {
    let mut response = text_response(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed");
    set(response.headers_mut(), header::ALLOW, allow);
    response
}

fn set(headers: &mut HeaderMap, name: HeaderName, value: &'static str) {
    headers.insert(name, HeaderValue::from_static(value));
}

/// Answers one request. `place` is held as long as the connection lives.
pub(super) async fn handle(
    doors: Arc<Doors>,
    address: SocketAddr,
    place: Arc<OwnedSemaphorePermit>,
    request: Request<Incoming>,
) -> Result<Response<Body>, Infallible> {
    let head_only = request.method() == Method::HEAD;
    let mut response = route(&doors, address, place, request).await;
    let failed = response.status().is_client_error();
    let headers = response.headers_mut();
    for (name, value) in [
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (HeaderName::from_static("permissions-policy"), "camera=(), microphone=(self), geolocation=()"),
    ] {
        headers.entry(name).or_insert(HeaderValue::from_static(value));
    }
    if failed {
        // Only what is there is worth words about keeping it.
        headers.remove(header::CACHE_CONTROL);
    }
    if head_only {
        *response.body_mut() = Body::empty();
    }
    Ok(response)
}

async fn route(doors: &Arc<Doors>, address: SocketAddr, place: Arc<OwnedSemaphorePermit>, request: Request<Incoming>) -> Response<Body> {
    let path = request.uri().path().to_owned();
    let upgrade = wants_websocket(request.headers());
    if !upgrade && matches!(path.as_str(), "/health" | "/healthz") {
        return probe(request.method(), StatusCode::OK, &json!({ "ok": true, "status": "live" }));
    }
    let settings = doors.settings();
    let Ok(peer) = Peer::read(address.ip(), request.headers(), &settings.trusted_proxies, settings.real_ip, &settings.auth) else {
        let message = "Proxy client attribution is required. Configure gateway.trustedProxies narrowly and make the proxy overwrite or safely rebuild forwarded client headers.";
        return error_response(StatusCode::FORBIDDEN, message, "proxy_attribution_required");
    };
    if upgrade {
        return open_socket(doors, peer, place, request);
    }
    match path.as_str() {
        "/ready" | "/readyz" => return ready(doors, request.method(), &peer),
        "/startup" | "/startupz" => return startup(doors, request.method()),
        _ => {}
    }
    let mounts = doors.mounts();
    let below = |base: &str| path == base || path.strip_prefix(base).is_some_and(|rest| rest.starts_with('/'));
    if let Some(hooks) = &mounts.hooks
        && below(&mounts.hooks_path.as_ref().map_or_else(|| "/hooks".to_owned(), |path| path()))
    {
        let mut request = request.map(Body::new);
        // Wrong tokens are counted by client.
        request.extensions_mut().insert(axum::extract::ConnectInfo(SocketAddr::new(peer.client, address.port())));
        return delegate(hooks, request).await;
    }
    if let Some(mcp) = &mounts.mcp
        && below(crate::hub::PATH)
    {
        return delegate(mcp, request.map(Body::new)).await;
    }
    if let Some(a2a) = &mounts.a2a
        && (below(clawstead_a2a::server::BASE_PATH) || CARDS.contains(&path.as_str()))
    {
        return ask_a2a(doors, &peer, a2a, request.map(Body::new)).await;
    }
    if path == "/tools/invoke" {
        return match authorise(doors, &peer, request.headers()).await {
            Ok(caller) => match ours(doors, &caller, request.map(Body::new)).await {
                Ok(request) => invoke_tool(doors, caller, request).await,
                Err(response) => response,
            },
            Err(response) => response,
        };
    }
    for (base, mounted) in [("/v1", &mounts.v1), ("/sessions", &mounts.sessions), (observe::PATH, &mounts.metrics)] {
        // A page of the Control UI may have the same path as an API below it.
        let Some(mounted) = mounted else { continue };
        if !below(base) || (base == "/sessions" && path == base) {
            continue;
        }
        return match authorise(doors, &peer, request.headers()).await {
            Ok(caller) => {
                let mut request = match ours(doors, &caller, request.map(Body::new)).await {
                    Ok(request) => request,
                    Err(response) => return response,
                };
                request.extensions_mut().insert(HttpCaller(caller));
                request.extensions_mut().insert(axum::extract::ConnectInfo(address));
                if base != "/v1" {
                    return delegate(mounted, request).await;
                }
                let above = observe::traceparent(request.headers());
                observe::http(doors.world(), base, above, delegate(mounted, request)).await
            }
            Err(response) => response,
        };
    }
    if path.starts_with("/v1/") || path.starts_with("/api/") {
        return not_found();
    }
    if path.starts_with("/__openclaw__/a2ui") || path.starts_with("/__openclaw__/cap/") {
        // Canvas pages need a capability, and nobody has one here.
        return unauthorized();
    }
    if !settings.control_ui || !matches!(*request.method(), Method::GET | Method::HEAD) {
        return not_found();
    }
    if path == format!("{}/control-ui-config.json", settings.base_path) {
        let mut response = match authorise(doors, &peer, request.headers()).await {
            Ok(_) => json_response(StatusCode::OK, &ui::config(&settings, &doors.facts())),
            Err(response) => response,
        };
        ui::add_headers(response.headers_mut());
        return response;
    }
    ui::serve(&settings, &path).await.unwrap_or_else(not_found)
}

/// A request that is ours to answer; what is about an agent of another gateway is answered there.
async fn ours(doors: &Doors, caller: &Caller, request: Request<Body>) -> Result<Request<Body>, Response<Body>> {
    match doors.router().elsewhere() {
        Some(elsewhere) => elsewhere.http(caller, request).await,
        None => Ok(request),
    }
}

/// Answers a request that another gateway passed on for its client, as if the client had come here.
pub(super) async fn answer_passed_on(doors: &Doors, caller: Caller, mut request: Request<Body>) -> Response<Body> {
    let (path, mounts) = (request.uri().path().to_owned(), doors.mounts());
    if path == "/tools/invoke" {
        return invoke_tool(doors, caller, request).await;
    }
    let mounted = [("/v1/", &mounts.v1), ("/sessions/", &mounts.sessions)].into_iter().find(|(base, _)| path.starts_with(base));
    let Some((_, Some(mounted))) = mounted else { return not_found() };
    request.extensions_mut().insert(HttpCaller(caller));
    delegate(mounted, request).await
}

async fn delegate(router: &axum::Router, request: Request<Body>) -> Response<Body> {
    let Ok(response) = router.clone().oneshot(request).await;
    if response.status() == StatusCode::NOT_FOUND && response.headers().get(header::CONTENT_TYPE).is_none() {
        return not_found();
    }
    if response.status() == StatusCode::METHOD_NOT_ALLOWED && response.headers().get(header::CONTENT_TYPE).is_none() {
        let mut text = text_response(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed");
        if let Some(allow) = response.headers().get(header::ALLOW) {
            text.headers_mut().insert(header::ALLOW, allow.clone());
        }
        return text;
    }
    response
}

fn probe(method: &Method, status: StatusCode, body: &Value) -> Response<Body> {
    if !matches!(*method, Method::GET | Method::HEAD) {
        return not_allowed("GET, HEAD");
    }
    let mut response = json_response(status, body);
    set(response.headers_mut(), header::CACHE_CONTROL, "no-store");
    response
}

fn uptime(doors: &Doors) -> i64 {
    doors.world().clock.now().0 - doors.started_at_ms()
}

fn ready(doors: &Doors, method: &Method, peer: &Peer) -> Response<Body> {
    let facts = doors.facts();
    let mut failing = facts.failing.clone();
    match doors.phase() {
        Phase::Starting => failing.push("startup".into()),
        Phase::Draining => failing.push("draining".into()),
        Phase::Ready => {}
    }
    let ready = failing.is_empty();
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    // Strangers learn only whether it is ready.
    let body = if peer.is_direct_local() { json!({ "ready": ready, "failing": failing, "uptimeMs": uptime(doors) }) } else { json!({ "ready": ready }) };
    probe(method, status, &body)
}

fn startup(doors: &Doors, method: &Method) -> Response<Body> {
    let (status, ok, word) = match doors.phase() {
        Phase::Ready => (StatusCode::OK, true, "started"),
        Phase::Starting => (StatusCode::SERVICE_UNAVAILABLE, false, "starting"),
        Phase::Draining => (StatusCode::SERVICE_UNAVAILABLE, false, "draining"),
    };
    probe(method, status, &json!({ "ok": ok, "status": word, "version": COMPATIBLE_VERSION, "uptimeMs": uptime(doors) }))
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let text = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = text.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim()).filter(|token| !token.is_empty())
}

/// Checks the bearer of a request.
async fn authorise(doors: &Doors, peer: &Peer, headers: &HeaderMap) -> Result<Caller, Response<Body>> {
    let settings = doors.settings();
    let caller = |method: &'static str, scopes: Vec<String>, device_id: Option<String>, user: Option<String>| Caller {
        conn_id: "http".into(),
        role: Role::Operator,
        scopes,
        device_id,
        addr: Some(peer.client),
        client_id: None,
        client_mode: None,
        locality: if peer.is_direct_local() { Locality::DirectLocal } else { Locality::Remote },
        caps: Vec::new(),
        auth_method: method,
        user,
        session: None,
        run: None,
    };
    let operator = || vec!["operator.read".to_owned(), "operator.write".to_owned()];
    if settings.auth.mode == AuthMode::TrustedProxy
        && let Ok(user) = &peer.user
    {
        return Ok(caller("trusted-proxy", narrowed(headers, operator()), None, Some(user.clone())));
    }
    let shown = bearer(headers);
    let (now, suspect) = (doors.world().clock.now().0, peer.suspect());
    if settings.auth.mode != AuthMode::None
        && shown.is_some()
        && let Some(wait) = doors.failures().locked_for(&suspect, Credential::SharedSecret, now)
    {
        return Err(locked_out(wait));
    }
    match settings.auth.check(shown, None) {
        SecretCheck::Right("none") => Ok(caller("none", narrowed(headers, operator()), None, None)),
        SecretCheck::Right(method) => {
            doors.failures().succeeded(&suspect, Credential::SharedSecret);
            Ok(caller(method, operator(), None, None))
        }
        SecretCheck::Wrong(_) => {
            if let Some((device, scopes)) = shown.and_then(|token| doors.devices().find_by_token(token)) {
                return Ok(caller("device-token", scopes, Some(device), None));
            }
            let penalty = doors.failures().failed(&suspect, Credential::SharedSecret, settings.auth.failures, now);
            tokio::time::sleep(penalty.delay).await;
            Err(unauthorized())
        }
        SecretCheck::Missing(_) | SecretCheck::NotConfigured(_) => Err(unauthorized()),
    }
}

/// The A2A routes know their callers by tokens of their own; here wrong ones are counted by client.
async fn ask_a2a(doors: &Doors, peer: &Peer, a2a: &axum::Router, request: Request<Body>) -> Response<Body> {
    let shown = request.headers().contains_key(header::AUTHORIZATION);
    let (now, suspect) = (doors.world().clock.now().0, peer.suspect());
    if shown && let Some(wait) = doors.failures().locked_for(&suspect, Credential::A2a, now) {
        return locked_out(wait);
    }
    let response = delegate(a2a, request).await;
    if shown && response.status() == StatusCode::UNAUTHORIZED {
        // A right token forgives nothing: a card answers to any.
        let penalty = doors.failures().failed(&suspect, Credential::A2a, doors.settings().auth.failures, now);
        tokio::time::sleep(penalty.delay).await;
    }
    response
}

fn locked_out(wait_ms: u64) -> Response<Body> {
    let mut response = error_response(StatusCode::TOO_MANY_REQUESTS, "Too many failed authentication attempts. Please try again later.", "rate_limited");
    if let Ok(value) = HeaderValue::from_str(&wait_ms.div_ceil(1000).to_string()) {
        response.headers_mut().insert(header::RETRY_AFTER, value);
    }
    response
}

fn unauthorized() -> Response<Body> {
    error_response(StatusCode::UNAUTHORIZED, "Unauthorized", "unauthorized")
}

/// `x-openclaw-scopes` takes scopes away from callers that need no secret.
fn narrowed(headers: &HeaderMap, scopes: Vec<String>) -> Vec<String> {
    match headers.get("x-openclaw-scopes").and_then(|value| value.to_str().ok()) {
        Some(wanted) => scopes.into_iter().filter(|scope| wanted.split(',').any(|w| w.trim() == scope)).collect(),
        None => scopes,
    }
}

async fn invoke_tool(doors: &Doors, caller: Caller, request: Request<Body>) -> Response<Body> {
    if request.method() != Method::POST {
        return not_allowed("POST");
    }
    let failed =
        |status: StatusCode, kind: &str, message: String| json_response(status, &json!({ "ok": false, "error": { "type": kind, "message": message } }));
    if !caller.may(clawstead_wire::Scope::Write) {
        let error = ErrorShape::missing_scope("operator.write");
        let body = json!({ "ok": false, "error": { "type": "forbidden", "message": error.message, "details": error.details } });
        return json_response(StatusCode::FORBIDDEN, &body);
    }
    let Ok(bytes) = to_bytes(request.into_body(), TOOLS_BODY_MAX).await else {
        return error_response(StatusCode::PAYLOAD_TOO_LARGE, "Payload too large", "invalid_request_error");
    };
    let body: Value = match js_json::parse(&bytes) {
        Ok(body) => body,
        Err(message) => return error_response(StatusCode::BAD_REQUEST, &message, "invalid_request_error"),
    };
    let text = |name: &str| body.get(name).and_then(Value::as_str).map(str::trim).filter(|text| !text.is_empty()).map(str::to_owned);
    let Some(name) = text("tool").or_else(|| text("name")) else {
        return failed(StatusCode::BAD_REQUEST, "invalid_request", "tools.invoke requires name".into());
    };
    let settings = doors.settings();
    let denied = settings.tools_deny.contains(&name) || (TOOLS_DENIED.contains(&name.as_str()) && !settings.tools_allow.contains(&name));
    let unavailable = || failed(StatusCode::NOT_FOUND, "not_found", format!("Tool not available: {name}"));
    let Some(tools) = doors.mounts().tools.as_ref().filter(|_| !denied) else { return unavailable() };
    let mut args = body.get("args").cloned().filter(Value::is_object).unwrap_or_else(|| json!({}));
    if let (Some(action), Some(args)) = (text("action"), args.as_object_mut()) {
        args.entry("action").or_insert(action.into());
    }
    let call = ToolCall { name: name.clone(), args, session_key: text("sessionKey"), agent_id: text("agentId"), idempotency_key: text("idempotencyKey") };
    match tools.invoke(caller, call).await {
        Ok(result) => json_response(StatusCode::OK, &json!({ "ok": true, "result": result })),
        Err(ToolDoorError::NotAvailable) => unavailable(),
        Err(ToolDoorError::BadArguments(message)) => failed(StatusCode::BAD_REQUEST, "invalid_request", message),
        Err(ToolDoorError::Failed(message)) => failed(StatusCode::INTERNAL_SERVER_ERROR, "tool_error", message),
    }
}

fn wants_websocket(headers: &HeaderMap) -> bool {
    let has = |name: HeaderName, word: &str| {
        headers.get_all(name).iter().filter_map(|value| value.to_str().ok()).flat_map(|text| text.split(',')).any(|part| part.trim().eq_ignore_ascii_case(word))
    };
    has(header::CONNECTION, "upgrade") && has(header::UPGRADE, "websocket")
}

fn open_socket(doors: &Arc<Doors>, peer: Peer, place: Arc<OwnedSemaphorePermit>, mut request: Request<Incoming>) -> Response<Body> {
    let version_13 = request.headers().get(header::SEC_WEBSOCKET_VERSION).is_some_and(|version| version == "13");
    let key = request.headers().get(header::SEC_WEBSOCKET_KEY).map(|key| derive_accept_key(key.as_bytes()));
    let (Some(accept), true, &Method::GET) = (key, version_13, request.method()) else {
        return text_response(StatusCode::BAD_REQUEST, "Bad Request");
    };
    let Ok(accept) = HeaderValue::from_str(&accept) else { return text_response(StatusCode::BAD_REQUEST, "Bad Request") };
    let Some(socket_place) = doors.sockets().take(peer.client, doors.settings().sockets_per_ip_max) else {
        return text_response(StatusCode::SERVICE_UNAVAILABLE, "Service Unavailable");
    };
    let upgrade = hyper::upgrade::on(&mut request);
    let doors = Arc::clone(doors);
    tokio::spawn(async move {
        // The TCP connection's place counts until the socket ends.
        let _place = place;
        match upgrade.await {
            Ok(upgraded) => ws::serve_socket(doors, TokioIo::new(upgraded), peer, socket_place).await,
            Err(err) => tracing::debug!(%err, "an upgrade failed"),
        }
    });
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    set(headers, header::CONNECTION, "Upgrade");
    set(headers, header::UPGRADE, "websocket");
    headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
    response
}
