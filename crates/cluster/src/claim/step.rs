use clawstead_bus::Version;
use clawstead_terms::{Fence, Unit};

use super::{AGAIN_MS, DRAIN_MAX_MS, Failover, Leases, Profile, RANK_DELAY_MS, Record, WINDOW_MS};

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// The record as the store has it now; none when there is none.
    Record(Option<(Record, Version)>),
    /// Our compare-and-swap was done.
    CasDone(Version),
    /// It was not: somebody else was first, or it is not known. The record comes again by the watch, or must be read.
    CasNotDone,
    /// The fence was raised in the state store.
    Raised,
    /// The same, and the epoch before was ours in an earlier life that acted already: that life is over, as the lock on
    /// the state folder proves, and whoever was before it has had its window.
    RaisedAgain,
    /// The state store has a higher fence already.
    RaiseRefused {
        /// Its epoch.
        epoch: u64,
    },
    /// The state store did not answer.
    RaiseFailed,
    /// Interrupted turns and uncertain effects are settled.
    Settled,
    /// A transaction of ours was refused: another epoch holds the fence.
    Fenced,
    /// The state store answers.
    StateUp,
    /// The state store does not answer.
    StateLost,
    /// It has not for L, and another gateway reaches it: whoever does may have the unit at once.
    StateGone,
    /// Everything of this unit stopped here: no effect is under way or can begin.
    Stopped,
    /// Turns ended, as `Drain` asked.
    Drained,
    /// The operator, or failback, wants another gateway to have it.
    MoveTo(String),
    /// The operator wants us to have it, whatever its failover says.
    Take,
    /// Time went on.
    Tick,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Write the record, if its version is this one (`None`: if there is none).
    Cas {
        /// The record.
        record: Record,
        /// The version it replaces.
        expect: Option<Version>,
    },
    /// Raise the fence in the state store, waiting for transactions of older owners.
    Raise(Fence),
    /// Settle interrupted turns and uncertain effects.
    Settle(Fence),
    /// Open channels, take mail, run turns.
    Start(Fence),
    /// Begin no new turn and let the running ones end; `Drained` when they did.
    Drain,
    /// Stop at once: no poll, no send, no receipt, no turn; `Stopped` when nothing is under way any more.
    Stop,
    /// Tell the operator.
    Alert(&'static str),
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Phase {
    /// Not ours, as far as we know.
    Away,
    /// The swap is on its way. With the record it would make.
    Swapping(Box<Record>),
    /// Ours by the record; the fence is being raised, again at this moment when it failed.
    Raising(Option<u64>),
    /// The fence is raised; waiting until the old owner's last effect has begun or never will.
    Window(u64),
    /// Settling.
    Settling,
    /// Acting.
    Running,
    /// Acting, no new turns; stops at this moment.
    Draining(u64, String),
    /// Stopping; then it is given to somebody (empty: to nobody in particular), or left (none).
    Stopping(Option<String>),
}

/// Ownership of one unit as one gateway sees it.
#[derive(Clone, Debug)]
pub struct Claim {
    unit: Unit,
    me: String,
    incarnation: u64,
    profile: Profile,
    started_ms: u64,
    prefer: Vec<String>,
    failover: Failover,
    record: Option<(Record, Version)>,
    /// True once the store said what the record is.
    read: bool,
    highest: u64,
    fence: u64,
    phase: Phase,
    take: bool,
    state_up: bool,
    state_lost_ms: u64,
    again_ms: u64,
    /// Since when the store shows an epoch older than one that was seen, and whether that was told.
    back_since_ms: Option<u64>,
    /// Since when the record names no owner.
    released_ms: Option<u64>,
}

impl Claim {
    /// A unit that `me` may own. `prefer` and `failover` are what a new record says.
    #[must_use]
    pub const fn new(unit: Unit, me: String, incarnation: u64, profile: Profile, prefer: Vec<String>, failover: Failover, mono_ms: u64) -> Self {
        Self {
            unit,
            me,
            incarnation,
            profile,
            started_ms: mono_ms,
            prefer,
            failover,
            record: None,
            read: false,
            highest: 0,
            fence: 0,
            phase: Phase::Away,
            take: false,
            state_up: true,
            state_lost_ms: 0,
            again_ms: 0,
            back_since_ms: None,
            released_ms: None,
        }
    }

    /// The fence we act under; none when we do not act.
    #[must_use]
    pub fn acting(&self) -> Option<Fence> {
        matches!(self.phase, Phase::Running | Phase::Draining(..)).then(|| self.our_fence())
    }

    /// The unit.
    #[must_use]
    pub const fn unit(&self) -> &Unit {
        &self.unit
    }

    /// The record as last read.
    #[must_use]
    pub fn record(&self) -> Option<&Record> {
        self.record.as_ref().map(|(record, _)| record)
    }

    /// One input, and what is to be done. Call it with `Tick` at least every [`RANK_DELAY_MS`].
    pub fn step(&mut self, input: Input, leases: &Leases, mono_ms: u64) -> Vec<Command> {
        let mut out = Vec::new();
        match input {
            Input::Record(record) => self.see(record, mono_ms, &mut out),
            Input::CasDone(version) => self.swapped(version, &mut out),
            Input::CasNotDone => {
                if let Phase::Swapping(_) = self.phase {
                    self.phase = Phase::Away;
                    self.again_ms = mono_ms + AGAIN_MS;
                }
            }
            Input::Raised | Input::RaisedAgain => {
                if let Phase::Raising(_) = self.phase {
                    let handed = self.record().is_some_and(|record| record.handed && record.epoch == self.fence);
                    let quiet = handed || input == Input::RaisedAgain;
                    self.phase = Phase::Window(if quiet { mono_ms } else { mono_ms + WINDOW_MS });
                }
            }
            Input::RaiseRefused { epoch } => self.refused(epoch, mono_ms, &mut out),
            Input::RaiseFailed => {
                if let Phase::Raising(_) = self.phase {
                    self.phase = Phase::Raising(Some(mono_ms + AGAIN_MS));
                }
            }
            Input::Settled => {
                if self.phase == Phase::Settling {
                    self.phase = Phase::Running;
                    out.push(Command::Start(self.our_fence()));
                }
            }
            Input::Fenced => {
                if self.is_inside() {
                    self.stop(None, &mut out);
                }
            }
            Input::StateUp => self.state_up = true,
            Input::StateLost => {
                if self.state_up {
                    (self.state_up, self.state_lost_ms) = (false, mono_ms);
                }
            }
            Input::StateGone => {
                if self.state_up {
                    (self.state_up, self.state_lost_ms) = (false, mono_ms);
                }
                if self.is_inside() {
                    self.stop(Some(String::new()), &mut out);
                }
            }
            Input::Stopped => self.stopped(leases, mono_ms, &mut out),
            Input::Drained => {
                if let Phase::Draining(_, to) = &self.phase {
                    let to = to.clone();
                    self.stop(Some(to), &mut out);
                }
            }
            Input::MoveTo(to) => {
                if self.phase == Phase::Running && to != self.me && leases.incarnation(&to).is_some() {
                    self.phase = Phase::Draining(mono_ms + DRAIN_MAX_MS, to);
                    out.push(Command::Drain);
                }
            }
            Input::Take => self.take = true,
            Input::Tick => {}
        }
        self.tick(leases, mono_ms, &mut out);
        out
    }

    fn see(&mut self, record: Option<(Record, Version)>, mono_ms: u64, out: &mut Vec<Command>) {
        self.read = true;
        let epoch = record.as_ref().map_or(0, |(record, _)| record.epoch);
        if epoch < self.highest {
            // A late answer, or the store forgot: nothing is claimed on this, nothing is stopped for it.
            (self.record, self.read) = (None, false);
            self.back_since_ms = self.back_since_ms.or(Some(mono_ms));
            return;
        }
        (self.highest, self.back_since_ms) = (epoch, None);
        self.record = record;
        let released = self.record().is_some_and(|record| record.owner.is_empty());
        self.released_ms = released.then(|| self.released_ms.unwrap_or(mono_ms));
        let Some((record, _)) = &self.record else { return };
        let ours = record.owner == self.me && record.incarnation == self.incarnation;
        if self.is_inside() && (!ours || record.epoch != self.fence) {
            return self.stop(None, out);
        }
        // Handed to us, or our swap was done although its answer got lost.
        if ours && matches!(self.phase, Phase::Away | Phase::Swapping(_)) {
            self.raise(record.epoch, out);
        }
    }

    fn swapped(&mut self, version: Version, out: &mut Vec<Command>) {
        let Phase::Swapping(record) = &self.phase else { return };
        let record = (**record).clone();
        self.phase = Phase::Away;
        // The watch may have been faster and show something newer already.
        if record.epoch < self.highest {
            return;
        }
        let (ours, epoch) = (record.owner == self.me, record.epoch);
        self.highest = epoch;
        self.record = Some((record, version));
        if ours {
            self.raise(epoch, out);
        }
    }

    fn raise(&mut self, epoch: u64, out: &mut Vec<Command>) {
        (self.fence, self.phase, self.take) = (epoch, Phase::Raising(None), false);
        out.push(Command::Raise(self.our_fence()));
    }

    fn refused(&mut self, epoch: u64, mono_ms: u64, out: &mut Vec<Command>) {
        if let Phase::Raising(_) = self.phase {
            // Either a newer claim, which the record will show, or the coordination store forgot epochs.
            (self.phase, self.again_ms) = (Phase::Away, mono_ms + self.profile.wait_ms);
            if epoch > self.highest {
                out.push(Command::Alert("the state store holds a higher epoch than the ownership record; repair it with `openclaw farm repair`"));
            }
        }
    }

    /// True from the record being ours until we stopped.
    const fn is_inside(&self) -> bool {
        matches!(self.phase, Phase::Raising(_) | Phase::Window(_) | Phase::Settling | Phase::Running | Phase::Draining(..))
    }

    fn stop(&mut self, then: Option<String>, out: &mut Vec<Command>) {
        self.phase = Phase::Stopping(then);
        out.push(Command::Stop);
    }

    fn stopped(&mut self, leases: &Leases, mono_ms: u64, out: &mut Vec<Command>) {
        let Phase::Stopping(then) = &self.phase else { return };
        let then = then.clone();
        self.phase = Phase::Away;
        self.again_ms = mono_ms + self.profile.wait_ms;
        let (Some(to), Some((record, version))) = (then, &self.record) else { return };
        if !leases.is_up() || record.owner != self.me || record.epoch != self.fence {
            return;
        }
        let incarnation = leases.incarnation(&to).unwrap_or(0);
        let next = Record { epoch: record.epoch + 1, owner: to, incarnation, handed: true, ..record.clone() };
        let expect = Some(*version);
        self.phase = Phase::Swapping(Box::new(next.clone()));
        out.push(Command::Cas { record: next, expect });
    }

    fn tick(&mut self, leases: &Leases, mono_ms: u64, out: &mut Vec<Command>) {
        let state_gone = !self.state_up && mono_ms.saturating_sub(self.state_lost_ms) >= self.profile.stop_ms;
        if self.is_inside() && state_gone {
            return self.stop(Some(String::new()), out);
        }
        if self.back_since_ms.is_some_and(|at| mono_ms.saturating_sub(at) >= self.profile.wait_ms) {
            self.back_since_ms = Some(u64::MAX);
            out.push(Command::Alert("the ownership record went back to an older epoch; repair it with `openclaw farm repair`"));
        }
        match &self.phase {
            Phase::Raising(Some(at)) if *at <= mono_ms => self.raise(self.fence, out),
            Phase::Window(until) if *until <= mono_ms => {
                self.phase = Phase::Settling;
                out.push(Command::Settle(self.our_fence()));
            }
            Phase::Draining(until, to) if *until <= mono_ms => {
                let to = to.clone();
                self.stop(Some(to), out);
            }
            Phase::Away if self.may_claim(leases, mono_ms) => self.claim(out),
            _ => {}
        }
    }

    fn may_claim(&self, leases: &Leases, mono_ms: u64) -> bool {
        if !self.read || !self.state_up || !leases.is_up() || mono_ms < self.again_ms {
            return false;
        }
        let prefer = self.record().map_or(&self.prefer, |record| &record.prefer);
        let rank = prefer.iter().position(|name| *name == self.me).unwrap_or(prefer.len());
        let delay = RANK_DELAY_MS * rank as u64;
        let up_ms = mono_ms.saturating_sub(self.started_ms);
        let Some(record) = self.record() else {
            let waited = leases.silent_ms("", mono_ms).unwrap_or(0).min(up_ms) >= self.profile.wait_ms + delay;
            return rank == 0 || self.take || (self.failover != Failover::None && waited);
        };
        if record.owner == self.me && record.incarnation <= self.incarnation {
            // Our own of an earlier life: the lock on the state folder proves that it is over. Of this life: the raise was
            // refused or we stopped, and nobody else took it. A later life than ours is somebody else with our name.
            return true;
        }
        let allowed = self.take || record.failover == Failover::Auto;
        if record.owner.is_empty() {
            // Released: nobody is waited for, but those before us in order go first.
            return allowed && self.released_ms.is_some_and(|at| mono_ms.saturating_sub(at) >= delay);
        }
        let quiet_ms = leases.silent_ms(&record.owner, mono_ms).unwrap_or(0).min(up_ms);
        allowed && quiet_ms.saturating_sub(delay) >= self.profile.wait_ms
    }

    fn claim(&mut self, out: &mut Vec<Command>) {
        let (epoch, expect) = self.record.as_ref().map_or((0, None), |(record, version)| (record.epoch, Some(*version)));
        let (prefer, failover) = self.record().map_or((self.prefer.clone(), self.failover), |record| (record.prefer.clone(), record.failover));
        let record = Record { epoch: epoch + 1, owner: self.me.clone(), incarnation: self.incarnation, prefer, failover, since: String::new(), handed: false };
        self.phase = Phase::Swapping(Box::new(record.clone()));
        out.push(Command::Cas { record, expect });
    }

    fn our_fence(&self) -> Fence {
        Fence { epoch: self.fence, owner: self.me.clone(), incarnation: self.incarnation }
    }
}
