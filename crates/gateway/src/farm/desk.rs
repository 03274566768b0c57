//! What other gateways ask of this one for their clients, their agents and their hooks: checked against `farm.policy`, then
//! answered by the same methods and routes as for everybody.

use std::{
    sync::{Arc, Mutex, OnceLock, PoisonError},
    time::Duration,
};

use arc_swap::ArcSwap;
use async_trait::async_trait;
use serde_json::{Value, json};

use clawstead_agent::Lanes;
use clawstead_cluster::{
    envelope::Refusal,
    policy::{CLIENT_PREFIX, CLIENTS_READ, CLIENTS_WRITE, Limiter, Subject},
};
use clawstead_config::Config;
use clawstead_farm::{
    Relay,
    link::{CALL_DEADLINE_MAX_MS, Call, EventSink},
    mailroom::{READ_CAPABILITY, Witness as _},
};
use clawstead_terms::{AgentId, Failure, FailureCode, RunId, SessionKey, Unit};
use clawstead_wire::{Scope, methods, scope::needed};
use clawstead_world::World;

use super::{
    Cell, agent_named,
    http::{self, HTTP},
    lists::{self, SESSIONS},
    main_of,
    relay::{CALL, HOOK, LISTEN},
    replies::{self, REPLY},
    runs::{self, RUN, run_named},
};
use crate::{
    doors::{Doors, hooks::Hooks},
    fanout::{Fanout, Item, Listener, Next, Outbox, Subscriptions},
    rpc::{Caller, Cx, Locality, Readiness, Role, Router},
};

/// Scopes that a peer can lend its clients here: they read and write. Whoever administers a gateway, pairs devices or
/// decides approvals asks that gateway itself, so that a stolen gateway key rules one gateway only.
const SCOPES_LENT: [&str; 2] = ["operator.read", "operator.write"];
/// Events of a session.
const RELAYED: [&str; 5] = ["agent", "chat", "session.message", "session.approval", "sessions.changed"];
/// Characters of a client's name that policies see.
const NAME_MAX: usize = 64;
/// What `agent.wait` waits when its caller names no time, ms; as the method has it.
const WAIT_MS: u64 = 30_000;

/// The answering side.
pub struct Desk {
    /// The methods.
    pub router: Arc<Router>,
    /// Who hears what happens.
    pub fanout: Fanout,
    /// Runs.
    pub lanes: Lanes,
    /// Our agents.
    pub config: Arc<ArcSwap<Config>>,
    /// Whose policy decides.
    pub farm: Cell,
    /// Clock and chance.
    pub world: World,
    /// What was allowed in the last minute.
    pub limiter: Mutex<Limiter>,
    /// HTTP routes and hooks, once they are there.
    pub open: OnceLock<(Arc<Doors>, Arc<Hooks>)>,
    /// Replies on their way.
    pub outbox: crate::outbox::Outbox,
}

#[async_trait]
impl Relay for Desk {
    async fn call(&self, peer: &str, call: Call, events: EventSink) -> Result<Value, Failure> {
        let answer = async {
            match call.method.as_str() {
                CALL => self.client_call(peer, &call, events).await,
                LISTEN => self.listen(peer, &call, events).await,
                RUN => runs::known_here(&self.lanes, &call.params).await,
                SESSIONS => self.sessions(peer, &call).await,
                HTTP => self.http(peer, &call, events).await,
                HOOK => self.hook(peer, &call).await,
                REPLY => replies::take_in(&self.farm, &self.outbox, &call.params).await,
                other => Err(Failure::not_found(format!("{other} cannot be asked over a link"))),
            }
        };
        crate::observe::relayed(&self.world, call.traceparent.clone(), answer).await
    }
}

impl Desk {
    /// Asks the farm's policy, as letters are asked: who (`client.<name>` or an agent of the peer) may ask what of whom.
    fn permit(&self, peer: &str, from: &str, agent: &AgentId, capability: &str) -> Result<(), Failure> {
        let farm = self.farm.get().ok_or_else(|| Failure::unavailable("gateway starting; retry shortly", 500))?;
        let subject = Subject { gateway: peer, from, to: agent.as_str(), capability, ttl_ms: 0 };
        let decision = farm.policy().decide(subject, &mut self.limiter.lock().unwrap_or_else(PoisonError::into_inner), farm.membership.now().mono_ms);
        let Some(refusal) = decision.refusal else { return Ok(()) };
        farm.events.rejected(None, refusal.code(), &format!("{from} at {peer}: {refusal}"));
        Err(match refusal {
            Refusal::RateLimited { wait_ms, .. } => Failure::busy(refusal.to_string(), wait_ms),
            _ => Failure::new(FailureCode::Forbidden, refusal.to_string()).with_hint("openclaw farm policy starter --write, at the gateway that was asked"),
        })
    }

    fn is_here(&self, agent: &AgentId) -> Result<(), Failure> {
        if self.config.load().agents.get(agent.as_str()).is_some() {
            return Ok(());
        }
        Err(Failure::new(FailureCode::NotFound, format!("unknown agent id \"{agent}\"")))
    }

    /// A call of a client there. The peer let the client in and says with which scopes, of which [`SCOPES_LENT`] count here;
    /// peers are gateways whose keys the farm's root vouches for, and the policy says what their clients may.
    async fn client_call(&self, peer: &str, call: &Call, events: EventSink) -> Result<Value, Failure> {
        let method = call.params.get("method").and_then(Value::as_str).unwrap_or_default();
        let mut params = call.params.get("params").cloned().unwrap_or(Value::Null);
        if method == "agent.wait" && self.never_came(&params).await? {
            return Ok(json!({ "runId": params["runId"], "status": "timeout" }));
        }
        // Nothing but what is about an agent is asked over a link; a run is its agent's.
        let agent = match self.agent_of_run(method, &mut params).await? {
            Some(agent) => agent,
            None => self
                .agent_named(method, &params)
                .await
                .ok_or_else(|| Failure::new(FailureCode::Forbidden, format!("{method} names no agent; ask this gateway itself")))?,
        };
        let reads = methods::find(method).is_some_and(|spec| needed(spec, &params) == Scope::Read);
        self.permit(peer, &client_of(&call.caller), &agent, if reads { CLIENTS_READ } else { CLIENTS_WRITE })?;
        let (first, mut firsts) = tokio::sync::mpsc::unbounded_channel();
        let mut caller = caller_of(peer, &call.caller);
        if self.farm.get().is_some_and(|farm| farm.is_movable(&Unit::Agent(agent.clone()))) {
            // An agent that moves is administered through any gateway: each of them may own it, and does as it likes then.
            caller.scopes = scopes_of(&call.caller);
        }
        let cx = Cx::relayed(caller, first);
        let (router, now) = (Arc::clone(&self.router), self.world.clock.now().0);
        let method = method.to_owned();
        // The call goes on when the link is lost: it may have begun something.
        let work = async move { router.call_here(cx, &method, params, Readiness::Ready, now).await };
        let answer = tokio::spawn(clawstead_world::trace::within(clawstead_world::trace::current(), work));
        // Ends with the call: the sender lives in its context.
        while let Some(payload) = firsts.recv().await {
            events.send("first", payload).await?;
        }
        let answer = answer.await.map_err(|err| Failure::internal(err.to_string()))?.map_err(Failure::from)?;
        serde_json::from_str(answer.get()).map_err(|err| Failure::internal(err.to_string()))
    }

    /// The agent that a call is about.
    async fn agent_named(&self, method: &str, params: &Value) -> Option<AgentId> {
        if let Some(agent) = agent_named(params) {
            return Some(agent);
        }
        let farm = self.farm.get().filter(|farm| farm.ownership().is_some())?;
        super::agent_of_job(farm.keeper(), &self.config.load_full(), method, params).await
    }

    /// Waits for a run that is not here yet (its letter may be on its way) as long as the caller would; true when it did
    /// not come.
    async fn never_came(&self, params: &Value) -> Result<bool, Failure> {
        let Some(run) = params.get("runId").and_then(Value::as_str).map(RunId::from) else { return Ok(false) };
        if self.lanes.report(&run).await?.is_some() {
            return Ok(false);
        }
        let limit = params.get("timeoutMs").and_then(Value::as_u64).unwrap_or(WAIT_MS).min(CALL_DEADLINE_MAX_MS);
        Ok(self.lanes.wait(&run, Duration::from_millis(limit)).await?.is_none())
    }

    /// The agent of the run that a call names. Where the call names a session by a short word too, that word was the other
    /// gateway's: the run says which session is meant.
    async fn agent_of_run(&self, method: &str, params: &mut Value) -> Result<Option<AgentId>, Failure> {
        let Some(run) = run_named(method, params).map(RunId::from) else { return Ok(None) };
        let Some(row) = self.lanes.report(&run).await? else { return Ok(None) };
        if let Some(key) = params.get_mut("sessionKey") {
            *key = json!(row.session);
        }
        Ok(Some(row.session.agent()))
    }

    /// The sessions here that somebody at the peer may see, in one list.
    async fn sessions(&self, peer: &str, call: &Call) -> Result<Value, Failure> {
        let params = call.params.get("params").cloned().unwrap_or_else(|| json!({}));
        let asking = call.caller.get("agent").and_then(Value::as_str).map(AgentId::normalise);
        let from = asking.as_ref().map_or_else(|| client_of(&call.caller), ToString::to_string);
        let capability = if asking.is_some() { READ_CAPABILITY } else { CLIENTS_READ };
        let (mut lists, mut refused) = (Vec::new(), None);
        let agents: Vec<AgentId> = self.config.load().agents.list.iter().map(|one| one.id.clone()).collect();
        for agent in agents {
            if let Err(failure) = self.permit(peer, &from, &agent, capability) {
                refused = Some(failure);
                continue;
            }
            let caller = match &asking {
                // As a question in a letter: what the asked agent itself may see.
                Some(_) => Caller::agent(&agent, main_of(&agent), RunId::from(self.world.rng.uuid().as_str()), vec!["operator.read".into()]),
                None => caller_of(peer, &call.caller),
            };
            let mut params = params.clone();
            params["agentId"] = json!(agent);
            let answer = self.router.call_here(Cx::detached(caller), "sessions.list", params, Readiness::Ready, self.world.clock.now().0);
            let answer = answer.await.map_err(Failure::from)?;
            lists.push(serde_json::from_str(answer.get()).map_err(|err| Failure::internal(err.to_string()))?);
        }
        let mut lists = lists.into_iter();
        match (lists.next(), refused) {
            (Some(first), _) => Ok(lists::merged(&params, first, lists::Others { lists: lists.collect(), unreachable: Vec::new() }, |_| true)),
            (None, Some(failure)) => Err(failure),
            (None, None) => Ok(json!({ "sessions": [], "totalCount": 0 })),
        }
    }

    /// An HTTP request of a client there.
    async fn http(&self, peer: &str, call: &Call, events: EventSink) -> Result<Value, Failure> {
        let (request, agent) = http::passed_on(&call.params)?;
        let agent = agent.ok_or_else(|| Failure::new(FailureCode::Forbidden, "the request names no agent; ask this gateway itself"))?;
        self.is_here(&agent)?;
        let capability = if http::scope_of(request.method()) == Scope::Read { CLIENTS_READ } else { CLIENTS_WRITE };
        self.permit(peer, &client_of(&call.caller), &agent, capability)?;
        let (doors, _) = self.open.get().ok_or_else(|| Failure::unavailable("gateway starting; retry shortly", 500))?;
        http::answer(doors, caller_of(peer, &call.caller), request, events).await
    }

    /// What a webhook of the peer wants of an agent here; the peer checked its token and its own rules for hooks.
    async fn hook(&self, peer: &str, call: &Call) -> Result<Value, Failure> {
        let agent = call.params.get("agent").and_then(Value::as_str).map(AgentId::normalise).ok_or_else(|| Failure::invalid("the hook names no agent"))?;
        self.is_here(&agent)?;
        self.permit(peer, &format!("{CLIENT_PREFIX}hook"), &agent, CLIENTS_WRITE)?;
        let (_, hooks) = self.open.get().ok_or_else(|| Failure::unavailable("gateway starting; retry shortly", 500))?;
        hooks.passed_on(call.params.clone()).await
    }

    /// Everything that clients who watch this session hear, until the peer has enough.
    async fn listen(&self, peer: &str, call: &Call, events: EventSink) -> Result<Value, Failure> {
        let key = call.params.get("sessionKey").and_then(Value::as_str).ok_or_else(|| Failure::invalid("sessionKey is missing"))?;
        let agent = agent_named(&call.params).ok_or_else(|| Failure::invalid("sessionKey names no agent"))?;
        let key = SessionKey::resolve(key, &agent).map_err(|err| Failure::invalid(err.to_string()))?;
        self.permit(peer, &client_of(&call.caller), &agent, CLIENTS_READ)?;
        let mut caller = caller_of(peer, &json!({"scopes": ["operator.read"], "connId": self.world.rng.uuid()}));
        caller.caps = vec!["session-scoped-events".into(), "tool-events".into()];
        let (subscriptions, outbox) = (Arc::new(Subscriptions::default()), Arc::new(Outbox::default()));
        if !subscriptions.watch(&key, true) {
            return Err(Failure::busy("too many sessions are watched", 1_000));
        }
        let conn = caller.conn_id.clone();
        self.fanout.join(Listener::new(Arc::new(caller), subscriptions, Arc::clone(&outbox)));
        let left = Leave { fanout: self.fanout.clone(), conn };
        let ended = async {
            loop {
                let items = match outbox.next().await {
                    Next::Items(items) => items,
                    Next::Farewell(farewell) => return Err(Failure::unavailable(farewell.reason, 1_000)),
                };
                for item in &items {
                    if let Item::Event(event, _) = item
                        && let Some((name, payload)) = event.parts()
                        && RELAYED.contains(&name.as_str())
                    {
                        events.send(&name, payload).await?;
                    }
                }
                outbox.written(&items);
            }
        };
        let result = tokio::select! {
            biased;
            () = events.cancelled() => Ok(Value::Null),
            ended = ended => ended,
        };
        drop(left);
        result
    }
}

struct Leave {
    fanout: Fanout,
    conn: String,
}

impl Drop for Leave {
    fn drop(&mut self) {
        self.fanout.leave(&self.conn);
    }
}

/// Who asks, as `farm.policy` knows clients: `client.<user or device>`.
fn client_of(said: &Value) -> String {
    let name = ["user", "deviceId"].into_iter().find_map(|name| said.get(name)?.as_str()).filter(|name| !name.is_empty()).unwrap_or("unnamed");
    let plain = |c: char| if c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | '@') { c.to_ascii_lowercase() } else { '-' };
    format!("{CLIENT_PREFIX}{}", name.chars().map(plain).take(NAME_MAX).collect::<String>())
}

/// The scopes that the peer says its client has.
fn scopes_of(said: &Value) -> Vec<String> {
    said.get("scopes").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
}

fn caller_of(peer: &str, said: &Value) -> Caller {
    let text = |name: &str| said.get(name).and_then(Value::as_str).map(str::to_owned);
    let scopes = said.get("scopes").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str);
    let scopes = scopes.filter(|scope| SCOPES_LENT.contains(scope) || *scope == "operator.admin").flat_map(|scope| match scope {
        // Who may do everything may read and write.
        "operator.admin" => SCOPES_LENT.to_vec(),
        one => vec![one],
    });
    let scopes = scopes.map(str::to_owned).collect();
    Caller {
        conn_id: format!("peer:{peer}:{}", text("connId").unwrap_or_default()),
        role: Role::Operator,
        scopes,
        device_id: text("deviceId"),
        addr: None,
        client_id: None,
        client_mode: None,
        locality: Locality::Remote,
        caps: Vec::new(),
        auth_method: "peer",
        user: text("user"),
        session: None,
        run: None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{caller_of, client_of};

    #[test]
    fn clients_have_a_name_that_no_agent_has_and_lend_no_more_than_writing() {
        assert_eq!(client_of(&json!({"user": "Anna@example.org", "deviceId": "d1"})), "client.anna@example.org");
        assert_eq!(client_of(&json!({"deviceId": "d*1/2"})), "client.d-1-2");
        assert_eq!(client_of(&json!({"user": "", "scopes": []})), "client.unnamed");
        assert_eq!(client_of(&json!({"user": "x".repeat(500)})).len(), 7 + 64);
        let caller = caller_of("jerry-gateway", &json!({"scopes": ["operator.admin", "operator.pairing"], "connId": "c"}));
        assert_eq!(caller.scopes, ["operator.read", "operator.write"]);
        assert!(caller.session.is_none() && caller.conn_id == "peer:jerry-gateway:c");
    }
}
