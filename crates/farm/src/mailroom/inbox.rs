//! Letters that come: checked, stored, worked on, answered.

use std::{collections::BTreeMap, sync::Arc};

use clawstead_bus::{Delivery, MailBox, Sealed, Settle};
use clawstead_cluster::{
    Now,
    envelope::{Envelope, Kind, Receipt, ReceiptType, Refusal, letter_of, open},
    keys::KeyRing,
    letter::{Act, Desk, Event, HandlerEnd, Row, RowInput, RowState, StatusQuery, UNKNOWN_LETTER, busy_level},
    names::party_unit,
    policy::Policy,
    receive::{Checks, Known, Verdict, believed, examine_opened},
    simple::agent_letter,
};
use clawstead_state::{Batch, Op, Scan, Table};
use clawstead_terms::{Failure, Unit};
use serde::Deserialize as _;
use serde_json::Value;

use super::{
    CALL_CONTENT_TYPE, Handled, Head, Incoming, Outcome, Parts, Places, RESULT_CONTENT_TYPE, RemoteRun, SentRow, TakenRow,
    bodies::{Came, Wanted, filled, taken_key},
    by_hand::ByHand,
    clerk::{Clerk, Command, Follow, Then},
    rows::{self, EPOCH, in_key, is_open, tell},
};

/// Letters that ended are shown this long, ms.
const SHOWN_MS: i64 = 3_600_000;
/// Runs elsewhere are known this long, ms: as long as runs here.
const RUNS_KEPT_MS: i64 = 7 * 86_400_000;
/// Rows of one kind that one round removes at most.
const PRUNED_AT_ONCE: usize = 500;
/// Rows read at a time.
const PAGE: usize = 1000;

type Place = (Unit, String);

/// What is going on with letters that came.
#[derive(Default)]
pub(super) struct Inbox {
    open: BTreeMap<Place, TakenRow>,
    /// Bytes of each open letter: writing one to count them is dear.
    sizes: BTreeMap<Place, u64>,
    /// Bytes and number of open letters of a unit.
    depth: BTreeMap<Unit, (u64, u64)>,
    /// Highest epoch seen of letters to a unit, by the unit that wrote; 0 where the store knows none.
    seen: BTreeMap<(Unit, Unit), u64>,
    /// No row wants to tell that work goes on before this; found out anew when it comes.
    quiet_until: Option<u64>,
}

impl Inbox {
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    /// No row wants to tell that work goes on before this. Asked after every step, so it may be earlier than the truth.
    pub(super) const fn due_at(&self) -> Option<u64> {
        self.quiet_until
    }

    fn look_again(&mut self) {
        self.quiet_until = self.open.values().filter_map(|taken| taken.row.due_at()).min();
    }

    fn insert(&mut self, place: Place, taken: TakenRow) {
        self.quiet_until = [self.quiet_until, taken.row.due_at()].into_iter().flatten().min();
        if !self.open.contains_key(&place) {
            let size = taken.letter.as_ref().map_or(0, size_of);
            self.sizes.insert(place.clone(), size);
            let depth = self.depth.entry(place.0.clone()).or_default();
            (depth.0, depth.1) = (depth.0 + size, depth.1 + 1);
        }
        self.open.insert(place, taken);
    }

    fn remove(&mut self, place: &Place) -> Option<TakenRow> {
        let taken = self.open.remove(place)?;
        if let Some(depth) = self.depth.get_mut(&place.0) {
            let size = self.sizes.remove(place).unwrap_or(0);
            (depth.0, depth.1) = (depth.0.saturating_sub(size), depth.1.saturating_sub(1));
        }
        Some(taken)
    }
}

/// About how many bytes it has: writing it to know exactly is dear.
fn size_of(letter: &Envelope) -> u64 {
    fn weight(value: &Value) -> u64 {
        match value {
            Value::String(text) => text.len() as u64 + 2,
            Value::Array(items) => items.iter().map(|item| weight(item) + 1).sum::<u64>() + 2,
            Value::Object(map) => map.iter().map(|(name, item)| name.len() as u64 + weight(item) + 4).sum::<u64>() + 2,
            Value::Null | Value::Bool(_) | Value::Number(_) => 8,
        }
    }
    // What surrounds a body has one to two kilobytes.
    1_536 + letter.body.as_ref().map_or(0, weight)
}

/// The world as the check sees it for one letter.
struct View<'a> {
    parts: &'a Parts,
    ring: &'a KeyRing,
    policy: &'a Policy,
    seen: Option<u64>,
    known: Option<&'a TakenRow>,
    desk: &'a Desk,
}

impl Checks for View<'_> {
    fn farm(&self) -> &str {
        &self.parts.farm
    }

    fn gateway(&self) -> &str {
        &self.parts.gateway
    }

    fn keys(&self) -> &KeyRing {
        self.ring
    }

    fn policy(&self) -> &Policy {
        self.policy
    }

    fn epoch_seen(&self, _: &Unit) -> Option<u64> {
        self.seen
    }

    fn owner(&self, unit: &Unit) -> Option<(String, u64)> {
        Places::of(self.parts.places.as_ref(), unit).map(|place| (place.gateway, place.epoch))
    }

    fn held(&self, unit: &Unit) -> Option<u64> {
        self.parts.keeper.claims.get(unit).map(|fence| fence.epoch)
    }

    fn known(&self, letter: &Envelope) -> Known {
        match self.known {
            None => Known::New,
            Some(taken) if taken.row.is_reopened_by(letter) => Known::Reopen,
            Some(_) => Known::Repeat,
        }
    }

    fn sent_to(&self, message_id: &str) -> Option<String> {
        self.desk.target_of(message_id).map(str::to_owned)
    }
}

impl Clerk {
    /// Something came. It is settled when it is stored, or refused for good.
    pub(super) async fn arrive(&mut self, from: MailBox, delivery: Delivery) {
        if self.rebuilding {
            // Whether it is known cannot be said just now. Unsettled, it comes again.
            return;
        }
        let Delivery { raw, settle, name } = delivery;
        let opened = match open(&raw) {
            Ok(opened) => opened,
            Err(refusal) => {
                if let (MailBox::Unit(party), Some(name)) = (from, name) {
                    return self.by_hand(ByHand { party, name, raw, refusal }, settle).await;
                }
                self.parts.witness.rejected(None, refusal.code(), &refusal.to_string());
                return self.settle(settle);
            }
        };
        let peek = &opened.envelope;
        let head = Head::of(peek);
        let target = party_unit(&peek.target_agent);
        let source = party_unit(&peek.source_agent);
        let place = target.clone().map(|unit| (unit, in_key(peek)));
        let (mut known, mut seen, mut asked) = (None, None, None);
        if let (Some(place), Some(source)) = (&place, &source)
            && self.parts.keeper.claims.get(&place.0).is_some()
        {
            let found = async {
                if peek.kind != Kind::Receipt {
                    known = self.known(place).await?;
                }
                seen = self.epoch_seen(&place.0, source).await?;
                if let (Kind::Reply, Some(cause)) = (peek.kind, &peek.causation_id) {
                    asked = self.parts.keeper.get::<RemoteRun>(&place.0, Table::Meta, &rows::run_key(cause)).await?;
                }
                Ok::<(), Failure>(())
            };
            if let Err(failure) = found.await {
                // Unsettled, it comes again when the store is back.
                tracing::warn!(err = %failure, "a letter cannot be checked; it comes again");
                return;
            }
        }
        let now = self.parts.now();
        let mut receipts = Vec::new();
        let verdict = {
            let ring = self.parts.ring.read().unwrap_or_else(std::sync::PoisonError::into_inner);
            let policy = self.parts.policy.load();
            let view = View { parts: &self.parts, ring: &ring, policy: &policy, seen, known: known.as_ref(), desk: &self.desk };
            let verdict = examine_opened(opened, &view, &mut self.limiter, now);
            if let Verdict::Receipt(letter, _) = &verdict {
                let all = Receipt::all_of(letter).unwrap_or_default();
                receipts = all.into_iter().filter_map(|receipt| believed(receipt, letter, &view).ok()).collect();
            }
            verdict
        };
        match (verdict, place) {
            (Verdict::Take(letter), Some(place)) => self.take(place, *letter, asked, settle, now),
            (Verdict::Reopen(letter), Some(place)) if letter.body_ref.is_some() => match known {
                Some(taken) => self.fetch(place, *letter, Wanted::Again(Box::new(taken)), settle),
                None => self.settle(settle),
            },
            (Verdict::Reopen(letter) | Verdict::Repeat(letter), Some(place)) => match known {
                Some(taken) => self.again(place, taken, *letter, settle, now),
                None => self.settle(settle),
            },
            (Verdict::Receipt(..), _) => {
                for receipt in &receipts {
                    self.heard(receipt);
                }
                self.settle(settle);
            }
            (Verdict::Asked(letter, query), Some(place)) => {
                self.asked(place.0, *letter, &query).await;
                self.settle(settle);
            }
            (Verdict::Forward(letter, gateway), _) => {
                self.forward(*letter, gateway);
                self.settle(settle);
            }
            // What we asked for may be answered: that needs no rule of its own. Everything else was checked before the policy.
            (Verdict::Refuse { refusal: Refusal::Forbidden { .. }, answer: Some(letter) }, Some(place)) if answers(&letter, asked.as_ref()) => {
                self.take(place, *letter, asked, settle, now);
            }
            (Verdict::Refuse { refusal, answer }, _) => {
                // A receipt for a letter that ended meanwhile is no news.
                if refusal.code() != "receipt_unknown" {
                    self.parts.witness.rejected(Some(&head), refusal.code(), &refusal.to_string());
                }
                if let Some(letter) = answer {
                    let epoch = party_unit(&letter.target_agent).and_then(|unit| self.parts.keeper.claims.get(&unit)).map_or(0, |fence| fence.epoch);
                    let receipt = Receipt::refused(letter.message_id.clone(), &refusal, epoch);
                    self.send_receipt(Arc::new(*letter), receipt);
                }
                self.settle(settle);
            }
            (_, None) => self.settle(settle),
        }
    }

    /// Answers where a letter stands.
    async fn asked(&mut self, unit: Unit, letter: Envelope, query: &StatusQuery) {
        let Some(epoch) = self.parts.keeper.claims.get(&unit).map(|fence| fence.epoch) else { return };
        let place = (unit, rows::in_key_of(&query.dedupe_key(&letter)));
        let receipt = match self.known(&place).await {
            Ok(Some(taken)) => taken.row.receipt(&query.of, epoch),
            Ok(None) => {
                let mut receipt = Receipt::plain(query.of.clone(), ReceiptType::Failed, epoch);
                (receipt.code, receipt.retryable) = (UNKNOWN_LETTER.into(), true);
                receipt
            }
            // The question comes again.
            Err(_) => return,
        };
        self.send_receipt(Arc::new(letter), receipt);
    }

    pub(super) fn settle(&self, settle: Settle) {
        clawstead_world::spawn(async move {
            if let Err(err) = settle.done().await {
                tracing::debug!(%err, "a letter was not settled; it comes again");
            }
        });
    }

    /// Bytes and number of open letters of a unit.
    pub(super) fn inbox_depth(&self, unit: &Unit) -> (u64, u64) {
        self.inbox.depth.get(unit).copied().unwrap_or_default()
    }

    pub(super) async fn known(&self, place: &Place) -> Result<Option<TakenRow>, Failure> {
        match self.inbox.open.get(place) {
            Some(taken) => Ok(Some(taken.clone())),
            None => self.parts.keeper.get(&place.0, Table::Inbox, &place.1).await,
        }
    }

    async fn epoch_seen(&mut self, target: &Unit, source: &Unit) -> Result<Option<u64>, Failure> {
        let pair = (target.clone(), source.clone());
        if let Some(epoch) = self.inbox.seen.get(&pair) {
            return Ok(Some(*epoch));
        }
        let stored: Option<u64> = self.parts.keeper.get(target, Table::Meta, &format!("{EPOCH}{source}")).await?;
        // Also when there is none, so that receipts, which store no epoch, do not ask each time.
        self.inbox.seen.insert(pair, stored.unwrap_or(0));
        Ok(stored)
    }

    /// R1, and R4 at once: the sender keeps the order of a lane, so nothing has to wait here.
    fn take(&mut self, place: Place, letter: Envelope, asked: Option<RemoteRun>, settle: Settle, now: Now) {
        let Some(epoch) = self.parts.keeper.claims.get(&place.0).map(|fence| fence.epoch) else { return };
        let (bytes, letters) = self.inbox_depth(&place.0);
        if letter.kind != Kind::Reply
            && let Some(wait_ms) = busy_level(letters, bytes).turns_away(letter.priority())
        {
            self.busy_receipt(letter, wait_ms, epoch);
            return self.settle(settle);
        }
        if letter.body_ref.is_some() {
            return self.fetch(place, letter, Wanted::New(asked.map(Box::new)), settle);
        }
        self.take_whole(place, letter, None, asked, settle, now);
    }

    /// The same once the body is there. What came apart is stored with the row.
    pub(super) fn take_whole(&mut self, place: Place, letter: Envelope, came: Option<Came>, asked: Option<RemoteRun>, settle: Settle, now: Now) {
        let Some(epoch) = self.parts.keeper.claims.get(&place.0).map(|fence| fence.epoch) else { return };
        let (row, mut acts) = Row::arrived(&letter, epoch, now);
        let (row, more) = row.step(&RowInput::Start, epoch, now);
        acts.extend(more);
        let mut taken = TakenRow { row, head: Head::of(&letter), letter: Some(letter.clone()), history: Vec::new() };
        let mut ops = Vec::new();
        let mut then = vec![Then::Settle(settle)];
        if let Some(source) = party_unit(&letter.source_agent) {
            let pair = (place.0.clone(), source.clone());
            let epoch = letter.hop.sender_epoch;
            if self.inbox.seen.get(&pair).is_none_or(|seen| *seen < epoch) {
                self.inbox.seen.insert(pair, epoch);
                ops.push(Op::Put(Table::Meta, format!("{EPOCH}{source}"), epoch.to_string()));
            }
        }
        if letter.content_type() == RESULT_CONTENT_TYPE && letter.kind == Kind::Reply {
            drop(self.parts.world.tracer.begin("openclaw.farm.reply", clawstead_world::SpanKind::Consumer, letter.traceparent.as_deref()));
            let (row, more) = taken.row.step(&RowInput::End(HandlerEnd::Done), epoch, now);
            taken.row = row;
            acts.retain(|act| !matches!(act, Act::Work));
            acts.extend(more);
            close_run(came.as_ref().map_or(&letter, |came| &came.whole), asked, now, &mut ops, &mut then);
        } else if let Some(came) = came {
            ops.push(Op::Put(Table::Inbox, taken_key(&place.1), came.text));
        }
        self.keep(place, taken, &letter, acts, ops, then, now);
    }

    /// R2.
    fn again(&mut self, place: Place, taken: TakenRow, letter: Envelope, settle: Settle, now: Now) {
        self.again_whole(place, taken, letter, None, settle, now);
    }

    /// The same with a body that came apart, where the work begins anew.
    pub(super) fn again_whole(&mut self, place: Place, mut taken: TakenRow, letter: Envelope, came: Option<Came>, settle: Settle, now: Now) {
        let Some(epoch) = self.parts.keeper.claims.get(&place.0).map(|fence| fence.epoch) else { return };
        let (row, mut acts) = taken.row.step(&RowInput::Again(&letter), epoch, now);
        let (row, more) = if row.state == RowState::Delivered { row.step(&RowInput::Start, epoch, now) } else { (row, Vec::new()) };
        acts.extend(more);
        taken.row = row;
        if matches!(taken.row.state, RowState::Processing) && taken.letter.is_none() {
            (taken.letter, taken.head) = (Some(letter.clone()), Head::of(&letter));
        }
        let body = came.map(|came| Op::Put(Table::Inbox, taken_key(&place.1), came.text));
        self.keep(place, taken, &letter, acts, body.into_iter().collect(), vec![Then::Settle(settle)], now);
    }

    /// Stores a row with its events; receipts and work follow.
    pub(super) fn keep(&mut self, place: Place, taken: TakenRow, letter: &Envelope, acts: Vec<Act>, mut ops: Vec<Op>, mut then: Follow, now: Now) {
        let unit = place.0.clone();
        let (more, follows) = self.fold(place, taken, letter, acts, now);
        ops.extend(more);
        then.extend(follows);
        self.hand_over(Batch { unit, ops }, then);
    }

    /// A changed row as a part of a batch, and what follows from it.
    fn fold(&mut self, place: Place, mut taken: TakenRow, letter: &Envelope, acts: Vec<Act>, now: Now) -> (Vec<Op>, Follow) {
        let letter = Arc::new(letter.clone());
        let (mut receipt, mut work) = (None, None);
        let mut events: Vec<Event> = Vec::new();
        for act in acts {
            match act {
                Act::Tell(event) => events.push(event),
                // Each receipt says all that the ones before said.
                Act::Receipt(one) => receipt = Some(one),
                Act::Work => work = Some(Then::Work { unit: place.0.clone(), key: place.1.clone(), letter: Arc::clone(&letter) }),
            }
        }
        let mut then: Follow = events.iter().cloned().map(|event| Then::Tell(Box::new(taken.head.clone()), event)).collect();
        tell(&mut taken.history, events, now.wall);
        then.extend(receipt.map(|receipt| Then::Receipt { letter: Arc::clone(&letter), receipt }));
        then.extend(work);
        let over = matches!(taken.row.state, RowState::Acked | RowState::Failed);
        if over {
            taken.letter = None;
        }
        let mut ops = Vec::new();
        if over && letter.body_ref.is_some() {
            ops.push(Op::Delete(Table::Inbox, taken_key(&place.1)));
        }
        match serde_json::to_string(&taken) {
            Ok(json) => ops.push(Op::Put(Table::Inbox, place.1.clone(), json)),
            Err(err) => tracing::error!(%err, "a row has no JSON form"),
        }
        if over {
            self.inbox.remove(&place);
        } else {
            self.inbox.insert(place, taken);
        }
        (ops, then)
    }

    /// Begins the work of a letter; its end comes as a command.
    pub(super) fn begin(&self, unit: Unit, key: String, letter: Arc<Envelope>) {
        let (handler, commands) = (Arc::clone(&self.parts.handler), self.command_line());
        let parts = Arc::clone(&self.parts);
        clawstead_world::spawn(async move {
            let letter = match filled(&parts, &unit, &key, letter).await {
                Ok(letter) => letter,
                Err(failure) => {
                    tracing::error!(%unit, err = %failure, "a letter cannot be worked on");
                    let end = HandlerEnd::Failed { code: "body_lost".into(), retryable: true };
                    let _ = commands.send(Command::Ended { unit, key, handled: Handled { end, outcome: None } }).await;
                    return;
                }
            };
            let work = clawstead_world::spawn(async move {
                let incoming = incoming(&letter);
                handler.handle(&letter, incoming).await
            });
            let command = match work.await {
                Ok(handled) => Command::Ended { unit, key, handled },
                Err(join) if join.is_panic() => Command::Crashed { unit, key },
                Err(_) => return,
            };
            let _ = commands.send(command).await;
        });
    }

    /// R5: the end, and the answer with it.
    pub(super) fn ended(&mut self, unit: &Unit, key: &str, handled: Handled) {
        let place = (unit.clone(), key.to_owned());
        let Some(epoch) = self.parts.keeper.claims.get(unit).map(|fence| fence.epoch) else { return };
        let Some(mut taken) = self.inbox.open.get(&place).cloned() else { return };
        let Some(letter) = taken.letter.clone() else { return };
        let now = self.parts.now();
        let done = handled.end == HandlerEnd::Done;
        let (row, acts) = taken.row.step(&RowInput::End(handled.end), epoch, now);
        taken.row = row;
        let answer = handled.outcome.filter(|_| done && letter.kind == Kind::Request).map(|outcome| {
            // An answer that is too large is told to be: the asker does not wait for nothing.
            self.result_of(&letter, &outcome).or_else(|failure| self.result_of(&letter, &Outcome::failed(failure)))
        });
        match answer {
            None => self.keep(place, taken, &letter, acts, Vec::new(), Vec::new(), now),
            Some(Ok((unit, envelope))) => {
                // One batch: nobody may see the letter done and its answer lost.
                let (ops, then) = self.fold(place, taken, &letter, acts, now);
                self.enter(unit, envelope, None, ops, then);
            }
            Some(Err(failure)) => {
                tracing::warn!(err = %failure, "an answer cannot be written");
                self.keep(place, taken, &letter, acts, Vec::new(), Vec::new(), now);
            }
        }
    }

    /// R6.
    pub(super) fn crashed(&mut self, unit: &Unit, key: &str) {
        let place = (unit.clone(), key.to_owned());
        let Some(epoch) = self.parts.keeper.claims.get(unit).map(|fence| fence.epoch) else { return };
        let Some(mut taken) = self.inbox.open.get(&place).cloned() else { return };
        let Some(letter) = taken.letter.clone() else { return };
        let now = self.parts.now();
        let (row, mut acts) = taken.row.step(&RowInput::Crashed, epoch, now);
        let (row, more) = if row.state == RowState::Delivered { row.step(&RowInput::Start, epoch, now) } else { (row, Vec::new()) };
        acts.extend(more);
        taken.row = row;
        self.keep(place, taken, &letter, acts, Vec::new(), Vec::new(), now);
    }

    /// Rows whose senders are to hear that work goes on.
    pub(super) fn inbox_due(&mut self) {
        let now = self.parts.now();
        let due: Vec<Place> =
            self.inbox.open.iter().filter(|(_, taken)| taken.row.due_at().is_some_and(|at| at <= now.mono_ms)).map(|(place, _)| place.clone()).collect();
        for place in due {
            let Some(epoch) = self.parts.keeper.claims.get(&place.0).map(|fence| fence.epoch) else { continue };
            let Some(taken) = self.inbox.open.get_mut(&place) else { continue };
            let (row, acts) = taken.row.clone().step(&RowInput::Tick, epoch, now);
            taken.row = row;
            let Some(letter) = taken.letter.clone() else { continue };
            let letter = Arc::new(letter);
            for act in acts {
                if let Act::Receipt(receipt) = act {
                    self.send_receipt(Arc::clone(&letter), receipt);
                }
            }
        }
        self.inbox.look_again();
    }

    /// Unfinished work of a unit goes on.
    pub(super) async fn read_inbox(&mut self, unit: &Unit) -> Result<(), Failure> {
        let Some(epoch) = self.parts.keeper.claims.get(unit).map(|fence| fence.epoch) else { return Ok(()) };
        let mut scan = Scan::prefix(rows::IN).limit(PAGE);
        loop {
            let page = self.parts.keeper.scan::<TakenRow>(unit, Table::Inbox, &scan).await?;
            let Some(last) = page.last().map(|row| row.key.clone()) else { return Ok(()) };
            for found in page {
                let mut taken = found.value;
                if matches!(taken.row.state, RowState::Acked | RowState::Failed) {
                    continue;
                }
                let Some(letter) = taken.letter.clone() else { continue };
                let place = (unit.clone(), found.key);
                let now = self.parts.now();
                let seen = filled(&self.parts, unit, &place.1, Arc::new(letter.clone())).await.unwrap_or_else(|_| Arc::new(letter.clone()));
                let going = taken.row.state == RowState::Processing && self.parts.handler.knows(&seen, &incoming(&seen)).await;
                if going {
                    // Its run is with the agent and goes on there: that is no crash.
                    self.inbox.insert(place.clone(), taken);
                    self.begin(place.0, place.1, Arc::new(letter));
                    continue;
                }
                let (row, mut acts) = taken.row.step(&RowInput::Crashed, epoch, now);
                let (row, more) = row.step(&RowInput::Start, epoch, now);
                acts.extend(more);
                taken.row = row;
                self.keep(place, taken, &letter, acts, Vec::new(), Vec::new(), now);
            }
            scan = Scan::prefix(rows::IN).limit(PAGE).after(last);
        }
    }

    /// Passes a letter on to the gateway that holds its target now.
    fn forward(&self, letter: Envelope, gateway: String) {
        let parts = Arc::clone(&self.parts);
        clawstead_world::spawn(async move {
            let mut hop = letter.hop.clone();
            hop.hops.push(parts.gateway.clone());
            hop.sender_gateway.clone_from(&parts.gateway);
            hop.target_gateway = Some(gateway);
            let (id, attempt, to) = (letter.message_id.clone(), letter.hop.retry_count, MailBox::Unit(letter.target_agent.clone()));
            match letter.with_hop(hop, &parts.key.load()).and_then(|letter| letter.to_bytes()) {
                Ok(bytes) => {
                    if let Err(err) = parts.bus.publish(&to, &Sealed { message_id: id, attempt, bytes: bytes.into() }).await {
                        tracing::debug!(%err, "a letter was not passed on; its sender tries again");
                    }
                }
                Err(refusal) => tracing::warn!(err = %refusal, "a letter cannot be passed on"),
            }
        });
    }
}

/// True for the result of a run that we asked this agent for.
fn answers(letter: &Envelope, asked: Option<&RemoteRun>) -> bool {
    letter.kind == Kind::Reply && letter.content_type() == RESULT_CONTENT_TYPE && asked.is_some_and(|asked| asked.agent == letter.source_agent)
}

/// The answer to a request of ours: what became of its run.
fn close_run(letter: &Envelope, asked: Option<RemoteRun>, now: Now, ops: &mut Vec<Op>, then: &mut Follow) {
    let Some(outcome) = letter.body.as_ref().and_then(|body| Outcome::deserialize(body).ok()) else {
        return tracing::warn!(from = letter.source_agent, "an answer cannot be read");
    };
    // An answer nobody waits for any more, or one of an agent that was not asked, changes nothing.
    let Some(asked) = asked.filter(|asked| asked.agent == letter.source_agent && asked.outcome.as_ref().is_none_or(|end| end.failure.is_some())) else {
        return;
    };
    let ended = RemoteRun { ended_at: Some(now.wall), outcome: Some(outcome), ..asked };
    if let Ok(json) = serde_json::to_string(&ended) {
        ops.push(Op::Put(Table::Meta, rows::run_key(&ended.message_id), json));
        then.push(Then::RunEnded(Arc::new(ended)));
    }
}

/// What a letter asks for.
fn incoming(letter: &Envelope) -> Incoming {
    if let Some(unsigned) = agent_letter(letter) {
        return Incoming::Letter(Box::new(unsigned));
    }
    match letter_of(letter) {
        Ok(Some(letter)) => Incoming::Letter(Box::new(letter)),
        // The check refused letters that cannot be read.
        Ok(None) | Err(_) if letter.content_type() == CALL_CONTENT_TYPE => {
            let body = letter.body.as_ref();
            let method = body.and_then(|body| body.get("method")?.as_str()).unwrap_or_default().to_owned();
            let params = body.and_then(|body| body.get("params")).cloned().unwrap_or(Value::Null);
            Incoming::Call { method, params }
        }
        Ok(None) | Err(_) => Incoming::Plain,
    }
}

/// Removes what nobody needs any more.
pub(super) async fn prune(parts: &Parts, unit: &Unit) -> Result<(), Failure> {
    let now = parts.world.clock.now();
    let mut batch = Batch::new(unit.clone());
    for found in parts.keeper.scan::<SentRow>(unit, Table::Outbox, &Scan::prefix(rows::OUT).limit(PRUNED_AT_ONCE)).await? {
        if !is_open(found.value.row.state) && found.value.ended_at.is_some_and(|at| now.since(at) > SHOWN_MS) {
            batch = batch.delete(Table::Outbox, found.key);
        }
    }
    for found in parts.keeper.scan::<TakenRow>(unit, Table::Inbox, &Scan::prefix(rows::IN).limit(PRUNED_AT_ONCE)).await? {
        if found.value.row.keep_until < now {
            batch = batch.delete(Table::Inbox, found.key);
        }
    }
    for found in parts.keeper.scan::<RemoteRun>(unit, Table::Meta, &Scan::prefix(rows::RUN).limit(PRUNED_AT_ONCE)).await? {
        if found.value.ended_at.is_some_and(|at| now.since(at) > RUNS_KEPT_MS) {
            batch = batch.delete(Table::Meta, found.key).delete(Table::Meta, rows::asked_key(&found.value.run_id, &found.value.agent));
        }
    }
    if batch.ops.is_empty() { Ok(()) } else { parts.keeper.commit(batch).await.map_err(clawstead_state::keeper::sort) }
}
