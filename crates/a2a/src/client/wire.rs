//! Operations on the wire, over either binding.

use std::time::Duration;

use bytes::Bytes;
use clawstead_world::{HttpRequest, HttpResponse};
use futures_util::{StreamExt as _, stream::BoxStream};
use http::{HeaderValue, Method, header};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

use super::{
    ClientError, Remote,
    sse::{SseEvent, SseReader},
};
use crate::proto::{
    A2aError, AgentCard, Binding, CancelTaskRequest, GetExtendedAgentCardRequest, GetTaskRequest, ListPushConfigsRequest, ListPushConfigsResponse,
    ListTasksRequest, ListTasksResponse, MEDIA_TYPE, PushConfigRequest, SendMessageRequest, SendMessageResponse, StreamResponse, SubscribeToTaskRequest, Task,
    TaskPushNotificationConfig, VERSION,
};

/// Events of a stream, each with its number where the server gives one. Ends when the server ends it.
pub type Events = BoxStream<'static, Result<(Option<String>, StreamResponse), ClientError>>;

/// How REST says an operation.
struct Line {
    verb: Method,
    path: String,
    /// Fields that are in the path already.
    taken: &'static [&'static str],
}

impl Remote {
    /// Sends a message; waits as the server waits.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn send(&self, request: SendMessageRequest) -> Result<SendMessageResponse, ClientError> {
        self.call("SendMessage", json!(request)).await
    }

    /// Sends a message and hears of what comes of it.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn stream(&self, request: SendMessageRequest) -> Result<Events, ClientError> {
        self.listen("SendStreamingMessage", json!(request), None).await
    }

    /// Hears of a task again. `seen` is the number of the last event that was heard; a server that knows it sends what
    /// was missed, another the task as it is.
    ///
    /// # Errors
    /// [`ClientError`]; an ended task is refused with `UnsupportedOperation`.
    pub async fn subscribe(&self, id: &str, seen: Option<&str>) -> Result<Events, ClientError> {
        self.listen("SubscribeToTask", json!(SubscribeToTaskRequest { tenant: None, id: id.into() }), seen).await
    }

    /// A task as it is.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn get(&self, id: &str) -> Result<Task, ClientError> {
        self.call("GetTask", json!(GetTaskRequest { id: id.into(), ..GetTaskRequest::default() })).await
    }

    /// Tasks by filter.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn list(&self, request: ListTasksRequest) -> Result<ListTasksResponse, ClientError> {
        self.call("ListTasks", json!(request)).await
    }

    /// Cancels a task.
    ///
    /// # Errors
    /// [`ClientError`]; one that ended is refused with `TaskNotCancelable`.
    pub async fn cancel(&self, id: &str) -> Result<Task, ClientError> {
        self.call("CancelTask", json!(CancelTaskRequest { id: id.into(), ..CancelTaskRequest::default() })).await
    }

    /// Asks for notifications about a task.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn push_to(&self, config: TaskPushNotificationConfig) -> Result<TaskPushNotificationConfig, ClientError> {
        self.call("CreateTaskPushNotificationConfig", json!(config)).await
    }

    /// Where a task's changes are sent.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn push_targets(&self, task_id: &str) -> Result<ListPushConfigsResponse, ClientError> {
        self.call("ListTaskPushNotificationConfigs", json!(ListPushConfigsRequest { task_id: task_id.into(), ..ListPushConfigsRequest::default() })).await
    }

    /// One of them.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn push_target(&self, task_id: &str, id: &str) -> Result<TaskPushNotificationConfig, ClientError> {
        self.call("GetTaskPushNotificationConfig", json!(PushConfigRequest { task_id: task_id.into(), id: id.into(), tenant: None })).await
    }

    /// Takes one of them back.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn push_no_more(&self, task_id: &str, id: &str) -> Result<(), ClientError> {
        let _: Value = self.call("DeleteTaskPushNotificationConfig", json!(PushConfigRequest { task_id: task_id.into(), id: id.into(), tenant: None })).await?;
        Ok(())
    }

    /// The longer card, for those who are known there.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn extended_card(&self) -> Result<AgentCard, ClientError> {
        self.call("GetExtendedAgentCard", json!(GetExtendedAgentCardRequest::default())).await
    }

    async fn call<T: DeserializeOwned>(&self, method: &'static str, params: Value) -> Result<T, ClientError> {
        let response = self.world.http.send(self.request(method, params, None)).await?;
        let value = self.result(response).await?;
        serde_json::from_value(value).map_err(|err| self.wrong(format!("the answer to {method} cannot be read: {err}")))
    }

    async fn listen(&self, method: &'static str, params: Value, seen: Option<&str>) -> Result<Events, ClientError> {
        let response = self.world.http.send(self.request(method, params, seen)).await?;
        let kind = response.headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned();
        if !response.status.is_success() || !kind.starts_with("text/event-stream") {
            self.result(response).await?;
            return Err(self.wrong(format!("the answer to {method} is {kind}, not a stream")));
        }
        let reader =
            Reader { remote: self.clone(), body: response.body, reader: SseReader::new(self.settings.answer_bytes_max), ready: Vec::new(), over: false };
        Ok(futures_util::stream::unfold(reader, |mut reader| async move { Some((reader.next().await?, reader)) }).boxed())
    }

    fn wrong(&self, why: impl Into<String>) -> ClientError {
        ClientError::Protocol { url: self.interface.url.clone(), why: why.into() }
    }

    fn refused(&self, error: &Value) -> ClientError {
        ClientError::Refused { url: self.interface.url.clone(), error: A2aError::read(error) }
    }

    fn request(&self, method: &'static str, mut params: Value, seen: Option<&str>) -> HttpRequest {
        if let (Some(tenant), Some(params)) = (&self.interface.tenant, params.as_object_mut()) {
            params.insert("tenant".into(), json!(tenant));
        }
        let base = self.interface.url.trim_end_matches('/');
        let (verb, url, body) = match self.binding {
            Binding::JsonRpc => {
                let call = json!({"jsonrpc": "2.0", "id": self.world.rng.uuid(), "method": method, "params": params});
                (Method::POST, self.interface.url.clone(), Some(call.to_string()))
            }
            Binding::Rest => {
                let line = line(method, &params);
                let rest: Map<String, Value> = params
                    .as_object()
                    .into_iter()
                    .flatten()
                    .filter(|(name, _)| !line.taken.contains(&name.as_str()))
                    .map(|(n, v)| (n.clone(), v.clone()))
                    .collect();
                if line.verb == Method::POST {
                    (line.verb, format!("{base}{}", line.path), Some(Value::Object(rest).to_string()))
                } else {
                    (line.verb, format!("{base}{}{}", line.path, query(&rest)), None)
                }
            }
        };
        let mut request = HttpRequest::new(verb, url, self.policy);
        let headers = &mut request.headers;
        headers.insert("a2a-version", HeaderValue::from_static(VERSION));
        let plain = if self.binding == Binding::JsonRpc { "application/json" } else { MEDIA_TYPE };
        if body.is_some() {
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(plain));
        }
        headers.insert(
            header::ACCEPT,
            HeaderValue::from_static(if plain == MEDIA_TYPE {
                "application/a2a+json, application/json, text/event-stream"
            } else {
                "application/json, text/event-stream"
            }),
        );
        if let Some(mut value) = self.settings.token.as_ref().and_then(|token| HeaderValue::from_str(&format!("Bearer {token}")).ok()) {
            value.set_sensitive(true);
            headers.insert(header::AUTHORIZATION, value);
        }
        if let Some(value) = seen.and_then(|seen| HeaderValue::from_str(seen).ok()) {
            headers.insert("last-event-id", value);
        }
        request.body = body.map(Bytes::from);
        request.head_timeout_ms = self.settings.answer_ms_max;
        request
    }

    /// The result of an answer that is no stream.
    async fn result(&self, response: HttpResponse) -> Result<Value, ClientError> {
        let status = response.status;
        let (body, cut) = response.read(self.settings.answer_bytes_max).await?;
        if cut {
            return Err(self.wrong(format!("the answer is larger than {} bytes", self.settings.answer_bytes_max)));
        }
        let value: Option<Value> = serde_json::from_slice(&body).ok();
        if let Some(error) = value.as_ref().and_then(|value| value.get("error")).filter(|error| error.is_object()) {
            return Err(self.refused(error));
        }
        if !status.is_success() {
            return Err(self.refused(&json!({"code": status.as_u16(), "message": format!("status {status} without words")})));
        }
        match (self.binding, value) {
            (Binding::Rest, None) if body.is_empty() => Ok(json!({})),
            (_, None) => Err(self.wrong("the answer is not JSON")),
            (Binding::Rest, Some(value)) => Ok(value),
            (Binding::JsonRpc, Some(mut value)) => {
                value.get_mut("result").map(Value::take).ok_or_else(|| self.wrong("the answer has neither result nor error"))
            }
        }
    }

    fn event(&self, event: &SseEvent) -> Result<(Option<String>, StreamResponse), ClientError> {
        let mut value: Value = serde_json::from_str(&event.data).map_err(|err| self.wrong(format!("an event is not JSON: {err}")))?;
        if let Some(error) = value.get("error").filter(|error| error.is_object()) {
            return Err(self.refused(error));
        }
        let inner = match self.binding {
            Binding::Rest => value,
            Binding::JsonRpc => value.get_mut("result").map(Value::take).ok_or_else(|| self.wrong("an event has neither result nor error"))?,
        };
        let read = serde_json::from_value(inner).map_err(|err| self.wrong(format!("an event cannot be read: {err}")))?;
        Ok((event.id.clone(), read))
    }
}

struct Reader {
    remote: Remote,
    body: BoxStream<'static, Result<Bytes, clawstead_world::HttpError>>,
    reader: SseReader,
    ready: Vec<SseEvent>,
    over: bool,
}

impl Reader {
    async fn next(&mut self) -> Option<Result<(Option<String>, StreamResponse), ClientError>> {
        loop {
            if self.over && self.ready.is_empty() {
                return None;
            }
            if !self.ready.is_empty() {
                let event = self.ready.remove(0);
                let read = self.remote.event(&event);
                if read.is_err() {
                    self.over = true;
                    self.ready.clear();
                }
                return Some(read);
            }
            let quiet = Duration::from_millis(self.remote.settings.quiet_ms_max);
            let failed = match tokio::time::timeout(quiet, self.body.next()).await {
                Ok(None) => {
                    self.over = true;
                    continue;
                }
                Ok(Some(Ok(bytes))) => match self.reader.take(&bytes) {
                    Ok(events) => {
                        self.ready = events;
                        continue;
                    }
                    Err(_) => self.remote.wrong(format!("an event is larger than {} bytes", self.remote.settings.answer_bytes_max)),
                },
                Ok(Some(Err(err))) => err.into(),
                Err(_) => clawstead_world::HttpError::Timeout { url: self.remote.interface.url.clone(), ms: self.remote.settings.quiet_ms_max }.into(),
            };
            self.over = true;
            return Some(Err(failed));
        }
    }
}

fn line(method: &str, params: &Value) -> Line {
    let part = |name: &str| encoded(params.get(name).and_then(Value::as_str).unwrap_or_default());
    let (get, post) = (Method::GET, Method::POST);
    let tenant = params.get("tenant").and_then(Value::as_str).map(|tenant| format!("/{}", encoded(tenant))).unwrap_or_default();
    let (verb, path, taken): (Method, String, &'static [&'static str]) = match method {
        "SendStreamingMessage" => (post, "/message:stream".into(), &["tenant"]),
        "GetTask" => (get, format!("/tasks/{}", part("id")), &["id", "tenant"]),
        "ListTasks" => (get, "/tasks".into(), &["tenant"]),
        "CancelTask" => (post, format!("/tasks/{}:cancel", part("id")), &["id", "tenant"]),
        "SubscribeToTask" => (get, format!("/tasks/{}:subscribe", part("id")), &["id", "tenant"]),
        "CreateTaskPushNotificationConfig" => (post, format!("/tasks/{}/pushNotificationConfigs", part("taskId")), &["taskId", "tenant"]),
        "ListTaskPushNotificationConfigs" => (get, format!("/tasks/{}/pushNotificationConfigs", part("taskId")), &["taskId", "tenant"]),
        "GetTaskPushNotificationConfig" => (get, format!("/tasks/{}/pushNotificationConfigs/{}", part("taskId"), part("id")), &["taskId", "id", "tenant"]),
        "DeleteTaskPushNotificationConfig" => {
            (Method::DELETE, format!("/tasks/{}/pushNotificationConfigs/{}", part("taskId"), part("id")), &["taskId", "id", "tenant"])
        }
        "GetExtendedAgentCard" => (get, "/extendedAgentCard".into(), &["tenant"]),
        _ => (post, "/message:send".into(), &["tenant"]),
    };
    Line { verb, path: format!("{tenant}{path}"), taken }
}

fn query(fields: &Map<String, Value>) -> String {
    if fields.is_empty() {
        return String::new();
    }
    let mut out = url::form_urlencoded::Serializer::new(String::from("?"));
    for (name, value) in fields {
        out.append_pair(name, &value.as_str().map_or_else(|| value.to_string(), str::to_owned));
    }
    out.finish()
}

/// A word for a path.
fn encoded(word: &str) -> String {
    word.bytes().fold(String::new(), |mut out, byte| {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
        out
    })
}
