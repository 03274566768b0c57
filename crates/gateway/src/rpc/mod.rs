//! Handlers of the gateway protocol, one file an area, and the router that calls them.
//!
//! # Writing a handler
//!
//! A method is a row in `crates/wire/src/methods/<area>.rs`. The row makes a trait method; its twin here
//! implements it:
//!
//! ```ignore
//! pub struct CronRpc { cron: Cron, world: World }      // the few things it uses, nothing else
//!
//! #[async_trait]
//! impl CronApi<Cx> for CronRpc {
//!     async fn add(&self, cx: &Cx, params: AddParams) -> Result<Value, ErrorShape> {
//!         let job = self.cron.add(params.name, cx.caller.device_id.as_deref()).await?;   // Failure converts
//!         Ok(json!(job))
//!     }
//! }
//!
//! router.mount(wire::cron::mount(CronRpc { .. }));      // in the composition root
//! ```
//!
//! What is settled before a handler runs: role, scope (with the parameters' say in it), the control-plane
//! limit, readiness, and the parameters' schema. What a handler decides: whether things exist, and
//! idempotency. A [`clawstead_terms::Failure`] becomes an error response by `?`.
//!
//! A row with flag `TWICE` (`agent`, `exec.approval.request`) answers `accepted` through
//! [`Cx::first_answer`], then returns its final result.
//!
//! [`Cx`] says who calls ([`Caller`]) and what this connection listens to ([`Subscriptions`]). Handlers that do
//! not look at the caller may implement the trait for any `C`.

pub mod agents;
pub mod approvals;
pub mod channels;
pub mod chat;
pub mod config;
pub mod cron;
pub mod devices;
pub mod farm;
pub mod models;
pub mod nodes;
pub mod presence;
pub mod questions;
pub mod sessions;
pub mod surfaces;
pub mod system;
pub mod tools;

use std::{collections::HashMap, net::IpAddr, sync::Arc};

use serde::Serialize;
use serde_json::{
    Value, json,
    value::{RawValue, to_raw_value},
};

use clawstead_terms::{AgentId, RunId, SessionKey};
use clawstead_wire::{
    ErrorShape, Flags, MethodSpec, Mounted, Scope,
    connect::{ClientId, ClientMode},
    method::Handler,
    methods,
    scope::{needed, satisfies},
};

use crate::{
    doors::limits::CallLimiter,
    fanout::{Outbox, Subscriptions},
};

/// What a connection may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// A person or a program of theirs.
    Operator,
    /// A device that lends its capabilities.
    Node,
}

impl Role {
    /// Its word on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Operator => "operator",
            Self::Node => "node",
        }
    }
}

/// From where a connection comes, as far as trust goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Locality {
    /// Loopback peer without forwarding headers.
    DirectLocal,
    /// Loopback peer through something local, with the shared secret and a private host name.
    SharedSecretLocal,
    /// A browser on a private network with the shared secret.
    BrowserContainerLocal,
    /// Everything else.
    Remote,
}

/// Who calls.
#[derive(Clone, Debug)]
pub struct Caller {
    /// The connection; `tool:<agent>` for calls from inside a turn, `http` for HTTP.
    pub conn_id: String,
    /// Its role.
    pub role: Role,
    /// Scopes in force, `operator.*`.
    pub scopes: Vec<String>,
    /// The paired device.
    pub device_id: Option<String>,
    /// The client's address; none for calls from inside the gateway.
    pub addr: Option<IpAddr>,
    /// The program; none for calls from inside the gateway.
    pub client_id: Option<ClientId>,
    /// How it connected.
    pub client_mode: Option<ClientMode>,
    /// From where.
    pub locality: Locality,
    /// Its capabilities, such as `tool-events` or `agent-kind`.
    pub caps: Vec<String>,
    /// `token`, `password`, `none`, `device-token`, `trusted-proxy`.
    pub auth_method: &'static str,
    /// The user a trusted proxy named.
    pub user: Option<String>,
    /// The agent session a call from inside a turn speaks for.
    pub session: Option<SessionKey>,
    /// The run it belongs to.
    pub run: Option<RunId>,
}

impl Caller {
    /// True when the scopes satisfy `scope`.
    #[must_use]
    pub fn may(&self, scope: Scope) -> bool {
        satisfies(&self.scopes, scope)
    }

    /// True for admin.
    #[must_use]
    pub fn is_admin(&self) -> bool {
        self.may(Scope::Admin)
    }

    /// True when the client has a capability.
    #[must_use]
    pub fn has_cap(&self, cap: &str) -> bool {
        self.caps.iter().any(|c| c == cap)
    }

    /// A caller inside the gateway: an agent's tool in a turn, with the agent's scopes.
    #[must_use]
    pub fn agent(agent: &AgentId, session: SessionKey, run: RunId, scopes: Vec<String>) -> Self {
        Self {
            conn_id: format!("tool:{agent}"),
            role: Role::Operator,
            scopes,
            device_id: None,
            addr: None,
            client_id: None,
            client_mode: None,
            locality: Locality::DirectLocal,
            caps: Vec::new(),
            auth_method: "none",
            user: None,
            session: Some(session),
            run: Some(run),
        }
    }

    /// Whom control-plane calls are counted for: the device and its address, so that a program cannot escape
    /// the limit by connecting anew.
    fn limit_key(&self) -> String {
        let device = self.device_id.as_deref().unwrap_or("unpaired");
        self.addr.map_or_else(|| self.conn_id.clone(), |addr| format!("{device}|{addr}"))
    }
}

/// The context of one call.
#[derive(Clone)]
pub struct Cx {
    /// Who calls.
    pub caller: Arc<Caller>,
    /// What the connection listens to; for callers without a connection, changes go nowhere.
    pub subscriptions: Arc<Subscriptions>,
    /// Where the first of two answers goes.
    reply: Option<(Arc<Outbox>, Value)>,
    /// Where it goes for a client of another gateway.
    relayed: Option<tokio::sync::mpsc::UnboundedSender<Value>>,
}

impl Cx {
    /// The context of a request on a connection.
    #[must_use]
    pub fn on_connection(caller: Arc<Caller>, subscriptions: Arc<Subscriptions>, outbox: Arc<Outbox>, request_id: Value) -> Self {
        Self { caller, subscriptions, reply: Some((outbox, request_id)), relayed: None }
    }

    /// The context of a call without a connection (a tool, an HTTP route).
    #[must_use]
    pub fn detached(caller: Caller) -> Self {
        Self { caller: Arc::new(caller), subscriptions: Arc::default(), reply: None, relayed: None }
    }

    /// The context of a call of another gateway's client; the first of two answers goes to `first`.
    #[must_use]
    pub fn relayed(caller: Caller, first: tokio::sync::mpsc::UnboundedSender<Value>) -> Self {
        Self { relayed: Some(first), ..Self::detached(caller) }
    }

    /// Sends the first of two answers; the handler's result is the second. Without a connection it is dropped.
    pub fn first_answer<P: Serialize + ?Sized>(&self, payload: &P) {
        if let (Some((outbox, id)), Ok(raw)) = (&self.reply, to_raw_value(payload)) {
            outbox.push_text(clawstead_wire::frame::response_text(id, Ok(&raw)));
        }
        if let (Some(first), Ok(value)) = (&self.relayed, serde_json::to_value(payload)) {
            let _ = first.send(value);
        }
    }
}

struct Row {
    spec: &'static MethodSpec,
    handler: Handler<Cx>,
}

/// Knows every mounted method, and what must hold before one runs.
#[derive(Default)]
pub struct Router {
    rows: HashMap<&'static str, Row>,
    names: Vec<&'static str>,
    limiter: CallLimiter,
    /// Answers calls about agents of other gateways.
    elsewhere: std::sync::OnceLock<crate::farm::Elsewhere>,
}

/// Whether the gateway's parts are there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Readiness {
    /// Methods that need every part answer `UNAVAILABLE`.
    Starting,
    /// Everything runs.
    Ready,
}

impl Router {
    /// A router without methods.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds an area.
    #[must_use]
    pub fn mount(mut self, area: Mounted<Cx>) -> Self {
        for (spec, handler) in area.rows.iter().zip(area.handlers) {
            self.names.push(spec.name);
            self.rows.insert(spec.name, Row { spec, handler });
        }
        self
    }

    /// Names for `features.methods`: mounted and not hidden.
    #[must_use]
    pub fn advertised(&self) -> Vec<String> {
        self.names.iter().filter(|name| self.rows.get(*name).is_some_and(|row| !row.spec.flags.has(Flags::HIDDEN))).map(|name| (*name).to_owned()).collect()
    }

    /// Rows of the method table that no area has been mounted for.
    #[must_use]
    pub fn missing(&self) -> Vec<&'static str> {
        methods::all().map(|row| row.name).filter(|name| !self.rows.contains_key(name)).collect()
    }

    /// Calls a method: role, scope, existence, limits, parameters, then the handler.
    ///
    /// # Errors
    /// As the checks and the handler say.
    pub async fn call(&self, cx: Cx, method: &str, params: Value, readiness: Readiness, now_ms: i64) -> Result<Box<RawValue>, ErrorShape> {
        self.answer(cx, method, params, readiness, now_ms, Place::Anywhere).await
    }

    /// As [`Self::call`], for a call that another gateway passed on: it goes no further.
    ///
    /// # Errors
    /// As [`Self::call`].
    pub async fn call_here(&self, cx: Cx, method: &str, params: Value, readiness: Readiness, now_ms: i64) -> Result<Box<RawValue>, ErrorShape> {
        self.answer(cx, method, params, readiness, now_ms, Place::Here).await
    }

    async fn answer(&self, cx: Cx, method: &str, params: Value, readiness: Readiness, now_ms: i64, place: Place) -> Result<Box<RawValue>, ErrorShape> {
        let spec = methods::find(method);
        let scope = spec.map_or(Scope::Admin, |spec| needed(spec, &params));
        authorise(&cx.caller, scope)?;
        let Some(row) = self.rows.get(method) else {
            return Err(ErrorShape::invalid(format!("unknown method: {method}")));
        };
        if row.spec.flags.has(Flags::CONTROL) {
            self.limiter.count(&cx.caller.limit_key(), row.spec.name, now_ms)?;
        }
        if row.spec.flags.has(Flags::SIDECARS) && readiness == Readiness::Starting {
            return Err(ErrorShape::retry("gateway starting; retry shortly", 500).with_details(json!({ "reason": "startup-sidecars" })));
        }
        if row.spec.flags.has(Flags::TARGET) && params.get("sessionKey").and_then(Value::as_str).is_none_or(str::is_empty) {
            let details = json!({ "code": "SESSION_MUTATION_TARGET_REQUIRED", "method": method });
            return Err(ErrorShape::invalid("session mutation target is unavailable").with_details(details));
        }
        row.spec.check(&params)?;
        if place == Place::Anywhere
            && let Some(elsewhere) = self.elsewhere.get()
            && let Some(answer) = elsewhere.call(&cx, method, &params).await
        {
            return answer;
        }
        if place == Place::Anywhere
            && let Some(elsewhere) = self.elsewhere.get()
            && elsewhere.spans(&cx, method, &params)
        {
            let own = (row.handler)(cx.clone(), crate::farm::widened(&params)).await?;
            return elsewhere.complete(&cx, &params, &own).await;
        }
        let Some(elsewhere) = self.elsewhere.get().filter(|elsewhere| place == Place::Anywhere && elsewhere.may_ask_again(method, &params)) else {
            return (row.handler)(cx, params).await;
        };
        let answer = (row.handler)(cx.clone(), params.clone()).await;
        if answer.as_ref().is_err_and(|err| err.code == "UNAVAILABLE")
            // The agent may have left while we looked: whoever has it now is asked.
            && let Some(answer) = elsewhere.call(&cx, method, &params).await
        {
            return answer;
        }
        answer
    }

    /// The way to agents of other gateways, where there is one.
    #[must_use]
    pub fn elsewhere(&self) -> Option<&crate::farm::Elsewhere> {
        self.elsewhere.get()
    }

    /// From now on calls about agents that live elsewhere are answered by their gateways.
    pub fn reach(&self, elsewhere: crate::farm::Elsewhere) {
        let _ = self.elsewhere.set(elsewhere);
    }
}

/// Where a call may be answered.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    /// At whichever gateway has the agent.
    Anywhere,
    /// Here: another gateway asks, and asking on would go round in circles.
    Here,
}

fn authorise(caller: &Caller, scope: Scope) -> Result<(), ErrorShape> {
    let node_method = scope == Scope::Node;
    if node_method != (caller.role == Role::Node) && scope != Scope::Open {
        return Err(wrong_role(caller.role));
    }
    if node_method || caller.may(scope) {
        return Ok(());
    }
    Err(ErrorShape::missing_scope(scope.name()))
}

/// What a method of another role says.
#[must_use]
pub fn wrong_role(role: Role) -> ErrorShape {
    ErrorShape::invalid(format!("unauthorized role: {}", role.as_str()))
}

#[cfg(test)]
mod tests {
    use async_trait::async_trait;
    use serde_json::{Value, json};

    use clawstead_wire::{
        ErrorShape,
        config::{ConfigApi, ConfigApplyParams, ConfigPatchParams, ConfigSetParams, LookupParams},
        system::Nothing,
    };

    use super::{Caller, Cx, Locality, Readiness, Role, Router};

    struct Fake;

    #[async_trait]
    impl ConfigApi<Cx> for Fake {
        async fn get(&self, cx: &Cx, _: Nothing) -> Result<Value, ErrorShape> {
            Ok(json!({ "conn": cx.caller.conn_id }))
        }
        async fn set(&self, _: &Cx, _: ConfigSetParams) -> Result<Value, ErrorShape> {
            Ok(Value::Null)
        }
        async fn apply(&self, _: &Cx, _: ConfigApplyParams) -> Result<Value, ErrorShape> {
            Ok(Value::Null)
        }
        async fn patch(&self, _: &Cx, _: ConfigPatchParams) -> Result<Value, ErrorShape> {
            Ok(Value::Null)
        }
        async fn schema(&self, _: &Cx, _: Nothing) -> Result<Value, ErrorShape> {
            Ok(Value::Null)
        }
        async fn schema_lookup(&self, _: &Cx, _: LookupParams) -> Result<Value, ErrorShape> {
            Ok(Value::Null)
        }
    }

    fn cx(role: Role, scopes: &[&str]) -> Cx {
        Cx::detached(Caller {
            conn_id: "c1".into(),
            role,
            scopes: scopes.iter().map(|s| (*s).to_owned()).collect(),
            device_id: None,
            addr: None,
            client_id: None,
            client_mode: None,
            locality: Locality::DirectLocal,
            caps: Vec::new(),
            auth_method: "token",
            user: None,
            session: None,
            run: None,
        })
    }

    #[tokio::test]
    async fn checks_come_in_the_known_order() {
        let router = Router::new().mount(clawstead_wire::config::mount(Fake));
        let call = async |role: Role, scopes: &[&str], method: &str, params: Value| {
            router.call(cx(role, scopes), method, params, Readiness::Ready, 0).await.map(|raw| raw.get().to_owned()).map_err(|err| err.message)
        };
        let admin = ["operator.admin"];
        assert_eq!(call(Role::Operator, &admin, "config.get", json!({})).await.unwrap(), r#"{"conn":"c1"}"#);
        assert_eq!(call(Role::Operator, &["operator.read"], "no.such", json!({})).await.unwrap_err(), "missing scope: operator.admin");
        assert_eq!(call(Role::Operator, &admin, "no.such", json!({})).await.unwrap_err(), "unknown method: no.such");
        assert_eq!(call(Role::Operator, &admin, "cron.list", json!({})).await.unwrap_err(), "unknown method: cron.list");
        assert_eq!(call(Role::Operator, &admin, "node.event", json!({})).await.unwrap_err(), "unauthorized role: operator");
        assert_eq!(call(Role::Node, &[], "config.get", json!({})).await.unwrap_err(), "unauthorized role: node");
        assert_eq!(call(Role::Operator, &["operator.read"], "config.patch", json!({"bad": 1})).await.unwrap_err(), "missing scope: operator.admin");
        assert_eq!(
            call(Role::Operator, &admin, "config.schema.lookup", json!({})).await.unwrap_err(),
            "invalid config.schema.lookup params: must have required property 'path'"
        );
    }

    #[tokio::test]
    async fn the_thirty_first_write_of_a_minute_is_refused() {
        let router = Router::new().mount(clawstead_wire::config::mount(Fake));
        let patch = async |now: i64| router.call(cx(Role::Operator, &["operator.admin"]), "config.patch", json!({"raw": "{}"}), Readiness::Ready, now).await;
        for at in 0..30 {
            assert!(patch(at).await.is_ok());
        }
        let err = patch(1000).await.unwrap_err();
        assert_eq!(err.message, "rate limit exceeded for config.patch; retry after 59s");
        assert_eq!((err.retryable, err.retry_after_ms), (Some(true), Some(59_000)));
        assert_eq!(err.details, Some(json!({"method": "config.patch", "limit": "30 per 60s"})));
        assert!(patch(60_001).await.is_ok());
    }
}
