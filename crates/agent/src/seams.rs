//! What a lane needs from outside, as small traits: the gateway adapts config, models and tools to them; the
//! simulator scripts them.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc};

use async_trait::async_trait;
use futures_util::stream::BoxStream;
use serde_json::Value;

use clawstead_providers::{Chunk, ProviderError};
use clawstead_terms::{AgentId, EffectClass, Failure, Message, RunEvent, RunId, SessionKey, ToolDefinition};
use clawstead_tools::{ToolCx, ToolError, ToolOutput};

use crate::{prefix::ReplyPrefix, queue::QueueRules, reset::ResetPlan};

/// One question of a turn: [`clawstead_providers::Ask`] plus who asks and which models may answer.
#[derive(Clone, Debug)]
pub struct BrainAsk {
    /// The agent.
    pub agent: AgentId,
    /// Its session.
    pub session: SessionKey,
    /// Its run.
    pub run: RunId,
    /// `provider/model` in the order to try; the first is the one wanted. Empty means the gateway's default.
    pub models: Vec<String>,
    /// The system prompt.
    pub system: Arc<str>,
    /// The conversation, calls and results paired.
    pub messages: Arc<[Arc<Message>]>,
    /// The tools on offer.
    pub tools: Arc<[ToolDefinition]>,
    /// Output tokens at most; absent means the model's limit.
    pub max_tokens: Option<u32>,
    /// Sampling temperature.
    pub temperature: Option<f64>,
    /// Thinking level; absent means the model's default.
    pub thinking: Option<String>,
    /// Extra request fields of the agent (`agents.*.params`).
    pub params: Option<Value>,
}

/// A piece of an answer, or news about who gives it.
#[derive(Clone, Debug)]
pub enum BrainChunk {
    /// This model answers. Always before the first piece.
    Chosen {
        /// The provider's id.
        provider: String,
        /// The model's id.
        model: String,
    },
    /// A model failed, the next one is tried (or the same again). What it had said so far is void.
    Fallback {
        /// `provider/model` that failed.
        from: String,
        /// The next one.
        to: String,
        /// Why.
        failure: Failure,
        /// Milliseconds until the next try.
        delay_ms: u64,
    },
    /// A piece.
    Piece(Chunk),
}

/// The pieces as they come.
pub type BrainStream = BoxStream<'static, Result<BrainChunk, ProviderError>>;

/// How much a model takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ModelLimits {
    /// Tokens of context.
    pub context_window: u64,
    /// Output tokens at most.
    pub output_max: u64,
}

impl Default for ModelLimits {
    fn default() -> Self {
        Self { context_window: 200_000, output_max: 8_192 }
    }
}

/// Whoever answers: models with failover in the gateway, a script in simulations.
#[async_trait]
pub trait Brain: Send + Sync {
    /// Asks. Failover between models and keys happens inside.
    ///
    /// # Errors
    /// The last error when no candidate began to answer.
    async fn ask(&self, ask: BrainAsk) -> Result<BrainStream, ProviderError>;

    /// Reads a model as a person writes it after `/model`: an alias, a name, `provider/model`. The answer is
    /// `provider/model`; none when there is no such model or it is not allowed.
    fn resolve(&self, agent: &AgentId, text: &str) -> Option<String> {
        let _ = agent;
        text.contains('/').then(|| text.to_owned())
    }

    /// What the model takes; `model` is `provider/model`, empty means the default.
    fn limits(&self, agent: &AgentId, model: &str) -> ModelLimits;
}

/// The tools one turn may use, under the policy that was asked for it.
#[async_trait]
pub trait Offer: Send + Sync {
    /// As the model is told, in a stable order (providers cache by it).
    fn definitions(&self) -> Arc<[ToolDefinition]>;

    /// What may be done again after a crash; none when there is no such tool in this turn.
    fn class(&self, name: &str) -> Option<EffectClass>;

    /// Makes a call, with the tool's own time limit. Dropping the future stops it.
    ///
    /// # Errors
    /// As [`ToolError`] lists.
    async fn call(&self, name: &str, cx: ToolCx, args: Value) -> Result<ToolOutput, ToolError>;
}

/// Who wants tools, for the policy.
#[derive(Clone, Debug)]
pub struct ToolScope {
    /// The agent.
    pub agent: AgentId,
    /// Its session.
    pub session: SessionKey,
    /// Who asked may do owner things.
    pub owner: bool,
    /// 0 for a session of a person, 1 for its sub-agents, and so on.
    pub spawn_depth: u32,
    /// Tools this turn may not use.
    pub deny: Vec<String>,
}

/// Decides which tools a turn gets. Cheap: called once a turn, so implementations cache.
pub trait Toolbox: Send + Sync {
    /// The tools for this turn.
    fn offer(&self, scope: &ToolScope) -> Arc<dyn Offer>;
}

/// Whoever watches runs. Called on the lane's path: must not block and must not wait.
pub trait RunSink: Send + Sync {
    /// Something happened.
    fn emit(&self, event: RunEvent);

    /// The session's row changed (created, patched, run started or ended, deleted).
    fn session_changed(&self, change: SessionChange) {
        let _ = change;
    }

    /// An outbox row was written in the batch that just became durable: the gateway's outbox may send it.
    fn outbox_grew(&self, agent: &AgentId) {
        let _ = agent;
    }
}

/// Why a session's row changed.
#[derive(Clone, Debug)]
pub struct SessionChange {
    /// The session.
    pub key: SessionKey,
    /// `create`, `send`, `run-started`, `run-ended`, `patch`, `reset`, `delete`, `compact`, `inject`.
    pub reason: &'static str,
    /// The row now; none after a delete.
    pub row: Option<Arc<crate::SessionRow>>,
}

/// Who an agent is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    /// Its name.
    pub name: Option<String>,
    /// What it is or sounds like.
    pub theme: Option<String>,
    /// Its emoji.
    pub emoji: Option<String>,
}

/// When and how the context is compacted.
#[derive(Clone, Debug, PartialEq)]
pub struct CompactionSettings {
    /// Tokens of the context window kept free for the answer; default 16,384.
    pub reserve_tokens: u64,
    /// Tokens of the newest messages kept as they are; default 20,000.
    pub keep_recent_tokens: u64,
    /// The model that writes summaries; none means the session's.
    pub model: Option<String>,
    /// Extra instructions for the summary.
    pub instructions: Option<String>,
}

impl Default for CompactionSettings {
    fn default() -> Self {
        Self { reserve_tokens: 16_384, keep_recent_tokens: 20_000, model: None, instructions: None }
    }
}

/// Limits for sub-agents.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubagentSettings {
    /// Levels of spawning: 1 means sub-agents spawn none; default 5.
    pub spawn_depth_max: u32,
    /// Running children of one session at most; default 5.
    pub children_max: usize,
    /// Minutes after its end until a sub-agent's session is archived; 0 means never; default 60.
    pub archive_after_minutes: u64,
    /// Agents that may be spawned besides itself; `*` means all.
    pub allow_agents: Vec<String>,
    /// `provider/model` for sub-agents.
    pub model: Option<String>,
    /// Thinking level for sub-agents.
    pub thinking: Option<String>,
}

impl Default for SubagentSettings {
    fn default() -> Self {
        Self { spawn_depth_max: 5, children_max: 5, archive_after_minutes: 60, allow_agents: Vec::new(), model: None, thinking: None }
    }
}

/// What a lane knows of its agent. Made by the gateway from the config; a reload makes a new one.
#[derive(Clone, Debug)]
pub struct AgentSettings {
    /// The agent.
    pub id: AgentId,
    /// Who it is.
    pub identity: Identity,
    /// Its workspace, absolute.
    pub workspace: PathBuf,
    /// `provider/model`; none means the gateway's default.
    pub model: Option<String>,
    /// Tried after `model`, in order.
    pub fallbacks: Vec<String>,
    /// Thinking level; none means the model's default.
    pub thinking: Option<String>,
    /// Time limit of a turn, ms; 0 means none; default 48 h.
    pub timeout_ms: u64,
    /// Model calls of one turn at most; default 200.
    pub model_calls_max: u32,
    /// Read-only tool calls that run at once; default 8.
    pub parallel_tools_max: usize,
    /// Output tokens at most.
    pub max_tokens: Option<u32>,
    /// Sampling temperature.
    pub temperature: Option<f64>,
    /// Extra request fields.
    pub params: Option<Value>,
    /// Characters of one workspace file in the prompt; default 20,000.
    pub bootstrap_chars_max: usize,
    /// Characters of all workspace files in the prompt; default 60,000.
    pub bootstrap_total_chars_max: usize,
    /// IANA name; none means UTC.
    pub timezone: Option<String>,
    /// Skills on offer; none means all.
    pub skills: Option<Vec<String>>,
    /// Folders searched for skills besides the workspace's, highest precedence first.
    pub skill_dirs: Vec<PathBuf>,
    /// Config paths that are set, for skills that require some.
    pub config_flags: Vec<String>,
    /// `tools.*` merged over defaults, as tools read it.
    pub tool_settings: Arc<Value>,
    /// What to do with letters that come while others wait.
    pub queue: QueueRules,
    /// What is put before replies on chat platforms.
    pub reply_prefix: ReplyPrefix,
    /// When sessions start afresh by themselves.
    pub reset: ResetPlan,
    /// Texts that reset besides `/new` and `/reset`.
    pub reset_triggers: Vec<String>,
    /// Compaction.
    pub compaction: CompactionSettings,
    /// Text a heartbeat answer may have besides its acknowledgement and still count as one; default 300.
    pub heartbeat_ack_chars_max: usize,
    /// Sub-agents.
    pub subagents: SubagentSettings,
}

impl AgentSettings {
    /// Defaults for an agent and its workspace.
    pub fn new(id: AgentId, workspace: impl Into<PathBuf>) -> Self {
        Self {
            id,
            identity: Identity::default(),
            workspace: workspace.into(),
            model: None,
            fallbacks: Vec::new(),
            thinking: None,
            timeout_ms: 172_800_000,
            model_calls_max: 200,
            parallel_tools_max: 8,
            max_tokens: None,
            temperature: None,
            params: None,
            bootstrap_chars_max: 20_000,
            bootstrap_total_chars_max: 60_000,
            timezone: None,
            skills: None,
            skill_dirs: Vec::new(),
            config_flags: Vec::new(),
            tool_settings: Arc::new(Value::Object(serde_json::Map::new())),
            queue: QueueRules::default(),
            reply_prefix: ReplyPrefix::default(),
            reset: ResetPlan::default(),
            reset_triggers: Vec::new(),
            compaction: CompactionSettings::default(),
            heartbeat_ack_chars_max: 300,
            subagents: SubagentSettings::default(),
        }
    }
}

/// The bounds of all lanes together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LaneLimits {
    /// Turns at once over all sessions (`agents.defaults.maxConcurrent`).
    pub runs_max: usize,
    /// Sub-agent turns at once.
    pub subagent_runs_max: usize,
    /// Sessions with a transcript in memory; idle ones beyond are dropped, longest unused first.
    pub live_sessions_max: usize,
    /// Open letters of one session after which requests get `Busy`.
    pub session_inbox_soft_max: usize,
    /// Open letters of one session after which everything gets `Busy`.
    pub session_inbox_hard_max: usize,
    /// Open letters of one agent at most.
    pub agent_inbox_max: usize,
    /// Bytes of a run's final text kept in the ledger.
    pub run_text_bytes_max: usize,
}

impl Default for LaneLimits {
    fn default() -> Self {
        let cpus = std::thread::available_parallelism().map_or(2, std::num::NonZero::get);
        Self {
            runs_max: (4 * cpus).max(8),
            subagent_runs_max: 8,
            live_sessions_max: 512,
            session_inbox_soft_max: 200,
            session_inbox_hard_max: 1_000,
            agent_inbox_max: 5_000,
            run_text_bytes_max: 64 * 1024,
        }
    }
}

/// The settings in force.
pub trait Settings: Send + Sync {
    /// An agent's settings; none when there is no such agent.
    fn agent(&self, id: &AgentId) -> Option<Arc<AgentSettings>>;
}

impl Settings for BTreeMap<AgentId, Arc<AgentSettings>> {
    fn agent(&self, id: &AgentId) -> Option<Arc<AgentSettings>> {
        self.get(id).cloned()
    }
}
