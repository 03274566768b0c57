//! Calls of clients for agents that live at another gateway: sent there over the link, answered from there, with the
//! events of the session on the way back.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use serde_json::{
    Value, json,
    value::{RawValue, to_raw_value},
};

use ::http::{Request, Response};
use arc_swap::ArcSwap;
use axum::body::Body;
use clawstead_agent::Lanes;
use clawstead_config::Config;
use clawstead_farm::{
    Located,
    link::{CALL_DEADLINE_MAX_MS, Call, Progress},
};
use clawstead_terms::{AgentId, Failure, SessionKey, Unit};
use clawstead_wire::{ErrorShape, Scope, methods, scope::needed};
use clawstead_world::World;

use super::{
    Cell, agent_named, http, lists,
    runs::{Runs, run_named},
};
use crate::{
    fanout::Fanout,
    policy,
    rpc::{Caller, Cx},
};

/// Calls a method here for a client there.
pub const CALL: &str = "gateway.call";
/// Hears the events of a session here.
pub const LISTEN: &str = "gateway.listen";
/// Gives a webhook's wish to an agent here.
pub const HOOK: &str = "gateway.hook";
/// How long a call may take, ms.
const CALL_MS: u64 = 10 * 60_000;
/// Calls that last as long as a turn.
const TURNS: [&str; 2] = ["agent", "agent.wait"];
/// How long the events of a session are heard after the last call about it, ms.
const LISTEN_MS: u64 = 30 * 60_000;
/// How long a call waits for somebody to have its agent: longer than any take-over but one that waits for an election.
pub const OWNER_WAIT: Duration = Duration::from_secs(30);
/// Between two tries of a call whose gateway went away.
const AGAIN: Duration = Duration::from_millis(200);
/// Sessions elsewhere whose events are heard at once.
const HEARD_MAX: usize = 512;
/// Methods that are about this gateway even when they name an agent elsewhere.
const OWN: [&str; 2] = ["farm.letters", "farm.dlq.list"];

/// Nothing happens twice when it is asked twice.
fn is_repeatable(method: &str, params: &Value) -> bool {
    let reads = methods::find(method).is_some_and(|spec| needed(spec, params) == Scope::Read);
    reads || TURNS.contains(&method) || params.get("idempotencyKey").is_some_and(Value::is_string)
}

/// Waits until the record of a unit names another owner than this one.
async fn has_left(farm: &clawstead_farm::Farm, unit: &Unit, gateway: &str) {
    let Some(ownership) = farm.ownership() else { return std::future::pending().await };
    let mut changed = ownership.changes();
    loop {
        let owner = ownership.standing().remove(unit).and_then(|standing| standing.record).map(|record| record.owner);
        if owner.is_some_and(|owner| !owner.is_empty() && owner != gateway) {
            return;
        }
        if changed.changed().await.is_err() {
            return std::future::pending().await;
        }
    }
}

/// The asking side.
pub struct Elsewhere {
    farm: Cell,
    fanout: Fanout,
    lanes: Lanes,
    config: Arc<ArcSwap<Config>>,
    world: World,
    runs: Runs,
    heard: Arc<Mutex<BTreeMap<SessionKey, tokio::time::Instant>>>,
}

impl Elsewhere {
    /// Over this farm; events go to this fanout.
    #[must_use]
    pub fn new(farm: Cell, fanout: Fanout, lanes: Lanes, config: Arc<ArcSwap<Config>>, world: World) -> Self {
        Self { farm, fanout, lanes, config, world, runs: Runs::default(), heard: Arc::default() }
    }

    /// The answer of the gateway that has the agent; none when the call is ours to answer.
    pub async fn call(&self, cx: &Cx, method: &str, params: &Value) -> Option<Result<Box<RawValue>, ErrorShape>> {
        let farm = self.farm.get()?;
        // Agents write letters; only people and programs are relayed.
        if cx.caller.session.is_some() || OWN.contains(&method) {
            return None;
        }
        if farm.ownership().is_some()
            && let Some(agent) = self.movable(farm, method, params).await
        {
            return self.follow(farm, cx, method, params, &agent).await;
        }
        if let Some(agent) = agent_named(params) {
            let place = farm.elsewhere(&Unit::Agent(agent.clone()))?;
            return Some(self.relay(farm, cx, method, params, Some(&agent), &place).await);
        }
        // A run is where its agent is; its name alone says nothing about that.
        let gateway = self.runs.gateway_of(farm, &self.lanes, run_named(method, params)?).await?;
        Some(self.relay(farm, cx, method, params, None, &gateway).await)
    }

    /// The agent that a call is about, where it is one that moves.
    async fn movable(&self, farm: &clawstead_farm::Farm, method: &str, params: &Value) -> Option<AgentId> {
        let config = self.config.load_full();
        let agent = match agent_named(params) {
            Some(agent) => agent,
            None => match run_named(method, params) {
                Some(run) => super::agent_of_run(farm.keeper(), &config, run).await?,
                None => super::agent_of_job(farm.keeper(), &config, method, params).await?,
            },
        };
        farm.is_movable(&Unit::Agent(agent.clone())).then_some(agent)
    }

    /// The answer of whoever has an agent that moves; none when that is us. What may be asked twice is asked again when
    /// the gateway that has the agent goes away meanwhile: the client notices nothing but the time it takes.
    async fn follow(&self, farm: &clawstead_farm::Farm, cx: &Cx, method: &str, params: &Value, agent: &AgentId) -> Option<Result<Box<RawValue>, ErrorShape>> {
        let unit = Unit::Agent(agent.clone());
        let until = tokio::time::Instant::now() + OWNER_WAIT;
        let repeatable = is_repeatable(method, params);
        loop {
            let left = until.saturating_duration_since(tokio::time::Instant::now());
            let place = match farm.located(&unit, left).await {
                Located::Here => return None,
                Located::At(place) => place,
                Located::Nobody => {
                    let text = format!("no gateway has agent {agent} now");
                    return Some(Err(ErrorShape::from(Failure::unavailable(text, 2_000).with_hint("openclaw farm shards"))));
                }
            };
            // A gateway that is there and cannot do it (its state store does not answer) says nothing for long.
            let answer = tokio::select! {
                biased;
                answer = self.relay(farm, cx, method, params, Some(agent), &place) => answer,
                () = has_left(farm, &unit, &place), if repeatable => {
                    Err(ErrorShape::from(Failure::unavailable(format!("agent {agent} left {place} meanwhile"), 500)))
                }
            };
            match answer {
                Err(err) if repeatable && err.code == "UNAVAILABLE" && tokio::time::Instant::now() + AGAIN < until => {
                    tracing::debug!(method, %agent, gateway = place, err = err.message, "asked again, of whoever has the agent then");
                    tokio::time::sleep(AGAIN).await;
                }
                answer => return Some(answer),
            }
        }
    }

    /// True for calls about agents that move which may be asked twice.
    #[must_use]
    pub fn may_ask_again(&self, method: &str, params: &Value) -> bool {
        self.farm.get().is_some_and(|farm| farm.ownership().is_some()) && is_repeatable(method, params)
    }

    /// True for calls whose answer is put together from all gateways; the method answers with [`lists::widened`]
    /// parameters first, then [`Self::complete`] adds what the others have.
    #[must_use]
    pub fn spans(&self, cx: &Cx, method: &str, params: &Value) -> bool {
        let alone = self.farm.get().is_none_or(|farm| !farm.membership.gateways().iter().any(|gateway| !gateway.is_self && !gateway.agents.is_empty()));
        if method != "sessions.list" || alone || agent_named(params).is_some() {
            return false;
        }
        // An agent that may not see others' sessions here sees none elsewhere either.
        let config = self.config.load();
        let hidden = matches!(config.tools.sessions_visibility.as_str(), "self" | "tree" | "agent") || !config.tools.agent_to_agent;
        cx.caller.session.is_none() || !hidden
    }

    /// Adds the sessions of the other gateways to ours.
    ///
    /// # Errors
    /// When our own answer is no JSON, which cannot be.
    pub async fn complete(&self, cx: &Cx, params: &Value, own: &RawValue) -> Result<Box<RawValue>, ErrorShape> {
        let broken = |err: serde_json::Error| ErrorShape::unavailable(err.to_string());
        let own: Value = serde_json::from_str(own.get()).map_err(broken)?;
        let asking = cx.caller.session.as_ref().map(SessionKey::agent);
        let mut caller = caller_json(&cx.caller);
        if let Some(agent) = &asking {
            caller["agent"] = json!(agent);
        }
        let others = match self.farm.get() {
            Some(farm) => lists::ask(farm, &lists::widened(params), &caller).await,
            None => lists::Others::default(),
        };
        let config = self.config.load();
        let rules = json!({"enabled": config.tools.agent_to_agent, "allow": config.tools.agent_to_agent_allow});
        let visible = |row: &Value| match (&asking, row["agentId"].as_str()) {
            (None, _) => true,
            (Some(asking), Some(other)) => policy::may_reach(&rules, asking, &AgentId::normalise(other)).is_ok(),
            (Some(_), None) => false,
        };
        to_raw_value(&lists::merged(params, own, others, visible)).map_err(broken)
    }

    /// An HTTP request that is ours to answer, or the answer of the gateway that has its agent.
    ///
    /// # Errors
    /// That answer.
    pub async fn http(&self, caller: &Caller, request: Request<Body>) -> Result<Request<Body>, Response<Body>> {
        match self.farm.get() {
            Some(farm) => http::elsewhere(farm, caller_json(caller), request).await,
            None => Ok(request),
        }
    }

    async fn relay(
        &self,
        farm: &clawstead_farm::Farm,
        cx: &Cx,
        method: &str,
        params: &Value,
        agent: Option<&AgentId>,
        gateway: &str,
    ) -> Result<Box<RawValue>, ErrorShape> {
        let Some(links) = &farm.links else {
            let what = agent.map_or_else(|| "the run is".to_owned(), |agent| format!("agent {agent} lives"));
            let text = format!("{what} at {gateway}, and this gateway has no link to it");
            return Err(ErrorShape::from(Failure::unavailable(text, 5_000).with_hint("set farm.peer at both gateways, or ask that gateway itself")));
        };
        if let Some(key) = agent.and_then(|agent| session_of(params, agent)) {
            self.hear(farm, gateway, key, caller_json(&cx.caller));
        }
        // Before it is sent: whoever asks about the run meanwhile is sent there too.
        self.runs.remember_call(params, gateway);
        let deadline_ms = if TURNS.contains(&method) { CALL_DEADLINE_MAX_MS } else { CALL_MS };
        let call = Call { caller: caller_json(&cx.caller), deadline_ms, ..Call::new(CALL, json!({"method": method, "params": params})) };
        let mut running = links.open(gateway, call).await.map_err(ErrorShape::from)?;
        loop {
            match running.next().await {
                Some(Progress::Event(event)) if event.topic == "first" => cx.first_answer(&event.payload),
                Some(Progress::Event(_)) => {}
                Some(Progress::Answer(Ok(value))) => {
                    if let Some(run) = value.get("runId").and_then(Value::as_str) {
                        self.runs.remember(run, gateway);
                    }
                    return to_raw_value(&value).map_err(|err| ErrorShape::unavailable(err.to_string()));
                }
                Some(Progress::Answer(Err(failure))) => return Err(ErrorShape::from(failure)),
                None => return Err(ErrorShape::from(Failure::unavailable(format!("the link to {gateway} was lost; whether it was done is not known"), 1_000))),
            }
        }
    }

    /// Hears the events of a session elsewhere for a while, once however many ask.
    fn hear(&self, farm: &clawstead_farm::Farm, gateway: &str, key: SessionKey, caller: Value) {
        let Some(links) = farm.links.clone() else { return };
        {
            let mut heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
            let until = tokio::time::Instant::now() + Duration::from_millis(LISTEN_MS);
            if let Some(end) = heard.get_mut(&key) {
                *end = until;
                return;
            }
            if heard.len() >= HEARD_MAX {
                return tracing::warn!(session = %key, "too many sessions elsewhere are heard at once; this one's events do not come");
            }
            heard.insert(key.clone(), until);
        }
        let (fanout, heard, stop) = (self.fanout.clone(), Arc::clone(&self.heard), self.world.tasks.stopping());
        let (farm, mut gateway, unit) = (farm.clone(), gateway.to_owned(), Unit::Agent(key.agent()));
        tokio::spawn(async move {
            let hearing = async {
                loop {
                    let call = Call { deadline_ms: LISTEN_MS, caller: caller.clone(), ..Call::new(LISTEN, json!({"sessionKey": key})) };
                    let ended = match links.open(&gateway, call).await {
                        Ok(mut running) => loop {
                            match running.next().await {
                                Some(Progress::Event(event)) => fanout.relayed(&key, &event.topic, &event.payload),
                                Some(Progress::Answer(answer)) => break answer.map(drop),
                                None => break Err(Failure::unavailable("the link was lost", 1_000)),
                            }
                        },
                        Err(failure) => Err(failure),
                    };
                    let over = heard.lock().unwrap_or_else(PoisonError::into_inner).get(&key).is_none_or(|end| *end <= tokio::time::Instant::now());
                    if over || !farm.is_movable(&unit) {
                        return ended;
                    }
                    // The agent goes on somewhere; whoever listens goes on listening.
                    tokio::time::sleep(AGAIN).await;
                    match farm.located(&unit, OWNER_WAIT).await {
                        Located::At(place) => gateway = place,
                        Located::Here | Located::Nobody => return ended,
                    }
                }
            };
            tokio::select! {
                biased;
                () = stop.cancelled() => {}
                ended = hearing => {
                    if let Err(failure) = ended {
                        tracing::debug!(session = %key, err = %failure, "events of a session elsewhere are not heard any more");
                    }
                }
            }
            heard.lock().unwrap_or_else(PoisonError::into_inner).remove(&key);
        });
    }
}

/// The session that a call is about, for its events.
fn session_of(params: &Value, agent: &AgentId) -> Option<SessionKey> {
    let text = ["sessionKey", "key"].iter().find_map(|name| params.get(*name)?.as_str())?;
    SessionKey::resolve(text, agent).ok()
}

fn caller_json(caller: &Caller) -> Value {
    json!({"connId": caller.conn_id, "scopes": caller.scopes, "deviceId": caller.device_id, "clientId": caller.client_id.map(|id| id.as_str()), "user": caller.user})
}
