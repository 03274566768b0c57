//! What happens in a simulation, made from its seed before anything runs.

use clawstead_gateway::cron::job::{Delivery, DeliveryMode, Job, JobState, Payload, Schedule};
use clawstead_state::Crash;
use clawstead_terms::{EnvelopeKind, QueueMode};

use crate::{
    actors::{
        clock::BEGIN_MS,
        platform::{ACCOUNTS, CHANNEL},
        store::Death,
    },
    dice::Dice,
};

/// The agents of every simulated gateway.
pub const AGENTS: [&str; 3] = ["jerry", "bobby", "billy"];

/// A letter of a client.
#[derive(Clone, Debug)]
pub struct LetterPlan {
    /// Its run.
    pub run_id: String,
    /// The agent.
    pub agent: &'static str,
    /// The rest of the session key.
    pub session: String,
    /// What is said.
    pub text: String,
    /// Request or event.
    pub kind: EnvelopeKind,
    /// How it wants to be queued.
    pub queue: Option<QueueMode>,
    /// Account and peer that get the reply.
    pub deliver_to: Option<(&'static str, String)>,
    /// The agent whose main session gets the answer.
    pub reply_to: Option<&'static str>,
    /// From another agent instead of a person.
    pub from_agent: Option<&'static str>,
    /// Milliseconds after which no turn starts for it.
    pub expires_ms: Option<i64>,
    /// It is handed in twice at once.
    pub twice: bool,
}

/// A message on the platform.
#[derive(Clone, Debug)]
pub struct InboundPlan {
    /// Our account.
    pub account: &'static str,
    /// The platform's id.
    pub message_id: String,
    /// Who writes.
    pub peer: String,
    /// What is said.
    pub text: String,
    /// The platform says it again so many milliseconds after each other.
    pub repeats_ms: Vec<u64>,
}

/// What goes wrong with a store.
#[derive(Clone, Copy, Debug)]
pub enum StoreFault {
    /// The next commits find the disk full.
    Full(usize),
    /// The next commits find it away; nothing is written.
    Away(usize),
    /// The next commits find it busy.
    Busy(usize),
    /// The next commits are written, but their answers are lost.
    LostAnswers(usize),
    /// It is out of reach for so many milliseconds.
    Disconnected(u64),
}

/// Something that happens at a moment.
#[derive(Clone, Debug)]
pub enum Event {
    /// A client sends.
    Letter(LetterPlan),
    /// Somebody writes on the platform.
    Inbound(InboundPlan),
    /// Somebody stops what goes on in a session.
    Abort(&'static str, String),
    /// A job is added.
    CronAdd(&'static str, Box<Job>),
    /// A job is to run now.
    CronNow(String),
    /// The config changes to this variant.
    Reload(u64),
    /// The store has a fault.
    Store(StoreFault),
    /// A platform account is down for so many milliseconds.
    Down(&'static str, i64),
    /// The wall clock is moved.
    Jump(i64),
    /// Another gateway takes everything over, and the first one does not notice.
    Takeover,
}

/// One life of a gateway.
#[derive(Clone, Copy, Debug)]
pub struct LifePlan {
    /// It ends after so many milliseconds.
    pub length_ms: u64,
    /// Or at this commit.
    pub death: Death,
    /// What its death does to batches that wait.
    pub crash: Crash,
    /// True ends it in order.
    pub in_order: bool,
    /// Nobody is there for so long afterwards.
    pub downtime_ms: i64,
    /// Milliseconds of a disk sync.
    pub sync_ms: u64,
    /// Milliseconds of a read.
    pub read_ms: u64,
}

/// Everything of a seed.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The seed.
    pub seed: u64,
    /// Lives that end badly; the one after them is the healed one.
    pub lives: Vec<LifePlan>,
    /// What happens, by true time.
    pub events: Vec<(i64, Event)>,
    /// Variant of the config at the begin.
    pub config: u64,
    /// Tokens of the model's window; none means plenty.
    pub window: Option<u64>,
    /// Heartbeats every so many seconds; 0 means none.
    pub heartbeat_s: u64,
}

impl Plan {
    /// The plan of a seed.
    #[must_use]
    pub fn of(seed: u64) -> Self {
        let mut dice = Dice::of(seed, "plan");
        let horizon = i64::try_from(dice.between(20_000, 150_000)).unwrap_or(60_000);
        let mut events = Vec::new();
        let sessions = dice.between(1, 4);
        let letters = dice.between(4, 30);
        let bursts = dice.often(400);
        let mut at = 100;
        for number in 0..letters {
            let gap = if bursts && dice.often(700) { dice.below(30) } else { dice.below(u64::try_from(horizon).unwrap_or(0) * 2 / letters) };
            at += i64::try_from(gap).unwrap_or(0);
            events.push((at.min(horizon), letter(&mut dice, number, sessions)));
        }
        for number in 0..dice.between(1, 8) {
            let when = moment(&mut dice, horizon);
            events.push((when, inbound(&mut dice, number)));
        }
        for number in 0..dice.below(4) {
            let when = moment(&mut dice, horizon * 2 / 3);
            let (agent, job) = job(&mut dice, number);
            let id = job.id.clone();
            events.push((when, Event::CronAdd(agent, Box::new(job))));
            if dice.often(200) {
                events.push((moment(&mut dice, horizon).max(when + 1), Event::CronNow(id)));
            }
        }
        for _ in 0..dice.below(3) {
            let session = session(&mut dice, sessions);
            events.push((moment(&mut dice, horizon), Event::Abort(dice.pick(&AGENTS), session)));
        }
        for _ in 0..dice.below(3) {
            events.push((moment(&mut dice, horizon), Event::Reload(dice.below(4))));
        }
        for _ in 0..dice.below(4) {
            let fault = match dice.below(5) {
                0 => StoreFault::Full(count(&mut dice)),
                1 => StoreFault::Away(count(&mut dice)),
                2 => StoreFault::Busy(count(&mut dice)),
                3 => StoreFault::LostAnswers(count(&mut dice)),
                _ => StoreFault::Disconnected(dice.between(10, 20_000)),
            };
            events.push((moment(&mut dice, horizon), Event::Store(fault)));
        }
        for _ in 0..dice.below(2) {
            events.push((moment(&mut dice, horizon), Event::Down(dice.pick(&ACCOUNTS), moment(&mut dice, 40_000))));
        }
        if dice.often(250) {
            let size = i64::try_from(dice.between(1_000, 3_600_000)).unwrap_or(0);
            events.push((moment(&mut dice, horizon), Event::Jump(if dice.often(500) { size } else { -size })));
        }
        if dice.often(200) {
            events.push((moment(&mut dice, horizon), Event::Takeover));
        }
        events.sort_by_key(|(at, _)| *at);
        let lives = (0..dice.below(5)).map(|_| life(&mut dice, horizon)).collect();
        Self {
            seed,
            lives,
            events,
            config: dice.below(4),
            window: dice.often(100).then(|| dice.between(20_000, 24_000)),
            heartbeat_s: if dice.often(200) { dice.between(20, 90) } else { 0 },
        }
    }
}

fn count(dice: &mut Dice) -> usize {
    usize::try_from(dice.between(1, 4)).unwrap_or(1)
}

fn moment(dice: &mut Dice, horizon: i64) -> i64 {
    i64::try_from(dice.below(u64::try_from(horizon.max(1)).unwrap_or(1))).unwrap_or(0)
}

fn session(dice: &mut Dice, sessions: u64) -> String {
    match dice.below(sessions) {
        0 => "main".into(),
        number => format!("explicit:s{number}"),
    }
}

fn letter(dice: &mut Dice, number: u64, sessions: u64) -> Event {
    let few = 1 + usize::try_from(dice.below(3)).unwrap_or(0);
    let agent = dice.pick(&AGENTS[..few]);
    let session = session(dice, sessions);
    let from_agent = dice.often(80).then(|| AGENTS.into_iter().find(|name| *name != agent).unwrap_or("jerry"));
    let verb = dice.pick(&["say", "say", "say", "once", "idem", "read", "many", "many", "send", "spawn", "silent", "nothing"]);
    let text = match dice.below(100) {
        0..4 => "/new".to_owned(),
        4..7 => format!("/new #{number} @{verb}"),
        7..10 => "/stop".to_owned(),
        10..13 => "/status".to_owned(),
        13..15 => "/compact".to_owned(),
        _ => format!("#{number} @{verb}"),
    };
    Event::Letter(LetterPlan {
        run_id: format!("r{number}"),
        agent,
        session,
        text,
        kind: if dice.often(60) { EnvelopeKind::Event } else { EnvelopeKind::Request },
        queue: match dice.below(8) {
            0 => Some(QueueMode::Steer),
            1 => Some(QueueMode::Followup),
            2 => Some(QueueMode::Collect),
            3 => Some(QueueMode::Interrupt),
            _ => None,
        },
        deliver_to: dice.often(300).then(|| (dice.pick(&ACCOUNTS), format!("u{}", dice.below(3)))),
        reply_to: from_agent.filter(|_| dice.often(500)),
        from_agent,
        expires_ms: dice.often(40).then(|| i64::try_from(dice.between(500, 20_000)).unwrap_or(0)),
        twice: dice.often(100),
    })
}

fn inbound(dice: &mut Dice, number: u64) -> Event {
    let verb = dice.pick(&["say", "say", "once", "many", "idem"]);
    Event::Inbound(InboundPlan {
        account: dice.pick(&ACCOUNTS),
        message_id: format!("m{number}"),
        peer: format!("u{}", dice.below(3)),
        text: if dice.often(50) { "/status".into() } else { format!("#p{number} @{verb}") },
        repeats_ms: (0..dice.below(3)).map(|_| dice.below(30_000)).collect(),
    })
}

fn job(dice: &mut Dice, number: u64) -> (&'static str, Job) {
    let agent = dice.pick(&AGENTS);
    let schedule = match dice.below(4) {
        0 => Schedule::Cron { expr: "* * * * *".into(), tz: Some("UTC".into()), stagger_ms: None },
        1 => {
            let at = BEGIN_MS + i64::try_from(dice.between(30_000, 200_000)).unwrap_or(0);
            Schedule::At { at: at.to_string() }
        }
        _ => Schedule::Every { every_ms: i64::try_from(dice.between(30_000, 90_000)).unwrap_or(30_000), anchor_ms: Some(BEGIN_MS) },
    };
    let delivery = dice.often(400).then(|| Delivery {
        mode: DeliveryMode::Announce,
        channel: Some(CHANNEL.into()),
        to: Some(format!("u{}", dice.below(3))),
        account_id: Some((dice.pick(&ACCOUNTS)).into()),
        thread_id: None,
        best_effort: None,
        failure_destination: None,
    });
    let verb = dice.pick(&["say", "once", "many"]);
    let turn = dice.often(700);
    let job = Job {
        id: format!("job{number}"),
        declaration_key: None,
        display_name: None,
        agent_id: Some(agent.into()),
        session_key: None,
        name: format!("job {number}"),
        description: None,
        enabled: true,
        delete_after_run: None,
        created_at_ms: BEGIN_MS,
        updated_at_ms: BEGIN_MS,
        schedule,
        session_target: if dice.often(500) { "isolated".into() } else { "main".into() },
        wake_mode: if dice.often(700) { "now".into() } else { "next-heartbeat".into() },
        payload: if turn {
            Payload::AgentTurn {
                message: format!("#job{number} @{verb}"),
                model: None,
                fallbacks: None,
                thinking: None,
                timeout_seconds: None,
                light_context: None,
                allow_unsafe_external_content: None,
                tools_allow: None,
            }
        } else {
            Payload::SystemEvent { text: format!("#job{number}") }
        },
        delivery,
        failure_alert: None,
        state: JobState::default(),
        scheduled_tool_policy: None,
    };
    (agent, job)
}

fn life(dice: &mut Dice, horizon: i64) -> LifePlan {
    let length_ms = 100 + dice.below(u64::try_from(horizon).unwrap_or(1));
    let in_order = dice.often(200);
    let death = match dice.below(4) {
        _ if in_order => Death::Never,
        0 => Death::Never,
        1 => Death::Before(dice.between(8, 120)),
        _ => Death::After(dice.between(8, 120)),
    };
    LifePlan {
        length_ms,
        death,
        crash: if dice.often(500) { Crash::LoseUnanswered } else { Crash::KeepUnanswered(usize::try_from(dice.between(1, 5)).unwrap_or(1)) },
        in_order,
        downtime_ms: i64::try_from(if dice.often(700) { dice.below(3_000) } else { dice.below(200_000) }).unwrap_or(0),
        sync_ms: if dice.often(500) { dice.below(30) } else { 0 },
        read_ms: if dice.often(150) { dice.below(20) } else { 0 },
    }
}
