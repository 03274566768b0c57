//! Carries out what the claims decide.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, PoisonError, RwLock, atomic::Ordering},
    time::Duration,
};

use bytes::Bytes;
use clawstead_bus::{CasError, Change, Entry, Version};
use clawstead_cluster::{
    claim::{Claim, Command, FAILBACK_HOME_MS, FAILBACK_IDLE_MS, Failover, Input, Leases, Record, preference},
    directory::{MEMBERS, MemberRecord},
    format_stamp,
};
use clawstead_state::{Table as StateTable, TxError, keeper::Keeper};
use clawstead_terms::{Fence, Unit};
use clawstead_world::Bell;
use futures_util::StreamExt as _;
use tokio::{sync::mpsc, time::Instant};
use tokio_util::sync::CancellationToken;

use super::{DRAINS, Drain, Failback, Heard, Movable, ORDER_KEPT_MS, ORDERS, Order, Parts, Seen, Standing, TICK, Table, orders, witness::SLOW_AFTER};
use crate::membership::{SHARDS, json};

/// Between two tries of taking a unit's work up.
const TAKE_UP_AGAIN: Duration = Duration::from_secs(1);
/// The row of a unit that says under which fence it was acted for.
const ACTED: &str = "acted";
/// Between two looks at the state store while the coordination store is away.
const PROBE_EVERY: Duration = Duration::from_secs(1);

/// What the driver is told.
pub(super) enum Note {
    /// Something that a task of ours finished.
    Input(Unit, Input),
    /// A record as it was read.
    Read(Unit, Option<Entry>),
    /// A lease as it was read before a claim.
    Lease(String, Option<Bytes>),
    /// The fences as they were read.
    Fences(Vec<(Unit, Option<Fence>)>),
    /// The units of the config.
    Units(Vec<Movable>),
    /// We stop; the answer says whether somebody is there to take what we have.
    Leave(tokio::sync::oneshot::Sender<bool>),
}

/// Where others read what the driver knows.
pub(super) struct Board {
    pub shown: Arc<RwLock<Table>>,
    pub alerts: Arc<RwLock<BTreeMap<Unit, &'static str>>>,
    pub drains: Arc<RwLock<BTreeMap<String, Drain>>>,
    pub changed: Bell,
}

struct One {
    movable: Movable,
    claim: Claim,
    /// What the gateway does for one unit happens one after the other.
    busy: Arc<tokio::sync::Mutex<()>>,
    /// The work was begun under the fence that the claim acts under.
    acting: bool,
}

pub(super) struct Driver {
    parts: Parts,
    notes: mpsc::UnboundedSender<Note>,
    board: Board,
    wanted: Vec<Movable>,
    units: BTreeMap<Unit, One>,
    records: Option<BTreeMap<Unit, (Record, Version)>>,
    leases: Leases,
    /// Leases as they were last heard, and since when each gateway is there.
    heard: BTreeMap<String, (Bytes, MemberRecord)>,
    there_since: BTreeMap<String, u64>,
    members_read: bool,
    orders: BTreeMap<Unit, Order>,
    drains: BTreeMap<String, Drain>,
    looked_at: Instant,
    probed_at: Instant,
    /// Since when the state store does not answer.
    lost_at: Option<Instant>,
    /// Units were given up for that.
    gave_up: bool,
    /// We stop: everything goes to others.
    leaving: bool,
}

impl Driver {
    pub fn new(parts: Parts, wanted: Vec<Movable>, notes: mpsc::UnboundedSender<Note>, board: Board) -> Self {
        let now = Instant::now();
        Self {
            parts,
            notes,
            board,
            wanted,
            units: BTreeMap::new(),
            records: None,
            leases: Leases::default(),
            heard: BTreeMap::new(),
            there_since: BTreeMap::new(),
            members_read: false,
            orders: BTreeMap::new(),
            drains: BTreeMap::new(),
            looked_at: now,
            probed_at: now,
            lost_at: None,
            gave_up: false,
            leaving: false,
        }
    }

    pub async fn work(mut self, mut notes: mpsc::UnboundedReceiver<Note>, stop: CancellationToken) {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut orders = self.parts.coord.watch(ORDERS);
        let mut drains = self.parts.coord.watch(DRAINS);
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                note = notes.recv() => match note {
                    Some(note) => self.note(note),
                    None => return,
                },
                heard = self.parts.heard.recv() => match heard {
                    Some(heard) => self.hear(heard),
                    None => return,
                },
                seen = self.parts.seen.recv() => match seen {
                    Some(seen) => self.see(seen),
                    None => return,
                },
                Some(change) = orders.next() => self.order(change),
                Some(change) = drains.next() => self.drain(change),
                _ = tick.tick() => self.tick(),
            }
        }
    }

    fn mono_ms(&self) -> u64 {
        u64::try_from(self.parts.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn note(&mut self, note: Note) {
        match note {
            Note::Input(unit, input) => self.input(&unit, input),
            Note::Read(unit, entry) => {
                let record = entry.as_ref().and_then(read);
                if let Some(records) = &mut self.records {
                    match &record {
                        // What the watch told meanwhile may be newer.
                        Some((record, version)) if records.get(&unit).is_none_or(|(known, _)| known.epoch <= record.epoch) => {
                            records.insert(unit.clone(), (record.clone(), *version));
                        }
                        Some(_) => {}
                        None => drop(records.remove(&unit)),
                    }
                }
                self.input(&unit, Input::Record(record));
            }
            Note::Lease(gateway, value) => self.lease(&gateway, value),
            Note::Fences(fences) => {
                for (unit, fence) in fences {
                    let acting = self.units.get(&unit).and_then(|one| one.claim.acting());
                    if let (Some(acting), Some(fence)) = (acting, fence)
                        && fence != acting
                    {
                        tracing::warn!(%unit, ours = acting.epoch, theirs = fence.epoch, owner = fence.owner, "another gateway holds this unit now");
                        self.parts.world.metrics.inc(clawstead_world::M::FarmSelfFenced, &[]);
                        self.input(&unit, Input::Fenced);
                    }
                }
            }
            Note::Units(units) => self.wanted = units,
            Note::Leave(reply) => {
                self.leaving = true;
                let live = self.leases.live(self.parts.profile.renew_ms * 3, self.mono_ms());
                let others = live.iter().any(|name| *name != self.parts.me && !self.drains.contains_key(*name));
                let _ = reply.send(others && self.leases.is_up());
            }
        }
    }

    /// One input to one claim, and everything that follows.
    fn input(&mut self, unit: &Unit, input: Input) {
        let mono = self.mono_ms();
        let Some(one) = self.units.get_mut(unit) else { return };
        if input == Input::Stopped {
            one.acting = false;
        }
        let commands = one.claim.step(input, &self.leases, mono);
        for command in commands {
            self.carry_out(unit, command);
        }
        self.show(unit);
    }

    fn show(&self, unit: &Unit) {
        let Some(one) = self.units.get(unit) else { return };
        let now = Standing { record: one.claim.record().cloned(), acting: one.acting && one.claim.acting().is_some() };
        let mut shown = self.board.shown.write().unwrap_or_else(PoisonError::into_inner);
        if shown.get(unit) != Some(&now) {
            shown.insert(unit.clone(), now);
            drop(shown);
            self.board.changed.ring();
        }
    }

    fn carry_out(&mut self, unit: &Unit, command: Command) {
        let (notes, unit) = (self.notes.clone(), unit.clone());
        let busy = self.units.get(&unit).map(|one| Arc::clone(&one.busy)).unwrap_or_default();
        match command {
            Command::Cas { record, expect } => self.swap(unit, record, expect),
            Command::Raise(fence) => {
                let keeper = self.parts.keeper.clone();
                clawstead_world::spawn(async move {
                    let input = match keeper.store.claim(&unit, &fence).await {
                        Ok(()) if acted_before(&keeper, &unit, &fence).await => Input::RaisedAgain,
                        Ok(()) => Input::Raised,
                        Err(TxError::Fenced { held, .. }) => Input::RaiseRefused { epoch: held },
                        Err(err) => {
                            tracing::warn!(%unit, %err, "the fence could not be raised; it is tried again in a second");
                            Input::RaiseFailed
                        }
                    };
                    let _ = notes.send(Note::Input(unit, input));
                });
            }
            Command::Settle(fence) => {
                tracing::info!(%unit, epoch = fence.epoch, "this gateway takes it up");
                let (keeper, host, stop) = (self.parts.keeper.clone(), self.parts.host.clone(), self.parts.world.tasks.stopping());
                keeper.claims.hold(unit.clone(), fence.clone());
                clawstead_world::spawn(async move {
                    let _busy = busy.lock().await;
                    // Given up meanwhile, or held under another fence: whoever did that goes on.
                    while !stop.is_cancelled() && keeper.claims.get(&unit).as_ref() == Some(&fence) {
                        match host.take_up(&unit, &fence).await {
                            Ok(()) => return drop(notes.send(Note::Input(unit, Input::Settled))),
                            Err(failure) => tracing::warn!(%unit, err = %failure, "its work could not be taken up; it is tried again in a second"),
                        }
                        tokio::time::sleep(TAKE_UP_AGAIN).await;
                    }
                });
            }
            Command::Start(fence) => {
                tracing::info!(%unit, epoch = fence.epoch, "this gateway acts for it");
                if let Some(one) = self.units.get_mut(&unit) {
                    one.acting = true;
                }
                let (keeper, acted) = (self.parts.keeper.clone(), unit.clone());
                clawstead_world::spawn(async move {
                    // Only saves the next start of this gateway the wait for a window.
                    if let Err(failure) = keeper.put(&acted, StateTable::Meta, ACTED, &fence).await {
                        tracing::debug!(unit = %acted, err = %failure, "that it is acted for could not be noted");
                    }
                });
                self.board.alerts.write().unwrap_or_else(PoisonError::into_inner).remove(&unit);
            }
            Command::Drain => {
                let host = self.parts.host.clone();
                clawstead_world::spawn(async move {
                    host.drain(&unit).await;
                    let _ = notes.send(Note::Input(unit, Input::Drained));
                });
            }
            Command::Stop => {
                tracing::info!(%unit, "this gateway stops acting for it");
                let (host, keeper) = (self.parts.host.clone(), self.parts.keeper.clone());
                clawstead_world::spawn(async move {
                    let fence = keeper.claims.get(&unit);
                    let _busy = busy.lock().await;
                    host.let_go(&unit).await;
                    if keeper.claims.get(&unit) == fence {
                        keeper.claims.give_up(&unit);
                    }
                    let _ = notes.send(Note::Input(unit, Input::Stopped));
                });
            }
            Command::Alert(text) => {
                tracing::error!(%unit, "{text}");
                self.board.alerts.write().unwrap_or_else(PoisonError::into_inner).insert(unit, text);
            }
        }
    }

    /// Writes an ownership record. Who claims on somebody's silence reads that lease once more first: a watch that hangs
    /// makes living gateways look silent.
    fn swap(&self, unit: Unit, mut record: Record, expect: Option<Version>) {
        record.since = format_stamp(self.parts.world.clock.now());
        record.prefer = self.prefer(&unit, &record);
        let before = self.records.as_ref().and_then(|records| records.get(&unit)).map(|(record, _)| record.owner.clone());
        let silent = before.filter(|owner| *owner != self.parts.me && !owner.is_empty() && record.owner == self.parts.me);
        let known = silent.as_ref().and_then(|owner| self.heard.get(owner)).map(|(bytes, _)| bytes.clone());
        let (coord, notes) = (self.parts.coord.clone(), self.notes.clone());
        clawstead_world::spawn(async move {
            if let Some(owner) = silent {
                match coord.get(&MemberRecord::store_key(&owner)).await {
                    Ok(entry) => {
                        let value = entry.map(|entry| entry.value);
                        if value != known {
                            tracing::info!(%unit, owner, "its owner is alive after all");
                            let _ = notes.send(Note::Lease(owner, value));
                            let _ = notes.send(Note::Input(unit, Input::CasNotDone));
                            return;
                        }
                        tracing::warn!(%unit, owner, "its owner is silent; this gateway claims it");
                    }
                    Err(err) => {
                        tracing::debug!(%unit, %err, "the owner's lease cannot be read; nothing is claimed");
                        return drop(notes.send(Note::Input(unit, Input::CasNotDone)));
                    }
                }
            }
            let key = Record::store_key(&unit);
            match coord.put_if(&key, json(&record), expect).await {
                Ok(version) => drop(notes.send(Note::Input(unit, Input::CasDone(version)))),
                Err(err) => {
                    if !matches!(err, CasError::Conflict { .. }) {
                        tracing::warn!(%unit, %err, "the ownership record could not be written");
                    }
                    let _ = notes.send(Note::Input(unit.clone(), Input::CasNotDone));
                    // What it is now: ours, if only the answer was lost.
                    if let Ok(entry) = coord.get(&key).await {
                        let _ = notes.send(Note::Read(unit, entry));
                    }
                }
            }
        });
    }

    /// Who should have a unit, best first: the config's word, an operator's, what the record says, then everybody else.
    fn prefer(&self, unit: &Unit, record: &Record) -> Vec<String> {
        let Some(one) = self.units.get(unit) else { return record.prefer.clone() };
        let ordered = self.orders.get(unit).map(|order| order.to.clone());
        let first = ordered.into_iter().chain(one.movable.home.iter().cloned());
        let first = if one.movable.home.is_empty() { first.chain(record.prefer.iter().cloned()).collect::<Vec<_>>() } else { first.collect() };
        let mut seen = BTreeSet::new();
        let first: Vec<String> = first.into_iter().filter(|name| seen.insert(name.clone())).collect();
        preference(&one.movable.with, &first, self.heard.keys().map(String::as_str).chain([self.parts.me.as_str()]))
    }

    fn hear(&mut self, heard: Heard) {
        match heard {
            Heard::Beat(true) => self.leases.back(self.mono_ms()),
            Heard::Beat(false) => self.leases.lost(),
            Heard::Members(change) => match change {
                Change::Snapshot(entries) => {
                    let gone: Vec<String> = self.heard.keys().filter(|name| !entries.contains_key(&format!("{MEMBERS}{name}"))).cloned().collect();
                    for name in gone {
                        self.lease(&name, None);
                    }
                    for (key, entry) in entries {
                        if let Some(name) = key.strip_prefix(MEMBERS) {
                            self.lease(name, Some(entry.value));
                        }
                    }
                    self.members_read = true;
                }
                Change::Put(entry) => {
                    if let Some(name) = entry.key.strip_prefix(MEMBERS) {
                        self.lease(name, Some(entry.value.clone()));
                    }
                }
                Change::Delete(key) => {
                    if let Some(name) = key.strip_prefix(MEMBERS) {
                        self.lease(name, None);
                    }
                }
                Change::Lost(_) => self.leases.lost(),
            },
            Heard::Shards(change) => self.shards(change),
        }
    }

    fn lease(&mut self, gateway: &str, value: Option<Bytes>) {
        let mono = self.mono_ms();
        let record = value.as_ref().and_then(|bytes| serde_json::from_slice::<MemberRecord>(bytes).ok());
        self.leases.seen(gateway, record.as_ref(), mono);
        match (value, record) {
            (Some(value), Some(record)) => {
                if self.heard.get(gateway).is_none_or(|(_, known)| known.nonce != record.nonce) {
                    self.there_since.insert(gateway.to_owned(), mono);
                }
                self.heard.insert(gateway.to_owned(), (value, record));
            }
            _ => {
                self.heard.remove(gateway);
                self.there_since.remove(gateway);
            }
        }
    }

    fn shards(&mut self, change: Change) {
        match change {
            Change::Snapshot(entries) => {
                self.records = Some(entries.values().filter_map(|entry| Some((unit_of(&entry.key)?, read(entry)?))).collect());
                let units: Vec<Unit> = self.units.keys().cloned().collect();
                for unit in units {
                    let record = self.records.as_ref().and_then(|records| records.get(&unit)).cloned();
                    self.input(&unit, Input::Record(record));
                }
            }
            Change::Put(entry) => {
                let (Some(unit), Some(record), Some(records)) = (unit_of(&entry.key), read(&entry), self.records.as_mut()) else { return };
                records.insert(unit.clone(), record.clone());
                self.input(&unit, Input::Record(Some(record)));
            }
            Change::Delete(key) => {
                let (Some(unit), Some(records)) = (unit_of(&key), self.records.as_mut()) else { return };
                records.remove(&unit);
                self.input(&unit, Input::Record(None));
            }
            Change::Lost(_) => self.leases.lost(),
        }
    }

    fn see(&mut self, seen: Seen) {
        match seen {
            Seen::Fenced(unit) => {
                if self.units.get(&unit).is_some_and(|one| one.claim.acting().is_some()) {
                    self.parts.world.metrics.inc(clawstead_world::M::FarmSelfFenced, &[]);
                }
                self.input(&unit, Input::Fenced);
            }
            Seen::Lost => {
                let now = Instant::now();
                self.lost_at = Some(now.checked_sub(SLOW_AFTER).unwrap_or(now));
                self.parts.state_lost.store(true, Ordering::Relaxed);
            }
            Seen::Back => {
                self.lost_at = None;
                self.parts.state_lost.store(false, Ordering::Relaxed);
                if std::mem::take(&mut self.gave_up) {
                    self.all(&Input::StateUp);
                }
            }
        }
    }

    fn all(&mut self, input: &Input) {
        let units: Vec<Unit> = self.units.keys().cloned().collect();
        for unit in units {
            self.input(&unit, input.clone());
        }
    }

    fn order(&mut self, change: Change) {
        let parse = |entry: &Entry| Some((Unit::parse(entry.key.strip_prefix(ORDERS)?)?, serde_json::from_slice::<Order>(&entry.value).ok()?));
        match change {
            Change::Snapshot(entries) => self.orders = entries.values().filter_map(parse).collect(),
            Change::Put(entry) => self.orders.extend(parse(&entry)),
            Change::Delete(key) => {
                if let Some(unit) = key.strip_prefix(ORDERS).and_then(Unit::parse) {
                    self.orders.remove(&unit);
                }
            }
            Change::Lost(_) => {}
        }
        self.obey();
    }

    fn drain(&mut self, change: Change) {
        let parse = |entry: &Entry| Some((entry.key.strip_prefix(DRAINS)?.to_owned(), serde_json::from_slice::<Drain>(&entry.value).ok()?));
        match change {
            Change::Snapshot(entries) => self.drains = entries.values().filter_map(parse).collect(),
            Change::Put(entry) => self.drains.extend(parse(&entry)),
            Change::Delete(key) => {
                if let Some(name) = key.strip_prefix(DRAINS) {
                    self.drains.remove(name);
                }
            }
            Change::Lost(_) => {}
        }
        self.drains.clone_into(&mut self.board.drains.write().unwrap_or_else(PoisonError::into_inner));
        self.board.changed.ring();
    }

    /// Carries out orders, as far as they are ours to carry out; forgets those that are done or too old.
    fn obey(&mut self) {
        let now = self.parts.world.clock.now();
        let orders: Vec<(Unit, Order)> = self.orders.iter().map(|(unit, order)| (unit.clone(), order.clone())).collect();
        for (unit, order) in orders {
            let Some(one) = self.units.get(&unit) else { continue };
            let owner = one.claim.record().map(|record| record.owner.clone()).unwrap_or_default();
            let done = owner == order.to && (order.to != self.parts.me || one.acting);
            if done || now.since(order.at) > ORDER_KEPT_MS {
                // The one that it went to says that it is there; an order that is too old anybody forgets.
                if order.to == self.parts.me || !done {
                    let (coord, key) = (self.parts.coord.clone(), orders::order_key(&unit));
                    clawstead_world::spawn(async move {
                        let _ = orders::delete(&*coord, &key).await;
                    });
                }
                self.orders.remove(&unit);
            } else if owner == self.parts.me {
                self.input(&unit, Input::MoveTo(order.to));
            } else if order.to == self.parts.me {
                self.input(&unit, Input::Take);
            }
        }
    }

    fn tick(&mut self) {
        let (now, mono) = (Instant::now(), self.mono_ms());
        let gap = now.saturating_duration_since(self.looked_at);
        self.looked_at = now;
        self.take_in(mono);
        // We were frozen, or nobody tells us of our lease: the state store says whether we still own what we act for.
        let frozen = gap >= Duration::from_millis(self.parts.profile.renew_ms) + TICK;
        self.look_at_state(now, mono);
        let blind = self.lost_at.is_some() || !self.leases.is_up() || self.says_lost(mono).0;
        let blind = blind && now.saturating_duration_since(self.probed_at) >= PROBE_EVERY;
        if frozen {
            tracing::warn!(ms = u64::try_from(gap.as_millis()).unwrap_or(u64::MAX), "this process stood still; what it owns is asked again");
            // What others did meanwhile is not known: nobody's silence counts.
            self.leases.lost();
        }
        if frozen || blind {
            self.probed_at = now;
            self.probe();
        }
        let drained = self.leaving || self.drains.contains_key(&self.parts.me);
        let units: Vec<Unit> = self.units.keys().cloned().collect();
        for unit in units {
            let Some(one) = self.units.get(&unit) else { continue };
            let acting = one.acting && one.claim.acting().is_some();
            if drained && !acting && one.claim.record().is_none_or(|record| record.owner != self.parts.me) {
                // A gateway that is to have nothing claims nothing.
                continue;
            }
            if acting && let Some(to) = self.goes_to(&unit, drained, mono) {
                tracing::info!(%unit, to, "it goes to another gateway");
                self.input(&unit, Input::MoveTo(to));
                continue;
            }
            self.input(&unit, Input::Tick);
        }
        if !self.orders.is_empty() {
            self.obey();
        }
    }

    /// Whether other gateways that live say that they lost the state store, and whether any says that it has it.
    fn says_lost(&self, mono: u64) -> (bool, bool) {
        let live = self.leases.live(self.parts.profile.renew_ms * 3, mono);
        let others = self.heard.iter().filter(|(name, _)| **name != self.parts.me && live.contains(&name.as_str()));
        let (lost, has): (Vec<_>, Vec<_>) = others.partition(|(_, (_, record))| record.state_lost);
        (!lost.is_empty(), !has.is_empty())
    }

    /// A state store that answers others and not us: they go on with what we have. One that answers nobody (its standby is
    /// promoted just now) is waited for, and nothing moves. The others are asked by our lease, and answer by theirs.
    fn look_at_state(&mut self, now: Instant, mono: u64) {
        let Some(since) = self.lost_at.filter(|_| !self.gave_up) else { return };
        let profile = self.parts.profile;
        let told = Duration::from_millis(2 * profile.renew_ms) + 2 * SLOW_AFTER;
        if now.saturating_duration_since(since) < told.max(Duration::from_millis(profile.stop_ms)) {
            return;
        }
        // Who reaches neither store stops as well: others may have claimed everything long ago.
        if !self.leases.is_up() || self.says_lost(mono).1 {
            tracing::warn!("the state store answers other gateways and not this one: what it owns is given up");
            self.gave_up = true;
            self.all(&Input::StateGone);
        }
    }

    /// Units of the config that have no claim yet get one; those that left the config are let go.
    fn take_in(&mut self, mono: u64) {
        let (Some(records), true) = (&self.records, self.members_read) else { return };
        let young = mono < self.parts.profile.wait_ms;
        let mut fresh = Vec::new();
        for movable in &self.wanted {
            let record = records.get(&movable.unit);
            if let Some(one) = self.units.get_mut(&movable.unit) {
                one.movable.clone_from(movable);
                continue;
            }
            // A unit that nobody ever had and that has no home: the others get the time to come up, so that units spread.
            if record.is_none() && movable.home.is_empty() && young {
                continue;
            }
            let gateways = self.leases.live(self.parts.profile.wait_ms, mono).into_iter().chain([self.parts.me.as_str()]);
            let gateways = gateways.filter(|name| !self.drains.contains_key(*name));
            let prefer = preference(&movable.with, &movable.home, gateways);
            let claim = Claim::new(movable.unit.clone(), self.parts.me.clone(), self.parts.incarnation, self.parts.profile, prefer, movable.failover, 0);
            fresh.push((movable.unit.clone(), One { movable: movable.clone(), claim, busy: Arc::default(), acting: false }, record.cloned()));
        }
        for (unit, one, record) in fresh {
            self.units.insert(unit.clone(), one);
            self.input(&unit, Input::Record(record));
        }
        let gone: Vec<Unit> = self.units.keys().filter(|unit| !self.wanted.iter().any(|movable| movable.unit == **unit)).cloned().collect();
        for unit in gone {
            let Some(one) = self.units.remove(&unit) else { continue };
            self.board.shown.write().unwrap_or_else(PoisonError::into_inner).remove(&unit);
            let (host, keeper) = (self.parts.host.clone(), self.parts.keeper.clone());
            clawstead_world::spawn(async move {
                let _busy = one.busy.lock().await;
                host.let_go(&unit).await;
                keeper.claims.give_up(&unit);
            });
        }
    }

    /// The gateway that a unit of ours should go to now.
    fn goes_to(&self, unit: &Unit, drained: bool, mono: u64) -> Option<String> {
        if self.orders.contains_key(unit) || !self.leases.is_up() {
            return None;
        }
        let one = self.units.get(unit)?;
        let record = one.claim.record()?;
        let live = self.leases.live(self.parts.profile.renew_ms * 3, mono);
        let can = |name: &&String| **name != self.parts.me && live.contains(&name.as_str()) && !self.drains.contains_key(*name);
        let prefer = self.prefer(unit, record);
        if record.failover == Failover::None {
            return None;
        }
        if drained {
            return prefer.iter().find(can).cloned();
        }
        if self.parts.failback == Failback::Manual {
            return None;
        }
        let home = prefer.first().filter(can)?;
        let there = mono.saturating_sub(*self.there_since.get(home)?);
        let idle = self.parts.host.idle_ms(unit)?;
        (there >= FAILBACK_HOME_MS && idle >= FAILBACK_IDLE_MS).then(|| home.clone())
    }

    /// Asks the state store who holds what we act for.
    fn probe(&self) {
        let acting: Vec<Unit> = self.units.iter().filter(|(_, one)| one.claim.acting().is_some()).map(|(unit, _)| unit.clone()).collect();
        let asked = if acting.is_empty() { vec![Unit::Global] } else { acting };
        let (keeper, notes) = (self.parts.keeper.clone(), self.notes.clone());
        clawstead_world::spawn(async move {
            let mut fences = Vec::new();
            for unit in asked {
                match keeper.store.fence(&unit).await {
                    Ok(fence) => fences.push((unit, fence)),
                    Err(_) => break,
                }
            }
            let _ = notes.send(Note::Fences(fences));
        });
    }
}

/// Whether the epoch before this one was ours, in an earlier life that acted under it: nobody else can have an effect
/// under way then.
async fn acted_before(keeper: &Keeper, unit: &Unit, fence: &Fence) -> bool {
    let noted = keeper.get::<Fence>(unit, StateTable::Meta, ACTED).await;
    matches!(noted, Ok(Some(noted)) if noted.owner == fence.owner && noted.incarnation < fence.incarnation && noted.epoch + 1 == fence.epoch)
}

fn unit_of(key: &str) -> Option<Unit> {
    Unit::parse(key.strip_prefix(SHARDS)?)
}

fn read(entry: &Entry) -> Option<(Record, Version)> {
    match serde_json::from_slice(&entry.value) {
        Ok(record) => Some((record, entry.version)),
        Err(err) => {
            tracing::error!(key = entry.key, %err, "an ownership record cannot be read; nothing is claimed on it");
            None
        }
    }
}
