//! A whole small farm in memory: for programs that want only the hub, for the example and for tests. Nothing survives
//! the process.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::Duration,
};

use async_trait::async_trait;
use clawstead_terms::{AgentId, EnvelopeId, Failure, FailureCode, Millis};
use clawstead_world::World;
use tokio::sync::Mutex;

use super::{
    Beat, DeadLetter, Filter, Home, HubHost, Lent, LetterState, Listing, Loan, NewAgent, NewLetter, Priority, Registered, Sent, Settled, Verdict, Was,
};
use crate::peers::Owner;

/// Agents at most.
pub const AGENTS_MAX: usize = 1_000;

/// Letters that wait in one inbox at most; more get `BUSY`.
pub const INBOX_MAX: usize = 1_000;

/// From here on letters of low priority get `BUSY`.
pub const INBOX_LOW_MAX: usize = 200;

/// Settled letters that are remembered per inbox, for repeats and replies.
pub const SETTLED_MAX: usize = 1_000;

/// Dead letters that are kept; the oldest goes first.
pub const DEAD_MAX: usize = 1_000;

/// A letter that was lent this often without a verdict is poison.
pub const LOANS_MAX: u32 = 10;

/// The farm.
pub struct LocalHost {
    name: String,
    world: World,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    agents: BTreeMap<AgentId, Agent>,
    dead: VecDeque<Dead>,
}

struct Agent {
    listing: Listing,
    inbox: VecDeque<Row>,
    settled: VecDeque<(EnvelopeId, LetterState)>,
    /// Keys this agent used as a sender, with a digest of what they stood for.
    keys: BTreeMap<String, (EnvelopeId, NewLetter)>,
}

struct Row {
    id: EnvelopeId,
    letter: NewLetter,
    sent: Millis,
    loan: Option<(String, Millis)>,
    times: u32,
}

struct Dead {
    shown: DeadLetter,
    letter: NewLetter,
}

impl LocalHost {
    /// An empty farm with one gateway of this name.
    #[must_use]
    pub fn new(name: impl Into<String>, world: World) -> Self {
        Self { name: name.into(), world, state: Mutex::new(State::default()) }
    }

    /// Adds an agent that the farm itself runs: nobody acts as it through the hub.
    pub async fn add_farm_agent(&self, id: AgentId, capabilities: BTreeSet<String>) {
        let listing = Listing {
            id: id.clone(),
            home: Home::Farm,
            gateway: self.name.clone(),
            capabilities,
            status: "active".into(),
            description: None,
            model_provider: None,
            heartbeat_enabled: false,
            last_check: None,
            last_check_result: None,
            last_alert: None,
            owner: None,
        };
        let agent = Agent { listing, inbox: VecDeque::new(), settled: VecDeque::new(), keys: BTreeMap::new() };
        self.state.lock().await.agents.insert(id, agent);
    }

    fn now(&self) -> Millis {
        self.world.clock.now()
    }
}

impl State {
    fn agent(&mut self, id: &AgentId) -> Result<&mut Agent, Failure> {
        self.agents
            .get_mut(id)
            .ok_or_else(|| Failure::not_found(format!("there is no agent \"{id}\"")).with_hint("agent_discover lists the agents; agent_register adds one"))
    }

    fn bury(&mut self, row: Row, reason: String, at: Millis) {
        if self.dead.len() == DEAD_MAX {
            self.dead.pop_front();
        }
        let shown = DeadLetter { id: row.id, from: row.letter.from.to_string(), to: row.letter.to.to_string(), reason, at, replayed_as: None };
        self.dead.push_back(Dead { shown, letter: row.letter });
    }

    /// Takes expired and poisonous letters out of an inbox.
    fn sweep(&mut self, of: &AgentId, now: Millis) {
        let Some(agent) = self.agents.get_mut(of) else { return };
        let mut gone = Vec::new();
        let rows = std::mem::take(&mut agent.inbox);
        for row in rows {
            let free = row.loan.as_ref().is_none_or(|(_, until)| *until <= now);
            if free && now >= row.sent.plus(ms(row.letter.ttl)) {
                gone.push((row, "expired"));
            } else if free && row.times >= LOANS_MAX {
                gone.push((row, "poison"));
            } else {
                agent.inbox.push_back(row);
            }
        }
        for (row, reason) in gone {
            self.note_settled(of, row.id.clone(), LetterState::DeadLetter);
            self.bury(row, reason.into(), now);
        }
    }

    fn note_settled(&mut self, of: &AgentId, id: EnvelopeId, state: LetterState) {
        let Some(agent) = self.agents.get_mut(of) else { return };
        if agent.settled.len() == SETTLED_MAX {
            agent.settled.pop_front();
        }
        agent.settled.push_back((id, state));
    }
}

fn ms(span: Duration) -> i64 {
    i64::try_from(span.as_millis()).unwrap_or(i64::MAX)
}

fn busy(what: String) -> Failure {
    Failure::busy(what, 1_000)
}

#[async_trait]
impl HubHost for LocalHost {
    fn gateway(&self) -> String {
        self.name.clone()
    }

    async fn register(&self, owner: &Owner, new: NewAgent) -> Result<Registered, Failure> {
        let now = self.now();
        let mut state = self.state.lock().await;
        let full = state.agents.len() >= AGENTS_MAX;
        if let Some(agent) = state.agents.get_mut(&new.id) {
            if agent.listing.owner.as_ref() != Some(owner) {
                return Err(Failure::new(FailureCode::Forbidden, format!("agent \"{}\" belongs to somebody else", new.id))
                    .with_hint("choose another agent_id; agent_discover shows those that are taken"));
            }
            let there = &mut agent.listing;
            there.capabilities = new.capabilities;
            there.description = new.description.or(there.description.take());
            there.model_provider = new.model_provider.or(there.model_provider.take());
            there.heartbeat_enabled = new.heartbeat_enabled.unwrap_or(there.heartbeat_enabled);
            there.status = "active".into();
            return Ok(Registered { gateway: self.name.clone(), was: Was::Known, at: now });
        }
        if full {
            return Err(busy(format!("this hub has {AGENTS_MAX} agents already")));
        }
        let listing = Listing {
            id: new.id.clone(),
            home: Home::External,
            gateway: self.name.clone(),
            capabilities: new.capabilities,
            status: "active".into(),
            description: new.description,
            model_provider: new.model_provider,
            heartbeat_enabled: new.heartbeat_enabled.unwrap_or(false),
            last_check: None,
            last_check_result: None,
            last_alert: None,
            owner: Some(owner.clone()),
        };
        state.agents.insert(new.id, Agent { listing, inbox: VecDeque::new(), settled: VecDeque::new(), keys: BTreeMap::new() });
        Ok(Registered { gateway: self.name.clone(), was: Was::New, at: now })
    }

    async fn owner_of(&self, agent: &AgentId) -> Result<Option<Owner>, Failure> {
        Ok(self.state.lock().await.agent(agent)?.listing.owner.clone())
    }

    async fn discover(&self, filter: &Filter) -> Result<Vec<Listing>, Failure> {
        let state = self.state.lock().await;
        let fits = |l: &Listing| filter.capability.as_ref().is_none_or(|c| l.capabilities.contains(c)) && filter.status.as_ref().is_none_or(|s| *s == l.status);
        Ok(state.agents.values().map(|a| &a.listing).filter(|l| fits(l)).take(filter.limit).cloned().collect())
    }

    async fn beat(&self, agent: &AgentId, beat: Beat) -> Result<Millis, Failure> {
        let now = self.now();
        let mut state = self.state.lock().await;
        let there = &mut state.agent(agent)?.listing;
        there.last_check = Some(now);
        if let Some(status) = beat.status {
            there.status = status;
        }
        if beat.last_check_result.is_some() {
            there.last_check_result = beat.last_check_result;
        }
        if let Some(alert) = beat.alert {
            there.last_alert = Some(format!("{}: {alert}", crate::memory::format::rfc3339(now)));
        }
        Ok(now)
    }

    async fn send(&self, letter: NewLetter) -> Result<Sent, Failure> {
        let now = self.now();
        let mut state = self.state.lock().await;
        state.agent(&letter.to)?;
        state.sweep(&letter.to, now);
        if let Some(key) = &letter.idempotency_key
            && let Some((id, there)) = state.agent(&letter.from)?.keys.get(key).cloned()
        {
            if there != letter {
                return Err(Failure::invalid(format!("idempotency_key \"{key}\" was used for another letter ({id})")).with_hint("use a new key"));
            }
            let to = state.agent(&letter.to)?;
            let settled = to.settled.iter().find(|(settled, _)| *settled == id).map(|(_, s)| *s);
            return Ok(Sent { id, state: settled.unwrap_or(LetterState::Delivered), was: Was::Known });
        }
        let to = state.agent(&letter.to)?;
        let max = if letter.priority == Priority::Low { INBOX_LOW_MAX } else { INBOX_MAX };
        if to.inbox.len() >= max {
            return Err(busy(format!("the inbox of \"{}\" is full ({max} letters of this priority)", letter.to)));
        }
        let id = EnvelopeId::from(self.world.rng.uuid_v7(now));
        to.inbox.push_back(Row { id: id.clone(), letter: letter.clone(), sent: now, loan: None, times: 0 });
        if let Some(key) = letter.idempotency_key.clone() {
            let keys = &mut state.agent(&letter.from)?.keys;
            if keys.len() >= SETTLED_MAX
                && let Some(oldest) = keys.iter().min_by(|a, b| a.1.0.cmp(&b.1.0)).map(|(key, _)| key.clone())
            {
                keys.remove(&oldest);
            }
            keys.insert(key, (id.clone(), letter));
        }
        Ok(Sent { id, state: LetterState::Delivered, was: Was::New })
    }

    async fn lend(&self, agent: &AgentId, limit: usize, lease: Duration) -> Result<Loan, Failure> {
        let now = self.now();
        let mut state = self.state.lock().await;
        state.agent(agent)?;
        state.sweep(agent, now);
        let until = now.plus(ms(lease));
        let mut loan = Loan::default();
        for row in &mut state.agent(agent)?.inbox {
            if row.loan.as_ref().is_some_and(|(_, until)| *until > now) {
                continue;
            }
            if loan.letters.len() == limit {
                loan.waiting += 1;
                continue;
            }
            let token = self.world.rng.uuid();
            row.loan = Some((token.clone(), until));
            row.times += 1;
            loan.letters.push(Lent {
                id: row.id.clone(),
                from: row.letter.from.to_string(),
                kind: row.letter.kind,
                body: row.letter.body.clone(),
                in_reply_to: row.letter.in_reply_to.clone(),
                sent: row.sent,
                expires: Some(row.sent.plus(ms(row.letter.ttl))),
                lease: token,
                lent_until: until,
                times: row.times,
            });
        }
        Ok(loan)
    }

    async fn ack(&self, agent: &AgentId, letter: &EnvelopeId, lease: Option<&str>, verdict: Verdict) -> Result<Settled, Failure> {
        let now = self.now();
        let mut state = self.state.lock().await;
        let there = state.agent(agent)?;
        let wanted = match &verdict {
            Verdict::Done => LetterState::Acked,
            Verdict::Failed(_) => LetterState::DeadLetter,
            Verdict::Return => LetterState::Delivered,
        };
        let Some(at) = there.inbox.iter().position(|row| row.id == *letter) else {
            return match there.settled.iter().find(|(id, _)| id == letter) {
                Some((_, settled)) if *settled == wanted => Ok(Settled { state: wanted, was: Was::Known }),
                Some((_, settled)) => Err(Failure::invalid(format!("letter {letter} was settled before, as {settled:?}"))),
                None => Err(Failure::not_found(format!("there is no letter {letter} in the inbox of \"{agent}\""))),
            };
        };
        let current = there.inbox[at].loan.as_ref().map(|(token, _)| token.as_str());
        if lease.is_some() && lease != current {
            return Err(Failure::invalid(format!("the lease of letter {letter} is over: it was lent to another reader meanwhile"))
                .with_hint("call check_inbox again; settle letters within 60 s"));
        }
        if verdict == Verdict::Return {
            there.inbox[at].loan = None;
            return Ok(Settled { state: wanted, was: Was::New });
        }
        let Some(row) = there.inbox.remove(at) else { return Err(Failure::internal("the inbox changed while it was read")) };
        state.note_settled(agent, letter.clone(), wanted);
        if let Verdict::Failed(why) = verdict {
            state.bury(row, format!("failed: {why}"), now);
        }
        Ok(Settled { state: wanted, was: Was::New })
    }

    async fn dead_letters(&self, agents: Option<&BTreeSet<AgentId>>, limit: usize) -> Result<Vec<DeadLetter>, Failure> {
        let state = self.state.lock().await;
        let ours = |d: &&Dead| agents.is_none_or(|set| set.contains(&d.letter.from) || set.contains(&d.letter.to));
        Ok(state.dead.iter().rev().filter(ours).take(limit).map(|d| d.shown.clone()).collect())
    }

    async fn replay(&self, letter: &EnvelopeId) -> Result<Sent, Failure> {
        let now = self.now();
        let mut state = self.state.lock().await;
        let Some(at) = state.dead.iter().position(|d| d.shown.id == *letter) else {
            return Err(Failure::not_found(format!("there is no dead letter {letter}")).with_hint("dlq_list shows them"));
        };
        if let Some(new) = &state.dead[at].shown.replayed_as {
            return Err(Failure::invalid(format!("letter {letter} was replayed before, as {new}")));
        }
        let body = state.dead[at].letter.clone();
        let id = EnvelopeId::from(self.world.rng.uuid_v7(now));
        let to = state.agent(&body.to)?;
        if to.inbox.len() >= INBOX_MAX {
            return Err(busy(format!("the inbox of \"{}\" is full ({INBOX_MAX} letters)", body.to)));
        }
        to.inbox.push_back(Row { id: id.clone(), letter: body, sent: now, loan: None, times: 0 });
        state.dead[at].shown.replayed_as = Some(id.clone());
        Ok(Sent { id, state: LetterState::Delivered, was: Was::New })
    }

    async fn agents_of(&self, owner: &Owner) -> Result<BTreeSet<AgentId>, Failure> {
        let state = self.state.lock().await;
        Ok(state.agents.values().filter(|a| a.listing.owner.as_ref() == Some(owner)).map(|a| a.listing.id.clone()).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Caller, host::LEASE};

    async fn farm() -> (LocalHost, AgentId, AgentId) {
        let host = LocalHost::new("jerry-gateway", World::simulated(7));
        let (a, b) = (AgentId::parse("jerry").unwrap(), AgentId::parse("bobby").unwrap());
        for id in [&a, &b] {
            let new =
                NewAgent { id: id.clone(), capabilities: BTreeSet::new(), description: None, gateway: None, model_provider: None, heartbeat_enabled: None };
            host.register(&Caller::Local.owner(), new).await.unwrap();
        }
        (host, a, b)
    }

    fn letter(from: &AgentId, to: &AgentId, ttl_s: u64) -> NewLetter {
        NewLetter {
            from: from.clone(),
            to: to.clone(),
            body: "Any failed allocations?".into(),
            kind: super::super::LetterKind::Request,
            in_reply_to: None,
            idempotency_key: None,
            ttl: Duration::from_secs(ttl_s),
            priority: super::super::Priority::Normal,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_loan_ends_after_sixty_seconds_and_the_letter_comes_again() {
        let (host, a, b) = farm().await;
        let sent = host.send(letter(&a, &b, 3_600)).await.unwrap();
        let first = host.lend(&b, 10, LEASE).await.unwrap();
        assert_eq!(first.letters.len(), 1);
        tokio::time::advance(Duration::from_millis(59_999)).await;
        assert_eq!(host.lend(&b, 10, LEASE).await.unwrap().letters.len(), 0);
        tokio::time::advance(Duration::from_millis(1)).await;
        let again = host.lend(&b, 10, LEASE).await.unwrap();
        assert_eq!((again.letters[0].id.clone(), again.letters[0].times), (sent.id.clone(), 2));
        let stale = host.ack(&b, &sent.id, Some(&first.letters[0].lease), Verdict::Done).await.unwrap_err();
        assert!(stale.message.contains("lease"), "{stale}");
        let done = host.ack(&b, &sent.id, Some(&again.letters[0].lease), Verdict::Done).await.unwrap();
        assert_eq!(done.was, Was::New);
        assert_eq!(host.ack(&b, &sent.id, None, Verdict::Done).await.unwrap().was, Was::Known);
        assert!(host.ack(&b, &sent.id, None, Verdict::Return).await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn expired_failed_and_poisonous_letters_are_dead_and_replay_once() {
        let (host, a, b) = farm().await;
        let old = host.send(letter(&a, &b, 1)).await.unwrap();
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(host.lend(&b, 10, LEASE).await.unwrap().letters.len(), 0);
        let poison = host.send(letter(&a, &b, 86_400)).await.unwrap();
        for _ in 0..LOANS_MAX {
            assert_eq!(host.lend(&b, 10, LEASE).await.unwrap().letters.len(), 1);
            tokio::time::advance(LEASE).await;
        }
        assert_eq!(host.lend(&b, 10, LEASE).await.unwrap().letters.len(), 0);
        let bad = host.send(letter(&a, &b, 60)).await.unwrap();
        host.ack(&b, &bad.id, None, Verdict::Failed("no such job".into())).await.unwrap();
        let dead = host.dead_letters(None, 10).await.unwrap();
        let reasons: Vec<_> = dead.iter().map(|d| (d.id.clone(), d.reason.as_str())).collect();
        assert_eq!(reasons, [(bad.id.clone(), "failed: no such job"), (poison.id, "poison"), (old.id, "expired")]);
        let new = host.replay(&bad.id).await.unwrap();
        assert_ne!(new.id, bad.id);
        assert!(host.replay(&bad.id).await.unwrap_err().message.contains("replayed before"));
        assert_eq!(host.lend(&b, 10, LEASE).await.unwrap().letters[0].id, new.id);
    }

    #[tokio::test(start_paused = true)]
    async fn one_key_is_one_letter() {
        let (host, a, b) = farm().await;
        let one = NewLetter { idempotency_key: Some("k".into()), ..letter(&a, &b, 60) };
        let first = host.send(one.clone()).await.unwrap();
        let second = host.send(one.clone()).await.unwrap();
        assert_eq!((first.id, Was::Known), (second.id, second.was));
        assert!(host.send(NewLetter { body: "other".into(), ..one }).await.is_err());
        assert_eq!(host.lend(&b, 10, LEASE).await.unwrap().letters.len(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_full_inbox_says_busy_first_to_low_letters() {
        let (host, a, b) = farm().await;
        let low = NewLetter { priority: Priority::Low, ..letter(&a, &b, 60) };
        for _ in 0..INBOX_LOW_MAX {
            host.send(low.clone()).await.unwrap();
        }
        assert_eq!(host.send(low).await.unwrap_err().code, FailureCode::Busy);
        for _ in INBOX_LOW_MAX..INBOX_MAX {
            host.send(letter(&a, &b, 60)).await.unwrap();
        }
        assert_eq!(host.send(letter(&a, &b, 60)).await.unwrap_err().code, FailureCode::Busy);
    }
}
