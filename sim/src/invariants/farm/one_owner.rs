//! I3: no effect of an agent begins in a gateway after another one has taken the agent, and epochs only grow.

use std::collections::BTreeMap;

use clawstead_agent::turn;
use clawstead_terms::{AgentId, Unit};

use super::End;
use crate::outside::{Claim, Effect};

pub fn end(end: &End<'_>) -> Vec<String> {
    let (effects, claims) = {
        let seen = end.land.outside.seen();
        (seen.effects.clone(), seen.claims.clone())
    };
    let mut faults = Vec::new();
    let mut taken: BTreeMap<&str, Vec<&Claim>> = BTreeMap::new();
    // Each gateway has a global unit of its own; agents are one of a kind.
    for claim in claims.iter().filter(|claim| matches!(Unit::parse(&claim.unit), Some(Unit::Agent(_)))) {
        let before = taken.entry(&claim.unit).or_default();
        if let Some(last) = before.last().filter(|last| last.epoch > claim.epoch) {
            faults.push(format!("{} was taken under {} after {}", claim.unit, claim.epoch, last.epoch));
        }
        before.push(claim);
    }
    // A platform sees an account; whose reply it was stands in the ledger of runs.
    let writers: BTreeMap<String, &str> = end.evidence.runs.keys().map(|(agent, run)| (turn::reply_id(&run.as_str().into()), agent.as_str())).collect();
    for effect in &effects {
        let Some(agent) = effect.agent.as_deref().or_else(|| writers.get(&effect.effect_id).copied()) else { continue };
        let unit = Unit::Agent(AgentId::normalise(agent)).to_string();
        let held = taken.get(unit.as_str()).and_then(|claims| claims.iter().rev().find(|claim| before(claim, effect)));
        if let Some(claim) = held.filter(|claim| claim.life != effect.life) {
            faults.push(format!(
                "{} of {agent} began at {} in life {}, and life {} had taken the agent at {} under {}",
                effect.effect_id, effect.began_ms, effect.life, claim.life, claim.at_ms, claim.epoch
            ));
        }
    }
    faults
}

/// True when the claim was there before the effect began. Within one millisecond a gateway's own claim is.
fn before(claim: &Claim, effect: &Effect) -> bool {
    claim.at_ms < effect.began_ms || (claim.at_ms == effect.began_ms && claim.life == effect.life)
}
