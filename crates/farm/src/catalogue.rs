//! What gateways tell each other of their agents beyond who holds them: names, what they can do, and whether a gateway
//! runs them or a program does that joined its hub. One record for each gateway, `openclaw/farm/v1/catalogue/<gateway>`.
//!
//! It describes; it decides nothing. Where an agent lives says the ownership record, and who may write to it the policy.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use bytes::Bytes;
use clawstead_bus::{CasError, Change, Coord};
use clawstead_cluster::{
    claim::{Failover, Record},
    format_stamp,
    names::is_gateway,
};
use clawstead_terms::{Failure, FailureCode, Fence, Unit};
use clawstead_world::{TaskKind, World};
use futures_util::StreamExt as _;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::sync::watch;

/// Where the records lie.
pub const CATALOGUE: &str = "openclaw/farm/v1/catalogue/";
/// Agents of one record at most; more are not told.
pub const AGENTS_MAX: usize = 1_000;
/// Bytes of a description at most; more is cut.
const DESCRIPTION_BYTES_MAX: usize = 200;
/// Pause before a record that the store did not take is written again.
const AGAIN: Duration = Duration::from_secs(5);

/// Who runs an agent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Its gateway.
    #[default]
    Farm,
    /// A program that joined the gateway's hub.
    External,
}

/// An agent as its gateway tells of it. What is not known is left out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listed {
    /// Its id.
    pub id: String,
    /// Who runs it.
    #[serde(default)]
    pub kind: Kind,
    /// Its name for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// What it is for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// What it can be asked for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub capabilities: Vec<String>,
    /// `provider/model`, or the provider alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// What it says of itself (`active`, `idle`); external agents only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<String>,
}

/// What one gateway tells.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Page {
    /// It answers calls over A2A for its agents.
    #[serde(default)]
    pub a2a: bool,
    /// Its agents.
    #[serde(default)]
    pub agents: Vec<Listed>,
}

struct Shared {
    coord: Arc<dyn Coord>,
    gateway: String,
    world: World,
    pages: RwLock<BTreeMap<String, Page>>,
    ours: watch::Sender<Page>,
}

/// The catalogue as this gateway knows it. Clones are the same one.
#[derive(Clone)]
pub struct Catalogue(Arc<Shared>);

impl Catalogue {
    /// Starts to watch; tells nothing before [`Self::set`].
    #[must_use]
    pub fn start(coord: Arc<dyn Coord>, gateway: &str, world: &World) -> Self {
        let shared = Shared { coord, gateway: gateway.to_owned(), world: world.clone(), pages: RwLock::default(), ours: watch::Sender::new(Page::default()) };
        let (watching, telling) = (Self(Arc::new(shared)), world.tasks.stopping());
        let catalogue = watching.clone();
        world.tasks.spawn::<_, Failure>(TaskKind::vital("farm catalogue"), async move {
            tokio::select! {
                biased;
                () = telling.cancelled() => {}
                () = watching.watch() => {}
                () = watching.tell() => {}
            }
            Ok(())
        });
        catalogue
    }

    /// What others are told of us from now on.
    pub fn change(&self, edit: impl FnOnce(&mut Page)) {
        self.0.ours.send_if_modified(|page| {
            let before = page.clone();
            edit(page);
            page.agents.sort_unstable_by(|a, b| a.id.cmp(&b.id));
            page.agents.truncate(AGENTS_MAX);
            for agent in &mut page.agents {
                if let Some(text) = &mut agent.description {
                    let end = text.char_indices().map(|(at, c)| at + c.len_utf8()).take_while(|end| *end <= DESCRIPTION_BYTES_MAX).last().unwrap_or(0);
                    text.truncate(end);
                }
            }
            *page != before
        });
    }

    /// What we tell.
    #[must_use]
    pub fn ours(&self) -> Page {
        self.0.ours.borrow().clone()
    }

    /// Agents of other gateways, each with its gateway, by gateway and id.
    #[must_use]
    pub fn others(&self) -> Vec<(String, Listed)> {
        self.pages(|_| true)
    }

    /// Agents that other gateways run and answer for over A2A.
    #[must_use]
    pub fn reached_by_a2a(&self) -> Vec<(String, Listed)> {
        self.pages(|page| page.a2a).into_iter().filter(|(_, listed)| listed.kind == Kind::Farm).collect()
    }

    fn pages(&self, wanted: impl Fn(&Page) -> bool) -> Vec<(String, Listed)> {
        let pages = self.0.pages.read().unwrap_or_else(PoisonError::into_inner);
        let others = pages.iter().filter(|(gateway, page)| **gateway != self.0.gateway && wanted(page));
        others.flat_map(|(gateway, page)| page.agents.iter().map(move |listed| (gateway.clone(), listed.clone()))).collect()
    }

    /// What is told of an agent: by us, else by `gateway`, else by whoever tells of it.
    #[must_use]
    pub fn describe(&self, id: &str, gateway: Option<&str>) -> Option<Listed> {
        let of = |page: &Page| page.agents.iter().find(|listed| listed.id == id).cloned();
        let pages = self.0.pages.read().unwrap_or_else(PoisonError::into_inner);
        let there = || gateway.and_then(|gateway| pages.get(gateway)).and_then(of);
        let ours = of(&self.0.ours.borrow()).filter(|_| gateway.is_none_or(|gateway| gateway == self.0.gateway));
        ours.or_else(there).or_else(|| pages.values().find_map(of))
    }

    /// Ids that are external wherever they are told of.
    #[must_use]
    pub fn externals(&self) -> BTreeSet<String> {
        let all = self.others().into_iter().map(|(_, listed)| listed).chain(self.ours().agents);
        all.filter(|listed| listed.kind == Kind::External).map(|listed| listed.id).collect()
    }

    async fn watch(&self) {
        let mut changes = self.0.coord.watch(CATALOGUE);
        while let Some(change) = changes.next().await {
            let mut pages = self.0.pages.write().unwrap_or_else(PoisonError::into_inner);
            match change {
                Change::Snapshot(entries) => *pages = entries.values().filter_map(|entry| read(&entry.key, &entry.value)).collect(),
                Change::Put(entry) => pages.extend(read(&entry.key, &entry.value)),
                Change::Delete(key) => {
                    pages.remove(key.strip_prefix(CATALOGUE).unwrap_or_default());
                }
                // What was known stays known.
                Change::Lost(_) => {}
            }
        }
        // The watch never ends by itself; without a store there is nothing to follow.
        std::future::pending::<()>().await;
    }

    async fn tell(&self) {
        let mut ours = self.0.ours.subscribe();
        // What was said before this task ran is news too.
        if *ours.borrow() != Page::default() {
            ours.mark_changed();
        }
        loop {
            if ours.changed().await.is_err() {
                return std::future::pending().await;
            }
            loop {
                let page = ours.borrow_and_update().clone();
                let value: Bytes = serde_json::to_vec(&page).unwrap_or_default().into();
                match self.0.coord.put(&format!("{CATALOGUE}{}", self.0.gateway), value).await {
                    Ok(_) => break,
                    Err(err) => {
                        tracing::debug!(%err, "our agents could not be described to the others; it is tried again");
                        tokio::time::sleep(AGAIN).await;
                    }
                }
            }
        }
    }

    /// Takes the name of an external agent in the whole farm, for this gateway. `fence` is the one under which it is held
    /// here.
    ///
    /// # Errors
    /// `Forbidden` when another gateway has an agent of that name, `Unavailable` when the store does not answer.
    pub async fn admit(&self, unit: &Unit, fence: &Fence) -> Result<(), Failure> {
        let key = Record::store_key(unit);
        let away = |why: String| Failure::unavailable(format!("the name {unit} cannot be taken now: {why}"), 1_000);
        // Whoever writes in between is seen at the second look.
        for _ in 0..2 {
            let stored = self.0.coord.get(&key).await.map_err(|err| away(err.to_string()))?;
            let record: Option<Record> = stored.as_ref().and_then(|entry| serde_json::from_slice(&entry.value).ok());
            if let Some(record) = record.as_ref().filter(|record| !record.owner.is_empty() && record.owner != self.0.gateway) {
                return Err(taken(unit, &record.owner));
            }
            if record.as_ref().is_some_and(|record| record.owner == self.0.gateway && record.epoch == fence.epoch) {
                return Ok(());
            }
            let ours = Record {
                epoch: fence.epoch,
                owner: self.0.gateway.clone(),
                incarnation: fence.incarnation,
                prefer: vec![self.0.gateway.clone()],
                // A program is connected to one gateway.
                failover: Failover::None,
                since: format_stamp(self.0.world.clock.now()),
                handed: false,
            };
            let value = serde_json::to_vec(&ours).unwrap_or_default().into();
            match self.0.coord.put_if(&key, value, stored.map(|entry| entry.version)).await {
                Ok(_) => return Ok(()),
                Err(CasError::Conflict { .. } | CasError::Unknown(_)) => {}
                Err(CasError::Coord(err)) => return Err(away(err.to_string())),
            }
        }
        Err(away("others write it at the same time".into()))
    }

    /// The epoch that is recorded of a unit, so that a fence can be above it; 0 without a record.
    ///
    /// # Errors
    /// `Unavailable` when the store does not answer.
    pub async fn epoch(&self, unit: &Unit) -> Result<u64, Failure> {
        let entry = self.0.coord.get(&Record::store_key(unit)).await.map_err(|err| Failure::unavailable(err.to_string(), 1_000))?;
        let record: Option<Record> = entry.and_then(|entry| serde_json::from_slice(&entry.value).ok());
        if let Some(owner) = record.as_ref().map(|record| record.owner.as_str()).filter(|owner| !owner.is_empty() && *owner != self.0.gateway) {
            return Err(taken(unit, owner));
        }
        Ok(record.map_or(0, |record| record.epoch))
    }
}

impl crate::Farm {
    /// All agents as `farm agents` shows them: where each lives, how that gateway is, and what the catalogue says of it.
    #[must_use]
    pub fn agents(&self) -> Vec<Value> {
        let shown = |status: crate::membership::AgentStatus| {
            let told = self.catalogue.describe(&status.id, status.gateway.as_deref()).unwrap_or_default();
            let mut agent = json!(status);
            agent["kind"] = json!(told.kind);
            for (name, value) in
                [("name", json!(told.name)), ("description", json!(told.description)), ("status", json!(told.status)), ("model", json!(told.model))]
            {
                if agent.get(name).is_none() && !value.is_null() {
                    agent[name] = value;
                }
            }
            if agent.get("capabilities").is_none() && !told.capabilities.is_empty() {
                agent["capabilities"] = json!(told.capabilities);
            }
            agent
        };
        self.membership.agents().into_iter().map(shown).collect()
    }
}

fn taken(unit: &Unit, owner: &str) -> Failure {
    Failure::new(FailureCode::Forbidden, format!("{unit} lives at gateway \"{owner}\"")).with_hint("choose another agent_id, or use the hub of that gateway")
}

fn read(key: &str, value: &[u8]) -> Option<(String, Page)> {
    let gateway = key.strip_prefix(CATALOGUE).filter(|name| is_gateway(name))?;
    Some((gateway.to_owned(), serde_json::from_slice(value).ok()?))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use clawstead_bus::memory::Memory;
    use clawstead_terms::{AgentId, FailureCode, Fence, Unit};
    use clawstead_world::World;

    use super::{Catalogue, Kind, Listed};

    fn listed(id: &str, kind: Kind) -> Listed {
        Listed { id: id.into(), kind, name: Some(id.to_uppercase()), ..Listed::default() }
    }

    async fn until(mut holds: impl FnMut() -> bool) {
        let waited = async {
            while !holds() {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), waited).await.expect("it becomes known");
    }

    #[tokio::test]
    async fn gateways_hear_of_each_others_agents_once() {
        let world = World::simulated(3);
        let coord = Memory::new();
        let (a, b) = (Catalogue::start(coord.coord("gw-a"), "gw-a", &world), Catalogue::start(coord.coord("gw-b"), "gw-b", &world));
        a.change(|page| {
            page.a2a = true;
            page.agents = vec![listed("mac", Kind::External), listed("jerry", Kind::Farm)];
        });
        until(|| b.others().len() == 2).await;
        assert_eq!(b.reached_by_a2a(), [("gw-a".to_owned(), listed("jerry", Kind::Farm))]);
        assert_eq!(b.describe("jerry", Some("gw-a")).and_then(|found| found.name).as_deref(), Some("JERRY"));
        assert_eq!(b.externals().into_iter().collect::<Vec<_>>(), ["mac"]);
        assert!(a.others().is_empty(), "ours are not others'");
        a.change(|page| page.agents.retain(|one| one.id != "mac"));
        until(|| b.others().len() == 1).await;
    }

    #[tokio::test]
    async fn a_name_is_given_once_in_the_farm() {
        let world = World::simulated(3);
        let coord = Memory::new();
        let (a, b) = (Catalogue::start(coord.coord("gw-a"), "gw-a", &world), Catalogue::start(coord.coord("gw-b"), "gw-b", &world));
        let unit = Unit::Agent(AgentId::normalise("mac"));
        let fence = |epoch| Fence { epoch, owner: "x".into(), incarnation: 1 };
        assert_eq!(a.epoch(&unit).await, Ok(0));
        a.admit(&unit, &fence(1)).await.unwrap();
        a.admit(&unit, &fence(1)).await.unwrap();
        a.admit(&unit, &fence(2)).await.unwrap();
        let refused = b.admit(&unit, &fence(7)).await.unwrap_err();
        assert!(refused.code == FailureCode::Forbidden && refused.message.contains("gw-a"), "{refused}");
        assert_eq!(b.epoch(&unit).await.unwrap_err().code, FailureCode::Forbidden);
        assert_eq!(a.epoch(&unit).await, Ok(2));
    }
}
