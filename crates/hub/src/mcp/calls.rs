//! What each tool does: shapes, scopes and ownership are checked here, the rest is the host's and the memory's.

use std::{collections::BTreeSet, time::Duration};

use clawstead_terms::{AgentId, EnvelopeId, Failure, FailureCode};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Map, Value};

use super::{
    Hub,
    answers::{
        Acked, AgentAnswer, Beaten, DeadLetters, Discovered, EventPushed, Inbox, MemoryGot, MemorySet, Registered, Stored, TaskAnswer, TaskPopped, TaskPushed,
    },
    args::{
        AckArgs, DiscoverArgs, DlqListArgs, DlqReplayArgs, EventArgs, GetMemoryArgs, HeartbeatArgs, InboxArgs, OutcomeArg, PopTaskArgs, PushTaskArgs,
        RegisterArgs, SendArgs, SetMemoryArgs, SpaceArg,
    },
    errors::ToolError,
    tools,
};
use crate::{
    host::{Beat, Filter, LetterKind, NewAgent, NewLetter, Sent, Verdict, Was},
    memory::{Event, Expect, MemoryKey, Removed, Space, Task, format::rfc3339},
    peers::{Caller, Scope},
};

/// Bytes of a letter's body as JSON.
pub const BODY_BYTES_MAX: usize = 64 * 1024;

/// How long a letter lives when its sender does not say.
pub const TTL_DEFAULT: Duration = Duration::from_secs(300);

const TTL_MS: std::ops::RangeInclusive<u64> = 1_000..=86_400_000;

impl Hub {
    /// Makes a call. `None`: there is no such tool.
    pub(super) async fn dispatch(&self, caller: &Caller, tool: &str, args: Map<String, Value>) -> Option<Result<Value, ToolError>> {
        let args = Value::Object(args);
        Some(match tool {
            "agent_register" => self.register(caller, args).await.and_then(shown),
            "agent_discover" => self.discover(caller, args).await.and_then(shown),
            "agent_heartbeat" => self.heartbeat(caller, args).await.and_then(shown),
            "send_message" => self.send(caller, args).await.and_then(shown),
            "check_inbox" => self.inbox(caller, args).await.and_then(shown),
            "ack_message" => self.ack(caller, args).await.and_then(shown),
            "set_memory" => self.set_memory(caller, args).await.and_then(shown),
            "get_memory" => self.get_memory(caller, args).await.and_then(shown),
            "push_event" => self.push_event(caller, args).await.and_then(shown),
            "push_task" => self.push_task(caller, args).await.and_then(shown),
            "pop_task" => self.pop_task(caller, args).await.and_then(shown),
            name if tools::is_of_vault(name) => return self.vault_call(caller, name, args).await,
            "dlq_list" => self.dlq_list(caller, args).await.and_then(shown),
            "dlq_replay" => self.dlq_replay(caller, args).await.and_then(shown),
            _ => return None,
        })
    }

    /// The agent, if the caller registered it.
    pub(super) async fn acting(&self, caller: &Caller, id: &str) -> Result<AgentId, ToolError> {
        let id = AgentId::parse(id)?;
        let forbidden = |why: String| ToolError::from(Failure::new(FailureCode::Forbidden, why).with_hint("act as an agent you registered (agent_register)"));
        match self.host.owner_of(&id).await? {
            Some(owner) if owner == caller.owner() => Ok(id),
            Some(_) => Err(forbidden(format!("agent \"{id}\" was registered by somebody else"))),
            None => Err(forbidden(format!("agent \"{id}\" belongs to the farm; only its gateway acts as it"))),
        }
    }

    async fn register(&self, caller: &Caller, args: Value) -> Result<Registered, ToolError> {
        let args: RegisterArgs = read(args)?;
        caller.need(Scope::Register)?;
        let id = AgentId::parse(&args.agent_id)?;
        if args.capabilities.len() > 64 {
            return Err(ToolError::invalid("an agent has 64 capabilities at most"));
        }
        for capability in &args.capabilities {
            within("a capability", capability, 64)?;
        }
        for (what, text, max) in [("description", &args.description, 500), ("gateway_id", &args.gateway_id, 64), ("model_provider", &args.model_provider, 64)] {
            text.as_deref().map_or(Ok(()), |text| within(what, text, max))?;
        }
        let new = NewAgent {
            id: id.clone(),
            capabilities: args.capabilities.into_iter().collect(),
            description: args.description,
            gateway: args.gateway_id,
            model_provider: args.model_provider,
            heartbeat_enabled: args.heartbeat_enabled,
        };
        let done = self.host.register(&caller.owner(), new).await?;
        Ok(Registered { success: true, agent_id: id.to_string(), gateway: done.gateway, registered_at: rfc3339(done.at), created: done.was == Was::New })
    }

    async fn discover(&self, caller: &Caller, args: Value) -> Result<Discovered, ToolError> {
        let args: DiscoverArgs = read(args)?;
        caller.need(Scope::Discover)?;
        let limit = limit(args.limit, 100, 500)?;
        let me = caller.owner();
        let found = self.host.discover(&Filter { capability: args.capability, status: args.status, limit }).await?;
        Ok(Discovered { agents: found.into_iter().map(|listing| AgentAnswer::new(listing, &me)).collect() })
    }

    async fn heartbeat(&self, caller: &Caller, args: Value) -> Result<Beaten, ToolError> {
        let args: HeartbeatArgs = read(args)?;
        caller.need(Scope::Register)?;
        for (what, text, max) in [("status", &args.status, 64), ("last_check_result", &args.last_check_result, 2_000), ("alert", &args.alert, 2_000)] {
            text.as_deref().map_or(Ok(()), |text| within(what, text, max))?;
        }
        let agent = self.acting(caller, &args.agent_id).await?;
        let at = self.host.beat(&agent, Beat { status: args.status, last_check_result: args.last_check_result, alert: args.alert }).await?;
        Ok(Beaten { success: true, last_check: rfc3339(at) })
    }

    async fn send(&self, caller: &Caller, args: Value) -> Result<Stored, ToolError> {
        let args: SendArgs = read(args)?;
        caller.need(Scope::Send)?;
        let to = AgentId::parse(&args.to)?;
        let size = args.body.to_string().len();
        if size > BODY_BYTES_MAX {
            return Err(ToolError::invalid(format!("the body has {size} bytes; {BODY_BYTES_MAX} at most (put large things into shared memory or the vault)")));
        }
        if args.body.is_null() || args.body.as_str().is_some_and(|text| text.trim().is_empty()) {
            return Err(ToolError::invalid("the body is empty"));
        }
        if args.kind == LetterKind::Reply && args.in_reply_to.is_none() {
            return Err(ToolError::invalid("a reply names the letter it answers (in_reply_to)"));
        }
        for (what, text, max) in [("in_reply_to", &args.in_reply_to, 64), ("idempotency_key", &args.idempotency_key, 128)] {
            text.as_deref().map_or(Ok(()), |text| within(what, text, max))?;
        }
        let ttl = args.ttl_ms.map_or(Ok(TTL_DEFAULT), |ms| {
            if TTL_MS.contains(&ms) { Ok(Duration::from_millis(ms)) } else { Err(ToolError::invalid(format!("ttl_ms is 1000 to 86400000, not {ms}"))) }
        })?;
        let from = self.acting(caller, &args.from).await?;
        let letter = NewLetter {
            from,
            to,
            body: args.body,
            kind: args.kind,
            in_reply_to: args.in_reply_to.map(EnvelopeId::from),
            idempotency_key: args.idempotency_key,
            ttl,
            priority: args.priority,
        };
        Ok(stored(&self.host.send(letter).await?))
    }

    async fn inbox(&self, caller: &Caller, args: Value) -> Result<Inbox, ToolError> {
        let args: InboxArgs = read(args)?;
        caller.need(Scope::Inbox)?;
        let limit = limit(args.limit, 10, 50)?;
        let agent = self.acting(caller, &args.agent_id).await?;
        let loan = self.host.lend(&agent, limit, self.lease).await?;
        Ok(Inbox { messages: loan.letters.into_iter().map(Into::into).collect(), waiting: loan.waiting })
    }

    async fn ack(&self, caller: &Caller, args: Value) -> Result<Acked, ToolError> {
        let args: AckArgs = read(args)?;
        caller.need(Scope::Inbox)?;
        within("message_id", &args.message_id, 64)?;
        let verdict = match (args.outcome, args.reason) {
            (OutcomeArg::Done, None) => Verdict::Done,
            (OutcomeArg::Return, None) => Verdict::Return,
            (OutcomeArg::Failed, Some(reason)) => {
                within("reason", &reason, 1_000)?;
                Verdict::Failed(reason)
            }
            (OutcomeArg::Failed, None) => return Err(ToolError::invalid("\"failed\" needs a reason")),
            (_, Some(_)) => return Err(ToolError::invalid("a reason is given with the outcome \"failed\" only")),
        };
        let agent = self.acting(caller, &args.agent_id).await?;
        let done = self.host.ack(&agent, &EnvelopeId::from(args.message_id.as_str()), args.lease.as_deref(), verdict).await?;
        Ok(Acked { message_id: args.message_id, state: done.state, repeated: done.was == Was::Known })
    }

    async fn set_memory(&self, caller: &Caller, args: Value) -> Result<MemorySet, ToolError> {
        let args: SetMemoryArgs = read(args)?;
        caller.need(Scope::MemoryWrite)?;
        let expect = match (args.if_version, args.if_absent) {
            (None, false) => Expect::Any,
            (None, true) => Expect::Absent,
            (Some(version), false) => Expect::Version(crate::memory::Stamp(version)),
            (Some(_), true) => return Err(ToolError::invalid("if_version and if_absent exclude each other")),
        };
        let agent = self.acting(caller, &args.agent_id).await?;
        let space = match args.space {
            SpaceArg::Agent => Space::Agent(agent),
            SpaceArg::Shared => Space::Shared,
            SpaceArg::State => Space::State,
        };
        let key = MemoryKey::new(space, &args.key)?;
        if args.value.is_null() {
            let removed = self.memory.remove(&key, &expect).await? == Removed::Gone;
            return Ok(MemorySet { success: true, key: args.key, removed, version: None });
        }
        let stamp = self.memory.set(&key, &args.value, args.ttl_seconds.map(Duration::from_secs), &expect).await?;
        Ok(MemorySet { success: true, key: args.key, removed: false, version: Some(stamp.0) })
    }

    async fn get_memory(&self, caller: &Caller, args: Value) -> Result<MemoryGot, ToolError> {
        let args: GetMemoryArgs = read(args)?;
        caller.need(Scope::MemoryRead)?;
        let limit = limit(args.limit, 100, 1_000)?;
        let space = match (args.space, &args.agent_id) {
            (SpaceArg::Shared, _) => Space::Shared,
            (SpaceArg::State, _) => Space::State,
            (SpaceArg::Agent, Some(id)) => Space::Agent(AgentId::parse(id)?),
            (SpaceArg::Agent, None) => return Err(ToolError::invalid("agent_id is missing: whose memory? (or set space to \"shared\" or \"state\")")),
        };
        let got = |key: Option<String>, value: Value| MemoryGot { space: args.space, found: true, value, key, version: None, expires_at: None, keys: None };
        let Some(name) = args.key else {
            let keys = self.memory.keys(&space).await?;
            return Ok(MemoryGot { keys: Some(keys), ..got(None, Value::Null) });
        };
        match (&space, name.as_str()) {
            (Space::Shared | Space::State, "recent-events") => {
                let events = self.memory.recent_events(limit).await?;
                return Ok(got(Some(name), events.iter().map(Event::to_json).collect()));
            }
            (Space::Shared, "task-queue") => {
                let tasks = self.memory.waiting_tasks(limit).await?;
                return Ok(got(Some(name), tasks.iter().map(Task::to_json).collect()));
            }
            _ => {}
        }
        let key = MemoryKey::new(space, &name)?;
        Ok(match self.memory.get(&key).await? {
            None => MemoryGot { found: false, ..got(Some(name), Value::Null) },
            Some(kept) => MemoryGot { version: Some(kept.stamp.0), expires_at: kept.expires.map(rfc3339), ..got(Some(name), kept.value) },
        })
    }

    async fn push_event(&self, caller: &Caller, args: Value) -> Result<EventPushed, ToolError> {
        let args: EventArgs = read(args)?;
        caller.need(Scope::MemoryWrite)?;
        let agent = self.acting(caller, &args.agent_id).await?;
        let id = self.request("event", &agent, args.request_id)?;
        let at = self.world.clock.now();
        self.memory.push_event(&Event { at: Some(at), agent: Some(agent), event: args.event, id: Some(id) }).await?;
        Ok(EventPushed { success: true, timestamp: rfc3339(at) })
    }

    async fn push_task(&self, caller: &Caller, args: Value) -> Result<TaskPushed, ToolError> {
        let args: PushTaskArgs = read(args)?;
        caller.need(Scope::Tasks)?;
        if args.task.is_null() || args.task.as_str().is_some_and(|text| text.trim().is_empty()) {
            return Err(ToolError::invalid("the task is empty"));
        }
        let agent = self.acting(caller, &args.agent_id).await?;
        let at = self.world.clock.now();
        let id = match args.request_id {
            // Ordered by time in stores that order by name.
            None => self.world.rng.uuid_v7(at),
            given => self.request("task", &agent, given)?,
        };
        let task = Task { id: id.clone(), task: args.task, by: Some(agent.to_string()), at: Some(at) };
        let waiting = self.memory.push_task(&task).await?;
        Ok(TaskPushed { task_id: id, waiting })
    }

    async fn pop_task(&self, caller: &Caller, args: Value) -> Result<TaskPopped, ToolError> {
        let args: PopTaskArgs = read(args)?;
        caller.need(Scope::Tasks)?;
        let agent = self.acting(caller, &args.agent_id).await?;
        let request = self.request("pop", &agent, args.request_id)?;
        Ok(match self.memory.pop_task(agent.as_str(), &request).await? {
            None => TaskPopped { found: false, remaining: 0, task: None },
            Some(popped) => TaskPopped { found: true, remaining: popped.remaining, task: Some(TaskAnswer::from(popped.task)) },
        })
    }

    async fn dlq_list(&self, caller: &Caller, args: Value) -> Result<DeadLetters, ToolError> {
        let args: DlqListArgs = read(args)?;
        let limit = limit(args.limit, 50, 500)?;
        let named = args.agent_id.as_deref().map(AgentId::parse).transpose()?;
        let agents = if caller.has(Scope::Operator) {
            named.map(|id| BTreeSet::from([id]))
        } else {
            caller.need(Scope::Dlq)?;
            Some(match named {
                Some(id) => BTreeSet::from([self.acting(caller, id.as_str()).await?]),
                None => self.host.agents_of(&caller.owner()).await?,
            })
        };
        let dead = self.host.dead_letters(agents.as_ref(), limit).await?;
        Ok(DeadLetters { letters: dead.into_iter().map(Into::into).collect() })
    }

    async fn dlq_replay(&self, caller: &Caller, args: Value) -> Result<Stored, ToolError> {
        let args: DlqReplayArgs = read(args)?;
        caller.need(Scope::Operator)?;
        within("message_id", &args.message_id, 64)?;
        self.may_replay()?;
        Ok(stored(&self.host.replay(&EnvelopeId::from(args.message_id)).await?))
    }

    /// A caller's request id as the memory knows it: one agent's cannot meet another's.
    fn request(&self, what: &str, agent: &AgentId, given: Option<String>) -> Result<String, ToolError> {
        let Some(id) = given else { return Ok(self.world.rng.uuid()) };
        let ok = (1..=64).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'));
        if !ok {
            return Err(ToolError::invalid(format!("{id:?} is no request_id: letters, digits, dot, _ and -, at most 64")));
        }
        // The agent's id is at most 64 long; together they must stay within one key.
        let short: String = agent.as_str().chars().take(48).collect();
        Ok(format!("{what}.{short}.{id}"))
    }
}

pub(super) fn read<T: DeserializeOwned>(args: Value) -> Result<T, ToolError> {
    serde_json::from_value(args).map_err(|err| ToolError::invalid(format!("the arguments are wrong: {err}")))
}

pub(super) fn shown<T: Serialize>(answer: T) -> Result<Value, ToolError> {
    serde_json::to_value(answer).map_err(|err| Failure::internal(format!("the answer could not be written: {err}")).into())
}

fn stored(sent: &Sent) -> Stored {
    Stored { message_id: sent.id.to_string(), state: sent.state, duplicate: sent.was == Was::Known }
}

fn within(what: &str, text: &str, max: usize) -> Result<(), ToolError> {
    let count = text.chars().count();
    if (1..=max).contains(&count) { Ok(()) } else { Err(ToolError::invalid(format!("{what} has 1 to {max} characters, not {count}"))) }
}

fn limit(asked: Option<u32>, default: u32, max: u32) -> Result<usize, ToolError> {
    let limit = asked.unwrap_or(default);
    if (1..=max).contains(&limit) { Ok(limit as usize) } else { Err(ToolError::invalid(format!("limit is 1 to {max}, not {limit}"))) }
}
