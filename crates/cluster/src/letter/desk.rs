use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    ops::Bound,
};

use thiserror::Error;

use super::{Action, Breaker, Cx, Event, Input, OUTBOX_MAX, Outgoing, Owner, Pace, RetryBudget, Timing};
use crate::{
    Now,
    envelope::{Envelope, MailState, Priority, Receipt},
};

/// Letters to one gateway that nothing was heard of, at most.
pub const IN_FLIGHT_PER_TARGET_MAX: usize = 128;
/// Letters of this gateway that nothing was heard of, at most.
pub const IN_FLIGHT_MAX: usize = 512;
/// How long a letter waits before it is looked at again when its target has no owner, ms.
const OWNER_WAIT_MS: u64 = 1_000;

/// What the desk must know of a letter besides its row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Posting {
    /// Source, target, session.
    pub lane: (String, String, String),
    /// Its place among all letters of this gateway.
    pub ord: u64,
    /// How urgent.
    pub priority: Priority,
    /// How much longer an answer is waited for, ms: a large body is fetched before it comes.
    pub slow_ms: u64,
}

/// Bytes of a large body that are fetched in a millisecond, at least.
const BODY_BYTES_PER_MS: u64 = 1_000;

impl Posting {
    /// What a letter's envelope says.
    #[must_use]
    pub fn of(letter: &Envelope, ord: u64) -> Self {
        let slow_ms = letter.body_ref.as_ref().map_or(0, |body| body.size / BODY_BYTES_PER_MS);
        Self { lane: letter.lane(), ord, priority: letter.priority(), slow_ms }
    }
}

/// What is known of who holds what.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sight {
    /// The coordination store answers.
    #[default]
    Clear,
    /// It does not: who was alive may be dead.
    Lost,
}

/// A row that changed: to be stored with its events, then the other actions are carried out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The row as it is now.
    pub row: Outgoing,
    /// The gateway the letter goes to, for [`Action::Publish`] and [`Action::Ask`].
    pub gateway: Option<String>,
    /// What is to be done.
    pub actions: Vec<Action>,
}

/// The outbox of an agent is full.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{agent} has {OUTBOX_MAX} letters waiting to be sent; wait until some are delivered")]
pub struct DeskFull {
    /// The writer.
    pub agent: String,
}

/// Urgency, place, letter.
type HeadKey = (u8, u64, String);

#[derive(Clone, Debug)]
struct Item {
    row: Outgoing,
    posting: Posting,
    /// Where the attempt under way went.
    gateway: Option<String>,
    due_ms: Option<u64>,
}

/// Decides which letter of a gateway is sent when. It holds every row that has not ended; what it changes is to be stored
/// before anything else is done. When that fails, the desk is to be built anew from the stored rows.
#[derive(Debug)]
pub struct Desk {
    timing: Timing,
    items: BTreeMap<String, Item>,
    lanes: BTreeMap<(String, String, String), VecDeque<String>>,
    /// Heads of lanes that wait for their attempt, by target: urgent first, then oldest first. Letters under way or
    /// delivered are not here, so that looking for work costs nothing while nothing can be sent.
    heads: BTreeMap<String, BTreeSet<HeadKey>>,
    timers: BTreeSet<(u64, String)>,
    per_agent: BTreeMap<String, usize>,
    in_flight: BTreeMap<String, usize>,
    breakers: BTreeMap<String, Breaker>,
    budget: RetryBudget,
    sight: Sight,
}

impl Desk {
    /// An empty desk.
    #[must_use]
    pub fn new(timing: Timing) -> Self {
        Self {
            timing,
            items: BTreeMap::new(),
            lanes: BTreeMap::new(),
            heads: BTreeMap::new(),
            timers: BTreeSet::new(),
            per_agent: BTreeMap::new(),
            in_flight: BTreeMap::new(),
            breakers: BTreeMap::new(),
            budget: RetryBudget::default(),
            sight: Sight::Clear,
        }
    }

    /// Whether what `owner` says in [`Desk::poll`] is of now.
    pub const fn sees(&mut self, sight: Sight) {
        self.sight = sight;
    }

    /// Asks for room before a letter is stored.
    ///
    /// # Errors
    /// When the writer has [`OUTBOX_MAX`] letters here already.
    pub fn room_for(&self, source_agent: &str) -> Result<(), DeskFull> {
        if self.per_agent.get(source_agent).copied().unwrap_or(0) >= OUTBOX_MAX { Err(DeskFull { agent: source_agent.into() }) } else { Ok(()) }
    }

    /// Takes a row that was stored: a new one, or one found after a restart ([`Outgoing::restarted`]). Rows of a lane are
    /// added in their order. Ended rows and rows that are here already are left alone.
    pub fn add(&mut self, row: Outgoing, posting: Posting, now: Now) {
        let id = row.message_id.clone();
        if row.ended() || self.items.contains_key(&id) {
            return;
        }
        *self.per_agent.entry(posting.lane.0.clone()).or_default() += 1;
        let lane = self.lanes.entry(posting.lane.clone()).or_default();
        let place = lane.iter().rposition(|other| self.items.get(other).is_some_and(|item| item.posting.ord < posting.ord)).map_or(0, |before| before + 1);
        let was_head = lane.front().cloned();
        lane.insert(place, id.clone());
        self.items.insert(id.clone(), Item { row, posting, gateway: None, due_ms: None });
        if place == 0 {
            if let Some(other) = was_head {
                self.refresh_head(&other);
            }
            self.refresh_head(&id);
        }
        self.arm(&id, now);
    }

    /// Rows that have not ended.
    #[must_use]
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// True when nothing waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// The target of a letter here, for the check of receipts.
    #[must_use]
    pub fn target_of(&self, message_id: &str) -> Option<&str> {
        self.items.get(message_id).map(|item| item.posting.lane.1.as_str())
    }

    /// The row of a letter here.
    #[must_use]
    pub fn row(&self, message_id: &str) -> Option<&Outgoing> {
        self.items.get(message_id).map(|item| &item.row)
    }

    /// Gateways that count as silent.
    #[must_use]
    pub fn silent_gateways(&self) -> Vec<&str> {
        self.breakers.iter().filter(|(_, breaker)| breaker.is_open()).map(|(gateway, _)| gateway.as_str()).collect()
    }

    /// When [`Desk::poll`] is due next, on the boot clock.
    #[must_use]
    pub fn due_at(&self) -> Option<u64> {
        self.timers.first().map(|(at, _)| *at)
    }

    /// What is due: timeouts first, then attempts. `owner` names the healthy gateway that holds a target. Call it after
    /// every other change and when [`Desk::due_at`] comes.
    pub fn poll(&mut self, now: Now, owner: &dyn Fn(&str) -> Option<String>, below: &dyn Fn(u64) -> u64) -> Vec<Change> {
        let mut out = Vec::new();
        while let Some((at, id)) = self.timers.first().cloned().filter(|(at, _)| *at <= now.mono_ms) {
            self.timers.remove(&(at, id.clone()));
            self.tick(&id, now, owner, below, &mut out);
        }
        self.attempts(now, owner, below, &mut out);
        out
    }

    /// Makes every attempt that may be made now, over all targets in one order.
    fn attempts(&mut self, now: Now, owner: &dyn Fn(&str) -> Option<String>, below: &dyn Fn(u64) -> u64, out: &mut Vec<Change>) {
        if self.heads.is_empty() || self.in_flight.values().sum::<usize>() >= IN_FLIGHT_MAX {
            return;
        }
        // The next head of each target whose gateway can be sent to.
        let mut next: BTreeSet<(HeadKey, String, String)> = BTreeSet::new();
        let targets: Vec<(String, HeadKey)> = self.heads.iter().filter_map(|(target, keys)| Some((target.clone(), keys.first()?.clone()))).collect();
        for (target, first) in targets {
            match owner(&target) {
                None => self.wake(&first.2, now.mono_ms + OWNER_WAIT_MS),
                Some(gateway) => drop(next.insert((first, target, gateway))),
            }
        }
        while let Some((key, target, gateway)) = next.pop_first() {
            if self.in_flight.values().sum::<usize>() >= IN_FLIGHT_MAX {
                return;
            }
            if let Some(at) = self.breakers.entry(gateway.clone()).or_default().passes_at(now.mono_ms) {
                self.wake(&key.2, at);
                continue;
            }
            if self.in_flight.get(&gateway).copied().unwrap_or(0) >= IN_FLIGHT_PER_TARGET_MAX {
                continue;
            }
            let after = self.heads.get(&target).and_then(|keys| keys.range((Bound::Excluded(&key), Bound::Unbounded)).next().cloned());
            self.attempt(&key.2, &gateway, now, below, out);
            if let Some(after) = after {
                next.insert((after, target, gateway));
            }
        }
    }

    /// A receipt that was checked. `None` when the letter is not here (it ended).
    pub fn receipt(&mut self, receipt: &Receipt, now: Now, below: &dyn Fn(u64) -> u64) -> Option<Change> {
        let gateway = self.items.get(&receipt.of)?.gateway.clone();
        if let Some(breaker) = gateway.and_then(|gateway| self.breakers.get_mut(&gateway)) {
            breaker.answered();
        }
        self.step(&receipt.of, &Input::Receipt(receipt), now, Owner::Live, below)
    }

    /// The bus did not carry an attempt: it is away (`None`) or wants nothing before so many ms.
    pub fn not_carried(&mut self, message_id: &str, after_ms: Option<u64>, now: Now, below: &dyn Fn(u64) -> u64) -> Option<Change> {
        self.step(message_id, &Input::NotCarried(after_ms), now, Owner::Live, below)
    }

    /// A target is held under this epoch now, by `gateway`.
    pub fn owner_epoch(&mut self, target: &str, epoch: u64, gateway: &str, now: Now, below: &dyn Fn(u64) -> u64) -> Vec<Change> {
        let ids: Vec<_> = self.items.iter().filter(|(_, item)| item.posting.lane.1 == target).map(|(id, _)| id.clone()).collect();
        let mut out = Vec::new();
        for id in ids {
            if let Some(mut change) = self.step(&id, &Input::OwnerEpoch(epoch), now, Owner::Live, below).filter(|change| !change.actions.is_empty()) {
                change.gateway = Some(gateway.into());
                out.push(change);
            }
        }
        out
    }

    /// Ends a letter: the operator wants it, or its key was revoked.
    pub fn give_up(&mut self, message_id: &str, code: &'static str, now: Now, below: &dyn Fn(u64) -> u64) -> Option<Change> {
        self.step(message_id, &Input::GiveUp(code), now, Owner::Live, below)
    }

    fn tick(&mut self, id: &str, now: Now, owner: &dyn Fn(&str) -> Option<String>, below: &dyn Fn(u64) -> u64, out: &mut Vec<Change>) {
        let Some(item) = self.items.get_mut(id) else { return };
        item.due_ms = None;
        let live = match (owner(&item.posting.lane.1), self.sight) {
            (None, _) => Owner::Nobody,
            (Some(_), Sight::Clear) => Owner::Live,
            (Some(_), Sight::Lost) => Owner::Unknown,
        };
        let (was_in_flight, gateway) = (item.row.in_flight(), item.gateway.clone());
        let change = self.step(id, &Input::Tick, now, live, below);
        let timed_out = was_in_flight && change.as_ref().is_some_and(|change| !change.row.in_flight());
        if let Some(gateway) = gateway.filter(|_| timed_out && live == Owner::Live) {
            self.breakers.entry(gateway).or_default().timed_out(now.mono_ms);
        }
        out.extend(change.filter(|change| !change.actions.is_empty()));
    }

    fn attempt(&mut self, id: &str, gateway: &str, now: Now, below: &dyn Fn(u64) -> u64, out: &mut Vec<Change>) {
        let Some(item) = self.items.get_mut(id).filter(|item| item.row.sendable(now)) else { return };
        item.gateway = Some(gateway.to_owned());
        let Some(change) = self.step(id, &Input::Send, now, Owner::Live, below) else { return };
        for action in &change.actions {
            if let Action::Publish { attempt, .. } = action {
                self.breakers.entry(gateway.to_owned()).or_default().sent(now.mono_ms);
                self.budget.sent(*attempt, now.mono_ms);
            }
        }
        out.push(change);
    }

    fn step(&mut self, id: &str, input: &Input<'_>, now: Now, owner: Owner, below: &dyn Fn(u64) -> u64) -> Option<Change> {
        let pace = if self.budget.is_spent(now.mono_ms) { Pace::Slow } else { Pace::Normal };
        let item = self.items.get_mut(id)?;
        let timing = Timing { ack_timeout_ms: self.timing.ack_timeout_ms + item.posting.slow_ms, ..self.timing };
        let cx = Cx { now, timing, below, owner, pace };
        let (before, was_queued) = (item.row.in_flight(), item.row.state == MailState::Queued);
        let (row, actions) = item.row.clone().step(input, &cx);
        item.row = row.clone();
        let gateway = item.gateway.clone();
        match (before, row.in_flight(), &gateway) {
            (false, true, Some(gateway)) => *self.in_flight.entry(gateway.clone()).or_default() += 1,
            (true, false, Some(gateway)) => self.landed(&gateway.clone()),
            _ => {}
        }
        if row.ended() {
            self.forget(id);
        } else {
            if before != row.in_flight() || !was_queued || row.state != MailState::Queued {
                self.refresh_head(id);
            }
            self.arm(id, now);
        }
        Some(Change { row, gateway, actions })
    }

    fn landed(&mut self, gateway: &str) {
        if let Some(count) = self.in_flight.get_mut(gateway) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                self.in_flight.remove(gateway);
            }
        }
    }

    /// An ended letter leaves; the next one of its lane comes forward.
    fn forget(&mut self, id: &str) {
        self.drop_head(id);
        let Some(item) = self.items.remove(id) else { return };
        item.due_ms.map(|at| self.timers.remove(&(at, id.to_owned())));
        if let Some(count) = self.per_agent.get_mut(&item.posting.lane.0) {
            *count -= 1;
            if *count == 0 {
                self.per_agent.remove(&item.posting.lane.0);
            }
        }
        let Some(lane) = self.lanes.get_mut(&item.posting.lane) else { return };
        if lane.front().is_some_and(|front| front == id) {
            lane.pop_front();
        } else {
            lane.retain(|other| other != id);
        }
        match lane.front().cloned() {
            Some(next) => self.refresh_head(&next),
            None => drop(self.lanes.remove(&item.posting.lane)),
        }
    }

    /// Puts a letter among those that wait for their attempt, or takes it out, as it stands now.
    fn refresh_head(&mut self, id: &str) {
        let Some(item) = self.items.get(id) else { return };
        let is_front = self.lanes.get(&item.posting.lane).and_then(VecDeque::front).is_some_and(|front| front == id);
        if is_front && item.row.state == MailState::Queued && !item.row.in_flight() {
            let target = item.posting.lane.1.clone();
            if let Some(key) = self.head_key(id) {
                self.heads.entry(target).or_default().insert(key);
            }
        } else {
            self.drop_head(id);
        }
    }

    fn drop_head(&mut self, id: &str) {
        let (Some(key), Some(item)) = (self.head_key(id), self.items.get(id)) else { return };
        let target = &item.posting.lane.1;
        if let Some(keys) = self.heads.get_mut(target) {
            keys.remove(&key);
            if keys.is_empty() {
                self.heads.remove(target);
            }
        }
    }

    fn head_key(&self, id: &str) -> Option<HeadKey> {
        let posting = &self.items.get(id)?.posting;
        let urgency = match posting.priority {
            Priority::High => 0,
            Priority::Normal => 1,
            Priority::Low => 2,
        };
        Some((urgency, posting.ord, id.to_owned()))
    }

    fn arm(&mut self, id: &str, now: Now) {
        let due = self.items.get(id).and_then(|item| item.row.due_at(now));
        self.set_timer(id, due);
    }

    /// An earlier look than the row itself asks for.
    fn wake(&mut self, id: &str, at: u64) {
        let due = self.items.get(id).and_then(|item| item.due_ms).map_or(at, |due| due.min(at));
        self.set_timer(id, Some(due));
    }

    fn set_timer(&mut self, id: &str, due: Option<u64>) {
        let Some(item) = self.items.get_mut(id) else { return };
        if let Some(old) = std::mem::replace(&mut item.due_ms, due) {
            self.timers.remove(&(old, id.to_owned()));
        }
        if let Some(at) = due {
            self.timers.insert((at, id.to_owned()));
        }
    }
}

impl Change {
    /// The events of this change, for the transaction.
    pub fn events(&self) -> impl Iterator<Item = &Event> {
        self.actions.iter().filter_map(|action| if let Action::Tell(event) = action { Some(event) } else { None })
    }
}
