//! Letters as they are written: sealed, given their first row.

use clawstead_cluster::{
    envelope::{Envelope, Hop, Kind, LetterError, Outbound, Priority, TTL_MAX_MS, write_letter},
    letter::{Event, Replay, replay},
    names::{party_unit, unit_party},
};
use clawstead_state::{Op, Table};
use clawstead_terms::{Envelope as Letter, Failure, FailureCode, Origin, Unit};
use serde_json::Value;
use tokio::sync::oneshot;

use super::{
    CALL_CONTENT_TYPE, DeadRow, Outcome, READ_CAPABILITY, REPLY_CAPABILITY, RESULT_CONTENT_TYPE, RemoteRun,
    bodies::{Signed, sent_key},
    clerk::{Clerk, Post, Posted, Question, Then},
    rows::{asked_key, run_key, tell},
    untravelled,
};

impl Clerk {
    /// Writes a letter down, with its first attempt where its lane is free.
    pub(super) async fn post(&mut self, post: Post, reply: oneshot::Sender<Result<Posted, Failure>>) {
        let sealed = match post {
            Post::Letter(letter) => self.seal(&letter),
            Post::Question(question) => self.ask(&question),
        };
        let (unit, signed, run) = match sealed {
            Ok(sealed) => sealed,
            Err(failure) => return drop(reply.send(Err(failure))),
        };
        let envelope = &signed.envelope;
        let key = asked_key(&run, &envelope.target_agent);
        match self.parts.keeper.get::<String>(&unit, Table::Meta, &key).await {
            Ok(None) => {}
            Ok(Some(_)) => return drop(reply.send(Ok(Posted::Known))),
            Err(failure) => return drop(reply.send(Err(failure))),
        }
        if let Err(full) = self.desk.room_for(&envelope.source_agent) {
            return drop(reply.send(Err(Failure::busy(full.to_string(), 1_000))));
        }
        if let Err(full) = self.room_for_body(&unit, &signed) {
            return drop(reply.send(Err(full)));
        }
        let remote = RemoteRun {
            run_id: run.clone(),
            message_id: envelope.message_id.clone(),
            agent: envelope.target_agent.clone(),
            session: envelope.session_key.clone(),
            at: envelope.created_at,
            ended_at: None,
            outcome: None,
        };
        let (Ok(json), Ok(index)) = (serde_json::to_string(&remote), serde_json::to_string(&remote.message_id)) else {
            return drop(reply.send(Err(Failure::internal("a run has no JSON form"))));
        };
        let ops = vec![Op::Insert(Table::Meta, key, index), Op::Put(Table::Meta, run_key(&remote.message_id), json)];
        self.enter(unit, signed, Some(run), ops, vec![Then::Posted(reply)]);
    }

    fn seal(&self, letter: &Letter) -> Result<(Unit, Signed, String), Failure> {
        let unit = match &letter.from {
            Origin::Agent { agent, .. } => Unit::Agent(agent.clone()),
            Origin::Channel { channel, account, .. } => Unit::Account(channel.clone(), account.clone()),
            _ => return Err(untravelled(&LetterError::Origin("a client"))),
        };
        let epoch = self.epoch(&unit).ok_or_else(|| Failure::new(FailureCode::Fenced, format!("{unit} is not held by this gateway")))?;
        let target = self.target_gateway(&Unit::Agent(letter.to.agent.clone()));
        let out = Outbound {
            farm_id: &self.parts.farm,
            source: &unit,
            epoch,
            target_gateway: target.as_deref(),
            correlation_id: None,
            ttl_default_ms: self.parts.rules.load().letter_ttl_ms,
            priority: Priority::Normal,
        };
        let envelope = write_letter(letter, &out, &self.parts.gateway).map_err(|err| untravelled(&err))?;
        Ok((unit, self.seal_up(envelope)?, letter.run_id.as_str().to_owned()))
    }

    fn ask(&self, question: &Question) -> Result<(Unit, Signed, String), Failure> {
        let id = self.parts.world.rng.uuid_v7(self.parts.world.clock.now());
        let made = Made {
            id,
            kind: Kind::Request,
            from: &question.from,
            to: &question.to,
            capability: READ_CAPABILITY,
            content_type: CALL_CONTENT_TYPE,
            body: question.body.clone(),
            idempotency_key: question.run.clone(),
            cause: None,
            ttl_ms: question.ttl_ms,
            priority: Priority::High,
            traceparent: None,
        };
        Ok((question.from.clone(), self.compose(made)?, question.run.clone()))
    }

    /// What became of a request, as a letter to whoever asked.
    pub(super) fn result_of(&self, letter: &Envelope, outcome: &Outcome) -> Result<(Unit, Signed), Failure> {
        let to = party_unit(&letter.source_agent).ok_or_else(|| Failure::internal("the asker has no box"))?;
        let from = party_unit(&letter.target_agent).ok_or_else(|| Failure::internal("the target has no box"))?;
        let made = Made {
            id: self.parts.world.rng.uuid_v7(self.parts.world.clock.now()),
            kind: Kind::Reply,
            from: &from,
            to: &to,
            capability: REPLY_CAPABILITY,
            content_type: RESULT_CONTENT_TYPE,
            body: serde_json::to_value(outcome).map_err(|err| Failure::internal(err.to_string()))?,
            idempotency_key: format!("result/{}", letter.message_id),
            cause: Some(letter.message_id.clone()),
            ttl_ms: TTL_MAX_MS,
            priority: letter.priority(),
            traceparent: letter.traceparent.clone(),
        };
        Ok((from.clone(), self.compose(made)?))
    }

    fn compose(&self, made: Made<'_>) -> Result<Signed, Failure> {
        let epoch = self.epoch(made.from).ok_or_else(|| Failure::new(FailureCode::Fenced, format!("{} is not held by this gateway", made.from)))?;
        let party = |unit: &Unit| unit_party(unit).ok_or_else(|| Failure::internal("the gateway itself writes no letters"));
        let envelope = Envelope {
            schema_version: String::new(),
            farm_id: self.parts.farm.clone(),
            correlation_id: made.cause.clone().unwrap_or_else(|| made.id.clone()),
            causation_id: made.cause,
            idempotency_key: Some(made.idempotency_key),
            message_id: made.id,
            kind: made.kind,
            source_gateway: self.parts.gateway.clone(),
            source_agent: party(made.from)?,
            source_epoch: epoch,
            target_agent: party(made.to)?,
            capability: made.capability.into(),
            created_at: self.parts.world.clock.now(),
            ttl: Some(made.ttl_ms.clamp(1, TTL_MAX_MS)),
            max_hops: None,
            no_rebroadcast: (made.kind == Kind::Reply).then_some(true),
            priority: Some(made.priority),
            session_key: None,
            reply_to: None,
            content_type: Some(made.content_type.into()),
            body: Some(made.body),
            body_ref: None,
            traceparent: made.traceparent,
            hop: Hop {
                hops: vec![self.parts.gateway.clone()],
                sender_gateway: self.parts.gateway.clone(),
                sender_epoch: epoch,
                target_gateway: self.target_gateway(made.to),
                ..Hop::default()
            },
            sig: None,
            hop_sig: None,
            extra: serde_json::Map::default(),
        };
        self.seal_up(envelope)
    }

    pub(super) fn replay(&mut self, unit: Unit, dead: DeadRow, body: Option<String>, reply: oneshot::Sender<Result<String, Failure>>) {
        let now = self.parts.now().wall;
        let id = self.parts.world.rng.uuid_v7(now);
        let Some(epoch) = self.epoch(&unit) else {
            return drop(reply.send(Err(Failure::new(FailureCode::Fenced, format!("{unit} is not held by this gateway")))));
        };
        let target = party_unit(&dead.letter.target_agent).and_then(|unit| self.target_gateway(&unit));
        let made = replay(&dead.letter, Replay { message_id: id.clone(), at: now, epoch, target_gateway: target.as_deref() }, &self.parts.key.load());
        let envelope = match made {
            Ok(envelope) => envelope,
            Err(refusal) => return drop(reply.send(Err(Failure::invalid(refusal.to_string())))),
        };
        let mut marked = dead;
        marked.replayed_as = Some(id.clone());
        tell(&mut marked.history, [Event::Replayed], now);
        let told = Then::Tell(Box::new(marked.head.clone()), Event::Replayed);
        let Ok(json) = serde_json::to_string(&marked) else { return drop(reply.send(Err(Failure::internal("a dead letter has no JSON form")))) };
        let mut ops = vec![Op::Put(Table::DeadLetters, marked.head.message_id.clone(), json)];
        // The body goes with the letter that is sent now.
        ops.extend(sent_key(&marked.letter).map(|key| Op::Delete(Table::Outbox, key)));
        self.enter(unit, Signed { envelope, body }, None, ops, vec![told, Then::Replayed(reply, id)]);
    }
}

struct Made<'a> {
    id: String,
    kind: Kind,
    from: &'a Unit,
    to: &'a Unit,
    capability: &'static str,
    content_type: &'static str,
    body: Value,
    idempotency_key: String,
    cause: Option<String>,
    ttl_ms: u64,
    priority: Priority,
    traceparent: Option<String>,
}
