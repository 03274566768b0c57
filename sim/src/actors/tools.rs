//! Three tools, one of each class of effects, that write down what they did.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use serde_json::{Value, json};

use clawstead_terms::EffectClass;
use clawstead_tools::{AnyTool, ToolCx, ToolError, ToolOutput, ToolSpec};

use crate::{
    dice::Dice,
    outside::{Effect, Outside, ToolEffect},
};

const fn spec(name: &'static str, class: EffectClass) -> ToolSpec {
    ToolSpec { name, title: name, description: "Does something in a simulation.", group: "group:sim", class, timeout_ms: 30_000 }
}

struct Simulated {
    spec: ToolSpec,
    outside: Arc<Outside>,
    life: u64,
}

/// `sim_once`, `sim_idem`, `sim_read`.
#[must_use]
pub fn all(outside: &Arc<Outside>, life: u64) -> Vec<Arc<dyn AnyTool>> {
    [("sim_once", EffectClass::Once), ("sim_idem", EffectClass::Idempotent), ("sim_read", EffectClass::Read)]
        .into_iter()
        .map(|(name, class)| Arc::new(Simulated { spec: spec(name, class), outside: Arc::clone(outside), life }) as Arc<dyn AnyTool>)
        .collect()
}

#[async_trait]
impl AnyTool for Simulated {
    fn spec(&self) -> ToolSpec {
        self.spec
    }

    fn parameters(&self) -> Value {
        json!({"type": "object", "properties": {"call": {"type": "string"}}})
    }

    async fn call(&self, cx: ToolCx, args: Value) -> Result<ToolOutput, ToolError> {
        let call = args.get("call").and_then(Value::as_str).unwrap_or("?").to_owned();
        let mut dice = Dice::of(self.outside.seed, &format!("tool {call} {}", self.life));
        let healed = self.outside.is_healed();
        self.outside.alive(self.life).await;
        let effect = Effect { life: self.life, agent: Some(cx.agent.to_string()), effect_id: cx.effect_id.clone(), began_ms: self.outside.now_ms() };
        self.outside.seen().effects.push(effect);
        tokio::time::sleep(Duration::from_millis(dice.below(300))).await;
        self.outside.alive(self.life).await;
        self.outside.tell("tool", format!("{} {call} effect={}", self.spec.name, cx.effect_id));
        self.outside.seen().tools.push(ToolEffect { class: self.spec.class, call, effect_id: cx.effect_id.clone() });
        tokio::time::sleep(Duration::from_millis(dice.below(300))).await;
        if !healed && dice.often(20) {
            tokio::time::sleep(Duration::from_secs(40)).await;
        }
        if !healed && dice.often(10) {
            std::future::pending::<()>().await;
        }
        if !healed && dice.often(50) {
            return Err(ToolError::Failed("simulated failure".into()));
        }
        Ok(ToolOutput::text(format!("{} worked", self.spec.name)))
    }
}
