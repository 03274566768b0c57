//! HTTP requests about agents that live at another gateway: passed on whole over the link, answered from there, piece by
//! piece where the answer is a stream.

use std::io;

use ::http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, header};
use axum::body::{Body, Bytes, to_bytes};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use futures_util::StreamExt as _;
use serde_json::{Map, Value, json};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use clawstead_farm::{
    Farm, Located,
    link::{Call, EventSink, Progress, Running},
};
use clawstead_terms::{AgentId, Failure, FailureCode, Unit};
use clawstead_wire::Scope;

use super::{agent_named, relay::OWNER_WAIT};
use crate::doors::{Doors, error_response, openai};

/// Answers an HTTP request here for a client there: `{method, path, headers, body}`.
pub const HTTP: &str = "gateway.http";
/// How long a passed-on request may take, ms. Streams are kept awake by their own comments.
const HTTP_MS: u64 = 3_600_000;
/// Largest body that is passed on, bytes: base64 or JSON makes at most twice of it, and a frame of a link has 25 MiB.
const BODY_MAX: usize = 8 * 1024 * 1024;
/// Pieces of an answer that wait for a slow client; the link is not read further meanwhile.
const PIECES_MAX: usize = 16;
/// Headers of requests that mean something to the gateway that answers; `x-openclaw-*` do too.
const REQUEST_HEADERS: [HeaderName; 3] = [header::CONTENT_TYPE, header::ACCEPT, HeaderName::from_static("idempotency-key")];
/// Headers that belong to one connection.
const HOP_HEADERS: [HeaderName; 4] = [header::CONNECTION, header::TRANSFER_ENCODING, header::CONTENT_LENGTH, header::UPGRADE];

/// True for requests that name an agent, in the path, a header or the body.
fn is_about_an_agent(path: &str) -> bool {
    matches!(path, "/v1/chat/completions" | "/v1/responses" | "/v1/embeddings" | "/tools/invoke") || path.starts_with("/sessions/")
}

/// The agent that a request names.
#[must_use]
pub fn agent_of(path: &str, headers: &HeaderMap, body: &Value) -> Option<AgentId> {
    if path.starts_with("/sessions/") {
        let key = path.split('/').nth(2)?;
        let key = percent_decoded(key);
        return agent_named(&json!({ "sessionKey": key }));
    }
    match path {
        "/tools/invoke" => agent_named(body),
        "/v1/chat/completions" | "/v1/responses" | "/v1/embeddings" => openai::agent_named(headers, body),
        _ => None,
    }
}

fn percent_decoded(text: &str) -> String {
    // A form decoder, with the one sign that it reads in another way kept.
    let pair = format!("k={}", text.replace('+', "%2B"));
    url::form_urlencoded::parse(pair.as_bytes()).next().map(|(_, value)| value.into_owned()).unwrap_or_default()
}

/// What a request needs of the farm's policy.
#[must_use]
pub fn scope_of(method: &Method) -> Scope {
    if matches!(*method, Method::GET | Method::HEAD) { Scope::Read } else { Scope::Write }
}

/// A request of a client here, or the answer of the gateway that has its agent.
///
/// # Errors
/// The answer, where the request is not ours to answer.
pub async fn elsewhere(farm: &Farm, caller: Value, request: Request<Body>) -> Result<Request<Body>, Response<Body>> {
    if !is_about_an_agent(request.uri().path()) {
        return Ok(request);
    }
    let (head, body) = request.into_parts();
    let declared = head.headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<usize>().ok());
    if declared.is_some_and(|bytes| bytes > BODY_MAX) {
        // Whoever it is for: what cannot be passed on is answered here, and the route says what it thinks of the size.
        return Ok(Request::from_parts(head, body));
    }
    let Ok(bytes) = to_bytes(body, BODY_MAX).await else {
        return Err(error_response(StatusCode::PAYLOAD_TOO_LARGE, "Payload too large", "invalid_request_error"));
    };
    let read: Value = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
    let agent = agent_of(head.uri.path(), &head.headers, &read);
    let place = match &agent {
        Some(agent) => farm.located(&Unit::Agent(agent.clone()), OWNER_WAIT).await,
        None => Located::Here,
    };
    if place == Located::Nobody {
        let text = format!("no gateway has agent {} now; try again in a moment", agent.as_ref().map_or("", AgentId::as_str));
        return Err(error_response(StatusCode::SERVICE_UNAVAILABLE, &text, "api_error"));
    }
    let (Some(agent), Located::At(gateway)) = (agent, place) else {
        return Ok(Request::from_parts(head, Body::from(bytes)));
    };
    let Some(links) = &farm.links else {
        let text = format!("agent {agent} lives at {gateway}, and this gateway has no link to it: set farm.peer at both gateways, or ask that gateway itself");
        return Err(error_response(StatusCode::SERVICE_UNAVAILABLE, &text, "api_error"));
    };
    let mut headers = Map::new();
    for (name, value) in &head.headers {
        if (REQUEST_HEADERS.contains(name) || name.as_str().starts_with("x-openclaw-"))
            && let Ok(text) = value.to_str()
        {
            headers.insert(name.to_string(), json!(text));
        }
    }
    let path = head.uri.path_and_query().map_or_else(|| head.uri.path().to_owned(), ToString::to_string);
    let params = json!({"method": head.method.as_str(), "path": path, "headers": headers, "body": piece(&bytes)});
    let call = Call { caller, deadline_ms: HTTP_MS, ..Call::new(HTTP, params) };
    match links.open(&gateway, call).await {
        Ok(running) => Err(answered(&gateway, running).await),
        Err(failure) => Err(failed(&failure)),
    }
}

/// Bytes as JSON: text where it is some.
fn piece(bytes: &Bytes) -> Value {
    std::str::from_utf8(bytes).map_or_else(|_| json!({ "b64": STANDARD.encode(bytes) }), |text| json!(text))
}

fn unpiece(piece: &Value) -> Option<Bytes> {
    match piece {
        Value::String(text) => Some(Bytes::from(text.clone())),
        other => STANDARD.decode(other.get("b64")?.as_str()?).ok().map(Bytes::from),
    }
}

fn failed(failure: &Failure) -> Response<Body> {
    let (status, kind) = match failure.code {
        FailureCode::Forbidden => (StatusCode::FORBIDDEN, "forbidden"),
        FailureCode::NotFound => (StatusCode::NOT_FOUND, "invalid_request_error"),
        FailureCode::InvalidRequest => (StatusCode::BAD_REQUEST, "invalid_request_error"),
        FailureCode::Busy => (StatusCode::TOO_MANY_REQUESTS, "rate_limit_error"),
        FailureCode::Timeout => (StatusCode::GATEWAY_TIMEOUT, "api_error"),
        FailureCode::Unavailable | FailureCode::Fenced => (StatusCode::SERVICE_UNAVAILABLE, "api_error"),
        FailureCode::Internal => (StatusCode::BAD_GATEWAY, "api_error"),
    };
    error_response(status, &failure.message, kind)
}

/// The head as soon as it is there; the body as it comes.
async fn answered(gateway: &str, mut running: Running) -> Response<Body> {
    let lost = || Failure::unavailable(format!("the link to {gateway} was lost; whether it was done is not known"), 1_000);
    let mut response = loop {
        match running.next().await {
            Some(Progress::Event(event)) if event.topic == "head" => break head_of(&event.payload),
            Some(Progress::Event(_)) => {}
            Some(Progress::Answer(Err(failure))) => return failed(&failure),
            Some(Progress::Answer(Ok(_))) => return failed(&Failure::internal(format!("{gateway} answered nothing"))),
            None => return failed(&lost()),
        }
    };
    let (send, pieces) = mpsc::channel::<io::Result<Bytes>>(PIECES_MAX);
    tokio::spawn(async move {
        loop {
            let item = match running.next().await {
                Some(Progress::Event(event)) if event.topic == "data" => unpiece(&event.payload).map(Ok),
                Some(Progress::Event(_)) => None,
                Some(Progress::Answer(Ok(_))) => return,
                Some(Progress::Answer(Err(failure))) => Some(Err(io::Error::other(failure.message))),
                None => Some(Err(io::Error::other("the link was lost"))),
            };
            let Some(item) = item else { continue };
            let broken = item.is_err();
            // A client that went away takes the call with it.
            if send.send(item).await.is_err() || broken {
                return;
            }
        }
    });
    *response.body_mut() = Body::from_stream(ReceiverStream::new(pieces));
    response
}

fn head_of(said: &Value) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    let status = said["status"].as_u64().and_then(|n| u16::try_from(n).ok()).and_then(|n| StatusCode::from_u16(n).ok());
    *response.status_mut() = status.unwrap_or(StatusCode::BAD_GATEWAY);
    for (name, value) in said["headers"].as_object().into_iter().flatten() {
        if let (Ok(name), Some(Ok(value))) = (HeaderName::try_from(name.as_str()), value.as_str().map(HeaderValue::from_str)) {
            response.headers_mut().append(name, value);
        }
    }
    response
}

/// The request that another gateway passed on.
///
/// # Errors
/// When it cannot be one.
pub fn passed_on(params: &Value) -> Result<(Request<Body>, Option<AgentId>), Failure> {
    let text = |name: &str| params.get(name).and_then(Value::as_str).unwrap_or_default();
    let bad = |what: &str| Failure::invalid(format!("the request that was passed on has no {what}"));
    let body = unpiece(&params["body"]).ok_or_else(|| bad("body"))?;
    let mut request = Request::new(Body::empty());
    *request.method_mut() = Method::from_bytes(text("method").as_bytes()).map_err(|_| bad("method"))?;
    *request.uri_mut() = text("path").parse().map_err(|_| bad("path"))?;
    for (name, value) in params["headers"].as_object().into_iter().flatten() {
        if let (Ok(name), Some(Ok(value))) = (HeaderName::try_from(name.as_str()), value.as_str().map(HeaderValue::from_str)) {
            request.headers_mut().append(name, value);
        }
    }
    let read: Value = serde_json::from_slice(&body).unwrap_or(Value::Null);
    let agent = agent_of(request.uri().path(), request.headers(), &read);
    *request.body_mut() = Body::from(body);
    Ok((request, agent))
}

/// Answers it here, telling the head first and then the pieces.
///
/// # Errors
/// When the asking gateway has gone, or the answer breaks off.
pub async fn answer(doors: &Doors, caller: crate::rpc::Caller, request: Request<Body>, events: EventSink) -> Result<Value, Failure> {
    let (head, body) = doors.answer_passed_on(caller, request).await.into_parts();
    let mut headers = Map::new();
    for (name, value) in head.headers.iter().filter(|(name, _)| !HOP_HEADERS.contains(name)) {
        if let Ok(text) = value.to_str() {
            headers.insert(name.to_string(), json!(text));
        }
    }
    events.send("head", json!({"status": head.status.as_u16(), "headers": headers})).await?;
    let mut pieces = body.into_data_stream();
    while let Some(bytes) = pieces.next().await {
        let bytes = bytes.map_err(|err| Failure::unavailable(format!("the answer broke off: {err}"), 1_000))?;
        events.send("data", piece(&bytes)).await?;
    }
    Ok(Value::Null)
}

#[cfg(test)]
mod tests {
    use ::http::{HeaderMap, HeaderValue};
    use axum::body::Bytes;
    use serde_json::{Value, json};

    use super::{agent_of, passed_on, piece, unpiece};

    #[test]
    fn every_route_that_names_an_agent_is_read() {
        let none = HeaderMap::new();
        let of = |path: &str, headers: &HeaderMap, body: Value| agent_of(path, headers, &body).map(|agent| agent.to_string());
        let bobby = Some("bobby".to_owned());
        for path in ["/v1/chat/completions", "/v1/responses", "/v1/embeddings"] {
            assert_eq!(of(path, &none, json!({"model": "openclaw/bobby"})), bobby, "{path}");
            assert_eq!(of(path, &none, json!({"model": "openclaw"})), None, "{path}");
        }
        let mut named = HeaderMap::new();
        named.insert("x-openclaw-agent-id", HeaderValue::from_static("Bobby"));
        assert_eq!(of("/v1/responses", &named, json!({"model": "openclaw"})), bobby);
        named.insert("x-openclaw-session-key", HeaderValue::from_static("agent:billy:main"));
        assert_eq!(of("/v1/responses", &named, json!({})).as_deref(), Some("billy"));
        assert_eq!(of("/tools/invoke", &none, json!({"tool": "read", "agentId": "bobby"})), bobby);
        assert_eq!(of("/tools/invoke", &none, json!({"tool": "read", "sessionKey": "agent:bobby:main"})), bobby);
        assert_eq!(of("/sessions/agent%3Abobby%3Amain/history", &none, Value::Null), bobby);
        assert_eq!(of("/sessions/agent:bobby:a+b/history", &none, Value::Null), bobby);
        assert_eq!(of("/v1/models", &none, json!({"model": "openclaw/bobby"})), None);
    }

    #[test]
    fn pieces_come_back_as_they_were() {
        for bytes in [Bytes::from_static(b"data: \xc3\xa4\n\n"), Bytes::from_static(&[0, 159, 146, 150]), Bytes::new()] {
            assert_eq!(unpiece(&piece(&bytes)), Some(bytes));
        }
        assert!(passed_on(&json!({"method": "POST", "path": "/v1/responses"})).is_err(), "no body");
        assert!(passed_on(&json!({"method": "P ST", "path": "/v1/responses", "body": ""})).is_err());
        let (request, agent) = passed_on(&json!({"method": "GET", "path": "/sessions/agent:bobby:main/history?limit=3", "headers": {}, "body": ""})).unwrap();
        assert_eq!((request.uri().query(), agent.unwrap().as_str()), (Some("limit=3"), "bobby"));
    }
}
