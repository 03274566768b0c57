//! Shared memory, recent events and the task queue by the published key schemas.
//!
//! | | Consul (any `Coord`) | Redis |
//! | --- | --- | --- |
//! | memory of an agent | `openclaw/shared-memory/<agent>/<key>` | `openclaw:agents:<agent>:memory:<key>` |
//! | memory of all | `openclaw/shared/<key>` | `openclaw:shared:<key>` |
//! | where things stand | `openclaw/shared-state/<key>` | `openclaw:shared-state:<key>` |
//! | recent events | `openclaw/shared-state/recent-events`, an array of `{timestamp, agent, event}` | list `openclaw:shared:recent-events` of `<timestamp>: <agent>: <event>` |
//! | tasks | one key each below `openclaw/shared/task-queue/` | list `openclaw:shared:task-queue` |
//!
//! Values are JSON. What other programs put there as plain text is read as a JSON string; a task or event that
//! somebody wrote by hand is taken like ours.

pub mod conformance;
pub mod coord;
pub mod format;
pub mod local;
pub mod redis;

use std::{fmt, time::Duration};

use async_trait::async_trait;
use clawstead_terms::{AgentId, Failure, FailureCode, Millis};
use serde_json::Value;

pub use coord::CoordMemory;
pub use format::{Event, Task};
pub use local::LocalMemory;
pub use redis::RedisMemory;

/// Bytes of a value as JSON.
pub const VALUE_BYTES_MAX: usize = 64 * 1024;

/// Bytes of a key.
pub const KEY_BYTES_MAX: usize = 128;

/// Keys one agent, or the shared space, may have.
pub const KEYS_MAX: usize = 1_000;

/// Longest time a value may ask to be kept; without a wish it is kept for ever.
pub const TTL_MAX: Duration = Duration::from_secs(365 * 24 * 3_600);

/// Shortest time a value may ask to be kept.
pub const TTL_MIN: Duration = Duration::from_secs(1);

/// Events that are kept; the oldest goes first.
pub const EVENTS_MAX: usize = 1_000;

/// Bytes of one event's text.
pub const EVENT_BYTES_MAX: usize = 2 * 1024;

/// Tasks that may wait.
pub const TASKS_MAX: usize = 1_000;

/// Bytes of one task as JSON.
pub const TASK_BYTES_MAX: usize = 16 * 1024;

/// How long a taken task is remembered by its request, so that a repeated request gets the same task.
pub const CLAIM_KEPT: Duration = Duration::from_secs(600);

/// Whose memory.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Space {
    /// One agent's: written by it, read by all.
    Agent(AgentId),
    /// Everybody's.
    Shared,
    /// Everybody's notes of where things stand (`current-focus`).
    State,
}

/// A key in a space.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct MemoryKey {
    /// Whose.
    pub space: Space,
    name: String,
}

/// Names in the two spaces of all that have a meaning of their own.
pub const RESERVED: [&str; 4] = ["recent-events", "task-queue", "task-claims", "memory-index"];

impl MemoryKey {
    /// Reads a key: letters, digits, `.`, `_` and `-`, first a letter or digit, at most [`KEY_BYTES_MAX`].
    ///
    /// # Errors
    /// `INVALID_REQUEST`, with the rule; also for the [`RESERVED`] names of the spaces of all.
    pub fn new(space: Space, name: &str) -> Result<Self, Failure> {
        let bytes = name.as_bytes();
        let ok = (1..=KEY_BYTES_MAX).contains(&bytes.len())
            && bytes[0].is_ascii_alphanumeric()
            && bytes.iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'));
        if !ok {
            return Err(Failure::invalid(format!(
                "{name:?} is not a memory key: letters, digits, dot, _ and -, first a letter or digit, at most {KEY_BYTES_MAX}"
            )));
        }
        if !matches!(space, Space::Agent(_)) && RESERVED.contains(&name) {
            return Err(Failure::invalid(format!("the key \"{name}\" is kept by push_event, push_task and pop_task")));
        }
        Ok(Self { space, name: name.to_owned() })
    }

    /// The name without its space.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }
}

/// What a value was read as. Opaque: compare it, and give it back to [`Expect::Version`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stamp(pub String);

impl fmt::Display for Stamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What must hold for a write.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Expect {
    /// Nothing.
    #[default]
    Any,
    /// There is no such key.
    Absent,
    /// The value is the one that was read. (In Redis a stamp names the content: a value that changed and changed back
    /// counts as unchanged.)
    Version(Stamp),
}

/// A value as it was read.
#[derive(Clone, Debug, PartialEq)]
pub struct Remembered {
    /// The value.
    pub value: Value,
    /// For the next conditional write.
    pub stamp: Stamp,
    /// When it is forgotten.
    pub expires: Option<Millis>,
}

/// A task that was taken.
#[derive(Clone, Debug, PartialEq)]
pub struct Popped {
    /// It.
    pub task: Task,
    /// Tasks that wait besides it.
    pub remaining: u64,
}

/// Why shared memory did not do what was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MemoryError {
    /// The value changed, or is there, or is not there any more. Nothing was written.
    #[error("{key} changed meanwhile; read it again")]
    Conflict {
        /// The key.
        key: String,
    },
    /// A bound was reached.
    #[error("{what} is full: {max} at most")]
    Full {
        /// What.
        what: String,
        /// Its bound.
        max: usize,
    },
    /// It cannot be done as asked.
    #[error("{0}")]
    Invalid(String),
    /// The store does not answer, or refuses us.
    #[error("{0}")]
    Unavailable(String),
    /// It may have happened: the connection broke before the answer.
    #[error("unknown whether {what} happened: {why}")]
    Unknown {
        /// What was asked.
        what: String,
        /// What broke.
        why: String,
    },
}

impl From<MemoryError> for Failure {
    fn from(err: MemoryError) -> Self {
        let message = err.to_string();
        match err {
            MemoryError::Conflict { .. } | MemoryError::Invalid(_) => Self::invalid(message),
            MemoryError::Full { .. } => Self::busy(message, 5_000),
            MemoryError::Unavailable(_) => Self::unavailable(message, 1_000),
            MemoryError::Unknown { .. } => Self::new(FailureCode::Timeout, message).with_hint("read before you write again"),
        }
    }
}

/// Shared memory. Every call ends within the store's own request timeout.
#[async_trait]
pub trait SharedMemory: Send + Sync {
    /// `consul`, `redis`, `memory`: for messages.
    fn engine(&self) -> &'static str;

    /// Sets a value. `ttl`: [`TTL_MIN`] to [`TTL_MAX`]; `None` keeps it for ever.
    async fn set(&self, key: &MemoryKey, value: &Value, ttl: Option<Duration>, expect: &Expect) -> Result<Stamp, MemoryError>;

    /// Reads a value; one whose time is over is not there.
    async fn get(&self, key: &MemoryKey) -> Result<Option<Remembered>, MemoryError>;

    /// Removes a value. Answers whether it was there; not there is no error (but [`Expect::Version`] is then a conflict).
    async fn remove(&self, key: &MemoryKey, expect: &Expect) -> Result<Removed, MemoryError>;

    /// Names of the keys in a space, in order, at most [`KEYS_MAX`]. In Redis those set through a hub.
    async fn keys(&self, space: &Space) -> Result<Vec<String>, MemoryError>;

    /// Adds an event; the oldest beyond [`EVENTS_MAX`] is forgotten.
    async fn push_event(&self, event: &Event) -> Result<(), MemoryError>;

    /// The newest `limit` events, oldest first.
    async fn recent_events(&self, limit: usize) -> Result<Vec<Event>, MemoryError>;

    /// Puts a task at the end of the queue. Answers how many wait now. The same [`Task::id`] again within
    /// [`CLAIM_KEPT`] is no second task, so a push whose answer was lost can be repeated.
    async fn push_task(&self, task: &Task) -> Result<u64, MemoryError>;

    /// Takes the oldest task: each task is given once. The same `request` within [`CLAIM_KEPT`] gets the same task
    /// again, so an answer that was lost on the way can be asked for again.
    async fn pop_task(&self, by: &str, request: &str) -> Result<Option<Popped>, MemoryError>;

    /// The oldest `limit` tasks that wait, without taking them.
    async fn waiting_tasks(&self, limit: usize) -> Result<Vec<Task>, MemoryError>;
}

/// Whether something was there to be removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Removed {
    /// It was there.
    Gone,
    /// It was not.
    NotThere,
}

/// Checks a value and its time before any store sees them.
pub(crate) fn checked(value: &Value, ttl: Option<Duration>) -> Result<String, MemoryError> {
    let text = value.to_string();
    if text.len() > VALUE_BYTES_MAX {
        return Err(MemoryError::Invalid(format!("the value has {} bytes; {VALUE_BYTES_MAX} at most (put large things into the vault)", text.len())));
    }
    if let Some(ttl) = ttl
        && !(TTL_MIN..=TTL_MAX).contains(&ttl)
    {
        return Err(MemoryError::Invalid(format!("a value is kept for 1 s to 365 days, not {} s", ttl.as_secs_f64())));
    }
    if format::is_wrapped(value) {
        return Err(MemoryError::Invalid("an object of exactly \"$value\" and \"$expires\" is how times are stored; name the fields otherwise".into()));
    }
    Ok(text)
}

/// Checks an event before any store sees it.
pub(crate) fn checked_event(event: &Event) -> Result<(), MemoryError> {
    if event.event.is_empty() || event.event.len() > EVENT_BYTES_MAX {
        return Err(MemoryError::Invalid(format!("an event has 1 to {EVENT_BYTES_MAX} bytes of text, not {}", event.event.len())));
    }
    Ok(())
}

/// Checks a task before any store sees it; answers its JSON.
pub(crate) fn checked_task(task: &Task) -> Result<String, MemoryError> {
    let text = task.to_json().to_string();
    if text.len() > TASK_BYTES_MAX {
        return Err(MemoryError::Invalid(format!("the task has {} bytes; {TASK_BYTES_MAX} at most", text.len())));
    }
    check_name("task id", &task.id)?;
    Ok(text)
}

/// Ids that become part of keys.
pub(crate) fn check_name(what: &str, text: &str) -> Result<(), MemoryError> {
    let ok = (1..=KEY_BYTES_MAX).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'));
    if ok { Ok(()) } else { Err(MemoryError::Invalid(format!("{text:?} is no {what}: letters, digits, dot, _ and -, at most {KEY_BYTES_MAX}"))) }
}
