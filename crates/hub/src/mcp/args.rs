//! What the tools take. Doc comments and bounds become the JSON schemas that clients and models read; unknown fields
//! are refused, so a misspelt one is noticed. The spellings of the published examples are taken too (`from_agent`).

use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;

use crate::host::{LetterKind, Priority};

/// Whose memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, serde::Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum SpaceArg {
    /// One agent's own: only it writes, everybody reads.
    #[default]
    Agent,
    /// Everybody's.
    Shared,
    /// Everybody's notes of where things stand (current-focus); in Consul below openclaw/shared-state.
    State,
}

/// How a letter ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum OutcomeArg {
    /// Handled: it never comes again.
    #[default]
    Done,
    /// Cannot be handled: it becomes a dead letter that an operator can look at and replay.
    Failed,
    /// Not now: it can be taken again at once.
    Return,
}

/// `agent_register`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RegisterArgs {
    /// Id of the agent: letters a-z, digits, _ and -, at most 64. It belongs to whoever registered it first.
    #[schemars(regex(pattern = r"^[a-z0-9][a-z0-9_-]{0,63}$"))]
    pub agent_id: String,
    /// What it can do, for example ["consul", "infra-monitoring"].
    #[serde(default)]
    #[schemars(length(max = 64), inner(length(min = 1, max = 64)))]
    pub capabilities: Vec<String>,
    /// One sentence for people.
    #[serde(default)]
    #[schemars(length(max = 500))]
    pub description: Option<String>,
    /// Gateway the agent wishes to be served by. Only a wish: the answer names the gateway that serves it.
    #[serde(default)]
    #[schemars(length(max = 64))]
    pub gateway_id: Option<String>,
    /// The model service behind the agent, for example "litellm-macbook".
    #[serde(default)]
    #[schemars(length(max = 64))]
    pub model_provider: Option<String>,
    /// True when the agent will call agent_heartbeat regularly.
    #[serde(default)]
    pub heartbeat_enabled: Option<bool>,
}

/// `agent_discover`.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct DiscoverArgs {
    /// Only agents with this capability.
    #[schemars(length(min = 1, max = 64))]
    pub capability: Option<String>,
    /// Only agents with this status, for example "active".
    #[schemars(length(min = 1, max = 64))]
    pub status: Option<String>,
    /// At most this many; default 100.
    #[schemars(range(min = 1, max = 500))]
    pub limit: Option<u32>,
}

/// `agent_heartbeat`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct HeartbeatArgs {
    /// One of your agents.
    #[schemars(regex(pattern = r"^[a-z0-9][a-z0-9_-]{0,63}$"))]
    pub agent_id: String,
    /// Its status from now on, for example "active" or "busy"; absent leaves it.
    #[serde(default)]
    #[schemars(length(min = 1, max = 64))]
    pub status: Option<String>,
    /// What its last check found, for example "all-healthy" or "alert: 2 failed allocations".
    #[serde(default)]
    #[schemars(length(max = 2000))]
    pub last_check_result: Option<String>,
    /// Something people should know; agent_discover shows the newest with its time.
    #[serde(default)]
    #[schemars(length(min = 1, max = 2000))]
    pub alert: Option<String>,
}

/// `send_message`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SendArgs {
    /// The sender: one of your agents. Also taken as from_agent.
    #[serde(alias = "from_agent")]
    #[schemars(regex(pattern = r"^[a-z0-9][a-z0-9_-]{0,63}$"))]
    pub from: String,
    /// The receiver: any agent of the farm. Also taken as to_agent.
    #[serde(alias = "to_agent")]
    #[schemars(regex(pattern = r"^[a-z0-9][a-z0-9_-]{0,63}$"))]
    pub to: String,
    /// What is said: text, or any JSON but null, at most 65536 bytes. Also taken as message_body.
    #[serde(alias = "message_body")]
    pub body: Value,
    /// What it is for; default request.
    #[serde(default)]
    pub kind: LetterKind,
    /// The message_id this one answers; needed for a reply.
    #[serde(default)]
    #[schemars(length(min = 1, max = 64))]
    pub in_reply_to: Option<String>,
    /// The same key from the same sender is the same letter: give one when you may have to repeat the call.
    #[serde(default)]
    #[schemars(length(min = 1, max = 128))]
    pub idempotency_key: Option<String>,
    /// After this many milliseconds the letter is dead; default 300000 (5 min), at most 86400000 (a day).
    #[serde(default)]
    #[schemars(range(min = 1000, max = 86_400_000))]
    pub ttl_ms: Option<u64>,
    /// How urgent; default normal.
    #[serde(default)]
    pub priority: Priority,
}

/// `check_inbox`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct InboxArgs {
    /// One of your agents.
    #[schemars(regex(pattern = r"^[a-z0-9][a-z0-9_-]{0,63}$"))]
    pub agent_id: String,
    /// At most this many letters; default 10.
    #[serde(default)]
    #[schemars(range(min = 1, max = 50))]
    pub limit: Option<u32>,
}

/// `ack_message`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AckArgs {
    /// One of your agents, whose inbox the letter is in.
    #[schemars(regex(pattern = r"^[a-z0-9][a-z0-9_-]{0,63}$"))]
    pub agent_id: String,
    /// The letter.
    #[schemars(length(min = 1, max = 64))]
    pub message_id: String,
    /// The lease check_inbox gave with it: then the call fails when another reader has the letter meanwhile.
    #[serde(default)]
    #[schemars(length(min = 1, max = 64))]
    pub lease: Option<String>,
    /// How it ended; default done.
    #[serde(default)]
    pub outcome: OutcomeArg,
    /// Why it failed; needed with "failed".
    #[serde(default)]
    #[schemars(length(min = 1, max = 1000))]
    pub reason: Option<String>,
}

/// `set_memory`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SetMemoryArgs {
    /// One of your agents: it writes its own memory, or the shared one.
    #[schemars(regex(pattern = r"^[a-z0-9][a-z0-9_-]{0,63}$"))]
    pub agent_id: String,
    /// Name of the value: letters, digits, dot, _ and -, for example "current-task".
    #[schemars(regex(pattern = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$"))]
    pub key: String,
    /// The value: any JSON, at most 65536 bytes; null removes the key.
    pub value: Value,
    /// Whose memory; default the agent's own.
    #[serde(default)]
    pub space: SpaceArg,
    /// Forget it after this many seconds; absent keeps it.
    #[serde(default)]
    #[schemars(range(min = 1, max = 31_536_000))]
    pub ttl_seconds: Option<u64>,
    /// Write only if the value still has the version get_memory told.
    #[serde(default)]
    #[schemars(length(min = 1, max = 64))]
    pub if_version: Option<String>,
    /// Write only if there is no such key.
    #[serde(default)]
    pub if_absent: bool,
}

/// `get_memory`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct GetMemoryArgs {
    /// Whose memory (any agent); needed when space is "agent".
    #[serde(default)]
    #[schemars(regex(pattern = r"^[a-z0-9][a-z0-9_-]{0,63}$"))]
    pub agent_id: Option<String>,
    /// Name of the value; absent lists the names. In the shared space "recent-events" and "task-queue" show those.
    #[serde(default)]
    #[schemars(length(min = 1, max = 128))]
    pub key: Option<String>,
    /// Whose memory; default the agent's own.
    #[serde(default)]
    pub space: SpaceArg,
    /// For recent-events and task-queue: at most this many; default 100.
    #[serde(default)]
    #[schemars(range(min = 1, max = 1000))]
    pub limit: Option<u32>,
}

/// `push_event`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct EventArgs {
    /// One of your agents.
    #[schemars(regex(pattern = r"^[a-z0-9][a-z0-9_-]{0,63}$"))]
    pub agent_id: String,
    /// What happened, for example "nomad-alert-cleared".
    #[schemars(length(min = 1, max = 2048))]
    pub event: String,
    /// The same id within ten minutes is the same event: give one when you may have to repeat the call.
    #[serde(default)]
    #[schemars(regex(pattern = r"^[A-Za-z0-9._-]{1,64}$"))]
    pub request_id: Option<String>,
}

/// `push_task`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PushTaskArgs {
    /// One of your agents.
    #[schemars(regex(pattern = r"^[a-z0-9][a-z0-9_-]{0,63}$"))]
    pub agent_id: String,
    /// What to do: text ("backup-consul") or an object; at most 16384 bytes.
    pub task: Value,
    /// The same id within ten minutes is the same task: give one when you may have to repeat the call.
    #[serde(default)]
    #[schemars(regex(pattern = r"^[A-Za-z0-9._-]{1,64}$"))]
    pub request_id: Option<String>,
}

/// `pop_task`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PopTaskArgs {
    /// One of your agents: it takes the task.
    #[schemars(regex(pattern = r"^[a-z0-9][a-z0-9_-]{0,63}$"))]
    pub agent_id: String,
    /// The same id within ten minutes gets the same task again: give one so that a lost answer can be asked for again.
    #[serde(default)]
    #[schemars(regex(pattern = r"^[A-Za-z0-9._-]{1,64}$"))]
    pub request_id: Option<String>,
}

/// `dlq_list`.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct DlqListArgs {
    /// Only letters from or to this agent. Without it: those of all your agents, or of the whole farm for operators.
    #[schemars(regex(pattern = r"^[a-z0-9][a-z0-9_-]{0,63}$"))]
    pub agent_id: Option<String>,
    /// At most this many; default 50.
    #[schemars(range(min = 1, max = 500))]
    pub limit: Option<u32>,
}

/// `dlq_replay`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DlqReplayArgs {
    /// The dead letter.
    #[schemars(length(min = 1, max = 64))]
    pub message_id: String,
}
