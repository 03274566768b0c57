//! Who owns what, at work: drives a [`Claim`] for each unit that may move between gateways, over the coordination store
//! (records, leases, orders) and the state store (fences), and tells the gateway what to take up and what to let go.
//!
//! Units move only where the state is shared (`farm.state.kind: "postgres"`) and the coordination store is (`consul`,
//! `postgres`). With a state folder of its own a gateway keeps its units for ever; nothing here runs then.

mod driver;
mod orders;
mod witness;

use std::{
    collections::BTreeMap,
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use async_trait::async_trait;
use clawstead_bus::{Change, Coord};
use clawstead_cluster::claim::{Failover, Profile, Record};
use clawstead_state::keeper::Keeper;
use clawstead_terms::{Failure, Fence, Unit};
use clawstead_world::{Bell, Ear, TaskKind, World};
use tokio::sync::mpsc;

use crate::membership::json;
pub use orders::{DRAINS, Drain, ORDERS, Order};
pub use witness::{Seen, Witness};

/// Claims look at the time this often.
pub const TICK: Duration = Duration::from_millis(100);
/// How long an operator's move is waited for: the drain, and what follows.
pub const MOVE_WAIT: Duration = Duration::from_secs(45);
/// An order that nobody could carry out is forgotten after this.
pub const ORDER_KEPT_MS: i64 = 10 * 60_000;

/// What the gateway does for its units. Calls about one unit come one after the other.
#[async_trait]
pub trait Host: Send + Sync {
    /// The unit is ours under this fence and nobody else acts for it: read its rows, settle what was interrupted, take
    /// up its work. It is called again when it fails.
    ///
    /// # Errors
    /// When the store cannot be read or written.
    async fn take_up(&self, unit: &Unit, fence: &Fence) -> Result<(), Failure>;
    /// Begin no new turn and let the running ones end.
    async fn drain(&self, unit: &Unit);
    /// Stop everything of the unit; answers when no effect is under way or can begin.
    async fn let_go(&self, unit: &Unit);
    /// Since when nothing happens in the unit, ms; none while something does.
    fn idle_ms(&self, unit: &Unit) -> Option<u64>;
}

/// A unit that this gateway may own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Movable {
    /// The unit.
    pub unit: Unit,
    /// Whose place it shares: an account's agent, or the unit itself.
    pub with: Unit,
    /// Gateways that should run it, best first; may be empty.
    pub home: Vec<String>,
    /// What happens when its owner is silent.
    pub failover: Failover,
}

/// When a unit goes back to the gateway that should run it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Failback {
    /// When its home was healthy for ten minutes and it had nothing to do for one.
    #[default]
    Idle,
    /// When an operator says so.
    Manual,
}

/// What membership tells the driver.
#[derive(Debug)]
pub enum Heard {
    /// Ownership records.
    Shards(Change),
    /// Leases.
    Members(Change),
    /// Whether our own lease was renewed.
    Beat(bool),
}

/// What ownership is made of.
pub struct Parts {
    /// Our name.
    pub me: String,
    /// Grows with each start.
    pub incarnation: u64,
    /// Where records and orders lie.
    pub coord: Arc<dyn Coord>,
    /// The store, and what we hold.
    pub keeper: Keeper,
    /// Clock and tasks.
    pub world: World,
    /// How leases are timed.
    pub profile: Profile,
    /// When units go home.
    pub failback: Failback,
    /// Boot time begins here.
    pub began: tokio::time::Instant,
    /// Told to the others: the state store does not answer us.
    pub state_lost: Arc<std::sync::atomic::AtomicBool>,
    /// The gateway.
    pub host: Arc<dyn Host>,
    /// What membership hears.
    pub heard: mpsc::UnboundedReceiver<Heard>,
    /// What the state store says to our writes.
    pub seen: mpsc::UnboundedReceiver<Seen>,
}

/// A unit as the driver sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// The record as last read.
    pub record: Option<Record>,
    /// True while we act for it.
    pub acting: bool,
}

type Table = BTreeMap<Unit, Standing>;

/// Ownership of one gateway. Clones are the same one.
#[derive(Clone)]
pub struct Ownership(Arc<Inner>);

struct Inner {
    me: String,
    coord: Arc<dyn Coord>,
    keeper: Keeper,
    world: World,
    notes: mpsc::UnboundedSender<driver::Note>,
    shown: Arc<RwLock<Table>>,
    changed: Bell,
    alerts: Arc<RwLock<BTreeMap<Unit, &'static str>>>,
    drains: Arc<RwLock<BTreeMap<String, Drain>>>,
}

impl Ownership {
    /// Starts to claim. Nothing is owned yet when it answers.
    #[must_use]
    pub fn start(parts: Parts, units: Vec<Movable>) -> Self {
        let (notes, inbox) = mpsc::unbounded_channel();
        let changed = Bell::default();
        let nobody = Standing { record: None, acting: false };
        let shown = Arc::new(RwLock::new(units.iter().map(|movable| (movable.unit.clone(), nobody.clone())).collect()));
        let (alerts, drains) = (Arc::default(), Arc::default());
        let inner = Inner {
            me: parts.me.clone(),
            coord: parts.coord.clone(),
            keeper: parts.keeper.clone(),
            world: parts.world.clone(),
            notes: notes.clone(),
            shown: Arc::clone(&shown),
            changed: changed.clone(),
            alerts: Arc::clone(&alerts),
            drains: Arc::clone(&drains),
        };
        let (world, stop) = (parts.world.clone(), parts.world.tasks.stopping());
        let board = driver::Board { shown, alerts, drains, changed };
        let driver = driver::Driver::new(parts, units, notes, board);
        world.tasks.spawn::<_, Failure>(TaskKind::vital("ownership"), async move {
            driver.work(inbox, stop).await;
            Ok(())
        });
        Self(Arc::new(inner))
    }

    /// The units of a config that was edited.
    pub fn set_units(&self, units: Vec<Movable>) {
        let _ = self.0.notes.send(driver::Note::Units(units));
    }

    /// All units that may move, as this gateway sees them.
    #[must_use]
    pub fn standing(&self) -> BTreeMap<Unit, Standing> {
        self.0.shown.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether we act for a unit now.
    #[must_use]
    pub fn is_ours(&self, unit: &Unit) -> bool {
        self.0.shown.read().unwrap_or_else(PoisonError::into_inner).get(unit).is_some_and(|standing| standing.acting)
    }

    /// Whether a unit is in our hands: we act for it, or are taking it up or letting it go.
    #[must_use]
    pub fn is_taken_up(&self, unit: &Unit) -> bool {
        self.0.keeper.claims.get(unit).is_some()
    }

    /// Whether this unit is one of those that move.
    #[must_use]
    pub fn moves(&self, unit: &Unit) -> bool {
        self.0.shown.read().unwrap_or_else(PoisonError::into_inner).contains_key(unit)
    }

    /// Grows with every change of [`Ownership::standing`].
    #[must_use]
    pub fn changes(&self) -> Ear {
        self.0.changed.listen()
    }

    /// Gateways that are to have nothing.
    #[must_use]
    pub fn drains(&self) -> BTreeMap<String, Drain> {
        self.0.drains.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What an operator must look at, by unit.
    #[must_use]
    pub fn alerts(&self) -> BTreeMap<Unit, &'static str> {
        self.0.alerts.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Gives a unit to a gateway in order: running turns end first. Answers when that gateway has it by the record.
    ///
    /// # Errors
    /// `NotFound` for a unit that does not move, `Unavailable` when it did not happen within [`MOVE_WAIT`]; the order is
    /// taken back then.
    pub async fn move_to(&self, unit: &Unit, to: &str) -> Result<(), Failure> {
        if !self.moves(unit) {
            return Err(Failure::not_found(format!("{unit} does not move: it is not in the config, or its state is not shared")));
        }
        let key = orders::order_key(unit);
        let order = Order { to: to.to_owned(), at: self.0.world.clock.now(), by: self.0.me.clone() };
        self.0.coord.put(&key, json(&order)).await.map_err(|err| Failure::unavailable(err.to_string(), 1_000))?;
        let there = |table: &Table| table.get(unit).and_then(|standing| standing.record.as_ref()).is_some_and(|record| record.owner == to);
        let mut changed = self.0.changed.listen();
        let arrived = async {
            loop {
                if there(&self.0.shown.read().unwrap_or_else(PoisonError::into_inner)) {
                    return true;
                }
                if changed.changed().await.is_err() {
                    return false;
                }
            }
        };
        if tokio::time::timeout(MOVE_WAIT, arrived).await == Ok(true) {
            return Ok(());
        }
        let _ = orders::delete(&*self.0.coord, &key).await;
        let owner = self.standing().get(unit).and_then(|standing| standing.record.clone()).map_or_else(|| "nobody".to_owned(), |record| record.owner);
        Err(Failure::unavailable(format!("{unit} did not come to {to} within {} s; {owner} has it", MOVE_WAIT.as_secs()), 5_000))
    }

    /// Writes a new ownership record that nobody owns, above every epoch that is known of the unit, so that it is claimed
    /// anew: for a coordination store that lost or went back on records. Answers with the epoch.
    ///
    /// # Errors
    /// `NotFound` for a unit that does not move; what the two stores say.
    pub async fn repair(&self, unit: &Unit) -> Result<u64, Failure> {
        let standing = self.standing().remove(unit).ok_or_else(|| Failure::not_found(format!("{unit} does not move")))?;
        let fence = self.0.keeper.store.fence(unit).await.map_err(clawstead_state::keeper::sort)?;
        let key = Record::store_key(unit);
        let away = |err: String| Failure::unavailable(err, 1_000);
        let stored = self.0.coord.get(&key).await.map_err(|err| away(err.to_string()))?;
        let record: Option<Record> = stored.as_ref().and_then(|entry| serde_json::from_slice(&entry.value).ok());
        let seen = [record.as_ref(), standing.record.as_ref()].into_iter().flatten().map(|record| record.epoch);
        let epoch = seen.chain(fence.map(|fence| fence.epoch)).max().unwrap_or(0) + 1;
        let before = record.or(standing.record);
        let next = Record {
            epoch,
            owner: String::new(),
            incarnation: 0,
            prefer: before.as_ref().map(|record| record.prefer.clone()).unwrap_or_default(),
            failover: before.map_or(Failover::Auto, |record| record.failover),
            since: clawstead_cluster::format_stamp(self.0.world.clock.now()),
            handed: false,
        };
        self.0.coord.put_if(&key, json(&next), stored.map(|entry| entry.version)).await.map_err(|err| away(err.to_string()))?;
        Ok(epoch)
    }

    /// Waits until a gateway owns nothing that could move elsewhere, [`MOVE_WAIT`] at most. Answers with what it still has.
    pub async fn wait_empty(&self, gateway: &str) -> Vec<String> {
        let left = || -> Vec<String> {
            let has = |standing: &Standing| standing.record.as_ref().is_some_and(|record| record.owner == gateway && record.failover != Failover::None);
            self.standing().iter().filter(|(_, standing)| has(standing)).map(|(unit, _)| unit.to_string()).collect()
        };
        let mut changed = self.0.changed.listen();
        let empty = async {
            while !left().is_empty() {
                if changed.changed().await.is_err() {
                    return;
                }
            }
        };
        let _ = tokio::time::timeout(MOVE_WAIT, empty).await;
        left()
    }

    /// Gives everything to the others in order, where there are any; answers when the records say so, or `limit` is
    /// over. Nothing is claimed from now on.
    pub async fn leave(&self, limit: Duration) {
        let (reply, answer) = tokio::sync::oneshot::channel();
        if self.0.notes.send(driver::Note::Leave(reply)).is_err() || answer.await != Ok(true) {
            return;
        }
        let mut changed = self.0.changed.listen();
        let empty = async {
            // Not acting is not enough: who ends before the record is written leaves the others to wait for silence.
            let ours = |standing: &Standing| {
                standing.acting || standing.record.as_ref().is_some_and(|record| record.owner == self.0.me && record.failover != Failover::None)
            };
            while self.standing().values().any(ours) {
                if changed.changed().await.is_err() {
                    return;
                }
            }
        };
        if tokio::time::timeout(limit, empty).await.is_err() {
            tracing::warn!("some units could not be given to other gateways in time; they are claimed there when this one is silent");
        }
    }

    /// From now on a gateway is to have nothing, or may have units again. Its units go to others in order.
    ///
    /// # Errors
    /// When the coordination store does not answer.
    pub async fn set_drain(&self, gateway: &str, drain: Option<Drain>) -> Result<(), Failure> {
        let key = format!("{DRAINS}{gateway}");
        let done = match drain {
            Some(drain) => self.0.coord.put(&key, json(&drain)).await.map(drop),
            None => orders::delete(&*self.0.coord, &key).await,
        };
        done.map_err(|err| Failure::unavailable(err.to_string(), 1_000))
    }
}
