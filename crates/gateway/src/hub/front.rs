//! What other gateways ask of agents that programs registered here: before the gateway's own handler of letters.

use std::sync::Arc;

use async_trait::async_trait;
use serde_json::Value;

use clawstead_cluster::{
    envelope::{Envelope, Kind},
    letter::HandlerEnd,
    names::party_unit,
};
use clawstead_farm::mailroom::{self, Handled, Incoming, Outcome};
use clawstead_terms::{Address, AgentId, Envelope as Letter, EnvelopeKind, Failure, FailureCode, Origin, Part, Retry, RunId, TurnOptions, Unit};

use super::{Cell, asks::Way, host::Host, letters::GUARD};
use crate::farm;

/// See the module.
pub struct Front {
    /// The gateway's own handler.
    pub inner: Arc<dyn mailroom::Handler>,
    /// The hub.
    pub hub: Cell,
    /// The farm.
    pub farm: farm::Cell,
}

impl Front {
    /// The hub, when the letter is for one of its agents.
    fn guest(&self, envelope: &Envelope) -> Option<(&Host, AgentId)> {
        let Some(Unit::Agent(agent)) = party_unit(&envelope.target_agent) else { return None };
        let hub = self.hub.get()?;
        hub.holds(&agent).then_some((hub, agent))
    }

    fn is_external(&self, envelope: &Envelope) -> bool {
        let described = self.farm.get().and_then(|farm| farm.catalogue.describe(&envelope.source_agent, Some(&envelope.source_gateway)));
        described.is_some_and(|listed| listed.kind == clawstead_farm::catalogue::Kind::External)
    }
}

#[async_trait]
impl mailroom::Handler for Front {
    async fn handle(&self, envelope: &Envelope, incoming: Incoming) -> Handled {
        if let Some((hub, agent)) = self.guest(envelope) {
            return match incoming {
                Incoming::Letter(letter) => take(hub, envelope, *letter).await,
                Incoming::Plain => match plain(envelope, agent) {
                    Ok(letter) => take(hub, envelope, letter).await,
                    Err(failure) => failed(&failure),
                },
                Incoming::Call { method, .. } => {
                    let failure = Failure::new(
                        FailureCode::Forbidden,
                        format!("{method} cannot be asked of \"{agent}\": it belongs to a program and has no sessions here"),
                    );
                    Handled { end: HandlerEnd::Done, outcome: Some(Outcome::failed(failure)) }
                }
            };
        }
        match incoming {
            // What a program writes is information, at every gateway.
            Incoming::Letter(mut letter) if self.is_external(envelope) => {
                letter.options.extra_system_prompt = Some(GUARD.to_owned());
                self.inner.handle(envelope, Incoming::Letter(letter)).await
            }
            other => self.inner.handle(envelope, other).await,
        }
    }

    async fn knows(&self, envelope: &Envelope, incoming: &Incoming) -> bool {
        match self.guest(envelope) {
            Some((hub, _)) => hub.knows(&envelope.message_id).await,
            None => self.inner.knows(envelope, incoming).await,
        }
    }
}

async fn take(hub: &Host, envelope: &Envelope, letter: Letter) -> Handled {
    let asks = envelope.kind == Kind::Request;
    let done = async {
        let (key, _) = hub.take_from(letter, Way::Farm(&envelope.message_id)).await?;
        if asks { hub.end_of(&key).await.map(|row| row.outcome()) } else { Ok(None) }
    };
    match done.await {
        Ok(outcome) => Handled { end: HandlerEnd::Done, outcome },
        Err(failure) => failed(&failure),
    }
}

/// A letter of a program, or of another kind of gateway.
fn plain(envelope: &Envelope, agent: AgentId) -> Result<Letter, Failure> {
    let Some(Unit::Agent(from)) = party_unit(&envelope.source_agent) else { return Err(Failure::invalid("only agents write plain letters")) };
    let body = envelope.body.as_ref();
    let text = body.and_then(Value::as_str).or_else(|| ["text", "message", "body"].iter().find_map(|key| body?.get(*key)?.as_str()));
    let text = text.map_or_else(|| body.unwrap_or(&Value::Null).to_string(), str::to_owned);
    Ok(Letter {
        id: envelope.message_id.as_str().into(),
        run_id: RunId::from(envelope.message_id.as_str()),
        kind: if envelope.kind == Kind::Request { EnvelopeKind::Request } else { EnvelopeKind::Event },
        from: Origin::Agent { session: farm::main_of(&from), agent: from },
        to: Address { session: farm::main_of(&agent), agent },
        reply_to: None,
        cause: None,
        body: vec![Part::text(text)],
        options: TurnOptions::default(),
        path: Vec::new(),
        at: envelope.created_at,
        expires: Some(envelope.expires_at()),
        traceparent: envelope.traceparent.clone(),
    })
}

fn failed(failure: &Failure) -> Handled {
    let code = serde_json::json!(failure.code).as_str().unwrap_or("failed").to_lowercase();
    Handled { end: HandlerEnd::Failed { code, retryable: failure.retry != Retry::Never }, outcome: None }
}
