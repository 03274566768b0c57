//! The HTTP door: streamable HTTP without sessions, each request with a bearer token.

use std::sync::Arc;

use axum::{
    Router,
    extract::{Request, State},
    middleware::{Next, from_fn_with_state},
    response::{IntoResponse as _, Response},
};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use rmcp::transport::streamable_http_server::{StreamableHttpServerConfig, StreamableHttpService, session::never::NeverSessionManager};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::{Door, Hub, Whose};
use crate::peers::{Caller, PeerBook};

/// Bytes of a request body.
pub const REQUEST_BYTES_MAX: usize = 256 * 1024;

/// The JSON-RPC code of a request without a valid token.
pub const UNAUTHORIZED: i32 = -32001;

/// How the HTTP door is set up.
#[derive(Clone, Default)]
pub struct HttpSettings {
    /// `Host` values that are taken (`jerry.tailnet.ts.net`, with or without a port); empty takes all. A page in a browser
    /// cannot know a token, so this is a second lock, not the first.
    pub hosts: Vec<String>,
    /// `Origin` values that are taken, for pages in browsers (`https://app.example.com:443`). Empty refuses every
    /// request that has one.
    pub origins: Vec<String>,
    /// Ends running requests.
    pub stop: CancellationToken,
}

impl Hub {
    /// A router that serves MCP at its root: `app.nest("/mcp", hub.router(peers, settings))`.
    pub fn router(&self, peers: Arc<dyn PeerBook>, settings: HttpSettings) -> Router {
        let mut config = StreamableHttpServerConfig::default()
            .with_legacy_session_mode(false)
            .with_json_response(true)
            .with_max_request_body_bytes(REQUEST_BYTES_MAX)
            .with_cancellation_token(settings.stop)
            .with_allowed_origins(settings.origins)
            .enforce_origin_validation();
        config = if settings.hosts.is_empty() { config.disable_allowed_hosts() } else { config.with_allowed_hosts(settings.hosts) };
        let door = Door { hub: self.clone(), whose: Whose::OfRequest };
        let service = StreamableHttpService::new(move || Ok(door.clone()), Arc::new(NeverSessionManager::default()), config);
        Router::new().route_service("/", service).layer(from_fn_with_state(peers, admit))
    }
}

async fn admit(State(peers): State<Arc<dyn PeerBook>>, mut request: Request, next: Next) -> Response {
    let Some(token) = bearer(request.headers()) else {
        return refuse("no bearer token", "send the header \"Authorization: Bearer <token>\" with the token of a peer of this gateway");
    };
    let Some(peer) = peers.find(token) else {
        return refuse("no peer has this token", "the token was mistyped, or rotated or revoked: ask the operator of the gateway");
    };
    // Spans and logs further in show who it was; the token stays here.
    request.headers_mut().remove(header::AUTHORIZATION);
    request.extensions_mut().insert(Caller::Peer(peer));
    next.run(request).await
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let mut all = headers.get_all(header::AUTHORIZATION).iter();
    let text = all.next()?.to_str().ok()?;
    if all.next().is_some() {
        return None;
    }
    let (scheme, token) = text.split_once(' ')?;
    let token = token.trim();
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then_some(token)
}

fn refuse(message: &str, hint: &str) -> Response {
    // As JSON-RPC, or clients show their users nothing of it.
    let data = json!({ "code": "UNAUTHORIZED", "hint": hint });
    let body = json!({ "jsonrpc": "2.0", "id": null, "error": { "code": UNAUTHORIZED, "message": format!("UNAUTHORIZED: {message} ({hint})"), "data": data } });
    let challenge = HeaderValue::from_static("Bearer realm=\"openclaw hub\"");
    (StatusCode::UNAUTHORIZED, [(header::WWW_AUTHENTICATE, challenge)], axum::Json(body)).into_response()
}
