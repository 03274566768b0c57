//! Calls for agents at other gateways of the farm: carried over the link between the two, with the events of a stream on
//! the way back; and the other side, which answers them.

use std::sync::{Arc, OnceLock};

use async_trait::async_trait;
use futures_util::{StreamExt as _, stream};
use serde_json::{Value, json};

use clawstead_a2a::{
    proto::{A2aError, ErrorKind},
    server::{A2a, RelayCall, RelayEvent, Relayed},
};
use clawstead_farm::{
    Farm, Relay,
    link::{Call, EventSink, Progress},
};
use clawstead_terms::Failure;

/// Does an operation here for a caller there.
const CALL: &str = "a2a.call";
/// An event of a stream.
const EVENT: &str = "event";
/// How long an operation may take, streams included, ms: as long as a link allows.
const CALL_MS: u64 = clawstead_farm::link::CALL_DEADLINE_MAX_MS;
/// When to come again after the way was lost, ms.
const RETRY_MS: u64 = 1_000;

/// The server, once it is there; empty for ever where A2A is off.
pub type Cell = Arc<OnceLock<A2a>>;

fn lost(gateway: &str, why: &str) -> A2aError {
    let words = format!("The gateway {gateway} cannot be reached: {why}. The same message may be sent again");
    A2aError { retry_after_ms: Some(RETRY_MS), ..A2aError::new(ErrorKind::Unavailable, words) }
}

/// Carries an operation to the gateway that has the agent.
pub(super) async fn carry(farm: &Farm, gateway: &str, call: &RelayCall) -> Result<Relayed, A2aError> {
    let Some(links) = &farm.links else { return Err(lost(gateway, "this gateway has no link to it (farm.peer)")) };
    let params = serde_json::to_value(call).map_err(|err| A2aError::new(ErrorKind::Internal, err.to_string()))?;
    let asked = Call { deadline_ms: CALL_MS, ..Call::new(CALL, params) };
    let mut running = links.open(gateway, asked).await.map_err(|failure| lost(gateway, &failure.message))?;
    let first = match running.next().await {
        Some(Progress::Answer(Ok(value))) => return answered(value),
        Some(Progress::Answer(Err(failure))) => return Err(failure.into()),
        Some(Progress::Event(event)) => event,
        None => return Err(lost(gateway, "the link was lost")),
    };
    let read = |event: clawstead_farm::link::Event| serde_json::from_value::<RelayEvent>(event.payload).ok();
    let rest = stream::unfold(running, move |mut running| async move {
        loop {
            match running.next().await? {
                Progress::Event(event) if event.topic == EVENT => {
                    if let Some(event) = read(event) {
                        return Some((event, running));
                    }
                }
                Progress::Event(_) => {}
                // The end of the task, or of the way: who reads on comes back with SubscribeToTask.
                Progress::Answer(_) => return None,
            }
        }
    });
    Ok(Relayed::Stream(stream::iter(read(first)).chain(rest).boxed()))
}

/// An answer that is no stream: a result, or the protocol's own error.
fn answered(value: Value) -> Result<Relayed, A2aError> {
    match value {
        Value::Object(mut map) if map.contains_key("result") => Ok(Relayed::Json(map.remove("result").unwrap_or_default())),
        Value::Object(map) if map.contains_key("error") => Err(A2aError::read(&map["error"])),
        // A stream that ended before its first event.
        _ => Ok(Relayed::Stream(stream::empty().boxed())),
    }
}

/// Answers what gateways of the farm ask: A2A here, the rest by the gateway's own desk.
pub struct Front {
    /// The desk.
    pub inner: Arc<dyn Relay>,
    /// The server.
    pub a2a: Cell,
}

#[async_trait]
impl Relay for Front {
    async fn call(&self, peer: &str, call: Call, events: EventSink) -> Result<Value, Failure> {
        if call.method != CALL {
            return self.inner.call(peer, call, events).await;
        }
        let Some(a2a) = self.a2a.get() else {
            return Err(Failure::unavailable("this gateway does not answer over A2A", 5_000).with_hint("set a2a.enabled there"));
        };
        let asked: RelayCall = serde_json::from_value(call.params).map_err(|err| Failure::invalid(err.to_string()))?;
        tracing::debug!(gateway = peer, caller = asked.peer, agent = asked.agent, method = asked.method, "an A2A call of another gateway's caller");
        match a2a.answer(asked).await {
            Ok(Relayed::Json(value)) => Ok(json!({ "result": value })),
            Err(err) => Ok(json!({ "error": err.json_rpc() })),
            Ok(Relayed::Stream(mut told)) => {
                loop {
                    let next = tokio::select! {
                        biased;
                        // Its reader has gone; the task goes on.
                        () = events.cancelled() => break,
                        next = told.next() => next,
                    };
                    let Some(event) = next else { break };
                    events.send(EVENT, serde_json::to_value(&event).map_err(|err| Failure::internal(err.to_string()))?).await?;
                }
                Ok(Value::Null)
            }
        }
    }
}
