//! Hooks for agents of other gateways. The gateway that the hook came to checks token, mapping and what the hook may name,
//! and gives the wish over the link; the gateway that has the agent stores it as if the hook had come there. `ok` means
//! stored there; a link that is away is told at once, so that the platform sends the hook again.

use std::sync::Arc;

use ::http::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use clawstead_farm::link::Call;
use clawstead_terms::{AgentId, Failure, FailureCode, SessionKey, Unit};

use super::{
    Hooks,
    call::{Refusal, Turn, Wake},
    of,
};
use crate::farm::HOOK;

/// How long the other gateway may take to store it, ms.
const STORE_MS: u64 = 30_000;
/// How long it may take where the caller waits for the end of the turn, ms.
const TURN_MS: u64 = 3_600_000;

/// What is asked of the gateway that has the agent.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Passed {
    pub agent: AgentId,
    /// The run's id, the same for a repeat.
    pub id: String,
    pub session: Option<SessionKey>,
    pub wish: Wish,
}

/// One of the two kinds of hooks.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum Wish {
    Wake(Wake),
    Turn(Box<Turn>),
}

impl Hooks {
    /// The gateway of an agent that is not ours.
    pub(super) fn gateway_of(&self, agent: &AgentId) -> Option<String> {
        if self.config.load().agents.get(agent.as_str()).is_some() {
            return None;
        }
        self.chat.farm.get()?.elsewhere(&Unit::Agent(agent.clone()))
    }

    pub(super) async fn pass_on(&self, gateway: &str, passed: &Passed) -> Result<Value, Refusal> {
        let links = self.chat.farm.get().and_then(|farm| farm.links.as_ref()).ok_or_else(|| {
            Refusal(
                StatusCode::SERVICE_UNAVAILABLE,
                format!("agent {} lives at {gateway}, and this gateway has no link to it: set farm.peer at both gateways", passed.agent),
            )
        })?;
        let params = serde_json::to_value(passed).map_err(|err| of(&Failure::internal(err.to_string())))?;
        let waits = matches!(&passed.wish, Wish::Turn(turn) if turn.wait);
        let call = Call { deadline_ms: if waits { TURN_MS } else { STORE_MS }, ..Call::new(HOOK, params) };
        links.call(gateway, call).await.map_err(|failure| of(&failure))
    }

    /// Does what a hook of another gateway wants of an agent here.
    ///
    /// # Errors
    /// As the hook itself would be refused here.
    pub async fn passed_on(self: &Arc<Self>, params: Value) -> Result<Value, Failure> {
        let Passed { agent, id, session, wish } =
            serde_json::from_value(params).map_err(|err| Failure::invalid(format!("the hook that was passed on: {err}")))?;
        if session.as_ref().is_some_and(|session| session.agent() != agent) {
            return Err(Failure::invalid("the session of the hook belongs to another agent"));
        }
        let done = match wish {
            Wish::Wake(wake) => self.wake_here(&agent, session, &wake, id).await,
            Wish::Turn(turn) => self.turn_here(agent, session, *turn, id).await,
        };
        done.map_err(|Refusal(status, message)| match status {
            StatusCode::FORBIDDEN => Failure::new(FailureCode::Forbidden, message),
            StatusCode::TOO_MANY_REQUESTS => Failure::busy(message, 1_000),
            status if status.is_server_error() => Failure::unavailable(message, 1_000),
            _ => Failure::invalid(message),
        })
    }
}
