//! Farms: several whole gateways in one thread, from one seed, with engines between them that lose, repeat, delay and
//! forget, and gateways that die, stand still and are cut off. First everything goes wrong that the row names, then the
//! world heals and full recovery is required.
//!
//! One runtime with paused time holds all gateways; each runs in a [`clawstead_world::Pen`], so that one of them can be
//! killed or held still while the others go on.

pub mod air;
mod breaking;
pub mod land;
pub mod ledger;
pub mod node;
pub mod people;
pub mod plan;
mod raising;
pub mod row;
pub mod stranger;

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use clawstead_state::MemoryStore;

use self::{
    land::Land,
    plan::{FarmPlan, Storage},
    row::Row,
};
use crate::{
    Report,
    actors::brain::CANARY,
    evidence::Evidence,
    invariants::{self, INVARIANTS, farm::End},
    outside::{self, Outside},
};

/// How long a healed farm may take until nothing is left to do, simulated.
const REST_LIMIT: Duration = Duration::from_secs(6 * 3600);
/// How often it is looked whether it is so.
const LOOK_EVERY: Duration = Duration::from_millis(700);
/// After letters came again, this long nothing may come of them.
const AGAIN_WAIT: Duration = Duration::from_secs(30);
/// Rows that nobody needs are removed within this time.
const PRUNED_WITHIN: Duration = Duration::from_secs(130);
/// Gateways stop within this time.
const STOP_LIMIT: Duration = Duration::from_secs(120);
/// Invariants of one gateway that say something else in a farm: letters to other gateways may be given up, with a reason.
const OF_ONE_GATEWAY: [&str; 2] = ["letters_between_agents", "cron_instants"];

/// What becomes of the log of the gateways.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Listen {
    /// It is looked through only.
    InSilence,
    /// It is printed to standard error too.
    Aloud,
}

/// Runs one farm.
#[must_use]
pub fn run(seed: u64, row: Row) -> Report {
    run_and(seed, row, Storage::Own, Listen::InSilence)
}

/// Runs one farm on one store or several.
#[must_use]
pub fn run_and(seed: u64, row: Row, storage: Storage, listen: Listen) -> Report {
    outside::note_panics();
    drop(outside::take_panics());
    let plan = FarmPlan { storage, ..FarmPlan::of(seed, row) };
    let outside = Outside::new(seed);
    let mut simulated_ms = 0;
    // No I/O driver: nothing here may talk to the system.
    match tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build() {
        Ok(runtime) => {
            let told = log::Watch::new(listen);
            tracing::subscriber::with_default(told.subscriber(), || {
                runtime.block_on(async {
                    match Land::new(plan, Arc::clone(&outside)).await {
                        Ok(land) => {
                            for key in land.secrets() {
                                told.forbid(key);
                            }
                            live(&land).await;
                        }
                        Err(why) => outside.violation(why),
                    }
                    simulated_ms = outside.end_life();
                });
                drop(runtime);
            });
            for line in told.found() {
                outside.violation(format!("I14: a body or a key stands in the log: {line}"));
            }
        }
        Err(err) => outside.violation(format!("no runtime: {err}")),
    }
    for panic in outside::take_panics() {
        outside.violation(format!("no_panic: {panic}"));
    }
    let mut seen = outside.seen();
    Report {
        seed,
        farm: Some((row, storage)),
        violations: std::mem::take(&mut seen.violations),
        log: std::mem::take(&mut seen.log),
        counts: std::mem::take(&mut seen.counts),
        simulated_ms,
    }
}

async fn live(land: &Arc<Land>) {
    land.outside.tell("farm", format!("{:?}", land.plan));
    land.wake_up();
    let open = Arc::new(AtomicUsize::new(land.plan.chats.len()));
    for chat in land.plan.chats.clone() {
        let (land, open) = (Arc::clone(land), Arc::clone(&open));
        tokio::spawn(async move {
            people::chat(&land, &chat).await;
            open.fetch_sub(1, Ordering::Relaxed);
        });
    }
    land.until(land.plan.horizon_ms).await;
    let until = tokio::time::Instant::now() + REST_LIMIT;
    while !land.is_calm() {
        if tokio::time::Instant::now() > until {
            return land.outside.violation("drains: the faults do not end");
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    land.heal();
    while open.load(Ordering::Relaxed) > 0 {
        if tokio::time::Instant::now() > until {
            return land.outside.violation(format!("drains: {} messages of people are not over", open.load(Ordering::Relaxed)));
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    if !owned(land, until).await || !quiet(land, until).await {
        return;
    }
    if land.plan.replay {
        replay(land).await;
        if !quiet(land, until).await {
            return;
        }
    }
    people::last_questions(land).await;
    if !quiet(land, until).await {
        return;
    }
    land.outside.tell("rest", "nothing is left to do");
    agree(land);
    secrets(land).await;
    if land.plan.again_after_ms > 0 {
        again(land).await;
        if !quiet(land, until).await {
            return;
        }
    }
    for node in &land.nodes {
        node.stop();
    }
    let until = tokio::time::Instant::now() + STOP_LIMIT;
    while land.nodes.iter().any(|node| node.up().is_some()) && tokio::time::Instant::now() < until {
        tokio::time::sleep(LOOK_EVERY).await;
    }
    check(land);
}

/// Waits until each agent has one gateway that acts for it; false when that takes too long.
async fn owned(land: &Arc<Land>, until: tokio::time::Instant) -> bool {
    loop {
        let owners = |agent: &str| land.nodes.iter().filter(|node| node.holds(agent)).count();
        let Some((agent, count)) = land.plan.agents().into_iter().map(|agent| (agent, owners(agent))).find(|(_, count)| *count != 1) else { return true };
        if tokio::time::Instant::now() > until {
            land.outside.violation(format!("I12: {count} gateways act for {agent}"));
            return false;
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Waits until nothing is left to do; false when that takes too long.
async fn quiet(land: &Arc<Land>, until: tokio::time::Instant) -> bool {
    loop {
        let mut left = None;
        for node in &land.nodes {
            left = match node.unfinished().await {
                Ok(None) => continue,
                Ok(Some(left)) => Some(left),
                Err(failure) => Some(failure.to_string()),
            };
            break;
        }
        let Some(left) = left else { return true };
        if tokio::time::Instant::now() > until {
            land.outside.violation(format!("drains: {left}"));
            return false;
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Sends every dead letter again, twice.
async fn replay(land: &Arc<Land>) {
    for node in &land.nodes {
        let held: Vec<&str> = land.plan.agents().into_iter().filter(|agent| node.holds(agent)).collect();
        let ids: Vec<String> = land
            .ledger
            .books()
            .dead
            .iter()
            .filter(|(_, dead)| dead.replayed_as.is_none() && held.contains(&dead.head.from.as_str()))
            .map(|(id, _)| id.clone())
            .collect();
        for id in ids {
            for time in ["first", "second"] {
                let wanted = id.clone();
                let answer = node
                    .call(|raised| async move {
                        match raised.building.farm.get() {
                            Some(farm) => farm.replay(&wanted).await.map_err(|failure| failure.message),
                            None => Err("no farm".into()),
                        }
                    })
                    .await;
                land.outside.tell("replay", format!("{id} for the {time} time: {answer:?}"));
                match (time, answer) {
                    ("first", Some(Err(why))) => land.outside.violation(format!("I13: the dead letter {id} cannot be sent again: {why}")),
                    ("second", Some(Ok(as_id))) => land.outside.violation(format!("I1: the dead letter {id} was sent again twice, as {as_id} too")),
                    _ => {}
                }
            }
        }
    }
}

/// Clocks go on, and what was on the bus comes again.
async fn again(land: &Arc<Land>) {
    for node in &land.nodes {
        node.skew_ms.fetch_add(land.plan.again_after_ms, Ordering::Relaxed);
    }
    tokio::time::sleep(PRUNED_WITHIN).await;
    let bus = land.memory.bus("stranger");
    let kept = land.air.kept();
    land.outside.tell("again", format!("{} letters", kept.len()));
    for (number, (to, letter)) in kept.into_iter().enumerate() {
        // The engine has forgotten them too.
        let attempt = 1_000_000 + u32::try_from(number).unwrap_or(0);
        if let Err(err) = bus.publish(&to, &clawstead_bus::Sealed { attempt, ..letter }).await {
            land.outside.log(format!("not carried again: {err}"));
        }
    }
    tokio::time::sleep(AGAIN_WAIT).await;
}

/// All gateways tell the same story of the farm.
fn agree(land: &Land) {
    let mut stories = Vec::new();
    for node in &land.nodes {
        let Some(raised) = node.up() else { return land.outside.violation(format!("I12: {} does not run", node.plan.name)) };
        let Some(farm) = raised.building.farm.get() else { return land.outside.violation(format!("I12: {} is in no farm", node.plan.name)) };
        for gateway in farm.membership.gateways().into_iter().filter(|gateway| !gateway.healthy) {
            land.outside.violation(format!("I12: {} calls {} {}", node.plan.name, gateway.name, gateway.health));
        }
        let agents: Vec<(String, Option<String>)> = farm.membership.agents().into_iter().map(|agent| (agent.id, agent.gateway)).collect();
        for (agent, at) in &agents {
            if *agent != stranger::AGENT && at.as_deref() != land.home(agent).map(|home| home.plan.name) {
                land.outside.violation(format!("I12: {} says that {agent} lives at {at:?}", node.plan.name));
            }
        }
        stories.push((node.plan.name, agents));
    }
    for pair in stories.windows(2) {
        if pair[0].1 != pair[1].1 {
            land.outside.violation(format!("I12: two maps of one farm: {pair:?}"));
        }
    }
}

/// No body stands in the coordination store.
async fn secrets(land: &Land) {
    match land.operator().list("openclaw/").await {
        Ok(entries) => {
            let forbidden = [vec![CANARY.to_owned()], land.secrets()].concat();
            let secret = |value: &str| forbidden.iter().any(|text| value.contains(text));
            for entry in entries.into_iter().filter(|entry| secret(&String::from_utf8_lossy(&entry.value))) {
                land.outside.violation(format!("I14: a body or a key stands in the coordination store at {}", entry.key));
            }
        }
        Err(err) => land.outside.violation(format!("I14: the coordination store cannot be read: {err}")),
    }
}

fn check(land: &Land) {
    let several = if land.plan.storage == Storage::Own { land.nodes.len() } else { 1 };
    let stores: Vec<MemoryStore> = land.nodes.iter().take(several).map(|node| MemoryStore::on(node.image())).collect();
    for store in &stores {
        if let Err(err) = land.ledger.read(store) {
            land.outside.violation(format!("a store cannot be read: {err}"));
        }
    }
    let evidence = match Evidence::read_all_of(&land.outside, &stores) {
        Ok(evidence) => evidence,
        Err(err) => return land.outside.violation(format!("a store cannot be read: {err}")),
    };
    for invariant in INVARIANTS.iter().filter(|invariant| !OF_ONE_GATEWAY.contains(&invariant.name)) {
        for fault in (invariant.check)(&evidence) {
            land.outside.violation(format!("{}: {fault}", invariant.name));
        }
    }
    let books = land.ledger.books().clone();
    let end = End { land, books: &books, evidence: &evidence };
    for invariant in invariants::farm::ALL {
        if let Some(check) = invariant.end {
            for fault in check(&end) {
                land.outside.violation(format!("{}: {fault}", invariant.name));
            }
        }
    }
}

mod log {
    //! Looks at every line of the log for what must not stand there.

    use std::{
        io::Write,
        sync::{Arc, Mutex, PoisonError},
    };

    use tracing_subscriber::fmt::MakeWriter;

    use super::Listen;
    use crate::actors::brain::CANARY;

    /// Lines that are kept.
    const KEPT_MAX: usize = 10;

    #[derive(Clone)]
    pub struct Watch {
        listen: Listen,
        forbidden: Arc<Mutex<Vec<String>>>,
        found: Arc<Mutex<Vec<String>>>,
    }

    impl Watch {
        pub fn new(listen: Listen) -> Self {
            Self { listen, forbidden: Arc::new(Mutex::new(vec![CANARY.to_owned()])), found: Arc::default() }
        }

        /// This must not stand there either.
        pub fn forbid(&self, text: String) {
            self.forbidden.lock().unwrap_or_else(PoisonError::into_inner).push(text);
        }

        pub fn subscriber(&self) -> impl tracing::Subscriber + Send + Sync + use<> {
            tracing_subscriber::fmt().with_writer(self.clone()).without_time().with_max_level(tracing::Level::DEBUG).with_ansi(false).finish()
        }

        pub fn found(&self) -> Vec<String> {
            self.found.lock().unwrap_or_else(PoisonError::into_inner).clone()
        }
    }

    impl Write for Watch {
        fn write(&mut self, line: &[u8]) -> std::io::Result<usize> {
            let text = String::from_utf8_lossy(line);
            if self.forbidden.lock().unwrap_or_else(PoisonError::into_inner).iter().any(|forbidden| text.contains(forbidden)) {
                let mut found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
                if found.len() < KEPT_MAX {
                    found.push(text.trim().to_owned());
                }
            }
            if self.listen == Listen::Aloud {
                std::io::stderr().write_all(line)?;
            }
            Ok(line.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    impl<'a> MakeWriter<'a> for Watch {
        type Writer = Self;

        fn make_writer(&'a self) -> Self {
            self.clone()
        }
    }
}
