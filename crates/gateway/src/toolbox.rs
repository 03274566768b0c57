//! Tools as a lane offers them: the policy of agent and session, and one way to call each.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use arc_swap::ArcSwap;
use async_trait::async_trait;
use serde_json::Value;

use clawstead_agent::{Offer, OfferedTool, ToolScope, Toolbox as Wanted};
use clawstead_config::Config;
use clawstead_tools::{
    AnyTool, ToolCx, ToolError, ToolOutput, ToolSpec, Toolbox,
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
    offers: BTreeMap<(String, u8, Vec<String>), Offer>,
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
    fn offer(&self, scope: &ToolScope) -> Offer {
        let hash = self.config.load().hash.clone();
        let key = (scope.agent.to_string(), u8::try_from(scope.spawn_depth.min(9)).unwrap_or(9), scope.deny.clone());
        let mut ready = self.ready.lock().unwrap_or_else(PoisonError::into_inner);
        if ready.hash != hash || ready.offers.len() >= OFFERS_MAX {
            *ready = Ready { hash, offers: BTreeMap::new() };
        }
        if let Some(offer) = ready.offers.get(&key) {
            return offer.clone();
        }
        let definitions = self.toolbox.offer(&self.policy(scope));
        let tools = definitions
            .iter()
            .filter_map(|definition| {
                let spec = *self.toolbox.spec(&definition.name)?;
                let tool: Arc<dyn AnyTool> = Arc::new(Boxed { toolbox: self.toolbox.clone(), spec, parameters: definition.parameters.clone() });
                Some((definition.name.clone(), OfferedTool { class: spec.class, timeout_ms: spec.timeout_ms, tool }))
            })
            .collect();
        let offer = Offer { definitions, tools: Arc::new(tools) };
        ready.offers.insert(key, offer.clone());
        offer
    }
}

/// A tool called through the box: isolation, time limit and output bound are there.
struct Boxed {
    toolbox: Arc<Toolbox>,
    spec: ToolSpec,
    parameters: Value,
}

#[async_trait]
impl AnyTool for Boxed {
    fn spec(&self) -> ToolSpec {
        self.spec
    }

    fn parameters(&self) -> Value {
        self.parameters.clone()
    }

    async fn call(&self, cx: ToolCx, args: Value) -> Result<ToolOutput, ToolError> {
        self.toolbox.call(self.spec.name, cx, args, None).await
    }
}
