//! What happens in a farm, made from its seed and its row before anything runs.

use clawstead_bus::faulty::MailFaults;

use super::row::Row;
use crate::{
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

    pub(super) fn moment(&self, dice: &mut Dice) -> i64 {
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
            let at_ms = if burst.is_some() || self.row == Row::Q2 { i64::try_from(2_000 + dice.below(2_000)).unwrap_or(0) } else { self.moment(dice) };
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

    pub(super) fn a_gateway(&self, dice: &mut Dice) -> &'static str {
        let names: Vec<&'static str> = self.gateways.iter().map(|gateway| gateway.name).collect();
        dice.pick(&names)
    }
}
