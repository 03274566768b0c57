//! Agents that programs registered here, as the farm knows them: each is a unit of this gateway, so that letters find it
//! from everywhere, and is told of in the published names and in the catalogue.

use std::collections::BTreeMap;

use clawstead_config::Config;
use clawstead_farm::{
    Farm,
    catalogue::{Kind, Listed},
    membership::{AgentFacts, GuestFacts},
};
use clawstead_hub::memory::format::rfc3339;
use clawstead_state::{Scan, Table};
use clawstead_terms::{AgentId, Failure, FailureCode, Unit};

use super::{
    host::Host,
    rows::{AGENT, AgentRow},
};
use crate::{farm, keeper::Keeper};

/// What such an agent can be asked for, besides what it announced.
const CAPABILITY: &str = "sessions.send";

/// The units of agents that programs registered at this gateway before; none while the hub is off.
///
/// # Errors
/// When the store cannot be read.
pub async fn units(keeper: &Keeper, config: &Config) -> Result<Vec<Unit>, Failure> {
    if !config.farm.as_ref().is_some_and(|farm| farm.hub.enabled) {
        return Ok(Vec::new());
    }
    let rows = keeper.scan::<AgentRow>(&Unit::Global, Table::Meta, &Scan::prefix(AGENT)).await?;
    Ok(rows.into_iter().map(|row| row.value.id).filter(|id| config.agents.get(id.as_str()).is_none()).map(Unit::Agent).collect())
}

/// Tells the farm of the agents of a config, beside those of programs.
pub fn tell_of_ours(farm: &Farm, config: &Config) {
    let facts = farm::facts(config);
    let ours: Vec<Listed> = config
        .agents
        .list
        .iter()
        .map(|agent| Listed {
            id: agent.id.to_string(),
            kind: Kind::Farm,
            name: agent.identity.name.clone().or_else(|| agent.name.clone()),
            description: agent.description.clone().or_else(|| agent.role.clone()),
            capabilities: facts.iter().find(|fact| fact.id == agent.id.as_str()).map(|fact| fact.capabilities.clone()).unwrap_or_default(),
            model: agent.model.primary.clone(),
            status: None,
        })
        .collect();
    let a2a = config.a2a.as_ref().is_some_and(|a2a| a2a.enabled) && farm.links.is_some();
    farm.catalogue.change(|page| {
        page.a2a = a2a;
        page.agents.retain(|one| one.kind == Kind::External);
        page.agents.extend(ours);
    });
}

impl Host {
    /// True for an agent that no gateway runs.
    pub(super) fn is_guest(&self, agent: &AgentId) -> bool {
        self.config.load().agents.get(agent.as_str()).is_none()
    }

    /// Takes the name of a new agent, here and in the farm.
    pub(super) async fn claim(&self, id: &AgentId) -> Result<(), Failure> {
        let unit = Unit::Agent(id.clone());
        if self.keeper.claims.get(&unit).is_some() {
            return Ok(());
        }
        let farm = self.farm.get();
        let recorded = match farm {
            Some(farm) => farm.catalogue.epoch(&unit).await?,
            None => 0,
        };
        self.keeper.claim(std::slice::from_ref(&unit), &self.name, self.incarnation).await?;
        let Some(farm) = farm else { return Ok(()) };
        let taken = async {
            farm::above(&self.keeper, BTreeMap::from([(unit.clone(), recorded)]), &self.name, self.incarnation).await?;
            let fence = self.keeper.claims.get(&unit).ok_or_else(|| Failure::internal("the agent's unit was not taken"))?;
            farm.catalogue.admit(&unit, &fence).await?;
            farm.mailroom.take_over(unit.clone()).await
        };
        let taken = taken.await;
        if taken.is_err() {
            self.keeper.claims.give_up(&unit);
        }
        taken
    }

    /// Tells the farm of the agents of programs here.
    pub(super) async fn tell_of_guests(&self) -> Result<(), Failure> {
        let Some(farm) = self.farm.get() else { return Ok(()) };
        let now = self.now();
        let rows: Vec<AgentRow> = self.externals().await?.into_iter().filter(|row| self.is_guest(&row.id)).collect();
        let listed: Vec<Listed> = rows
            .iter()
            .map(|row| Listed {
                id: row.id.to_string(),
                kind: Kind::External,
                name: None,
                description: row.description.clone(),
                capabilities: row.capabilities.iter().cloned().collect(),
                model: row.model_provider.clone(),
                status: Some(row.clone().listing(&self.name, now).status),
            })
            .collect();
        farm.catalogue.change(|page| {
            page.agents.retain(|one| one.kind == Kind::Farm);
            page.agents.extend(listed);
        });
        let guests = rows.into_iter().map(|row| {
            let shown = row.listing(&self.name, now);
            let mut capabilities: Vec<String> = shown.capabilities.into_iter().collect();
            if !capabilities.iter().any(|one| one == CAPABILITY) {
                capabilities.push(CAPABILITY.into());
            }
            GuestFacts {
                facts: AgentFacts { id: shown.id.to_string(), capabilities, model: shown.model_provider, heartbeat: shown.heartbeat_enabled },
                status: shown.status,
                last_check: shown.last_check.map(rfc3339),
                last_check_result: shown.last_check_result,
                last_alert: shown.last_alert,
            }
        });
        farm.membership.set_guests(guests.collect()).await;
        Ok(())
    }

    /// Takes the names of agents of an earlier life in the farm, as soon as its store answers.
    pub(super) async fn admit_all(&self) {
        let Some(farm) = self.farm.get() else { return };
        let Ok(rows) = self.externals().await else { return };
        for row in rows {
            let unit = Unit::Agent(row.id);
            let Some(fence) = self.keeper.claims.get(&unit) else { continue };
            loop {
                match farm.catalogue.admit(&unit, &fence).await {
                    Ok(()) => break,
                    Err(failure) if failure.code == FailureCode::Forbidden => {
                        tracing::error!(%unit, err = %failure, "a program's agent lost its name in the farm; letters to it go to the other gateway");
                        break;
                    }
                    Err(failure) => {
                        tracing::debug!(%unit, err = %failure, "a program's agent is not told of yet");
                        tokio::time::sleep(std::time::Duration::from_secs(2)).await;
                    }
                }
            }
        }
    }
}
