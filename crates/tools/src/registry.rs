//! The list of tools, and the box they are called through.
//!
//! # Methods of the gateway that tools call
//!
//! Tools never touch the store, a lane or a channel: they call methods through [`crate::Rpc`], as the agent that
//! runs (`ToolCaller`). Public methods have the protocol's own parameters; names that begin with `internal.` are
//! for tools only and must not be reachable from a socket.
//!
//! | Tool | Method | Parameters sent | Read from the answer |
//! | --- | --- | --- | --- |
//! | `exec` | `internal.exec.policy` | `{agentId}` | `{file}`: the approvals file of [`crate::approvals::ApprovalsFile`]; an absent file is `{"version":1}` |
//! | `exec` | `internal.exec.used` | `{agentId, pattern, command, resolvedPath}` | nothing; best effort, stamps `lastUsed*` of the entry |
//! | `exec` | `exec.approval.request` | `{id, command, commandPreview, commandArgv, cwd, env, host:"gateway", security, ask, agentId, sessionKey, resolvedPath, allowAlwaysPatterns, timeoutMs, twoPhase:true}` | `{id}`, or at once `{decision}` |
//! | `exec` | `exec.approval.waitDecision` | `{id}` | `{decision}`: `allow-once`, `allow-always`, `deny` or null. On `allow-always` the gateway itself adds `allowAlwaysPatterns` to the agent's allowlist |
//! | `exec` | `wake` | `{mode:"now", text, sessionKey, agentId}` | nothing; a background command ended (`tools.exec.notifyOnExit`) |
//! | `sessions_list` | `sessions.list` | `{limit, activeMinutes?, agentId?, label?, search?, includeLastMessage?, includeDerivedTitles?}` | `{sessions[]}`; visibility (`tools.sessions.visibility`) is the method's |
//! | `sessions_history` | `chat.history` | `{sessionKey, limit, maxBytes}` | `{messages[], hasMore?}` |
//! | `sessions_send` | `sessions.resolve` | `{label, agentId?}` | `{key}`; only when a label was given |
//! | `sessions_send` | `sessions.send` | `{key, message, idempotencyKey, timeoutMs}`; the letter's `reply_to` is the caller's session | `{runId}`; `tools.agentToAgent` is decided here (`FORBIDDEN`) |
//! | `sessions_send` | `agent.wait` | `{runId, timeoutMs}` | `{status, terminalReply.text?, error?}` |
//! | `sessions_spawn` | `internal.sessions.spawn` | `{task, label?, agentId?, model?, thinking?, runTimeoutSeconds, cleanup, requesterSessionKey, requesterRunId, idempotencyKey}` | `{childSessionKey, runId}`; the child's end comes to the requester as a letter |
//! | `session_status` | `sessions.describe`; `sessions.patch` | `{key}`; `{key, model}` | `{session}`; the patch only when `model` was given |
//! | `agents_list` | `agents.list` | `{}` | `{defaultId, agents[]}` |
//! | `cron` | `cron.status`, `cron.list`, `cron.add`, `cron.update`, `cron.remove`, `cron.run`, `cron.runs` | the protocol's; `cron.add` always has `agentId` and `sessionKey` of the caller unless the model set them | passed on |
//! | `cron` | `wake` | `{mode, text, sessionKey, agentId}` | `{ok}` |
//! | `message` | `message.action` | `{channel?, action, params, accountId?, sessionKey, sessionId?, agentId, idempotencyKey}`; without `channel` the session's own | passed on |
//!
//! Wherever an `idempotencyKey` is sent it is `cx.effect_id`, so that a call repeated after a crash has one effect.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, OnceLock, PoisonError},
    time::Duration,
};

use serde_json::Value;

use clawstead_terms::ToolDefinition;

use crate::{
    AnyTool, Places, ToolCx, ToolError, ToolOutput, ToolSpec,
    bound::{OUTPUT_BYTES_MAX, cut_output},
    exec::Sessions,
    policy::{ToolPolicy, canonical},
};

/// What all tools of one gateway share.
pub struct Shared {
    /// The host.
    pub places: Arc<Places>,
    /// Commands that run.
    pub sessions: Arc<Sessions>,
}

/// Makes one tool.
type Make = fn(&Shared) -> Arc<dyn AnyTool>;

/// All tools, in the order the model sees them.
const TOOLS: &[Make] = &[
    |s| Arc::new(crate::read::Read { places: s.places.clone() }),
    |s| Arc::new(crate::write::Write { places: s.places.clone() }),
    |s| Arc::new(crate::edit::Edit { places: s.places.clone() }),
    |s| Arc::new(crate::ls::Ls { places: s.places.clone() }),
    |s| Arc::new(crate::exec::Exec { places: s.places.clone(), sessions: s.sessions.clone() }),
    |s| Arc::new(crate::process::Process { sessions: s.sessions.clone() }),
    |_| Arc::new(crate::web_fetch::WebFetch),
    |s| Arc::new(crate::memory_search::MemorySearch { places: s.places.clone() }),
    |s| Arc::new(crate::memory_get::MemoryGet { places: s.places.clone() }),
    |_| Arc::new(crate::sessions_list::SessionsList),
    |_| Arc::new(crate::sessions_history::SessionsHistory),
    |_| Arc::new(crate::sessions_send::SessionsSend),
    |_| Arc::new(crate::sessions_spawn::SessionsSpawn),
    |_| Arc::new(crate::session_status::SessionStatus),
    |_| Arc::new(crate::agents_list::AgentsList),
    |_| Arc::new(crate::cron::Cron),
    |_| Arc::new(crate::message::SendMessage),
];

/// Most different offers that are kept ready; more agents with more different policies build theirs anew.
const OFFERS_MAX: usize = 64;

struct Entry {
    spec: ToolSpec,
    tool: Arc<dyn AnyTool>,
    definition: OnceLock<ToolDefinition>,
}

/// All tools of a gateway: what is offered to a model, and the one way to call them.
pub struct Toolbox {
    entries: Vec<Entry>,
    offers: Mutex<BTreeMap<Vec<u8>, Arc<[ToolDefinition]>>>,
    sessions: Arc<Sessions>,
}

impl Toolbox {
    /// The tools of [`TOOLS`]. Cheap: schemas are made when a model first needs them.
    #[must_use]
    pub fn new(places: Places) -> Self {
        Self::with(places, Vec::new())
    }

    /// The same with further tools (of plugins); a further tool with a name that is taken is left out.
    #[must_use]
    pub fn with(places: Places, further: Vec<Arc<dyn AnyTool>>) -> Self {
        let shared = Shared { places: Arc::new(places), sessions: Arc::new(Sessions::default()) };
        let mut entries: Vec<Entry> = Vec::with_capacity(TOOLS.len() + further.len());
        for tool in TOOLS.iter().map(|make| make(&shared)).chain(further) {
            let spec = tool.spec();
            if entries.iter().any(|e| e.spec.name == spec.name) {
                tracing::warn!(tool = spec.name, "a tool of this name is there already; the second is left out");
                continue;
            }
            entries.push(Entry { spec, tool, definition: OnceLock::new() });
        }
        Self { entries, offers: Mutex::default(), sessions: shared.sessions }
    }

    /// What each tool is, in order.
    pub fn specs(&self) -> impl Iterator<Item = &ToolSpec> {
        self.entries.iter().map(|e| &e.spec)
    }

    /// What a tool is; the name may be an alias (`bash` is `exec`) in any case.
    #[must_use]
    pub fn spec(&self, name: &str) -> Option<&ToolSpec> {
        self.find(name).map(|e| &e.spec)
    }

    /// The commands that run in the background.
    #[must_use]
    pub fn sessions(&self) -> &Arc<Sessions> {
        &self.sessions
    }

    /// The tools a model is told about under a policy. Kept ready per set of tools, so that a turn costs a lookup.
    #[must_use]
    pub fn offer(&self, policy: &ToolPolicy) -> Arc<[ToolDefinition]> {
        let mut key = vec![0_u8; self.entries.len().div_ceil(8)];
        for (index, entry) in self.entries.iter().enumerate() {
            if policy.allows(entry.spec.name) {
                key[index / 8] |= 1 << (index % 8);
            }
        }
        let mut offers = self.offers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(ready) = offers.get(&key) {
            return ready.clone();
        }
        let chosen = self.entries.iter().enumerate().filter(|(index, _)| key[index / 8] & (1 << (index % 8)) != 0);
        let offer: Arc<[ToolDefinition]> = chosen.map(|(_, entry)| entry.definition().clone()).collect();
        if offers.len() >= OFFERS_MAX {
            offers.clear();
        }
        offers.insert(key, offer.clone());
        offer
    }

    /// Calls a tool after asking the policy: what a lane uses for a model's call, since a model may name tools it
    /// was not offered.
    ///
    /// # Errors
    /// `Denied` with the rule that says no, otherwise as [`Toolbox::call`].
    pub async fn call_allowed(&self, policy: &ToolPolicy, name: &str, cx: ToolCx, args: Value, limit: Option<Duration>) -> Result<ToolOutput, ToolError> {
        if let Some(entry) = self.find(name)
            && let Some(why) = policy.why_denied(entry.spec.name)
        {
            return Err(ToolError::Denied(why));
        }
        self.call(name, cx, args, limit).await
    }

    /// Calls a tool. It runs in a task of its own: a panic becomes an error, the time limit ends it, dropping this
    /// future stops it. `limit` shortens the tool's own limit ([`ToolSpec::timeout_ms`]); `None` leaves that alone.
    /// The model sees at most [`OUTPUT_BYTES_MAX`] bytes of text. Asks no policy: see [`Toolbox::call_allowed`].
    ///
    /// # Errors
    /// `BadArguments` for an unknown name or wrong arguments, otherwise what the tool says.
    pub async fn call(&self, name: &str, cx: ToolCx, args: Value, limit: Option<Duration>) -> Result<ToolOutput, ToolError> {
        let Some(entry) = self.find(name) else {
            let shown = crate::bound::head(name, 100);
            return Err(ToolError::BadArguments(format!("Tool not available: {shown}")));
        };
        let own = (entry.spec.timeout_ms > 0).then(|| Duration::from_millis(entry.spec.timeout_ms));
        let limit = match (own, limit) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
        let class = entry.spec.class;
        let tool = entry.tool.clone();
        // A task of its own, and part of the same trace.
        let work = clawstead_world::trace::within(clawstead_world::trace::current(), async move { tool.call(cx, args).await });
        let mut task = Leash(clawstead_world::spawn(work));
        let ended = match limit {
            Some(limit) => match tokio::time::timeout(limit, &mut task.0).await {
                Ok(ended) => ended,
                Err(_) => {
                    let ms = u64::try_from(limit.as_millis()).unwrap_or(u64::MAX);
                    return Err(if class == clawstead_terms::EffectClass::Read {
                        ToolError::Timeout { ms }
                    } else {
                        ToolError::Unknown(format!("{} was stopped after {ms} ms", entry.spec.name))
                    });
                }
            },
            None => (&mut task.0).await,
        };
        match ended {
            Ok(Ok(output)) => Ok(cut_output(output, OUTPUT_BYTES_MAX)),
            Ok(Err(err)) => Err(cut_error(err)),
            Err(join) if join.is_panic() => {
                tracing::error!(tool = entry.spec.name, "a tool panicked");
                Err(ToolError::Unknown(format!("{} broke off by a fault of the gateway", entry.spec.name)))
            }
            Err(_) => Err(ToolError::Unknown(format!("{} was stopped because the gateway stops", entry.spec.name))),
        }
    }

    fn find(&self, name: &str) -> Option<&Entry> {
        let name = canonical(name);
        self.entries.iter().find(|e| e.spec.name == name)
    }
}

impl Entry {
    fn definition(&self) -> &ToolDefinition {
        self.definition.get_or_init(|| ToolDefinition {
            name: self.spec.name.to_owned(),
            description: self.spec.description.to_owned(),
            parameters: self.tool.parameters(),
        })
    }
}

/// A task that ends with its holder.
struct Leash<T>(tokio::task::JoinHandle<T>);

impl<T> Drop for Leash<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

fn cut_error(err: ToolError) -> ToolError {
    let cut = |text| crate::bound::cut(text, OUTPUT_BYTES_MAX);
    match err {
        ToolError::BadArguments(text) => ToolError::BadArguments(cut(text)),
        ToolError::Denied(text) => ToolError::Denied(cut(text)),
        ToolError::Failed(text) => ToolError::Failed(cut(text)),
        ToolError::Unknown(text) => ToolError::Unknown(cut(text)),
        ToolError::Timeout { ms } => ToolError::Timeout { ms },
    }
}

#[cfg(test)]
#[path = "registry_tests.rs"]
mod tests;
