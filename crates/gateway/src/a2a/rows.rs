//! Tasks as rows: in the table of small things, below the names of [`Table`].

use async_trait::async_trait;
use serde_json::Value;

use clawstead_a2a::server::{StoreError, Table, Tasks, Write};
use clawstead_state::{Batch, Scan, Table as StateTable};
use clawstead_terms::{AgentId, Unit};

use crate::keeper::Keeper;

/// See the module.
pub(super) struct Rows(pub Keeper);

fn unit(agent: &str) -> Unit {
    Unit::Agent(AgentId::normalise(agent))
}

fn row(table: Table, key: &str) -> String {
    format!("{}/{key}", table.name())
}

fn away(err: impl std::fmt::Display) -> StoreError {
    StoreError(err.to_string())
}

#[async_trait]
impl Tasks for Rows {
    async fn get(&self, agent: &str, table: Table, key: &str) -> Result<Option<Value>, StoreError> {
        self.0.get(&unit(agent), StateTable::Meta, &row(table, key)).await.map_err(away)
    }

    async fn commit(&self, agent: &str, writes: Vec<Write>) -> Result<(), StoreError> {
        let mut batch = Batch::new(unit(agent));
        for write in writes {
            batch = match write {
                Write::Put(table, key, value) => batch.put_json(StateTable::Meta, &row(table, &key), &value).map_err(away)?,
                Write::Delete(table, key) => batch.delete(StateTable::Meta, &row(table, &key)),
            };
        }
        self.0.commit(batch).await.map_err(away)
    }

    async fn scan(&self, agent: &str, table: Table, prefix: &str, after: Option<&str>, limit: usize) -> Result<Vec<(String, Value)>, StoreError> {
        let below = row(table, "");
        let scan = Scan { after: after.map(|key| row(table, key)), ..Scan::prefix(row(table, prefix)).limit(limit) };
        let rows = self.0.scan::<Value>(&unit(agent), StateTable::Meta, &scan).await.map_err(away)?;
        Ok(rows.into_iter().filter_map(|found| Some((found.key.strip_prefix(&below)?.to_owned(), found.value))).collect())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use clawstead_a2a::server::{Table, Tasks as _, Write};
    use clawstead_state::MemoryStore;
    use clawstead_terms::{AgentId, Unit};
    use serde_json::json;

    use super::Rows;
    use crate::keeper::{Claims, Keeper};

    #[tokio::test]
    async fn rows_stay_with_their_agent_and_table_and_are_written_under_its_fence() {
        let keeper = Keeper { store: Arc::new(MemoryStore::default()), claims: Arc::new(Claims::default()) };
        let rows = Rows(keeper.clone());
        let put = |table, key: &str| Write::Put(table, key.into(), json!(key));
        assert!(rows.commit("main", vec![put(Table::Task, "p/1")]).await.is_err(), "an agent that is not ours is not written");
        keeper.claim(&[Unit::Agent(AgentId::normalise("main")), Unit::Agent(AgentId::normalise("other"))], "gateway", 1).await.unwrap();
        rows.commit("main", vec![put(Table::Task, "p/1"), put(Table::Task, "p/2"), put(Table::Open, "p/1")]).await.unwrap();
        rows.commit("other", vec![put(Table::Task, "p/3")]).await.unwrap();
        rows.commit("main", vec![Write::Delete(Table::Open, "p/1".into())]).await.unwrap();
        let keys = |found: Vec<(String, serde_json::Value)>| found.into_iter().map(|(key, _)| key).collect::<Vec<_>>();
        assert_eq!(keys(rows.scan("main", Table::Task, "", None, 9).await.unwrap()), ["p/1", "p/2"]);
        assert_eq!(keys(rows.scan("main", Table::Task, "p/", Some("p/1"), 9).await.unwrap()), ["p/2"]);
        assert!(rows.scan("main", Table::Open, "", None, 9).await.unwrap().is_empty());
        assert_eq!(rows.get("main", Table::Task, "p/2").await.unwrap(), Some(json!("p/2")));
        assert_eq!(rows.get("main", Table::Task, "p/3").await.unwrap(), None);
    }
}
