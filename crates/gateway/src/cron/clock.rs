//! Which job starts when: plain decisions. The driver in `service.rs` carries them out.

use std::collections::{BTreeMap, VecDeque};

use clawstead_terms::Millis;

use super::{
    job::{Job, RunEntry, SlotEnd},
    schedule,
};

/// Most instants of one job that are written down one by one after a long absence; older ones become one row.
pub const MISSED_ROWS_MAX: usize = 200;

/// How the clock is set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Off: no job starts by itself; instants count as missed.
    pub enabled: bool,
    /// Jobs that may run at once; heartbeats do not count.
    pub concurrent_max: usize,
    /// True: instants missed while nobody was there are not made up for.
    pub skip_missed: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self { enabled: true, concurrent_max: 1, skip_missed: false }
    }
}

/// What happened.
#[derive(Clone, Debug)]
pub enum Event {
    /// The store was read: all jobs, and the instants that were started and have no end yet.
    Loaded {
        /// All jobs.
        jobs: Vec<Job>,
        /// Job, instant, run id.
        open: Vec<(String, Millis, String)>,
    },
    /// Time went by.
    Tick,
    /// A job is new or changed. Its `state.next_run_at_ms` is computed here.
    Put(Box<Job>),
    /// A job is gone.
    Removed(String),
    /// These jobs are another gateway's now; their rows stay.
    LetGo(Vec<String>),
    /// Somebody asks for a run now.
    RunNow {
        /// The job.
        job_id: String,
        /// The run id to use.
        run_id: String,
    },
    /// A run ended.
    Ended {
        /// The job.
        job_id: String,
        /// Its instant.
        slot: Millis,
        /// What came of it.
        entry: Box<RunEntry>,
    },
    /// The config changed.
    Settings(Settings),
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq)]
pub enum Command {
    /// Take the instant (unique row), save the job, deliver its letter.
    Start {
        /// The job as it is now.
        job: Box<Job>,
        /// The instant; for manual runs the moment they were asked for.
        slot: Millis,
        /// The run id.
        run_id: String,
    },
    /// The run was started before a restart: deliver the same letter again and wait for its end.
    Resume {
        /// The job.
        job: Box<Job>,
        /// The instant.
        slot: Millis,
        /// The run id.
        run_id: String,
    },
    /// Write down an instant that did not run.
    Record {
        /// The job.
        job_id: String,
        /// The instant.
        slot: Millis,
        /// How it ended.
        end: SlotEnd,
    },
    /// Write the job.
    Save(Box<Job>),
    /// Remove the job.
    Delete(String),
    /// Call `Tick` at this moment (replaces earlier wishes).
    WakeAt(Option<Millis>),
}

#[derive(Clone, Debug, Default)]
struct Entry {
    running: Option<Millis>,
    waiting: Option<Millis>,
}

/// The cron clock of one gateway.
#[derive(Clone, Debug, Default)]
pub struct Clock {
    settings: Settings,
    jobs: BTreeMap<String, (Job, Entry)>,
    queue: VecDeque<(String, Millis, String)>,
}

impl Clock {
    /// All jobs by id.
    pub fn jobs(&self) -> impl Iterator<Item = &Job> {
        self.jobs.values().map(|(job, _)| job)
    }

    /// One job.
    #[must_use]
    pub fn job(&self, id: &str) -> Option<&Job> {
        self.jobs.get(id).map(|(job, _)| job)
    }

    /// True while a run of the job is going or waits for a place.
    #[must_use]
    pub fn is_busy(&self, id: &str) -> bool {
        self.jobs.get(id).is_some_and(|(_, entry)| entry.running.is_some() || entry.waiting.is_some())
    }

    /// Sets it, without a look at what is due.
    pub(super) const fn set(&mut self, settings: Settings) {
        self.settings = settings;
    }

    /// How it is set.
    #[must_use]
    pub const fn settings(&self) -> Settings {
        self.settings
    }

    /// The earliest instant of all jobs.
    #[must_use]
    pub fn next_wake(&self) -> Option<Millis> {
        if !self.settings.enabled {
            return None;
        }
        self.jobs.values().filter(|(job, _)| job.enabled).filter_map(|(job, _)| job.state.next_run_at_ms).min().map(Millis)
    }

    /// Decides.
    pub fn step(&mut self, event: Event, now: Millis) -> Vec<Command> {
        let mut out = Vec::new();
        match event {
            Event::Loaded { jobs, open } => self.load(jobs, open, now, &mut out),
            Event::Tick => self.due(now, "the gateway was asleep or too busy", &mut out),
            Event::Put(job) => self.put(*job, now, &mut out),
            Event::Removed(id) => {
                self.jobs.remove(&id);
                self.queue.retain(|(job, ..)| *job != id);
                out.push(Command::Delete(id));
            }
            Event::LetGo(ids) => {
                self.jobs.retain(|id, _| !ids.contains(id));
                self.queue.retain(|(job, ..)| !ids.contains(job));
            }
            Event::RunNow { job_id, run_id } => self.run_now(&job_id, run_id, now),
            Event::Ended { job_id, slot, entry } => self.ended(&job_id, slot, &entry, now, &mut out),
            Event::Settings(settings) => {
                let was_off = !self.settings.enabled;
                self.settings = settings;
                if was_off && settings.enabled {
                    self.due(now, "cron was disabled", &mut out);
                }
            }
        }
        self.start_waiting(now, &mut out);
        self.keep_waiting(&mut out);
        out.push(Command::WakeAt(self.next_wake()));
        out
    }

    /// An instant that waits for a free place, or starts with the next write, is nowhere but in memory: what is saved
    /// of its job says that it is still to come, so that the next start of the gateway finds it.
    fn keep_waiting(&self, out: &mut [Command]) {
        let starts = out.iter().filter_map(|command| match command {
            Command::Start { job, slot, run_id } => Some((job.id.clone(), *slot, run_id.clone())),
            _ => None,
        });
        let to_come: Vec<(String, Millis, String)> =
            self.queue.iter().cloned().chain(starts).filter(|(job, slot, run_id)| *run_id == run_of(job, *slot)).collect();
        for command in out {
            let Command::Save(saved) = command else { continue };
            if let Some((_, slot, _)) = to_come.iter().find(|(job, ..)| *job == saved.id && saved.enabled) {
                saved.state.next_run_at_ms = Some(slot.0);
            }
        }
    }

    fn load(&mut self, jobs: Vec<Job>, open: Vec<(String, Millis, String)>, now: Millis, out: &mut Vec<Command>) {
        for mut job in jobs {
            job.state.running_at_ms = None;
            if job.enabled && job.state.next_run_at_ms.is_none() {
                plan_next(&mut job, now);
            }
            self.jobs.insert(job.id.clone(), (job, Entry::default()));
        }
        for (job_id, slot, run_id) in open {
            if let Some((job, entry)) = self.jobs.get_mut(&job_id) {
                entry.running = Some(slot);
                job.state.running_at_ms = Some(now.0);
                // The instant was taken: the job must not take it again.
                if job.enabled && job.state.next_run_at_ms.is_some_and(|next| next <= slot.0) {
                    plan_next(job, slot);
                }
                out.push(Command::Resume { job: Box::new(job.clone()), slot, run_id });
            }
        }
        self.due(now, "the gateway was not running", out);
    }

    fn put(&mut self, mut job: Job, now: Millis, out: &mut Vec<Command>) {
        if job.enabled {
            let keep = self.jobs.get(&job.id).is_some_and(|(old, _)| old.enabled && old.schedule == job.schedule);
            if !keep || job.state.next_run_at_ms.is_none() {
                plan_next(&mut job, now);
            }
        } else {
            job.state.next_run_at_ms = None;
        }
        out.push(Command::Save(Box::new(job.clone())));
        match self.jobs.get_mut(&job.id) {
            Some((old, _)) => *old = job,
            None => {
                self.jobs.insert(job.id.clone(), (job, Entry::default()));
            }
        }
    }

    fn run_now(&mut self, job_id: &str, run_id: String, now: Millis) {
        if let Some((_, entry)) = self.jobs.get_mut(job_id)
            && entry.waiting.is_none()
        {
            entry.waiting = Some(now);
            self.queue.push_back((job_id.into(), now, run_id));
        }
    }

    /// Handles every job whose instant has come; `why` is the reason for instants that nobody started.
    fn due(&mut self, now: Millis, why: &str, out: &mut Vec<Command>) {
        if !self.settings.enabled {
            return;
        }
        let grace = 60_000; // Later than this an instant counts as missed and is made up for at most once.
        for (job, entry) in self.jobs.values_mut() {
            let mut missed = 0;
            while let Some(slot) = job.state.next_run_at_ms.map(Millis).filter(|slot| job.enabled && *slot <= now) {
                plan_next(job, slot);
                let next_is_due = job.state.next_run_at_ms.is_some_and(|next| next <= now.0);
                let late = now.since(slot) > grace;
                let end = if next_is_due || (late && self.settings.skip_missed) {
                    Some(SlotEnd::Missed { reason: why.into() })
                } else if entry.running.is_some() {
                    Some(SlotEnd::Skipped { reason: "the run before was still going".into() })
                } else if entry.waiting.is_some() {
                    Some(SlotEnd::Skipped { reason: "the run before still waited for a free place".into() })
                } else {
                    None
                };
                match end {
                    Some(end) => {
                        missed += 1;
                        out.push(Command::Record { job_id: job.id.clone(), slot, end });
                        if missed >= MISSED_ROWS_MAX && next_is_due {
                            let from = job.state.next_run_at_ms.unwrap_or(slot.0);
                            plan_next(job, now.plus(-1));
                            let until = job.state.next_run_at_ms.unwrap_or(now.0);
                            let reason = format!("{why}; all further instants before {until} are counted in this row");
                            out.push(Command::Record { job_id: job.id.clone(), slot: Millis(from), end: SlotEnd::Missed { reason } });
                        }
                    }
                    None => {
                        entry.waiting = Some(slot);
                        self.queue.push_back((job.id.clone(), slot, run_of(&job.id, slot)));
                    }
                }
            }
            if missed > 0 {
                out.push(Command::Save(Box::new(job.clone())));
            }
        }
    }

    fn start_waiting(&mut self, now: Millis, out: &mut Vec<Command>) {
        let mut going = self.jobs.values().filter(|(job, entry)| entry.running.is_some() && !job.is_heartbeat()).count();
        let mut stay = VecDeque::new();
        while let Some((job_id, slot, run_id)) = self.queue.pop_front() {
            let Some((job, entry)) = self.jobs.get_mut(&job_id) else { continue };
            if entry.running.is_some() || (!job.is_heartbeat() && going >= self.settings.concurrent_max.max(1)) {
                stay.push_back((job_id, slot, run_id));
                continue;
            }
            if !job.is_heartbeat() {
                going += 1;
            }
            entry.waiting = None;
            entry.running = Some(slot);
            job.state.running_at_ms = Some(now.0);
            out.push(Command::Start { job: Box::new(job.clone()), slot, run_id });
        }
        self.queue = stay;
    }

    fn ended(&mut self, job_id: &str, slot: Millis, entry: &RunEntry, now: Millis, out: &mut Vec<Command>) {
        let Some((job, slots)) = self.jobs.get_mut(job_id) else { return };
        if slots.running != Some(slot) {
            return;
        }
        slots.running = None;
        let state = &mut job.state;
        state.last_run_at_ms = state.running_at_ms.take().or(Some(now.0));
        state.last_run_status = Some(entry.status.clone());
        state.last_status = Some(entry.status.clone());
        state.last_duration_ms = Some(entry.duration_ms);
        state.last_error = entry.error.clone();
        state.last_delivery_status = Some(entry.delivery_status.clone());
        match entry.status.as_str() {
            "ok" => (state.consecutive_errors, state.consecutive_skipped) = (Some(0), None),
            "skipped" => state.consecutive_skipped = Some(state.consecutive_skipped.unwrap_or(0) + 1),
            _ => state.consecutive_errors = Some(state.consecutive_errors.unwrap_or(0) + 1),
        }
        let over = job.delete_after_run == Some(true) && entry.status == "ok" && job.state.next_run_at_ms.is_none();
        if over {
            self.jobs.remove(job_id);
            out.push(Command::Delete(job_id.into()));
        } else {
            out.push(Command::Save(Box::new(job.clone())));
        }
    }
}

/// The run of a scheduled instant: the same at every try.
fn run_of(job_id: &str, slot: Millis) -> String {
    format!("cron:{job_id}:{}", slot.0)
}

/// Sets the next instant after `from`. A schedule that cannot be computed switches the job off after three tries.
fn plan_next(job: &mut Job, from: Millis) {
    match schedule::next_after(&job.schedule, from, &job.id) {
        Ok(next) => job.state.next_run_at_ms = next.map(|m| m.0),
        Err(why) => {
            job.state.next_run_at_ms = None;
            job.state.last_error = Some(why);
            let count = job.state.schedule_error_count.unwrap_or(0) + 1;
            job.state.schedule_error_count = Some(count);
            if count >= 3 {
                job.enabled = false;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Clock, Command, Event, Settings};
    use crate::cron::job::{Job, JobState, Payload, RunEntry, Schedule, SlotEnd};
    use clawstead_terms::Millis;

    fn job(id: &str, every_ms: i64) -> Job {
        Job {
            id: id.into(),
            declaration_key: None,
            display_name: None,
            agent_id: None,
            session_key: None,
            name: id.into(),
            description: None,
            enabled: true,
            delete_after_run: None,
            created_at_ms: 0,
            updated_at_ms: 0,
            schedule: Schedule::Every { every_ms, anchor_ms: Some(0) },
            session_target: "isolated".into(),
            wake_mode: "now".into(),
            payload: Payload::SystemEvent { text: "x".into() },
            delivery: None,
            failure_alert: None,
            state: JobState::default(),
            scheduled_tool_policy: None,
        }
    }

    fn entry(job_id: &str, status: &str) -> Box<RunEntry> {
        Box::new(RunEntry {
            ts: 0,
            job_id: job_id.into(),
            action: "finished".into(),
            status: status.into(),
            completion_status: "succeeded".into(),
            run_id: "r".into(),
            error: None,
            summary: None,
            run_at_ms: 0,
            duration_ms: 1,
            next_run_at_ms: None,
            model: None,
            provider: None,
            usage: None,
            delivered: None,
            delivery_status: "not-requested".into(),
            delivery_error: None,
            session_id: None,
            session_key: None,
            job_name: job_id.into(),
            end: SlotEnd::Ran { ok: true, error: None },
        })
    }

    fn brief(commands: &[Command]) -> Vec<String> {
        commands
            .iter()
            .filter_map(|c| match c {
                Command::Start { job, slot, .. } => Some(format!("start {} {}", job.id, slot.0)),
                Command::Resume { job, slot, .. } => Some(format!("resume {} {}", job.id, slot.0)),
                Command::Record { job_id, slot, end } => Some(format!(
                    "{} {job_id} {}",
                    match end {
                        SlotEnd::Missed { .. } => "missed",
                        SlotEnd::Skipped { .. } => "skipped",
                        _ => "other",
                    },
                    slot.0
                )),
                Command::Delete(id) => Some(format!("delete {id}")),
                Command::Save(_) | Command::WakeAt(_) => None,
            })
            .collect()
    }

    #[test]
    fn every_instant_starts_once_or_says_why_not() {
        let mut clock = Clock::default();
        clock.step(Event::Put(Box::new(job("a", 1_000))), Millis(0));
        assert_eq!(brief(&clock.step(Event::Tick, Millis(1_000))), ["start a 1000"]);
        assert_eq!(brief(&clock.step(Event::Tick, Millis(1_500))), [""; 0]);
        assert_eq!(brief(&clock.step(Event::Tick, Millis(2_000))), ["skipped a 2000"]);
        clock.step(Event::Ended { job_id: "a".into(), slot: Millis(1_000), entry: entry("a", "ok") }, Millis(2_500));
        assert_eq!(brief(&clock.step(Event::Tick, Millis(5_000))), ["missed a 3000", "missed a 4000", "start a 5000"]);
    }

    #[test]
    fn the_number_of_runs_at_once_is_kept_and_heartbeats_do_not_count() {
        let mut clock = Clock::default();
        let mut beat = job("h", 1_000);
        beat.payload = Payload::Heartbeat {};
        for job in [job("a", 1_000), job("b", 1_000), beat] {
            clock.step(Event::Put(Box::new(job)), Millis(0));
        }
        assert_eq!(brief(&clock.step(Event::Tick, Millis(1_000))), ["start a 1000", "start h 1000"]);
        let next = clock.step(Event::Ended { job_id: "a".into(), slot: Millis(1_000), entry: entry("a", "ok") }, Millis(1_100));
        assert_eq!(brief(&next), ["start b 1000"]);
    }

    #[test]
    fn after_an_absence_one_run_makes_up_and_open_runs_go_on() {
        let mut saved = job("a", 600_000);
        saved.state.next_run_at_ms = Some(600_000);
        let mut open = job("b", 600_000);
        open.state.next_run_at_ms = Some(600_000);
        let loaded = Event::Loaded { jobs: vec![saved.clone(), open], open: vec![("b".into(), Millis(600_000), "cron:b:600000".into())] };
        let mut clock = Clock::default();
        let said = brief(&clock.step(loaded, Millis(1_900_000)));
        assert_eq!(said, ["resume b 600000", "missed a 600000", "missed a 1200000", "missed b 1200000", "skipped b 1800000"], "a waits for its place");
        let mut strict = Clock::default();
        strict.step(Event::Settings(Settings { skip_missed: true, ..Settings::default() }), Millis(0));
        let said = brief(&strict.step(Event::Loaded { jobs: vec![saved], open: vec![] }, Millis(1_900_000)));
        assert_eq!(said, ["missed a 600000", "missed a 1200000", "missed a 1800000"]);
    }

    #[test]
    fn a_very_long_absence_stays_bounded() {
        let mut saved = job("a", 1_000);
        saved.state.next_run_at_ms = Some(1_000);
        let mut clock = Clock::default();
        let said = clock.step(Event::Loaded { jobs: vec![saved], open: vec![] }, Millis(1_000_000_000));
        assert!(said.len() < 220, "{}", said.len());
        assert!(brief(&said).iter().any(|line| line.starts_with("start a")));
    }

    #[test]
    fn one_shots_are_removed_after_they_went_well() {
        let mut once = job("a", 1_000);
        once.schedule = Schedule::At { at: "1970-01-01T00:00:05Z".into() };
        once.delete_after_run = Some(true);
        let mut clock = Clock::default();
        clock.step(Event::Put(Box::new(once)), Millis(0));
        assert_eq!(brief(&clock.step(Event::Tick, Millis(5_000))), ["start a 5000"]);
        let end = clock.step(Event::Ended { job_id: "a".into(), slot: Millis(5_000), entry: entry("a", "ok") }, Millis(6_000));
        assert_eq!(brief(&end), ["delete a"]);
    }

    #[test]
    fn a_disabled_clock_starts_nothing_and_manual_runs_still_work() {
        let mut clock = Clock::default();
        clock.step(Event::Settings(Settings { enabled: false, ..Settings::default() }), Millis(0));
        clock.step(Event::Put(Box::new(job("a", 1_000))), Millis(0));
        assert!(brief(&clock.step(Event::Tick, Millis(3_000))).is_empty());
        assert_eq!(brief(&clock.step(Event::RunNow { job_id: "a".into(), run_id: "manual".into() }, Millis(3_000))), ["start a 3000"]);
    }

    #[test]
    fn an_instant_that_has_not_been_taken_is_saved_as_still_to_come() {
        let mut clock = Clock::default();
        for id in ["a", "b"] {
            clock.step(Event::Put(Box::new(job(id, 10_000))), Millis(1));
        }
        // Both have missed instants, one place is free: `a` starts with its last one, `b` waits with it.
        let commands = clock.step(Event::Tick, Millis(35_000));
        let saved: Vec<(String, Option<i64>)> =
            commands.iter().filter_map(|c| if let Command::Save(job) = c { Some((job.id.clone(), job.state.next_run_at_ms)) } else { None }).collect();
        assert_eq!(saved, [("a".to_owned(), Some(30_000)), ("b".to_owned(), Some(30_000))]);
        // A gateway that starts on those rows takes it up.
        let mut b = job("b", 10_000);
        b.state.next_run_at_ms = Some(30_000);
        let mut later = Clock::default();
        assert_eq!(brief(&later.step(Event::Loaded { jobs: vec![b], open: vec![] }, Millis(36_000))), ["start b 30000"]);
    }
}
