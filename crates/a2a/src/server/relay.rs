//! Calls for agents that live at another gateway of the same farm: carried there by the host, answered there by
//! [`A2a::answer`](super::A2a::answer), whoever let the caller in.
//!
//! What travels is the operation as both bindings and both versions of the protocol share it; the gateway that was called
//! keeps the words and shapes of its caller to itself.

use std::sync::Arc;

use futures_util::{StreamExt as _, stream, stream::BoxStream};
use serde::{Deserialize, Serialize};
use serde_json::{Value, value::RawValue};

use super::{
    call::{self, Answer},
    engine::{Caller, Engine, RETRY_MS},
    follow::Follower,
    host::Peer,
};
use crate::proto::{A2aError, ErrorKind};

/// An operation for an agent elsewhere.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RelayCall {
    /// The agent.
    pub agent: String,
    /// The caller's key, [`Peer::key`]. A peer's name means the same caller at every gateway of a farm.
    pub peer: String,
    /// The operation, by its name in version 1.0.
    pub method: String,
    /// Its parameters.
    pub params: Value,
    /// Extensions the caller asked for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub extensions: Vec<String>,
    /// The number of the last event its reader has seen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_event: Option<u64>,
}

/// One event of a stream, as its reader gets it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RelayEvent {
    /// Its number.
    pub seq: u64,
    /// The event.
    pub event: Box<RawValue>,
}

/// What came of it.
pub enum Relayed {
    /// A result.
    Json(Value),
    /// A stream; it ends with the task, when the owner ends it, or when the way there is lost.
    Stream(BoxStream<'static, RelayEvent>),
}

/// Carries an operation to the agent's gateway.
pub(super) async fn carry(engine: &Arc<Engine>, caller: &Caller, gateway: &str, method: &str, params: Value) -> Result<Answer, A2aError> {
    let permit = engine.permit()?;
    let call = RelayCall {
        agent: caller.agent.id.clone(),
        peer: caller.peer.key().to_owned(),
        method: method.to_owned(),
        params,
        extensions: caller.extensions.clone(),
        last_event: caller.last_event,
    };
    Ok(match engine.host.relay(gateway, call).await? {
        Relayed::Json(value) => Answer::Json(value),
        Relayed::Stream(events) => Answer::Stream(Box::new(Follower::relayed(events, permit))),
    })
}

/// Answers an operation that another gateway carried here. Who may call is decided here once more: a peer that this
/// gateway does not list is not served, whatever the other one says.
pub(super) async fn answer(engine: &Arc<Engine>, call: RelayCall) -> Result<Relayed, A2aError> {
    let peer = Peer::of_key(&call.peer);
    if !engine.settings.access.lists(&peer) {
        let words = format!("The gateway of {} does not know the peer {}; its operator adds it to a2a.peers there", call.agent, call.peer);
        return Err(A2aError::new(ErrorKind::Forbidden, words));
    }
    // Never carried on: two gateways that disagree about an owner would send it to and fro.
    let agent = engine.host.agent(&call.agent).filter(|agent| agent.elsewhere.is_none()).ok_or_else(|| A2aError {
        retry_after_ms: Some(RETRY_MS),
        ..A2aError::new(ErrorKind::Unavailable, format!("The agent {} is not at the gateway that was thought to have it; try again", call.agent))
    })?;
    let caller = Caller { agent, peer, extensions: call.extensions, last_event: call.last_event };
    Ok(match call::call(engine, &caller, &call.method, call.params).await? {
        Answer::Json(value) => Relayed::Json(value),
        Answer::Stream(follower) => {
            let events = stream::unfold(*follower, |mut follower| async move {
                loop {
                    let told = follower.next().await?;
                    // Every event was made of JSON.
                    if let Ok(event) = RawValue::from_string(told.json.to_string()) {
                        return Some((RelayEvent { seq: told.seq, event }, follower));
                    }
                }
            });
            Relayed::Stream(events.boxed())
        }
    })
}
