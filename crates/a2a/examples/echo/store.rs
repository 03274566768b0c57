//! Tasks in a file: one line for each batch, synced before it counts. Read whole at the start.

use std::{
    collections::BTreeMap,
    fs::{File, OpenOptions},
    io::{BufRead as _, BufReader, Write as _},
    path::Path,
    sync::{Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;
use clawstead_a2a::server::{StoreError, Table, Tasks, Write};
use serde_json::{Value, json};

type Rows = BTreeMap<(String, String, String), Value>;

/// The file and what it says.
pub struct FileTasks(Mutex<(File, Rows)>);

impl FileTasks {
    /// Opens or makes the file. A last line that broke off never counted and is cut away.
    pub fn open(path: &Path) -> std::io::Result<Self> {
        let file = OpenOptions::new().create(true).read(true).append(true).open(path)?;
        let mut rows = Rows::new();
        let mut good = 0;
        for line in BufReader::new(file.try_clone()?).lines() {
            let line = line?;
            let Ok(Value::Array(batch)) = serde_json::from_str(&line) else { break };
            for one in batch {
                let word = |at: usize| one[at].as_str().unwrap_or_default().to_owned();
                let key = (word(0), word(1), word(2));
                if one[3].is_null() { drop(rows.remove(&key)) } else { drop(rows.insert(key, one[3]["v"].clone())) }
            }
            good += line.len() as u64 + 1;
        }
        if file.metadata()?.len() > good {
            file.set_len(good)?;
        }
        Ok(Self(Mutex::new((file, rows))))
    }

    fn lock(&self) -> MutexGuard<'_, (File, Rows)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl Tasks for FileTasks {
    async fn get(&self, agent: &str, table: Table, key: &str) -> Result<Option<Value>, StoreError> {
        Ok(self.lock().1.get(&(agent.into(), table.name().into(), key.into())).cloned())
    }

    async fn commit(&self, agent: &str, writes: Vec<Write>) -> Result<(), StoreError> {
        let batch: Vec<Value> = writes
            .iter()
            .map(|write| match write {
                Write::Put(table, key, value) => json!([agent, table.name(), key, {"v": value}]),
                Write::Delete(table, key) => json!([agent, table.name(), key, null]),
            })
            .collect();
        let mut held = self.lock();
        let (file, rows) = &mut *held;
        writeln!(file, "{}", Value::Array(batch)).and_then(|()| file.sync_data()).map_err(|err| StoreError(err.to_string()))?;
        for write in writes {
            match write {
                Write::Put(table, key, value) => drop(rows.insert((agent.into(), table.name().into(), key), value)),
                Write::Delete(table, key) => drop(rows.remove(&(agent.into(), table.name().into(), key))),
            }
        }
        Ok(())
    }

    async fn scan(&self, agent: &str, table: Table, prefix: &str, after: Option<&str>, limit: usize) -> Result<Vec<(String, Value)>, StoreError> {
        let held = self.lock();
        let from = (agent.to_owned(), table.name().to_owned(), prefix.to_owned());
        Ok(held
            .1
            .range(from..)
            .take_while(|((of, t, key), _)| of == agent && t == table.name() && key.starts_with(prefix))
            .filter(|((_, _, key), _)| after.is_none_or(|after| key.as_str() > after))
            .take(limit)
            .map(|((_, _, key), value)| (key.clone(), value.clone()))
            .collect())
    }
}
