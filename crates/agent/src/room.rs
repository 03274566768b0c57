//! What this gateway holds of one agent: the right to write for it, the rows of its sessions, and those in use.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use clawstead_state::{Scan, Store, Table, TxError, keeper::still_ours};
use clawstead_terms::{AgentId, Fence, Millis, SessionKey, Unit};

use crate::{
    SessionRow,
    session::{Session, lock},
};

/// Rows read at once when an agent is taken over.
const PAGE: usize = 500;

pub(crate) struct Room {
    pub agent: AgentId,
    pub unit: Unit,
    pub fence: Fence,
    /// Cancelled when the agent is given up or lost: nothing more is written for it.
    pub closed: CancellationToken,
    /// Cancelled when the agent is about to move: letters are stored, no turn begins.
    pub closing: CancellationToken,
    /// When the store last took a write of ours: what began before it was asked.
    proved: Mutex<Instant>,
    rows: Mutex<BTreeMap<SessionKey, Arc<SessionRow>>>,
    live: Mutex<BTreeMap<SessionKey, Arc<Session>>>,
    /// Accepted letters whose run has not ended, over all sessions.
    pub open: AtomicUsize,
}

impl Room {
    pub fn new(agent: AgentId, fence: Fence, closed: CancellationToken) -> Self {
        Self {
            unit: Unit::Agent(agent.clone()),
            agent,
            fence,
            closed,
            closing: CancellationToken::new(),
            proved: Mutex::new(Instant::now()),
            rows: Mutex::default(),
            live: Mutex::default(),
            open: AtomicUsize::new(0),
        }
    }

    /// The store took a write that was begun at this moment: nobody else held the agent then.
    pub fn proved_at(&self, begun: Instant) {
        *lock(&self.proved) = begun;
    }

    /// Whether an effect may begin now; see [`still_ours`].
    pub async fn may_act(&self, store: &dyn Store) -> bool {
        let proved = *lock(&self.proved);
        match still_ours(store, &self.unit, Some(&self.fence), proved).await {
            Ok(proved) => {
                self.proved_at(proved);
                !self.closed.is_cancelled()
            }
            Err(err @ TxError::Fenced { .. }) => {
                self.lose(&err);
                false
            }
            Err(err) => {
                tracing::warn!(agent = %self.agent, %err, "whether the agent is still ours is not known; the effect does not begin");
                false
            }
        }
    }

    /// Reads all session rows, a page at a time. Rows that cannot be read are named and left alone.
    pub async fn load(&self, store: &dyn Store) -> Result<(), TxError> {
        let mut after = None;
        loop {
            let page = store.scan(&self.unit, Table::Sessions, &Scan { prefix: String::new(), after: after.clone(), limit: PAGE, newest_first: false }).await?;
            let count = page.len();
            for stored in page {
                match serde_json::from_str::<SessionRow>(&stored.value) {
                    Ok(row) => {
                        self.open.fetch_add(row.open.len(), Ordering::AcqRel);
                        lock(&self.rows).insert(row.key.clone(), Arc::new(row));
                    }
                    Err(err) => tracing::error!(agent = %self.agent, session = %stored.key, err = ?err.classify(), "a session row cannot be read"),
                }
                after = Some(stored.key);
            }
            if count < PAGE {
                return Ok(());
            }
        }
    }

    pub fn row(&self, key: &SessionKey) -> Option<Arc<SessionRow>> {
        lock(&self.rows).get(key).cloned()
    }

    pub fn rows(&self) -> Vec<Arc<SessionRow>> {
        lock(&self.rows).values().cloned().collect()
    }

    pub fn put_row(&self, row: SessionRow) {
        let mut rows = lock(&self.rows);
        let new = row.open.len();
        let old = rows.insert(row.key.clone(), Arc::new(row)).map_or(0, |row| row.open.len());
        if new >= old {
            self.open.fetch_add(new - old, Ordering::AcqRel);
        } else {
            self.open.fetch_sub(old - new, Ordering::AcqRel);
        }
    }

    pub fn drop_row(&self, key: &SessionKey) {
        if let Some(row) = lock(&self.rows).remove(key) {
            self.open.fetch_sub(row.open.len(), Ordering::AcqRel);
        }
    }

    /// The live object of a session, made if need be. `fresh` makes the row of a session that is not there yet.
    pub fn session(&self, key: &SessionKey, now: Millis, fresh: impl FnOnce() -> SessionRow) -> Arc<Session> {
        let mut live = lock(&self.live);
        if let Some(session) = live.get(key).filter(|session| !session.is_dead()) {
            session.used_at.store(now.0, Ordering::Relaxed);
            return Arc::clone(session);
        }
        let session = Arc::new(match self.row(key) {
            Some(row) => Session::new(key.clone(), (*row).clone(), true, now),
            None => Session::new(key.clone(), fresh(), false, now),
        });
        live.insert(key.clone(), Arc::clone(&session));
        session
    }

    pub fn live(&self, key: &SessionKey) -> Option<Arc<Session>> {
        lock(&self.live).get(key).cloned()
    }

    pub fn live_all(&self) -> Vec<Arc<Session>> {
        lock(&self.live).values().cloned().collect()
    }

    pub fn live_count(&self) -> usize {
        lock(&self.live).len()
    }

    pub fn forget(&self, key: &SessionKey) {
        lock(&self.live).remove(key);
    }

    /// Drops idle sessions from memory, longest unused first, until `keep` are left. A session that anybody holds
    /// stays.
    pub fn evict(&self, keep: usize) -> usize {
        let mut live = lock(&self.live);
        if live.len() <= keep {
            return 0;
        }
        let mut idle: Vec<(i64, SessionKey)> = live
            .values()
            .filter(|session| Arc::strong_count(session) == 1 && !session.has_notes())
            .map(|session| (session.used_at.load(Ordering::Relaxed), session.key.clone()))
            .collect();
        idle.sort();
        let count = (live.len() - keep).min(idle.len());
        for (_, key) in idle.into_iter().take(count) {
            live.remove(&key);
        }
        count
    }

    /// Somebody else has the agent now: stop everything without another word to the store.
    pub fn lose(&self, why: &TxError) {
        if !self.closed.is_cancelled() {
            tracing::warn!(agent = %self.agent, err = %why, "this agent is not ours any more, its lanes stop");
            self.closed.cancel();
        }
    }
}
