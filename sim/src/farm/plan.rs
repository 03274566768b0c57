//! What happens in a farm, made from its seed and its row before anything runs.

use std::time::Duration;

use clawstead_bus::faulty::{Delay, MailFaults};
use clawstead_state::Crash;

use super::row::Row;
use crate::{
    actors::store::Death,
    actors::platform::ACCOUNTS,
    dice::Dice,
    scenario::{LifePlan, StoreFault},
};

/// Gateways that there may be.
pub const GATEWAYS: [&str; 4] = ["jerry-gateway", "bobby-gateway", "billy-gateway", "nancy-gateway"];
/// Agents that there may be.
pub const AGENTS: [&str; 6] = ["jerry", "bobby", "billy", "nancy", "oscar", "wendy"];

/// Where gateways keep their rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Storage {
    /// Each has a disk.
    Own,
    /// All use one server, each with a handle that fails on its own.
    Shared,
}

/// A gateway.
#[derive(Clone, Debug)]
pub struct GatewayPlan {
    /// Its name.
    pub name: &'static str,
    /// The agents that are configured there.
    pub agents: Vec<&'static str>,
    /// Lives that end badly; the one after them is a good one.
    pub lives: Vec<LifePlan>,
    /// How wrong its wall clock is, ms.
    pub skew_ms: i64,
}

/// A message of a person.
#[derive(Clone, Debug)]
pub struct ChatPlan {
    /// When, true time.
    pub at_ms: i64,
    /// Its run.
    pub run_id: String,
    /// To whom.
    pub agent: &'static str,
    /// The rest of the session key.
    pub session: String,
    /// What is said.
    pub text: String,
    /// Account and peer that get the reply.
    pub deliver_to: Option<(&'static str, String)>,
}

/// A switch that breaks something of one gateway for a while, or one thing of all.
#[derive(Clone, Debug)]
pub enum Fault {
    /// The gateway stands still for so many ms; time goes on (SIGSTOP).
    Pause(&'static str, u64),
    /// It does not reach the coordination store.
    CutCoord(&'static str, u64),
    /// It does not reach its state store.
    CutStore(&'static str, u64),
    /// It does not reach the bus.
    CutBus(&'static str, u64),
    /// Its wall clock is moved.
    Jump(&'static str, i64),
    /// Its next writes fail.
    Disk(&'static str, StoreFault),
    /// Its watches of the coordination store begin anew.
    Watch(&'static str),
    /// The bus forgets all it holds.
    LoseMail,
    /// Its signing key changes, as `farm rotate gateway-key` does it.
    Rotate(&'static str),
}

/// A letter of the stranger: a gateway of the farm that is none of ours, or somebody who would like to be one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Forgery {
    /// Nothing is wrong with it.
    Honest,
    /// A byte of the signed part is another one.
    Altered,
    /// A byte of the hop data is another one.
    AlteredHop,
    /// The signature of another letter.
    SwappedSignature,
    /// Signed with a key that nobody approved.
    UnknownKey,
    /// Signed with a key whose time is over.
    RetiredKey,
    /// Signed with a key that was revoked.
    RevokedKey,
    /// Of another farm.
    WrongFarm,
    /// In the name of an agent of another gateway.
    OtherAgent,
    /// An agent that the policy does not know.
    Forbidden,
    /// A command for the gateway.
    Command,
    /// It came by more gateways than it may.
    TooManyHops,
    /// It came round.
    Ring,
    /// It is not to be passed on, and its target lives elsewhere.
    NotToBePassedOn,
    /// A version that nobody knows.
    UnknownMajor,
    /// A version with fields that we do not know.
    UnknownMinor,
    /// Written too far in the future.
    FromTheFuture,
    /// Its time was over before it came.
    TooLate,
    /// It breaks its handler.
    Poison,
    /// No JSON at all.
    Noise,
}

/// Everything of a seed.
#[derive(Clone, Debug)]
pub struct FarmPlan {
    /// The seed.
    pub seed: u64,
    /// The row.
    pub row: Row,
    /// The gateways.
    pub gateways: Vec<GatewayPlan>,
    /// Where they keep their rows.
    pub storage: Storage,
    /// What people say, in order.
    pub chats: Vec<ChatPlan>,
    /// What breaks, in order.
    pub faults: Vec<(i64, Fault)>,
    /// What the stranger sends, and to whom.
    pub letters: Vec<(i64, Forgery, &'static str)>,
    /// What happens to letters for agents.
    pub letters_weather: MailFaults,
    /// What happens to receipts.
    pub receipts_weather: MailFaults,
    /// Watches are late by so much at most, ms.
    pub watch_late_ms: u64,
    /// Of a thousand requests to the stores between gateways, so many are slow, lost, or answered in vain.
    pub troubled: u64,
    /// When everything is healed at the earliest.
    pub horizon_ms: i64,
    /// After the rest, all clocks go on by this, and what was on the bus comes again. 0 means not.
    pub again_after_ms: i64,
    /// Dead letters are sent again, twice.
    pub replay: bool,
}

impl FarmPlan {
    /// The plan of a seed.
    #[must_use]
    pub fn of(seed: u64, row: Row) -> Self {
        let mut dice = Dice::of(seed, &format!("farm {row:?}"));
        let count = usize::try_from(dice.between(2, 4)).unwrap_or(2);
        let agents = usize::try_from(dice.between(4, 6)).unwrap_or(4);
        let mut gateways: Vec<GatewayPlan> =
            GATEWAYS[..count].iter().map(|name| GatewayPlan { name, agents: Vec::new(), lives: Vec::new(), skew_ms: 0 }).collect();
        for (number, agent) in AGENTS[..agents].iter().enumerate() {
            // Each gateway has one; the others live anywhere.
            let at = if number < count { number } else { usize::try_from(dice.below(count as u64)).unwrap_or(0) };
            gateways[at].agents.push(agent);
        }
        let horizon_ms = i64::try_from(dice.between(15_000, 60_000)).unwrap_or(30_000);
        let mut plan = Self {
            seed,
            row,
            gateways,
            storage: Storage::Own,
            chats: Vec::new(),
            faults: Vec::new(),
            letters: Vec::new(),
            letters_weather: MailFaults::default(),
            receipts_weather: MailFaults::default(),
            watch_late_ms: 0,
            troubled: 0,
            horizon_ms,
            again_after_ms: 0,
            replay: false,
        };
        plan.break_things(row, &mut dice);
        if row == Row::X1 {
            for _ in 0..dice.between(2, 4) {
                let other = dice.pick(&Row::ALL);
                plan.break_things(other, &mut dice);
            }
        } else if dice.often(250) {
            // What breaks never breaks alone for long.
            let other = dice.pick(&[Row::G1, Row::N1, Row::M1]);
            plan.break_things(other, &mut dice);
        }
        plan.people(&mut dice, &AGENTS[..agents]);
        plan.chats.sort_by_key(|chat| chat.at_ms);
        plan.faults.sort_by_key(|(at, _)| *at);
        plan.letters.sort_by_key(|(at, ..)| *at);
        plan
    }

    /// The agents of all gateways.
    #[must_use]
    pub fn agents(&self) -> Vec<&'static str> {
        let mut agents: Vec<&'static str> = self.gateways.iter().flat_map(|gateway| gateway.agents.iter().copied()).collect();
        agents.sort_unstable();
        agents
    }

    /// The gateway at which an agent lives.
    #[must_use]
    pub fn home(&self, agent: &str) -> Option<&GatewayPlan> {
        self.gateways.iter().find(|gateway| gateway.agents.contains(&agent))
    }

    fn moment(&self, dice: &mut Dice) -> i64 {
        i64::try_from(dice.below(u64::try_from(self.horizon_ms).unwrap_or(1))).unwrap_or(0)
    }

    fn people(&mut self, dice: &mut Dice, agents: &[&'static str]) {
        let burst = match self.row {
            Row::Q1 => Some(dice.pick(agents)),
            _ => None,
        };
        let chats = match self.row {
            Row::Q1 | Row::Q2 => dice.between(30, 60),
            _ => dice.between(6, 24),
        };
        for number in 0..chats {
            let agent = dice.pick(agents);
            let others: Vec<&'static str> = agents.iter().copied().filter(|other| *other != agent).collect();
            let to = burst.filter(|to| *to != agent).unwrap_or_else(|| dice.pick(&others));
            let third = dice.pick(agents);
            let verb = match dice.below(100) {
                0..50 => format!("@ask:{to}"),
                50..60 if third != to => format!("@ask:{to}/{third}"),
                60..75 => format!("@give:{to}"),
                75..80 => "@many".into(),
                80..85 => "@once".into(),
                85..88 => "@idem".into(),
                _ => "@say".into(),
            };
            let at_ms = if burst.is_some() || self.row == Row::Q2 {
                i64::try_from(2_000 + dice.below(2_000)).unwrap_or(0)
            } else {
                self.moment(dice)
            };
            self.chats.push(ChatPlan {
                at_ms,
                run_id: format!("r{number}"),
                agent,
                session: if dice.often(500) { "main".into() } else { format!("explicit:s{}", dice.below(3)) },
                text: format!("#{number} {verb}"),
                deliver_to: dice.often(200).then(|| (dice.pick(&ACCOUNTS), format!("u{}", dice.below(3)))),
            });
        }
    }

    fn a_gateway(&self, dice: &mut Dice) -> &'static str {
        let names: Vec<&'static str> = self.gateways.iter().map(|gateway| gateway.name).collect();
        dice.pick(&names)
    }

    #[expect(clippy::too_many_lines, reason = "one arm for each row of the matrix")]
    fn break_things(&mut self, row: Row, dice: &mut Dice) {
        match row {
            Row::M1 => {
                let drop = dice.pick(&[0.01, 0.1, 0.5]);
                self.letters_weather.drop = drop;
                self.receipts_weather.drop = drop;
                self.troubled = self.troubled.max(dice.below(40));
            }
            Row::M2 => {
                let duplicate = dice.pick(&[0.01, 0.2, 1.0]);
                let after = dice.pick(&[Delay::None, Delay::Even(Duration::from_secs(2)), Delay::Even(Duration::from_secs(120))]);
                for weather in [&mut self.letters_weather, &mut self.receipts_weather] {
                    (weather.duplicate, weather.duplicate_after) = (duplicate, after);
                }
                if dice.often(300) {
                    self.again_after_ms = 3_600_000;
                }
            }
            Row::M3 => {
                let max = Duration::from_secs(10);
                let delay = Delay::Exponential { mean: Duration::from_millis(dice.between(50, 4_000)), max };
                self.letters_weather.delay = delay;
                self.receipts_weather.delay = delay;
            }
            Row::M4 => {
                for weather in [&mut self.letters_weather, &mut self.receipts_weather] {
                    (weather.reorder, weather.reorder_window) = (0.5, 100);
                    weather.delay = Delay::Even(Duration::from_millis(dice.between(1, 1_500)));
                }
            }
            Row::M5 => self.receipts_weather.drop = dice.pick(&[0.3, 0.9, 1.0]),
            Row::M6 => {
                self.letters_weather.duplicate = 0.3;
                self.again_after_ms = 3 * 86_400_000;
            }
            Row::M7 => self.strange(
                dice,
                &[
                    Forgery::Honest,
                    Forgery::Altered,
                    Forgery::AlteredHop,
                    Forgery::SwappedSignature,
                    Forgery::UnknownKey,
                    Forgery::RetiredKey,
                    Forgery::RevokedKey,
                    Forgery::WrongFarm,
                    Forgery::OtherAgent,
                    Forgery::Forbidden,
                    Forgery::Command,
                    Forgery::Noise,
                ],
                12,
            ),
            Row::M8 => self.strange(dice, &[Forgery::TooManyHops, Forgery::Ring, Forgery::NotToBePassedOn, Forgery::Honest], 8),
            Row::M9 => self.strange(dice, &[Forgery::Poison, Forgery::Honest], 4),
            Row::M10 => self.strange(dice, &[Forgery::UnknownMajor, Forgery::UnknownMinor, Forgery::Honest], 8),
            Row::M11 => {
                self.strange(dice, &[Forgery::TooLate, Forgery::FromTheFuture, Forgery::Honest], 6);
                // Longer than letters live.
                let (gateway, at) = (self.a_gateway(dice), self.moment(dice));
                let ms = dice.between(200_000, 400_000);
                self.faults.push((at, if dice.often(500) { Fault::CutBus(gateway, ms) } else { Fault::Pause(gateway, ms) }));
            }
            Row::M13 => {
                self.replay = true;
                if dice.often(500) {
                    self.receipts_weather.drop = 1.0;
                }
                for _ in 0..2 {
                    let (gateway, at) = (self.a_gateway(dice), self.moment(dice));
                    self.faults.push((at, Fault::CutBus(gateway, dice.between(250_000, 400_000))));
                }
            }
            Row::C6 => {
                self.watch_late_ms = dice.below(3_000);
                for _ in 0..dice.between(3, 12) {
                    let (gateway, at) = (self.a_gateway(dice), self.moment(dice));
                    self.faults.push((at, Fault::Watch(gateway)));
                }
                self.troubled = self.troubled.max(dice.below(150));
            }
            Row::T1 => {
                let size = i64::try_from(dice.pick(&[2_000, 2_000, 600_000])).unwrap_or(0);
                for gateway in &mut self.gateways {
                    gateway.skew_ms = dice.pick(&[size, -size, 0]);
                }
                for _ in 0..dice.below(3) {
                    let (gateway, at) = (self.a_gateway(dice), self.moment(dice));
                    self.faults.push((at, Fault::Jump(gateway, dice.pick(&[2_000, -2_000, 600_000, -600_000, 30_000, -30_000]))));
                }
            }
            Row::Q1 | Row::Q2 => {
                let agents = self.agents();
                let one = dice.pick(&agents);
                for _ in 0..dice.between(20, 120) {
                    let to = if row == Row::Q1 { one } else { dice.pick(&agents) };
                    let at = i64::try_from(2_000 + dice.below(3_000)).unwrap_or(0);
                    self.letters.push((at, Forgery::Honest, to));
                }
            }
            Row::K1 => {
                for _ in 0..dice.between(1, 2) {
                    let (gateway, at) = (self.a_gateway(dice), self.moment(dice));
                    self.faults.push((at, Fault::Rotate(gateway)));
                }
            }
            Row::G1 => {
                let horizon = self.horizon_ms;
                for gateway in &mut self.gateways {
                    for _ in 0..dice.below(4) {
                        gateway.lives.push(life(dice, horizon));
                    }
                }
            }
            Row::G4 => {
                for _ in 0..dice.between(1, 4) {
                    let (gateway, at) = (self.a_gateway(dice), self.moment(dice));
                    self.faults.push((at, Fault::Pause(gateway, dice.pick(&[1_000, 3_000, 5_000, 10_000, 60_000]))));
                }
            }
            Row::N1 => {
                for _ in 0..dice.between(1, 4) {
                    let (gateway, at) = (self.a_gateway(dice), self.moment(dice));
                    let ms = dice.pick(&[300, 1_000, 5_000, 30_000, 90_000]);
                    let fault = match dice.below(6) {
                        0 => Fault::CutCoord(gateway, ms),
                        1 => Fault::CutBus(gateway, ms),
                        2 => Fault::CutStore(gateway, ms.min(30_000)),
                        3 => Fault::Disk(gateway, disk(dice)),
                        4 => Fault::LoseMail,
                        _ => {
                            self.faults.push((at, Fault::CutBus(gateway, ms)));
                            Fault::CutCoord(gateway, ms)
                        }
                    };
                    self.faults.push((at, fault));
                }
            }
            Row::X1 => {}
        }
    }

    fn strange(&mut self, dice: &mut Dice, kinds: &[Forgery], most: u64) {
        let agents = self.agents();
        for _ in 0..dice.between(2, most) {
            let (kind, to, at) = (dice.pick(kinds), dice.pick(&agents), self.moment(dice).max(3_000));
            self.letters.push((at, kind, to));
        }
    }
}

fn disk(dice: &mut Dice) -> StoreFault {
    let count = usize::try_from(dice.between(1, 4)).unwrap_or(1);
    match dice.below(4) {
        0 => StoreFault::Full(count),
        1 => StoreFault::Away(count),
        2 => StoreFault::Busy(count),
        _ => StoreFault::LostAnswers(count),
    }
}

fn life(dice: &mut Dice, horizon: i64) -> LifePlan {
    let in_order = dice.often(250);
    LifePlan {
        length_ms: 200 + dice.below(u64::try_from(horizon).unwrap_or(1)),
        death: match dice.below(3) {
            _ if in_order => Death::Never,
            0 => Death::Never,
            1 => Death::Before(dice.between(5, 200)),
            _ => Death::After(dice.between(5, 200)),
        },
        crash: if dice.often(500) { Crash::LoseUnanswered } else { Crash::KeepUnanswered(usize::try_from(dice.between(1, 5)).unwrap_or(1)) },
        in_order,
        downtime_ms: i64::try_from(if dice.often(800) { dice.below(5_000) } else { dice.below(120_000) }).unwrap_or(0),
        sync_ms: if dice.often(500) { dice.below(30) } else { 0 },
        read_ms: if dice.often(150) { dice.below(10) } else { 0 },
    }
}
