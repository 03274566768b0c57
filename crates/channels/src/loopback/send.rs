use std::sync::Arc;

use async_trait::async_trait;
use http::{HeaderValue, Method, StatusCode, header};
use serde_json::{Value, json};

use clawstead_terms::{EffectClass, Failure, Outcome, Part};
use clawstead_world::{HttpError, World};

use super::config::Config;
use crate::channel::{Outbound, Outlet, Sent};

/// Time limit of one send.
const SEND_TIMEOUT_MS: u64 = 15_000;
/// Largest answer.
const BODY_BYTES_MAX: usize = 64 << 10;

pub struct Sender {
    pub world: World,
    pub config: Arc<Config>,
}

#[async_trait]
impl Outlet for Sender {
    fn class(&self) -> EffectClass {
        EffectClass::Idempotent
    }

    async fn send(&self, message: &Outbound) -> Sent {
        let text: Vec<&str> = message.body.iter().filter_map(|part| if let Part::Text { text } = part { Some(text.as_str()) } else { None }).collect();
        let target = &message.target;
        let body = json!({"nonce": message.effect_id, "to": target.to, "threadId": target.thread_id, "replyTo": target.reply_to, "text": text.join("\n")});
        let mut request = match self.config.request(Method::POST, "/send") {
            Ok(request) => request,
            Err(failure) => return Sent { outcome: Outcome::Failed(failure), message_id: None },
        };
        request.headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        request.body = Some(body.to_string().into());
        request.head_timeout_ms = SEND_TIMEOUT_MS;
        match self.world.http.send(request).await {
            Ok(response) => {
                let status = response.status;
                let read = response.read(BODY_BYTES_MAX).await;
                sort(&self.config.url, status, read.map(|(body, _)| body))
            }
            // No connection: the platform never saw it.
            Err(err @ (HttpError::Connect { .. } | HttpError::Blocked { .. } | HttpError::Setup(_))) => {
                Sent { outcome: Outcome::Failed(Failure::unavailable(err.to_string(), 2_000)), message_id: None }
            }
            // It may have arrived.
            Err(HttpError::Timeout { .. } | HttpError::Body { .. }) => Sent { outcome: Outcome::Unknown, message_id: None },
        }
    }
}

fn sort(url: &str, status: StatusCode, body: Result<Vec<u8>, HttpError>) -> Sent {
    if status.is_success() {
        let id = body
            .ok()
            .and_then(|bytes| serde_json::from_slice::<Value>(&bytes).ok())
            .and_then(|v| v.get("messageId").and_then(Value::as_str).map(str::to_owned));
        return Sent { outcome: Outcome::Done, message_id: id };
    }
    let failure = if status == StatusCode::TOO_MANY_REQUESTS || status.is_server_error() {
        Failure::unavailable(format!("{url} answered {status}"), 2_000)
    } else {
        Failure::invalid(format!("{url} refused the message with {status}"))
    };
    Sent { outcome: Outcome::Failed(failure), message_id: None }
}
