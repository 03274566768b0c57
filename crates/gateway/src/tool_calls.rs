//! The gateway's methods as tools call them: the same router as for everybody, with the scopes an agent has, plus the
//! few `internal.*` calls that no socket reaches.

use std::sync::{Arc, OnceLock};

use arc_swap::ArcSwap;
use async_trait::async_trait;
use serde_json::{Value, json};

use clawstead_agent::{Announce, Lanes, Spawn};
use clawstead_config::Config;
use clawstead_terms::{AgentId, Failure, FailureCode, Retry};
use clawstead_tools::{Rpc, ToolCaller};
use clawstead_wire::ErrorShape;
use clawstead_world::World;

use crate::{
    approvals::Approvals,
    rpc::{Caller, Cx, Readiness, Router},
};

/// Scopes of an agent in a turn: it reads, writes and asks; it decides nothing that a person decides.
const SCOPES: [&str; 3] = ["operator.read", "operator.write", "operator.approvals"];
/// Methods an agent may call that need admin from everybody else: its own scheduled work.
const OWN_ADMIN: [&str; 4] = ["cron.add", "cron.update", "cron.remove", "cron.run"];

/// See the module.
pub struct ToolCalls {
    router: OnceLock<Arc<Router>>,
    approvals: Approvals,
    lanes: OnceLock<Lanes>,
    config: Arc<ArcSwap<Config>>,
    world: World,
}

impl ToolCalls {
    /// Without a router yet: tools are made before the rooms that answer their calls.
    #[must_use]
    pub fn new(approvals: Approvals, config: Arc<ArcSwap<Config>>, world: World) -> Self {
        Self { router: OnceLock::new(), approvals, lanes: OnceLock::new(), config, world }
    }

    /// From now on calls are answered.
    pub fn open(&self, router: Arc<Router>, lanes: Lanes) {
        let _ = self.router.set(router);
        let _ = self.lanes.set(lanes);
    }

    async fn internal(&self, caller: &ToolCaller, method: &str, params: &Value) -> Result<Value, Failure> {
        let text = |key: &str| params.get(key).and_then(Value::as_str).unwrap_or_default();
        match method {
            "internal.exec.policy" => Ok(json!({"file": self.approvals.file().await?})),
            "internal.exec.used" => {
                let now = self.world.clock.now().0;
                let agent = caller.agent.to_string();
                self.approvals.change(|file| file.used(&agent, text("pattern"), text("command"), text("resolvedPath"), now)).await?;
                Ok(json!({"ok": true}))
            }
            "internal.sessions.spawn" => {
                let lanes = self.lanes.get().ok_or_else(|| Failure::unavailable("gateway starting; retry shortly", 500))?;
                let some = |key: &str| Some(text(key).trim()).filter(|t| !t.is_empty()).map(str::to_owned);
                let spawned = lanes
                    .spawn(Spawn {
                        parent: caller.session.clone(),
                        agent: some("agentId").map(|id| AgentId::normalise(&id)),
                        task: some("task").ok_or_else(|| Failure::invalid("task must not be empty"))?,
                        label: some("label"),
                        model: some("model"),
                        thinking: some("thinking"),
                        timeout_ms: params.get("runTimeoutSeconds").and_then(Value::as_u64).filter(|s| *s > 0).map(|s| s.saturating_mul(1_000)),
                        effect_id: some("idempotencyKey").unwrap_or_else(|| self.world.rng.uuid()),
                        announce: Announce::ToParent,
                    })
                    .await?;
                Ok(json!({"status": "accepted", "childSessionKey": spawned.session, "runId": spawned.run_id}))
            }
            _ => Err(Failure::not_found(format!("unknown method: {method}"))),
        }
    }
}

#[async_trait]
impl Rpc for ToolCalls {
    async fn call(&self, caller: &ToolCaller, method: &str, params: Value) -> Result<Value, Failure> {
        if method.starts_with("internal.") {
            return self.internal(caller, method, &params).await;
        }
        let router = self.router.get().ok_or_else(|| Failure::unavailable("gateway starting; retry shortly", 500))?;
        let mut scopes: Vec<String> = SCOPES.iter().map(|s| (*s).to_owned()).collect();
        if OWN_ADMIN.contains(&method) {
            self.check_own(caller, &params)?;
            scopes.push("operator.admin".into());
        }
        let cx = Cx::detached(Caller::agent(&caller.agent, caller.session.clone(), caller.run.clone(), scopes));
        let answer = router.call(cx, method, params, Readiness::Ready, self.world.clock.now().0).await.map_err(unsorted)?;
        serde_json::from_str(answer.get()).map_err(|e| Failure::internal(e.to_string()))
    }
}

impl ToolCalls {
    /// An agent schedules work for itself; for another agent only where it may write to that one.
    fn check_own(&self, caller: &ToolCaller, params: &Value) -> Result<(), Failure> {
        let Some(other) = params.get("agentId").or_else(|| params.pointer("/patch/agentId")).and_then(Value::as_str) else { return Ok(()) };
        let config = self.config.load();
        let rules = json!({"enabled": config.tools.agent_to_agent, "allow": config.tools.agent_to_agent_allow});
        crate::policy::may_reach(&rules, &caller.agent, &AgentId::normalise(other)).map_err(|why| Failure::new(FailureCode::Forbidden, why))
    }
}

fn unsorted(err: ErrorShape) -> Failure {
    let code = match err.code.as_str() {
        "FORBIDDEN" | "NOT_PAIRED" => FailureCode::Forbidden,
        "UNAVAILABLE" => FailureCode::Unavailable,
        "APPROVAL_NOT_FOUND" => FailureCode::NotFound,
        _ => FailureCode::InvalidRequest,
    };
    let retry = match (err.retryable, err.retry_after_ms) {
        (Some(true), Some(ms)) => Retry::AfterMs(ms),
        (Some(true), None) => Retry::Now,
        _ => Retry::Never,
    };
    Failure { code, message: err.message, retry, hint: None }
}
