//! The JSON-RPC binding. Method names of 0.3 are understood and answered in 0.3, unless the request says 1.0.

use std::sync::Arc;

use axum::response::{IntoResponse, Response};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use serde_json::{Value, json};

use super::{
    call::{self, Answer, Version},
    engine::Engine,
    sse::{self, Wrap},
};
use crate::proto::{A2aError, ErrorKind, VERSION, legacy};

/// Answers one request.
pub(crate) async fn serve(engine: &Arc<Engine>, agent: Option<&str>, headers: &HeaderMap, query: &[(String, String)], body: &[u8]) -> Response {
    if !is_json(headers) {
        let words = "A JSON-RPC request is application/json; set Content-Type";
        return failure(&Value::Null, &A2aError::new(ErrorKind::ContentTypeNotSupported, words));
    }
    let request: Value = match serde_json::from_slice(body) {
        Ok(request) => request,
        Err(err) => return failure(&Value::Null, &A2aError::new(ErrorKind::Parse, format!("Invalid JSON payload: {err}"))),
    };
    let (id, parts) = take_apart(request);
    let (method, params) = match parts {
        Ok(parts) => parts,
        Err(err) => return failure(&id, &err),
    };
    match answer(engine, agent, headers, query, &id, &method, params).await {
        Ok(response) => response,
        Err(err) => failure(&id, &err),
    }
}

/// The id to answer with, and what is asked.
fn take_apart(request: Value) -> (Value, Result<(String, Value), A2aError>) {
    let wrong = |why: &str| Err(A2aError::new(ErrorKind::InvalidRequest, format!("Request payload validation error: {why}")));
    let Value::Object(mut request) = request else { return (Value::Null, wrong("one request object is needed")) };
    let id = request.remove("id");
    let shown = match &id {
        Some(id @ (Value::String(_) | Value::Number(_))) => id.clone(),
        _ => Value::Null,
    };
    if request.get("jsonrpc").and_then(Value::as_str) != Some("2.0") {
        return (shown, wrong("jsonrpc has to be \"2.0\""));
    }
    if !matches!(id, Some(Value::String(_) | Value::Number(_) | Value::Null)) {
        return (shown, wrong("id has to be a string or a number"));
    }
    let Some(Value::String(method)) = request.remove("method") else { return (shown, wrong("method has to be a string")) };
    let asked = match request.remove("params") {
        None | Some(Value::Null) => Ok((method, json!({}))),
        Some(params @ Value::Object(_)) => Ok((method, params)),
        Some(_) => Err(A2aError::field("params", "an object is needed")),
    };
    (shown, asked)
}

async fn answer(
    engine: &Arc<Engine>,
    agent: Option<&str>,
    headers: &HeaderMap,
    query: &[(String, String)],
    id: &Value,
    method: &str,
    params: Value,
) -> Result<Response, A2aError> {
    let version = call::version(headers, query)?;
    let old_name = legacy::method(method);
    let name = old_name.unwrap_or(method);
    let dialect = old_name.filter(|_| version != Version::One);
    let params = if dialect.is_some() { legacy::params(name, params) } else { params };
    let tenant = params.get("tenant").and_then(Value::as_str).map(str::to_owned);
    let caller = call::caller(engine, headers, agent, tenant.as_deref())?;
    let mut response = match call::call(engine, &caller, name, params).await? {
        Answer::Stream(follower) => sse::response(*follower, Wrap::JsonRpc { id: id.clone(), legacy: dialect }),
        Answer::Json(value) => {
            let result = match dialect {
                Some(name) => legacy::result(name, value),
                None => value,
            };
            body(StatusCode::OK, &json!({"jsonrpc": "2.0", "id": id, "result": result}))
        }
    };
    mark(response.headers_mut(), &call::extensions_in_use(engine, &caller));
    Ok(response)
}

/// Names the version, and the extensions that are in use.
pub(crate) fn mark(headers: &mut HeaderMap, extensions: &str) {
    headers.insert("a2a-version", HeaderValue::from_static(VERSION));
    if !extensions.is_empty()
        && let Ok(value) = HeaderValue::from_str(extensions)
    {
        headers.insert("a2a-extensions", value);
    }
}

/// Most failures are answers of status 200; some of HTTP's own are also told in its words.
pub(crate) fn failure(id: &Value, err: &A2aError) -> Response {
    let status = match err.kind {
        ErrorKind::Unauthenticated | ErrorKind::Forbidden | ErrorKind::TooLarge | ErrorKind::Busy | ErrorKind::Unavailable => err.kind.http(),
        _ => 200,
    };
    let mut response = body(StatusCode::from_u16(status).unwrap_or(StatusCode::OK), &json!({"jsonrpc": "2.0", "id": id, "error": err.json_rpc()}));
    hints(response.headers_mut(), err);
    mark(response.headers_mut(), "");
    response
}

/// What HTTP itself says to a failure: when to come again, how to prove oneself.
pub(crate) fn hints(headers: &mut HeaderMap, err: &A2aError) {
    if let Some(ms) = err.retry_after_ms {
        headers.insert(header::RETRY_AFTER, HeaderValue::from(ms.div_ceil(1000)));
    }
    if err.kind == ErrorKind::Unauthenticated {
        headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"a2a\""));
    }
}

fn body(status: StatusCode, value: &Value) -> Response {
    (status, [(header::CONTENT_TYPE, "application/json")], value.to_string()).into_response()
}

/// JSON by any of its names, or nothing said.
pub(crate) fn is_json(headers: &HeaderMap) -> bool {
    let Some(value) = headers.get(header::CONTENT_TYPE) else { return true };
    let kind = value.to_str().unwrap_or_default().split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    kind == "application/json" || (kind.starts_with("application/") && kind.ends_with("+json"))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::take_apart;
    use crate::proto::ErrorKind;

    #[test]
    fn what_is_not_a_request_is_told_so_with_its_id() {
        let id_and_kind = |request: Value| {
            let (id, asked) = take_apart(request);
            asked.err().map(|err| (id, err.kind))
        };
        assert_eq!(id_and_kind(json!([])), Some((Value::Null, ErrorKind::InvalidRequest)));
        assert_eq!(id_and_kind(json!({"jsonrpc": "1.0", "id": 4, "method": "x"})), Some((json!(4), ErrorKind::InvalidRequest)));
        assert_eq!(id_and_kind(json!({"jsonrpc": "2.0", "id": {}, "method": "x"})), Some((Value::Null, ErrorKind::InvalidRequest)));
        assert_eq!(id_and_kind(json!({"jsonrpc": "2.0", "id": "a", "method": 5})), Some((json!("a"), ErrorKind::InvalidRequest)));
        assert_eq!(id_and_kind(json!({"jsonrpc": "2.0", "id": "a", "method": "x", "params": [1]})), Some((json!("a"), ErrorKind::InvalidParams)));
        assert_eq!(id_and_kind(json!({"jsonrpc": "2.0", "id": "a", "method": "x"})), None);
    }
}
