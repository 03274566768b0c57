//! Events: which there are, who may see them, and their payloads.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::method::{Scope, words};

/// Who gets an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Audience {
    /// Every authenticated socket, nodes included.
    Everybody,
    /// Operators with a scope.
    Having(Scope),
}

/// What happens to an event for a client that reads too slowly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// It is skipped; its number is used up.
    Skip,
    /// The socket is closed.
    Close,
}

/// The rule of an event name.
#[derive(Clone, Copy, Debug)]
pub struct EventRule {
    /// The name.
    pub name: &'static str,
    /// Who gets it.
    pub audience: Audience,
    /// What happens when the client is slow.
    pub loss: Loss,
}

macro_rules! events {
    ($($name:literal $who:ident $loss:ident),* $(,)?) => {
        /// All events, in the order of `features.events`.
        pub static EVENTS: &[EventRule] = &[$(EventRule { name: $name, audience: events!(@ $who), loss: Loss::$loss }),*];
    };
    (@ Everybody) => { Audience::Everybody };
    (@ $scope:ident) => { Audience::Having(Scope::$scope) };
}

events! {
    "connect.challenge" Everybody Close,
    "agent" Read Close,
    "chat" Read Close,
    "chat.metadata.changed" Read Skip,
    "session.approval" Approvals Close,
    "session.message" Read Close,
    "session.operation" Read Skip,
    "sessions.changed" Read Skip,
    "presence" Read Skip,
    "tick" Everybody Skip,
    "shutdown" Everybody Close,
    "health" Everybody Skip,
    "heartbeat" Everybody Skip,
    "cron" Read Skip,
    "task" Read Skip,
    "node.pair.requested" Pairing Close,
    "node.pair.resolved" Pairing Close,
    "node.presence" Read Skip,
    "device.pair.changed" Pairing Close,
    "device.pair.requested" Pairing Close,
    "device.pair.resolved" Pairing Close,
    "users.prefs.changed" Read Skip,
    "skills.changed" Read Skip,
    "config.changed" Read Skip,
    "farm" Read Skip,
    "voicewake.changed" Read Skip,
    "voicewake.routing.changed" Read Skip,
    "exec.approval.requested" Approvals Close,
    "exec.approval.resolved" Approvals Close,
    "question.requested" Questions Close,
    "question.resolved" Questions Close,
    "update.available" Everybody Skip,
}

/// The rule of an event; names without a rule are not delivered, plugin events need write.
#[must_use]
pub fn rule(name: &str) -> Option<EventRule> {
    EVENTS
        .iter()
        .find(|rule| rule.name == name)
        .copied()
        .or_else(|| name.starts_with("plugin.").then_some(EventRule { name: "plugin.*", audience: Audience::Having(Scope::Write), loss: Loss::Skip }))
}

words! {
    /// The state of a `chat` event.
    ChatState: "status" => Status, "delta" => Delta, "final" => Final, "aborted" => Aborted, "error" => Error;
    /// A pairing decision.
    PairDecision: "approved" => Approved, "rejected" => Rejected;
    /// What happened to a job.
    CronAction: "added" => Added, "updated" => Updated, "removed" => Removed, "started" => Started, "finished" => Finished;
}

macro_rules! payloads {
    ($($(#[$meta:meta])* $Name:ident { $($(#[$fm:meta])* $field:ident : $ty:ty),* $(,)? })*) => {$(
        $(#[$meta])*
        #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
        #[serde(rename_all = "camelCase")]
        #[allow(missing_docs, reason = "field names are the documentation unless a comment adds to them")]
        pub struct $Name { $($(#[$fm])* pub $field: $ty),* }
    )*};
}

payloads! {
    /// Payload of `agent`.
    AgentEvent {
        run_id: String,
        /// Counts the events of the run; `chat` events share it.
        seq: u64,
        /// `run_status`, `lifecycle`, `assistant`, `thinking`, `tool`, `item`, `command_output`, `usage`, ...
        stream: String,
        ts: i64,
        data: Map<String, Value>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        session_key: Option<String>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        session_id: Option<String>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        agent_id: Option<String>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        is_heartbeat: Option<bool>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        spawned_by: Option<String>,
        #[serde(flatten)]
        more: Map<String, Value>,
    }
    /// Payload of `chat`.
    ChatEvent {
        run_id: String,
        session_key: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        agent_id: Option<String>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        spawned_by: Option<String>,
        seq: u64,
        state: ChatState,
        /// What the state says: `phase`, `deltaText`, `message`, `stopReason`, `errorMessage`, ...
        #[serde(flatten)]
        more: Map<String, Value>,
    }
    /// Payload of `session.message`.
    SessionMessageEvent {
        session_key: String,
        agent_id: String,
        message_id: String,
        message_seq: u64,
        message: Value,
        #[serde(flatten)]
        more: Map<String, Value>,
    }
    /// Payload of `sessions.changed`. With only `reason` and `ts` it means: read everything again.
    SessionsChangedEvent {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        session_key: Option<String>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        agent_id: Option<String>,
        ts: i64,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        phase: Option<String>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        run_id: Option<String>,
        #[serde(flatten)]
        more: Map<String, Value>,
    }
    /// Payload of `cron`.
    CronEvent {
        job_id: String,
        action: CronAction,
        #[serde(flatten)]
        more: Map<String, Value>,
    }
    /// Somebody connected.
    PresenceEntry {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        host: Option<String>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        client_id: Option<String>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        ip: Option<String>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        version: Option<String>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        platform: Option<String>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        device_family: Option<String>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        mode: Option<String>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        device_id: Option<String>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        instance_id: Option<String>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        roles: Option<Vec<String>>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        scopes: Option<Vec<String>>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        online_since: Option<i64>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        text: Option<String>,
        ts: i64,
        #[serde(flatten)]
        more: Map<String, Value>,
    }
    /// Payload of `presence`: always the full list.
    PresenceEvent { presence: Vec<PresenceEntry> }
    /// Payload of `tick`.
    TickEvent { ts: i64 }
    /// Payload of `shutdown`.
    ShutdownEvent {
        reason: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        restart_expected_ms: Option<u64>,
    }
    /// Payload of `device.pair.requested`; also a row of `device.pair.list`.
    PairRequest {
        request_id: String,
        device_id: String,
        public_key: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        platform: Option<String>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        device_family: Option<String>,
        client_id: String,
        client_mode: String,
        role: String,
        roles: Vec<String>,
        scopes: Vec<String>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        remote_ip: Option<String>,
        silent: bool,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        is_repair: Option<bool>,
        ts: i64,
    }
    /// Payload of `device.pair.resolved`.
    PairResolved { request_id: String, device_id: String, decision: PairDecision, ts: i64 }
}
