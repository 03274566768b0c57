//! The gateway's side of the farm: what letters from other gateways ask of our agents, and what peers ask for their
//! clients. The farm itself is the crate `clawstead_farm`.

mod desk;
mod handler;
mod http;
mod landlord;
mod lists;
mod relay;
mod replies;
mod runs;

use std::sync::{Arc, OnceLock};

use clawstead_config::Config;
use clawstead_farm::{Farm, membership::AgentFacts};
use clawstead_state::{
    Table,
    keeper::{Keeper, sort},
};
use clawstead_terms::{AgentId, Failure, Fence, SessionKey, Unit};
use serde_json::Value;

pub use desk::Desk;
pub use handler::Handler;
pub use landlord::{Landlord, movables};
pub use lists::widened;
pub use relay::{Elsewhere, HOOK};
pub use replies::ReplyCarrier;

/// The farm, once this gateway has joined it; empty for ever without one.
pub type Cell = Arc<OnceLock<Farm>>;

/// What others are told of our agents.
#[must_use]
pub fn facts(config: &Config) -> Vec<AgentFacts> {
    let fact = |agent: &clawstead_config::Agent| AgentFacts {
        id: agent.id.to_string(),
        capabilities: vec!["sessions.send".into(), "sessions.spawn".into(), "sessions.read".into()],
        model: agent.model.primary.clone(),
        heartbeat: agent.heartbeat.is_some(),
    };
    config.agents.list.iter().map(fact).collect()
}

/// Holds each unit under an epoch above the recorded one, so that a state folder that was lost or restored does not go
/// back to numbers that others have seen.
///
/// # Errors
/// When the store refuses.
pub async fn above(keeper: &Keeper, recorded: std::collections::BTreeMap<Unit, u64>, owner: &str, incarnation: u64) -> Result<(), Failure> {
    for (unit, epoch) in recorded {
        if keeper.claims.get(&unit).is_some_and(|held| held.epoch <= epoch) {
            let fence = Fence { epoch: epoch + 1, owner: owner.to_owned(), incarnation };
            keeper.store.claim(&unit, &fence).await.map_err(sort)?;
            keeper.claims.hold(unit, fence);
        }
    }
    Ok(())
}

/// The agent that the parameters of a call name: by session key, else by id. None when they name none.
#[must_use]
pub fn agent_named(params: &Value) -> Option<AgentId> {
    let text = |name: &str| params.get(name).and_then(Value::as_str).map(str::trim).filter(|text| !text.is_empty());
    let by_key = ["sessionKey", "key", "session_key"].into_iter().filter_map(text).find_map(|key| {
        let (agent, _) = key.strip_prefix("agent:")?.split_once(':')?;
        AgentId::parse(agent).ok()
    });
    by_key.or_else(|| text("agentId").map(AgentId::normalise))
}

/// The agent that a call about a cron job, or about a new one without an agent, concerns. Only where the state is shared:
/// jobs of other gateways' agents can be read there.
pub async fn agent_of_job(keeper: &Keeper, config: &Config, method: &str, params: &Value) -> Option<AgentId> {
    if method == "cron.add" {
        return Some(config.default_agent().clone());
    }
    if !["cron.get", "cron.update", "cron.remove", "cron.run", "cron.runs"].contains(&method) {
        return None;
    }
    let id = ["id", "jobId"].iter().find_map(|name| params.get(*name)?.as_str())?;
    agent_with(keeper, config, Table::CronJobs, id).await
}

/// The agent whose ledger has this run. Only where the state is shared.
pub async fn agent_of_run(keeper: &Keeper, config: &Config, run: &str) -> Option<AgentId> {
    agent_with(keeper, config, Table::Runs, run).await
}

/// The agent that has a row of this key.
async fn agent_with(keeper: &Keeper, config: &Config, table: Table, key: &str) -> Option<AgentId> {
    for agent in &config.agents.list {
        let found = keeper.store.get(&Unit::Agent(agent.id.clone()), table, key).await;
        if found.is_ok_and(|row| row.is_some()) {
            return Some(agent.id.clone());
        }
    }
    None
}

/// The key of an agent's main session.
#[must_use]
pub fn main_of(agent: &AgentId) -> SessionKey {
    SessionKey::main(agent)
}
