use clawstead_bus::Version;
use clawstead_terms::{AgentId, Fence, Unit};
use clawstead_world::{Rng, SeededRng};

use super::*;
use crate::directory::MemberRecord;

fn unit() -> Unit {
    Unit::Agent(AgentId::normalise("bobby"))
}

fn lease(incarnation: u64, beat: u64) -> MemberRecord {
    MemberRecord { incarnation, nonce: String::new(), load: 0, version: String::new(), peer: None, beat, state_lost: false }
}

fn names() -> Vec<String> {
    ["g1", "g2", "g3"].map(String::from).to_vec()
}

fn owned(owner: &str, epoch: u64, failover: Failover) -> Record {
    Record { epoch, owner: owner.into(), incarnation: 1, prefer: names(), failover, since: String::new(), handed: false }
}

fn claim(me: &str, incarnation: u64) -> Claim {
    Claim::new(unit(), me.into(), incarnation, Profile::LAN, names(), Failover::Auto, 0)
}

fn up() -> Leases {
    let mut leases = Leases::default();
    leases.back(0);
    leases.seen("g1", Some(&lease(1, 1)), 0);
    leases
}

/// A claim from the first sight of a silent owner to the first turn.
#[test]
fn a_silent_owner_is_followed_step_by_step() {
    let (mut it, leases) = (claim("g2", 5), up());
    let record = owned("g1", 7, Failover::Auto);
    assert_eq!(it.step(Input::Record(Some((record.clone(), Version(3)))), &leases, 100), []);
    assert_eq!(it.step(Input::Tick, &leases, 6_249), []);
    let next = Record { epoch: 8, owner: "g2".into(), incarnation: 5, ..record };
    assert_eq!(it.step(Input::Tick, &leases, 6_250), [Command::Cas { record: next, expect: Some(Version(3)) }]);
    let fence = Fence { epoch: 8, owner: "g2".into(), incarnation: 5 };
    assert_eq!(it.step(Input::CasDone(Version(4)), &leases, 6_260), [Command::Raise(fence.clone())]);
    assert_eq!(it.step(Input::RaiseFailed, &leases, 6_300), []);
    assert_eq!(it.step(Input::Tick, &leases, 7_300), [Command::Raise(fence.clone())]);
    assert_eq!(it.step(Input::Raised, &leases, 7_400), []);
    assert_eq!(it.step(Input::Tick, &leases, 9_399), []);
    assert_eq!(it.acting(), None);
    assert_eq!(it.step(Input::Tick, &leases, 9_400), [Command::Settle(fence.clone())]);
    assert_eq!(it.step(Input::Settled, &leases, 9_500), [Command::Start(fence.clone())]);
    assert_eq!(it.acting(), Some(fence));
    // The store of leases may go; the fence of the state store may not.
    let mut gone = leases;
    gone.lost();
    assert_eq!(it.step(Input::Tick, &gone, 900_000), []);
    assert_eq!(it.step(Input::Fenced, &gone, 900_001), [Command::Stop]);
    assert_eq!(it.acting(), None);
}

#[test]
fn who_may_not_claim_does_not() {
    let leases = up();
    let quiet = |mut it: Claim, record: Record, leases: &Leases| {
        it.step(Input::Record(Some((record, Version(1)))), leases, 0);
        it.step(Input::Tick, leases, 3_600_000).is_empty()
    };
    assert!(!quiet(claim("g2", 1), owned("g1", 7, Failover::Auto), &leases));
    assert!(quiet(claim("g2", 1), owned("g1", 7, Failover::None), &leases), "pinned");
    assert!(quiet(claim("g2", 1), owned("g1", 7, Failover::Manual), &leases), "manual");
    assert!(quiet(claim("g1", 1), Record { incarnation: 9, ..owned("g1", 7, Failover::None) }, &leases), "a later life of our name");
    let mut alive = leases.clone();
    alive.seen("g1", Some(&lease(1, 2)), 3_599_000);
    assert!(quiet(claim("g2", 1), owned("g1", 7, Failover::Auto), &alive), "alive");
    let mut lost = leases.clone();
    lost.lost();
    assert!(quiet(claim("g2", 1), owned("g1", 7, Failover::Auto), &lost), "no store");
    lost.back(3_599_000);
    assert!(quiet(claim("g2", 1), owned("g1", 7, Failover::Auto), &lost), "the store came back just now");
    let young = Claim::new(unit(), "g2".into(), 1, Profile::LAN, names(), Failover::Auto, 3_599_000);
    assert!(quiet(young, owned("g1", 7, Failover::Auto), &leases), "we started just now");
    let mut unread = claim("g1", 1);
    assert_eq!(unread.step(Input::Tick, &leases, 3_600_000), [], "the record was not read");
    // The operator may say so; a pinned unit never owned is created by its home only; a restart claims at once.
    let mut manual = claim("g2", 1);
    manual.step(Input::Record(Some((owned("g1", 7, Failover::Manual), Version(1)))), &leases, 0);
    assert_eq!(manual.step(Input::Take, &leases, 3_600_000).len(), 1);
    let pinned = |me: &str| Claim::new(unit(), me.into(), 1, Profile::LAN, names(), Failover::None, 0).step(Input::Record(None), &leases, 3_600_000).len();
    assert_eq!((pinned("g1"), pinned("g2")), (1, 0));
    assert_eq!(claim("g1", 2).step(Input::Record(Some((owned("g1", 7, Failover::None), Version(1)))), &leases, 0).len(), 1);
}

#[test]
fn a_graceful_move_needs_no_window() {
    let mut leases = up();
    leases.seen("g2", Some(&lease(4, 1)), 0);
    let mut old = running("g1", &leases);
    assert_eq!(old.step(Input::MoveTo("nobody".into()), &leases, 50), []);
    assert_eq!(old.step(Input::MoveTo("g2".into()), &leases, 50), [Command::Drain]);
    assert_eq!(old.step(Input::Drained, &leases, 60), [Command::Stop]);
    let [Command::Cas { record, expect: Some(Version(1)) }] = &old.step(Input::Stopped, &leases, 70)[..] else { panic!("no swap") };
    assert_eq!((record.epoch, record.owner.as_str(), record.incarnation, record.handed), (2, "g2", 4, true));
    let mut new = claim("g2", 4);
    assert!(matches!(new.step(Input::Record(Some((record.clone(), Version(2)))), &leases, 80)[..], [Command::Raise(_)]));
    assert!(matches!(new.step(Input::Raised, &leases, 90)[..], [Command::Settle(_)]));
    // Turns that do not end in time are stopped.
    let mut slow = running("g1", &leases);
    slow.step(Input::MoveTo("g2".into()), &leases, 50);
    assert_eq!(slow.step(Input::Tick, &leases, 30_049), []);
    assert_eq!(slow.step(Input::Tick, &leases, 30_050), [Command::Stop]);
}

fn running(me: &str, leases: &Leases) -> Claim {
    let mut it = claim(me, 1);
    it.step(Input::Record(None), leases, 0);
    it.step(Input::CasDone(Version(1)), leases, 1);
    it.step(Input::Raised, leases, 2);
    it.step(Input::Tick, leases, 2_002);
    it.step(Input::Settled, leases, 2_003);
    assert!(it.acting().is_some());
    it
}

#[test]
fn a_store_that_forgot_stops_nobody_and_is_claimed_by_nobody() {
    let leases = up();
    let mut it = running("g1", &leases);
    assert_eq!(it.step(Input::Record(None), &leases, 3_000), []);
    assert!(matches!(it.step(Input::Tick, &leases, 9_000)[..], [Command::Alert(_)]));
    assert_eq!(it.step(Input::Tick, &leases, 99_000), []);
    assert!(it.acting().is_some());
    let mut other = claim("g2", 1);
    other.step(Input::Record(Some((owned("g1", 7, Failover::Auto), Version(9)))), &leases, 0);
    other.step(Input::Record(Some((owned("g1", 3, Failover::Auto), Version(2)))), &leases, 1);
    assert!(!other.step(Input::Tick, &leases, 99_000).iter().any(|command| matches!(command, Command::Cas { .. })));
    // A state store with a higher fence lets nobody start below it.
    let mut low = claim("g1", 1);
    low.step(Input::Record(None), &leases, 0);
    low.step(Input::CasDone(Version(1)), &leases, 1);
    assert!(matches!(low.step(Input::RaiseRefused { epoch: 9 }, &leases, 2)[..], [Command::Alert(_)]));
    assert_eq!(low.acting(), None);
}

#[test]
fn an_owner_without_a_state_store_stops_and_releases() {
    let leases = up();
    let mut it = running("g1", &leases);
    assert_eq!(it.step(Input::StateLost, &leases, 10_000), []);
    assert_eq!(it.step(Input::Tick, &leases, 13_999), []);
    assert_eq!(it.step(Input::Tick, &leases, 14_000), [Command::Stop]);
    let [Command::Cas { record, .. }] = &it.step(Input::Stopped, &leases, 14_010)[..] else { panic!("no release") };
    assert_eq!((record.owner.as_str(), record.epoch), ("", 2));
    // By rank, from when the release was seen: the second waits a moment for the first.
    let mut other = claim("g2", 1);
    assert_eq!(other.step(Input::Record(Some((record.clone(), Version(2)))), &leases, 14_020), []);
    assert_eq!(other.step(Input::Tick, &leases, 14_020 + RANK_DELAY_MS - 1), []);
    assert_eq!(other.step(Input::Tick, &leases, 14_020 + RANK_DELAY_MS).len(), 1);
}

#[test]
fn preference_moves_only_what_must_move() {
    let all: Vec<String> = (0..8).map(|n| format!("gw-{n}")).collect();
    let first = |gone: &str, n: usize| {
        let unit = Unit::Agent(AgentId::normalise(&format!("agent{n}")));
        preference(&unit, &[], all.iter().map(String::as_str).filter(|name| *name != gone)).remove(0)
    };
    let mut per_gateway = std::collections::BTreeMap::<String, u32>::new();
    for n in 0..400 {
        let before = first("", n);
        let after = first("gw-3", n);
        assert!(before == after || before == "gw-3");
        *per_gateway.entry(before).or_default() += 1;
    }
    assert!(per_gateway.len() == 8 && per_gateway.values().all(|count| (20..90).contains(count)), "{per_gateway:?}");
    assert_eq!(preference(&unit(), &["home".into(), "gw-1".into()], ["gw-1", "home"]), ["home", "gw-1"]);
    assert!(fails_back(600_000, 60_000) && !fails_back(599_999, 60_000) && !fails_back(600_000, 59_999));
}

// The model: three gateways, a coordination store, a state store, a provider that sees effects.

struct Gateway {
    name: String,
    claim: Claim,
    leases: Leases,
    incarnation: u64,
    beat: u64,
    /// Thousandths by which its clock runs fast or slow.
    rate: u64,
    paused_until: u64,
    coord: bool,
    state: bool,
    alive: bool,
    effect: Option<(u64, u64, u64)>,
    inputs: Vec<Input>,
}

struct Model {
    rng: SeededRng,
    now: u64,
    record: Option<(Record, Version)>,
    members: std::collections::BTreeMap<String, MemberRecord>,
    coord_up: bool,
    fence: u64,
    gateways: Vec<Gateway>,
    last_effect: (u64, String),
    effects: u64,
    owners: std::collections::BTreeSet<u64>,
}

const STEP_MS: u64 = 50;
const FAULTS_END: u64 = 120_000;

impl Model {
    fn new(seed: u64) -> Self {
        let rng = SeededRng::new(seed);
        let gateways = names()
            .into_iter()
            .map(|name| Gateway {
                claim: claim(&name, 1),
                name,
                leases: Leases::default(),
                incarnation: 1,
                beat: 0,
                rate: 990 + rng.below(21),
                paused_until: 0,
                coord: true,
                state: true,
                alive: true,
                effect: None,
                inputs: Vec::new(),
            })
            .collect();
        Self {
            rng,
            now: 0,
            record: None,
            members: std::collections::BTreeMap::new(),
            coord_up: true,
            fence: 0,
            gateways,
            last_effect: (0, String::new()),
            effects: 0,
            owners: std::collections::BTreeSet::new(),
        }
    }

    fn one_in(&self, n: u64) -> bool {
        self.rng.below(n) == 0
    }

    fn faults(&mut self) {
        if self.now > FAULTS_END {
            self.coord_up = true;
            for at in 0..self.gateways.len() {
                (self.gateways[at].coord, self.gateways[at].state) = (true, true);
                if !self.gateways[at].alive {
                    self.restart(at);
                }
            }
            return;
        }
        if self.one_in(400) {
            self.coord_up = !self.coord_up;
        }
        for at in 0..self.gateways.len() {
            if self.one_in(150) {
                self.gateways[at].coord = !self.gateways[at].coord;
            }
            if self.one_in(250) {
                self.gateways[at].state = !self.gateways[at].state;
            }
            if self.one_in(300) {
                self.gateways[at].paused_until = self.now + [500, 3_000, 9_000, 20_000][usize::try_from(self.rng.below(4)).unwrap()];
            }
            if self.one_in(500) {
                self.gateways[at].alive = false;
            } else if !self.gateways[at].alive && self.one_in(60) {
                self.restart(at);
            }
            if self.one_in(300) {
                let to = names().remove(usize::try_from(self.rng.below(3)).unwrap());
                self.gateways[at].inputs.push(Input::MoveTo(to));
            }
        }
    }

    fn restart(&mut self, at: usize) {
        let mono = self.mono(at);
        let gateway = &mut self.gateways[at];
        gateway.incarnation += 1;
        gateway.claim = Claim::new(unit(), gateway.name.clone(), gateway.incarnation, Profile::LAN, names(), Failover::Auto, mono);
        (gateway.leases, gateway.alive, gateway.effect, gateway.paused_until) = (Leases::default(), true, None, 0);
        gateway.inputs.clear();
    }

    fn mono(&self, at: usize) -> u64 {
        7_777 * at as u64 + self.now * self.gateways[at].rate / 1000
    }

    fn run(&mut self) {
        while self.now < FAULTS_END + 90_000 {
            self.now += STEP_MS;
            self.faults();
            for at in 0..self.gateways.len() {
                if self.gateways[at].alive && self.gateways[at].paused_until <= self.now {
                    self.turn(at);
                }
            }
        }
    }

    fn turn(&mut self, at: usize) {
        let mono = self.mono(at);
        // A gateway that wakes up goes on with what it was doing: the effect comes before anything else.
        if let Some((epoch, committed, due)) = self.gateways[at].effect
            && due <= mono
        {
            self.gateways[at].effect = None;
            if mono - committed <= WINDOW_MS / 2 {
                assert!(epoch >= self.last_effect.0, "{} acts in epoch {epoch} after {:?}", self.gateways[at].name, self.last_effect);
                self.last_effect = (epoch, self.gateways[at].name.clone());
                self.effects += 1;
                self.owners.insert(epoch);
            }
        }
        let reached = self.coord_up && self.gateways[at].coord;
        let gateway = &mut self.gateways[at];
        if reached {
            gateway.leases.back(mono);
            gateway.beat += 1;
            self.members.insert(gateway.name.clone(), lease(gateway.incarnation, gateway.beat / 20));
            for (name, member) in &self.members {
                gateway.leases.seen(name, Some(member), mono);
            }
            if self.rng.below(10) < 7 {
                gateway.inputs.push(Input::Record(self.record.clone()));
            }
        } else {
            gateway.leases.lost();
        }
        gateway.inputs.push(if gateway.state { Input::StateUp } else { Input::StateLost });
        gateway.inputs.push(Input::Tick);
        for input in std::mem::take(&mut self.gateways[at].inputs) {
            let gateway = &mut self.gateways[at];
            let commands = gateway.claim.step(input, &gateway.leases, mono);
            for command in commands {
                self.carry_out(at, command);
            }
        }
        self.work(at, mono);
    }

    fn carry_out(&mut self, at: usize, command: Command) {
        let (coord, state) = (self.coord_up && self.gateways[at].coord, self.gateways[at].state);
        let lossy = self.now < FAULTS_END && self.one_in(10);
        let reply = match command {
            Command::Cas { record, expect } => {
                let done = coord && self.record.as_ref().map(|(_, version)| *version) == expect;
                let version = Version(expect.map_or(1, |version| version.0 + 1));
                if done {
                    let before = self.record.as_ref().map_or(0, |(record, _)| record.epoch);
                    assert_eq!(record.epoch, before + 1);
                    self.record = Some((record, version));
                }
                if done && !lossy { Input::CasDone(version) } else { Input::CasNotDone }
            }
            Command::Raise(_) if !state => Input::RaiseFailed,
            Command::Raise(fence) if fence.epoch < self.fence => Input::RaiseRefused { epoch: self.fence },
            Command::Raise(fence) => {
                self.fence = fence.epoch;
                if lossy { Input::RaiseFailed } else { Input::Raised }
            }
            Command::Settle(_) => Input::Settled,
            Command::Drain => Input::Drained,
            Command::Stop => {
                self.gateways[at].effect = None;
                Input::Stopped
            }
            Command::Start(_) | Command::Alert(_) => return,
        };
        self.gateways[at].inputs.push(reply);
    }

    /// Writes an intent under the fence; the effect follows after a while, if it still may.
    fn work(&mut self, at: usize, mono: u64) {
        let Some(fence) = self.gateways[at].claim.acting() else { return };
        if self.gateways[at].effect.is_some() || !self.gateways[at].state {
            return;
        }
        if self.fence == fence.epoch {
            self.gateways[at].effect = Some((fence.epoch, mono, mono + self.rng.below(1_500)));
        } else {
            self.gateways[at].inputs.push(Input::Fenced);
        }
    }
}

/// Pauses, partitions from either store, crashes, restarts, moves, lost answers, clocks 1 % apart: no two gateways ever act
/// for one unit, and when all is well again exactly one does.
#[test]
fn no_two_gateways_ever_act_for_one_unit() {
    let (mut effects, mut owners) = (0, 0);
    for seed in 0..200 {
        let mut model = Model::new(seed);
        let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| model.run()));
        assert!(done.is_ok(), "seed {seed}");
        let acting: Vec<_> = model.gateways.iter().filter_map(|gateway| gateway.claim.acting()).collect();
        assert_eq!(acting.len(), 1, "seed {seed}: {acting:?}");
        let record = &model.record.as_ref().unwrap().0;
        assert_eq!((&record.owner, record.epoch), (&acting[0].owner, acting[0].epoch), "seed {seed}");
        effects += model.effects;
        owners += model.owners.len();
    }
    // It was not peace: many owners acted one after the other.
    assert!(effects > 10_000 && owners > 2 * 200, "{effects} effects, {owners} owners");
}
