//! The one task that decides: which letter is sent, what a letter that came means, what follows.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use clawstead_bus::{Delivery, MailBox, Settle};
use clawstead_cluster::{
    Now,
    envelope::{BodyRef, Envelope, MailState, Receipt},
    keys::KeyStatus,
    letter::{Action, Change, Cx, Desk, Event, Outgoing, Owner, Pace, Posting, Sight},
    names::{party_unit, unit_party},
    policy::Limiter,
};
use clawstead_state::{Batch, Op, Scan, Table, TxError, keeper::sort};
use clawstead_terms::{Envelope as Letter, Failure, FailureCode, Unit};
use futures_util::StreamExt as _;
use serde_json::Value;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::{
    DeadRow, Handled, Head, Outcome, Parts, RemoteRun, SentRow, Waiting,
    bodies::{Fetched, Fetching, Signed, sent_key},
    envelope_of,
    inbox::Inbox,
    lock,
    receipts::Receipts,
    rows::{self, env_key, is_open, out_key, run_key, tell},
    writer::{Job, Written, write},
};

/// Batches that wait for the disk; above, no new request is taken up.
const JOBS_MAX: usize = 2048;
/// Rows of one unit that are read at a time.
const PAGE: usize = 1000;
/// How long to wait before what could not be written is read again.
const REBUILD_AFTER: Duration = Duration::from_millis(500);

/// A request to the clerk.
pub(super) enum Command {
    /// Write a letter.
    Post { post: Post, reply: oneshot::Sender<Result<Posted, Failure>> },
    /// Something came, into this box.
    Arrived(MailBox, Delivery),
    /// A body came, or it cannot be had.
    Fetched(Box<Fetched>),
    /// The bus did not take an attempt: it is away, or wants nothing before so many ms.
    NotCarried { id: String, after_ms: Option<u64> },
    /// Work ended.
    Ended { unit: Unit, key: String, handled: Handled },
    /// Work broke.
    Crashed { unit: Unit, key: String },
    /// A unit is held here.
    TakeOver { unit: Unit, reply: oneshot::Sender<Result<(), Failure>> },
    /// A unit is held here no more.
    LetGo { unit: Unit },
    /// Something outside changed.
    LookAgain,
    /// End a letter.
    GiveUp { id: String, code: &'static str, reply: oneshot::Sender<Result<(), Failure>> },
    /// A letter in place of a dead one.
    Replay { unit: Unit, dead: Box<DeadRow>, body: Option<String>, reply: oneshot::Sender<Result<String, Failure>> },
    /// Read everything again.
    Rebuild,
}

/// What is written.
pub(super) enum Post {
    /// For a gateway's door.
    Letter(Box<Letter>),
    /// A question.
    Question(Box<Question>),
}

/// A question of one agent to another.
pub(super) struct Question {
    pub run: String,
    pub from: Unit,
    pub to: Unit,
    pub body: Value,
    pub ttl_ms: u64,
}

/// What became of it.
pub(super) enum Posted {
    Stored,
    Known,
}

/// What follows when a batch is durable.
pub(super) enum Then {
    Publish { unit: Unit, envelope: Arc<Envelope>, attempt: u32, state: MailState, gateway: Option<String>, epoch: u64 },
    Ask { envelope: Arc<Envelope>, gateway: Option<String>, epoch: u64 },
    Receipt { letter: Arc<Envelope>, receipt: Receipt },
    Forget(Arc<Envelope>),
    Work { unit: Unit, key: String, letter: Arc<Envelope> },
    Settle(Settle),
    Posted(oneshot::Sender<Result<Posted, Failure>>),
    Replayed(oneshot::Sender<Result<String, Failure>>, String),
    Tell(Box<Head>, Event),
    RunEnded(Arc<RemoteRun>),
}

pub(super) type Follow = Vec<Then>;

/// A letter on its way.
struct Live {
    unit: Unit,
    sent: SentRow,
    envelope: Arc<Envelope>,
}

pub(super) struct Clerk {
    pub(super) parts: Arc<Parts>,
    pub(super) commands: mpsc::Sender<Command>,
    waiting: Arc<Mutex<Waiting>>,
    pub(super) desk: Desk,
    live: BTreeMap<String, Live>,
    pub(super) inbox: Inbox,
    pub(super) limiter: Limiter,
    pub(super) receipts: Receipts,
    pub(super) fetching: Fetching,
    ord: u64,
    jobs: mpsc::UnboundedSender<Job<Follow>>,
    written: mpsc::UnboundedReceiver<Written<Follow>>,
    outstanding: usize,
    boxes: BTreeMap<Unit, CancellationToken>,
    /// A write failed: until everything is read again, memory may know of rows that the store does not have.
    pub(super) rebuilding: bool,
    /// It is read again as soon as nothing is on its way to the disk: what is written after a read would be forgotten.
    rebuild_due: bool,
}

impl Clerk {
    pub(super) fn new(parts: Arc<Parts>, commands: mpsc::Sender<Command>, waiting: Arc<Mutex<Waiting>>) -> Self {
        let (jobs, waiting_jobs) = mpsc::unbounded_channel();
        let (told, written) = mpsc::unbounded_channel();
        let (keeper, stop) = (parts.keeper.clone(), parts.world.tasks.stopping());
        parts.world.tasks.spawn::<_, Failure>(clawstead_world::TaskKind::vital("mailroom writer"), async move {
            write(keeper, waiting_jobs, told, stop).await;
            Ok(())
        });
        let desk = Desk::new(parts.timing);
        let clerk = Self {
            parts,
            commands,
            waiting,
            desk,
            live: BTreeMap::new(),
            inbox: Inbox::default(),
            limiter: Limiter::default(),
            receipts: Receipts::default(),
            fetching: Fetching::default(),
            ord: 0,
            jobs,
            written,
            outstanding: 0,
            boxes: BTreeMap::new(),
            rebuilding: false,
            rebuild_due: false,
        };
        let stop = clerk.parts.world.tasks.stopping();
        clerk.subscribe(&MailBox::Gateway(clerk.parts.gateway.clone()), &clerk.parts.gateway, stop);
        clerk
    }

    pub(super) async fn work(mut self, mut inbound: mpsc::Receiver<Command>, stop: CancellationToken) {
        self.sweep();
        loop {
            let now = self.parts.now();
            let due = [self.desk.due_at(), self.inbox.due_at(), self.receipts.due_at()].into_iter().flatten().min();
            let wait = due.map_or(Duration::from_secs(3600), |at| Duration::from_millis(at.saturating_sub(now.mono_ms)));
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                Some(written) = self.written.recv() => self.written(written),
                command = inbound.recv(), if self.outstanding < JOBS_MAX && !self.rebuild_due => match command {
                    Some(command) => self.obey(command).await,
                    None => break,
                },
                () = tokio::time::sleep(wait), if !self.rebuild_due => {}
            }
            if self.rebuild_due {
                if self.outstanding > 0 {
                    continue;
                }
                (self.rebuild_due, self.rebuilding) = (false, false);
                self.rebuild().await;
            }
            self.sweep();
        }
        // What is being written still ends: its writers are told.
        while self.outstanding > 0 {
            let Some(written) = self.written.recv().await else { break };
            self.written(written);
        }
    }

    async fn obey(&mut self, command: Command) {
        match command {
            Command::Post { post, reply } => self.post(post, reply).await,
            Command::Arrived(from, delivery) => self.arrive(from, delivery).await,
            Command::Fetched(fetched) => self.fetched(*fetched),
            Command::NotCarried { id, after_ms } => {
                let now = self.parts.now();
                let rng = Arc::clone(&self.parts.world.rng);
                if let Some(change) = self.desk.not_carried(&id, after_ms, now, &|bound| rng.below(bound)) {
                    self.apply(change, Vec::new(), Vec::new());
                }
            }
            Command::Ended { unit, key, handled } => self.ended(&unit, &key, handled),
            Command::Crashed { unit, key } => self.crashed(&unit, &key),
            Command::TakeOver { unit, reply } => {
                let _ = reply.send(self.take_over(&unit).await);
            }
            Command::LetGo { unit } => {
                if let Some(token) = self.boxes.remove(&unit) {
                    token.cancel();
                }
                self.rebuild_due = true;
            }
            Command::LookAgain => self.look_again(),
            Command::GiveUp { id, code, reply } => {
                let now = self.parts.now();
                let rng = Arc::clone(&self.parts.world.rng);
                let change = self.desk.give_up(&id, code, now, &|bound| rng.below(bound));
                let found = change.is_some();
                if let Some(change) = change {
                    self.apply(change, Vec::new(), Vec::new());
                }
                let _ = reply.send(if found { Ok(()) } else { Err(Failure::not_found(format!("no letter {id} is on its way here"))) });
            }
            Command::Replay { unit, dead, body, reply } => self.replay(unit, *dead, body, reply),
            Command::Rebuild => {
                self.rebuild_due = true;
            }
        }
    }

    /// Everything that is due.
    fn sweep(&mut self) {
        let now = self.parts.now();
        if self.inbox.due_at().is_some_and(|at| at <= now.mono_ms) {
            self.inbox_due();
        }
        // What was written together is told together.
        if self.written.is_empty() && self.receipts.due_at().is_some_and(|at| at <= now.mono_ms) {
            self.send_receipts(now.mono_ms);
        }
        for change in self.poll(now) {
            self.apply(change, Vec::new(), Vec::new());
        }
    }

    fn poll(&mut self, now: Now) -> Vec<Change> {
        let places = Arc::clone(&self.parts.places);
        self.desk.sees(if places.sure() { Sight::Clear } else { Sight::Lost });
        let rng = Arc::clone(&self.parts.world.rng);
        let owner = |party: &str| party_unit(party).and_then(|unit| places.of(&unit)).filter(|place| place.alive).map(|place| place.gateway);
        self.desk.poll(now, &owner, &|bound| rng.below(bound))
    }

    /// Owners changed: letters that were delivered to an earlier owner are asked for.
    fn look_again(&mut self) {
        let now = self.parts.now();
        let rng = Arc::clone(&self.parts.world.rng);
        let targets: std::collections::BTreeSet<String> = self.live.values().map(|live| live.sent.head.to.clone()).collect();
        for target in targets {
            let Some(place) = party_unit(&target).and_then(|unit| self.parts.places.of(&unit)).filter(|place| place.alive) else { continue };
            for change in self.desk.owner_epoch(&target, place.epoch, &place.gateway, now, &|bound| rng.below(bound)) {
                self.apply(change, Vec::new(), Vec::new());
            }
        }
        self.give_up_revoked();
    }

    /// What a revoked key signed is refused everywhere: it ends here, and whoever sends it again signs it anew.
    fn give_up_revoked(&mut self) {
        let revoked: Vec<String> = {
            let ring = self.parts.ring.read().unwrap_or_else(std::sync::PoisonError::into_inner);
            let by_revoked = |live: &Live| live.envelope.sig.as_ref().is_some_and(|sig| ring.stage(&sig.kid) == Some(KeyStatus::Revoked));
            let queued = self.live.iter().filter(|(_, live)| live.sent.row.state == MailState::Queued);
            queued.filter(|(_, live)| by_revoked(live)).map(|(id, _)| id.clone()).collect()
        };
        let (now, rng) = (self.parts.now(), Arc::clone(&self.parts.world.rng));
        for id in revoked {
            if let Some(change) = self.desk.give_up(&id, "key_revoked", now, &|bound| rng.below(bound)) {
                self.apply(change, Vec::new(), Vec::new());
            }
        }
    }

    pub(super) fn epoch(&self, unit: &Unit) -> Option<u64> {
        self.parts.keeper.claims.get(unit).map(|fence| fence.epoch)
    }

    pub(super) fn target_gateway(&self, unit: &Unit) -> Option<String> {
        self.parts.places.of(unit).map(|place| place.gateway)
    }

    /// Hands a batch over.
    pub(super) fn hand_over(&mut self, batch: Batch, then: Follow) {
        self.outstanding += 1;
        // The writer ends after us.
        let _ = self.jobs.send(Job { batch, then });
    }

    fn written(&mut self, written: Written<Follow>) {
        self.outstanding = self.outstanding.saturating_sub(1);
        match written {
            Written::Done(then) => {
                for one in then {
                    self.follow(one);
                }
            }
            Written::Failed(unit, err, then) => {
                let known = matches!(&err, TxError::Exists { .. });
                tracing::warn!(%unit, %err, "letters could not be written; they are read again");
                for one in then {
                    match one {
                        Then::Posted(reply) => drop(reply.send(if known { Ok(Posted::Known) } else { Err(sort(err.clone())) })),
                        Then::Replayed(reply, _) => drop(reply.send(Err(sort(err.clone())))),
                        // Unsettled letters come again; attempts and receipts are made again.
                        _ => {}
                    }
                }
                self.rebuild_later();
            }
        }
    }

    fn rebuild_later(&mut self) {
        if std::mem::replace(&mut self.rebuilding, true) {
            return;
        }
        let commands = self.commands.clone();
        clawstead_world::spawn(async move {
            tokio::time::sleep(REBUILD_AFTER).await;
            let _ = commands.send(Command::Rebuild).await;
        });
    }

    fn follow(&mut self, then: Then) {
        match then {
            Then::Publish { unit, envelope, attempt, state, gateway, epoch } => self.publish(unit, envelope, attempt, state, gateway, epoch),
            Then::Forget(envelope) => self.forget_body(envelope),
            Then::Ask { envelope, gateway, epoch } => self.ask_status(envelope, gateway, epoch),
            Then::Receipt { letter, receipt } => self.send_receipt(letter, receipt),
            Then::Work { unit, key, letter } => self.begin(unit, key, letter),
            Then::Settle(settle) => {
                clawstead_world::spawn(async move {
                    if let Err(err) = settle.done().await {
                        tracing::debug!(%err, "a letter was not settled; it comes again and is known");
                    }
                });
            }
            Then::Posted(reply) => drop(reply.send(Ok(Posted::Stored))),
            Then::Replayed(reply, id) => drop(reply.send(Ok(id))),
            Then::Tell(head, event) => self.parts.witness.told(&head, &event),
            Then::RunEnded(run) => {
                let waiting = lock(&self.waiting).remove(&(run.run_id.clone(), run.agent.clone()));
                if let Some(sender) = waiting {
                    sender.send_replace(Some(run));
                }
            }
        }
    }

    /// Stores a new letter together with `ops`.
    pub(super) fn enter(&mut self, unit: Unit, signed: Signed, run: Option<String>, mut ops: Vec<Op>, then: Follow) {
        ops.extend(signed.body_op());
        let envelope = signed.envelope;
        let now = self.parts.now();
        let id = envelope.message_id.clone();
        let (row, actions) = Outgoing::queued(id.clone(), envelope.expires_at());
        self.ord += 1;
        let posting = Posting::of(&envelope, self.ord);
        let mut sent = SentRow { row: row.clone(), ord: self.ord, head: Head::of(&envelope), run, gateway: None, history: Vec::new(), ended_at: None };
        let events: Vec<Event> = actions.into_iter().filter_map(|action| if let Action::Tell(event) = action { Some(event) } else { None }).collect();
        let mut first: Follow = events.iter().cloned().map(|event| Then::Tell(Box::new(sent.head.clone()), event)).collect();
        tell(&mut sent.history, events, now.wall);
        match serde_json::to_string(&envelope) {
            Ok(json) => ops.push(Op::Put(Table::Outbox, env_key(&id), json)),
            Err(err) => tracing::error!(%err, "an envelope has no JSON form"),
        }
        self.live.insert(id.clone(), Live { unit, sent, envelope: Arc::new(envelope) });
        self.desk.add(row, posting, now);
        let (mine, others): (Vec<_>, Vec<_>) = self.poll(now).into_iter().partition(|change| change.row.message_id == id);
        let mut mine = mine.into_iter();
        first.extend(then);
        match mine.next() {
            Some(change) => self.apply(change, ops, first),
            None => self.store_live(&id, ops, first),
        }
        for change in mine.chain(others) {
            self.apply(change, Vec::new(), Vec::new());
        }
    }

    fn store_live(&mut self, id: &str, mut ops: Vec<Op>, then: Follow) {
        let Some(live) = self.live.get(id) else { return };
        match serde_json::to_string(&live.sent) {
            Ok(json) => ops.push(Op::Put(Table::Outbox, out_key(id), json)),
            Err(err) => tracing::error!(%err, "a row has no JSON form"),
        }
        let batch = Batch { unit: live.unit.clone(), ops };
        self.hand_over(batch, then);
    }

    /// Stores a changed row with its events, then carries out the rest.
    fn apply(&mut self, change: Change, mut ops: Vec<Op>, mut then: Follow) {
        let now = self.parts.now().wall;
        let id = change.row.message_id.clone();
        let Some(live) = self.live.get_mut(&id) else { return };
        let epoch = self.parts.keeper.claims.get(&live.unit).map_or(0, |fence| fence.epoch);
        let events: Vec<Event> = change.events().cloned().collect();
        then.extend(events.iter().cloned().map(|event| Then::Tell(Box::new(live.sent.head.clone()), event)));
        tell(&mut live.sent.history, events, now);
        live.sent.row = change.row;
        live.sent.gateway.clone_from(&change.gateway);
        for action in change.actions {
            match action {
                Action::Tell(_) | Action::Note(_) => {}
                Action::Publish { attempt, state } => {
                    then.push(Then::Publish {
                        unit: live.unit.clone(),
                        envelope: Arc::clone(&live.envelope),
                        attempt,
                        state,
                        gateway: change.gateway.clone(),
                        epoch,
                    });
                }
                Action::Ask => then.push(Then::Ask { envelope: Arc::clone(&live.envelope), gateway: change.gateway.clone(), epoch }),
            }
        }
        if is_open(live.sent.row.state) {
            return self.store_live(&id, ops, then);
        }
        live.sent.ended_at = Some(now);
        ops.push(Op::Delete(Table::Outbox, env_key(&id)));
        if live.envelope.body_ref.is_some() {
            then.push(Then::Forget(Arc::clone(&live.envelope)));
        }
        // A dead letter keeps its body: it may be sent again.
        if let Some(key) = sent_key(&live.envelope).filter(|_| live.sent.row.state != MailState::DeadLetter) {
            ops.push(Op::Delete(Table::Outbox, key));
        }
        if live.sent.row.state == MailState::DeadLetter {
            let reason = live.sent.row.last_error.clone().unwrap_or_else(|| "unknown".into());
            let dead = DeadRow {
                reason: reason.clone(),
                head: live.sent.head.clone(),
                letter: Envelope::clone(&live.envelope),
                history: live.sent.history.clone(),
                at: now,
                replayed_as: None,
            };
            if let Ok(json) = serde_json::to_string(&dead) {
                ops.push(Op::Put(Table::DeadLetters, id.clone(), json));
            }
            if let Some(run) = live.sent.run.clone() {
                let outcome = Outcome::failed(dead_failure(&reason, &live.sent.head));
                let ended = ended_run(&live.sent, run, outcome, now);
                if let Ok(json) = serde_json::to_string(&ended) {
                    ops.push(Op::Put(Table::Meta, run_key(&ended.message_id), json));
                    then.push(Then::RunEnded(Arc::new(ended)));
                }
            }
        }
        self.store_live(&id, ops, then);
        self.live.remove(&id);
    }

    /// A receipt that was checked.
    pub(super) fn heard(&mut self, receipt: &Receipt) {
        let now = self.parts.now();
        let rng = Arc::clone(&self.parts.world.rng);
        if let Some(change) = self.desk.receipt(receipt, now, &|bound| rng.below(bound))
            && !change.actions.is_empty()
        {
            self.apply(change, Vec::new(), Vec::new());
        }
    }

    /// Large bodies that wait in a unit's outbox.
    pub(super) fn large_bodies<'a>(&'a self, unit: &'a Unit) -> impl Iterator<Item = &'a BodyRef> {
        self.live.values().filter(move |live| live.unit == *unit).filter_map(|live| live.envelope.body_ref.as_ref())
    }

    /// Reads what is unfinished in a unit and takes its box.
    pub(super) async fn take_over(&mut self, unit: &Unit) -> Result<(), Failure> {
        let Some(party) = unit_party(unit) else { return Ok(()) };
        self.read_outbox(unit).await?;
        self.read_inbox(unit).await?;
        if !self.boxes.contains_key(unit) {
            let stop = self.parts.world.tasks.stopping().child_token();
            let consumer = format!("{}.{}", self.parts.gateway, self.epoch(unit).unwrap_or(0));
            self.subscribe(&MailBox::Unit(party), &consumer, stop.clone());
            self.boxes.insert(unit.clone(), stop);
        }
        Ok(())
    }

    async fn read_outbox(&mut self, unit: &Unit) -> Result<(), Failure> {
        let mut scan = Scan::prefix(rows::OUT).limit(PAGE);
        loop {
            let page = self.parts.keeper.scan::<SentRow>(unit, Table::Outbox, &scan).await?;
            let Some(last) = page.last().map(|row| row.key.clone()) else { return Ok(()) };
            for found in page {
                let sent = found.value;
                self.ord = self.ord.max(sent.ord);
                if !is_open(sent.row.state) {
                    continue;
                }
                let Some(envelope) = envelope_of(&self.parts, unit, &sent.row.message_id).await? else {
                    tracing::error!(message = sent.row.message_id, "a letter on its way has lost its envelope");
                    continue;
                };
                let now = self.parts.now();
                let rng = Arc::clone(&self.parts.world.rng);
                let cx = Cx { now, timing: self.parts.timing, below: &|bound| rng.below(bound), owner: Owner::Live, pace: Pace::Normal };
                let row = sent.row.clone().restarted(&cx);
                self.desk.add(row, Posting::of(&envelope, sent.ord), now);
                self.live.insert(sent.row.message_id.clone(), Live { unit: unit.clone(), sent, envelope: Arc::new(envelope) });
            }
            scan = Scan::prefix(rows::OUT).limit(PAGE).after(last);
        }
    }

    /// Forgets what is in memory and reads it again: after a write that did not happen, memory and store differ.
    async fn rebuild(&mut self) {
        let units: Vec<Unit> = self.boxes.keys().cloned().collect();
        self.desk = Desk::new(self.parts.timing);
        self.live.clear();
        self.inbox.clear();
        for unit in units {
            if self.parts.keeper.claims.get(&unit).is_none() {
                if let Some(token) = self.boxes.remove(&unit) {
                    token.cancel();
                }
                continue;
            }
            if let Err(failure) = self.take_over(&unit).await {
                tracing::warn!(%unit, err = %failure, "letters cannot be read; it is tried again");
                self.rebuild_later();
            }
        }
    }

    fn subscribe(&self, from: &MailBox, consumer: &str, stop: CancellationToken) {
        let mut mail = self.parts.bus.subscribe(from, consumer);
        let (commands, engine, from) = (self.commands.clone(), self.parts.bus.engine(), from.clone());
        clawstead_world::spawn(async move {
            let mut troubled = false;
            loop {
                let next = tokio::select! {
                    biased;
                    () = stop.cancelled() => return,
                    next = mail.next() => next,
                };
                match next {
                    None => return,
                    Some(Ok(delivery)) => {
                        troubled = false;
                        if commands.send(Command::Arrived(from.clone(), delivery)).await.is_err() {
                            return;
                        }
                    }
                    Some(Err(err)) => {
                        if !std::mem::replace(&mut troubled, true) {
                            tracing::warn!(engine, mailbox = ?from, %err, "letters do not come in; it goes on by itself");
                        }
                    }
                }
            }
        });
    }
}

fn ended_run(sent: &SentRow, run: String, outcome: Outcome, now: clawstead_terms::Millis) -> RemoteRun {
    RemoteRun {
        run_id: run,
        message_id: sent.head.message_id.clone(),
        agent: sent.head.to.clone(),
        session: sent.head.session.clone(),
        at: sent.head.created_at,
        ended_at: Some(now),
        outcome: Some(outcome),
    }
}

/// What the asker of a letter that was given up is told.
fn dead_failure(reason: &str, head: &Head) -> Failure {
    let (code, why) = match reason {
        "expired" => (FailureCode::Unavailable, "nobody took it in time"),
        "forbidden" | "command_refused" => (FailureCode::Forbidden, "the other gateway's policy does not allow it"),
        "not_found" => (FailureCode::NotFound, "there is no such agent"),
        "key_revoked" => (FailureCode::Unavailable, "the key that signed it was revoked; sent again, it is signed anew"),
        "body_unavailable" => (FailureCode::Unavailable, "its large body could not be fetched from here (farm.peer, or the bus's engine)"),
        "clock_skew" => (FailureCode::Unavailable, "the clocks of the two gateways differ by more than five minutes"),
        "poison" => (FailureCode::Internal, "the other gateway broke over it again and again"),
        "retries" | "no_answer" | "bus_error" | "no_owner" | "busy" => (FailureCode::Unavailable, "the other gateway could not be reached"),
        _ => (FailureCode::Unavailable, "it could not be delivered"),
    };
    Failure::new(code, format!("the letter to {} was given up ({reason}): {why}", head.to)).with_hint(format!("openclaw farm dlq show {}", head.message_id))
}
