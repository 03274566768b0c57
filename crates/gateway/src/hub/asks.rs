//! Letters for agents that programs registered here, from agents of gateways, and the answers they owe.
//!
//! Such a letter lies in the agent's inbox like any other. A request is remembered until its answer is there: the program
//! answers with a letter of kind `reply` that names it in `in_reply_to`. Until then whoever asked waits, at this gateway
//! (`agent.wait`) or at another one (the mailroom's handler, [`Front`](super::front::Front)).

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::sync::watch;

use clawstead_farm::mailroom::{Outcome, RemoteRun};
use clawstead_hub::host::{LetterKind, LetterState, NewLetter, Priority, Sent, Was};
use clawstead_state::{Batch, Scan, Table};
use clawstead_terms::{
    AgentId, Envelope as Letter, EnvelopeId, EnvelopeKind, Failure, FailureCode, Millis, Origin, Part, Retry, RunId, RunStatus, SessionKey, TurnOptions, Unit,
};
use clawstead_world::{Accepted, Post as _, TaskKind};

use super::{
    follow::ANSWER_TTL_MS,
    host::Host,
    letters::INBOX_MAX,
    rows::{DoneRow, LetterRow, done_key, hash, in_key},
};
use crate::{keeper, letters};

/// Before the key of a request that is owed an answer by a program.
pub(super) const ASK: &str = "hub/ask/";
/// Before the key that leads from a letter to its request.
const ASKED: &str = "hub/asked/";
/// How long a letter of an agent waits to be taken when it names no time, ms.
const TTL_MS: i64 = 300_000;
/// Pause before what the store refused is tried again.
const AGAIN: Duration = Duration::from_secs(2);

/// A request to an agent that a program registered here.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AskRow {
    /// The letter in the inbox.
    pub id: EnvelopeId,
    /// The run as the asker knows it.
    pub run: String,
    /// Who asked.
    pub from: AgentId,
    /// Its session.
    pub session: SessionKey,
    /// Who is asked.
    pub to: AgentId,
    /// True when the asker lives at another gateway.
    pub elsewhere: bool,
    /// When it was asked.
    pub at: Millis,
    /// The answer, or why there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end: Option<AskEnd>,
}

/// How a request ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AskEnd {
    /// When.
    pub at: Millis,
    /// The letter that answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub letter: Option<EnvelopeId>,
    /// What the answer says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// Why there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<Failure>,
}

impl AskRow {
    /// What whoever asked is told; none while it is open.
    pub fn outcome(&self) -> Option<Outcome> {
        let end = self.end.as_ref()?;
        Some(match &end.failure {
            Some(failure) => Outcome::failed(failure.clone()),
            None => Outcome { status: RunStatus::Ok, text: end.text.clone(), failure: None, abort_reason: None, value: None },
        })
    }
}

/// Who waits for which request here.
#[derive(Default)]
pub(super) struct Waiters {
    changed: watch::Sender<u64>,
    waiting: Mutex<BTreeMap<String, usize>>,
}

impl Waiters {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, usize>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Something about a letter or a request is different now.
    pub(super) fn tell(&self) {
        self.changed.send_modify(|count| *count += 1);
    }
}

struct Waits<'a>(&'a Waiters, String);

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        let mut waiting = self.0.lock();
        if let Some(count) = waiting.get_mut(&self.1) {
            *count -= 1;
            if *count == 0 {
                waiting.remove(&self.1);
            }
        }
    }
}

/// The key of a request by the run of an agent of this gateway.
fn key_of_run(run: &RunId) -> String {
    format!("{ASK}{}", hash(&["run", run.as_str()]))
}

/// The key of a request by the letter between gateways that carries it.
fn key_of_letter(message_id: &str) -> String {
    format!("{ASK}{}", hash(&["letter", message_id]))
}

/// Where a letter comes from.
pub(super) enum Way<'a> {
    /// An agent of this gateway.
    Here,
    /// Another gateway: the letter between the two.
    Farm(&'a str),
}

impl Host {
    /// True for an agent that a program registered here.
    #[must_use]
    pub fn holds(&self, agent: &AgentId) -> bool {
        self.keeper.claims.get(&Unit::Agent(agent.clone())).is_some() && self.is_guest(agent)
    }

    /// A letter of an agent of this gateway to an agent of a program here.
    ///
    /// # Errors
    /// `Busy` when the inbox is full, `InvalidRequest` when there is nothing to read in it.
    pub async fn take(&self, letter: Letter) -> Result<Accepted, Failure> {
        let run = letter.run_id.clone();
        let (_, was) = self.take_from(letter, Way::Here).await?;
        if was == Was::New {
            return Ok(Accepted::Stored);
        }
        let row: Option<AskRow> = self.keeper.get(&Unit::Global, Table::Meta, &key_of_run(&run)).await?;
        Ok(Accepted::Duplicate(row.and_then(|row| row.outcome()).map_or(RunStatus::Running, |end| end.status)))
    }

    /// Stores a letter once and answers with the key of its request.
    pub(super) async fn take_from(&self, letter: Letter, way: Way<'_>) -> Result<(String, Was), Failure> {
        let Origin::Agent { agent: from, session } = &letter.from else {
            return Err(Failure::new(FailureCode::Forbidden, format!("agent \"{}\" belongs to a program; only agents write to it", letter.to.agent)));
        };
        if letter.to.session.is_subagent() {
            return Err(Failure::new(
                FailureCode::Forbidden,
                format!("agent \"{}\" belongs to a program and has no sub-agents; use sessions_send", letter.to.agent),
            ));
        }
        let texts: Vec<&str> = letter.body.iter().filter_map(|part| if let Part::Text { text } = part { Some(text.as_str()) } else { None }).collect();
        if texts.is_empty() {
            return Err(Failure::invalid(format!("a letter to agent \"{}\" needs text: pictures do not travel to programs", letter.to.agent)));
        }
        let body = Value::String(texts.join("\n\n"));
        let asks = letter.kind == EnvelopeKind::Request;
        let (key, id, elsewhere) = match way {
            Way::Here => (key_of_run(&letter.run_id), letter.id.clone(), false),
            Way::Farm(message_id) => (key_of_letter(message_id), EnvelopeId::from(message_id), true),
        };
        let turn = self.turn.lock().await;
        let there = match asks {
            true => self.keeper.get::<AskRow>(&Unit::Global, Table::Meta, &key).await?.is_some(),
            false => self.is_there(&letter.to.agent, &id).await?,
        };
        if there {
            return Ok((key, Was::Known));
        }
        let now = self.now();
        if self.inbox(&letter.to.agent, INBOX_MAX).await?.len() >= INBOX_MAX {
            return Err(Failure::busy(format!("the inbox of \"{}\" is full ({INBOX_MAX} letters)", letter.to.agent), 1_000));
        }
        let row = LetterRow {
            id: id.clone(),
            from: from.clone(),
            to: letter.to.agent.clone(),
            kind: if asks { LetterKind::Request } else { LetterKind::Event },
            body,
            in_reply_to: None,
            priority: Priority::Normal,
            sent: now,
            ttl_ms: letter.expires.map_or(TTL_MS, |at| at.since(now).max(1)),
            loan: None,
            times: 0,
        };
        let mut batch = Batch::new(Unit::Global).put_json(Table::Inbox, in_key(&row.to, &id), &row).map_err(keeper::sort)?;
        if asks {
            let ask = AskRow {
                id: id.clone(),
                run: letter.run_id.to_string(),
                from: from.clone(),
                session: session.clone(),
                to: row.to,
                elsewhere,
                at: now,
                end: None,
            };
            batch = batch.put_json(Table::Meta, key.clone(), &ask).map_err(keeper::sort)?;
            batch = batch.put_json(Table::Meta, format!("{ASKED}{id}"), &key).map_err(keeper::sort)?;
        }
        self.write(batch).await?;
        drop(turn);
        if asks {
            self.watch_over(key.clone());
        }
        Ok((key, Was::New))
    }

    async fn is_there(&self, agent: &AgentId, id: &EnvelopeId) -> Result<bool, Failure> {
        let open: Option<LetterRow> = self.keeper.get(&Unit::Global, Table::Inbox, &in_key(agent, id)).await?;
        let done: Option<DoneRow> = self.keeper.get(&Unit::Global, Table::Inbox, &done_key(agent, id)).await?;
        Ok(open.is_some() || done.is_some())
    }

    /// True when the letter between gateways was taken before.
    pub(super) async fn knows(&self, message_id: &str) -> bool {
        matches!(self.keeper.get::<AskRow>(&Unit::Global, Table::Meta, &key_of_letter(message_id)).await, Ok(Some(_)))
    }

    /// What is known of a run that an agent of this gateway asked a program's agent for; waits for its end, at most
    /// `limit`. None when nobody asked for it here.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn wait(&self, run: &RunId, limit: Duration) -> Result<Option<RemoteRun>, Failure> {
        let key = key_of_run(run);
        let Some(row) = self.keeper.get::<AskRow>(&Unit::Global, Table::Meta, &key).await? else { return Ok(None) };
        let ended = match tokio::time::timeout(limit, self.end_of(&key)).await {
            Ok(ended) => ended?,
            Err(_) => row,
        };
        let outcome = ended.outcome();
        Ok(Some(RemoteRun {
            run_id: ended.run,
            message_id: ended.id.to_string(),
            agent: ended.to.to_string(),
            session: None,
            at: ended.at,
            ended_at: ended.end.as_ref().map(|end| end.at),
            outcome,
        }))
    }

    /// Waits until a request has ended.
    pub(super) async fn end_of(&self, key: &str) -> Result<AskRow, Failure> {
        let mut changed = self.waiters.changed.subscribe();
        *self.waiters.lock().entry(key.to_owned()).or_default() += 1;
        let _waits = Waits(&self.waiters, key.to_owned());
        loop {
            changed.borrow_and_update();
            match self.keeper.get::<AskRow>(&Unit::Global, Table::Meta, key).await? {
                Some(row) if row.end.is_some() => return Ok(row),
                Some(_) => {}
                None => return Err(Failure::not_found("the request is not known any more")),
            }
            if changed.changed().await.is_err() {
                return Err(Failure::unavailable("the gateway stops", 1_000));
            }
        }
    }

    /// A letter of kind `reply`: ends the request it answers. None when it answers none of these.
    pub(super) async fn reply(&self, letter: &NewLetter) -> Result<Option<Sent>, Failure> {
        let Some(asked) = letter.in_reply_to.as_ref().filter(|_| letter.kind == LetterKind::Reply) else { return Ok(None) };
        let Some(key) = self.keeper.get::<String>(&Unit::Global, Table::Meta, &format!("{ASKED}{asked}")).await? else { return Ok(None) };
        let turn = self.turn.lock().await;
        let row: Option<AskRow> = self.keeper.get(&Unit::Global, Table::Meta, &key).await?;
        let Some(row) = row.filter(|row| row.to == letter.from && row.from == letter.to) else { return Ok(None) };
        let text = letter.body.as_str().map_or_else(|| letter.body.to_string(), str::to_owned);
        if let Some(end) = &row.end {
            return match (&end.letter, &end.failure) {
                (Some(id), _) if end.text.as_deref() == Some(text.as_str()) => {
                    Ok(Some(Sent { id: id.clone(), state: LetterState::Delivered, was: Was::Known }))
                }
                (Some(id), _) => Err(Failure::invalid(format!("letter {asked} was answered before, by letter {id}"))),
                (None, failure) => {
                    let why = failure.as_ref().map_or("it ended", |failure| failure.message.as_str());
                    Err(Failure::invalid(format!("letter {asked} is answered too late: {why}")).with_hint("write a new letter"))
                }
            };
        }
        let id = EnvelopeId::from(self.world.rng.uuid_v7(self.now()));
        self.end(&key, row, AskEnd { at: self.now(), letter: Some(id.clone()), text: Some(text), failure: None }).await?;
        drop(turn);
        Ok(Some(Sent { id, state: LetterState::Delivered, was: Was::New }))
    }

    /// Writes how a request ended and tells who waits. Where an agent of this gateway asked and waits no more, the answer
    /// goes to its session. The caller holds the turn.
    async fn end(&self, key: &str, mut row: AskRow, end: AskEnd) -> Result<(), Failure> {
        let heard = self.waiters.lock().contains_key(key);
        row.end = Some(end);
        self.keeper.put(&Unit::Global, Table::Meta, key, &row).await?;
        self.waiters.tell();
        if !heard && !row.elsewhere && row.end.as_ref().is_some_and(|end| end.failure.is_none()) {
            let host = self.clone();
            self.world.tasks.spawn::<_, Failure>(TaskKind::logged("hub answer"), async move { host.late(&row).await });
        }
        Ok(())
    }

    /// An answer that nobody waits for any more.
    async fn late(&self, row: &AskRow) -> Result<(), Failure> {
        let text = row.end.as_ref().and_then(|end| end.text.clone()).unwrap_or_default();
        let body = vec![Part::text(format!("[Answer of agent {} to letter {}]\n{text}", row.to, row.id))];
        let from = Origin::Hook { name: format!("mcp:{}", row.to) };
        let options = TurnOptions { extra_system_prompt: Some(super::letters::GUARD.to_owned()), ..TurnOptions::default() };
        let letter = letters::letter(&self.world, from, row.session.clone(), RunId::from(format!("answer:{}", row.id)), body, options);
        self.post.deliver(letter).await.map(drop)
    }

    /// Ends a request whose time is over. One task for each that is open.
    fn watch_over(&self, key: String) {
        let (host, stop) = (self.clone(), self.world.tasks.stopping());
        self.world.tasks.spawn::<_, Failure>(TaskKind::logged("hub request"), async move {
            loop {
                let done = tokio::select! {
                    biased;
                    () = stop.cancelled() => return Ok(()),
                    done = host.until_over(&key) => done,
                };
                match done {
                    Ok(()) => return Ok(()),
                    Err(failure) if failure.retry == Retry::Never => return Err(failure),
                    Err(failure) => tracing::warn!(err = %failure, "a request to a program's agent cannot be looked at; it is tried again"),
                }
                tokio::select! {
                    biased;
                    () = stop.cancelled() => return Ok(()),
                    () = tokio::time::sleep(AGAIN) => {}
                }
            }
        });
    }

    async fn until_over(&self, key: &str) -> Result<(), Failure> {
        let mut changed = self.waiters.changed.subscribe();
        loop {
            changed.borrow_and_update();
            let Some(row) = self.keeper.get::<AskRow>(&Unit::Global, Table::Meta, key).await? else { return Ok(()) };
            if row.end.is_some() {
                return Ok(());
            }
            let (due, why) = match self.keeper.get::<LetterRow>(&Unit::Global, Table::Inbox, &in_key(&row.to, &row.id)).await? {
                Some(letter) if letter.times == 0 => {
                    (letter.expires(), Failure::new(FailureCode::Timeout, format!("agent \"{}\" did not take the letter in time", row.to)))
                }
                Some(_) => (row.at.plus(ANSWER_TTL_MS), Failure::new(FailureCode::Timeout, format!("agent \"{}\" took the letter and did not answer", row.to))),
                None => match self.keeper.get::<DoneRow>(&Unit::Global, Table::Inbox, &done_key(&row.to, &row.id)).await? {
                    Some(done) if done.state == LetterState::DeadLetter => {
                        (done.at, Failure::new(FailureCode::Unavailable, format!("agent \"{}\" gave the letter up", row.to)))
                    }
                    _ => (row.at.plus(ANSWER_TTL_MS), Failure::new(FailureCode::Timeout, format!("agent \"{}\" took the letter and did not answer", row.to))),
                },
            };
            let now = self.now();
            if now >= due {
                let _turn = self.turn.lock().await;
                // It may have been answered between the two looks.
                let Some(row) = self.keeper.get::<AskRow>(&Unit::Global, Table::Meta, key).await?.filter(|row| row.end.is_none()) else { return Ok(()) };
                return self.end(key, row, AskEnd { at: now, letter: None, text: None, failure: Some(why) }).await;
            }
            let wait = Duration::from_millis(u64::try_from(due.since(now)).unwrap_or(0));
            tokio::select! {
                biased;
                more = changed.changed() => if more.is_err() { return Ok(()) },
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    /// Goes on with the requests of an earlier life of the gateway.
    pub(super) async fn watch_over_all(&self) -> Result<(), Failure> {
        for found in self.keeper.scan::<AskRow>(&Unit::Global, Table::Meta, &Scan::prefix(ASK)).await? {
            if found.value.end.is_none() {
                self.watch_over(found.key);
            }
        }
        Ok(())
    }

    /// Requests that ended before a moment are forgotten.
    pub(super) async fn forget_asks(&self, before: Millis, mut batch: Batch, max: usize) -> Result<Batch, Failure> {
        for found in self.keeper.scan::<AskRow>(&Unit::Global, Table::Meta, &Scan::prefix(ASK).limit(max)).await? {
            if found.value.end.as_ref().is_some_and(|end| end.at < before) {
                batch = batch.delete(Table::Meta, format!("{ASKED}{}", found.value.id)).delete(Table::Meta, found.key);
            }
        }
        Ok(batch)
    }
}
