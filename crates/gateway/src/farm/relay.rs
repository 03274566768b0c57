//! Calls of clients for agents that live at another gateway: sent there over the link, answered from there, with the
//! events of the session on the way back.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use serde_json::{
    Value, json,
    value::{RawValue, to_raw_value},
};

use clawstead_farm::{
    Relay,
    link::{Call, EventSink, Progress},
};
use clawstead_terms::{AgentId, Failure, FailureCode, Retry, SessionKey, Unit};
use clawstead_wire::ErrorShape;
use clawstead_world::World;

use super::{Cell, agent_named};
use crate::{
    fanout::{Fanout, Item, Listener, Next, Outbox, Subscriptions},
    rpc::{Caller, Cx, Locality, Readiness, Role, Router},
};

/// Calls a method here for a client there.
const CALL: &str = "gateway.call";
/// Hears the events of a session here.
const LISTEN: &str = "gateway.listen";
/// How long a call may take, ms.
const CALL_MS: u64 = 10 * 60_000;
/// How long the events of a session are heard after the last call about it, ms.
const LISTEN_MS: u64 = 30 * 60_000;
/// Sessions elsewhere whose events are heard at once.
const HEARD_MAX: usize = 512;
/// Scopes that a peer can lend its clients here: they read and write. Whoever administers a gateway, pairs devices or
/// decides approvals asks that gateway itself, so that a stolen gateway key rules one gateway only.
const SCOPES_LENT: [&str; 2] = ["operator.read", "operator.write"];
/// Methods that are about this gateway even when they name an agent elsewhere.
const OWN: [&str; 3] = ["agent.wait", "farm.letters", "farm.dlq.list"];

/// Events of a session.
const RELAYED: [&str; 5] = ["agent", "chat", "session.message", "session.approval", "sessions.changed"];

/// The asking side.
pub struct Elsewhere {
    farm: Cell,
    fanout: Fanout,
    world: World,
    heard: Arc<Mutex<BTreeMap<SessionKey, tokio::time::Instant>>>,
}

impl Elsewhere {
    /// Over this farm; events go to this fanout.
    #[must_use]
    pub fn new(farm: Cell, fanout: Fanout, world: World) -> Self {
        Self { farm, fanout, world, heard: Arc::default() }
    }

    /// The answer of the gateway that has the agent; none when the call is ours to answer.
    pub async fn call(&self, cx: &Cx, method: &str, params: &Value) -> Option<Result<Box<RawValue>, ErrorShape>> {
        let farm = self.farm.get()?;
        // Agents write letters; only people and programs are relayed.
        if cx.caller.session.is_some() || OWN.contains(&method) {
            return None;
        }
        let agent = agent_named(params)?;
        let place = farm.elsewhere(&Unit::Agent(agent.clone()))?;
        Some(self.relay(farm, cx, method, params, &agent, &place).await)
    }

    async fn relay(
        &self,
        farm: &clawstead_farm::Farm,
        cx: &Cx,
        method: &str,
        params: &Value,
        agent: &AgentId,
        gateway: &str,
    ) -> Result<Box<RawValue>, ErrorShape> {
        let Some(links) = &farm.links else {
            let text = format!("agent {agent} lives at {gateway}, and this gateway has no link to it");
            return Err(ErrorShape::from(Failure::unavailable(text, 5_000).with_hint("set farm.peer at both gateways, or ask that gateway itself")));
        };
        if let Some(key) = session_of(params, agent) {
            self.hear(farm, gateway, key);
        }
        let call = Call { caller: caller_json(&cx.caller), deadline_ms: CALL_MS, ..Call::new(CALL, json!({"method": method, "params": params})) };
        let mut running = links.open(gateway, call).await.map_err(ErrorShape::from)?;
        loop {
            match running.next().await {
                Some(Progress::Event(event)) if event.topic == "first" => cx.first_answer(&event.payload),
                Some(Progress::Event(_)) => {}
                Some(Progress::Answer(Ok(value))) => return to_raw_value(&value).map_err(|err| ErrorShape::unavailable(err.to_string())),
                Some(Progress::Answer(Err(failure))) => return Err(ErrorShape::from(failure)),
                None => return Err(ErrorShape::from(Failure::unavailable(format!("the link to {gateway} was lost; whether it was done is not known"), 1_000))),
            }
        }
    }

    /// Hears the events of a session elsewhere for a while, once however many ask.
    fn hear(&self, farm: &clawstead_farm::Farm, gateway: &str, key: SessionKey) {
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
        let (fanout, heard, gateway, stop) = (self.fanout.clone(), Arc::clone(&self.heard), gateway.to_owned(), self.world.tasks.stopping());
        tokio::spawn(async move {
            let call = Call { deadline_ms: LISTEN_MS, ..Call::new(LISTEN, json!({"sessionKey": key})) };
            let hearing = async {
                let mut running = links.open(&gateway, call).await?;
                loop {
                    match running.next().await {
                        Some(Progress::Event(event)) => fanout.relayed(&key, &event.topic, &event.payload),
                        Some(Progress::Answer(answer)) => return answer.map(drop),
                        None => return Err(Failure::unavailable("the link was lost", 1_000)),
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

/// The answering side.
pub struct Desk {
    /// The methods.
    pub router: Arc<Router>,
    /// Who hears what happens.
    pub fanout: Fanout,
    /// Clock and chance.
    pub world: World,
}

#[async_trait]
impl Relay for Desk {
    async fn call(&self, peer: &str, call: Call, events: EventSink) -> Result<Value, Failure> {
        match call.method.as_str() {
            CALL => self.client_call(peer, &call, events).await,
            LISTEN => self.listen(peer, &call, events).await,
            other => Err(Failure::not_found(format!("{other} cannot be asked over a link"))),
        }
    }
}

impl Desk {
    /// A call of a client there. The peer let the client in and says with which scopes, of which [`SCOPES_LENT`] count here;
    /// peers are gateways whose keys the farm's root vouches for.
    async fn client_call(&self, peer: &str, call: &Call, events: EventSink) -> Result<Value, Failure> {
        let method = call.params.get("method").and_then(Value::as_str).unwrap_or_default();
        let params = call.params.get("params").cloned().unwrap_or(Value::Null);
        // Nothing but what is about an agent is asked over a link; whether it is here, the method says.
        if agent_named(&params).is_none() {
            return Err(Failure::new(FailureCode::Forbidden, format!("{method} names no agent; ask this gateway itself")));
        }
        let (first, mut firsts) = tokio::sync::mpsc::unbounded_channel();
        let cx = Cx::relayed(caller_of(peer, &call.caller), first);
        let (router, now) = (Arc::clone(&self.router), self.world.clock.now().0);
        let method = method.to_owned();
        // The call goes on when the link is lost: it may have begun something.
        let answer = tokio::spawn(async move { router.call_here(cx, &method, params, Readiness::Ready, now).await });
        // Ends with the call: the sender lives in its context.
        while let Some(payload) = firsts.recv().await {
            events.send("first", payload).await?;
        }
        let answer = answer.await.map_err(|err| Failure::internal(err.to_string()))?.map_err(failure_of)?;
        serde_json::from_str(answer.get()).map_err(|err| Failure::internal(err.to_string()))
    }

    /// Everything that clients who watch this session hear, until the peer has enough.
    async fn listen(&self, peer: &str, call: &Call, events: EventSink) -> Result<Value, Failure> {
        let key = call.params.get("sessionKey").and_then(Value::as_str).ok_or_else(|| Failure::invalid("sessionKey is missing"))?;
        let agent = agent_named(&call.params).ok_or_else(|| Failure::invalid("sessionKey names no agent"))?;
        let key = SessionKey::resolve(key, &agent).map_err(|err| Failure::invalid(err.to_string()))?;
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

fn failure_of(err: ErrorShape) -> Failure {
    let code = match err.code.as_str() {
        "FORBIDDEN" | "NOT_PAIRED" => FailureCode::Forbidden,
        "UNAVAILABLE" => FailureCode::Unavailable,
        _ => FailureCode::InvalidRequest,
    };
    let retry = match (err.retryable, err.retry_after_ms) {
        (Some(true), Some(ms)) => Retry::AfterMs(ms),
        (Some(true), None) => Retry::Now,
        _ => Retry::Never,
    };
    Failure { code, message: err.message, retry, hint: None }
}
