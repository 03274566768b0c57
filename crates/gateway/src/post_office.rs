//! The one door. Everything that wants an agent's attention passes here; this is the only place that asks where its
//! agent lives.

use std::sync::{Arc, OnceLock};

use arc_swap::ArcSwap;
use async_trait::async_trait;

use clawstead_agent::Lanes;
use clawstead_config::Config;
use clawstead_farm::Farm;
use clawstead_terms::{Envelope, Failure, FailureCode, Origin, Unit};
use clawstead_world::{Accepted, Post};
use serde_json::json;

use crate::{farm::Cell, hub, policy, suspend::Suspension};

/// Longest path of a letter from agent to agent.
const PATH_MAX: usize = 8;

/// The post office of one gateway.
pub struct PostOffice {
    config: Arc<ArcSwap<Config>>,
    suspension: Arc<Suspension>,
    farm: Cell,
    /// Lanes write letters too, so they are made after the office and put in once.
    lanes: OnceLock<Lanes>,
    /// Agents that programs registered here.
    programs: OnceLock<hub::Cell>,
}

impl PostOffice {
    /// A closed office; see [`PostOffice::open`].
    #[must_use]
    pub fn new(config: Arc<ArcSwap<Config>>, suspension: Arc<Suspension>, farm: Cell) -> Self {
        Self { config, suspension, farm, lanes: OnceLock::new(), programs: OnceLock::new() }
    }

    /// From now on letters are taken.
    pub fn open(&self, lanes: Lanes) {
        let _ = self.lanes.set(lanes);
    }

    /// Letters to agents of programs go to their hub.
    pub fn know_programs(&self, programs: hub::Cell) {
        let _ = self.programs.set(programs);
    }

    /// The hub, when the letter's agent belongs to one of its programs.
    fn program(&self, letter: &Envelope) -> Option<&hub::Host> {
        self.programs.get()?.get().filter(|host| host.holds(&letter.to.agent))
    }

    /// The farm, when the letter's agent lives at another gateway of it.
    fn elsewhere(&self, letter: &Envelope) -> Option<&Farm> {
        let (farm, unit) = (self.farm.get()?, Unit::Agent(letter.to.agent.clone()));
        if let Some(ownership) = farm.ownership().filter(|ownership| ownership.moves(&unit)) {
            // Nobody may have it just now: the letter waits in the mailroom for whoever takes it up.
            return (!ownership.is_taken_up(&unit)).then_some(farm);
        }
        if self.config.load().agents.get(letter.to.agent.as_str()).is_some() {
            return None;
        }
        farm.elsewhere(&unit).map(|_| farm)
    }

    /// A letter that came from another gateway. Its policy was asked there: who writes it is no agent of ours.
    ///
    /// # Errors
    /// As `deliver`.
    pub async fn deliver_from_farm(&self, letter: Envelope) -> Result<Accepted, Failure> {
        self.check_place(&letter)?;
        self.accept(letter).await
    }

    async fn accept(&self, letter: Envelope) -> Result<Accepted, Failure> {
        let lanes = self.lanes.get().ok_or_else(|| Failure::unavailable("gateway starting; retry shortly", 500))?;
        let _passing = self.suspension.pass(&letter).await?;
        lanes.accept(letter).await
    }

    fn check_place(&self, letter: &Envelope) -> Result<(), Failure> {
        let config = self.config.load();
        if config.agents.get(letter.to.agent.as_str()).is_none() {
            let near = config.agents.list.iter().map(|a| a.id.to_string()).collect::<Vec<_>>().join(", ");
            return Err(Failure::not_found(format!("unknown agent id \"{}\"", letter.to.agent)).with_hint(format!("agents here: {near}")));
        }
        check_path(letter)
    }

    fn check(&self, letter: &Envelope) -> Result<(), Failure> {
        self.check_place(letter)?;
        self.check_pair(letter)
    }

    /// Whether the one agent may write to the other at all.
    fn check_pair(&self, letter: &Envelope) -> Result<(), Failure> {
        let config = self.config.load();
        if let Origin::Agent { agent, .. } = &letter.from {
            let rules = json!({"enabled": config.tools.agent_to_agent, "allow": config.tools.agent_to_agent_allow});
            policy::may_reach(&rules, agent, &letter.to.agent).map_err(|why| Failure::new(FailureCode::Forbidden, why))?;
        }
        Ok(())
    }
}

#[async_trait]
impl Post for PostOffice {
    async fn deliver(&self, letter: Envelope) -> Result<Accepted, Failure> {
        if let Some(host) = self.program(&letter) {
            check_path(&letter)?;
            self.check_pair(&letter)?;
            return host.take(letter).await;
        }
        if let Some(farm) = self.elsewhere(&letter) {
            check_path(&letter)?;
            if matches!(letter.from, Origin::Client { .. } | Origin::Cron { .. } | Origin::Heartbeat)
                && self.config.load().agents.get(letter.to.agent.as_str()).is_some()
            {
                // Its writer follows the agent; it left between the writer's look and now.
                return Err(Failure::unavailable(format!("agent {} just left for another gateway", letter.to.agent), 500));
            }
            return farm.mailroom.send(letter).await;
        }
        self.check(&letter)?;
        self.accept(letter).await
    }
}

fn check_path(letter: &Envelope) -> Result<(), Failure> {
    if letter.path.len() >= PATH_MAX {
        return Err(Failure::new(FailureCode::Forbidden, format!("the letter went through {PATH_MAX} agents already; it goes no further")));
    }
    Ok(())
}
