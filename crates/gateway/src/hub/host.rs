//! The farm as the hub sees it: who is there, and where letters go.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use arc_swap::ArcSwap;
use async_trait::async_trait;
use serde_json::Value;
use tokio::sync::Mutex;

use clawstead_agent::Lanes;
use clawstead_config::Config;
use clawstead_farm::catalogue::Kind;
use clawstead_hub::{
    HubHost,
    host::{Beat, DeadLetter, Filter, Home, LetterState, Listing, Loan, NewAgent, NewLetter, Registered, Sent, Settled, Verdict, Was},
    memory::format::rfc3339,
    peers::Owner,
};
use clawstead_state::{Scan, Table};
use clawstead_terms::{AgentId, EnvelopeId, Failure, FailureCode, Millis, Unit};
use clawstead_world::World;

use super::{
    asks::Waiters,
    rows::{AGENT, AgentRow, agent_key},
};
use crate::{farm, keeper::Keeper, post_office::PostOffice};

/// Agents that programs may register at one gateway.
pub const AGENTS_MAX: usize = 1_000;

/// What the host stands on.
pub struct Parts {
    /// This gateway's name.
    pub name: String,
    /// The config in force.
    pub config: Arc<ArcSwap<Config>>,
    /// The farm, where there is one.
    pub farm: farm::Cell,
    /// The store with our fences.
    pub keeper: Keeper,
    /// The door to our agents.
    pub post: Arc<PostOffice>,
    /// Their runs.
    pub lanes: Lanes,
    /// Clock, chance, tasks.
    pub world: World,
    /// Grows with each start of the gateway.
    pub incarnation: u64,
}

/// The host. Clones are the same one.
#[derive(Clone)]
pub struct Host(Arc<Inner>);

/// What clones share.
pub struct Inner {
    parts: Parts,
    /// Held while rows are read and written back: one after the other.
    pub(super) turn: Mutex<()>,
    /// Who waits for answers of programs.
    pub(super) waiters: Waiters,
}

impl std::ops::Deref for Host {
    type Target = Inner;
    fn deref(&self) -> &Inner {
        &self.0
    }
}

impl std::ops::Deref for Inner {
    type Target = Parts;
    fn deref(&self) -> &Parts {
        &self.parts
    }
}

/// Where an agent lives.
pub(super) enum Place {
    /// A gateway of the farm runs it: this one.
    Here,
    /// Another gateway of the farm runs it.
    At(String),
    /// A program registered it here.
    External(Box<AgentRow>),
}

impl Host {
    /// A host over these parts.
    #[must_use]
    pub fn new(parts: Parts) -> Self {
        Self(Arc::new(Inner { parts, turn: Mutex::default(), waiters: Waiters::default() }))
    }

    pub(super) fn now(&self) -> Millis {
        self.world.clock.now()
    }

    /// Where an agent lives; none when nobody knows it.
    pub(super) async fn find(&self, id: &AgentId) -> Result<Option<Place>, Failure> {
        if self.config.load().agents.get(id.as_str()).is_some() {
            return Ok(Some(Place::Here));
        }
        if let Some(gateway) = self.farm.get().and_then(|farm| farm.elsewhere(&Unit::Agent(id.clone()))) {
            return Ok(Some(Place::At(gateway)));
        }
        let row: Option<AgentRow> = self.keeper.get(&Unit::Global, Table::Meta, &agent_key(id)).await?;
        Ok(row.map(|row| Place::External(Box::new(row))))
    }

    /// The row of an agent that a program registered here.
    pub(super) async fn external(&self, id: &AgentId) -> Result<AgentRow, Failure> {
        match self.find(id).await? {
            Some(Place::External(row)) => Ok(*row),
            Some(Place::At(gateway)) => Err(Failure::new(FailureCode::Forbidden, format!("agent \"{id}\" lives at gateway \"{gateway}\""))
                .with_hint("agents of programs act at the gateway where they registered")),
            Some(Place::Here) => Err(Failure::new(FailureCode::Forbidden, format!("agent \"{id}\" belongs to the farm"))),
            None => Err(unknown(id)),
        }
    }

    pub(super) async fn externals(&self) -> Result<Vec<AgentRow>, Failure> {
        let rows = self.keeper.scan::<AgentRow>(&Unit::Global, Table::Meta, &Scan::prefix(AGENT)).await?;
        Ok(rows.into_iter().map(|row| row.value).collect())
    }

    fn is_external_at(&self, agent: &AgentId, gateway: &str) -> bool {
        let told = self.farm.get().and_then(|farm| farm.catalogue.describe(agent.as_str(), Some(gateway)));
        told.is_some_and(|told| told.kind == Kind::External)
    }

    async fn keep(&self, row: &AgentRow) -> Result<(), Failure> {
        self.keeper.put(&Unit::Global, Table::Meta, &agent_key(&row.id), row).await
    }

    /// Agents that gateways run, ours first.
    fn farm_agents(&self) -> BTreeMap<AgentId, Listing> {
        let listing = |id: AgentId, gateway: String| Listing {
            id,
            home: Home::Farm,
            gateway,
            capabilities: BTreeSet::new(),
            status: "active".into(),
            description: None,
            model_provider: None,
            heartbeat_enabled: false,
            last_check: None,
            last_check_result: None,
            last_alert: None,
            owner: None,
        };
        let provider = |model: &str| model.split_once('/').map(|(provider, _)| provider.to_owned());
        let config = self.config.load();
        let mut found = BTreeMap::new();
        for (agent, facts) in config.agents.list.iter().zip(farm::facts(&config)) {
            let mut one = listing(agent.id.clone(), self.name.clone());
            one.capabilities = facts.capabilities.into_iter().collect();
            one.description = agent.identity.name.clone().or_else(|| agent.name.clone());
            one.model_provider = facts.model.as_deref().and_then(provider);
            one.heartbeat_enabled = facts.heartbeat;
            found.insert(agent.id.clone(), one);
        }
        let Some(farm) = self.farm.get() else { return found };
        for there in farm.membership.agents() {
            let (Ok(id), Some(gateway)) = (AgentId::parse(&there.id), there.gateway) else { continue };
            // Programs' agents of this gateway are added from their rows.
            if gateway == self.name {
                continue;
            }
            let told = farm.catalogue.describe(&there.id, Some(&gateway)).unwrap_or_default();
            found.entry(id.clone()).or_insert_with(|| {
                let mut one = listing(id, gateway);
                if told.kind == Kind::External {
                    one.home = Home::External;
                }
                one.capabilities = if there.capabilities.is_empty() { told.capabilities } else { there.capabilities }.into_iter().collect();
                one.description = told.name.or(told.description);
                one.status = told.status.unwrap_or(one.status);
                one.model_provider = there.model.or(told.model).map(|model| provider(&model).unwrap_or(model));
                if !there.healthy {
                    one.status = "offline".into();
                }
                one
            });
        }
        found
    }
}

/// Nobody has this id.
pub(super) fn unknown(id: &AgentId) -> Failure {
    Failure::not_found(format!("there is no agent \"{id}\"")).with_hint("agent_discover lists the agents; agent_register adds one")
}

#[async_trait]
impl HubHost for Host {
    fn gateway(&self) -> String {
        self.name.clone()
    }

    async fn register(&self, owner: &Owner, new: NewAgent) -> Result<Registered, Failure> {
        let _turn = self.turn.lock().await;
        let now = self.now();
        let taken = || {
            Failure::new(FailureCode::Forbidden, format!("agent \"{}\" belongs to somebody else", new.id))
                .with_hint("choose another agent_id; agent_discover shows those that are taken")
        };
        let (mut row, was) = match self.find(&new.id).await? {
            Some(Place::External(row)) if row.owner == *owner => (*row, Was::Known),
            Some(_) => return Err(taken()),
            None => {
                if self.externals().await?.len() >= AGENTS_MAX {
                    return Err(Failure::busy(format!("programs have registered {AGENTS_MAX} agents at this gateway already"), 60_000));
                }
                self.claim(&new.id).await?;
                let row = AgentRow {
                    id: new.id.clone(),
                    owner: owner.clone(),
                    capabilities: BTreeSet::new(),
                    status: String::new(),
                    description: None,
                    model_provider: None,
                    heartbeat: false,
                    since: now,
                    beat: now,
                    check: None,
                    alert: None,
                };
                (row, Was::New)
            }
        };
        row.capabilities = new.capabilities;
        row.description = new.description.or(row.description);
        row.model_provider = new.model_provider.or(row.model_provider);
        row.heartbeat = new.heartbeat_enabled.unwrap_or(row.heartbeat);
        row.status = "active".into();
        row.beat = now;
        self.keep(&row).await?;
        self.tell_of_guests().await?;
        Ok(Registered { gateway: self.name.clone(), was, at: now })
    }

    async fn owner_of(&self, agent: &AgentId) -> Result<Option<Owner>, Failure> {
        match self.find(agent).await? {
            Some(Place::External(row)) => Ok(Some(row.owner)),
            Some(Place::At(gateway)) if self.is_external_at(agent, &gateway) => {
                Err(Failure::new(FailureCode::Forbidden, format!("agent \"{agent}\" was registered at gateway \"{gateway}\""))
                    .with_hint("agents of programs act at the gateway where they registered"))
            }
            Some(Place::Here | Place::At(_)) => Ok(None),
            None => Err(unknown(agent)),
        }
    }

    async fn discover(&self, filter: &Filter) -> Result<Vec<Listing>, Failure> {
        let mut found = self.farm_agents();
        let now = self.now();
        for row in self.externals().await? {
            found.entry(row.id.clone()).or_insert_with(|| row.listing(&self.name, now));
        }
        let fits = |l: &Listing| filter.capability.as_ref().is_none_or(|c| l.capabilities.contains(c)) && filter.status.as_ref().is_none_or(|s| *s == l.status);
        Ok(found.into_values().filter(|listing| fits(listing)).take(filter.limit).collect())
    }

    async fn beat(&self, agent: &AgentId, beat: Beat) -> Result<Millis, Failure> {
        let _turn = self.turn.lock().await;
        let now = self.now();
        let mut row = self.external(agent).await?;
        row.beat = now;
        row.status = beat.status.unwrap_or(row.status);
        row.check = beat.last_check_result.or(row.check);
        row.alert = beat.alert.map(|alert| format!("{}: {alert}", rfc3339(now))).or(row.alert);
        self.keep(&row).await?;
        self.tell_of_guests().await?;
        Ok(now)
    }

    async fn send(&self, letter: NewLetter) -> Result<Sent, Failure> {
        self.post_letter(letter).await
    }

    async fn lend(&self, agent: &AgentId, limit: usize, lease: Duration) -> Result<Loan, Failure> {
        self.lend_letters(agent, limit, lease).await
    }

    async fn ack(&self, agent: &AgentId, letter: &EnvelopeId, lease: Option<&str>, verdict: Verdict) -> Result<Settled, Failure> {
        self.settle(agent, letter, lease, verdict).await
    }

    async fn dead_letters(&self, agents: Option<&BTreeSet<AgentId>>, limit: usize) -> Result<Vec<DeadLetter>, Failure> {
        let ours = |letter: &DeadLetter| agents.is_none_or(|set| set.iter().any(|id| id.as_str() == letter.from || id.as_str() == letter.to));
        let mut found: Vec<DeadLetter> = self.dead().await?.into_iter().filter(ours).collect();
        if let Some(farm) = self.farm.get() {
            found.extend(farm.dead_letters(None, limit).await?.iter().filter_map(of_farm).filter(ours));
        }
        found.sort_by(|a, b| b.at.cmp(&a.at).then_with(|| b.id.cmp(&a.id)));
        found.truncate(limit);
        Ok(found)
    }

    async fn replay(&self, letter: &EnvelopeId) -> Result<Sent, Failure> {
        if let Some(sent) = self.replay_ours(letter).await? {
            return Ok(sent);
        }
        let Some(farm) = self.farm.get() else {
            return Err(Failure::not_found(format!("there is no dead letter {letter}")).with_hint("dlq_list shows them"));
        };
        let id = farm.replay(letter.as_str()).await?;
        Ok(Sent { id: EnvelopeId::from(id.as_str()), state: LetterState::Queued, was: Was::New })
    }

    async fn agents_of(&self, owner: &Owner) -> Result<BTreeSet<AgentId>, Failure> {
        Ok(self.externals().await?.into_iter().filter(|row| row.owner == *owner).map(|row| row.id).collect())
    }
}

/// A dead letter between gateways, as the farm shows it.
fn of_farm(shown: &Value) -> Option<DeadLetter> {
    let text = |name: &str| shown.get(name).and_then(Value::as_str);
    Some(DeadLetter {
        id: EnvelopeId::from(text("messageId")?),
        from: text("from")?.to_owned(),
        to: text("to")?.to_owned(),
        reason: text("reason")?.to_owned(),
        at: serde_json::from_value(shown.get("at")?.clone()).ok()?,
        replayed_as: text("replayedAs").map(EnvelopeId::from),
    })
}
