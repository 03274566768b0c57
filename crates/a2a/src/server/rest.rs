//! The binding of resources and verbs.

use std::sync::Arc;

use axum::response::{IntoResponse, Response};
use http::{HeaderMap, Method, StatusCode, header};
use serde_json::{Map, Value, json};

use super::{
    call::{self, Answer, Version},
    engine::Engine,
    jsonrpc::{hints, is_json, mark},
    sse::{self, Wrap},
};
use crate::proto::{A2aError, ErrorKind, MEDIA_TYPE};

/// A request's line, taken apart.
#[derive(Debug, PartialEq, Eq)]
struct Line {
    tenant: Option<String>,
    method: &'static str,
    /// Parameters from the path.
    path: Vec<(&'static str, String)>,
    /// True when the body holds parameters.
    body: bool,
}

/// Answers one request. `segments` is the path below the agent's address, decoded.
pub(crate) async fn serve(
    engine: &Arc<Engine>,
    agent: Option<&str>,
    method: &Method,
    segments: &[String],
    headers: &HeaderMap,
    query: &[(String, String)],
    body: &[u8],
) -> Response {
    match answer(engine, agent, method, segments, headers, query, body).await {
        Ok(response) => response,
        Err(err) => failure(headers, &err),
    }
}

async fn answer(
    engine: &Arc<Engine>,
    agent: Option<&str>,
    method: &Method,
    segments: &[String],
    headers: &HeaderMap,
    query: &[(String, String)],
    body: &[u8],
) -> Result<Response, A2aError> {
    let line = line(method, segments)?;
    if call::version(headers, query)? == Version::Before {
        return Err(A2aError::new(ErrorKind::VersionNotSupported, "This binding is spoken in version 1.0 only; 0.3 is spoken over JSON-RPC")
            .with("supportedVersions", "1.0"));
    }
    let mut params = if line.body { read(headers, body)? } else { of_query(query)? };
    for (name, value) in &line.path {
        params.insert((*name).to_owned(), json!(value));
    }
    let tenant = line.tenant.or_else(|| params.get("tenant").and_then(Value::as_str).map(str::to_owned));
    let caller = call::caller(engine, headers, agent, tenant.as_deref())?;
    let mut response = match call::call(engine, &caller, line.method, Value::Object(params)).await? {
        Answer::Stream(follower) => sse::response(*follower, Wrap::Rest),
        Answer::Json(value) => (StatusCode::OK, [(header::CONTENT_TYPE, media_type(headers))], value.to_string()).into_response(),
    };
    mark(response.headers_mut(), &call::extensions_in_use(engine, &caller));
    Ok(response)
}

fn line(method: &Method, segments: &[String]) -> Result<Line, A2aError> {
    let words: Vec<&str> = segments.iter().map(String::as_str).collect();
    let own = |word: &str| matches!(word, "message:send" | "message:stream" | "tasks" | "extendedAgentCard");
    let (tenant, words) = match words.as_slice() {
        [first, rest @ ..] if !own(first) && !rest.is_empty() => (Some((*first).to_owned()), rest),
        all => (None, all),
    };
    let (get, post) = (*method == Method::GET, *method == Method::POST);
    let (method, path, body) = match words {
        ["message:send"] if post => ("SendMessage", vec![], true),
        ["message:stream"] if post => ("SendStreamingMessage", vec![], true),
        ["tasks"] if get => ("ListTasks", vec![], false),
        ["extendedAgentCard"] if get => ("GetExtendedAgentCard", vec![], false),
        ["tasks", task] => match task.rsplit_once(':') {
            Some((id, "cancel")) if post => ("CancelTask", vec![("id", id)], true),
            // The proto says GET, the text of the specification says POST.
            Some((id, "subscribe")) if get || post => ("SubscribeToTask", vec![("id", id)], post),
            None if get => ("GetTask", vec![("id", *task)], false),
            _ => return Err(no_such(method, segments)),
        },
        ["tasks", task, "pushNotificationConfigs"] if post => ("CreateTaskPushNotificationConfig", vec![("taskId", *task)], true),
        ["tasks", task, "pushNotificationConfigs"] if get => ("ListTaskPushNotificationConfigs", vec![("taskId", *task)], false),
        ["tasks", task, "pushNotificationConfigs", id] if get => ("GetTaskPushNotificationConfig", vec![("taskId", *task), ("id", *id)], false),
        ["tasks", task, "pushNotificationConfigs", id] if *method == Method::DELETE => {
            ("DeleteTaskPushNotificationConfig", vec![("taskId", *task), ("id", *id)], false)
        }
        _ => return Err(no_such(method, segments)),
    };
    Ok(Line { tenant, method, path: path.into_iter().map(|(name, value)| (name, value.to_owned())).collect(), body })
}

fn no_such(method: &Method, segments: &[String]) -> A2aError {
    let shown: String = segments.join("/").chars().take(128).collect();
    A2aError::new(ErrorKind::MethodNotFound, format!("There is nothing for {method} at /{shown}"))
}

fn read(headers: &HeaderMap, body: &[u8]) -> Result<Map<String, Value>, A2aError> {
    if body.is_empty() {
        return Ok(Map::new());
    }
    if !is_json(headers) {
        return Err(A2aError::new(ErrorKind::ContentTypeNotSupported, format!("The body has to be {MEDIA_TYPE} or application/json; set Content-Type")));
    }
    match serde_json::from_slice(body) {
        Ok(Value::Object(map)) => Ok(map),
        Ok(_) => Err(A2aError::field("", "the body has to be an object")),
        Err(err) => Err(A2aError::new(ErrorKind::Parse, format!("Invalid JSON payload: {err}"))),
    }
}

fn of_query(query: &[(String, String)]) -> Result<Map<String, Value>, A2aError> {
    let mut params = Map::new();
    for (name, value) in query {
        let value = match name.as_str() {
            "historyLength" | "pageSize" => json!(value.parse::<i64>().map_err(|_| A2aError::field(name, "a number is needed"))?),
            "includeArtifacts" => json!(value.parse::<bool>().map_err(|_| A2aError::field(name, "true or false"))?),
            _ if name.eq_ignore_ascii_case("a2a-version") => continue,
            _ => json!(value),
        };
        params.insert(name.clone(), value);
    }
    Ok(params)
}

/// The protocol's own media type for those who use it, plain JSON for the others.
fn media_type(headers: &HeaderMap) -> &'static str {
    let names = [header::ACCEPT, header::CONTENT_TYPE];
    let own = names.iter().filter_map(|name| headers.get(name)).filter_map(|value| value.to_str().ok()).any(|value| value.contains(MEDIA_TYPE));
    if own { MEDIA_TYPE } else { "application/json" }
}

/// A failure as this binding tells it.
pub(crate) fn failure(headers: &HeaderMap, err: &A2aError) -> Response {
    let status = StatusCode::from_u16(err.kind.http()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = (status, [(header::CONTENT_TYPE, media_type(headers))], err.rest().to_string()).into_response();
    hints(response.headers_mut(), err);
    mark(response.headers_mut(), "");
    response
}

#[cfg(test)]
mod tests {
    use http::Method;

    use super::line;

    fn told(method: &Method, path: &str) -> Option<(Option<String>, &'static str, Vec<String>)> {
        let segments: Vec<String> = path.split('/').map(str::to_owned).collect();
        line(method, &segments).ok().map(|line| (line.tenant, line.method, line.path.into_iter().map(|one| one.1).collect()))
    }

    #[test]
    fn every_operation_has_its_line_with_and_without_a_tenant() {
        let (get, post, delete) = (Method::GET, Method::POST, Method::DELETE);
        for (method, path, name, ids) in [
            (&post, "message:send", "SendMessage", vec![]),
            (&post, "message:stream", "SendStreamingMessage", vec![]),
            (&get, "tasks", "ListTasks", vec![]),
            (&get, "tasks/t", "GetTask", vec!["t"]),
            (&post, "tasks/t:cancel", "CancelTask", vec!["t"]),
            (&get, "tasks/t:subscribe", "SubscribeToTask", vec!["t"]),
            (&post, "tasks/t:subscribe", "SubscribeToTask", vec!["t"]),
            (&post, "tasks/t/pushNotificationConfigs", "CreateTaskPushNotificationConfig", vec!["t"]),
            (&get, "tasks/t/pushNotificationConfigs", "ListTaskPushNotificationConfigs", vec!["t"]),
            (&get, "tasks/t/pushNotificationConfigs/c", "GetTaskPushNotificationConfig", vec!["t", "c"]),
            (&delete, "tasks/t/pushNotificationConfigs/c", "DeleteTaskPushNotificationConfig", vec!["t", "c"]),
            (&get, "extendedAgentCard", "GetExtendedAgentCard", vec![]),
        ] {
            let ids: Vec<String> = ids.into_iter().map(str::to_owned).collect();
            assert_eq!(told(method, path), Some((None, name, ids.clone())), "{path}");
            assert_eq!(told(method, &format!("bob/{path}")), Some((Some("bob".into()), name, ids)), "{path}");
        }
        for (method, path) in [(&get, "message:send"), (&delete, "tasks/t"), (&post, "tasks"), (&get, "x"), (&get, "tasks/t:cancel"), (&get, "a/b/tasks")] {
            assert_eq!(told(method, path), None, "{path}");
        }
    }
}
