//! Does what letters from other gateways ask: letters go through the door to the lanes, questions to the methods.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use serde_json::{Value, json};

use clawstead_agent::{Lanes, RunRow};
use clawstead_cluster::{
    envelope::{Envelope, Kind},
    letter::HandlerEnd,
    names::party_unit,
};
use clawstead_farm::mailroom::{self, Handled, Incoming, Outcome};
use clawstead_terms::{Address, Envelope as Letter, EnvelopeKind, Failure, FailureCode, Origin, Part, Retry, RunId, RunStatus, TurnOptions, Unit};
use clawstead_tools::ToolCaller;
use clawstead_world::World;

use super::main_of;
use crate::{observe, post_office::PostOffice, tool_calls::ToolCalls};

/// How long one wait for a run's end lasts before it is renewed.
const WAIT_STEP: Duration = Duration::from_secs(600);
/// What an agent elsewhere may ask of the sessions of ours, where the policy lets it.
const QUESTIONS: [&str; 6] = ["sessions.list", "sessions.resolve", "sessions.describe", "sessions.preview", "sessions.get", "chat.history"];

/// See the module.
pub struct Handler {
    /// The door.
    pub post: Arc<PostOffice>,
    /// The turns.
    pub lanes: Lanes,
    /// The methods.
    pub calls: Arc<ToolCalls>,
    /// Chance.
    pub world: World,
}

#[async_trait]
impl mailroom::Handler for Handler {
    async fn handle(&self, envelope: &Envelope, incoming: Incoming) -> Handled {
        match incoming {
            Incoming::Letter(letter) => self.letter(envelope, *letter).await,
            Incoming::Call { method, params } => self.question(envelope, &method, params).await,
            Incoming::Plain => match self.plain(envelope) {
                Ok(letter) => self.letter(envelope, letter).await,
                Err(failure) => failed(&failure),
            },
        }
    }

    async fn knows(&self, envelope: &Envelope, incoming: &Incoming) -> bool {
        let run = match incoming {
            Incoming::Letter(letter) => letter.run_id.clone(),
            Incoming::Plain => RunId::from(envelope.message_id.as_str()),
            Incoming::Call { .. } => return false,
        };
        matches!(self.lanes.report(&run).await, Ok(Some(_)))
    }
}

impl Handler {
    async fn letter(&self, envelope: &Envelope, mut letter: Letter) -> Handled {
        let span = observe::received(&self.world, envelope);
        letter.traceparent = span.traceparent();
        let (run, wants_answer) = (letter.run_id.clone(), envelope.kind == Kind::Request);
        if let Err(failure) = self.post.deliver_from_farm(letter).await {
            return failed(&failure);
        }
        if !wants_answer {
            return Handled { end: HandlerEnd::Done, outcome: None };
        }
        loop {
            match self.lanes.wait(&run, WAIT_STEP).await {
                Ok(Some(row)) => return Handled { end: HandlerEnd::Done, outcome: Some(outcome_of(&row)) },
                Ok(None) => {}
                Err(failure) if failure.retry == Retry::Never => return failed(&failure),
                Err(failure) => {
                    tracing::debug!(%run, err = %failure, "the end of a run cannot be read; it is tried again");
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            }
        }
    }

    async fn question(&self, envelope: &Envelope, method: &str, params: Value) -> Handled {
        let answer = match self.may_ask(envelope, method, params) {
            Ok((caller, params)) => self.calls.call_here(&caller, method, params).await,
            Err(failure) => Err(failure),
        };
        let outcome = match answer {
            Ok(value) => Outcome { status: RunStatus::Ok, text: None, failure: None, abort_reason: None, value: Some(value) },
            Err(failure) => Outcome::failed(failure),
        };
        Handled { end: HandlerEnd::Done, outcome: Some(outcome) }
    }

    /// Who allowed the question (the policy) allowed it about this agent's sessions, and no others.
    fn may_ask(&self, envelope: &Envelope, method: &str, mut params: Value) -> Result<(ToolCaller, Value), Failure> {
        let Some(Unit::Agent(agent)) = party_unit(&envelope.target_agent) else {
            return Err(Failure::invalid("a channel account has no sessions"));
        };
        if !QUESTIONS.contains(&method) {
            return Err(Failure::new(FailureCode::Forbidden, format!("{method} cannot be asked from another gateway")));
        }
        if super::agent_named(&params).is_some_and(|named| named != agent) {
            return Err(Failure::new(FailureCode::Forbidden, format!("the question is about another agent than {agent}")));
        }
        if method == "sessions.list"
            && let Some(params) = params.as_object_mut()
        {
            params.insert("agentId".into(), json!(agent));
        }
        Ok((ToolCaller { session: main_of(&agent), agent, run: RunId::from(envelope.message_id.as_str()) }, params))
    }

    /// A letter of a program, or of another kind of gateway: its text goes to the agent's main session.
    fn plain(&self, envelope: &Envelope) -> Result<Letter, Failure> {
        let Some(Unit::Agent(agent)) = party_unit(&envelope.target_agent) else {
            return Err(Failure::invalid("a channel account takes letters of its agent only"));
        };
        let Some(Unit::Agent(from)) = party_unit(&envelope.source_agent) else {
            return Err(Failure::invalid("only agents write plain letters"));
        };
        let body = envelope.body.as_ref();
        let text = body.and_then(Value::as_str).or_else(|| ["text", "message", "body"].iter().find_map(|key| body?.get(*key)?.as_str()));
        let text = text.map_or_else(|| body.unwrap_or(&Value::Null).to_string(), str::to_owned);
        let session = match &envelope.session_key {
            Some(key) => clawstead_terms::SessionKey::resolve(key, &agent).map_err(|err| Failure::invalid(err.to_string()))?,
            None => main_of(&agent),
        };
        if session.agent() != agent {
            return Err(Failure::invalid("the session is another agent's"));
        }
        Ok(Letter {
            id: envelope.message_id.as_str().into(),
            run_id: RunId::from(envelope.message_id.as_str()),
            kind: if envelope.kind == Kind::Request { EnvelopeKind::Request } else { EnvelopeKind::Event },
            from: Origin::Agent { session: main_of(&from), agent: from },
            to: Address { agent, session },
            reply_to: None,
            cause: None,
            body: vec![Part::text(text)],
            options: TurnOptions::default(),
            path: Vec::new(),
            at: self.world.clock.now(),
            expires: Some(envelope.expires_at()),
            traceparent: envelope.traceparent.clone(),
        })
    }
}

fn failed(failure: &Failure) -> Handled {
    let code = json!(failure.code).as_str().unwrap_or("failed").to_lowercase();
    Handled { end: HandlerEnd::Failed { code, retryable: failure.retry != Retry::Never }, outcome: None }
}

/// What became of a run, for whoever asked for it elsewhere.
fn outcome_of(row: &RunRow) -> Outcome {
    Outcome { status: row.status, text: row.text.clone(), failure: row.failure.clone(), abort_reason: row.abort_reason.clone(), value: None }
}
