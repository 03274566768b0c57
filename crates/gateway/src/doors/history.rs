//! `GET /sessions/{key}/history` and `POST /sessions/{key}/kill`.

use std::sync::Arc;

use ::http::{Method, Response, StatusCode};
use axum::{
    Extension,
    body::Body,
    extract::{Path, Query, State},
    routing::any,
};
use serde::Deserialize;
use serde_json::{Value, json};

use clawstead_agent::{HISTORY_MAX, HistoryPage};
use clawstead_terms::{Failure, FailureCode, SessionKey};
use clawstead_wire::Scope;

use super::{
    http::{HttpCaller, json_response},
    openai::{forbidden, not_allowed},
};
use crate::{desk::Desk, fanout::messages_json};

/// Messages of a page where the caller names no number.
const PAGE: usize = 200;

/// The routes; a bearer was checked before.
pub fn routes(desk: Arc<Desk>) -> axum::Router {
    axum::Router::new().route("/sessions/{key}/history", any(history)).route("/sessions/{key}/kill", any(kill)).with_state(desk)
}

#[derive(Deserialize)]
struct Page {
    limit: Option<String>,
    cursor: Option<String>,
}

fn problem(status: StatusCode, kind: &str, message: &str) -> Response<Body> {
    json_response(status, &json!({ "ok": false, "error": { "type": kind, "message": message } }))
}

fn failed(failure: &Failure) -> Response<Body> {
    let (status, kind) = match failure.code {
        FailureCode::InvalidRequest => (StatusCode::BAD_REQUEST, "invalid_request_error"),
        FailureCode::NotFound => (StatusCode::NOT_FOUND, "not_found"),
        FailureCode::Internal => {
            tracing::error!(err = %failure, "a session could not be read");
            return problem(StatusCode::INTERNAL_SERVER_ERROR, "api_error", "internal error");
        }
        _ => (StatusCode::SERVICE_UNAVAILABLE, "unavailable"),
    };
    problem(status, kind, &failure.message)
}

/// The session named in the path, which must be there.
fn session(desk: &Desk, asked: &str) -> Result<SessionKey, Failure> {
    let key = desk.key(asked, None)?;
    if desk.row(&key).is_some() { Ok(key) } else { Err(Failure::not_found(format!("Session not found: {asked}"))) }
}

async fn history(
    State(desk): State<Arc<Desk>>,
    Extension(caller): Extension<HttpCaller>,
    Path(asked): Path<String>,
    Query(page): Query<Page>,
    method: Method,
) -> Response<Body> {
    if method != Method::GET {
        return not_allowed("GET");
    }
    if !caller.0.may(Scope::Read) {
        return forbidden("operator.read");
    }
    let key = match session(&desk, &asked) {
        Ok(key) => key,
        Err(failure) => return failed(&failure),
    };
    let limit = match page.limit.as_deref().map(str::parse::<usize>) {
        None => PAGE,
        Some(Ok(limit)) if limit > 0 => limit.min(HISTORY_MAX),
        Some(_) => return problem(StatusCode::BAD_REQUEST, "invalid_request_error", "limit must be a positive integer"),
    };
    let before = match page.cursor.as_deref().map(|text| text.strip_prefix("seq:").unwrap_or(text).parse::<u64>()) {
        None => None,
        Some(Ok(position)) if position > 0 => Some(position),
        Some(_) => return problem(StatusCode::BAD_REQUEST, "invalid_request_error", "cursor must be the nextCursor of an earlier page"),
    };
    match read(&desk, &key, limit, before).await {
        Ok(mut out) => {
            out["sessionKey"] = json!(key);
            json_response(StatusCode::OK, &out)
        }
        Err(failure) => failed(&failure),
    }
}

/// A page that ends before the message at `before`, oldest first.
async fn read(desk: &Desk, key: &SessionKey, limit: usize, before: Option<u64>) -> Result<Value, Failure> {
    let lanes = desk.lanes();
    let mut skip = 0;
    if let Some(before) = before {
        let total = lanes.history(key, HistoryPage::Newest { limit: 1, skip: 0 }).await?.total;
        skip = usize::try_from((total + 1).saturating_sub(before)).unwrap_or(usize::MAX);
    }
    let page = lanes.history(key, HistoryPage::Newest { limit, skip }).await?;
    let messages: Vec<Value> = page.items.iter().flat_map(|item| messages_json(&item.message, item.position)).collect();
    let oldest = page.items.first().map(|item| item.position);
    let more = oldest.is_some_and(|position| position > 1);
    let mut out = json!({ "sessionKey": null, "items": messages, "messages": messages, "hasMore": more });
    if let Some(position) = oldest.filter(|_| more) {
        out["nextCursor"] = json!(position.to_string());
    }
    Ok(out)
}

async fn kill(State(desk): State<Arc<Desk>>, Extension(caller): Extension<HttpCaller>, Path(asked): Path<String>, method: Method) -> Response<Body> {
    if method != Method::POST {
        return not_allowed("POST");
    }
    if !caller.0.may(Scope::Admin) {
        return forbidden("operator.admin");
    }
    let key = match session(&desk, &asked) {
        Ok(key) => key,
        Err(failure) => return failed(&failure),
    };
    match desk.lanes().abort(&key, None, "rpc").await {
        Ok(stopped) => json_response(StatusCode::OK, &json!({ "ok": true, "killed": !stopped.runs.is_empty() })),
        Err(failure) => failed(&failure),
    }
}
