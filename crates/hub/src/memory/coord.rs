//! Shared memory over any [`Coord`] (Consul KV, `PostgreSQL`, embedded), under the published Consul keys.
//!
//! Writes that depend on what was there use the store's compare-and-swap, so that an editor, `consul kv put` and several
//! gateways cannot undo each other's work. A value with a time is stored as `{"$value": …, "$expires": …}`, because
//! such stores forget nothing by themselves.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use clawstead_bus::{CasError, Check, Coord, CoordError, Entry, Op, Version};
use clawstead_terms::Millis;
use clawstead_world::World;
use serde_json::{Value, json};
use tokio::sync::Mutex;

use super::{
    CLAIM_KEPT, EVENTS_MAX, Event, Expect, KEYS_MAX, MemoryError, MemoryKey, Popped, Remembered, Removed, SharedMemory, Space, Stamp, TASKS_MAX, Task,
    check_name, checked, checked_event, checked_task, format,
};

/// Bytes of the events together: one value of the store, which has a limit of its own.
pub const EVENTS_BYTES_MAX: usize = 256 * 1024;

/// How often a write that somebody else was faster than is tried again.
const TRIES_MAX: u32 = 64;

/// Longest wait before such a try, milliseconds.
const WAIT_MS_MAX: u64 = 40;

/// How often old claims are looked for.
const SWEEP_EVERY_MS: i64 = 60_000;

/// Claims that are removed at a time.
const SWEEP_MAX: usize = 30;

/// Shared memory in a coordination store.
pub struct CoordMemory {
    coord: Arc<dyn Coord>,
    world: World,
    root: String,
    swept: Mutex<Millis>,
}

impl CoordMemory {
    /// Below `openclaw/`, as published.
    #[must_use]
    pub fn new(coord: Arc<dyn Coord>, world: World) -> Self {
        Self::below(coord, world, "openclaw")
    }

    /// Below another root, without slashes at its ends.
    pub fn below(coord: Arc<dyn Coord>, world: World, root: impl Into<String>) -> Self {
        Self { coord, world, root: root.into(), swept: Mutex::new(Millis(0)) }
    }

    fn prefix(&self, space: &Space) -> String {
        match space {
            Space::Agent(agent) => format!("{}/shared-memory/{agent}/", self.root),
            Space::Shared => format!("{}/shared/", self.root),
            Space::State => format!("{}/shared-state/", self.root),
        }
    }

    fn path(&self, key: &MemoryKey) -> String {
        self.prefix(&key.space) + key.name()
    }

    fn events_key(&self) -> String {
        format!("{}/shared-state/recent-events", self.root)
    }

    fn tasks(&self) -> String {
        format!("{}/shared/task-queue/", self.root)
    }

    fn claims(&self) -> String {
        format!("{}/shared/task-claims/", self.root)
    }

    /// What is there and still lives, and the version that a write must name in any case.
    async fn look(&self, path: &str) -> Result<(Option<Remembered>, Option<Version>), MemoryError> {
        let Some(entry) = self.coord.get(path).await? else { return Ok((None, None)) };
        let (value, expires) = format::unwrap(format::lenient(&entry.value));
        let live = expires.is_none_or(|at| at > self.world.clock.now());
        let there = live.then(|| Remembered { value, stamp: Stamp(entry.version.0.to_string()), expires });
        Ok((there, Some(entry.version)))
    }

    async fn pause(&self, tried: u32) {
        let longest = WAIT_MS_MAX.min(1 << tried.min(6));
        tokio::time::sleep(Duration::from_millis(self.world.rng.below(longest + 1))).await;
    }

    async fn count(&self, space: &Space) -> Result<usize, MemoryError> {
        Ok(self.keys(space).await?.len())
    }

    async fn claimed(&self, request: &str) -> Result<Option<Task>, MemoryError> {
        let entry = self.coord.get(&format!("{}{request}", self.claims())).await?;
        Ok(entry.map(|entry| {
            let claim = format::lenient(&entry.value);
            Task::from_bytes(claim.get("task").map(Value::to_string).unwrap_or_default().as_bytes(), request)
        }))
    }

    /// Removes claims that nobody asks for any more. A failure is no harm: the next sweep finds them.
    async fn sweep(&self) {
        let now = self.world.clock.now();
        {
            let mut swept = self.swept.lock().await;
            if now.since(*swept) < SWEEP_EVERY_MS {
                return;
            }
            *swept = now;
        }
        let claims = match self.coord.list(&self.claims()).await {
            Ok(claims) => claims,
            Err(err) => return tracing::debug!(err = %err, "old task claims were not looked for"),
        };
        let kept = i64::try_from(CLAIM_KEPT.as_millis()).unwrap_or(i64::MAX);
        let old =
            |entry: &&Entry| format::lenient(&entry.value).get("at").and_then(Value::as_str).and_then(format::moment).is_none_or(|at| now.since(at) > kept);
        let old: Vec<&Entry> = claims.iter().filter(old).take(SWEEP_MAX).collect();
        if old.is_empty() {
            return;
        }
        let checks: Vec<Check> = old.iter().map(|entry| Check { key: entry.key.clone(), expect: Some(entry.version) }).collect();
        let ops: Vec<Op> = old.iter().map(|entry| Op::Delete { key: entry.key.clone() }).collect();
        if let Err(err) = self.coord.txn(&checks, &ops).await {
            tracing::debug!(err = %err, "old task claims were not removed");
        }
    }

    /// Tries to take one task.
    async fn take(&self, entry: &Entry, by: &str, request: &str) -> Result<Task, CasError> {
        let id = entry.key.rsplit('/').next().unwrap_or_default();
        let task = Task::from_bytes(&entry.value, id);
        let claim = format!("{}{request}", self.claims());
        let at = format::rfc3339(self.world.clock.now());
        let claimed = json!({ "task": task.to_json(), "by": by, "at": at });
        let checks = [Check { key: entry.key.clone(), expect: Some(entry.version) }, Check { key: claim.clone(), expect: None }];
        let ops = [
            Op::Delete { key: entry.key.clone() },
            Op::Put { key: claim, value: claimed.to_string().into() },
            Op::Put { key: format!("{}id.{}", self.claims(), task.id), value: json!({ "at": at }).to_string().into() },
        ];
        self.coord.txn(&checks, &ops).await?;
        tracing::info!(agent = by, task = task.id, "task taken");
        Ok(task)
    }
}

#[async_trait]
impl SharedMemory for CoordMemory {
    fn engine(&self) -> &'static str {
        self.coord.engine()
    }

    async fn set(&self, key: &MemoryKey, value: &Value, ttl: Option<Duration>, expect: &Expect) -> Result<Stamp, MemoryError> {
        checked(value, ttl)?;
        let path = self.path(key);
        let expires = ttl.map(|ttl| self.world.clock.now().plus(i64::try_from(ttl.as_millis()).unwrap_or(i64::MAX)));
        let bytes = Bytes::from(format::wrap(value, expires).to_string());
        let (there, version) = self.look(&path).await?;
        let holds = match expect {
            Expect::Any => true,
            Expect::Absent => there.is_none(),
            Expect::Version(stamp) => there.as_ref().is_some_and(|t| t.stamp == *stamp),
        };
        if !holds {
            return Err(MemoryError::Conflict { key: path });
        }
        if version.is_none() && self.count(&key.space).await? >= KEYS_MAX {
            return Err(MemoryError::Full { what: "this space".into(), max: KEYS_MAX });
        }
        let written = match expect {
            Expect::Any => self.coord.put(&path, bytes.clone()).await.map_err(|err| match err {
                err @ CoordError::Unavailable { .. } => CasError::Unknown(err),
                err => CasError::Coord(err),
            }),
            Expect::Absent | Expect::Version(_) => self.coord.put_if(&path, bytes.clone(), version).await,
        };
        match written {
            Ok(version) => Ok(Stamp(version.0.to_string())),
            Err(CasError::Conflict { key }) => Err(MemoryError::Conflict { key }),
            Err(CasError::Coord(err)) => Err(err.into()),
            // Whoever wrote it: what was asked for is there.
            Err(CasError::Unknown(why)) => match self.coord.get(&path).await {
                Ok(Some(entry)) if entry.value == bytes => Ok(Stamp(entry.version.0.to_string())),
                _ => Err(MemoryError::Unknown { what: format!("the write of {path}"), why: why.to_string() }),
            },
        }
    }

    async fn get(&self, key: &MemoryKey) -> Result<Option<Remembered>, MemoryError> {
        Ok(self.look(&self.path(key)).await?.0)
    }

    async fn remove(&self, key: &MemoryKey, expect: &Expect) -> Result<Removed, MemoryError> {
        let path = self.path(key);
        for tried in 0..TRIES_MAX {
            let (there, version) = self.look(&path).await?;
            match (expect, &there) {
                (Expect::Version(stamp), there) if there.as_ref().is_none_or(|t| t.stamp != *stamp) => return Err(MemoryError::Conflict { key: path }),
                (Expect::Absent, Some(_)) => return Err(MemoryError::Conflict { key: path }),
                _ => {}
            }
            let Some(version) = version else { return Ok(Removed::NotThere) };
            match self.coord.delete(&path, Some(version)).await {
                Ok(()) => return Ok(if there.is_some() { Removed::Gone } else { Removed::NotThere }),
                Err(CasError::Conflict { .. }) => self.pause(tried).await,
                Err(CasError::Unknown(why)) => return Err(MemoryError::Unknown { what: format!("the removal of {path}"), why: why.to_string() }),
                Err(CasError::Coord(err)) => return Err(err.into()),
            }
        }
        Err(MemoryError::Conflict { key: path })
    }

    async fn keys(&self, space: &Space) -> Result<Vec<String>, MemoryError> {
        let prefix = self.prefix(space);
        let now = self.world.clock.now();
        let entries = self.coord.list(&prefix).await?;
        let live = |entry: &Entry| format::unwrap(format::lenient(&entry.value)).1.is_none_or(|at| at > now);
        let named = |entry: &Entry| entry.key.strip_prefix(&prefix).filter(|name| MemoryKey::new(space.clone(), name).is_ok()).map(str::to_owned);
        Ok(entries.iter().filter(|entry| live(entry)).filter_map(named).take(KEYS_MAX).collect())
    }

    async fn push_event(&self, event: &Event) -> Result<(), MemoryError> {
        checked_event(event)?;
        let key = self.events_key();
        let mut stamped = event.clone();
        stamped.id = stamped.id.or_else(|| Some(self.world.rng.uuid()));
        let mine = stamped.to_json();
        let mut doubt = None;
        for tried in 0..TRIES_MAX {
            let there = self.coord.get(&key).await?;
            let mut events = match there.as_ref().map(|entry| format::lenient(&entry.value)) {
                None => Vec::new(),
                Some(Value::Array(events)) => events,
                Some(other) => vec![other],
            };
            // Our own write whose answer was lost, or a repeated call.
            if events.iter().rev().any(|e| e.get("id").is_some_and(|id| Some(id) == mine.get("id"))) {
                return Ok(());
            }
            events.push(mine.clone());
            let text = bounded(events);
            match self.coord.put_if(&key, text.into(), there.map(|entry| entry.version)).await {
                Ok(_) => return Ok(()),
                Err(CasError::Conflict { .. }) => {}
                Err(CasError::Unknown(why)) => doubt = Some(why),
                Err(CasError::Coord(err)) => return Err(err.into()),
            }
            self.pause(tried).await;
        }
        Err(match doubt {
            Some(why) => MemoryError::Unknown { what: "the event".into(), why: why.to_string() },
            None => MemoryError::Unavailable(format!("{key} changes too fast for {} to add to it; slow down or keep events in Redis", self.engine())),
        })
    }

    async fn recent_events(&self, limit: usize) -> Result<Vec<Event>, MemoryError> {
        let Some(entry) = self.coord.get(&self.events_key()).await? else { return Ok(Vec::new()) };
        Ok(match format::lenient(&entry.value) {
            Value::Array(events) => events.iter().skip(events.len().saturating_sub(limit)).map(Event::from_json).collect(),
            other => vec![Event::from_json(&other)],
        })
    }

    async fn push_task(&self, task: &Task) -> Result<u64, MemoryError> {
        let text = Bytes::from(checked_task(task)?);
        let waiting = self.coord.list(&self.tasks()).await?.len();
        if waiting >= TASKS_MAX {
            return Err(MemoryError::Full { what: "the task queue".into(), max: TASKS_MAX });
        }
        let path = format!("{}{}", self.tasks(), task.id);
        let checks = [Check { key: path.clone(), expect: None }, Check { key: format!("{}id.{}", self.claims(), task.id), expect: None }];
        match self.coord.txn(&checks, &[Op::Put { key: path, value: text }]).await {
            Ok(()) => Ok(waiting as u64 + 1),
            Err(CasError::Conflict { .. }) => Ok(waiting as u64),
            Err(CasError::Unknown(why)) => {
                Err(MemoryError::Unknown { what: format!("the task {} (repeat it with the same id)", task.id), why: why.to_string() })
            }
            Err(CasError::Coord(err)) => Err(err.into()),
        }
    }

    async fn pop_task(&self, by: &str, request: &str) -> Result<Option<Popped>, MemoryError> {
        check_name("request id", request)?;
        self.sweep().await;
        let mut doubt = None;
        for tried in 0..TRIES_MAX {
            if let Some(task) = self.claimed(request).await? {
                let remaining = self.coord.list(&self.tasks()).await.map(|left| left.len() as u64).unwrap_or_default();
                return Ok(Some(Popped { task, remaining }));
            }
            let waiting = self.coord.list(&self.tasks()).await?;
            if waiting.is_empty() {
                return Ok(None);
            }
            for (at, entry) in waiting.iter().enumerate() {
                match self.take(entry, by, request).await {
                    Ok(task) => return Ok(Some(Popped { task, remaining: (waiting.len() - at - 1) as u64 })),
                    Err(CasError::Conflict { key }) if key == entry.key => {}
                    Err(CasError::Conflict { .. }) => break,
                    Err(CasError::Unknown(why)) => {
                        doubt = Some(why);
                        break;
                    }
                    Err(CasError::Coord(err)) => return Err(err.into()),
                }
            }
            self.pause(tried).await;
        }
        Err(match doubt {
            Some(why) => MemoryError::Unknown { what: format!("the taking of a task (ask again with request_id {request})"), why: why.to_string() },
            None => MemoryError::Unavailable("too many take tasks at the same time; ask again".into()),
        })
    }

    async fn waiting_tasks(&self, limit: usize) -> Result<Vec<Task>, MemoryError> {
        let prefix = self.tasks();
        let waiting = self.coord.list(&prefix).await?;
        Ok(waiting.iter().take(limit).map(|entry| Task::from_bytes(&entry.value, entry.key.strip_prefix(&prefix).unwrap_or(&entry.key))).collect())
    }
}

/// The newest events that fit into the bounds, as JSON.
fn bounded(mut events: Vec<Value>) -> String {
    let surplus = events.len().saturating_sub(EVENTS_MAX);
    events.drain(..surplus);
    let sizes: Vec<usize> = events.iter().map(|event| event.to_string().len() + 1).collect();
    let mut total: usize = sizes.iter().sum();
    let mut cut = 0;
    while total > EVENTS_BYTES_MAX && cut + 1 < sizes.len() {
        total -= sizes[cut];
        cut += 1;
    }
    events.drain(..cut);
    Value::Array(events).to_string()
}

impl From<CoordError> for MemoryError {
    fn from(err: CoordError) -> Self {
        match err {
            CoordError::Invalid(why) => Self::Invalid(why),
            other => Self::Unavailable(other.to_string()),
        }
    }
}

#[cfg(test)]
#[path = "coord_tests.rs"]
mod tests;
