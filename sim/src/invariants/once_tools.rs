//! A tool that must run once runs once at most; one that knows repeats is repeated under the same effect id only.

use std::collections::BTreeMap;

use clawstead_terms::EffectClass;

use crate::evidence::Evidence;

pub fn check(evidence: &Evidence) -> Vec<String> {
    let mut faults = Vec::new();
    let mut calls: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    let mut effects: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for effect in &evidence.tools {
        if effect.class == EffectClass::Read {
            continue;
        }
        calls.entry(&effect.call).or_default().push(&effect.effect_id);
        effects.entry(&effect.effect_id).or_default().push(&effect.call);
        if effect.class == EffectClass::Once && calls[effect.call.as_str()].len() > 1 {
            faults.push(format!("call {} of a tool that runs once ran {} times", effect.call, calls[effect.call.as_str()].len()));
        }
    }
    for (call, ids) in &calls {
        if ids.iter().any(|id| id != &ids[0]) {
            faults.push(format!("call {call} ran under several effect ids: {ids:?}"));
        }
    }
    for (effect, made) in &effects {
        if made.iter().any(|call| call != &made[0]) {
            faults.push(format!("effect {effect} stands for several calls: {made:?}"));
        }
    }
    faults
}
