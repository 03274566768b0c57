use serde::{Deserialize, Serialize};

use crate::{AccountId, AgentId, ChannelId, EnvelopeId, Millis, Part, RunId, SessionKey};

/// What a letter is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum EnvelopeKind {
    /// Wants a turn and an answer.
    #[default]
    Request,
    /// The answer to a request; resumes a waiting call or is shown to the session.
    Reply,
    /// Something to know at the next turn; starts no turn by itself.
    Event,
}

/// Who wrote a letter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "camelCase")]
pub enum Origin {
    /// A person or program on the gateway protocol or HTTP surface.
    #[serde(rename_all = "camelCase")]
    Client {
        /// `openclaw-control-ui`, `cli`, `openai-http`, ...
        client_id: String,
        /// The paired device, where there is one.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        device_id: Option<String>,
        /// True for an operator with admin scope.
        owner: bool,
    },
    /// A person on a chat platform.
    #[serde(rename_all = "camelCase")]
    Channel {
        /// The platform.
        channel: ChannelId,
        /// Our account there.
        account: AccountId,
        /// The platform's id of the sender.
        sender_id: String,
        /// The sender's name as the platform shows it.
        sender_name: String,
        /// The platform's id of the message.
        message_id: String,
        /// True when the sender is an owner of this gateway.
        owner: bool,
    },
    /// Another agent (or the same one, from another session).
    #[serde(rename_all = "camelCase")]
    Agent {
        /// The agent.
        agent: AgentId,
        /// Its session.
        session: SessionKey,
    },
    /// A scheduled job.
    #[serde(rename_all = "camelCase")]
    Cron {
        /// The job.
        job_id: String,
    },
    /// A heartbeat.
    Heartbeat,
    /// A webhook or system event.
    Hook {
        /// Its name.
        name: String,
    },
}

/// To whom a letter goes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Address {
    /// The agent; its owner gateway is looked up on every attempt.
    pub agent: AgentId,
    /// The session.
    pub session: SessionKey,
}

/// What to do with a message that arrives while a run of the same session is going.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum QueueMode {
    /// Put it into the running turn after the current tool calls; the default.
    #[default]
    Steer,
    /// Run it as its own turn afterwards.
    Followup,
    /// Collect everything that waits into one turn afterwards.
    Collect,
    /// Abort the running turn and start with this one.
    Interrupt,
}

/// Where a reply goes on a chat platform.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DeliveryTarget {
    /// The platform.
    pub channel: ChannelId,
    /// Our account there.
    pub account: AccountId,
    /// Peer, channel or room id as the platform's `send` takes it.
    pub to: String,
    /// Thread or topic.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub thread_id: Option<String>,
    /// The message to quote.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub reply_to: Option<String>,
}

/// Wishes for the turn that a letter starts. Absent means: as the session and agent are set.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TurnOptions {
    /// `provider/model` for this turn only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// `off`, `low`, `medium`, `high`, ...
    #[serde(skip_serializing_if = "Option::is_none")]
    pub thinking: Option<String>,
    /// Turn time limit, milliseconds; 0 means none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<u64>,
    /// What to do when the session is busy.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queue_mode: Option<QueueMode>,
    /// Text added to the system prompt of this turn.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub extra_system_prompt: Option<String>,
    /// True gives only AGENTS.md, TOOLS.md, SOUL.md, IDENTITY.md and USER.md (cron, sub-agents).
    pub light_context: bool,
    /// Tools that only this turn may not use.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub deny_tools: Vec<String>,
    /// Where the reply goes besides the watching clients; none means nowhere.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deliver_to: Option<DeliveryTarget>,
    /// Sampling temperature, 0 to 2.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub temperature: Option<f64>,
    /// Output tokens at most.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_tokens: Option<u32>,
    /// True for heartbeats: an acknowledgement-only answer is dropped silently.
    pub heartbeat: bool,
    /// True emits `run_status` events (chat.send); false is the quieter `agent` method.
    pub status_events: bool,
}

/// A letter: everything that wants an agent's attention.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Envelope {
    /// `UUIDv7`.
    pub id: EnvelopeId,
    /// The run it starts; equals the caller's idempotency key where there is one. Two letters with the
    /// same run id for the same agent are the same letter.
    pub run_id: RunId,
    /// What it is for.
    pub kind: EnvelopeKind,
    /// Who wrote it.
    pub from: Origin,
    /// To whom.
    pub to: Address,
    /// The session that waits for the answer, for letters between agents.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub reply_to: Option<Address>,
    /// The letter that caused this one.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub cause: Option<EnvelopeId>,
    /// What is said.
    pub body: Vec<Part>,
    /// Wishes for the turn.
    #[serde(default)]
    pub options: TurnOptions,
    /// Agents this conversation of letters has passed, oldest first: stops rings. At most 8.
    #[serde(default)]
    pub path: Vec<AgentId>,
    /// When it was written.
    pub at: Millis,
    /// After this moment no turn starts for it; none means it waits for ever.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub expires: Option<Millis>,
    /// W3C trace context.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub traceparent: Option<String>,
}
