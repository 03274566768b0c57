//! People, programs and platforms that talk to the gateway, and whoever breaks things. Each of them goes on trying over
//! all lives until the gateway has said yes or no.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, PoisonError, RwLock},
    time::Duration,
};

use tokio::sync::Notify;

use clawstead_channels::{Inbound, Intake as _};
use clawstead_gateway::{cron::job::Job, reception::Reception, settings};
use clawstead_state::TxError;
use clawstead_terms::{
    Address, AgentId, DeliveryTarget, Envelope, EnvelopeKind, Failure, FailureCode, Millis, Origin, Part, Peer, PeerKind, Retry, RunId, SessionKey, TurnOptions,
};
use clawstead_world::{Accepted, Post as _};

use crate::{
    actors::{clock::WallClock, platform::CHANNEL, store::Death},
    house::{House, Site},
    outside::{KnownJob, Outside, Taken},
    scenario::{Event, InboundPlan, LetterPlan, Plan, StoreFault},
};

/// Tries of one call before a client gives up for this life.
const TRIES_MAX: u32 = 10_000;

/// One life as clients see it.
pub struct Town {
    /// What everybody shares.
    pub outside: Arc<Outside>,
    /// The plan.
    pub plan: Plan,
    /// The life.
    pub life: u64,
    /// Its clock.
    pub clock: WallClock,
    /// The gateway that clients find.
    pub house: RwLock<Arc<House>>,
    /// One that was replaced and did not notice.
    pub zombie: Mutex<Option<Arc<House>>>,
    /// Told when a gateway dies.
    pub died: Arc<Notify>,
    /// Events that are over.
    pub done: Arc<Mutex<BTreeSet<usize>>>,
    /// The variant of the config in force.
    pub config: Arc<Mutex<u64>>,
}

/// The letter of a plan.
#[must_use]
pub fn envelope(plan: &LetterPlan, wall: Millis) -> Envelope {
    let agent = AgentId::normalise(plan.agent);
    let main = |name: &str| SessionKey::main(&AgentId::normalise(name));
    let from = match plan.from_agent {
        Some(other) => Origin::Agent { agent: AgentId::normalise(other), session: main(other) },
        None => Origin::Client { client_id: "sim".into(), device_id: None, owner: true },
    };
    Envelope {
        id: format!("letter-{}", plan.run_id).into(),
        run_id: plan.run_id.as_str().into(),
        kind: plan.kind,
        from,
        to: Address { session: SessionKey::of(&agent, &plan.session), agent },
        reply_to: plan.reply_to.map(|other| Address { agent: AgentId::normalise(other), session: main(other) }),
        cause: None,
        body: vec![Part::text(plan.text.clone())],
        options: TurnOptions {
            queue_mode: plan.queue,
            deliver_to: plan.deliver_to.as_ref().map(|(account, to)| DeliveryTarget {
                channel: CHANNEL.into(),
                account: (*account).into(),
                to: to.clone(),
                thread_id: None,
                reply_to: None,
            }),
            ..TurnOptions::default()
        },
        path: plan.from_agent.map(|other| vec![AgentId::normalise(other)]).unwrap_or_default(),
        at: wall,
        expires: plan.expires_ms.map(|ms| wall.plus(ms)),
        traceparent: None,
    }
}

impl Town {
    fn house(&self) -> Arc<House> {
        Arc::clone(&self.house.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn zombie(&self) -> Option<Arc<House>> {
        self.zombie.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn finish(&self, number: usize) {
        self.done.lock().unwrap_or_else(PoisonError::into_inner).insert(number);
    }

    fn wall(&self) -> Millis {
        use clawstead_world::Clock as _;
        self.clock.now()
    }

    /// Starts everybody whose business is not over.
    pub fn wake_up(self: &Arc<Self>) {
        for (number, (at, event)) in self.plan.events.iter().enumerate() {
            if self.done.lock().unwrap_or_else(PoisonError::into_inner).contains(&number) {
                continue;
            }
            let wait = u64::try_from(at - self.clock.true_ms()).unwrap_or(0);
            let (town, event) = (Arc::clone(self), event.clone());
            tokio::spawn(async move {
                tokio::time::sleep(Duration::from_millis(wait)).await;
                town.play(number, event).await;
            });
        }
    }

    async fn play(&self, number: usize, event: Event) {
        match event {
            Event::Letter(plan) => self.letter(&plan).await,
            Event::Inbound(plan) => self.inbound(&plan).await,
            Event::Abort(agent, session) => self.abort(agent, &session).await,
            Event::CronAdd(agent, job) => self.cron_add(agent, *job).await,
            Event::CronNow(id) => self.cron_now(&id).await,
            Event::Reload(variant) => {
                self.outside.tell("reload", variant.to_string());
                *self.config.lock().unwrap_or_else(PoisonError::into_inner) = variant;
                if let Err(why) = self.house().reload(variant).await {
                    self.outside.log(format!("reload failed: {why}"));
                }
            }
            _ if self.outside.is_healed() => {}
            Event::Store(fault) => self.store(fault).await,
            Event::Down(account, ms) => {
                self.outside.tell("down", format!("{account} for {ms}"));
                let until = self.outside.now_ms() + ms;
                self.outside.down.lock().unwrap_or_else(PoisonError::into_inner).insert(account.into(), until);
            }
            Event::Jump(ms) => {
                self.outside.tell("jump", ms.to_string());
                self.outside.skew_ms.fetch_add(ms, std::sync::atomic::Ordering::Relaxed);
            }
            Event::Takeover => {
                // Over at once: a new gateway that dies while it takes over is not repeated.
                self.finish(number);
                self.take_over().await;
            }
        }
        self.finish(number);
    }

    async fn letter(&self, plan: &LetterPlan) {
        let mut letter = envelope(plan, Millis(0));
        // The moment of writing is part of the letter, so it must not change from try to try.
        let at = self.wall();
        letter.at = at;
        letter.expires = plan.expires_ms.map(|ms| at.plus(ms));
        if let Some(zombie) = self.zombie() {
            // Who still knows the old gateway asks that one first; nothing of it may be lost or done twice.
            let answer = zombie.building.post.deliver(letter.clone()).await;
            self.outside.log(format!("zombie said of {}: {}", plan.run_id, said(&answer)));
            if answer.is_ok() {
                self.taken(&letter);
            }
        }
        if plan.twice {
            let house = self.house();
            let (first, second) = tokio::join!(house.building.post.deliver(letter.clone()), house.building.post.deliver(letter.clone()));
            self.outside.log(format!("letter {} twice: {} and {}", plan.run_id, said(&first), said(&second)));
            if matches!((&first, &second), (Ok(Accepted::Stored), Ok(Accepted::Stored))) {
                self.outside.violation(format!("no_letter_lost: {} was stored twice", plan.run_id));
            }
            if first.is_ok() || second.is_ok() {
                self.taken(&letter);
                return;
            }
        }
        let mut pause = 50;
        for _ in 0..TRIES_MAX {
            let answer = self.house().building.post.deliver(letter.clone()).await;
            self.outside.tell("letter", format!("{} to {} {:?}: {}", plan.run_id, letter.to.session, plan.text, said(&answer)));
            match answer {
                Ok(_) => return self.taken(&letter),
                // A lost answer says "do not repeat blindly"; with a run id repeating is what it is for.
                Err(failure) if failure.retry == Retry::Never && !passing(&failure) => return,
                Err(_) => {}
            }
            tokio::time::sleep(Duration::from_millis(pause)).await;
            pause = (pause * 2).min(5_000);
        }
    }

    fn taken(&self, letter: &Envelope) {
        self.outside.seen().taken.push(Taken { agent: letter.to.agent.to_string(), run_id: letter.run_id.to_string() });
    }

    async fn inbound(&self, plan: &InboundPlan) {
        let message = Inbound {
            channel: CHANNEL.into(),
            account: plan.account.into(),
            message_id: plan.message_id.clone(),
            peer: Peer { kind: PeerKind::Direct, id: plan.peer.clone() },
            parent_peer: None,
            thread_id: None,
            guild_id: None,
            team_id: None,
            roles: Vec::new(),
            sender_id: plan.peer.clone(),
            sender_name: plan.peer.clone(),
            mentioned: true,
            body: vec![Part::text(plan.text.clone())],
            at: self.wall(),
            reply: DeliveryTarget { channel: CHANNEL.into(), account: plan.account.into(), to: plan.peer.clone(), thread_id: None, reply_to: None },
        };
        for repeat_ms in std::iter::once(0).chain(plan.repeats_ms.iter().copied()) {
            tokio::time::sleep(Duration::from_millis(repeat_ms)).await;
            for _ in 0..TRIES_MAX {
                let house = self.house();
                let config = house.live.config.load_full();
                let reception = Reception {
                    post: house.building.post.clone(),
                    keeper: house.building.keeper.clone(),
                    world: house.world.clone(),
                    book: Arc::new(arc_swap::ArcSwap::from_pointee(settings::book(&config))),
                    channel: CHANNEL.into(),
                    account: plan.account.into(),
                    section: serde_json::json!({}),
                    dm_default: "open",
                };
                let answer = reception.accept(message.clone()).await;
                self.outside.tell(
                    "inbound",
                    format!("{} {}: {}", plan.account, plan.message_id, answer.as_ref().err().map_or_else(|| "ok".into(), ToString::to_string)),
                );
                if answer.is_ok() {
                    let agent = if plan.account == "idem" { "bobby" } else { "jerry" };
                    let run_id = format!("in:{CHANNEL}:{}:{}", plan.account, plan.message_id);
                    self.outside.seen().taken.push(Taken { agent: agent.into(), run_id });
                    break;
                }
                tokio::time::sleep(Duration::from_millis(1_000)).await;
            }
        }
    }

    async fn abort(&self, agent: &str, session: &str) {
        let key = SessionKey::of(&AgentId::normalise(agent), session);
        let answer = self.house().building.lanes.abort(&key, None, "rpc").await;
        self.outside.tell("abort", format!("{key}: {answer:?}"));
    }

    async fn cron_add(&self, agent: &str, job: Job) {
        let id = job.id.clone();
        for _ in 0..TRIES_MAX {
            let house = self.house();
            let wanted = house.building.cron.job(&id).unwrap_or_else(|| job.clone());
            let answer = house.building.cron.put(wanted).await;
            self.outside.tell("cron-add", format!("{id} {agent}: {}", answer.as_ref().err().map_or_else(|| "ok".into(), ToString::to_string)));
            if answer.is_ok() {
                let known = KnownJob { agent: agent.into(), added_ms: self.wall().0, off_ms: None, by_hand: false };
                self.outside.seen().jobs.entry(id).or_insert(known);
                return;
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    }

    async fn cron_now(&self, id: &str) {
        if let Some(job) = self.outside.seen().jobs.get_mut(id) {
            job.by_hand = true;
        }
        let answer = self.house().building.cron.run_now(id).await;
        self.outside.tell("cron-now", format!("{id}: {answer:?}"));
    }

    async fn store(&self, fault: StoreFault) {
        self.outside.tell("fault", format!("{fault:?}"));
        let memory = self.house().memory.clone();
        let (path, why) = ("memory".to_owned(), "simulated".to_owned());
        match fault {
            StoreFault::Full(count) => memory.fail_next(count, &TxError::Full { path }),
            StoreFault::Away(count) => memory.fail_next(count, &TxError::Away { path, why, maybe: false }),
            StoreFault::Busy(count) => memory.fail_next(count, &TxError::Busy { path, retry_after_ms: 100 }),
            StoreFault::LostAnswers(count) => memory.lose_next_answers(count),
            StoreFault::Disconnected(ms) => {
                memory.disconnect("simulated");
                tokio::time::sleep(Duration::from_millis(ms)).await;
                memory.reconnect();
                self.outside.log("store reconnected");
            }
        }
    }

    async fn take_over(&self) {
        if self.zombie().is_some() {
            return;
        }
        self.outside.tell("takeover", "begins");
        let old = self.house();
        let config = *self.config.lock().unwrap_or_else(PoisonError::into_inner);
        let raised = House::raise(Site {
            outside: &self.outside,
            plan: &self.plan,
            life: self.life,
            clock: &self.clock,
            memory: old.memory.sibling(),
            name: "gateway-b",
            death: Death::Never,
            died: Arc::clone(&self.died),
            read_ms: 0,
            config,
        })
        .await;
        match raised {
            Ok(new) => {
                old.replaced();
                *self.zombie.lock().unwrap_or_else(PoisonError::into_inner) = Some(old);
                *self.house.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(new);
                self.outside.tell("takeover", "done");
            }
            Err(failure) => {
                self.outside.tell("takeover", format!("failed: {failure}"));
                self.died.notify_one();
            }
        }
    }

    /// Switches every job off, so that the gateway can come to rest.
    ///
    /// # Errors
    /// What the gateway says.
    pub async fn jobs_off(&self) -> Result<(), Failure> {
        let house = self.house();
        let ids: BTreeMap<String, KnownJob> = self.outside.seen().jobs.clone();
        for id in ids.into_keys() {
            let before = self.wall().0;
            if let Some(job) = house.building.cron.job(&id) {
                house.building.cron.put(Job { enabled: false, ..job }).await?;
            }
            if let Some(job) = self.outside.seen().jobs.get_mut(&id) {
                job.off_ms = Some((before, self.wall().0));
            }
        }
        Ok(())
    }

    /// Asks every session one last thing, which must be answered.
    pub async fn last_questions(&self) {
        let house = self.house();
        let mut keys: Vec<SessionKey> = Vec::new();
        for agent in crate::scenario::AGENTS {
            let agent = AgentId::normalise(agent);
            keys.extend(house.building.desk.rows(&agent).iter().map(|row| row.key.clone()).filter(|key| !key.is_cron() && !key.is_subagent()));
        }
        for (number, key) in keys.into_iter().enumerate() {
            let run = RunId::from(format!("last-{number}"));
            let plan = LetterPlan {
                run_id: run.to_string(),
                agent: "",
                session: String::new(),
                text: format!("#last{number} @read"),
                kind: EnvelopeKind::Request,
                queue: None,
                deliver_to: None,
                reply_to: None,
                from_agent: None,
                expires_ms: None,
                twice: false,
            };
            let mut letter = envelope(&plan, self.wall());
            letter.to = Address { agent: key.agent(), session: key.clone() };
            let answer = house.building.post.deliver(letter.clone()).await;
            if !matches!(answer, Ok(Accepted::Stored)) {
                self.outside.violation(format!("drains: {key} does not take a letter: {}", said(&answer)));
                continue;
            }
            self.taken(&letter);
            match house.building.lanes.wait(&run, Duration::from_secs(600)).await {
                Ok(Some(row)) if row.text.as_deref().is_some_and(|text| text.contains(&format!("#last{number}"))) => {}
                other => self.outside.violation(format!("drains: {key} does not answer its last question: {other:?}")),
            }
        }
    }
}

fn passing(failure: &Failure) -> bool {
    matches!(failure.code, FailureCode::Busy | FailureCode::Unavailable | FailureCode::Fenced | FailureCode::Timeout)
}

fn said(answer: &Result<Accepted, Failure>) -> String {
    match answer {
        Ok(accepted) => format!("{accepted:?}"),
        Err(failure) => format!("{:?} {failure}", failure.code),
    }
}
