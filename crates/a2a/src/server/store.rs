use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
};

use async_trait::async_trait;
use serde_json::Value;
use thiserror::Error;

/// What kinds of rows there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Table {
    /// Tasks, by `peer/task`.
    Task,
    /// The order of tasks, newest first, by `peer/time/task`.
    ByTime,
    /// Tasks that are not at an end, by `peer/task`.
    Open,
    /// Messages that were taken, by `peer/hash`.
    Message,
    /// Where changes are sent, by `peer/task/config`. Holds secrets.
    Push,
    /// Changes that are still to be sent, by `peer/task/config/number`.
    Delivery,
}

impl Table {
    /// All of them.
    pub const ALL: [Self; 6] = [Self::Task, Self::ByTime, Self::Open, Self::Message, Self::Push, Self::Delivery];

    /// Its name in a store.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Task => "a2a_task",
            Self::ByTime => "a2a_by_time",
            Self::Open => "a2a_open",
            Self::Message => "a2a_message",
            Self::Push => "a2a_push",
            Self::Delivery => "a2a_delivery",
        }
    }
}

/// One change of a batch.
#[derive(Clone, Debug, PartialEq)]
pub enum Write {
    /// Sets a row.
    Put(Table, String, Value),
    /// Removes a row; no error when there is none.
    Delete(Table, String),
}

/// The store did not do it.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("the task store: {0}")]
pub struct StoreError(pub String);

/// Where tasks live: rows of plain JSON by key, one space for each agent. The rows of one agent are written by one
/// process at a time; who that is decides the house, for instance by a fence.
#[async_trait]
pub trait Tasks: Send + Sync + 'static {
    /// Reads a row.
    ///
    /// # Errors
    /// When the store is away.
    async fn get(&self, agent: &str, table: Table, key: &str) -> Result<Option<Value>, StoreError>;

    /// Writes all or nothing, in this order. `Ok` means that it outlives a crash.
    ///
    /// # Errors
    /// When the store is away or does not take writes from here.
    async fn commit(&self, agent: &str, writes: Vec<Write>) -> Result<(), StoreError>;

    /// Rows whose key begins with `prefix` and comes after `after`, by the bytes of the key, at most `limit`.
    ///
    /// # Errors
    /// When the store is away.
    async fn scan(&self, agent: &str, table: Table, prefix: &str, after: Option<&str>, limit: usize) -> Result<Vec<(String, Value)>, StoreError>;
}

type Rows = BTreeMap<(String, Table, String), Value>;

/// Tasks in memory, for tests and for hosts that forget.
#[derive(Debug, Default)]
pub struct MemoryTasks(Mutex<Rows>);

impl MemoryTasks {
    /// Every row, for looking at.
    #[must_use]
    pub fn rows(&self) -> Vec<(String, Table, String, Value)> {
        self.lock().iter().map(|((agent, table, key), value)| (agent.clone(), *table, key.clone(), value.clone())).collect()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Rows> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl Tasks for MemoryTasks {
    async fn get(&self, agent: &str, table: Table, key: &str) -> Result<Option<Value>, StoreError> {
        Ok(self.lock().get(&(agent.to_owned(), table, key.to_owned())).cloned())
    }

    async fn commit(&self, agent: &str, writes: Vec<Write>) -> Result<(), StoreError> {
        let mut rows = self.lock();
        for write in writes {
            match write {
                Write::Put(table, key, value) => drop(rows.insert((agent.to_owned(), table, key), value)),
                Write::Delete(table, key) => drop(rows.remove(&(agent.to_owned(), table, key))),
            }
        }
        Ok(())
    }

    async fn scan(&self, agent: &str, table: Table, prefix: &str, after: Option<&str>, limit: usize) -> Result<Vec<(String, Value)>, StoreError> {
        let from = after.filter(|after| *after >= prefix).unwrap_or(prefix).to_owned();
        let rows = self.lock();
        Ok(rows
            .range((agent.to_owned(), table, from)..)
            .take_while(|((of, t, key), _)| of == agent && *t == table && key.starts_with(prefix))
            .filter(|((_, _, key), _)| after.is_none_or(|after| key.as_str() > after))
            .take(limit)
            .map(|((_, _, key), value)| (key.clone(), value.clone()))
            .collect())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{MemoryTasks, Table, Tasks, Write};

    #[tokio::test]
    async fn scans_stay_in_their_space_and_go_on_after_a_key() {
        let store = MemoryTasks::default();
        for (agent, key) in [("a", "p/1"), ("a", "p/2"), ("a", "q/1"), ("b", "p/9")] {
            store.commit(agent, vec![Write::Put(Table::Task, key.into(), json!(key))]).await.unwrap();
        }
        let keys = |rows: Vec<(String, serde_json::Value)>| rows.into_iter().map(|row| row.0).collect::<Vec<_>>();
        assert_eq!(keys(store.scan("a", Table::Task, "p/", None, 9).await.unwrap()), ["p/1", "p/2"]);
        assert_eq!(keys(store.scan("a", Table::Task, "p/", Some("p/1"), 9).await.unwrap()), ["p/2"]);
        assert_eq!(keys(store.scan("a", Table::Task, "", None, 2).await.unwrap()), ["p/1", "p/2"]);
    }
}
