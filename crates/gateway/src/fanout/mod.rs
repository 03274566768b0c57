//! Who listens, and what they hear: broadcast events to every connection that may and wants to see them.
//!
//! An event is serialised once and shared; each connection adds only its number. An event that nobody listens
//! to is not serialised at all.

mod message;
mod outbox;
mod run;

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering},
    },
};

use serde::Serialize;
use serde_json::{Map, Value, json};

use clawstead_terms::{RunId, SessionKey};
use clawstead_wire::{
    Scope,
    event::{Audience, PresenceEntry, PresenceEvent, ShutdownEvent, TickEvent, rule},
    frame::{EventText, StateVersion},
    limits::close,
};

pub use message::messages_json;
pub(crate) use message::{parts_json, stop_word, usage_json};
pub use outbox::{Farewell, Item, Next, Outbox};
use run::Track;

use crate::rpc::{Caller, Role};

/// Sessions that one connection may watch one by one.
pub const WATCHED_MAX: usize = 256;

/// What a connection wants to hear.
#[derive(Debug, Default)]
pub struct Subscriptions {
    inner: Mutex<Wants>,
}

#[derive(Debug, Default)]
struct Wants {
    all_sessions: bool,
    /// Session key to whether approvals are wanted too.
    sessions: BTreeMap<String, bool>,
    viewing: Vec<String>,
}

impl Subscriptions {
    fn lock(&self) -> MutexGuard<'_, Wants> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `sessions.subscribe`: `sessions.changed` and `session.message` of all sessions.
    pub fn watch_all(&self) {
        self.lock().all_sessions = true;
    }

    /// `sessions.messages.subscribe`: one session. Answers false when [`WATCHED_MAX`] are watched already.
    #[must_use]
    pub fn watch(&self, key: &SessionKey, approvals: bool) -> bool {
        let mut wants = self.lock();
        if wants.sessions.len() >= WATCHED_MAX && !wants.sessions.contains_key(key.as_str()) {
            return false;
        }
        wants.sessions.insert(key.as_str().to_owned(), approvals);
        true
    }

    /// `sessions.messages.unsubscribe`.
    pub fn unwatch(&self, key: &SessionKey) {
        self.lock().sessions.remove(key.as_str());
    }

    /// `sessions.viewers.set`: the sessions on screen.
    pub fn set_viewing(&self, keys: Vec<String>) {
        self.lock().viewing = keys;
    }

    /// The sessions on screen.
    #[must_use]
    pub fn viewing(&self) -> Vec<String> {
        self.lock().viewing.clone()
    }

    fn hears_changes(&self) -> bool {
        self.lock().all_sessions
    }

    fn hears_messages(&self, key: &str) -> bool {
        let wants = self.lock();
        wants.all_sessions || wants.sessions.contains_key(key)
    }

    fn watches(&self, key: &str) -> bool {
        self.lock().sessions.contains_key(key)
    }

    fn hears_approvals(&self, key: &str) -> bool {
        self.lock().sessions.get(key) == Some(&true)
    }
}

/// A connection as the fanout sees it.
#[derive(Debug)]
pub struct Listener {
    caller: Arc<Caller>,
    subscriptions: Arc<Subscriptions>,
    outbox: Arc<Outbox>,
    tool_events: bool,
    own_sessions_only: bool,
    /// The scopes that are satisfied, asked for at every event.
    granted: Vec<Scope>,
}

impl Listener {
    /// A connection that was admitted.
    #[must_use]
    pub fn new(caller: Arc<Caller>, subscriptions: Arc<Subscriptions>, outbox: Arc<Outbox>) -> Self {
        let (tool_events, own_sessions_only) = (caller.has_cap("tool-events"), caller.has_cap("session-scoped-events"));
        let scopes = [Scope::Read, Scope::Write, Scope::Admin, Scope::Approvals, Scope::Questions, Scope::Pairing, Scope::Talk];
        let granted = scopes.into_iter().filter(|scope| caller.role == Role::Operator && caller.may(*scope)).collect();
        Self { caller, subscriptions, outbox, tool_events, own_sessions_only, granted }
    }

    fn may(&self, audience: Audience) -> bool {
        match audience {
            Audience::Everybody => true,
            Audience::Having(scope) => self.granted.contains(&scope),
        }
    }
}

/// Session rows for `session.message` and `sessions.changed`, from memory: called for every such event.
pub trait SessionRows: Send + Sync {
    /// The row that `sessions.list` shows.
    fn row(&self, key: &SessionKey) -> Option<Map<String, Value>>;
}

/// Which listeners an event is for, beyond its rule.
#[derive(Clone, Copy)]
enum To<'a> {
    All,
    /// `agent` and `chat` of a session.
    Run(&'a str),
    /// `agent` tool events of a session.
    Tool(&'a str),
    /// `session.message` of a session.
    Messages(&'a str),
    /// `sessions.changed`.
    Changes,
    /// `session.approval` of a session.
    Approvals(&'a str),
}

/// The broadcaster. Clones are cheap handles on the same one.
#[derive(Clone, Default)]
pub struct Fanout {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    listeners: RwLock<BTreeMap<String, Arc<Listener>>>,
    runs: Mutex<HashMap<RunId, Track>>,
    rows: RwLock<Option<Arc<dyn SessionRows>>>,
    health: RwLock<Option<Arc<Value>>>,
    health_version: AtomicU64,
    presence_version: AtomicU64,
}

impl Fanout {
    /// A broadcaster that nobody listens to.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Tells where session rows come from. Without it, events carry none.
    pub fn set_session_rows(&self, rows: Arc<dyn SessionRows>) {
        *self.shared.rows.write().unwrap_or_else(PoisonError::into_inner) = Some(rows);
    }

    /// Adds a connection.
    pub fn join(&self, listener: Listener) {
        let id = listener.caller.conn_id.clone();
        self.shared.listeners.write().unwrap_or_else(PoisonError::into_inner).insert(id, Arc::new(listener));
    }

    /// Removes a connection.
    pub fn leave(&self, conn_id: &str) {
        self.shared.listeners.write().unwrap_or_else(PoisonError::into_inner).remove(conn_id);
    }

    /// How many connections there are.
    #[must_use]
    pub fn listeners(&self) -> usize {
        self.shared.listeners.read().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// The devices that are connected.
    #[must_use]
    pub fn connected_devices(&self) -> std::collections::BTreeSet<String> {
        self.shared.listeners.read().unwrap_or_else(PoisonError::into_inner).values().filter_map(|l| l.caller.device_id.clone()).collect()
    }

    /// Broadcasts an event to everybody whom its rule names. Names without a rule reach nobody.
    pub fn send<P: Serialize + ?Sized>(&self, event: &str, payload: &P) {
        self.deliver(event, To::All, None, || payload);
    }

    /// `session.approval` to those who watch the session with approvals.
    pub fn send_session_approval<P: Serialize + ?Sized>(&self, key: &SessionKey, payload: &P) {
        self.deliver("session.approval", To::Approvals(key.as_str()), None, || payload);
    }

    /// `sessions.changed` with the session's row. `more` is added at the top level.
    pub fn session_changed(&self, key: &SessionKey, reason: &str, at_ms: i64, more: Map<String, Value>) {
        self.changed(key, at_ms, || {
            let mut head = Map::new();
            head.insert("reason".into(), reason.into());
            head.extend(more);
            head
        });
    }

    /// `sessions.changed` that says: read the list again.
    pub fn sessions_invalidated(&self, reason: &str, at_ms: i64) {
        self.deliver("sessions.changed", To::Changes, None, || json!({ "reason": reason, "ts": at_ms }));
    }

    fn changed(&self, key: &SessionKey, at_ms: i64, head: impl FnOnce() -> Map<String, Value>) {
        self.deliver("sessions.changed", To::Changes, None, || {
            let mut payload = Map::new();
            payload.insert("sessionKey".into(), key.as_str().into());
            payload.insert("agentId".into(), key.agent().as_str().into());
            payload.extend(head());
            payload.insert("ts".into(), at_ms.into());
            self.add_row(&mut payload, key);
            payload
        });
    }

    /// Adds `session` and the older top-level copies of its fields.
    fn add_row(&self, payload: &mut Map<String, Value>, key: &SessionKey) {
        let rows = self.shared.rows.read().unwrap_or_else(PoisonError::into_inner).clone();
        let Some(row) = rows.and_then(|rows| rows.row(key)) else { return };
        for (name, value) in &row {
            if name != "key" && !payload.contains_key(name) {
                payload.insert(name.clone(), value.clone());
            }
        }
        // Sessions above this one; clients show it below them.
        if !payload.contains_key("ancestorSessions") {
            let above: Vec<Value> = row.get("parentSessionKey").map(|key| json!({ "key": key })).into_iter().collect();
            payload.insert("ancestorSessions".into(), above.into());
        }
        payload.insert("session".into(), Value::Object(row));
    }

    /// An event of a session that another gateway runs, as its clients heard it.
    pub fn relayed(&self, key: &SessionKey, event: &str, payload: &Value) {
        let to = match event {
            "agent" if payload.get("stream").and_then(Value::as_str) == Some("tool") => To::Tool(key.as_str()),
            "agent" | "chat" => To::Run(key.as_str()),
            "session.message" => To::Messages(key.as_str()),
            "session.approval" => To::Approvals(key.as_str()),
            "sessions.changed" => To::Changes,
            _ => return,
        };
        self.deliver(event, to, None, || payload);
    }

    /// Stores a health report and broadcasts it.
    pub fn health(&self, report: Value) {
        let report = Arc::new(report);
        *self.shared.health.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(&report));
        self.shared.health_version.fetch_add(1, Ordering::Relaxed);
        self.deliver("health", To::All, Some(self.versions()), || &*report);
    }

    /// The last health report.
    #[must_use]
    pub fn last_health(&self) -> Option<Arc<Value>> {
        self.shared.health.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Broadcasts the list of who is connected.
    pub fn presence(&self, list: Vec<PresenceEntry>, version: u64) {
        self.shared.presence_version.store(version, Ordering::Relaxed);
        self.deliver("presence", To::All, Some(self.versions()), || PresenceEvent { presence: list });
    }

    /// The versions of presence and health.
    #[must_use]
    pub fn versions(&self) -> StateVersion {
        StateVersion {
            presence: self.shared.presence_version.load(Ordering::Relaxed).max(1),
            health: self.shared.health_version.load(Ordering::Relaxed).max(1),
        }
    }

    /// Broadcasts `tick`.
    pub fn tick(&self, now_ms: i64) {
        self.deliver("tick", To::All, None, || TickEvent { ts: now_ms });
    }

    /// Broadcasts `shutdown` and closes every connection with 1012.
    pub fn shutdown(&self, reason: &str, restart_expected_ms: Option<u64>) {
        self.deliver("shutdown", To::All, None, || ShutdownEvent { reason: reason.to_owned(), restart_expected_ms });
        for listener in self.shared.listeners.read().unwrap_or_else(PoisonError::into_inner).values() {
            listener.outbox.close(close::RESTART, "service restart");
        }
    }

    /// Closes the connections of a device, all or those of a role.
    pub fn close_device(&self, device_id: &str, role: Option<&str>, reason: &str) {
        for listener in self.shared.listeners.read().unwrap_or_else(PoisonError::into_inner).values() {
            let same_role = role.is_none_or(|role| listener.caller.role.as_str() == role);
            if listener.caller.device_id.as_deref() == Some(device_id) && same_role {
                listener.outbox.close(close::AUTH_CHANGED, reason);
            }
        }
    }

    /// Closes the connections that showed the shared secret, after it was changed.
    pub fn close_shared_secret(&self) {
        for listener in self.shared.listeners.read().unwrap_or_else(PoisonError::into_inner).values() {
            if matches!(listener.caller.auth_method, "token" | "password") {
                listener.outbox.close(close::AUTH_CHANGED, "gateway auth changed");
            }
        }
    }

    /// The one place where events go out. `payload` is made only when somebody listens.
    fn deliver<P: Serialize>(&self, event: &str, to: To<'_>, versions: Option<StateVersion>, payload: impl FnOnce() -> P) {
        let Some(rule) = rule(event) else {
            tracing::debug!(event, "an event without a rule is not delivered");
            return;
        };
        let mut payload = Some(payload);
        let mut text = None;
        for listener in self.shared.listeners.read().unwrap_or_else(PoisonError::into_inner).values() {
            let wanted = match to {
                To::All => true,
                To::Run(key) => !listener.own_sessions_only || listener.subscriptions.watches(key),
                To::Tool(key) => listener.tool_events && (!listener.own_sessions_only || listener.subscriptions.watches(key)),
                To::Messages(key) => listener.subscriptions.hears_messages(key),
                To::Changes => listener.subscriptions.hears_changes(),
                To::Approvals(key) => listener.subscriptions.hears_approvals(key),
            };
            if !wanted || !listener.may(rule.audience) {
                continue;
            }
            if text.is_none() {
                text = payload.take().map(|make| Arc::new(EventText::new(event, &make(), versions)));
            }
            if let Some(text) = &text {
                listener.outbox.push_event(text, rule.loss);
            }
        }
    }
}
