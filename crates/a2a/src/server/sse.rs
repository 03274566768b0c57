use std::{convert::Infallible, time::Duration};

use axum::response::{
    IntoResponse, Response,
    sse::{Event, KeepAlive, Sse},
};
use futures_util::stream;
use http::HeaderValue;
use serde_json::Value;

use super::follow::Follower;
use crate::proto::legacy;

/// How often a stream without news says that it is alive, seconds.
const KEEP_ALIVE_S: u64 = 15;

/// How events are wrapped.
pub(crate) enum Wrap {
    /// The event itself.
    Rest,
    /// The result of a call of this id.
    JsonRpc {
        id: Value,
        /// The method, when the reader speaks 0.3.
        legacy: Option<&'static str>,
    },
}

impl Wrap {
    fn put(&self, json: &str) -> String {
        match self {
            Self::Rest => json.to_owned(),
            Self::JsonRpc { id, legacy: None } => format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{json}}}"#),
            Self::JsonRpc { id, legacy: Some(method) } => {
                let value = serde_json::from_str(json).unwrap_or_default();
                format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{}}}"#, legacy::result(method, value))
            }
        }
    }
}

/// A stream of events. Each carries its number, which a reader names in `Last-Event-ID` when it comes back.
pub(crate) fn response(follower: Follower, wrap: Wrap) -> Response {
    let events = stream::unfold((follower, wrap), |(mut follower, wrap)| async move {
        let entry = follower.next().await?;
        let event = Event::default().id(entry.seq.to_string()).data(wrap.put(&entry.json));
        Some((Ok::<_, Infallible>(event), (follower, wrap)))
    });
    let mut response = Sse::new(events).keep_alive(KeepAlive::new().interval(Duration::from_secs(KEEP_ALIVE_S))).into_response();
    // Proxies must not collect events.
    response.headers_mut().insert("x-accel-buffering", HeaderValue::from_static("no"));
    response
}
