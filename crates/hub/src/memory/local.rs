//! Shared memory in this process: for programs that want no store, for the example and for tests.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use async_trait::async_trait;
use clawstead_terms::Millis;
use clawstead_world::World;
use serde_json::Value;
use tokio::sync::Mutex;

use super::{
    CLAIM_KEPT, EVENTS_MAX, Event, Expect, KEYS_MAX, MemoryError, MemoryKey, Popped, Remembered, Removed, SharedMemory, Space, Stamp, TASKS_MAX, Task,
    check_name, checked, checked_event, checked_task,
};

/// Nothing survives the process.
pub struct LocalMemory {
    world: World,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    values: BTreeMap<Space, BTreeMap<String, Kept>>,
    version: u64,
    events: VecDeque<Event>,
    tasks: VecDeque<Task>,
    claims: BTreeMap<String, (Task, Millis)>,
    seen: BTreeMap<String, Millis>,
}

struct Kept {
    value: Value,
    version: u64,
    expires: Option<Millis>,
}

impl LocalMemory {
    /// Empty.
    #[must_use]
    pub fn new(world: World) -> Self {
        Self { world, state: Mutex::new(State::default()) }
    }
}

impl State {
    fn live(&mut self, key: &MemoryKey, now: Millis) -> Option<&Kept> {
        let space = self.values.entry(key.space.clone()).or_default();
        if space.get(key.name()).is_some_and(|kept| kept.expires.is_some_and(|at| at <= now)) {
            space.remove(key.name());
        }
        space.get(key.name())
    }

    fn check(&mut self, key: &MemoryKey, expect: &Expect, now: Millis) -> Result<Option<u64>, MemoryError> {
        let there = self.live(key, now).map(|kept| kept.version);
        let holds = match expect {
            Expect::Any => true,
            Expect::Absent => there.is_none(),
            Expect::Version(stamp) => there.is_some_and(|version| version.to_string() == stamp.0),
        };
        if holds { Ok(there) } else { Err(MemoryError::Conflict { key: key.name().to_owned() }) }
    }

    fn forget_claims(&mut self, now: Millis) {
        let old = |at: Millis| now.since(at) > i64::try_from(CLAIM_KEPT.as_millis()).unwrap_or(i64::MAX);
        self.claims.retain(|_, (_, at)| !old(*at));
        self.seen.retain(|_, at| !old(*at));
    }
}

#[async_trait]
impl SharedMemory for LocalMemory {
    fn engine(&self) -> &'static str {
        "memory"
    }

    async fn set(&self, key: &MemoryKey, value: &Value, ttl: Option<Duration>, expect: &Expect) -> Result<Stamp, MemoryError> {
        checked(value, ttl)?;
        let now = self.world.clock.now();
        let mut state = self.state.lock().await;
        let there = state.check(key, expect, now)?;
        let space = state.values.entry(key.space.clone()).or_default();
        if there.is_none() {
            space.retain(|_, kept| kept.expires.is_none_or(|at| at > now));
            if space.len() >= KEYS_MAX {
                return Err(MemoryError::Full { what: "this space".into(), max: KEYS_MAX });
            }
        }
        state.version += 1;
        let version = state.version;
        let expires = ttl.map(|ttl| now.plus(i64::try_from(ttl.as_millis()).unwrap_or(i64::MAX)));
        state.values.entry(key.space.clone()).or_default().insert(key.name().to_owned(), Kept { value: value.clone(), version, expires });
        Ok(Stamp(version.to_string()))
    }

    async fn get(&self, key: &MemoryKey) -> Result<Option<Remembered>, MemoryError> {
        let now = self.world.clock.now();
        let mut state = self.state.lock().await;
        let kept = state.live(key, now);
        Ok(kept.map(|kept| Remembered { value: kept.value.clone(), stamp: Stamp(kept.version.to_string()), expires: kept.expires }))
    }

    async fn remove(&self, key: &MemoryKey, expect: &Expect) -> Result<Removed, MemoryError> {
        let now = self.world.clock.now();
        let mut state = self.state.lock().await;
        state.check(key, expect, now)?;
        let gone = state.values.get_mut(&key.space).and_then(|space| space.remove(key.name()));
        Ok(if gone.is_some() { Removed::Gone } else { Removed::NotThere })
    }

    async fn keys(&self, space: &Space) -> Result<Vec<String>, MemoryError> {
        let now = self.world.clock.now();
        let state = self.state.lock().await;
        let live = |kept: &Kept| kept.expires.is_none_or(|at| at > now);
        Ok(state.values.get(space).map(|s| s.iter().filter(|(_, k)| live(k)).map(|(name, _)| name.clone()).collect()).unwrap_or_default())
    }

    async fn push_event(&self, event: &Event) -> Result<(), MemoryError> {
        checked_event(event)?;
        let mut state = self.state.lock().await;
        if event.id.is_some() && state.events.iter().any(|there| there.id == event.id) {
            return Ok(());
        }
        if state.events.len() == EVENTS_MAX {
            state.events.pop_front();
        }
        state.events.push_back(event.clone());
        Ok(())
    }

    async fn recent_events(&self, limit: usize) -> Result<Vec<Event>, MemoryError> {
        let state = self.state.lock().await;
        Ok(state.events.iter().skip(state.events.len().saturating_sub(limit)).cloned().collect())
    }

    async fn push_task(&self, task: &Task) -> Result<u64, MemoryError> {
        checked_task(task)?;
        let now = self.world.clock.now();
        let mut state = self.state.lock().await;
        state.forget_claims(now);
        if !state.seen.contains_key(&task.id) {
            if state.tasks.len() >= TASKS_MAX {
                return Err(MemoryError::Full { what: "the task queue".into(), max: TASKS_MAX });
            }
            state.tasks.push_back(task.clone());
            state.seen.insert(task.id.clone(), now);
        }
        Ok(state.tasks.len() as u64)
    }

    async fn pop_task(&self, by: &str, request: &str) -> Result<Option<Popped>, MemoryError> {
        check_name("request id", request)?;
        let now = self.world.clock.now();
        let mut state = self.state.lock().await;
        state.forget_claims(now);
        let task = if let Some((task, _)) = state.claims.get(request) {
            task.clone()
        } else {
            let Some(task) = state.tasks.pop_front() else { return Ok(None) };
            tracing::info!(agent = by, task = task.id, "task taken");
            state.claims.insert(request.to_owned(), (task.clone(), now));
            task
        };
        Ok(Some(Popped { task, remaining: state.tasks.len() as u64 }))
    }

    async fn waiting_tasks(&self, limit: usize) -> Result<Vec<Task>, MemoryError> {
        Ok(self.state.lock().await.tasks.iter().take(limit).cloned().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn memory_in_this_process_passes_the_suite() {
        let memory = LocalMemory::new(World::simulated(1));
        super::super::conformance::suite(std::sync::Arc::new(memory)).await;
    }
}
