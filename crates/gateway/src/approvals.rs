//! Approvals of commands: requests that wait for a person, and the allow lists. One request is decided once; who waits
//! for it hears the decision; when its time is over it counts as denied.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use serde_json::{Value, json};
use tokio::sync::watch;

use clawstead_state::{Table, change_json};
use clawstead_terms::{Failure, Millis, Unit};
use clawstead_tools::approvals::ApprovalsFile;
use clawstead_world::World;

use crate::{
    cron::Broadcast,
    keeper::{Keeper, sort},
};

/// Open requests at once.
pub const OPEN_MAX: usize = 200;
/// How long a request waits when it does not say.
const WAIT_MS_DEFAULT: u64 = 120_000;
/// Longest wait.
const WAIT_MS_MAX: u64 = 3_600_000;
/// How long a decided request can still be asked for.
const KEPT: Duration = Duration::from_secs(60);
/// The row of the allow lists.
pub(crate) const FILE_KEY: &str = "exec-approvals";

/// A request.
#[derive(Clone, Debug)]
pub struct Request {
    /// UUID.
    pub id: String,
    /// What is asked, as sent.
    pub request: Value,
    /// The agent, where there is one.
    pub agent: Option<String>,
    /// Patterns that `allow-always` adds to the agent's list.
    pub patterns: Vec<String>,
    /// When it was made.
    pub created_at: Millis,
    /// When it counts as denied.
    pub expires_at: Millis,
}

impl Request {
    fn shown(&self) -> Value {
        json!({"id": self.id, "request": self.request, "createdAtMs": self.created_at, "expiresAtMs": self.expires_at})
    }
}

struct Open {
    request: Request,
    decision: watch::Sender<Option<String>>,
}

/// The approvals desk of one gateway.
#[derive(Clone)]
pub struct Approvals(Arc<Inner>);

struct Inner {
    keeper: Keeper,
    world: World,
    news: Arc<dyn Broadcast>,
    open: Mutex<BTreeMap<String, Open>>,
    /// Changes of the allow lists happen one after the other.
    file: tokio::sync::Mutex<()>,
}

impl Approvals {
    /// Nothing is open.
    #[must_use]
    pub fn new(keeper: Keeper, world: World, news: Arc<dyn Broadcast>) -> Self {
        Self(Arc::new(Inner { keeper, world, news, open: Mutex::default(), file: tokio::sync::Mutex::default() }))
    }

    fn open(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Open>> {
        self.0.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks. Who may decide hears of it at once.
    ///
    /// # Errors
    /// `Busy` when too many wait; `InvalidRequest` when the id is taken.
    pub fn request(
        &self,
        id: Option<String>,
        request: Value,
        agent: Option<String>,
        patterns: Vec<String>,
        timeout_ms: Option<u64>,
    ) -> Result<Request, Failure> {
        let now = self.0.world.clock.now();
        let wait = timeout_ms.unwrap_or(WAIT_MS_DEFAULT).clamp(1, WAIT_MS_MAX);
        let id = id.unwrap_or_else(|| self.0.world.rng.uuid());
        let made = Request { id: id.clone(), request, agent, patterns, created_at: now, expires_at: now.plus(i64::try_from(wait).unwrap_or(i64::MAX)) };
        {
            let mut open = self.open();
            if open.len() >= OPEN_MAX {
                return Err(Failure::busy(format!("{OPEN_MAX} approvals are open already"), 5_000));
            }
            if open.contains_key(&id) {
                return Err(Failure::invalid("approval id already pending"));
            }
            open.insert(id.clone(), Open { request: made.clone(), decision: watch::Sender::new(None) });
        }
        self.0.news.broadcast("exec.approval.requested", made.shown());
        let this = self.clone();
        self.0.world.tasks.spawn::<_, String>(clawstead_world::TaskKind::logged("approval"), async move {
            let stop = this.0.world.tasks.stopping();
            tokio::select! { biased; () = stop.cancelled() => return Ok(()), () = this.expire(&id, Duration::from_millis(wait)) => {} }
            tokio::select! { biased; () = stop.cancelled() => {}, () = tokio::time::sleep(KEPT) => {} }
            this.open().remove(&id);
            Ok(())
        });
        Ok(made)
    }

    async fn expire(&self, id: &str, wait: Duration) {
        let Some(mut heard) = self.open().get(id).map(|open| open.decision.subscribe()) else { return };
        if tokio::time::timeout(wait, heard.wait_for(Option::is_some)).await.is_err() {
            // An empty word: nobody decided, the asker's fallback counts.
            self.settle(id, "");
        }
    }

    fn settle(&self, id: &str, decision: &str) -> bool {
        let open = self.open();
        let Some(one) = open.get(id) else { return false };
        let mut first = false;
        one.decision.send_if_modified(|held| {
            first = held.is_none();
            if first {
                *held = Some(decision.to_owned());
            }
            first
        });
        let request = one.request.request.clone();
        drop(open);
        if first {
            let shown = if decision.is_empty() { Value::Null } else { json!(decision) };
            self.0.news.broadcast("exec.approval.resolved", json!({"id": id, "decision": shown, "request": request, "ts": self.0.world.clock.now()}));
        }
        first
    }

    /// Open requests, oldest first.
    #[must_use]
    pub fn list(&self) -> Vec<Value> {
        let mut open: Vec<Request> = self.open().values().filter(|open| open.decision.borrow().is_none()).map(|open| open.request.clone()).collect();
        open.sort_by_key(|request| request.created_at);
        open.iter().map(Request::shown).collect()
    }

    /// One request; ids may be shortened to what is unique.
    #[must_use]
    pub fn get(&self, id: &str) -> Option<Request> {
        let open = self.open();
        if let Some(one) = open.get(id) {
            return Some(one.request.clone());
        }
        let mut found = open.values().filter(|one| one.request.id.starts_with(id));
        let first = found.next()?;
        found.next().is_none().then(|| first.request.clone())
    }

    /// Decides: `allow-once`, `allow-always`, `deny`. Answers false when it was decided before.
    ///
    /// # Errors
    /// `NotFound` for an unknown request; when the allow list cannot be written (then nothing is decided).
    pub async fn resolve(&self, id: &str, decision: &str) -> Result<bool, Failure> {
        let request = self.get(id).ok_or_else(|| Failure::not_found(format!("unknown or expired approval id {id}")))?;
        if decision == "allow-always" {
            let agent = request.agent.clone().unwrap_or_else(|| "main".into());
            let world = self.0.world.clone();
            self.change(|file| {
                file.allow(&agent, &request.patterns, || world.rng.uuid());
            })
            .await?;
        }
        Ok(self.settle(&request.id, decision))
    }

    /// Waits for the decision; none when nobody decided in time.
    ///
    /// # Errors
    /// `NotFound` for an unknown request.
    pub async fn wait(&self, id: &str) -> Result<Option<String>, Failure> {
        let mut heard =
            self.open().get(id).map(|open| open.decision.subscribe()).ok_or_else(|| Failure::not_found(format!("unknown or expired approval id {id}")))?;
        let decision = heard.wait_for(Option::is_some).await.ok().and_then(|held| held.clone());
        Ok(decision.filter(|word| !word.is_empty()))
    }

    /// The allow lists.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn file(&self) -> Result<ApprovalsFile, Failure> {
        Ok(self.0.keeper.get(&Unit::Global, Table::Approvals, FILE_KEY).await?.unwrap_or_default())
    }

    /// Changes the allow lists; `change` is called again when another gateway was faster.
    ///
    /// # Errors
    /// When the store cannot be read or written.
    pub async fn change<T>(&self, mut change: impl FnMut(&mut ApprovalsFile) -> T) -> Result<T, Failure> {
        let _one = self.0.file.lock().await;
        let keeper = &self.0.keeper;
        let fence = keeper.claims.get(&Unit::Global).ok_or_else(|| Failure::internal("the global unit is not held"))?;
        // Gateways of a farm may share the row.
        let changed = change_json(&*keeper.store, &fence, &Unit::Global, Table::Approvals, FILE_KEY, |file| Ok(change(file)));
        changed.await.map_err(sort)
    }
}
