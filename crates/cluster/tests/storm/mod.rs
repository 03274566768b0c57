//! A sender and a receiver with a carrier between them that loses, repeats, delays and reorders, while both crash between
//! any two steps. One seed, one history. Rows survive crashes as far as they were committed, nothing else does.

use std::collections::{BTreeMap, BTreeSet};

use clawstead_cluster::{
    Now,
    envelope::{Envelope, Hop, Kind, MailState, Receipt, ReceiptType, Refusal},
    keys::GatewayKey,
    letter::{
        Act, Action, Change, Cx, Desk, Event, HandlerEnd, Outgoing, Owner, Pace, Posting, Replay, Row, RowInput, RowState, SENDS_MAX, Timing, UNKNOWN_LETTER,
        replay,
    },
};
use clawstead_terms::Millis;
use clawstead_world::{Rng, SeededRng};
use serde_json::json;

const START: i64 = 1_795_172_400_000;
const FAULTS_END_MS: u64 = 100_000;
const RUN_MAX_MS: u64 = 6 * 3_600_000;
const LETTERS: u64 = 30;

type Lane = (String, String, String);

/// How bad this seed's world is, in parts of a thousand and milliseconds.
#[derive(Clone, Copy, Debug)]
struct Weather {
    lose: u64,
    lose_receipt: u64,
    repeat: u64,
    delay_max: u64,
    crash: u64,
    bus_error: u64,
    handler_fails: u64,
    handler_crashes: u64,
    work_max: u64,
}

enum Ev {
    Write(u64),
    SenderWake,
    SenderStart,
    Arrive(Box<Envelope>),
    Ask { of: String, idem: String },
    Told(Receipt),
    WorkEnds { idem: String, run: u64 },
    Beat,
    ReceiverStart,
}

struct Stored {
    row: Row,
    lane: Lane,
    ord: u64,
    run: u64,
}

/// What a run came to.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Report {
    pub acked: usize,
    pub dead: BTreeMap<String, usize>,
    pub sends: u64,
    pub crashes: u64,
    pub replays: usize,
    pub handled: usize,
}

pub struct Storm {
    seed: u64,
    rng: SeededRng,
    weather: Weather,
    now: u64,
    order: u64,
    queue: BTreeMap<(u64, u64), Ev>,
    key: GatewayKey,
    outbox: BTreeMap<String, (Outgoing, Envelope, Posting)>,
    desk: Option<Desk>,
    inbox: BTreeMap<String, Stored>,
    receiver_up: bool,
    epoch: u64,
    arrivals: u64,
    runs: u64,
    handled: Vec<String>,
    history: BTreeMap<Lane, Vec<(u64, String)>>,
    report: Report,
}

/// Runs one seed; a broken promise is told as an error that names the seed.
pub fn run(seed: u64) -> Result<Report, String> {
    let rng = SeededRng::new(seed);
    let pick = |choices: &[u64]| choices[usize::try_from(rng.below(choices.len() as u64)).unwrap_or(0)];
    let weather = Weather {
        lose: pick(&[0, 10, 100, 500]),
        lose_receipt: pick(&[0, 0, 100, 700]),
        repeat: pick(&[0, 10, 300, 1000]),
        delay_max: pick(&[5, 200, 3_000, 10_000]),
        crash: pick(&[0, 0, 10, 50]),
        bus_error: pick(&[0, 20, 200]),
        handler_fails: pick(&[0, 0, 50, 300]),
        handler_crashes: pick(&[0, 0, 50, 300]),
        work_max: pick(&[1, 100, 5_000, 90_000]),
    };
    let key = GatewayKey::generate("jerry-gateway", &rng).map_err(|err| err.to_string())?;
    let mut storm = Storm {
        seed,
        rng,
        weather,
        now: 0,
        order: 0,
        queue: BTreeMap::new(),
        key,
        outbox: BTreeMap::new(),
        desk: Some(Desk::new(Timing::LAN)),
        inbox: BTreeMap::new(),
        receiver_up: true,
        epoch: 1,
        arrivals: 0,
        runs: 0,
        handled: Vec::new(),
        history: BTreeMap::new(),
        report: Report::default(),
    };
    for n in 0..LETTERS {
        let at = storm.rng.below(60_000);
        storm.at(at, Ev::Write(n));
    }
    storm.go()?;
    storm.replays()?;
    storm.go()?;
    storm.judge()
}

impl Storm {
    fn go(&mut self) -> Result<(), String> {
        while let Some(((at, _), ev)) = self.queue.pop_first() {
            self.now = at;
            if self.now > RUN_MAX_MS {
                return Err(self.broken("something never ends"));
            }
            self.handle(ev)?;
            self.sender_poll()?;
        }
        Ok(())
    }

    fn handle(&mut self, ev: Ev) -> Result<(), String> {
        match ev {
            Ev::Write(n) => self.write(n),
            Ev::SenderWake => Ok(()),
            Ev::SenderStart => {
                self.sender_start();
                Ok(())
            }
            Ev::Told(receipt) => {
                let (now, below) = (self.time(), |bound| self.rng.below(bound));
                let Some(change) = self.desk.as_mut().and_then(|desk| desk.receipt(&receipt, now, &below)) else { return Ok(()) };
                self.sender_commit(change).map(drop)
            }
            Ev::Arrive(letter) if self.receiver_up => self.arrive(&letter),
            Ev::WorkEnds { idem, run } if self.receiver_up => self.work_ends(&idem, run),
            Ev::Beat if self.receiver_up => self.beats(),
            // Nobody is there: the bus keeps what is not settled and brings it again.
            Ev::Arrive(letter) => {
                self.at(1_000, Ev::Arrive(letter));
                Ok(())
            }
            Ev::ReceiverStart => self.receiver_start(),
            Ev::Ask { of, idem } if self.receiver_up => {
                let unknown = || Receipt {
                    kind: ReceiptType::Failed,
                    code: UNKNOWN_LETTER.into(),
                    retryable: true,
                    ..Receipt::plain(&of, ReceiptType::Failed, self.epoch)
                };
                let receipt = self.inbox.get(&idem).map_or_else(unknown, |stored| stored.row.receipt(&of, self.epoch));
                self.carry(self.weather.lose_receipt, &|| Ev::Told(receipt.clone()));
                Ok(())
            }
            Ev::WorkEnds { .. } | Ev::Beat | Ev::Ask { .. } => Ok(()),
        }
    }

    // The sender.

    fn write(&mut self, n: u64) -> Result<(), String> {
        if self.desk.is_none() {
            self.at(500, Ev::Write(n));
            return Ok(());
        }
        let letter = self.letter(n);
        self.enqueue(letter).map(drop)
    }

    fn enqueue(&mut self, letter: Envelope) -> Result<String, String> {
        let (row, actions) = Outgoing::queued(&letter.message_id, letter.expires_at());
        let id = letter.message_id.clone();
        let posting = Posting::of(&letter, self.order);
        self.order += 1;
        if actions != [Action::Tell(Event::Queued)] {
            return Err(self.broken("a new letter is not told as queued"));
        }
        self.outbox.insert(id.clone(), (row.clone(), letter, posting.clone()));
        let now = self.time();
        if let Some(desk) = &mut self.desk {
            desk.add(row, posting, now);
        }
        Ok(id)
    }

    fn sender_poll(&mut self) -> Result<(), String> {
        let (now, up) = (self.time(), self.receiver_up);
        let Some(desk) = &mut self.desk else { return Ok(()) };
        let rng = &self.rng;
        let changes = desk.poll(now, &|_| up.then(|| "bobby-gateway".to_owned()), &|bound| rng.below(bound));
        let due = desk.due_at();
        for change in changes {
            if !self.sender_commit(change)? {
                return Ok(());
            }
        }
        if let Some(due) = due {
            let delay = due.saturating_sub(self.now).max(1);
            if self.queue.iter().all(|((at, _), ev)| !matches!(ev, Ev::SenderWake) || *at > self.now + delay) {
                self.at(delay, Ev::SenderWake);
            }
        }
        Ok(())
    }

    /// Stores a change and carries out its actions, or crashes before or between. False after a crash.
    fn sender_commit(&mut self, change: Change) -> Result<bool, String> {
        if self.chance(self.weather.crash) {
            self.sender_crash();
            return Ok(false);
        }
        let id = change.row.message_id.clone();
        let Some(stored) = self.outbox.get_mut(&id) else { return Err(self.broken("a change of a letter nobody wrote")) };
        check_events(&stored.0, &change).map_err(|what| format!("seed {}: {what}", self.seed))?;
        stored.0 = change.row.clone();
        let letter = stored.1.clone();
        if self.chance(self.weather.crash) {
            self.sender_crash();
            return Ok(false);
        }
        for action in change.actions {
            if action == Action::Ask {
                let (of, idem) = (id.clone(), letter.dedupe_key());
                self.carry(self.weather.lose, &|| Ev::Ask { of: of.clone(), idem: idem.clone() });
            }
            let Action::Publish { attempt, state } = action else { continue };
            self.report.sends += 1;
            if self.chance(self.weather.bus_error) {
                let (now, below) = (self.time(), |bound| self.rng.below(bound));
                let after = (attempt % 2 == 0).then_some(300);
                if let Some(change) = self.desk.as_mut().and_then(|desk| desk.not_carried(&id, after, now, &below))
                    && !self.sender_commit(change)?
                {
                    return Ok(false);
                }
                continue;
            }
            let mut letter = letter.clone();
            letter.hop = Hop { retry_count: attempt, state, ..letter.hop };
            self.carry(self.weather.lose, &|| Ev::Arrive(Box::new(letter.clone())));
        }
        Ok(true)
    }

    fn sender_crash(&mut self) {
        self.report.crashes += 1;
        self.desk = None;
        let pause = self.rng.below(5_000) + 1;
        self.at(pause, Ev::SenderStart);
    }

    fn sender_start(&mut self) {
        let now = self.time();
        let below = |bound| self.rng.below(bound);
        let cx = Cx { now, timing: Timing::LAN, below: &below, owner: Owner::Live, pace: Pace::Normal };
        let mut desk = Desk::new(Timing::LAN);
        for (row, _, posting) in self.outbox.values() {
            desk.add(row.clone().restarted(&cx), posting.clone(), now);
        }
        self.desk = Some(desk);
    }

    // The carrier.

    fn carry(&mut self, lose: u64, ev: &dyn Fn() -> Ev) {
        if self.chance(lose) {
            return;
        }
        let copies = 1 + u64::from(self.chance(self.weather.repeat)) + u64::from(self.chance(self.weather.repeat / 2));
        for copy in 0..copies {
            let span = if self.now < FAULTS_END_MS { self.weather.delay_max } else { 5 };
            // A repeat may come much later.
            let late = if copy > 0 && self.rng.below(10) == 0 { 60_000 } else { 0 };
            let delay = 1 + self.rng.below(span) + self.rng.below(late + 1);
            self.at(delay, ev());
        }
    }

    // The receiver.

    fn arrive(&mut self, letter: &Envelope) -> Result<(), String> {
        let (now, idem) = (self.time(), letter.dedupe_key());
        if let Some(stored) = self.inbox.get(&idem) {
            let (row, acts) = stored.row.clone().step(&RowInput::Again(letter), self.epoch, now);
            return self.receiver_commit(&idem, row, acts);
        }
        if now.wall > letter.expires_at() {
            let receipt = Receipt::refused(&letter.message_id, &Refusal::Expired { late_ms: 1 }, self.epoch);
            self.carry(self.weather.lose_receipt, &|| Ev::Told(receipt.clone()));
            return Ok(());
        }
        let (row, acts) = Row::arrived(letter, self.epoch, now);
        self.arrivals += 1;
        let stored = Stored { row: row.clone(), lane: letter.lane(), ord: self.arrivals, run: 0 };
        if self.chance(self.weather.crash) {
            self.receiver_crash();
            return Ok(());
        }
        self.inbox.insert(idem.clone(), stored);
        self.receiver_commit(&idem, row, acts)
    }

    fn receiver_commit(&mut self, idem: &str, row: Row, acts: Vec<Act>) -> Result<(), String> {
        if self.chance(self.weather.crash) {
            self.receiver_crash();
            return Ok(());
        }
        let done = row.state == RowState::Acked;
        let Some(stored) = self.inbox.get_mut(idem) else { return Ok(()) };
        if stored.row.state == RowState::Acked && !done {
            return Err(self.broken("a letter that was done is opened again"));
        }
        if done && stored.row.state != RowState::Acked {
            self.handled.push(idem.to_owned());
            self.history.entry(stored.lane.clone()).or_default().push((self.now, idem.to_owned()));
        }
        stored.row = row;
        if self.chance(self.weather.crash) {
            self.receiver_crash();
            return Ok(());
        }
        for act in acts {
            match act {
                Act::Tell(_) => {}
                Act::Receipt(receipt) => self.carry(self.weather.lose_receipt, &|| Ev::Told(receipt.clone())),
                Act::Work => {
                    self.runs += 1;
                    let wall = self.now_wall();
                    let (run, span) = (self.runs, self.rng.below(self.weather.work_max) + 1);
                    if let Some(stored) = self.inbox.get_mut(idem) {
                        if wall > stored.row.expires_at {
                            return Err(self.broken("work began after its time"));
                        }
                        stored.run = run;
                    }
                    self.at(span, Ev::WorkEnds { idem: idem.to_owned(), run });
                    self.at(30_001, Ev::Beat);
                }
            }
        }
        self.start_work()
    }

    /// Of each lane the oldest letter, when none of it is being worked on.
    fn start_work(&mut self) -> Result<(), String> {
        let mut heads: BTreeMap<Lane, (u64, String)> = BTreeMap::new();
        let busy: BTreeSet<Lane> = self.inbox.values().filter(|stored| stored.row.state == RowState::Processing).map(|stored| stored.lane.clone()).collect();
        for (idem, stored) in self.inbox.iter().filter(|(_, stored)| stored.row.state == RowState::Delivered && !busy.contains(&stored.lane)) {
            let head = heads.entry(stored.lane.clone()).or_insert_with(|| (stored.ord, idem.clone()));
            if stored.ord < head.0 {
                *head = (stored.ord, idem.clone());
            }
        }
        for (_, idem) in heads.into_values() {
            let Some(stored) = self.inbox.get(&idem).filter(|_| self.receiver_up) else { continue };
            let (row, acts) = stored.row.clone().step(&RowInput::Start, self.epoch, self.time());
            self.receiver_commit(&idem, row, acts)?;
        }
        Ok(())
    }

    fn work_ends(&mut self, idem: &str, run: u64) -> Result<(), String> {
        let Some(stored) = self.inbox.get(idem).filter(|stored| stored.run == run) else { return Ok(()) };
        let input = if self.chance(self.weather.handler_crashes) {
            RowInput::Crashed
        } else if self.chance(self.weather.handler_fails) {
            RowInput::End(HandlerEnd::Failed { code: "model_down".into(), retryable: !run.is_multiple_of(3) })
        } else {
            RowInput::End(HandlerEnd::Done)
        };
        let (row, acts) = stored.row.clone().step(&input, self.epoch, self.time());
        self.receiver_commit(idem, row, acts)
    }

    fn beats(&mut self) -> Result<(), String> {
        let working: Vec<_> = self.inbox.iter().filter(|(_, stored)| stored.row.state == RowState::Processing).map(|(idem, _)| idem.clone()).collect();
        for idem in working {
            let Some(stored) = self.inbox.get(&idem).filter(|_| self.receiver_up) else { continue };
            let (row, acts) = stored.row.clone().step(&RowInput::Tick, self.epoch, self.time());
            if !acts.is_empty() {
                self.at(30_001, Ev::Beat);
                self.receiver_commit(&idem, row, acts)?;
            }
        }
        Ok(())
    }

    fn receiver_crash(&mut self) {
        self.report.crashes += 1;
        self.receiver_up = false;
        for stored in self.inbox.values_mut() {
            stored.run = 0;
        }
        let pause = self.rng.below(8_000) + 1;
        self.at(pause, Ev::ReceiverStart);
    }

    fn receiver_start(&mut self) -> Result<(), String> {
        (self.receiver_up, self.epoch) = (true, self.epoch + 1);
        let open: Vec<_> = self.inbox.iter().filter(|(_, stored)| stored.row.state == RowState::Processing).map(|(idem, _)| idem.clone()).collect();
        for idem in open {
            let Some(stored) = self.inbox.get(&idem).filter(|_| self.receiver_up) else { continue };
            let (row, acts) = stored.row.clone().step(&RowInput::Crashed, self.epoch, self.time());
            self.receiver_commit(&idem, row, acts)?;
        }
        if self.receiver_up { self.start_work() } else { Ok(()) }
    }

    // The judge.

    /// An operator replays some dead letters, each twice.
    fn replays(&mut self) -> Result<(), String> {
        let dead: Vec<_> = self.outbox.values().filter(|(row, ..)| row.state == MailState::DeadLetter).map(|(_, letter, _)| letter.clone()).take(6).collect();
        for letter in dead {
            for _ in 0..2 {
                self.now += 1_000;
                let new = Replay { message_id: self.rng.uuid_v7(self.now_wall()), at: self.now_wall(), epoch: 7, target_gateway: None };
                let again = replay(&letter, new, &self.key).map_err(|err| err.to_string())?;
                if again.dedupe_key() != letter.dedupe_key() || again.causation_id.as_ref() != Some(&letter.message_id) {
                    return Err(self.broken("a replay is not known as one"));
                }
                self.enqueue(again)?;
                self.report.replays += 1;
                self.at(1, Ev::SenderWake);
            }
        }
        Ok(())
    }

    fn judge(mut self) -> Result<Report, String> {
        let once: BTreeSet<_> = self.handled.iter().collect();
        if once.len() != self.handled.len() {
            return Err(self.broken("a letter was handled twice"));
        }
        let (mut acked_keys, mut places) = (BTreeSet::new(), BTreeMap::new());
        for (row, letter, posting) in self.outbox.values() {
            let reason = row.last_error.clone().unwrap_or_default();
            match row.state {
                MailState::Acked => {
                    self.report.acked += 1;
                    acked_keys.insert(letter.dedupe_key());
                    if !once.contains(&letter.dedupe_key()) {
                        return Err(self.broken("acked, and nobody handled it"));
                    }
                    if letter.causation_id.is_none() {
                        places.insert(letter.dedupe_key(), posting.ord);
                    }
                }
                MailState::DeadLetter if !reason.is_empty() => *self.report.dead.entry(reason).or_default() += 1,
                _ => return Err(self.broken(&format!("{} ends as {:?} without a reason", row.message_id, row.state))),
            }
            if row.spent_sends() > SENDS_MAX {
                return Err(self.broken("more attempts than allowed"));
            }
        }
        for handled in self.history.values() {
            let order: Vec<_> = handled.iter().filter_map(|(_, idem)| places.get(idem)).collect();
            if !order.is_sorted() {
                return Err(self.broken("letters of one lane were handled out of order"));
            }
        }
        let calm = self.weather.crash == 0 && self.weather.lose <= 100 && self.weather.lose_receipt <= 100 && self.weather.bus_error <= 20;
        let able = self.weather.handler_fails == 0 && self.weather.handler_crashes == 0 && self.weather.work_max <= 5_000 && self.weather.delay_max <= 200;
        if calm && able && !self.report.dead.is_empty() {
            return Err(self.broken(&format!("letters were given up without need: {:?}", self.report.dead)));
        }
        self.report.handled = self.handled.len();
        Ok(self.report)
    }

    fn broken(&self, what: &str) -> String {
        format!(
            "seed {}: {what} (at {} ms, {:?}); repeat with: cargo run -p clawstead-cluster --example letters -- {}",
            self.seed, self.now, self.weather, self.seed
        )
    }

    fn letter(&self, n: u64) -> Envelope {
        let id = self.rng.uuid_v7(self.now_wall());
        Envelope {
            schema_version: "1.0".into(),
            farm_id: "octant".into(),
            message_id: id.clone(),
            correlation_id: id,
            causation_id: None,
            idempotency_key: Some(format!("key-{n}")),
            kind: Kind::Request,
            source_gateway: "jerry-gateway".into(),
            source_agent: "jerry".into(),
            source_epoch: 7,
            target_agent: if n.is_multiple_of(3) { "billy" } else { "bobby" }.into(),
            capability: "infra.query".into(),
            created_at: self.now_wall(),
            ttl: None,
            max_hops: None,
            no_rebroadcast: None,
            priority: None,
            session_key: Some(format!("s{}", n % 2)),
            reply_to: None,
            content_type: None,
            body: Some(json!({"text": n.to_string()})),
            body_ref: None,
            traceparent: None,
            hop: Hop { hops: vec!["jerry-gateway".into()], sender_gateway: "jerry-gateway".into(), sender_epoch: 7, ..Hop::default() },
            sig: None,
            hop_sig: None,
            extra: serde_json::Map::new(),
        }
    }

    fn at(&mut self, delay: u64, ev: Ev) {
        self.order += 1;
        self.queue.insert((self.now + delay, self.order), ev);
    }

    fn chance(&self, of_a_thousand: u64) -> bool {
        self.now < FAULTS_END_MS && self.rng.below(1000) < of_a_thousand
    }

    fn time(&self) -> Now {
        Now { wall: self.now_wall(), mono_ms: self.now }
    }

    fn now_wall(&self) -> Millis {
        Millis(START + i64::try_from(self.now).unwrap_or(i64::MAX))
    }
}

/// Each transition has its one event, and only the transitions of the table happen.
fn check_events(before: &Outgoing, change: &Change) -> Result<(), String> {
    let mut state = before.state;
    for event in change.events() {
        let (from, to) = match event {
            Event::Sent { .. } => (MailState::Queued, MailState::Queued),
            Event::Delivered => (MailState::Queued, MailState::Delivered),
            Event::Retry { .. } if state == MailState::Failed => (MailState::Failed, MailState::Queued),
            Event::Retry { .. } => (MailState::Queued, MailState::Queued),
            Event::DeadLetter { .. } if state != MailState::Acked => (state, MailState::DeadLetter),
            Event::Acked => (MailState::Delivered, MailState::Acked),
            Event::Failed { .. } => (MailState::Delivered, MailState::Failed),
            Event::Redeliver { .. } => (MailState::Delivered, MailState::Queued),
            other => return Err(format!("the sender tells {other:?} in {state:?}")),
        };
        if from != state {
            return Err(format!("{event:?} happens in {state:?}"));
        }
        state = to;
    }
    if state == change.row.state { Ok(()) } else { Err(format!("the events lead to {state:?}, the row is {:?}", change.row.state)) }
}
