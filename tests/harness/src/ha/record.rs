//! Ownership records as the coordination store has them, watched from outside.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use serde_json::Value;
use tokio::task::JoinHandle;

use super::{consul::read_keys, invariants::Owner};

const SHARDS: &str = "openclaw/farm/v1/shards/";
/// Records are read so often. Owners that stay for a shorter time may be missed; epochs tell.
const EVERY: Duration = Duration::from_millis(30);

type Seen = BTreeMap<String, Vec<(Instant, Owner)>>;

/// A watch. It ends when dropped.
pub struct Records {
    seen: Arc<Mutex<Seen>>,
    task: JoinHandle<()>,
}

impl Records {
    /// Over these servers.
    #[must_use]
    pub fn watch(ports: Vec<u16>) -> Self {
        let seen: Arc<Mutex<Seen>> = Arc::default();
        let book = seen.clone();
        let task = tokio::spawn(async move {
            loop {
                for (key, value) in read_keys(&ports, SHARDS).await.unwrap_or_default() {
                    let Some(unit) = key.strip_prefix(SHARDS) else { continue };
                    let Ok(record) = serde_json::from_slice::<Value>(&value) else { continue };
                    let owner = Owner { epoch: record["epoch"].as_u64().unwrap_or_default(), gateway: record["owner"].as_str().unwrap_or_default().to_owned() };
                    let mut book = book.lock().unwrap_or_else(PoisonError::into_inner);
                    let known = book.entry(unit.to_owned()).or_default();
                    if known.last().is_none_or(|(_, last)| *last != owner) {
                        known.push((Instant::now(), owner));
                    }
                }
                tokio::time::sleep(EVERY).await;
            }
        });
        Self { seen, task }
    }

    /// A unit's owners, oldest first.
    #[must_use]
    pub fn owners(&self, unit: &str) -> Vec<Owner> {
        self.all().remove(unit).unwrap_or_default()
    }

    /// Every unit's owners.
    #[must_use]
    pub fn all(&self) -> BTreeMap<String, Vec<Owner>> {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.iter().map(|(unit, owners)| (unit.clone(), owners.iter().map(|(_, owner)| owner.clone()).collect())).collect()
    }

    /// The epoch now.
    #[must_use]
    pub fn epoch(&self, unit: &str) -> u64 {
        self.owners(unit).last().map_or(0, |owner| owner.epoch)
    }
}

impl Drop for Records {
    fn drop(&mut self) {
        self.task.abort();
    }
}
