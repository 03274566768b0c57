//! The gateway's methods as tools call them: the same router as for everybody, with the scopes an agent has, plus the
//! few `internal.*` calls that no socket reaches.

use std::sync::{Arc, OnceLock};

use arc_swap::ArcSwap;
use async_trait::async_trait;
use serde_json::{Value, json};

use clawstead_agent::{Announce, Lanes, Spawn};
use clawstead_config::Config;
use clawstead_terms::{Address, AgentId, Failure, FailureCode, Origin, Part, RunId, SessionKey, TurnOptions, Unit};
use clawstead_tools::{Rpc, ToolCaller};
use clawstead_world::{Post as _, World};

use crate::{
    approvals::Approvals,
    farm::Cell,
    post_office::PostOffice,
    rpc::{Caller, Cx, Readiness, Router},
};

/// Scopes of an agent in a turn: it reads, writes and asks; it decides nothing that a person decides.
const SCOPES: [&str; 3] = ["operator.read", "operator.write", "operator.approvals"];
/// Methods an agent may call that need admin from everybody else: its own scheduled work.
const OWN_ADMIN: [&str; 4] = ["cron.add", "cron.update", "cron.remove", "cron.run"];

/// Questions that the agents of other gateways answer, where their policy lets us ask.
const ASKED_ELSEWHERE: [&str; 6] = ["sessions.list", "sessions.resolve", "sessions.describe", "sessions.preview", "sessions.get", "chat.history"];
/// How long an answer from elsewhere is waited for.
const ASK_LIMIT: std::time::Duration = std::time::Duration::from_secs(15);

/// See the module.
pub struct ToolCalls {
    router: OnceLock<Arc<Router>>,
    approvals: Approvals,
    lanes: OnceLock<Lanes>,
    post: OnceLock<Arc<PostOffice>>,
    farm: Cell,
    config: Arc<ArcSwap<Config>>,
    world: World,
}

impl ToolCalls {
    /// Without a router yet: tools are made before the rooms that answer their calls.
    #[must_use]
    pub fn new(approvals: Approvals, config: Arc<ArcSwap<Config>>, world: World, farm: Cell) -> Self {
        Self { router: OnceLock::new(), approvals, lanes: OnceLock::new(), post: OnceLock::new(), farm, config, world }
    }

    /// From now on calls are answered.
    pub fn open(&self, router: Arc<Router>, lanes: Lanes, post: Arc<PostOffice>) {
        let _ = self.router.set(router);
        let _ = self.lanes.set(lanes);
        let _ = self.post.set(post);
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
                if let Some(agent) = some("agentId").map(|id| AgentId::normalise(&id)).filter(|agent| self.is_elsewhere(agent)) {
                    let task = some("task").ok_or_else(|| Failure::invalid("task must not be empty"))?;
                    let effect = some("idempotencyKey").unwrap_or_else(|| self.world.rng.uuid());
                    return self.spawn_elsewhere(caller, agent, task, &effect).await;
                }
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
        if let Some(answer) = self.ask_elsewhere(caller, method, &params).await {
            return answer;
        }
        self.routed(caller, method, params, Reach::Farm).await
    }
}

/// Where a tool's call may be answered.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Reach {
    /// Wherever the answer is.
    Farm,
    /// Here.
    Here,
}

impl ToolCalls {
    /// As [`Rpc::call`], for a question that another gateway asks: it goes no further.
    ///
    /// # Errors
    /// As the method.
    pub async fn call_here(&self, caller: &ToolCaller, method: &str, params: Value) -> Result<Value, Failure> {
        self.routed(caller, method, params, Reach::Here).await
    }

    async fn routed(&self, caller: &ToolCaller, method: &str, params: Value, reach: Reach) -> Result<Value, Failure> {
        let router = self.router.get().ok_or_else(|| Failure::unavailable("gateway starting; retry shortly", 500))?;
        let mut scopes: Vec<String> = SCOPES.iter().map(|s| (*s).to_owned()).collect();
        if OWN_ADMIN.contains(&method) {
            self.check_own(caller, &params)?;
            scopes.push("operator.admin".into());
        }
        let cx = Cx::detached(Caller::agent(&caller.agent, caller.session.clone(), caller.run.clone(), scopes));
        let now = self.world.clock.now().0;
        let answer = match reach {
            Reach::Farm => router.call(cx, method, params, Readiness::Ready, now).await,
            Reach::Here => router.call_here(cx, method, params, Readiness::Ready, now).await,
        };
        serde_json::from_str(answer.map_err(Failure::from)?.get()).map_err(|e| Failure::internal(e.to_string()))
    }

    fn is_elsewhere(&self, agent: &AgentId) -> bool {
        let Some(farm) = self.farm.get() else { return false };
        let unit = Unit::Agent(agent.clone());
        // An agent that moves is in every config.
        (farm.is_movable(&unit) || self.config.load().agents.get(agent.as_str()).is_none()) && farm.elsewhere(&unit).is_some()
    }

    /// The answer to a question about an agent of another gateway; none when it is about one of ours, or no question.
    async fn ask_elsewhere(&self, caller: &ToolCaller, method: &str, params: &Value) -> Option<Result<Value, Failure>> {
        let farm = self.farm.get().filter(|_| ASKED_ELSEWHERE.contains(&method))?;
        let agent = crate::farm::agent_named(params).filter(|agent| self.is_elsewhere(agent))?;
        let (from, to) = (Unit::Agent(caller.agent.clone()), Unit::Agent(agent));
        Some(farm.mailroom.call(&from, &to, method, params.clone(), ASK_LIMIT).await)
    }

    /// A sub-agent's session at another gateway: made there when the letter arrives; its result comes back as a letter.
    async fn spawn_elsewhere(&self, caller: &ToolCaller, agent: AgentId, task: String, effect: &str) -> Result<Value, Failure> {
        let post = self.post.get().ok_or_else(|| Failure::unavailable("gateway starting; retry shortly", 500))?;
        let session = SessionKey::resolve(&format!("agent:{agent}:subagent:{effect}"), &agent).map_err(|err| Failure::invalid(err.to_string()))?;
        let from = Origin::Agent { agent: caller.agent.clone(), session: caller.session.clone() };
        let options = TurnOptions { light_context: true, ..TurnOptions::default() };
        let mut letter = crate::letters::letter(&self.world, from, session.clone(), RunId::from(effect), vec![Part::text(task)], options);
        letter.reply_to = Some(Address { agent: caller.agent.clone(), session: caller.session.clone() });
        post.deliver(letter).await?;
        Ok(json!({"status": "accepted", "childSessionKey": session, "runId": effect}))
    }

    /// An agent schedules work for itself; for another agent only where it may write to that one.
    fn check_own(&self, caller: &ToolCaller, params: &Value) -> Result<(), Failure> {
        let Some(other) = params.get("agentId").or_else(|| params.pointer("/patch/agentId")).and_then(Value::as_str) else { return Ok(()) };
        let config = self.config.load();
        let rules = json!({"enabled": config.tools.agent_to_agent, "allow": config.tools.agent_to_agent_allow});
        crate::policy::may_reach(&rules, &caller.agent, &AgentId::normalise(other)).map_err(|why| Failure::new(FailureCode::Forbidden, why))
    }
}
