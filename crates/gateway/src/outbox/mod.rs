//! Replies on their way to chat platforms. A reply is a row, written in the same batch as the end of its run. The
//! outbox sends the rows of one conversation in order, writes down that a send begins before it begins, and writes
//! down what came of it. After a crash a send that had begun is made again only where the platform knows repeats;
//! otherwise it ends as `unknown` and is never repeated by itself.

mod plan;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, OnceLock, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use tokio::sync::Notify;

use clawstead_agent::{OutboxRow, OutboxState, turn};
use clawstead_channels::{Outbound, Outlet, Sent};
use clawstead_state::{Batch, Scan, Table, TxError};
use clawstead_terms::{AccountId, AgentId, ChannelId, EffectClass, Failure, Outcome, RunId, Unit};
use clawstead_world::{TaskKind, World};

use crate::{
    keeper::{self, Keeper},
    observe,
};
use plan::Next;

/// Rows read at once.
const PAGE_ROWS: usize = 500;
/// Rows removed at once.
const PRUNED_MAX: usize = 500;
/// Conversations that are sent to at once.
const SENDS_MAX: usize = 16;

/// Who can send: `channel/account` → outlet. Filled by the channel runner.
#[derive(Default)]
pub struct Outlets(Mutex<BTreeMap<(ChannelId, AccountId), Arc<dyn Outlet>>>);

impl Outlets {
    /// The account can send from now on.
    pub fn add(&self, channel: ChannelId, account: AccountId, outlet: Arc<dyn Outlet>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert((channel, account), outlet);
    }

    /// The account is gone.
    pub fn remove(&self, channel: &ChannelId, account: &AccountId) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&(channel.clone(), account.clone()));
    }

    /// The outlet of an account.
    #[must_use]
    pub fn get(&self, channel: &ChannelId, account: &AccountId) -> Option<Arc<dyn Outlet>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(&(channel.clone(), account.clone())).cloned()
    }

    /// Channels that can send, without repeats.
    #[must_use]
    pub fn channels(&self) -> Vec<ChannelId> {
        let mut all: Vec<ChannelId> = self.0.lock().unwrap_or_else(PoisonError::into_inner).keys().map(|(channel, _)| channel.clone()).collect();
        all.dedup();
        all
    }
}

/// Between two tries to give a reply to the gateway that has its account.
const CARRY_AGAIN: Duration = Duration::from_millis(500);

/// Gives replies to the gateways that have their accounts.
#[async_trait]
pub trait Carrier: Send + Sync {
    /// None when the account is nobody else's: it is ours, or of no gateway now. Otherwise whether the other gateway has
    /// the reply; it may be given again.
    async fn carry(&self, row: &OutboxRow) -> Option<Result<(), Failure>>;
}

/// The outbox of one gateway.
#[derive(Clone)]
pub struct Outbox(Arc<Inner>);

struct Inner {
    keeper: Keeper,
    world: World,
    outlets: Arc<Outlets>,
    dirty: Mutex<BTreeSet<Unit>>,
    /// Who has the accounts that are not here.
    carrier: OnceLock<Arc<dyn Carrier>>,
    wake: Notify,
    /// Rows that somebody waits for (`send`), by key.
    ended: Notify,
}

impl Outbox {
    /// Makes it and starts its task. `agents` are looked through at once: rows may be left from before.
    #[must_use]
    pub fn start(keeper: Keeper, world: World, outlets: Arc<Outlets>, agents: impl IntoIterator<Item = AgentId>) -> Self {
        let outbox = Self(Arc::new(Inner {
            keeper,
            world: world.clone(),
            outlets,
            dirty: Mutex::new(agents.into_iter().map(Unit::Agent).collect()),
            carrier: OnceLock::new(),
            wake: Notify::new(),
            ended: Notify::new(),
        }));
        let running = outbox.clone();
        world.tasks.spawn(TaskKind::vital("outbox"), async move { running.run().await });
        outbox
    }

    /// The agent has new rows.
    pub fn grew(&self, agent: &AgentId) {
        self.look_at(Unit::Agent(agent.clone()));
    }

    /// A unit may have rows that wait.
    pub fn look_at(&self, unit: Unit) {
        self.0.dirty.lock().unwrap_or_else(PoisonError::into_inner).insert(unit);
        self.0.wake.notify_one();
    }

    /// Replies for accounts that other gateways have go there by this carrier.
    pub fn carry(&self, carrier: Arc<dyn Carrier>) {
        let _ = self.0.carrier.set(carrier);
    }

    /// Takes a reply in that another gateway's agent gave for an account of ours. It may come again: it is sent once.
    ///
    /// # Errors
    /// When the account is not ours, or it cannot be stored.
    pub async fn take_in(&self, row: OutboxRow) -> Result<(), Failure> {
        let unit = Unit::Account(row.target.channel.clone(), row.target.account.clone());
        let row = OutboxRow { state: OutboxState::Queued, attempts: 0, next_attempt_at: None, ..row };
        let batch = Batch::new(unit.clone()).expect(Table::Outbox, row.ended_key(), None);
        let batch = batch.insert_json(Table::Outbox, row.key(), &row).map_err(keeper::sort)?;
        match self.0.keeper.commit(batch).await {
            Ok(()) | Err(TxError::Exists { .. } | TxError::Changed { .. }) => {}
            Err(err) => return Err(keeper::sort(err)),
        }
        self.look_at(unit);
        Ok(())
    }

    /// Puts a message into the outbox, once per `row.id`; waits at most `limit` for its end.
    ///
    /// # Errors
    /// When it cannot be stored.
    pub async fn send(&self, row: OutboxRow, limit: Duration) -> Result<OutboxRow, Failure> {
        let agent = row.session.agent();
        let unit = Unit::Agent(agent.clone());
        let key = row.key();
        // Neither waiting nor ended: the same message is not taken twice.
        let batch = Batch::new(unit.clone()).expect(Table::Outbox, row.ended_key(), None);
        let batch = batch.insert_json(Table::Outbox, key, &row).map_err(keeper::sort)?;
        match self.0.keeper.commit(batch).await {
            Ok(()) | Err(TxError::Exists { .. } | TxError::Changed { .. }) => {}
            Err(err) => return Err(keeper::sort(err)),
        }
        self.grew(&agent);
        let wait = async {
            loop {
                let ended = self.0.ended.notified();
                tokio::pin!(ended);
                ended.as_mut().enable();
                if let Some(now) = self.find(&unit, &row.id).await?
                    && now.is_over()
                {
                    return Ok(now);
                }
                ended.await;
            }
        };
        match tokio::time::timeout(limit, wait).await {
            Ok(done) => done,
            Err(_) => Ok(self.find(&unit, &row.id).await?.unwrap_or(row)),
        }
    }

    /// Waits at most `limit` for the end of a run's reply; answers how it stands then, or none when it has none.
    pub async fn ended(&self, agent: &AgentId, run: &RunId, limit: Duration) -> Option<OutboxRow> {
        let unit = Unit::Agent(agent.clone());
        let id = turn::reply_id(run);
        let look = async || self.find(&unit, &id).await.ok().flatten();
        let wait = async {
            loop {
                let ended = self.0.ended.notified();
                tokio::pin!(ended);
                ended.as_mut().enable();
                match look().await {
                    Some(row) if !row.is_over() => ended.await,
                    other => return other,
                }
            }
        };
        match tokio::time::timeout(limit, wait).await {
            Ok(row) => row,
            Err(_) => look().await,
        }
    }

    /// A reply by its id, waiting or ended.
    async fn find(&self, unit: &Unit, id: &str) -> Result<Option<OutboxRow>, Failure> {
        // In this order: what ends between the two reads is found by the second.
        for prefix in [OutboxRow::PREFIX, OutboxRow::ENDED_PREFIX] {
            if let Some(row) = self.0.keeper.get::<OutboxRow>(unit, Table::Outbox, &format!("{prefix}{id}")).await? {
                return Ok(Some(row));
            }
        }
        Ok(None)
    }

    async fn run(&self) -> Result<(), Failure> {
        let stop = self.0.world.tasks.stopping();
        let mut pause: Option<Duration> = Some(Duration::ZERO);
        loop {
            let nap = async {
                match pause {
                    Some(time) => tokio::time::sleep(time).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                () = stop.cancelled() => return Ok(()),
                () = self.0.wake.notified() => {}
                () = nap => {}
            }
            pause = match self.round().await {
                Ok(pause) => pause,
                Err(failure) => {
                    tracing::warn!(err = %failure, "the outbox cannot read or write its rows, it tries again");
                    Some(Duration::from_secs(2))
                }
            };
        }
    }

    /// Sends what can be sent now. Answers how long until something is due, if anything waits.
    async fn round(&self) -> Result<Option<Duration>, Failure> {
        let agents = std::mem::take(&mut *self.0.dirty.lock().unwrap_or_else(PoisonError::into_inner));
        let done = self.round_of(agents.clone()).await;
        if done.is_err() {
            // None of them is forgotten; and no wake: the caller pauses before it looks again.
            self.0.dirty.lock().unwrap_or_else(PoisonError::into_inner).extend(agents);
        }
        done
    }

    async fn round_of(&self, units: BTreeSet<Unit>) -> Result<Option<Duration>, Failure> {
        let mut soonest: Option<Duration> = None;
        for unit in units {
            if self.0.keeper.claims.get(&unit).is_none() {
                // Another gateway has it now, and its replies.
                continue;
            }
            let (over, open): (Vec<_>, Vec<_>) = self.rows(&unit, OutboxRow::PREFIX, |_| true).await?.into_iter().partition(OutboxRow::is_over);
            self.put_away(&unit, &over).await?;
            let lanes = plan::by_conversation(open.into_iter());
            let mut again = None;
            for batch in lanes.chunks(SENDS_MAX) {
                let results = futures_util::future::join_all(batch.iter().map(|rows| self.conversation(&unit, rows))).await;
                for result in results {
                    again = plan::sooner(again, result?);
                }
            }
            if let Some(wait) = again {
                self.0.dirty.lock().unwrap_or_else(PoisonError::into_inner).insert(unit);
                soonest = plan::sooner(soonest, Some(wait));
            }
        }
        Ok(soonest)
    }

    /// Ended rows of an older version stand among those that wait.
    async fn put_away(&self, unit: &Unit, over: &[OutboxRow]) -> Result<(), Failure> {
        for some in over.chunks(PAGE_ROWS) {
            let mut batch = Batch::new(unit.clone());
            for row in some {
                batch = batch.delete(Table::Outbox, row.key()).put_json(Table::Outbox, row.ended_key(), row).map_err(keeper::sort)?;
            }
            self.0.keeper.commit(batch).await.map_err(keeper::sort)?;
        }
        Ok(())
    }

    /// The rows of an agent with keys of this kind that `wanted` takes, page by page, in key order.
    async fn rows(&self, unit: &Unit, prefix: &str, wanted: impl Fn(&OutboxRow) -> bool) -> Result<Vec<OutboxRow>, Failure> {
        let mut found = Vec::new();
        let mut scan = Scan::prefix(prefix).limit(PAGE_ROWS);
        loop {
            let page = self.0.keeper.scan::<OutboxRow>(unit, Table::Outbox, &scan).await?;
            let last = (page.len() == PAGE_ROWS).then(|| page.last().map(|row| row.key.clone())).flatten();
            found.extend(page.into_iter().map(|row| row.value).filter(&wanted));
            match last {
                Some(key) => scan = scan.after(key),
                None => return Ok(found),
            }
        }
    }

    /// Sends the rows of one conversation in order, until one has to wait.
    async fn conversation(&self, unit: &Unit, rows: &[OutboxRow]) -> Result<Option<Duration>, Failure> {
        for row in rows {
            let now = self.0.world.clock.now();
            let outlet = self.0.outlets.get(&row.target.channel, &row.target.account);
            let class = outlet.as_ref().map_or(EffectClass::Once, |o| o.class());
            if outlet.is_none()
                && row.state == OutboxState::Queued
                && matches!(unit, Unit::Agent(_))
                && let Some(carrier) = self.0.carrier.get()
                && let Some(carried) = carrier.carry(row).await
            {
                match carried {
                    // Whoever has the account sends it now, once.
                    Ok(()) => self.settle(unit, row.clone(), Sent { outcome: Outcome::Done, message_id: None }).await?,
                    Err(failure) => {
                        tracing::debug!(channel = %row.target.channel, account = %row.target.account, err = %failure, "a reply waits for the gateway that has its account");
                        return Ok(Some(CARRY_AGAIN));
                    }
                }
                continue;
            }
            match plan::next(row, class, outlet.is_some(), now) {
                Next::Nothing => {}
                Next::Wait(ms) => return Ok(Some(Duration::from_millis(ms))),
                Next::Settle(outcome) => self.settle(unit, row.clone(), Sent { outcome, message_id: None }).await?,
                Next::Send => {
                    let Some(outlet) = outlet else { continue };
                    if let Some(wait) = self.send_one(unit, row.clone(), outlet.as_ref()).await? {
                        return Ok(Some(wait));
                    }
                }
            }
        }
        Ok(None)
    }

    async fn send_one(&self, unit: &Unit, mut row: OutboxRow, outlet: &dyn Outlet) -> Result<Option<Duration>, Failure> {
        if row.state == OutboxState::Sending {
            // Begun before a crash: that try may have arrived.
            row.outcome = Some(Outcome::Unknown);
        }
        row.state = OutboxState::Sending;
        row.attempts += 1;
        row.updated_at = self.0.world.clock.now();
        let proved = tokio::time::Instant::now();
        self.0.keeper.put(unit, Table::Outbox, &row.key(), &row).await?;
        self.0.keeper.may_act(unit, proved).await.map_err(keeper::sort)?;
        let mut span = observe::delivery(&self.0.world, &row);
        let sent = outlet.send(&Outbound { effect_id: row.id.clone(), target: row.target.clone(), body: row.body.clone() }).await;
        observe::delivered(&mut span, &sent.outcome);
        drop(span);
        match plan::after(&row, &sent.outcome, outlet.class(), self.0.world.rng.as_ref()) {
            Some(delay_ms) => {
                tracing::warn!(channel = %row.target.channel, account = %row.target.account, run = %row.run_id, attempt = row.attempts, retry_ms = delay_ms, "a reply could not be sent, it is tried again");
                row.state = OutboxState::Queued;
                if sent.outcome == Outcome::Unknown {
                    row.outcome = Some(Outcome::Unknown);
                }
                row.next_attempt_at = Some(self.0.world.clock.now().plus(i64::try_from(delay_ms).unwrap_or(i64::MAX)));
                self.0.keeper.put(unit, Table::Outbox, &row.key(), &row).await?;
                Ok(Some(Duration::from_millis(delay_ms)))
            }
            None => {
                self.settle(unit, row, sent).await?;
                Ok(None)
            }
        }
    }

    async fn settle(&self, unit: &Unit, mut row: OutboxRow, mut sent: Sent) -> Result<(), Failure> {
        if row.outcome == Some(Outcome::Unknown) && matches!(sent.outcome, Outcome::Failed(_) | Outcome::Expired) {
            // The last try did not arrive; an earlier one may have.
            sent.outcome = Outcome::Unknown;
        }
        row.state = match &sent.outcome {
            Outcome::Done => OutboxState::Done,
            Outcome::Failed(_) | Outcome::Expired => OutboxState::Failed,
            Outcome::Unknown => OutboxState::Unknown,
        };
        if row.state != OutboxState::Done {
            tracing::error!(channel = %row.target.channel, account = %row.target.account, run = %row.run_id, outcome = ?sent.outcome, "a reply did not arrive for certain; see `openclaw doctor`");
        }
        observe::settled(&self.0.world, &row, &sent.outcome);
        row.receipt = sent.message_id;
        row.outcome = Some(sent.outcome);
        row.updated_at = self.0.world.clock.now();
        self.put_away(unit, std::slice::from_ref(&row)).await?;
        self.0.ended.notify_waiters();
        Ok(())
    }

    /// Removes rows that ended: sent ones after an hour, failed and unknown ones after 14 days. At most 500 a call.
    ///
    /// # Errors
    /// When the store cannot be read or written.
    pub async fn prune(&self, unit: &Unit) -> Result<usize, Failure> {
        let now = self.0.world.clock.now();
        let mut stale = self.rows(unit, OutboxRow::ENDED_PREFIX, |row| plan::is_stale(row, now)).await?;
        stale.truncate(PRUNED_MAX);
        let mut batch = Batch::new(unit.clone());
        for row in stale {
            batch = batch.delete(Table::Outbox, row.ended_key());
        }
        let gone = batch.ops.len();
        if gone > 0 {
            self.0.keeper.commit(batch).await.map_err(keeper::sort)?;
        }
        Ok(gone)
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::{
            Arc,
            atomic::{AtomicUsize, Ordering},
        },
        time::Duration,
    };

    use async_trait::async_trait;
    use clawstead_agent::{OutboxRow, OutboxState};
    use clawstead_channels::{Outbound, Outlet, Sent};
    use clawstead_state::{Batch, MemoryStore, Scan, Store, Table};
    use clawstead_terms::{AgentId, DeliveryTarget, Millis, Outcome, SessionKey, Unit};
    use clawstead_world::World;

    use super::{Outbox, Outlets};
    use crate::keeper::Keeper;

    struct Shows(Arc<AtomicUsize>);

    #[async_trait]
    impl Outlet for Shows {
        async fn send(&self, message: &Outbound) -> Sent {
            self.0.fetch_add(1, Ordering::SeqCst);
            Sent { outcome: Outcome::Done, message_id: Some(message.effect_id.clone()) }
        }
    }

    fn row(id: &str, state: OutboxState) -> OutboxRow {
        OutboxRow {
            id: id.into(),
            run_id: id.into(),
            session: SessionKey::main(&AgentId::normalise("a")),
            target: DeliveryTarget { channel: "c".into(), account: "default".into(), to: "u".into(), thread_id: None, reply_to: None },
            body: vec![],
            state,
            attempts: 0,
            next_attempt_at: None,
            created_at: Millis(0),
            updated_at: Millis(0),
            receipt: None,
            outcome: None,
            traceparent: None,
        }
    }

    /// Found by 200 kills under load: only the first 1,000 rows were looked at, sent ones included.
    #[tokio::test(start_paused = true)]
    async fn what_waits_is_found_behind_any_number_of_sent_rows() {
        let (world, agent) = (World::simulated(1), AgentId::normalise("a"));
        let unit = Unit::Agent(agent.clone());
        let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
        let keeper = Keeper { store: Arc::clone(&store), claims: Arc::default() };
        keeper.claim(std::slice::from_ref(&unit), "test", 1).await.unwrap();
        let mut batch = Batch::new(unit.clone());
        for number in 0..1_100 {
            let sent = row(&format!("{number:05}"), OutboxState::Done);
            batch = batch.insert_json(Table::Outbox, sent.key(), &sent).unwrap();
        }
        keeper.commit(batch).await.unwrap();
        let outlets = Arc::new(Outlets::default());
        let shows = Arc::new(AtomicUsize::new(0));
        outlets.add("c".into(), "default".into(), Arc::new(Shows(Arc::clone(&shows))));
        let outbox = Outbox::start(keeper, world, outlets, [agent.clone()]);
        let id = clawstead_agent::turn::reply_id(&"zzz".into());
        let waiting = OutboxRow { run_id: "zzz".into(), ..row(&id, OutboxState::Queued) };
        let sent = outbox.send(waiting.clone(), Duration::from_secs(10)).await.unwrap();
        assert_eq!((sent.state, sent.receipt.as_deref()), (OutboxState::Done, Some(id.as_str())));
        let seen = outbox.ended(&agent, &"zzz".into(), Duration::from_secs(1)).await;
        assert_eq!(seen.map(|row| row.state), Some(OutboxState::Done));

        // Those of an older version were put away once; a round finds nothing to read any more.
        let all = |prefix: &str| Scan::prefix(prefix);
        assert!(store.scan(&unit, Table::Outbox, &all(OutboxRow::PREFIX)).await.unwrap().is_empty());
        assert_eq!(store.scan(&unit, Table::Outbox, &all(OutboxRow::ENDED_PREFIX)).await.unwrap().len(), 1_101);
        // The same message again is not sent again.
        let again = outbox.send(waiting, Duration::from_secs(10)).await.unwrap();
        assert_eq!((again.state, shows.load(Ordering::SeqCst)), (OutboxState::Done, 1));
        // What ended is pruned from there.
        tokio::time::sleep(Duration::from_secs(7_200)).await;
        while outbox.prune(&unit).await.unwrap() > 0 {}
        assert!(store.scan(&unit, Table::Outbox, &all("")).await.unwrap().is_empty());
    }
}
