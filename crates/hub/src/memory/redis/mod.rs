//! Shared memory in Redis, under the published keys. Every call is one script, which Redis runs alone, and is made
//! so that repeating it after a lost answer changes nothing.
//!
//! What Redis promises is what its own persistence promises: with `appendfsync everysec` the last second may be lost
//! when the server dies, and a failover may lose more. Nobody's ownership rests on it.

mod scripts;

use std::time::Duration;

use async_trait::async_trait;
use clawstead_world::World;
use redis::{AsyncConnectionConfig, Client, FromRedisValue, Script, ScriptInvocation, ServerErrorKind, aio::MultiplexedConnection};
use serde_json::Value;
use tokio::sync::Mutex;

use scripts::{GET, KEYS, POP_TASK, PUSH_EVENT, PUSH_TASK, RANGE, REMOVE, SET};

use super::{
    CLAIM_KEPT, EVENTS_MAX, Event, Expect, KEYS_MAX, MemoryError, MemoryKey, Popped, Remembered, Removed, SharedMemory, Space, Stamp, TASKS_MAX, Task,
    check_name, checked, checked_event, checked_task, format,
};

/// Longest wait for a connection, and for an answer.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(2);

/// How often a call is made when connections break.
const TRIES_MAX: u32 = 3;

/// What a call leaves behind, for the words of a failure.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Leaves {
    Nothing,
    Something,
}

/// Shared memory in a Redis server (7 or later; 6.2 works). One server, with or without replicas; not a Redis Cluster,
/// whose scripts may not touch keys of several slots.
pub struct RedisMemory {
    client: Client,
    at: String,
    world: World,
    root: String,
    connection: Mutex<Option<MultiplexedConnection>>,
}

impl RedisMemory {
    /// For `redis://[user:password@]host:port/db`, below `openclaw:`. Connects with the first call.
    ///
    /// # Errors
    /// When the address cannot be read.
    pub fn new(url: &str, world: World) -> Result<Self, MemoryError> {
        Self::below(url, world, "openclaw")
    }

    /// Below another root, without a colon at its end.
    ///
    /// # Errors
    /// When the address cannot be read.
    pub fn below(url: &str, world: World, root: impl Into<String>) -> Result<Self, MemoryError> {
        let client = Client::open(url).map_err(|err| MemoryError::Invalid(format!("the Redis address cannot be read: {}", words(&err))))?;
        let at = client.get_connection_info().addr().to_string();
        Ok(Self { client, at, world, root: root.into(), connection: Mutex::new(None) })
    }

    fn prefix(&self, space: &Space) -> String {
        match space {
            Space::Agent(agent) => format!("{}:agents:{agent}:memory:", self.root),
            Space::Shared => format!("{}:shared:", self.root),
            Space::State => format!("{}:shared-state:", self.root),
        }
    }

    fn index(&self, space: &Space) -> String {
        match space {
            Space::Agent(agent) => format!("{}:agents:{agent}:memory-index", self.root),
            Space::Shared => format!("{}:shared:memory-index", self.root),
            Space::State => format!("{}:shared-state:memory-index", self.root),
        }
    }

    fn path(&self, key: &MemoryKey) -> String {
        self.prefix(&key.space) + key.name()
    }

    fn events(&self) -> String {
        format!("{}:shared:recent-events", self.root)
    }

    fn tasks(&self) -> String {
        format!("{}:shared:task-queue", self.root)
    }

    fn claim(&self, what: &str) -> String {
        format!("{}:shared:task-claims:{what}", self.root)
    }

    async fn connection(&self) -> Result<MultiplexedConnection, MemoryError> {
        let mut there = self.connection.lock().await;
        if let Some(connection) = &*there {
            return Ok(connection.clone());
        }
        let config = AsyncConnectionConfig::new().set_connection_timeout(Some(REQUEST_TIMEOUT)).set_response_timeout(Some(REQUEST_TIMEOUT));
        let connection = self.client.get_multiplexed_async_connection_with_config(&config).await.map_err(|err| self.sorted("connecting", &err))?;
        *there = Some(connection.clone());
        Ok(connection)
    }

    /// Runs a script; connections that break are replaced and the script is run again. `prepare` gets the number of
    /// tries before.
    async fn run<T: FromRedisValue>(&self, what: &str, leaves: Leaves, prepare: impl Fn(u32) -> ScriptInvocation<'static>) -> Result<T, MemoryError> {
        let mut tried = 0;
        loop {
            let mut connection = match self.connection().await {
                Ok(connection) => connection,
                Err(err) if tried == 0 || leaves == Leaves::Nothing => return Err(err),
                Err(err) => return Err(MemoryError::Unknown { what: what.to_owned(), why: err.to_string() }),
            };
            let err = match prepare(tried).invoke_async::<T>(&mut connection).await {
                Ok(value) => return Ok(value),
                Err(err) => err,
            };
            if !(err.is_io_error() || err.is_timeout() || err.is_connection_dropped() || err.is_unrecoverable_error()) {
                return Err(self.sorted(what, &err));
            }
            *self.connection.lock().await = None;
            tried += 1;
            if tried == TRIES_MAX && leaves == Leaves::Nothing {
                return Err(self.sorted(what, &err));
            }
            if tried == TRIES_MAX {
                return Err(MemoryError::Unknown { what: what.to_owned(), why: format!("redis at {}: {}", self.at, words(&err)) });
            }
        }
    }

    fn sorted(&self, what: &str, err: &redis::RedisError) -> MemoryError {
        if err.code() == Some("WRONGTYPE") {
            return MemoryError::Invalid(format!("{what}: the Redis key holds another type (a list or hash) that some other program wrote"));
        }
        let refused = matches!(err.code(), Some("NOAUTH" | "WRONGPASS" | "NOPERM"))
            || err.kind() == redis::ErrorKind::AuthenticationFailed
            || err.kind() == redis::ErrorKind::Server(ServerErrorKind::NoPerm);
        let verb = if refused { "refuses us" } else { "cannot do it" };
        MemoryError::Unavailable(format!("redis at {} {verb} ({what}): {}", self.at, words(err)))
    }
}

/// The words of an error, without what the library adds about itself.
fn words(err: &redis::RedisError) -> String {
    err.detail().map_or_else(|| err.to_string(), str::to_owned)
}

fn expectation(expect: &Expect) -> (&'static str, String) {
    match expect {
        Expect::Any => ("any", String::new()),
        Expect::Absent => ("absent", String::new()),
        Expect::Version(stamp) => ("version", stamp.0.clone()),
    }
}

fn kept_ms() -> u64 {
    u64::try_from(CLAIM_KEPT.as_millis()).unwrap_or(u64::MAX)
}

#[async_trait]
impl SharedMemory for RedisMemory {
    fn engine(&self) -> &'static str {
        "redis"
    }

    async fn set(&self, key: &MemoryKey, value: &Value, ttl: Option<Duration>, expect: &Expect) -> Result<Stamp, MemoryError> {
        let text = checked(value, ttl)?;
        let path = self.path(key);
        let (mode, stamp) = expectation(expect);
        let ms = ttl.map_or(0, |ttl| u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX));
        let answer: String = self
            .run(&format!("the write of {path}"), Leaves::Something, |tried| {
                let mut call = SET.prepare_invoke();
                call.key(&path).key(self.index(&key.space)).arg(&text).arg(ms).arg(mode).arg(&stamp).arg(key.name());
                call.arg(KEYS_MAX).arg(self.prefix(&key.space)).arg(tried);
                call
            })
            .await?;
        match answer.as_str() {
            "-" => Err(MemoryError::Conflict { key: path }),
            "+" => Err(MemoryError::Full { what: "this space".into(), max: KEYS_MAX }),
            _ => Ok(Stamp(answer)),
        }
    }

    async fn get(&self, key: &MemoryKey) -> Result<Option<Remembered>, MemoryError> {
        let path = self.path(key);
        let found: Vec<redis::Value> = self.run(&format!("the reading of {path}"), Leaves::Nothing, |_| with_keys(&GET, &[&path])).await?;
        let Ok([value, stamp, left]) = <[redis::Value; 3]>::try_from(found) else { return Ok(None) };
        let bytes: Vec<u8> = self.parsed(value)?;
        let left: i64 = self.parsed(left)?;
        let expires = (left >= 0).then(|| self.world.clock.now().plus(left));
        Ok(Some(Remembered { value: format::lenient(&bytes), stamp: Stamp(self.parsed(stamp)?), expires }))
    }

    async fn remove(&self, key: &MemoryKey, expect: &Expect) -> Result<Removed, MemoryError> {
        let path = self.path(key);
        let (mode, stamp) = expectation(expect);
        let answer: i64 = self
            .run(&format!("the removal of {path}"), Leaves::Something, |_| {
                let mut call = with_keys(&REMOVE, &[&path, &self.index(&key.space)]);
                call.arg(mode).arg(&stamp).arg(key.name());
                call
            })
            .await?;
        match answer {
            -1 => Err(MemoryError::Conflict { key: path }),
            0 => Ok(Removed::NotThere),
            _ => Ok(Removed::Gone),
        }
    }

    async fn keys(&self, space: &Space) -> Result<Vec<String>, MemoryError> {
        let index = self.index(space);
        let mut names: Vec<String> = self
            .run("the list of keys", Leaves::Nothing, |_| {
                let mut call = with_keys(&KEYS, &[&index]);
                call.arg(self.prefix(space));
                call
            })
            .await?;
        names.sort_unstable();
        names.truncate(KEYS_MAX);
        Ok(names)
    }

    async fn push_event(&self, event: &Event) -> Result<(), MemoryError> {
        checked_event(event)?;
        if let Some(id) = &event.id {
            check_name("event id", id)?;
        }
        let events = self.events();
        // Without an id of the caller, one of ours: a second try must not add a second line.
        let mark = self.claim(&format!("event.{}", event.id.clone().unwrap_or_else(|| self.world.rng.uuid())));
        let line = event.to_line();
        let _: i64 = self
            .run("the event", Leaves::Something, |_| {
                let mut call = with_keys(&PUSH_EVENT, &[&events, &mark]);
                call.arg(&line).arg(EVENTS_MAX).arg(kept_ms());
                call
            })
            .await?;
        Ok(())
    }

    async fn recent_events(&self, limit: usize) -> Result<Vec<Event>, MemoryError> {
        let lines = self.range(&self.events(), -i64::try_from(limit.min(EVENTS_MAX)).unwrap_or(1), -1, limit).await?;
        Ok(lines.iter().map(|line| read_event(line)).collect())
    }

    async fn push_task(&self, task: &Task) -> Result<u64, MemoryError> {
        let text = checked_task(task)?;
        let (tasks, mark) = (self.tasks(), self.claim(&format!("id.{}", task.id)));
        let waiting: i64 = self
            .run("the task", Leaves::Something, |_| {
                let mut call = with_keys(&PUSH_TASK, &[&tasks, &mark]);
                call.arg(&text).arg(TASKS_MAX).arg(kept_ms());
                call
            })
            .await?;
        u64::try_from(waiting).map_err(|_| MemoryError::Full { what: "the task queue".into(), max: TASKS_MAX })
    }

    async fn pop_task(&self, by: &str, request: &str) -> Result<Option<Popped>, MemoryError> {
        check_name("request id", request)?;
        let (tasks, claim) = (self.tasks(), self.claim(request));
        let found: Vec<redis::Value> = self
            .run("the taking of a task", Leaves::Something, |_| {
                let mut call = with_keys(&POP_TASK, &[&tasks, &claim]);
                call.arg(kept_ms());
                call
            })
            .await?;
        let Ok([task, remaining]) = <[redis::Value; 2]>::try_from(found) else { return Ok(None) };
        let bytes: Vec<u8> = self.parsed(task)?;
        let task = Task::from_bytes(&bytes, request);
        tracing::info!(agent = by, task = task.id, "task taken");
        Ok(Some(Popped { task, remaining: self.parsed(remaining)? }))
    }

    async fn waiting_tasks(&self, limit: usize) -> Result<Vec<Task>, MemoryError> {
        let last = i64::try_from(limit.min(TASKS_MAX)).unwrap_or(1) - 1;
        let found = self.range(&self.tasks(), 0, last, limit).await?;
        Ok(found.iter().enumerate().map(|(at, bytes)| Task::from_bytes(bytes, &format!("waiting-{at}"))).collect())
    }
}

impl RedisMemory {
    fn parsed<T: FromRedisValue>(&self, value: redis::Value) -> Result<T, MemoryError> {
        redis::from_redis_value(value).map_err(|err| MemoryError::Unavailable(format!("redis at {} answered something else than expected: {err}", self.at)))
    }

    async fn range(&self, key: &str, first: i64, last: i64, limit: usize) -> Result<Vec<Vec<u8>>, MemoryError> {
        if limit == 0 {
            return Ok(Vec::new());
        }
        self.run(&format!("the reading of {key}"), Leaves::Nothing, |_| {
            let mut call = with_keys(&RANGE, &[key]);
            call.arg(first).arg(last);
            call
        })
        .await
    }
}

fn with_keys(script: &'static Script, keys: &[&str]) -> ScriptInvocation<'static> {
    let mut call = script.prepare_invoke();
    for key in keys {
        call.key(*key);
    }
    call
}

/// A line of ours, or an object of the other published form.
fn read_event(line: &[u8]) -> Event {
    match serde_json::from_slice::<Value>(line) {
        Ok(value @ Value::Object(_)) => Event::from_json(&value),
        _ => Event::from_line(&String::from_utf8_lossy(line)),
    }
}
