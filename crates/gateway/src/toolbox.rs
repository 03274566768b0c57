//! Tools as a lane offers them: the policy of agent and session, and one way to call each.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use arc_swap::ArcSwap;
use async_trait::async_trait;
use serde_json::Value;

use clawstead_agent::{Offer, ToolScope, Toolbox as Wanted};
use clawstead_config::Config;
use clawstead_terms::{EffectClass, ToolDefinition};
use clawstead_tools::{
    ToolCx, ToolError, ToolOutput, Toolbox,
    policy::{PolicyInput, Rank, Sandboxed, ToolPolicy},
};

/// Offers kept ready: agents × ranks.
const OFFERS_MAX: usize = 256;

/// The tools of this gateway under the config in force.
pub struct Tools {
    /// All of them.
    pub toolbox: Arc<Toolbox>,
    /// The config in force.
    pub config: Arc<ArcSwap<Config>>,
    ready: Mutex<Ready>,
}

/// Offers made under one config, by agent, rank and denials.
#[derive(Default)]
struct Ready {
    hash: String,
    offers: BTreeMap<(String, u8, Vec<String>), Arc<Allowed>>,
}

impl Tools {
    /// Nothing is made before a turn wants it.
    #[must_use]
    pub fn new(toolbox: Arc<Toolbox>, config: Arc<ArcSwap<Config>>) -> Self {
        Self { toolbox, config, ready: Mutex::default() }
    }

    /// The policy for a turn.
    #[must_use]
    pub fn policy(&self, scope: &ToolScope) -> ToolPolicy {
        let config = self.config.load();
        let one = config.agents.get(scope.agent.as_str());
        let model = one.and_then(|a| a.model.primary.as_deref()).unwrap_or_default();
        let (provider, model) = model.split_once('/').unwrap_or(("", model));
        let depth_max = one.map_or(5, |a| a.subagents.max_spawn_depth);
        ToolPolicy::of(&PolicyInput {
            global: config.raw("tools"),
            agent: one.map(|a| &a.tools_own.0),
            provider,
            model,
            further: Vec::new(),
            sandboxed: Sandboxed::No,
            rank: match scope.spawn_depth {
                0 => Rank::Main,
                depth if depth < depth_max => Rank::Orchestrator,
                _ => Rank::Leaf,
            },
            turn_deny: &scope.deny,
        })
    }
}

impl Wanted for Tools {
    fn offer(&self, scope: &ToolScope) -> Arc<dyn Offer> {
        let hash = self.config.load().hash.clone();
        let key = (scope.agent.to_string(), u8::try_from(scope.spawn_depth.min(9)).unwrap_or(9), scope.deny.clone());
        let mut ready = self.ready.lock().unwrap_or_else(PoisonError::into_inner);
        if ready.hash != hash || ready.offers.len() >= OFFERS_MAX {
            *ready = Ready { hash, offers: BTreeMap::new() };
        }
        if let Some(offer) = ready.offers.get(&key) {
            return offer.clone();
        }
        let policy = self.policy(scope);
        let offer = Arc::new(Allowed { definitions: self.toolbox.offer(&policy), policy, toolbox: self.toolbox.clone() });
        ready.offers.insert(key, offer.clone());
        offer
    }
}

/// The tools one turn may use.
struct Allowed {
    toolbox: Arc<Toolbox>,
    policy: ToolPolicy,
    definitions: Arc<[ToolDefinition]>,
}

#[async_trait]
impl Offer for Allowed {
    fn definitions(&self) -> Arc<[ToolDefinition]> {
        self.definitions.clone()
    }

    fn class(&self, name: &str) -> Option<EffectClass> {
        // A denied tool is called all the same: the call says why it is denied, and has no effect.
        self.toolbox.spec(name).map(|spec| spec.class)
    }

    async fn call(&self, name: &str, cx: ToolCx, args: Value) -> Result<ToolOutput, ToolError> {
        self.toolbox.call_allowed(&self.policy, name, cx, args, None).await
    }
}
