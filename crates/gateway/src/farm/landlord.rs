//! Takes up what this gateway comes to own, and lets go what it loses: agents with their sessions, cron and letters,
//! channel accounts with their connections.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use arc_swap::ArcSwap;
use async_trait::async_trait;
use clawstead_a2a::server::A2a;
use clawstead_agent::Lanes;
use clawstead_cluster::claim::Failover;
use clawstead_config::{Config, FailoverKind};
use clawstead_farm::ownership::{Host, Movable};
use clawstead_state::keeper::Keeper;
use clawstead_terms::{AccountId, AgentId, ChannelId, Failure, Fence, Unit};
use clawstead_world::World;

use super::{Cell, facts};
use crate::{a2a, accounts::Accounts, cron::Cron, outbox::Outbox, settings};

/// How long turns may take to be put aside when their agent is let go at once.
const PUT_ASIDE: Duration = Duration::from_secs(2);
/// How long turns may take to end when their agent moves in order.
const END_OF_TURNS: Duration = Duration::from_secs(30);

/// See the module.
pub struct Landlord {
    /// What we hold.
    pub keeper: Keeper,
    /// Turns.
    pub lanes: Lanes,
    /// Scheduled work.
    pub cron: Cron,
    /// Channel accounts.
    pub accounts: Accounts,
    /// Replies on their way.
    pub outbox: Outbox,
    /// Letters, and what others are told.
    pub farm: Cell,
    /// The config in force.
    pub config: Arc<ArcSwap<Config>>,
    /// Callers of other houses.
    pub a2a: Option<A2a>,
    /// Clock.
    pub world: World,
    /// When each agent was last seen busy, ms of the wall clock.
    pub busy: Mutex<BTreeMap<AgentId, i64>>,
}

/// The units of a config that move between gateways.
#[must_use]
pub fn movables(config: &Config) -> Vec<Movable> {
    let Some(farm) = &config.farm else { return Vec::new() };
    let home = |agent: &AgentId| farm.home.get(agent).cloned().unwrap_or_default();
    let failover = |agent: &AgentId| match farm.failover.get(agent).copied().unwrap_or_default() {
        FailoverKind::Auto => Failover::Auto,
        FailoverKind::Manual => Failover::Manual,
        FailoverKind::None => Failover::None,
    };
    let agents = config.agents.list.iter().map(|one| {
        let unit = Unit::Agent(one.id.clone());
        Movable { with: unit.clone(), unit, home: home(&one.id), failover: failover(&one.id) }
    });
    let accounts = Accounts::units(&settings::channels(config)).into_iter().map(|unit| {
        let agent = match &unit {
            Unit::Account(channel, account) => settings::agent_of(config, channel, account),
            _ => config.default_agent().clone(),
        };
        Movable { home: home(&agent), failover: failover(&agent), with: Unit::Agent(agent), unit }
    });
    agents.chain(accounts).collect()
}

impl Landlord {
    /// Tells the others which agents are here now.
    async fn tell(&self) {
        let Some(farm) = self.farm.get() else { return };
        let held: Vec<_> =
            facts(&self.config.load()).into_iter().filter(|fact| self.keeper.claims.get(&Unit::Agent(AgentId::normalise(&fact.id))).is_some()).collect();
        farm.membership.set_agents(held).await;
    }

    async fn take_agent(&self, agent: &AgentId, fence: &Fence) -> Result<(), Failure> {
        self.lanes.adopt(agent, fence.clone()).await?;
        a2a::recover(self.a2a.as_ref(), agent).await?;
        self.cron.take_up(agent).await?;
        self.lock().insert(agent.clone(), self.world.clock.now().0);
        Ok(())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<AgentId, i64>> {
        self.busy.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn account(&self, channel: &ChannelId, account: &AccountId) {
        for notice in self.accounts.apply(&settings::channels(&self.config.load())) {
            tracing::debug!(%channel, %account, "{notice}");
        }
    }
}

#[async_trait]
impl Host for Landlord {
    async fn take_up(&self, unit: &Unit, fence: &Fence) -> Result<(), Failure> {
        match unit {
            Unit::Agent(agent) => self.take_agent(agent, fence).await?,
            Unit::Account(channel, account) => self.account(channel, account),
            _ => return Ok(()),
        }
        if let Some(farm) = self.farm.get() {
            farm.mailroom.take_over(unit.clone()).await?;
        }
        self.outbox.look_at(unit.clone());
        self.tell().await;
        Ok(())
    }

    async fn drain(&self, unit: &Unit) {
        if let Unit::Agent(agent) = unit {
            self.lanes.settle_down(agent, END_OF_TURNS).await;
        }
    }

    async fn let_go(&self, unit: &Unit) {
        match unit {
            Unit::Agent(agent) => {
                // First what starts work or writes how work ended: it must not take the end of the lanes for the end of a run.
                self.cron.let_go(agent).await;
                if let Some(a2a) = &self.a2a {
                    a2a.release(agent.as_str()).await;
                }
                self.lanes.release(agent, PUT_ASIDE).await;
                self.keeper.claims.give_up(unit);
                self.lock().remove(agent);
            }
            Unit::Account(channel, account) => {
                self.keeper.claims.give_up(unit);
                self.account(channel, account);
            }
            _ => return,
        }
        if let Some(farm) = self.farm.get() {
            farm.mailroom.let_go(unit.clone()).await;
        }
        self.tell().await;
    }

    fn idle_ms(&self, unit: &Unit) -> Option<u64> {
        let agent = match unit {
            Unit::Agent(agent) => agent.clone(),
            Unit::Account(channel, account) => settings::agent_of(&self.config.load(), channel, account),
            _ => return None,
        };
        let (now, mut busy) = (self.world.clock.now().0, self.lock());
        if self.lanes.is_busy(&agent) {
            busy.insert(agent, now);
            return None;
        }
        let since = busy.entry(agent).or_insert(now);
        u64::try_from(now.saturating_sub(*since)).ok()
    }
}
